/* residual_fsq.cu - multi-scale residual FSQ on CUDA. Contract: tessera/op_residual_fsq.h. Twin:
 * kernels/cpu/residual_fsq.c.
 *
 * Forward: one block is one image and one launch the whole pyramid of a batch, with the state of the loop in shared
 * memory: f is read once, idx and f_hat are written once. Backward: blocks are a fixed number of chunks of images, each
 * with gradients of its own that are summed in order at the end. */
#include "tessera/op_residual_fsq.h"

#include "kernels/cuda/pyramid.cuh"
#include "tessera/exact.h"

static ts_status check(const char *op, const ts_residual_fsq *q, int k)
{
    if (q->K_use < 1 || q->K_use > q->p.K)
        return ts_fail(TS_E_ARG, "%s: %d scales in use, expected 1..%d", op, q->K_use, q->p.K);
    if (k < 0 || k >= q->p.K) return ts_fail(TS_E_ARG, "%s: scale %d, expected 0..%d", op, k, q->p.K - 1);
    return TS_OK;
}

static __device__ inline float half_of(const ts_residual_fsq &q, int d)
{
    return (float)((q.level[d] - 1) / 2);
}

/* f~ */
static __device__ inline float bound(float f, const ts_residual_fsq &q)
{
    return q.pre_tanh ? ts_tanhf(f) : f;
}

/* z of one token (D) becomes its code. Returns the index; NaN gives digit 0. */
static __device__ inline int32_t quantize(float *code, const float *log_gain, const ts_residual_fsq &q, int *clamped)
{
    int32_t index = 0;
    for (int d = 0; d < q.D; d++) {
        const float step = ts_expf(log_gain[d]), half = half_of(q, d), v = code[d] / step;
        float n = v > -1.0f ? v : -1.0f;
        n = n < 1.0f ? n : 1.0f;
        n = rintf(n * half) + 0.0f; /* + 0 drops the sign of -0, which lookup cannot know */
        code[d] = step * (n / half);
        index += (int32_t)(n + half) * q.basis[d];
        *clamped += fabsf(v) > 1.0f;
    }
    return index;
}

static __device__ inline void look_up(float *code, int32_t index, const float *log_gain, const ts_residual_fsq &q)
{
    for (int d = 0; d < q.D; d++) {
        const float half = half_of(q, d), n = (float)(index % q.level[d]) - half;
        code[d] = ts_expf(log_gain[d]) * (n / half);
        index /= q.level[d];
    }
}

enum { FORWARD_GRIDS = 4 };

/* Convolution j of phi in shared memory, as (ky,kx,in,out) and the bias: to (one_phi floats). */
static __device__ inline phi_weights load_phi(float *to, const ts_phi &phi, int j, int D)
{
    const int many = 9 * D * D;
    TS_BLOCK_EACH(n, many) to[n % (9 * D) * D + n / (9 * D)] = phi.w[j][n];
    TS_BLOCK_EACH(n, D) to[many + n] = phi.b[j][n];
    return phi_weights{ to, to + many, 1, D };
}

static __host__ __device__ inline int one_phi(const ts_residual_fsq &q)
{
    return q.p.S > 0 ? (9 * q.D + 1) * q.D : 0;
}

static state_place place_forward(const ts_stream *s, const ts_residual_fsq &q)
{
    return place_state(s, q.p, FORWARD_GRIDS * (int64_t)grid_floats(q.p, q.D), one_phi(q));
}

struct forward_out {
    float *f_hat, *x, *partial;
    int32_t *idx;
    double *stats; /* (B,K,2) */
    int64_t B;
};

/* Outputs of a scale that is dropped. */
static __device__ inline void skip_scale(const forward_out &o, const ts_residual_fsq &q, int64_t b, int k)
{
    const ts_pyramid &p = q.p;
    const int64_t first = b * p.T + p.start[k];
    const int tokens = p.py[k] * p.px[k];
    TS_BLOCK_EACH(t, tokens) o.idx[first + t] = (q.V - 1) / 2;
    if (o.x) TS_BLOCK_EACH(n, tokens * q.D) o.x[first * q.D + n] = 0;
    if (threadIdx.x < 2) o.stats[(b * p.K + k) * 2 + threadIdx.x] = 0;
}

static __global__ void residual_fsq_fwd_k1(forward_out o, const float *f, const float *log_gain, ts_phi phi,
                                           ts_residual_fsq q, float *spill)
{
    TS_SHARED(shared);
    __shared__ double warps[WARP];
    const ts_pyramid &p = q.p;
    const int D = q.D, grid = grid_floats(p, D);
    const int64_t b = blockIdx.x;
    taps *t = (taps *)shared;
    float *convolution = (float *)(t + p.h + p.w);
    float *r = spill ? spill + b * FORWARD_GRIDS * grid : convolution + one_phi(q);
    float *f_hat = r + grid, *u = f_hat + grid, *code = u + grid;
    phi_weights w = {};

    TS_BLOCK_EACH(n, grid)
    {
        r[n] = bound(f[b * grid + n], q);
        f_hat[n] = 0;
    }
    __syncthreads();
    for (int k = 0; k < p.K; k++) {
        if (k < q.K_use) {
            const int64_t first = b * p.T + p.start[k];
            int clamped = 0;
            double squares = 0;
            make_taps(t, p, k);
            if (p.S > 0 && (k == 0 || p.phi[k] != p.phi[k - 1])) w = load_phi(convolution, phi, p.phi[k], D);
            scale_area(code, r, p, D, k);
            if (o.x) /* each thread from the numbers that it has just left */
                TS_BLOCK_EACH(n, p.py[k] * p.px[k] * D) o.x[first * D + n] = code[n] / ts_expf(log_gain[k * D + n % D]);
            __syncthreads();
            TS_BLOCK_EACH(i, p.py[k] * p.px[k])
            o.idx[first + i] = quantize(code + i * D, log_gain + k * D, q, &clamped);
            __syncthreads();
            scale_bicubic(u, code, t, p, D, k);
            __syncthreads();
            TS_BLOCK_EACH(n, grid)
            {
                const float up = p.S > 0 ? phi_number(u, w, p, D, n) : u[n];
                f_hat[n] += up;
                r[n] -= up;
                squares += (double)r[n] * r[n];
            }
            squares = block_sum(squares, warps);
            const double outside = block_sum((double)clamped, warps);
            if (threadIdx.x == 0) {
                o.stats[(b * p.K + k) * 2] = squares;
                o.stats[(b * p.K + k) * 2 + 1] = outside;
            }
        } else {
            skip_scale(o, q, b, k);
        }
        if (o.partial) TS_BLOCK_EACH(n, grid) o.partial[(k * o.B + b) * grid + n] = f_hat[n];
    }
    TS_BLOCK_EACH(n, grid) o.f_hat[b * grid + n] = f_hat[n];
}

ts_status residual_fsq_fwd_cuda(ts_stream *s, float *f_hat, int32_t *idx, float *x, float *partial, float *stats,
                                const float *f, const float *log_gain, const ts_phi *phi, const ts_residual_fsq *q,
                                int64_t B, void *scratch)
{
    TS_TRY(check("residual_fsq", q, 0));
    const ts_pyramid *p = &q->p;
    const state_place at = place_forward(s, *q);
    double *image_stats = (double *)scratch;
    float *spill = at.spilled ? (float *)(image_stats + B * p->K * 2) : nullptr;
    const forward_out o = { f_hat, x, partial, idx, image_stats, B };
    const ts_phi none = {};
    if (B > 0) {
        TS_TRY(ts_allow_shared((const void *)residual_fsq_fwd_k1, at.shared_bytes, "residual_fsq"));
        TS_TRY(TS_LAUNCH(residual_fsq_fwd_k1, (unsigned)B, BLOCK, at.shared_bytes, s, o, f, log_gain,
                         p->S > 0 ? *phi : none, *q, spill));
    }
    return stats ? add_up_doubles(s, stats, image_stats, B, 2 * p->K, 0) : TS_OK;
}

/* ---- backward ---- */

enum { BACKWARD_GRIDS = 7 };

/* Scratch of the backward pass: gains (chunks,K,D) in double, then for every chunk the gradient of phi, r and u of all
 * scales, and the state where it does not fit into shared memory. */
struct backward_layout {
    int64_t r, u, state, total; /* floats from the start of a chunk */
    state_place place;
};

static backward_layout lay_out(const ts_stream *s, const ts_residual_fsq &q)
{
    const int64_t grid = grid_floats(q.p, q.D);
    backward_layout l = {};
    l.place = place_state(s, q.p, BACKWARD_GRIDS * grid);
    l.r = round_up4(phi_floats(q.p, q.D));
    l.u = l.r + q.p.K * grid;
    l.state = l.u + q.p.K * grid;
    l.total = round_up4(l.state + l.place.spilled);
    return l;
}

size_t residual_fsq_scratch_cuda(ts_stream *s, const ts_residual_fsq *q, int64_t B, int backward)
{
    const ts_pyramid *p = &q->p;
    if (!backward)
        return sizeof(double) * (size_t)(B * p->K * 2) +
               sizeof(float) * (size_t)(B * place_forward(s, *q).spilled);
    return (size_t)chunks_of(B) *
           (sizeof(double) * (size_t)(p->K * q->D) + sizeof(float) * (size_t)lay_out(s, *q).total);
}

struct backward_in {
    const float *df_hat, *f, *x, *log_gain;
    const int32_t *idx;
    float aux; /* 2*aux_weight/(K_use*B*h*w*D), the factor of -r_k in the gradient of aux */
    int64_t B, chunks;
};

/* r and u of every scale again, from the indices. */
static __device__ inline void replay(float *r, float *u, const backward_in &in, const ts_phi &phi,
                                     const ts_residual_fsq &q, int64_t b, float *code, taps *t)
{
    const ts_pyramid &p = q.p;
    const int D = q.D, grid = grid_floats(p, D);
    for (int k = 0; k < q.K_use; k++) {
        make_taps(t, p, k);
        TS_BLOCK_EACH(i, p.py[k] * p.px[k])
        look_up(code + i * D, in.idx[b * p.T + p.start[k] + i], in.log_gain + k * D, q);
        __syncthreads();
        scale_bicubic(u + k * grid, code, t, p, D, k);
        __syncthreads();
        TS_BLOCK_EACH(n, grid)
        {
            const float before = k == 0 ? bound(in.f[b * grid + n], q) : r[(k - 1) * grid + n];
            r[k * grid + n] = before - phi_number(u + k * grid, phi, p, D, k, n);
        }
        __syncthreads();
    }
}

/* From the gradients of q (main: straight through the loop; aux: of the auxiliary loss) to that of z, which replaces
 * main, and to that of log_gain. */
static __device__ inline void quantize_backward(double *dlog_gain, float *main, const float *aux, const backward_in &in,
                                                const ts_residual_fsq &q, int64_t b, int k, double *warps)
{
    const int D = q.D;
    const int64_t first = b * q.p.T + q.p.start[k];
    for (int d = 0; d < D; d++) {
        const float step = ts_expf(in.log_gain[k * D + d]), half = half_of(q, d);
        double sum = 0;
        TS_BLOCK_EACH(t, q.p.py[k] * q.p.px[k])
        {
            const float v = in.x[(first + t) * D + d];
            const float value = ((float)(in.idx[first + t] / q.basis[d] % q.level[d]) - half) / half;
            const bool inside = fabsf(v) <= 1.0f;
            const float slope = inside ? value - v : v > 0 ? 1.0f : -1.0f;
            float *g = main + t * D + d;
            sum += (double)(*g + (in.aux != 0 ? aux[t * D + d] : 0.0f)) * slope * step;
            if (!inside) *g = 0;
        }
        sum = block_sum(sum, warps);
        if (threadIdx.x == 0) dlog_gain[k * D + d] += sum;
    }
}

/* R = d loss/d r_k, from R_{K-1} = 0 downwards: dh = df_hat - R_k, and R_{k-1} = R_k + area^T(dz). */
static __global__ void residual_fsq_bwd_k1(float *df, double *gains, float *chunk, backward_in in, ts_phi phi,
                                           ts_residual_fsq q, backward_layout l)
{
    TS_SHARED(shared);
    __shared__ double warps[WARP];
    const ts_pyramid &p = q.p;
    const int D = q.D, grid = grid_floats(p, D);
    const int64_t m = blockIdx.x;
    taps *t = (taps *)shared;
    double *dlog_gain = gains + m * p.K * D;
    float *dphi = chunk + m * l.total, *r = dphi + l.r, *u = dphi + l.u;
    float *dh = l.place.spilled ? dphi + l.state : (float *)(t + p.h + p.w);
    float *dr = dh + grid, *aux = dr + grid, *code = aux + grid, *code_aux = code + grid, *tmp = code_aux + grid;

    TS_BLOCK_EACH(n, phi_floats(p, D)) dphi[n] = 0;
    TS_BLOCK_EACH(n, p.K * D) dlog_gain[n] = 0;
    __syncthreads();
    for (int64_t b = m * in.B / in.chunks; b < (m + 1) * in.B / in.chunks; b++) {
        replay(r, u, in, phi, q, b, code, t);
        TS_BLOCK_EACH(n, grid) dr[n] = aux[n] = 0;
        for (int k = q.K_use - 1; k >= 0; k--) {
            make_taps(t, p, k);
            TS_BLOCK_EACH(n, grid)
            {
                dh[n] = in.df_hat[b * grid + n] - dr[n];
                aux[n] -= in.aux * r[k * grid + n];
            }
            scale_up_adjoint(code, dh, phi, t, p, D, k, tmp);
            if (in.aux != 0) {
                scale_up_adjoint(code_aux, aux, phi, t, p, D, k, tmp);
                TS_BLOCK_EACH(n, grid) dh[n] += aux[n];
                __syncthreads();
            }
            phi_gradient(dphi, u + k * grid, dh, p, D, k);
            quantize_backward(dlog_gain, code, code_aux, in, q, b, k, warps);
            scale_area_adjoint(dr, code, p, D, k);
            __syncthreads();
        }
        TS_BLOCK_EACH(n, grid)
        {
            const float y = bound(in.f[b * grid + n], q);
            df[b * grid + n] = q.pre_tanh ? dr[n] * fmaf(-y, y, 1.0f) : dr[n];
        }
        __syncthreads();
    }
}

ts_status residual_fsq_bwd_cuda(ts_stream *s, float *df, float *dlog_gain, const ts_phi *dphi, const float *df_hat,
                                float aux_weight, const float *f, const float *x, const int32_t *idx,
                                const float *log_gain, const ts_phi *phi, const ts_residual_fsq *q, int64_t B,
                                void *scratch)
{
    TS_TRY(check("residual_fsq", q, 0));
    if (B == 0) return TS_OK;
    const ts_pyramid *p = &q->p;
    const int64_t chunks = chunks_of(B);
    const int n_gains = p->K * q->D;
    const backward_layout l = lay_out(s, *q);
    const double values = (double)q->K_use * (double)B * (double)grid_floats(*p, q->D);
    const backward_in in = { df_hat, f, x, log_gain, idx, (float)(2.0 * aux_weight / values), B, chunks };
    double *gains = (double *)scratch;
    float *work = (float *)(gains + chunks * n_gains);
    const ts_phi none = {};
    TS_TRY(ts_allow_shared((const void *)residual_fsq_bwd_k1, l.place.shared_bytes, "residual_fsq"));
    TS_TRY(TS_LAUNCH(residual_fsq_bwd_k1, (unsigned)chunks, BLOCK, l.place.shared_bytes, s, df, gains, work, in,
                     p->S > 0 ? *phi : none, *q, l));
    TS_TRY(add_up_doubles(s, dlog_gain, gains, chunks, n_gains, 1));
    return add_phi_gradients(s, dphi, work, chunks, l.total, p, q->D);
}

static __global__ void residual_fsq_lookup_k1(float *code, const int32_t *idx, const float *log_gain, ts_residual_fsq q,
                                              int k, int64_t N)
{
    TS_EACH(i, N * q.D)
    {
        const int d = (int)(i % q.D);
        const float half = half_of(q, d), n = (float)(idx[i / q.D] / q.basis[d] % q.level[d]) - half;
        code[i] = ts_expf(log_gain[k * q.D + d]) * (n / half);
    }
}

ts_status residual_fsq_lookup_cuda(ts_stream *s, float *code, const int32_t *idx, const float *log_gain,
                                   const ts_residual_fsq *q, int k, int64_t B)
{
    TS_TRY(check("residual_fsq_lookup", q, k));
    const int64_t N = B * q->p.py[k] * q->p.px[k];
    if (N == 0) return TS_OK;
    return TS_LAUNCH(residual_fsq_lookup_k1, ts_blocks(N * q->D), BLOCK, 0, s, code, idx, log_gain, *q, k, N);
}
