/* codebook_ema.cu - moving averages as a codebook, on CUDA. Contract: tessera/op_codebook_ema.h. Twin:
 * kernels/cpu/codebook_ema.c.
 *
 * A warp owns a code. Its lanes look at 32 indices at a time and add the vectors of this code, one channel each, so the
 * indices are read once for every 32 channels. */
#include "tessera/op_codebook_ema.h"

#include "kernels/cuda/launch.cuh"

/* The sum of all N_i. */
size_t codebook_ema_scratch_cuda(ts_stream *s, int64_t N, int64_t V)
{
    (void)s, (void)N, (void)V;
    return sizeof(double);
}

static __global__ void average_k1(float *count, float *sum, const float *z, const int32_t *idx, double keep, int64_t N,
                                  int64_t D, int64_t V)
{
    const int lane = threadIdx.x % WARP;
    const int64_t warps = (int64_t)gridDim.x * (blockDim.x / WARP);
    for (int64_t v = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP; v < V; v += warps) {
        int n = 0;
        for (int64_t c0 = 0; c0 < D; c0 += WARP) {
            const int64_t c = c0 + lane;
            double s = 0;
            n = 0;
            for (int64_t t0 = 0; t0 < N; t0 += WARP) {
                unsigned hits = __ballot_sync(ALL_LANES, t0 + lane < N && idx[t0 + lane] == v);
                n += __popc(hits);
                for (; hits; hits &= hits - 1)
                    if (c < D) s += z[(t0 + __ffs((int)hits) - 1) * D + c];
            }
            if (c < D) sum[v * D + c] = (float)(keep * sum[v * D + c] + (1 - keep) * s);
        }
        if (lane == 0) count[v] = (float)(keep * count[v] + (1 - keep) * n);
    }
}

static __global__ void all_k1(double *all, const float *count, int64_t V)
{
    __shared__ double warps[WARP];
    double sum = 0;
    TS_EACH(v, V) sum += count[v];
    sum = block_sum(sum, warps);
    if (threadIdx.x == 0) *all = sum;
}

static __global__ void update_k1(float *codebook, float *count, float *sum, const float *z, const double *total,
                                 ts_codebook_ema a, int64_t N, int64_t D, int64_t V)
{
    const int lane = threadIdx.x % WARP;
    const int64_t warps = (int64_t)gridDim.x * (blockDim.x / WARP);
    const double all = *total, scale = all / (all + (double)V * a.eps);
    const float mean = (float)(all / (double)V), fresh = mean > a.restart_below ? mean : a.restart_below;
    for (int64_t v = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP; v < V; v += warps) {
        const float n = __shfl_sync(ALL_LANES, lane == 0 ? count[v] : 0.0f, 0); /* lane 0 writes it below */
        const double smooth = (n + (double)a.eps) * scale;
        if (n < a.restart_below && N > 0) {
            const float *from = z + ts_codebook_draw(&a, v, N) * D;
            if (lane == 0) count[v] = fresh;
            for (int64_t c = lane; c < D; c += WARP) {
                codebook[v * D + c] = from[c];
                sum[v * D + c] = fresh * from[c];
            }
        } else if (smooth > 0) {
            for (int64_t c = lane; c < D; c += WARP) codebook[v * D + c] = (float)(sum[v * D + c] / smooth);
        }
    }
}

ts_status codebook_ema_cuda(ts_stream *s, float *codebook, float *count, float *sum, const float *z, const int32_t *idx,
                            const ts_codebook_ema *a, int64_t N, int64_t D, int64_t V, void *scratch)
{
    if (V < 1 || D < 1)
        return ts_fail(TS_E_ARG, "codebook_ema: %lld codes of %lld channels, expected 1 or more of both", (long long)V,
                       (long long)D);
    double *all = (double *)scratch;
    TS_TRY(TS_LAUNCH(average_k1, ts_blocks(V * WARP), BLOCK, 0, s, count, sum, z, idx, (double)a->decay, N, D, V));
    TS_TRY(TS_LAUNCH(all_k1, 1, BLOCK, 0, s, all, count, V));
    return TS_LAUNCH(update_k1, ts_blocks(V * WARP), BLOCK, 0, s, codebook, count, sum, z, all, *a, N, D, V);
}
