/* cross_entropy.c - softmax cross-entropy on the CPU. Contract: tessera/op_cross_entropy.h.
 *
 * Moves N V 8 bytes (4 for the loss alone): a row is read from memory once, its later passes find it in the cache.
 */
#include "tessera/op_cross_entropy.h"

#include "kernels/cpu/stream.h"
#include "tessera/exact.h"

/* A maximum of integers, which compilers know to vectorise: the bits in the order of the floats. What a NaN in x does
 * to it is of no account, since NaN comes back through exp. */
static float row_max(const float *x, int64_t V)
{
    int32_t max = INT32_MIN;
#pragma omp simd reduction(max : max)
    for (int64_t v = 0; v < V; v++) {
        int32_t u = (int32_t)ts_bits_of(x[v]), order = u ^ ((u >> 31) & INT32_MAX);
        max = order > max ? order : max;
    }
    return ts_float_of((uint32_t)(max ^ ((max >> 31) & INT32_MAX)));
}

static float sum_exp(const float *x, float max, int64_t V)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t v = 0; v < V; v++) sum += ts_expf(x[v] - max);
    return sum;
}

static float store_exp(float *e, const float *x, float max, int64_t V)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t v = 0; v < V; v++) {
        e[v] = ts_expf(x[v] - max);
        sum += e[v];
    }
    return sum;
}

ts_status cross_entropy_cpu(ts_stream *s, float *loss, float *dlogits, const float *logits, const int32_t *target,
                            float grad_scale, int64_t N, int64_t V)
{
#pragma omp parallel for num_threads(s->threads)
    for (int64_t n = 0; n < N; n++) {
        const float *x = logits + n * V;
        float max = row_max(x, V), hit = x[target[n]]; /* before dlogits, which may be logits, is written */
        if (!dlogits) {
            loss[n] = ts_logf(sum_exp(x, max, V)) + (max - hit);
            continue;
        }
        float *d = dlogits + n * V, sum = store_exp(d, x, max, V), scale = grad_scale / sum;
        loss[n] = ts_logf(sum) + (max - hit);
#pragma omp simd
        for (int64_t v = 0; v < V; v++) d[v] *= scale;
        d[target[n]] -= grad_scale;
    }
    return TS_OK;
}
