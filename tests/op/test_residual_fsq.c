/* test_residual_fsq.c - multi-scale residual FSQ against an oracle in double.
 *
 * Forward    the oracle walks the scales with the indices that the op gave (one other index would change all that
 *            follows) and asks at each whether they are those of the formula: exactly, except within TIE of a tie.
 * Backward   the oracle is the straight-through surrogate: around the point of the forward pass q is replaced by
 *                q0 + [|x| <= 1](z - z0) + (|x| <= 1 ? c - x : sign x)(s - s0),
 *            in the auxiliary loss without the middle term and with f~ held fixed. That function is smooth, and what
 * the op returns must be its central differences, coordinate by coordinate. */
#include "tests/op/pyramid_oracle.h"

/* Of a level: float32 noise of z/s*half is below 1e-5 here, inputs are put 5e-5 beside ties. */
#define TIE 2e-5

typedef struct {
    int K, K_use, share, D, pre_tanh, B;
    int32_t side[TS_MAX_SCALES], level[TS_MAX_D];
    double spread; /* of f */
} rf_case;

static const rf_case CASES[] = {
    { 4, 4, 0, 5, 0, 2, { 1, 2, 4, 8 }, { 7, 5, 5, 5, 5 }, 0.7 },
    { 4, 4, 4, 8, 1, 2, { 1, 2, 4, 8 }, { 5, 5, 5, 5, 5, 5, 5, 5 }, 1.0 },
    { 6, 6, 4, 5, 0, 1, { 1, 2, 3, 4, 6, 8 }, { 7, 5, 5, 5, 5 }, 2.0 },
    { 6, 4, 1, 3, 0, 3, { 1, 2, 3, 4, 6, 8 }, { 3, 31, 3 }, 0.7 },
    { 2, 2, -1, 1, 1, 3, { 1, 5 }, { 9 }, 1.0 },
    { 2, 1, 1, 2, 0, 1, { 1, 5 }, { 5, 3 }, 0.7 },
    { 1, 1, -1, 5, 0, 2, { 4 }, { 7, 5, 5, 5, 5 }, 1.0 },
    { 1, 1, 1, 1, 0, 1, { 1 }, { 3 }, 1.0 },
    { 2, 2, 1, 2, 0, 131, { 1, 2 }, { 5, 7 }, 1.0 }, /* more images than chunks of backward */
    { 3, 3, 2, 16, 0, 1, { 1, 3, 4 }, { 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3 }, 0.7 },
};

/* One case on one backend: inputs, and what forward gave. */
typedef struct {
    const rf_case *c;
    ts_residual_fsq q;
    int n, D, B, grid, T;
    o_phis phi;
    o_axis area[TS_MAX_SCALES], bicubic[TS_MAX_SCALES];
    float *h_f, *h_gain;
    t_buf *f, *gain, *f_hat, *idx, *x, *partial, *stats;
} setup;

static setup *set_up(const ts_backend *be, ts_stream *s, const rf_case *c)
{
    setup *m = t_alloc(sizeof *m);
    ts_pyramid p;
    T_OK(ts_pyramid_init(&p, c->side, c->K, c->share, 0.4f));
    m->c = c, m->n = p.h, m->D = c->D, m->B = c->B, m->grid = p.h * p.h * c->D, m->T = p.T;
    T_OK(ts_residual_fsq_init(&m->q, &p, c->level, c->D, c->pre_tanh));
    m->q.K_use = c->K_use;
    m->phi = o_phis_new(be, s, p.S, c->D, 0.02, 7);
    for (int k = 0; k < c->K; k++) {
        m->area[k] = o_area(m->n, p.py[k]);
        m->bicubic[k] = o_bicubic(p.py[k], m->n);
    }
    m->h_f = t_normals(m->B * m->grid, c->spread, 1);
    m->h_gain = t_normals(c->K * c->D, 0.1, 2);
    for (int i = 0; i < c->K * c->D; i++) m->h_gain[i] -= (float)(log(4) * (i / c->D) / (c->K > 1 ? c->K - 1 : 1));
    return m;
}

static void forward(const ts_backend *be, ts_stream *s, setup *m)
{
    const int64_t all = m->B * m->grid, K = m->c->K;
    m->f = T_INF(m->h_f, all), m->gain = T_INF(m->h_gain, K * m->D);
    m->f_hat = T_OUTF(all), m->partial = T_OUTF(K * all), m->stats = T_OUTF(2 * K);
    m->idx = t_out(be, s, m->B * m->T, 4), m->x = T_OUTF(m->B * m->T * m->D);
    void *scratch = T_SCRATCH(be->residual_fsq_scratch(s, &m->q, m->B, 0));
    T_OK(be->residual_fsq_fwd(s, m->f_hat->dev, m->idx->dev, m->x->dev, m->partial->dev, m->stats->dev, m->f->dev,
                              m->gain->dev, &m->phi.dev, &m->q, m->B, scratch));
    T_OK(be->stream_sync(s));
    t_down(m->f_hat), t_down(m->idx), t_down(m->x), t_down(m->partial), t_down(m->stats);
}

static double *doubles(int64_t n)
{
    return t_alloc(sizeof(double) * (size_t)(n + 1));
}

/* h_k of one image from its codes. */
static void lift(double *h, const double *code, const setup *m, int k, double *const *w, double *const *b)
{
    static double u[O_MAX * O_MAX * TS_MAX_D];
    const int j = m->q.p.phi[k];
    o_apply(u, code, &m->bicubic[k], m->D);
    if (m->q.p.S > 0)
        o_phi(h, u, w[j], b[j], m->q.p.ratio, m->n, m->D);
    else
        memcpy(h, u, sizeof(double) * (size_t)m->grid);
}

/* Checks idx, x, partial and f_hat of all images; *excused counts tokens near a tie that went the other way. */
static void check_forward(const setup *m, int *excused)
{
    const int D = m->D, grid = m->grid, K = m->c->K;
    double *f_hat = doubles((int64_t)K * m->B * grid), *x = doubles(m->B * m->T * D);
    double *rest = doubles(grid), *z = doubles(grid), *code = doubles(grid), *h = doubles(grid),
           *stats = doubles(2 * K);
    for (int b = 0; b < m->B; b++) {
        for (int i = 0; i < grid; i++) rest[i] = m->h_f[b * grid + i];
        for (int i = 0; i < grid && m->c->pre_tanh; i++) rest[i] = tanh(rest[i]);
        for (int k = 0; k < K; k++) {
            double *sum = f_hat + ((int64_t)k * m->B + b) * grid;
            const int first = m->q.p.start[k], tokens = m->q.p.py[k] * m->q.p.px[k];
            for (int i = 0; i < grid; i++) sum[i] = k > 0 ? sum[i - m->B * grid] : 0;
            o_apply(z, rest, &m->area[k], D);
            for (int t = 0; t < tokens; t++) {
                int index = T_I(m->idx)[b * m->T + first + t];
                for (int d = 0; d < D; d++) {
                    const int L = m->c->level[d], digit = index % L;
                    const double half = (L - 1) / 2.0, step = exp(m->h_gain[k * D + d]), v = z[t * D + d] / step;
                    const double level = fmin(fmax(v, -1), 1) * half;
                    const int want = k < m->q.K_use ? (int)(rint(level) + half) : (int)half;
                    if (digit != want && k < m->q.K_use && fabs(level - floor(level) - 0.5) < TIE)
                        ++*excused;
                    else if (digit != want)
                        ck_abort_msg("scale %d, token %d, channel %d: digit %d, expected %d (%.7f)", k, t, d, digit,
                                     want, level + half);
                    index /= L;
                    code[t * D + d] = step * ((digit - half) / half);
                    x[(b * m->T + first + t) * D + d] = k < m->q.K_use ? v : 0;
                    if (k < m->q.K_use) stats[2 * k + 1] += fabs(v) > 1;
                }
                T_EQI(index, 0);
            }
            if (k >= m->q.K_use) continue;
            lift(h, code, m, k, m->phi.w, m->phi.b);
            for (int i = 0; i < grid; i++) sum[i] += h[i], rest[i] -= h[i], stats[2 * k] += rest[i] * rest[i];
        }
    }
    /* float32 sums of up to 9*16 products, over at most 6 scales */
    t_close("x", T_F(m->x), x, m->B * m->T * D, 1e-5);
    t_close("partial", T_F(m->partial), f_hat, (int64_t)K * m->B * grid, 1e-5);
    t_close("f_hat", T_F(m->f_hat), f_hat + (int64_t)(K - 1) * m->B * grid, m->B * grid, 1e-5);
    for (int k = 0; k < K; k++) {
        T_NEAR(T_F(m->stats)[2 * k], stats[2 * k], 1e-5 * stats[2 * k]);
        T_NEAR(T_F(m->stats)[2 * k + 1], stats[2 * k + 1], 0);
    }
}

T_TEST(forward_random)
{
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        int excused = 0;
        setup *m = set_up(be, s, &CASES[i]);
        forward(be, s, m);
        check_forward(m, &excused);
        ck_assert_int_le(excused, 1); /* 2e-5 of all random tokens, which are a few hundred */
    }
}

/* Every value of one scale 5e-5 of a level beside a tie, at the ends too. first: the coarsest scale, on constant
 * images; otherwise the last one, with coarser steps so large that everything before codes zero. */
static void probe_ties(const ts_backend *be, ts_stream *s, int first)
{
    static const rf_case c = { 3, 3, 0, 5, 0, 64, { 1, 2, 4 }, { 7, 5, 31, 3, 9 }, 1 };
    setup *m = set_up(be, s, &c);
    uint64_t seed = 5;
    const int D = m->D, target = first ? 0 : 2;
    for (int k = 0; k < target; k++)
        for (int d = 0; d < D; d++) m->h_gain[k * D + d] = 20;
    for (int j = 0; j < m->q.p.S; j++) {
        memset(m->phi.db[j]->host, 0, m->phi.db[j]->bytes);
        memset(m->phi.b[j], 0, sizeof(double) * (size_t)D);
        t_up(m->phi.db[j]);
    }
    for (int i = 0; i < m->B * m->grid; i++) {
        const int d = i % D, half = (c.level[d] - 1) / 2;
        const double tie = floor(t_uniform(&seed) * 2 * half) - half + 0.5;
        const double level = tie + (t_uniform(&seed) < 0.5 ? 5e-5 : -5e-5);
        m->h_f[i] = first && i % m->grid >= D ? m->h_f[i - D] : (float)(level / half * exp(m->h_gain[target * D + d]));
    }
    int excused = 0;
    forward(be, s, m);
    check_forward(m, &excused);
    T_EQI(excused, 0);
}

T_TEST(forward_beside_ties)
{
    probe_ties(be, s, 1);
    probe_ties(be, s, 0);
}

/* Exact ties go to even, and infinities and |x| = 1 to the ends: one scale, one channel, L = 9, step 1. */
T_TEST(forward_exact)
{
    static const float f[] = { 0.125f, -0.125f, 0.375f, -0.375f, 1,      -1,      INFINITY, -INFINITY,
                               0,      -0.f,    0.625f, 1e30f,   0.875f, -0.875f, 1e-40f,   -3 };
    static const int32_t want[] = { 4, 4, 6, 2, 8, 0, 8, 0, 4, 4, 6, 8, 8, 0, 4, 0 };
    static const rf_case c = { 1, 1, -1, 1, 0, 1, { 4 }, { 9 }, 1 };
    setup *m = set_up(be, s, &c);
    memcpy(m->h_f, f, sizeof f);
    m->h_gain[0] = 0;
    forward(be, s, m);
    for (int i = 0; i < 16; i++) ck_assert_msg(T_I(m->idx)[i] == want[i], "%g: %d", f[i], T_I(m->idx)[i]);
    T_TRUE(T_F(m->stats)[1] == 4); /* beyond 1, not at 1 */
}

/* What the surrogate depends on. */
typedef struct {
    double *f, *gain, *w[TS_MAX_SCALES], *b[TS_MAX_SCALES];
} variables;

typedef struct {
    double *z0, *c, *x; /* (B,T,D): of the forward pass */
    double *f0;         /* f~ of the forward pass       */
    double *df_hat, aux_weight;
} base_point;

/* z of the base point, walked in double with the op's indices. */
static base_point base_of(const setup *m, const float *df_hat, double aux_weight)
{
    const int D = m->D, grid = m->grid;
    base_point p = { doubles(m->B * m->T * D), doubles(m->B * m->T * D), doubles(m->B * m->T * D),
                     doubles(m->B * grid),     doubles(m->B * grid),     aux_weight };
    double *rest = doubles(grid), *code = doubles(grid), *h = doubles(grid);
    for (int i = 0; i < m->B * grid; i++) {
        p.f0[i] = m->c->pre_tanh ? tanh(m->h_f[i]) : m->h_f[i];
        p.df_hat[i] = df_hat[i];
    }
    for (int b = 0; b < m->B; b++) {
        memcpy(rest, p.f0 + b * grid, sizeof(double) * (size_t)grid);
        for (int k = 0; k < m->q.K_use; k++) {
            const int at = b * m->T + m->q.p.start[k], tokens = m->q.p.py[k] * m->q.p.px[k];
            o_apply(p.z0 + at * D, rest, &m->area[k], D);
            for (int t = 0; t < tokens; t++) {
                int index = T_I(m->idx)[at + t];
                for (int d = 0; d < D; d++, index /= m->c->level[d - 1]) {
                    const double half = (m->c->level[d] - 1) / 2.0, step = exp(m->h_gain[k * D + d]);
                    const int i = (at + t) * D + d;
                    p.c[i] = (index % m->c->level[d] - half) / half;
                    p.x[i] = p.z0[i] / step;
                    code[t * D + d] = step * p.c[i];
                }
            }
            lift(h, code, m, k, m->phi.w, m->phi.b);
            for (int i = 0; i < grid; i++) rest[i] -= h[i];
        }
    }
    return p;
}

static double surrogate(const setup *m, const base_point *p, const variables *v)
{
    static double rest[O_MAX * O_MAX * TS_MAX_D], z[O_MAX * O_MAX * TS_MAX_D], code[O_MAX * O_MAX * TS_MAX_D];
    static double fixed[O_MAX * O_MAX * TS_MAX_D], h[O_MAX * O_MAX * TS_MAX_D], sum[O_MAX * O_MAX * TS_MAX_D];
    const int D = m->D, grid = m->grid;
    double loss = 0, aux = 0;
    for (int b = 0; b < m->B; b++) {
        for (int i = 0; i < grid; i++) {
            rest[i] = m->c->pre_tanh ? tanh(v->f[b * grid + i]) : v->f[b * grid + i];
            sum[i] = 0;
        }
        for (int k = 0; k < m->q.K_use; k++) {
            const int at = (b * m->T + m->q.p.start[k]) * D, n = m->q.p.py[k] * m->q.p.px[k] * D;
            o_apply(z, rest, &m->area[k], D);
            for (int i = 0; i < n; i++) {
                const double s0 = exp(m->h_gain[k * D + i % D]), s1 = exp(v->gain[k * D + i % D]), x = p->x[at + i];
                const int inside = fabs(x) <= 1;
                fixed[i] = s0 * p->c[at + i] + (inside ? p->c[at + i] - x : x > 0 ? 1 : -1) * (s1 - s0);
                code[i] = fixed[i] + inside * (z[i] - p->z0[at + i]);
            }
            lift(h, code, m, k, v->w, v->b);
            for (int i = 0; i < grid; i++) {
                rest[i] -= h[i];
                loss += p->df_hat[b * grid + i] * h[i];
            }
            lift(h, fixed, m, k, v->w, v->b);
            for (int i = 0; i < grid; i++) {
                sum[i] += h[i];
                aux += (sum[i] - p->f0[b * grid + i]) * (sum[i] - p->f0[b * grid + i]);
            }
        }
    }
    return loss + p->aux_weight * aux / (m->q.K_use * (double)m->B * grid);
}

/* grad[i] for every stride-th coordinate of x (n) must be the central difference. The surrogate is smooth with second
 * derivatives of order 1: a step of 1e-4 is good to 1e-8, the op to float32 sums of a few hundred terms. */
static void check_differences(const char *what, const float *grad, double *x, int n, int stride, const setup *m,
                              const base_point *p, const variables *v)
{
    const double e = 1e-4;
    double *want = doubles(n);
    float *got = t_alloc(sizeof(float) * (size_t)n);
    int checked = 0;
    for (int i = 0; i < n; i += stride, checked++) {
        const double x0 = x[i];
        x[i] = x0 + e;
        const double up = surrogate(m, p, v);
        x[i] = x0 - e;
        want[checked] = (up - surrogate(m, p, v)) / (2 * e);
        x[i] = x0;
        got[checked] = grad[i];
    }
    t_close(what, got, want, checked, 1e-5);
}

/* What an op added to a buffer that began as before: the rounding of the sum is below 1e-6 of the gradients here. */
static float *added(t_buf *b, const float *before, int n)
{
    float *x = t_alloc(sizeof(float) * (size_t)n);
    t_down(b);
    for (int i = 0; i < n; i++) x[i] = T_F(b)[i] - before[i];
    return x;
}

static void run_backward(const ts_backend *be, ts_stream *s, const rf_case *c, float aux_weight)
{
    setup *m = set_up(be, s, c);
    forward(be, s, m);
    const int D = m->D, S = m->q.p.S, all = m->B * m->grid, n_gain = c->K * D;
    float *h_df_hat = t_normals(all, 1, 9);
    t_buf *df_hat = T_INF(h_df_hat, all), *df = T_OUTF(all), *dgain = T_INF(t_normals(n_gain, 0.01, 10), n_gain);
    t_buf *dw[TS_MAX_SCALES], *db[TS_MAX_SCALES];
    ts_phi dphi = { .w = { NULL } };
    for (int j = 0; j < S; j++) {
        dw[j] = T_INF(t_normals(9 * D * D, 0.01, 11), 9 * D * D);
        db[j] = T_INF(t_normals(D, 0.01, 12), D);
        dphi.w[j] = dw[j]->dev, dphi.b[j] = db[j]->dev;
    }
    void *scratch = T_SCRATCH(be->residual_fsq_scratch(s, &m->q, m->B, 1));
    T_OK(be->residual_fsq_bwd(s, df->dev, dgain->dev, &dphi, df_hat->dev, aux_weight, m->f->dev, m->x->dev, m->idx->dev,
                              m->gain->dev, &m->phi.dev, &m->q, m->B, scratch));
    t_down(df);

    const base_point p = base_of(m, h_df_hat, aux_weight);
    variables v = { .f = doubles(all), .gain = doubles(n_gain) };
    for (int i = 0; i < all; i++) v.f[i] = m->h_f[i];
    for (int i = 0; i < n_gain; i++) v.gain[i] = m->h_gain[i];
    memcpy(v.w, m->phi.w, sizeof v.w);
    memcpy(v.b, m->phi.b, sizeof v.b);
    check_differences("df", T_F(df), v.f, all, all / 40 + 1, m, &p, &v);
    check_differences("dlog_gain", added(dgain, t_normals(n_gain, 0.01, 10), n_gain), v.gain, n_gain, 1, m, &p, &v);
    for (int j = 0; j < S; j++) {
        const int n = 9 * D * D;
        check_differences("dphi.w", added(dw[j], t_normals(n, 0.01, 11), n), v.w[j], n, n / 25 + 1, m, &p, &v);
        check_differences("dphi.b", added(db[j], t_normals(D, 0.01, 12), D), v.b[j], D, 1, m, &p, &v);
    }
}

T_TEST(backward)
{
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) run_backward(be, s, &CASES[i], 0);
}

T_TEST(backward_with_aux)
{
    /* aux is a mean: with these factors it is about as large as the other part, and far larger */
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) run_backward(be, s, &CASES[i], i % 2 ? 1e4f : 200);
}

/* A block of an emulated device with little shared memory keeps its grids in scratch. */
T_TEST(little_shared_memory)
{
    (void)s;
    if (strcmp(be->name, "emu") != 0) return;
    ts_stream *small;
    setenv("TS_EMU_SHARED", "2100", 1);
    T_OK(be->stream_new(&small, 0, 0));
    forward_random(be, small);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i += 2) run_backward(be, small, &CASES[i], 200);
    be->stream_free(small);
}

/* A value at the end of the levels still has a gradient, one just beyond has none: one scale, one channel, step 1. */
T_TEST(backward_exact)
{
    static const rf_case c = { 1, 1, -1, 1, 0, 1, { 3 }, { 9 }, 1 };
    const float f[] = { 1, -1, nextafterf(1, 2), nextafterf(-1, -2), nextafterf(1, 0), 0.25f, 0, 7, -7 };
    static const float want[] = { 1, 2, 0, 0, 5, 6, 7, 0, 0 };
    const float start = 0.5f;
    float df_hat[9];
    for (int i = 0; i < 9; i++) df_hat[i] = (float)(i + 1);
    setup *m = set_up(be, s, &c);
    memcpy(m->h_f, f, sizeof f);
    m->h_gain[0] = 0;
    forward(be, s, m);
    t_buf *df = T_OUTF(9), *dgain = T_INF(&start, 1), *grad = T_INF(df_hat, 9);
    const ts_phi none = { .w = { NULL } };
    void *scratch = T_SCRATCH(be->residual_fsq_scratch(s, &m->q, 1, 1));
    T_OK(be->residual_fsq_bwd(s, df->dev, dgain->dev, &none, grad->dev, 0, m->f->dev, m->x->dev, m->idx->dev,
                              m->gain->dev, &m->phi.dev, &m->q, 1, scratch));
    t_down(df), t_down(dgain);
    for (int i = 0; i < 9; i++) T_TRUE(T_F(df)[i] == want[i]);
    T_NEAR(T_F(dgain)[0], 0.5 + 3 - 4 + 8 - 9, 1e-6); /* c = x inside but for one rounding */
}

/* Decoding the tokens scale by scale gives every partial sum of forward, bit for bit. */
T_TEST(decoding_equals_encoding)
{
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        setup *m = set_up(be, s, &CASES[i]);
        const ts_pyramid *p = &m->q.p;
        forward(be, s, m);
        const int all = m->B * m->grid;
        t_buf *f_hat = T_INF(t_alloc(sizeof(float) * (size_t)all), all);
        void *scratch = T_SCRATCH(be->pyramid_scratch(s, p, m->D, m->B));
        for (int k = 0; k < m->q.K_use; k++) {
            const int t = p->py[k] * p->px[k];
            int32_t *tokens = t_alloc(sizeof(int32_t) * (size_t)(m->B * t));
            for (int b = 0; b < m->B; b++) memcpy(tokens + b * t, T_I(m->idx) + b * m->T + p->start[k], 4 * (size_t)t);
            t_buf *idx = t_in(be, s, tokens, m->B * t, 4), *code = T_OUTF(m->B * t * m->D);
            T_OK(be->residual_fsq_lookup(s, code->dev, idx->dev, m->gain->dev, &m->q, k, m->B));
            T_OK(be->pyramid_add(s, f_hat->dev, NULL, code->dev, &m->phi.dev, p, m->D, k, m->B, scratch));
            t_down(code), t_down(f_hat);
            T_TRUE(memcmp(f_hat->host, T_F(m->partial) + (int64_t)k * all, f_hat->bytes) == 0);
        }
        T_TRUE(memcmp(f_hat->host, m->f_hat->host, f_hat->bytes) == 0);
    }
}

/* Every index of a codebook, looked up and encoded again, is itself, and its code is reproduced bit for bit. */
T_TEST(every_index_returns)
{
    static const rf_case c = { 1, 1, -1, 3, 0, 1, { 21 }, { 7, 9, 7 }, 1 };
    setup *m = set_up(be, s, &c);
    int32_t *all = t_alloc(441 * sizeof *all);
    T_EQI(m->q.V, 441);
    for (int v = 0; v < 441; v++) all[v] = v;
    forward(be, s, m);
    t_buf *idx = t_in(be, s, all, 441, 4), *code = T_OUTF(441 * 3);
    T_OK(be->residual_fsq_lookup(s, code->dev, idx->dev, m->gain->dev, &m->q, 0, 1));
    t_down(code);
    memcpy(m->h_f, code->host, code->bytes);
    forward(be, s, m);
    T_TRUE(memcmp(m->idx->host, all, m->idx->bytes) == 0);
    T_TRUE(memcmp(m->f_hat->host, code->host, code->bytes) == 0);
    for (int v = 0; v < 441; v++) {
        T_EQI((int)lrint(T_F(code)[3 * v] / exp(m->h_gain[0]) * 3) + 3, v % 7);
        T_EQI((int)lrint(T_F(code)[3 * v + 1] / exp(m->h_gain[1]) * 4) + 4, v / 7 % 9);
        T_EQI((int)lrint(T_F(code)[3 * v + 2] / exp(m->h_gain[2]) * 3) + 3, v / 63);
    }
}

/* NaN must neither leave the codebook (it is digit 0) nor go unseen. */
T_TEST(nan_is_seen)
{
    static const rf_case c = { 2, 2, 1, 2, 0, 1, { 1, 2 }, { 5, 5 }, 1 };
    setup *m = set_up(be, s, &c);
    m->h_f[3] = NAN;
    forward(be, s, m);
    for (int t = 0; t < m->T; t++) T_TRUE(T_I(m->idx)[t] >= 0 && T_I(m->idx)[t] < m->q.V);
    T_TRUE(T_I(m->idx)[0] / 5 == 0 && T_I(m->idx)[1 + 1] / 5 == 0);
    T_TRUE(isnan(T_F(m->stats)[0]) && isnan(T_F(m->stats)[2]));
}

T_TEST(empty_batch_and_optional_outputs)
{
    static const rf_case c = { 2, 2, 1, 2, 0, 3, { 1, 2 }, { 5, 5 }, 1 };
    setup *m = set_up(be, s, &c);
    forward(be, s, m);
    void *scratch = T_SCRATCH(be->residual_fsq_scratch(s, &m->q, 3, 0));
    t_buf *f_hat = T_OUTF(3 * m->grid), *idx = t_out(be, s, 3 * m->T, 4), *dgain = T_INF(m->h_gain, 4);
    T_OK(be->residual_fsq_fwd(s, f_hat->dev, idx->dev, NULL, NULL, NULL, m->f->dev, m->gain->dev, &m->phi.dev, &m->q, 3,
                              scratch));
    t_down(f_hat), t_down(idx);
    T_TRUE(memcmp(f_hat->host, m->f_hat->host, f_hat->bytes) == 0);
    T_TRUE(memcmp(idx->host, m->idx->host, idx->bytes) == 0);
    T_OK(be->residual_fsq_fwd(s, f_hat->dev, idx->dev, NULL, NULL, m->stats->dev, m->f->dev, m->gain->dev, &m->phi.dev,
                              &m->q, 0, scratch));
    t_down(m->stats);
    T_TRUE(T_F(m->stats)[0] == 0 && T_F(m->stats)[3] == 0);
    void *scratch_b = T_SCRATCH(be->residual_fsq_scratch(s, &m->q, 0, 1));
    T_OK(be->residual_fsq_bwd(s, NULL, dgain->dev, &m->phi.dev, NULL, 1, NULL, NULL, NULL, m->gain->dev, &m->phi.dev,
                              &m->q, 0, scratch_b));
    t_down(dgain);
    T_TRUE(memcmp(dgain->host, m->h_gain, dgain->bytes) == 0);
}

T_TEST(threads)
{
    static const rf_case c = { 3, 3, 2, 5, 0, 19, { 1, 2, 5 }, { 7, 5, 5, 5, 5 }, 1 };
    ts_stream *one;
    T_OK(be->stream_new(&one, 0, 1));
    t_buf *out[2][8] = { { NULL } };
    for (int i = 0; i < 2; i++) {
        ts_stream *with = i ? one : s;
        setup *m = set_up(be, s, &c);
        forward(be, with, m);
        const int all = m->B * m->grid, n = 9 * 25;
        t_buf *df_hat = T_INF(t_normals(all, 1, 9), all), *df = T_OUTF(all), *dgain = T_INF(t_normals(15, 1, 1), 15);
        t_buf *dw[2] = { T_INF(t_normals(n, 1, 1), n), T_INF(t_normals(n, 1, 1), n) };
        ts_phi dphi = { { dw[0]->dev, dw[1]->dev }, { m->phi.db[0]->dev, m->phi.db[1]->dev } };
        void *scratch = T_SCRATCH(be->residual_fsq_scratch(with, &m->q, m->B, 1));
        T_OK(be->residual_fsq_bwd(with, df->dev, dgain->dev, &dphi, df_hat->dev, 50, m->f->dev, m->x->dev, m->idx->dev,
                                  m->gain->dev, &m->phi.dev, &m->q, m->B, scratch));
        T_OK(be->stream_sync(with));
        t_down(df), t_down(dgain), t_down(dw[0]), t_down(dw[1]);
        t_buf *list[8] = { df, dgain, dw[0], dw[1], m->f_hat, m->idx, m->x, m->stats };
        memcpy(out[i], list, sizeof list);
    }
    for (int j = 0; j < 8; j++)
        ck_assert_msg(memcmp(out[0][j]->host, out[1][j]->host, out[0][j]->bytes) == 0, "output %d", j);
    be->stream_free(one);
}

T_TEST(refusals)
{
    ts_pyramid p;
    ts_residual_fsq q;
    T_OK(ts_pyramid_init(&p, (int32_t[]){ 1, 2 }, 2, -1, 0.5f));
    T_STATUS(TS_E_ARG, ts_residual_fsq_init(&q, &p, (int32_t[]){ 5, 4 }, 2, 0));
    T_STATUS(TS_E_ARG, ts_residual_fsq_init(&q, &p, (int32_t[]){ 1 }, 1, 0));
    T_STATUS(TS_E_ARG, ts_residual_fsq_init(&q, &p, (int32_t[]){ 5 }, 0, 0));
    T_STATUS(TS_E_ARG, ts_residual_fsq_init(&q, &p, (int32_t[]){ 65535, 65535 }, 2, 0));
    T_OK(ts_residual_fsq_init(&q, &p, (int32_t[]){ 5, 7 }, 2, 0));
    T_EQI(q.V, 35);
    T_EQI(q.K_use, 2);
    T_STATUS(TS_E_ARG, be->residual_fsq_lookup(s, NULL, NULL, NULL, &q, 2, 0));
    q.K_use = 3;
    T_STATUS(TS_E_ARG, be->residual_fsq_fwd(s, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, &q, 0, NULL));
}

int main(void)
{
    Suite *u = t_suite("residual_fsq");
    T_ADD(u, forward_random);
    T_ADD(u, forward_beside_ties);
    T_ADD(u, forward_exact);
    T_ADD(u, backward);
    T_ADD(u, backward_with_aux);
    T_ADD(u, little_shared_memory);
    T_ADD(u, backward_exact);
    T_ADD(u, decoding_equals_encoding);
    T_ADD(u, every_index_returns);
    T_ADD(u, nan_is_seen);
    T_ADD(u, empty_batch_and_optional_outputs);
    T_ADD(u, threads);
    T_ADD(u, refusals);
    return t_run(u);
}
