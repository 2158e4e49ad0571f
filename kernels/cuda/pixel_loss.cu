/* pixel_loss.cu - L1 and L2 distance on CUDA. Contract: tessera/op_pixel_loss.h. Twin: kernels/cpu/pixel_loss.c. */
#include "tessera/op_pixel_loss.h"

#include "kernels/cuda/launch.cuh"

static __global__ void pixel_loss_k1(double *part, float *dx, const float *x, const float *target, float g1, float g2,
                                     int64_t N)
{
    __shared__ double warps[WARP];
    double l1 = 0, l2 = 0;
    TS_EACH(n, N)
    {
        const double wide = (double)x[n] - target[n];
        const float d = x[n] - target[n], sign = (d > 0 ? 1.0f : 0.0f) - (d < 0 ? 1.0f : 0.0f);
        l1 += fabs(wide);
        l2 += wide * wide;
        if (dx) dx[n] = fmaf(g2, d, g1 * sign);
    }
    l1 = block_sum(l1, warps);
    l2 = block_sum(l2, warps);
    if (threadIdx.x != 0) return;
    part[blockIdx.x] = l1;
    part[gridDim.x + blockIdx.x] = l2;
}

static __global__ void pixel_loss_finish_k1(float *sums, const double *part, int parts)
{
    __shared__ double warps[WARP];
    for (int i = 0; i < 2; i++) {
        const double sum = block_sum((int)threadIdx.x < parts ? part[i * parts + threadIdx.x] : 0.0, warps);
        if (threadIdx.x == 0) sums[i] = (float)sum;
    }
}

ts_status pixel_loss_cuda(ts_stream *s, float *sums, float *dx, const float *x, const float *target, float w1, float w2,
                          int64_t N)
{
    const double count = N > 0 ? (double)N : 1;
    const int parts = ts_sum_blocks(N);
    TS_TRY(TS_LAUNCH(pixel_loss_k1, parts, BLOCK, 0, s, s->partial, dx, x, target, (float)(w1 / count),
                     (float)(2 * w2 / count), N));
    return TS_LAUNCH(pixel_loss_finish_k1, 1, BLOCK, 0, s, sums, s->partial, parts);
}
