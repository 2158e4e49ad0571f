/* bf16.h - rounding to bfloat16, to nearest even, in loops that the compiler vectorises. NaN stays NaN. */
#ifndef TS_CPU_BF16_H
#define TS_CPU_BF16_H

#include <stdint.h>
#include <string.h>

/* The bits of x rounded to bfloat16: a float's bits with the lower half cleared. */
static inline uint32_t bf16_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    const uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1u)) & 0xffff0000u;
    return x == x ? rounded : u | 0x00400000u; /* adding could carry a NaN's payload out */
}

/* Two numbers, rounded, as they stand next to each other in memory. */
static inline uint32_t bf16_pair(float first, float second)
{
    return bf16_bits(first) >> 16 | (bf16_bits(second) & 0xffff0000u);
}

static inline uint16_t bf16_narrow(float x)
{
    return (uint16_t)(bf16_bits(x) >> 16);
}

static inline float bf16_widen(uint16_t bits)
{
    const uint32_t u = (uint32_t)bits << 16;
    float r;
    memcpy(&r, &u, sizeof r);
    return r;
}

static inline float bf16_round(float x)
{
    const uint32_t u = bf16_bits(x) & 0xffff0000u;
    float r;
    memcpy(&r, &u, sizeof r);
    return r;
}

#endif
