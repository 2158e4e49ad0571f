/* test_ada_norm.c - residual, gate, LayerNorm and modulation of every backend against the formula in double.
 *
 * Oracle     plain loops in double; its gradient is analytic and is itself checked against central differences.
 * Inputs     seeded normals; constant rows, rows far from zero; strides of one row and of a chunk of six.
 */
#include "tests/t.h"

typedef struct {
    int64_t B, T, C;
    int chunks; /* 1: gate, scale, shift lie apart; 6: in rows of 6C, as one linear layer gives them */
    int with_h, with_gate, with_dr;
    double far; /* added to x */
} shape;

static const shape SHAPES[] = {
    { 3, 85, 64, 6, 1, 1, 1, 0 },   { 1, 1, 1, 1, 1, 1, 1, 0 },  { 2, 31, 257, 6, 1, 1, 0, 0 },
    { 1, 17, 130, 1, 1, 0, 1, 0 },  { 5, 4, 33, 6, 0, 0, 1, 0 }, { 1, 3, 1920, 6, 0, 0, 0, 0 },
    { 2, 9, 100, 1, 1, 1, 1, 300 }, { 0, 4, 8, 1, 1, 1, 1, 0 },  { 2, 0, 8, 1, 1, 1, 1, 0 },
};
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };

static const double EPS = 1e-6f;

typedef struct {
    double *x, *h, *gate, *scale, *shift, *dy, *dr; /* inputs; gate, scale, shift (B,C) */
    double *r, *y, *mean, *rstd;                    /* fwd */
    double *dx, *dh, *dgate, *dscale, *dshift;      /* bwd; the last three added to */
} numbers;

static void oracle_fwd(const numbers *o, const shape *p)
{
    for (int64_t i = 0; i < p->B * p->T; i++) {
        const int64_t C = p->C, b = i / p->T;
        double *r = o->r + i * C, mean = 0, var = 0;
        for (int64_t c = 0; c < C; c++) {
            r[c] = o->x[i * C + c];
            if (p->with_h) r[c] += (p->with_gate ? o->gate[b * C + c] : 1) * o->h[i * C + c];
            mean += r[c] / (double)C;
        }
        for (int64_t c = 0; c < C; c++) var += (r[c] - mean) * (r[c] - mean) / (double)C;
        o->mean[i] = mean;
        o->rstd[i] = 1 / sqrt(var + EPS);
        for (int64_t c = 0; c < C; c++)
            o->y[i * C + c] = (r[c] - mean) * o->rstd[i] * (1 + o->scale[b * C + c]) + o->shift[b * C + c];
    }
}

static void oracle_bwd(const numbers *o, const shape *p)
{
    for (int64_t i = 0; i < p->B * p->T; i++) {
        const int64_t C = p->C, b = i / p->T;
        const double *r = o->r + i * C, *dy = o->dy + i * C, *scale = o->scale + b * C;
        double dmean = 0, dvar = 0;
        for (int64_t c = 0; c < C; c++) {
            const double dn = dy[c] * (1 + scale[c]), away = r[c] - o->mean[i];
            dmean -= dn * o->rstd[i];
            dvar -= 0.5 * dn * away * pow(o->rstd[i], 3);
            o->dscale[b * C + c] += dy[c] * away * o->rstd[i];
            o->dshift[b * C + c] += dy[c];
        }
        for (int64_t c = 0; c < C; c++) {
            const double dn = dy[c] * (1 + scale[c]), away = r[c] - o->mean[i];
            const double d = dn * o->rstd[i] + dvar * 2 * away / (double)C + dmean / (double)C;
            const double total = d + (p->with_dr ? o->dr[i * C + c] : 0);
            o->dx[i * C + c] = total;
            o->dh[i * C + c] = total * (p->with_gate ? o->gate[b * C + c] : 1);
            if (p->with_gate) o->dgate[b * C + c] += total * o->h[i * C + c];
        }
    }
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

/* Columns k*C.. of rows of stride floats, as (B,C). */
static double *chunk(const float *rows, int k, int64_t stride, const shape *p)
{
    double *y = doubles(p->B * p->C);
    for (int64_t i = 0; i < p->B * p->C; i++) y[i] = rows[i / p->C * stride + k * p->C + i % p->C];
    return y;
}

/* The modulation of both layouts is one array (B, 3 or 6, C): three arrays apart are rows of 3C. */
typedef struct {
    shape p;
    int64_t n, stride;
    float *x, *h, *dy, *dr, *mod, *dmod;
    int k_gate, k_scale, k_shift;
    ts_ada_norm a;
    t_buf *r, *y, *mean, *rstd, *dx, *dh, *got_dmod;
} problem;

static problem make(const shape *p)
{
    const int rows = p->chunks == 6 ? 6 : 3;
    problem x = { .p = *p, .n = p->B * p->T * p->C, .stride = rows * p->C };
    x.x = t_normals(x.n, 1, 1);
    x.h = t_normals(x.n, 1, 2);
    x.dy = t_normals(x.n, 1, 3);
    x.dr = t_normals(x.n, 1, 4);
    x.mod = t_normals(p->B * x.stride, 0.5, 5);
    x.dmod = t_normals(p->B * x.stride, 1, 6);
    for (int64_t i = 0; i < x.n; i++) x.x[i] += (float)p->far;
    x.k_gate = 0;
    x.k_scale = p->chunks == 6 ? 2 : 1;
    x.k_shift = p->chunks == 6 ? 4 : 2;
    x.a = (ts_ada_norm){ p->B, p->T, p->C, x.stride, x.stride, x.stride, (float)EPS, TS_F32 };
    return x;
}

static void run(const ts_backend *be, ts_stream *s, int threads, problem *x)
{
    const shape *p = &x->p;
    const int64_t tokens = p->B * p->T, C = p->C;
    t_buf *in = T_INF(x->x, x->n), *mod = T_INF(x->mod, p->B * x->stride);
    const float *h = p->with_h ? T_INF(x->h, x->n)->dev : NULL, *m = mod->dev, *dy = T_INF(x->dy, x->n)->dev;
    const float *gate = p->with_gate ? m + x->k_gate * C : NULL, *dr = p->with_dr ? T_INF(x->dr, x->n)->dev : NULL;
    x->r = p->with_h ? T_OUTF(x->n) : in;
    x->y = T_OUTF(x->n);
    x->mean = T_OUTF(tokens);
    x->rstd = T_OUTF(tokens);
    x->dx = T_OUTF(x->n);
    x->dh = T_OUTF(x->n);
    x->got_dmod = T_INF(x->dmod, p->B * x->stride);
    float *d = x->got_dmod->dev;

    ts_stream *on;
    T_OK(be->stream_sync(s));
    T_OK(be->stream_new(&on, 0, threads));
    T_OK(be->ada_norm_fwd(on, p->with_h ? x->r->dev : NULL, x->y->dev, x->mean->dev, x->rstd->dev, in->dev, h, gate,
                          m + x->k_scale * C, m + x->k_shift * C, &x->a));
    T_OK(be->ada_norm_bwd(on, x->dx->dev, p->with_h ? x->dh->dev : NULL, gate ? d + x->k_gate * C : NULL,
                          d + x->k_scale * C, d + x->k_shift * C, dy, dr, x->r->dev, x->mean->dev, x->rstd->dev, h,
                          gate, m + x->k_scale * C, &x->a));
    T_OK(be->stream_sync(on));
    be->stream_free(on);
    t_buf *all[] = { x->r, x->y, x->mean, x->rstd, x->dx, x->dh, x->got_dmod };
    for (int i = 0; i < 7; i++) t_down(all[i]);
}

static numbers reference(const problem *x)
{
    const shape *p = &x->p;
    const int64_t tokens = p->B * p->T;
    numbers o = { .x = widen(x->x, x->n), .h = widen(x->h, x->n), .dy = widen(x->dy, x->n), .dr = widen(x->dr, x->n) };
    o.gate = chunk(x->mod, x->k_gate, x->stride, p);
    o.scale = chunk(x->mod, x->k_scale, x->stride, p);
    o.shift = chunk(x->mod, x->k_shift, x->stride, p);
    o.dgate = chunk(x->dmod, x->k_gate, x->stride, p);
    o.dscale = chunk(x->dmod, x->k_scale, x->stride, p);
    o.dshift = chunk(x->dmod, x->k_shift, x->stride, p);
    o.r = doubles(x->n), o.y = doubles(x->n), o.dx = doubles(x->n), o.dh = doubles(x->n);
    o.mean = doubles(tokens), o.rstd = doubles(tokens);
    oracle_fwd(&o, p);
    oracle_bwd(&o, p);
    return o;
}

static void compare(const problem *x, double tol)
{
    const shape *p = &x->p;
    const numbers o = reference(x);
    t_close("r", T_F(x->r), o.r, x->n, tol);
    t_close("mean", T_F(x->mean), o.mean, p->B * p->T, tol);
    t_close("rstd", T_F(x->rstd), o.rstd, p->B * p->T, tol);
    t_close("y", T_F(x->y), o.y, x->n, tol);
    t_close("dx", T_F(x->dx), o.dx, x->n, tol);
    if (p->with_h)
        t_close("dh", T_F(x->dh), o.dh, x->n, tol);
    else
        for (int64_t i = 0; i < x->n; i++) T_TRUE(isnan(T_F(x->dh)[i]));

    /* the whole of dmod, so that a write beside the three chunks shows */
    double *want = widen(x->dmod, p->B * x->stride);
    for (int64_t i = 0; i < p->B * p->C; i++) {
        double *row = want + i / p->C * x->stride + i % p->C;
        if (p->with_gate) row[x->k_gate * p->C] = o.dgate[i];
        row[x->k_scale * p->C] = o.dscale[i];
        row[x->k_shift * p->C] = o.dshift[i];
    }
    t_close("dgate, dscale, dshift", T_F(x->got_dmod), want, p->B * x->stride, tol);
}

/* Some ten roundings of 2^-24; where x is 300 away from zero, r itself is rounded in units of 2^-16 of its spread. */
T_TEST(formula)
{
    for (int i = 0; i < N_SHAPES; i++) {
        problem x = make(&SHAPES[i]);
        run(be, s, 0, &x);
        compare(&x, SHAPES[i].far > 0 ? 5e-5 : 2e-6);
    }
}

static double loss(const numbers *o, const shape *p)
{
    double sum = 0;
    oracle_fwd(o, p);
    for (int64_t i = 0; i < p->B * p->T * p->C; i++) sum += o->dy[i] * o->y[i] + o->dr[i] * o->r[i];
    return sum;
}

T_TEST(oracle_gradient)
{
    (void)be, (void)s;
    const shape p = { 2, 3, 5, 1, 1, 1, 1, 0 };
    problem x = make(&p);
    memset(x.dmod, 0, sizeof(float) * (size_t)(p.B * x.stride));
    const numbers o = reference(&x);
    double *in[] = { o.x, o.h, o.gate, o.scale, o.shift }, *grad[] = { o.dx, o.dh, o.dgate, o.dscale, o.dshift };
    for (int k = 0; k < 5; k++)
        for (int64_t i = 0; i < (k < 2 ? x.n : p.B * p.C); i++) {
            const double old = in[k][i];
            in[k][i] = old + 1e-5;
            const double up = loss(&o, &p);
            in[k][i] = old - 1e-5;
            const double down = loss(&o, &p);
            in[k][i] = old;
            T_NEAR(grad[k][i], (up - down) / 2e-5, 1e-7); /* the third derivative times 1e-10 */
        }
}

/* A constant row has no spread, whatever its size: y is the shift, and rstd 1/sqrt(eps). */
T_TEST(constant_rows)
{
    problem x = make(&(shape){ 1, 4, 99, 1, 0, 0, 0, 0 });
    static const float constant[] = { 0, 1, -1000.7f, 1e-20f };
    for (int64_t i = 0; i < x.n; i++) x.x[i] = constant[i / 99];
    run(be, s, 0, &x);
    for (int64_t i = 0; i < x.n; i++) T_TRUE(T_F(x.y)[i] == x.mod[x.k_shift * 99 + i % 99]);
    for (int t = 0; t < 4; t++) T_NEAR(T_F(x.rstd)[t], 1e3, 1e-3);
}

/* r may be x, dx may be dr, and mean and rstd may be left out. */
T_TEST(in_place)
{
    problem x = make(&SHAPES[0]);
    run(be, s, 0, &x);
    const int64_t C = x.p.C;
    t_buf *r = T_INF(x.x, x.n), *y = T_OUTF(x.n), *dx = T_INF(x.dr, x.n), *dh = T_OUTF(x.n);
    t_buf *mod = T_INF(x.mod, x.p.B * x.stride), *dmod = T_INF(x.dmod, x.p.B * x.stride), *h = T_INF(x.h, x.n);
    const float *m = mod->dev;
    float *d = dmod->dev;
    T_OK(be->ada_norm_fwd(s, r->dev, y->dev, NULL, NULL, r->dev, h->dev, m, m + 2 * C, m + 4 * C, &x.a));
    T_OK(be->ada_norm_bwd(s, dx->dev, dh->dev, d, d + 2 * C, d + 4 * C, T_INF(x.dy, x.n)->dev, dx->dev, r->dev,
                          x.mean->dev, x.rstd->dev, h->dev, m, m + 2 * C, &x.a));
    t_buf *got[] = { r, y, dx, dh, dmod }, *want[] = { x.r, x.y, x.dx, x.dh, x.got_dmod };
    for (int i = 0; i < 5; i++) {
        t_down(got[i]);
        T_TRUE(memcmp(got[i]->host, want[i]->host, got[i]->bytes) == 0);
    }
}

/* Rows of C floats at another stride, the others 7. */
static t_buf *spread(const ts_backend *be, ts_stream *s, const float *rows, int64_t from, int64_t to, const shape *p)
{
    t_buf *b = T_OUTF(p->B * to);
    for (int64_t i = 0; i < p->B * to; i++) T_F(b)[i] = i % to < p->C ? rows[i / to * from + i % to] : 7;
    t_up(b);
    return b;
}

/* Gate, scale and shift each with a stride of its own: the same bits. */
T_TEST(strides_of_their_own)
{
    problem x = make(&SHAPES[0]);
    run(be, s, 0, &x);
    const int64_t C = x.p.C, own[] = { C + 3, 2 * C + 1, C };
    const int chunk_of[] = { x.k_gate, x.k_scale, x.k_shift };
    t_buf *in[3], *grad[3], *want[3];
    for (int i = 0; i < 3; i++) {
        in[i] = spread(be, s, x.mod + chunk_of[i] * C, x.stride, own[i], &x.p);
        grad[i] = spread(be, s, x.dmod + chunk_of[i] * C, x.stride, own[i], &x.p);
        want[i] = spread(be, s, T_F(x.got_dmod) + chunk_of[i] * C, x.stride, own[i], &x.p);
    }
    x.a.gate_stride = own[0], x.a.scale_stride = own[1], x.a.shift_stride = own[2];
    t_buf *r = T_OUTF(x.n), *y = T_OUTF(x.n), *dx = T_OUTF(x.n), *dh = T_OUTF(x.n), *h = T_INF(x.h, x.n);
    T_OK(be->ada_norm_fwd(s, r->dev, y->dev, NULL, NULL, T_INF(x.x, x.n)->dev, h->dev, in[0]->dev, in[1]->dev,
                          in[2]->dev, &x.a));
    T_OK(be->ada_norm_bwd(s, dx->dev, dh->dev, grad[0]->dev, grad[1]->dev, grad[2]->dev, T_INF(x.dy, x.n)->dev,
                          T_INF(x.dr, x.n)->dev, r->dev, x.mean->dev, x.rstd->dev, h->dev, in[0]->dev, in[1]->dev,
                          &x.a));
    t_buf *got[] = { r, y, dx, dh, grad[0], grad[1], grad[2] };
    t_buf *same[] = { x.r, x.y, x.dx, x.dh, want[0], want[1], want[2] };
    for (int i = 0; i < 7; i++) {
        t_down(got[i]);
        T_TRUE(memcmp(got[i]->host, same[i]->host, got[i]->bytes) == 0);
    }
}

/* Any thread count gives the same bits, and so does an image alone. */
T_TEST(invariance)
{
    const shape p = { 3, 41, 75, 6, 1, 1, 1, 0 };
    problem all = make(&p);
    run(be, s, 1, &all);
    for (int threads = 2; threads < 6; threads += 2) {
        problem again = make(&p), alone = make(&p);
        run(be, s, threads, &again);
        alone.p.B = alone.a.B = 1;
        alone.n /= 3;
        alone.x += 2 * alone.n, alone.h += 2 * alone.n, alone.dy += 2 * alone.n, alone.dr += 2 * alone.n;
        alone.mod += 2 * alone.stride, alone.dmod += 2 * alone.stride;
        run(be, s, threads, &alone);
        t_buf *one[] = { all.y, all.rstd, all.dx, all.dh, all.got_dmod };
        t_buf *two[] = { again.y, again.rstd, again.dx, again.dh, again.got_dmod };
        t_buf *last[] = { alone.y, alone.rstd, alone.dx, alone.dh, alone.got_dmod };
        for (int i = 0; i < 5; i++) {
            const char *host = one[i]->host;
            T_TRUE(memcmp(host, two[i]->host, one[i]->bytes) == 0);
            T_TRUE(memcmp(host + one[i]->bytes / 3 * 2, last[i]->host, last[i]->bytes) == 0);
        }
    }
}

int main(void)
{
    Suite *u = t_suite("op_ada_norm");
    T_ADD1(u, oracle_gradient);
    T_ADD(u, formula);
    T_ADD(u, constant_rows);
    T_ADD(u, in_place);
    T_ADD(u, strides_of_their_own);
    T_ADD(u, invariance);
    return t_run(u);
}
