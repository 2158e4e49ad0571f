/* test_residual_vq.c - multi-scale residual VQ against the published implementation (golden files) and an oracle.
 *
 * Golden     indices exactly, f_hat of every scale, the generator's input, the loss, and all gradients.
 * Oracle     forward walks the scales in double with the op's indices and asks whether each is the nearest code (a
 * worse one only within float32 noise); backward is the central differences of the loss with indices held fixed, once
 * as a function of f (f_hat_k constant), once of codebook and phi (f constant). */
#include <stdio.h>

#include "tests/op/pyramid_oracle.h"

static double *doubles(int64_t n)
{
    return t_alloc(sizeof(double) * (size_t)(n + 1));
}

static float *floats(int64_t n)
{
    return t_alloc(sizeof(float) * (size_t)n);
}

/* (B,D,n) to (B,n,D); for a weight (out,in,3,3) B is out, D is in, n is 9. */
static float *channels_last(const float *x, int64_t B, int64_t D, int64_t n)
{
    float *y = floats(B * D * n);
    for (int64_t i = 0; i < B * D * n; i++) y[i / (D * n) * D * n + i % n * D + i / n % D] = x[i];
    return y;
}

typedef struct {
    const char *name;
    const char *phi; /* names of the convolutions; %d is the number */
    int V, D, K, share, znorm;
    int32_t side[10];
} golden_case;

static const golden_case GOLDEN[] = {
    { "share4", "quant_resi.qresi_ls.%d", 512, 32, 10, 4, 0, { 1, 2, 3, 4, 5, 6, 8, 10, 13, 16 } },
    { "share1", "quant_resi.qresi", 128, 8, 4, 1, 0, { 1, 2, 4, 8 } },
    { "own", "quant_resi.%d", 128, 8, 5, 0, 0, { 1, 2, 3, 5, 8 } },
    { "znorm", "quant_resi.qresi_ls.%d", 128, 16, 6, 4, 1, { 1, 2, 3, 4, 6, 8 } },
};

typedef struct {
    ts_residual_vq q;
    int B, grid, all;
    float *h_f, *h_book;
    t_buf *f, *book, *w[TS_MAX_SCALES], *b[TS_MAX_SCALES];
    t_buf *f_hat, *idx, *z, *partial, *stats;
    ts_phi phi;
} setup;

static void forward(const ts_backend *be, ts_stream *s, setup *m)
{
    const int K = m->q.p.K;
    m->f_hat = T_OUTF(m->all), m->partial = T_OUTF(K * m->all), m->stats = T_OUTF(K);
    m->idx = t_out(be, s, m->B * m->q.p.T, 4), m->z = T_OUTF(m->B * m->q.p.T * m->q.D);
    void *scratch = T_SCRATCH(be->residual_vq_scratch(s, &m->q, m->B, 0));
    T_OK(be->residual_vq_fwd(s, m->f_hat->dev, m->idx->dev, m->z->dev, m->partial->dev, m->stats->dev, m->f->dev,
                             m->book->dev, &m->phi, &m->q, m->B, scratch));
    T_OK(be->stream_sync(s));
    t_down(m->f_hat), t_down(m->idx), t_down(m->z), t_down(m->partial), t_down(m->stats);
}

static setup *new_setup(const int32_t *side, int K, int share, int V, int D, int znorm, int B)
{
    setup *m = t_alloc(sizeof *m);
    m->q = (ts_residual_vq){ .D = D, .V = V, .znorm = znorm, .beta = 0.25f };
    T_OK(ts_pyramid_init(&m->q.p, side, K, share, 0.5f));
    m->B = B, m->grid = m->q.p.h * m->q.p.w * D, m->all = B * m->grid;
    return m;
}

static setup *golden_setup(const ts_backend *be, ts_stream *s, const golden_case *g)
{
    setup *m = new_setup(g->side, g->K, g->share, g->V, g->D, g->znorm, 2);
    char name[96];
    const int D = g->D;
    float *raw = floats(m->all), *w = floats(9 * D * D), *b = floats(D);
    snprintf(name, sizeof name, "quantizer.%s.f", g->name);
    t_hash_input(raw, name, m->all);
    m->h_f = channels_last(raw, 2, D, m->grid / D);
    m->h_book = floats(g->V * D);
    snprintf(name, sizeof name, "quantizer.%s.embedding.weight", g->name);
    t_hash_weight(m->h_book, name, (int64_t[]){ g->V, D }, 2);
    m->f = T_INF(m->h_f, m->all), m->book = T_INF(m->h_book, g->V * D);
    for (int j = 0; j < m->q.p.S; j++) {
        char number[32], part[64];
        snprintf(number, sizeof number, "%d", j);
        const char *at = strstr(g->phi, "%d");
        snprintf(part, sizeof part, "%.*s%s", (int)(at ? at - g->phi : (int)strlen(g->phi)), g->phi, at ? number : "");
        snprintf(name, sizeof name, "quantizer.%s.%s.weight", g->name, part);
        t_hash_weight(w, name, (int64_t[]){ D, D, 3, 3 }, 4);
        snprintf(name, sizeof name, "quantizer.%s.%s.bias", g->name, part);
        t_hash_weight(b, name, (int64_t[]){ D }, 1);
        m->w[j] = T_INF(channels_last(w, D, D, 9), 9 * D * D), m->b[j] = T_INF(b, D);
        m->phi.w[j] = m->w[j]->dev, m->phi.b[j] = m->b[j]->dev;
    }
    return m;
}

static void golden_forward(const setup *m, const golden_case *g)
{
    char file[64], name[32];
    double loss = 0;
    snprintf(file, sizeof file, "quantizer_%s", g->name);
    for (int k = 0; k < g->K; k++) {
        const int t = g->side[k] * g->side[k];
        snprintf(name, sizeof name, "idx.%d", k);
        const int32_t *want = t_golden(file, name, "I32", NULL);
        for (int i = 0; i < 2 * t; i++) {
            int got = T_I(m->idx)[i / t * m->q.p.T + m->q.p.start[k] + i % t];
            if (got != want[i]) ck_abort_msg("%s %s[%d]: %d, expected %d", file, name, i, got, want[i]);
        }
        snprintf(name, sizeof name, "f_hat.%d", k);
        t_closef(name, T_F(m->partial) + (int64_t)k * m->all,
                 channels_last(t_golden(file, name, "F32", NULL), 2, g->D, m->grid / g->D), m->all, 5e-6);
        loss += 1.25 * T_F(m->stats)[k] / ((double)m->all * g->K);
    }
    T_TRUE(memcmp(m->f_hat->host, T_F(m->partial) + (int64_t)(g->K - 1) * m->all, m->f_hat->bytes) == 0);
    const float *want = t_golden(file, "vq_loss", "F32", NULL);
    T_NEAR(loss, want[0], 1e-5 * want[0]);
}

/* Adding the codes scale by scale gives the partial sums bit for bit, and with them what the generator reads. */
static void golden_decode(const ts_backend *be, ts_stream *s, const setup *m, const golden_case *g)
{
    const ts_pyramid *p = &m->q.p;
    const int D = g->D, T1 = p->T - 1;
    char file[64];
    snprintf(file, sizeof file, "quantizer_%s", g->name);
    const float *var_input = t_golden(file, "var_input", "F32", NULL);
    t_buf *f_hat = T_INF(floats(m->all), m->all);
    void *scratch = T_SCRATCH(be->pyramid_scratch(s, p, D, 2));
    for (int k = 0; k < g->K; k++) {
        const int t = g->side[k] * g->side[k], next_t = k + 1 < g->K ? g->side[k + 1] * g->side[k + 1] : 0;
        float *h_code = floats(2 * t * D), *want = floats(2 * next_t * D);
        for (int i = 0; i < 2 * t; i++)
            memcpy(h_code + i * D, m->h_book + (int64_t)T_I(m->idx)[i / t * p->T + p->start[k] + i % t] * D,
                   sizeof(float) * (size_t)D);
        t_buf *code = T_INF(h_code, 2 * t * D), *next = T_OUTF(2 * next_t * D);
        T_OK(be->pyramid_add(s, f_hat->dev, next_t ? next->dev : NULL, code->dev, &m->phi, p, D, k, 2, scratch));
        t_down(f_hat), t_down(next);
        T_TRUE(memcmp(f_hat->host, T_F(m->partial) + (int64_t)k * m->all, f_hat->bytes) == 0);
        for (int b = 0; b < 2 && next_t; b++) /* var_input (2,T-1,D) begins with scale 1 */
            memcpy(want + b * next_t * D, var_input + (b * T1 + p->start[k + 1] - 1) * D,
                   sizeof(float) * (size_t)(next_t * D));
        t_closef("var_input", T_F(next), want, 2 * next_t * D, 5e-6);
    }
}

typedef struct {
    t_buf *df, *dbook, *dw[TS_MAX_SCALES], *db[TS_MAX_SCALES];
} gradients;

/* "Added to" buffers begin with 0.01 times normals, which are taken off again. */
static void take_off(t_buf *b, int n)
{
    const float *before = t_normals(n, 0.01, 77);
    t_down(b);
    for (int i = 0; i < n; i++) T_F(b)[i] -= before[i];
}

static gradients backward(const ts_backend *be, ts_stream *s, const setup *m, const float *h_df_hat, float weight)
{
    const int D = m->q.D, S = m->q.p.S, nw = 9 * D * D;
    gradients r = { .df = T_OUTF(m->all), .dbook = T_INF(t_normals(m->q.V * D, 0.01, 77), m->q.V * D) };
    t_buf *df_hat = T_INF(h_df_hat, m->all);
    ts_phi dphi = { .w = { NULL } };
    for (int j = 0; j < S; j++) {
        r.dw[j] = T_INF(t_normals(nw, 0.01, 77), nw), r.db[j] = T_INF(t_normals(D, 0.01, 77), D);
        dphi.w[j] = r.dw[j]->dev, dphi.b[j] = r.db[j]->dev;
    }
    void *scratch = T_SCRATCH(be->residual_vq_scratch(s, &m->q, m->B, 1));
    T_OK(be->residual_vq_bwd(s, r.df->dev, r.dbook->dev, &dphi, df_hat->dev, weight, m->f->dev, m->idx->dev,
                             m->book->dev, &m->phi, &m->q, m->B, scratch));
    T_OK(be->stream_sync(s));
    t_down(r.df);
    take_off(r.dbook, m->q.V * D);
    for (int j = 0; j < S; j++) take_off(r.dw[j], nw), take_off(r.db[j], D);
    return r;
}

/* The gradients of the loss are small (means): with a weight of 1000 the noise of "added to" is far below them. */
static float *times_1000(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] *= 1000;
    return x;
}

static void golden_backward(const ts_backend *be, ts_stream *s, const setup *m, const golden_case *g)
{
    const int D = g->D;
    char file[64], name[96];
    snprintf(file, sizeof file, "quantizer_%s", g->name);
    gradients r = backward(be, s, m, floats(m->all), 1000);
#define WANT(name, n) times_1000(t_golden(file, name, "F32", NULL), n)
    t_closef("df", T_F(r.df), channels_last(WANT("grad.f", m->all), 2, D, m->grid / D), m->all, 1e-5);
    t_closef("dcodebook", T_F(r.dbook), WANT("grad.embedding", g->V * D), g->V * D, 1e-5);
    for (int j = 0; j < m->q.p.S && g->share != 0; j++) { /* of "own" the file holds no gradients of phi */
        snprintf(name, sizeof name,
                 g->share == 1 ? "grad.quant_resi.qresi.weight" : "grad.quant_resi.qresi_ls.%d.weight", j);
        t_closef(name, T_F(r.dw[j]), channels_last(WANT(name, 9 * D * D), D, D, 9), 9 * D * D, 1e-5);
        snprintf(name, sizeof name, g->share == 1 ? "grad.quant_resi.qresi.bias" : "grad.quant_resi.qresi_ls.%d.bias",
                 j);
        t_closef(name, T_F(r.db[j]), WANT(name, D), D, 1e-5);
    }
}

T_TEST(golden)
{
    for (size_t i = 0; i < sizeof GOLDEN / sizeof *GOLDEN; i++) {
        setup *m = golden_setup(be, s, &GOLDEN[i]);
        forward(be, s, m);
        golden_forward(m, &GOLDEN[i]);
        golden_decode(be, s, m, &GOLDEN[i]);
        golden_backward(be, s, m, &GOLDEN[i]);
    }
}

/* ---- oracle ---- */

typedef struct {
    int K, share, V, D, B, znorm;
    int32_t side[TS_MAX_SCALES];
} vq_case;

static const vq_case CASES[] = {
    { 4, 4, 257, 5, 2, 0, { 1, 2, 4, 8 } }, { 3, 0, 33, 8, 3, 1, { 1, 3, 5 } }, { 2, 1, 31, 1, 2, 0, { 1, 5 } },
    { 1, -1, 64, 3, 2, 0, { 4 } },          { 2, 1, 1, 17, 1, 0, { 1, 2 } },    { 3, 2, 1000, 32, 1, 1, { 1, 2, 6 } },
    { 1, 1, 32, 4, 1, 0, { 1 } },           { 2, 1, 20, 3, 131, 0, { 1, 2 } }, /* more than chunks of backward */
};

typedef struct {
    setup *m;
    o_phis phi;
    o_axis area[TS_MAX_SCALES], bicubic[TS_MAX_SCALES];
} oracle;

static oracle *new_oracle(const ts_backend *be, ts_stream *s, const vq_case *c)
{
    oracle *o = t_alloc(sizeof *o);
    setup *m = o->m = new_setup(c->side, c->K, c->share, c->V, c->D, c->znorm, c->B);
    m->q.p.ratio = 0.4f; /* at the published 0.5 the shares of phi could change places */
    o->phi = o_phis_new(be, s, m->q.p.S, c->D, 0.1, 3);
    m->phi = o->phi.dev;
    memcpy(m->w, o->phi.dw, sizeof m->w), memcpy(m->b, o->phi.db, sizeof m->b);
    for (int k = 0; k < c->K; k++) {
        o->area[k] = o_area(m->q.p.h, c->side[k]);
        o->bicubic[k] = o_bicubic(c->side[k], m->q.p.h);
    }
    m->h_f = t_normals(m->all, 1, 5), m->h_book = t_normals(c->V * c->D, 0.7, 6);
    /* doubles of rows, a few apart, a block apart and others: the first must win */
    for (int v = 0; v < c->V; v++) {
        const int twin = v % 3 == 0 ? v / 2 : v % 3 == 2 && v >= 256 ? v - 256 : v;
        memcpy(m->h_book + v * c->D, m->h_book + twin * c->D, sizeof(float) * (size_t)c->D);
    }
    m->f = T_INF(m->h_f, m->all), m->book = T_INF(m->h_book, c->V * c->D);
    return o;
}

/* What the nearest code has least of. */
static double distance(const double *z, const float *e, int D, int znorm)
{
    double ze = 0, ee = 0, zz = 0;
    for (int d = 0; d < D; d++) ze += z[d] * e[d], ee += (double)e[d] * e[d], zz += z[d] * z[d];
    return znorm ? -ze / sqrt(ee * zz) : zz - 2 * ze + ee;
}

static void check_index(const double *z, int got, const setup *m)
{
    const int D = m->q.D;
    if (got < 0 || got >= m->q.V) ck_abort_msg("index %d of %d codes", got, m->q.V);
    const double mine = distance(z, m->h_book + got * D, D, m->q.znorm);
    for (int v = 0; v < m->q.V; v++) {
        const double other = distance(z, m->h_book + v * D, D, m->q.znorm);
        const int equal = memcmp(m->h_book + v * D, m->h_book + got * D, sizeof(float) * (size_t)D) == 0;
        /* float32 noise of D products of size 1, and of z */
        if (other < mine - 2e-5 || (equal && v < got)) ck_abort_msg("code %d is nearer than %d or equal", v, got);
    }
}

/* f_hat_k of all images and scales (K,B,h,w,D) from fixed indices. check: each index must be the nearest
 * code of the z that the walk meets, and that z is what the op hands out. */
static void walk(double *f_hat, const oracle *o, const double *book, double *const *w, double *const *b, int check)
{
    static double rest[O_MAX * O_MAX * 32], z[O_MAX * O_MAX * 32], code[O_MAX * O_MAX * 32], u[O_MAX * O_MAX * 32];
    const setup *m = o->m;
    const ts_pyramid *p = &m->q.p;
    const int D = m->q.D;
    for (int n = 0; n < m->B; n++) {
        for (int i = 0; i < m->grid; i++) rest[i] = m->h_f[n * m->grid + i];
        for (int k = 0; k < p->K; k++) {
            const int32_t *idx = T_I(m->idx) + n * p->T + p->start[k];
            const int t = p->py[k] * p->px[k], j = p->phi[k];
            double *now = f_hat + ((int64_t)k * m->B + n) * m->grid;
            if (check) o_apply(z, rest, &o->area[k], D);
            if (check) t_close("z", T_F(m->z) + (n * p->T + p->start[k]) * D, z, t * D, 5e-6);
            for (int i = 0; i < t; i++) {
                if (check) check_index(z + i * D, idx[i], m);
                memcpy(code + i * D, book + idx[i] * D, sizeof(double) * (size_t)D);
            }
            o_apply(u, code, &o->bicubic[k], D);
            if (p->S > 0) o_phi(code, u, w[j], b[j], p->ratio, p->h, D);
            for (int i = 0; i < m->grid; i++) {
                const double h = p->S > 0 ? code[i] : u[i];
                now[i] = (k > 0 ? now[i - m->all] : 0) + h;
                rest[i] -= h;
            }
        }
    }
}

T_TEST(forward_random)
{
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        oracle *o = new_oracle(be, s, &CASES[i]);
        setup *m = o->m;
        const int K = m->q.p.K, n = m->q.V * m->q.D;
        forward(be, s, m);
        double *book = doubles(n), *want = doubles((int64_t)K * m->all);
        for (int j = 0; j < n; j++) book[j] = m->h_book[j];
        walk(want, o, book, o->phi.w, o->phi.b, 1);
        t_close("partial", T_F(m->partial), want, (int64_t)K * m->all, 5e-6);
        t_close("f_hat", T_F(m->f_hat), want + (int64_t)(K - 1) * m->all, m->all, 5e-6);
        for (int k = 0; k < K; k++) {
            double sum = 0;
            for (int j = 0; j < m->all; j++) sum += pow(want[(int64_t)k * m->all + j] - m->h_f[j], 2);
            T_NEAR(T_F(m->stats)[k], sum, 1e-5 * sum);
        }
    }
}

typedef struct {
    double *f, *book, *w[TS_MAX_SCALES], *b[TS_MAX_SCALES];
    double *df_hat, *fixed; /* f_hat_k of the forward pass */
    double *f_hat;          /* room for those of a call     */
} variables;

static double total_loss(const oracle *o, const variables *v, double weight)
{
    const setup *m = o->m;
    const int K = m->q.p.K;
    double loss = 0, straight = 0, *f_hat = v->f_hat;
    walk(f_hat, o, v->book, v->w, v->b, 0);
    for (int64_t i = 0; i < (int64_t)K * m->all; i++) {
        const int64_t j = i % m->all;
        loss += 0.25 * pow(v->fixed[i] - v->f[j], 2) + pow(f_hat[i] - m->h_f[j], 2);
    }
    for (int i = 0; i < m->all; i++) straight += v->df_hat[i] * v->f[i];
    return straight + weight * loss / ((double)m->all * K);
}

/* The loss is quadratic in each coordinate: central differences have no error but rounding, about 1e-9. */
static void check_differences(const char *what, const float *grad, double *x, int n, int most, const oracle *o,
                              const variables *v, double weight)
{
    const double e = 1e-3;
    double *want = doubles(n);
    float *got = floats(n);
    int checked = 0;
    for (int i = 0; i < n; i += n / most + 1, checked++) {
        const double x0 = x[i];
        x[i] = x0 + e;
        const double up = total_loss(o, v, weight);
        x[i] = x0 - e;
        want[checked] = (up - total_loss(o, v, weight)) / (2 * e);
        x[i] = x0;
        got[checked] = grad[i];
    }
    t_close(what, got, want, checked, 1e-5);
}

T_TEST(backward_random)
{
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        oracle *o = new_oracle(be, s, &CASES[i]);
        setup *m = o->m;
        const int D = m->q.D, n = m->q.V * D;
        const float weight = 100;
        forward(be, s, m);
        float *h_df_hat = t_normals(m->all, 1, 8);
        gradients r = backward(be, s, m, h_df_hat, weight);
        const int64_t sums = (int64_t)m->q.p.K * m->all;
        variables v = { .f = doubles(m->all),
                        .book = doubles(n),
                        .df_hat = doubles(m->all),
                        .fixed = doubles(sums),
                        .f_hat = doubles(sums) };
        memcpy(v.w, o->phi.w, sizeof v.w);
        memcpy(v.b, o->phi.b, sizeof v.b);
        for (int j = 0; j < m->all; j++) v.f[j] = m->h_f[j], v.df_hat[j] = h_df_hat[j];
        for (int j = 0; j < n; j++) v.book[j] = m->h_book[j];
        walk(v.fixed, o, v.book, v.w, v.b, 0);
        check_differences("df", T_F(r.df), v.f, m->all, 40, o, &v, weight);
        check_differences("dcodebook", T_F(r.dbook), v.book, n, 150, o, &v, weight);
        for (int j = 0; j < m->q.p.S; j++) {
            check_differences("dphi.w", T_F(r.dw[j]), v.w[j], 9 * D * D, 40, o, &v, weight);
            check_differences("dphi.b", T_F(r.db[j]), v.b[j], D, D, o, &v, weight);
        }
    }
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
    backward_random(be, small);
    be->stream_free(small);
}

T_TEST(empty_batch_nan_and_no_codebook_gradient)
{
    static const vq_case c = { 2, 1, 40, 3, 2, 0, { 1, 2 } };
    setup *m = new_oracle(be, s, &c)->m;
    forward(be, s, m);
    t_buf *df = T_OUTF(m->all), *df_hat = T_INF(m->h_f, m->all);
    void *scratch = T_SCRATCH(be->residual_vq_scratch(s, &m->q, m->B, 1));
    T_OK(be->residual_vq_bwd(s, df->dev, NULL, &m->phi, df_hat->dev, 0, m->f->dev, m->idx->dev, m->book->dev, &m->phi,
                             &m->q, m->B, scratch));
    t_down(df);
    T_TRUE(memcmp(df->host, m->h_f, df->bytes) == 0); /* without the loss, straight through */
    t_buf *f_hat = T_OUTF(m->all), *idx = t_out(be, s, m->B * m->q.p.T, 4);
    scratch = T_SCRATCH(be->residual_vq_scratch(s, &m->q, m->B, 0));
    T_OK(be->residual_vq_fwd(s, f_hat->dev, idx->dev, NULL, NULL, NULL, m->f->dev, m->book->dev, &m->phi, &m->q, m->B,
                             scratch));
    t_down(f_hat), t_down(idx);
    T_TRUE(memcmp(f_hat->host, m->f_hat->host, f_hat->bytes) == 0); /* the same without what may be left out */
    T_TRUE(memcmp(idx->host, m->idx->host, idx->bytes) == 0);
    m->h_f[0] = NAN;
    m->f = T_INF(m->h_f, m->all);
    forward(be, s, m);
    for (int t = 0; t < m->B * m->q.p.T; t++) T_TRUE(T_I(m->idx)[t] >= 0 && T_I(m->idx)[t] < c.V);
    T_TRUE(isnan(T_F(m->stats)[0]) && isnan(T_F(m->stats)[1]));
    m->B = m->all = 0;
    forward(be, s, m);
    T_TRUE(T_F(m->stats)[0] == 0 && T_F(m->stats)[1] == 0);
    backward(be, s, m, m->h_f, 1);
    m->q.V = 0;
    T_STATUS(TS_E_ARG, be->residual_vq_fwd(s, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, &m->q, 0, NULL));
}

/* A code of length 0 has the cosine 0 with everything, which is better than a negative one. */
T_TEST(code_of_length_zero)
{
    static const float book[] = { -1, 0, 0, 0, -1, -1 }, f[] = { 1, 0 };
    setup *m = new_setup((int32_t[]){ 1 }, 1, -1, 3, 2, 1, 1);
    m->f = T_INF(f, 2), m->book = T_INF(book, 6);
    forward(be, s, m);
    T_EQI(T_I(m->idx)[0], 1);
    T_TRUE(T_F(m->f_hat)[0] == 0 && T_F(m->f_hat)[1] == 0);
}

T_TEST(threads)
{
    static const vq_case c = { 3, 2, 100, 5, 19, 0, { 1, 2, 5 } };
    ts_stream *one;
    T_OK(be->stream_new(&one, 0, 1));
    t_buf *out[2][9];
    for (int i = 0; i < 2; i++) {
        setup *m = new_oracle(be, s, &c)->m;
        forward(be, i ? one : s, m);
        gradients r = backward(be, i ? one : s, m, m->h_f, 10);
        t_buf *list[9] = { m->f_hat, m->idx, m->z, m->stats, r.df, r.dbook, r.dw[0], r.dw[1], r.db[1] };
        memcpy(out[i], list, sizeof list);
    }
    for (int j = 0; j < 9; j++)
        ck_assert_msg(memcmp(out[0][j]->host, out[1][j]->host, out[0][j]->bytes) == 0, "output %d", j);
    be->stream_free(one);
}

int main(void)
{
    Suite *u = t_suite("residual_vq");
    T_ADD(u, golden);
    T_ADD(u, forward_random);
    T_ADD(u, backward_random);
    T_ADD(u, little_shared_memory);
    T_ADD(u, empty_batch_nan_and_no_codebook_gradient);
    T_ADD(u, code_of_length_zero);
    T_ADD(u, threads);
    return t_run(u);
}
