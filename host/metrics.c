/* metrics.c - RUN/metrics.jsonl, and the same to TensorBoard. Contract: host/log.h.
 *
 *   {"step": 120, "loss": 0.693147181, "scale/3/perplexity": null}
 *
 * No time of day goes into the file: a run that was killed and resumed ends in the same bytes as one that went through.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/file.h"
#include "host/log.h"
#include "host/record_file.h"
#include "host/tfevents.h"

struct ts_metrics {
    ts_record_file lines;
    ts_tfevents *events;
    int64_t last; /* step of the last record */
};

/* What of an existing file stays. */
typedef struct {
    int64_t bytes; /* whole records up to the step */
    int64_t last;  /* step of the last of them, INT64_MIN if there is none */
    int needs_end; /* the last lacks its newline */
} kept;

/* The step of a line, or 0 in *good if the line is no record. */
static int64_t line_step(const char *line, size_t n, int *good)
{
    json_t *record = json_loadb(line, n, 0, NULL);
    const json_t *step = json_object_get(record, "step");
    *good = json_is_integer(step);
    int64_t v = json_integer_value(step);
    json_decref(record);
    return v;
}

/* Read the records with steps <= `step`. A last line that is damaged is what a killed process leaves: it is not kept.
 */
static ts_status scan(const char *path, FILE *f, int64_t step, kept *k)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    int64_t number = 0, bad = 0;
    ts_status st = TS_OK;
    *k = (kept){ 0, INT64_MIN, 0 };
    while ((n = getline(&line, &room, f)) > 0) {
        int good;
        int64_t at = line_step(line, (size_t)n, &good);
        number++;
        if (bad) break;
        if (!good) {
            bad = number;
            continue;
        }
        if (at > step) break;
        k->bytes += n;
        k->last = at;
        k->needs_end = line[n - 1] != '\n';
    }
    if (bad && number > bad) st = ts_fail(TS_E_DATA, "%s: line %" PRId64 " is not a record with a step", path, bad);
    if (ferror(f)) st = ts_fail(TS_E_IO, "%s: cannot read: %s", path, strerror(errno));
    free(line);
    return st;
}

static ts_status open_lines(ts_metrics *m, const char *path, int64_t step)
{
    kept k = { 0, INT64_MIN, 0 };
    FILE *f = fopen(path, "rb");
    if (!f && errno != ENOENT) return ts_fail(TS_E_IO, "%s: cannot read: %s", path, strerror(errno));
    if (f) {
        ts_status st = scan(path, f, step, &k);
        fclose(f);
        TS_TRY(st);
    }
    m->last = k.last;
    TS_TRY(ts_record_open(&m->lines, path, k.bytes));
    ts_status st = k.needs_end ? ts_record_append(&m->lines, "\n", 1) : TS_OK;
    if (st != TS_OK) ts_record_close(&m->lines);
    return st;
}

ts_status ts_metrics_open(ts_metrics **out, const char *run, int64_t step)
{
    *out = NULL;
    ts_metrics *m = calloc(1, sizeof *m);
    char *path = ts_format("%s/metrics.jsonl", run);
    ts_status st = m && path ? open_lines(m, path, step) : ts_fail(TS_E_NOMEM, "%s: out of memory", run);
    if (st == TS_OK) {
        st = ts_tfevents_open(&m->events, run, step);
        if (st != TS_OK) ts_record_close(&m->lines);
    }
    free(path);
    if (st == TS_OK)
        *out = m;
    else
        free(m);
    return st;
}

/* One record as a line; NULL when a name is not UTF-8 or memory is out. Nine digits give a float back exactly. */
static char *record_line(int64_t step, int n, const char *const *names, const double *values)
{
    json_t *record = json_object();
    int bad = json_object_set_new(record, "step", json_integer(step));
    for (int i = 0; i < n && !bad; i++)
        bad = json_object_set_new(record, names[i], isfinite(values[i]) ? json_real(values[i]) : json_null());
    char *text = bad ? NULL : json_dumps(record, JSON_REAL_PRECISION(9));
    char *line = text ? ts_format("%s\n", text) : NULL;
    free(text);
    json_decref(record);
    return line;
}

/* Steps must ascend: what is cut off on resume is the end of the file. */
static ts_status check_step(ts_metrics *m, int64_t step)
{
    if (step < m->last)
        return ts_fail(TS_E_ARG, "%s: step %" PRId64 " after step %" PRId64, m->lines.path, step, m->last);
    m->last = step;
    return TS_OK;
}

ts_status ts_metrics_add(ts_metrics *m, int64_t step, int n, const char *const *names, const double *values)
{
    TS_TRY(check_step(m, step));
    for (int i = 0; i < n; i++) {
        if (strcmp(names[i], "step") == 0)
            return ts_fail(TS_E_ARG, "%s: a metric cannot be called step", m->lines.path);
    }
    char *line = record_line(step, n, names, values);
    if (!line) return ts_fail(TS_E_ARG, "%s: a name is not UTF-8, or memory is out", m->lines.path);
    ts_status st = ts_record_append(&m->lines, line, strlen(line));
    free(line);
    return st == TS_OK ? ts_tfevents_scalars(m->events, step, n, names, values) : st;
}

ts_status ts_metrics_image(ts_metrics *m, int64_t step, const char *name, const void *png, size_t bytes, int width,
                           int height)
{
    TS_TRY(check_step(m, step));
    return ts_tfevents_image(m->events, step, name, png, bytes, width, height);
}

ts_status ts_metrics_sync(ts_metrics *m)
{
    TS_TRY(ts_record_sync(&m->lines));
    return ts_tfevents_sync(m->events);
}

ts_status ts_metrics_close(ts_metrics *m)
{
    if (!m) return TS_OK;
    ts_status lines = ts_record_close(&m->lines), events = ts_tfevents_close(m->events);
    free(m);
    return lines != TS_OK ? lines : events;
}
