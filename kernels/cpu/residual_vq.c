/* residual_vq.c - multi-scale residual VQ on the CPU. Contract: tessera/op_residual_vq.h. Twin:
 * kernels/cuda/residual_vq.cu.
 *
 * The search is the cost: V*D products for every token. Codes are laid out in blocks of CODES, (D,CODES) each, so that
 * a block stays in the first-level cache while all tokens of a scale pass it, TOKENS at a time, and a vector is CODES
 * codes of one channel. Orders that indices depend on (twins keep them): |e|^2     channels ascending, the first a
 * product, the others fmaf score     acc = |e|^2/2 (znorm: 0); for d ascending: acc = fmaf(z, -e, acc); the smallest,
 * the first of equals znorm     e / max(|e|, 1e-12); z stays as it is, its length does not change the order Backward
 * deals images to a fixed number of chunks and sums the codebook gradient token by token, so that the thread count
 * changes nothing. */
#include "tessera/op_residual_vq.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/pyramid.h"
#include "kernels/cpu/stream.h"

enum { CODES = 32, TOKENS = 4, CHUNKS = 16 };

static int64_t blocks_of(int32_t V)
{
    return ((int64_t)V + CODES - 1) / CODES;
}

static int64_t tokens_of(const ts_pyramid *p, int k)
{
    return (int64_t)p->py[k] * p->px[k];
}

/* book: per block (D+1,CODES), start values of the score, then the channels of -e. Surplus codes score +inf. */
static void block_codebook(ts_stream *s, float *book, const float *codebook, const ts_residual_vq *q)
{
    const int64_t D = q->D;
#pragma omp parallel for num_threads(s->threads)
    for (int64_t n = 0; n < blocks_of(q->V); n++) {
        float *to = book + n * (D + 1) * CODES;
        for (int64_t i = 0; i < CODES; i++) {
            const int64_t v = n * CODES + i;
            if (v >= q->V) {
                to[i] = INFINITY;
                for (int64_t d = 0; d < D; d++) to[(d + 1) * CODES + i] = 0;
                continue;
            }
            const float *e = codebook + v * D;
            float square = e[0] * e[0];
            for (int64_t d = 1; d < D; d++) square = fmaf(e[d], e[d], square);
            const float length = q->znorm ? fmaxf(sqrtf(square), 1e-12f) : 1.0f;
            to[i] = q->znorm ? 0 : 0.5f * square;
            for (int64_t d = 0; d < D; d++) to[(d + 1) * CODES + i] = -(e[d] / length);
        }
    }
}

/* Best score and block of every lane for `tokens` tokens (a constant where this is inlined) against one block. */
static inline void score_block(float (*best)[CODES], int32_t (*found)[CODES], const float *z, const float *block,
                               int32_t number, int D, int tokens)
{
    float acc[TOKENS][CODES];
    for (int t = 0; t < tokens; t++)
        for (int i = 0; i < CODES; i++) acc[t][i] = block[i];
    for (int d = 0; d < D; d++) {
        const float *e = block + (d + 1) * CODES;
        for (int t = 0; t < tokens; t++) {
            const float v = z[t * D + d];
#pragma omp simd
            for (int i = 0; i < CODES; i++) acc[t][i] = fmaf(v, e[i], acc[t][i]);
        }
    }
    for (int t = 0; t < tokens; t++) {
#pragma omp simd
        for (int i = 0; i < CODES; i++) {
            found[t][i] = acc[t][i] < best[t][i] ? number : found[t][i];
            best[t][i] = acc[t][i] < best[t][i] ? acc[t][i] : best[t][i];
        }
    }
}

/* idx of n tokens z (n,D). best, found: (n,CODES). NaN gives code 0. */
static void search(int32_t *idx, const float *z, int64_t n, const float *book, const ts_residual_vq *q,
                   float (*best)[CODES], int32_t (*found)[CODES])
{
    const int D = q->D;
    for (int64_t t = 0; t < n; t++) {
        for (int i = 0; i < CODES; i++) {
            best[t][i] = INFINITY;
            found[t][i] = 0;
        }
    }
    for (int64_t b = 0; b < blocks_of(q->V); b++) {
        const float *block = book + b * (D + 1) * CODES;
        int64_t t = 0;
        for (; t + TOKENS <= n; t += TOKENS) score_block(best + t, found + t, z + t * D, block, (int32_t)b, D, TOKENS);
        for (; t < n; t++) score_block(best + t, found + t, z + t * D, block, (int32_t)b, D, 1);
    }
    for (int64_t t = 0; t < n; t++) {
        float least = INFINITY;
        int32_t code = 0;
        for (int32_t i = 0; i < CODES; i++) {
            const int32_t v = found[t][i] * CODES + i;
            if (best[t][i] < least || (best[t][i] == least && best[t][i] < INFINITY && v < code)) {
                least = best[t][i];
                code = v;
            }
        }
        idx[t] = code;
    }
}

static void look_up(float *code, const int32_t *idx, int64_t n, const float *codebook, int D)
{
    for (int64_t t = 0; t < n; t++) memcpy(code + t * D, codebook + (int64_t)idx[t] * D, sizeof(float) * (size_t)D);
}

static int64_t book_floats(const ts_residual_vq *q)
{
    return blocks_of(q->V) * (q->D + 1) * CODES;
}

/* Forward work of a thread: a padded grid, five grids, and the search's best and found of the largest scale. */
static int64_t forward_floats(const ts_residual_vq *q)
{
    return ts_padded_floats(&q->p, q->D) + 5 * ts_grid_floats(&q->p, q->D) + 2 * (int64_t)q->p.h * q->p.w * CODES;
}

/* One chunk of the backward scratch, in floats from its start. */
typedef struct {
    int64_t dpack, r, u, pad, dh, up, tmp, total;
} chunk_layout;

static chunk_layout lay_out(const ts_residual_vq *q)
{
    const int64_t grid = ts_grid_floats(&q->p, q->D), padded = ts_padded_floats(&q->p, q->D);
    const int64_t wide = (int64_t)q->p.h * q->p.w * ts_lanes(q->D);
    chunk_layout l = { 0 };
    l.r = l.dpack + q->p.S * ts_pack_floats(q->D); /* r of every scale */
    l.u = l.r + q->p.K * grid;                     /* u of every scale, padded */
    l.pad = l.u + q->p.K * padded;
    l.dh = l.pad + padded;
    l.up = l.dh + grid;
    l.tmp = l.up + grid;
    l.total = l.tmp + (wide > 2 * grid ? wide : 2 * grid);
    return l;
}

static int64_t chunks_of(int64_t B)
{
    return B < CHUNKS ? B : CHUNKS;
}

/* Forward: sums of every image (B,K), packed phi, the blocked codebook, work of every thread.
 * Backward: packed phi, packed transposed phi, gradients of all codes (B,T,D), work of every chunk. */
size_t residual_vq_scratch_cpu(ts_stream *s, const ts_residual_vq *q, int64_t B, int backward)
{
    const int64_t pack = q->p.S * ts_pack_floats(q->D);
    if (!backward)
        return sizeof(double) * (size_t)(B * q->p.K) +
               sizeof(float) * (size_t)(pack + book_floats(q) + s->threads * forward_floats(q));
    return sizeof(float) * (size_t)(2 * pack + B * q->p.T * q->D + chunks_of(B) * lay_out(q).total);
}

static ts_status check(const ts_residual_vq *q)
{
    if (q->V >= 1 && q->D >= 1) return TS_OK;
    return ts_fail(TS_E_ARG, "residual_vq: %d codes of %d channels, expected 1 or more of both", (int)q->V, q->D);
}

typedef struct {
    const ts_residual_vq *q;
    const float *codebook, *book; /* book only forward   */
    const float *pack, *pack_t;   /* pack_t only backward */
} context;

typedef struct {
    float *f_hat, *partial;
    float *z; /* (T,D) */
    int32_t *idx;
    double *sums; /* (K) */
    int64_t partial_stride;
} image_out;

static void image_forward(const image_out *o, const float *f, const context *c, float *work)
{
    const ts_pyramid *p = &c->q->p;
    const int D = c->q->D;
    const int64_t grid = ts_grid_floats(p, D), cells = (int64_t)p->h * p->w;
    float *u = work, *r = u + ts_padded_floats(p, D), *z = r + grid, *code = z + grid, *up = code + grid,
          *tmp = up + grid;
    float(*best)[CODES] = (float(*)[CODES])(tmp + grid);
    int32_t(*found)[CODES] = (int32_t(*)[CODES])(best + cells);
    memcpy(r, f, sizeof(float) * (size_t)grid);
    memset(o->f_hat, 0, sizeof(float) * (size_t)grid);
    for (int k = 0; k < p->K; k++) {
        int32_t *idx = o->idx + p->start[k];
        ts_scale_area(z, r, p, D, k);
        search(idx, z, tokens_of(p, k), c->book, c->q, best, found);
        if (o->z) memcpy(o->z + p->start[k] * (int64_t)D, z, sizeof(float) * (size_t)(tokens_of(p, k) * D));
        look_up(code, idx, tokens_of(p, k), c->codebook, D);
        ts_scale_up(up, u, code, c->pack, p, D, k, tmp);
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < grid; i++) {
            o->f_hat[i] += up[i];
            r[i] -= up[i];
            double e = (double)o->f_hat[i] - f[i];
            sum += e * e;
        }
        o->sums[k] = sum;
        if (o->partial) memcpy(o->partial + k * o->partial_stride, o->f_hat, sizeof(float) * (size_t)grid);
    }
}

ts_status residual_vq_fwd_cpu(ts_stream *s, float *f_hat, int32_t *idx, float *z, float *partial, float *stats,
                              const float *f, const float *codebook, const ts_phi *phi, const ts_residual_vq *q,
                              int64_t B, void *scratch)
{
    TS_TRY(check(q));
    const ts_pyramid *p = &q->p;
    const int64_t grid = ts_grid_floats(p, q->D);
    double *sums = scratch;
    float *pack = (float *)(sums + B * p->K), *book = pack + p->S * ts_pack_floats(q->D);
    float *work = book + book_floats(q);
    const context c = { .q = q, .codebook = codebook, .book = book, .pack = pack };
    ts_phi_pack(pack, phi, p, q->D);
    block_codebook(s, book, codebook, q);
#pragma omp parallel num_threads(s->threads)
    {
        float *mine = work + omp_get_thread_num() * forward_floats(q);
        memset(mine, 0, sizeof(float) * (size_t)ts_padded_floats(p, q->D));
#pragma omp for
        for (int64_t b = 0; b < B; b++) {
            image_out o = { f_hat + b * grid,
                            partial ? partial + b * grid : NULL,
                            z ? z + b * p->T * q->D : NULL,
                            idx + b * p->T,
                            sums + b * p->K,
                            B * grid };
            image_forward(&o, f + b * grid, &c, mine);
        }
    }
    if (!stats) return TS_OK;
    for (int k = 0; k < p->K; k++) {
        double sum = 0;
        for (int64_t b = 0; b < B; b++) sum += sums[b * p->K + k];
        stats[k] = (float)sum;
    }
    return TS_OK;
}

/* The loss is a sum over scales of (f_hat_k - f)^2 = r_k^2, so h_j receives -unit * sum_{k>=j} r_k, and f the beta term
 * from all scales. unit = 2*loss_weight/(K*B*h*w*D). */
static void image_backward(float *df, float *dcode, const float *df_hat, const float *f, const int32_t *idx, float unit,
                           const context *c, float *work, const chunk_layout *l)
{
    const ts_pyramid *p = &c->q->p;
    const int D = c->q->D;
    const int64_t grid = ts_grid_floats(p, D), padded = ts_padded_floats(p, D);
    float *r = work + l->r, *u = work + l->u, *dh = work + l->dh, *up = work + l->up, *tmp = work + l->tmp;
    for (int k = 0; k < p->K; k++) {
        float *code = dcode + p->start[k] * (int64_t)D, *now = r + k * grid;
        const float *before = k > 0 ? now - grid : f;
        look_up(code, idx + p->start[k], tokens_of(p, k), c->codebook, D); /* replaced by its gradient below */
        ts_scale_up(up, u + k * padded, code, c->pack, p, D, k, tmp);
#pragma omp simd
        for (int64_t i = 0; i < grid; i++) now[i] = before[i] - up[i];
    }
    memset(dh, 0, sizeof(float) * (size_t)grid);
    for (int k = p->K - 1; k >= 0; k--) {
#pragma omp simd
        for (int64_t i = 0; i < grid; i++) dh[i] -= unit * r[k * grid + i];
        ts_phi_gradient(work + l->dpack, u + k * padded, dh, p, D, k, tmp);
        ts_scale_up_adjoint(dcode + p->start[k] * (int64_t)D, dh, c->pack_t, p, D, k, work + l->pad, tmp);
    }
#pragma omp simd
    for (int64_t i = 0; i < grid; i++) df[i] = fmaf(-c->q->beta, dh[i], df_hat[i]);
}

/* Threads own ranges of codes and go through all tokens in order. */
static void add_to_codebook(ts_stream *s, float *dcodebook, const float *dcode, const int32_t *idx, int64_t n,
                            const ts_residual_vq *q)
{
    const int64_t D = q->D;
#pragma omp parallel num_threads(s->threads)
    {
        const int64_t me = omp_get_thread_num(), all = omp_get_num_threads();
        const int64_t first = q->V * me / all, end = q->V * (me + 1) / all;
        for (int64_t t = 0; t < n; t++) {
            if (idx[t] < first || idx[t] >= end) continue;
            float *to = dcodebook + idx[t] * D;
#pragma omp simd
            for (int64_t d = 0; d < D; d++) to[d] += dcode[t * D + d];
        }
    }
}

ts_status residual_vq_bwd_cpu(ts_stream *s, float *df, float *dcodebook, const ts_phi *dphi, const float *df_hat,
                              float loss_weight, const float *f, const int32_t *idx, const float *codebook,
                              const ts_phi *phi, const ts_residual_vq *q, int64_t B, void *scratch)
{
    TS_TRY(check(q));
    const ts_pyramid *p = &q->p;
    const int D = q->D;
    const int64_t grid = ts_grid_floats(p, D), packs = p->S * ts_pack_floats(D), chunks = chunks_of(B);
    const int64_t tokens = (int64_t)p->T * D;
    const chunk_layout l = lay_out(q);
    float *pack = scratch, *pack_t = pack + packs, *dcode = pack_t + packs, *work = dcode + B * tokens;
    const context c = { .q = q, .codebook = codebook, .pack = pack, .pack_t = pack_t };
    ts_phi_pack(pack, phi, p, D);
    ts_phi_pack_transposed(pack_t, phi, p, D);
    const float unit = B > 0 ? (float)(2.0 * loss_weight / ((double)p->K * (double)B * (double)grid)) : 0;
#pragma omp parallel for schedule(dynamic) num_threads(s->threads)
    for (int64_t m = 0; m < chunks; m++) {
        float *mine = work + m * l.total;
        memset(mine, 0, sizeof(float) * (size_t)l.dh); /* gradients, and the rings of zeros */
        for (int64_t b = m * B / chunks; b < (m + 1) * B / chunks; b++)
            image_backward(df + b * grid, dcode + b * tokens, df_hat + b * grid, f + b * grid, idx + b * p->T, unit, &c,
                           mine, &l);
    }
    if (dcodebook) add_to_codebook(s, dcodebook, dcode, idx, B * p->T, q);
    ts_phi_gradient_sum(s, dphi, work + l.dpack, chunks, l.total, p, D);
    return TS_OK;
}
