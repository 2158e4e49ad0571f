/* bench_models.c - speed of the models: tokenizing and decoding, sampling, training. Contract: bench.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/file.h"
#include "host/log.h"
#include "host/profile.h"
#include "models/generator.h"
#include "tools/bench.h"
#include "tools/train.h"

typedef struct {
    bench_options *o;
    ts_device *d;
    ts_tokenizer *t;
    ts_generator *m;
    ts_graph *g; /* training */
    ts_params *params;
    int64_t B, calls;
    float *images, *out;
    int32_t *tokens, *labels;
    double part[3]; /* of training: forward, backward, optimizer; seconds, summed */
    bench_product product; /* measured in turn with every stage */
} models;

static void close_models(models *m)
{
    bench_product_close(&m->product);
    ts_graph_free(m->g);
    ts_generator_free(m->m);
    ts_tokenizer_free(m->t);
    free(m->images);
    free(m->out);
    free(m->tokens);
    free(m->labels);
}

/* A batch of random pictures, tokens and labels. */
static ts_status fill(models *m, int num_classes)
{
    int64_t pixels = m->B * m->t->c.image_size * m->t->c.image_size * 3, T = m->B * m->t->q.p.T;
    m->images = malloc((size_t)pixels * sizeof *m->images);
    m->out = malloc((size_t)pixels * sizeof *m->out);
    m->tokens = malloc((size_t)T * sizeof *m->tokens);
    m->labels = malloc((size_t)m->B * sizeof *m->labels);
    if (!m->images || !m->out || !m->tokens || !m->labels) return ts_fail(TS_E_NOMEM, "out of host memory");
    bench_fill(m->images, pixels, m->o->common.seed);
    for (int64_t i = 0; i < T; i++) m->tokens[i] = (int32_t)(i * 7919 % m->t->c.q.V);
    for (int64_t i = 0; i < m->B; i++) m->labels[i] = (int32_t)(i % num_classes);
    return TS_OK;
}

/* One call of f with a profile. */
static ts_status profile_call(models *m, bench_fn *f, ts_profile_line line[TS_PROFILE_MAX], int *n)
{
    double wall;
    if (!m->o->profile) TS_TRY(ts_profile_begin(m->d));
    ts_profile_reset();
    ts_status st = f(m);
    *n = ts_profile_read(line, &wall);
    if (!m->o->profile) ts_profile_end(m->d);
    return st;
}

/* What one call of f multiplies and adds. */
static ts_status count_flops(models *m, bench_fn *f, double *flops)
{
    ts_profile_line line[TS_PROFILE_MAX];
    int n;
    *flops = 0;
    TS_TRY(profile_call(m, f, line, &n));
    while (n-- > 0) *flops += line[n].flops;
    return TS_OK;
}

static void report_part(const models *m, const char *name, double ms)
{
    if (m->o->results)
        json_array_append_new(m->o->results, json_pack("{s:s,s:f}", "part", name, "mean_ms", ms));
    else
        printf("  %-22s%24.3f ms\n", name, ms);
}

/* Measure f and report pictures and tokens per second. */
static ts_status stage(models *m, const char *name, bench_fn *f)
{
    bench_time t;
    double flops;
    TS_TRY(bench_product_open(&m->product, m->o, m->d->math));
    TS_TRY(count_flops(m, f, &flops)); /* primitives are made and memory is taken: not what a profile should show */
    m->calls = 0;
    memset(m->part, 0, sizeof m->part);
    if (m->m && m->m->seconds) memset(m->m->seconds, 0, (TS_MAX_SCALES + 1) * sizeof *m->m->seconds);
    ts_profile_reset();
    TS_TRY(bench_measure(&t, f, m, bench_product_in_turn, &m->product, m->o->seconds));
    const double peak = bench_product_rate(&m->product);
    bench_product_close(&m->product);
    double images = (double)m->B / t.median, tokens = images * m->t->q.p.T;
    json_t *line = NULL;
    if (m->o->results) {
        line = json_pack("{s:s,s:I,s:i,s:f,s:f,s:f,s:f,s:f}", "stage", name, "batch", (json_int_t)m->B, "samples", t.n,
                         "median_ms", t.median * 1e3, "p10_ms", t.p10 * 1e3, "p90_ms", t.p90 * 1e3, "images_per_s",
                         images, "tokens_per_s", tokens);
        json_object_update_new(line, json_pack("{s:f,s:f,s:f}", "tflop", flops / 1e12, "tflop_s", flops / t.median / 1e12,
                                               "share_product", flops / t.median / peak));
        json_array_append_new(m->o->results, line);
    } else {
        printf("%-10s batch %-5lld%10.3f ms (p10 %.3f, p90 %.3f, n %d)%10.1f pictures/s%11.0f tokens/s\n", name,
               (long long)m->B, t.median * 1e3, t.p10 * 1e3, t.p90 * 1e3, t.n, images, tokens);
        printf("%-10s %.3f TFLOP, %.3f TFLOP/s, %.0f %% of a large product (%.3f TFLOP/s)\n", "", flops / 1e12,
               flops / t.median / 1e12, 100 * flops / t.median / peak, peak / 1e12);
    }
    if (m->o->profile) bench_profile(line, m->calls, m->product.seconds, name);
    return TS_OK;
}

/* Bytes of memory that belong to no file, the line RssAnon of Linux; 0 elsewhere. The device keeps what it once took, so after a
 * stage this is the most that the stages so far used. */
static double anonymous_memory(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char text[256];
    double kb = 0;
    while (f && fgets(text, sizeof text, f))
        if (sscanf(text, "RssAnon: %lf", &kb) == 1) break;
    if (f) fclose(f);
    return kb * 1024;
}

static void report_memory(const models *m)
{
    if (m->o->results)
        json_array_append_new(m->o->results, json_pack("{s:s,s:f}", "part", "memory", "anonymous_bytes", anonymous_memory()));
    else
        printf("%-10s %.2f GB beside mapped files\n", "memory", anonymous_memory() / 1e9);
}

/* --- reading and writing pictures --- */

typedef struct {
    ts_image im;
    int side;
    char path[BENCH_PATH];
} picture_file;

static ts_status write_picture(void *context)
{
    picture_file *p = context;
    return ts_image_write_png(p->path, &p->im, NULL, 0);
}

static ts_status read_picture(void *context)
{
    picture_file *p = context;
    ts_image im, out;
    TS_TRY(ts_image_read(&im, p->path));
    ts_status st = ts_image_preprocess(&out, &im, TS_PREPROCESS_VAR, p->side, NULL, NULL, p->path);
    ts_image_free(&im);
    if (st == TS_OK) ts_image_free(&out);
    return st;
}

static ts_status time_picture(models *m, const char *name, bench_fn *f, picture_file *p)
{
    bench_time t;
    TS_TRY(bench_measure(&t, f, p, NULL, NULL, m->o->seconds));
    if (m->o->results)
        json_array_append_new(m->o->results, json_pack("{s:s,s:f}", "part", name, "mean_ms", t.median * 1e3));
    else
        printf("%-10s one picture %10.3f ms, on one thread\n", name, t.median * 1e3);
    return TS_OK;
}

/* One PNG of the model's size, of smooth colours and some noise, as pictures have. */
static ts_status bench_pictures(models *m)
{
    picture_file p = { .side = m->t->c.image_size };
    int fd;
    TS_TRY(bench_temp(p.path, &fd));
    close(fd);
    size_t n = (size_t)p.side * (size_t)p.side * 3;
    p.im = (ts_image){ p.side, p.side, malloc(n) };
    for (size_t i = 0; p.im.rgb && i < n; i++) p.im.rgb[i] = (uint8_t)(i / 3 % (size_t)p.side / 2 + i * 2654435761u % 1024 / 64);
    ts_status st = p.im.rgb ? time_picture(m, "write PNG", write_picture, &p) : ts_fail(TS_E_NOMEM, "out of host memory");
    if (st == TS_OK) st = time_picture(m, "read PNG", read_picture, &p);
    ts_image_free(&p.im);
    unlink(p.path);
    return st;
}

/* --- tokenize --- */

static ts_status encode(void *context)
{
    models *m = context;
    m->calls++;
    return ts_tokenizer_encode(m->t, m->images, m->B, m->tokens);
}

static ts_status decode(void *context)
{
    models *m = context;
    m->calls++;
    return ts_tokenizer_decode(m->t, m->tokens, m->B, m->out);
}

/* What the quantizer takes of encoding a batch. */
static ts_status report_quantizer(models *m)
{
    ts_profile_line line[TS_PROFILE_MAX];
    double seconds = 0;
    int n;
    TS_TRY(profile_call(m, encode, line, &n));
    while (n-- > 0)
        if (strncmp(line[n].name, "fsq_", 4) == 0 || strncmp(line[n].name, "residual_", 9) == 0) seconds += line[n].seconds;
    report_part(m, "quantizer", seconds * 1e3);
    return TS_OK;
}

ts_status bench_tokenize(bench_options *o, ts_device *d)
{
    models m = { .o = o, .d = d, .B = o->batch };
    ts_status st = ts_tokenizer_load(&m.t, d, o->tokenizer);
    if (st == TS_OK) st = fill(&m, 1);
    if (st == TS_OK) st = stage(&m, "encode", encode);
    if (st == TS_OK) st = report_quantizer(&m);
    if (st == TS_OK) st = stage(&m, "decode", decode);
    if (st == TS_OK) st = bench_pictures(&m);
    if (st == TS_OK) report_memory(&m);
    close_models(&m);
    return st;
}

/* --- sample --- */

static ts_status sample(models *m, float *images)
{
    ts_sampling s = {
        .seed = m->o->common.seed, .image0 = (uint64_t)(m->calls * m->B), .cfg = 1.5, .temperature = 1, .top_p = 1
    };
    m->calls++;
    return ts_generator_sample(m->m, m->t, m->labels, m->B, &s, m->tokens, images);
}

static ts_status sample_tokens(void *context)
{
    return sample(context, NULL);
}

static ts_status sample_pictures(void *context)
{
    return sample(context, ((models *)context)->out);
}

/* Where the time of a batch went: scale by scale, and decoding. */
static void report_scales(const models *m)
{
    int K = m->m->p.K;
    for (int k = 0; k <= K; k++) {
        char name[32] = "decode";
        double ms = m->m->seconds[k] / (double)m->calls * 1e3;
        if (k < K) snprintf(name, sizeof name, "scale %d, %d x %d", k, m->m->c.side[k], m->m->c.side[k]);
        report_part(m, name, ms);
    }
}

ts_status bench_sample(bench_options *o, ts_device *d)
{
    double seconds[TS_MAX_SCALES + 1] = { 0 };
    models m = { .o = o, .d = d, .B = o->batch };
    ts_status st = ts_tokenizer_load(&m.t, d, o->tokenizer);
    if (st == TS_OK) st = ts_generator_load(&m.m, d, o->generator);
    if (st == TS_OK) st = ts_generator_fits(m.m, m.t, o->tokenizer);
    if (st == TS_OK) st = fill(&m, m.m->c.num_classes);
    if (st == TS_OK) m.m->seconds = seconds;
    if (st == TS_OK) st = stage(&m, "tokens", sample_tokens);
    if (st == TS_OK) st = stage(&m, "pictures", sample_pictures);
    if (st == TS_OK) report_scales(&m);
    if (st == TS_OK) report_memory(&m);
    close_models(&m);
    return st;
}

/* --- train --- */

static ts_status forward_tokenizer(models *m)
{
    ts_graph *g = m->g;
    int64_t side = m->t->c.image_size;
    ts_tensor *image = tg_upload(g, m->images, TS_F32, 4, TG_DIMS(m->B, side, side, 3));
    ts_quantized q = quantizer_forward(g, &m->t->q, tokenizer_encode(g, m->t, image), m->t->q.p.K, 0);
    float sums[2];
    return tg_download(g, sums, tg_pixel_loss(g, tokenizer_decode(g, m->t, q.f_hat), image, 0.2f, 1));
}

static ts_status forward_generator(models *m)
{
    ts_graph *g = m->g;
    ts_tensor *input = generator_input(g, &m->t->q, m->tokens, m->B);
    ts_tensor *logits = generator_logits(g, m->m, m->labels, m->B, input, NULL);
    ts_tensor *loss = generator_loss(g, m->m, logits, m->tokens, m->B);
    float *host = malloc((size_t)(ts_graph_status(g) == TS_OK ? ts_tensor_count(loss) : 1) * sizeof *host);
    ts_status st = host ? tg_download(g, host, loss) : ts_fail(TS_E_NOMEM, "out of host memory");
    free(host);
    return st;
}

static ts_status step(void *context)
{
    models *m = context;
    double start = ts_seconds();
    ts_graph_reset(m->g);
    TS_TRY(m->m ? forward_generator(m) : forward_tokenizer(m));
    double forward = ts_seconds();
    TS_TRY(ts_graph_backward(m->g));
    TS_TRY(m->d->be->stream_sync(m->d->s));
    double backward = ts_seconds();
    /* The learning rate is zero: every step is the same work on the same numbers. */
    ts_adamw a = { 0, 0.9f, 0.99f, 1e-8f, 0.01f, 1, 0.999f, ++m->calls };
    float gradient;
    TS_TRY(ts_params_step(m->params, &a, &gradient));
    m->part[0] += forward - start;
    m->part[1] += backward - forward;
    m->part[2] += ts_seconds() - backward;
    return TS_OK;
}

static ts_status read_model(json_t **model, const char *path)
{
    json_error_t e;
    json_t *o = json_load_file(path, JSON_REJECT_DUPLICATES, &e);
    if (!o) return ts_fail(ts_path_exists(path) ? TS_E_DATA : TS_E_NOINPUT, "%s: %s", path, e.text);
    *model = json_incref(json_object_get(o, "model"));
    json_decref(o);
    return *model ? TS_OK : ts_fail(TS_E_DATA, "%s: no \"model\"", path);
}

static ts_status new_tokenizer(models *m, const json_t *model)
{
    ts_tokenizer_config c;
    TS_TRY(ts_tokenizer_config_read(&c, model, m->o->config));
    TS_TRY(ts_tokenizer_new(&m->t, m->d, &c, 1, m->o->common.seed));
    m->params = m->t->params;
    return fill(m, 1);
}

static ts_status new_generator(models *m, json_t *model)
{
    ts_generator_config c;
    TS_TRY(ts_tokenizer_load(&m->t, m->d, m->o->tokenizer));
    train_generator_complete(model, m->t, 10);
    TS_TRY(ts_generator_config_read(&c, model, m->o->config));
    TS_TRY(ts_generator_new(&m->m, m->d, &c, 1, m->o->common.seed));
    TS_TRY(ts_generator_fits(m->m, m->t, m->o->tokenizer));
    m->params = m->m->params;
    return fill(m, c.num_classes);
}

static void report_parts(const models *m)
{
    static const char *const NAME[] = { "forward", "backward", "optimizer" };
    for (int i = 0; i < 3; i++) report_part(m, NAME[i], m->part[i] / (double)m->calls * 1e3);
}

ts_status bench_train(bench_options *o, ts_device *d)
{
    models m = { .o = o, .d = d, .B = o->batch };
    json_t *model = NULL;
    ts_status st = read_model(&model, o->config);
    const char *kind = json_string_value(json_object_get(model, "kind"));
    int generator = kind && strcmp(kind, "generator") == 0;
    if (st == TS_OK) st = generator ? new_generator(&m, model) : new_tokenizer(&m, model);
    if (st == TS_OK) st = ts_graph_new(&m.g, d, 1);
    if (st == TS_OK) st = stage(&m, "step", step);
    if (st == TS_OK) report_parts(&m);
    json_decref(model);
    close_models(&m);
    return st;
}
