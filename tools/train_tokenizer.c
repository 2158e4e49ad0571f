/* train_tokenizer.c - pictures in, reconstruction loss, quantizer losses. Loop and checkpoints: trainer.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/dataset.h"
#include "models/codebook.h"
#include "models/tokenizer.h"
#include "models/usage.h"
#include "tessera/philox.h"
#include "tools/augment.h"
#include "tools/train.h"

typedef struct {
    trainer t;
    ts_tokenizer *model;
    ts_dataset *data;
    ts_loader *loader;
    float *images;   /* one batch, host */
    int32_t *tokens; /* of the last step, host */
    float *stats;    /* of the last step, host */
    float *gains;
    ts_quantized q;           /* of the last step */
    codebook_average average; /* where the codebook is one */
} tokenizer_run;

/* Streams of Philox numbers, told apart by their first counter word. */
enum { DRAW_CROP = 1, DRAW_SCALES = 4 };

static int64_t order(void *context, int64_t n, float crop[2], int *has_crop)
{
    const tokenizer_run *r = context;
    const trainer *t = &r->t;
    if (n >= t->c.steps * t->c.batch) return -1;
    *has_crop = r->model->c.preprocess == TS_PREPROCESS_VAR;
    crop[0] = ts_philox_uniform(t->seed, DRAW_CROP, 0, (uint64_t)n);
    crop[1] = ts_philox_uniform(t->seed, DRAW_CROP + 1, 0, (uint64_t)n);
    return trainer_pick(t->seed, n, ts_dataset_count(r->data));
}

static ts_status next_batch(tokenizer_run *r)
{
    int64_t pixels = (int64_t)r->model->c.image_size * r->model->c.image_size * 3;
    for (int64_t b = 0; b < r->t.c.batch; b++) {
        ts_loaded in;
        int more;
        TS_TRY(ts_loader_next(r->loader, &in, &more));
        if (!more) return ts_fail(TS_E_INTERNAL, "the loader ended before the run");
        if (in.status != TS_OK) return ts_fail(in.status, "%s", in.error);
        ts_status st = augment(&in.image, (augment_kind)r->t.c.augment, r->t.seed, (uint64_t)in.position);
        if (st == TS_OK) ts_image_to_float(r->images + b * pixels, in.image.rgb, (size_t)pixels);
        ts_image_free(&in.image);
        TS_TRY(st);
    }
    return TS_OK;
}

/* With probability scale_dropout a step uses the first 1..K-1 scales only. */
static int scales_in_use(const trainer *t, int K)
{
    float u = ts_philox_uniform(t->seed, DRAW_SCALES, 0, (uint64_t)t->step);
    float v = ts_philox_uniform(t->seed, DRAW_SCALES, 1, (uint64_t)t->step);
    return K > 1 && u < t->c.scale_dropout ? 1 + (int)(v * (float)(K - 1)) : K;
}

static ts_status forward(trainer *t, void *context)
{
    tokenizer_run *r = context;
    ts_tokenizer *m = r->model;
    ts_graph *g = t->g;
    int64_t B = t->c.batch, side = m->c.image_size, n = B * side * side * 3;
    TS_TRY(next_batch(r));
    ts_tensor *image = tg_upload(g, r->images, TS_F32, 4, TG_DIMS(B, side, side, 3));
    ts_tensor *f = tokenizer_encode(g, m, image);
    ts_quantized q = r->q = quantizer_forward(g, &m->q, f, scales_in_use(t, m->q.p.K), 0);
    ts_tensor *sums = tg_pixel_loss(g, tokenizer_decode(g, m, q.f_hat), image, (float)t->c.l1, (float)t->c.l2);
    float s[2] = { 0, 0 };
    tg_download(g, s, sums);
    tg_download(g, r->tokens, q.idx);
    if (q.stats) tg_download(g, r->stats, q.stats);
    double l1 = s[0] / (double)n, l2 = s[1] / (double)n;
    trainer_mean(t, "loss", t->c.l1 * l1 + t->c.l2 * l2);
    trainer_mean(t, "l1", l1);
    trainer_mean(t, "l2", l2);
    trainer_mean(t, "psnr", l2 > 0 ? 10 * log10(4 / l2) : 0); /* of a batch, values in [-1, 1] */
    return ts_graph_status(g);
}

static ts_status update(trainer *t, void *context, float grad_norm)
{
    tokenizer_run *r = context;
    return codebook_average_step(&r->average, r->model, &r->q, t->step, grad_norm);
}

/* Share of the codebook that the last batch used. */
static ts_status measure_codebook(trainer *t, const tokenizer_run *r)
{
    const int64_t n = t->c.batch * r->model->q.p.T;
    int32_t *codes = malloc((size_t)n * sizeof *codes);
    if (!codes) return ts_fail(TS_E_NOMEM, "out of host memory");
    memcpy(codes, r->tokens, (size_t)n * sizeof *codes);
    trainer_now(t, (double)ts_usage_of(codes, n).used / r->model->c.q.V, "codebook/used");
    free(codes);
    return TS_OK;
}

/* Per scale, of the last batch: codes used, perplexity, RMS of what is left, share clamped, mean gain. */
static ts_status measure(trainer *t, void *context)
{
    tokenizer_run *r = context;
    const quantizer *q = &r->model->q;
    int64_t B = t->c.batch;
    int residual = q->c.kind == TS_QUANTIZER_RESIDUAL_FSQ;
    if (residual)
        TS_TRY(r->model->d->be->download(r->model->d->s, r->gains, q->log_gain->data, (size_t)(q->p.K * q->c.D) * sizeof(float)));
    if (q->c.kind == TS_QUANTIZER_VQ) TS_TRY(measure_codebook(t, r));
    for (int k = 0; k < q->p.K; k++) {
        ts_usage u;
        TS_TRY(ts_usage_of_scale(&u, r->tokens, B, &q->p, k));
        trainer_now(t, (double)u.used, "scale/%d/used", k);
        trainer_now(t, u.perplexity, "scale/%d/perplexity", k);
        if (q->c.kind == TS_QUANTIZER_FSQ) continue;
        double latent = (double)(B * q->p.h * q->p.w * q->c.D), codes = (double)(B * q->p.py[k] * q->p.px[k] * q->c.D);
        trainer_now(t, sqrt(r->stats[residual ? 2 * k : k] / latent), "scale/%d/residual_rms", k);
        if (!residual) continue;
        double gain = 0;
        for (int d = 0; d < q->c.D; d++) gain += exp(r->gains[k * q->c.D + d]) / q->c.D;
        trainer_now(t, r->stats[2 * k + 1] / codes, "scale/%d/clamped", k);
        trainer_now(t, gain, "scale/%d/gain", k);
    }
    return TS_OK;
}

static ts_status save(trainer *t, void *context, const char *path)
{
    return ts_tokenizer_save(((tokenizer_run *)context)->model, path, TS_BUFFER_EMA, t->c.save);
}

static ts_status start_loader(tokenizer_run *r, int threads)
{
    ts_loader_options o = { .how = r->model->c.preprocess, .size = r->model->c.image_size, .threads = threads,
                            .ahead = (int)(2 * r->t.c.batch), .first = r->t.step * r->t.c.batch, .order = order, .context = r };
    return ts_loader_new(&r->loader, r->data, &o);
}

/* What a quantizer does not take. */
static ts_status check_options(const train_config *c, ts_quantizer_kind kind, const char *file)
{
    if (kind == TS_QUANTIZER_VQ && c->scale_dropout > 0)
        return ts_fail(TS_E_DATA, "%s: train: \"scale_dropout\" is %g, expected 0 for quantizer vq", file, c->scale_dropout);
    if (kind != TS_QUANTIZER_VQ && c->codebook_ema > 0)
        return ts_fail(TS_E_DATA, "%s: train: \"codebook_ema\" is %g, expected 0 for a quantizer that is not vq", file,
                       c->codebook_ema);
    return TS_OK;
}

static ts_status begin_average(tokenizer_run *r)
{
    trainer *t = &r->t;
    if (t->c.codebook_ema == 0) return TS_OK;
    TS_TRY(codebook_average_begin(&r->average, r->model, t->c.codebook_ema, t->c.restart_below, t->seed));
    t->update = update;
    t->more = r->average.state;
    return TS_OK;
}

static ts_status run(tokenizer_run *r, const train_options *o, const json_t *preset, ts_device *d)
{
    trainer *t = &r->t;
    ts_tokenizer_config c;
    TS_TRY(ts_tokenizer_config_read(&c, json_object_get(preset, "model"), o->config_path));
    TS_TRY(train_config_read(&t->c, json_object_get(preset, "train"), o->config_path, 1));
    TS_TRY(check_options(&t->c, c.q.kind, o->config_path));
    TS_TRY(ts_dataset_open(&r->data, &o->data, 1));
    TS_TRY(ts_tokenizer_new(&r->model, d, &c, 1, t->seed));
    TS_TRY(ts_graph_new(&t->g, d, 1));
    t->params = r->model->params;
    size_t B = (size_t)t->c.batch, pixels = (size_t)c.image_size * (size_t)c.image_size * 3;
    r->images = malloc(B * pixels * sizeof *r->images);
    r->tokens = malloc(B * (size_t)r->model->q.p.T * sizeof *r->tokens);
    r->stats = calloc(2 * TS_MAX_SCALES, sizeof *r->stats);
    r->gains = calloc(TS_MAX_SCALES * TS_MAX_D, sizeof *r->gains);
    if (!r->images || !r->tokens || !r->stats || !r->gains) return ts_fail(TS_E_NOMEM, "out of host memory");
    TS_TRY(trainer_start_from(t, o->init, "tokenizer"));
    TS_TRY(begin_average(r)); /* of the codebook as it is now */
    TS_TRY(trainer_begin(t, preset, o->resume));
    ts_log("tokenizer: %.2f M parameters, %lld pictures, %lld steps of %lld", (double)ts_params_floats(t->params) / 1e6,
           (long long)ts_dataset_count(r->data), (long long)t->c.steps, (long long)t->c.batch);
    const int64_t layer = 9 * (int64_t)c.image_size * c.image_size * c.ch * c.ch; /* what the first ones multiply, one of the largest */
    if (strcmp(d->be->name, "cuda") == 0 && d->math == TS_MATH_BF16 && tg_prepares(t->g, layer))
        ts_log("the first step can take a minute or two: cuDNN compiles kernels for large convolutions");
    TS_TRY(start_loader(r, 2));
    return trainer_run(t);
}

ts_status train_tokenizer(const train_options *o, json_t *preset, ts_device *d)
{
    tokenizer_run *r = calloc(1, sizeof *r);
    if (!r) return ts_fail(TS_E_NOMEM, "out of host memory");
    r->t = (trainer){ .run = o->run, .seed = o->common.seed, .forward = forward, .measure = measure, .save = save, .unit = "img",
                      .context = r, .lock = -1 };
    ts_status st = run(r, o, preset, d);
    trainer_end(&r->t);
    ts_loader_free(r->loader);
    codebook_average_end(&r->average);
    ts_tokenizer_free(r->model);
    ts_dataset_close(r->data);
    free(r->images);
    free(r->tokens);
    free(r->stats);
    free(r->gains);
    free(r);
    return st;
}
