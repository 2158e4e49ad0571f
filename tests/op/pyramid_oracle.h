/* pyramid_oracle.h - the steps of a token pyramid in double, on one square image of side n, channels last.
 *
 * Resampling is one matrix per axis, filled entry by entry; nothing here is shared with the kernels. */
#ifndef PYRAMID_ORACLE_H
#define PYRAMID_ORACLE_H

#include "tests/t.h"

enum { O_MAX = 32 }; /* largest side */

typedef struct {
    int to, from;
    double m[O_MAX][O_MAX]; /* what input cell j gives to output cell i */
} o_axis;

static inline o_axis o_area(int from, int to)
{
    o_axis a = { .to = to, .from = from };
    for (int i = 0; i < to; i++) {
        int first = (int)floor((double)(i * from) / to), last = (int)ceil((double)((i + 1) * from) / to) - 1;
        for (int j = first; j <= last; j++) a.m[i][j] = 1.0 / (last - first + 1);
    }
    return a;
}

static inline o_axis o_bicubic(int from, int to)
{
    o_axis a = { .to = to, .from = from };
    for (int i = 0; i < to; i++) {
        double at = (i + 0.5) * from / to - 0.5;
        for (int j = (int)floor(at) - 1; j <= (int)floor(at) + 2; j++) {
            double t = fabs(at - j), c = -0.75;
            a.m[i][j < 0       ? 0
                   : j >= from ? from - 1
                               : j] += t < 1 ? ((c + 2) * t - (c + 3)) * t * t + 1 : c * (((t - 5) * t + 8) * t - 4);
        }
    }
    if (from == to) /* the loop takes no bicubic where the grids are equal */
        for (int i = 0; i < to; i++)
            for (int j = 0; j < from; j++) a.m[i][j] = i == j;
    return a;
}

/* y (to,to,D) = a x a^T, both axes */
static inline void o_apply(double *y, const double *x, const o_axis *a, int D)
{
    for (int i = 0; i < a->to; i++) {
        for (int j = 0; j < a->to; j++) {
            double *to = y + (i * a->to + j) * D;
            for (int d = 0; d < D; d++) to[d] = 0;
            for (int v = 0; v < a->from * a->from; v++) {
                const double w = a->m[i][v / a->from] * a->m[j][v % a->from];
                for (int d = 0; d < D && w != 0; d++) to[d] += w * x[v * D + d];
            }
        }
    }
}

/* up = (1-ratio) u + ratio (conv3x3(u, w) + b), w (out,3,3,in) */
static inline void o_phi(double *up, const double *u, const double *w, const double *b, double ratio, int side, int D)
{
    for (int y = 0; y < side; y++) {
        for (int x = 0; x < side; x++) {
            for (int o = 0; o < D; o++) {
                double sum = b[o];
                for (int t = 0; t < 9; t++) {
                    int v = y + t / 3 - 1, h = x + t % 3 - 1;
                    if (v < 0 || v >= side || h < 0 || h >= side) continue;
                    for (int c = 0; c < D; c++) sum += w[(o * 9 + t) * D + c] * u[(v * side + h) * D + c];
                }
                up[(y * side + x) * D + o] = (1 - ratio) * u[(y * side + x) * D + o] + ratio * sum;
            }
        }
    }
}

/* S convolutions near the identity (what they are trained from), as doubles and as device buffers. */
typedef struct {
    double *w[TS_MAX_SCALES], *b[TS_MAX_SCALES];
    t_buf *dw[TS_MAX_SCALES], *db[TS_MAX_SCALES];
    ts_phi dev;
} o_phis;

static inline o_phis o_phis_new(const ts_backend *be, ts_stream *s, int S, int D, double bias, uint64_t seed)
{
    o_phis r = { .dev = { .w = { NULL } } };
    for (int j = 0; j < S; j++) {
        const int n = D * 9 * D;
        float *w = t_normals(n, 0.5 / sqrt(9.0 * D), seed + 2 * (uint64_t)j);
        float *b = t_normals(D, bias, seed + 2 * (uint64_t)j + 1);
        for (int o = 0; o < D; o++) w[(o * 9 + 4) * D + o] += 1;
        r.w[j] = t_alloc(sizeof(double) * (size_t)n);
        r.b[j] = t_alloc(sizeof(double) * (size_t)D);
        for (int i = 0; i < n; i++) r.w[j][i] = w[i];
        for (int i = 0; i < D; i++) r.b[j][i] = b[i];
        r.dw[j] = T_INF(w, n);
        r.db[j] = T_INF(b, D);
        r.dev.w[j] = r.dw[j]->dev;
        r.dev.b[j] = r.db[j]->dev;
    }
    return r;
}

#endif
