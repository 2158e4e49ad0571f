/* act.h - activations (tessera/op_act.h) of one number and of some, in loops that the compiler vectorises. */
#ifndef TS_CPU_ACT_H
#define TS_CPU_ACT_H

#include "kernels/cpu/bf16.h"
#include "tessera/exact.h"
#include "tessera/op_act.h"

static const float GELU_A = 0.7978845608f; /* sqrt(2/pi) */
static const float GELU_B = 0.044715f;

static inline float gelu_tanh_of(float x)
{
    return ts_tanhf(GELU_A * fmaf(GELU_B * x * x, x, x));
}

static inline float silu_of(float x)
{
    return x * ts_sigmoidf(x);
}

static inline float gelu_of(float x)
{
    return 0.5f * x * (1.0f + gelu_tanh_of(x));
}

/* y (n) of y_dtype = act of x (n); in float32 y may be x itself. */
static inline void act_numbers(void *y, const float *x, ts_act act, int64_t n, ts_dtype y_dtype)
{
    float *wide = y;
    uint16_t *narrow = y;
    if (y_dtype == TS_F32 && act == TS_SILU) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) wide[i] = silu_of(x[i]);
    } else if (y_dtype == TS_F32) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) wide[i] = gelu_of(x[i]);
    } else if (act == TS_SILU) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) narrow[i] = bf16_narrow(silu_of(x[i]));
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) narrow[i] = bf16_narrow(gelu_of(x[i]));
    }
}

#endif
