/* add.c - sums and row scaling on the CPU. Contract: tessera/op_add.h. */
#include "tessera/op_add.h"

#include "kernels/cpu/stream.h"

/* Below this many values waking the other threads costs more than they save. */
enum { SERIAL = 1 << 14 };

ts_status add_cpu(ts_stream *s, float *y, const float *a, const float *b, int64_t N)
{
#pragma omp parallel for simd num_threads(s->threads) if (N > SERIAL)
    for (int64_t n = 0; n < N; n++) y[n] = a[n] + b[n];
    return TS_OK;
}

ts_status add_rows_cpu(ts_stream *s, float *y, const float *a, const float *rows, int64_t M, int64_t R, int64_t N)
{
#pragma omp parallel for num_threads(s->threads) if (M * N > SERIAL)
    for (int64_t r = 0; r < M; r++) {
        const float *row = rows + r % R * N;
#pragma omp simd
        for (int64_t n = 0; n < N; n++) y[r * N + n] = a[r * N + n] + row[n];
    }
    return TS_OK;
}

/* Threads share the columns, so that every sum runs over ascending rows whatever their number. */
ts_status sum_rows_cpu(ts_stream *s, float *drows, const float *dy, int64_t M, int64_t R, int64_t N)
{
    enum { COLUMNS = 64 };
    const int64_t strips = (N + COLUMNS - 1) / COLUMNS;
#pragma omp parallel for collapse(2) num_threads(s->threads) if (M * N > SERIAL)
    for (int64_t q = 0; q < R; q++)
        for (int64_t strip = 0; strip < strips; strip++) {
            const int64_t from = strip * COLUMNS, width = N - from < COLUMNS ? N - from : COLUMNS;
            float sum[COLUMNS] = { 0 };
            for (int64_t r = q; r < M; r += R)
#pragma omp simd
                for (int64_t n = 0; n < width; n++) sum[n] += dy[r * N + from + n];
            for (int64_t n = 0; n < width; n++) drows[q * N + from + n] += sum[n];
        }
    return TS_OK;
}

ts_status scale_rows_cpu(ts_stream *s, float *y, const float *a, const float *factor, int64_t M, int64_t N)
{
#pragma omp parallel for num_threads(s->threads) if (M * N > SERIAL)
    for (int64_t r = 0; r < M; r++)
#pragma omp simd
        for (int64_t n = 0; n < N; n++) y[r * N + n] = a[r * N + n] * factor[r];
    return TS_OK;
}
