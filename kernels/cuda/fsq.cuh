/* fsq.cuh - what fsq.cu and fsq_project.cu share: the arithmetic of one channel. Contract: tessera/op_fsq.h. */
#ifndef TS_CUDA_FSQ_CUH
#define TS_CUDA_FSQ_CUH

#include "kernels/cuda/launch.cuh"
#include "tessera/exact.h"
#include "tessera/op_fsq.h"

/* q of one channel: b, rounded, inside the levels. */
static __device__ inline float round_bounded(float z, const ts_fsq &q, int d)
{
    const float half = q.half[d], mid = (float)(q.level[d] / 2), low = -mid, high = (float)(q.level[d] - 1) - mid;
    float r;
    if (q.bound == TS_FSQ_TANH)
        r = rintf(fmaf(half, ts_tanhf(z + q.shift[d]), -q.offset[d]));
    else if (q.bound == TS_FSQ_SIGMOID)
        r = rintf((half + half) * ts_sigmoidf(z)) + low;
    else
        r = rintf(fmaf(half + half, ts_sigmoidf(1.6f * z), -half));
    r = r > low ? r : low;
    return r < high ? r : high;
}

/* The value of one channel, and its digit. */
static __device__ inline float value_of(float z, const ts_fsq &q, int d, int32_t *digit)
{
    const float r = round_bounded(z, q, d), mid = (float)(q.level[d] / 2);
    *digit = (int32_t)(r + mid);
    return (r + 0.0f) / mid; /* + 0 drops the sign of -0, which decode cannot know */
}

/* The values of an index: value[0..D-1]. */
static __device__ inline void values_of(float *value, int32_t idx, const ts_fsq &q)
{
    for (int d = 0; d < q.D; d++) {
        const int32_t mid = q.level[d] / 2;
        value[d] = (float)(idx % q.level[d] - mid) / (float)mid;
        idx /= q.level[d];
    }
}

/* 1 - tanh^2(a/2) = 4 p (1 - p) = 4 e/(1 + e)^2 with e = exp(-|a|), p = sigmoid(a): no cancellation. */
static __device__ inline float slope(float z, const ts_fsq &q, int d)
{
    const float gain = q.bound == TS_FSQ_IFSQ ? 1.6f : 1.0f;
    const float a = q.bound == TS_FSQ_TANH ? 2.0f * (z + q.shift[d]) : gain * z;
    const float e = ts_expf(-fabsf(a)), u = 1.0f + e;
    return (q.bound == TS_FSQ_TANH ? 4.0f : 2.0f * gain) * q.half[d] * (e / (u * u));
}

#endif
