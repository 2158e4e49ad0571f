/* tile_grad.h - gradients of the weights of convolutions of 1x1 and 3x3, stride 1, in bfloat16 on the tile registers (tile.h); so of
 * matrix products, too.
 *
 * Formula   dw[o,u,v,c] += sum over pixels of dy[.,o] x[. + (u,v), c] (tessera/op_conv2d.h), with dy and x rounded to bfloat16, to
 *           nearest even, and sums in float32, in the same order for every number of threads.
 * Floor     k*k DOTs for 32 pixels, 16 outputs and 16 channels, each with one LOAD, as in tile_conv.h.
 */
#ifndef TS_CPU_TILE_GRAD_H
#define TS_CPU_TILE_GRAD_H

#include "tessera/op_conv2d.h"

/* Is it for this shape? Whether it is fast is for tile_unit() to say. */
int tile_grad_takes(const ts_conv2d *c);

size_t tile_grad_scratch(const ts_conv2d *c); /* bytes */

/* dw (O,k,k,C) += what comes of dy (B,Y,X,O) and x (B,Y,X,C). */
void tile_grad_run(const ts_stream *s, float *dw, const float *dy, const float *x, const ts_conv2d *c, void *scratch);

#endif
