/* metrics.c - metrics.jsonl and TensorBoard events. Contract: host/log.h. */
#include "host/log.h"

ts_status ts_metrics_open(ts_metrics **m, const char *run, int64_t step)
{
    (void)run, (void)step;
    *m = NULL;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

ts_status ts_metrics_add(ts_metrics *m, int64_t step, int n, const char *const *names, const double *values)
{
    (void)m, (void)step, (void)n, (void)names, (void)values;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

ts_status ts_metrics_image(ts_metrics *m, int64_t step, const char *name, const void *png, size_t bytes, int width, int height)
{
    (void)m, (void)step, (void)name, (void)png, (void)bytes, (void)width, (void)height;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

ts_status ts_metrics_close(ts_metrics *m)
{
    (void)m;
    return TS_OK;
}
