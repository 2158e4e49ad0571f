/* act.cu - activations on CUDA. Contract: tessera/op_act.h. Twin: kernels/cpu/act.c.
 *
 * Moves 8 N bytes forward (6 N to bfloat16), 12 N backward; four numbers at a time where the buffers are aligned. */
#include "kernels/cuda/act.h"

#include "kernels/cuda/bf16.cuh"
#include "tessera/exact.h"

static const float GELU_A = 0.7978845608f; /* sqrt(2/pi) */
static const float GELU_B = 0.044715f;

static __device__ inline float gelu_tanh_of(float x)
{
    return ts_tanhf(GELU_A * fmaf(GELU_B * x * x, x, x));
}

static __device__ inline float value(float x, ts_act act)
{
    return act == TS_SILU ? x * ts_sigmoidf(x) : 0.5f * x * (1.0f + gelu_tanh_of(x));
}

static __device__ inline float slope(float x, ts_act act)
{
    if (act == TS_SILU) {
        const float sig = ts_sigmoidf(x);
        return fmaf(sig * x, 1.0f - sig, sig);
    }
    const float t = gelu_tanh_of(x);
    const float inner = GELU_A * fmaf(3.0f * GELU_B * x, x, 1.0f);
    return 0.5f * fmaf(x * (1.0f - t * t), inner, 1.0f + t);
}

/* The first quads*4 values in vectors, the rest one by one. */
template <class Y> static __global__ void act_fwd_k1(Y *y, const float *x, ts_act act, int64_t quads, int64_t N)
{
    TS_EACH(q, quads)
    {
        const float4 v = load4(x + 4 * q);
        put4(y + 4 * q, float4{ value(v.x, act), value(v.y, act), value(v.z, act), value(v.w, act) });
    }
    TS_EACH(i, N - 4 * quads) put(y + 4 * quads + i, value(x[4 * quads + i], act));
}

/* With a bias for each of O columns. In vectors only if O is a multiple of 4. */
template <class Y>
static __global__ void bias_act_k1(Y *y, const float *x, const float *b, ts_act act, int64_t quads, int64_t N, int64_t O)
{
    TS_EACH(q, quads)
    {
        const float4 v = load4(x + 4 * q), bias = load4(b + 4 * q % O);
        put4(y + 4 * q, float4{ value(v.x + bias.x, act), value(v.y + bias.y, act), value(v.z + bias.z, act), value(v.w + bias.w, act) });
    }
    TS_EACH(i, N - 4 * quads) put(y + 4 * quads + i, value(x[4 * quads + i] + b[(4 * quads + i) % O], act));
}

static __global__ void act_bwd_k1(float *dx, const float *dy, const float *x, ts_act act, int64_t quads, int64_t N)
{
    TS_EACH(q, quads)
    {
        const float4 v = load4(x + 4 * q), d = load4(dy + 4 * q);
        store4(dx + 4 * q,
               float4{ d.x * slope(v.x, act), d.y * slope(v.y, act), d.z * slope(v.z, act), d.w * slope(v.w, act) });
    }
    TS_EACH(i, N - 4 * quads) dx[4 * quads + i] = dy[4 * quads + i] * slope(x[4 * quads + i], act);
}

ts_status act_fwd_cuda(ts_stream *s, void *y, const float *x, ts_act act, int64_t N, ts_dtype y_dtype)
{
    if (N == 0) return TS_OK;
    const int64_t quads = ts_aligned(y) && ts_aligned(x) ? N / 4 : 0;
    return TS_LAUNCH_STORING(TS_LAUNCH, y_dtype, act_fwd_k1, ts_blocks(quads ? quads : N), BLOCK, 0, s, y, x, act, quads, N);
}

ts_status ts_bias_act(ts_stream *s, void *y, const float *x, const float *b, ts_act act, int64_t rows, int64_t O, ts_dtype y_dtype)
{
    const int64_t N = rows * O, quads = O % 4 == 0 && ts_aligned(y) && ts_aligned(x) && ts_aligned(b) ? N / 4 : 0;
    if (N == 0) return TS_OK;
    return TS_LAUNCH_STORING(TS_LAUNCH, y_dtype, bias_act_k1, ts_blocks(quads ? quads : N), BLOCK, 0, s, y, x, b, act, quads, N, O);
}

ts_status act_bwd_cuda(ts_stream *s, float *dx, const float *dy, const float *x, ts_act act, int64_t N)
{
    if (N == 0) return TS_OK;
    const int64_t quads = ts_aligned(dx) && ts_aligned(dy) && ts_aligned(x) ? N / 4 : 0;
    return TS_LAUNCH(act_bwd_k1, ts_blocks(quads ? quads : N), BLOCK, 0, s, dx, dy, x, act, quads, N);
}
