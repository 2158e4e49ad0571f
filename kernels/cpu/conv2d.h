/* conv2d.h - a convolution whose sums go through an activation, for products (kernels/cpu/linear.c). */
#ifndef TS_CPU_CONV2D_H
#define TS_CPU_CONV2D_H

#include "tessera/op_act.h"
#include "tessera/op_conv2d.h"

size_t conv2d_act_scratch(ts_stream *s, const ts_conv2d *c, ts_dtype y_dtype); /* bytes */

/* y (B,Y,X,O) of y_dtype = act of what conv2d_fwd gives, with the bits that act_fwd gives. */
ts_status conv2d_act_fwd(ts_stream *s, void *y, const void *x, const float *w, const float *b, const ts_conv2d *c, ts_act act,
                         ts_dtype y_dtype, void *scratch);

#endif
