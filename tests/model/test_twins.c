/* test_twins.c - whole models on two backends: what the CPU computes, its twin computes too. Twins are the emulated
 * CUDA device, a CUDA device where there is one, and the CPU itself with another number of threads. */
#include "tests/model/tiny.h"

enum { B = 2, STEPS = 3, T = 21, V = 125 };

/* Both compute in float32, 6e-8 of a number at each rounding, and sum products in another order: values that went
 * through some 20 layers agree to about 2e-6 of the largest one, gradients that came back through them to 2e-5. */
static const double VALUES = 1e-5, GRADIENTS = 1e-4;

typedef struct {
    ts_device *d[2];
} twins;

static twins open_twins(const ts_backend *be)
{
    const ts_backend *cpu = ts_backend_get("cpu");
    return (twins){ { tiny_device(cpu, 1, TS_MATH_F32), tiny_device(be, 2, TS_MATH_F32) } };
}

static void close_twins(twins *w)
{
    for (int i = 0; i < 2; i++) {
        T_EQI(w->d[i]->in_use, 0);
        ts_device_close(w->d[i]);
    }
}

/* Largest difference of n numbers at most tol * scale, scale at least the largest number. */
static void near(const char *what, const float *got, const float *want, int64_t n, double tol, double scale)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - want[i]);
        if (!(e <= most)) most = e;
        scale = fmax(scale, fabs(want[i]));
    }
    ck_assert_msg(most <= tol * scale, "%s: differs by %g, the largest is %g", what, most, scale);
}

static float *device_floats(ts_device *d, const void *data, int64_t n)
{
    float *x = t_alloc((size_t)n * sizeof *x);
    T_OK(d->be->download(d->s, x, data, (size_t)n * sizeof *x));
    return x;
}

/* All gradients, or all weights, side by side. One that cancels to nothing, as that of a key's bias, is rounding alone:
 * a tensor counts as no smaller than a hundredth of the largest. */
static void near_params(const twins *w, const char *what, ts_params *const p[2], int grad, double tol)
{
    double largest = 0;
    for (int turn = 0; turn < 2; turn++) { /* the largest first */
        for (int i = 0; i < ts_params_count(p[0]); i++) {
            const ts_param *a = ts_params_at(p[0], i), *b = ts_params_at(p[1], i);
            if (grad && (a->flags & TS_PARAM_FROZEN)) continue;
            const float *want = device_floats(w->d[0], grad ? a->tensor.grad : a->tensor.data, a->count);
            const float *got = device_floats(w->d[1], grad ? b->tensor.grad : b->tensor.data, b->count);
            char name[256];
            snprintf(name, sizeof name, "%s: %s", what, a->name);
            for (int64_t j = 0; j < a->count; j++) largest = fmax(largest, fabs(want[j]));
            if (turn) near(name, got, want, a->count, tol, 0.01 * largest);
        }
    }
    T_TRUE(largest > 0);
}

/* Adam divides by the size of a gradient, and would make a whole step out of the rounding of one that is nothing: eps
 * is large enough that steps follow the gradients. */
static void step(ts_params *p, int64_t n, float *length)
{
    const ts_adamw a = { 0.01f, 0.9f, 0.95f, 0.1f, 0.01f, 1, 0.9f, n + 1 };
    T_OK(ts_params_step(p, &a, length));
    T_TRUE(isfinite(*length) && *length > 0);
}

/* Gradients of each step were compared; weights and their moving average are when the steps are over. */
static void near_models(const twins *w, const char *what, ts_params *const p[2])
{
    near_params(w, what, p, 0, VALUES);
    for (int i = 0; i < 2; i++) ts_params_swap_ema(p[i]);
    near_params(w, what, p, 0, VALUES);
}

/* --- tokenizers --- */

static const char *const TOKENIZERS[] = { TINY_RESIDUAL_FSQ, TINY_FSQ, TINY_FSQ_PROJECT, TINY_VQ };
enum { N_TOKENIZERS = sizeof TOKENIZERS / sizeof *TOKENIZERS };

typedef struct {
    float sums[2], stats[2 * TS_MAX_SCALES], f[B * 64 * 8], f_hat[B * 64 * 8], image[B * TINY_PIXELS];
    int32_t idx[B * 85];
} tokenizer_step;

static void run_tokenizer(ts_tokenizer *t, ts_graph *g, tokenizer_step *r)
{
    ts_graph_reset(g);
    ts_tensor *image = tg_upload(g, tiny_pictures(B), TS_F32, 4, TG_DIMS(B, TINY_SIDE, TINY_SIDE, 3));
    ts_tensor *f = tokenizer_encode(g, t, image);
    ts_quantized q = quantizer_forward(g, &t->q, f, t->q.p.K, 0);
    ts_tensor *out = tokenizer_decode(g, t, q.f_hat);
    T_OK(tg_download(g, r->sums, tg_pixel_loss(g, out, image, 0.1f, 1)));
    T_OK(tg_download(g, r->f, f));
    T_OK(tg_download(g, r->f_hat, q.f_hat));
    T_OK(tg_download(g, r->image, out));
    T_OK(tg_download(g, r->idx, q.idx));
    if (q.stats) T_OK(tg_download(g, r->stats, q.stats));
    T_OK(ts_graph_backward(g));
}

T_TEST(tokenizer_steps)
{
    (void)s;
    twins w = open_twins(be);
    for (int i = 0; i < N_TOKENIZERS; i++) {
        ts_tokenizer_config c = tiny_tokenizer_config(TOKENIZERS[i], "[1,2]", 8);
        ts_tokenizer *t[2];
        ts_graph *g[2];
        for (int j = 0; j < 2; j++) {
            t[j] = tiny_tokenizer(w.d[j], &c, 1);
            T_OK(ts_graph_new(&g[j], w.d[j], 1));
        }
        ts_params *const p[2] = { t[0]->params, t[1]->params };
        for (int n = 0; n < STEPS; n++) {
            tokenizer_step r[2] = { 0 };
            float length[2];
            for (int j = 0; j < 2; j++) run_tokenizer(t[j], g[j], &r[j]);
            T_TRUE(memcmp(r[0].idx, r[1].idx, sizeof r[0].idx) == 0);
            near("latent", r[1].f, r[0].f, B * 64 * quantizer_channels(&t[0]->q), VALUES, 0);
            near("f_hat", r[1].f_hat, r[0].f_hat, B * 64 * quantizer_channels(&t[0]->q), VALUES, 0);
            near("picture", r[1].image, r[0].image, B * TINY_PIXELS, VALUES, 0);
            near("statistics", r[1].stats, r[0].stats, 2 * TS_MAX_SCALES, VALUES, 0);
            near("loss", r[1].sums, r[0].sums, 2, VALUES, 0);
            near_params(&w, TOKENIZERS[i], p, 1, GRADIENTS);
            for (int j = 0; j < 2; j++) step(p[j], n, &length[j]);
            near("length", &length[1], &length[0], 1, VALUES, 0);
        }
        near_models(&w, TOKENIZERS[i], p);
        for (int j = 0; j < 2; j++) {
            ts_graph_free(g[j]);
            ts_tokenizer_free(t[j]);
        }
    }
    close_twins(&w);
}

/* --- generators --- */

static const char *const GENERATORS[] = {
    "\"shared_aln\":false,\"attn_l2_norm\":true,\"head\":\"joint\"",
    "\"shared_aln\":true,\"attn_l2_norm\":false,\"head\":\"digits\",\"head_hidden\":16,\"levels\":[5,5,5]"
};

static ts_generator_config generator_config(const char *kind)
{
    char text[512];
    snprintf(
        text, sizeof text,
        "{\"kind\":\"generator\",\"num_classes\":4,\"depth\":2,\"embed_dim\":32,\"num_heads\":2,\"patch_nums\":[1,2,4],"
        "\"vocab_size\":125,\"z_channels\":3,%s}",
        kind);
    ts_generator_config c;
    json_t *o = json_loads(text, 0, NULL);
    T_OK(ts_generator_config_read(&c, o, kind));
    json_decref(o);
    return c;
}

typedef struct {
    ts_tokenizer *t;
    ts_generator *m;
    ts_graph *g;
} pair;

static pair open_pair(ts_device *d, const char *kind)
{
    pair p;
    ts_tokenizer_config tc = tiny_tokenizer_config("\"patch_nums\":[1,2,4],\"quantizer\":{\"kind\":\"residual_fsq\","
                                                   "\"levels\":[5,5,5]}",
                                                   "[1,2,2]", 8);
    ts_generator_config c = generator_config(kind);
    p.t = tiny_tokenizer(d, &tc, 0);
    T_OK(ts_generator_new(&p.m, d, &c, 1, 2));
    T_OK(ts_graph_new(&p.g, d, 1));
    return p;
}

static void close_pair(pair *p)
{
    ts_graph_free(p->g);
    ts_generator_free(p->m);
    ts_tokenizer_free(p->t);
}

/* Loss of each token, or digit, and gradients. A label is dropped, and so are two sub-layers of a picture. */
static void run_generator(pair *p, int64_t n, float *rows)
{
    static const float keep[4 * B] = { 1, 2, 0, 2, 2, 0, 1, 1 };
    static const int32_t labels[B] = { 3, 4 };
    int32_t tokens[B * T];
    uint64_t seed = (uint64_t)n;
    for (int i = 0; i < B * T; i++) tokens[i] = (int32_t)(t_next(&seed) % V);
    ts_graph_reset(p->g);
    ts_tensor *input = generator_input(p->g, &p->t->q, tokens, B);
    ts_tensor *logits = generator_logits(p->g, p->m, labels, B, input, keep);
    T_OK(tg_download(p->g, rows, generator_loss(p->g, p->m, logits, tokens, B)));
    T_OK(ts_graph_backward(p->g));
}

/* Temperature, top-k, top-p and guidance, by turns. */
static const ts_sampling HOW[] = { { .seed = 5, .cfg = 2, .temperature = 1, .top_p = 0.9, .top_k = 60 },
                                   { .seed = 6, .temperature = 0.8, .top_p = 1 },
                                   { .seed = 7, .cfg = 1, .temperature = 1.2, .top_p = 0.7 } };

/* Both models are a trained one now, a little different each. */
static void sampled_pictures(pair p[2])
{
    enum { N = 3 };
    static const int32_t labels[N] = { 0, 3, 3 };
    for (size_t i = 0; i < sizeof HOW / sizeof *HOW; i++) {
        int32_t tokens[2][N * T];
        float images[2][N * TINY_PIXELS];
        for (int j = 0; j < 2; j++) T_OK(ts_generator_sample(p[j].m, p[j].t, labels, N, &HOW[i], tokens[j], images[j]));
        T_TRUE(memcmp(tokens[0], tokens[1], sizeof tokens[0]) == 0);
        near("sampled picture", images[1], images[0], N * TINY_PIXELS, VALUES, 0);
        T_TRUE(memcmp(tokens[0] + T, tokens[0] + 2 * T, T * sizeof(int32_t)) != 0);
    }
}

T_TEST(generator_steps)
{
    (void)s;
    twins w = open_twins(be);
    for (int i = 0; i < 2; i++) {
        pair p[2] = { open_pair(w.d[0], GENERATORS[i]), open_pair(w.d[1], GENERATORS[i]) };
        ts_params *const params[2] = { p[0].m->params, p[1].m->params };
        for (int n = 0; n < STEPS; n++) {
            float rows[2][B * T * 3] = { 0 }, length[2];
            for (int j = 0; j < 2; j++) run_generator(&p[j], n, rows[j]);
            near("losses", rows[1], rows[0], B * T * 3, VALUES, 0);
            near_params(&w, GENERATORS[i], params, 1, GRADIENTS);
            for (int j = 0; j < 2; j++) step(params[j], n, &length[j]);
            near("length", &length[1], &length[0], 1, VALUES, 0);
        }
        near_models(&w, GENERATORS[i], params);
        sampled_pictures(p);
        for (int j = 0; j < 2; j++) close_pair(&p[j]);
    }
    close_twins(&w);
}

/* A step in bfloat16 against one in float32: products of layers, and of attention on CUDA, have two factors that are up to
 * 2^-9 of themselves off, and a gradient went through some 20 of them. */
T_TEST(generator_step_in_bfloat16)
{
    (void)s;
    twins w = { { tiny_device(ts_backend_get("cpu"), 1, TS_MATH_F32), tiny_device(be, 2, TS_MATH_BF16) } };
    for (int i = 0; i < 2; i++) {
        pair p[2] = { open_pair(w.d[0], GENERATORS[i]), open_pair(w.d[1], GENERATORS[i]) };
        ts_params *const params[2] = { p[0].m->params, p[1].m->params };
        float rows[2][B * T * 3] = { 0 };
        for (int j = 0; j < 2; j++) run_generator(&p[j], 0, rows[j]);
        near("losses", rows[1], rows[0], B * T * 3, 20 * 0x1p-9, 0);
        near_params(&w, GENERATORS[i], params, 1, 40 * 0x1p-9);
        for (int j = 0; j < 2; j++) close_pair(&p[j]);
    }
    close_twins(&w);
}

/* --- the models in the tree --- */

static void demo_path(char path[512], const char *file)
{
    const char *root = getenv("TS_ROOT");
    snprintf(path, 512, "%s/models/demo/%s", root ? root : ".", file);
}

T_TEST(demo_models)
{
    (void)s;
    twins w = open_twins(be);
    char tokenizer[512], generator[512];
    demo_path(tokenizer, "tokenizer.safetensors");
    demo_path(generator, "generator.safetensors");
    const ts_sampling how = { .seed = 1, .cfg = 4, .temperature = 0.9, .top_p = 0.95 };
    const int32_t label = 3;
    int32_t *tokens[2];
    float *image[2];
    int64_t pixels = 0, n_tokens = 0;
    for (int j = 0; j < 2; j++) {
        ts_tokenizer *t;
        ts_generator *m;
        T_OK(ts_tokenizer_load(&t, w.d[j], tokenizer));
        T_OK(ts_generator_load(&m, w.d[j], generator));
        pixels = (int64_t)t->c.image_size * t->c.image_size * 3, n_tokens = t->q.p.T;
        tokens[j] = t_alloc((size_t)n_tokens * sizeof *tokens[j]);
        image[j] = t_alloc((size_t)pixels * sizeof *image[j]);
        T_OK(ts_generator_sample(m, t, &label, 1, &how, tokens[j], image[j]));
        ts_generator_free(m);
        ts_tokenizer_free(t);
    }
    T_TRUE(memcmp(tokens[0], tokens[1], (size_t)n_tokens * sizeof *tokens[0]) == 0);
    near("picture", image[1], image[0], pixels, VALUES, 0);
    close_twins(&w);
}

/* The demo tokenizer, to be trained from the start. */
static ts_tokenizer *new_demo_tokenizer(ts_device *d)
{
    char path[512];
    ts_tokenizer *trained, *t;
    demo_path(path, "tokenizer.safetensors");
    T_OK(ts_tokenizer_load(&trained, d, path));
    T_OK(ts_tokenizer_new(&t, d, &trained->c, 1, 1));
    ts_tokenizer_free(trained);
    return t;
}

/* Gradients, and weights after a step along them. */
static void near_step(const twins *w, ts_params *const p[2])
{
    float length[2];
    near_params(w, "gradients", p, 1, GRADIENTS);
    for (int j = 0; j < 2; j++) step(p[j], 0, &length[j]);
    near("length", &length[1], &length[0], 1, VALUES, 0);
    near_params(w, "weights", p, 0, VALUES);
}

/* One step of training of a model of that size, gradients, weights and all. make cuda-report counts its launches. */
T_TEST(demo_tokenizer_step)
{
    (void)s;
    twins w = open_twins(be);
    ts_tokenizer *t[2];
    float sums[2][2];
    for (int j = 0; j < 2; j++) {
        t[j] = new_demo_tokenizer(w.d[j]);
        ts_graph *g;
        T_OK(ts_graph_new(&g, w.d[j], 1));
        const int64_t side = t[j]->c.image_size;
        const float *pixels = t_normals(side * side * 3, 0.5, 3);
        ts_tensor *image = tg_upload(g, pixels, TS_F32, 4, TG_DIMS(1, side, side, 3));
        ts_quantized q = quantizer_forward(g, &t[j]->q, tokenizer_encode(g, t[j], image), t[j]->q.p.K, 0);
        T_OK(tg_download(g, sums[j], tg_pixel_loss(g, tokenizer_decode(g, t[j], q.f_hat), image, 0.1f, 1)));
        T_OK(ts_graph_backward(g));
        ts_graph_free(g);
    }
    ts_params *const p[2] = { t[0]->params, t[1]->params };
    near("loss", sums[1], sums[0], 2, VALUES, 0);
    near_step(&w, p);
    for (int j = 0; j < 2; j++) ts_tokenizer_free(t[j]);
    close_twins(&w);
}

T_TEST(demo_generator_step)
{
    (void)s;
    enum { MOST_ROWS = 4096 };
    static const int32_t label = 2;
    twins w = open_twins(be);
    char path[512];
    demo_path(path, "generator.safetensors");
    ts_generator *m[2];
    float rows[2][MOST_ROWS] = { 0 };
    for (int j = 0; j < 2; j++) {
        ts_tokenizer *t = new_demo_tokenizer(w.d[j]);
        ts_generator *trained;
        ts_graph *g;
        T_OK(ts_generator_load(&trained, w.d[j], path));
        T_OK(ts_generator_new(&m[j], w.d[j], &trained->c, 1, 2));
        ts_generator_free(trained);
        T_OK(ts_graph_new(&g, w.d[j], 1));
        const int64_t n = t->q.p.T;
        int32_t *tokens = t_alloc((size_t)n * sizeof *tokens);
        uint64_t seed = 1;
        for (int64_t i = 0; i < n; i++) tokens[i] = (int32_t)(t_next(&seed) % 1000);
        ts_tensor *logits = generator_logits(g, m[j], &label, 1, generator_input(g, &t->q, tokens, 1), NULL);
        ts_tensor *loss = generator_loss(g, m[j], logits, tokens, 1);
        T_TRUE(ts_tensor_count(loss) <= MOST_ROWS);
        T_OK(tg_download(g, rows[j], loss));
        T_OK(ts_graph_backward(g));
        ts_graph_free(g);
        ts_tokenizer_free(t);
    }
    ts_params *const p[2] = { m[0]->params, m[1]->params };
    near("losses", rows[1], rows[0], MOST_ROWS, VALUES, 0);
    near_step(&w, p);
    for (int j = 0; j < 2; j++) ts_generator_free(m[j]);
    close_twins(&w);
}

/* A batch that a device has no room for is one line, and the next, smaller one is as if nothing had happened. */
T_TEST(too_large_a_batch)
{
    (void)s;
    if (strcmp(be->name, "emu") != 0) return;
    enum { MANY = 64 };
    setenv("TS_EMU_MEMORY", "8388608", 1);
    twins w = open_twins(be);
    ts_tokenizer_config c = tiny_tokenizer_config(TINY_RESIDUAL_FSQ, "[1,2]", 8);
    ts_tokenizer *t[2] = { tiny_tokenizer(w.d[0], &c, 0), tiny_tokenizer(w.d[1], &c, 0) };
    const float *images = tiny_pictures(MANY);
    int32_t tokens[2][MANY * 85];
    T_OK(ts_tokenizer_encode(t[0], images, MANY, tokens[0]));
    for (int turn = 0; turn < 2; turn++) {
        T_STATUS(TS_E_NOMEM, ts_tokenizer_encode(t[1], images, MANY, tokens[1]));
        T_TRUE(strstr(ts_error(), "of 8.0 MiB are free (out of memory); a smaller batch needs less") != NULL);
        T_OK(ts_tokenizer_encode(t[1], images, 2, tokens[1]));
        T_TRUE(memcmp(tokens[0], tokens[1], 2 * 85 * sizeof **tokens) == 0);
    }
    for (int j = 0; j < 2; j++) ts_tokenizer_free(t[j]);
    close_twins(&w);
}

/* --- faults --- */

typedef struct {
    float rows[T];
    int32_t tokens[85], drawn[T];
} outcome;

static ts_status train_and_sample(pair *p, outcome *r)
{
    static const int32_t label = 1;
    const ts_adamw a = { 0.01f, 0.9f, 0.95f, 0.1f, 0.01f, 1, 0.9f, 1 };
    float length;
    int32_t tokens[T] = { 3, 1, 4, 1, 5, 9, 2, 6 };
    ts_tensor *logits = generator_logits(p->g, p->m, &label, 1, generator_input(p->g, &p->t->q, tokens, 1), NULL);
    TS_TRY(tg_download(p->g, r->rows, generator_loss(p->g, p->m, logits, tokens, 1)));
    TS_TRY(ts_graph_backward(p->g));
    TS_TRY(ts_params_step(p->m->params, &a, &length));
    TS_TRY(ts_tokenizer_encode(p->t, tiny_pictures(1), 1, r->tokens));
    return ts_generator_sample(p->m, p->t, &label, 1, &HOW[0], r->drawn, NULL);
}

static ts_status open_all(pair *p, ts_device *d)
{
    ts_tokenizer_config tc = tiny_tokenizer_config("\"patch_nums\":[1,2,4],\"quantizer\":{\"kind\":\"residual_fsq\","
                                                   "\"levels\":[5,5,5]}",
                                                   "[1,2,2]", 8);
    ts_generator_config c = generator_config(GENERATORS[0]);
    TS_TRY(ts_tokenizer_new(&p->t, d, &tc, 0, 1));
    TS_TRY(ts_generator_new(&p->m, d, &c, 1, 2));
    return ts_graph_new(&p->g, d, 1);
}

/* From nothing to a sampled picture and back to nothing. */
static ts_status live(const ts_backend *be, outcome *r)
{
    ts_device *d = NULL;
    pair p = { NULL, NULL, NULL };
    ts_status st = ts_device_open(&d, be->name, 1, TS_MATH_F32);
    if (st == TS_OK) st = open_all(&p, d);
    if (st == TS_OK) st = train_and_sample(&p, r);
    close_pair(&p);
    if (d) T_EQI(d->in_use, 0);
    ts_device_close(d);
    return st;
}

/* One call of the runtime fails, a different one each time: that is a status and a line, or it was made good. It is
 * never a wrong result, and nothing stays behind. */
T_TEST(every_call_may_fail)
{
    (void)s;
    if (strcmp(be->name, "emu") != 0) return;
    outcome want = { 0 };
    T_OK(live(be, &want));
    int reached = 1, turns = 0;
    for (int n = 1; reached; n += 1 + n / 12, turns++) {
        outcome got = { 0 };
        char text[16];
        snprintf(text, sizeof text, "%d", n);
        setenv("TS_EMU_FAIL", text, 1);
        ts_status st = live(be, &got);
        reached = getenv("TS_EMU_FAIL") == NULL;
        unsetenv("TS_EMU_FAIL");
        if (st == TS_OK) ck_assert_msg(memcmp(&got, &want, sizeof got) == 0, "call %d failed unseen", n);
        if (st != TS_OK) ck_assert_msg(reached && strlen(ts_error()) > 10, "call %d: '%s'", n, ts_error());
    }
    T_TRUE(turns > 30);
}

int main(void)
{
    Suite *u = t_suite("twins");
    if (!ts_backend_at(1)) fprintf(stderr, "SKIP cuda: this build has no CUDA backend\n");
    T_ADD(u, tokenizer_steps);
    T_ADD(u, generator_steps);
    T_ADD(u, generator_step_in_bfloat16);
    T_ADD(u, demo_models);
    T_ADD(u, demo_tokenizer_step);
    T_ADD(u, demo_generator_step);
    T_ADD(u, too_large_a_batch);
    T_ADD(u, every_call_may_fail);
    return t_run(u);
}
