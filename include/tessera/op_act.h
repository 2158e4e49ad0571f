/* op_act.h - element-wise activations.
 *
 * Formula   TS_SILU       y = x sigmoid(x)
 *           TS_GELU_TANH  y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
 */
#ifndef TS_OP_ACT_H
#define TS_OP_ACT_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { TS_NO_ACT, TS_SILU, TS_GELU_TANH } ts_act; /* TS_NO_ACT is for products (op_linear.h), not for these functions */

/*   y (N) f32 out, may be x itself; or bf16, the same numbers rounded to nearest even      x (N) f32 in */
typedef ts_status ts_act_fwd_fn(ts_stream *s, void *y, const float *x, ts_act act, int64_t N, ts_dtype y_dtype);

/*   dx (N) f32 set, may be dy itself      dy, x (N) f32 in */
typedef ts_status ts_act_bwd_fn(ts_stream *s, float *dx, const float *dy, const float *x, ts_act act, int64_t N);

ts_act_fwd_fn act_fwd_cpu, act_fwd_cuda;
ts_act_bwd_fn act_bwd_cpu, act_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
