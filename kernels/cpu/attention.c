/* attention.c - attention on the CPU. Contract: tessera/op_attention.h.
 *
 * One head of one image at a time: its keys and values are packed as right operands of small products (product.h) that
 * stay in the second-level cache, then blocks of queries pass over them, each with whole rows of scores in scratch.
 * A row's arithmetic depends on nothing but the row: products are chains in ascending key order, sums have a fixed
 * order (simd.h), and a key at or behind end[t] is never multiplied.
 */
#include "tessera/op_attention.h"

#include <omp.h>

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/bf16.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/stream.h"
#include "kernels/cpu/tile.h"

enum {
    QUERIES = 48,  /* most queries in a block: its scores of 680 keys take 130 KB                            */
    SHORTEST = 12, /* a block is cut where a segment ends, but not below this: short products waste registers */
    SPLIT = 24     /* queries of a task where the queries of one head are shared out                         */
};

/* What one thread works in. */
typedef struct {
    ts_panels kt, v; /* keys transposed (c, keys), values (keys, c)      */
    float *q;        /* (QUERIES, c) queries times all their factors     */
    float *s;        /* (QUERIES, keys) scores, then exponentials        */
    float *o;        /* (QUERIES, c) products that belong to queries     */
    float *rows;     /* (VF, c) keys on their way into kt                */
    float *value;    /* (c) a value on its way into v                    */
    /* backward only */
    ts_panels k, vt;   /* keys (keys, c), values transposed (c, keys)       */
    ts_panels qp, dop; /* queries and gradients of outputs, (QUERIES, c)    */
    float *ds;         /* (QUERIES, keys) gradients of scores               */
    float *dk, *dv;    /* (keys, c) sums over the queries                   */
    float *k_inv;      /* (keys) 1/norm of each key                         */
    int64_t c_pad, keys_pad;
} workspace;

static workspace carve(arena *at, int64_t c, int64_t keys, int backward)
{
    workspace w = { .c_pad = ts_round_up(c, VF), .keys_pad = ts_round_up(keys, VF) };
    w.kt = (ts_panels){ take(at, ts_panels_size(c, keys)), c };
    w.v = (ts_panels){ take(at, ts_panels_size(keys, c)), keys };
    w.q = take(at, QUERIES * c);
    w.s = take(at, QUERIES * w.keys_pad);
    w.o = take(at, QUERIES * w.c_pad);
    w.rows = take(at, VF * c);
    w.value = take(at, c);
    if (!backward) return w;
    w.k = (ts_panels){ take(at, ts_panels_size(keys, c)), keys };
    w.vt = (ts_panels){ take(at, ts_panels_size(c, keys)), c };
    w.qp = (ts_panels){ take(at, ts_panels_size(QUERIES, c)), QUERIES };
    w.dop = (ts_panels){ take(at, ts_panels_size(QUERIES, c)), QUERIES };
    w.ds = take(at, QUERIES * w.keys_pad);
    w.dk = take(at, keys * w.c_pad);
    w.dv = take(at, keys * w.c_pad);
    w.k_inv = take(at, keys);
    return w;
}

static int64_t workspace_size(int64_t c, int64_t keys, int backward)
{
    arena at = { 0 };
    carve(&at, c, keys, backward);
    return at.used;
}

size_t attention_scratch_cpu(ts_stream *s, const ts_attention *a, int backward)
{
    const int64_t keys = a->pos + a->T > a->T_max ? a->pos + a->T : a->T_max;
    const int64_t partials = backward ? ts_round_up(a->B * a->H, 16) : 0;
    const size_t size = (size_t)(workspace_size(a->c, keys, backward) * s->threads + partials) * sizeof(float) + 64;
    const size_t tiles = !backward && attention_tile_fits(a) ? attention_tile_scratch(s, a, keys) : 0;
    return size > tiles ? size : tiles;
}

static void scale_row(float *y, const float *x, float factor, int64_t c)
{
#pragma omp simd
    for (int64_t i = 0; i < c; i++) y[i] = factor * x[i];
}

static void widen_row(float *y, const uint16_t *x, int64_t c)
{
#pragma omp simd
    for (int64_t i = 0; i < c; i++) y[i] = bf16_widen(x[i]);
}

static void narrow_row(uint16_t *y, const float *x, int64_t c)
{
#pragma omp simd
    for (int64_t i = 0; i < c; i++) y[i] = bf16_narrow(x[i]);
}

static void round_row(float *y, const float *x, int64_t c)
{
#pragma omp simd
    for (int64_t i = 0; i < c; i++) y[i] = bf16_round(x[i]);
}

static void load_queries(const job *j, workspace *w, int64_t b, int64_t h, int64_t t0, int64_t t1)
{
    const int64_t c = j->a->c;
    const float factor = head_factor(j, h);
    for (int64_t t = t0; t < t1; t++) {
        const float *q = query(j, b, h, t);
        scale_row(w->q + (t - t0) * c, q, j->scale_mul ? factor * inverse_norm(q, c) : factor, c);
    }
}

/* The key at `at` as it is multiplied; returns what it was multiplied by. */
static float load_key(const job *j, float *row, int64_t at)
{
    const int64_t c = j->a->c;
    if (j->narrow) {
        widen_row(row, (const uint16_t *)j->k + at, c);
        return 1;
    }
    const float *k = (const float *)j->k + at;
    const float inv = j->normalise ? inverse_norm(k, c) : 1;
    scale_row(row, k, inv, c);
    if (j->a->dtype == TS_BF16) round_row(row, row, c);
    return inv;
}

static const float *load_value(const job *j, float *room, int64_t at)
{
    const float *v = (const float *)j->v + at;
    if (j->narrow) widen_row(room, (const uint16_t *)j->v + at, j->a->c);
    else if (j->a->dtype == TS_BF16) round_row(room, v, j->a->c);
    else return v;
    return room;
}

/* Packs keys and values n0..n0+VF-1 of one head. */
static void pack_keys(const job *j, workspace *w, int64_t b, int64_t h, int64_t n0, int backward)
{
    const int64_t c = j->a->c, n1 = ts_at_most(n0 + VF, j->keys), head = b * j->kv_image + h * c;
    const float *k_rows[VF], *v_rows[VF];
    for (int64_t n = n0; n < n1; n++) {
        float *row = w->rows + (n - n0) * c;
        const float inv = load_key(j, row, head + n * j->kv_token);
        const float *v = load_value(j, w->value, head + n * j->kv_token);
        ts_pack_row(w->v, n, v, c);
        k_rows[n - n0] = row;
        v_rows[n - n0] = v;
        if (!backward) continue;
        w->k_inv[n] = inv;
        ts_pack_row(w->k, n, row, c);
    }
    for (int64_t n = n1; n < n0 + VF; n++) { /* the columns behind the last key are computed and not used */
        k_rows[n - n0] = k_rows[0];
        v_rows[n - n0] = v_rows[0];
    }
    ts_pack_columns(w->kt, n0, k_rows);
    if (backward) ts_pack_columns(w->vt, n0, v_rows);
}

/* Where the block of queries that starts at t0 stops. Its last query sees the most keys: end never decreases. */
static int64_t block_end(const job *j, int64_t t0, int64_t t1)
{
    int64_t t = t0 + 1;
    for (; t < t1 && t - t0 < QUERIES; t++)
        if (end_of(j, t) != end_of(j, t - 1) && t - t0 >= SHORTEST) break;
    return t;
}

/* Replaces n scores by their exponentials over the largest; returns the sum and the largest. */
static float exponentials(float *s, int64_t n, float *largest)
{
    const int64_t whole = n / VF * VF, padded = ts_round_up(n, VF);
    if (whole < n) vf_store(s + whole, vf_load_some(s + whole, n - whole, -INFINITY));

    vf top = vf_load(s);
    for (int64_t i = VF; i < padded; i += VF) top = vf_max(vf_load(s + i), top);
    const float most = vf_top(top);
#pragma omp simd
    for (int64_t i = 0; i < padded; i++) s[i] = ts_expf(s[i] - most);

    vf sum = { 0 };
    for (int64_t i = 0; i < padded; i += VF) sum += vf_load(s + i);
    *largest = most;
    return vf_sum(sum);
}

/* o = exponentials times values. Rows run together over the keys that all of them see, then each alone. */
static void sum_values(const job *j, workspace *w, int64_t t0, int64_t t1)
{
    const int64_t c = j->a->c;
    for (int64_t t = t0; t < t1; t += TILE_ROWS) {
        const int64_t rows = ts_at_most(TILE_ROWS, t1 - t), common = end_of(j, t);
        const ts_left p = { w->s + (t - t0) * w->keys_pad, w->keys_pad, 1 };
        float *o = w->o + (t - t0) * w->c_pad;
        ts_product(o, w->c_pad, p, w->v, rows, c, 0, common, 0);
        for (int64_t i = 0; i < rows; i++) {
            const ts_left row = { p.p + i * p.row, p.row, 1 };
            ts_product(o + i * w->c_pad, w->c_pad, row, w->v, 1, c, common, end_of(j, t + i), 1);
        }
    }
}

/* factor times o, which is changed, is the output at `at`. */
static void put(const job *j, float *o, float factor, int64_t at)
{
    const int64_t c = j->a->c;
    if (j->a->dtype == TS_BF16) {
        scale_row(o, o, factor, c);
        narrow_row((uint16_t *)j->out + at, o, c);
    } else {
        scale_row((float *)j->out + at, o, factor, c);
    }
}

/* Outputs of queries t0..t1-1 of one head, whose keys and values are packed. */
static void attend(const job *j, workspace *w, int64_t b, int64_t h, int64_t t0, int64_t t1)
{
    const ts_attention *a = j->a;
    const int64_t c = a->c;
    int64_t stop;
    for (; t0 < t1; t0 = stop) {
        stop = block_end(j, t0, t1);
        const int64_t most = end_of(j, stop - 1);
        load_queries(j, w, b, h, t0, stop);
        ts_product(w->s, w->keys_pad, (ts_left){ w->q, c, 1 }, w->kt, stop - t0, most, 0, c, 0);
        float inverse[QUERIES];
        for (int64_t t = t0; t < stop; t++) {
            float largest;
            const float sum = exponentials(w->s + (t - t0) * w->keys_pad, end_of(j, t), &largest);
            inverse[t - t0] = 1 / sum;
            if (j->lse) j->lse[(b * a->H + h) * a->T + t] = largest + ts_logf(sum);
        }
        sum_values(j, w, t0, stop);
        for (int64_t t = t0; t < stop; t++) put(j, w->o + (t - t0) * w->c_pad, inverse[t - t0], ((b * a->T + t) * a->H + h) * c);
    }
}

/* With many heads a task is a head. With few, all threads share the packing of a head and then its queries. */
static void forward_heads(ts_stream *s, const job *j, void *scratch)
{
    const ts_attention *a = j->a;
    const int64_t heads = a->B * a->H;
    float *base = ts_next_line(scratch);
    const int64_t size = workspace_size(a->c, j->keys, 0);

#pragma omp parallel num_threads(s->threads)
    {
        workspace w = carve(&(arena){ base + omp_get_thread_num() * size, 0 }, a->c, j->keys, 0);
        if (heads >= 4 * s->threads) {
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < heads; i++) {
                for (int64_t n = 0; n < j->keys; n += VF) pack_keys(j, &w, i / a->H, i % a->H, n, 0);
                attend(j, &w, i / a->H, i % a->H, 0, a->T);
            }
        } else {
            const workspace shared = carve(&(arena){ base, 0 }, a->c, j->keys, 0);
            w.kt = shared.kt;
            w.v = shared.v;
            for (int64_t i = 0; i < heads; i++) {
#pragma omp for
                for (int64_t n = 0; n < j->keys; n += VF) pack_keys(j, &w, i / a->H, i % a->H, n, 0);
#pragma omp for schedule(dynamic)
                for (int64_t t = 0; t < a->T; t += SPLIT) attend(j, &w, i / a->H, i % a->H, t, ts_at_most(t + SPLIT, a->T));
            }
        }
    }
}

static void forward(ts_stream *s, const job *j, void *scratch, int tiles)
{
    if (tiles) attention_tile_forward(s, j, scratch);
    else forward_heads(s, j, scratch);
}

static ts_status masked(ts_stream *s, void *out, float *lse, const float *qkv, const float *scale_mul, const int32_t *end,
                        const ts_attention *a, void *scratch, int tiles)
{
    const int64_t C = a->H * a->c;
    const job j = { .a = a,
                    .qkv = qkv,
                    .scale_mul = scale_mul,
                    .end = end,
                    .k = qkv + C,
                    .v = qkv + 2 * C,
                    .kv_image = a->T * 3 * C,
                    .kv_token = 3 * C,
                    .keys = a->T,
                    .normalise = scale_mul != NULL,
                    .out = out,
                    .lse = lse };
    forward(s, &j, scratch, tiles);
    return TS_OK;
}

ts_status attention_fwd_cpu(ts_stream *s, void *out, float *lse, const float *qkv, const float *scale_mul,
                            const int32_t *end, const ts_attention *a, void *scratch)
{
    return masked(s, out, lse, qkv, scale_mul, end, a, scratch, lse == NULL && attention_tile_fits(a) && tile_unit());
}

ts_status attention_fwd_tile(ts_stream *s, void *out, float *lse, const float *qkv, const float *scale_mul,
                             const int32_t *end, const ts_attention *a, void *scratch)
{
    return masked(s, out, lse, qkv, scale_mul, end, a, scratch, 1);
}

/* Copies the keys and values of a new token of image b behind those in the cache. */
static void append(float *cache_k, float *cache_v, const float *qkv, int normalise, const ts_attention *a, int64_t b,
                   int64_t t)
{
    const int64_t c = a->c, C = a->H * c;
    const float *from = qkv + (b * a->T + t) * 3 * C;
    float *k = cache_k + (b * a->T_max + a->pos + t) * C, *v = cache_v + (b * a->T_max + a->pos + t) * C;
    memcpy(v, from + 2 * C, (size_t)C * sizeof *v);
    for (int64_t h = 0; h < a->H; h++) {
        const float *x = from + C + h * c;
        scale_row(k + h * c, x, normalise ? inverse_norm(x, c) : 1, c);
    }
}

/* The same into a cache of bfloat16. */
static void append_narrow(uint16_t *cache_k, uint16_t *cache_v, const float *qkv, int normalise, const ts_attention *a, int64_t b,
                          int64_t t)
{
    const int64_t c = a->c, C = a->H * c;
    const float *from = qkv + (b * a->T + t) * 3 * C;
    uint16_t *k = cache_k + (b * a->T_max + a->pos + t) * C, *v = cache_v + (b * a->T_max + a->pos + t) * C;
    narrow_row(v, from + 2 * C, C);
    for (int64_t h = 0; h < a->H; h++) {
        const float *x = from + C + h * c, inv = normalise ? inverse_norm(x, c) : 1;
#pragma omp simd
        for (int64_t i = 0; i < c; i++) k[h * c + i] = bf16_narrow(inv * x[i]);
    }
}

static ts_status cached(ts_stream *s, void *out, void *cache_k, void *cache_v, const float *qkv, const float *scale_mul,
                        const ts_attention *a, void *scratch, int tiles)
{
    const int64_t C = a->H * a->c;
    if (a->pos < 0 || a->pos + a->T > a->T_max)
        return ts_fail(TS_E_INTERNAL, "attention: %lld new tokens behind %lld, the cache has room for %lld",
                       (long long)a->T, (long long)a->pos, (long long)a->T_max);

#pragma omp parallel for num_threads(s->threads)
    for (int64_t i = 0; i < a->B * a->T; i++) {
        if (a->dtype == TS_BF16) append_narrow(cache_k, cache_v, qkv, scale_mul != NULL, a, i / a->T, i % a->T);
        else append(cache_k, cache_v, qkv, scale_mul != NULL, a, i / a->T, i % a->T);
    }

    const job j = { .a = a,
                    .qkv = qkv,
                    .scale_mul = scale_mul,
                    .k = cache_k,
                    .v = cache_v,
                    .narrow = a->dtype == TS_BF16,
                    .kv_image = a->T_max * C,
                    .kv_token = C,
                    .keys = a->pos + a->T,
                    .out = out };
    forward(s, &j, scratch, tiles);
    return TS_OK;
}

ts_status attention_cached_cpu(ts_stream *s, void *out, void *cache_k, void *cache_v, const float *qkv,
                               const float *scale_mul, const ts_attention *a, void *scratch)
{
    return cached(s, out, cache_k, cache_v, qkv, scale_mul, a, scratch, attention_tile_fits(a) && tile_unit());
}

ts_status attention_cached_tile(ts_stream *s, void *out, void *cache_k, void *cache_v, const float *qkv,
                                const float *scale_mul, const ts_attention *a, void *scratch)
{
    return cached(s, out, cache_k, cache_v, qkv, scale_mul, a, scratch, 1);
}

/* Probabilities (into s) and gradients (into ds, from dp) of the scores of one query, which sees n keys of its block's
 * most. The loop runs in whole vectors over what ts_product wrote, then what is not seen becomes 0.
 *     p = exp(s - lse),  ds = p (dp - delta),  delta = dout.out */
static void score_gradients(float *s, float *ds, float lse, float delta, int64_t n, int64_t most)
{
    const int64_t padded = ts_round_up(n, VF);
#pragma omp simd
    for (int64_t i = 0; i < padded; i++) {
        const float p = ts_expf(s[i] - lse);
        s[i] = p;
        ds[i] = p * (ds[i] - delta);
    }
    for (int64_t i = n; i < most; i++) s[i] = ds[i] = 0;
}

/* dx = the gradient of x, where g is that of x*inv and inv = 1/max(|x|, smallest): a constant below the smallest. */
static void through_norm(float *dx, const float *x, const float *g, float inv, int64_t c)
{
    const float along = inv < 1 / SMALLEST_NORM ? inv * inv * vf_dot(x, g, c) : 0;
#pragma omp simd
    for (int64_t i = 0; i < c; i++) dx[i] = inv * fmaf(-along, x[i], g[i]);
}

/* One block of queries: sets their gradients, adds to those of keys and values, returns its part of
 * sum_t q[t].dq[t], which is the gradient of scale_mul. */
static float backward_block(const job *j, workspace *w, int64_t b, int64_t h, int64_t t0, int64_t t1)
{
    const ts_attention *a = j->a;
    const int64_t c = a->c, C = a->H * c, rows = t1 - t0, most = end_of(j, t1 - 1);
    const float *dout = j->dout + (b * a->T + t0) * C + h * c, *out = j->fwd_out + (b * a->T + t0) * C + h * c;
    const float *lse = j->fwd_lse + (b * a->H + h) * a->T;
    load_queries(j, w, b, h, t0, t1);
    ts_product(w->s, w->keys_pad, (ts_left){ w->q, c, 1 }, w->kt, rows, most, 0, c, 0);
    ts_product(w->ds, w->keys_pad, (ts_left){ dout, C, 1 }, w->vt, rows, most, 0, c, 0);
    for (int64_t t = t0; t < t1; t++) {
        const int64_t i = t - t0;
        score_gradients(w->s + i * w->keys_pad, w->ds + i * w->keys_pad, lse[t], vf_dot(dout + i * C, out + i * C, c),
                        end_of(j, t), most);
        ts_pack_row(w->qp, i, w->q + i * c, c);
        ts_pack_row(w->dop, i, dout + i * C, c);
    }

    ts_product(w->dv, w->c_pad, (ts_left){ w->s, 1, w->keys_pad }, w->dop, most, c, 0, rows, 1);
    ts_product(w->dk, w->c_pad, (ts_left){ w->ds, 1, w->keys_pad }, w->qp, most, c, 0, rows, 1);
    ts_product(w->o, w->c_pad, (ts_left){ w->ds, w->keys_pad, 1 }, w->k, rows, c, 0, most, 0);
    const float factor = head_factor(j, h);
    float dmul = 0;
    for (int64_t t = t0; t < t1; t++) {
        const float *q = query(j, b, h, t);
        float *g = w->o + (t - t0) * w->c_pad, *dq = j->dqkv + (q - j->qkv);
        dmul += vf_dot(w->q + (t - t0) * c, g, c);
        scale_row(g, g, factor, c);
        if (j->scale_mul)
            through_norm(dq, q, g, inverse_norm(q, c), c);
        else
            memcpy(dq, g, (size_t)c * sizeof *dq);
    }
    return dmul;
}

/* One head of one image; returns its gradient of scale_mul. */
static float backward_head(const job *j, workspace *w, int64_t b, int64_t h)
{
    const ts_attention *a = j->a;
    const int64_t c = a->c, C = a->H * c;
    for (int64_t n = 0; n < a->T; n += VF) pack_keys(j, w, b, h, n, 1);
    memset(w->dk, 0, (size_t)(a->T * w->c_pad) * sizeof *w->dk);
    memset(w->dv, 0, (size_t)(a->T * w->c_pad) * sizeof *w->dv);

    float dmul = 0;
    int64_t stop;
    for (int64_t t = 0; t < a->T; t = stop) {
        stop = block_end(j, t, a->T);
        dmul += backward_block(j, w, b, h, t, stop);
    }

    for (int64_t t = 0; t < a->T; t++) {
        const float *k = query(j, b, h, t) + C, *g = w->dk + t * w->c_pad;
        float *dk = j->dqkv + (k - j->qkv);
        if (j->scale_mul)
            through_norm(dk, k, g, w->k_inv[t], c);
        else
            memcpy(dk, g, (size_t)c * sizeof *dk);
        memcpy(dk + C, w->dv + t * w->c_pad, (size_t)c * sizeof *dk);
    }
    return dmul;
}

ts_status attention_bwd_cpu(ts_stream *s, float *dqkv, float *dscale_mul, const float *dout, const float *out,
                            const float *lse, const float *qkv, const float *scale_mul, const int32_t *end,
                            const ts_attention *a, void *scratch)
{
    const int64_t C = a->H * a->c, heads = a->B * a->H;
    const job j = { .a = a,
                    .qkv = qkv,
                    .scale_mul = scale_mul,
                    .end = end,
                    .k = qkv + C,
                    .v = qkv + 2 * C,
                    .kv_image = a->T * 3 * C,
                    .kv_token = 3 * C,
                    .keys = a->T,
                    .normalise = scale_mul != NULL,
                    .dout = dout,
                    .fwd_out = out,
                    .fwd_lse = lse,
                    .dqkv = dqkv };
    float *part = ts_next_line(scratch), *base = part + ts_round_up(heads, 16);
    const int64_t size = workspace_size(a->c, a->T, 1);

#pragma omp parallel num_threads(s->threads)
    {
        workspace w = carve(&(arena){ base + omp_get_thread_num() * size, 0 }, a->c, a->T, 1);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < heads; i++) part[i] = backward_head(&j, &w, i / a->H, i % a->H);
    }

    for (int64_t h = 0; scale_mul && h < a->H; h++) {
        double sum = 0;
        for (int64_t b = 0; b < a->B; b++) sum += part[b * a->H + h];
        if (scale_mul[h] <= LARGEST_SCALE_MUL) dscale_mul[h] += (float)sum;
    }
    return TS_OK;
}
