/* cross_entropy.cu - softmax cross-entropy on CUDA. Contract: tessera/op_cross_entropy.h. Twin:
 * kernels/cpu/cross_entropy.c.
 *
 * One block per row, which is read once and stays in shared memory, as logits and then as exponentials: N V 8 bytes
 * (4 for the loss alone), the least there is. Of a row longer than shared memory the rest goes into a running maximum
 * and sum (online softmax), and is read again for the gradient: 1 + rest/2V times the least. That is 1.25 or less where
 * half a row fits, up to V of 50,000 on sm_86, 89 and 120, 83,000 on sm_80, 116,000 on sm_90 and 100; 1.5 at most. */
#include "tessera/op_cross_entropy.h"

#include "kernels/cuda/launch.cuh"
#include "tessera/exact.h"

enum { LONG = 8 << 10, LONG_BLOCK = 1024 }; /* threads of rows of more than LONG classes */

/* The largest of some logits, and the sum of exp(x - max) over them. */
struct running {
    float max, sum;
};

static __device__ inline void take(running *r, float x)
{
    if (x > r->max) {
        r->sum = fmaf(r->sum, ts_expf(r->max - x), 1.0f);
        r->max = x;
    } else if (x != -INFINITY) { /* which adds nothing, and no maximum may be there yet */
        r->sum += ts_expf(x - r->max);
    }
}

/* for (v over first..end-1, shared by the block) */
#define EACH_CLASS(v, first, end) for (int64_t v = (first) + threadIdx.x; v < (end); v += blockDim.x)

/* The first `held` logits of a row stay in shared memory. */
static __global__ void __launch_bounds__(LONG_BLOCK)
    cross_entropy_k1(float *loss, float *dlogits, const float *logits, const int32_t *target, float grad_scale,
                     int64_t V, int64_t held)
{
    TS_SHARED(shared);
    __shared__ float warps[WARP];
    const int64_t n = blockIdx.x;
    const float *x = logits + n * V;
    const int32_t hit = target[n];
    float *const e = (float *)shared, max = -INFINITY;
    running rest = { -INFINITY, 0 };
#pragma unroll 4
    EACH_CLASS(v, 0, held)
    {
        const float l = x[v];
        e[v] = l;
        max = l > max ? l : max;
    }
    EACH_CLASS(v, held, V) take(&rest, x[v]);
    max = block_max(rest.max > max ? rest.max : max, warps);
    float sum = rest.sum * ts_expf(rest.max - max);
    EACH_CLASS(v, 0, held)
    {
        const float p = ts_expf(e[v] - max);
        e[v] = p;
        sum += p;
    }
    sum = block_sum(sum, warps);
    if (threadIdx.x == 0) loss[n] = ts_logf(sum) + (max - x[hit]);
    if (!dlogits) return;
    __syncthreads(); /* dlogits may be logits: x[hit] has been read */
    const float scale = grad_scale / sum;
    float *d = dlogits + n * V;
    EACH_CLASS(v, 0, held) d[v] = scale * e[v] - (v == hit ? grad_scale : 0.0f);
    EACH_CLASS(v, held, V) d[v] = scale * ts_expf(x[v] - max) - (v == hit ? grad_scale : 0.0f);
}

ts_status cross_entropy_cuda(ts_stream *s, float *loss, float *dlogits, const float *logits, const int32_t *target,
                             float grad_scale, int64_t N, int64_t V)
{
    enum { STATIC = WARP * sizeof(float) };
    if (N == 0) return TS_OK;
    const int64_t room = (int64_t)((s->most_shared - STATIC) / sizeof(float)), held = V < room ? V : room;
    const size_t bytes = sizeof(float) * (size_t)held;
    TS_TRY(ts_cuda(
        cudaFuncSetAttribute((const void *)cross_entropy_k1, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
        "cross_entropy"));
    return TS_LAUNCH(cross_entropy_k1, (unsigned)N, V > LONG ? (int)LONG_BLOCK : (int)BLOCK, bytes, s, loss, dlogits,
                     logits, target, grad_scale, V, held);
}
