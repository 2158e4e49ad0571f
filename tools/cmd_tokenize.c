/* cmd_tokenize.c - `tessera tokenize`: pictures to token shards. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/dataset.h"
#include "host/file.h"
#include "host/log.h"
#include "host/tokens.h"
#include "models/tokenizer.h"
#include "tools/augment.h"
#include "tools/commands.h"
#include "tools/common.h"

enum { MAX_ERRORS_BYTES = 1 << 30, WHOLE_AHEAD = 4 }; /* whole pictures may be large */

typedef struct {
    const char *tokenizer, *out;
    int preprocess;
    int64_t variants, batch, per_shard;
    double max_bad;
    common_options common;
    char **inputs;
    int n_inputs;
} tokenize_options;

typedef struct {
    const tokenize_options *o;
    ts_tokenizer *t;
    ts_dataset *data;
    ts_loader *loader;
    ts_token_writer *w;
    FILE *errors;
    int64_t total, done, bad;
    int64_t bad_before; /* of bad: listed by the run that this one goes on with */
    float *images;
    int32_t *tokens, *labels;
    int64_t *sources;
} tokenize_run;

/* Source n is variant n % variants of picture n / variants. */
static int64_t order(void *context, int64_t n, float crop[2], int *has_crop)
{
    const tokenize_run *r = context;
    (void)crop;
    *has_crop = 0;
    return n < r->total ? n / r->o->variants : -1;
}

/* What decides the tokens: an unfinished run is only gone on with if this is the same. */
static char *describe(const tokenize_run *r)
{
    json_t *o = ts_tokenizer_config_json(&r->t->c), *sides = json_object_get(o, "patch_nums");
    json_t *info = json_pack("{s:s,s:s,s:s,s:i,s:O,s:I,s:I,s:I}", "tokenizer", r->t->hash, "dtype",
                             ts_math_name(r->t->d->math), "preprocess",
                             ts_preprocess_name(common_preprocess(r->o->preprocess, r->t)), "image_size", r->t->c.image_size,
                             "patch_nums", sides, "variants", (json_int_t)r->o->variants, "seed", (json_int_t)r->o->common.seed,
                             "sources", (json_int_t)r->total);
    char *text = info ? json_dumps(info, JSON_COMPACT) : NULL;
    json_decref(info);
    json_decref(o);
    return text;
}

static char *errors_path(const tokenize_run *r)
{
    return ts_format("%s/errors.jsonl", r->o->out);
}

/* The sample that a line of errors.jsonl is about; -1 if it is none. */
static int64_t listed(const char *line, size_t n)
{
    json_error_t e;
    json_t *o = json_loadb(line, n, 0, &e);
    const json_t *sample = json_object_get(o, "sample");
    int64_t i = json_is_integer(sample) ? json_integer_value(sample) : -1;
    json_decref(o);
    return i;
}

/* Of what an earlier run listed, keep the pictures that are not read again. */
static ts_status keep_errors(tokenize_run *r)
{
    char *path = errors_path(r), *text = NULL;
    size_t n, kept = 0;
    ts_status st = path ? TS_OK : ts_fail(TS_E_NOMEM, "out of host memory");
    if (st == TS_OK && ts_path_exists(path)) {
        void *bytes = NULL;
        st = ts_file_read(path, MAX_ERRORS_BYTES, &bytes, &n);
        text = bytes;
    }
    for (const char *end; st == TS_OK && text && (end = strchr(text + kept, '\n')) != NULL; r->bad_before++) {
        int64_t sample = listed(text + kept, (size_t)(end - text) - kept);
        if (sample < 0 || sample >= r->done) break;
        kept = (size_t)(end - text) + 1;
    }
    r->bad = r->bad_before;
    if (st == TS_OK && text && kept < n) st = ts_file_replace(path, text, kept);
    if (st == TS_OK && text && kept == 0) remove(path);
    free(text);
    free(path);
    return st;
}

static ts_status open_writer(tokenize_run *r)
{
    int n = ts_dataset_classes(r->data);
    const char **classes = calloc((size_t)n + 1, sizeof *classes);
    char *info = describe(r);
    if (!classes || !info) {
        free(classes);
        free(info);
        return ts_fail(TS_E_NOMEM, "out of host memory");
    }
    for (int i = 0; i < n; i++) classes[i] = ts_dataset_class(r->data, i);
    ts_status st = ts_token_writer_new(&r->w, r->o->out, info, r->t->q.p.T, r->t->c.q.V, classes, n, r->total, r->o->per_shard);
    free(classes);
    free(info);
    if (st != TS_OK) return st;
    r->done = ts_token_writer_resume(r->w);
    return keep_errors(r);
}

static ts_status note_bad(tokenize_run *r, const ts_loaded *in)
{
    json_t *o = json_pack("{s:I,s:o,s:o}", "sample", (json_int_t)in->position, "file",
                          common_text(ts_dataset_name(r->data, in->picture)), "error", common_text(in->error));
    char *line = o ? json_dumps(o, JSON_COMPACT) : NULL, *path = errors_path(r);
    json_decref(o);
    if (!r->errors && path) r->errors = fopen(path, "a");
    int ok = line && r->errors && fputs(line, r->errors) >= 0 && fputc('\n', r->errors) >= 0 && fflush(r->errors) == 0;
    ts_status st = ok ? TS_OK : ts_fail(TS_E_IO, "%s/errors.jsonl: cannot be written: %s", r->o->out, strerror(errno));
    free(line);
    free(path);
    if (st == TS_OK && (double)++r->bad > r->o->max_bad / 100 * (double)r->total)
        st = ts_fail(TS_E_DATA, "%lld of %lld pictures are unreadable, more than --max-bad %g %%; the last: %s", (long long)r->bad,
                     (long long)r->total, r->o->max_bad, in->error);
    return st;
}

/* A whole picture becomes one of the model's size on the device. One that cannot is unreadable. */
static ts_status bring_to_size(tokenize_run *r, ts_loaded *in)
{
    const char *name = ts_dataset_name(r->data, in->picture);
    ts_image small;
    ts_status st = ts_image_preprocess(&small, &in->image, common_preprocess(r->o->preprocess, r->t), r->t->c.image_size, NULL,
                                       common_resizer(r->t->d), name);
    ts_image_free(&in->image);
    in->image = small;
    if (st != TS_E_DATA) return st;
    in->status = st;
    snprintf(in->error, sizeof in->error, "%s", ts_error());
    return TS_OK;
}

/* Read up to a batch of pictures; *have is 0 at the end. */
static ts_status read_batch(tokenize_run *r, int64_t *have)
{
    int64_t n = (int64_t)r->t->c.image_size * r->t->c.image_size * 3;
    *have = 0;
    while (*have < r->o->batch) {
        ts_loaded in;
        int more;
        TS_TRY(ts_loader_next(r->loader, &in, &more));
        if (!more) return TS_OK;
        if (in.status == TS_OK && common_resizer(r->t->d)) TS_TRY(bring_to_size(r, &in));
        if (in.status != TS_OK) {
            TS_TRY(note_bad(r, &in));
            r->done++;
            continue;
        }
        int varied = in.position % r->o->variants != 0;
        ts_status st = augment(&in.image, varied ? AUGMENT_SHIFT : AUGMENT_NONE, r->o->common.seed, (uint64_t)in.position);
        if (st == TS_OK) ts_image_to_float(r->images + *have * n, in.image.rgb, (size_t)n);
        ts_image_free(&in.image);
        TS_TRY(st);
        r->labels[*have] = in.label;
        r->sources[(*have)++] = in.position;
    }
    return TS_OK;
}

static ts_status tokenize_all(tokenize_run *r)
{
    int64_t T = r->t->q.p.T, n = (int64_t)r->t->c.image_size * r->t->c.image_size * 3, B = r->o->batch;
    const int whole = common_resizer(r->t->d) != NULL;
    ts_loader_options lo = { .how = common_preprocess(r->o->preprocess, r->t), .size = whole ? 0 : r->t->c.image_size, .threads = 2,
                             .ahead = whole ? WHOLE_AHEAD : (int)(2 * B), .first = r->done, .order = order, .context = r };
    r->images = malloc((size_t)(B * n) * sizeof *r->images);
    r->tokens = malloc((size_t)(B * T) * sizeof *r->tokens);
    r->labels = malloc((size_t)B * sizeof *r->labels);
    r->sources = malloc((size_t)B * sizeof *r->sources);
    if (!r->images || !r->tokens || !r->labels || !r->sources) return ts_fail(TS_E_NOMEM, "out of host memory");
    TS_TRY(ts_loader_new(&r->loader, r->data, &lo));
    ts_progress *progress = ts_progress_new("tokenize", "img", r->total, r->done);
    ts_status st = TS_OK;
    for (int64_t have = 1; have > 0 && st == TS_OK;) {
        st = read_batch(r, &have);
        if (st == TS_OK && have > 0) st = ts_tokenizer_encode(r->t, r->images, have, r->tokens);
        for (int64_t b = 0; b < have && st == TS_OK; b++)
            st = ts_token_writer_add(r->w, r->sources[b], r->labels[b], r->tokens + b * T);
        r->done += have;
        ts_progress_set(progress, r->done, NULL);
        if (st == TS_OK && have > 0 && ts_signals_stop())
            st = ts_fail(TS_E_STOPPED, "stopped at picture %lld of %lld; the same command goes on", (long long)r->done,
                         (long long)r->total);
    }
    ts_progress_free(progress);
    return st;
}

static ts_status tokenize(const tokenize_options *o)
{
    tokenize_run r = { .o = o };
    ts_device *d = NULL;
    ts_status st = common_device(&d, &o->common);
    if (st == TS_OK) st = ts_tokenizer_load(&r.t, d, o->tokenizer);
    if (st == TS_OK) st = ts_dataset_open(&r.data, (const char *const *)o->inputs, o->n_inputs);
    if (st == TS_OK) r.total = ts_dataset_count(r.data) * o->variants;
    if (st == TS_OK) st = open_writer(&r);
    double start = ts_seconds();
    int64_t first = r.done;
    if (st == TS_OK) st = tokenize_all(&r);
    double seconds = ts_seconds() - start;
    if (st == TS_OK) {
        st = ts_token_writer_finish(r.w, r.bad - r.bad_before);
        r.w = NULL;
    }
    if (st == TS_OK && o->common.json)
        printf("{\"pictures\": %lld, \"unreadable\": %lld, \"tokens\": %lld, \"seconds\": %.3f}\n", (long long)(r.done - r.bad),
               (long long)r.bad, (long long)((r.done - r.bad) * r.t->q.p.T), seconds);
    else if (st == TS_OK)
        printf("%lld pictures, %lld unreadable, %d tokens each, %.1f pictures/s\n", (long long)(r.done - r.bad), (long long)r.bad,
               r.t->q.p.T, seconds > 0 ? (double)(r.done - first) / seconds : 0);
    ts_token_writer_abandon(r.w);
    ts_loader_free(r.loader);
    if (r.errors) fclose(r.errors);
    ts_dataset_close(r.data);
    ts_tokenizer_free(r.t);
    ts_device_close(d);
    free(r.images);
    free(r.tokens);
    free(r.labels);
    free(r.sources);
    return st;
}

int cmd_tokenize(int argc, char **argv)
{
    tokenize_options o = { .variants = 1, .batch = 32, .per_shard = 65536, .max_bad = 1, .common = common_inference() };
    const opt_command command = { "tokenize", "--tokenizer T.safetensors --out TOKENS INPUT...",
                                  "Turn pictures into token shards. INPUT: a folder (class = sub-folder), a picture or a webdataset "
                                  "tar. A run that was stopped goes on when the same command is given again.", 1, -1 };
    const opt options[] = {
        { .name = "tokenizer", .kind = OPT_STRING, .value = &o.tokenizer, .argument = "FILE", .required = 1, .help = "model file" },
        { .name = "out", .kind = OPT_STRING, .value = &o.out, .argument = "DIR", .required = 1,
          .help = "folder for the shards and index.json" },
        { .name = "preprocess", .kind = OPT_CHOICE, .value = &o.preprocess, .choices = PREPROCESS_CHOICES,
          .help = PREPROCESS_HELP },
        { .name = "variants", .kind = OPT_INT, .value = &o.variants, .min = 1, .max = 10000, .argument = "N",
          .help = "every picture N times: as it is, then mirrored and shifted at random (for training on small sets)" },
        { .name = "batch", .letter = 'b', .kind = OPT_INT, .value = &o.batch, .min = 1, .max = 4096, .argument = "N",
          .help = "pictures at a time" },
        { .name = "shard-size", .kind = OPT_INT, .value = &o.per_shard, .min = 1, .max = 100000000, .argument = "N",
          .help = "pictures per shard" },
        { .name = "max-bad", .kind = OPT_FLOAT, .value = &o.max_bad, .min = 0, .max = 100, .argument = "PERCENT",
          .help = "stop when more pictures than this are unreadable" },
        COMMON_OPTIONS(o.common),
        { .name = NULL }
    };
    int code;
    if (opt_parse(argc, argv, &command, options, &o.inputs, &o.n_inputs, &code)) return code;
    ts_signals_install();
    return report(tokenize(&o));
}
