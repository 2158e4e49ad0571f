/* test_fsq_project.c - FSQ between two products against the formulas in double, against the op of FSQ alone, and between backends.
 *
 * Inputs     random; where the weights of the way in choose channels, z is exactly the input, which lies 5e-5 of a level beside
 *            a rounding tie.
 * Pass       z within rounding of the sum in double; idx that of op_fsq for this z, bit for bit; y that of the sum in double over
 *            digits; idx, z and y the same bits as on the CPU; gradients within rounding, slopes by central differences. */
#include <stdio.h>

#include "tests/t.h"

typedef struct {
    int64_t N;
    int C, O;
    ts_fsq_bound bound;
    int D;
    int32_t level[TS_MAX_D];
} project_case;

static const project_case CASES[] = {
    { 600, 32, 32, TS_FSQ_TANH, 5, { 7, 5, 5, 5, 5 } },
    { 1, 1, 1, TS_FSQ_TANH, 1, { 2 } },
    { 67, 13, 21, TS_FSQ_TANH, 4, { 8, 5, 5, 6 } },
    { 130, 12, 7, TS_FSQ_SIGMOID, 3, { 8, 6, 5 } },
    { 33, 256, 256, TS_FSQ_IFSQ, 8, { 5, 5, 5, 5, 5, 5, 5, 5 } },
    { 40, 20, 24, TS_FSQ_TANH, 16, { 3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 3, 3 } },
    { 65600, 1, 2, TS_FSQ_TANH, 1, { 5 } }, /* more pieces than a grid has blocks */
    { 0, 4, 4, TS_FSQ_TANH, 2, { 5, 5 } },
};

/* Everything of one case: the host's numbers and the device's. */
typedef struct {
    ts_fsq_project p;
    float *x, *dy, *w_in, *b_in, *w_out, *b_out;
    t_buf *dev_x, *dev_dy, *dev[4], *y, *idx, *z;
    ts_fsq_weights w;
} given;

static t_buf *floats_in(const ts_backend *be, ts_stream *s, const float *x, int64_t n)
{
    return t_in(be, s, x, n, 4);
}

static given give(const ts_backend *be, ts_stream *s, const project_case *c, uint64_t seed)
{
    given v = { .p = { c->N, c->C, c->O, { 0 } } };
    const int D = c->D;
    T_OK(ts_fsq_init(&v.p.q, c->bound, c->level, D));
    v.x = t_normals(c->N * c->C, 1, seed), v.dy = t_normals(c->N * c->O, 1, seed + 1);
    v.w_in = t_normals(D * c->C, 1.5 / sqrt(c->C), seed + 2), v.b_in = t_normals(D, 0.3, seed + 3);
    v.w_out = t_normals(c->O * D, 1, seed + 4), v.b_out = t_normals(c->O, 0.3, seed + 5);
    v.dev_x = floats_in(be, s, v.x, c->N * c->C), v.dev_dy = floats_in(be, s, v.dy, c->N * c->O);
    v.dev[0] = floats_in(be, s, v.w_in, D * c->C), v.dev[1] = floats_in(be, s, v.b_in, D);
    v.dev[2] = floats_in(be, s, v.w_out, c->O * D), v.dev[3] = floats_in(be, s, v.b_out, c->O);
    v.w = (ts_fsq_weights){ v.dev[0]->dev, v.dev[1]->dev, v.dev[2]->dev, v.dev[3]->dev };
    v.y = T_OUTF(c->N * c->O), v.idx = t_out(be, s, c->N, 4), v.z = T_OUTF(c->N * D);
    return v;
}

static void forward(const ts_backend *be, ts_stream *s, given *v)
{
    T_OK(be->fsq_project_fwd(s, v->y->dev, v->idx->dev, v->z->dev, v->dev_x->dev, &v->w, &v->p));
    t_down(v->y), t_down(v->idx), t_down(v->z);
}

static void check_forward(const ts_backend *be, ts_stream *s, const given *v)
{
    const int C = v->p.C, O = v->p.O, D = v->p.q.D;
    const int64_t N = v->p.N;
    double *z = t_alloc(sizeof *z * (size_t)(N * D)), *y = t_alloc(sizeof *y * (size_t)(N * O));
    t_buf *value = T_OUTF(N * D), *idx = t_out(be, s, N, 4);
    for (int64_t i = 0; i < N * D; i++) {
        z[i] = v->b_in[i % D];
        for (int c = 0; c < C; c++) z[i] += (double)v->x[i / D * C + c] * v->w_in[i % D * C + c];
    }
    t_close("z", T_F(v->z), z, N * D, 1e-6 * sqrt(C)); /* a sum of C roundings */
    T_OK(be->fsq_fwd(s, value->dev, idx->dev, v->z->dev, &v->p.q, N));
    t_down(value), t_down(idx);
    T_TRUE(memcmp(idx->host, v->idx->host, idx->bytes) == 0);
    for (int64_t i = 0; i < N * O; i++) {
        y[i] = v->b_out[i % O];
        for (int d = 0; d < D; d++) {
            const int L = v->p.q.level[d], digit = T_I(v->idx)[i / O] / v->p.q.basis[d] % L;
            y[i] += (double)(digit - L / 2) / (L / 2) * v->w_out[i % O * D + d];
        }
    }
    t_close("y", T_F(v->y), y, N * O, 1e-6);
}

T_TEST(forward_and_decode)
{
    ts_stream *on_cpu;
    const ts_backend *cpu = ts_backend_get("cpu");
    T_OK(cpu->stream_new(&on_cpu, 0, 2));
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        given v = give(be, s, &CASES[i], 7 * i);
        forward(be, s, &v);
        check_forward(be, s, &v);
        t_buf *again = t_out(be, s, v.p.N * v.p.O, 4), *idx = t_out(be, s, v.p.N, 4);
        T_OK(be->fsq_project_decode(s, again->dev, v.idx->dev, &v.w, &v.p));
        t_down(again);
        T_TRUE(memcmp(again->host, v.y->host, again->bytes) == 0);
        T_OK(be->fsq_project_fwd(s, again->dev, idx->dev, NULL, v.dev_x->dev, &v.w, &v.p)); /* no backward follows */
        t_down(again), t_down(idx);
        T_TRUE(memcmp(again->host, v.y->host, again->bytes) == 0 && memcmp(idx->host, v.idx->host, idx->bytes) == 0);
        /* the same bits as on the CPU */
        const int64_t N = v.p.N;
        float *y = t_alloc(v.y->bytes + 1), *z = t_alloc(v.z->bytes + 1);
        int32_t *codes = t_alloc(v.idx->bytes + 1);
        const ts_fsq_weights host = { v.w_in, v.b_in, v.w_out, v.b_out };
        T_OK(cpu->fsq_project_fwd(on_cpu, y, codes, z, v.x, &host, &v.p));
        T_TRUE(N == 0 || (memcmp(y, v.y->host, v.y->bytes) == 0 && memcmp(z, v.z->host, v.z->bytes) == 0 &&
                          memcmp(codes, v.idx->host, v.idx->bytes) == 0));
    }
    cpu->stream_free(on_cpu);
}

/* b of the formula, ties at halves, and its inverse: as in test_fsq.c, for odd levels and tanh. */
static double tie_of(double b, int L)
{
    return atanh(b / ((L - 1) / 2.0 * (1 + 1e-3)));
}

T_TEST(beside_ties)
{
    enum { N = 500, C = 9, O = 6, D = 4 };
    static const project_case c = { N, C, O, TS_FSQ_TANH, D, { 7, 5, 3, 9 } };
    given v = give(be, s, &c, 3);
    uint64_t seed = 11;
    int32_t *want = t_alloc(sizeof *want * N);
    memset(v.w_in, 0, sizeof(float) * D * C), memset(v.b_in, 0, sizeof(float) * D);
    for (int d = 0; d < D; d++) v.w_in[d * C + 2 * d] = 1; /* z is every second channel of x */
    for (int n = 0; n < N; n++) {
        for (int d = 0; d < D; d++) {
            const int L = c.level[d], low = (int)floor(t_uniform(&seed) * (L - 1)), up = t_uniform(&seed) < 0.5;
            v.x[n * C + 2 * d] = (float)tie_of(low - L / 2 + 0.5 + (up ? 5e-5 : -5e-5), L);
            want[n] += (low + up) * v.p.q.basis[d];
        }
    }
    memcpy(v.dev_x->host, v.x, v.dev_x->bytes), memcpy(v.dev[0]->host, v.w_in, v.dev[0]->bytes);
    memcpy(v.dev[1]->host, v.b_in, v.dev[1]->bytes);
    t_up(v.dev_x), t_up(v.dev[0]), t_up(v.dev[1]);
    forward(be, s, &v);
    for (int n = 0; n < N; n++) T_EQI(T_I(v.idx)[n], want[n]);
}

/* The bounded value before rounding, in units of value: what the straight-through gradient is the slope of. */
static double bounded(const ts_fsq *q, double z, int d)
{
    const int L = q->level[d];
    double half = (L - 1) / 2.0, mid = L / 2;
    if (q->bound == TS_FSQ_SIGMOID) return (L - 1) / (1 + exp(-z)) / mid;
    if (q->bound == TS_FSQ_IFSQ) return half * (2 / (1 + exp(-1.6 * z)) - 1) / mid;
    half *= 1 + 1e-3;
    return half * tanh(z + atanh((L % 2 == 0 ? 0.5 : 0) / half)) / mid;
}

typedef struct {
    double *dx, *w_in, *b_in, *w_out, *b_out;
} expected;

static expected gradients(const given *v)
{
    const int C = v->p.C, O = v->p.O, D = v->p.q.D;
    const double e = 1e-5;
    expected r = { t_alloc(sizeof(double) * (size_t)(v->p.N * C)), t_alloc(sizeof(double) * (size_t)(D * C)),
                   t_alloc(sizeof(double) * (size_t)D), t_alloc(sizeof(double) * (size_t)(O * D)),
                   t_alloc(sizeof(double) * (size_t)O) };
    for (int64_t n = 0; n < v->p.N; n++) {
        for (int d = 0; d < D; d++) {
            const double z = T_F(v->z)[n * D + d];
            const int L = v->p.q.level[d], digit = T_I(v->idx)[n] / v->p.q.basis[d] % L;
            double dz = 0;
            for (int o = 0; o < O; o++) {
                const double g = v->dy[n * O + o];
                dz += g * v->w_out[o * D + d];
                r.w_out[o * D + d] += g * (digit - L / 2) / (L / 2);
            }
            dz *= (bounded(&v->p.q, z + e, d) - bounded(&v->p.q, z - e, d)) / (2 * e);
            r.b_in[d] += dz;
            for (int c = 0; c < C; c++) {
                r.dx[n * C + c] += dz * v->w_in[d * C + c];
                r.w_in[d * C + c] += dz * v->x[n * C + c];
            }
        }
        for (int o = 0; o < O; o++) r.b_out[o] += v->dy[n * O + o];
    }
    return r;
}

/* Added to what the gradients hold already. Sums over N tokens in float32: roundings of 6e-8 of what the sum is so far, which do not
 * all go one way. */
static void check_sum(const char *what, t_buf *got, const float *before, double *want, int64_t n, int64_t N)
{
    for (int64_t i = 0; i < n; i++) want[i] += before[i];
    t_down(got);
    t_close(what, T_F(got), want, n, fmax(2e-6, 1e-7 * sqrt((double)N)));
}

T_TEST(backward)
{
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const project_case *c = &CASES[i];
        given v = give(be, s, c, 100 + 7 * i);
        const int D = c->D;
        forward(be, s, &v);
        const int64_t n[4] = { D * c->C, D, c->O * D, c->O };
        float *before[4];
        t_buf *grad[4], *dx = T_OUTF(c->N * c->C);
        for (int j = 0; j < 4; j++) before[j] = t_normals(n[j], 1, 50 + (uint64_t)j), grad[j] = floats_in(be, s, before[j], n[j]);
        const ts_fsq_weights g = { grad[0]->dev, grad[1]->dev, grad[2]->dev, grad[3]->dev }, none = { NULL, NULL, NULL, NULL };
        void *scratch = T_SCRATCH(be->fsq_project_scratch(s, &v.p));
        T_OK(be->fsq_project_bwd(s, dx->dev, &g, v.dev_dy->dev, v.dev_x->dev, v.z->dev, &v.w, &v.p, scratch));
        expected want = gradients(&v);
        t_down(dx);
        t_close("dx", T_F(dx), want.dx, c->N * c->C, 2e-6);
        check_sum("dw_in", grad[0], before[0], want.w_in, n[0], c->N);
        check_sum("db_in", grad[1], before[1], want.b_in, n[1], c->N);
        check_sum("dw_out", grad[2], before[2], want.w_out, n[2], c->N);
        check_sum("db_out", grad[3], before[3], want.b_out, n[3], c->N);
        T_OK(be->fsq_project_bwd(s, NULL, &none, v.dev_dy->dev, v.dev_x->dev, v.z->dev, &v.w, &v.p, scratch)); /* nobody asks */
    }
}

/* y is linear in the weights of the way out and its bias: finite differences of sum(dy * y) are exact but for rounding. */
T_TEST(finite_differences)
{
    enum { N = 21, C = 6, O = 5, D = 3 };
    static const project_case c = { N, C, O, TS_FSQ_TANH, D, { 5, 4, 7 } };
    given v = give(be, s, &c, 9);
    forward(be, s, &v);
    t_buf *dw = floats_in(be, s, t_alloc(sizeof(float) * O * D), O * D), *dx = T_OUTF(N * C);
    const ts_fsq_weights g = { NULL, NULL, dw->dev, NULL };
    T_OK(be->fsq_project_bwd(s, dx->dev, &g, v.dev_dy->dev, v.dev_x->dev, v.z->dev, &v.w, &v.p,
                             T_SCRATCH(be->fsq_project_scratch(s, &v.p))));
    t_down(dw);
    for (int i = 0; i < O * D; i++) {
        double loss[2] = { 0, 0 };
        for (int up = 0; up < 2; up++) {
            T_F(v.dev[2])[i] = v.w_out[i] + (up ? 0.5f : -0.5f);
            t_up(v.dev[2]);
            forward(be, s, &v);
            for (int n = 0; n < N * O; n++) loss[up] += (double)v.dy[n] * T_F(v.y)[n];
        }
        T_F(v.dev[2])[i] = v.w_out[i];
        T_NEAR(T_F(dw)[i], loss[1] - loss[0], 1e-4);
    }
}

/* The emulated device's threads in any order; a backward twice is the same. */
T_TEST(thread_orders)
{
    const project_case *c = &CASES[2];
    float *first = NULL;
    for (unsigned seed = 0; seed < 3; seed++) {
        t_thread_order(seed);
        given v = give(be, s, c, 5);
        forward(be, s, &v);
        t_buf *dw = floats_in(be, s, t_alloc(sizeof(float) * (size_t)(c->D * c->C)), c->D * c->C), *dx = T_OUTF(c->N * c->C);
        const ts_fsq_weights g = { dw->dev, NULL, NULL, NULL };
        T_OK(be->fsq_project_bwd(s, dx->dev, &g, v.dev_dy->dev, v.dev_x->dev, v.z->dev, &v.w, &v.p,
                                 T_SCRATCH(be->fsq_project_scratch(s, &v.p))));
        t_down(dw), t_down(dx);
        if (!first) first = memcpy(t_alloc(dw->bytes), dw->host, dw->bytes);
        T_TRUE(memcmp(first, dw->host, dw->bytes) == 0);
    }
}

T_TEST(refusals)
{
    given v = give(be, s, &CASES[1], 1);
    v.p.C = 257;
    T_STATUS(TS_E_ARG, be->fsq_project_fwd(s, v.y->dev, v.idx->dev, NULL, v.dev_x->dev, &v.w, &v.p));
    T_STATUS(TS_E_ARG, be->fsq_project_decode(s, v.y->dev, v.idx->dev, &v.w, &v.p));
    T_STATUS(TS_E_ARG, be->fsq_project_bwd(s, NULL, &v.w, v.dev_dy->dev, v.dev_x->dev, v.z->dev, &v.w, &v.p, NULL));
    T_TRUE(ts_fsq_project_fits(16, 128, 128) && ts_fsq_project_fits(8, 256, 256) && !ts_fsq_project_fits(9, 256, 256));
    T_TRUE(!ts_fsq_project_fits(1, 0, 1) && !ts_fsq_project_fits(1, 1, 0) && !ts_fsq_project_fits(17, 1, 1));
}

int main(void)
{
    Suite *u = t_suite("fsq_project");
    T_ADD(u, forward_and_decode);
    T_ADD(u, beside_ties);
    T_ADD(u, backward);
    T_ADD(u, finite_differences);
    T_ADD(u, thread_orders);
    T_ADD(u, refusals);
    return t_run(u);
}
