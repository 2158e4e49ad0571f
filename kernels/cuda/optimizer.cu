/* optimizer.cu - gradient norm and AdamW on CUDA. Contract: tessera/op_optimizer.h. Twin: kernels/cpu/optimizer.c.
 *
 * The update moves 16 N bytes in and 12 N out, 8 N more with an average. Which block sums what depends on N alone. */
#include "tessera/op_optimizer.h"

#include <math.h>

#include "kernels/cuda/launch.cuh"

static __global__ void norm_parts_k1(double *part, const float *g, int64_t N)
{
    __shared__ double warps[WARP];
    double sum = 0;
    TS_EACH(n, N) sum += (double)g[n] * g[n];
    sum = block_sum(sum, warps);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

static __global__ void norm_finish_k1(float *norm, const double *part, int parts)
{
    __shared__ double warps[WARP];
    const double sum = block_sum((int)threadIdx.x < parts ? part[threadIdx.x] : 0.0, warps);
    if (threadIdx.x == 0) *norm = (float)sqrt(sum);
}

ts_status grad_norm_cuda(ts_stream *s, float *norm, const float *g, int64_t N)
{
    const int parts = ts_sum_blocks(N);
    TS_TRY(TS_LAUNCH(norm_parts_k1, parts, BLOCK, 0, s, s->partial, g, N));
    return TS_LAUNCH(norm_finish_k1, 1, BLOCK, 0, s, norm, s->partial, parts);
}

struct update {
    float max_norm;
    float beta1, rest1; /* and 1 - beta1   */
    float beta2, rest2; /* and 1 - beta2   */
    float rate;         /* lr/bias1        */
    float root;         /* 1/sqrt(bias2)   */
    float eps, decay, ema_decay;
};

/* norm lies on the device, so every thread forms the factor on the gradient itself. */
static __global__ void adamw_k1(float *p, float *m, float *v, float *ema, const float *g, const float *norm, update u,
                                int64_t N_decay, int64_t N)
{
    const float length = *norm;
    if (!isfinite(length)) return;
    const double ratio = u.max_norm / (length + 1e-6);
    const float clip = u.max_norm > 0 && ratio < 1 ? (float)ratio : 1.0f;
    TS_EACH(n, N)
    {
        const float d = clip * g[n], decay = n < N_decay ? u.decay : 0.0f;
        const float m1 = fmaf(u.beta1, m[n], u.rest1 * d), v1 = fmaf(u.beta2, v[n], u.rest2 * d * d);
        const float kept = fmaf(-decay, p[n], p[n]), p1 = kept - u.rate * m1 / fmaf(sqrtf(v1), u.root, u.eps);
        m[n] = m1;
        v[n] = v1;
        p[n] = p1;
        if (ema) ema[n] = fmaf(u.ema_decay, ema[n], (1.0f - u.ema_decay) * p1);
    }
}

ts_status adamw_cuda(ts_stream *s, float *p, float *m, float *v, float *ema, const float *g, const float *norm,
                     const ts_adamw *a, int64_t N_decay, int64_t N)
{
    if (a->step < 1) return ts_fail(TS_E_INTERNAL, "adamw: step %lld, expected 1 or more", (long long)a->step);
    if (N == 0) return TS_OK;
    const double bias1 = 1 - pow(a->beta1, (double)a->step), bias2 = 1 - pow(a->beta2, (double)a->step);
    const update u = { a->max_norm,
                       a->beta1,
                       1 - a->beta1,
                       a->beta2,
                       1 - a->beta2,
                       (float)(a->lr / bias1),
                       (float)(1 / sqrt(bias2)),
                       a->eps,
                       a->lr * a->weight_decay,
                       a->ema_decay };
    return TS_LAUNCH(adamw_k1, ts_blocks(N), BLOCK, 0, s, p, m, v, ema, g, norm, u, N_decay, N);
}
