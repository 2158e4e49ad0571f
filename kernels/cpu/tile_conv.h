/* tile_conv.h - convolutions of 1x1 and 3x3, stride 1, in bfloat16 on the tile registers (tile.h); so matrix products,
 * too.
 *
 * Formula   y = w * x + b (tessera/op_conv2d.h), with x and w rounded to bfloat16, to nearest even, and sums in
 *           float32. To every number of y the sums over 32 channels of a tap are added in ascending order, whatever the
 *           batch and the number of threads.
 * Floor     k*k*C/32 DOTs for 16 pixels by 16 outputs. With 2x2 such tiles there is one LOAD for one DOT, which the
 *           eight registers do not allow to be better; weights are read from memory once for up to 512 pixels
 *           (as many of 1x1 as stay in the cache: 128 of 4,096 channels).
 */
#ifndef TS_CPU_TILE_CONV_H
#define TS_CPU_TILE_CONV_H

#include "tessera/op_act.h"
#include "tessera/op_conv2d.h"

/* Is it for this shape? The answer does not depend on B. Whether it is fast is for tile_unit() to say. */
int tile_conv_takes(const ts_conv2d *c);

/* Numbers (bfloat16) of the weights in the order in which tiles are loaded, and making them of w (O,k,k,C) f32 or bf16, or where c is
 * an adjoint (conv2d_adjoint), of the w (C,k,k,O in its letters) f32 of the convolution that it is one of. */
size_t tile_conv_weights(const ts_conv2d *c);
void tile_conv_transform(const ts_stream *s, void *u, const void *w, ts_dtype dtype, const ts_conv2d *c);
void tile_conv_transform_adjoint(const ts_stream *s, void *u, const float *w, const ts_conv2d *c);

size_t tile_conv_scratch(const ts_stream *s, const ts_conv2d *c); /* bytes */

/* What of the sums is stored: their activation, as dtype. */
typedef struct {
    ts_act act;
    ts_dtype dtype;
} tile_conv_end;

/* Can all that is taken of this shape end so? 1x1 whose sums are not cut can. */
int tile_conv_ends(const ts_conv2d *c);

/* y (B,Y,X,O) from x (B,Y,X,C) of type c->x_dtype, transformed weights u and b (O) or NULL. end NULL: the sums, f32. */
void tile_conv_run(const ts_stream *s, void *y, const void *x, const void *u, const float *b, const ts_conv2d *c,
                   const tile_conv_end *end, void *scratch);

#endif
