/* bench_product.c - what the machine gives a large matrix product. Contract: bench.h. */
#include <stdlib.h>

#include "host/log.h"
#include "tessera/exact.h"
#include "tools/bench.h"

static const double PAUSE = 1, TURN = 0.1; /* seconds between two turns, and of a turn at least */

/* A matrix of random numbers as operands of products stand in memory; in bfloat16 they are cut off. */
static ts_status operand(ts_block **b, ts_device *d, ts_dtype dtype, uint64_t seed)
{
    const size_t n = (size_t)BENCH_PRODUCT * BENCH_PRODUCT;
    float *wide = malloc(n * sizeof *wide);
    uint16_t *narrow = malloc(n * sizeof *narrow);
    ts_status st = wide && narrow ? TS_OK : ts_fail(TS_E_NOMEM, "out of host memory");
    if (st == TS_OK) {
        bench_fill(wide, (int64_t)n, seed);
        for (size_t i = 0; i < n; i++) narrow[i] = (uint16_t)(ts_bits_of(wide[i]) >> 16);
        const void *x = dtype == TS_BF16 ? (const void *)narrow : wide;
        const size_t bytes = n * (dtype == TS_BF16 ? sizeof *narrow : sizeof *wide);
        *b = ts_block_get(d, bytes);
        st = *b ? d->be->upload(d->s, (*b)->p, x, bytes) : TS_E_NOMEM;
    }
    free(wide);
    free(narrow);
    return st;
}

ts_status bench_product_open(bench_product *p, const bench_options *o, ts_math math)
{
    const size_t bytes = (size_t)BENCH_PRODUCT * BENCH_PRODUCT * sizeof(float);
    *p = (bench_product){ .d = NULL };
    TS_TRY(ts_device_open(&p->d, o->common.device, (int)o->common.threads, math));
    ts_device *d = p->d;
    const ts_dtype dtype = d->be->factor_dtype ? d->be->factor_dtype(math) : TS_F32;
    p->op = (ts_linear){ .N = BENCH_PRODUCT, .I = BENCH_PRODUCT, .O = BENCH_PRODUCT, .math = math, .x_dtype = dtype };
    TS_TRY(operand(&p->x, d, dtype, 1));
    TS_TRY(operand(&p->w, d, TS_F32, 2));
    TS_TRY(d->be->mem_constant(d->s, p->w->p, bytes, 1)); /* as the weights of a model are */
    p->constant = 1;
    p->y = ts_block_get(d, bytes);
    p->scratch = ts_block_get(d, d->be->linear_scratch(d->s, &p->op, 0) + 1);
    if (!p->y || !p->scratch) return TS_E_NOMEM;
    TS_TRY(bench_product_call(p)); /* the weights are brought into their layout */
    p->calls = 0;
    p->seconds = 0;
    return TS_OK;
}

void bench_product_close(bench_product *p)
{
    if (!p->d) return;
    if (p->constant) p->d->be->mem_constant(p->d->s, p->w->p, 0, 0);
    ts_block *all[] = { p->x, p->w, p->y, p->scratch };
    for (int i = 0; i < 4; i++) ts_block_drop(p->d, all[i]);
    ts_device_close(p->d);
    p->d = NULL;
}

ts_status bench_product_call(void *context)
{
    bench_product *p = context;
    const double start = ts_seconds();
    TS_TRY(p->d->be->linear_fwd(p->d->s, p->y->p, p->x->p, p->w->p, NULL, &p->op, p->scratch->p));
    TS_TRY(p->d->be->stream_sync(p->d->s));
    p->last = ts_seconds();
    p->seconds += p->last - start;
    p->calls++;
    return TS_OK;
}

ts_status bench_product_in_turn(void *context)
{
    bench_product *p = context;
    const double start = ts_seconds();
    if (p->calls > 0 && start - p->last < PAUSE) return TS_OK;
    do TS_TRY(bench_product_call(p));
    while (ts_seconds() - start < TURN);
    return TS_OK;
}

double bench_product_rate(const bench_product *p)
{
    return 2.0 * BENCH_PRODUCT * BENCH_PRODUCT * BENCH_PRODUCT * (double)p->calls / p->seconds;
}
