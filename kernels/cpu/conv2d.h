/* conv2d.h - for products (kernels/cpu/linear.c): a convolution whose sums go through an activation, and gradients without oneDNN. */
#ifndef TS_CPU_CONV2D_H
#define TS_CPU_CONV2D_H

#include "tessera/op_act.h"
#include "tessera/op_conv2d.h"

size_t conv2d_act_scratch(ts_stream *s, const ts_conv2d *c, ts_dtype y_dtype); /* bytes */

/* y (B,Y,X,O) of y_dtype = act of what conv2d_fwd gives, with the bits that act_fwd gives. */
ts_status conv2d_act_fwd(ts_stream *s, void *y, const void *x, const float *w, const float *b, const ts_conv2d *c, ts_act act,
                         ts_dtype y_dtype, void *scratch);

/* The convolution of stride 1 that makes dx of dy: its C is O here, its O is C here, its kernels are turned round. */
ts_conv2d conv2d_adjoint(const ts_conv2d *c);

/* dx (B,Y,X,C) and dw (O,k,k,C), which is added to, by ways of our own. Bytes of scratch, 0 where there is no such way; then it may
 * not be asked for. */
size_t conv2d_own_dx_scratch(const ts_stream *s, const ts_conv2d *c);
size_t conv2d_own_dw_scratch(const ts_stream *s, const ts_conv2d *c);
void conv2d_own_dx(ts_stream *s, float *dx, const float *dy, const float *w, const ts_conv2d *c, void *scratch);
void conv2d_own_dw(ts_stream *s, float *dw, const float *dy, const float *x, const ts_conv2d *c, void *scratch);

#endif
