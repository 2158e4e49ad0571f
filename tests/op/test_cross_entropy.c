/* test_cross_entropy.c - softmax cross-entropy of every backend against its formula in double.
 *
 * Inputs    normals; a constant row; a row far from zero; a row with -inf, alone at its beginning; a row where the target
 *           is all but certain; rows longer than the shared memory of a block (163 KB on the emulated device), which some
 *           or many blocks share, in one round or several.
 * Tolerance exp and log are within 1 ulp, the argument x - max (up to 20) is rounded to 1e-6, and sums of 4096 terms in
 *           lanes add as much again: 5e-6 of the largest value.
 */
#include "tests/t.h"

static const double TOL = 5e-6;
static const float SCALE = 0.37f;

static double loss_of(const double *x, int32_t target, int64_t V)
{
    double max = -INFINITY, sum = 0;
    for (int64_t v = 0; v < V; v++) max = fmax(max, x[v]);
    for (int64_t v = 0; v < V; v++) sum += exp(x[v] - max);
    return log(sum) + max - x[target];
}

static void grad_of(double *d, const double *x, int32_t target, double scale, int64_t V)
{
    double lse = loss_of(x, target, V) + x[target];
    for (int64_t v = 0; v < V; v++) d[v] = scale * (exp(x[v] - lse) - (v == target));
}

static float *logits_of(int64_t N, int64_t V, const int32_t *target)
{
    float *x = t_normals(N * V, 3, 11);
    for (int64_t n = 0; n < N; n++)
        for (int64_t v = 0; v < V; v++) {
            float *p = &x[n * V + v];
            if (n % 5 == 1) *p = 0.25f;
            if (n % 5 == 2) *p += 1e4f;
            if (n % 5 == 3 && v != target[n] && (v % 3 == 0 || v < V / 4)) *p = -INFINITY;
            if (n % 5 == 4 && v == target[n]) *p = 60;
        }
    return x;
}

static int32_t *targets_of(int64_t N, int64_t V)
{
    uint64_t seed = 5;
    int32_t *t = t_alloc((size_t)N * sizeof *t);
    for (int64_t n = 0; n < N; n++) t[n] = (int32_t)(t_next(&seed) % (uint64_t)V);
    if (N > 1) t[N - 1] = (int32_t)V - 1, t[0] = 0;
    return t;
}

/* In place, whichever thread comes first: logits may go only when the loss has been formed. */
static void run_in_place(const ts_backend *be, ts_stream *s, int64_t N, int64_t V, unsigned order, const double *loss,
                         const double *grad)
{
    const int32_t *target = targets_of(N, V);
    t_buf *tb = t_in(be, s, target, N, 4), *xb = T_INF(logits_of(N, V, target), N * V), *lb = T_OUTF(N);
    t_thread_order(order);
    T_OK(be->cross_entropy(s, lb->dev, xb->dev, xb->dev, tb->dev, SCALE, N, V));
    t_down(lb), t_down(xb);
    t_close("loss in place", T_F(lb), loss, N, TOL);
    t_close("dlogits in place", T_F(xb), grad, N * V, TOL);
    t_thread_order(0);
}

static void run(const ts_backend *be, ts_stream *s, int64_t N, int64_t V)
{
    int32_t *target = targets_of(N, V);
    float *x = logits_of(N, V, target);
    double *loss = t_alloc((size_t)N * sizeof *loss), *grad = t_alloc((size_t)(N * V) * sizeof *grad);
    double *row = t_alloc((size_t)V * sizeof *row);
    for (int64_t n = 0; n < N; n++) {
        for (int64_t v = 0; v < V; v++) row[v] = x[n * V + v];
        loss[n] = loss_of(row, target[n], V);
        grad_of(grad + n * V, row, target[n], SCALE, V);
    }
    t_buf *tb = t_in(be, s, target, N, 4), *xb = T_INF(x, N * V), *lb = T_OUTF(N), *db = T_OUTF(N * V);
    T_OK(be->cross_entropy(s, lb->dev, db->dev, xb->dev, tb->dev, SCALE, N, V));
    t_down(lb), t_down(db), t_down(xb);
    t_close("loss", T_F(lb), loss, N, TOL);
    t_close("dlogits", T_F(db), grad, N * V, TOL);
    ck_assert(N == 0 || memcmp(T_F(xb), x, (size_t)(N * V) * 4) == 0);

    t_buf *alone = T_OUTF(N);
    T_OK(be->cross_entropy(s, alone->dev, NULL, xb->dev, tb->dev, SCALE, N, V));
    t_down(alone);
    t_close("loss alone", T_F(alone), loss, N, TOL);

    for (unsigned order = 0; order < 3; order++) run_in_place(be, s, N, V, order, loss, grad);
}

T_TEST(against_formula)
{
    static const int64_t size[][2] = { { 1, 1 },    { 31, 5 },    { 257, 31 }, { 7, 257 },
                                       { 5, 4096 }, { 3, 45000 }, { 0, 7 } };
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) run(be, s, size[i][0], size[i][1]);
}

/* Three blocks would keep a row; four have one. tools/cuda_report.py counts what is moved. */
T_TEST(long_rows)
{
    if (strcmp(be->name, "emu") != 0) return;
    run(be, s, 2, 100000);
}

static ts_stream *other_device(const ts_backend *be, const char *shared, const char *processors)
{
    ts_stream *s;
    setenv("TS_EMU_SHARED", shared, 1);
    setenv("TS_EMU_PROCESSORS", processors, 1);
    T_OK(be->stream_new(&s, 0, 0));
    return s;
}

static void close_device(const ts_backend *be, ts_stream *s)
{
    be->stream_free(s);
    unsetenv("TS_EMU_SHARED");
    unsetenv("TS_EMU_PROCESSORS");
}

/* Of a row most is read twice, by two or sixteen blocks; all is kept, by five blocks in two rounds; most is kept by one
 * block. Row 3 begins with minus infinity. */
T_TEST(little_shared_memory)
{
    (void)s;
    if (strcmp(be->name, "emu") != 0) return;
    static const char *const device[][2] = { { "132", "1" }, { "132", "8" }, { "1300", "8" }, { "4000", "8" } };
    for (int i = 0; i < 4; i++) {
        ts_stream *small = other_device(be, device[i][0], device[i][1]);
        run(be, small, 5, 1025);
        close_device(be, small);
    }
}

/* Every class in turn has a logit whose exponential is infinite, so the largest one must be found wherever it is. */
T_TEST(one_large_logit)
{
    enum { N = 304, V = N };
    float *x = t_normals(N * V, 1, 6);
    int32_t target[N];
    double *loss = t_alloc(sizeof(double) * N), *grad = t_alloc(sizeof(double) * N * V);
    for (int n = 0; n < N; n++) {
        double row[V];
        x[n * V + n] = 300;
        target[n] = n % 2 ? n : (n + 1) % V;
        for (int v = 0; v < V; v++) row[v] = x[n * V + v];
        loss[n] = loss_of(row, target[n], V);
        grad_of(grad + n * V, row, target[n], SCALE, V);
    }
    t_buf *tb = t_in(be, s, target, N, 4), *lb = T_OUTF(N), *db = T_OUTF(N * V);
    T_OK(be->cross_entropy(s, lb->dev, db->dev, T_INF(x, N * V)->dev, tb->dev, SCALE, N, V));
    t_down(lb), t_down(db);
    t_close("loss", T_F(lb), loss, N, TOL);
    t_close("dlogits", T_F(db), grad, N * V, TOL);
}

/* The oracle's gradient is the slope of the oracle's loss. */
T_TEST(oracle_against_differences)
{
    (void)be, (void)s;
    enum { V = 31 };
    double x[V], d[V];
    uint64_t seed = 3;
    for (int v = 0; v < V; v++) x[v] = 2 * t_normal(&seed);
    grad_of(d, x, 7, 0.5, V);
    for (int v = 0; v < V; v++) {
        double keep = x[v], h = 1e-5;
        x[v] = keep + h;
        double up = loss_of(x, 7, V);
        x[v] = keep - h;
        double down = loss_of(x, 7, V);
        x[v] = keep;
        T_NEAR(d[v], 0.5 * (up - down) / (2 * h), 1e-9); /* h^2 and 1e-16/h */
    }
}

/* A NaN stays in its row, and a target of probability 0 costs infinitely much. */
static void check_nan_and_infinity(const ts_backend *be, ts_stream *s)
{
    enum { N = 4, V = 40 };
    float *x = t_normals(N * V, 1, 2);
    int32_t target[N] = { 3, 4, 5, 6 };
    x[0 * V + 39] = NAN;
    x[2 * V + 5] = -INFINITY;
    for (int v = 0; v < V; v++) x[3 * V + v] = -INFINITY; /* no class at all */
    t_buf *tb = t_in(be, s, target, N, 4), *xb = T_INF(x, N * V), *lb = T_OUTF(N), *db = T_OUTF(N * V);
    T_OK(be->cross_entropy(s, lb->dev, db->dev, xb->dev, tb->dev, 1, N, V));
    t_down(lb), t_down(db);
    T_TRUE(isnan(T_F(lb)[0]) && isnan(T_F(lb)[3]));
    T_TRUE(isfinite(T_F(lb)[1]));
    T_TRUE(T_F(lb)[2] == INFINITY);
    for (int v = 0; v < V; v++) {
        T_TRUE(isnan(T_F(db)[v]) && isnan(T_F(db)[3 * V + v]));
        T_TRUE(isfinite(T_F(db)[V + v]));
    }
    T_TRUE(T_F(db)[2 * V + 5] == -1);
}

T_TEST(nan_and_infinity)
{
    check_nan_and_infinity(be, s);
    if (strcmp(be->name, "emu") != 0) return;
    ts_stream *small = other_device(be, "150", "8");
    check_nan_and_infinity(be, small);
    close_device(be, small);
}

int main(void)
{
    Suite *u = t_suite("cross_entropy");
    T_ADD(u, against_formula);
    T_ADD(u, long_rows);
    T_ADD(u, little_shared_memory);
    T_ADD(u, one_large_logit);
    T_ADD1(u, oracle_against_differences);
    T_ADD(u, nan_and_infinity);
    return t_run(u);
}
