/* winograd.h - 3x3 convolutions of stride 1 in float32, and their gradients, with four times fewer multiplications.
 *
 * Letters   a tile is 4x4 outputs and the 6x6 inputs they see; g a kernel of 3x3, d the inputs of a tile, for one pair of channels
 * Formula   F(4x4, 3x3):  outputs = A' [ (G g G') . (B' d B) ] A,  . element by element, summed over the input channels
 *           dx is the same of dy, kernels turned round;  dg = G' [ sum over tiles of (A dy A') . (B' d B) ] G
 *           A, G and B follow from interpolation at 0, 3/4, -3/4, 3/2, -3/2 and infinity (Toom-Cook).
 * Source    Lavin & Gray 2015, arXiv:1509.09308. The sums over channels are 36 matrix products over all tiles.
 * Accuracy  about 1.8 times the rounding error (RMS) of a plain sum; with the usual points 1 and 2 it would be 3.8 times. A tile's
 *           result depends on nothing but its inputs.
 */
#ifndef TS_CPU_WINOGRAD_H
#define TS_CPU_WINOGRAD_H

#include "tessera/op_conv2d.h"

/* Is it for this shape? The answer does not depend on B. */
int winograd_takes(const ts_conv2d *c);

size_t winograd_scratch(const ts_stream *s, const ts_conv2d *c); /* bytes */

/* Floats of the transformed weights, and making them: of w (O,3,3,C), or where c is an adjoint (conv2d_adjoint), of the w
 * (C,3,3,O in its letters) of the convolution that it is one of. */
size_t winograd_weights(const ts_conv2d *c);
void winograd_transform(const ts_stream *s, float *u, const float *w, const ts_conv2d *c, int adjoint);

/* y (B,Yo,Xo,O) from x (B,Y,X,C), transformed weights u and b (O) or NULL. */
void winograd_run(const ts_stream *s, float *y, const float *x, const float *u, const float *b, const ts_conv2d *c, void *scratch);

/* dw (O,3,3,C) += what comes of dy (B,Yo,Xo,O) and x (B,Y,X,C). The same bits for every number of threads. */
size_t winograd_dw_scratch(const ts_stream *s, const ts_conv2d *c); /* bytes */
void winograd_dw(const ts_stream *s, float *dw, const float *dy, const float *x, const ts_conv2d *c, void *scratch);

#endif
