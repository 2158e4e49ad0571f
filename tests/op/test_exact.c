/* test_exact.c - the functions of tessera/exact.h against libm in double.
 *
 * Inputs     every 1009th float of the whole range of bit patterns, in vectors as the kernels call them; corners apart.
 * Pass       within 1 ulp (exp, log) and 2.5 ulp (tanh, sigmoid) of the exact value: the errors measured over all
 * floats are 0.97, 0.78, 2.4 and 2.3 ulp. Vector and scalar calls give the same bits. */
#include "tests/t.h"
#include "tessera/exact.h"

enum { RUN = 4096, STEP = 1009 };

typedef void run_fn(float *y, const float *x);

#define RUN_OF(name)                                                                                                   \
    static void name##_run(float *y, const float *x)                                                                   \
    {                                                                                                                  \
        _Pragma("omp simd") for (int i = 0; i < RUN; i++) y[i] = ts_##name##f(x[i]);                                   \
    }                                                                                                                  \
    static float name##_one(float x)                                                                                   \
    {                                                                                                                  \
        return ts_##name##f(x);                                                                                        \
    }
RUN_OF(exp)
RUN_OF(log)
RUN_OF(tanh)
RUN_OF(sigmoid)

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* The distance of two neighbouring floats at |v|. */
static double ulp(double v)
{
    int e;
    frexp(v, &e);
    return ldexp(1, (e < -125 ? -125 : e) - 24);
}

/* All floats between low and high, STEP bit patterns apart. */
static void sweep(const char *what, run_fn *run, float (*one)(float), double (*oracle)(double), float low, float high,
                  double tol)
{
    static float x[RUN], y[RUN];
    int n = 0, checked = 0;
    for (uint64_t u = 0; u < 0x100000000u; u += STEP) {
        float v = ts_float_of((uint32_t)u);
        if (v >= low && v <= high) x[n++] = v;
        if (n < RUN) continue;
        run(y, x);
        for (int i = 0; i < n; i++, checked++) {
            double want = oracle(x[i]), err = fabs(y[i] - want) / ulp(want);
            if (!(err <= tol)) ck_abort_msg("%s(%.9g) = %.9g, expected %.17g: %.3f ulp", what, x[i], y[i], want, err);
        }
        for (int i = 0; i < n; i += 97)
            if (ts_bits_of(y[i]) != ts_bits_of(one(x[i])))
                ck_abort_msg("%s(%.9g): vector and scalar differ", what, x[i]);
        n = 0;
    }
    ck_assert_int_gt(checked, 1000000);
}

T_TEST(whole_range)
{
    (void)be, (void)s;
    sweep("exp", exp_run, exp_one, exp, -87.3365f, 88.722835f, 1.0);
    sweep("log", log_run, log_one, log, 1.17549435e-38f, 3.40282347e38f, 1.0);
    sweep("tanh", tanh_run, tanh_one, tanh, -3.40282347e38f, 3.40282347e38f, 2.5);
    sweep("sigmoid", sigmoid_run, sigmoid_one, sigmoid, -87.3f, 3.40282347e38f, 2.5);
}

T_TEST(corners)
{
    (void)be, (void)s;
    T_TRUE(ts_expf(-INFINITY) == 0 && ts_expf(-88.0f) == 0 && ts_expf(-3e38f) == 0);
    T_TRUE(ts_expf(INFINITY) == INFINITY && ts_expf(88.8f) == INFINITY && ts_expf(88.72284f) == INFINITY);
    T_TRUE(ts_expf(0.0f) == 1 && ts_expf(-0.0f) == 1 && ts_expf(1e-40f) == 1);
    T_TRUE(isnan(ts_expf(NAN)) && isnan(ts_tanhf(NAN)) && isnan(ts_sigmoidf(NAN)));
    T_TRUE(ts_logf(1.0f) == 0 && ts_logf(INFINITY) == INFINITY);
    T_TRUE(ts_tanhf(INFINITY) == 1 && ts_tanhf(-INFINITY) == -1 && ts_tanhf(9.1f) == 1);
    T_TRUE(ts_bits_of(ts_tanhf(-0.0f)) == 0x80000000u && ts_bits_of(ts_tanhf(0.0f)) == 0);
    T_TRUE(ts_sigmoidf(INFINITY) == 1 && ts_sigmoidf(-INFINITY) == 0 && ts_sigmoidf(-100.0f) == 0);
    T_TRUE(ts_sigmoidf(0.0f) == 0.5f);
    for (float x = 1e-30f; x < 20; x *= 1.37f) T_TRUE(ts_tanhf(-x) == -ts_tanhf(x));
}

int main(void)
{
    Suite *u = t_suite("exact");
    T_ADD1(u, whole_range);
    T_ADD1(u, corners);
    return t_run(u);
}
