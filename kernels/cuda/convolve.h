/* convolve.h - convolutions by cuDNN, where it is there and takes the shape: the first choice of conv2d.cu. Builds
 * without cuDNN (CUDNN=0) have convolve_none.cu, which takes none. */
#ifndef TS_CUDA_CONVOLVE_H
#define TS_CUDA_CONVOLVE_H

#include "tessera/op_conv2d.h"

/* Bytes of scratch of what follows, 0 where cuDNN takes nothing of it. */
size_t ts_convolve_scratch(ts_stream *s, const ts_conv2d *c, int backward);

/* The parts of op_conv2d.h: y; dx; dw (added to). *done says whether it was done; where cuDNN does not take the shape
 * it was not, and nothing has changed but y. */
ts_status ts_convolve_fwd(ts_stream *s, bool *done, float *y, const void *x, const float *w, const float *b,
                          const ts_conv2d *c, void *scratch);
ts_status ts_convolve_dx(ts_stream *s, bool *done, float *dx, const float *dy, const float *w, const ts_conv2d *c,
                         void *scratch);
ts_status ts_convolve_dw(ts_stream *s, bool *done, float *dw, const float *dy, const float *x, const ts_conv2d *c,
                         void *scratch);

/* What the stream keeps: handle, descriptors, choices. */
void ts_convolve_close(ts_stream *s);

#endif
