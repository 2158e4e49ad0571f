/* conv2d.c - convolution on the CPU, by oneDNN, or by winograd.c or tile_conv.c where those are faster. Contract: tessera/op_conv2d.h. */
#include "tessera/op_conv2d.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/cpu/bias_grad.h"
#include "kernels/cpu/conv2d.h"
#include "kernels/cpu/onednn.h"
#include "kernels/cpu/packed.h"
#include "kernels/cpu/sizes.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/tile_conv.h"
#include "kernels/cpu/tile_grad.h"
#include "kernels/cpu/winograd.h"
#include "tessera/op_linear.h"

typedef struct {
    dnn_pass pass;
    int bias;
    const ts_conv2d *c;
} request;

/* oneDNN names extents in the order of PyTorch whatever the layout; the tag says how they lie in memory. */
static dnnl_memory_desc_t images(int64_t B, int64_t C, int64_t Y, int64_t X, dnnl_data_type_t type)
{
    dnnl_memory_desc_t md;
    dnnl_memory_desc_init_by_tag(&md, 4, (const dnnl_dims_t){ B, C, Y, X }, type, dnnl_nhwc);
    return md;
}

static dnnl_memory_desc_t weights(const ts_conv2d *c, dnnl_data_type_t type, dnnl_format_tag_t tag)
{
    dnnl_memory_desc_t md;
    dnnl_memory_desc_init_by_tag(&md, 4, (const dnnl_dims_t){ c->O, c->C, c->k, c->k }, type, tag);
    return md;
}

static dnnl_memory_desc_t input(const ts_conv2d *c, dnnl_data_type_t type)
{
    return images(c->B, c->C, c->Y, c->X, type);
}

static dnnl_memory_desc_t output(const ts_conv2d *c, dnnl_data_type_t type)
{
    return images(c->B, c->O, ts_conv2d_out(c, c->Y), ts_conv2d_out(c, c->X), type);
}

static dnnl_memory_desc_t bias_of(const ts_conv2d *c)
{
    dnnl_memory_desc_t md;
    dnnl_memory_desc_init_by_tag(&md, 1, (const dnnl_dims_t){ c->O }, dnnl_f32, dnnl_x);
    return md;
}

static dnnl_status_t describe(void *desc, const void *shape, dnnl_data_type_t factor)
{
    const request *q = shape;
    const ts_conv2d *c = q->c;
    const dnnl_dims_t stride = { c->stride, c->stride }, lo = { c->pad_lo, c->pad_lo }, hi = { c->pad_hi, c->pad_hi };
    /* a kernel larger than the image: no descriptor can be made of its output */
    if (ts_conv2d_out(c, c->Y) < 1 || ts_conv2d_out(c, c->X) < 1) return dnnl_invalid_arguments;
    const dnnl_memory_desc_t x = input(c, q->pass == DNN_CONV_DX ? dnnl_f32 : factor);
    const dnnl_memory_desc_t y = output(c, q->pass == DNN_CONV_FWD ? dnnl_f32 : factor);
    const dnnl_memory_desc_t w = weights(c, q->pass == DNN_CONV_DW ? dnnl_f32 : factor, dnnl_format_tag_any);
    const dnnl_memory_desc_t b = bias_of(c);
    switch (q->pass) {
    case DNN_CONV_FWD:
        return dnnl_convolution_forward_desc_init(desc, dnnl_forward_training, dnnl_convolution_direct, &x, &w,
                                                  q->bias ? &b : NULL, &y, stride, lo, hi);
    case DNN_CONV_DX:
        return dnnl_convolution_backward_data_desc_init(desc, dnnl_convolution_direct, &x, &w, &y, stride, lo, hi);
    default: /* DNN_CONV_DW */
        return dnnl_convolution_backward_weights_desc_init(desc, dnnl_convolution_direct, &x, &w, NULL, &y, stride, lo,
                                                           hi);
    }
}

static ts_status plan(ts_stream *s, dnn_plan **p, dnn_pass pass, const ts_conv2d *c, int bias)
{
    const dnn_key key = { { pass, c->math, bias, c->B, c->Y, c->X, c->C, c->O, c->k, c->stride, c->pad_lo,
                            c->pad_hi, c->x_dtype } };
    if ((*p = dnn_find(s, &key))) return TS_OK;

    static const char *const NAME[] = { [DNN_CONV_FWD] = "fwd", [DNN_CONV_DX] = "dx", [DNN_CONV_DW] = "dw" };
    char what[160];
    snprintf(what, sizeof what, "conv2d %s of B=%lld Y=%lld X=%lld C=%lld O=%lld k=%d stride=%d pad=%d,%d", NAME[pass],
             (long long)c->B, (long long)c->Y, (long long)c->X, (long long)c->C, (long long)c->O, c->k, c->stride,
             c->pad_lo, c->pad_hi);
    const request q = { pass, bias, c };
    dnn_recipe r = { .what = what, .math = c->math, .describe = describe, .shape = &q, .n_args = 3 };
    const dnnl_memory_desc_t x = input(c, pass == DNN_CONV_FWD && c->x_dtype == TS_BF16 ? dnnl_bf16 : dnnl_f32);
    const dnnl_memory_desc_t y = output(c, dnnl_f32), w = weights(c, dnnl_f32, dnnl_ohwi);
    switch (pass) {
    case DNN_CONV_FWD:
        r.arg[0] = (dnn_arg){ DNNL_ARG_SRC, DNN_FACTOR, x };
        r.arg[1] = (dnn_arg){ DNNL_ARG_WEIGHTS, DNN_FACTOR, w };
        r.arg[2] = (dnn_arg){ DNNL_ARG_DST, DNN_SET, y };
        r.arg[3] = (dnn_arg){ DNNL_ARG_BIAS, DNN_PLAIN, bias_of(c) };
        r.n_args = bias ? 4 : 3;
        break;
    case DNN_CONV_DX:
        r.arg[0] = (dnn_arg){ DNNL_ARG_DIFF_DST, DNN_FACTOR, y };
        r.arg[1] = (dnn_arg){ DNNL_ARG_WEIGHTS, DNN_FACTOR, w };
        r.arg[2] = (dnn_arg){ DNNL_ARG_DIFF_SRC, DNN_SET, x };
        break;
    default: /* DNN_CONV_DW */
        r.arg[0] = (dnn_arg){ DNNL_ARG_DIFF_DST, DNN_FACTOR, y };
        r.arg[1] = (dnn_arg){ DNNL_ARG_SRC, DNN_FACTOR, x };
        r.arg[2] = (dnn_arg){ DNNL_ARG_DIFF_WEIGHTS, DNN_ADD, w };
    }
    return dnn_build(s, p, &key, &r);
}

static size_t scratch_of(ts_stream *s, dnn_pass pass, const ts_conv2d *c, int bias)
{
    dnn_plan *p;
    return plan(s, &p, pass, c, bias) == TS_OK ? dnn_scratch(p) : 0; /* the run will fail again and say why */
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static int64_t rows_of(const ts_conv2d *c)
{
    return c->B * ts_conv2d_out(c, c->Y) * ts_conv2d_out(c, c->X);
}

/* A 1x1 convolution is a matrix product over all pixels. Its gradients are taken as one: in bfloat16 oneDNN's matmul is
 * several times as fast there as its convolution. */
static int pointwise(const ts_conv2d *c)
{
    return c->k == 1 && c->stride == 1 && c->pad_lo == 0 && c->pad_hi == 0;
}

static ts_linear as_linear(const ts_conv2d *c)
{
    return (ts_linear){ .N = rows_of(c), .I = c->C, .O = c->O, .math = c->math };
}

/* ---- the ways that are our own: with weights of another order, made before, and kept where they do not change ---- */

typedef struct {
    int (*takes)(const ts_conv2d *c);
    dnnl_data_type_t type; /* of transformed weights, and the other type besides float32 in which they may come */
    size_t (*weights)(const ts_conv2d *c);
    size_t (*scratch)(const ts_stream *s, const ts_conv2d *c);
    void (*transform)(const ts_stream *s, void *u, const void *w, ts_dtype dtype, const ts_conv2d *c);
    void (*transform_adjoint)(const ts_stream *s, void *u, const float *w, const ts_conv2d *c);
    void (*run)(const ts_stream *s, void *y, const void *x, const void *u, const float *b, const ts_conv2d *c, const tile_conv_end *end,
                void *scratch);
} way;

static void transform_winograd(const ts_stream *s, void *u, const void *w, ts_dtype dtype, const ts_conv2d *c)
{
    (void)dtype; /* float32 */
    winograd_transform(s, u, w, c, 0);
}

static void transform_winograd_adjoint(const ts_stream *s, void *u, const float *w, const ts_conv2d *c)
{
    winograd_transform(s, u, w, c, 1);
}

static void run_winograd(const ts_stream *s, void *y, const void *x, const void *u, const float *b, const ts_conv2d *c,
                         const tile_conv_end *end, void *scratch)
{
    (void)end; /* NULL */
    winograd_run(s, y, x, u, b, c, scratch);
}

static const way WINOGRAD = { winograd_takes, dnnl_f32, winograd_weights, winograd_scratch, transform_winograd,
                              transform_winograd_adjoint, run_winograd };
static const way TILES = { tile_conv_takes, dnnl_bf16, tile_conv_weights, tile_conv_scratch, tile_conv_transform,
                           tile_conv_transform_adjoint, tile_conv_run };

/* How a forward pass goes, NULL for oneDNN. */
static const way *way_of(const ts_conv2d *c)
{
    if (winograd_takes(c)) return &WINOGRAD;
    return tile_unit() && tile_conv_takes(c) ? &TILES : NULL;
}

static size_t transformed_bytes(const way *m, const ts_conv2d *c)
{
    return m->weights(c) * (m->type == dnnl_f32 ? 4 : 2);
}

/* Scratch: transformed weights, unless they are kept, before the rest. */
static size_t own_room(const ts_stream *s, const way *m, const ts_conv2d *c)
{
    return transformed_bytes(m, c) + 64 + m->scratch(s, c);
}

size_t conv2d_scratch_cpu(ts_stream *s, const ts_conv2d *c, int backward)
{
    if (c->B == 0) return 0;
    const ts_linear l = as_linear(c);
    if (backward && pointwise(c)) return linear_scratch_cpu(s, &l, 1);
    if (!backward) {
        const way *own = way_of(c);
        if (own) return own_room(s, own, c);
        return larger(scratch_of(s, DNN_CONV_FWD, c, 0), scratch_of(s, DNN_CONV_FWD, c, 1));
    }
    const size_t own_dx = conv2d_own_dx_scratch(s, c), dx = own_dx ? own_dx : scratch_of(s, DNN_CONV_DX, c, 0);
    const size_t own_dw = conv2d_own_dw_scratch(s, c), dw = own_dw ? own_dw : scratch_of(s, DNN_CONV_DW, c, 0);
    return larger(bias_grad_scratch(rows_of(c), c->O), larger(dx, dw));
}

/* The weights as m->run takes them, made the first time; NULL when memory is out. */
static void *transformed_copy(ts_stream *s, const way *m, const float *w, const ts_conv2d *c)
{
    int is_new;
    dnnl_memory_desc_t md;
    dnnl_memory_desc_init_by_tag(&md, 1, (const dnnl_dims_t){ (dnnl_dim_t)m->weights(c) }, m->type, dnnl_a);
    void *u = packed_get(s, w, &md, transformed_bytes(m, c), 0, &is_new);
    if (!u || !is_new) return u;

    const ts_stored *stored = packed_stored(s, w);
    const int as_it_is = !stored || (m->type == dnnl_bf16 && stored->dtype == TS_BF16 && stored->kk == 1);
    float *plain = as_it_is ? NULL : packed_expand(s, w, stored);
    if (!plain && !as_it_is) {
        packed_forget(s, u);
        return NULL;
    }
    if (plain) m->transform(s, u, plain, TS_F32, c);
    else m->transform(s, u, w, stored ? stored->dtype : TS_F32, c);
    free(plain);
    packed_release(s, w);
    return u;
}

static ts_status own_fwd(ts_stream *s, const way *m, void *y, const void *x, const float *w, const float *b, const ts_conv2d *c,
                         const tile_conv_end *end, void *scratch)
{
    if (packed_constant(s, w)) {
        const void *u = transformed_copy(s, m, w, c);
        if (!u) return ts_fail(TS_E_NOMEM, "conv2d: no memory for %zu bytes of weights", transformed_bytes(m, c));
        m->run(s, y, x, u, b, c, end, scratch);
        return TS_OK;
    }
    char *u = ts_next_line(scratch);
    m->transform(s, u, w, TS_F32, c);
    m->run(s, y, x, u, b, c, end, u + transformed_bytes(m, c));
    return TS_OK;
}

ts_status conv2d_fwd_cpu(ts_stream *s, float *y, const void *x, const float *w, const float *b, const ts_conv2d *c,
                         void *scratch)
{
    if (c->B == 0) return TS_OK;
    const way *own = way_of(c);
    if (own) return own_fwd(s, own, y, x, w, b, c, NULL, scratch);
    dnn_plan *p;
    TS_TRY(plan(s, &p, DNN_CONV_FWD, c, b != NULL));
    return dnn_run(s, p, (void *[]){ (void *)x, (void *)w, y, (void *)b }, scratch);
}

/* Does it end in one pass? Else the sums stand in scratch between, unless they fit in y. */
static int ends(const ts_conv2d *c)
{
    return way_of(c) == &TILES && tile_conv_ends(c);
}

static size_t sums_between(const ts_conv2d *c, ts_dtype y_dtype)
{
    return ends(c) || y_dtype == TS_F32 ? 0 : (size_t)(rows_of(c) * c->O) * sizeof(float);
}

size_t conv2d_act_scratch(ts_stream *s, const ts_conv2d *c, ts_dtype y_dtype)
{
    return conv2d_scratch_cpu(s, c, 0) + sums_between(c, y_dtype) + 64;
}

ts_status conv2d_act_fwd(ts_stream *s, void *y, const void *x, const float *w, const float *b, const ts_conv2d *c, ts_act act,
                         ts_dtype y_dtype, void *scratch)
{
    const tile_conv_end end = { act, y_dtype };
    if (ends(c)) return own_fwd(s, &TILES, y, x, w, b, c, &end, scratch);
    float *sums = y_dtype == TS_F32 ? y : ts_next_line(scratch);
    char *rest = y_dtype == TS_F32 ? scratch : (char *)sums + sums_between(c, y_dtype);
    TS_TRY(conv2d_fwd_cpu(s, sums, x, w, b, c, rest));
    return act_fwd_cpu(s, y, sums, act, rows_of(c) * c->O, y_dtype);
}

ts_conv2d conv2d_adjoint(const ts_conv2d *c)
{
    ts_conv2d a = *c;
    a.Y = ts_conv2d_out(c, c->Y);
    a.X = ts_conv2d_out(c, c->X);
    a.C = c->O;
    a.O = c->C;
    a.pad_lo = c->k - 1 - c->pad_lo;
    a.pad_hi = c->k - 1 - c->pad_hi;
    a.x_dtype = TS_F32;
    return a;
}

/* The way of the adjoint, NULL for oneDNN. */
static const way *dx_way_of(const ts_conv2d *c, const ts_conv2d *a)
{
    return c->stride == 1 ? way_of(a) : NULL;
}

size_t conv2d_own_dx_scratch(const ts_stream *s, const ts_conv2d *c)
{
    const ts_conv2d a = conv2d_adjoint(c);
    const way *own = dx_way_of(c, &a);
    return own ? own_room(s, own, &a) : 0;
}

void conv2d_own_dx(ts_stream *s, float *dx, const float *dy, const float *w, const ts_conv2d *c, void *scratch)
{
    const ts_conv2d a = conv2d_adjoint(c);
    const way *own = dx_way_of(c, &a);
    char *u = ts_next_line(scratch);
    own->transform_adjoint(s, u, w, &a);
    own->run(s, dx, dy, u, NULL, &a, NULL, u + transformed_bytes(own, &a));
}

static int tiles_take_dw(const ts_conv2d *c)
{
    return tile_unit() && tile_grad_takes(c);
}

size_t conv2d_own_dw_scratch(const ts_stream *s, const ts_conv2d *c)
{
    if (winograd_takes(c)) return winograd_dw_scratch(s, c);
    return tiles_take_dw(c) ? tile_grad_scratch(c) : 0;
}

void conv2d_own_dw(ts_stream *s, float *dw, const float *dy, const float *x, const ts_conv2d *c, void *scratch)
{
    if (winograd_takes(c))
        winograd_dw(s, dw, dy, x, c, scratch);
    else
        tile_grad_run(s, dw, dy, x, c, scratch);
}

ts_status conv2d_bwd_cpu(ts_stream *s, float *dx, float *dw, float *db, const float *dy, const float *x, const float *w,
                         const ts_conv2d *c, void *scratch)
{
    if (c->B == 0) return TS_OK;
    const ts_linear l = as_linear(c);
    if (pointwise(c)) return linear_bwd_cpu(s, dx, dw, db, dy, x, w, &l, scratch);

    dnn_plan *p;
    if (dx && conv2d_own_dx_scratch(s, c)) {
        conv2d_own_dx(s, dx, dy, w, c, scratch);
    } else if (dx) {
        TS_TRY(plan(s, &p, DNN_CONV_DX, c, 0));
        TS_TRY(dnn_run(s, p, (void *[]){ (void *)dy, (void *)w, dx }, scratch));
    }
    if (dw && conv2d_own_dw_scratch(s, c)) {
        conv2d_own_dw(s, dw, dy, x, c, scratch);
    } else if (dw) {
        TS_TRY(plan(s, &p, DNN_CONV_DW, c, 0));
        TS_TRY(dnn_run(s, p, (void *[]){ (void *)dy, (void *)x, dw }, scratch));
    }
    if (db) bias_grad(s, db, dy, rows_of(c), c->O, scratch);
    return TS_OK;
}
