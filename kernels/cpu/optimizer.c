/* optimizer.c - gradient norm and AdamW on the CPU. Contract: tessera/op_optimizer.h. */
#include "tessera/op_optimizer.h"

#include <math.h>

#include "kernels/cpu/stream.h"

/* The number of chunks is fixed, so that the order of the sum does not depend on the thread count. */
enum { CHUNKS = 256, LINE = 16 };

ts_status grad_norm_cpu(ts_stream *s, float *norm, const float *g, int64_t N)
{
    double part[CHUNKS];
    const int64_t chunk = (N + CHUNKS * LINE - 1) / (CHUNKS * LINE) * LINE;

#pragma omp parallel for num_threads(s->threads)
    for (int i = 0; i < CHUNKS; i++) {
        const int64_t begin = i * chunk, end = begin + chunk < N ? begin + chunk : N;
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t n = begin; n < end; n++) sum += (double)g[n] * g[n];
        part[i] = sum;
    }

    double sum = 0;
    for (int i = 0; i < CHUNKS; i++) sum += part[i];
    *norm = (float)sqrt(sum);
    return TS_OK;
}

typedef struct {
    float clip;         /* factor on the gradient        */
    float beta1, rest1; /* and 1 - beta1                 */
    float beta2, rest2; /* and 1 - beta2                 */
    float rate;         /* lr/bias1                      */
    float root;         /* 1/sqrt(bias2)                 */
    float eps;
} update;

static void adamw_range(float *p, float *m, float *v, const float *g, const update *u, float decay, int64_t begin,
                        int64_t end)
{
    const update k = *u;
#pragma omp simd
    for (int64_t n = begin; n < end; n++) {
        const float d = k.clip * g[n];
        m[n] = fmaf(k.beta1, m[n], k.rest1 * d);
        v[n] = fmaf(k.beta2, v[n], k.rest2 * d * d);
        const float kept = fmaf(-decay, p[n], p[n]);
        p[n] = kept - k.rate * m[n] / fmaf(sqrtf(v[n]), k.root, k.eps);
    }
}

static void average_range(float *ema, const float *p, float keep, int64_t begin, int64_t end)
{
#pragma omp simd
    for (int64_t n = begin; n < end; n++) ema[n] = fmaf(keep, ema[n], (1 - keep) * p[n]);
}

ts_status adamw_cpu(ts_stream *s, float *p, float *m, float *v, float *ema, const float *g, const float *norm,
                    const ts_adamw *a, int64_t N_decay, int64_t N)
{
    enum { BLOCK = 2048 }; /* five arrays of it stay in the second-level cache between the two loops */
    if (a->step < 1) return ts_fail(TS_E_INTERNAL, "adamw: step %lld, expected 1 or more", (long long)a->step);
    if (!isfinite(*norm)) return TS_OK;

    const double clip = a->max_norm > 0 ? fmin(1, a->max_norm / (*norm + 1e-6)) : 1;
    const double bias1 = 1 - pow(a->beta1, (double)a->step), bias2 = 1 - pow(a->beta2, (double)a->step);
    const update u = { .clip = (float)clip,
                       .beta1 = a->beta1,
                       .rest1 = 1 - a->beta1,
                       .beta2 = a->beta2,
                       .rest2 = 1 - a->beta2,
                       .rate = (float)(a->lr / bias1),
                       .root = (float)(1 / sqrt(bias2)),
                       .eps = a->eps };

#pragma omp parallel for num_threads(s->threads)
    for (int64_t begin = 0; begin < N; begin += BLOCK) {
        const int64_t end = begin + BLOCK < N ? begin + BLOCK : N;
        const int64_t cut = N_decay < begin ? begin : N_decay < end ? N_decay : end;
        adamw_range(p, m, v, g, &u, a->lr * a->weight_decay, begin, cut);
        adamw_range(p, m, v, g, &u, 0, cut, end);
        if (ema) average_range(ema, p, a->ema_decay, begin, end);
    }
    return TS_OK;
}
