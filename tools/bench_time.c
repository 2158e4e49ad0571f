/* bench_time.c - contract: bench.h. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/log.h"
#include "host/profile.h"
#include "tessera/philox.h"
#include "tools/bench.h"

enum { MAX_SAMPLES = 4096, MIN_SAMPLES = 5, WARM_UP = 3 };
static const double MIN_SAMPLE = 50e-6;

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static ts_status calls(bench_fn *f, void *context, int64_t n, double *seconds)
{
    double start = ts_seconds();
    for (int64_t i = 0; i < n; i++) TS_TRY(f(context));
    *seconds = ts_seconds() - start;
    return TS_OK;
}

static void summarise(bench_time *t, double *x)
{
    qsort(x, (size_t)t->n, sizeof *x, ascending);
    t->median = x[t->n / 2];
    t->p10 = x[t->n / 10];
    t->p90 = x[t->n - 1 - t->n / 10];
}

ts_status bench_measure(bench_time *t, bench_fn *f, void *context, bench_fn *between, void *between_context, double seconds)
{
    double x[MAX_SAMPLES], one;
    int64_t per = 1;
    int warm_up = seconds > 0 ? WARM_UP : 1, least = seconds > 0 ? MIN_SAMPLES : 1;
    for (int i = 0; i < warm_up; i++) TS_TRY(calls(f, context, 1, &one));
    if (one < MIN_SAMPLE) per = (int64_t)ceil(MIN_SAMPLE / fmax(one, 1e-8));
    double end = ts_seconds() + seconds;
    t->n = 0;
    while (t->n < least || (t->n < MAX_SAMPLES && ts_seconds() < end)) {
        if (between) TS_TRY(between(between_context));
        TS_TRY(calls(f, context, per, &x[t->n]));
        x[t->n++] /= (double)per;
    }
    if (between) TS_TRY(between(between_context));
    summarise(t, x);
    return TS_OK;
}

ts_status bench_measure_cold(bench_time *t, bench_fn *f, void *context, bench_fn *empty, void *empty_context, double seconds)
{
    double x[MAX_SAMPLES], end = ts_seconds() + seconds;
    int least = seconds > 0 ? MIN_SAMPLES : 1;
    t->n = 0;
    while (t->n < least || (t->n < MAX_SAMPLES && ts_seconds() < end)) {
        if (empty) TS_TRY(empty(empty_context));
        TS_TRY(calls(f, context, 1, &x[t->n]));
        t->n++;
    }
    summarise(t, x);
    return TS_OK;
}

void bench_fill(float *x, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) x[i] = 2 * ts_philox_uniform(seed, 0, 0, (uint64_t)i) - 1;
}

static void print_line(const char *name, double calls_each, double ms, double share)
{
    printf("  %-22s", name);
    if (calls_each > 0)
        printf("%8.1f calls", calls_each);
    else
        printf("%14s", "");
    printf("%10.3f ms%7.1f %%\n", ms, 100 * share);
}

void bench_profile(json_t *o, int64_t per, double aside, const char *what)
{
    ts_profile_line all[TS_PROFILE_MAX];
    double wall, inside = 0;
    int n = ts_profile_read(all, &wall);
    wall -= aside;
    for (int i = 0; i < n; i++) inside += all[i].seconds;
    json_t *lines = json_array();
    if (!o) printf("  %s, %lld times: time by backend function\n", what, (long long)per);
    for (int i = 0; i < n; i++) {
        double each = (double)all[i].calls / (double)per, ms = all[i].seconds / (double)per * 1e3;
        if (o)
            json_array_append_new(lines, json_pack("{s:s,s:f,s:f}", "op", all[i].name, "calls", each, "ms", ms));
        else
            print_line(all[i].name, each, ms, all[i].seconds / wall);
    }
    if (o)
        json_object_set_new(o, "profile",
                            json_pack("{s:O,s:f,s:f}", "ops", lines, "total_ms", wall / (double)per * 1e3, "tape_ms",
                                      (wall - inside) / (double)per * 1e3));
    else {
        print_line("tape and models", 0, (wall - inside) / (double)per * 1e3, (wall - inside) / wall);
        print_line("total", 0, wall / (double)per * 1e3, 1);
    }
    json_decref(lines);
}

ts_status bench_temp(char path[BENCH_PATH], int *fd)
{
    const char *folder = getenv("TMPDIR");
    snprintf(path, BENCH_PATH, "%s/tessera-bench-XXXXXX", folder ? folder : P_tmpdir);
    *fd = mkstemp(path);
    return *fd < 0 ? ts_fail(TS_E_IO, "%s: %s", path, strerror(errno)) : TS_OK;
}
