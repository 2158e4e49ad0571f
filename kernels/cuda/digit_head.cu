/* digit_head.cu - the digit head's loss and gradients on CUDA. Contract: tessera/op_digit_head.h. Twin:
 * kernels/cpu/digit_head.c.
 *
 * Rows are cut into chunks by N alone; a block works through one chunk, row by row, and keeps the gradients of the
 * parameters in scratch. Each number there has one owner among the threads. The chunks are added up in order. */
#include "tessera/op_digit_head.h"

#include "kernels/cuda/launch.cuh"
#include "tessera/exact.h"

enum { MOST_CHUNKS = 256, FEWEST_ROWS = 16 };

/* One chunk's floats: gradients of b, E, W and c, in this order. */
struct head_layout {
    int64_t E, W, c, params; /* where they start, and the size of all */
    int64_t chunks, rows;    /* rows of a chunk, fewer in the last     */
};

static head_layout layout_of(const ts_digit_head *d, int64_t N)
{
    head_layout a;
    const int64_t M = d->M, last = d->level[d->D - 1];
    a.E = d->D * M;
    a.W = a.E + (d->sum_L - last) * M;
    a.c = a.W + d->sum_L * M;
    a.params = a.c + (int64_t)d->K * d->sum_L;
    a.rows = (N + MOST_CHUNKS - 1) / MOST_CHUNKS;
    if (a.rows < FEWEST_ROWS) a.rows = FEWEST_ROWS;
    a.chunks = (N + a.rows - 1) / a.rows;
    return a;
}

size_t digit_head_scratch_cuda(ts_stream *s, const ts_digit_head *d, int64_t N)
{
    (void)s;
    const head_layout a = layout_of(d, N);
    return (size_t)(a.chunks * a.params) * sizeof(float);
}

struct head_job {
    float *loss, *du, *chunk;
    const float *u;
    const int32_t *code, *scale_of;
    ts_digit_params p;
    float grad_scale;
    int64_t N, T;
};

/* g (D,M) = max(a_i, 0) of all digits; NaN stays NaN. */
static __device__ inline void hidden(float *g, const float *u, const int *digit, const ts_digit_params &p,
                                     const ts_digit_head &d)
{
    for (int m = (int)threadIdx.x; m < d.M; m += (int)blockDim.x) {
        float h = u[m];
        for (int i = 0; i < d.D; i++) {
            const float a = h + p.b[i * d.M + m];
            g[i * d.M + m] = a < 0 ? 0 : a;
            if (i + 1 < d.D) h += p.E[(int64_t)(d.off[i] + digit[i]) * d.M + m];
        }
    }
}

/* The digit that class l (0..sum_L-1) belongs to. */
static __device__ inline int digit_of(int l, const ts_digit_head &d)
{
    int i = 0;
    while (i + 1 < d.D && l >= d.off[i + 1]) i++;
    return i;
}

/* z (sum_L) = logits, a warp each in turn. */
static __device__ inline void logits(float *z, const float *g, const ts_digit_params &p, const ts_digit_head &d,
                                     int64_t at)
{
    const int lane = threadIdx.x % WARP, warps = (int)blockDim.x / WARP;
    for (int l = (int)threadIdx.x / WARP; l < d.sum_L; l += warps) {
        const float *w = p.W + (int64_t)l * d.M, *gi = g + digit_of(l, d) * d.M;
        float sum = 0;
        for (int m = lane; m < d.M; m += WARP) sum = fmaf(w[m], gi[m], sum);
        sum = warp_sum(sum);
        if (lane == 0) z[l] = sum + p.c[at + l];
    }
}

/* z becomes the gradients of the logits, a thread per digit. */
static __device__ inline void softmax(float *z, float *loss, const int *digit, const ts_digit_head &d, float grad_scale)
{
    const int i = (int)threadIdx.x;
    if (i >= d.D) return;
    float *zi = z + d.off[i], max = zi[0], sum = 0;
    for (int l = 1; l < d.level[i]; l++) max = zi[l] > max ? zi[l] : max;
    const float hit = zi[digit[i]];
    for (int l = 0; l < d.level[i]; l++) {
        zi[l] = ts_expf(zi[l] - max);
        sum += zi[l];
    }
    loss[i] = ts_logf(sum) + (max - hit);
    for (int l = 0; l < d.level[i]; l++) zi[l] = grad_scale * (zi[l] / sum - (l == digit[i] ? 1.0f : 0.0f));
}

/* du and the gradients of b, E and W, a thread per channel. A change of a_i is a change of u, of b_i, and of the
 * embedding of every digit before i: one running sum over i, downwards, serves them all. */
static __device__ inline void backward(float *du, float *chunk, const head_layout &o, const float *dz, const float *g,
                                       const int *digit, const ts_digit_params &p, const ts_digit_head &d)
{
    const int64_t M = d.M;
    for (int m = (int)threadIdx.x; m < d.M; m += (int)blockDim.x) {
        float sum = 0;
        for (int i = d.D - 1; i >= 0; i--) {
            const float gi = g[i * M + m];
            float da = 0;
            if (i + 1 < d.D) chunk[o.E + (d.off[i] + digit[i]) * M + m] += sum; /* of the digits after i */
            for (int l = d.off[i]; l < d.off[i] + d.level[i]; l++) {
                da = fmaf(dz[l], p.W[l * M + m], da);
                chunk[o.W + l * M + m] += dz[l] * gi;
            }
            da = gi > 0 ? da : 0;
            chunk[i * M + m] += da;
            sum += da;
        }
        du[m] = sum;
    }
}

static __global__ void digit_head_k1(head_job j, ts_digit_head d, head_layout o)
{
    TS_SHARED(shared);
    __shared__ float z[TS_MAX_SUM_L];
    __shared__ int digit[TS_MAX_D];
    float *g = (float *)shared, *chunk = j.chunk + blockIdx.x * o.params;
    const int64_t first = blockIdx.x * o.rows, end = first + o.rows < j.N ? first + o.rows : j.N;
    if (j.du)
        for (int64_t i = threadIdx.x; i < o.params; i += blockDim.x) chunk[i] = 0;
    for (int64_t n = first; n < end; n++) {
        const int64_t at = (int64_t)j.scale_of[n % j.T] * d.sum_L;
        if ((int)threadIdx.x < d.D) digit[threadIdx.x] = j.code[n] / d.basis[threadIdx.x] % d.level[threadIdx.x];
        __syncthreads();
        hidden(g, j.u + n * d.M, digit, j.p, d);
        __syncthreads();
        logits(z, g, j.p, d, at);
        __syncthreads();
        softmax(z, j.loss + n * d.D, digit, d, j.grad_scale);
        __syncthreads();
        if (!j.du) continue;
        backward(j.du + n * d.M, chunk, o, z, g, digit, j.p, d);
        for (int l = (int)threadIdx.x; l < d.sum_L; l += (int)blockDim.x) chunk[o.c + at + l] += z[l];
        __syncthreads();
    }
}

static __global__ void add_chunks_k1(ts_digit_params grad, const float *chunks, head_layout o)
{
    TS_EACH(i, o.params)
    {
        float sum = 0;
        for (int64_t k = 0; k < o.chunks; k++) sum += chunks[k * o.params + i];
        if (i < o.E)
            grad.b[i] += sum;
        else if (i < o.W)
            grad.E[i - o.E] += sum;
        else if (i < o.c)
            grad.W[i - o.W] += sum;
        else
            grad.c[i - o.c] += sum;
    }
}

ts_status digit_head_cuda(ts_stream *s, float *loss, float *du, const ts_digit_params *grad, const float *u,
                          const int32_t *code, const int32_t *scale_of, const ts_digit_params *param, float grad_scale,
                          const ts_digit_head *d, int64_t N, int64_t T, void *scratch)
{
    if (!du != !grad) return ts_fail(TS_E_ARG, "digit head: du and grad are given both or neither");
    if (N == 0) return TS_OK;
    const head_layout o = layout_of(d, N);
    const size_t bytes = sizeof(float) * (size_t)(d->D * d->M);
    if (bytes + sizeof(float) * TS_MAX_SUM_L + 256 > s->most_shared)
        return ts_fail(TS_E_ARG, "digit head: %d digits of %d hidden channels are too many for one block", d->D, d->M);
    const head_job j = { loss, du, (float *)scratch, u, code, scale_of, *param, grad_scale, N, T };
    TS_TRY(ts_allow_shared((const void *)digit_head_k1, bytes, "digit head"));
    TS_TRY(TS_LAUNCH(digit_head_k1, (unsigned)o.chunks, 128, bytes, s, j, *d, o));
    if (!du) return TS_OK;
    return TS_LAUNCH(add_chunks_k1, ts_blocks(o.params), BLOCK, 0, s, *grad, (const float *)scratch, o);
}
