/* bias_grad.c - column sums. Contract: bias_grad.h. */
#include "kernels/cpu/bias_grad.h"

#include <string.h>

#include "kernels/cpu/stream.h"

enum { ROWS = 252, COLUMNS = 64 }; /* rows of a chunk; columns that are summed side by side, in registers */

static int64_t chunks_of(int64_t M)
{
    return (M + ROWS - 1) / ROWS;
}

size_t bias_grad_scratch(int64_t M, int64_t N)
{
    return (size_t)(chunks_of(M) * N) * sizeof(float);
}

/* sum[n] = sum over rows of dy[row*stride + n], width <= COLUMNS. */
static void sum_strip(float *sum, const float *dy, int64_t rows, int64_t stride, int64_t width)
{
    float acc[COLUMNS] = { 0 };
    if (width == COLUMNS) {
        for (int64_t m = 0; m < rows; m++)
#pragma omp simd
            for (int64_t n = 0; n < COLUMNS; n++) acc[n] += dy[m * stride + n];
    } else {
        for (int64_t m = 0; m < rows; m++)
#pragma omp simd
            for (int64_t n = 0; n < width; n++) acc[n] += dy[m * stride + n];
    }
    memcpy(sum, acc, (size_t)width * sizeof(float));
}

/* Rows much shorter than a strip are summed several at a time. */
static void sum_short_rows(float *sum, const float *dy, int64_t rows, int64_t N)
{
    const int64_t side = COLUMNS / N, full = rows / side;
    float acc[COLUMNS];
    sum_strip(acc, dy, full, side * N, side * N);
    for (int64_t n = 0; n < (rows - full * side) * N; n++) acc[n] += dy[full * side * N + n];
    for (int64_t n = 0; n < N; n++) {
        sum[n] = 0;
        for (int64_t j = 0; j < side; j++) sum[n] += acc[j * N + n];
    }
}

static void sum_chunk(float *sum, const float *dy, int64_t rows, int64_t N)
{
    if (N <= COLUMNS / 2) {
        sum_short_rows(sum, dy, rows, N);
        return;
    }
    for (int64_t n = 0; n < N; n += COLUMNS) sum_strip(sum + n, dy + n, rows, N, N - n < COLUMNS ? N - n : COLUMNS);
}

void bias_grad(ts_stream *s, float *db, const float *dy, int64_t M, int64_t N, float *scratch)
{
    const int64_t chunks = chunks_of(M);
#pragma omp parallel for num_threads(s->threads) if (chunks > 1)
    for (int64_t i = 0; i < chunks; i++) {
        const int64_t from = i * ROWS, rows = M - from < ROWS ? M - from : ROWS;
        sum_chunk(scratch + i * N, dy + from * N, rows, N);
    }
    for (int64_t n = 0; n < N; n++) {
        double sum = 0;
        for (int64_t i = 0; i < chunks; i++) sum += scratch[i * N + n];
        db[n] += (float)sum;
    }
}
