/* codebook_ema.c - moving averages as a codebook, on the CPU. Contract: tessera/op_codebook_ema.h. Twin:
 * kernels/cuda/codebook_ema.cu.
 *
 * The vectors are sorted by code first (a counting sort, so that t stays ascending), then every code sums its own. */
#include "tessera/op_codebook_ema.h"

#include <string.h>

#include "kernels/cpu/stream.h"

enum { COLUMNS = 64 }; /* that are summed at a time */

/* Where the vectors of each code end (V+1 with the leading 0), and the vectors in that order (N). */
size_t codebook_ema_scratch_cpu(ts_stream *s, int64_t N, int64_t V)
{
    (void)s;
    return sizeof(int32_t) * (size_t)(V + 1 + N);
}

/* Afterwards the vectors of code v are order[end[v]..end[v+1]-1]. */
static void sort_by_code(int32_t *end, int32_t *order, const int32_t *idx, int64_t N, int64_t V)
{
    int32_t *next = end + 1; /* the place of the next vector of a code; at last the end of the code */
    memset(end, 0, sizeof *end * (size_t)(V + 1));
    for (int64_t t = 0; t < N; t++)
        if (idx[t] + 1 < V) next[idx[t] + 1]++;
    for (int64_t v = 1; v < V; v++) next[v] += next[v - 1];
    for (int64_t t = 0; t < N; t++) order[next[idx[t]]++] = (int32_t)t;
}

static void average(float *count, float *sum, const float *z, const int32_t *order, int32_t n, double keep, int64_t D)
{
    for (int64_t c0 = 0; c0 < D; c0 += COLUMNS) {
        const int64_t columns = D - c0 < COLUMNS ? D - c0 : COLUMNS;
        double s[COLUMNS] = { 0 };
        for (int32_t j = 0; j < n; j++) {
            const float *from = z + order[j] * D + c0;
#pragma omp simd
            for (int64_t c = 0; c < columns; c++) s[c] += from[c];
        }
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) sum[c0 + c] = (float)(keep * sum[c0 + c] + (1 - keep) * s[c]);
    }
    *count = (float)(keep * *count + (1 - keep) * n);
}

static void restart(float *e, float *count, float *sum, const float *from, float n, int64_t D)
{
    *count = n;
    for (int64_t c = 0; c < D; c++) {
        e[c] = from[c];
        sum[c] = n * from[c];
    }
}

ts_status codebook_ema_cpu(ts_stream *s, float *codebook, float *count, float *sum, const float *z, const int32_t *idx,
                           const ts_codebook_ema *a, int64_t N, int64_t D, int64_t V, void *scratch)
{
    if (V < 1 || D < 1)
        return ts_fail(TS_E_ARG, "codebook_ema: %lld codes of %lld channels, expected 1 or more of both", (long long)V,
                       (long long)D);
    int32_t *end = scratch, *order = end + V + 1;
    sort_by_code(end, order, idx, N, V);
#pragma omp parallel for schedule(dynamic, 16) num_threads(s->threads)
    for (int64_t v = 0; v < V; v++)
        average(count + v, sum + v * D, z, order + end[v], end[v + 1] - end[v], a->decay, D);

    double all = 0;
    for (int64_t v = 0; v < V; v++) all += count[v];
    const float mean = (float)(all / (double)V), fresh = mean > a->restart_below ? mean : a->restart_below;
    const double scale = all / (all + (double)V * a->eps);
#pragma omp parallel for num_threads(s->threads)
    for (int64_t v = 0; v < V; v++) {
        const double n = (count[v] + (double)a->eps) * scale;
        float *e = codebook + v * D, *m = sum + v * D;
        if (count[v] < a->restart_below && N > 0)
            restart(e, count + v, m, z + ts_codebook_draw(a, v, N) * D, fresh, D);
        else if (n > 0)
            for (int64_t c = 0; c < D; c++) e[c] = (float)(m[c] / n);
    }
    return TS_OK;
}
