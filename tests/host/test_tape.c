/* test_tape.c - what the tape does with memory and with failures. Gradients: test_graph.c. Contract: host/graph.h. */
#include <stdio.h>

#include "host/params.h"
#include "tests/t.h"

/* A net that uses every kind of node: convolution, norms, attention, AdaLN, views, sums, quantizer and both losses. */
typedef struct {
    ts_device *d;
    ts_params *p;
    ts_tensor *conv_w, *conv_b, *gamma, *beta, *qkv, *ada, *gain, *phi_w, *phi_b, *table, *head[4];
    ts_pyramid pyramid;
    ts_residual_fsq quantizer;
    ts_digit_head digits;
} net;

enum { B = 2, SIDE = 4, D = 4, N = B * SIDE * SIDE * D };

static ts_tensor *weight(net *m, int rank, const int64_t *dim, const char *name)
{
    return ts_params_add(m->p, ts_init_all(TS_INIT_NORMAL, 0.3f), 0, rank, dim, "%s", name);
}

static ts_status open_net(net *m, ts_device *d, int training)
{
    static const int32_t side[] = { 1, 2, SIDE }, level[] = { 3, 5, 3, 3 }, digit_level[] = { 3, 4, 2 };
    *m = (net){ .d = d };
    TS_TRY(ts_pyramid_init(&m->pyramid, side, 3, 1, 0.5f));
    TS_TRY(ts_residual_fsq_init(&m->quantizer, &m->pyramid, level, D, 0));
    TS_TRY(ts_digit_head_init(&m->digits, digit_level, 3, D, 1));
    TS_TRY(ts_params_new(&m->p));
    m->conv_w = weight(m, 4, TG_DIMS(D, 3, 3, D), "conv_w");
    m->conv_b = weight(m, 1, TG_DIMS(D), "conv_b");
    m->gamma = weight(m, 1, TG_DIMS(D), "gamma");
    m->beta = weight(m, 1, TG_DIMS(D), "beta");
    m->qkv = weight(m, 2, TG_DIMS(3 * D, D), "qkv");
    m->ada = weight(m, 2, TG_DIMS(3 * D, D), "ada");
    m->gain = weight(m, 2, TG_DIMS(3, D), "gain");
    m->phi_w = weight(m, 4, TG_DIMS(D, 3, 3, D), "phi_w");
    m->phi_b = weight(m, 1, TG_DIMS(D), "phi_b");
    m->table = weight(m, 2, TG_DIMS(5, D), "table");
    m->head[0] = weight(m, 2, TG_DIMS(3, D), "b");
    m->head[1] = weight(m, 2, TG_DIMS(7, D), "E");
    m->head[2] = weight(m, 2, TG_DIMS(9, D), "W");
    m->head[3] = weight(m, 2, TG_DIMS(1, 9), "c");
    TS_TRY(ts_params_allocate(m->p, d, training));
    return ts_params_init(m->p, 3);
}

/* Ends in both losses; leaves the quantized result on the graph and returns it. */
static ts_tensor *forward(net *m, ts_graph *g)
{
    static const int32_t ids[] = { 4, 1 };
    int32_t codes[B * SIDE * SIDE] = { 0 }, scales[SIDE * SIDE] = { 0 };
    size_t scope = tg_enter(g);
    const float *picture = t_normals(N, 1, 5);
    ts_tensor *x = tg_upload(g, picture, TS_F32, 4, TG_DIMS(B, SIDE, SIDE, D));
    ts_tensor *h = tg_group_norm(g, tg_conv2d(g, x, m->conv_w, m->conv_b, 1, 1, 1), m->gamma, m->beta, 2, 1e-6f, 1);
    x = tg_add(g, tg_move(x), tg_move(h));
    x = tg_reshape(g, tg_move(x), 3, TG_DIMS(B, SIDE * SIDE, D));
    ts_tensor *s = tg_act(g, tg_embedding(g, m->table, tg_upload(g, ids, TS_I32, 1, TG_DIMS(B))), TS_SILU);
    ts_tensor *a = tg_linear(g, tg_move(s), m->ada, NULL);
    h = tg_ada_norm(g, &x, NULL, NULL, tg_chunk(g, a, 0, 3), tg_chunk(g, a, 1, 3), 1e-6f);
    h = tg_attention(g, tg_linear(g, tg_move(h), m->qkv, NULL), NULL, NULL, 2, 0.5f);
    h = tg_ada_norm(g, &x, tg_move(h), tg_chunk(g, a, 2, 3), tg_chunk(g, a, 1, 3), tg_chunk(g, a, 0, 3), 1e-6f);
    tg_digit_head(g, h, m->head[0], m->head[1], m->head[2], m->head[3],
                  tg_upload(g, codes, TS_I32, 2, TG_DIMS(B, SIDE * SIDE)),
                  tg_upload(g, scales, TS_I32, 1, TG_DIMS(SIDE * SIDE)), &m->digits, 1);
    h = tg_reshape(g, tg_move(h), 4, TG_DIMS(B, SIDE, SIDE, D));
    ts_quantized q = tg_residual_fsq(g, tg_move(h), m->gain, &m->phi_w, &m->phi_b, &m->quantizer, 1, 1);
    tg_pixel_loss(g, q.f_hat, tg_upload(g, picture, TS_F32, 4, TG_DIMS(B, SIDE, SIDE, D)), 1, 1);
    return tg_leave(g, scope, q.f_hat);
}

static ts_device *open_device(const ts_backend *be)
{
    ts_device *d;
    T_OK(ts_device_open(&d, be->name, 1, TS_MATH_F32));
    return d;
}

/* --- memory --- */

T_TEST(training_steps_are_equal)
{
    (void)s;
    ts_device *d = open_device(be);
    net m;
    T_OK(open_net(&m, d, 1));
    ts_graph *g;
    T_OK(ts_graph_new(&g, d, 1));
    size_t in_use = d->in_use, held = 0, peak = 0;
    for (int i = 0; i < 4; i++) {
        forward(&m, g);
        T_OK(ts_graph_backward(g));
        const ts_adamw a = { 1e-3f, 0.9f, 0.99f, 1e-8f, 0, 1, 0.9f, i + 1 };
        float norm;
        T_OK(ts_params_step(m.p, &a, &norm));
        T_TRUE(norm > 0 && isfinite(norm));
        ts_graph_reset(g);
        T_EQI(d->in_use, in_use);
        if (i == 0) held = d->held, peak = d->peak;
        T_EQI(d->held, held);
        T_EQI(d->peak, peak);
    }
    ts_graph_free(g);
    ts_graph_free(NULL);
    ts_params_free(m.p);
    T_EQI(d->in_use, 0);
    ts_device_close(d);
}

/* After a scope only its result is left, and inference gives the same numbers as training. */
T_TEST(scopes)
{
    (void)s;
    ts_device *d = open_device(be);
    net m;
    T_OK(open_net(&m, d, 1));
    ts_graph *train, *g;
    T_OK(ts_graph_new(&train, d, 1));
    float want[N], got[N];
    T_OK(tg_download(train, want, forward(&m, train)));
    ts_graph_free(train);

    T_OK(ts_graph_new(&g, d, 0));
    T_TRUE(ts_graph_device(g) == d && !ts_graph_training(g));
    size_t before = d->in_use;
    ts_tensor *first = forward(&m, g);
    T_OK(ts_graph_status(g));
    T_EQI(d->in_use, before + first->memory->bytes);
    ts_tensor *second = forward(&m, g);
    T_EQI(d->in_use, before + 2 * first->memory->bytes);
    T_OK(tg_download(g, got, first));
    T_TRUE(memcmp(got, want, sizeof got) == 0);
    T_OK(tg_download(g, got, second));
    T_TRUE(memcmp(got, want, sizeof got) == 0);
    ts_graph_reset(g);
    T_EQI(d->in_use, before);
    T_TRUE(d->be->grad_norm != NULL && m.conv_w->data != NULL); /* parameters are not the graph's */
    ts_graph_free(g);
    ts_params_free(m.p);
    ts_device_close(d);
}

/* Scopes in scopes; a result from outside is kept; a view keeps what it looks at. */
T_TEST(nested_scopes)
{
    (void)s;
    ts_device *d = open_device(be);
    ts_graph *g;
    T_OK(ts_graph_new(&g, d, 0));
    float x[64], got[64];
    for (int i = 0; i < 64; i++) x[i] = (float)i;
    ts_tensor *outside = tg_upload(g, x, TS_F32, 1, TG_DIMS(64));
    size_t one = d->in_use, outer = tg_enter(g);
    ts_tensor *a = tg_upload(g, x, TS_F32, 2, TG_DIMS(8, 8));
    size_t inner = tg_enter(g);
    ts_tensor *b = tg_add(g, a, a);
    tg_add(g, b, a);
    b = tg_leave(g, inner, tg_reshape(g, b, 1, TG_DIMS(64)));
    T_EQI(d->in_use, 3 * one); /* outside, a, and what b looks at */
    T_OK(tg_download(g, got, b));
    for (int i = 0; i < 64; i++) T_TRUE(got[i] == 2 * x[i]);
    T_TRUE(tg_leave(g, outer, outside) == outside);
    T_EQI(d->in_use, one);
    T_OK(tg_download(g, got, outside));
    T_TRUE(memcmp(got, x, sizeof got) == 0);
    T_TRUE(tg_leave(g, tg_enter(g), NULL) == NULL);
    ts_graph_free(g);
    T_EQI(d->in_use, 0);
    ts_device_close(d);
}

/* tg_move frees an input once it was read, in inference alone. */
T_TEST(moving)
{
    (void)s;
    float x[64] = { 1 };
    for (int training = 0; training < 2; training++) {
        ts_device *d = open_device(be);
        ts_graph *g;
        T_OK(ts_graph_new(&g, d, training));
        ts_tensor *a = tg_upload(g, x, TS_F32, 1, TG_DIMS(64));
        size_t one = d->in_use;
        ts_tensor *b = tg_act(g, tg_move(a), TS_SILU);
        T_OK(ts_graph_status(g));
        T_EQI(d->in_use, (training ? 2 : 1) * one);
        b = tg_twice(g, tg_move(b));
        float got[128];
        T_OK(tg_download(g, got, b));
        T_TRUE(got[0] == got[64] && got[0] > 0.7f);
        if (!training) { /* what was moved is gone */
            ck_assert_ptr_null(tg_act(g, a, TS_SILU));
            T_STATUS(TS_E_INTERNAL, ts_graph_status(g));
            T_TRUE(strstr(ts_error(), "moved") != NULL);
        }
        ts_graph_free(g);
        ts_device_close(d);
    }
    ck_assert_ptr_null(tg_move(NULL));
}

T_TEST(views_of_inference)
{
    (void)s;
    ts_device *d = open_device(be);
    ts_graph *g;
    T_OK(ts_graph_new(&g, d, 0));
    float x[24], got[24];
    for (int i = 0; i < 24; i++) x[i] = (float)i;
    ts_tensor *t = tg_upload(g, x, TS_F32, 3, TG_DIMS(2, 3, 4));
    T_OK(tg_download(g, got, tg_rows(g, t, 2, 3)));
    T_TRUE(memcmp(got, x + 8, 12 * sizeof *x) == 0);
    ck_assert_ptr_null(tg_rows(g, t, 4, 3));
    T_STATUS(TS_E_INTERNAL, ts_graph_status(g));
    ts_graph_reset(g);

    /* A chunk is not contiguous: the ops that cannot read it say so instead of reading something else. */
    ts_tensor *f;
    for (int op = 0; op < 8; op++) {
        t = tg_upload(g, x, TS_F32, 2, TG_DIMS(4, 6));
        ts_tensor *chunk = tg_chunk(g, t, 1, 2), *r = NULL;
        T_TRUE(chunk && chunk->stride == 6 && chunk->dim[1] == 3);
        switch (op) {
        case 0:
            r = tg_act(g, chunk, TS_SILU);
            break;
        case 1:
            r = tg_reshape(g, chunk, 1, TG_DIMS(12));
            break;
        case 2:
            r = tg_add(g, chunk, chunk);
            break;
        case 3:
            r = tg_twice(g, chunk);
            break;
        case 4:
            r = tg_pixel_loss(g, chunk, chunk, 1, 1);
            break;
        case 5:
            r = tg_cross_entropy(g, chunk, tg_zeros(g, TS_I32, 1, TG_DIMS(4)), 1);
            break;
        case 6:
            r = tg_linear(g, chunk, tg_zeros(g, TS_F32, 2, TG_DIMS(2, 3)), NULL);
            break;
        case 7:
            f = tg_zeros(g, TS_I32, 1, TG_DIMS(2)), r = tg_embedding(g, chunk, f);
            break;
        }
        ck_assert_msg(r == NULL && ts_graph_status(g) == TS_E_INTERNAL, "op %d took a chunk", op);
        ts_graph_reset(g);
    }
    t = tg_upload(g, x, TS_F32, 2, TG_DIMS(4, 6));
    T_STATUS(TS_E_INTERNAL, tg_download(g, got, tg_chunk(g, t, 1, 2)));
    ts_graph_free(g);
    ts_device_close(d);
}

/* --- failures --- */

/* The first failure stays: later ops do nothing, its line is kept, and reset starts afresh. */
T_TEST(errors_stick)
{
    (void)s;
    ts_device *d = open_device(be);
    ts_graph *g;
    T_OK(ts_graph_new(&g, d, 1));
    float x[12] = { 0 }, got[12] = { 7 };
    ts_tensor *a = tg_upload(g, x, TS_F32, 2, TG_DIMS(3, 4)), *w = tg_upload(g, x, TS_F32, 2, TG_DIMS(2, 6));
    ck_assert_ptr_null(tg_linear(g, a, w, NULL));
    T_STATUS(TS_E_INTERNAL, ts_graph_status(g));
    char line[256];
    snprintf(line, sizeof line, "%s", ts_error());
    T_TRUE(strstr(line, "linear") && strstr(line, "(3,4)"));
    ck_assert_ptr_null(tg_add(g, a, a));
    ck_assert_ptr_null(tg_upload(g, x, TS_F32, 1, TG_DIMS(3)));
    ck_assert_ptr_null(tg_zeros(g, TS_F32, 1, TG_DIMS(3)));
    ck_assert_ptr_null(tg_add(g, NULL, NULL));
    T_STATUS(TS_E_INTERNAL, tg_download(g, got, a));
    T_STATUS(TS_E_INTERNAL, ts_graph_backward(g));
    ts_graph_fail(g, TS_E_IO);
    T_STATUS(TS_E_INTERNAL, ts_graph_status(g));
    T_TRUE(strcmp(ts_error(), line) == 0 && got[0] == 7);
    ts_graph_reset(g);
    T_OK(ts_graph_status(g));
    T_OK(tg_download(g, got, tg_add(g, tg_upload(g, x, TS_F32, 1, TG_DIMS(12)), tg_zeros(g, TS_F32, 1, TG_DIMS(12)))));
    T_TRUE(got[0] == 0);
    ck_assert_ptr_null(tg_act(g, NULL, TS_SILU));
    T_STATUS(TS_E_INTERNAL, ts_graph_status(g));
    ts_graph_free(g);
    T_EQI(d->in_use, 0);
    ts_device_close(d);
}

static const ts_backend *real;
static int64_t allocations, allowed;

static ts_status counted_alloc(ts_stream *s, void **p, size_t bytes)
{
    if (allowed >= 0 && allocations >= allowed)
        return ts_fail(TS_E_NOMEM, "no memory: %zu bytes were asked for", bytes);
    allocations++;
    return real->mem_alloc(s, p, bytes);
}

/* A training step for which memory ends after `allowed` blocks (-1: never); everything is given back. */
static ts_status step_with(const ts_backend *be)
{
    ts_device *d = open_device(be);
    ts_backend fake = *be;
    fake.mem_alloc = counted_alloc;
    real = d->be;
    d->be = &fake;
    allocations = 0;
    net m;
    ts_graph *g;
    ts_status st = open_net(&m, d, 1);
    T_OK(ts_graph_new(&g, d, 1));
    if (st == TS_OK) forward(&m, g);
    if (st == TS_OK) st = ts_graph_backward(g);
    const ts_adamw a = { 1e-3f, 0.9f, 0.99f, 1e-8f, 0, 1, 0.9f, 1 };
    float norm;
    if (st == TS_OK) st = ts_params_step(m.p, &a, &norm);
    ts_graph_free(g);
    ts_params_free(m.p);
    T_EQI(d->in_use, 0);
    ts_device_close(d);
    return st;
}

T_TEST(out_of_memory_anywhere)
{
    (void)s;
    allowed = -1;
    T_OK(step_with(be));
    int64_t all = allocations;
    T_TRUE(all > 30);
    for (allowed = 0; allowed < all; allowed++) {
        T_STATUS(TS_E_NOMEM, step_with(be));
        T_TRUE(strstr(ts_error(), "bytes were asked for") != NULL);
    }
    T_OK(step_with(be));
}

/* x + x: both gradients are one block, which the second must part from; there is no memory for that. */
T_TEST(out_of_memory_on_the_way_back)
{
    (void)s;
    ts_device *d = open_device(be);
    ts_backend fake = *be;
    fake.mem_alloc = counted_alloc;
    real = d->be;
    d->be = &fake;
    allowed = -1;
    net m;
    T_OK(open_net(&m, d, 1));
    ts_graph *g;
    T_OK(ts_graph_new(&g, d, 1));
    size_t in_use = d->in_use;
    ts_tensor *x = tg_act(g, m.table, TS_SILU);
    x = tg_add(g, x, x);
    tg_pixel_loss(g, x, tg_zeros(g, TS_F32, 1, TG_DIMS(5 * D)), 1, 1);
    T_OK(ts_graph_status(g));
    ts_device_trim(d);
    allowed = allocations;
    T_STATUS(TS_E_NOMEM, ts_graph_backward(g));
    ts_graph_reset(g);
    T_EQI(d->in_use, in_use);
    ts_graph_free(g);
    ts_params_free(m.p);
    T_EQI(d->in_use, 0);
    ts_device_close(d);
}

static ts_conv2d asked;

static ts_status conv2d_that_notes(ts_stream *s, float *y, const void *x, const float *w, const float *b, const ts_conv2d *c, void *scratch)
{
    (void)s, (void)y, (void)x, (void)w, (void)b, (void)scratch;
    asked = *c;
    return TS_OK;
}

/* Only a large convolution (256x256x123x125 multiplications are just enough, 124 outputs are not), and only in training, recurs. */
T_TEST(large_convolutions_of_training_recur)
{
    (void)be, (void)s;
    static const struct {
        int training, outputs, recurs;
    } CASES[] = { { 1, 125, 1 }, { 1, 124, 0 }, { 0, 125, 0 } };
    for (int i = 0; i < 3; i++) {
        ts_device *d;
        ts_graph *g;
        T_OK(ts_device_open(&d, "cpu", 1, TS_MATH_F32));
        ts_backend spy = *d->be;
        spy.conv2d_fwd = conv2d_that_notes;
        d->be = &spy;
        T_OK(ts_graph_new(&g, d, CASES[i].training));
        tg_conv2d(g, tg_empty(g, TS_F32, 4, TG_DIMS(1, 256, 256, 123)), tg_empty(g, TS_F32, 4, TG_DIMS(CASES[i].outputs, 1, 1, 123)), NULL,
                  1, 0, 0);
        T_OK(ts_graph_status(g));
        T_EQI(asked.O, CASES[i].outputs);
        T_EQI(asked.recurs, CASES[i].recurs);
        ts_graph_free(g);
        ts_device_close(d);
    }
}

int main(void)
{
    Suite *u = t_suite("tape");
    T_ADD1(u, training_steps_are_equal);
    T_ADD1(u, scopes);
    T_ADD1(u, nested_scopes);
    T_ADD1(u, moving);
    T_ADD1(u, views_of_inference);
    T_ADD1(u, errors_stick);
    T_ADD1(u, out_of_memory_anywhere);
    T_ADD1(u, out_of_memory_on_the_way_back);
    T_ADD1(u, large_convolutions_of_training_recur);
    return t_run(u);
}
