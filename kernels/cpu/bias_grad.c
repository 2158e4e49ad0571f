/* bias_grad.c - column sums. Contract: bias_grad.h. */
#include "kernels/cpu/bias_grad.h"

#include <string.h>

#include "kernels/cpu/stream.h"

enum { ROWS = 256, COLUMNS = 64 }; /* a chunk; columns held in registers */

static int64_t chunks_of(int64_t M)
{
    return (M + ROWS - 1) / ROWS;
}

size_t bias_grad_scratch(int64_t M, int64_t N)
{
    return (size_t)(chunks_of(M) * N) * sizeof(float);
}

static void sum_chunk(float *sum, const float *dy, int64_t rows, int64_t N)
{
    int64_t from = 0;
    for (; from + COLUMNS <= N; from += COLUMNS) {
        float acc[COLUMNS] = { 0 };
        for (int64_t m = 0; m < rows; m++)
#pragma omp simd
            for (int64_t n = 0; n < COLUMNS; n++) acc[n] += dy[m * N + from + n];
        memcpy(sum + from, acc, sizeof acc);
    }
    memset(sum + from, 0, (size_t)(N - from) * sizeof(float));
    for (int64_t m = 0; m < rows; m++)
#pragma omp simd
        for (int64_t n = from; n < N; n++) sum[n] += dy[m * N + n];
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
