/* grid.cuh - one number of a resampled or convolved grid (rows,columns,D), channels last: what resample, pyramid_add,
 * residual_fsq and residual_vq share. Indices of quantizers depend on the orders of summation here; those of the CPU
 * twins (kernels/cpu/resample.c, pyramid.c) are the same. Pointers to a grid point at its channel d already. */
#ifndef TS_CUDA_GRID_CUH
#define TS_CUDA_GRID_CUH

#include "kernels/cuda/launch.cuh"
#include "tessera/op_pyramid.h"
#include "tessera/taps.h"

/* What an output cell of a bicubic resampling reads along one axis. */
struct taps {
    int at[4];
    float weight[4];
};

static __device__ inline taps taps_of(int64_t i, int64_t from, int64_t to)
{
    int64_t at[4];
    taps t;
    ts_bicubic_taps(i, from, to, at, t.weight);
    for (int j = 0; j < 4; j++) t.at[j] = (int)at[j];
    return t;
}

/* Along x first, then along y; the first tap a product, the other three fmaf, ascending. */
static __device__ inline float bicubic_at(const float *x, const taps &ty, const taps &tx, int64_t columns, int64_t D)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        const float *row = x + ty.at[i] * columns * D;
        float u = tx.weight[0] * row[tx.at[0] * D];
        for (int j = 1; j < 4; j++) u = fmaf(tx.weight[j], row[tx.at[j] * D], u);
        sum = i == 0 ? ty.weight[0] * u : fmaf(ty.weight[i], u, sum);
    }
    return sum;
}

/* How much input i weighs in an output; several taps fall on one input at the border. */
static __device__ inline float weight_at(const taps &t, int64_t i)
{
    float sum = 0;
    for (int j = 0; j < 4; j++) sum += t.at[j] == i ? t.weight[j] : 0.0f;
    return sum;
}

/* Mean over cell (i, j): rows, then columns, ascending, from 0; then one division. */
static __device__ inline float area_at(const float *x, int64_t i, int64_t j, int64_t from_y, int64_t from_x,
                                       int64_t to_y, int64_t to_x, int64_t D)
{
    int64_t y0, y1, x0, x1;
    ts_area_range(i, from_y, to_y, &y0, &y1);
    ts_area_range(j, from_x, to_x, &x0, &x1);
    float sum = 0;
    for (int64_t m = y0; m < y1; m++)
        for (int64_t n = x0; n < x1; n++) sum += x[(m * from_x + n) * D];
    return sum / (float)((y1 - y0) * (x1 - x0));
}

/* sum + what input cell (i, j) receives from the gradients dy of the cells that hold it. */
static __device__ inline float area_adjoint_at(float sum, const float *dy, int64_t i, int64_t j, int64_t from_y,
                                               int64_t from_x, int64_t to_y, int64_t to_x, int64_t D)
{
    for (int64_t p = i * to_y / from_y; p <= ((i + 1) * to_y - 1) / from_y; p++) {
        for (int64_t q = j * to_x / from_x; q <= ((j + 1) * to_x - 1) / from_x; q++) {
            int64_t y0, y1, x0, x1;
            ts_area_range(p, from_y, to_y, &y0, &y1);
            ts_area_range(q, from_x, to_x, &x0, &x1);
            sum = fmaf(1.0f / (float)((y1 - y0) * (x1 - x0)), dy[(p * to_x + q) * D], sum);
        }
    }
    return sum;
}

/* Convolution k of phi: its kernel as (out,ky,kx,in), or as (ky,kx,in,out), whose neighbours neighbouring threads read. */
struct phi_weights {
    const float *w, *b;
    int out_step, in_step;
};

/* phi of output channel o at cell (y, x) of u (h,w,D): acc = bias; for ky, kx, in ascending: acc = fmaf(u, w, acc), the
 * zeros of the padding included. */
static __device__ inline float phi_at(const float *u, const phi_weights &w, int y, int x, int o, const ts_pyramid &p,
                                      int D)
{
    float acc = w.b[o];
    const float *k = w.w + o * w.out_step;
    for (int ky = 0; ky < 3; ky++) {
        for (int kx = 0; kx < 3; kx++) {
            const int i = y + ky - 1, j = x + kx - 1;
            const bool inside = i >= 0 && i < p.h && j >= 0 && j < p.w;
            const float *from = u + (i * p.w + j) * D;
            for (int c = 0; c < D; c++, k += w.in_step) acc = fmaf(inside ? from[c] : 0.0f, *k, acc);
        }
    }
    return fmaf(p.ratio, acc, (1.0f - p.ratio) * u[(y * p.w + x) * D + o]);
}

#endif
