/* bench_kernels.c - every kernel: is it right, how long does it take, what share is that of what the machine can do, and what does
 * doing the same in separate passes cost. Contract: bench_kernels.h, bench.h. */
#include "tools/bench_kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/bench.h"

enum { POISON = 0xFF };
#define COPY_BYTES ((size_t)512 << 20) /* from and to: more than the caches hold */

/* --- buffers --- */

static int new_buffer(kernel *k, ts_device *d, ts_status *st, kernel_role role, int64_t n)
{
    int i = k->n++;
    k->role[i] = role;
    k->count[i] = n;
    if (role != KERNEL_SCRATCH) k->bytes += (role == KERNEL_ADD || role == KERNEL_POSITIVE ? 8.0 : 4.0) * (double)n;
    if (*st != TS_OK) return i;
    k->block[i] = ts_block_get(d, (size_t)n * sizeof(float));
    if (!k->block[i])
        *st = TS_E_NOMEM;
    else
        k->p[i] = k->block[i]->p;
    return i;
}

/* What buffer i holds before a call, in x. */
static void start_values(const kernel *k, int i, float *x)
{
    const int64_t n = k->count[i];
    if (k->role[i] == KERNEL_OUT || k->role[i] == KERNEL_CODES) {
        memset(x, POISON, (size_t)n * sizeof *x);
        return;
    }
    bench_fill(x, n, (uint64_t)i);
    for (int64_t j = 0; k->role[i] == KERNEL_POSITIVE && j < n; j++) x[j] = fabsf(x[j]);
}

int kernel_buffer(kernel *k, ts_device *d, ts_status *st, kernel_role role, int64_t n)
{
    int i = new_buffer(k, d, st, role, n);
    if (*st != TS_OK || role == KERNEL_SCRATCH) return i;
    float *x = malloc((size_t)n * sizeof *x);
    if (!x) {
        *st = ts_fail(TS_E_NOMEM, "out of host memory");
        return i;
    }
    start_values(k, i, x);
    *st = k->be->upload(k->s, k->p[i], x, (size_t)n * sizeof *x);
    free(x);
    return i;
}

int kernel_ints(kernel *k, ts_device *d, ts_status *st, int64_t n, int64_t below)
{
    int i = new_buffer(k, d, st, KERNEL_IN, n);
    int32_t *x = malloc((size_t)n * sizeof *x);
    if (!x) *st = ts_fail(TS_E_NOMEM, "out of host memory");
    for (int64_t j = 0; *st == TS_OK && j < n; j++) x[j] = (int32_t)(j * 7919 % below);
    if (*st == TS_OK) *st = k->be->upload(k->s, k->p[i], x, (size_t)n * sizeof *x);
    free(x);
    return i;
}

static void drop_buffers(kernel *k, ts_device *d)
{
    for (int i = 0; i < k->n; i++) ts_block_drop(d, k->block[i]);
    ts_device_trim(d);
}

/* --- is it right? --- */

static ts_status run_afresh(kernel *k, kernel_run *run, float **x)
{
    for (int i = 0; i < k->n; i++) {
        if (k->role[i] == KERNEL_IN || k->role[i] == KERNEL_SCRATCH) continue;
        start_values(k, i, x[i]);
        TS_TRY(k->be->upload(k->s, k->p[i], x[i], (size_t)k->count[i] * sizeof(float)));
    }
    TS_TRY(run(k));
    for (int i = 0; i < k->n; i++)
        if (k->role[i] != KERNEL_SCRATCH)
            TS_TRY(k->be->download(k->s, x[i], k->p[i], (size_t)k->count[i] * sizeof(float)));
    return TS_OK;
}

/* Is the poison gone everywhere, and do two runs give the same bits? No output of ours has all bits set: NaN is none,
 * -1 no code. */
static const char *compare(const kernel *k, float *const *a, float *const *b)
{
    for (int i = 0; i < k->n; i++) {
        if (k->role[i] == KERNEL_IN || k->role[i] == KERNEL_SCRATCH) continue;
        const uint32_t *word = (const uint32_t *)(const void *)a[i];
        for (int64_t j = 0; j < k->count[i]; j++)
            if (word[j] == 0xFFFFFFFFu) return "UNWRITTEN";
        if (memcmp(a[i], b[i], (size_t)k->count[i] * sizeof(float)) != 0) return "VARIES";
    }
    return "same";
}

/* Do both forms agree? Sums of separate passes are rounded in other places: 1e-4 of the largest value of a buffer. */
static int agree(const kernel *k, float *const *a, float *const *b)
{
    const double tolerance = k->tolerance > 0 ? k->tolerance : 1e-4;
    for (int i = 0; i < k->same; i++) {
        double largest = 0, worst = 0;
        if (k->role[i] == KERNEL_CODES && memcmp(a[i], b[i], (size_t)k->count[i] * sizeof(float)) != 0) return 0;
        for (int64_t j = 0; k->role[i] != KERNEL_CODES && j < k->count[i]; j++) {
            largest = fmax(largest, fabs((double)a[i][j]));
            double off = fabs((double)a[i][j] - b[i][j]);
            worst = off <= worst ? worst : off; /* NaN stays */
        }
        if (!(worst <= tolerance * largest)) return 0;
    }
    return 1;
}

/* "exact": agrees with a plain loop in double; "same": repeatable and complete; capitals: wrong. */
static ts_status check(kernel *k, const char **verdict)
{
    float *x[2][KERNEL_BUFFERS] = { { NULL } };
    ts_status st = TS_OK;
    for (int i = 0; i < 2 * k->n && st == TS_OK; i++) {
        x[i / k->n][i % k->n] = malloc((size_t)k->count[i % k->n] * sizeof(float));
        if (!x[i / k->n][i % k->n]) st = ts_fail(TS_E_NOMEM, "out of host memory");
    }
    for (int i = 0; i < 2 && st == TS_OK; i++) st = run_afresh(k, k->run, x[i]);
    if (st == TS_OK) *verdict = compare(k, x[0], x[1]);
    if (st == TS_OK && k->error && strcmp(*verdict, "same") == 0) {
        /* Relative to the sum of absolute terms: rounding of float32 sums; operands rounded to bf16 are each 2^-9 off.
         */
        double tolerance = k->math == TS_MATH_BF16 ? 5e-3 : 1e-5;
        *verdict = k->error(k, x[0]) <= tolerance ? "exact" : "WRONG";
    }
    if (st == TS_OK && k->unfused) {
        st = run_afresh(k, k->unfused, x[1]);
        if (st == TS_OK && k->arrange) st = k->arrange(k, x[1]);
        if (st == TS_OK && !agree(k, x[0], x[1])) *verdict = "DIFFERS";
    }
    for (int i = 0; i < 2 * k->n; i++) free(x[i / k->n][i % k->n]);
    return st;
}

/* --- how fast? --- */

static ts_status run_and_wait(void *context)
{
    kernel *k = context;
    TS_TRY(k->run(k));
    return k->be->stream_sync(k->s);
}

static ts_status run_unfused_and_wait(void *context)
{
    kernel *k = context;
    TS_TRY(k->unfused(k));
    return k->be->stream_sync(k->s);
}

typedef struct {
    double copy, flops; /* bytes/s; flop/s of the products of this run's dtype */
    kernel mover;       /* of COPY_BYTES, which also empties the caches        */
} peaks;

static ts_status run_copy(kernel *k)
{
    return k->be->copy(k->s, k->p[0], k->p[1], COPY_BYTES);
}

static ts_status measure_product(double *flops, const bench_options *o, ts_math math)
{
    bench_product p;
    bench_time t;
    ts_status st = bench_product_open(&p, o, math);
    if (st == TS_OK) st = bench_measure(&t, bench_product_call, &p, NULL, NULL, o->seconds);
    if (st == TS_OK) *flops = bench_product_rate(&p);
    bench_product_close(&p);
    return st;
}

static ts_status measure_peaks(peaks *p, const bench_options *o, ts_device *d)
{
    bench_time t;
    ts_status st = TS_OK;
    p->mover = (kernel){ .be = d->be, .s = d->s, .run = run_copy };
    for (int i = 0; i < 2; i++) new_buffer(&p->mover, d, &st, KERNEL_OUT, (int64_t)(COPY_BYTES / sizeof(float)));
    for (int i = 0; i < 2 && st == TS_OK; i++) st = d->be->zero(d->s, p->mover.p[i], COPY_BYTES); /* the pages are there */
    if (st == TS_OK) st = bench_measure(&t, run_and_wait, &p->mover, NULL, NULL, o->seconds);
    if (st == TS_OK) p->copy = 2.0 * (double)COPY_BYTES / t.median;
    return st == TS_OK ? measure_product(&p->flops, o, d->math) : st;
}

/* --- results --- */

static void print_csv_line(const json_t *line)
{
    const char *key, *comma = "";
    json_t *value;
    json_object_foreach((json_t *)line, key, value)
    {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(7));
        printf("%s%s", comma, json_is_null(value) || !text ? "" : text);
        free(text);
        comma = ",";
    }
    printf("\n");
}

/* Adds a line to --json or prints it for --csv, its keys before the first; 0 if it must be printed as a table. Takes the line. */
static int keep_line(bench_options *o, json_t *line, int first)
{
    if (o->results) return json_array_append_new(o->results, line) == 0;
    if (o->csv) {
        const char *key, *comma = "";
        json_t *value;
        if (first) json_object_foreach(line, key, value) printf("%s%s", comma, key), comma = ",";
        if (first) printf("\n");
        print_csv_line(line);
    }
    json_decref(line);
    return o->csv;
}

static json_t *start_line(const kernel_case *c, const kernel *k, const char *verdict)
{
    return json_pack("{s:s,s:s,s:b,s:s}", "kernel", c->name, "shape", k->shape, "published", c->shapes == KERNEL_PUBLISHED,
                     "check", verdict);
}

typedef struct {
    bench_time warm, cold, unfused; /* unfused: with a cold cache, too */
} kernel_times;

static void report_times(bench_options *o, const kernel_case *c, const kernel *k, const char *verdict, const kernel_times *t,
                         const peaks *p, int first)
{
    const double gb = k->bytes / t->cold.median / 1e9, tf = k->flops / t->warm.median / 1e12;
    const double memory = gb * 1e9 / p->copy, compute = tf * 1e12 / p->flops, ratio = t->unfused.median / t->cold.median;
    json_t *line = start_line(c, k, verdict);
    json_object_update_new(line, json_pack("{s:i,s:f,s:f,s:f,s:i,s:f,s:f,s:f}", "samples", t->warm.n, "median_us",
                                           t->warm.median * 1e6, "p10_us", t->warm.p10 * 1e6, "p90_us", t->warm.p90 * 1e6,
                                           "cold_samples", t->cold.n, "cold_us", t->cold.median * 1e6, "cold_p10_us",
                                           t->cold.p10 * 1e6, "cold_p90_us", t->cold.p90 * 1e6));
    json_object_update_new(line, json_pack("{s:o,s:o}", "unfused_us",
                                           k->unfused ? json_real(t->unfused.median * 1e6) : json_null(), "unfused_times",
                                           k->unfused ? json_real(ratio) : json_null()));
    json_object_update_new(line, json_pack("{s:f,s:f,s:f,s:f,s:f,s:f,s:s}", "bytes", k->bytes, "gb_s", gb, "share_copy", memory,
                                           "flops", k->flops, "tflop_s", tf, "share_product", compute, "bound",
                                           compute > memory ? "compute" : "memory"));
    json_object_update_new(line, json_pack("{s:f,s:f}", "peak_copy_gb_s", p->copy / 1e9, "peak_product_tflop_s", p->flops / 1e12));
    if (keep_line(o, line, first)) return;
    if (first)
        printf("100 %% is: copying %.1f GB/s (512 MB, read and written); %s product %.3f TFLOP/s (%d x %d x %d), measured now.\n"
               "cold: after a copy of 512 MB; GB/s are of these times. warm: again and again; TFLOP/s are of these.\n\n"
               "%-17s%-31s%-10s%10s%10s%10s%10s%8s%6s%9s%6s%12s\n",
               p->copy / 1e9, ts_math_name(k->math), p->flops / 1e12, BENCH_PRODUCT, BENCH_PRODUCT, BENCH_PRODUCT, "kernel",
               "shape", "check", "cold us", "p10", "p90", "warm us", "GB/s", "copy", "TFLOP/s", "prod.", "unfused us");
    printf("%-17s%-31s%-10s%10.1f%10.1f%10.1f%10.1f%8.1f%5.0f%%", c->name, k->shape, verdict, t->cold.median * 1e6,
           t->cold.p10 * 1e6, t->cold.p90 * 1e6, t->warm.median * 1e6, gb, 100 * memory);
    if (k->flops > 0)
        printf("%9.3f%5.0f%%", tf, 100 * compute);
    else
        printf("%15s", "");
    if (k->unfused) printf("%12.1f, %.1f times", t->unfused.median * 1e6, ratio);
    printf("\n");
}

static ts_status measure_kernel(bench_options *o, kernel *k, const kernel_case *c, const char *verdict, peaks *p, int first)
{
    kernel_times t = { .unfused = { 0 } };
    bench_fn *empty = o->seconds > 0 ? run_and_wait : NULL;
    TS_TRY(bench_measure(&t.warm, run_and_wait, k, NULL, NULL, o->seconds));
    TS_TRY(bench_measure_cold(&t.cold, run_and_wait, k, empty, &p->mover, o->seconds));
    if (k->unfused) {
        TS_TRY(run_unfused_and_wait(k));
        TS_TRY(bench_measure_cold(&t.unfused, run_unfused_and_wait, k, empty, &p->mover, o->seconds));
    }
    report_times(o, c, k, verdict, &t, p, first);
    return TS_OK;
}

static json_t *ratio_or_null(double a, double b)
{
    return b > 0 ? json_real(a / b) : json_null();
}

static void print_ratio(double a, double b)
{
    if (b > 0)
        printf("%9.2f", a / b);
    else
        printf("%9s", "-");
}

/* The emulated device keeps no time. */
static ts_status count_kernel(bench_options *o, kernel *k, const kernel_case *c, const char *verdict, int first)
{
    kernel_counts n, u = { 0 };
    TS_TRY(kernel_count(&n, k, k->run));
    if (k->unfused) TS_TRY(kernel_count(&u, k, k->unfused));
    u.launches += k->products;
    u.moved += k->product_bytes;
    json_t *line = start_line(c, k, verdict);
    json_object_update_new(line, json_pack("{s:I,s:f,s:f,s:o,s:o,s:o}", "launches", (json_int_t)n.launches, "bytes_moved", n.moved,
                                           "bytes_floor", k->bytes, "moved_floor", ratio_or_null(n.moved, k->bytes),
                                           "sectors_ideal", ratio_or_null(n.sectors, n.ideal), "bank_passes",
                                           ratio_or_null(n.passes, n.groups)));
    json_object_update_new(line, json_pack("{s:o,s:o}", "unfused_launches",
                                           k->unfused ? json_integer((json_int_t)u.launches) : json_null(), "unfused_moved",
                                           k->unfused ? json_real(u.moved) : json_null()));
    if (keep_line(o, line, first)) return TS_OK;
    if (first)
        printf("The emulated device keeps no time; it counts. floor: every input read once, every output written once.\n"
               "sectors: 32 bytes each, over the least that would do; banks: turns of shared memory for each request.\n\n"
               "%-17s%-31s%-10s%9s%12s%12s%9s%9s%9s%20s\n",
               "kernel", "shape", "check", "launches", "moved", "floor", "", "sectors", "banks", "unfused: moved");
    printf("%-17s%-31s%-10s%9lld%12.0f%12.0f", c->name, k->shape, verdict, (long long)n.launches, n.moved, k->bytes);
    print_ratio(n.moved, k->bytes);
    print_ratio(n.sectors, n.ideal);
    print_ratio(n.passes, n.groups);
    if (k->unfused) printf("%12.0f in %lld", u.moved, (long long)u.launches);
    printf("\n");
    return TS_OK;
}

static ts_status one_kernel(bench_options *o, ts_device *d, const kernel_case *c, peaks *p, int first, int *wrong)
{
    kernel k = { .be = d->be, .s = d->s, .math = d->math };
    const char *verdict = "";
    ts_status st = TS_OK;
    c->make(&k, d, &st, c->a);
    if (st == TS_OK) st = check(&k, &verdict);
    *wrong += verdict[0] >= 'A' && verdict[0] <= 'Z';
    if (st == TS_OK)
        st = c->shapes == KERNEL_SMALL ? count_kernel(o, &k, c, verdict, first) : measure_kernel(o, &k, c, verdict, p, first);
    drop_buffers(&k, d);
    return st;
}

ts_status bench_kernels(bench_options *o, ts_device *d)
{
    peaks p = { .copy = 0 };
    int wrong = 0, n = 0;
    const int counting = kernel_counts_possible(d);
    ts_status st = counting ? TS_OK : measure_peaks(&p, o, d);
    if (st == TS_OK && o->results && !counting)
        json_array_append_new(o->results, json_pack("{s:f,s:f,s:s}", "peak_copy_gb_s", p.copy / 1e9, "peak_product_tflop_s",
                                                    p.flops / 1e12, "dtype", ts_math_name(d->math)));
    for (const kernel_case *c = KERNEL_CASES; c->name && st == TS_OK; c++)
        if ((c->shapes == KERNEL_SMALL) == counting) st = one_kernel(o, d, c, &p, n++ == 0, &wrong);
    drop_buffers(&p.mover, d);
    if (st != TS_OK || wrong == 0) return st;
    return ts_fail(TS_E_INTERNAL, "%d kernels gave wrong results (check, above)", wrong);
}
