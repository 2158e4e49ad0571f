/* checkpoint.c - folders that are whole or not there. Contract: checkpoint.h. */
#include "host/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/file.h"

enum { MANIFEST_MAX = 1 << 20 }; /* bytes */

static const char MANIFEST[] = "manifest.json", HEAD[] = "step-", UNFINISHED[] = ".tmp";

static ts_status no_memory(const char *path)
{
    return ts_fail(TS_E_NOMEM, "%s: out of memory", path);
}

static ts_status io_error(const char *path, const char *what)
{
    return ts_fail(TS_E_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

static char *step_path(const char *run, int64_t step, const char *tail)
{
    return ts_format("%s/%s%08" PRId64 "%s", run, HEAD, step, tail);
}

/* The step that a folder's name stands for; -1 if it is not that of a finished checkpoint. */
static int64_t step_of(const char *name)
{
    int64_t step;
    int end = 0;
    if (sscanf(name, "step-%18" SCNd64 "%n", &step, &end) != 1 || name[end] != '\0' || step < 0) return -1;
    char again[32];
    snprintf(again, sizeof again, "%s%08" PRId64, HEAD, step);
    return strcmp(name, again) == 0 ? step : -1;
}

static int is_unfinished(const char *name)
{
    size_t n = strlen(name), head = strlen(HEAD), tail = strlen(UNFINISHED);
    return n > head + tail && strncmp(name, HEAD, head) == 0 && strcmp(name + n - tail, UNFINISHED) == 0;
}

/* ---- begin ---- */

static ts_status remove_unfinished(const char *run)
{
    DIR *d = opendir(run);
    if (!d) return io_error(run, "list");
    ts_status status = TS_OK;
    for (struct dirent *e; status == TS_OK && (e = readdir(d));) {
        if (!is_unfinished(e->d_name)) continue;
        char *path = ts_format("%s/%s", run, e->d_name);
        status = path ? ts_dir_remove(path) : no_memory(run);
        free(path);
    }
    closedir(d);
    return status;
}

ts_status ts_checkpoint_begin(const char *run, int64_t step, char **dir)
{
    *dir = NULL;
    if (step < 0)
        return ts_fail(TS_E_ARG, "%s: a checkpoint of step %" PRId64 " is asked for, expected 0 or more", run, step);
    TS_TRY(ts_dir_make(run));
    TS_TRY(remove_unfinished(run));
    char *path = step_path(run, step, UNFINISHED);
    if (!path) return no_memory(run);
    ts_status status = ts_dir_make(path);
    if (status == TS_OK)
        *dir = path;
    else
        free(path);
    return status;
}

/* ---- commit ---- */

static ts_status add_file(const char *dir, const char *name, json_t *files)
{
    char *path = ts_format("%s/%s", dir, name);
    if (!path) return no_memory(dir);
    char hex[17];
    uint64_t bytes;
    ts_status status = ts_file_sync(path); /* whoever wrote it may not have */
    if (status == TS_OK) status = ts_file_hash(path, hex, &bytes);
    free(path);
    if (status != TS_OK) return status;
    json_t *entry = json_pack("{s:I, s:s}", "bytes", (json_int_t)bytes, "xxh3", hex);
    return json_object_set_new(files, name, entry) == 0 ? TS_OK : no_memory(dir);
}

static ts_status list_files(const char *dir, json_t *files)
{
    DIR *d = opendir(dir);
    if (!d) return io_error(dir, "list");
    ts_status status = TS_OK;
    for (struct dirent *e; status == TS_OK && (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) status = add_file(dir, e->d_name, files);
    closedir(d);
    return status;
}

static ts_status write_manifest(const char *dir)
{
    json_t *files = json_object(), *manifest = files ? json_pack("{s:o}", "files", files) : NULL;
    ts_status status = manifest ? list_files(dir, files) : no_memory(dir);
    char *text = status == TS_OK ? json_dumps(manifest, JSON_INDENT(1) | JSON_SORT_KEYS) : NULL;
    char *path = ts_format("%s/%s", dir, MANIFEST);
    if (status == TS_OK) status = text && path ? ts_file_replace(path, text, strlen(text)) : no_memory(dir);
    json_decref(manifest);
    free(text);
    free(path);
    return status;
}

/* dir becomes final. One that is there already takes dir's name in the same step, so that at no moment there is none;
 * only a file system that cannot exchange has such a moment. */
static ts_status put(const char *dir, const char *final)
{
    if (rename(dir, final) == 0) return TS_OK;
    if (errno != EEXIST && errno != ENOTEMPTY) return io_error(final, "rename a folder to it");
    if (renameat2(AT_FDCWD, dir, AT_FDCWD, final, RENAME_EXCHANGE) == 0) return TS_OK;
    TS_TRY(ts_dir_remove(final));
    return rename(dir, final) == 0 ? TS_OK : io_error(final, "rename a folder to it");
}

static int ascending(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* The steps in run, ascending; *steps is malloc'ed. No run, no steps. */
static ts_status list_steps(const char *run, int64_t **steps, size_t *n)
{
    *steps = NULL;
    *n = 0;
    DIR *d = opendir(run);
    if (!d) return errno == ENOENT ? TS_OK : io_error(run, "list");
    ts_status status = TS_OK;
    for (struct dirent *e; status == TS_OK && (e = readdir(d));) {
        int64_t step = step_of(e->d_name), *more = step < 0 ? NULL : realloc(*steps, (*n + 1) * sizeof **steps);
        if (step < 0) continue;
        if (more) {
            *steps = more;
            more[(*n)++] = step;
        } else {
            status = no_memory(run);
        }
    }
    closedir(d);
    if (*n > 0) qsort(*steps, *n, sizeof **steps, ascending);
    return status;
}

/* Renamed first: a removal that is cut off must not leave something that looks like a damaged checkpoint. */
static ts_status set_aside(const char *run, int64_t step)
{
    char *path = step_path(run, step, ""), *away = step_path(run, step, UNFINISHED);
    ts_status status = path && away ? TS_OK : no_memory(run);
    if (status == TS_OK && rename(path, away) != 0) status = io_error(path, "rename to remove it");
    free(path);
    free(away);
    return status;
}

ts_status ts_checkpoint_prune(const char *run, int64_t step, int keep)
{
    int64_t *steps;
    size_t n;
    ts_status status = list_steps(run, &steps, &n);
    while (n > 0 && steps[n - 1] >= step) n--;
    for (size_t i = 0; status == TS_OK && i + (size_t)keep <= n; i++) status = set_aside(run, steps[i]);
    free(steps);
    return status == TS_OK ? remove_unfinished(run) : status;
}

void ts_checkpoint_abandon(char *dir)
{
    char line[1024];
    snprintf(line, sizeof line, "%s", ts_error());
    if (ts_dir_remove(dir) != TS_OK) ts_fail(TS_E_IO, "%s", line); /* the first failure is the one to tell */
    free(dir);
}

ts_status ts_checkpoint_commit(const char *run, int64_t step, char *dir, int keep)
{
    char *final = step_path(run, step, "");
    ts_status status = final ? TS_OK : no_memory(run);
    if (keep < 1) status = ts_fail(TS_E_ARG, "%s: %d checkpoints are to be kept, expected 1 or more", run, keep);
    if (status == TS_OK) status = write_manifest(dir);
    if (status == TS_OK) status = put(dir, final);
    free(final);
    if (status != TS_OK) {
        ts_checkpoint_abandon(dir);
        return status;
    }
    free(dir);
    TS_TRY(ts_dir_sync(run));
    return ts_checkpoint_prune(run, step, keep); /* with the one that was replaced, if any */
}

/* ---- verify ---- */

static ts_status verify_file(const char *dir, const char *name, const json_t *entry)
{
    const json_t *bytes = json_object_get(entry, "bytes");
    const char *hash = json_string_value(json_object_get(entry, "xxh3"));
    if (strchr(name, '/') || !json_is_integer(bytes) || !hash)
        return ts_fail(TS_E_DATA, "%s/%s: its entry '%s' is not a file name with bytes and xxh3", dir, MANIFEST, name);
    char *path = ts_format("%s/%s", dir, name);
    if (!path) return no_memory(dir);
    char hex[17];
    uint64_t found;
    ts_status status = ts_file_hash(path, hex, &found);
    if (status == TS_E_NOINPUT) status = ts_fail(TS_E_DATA, "%s: is in the manifest but cannot be opened", path);
    if (status == TS_OK && found != (uint64_t)json_integer_value(bytes))
        status = ts_fail(TS_E_DATA, "%s: has %" PRIu64 " bytes, %" JSON_INTEGER_FORMAT " according to the manifest",
                         path, found, json_integer_value(bytes));
    if (status == TS_OK && strcmp(hex, hash) != 0)
        status = ts_fail(TS_E_DATA, "%s: is damaged: XXH3 %s, %.16s according to the manifest", path, hex, hash);
    free(path);
    return status;
}

static ts_status verify_files(const char *dir, json_t *files)
{
    if (!json_is_object(files)) return ts_fail(TS_E_DATA, "%s/%s: has no object 'files'", dir, MANIFEST);
    const char *name;
    json_t *entry;
    json_object_foreach(files, name, entry) TS_TRY(verify_file(dir, name, entry));
    return TS_OK;
}

ts_status ts_checkpoint_verify(const char *dir)
{
    char *path = ts_format("%s/%s", dir, MANIFEST);
    if (!path) return no_memory(dir);
    void *text = NULL;
    size_t n = 0;
    ts_status status = ts_file_read(path, MANIFEST_MAX, &text, &n);
    free(path);
    if (status == TS_E_NOINPUT) return ts_fail(TS_E_DATA, "%s: has no %s that can be read", dir, MANIFEST);
    if (status != TS_OK) return status;
    json_error_t error;
    json_t *manifest = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    free(text);
    status = manifest ? verify_files(dir, json_object_get(manifest, "files"))
                      : ts_fail(TS_E_DATA, "%s/%s: is not JSON: %s, line %d", dir, MANIFEST, error.text, error.line);
    json_decref(manifest);
    return status;
}

/* ---- newest ---- */

ts_status ts_checkpoint_newest(const char *run, int64_t *step, char **dir, void (*warn)(const char *line))
{
    *step = -1;
    *dir = NULL;
    int64_t *steps;
    size_t n;
    ts_status status = list_steps(run, &steps, &n);
    while (n > 0 && status == TS_OK && !*dir) {
        char *path = step_path(run, steps[--n], "");
        ts_status damaged = path ? ts_checkpoint_verify(path) : no_memory(run);
        if (damaged == TS_OK) {
            *step = steps[n];
            *dir = path;
            break;
        }
        free(path);
        if (damaged == TS_E_NOMEM)
            status = damaged;
        else if (warn)
            warn(ts_error());
    }
    free(steps);
    return status;
}
