/* bench_kernels.c - every kernel: is it right, how long does it take, what share is that of what the machine can do.
 * Contract: bench_kernels.h, bench.h. */
#include "tools/bench_kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/bench.h"

enum { POISON = 0xFF, MATMUL = 2048 };
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

int kernel_buffer(kernel *k, ts_device *d, ts_status *st, kernel_role role, int64_t n)
{
    int i = new_buffer(k, d, st, role, n);
    if (*st != TS_OK || role == KERNEL_SCRATCH) return i;
    float *x = malloc((size_t)n * sizeof *x);
    if (!x) {
        *st = ts_fail(TS_E_NOMEM, "out of host memory");
        return i;
    }
    bench_fill(x, n, (uint64_t)i);
    for (int64_t j = 0; role == KERNEL_POSITIVE && j < n; j++) x[j] = fabsf(x[j]);
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

static ts_status run_poisoned(kernel *k, float **x)
{
    for (int i = 0; i < k->n; i++) {
        if (k->role[i] != KERNEL_OUT) continue;
        memset(x[i], POISON, (size_t)k->count[i] * sizeof(float));
        TS_TRY(k->be->upload(k->s, k->p[i], x[i], (size_t)k->count[i] * sizeof(float)));
    }
    TS_TRY(k->run(k));
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
        if (k->role[i] != KERNEL_OUT) continue;
        const uint32_t *word = (const uint32_t *)(const void *)a[i];
        for (int64_t j = 0; j < k->count[i]; j++)
            if (word[j] == 0xFFFFFFFFu) return "UNWRITTEN";
        if (memcmp(a[i], b[i], (size_t)k->count[i] * sizeof(float)) != 0) return "VARIES";
    }
    return "same";
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
    for (int i = 0; i < 2 && st == TS_OK; i++) st = run_poisoned(k, x[i]);
    if (st == TS_OK) *verdict = compare(k, x[0], x[1]);
    if (st == TS_OK && k->error && strcmp(*verdict, "same") == 0) {
        /* Relative to the sum of absolute terms: rounding of float32 sums; operands rounded to bf16 are each 2^-9 off.
         */
        double tolerance = k->math == TS_MATH_BF16 ? 5e-3 : 1e-5;
        *verdict = k->error(k, x[0]) <= tolerance ? "exact" : "WRONG";
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

typedef struct {
    double copy, flops; /* bytes/s; flop/s of the products of this run's dtype */
} peaks;

static ts_status run_copy(kernel *k)
{
    return k->be->copy(k->s, k->p[0], k->p[1], COPY_BYTES);
}

ts_status bench_product_peak(double *flops, ts_device *d, double seconds)
{
    kernel product = { .be = d->be, .s = d->s, .math = d->math };
    bench_time t;
    ts_status st = TS_OK;
    const kernel_case *linear = KERNEL_CASES;
    while (strcmp(linear->name, "linear_fwd") != 0) linear++;
    linear->make(&product, d, &st, (int64_t[]){ MATMUL, MATMUL, MATMUL });
    if (st == TS_OK) st = bench_measure(&t, run_and_wait, &product, seconds);
    if (st == TS_OK) *flops = product.flops / t.median;
    drop_buffers(&product, d);
    return st;
}

static ts_status measure_peaks(peaks *p, ts_device *d, double seconds)
{
    kernel copy = { .be = d->be, .s = d->s, .run = run_copy };
    bench_time t;
    ts_status st = TS_OK;
    for (int i = 0; i < 2; i++) new_buffer(&copy, d, &st, KERNEL_OUT, (int64_t)(COPY_BYTES / sizeof(float)));
    for (int i = 0; i < 2 && st == TS_OK; i++) st = d->be->zero(d->s, copy.p[i], COPY_BYTES); /* the pages are there */
    if (st == TS_OK) st = bench_measure(&t, run_and_wait, &copy, seconds);
    if (st == TS_OK) p->copy = 2.0 * (double)COPY_BYTES / t.median;
    drop_buffers(&copy, d);
    return st == TS_OK ? bench_product_peak(&p->flops, d, seconds) : st;
}

static void report_kernel(bench_options *o, const kernel_case *c, const kernel *k, const char *verdict,
                          const bench_time *t, const peaks *p)
{
    double gb = k->bytes / t->median / 1e9, gf = k->flops / t->median / 1e9;
    double memory = gb * 1e9 / p->copy, compute = gf * 1e9 / p->flops;
    const char *bound = compute > memory ? "compute" : "memory";
    if (o->results) {
        json_t *line = json_pack("{s:s,s:s,s:b,s:s,s:i,s:f,s:f,s:f}", "kernel", c->name, "shape", k->shape, "published",
                                 c->published, "check", verdict, "samples", t->n, "median_us", t->median * 1e6,
                                 "p10_us", t->p10 * 1e6, "p90_us", t->p90 * 1e6);
        json_object_update_new(line, json_pack("{s:f,s:f,s:f,s:f,s:f,s:f,s:s}", "bytes", k->bytes, "gb_s", gb,
                                               "share_copy", memory, "flops", k->flops, "gflop_s", gf, "share_product",
                                               compute, "bound", bound));
        json_array_append_new(o->results, line);
        return;
    }
    printf("%-17s%-31s%-10s%10.1f%10.1f%10.1f%8.1f%5.0f%%", c->name, k->shape, verdict, t->median * 1e6, t->p10 * 1e6,
           t->p90 * 1e6, gb, 100 * memory);
    if (k->flops > 0) printf("%9.1f%5.0f%%", gf, 100 * compute);
    printf("\n");
}

static ts_status one_kernel(bench_options *o, ts_device *d, const kernel_case *c, const peaks *p, int *wrong)
{
    kernel k = { .be = d->be, .s = d->s, .math = d->math };
    const char *verdict = "";
    bench_time t;
    ts_status st = TS_OK;
    c->make(&k, d, &st, c->a);
    if (st == TS_OK) st = check(&k, &verdict);
    *wrong += verdict[0] >= 'A' && verdict[0] <= 'Z';
    if (st == TS_OK) st = bench_measure(&t, run_and_wait, &k, o->seconds);
    if (st == TS_OK) report_kernel(o, c, &k, verdict, &t, p);
    drop_buffers(&k, d);
    return st;
}

ts_status bench_kernels(bench_options *o, ts_device *d)
{
    peaks p;
    int wrong = 0;
    const char *dtype = ts_math_name(d->math);
    TS_TRY(measure_peaks(&p, d, o->seconds));
    if (o->results) {
        json_array_append_new(o->results, json_pack("{s:f,s:f,s:s}", "peak_copy_gb_s", p.copy / 1e9,
                                                    "peak_product_gflop_s", p.flops / 1e9, "dtype", dtype));
    } else {
        printf("100 %% is: copying %.1f GB/s (512 MB, read and written); %s product %.1f GFLOP/s (%d x %d x %d), "
               "measured now.\n"
               "Buffers are reused and stay in the caches where they fit, so a share of the copy above 100 %% is "
               "possible.\n\n"
               "%-17s%-31s%-10s%10s%10s%10s%8s%6s%9s%6s\n",
               p.copy / 1e9, dtype, p.flops / 1e9, MATMUL, MATMUL, MATMUL, "kernel", "shape", "check", "median us",
               "p10", "p90", "GB/s", "copy", "GFLOP/s", "prod.");
    }
    for (const kernel_case *c = KERNEL_CASES; c->name; c++) TS_TRY(one_kernel(o, d, c, &p, &wrong));
    return wrong == 0 ? TS_OK : ts_fail(TS_E_INTERNAL, "%d kernels gave wrong results (check, above)", wrong);
}
