/* act.h - activations with a bias, for products (kernels/cuda/linear.cu). */
#ifndef TS_CUDA_ACT_H
#define TS_CUDA_ACT_H

#include "tessera/op_act.h"

/* y (rows,O) of y_dtype = act(x (rows,O) + b (O)). */
ts_status ts_bias_act(ts_stream *s, void *y, const float *x, const float *b, ts_act act, int64_t rows, int64_t O, ts_dtype y_dtype);

#endif
