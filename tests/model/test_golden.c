/* test_golden.c - the networks against the published implementation: tests/golden/{autoencoder_small,generator_*}.
 *
 * Tolerance: goldens are float32 results of another summation order; tests/golden/README.md states about 1e-5 of a tensor's
 * largest value. Gradients pass through some 60 layers in both programs: 2e-4 for them. Indices and greedy tokens must be equal.
 */
#include "models/generator.h"
#include "tests/model/hash.h"

enum { SIDE = 64, LATENT = 4, D = 8 };

static const char AUTOENCODER[] =
    "{\"kind\":\"tokenizer\",\"image_size\":64,\"ch\":32,\"ch_mult\":[1,1,2,2,4],\"num_res_blocks\":2,\"z_channels\":8,"
    "\"patch_nums\":[1,2,3,4],\"quantizer\":{\"kind\":\"vq\",\"vocab_size\":64,\"share_quant_resi\":4}}";

static ts_device *open_device(const ts_backend *be)
{
    ts_device *d;
    T_OK(ts_device_open(&d, be->name, 0, TS_MATH_F32));
    return d;
}

static ts_tokenizer *small(ts_device *d, int training)
{
    ts_tokenizer_config c;
    ts_tokenizer *t;
    json_t *o = json_loads(AUTOENCODER, 0, NULL);
    T_OK(ts_tokenizer_config_read(&c, o, "small"));
    json_decref(o);
    T_OK(ts_tokenizer_new(&t, d, &c, training, 1));
    hash_weights(t->params, "small");
    if (!training) T_OK(ts_params_freeze(t->params)); /* as those of a file that was loaded: convolutions may take another way */
    return t;
}

/* (B,C,n) -> (B,n,C) and back. */
static float *channels_last(const float *x, int64_t B, int64_t C, int64_t n)
{
    float *y = t_alloc((size_t)(B * C * n) * sizeof *y);
    for (int64_t b = 0; b < B; b++)
        for (int64_t c = 0; c < C; c++)
            for (int64_t i = 0; i < n; i++) y[(b * n + i) * C + c] = x[(b * C + c) * n + i];
    return y;
}

static float *hashed_input(const char *name, int64_t B, int64_t C, int64_t n)
{
    float *x = t_alloc((size_t)(B * C * n) * sizeof *x);
    t_hash_input(x, name, B * C * n);
    return channels_last(x, B, C, n);
}

static void clamp(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = fminf(fmaxf(x[i], -1), 1);
}

static void compare(ts_graph *g, const char *file, const char *tensor, const ts_tensor *t, int64_t C, double tol)
{
    int64_t n;
    float *want = t_golden(file, tensor, "F32", &n);
    T_OK(ts_graph_status(g));
    T_EQI(n, ts_tensor_count(t));
    float *got = t_alloc((size_t)n * sizeof *got);
    T_OK(tg_download(g, got, t));
    t_closef(tensor, got, channels_last(want, 2, C, n / 2 / C), n, tol);
}

static float largest_gradient(ts_params *p, const char *file)
{
    float most = 0;
    for (int i = 0; i < ts_params_count(p); i++) {
        char name[256];
        snprintf(name, sizeof name, "grad.%s", ts_params_at(p, i)->name);
        int64_t n = 0;
        const float *x = t_golden_has(file, name) ? t_golden(file, name, "F32", &n) : NULL;
        for (int64_t j = 0; j < n; j++) most = fmaxf(most, fabsf(x[j]));
    }
    return most;
}

/* Gradients of every parameter that the file holds; big ones are sampled: every (n/1024)-th of the flattened tensor. A bias in
 * front of a GroupNorm with one channel per group has a gradient of exactly zero, and both programs hold rounding noise there:
 * errors below 1e-6 of the largest gradient of the model pass. */
static int compare_gradients(ts_params *p, ts_device *d, const char *file, double tol)
{
    int compared = 0;
    float most = largest_gradient(p, file);
    for (int i = 0; i < ts_params_count(p); i++) {
        const ts_param *q = ts_params_at(p, i);
        char name[256];
        snprintf(name, sizeof name, "grad.%s", q->name);
        if ((q->flags & TS_PARAM_FROZEN) || !t_golden_has(file, name)) continue;
        int64_t n;
        float *want = t_golden(file, name, "F32", &n), *all = t_alloc((size_t)q->count * sizeof *all);
        T_OK(d->be->download(d->s, all, q->tensor.grad, (size_t)q->count * sizeof *all));
        float *got = t_alloc((size_t)q->count * sizeof *got);
        int64_t kk = q->flags & TS_PARAM_CONV ? q->shape[2] * q->shape[3] : 1, I = kk > 1 ? q->shape[1] : 1;
        for (int64_t j = 0; j < q->count; j++) { /* j: file order (O,I,kk) */
            int64_t o = j / (I * kk), c = j / kk % I, k = j % kk;
            got[j] = all[kk > 1 ? (o * kk + k) * I + c : j];
        }
        for (int64_t j = 0; n < q->count && j < n; j++) got[j] = got[j * (q->count / n)];
        int noise = 1;
        for (int64_t j = 0; j < n; j++) noise &= fabsf(got[j] - want[j]) <= 1e-6f * most;
        if (!noise) t_closef(name, got, want, n, tol);
        compared++;
    }
    return compared;
}

T_TEST(autoencoder_forward)
{
    (void)s;
    ts_device *d = open_device(be);
    ts_tokenizer *t = small(d, 0);
    ts_graph *g = t->g;
    ts_tensor *image = tg_upload(g, hashed_input("small.image", 2, 3, SIDE * SIDE), TS_F32, 4, TG_DIMS(2, SIDE, SIDE, 3));
    ts_tensor *z = encoder_forward(g, &t->encoder, image);
    compare(g, "autoencoder_small", "encoder", z, D, 2e-5);
    ts_tensor *f = conv_forward(g, &t->quant_conv, z);
    compare(g, "autoencoder_small", "quant_conv", f, D, 2e-5);
    ts_quantized r = quantizer_forward(g, &t->q, f, t->q.p.K, 0);
    int32_t got[2 * 30];
    T_OK(tg_download(g, got, r.idx));
    for (int k = 0; k < 4; k++) {
        char name[16];
        snprintf(name, sizeof name, "idx.%d", k);
        int64_t tokens;
        int32_t *idx = t_golden("autoencoder_small", name, "I32", &tokens);
        int64_t one = tokens / 2;
        for (int64_t i = 0; i < tokens; i++) T_EQI(got[i / one * 30 + t->q.p.start[k] + i % one], idx[i]);
    }
    int64_t n;
    float *want = t_golden("autoencoder_small", "reconstruction", "F32", &n), *out = t_alloc((size_t)n * sizeof *out);
    T_OK(tg_download(g, out, tokenizer_decode(g, t, r.f_hat)));
    clamp(out, n); /* the published function ends with clamp(-1, 1) */
    t_closef("reconstruction", out, channels_last(want, 2, 3, SIDE * SIDE), n, 5e-5);
    ts_tensor *zd = tg_upload(g, hashed_input("small.z", 2, D, LATENT * LATENT), TS_F32, 4, TG_DIMS(2, LATENT, LATENT, D));
    compare(g, "autoencoder_small", "decoder", decoder_forward(g, &t->decoder, zd), 3, 5e-5);
    ts_tokenizer_free(t);
    ts_device_close(d);
}

T_TEST(autoencoder_gradients)
{
    (void)s;
    ts_device *d = open_device(be);
    ts_tokenizer *t = small(d, 1);
    ts_graph *g;
    T_OK(ts_graph_new(&g, d, 1));
    ts_tensor *image = tg_upload(g, hashed_input("small.image", 2, 3, SIDE * SIDE), TS_F32, 4, TG_DIMS(2, SIDE, SIDE, 3));
    ts_tensor *out = tokenizer_decode(g, t, tokenizer_encode(g, t, image)); /* no quantizer between */
    ts_tensor *sums = tg_pixel_loss(g, out, image, 0, 1);
    float got[2], *want = t_golden("autoencoder_small", "continuous.mse", "F32", NULL);
    T_OK(tg_download(g, got, sums));
    T_NEAR(got[1] / (2 * 3 * SIDE * SIDE), want[0], 1e-5 * want[0]);
    T_OK(ts_graph_backward(g));
    T_TRUE(compare_gradients(t->params, d, "autoencoder_small", 2e-4) > 150);
    ts_graph_free(g);
    T_EQI(d->in_use > 0, 1); /* only the model is left */
    ts_tokenizer_free(t);
    T_EQI(d->in_use, 0);
    ts_device_close(d);
}

static ts_generator *golden_generator(ts_device *d, const char *name, int l2, int shared, int training)
{
    char text[512];
    snprintf(text, sizeof text,
             "{\"kind\":\"generator\",\"num_classes\":10,\"depth\":2,\"embed_dim\":128,\"num_heads\":2,\"shared_aln\":%s,"
             "\"attn_l2_norm\":%s,\"patch_nums\":[1,2,3,4],\"vocab_size\":64,\"z_channels\":8}",
             shared ? "true" : "false", l2 ? "true" : "false");
    json_t *o = json_loads(text, 0, NULL);
    ts_generator_config c;
    ts_generator *m;
    T_OK(ts_generator_config_read(&c, o, name));
    json_decref(o);
    T_OK(ts_generator_new(&m, d, &c, training, 1));
    hash_weights(m->params, name);
    return m;
}

static void teacher_forcing(const ts_backend *be, const char *name, int l2, int shared)
{
    char file[64], input[64];
    snprintf(file, sizeof file, "generator_%s", name);
    snprintf(input, sizeof input, "%s.x", name);
    ts_device *d = open_device(be);
    ts_generator *m = golden_generator(d, name, l2, shared, 1);
    ts_graph *g;
    T_OK(ts_graph_new(&g, d, 1));
    float *x = t_alloc(2 * 29 * D * sizeof *x);
    t_hash_input(x, input, 2 * 29 * D);
    int32_t *labels = t_golden(file, "label", "I32", NULL), *target = t_golden(file, "target", "I32", NULL);
    ts_tensor *logits = generator_logits(g, m, labels, 2, tg_upload(g, x, TS_F32, 3, TG_DIMS(2, 29, D)), NULL);
    int64_t n;
    float *want = t_golden(file, "logits", "F32", &n), *got = t_alloc((size_t)n * sizeof *got);
    T_OK(tg_download(g, got, logits));
    t_closef("logits", got, want, n, 2e-5);
    ts_tensor *loss = generator_loss(g, m, logits, target, 2);
    float rows[60], mean = 0;
    T_OK(tg_download(g, rows, loss));
    for (int i = 0; i < 60; i++) mean += rows[i] / 60;
    float *want_loss = t_golden(file, "loss", "F32", NULL);
    T_NEAR(mean, want_loss[0], 1e-5 * want_loss[0]);
    T_OK(ts_graph_backward(g));
    T_TRUE(compare_gradients(m->params, d, file, 2e-4) >= 30);
    ts_graph_free(g);
    ts_generator_free(m);
    T_EQI(d->in_use, 0);
    ts_device_close(d);
}

static void greedy(const ts_backend *be, const char *name, int l2, int shared)
{
    static const char *const CFG[] = { "0.0", "1.5", "4.0" };
    char file[64], tensor[64];
    snprintf(file, sizeof file, "generator_%s", name);
    ts_device *d = open_device(be);
    ts_tokenizer *t = small(d, 0);
    ts_generator *m = golden_generator(d, name, l2, shared, 0);
    int32_t *labels = t_golden(file, "label", "I32", NULL), tokens[60];
    float *images = t_alloc(2 * SIDE * SIDE * 3 * sizeof *images);
    for (int i = 0; i < 3; i++) {
        ts_sampling o = { .cfg = atof(CFG[i]), .temperature = 1, .top_p = 1, .top_k = 1 };
        T_OK(ts_generator_sample(m, t, labels, 2, &o, tokens, images));
        snprintf(tensor, sizeof tensor, "greedy.cfg%s.idx", CFG[i]);
        int32_t *want = t_golden(file, tensor, "I32", NULL);
        for (int j = 0; j < 60; j++) T_EQI(tokens[j], want[j]);
        snprintf(tensor, sizeof tensor, "greedy.cfg%s.image", CFG[i]);
        int64_t n;
        float *picture = t_golden(file, tensor, "F32", &n), *last = channels_last(picture, 2, 3, SIDE * SIDE);
        clamp(images, n); /* the published sampler maps [-1, 1] to [0, 1] */
        for (int64_t j = 0; j < n; j++) images[j] = (images[j] + 1) / 2;
        t_closef(tensor, images, last, n, 5e-5);
    }
    ts_generator_free(m);
    ts_tokenizer_free(t);
    T_EQI(d->in_use, 0);
    ts_device_close(d);
}

T_TEST(generator_plain)
{
    (void)s;
    teacher_forcing(be, "plain", 0, 0);
    greedy(be, "plain", 0, 0);
}

T_TEST(generator_l2norm)
{
    (void)s;
    teacher_forcing(be, "l2norm", 1, 0);
    greedy(be, "l2norm", 1, 0);
}

T_TEST(generator_shared)
{
    (void)s;
    teacher_forcing(be, "shared", 1, 1);
    greedy(be, "shared", 1, 1);
}

int main(void)
{
    Suite *u = t_suite("golden");
    T_ADD(u, autoencoder_forward);
    T_ADD(u, autoencoder_gradients);
    T_ADD(u, generator_plain);
    T_ADD(u, generator_l2norm);
    T_ADD(u, generator_shared);
    return t_run(u);
}
