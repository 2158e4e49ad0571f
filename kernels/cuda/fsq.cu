/* fsq.cu - Finite Scalar Quantization on CUDA. Contract: tessera/op_fsq.h. Twin: kernels/cpu/fsq.c, whose arithmetic
 * this repeats operation by operation. A thread owns a row of D channels. */
#include "tessera/op_fsq.h"

#include "kernels/cuda/fsq.cuh"
#include "kernels/cuda/launch.cuh"

/* Numbers go through shared memory ROWS rows at a time: whole vectors on the way to and from device memory, whole rows
 * in between. A row takes an odd number of places there, so that the rows of a warp begin in different banks. */
enum { ROWS = BLOCK };

static __host__ __device__ inline int row_places(const ts_fsq &q)
{
    return q.D | 1;
}

static __device__ inline int place_of(int i, const ts_fsq &q)
{
    return q.D % 2 ? i : i + i / q.D;
}

/* What a block has before it: rows from `first` on, `numbers` of them in all, the first `quads` vectors of four. */
struct piece {
    int64_t first;
    int rows, numbers, quads;
};

static __device__ inline piece piece_at(int64_t first, const ts_fsq &q, int64_t N, int vectors)
{
    piece c;
    c.first = first;
    c.rows = N - first < ROWS ? (int)(N - first) : (int)ROWS;
    c.numbers = c.rows * q.D;
    c.quads = vectors ? c.numbers / 4 : 0;
    return c;
}

/* for (every piece of N rows, shared by the grid) */
#define EACH_PIECE(n, N)                                                                                               \
    for (int64_t n = (int64_t)blockIdx.x * ROWS; n < (N); n += (int64_t)gridDim.x * ROWS)

static __device__ inline void load_rows(float *room, const float *from, piece c, const ts_fsq &q)
{
    from += c.first * q.D;
    for (int i = (int)threadIdx.x; i < c.quads; i += BLOCK) {
        const float4 v = load4(from + 4 * i);
        room[place_of(4 * i, q)] = v.x;
        room[place_of(4 * i + 1, q)] = v.y;
        room[place_of(4 * i + 2, q)] = v.z;
        room[place_of(4 * i + 3, q)] = v.w;
    }
    for (int i = 4 * c.quads + (int)threadIdx.x; i < c.numbers; i += BLOCK) room[place_of(i, q)] = from[i];
}

static __device__ inline float4 four_of(const float *room, int i, const ts_fsq &q)
{
    return float4{ room[place_of(4 * i, q)], room[place_of(4 * i + 1, q)], room[place_of(4 * i + 2, q)],
                   room[place_of(4 * i + 3, q)] };
}

static __device__ inline void store_rows(float *to, const float *room, piece c, const ts_fsq &q)
{
    to += c.first * q.D;
    for (int i = (int)threadIdx.x; i < c.quads; i += BLOCK) store4(to + 4 * i, four_of(room, i, q));
    for (int i = 4 * c.quads + (int)threadIdx.x; i < c.numbers; i += BLOCK) to[i] = room[place_of(i, q)];
}

static __global__ void fsq_fwd_k1(float *value, int32_t *idx, const float *z, ts_fsq q, int64_t N, int vectors)
{
    TS_SHARED(shared);
    float *room = (float *)shared, *row = room + (int)threadIdx.x * row_places(q);
    EACH_PIECE(n, N)
    {
        const piece c = piece_at(n, q, N, vectors);
        load_rows(room, z, c, q);
        __syncthreads();
        if ((int)threadIdx.x < c.rows) {
            int32_t sum = 0;
            for (int d = 0; d < q.D; d++) {
                int32_t digit;
                row[d] = value_of(row[d], q, d, &digit);
                sum += digit * q.basis[d];
            }
            idx[n + threadIdx.x] = sum;
        }
        __syncthreads();
        store_rows(value, room, c, q);
        __syncthreads();
    }
}

static __global__ void fsq_bwd_k1(float *dz, const float *dvalue, const float *z, ts_fsq q, int64_t N, int vectors)
{
    TS_SHARED(shared);
    float *room = (float *)shared, *row = room + (int)threadIdx.x * row_places(q);
    EACH_PIECE(n, N)
    {
        const piece c = piece_at(n, q, N, vectors);
        load_rows(room, z, c, q);
        __syncthreads();
        if ((int)threadIdx.x < c.rows)
            for (int d = 0; d < q.D; d++) row[d] = slope(row[d], q, d) / (float)(q.level[d] / 2);
        __syncthreads();
        const float *g = dvalue + n * q.D;
        float *to = dz + n * q.D;
        for (int i = (int)threadIdx.x; i < c.quads; i += BLOCK) {
            const float4 a = load4(g + 4 * i), b = four_of(room, i, q);
            store4(to + 4 * i, float4{ a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w });
        }
        for (int i = 4 * c.quads + (int)threadIdx.x; i < c.numbers; i += BLOCK) to[i] = g[i] * room[place_of(i, q)];
        __syncthreads();
    }
}

static __global__ void fsq_decode_k1(float *value, const int32_t *idx, ts_fsq q, int64_t N, int vectors)
{
    TS_SHARED(shared);
    float *room = (float *)shared, *row = room + (int)threadIdx.x * row_places(q);
    EACH_PIECE(n, N)
    {
        const piece c = piece_at(n, q, N, vectors);
        if ((int)threadIdx.x < c.rows) values_of(row, idx[n + threadIdx.x], q);
        __syncthreads();
        store_rows(value, room, c, q);
        __syncthreads();
    }
}

static size_t room_bytes(const ts_fsq *q)
{
    return sizeof(float) * (size_t)(ROWS * row_places(*q));
}

ts_status fsq_fwd_cuda(ts_stream *s, float *value, int32_t *idx, const float *z, const ts_fsq *q, int64_t N)
{
    if (N == 0) return TS_OK;
    return TS_LAUNCH(fsq_fwd_k1, ts_blocks(N), BLOCK, room_bytes(q), s, value, idx, z, *q, N,
                     ts_aligned(value) && ts_aligned(z));
}

ts_status fsq_bwd_cuda(ts_stream *s, float *dz, const float *dvalue, const float *z, const ts_fsq *q, int64_t N)
{
    if (N == 0) return TS_OK;
    return TS_LAUNCH(fsq_bwd_k1, ts_blocks(N), BLOCK, room_bytes(q), s, dz, dvalue, z, *q, N,
                     ts_aligned(dz) && ts_aligned(dvalue) && ts_aligned(z));
}

ts_status fsq_decode_cuda(ts_stream *s, float *value, const int32_t *idx, const ts_fsq *q, int64_t N)
{
    if (N == 0) return TS_OK;
    return TS_LAUNCH(fsq_decode_k1, ts_blocks(N), BLOCK, room_bytes(q), s, value, idx, *q, N, ts_aligned(value));
}
