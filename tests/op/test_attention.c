/* test_attention.c - attention of every backend against the formula in double.
 *
 * Oracle     plain loops in double over the whole T x T matrix; its gradient is analytic and is itself checked against
 *            central differences.
 * bfloat16   the same with operands that a rounding of its own brought to bfloat16, where the backend does so; and the float32 of
 *            the backend itself.
 * Inputs     seeded normals at odd sizes; rows that see one key; scores that span hundreds; vectors below the smallest
 *            norm; NaN behind the mask.
 */
#include "tests/t.h"

typedef struct {
    int64_t B, T, H, c;
    double scale;
    int l2;
    int segment[16]; /* lengths, 0 ends the list; none: no mask */
} shape;

static const shape SHAPES[] = {
    { 2, 85, 4, 64, 1, 1, { 1, 4, 16, 64 } },       /* a training batch: heads in parallel          */
    { 1, 85, 3, 64, 1, 1, { 1, 4, 16, 64 } },       /* few heads: queries in parallel               */
    { 1, 1, 1, 1, 0.3, 0, { 0 } },                  /* smallest                                     */
    { 1, 31, 3, 5, 0.7, 0, { 0 } },                 /* nothing is a multiple of anything            */
    { 2, 257, 1, 33, 0.2, 0, { 0 } },               /* past every block by one                      */
    { 1, 97, 1, 130, 0.1, 0, { 31, 1, 1, 7, 57 } }, /* a wide head, segments that cut blocks        */
    { 3, 29, 5, 16, 1, 1, { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 15 } }, /* token by token     */
    { 1, 60, 2, 8, 6, 0, { 0 } },         /* scores span hundreds: most weights are zero  */
    { 1, 35, 2, 330, 0.1, 0, { 3, 32 } }, /* tiles of such heads fit into no shared memory */
    { 1, 33, 3, 330, 1, 1, { 0 } },
};
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };

static const double LOG100 = 4.605170185988092;

static int32_t *ends(const shape *p)
{
    if (p->segment[0] == 0) return NULL;
    int32_t *end = t_alloc(4 * (size_t)p->T), to = 0;
    int64_t t = 0;
    for (int i = 0; i < 16 && p->segment[i]; i++)
        for (to += p->segment[i]; t < to; t++) end[t] = to;
    ck_assert_int_eq(t, p->T);
    return end;
}

static double *widen(const float *x, int64_t n)
{
    double *y = t_alloc(sizeof(double) * (size_t)n);
    for (int64_t i = 0; i < n; i++) y[i] = x[i];
    return y;
}

static double *doubles(int64_t n)
{
    return t_alloc(sizeof(double) * (size_t)n);
}

/* One head of one image. qkv, dqkv point at its first q; s is the distance of two tokens in them. */
typedef struct {
    int64_t T, C, c;
    double scale, mul; /* mul: NAN without l2 norm */
    const int32_t *end;
    enum { EXACT, ROUNDED, ROUNDED_UNITS } operands; /* units: keys are normalised before */
    double *q, *k, *nq, *nk, *p; /* factors applied; norms; probabilities */
} head;

static double norm_of(const double *x, int64_t c)
{
    double sum = 0;
    for (int64_t i = 0; i < c; i++) sum += x[i] * x[i];
    return fmax(sqrt(sum), 1e-12);
}

static void oracle_head(head *o, double *out, double *lse, const double *qkv)
{
    const int64_t T = o->T, c = o->c, step = 3 * o->C;
    const int l2 = !isnan(o->mul);
    for (int64_t t = 0; t < T; t++) {
        const double *q = qkv + t * step, *k = q + o->C;
        o->nq[t] = l2 ? norm_of(q, c) : 1;
        o->nk[t] = l2 ? norm_of(k, c) : 1;
        for (int64_t i = 0; i < c; i++) {
            o->q[t * c + i] = (o->operands ? t_bf16(q[i]) : q[i]) / o->nq[t] * (l2 ? exp(fmin(o->mul, LOG100)) : 1);
            o->k[t * c + i] = (o->operands == ROUNDED ? t_bf16(k[i]) : k[i]) / o->nk[t];
            if (o->operands == ROUNDED_UNITS) o->k[t * c + i] = t_bf16(o->k[t * c + i]);
        }
    }
    for (int64_t t = 0; t < T; t++) {
        const int64_t n = o->end ? o->end[t] : T;
        double *p = o->p + t * T, top = -INFINITY, sum = 0;
        for (int64_t u = 0; u < T; u++) p[u] = 0;
        for (int64_t u = 0; u < n; u++) {
            for (int64_t i = 0; i < c; i++) p[u] += o->scale * o->q[t * c + i] * o->k[u * c + i];
            top = fmax(top, p[u]);
        }
        for (int64_t u = 0; u < n; u++) sum += p[u] = exp(p[u] - top);
        for (int64_t u = 0; u < n; u++) p[u] /= sum;
        lse[t] = top + log(sum);
        for (int64_t i = 0; i < c; i++) {
            out[t * o->C + i] = 0;
            for (int64_t u = 0; u < n; u++) {
                const double v = qkv[u * step + 2 * o->C + i];
                out[t * o->C + i] += p[u] * (o->operands ? t_bf16(v) : v);
            }
        }
    }
}

/* g is the gradient of x/norm: out of it that of x. */
static void oracle_norm(double *dx, const double *x, const double *g, double norm, int64_t c)
{
    double along = 0;
    for (int64_t i = 0; i < c; i++) along += x[i] * g[i] / norm / norm;
    for (int64_t i = 0; i < c; i++) dx[i] = (g[i] - (norm > 1e-12 ? along * x[i] : 0)) / norm;
}

/* T rows of c numbers that are `step` apart, rounded where they lie. */
static double *rounded(const double *x, int64_t T, int64_t c, int64_t step)
{
    double *y = doubles(T * step);
    for (int64_t i = 0; i < T * step; i++)
        if (i % step < c) y[i] = t_bf16(x[i]);
    return y;
}

/* After oracle_head. Returns the gradient of mul. */
static double oracle_head_bwd(head *o, double *dqkv, const double *dout, const double *qkv)
{
    const int64_t T = o->T, c = o->c, C = o->C, step = 3 * C;
    const int l2 = !isnan(o->mul);
    const double *g = o->operands ? rounded(dout, T, c, C) : dout;
    const double *v = o->operands ? rounded(qkv + 2 * C, T, c, step) : qkv + 2 * C;
    double *ds = doubles(T * T), *gq = doubles(T * c), *gk = doubles(T * c), dmul = 0;
    for (int64_t t = 0; t < T; t++) {
        double mean = 0;
        for (int64_t u = 0; u < T; u++) {
            for (int64_t i = 0; i < c; i++) ds[t * T + u] += g[t * C + i] * v[u * step + i];
            mean += o->p[t * T + u] * ds[t * T + u];
        }
        for (int64_t u = 0; u < T; u++) ds[t * T + u] = o->p[t * T + u] * (ds[t * T + u] - mean) * o->scale;
    }
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < c; i++) {
            double dv = 0;
            for (int64_t u = 0; u < T; u++) {
                gq[t * c + i] += ds[t * T + u] * o->k[u * c + i];
                gk[t * c + i] += ds[u * T + t] * o->q[u * c + i];
                dv += o->p[u * T + t] * g[u * C + i];
            }
            dqkv[t * step + 2 * C + i] = dv;
            dmul += gq[t * c + i] * o->q[t * c + i];
        }
    for (int64_t i = 0; l2 && i < T * c; i++) gq[i] *= exp(fmin(o->mul, LOG100));
    for (int64_t t = 0; t < T; t++)
        for (int is_k = 0; is_k < 2; is_k++) {
            const double *unit = (is_k ? gk : gq) + t * c;
            double *dx = dqkv + t * step + is_k * C;
            if (l2)
                oracle_norm(dx, qkv + t * step + is_k * C, unit, is_k ? o->nk[t] : o->nq[t], c);
            else
                memcpy(dx, unit, sizeof(double) * (size_t)c);
        }
    return l2 && o->mul <= (float)LOG100 ? dmul : 0;
}

/* dout NULL: forward only. dmul is added to. */
static void oracle_of(double *out, double *lse, double *dqkv, double *dmul, const double *dout, const double *qkv,
                      const double *mul, const int32_t *end, const shape *p, int operands)
{
    const int64_t T = p->T, c = p->c, C = p->H * c;
    head o = { T, C, c, p->scale, NAN, end, operands, NULL, NULL, doubles(T), doubles(T), doubles(T * T) };
    o.q = doubles(T * c), o.k = doubles(T * c);
    for (int64_t b = 0; b < p->B; b++)
        for (int64_t h = 0; h < p->H; h++) {
            const int64_t at = b * T * C + h * c, at3 = b * T * 3 * C + h * c;
            o.mul = p->l2 ? mul[h] : NAN;
            oracle_head(&o, out + at, lse + (b * p->H + h) * T, qkv + at3);
            if (dout == NULL) continue;
            const double d = oracle_head_bwd(&o, dqkv + at3, dout + at, qkv + at3);
            if (p->l2) dmul[h] += d;
        }
}

static void oracle(double *out, double *lse, double *dqkv, double *dmul, const double *dout, const double *qkv,
                   const double *mul, const int32_t *end, const shape *p)
{
    oracle_of(out, lse, dqkv, dmul, dout, qkv, mul, end, p, EXACT);
}

/* What one run of a backend needs and gives. */
typedef struct {
    shape p;
    ts_attention a;
    int64_t n; /* B T C */
    int32_t *end;
    float *qkv, *dout, *mul;
    t_buf *out, *lse, *dqkv, *dmul;
} problem;

static problem make(const shape *p, uint64_t seed)
{
    problem x = { .p = *p, .n = p->B * p->T * p->H * p->c, .end = ends(p) };
    x.a = (ts_attention){ .B = p->B, .T = p->T, .H = p->H, .c = p->c, .scale = (float)p->scale };
    x.p.scale = x.a.scale;
    x.qkv = t_normals(3 * x.n, 1, seed);
    x.dout = t_normals(x.n, 1, seed + 1);
    x.mul = t_normals(p->H, 0.3, seed + 2);
    for (int64_t h = 0; h < p->H; h++) x.mul[h] += 1.4f; /* about log 4, where training starts */
    return x;
}

/* Buffers belong to s; the ops run on a stream of their own with so many threads. */
static void run_with(const ts_backend *be, ts_stream *s, int threads, problem *x)
{
    const ts_attention *a = &x->a;
    const float *qkv = T_INF(x->qkv, 3 * x->n)->dev, *mul = x->p.l2 ? T_INF(x->mul, a->H)->dev : NULL;
    const int32_t *end = x->end ? T_INF(x->end, a->T)->dev : NULL;
    x->out = T_OUTF(x->n);
    x->lse = T_OUTF(a->B * a->H * a->T);
    x->dqkv = T_OUTF(3 * x->n);
    float half[64];
    for (int i = 0; i < 64; i++) half[i] = 0.5f;
    x->dmul = x->p.l2 ? T_INF(half, a->H) : NULL;
    const t_buf *dout = T_INF(x->dout, x->n);
    ts_stream *on;
    T_OK(be->stream_new(&on, 0, threads));
    void *scratch = T_SCRATCH(be->attention_scratch(on, a, 0)),
         *scratch_bwd = T_SCRATCH(be->attention_scratch(on, a, 1));
    T_OK(be->stream_sync(s));
    T_OK(be->attention_fwd(on, x->out->dev, x->lse->dev, qkv, mul, end, a, scratch));
    T_OK(be->attention_bwd(on, x->dqkv->dev, mul ? x->dmul->dev : NULL, dout->dev, x->out->dev, x->lse->dev, qkv, mul,
                           end, a, scratch_bwd));
    T_OK(be->stream_sync(on));
    be->stream_free(on);
    t_down(x->out);
    t_down(x->lse);
    t_down(x->dqkv);
    if (mul) t_down(x->dmul);
}

static void run(const ts_backend *be, ts_stream *s, problem *x)
{
    run_with(be, s, 0, x);
}

static void compare(const problem *x, double tol)
{
    const shape *p = &x->p;
    double *out = doubles(x->n), *lse = doubles(p->B * p->H * p->T), *dqkv = doubles(3 * x->n), *dmul = doubles(p->H);
    for (int64_t h = 0; h < p->H; h++) dmul[h] = 0.5; /* what run() put there */
    oracle(out, lse, dqkv, dmul, widen(x->dout, x->n), widen(x->qkv, 3 * x->n), widen(x->mul, p->H), x->end, p);
    t_close("out", T_F(x->out), out, x->n, tol);
    t_close("lse", T_F(x->lse), lse, p->B * p->H * p->T, tol);
    t_close("dqkv", T_F(x->dqkv), dqkv, 3 * x->n, tol);
    if (p->l2) t_close("dscale_mul", T_F(x->dmul), dmul, p->H, tol);
}

/* A score of size a is rounded by about a 2^-23, which is the relative error of its weight: 1e-6 of the largest output
 * for the ordinary sizes here, and a hundred times that where scores reach hundreds. */
static double tolerance(const shape *p)
{
    return p->scale > 1 ? 1e-4 : 4e-6;
}

T_TEST(formula)
{
    for (int i = 0; i < N_SHAPES; i++) {
        problem x = make(&SHAPES[i], 100 + (uint64_t)i);
        run(be, s, &x);
        compare(&x, tolerance(&SHAPES[i]));
    }
}

T_TEST(oracle_gradient)
{
    (void)be, (void)s;
    const shape p = { 1, 7, 2, 3, 0.8, 1, { 1, 2, 4 } };
    problem x = make(&p, 7);
    double *qkv = widen(x.qkv, 3 * x.n), *dout = widen(x.dout, x.n), *mul = widen(x.mul, p.H);
    double *out = doubles(x.n), *lse = doubles(p.H * p.T), *dqkv = doubles(3 * x.n), *dmul = doubles(p.H);
    oracle(out, lse, dqkv, dmul, dout, qkv, mul, x.end, &p);
    for (int64_t i = 0; i < 3 * x.n + p.H; i++) {
        double *at = i < 3 * x.n ? &qkv[i] : &mul[i - 3 * x.n], old = *at, f[2] = { 0, 0 };
        for (int side = 0; side < 2; side++) {
            *at = old + (side ? 1e-5 : -1e-5);
            oracle(out, lse, NULL, NULL, NULL, qkv, mul, x.end, &p);
            for (int64_t n = 0; n < x.n; n++) f[side] += dout[n] * out[n];
        }
        *at = old;
        /* the third derivative times 1e-10 */
        T_NEAR(i < 3 * x.n ? dqkv[i] : dmul[i - 3 * x.n], (f[1] - f[0]) / 2e-5, 1e-7);
    }
}

T_TEST(empty)
{
    for (int i = 0; i < 2; i++) {
        problem x = make(&(shape){ i, 1 - i, 2, 3, 1, 1, { 0 } }, 3);
        run(be, s, &x);
        T_EQI(x.n, 0);
        T_TRUE(T_F(x.dmul)[0] == 0.5f);
    }
}

/* Above log 100 the factor stays 100 and has no gradient; at log 100 it still has one. */
T_TEST(clamp)
{
    problem x = make(&(shape){ 2, 37, 3, 16, 1, 1, { 5, 32 } }, 11);
    x.mul[0] = 4.61f;
    x.mul[1] = 4.60517019f;
    x.mul[2] = 9;
    run(be, s, &x);
    compare(&x, 1e-4); /* scores of 100: see tolerance */
    T_TRUE(T_F(x.dmul)[0] == 0.5f);
    T_TRUE(T_F(x.dmul)[1] != 0.5f);
    T_TRUE(T_F(x.dmul)[2] == 0.5f);
}

/* Vectors shorter than 1e-12 are divided by 1e-12: compared row by row, for their gradients dwarf all others. */
T_TEST(smallest_norm)
{
    problem x = make(&(shape){ 1, 5, 1, 18, 1, 1, { 0 } }, 13);
    const int64_t C = 18;
    for (int64_t i = 0; i < C; i++) {
        x.qkv[3 * C + i] *= 1e-13f; /* q of token 1 */
        x.qkv[4 * C + i] *= 1e-14f; /* k of token 1 */
        x.qkv[6 * C + i] = 0;       /* q of token 2 */
        x.qkv[10 * C + i] = 0;      /* k of token 3 */
    }
    run(be, s, &x);
    double *out = doubles(x.n), *lse = doubles(5), *dqkv = doubles(3 * x.n), dmul = 0;
    oracle(out, lse, dqkv, &dmul, widen(x.dout, x.n), widen(x.qkv, 3 * x.n), widen(x.mul, 1), NULL, &x.p);
    t_close("out", T_F(x.out), out, x.n, 4e-6);
    for (int64_t row = 0; row < 15; row++) t_close("row of dqkv", T_F(x.dqkv) + row * C, dqkv + row * C, C, 1e-5);
}

/* A token that sees one key copies its value. What lies behind the mask does not matter at all. */
T_TEST(mask)
{
    problem x = make(&SHAPES[0], 17), y = make(&SHAPES[0], 17);
    const int64_t C = x.a.H * x.a.c, T = x.a.T;
    for (int64_t b = 0; b < x.a.B; b++)
        for (int64_t i = 21 * 3 * C; i < T * 3 * C; i++) y.qkv[b * T * 3 * C + i] = i % 2 ? NAN : INFINITY;
    run(be, s, &x);
    run(be, s, &y);
    for (int64_t b = 0; b < x.a.B; b++) {
        const float *one = T_F(x.out) + b * T * C, *two = T_F(y.out) + b * T * C;
        T_TRUE(memcmp(one, x.qkv + b * T * 3 * C + 2 * C, sizeof(float) * (size_t)C) == 0);
        T_TRUE(memcmp(one, two, sizeof(float) * (size_t)(21 * C)) == 0);
        T_TRUE(isnan(two[21 * C]) && isnan(two[T * C - 1]));
    }
}

static int same(const t_buf *a, const t_buf *b, size_t offset)
{
    return memcmp((char *)a->host + offset, b->host, b->bytes) == 0;
}

/* The last image of a batch and the image alone, and any thread count: the same bits. */
T_TEST(invariance)
{
    static const shape cases[] = { { 3, 85, 3, 20, 1, 1, { 1, 4, 16, 64 } }, { 9, 131, 1, 17, 0.3, 0, { 0 } } };
    for (int i = 0; i < 2; i++) {
        problem all = make(&cases[i], 19);
        run_with(be, s, 2, &all);
        for (int threads = 1; threads < 6; threads += 2) {
            problem again = make(&cases[i], 19), alone = all;
            run_with(be, s, threads, &again);
            T_TRUE(same(all.out, again.out, 0) && same(all.lse, again.lse, 0) && same(all.dqkv, again.dqkv, 0));
            T_TRUE(all.dmul == NULL || same(all.dmul, again.dmul, 0));

            const int64_t last = all.n / all.a.B * (all.a.B - 1);
            alone.a.B = alone.p.B = 1;
            alone.n = all.n - last;
            alone.qkv += 3 * last;
            alone.dout += last;
            run_with(be, s, threads, &alone);
            T_TRUE(same(all.out, alone.out, 4 * (size_t)last) && same(all.dqkv, alone.dqkv, 12 * (size_t)last));
        }
    }
}

/* CUDA rounds where tiles of a head fit into shared memory. */
static int rounds(const ts_backend *be, const shape *p)
{
    return strcmp(be->name, "cpu") != 0 && p->c < 256;
}

/* A weight is rounded by up to 2^-9 of itself, and outputs are sums of weights as small as themselves. */
static const double WEIGHTS = 0x1p-8;

/* Scale after scale through the cache, against the oracle of the masked form; the cache behind them stays poisoned. */
static void decode(const ts_backend *be, ts_stream *s, const shape *p, ts_math math)
{
    problem x = make(p, 23);
    const int operands = math == TS_MATH_BF16 && rounds(be, p) ? ROUNDED_UNITS : EXACT;
    const int64_t B = p->B, T = p->T, C = p->H * p->c, room = T + 3;
    double *out = doubles(x.n), *lse = doubles(B * p->H * T);
    oracle_of(out, lse, NULL, NULL, NULL, widen(x.qkv, 3 * x.n), widen(x.mul, p->H), x.end, &x.p, operands);

    t_buf *k = T_OUTF(B * room * C), *v = T_OUTF(B * room * C);
    const float *mul = p->l2 ? T_INF(x.mul, p->H)->dev : NULL;
    ts_attention a = x.a;
    a.T_max = room;
    a.math = math;
    for (int i = 0; i < 16 && p->segment[i]; i++, a.pos += a.T) {
        a.T = p->segment[i];
        float *part = t_alloc(sizeof(float) * (size_t)(B * a.T * 3 * C));
        for (int64_t b = 0; b < B; b++)
            memcpy(part + b * a.T * 3 * C, x.qkv + (b * T + a.pos) * 3 * C, sizeof(float) * (size_t)(a.T * 3 * C));
        t_buf *got = T_OUTF(B * a.T * C);
        T_OK(be->attention_cached(s, got->dev, k->dev, v->dev, T_INF(part, B * a.T * 3 * C)->dev, mul, &a,
                                  T_SCRATCH(be->attention_scratch(s, &a, 0))));
        t_down(got);
        for (int64_t b = 0; b < B; b++)
            t_close("cached", T_F(got) + b * a.T * C, out + (b * T + a.pos) * C, a.T * C,
                    operands ? WEIGHTS : tolerance(p));
    }
    T_EQI(a.pos, T);

    t_down(k);
    t_down(v);
    for (int64_t b = 0; b < B; b++) {
        T_TRUE(isnan(T_F(k)[(b * room + T) * C]) && isnan(T_F(v)[(b * room + T) * C]));
        for (int64_t t = 0; t < T; t++)
            T_TRUE(memcmp(T_F(v) + (b * room + t) * C, x.qkv + ((b * T + t) * 3 + 2) * C, sizeof(float) * (size_t)C) ==
                   0);
    }
}

T_TEST(cached)
{
    static const int cases[] = { 0, 1, 5, 6 };
    for (int i = 0; i < 4; i++) decode(be, s, &SHAPES[cases[i]], TS_MATH_F32);
    decode(be, s, &SHAPES[0], TS_MATH_BF16);
    decode(be, s, &SHAPES[5], TS_MATH_BF16);

    ts_attention a = { .B = 1, .T = 3, .H = 1, .c = 4, .scale = 1, .pos = 6, .T_max = 8 };
    T_STATUS(TS_E_INTERNAL, be->attention_cached(s, T_OUTF(12)->dev, T_OUTF(32)->dev, T_OUTF(32)->dev, T_OUTF(36)->dev,
                                                 NULL, &a, T_SCRATCH(1 << 16)));
}

/* So are gradients of scores, whose sums have both signs: results are up to some times smaller than the terms. */
static const double SLOPES = 0x1p-7;

/* Of n tokens of T, one of q, k and v each. */
static const double *third(const double *dqkv, const shape *p, int which)
{
    const int64_t C = p->H * p->c, rows = p->B * p->T;
    double *x = doubles(rows * C);
    for (int64_t n = 0; n < rows; n++) memcpy(x + n * C, dqkv + (3 * n + which) * C, sizeof(double) * (size_t)C);
    return x;
}

static void thirds_close(const problem *x, const float *got, const double *want, double tol)
{
    static const char *const names[] = { "dq", "dk", "dv" };
    const int64_t C = x->p.H * x->p.c;
    float *some = t_alloc(sizeof(float) * (size_t)x->n);
    for (int which = 0; which < 3; which++) {
        for (int64_t n = 0; n < x->p.B * x->p.T; n++)
            memcpy(some + n * C, got + (3 * n + which) * C, sizeof(float) * (size_t)C);
        t_close(names[which], some, third(want, &x->p, which), x->n, tol);
    }
}

T_TEST(bfloat16)
{
    for (int i = 0; i < N_SHAPES; i++) {
        const shape *p = &SHAPES[i];
        problem x = make(p, 100 + (uint64_t)i);
        const int64_t n = p->B * p->H * p->T, operands = rounds(be, p) ? ROUNDED : EXACT;
        const double tol = operands ? SLOPES : tolerance(p);
        double *out = doubles(x.n), *lse = doubles(n), *dqkv = doubles(3 * x.n), *dmul = doubles(p->H);
        for (int64_t h = 0; h < p->H; h++) dmul[h] = 0.5;
        x.a.math = TS_MATH_BF16;
        oracle_of(out, lse, dqkv, dmul, widen(x.dout, x.n), widen(x.qkv, 3 * x.n), widen(x.mul, p->H), x.end, &x.p,
                  (int)operands);
        for (unsigned order = 0; order < (i == 1 ? 3 : 1); order++) {
            t_thread_order(order);
            run(be, s, &x);
            t_close("out", T_F(x.out), out, x.n, operands ? WEIGHTS : tolerance(p));
            t_close("lse", T_F(x.lse), lse, n, tolerance(p));
            thirds_close(&x, T_F(x.dqkv), dqkv, tol);
            if (p->l2) t_close("dscale_mul", T_F(x.dmul), dmul, p->H, tol);
        }
        t_thread_order(0);
    }
}

/* Five factors are off by up to 2^-9: q and k in a score, dout and v in its gradient, and what that is multiplied by. In sums
 * of terms that are off at random the root of the squares is so, too. */
T_TEST(bfloat16_near_float32)
{
    const shape cases[] = { { 1, 85, 6, 64, 1, 1, { 1, 4, 16, 64 } }, SHAPES[3], SHAPES[5] };
    for (int i = 0; i < 3; i++) {
        problem x = make(&cases[i], 50), y = x;
        y.a.math = TS_MATH_BF16;
        run(be, s, &x), run(be, s, &y);
        const double *want = widen(T_F(x.dqkv), 3 * x.n), *got = widen(T_F(y.dqkv), 3 * x.n);
        for (int which = 0; which < 3; which++) {
            const double *a = third(want, &x.p, which), *b = third(got, &x.p, which);
            double size = 0, error = 0;
            for (int64_t n = 0; n < x.n; n++) size += a[n] * a[n], error += (a[n] - b[n]) * (a[n] - b[n]);
            T_TRUE(sqrt(error) <= 5 * 0x1p-9 * sqrt(size));
        }
    }
}

/* Any batch: the same bits. What lies behind the mask: nothing of it is seen, and those who see it get NaN. */
T_TEST(bfloat16_promises)
{
    problem all = make(&SHAPES[0], 17), bad = all, alone = all, broken = all;
    const int64_t C = all.a.H * all.a.c, T = all.a.T, last = all.n / 2;
    bad.qkv = t_normals(3 * all.n, 1, 17), broken.qkv = t_normals(3 * all.n, 1, 17);
    for (int64_t i = 0; i < 3 * all.n; i++)
        if (i / (3 * C) % T >= 21) bad.qkv[i] = i % 2 ? NAN : INFINITY;
    broken.qkv[(30 * 3 + 2) * C + 5] = INFINITY; /* a value of the last scale */
    all.a.math = bad.a.math = alone.a.math = broken.a.math = TS_MATH_BF16;
    alone.a.B = alone.p.B = 1, alone.n = last, alone.qkv += 3 * last, alone.dout += last;
    run(be, s, &all), run(be, s, &bad), run(be, s, &alone), run(be, s, &broken);
    T_TRUE(same(all.out, alone.out, 4 * (size_t)last) && same(all.dqkv, alone.dqkv, 12 * (size_t)last));
    for (int64_t b = 0; b < 2; b++) {
        const float *one = T_F(all.out) + b * T * C, *two = T_F(bad.out) + b * T * C;
        T_TRUE(memcmp(one, two, sizeof(float) * (size_t)(21 * C)) == 0);
        T_TRUE(isnan(two[21 * C]) && isnan(two[T * C - 1]));
        for (int64_t i = 0; i < C; i++) { /* one key alone: its value */
            const double v = all.qkv[b * T * 3 * C + 2 * C + i];
            T_TRUE(one[i] == (float)(rounds(be, &all.p) ? t_bf16(v) : v));
        }
    }
    T_TRUE(memcmp(T_F(all.out), T_F(broken.out), sizeof(float) * (size_t)(21 * C)) == 0);
    T_TRUE(!isfinite(T_F(broken.out)[21 * C + 5]) && !isfinite(T_F(broken.out)[(T - 1) * C + 5]));
    T_TRUE(isfinite(T_F(broken.out)[last + (T - 1) * C + 5])); /* of the other picture */
}

static int nan_at(const problem *x, int64_t token, int which)
{
    const int64_t C = x->p.H * x->p.c;
    return !isfinite(T_F(x->dqkv)[(3 * token + which) * C + 5]);
}

/* Backward: what a query does not see leaves its gradient alone, and what does not see a key leaves those of the key alone; what
 * is seen does not. A score of minus infinity hides a key from forward, not from backward. */
T_TEST(bfloat16_gradient_promises)
{
    const shape small = { 1, 85, 2, 20, 0.4, 0, { 1, 4, 16, 64 } };
    problem all = make(&small, 18), late = make(&small, 18), early = make(&small, 18), hidden = make(&small, 18);
    const int64_t C = 40, T = 85, first = 21;
    for (int64_t i = first * 3 * C; i < 3 * all.n; i++) late.qkv[i] = i % 2 ? NAN : INFINITY;
    for (int64_t i = 0; i < first * C; i++) early.dout[i] = NAN;
    hidden.qkv[(3 * (T - 1) + 1) * C] = INFINITY; /* of the last key */
    all.a.math = late.a.math = early.a.math = hidden.a.math = TS_MATH_BF16;
    run(be, s, &all), run(be, s, &late), run(be, s, &early), run(be, s, &hidden);
    const size_t token = sizeof(float) * (size_t)(3 * C);
    const float *one = T_F(all.dqkv);
    for (int64_t t = 0; t < T; t++) {
        const int64_t at = t * 3 * C;
        if (t < first) {
            T_TRUE(memcmp(one + at, T_F(late.dqkv) + at, token / 3) == 0);
            T_TRUE(nan_at(&early, t, 0) && nan_at(&early, t, 1) && nan_at(&early, t, 2));
            T_TRUE(memcmp(one + at, T_F(hidden.dqkv) + at, token / 3) == 0);
        } else {
            T_TRUE(memcmp(one + at, T_F(early.dqkv) + at, token) == 0);
            T_TRUE(nan_at(&late, t, 0) && nan_at(&late, t, 1) && nan_at(&late, t, 2));
            T_TRUE(!isfinite(T_F(hidden.dqkv)[at])); /* channel 0 of dq */
        }
    }
}

int main(void)
{
    Suite *u = t_suite("op_attention");
    T_ADD1(u, oracle_gradient);
    T_ADD(u, formula);
    T_ADD(u, empty);
    T_ADD(u, clamp);
    T_ADD(u, smallest_norm);
    T_ADD(u, mask);
    T_ADD(u, invariance);
    T_ADD(u, cached);
    T_ADD(u, bfloat16);
    T_ADD(u, bfloat16_near_float32);
    T_ADD(u, bfloat16_promises);
    T_ADD(u, bfloat16_gradient_promises);
    return t_run(u);
}
