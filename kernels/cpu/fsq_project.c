/* fsq_project.c - FSQ between two products on the CPU. Contract: tessera/op_fsq_project.h. Twin: kernels/cuda/fsq_project.cu.
 *
 * FSQ_ROWS tokens at a time: z is computed for all of them at once, with the tokens turned to columns; y and the gradients run over
 * the channels of one token. */
#include "tessera/op_fsq_project.h"

#include <string.h>

#include "kernels/cpu/fsq.h"
#include "kernels/cpu/stream.h"

enum { MOST_WEIGHTS = 4096, MOST_WIDE = 256, CHANNELS = 3, LANES = 16, CHUNKS = 64,
       LEAST_CHUNK = 256 }; /* tokens of a chunk: at least */

static ts_status check(const ts_fsq_project *p)
{
    if (ts_fsq_project_fits(p->q.D, p->C, p->O)) return TS_OK;
    return ts_fail(TS_E_ARG, "fsq_project: %d to %d to %d channels do not fit", p->C, p->q.D, p->O);
}

/* (O,D) to (D,O). */
static void turn(float *to, const float *w_out, const ts_fsq_project *p)
{
    for (int d = 0; d < p->q.D; d++)
        for (int o = 0; o < p->O; o++) to[d * p->O + o] = w_out[o * p->q.D + d];
}

/* `count` channels from d on, a constant where this is inlined: their sums stay in registers. */
static inline void channels_in(float *z, const float *restrict column, const ts_fsq_weights *w, int C, int D, int d, int rows,
                               int count)
{
    float sum[CHANNELS][FSQ_ROWS];
    const float *weight = w->w_in + d * C;
    for (int j = 0; j < count; j++)
        for (int r = 0; r < FSQ_ROWS; r++) sum[j][r] = w->b_in[d + j];
    for (int c = 0; c < C; c++)
        for (int j = 0; j < count; j++)
#pragma omp simd
            for (int r = 0; r < FSQ_ROWS; r++) sum[j][r] = fmaf(column[c * FSQ_ROWS + r], weight[j * C + c], sum[j][r]);
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < count; j++) z[r * D + d + j] = sum[j][r];
}

static void project_in(float *z, const float *x, const ts_fsq_weights *w, const ts_fsq_project *p, int rows)
{
    const int C = p->C, D = p->q.D;
    float column[MOST_WIDE * FSQ_ROWS];
    if (rows < FSQ_ROWS) memset(column, 0, sizeof column);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < C; c++) column[c * FSQ_ROWS + r] = x[r * C + c];
    int d = 0;
    for (; d + CHANNELS <= D; d += CHANNELS) channels_in(z, column, w, C, D, d, rows, CHANNELS);
    for (; d < D; d++) channels_in(z, column, w, C, D, d, rows, 1);
}

/* Up to LANES channels of one token, as many as are a constant where this is inlined: their sums stay in registers. */
static inline void lanes_out(float *y, const float *value, const float *turned, const float *bias, int D, int O, int lanes)
{
    float sum[LANES];
    for (int i = 0; i < lanes; i++) sum[i] = bias[i];
    for (int d = 0; d < D; d++)
#pragma omp simd
        for (int i = 0; i < lanes; i++) sum[i] = fmaf(value[d], turned[d * O + i], sum[i]);
    for (int i = 0; i < lanes; i++) y[i] = sum[i];
}

static void project_out(float *y, const float *value, const float *turned, const float *bias, const ts_fsq_project *p, int rows)
{
    const int O = p->O, D = p->q.D;
    for (int r = 0; r < rows; r++, y += O, value += D) {
        int o = 0;
        for (; o + LANES <= O; o += LANES) lanes_out(y + o, value, turned + o, bias + o, D, O, LANES);
        for (; o < O; o++) lanes_out(y + o, value, turned + o, bias + o, D, O, 1);
    }
}

ts_status fsq_project_fwd_cpu(ts_stream *s, float *y, int32_t *idx, float *z, const float *x, const ts_fsq_weights *w,
                              const ts_fsq_project *p)
{
    const int D = p->q.D;
    fsq_constants c;
    float turned[MOST_WEIGHTS];
    TS_TRY(check(p));
    fsq_repeat(&c, &p->q);
    turn(turned, w->w_out, p);
#pragma omp parallel for num_threads(s->threads)
    for (int64_t n = 0; n < p->N; n += FSQ_ROWS) {
        const int rows = fsq_rows_from(n, p->N);
        float pre[FSQ_RUN], value[FSQ_RUN];
        project_in(pre, x + n * p->C, w, p, rows);
        if (z) memcpy(z + n * D, pre, sizeof(float) * (size_t)(rows * D));
        fsq_fwd_rows(value, idx + n, pre, &c, &p->q, rows);
        project_out(y + n * p->O, value, turned, w->b_out, p, rows);
    }
    return TS_OK;
}

ts_status fsq_project_decode_cpu(ts_stream *s, float *y, const int32_t *idx, const ts_fsq_weights *w, const ts_fsq_project *p)
{
    float turned[MOST_WEIGHTS];
    TS_TRY(check(p));
    turn(turned, w->w_out, p);
#pragma omp parallel for num_threads(s->threads)
    for (int64_t n = 0; n < p->N; n++) {
        float value[TS_MAX_D];
        fsq_decode_row(value, idx[n], &p->q);
        project_out(y + n * p->O, value, turned, w->b_out, p, 1);
    }
    return TS_OK;
}

/* --- backward: a chunk of tokens adds its gradients of the weights to a part of its own, the parts are summed in order --- */

static int64_t chunk_of(int64_t N)
{
    int64_t each = (N + CHUNKS - 1) / CHUNKS;
    each = (each + FSQ_ROWS - 1) / FSQ_ROWS * FSQ_ROWS;
    return each < LEAST_CHUNK ? LEAST_CHUNK : each;
}

/* Of a part: w_in (D,C), b_in (D), w_out turned (D,O), b_out (O). */
static int64_t part_floats(const ts_fsq_project *p)
{
    return (int64_t)p->q.D * (p->C + p->O + 1) + p->O;
}

size_t fsq_project_scratch_cpu(ts_stream *s, const ts_fsq_project *p)
{
    (void)s;
    const int64_t each = chunk_of(p->N);
    return sizeof(float) * (size_t)((p->N + each - 1) / each * part_floats(p));
}

static void add_outer(float *sum, const float *a, const float *b, int D, int n)
{
    for (int d = 0; d < D; d++)
#pragma omp simd
        for (int i = 0; i < n; i++) sum[d * n + i] = fmaf(a[d], b[i], sum[d * n + i]);
}

static void add_row(float *sum, const float *row, int n)
{
#pragma omp simd
    for (int i = 0; i < n; i++) sum[i] += row[i];
}

static void back_rows(float *dx, float *part, const float *dy, const float *x, const float *z, const float *w_in,
                      const float *turned, const fsq_constants *c, const ts_fsq_project *p, int rows)
{
    const int C = p->C, O = p->O, D = p->q.D;
    float value[FSQ_RUN], dvalue[FSQ_RUN], dz[FSQ_RUN];
    int32_t idx[FSQ_ROWS];
    float *dw_in = part, *db_in = dw_in + D * C, *dw_out = db_in + D, *db_out = dw_out + D * O;
    fsq_fwd_rows(value, idx, z, c, &p->q, rows);
    for (int r = 0; r < rows; r++) {
        for (int d = 0; d < D; d++) {
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int o = 0; o < O; o++) sum += dy[r * O + o] * turned[d * O + o];
            dvalue[r * D + d] = sum;
        }
    }
    fsq_bwd_rows(dz, dvalue, z, c, &p->q, rows);
    for (int r = 0; r < rows; r++) {
        float *to = dx ? dx + r * C : NULL;
        if (to) memset(to, 0, sizeof(float) * (size_t)C);
        for (int d = 0; to && d < D; d++)
#pragma omp simd
            for (int i = 0; i < C; i++) to[i] = fmaf(dz[r * D + d], w_in[d * C + i], to[i]);
        add_outer(dw_in, dz + r * D, x + r * C, D, C);
        add_row(db_in, dz + r * D, D);
        add_outer(dw_out, value + r * D, dy + r * O, D, O);
        add_row(db_out, dy + r * O, O);
    }
}

static void sum_parts(const ts_fsq_weights *grad, const float *part, int64_t parts, const ts_fsq_project *p)
{
    const int C = p->C, O = p->O, D = p->q.D;
    const int64_t size = part_floats(p);
    for (int64_t m = 0; m < parts; m++, part += size) {
        const float *db_in = part + D * C, *dw_out = db_in + D, *db_out = dw_out + D * O;
        if (grad->w_in) add_row(grad->w_in, part, D * C);
        if (grad->b_in) add_row(grad->b_in, db_in, D);
        for (int n = 0; grad->w_out && n < O * D; n++) grad->w_out[n] += dw_out[n % D * O + n / D];
        if (grad->b_out) add_row(grad->b_out, db_out, O);
    }
}

ts_status fsq_project_bwd_cpu(ts_stream *s, float *dx, const ts_fsq_weights *grad, const float *dy, const float *x, const float *z,
                              const ts_fsq_weights *w, const ts_fsq_project *p, void *scratch)
{
    const int64_t each = chunk_of(p->N), parts = (p->N + each - 1) / each, size = part_floats(p);
    fsq_constants c;
    float turned[MOST_WEIGHTS], *part = scratch;
    TS_TRY(check(p));
    fsq_repeat(&c, &p->q);
    turn(turned, w->w_out, p);
#pragma omp parallel for num_threads(s->threads)
    for (int64_t m = 0; m < parts; m++) {
        const int64_t end = (m + 1) * each < p->N ? (m + 1) * each : p->N;
        memset(part + m * size, 0, sizeof(float) * (size_t)size);
        for (int64_t n = m * each; n < end; n += FSQ_ROWS)
            back_rows(dx ? dx + n * p->C : NULL, part + m * size, dy + n * p->O, x + n * p->C, z + n * p->q.D, w->w_in, turned, &c,
                      p, fsq_rows_from(n, end));
    }
    sum_parts(grad, part, parts, p);
    return TS_OK;
}
