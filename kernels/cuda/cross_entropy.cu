/* cross_entropy.cu - softmax cross-entropy on CUDA. Contract: tessera/op_cross_entropy.h. Twin:
 * kernels/cpu/cross_entropy.c.
 *
 * One block per row: three passes over it, of which the last two find it in the cache. */
#include "tessera/op_cross_entropy.h"

#include "kernels/cuda/launch.cuh"
#include "tessera/exact.h"

static __global__ void cross_entropy_k1(float *loss, float *dlogits, const float *logits, const int32_t *target,
                                        float grad_scale, int64_t V)
{
    __shared__ float warps[WARP];
    const int64_t n = blockIdx.x;
    const float *x = logits + n * V;
    const int32_t hit = target[n];
    float max = -INFINITY, sum = 0;
    for (int64_t v = threadIdx.x; v < V; v += blockDim.x) max = x[v] > max ? x[v] : max;
    max = block_max(max, warps);
    for (int64_t v = threadIdx.x; v < V; v += blockDim.x) sum += ts_expf(x[v] - max);
    sum = block_sum(sum, warps);
    if (threadIdx.x == 0) loss[n] = ts_logf(sum) + (max - x[hit]);
    if (!dlogits) return;
    __syncthreads(); /* dlogits may be logits: x[hit] has been read */
    const float scale = grad_scale / sum;
    for (int64_t v = threadIdx.x; v < V; v += blockDim.x)
        dlogits[n * V + v] = scale * ts_expf(x[v] - max) - (v == hit ? grad_scale : 0.0f);
}

ts_status cross_entropy_cuda(ts_stream *s, float *loss, float *dlogits, const float *logits, const int32_t *target,
                             float grad_scale, int64_t N, int64_t V)
{
    if (N == 0) return TS_OK;
    return TS_LAUNCH(cross_entropy_k1, (unsigned)N, BLOCK, 0, s, loss, dlogits, logits, target, grad_scale, V);
}
