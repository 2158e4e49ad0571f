/* philox.h - Philox4x32-10, the counter-based random numbers of everything that draws: a number is a function of a key
 * and a counter, so it does not matter who computes it, when, or in which order. Equal bits on every backend.
 *
 * Source    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 */
#ifndef TS_PHILOX_H
#define TS_PHILOX_H

#include "tessera/exact.h"

typedef struct {
    uint32_t word[4];
} ts_philox;

/* The block of counter (c0, c1, c2, c3) under key seed (low word, high word). Always inline: a loop that calls it would
 * not vectorise. */
static inline __attribute__((always_inline)) TS_HD ts_philox ts_philox_block(uint64_t seed, uint32_t c0, uint32_t c1,
                                                                             uint32_t c2, uint32_t c3)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    ts_philox x = { { c0, c1, c2, c3 } };
    return x;
}

/* A word as a number in (0,1): the middles of 2^23 equal cells. With one bit more the last cell would round to 1. */
static inline TS_HD float ts_philox_unit(uint32_t word)
{
    return ((float)(word >> 9) + 0.5f) * 0x1p-23f;
}

/* One number in (0,1) for the numbers a, b and c. */
static inline TS_HD float ts_philox_uniform(uint64_t seed, uint32_t a, uint32_t b, uint64_t c)
{
    return ts_philox_unit(ts_philox_block(seed, a, b, (uint32_t)c, (uint32_t)(c >> 32)).word[0]);
}

/* One standard normal for the numbers a, b and c: Box and Muller 1958. |x| < 5.8. */
static inline TS_HD float ts_philox_normal(uint64_t seed, uint32_t a, uint32_t b, uint64_t c)
{
    ts_philox x = ts_philox_block(seed, a, b, (uint32_t)c, (uint32_t)(c >> 32));
    float radius = sqrtf(-2.0f * ts_logf(ts_philox_unit(x.word[0])));
    float turn = fabsf(ts_philox_unit(x.word[1]) - 0.5f); /* cos(2 pi u) = -cos(2 pi turn) = sin(2 pi (turn - 1/4)) */
    float y = 6.28318531f * (turn - 0.25f), y2 = y * y;
    float p = -2.50521084e-8f; /* Taylor: |y| <= pi/2, so the next term is below 6e-8 */
    p = fmaf(p, y2, 2.75573192e-6f);
    p = fmaf(p, y2, -1.98412698e-4f);
    p = fmaf(p, y2, 8.33333333e-3f);
    p = fmaf(p, y2, -1.66666667e-1f);
    return radius * fmaf(y * y2, p, y);
}

#endif
