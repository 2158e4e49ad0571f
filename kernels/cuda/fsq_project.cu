/* fsq_project.cu - FSQ between two products on CUDA. Contract: tessera/op_fsq_project.h. Twin: kernels/cpu/fsq_project.c, whose
 * arithmetic forward repeats operation by operation.
 *
 * A block holds the weights in shared memory and takes a piece of tokens at a time: whole vectors on the way to and from device
 * memory, a thread for a channel of a token in between. */
#include "tessera/op_fsq_project.h"

#include "kernels/cuda/fsq.cuh"
#include "kernels/cuda/launch.cuh"

enum { FLOATS = 44 * 256, MOST_ROWS = 64, MOST_BLOCKS = 1024, MOST_PARTS = 256 }; /* 44 KB of shared memory */

/* Rows in shared memory take an odd number of places, so that those of a warp begin in different banks. */
static __host__ __device__ inline int places(int n)
{
    return n | 1;
}

static __host__ __device__ inline int weight_floats(const ts_fsq_project &p)
{
    return p.q.D * (places(p.C) + places(p.O) + 1) + p.O;
}

/* Of the gradients of the weights: w_in (D,C), b_in (D), w_out turned (D,O), b_out (O). */
static __host__ __device__ inline int part_floats(const ts_fsq_project &p)
{
    return p.q.D * (p.C + p.O + 1) + p.O;
}

struct weights {
    float *in, *out, *bias_in, *bias_out; /* in (D, places of C), out turned: (D, places of O) */
};

static __device__ inline weights place_weights(float *&room, const ts_fsq_project &p)
{
    weights w;
    w.in = room;
    w.out = w.in + p.q.D * places(p.C);
    w.bias_in = w.out + p.q.D * places(p.O);
    w.bias_out = w.bias_in + p.q.D;
    room = w.bias_out + p.O;
    return w;
}

static __device__ inline void load_weights_out(const weights &w, const ts_fsq_weights &from, const ts_fsq_project &p)
{
    for (int i = (int)threadIdx.x; i < p.O * p.q.D; i += BLOCK) w.out[i % p.q.D * places(p.O) + i / p.q.D] = from.w_out[i];
    for (int i = (int)threadIdx.x; i < p.O; i += BLOCK) w.bias_out[i] = from.b_out[i];
}

static __device__ inline void load_weights_in(const weights &w, const ts_fsq_weights &from, const ts_fsq_project &p)
{
    for (int i = (int)threadIdx.x; i < p.q.D * p.C; i += BLOCK) w.in[i / p.C * places(p.C) + i % p.C] = from.w_in[i];
    for (int i = (int)threadIdx.x; i < p.q.D; i += BLOCK) w.bias_in[i] = from.b_in[i];
}

/* Rows of n numbers, `rows` of them, from device memory into places. A piece begins at a multiple of four rows: vectors fit. */
static __device__ inline void load_rows(float *room, const float *from, int rows, int n, int vectors)
{
    const int numbers = rows * n, quads = vectors ? numbers / 4 : 0, stride = places(n);
    for (int i = (int)threadIdx.x; i < quads; i += BLOCK) {
        const float4 v = load4(from + 4 * i);
        const float four[4] = { v.x, v.y, v.z, v.w };
#pragma unroll
        for (int j = 0; j < 4; j++) room[(4 * i + j) / n * stride + (4 * i + j) % n] = four[j];
    }
    for (int i = 4 * quads + (int)threadIdx.x; i < numbers; i += BLOCK) room[i / n * stride + i % n] = from[i];
}

/* to (rows,n) = bias + a (rows,D) w (D,n), in ascending d; both lie in places. bias NULL: 0. */
static __device__ inline float product_at(const float *a, const float *w, const float *bias, int D, int n, int i)
{
    const float *row = a + i / n * places(D), *column = w + i % n;
    float sum = bias ? bias[i % n] : 0.0f;
    for (int d = 0; d < D; d++) sum = fmaf(row[d], column[d * places(n)], sum);
    return sum;
}

static __device__ inline void store_product(float *to, const float *a, const float *w, const float *bias, int rows, int D, int n,
                                            int vectors)
{
    const int numbers = rows * n, quads = vectors ? numbers / 4 : 0;
    for (int i = (int)threadIdx.x; i < quads; i += BLOCK)
        store4(to + 4 * i, float4{ product_at(a, w, bias, D, n, 4 * i), product_at(a, w, bias, D, n, 4 * i + 1),
                                   product_at(a, w, bias, D, n, 4 * i + 2), product_at(a, w, bias, D, n, 4 * i + 3) });
    for (int i = 4 * quads + (int)threadIdx.x; i < numbers; i += BLOCK) to[i] = product_at(a, w, bias, D, n, i);
}

/* for (every piece of N tokens, shared by the grid) */
#define EACH_PIECE(n, most)                                                                                            \
    for (int64_t n = (int64_t)blockIdx.x * (most); n < p.N; n += (int64_t)gridDim.x * (most))

static __device__ inline int rows_from(int64_t n, int most, const ts_fsq_project &p)
{
    return p.N - n < most ? (int)(p.N - n) : most;
}

static __global__ void fsq_project_fwd_k1(float *y, int32_t *idx, float *z, const float *x, ts_fsq_weights from, ts_fsq_project p,
                                          int most, int vectors)
{
    TS_SHARED(shared);
    const int D = p.q.D, stride = places(D);
    float *room = (float *)shared;
    const weights w = place_weights(room, p);
    float *tokens = room, *value = tokens + most * places(p.C);
    int32_t *part = (int32_t *)(value + most * stride);
    load_weights_in(w, from, p);
    load_weights_out(w, from, p);
    EACH_PIECE(n, most)
    {
        const int rows = rows_from(n, most, p);
        load_rows(tokens, x + n * p.C, rows, p.C, vectors);
        __syncthreads();
        for (int i = (int)threadIdx.x; i < rows * D; i += BLOCK) {
            const int row = i / D, d = i % D;
            float sum = w.bias_in[d];
            for (int c = 0; c < p.C; c++) sum = fmaf(tokens[row * places(p.C) + c], w.in[d * places(p.C) + c], sum);
            int32_t digit;
            value[row * stride + d] = value_of(sum, p.q, d, &digit);
            part[row * stride + d] = digit * p.q.basis[d];
            if (z) z[n * D + i] = sum;
        }
        __syncthreads();
        if ((int)threadIdx.x < rows) {
            int32_t sum = 0;
            for (int d = 0; d < D; d++) sum += part[(int)threadIdx.x * stride + d];
            idx[n + threadIdx.x] = sum;
        }
        /* The next piece's values come behind a barrier: that of its tokens. */
        store_product(y + n * p.O, value, w.out, w.bias_out, rows, D, p.O, vectors);
    }
}

static __global__ void fsq_project_decode_k1(float *y, const int32_t *idx, ts_fsq_weights from, ts_fsq_project p, int most,
                                             int vectors)
{
    TS_SHARED(shared);
    float *room = (float *)shared;
    const weights w = place_weights(room, p);
    float *value = room;
    load_weights_out(w, from, p);
    EACH_PIECE(n, most)
    {
        const int rows = rows_from(n, most, p);
        if ((int)threadIdx.x < rows) values_of(value + (int)threadIdx.x * places(p.q.D), idx[n + threadIdx.x], p.q);
        __syncthreads();
        store_product(y + n * p.O, value, w.out, w.bias_out, rows, p.q.D, p.O, vectors);
        __syncthreads();
    }
}

/* sum (D,n) += over rows of a (rows,D) and b (rows,n), both in places. A number belongs to the same thread every time. */
static __device__ inline void add_outer(float *sum, const float *a, const float *b, int rows, int D, int n)
{
    for (int i = (int)threadIdx.x; i < D * n; i += BLOCK) {
        float v = sum[i];
        for (int r = 0; r < rows; r++) v = fmaf(a[r * places(D) + i / n], b[r * places(n) + i % n], v);
        sum[i] = v;
    }
}

static __device__ inline void add_rows(float *sum, const float *a, int rows, int n)
{
    for (int i = (int)threadIdx.x; i < n; i += BLOCK) {
        float v = sum[i];
        for (int r = 0; r < rows; r++) v += a[r * places(n) + i];
        sum[i] = v;
    }
}

/* Every block leaves the gradients of its tokens in a part of its own. dx may be NULL. */
static __global__ void fsq_project_bwd_k1(float *dx, float *parts, const float *dy, const float *x, const float *z,
                                          ts_fsq_weights from, ts_fsq_project p, int most, int vectors)
{
    TS_SHARED(shared);
    const int D = p.q.D, C = p.C, O = p.O, stride = places(D), size = part_floats(p);
    float *room = (float *)shared;
    const weights w = place_weights(room, p);
    float *sums = room, *tokens = sums + size, *g = tokens + most * places(C), *value = g + most * places(O);
    float *dz = value + most * stride;
    load_weights_in(w, from, p);
    load_weights_out(w, from, p);
    for (int i = (int)threadIdx.x; i < size; i += BLOCK) sums[i] = 0;
    EACH_PIECE(n, most)
    {
        const int rows = rows_from(n, most, p);
        load_rows(tokens, x + n * C, rows, C, vectors);
        load_rows(g, dy + n * O, rows, O, vectors);
        __syncthreads();
        for (int i = (int)threadIdx.x; i < rows * D; i += BLOCK) {
            const int row = i / D, d = i % D;
            const float at = z[n * D + i];
            float sum = 0;
            for (int o = 0; o < O; o++) sum = fmaf(g[row * places(O) + o], w.out[d * places(O) + o], sum);
            int32_t digit;
            value[row * stride + d] = value_of(at, p.q, d, &digit);
            dz[row * stride + d] = sum * (slope(at, p.q, d) / (float)(p.q.level[d] / 2));
        }
        __syncthreads();
        if (dx) store_product(dx + n * C, dz, w.in, nullptr, rows, D, C, vectors);
        add_outer(sums, dz, tokens, rows, D, C);
        add_rows(sums + D * C, dz, rows, D);
        add_outer(sums + D * (C + 1), value, g, rows, D, O);
        add_rows(sums + D * (C + O + 1), g, rows, O);
        __syncthreads();
    }
    for (int i = (int)threadIdx.x; i < size; i += BLOCK) parts[(int64_t)blockIdx.x * size + i] = sums[i];
}

static __device__ inline float *gradient_at(const ts_fsq_weights &grad, const ts_fsq_project &p, int i)
{
    const int D = p.q.D;
    if (i < D * p.C) return grad.w_in ? grad.w_in + i : nullptr;
    i -= D * p.C;
    if (i < D) return grad.b_in ? grad.b_in + i : nullptr;
    i -= D;
    if (i < D * p.O) return grad.w_out ? grad.w_out + i % p.O * D + i / p.O : nullptr;
    return grad.b_out ? grad.b_out + i - D * p.O : nullptr;
}

static __global__ void fsq_project_sum_k1(ts_fsq_weights grad, const float *parts, int n_parts, ts_fsq_project p)
{
    const int size = part_floats(p);
    TS_EACH(i, size)
    {
        float *to = gradient_at(grad, p, (int)i), sum = 0;
        for (int m = 0; m < n_parts; m++) sum += parts[(int64_t)m * size + i];
        if (to) *to += sum;
    }
}

/* Tokens of a piece, of which each takes so many floats; a multiple of four. */
static int most_rows(int fixed, int each)
{
    const int rows = (FLOATS - fixed) / each / 4 * 4;
    return rows < MOST_ROWS ? rows : MOST_ROWS;
}

static ts_status check(const ts_fsq_project *p)
{
    if (ts_fsq_project_fits(p->q.D, p->C, p->O)) return TS_OK;
    return ts_fail(TS_E_ARG, "fsq_project: %d to %d to %d channels do not fit", p->C, p->q.D, p->O);
}

static unsigned pieces(int64_t N, int most, int64_t limit)
{
    const int64_t n = (N + most - 1) / most;
    return (unsigned)(n < limit ? n : limit);
}

ts_status fsq_project_fwd_cuda(ts_stream *s, float *y, int32_t *idx, float *z, const float *x, const ts_fsq_weights *w,
                               const ts_fsq_project *p)
{
    TS_TRY(check(p));
    if (p->N == 0) return TS_OK;
    const int fixed = weight_floats(*p), each = places(p->C) + 2 * places(p->q.D), most = most_rows(fixed, each);
    return TS_LAUNCH(fsq_project_fwd_k1, pieces(p->N, most, MOST_BLOCKS), BLOCK, sizeof(float) * (size_t)(fixed + most * each), s, y, idx, z,
                     x, *w, *p, most, ts_aligned(y) && ts_aligned(x));
}

ts_status fsq_project_decode_cuda(ts_stream *s, float *y, const int32_t *idx, const ts_fsq_weights *w, const ts_fsq_project *p)
{
    TS_TRY(check(p));
    if (p->N == 0) return TS_OK;
    const int fixed = weight_floats(*p), each = places(p->q.D), most = most_rows(fixed, each);
    return TS_LAUNCH(fsq_project_decode_k1, pieces(p->N, most, MOST_BLOCKS), BLOCK, sizeof(float) * (size_t)(fixed + most * each), s, y, idx,
                     *w, *p, most, ts_aligned(y));
}

static int backward_rows(const ts_fsq_project *p, int *fixed, int *each)
{
    *fixed = weight_floats(*p) + part_floats(*p);
    *each = places(p->C) + places(p->O) + 2 * places(p->q.D);
    return most_rows(*fixed, *each);
}

size_t fsq_project_scratch_cuda(ts_stream *s, const ts_fsq_project *p)
{
    int fixed, each;
    (void)s;
    if (!ts_fsq_project_fits(p->q.D, p->C, p->O)) return 0;
    return sizeof(float) * (size_t)pieces(p->N, backward_rows(p, &fixed, &each), MOST_PARTS) * (size_t)part_floats(*p);
}

ts_status fsq_project_bwd_cuda(ts_stream *s, float *dx, const ts_fsq_weights *grad, const float *dy, const float *x, const float *z,
                               const ts_fsq_weights *w, const ts_fsq_project *p, void *scratch)
{
    TS_TRY(check(p));
    if (p->N == 0) return TS_OK;
    int fixed, each;
    const int most = backward_rows(p, &fixed, &each);
    const unsigned blocks = pieces(p->N, most, MOST_PARTS);
    TS_TRY(TS_LAUNCH(fsq_project_bwd_k1, blocks, BLOCK, sizeof(float) * (size_t)(fixed + most * each), s, dx, (float *)scratch, dy, x, z,
                     *w, *p, most, (!dx || ts_aligned(dx)) && ts_aligned(dy) && ts_aligned(x)));
    return TS_LAUNCH(fsq_project_sum_k1, ts_blocks(part_floats(*p)), BLOCK, 0, s, *grad, (const float *)scratch, (int)blocks, *p);
}
