/* test_digit_head.c - the digit head's loss and all gradients, of every backend, against the formula in double.
 *
 * Inputs    odd sizes, one digit alone (no E), the widest softmaxes, more rows than one chunk holds, activations of
 *           exactly 0 (their gradient is 0), scales that differ from token to token.
 * Tolerance dots over M channels and sums over N rows in float32, of terms of both signs: 1e-5 of the largest value is
 *           some ten times what was seen, and a hundredth of a term that is missing or doubled.
 */
#include <stdio.h>

#include "tests/t.h"

static const double TOL = 1e-5;

typedef struct {
    const char *name;
    int64_t N, T;
    int M, K, D;
    int32_t level[TS_MAX_D];
} head_case;

static const head_case CASES[] = {
    { "smallest", 1, 1, 1, 1, 1, { 2 } },
    { "one digit", 31, 5, 7, 2, 1, { 9 } },
    { "usual", 31, 85, 128, 4, 8, { 5, 5, 5, 5, 5, 5, 5, 5 } },
    { "odd", 257, 85, 31, 4, 5, { 7, 5, 5, 5, 5 } },
    { "many rows", 2100, 21, 33, 3, 3, { 3, 2, 4 } },
    { "wide", 5, 5, 17, 1, 4, { 250, 2, 2, 2 } },
    { "empty", 0, 5, 16, 2, 2, { 3, 3 } },
};
enum { N_CASES = sizeof CASES / sizeof *CASES };

/* Everything of one problem, or of its gradient, in double. */
typedef struct {
    double *u, *b, *E, *W, *c;
} values;

static int64_t rows_of_E(const head_case *h)
{
    int64_t rows = 0;
    for (int i = 0; i + 1 < h->D; i++) rows += h->level[i];
    return rows;
}

static int64_t sum_L(const head_case *h)
{
    return rows_of_E(h) + h->level[h->D - 1];
}

static int digit_of(const head_case *h, int32_t code, int i)
{
    for (int j = 0; j < i; j++) code /= h->level[j];
    return code % h->level[i];
}

static int offset(const head_case *h, int i)
{
    int off = 0;
    for (int j = 0; j < i; j++) off += h->level[j];
    return off;
}

static double activation(const head_case *h, const values *p, int64_t n, int32_t code, int i, int m)
{
    double a = p->u[n * h->M + m] + p->b[i * h->M + m];
    for (int j = 0; j < i; j++) a += p->E[(offset(h, j) + digit_of(h, code, j)) * h->M + m];
    return a;
}

/* Loss of digit i of row n, and prob (L_i) if not NULL. */
static double oracle_loss(const head_case *h, const values *p, int64_t n, int32_t code, int scale, int i, double *prob)
{
    double z[TS_MAX_SUM_L] = { 0 }, sum = 0;
    for (int l = 0; l < h->level[i]; l++) {
        int row = offset(h, i) + l;
        z[l] = p->c[scale * sum_L(h) + row];
        for (int m = 0; m < h->M; m++) z[l] += p->W[row * h->M + m] * fmax(activation(h, p, n, code, i, m), 0);
        sum += exp(z[l]);
    }
    for (int l = 0; prob && l < h->level[i]; l++) prob[l] = exp(z[l]) / sum;
    return log(sum) - z[digit_of(h, code, i)];
}

/* d += the gradient of scale_grad * (loss of digit i of row n). */
static void oracle_grad(const head_case *h, const values *d, const values *p, int64_t n, int32_t code, int scale, int i,
                        double scale_grad)
{
    double prob[TS_MAX_SUM_L];
    oracle_loss(h, p, n, code, scale, i, prob);
    for (int l = 0; l < h->level[i]; l++) {
        int row = offset(h, i) + l;
        double dz = scale_grad * (prob[l] - (l == digit_of(h, code, i)));
        d->c[scale * sum_L(h) + row] += dz;
        for (int m = 0; m < h->M; m++) {
            double a = activation(h, p, n, code, i, m), da = dz * p->W[row * h->M + m];
            if (!(a > 0)) continue;
            d->W[row * h->M + m] += dz * a;
            d->u[n * h->M + m] += da;
            d->b[i * h->M + m] += da;
            for (int j = 0; j < i; j++) d->E[(offset(h, j) + digit_of(h, code, j)) * h->M + m] += da;
        }
    }
}

/* One problem: float inputs, their doubles, and the buffers of a backend. */
typedef struct {
    int64_t n[5]; /* elements of u, b, E, W, c */
    float *in[5];
    int32_t *code, *scale_of;
    values p;
    ts_digit_head d;
} problem;

static double *doubles(const float *x, int64_t n)
{
    double *y = t_alloc((size_t)n * sizeof *y);
    for (int64_t i = 0; x && i < n; i++) y[i] = x[i];
    return y;
}

static problem make(const head_case *h)
{
    problem q = { .n = { h->N * h->M, h->D * h->M, rows_of_E(h) * h->M, sum_L(h) * h->M, h->K * sum_L(h) } };
    T_OK(ts_digit_head_init(&q.d, h->level, h->D, h->M, h->K));
    for (int k = 0; k < 5; k++) q.in[k] = t_normals(q.n[k], k == 3 ? 2 / sqrt(h->M) : 1, 20 + (uint64_t)k);
    for (int64_t m = 0; m < h->M && h->N > 3; m += 2) q.in[0][3 * h->M + m] = -q.in[1][m]; /* a_0 = 0 */
    uint64_t seed = 77, V = 1;
    for (int i = 0; i < h->D; i++) V *= (uint64_t)h->level[i];
    q.code = t_alloc((size_t)h->N * 4);
    q.scale_of = t_alloc((size_t)h->T * 4);
    for (int64_t n = 0; n < h->N; n++) q.code[n] = (int32_t)(t_next(&seed) % V);
    if (h->N > 1) q.code[0] = (int32_t)V - 1, q.code[1] = 0;
    for (int64_t t = 0; t < h->T; t++) q.scale_of[t] = (int32_t)(t * h->K / h->T);
    q.p = (values){ doubles(q.in[0], q.n[0]), doubles(q.in[1], q.n[1]), doubles(q.in[2], q.n[2]),
                    doubles(q.in[3], q.n[3]), doubles(q.in[4], q.n[4]) };
    return q;
}

typedef struct {
    t_buf *loss, *grad[5]; /* du, db, dE, dW, dc */
} result;

static float first(int64_t i) /* what grad holds before the call */
{
    return (float)(i % 7) - 3;
}

/* Run the op on stream s1; backward 0: the loss alone. */
static result compute(const ts_backend *be, ts_stream *s, ts_stream *s1, const head_case *h, const problem *q,
                      float scale, int backward)
{
    t_buf *in[5], *code = t_in(be, s, q->code, h->N, 4), *scale_of = t_in(be, s, q->scale_of, h->T, 4);
    result r = { .loss = T_OUTF(h->N * h->D) };
    for (int k = 0; k < 5; k++) {
        in[k] = T_INF(q->in[k], q->n[k]);
        r.grad[k] = T_OUTF(q->n[k]);
        for (int64_t i = 0; k > 0 && i < q->n[k]; i++) T_F(r.grad[k])[i] = first(i);
        if (k > 0) t_up(r.grad[k]);
    }
    ts_digit_params param = { in[1]->dev, in[2]->dev, in[3]->dev, in[4]->dev };
    ts_digit_params grad = { r.grad[1]->dev, r.grad[2]->dev, r.grad[3]->dev, r.grad[4]->dev };
    if (h->D == 1) param.E = grad.E = NULL;
    t_buf *scratch = t_out(be, s, (int64_t)be->digit_head_scratch(s1, &q->d, h->N), 1);
    T_OK(be->digit_head(s1, r.loss->dev, backward ? r.grad[0]->dev : NULL, backward ? &grad : NULL, in[0]->dev,
                        code->dev, scale_of->dev, &param, scale, &q->d, h->N, h->T, scratch->dev));
    T_OK(be->stream_sync(s1));
    t_down(scratch), t_down(r.loss);
    for (int k = 0; k < 5; k++) t_down(r.grad[k]);
    return r;
}

static void check_case(const ts_backend *be, ts_stream *s, const head_case *h)
{
    static const char *const name[] = { "du", "db", "dE", "dW", "dc" };
    float scale = 0.0625f;
    problem q = make(h);
    double *loss = t_alloc((size_t)(h->N * h->D) * 8), *d[5];
    for (int k = 0; k < 5; k++) d[k] = doubles(NULL, q.n[k]);
    for (int k = 1; k < 5; k++)
        for (int64_t i = 0; i < q.n[k]; i++) d[k][i] = first(i);
    values dv = { d[0], d[1], d[2], d[3], d[4] };
    for (int64_t n = 0; n < h->N; n++)
        for (int i = 0; i < h->D; i++) {
            int k = q.scale_of[n % h->T];
            loss[n * h->D + i] = oracle_loss(h, &q.p, n, q.code[n], k, i, NULL);
            oracle_grad(h, &dv, &q.p, n, q.code[n], k, i, scale);
        }
    result r = compute(be, s, s, h, &q, scale, 1);
    char what[64];
    snprintf(what, sizeof what, "%s: loss", h->name);
    t_close(what, T_F(r.loss), loss, h->N * h->D, TOL);
    for (int k = 0; k < 5; k++) {
        snprintf(what, sizeof what, "%s: %s", h->name, name[k]);
        t_close(what, T_F(r.grad[k]), d[k], q.n[k], TOL);
    }
    result alone = compute(be, s, s, h, &q, scale, 0);
    snprintf(what, sizeof what, "%s: loss alone", h->name);
    t_close(what, T_F(alone.loss), loss, h->N * h->D, TOL);
    for (int k = 1; k < 5; k++)
        for (int64_t i = 0; i < q.n[k]; i++) ck_assert(T_F(alone.grad[k])[i] == first(i));
}

T_TEST(against_formula)
{
    for (int i = 0; i < N_CASES; i++) check_case(be, s, &CASES[i]);
}

/* The oracle's gradients are the slopes of the oracle's loss, in every direction. */
T_TEST(oracle_against_differences)
{
    (void)be, (void)s;
    static const head_case h = { "differences", 4, 2, 5, 2, 3, { 3, 2, 4 } };
    problem q = make(&h);
    double *p[5] = { q.p.u, q.p.b, q.p.E, q.p.W, q.p.c }, *d[5], e = 1e-6;
    for (int64_t m = 0; m < h.M; m++) p[0][3 * h.M + m] += 0.1; /* off the kink */
    for (int k = 0; k < 5; k++) d[k] = doubles(NULL, q.n[k]);
    values dv = { d[0], d[1], d[2], d[3], d[4] };
    for (int64_t n = 0; n < h.N; n++)
        for (int i = 0; i < h.D; i++) oracle_grad(&h, &dv, &q.p, n, q.code[n], q.scale_of[n % h.T], i, 0.5);
    for (int k = 0; k < 5; k++)
        for (int64_t at = 0; at < q.n[k]; at++) {
            double keep = p[k][at], slope = 0;
            for (int side = -1; side <= 1; side += 2) {
                p[k][at] = keep + side * e;
                for (int64_t n = 0; n < h.N; n++)
                    for (int i = 0; i < h.D; i++)
                        slope += side * oracle_loss(&h, &q.p, n, q.code[n], q.scale_of[n % h.T], i, NULL) / (2 * e);
            }
            p[k][at] = keep;
            T_NEAR(d[k][at], 0.5 * slope, 1e-8); /* e^2 and 1e-15/e */
        }
}

T_TEST(thread_count_changes_no_bit)
{
    const head_case *h = &CASES[4];
    problem q = make(h);
    result want = compute(be, s, s, h, &q, 0.5f, 1);
    for (int threads = 1; threads <= 3; threads += 2) {
        ts_stream *other;
        T_OK(be->stream_new(&other, 0, threads));
        result got = compute(be, s, other, h, &q, 0.5f, 1);
        ck_assert_mem_eq(T_F(got.loss), T_F(want.loss), want.loss->bytes);
        for (int k = 0; k < 5; k++) ck_assert_mem_eq(T_F(got.grad[k]), T_F(want.grad[k]), want.grad[k]->bytes);
        be->stream_free(other);
    }
}

/* A NaN in u is seen in the loss of its row and nowhere else. */
T_TEST(nan_is_seen)
{
    const head_case *h = &CASES[2];
    problem q = make(h);
    q.in[0][5 * h->M + 9] = NAN;
    result r = compute(be, s, s, h, &q, 1, 0);
    for (int i = 0; i < h->N * h->D; i++) T_TRUE(!isnan(T_F(r.loss)[i]) == (i / h->D != 5));
}

T_TEST(init)
{
    (void)be, (void)s;
    ts_digit_head d;
    int32_t level[TS_MAX_D + 1] = { 7, 5, 3 };
    T_OK(ts_digit_head_init(&d, level, 3, 16, 2));
    T_TRUE(d.D == 3 && d.M == 16 && d.K == 2 && d.sum_L == 15);
    T_TRUE(d.basis[0] == 1 && d.basis[1] == 7 && d.basis[2] == 35);
    T_TRUE(d.off[0] == 0 && d.off[1] == 7 && d.off[2] == 12);
    T_STATUS(TS_E_ARG, ts_digit_head_init(&d, level, 0, 16, 2));
    T_STATUS(TS_E_ARG, ts_digit_head_init(&d, level, TS_MAX_D + 1, 16, 2));
    T_STATUS(TS_E_ARG, ts_digit_head_init(&d, level, 3, 0, 2));
    T_STATUS(TS_E_ARG, ts_digit_head_init(&d, level, 3, 16, 0));
    T_STATUS(TS_E_ARG, ts_digit_head_init(&d, (int32_t[]){ 3, 1 }, 2, 16, 1));
    T_STATUS(TS_E_ARG, ts_digit_head_init(&d, (int32_t[]){ 255, 2 }, 2, 16, 1));                 /* sum 257 */
    T_OK(ts_digit_head_init(&d, (int32_t[]){ 254, 2 }, 2, 16, 1));                               /* sum 256 */
    T_STATUS(TS_E_ARG, ts_digit_head_init(&d, (int32_t[]){ 40, 40, 40, 40, 40, 40 }, 6, 16, 1)); /* 4.1e9 */
    T_STATUS(TS_E_ARG, ts_digit_head_init(&d, (int32_t[]){ 2147483647, 2147483647 }, 2, 16, 1));
}

T_TEST(half_a_backward_is_refused)
{
    ts_digit_head d;
    T_OK(ts_digit_head_init(&d, CASES[6].level, 2, 16, 2));
    float x = 0;
    ts_digit_params p = { 0 };
    T_STATUS(TS_E_ARG, be->digit_head(s, NULL, &x, NULL, NULL, NULL, NULL, &p, 1, &d, 0, 1, NULL));
    T_STATUS(TS_E_ARG, be->digit_head(s, NULL, NULL, &p, NULL, NULL, NULL, &p, 1, &d, 0, 1, NULL));
}

int main(void)
{
    Suite *u = t_suite("digit_head");
    T_ADD(u, against_formula);
    T_ADD1(u, oracle_against_differences);
    T_ADD(u, thread_count_changes_no_bit);
    T_ADD(u, nan_is_seen);
    T_ADD1(u, init);
    T_ADD(u, half_a_backward_is_refused);
    return t_run(u);
}
