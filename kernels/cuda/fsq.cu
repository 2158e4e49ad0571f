/* fsq.cu - Finite Scalar Quantization on CUDA. Contract: tessera/op_fsq.h. Twin: kernels/cpu/fsq.c, whose arithmetic
 * this repeats operation by operation. A thread owns a row of D channels. */
#include "tessera/op_fsq.h"

#include "kernels/cuda/launch.cuh"
#include "tessera/exact.h"

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

static __global__ void fsq_fwd_k1(float *value, int32_t *idx, const float *z, ts_fsq q, int64_t N)
{
    TS_EACH(n, N)
    {
        int32_t sum = 0;
        for (int d = 0; d < q.D; d++) {
            const float r = round_bounded(z[n * q.D + d], q, d), mid = (float)(q.level[d] / 2);
            value[n * q.D + d] = (r + 0.0f) / mid; /* + 0 drops the sign of -0, which decode cannot know */
            sum += (int32_t)(r + mid) * q.basis[d];
        }
        idx[n] = sum;
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

static __global__ void fsq_bwd_k1(float *dz, const float *dvalue, const float *z, ts_fsq q, int64_t N)
{
    TS_EACH(n, N * q.D)
    {
        const int d = (int)(n % q.D);
        dz[n] = dvalue[n] * (slope(z[n], q, d) / (float)(q.level[d] / 2));
    }
}

static __global__ void fsq_decode_k1(float *value, const int32_t *idx, ts_fsq q, int64_t N)
{
    TS_EACH(n, N)
    {
        int32_t rest = idx[n];
        for (int d = 0; d < q.D; d++) {
            const int32_t mid = q.level[d] / 2;
            value[n * q.D + d] = (float)(rest % q.level[d] - mid) / (float)mid;
            rest /= q.level[d];
        }
    }
}

ts_status fsq_fwd_cuda(ts_stream *s, float *value, int32_t *idx, const float *z, const ts_fsq *q, int64_t N)
{
    if (N == 0) return TS_OK;
    return TS_LAUNCH(fsq_fwd_k1, ts_blocks(N), BLOCK, 0, s, value, idx, z, *q, N);
}

ts_status fsq_bwd_cuda(ts_stream *s, float *dz, const float *dvalue, const float *z, const ts_fsq *q, int64_t N)
{
    if (N == 0) return TS_OK;
    return TS_LAUNCH(fsq_bwd_k1, ts_blocks(N * q->D), BLOCK, 0, s, dz, dvalue, z, *q, N);
}

ts_status fsq_decode_cuda(ts_stream *s, float *value, const int32_t *idx, const ts_fsq *q, int64_t N)
{
    if (N == 0) return TS_OK;
    return TS_LAUNCH(fsq_decode_k1, ts_blocks(N), BLOCK, 0, s, value, idx, *q, N);
}
