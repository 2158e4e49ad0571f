/* group_norm.cu - GroupNorm with SiLU on CUDA. Contract: tessera/op_group_norm.h. Twin: kernels/cpu/group_norm.c.
 *
 * One block is one image and group. Its threads stand in rows of neighbouring channels, as many rows as fit, so that a
 * thread always sees the same channel of a run of channels. All sums are in double. */
#include "tessera/op_group_norm.h"

#include "kernels/cuda/launch.cuh"
#include "tessera/exact.h"

/* How the threads of a block cover a group's channels c0..c0+width-1: thread i takes channel i % width of every
 * `rows`-th position; threads behind rows*width rest. */
struct cover {
    int c0, width, rows, channel, row;
};

static __device__ inline cover cover_of(int c0, int wide)
{
    cover v;
    v.c0 = c0;
    v.width = wide - c0 < BLOCK ? wide - c0 : (int)BLOCK;
    v.rows = BLOCK / v.width;
    v.channel = c0 + (int)threadIdx.x % v.width;
    v.row = (int)threadIdx.x / v.width;
    return v;
}

/* for (p over the thread's positions) */
#define EACH_ROW(p, v, P) for (int64_t p = v.row; v.row < v.rows && p < (P); p += v.rows)

static __global__ void group_norm_fwd_k1(float *y, float *mean, float *rstd, const float *x, const float *gamma,
                                         const float *beta, ts_group_norm n)
{
    __shared__ double warps[WARP];
    const int wide = (int)(n.C / n.G), g = (int)(blockIdx.x % n.G);
    const int64_t b = blockIdx.x / n.G, at = b * n.P * n.C + (int64_t)g * wide;
    const double count = (double)n.P * wide;
    double sum = 0, squares = 0;
    for (int c0 = 0; c0 < wide; c0 += BLOCK) {
        const cover v = cover_of(c0, wide);
        EACH_ROW(p, v, n.P) sum += x[at + p * n.C + v.channel];
    }
    const double centre = block_sum(sum, warps) / count;
    for (int c0 = 0; c0 < wide; c0 += BLOCK) {
        const cover v = cover_of(c0, wide);
        EACH_ROW(p, v, n.P)
        {
            const double d = x[at + p * n.C + v.channel] - centre;
            squares += d * d;
        }
    }
    const float m = (float)centre, r = (float)(1.0 / sqrt(block_sum(squares, warps) / count + n.eps));
    if (threadIdx.x == 0) {
        mean[blockIdx.x] = m;
        rstd[blockIdx.x] = r;
    }
    for (int c0 = 0; c0 < wide; c0 += BLOCK) {
        const cover v = cover_of(c0, wide);
        const float scale = r * gamma[g * wide + v.channel], shift = beta[g * wide + v.channel];
        EACH_ROW(p, v, n.P)
        {
            const float u = fmaf(x[at + p * n.C + v.channel] - m, scale, shift);
            y[at + p * n.C + v.channel] = n.silu ? u * ts_sigmoidf(u) : u;
        }
    }
}

ts_status group_norm_fwd_cuda(ts_stream *s, float *y, float *mean, float *rstd, const float *x, const float *gamma,
                              const float *beta, const ts_group_norm *n)
{
    if (n->B == 0) return TS_OK;
    return TS_LAUNCH(group_norm_fwd_k1, (unsigned)(n->B * n->G), BLOCK, 0, s, y, mean, rstd, x, gamma, beta, *n);
}

/* ---- backward ---- */

/* Gradient at u, from that at y = silu(u). */
static __device__ inline float before_silu(float dy, float u)
{
    const float sig = ts_sigmoidf(u);
    return dy * fmaf(sig * u, 1.0f - sig, sig);
}

/* The sum over the threads of each channel, which the first row of threads gets. part: BLOCK values in shared memory.
 */
static __device__ inline double sum_rows_of(double v, const cover &c, double *part)
{
    part[threadIdx.x] = v;
    __syncthreads();
    double sum = 0;
    for (int row = 0; row < c.rows && c.row == 0; row++) sum += part[row * c.width + (int)threadIdx.x];
    __syncthreads();
    return sum;
}

/* sums (B,2,C): sums over the positions of an image of du and du*n. dx = rstd (dn - avg(dn) - n avg(dn n)),
 * dn = du*gamma, averages over the group. */
static __global__ void group_norm_bwd_k1(float *dx, double *sums, const float *dy, const float *x, const float *mean,
                                         const float *rstd, const float *gamma, const float *beta, ts_group_norm n)
{
    __shared__ double warps[WARP], part[BLOCK];
    const int wide = (int)(n.C / n.G), g = (int)(blockIdx.x % n.G);
    const int64_t b = blockIdx.x / n.G, at = b * n.P * n.C + (int64_t)g * wide;
    const float m = mean[blockIdx.x], r = rstd[blockIdx.x];
    double dn = 0, dnn = 0;
    for (int c0 = 0; c0 < wide; c0 += BLOCK) {
        const cover v = cover_of(c0, wide);
        const float weight = gamma[g * wide + v.channel], shift = beta[g * wide + v.channel];
        double du_sum = 0, dun_sum = 0;
        EACH_ROW(p, v, n.P)
        {
            const int64_t i = at + p * n.C + v.channel;
            const float norm = (x[i] - m) * r;
            const float du = n.silu ? before_silu(dy[i], fmaf(norm, weight, shift)) : dy[i];
            if (n.silu) dx[i] = du; /* the sigmoid is the dear part: it is found there below */
            du_sum += du;
            dun_sum += (double)du * norm;
        }
        du_sum = sum_rows_of(du_sum, v, part);
        dun_sum = sum_rows_of(dun_sum, v, part);
        if (v.row == 0) {
            const int64_t to = b * 2 * n.C + g * wide + v.channel;
            sums[to] = du_sum;
            sums[to + n.C] = dun_sum;
            dn += du_sum * weight;
            dnn += dun_sum * weight;
        }
    }
    const double count = (double)n.P * wide;
    const float avg = (float)(block_sum(dn, warps) / count), avg_n = (float)(block_sum(dnn, warps) / count);
    for (int c0 = 0; c0 < wide; c0 += BLOCK) {
        const cover v = cover_of(c0, wide);
        const float weight = gamma[g * wide + v.channel];
        EACH_ROW(p, v, n.P)
        {
            const int64_t i = at + p * n.C + v.channel;
            const float norm = (x[i] - m) * r, du = n.silu ? dx[i] : dy[i];
            dx[i] = r * fmaf(-norm, avg_n, fmaf(du, weight, -avg));
        }
    }
}

static __global__ void group_norm_params_k1(float *dgamma, float *dbeta, const double *sums, int64_t B, int64_t C)
{
    TS_EACH(c, C)
    {
        double du = 0, dun = 0;
        for (int64_t b = 0; b < B; b++) {
            du += sums[b * 2 * C + c];
            dun += sums[b * 2 * C + C + c];
        }
        dbeta[c] += (float)du;
        dgamma[c] += (float)dun;
    }
}

size_t group_norm_scratch_cuda(ts_stream *s, const ts_group_norm *n)
{
    (void)s;
    return (size_t)(n->B * 2 * n->C) * sizeof(double);
}

ts_status group_norm_bwd_cuda(ts_stream *s, float *dx, float *dgamma, float *dbeta, const float *dy, const float *x,
                              const float *mean, const float *rstd, const float *gamma, const float *beta,
                              const ts_group_norm *n, void *scratch)
{
    if (n->B == 0) return TS_OK;
    double *sums = (double *)scratch;
    TS_TRY(TS_LAUNCH(group_norm_bwd_k1, (unsigned)(n->B * n->G), BLOCK, 0, s, dx, sums, dy, x, mean, rstd, gamma, beta,
                     *n));
    return TS_LAUNCH(group_norm_params_k1, ts_blocks(n->C), BLOCK, 0, s, dgamma, dbeta, sums, n->B, n->C);
}
