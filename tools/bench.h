/* bench.h - what the parts of `tessera bench` share: timing, and results as a table or as JSON. */
#ifndef TS_BENCH_H
#define TS_BENCH_H

#include <jansson.h>

#include "tools/common.h"

typedef struct {
    const char *tokenizer, *generator, *config;
    int64_t batch;
    double seconds; /* of measuring, for each line of the result */
    int profile, csv;
    common_options common;
    json_t *results; /* array; filled with --json, NULL else */
} bench_options;

/* Seconds of one call. */
typedef struct {
    int n; /* samples */
    double median, p10, p90;
} bench_time;

/* Call f until `seconds` have passed and at least 5 samples are there, after a warm-up of three calls (0 seconds: one call of
 * each, where only the check counts). A sample is as many calls as take 50 us or more, so that the clock does not count. Stops at
 * the first failure. */
typedef ts_status bench_fn(void *context);
ts_status bench_measure(bench_time *t, bench_fn *f, void *context, double seconds);

/* The same for a cold cache: before every sample, of one call, empty(empty_context) puts other memory into the caches; its time does
 * not count, but for the `seconds`. empty NULL: nothing is done. */
ts_status bench_measure_cold(bench_time *t, bench_fn *f, void *context, bench_fn *empty, void *empty_context, double seconds);

/* A new temporary file in TMPDIR: a descriptor and its path; both are the caller's to close and to remove. */
enum { BENCH_PATH = 4096 };
ts_status bench_temp(char path[BENCH_PATH], int *fd);

/* Deterministic values in [-1, 1): never zeros, which some hardware multiplies faster. */
void bench_fill(float *x, int64_t n, uint64_t seed);

/* The profile of the device as a table on standard output, or as member "profile" of o if o is given. per: calls to
 * divide by. */
void bench_profile(json_t *o, int64_t per, const char *what);

/* flop/s of a large square product in the dtype of the device: what shares of the peak refer to. */
ts_status bench_product_peak(double *flops, ts_device *d, double seconds);

ts_status bench_kernels(bench_options *o, ts_device *d);
ts_status bench_tokenize(bench_options *o, ts_device *d);
ts_status bench_sample(bench_options *o, ts_device *d);
ts_status bench_train(bench_options *o, ts_device *d);

#endif
