/* train_generator.c - token shards in, next-scale cross-entropy. Loop and checkpoints: trainer.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/tokens.h"
#include "models/generator.h"
#include "tessera/philox.h"
#include "tools/balance.h"
#include "tools/train.h"

typedef struct {
    trainer t;
    ts_generator *model;
    ts_tokenizer *tokenizer;
    ts_token_set *data;
    class_balance balance;
    int32_t *tokens, *labels; /* one batch, host */
    float *keep;              /* drop-path factors, (2*depth, batch) */
    float *loss;              /* of each token, or of each digit */
} generator_run;

enum { DRAW_LABEL = 16, DRAW_PATH = 17 };

static int64_t pick(const generator_run *r, int64_t n)
{
    if (r->t.c.class_balance > 0) return class_balance_pick(&r->balance, r->t.seed, n);
    return trainer_pick(r->t.seed, n, ts_token_set_count(r->data));
}

static ts_status next_batch(generator_run *r)
{
    const trainer *t = &r->t;
    int64_t T = ts_token_set_T(r->data);
    for (int64_t b = 0; b < t->c.batch; b++) {
        int64_t n = t->step * t->c.batch + b;
        uint64_t source;
        TS_TRY(ts_token_set_get(r->data, pick(r, n), r->tokens + b * T, &r->labels[b], &source));
        int32_t none = r->model->c.num_classes;
        if (r->labels[b] < 0) r->labels[b] = none;
        if (r->labels[b] > none)
            return ts_fail(TS_E_DATA, "a sample has label %d, the model has %d classes", r->labels[b], none);
        if (ts_philox_uniform(t->seed, DRAW_LABEL, 0, (uint64_t)n) < t->c.label_dropout) r->labels[b] = none;
    }
    return TS_OK;
}

/* The rate grows linearly from 0 at the first block to drop_path at the last. */
static const float *draw_paths(generator_run *r)
{
    const trainer *t = &r->t;
    int depth = r->model->c.depth;
    if (t->c.drop_path <= 0) return NULL;
    for (int j = 0; j < 2 * depth; j++) {
        double rate = depth > 1 ? t->c.drop_path * (j / 2) / (depth - 1) : t->c.drop_path;
        for (int64_t b = 0; b < t->c.batch; b++) {
            float u = ts_philox_uniform(t->seed, DRAW_PATH, (uint32_t)j, (uint64_t)(t->step * t->c.batch + b));
            r->keep[j * t->c.batch + b] = u < rate ? 0 : (float)(1 / (1 - rate));
        }
    }
    return r->keep;
}

static const char *const SCALE_BITS[TS_MAX_SCALES] = {
    "bits/0", "bits/1", "bits/2",  "bits/3",  "bits/4",  "bits/5",  "bits/6",  "bits/7",
    "bits/8", "bits/9", "bits/10", "bits/11", "bits/12", "bits/13", "bits/14", "bits/15"
};

/* Bits per picture, in all and per scale. */
static void report_bits(generator_run *r)
{
    const ts_pyramid *p = &r->model->p;
    int64_t B = r->t.c.batch, per = r->model->c.head == TS_HEAD_DIGITS ? r->model->c.D : 1;
    double bits[TS_MAX_SCALES] = { 0 }, all = 0;
    for (int64_t b = 0; b < B; b++)
        for (int k = 0; k < p->K; k++)
            for (int64_t i = (b * p->T + p->start[k]) * per; i < (b * p->T + p->start[k + 1]) * per; i++)
                bits[k] += r->loss[i] / log(2) / (double)B;
    for (int k = 0; k < p->K; k++) all += bits[k];
    trainer_mean(&r->t, "loss", all * log(2) / p->T);
    trainer_mean(&r->t, "bits", all);
    for (int k = 0; k < p->K; k++) trainer_mean(&r->t, SCALE_BITS[k], bits[k]);
}

static ts_status forward(trainer *t, void *context)
{
    generator_run *r = context;
    ts_graph *g = t->g;
    int64_t B = t->c.batch;
    TS_TRY(next_batch(r));
    ts_tensor *input = generator_input(g, &r->tokenizer->q, r->tokens, B);
    ts_tensor *logits = generator_logits(g, r->model, r->labels, B, input, draw_paths(r));
    ts_tensor *loss = generator_loss(g, r->model, logits, r->tokens, B);
    if (tg_download(g, r->loss, loss) == TS_OK) report_bits(r);
    return ts_graph_status(g);
}

static ts_status save(trainer *t, void *context, const char *path)
{
    return ts_generator_save(((generator_run *)context)->model, path, TS_BUFFER_EMA, t->c.save);
}

/* How often each digit occurs, per scale and channel. */
static ts_status count_digits(const generator_run *r, int64_t *count)
{
    const ts_digit_head *d = &r->model->digits;
    const ts_pyramid *p = &r->model->p;
    for (int64_t i = 0; i < ts_token_set_count(r->data); i++) {
        int32_t label;
        uint64_t source;
        TS_TRY(ts_token_set_get(r->data, i, r->tokens, &label, &source));
        for (int k = 0; k < p->K; k++)
            for (int32_t t = p->start[k]; t < p->start[k + 1]; t++)
                for (int j = 0; j < d->D; j++)
                    count[k * d->sum_L + d->off[j] + r->tokens[t] / d->basis[j] % d->level[j]]++;
    }
    return TS_OK;
}

/* The digit head starts at the log frequencies of the training set, per scale and channel. */
static ts_status start_from_frequencies(const generator_run *r)
{
    const ts_digit_head *d = &r->model->digits;
    if (r->model->c.head != TS_HEAD_DIGITS) return TS_OK;
    int n = r->model->p.K * d->sum_L;
    int64_t *count = malloc((size_t)n * sizeof *count);
    float *c = malloc((size_t)n * sizeof *c);
    for (int i = 0; count && i < n; i++) count[i] = 1; /* one never seen has a probability too */
    ts_status st = count && c ? count_digits(r, count) : ts_fail(TS_E_NOMEM, "out of host memory");
    for (int i = 0, j = 0; i < n && st == TS_OK; i += d->level[j], j = (j + 1) % d->D) {
        int64_t sum = 0;
        for (int l = 0; l < d->level[j]; l++) sum += count[i + l];
        for (int l = 0; l < d->level[j]; l++) c[i + l] = (float)log((double)count[i + l] / (double)sum);
    }
    if (st == TS_OK) st = ts_params_put(r->model->params, r->model->digit_logit, c);
    free(count);
    free(c);
    return st;
}

void train_generator_complete(json_t *model, const ts_tokenizer *t, int classes)
{
    json_t *c = ts_tokenizer_config_json(&t->c), *q = json_object_get(c, "quantizer");
    if (!json_object_get(model, "patch_nums")) json_object_set(model, "patch_nums", json_object_get(c, "patch_nums"));
    if (!json_object_get(model, "vocab_size")) json_object_set_new(model, "vocab_size", json_integer(t->c.q.V));
    if (!json_object_get(model, "z_channels")) json_object_set_new(model, "z_channels", json_integer(t->c.q.D));
    if (!json_object_get(model, "num_classes")) json_object_set_new(model, "num_classes", json_integer(classes));
    const char *head = json_string_value(json_object_get(model, "head"));
    if (head && strcmp(head, "digits") == 0 && !json_object_get(model, "levels") && json_object_get(q, "levels"))
        json_object_set(model, "levels", json_object_get(q, "levels"));
    json_decref(c);
}

static ts_status check_data(const generator_run *r, const char *dir)
{
    json_error_t e;
    json_t *info = json_loads(ts_token_set_info(r->data), 0, &e);
    const char *hash = json_string_value(json_object_get(info, "tokenizer"));
    ts_status st = TS_OK;
    if (!hash || strcmp(hash, r->tokenizer->hash) != 0)
        st = ts_fail(TS_E_DATA, "%s: made by tokenizer %s, but the given tokenizer is %s", dir, hash ? hash : "(unknown)",
                     r->tokenizer->hash);
    else if (ts_token_set_T(r->data) != r->tokenizer->q.p.T || ts_token_set_V(r->data) != r->tokenizer->c.q.V)
        st = ts_fail(TS_E_DATA, "%s: %lld tokens of %lld codes a picture, the tokenizer has %d of %d", dir,
                     (long long)ts_token_set_T(r->data), (long long)ts_token_set_V(r->data), r->tokenizer->q.p.T,
                     r->tokenizer->c.q.V);
    else if (ts_token_set_count(r->data) < 1)
        st = ts_fail(TS_E_DATA, "%s: holds no sample, expected at least one", dir);
    json_decref(info);
    return st;
}

static ts_status name_classes(generator_run *r)
{
    int n = ts_token_set_classes(r->data);
    if (n != r->model->c.num_classes) return TS_OK;
    const char **names = calloc((size_t)n, sizeof *names);
    if (!names) return ts_fail(TS_E_NOMEM, "out of host memory");
    for (int i = 0; i < n; i++) names[i] = ts_token_set_class(r->data, i);
    ts_status st = ts_generator_set_classes(r->model, names);
    free(names);
    return st;
}

static ts_status run(generator_run *r, const train_options *o, json_t *preset, ts_device *d)
{
    trainer *t = &r->t;
    ts_generator_config c;
    TS_TRY(train_config_read(&t->c, json_object_get(preset, "train"), o->config_path, 0));
    TS_TRY(ts_tokenizer_load(&r->tokenizer, d, o->tokenizer));
    TS_TRY(ts_token_set_open(&r->data, o->data, 0));
    TS_TRY(check_data(r, o->data));
    train_generator_complete(json_object_get(preset, "model"), r->tokenizer, ts_token_set_classes(r->data));
    TS_TRY(ts_generator_config_read(&c, json_object_get(preset, "model"), o->config_path));
    TS_TRY(ts_generator_new(&r->model, d, &c, 1, t->seed));
    TS_TRY(ts_generator_fits(r->model, r->tokenizer, o->tokenizer));
    TS_TRY(name_classes(r));
    strcpy(r->model->tokenizer_hash, r->tokenizer->hash);
    TS_TRY(ts_graph_new(&t->g, d, 1));
    t->params = r->model->params;
    size_t B = (size_t)t->c.batch, T = (size_t)r->model->p.T;
    r->tokens = malloc(B * T * sizeof *r->tokens);
    r->labels = malloc(B * sizeof *r->labels);
    r->keep = malloc(2 * (size_t)c.depth * B * sizeof *r->keep);
    r->loss = malloc(B * T * TS_MAX_D * sizeof *r->loss);
    if (!r->tokens || !r->labels || !r->keep || !r->loss) return ts_fail(TS_E_NOMEM, "out of host memory");
    TS_TRY(start_from_frequencies(r));
    if (t->c.class_balance > 0) TS_TRY(class_balance_new(&r->balance, r->data, t->c.class_balance));
    TS_TRY(trainer_start_from(t, o->init, "generator"));
    TS_TRY(trainer_begin(t, preset, o->resume));
    ts_log("generator: %.2f M parameters, %lld pictures of %zu tokens, %lld steps of %lld",
           (double)ts_params_floats(t->params) / 1e6, (long long)ts_token_set_count(r->data), T, (long long)t->c.steps,
           (long long)t->c.batch);
    return trainer_run(t);
}

ts_status train_generator(const train_options *o, json_t *preset, ts_device *d)
{
    generator_run *r = calloc(1, sizeof *r);
    if (!r) return ts_fail(TS_E_NOMEM, "out of host memory");
    r->t = (trainer){ .run = o->run, .seed = o->common.seed, .forward = forward, .save = save, .unit = "img", .context = r,
                      .lock = -1 };
    ts_status st = run(r, o, preset, d);
    trainer_end(&r->t);
    ts_generator_free(r->model);
    ts_tokenizer_free(r->tokenizer);
    ts_token_set_close(r->data);
    class_balance_free(&r->balance);
    free(r->tokens);
    free(r->labels);
    free(r->keep);
    free(r->loss);
    free(r);
    return st;
}
