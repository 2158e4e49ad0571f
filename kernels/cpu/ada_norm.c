/* ada_norm.c - residual, gate, LayerNorm and modulation on the CPU. Contract: tessera/op_ada_norm.h.
 *
 * Forward moves each number once: a token's row stays in the first-level cache between the sums and the output.
 */
#include "tessera/op_ada_norm.h"

#include <math.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/stream.h"

static void add_gated(float *r, const float *x, const float *h, const float *gate, int64_t C)
{
    if (gate) {
#pragma omp simd
        for (int64_t c = 0; c < C; c++) r[c] = fmaf(gate[c], h[c], x[c]);
    } else {
#pragma omp simd
        for (int64_t c = 0; c < C; c++) r[c] = x[c] + h[c];
    }
}

/* The second pass sums around the rounded mean of the first, and so corrects it: a constant row has variance 0. */
static void moments(float *mean, float *var, const float *r, int64_t C)
{
    const int64_t whole = C / VF * VF;
    vf sum = { 0 };
    for (int64_t c = 0; c < whole; c += VF) sum += vf_load(r + c);
    sum += vf_load_some(r + whole, C - whole, 0);
    const float about = vf_sum(sum) / (float)C;

    vf first = { 0 }, second = { 0 };
    for (int64_t c = 0; c < whole; c += VF) {
        const vf d = vf_load(r + c) - about;
        first += d;
        second = vf_fma(d, d, second);
    }
    const vf d = vf_load_some(r + whole, C - whole, about) - about;
    const float shift = vf_sum(first + d) / (float)C;
    const float spread = vf_sum(vf_fma(d, d, second)) / (float)C - shift * shift;
    *mean = about + shift;
    *var = spread < 0 ? 0 : spread;
}

static void modulate(float *y, const float *row, float mu, float inv, const float *sc, const float *sh, int64_t C)
{
#pragma omp simd
    for (int64_t c = 0; c < C; c++) y[c] = fmaf((row[c] - mu) * inv, 1 + sc[c], sh[c]);
}

static void modulate_narrow(uint16_t *y, const float *row, float mu, float inv, const float *sc, const float *sh, int64_t C)
{
#pragma omp simd
    for (int64_t c = 0; c < C; c++) y[c] = bf16_narrow(fmaf((row[c] - mu) * inv, 1 + sc[c], sh[c]));
}

ts_status ada_norm_fwd_cpu(ts_stream *s, float *r, void *y, float *mean, float *rstd, const float *x, const float *h,
                           const float *gate, const float *scale, const float *shift, const ts_ada_norm *n)
{
    const int64_t T = n->T, C = n->C;
#pragma omp parallel for num_threads(s->threads)
    for (int64_t i = 0; i < n->B * T; i++) {
        const int64_t b = i / T;
        const float *row = x + i * C, *sc = scale + b * n->scale_stride, *sh = shift + b * n->shift_stride;
        if (h) {
            add_gated(r + i * C, row, h + i * C, gate ? gate + b * n->gate_stride : NULL, C);
            row = r + i * C;
        }

        float mu, var;
        moments(&mu, &var, row, C);
        const float inv = 1 / sqrtf(var + n->eps);
        if (n->y_dtype == TS_BF16) modulate_narrow((uint16_t *)y + i * C, row, mu, inv, sc, sh, C);
        else modulate((float *)y + i * C, row, mu, inv, sc, sh, C);
        if (mean) {
            mean[i] = mu;
            rstd[i] = inv;
        }
    }
    return TS_OK;
}

typedef struct {
    float *dx, *dh, *dgate, *dscale, *dshift;
    const float *dy, *dr, *r, *mean, *rstd, *h, *gate, *scale;
    const ts_ada_norm *n;
} job;

/* dx and dh of token i.  With n = (r - mean) rstd and dn = dy (1 + scale):
 *     dx = dr + rstd (dn - avg(dn) - n avg(dn n)) */
static void backward_row(const job *j, int64_t i)
{
    const int64_t C = j->n->C, b = i / j->n->T, whole = C / VF * VF;
    const float *dy = j->dy + i * C, *r = j->r + i * C, *sc = j->scale + b * j->n->scale_stride;
    const float mu = j->mean[i], inv = j->rstd[i];

    vf sum = { 0 }, sum_n = { 0 };
    for (int64_t c = 0; c < whole; c += VF) {
        const vf dn = vf_load(dy + c) * (vf_load(sc + c) + 1);
        sum += dn;
        sum_n = vf_fma(dn, (vf_load(r + c) - mu) * inv, sum_n);
    }
    const vf dn = vf_load_some(dy + whole, C - whole, 0) * (vf_load_some(sc + whole, C - whole, 0) + 1);
    sum_n = vf_fma(dn, (vf_load_some(r + whole, C - whole, mu) - mu) * inv, sum_n);
    const float avg = vf_sum(sum + dn) / (float)C, avg_n = vf_sum(sum_n) / (float)C;

    float *dx = j->dx + i * C;
    const float *dr = j->dr ? j->dr + i * C : NULL;
#pragma omp simd
    for (int64_t c = 0; c < C; c++) {
        const float norm = (r[c] - mu) * inv;
        const float dn_c = dy[c] * (1 + sc[c]); /* rounded as in the sum, so that a single channel cancels exactly */
        const float d = inv * (dn_c - avg - norm * avg_n);
        dx[c] = dr ? dr[c] + d : d;
    }
    if (j->h == NULL) return;
    const float *gate = j->gate ? j->gate + b * j->n->gate_stride : NULL;
    float *dh = j->dh + i * C;
#pragma omp simd
    for (int64_t c = 0; c < C; c++) dh[c] = gate ? gate[c] * dx[c] : dx[c];
}

/* Adds the sums over all tokens of image b to channels c0..c1-1, in ascending t. */
static void backward_sums(const job *j, int64_t b, int64_t c0, int64_t c1)
{
    const int64_t C = j->n->C, T = j->n->T;
    float *dscale = j->dscale + b * j->n->scale_stride, *dshift = j->dshift + b * j->n->shift_stride;
    float *dgate = j->h && j->gate ? j->dgate + b * j->n->gate_stride : NULL;
    for (int64_t i = b * T; i < (b + 1) * T; i++) {
        const float *dy = j->dy + i * C, *r = j->r + i * C;
        const float mu = j->mean[i], inv = j->rstd[i];
#pragma omp simd
        for (int64_t c = c0; c < c1; c++) {
            dshift[c] += dy[c];
            dscale[c] = fmaf(dy[c], (r[c] - mu) * inv, dscale[c]);
        }
        if (dgate == NULL) continue;
        const float *dx = j->dx + i * C, *h = j->h + i * C;
#pragma omp simd
        for (int64_t c = c0; c < c1; c++) dgate[c] = fmaf(dx[c], h[c], dgate[c]);
    }
}

ts_status ada_norm_bwd_cpu(ts_stream *s, float *dx, float *dh, float *dgate, float *dscale, float *dshift,
                           const float *dy, const float *dr, const float *r, const float *mean, const float *rstd,
                           const float *h, const float *gate, const float *scale, const ts_ada_norm *n)
{
    enum { BLOCK = 64 };
    const job j = { dx, dh, dgate, dscale, dshift, dy, dr, r, mean, rstd, h, gate, scale, n };
    const int64_t B = n->B, T = n->T, C = n->C, blocks = (C + BLOCK - 1) / BLOCK;

    if (B >= s->threads) { /* an image per task: its rows are still in the cache when they are summed */
#pragma omp parallel for num_threads(s->threads)
        for (int64_t b = 0; b < B; b++) {
            for (int64_t i = b * T; i < (b + 1) * T; i++) backward_row(&j, i);
            backward_sums(&j, b, 0, C);
        }
        return TS_OK;
    }
#pragma omp parallel for num_threads(s->threads)
    for (int64_t i = 0; i < B * T; i++) backward_row(&j, i);
#pragma omp parallel for num_threads(s->threads)
    for (int64_t k = 0; k < B * blocks; k++) {
        const int64_t c0 = k % blocks * BLOCK;
        backward_sums(&j, k / blocks, c0, c0 + BLOCK < C ? c0 + BLOCK : C);
    }
    return TS_OK;
}
