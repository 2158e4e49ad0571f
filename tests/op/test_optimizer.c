/* test_optimizer.c - gradient norm and AdamW of every backend against the formula in double.
 *
 * The oracle keeps its own state in double over several steps, so that a wrong bias correction or moment grows.
 */
#include "tests/t.h"

typedef struct {
    int64_t N, N_decay;
    int steps, with_ema;
    double grad; /* size of the gradients */
    ts_adamw a;
} problem;

static const problem PROBLEMS[] = {
    { 1, 1, 5, 1, 1, { 1e-2f, 0.9f, 0.999f, 1e-8f, 0.1f, 0, 0.9f, 0 } },
    { 31, 0, 5, 1, 1, { 1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 1, 0.99f, 0 } },           /* nothing decays, clipped    */
    { 257, 257, 5, 0, 1, { 1e-3f, 0.5f, 0.9f, 1e-6f, 0.5f, 100, 0, 0 } },           /* no average, norm too small */
    { 5003, 2049, 5, 1, 1e-4, { 1e-2f, 0.9f, 0.95f, 1e-3f, 0.05f, 0, 0.999f, 0 } }, /* eps matters              */
    { 4096, 3000, 3, 1, 1e3, { 1e-2f, 0, 0.95f, 1e-8f, 0.05f, 2, 0.999f, 0 } },     /* no momentum, clipped hard  */
    { 0, 0, 1, 1, 1, { 1e-2f, 0.9f, 0.999f, 1e-8f, 0.1f, 1, 0.9f, 0 } },
};
enum { N_PROBLEMS = sizeof PROBLEMS / sizeof *PROBLEMS };

typedef struct {
    double *p, *m, *v, *ema;
} state;

static double *widen(const float *x, int64_t n)
{
    double *y = t_alloc(sizeof(double) * (size_t)n);
    for (int64_t i = 0; i < n; i++) y[i] = x[i];
    return y;
}

static double norm_of(const float *g, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)g[i] * g[i];
    return sqrt(sum);
}

static void oracle(state *w, const float *g, const problem *q, int step)
{
    const ts_adamw *a = &q->a;
    const double lr = a->lr, b1 = a->beta1, b2 = a->beta2, norm = norm_of(g, q->N);
    const double clip = a->max_norm > 0 && a->max_norm < norm + 1e-6 ? a->max_norm / (norm + 1e-6) : 1;
    for (int64_t i = 0; i < q->N; i++) {
        const double d = clip * g[i];
        w->m[i] = b1 * w->m[i] + (1 - b1) * d;
        w->v[i] = b2 * w->v[i] + (1 - b2) * d * d;
        if (i < q->N_decay) w->p[i] -= lr * a->weight_decay * w->p[i];
        w->p[i] -= lr * (w->m[i] / (1 - pow(b1, step))) / (sqrt(w->v[i] / (1 - pow(b2, step))) + a->eps);
        w->ema[i] = a->ema_decay * w->ema[i] + (1 - (double)a->ema_decay) * w->p[i];
    }
}

static void run(const ts_backend *be, ts_stream *s, const problem *q)
{
    const int64_t N = q->N;
    const float *zero = t_alloc(4 * (size_t)N), *start = t_normals(N, 1, 1), *average = t_normals(N, 1, 2);
    t_buf *p = T_INF(start, N), *m = T_INF(zero, N), *v = T_INF(zero, N), *ema = T_INF(average, N), *norm = T_OUTF(1);
    state w = { widen(start, N), widen(zero, N), widen(zero, N), widen(average, N) };
    for (int step = 1; step <= q->steps; step++) {
        const float *g = t_normals(N, q->grad, 100 + (uint64_t)step);
        const t_buf *dg = T_INF(g, N);
        ts_adamw a = q->a;
        a.step = step;
        T_OK(be->grad_norm(s, norm->dev, dg->dev, N));
        T_OK(
            be->adamw(s, p->dev, m->dev, v->dev, q->with_ema ? ema->dev : NULL, dg->dev, norm->dev, &a, q->N_decay, N));
        oracle(&w, g, q, step);
        t_down(norm);
        T_NEAR(T_F(norm)[0], norm_of(g, N), 1e-7 * norm_of(g, N)); /* one rounding */
    }
    t_down(p);
    t_down(m);
    t_down(v);
    t_down(ema);
    /* Per step some five roundings of 2^-24 in each number. */
    t_close("p", T_F(p), w.p, N, 1e-6);
    t_close("m", T_F(m), w.m, N, 1e-6);
    t_close("v", T_F(v), w.v, N, 1e-6);
    if (q->with_ema)
        t_close("ema", T_F(ema), w.ema, N, 1e-6);
    else
        T_TRUE(memcmp(ema->host, average, 4 * (size_t)N) == 0);

    /* Steps are small beside parameters: the change by itself, in which the rounding of p is 2^-24 of 1/lr. */
    double *change = t_alloc(sizeof(double) * (size_t)N);
    float *got = t_alloc(4 * (size_t)N);
    for (int64_t i = 0; i < N; i++) {
        change[i] = w.p[i] - start[i];
        got[i] = (float)((double)T_F(p)[i] - start[i]);
    }
    t_close("change of p", got, change, N, 2e-4);
}

T_TEST(formula)
{
    for (int i = 0; i < N_PROBLEMS; i++) run(be, s, &PROBLEMS[i]);
}

/* A norm that is not finite changes nothing at all, and a NaN or an overflow anywhere makes it so. */
T_TEST(not_finite)
{
    const int64_t N = 100;
    static const float bad[] = { NAN, INFINITY, -INFINITY, 3e38f };
    for (int i = 0; i < 4; i++) {
        const float *start = t_normals(4 * N, 1, 9);
        float *g = t_normals(N, 1, 3);
        g[97] = g[98] = bad[i]; /* twice 3e38: a finite sum in double, a norm beyond float */
        t_buf *w = T_INF(start, 4 * N), *dg = T_INF(g, N), *norm = T_OUTF(1);
        float *p = w->dev, *m = p + N, *v = m + N, *ema = v + N;
        const ts_adamw a = { 1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 1, 0.9f, 1 };
        T_OK(be->grad_norm(s, norm->dev, dg->dev, N));
        T_OK(be->adamw(s, p, m, v, ema, dg->dev, norm->dev, &a, N / 2, N));
        t_down(norm);
        t_down(w);
        T_TRUE(!isfinite(T_F(norm)[0]));
        T_TRUE(memcmp(w->host, start, w->bytes) == 0);
    }
}

T_TEST(norm_is_invariant)
{
    const int64_t N = 100003;
    const t_buf *g = T_INF(t_normals(N, 1, 4), N);
    float first = 0;
    for (int threads = 1; threads < 6; threads += 2) {
        ts_stream *other;
        t_buf *norm = T_OUTF(1);
        T_OK(be->stream_sync(s));
        T_OK(be->stream_new(&other, 0, threads));
        T_OK(be->grad_norm(other, norm->dev, g->dev, N));
        T_OK(be->stream_sync(other));
        be->stream_free(other);
        t_down(norm);
        if (threads == 1) first = T_F(norm)[0];
        T_TRUE(T_F(norm)[0] == first);
    }
}

T_TEST(step_counts_from_one)
{
    const ts_adamw a = { .lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f };
    float *x = T_OUTF(5)->dev;
    T_STATUS(TS_E_INTERNAL, be->adamw(s, x, x + 1, x + 2, NULL, x + 3, x + 4, &a, 0, 1));
}

int main(void)
{
    Suite *u = t_suite("op_optimizer");
    T_ADD(u, formula);
    T_ADD(u, not_finite);
    T_ADD(u, norm_is_invariant);
    T_ADD(u, step_counts_from_one);
    return t_run(u);
}
