/* log.c - lines and the progress bar on standard error. Contract: host/log.h. */
#include "host/log.h"

void ts_log(const char *format, ...)
{
    (void)format;
}

ts_progress *ts_progress_new(const char *what, const char *unit, int64_t total, int64_t done)
{
    (void)what, (void)unit, (void)total, (void)done;
    return NULL;
}

void ts_progress_set(ts_progress *p, int64_t done, const char *note)
{
    (void)p, (void)done, (void)note;
}

void ts_progress_free(ts_progress *p)
{
    (void)p;
}
