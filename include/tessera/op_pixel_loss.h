/* op_pixel_loss.h - L1 and L2 distance of two tensors and the gradient of their weighted sum.
 *
 * Formula   d = x - target;   sums = (sum |d|, sum d^2);   dx = (w1 sign(d) + 2 w2 d)/N,  sign(0) = 0
 *           The loss itself is w1 sums[0]/N + w2 sums[1]/N.
 * Accuracy  sums in double, in a fixed order.
 */
#ifndef TS_OP_PIXEL_LOSS_H
#define TS_OP_PIXEL_LOSS_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/*   sums (2) f32 out      dx (N) f32 out, or NULL      x, target (N) f32 in */
typedef ts_status ts_pixel_loss_fn(ts_stream *s, float *sums, float *dx, const float *x, const float *target, float w1,
                                   float w2, int64_t N);

ts_pixel_loss_fn pixel_loss_cpu, pixel_loss_cuda;

#ifdef __cplusplus
}
#endif
#endif
