/* bf16.cuh - rounding to bfloat16, to nearest even, by integers, as kernels/cpu/bf16.h does. NaN stays NaN. And numbers that stand
 * in memory as float32 or, where products read them (ts_backend.factor_dtype), as bfloat16. */
#ifndef TS_CUDA_BF16_CUH
#define TS_CUDA_BF16_CUH

#include "kernels/cuda/launch.cuh"
#include "tessera/exact.h"

static __device__ inline uint16_t bf16_narrow(float x)
{
    const uint32_t u = ts_bits_of(x), rounded = u + 0x7fffu + (u >> 16 & 1u);
    return (uint16_t)((x == x ? rounded : u | 0x00400000u) >> 16); /* adding could carry a NaN's payload out */
}

static __device__ inline float bf16_widen(uint16_t x)
{
    return ts_float_of((uint32_t)x << 16);
}

static __device__ inline float bf16_round(float x)
{
    return bf16_widen(bf16_narrow(x));
}

/* *to = x, as it is stored there. */
static __device__ inline void put(float *to, float x)
{
    *to = x;
}

static __device__ inline void put(uint16_t *to, float x)
{
    *to = bf16_narrow(x);
}

/* Four of them, together; `to` is aligned. */
static __device__ inline void put4(float *to, float4 v)
{
    store4(to, v);
}

static __device__ inline void put4(uint16_t *to, float4 v)
{
    *(uint64_t *)to = bf16_narrow(v.x) | (uint64_t)bf16_narrow(v.y) << 16 | (uint64_t)bf16_narrow(v.z) << 32 |
                      (uint64_t)bf16_narrow(v.w) << 48;
}

/* Launches kernel<uint16_t> or kernel<float>, whose first argument is what it writes: `to`, as `dtype` says. `launch` is TS_LAUNCH
 * or TS_LAUNCH_TOGETHER. */
#define TS_LAUNCH_STORING(launch, dtype, kernel, grid, block, shared_bytes, s, to, ...)                                \
    ((dtype) == TS_BF16 ? launch(kernel<uint16_t>, grid, block, shared_bytes, s, (uint16_t *)(to), __VA_ARGS__)        \
                        : launch(kernel<float>, grid, block, shared_bytes, s, (float *)(to), __VA_ARGS__))

#endif
