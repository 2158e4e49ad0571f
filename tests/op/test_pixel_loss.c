/* test_pixel_loss.c - L1 and L2 distance and their gradient, of every backend, against the formula in double. */
#include "tests/t.h"

static const int64_t SIZES[] = { 0, 1, 31, 257, 4096, 100003 };
enum { N_SIZES = sizeof SIZES / sizeof *SIZES };

static double loss(const double *x, const float *target, double w1, double w2, int64_t N)
{
    double sum = 0;
    for (int64_t n = 0; n < N; n++) {
        const double d = x[n] - target[n];
        sum += w1 * fabs(d) + w2 * d * d;
    }
    return sum / (double)N;
}

static void run(const ts_backend *be, ts_stream *s, int64_t N, float w1, float w2, int with_dx)
{
    float *x = t_normals(N, 1, 1), *target = t_normals(N, 1, 2);
    for (int64_t n = 0; n < N; n += 3) x[n] = target[n]; /* no distance, no gradient */
    t_buf *sums = T_OUTF(2), *dx = T_OUTF(N);
    T_OK(be->pixel_loss(s, sums->dev, with_dx ? dx->dev : NULL, T_INF(x, N)->dev, T_INF(target, N)->dev, w1, w2, N));
    t_down(sums);
    t_down(dx);

    double want[2] = { 0, 0 }, *grad = t_alloc(sizeof(double) * (size_t)N);
    for (int64_t n = 0; n < N; n++) {
        const double d = (double)x[n] - target[n];
        want[0] += fabs(d);
        want[1] += d * d;
        grad[n] = (d > 0 ? w1 : d < 0 ? -w1 : 0) / (double)N + 2 * w2 * d / (double)N;
    }
    /* One rounding of each difference and one of the sum, or three of each gradient: units of 2^-24. */
    T_NEAR(T_F(sums)[0], want[0], 2e-7 * want[0]);
    T_NEAR(T_F(sums)[1], want[1], 2e-7 * want[1]);
    if (with_dx) t_close("dx", T_F(dx), grad, N, 3e-7);
    for (int64_t n = 0; n < N; n++) T_TRUE(with_dx ? n % 3 != 0 || T_F(dx)[n] == 0 : isnan(T_F(dx)[n]));

    double *wide = t_alloc(sizeof(double) * (size_t)N); /* the oracle's gradient against its loss */
    for (int64_t n = 0; n < N; n++) wide[n] = x[n];
    for (int64_t n = 1; n < N && N < 300; n += 3) {
        double f[2];
        for (int side = 0; side < 2; side++) {
            wide[n] = x[n] + (side ? 1e-6 : -1e-6);
            f[side] = loss(wide, target, w1, w2, N);
        }
        wide[n] = x[n];
        T_NEAR(grad[n], (f[1] - f[0]) / 2e-6, 1e-8);
    }
}

T_TEST(formula)
{
    for (int i = 0; i < N_SIZES; i++) {
        run(be, s, SIZES[i], 0.7f, 1.3f, 1);
        run(be, s, SIZES[i], 1, 0, 1);
        run(be, s, SIZES[i], 0, 1, 1);
        run(be, s, SIZES[i], 1, 1, 0);
    }
}

/* 2^24 and then halves, which a sum in float would lose. */
T_TEST(sums_are_double)
{
    const int64_t N = 1 + 4096;
    float *x = t_alloc(4 * (size_t)N), *target = t_alloc(4 * (size_t)N);
    for (int64_t n = 0; n < N; n++) x[n] = n == 0 ? 16777216 : 0.5f;
    t_buf *sums = T_OUTF(2);
    T_OK(be->pixel_loss(s, sums->dev, NULL, T_INF(x, N)->dev, T_INF(target, N)->dev, 1, 1, N));
    t_down(sums);
    T_TRUE(T_F(sums)[0] == 16777216 + 2048);
}

T_TEST(invariance)
{
    const int64_t N = 100003;
    const float *x = t_normals(N, 1, 3), *target = t_normals(N, 1, 4);
    const t_buf *dx = T_INF(x, N), *dtarget = T_INF(target, N);
    float first[2] = { 0, 0 };
    for (int threads = 1; threads < 6; threads += 2) {
        ts_stream *other;
        t_buf *sums = T_OUTF(2);
        T_OK(be->stream_sync(s));
        T_OK(be->stream_new(&other, 0, threads));
        T_OK(be->pixel_loss(other, sums->dev, NULL, dx->dev, dtarget->dev, 1, 1, N));
        T_OK(be->stream_sync(other));
        be->stream_free(other);
        t_down(sums);
        if (threads == 1) memcpy(first, sums->host, sizeof first);
        T_TRUE(memcmp(first, sums->host, sizeof first) == 0);
    }
}

T_TEST(nan_is_seen)
{
    float x[40] = { 0 }, target[40] = { 0 };
    x[33] = NAN;
    t_buf *sums = T_OUTF(2), *dx = T_OUTF(40);
    T_OK(be->pixel_loss(s, sums->dev, dx->dev, T_INF(x, 40)->dev, T_INF(target, 40)->dev, 1, 1, 40));
    t_down(sums);
    t_down(dx);
    T_TRUE(isnan(T_F(sums)[0]) && isnan(T_F(sums)[1]) && isnan(T_F(dx)[33]) && T_F(dx)[32] == 0);
}

int main(void)
{
    Suite *u = t_suite("op_pixel_loss");
    T_ADD(u, formula);
    T_ADD(u, sums_are_double);
    T_ADD(u, invariance);
    T_ADD(u, nan_is_seen);
    return t_run(u);
}
