/* log.h - what a run tells people and programs: lines, progress bars, metrics.jsonl, TensorBoard events, signals. */
#ifndef TS_LOG_H
#define TS_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "tessera/status.h"

/* One line to stderr, above a progress bar if one is shown. This and the bar are the only output of host/. */
void ts_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A bar with speed and time left on a terminal, a plain line every 10 s otherwise. unit: "img", "step". total 0: unknown. */
typedef struct ts_progress ts_progress;
ts_progress *ts_progress_new(const char *what, const char *unit, int64_t total, int64_t done);
void ts_progress_set(ts_progress *p, int64_t done, const char *note); /* note: short text behind the bar, or NULL */
void ts_progress_free(ts_progress *p);                                /* ends the line; NULL is fine */

/* RUN/metrics.jsonl and RUN/events.out.tfevents.*: one record per call. On resume, records of steps after `step` that a killed
 * run left behind are cut off, so the file is the same as that of a run that went through. step -1 cuts all off. Steps
 * ascend (equal ones are fine); speed and other readings of a clock would make runs differ and do not belong here. */
typedef struct ts_metrics ts_metrics;
ts_status ts_metrics_open(ts_metrics **m, const char *run, int64_t step);
/* n pairs of name and value, e.g. "loss", "scale/3/perplexity". Non-finite values are written as null. */
ts_status ts_metrics_add(ts_metrics *m, int64_t step, int n, const char *const *names, const double *values);
/* A picture for TensorBoard, PNG bytes. */
ts_status ts_metrics_image(ts_metrics *m, int64_t step, const char *name, const void *png, size_t bytes, int width, int height);
/* Everything added so far is on the disk: call it before a checkpoint, so that no power cut leaves a gap. */
ts_status ts_metrics_sync(ts_metrics *m);
ts_status ts_metrics_close(ts_metrics *m); /* NULL is fine */

/* The first SIGINT, SIGTERM or SIGUSR1 sets a flag; a second SIGINT ends the process at once with 130. SIGPIPE and SIGXFSZ are
 * ignored. */
void ts_signals_install(void);
int ts_signals_stop(void); /* the signal's number, 0 if none came */

double ts_seconds(void); /* monotonic clock */

#endif
