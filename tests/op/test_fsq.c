/* test_fsq.c - Finite Scalar Quantization against the formula in double and the golden file.
 *
 * Inputs     odd rows lie 5e-5 of a level beside a rounding tie, where a slightly wrong constant shows; the last values
 *            are 0, -0, +-20 and +-inf.
 * Pass       idx exact unless some b lies within TS_FSQ_TIE of a tie, which no input is built to do, so at most one row
 *            in a thousand may use that excuse. value equals decode(idx) bit for bit. */
#include <stdio.h>

#include "tests/t.h"

static const char *const BOUND[] = { "tanh", "sigmoid", "ifsq" };

typedef struct {
    ts_fsq_bound bound;
    int D;
    int32_t level[TS_MAX_D];
    int64_t N;
} fsq_case;

static const fsq_case CASES[] = {
    { TS_FSQ_TANH, 4, { 8, 5, 5, 5 }, 4096 },
    { TS_FSQ_TANH, 1, { 2 }, 1 },
    { TS_FSQ_TANH, 5, { 7, 5, 5, 5, 5 }, 257 },
    { TS_FSQ_TANH, 16, { 3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 3, 3 }, 31 },
    { TS_FSQ_TANH, 2, { 64, 63 }, 255 },
    { TS_FSQ_TANH, 3, { 5, 5, 5 }, 0 },
    { TS_FSQ_SIGMOID, 3, { 8, 6, 5 }, 1000 },
    { TS_FSQ_SIGMOID, 1, { 2 }, 33 },
    { TS_FSQ_IFSQ, 5, { 7, 5, 5, 3, 63 }, 1001 },
};

/* b of the formula, shifted so that ties lie at halves and q = rint(b), for every bound. */
static double bounded(ts_fsq_bound bound, double z, int L)
{
    double half = (L - 1) / 2.0;
    if (bound == TS_FSQ_SIGMOID) return (L - 1) / (1 + exp(-z)) - L / 2;
    if (bound == TS_FSQ_IFSQ) return half * (2 / (1 + exp(-1.6 * z)) - 1);
    half = half * (1 + 1e-3);
    double offset = L % 2 == 0 ? 0.5 : 0;
    return half * tanh(z + atanh(offset / half)) - offset;
}

static double unbounded(ts_fsq_bound bound, double b, int L)
{
    double half = (L - 1) / 2.0;
    if (bound == TS_FSQ_SIGMOID) return -log((L - 1) / (b + L / 2) - 1);
    if (bound == TS_FSQ_IFSQ) return -log(2 / (b / half + 1) - 1) / 1.6;
    half = half * (1 + 1e-3);
    double offset = L % 2 == 0 ? 0.5 : 0;
    return atanh((b + offset) / half) - atanh(offset / half);
}

/* d value / d z by central differences of the oracle; 0 far out. */
static double slope(ts_fsq_bound bound, double z, int L)
{
    const double e = 1e-5;
    return isinf(z) ? 0 : (bounded(bound, z + e, L) - bounded(bound, z - e, L)) / (2 * e) / (L / 2);
}

static void fill(float *z, const fsq_case *c, uint64_t seed)
{
    static const float corner[] = { 0.f, -0.f, 20.f, -20.f, INFINITY, -INFINITY };
    for (int64_t n = 0; n < c->N * c->D; n++) {
        int L = c->level[n % c->D];
        double b = floor(t_uniform(&seed) * (L - 1)) - L / 2 + 0.5 + (t_uniform(&seed) < 0.5 ? -5e-5 : 5e-5);
        z[n] = (float)(n / c->D % 2 ? unbounded(c->bound, b, L) : 2 * t_normal(&seed));
    }
    for (int64_t i = 0, last = c->N * c->D - 1; i < 6 && i <= last; i++) z[last - i] = corner[i];
}

static void check_rows(const fsq_case *c, const float *z, const float *value, const int32_t *idx)
{
    int64_t excused = 0;
    for (int64_t n = 0; n < c->N; n++) {
        int32_t want = 0, basis = 1;
        int tie = 0;
        for (int d = 0; d < c->D; d++) {
            int L = c->level[d], digit = idx[n] / basis % L;
            double b = bounded(c->bound, z[n * c->D + d], L);
            if (!(value[n * c->D + d] == (float)(digit - L / 2) / (float)(L / 2)))
                ck_abort_msg("row %lld: value %g, digit %d", (long long)n, value[n * c->D + d], digit);
            tie |= fabs(b - floor(b) - 0.5) < TS_FSQ_TIE;
            /* sigmoid(0) with L = 2 is a tie exactly, and what is rounded there is the digit */
            want += (int32_t)(c->bound == TS_FSQ_SIGMOID ? rint(b + L / 2) : rint(b) + L / 2) * basis;
            basis *= L;
        }
        if (idx[n] != want && !tie) ck_abort_msg("row %lld: index %d, expected %d", (long long)n, idx[n], want);
        excused += idx[n] != want;
    }
    ck_assert_msg(excused * 1000 <= c->N, "%lld of %lld rows lie on a tie", (long long)excused, (long long)c->N);
}

T_TEST(forward_and_gradient)
{
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const fsq_case *c = &CASES[i];
        const int64_t n = c->N * c->D;
        ts_fsq q;
        T_OK(ts_fsq_init(&q, c->bound, c->level, c->D));
        float *h_z = t_alloc(sizeof(float) * (size_t)n), *h_g = t_normals(n, 1, 5);
        fill(h_z, c, 42 + i);
        t_buf *z = T_INF(h_z, n), *g = T_INF(h_g, n);
        t_buf *value = T_OUTF(n), *idx = t_out(be, s, c->N, 4), *back = T_OUTF(n), *dz = T_OUTF(n);
        T_OK(be->fsq_fwd(s, value->dev, idx->dev, z->dev, &q, c->N));
        T_OK(be->fsq_decode(s, back->dev, idx->dev, &q, c->N));
        T_OK(be->fsq_bwd(s, dz->dev, g->dev, z->dev, &q, c->N));
        t_down(value), t_down(idx), t_down(back), t_down(dz);
        check_rows(c, h_z, T_F(value), T_I(idx));
        T_TRUE(memcmp(value->host, back->host, value->bytes) == 0);
        double *want = t_alloc(sizeof(double) * (size_t)n);
        for (int64_t j = 0; j < n; j++) want[j] = h_g[j] * slope(c->bound, h_z[j], c->level[j % c->D]);
        /* a dozen float32 roundings; the differences of step 1e-5 are good to 1e-9 */
        t_close("dz", T_F(dz), want, n, 1e-6);
    }
}

T_TEST(every_index_returns)
{
    static const struct {
        ts_fsq_bound bound;
        int D;
        int32_t level[6];
    } book[] = { { TS_FSQ_TANH, 3, { 8, 6, 5 } },
                 { TS_FSQ_SIGMOID, 4, { 8, 5, 2, 5 } },
                 { TS_FSQ_IFSQ, 5, { 7, 5, 5, 5, 3 } },
                 { TS_FSQ_TANH, 1, { 4096 } } };
    for (size_t i = 0; i < sizeof book / sizeof *book; i++) {
        ts_fsq q;
        T_OK(ts_fsq_init(&q, book[i].bound, book[i].level, book[i].D));
        const int64_t n = (int64_t)q.V * q.D;
        int32_t *all = t_alloc(sizeof(int32_t) * (size_t)q.V);
        float *h_z = t_alloc(sizeof(float) * (size_t)n);
        for (int32_t v = 0; v < q.V; v++) all[v] = v;
        t_buf *idx = t_in(be, s, all, q.V, 4), *value = T_OUTF(n), *again = t_out(be, s, q.V, 4), *v2 = T_OUTF(n);
        T_OK(be->fsq_decode(s, value->dev, idx->dev, &q, q.V));
        t_down(value);
        for (int64_t j = 0; j < n; j++) {
            int L = q.level[j % q.D];
            double end = q.bound == TS_FSQ_TANH ? 0 : 1e-3; /* these bounds only approach their last levels */
            double b = T_F(value)[j] * (double)(L / 2);
            b = fmin(fmax(b, end - L / 2), L - 1 - L / 2 - end);
            h_z[j] = (float)unbounded(q.bound, b, L);
        }
        /* above a thousand levels the tanh bound passes its last levels: infinity must still be inside */
        if (q.D == 1) h_z[0] = -INFINITY, h_z[q.V - 1] = INFINITY;
        t_buf *z = T_INF(h_z, n);
        T_OK(be->fsq_fwd(s, v2->dev, again->dev, z->dev, &q, q.V));
        t_down(again), t_down(v2);
        int32_t wrong = 0;
        for (int32_t v = 0; v < q.V; v++) wrong += T_I(again)[v] != v;
        /* 4096 levels lie closer than float32 resolves near the ends of tanh */
        ck_assert_msg(q.D == 1 ? wrong < 40 : wrong == 0, "%d of %d indices changed", wrong, q.V);
        T_EQI(T_I(again)[0], 0);
        T_EQI(T_I(again)[q.V - 1], q.V - 1);
    }
}

T_TEST(golden)
{
    static const struct {
        int D;
        int32_t level[10];
    } list[] = { { 2, { 5, 3 } },           { 3, { 8, 6, 5 } },
                 { 4, { 8, 5, 5, 5 } },     { 5, { 7, 5, 5, 5, 5 } },
                 { 5, { 8, 8, 8, 6, 5 } },  { 6, { 8, 8, 8, 5, 5, 5 } },
                 { 4, { 16, 16, 16, 16 } }, { 10, { 3, 3, 3, 3, 3, 3, 3, 3, 3, 3 } } };
    int checked = 0;
    for (int bound = 0; bound < 3; bound++) {
        for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
            if (bound == TS_FSQ_IFSQ && list[i].level[0] % 2 == 0) continue;
            char name[64], full[96];
            int at = snprintf(name, sizeof name, "%s.", BOUND[bound]);
            for (int d = 0; d < list[i].D; d++)
                at += snprintf(name + at, sizeof name - (size_t)at, "%s%d", d ? "_" : "", list[i].level[d]);
#define GOLDEN(what, dtype, n) (snprintf(full, sizeof full, "%s.%s", name, what), t_golden("fsq", full, dtype, n))
            int64_t n, N;
            float *h_z = GOLDEN("z", "F32", &n), *h_value = GOLDEN("value", "F32", NULL);
            int32_t *h_idx = GOLDEN("index", "I32", &N);
            double *h_grad = GOLDEN("grad", "F64", NULL);
            float *one = t_alloc(sizeof(float) * (size_t)n);
            for (int64_t j = 0; j < n; j++) one[j] = 1;
            ts_fsq q;
            T_OK(ts_fsq_init(&q, (ts_fsq_bound)bound, list[i].level, list[i].D));
            t_buf *z = T_INF(h_z, n), *g = T_INF(one, n), *value = T_OUTF(n), *idx = t_out(be, s, N, 4),
                  *dz = T_OUTF(n);
            T_OK(be->fsq_fwd(s, value->dev, idx->dev, z->dev, &q, N));
            T_OK(be->fsq_bwd(s, dz->dev, g->dev, z->dev, &q, N));
            t_down(value), t_down(idx), t_down(dz);
            for (int64_t j = 0; j < n; j++)
                if (!(T_F(value)[j] == h_value[j]))
                    ck_abort_msg("%s: value %lld is %g, expected %g", name, (long long)j, T_F(value)[j], h_value[j]);
            for (int64_t j = 0; j < N; j++)
                if (T_I(idx)[j] != h_idx[j])
                    ck_abort_msg("%s: index %lld is %d, expected %d", name, (long long)j, T_I(idx)[j], h_idx[j]);
            t_close(name, T_F(dz), h_grad, n, 1e-6); /* a dozen float32 roundings */
            checked++;
        }
    }
    T_EQI(checked, 19);
}

T_TEST(refusals)
{
    (void)be, (void)s;
    ts_fsq q;
    int32_t many[TS_MAX_D + 1];
    for (int i = 0; i <= TS_MAX_D; i++) many[i] = 3;
    T_STATUS(TS_E_ARG, ts_fsq_init(&q, TS_FSQ_TANH, many, 0));
    T_STATUS(TS_E_ARG, ts_fsq_init(&q, TS_FSQ_TANH, many, TS_MAX_D + 1));
    T_STATUS(TS_E_ARG, ts_fsq_init(&q, TS_FSQ_TANH, (int32_t[]){ 5, 1 }, 2));
    T_STATUS(TS_E_ARG, ts_fsq_init(&q, TS_FSQ_IFSQ, (int32_t[]){ 5, 4 }, 2));
    T_STATUS(TS_E_ARG, ts_fsq_init(&q, TS_FSQ_SIGMOID, (int32_t[]){ 65536, 32768 }, 2));
    T_STATUS(TS_E_ARG, ts_fsq_init(&q, (ts_fsq_bound)7, (int32_t[]){ 5 }, 1));
    T_OK(ts_fsq_init(&q, TS_FSQ_TANH, many, TS_MAX_D));
    T_EQI(q.V, 43046721);
}

int main(void)
{
    Suite *u = t_suite("fsq");
    T_ADD(u, forward_and_gradient);
    T_ADD(u, every_index_returns);
    T_ADD(u, golden);
    T_ADD1(u, refusals);
    return t_run(u);
}
