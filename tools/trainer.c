/* trainer.c - contract: trainer.h. */
#include "tools/trainer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/checkpoint.h"
#include "host/dataset.h"
#include "host/file.h"
#include "models/tokenizer.h"
#include "tools/augment.h"

enum { KEEP = 2, MAX_SKIPS = 50 };

ts_status train_config_read(train_config *c, const json_t *o, const char *file, int tokenizer)
{
    ts_reader r = ts_reader_open(o, file, "train");
    c->steps = ts_read_int(&r, "steps", 1, 1000000000, -1);
    c->batch = ts_read_int(&r, "batch", 1, 65536, -1);
    c->warmup = ts_read_int(&r, "warmup", 0, 1000000000, 100);
    c->log_every = ts_read_int(&r, "log_every", 1, 1000000, 50);
    c->checkpoint_every = ts_read_int(&r, "checkpoint_every", 1, 1000000000, 500);
    c->lr = ts_read_number(&r, "lr", 1e-9, 10, NAN);
    c->lr_end = ts_read_number(&r, "lr_end", 0, 1, 0.05);
    c->beta1 = ts_read_number(&r, "beta1", 0, 0.99999, 0.9);
    c->beta2 = ts_read_number(&r, "beta2", 0, 0.99999, tokenizer ? 0.99 : 0.95);
    c->weight_decay = ts_read_number(&r, "weight_decay", 0, 10, 0.05);
    c->clip = ts_read_number(&r, "clip", 0, 1e6, 1);
    c->ema = ts_read_number(&r, "ema", 0, 0.999999, 0.999);
    c->save = ts_read_choice(&r, "save", "f32|bf16", "f32") ? TS_ST_BF16 : TS_ST_F32;
    if (tokenizer) {
        c->l1 = ts_read_number(&r, "l1", 0, 1000, 0.2);
        c->l2 = ts_read_number(&r, "l2", 0, 1000, 1);
        c->scale_dropout = ts_read_number(&r, "scale_dropout", 0, 1, 0);
        c->codebook_ema = ts_read_number(&r, "codebook_ema", 0, 0.99999, 0);
        c->restart_below = ts_read_number(&r, "restart_below", 0, 1e6, 0);
        c->augment = ts_read_choice(&r, "augment", AUGMENT_CHOICES, "none");
    } else {
        c->label_dropout = ts_read_number(&r, "label_dropout", 0, 1, 0.1);
        c->drop_path = ts_read_number(&r, "drop_path", 0, 0.9, 0);
        c->class_balance = ts_read_number(&r, "class_balance", 0, 1, 0);
    }
    TS_TRY(ts_reader_close(&r));
    if (c->restart_below > 0 && c->codebook_ema == 0)
        return ts_fail(TS_E_DATA, "%s: train: \"restart_below\" is for a codebook of averages, but \"codebook_ema\" is 0", file);
    return TS_OK;
}

/* --- what a step reports --- */

void trainer_mean(trainer *t, const char *name, double value)
{
    int i = 0;
    while (i < t->n && strcmp(t->name[i], name) != 0) i++;
    if (i == TS_MAX_METRICS) return;
    if (i == t->n) {
        snprintf(t->name[t->n++], sizeof t->name[0], "%s", name);
        t->sum[i] = 0;
    }
    t->sum[i] += value;
}

void trainer_now(trainer *t, double value, const char *name, ...)
{
    if (t->n_now == TS_MAX_METRICS) return;
    va_list args;
    va_start(args, name);
    vsnprintf(t->now_name[t->n_now], sizeof t->now_name[0], name, args);
    va_end(args);
    t->now[t->n_now++] = value;
}

static ts_status record(trainer *t, double lr)
{
    const char *names[2 * TS_MAX_METRICS + 2];
    double values[2 * TS_MAX_METRICS + 2];
    int n = 0;
    t->n_now = 0;
    if (t->measure) TS_TRY(t->measure(t, t->context));
    for (int i = 0; i < t->n; i++) {
        names[n] = t->name[i];
        values[n++] = t->sum[i] / (double)t->count;
    }
    names[n] = "lr", values[n++] = lr;
    names[n] = "skipped", values[n++] = (double)t->skipped;
    for (int i = 0; i < t->n_now; i++) {
        names[n] = t->now_name[i];
        values[n++] = t->now[i];
    }
    memset(t->sum, 0, sizeof t->sum);
    t->count = 0;
    return ts_metrics_add(t->metrics, t->step, n, names, values);
}

/* --- checkpoints --- */

static const char *dtype(const trainer *t)
{
    return ts_math_name(ts_graph_device(t->g)->math);
}

static ts_status save_state(const trainer *t, const char *dir)
{
    json_t *o = json_pack("{s:I,s:I,s:I,s:I,s:I,s:s,s:{}}", "step", (json_int_t)t->step, "skipped", (json_int_t)t->skipped,
                          "count", (json_int_t)t->count, "in_a_row", (json_int_t)t->skipped_in_a_row, "seed",
                          (json_int_t)t->seed, "dtype", dtype(t), "sums");
    for (int i = 0; o && i < t->n; i++) { /* hexadecimal: exact, and a sum may be no number */
        char text[40];
        snprintf(text, sizeof text, "%a", t->sum[i]);
        json_object_set_new(json_object_get(o, "sums"), t->name[i], json_string(text));
    }
    char *text = o ? json_dumps(o, JSON_INDENT(1)) : NULL, *path = ts_format("%s/trainer_state.json", dir);
    ts_status st = text && path ? ts_file_replace(path, text, strlen(text)) : ts_fail(TS_E_NOMEM, "out of host memory");
    free(text);
    free(path);
    json_decref(o);
    return st;
}

static const ts_buffer STATE[] = { TS_BUFFER_WEIGHT, TS_BUFFER_M, TS_BUFFER_V, TS_BUFFER_EMA };
static const char *const STATE_PREFIX[] = { "weight.", "m.", "v.", "ema." };
static const char *const NO_PREFIX = "";
enum { N_STATE = 4 };

static ts_status checkpoint(trainer *t)
{
    char *dir;
    TS_TRY(ts_metrics_sync(t->metrics)); /* no power cut leaves a checkpoint without the records before it */
    TS_TRY(ts_checkpoint_begin(t->run, t->step, &dir));
    char *model = ts_format("%s/model.safetensors", dir), *optimizer = ts_format("%s/optimizer.safetensors", dir);
    char *more = ts_format("%s/state.safetensors", dir);
    ts_status st = model && optimizer && more ? t->save(t, t->context, model) : ts_fail(TS_E_NOMEM, "out of host memory");
    if (st == TS_OK) st = ts_params_save(t->params, optimizer, STATE, STATE_PREFIX, N_STATE, TS_ST_F32, NULL, NULL, 0);
    if (st == TS_OK && t->more) st = ts_params_save(t->more, more, STATE, &NO_PREFIX, 1, TS_ST_F32, NULL, NULL, 0);
    if (st == TS_OK) st = save_state(t, dir);
    free(more);
    free(model);
    free(optimizer);
    if (st != TS_OK) {
        ts_checkpoint_abandon(dir);
        return st;
    }
    return ts_checkpoint_commit(t->run, t->step, dir, KEEP);
}

/* What is drawn, and how products are rounded, must not change in the middle of a run. */
static ts_status check_same(const trainer *t, const json_t *o)
{
    const json_t *seed = json_object_get(o, "seed");
    const char *math = json_string_value(json_object_get(o, "dtype"));
    uint64_t was = (uint64_t)json_integer_value(seed);
    if (seed && was != t->seed)
        return ts_fail(TS_E_ARG, "%s: --seed is %llu, expected %llu as this run was started with", t->run,
                       (unsigned long long)t->seed, (unsigned long long)was);
    if (math && strcmp(math, dtype(t)) != 0)
        return ts_fail(TS_E_ARG, "%s: --dtype is %s, expected %s as this run was started with", t->run, dtype(t), math);
    return TS_OK;
}

static ts_status load_state(trainer *t, const char *dir)
{
    char *path = ts_format("%s/trainer_state.json", dir);
    json_error_t e;
    json_t *o = path ? json_load_file(path, 0, &e) : NULL;
    ts_status st = o ? check_same(t, o) : ts_fail(TS_E_DATA, "%s: cannot be read as JSON", path ? path : dir);
    if (st == TS_OK) {
        t->step = json_integer_value(json_object_get(o, "step"));
        t->skipped = json_integer_value(json_object_get(o, "skipped"));
        t->skipped_in_a_row = json_integer_value(json_object_get(o, "in_a_row"));
        t->count = json_integer_value(json_object_get(o, "count"));
        const char *name;
        json_t *v;
        json_object_foreach(json_object_get(o, "sums"), name, v)
            if (json_is_string(v)) trainer_mean(t, name, strtod(json_string_value(v), NULL));
    }
    json_decref(o);
    free(path);
    return st;
}

static void warn(const char *line)
{
    ts_log("%s", line);
}

static ts_status load_more(const trainer *t, const char *dir)
{
    char *path = ts_format("%s/state.safetensors", dir);
    ts_st_file *f = NULL;
    ts_status st = path ? ts_st_open(&f, path) : ts_fail(TS_E_NOMEM, "out of host memory");
    if (st == TS_OK) st = ts_params_load(t->more, TS_BUFFER_WEIGHT, f, NO_PREFIX, 1);
    ts_st_close(f);
    free(path);
    return st;
}

static ts_status resume_from(trainer *t)
{
    char *dir = NULL;
    int64_t step;
    TS_TRY(ts_checkpoint_newest(t->run, &step, &dir, warn));
    if (!dir) return TS_OK; /* stopped before its first checkpoint: from the start */
    char *path = ts_format("%s/optimizer.safetensors", dir);
    ts_st_file *f = NULL;
    ts_status st = path ? ts_st_open(&f, path) : ts_fail(TS_E_NOMEM, "out of host memory");
    for (int i = 0; i < N_STATE && st == TS_OK; i++) st = ts_params_load(t->params, STATE[i], f, STATE_PREFIX[i], 0);
    if (st == TS_OK && t->more) st = load_more(t, dir);
    if (st == TS_OK) st = load_state(t, dir);
    if (st == TS_OK) ts_log("resumed from %s", dir);
    ts_st_close(f);
    free(path);
    free(dir);
    return st;
}

/* --- the run --- */

static ts_status check_config(const trainer *t, const json_t *config, int resume)
{
    char *path = ts_format("%s/config.json", t->run), *text = json_dumps(config, JSON_INDENT(2));
    ts_status st = TS_OK;
    if (!path || !text) {
        st = ts_fail(TS_E_NOMEM, "out of host memory");
    } else if (ts_path_exists(path) && !resume) {
        st = ts_fail(TS_E_BUSY, "%s: holds a run already; --resume goes on with it", t->run);
    } else if (ts_path_exists(path)) {
        json_error_t e;
        json_t *old = json_load_file(path, 0, &e);
        if (!old || !json_equal(old, config))
            st = ts_fail(TS_E_ARG, "%s: differs from the configuration of this run; a resumed run must not change it", path);
        json_decref(old);
    } else {
        st = ts_file_replace(path, text, strlen(text));
    }
    free(path);
    free(text);
    return st;
}

ts_status trainer_begin(trainer *t, const json_t *config, int resume)
{
    t->lock = -1;
    TS_TRY(ts_dir_make(t->run));
    TS_TRY(ts_dir_lock(&t->lock, t->run));
    TS_TRY(check_config(t, config, resume));
    TS_TRY(ts_dir_clean(t->run));
    if (resume) TS_TRY(resume_from(t));
    TS_TRY(ts_checkpoint_prune(t->run, t->step, KEEP));
    TS_TRY(ts_metrics_open(&t->metrics, t->run, t->step));
    t->progress = ts_progress_new("train", t->unit, t->c.steps * t->c.batch, t->step * t->c.batch);
    return TS_OK;
}

static double learning_rate(const train_config *c, int64_t step)
{
    if (step < c->warmup) return c->lr * (double)(step + 1) / (double)c->warmup;
    double x = c->steps > c->warmup ? (double)(step - c->warmup) / (double)(c->steps - c->warmup) : 1;
    return c->lr * (c->lr_end + (1 - c->lr_end) * 0.5 * (1 + cos(3.14159265358979 * x)));
}

static ts_status one_step(trainer *t, double *lr)
{
    *lr = learning_rate(&t->c, t->step);
    ts_graph_reset(t->g);
    TS_TRY(t->forward(t, t->context));
    TS_TRY(ts_graph_backward(t->g));
    /* The average forgets its random start quickly at first. */
    double warm = (1 + (double)t->step) / (10 + (double)t->step);
    ts_adamw a = { (float)*lr, (float)t->c.beta1, (float)t->c.beta2, 1e-8f, (float)t->c.weight_decay, (float)t->c.clip,
                   (float)fmin(t->c.ema, warm), t->step + 1 };
    float gradient;
    TS_TRY(ts_params_step(t->params, &a, &gradient));
    if (t->update) TS_TRY(t->update(t, t->context, gradient));
    t->step++;
    t->count++;
    if (isfinite(gradient)) {
        trainer_mean(t, "grad_norm", gradient);
        t->skipped_in_a_row = 0;
        return TS_OK;
    }
    t->skipped++;
    ts_log("step %lld: the gradient is not finite; the step is skipped", (long long)t->step);
    if (++t->skipped_in_a_row < MAX_SKIPS) return TS_OK;
    return ts_fail(TS_E_DATA, "%d steps in a row had no finite gradient; the last good checkpoint is in %s", MAX_SKIPS, t->run);
}

static ts_status finish(trainer *t)
{
    char *path = ts_format("%s/model.safetensors", t->run);
    ts_status st = path ? t->save(t, t->context, path) : ts_fail(TS_E_NOMEM, "out of host memory");
    free(path);
    return st;
}

ts_status trainer_run(trainer *t)
{
    while (t->step < t->c.steps) {
        double lr;
        TS_TRY(one_step(t, &lr));
        char note[64];
        snprintf(note, sizeof note, "%s %.4g", t->n ? t->name[0] : "", t->n ? t->sum[0] / (double)t->count : 0);
        ts_progress_set(t->progress, t->step * t->c.batch, note);
        if (t->step % t->c.log_every == 0 || t->step == t->c.steps) TS_TRY(record(t, lr));
        int stop = ts_signals_stop() && t->step < t->c.steps;
        if (stop || t->step % t->c.checkpoint_every == 0 || t->step == t->c.steps) TS_TRY(checkpoint(t));
        if (stop)
            return ts_fail(TS_E_STOPPED, "stopped at step %lld of %lld; --resume goes on", (long long)t->step,
                           (long long)t->c.steps);
    }
    return finish(t);
}

void trainer_end(trainer *t)
{
    ts_progress_free(t->progress);
    ts_metrics_close(t->metrics);
    ts_graph_free(t->g);
    ts_dir_unlock(t->lock);
}

ts_status trainer_start_from(trainer *t, const char *path, const char *kind)
{
    if (!path) return TS_OK;
    ts_st_file *f = NULL;
    json_t *o = NULL;
    ts_status st = ts_st_open(&f, path);
    if (st == TS_OK) st = ts_model_config(&o, f, kind);
    if (st == TS_OK) st = ts_params_load(t->params, TS_BUFFER_WEIGHT, f, "", 1);
    if (st == TS_OK) st = ts_params_load(t->params, TS_BUFFER_EMA, f, "", 1);
    json_decref(o);
    ts_st_close(f);
    return st;
}

int64_t trainer_pick(uint64_t seed, int64_t n, int64_t count)
{
    return ts_permute(seed * 0x9E3779B97F4A7C15u + (uint64_t)(n / count) + 1, n % count, count);
}
