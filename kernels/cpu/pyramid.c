/* pyramid.c - the steps of one scale, and pyramid_add, on the CPU. Contract: tessera/op_pyramid.h. Twin:
 * kernels/cuda/pyramid.cu.
 *
 * Orders that indices depend on (twins keep them):
 *   bicubic   along x, then along y; the first tap a product, the other three fmaf, ascending
 *   conv      acc = bias; for ky, kx, in ascending: acc = fmaf(x, w, acc), the zeros of the padding included
 *   phi       fmaf(ratio, conv, (1 - ratio)*u) */
#include "kernels/cpu/pyramid.h"

#include <omp.h>
#include <string.h>

#include "kernels/cpu/resample.h"
#include "kernels/cpu/stream.h"
#include "tessera/taps.h"

enum { CELLS = 4 }; /* neighbouring cells that a convolution works on at a time: as many independent sums */

void ts_phi_pack(float *pack, const ts_phi *phi, const ts_pyramid *p, int D)
{
    const int64_t lanes = ts_lanes(D), size = ts_pack_floats(D);
    if (p->S > 0) memset(pack, 0, sizeof(float) * (size_t)(p->S * size));
    for (int j = 0; j < p->S; j++) {
        float *to = pack + j * size;
        for (int64_t o = 0; o < D; o++) {
            for (int64_t i = 0; i < 9 * D; i++) to[i * lanes + o] = phi->w[j][o * 9 * D + i];
            to[9 * D * lanes + o] = phi->b[j][o];
        }
    }
}

void ts_phi_pack_transposed(float *pack, const ts_phi *phi, const ts_pyramid *p, int D)
{
    const int64_t lanes = ts_lanes(D), size = ts_pack_floats(D);
    if (p->S > 0) memset(pack, 0, sizeof(float) * (size_t)(p->S * size));
    for (int j = 0; j < p->S; j++)
        for (int64_t tap = 0; tap < 9; tap++)
            for (int64_t o = 0; o < D; o++)
                memcpy(pack + j * size + (tap * D + o) * lanes, phi->w[j] + (o * 9 + 8 - tap) * D,
                       sizeof(float) * (size_t)D);
}

static int same_grid(const ts_pyramid *p, int k)
{
    return p->py[k] == p->h && p->px[k] == p->w;
}

void ts_scale_area(float *z, const float *r, const ts_pyramid *p, int D, int k)
{
    if (same_grid(p, k)) {
        memcpy(z, r, sizeof(float) * (size_t)ts_grid_floats(p, D));
        return;
    }
    const ts_resample a = { 1, D, p->h, p->w, p->py[k], p->px[k] };
    for (int64_t i = 0; i < p->py[k]; i++) ts_area_row(z + i * p->px[k] * D, r, i, &a);
}

void ts_scale_area_adjoint(float *dr, const float *dz, const ts_pyramid *p, int D, int k)
{
    const ts_resample a = { 1, D, p->h, p->w, p->py[k], p->px[k] };
    if (!same_grid(p, k)) {
        ts_area_scatter(dr, dz, &a, 0, D);
        return;
    }
    for (int64_t n = 0; n < ts_grid_floats(p, D); n++) dr[n] += dz[n];
}

static void bicubic_padded(float *u, const float *code, const ts_pyramid *p, int D, int k, float *tmp)
{
    const int64_t py = p->py[k], px = p->px[k], row = (int64_t)p->w * D;
    int64_t at[4];
    float wt[4];
    for (int64_t x = 0; x < p->w; x++) {
        ts_bicubic_taps(x, px, p->w, at, wt);
        for (int64_t i = 0; i < py; i++) {
            const float *from = code + i * px * D;
            const float *a = from + at[0] * D, *b = from + at[1] * D, *c = from + at[2] * D, *e = from + at[3] * D;
            float *to = tmp + i * row + x * D;
#pragma omp simd
            for (int64_t d = 0; d < D; d++)
                to[d] = fmaf(wt[3], e[d], fmaf(wt[2], c[d], fmaf(wt[1], b[d], wt[0] * a[d])));
        }
    }
    for (int64_t y = 0; y < p->h; y++) {
        ts_bicubic_taps(y, py, p->h, at, wt);
        const float *a = tmp + at[0] * row, *b = tmp + at[1] * row, *c = tmp + at[2] * row, *e = tmp + at[3] * row;
        float *to = u + ((y + 1) * (p->w + 2) + 1) * D;
#pragma omp simd
        for (int64_t n = 0; n < row; n++) to[n] = fmaf(wt[3], e[n], fmaf(wt[2], c[n], fmaf(wt[1], b[n], wt[0] * a[n])));
    }
}

/* dcode = bicubic^T(du); tmp: one grid. */
static void bicubic_adjoint(float *dcode, const float *du, const ts_pyramid *p, int D, int k, float *tmp)
{
    const int64_t py = p->py[k], px = p->px[k], row = (int64_t)p->w * D;
    int64_t at[4];
    float wt[4];
    memset(tmp, 0, sizeof(float) * (size_t)(py * row));
    memset(dcode, 0, sizeof(float) * (size_t)(py * px * D));
    for (int64_t y = 0; y < p->h; y++) {
        ts_bicubic_taps(y, py, p->h, at, wt);
        for (int t = 0; t < 4; t++) {
            float *to = tmp + at[t] * row;
            const float *from = du + y * row;
#pragma omp simd
            for (int64_t n = 0; n < row; n++) to[n] = fmaf(wt[t], from[n], to[n]);
        }
    }
    for (int64_t x = 0; x < p->w; x++) {
        ts_bicubic_taps(x, px, p->w, at, wt);
        for (int64_t i = 0; i < py; i++) {
            const float *from = tmp + i * row + x * D;
            for (int t = 0; t < 4; t++) {
                float *to = dcode + (i * px + at[t]) * D;
#pragma omp simd
                for (int64_t d = 0; d < D; d++) to[d] = fmaf(wt[t], from[d], to[d]);
            }
        }
    }
}

/* to (h,w,D) inside the ring of a padded grid. */
static void pad(float *to, const float *from, const ts_pyramid *p, int D)
{
    const int64_t row = (int64_t)p->w * D;
    for (int64_t y = 0; y < p->h; y++)
        memcpy(to + ((y + 1) * (p->w + 2) + 1) * D, from + y * row, sizeof(float) * (size_t)row);
}

/* phi of `cells` neighbouring cells (a constant where this is inlined) and `lanes` output channels from o on: the sums
 * stay in registers. */
static inline void phi_cells(float *up, const float *u, const float *pack, const ts_pyramid *p, int D, int64_t o,
                             int cells)
{
    const int64_t stride = ts_lanes(D), row = (int64_t)(p->w + 2) * D;
    const float *w = pack + o, *bias = pack + 9 * D * stride + o;
    float acc[CELLS][TS_LANES];
    for (int n = 0; n < cells; n++)
        for (int i = 0; i < TS_LANES; i++) acc[n][i] = bias[i];
    for (int ky = 0; ky < 3; ky++) {
        const float *x = u + ky * row;
        for (int64_t c = 0; c < 3 * D; c++, w += stride) {
            for (int n = 0; n < cells; n++) {
                const float v = x[n * D + c];
#pragma omp simd
                for (int i = 0; i < TS_LANES; i++) acc[n][i] = fmaf(v, w[i], acc[n][i]);
            }
        }
    }
    const int64_t lanes = D - o < TS_LANES ? D - o : TS_LANES;
    const float *centre = u + row + D + o;
    for (int n = 0; n < cells; n++)
        for (int64_t i = 0; i < lanes; i++)
            up[n * D + o + i] = fmaf(p->ratio, acc[n][i], (1.0f - p->ratio) * centre[n * D + i]);
}

/* up (h,w,D) = phi of the padded grid u; without phi a copy. */
static void phi_grid(float *up, const float *u, const float *pack, const ts_pyramid *p, int D, int k)
{
    const float *w = pack + p->phi[k] * ts_pack_floats(D);
    for (int64_t y = 0; y < p->h; y++) {
        float *to = up + y * p->w * D;
        const float *from = u + y * (p->w + 2) * D;
        if (p->S == 0) {
            memcpy(to, from + (p->w + 3) * D, sizeof(float) * (size_t)(p->w * D));
            continue;
        }
        for (int64_t o = 0; o < D; o += TS_LANES) {
            int64_t x = 0;
            for (; x + CELLS <= p->w; x += CELLS) phi_cells(to + x * D, from + x * D, w, p, D, o, CELLS);
            for (; x < p->w; x++) phi_cells(to + x * D, from + x * D, w, p, D, o, 1);
        }
    }
}

void ts_scale_up(float *up, float *u, const float *code, const float *pack, const ts_pyramid *p, int D, int k,
                 float *tmp)
{
    if (same_grid(p, k))
        pad(u, code, p, D);
    else
        bicubic_padded(u, code, p, D, k, tmp);
    phi_grid(up, u, pack, p, D, k);
}

void ts_scale_up_adjoint(float *dcode, const float *dup, const float *pack, const ts_pyramid *p, int D, int k,
                         float *padded, float *tmp)
{
    pad(padded, dup, p, D);
    if (same_grid(p, k)) {
        phi_grid(dcode, padded, pack, p, D, k);
        return;
    }
    phi_grid(tmp, padded, pack, p, D, k);
    bicubic_adjoint(dcode, tmp, p, D, k, tmp + ts_grid_floats(p, D));
}

/* Rows of `taps` neighbouring (kx, in) pairs of the weight gradient, lanes of output channels from o on. */
static inline void gradient_taps(float *dw, const float *u, const float *g, const ts_pyramid *p, int D, int taps)
{
    const int64_t stride = ts_lanes(D);
    float acc[CELLS][TS_LANES];
    for (int n = 0; n < taps; n++)
        for (int i = 0; i < TS_LANES; i++) acc[n][i] = dw[n * stride + i];
    for (int64_t y = 0; y < p->h; y++) {
        for (int64_t x = 0; x < p->w; x++) {
            const float *v = u + (y * (p->w + 2) + x) * D, *from = g + (y * p->w + x) * stride;
            for (int n = 0; n < taps; n++) {
#pragma omp simd
                for (int i = 0; i < TS_LANES; i++) acc[n][i] = fmaf(v[n], from[i], acc[n][i]);
            }
        }
    }
    for (int n = 0; n < taps; n++)
        for (int i = 0; i < TS_LANES; i++) dw[n * stride + i] = acc[n][i];
}

void ts_phi_gradient(float *dpack, const float *u, const float *dup, const ts_pyramid *p, int D, int k, float *tmp)
{
    if (p->S == 0) return;
    const int64_t stride = ts_lanes(D), cells = (int64_t)p->h * p->w;
    float *dw = dpack + p->phi[k] * ts_pack_floats(D), *db = dw + 9 * D * stride;
    memset(tmp, 0, sizeof(float) * (size_t)(cells * stride));
    for (int64_t n = 0; n < cells; n++) {
        for (int64_t d = 0; d < D; d++) {
            tmp[n * stride + d] = p->ratio * dup[n * D + d];
            db[d] += tmp[n * stride + d];
        }
    }
    for (int ky = 0; ky < 3; ky++) {
        const float *from = u + ky * (p->w + 2) * D;
        for (int64_t o = 0; o < stride; o += TS_LANES) {
            float *to = dw + ky * 3 * D * stride + o;
            int64_t c = 0;
            for (; c + CELLS <= 3 * D; c += CELLS) gradient_taps(to + c * stride, from + c, tmp + o, p, D, CELLS);
            for (; c < 3 * D; c++) gradient_taps(to + c * stride, from + c, tmp + o, p, D, 1);
        }
    }
}

void ts_phi_gradient_sum(ts_stream *s, const ts_phi *dphi, const float *dpack, int64_t n, int64_t stride,
                         const ts_pyramid *p, int D)
{
    const int64_t lanes = ts_lanes(D), size = ts_pack_floats(D);
#pragma omp parallel for collapse(2) num_threads(s->threads)
    for (int j = 0; j < p->S; j++) {
        for (int64_t o = 0; o < D; o++) {
            for (int64_t m = 0; m < n; m++) {
                const float *from = dpack + m * stride + j * size + o;
                for (int64_t i = 0; i < 9 * D; i++) dphi->w[j][o * 9 * D + i] += from[i * lanes];
                dphi->b[j][o] += from[9 * D * lanes];
            }
        }
    }
}

/* Scratch: packed phi, then for every thread a padded grid and two grids. */
static int64_t thread_floats(const ts_pyramid *p, int D)
{
    return ts_padded_floats(p, D) + 2 * ts_grid_floats(p, D);
}

size_t pyramid_scratch_cpu(ts_stream *s, const ts_pyramid *p, int D, int64_t B)
{
    (void)B;
    return sizeof(float) * (size_t)(p->S * ts_pack_floats(D) + s->threads * thread_floats(p, D));
}

ts_status pyramid_add_cpu(ts_stream *s, float *f_hat, float *next, const float *code, const ts_phi *phi,
                          const ts_pyramid *p, int D, int k, int64_t B, void *scratch)
{
    if (k < 0 || k >= p->K) return ts_fail(TS_E_ARG, "pyramid_add: scale %d, expected 0..%d", k, p->K - 1);
    if (next && k == p->K - 1) return ts_fail(TS_E_ARG, "pyramid_add: the last scale has no next one");
    const int64_t grid = ts_grid_floats(p, D), tokens = (int64_t)p->py[k] * p->px[k];
    const int64_t next_tokens = next ? (int64_t)p->py[k + 1] * p->px[k + 1] : 0;
    float *pack = scratch, *work = pack + p->S * ts_pack_floats(D);
    ts_phi_pack(pack, phi, p, D);
#pragma omp parallel num_threads(s->threads)
    {
        float *u = work + omp_get_thread_num() * thread_floats(p, D), *up = u + ts_padded_floats(p, D);
        memset(u, 0, sizeof(float) * (size_t)ts_padded_floats(p, D));
#pragma omp for
        for (int64_t b = 0; b < B; b++) {
            float *sum = f_hat + b * grid;
            ts_scale_up(up, u, code + b * tokens * D, pack, p, D, k, up + grid);
#pragma omp simd
            for (int64_t n = 0; n < grid; n++) sum[n] += up[n];
            if (next) ts_scale_area(next + b * next_tokens * D, sum, p, D, k + 1);
        }
    }
    return TS_OK;
}
