/* cmd_decode.c - `tessera decode`: token shards back to pictures. */
#include <stdlib.h>
#include <string.h>

#include "host/file.h"
#include "host/log.h"
#include "host/tokens.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/pictures.h"

typedef struct {
    const char *tokenizer, *out, *tokens;
    int64_t batch, limit;
    common_options common;
} decode_options;

static ts_status check_pair(const ts_token_set *s, const ts_tokenizer *t, const char *dir)
{
    json_error_t e;
    json_t *info = json_loads(ts_token_set_info(s), 0, &e);
    const char *hash = json_string_value(json_object_get(info, "tokenizer"));
    ts_status st = TS_OK;
    if (ts_token_set_T(s) != t->q.p.T)
        st = ts_fail(TS_E_DATA, "%s: %lld tokens a picture, the tokenizer expects %d", dir, (long long)ts_token_set_T(s), t->q.p.T);
    else if (!hash || strcmp(hash, t->hash) != 0)
        st = ts_fail(TS_E_DATA, "%s: made by tokenizer %s, but the given tokenizer is %s", dir, hash ? hash : "(unknown)", t->hash);
    json_decref(info);
    return st;
}

static ts_status decode_batch(ts_tokenizer *t, const ts_token_set *s, const char *dir, int64_t first, int64_t B, int32_t *tokens,
                              float *images, ts_image *out)
{
    for (int64_t b = 0; b < B; b++) {
        int32_t label;
        uint64_t source;
        TS_TRY(ts_token_set_get(s, first + b, tokens + b * t->q.p.T, &label, &source));
    }
    TS_TRY(ts_tokenizer_decode(t, tokens, B, images));
    TS_TRY(pictures_from_float(out, images, B, t->c.image_size));
    ts_status st = TS_OK;
    for (int64_t b = 0; b < B; b++) {
        if (st == TS_OK) st = pictures_write(dir, first + b, -1, &out[b], NULL, 0);
        ts_image_free(&out[b]);
    }
    return st;
}

static ts_status decode_all(ts_tokenizer *t, const ts_token_set *s, const decode_options *o)
{
    int64_t n = ts_token_set_count(s), B = o->batch, pixels = (int64_t)t->c.image_size * t->c.image_size * 3;
    if (o->limit > 0 && o->limit < n) n = o->limit;
    int32_t *tokens = malloc((size_t)(B * t->q.p.T) * sizeof *tokens);
    float *images = malloc((size_t)(B * pixels) * sizeof *images);
    ts_image *out = calloc((size_t)B, sizeof *out);
    ts_status st = tokens && images && out ? TS_OK : ts_fail(TS_E_NOMEM, "out of host memory");
    ts_progress *progress = ts_progress_new("decode", "img", n, 0);
    for (int64_t i = 0; i < n && st == TS_OK; i += B) {
        st = decode_batch(t, s, o->out, i, i + B < n ? B : n - i, tokens, images, out);
        ts_progress_set(progress, i + B < n ? i + B : n, NULL);
        if (st == TS_OK && ts_signals_stop()) st = ts_fail(TS_E_STOPPED, "stopped at picture %lld of %lld", (long long)i, (long long)n);
    }
    ts_progress_free(progress);
    free(tokens);
    free(images);
    free(out);
    return st;
}

static ts_status decode(const decode_options *o)
{
    ts_device *d = NULL;
    ts_tokenizer *t = NULL;
    ts_token_set *s = NULL;
    int lock = -1;
    ts_status st = common_device(&d, &o->common);
    if (st == TS_OK) st = ts_tokenizer_load(&t, d, o->tokenizer);
    if (st == TS_OK) st = ts_token_set_open(&s, o->tokens, 0);
    if (st == TS_OK) st = check_pair(s, t, o->tokens);
    if (st == TS_OK) st = pictures_open_dir(&lock, o->out);
    if (st == TS_OK) st = decode_all(t, s, o);
    ts_dir_unlock(lock);
    ts_token_set_close(s);
    ts_tokenizer_free(t);
    ts_device_close(d);
    return st;
}

int cmd_decode(int argc, char **argv)
{
    decode_options o = { .batch = 32, .common = common_inference() };
    const opt_command command = { "decode", "--tokenizer T.safetensors --out DIR TOKENS",
                                  "Turn token shards back into pictures: DIR/000000.png and on, in token order.", 1, 1 };
    const opt options[] = {
        { .name = "tokenizer", .kind = OPT_STRING, .value = &o.tokenizer, .argument = "FILE", .required = 1, .help = "model file" },
        { .name = "out", .kind = OPT_STRING, .value = &o.out, .argument = "DIR", .required = 1, .help = "folder for the pictures" },
        { .name = "num", .letter = 'n', .kind = OPT_INT, .value = &o.limit, .min = 0, .max = 1e12, .argument = "N",
          .help = "decode the first N only, 0 for all" },
        { .name = "batch", .letter = 'b', .kind = OPT_INT, .value = &o.batch, .min = 1, .max = 4096, .argument = "N",
          .help = "pictures at a time" },
        COMMON_OPTIONS(o.common),
        { .name = NULL }
    };
    char **positional;
    int n, code;
    if (opt_parse(argc, argv, &command, options, &positional, &n, &code)) return code;
    o.tokens = positional[0];
    ts_signals_install();
    return report(decode(&o));
}
