/* test_sample_smooth.c - the mean of codebook rows under a draw on every backend, against a softmax in double.
 *
 * Oracle    logits mixed in double, classes cut after sorting, Philox written anew, noise (sample_oracle.h), softmax and
 *           mean in double. Logits up to 20 and noise up to 17, in float32, are off by 2e-6 each; divided by tau that is
 *           the error of an exponent, and twice that the relative error of a weight. Rows whose cut is closer than that
 *           to another one may differ, and such rows must be rare.
 * Then      what the contract promises exactly: the same bits on the CPU, in any batch, pass and number of threads; the
 *           row that op_sample draws as tau goes to 0; greedy; the ends of each range.
 */
#include "tests/op/sample_oracle.h"

static const double TIE = 1e-5, ERROR = 4e-6;

/* ---- Oracle --------------------------------------------------------------------------------------------------- */

/* code (D) of row n; returns the margin of its cut. */
static double oracle_row(double *code, const float *logits, const float *E, const ts_sample *a, const ts_smooth *m,
                         int64_t n)
{
    int V = (int)a->V;
    class *c = malloc((size_t)V * sizeof *c);
    double margin = INFINITY, max = -INFINITY, sum = 0;
    for (int v = 0; v < V; v++) {
        double uncond = a->guided ? logits[(a->B * a->t + n) * V + v] : 0;
        c[v] = (class){ mixed(a, logits[n * V + v], uncond), v };
    }
    qsort(c, (size_t)V, sizeof *c, ascending);
    int first = first_kept(c, V, a, &margin);
    if (a->top_k == 1) margin = INFINITY; /* float32 finds the same largest: no row is left out */
    for (int i = first; i < V; i++) {
        double g = gumbel(a, 0, a->token0 + n % a->t, a->image0 + (uint64_t)(n / a->t), c[i].v);
        c[i].l = a->top_k == 1 ? (i == first ? 0 : -INFINITY) : ((double)m->sharpen * c[i].l + g) / m->tau;
        max = fmax(max, c[i].l);
    }
    for (int64_t d = 0; d < m->D; d++) code[d] = 0;
    for (int i = first; i < V; i++) {
        double e = exp(c[i].l - max);
        sum += e;
        for (int64_t d = 0; d < m->D && e > 0; d++) code[d] += e * E[c[i].v * m->D + d];
    }
    for (int64_t d = 0; d < m->D; d++) code[d] /= sum;
    free(c);
    return margin;
}

/* ---- Running the op ------------------------------------------------------------------------------------------- */

static ts_sample options(int64_t B, int64_t t, int64_t V)
{
    return (ts_sample){ .B = B, .t = t, .V = V, .temperature = 1, .top_p = 1, .seed = 0x0123456789abcdefu };
}

static float *smooth_on(const ts_backend *be, ts_stream *s, ts_stream *s1, const float *logits, const float *E,
                        const ts_sample *a, const ts_smooth *m)
{
    t_buf *in = T_INF(logits, (a->guided ? 2 : 1) * a->B * a->t * a->V), *codebook = T_INF(E, a->V * m->D);
    t_buf *code = T_OUTF(a->B * a->t * m->D), *scratch = t_out(be, s, (int64_t)be->sample_scratch(s1, a), 1);
    T_OK(be->sample_smooth(s1, code->dev, in->dev, codebook->dev, a, m, scratch->dev));
    T_OK(be->stream_sync(s1));
    t_down(scratch), t_down(code);
    return T_F(code);
}

/* On this backend; the CPU gives the same bits. */
static float *smooth(const ts_backend *be, ts_stream *s, const float *logits, const float *E, const ts_sample *a,
                     const ts_smooth *m)
{
    float *code = smooth_on(be, s, s, logits, E, a, m);
    if (strcmp(be->name, "cpu") == 0) return code;
    const ts_backend *cpu = ts_backend_get("cpu");
    ts_stream *other;
    T_OK(cpu->stream_new(&other, 0, 1));
    size_t n = (size_t)(a->B * a->t * m->D);
    float *same = t_alloc(n * sizeof *same);
    void *scratch = t_alloc(cpu->sample_scratch(other, a) + 64);
    T_OK(cpu->sample_smooth(other, same, logits, E, a, m, (void *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63)));
    cpu->stream_free(other);
    ck_assert_mem_eq(code, same, n * sizeof *code);
    return code;
}

T_TEST(against_oracle)
{
    static const struct {
        const char *name;
        int64_t B, t, V, D;
        int guided, top_k;
        float guide, temperature, top_p, sharpen, tau;
    } c[] = {
        { "plain, warm", 3, 31, 257, 32, 0, 0, 0, 1, 1, 1, 1 },
        { "one class", 2, 3, 1, 5, 0, 0, 0, 1, 0.5f, 1, 0.27f },
        { "two classes", 2, 31, 2, 1, 0, 0, 0, 1, 0.7f, 1.5f, 0.14f },
        { "first scale", 2, 17, 257, 32, 1, 0, 0, 1, 1, 1, 0.27f },
        { "last scale", 2, 31, 257, 32, 1, 90, 1.5f, 0.9f, 0.96f, 2, 0.0135f },
        { "wide", 2, 9, 100, 131, 1, 0, 0.5f, 1, 0.9f, 1.3f, 0.2f },
        { "all", 1, 9, 4096, 64, 1, 900, 1.5f, 1, 0.96f, 1.5f, 0.14f },
        { "warm top-k", 2, 31, 100, 33, 0, 7, 0, 2, 1, 1, 3 },
        { "greedy", 2, 31, 257, 8, 1, 1, 0.5f, 1, 0.5f, 2, 0.27f },
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        ts_sample a = options(c[i].B, c[i].t, c[i].V);
        const ts_smooth m = { c[i].D, c[i].sharpen, c[i].tau };
        a.guided = c[i].guided, a.guide = c[i].guide, a.temperature = c[i].temperature;
        a.top_k = c[i].top_k, a.top_p = c[i].top_p;
        a.image0 = (7ull << 32) - 1, a.token0 = 14; /* the picture's number carries into its high word */
        int64_t rows = a.B * a.t, excused = 0;
        float *logits = t_normals(2 * rows * a.V, 3, 70 + i), *E = t_normals(a.V * m.D, 1, 90 + i), largest = 0;
        for (int64_t n = 0; n < rows * a.V; n += 11)
            if (a.V > 31 && n % 2) logits[n] = -INFINITY;
        for (int64_t n = 0; n < a.V * m.D; n++) largest = fmaxf(largest, fabsf(E[n]));
        float *code = smooth(be, s, logits, E, &a, &m);
        double tolerance = (2 * ERROR * m.sharpen / m.tau + 1e-6) * largest, want[131];
        for (int64_t n = 0; n < rows; n++) {
            double margin = oracle_row(want, logits, E, &a, &m, n), worst = 0;
            for (int64_t d = 0; d < m.D; d++) {
                double e = fabs(code[n * m.D + d] - want[d]);
                if (!(e <= worst)) worst = e;
            }
            excused += margin < TIE;
            ck_assert_msg(worst <= tolerance || margin < TIE, "%s: row %lld is off by %g, tolerance %g (margin %g)",
                          c[i].name, (long long)n, worst, tolerance, margin);
        }
        T_TRUE(excused * 20 <= rows);
    }
}

/* Rows of the largest codebook do not fit into shared memory. */
T_TEST(largest_codebook)
{
    ts_sample a = options(1, 2, 4 * 65536);
    const ts_smooth m = { 1, 1, 0.5f };
    float *logits = t_normals(a.t * a.V, 1, 4), *E = t_normals(a.V, 1, 5);
    for (int64_t v = 0; v < a.V / 2; v++) logits[v] = -INFINITY; /* the upper half must be reached */
    float *code = smooth(be, s, logits, E, &a, &m);
    for (int n = 0; n < 2; n++) {
        double want;
        oracle_row(&want, logits, E, &a, &m, n);
        T_NEAR(code[n], want, 1e-4);
    }
}

/* ---- Promises ------------------------------------------------------------------------------------------------- */

T_TEST(cold_is_the_row_that_is_drawn)
{
    enum { V = 100, D = 7, B = 40, T = 5 };
    ts_sample a = options(B, T, V);
    const ts_smooth m = { D, 1, 1e-6f };
    a.guided = 1, a.guide = 0.75f, a.top_k = 50, a.top_p = 0.9f, a.image0 = 1000, a.token0 = 5;
    float *logits = t_normals(2 * B * T * V, 2, 9), *E = t_normals(V * D, 1, 10),
          *code = smooth(be, s, logits, E, &a, &m);
    t_buf *in = T_INF(logits, 2 * B * T * V), *idx = t_out(be, s, B * T, 4);
    T_OK(be->sample(s, idx->dev, in->dev, &a, T_SCRATCH(be->sample_scratch(s, &a))));
    t_down(idx);
    for (int n = 0; n < B * T; n++) ck_assert_mem_eq(code + n * D, E + T_I(idx)[n] * D, D * sizeof *E);
}

T_TEST(batch_pass_and_threads_change_nothing)
{
    enum { B = 5, T = 9, V = 100, D = 40 };
    ts_sample a = options(B, T, V);
    const ts_smooth m = { D, 1.5f, 0.3f };
    a.guided = 1, a.guide = 0.75f, a.top_k = 50, a.top_p = 0.9f, a.image0 = 1000, a.token0 = 5;
    float *all = t_normals(2 * B * T * V, 2, 9), *E = t_normals(V * D, 1, 10), part[2 * T * V];
    float *want = smooth(be, s, all, E, &a, &m);
    for (int b = 0; b < B; b++) { /* one picture at a time, its tokens in two passes */
        for (int half = 0; half < 2; half++) {
            int t0 = half ? 6 : 0, n = half ? T - 6 : 6;
            ts_sample one = a;
            one.B = 1, one.t = n, one.image0 += (uint64_t)b, one.token0 += t0;
            for (int u = 0; u < 2; u++)
                memcpy(part + u * n * V, all + ((u * B + b) * T + t0) * V, sizeof(float) * (size_t)(n * V));
            ck_assert_mem_eq(smooth_on(be, s, s, part, E, &one, &m), want + (b * T + t0) * D,
                             sizeof(float) * (size_t)(n * D));
        }
    }
    for (int threads = 1; threads <= 3; threads += 2) {
        ts_stream *other;
        T_OK(be->stream_new(&other, 0, threads));
        ck_assert_mem_eq(smooth_on(be, s, other, all, E, &a, &m), want, B * T * D * sizeof(float));
        be->stream_free(other);
    }
}

/* No draw is possible, or 1/tau is too much for float32: the code is 0, the others are right, and the failure names
 * picture and token. */
T_TEST(bad_logits_are_reported)
{
    enum { B = 2, T = 5, V = 9, D = 3 };
    static const float bad[] = { NAN, INFINITY, -INFINITY, 3e38f };
    for (int i = 0; i < 4; i++) {
        ts_sample a = options(B, T, V);
        const ts_smooth m = { D, 2, 0.5f };
        a.image0 = 40, a.token0 = 5;
        float *l = t_normals(B * T * V, 1, 3), *E = t_normals(V * D, 1, 4), *want = smooth(be, s, l, E, &a, &m);
        for (int v = i == 2 ? 0 : 7; v < V; v++) l[8 * V + v] = bad[i];
        t_buf *in = T_INF(l, B * T * V), *codebook = T_INF(E, V * D), *code = T_OUTF(B * T * D);
        ts_status st =
            be->sample_smooth(s, code->dev, in->dev, codebook->dev, &a, &m, T_SCRATCH(be->sample_scratch(s, &a)));
        if (st == TS_OK) st = be->stream_sync(s);
        T_EQI(st, TS_E_DATA);
        ck_assert_msg(strstr(ts_error(), "picture 41") && strstr(ts_error(), "token 8"), "%s", ts_error());
        t_down(code);
        for (int n = 0; n < B * T * D; n++) T_TRUE(T_F(code)[n] == (n / D == 8 ? 0 : want[n]));
    }
}

/* A row of the codebook that has no weight is not read into the mean, whatever it holds. */
T_TEST(rows_without_weight_do_not_matter)
{
    ts_sample a = options(1, 1, 3);
    const ts_smooth m = { 2, 1, 0.1f };
    const float l[3] = { -INFINITY, 1, -INFINITY }, E[6] = { NAN, NAN, 3, -4, INFINITY, 0 };
    float *code = smooth(be, s, l, E, &a, &m);
    T_TRUE(code[0] == 3 && code[1] == -4);
}

T_TEST(empty)
{
    ts_sample a = options(0, 4, 10);
    const ts_smooth m = { 4, 1, 1 };
    T_OK(be->sample_smooth(s, NULL, NULL, NULL, &a, &m, NULL));
    a.B = 3, a.t = 0;
    T_OK(be->sample_smooth(s, NULL, NULL, NULL, &a, &m, NULL));
}

T_TEST(options_out_of_range)
{
    const ts_sample good = options(0, 4, 10);
    const ts_smooth fine = { 4, 1, 0.1f };
    static const ts_smooth bad[] = {
        { 0, 1, 1 }, { -1, 1, 1 },    { 4, 0, 1 },   { 4, -1, 1 },       { 4, NAN, 1 },
        { 4, 1, 0 }, { 4, 1, -0.1f }, { 4, 1, NAN }, { 4, 1, INFINITY }, { 4, INFINITY, 1 }
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        T_STATUS(TS_E_ARG, be->sample_smooth(s, NULL, NULL, NULL, &good, &bad[i], NULL));
    ts_sample a[] = { good, good, good };
    a[0].V = 0, a[1].V = 4 * 65536 + 1, a[2].temperature = 0;
    for (int i = 0; i < 3; i++) T_STATUS(TS_E_ARG, be->sample_smooth(s, NULL, NULL, NULL, &a[i], &fine, NULL));
}

int main(void)
{
    Suite *u = t_suite("sample_smooth");
    T_ADD(u, against_oracle);
    T_ADD(u, largest_codebook);
    T_ADD(u, cold_is_the_row_that_is_drawn);
    T_ADD(u, batch_pass_and_threads_change_nothing);
    T_ADD(u, bad_logits_are_reported);
    T_ADD(u, rows_without_weight_do_not_matter);
    T_ADD(u, empty);
    T_ADD(u, options_out_of_range);
    return t_run(u);
}
