/* resample.h - pieces of kernels/cpu/resample.c that the pyramid ops use on one image. */
#ifndef TS_CPU_RESAMPLE_H
#define TS_CPU_RESAMPLE_H

#include "tessera/op_resample.h"

/* One output row: y (to_x,D) = row i of the area average of x (from_y,from_x,D). */
void ts_area_row(float *y, const float *x, int64_t i, const ts_resample *r);

/* dx (from_y,from_x,D) += the adjoint applied to dy (to_y,to_x,D), for channels d0 to d1 - 1. */
void ts_area_scatter(float *dx, const float *dy, const ts_resample *r, int64_t d0, int64_t d1);

#endif
