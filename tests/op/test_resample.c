/* test_resample.c - nearest 2x, area and bicubic against formulas in double, their adjoints, and the golden file.
 *
 * Oracle     the matrix of one axis, built entry by entry in double; a grid is resampled by one matrix per axis, and
 * the backward pass is the transposed matrices. */
#include <stdio.h>

#include "tests/t.h"

typedef enum { NEAREST, AREA, BICUBIC } kind;

/* m[i*from + j]: what input cell j gives to output cell i. */
static double *axis(kind k, int64_t from, int64_t to)
{
    double *m = t_alloc(sizeof(double) * (size_t)(from * to));
    for (int64_t i = 0; i < to; i++) {
        if (k == NEAREST) m[i * from + i / 2] = 1;
        if (k == AREA) {
            int64_t first = (int64_t)floor((double)(i * from) / (double)to);
            int64_t last = (int64_t)ceil((double)((i + 1) * from) / (double)to) - 1;
            for (int64_t j = first; j <= last; j++) m[i * from + j] = 1.0 / (double)(last - first + 1);
        }
        if (k == BICUBIC) {
            double at = ((double)i + 0.5) * (double)from / (double)to - 0.5;
            for (int64_t j = (int64_t)floor(at) - 1; j <= (int64_t)floor(at) + 2; j++) {
                double t = fabs(at - (double)j), a = -0.75;
                double w = t < 1 ? (a + 2) * t * t * t - (a + 3) * t * t + 1 : a * (t * t * t - 5 * t * t + 8 * t - 4);
                m[i * from + (j < 0 ? 0 : j >= from ? from - 1 : j)] += w;
            }
        }
    }
    return m;
}

static void forward_oracle(double *y, const float *x, const ts_resample *r, const double *my, const double *mx)
{
    const int64_t D = r->D, in = r->from_y * r->from_x * D, out = r->to_y * r->to_x * D;
    for (int64_t n = 0; n < r->B * out; n++) {
        int64_t b = n / out, i = n % out / (r->to_x * D), j = n / D % r->to_x, d = n % D;
        double sum = 0;
        for (int64_t v = 0; v < r->from_y; v++)
            for (int64_t u = 0; u < r->from_x; u++)
                sum += my[i * r->from_y + v] * mx[j * r->from_x + u] * x[b * in + (v * r->from_x + u) * D + d];
        y[n] = sum;
    }
}

static void backward_oracle(double *dx, const float *dy, const ts_resample *r, const double *my, const double *mx)
{
    const int64_t D = r->D, in = r->from_y * r->from_x * D, out = r->to_y * r->to_x * D;
    for (int64_t n = 0; n < r->B * in; n++) {
        int64_t b = n / in, v = n % in / (r->from_x * D), u = n / D % r->from_x, d = n % D;
        double sum = 0;
        for (int64_t i = 0; i < r->to_y; i++)
            for (int64_t j = 0; j < r->to_x; j++)
                sum += my[i * r->from_y + v] * mx[j * r->from_x + u] * dy[b * out + (i * r->to_x + j) * D + d];
        dx[n] = sum;
    }
}

static ts_resample_fwd_fn *fwd_of(const ts_backend *be, kind k)
{
    return k == NEAREST ? be->nearest2x_fwd : k == AREA ? be->area_fwd : be->bicubic_fwd;
}

static ts_resample_bwd_fn *bwd_of(const ts_backend *be, kind k)
{
    return k == NEAREST ? be->nearest2x_bwd : k == AREA ? be->area_bwd : be->bicubic_bwd;
}

static void run(const ts_backend *be, ts_stream *s, kind k, ts_resample r)
{
    char what[96];
    snprintf(what, sizeof what, "%s %lldx%lld to %lldx%lld",
             k == NEAREST ? "nearest2x"
             : k == AREA  ? "area"
                          : "bicubic",
             (long long)r.from_y, (long long)r.from_x, (long long)r.to_y, (long long)r.to_x);
    const int64_t in = r.B * r.from_y * r.from_x * r.D, out = r.B * r.to_y * r.to_x * r.D;
    double *my = axis(k, r.from_y, r.to_y), *mx = axis(k, r.from_x, r.to_x);
    double *want_y = t_alloc(sizeof(double) * (size_t)out), *want_dx = t_alloc(sizeof(double) * (size_t)in);
    float *h_x = t_normals(in, 1, 3), *h_dy = t_normals(out, 1, 4);
    t_buf *x = T_INF(h_x, in), *dy = T_INF(h_dy, out), *y = T_OUTF(out), *dx = T_OUTF(in);
    T_OK(fwd_of(be, k)(s, y->dev, x->dev, &r));
    T_OK(bwd_of(be, k)(s, dx->dev, dy->dev, &r));
    t_down(y), t_down(dx);
    forward_oracle(want_y, h_x, &r, my, mx);
    backward_oracle(want_dx, h_dy, &r, my, mx);
    /* sums of up to 289 float32 terms in order, and bicubic weights good to 3 ulp of 4 |a| */
    t_close(what, T_F(y), want_y, out, k == NEAREST ? 0 : 3e-6);
    t_close(what, T_F(dx), want_dx, in, 3e-6);
}

T_TEST(against_oracle)
{
    static const int64_t grid[][4] = { { 16, 16, 1, 1 }, { 16, 16, 3, 5 }, { 8, 8, 8, 8 },   { 17, 17, 1, 2 },
                                       { 13, 7, 4, 3 },  { 1, 1, 1, 1 },   { 31, 2, 30, 1 }, { 5, 16, 5, 13 } };
    static const int64_t D[] = { 1, 5, 16, 67 };
    for (int i = 0; i < 8; i++) {
        const int64_t *g = grid[i], d = D[i % 4];
        run(be, s, AREA, (ts_resample){ 2, d, g[0], g[1], g[2], g[3] });
        run(be, s, BICUBIC, (ts_resample){ 2, d, g[2], g[3], g[0], g[1] });
        run(be, s, BICUBIC, (ts_resample){ 1, d, g[0], g[1], g[2], g[3] }); /* down, without antialias */
        run(be, s, NEAREST, (ts_resample){ 3, d, g[2], g[3], 2 * g[2], 2 * g[3] });
    }
    for (kind k = NEAREST; k <= BICUBIC; k++)
        run(be, s, k, (ts_resample){ 0, 5, 4, 4, k == NEAREST ? 8 : 3, k == NEAREST ? 8 : 3 });
}

static float *channels_last(const float *x, int64_t B, int64_t D, int64_t n)
{
    float *y = t_alloc(sizeof(float) * (size_t)(B * D * n));
    for (int64_t i = 0; i < B * D * n; i++) y[i / (D * n) * D * n + i % n * D + i / n % D] = x[i];
    return y;
}

T_TEST(golden)
{
    static const int64_t side[] = { 1, 2, 3, 4, 5, 6, 8, 10, 13, 16 };
    for (int i = 0; i < 10; i++) {
        const int64_t p = side[i], big = 2 * 3 * 256, small = 2 * 3 * p * p;
        char name[32];
        float *raw = t_alloc(sizeof(float) * (size_t)big);
        t_hash_input(raw, "resample.x", big);
        t_buf *x = T_INF(channels_last(raw, 2, 3, 256), big), *y = T_OUTF(small);
        T_OK(be->area_fwd(s, y->dev, x->dev, &(ts_resample){ 2, 3, 16, 16, p, p }));
        t_down(y);
        snprintf(name, sizeof name, "area.%d", (int)p);
        t_closef(name, T_F(y), channels_last(t_golden("resample", name, "F32", NULL), 2, 3, p * p), small, 2e-6);

        snprintf(name, sizeof name, "resample.y%d", (int)p);
        t_hash_input(raw, name, small);
        x = T_INF(channels_last(raw, 2, 3, p * p), small), y = T_OUTF(big);
        T_OK(be->bicubic_fwd(s, y->dev, x->dev, &(ts_resample){ 2, 3, p, p, 16, 16 }));
        t_down(y);
        snprintf(name, sizeof name, "bicubic.%d", (int)p);
        t_closef(name, T_F(y), channels_last(t_golden("resample", name, "F32", NULL), 2, 3, 256), big, 2e-6);
    }
}

T_TEST(threads)
{
    ts_stream *one;
    T_OK(be->stream_new(&one, 0, 1));
    for (kind k = NEAREST; k <= BICUBIC; k++) {
        ts_resample r = { 5, 130, 6, 6, k == AREA ? 4 : 12, k == AREA ? 4 : 12 };
        const int64_t in = r.B * r.from_y * r.from_x * r.D, out = r.B * r.to_y * r.to_x * r.D;
        t_buf *x = T_INF(t_normals(in, 1, 1), in), *dy = T_INF(t_normals(out, 1, 2), out);
        t_buf *y[2] = { T_OUTF(out), T_OUTF(out) }, *dx[2] = { T_OUTF(in), T_OUTF(in) };
        for (int i = 0; i < 2; i++) {
            T_OK(fwd_of(be, k)(i ? one : s, y[i]->dev, x->dev, &r));
            T_OK(bwd_of(be, k)(i ? one : s, dx[i]->dev, dy->dev, &r));
            T_OK(be->stream_sync(i ? one : s));
            t_down(y[i]), t_down(dx[i]);
        }
        T_TRUE(memcmp(y[0]->host, y[1]->host, y[0]->bytes) == 0);
        T_TRUE(memcmp(dx[0]->host, dx[1]->host, dx[0]->bytes) == 0);
    }
    be->stream_free(one);
}

T_TEST(refusals)
{
    float v = 0;
    T_STATUS(TS_E_ARG, be->nearest2x_fwd(s, &v, &v, &(ts_resample){ 1, 1, 2, 2, 4, 5 }));
    T_STATUS(TS_E_ARG, be->area_fwd(s, &v, &v, &(ts_resample){ 1, 1, 2, 2, 3, 2 }));
    T_STATUS(TS_E_ARG, be->bicubic_bwd(s, &v, &v, &(ts_resample){ 1, 1, 0, 2, 3, 2 }));
}

int main(void)
{
    Suite *u = t_suite("resample");
    T_ADD(u, against_oracle);
    T_ADD(u, golden);
    T_ADD(u, threads);
    T_ADD(u, refusals);
    return t_run(u);
}
