/* resample.c - changes of grid size on the CPU. Contract: tessera/op_resample.h. Twin: kernels/cuda/resample.cu.
 *
 * Forward passes are parallel over output rows. Backward passes scatter, so they are parallel over images and runs of
 * channels, which never meet. */
#include <string.h>

#include "kernels/cpu/resample.h"
#include "kernels/cpu/stream.h"
#include "tessera/taps.h"

enum { CHANNELS = 64 }; /* channels of one backward run */

static ts_status check(const char *op, const ts_resample *r, int ok)
{
    if (r->B >= 0 && r->D >= 0 && r->from_y > 0 && r->from_x > 0 && ok) return TS_OK;
    return ts_fail(TS_E_ARG, "%s: cannot go from a grid of %lld x %lld to %lld x %lld", op, (long long)r->from_y,
                   (long long)r->from_x, (long long)r->to_y, (long long)r->to_x);
}

static ts_status check_nearest2x(const ts_resample *r)
{
    return check("nearest2x", r, r->to_y == 2 * r->from_y && r->to_x == 2 * r->from_x);
}

static ts_status check_area(const ts_resample *r)
{
    return check("area", r, r->to_y > 0 && r->to_x > 0 && r->to_y <= r->from_y && r->to_x <= r->from_x);
}

static ts_status check_bicubic(const ts_resample *r)
{
    return check("bicubic", r, r->to_y > 0 && r->to_x > 0);
}

ts_status nearest2x_fwd_cpu(ts_stream *s, float *y, const float *x, const ts_resample *r)
{
    TS_TRY(check_nearest2x(r));
    const int64_t D = r->D, row = r->from_x * D;
    const size_t pixel = sizeof(float) * (size_t)D;
#pragma omp parallel for num_threads(s->threads)
    for (int64_t i = 0; i < r->B * r->from_y; i++) {
        float *to = y + i * 4 * row;
        for (int64_t j = 0; j < r->from_x; j++) {
            const float *from = x + i * row + j * D;
            memcpy(to + 2 * j * D, from, pixel);
            memcpy(to + (2 * j + 1) * D, from, pixel);
        }
        memcpy(to + 2 * row, to, 2 * sizeof(float) * (size_t)row);
    }
    return TS_OK;
}

ts_status nearest2x_bwd_cpu(ts_stream *s, float *dx, const float *dy, const ts_resample *r)
{
    TS_TRY(check_nearest2x(r));
    const int64_t D = r->D, row = r->from_x * D;
#pragma omp parallel for num_threads(s->threads)
    for (int64_t i = 0; i < r->B * r->from_y; i++) {
        for (int64_t j = 0; j < r->from_x; j++) {
            const float *a = dy + i * 4 * row + 2 * j * D, *b = a + 2 * row;
            float *to = dx + i * row + j * D;
#pragma omp simd
            for (int64_t d = 0; d < D; d++) to[d] = (a[d] + a[D + d]) + (b[d] + b[D + d]);
        }
    }
    return TS_OK;
}

/* The sum over a cell runs over rows, then columns, ascending, from 0; then one division. */
void ts_area_row(float *y, const float *x, int64_t i, const ts_resample *r)
{
    const int64_t D = r->D;
    int64_t y0, y1, x0, x1;
    ts_area_range(i, r->from_y, r->to_y, &y0, &y1);
    for (int64_t j = 0; j < r->to_x; j++) {
        ts_area_range(j, r->from_x, r->to_x, &x0, &x1);
        float *to = y + j * D;
        for (int64_t d = 0; d < D; d++) to[d] = 0;
        for (int64_t m = y0; m < y1; m++) {
            for (int64_t c = x0; c < x1; c++) {
                const float *from = x + (m * r->from_x + c) * D;
#pragma omp simd
                for (int64_t d = 0; d < D; d++) to[d] += from[d];
            }
        }
        const float count = (float)((y1 - y0) * (x1 - x0));
#pragma omp simd
        for (int64_t d = 0; d < D; d++) to[d] /= count;
    }
}

ts_status area_fwd_cpu(ts_stream *s, float *y, const float *x, const ts_resample *r)
{
    TS_TRY(check_area(r));
    const int64_t image = r->from_y * r->from_x * r->D, row = r->to_x * r->D;
#pragma omp parallel for num_threads(s->threads)
    for (int64_t n = 0; n < r->B * r->to_y; n++) ts_area_row(y + n * row, x + n / r->to_y * image, n % r->to_y, r);
    return TS_OK;
}

/* dx of channels d0..d1 of one image becomes 0 before the scatter. */
static void clear(float *dx, const ts_resample *r, int64_t d0, int64_t d1)
{
    for (int64_t n = 0; n < r->from_y * r->from_x; n++)
        for (int64_t d = d0; d < d1; d++) dx[n * r->D + d] = 0;
}

void ts_area_scatter(float *dx, const float *dy, const ts_resample *r, int64_t d0, int64_t d1)
{
    int64_t y0, y1, x0, x1;
    for (int64_t i = 0; i < r->to_y; i++) {
        ts_area_range(i, r->from_y, r->to_y, &y0, &y1);
        for (int64_t j = 0; j < r->to_x; j++) {
            ts_area_range(j, r->from_x, r->to_x, &x0, &x1);
            const float *from = dy + (i * r->to_x + j) * r->D;
            const float share = 1.0f / (float)((y1 - y0) * (x1 - x0));
            for (int64_t m = y0; m < y1; m++) {
                for (int64_t c = x0; c < x1; c++) {
                    float *to = dx + (m * r->from_x + c) * r->D;
#pragma omp simd
                    for (int64_t d = d0; d < d1; d++) to[d] = fmaf(share, from[d], to[d]);
                }
            }
        }
    }
}

static void bicubic_scatter(float *dx, const float *dy, const ts_resample *r, int64_t d0, int64_t d1)
{
    int64_t ay[4], ax[4];
    float wy[4], wx[4];
    for (int64_t i = 0; i < r->to_y; i++) {
        ts_bicubic_taps(i, r->from_y, r->to_y, ay, wy);
        for (int64_t j = 0; j < r->to_x; j++) {
            ts_bicubic_taps(j, r->from_x, r->to_x, ax, wx);
            const float *from = dy + (i * r->to_x + j) * r->D;
            for (int t = 0; t < 16; t++) {
                float *to = dx + (ay[t / 4] * r->from_x + ax[t % 4]) * r->D;
                const float w = wy[t / 4] * wx[t % 4];
#pragma omp simd
                for (int64_t d = d0; d < d1; d++) to[d] = fmaf(w, from[d], to[d]);
            }
        }
    }
}

typedef void scatter_fn(float *dx, const float *dy, const ts_resample *r, int64_t d0, int64_t d1);

static void scatter_all(ts_stream *s, float *dx, const float *dy, const ts_resample *r, scatter_fn *scatter)
{
    const int64_t runs = (r->D + CHANNELS - 1) / CHANNELS;
#pragma omp parallel for num_threads(s->threads)
    for (int64_t n = 0; n < r->B * runs; n++) {
        int64_t b = n / runs, d0 = n % runs * CHANNELS, d1 = d0 + CHANNELS < r->D ? d0 + CHANNELS : r->D;
        float *to = dx + b * r->from_y * r->from_x * r->D;
        clear(to, r, d0, d1);
        scatter(to, dy + b * r->to_y * r->to_x * r->D, r, d0, d1);
    }
}

ts_status area_bwd_cpu(ts_stream *s, float *dx, const float *dy, const ts_resample *r)
{
    TS_TRY(check_area(r));
    scatter_all(s, dx, dy, r, ts_area_scatter);
    return TS_OK;
}

/* Along x first, then along y, the first tap a product and the others fmaf, ascending. */
ts_status bicubic_fwd_cpu(ts_stream *s, float *y, const float *x, const ts_resample *r)
{
    TS_TRY(check_bicubic(r));
    const int64_t D = r->D;
#pragma omp parallel for num_threads(s->threads)
    for (int64_t n = 0; n < r->B * r->to_y; n++) {
        const float *image = x + n / r->to_y * r->from_y * r->from_x * D;
        int64_t ay[4], ax[4];
        float wy[4], wx[4];
        ts_bicubic_taps(n % r->to_y, r->from_y, r->to_y, ay, wy);
        for (int64_t j = 0; j < r->to_x; j++) {
            ts_bicubic_taps(j, r->from_x, r->to_x, ax, wx);
            float *to = y + (n * r->to_x + j) * D;
            for (int t = 0; t < 4; t++) {
                const float *row = image + ay[t] * r->from_x * D;
                const float *a = row + ax[0] * D, *b = row + ax[1] * D, *c = row + ax[2] * D, *e = row + ax[3] * D;
#pragma omp simd
                for (int64_t d = 0; d < D; d++) {
                    float u = fmaf(wx[3], e[d], fmaf(wx[2], c[d], fmaf(wx[1], b[d], wx[0] * a[d])));
                    to[d] = t == 0 ? wy[0] * u : fmaf(wy[t], u, to[d]);
                }
            }
        }
    }
    return TS_OK;
}

ts_status bicubic_bwd_cpu(ts_stream *s, float *dx, const float *dy, const ts_resample *r)
{
    TS_TRY(check_bicubic(r));
    scatter_all(s, dx, dy, r, bicubic_scatter);
    return TS_OK;
}
