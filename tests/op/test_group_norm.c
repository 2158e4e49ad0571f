/* test_group_norm.c - GroupNorm with SiLU of every backend against the formula in double.
 *
 * Oracle     plain loops in double; its gradient is analytic and is itself checked against central differences.
 * Inputs     seeded normals; values far from zero; constant groups; groups of one value; groups wider than a strip; maps
 *            that fit into the shared memory of one block, of several, or of none (163 KB each on the emulated device).
 * Promise    the same bits whatever the number of threads and the shared memory, and forward whatever the other images.
 */
#include "tests/t.h"

typedef struct {
    int64_t B, P, C, G;
    int silu;
    double far; /* added to x */
} shape;

static const shape SHAPES[] = {
    { 2, 64, 32, 32, 1, 0 },  { 1, 1, 8, 2, 1, 0 },       { 3, 31, 96, 32, 1, 0 },    { 2, 257, 160, 32, 0, 0 },
    { 2, 300, 130, 1, 1, 0 }, { 2, 17, 10, 5, 0, 0 },     { 2, 600, 64, 32, 1, 0 },   { 1, 33, 176, 2, 1, 0 },
    { 2, 1, 32, 32, 1, 0 },   { 2, 64, 96, 32, 1, 1000 }, { 2, 64, 96, 32, 0, -3e4 }, { 0, 16, 32, 32, 1, 0 },
    { 1, 640, 160, 32, 1, 0 }, /* backward three quarters of the positions are kept */
    { 1, 500, 136, 1, 0, 0 },  /* 290 of them; backward too few */
    { 1, 700, 136, 1, 1, 0 },  /* too few: blocks share them */
    { 1, 1100, 32, 32, 1, 0 }, /* more slices than teams of threads */
};
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };

static const double EPS = 1e-6f;

typedef struct {
    double *x, *gamma, *beta, *dy;
    double *y, *mean, *rstd, *dx, *dgamma, *dbeta;
} numbers;

static double *doubles(int64_t n)
{
    return t_alloc(sizeof(double) * (size_t)n);
}

static double *widen(const float *x, int64_t n)
{
    double *y = doubles(n);
    for (int64_t i = 0; i < n; i++) y[i] = x[i];
    return y;
}

static double sigmoid(double u)
{
    return 1 / (1 + exp(-u));
}

/* du/dy at value i of group bg, and its normalised value. */
static double through(const numbers *o, const shape *p, int64_t i, int64_t bg, double *n)
{
    const int64_t c = i % p->C;
    *n = (o->x[i] - o->mean[bg]) * o->rstd[bg];
    const double u = *n * o->gamma[c] + o->beta[c], sg = sigmoid(u);
    return p->silu ? sg * (1 + u * (1 - sg)) : 1;
}

/* The k-th value of group bg. */
static int64_t value(const shape *p, int64_t bg, int64_t k)
{
    const int64_t wide = p->C / p->G;
    return (bg / p->G * p->P + k / wide) * p->C + bg % p->G * wide + k % wide;
}

static void oracle_fwd(const numbers *o, const shape *p)
{
    const int64_t M = p->P * (p->C / p->G);
    for (int64_t bg = 0; bg < p->B * p->G; bg++) {
        double mean = 0, var = 0;
        for (int64_t k = 0; k < M; k++) mean += o->x[value(p, bg, k)] / (double)M;
        for (int64_t k = 0; k < M; k++) var += pow(o->x[value(p, bg, k)] - mean, 2) / (double)M;
        o->mean[bg] = mean;
        o->rstd[bg] = 1 / sqrt(var + EPS);
        for (int64_t k = 0; k < M; k++) {
            const int64_t i = value(p, bg, k), c = i % p->C;
            const double u = (o->x[i] - mean) * o->rstd[bg] * o->gamma[c] + o->beta[c];
            o->y[i] = p->silu ? u * sigmoid(u) : u;
        }
    }
}

static void oracle_bwd(const numbers *o, const shape *p)
{
    const int64_t M = p->P * (p->C / p->G);
    for (int64_t bg = 0; bg < p->B * p->G; bg++) {
        double dmean = 0, dvar = 0, n;
        for (int64_t k = 0; k < M; k++) {
            const int64_t i = value(p, bg, k), c = i % p->C;
            const double du = o->dy[i] * through(o, p, i, bg, &n), dn = du * o->gamma[c];
            o->dbeta[c] += du;
            o->dgamma[c] += du * n;
            dmean -= dn * o->rstd[bg];
            dvar -= 0.5 * dn * (o->x[i] - o->mean[bg]) * pow(o->rstd[bg], 3);
        }
        for (int64_t k = 0; k < M; k++) {
            const int64_t i = value(p, bg, k);
            const double dn = o->dy[i] * through(o, p, i, bg, &n) * o->gamma[i % p->C];
            o->dx[i] = dn * o->rstd[bg] + (dvar * 2 * (o->x[i] - o->mean[bg]) + dmean) / (double)M;
        }
    }
}

/* Inputs of a shape as floats, and the oracle's view of them. */
typedef struct {
    float *x, *gamma, *beta, *dy, *dgamma0, *dbeta0;
    numbers o;
    int64_t n;
} problem;

static problem make(const shape *p)
{
    problem q = { .n = p->B * p->P * p->C };
    q.x = t_normals(q.n, 1.5, 1);
    for (int64_t i = 0; i < q.n; i++) q.x[i] += (float)p->far;
    q.gamma = t_normals(p->C, 1, 2), q.beta = t_normals(p->C, 1, 3), q.dy = t_normals(q.n, 1, 4);
    q.dgamma0 = t_normals(p->C, 5, 5), q.dbeta0 = t_normals(p->C, 5, 6);
    q.o = (numbers){ .x = widen(q.x, q.n),
                     .gamma = widen(q.gamma, p->C),
                     .beta = widen(q.beta, p->C),
                     .dy = widen(q.dy, q.n),
                     .y = doubles(q.n),
                     .mean = doubles(p->B * p->G),
                     .rstd = doubles(p->B * p->G),
                     .dx = doubles(q.n),
                     .dgamma = widen(q.dgamma0, p->C),
                     .dbeta = widen(q.dbeta0, p->C) };
    return q;
}

typedef struct {
    t_buf *y, *mean, *rstd, *dx, *dgamma, *dbeta;
} results;

/* Runs forward and backward on stream t; buffers belong to s. */
static results run(const ts_backend *be, ts_stream *s, ts_stream *t, const shape *p, const problem *q)
{
    const ts_group_norm n = { p->B, p->P, p->C, p->G, (float)EPS, p->silu, TS_F32 };
    results r = { T_OUTF(q->n), T_OUTF(p->B * p->G),     T_OUTF(p->B * p->G),
                  T_OUTF(q->n), T_INF(q->dgamma0, p->C), T_INF(q->dbeta0, p->C) };
    t_buf *x = T_INF(q->x, q->n), *gamma = T_INF(q->gamma, p->C), *beta = T_INF(q->beta, p->C);
    t_buf *scratch = t_out(be, s, (int64_t)be->group_norm_scratch(t, &n), 1);
    T_OK(be->group_norm_fwd(t, r.y->dev, r.mean->dev, r.rstd->dev, x->dev, gamma->dev, beta->dev, &n));
    T_OK(be->group_norm_bwd(t, r.dx->dev, r.dgamma->dev, r.dbeta->dev, T_INF(q->dy, q->n)->dev, x->dev, r.mean->dev,
                            r.rstd->dev, gamma->dev, beta->dev, &n, scratch->dev));
    T_OK(be->stream_sync(t));
    t_down(r.y), t_down(r.mean), t_down(r.rstd), t_down(r.dx), t_down(r.dgamma), t_down(r.dbeta), t_down(scratch);
    return r;
}

/* dx is a difference of terms as large as rstd*dn, which vanishes for a group of one value: the error is relative to
 * the terms. */
static void check_dx(const results *r, const problem *q, const shape *p, double tol)
{
    double dn = 0, rstd = 0;
    for (int64_t i = 0; i < q->n; i++) dn = fmax(dn, fabs(q->o.dy[i] * q->o.gamma[i % p->C]));
    for (int64_t g = 0; g < p->B * p->G; g++) rstd = fmax(rstd, q->o.rstd[g]);
    for (int64_t i = 0; i < q->n; i++) T_NEAR(T_F(r->dx)[i], q->o.dx[i], tol * dn * rstd);
}

static void check_values(const ts_backend *be, ts_stream *s, ts_stream *t, const shape *p)
{
    const problem q = make(p);
    oracle_fwd(&q.o, p);
    oracle_bwd(&q.o, p);
    const results r = run(be, s, t, p, &q);
    /* A dozen float32 roundings; and the mean is handed over as a float32, which is all it can do far from zero. */
    const double tol = 12 * 0x1p-24 + fabs(p->far) * 0x1p-24;
    /* Float32 sums of values about 1.5 apart, each rounded once, then the mean itself rounded. */
    for (int64_t g = 0; g < p->B * p->G; g++)
        T_NEAR(T_F(r.mean)[g], q.o.mean[g], 3 * 1.5 * 0x1p-24 + fabs(q.o.mean[g]) * 0x1p-24);
    t_close("rstd", T_F(r.rstd), q.o.rstd, p->B * p->G, 6 * 0x1p-24);
    t_close("y", T_F(r.y), q.o.y, q.n, tol);
    check_dx(&r, &q, p, 2 * tol);
    t_close("dgamma", T_F(r.dgamma), q.o.dgamma, p->C, 4 * tol); /* sums of up to 9216 such values */
    t_close("dbeta", T_F(r.dbeta), q.o.dbeta, p->C, 4 * tol);
}

T_TEST(values_and_gradients)
{
    for (int i = 0; i < N_SHAPES; i++) check_values(be, s, s, &SHAPES[i]);
}

/* On an emulated device of so many multiprocessors. */
static void check_values_on(const ts_backend *be, ts_stream *s, const char *processors, const shape *p)
{
    ts_stream *t;
    if (strcmp(be->name, "emu") != 0) return;
    setenv("TS_EMU_PROCESSORS", processors, 1);
    T_OK(be->stream_new(&t, 0, 0));
    check_values(be, s, t, p);
    be->stream_free(t);
    unsetenv("TS_EMU_PROCESSORS");
}

/* Maps of 64x64 and 96x96 positions as the published autoencoder has them, 40 channels to a bundle of groups. Blocks
 * share them and keep everything; tools/cuda_report.py counts what is moved. */
T_TEST(large_maps)
{
    static const shape MAPS[] = { { 1, 64 * 64, 40, 8, 1, 0 }, { 1, 96 * 96, 40, 8, 1, 0 } };
    for (int i = 0; i < 2; i++) check_values_on(be, s, "18", &MAPS[i]);
}

/* Maps of which shared memory keeps too little: registers keep some of it, forward of the first, backward of both. */
T_TEST(maps_beyond_shared_memory)
{
    static const shape MAPS[] = { { 1, 64 * 64, 40, 8, 1, 0 }, { 1, 48 * 64, 40, 8, 1, 0 } };
    static const char *const PROCESSORS[] = { "2", "3" };
    for (int i = 0; i < 2; i++) check_values_on(be, s, PROCESSORS[i], &MAPS[i]);
}

static double loss(const numbers *o, const shape *p)
{
    double sum = 0;
    oracle_fwd(o, p);
    for (int64_t i = 0; i < p->B * p->P * p->C; i++) sum += o->dy[i] * o->y[i];
    return sum;
}

static void check_slopes(double *at, const double *slope, int64_t n, const numbers *o, const shape *p)
{
    for (int64_t i = 0; i < n; i++) {
        const double h = 1e-5, was = at[i];
        at[i] = was + h;
        double rise = loss(o, p);
        at[i] = was - h;
        rise -= loss(o, p);
        at[i] = was;
        T_NEAR(slope[i], rise / (2 * h), 1e-7); /* h^2 times a third derivative of a few units, and 1e-16/h */
    }
}

T_TEST(oracle_gradient_is_the_slope)
{
    (void)be, (void)s;
    const shape p = { 2, 3, 6, 2, 1, 0 };
    const problem q = make(&p);
    const numbers *o = &q.o;
    for (int64_t c = 0; c < p.C; c++) o->dgamma[c] = o->dbeta[c] = 0;
    oracle_fwd(o, &p);
    oracle_bwd(o, &p);
    check_slopes(o->x, o->dx, q.n, o, &p);
    check_slopes(o->gamma, o->dgamma, p.C, o, &p);
    check_slopes(o->beta, o->dbeta, p.C, o, &p);
}

T_TEST(a_constant_group_is_zero)
{
    static const float LEVEL[] = { 0.1f, 1000.3f, -3e7f, 1e-30f };
    const shape p = { 4, 300, 6, 2, 0, 0 };
    problem q = make(&p);
    for (int64_t i = 0; i < q.n; i++) q.x[i] = LEVEL[i / (p.P * p.C)];
    const results r = run(be, s, s, &p, &q);
    for (int64_t i = 0; i < q.n; i++) T_TRUE(T_F(r.y)[i] == q.beta[i % p.C]);
    for (int64_t g = 0; g < p.B * p.G; g++) {
        T_TRUE(T_F(r.mean)[g] == LEVEL[g / p.G]);
        T_NEAR(T_F(r.rstd)[g], 1 / sqrt(EPS), 1e-3); /* 2 ulp of 1000 */
    }
}

static int same(const t_buf *a, const t_buf *b)
{
    return memcmp(a->host, b->host, a->bytes) == 0;
}

T_TEST(threads_do_not_matter)
{
    for (int i = 0; i < N_SHAPES; i++) {
        const problem q = make(&SHAPES[i]);
        ts_stream *one, *three;
        T_OK(be->stream_new(&one, 0, 1));
        T_OK(be->stream_new(&three, 0, 3));
        const results a = run(be, s, one, &SHAPES[i], &q), b = run(be, s, three, &SHAPES[i], &q);
        T_TRUE(same(a.y, b.y) && same(a.mean, b.mean) && same(a.rstd, b.rstd) && same(a.dx, b.dx));
        T_TRUE(same(a.dgamma, b.dgamma) && same(a.dbeta, b.dbeta));
        be->stream_free(one);
        be->stream_free(three);
    }
}

/* How many blocks share a bundle of groups, in how many rounds, and what they keep: nearly nothing, a slice, all. */
T_TEST(little_shared_memory)
{
    static const char *const DEVICES[][2] = {
        { "12000", "1" }, { "12000", "5" }, { "60000", "7" }, { "120000", "11" }
    };
    if (strcmp(be->name, "emu") != 0) return;
    for (int i = 0; i < N_SHAPES; i++) {
        if (SHAPES[i].P <= 256) continue;
        const problem q = make(&SHAPES[i]);
        const results a = run(be, s, s, &SHAPES[i], &q);
        for (size_t d = 0; d < sizeof DEVICES / sizeof *DEVICES; d++) {
            ts_stream *other;
            setenv("TS_EMU_SHARED", DEVICES[d][0], 1);
            setenv("TS_EMU_PROCESSORS", DEVICES[d][1], 1);
            T_OK(be->stream_new(&other, 0, 0));
            const results b = run(be, s, other, &SHAPES[i], &q);
            T_TRUE(same(a.y, b.y) && same(a.mean, b.mean) && same(a.rstd, b.rstd) && same(a.dx, b.dx));
            T_TRUE(same(a.dgamma, b.dgamma) && same(a.dbeta, b.dbeta));
            be->stream_free(other);
            unsetenv("TS_EMU_SHARED");
            unsetenv("TS_EMU_PROCESSORS");
        }
    }
}

T_TEST(an_image_does_not_depend_on_the_others)
{
    static const int64_t P[] = { 31, 270 };
    for (int i = 0; i < 2; i++) {
        const shape p = { 3, P[i], 96, 32, 1, 0 }, alone = { 1, P[i], 96, 32, 1, 0 };
        const problem q = make(&p);
        const results all = run(be, s, s, &p, &q);
        for (int64_t b = 0; b < p.B; b++) {
            problem one = q;
            one.n = p.P * p.C;
            one.x += b * one.n;
            const results r = run(be, s, s, &alone, &one);
            T_TRUE(memcmp(r.y->host, T_F(all.y) + b * one.n, r.y->bytes) == 0);
        }
    }
}

T_TEST(not_a_number_stays_in_its_group)
{
    const shape p = { 2, 5, 8, 4, 1, 0 };
    problem q = make(&p);
    q.x[(1 * p.P + 2) * p.C + 5] = NAN; /* image 1, group 2 */
    const results r = run(be, s, s, &p, &q);
    for (int64_t i = 0; i < q.n; i++) {
        const int hit = i >= p.P * p.C && i % p.C / 2 == 2;
        T_TRUE(isnan(T_F(r.y)[i]) == hit && isnan(T_F(r.dx)[i]) == hit);
    }
}

int main(void)
{
    Suite *u = t_suite("op_group_norm");
    T_ADD1(u, oracle_gradient_is_the_slope);
    T_ADD(u, values_and_gradients);
    T_ADD(u, large_maps);
    T_ADD(u, maps_beyond_shared_memory);
    T_ADD(u, a_constant_group_is_zero);
    T_ADD(u, threads_do_not_matter);
    T_ADD(u, little_shared_memory);
    T_ADD(u, an_image_does_not_depend_on_the_others);
    T_ADD(u, not_a_number_stays_in_its_group);
    return t_run(u);
}
