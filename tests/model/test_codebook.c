/* test_codebook.c - a tiny vq tokenizer whose codebook is a set of moving averages: it learns, dead codes come to life.
 */
#include "models/codebook.h"
#include "models/usage.h"
#include "tests/model/tiny.h"

enum { B = 2, THREADS = 1 };

typedef struct {
    ts_device *d;
    ts_tokenizer *t;
    ts_graph *g;
    codebook_average average;
    ts_quantized q; /* of the last step */
    float norm;
    int64_t step;
} training;

static training begin(const ts_backend *be, const char *kind, double decay, double restart_below)
{
    training m = { .d = tiny_device(be, THREADS, TS_MATH_F32) };
    ts_tokenizer_config c = tiny_tokenizer_config(kind, "[1,2]", 8);
    m.t = tiny_tokenizer(m.d, &c, 1);
    T_OK(ts_graph_new(&m.g, m.d, 1));
    T_OK(codebook_average_begin(&m.average, m.t, decay, restart_below, 3));
    return m;
}

static void end(training *m)
{
    ts_graph_free(m->g);
    codebook_average_end(&m->average);
    ts_tokenizer_free(m->t);
    T_EQI(m->d->in_use, 0);
    ts_device_close(m->d);
}

/* One step as the trainer makes it; the squared error. */
static double train_step(training *m, const float *images)
{
    ts_graph *g = m->g;
    float s[2];
    ts_graph_reset(g);
    ts_tensor *image = tg_upload(g, images, TS_F32, 4, TG_DIMS(B, TINY_SIDE, TINY_SIDE, 3));
    m->q = quantizer_forward(g, &m->t->q, tokenizer_encode(g, m->t, image), m->t->q.p.K, 0);
    ts_tensor *sums = tg_pixel_loss(g, tokenizer_decode(g, m->t, m->q.f_hat), image, 0.1f, 1);
    T_OK(tg_download(g, s, sums));
    T_OK(ts_graph_backward(g));
    const ts_adamw a = { 3e-3f, 0.9f, 0.95f, 1e-8f, 0.01f, 1, 0.9f, m->step + 1 };
    T_OK(ts_params_step(m->t->params, &a, &m->norm));
    T_OK(codebook_average_step(&m->average, m->t, &m->q, m->step, m->norm));
    m->step++;
    return s[1] / (B * TINY_PIXELS);
}

static float *read_floats(const training *m, const void *from, int64_t n)
{
    float *x = t_alloc((size_t)n * sizeof *x);
    T_OK(m->d->be->download(m->d->s, x, from, (size_t)n * sizeof *x));
    return x;
}

static float *codebook(const training *m)
{
    return read_floats(m, m->t->q.codebook->data, m->t->c.q.V * m->t->c.q.D);
}

static int64_t codes_used(const training *m)
{
    const int64_t n = B * m->t->q.p.T;
    int32_t *codes = t_alloc((size_t)n * sizeof *codes);
    T_OK(tg_download(m->g, codes, m->q.idx));
    return ts_usage_of(codes, n).used;
}

T_TEST(learns)
{
    (void)s;
    for (int restarts = 0; restarts < 2; restarts++) {
        training m = begin(be, TINY_VQ, 0.9, restarts ? 0.5 : 0);
        const float *images = tiny_pictures(B);
        const double first = train_step(&m, images);
        const size_t held = m.d->held;
        double last = first;
        for (int i = 1; i < 50; i++) last = train_step(&m, images);
        ck_assert_msg(last < first / 8 && last < 0.04, "restarts %d: squared error %g, then %g", restarts, first, last);
        T_EQI(m.d->held, held); /* steps are equal: nothing more is taken from the system */
        end(&m);
    }
}

/* The codebook is what the averages say, no gradient reaches it, and the average of the weights holds it bit for bit.
 */
T_TEST(codebook_is_the_average)
{
    (void)s;
    training m = begin(be, TINY_VQ, 0.9, 0);
    const int V = m.t->c.q.V, D = m.t->c.q.D;
    const float *images = tiny_pictures(B), *before = codebook(&m);
    for (int i = 0; i < 3; i++) train_step(&m, images);
    const float *book = codebook(&m), *sum = read_floats(&m, m.average.sum->data, V * D),
                *count = read_floats(&m, m.average.count->data, V),
                *grad = read_floats(&m, m.t->q.codebook->grad, V * D);
    double all = 0;
    for (int v = 0; v < V; v++) all += count[v];
    T_NEAR(all, 0.729 * V + 0.271 * B * 85, 1e-4 * all);
    for (int i = 0; i < V * D; i++) {
        const double n = (count[i / D] + 1e-5) / (all + V * 1e-5) * all;
        T_NEAR(book[i], sum[i] / n, 1e-6 + 1e-5 * fabs(sum[i] / n));
        T_TRUE(grad[i] == 0);
    }
    T_TRUE(memcmp(book, before, sizeof(float) * (size_t)(V * D)) != 0);
    ts_params_swap_ema(m.t->params);
    T_TRUE(memcmp(codebook(&m), book, sizeof(float) * (size_t)(V * D)) == 0);
    ts_params_swap_ema(m.t->params);
    T_TRUE(!m.t->q.codebook->needs_grad); /* after binding anew, too */
    end(&m);
}

/* A picture that is no number: the step is skipped, averages and codebook stay. */
T_TEST(not_finite)
{
    (void)s;
    training m = begin(be, TINY_VQ, 0.9, 2);
    const int V = m.t->c.q.V, D = m.t->c.q.D;
    const size_t bytes = sizeof(float) * (size_t)(V * D);
    float *images = tiny_pictures(B);
    train_step(&m, images);
    const float *book = codebook(&m), *sum = read_floats(&m, m.average.sum->data, V * D),
                *count = read_floats(&m, m.average.count->data, V);
    images[5] = NAN;
    train_step(&m, images);
    T_TRUE(!isfinite(m.norm));
    T_TRUE(memcmp(codebook(&m), book, bytes) == 0);
    T_TRUE(memcmp(read_floats(&m, m.average.sum->data, V * D), sum, bytes) == 0);
    T_TRUE(memcmp(read_floats(&m, m.average.count->data, V), count, sizeof(float) * (size_t)V) == 0);
    images[5] = 0;
    train_step(&m, images);
    T_TRUE(isfinite(m.norm) && memcmp(codebook(&m), book, bytes) != 0);
    end(&m);
}

/* All codes but the first lie far from everything, so that one is always chosen. */
static void banish(training *m)
{
    const int V = m->t->c.q.V, D = m->t->c.q.D;
    float *far = t_alloc(sizeof(float) * (size_t)(V * D));
    for (int i = D; i < V * D; i++) far[i] = 1e3f;
    T_OK(ts_params_put(m->t->params, m->t->q.codebook, far));
    T_OK(m->d->be->copy(m->d->s, m->average.sum->data, m->t->q.codebook->data, sizeof(float) * (size_t)(V * D)));
}

T_TEST(restarts_wake_dead_codes)
{
    (void)s;
    int64_t used[2];
    for (int restarts = 0; restarts < 2; restarts++) {
        training m = begin(be, TINY_VQ, 0.8, restarts ? 0.3 : 0);
        const float *images = tiny_pictures(B);
        banish(&m);
        for (int i = 0; i < 20; i++) {
            train_step(&m, images);
            if (i == 0) T_EQI(codes_used(&m), 1);
        }
        used[restarts] = codes_used(&m);
        end(&m);
    }
    ck_assert_msg(used[0] == 1 && used[1] > 16, "%d codes of 32 without restarts, %d with", (int)used[0], (int)used[1]);
}

/* What a checkpoint holds is enough: parameters, moments and averages go into a new training, which goes on alike. */
T_TEST(goes_on_alike)
{
    (void)s;
    static const char *const PREFIX[] = { "weight.", "m.", "v.", "ema." };
    static const ts_buffer BUFFER[] = { TS_BUFFER_WEIGHT, TS_BUFFER_M, TS_BUFFER_V, TS_BUFFER_EMA };
    char params[] = "/tmp/codebook-params-XXXXXX", state[] = "/tmp/codebook-state-XXXXXX";
    T_TRUE(mkstemp(params) >= 0 && mkstemp(state) >= 0);
    const float *images = tiny_pictures(B);
    training m = begin(be, TINY_VQ, 0.9, 1), n = begin(be, TINY_VQ, 0.9, 1);
    for (int i = 0; i < 4; i++) train_step(&m, images);
    T_OK(ts_params_save(m.t->params, params, BUFFER, PREFIX, 4, TS_ST_F32, NULL, NULL, 0));
    T_OK(ts_params_save(m.average.state, state, BUFFER, PREFIX, 1, TS_ST_F32, NULL, NULL, 0));
    ts_st_file *f, *h;
    T_OK(ts_st_open(&f, params));
    T_OK(ts_st_open(&h, state));
    for (int i = 0; i < 4; i++) T_OK(ts_params_load(n.t->params, BUFFER[i], f, PREFIX[i], 0));
    T_OK(ts_params_load(n.average.state, TS_BUFFER_WEIGHT, h, PREFIX[0], 1));
    ts_st_close(f), ts_st_close(h);
    remove(params), remove(state);
    n.step = m.step;
    for (int i = 0; i < 3; i++) T_TRUE(train_step(&m, images) == train_step(&n, images));
    T_TRUE(memcmp(codebook(&m), codebook(&n), sizeof(float) * (size_t)(m.t->c.q.V * m.t->c.q.D)) == 0);
    end(&m), end(&n);
}

T_TEST(wants_vq)
{
    (void)s;
    ts_device *d = tiny_device(be, THREADS, TS_MATH_F32);
    ts_tokenizer_config c = tiny_tokenizer_config(TINY_RESIDUAL_FSQ, "[1,2]", 8);
    ts_tokenizer *t = tiny_tokenizer(d, &c, 1);
    codebook_average a;
    T_STATUS(TS_E_INTERNAL, codebook_average_begin(&a, t, 0.9, 0, 1));
    codebook_average_end(&a);
    ts_tokenizer_free(t);
    ts_device_close(d);
}

int main(void)
{
    Suite *u = t_suite("codebook");
    T_ADD1(u, learns);
    T_ADD1(u, codebook_is_the_average);
    T_ADD1(u, not_finite);
    T_ADD1(u, restarts_wake_dead_codes);
    T_ADD1(u, goes_on_alike);
    T_ADD1(u, wants_vq);
    return t_run(u);
}
