/* test_graph.c - gradients of every tape op, end to end, against finite differences of the tape's own forward.
 *
 * A case is a small net that ends in a loss; its inputs are parameters, so every gradient can be read. The difference
 * quotient has five points (error h^4) with h = 1/256, in float32: rounding of the values, some 1e-7 of the loss,
 * divided by h gives 2e-5 of the loss, the truncation is of the same order. Wrong wiring is off by far more than the
 * tolerance of 2e-3 of the largest gradient of a parameter. Quantizers are not differentiable: there the tape must pass
 * on what the op's own backward gives, bit for bit.
 */
#include "host/params.h"
#include "tests/t.h"

enum { MAX_IN = 8, TRIED = 16 };

typedef struct {
    int rank;
    int64_t dim[TS_MAX_RANK];
} shape;

typedef double net_fn(ts_graph *g, ts_tensor *const *in);

typedef struct {
    const char *name;
    net_fn *fn;
    shape in[MAX_IN];
} net_case;

/* --- ends of nets --- */

static double l2(ts_graph *g, ts_tensor *out)
{
    T_OK(ts_graph_status(g));
    int64_t n = ts_tensor_count(out);
    float *x = t_alloc((size_t)n * sizeof *x), *target = t_normals(n, 1, 77);
    T_OK(tg_download(g, x, out));
    tg_pixel_loss(g, out, tg_upload(g, target, TS_F32, 1, TG_DIMS(n)), 0, 1);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += ((double)x[i] - target[i]) * ((double)x[i] - target[i]);
    return sum / (double)n;
}

static ts_tensor *integers(ts_graph *g, int rank, const int64_t *dim, int32_t below, uint64_t seed)
{
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dim[i];
    int32_t *x = t_alloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = (int32_t)(t_next(&seed) % (uint64_t)below);
    return tg_upload(g, x, TS_I32, rank, dim);
}

/* --- nets --- */

static double linear(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_linear(g, in[0], in[1], in[2]));
}

static double linear_without_bias(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_linear(g, in[0], in[1], NULL));
}

static double linear_gelu(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_linear_act(g, in[0], in[1], in[2], TS_GELU_TANH));
}

static double conv(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_conv2d(g, in[0], in[1], in[2], 1, 1, 1));
}

static double conv_down(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_conv2d(g, in[0], in[1], NULL, 2, 0, 1));
}

static double group_norm(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_group_norm(g, in[0], in[1], in[2], 2, 1e-6f, 0));
}

static double group_norm_silu(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_group_norm(g, in[0], in[1], in[2], 3, 1e-6f, 1));
}

static double silu(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_act(g, in[0], TS_SILU));
}

static double gelu(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_act(g, in[0], TS_GELU_TANH));
}

static double add(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_add(g, in[0], in[1]));
}

static double add_rows(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_add_rows(g, in[0], in[1]));
}

static double scale_rows(ts_graph *g, ts_tensor *const *in)
{
    static const float factor[] = { 0, 1.25f, -2 };
    return l2(g, tg_scale_rows(g, in[0], tg_upload(g, factor, TS_F32, 1, TG_DIMS(3))));
}

static double nearest2x(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_nearest2x(g, in[0]));
}

static double area(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_area(g, in[0], 3, 2));
}

static double embedding(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_embedding(g, in[0], integers(g, 2, TG_DIMS(2, 5), 4, 3)));
}

static double concat(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_concat_tokens(g, in[0], in[1]));
}

static double concat_with_itself(ts_graph *g, ts_tensor *const *in)
{
    ts_tensor *x = tg_act(g, in[0], TS_SILU);
    return l2(g, tg_concat_tokens(g, x, x));
}

static double attention(ts_graph *g, ts_tensor *const *in)
{
    static const int32_t end[] = { 1, 5, 5, 5, 5 };
    return l2(g, tg_attention(g, in[0], NULL, tg_upload(g, end, TS_I32, 1, TG_DIMS(5)), 2, 0.4f));
}

static double attention_l2_norm(ts_graph *g, ts_tensor *const *in)
{
    return l2(g, tg_attention(g, in[0], in[1], NULL, 2, 1));
}

/* x + x: both gradients are one block. */
static double add_to_itself(ts_graph *g, ts_tensor *const *in)
{
    ts_tensor *x = tg_act(g, in[0], TS_SILU);
    return l2(g, tg_add(g, x, x));
}

/* Sums that share inputs: blocks of gradients are shared, and must be parted before anything is added to one of them.
 */
static double shared_sums(ts_graph *g, ts_tensor *const *in)
{
    ts_tensor *a = tg_act(g, in[0], TS_SILU), *b = tg_act(g, in[1], TS_GELU_TANH);
    ts_tensor *c = tg_add(g, a, b), *d = tg_add(g, c, a), *e = tg_add(g, tg_act(g, c, TS_SILU), d);
    return l2(g, tg_add(g, e, b));
}

/* Rows whose gradient is a block shared with the sum that they are added to: it must be copied before more is added. */
static double rows_of_a_sum(ts_graph *g, ts_tensor *const *in)
{
    ts_tensor *a = tg_act(g, in[0], TS_SILU), *b = tg_act(g, in[1], TS_SILU), *r = tg_act(g, in[1], TS_GELU_TANH);
    ts_tensor *p = tg_add_rows(g, a, r), *q = tg_add(g, r, b);
    return l2(g, tg_add(g, q, p));
}

/* A parameter that two ops read, one of them through a view. */
static double parameter_twice(ts_graph *g, ts_tensor *const *in)
{
    ts_tensor *w = tg_reshape(g, in[1], 2, TG_DIMS(4, 4));
    ts_tensor *y = tg_linear(g, in[0], in[1], NULL);
    return l2(g, tg_linear(g, tg_act(g, y, TS_SILU), w, NULL));
}

/* Views of views, of an inner tensor and of a parameter. */
static double reshape(ts_graph *g, ts_tensor *const *in)
{
    ts_tensor *x = tg_reshape(g, tg_act(g, in[0], TS_SILU), 3, TG_DIMS(2, 6, 4));
    ts_tensor *y = tg_linear(g, x, in[1], NULL),
              *z = tg_reshape(g, tg_reshape(g, x, 2, TG_DIMS(4, 12)), 3, TG_DIMS(2, 6, 4));
    return l2(g, tg_add(g, tg_reshape(g, y, 1, TG_DIMS(48)), tg_reshape(g, z, 1, TG_DIMS(48))));
}

/* in: x (B,T,C), modulation input (B,C), its weight (6C,C), weight (C,C). */
static double ada_norm_chain(ts_graph *g, ts_tensor *const *in)
{
    ts_tensor *x = tg_act(g, in[0], TS_SILU), *a = tg_linear(g, in[1], in[2], NULL);
    ts_tensor *h = tg_ada_norm(g, &x, NULL, NULL, tg_chunk(g, a, 2, 6), tg_chunk(g, a, 4, 6), 1e-6f);
    h = tg_linear(g, h, in[3], NULL);
    h = tg_ada_norm(g, &x, h, tg_chunk(g, a, 0, 6), tg_chunk(g, a, 3, 6), tg_chunk(g, a, 5, 6), 1e-6f);
    h = tg_act(g, h, TS_GELU_TANH);
    h = tg_ada_norm(g, &x, h, NULL, tg_chunk(g, a, 3, 6), tg_chunk(g, a, 1, 6), 1e-6f);
    return l2(g, tg_add(g, h, x)); /* the stream itself is read too */
}

static double ada_norm_alone(ts_graph *g, ts_tensor *const *in)
{
    ts_tensor *x = in[0];
    return l2(g, tg_ada_norm(g, &x, NULL, NULL, in[1], in[2], 1e-6f));
}

/* The same tensor as stream and as what is added to it. */
static double ada_norm_twice(ts_graph *g, ts_tensor *const *in)
{
    ts_tensor *x = tg_act(g, in[0], TS_SILU);
    return l2(g, tg_ada_norm(g, &x, x, in[3], in[1], in[2], 1e-6f));
}

static double pixel_loss(ts_graph *g, ts_tensor *const *in)
{
    enum { N = 35 };
    float *target = t_alloc(N * sizeof *target), x[N], sums[2]; /* far from every x: |x - target| has no kink there */
    for (int i = 0; i < N; i++) target[i] = i % 2 ? 20 : -20;
    T_OK(tg_download(g, sums, tg_pixel_loss(g, in[0], tg_upload(g, target, TS_F32, 1, TG_DIMS(N)), 1.5f, 0.25f)));
    T_OK(tg_download(g, x, in[0]));
    double l = 0;
    for (int i = 0; i < N; i++) l += 1.5 * fabs((double)x[i] - target[i]) + 0.25 * pow((double)x[i] - target[i], 2);
    T_NEAR(1.5 * sums[0] + 0.25 * sums[1], l, 1e-5 * l);
    return l / N;
}

static double cross_entropy(ts_graph *g, ts_tensor *const *in)
{
    float rows[6];
    T_OK(tg_download(g, rows, tg_cross_entropy(g, in[0], integers(g, 2, TG_DIMS(2, 3), 7, 5), 2)));
    double sum = 0;
    for (int i = 0; i < 6; i++) sum += rows[i];
    return 2 * sum / 6;
}

/* in: u (B,T,M), b, E, W, c. */
static double digit_head(ts_graph *g, ts_tensor *const *in)
{
    static const int32_t level[] = { 3, 4, 2 }, scale_of[] = { 0, 1, 1, 1 };
    ts_digit_head d;
    T_OK(ts_digit_head_init(&d, level, 3, 6, 2));
    ts_tensor *code = integers(g, 2, TG_DIMS(2, 4), 24, 9), *scale = tg_upload(g, scale_of, TS_I32, 1, TG_DIMS(4));
    float digits[24];
    T_OK(tg_download(g, digits, tg_digit_head(g, in[0], in[1], in[2], in[3], in[4], code, scale, &d, 0.5f)));
    double sum = 0;
    for (int i = 0; i < 24; i++) sum += digits[i];
    return 0.5 * sum / 8;
}

static const net_case CASES[] = {
    { "linear", linear, { { 3, { 2, 3, 5 } }, { 2, { 4, 5 } }, { 1, { 4 } } } },
    { "linear, then GELU", linear_gelu, { { 3, { 2, 3, 5 } }, { 2, { 4, 5 } }, { 1, { 4 } } } },
    { "linear without bias", linear_without_bias, { { 2, { 3, 5 } }, { 2, { 4, 5 } } } },
    { "conv", conv, { { 4, { 2, 5, 4, 3 } }, { 4, { 2, 3, 3, 3 } }, { 1, { 2 } } } },
    { "conv down", conv_down, { { 4, { 1, 6, 6, 3 } }, { 4, { 5, 3, 3, 3 } } } },
    { "group_norm", group_norm, { { 4, { 2, 3, 3, 4 } }, { 1, { 4 } }, { 1, { 4 } } } },
    { "group_norm silu", group_norm_silu, { { 4, { 2, 3, 3, 6 } }, { 1, { 6 } }, { 1, { 6 } } } },
    { "silu", silu, { { 2, { 3, 7 } } } },
    { "gelu", gelu, { { 2, { 3, 7 } } } },
    { "add", add, { { 2, { 3, 7 } }, { 2, { 3, 7 } } } },
    { "add_rows", add_rows, { { 3, { 2, 6, 3 } }, { 3, { 1, 3, 3 } } } },
    { "scale_rows", scale_rows, { { 3, { 3, 2, 4 } } } },
    { "nearest2x", nearest2x, { { 4, { 2, 3, 2, 3 } } } },
    { "area", area, { { 4, { 2, 5, 4, 3 } } } },
    { "embedding", embedding, { { 2, { 4, 3 } } } },
    { "concat", concat, { { 3, { 2, 1, 4 } }, { 3, { 2, 3, 4 } } } },
    { "concat with itself", concat_with_itself, { { 3, { 2, 3, 4 } } } },
    { "attention", attention, { { 3, { 2, 5, 24 } } } },
    { "attention l2 norm", attention_l2_norm, { { 3, { 2, 5, 24 } }, { 4, { 1, 2, 1, 1 } } } },
    { "add to itself", add_to_itself, { { 2, { 3, 7 } } } },
    { "shared sums", shared_sums, { { 2, { 3, 7 } }, { 2, { 3, 7 } } } },
    { "rows of a sum", rows_of_a_sum, { { 2, { 3, 7 } }, { 2, { 3, 7 } } } },
    { "parameter twice", parameter_twice, { { 2, { 3, 4 } }, { 2, { 4, 4 } } } },
    { "reshape", reshape, { { 2, { 12, 4 } }, { 2, { 4, 4 } } } },
    { "ada_norm chain", ada_norm_chain, { { 3, { 2, 3, 4 } }, { 2, { 2, 4 } }, { 2, { 24, 4 } }, { 2, { 4, 4 } } } },
    { "ada_norm alone", ada_norm_alone, { { 3, { 2, 3, 4 } }, { 2, { 2, 4 } }, { 2, { 2, 4 } } } },
    { "ada_norm twice", ada_norm_twice, { { 3, { 2, 3, 4 } }, { 2, { 2, 4 } }, { 2, { 2, 4 } }, { 2, { 2, 4 } } } },
    { "pixel_loss", pixel_loss, { { 2, { 5, 7 } } } },
    { "cross_entropy", cross_entropy, { { 3, { 2, 3, 7 } } } },
    { "digit_head",
      digit_head,
      { { 3, { 2, 4, 6 } }, { 2, { 3, 6 } }, { 2, { 7, 6 } }, { 2, { 9, 6 } }, { 2, { 2, 9 } } } },
};

/* --- the comparison --- */

typedef struct {
    ts_device *d;
    ts_params *p;
    ts_graph *g;
    ts_tensor *in[MAX_IN];
    int n;
} net;

static net open_net(const char *backend, const shape *in)
{
    net m = { .n = 0 };
    T_OK(ts_device_open(&m.d, backend, 1, TS_MATH_F32));
    T_OK(ts_params_new(&m.p));
    for (; m.n < MAX_IN && in[m.n].rank; m.n++)
        m.in[m.n] = ts_params_add(m.p, ts_init_all(TS_INIT_NORMAL, 0.7f), 0, in[m.n].rank, in[m.n].dim, "in.%d", m.n);
    T_OK(ts_params_allocate(m.p, m.d, 1));
    T_OK(ts_params_init(m.p, 11));
    T_OK(ts_graph_new(&m.g, m.d, 1));
    return m;
}

static void close_net(net *m)
{
    ts_graph_free(m->g);
    ts_params_free(m->p);
    T_EQI(m->d->in_use, 0);
    ts_device_close(m->d);
}

static double value_at(net *m, net_fn *fn, float *place, float x)
{
    T_OK(m->d->be->upload(m->d->s, place, &x, sizeof x));
    ts_graph_reset(m->g);
    return fn(m->g, m->in);
}

static double difference(net *m, net_fn *fn, float *place)
{
    const float h = 1.0f / 256;
    float x;
    T_OK(m->d->be->download(m->d->s, &x, place, sizeof x));
    double near = value_at(m, fn, place, x + h) - value_at(m, fn, place, x - h);
    double far = value_at(m, fn, place, x + 2 * h) - value_at(m, fn, place, x - 2 * h);
    T_OK(m->d->be->upload(m->d->s, place, &x, sizeof x));
    return (8 * near - far) / (12 * h);
}

static float *gradient(const net *m, int i)
{
    int64_t n = ts_tensor_count(m->in[i]);
    float *x = t_alloc((size_t)n * sizeof *x);
    T_OK(m->d->be->download(m->d->s, x, m->in[i]->grad, (size_t)n * sizeof *x));
    return x;
}

static void compare_input(net *m, const net_case *c, int i, const float *got, double loss)
{
    int64_t n = ts_tensor_count(m->in[i]);
    double want[TRIED], most = 0;
    uint64_t seed = 5;
    int64_t at[TRIED], tried = n < TRIED ? n : TRIED;
    for (int64_t j = 0; j < tried; j++) {
        at[j] = n <= TRIED ? j : (int64_t)(t_next(&seed) % (uint64_t)n);
        want[j] = difference(m, c->fn, (float *)m->in[i]->data + at[j]);
        most = fmax(most, fabs(want[j]));
    }
    for (int64_t j = 0; j < tried; j++)
        ck_assert_msg(fabs(got[at[j]] - want[j]) <= 2e-3 * most + 2e-5 * loss,
                      "%s: input %d, number %lld: gradient %g, expected %g", c->name, i, (long long)at[j], got[at[j]],
                      want[j]);
}

T_TEST(gradients)
{
    (void)s;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        net m = open_net(be->name, CASES[i].in);
        double loss = CASES[i].fn(m.g, m.in);
        T_OK(ts_graph_backward(m.g));
        const float *got[MAX_IN]; /* before the differences: the digit head adds its gradients on the way forward */
        for (int j = 0; j < m.n; j++) got[j] = gradient(&m, j);
        for (int j = 0; j < m.n; j++) compare_input(&m, &CASES[i], j, got[j], loss);
        close_net(&m);
    }
}

/* A second backward adds to what the first one left in the parameters' gradients. */
T_TEST(gradients_accumulate)
{
    (void)s;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        net m = open_net(be->name, CASES[i].in);
        float once[MAX_IN], twice[MAX_IN];
        for (int turn = 0; turn < 2; turn++) {
            ts_graph_reset(m.g);
            CASES[i].fn(m.g, m.in);
            T_OK(ts_graph_backward(m.g));
            for (int j = 0; j < m.n; j++)
                T_OK(be->download(m.d->s, &(turn ? twice : once)[j], m.in[j]->grad, sizeof(float)));
        }
        /* Some ops add part after part, so the sum of two equal gradients may be rounded: a few ulp, of the parts'
         * size. */
        for (int j = 0; j < m.n; j++)
            ck_assert_msg(fabsf(twice[j] - 2 * once[j]) <= 1e-5f * fabsf(once[j]) + 1e-7f, "%s: input %d: %g, then %g",
                          CASES[i].name, j, once[j], twice[j]);
        close_net(&m);
    }
}

/* --- quantizers: the tape passes on what the op's backward gives --- */

enum { B = 2, SIDE = 4, D = 3, N = B * SIDE * SIDE * D, PHI = 9 * D * D };

static void equal_bits(const char *what, const net *m, const float *place, const t_buf *want, int64_t n)
{
    float *got = t_alloc((size_t)n * sizeof *got);
    T_OK(m->d->be->download(m->d->s, got, place, (size_t)n * sizeof *got));
    for (int64_t i = 0; i < n; i++)
        ck_assert_msg(got[i] == ((float *)want->host)[i], "%s: number %lld is %g, expected %g", what, (long long)i,
                      got[i], ((float *)want->host)[i]);
}

static t_buf *zeros(const ts_backend *be, ts_stream *s, int64_t n)
{
    return t_in(be, s, t_alloc((size_t)n * sizeof(float)), n, sizeof(float));
}

/* Puts a loss behind f_hat; returns the gradient that f_hat gets from it. */
static const float *loss_gradient(net *m, ts_tensor *f_hat)
{
    const float *target = t_normals(N, 1, 77);
    tg_pixel_loss(m->g, f_hat, tg_upload(m->g, target, TS_F32, 1, TG_DIMS(N)), 0, 1);
    T_OK(ts_graph_status(m->g));
    float *x = t_alloc(N * sizeof *x);
    ts_params *p; /* the same loss of a parameter, whose gradient can be read */
    ts_graph *g;
    T_OK(ts_params_new(&p));
    ts_tensor *t = ts_params_add(p, ts_init_all(TS_INIT_CONST, 0), 0, 1, TG_DIMS(N), "x");
    T_OK(ts_params_allocate(p, m->d, 1));
    T_OK(m->d->be->copy(m->d->s, t->data, f_hat->data, N * sizeof(float)));
    T_OK(ts_graph_new(&g, m->d, 1));
    tg_pixel_loss(g, t, tg_upload(g, target, TS_F32, 1, TG_DIMS(N)), 0, 1);
    T_OK(ts_graph_backward(g));
    T_OK(m->d->be->download(m->d->s, x, t->grad, N * sizeof *x));
    ts_graph_free(g);
    ts_params_free(p);
    return x;
}

T_TEST(fsq)
{
    static const int32_t level[] = { 5, 4, 7 };
    net m = open_net(be->name, (const shape[MAX_IN]){ { 4, { B, SIDE, SIDE, D } } });
    ts_fsq q;
    T_OK(ts_fsq_init(&q, TS_FSQ_TANH, level, D));
    ts_quantized r = tg_fsq(m.g, m.in[0], &q);
    const t_buf *dy = t_in(be, s, loss_gradient(&m, r.f_hat), N, 4), *z = t_in(be, s, m.in[0]->data, N, 4);
    t_buf *dz = t_out(be, s, N, 4);
    T_OK(ts_graph_backward(m.g));
    T_OK(be->fsq_bwd(s, dz->dev, dy->dev, z->dev, &q, N / D));
    t_down(dz);
    equal_bits("dz", &m, m.in[0]->grad, dz, N);
    close_net(&m);
}

static const shape PYRAMID_IN[MAX_IN] = {
    { 4, { B, SIDE, SIDE, D } }, { 2, { 2, D } }, { 4, { D, 3, 3, D } }, { 1, { D } }
};

T_TEST(residual_fsq)
{
    static const int32_t level[] = { 5, 3, 7 }, side[] = { 2, SIDE };
    net m = open_net(be->name, PYRAMID_IN);
    ts_pyramid p;
    ts_residual_fsq q;
    T_OK(ts_pyramid_init(&p, side, 2, 1, 0.5f));
    T_OK(ts_residual_fsq_init(&q, &p, level, D, 1));
    ts_quantized r = tg_residual_fsq(m.g, m.in[0], m.in[1], &m.in[2], &m.in[3], &q, 0.5f, 0);
    T_OK(ts_graph_status(m.g));
    const t_buf *dy = t_in(be, s, loss_gradient(&m, r.f_hat), N, 4);
    t_buf *f_hat = t_out(be, s, N, 4), *idx = t_out(be, s, B * p.T, 4), *x = t_out(be, s, B * p.T * D, 4);
    t_buf *df = t_out(be, s, N, 4), *dgain = zeros(be, s, 2 * D), *dw = zeros(be, s, PHI), *db = zeros(be, s, D);
    const ts_phi phi = { { m.in[2]->data }, { m.in[3]->data } }, dphi = { { dw->dev }, { db->dev } };
    T_OK(be->residual_fsq_fwd(s, f_hat->dev, idx->dev, x->dev, NULL, NULL, m.in[0]->data, m.in[1]->data, &phi, &q, B,
                              T_SCRATCH(be->residual_fsq_scratch(s, &q, B, 0))));
    T_OK(be->residual_fsq_bwd(s, df->dev, dgain->dev, &dphi, dy->dev, 0.5f, m.in[0]->data, x->dev, idx->dev,
                              m.in[1]->data, &phi, &q, B, T_SCRATCH(be->residual_fsq_scratch(s, &q, B, 1))));
    T_OK(ts_graph_backward(m.g));
    t_down(df), t_down(dgain), t_down(dw), t_down(db);
    equal_bits("df", &m, m.in[0]->grad, df, N);
    equal_bits("dgain", &m, m.in[1]->grad, dgain, 2 * D);
    equal_bits("dw", &m, m.in[2]->grad, dw, PHI);
    equal_bits("db", &m, m.in[3]->grad, db, D);
    close_net(&m);
}

T_TEST(residual_vq)
{
    enum { V = 2 }; /* the codebook takes the place of the gains: (2,D) */
    static const int32_t side[] = { 2, SIDE };
    net m = open_net(be->name, PYRAMID_IN);
    ts_residual_vq q = { .D = D, .V = V, .beta = 0.25f };
    T_OK(ts_pyramid_init(&q.p, side, 2, 1, 0.5f));
    ts_quantized r = tg_residual_vq(m.g, m.in[0], m.in[1], &m.in[2], &m.in[3], &q, 0.75f, 0, 1);
    T_OK(ts_graph_status(m.g));
    const t_buf *dy = t_in(be, s, loss_gradient(&m, r.f_hat), N, 4);
    t_buf *f_hat = t_out(be, s, N, 4), *idx = t_out(be, s, B * q.p.T, 4), *z = t_out(be, s, B * q.p.T * D, 4);
    t_buf *df = t_out(be, s, N, 4), *dcode = zeros(be, s, V * D), *dw = zeros(be, s, PHI), *db = zeros(be, s, D);
    const ts_phi phi = { { m.in[2]->data }, { m.in[3]->data } }, dphi = { { dw->dev }, { db->dev } };
    T_OK(be->residual_vq_fwd(s, f_hat->dev, idx->dev, z->dev, NULL, NULL, m.in[0]->data, m.in[1]->data, &phi, &q, B,
                             T_SCRATCH(be->residual_vq_scratch(s, &q, B, 0))));
    T_OK(be->residual_vq_bwd(s, df->dev, dcode->dev, &dphi, dy->dev, 0.75f, m.in[0]->data, idx->dev, m.in[1]->data,
                             &phi, &q, B, T_SCRATCH(be->residual_vq_scratch(s, &q, B, 1))));
    T_OK(ts_graph_backward(m.g));
    t_down(df), t_down(dcode), t_down(dw), t_down(db), t_down(z);
    equal_bits("z", &m, r.z->data, z, B * q.p.T * D);
    equal_bits("df", &m, m.in[0]->grad, df, N);
    equal_bits("dcode", &m, m.in[1]->grad, dcode, V * D);
    equal_bits("dw", &m, m.in[2]->grad, dw, PHI);
    equal_bits("db", &m, m.in[3]->grad, db, D);
    close_net(&m);
}

int main(void)
{
    Suite *u = t_suite("graph");
    T_ADD1(u, gradients);
    T_ADD1(u, gradients_accumulate);
    T_ADD1(u, fsq);
    T_ADD1(u, residual_fsq);
    T_ADD1(u, residual_vq);
    return t_run(u);
}
