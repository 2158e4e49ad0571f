/* tokens.c - writing token shards. Contract: tokens.h. Reading is in token_set.c. */
#include "host/tokens.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "host/file.h"
#include "host/tokens_private.h"

struct ts_token_writer {
    char *dir, *info, *run; /* info and run are the metadata of every shard                    */
    json_t *info_object, *classes;
    int lock;
    int64_t T, V, n_sources, per_shard, n_shards;
    int n_classes;
    int64_t *samples;      /* [n_shards] pictures in each shard that is written               */
    int64_t resume, kept;  /* first source to do; pictures in the shards of an earlier run    */
    int64_t shard, next;   /* the shard being filled; the lowest source number still allowed  */
    int64_t n, room;       /* rows in the buffers below, and for how many there is room       */
    unsigned char *tokens; /* U16 or U32 */
    int32_t *labels;
    uint64_t *sample;
};

static ts_status no_memory(const char *path)
{
    return ts_fail(TS_E_NOMEM, "%s: out of memory", path);
}

static size_t token_size(const ts_token_writer *w)
{
    return w->V <= TS_TOKENS_NARROW ? 2 : 4;
}

static char *shard_name(const ts_token_writer *w, int64_t i)
{
    return ts_format("tokens-%05" PRId64 "-of-%05" PRId64 ".safetensors", i, w->n_shards);
}

static char *shard_path(const ts_token_writer *w, int64_t i)
{
    char *name = shard_name(w, i), *path = name ? ts_format("%s/%s", w->dir, name) : NULL;
    free(name);
    return path;
}

/* ---- start: what is in the folder ---- */

static ts_status copy_description(ts_token_writer *w, const char *info, const char *const *classes)
{
    json_error_t error;
    w->info = strdup(info);
    w->info_object = json_loads(info, JSON_REJECT_DUPLICATES, &error);
    w->classes = json_array();
    w->samples = calloc((size_t)w->n_shards, sizeof *w->samples);
    if (!w->info || !w->classes || !w->samples) return no_memory(w->dir);
    if (!json_is_object(w->info_object))
        return ts_fail(TS_E_ARG, "%s: the description of the tokens is not a JSON object: %s", w->dir, info);
    XXH64_hash_t hash = 0;
    for (int i = 0; i < w->n_classes; i++) {
        if (json_array_append_new(w->classes, json_string(classes[i])) != 0)
            return ts_fail(TS_E_ARG, "%s: the name of class %d is not UTF-8 text: %s", w->dir, i, classes[i]);
        hash = XXH3_64bits_withSeed(classes[i], strlen(classes[i]), hash);
    }
    w->run = ts_format("{\"T\":%" PRId64 ",\"V\":%" PRId64 ",\"sources\":%" PRId64 ",\"per_shard\":%" PRId64
                       ",\"classes\":\"%016llx\"}",
                       w->T, w->V, w->n_sources, w->per_shard, (unsigned long long)hash);
    return w->run ? TS_OK : no_memory(w->dir);
}

/* Shards with another total in their name are those of another run. */
static ts_status check_names(const ts_token_writer *w)
{
    char *tail = ts_format("-of-%05" PRId64 ".safetensors", w->n_shards);
    DIR *d = tail ? opendir(w->dir) : NULL;
    ts_status status = TS_OK;
    if (!tail)
        status = no_memory(w->dir);
    else if (!d)
        status = ts_fail(TS_E_IO, "%s: cannot list: %s", w->dir, strerror(errno));
    for (struct dirent *e; status == TS_OK && (e = readdir(d));) {
        const char *of = strstr(e->d_name, "-of-");
        if (strncmp(e->d_name, "tokens-", 7) != 0 || !of || strcmp(of, tail) == 0) continue;
        status = ts_fail(TS_E_BUSY, "%s: holds %s of another run, this one has %" PRId64 " shards", w->dir, e->d_name,
                         w->n_shards);
    }
    if (d) closedir(d);
    free(tail);
    return status;
}

/* Are the rows of shard i those of pictures in its range, in order, with tokens and labels that are possible? */
static ts_status check_rows(const ts_token_writer *w, int64_t i, const ts_token_shard *s, int32_t *row)
{
    uint64_t least = (uint64_t)(i * w->per_shard), end = least + (uint64_t)w->per_shard;
    for (int64_t n = 0; n < s->samples; n++) {
        int32_t label;
        uint64_t source;
        TS_TRY(ts_token_shard_get(s, n, w->n_classes, row, &label, &source));
        if (source < least || source >= end || source >= (uint64_t)w->n_sources)
            return ts_fail(TS_E_DATA, "%s: row %" PRId64 " has a sample number out of order", ts_st_path(s->file), n);
        least = source + 1;
    }
    return TS_OK;
}

/* Is shard i there, and whole? TS_E_BUSY if it is that of another run. */
static ts_status examine(ts_token_writer *w, int64_t i, const char *path, int32_t *row, int *whole)
{
    *whole = 0;
    if (!ts_path_exists(path)) return TS_OK;
    ts_st_file *file;
    if (ts_st_open(&file, path) != TS_OK) return TS_OK; /* damaged: is made again */
    const char *info = ts_st_metadata(file, TS_TOKENS_INFO), *run = ts_st_metadata(file, TS_TOKENS_RUN);
    ts_status status = TS_OK;
    if (!info || !run || strcmp(info, w->info) != 0 || strcmp(run, w->run) != 0)
        status = ts_fail(TS_E_BUSY, "%s: is of a run with %s %s, expected %s %s", path, info ? info : "no description",
                         run ? run : "", w->info, w->run);
    ts_st_close(file);
    if (status != TS_OK) return status;
    ts_token_shard s;
    if (ts_token_shard_open(&s, path, w->T, w->V) != TS_OK) return TS_OK;
    *whole = check_rows(w, i, &s, row) == TS_OK;
    w->samples[i] = s.samples;
    ts_token_shard_close(&s);
    return TS_OK;
}

static ts_status find_resume(ts_token_writer *w)
{
    int32_t *row = malloc((size_t)w->T * sizeof *row);
    if (!row) return no_memory(w->dir);
    ts_status status = TS_OK;
    int in_turn = 1; /* every shard so far is whole */
    for (int64_t i = 0; i < w->n_shards && status == TS_OK; i++) {
        int whole = 0;
        char *path = shard_path(w, i);
        status = path ? examine(w, i, path, row, &whole) : no_memory(w->dir);
        free(path);
        in_turn = in_turn && whole;
        if (!in_turn) continue;
        w->shard = i + 1;
        w->kept += w->samples[i];
    }
    free(row);
    int64_t done = w->shard * w->per_shard;
    w->resume = w->next = done < w->n_sources ? done : w->n_sources;
    return status;
}

static ts_status start(ts_token_writer *w, const char *info, const char *const *classes)
{
    TS_TRY(copy_description(w, info, classes));
    TS_TRY(ts_dir_make(w->dir));
    TS_TRY(ts_dir_lock(&w->lock, w->dir));
    char *index = ts_format("%s/index.json", w->dir);
    if (!index) return no_memory(w->dir);
    int finished = ts_path_exists(index);
    free(index);
    if (finished) return ts_fail(TS_E_BUSY, "%s: already holds finished tokens (index.json)", w->dir);
    TS_TRY(ts_dir_clean(w->dir));
    TS_TRY(check_names(w));
    return find_resume(w);
}

ts_status ts_token_writer_new(ts_token_writer **out, const char *dir, const char *info, int64_t T, int64_t V,
                              const char *const *classes, int n_classes, int64_t n_sources, int64_t per_shard)
{
    *out = NULL;
    if (T < 1 || T > INT32_MAX || V < 1 || V > INT32_MAX || n_classes < 0 || n_sources < 1 || per_shard < 1)
        return ts_fail(TS_E_ARG,
                       "%s: %" PRId64 " tokens of %" PRId64 " codes, %d classes, %" PRId64 " pictures, %" PRId64
                       " in a shard: each must be 1 or more, and tokens and codes under 2^31",
                       dir, T, V, n_classes, n_sources, per_shard);
    ts_token_writer *w = calloc(1, sizeof *w);
    if (!w) return no_memory(dir);
    if (per_shard > n_sources) per_shard = n_sources;
    *w = (ts_token_writer){ .dir = strdup(dir),
                            .lock = -1,
                            .T = T,
                            .V = V,
                            .n_classes = n_classes,
                            .n_sources = n_sources,
                            .per_shard = per_shard,
                            .n_shards = (n_sources - 1) / per_shard + 1 };
    ts_status status = w->dir ? start(w, info, classes) : no_memory(dir);
    if (status == TS_OK)
        *out = w;
    else
        ts_token_writer_abandon(w);
    return status;
}

int64_t ts_token_writer_resume(const ts_token_writer *w)
{
    return w->resume;
}

/* ---- shards ---- */

static ts_status write_shard(ts_token_writer *w, const char *path)
{
    const ts_st_tensor tensors[] = {
        { "tokens",
          token_size(w) == 2 ? TS_ST_U16 : TS_ST_U32,
          2,
          { w->n, w->T },
          w->tokens,
          (uint64_t)w->n * (uint64_t)w->T * token_size(w) },
        { "labels", TS_ST_I32, 1, { w->n }, w->labels, (uint64_t)w->n * sizeof *w->labels },
        { "sample", TS_ST_U64, 1, { w->n }, w->sample, (uint64_t)w->n * sizeof *w->sample },
    };
    const char *const keys[] = { TS_TOKENS_INFO, TS_TOKENS_RUN }, *const values[] = { w->info, w->run };
    return ts_st_write(path, tensors, 3, keys, values, 2);
}

/* Write the shard that is being filled, even an empty one, and begin the next. */
static ts_status end_shard(ts_token_writer *w)
{
    char *path = shard_path(w, w->shard);
    ts_status status = path ? write_shard(w, path) : no_memory(w->dir);
    free(path);
    if (status != TS_OK) return status;
    w->samples[w->shard++] = w->n;
    w->n = 0;
    return TS_OK;
}

static ts_status grow(ts_token_writer *w)
{
    if (w->n < w->room) return TS_OK;
    int64_t room = w->room ? 2 * w->room : 64;
    if (room > w->per_shard) room = w->per_shard;
    unsigned char *tokens = realloc(w->tokens, (size_t)room * (size_t)w->T * token_size(w));
    if (tokens) w->tokens = tokens;
    int32_t *labels = realloc(w->labels, (size_t)room * sizeof *labels);
    if (labels) w->labels = labels;
    uint64_t *sample = realloc(w->sample, (size_t)room * sizeof *sample);
    if (sample) w->sample = sample;
    if (!tokens || !labels || !sample) return no_memory(w->dir);
    w->room = room;
    return TS_OK;
}

static ts_status check_sample(const ts_token_writer *w, int64_t source, int32_t label, const int32_t *tokens)
{
    if (source < w->next || source >= w->n_sources)
        return ts_fail(TS_E_ARG, "%s: picture %" PRId64 " is added, expected one from %" PRId64 " to %" PRId64, w->dir,
                       source, w->next, w->n_sources - 1);
    if (label < -1 || label >= w->n_classes)
        return ts_fail(TS_E_ARG, "%s: label %" PRId32 " is added, there are %d classes", w->dir, label, w->n_classes);
    for (int64_t t = 0; t < w->T; t++)
        if (tokens[t] < 0 || tokens[t] >= w->V)
            return ts_fail(TS_E_ARG, "%s: token %" PRId32 " is added, expected 0 to %" PRId64, w->dir, tokens[t],
                           w->V - 1);
    return TS_OK;
}

ts_status ts_token_writer_add(ts_token_writer *w, int64_t source, int32_t label, const int32_t *tokens)
{
    TS_TRY(check_sample(w, source, label, tokens));
    while (w->shard < source / w->per_shard) TS_TRY(end_shard(w));
    TS_TRY(grow(w));
    w->labels[w->n] = label;
    w->sample[w->n] = (uint64_t)source;
    size_t size = token_size(w);
    unsigned char *row = w->tokens + (size_t)w->n * (size_t)w->T * size;
    if (size == 4) {
        memcpy(row, tokens, (size_t)w->T * 4);
    } else {
        uint16_t *narrow = (uint16_t *)(void *)row;
        for (int64_t t = 0; t < w->T; t++) narrow[t] = (uint16_t)tokens[t];
    }
    w->n++;
    w->next = source + 1;
    if (w->next % w->per_shard == 0)
        return end_shard(w); /* at once, not with the next picture: it may be lost by then */
    return TS_OK;
}

/* ---- finish ---- */

static ts_status shard_entry(const ts_token_writer *w, int64_t i, json_t *shards)
{
    char *name = shard_name(w, i), *path = shard_path(w, i);
    char hex[17];
    uint64_t bytes = 0;
    ts_status status = name && path ? ts_file_hash(path, hex, &bytes) : no_memory(w->dir);
    if (status == TS_OK && json_array_append_new(shards, json_pack("{s:s, s:I, s:I, s:s}", "file", name, "samples",
                                                                   (json_int_t)w->samples[i], "bytes",
                                                                   (json_int_t)bytes, "xxh3", hex)) != 0)
        status = no_memory(w->dir);
    free(name);
    free(path);
    return status;
}

static ts_status write_index(const ts_token_writer *w, json_t *shards, int64_t n_errors)
{
    int64_t samples = 0;
    for (int64_t i = 0; i < w->n_shards; i++) samples += w->samples[i];
    json_t *index = json_pack("{s:i, s:I, s:I, s:I, s:I, s:O, s:O, s:O, s:I}", "version", 1, "T", (json_int_t)w->T, "V",
                              (json_int_t)w->V, "sources", (json_int_t)w->n_sources, "samples", (json_int_t)samples,
                              "shards", shards, "classes", w->classes, "info", w->info_object, "errors",
                              (json_int_t)(n_errors + w->resume - w->kept));
    char *bare = index ? json_dumps(index, JSON_INDENT(1)) : NULL, *text = bare ? ts_format("%s\n", bare) : NULL;
    char *path = ts_format("%s/index.json", w->dir);
    ts_status status = text && path ? ts_file_replace(path, text, strlen(text)) : no_memory(w->dir);
    json_decref(index);
    free(bare);
    free(text);
    free(path);
    return status;
}

ts_status ts_token_writer_finish(ts_token_writer *w, int64_t n_errors)
{
    ts_status status = TS_OK;
    while (w->shard < w->n_shards && status == TS_OK) status = end_shard(w);
    json_t *shards = json_array();
    if (!shards) status = no_memory(w->dir);
    for (int64_t i = 0; i < w->n_shards && status == TS_OK; i++) status = shard_entry(w, i, shards);
    if (status == TS_OK) status = write_index(w, shards, n_errors);
    json_decref(shards);
    ts_token_writer_abandon(w);
    return status;
}

void ts_token_writer_abandon(ts_token_writer *w)
{
    if (!w) return;
    ts_dir_unlock(w->lock);
    json_decref(w->info_object);
    json_decref(w->classes);
    free(w->samples);
    free(w->tokens);
    free(w->labels);
    free(w->sample);
    free(w->info);
    free(w->run);
    free(w->dir);
    free(w);
}
