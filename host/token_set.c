/* token_set.c - reading token shards. Contract: tokens.h. */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/file.h"
#include "host/tokens.h"
#include "host/tokens_private.h"

enum { INDEX_MAX = 100000000 }; /* bytes of index.json */

struct ts_token_set {
    char *path; /* of index.json */
    json_t *index, *classes;
    char *info;
    int64_t T, V, count;
    int n_classes, n_shards;
    ts_token_shard *shards;
    int64_t *first; /* [n_shards+1] number of each shard's first sample, then the count */
};

static ts_status no_memory(const char *path)
{
    return ts_fail(TS_E_NOMEM, "%s: out of memory", path);
}

/* ---- one shard ---- */

/* A tensor that must be of this dtype and [rows], or [rows,columns] if columns > 0; rows -1: any number. */
static ts_status wanted(const ts_st_file *f, const char *name, ts_st_dtype dtype, int64_t rows, int64_t columns,
                        const ts_st_tensor **found)
{
    const ts_st_tensor *t = *found = ts_st_find(f, name);
    if (!t) return ts_fail(TS_E_DATA, "%s: has no tensor '%s', expected a token shard", ts_st_path(f), name);
    int rank = columns > 0 ? 2 : 1;
    if (t->dtype != dtype || t->rank != rank)
        return ts_fail(TS_E_DATA, "%s: tensor '%s' is %s of rank %d, expected %s of rank %d", ts_st_path(f), name,
                       ts_st_dtype_name(t->dtype), t->rank, ts_st_dtype_name(dtype), rank);
    if (rows >= 0 && t->shape[0] != rows)
        return ts_fail(TS_E_DATA, "%s: tensor '%s' has %" PRId64 " rows, expected %" PRId64 " as in 'tokens'",
                       ts_st_path(f), name, t->shape[0], rows);
    if (columns > 0 && t->shape[1] != columns)
        return ts_fail(TS_E_DATA, "%s: tensor '%s' has rows of %" PRId64 ", expected %" PRId64, ts_st_path(f), name,
                       t->shape[1], columns);
    return TS_OK;
}

static ts_status find_tensors(ts_token_shard *s)
{
    const ts_st_tensor *tokens, *labels, *sample;
    TS_TRY(wanted(s->file, "tokens", s->V <= TS_TOKENS_NARROW ? TS_ST_U16 : TS_ST_U32, -1, s->T, &tokens));
    s->samples = tokens->shape[0];
    TS_TRY(wanted(s->file, "labels", TS_ST_I32, s->samples, 0, &labels));
    TS_TRY(wanted(s->file, "sample", TS_ST_U64, s->samples, 0, &sample));
    s->tokens = tokens->data;
    s->labels = labels->data;
    s->sample = sample->data;
    return TS_OK;
}

ts_status ts_token_shard_open(ts_token_shard *s, const char *path, int64_t T, int64_t V)
{
    *s = (ts_token_shard){ .T = T, .V = V };
    TS_TRY(ts_st_open(&s->file, path));
    ts_status status = find_tensors(s);
    if (status != TS_OK) ts_token_shard_close(s);
    return status;
}

void ts_token_shard_close(ts_token_shard *s)
{
    ts_st_close(s->file);
    *s = (ts_token_shard){ 0 };
}

ts_status ts_token_shard_get(const ts_token_shard *s, int64_t i, int n_classes, int32_t *tokens, int32_t *label,
                             uint64_t *source)
{
    uint32_t largest = 0;
    if (s->V <= TS_TOKENS_NARROW) {
        const unsigned char *row = s->tokens + 2 * i * s->T;
        for (int64_t t = 0; t < s->T; t++) {
            uint16_t token;
            memcpy(&token, row + 2 * t, 2);
            tokens[t] = token;
            largest = largest > token ? largest : token;
        }
    } else {
        const unsigned char *row = s->tokens + 4 * i * s->T;
        for (int64_t t = 0; t < s->T; t++) {
            uint32_t token;
            memcpy(&token, row + 4 * t, 4);
            tokens[t] = (int32_t)token;
            largest = largest > token ? largest : token;
        }
    }
    memcpy(label, s->labels + 4 * i, 4);
    memcpy(source, s->sample + 8 * i, 8);
    if (largest >= s->V)
        return ts_fail(TS_E_DATA, "%s: row %" PRId64 " holds token %" PRIu32 ", expected less than %" PRId64,
                       ts_st_path(s->file), i, largest, s->V);
    if (*label < -1 || *label >= n_classes)
        return ts_fail(TS_E_DATA, "%s: row %" PRId64 " has label %" PRId32 ", there are %d classes",
                       ts_st_path(s->file), i, *label, n_classes);
    return TS_OK;
}

/* ---- the folder ---- */

static ts_status get_int(const ts_token_set *t, const json_t *object, const char *key, int64_t min, int64_t max,
                         int64_t *x)
{
    const json_t *value = json_object_get(object, key);
    *x = json_integer_value(value);
    if (json_is_integer(value) && *x >= min && *x <= max) return TS_OK;
    return ts_fail(TS_E_DATA, "%s: '%s' is missing or not a number from %" PRId64 " to %" PRId64, t->path, key, min,
                   max);
}

static ts_status read_index(ts_token_set *t, const char *dir)
{
    if (!ts_path_is_dir(dir)) return ts_fail(TS_E_NOINPUT, "%s: there is no such folder", dir);
    if (!ts_path_exists(t->path))
        return ts_fail(TS_E_DATA, "%s: has no index.json, so it is no finished folder of tokens", dir);
    void *text;
    size_t n;
    TS_TRY(ts_file_read(t->path, INDEX_MAX, &text, &n));
    json_error_t error;
    t->index = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    free(text);
    if (!t->index) return ts_fail(TS_E_DATA, "%s: is not JSON: %s, line %d", t->path, error.text, error.line);
    int64_t version;
    TS_TRY(get_int(t, t->index, "version", 1, 1, &version));
    TS_TRY(get_int(t, t->index, "T", 1, INT32_MAX, &t->T));
    TS_TRY(get_int(t, t->index, "V", 1, INT32_MAX, &t->V));
    TS_TRY(get_int(t, t->index, "samples", 0, INT64_MAX, &t->count));
    const json_t *info = json_object_get(t->index, "info");
    if (!json_is_object(info)) return ts_fail(TS_E_DATA, "%s: 'info' is missing or not an object", t->path);
    t->info = json_dumps(info, JSON_COMPACT);
    if (!t->info) return no_memory(t->path);
    t->classes = json_object_get(t->index, "classes");
    if (!json_is_array(t->classes) || json_array_size(t->classes) > INT32_MAX)
        return ts_fail(TS_E_DATA, "%s: 'classes' is missing or not a list", t->path);
    t->n_classes = (int)json_array_size(t->classes);
    for (int i = 0; i < t->n_classes; i++)
        if (!ts_token_set_class(t, i)) return ts_fail(TS_E_DATA, "%s: class %d is not a string", t->path, i);
    return TS_OK;
}

static ts_status check_file(const ts_token_set *t, const char *path, const json_t *entry, int verify)
{
    int64_t bytes;
    TS_TRY(get_int(t, entry, "bytes", 0, INT64_MAX, &bytes));
    const char *hash = json_string_value(json_object_get(entry, "xxh3"));
    if (!hash) return ts_fail(TS_E_DATA, "%s: a shard's 'xxh3' is missing or not a string", t->path);
    int fd;
    uint64_t found;
    TS_TRY(ts_file_open(&fd, &found, path));
    close(fd);
    if (found != (uint64_t)bytes)
        return ts_fail(TS_E_DATA, "%s: has %" PRIu64 " bytes, %" PRId64 " according to index.json", path, found, bytes);
    if (!verify) return TS_OK;
    char hex[17];
    TS_TRY(ts_file_hash(path, hex, &found));
    if (strcmp(hex, hash) != 0)
        return ts_fail(TS_E_DATA, "%s: is damaged: XXH3 %s, %.16s according to index.json", path, hex, hash);
    return TS_OK;
}

/* Was this shard made with what index.json says? */
static ts_status check_info(const ts_token_set *t, const ts_token_shard *s)
{
    const char *text = ts_st_metadata(s->file, TS_TOKENS_INFO);
    json_t *info = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    int same = json_equal(info, json_object_get(t->index, "info"));
    json_decref(info);
    if (same) return TS_OK;
    return ts_fail(TS_E_DATA, "%s: its metadata is not the 'info' of index.json: it belongs to another run",
                   ts_st_path(s->file));
}

static ts_status open_shard(ts_token_set *t, int i, const char *dir, const json_t *entry, int verify)
{
    int64_t samples;
    TS_TRY(get_int(t, entry, "samples", 0, INT64_MAX, &samples));
    const char *name = json_string_value(json_object_get(entry, "file"));
    if (!name || strchr(name, '/'))
        return ts_fail(TS_E_DATA, "%s: the file of shard %d is not a name in this folder", t->path, i);
    char *path = ts_format("%s/%s", dir, name);
    if (!path) return no_memory(t->path);
    ts_token_shard *s = &t->shards[i];
    ts_status status = check_file(t, path, entry, verify);
    if (status == TS_E_NOINPUT) status = ts_fail(TS_E_DATA, "%s: is in index.json but cannot be opened", path);
    if (status == TS_OK) status = ts_token_shard_open(s, path, t->T, t->V);
    if (status == TS_OK) status = check_info(t, s);
    if (status == TS_OK && s->samples != samples)
        status = ts_fail(TS_E_DATA, "%s: has %" PRId64 " samples, %" PRId64 " according to index.json", path,
                         s->samples, samples);
    free(path);
    return status;
}

static ts_status open_shards(ts_token_set *t, const char *dir, int verify)
{
    const json_t *shards = json_object_get(t->index, "shards");
    if (!json_is_array(shards) || json_array_size(shards) >= INT32_MAX)
        return ts_fail(TS_E_DATA, "%s: 'shards' is missing or not a list", t->path);
    t->n_shards = (int)json_array_size(shards);
    t->shards = calloc((size_t)t->n_shards + 1, sizeof *t->shards);
    t->first = calloc((size_t)t->n_shards + 1, sizeof *t->first);
    if (!t->shards || !t->first) return no_memory(t->path);
    for (int i = 0; i < t->n_shards; i++) {
        TS_TRY(open_shard(t, i, dir, json_array_get(shards, (size_t)i), verify));
        t->first[i + 1] = t->first[i] + t->shards[i].samples;
    }
    if (t->first[t->n_shards] != t->count)
        return ts_fail(TS_E_DATA, "%s: has %" PRId64 " samples, its shards have %" PRId64, t->path, t->count,
                       t->first[t->n_shards]);
    return TS_OK;
}

ts_status ts_token_set_open(ts_token_set **out, const char *dir, int verify)
{
    *out = NULL;
    ts_token_set *t = calloc(1, sizeof *t);
    if (!t) return no_memory(dir);
    t->path = ts_format("%s/index.json", dir);
    ts_status status = t->path ? read_index(t, dir) : no_memory(dir);
    if (status == TS_OK) status = open_shards(t, dir, verify);
    if (status == TS_OK)
        *out = t;
    else
        ts_token_set_close(t);
    return status;
}

void ts_token_set_close(ts_token_set *t)
{
    if (!t) return;
    for (int i = 0; t->shards && i < t->n_shards; i++) ts_token_shard_close(&t->shards[i]);
    free(t->shards);
    free(t->first);
    free(t->info);
    json_decref(t->index);
    free(t->path);
    free(t);
}

int64_t ts_token_set_count(const ts_token_set *t)
{
    return t->count;
}

int64_t ts_token_set_T(const ts_token_set *t)
{
    return t->T;
}

int64_t ts_token_set_V(const ts_token_set *t)
{
    return t->V;
}

const char *ts_token_set_info(const ts_token_set *t)
{
    return t->info;
}

int ts_token_set_classes(const ts_token_set *t)
{
    return t->n_classes;
}

const char *ts_token_set_class(const ts_token_set *t, int i)
{
    return json_string_value(json_array_get(t->classes, (size_t)i));
}

ts_status ts_token_set_get(const ts_token_set *t, int64_t i, int32_t *tokens, int32_t *label, uint64_t *source)
{
    if (i < 0 || i >= t->count)
        return ts_fail(TS_E_ARG, "%s: sample %" PRId64 " of %" PRId64 " is asked for", t->path, i, t->count);
    int low = 0, high = t->n_shards; /* first[low] <= i < first[high] */
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (t->first[middle] <= i)
            low = middle;
        else
            high = middle;
    }
    return ts_token_shard_get(&t->shards[low], i - t->first[low], t->n_classes, tokens, label, source);
}
