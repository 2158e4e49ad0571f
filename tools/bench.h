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
 * each, where only the check counts). A sample is as many calls as take 50 us or more, so that the clock does not count. Before each,
 * and after the last, between(between_context) is called, unless NULL; its time does not count, but for the `seconds`. Stops at the
 * first failure. */
typedef ts_status bench_fn(void *context);
ts_status bench_measure(bench_time *t, bench_fn *f, void *context, bench_fn *between, void *between_context, double seconds);

/* The same for a cold cache: before every sample, of one call, empty(empty_context) puts other memory into the caches; its time does
 * not count, but for the `seconds`. empty NULL: nothing is done. */
ts_status bench_measure_cold(bench_time *t, bench_fn *f, void *context, bench_fn *empty, void *empty_context, double seconds);

/* A new temporary file in TMPDIR: a descriptor and its path; both are the caller's to close and to remove. */
enum { BENCH_PATH = 4096 };
ts_status bench_temp(char path[BENCH_PATH], int *fd);

/* Deterministic values in [-1, 1): never zeros, which some hardware multiplies faster. */
void bench_fill(float *x, int64_t n, uint64_t seed);

/* The profile of the device as a table on standard output, or as member "profile" of o if o is given. per: calls to
 * divide by. aside: seconds that passed with something else. */
void bench_profile(json_t *o, int64_t per, double aside, const char *what);

/* A large square product of constant weights, on a device of its own, so that it neither stands in a profile nor in the way of memory:
 * what shares of the peak refer to. Where the speed of a machine comes and goes, the two sides of a share are to be measured by turns:
 * in_turn, a bench_fn like call, multiplies for a tenth of a second if the last product ended more than a second ago. close after every
 * open, whatever that returned; a second time is fine. */
enum { BENCH_PRODUCT = 2048 };
typedef struct {
    ts_device *d;
    ts_linear op;
    ts_block *x, *w, *y, *scratch;
    int constant;
    int64_t calls;
    double seconds, last; /* of all calls; when the last one ended */
} bench_product;
ts_status bench_product_open(bench_product *p, const bench_options *o, ts_math math);
void bench_product_close(bench_product *p);
ts_status bench_product_call(void *p);
ts_status bench_product_in_turn(void *p);
double bench_product_rate(const bench_product *p); /* flop/s of all calls */

ts_status bench_kernels(bench_options *o, ts_device *d);
ts_status bench_tokenize(bench_options *o, ts_device *d);
ts_status bench_sample(bench_options *o, ts_device *d);
ts_status bench_train(bench_options *o, ts_device *d);

#endif
