/* fsq.c - Finite Scalar Quantization on the CPU. Contract: tessera/op_fsq.h. Twin: kernels/cuda/fsq.cu. */
#include "tessera/op_fsq.h"

#include "kernels/cpu/stream.h"
#include "tessera/exact.h"

/* Rows have few channels, so a vector spans several: the constants of a channel are repeated for ROWS rows, and ROWS
 * rows are one flat run of ROWS*D elements. */
enum { ROWS = 16, RUN = ROWS * TS_MAX_D };

typedef struct {
    float half[RUN], offset[RUN], shift[RUN], low[RUN], high[RUN], mid[RUN];
    int32_t basis[RUN];
} constants;

static void repeat(constants *c, const ts_fsq *q)
{
    for (int i = 0; i < ROWS * q->D; i++) {
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
static inline float round_bounded(float z, float half, float offset, float shift, float low, float high,
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
static inline float slope(float z, float half, float shift, ts_fsq_bound bound)
{
    float gain = bound == TS_FSQ_IFSQ ? 1.6f : 1.0f;
    float a = bound == TS_FSQ_TANH ? 2.0f * (z + shift) : gain * z;
    float e = ts_expf(-fabsf(a)), u = 1.0f + e;
    return (bound == TS_FSQ_TANH ? 4.0f : 2.0f * gain) * half * (e / (u * u));
}

static inline void fwd_run(float *value, int32_t *part, const float *z, const constants *c, int n, ts_fsq_bound bound)
{
#pragma omp simd
    for (int i = 0; i < n; i++) {
        float q = round_bounded(z[i], c->half[i], c->offset[i], c->shift[i], c->low[i], c->high[i], bound);
        value[i] = (q + 0.0f) / c->mid[i]; /* + 0 drops the sign of -0, which decode cannot know */
        part[i] = (int32_t)(q + c->mid[i]) * c->basis[i];
    }
}

static inline void bwd_run(float *dz, const float *dvalue, const float *z, const constants *c, int n,
                           ts_fsq_bound bound)
{
#pragma omp simd
    for (int i = 0; i < n; i++) dz[i] = dvalue[i] * (slope(z[i], c->half[i], c->shift[i], bound) / c->mid[i]);
}

static inline int rows_from(int64_t first, int64_t N)
{
    return (int)(N - first < ROWS ? N - first : ROWS);
}

ts_status fsq_fwd_cpu(ts_stream *s, float *value, int32_t *idx, const float *z, const ts_fsq *q, int64_t N)
{
    const int D = q->D;
    constants c;
    repeat(&c, q);
#pragma omp parallel for num_threads(s->threads)
    for (int64_t first = 0; first < N; first += ROWS) {
        int32_t part[RUN];
        int rows = rows_from(first, N);
        float *v = value + first * D;
        const float *x = z + first * D;
        if (q->bound == TS_FSQ_TANH)
            fwd_run(v, part, x, &c, rows * D, TS_FSQ_TANH);
        else if (q->bound == TS_FSQ_SIGMOID)
            fwd_run(v, part, x, &c, rows * D, TS_FSQ_SIGMOID);
        else
            fwd_run(v, part, x, &c, rows * D, TS_FSQ_IFSQ);
        for (int r = 0; r < rows; r++) {
            int32_t sum = 0;
            for (int d = 0; d < D; d++) sum += part[r * D + d];
            idx[first + r] = sum;
        }
    }
    return TS_OK;
}

ts_status fsq_bwd_cpu(ts_stream *s, float *dz, const float *dvalue, const float *z, const ts_fsq *q, int64_t N)
{
    const int D = q->D;
    constants c;
    repeat(&c, q);
#pragma omp parallel for num_threads(s->threads)
    for (int64_t first = 0; first < N; first += ROWS) {
        int n = rows_from(first, N) * D;
        int64_t at = first * D;
        if (q->bound == TS_FSQ_TANH)
            bwd_run(dz + at, dvalue + at, z + at, &c, n, TS_FSQ_TANH);
        else if (q->bound == TS_FSQ_SIGMOID)
            bwd_run(dz + at, dvalue + at, z + at, &c, n, TS_FSQ_SIGMOID);
        else
            bwd_run(dz + at, dvalue + at, z + at, &c, n, TS_FSQ_IFSQ);
    }
    return TS_OK;
}

ts_status fsq_decode_cpu(ts_stream *s, float *value, const int32_t *idx, const ts_fsq *q, int64_t N)
{
    const int D = q->D;
#pragma omp parallel for num_threads(s->threads)
    for (int64_t n = 0; n < N; n++) {
        int32_t rest = idx[n];
        for (int d = 0; d < D; d++) {
            int32_t mid = q->level[d] / 2;
            value[n * D + d] = (float)(rest % q->level[d] - mid) / (float)mid;
            rest /= q->level[d];
        }
    }
    return TS_OK;
}
