/* bf16.cuh - rounding to bfloat16, to nearest even, by integers, as kernels/cpu/bf16.h does. NaN stays NaN. */
#ifndef TS_CUDA_BF16_CUH
#define TS_CUDA_BF16_CUH

#include "kernels/cuda/launch.cuh"
#include "tessera/exact.h"

static __device__ inline uint16_t bf16_narrow(float x)
{
    const uint32_t u = ts_bits_of(x), rounded = u + 0x7fffu + (u >> 16 & 1u);
    return (uint16_t)((x == x ? rounded : u | 0x00400000u) >> 16); /* adding could carry a NaN's payload out */
}

static __device__ inline float bf16_round(float x)
{
    return ts_float_of((uint32_t)bf16_narrow(x) << 16);
}

#endif
