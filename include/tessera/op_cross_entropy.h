/* op_cross_entropy.h - softmax cross-entropy, loss and gradient in one pass, no probabilities stored.
 *
 * Letters   N rows, V classes.
 * Formula   loss[n] = log(sum_v exp(logits[n,v])) - logits[n,target[n]]             in nats
 *           dlogits[n,v] = grad_scale (exp(logits[n,v] - lse[n]) - (v == target[n]))
 */
#ifndef TS_OP_CROSS_ENTROPY_H
#define TS_OP_CROSS_ENTROPY_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/*   loss (N) f32 out      dlogits (N,V) f32 out, may be logits itself, or NULL
 *   logits (N,V) f32 in, target (N) i32 in, 0..V-1 */
typedef ts_status ts_cross_entropy_fn(ts_stream *s, float *loss, float *dlogits, const float *logits,
                                      const int32_t *target, float grad_scale, int64_t N, int64_t V);

ts_cross_entropy_fn cross_entropy_cpu, cross_entropy_cuda;

#ifdef __cplusplus
}
#endif
#endif
