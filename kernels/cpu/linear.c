/* linear.c - matrix products on the CPU, by oneDNN's matmul. Contract: tessera/op_linear.h. */
#include "tessera/op_linear.h"

#include <stdio.h>

#include "kernels/cpu/bias_grad.h"
#include "kernels/cpu/onednn.h"

typedef struct {
    dnn_pass pass;
    int bias;
    const ts_linear *l;
} request;

/* A dense (rows, columns) matrix, or the transposed view of a (columns, rows) one. */
static dnnl_memory_desc_t matrix(int64_t rows, int64_t columns, dnnl_data_type_t type, int transposed)
{
    dnnl_memory_desc_t md;
    const dnnl_dims_t dims = { rows, columns };
    const dnnl_dims_t strides = { transposed ? 1 : columns, transposed ? rows : 1 };
    dnnl_memory_desc_init_by_strides(&md, 2, dims, type, strides);
    return md;
}

static dnnl_memory_desc_t any(int64_t rows, int64_t columns, dnnl_data_type_t type)
{
    dnnl_memory_desc_t md;
    dnnl_memory_desc_init_by_tag(&md, 2, (const dnnl_dims_t){ rows, columns }, type, dnnl_format_tag_any);
    return md;
}

static dnnl_status_t describe(void *desc, const void *shape, dnnl_data_type_t factor)
{
    const request *q = shape;
    const int64_t N = q->l->N, I = q->l->I, O = q->l->O;
    dnnl_memory_desc_t a, b, c, bias = matrix(1, O, dnnl_f32, 0);
    switch (q->pass) {
    case DNN_LINEAR_FWD:
        a = matrix(N, I, factor, 0), b = any(I, O, factor), c = matrix(N, O, dnnl_f32, 0);
        break;
    case DNN_LINEAR_DX:
        a = matrix(N, O, factor, 0), b = any(O, I, factor), c = matrix(N, I, dnnl_f32, 0);
        break;
    default: /* DNN_LINEAR_DW */
        a = matrix(O, N, factor, 1), b = matrix(N, I, factor, 0), c = matrix(O, I, dnnl_f32, 0);
    }
    return dnnl_matmul_desc_init(desc, &a, &b, q->bias ? &bias : NULL, &c);
}

static ts_status plan(ts_stream *s, dnn_plan **p, dnn_pass pass, const ts_linear *l, int bias)
{
    const dnn_key key = { { pass, l->math, bias, l->N, l->I, l->O } };
    if ((*p = dnn_find(s, &key))) return TS_OK;

    char what[120];
    snprintf(what, sizeof what, "linear pass %d of N=%lld I=%lld O=%lld", pass, (long long)l->N, (long long)l->I,
             (long long)l->O);
    const request q = { pass, bias, l };
    dnn_recipe r = { .what = what, .math = l->math, .describe = describe, .shape = &q, .n_args = 3 };
    const dnnl_memory_desc_t x = matrix(l->N, l->I, dnnl_f32, 0), y = matrix(l->N, l->O, dnnl_f32, 0);
    switch (pass) {
    case DNN_LINEAR_FWD:
        r.arg[0] = (dnn_arg){ DNNL_ARG_SRC, DNN_FACTOR, x };
        r.arg[1] = (dnn_arg){ DNNL_ARG_WEIGHTS, DNN_FACTOR, matrix(l->I, l->O, dnnl_f32, 1) };
        r.arg[2] = (dnn_arg){ DNNL_ARG_DST, DNN_SET, y };
        r.arg[3] = (dnn_arg){ DNNL_ARG_BIAS, DNN_PLAIN, matrix(1, l->O, dnnl_f32, 0) };
        r.n_args = bias ? 4 : 3;
        break;
    case DNN_LINEAR_DX:
        r.arg[0] = (dnn_arg){ DNNL_ARG_SRC, DNN_FACTOR, y };
        r.arg[1] = (dnn_arg){ DNNL_ARG_WEIGHTS, DNN_FACTOR, matrix(l->O, l->I, dnnl_f32, 0) };
        r.arg[2] = (dnn_arg){ DNNL_ARG_DST, DNN_SET, x };
        break;
    default: /* DNN_LINEAR_DW */
        r.arg[0] = (dnn_arg){ DNNL_ARG_SRC, DNN_FACTOR, matrix(l->O, l->N, dnnl_f32, 1) };
        r.arg[1] = (dnn_arg){ DNNL_ARG_WEIGHTS, DNN_FACTOR, x };
        r.arg[2] = (dnn_arg){ DNNL_ARG_DST, DNN_ADD, matrix(l->O, l->I, dnnl_f32, 0) };
        r.sums = 1;
    }
    return dnn_build(s, p, &key, &r);
}

static size_t scratch_of(ts_stream *s, dnn_pass pass, const ts_linear *l, int bias)
{
    dnn_plan *p;
    return plan(s, &p, pass, l, bias) == TS_OK ? dnn_scratch(p) : 0; /* the run will fail again and say why */
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

size_t linear_scratch_cpu(ts_stream *s, const ts_linear *l, int backward)
{
    if (l->N == 0) return 0;
    if (!backward) return larger(scratch_of(s, DNN_LINEAR_FWD, l, 0), scratch_of(s, DNN_LINEAR_FWD, l, 1));
    const size_t products = larger(scratch_of(s, DNN_LINEAR_DX, l, 0), scratch_of(s, DNN_LINEAR_DW, l, 0));
    return larger(products, bias_grad_scratch(l->N, l->O));
}

ts_status linear_fwd_cpu(ts_stream *s, float *y, const float *x, const float *w, const float *b, const ts_linear *l,
                         void *scratch)
{
    if (l->N == 0) return TS_OK;
    dnn_plan *p;
    TS_TRY(plan(s, &p, DNN_LINEAR_FWD, l, b != NULL));
    return dnn_run(s, p, (void *[]){ (void *)x, (void *)w, y, (void *)b }, scratch);
}

ts_status linear_bwd_cpu(ts_stream *s, float *dx, float *dw, float *db, const float *dy, const float *x,
                         const float *w, const ts_linear *l, void *scratch)
{
    if (l->N == 0) return TS_OK;
    dnn_plan *p;
    if (dx) {
        TS_TRY(plan(s, &p, DNN_LINEAR_DX, l, 0));
        TS_TRY(dnn_run(s, p, (void *[]){ (void *)dy, (void *)w, dx }, scratch));
    }
    if (dw) {
        TS_TRY(plan(s, &p, DNN_LINEAR_DW, l, 0));
        TS_TRY(dnn_run(s, p, (void *[]){ (void *)dy, (void *)x, dw }, scratch));
    }
    if (db) bias_grad(s, db, dy, l->N, l->O, scratch);
    return TS_OK;
}
