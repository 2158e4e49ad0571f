/* test_act.c - activations of every backend against the formula in double.
 *
 * Oracle     the formulas and their derivatives in double; the derivatives are checked against central differences.
 * Inputs     normals times 3 and a list of corners: zeros, large values of both signs, infinity, NaN. In place too.
 */
#include "tests/t.h"

static const float CORNERS[] = { 0.0f, -0.0f, 1e-30f, -1e-30f, 20, -20, 88, -88, 104, -104, 1e4f, -1e4f };
enum { N_CORNERS = sizeof CORNERS / sizeof *CORNERS };

static const int64_t SIZES[] = { 0, 1, 15, 31, 257, 20011 };
enum { N_SIZES = sizeof SIZES / sizeof *SIZES };

static const double TINY = 104 * 0x1p-126;

static double value(ts_act act, double x)
{
    if (act == TS_SILU) return x / (1 + exp(-x));
    return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static double slope(ts_act act, double x)
{
    if (act == TS_SILU) {
        const double s = 1 / (1 + exp(-x));
        return s + x * s * (1 - s);
    }
    const double a = sqrt(2 / M_PI), t = tanh(a * (x + 0.044715 * x * x * x));
    return (1 + t) / 2 + x / 2 * (1 - t * t) * a * (1 + 3 * 0.044715 * x * x);
}

static float *inputs(int64_t n)
{
    float *x = t_normals(n, 3, 1);
    for (int64_t i = 0; i < N_CORNERS && i < n; i++) x[n - 1 - i] = CORNERS[i];
    return x;
}

/* 1 + tanh and 1 - tanh^2 cancel to an error of a few 2^-24 however small they are; the polynomial's rounding moves
 * tanh by up to 2^-24 times its argument times its slope, which is below 1. SiLU has no such difference. */
static double tolerance(ts_act act, double x, double want)
{
    return act == TS_SILU ? 6 * 0x1p-24 * fabs(want) + TINY : 6 * 0x1p-24 * (fabs(x) + 1);
}

static void compare(ts_act act, const float *y, const float *dx, const float *x, const float *dy, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const double want = value(act, x[i]), dwant = dy[i] * slope(act, x[i]);
        T_NEAR(y[i], want, tolerance(act, x[i], want));
        /* the slope of SiLU is a sum of terms up to s(1 + |x|), which may cancel */
        const double terms = act == TS_SILU ? (1 + fabs(x[i])) / (1 + exp(-x[i])) : 1 + fabs(x[i]);
        T_NEAR(dx[i], dwant, (8 * 0x1p-24 * terms + TINY) * fabs(dy[i]));
    }
}

static void check(const ts_backend *be, ts_stream *s, ts_act act, int64_t n, int in_place)
{
    const float *x = inputs(n), *dy = t_normals(n, 1, 2);
    t_buf *in = T_INF(x, n), *y = in_place ? T_INF(x, n) : T_OUTF(n), *dx = in_place ? T_INF(dy, n) : T_OUTF(n);
    T_OK(be->act_fwd(s, y->dev, in_place ? y->dev : in->dev, act, n, TS_F32));
    T_OK(be->act_bwd(s, dx->dev, in_place ? dx->dev : T_INF(dy, n)->dev, in->dev, act, n));
    t_down(y), t_down(dx);
    compare(act, T_F(y), T_F(dx), x, dy, n);
}

T_TEST(values_and_slopes)
{
    for (int i = 0; i < N_SIZES; i++)
        for (ts_act act = TS_SILU; act <= TS_GELU_TANH; act++) {
            check(be, s, act, SIZES[i], 0);
            check(be, s, act, SIZES[i], 1);
        }
}

/* Any of the buffers may begin at any float. */
T_TEST(buffers_at_odd_addresses)
{
    enum { N = 62 };
    const float *x = inputs(N), *dy = t_normals(N, 1, 2);
    for (ts_act act = TS_SILU; act <= TS_GELU_TANH; act++)
        for (int odd = 0; odd < 16; odd++) {
            const int at_x = odd & 1, at_y = odd >> 1 & 1, at_dy = odd >> 2 & 1, at_dx = odd >> 3;
            t_buf *y = T_OUTF(N + 1), *dx = T_OUTF(N + 1), *in = T_OUTF(N + 1), *grad = T_OUTF(N + 1);
            memcpy(T_F(in) + at_x, x, sizeof(float) * N), memcpy(T_F(grad) + at_dy, dy, sizeof(float) * N);
            t_up(in), t_up(grad);
            T_OK(be->act_fwd(s, (float *)y->dev + at_y, (float *)in->dev + at_x, act, N, TS_F32));
            T_OK(be->act_bwd(s, (float *)dx->dev + at_dx, (float *)grad->dev + at_dy, (float *)in->dev + at_x, act, N));
            t_down(y), t_down(dx);
            compare(act, T_F(y) + at_y, T_F(dx) + at_dx, x, dy, N);
            T_TRUE(isnan(T_F(y)[at_y ? 0 : N]) && isnan(T_F(dx)[at_dx ? 0 : N]));
        }
}

T_TEST(oracle_slope_is_the_slope)
{
    (void)be, (void)s;
    for (ts_act act = TS_SILU; act <= TS_GELU_TANH; act++)
        for (double x = -6; x < 6; x += 0.1) {
            const double h = 1e-5;
            T_NEAR(slope(act, x), (value(act, x + h) - value(act, x - h)) / (2 * h), 1e-9); /* h^2, and 1e-16/h */
        }
}

T_TEST(infinity_and_not_a_number)
{
    static const float X[] = { INFINITY, NAN, 1 };
    for (ts_act act = TS_SILU; act <= TS_GELU_TANH; act++) {
        t_buf *y = T_OUTF(3), *dx = T_OUTF(3), *x = T_INF(X, 3);
        T_OK(be->act_fwd(s, y->dev, x->dev, act, 3, TS_F32));
        T_OK(be->act_bwd(s, dx->dev, x->dev, x->dev, act, 3));
        t_down(y), t_down(dx);
        T_TRUE(T_F(y)[0] == INFINITY && isnan(T_F(y)[1]) && isfinite(T_F(y)[2]));
        T_TRUE(isnan(T_F(dx)[1]) && isfinite(T_F(dx)[2]));
    }
}

int main(void)
{
    Suite *u = t_suite("op_act");
    T_ADD1(u, oracle_slope_is_the_slope);
    T_ADD(u, values_and_slopes);
    T_ADD(u, buffers_at_odd_addresses);
    T_ADD(u, infinity_and_not_a_number);
    return t_run(u);
}
