/* digit_head.c - the digit head's loss and gradients on the CPU. Contract: tessera/op_digit_head.h.
 *
 * Rows are cut into chunks by N alone. A chunk keeps the gradients of the parameters in scratch, and the chunks are
 * added up in order, so no sum depends on the thread count. Work per row: D M + 3 sum_L M multiply-adds.
 * 5440 rows of 8 digits with 5 levels and M = 128 take 7 ms, the loss alone 2 ms (Xeon at 2.1 GHz, 2 threads).
 */
#include "tessera/op_digit_head.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/stream.h"
#include "tessera/exact.h"

enum { MAX_CHUNKS = 64, MIN_ROWS = 32 };

/* One chunk's floats: the gradients of the parameters, then the working memory of one row. */
typedef struct {
    int64_t b, E, W, c, params; /* offsets, and the size of all gradients */
    int64_t g, da, row;         /* activations (D,M), sums of da (M)      */
    int64_t chunks, rows;       /* rows of a chunk, fewer in the last     */
} layout;

static layout layout_of(const ts_digit_head *d, int64_t N)
{
    layout a = { 0 };
    int64_t M = d->M, last = d->level[d->D - 1];
    a.E = a.b + d->D * M;
    a.W = a.E + (d->sum_L - last) * M;
    a.c = a.W + d->sum_L * M;
    a.params = a.c + (int64_t)d->K * d->sum_L;
    a.g = (a.params + 15) / 16 * 16; /* cache lines */
    a.da = a.g + d->D * M;
    a.row = (a.da + M + 15) / 16 * 16;
    a.rows = (N + MAX_CHUNKS - 1) / MAX_CHUNKS;
    if (a.rows < MIN_ROWS) a.rows = MIN_ROWS;
    a.chunks = (N + a.rows - 1) / a.rows;
    return a;
}

size_t digit_head_scratch_cpu(ts_stream *s, const ts_digit_head *d, int64_t N)
{
    (void)s;
    layout a = layout_of(d, N);
    return (size_t)(a.chunks * a.row) * sizeof(float);
}

static float dot(const float *x, const float *y, int64_t M)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t m = 0; m < M; m++) sum += x[m] * y[m];
    return sum;
}

/* g[i] = max(a_i, 0) for all digits of one row; NaN stays NaN. h is working memory (M). */
static void hidden(float *g, float *h, const float *u, const int *digit, const ts_digit_params *p,
                   const ts_digit_head *d)
{
    int64_t M = d->M;
    memcpy(h, u, (size_t)M * sizeof *h);
    for (int i = 0; i < d->D; i++) {
        const float *b = p->b + i * M, *E = i + 1 < d->D ? p->E + (d->off[i] + digit[i]) * M : NULL;
        float *gi = g + i * M;
#pragma omp simd
        for (int64_t m = 0; m < M; m++) {
            float a = h[m] + b[m];
            gi[m] = a < 0 ? 0 : a;
        }
        if (!E) continue;
#pragma omp simd
        for (int64_t m = 0; m < M; m++) h[m] += E[m];
    }
}

/* The logits z (sum_L) of one row become the probabilities of each digit, and loss (D) is set. exp and log run over all
 * digits at once: a digit alone has too few levels to fill a vector. */
static void softmax(float *z, float *loss, const int *digit, const ts_digit_head *d)
{
    float sum[TS_MAX_D];
    for (int i = 0; i < d->D; i++) {
        float *zi = z + d->off[i], max = zi[0];
        for (int l = 1; l < d->level[i]; l++) max = zi[l] > max ? zi[l] : max;
        for (int l = 0; l < d->level[i]; l++) zi[l] -= max;
        loss[i] = -zi[digit[i]];
    }
#pragma omp simd
    for (int l = 0; l < d->sum_L; l++) z[l] = ts_expf(z[l]);
    for (int i = 0; i < d->D; i++) {
        float *zi = z + d->off[i];
        sum[i] = 0;
        for (int l = 0; l < d->level[i]; l++) sum[i] += zi[l];
        float scale = 1 / sum[i];
        for (int l = 0; l < d->level[i]; l++) zi[l] *= scale;
    }
#pragma omp simd
    for (int i = 0; i < d->D; i++) loss[i] += ts_logf(sum[i]);
}

/* du and all parameter gradients of one row, from dz (sum_L), the gradients of the logits. A change of a_i is a change
 * of u, of b_i, and of the embedding of every digit before i: one running sum over i, downwards, serves them all. */
static void backward(float *du, float *chunk, const layout *o, const float *dz, const int *digit,
                     const ts_digit_params *p, const ts_digit_head *d)
{
    int64_t M = d->M;
    float *da = chunk + o->da;
    memset(du, 0, (size_t)M * sizeof *du);
    for (int i = d->D - 1; i >= 0; i--) {
        const float *g = chunk + o->g + i * M;
        float *db = chunk + o->b + i * M;
        if (i + 1 < d->D) { /* du holds the sum over the digits after i */
            float *dE = chunk + o->E + (d->off[i] + digit[i]) * M;
#pragma omp simd
            for (int64_t m = 0; m < M; m++) dE[m] += du[m];
        }
        memset(da, 0, (size_t)M * sizeof *da);
        for (int l = d->off[i]; l < d->off[i] + d->level[i]; l++) {
            const float *W = p->W + l * M;
            float *dW = chunk + o->W + l * M, z = dz[l];
#pragma omp simd
            for (int64_t m = 0; m < M; m++) {
                da[m] += z * W[m];
                dW[m] += z * g[m];
            }
        }
#pragma omp simd
        for (int64_t m = 0; m < M; m++) {
            float a = g[m] > 0 ? da[m] : 0;
            db[m] += a;
            du[m] += a;
        }
    }
}

/* Rows n0..n1-1. du NULL: the loss alone. */
static void run_chunk(float *loss, float *du, float *chunk, const layout *o, const float *u, const int32_t *code,
                      const int32_t *scale_of, const ts_digit_params *p, float grad_scale, const ts_digit_head *d,
                      int64_t n0, int64_t n1, int64_t T)
{
    int64_t M = d->M;
    float z[TS_MAX_SUM_L];
    int digit[TS_MAX_D];
    memset(chunk, 0, (size_t)o->params * sizeof *chunk);
    for (int64_t n = n0; n < n1; n++) {
        int64_t at = (int64_t)scale_of[n % T] * d->sum_L;
        for (int i = 0; i < d->D; i++) digit[i] = code[n] / d->basis[i] % d->level[i];
        hidden(chunk + o->g, chunk + o->da, u + n * M, digit, p, d);
        for (int i = 0; i < d->D; i++) {
            int off = d->off[i], L = d->level[i];
            for (int l = off; l < off + L; l++) z[l] = dot(p->W + l * M, chunk + o->g + i * M, M) + p->c[at + l];
        }
        softmax(z, loss + n * d->D, digit, d);
        if (!du) continue;
        for (int i = 0; i < d->D; i++) z[d->off[i] + digit[i]] -= 1;
        for (int l = 0; l < d->sum_L; l++) {
            z[l] *= grad_scale;
            chunk[o->c + at + l] += z[l];
        }
        backward(du + n * M, chunk, o, z, digit, p, d);
    }
}

/* The first chunk's gradients += those of all others, in order. */
static void sum_chunks(ts_stream *s, float *scratch, const layout *o)
{
    enum { BLOCK = 512 };
#pragma omp parallel for num_threads(s->threads)
    for (int64_t i0 = 0; i0 < o->params; i0 += BLOCK) {
        int64_t n = o->params - i0 < BLOCK ? o->params - i0 : BLOCK;
        float *sum = scratch + i0;
        for (int64_t k = 1; k < o->chunks; k++) {
            const float *part = sum + k * o->row;
#pragma omp simd
            for (int64_t i = 0; i < n; i++) sum[i] += part[i];
        }
    }
}

static void add(float *to, const float *from, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

ts_status digit_head_cpu(ts_stream *s, float *loss, float *du, const ts_digit_params *grad, const float *u,
                         const int32_t *code, const int32_t *scale_of, const ts_digit_params *param, float grad_scale,
                         const ts_digit_head *d, int64_t N, int64_t T, void *scratch)
{
    if (!du != !grad) return ts_fail(TS_E_ARG, "digit head: du and grad are given both or neither");
    layout o = layout_of(d, N);
#pragma omp parallel for num_threads(s->threads) schedule(dynamic)
    for (int64_t k = 0; k < o.chunks; k++) {
        int64_t n0 = k * o.rows, n1 = n0 + o.rows < N ? n0 + o.rows : N;
        run_chunk(loss, du, (float *)scratch + k * o.row, &o, u, code, scale_of, param, grad_scale, d, n0, n1, T);
    }
    if (!du || N == 0) return TS_OK;
    const float *sum = scratch;
    sum_chunks(s, scratch, &o);
    add(grad->b, sum + o.b, o.E - o.b);
    add(grad->E, sum + o.E, o.W - o.E);
    add(grad->W, sum + o.W, o.c - o.W);
    add(grad->c, sum + o.c, o.params - o.c);
    return TS_OK;
}
