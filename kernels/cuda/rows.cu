/* rows.cu - sums over rows that several ops share. Contract: rows.h. */
#include "kernels/cuda/rows.h"

#include "kernels/cuda/launch.cuh"

/* A warp owns a row v of the table. Its lanes look at 32 indices at a time and add what belongs to v, in ascending n.
 */
static __global__ void add_to_rows_k1(float *table, const float *dy, const int32_t *idx, int64_t N, int64_t C,
                                      int64_t V)
{
    const int lane = threadIdx.x % WARP;
    const int64_t warps = (int64_t)gridDim.x * (blockDim.x / WARP);
    for (int64_t v = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP; v < V; v += warps) {
        for (int64_t n0 = 0; n0 < N; n0 += WARP) {
            unsigned hits = __ballot_sync(ALL_LANES, n0 + lane < N && idx[n0 + lane] == v);
            for (; hits; hits &= hits - 1) {
                const float *from = dy + (n0 + __ffs((int)hits) - 1) * C;
                for (int64_t c = lane; c < C; c += WARP) table[v * C + c] += from[c];
            }
        }
    }
}

ts_status add_to_rows(ts_stream *s, float *table, const float *dy, const int32_t *idx, int64_t N, int64_t C, int64_t V)
{
    if (N == 0 || C == 0 || V == 0) return TS_OK;
    return TS_LAUNCH(add_to_rows_k1, ts_blocks(V * WARP), BLOCK, 0, s, table, dy, idx, N, C, V);
}

enum { SUM_COLUMNS = 32, SUM_LANES = 8 };

/* A block owns 32 columns; SUM_LANES threads share the rows of a column, in double, and are added up in order. */
static __global__ void add_columns_k1(float *db, const float *dy, int64_t M, int64_t N)
{
    __shared__ double part[SUM_LANES][SUM_COLUMNS];
    const int64_t n = (int64_t)blockIdx.x * SUM_COLUMNS + threadIdx.x;
    double sum = 0;
    if (n < N)
        for (int64_t m = threadIdx.y; m < M; m += SUM_LANES) sum += dy[m * N + n];
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || n >= N) return;
    for (int i = 1; i < SUM_LANES; i++) sum += part[i][threadIdx.x];
    db[n] += (float)sum;
}

ts_status add_columns(ts_stream *s, float *db, const float *dy, int64_t M, int64_t N)
{
    if (N == 0) return TS_OK;
    return TS_LAUNCH(add_columns_k1, (unsigned)((N + SUM_COLUMNS - 1) / SUM_COLUMNS), dim3(SUM_COLUMNS, SUM_LANES), 0,
                     s, db, dy, M, N);
}
