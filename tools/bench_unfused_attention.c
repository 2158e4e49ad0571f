/* bench_unfused_attention.c - what attention is compared with: as bench_unfused.c. Scores and weights are written, softmax is a pass of
 * its own, and products are a call for each head, of a library where there is one. Contract: bench_kernels.h.
 *
 * Queries, keys, values, the cache and gradients of the output lie head by head here, (B,H,T,c), and so do the results: what it costs to
 * bring them there and back is not counted. scale_mul is repeated for each image. No factor of the bench is beyond the largest, where
 * it would have no gradient. */
#include <stdlib.h>
#include <string.h>

#include "tools/bench_kernels.h"

/* Buffers from k->aux on: of all; of normalised queries and keys; of a cache; of backward. What is not needed is one number. */
enum {
    Q, K, V, SCORES, WEIGHTS, SCALE, ROOM,
    LENGTHS_Q, LENGTHS_K, UNIT_Q, UNIT_K, QUERIES, SCALE_MUL, FACTORS, LARGEST,
    CACHE_K, CACHE_V,
    DOUT, SLOPES, SUMS, ONES, WORK, PER_HEAD, ATTENTION_BUFFERS
};

static int normalised(const kernel *k)
{
    return k->u.attention.scale == 1;
}

static int cached(const ts_attention *a)
{
    return a->pos > 0;
}

/* Tokens that are seen. */
static int64_t seen(const ts_attention *a)
{
    return a->pos + a->T;
}

/* Numbers of a head of keys and values, from one to the next. */
static int64_t head_of_keys(const ts_attention *a)
{
    return (cached(a) ? a->T_max : a->T) * a->c;
}

static const float *queries(const kernel *k)
{
    return aux(k, normalised(k) ? QUERIES : Q);
}

static const float *keys(const kernel *k)
{
    return aux(k, cached(&k->u.attention) ? CACHE_K : normalised(k) ? UNIT_K : K);
}

static const float *values(const kernel *k)
{
    return aux(k, cached(&k->u.attention) ? CACHE_V : V);
}

/* Of scores; its backward makes the products with weights. */
static ts_linear product_of(const ts_attention *a)
{
    return (ts_linear){ .N = a->T, .I = a->c, .O = seen(a), .math = a->math };
}

/* Sums of rows of n numbers, as products with ones. */
static ts_linear sums_of(int64_t rows, int64_t n)
{
    return (ts_linear){ .N = rows, .I = n, .O = 1 };
}

/* (B,T,parts,H,c) and (parts,B,H,T,c): from one to the other, or back. */
static void split_heads(float *to, const float *from, const ts_attention *a, int64_t T, int64_t parts, int back)
{
    for (int64_t i = 0; i < parts * a->B * a->H * T; i++) {
        const int64_t t = i % T, h = i / T % a->H, b = i / T / a->H % a->B, part = i / T / a->H / a->B;
        const int64_t j = ((b * T + t) * parts + part) * a->H + h;
        memcpy(to + (back ? j : i) * a->c, from + (back ? i : j) * a->c, sizeof *to * (size_t)a->c);
    }
}

static ts_status join_heads(const kernel *k, float *const *x)
{
    const ts_attention *a = &k->u.attention;
    const int64_t n = k->count[0];
    float *copy = malloc(sizeof *copy * (size_t)n);
    if (!copy) return ts_fail(TS_E_NOMEM, "out of host memory");
    memcpy(copy, x[0], sizeof *copy * (size_t)n);
    split_heads(x[0], copy, a, a->T, n / (a->B * a->T * a->H * a->c), 1);
    free(copy);
    return TS_OK;
}

/* --- forward --- */

/* unit = x, each token of a head over its length */
static ts_status over_lengths(kernel *k, float *unit, float *lengths, const float *x)
{
    const ts_attention *a = &k->u.attention;
    const int64_t rows = a->B * a->H * a->T;
    TS_TRY(k->be->step_rows(k->s, lengths, x, NULL, TS_STEP_LENGTH, NULL, rows, a->c));
    return kernel_map(k, unit, x, TS_STEP_DIV, lengths, rows * a->c, a->c, 1);
}

static ts_status normalise(kernel *k)
{
    const ts_attention *a = &k->u.attention;
    const int64_t heads = a->B * a->H, n = heads * a->T * a->c;
    TS_TRY(over_lengths(k, aux(k, UNIT_Q), aux(k, LENGTHS_Q), aux(k, Q)));
    TS_TRY(over_lengths(k, aux(k, UNIT_K), aux(k, LENGTHS_K), aux(k, K)));
    TS_TRY(kernel_map(k, aux(k, FACTORS), aux(k, SCALE_MUL), TS_STEP_MIN, aux(k, LARGEST), heads, heads, 1));
    TS_TRY(kernel_map(k, aux(k, FACTORS), aux(k, FACTORS), TS_STEP_EXP, NULL, heads, heads, 1));
    return kernel_map(k, aux(k, QUERIES), aux(k, UNIT_Q), TS_STEP_MUL, aux(k, FACTORS), n, a->T * a->c, 1);
}

/* New keys and values go into the cache. */
static ts_status append(kernel *k)
{
    const ts_attention *a = &k->u.attention;
    const int64_t Tc = a->T * a->c, to = head_of_keys(a);
    const float *new_keys = aux(k, normalised(k) ? UNIT_K : K);
    for (int64_t i = 0; i < a->B * a->H; i++) {
        const int64_t from = i * to + a->pos * a->c;
        TS_TRY(k->be->copy(k->s, aux(k, CACHE_K) + from, new_keys + i * Tc, sizeof(float) * (size_t)Tc));
        TS_TRY(k->be->copy(k->s, aux(k, CACHE_V) + from, aux(k, V) + i * Tc, sizeof(float) * (size_t)Tc));
    }
    return TS_OK;
}

static ts_status weights(kernel *k)
{
    const ts_attention *a = &k->u.attention;
    const ts_linear l = product_of(a);
    const int64_t heads = a->B * a->H, Tc = a->T * a->c, TS = a->T * seen(a), N = heads * TS;
    if (normalised(k)) TS_TRY(normalise(k));
    if (cached(a)) TS_TRY(append(k));
    for (int64_t i = 0; i < heads; i++)
        TS_TRY(k->be->linear_fwd(k->s, aux(k, SCORES) + i * TS, queries(k) + i * Tc, keys(k) + i * head_of_keys(a), NULL, &l, aux(k, ROOM)));
    if (!normalised(k)) TS_TRY(kernel_map(k, aux(k, SCORES), aux(k, SCORES), TS_STEP_MUL, aux(k, SCALE), N, N, 1));
    return k->be->step_rows(k->s, aux(k, WEIGHTS), aux(k, SCORES), NULL, TS_STEP_SOFTMAX, NULL, heads * a->T, seen(a));
}

static ts_status attention_in_steps(kernel *k)
{
    const ts_attention *a = &k->u.attention;
    const ts_linear l = product_of(a);
    const int64_t Tc = a->T * a->c, TS = a->T * seen(a);
    TS_TRY(weights(k));
    for (int64_t i = 0; i < a->B * a->H; i++)
        TS_TRY(k->be->linear_bwd(k->s, k->p[0] + i * Tc, NULL, NULL, aux(k, WEIGHTS) + i * TS, queries(k) + i * Tc,
                                 values(k) + i * head_of_keys(a), &l, aux(k, ROOM)));
    return TS_OK;
}

/* --- backward --- */

/* Gradients of scores: weights times what the gradients of weights are above their mean, times the scale. */
static ts_status score_slopes(kernel *k)
{
    const ts_attention *a = &k->u.attention;
    const int64_t rows = a->B * a->H * a->T, N = rows * a->T;
    const ts_linear sum = sums_of(rows, a->T);
    TS_TRY(kernel_map(k, aux(k, SCORES), aux(k, WEIGHTS), TS_STEP_MUL, aux(k, SLOPES), N, 1, a->T));
    TS_TRY(k->be->linear_fwd(k->s, aux(k, SUMS), aux(k, SCORES), aux(k, ONES), NULL, &sum, aux(k, ROOM)));
    TS_TRY(kernel_map(k, aux(k, SLOPES), aux(k, SLOPES), TS_STEP_SUB, aux(k, SUMS), N, a->T, 1));
    TS_TRY(kernel_map(k, aux(k, SLOPES), aux(k, SLOPES), TS_STEP_MUL, aux(k, WEIGHTS), N, 1, a->T));
    return normalised(k) ? TS_OK : kernel_map(k, aux(k, SLOPES), aux(k, SLOPES), TS_STEP_MUL, aux(k, SCALE), N, N, 1);
}

/* d = the gradient of x, from d, that of unit = x over its length. SUMS: of d times unit. */
static ts_status back_through_lengths(kernel *k, float *d, const float *unit, const float *lengths)
{
    const ts_attention *a = &k->u.attention;
    const int64_t rows = a->B * a->H * a->T, n = rows * a->c;
    const ts_linear sum = sums_of(rows, a->c);
    float *work = aux(k, WORK);
    TS_TRY(kernel_map(k, work, d, TS_STEP_MUL, unit, n, 1, a->c));
    TS_TRY(k->be->linear_fwd(k->s, aux(k, SUMS), work, aux(k, ONES), NULL, &sum, aux(k, ROOM)));
    TS_TRY(kernel_map(k, work, unit, TS_STEP_MUL, aux(k, SUMS), n, a->c, 1));
    TS_TRY(kernel_map(k, d, d, TS_STEP_SUB, work, n, 1, a->c));
    return kernel_map(k, d, d, TS_STEP_DIV, lengths, n, a->c, 1);
}

static ts_status normalise_back(kernel *k, float *dq, float *dk)
{
    const ts_attention *a = &k->u.attention;
    const int64_t heads = a->B * a->H;
    const ts_linear sum = sums_of(heads, a->T);
    TS_TRY(kernel_map(k, dq, dq, TS_STEP_MUL, aux(k, FACTORS), heads * a->T * a->c, a->T * a->c, 1));
    TS_TRY(back_through_lengths(k, dk, aux(k, UNIT_K), aux(k, LENGTHS_K)));
    TS_TRY(back_through_lengths(k, dq, aux(k, UNIT_Q), aux(k, LENGTHS_Q)));
    TS_TRY(k->be->linear_fwd(k->s, aux(k, PER_HEAD), aux(k, SUMS), aux(k, ONES), NULL, &sum, aux(k, ROOM)));
    return k->be->sum_rows(k->s, k->p[1], aux(k, PER_HEAD), a->B, 1, a->H);
}

static ts_status attention_back_in_steps(kernel *k)
{
    const ts_attention *a = &k->u.attention;
    const ts_linear l = product_of(a);
    const int64_t heads = a->B * a->H, Tc = a->T * a->c, TT = a->T * a->T;
    float *dq = k->p[0], *dk = dq + heads * Tc, *dv = dk + heads * Tc;
    TS_TRY(weights(k));
    TS_TRY(k->be->zero(k->s, dk, sizeof *dk * (size_t)(2 * heads * Tc)));
    for (int64_t i = 0; i < heads; i++) {
        const float *dout = aux(k, DOUT) + i * Tc, *v = aux(k, V) + i * Tc;
        TS_TRY(k->be->linear_fwd(k->s, aux(k, SLOPES) + i * TT, dout, v, NULL, &l, aux(k, ROOM)));
        TS_TRY(k->be->linear_bwd(k->s, NULL, dv + i * Tc, NULL, aux(k, WEIGHTS) + i * TT, dout, v, &l, aux(k, ROOM)));
    }
    TS_TRY(score_slopes(k));
    for (int64_t i = 0; i < heads; i++)
        TS_TRY(k->be->linear_bwd(k->s, dq + i * Tc, dk + i * Tc, NULL, aux(k, SLOPES) + i * TT, queries(k) + i * Tc, keys(k) + i * Tc, &l,
                                 aux(k, ROOM)));
    return normalised(k) ? normalise_back(k, dq, dk) : TS_OK;
}

/* --- buffers --- */

/* The parts of buffer i, (B,T,parts,H,c), head by head, in buffers from `to` on. */
static ts_status split_buffer(kernel *k, int to, int i, int64_t T, int64_t parts)
{
    const ts_attention *a = &k->u.attention;
    const int64_t n = k->count[i];
    float *x = malloc(sizeof *x * (size_t)n), *y = malloc(sizeof *y * (size_t)n);
    ts_status st = x && y ? TS_OK : ts_fail(TS_E_NOMEM, "out of host memory");
    if (st == TS_OK) st = k->be->download(k->s, x, k->p[i], sizeof *x * (size_t)n);
    if (st == TS_OK) split_heads(y, x, a, T, parts, 0);
    for (int64_t part = 0; part < parts && st == TS_OK; part++)
        st = k->be->upload(k->s, aux(k, to + (int)part), y + part * (n / parts), sizeof *y * (size_t)(n / parts));
    free(x);
    free(y);
    return st;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static ts_status fill_buffers(kernel *k, const attention_buffers *in)
{
    const ts_attention *a = &k->u.attention;
    const float one = 1, largest = logf(100);
    TS_TRY(split_buffer(k, Q, in->qkv, a->T, 3));
    TS_TRY(k->be->upload(k->s, aux(k, SCALE), &a->scale, sizeof a->scale));
    TS_TRY(k->be->upload(k->s, aux(k, LARGEST), &largest, sizeof largest));
    for (int64_t b = 0; in->scale_mul && b < a->B; b++)
        TS_TRY(k->be->copy(k->s, aux(k, SCALE_MUL) + b * a->H, k->p[in->scale_mul], sizeof(float) * (size_t)a->H));
    for (int i = 0; in->cache && i < 2; i++) TS_TRY(split_buffer(k, CACHE_K + i, in->cache + i, a->T_max, 1));
    if (!in->dout) return TS_OK;
    for (int64_t t = 0; t < larger(a->T, a->c); t++) TS_TRY(k->be->upload(k->s, aux(k, ONES) + t, &one, sizeof one));
    return split_buffer(k, DOUT, in->dout, a->T, 1);
}

/* What products of a library move. */
static void count_products(kernel *k, const attention_buffers *in)
{
    const ts_attention *a = &k->u.attention;
    const int64_t heads = a->B * a->H, rows = heads * a->T, n = rows * a->c, N = rows * seen(a), of_keys = heads * seen(a) * a->c;
    k->products = in->dout ? 5 * heads + 1 : 2 * heads;
    k->product_bytes = 4.0 * (double)(in->dout ? 5 * N + 12 * n + N + a->T + rows : 2 * N + 2 * n + 2 * of_keys);
    if (!in->dout || !in->scale_mul) return;
    k->products += 3;
    k->product_bytes += 4.0 * (double)(2 * (n + a->c + rows) + rows + a->T + heads);
}

void unfused_attention(kernel *k, ts_device *d, ts_status *st, const attention_buffers *in)
{
    const ts_attention *a = &k->u.attention;
    const int64_t heads = a->B * a->H, rows = heads * a->T, n = rows * a->c, N = rows * seen(a);
    const int unit = in->scale_mul > 0, cache = in->cache > 0, back = in->dout > 0;
    const ts_linear l = product_of(a), sum[] = { sums_of(rows, a->T), sums_of(rows, a->c), sums_of(heads, a->T) };
    int64_t room = larger((int64_t)k->be->linear_scratch(k->s, &l, 0), (int64_t)k->be->linear_scratch(k->s, &l, 1));
    for (int i = 0; i < 3; i++) room = larger(room, (int64_t)k->be->linear_scratch(k->s, &sum[i], 0));
    const int64_t rooms[ATTENTION_BUFFERS] = {
        [Q] = n, [K] = n, [V] = n, [SCORES] = N, [WEIGHTS] = N, [ROOM] = room / 4 + 1,
        [LENGTHS_Q] = unit * rows, [LENGTHS_K] = unit * rows, [UNIT_Q] = unit * n, [UNIT_K] = unit * n, [QUERIES] = unit * n,
        [SCALE_MUL] = unit * heads, [FACTORS] = unit * heads,
        [CACHE_K] = cache * heads * head_of_keys(a), [CACHE_V] = cache * heads * head_of_keys(a),
        [DOUT] = back * n, [SLOPES] = back * N, [SUMS] = back * rows, [ONES] = back * larger(a->T, a->c), [WORK] = back * unit * n,
        [PER_HEAD] = back * heads,
    };
    k->aux = k->n;
    for (int i = 0; i < ATTENTION_BUFFERS; i++) kernel_room(k, d, st, larger(rooms[i], 1));
    if (*st == TS_OK) *st = fill_buffers(k, in);
    k->unfused = back ? attention_back_in_steps : attention_in_steps;
    k->arrange = join_heads;
    count_products(k, in);
    k->same = back && unit ? 2 : 1;
}
