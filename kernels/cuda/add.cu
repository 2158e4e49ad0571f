/* add.cu - sums and row scaling on CUDA. Contract: tessera/op_add.h. Twin: kernels/cpu/add.c. */
#include "tessera/op_add.h"

#include "kernels/cuda/launch.cuh"

static __global__ void add_k1(float *y, const float *a, const float *b, int64_t quads, int64_t N)
{
    TS_EACH(q, quads)
    {
        const float4 u = load4(a + 4 * q), v = load4(b + 4 * q);
        store4(y + 4 * q, float4{ u.x + v.x, u.y + v.y, u.z + v.z, u.w + v.w });
    }
    TS_EACH(i, N - 4 * quads) y[4 * quads + i] = a[4 * quads + i] + b[4 * quads + i];
}

static __global__ void add_rows_k1(float *y, const float *a, const float *rows, int64_t all, int64_t period)
{
    TS_EACH(n, all) y[n] = a[n] + rows[n % period];
}

/* A thread owns one number of drows and walks down its column: neighbouring threads read neighbouring numbers. */
static __global__ void sum_rows_k1(float *drows, const float *dy, int64_t M, int64_t R, int64_t N)
{
    TS_EACH(n, R * N)
    {
        float sum = 0;
        for (int64_t r = n / N; r < M; r += R) sum += dy[r * N + n % N];
        drows[n] += sum;
    }
}

static __global__ void scale_rows_k1(float *y, const float *a, const float *factor, int64_t all, int64_t N)
{
    TS_EACH(n, all) y[n] = a[n] * factor[n / N];
}

ts_status add_cuda(ts_stream *s, float *y, const float *a, const float *b, int64_t N)
{
    if (N == 0) return TS_OK;
    const int64_t quads = ts_aligned(y) && ts_aligned(a) && ts_aligned(b) ? N / 4 : 0;
    return TS_LAUNCH(add_k1, ts_blocks(quads ? quads : N), BLOCK, 0, s, y, a, b, quads, N);
}

ts_status add_rows_cuda(ts_stream *s, float *y, const float *a, const float *rows, int64_t M, int64_t R, int64_t N)
{
    if (M == 0 || N == 0) return TS_OK;
    return TS_LAUNCH(add_rows_k1, ts_blocks(M * N), BLOCK, 0, s, y, a, rows, M * N, R * N);
}

ts_status sum_rows_cuda(ts_stream *s, float *drows, const float *dy, int64_t M, int64_t R, int64_t N)
{
    if (R == 0 || N == 0) return TS_OK;
    return TS_LAUNCH(sum_rows_k1, ts_blocks(R * N), BLOCK, 0, s, drows, dy, M, R, N);
}

ts_status scale_rows_cuda(ts_stream *s, float *y, const float *a, const float *factor, int64_t M, int64_t N)
{
    if (M == 0 || N == 0) return TS_OK;
    return TS_LAUNCH(scale_rows_k1, ts_blocks(M * N), BLOCK, 0, s, y, a, factor, M * N, N);
}
