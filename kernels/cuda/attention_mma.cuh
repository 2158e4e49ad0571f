/* attention_mma.cuh - what forward and backward of attention on tensor cores share: rows rounded to bfloat16 in shared
 * memory, and products of 16 of them by a tile.
 *
 * A product adds what a weight of zero hides, too: zero times NaN is NaN. So numbers that are not finite can be loaded
 * as zeros and their rows marked; who sees a marked row gets NaN. */
#ifndef TS_CUDA_ATTENTION_MMA_CUH
#define TS_CUDA_ATTENTION_MMA_CUH

#include <cuda_bf16.h>
#include <mma.h>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/bf16.cuh"
#include "tessera/exact.h"

namespace wmma = nvcuda::wmma;

/* A block owns MMA_TILE rows, each of its warps ROWS of them. */
enum { SIDE = 16, ROWS = SIDE, WARPS = MMA_TILE / ROWS };

/* bfloat16 numbers between rows of `width`: eight more than there are, against bank conflicts. */
static __host__ __device__ inline int stride_of(int width)
{
    return width + 8;
}

static inline int width_of(int c)
{
    return (c + SIDE - 1) / SIDE * SIDE;
}

static __device__ inline const __nv_bfloat16 *as_bf16(const uint16_t *p)
{
    return (const __nv_bfloat16 *)p;
}

static __device__ inline bool finite(uint16_t x)
{
    return (x & 0x7f80) != 0x7f80;
}

/* Four numbers from x on, those of them that come before `left`. quads: x is aligned and left a multiple of four. */
static __device__ inline float4 four_of(const float *x, int left, int quads)
{
    float4 v = { 0, 0, 0, 0 };
    if (left <= 0) return v;
    if (quads) return load4(x);
    v.x = x[0];
    if (left > 1) v.y = x[1];
    if (left > 2) v.z = x[2];
    if (left > 3) v.w = x[3];
    return v;
}

/* Rows t0.. of `from`, n in all, rounded; zeros behind them and behind their c channels. bad: where rows with numbers
 * that are not finite, which become zeros, leave `mark`; or NULL. */
static __device__ inline void load_rounded(uint16_t *to, int stride, const float *from, int64_t token, int64_t t0,
                                           int64_t n, int rows, const job &j, int width, int *bad, int mark)
{
    for (int i = (int)threadIdx.x * 4; i < rows * width; i += (int)blockDim.x * 4) {
        const int row = i / width, at = i % width;
        const float4 v = four_of(from + (t0 + row) * token + at, t0 + row < n ? j.c - at : 0, j.quads);
        uint16_t a = bf16_narrow(v.x), b = bf16_narrow(v.y), c = bf16_narrow(v.z), d = bf16_narrow(v.w);
        if (bad && !(finite(a) && finite(b) && finite(c) && finite(d))) {
            a = b = c = d = 0;
            atomicMax(bad + row, mark);
        }
        *(uint64_t *)(to + row * stride + at) = a | (uint64_t)b << 16 | (uint64_t)c << 32 | (uint64_t)d << 48;
    }
}

/* to (ROWS, TILE) = rows . rows of a tile */
static __device__ inline void multiply_rows(float *to, int to_stride, const uint16_t *rows, const uint16_t *tile,
                                            int stride, int width)
{
    for (int u = 0; u < TILE; u += SIDE) {
        wmma::fragment<wmma::accumulator, SIDE, SIDE, SIDE, float> sum;
        wmma::fill_fragment(sum, 0.0f);
        for (int i = 0; i < width; i += SIDE) {
            wmma::fragment<wmma::matrix_a, SIDE, SIDE, SIDE, __nv_bfloat16, wmma::row_major> a;
            wmma::fragment<wmma::matrix_b, SIDE, SIDE, SIDE, __nv_bfloat16, wmma::col_major> b;
            wmma::load_matrix_sync(a, as_bf16(rows + i), (unsigned)stride);
            wmma::load_matrix_sync(b, as_bf16(tile + u * stride + i), (unsigned)stride);
            wmma::mma_sync(sum, a, b, sum);
        }
        wmma::store_matrix_sync(to + u, sum, (unsigned)to_stride, wmma::mem_row_major);
    }
}

/* A row of bfloat16 numbers, one of each lane; lanes write in pairs. */
static __device__ inline void put_row(uint16_t *p, float e, int lane)
{
    const uint32_t mine = bf16_narrow(e), next = (uint32_t)__shfl_down_sync(ALL_LANES, (int)mine, 1);
    if (lane % 2 == 0) *(uint32_t *)(p + lane) = mine | next << 16;
}

#endif
