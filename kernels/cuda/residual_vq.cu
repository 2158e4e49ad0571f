/* residual_vq.cu - multi-scale residual VQ on CUDA. Contract: tessera/op_residual_vq.h. Twin:
 * kernels/cpu/residual_vq.c, which says in which order |e|^2 and the scores are summed.
 *
 * Forward: one block is one image, its state lies in shared memory; the threads share the codes and keep the best of
 * TOKENS tokens in registers. Backward: blocks are chunks of images, as in residual_fsq.cu. */
#include "tessera/op_residual_vq.h"

#include "kernels/cuda/pyramid.cuh"
#include "kernels/cuda/rows.h"

enum { TOKENS = 8, WARPS = BLOCK / WARP, FORWARD_GRIDS = 4, BACKWARD_GRIDS = 3 };

static ts_status check(const ts_residual_vq *q)
{
    if (q->V >= 1 && q->D >= 1) return TS_OK;
    return ts_fail(TS_E_ARG, "residual_vq: %d codes of %d channels, expected 1 or more of both", (int)q->V, q->D);
}

/* book (D+1,V): start values of the score, then the channels of -e. */
static __global__ void make_book_k1(float *book, const float *codebook, ts_residual_vq q)
{
    TS_EACH(v, q.V)
    {
        const float *e = codebook + v * q.D;
        float square = e[0] * e[0];
        for (int d = 1; d < q.D; d++) square = fmaf(e[d], e[d], square);
        const float length = q.znorm ? fmaxf(sqrtf(square), 1e-12f) : 1.0f;
        book[v] = q.znorm ? 0.0f : 0.5f * square;
        for (int d = 0; d < q.D; d++) book[(int64_t)(d + 1) * q.V + v] = -(e[d] / length);
    }
}

struct candidate {
    float score;
    int32_t code;
};

/* The smaller score, the first of equals. NaN and +inf are never taken. */
static __device__ inline candidate better(candidate a, candidate b)
{
    return b.score < a.score || (b.score == a.score && b.score < INFINITY && b.code < a.code) ? b : a;
}

static __device__ inline candidate best_of_warp(candidate a)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        candidate b;
        b.score = __shfl_xor_sync(ALL_LANES, a.score, lanes);
        b.code = __shfl_xor_sync(ALL_LANES, a.code, lanes);
        a = better(a, b);
    }
    return a;
}

/* idx of tokens z (n,D), TOKENS of them at a time. found: (TOKENS,WARPS) in shared memory. */
static __device__ inline void search(int32_t *idx, const float *z, int n, const float *book, const ts_residual_vq &q,
                                     candidate (*found)[WARPS])
{
    for (int t0 = 0; t0 < n; t0 += TOKENS) {
        candidate best[TOKENS];
#pragma unroll
        for (int t = 0; t < TOKENS; t++) best[t] = candidate{ INFINITY, 0 };
        for (int v = (int)threadIdx.x; v < q.V; v += (int)blockDim.x) {
            float acc[TOKENS];
#pragma unroll
            for (int t = 0; t < TOKENS; t++) acc[t] = book[v];
            for (int d = 0; d < q.D; d++) {
                const float e = book[(int64_t)(d + 1) * q.V + v];
#pragma unroll
                for (int t = 0; t < TOKENS; t++) /* behind the last token the last one again */
                    acc[t] = fmaf(z[(t0 + t < n ? t0 + t : n - 1) * q.D + d], e, acc[t]);
            }
#pragma unroll
            for (int t = 0; t < TOKENS; t++)
                if (acc[t] < best[t].score) best[t] = candidate{ acc[t], v };
        }
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            const candidate c = best_of_warp(best[t]);
            if (threadIdx.x % WARP == 0) found[t][threadIdx.x / WARP] = c;
        }
        __syncthreads();
        if (threadIdx.x < TOKENS && t0 + (int)threadIdx.x < n) {
            candidate c = found[threadIdx.x][0];
            for (int w = 1; w < WARPS; w++) c = better(c, found[threadIdx.x][w]);
            idx[t0 + threadIdx.x] = c.code;
        }
        __syncthreads();
    }
}

/* code (n,D) = the rows idx of the codebook */
static __device__ inline void look_up(float *code, const int32_t *idx, int n, const float *codebook, int D)
{
    TS_BLOCK_EACH(i, n * D) code[i] = codebook[(int64_t)idx[i / D] * D + i % D];
}

struct vq_out {
    float *f_hat, *partial;
    float *z; /* (B,T,D) */
    int32_t *idx;
    double *sums; /* (B,K) */
    int64_t B;
};

static __global__ void residual_vq_fwd_k1(vq_out o, const float *f, const float *codebook, const float *book,
                                          ts_phi phi, ts_residual_vq q, float *spill)
{
    TS_SHARED(shared);
    __shared__ double warps[WARP];
    __shared__ candidate found[TOKENS][WARPS];
    const ts_pyramid &p = q.p;
    const int D = q.D, grid = grid_floats(p, D);
    const int64_t b = blockIdx.x;
    taps *t = (taps *)shared;
    float *r = spill ? spill + b * FORWARD_GRIDS * grid : (float *)(t + p.h + p.w);
    float *f_hat = r + grid, *u = f_hat + grid, *code = u + grid;

    TS_BLOCK_EACH(n, grid)
    {
        r[n] = f[b * grid + n];
        f_hat[n] = 0;
    }
    __syncthreads();
    for (int k = 0; k < p.K; k++) {
        const int tokens = p.py[k] * p.px[k];
        int32_t *idx = o.idx + b * p.T + p.start[k];
        double sum = 0;
        make_taps(t, p, k);
        scale_area(code, r, p, D, k);
        __syncthreads();
        if (o.z) TS_BLOCK_EACH(n, tokens * D) o.z[(b * p.T + p.start[k]) * D + n] = code[n];
        search(idx, code, tokens, book, q, found);
        look_up(code, idx, tokens, codebook, D);
        __syncthreads();
        scale_bicubic(u, code, t, p, D, k);
        __syncthreads();
        TS_BLOCK_EACH(n, grid)
        {
            const float up = phi_number(u, phi, p, D, k, n);
            f_hat[n] += up;
            r[n] -= up;
            const double e = (double)f_hat[n] - f[b * grid + n];
            sum += e * e;
            if (o.partial) o.partial[(k * o.B + b) * grid + n] = f_hat[n];
        }
        sum = block_sum(sum, warps);
        if (threadIdx.x == 0) o.sums[b * p.K + k] = sum;
    }
    TS_BLOCK_EACH(n, grid) o.f_hat[b * grid + n] = f_hat[n];
}

/* Scratch of the backward pass: gradients of all codes (B,T,D), then for every chunk the gradient of phi, r and u of
 * all scales, and the state where it does not fit into shared memory. */
struct vq_layout {
    int64_t r, u, state, total; /* floats from the start of a chunk */
    state_place place;
};

static vq_layout lay_out(const ts_stream *s, const ts_residual_vq &q)
{
    const int64_t grid = grid_floats(q.p, q.D);
    vq_layout l = {};
    l.place = place_state(s, q.p, BACKWARD_GRIDS * grid);
    l.r = round_up4(phi_floats(q.p, q.D));
    l.u = l.r + q.p.K * grid;
    l.state = l.u + q.p.K * grid;
    l.total = round_up4(l.state + l.place.spilled);
    return l;
}

size_t residual_vq_scratch_cuda(ts_stream *s, const ts_residual_vq *q, int64_t B, int backward)
{
    const ts_pyramid *p = &q->p;
    if (backward) return sizeof(float) * (size_t)(B * p->T * q->D + chunks_of(B) * lay_out(s, *q).total);
    const int64_t spilled = place_state(s, *p, FORWARD_GRIDS * (int64_t)grid_floats(*p, q->D)).spilled;
    return sizeof(double) * (size_t)(B * p->K) + sizeof(float) * (size_t)((q->D + 1) * (int64_t)q->V + B * spilled);
}

ts_status residual_vq_fwd_cuda(ts_stream *s, float *f_hat, int32_t *idx, float *z, float *partial, float *stats,
                               const float *f, const float *codebook, const ts_phi *phi, const ts_residual_vq *q,
                               int64_t B, void *scratch)
{
    TS_TRY(check(q));
    const ts_pyramid *p = &q->p;
    const state_place at = place_state(s, *p, FORWARD_GRIDS * (int64_t)grid_floats(*p, q->D));
    double *sums = (double *)scratch;
    float *book = (float *)(sums + B * p->K), *spill = at.spilled ? book + (q->D + 1) * (int64_t)q->V : nullptr;
    const vq_out o = { f_hat, partial, z, idx, sums, B };
    const ts_phi none = {};
    if (B > 0) {
        TS_TRY(TS_LAUNCH(make_book_k1, ts_blocks(q->V), BLOCK, 0, s, book, codebook, *q));
        TS_TRY(ts_allow_shared((const void *)residual_vq_fwd_k1, at.shared_bytes, "residual_vq"));
        TS_TRY(TS_LAUNCH(residual_vq_fwd_k1, (unsigned)B, BLOCK, at.shared_bytes, s, o, f, codebook, book,
                         p->S > 0 ? *phi : none, *q, spill));
    }
    return stats ? add_up_doubles(s, stats, sums, B, p->K, 0) : TS_OK;
}

/* ---- backward ---- */

struct vq_in {
    const float *df_hat, *f, *codebook;
    const int32_t *idx;
    float unit; /* 2*loss_weight/(K*B*h*w*D) */
    int64_t B, chunks;
};

static __global__ void residual_vq_bwd_k1(float *df, float *dcode, float *chunk, vq_in in, ts_phi phi, ts_residual_vq q,
                                          vq_layout l)
{
    TS_SHARED(shared);
    const ts_pyramid &p = q.p;
    const int D = q.D, grid = grid_floats(p, D);
    const int64_t m = blockIdx.x;
    taps *t = (taps *)shared;
    float *dphi = chunk + m * l.total, *r = dphi + l.r, *u = dphi + l.u;
    float *dh = l.place.spilled ? dphi + l.state : (float *)(t + p.h + p.w), *tmp = dh + grid;

    TS_BLOCK_EACH(n, phi_floats(p, D)) dphi[n] = 0;
    __syncthreads();
    for (int64_t b = m * in.B / in.chunks; b < (m + 1) * in.B / in.chunks; b++) {
        for (int k = 0; k < p.K; k++) { /* r and u of every scale again, from the indices */
            const int64_t first = b * p.T + p.start[k];
            float *code = dcode + first * D; /* replaced by its gradient below */
            make_taps(t, p, k);
            look_up(code, in.idx + first, p.py[k] * p.px[k], in.codebook, D);
            __syncthreads();
            scale_bicubic(u + k * grid, code, t, p, D, k);
            __syncthreads();
            TS_BLOCK_EACH(n, grid)
            {
                const float before = k == 0 ? in.f[b * grid + n] : r[(k - 1) * grid + n];
                r[k * grid + n] = before - phi_number(u + k * grid, phi, p, D, k, n);
            }
            __syncthreads();
        }
        TS_BLOCK_EACH(n, grid) dh[n] = 0;
        for (int k = p.K - 1; k >= 0; k--) {
            make_taps(t, p, k);
            TS_BLOCK_EACH(n, grid) dh[n] -= in.unit * r[k * grid + n];
            __syncthreads();
            phi_gradient(dphi, u + k * grid, dh, p, D, k);
            scale_up_adjoint(dcode + (b * p.T + p.start[k]) * D, dh, phi, t, p, D, k, tmp);
        }
        TS_BLOCK_EACH(n, grid) df[b * grid + n] = fmaf(-q.beta, dh[n], in.df_hat[b * grid + n]);
        __syncthreads();
    }
}

ts_status residual_vq_bwd_cuda(ts_stream *s, float *df, float *dcodebook, const ts_phi *dphi, const float *df_hat,
                               float loss_weight, const float *f, const int32_t *idx, const float *codebook,
                               const ts_phi *phi, const ts_residual_vq *q, int64_t B, void *scratch)
{
    TS_TRY(check(q));
    if (B == 0) return TS_OK;
    const ts_pyramid *p = &q->p;
    const int64_t chunks = chunks_of(B);
    const vq_layout l = lay_out(s, *q);
    const double values = (double)p->K * (double)B * (double)grid_floats(*p, q->D);
    const vq_in in = { df_hat, f, codebook, idx, (float)(2.0 * loss_weight / values), B, chunks };
    float *dcode = (float *)scratch, *work = dcode + B * p->T * q->D;
    const ts_phi none = {};
    TS_TRY(ts_allow_shared((const void *)residual_vq_bwd_k1, l.place.shared_bytes, "residual_vq"));
    TS_TRY(TS_LAUNCH(residual_vq_bwd_k1, (unsigned)chunks, BLOCK, l.place.shared_bytes, s, df, dcode, work, in,
                     p->S > 0 ? *phi : none, *q, l));
    if (dcodebook) TS_TRY(add_to_rows(s, dcodebook, dcode, idx, B * p->T, q->D, q->V));
    return add_phi_gradients(s, dphi, work, chunks, l.total, p, q->D);
}
