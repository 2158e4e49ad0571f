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

/* Whether all of four bfloat16 numbers are. */
static __device__ inline bool finite(uint64_t four)
{
    bool all = true;
    for (int i = 0; i < 4; i++) all = all && (four >> 16 * i & 0x7f80) != 0x7f80;
    return all;
}

/* Four bfloat16 numbers, side by side. */
static __device__ inline uint64_t quad_of(uint16_t a, uint16_t b, uint16_t c, uint16_t d)
{
    return a | (uint64_t)b << 16 | (uint64_t)c << 32 | (uint64_t)d << 48;
}

/* Four numbers from x on, rounded, those of them that come before `left`. quads: x is aligned and left a multiple of four. */
static __device__ inline uint64_t four_of(const float *x, int left, int quads)
{
    float4 v = { 0, 0, 0, 0 };
    if (left <= 0) return 0;
    if (quads) {
        v = load4(x);
    } else {
        v.x = x[0];
        if (left > 1) v.y = x[1];
        if (left > 2) v.z = x[2];
        if (left > 3) v.w = x[3];
    }
    return quad_of(bf16_narrow(v.x), bf16_narrow(v.y), bf16_narrow(v.z), bf16_narrow(v.w));
}

static __device__ inline uint64_t four_of(const uint16_t *x, int left, int quads)
{
    if (left <= 0) return 0;
    if (quads) return *(const uint64_t *)x;
    return quad_of(x[0], left > 1 ? x[1] : 0, left > 2 ? x[2] : 0, left > 3 ? x[3] : 0);
}

/* Rows t0.. of `from`, n in all, rounded; zeros behind them and behind their c channels. bad: where rows with numbers
 * that are not finite, which become zeros, leave `mark`; or NULL. */
template <class T>
static __device__ inline void load_rounded(uint16_t *to, int stride, const T *from, int64_t token, int64_t t0,
                                           int64_t n, int rows, const job &j, int width, int *bad, int mark)
{
    for (int i = (int)threadIdx.x * 4; i < rows * width; i += (int)blockDim.x * 4) {
        const int row = i / width, at = i % width;
        uint64_t four = four_of(from + (t0 + row) * token + at, t0 + row < n ? j.c - at : 0, j.quads);
        if (bad && !finite(four)) {
            four = 0;
            atomicMax(bad + row, mark);
        }
        *(uint64_t *)(to + row * stride + at) = four;
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
