/* exact.h - exp, log, tanh and sigmoid in float32 that give the same bits on every backend.
 *
 * Why       a quantizer rounds: two libraries whose tanh differs by one bit give two different tokens. These functions
 *           use IEEE operations alone (+ - * / fmaf, compare and select, bit casts), and no product feeds a sum
 *           outside fmaf, so contraction cannot change them. They need -fno-fast-math on the host and nvcc's defaults
 *           for division and denormals (-prec-div=true -ftz=false).
 * Speed     no branch and no call: loops over them vectorise.
 * Accuracy  exp and log within 1 ulp, tanh and sigmoid within 2.5. Results of exp below FLT_MIN are 0.
 *           exp(-inf) = 0, exp(+inf) = +inf, exp(NaN) = NaN, and likewise for tanh and sigmoid. tanh is odd.
 */
#ifndef TS_EXACT_H
#define TS_EXACT_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define TS_HD __host__ __device__
#else
#define TS_HD
#endif

static inline TS_HD uint32_t ts_bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline TS_HD float ts_float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* 2^n for n in -126..127. */
static inline TS_HD float ts_pow2_(int32_t n)
{
    return ts_float_of((uint32_t)(n + 127) << 23);
}

/* e^x = 2^n (1 + q): returns q and sets *n, for |x| <= 104. Rounding to an integer is the addition of 1.5 * 2^23, whose
 * low bits then are the integer: a conversion would be undefined for NaN. */
static inline TS_HD float ts_exp_parts_(float x, int32_t *n)
{
    const float round = 12582912.0f;
    float t = fmaf(x, 1.44269504f, round); /* x / ln 2 */
    float m = t - round;
    *n = (int32_t)(ts_bits_of(t) - ts_bits_of(round));
    float r = fmaf(m, -0x1.62e430p-1f, x); /* ln 2 in two floats: the first product is exact inside fmaf */
    r = fmaf(m, 0x1.05c610p-29f, r);
    float p = 1.98458773e-4f; /* minimax of (e^r - 1 - r)/r^2 over |r| <= ln(2)/2 */
    p = fmaf(p, r, 1.39406277e-3f);
    p = fmaf(p, r, 8.33338965e-3f);
    p = fmaf(p, r, 4.16663624e-2f);
    p = fmaf(p, r, 1.66666657e-1f);
    p = fmaf(p, r, 0.5f);
    return fmaf(r * r, p, r);
}

static inline TS_HD float ts_expf(float x)
{
    float c = x > 89.0f ? 89.0f : x; /* 89 overflows below as +inf must */
    c = c < -87.3365f ? -87.3365f : c; /* below, the result is 0: no denormal is made on the way, they are slow */
    int32_t n;
    float q = ts_exp_parts_(c, &n);
    int32_t n1 = n >> 1; /* two factors: 2^128 is no float */
    float y = (q + 1.0f) * ts_pow2_(n1) * ts_pow2_(n - n1);
    return x < -87.3365f ? 0.0f : y;
}

/* x positive and normal, +inf, or NaN. */
static inline TS_HD float ts_logf(float x)
{
    int32_t e = (int32_t)(ts_bits_of(x) - 0x3f3504f3u) >> 23; /* x = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2) */
    float f = ts_float_of(ts_bits_of(x) - ((uint32_t)e << 23)) - 1.0f;
    float p = 6.74660131e-2f; /* minimax of (log(1 + f) - f + f^2/2)/f^3 */
    p = fmaf(p, f, -1.16756409e-1f);
    p = fmaf(p, f, 1.18881747e-1f);
    p = fmaf(p, f, -1.24055915e-1f);
    p = fmaf(p, f, 1.42195508e-1f);
    p = fmaf(p, f, -1.66679963e-1f);
    p = fmaf(p, f, 2.00021192e-1f);
    p = fmaf(p, f, -2.50000089e-1f);
    p = fmaf(p, f, 3.33333135e-1f);
    float m = (float)e, f2 = f * f;
    float y = fmaf(f2 * f, p, m * -0x1.05c610p-29f); /* smallest terms first */
    y = fmaf(f2, -0.5f, y) + f;
    y = fmaf(m, 0x1.62e430p-1f, y);
    return x <= 3.40282347e38f ? y : x; /* +inf and NaN stay */
}

/* tanh a = (e^2a - 1)/(e^2a + 1) on a = |x|, with e^2a - 1 formed without cancellation. */
static inline TS_HD float ts_tanhf(float x)
{
    uint32_t sign = ts_bits_of(x) & 0x80000000u;
    float a = ts_float_of(ts_bits_of(x) ^ sign);
    a = a > 10.0f ? 10.0f : a; /* tanh is 1 from 9.01 on */
    int32_t n;
    float q = ts_exp_parts_(a + a, &n);
    float scale = ts_pow2_(n);
    float t = fmaf(scale, q, scale - 1.0f);
    return ts_float_of(ts_bits_of(t / (t + 2.0f)) | sign);
}

static inline TS_HD float ts_sigmoidf(float x)
{
    float y = 1.0f / (1.0f + ts_expf(-x));
    return x < -87.3f ? 0.0f : y;
}

#endif
