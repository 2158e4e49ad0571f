/* attention_mma.cu - the forward of attention on tensor cores, in bfloat16. Contracts: tessera/op_attention.h,
 * attention.cuh.
 *
 * A block has MMA_TILE queries, a warp ROWS of them, against tiles of TILE keys. Queries, keys and values lie in shared
 * memory rounded to bfloat16; scores, maxima, sums and the output so far are float32. A warp takes its rows of scores
 * as a product, turns them into weights (online softmax, a lane for each key), and adds the product of weights and
 * values to its rows of the output. Factors are applied to scores in float32. Values that are not finite are marked
 * (attention_mma.cuh). Keys, values and results are float32 or bfloat16 in memory. */
#include "kernels/cuda/attention_mma.cuh"

/* Floats or bfloat16 numbers between rows: eight more than there are, against bank conflicts. */
enum { SCORE_STRIDE = TILE + 8, WEIGHT_STRIDE = TILE + 8 };

struct places {
    uint16_t *q, *k, *v, *p; /* p: weights */
    float *scores, *out;
    int stride; /* of q, k, v, and of out */
};

/* Bytes for heads of `width` channels, a multiple of SIDE. */
static size_t shared_bytes(int width)
{
    return sizeof(uint16_t) * (size_t)((MMA_TILE + 2 * TILE) * stride_of(width) + MMA_TILE * WEIGHT_STRIDE) +
           sizeof(float) * (size_t)(MMA_TILE * SCORE_STRIDE + MMA_TILE * stride_of(width));
}

static __device__ inline places divide(unsigned char *shared, int width)
{
    places m;
    m.stride = stride_of(width);
    m.q = (uint16_t *)shared;
    m.k = m.q + MMA_TILE * m.stride;
    m.v = m.k + TILE * m.stride;
    m.p = m.v + TILE * m.stride;
    m.scores = (float *)(m.p + MMA_TILE * WEIGHT_STRIDE);
    m.out = m.scores + MMA_TILE * SCORE_STRIDE;
    return m;
}

/* out (ROWS, width) += weights of this warp . values */
static __device__ inline void multiply_values(const places &m, int row0, int width)
{
    for (int i = 0; i < width; i += SIDE) {
        float *const out = m.out + row0 * m.stride + i;
        wmma::fragment<wmma::accumulator, SIDE, SIDE, SIDE, float> sum;
        wmma::load_matrix_sync(sum, out, (unsigned)m.stride, wmma::mem_row_major);
        for (int u = 0; u < TILE; u += SIDE) {
            wmma::fragment<wmma::matrix_a, SIDE, SIDE, SIDE, __nv_bfloat16, wmma::row_major> p;
            wmma::fragment<wmma::matrix_b, SIDE, SIDE, SIDE, __nv_bfloat16, wmma::row_major> v;
            wmma::load_matrix_sync(p, as_bf16(m.p + row0 * WEIGHT_STRIDE + u), (unsigned)WEIGHT_STRIDE);
            wmma::load_matrix_sync(v, as_bf16(m.v + u * m.stride + i), (unsigned)m.stride);
            wmma::mma_sync(sum, p, v, sum);
        }
        wmma::store_matrix_sync(out, sum, (unsigned)m.stride, wmma::mem_row_major);
    }
}

/* Marks of the values of a tile. */
static __device__ inline int *room_of_marks()
{
    __shared__ int bad[TILE];
    return bad;
}

template <class T>
static __global__ void __launch_bounds__(WARPS *WARP, 4) attention_mma_k1(job j, stored<T> x, int width)
{
    TS_SHARED(shared);
    int *const bad = room_of_marks();
    const places m = divide(shared, width);
    const int c = j.c, lane = threadIdx.x % WARP, row0 = (int)threadIdx.x / WARP * ROWS;
    const int64_t t0 = (int64_t)blockIdx.x * MMA_TILE, h = blockIdx.y, b = blockIdx.z, head = b * j.H + h, C = j.H * c;
    const T *keys = x.k + b * j.kv_image + h * c, *values = x.v + b * j.kv_image + h * c;
    const int64_t last = (t0 + MMA_TILE < j.T ? t0 + MMA_TILE : j.T) - 1;
    const int64_t most = end_of(j, last); /* end never decreases */
    const int rows = (int)(last + 1 - t0 - row0); /* of this warp; it may have none, or more than ROWS */
    float max[ROWS], sum[ROWS];

    load_rounded(m.q, m.stride, j.q + b * j.q_image + h * c, j.q_token, t0, j.T, MMA_TILE, j, width, nullptr, 0);
    for (int i = lane; i < ROWS * width; i += WARP) m.out[(row0 + i / width) * m.stride + i % width] = 0;
    if (threadIdx.x < TILE) bad[threadIdx.x] = 0;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        max[r] = -INFINITY, sum[r] = 0;
        put_row(m.p + (row0 + r) * WEIGHT_STRIDE, 0, lane);
    }
    for (int64_t u0 = 0; u0 < most; u0 += TILE) {
        const int mark = (int)(u0 / TILE) + 1;
        __syncthreads();
        load_rounded(m.k, m.stride, keys, j.kv_token, u0, j.keys, TILE, j, width, nullptr, 0);
        load_rounded(m.v, m.stride, values, j.kv_token, u0, j.keys, TILE, j, width, bad, mark);
        __syncthreads();
        if (rows <= 0) continue;
        multiply_rows(m.scores + row0 * SCORE_STRIDE, SCORE_STRIDE, m.q + row0 * m.stride, m.k, m.stride, width);
        __syncwarp();
        const bool factors = sizeof(T) == sizeof(float) && j.k_factor; /* bfloat16 keys are normalised */
        const float k_factor = factors && u0 + lane < j.keys ? j.k_factor[head * j.T + u0 + lane] : 1.0f;
        const bool broken = bad[lane] == mark;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (r >= rows) continue;
            const int64_t t = t0 + row0 + r;
            const bool seen = lane < rows_in(u0, end_of(j, t));
            float s = m.scores[(row0 + r) * SCORE_STRIDE + lane] * j.q_factor[head * j.T + t] * k_factor;
            s = !seen ? -INFINITY : broken ? NAN : s;
            const float most_now = warp_max(s), top = most_now > max[r] ? most_now : max[r];
            const float e = seen ? ts_expf(s - top) : 0.0f;
            const float keep = max[r] == -INFINITY ? 0.0f : ts_expf(max[r] - top);
            sum[r] = fmaf(sum[r], keep, warp_sum(e));
            max[r] = top;
            put_row(m.p + (row0 + r) * WEIGHT_STRIDE, e, lane);
            if (keep == 1) continue;
            for (int i = lane; i < width; i += WARP) m.out[(row0 + r) * m.stride + i] *= keep;
        }
        __syncwarp();
        multiply_values(m, row0, width);
        __syncwarp();
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (r >= rows) continue;
        const int64_t t = t0 + row0 + r;
        for (int i = lane; i < c; i += WARP)
            put(x.out + (b * j.T + t) * C + h * c + i, m.out[(row0 + r) * m.stride + i] / sum[r]);
        if (j.lse && lane == 0) j.lse[head * j.T + t] = max[r] + ts_logf(sum[r]);
    }
}

bool attention_mma_fits(const ts_stream *s, int c)
{
    enum { STATIC = 1 << 10 };
    return shared_bytes(width_of(c)) + STATIC <= s->most_shared;
}

ts_status attention_mma_fwd(ts_stream *s, job j, const stored<uint16_t> *narrow, int64_t B)
{
    const int width = width_of(j.c);
    const size_t bytes = shared_bytes(width);
    const dim3 grid((unsigned)((j.T + MMA_TILE - 1) / MMA_TILE), (unsigned)j.H, (unsigned)B);
    const stored<float> wide = { j.k, j.v, j.out };
    const void *k = narrow ? (const void *)narrow->k : j.k, *v = narrow ? (const void *)narrow->v : j.v;
    j.quads = j.c % 4 == 0 && ts_aligned(j.q) && ts_aligned(k) && ts_aligned(v);
    TS_TRY(ts_allow_shared(narrow ? (const void *)attention_mma_k1<uint16_t> : (const void *)attention_mma_k1<float>, bytes,
                           "attention"));
    return narrow ? TS_LAUNCH(attention_mma_k1<uint16_t>, grid, WARPS * WARP, bytes, s, j, *narrow, width)
                  : TS_LAUNCH(attention_mma_k1<float>, grid, WARPS * WARP, bytes, s, j, wide, width);
}
