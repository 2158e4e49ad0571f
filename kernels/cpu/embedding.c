/* embedding.c - rows of a table on the CPU. Contract: tessera/op_embedding.h. */
#include "tessera/op_embedding.h"

#include <string.h>

#include "kernels/cpu/stream.h"

ts_status embedding_fwd_cpu(ts_stream *s, float *y, const float *table, const int32_t *idx, int64_t N, int64_t C)
{
#pragma omp parallel for num_threads(s->threads)
    for (int64_t n = 0; n < N; n++) memcpy(y + n * C, table + idx[n] * C, (size_t)C * sizeof *y);
    return TS_OK;
}

/* Every thread walks all N rows over its own columns: ascending n for each number of the table, whatever the split. */
ts_status embedding_bwd_cpu(ts_stream *s, float *dtable, const float *dy, const int32_t *idx, int64_t N, int64_t C,
                            int64_t V)
{
    enum { LINE = 16 }; /* floats of a cache line: two threads should not write to the same one */
    (void)V;
    const int64_t lines = (C + LINE - 1) / LINE;
    const int64_t width = (lines + s->threads - 1) / s->threads * LINE;

#pragma omp parallel for num_threads(s->threads)
    for (int i = 0; i < s->threads; i++) {
        const int64_t c0 = i * width, c1 = c0 + width < C ? c0 + width : C;
        for (int64_t n = 0; n < N; n++) {
            float *row = dtable + idx[n] * C;
            const float *d = dy + n * C;
#pragma omp simd
            for (int64_t c = c0; c < c1; c++) row[c] += d[c];
        }
    }
    return TS_OK;
}
