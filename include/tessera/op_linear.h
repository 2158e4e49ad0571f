/* op_linear.h - matrix product with bias.
 *
 * Letters   N rows, I inputs, O outputs.
 * Formula   y[n,o] = b[o] + sum_i x[n,i] w[o,i]                    (PyTorch's nn.Linear)
 *           dx[n,i] = sum_o dy[n,o] w[o,i];  dw[o,i] += sum_n dy[n,o] x[n,i];  db[o] += sum_n dy[n,o]
 * Accuracy  float32 accumulation. A row's result does not depend on N or on the thread count (bit for bit).
 *           With TS_MATH_BF16 x, w and dy are rounded to bfloat16 (to nearest even) before the product; biases are not.
 */
#ifndef TS_OP_LINEAR_H
#define TS_OP_LINEAR_H

#include "tessera/op_act.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t N, I, O;
    ts_math math;
    ts_dtype x_dtype; /* fwd: TS_F32; TS_BF16 (with TS_MATH_BF16) is the same product as of the same numbers in float32 */
    ts_act act;       /* fwd: y is the activation of what stands above, bit for bit as act_fwd makes it of y          */
    ts_dtype y_dtype; /* fwd, with an activation: TS_F32, or TS_BF16: the same numbers, rounded to nearest even       */
} ts_linear;

/* Bytes of scratch that fwd (backward = 0) or bwd (backward = 1) needs; 0 is possible. */
typedef size_t ts_linear_scratch_fn(ts_stream *s, const ts_linear *l, int backward);

/*   y (N,O) f32 or, with an activation, bf16 out      x (N,I) f32 or bf16, w (O,I) f32, b (O) f32 or NULL in
 * Buffers are on the backend's device, row-major, and do not overlap. N = 0 is a no-op. */
typedef ts_status ts_linear_fwd_fn(ts_stream *s, void *y, const void *x, const float *w, const float *b,
                                   const ts_linear *l, void *scratch);

/* Of the product alone: act and y_dtype are those of none.
 *   dx (N,I) f32 set, or NULL      dw (O,I) f32 added to, or NULL      db (O) f32 added to, or NULL
 *   dy (N,O), x (N,I), w (O,I) f32 in */
typedef ts_status ts_linear_bwd_fn(ts_stream *s, float *dx, float *dw, float *db, const float *dy, const float *x,
                                   const float *w, const ts_linear *l, void *scratch);

ts_linear_scratch_fn linear_scratch_cpu, linear_scratch_cuda;
ts_linear_fwd_fn linear_fwd_cpu, linear_fwd_cuda;
ts_linear_bwd_fn linear_bwd_cpu, linear_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
