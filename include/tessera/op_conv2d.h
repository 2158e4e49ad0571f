/* op_conv2d.h - 2-D convolution (cross-correlation), channels last.
 *
 * Letters   B images, Y X input size, C inputs, O outputs, k kernel side.
 * Formula   y[b,i,j,o] = bias[o] + sum_{u,v,c} x[b, i*stride + u - pad_lo, j*stride + v - pad_lo, c] w[o,u,v,c]
 *           zero outside; output side (Y + pad_lo + pad_hi - k)/stride + 1, likewise X.
 *           pad_lo is above and left, pad_hi below and right (the one-sided padding of the published encoder is 0, 1).
 *           dx, dw, db are the exact adjoints.
 * Layout    w is (O,k,k,C). Files hold (O,C,k,k); loading and saving reorder.
 * Accuracy  float32 accumulation. An image's result does not depend on B or on the thread count (bit for bit).
 *           With TS_MATH_BF16 x, w and dy are rounded to bfloat16 before the product; biases are not.
 */
#ifndef TS_OP_CONV2D_H
#define TS_OP_CONV2D_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t B, Y, X, C, O;
    int k, stride, pad_lo, pad_hi;
    ts_math math;
    ts_dtype x_dtype; /* fwd: TS_F32; TS_BF16 (with TS_MATH_BF16) is the same product as of the same numbers in float32 */
    int recurs;       /* 1: it will be computed very often, as in training: a backend may take seconds to prepare for it */
} ts_conv2d;

static inline int64_t ts_conv2d_out(const ts_conv2d *c, int64_t side)
{
    return (side + c->pad_lo + c->pad_hi - c->k) / c->stride + 1;
}

/* Bytes of scratch that fwd (backward = 0) or bwd (backward = 1) needs; 0 is possible. */
typedef size_t ts_conv2d_scratch_fn(ts_stream *s, const ts_conv2d *c, int backward);

/*   y (B,Yo,Xo,O) f32 out      x (B,Y,X,C) f32 or bf16, w (O,k,k,C) f32, b (O) f32 or NULL in */
typedef ts_status ts_conv2d_fwd_fn(ts_stream *s, float *y, const void *x, const float *w, const float *b,
                                   const ts_conv2d *c, void *scratch);

/*   dx (B,Y,X,C) f32 set, or NULL      dw (O,k,k,C) f32 added to, or NULL      db (O) f32 added to, or NULL
 *   dy (B,Yo,Xo,O), x (B,Y,X,C), w (O,k,k,C) f32 in */
typedef ts_status ts_conv2d_bwd_fn(ts_stream *s, float *dx, float *dw, float *db, const float *dy, const float *x,
                                   const float *w, const ts_conv2d *c, void *scratch);

ts_conv2d_scratch_fn conv2d_scratch_cpu, conv2d_scratch_cuda;
ts_conv2d_fwd_fn conv2d_fwd_cpu, conv2d_fwd_cuda;
ts_conv2d_bwd_fn conv2d_bwd_cpu, conv2d_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
