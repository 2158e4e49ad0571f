/* fsq.h - what fsq.c and fsq_project.c share: the arithmetic of a few rows. Contract: tessera/op_fsq.h. */
#ifndef TS_CPU_FSQ_H
#define TS_CPU_FSQ_H

#include "tessera/exact.h"
#include "tessera/op_fsq.h"

/* Rows have few channels, so a vector spans several: the constants of a channel are repeated for FSQ_ROWS rows,
 * which are one flat run of FSQ_ROWS*D elements. */
enum { FSQ_ROWS = 16, FSQ_RUN = FSQ_ROWS * TS_MAX_D };

typedef struct {
    float half[FSQ_RUN], offset[FSQ_RUN], shift[FSQ_RUN], low[FSQ_RUN], high[FSQ_RUN], mid[FSQ_RUN];
    int32_t basis[FSQ_RUN];
} fsq_constants;

static inline void fsq_repeat(fsq_constants *c, const ts_fsq *q)
{
    for (int i = 0; i < FSQ_ROWS * q->D; i++) {
        int d = i % q->D, mid = q->level[d] / 2;
        c->half[i] = q->half[d];
        c->offset[i] = q->offset[d];
        c->shift[i] = q->shift[d];
        c->low[i] = (float)-mid;
        c->high[i] = (float)(q->level[d] - 1 - mid);
        c->mid[i] = (float)mid;
        c->basis[i] = q->basis[d];
    }
}

/* q of one element: b, rounded, inside the levels (above a thousand levels the eps of the tanh bound reaches further).
 * Only one of the branches is compiled into each loop, since bound is a constant there. */
static inline float fsq_round(float z, float half, float offset, float shift, float low, float high,
                                  ts_fsq_bound bound)
{
    float r;
    if (bound == TS_FSQ_TANH)
        r = rintf(fmaf(half, ts_tanhf(z + shift), -offset));
    else if (bound == TS_FSQ_SIGMOID)
        r = rintf((half + half) * ts_sigmoidf(z)) + low;
    else
        r = rintf(fmaf(half + half, ts_sigmoidf(1.6f * z), -half));
    r = r > low ? r : low;
    return r < high ? r : high;
}

/* 1 - tanh^2(a/2) = 4 p (1 - p) = 4 e/(1 + e)^2 with e = exp(-|a|), p = sigmoid(a): no cancellation. */
static inline float fsq_slope(float z, float half, float shift, ts_fsq_bound bound)
{
    float gain = bound == TS_FSQ_IFSQ ? 1.6f : 1.0f;
    float a = bound == TS_FSQ_TANH ? 2.0f * (z + shift) : gain * z;
    float e = ts_expf(-fabsf(a)), u = 1.0f + e;
    return (bound == TS_FSQ_TANH ? 4.0f : 2.0f * gain) * half * (e / (u * u));
}

static inline void fsq_fwd_run(float *value, int32_t *part, const float *z, const fsq_constants *c, int n, ts_fsq_bound bound)
{
#pragma omp simd
    for (int i = 0; i < n; i++) {
        float q = fsq_round(z[i], c->half[i], c->offset[i], c->shift[i], c->low[i], c->high[i], bound);
        value[i] = (q + 0.0f) / c->mid[i]; /* + 0 drops the sign of -0, which decode cannot know */
        part[i] = (int32_t)(q + c->mid[i]) * c->basis[i];
    }
}

static inline void fsq_bwd_run(float *dz, const float *dvalue, const float *z, const fsq_constants *c, int n,
                           ts_fsq_bound bound)
{
#pragma omp simd
    for (int i = 0; i < n; i++) dz[i] = dvalue[i] * (fsq_slope(z[i], c->half[i], c->shift[i], bound) / c->mid[i]);
}

/* Up to FSQ_ROWS rows; c: made by fsq_repeat of the same q. */
static inline void fsq_fwd_rows(float *value, int32_t *idx, const float *z, const fsq_constants *c, const ts_fsq *q, int rows)
{
    const int D = q->D;
    int32_t part[FSQ_RUN];
    if (q->bound == TS_FSQ_TANH)
        fsq_fwd_run(value, part, z, c, rows * D, TS_FSQ_TANH);
    else if (q->bound == TS_FSQ_SIGMOID)
        fsq_fwd_run(value, part, z, c, rows * D, TS_FSQ_SIGMOID);
    else
        fsq_fwd_run(value, part, z, c, rows * D, TS_FSQ_IFSQ);
    for (int r = 0; r < rows; r++) {
        int32_t sum = 0;
        for (int d = 0; d < D; d++) sum += part[r * D + d];
        idx[r] = sum;
    }
}

static inline void fsq_bwd_rows(float *dz, const float *dvalue, const float *z, const fsq_constants *c, const ts_fsq *q, int rows)
{
    const int n = rows * q->D;
    if (q->bound == TS_FSQ_TANH)
        fsq_bwd_run(dz, dvalue, z, c, n, TS_FSQ_TANH);
    else if (q->bound == TS_FSQ_SIGMOID)
        fsq_bwd_run(dz, dvalue, z, c, n, TS_FSQ_SIGMOID);
    else
        fsq_bwd_run(dz, dvalue, z, c, n, TS_FSQ_IFSQ);
}

static inline void fsq_decode_row(float *value, int32_t idx, const ts_fsq *q)
{
    for (int d = 0; d < q->D; d++) {
        int32_t mid = q->level[d] / 2;
        value[d] = (float)(idx % q->level[d] - mid) / (float)mid;
        idx /= q->level[d];
    }
}

static inline int fsq_rows_from(int64_t first, int64_t N)
{
    return (int)(N - first < FSQ_ROWS ? N - first : FSQ_ROWS);
}

#endif
