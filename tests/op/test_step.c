/* test_step.c - single steps of formulas against the formulas in double; what is drawn, against the op of sampling.
 *
 * Pass       sums, products and rounding exactly; functions within a few roundings; top-k exactly; top-p on rows whose limit lies
 *            far from any running sum. */
#include <stdio.h>

#include "tests/op/sample_oracle.h"

static double mapped(ts_step_map f, double a, double b)
{
    switch (f) {
    case TS_STEP_ADD: return a + b;
    case TS_STEP_SUB: return a - b;
    case TS_STEP_MUL: return a * b;
    case TS_STEP_DIV: return a / b;
    case TS_STEP_MIN: return fmin(a, b);
    case TS_STEP_TANH: return tanh(a);
    case TS_STEP_RINT: return rint(a);
    case TS_STEP_RELU: return fmax(a, 0);
    case TS_STEP_EXP: return exp(a);
    }
    return NAN;
}

T_TEST(map)
{
    static const int64_t SIZES[][3] = { { 3, 7, 5 }, { 1, 300, 8 }, { 2, 1, 33 }, { 5, 4, 1 }, { 1, 9000, 1 }, { 3, 5000, 1 }, { 2, 3, 5000 }, { 0, 1, 1 } };
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        const int64_t A = SIZES[i][0], R = SIZES[i][1], C = SIZES[i][2], N = A * R * C;
        float *a = t_normals(N, 2, 1), *b = t_normals(A * C, 1, 2);
        double *want = t_alloc(sizeof *want * (size_t)N);
        t_buf *dev_a = T_INF(a, N), *dev_b = T_INF(b, A * C);
        for (int f = TS_STEP_ADD; f <= TS_STEP_EXP; f++) {
            t_buf *y = T_OUTF(N);
            T_OK(be->step_map(s, y->dev, dev_a->dev, f < TS_STEP_TANH ? dev_b->dev : NULL, (ts_step_map)f, N, R, C));
            t_down(y);
            for (int64_t n = 0; n < N; n++) {
                want[n] = mapped((ts_step_map)f, a[n], b[n / (R * C) * C + n % C]);
                if (f != TS_STEP_TANH && f != TS_STEP_EXP && !(T_F(y)[n] == (float)want[n]))
                    ck_abort_msg("step %d, number %lld: %g, expected %g", f, (long long)n, T_F(y)[n], want[n]);
            }
            t_close("tanh, exp", T_F(y), want, N, 3e-7);
        }
    }
}

enum { N = 6 };

static void run_rows(const ts_backend *be, ts_stream *s, void *y, const float *a, const int32_t *which, ts_step_rows f, int64_t V)
{
    t_buf *from = T_INF(a, N * V);
    T_OK(be->step_rows(s, y, from->dev, which ? t_in(be, s, which, N, 4)->dev : NULL, f, NULL, N, V));
}

T_TEST(rows)
{
    static const int64_t WIDTHS[] = { 1, 5, 64, 300, 1025 };
    for (size_t i = 0; i < sizeof WIDTHS / sizeof *WIDTHS; i++) {
        const int64_t V = WIDTHS[i];
        float *a = t_normals(N * V, 2, 4);
        double *norm = t_alloc(sizeof *norm * (size_t)(N * V)), *soft = t_alloc(sizeof *soft * (size_t)(N * V)), loss[N];
        int32_t which[N], sum[N];
        t_buf *y[5] = { T_OUTF(N * V), T_OUTF(N * V), T_OUTF(N), T_OUTF(N * V), t_out(be, s, N, 4) };
        for (int64_t n = 0; n < N; n++) {
            double mean = 0, var = 0, all = 0;
            float *row = a + n * V, whole = 0;
            which[n] = (int32_t)(n * 7 % V);
            for (int64_t v = 0; v < V; v++) mean += row[v] / (double)V, all += exp(row[v]);
            for (int64_t v = 0; v < V; v++) var += (row[v] - mean) * (row[v] - mean) / (double)V;
            for (int64_t v = 0; v < V; v++) norm[n * V + v] = (row[v] - mean) / sqrt(var + 1e-6), soft[n * V + v] = exp(row[v]) / all;
            loss[n] = -log(soft[n * V + which[n]]);
            for (int64_t v = 0; v < V; v++) whole += rintf(10 * row[v]);
            sum[n] = (int32_t)whole;
        }
        run_rows(be, s, y[0]->dev, a, which, TS_STEP_NORMALISE, V);
        run_rows(be, s, y[1]->dev, a, which, TS_STEP_SOFTMAX, V);
        t_down(y[0]), t_down(y[1]);
        t_close("normalise", T_F(y[0]), norm, N * V, 1e-6);
        t_close("softmax", T_F(y[1]), soft, N * V, 2e-6);
        run_rows(be, s, y[2]->dev, T_F(y[1]), which, TS_STEP_LOSS, V);
        run_rows(be, s, y[3]->dev, T_F(y[1]), which, TS_STEP_ONE_HOT, V);
        for (int64_t n = 0; n < N * V; n++) a[n] = rintf(10 * a[n]);
        run_rows(be, s, y[4]->dev, a, which, TS_STEP_SUM, V);
        for (int j = 2; j < 5; j++) t_down(y[j]);
        t_close("loss", T_F(y[2]), loss, N, 2e-6);
        for (int64_t n = 0; n < N * V; n++) {
            const float want = T_F(y[1])[n] - (n % V == which[n / V] ? 1.0f : 0.0f);
            T_TRUE(T_F(y[3])[n] == want);
        }
        for (int64_t n = 0; n < N; n++) T_EQI(T_I(y[4])[n], sum[n]);
    }
}

/* A norm, or 1e-12 where that is more. */
T_TEST(lengths)
{
    static const int64_t WIDTHS[] = { 1, 64, 300 };
    for (size_t i = 0; i < sizeof WIDTHS / sizeof *WIDTHS; i++) {
        const int64_t V = WIDTHS[i];
        float *a = t_normals(N * V, 2, 4);
        double want[N];
        t_buf *y = T_OUTF(N);
        for (int64_t v = 0; v < V; v++) a[1 * V + v] = 0, a[2 * V + v] = 1e-16f;
        for (int64_t n = 0; n < N; n++) {
            double squares = 0;
            for (int64_t v = 0; v < V; v++) squares += (double)a[n * V + v] * a[n * V + v];
            want[n] = fmax(sqrt(squares), 1e-12);
        }
        run_rows(be, s, y->dev, a, NULL, TS_STEP_LENGTH, V);
        t_down(y);
        for (int64_t n = 0; n < N; n++) T_NEAR(T_F(y)[n], want[n], 1e-7 * want[n]);
    }
}

static int descending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* top-k, then top-p, then a draw: which are kept by sorting, what is drawn by the op that does all at once. */
T_TEST(sampling)
{
    enum { V = 301, T = 3 };
    ts_sample how = { .B = N / T, .t = T, .V = V, .temperature = 1, .top_k = 40, .top_p = 0.7f, .seed = 5, .image0 = 9, .token0 = 4 };
    float *a = t_normals((int64_t)N * V, 2, 6), *sorted = t_alloc(sizeof *sorted * N * V);
    for (int n = 0; n < N; n++) a[n * V + 17] = a[n * V + 250] = 4.5f; /* equal ones, likely to be drawn */
    memcpy(sorted, a, sizeof *sorted * N * V);
    t_buf *from = T_INF(a, N * V), *k = T_OUTF(N * V), *p = T_OUTF(N * V), *got = t_out(be, s, N, 4), *want = t_out(be, s, N, 4);
    T_OK(be->step_rows(s, k->dev, from->dev, NULL, TS_STEP_TOP_K, &how, N, V));
    T_OK(be->step_rows(s, p->dev, k->dev, NULL, TS_STEP_TOP_P, &how, N, V));
    T_OK(be->step_rows(s, got->dev, p->dev, NULL, TS_STEP_DRAW, &how, N, V));
    T_OK(be->sample(s, want->dev, from->dev, &how, T_SCRATCH(be->sample_scratch(s, &how))));
    t_down(k), t_down(p), t_down(got), t_down(want);
    for (int n = 0; n < N; n++) {
        float *row = sorted + n * V;
        double all = 0, mass = 0;
        int last = how.top_k;
        qsort(row, V, sizeof *row, descending);
        for (int i = 0; i < how.top_k; i++) all += exp(row[i]);
        while (last > 1 && mass + exp(row[last - 1]) <= (1 - (double)how.top_p) * all) mass += exp(row[--last]);
        for (int v = 0; v < V; v++) {
            const float x = a[n * V + v];
            T_TRUE(T_F(k)[n * V + v] == (x >= row[how.top_k - 1] ? x : -INFINITY));
            T_TRUE(T_F(p)[n * V + v] == (x >= row[last - 1] ? x : -INFINITY));
        }
        T_EQI(T_I(got)[n], T_I(want)[n]);
    }
    for (int n = 0; n < N; n++) a[n * V + 17] = a[n * V + 250] = 20;
    t_buf *equal = T_INF(a, N * V);
    T_OK(be->step_rows(s, got->dev, equal->dev, NULL, TS_STEP_ARGMAX, NULL, N, V));
    t_down(got);
    for (int n = 0; n < N; n++) T_EQI(T_I(got)[n], 17);
    /* of equal sums the lowest class: none is finite */
    for (int i = 0; i < N * V; i++) a[i] = -INFINITY;
    t_buf *none = T_INF(a, N * V);
    T_OK(be->step_rows(s, got->dev, none->dev, NULL, TS_STEP_DRAW, &how, N, V));
    t_down(got);
    for (int n = 0; n < N; n++) T_EQI(T_I(got)[n], 0);
}

/* Noise of every stage against Philox written anew; what is drawn is the largest of the sums, which is the same number in both steps. */
T_TEST(stages)
{
    enum { V = 301, T = 3 };
    const ts_sample how = { .B = N / T, .t = T, .V = V, .seed = (7ull << 40) + 5, .image0 = (1ull << 33) + 9, .token0 = 4 };
    static const int32_t STAGES[N] = { 0, 1, 2, 8, 3, 0 };
    float *a = t_normals((int64_t)N * V, 2, 6);
    t_buf *from = T_INF(a, N * V), *which = t_in(be, s, STAGES, N, 4);
    for (int staged = 0; staged < 2; staged++) {
        t_buf *sum = T_OUTF(N * V), *got = t_out(be, s, N, 4), *want = t_out(be, s, N, 4);
        const void *stage = staged ? which->dev : NULL;
        T_OK(be->step_rows(s, sum->dev, from->dev, stage, TS_STEP_NOISE, &how, N, V));
        T_OK(be->step_rows(s, got->dev, from->dev, stage, TS_STEP_DRAW, &how, N, V));
        T_OK(be->step_rows(s, want->dev, sum->dev, NULL, TS_STEP_ARGMAX, NULL, N, V));
        t_down(sum), t_down(got), t_down(want);
        for (int n = 0; n < N; n++) {
            T_EQI(T_I(got)[n], T_I(want)[n]);
            for (int v = 0; v < V; v++)
                T_NEAR(T_F(sum)[n * V + v],
                       a[n * V + v] + gumbel(&how, staged ? STAGES[n] : 0, how.token0 + n % T, how.image0 + (uint64_t)(n / T), v), 1e-5);
        }
    }
}

/* NaN is no largest number, and what is drawn of nothing else is class 0. */
T_TEST(not_a_number)
{
    enum { V = 301 };
    const ts_sample how = { .B = N, .t = 1, .V = V, .seed = 5 };
    float *a = t_normals((int64_t)N * V, 2, 6);
    t_buf *got = t_out(be, s, N, 4), *drawn = t_out(be, s, N, 4);
    for (int v = 0; v < V; v++) a[v] = a[V + v] = NAN;
    a[V + 257] = -7; /* row 1: one number */
    a[2 * V] = a[2 * V + 300] = NAN, a[2 * V + 44] = 20;
    t_buf *from = T_INF(a, N * V);
    T_OK(be->step_rows(s, got->dev, from->dev, NULL, TS_STEP_ARGMAX, NULL, N, V));
    T_OK(be->step_rows(s, drawn->dev, from->dev, NULL, TS_STEP_DRAW, &how, N, V));
    t_down(got), t_down(drawn);
    static const int WANT[] = { 0, 257, 44 };
    for (int n = 0; n < 3; n++) {
        T_EQI(T_I(got)[n], WANT[n]);
        T_EQI(T_I(drawn)[n], WANT[n]);
    }
}

int main(void)
{
    Suite *u = t_suite("step");
    T_ADD(u, map);
    T_ADD(u, rows);
    T_ADD(u, lengths);
    T_ADD(u, sampling);
    T_ADD(u, stages);
    T_ADD(u, not_a_number);
    return t_run(u);
}
