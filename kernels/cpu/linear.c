/* linear.c - matrix products on the CPU, by oneDNN and tile_conv.c. Contract: tessera/op_linear.h.
 *
 * Forward is a 1x1 convolution over N pixels: as fast as oneDNN's matmul, which breaks the promise that a row does not
 * depend on N. In bfloat16 it takes another instruction (another order of sums) for products of few rows, and splits
 * the sum between threads when I is large. The gradients promise nothing of the kind and are matmuls.
 */
#include "tessera/op_linear.h"

#include <stdio.h>

#include "kernels/cpu/bias_grad.h"
#include "kernels/cpu/conv2d.h"
#include "kernels/cpu/onednn.h"
#include "tessera/op_conv2d.h"

typedef struct {
    dnn_pass pass;
    const ts_linear *l;
} request;

/* A dense (rows, columns) matrix, or the transposed view of a dense (columns, rows) one. */
static dnnl_memory_desc_t matrix(int64_t rows, int64_t columns, dnnl_data_type_t type, int transposed)
{
    dnnl_memory_desc_t md;
    const dnnl_dims_t dims = { rows, columns };
    const dnnl_dims_t strides = { transposed ? 1 : columns, transposed ? rows : 1 };
    dnnl_memory_desc_init_by_strides(&md, 2, dims, type, strides);
    return md;
}

static dnnl_memory_desc_t any_layout(int64_t rows, int64_t columns, dnnl_data_type_t type)
{
    dnnl_memory_desc_t md;
    dnnl_memory_desc_init_by_tag(&md, 2, (const dnnl_dims_t){ rows, columns }, type, dnnl_format_tag_any);
    return md;
}

static dnnl_status_t describe(void *desc, const void *shape, dnnl_data_type_t factor)
{
    const request *q = shape;
    const int64_t N = q->l->N, I = q->l->I, O = q->l->O;
    dnnl_memory_desc_t a, b, c;
    if (q->pass == DNN_LINEAR_DX) /* dx = dy w */
        a = matrix(N, O, factor, 0), b = any_layout(O, I, factor), c = matrix(N, I, dnnl_f32, 0);
    else /* dw = dy^T x */
        a = matrix(O, N, factor, 1), b = matrix(N, I, factor, 0), c = matrix(O, I, dnnl_f32, 0);
    return dnnl_matmul_desc_init(desc, &a, &b, NULL, &c);
}

static ts_status plan(ts_stream *s, dnn_plan **p, dnn_pass pass, const ts_linear *l)
{
    const dnn_key key = { { pass, l->math, l->N, l->I, l->O } };
    if ((*p = dnn_find(s, &key))) return TS_OK;

    char what[120];
    snprintf(what, sizeof what, "linear %s of N=%lld I=%lld O=%lld", pass == DNN_LINEAR_DX ? "dx" : "dw",
             (long long)l->N, (long long)l->I, (long long)l->O);
    const request q = { pass, l };
    dnn_recipe r = { .what = what, .math = l->math, .describe = describe, .shape = &q, .n_args = 3 };
    const dnnl_memory_desc_t x = matrix(l->N, l->I, dnnl_f32, 0), w = matrix(l->O, l->I, dnnl_f32, 0);
    if (pass == DNN_LINEAR_DX) {
        r.arg[0] = (dnn_arg){ DNNL_ARG_SRC, DNN_FACTOR, matrix(l->N, l->O, dnnl_f32, 0) };
        r.arg[1] = (dnn_arg){ DNNL_ARG_WEIGHTS, DNN_FACTOR, w };
        r.arg[2] = (dnn_arg){ DNNL_ARG_DST, DNN_SET, x };
    } else {
        r.arg[0] = (dnn_arg){ DNNL_ARG_SRC, DNN_FACTOR, matrix(l->O, l->N, dnnl_f32, 1) };
        r.arg[1] = (dnn_arg){ DNNL_ARG_WEIGHTS, DNN_FACTOR, x };
        r.arg[2] = (dnn_arg){ DNNL_ARG_DST, DNN_ADD, w };
        r.sums = 1;
    }
    return dnn_build(s, p, &key, &r);
}

static size_t scratch_of(ts_stream *s, dnn_pass pass, const ts_linear *l)
{
    dnn_plan *p;
    return plan(s, &p, pass, l) == TS_OK ? dnn_scratch(p) : 0; /* the run will fail again and say why */
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static ts_conv2d as_conv2d(const ts_linear *l)
{
    return (ts_conv2d){ .B = 1, .Y = l->N, .X = 1, .C = l->I, .O = l->O, .k = 1, .stride = 1, .math = l->math, .x_dtype = l->x_dtype };
}

size_t linear_scratch_cpu(ts_stream *s, const ts_linear *l, int backward)
{
    const ts_conv2d c = as_conv2d(l);
    if (l->N == 0) return 0;
    if (!backward && l->act) return conv2d_act_scratch(s, &c, l->y_dtype);
    if (!backward) return conv2d_scratch_cpu(s, &c, 0);
    const size_t own_dx = conv2d_own_dx_scratch(s, &c), dx = own_dx ? own_dx : scratch_of(s, DNN_LINEAR_DX, l);
    const size_t own_dw = conv2d_own_dw_scratch(s, &c), dw = own_dw ? own_dw : scratch_of(s, DNN_LINEAR_DW, l);
    return larger(larger(dx, dw), bias_grad_scratch(l->N, l->O));
}

ts_status linear_fwd_cpu(ts_stream *s, void *y, const void *x, const float *w, const float *b, const ts_linear *l,
                         void *scratch)
{
    const ts_conv2d c = as_conv2d(l);
    if (l->N == 0) return TS_OK;
    return l->act ? conv2d_act_fwd(s, y, x, w, b, &c, l->act, l->y_dtype, scratch) : conv2d_fwd_cpu(s, y, x, w, b, &c, scratch);
}

ts_status linear_bwd_cpu(ts_stream *s, float *dx, float *dw, float *db, const float *dy, const float *x, const float *w,
                         const ts_linear *l, void *scratch)
{
    if (l->N == 0) return TS_OK;
    const ts_conv2d c = as_conv2d(l);
    dnn_plan *p;
    if (dx && conv2d_own_dx_scratch(s, &c)) {
        conv2d_own_dx(s, dx, dy, w, &c, scratch);
    } else if (dx) {
        TS_TRY(plan(s, &p, DNN_LINEAR_DX, l));
        TS_TRY(dnn_run(s, p, (void *[]){ (void *)dy, (void *)w, dx }, scratch));
    }
    if (dw && conv2d_own_dw_scratch(s, &c)) {
        conv2d_own_dw(s, dw, dy, x, &c, scratch);
    } else if (dw) {
        TS_TRY(plan(s, &p, DNN_LINEAR_DW, l));
        TS_TRY(dnn_run(s, p, (void *[]){ (void *)dy, (void *)x, dw }, scratch));
    }
    if (db) bias_grad(s, db, dy, l->N, l->O, scratch);
    return TS_OK;
}
