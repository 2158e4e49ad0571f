/* checkpoint.c. Contract: checkpoint.h. */
#include "host/checkpoint.h"

#include <stddef.h>

ts_status ts_checkpoint_begin(const char *run, int64_t step, char **dir)
{
    (void)run;
    (void)step;
    (void)dir;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

ts_status ts_checkpoint_commit(const char *run, int64_t step, char *dir, int keep)
{
    (void)run;
    (void)step;
    (void)dir;
    (void)keep;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

ts_status ts_checkpoint_newest(const char *run, int64_t *step, char **dir, void (*warn)(const char *line))
{
    (void)run;
    (void)step;
    (void)dir;
    (void)warn;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

ts_status ts_checkpoint_verify(const char *dir)
{
    (void)dir;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

