/* ada_norm.cu - residual, gate, LayerNorm and modulation on CUDA. Contract: tessera/op_ada_norm.h. Twin:
 * kernels/cpu/ada_norm.c. One block is one token, whose values wait in shared memory. */
#include "tessera/op_ada_norm.h"

#include "kernels/cuda/bf16.cuh"

enum { TOKEN = 128 }; /* threads of a token */

static __device__ inline double *room_of_sums()
{
    __shared__ double warps[WARP];
    return warps;
}

template <class Y>
static __global__ void ada_norm_fwd_k1(Y *y, float *r, float *mean, float *rstd, const float *x, const float *h,
                                       const float *gate, const float *scale, const float *shift, ts_ada_norm n)
{
    TS_SHARED(shared);
    double *const warps = room_of_sums();
    float *row = (float *)shared;
    const int64_t i = blockIdx.x, b = i / n.T, at = i * n.C;
    double sum = 0, squares = 0;
    for (int c = (int)threadIdx.x; c < n.C; c += TOKEN) {
        float v = x[at + c];
        if (h) {
            v = gate ? fmaf(gate[b * n.gate_stride + c], h[at + c], v) : v + h[at + c];
            r[at + c] = v;
        }
        row[c] = v;
        sum += v;
    }
    const double centre = block_sum(sum, warps) / (double)n.C;
    for (int c = (int)threadIdx.x; c < n.C; c += TOKEN) squares += (row[c] - centre) * (row[c] - centre);
    const float mu = (float)centre, inv = (float)(1 / sqrt(block_sum(squares, warps) / (double)n.C + n.eps));
    for (int c = (int)threadIdx.x; c < n.C; c += TOKEN)
        put(y + at + c, fmaf((row[c] - mu) * inv, 1 + scale[b * n.scale_stride + c], shift[b * n.shift_stride + c]));
    if (mean && threadIdx.x == 0) {
        mean[i] = mu;
        rstd[i] = inv;
    }
}

ts_status ada_norm_fwd_cuda(ts_stream *s, float *r, void *y, float *mean, float *rstd, const float *x, const float *h,
                            const float *gate, const float *scale, const float *shift, const ts_ada_norm *n)
{
    enum { MOST = 8 << 10 }; /* channels that fit into the shared memory that every block has */
    if (n->C > MOST) return ts_fail(TS_E_ARG, "ada_norm: %lld channels, at most %d", (long long)n->C, (int)MOST);
    if (n->B * n->T == 0) return TS_OK;
    return TS_LAUNCH_STORING(TS_LAUNCH, n->y_dtype, ada_norm_fwd_k1, (unsigned)(n->B * n->T), TOKEN, (size_t)n->C * sizeof(float), s,
                             y, r, mean, rstd, x, h, gate, scale, shift, *n);
}

struct gradients {
    float *dx, *dh, *dgate, *dscale, *dshift;
    const float *dy, *dr, *r, *mean, *rstd, *h, *gate, *scale;
};

/* With n = (r - mean) rstd and dn = dy (1 + scale):   dx = dr + rstd (dn - avg(dn) - n avg(dn n)) */
static __global__ void ada_norm_bwd_k1(gradients j, ts_ada_norm n)
{
    __shared__ double warps[WARP];
    const int64_t i = blockIdx.x, b = i / n.T, at = i * n.C;
    const float mu = j.mean[i], inv = j.rstd[i], *scale = j.scale + b * n.scale_stride;
    double sum = 0, sum_n = 0;
    for (int c = (int)threadIdx.x; c < n.C; c += TOKEN) {
        const float dn = j.dy[at + c] * (1 + scale[c]);
        sum += dn;
        sum_n += (double)dn * ((j.r[at + c] - mu) * inv);
    }
    const float avg = (float)(block_sum(sum, warps) / (double)n.C);
    const float avg_n = (float)(block_sum(sum_n, warps) / (double)n.C);
    for (int c = (int)threadIdx.x; c < n.C; c += TOKEN) {
        const float norm = (j.r[at + c] - mu) * inv, dn = j.dy[at + c] * (1 + scale[c]);
        const float d = inv * (dn - avg - norm * avg_n), dx = j.dr ? j.dr[at + c] + d : d;
        j.dx[at + c] = dx;
        if (j.h) j.dh[at + c] = j.gate ? j.gate[b * n.gate_stride + c] * dx : dx;
    }
}

/* Sums over the tokens of an image, in ascending order: a thread owns a channel of an image. */
static __global__ void ada_norm_sums_k1(gradients j, ts_ada_norm n)
{
    TS_EACH(k, n.B * n.C)
    {
        const int64_t b = k / n.C, c = k % n.C;
        double shift = 0, scale = 0, gate = 0;
        for (int64_t i = b * n.T; i < (b + 1) * n.T; i++) {
            const float dy = j.dy[i * n.C + c];
            shift += dy;
            scale += (double)dy * ((j.r[i * n.C + c] - j.mean[i]) * j.rstd[i]);
            if (j.h && j.gate) gate += (double)j.dx[i * n.C + c] * j.h[i * n.C + c];
        }
        j.dshift[b * n.shift_stride + c] += (float)shift;
        j.dscale[b * n.scale_stride + c] += (float)scale;
        if (j.h && j.gate) j.dgate[b * n.gate_stride + c] += (float)gate;
    }
}

ts_status ada_norm_bwd_cuda(ts_stream *s, float *dx, float *dh, float *dgate, float *dscale, float *dshift,
                            const float *dy, const float *dr, const float *r, const float *mean, const float *rstd,
                            const float *h, const float *gate, const float *scale, const ts_ada_norm *n)
{
    if (n->B * n->T == 0) return TS_OK;
    const gradients j = { dx, dh, dgate, dscale, dshift, dy, dr, r, mean, rstd, h, gate, scale };
    TS_TRY(TS_LAUNCH(ada_norm_bwd_k1, (unsigned)(n->B * n->T), TOKEN, 0, s, j, *n));
    return TS_LAUNCH(ada_norm_sums_k1, ts_blocks(n->B * n->C), BLOCK, 0, s, j, *n);
}
