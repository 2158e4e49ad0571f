/* act.h - activations of one number (tessera/op_act.h), in loops that the compiler vectorises. */
#ifndef TS_CPU_ACT_H
#define TS_CPU_ACT_H

#include "tessera/exact.h"

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

#endif
