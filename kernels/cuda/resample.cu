/* resample.cu - changes of grid size on CUDA. Contract: tessera/op_resample.h. Twin: kernels/cpu/resample.c.
 *
 * Backward passes gather: a thread owns one number of dx and visits the outputs that read it, in ascending order. */
#include "tessera/op_resample.h"

#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/launch.cuh"

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

/* Number n of a tensor (B,rows,columns,D). */
struct cell_place {
    int64_t b, y, x, d;
};

static __device__ inline cell_place place_of(int64_t n, int64_t rows, int64_t columns, int64_t D)
{
    const int64_t cell = n / D, row = cell / columns;
    return cell_place{ row / rows, row % rows, cell % columns, n % D };
}

static __global__ void nearest2x_fwd_k1(float *y, const float *x, ts_resample r)
{
    TS_EACH(n, r.B * r.to_y * r.to_x * r.D)
    {
        const cell_place p = place_of(n, r.to_y, r.to_x, r.D);
        y[n] = x[((p.b * r.from_y + p.y / 2) * r.from_x + p.x / 2) * r.D + p.d];
    }
}

static __global__ void nearest2x_bwd_k1(float *dx, const float *dy, ts_resample r)
{
    TS_EACH(n, r.B * r.from_y * r.from_x * r.D)
    {
        const cell_place p = place_of(n, r.from_y, r.from_x, r.D);
        const float *a = dy + ((p.b * r.to_y + 2 * p.y) * r.to_x + 2 * p.x) * r.D + p.d, *b = a + r.to_x * r.D;
        dx[n] = (a[0] + a[r.D]) + (b[0] + b[r.D]);
    }
}

static __global__ void area_fwd_k1(float *y, const float *x, ts_resample r)
{
    TS_EACH(n, r.B * r.to_y * r.to_x * r.D)
    {
        const cell_place p = place_of(n, r.to_y, r.to_x, r.D);
        y[n] = area_at(x + p.b * r.from_y * r.from_x * r.D + p.d, p.y, p.x, r.from_y, r.from_x, r.to_y, r.to_x, r.D);
    }
}

static __global__ void area_bwd_k1(float *dx, const float *dy, ts_resample r)
{
    TS_EACH(n, r.B * r.from_y * r.from_x * r.D)
    {
        const cell_place p = place_of(n, r.from_y, r.from_x, r.D);
        dx[n] = area_adjoint_at(0, dy + p.b * r.to_y * r.to_x * r.D + p.d, p.y, p.x, r.from_y, r.from_x, r.to_y, r.to_x,
                                r.D);
    }
}

static __global__ void bicubic_fwd_k1(float *y, const float *x, ts_resample r)
{
    TS_EACH(n, r.B * r.to_y * r.to_x * r.D)
    {
        const cell_place p = place_of(n, r.to_y, r.to_x, r.D);
        const taps ty = taps_of(p.y, r.from_y, r.to_y), tx = taps_of(p.x, r.from_x, r.to_x);
        y[n] = bicubic_at(x + p.b * r.from_y * r.from_x * r.D + p.d, ty, tx, r.from_x, r.D);
    }
}

/* Outputs of one axis whose taps may include input i: a little too many, taps outside weigh 0. */
static __device__ inline void readers(int64_t i, int64_t from, int64_t to, int64_t *first, int64_t *end)
{
    *first = i < 2 ? 0 : (i - 2) * to / from;
    *end = i + 3 >= from ? to : (i + 3) * to / from + 1;
    if (*end > to) *end = to;
}

static __global__ void bicubic_bwd_k1(float *dx, const float *dy, ts_resample r)
{
    TS_EACH(n, r.B * r.from_y * r.from_x * r.D)
    {
        const cell_place p = place_of(n, r.from_y, r.from_x, r.D);
        int64_t y0, y1, x0, x1;
        readers(p.y, r.from_y, r.to_y, &y0, &y1);
        readers(p.x, r.from_x, r.to_x, &x0, &x1);
        float sum = 0;
        for (int64_t i = y0; i < y1; i++) {
            const float wy = weight_at(taps_of(i, r.from_y, r.to_y), p.y);
            if (wy == 0) continue;
            for (int64_t j = x0; j < x1; j++) {
                const float wx = weight_at(taps_of(j, r.from_x, r.to_x), p.x);
                if (wx != 0) sum = fmaf(wy * wx, dy[((p.b * r.to_y + i) * r.to_x + j) * r.D + p.d], sum);
            }
        }
        dx[n] = sum;
    }
}

ts_status nearest2x_fwd_cuda(ts_stream *s, float *y, const float *x, const ts_resample *r)
{
    TS_TRY(check_nearest2x(r));
    const int64_t N = r->B * r->to_y * r->to_x * r->D;
    return N == 0 ? TS_OK : TS_LAUNCH(nearest2x_fwd_k1, ts_blocks(N), BLOCK, 0, s, y, x, *r);
}

ts_status nearest2x_bwd_cuda(ts_stream *s, float *dx, const float *dy, const ts_resample *r)
{
    TS_TRY(check_nearest2x(r));
    const int64_t N = r->B * r->from_y * r->from_x * r->D;
    return N == 0 ? TS_OK : TS_LAUNCH(nearest2x_bwd_k1, ts_blocks(N), BLOCK, 0, s, dx, dy, *r);
}

ts_status area_fwd_cuda(ts_stream *s, float *y, const float *x, const ts_resample *r)
{
    TS_TRY(check_area(r));
    const int64_t N = r->B * r->to_y * r->to_x * r->D;
    return N == 0 ? TS_OK : TS_LAUNCH(area_fwd_k1, ts_blocks(N), BLOCK, 0, s, y, x, *r);
}

ts_status area_bwd_cuda(ts_stream *s, float *dx, const float *dy, const ts_resample *r)
{
    TS_TRY(check_area(r));
    const int64_t N = r->B * r->from_y * r->from_x * r->D;
    return N == 0 ? TS_OK : TS_LAUNCH(area_bwd_k1, ts_blocks(N), BLOCK, 0, s, dx, dy, *r);
}

ts_status bicubic_fwd_cuda(ts_stream *s, float *y, const float *x, const ts_resample *r)
{
    TS_TRY(check_bicubic(r));
    const int64_t N = r->B * r->to_y * r->to_x * r->D;
    return N == 0 ? TS_OK : TS_LAUNCH(bicubic_fwd_k1, ts_blocks(N), BLOCK, 0, s, y, x, *r);
}

ts_status bicubic_bwd_cuda(ts_stream *s, float *dx, const float *dy, const ts_resample *r)
{
    TS_TRY(check_bicubic(r));
    const int64_t N = r->B * r->from_y * r->from_x * r->D;
    return N == 0 ? TS_OK : TS_LAUNCH(bicubic_bwd_k1, ts_blocks(N), BLOCK, 0, s, dx, dy, *r);
}
