/* attention_mma_bwd.cu - the backward of attention on tensor cores, in bfloat16. Contracts: tessera/op_attention.h,
 * attention.cuh.
 *
 * As in attention.cu, once by blocks of queries for dq and once by blocks of keys for dk and dv: a block owns MMA_TILE
 * rows, a warp ROWS of them, and tiles of TILE rows of the other side pass by. Of each a warp takes its rows of scores
 * and of dout.v as products, turns them into weights and gradients of scores, rounded where they lie, and adds their
 * products with the tile to its sums. Those are fragments, CHANNELS channels at a time: of wider heads all tiles pass
 * by again. Every number has one owner and sums run in ascending order, so nothing depends on the launch.
 *
 * Rows of a tile that are not finite are marked (attention_mma.cuh): the weights of those who do not see them are zero. */
#include "kernels/cuda/attention_mma.cuh"

/* Floats between rows of scores: those of eight rows, rounded, lie in different banks. AT_ONCE rows are read before the
 * first is written. */
enum { PARTS = 4, CHANNELS = PARTS * SIDE, SCORE_STRIDE = TILE + 4, AT_ONCE = 4 };

typedef wmma::fragment<wmma::accumulator, SIDE, SIDE, SIDE, float> sums;

/* x are those of which products make scores, y those of which they make gradients of weights: of queries q and dout, of
 * keys k and v. */
struct backward_places {
    uint16_t *own_x, *own_y, *tile_x, *tile_y;
    float *scores, *slopes; /* then over them, in bfloat16: weights, and gradients of scores */
    int stride;
};

/* Bytes for heads of `width` channels: never more than forward needs where little is left, 384 a channel and not 512. */
static size_t shared_bytes(int width)
{
    return sizeof(uint16_t) * (size_t)(2 * (MMA_TILE + TILE) * stride_of(width)) +
           sizeof(float) * (size_t)(2 * MMA_TILE * SCORE_STRIDE);
}

static __device__ inline backward_places divide(unsigned char *shared, int width)
{
    backward_places m;
    m.stride = stride_of(width);
    m.own_x = (uint16_t *)shared;
    m.own_y = m.own_x + MMA_TILE * m.stride;
    m.tile_x = m.own_y + MMA_TILE * m.stride;
    m.tile_y = m.tile_x + TILE * m.stride;
    m.scores = (float *)(m.tile_y + TILE * m.stride);
    m.slopes = m.scores + MMA_TILE * SCORE_STRIDE;
    return m;
}

/* Where and of whom a block is. */
struct block_place {
    int64_t row0, head, at, dout; /* first row of the block; offsets of its head's queries in qkv, and in dout */
    int lane, warp0, rows;        /* warp0: first row of this warp, in the block; it may have none, or more than ROWS */
};

static __device__ inline block_place here(const job &j)
{
    const int64_t h = blockIdx.y, b = blockIdx.z;
    block_place p;
    p.row0 = (int64_t)blockIdx.x * MMA_TILE;
    p.head = b * j.H + h;
    p.at = b * j.q_image + h * j.c;
    p.dout = (b * j.T * j.H + h) * j.c;
    p.lane = (int)threadIdx.x % WARP;
    p.warp0 = (int)threadIdx.x / WARP * ROWS;
    p.rows = (j.T - p.row0 < MMA_TILE ? (int)(j.T - p.row0) : (int)MMA_TILE) - p.warp0;
    return p;
}

/* What all scores of a query need. */
struct facts {
    float factor, lse, delta;
    int end; /* 0 behind the last query */
};

static __device__ inline facts facts_of(const job &j, int64_t head, int64_t t)
{
    facts f = { 0, 0, 0, (int)end_of(j, t) };
    if (t >= j.T) return f;
    f.factor = j.q_factor[head * j.T + t];
    f.lse = j.fwd_lse[head * j.T + t];
    f.delta = j.delta[head * j.T + t];
    return f;
}

/* Scores and products of gradients and values, of the rows of this warp and a tile. */
static __device__ inline void multiply_tile(const backward_places &m, int warp0, int width)
{
    const int at = warp0 * SCORE_STRIDE, own = warp0 * m.stride;
    multiply_rows(m.scores + at, SCORE_STRIDE, m.own_x + own, m.tile_x, m.stride, width);
    multiply_rows(m.slopes + at, SCORE_STRIDE, m.own_y + own, m.tile_y, m.stride, width);
}

/* sum (ROWS, CHANNELS) += left (ROWS, TILE) . channels `first`.. of a tile. left: bfloat16 in the place of floats. */
static __device__ inline void add_product(sums (&sum)[PARTS], const float *left, const uint16_t *tile, int stride,
                                          int first, int width)
{
    for (int u = 0; u < TILE; u += SIDE) {
        wmma::fragment<wmma::matrix_a, SIDE, SIDE, SIDE, __nv_bfloat16, wmma::row_major> a;
        wmma::load_matrix_sync(a, as_bf16((const uint16_t *)left + u), 2u * SCORE_STRIDE);
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const int at = first + i * SIDE;
            if (at >= width) continue;
            wmma::fragment<wmma::matrix_b, SIDE, SIDE, SIDE, __nv_bfloat16, wmma::row_major> b;
            wmma::load_matrix_sync(b, as_bf16(tile + u * stride + at), (unsigned)stride);
            wmma::mma_sync(sum[i], a, b, sum[i]);
        }
    }
}

/* Channels `first`.. of the rows of this warp, to `to`; room is for a matrix. */
static __device__ inline void put_sums(float *to, int64_t token, const sums (&sum)[PARTS], float *room, int first,
                                       const job &j, const block_place &p)
{
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        __syncwarp();
        wmma::store_matrix_sync(room, sum[i], (unsigned)SCORE_STRIDE, wmma::mem_row_major);
        __syncwarp();
        for (int n = p.lane; n < ROWS * SIDE; n += WARP) {
            const int row = n / SIDE, at = first + i * SIDE + n % SIDE;
            if (row < p.rows && at < j.c) to[(p.warp0 + row) * token + at] = room[row * SCORE_STRIDE + n % SIDE];
        }
    }
}

/* Gradients of scores times the key's factor, of queries of this warp and the keys u0... */
static __device__ inline void slopes_of_queries(const backward_places &m, const job &j, const block_place &p,
                                                const facts *query, int64_t u0, bool broken)
{
    const int64_t u = u0 + p.lane;
    const float factor = u < j.keys ? j.k_factor[p.head * j.T + u] : 0.0f;
#pragma unroll 1
    for (int r0 = p.warp0; r0 < p.warp0 + ROWS; r0 += AT_ONCE) {
        float ds[AT_ONCE];
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) {
            const facts f = query[r0 + r];
            const int at = (r0 + r) * SCORE_STRIDE + p.lane;
            const float weight = broken ? NAN : ts_expf(m.scores[at] * f.factor * factor - f.lse);
            ds[r] = u < f.end ? weight * (m.slopes[at] - f.delta) * factor : 0.0f;
        }
        __syncwarp();
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) put_row((uint16_t *)(m.slopes + (r0 + r) * SCORE_STRIDE), ds[r], p.lane);
    }
}

/* Rows of weights and of gradients of scores, one of both from each lane. A lane writes two numbers of one of them. */
static __device__ inline void put_rows(float *weights, float *slopes, float weight, float slope, int lane)
{
    const uint32_t mine = bf16_narrow(weight) | (uint32_t)bf16_narrow(slope) << 16;
    const uint32_t other = __shfl_xor_sync(ALL_LANES, mine, 1);
    uint32_t *const to = (uint32_t *)(lane % 2 ? slopes : weights) + lane / 2;
    *to = lane % 2 ? other >> 16 | (mine & 0xffff0000u) : (mine & 0xffffu) | other << 16;
}

/* Weights, and gradients of scores times the query's factor, of keys of this warp and a query f of each lane. */
static __device__ inline void slopes_of_keys(const backward_places &m, const block_place &p, const float *key,
                                             const facts &f, bool broken)
{
#pragma unroll 1
    for (int r0 = p.warp0; r0 < p.warp0 + ROWS; r0 += AT_ONCE) {
        float weight[AT_ONCE], ds[AT_ONCE];
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) {
            const int at = (r0 + r) * SCORE_STRIDE + p.lane;
            const bool seen = p.row0 + r0 + r < f.end;
            weight[r] = !seen ? 0.0f : broken ? NAN : ts_expf(m.scores[at] * f.factor * key[r0 + r] - f.lse);
            ds[r] = seen ? weight[r] * (m.slopes[at] - f.delta) * f.factor : 0.0f;
        }
        __syncwarp();
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) {
            const int at = (r0 + r) * SCORE_STRIDE;
            put_rows(m.scores + at, m.slopes + at, weight[r], ds[r], p.lane);
        }
    }
}

/* dq of one block of queries, and its part of the gradient of scale_mul. */
static __global__ void attention_mma_dq_k1(job j, int width, int normalised)
{
    TS_SHARED(shared);
    __shared__ facts query[MMA_TILE];
    __shared__ int bad[TILE];
    __shared__ float parts[WARPS];
    const backward_places m = divide(shared, width);
    const block_place p = here(j);
    const int64_t last = (p.row0 + MMA_TILE < j.T ? p.row0 + MMA_TILE : j.T) - 1;
    const int64_t most = end_of(j, last); /* end never decreases */
    float *const to = j.dqkv + p.at + p.row0 * j.q_token;
    int mark = 0;

    load_rounded(m.own_x, m.stride, j.q + p.at, j.q_token, p.row0, j.T, MMA_TILE, j, width, nullptr, 0);
    load_rounded(m.own_y, m.stride, j.dout + p.dout, j.H * j.c, p.row0, j.T, MMA_TILE, j, width, nullptr, 0);
    if (threadIdx.x < MMA_TILE) query[threadIdx.x] = facts_of(j, p.head, p.row0 + threadIdx.x);
    if (threadIdx.x < TILE) bad[threadIdx.x] = 0;
    for (int first = 0; first < width; first += CHANNELS) {
        sums dq[PARTS];
#pragma unroll
        for (int i = 0; i < PARTS; i++) wmma::fill_fragment(dq[i], 0.0f);
        for (int64_t u0 = 0; u0 < most; u0 += TILE) {
            mark++;
            __syncthreads();
            load_rounded(m.tile_x, m.stride, j.k + p.at, j.kv_token, u0, j.keys, TILE, j, width, bad, mark);
            load_rounded(m.tile_y, m.stride, j.v + p.at, j.kv_token, u0, j.keys, TILE, j, width, nullptr, 0);
            __syncthreads();
            if (p.rows <= 0) continue;
            multiply_tile(m, p.warp0, width);
            __syncwarp();
            slopes_of_queries(m, j, p, query, u0, bad[p.lane] == mark);
            __syncwarp();
            add_product(dq, m.slopes + p.warp0 * SCORE_STRIDE, m.tile_x, m.stride, first, width);
        }
        put_sums(to, j.q_token, dq, m.scores + p.warp0 * SCORE_STRIDE, first, j, p);
    }
    __syncwarp();
    float mul = 0;
    for (int row = p.warp0; row < p.warp0 + ROWS && row < p.warp0 + p.rows; row++) {
        const float *x = j.q + p.at + (p.row0 + row) * j.q_token, factor = query[row].factor;
        float *const d = to + row * j.q_token;
        const float inverse = normalised ? inverse_norm(x, j.c, p.lane) : 1.0f;
        for (int i = p.lane; i < j.c; i += WARP) mul = fmaf(factor * x[i], d[i], mul);
        through_norm(d, x, d, factor, inverse, normalised, j.c, p.lane);
    }
    mul = warp_sum(mul);
    if (p.lane == 0) parts[p.warp0 / ROWS] = mul;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < WARPS; w++) mul += parts[w];
    j.dmul[p.head * gridDim.x + blockIdx.x] = mul;
}

/* dk and dv of one block of keys. */
static __global__ void attention_mma_dkv_k1(job j, int width, int normalised)
{
    TS_SHARED(shared);
    __shared__ float key[MMA_TILE]; /* factors */
    __shared__ int bad[TILE];
    const backward_places m = divide(shared, width);
    const block_place p = here(j);
    float *const dk_to = j.dqkv + p.at + j.H * j.c + p.row0 * j.q_token, *const dv_to = dk_to + j.H * j.c;
    float *const room = m.scores + p.warp0 * SCORE_STRIDE, *const slopes = m.slopes + p.warp0 * SCORE_STRIDE;
    int mark = 0;

    load_rounded(m.own_x, m.stride, j.k + p.at, j.kv_token, p.row0, j.keys, MMA_TILE, j, width, nullptr, 0);
    load_rounded(m.own_y, m.stride, j.v + p.at, j.kv_token, p.row0, j.keys, MMA_TILE, j, width, nullptr, 0);
    for (int i = (int)threadIdx.x; i < MMA_TILE; i += (int)blockDim.x)
        key[i] = p.row0 + i < j.keys ? j.k_factor[p.head * j.T + p.row0 + i] : 0.0f;
    if (threadIdx.x < TILE) bad[threadIdx.x] = 0;
    for (int first = 0; first < width; first += CHANNELS) {
        sums dk[PARTS], dv[PARTS];
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            wmma::fill_fragment(dk[i], 0.0f);
            wmma::fill_fragment(dv[i], 0.0f);
        }
        for (int64_t t0 = 0; t0 < j.T; t0 += TILE) {
            mark++;
            if (end_of(j, t0 + rows_in(t0, j.T) - 1) <= p.row0) continue; /* nobody sees these keys */
            __syncthreads();
            load_rounded(m.tile_x, m.stride, j.q + p.at, j.q_token, t0, j.T, TILE, j, width, bad, mark);
            load_rounded(m.tile_y, m.stride, j.dout + p.dout, j.H * j.c, t0, j.T, TILE, j, width, bad, mark);
            __syncthreads();
            if (p.rows <= 0) continue;
            multiply_tile(m, p.warp0, width);
            __syncwarp();
            slopes_of_keys(m, p, key, facts_of(j, p.head, t0 + p.lane), bad[p.lane] == mark);
            __syncwarp();
            add_product(dk, slopes, m.tile_x, m.stride, first, width);
            add_product(dv, room, m.tile_y, m.stride, first, width);
        }
        put_sums(dk_to, j.q_token, dk, room, first, j, p);
        put_sums(dv_to, j.q_token, dv, room, first, j, p);
    }
    __syncwarp();
    for (int row = p.warp0; row < p.warp0 + ROWS && row < p.warp0 + p.rows; row++) {
        float *const d = dk_to + row * j.q_token;
        through_norm(d, j.k + p.at + (p.row0 + row) * j.kv_token, d, key[row], key[row], normalised, j.c, p.lane);
    }
}

ts_status attention_mma_bwd(ts_stream *s, job j, int64_t B, int normalised)
{
    const int width = width_of(j.c);
    const size_t bytes = shared_bytes(width);
    const dim3 grid((unsigned)((j.T + MMA_TILE - 1) / MMA_TILE), (unsigned)j.H, (unsigned)B);
    j.quads = j.c % 4 == 0 && ts_aligned(j.q) && ts_aligned(j.k) && ts_aligned(j.v) && ts_aligned(j.dout);
    TS_TRY(ts_allow_shared((const void *)attention_mma_dq_k1, bytes, "attention"));
    TS_TRY(ts_allow_shared((const void *)attention_mma_dkv_k1, bytes, "attention"));
    TS_TRY(TS_LAUNCH(attention_mma_dq_k1, grid, WARPS * WARP, bytes, s, j, width, normalised));
    return TS_LAUNCH(attention_mma_dkv_k1, grid, WARPS * WARP, bytes, s, j, width, normalised);
}
