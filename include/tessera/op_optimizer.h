/* op_optimizer.h - gradient norm, and AdamW with clipping and EMA over all parameters in one call.
 *
 * All parameters lie in one buffer of N floats, those with weight decay first (N_decay of them); gradients, moments and
 * the moving average have the same layout.
 * Formula   norm = sqrt(sum g^2)                                     (in double, fixed order)
 *           if norm is not finite nothing is changed; else
 *           g' = g * min(1, max_norm/(norm + 1e-6))                  (max_norm 0: no clipping)
 *           m = beta1 m + (1-beta1) g';  v = beta2 v + (1-beta2) g'^2
 *           p -= lr * wd * p   (first N_decay only);   p -= lr * (m/bias1) / (sqrt(v/bias2) + eps)
 *           ema = ema_decay ema + (1 - ema_decay) p
 *           bias1 = 1 - beta1^step, bias2 = 1 - beta2^step, step from 1
 * Source    AdamW arXiv:1711.05101, as torch.optim.AdamW.
 */
#ifndef TS_OP_OPTIMIZER_H
#define TS_OP_OPTIMIZER_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    float lr, beta1, beta2, eps, weight_decay;
    float max_norm;
    float ema_decay;
    int64_t step; /* of this update, from 1 */
} ts_adamw;

/*   norm (1) f32 out      g (N) f32 in */
typedef ts_status ts_grad_norm_fn(ts_stream *s, float *norm, const float *g, int64_t N);

/*   p, m, v, ema (N) f32 in and out; ema may be NULL      g (N), norm (1) f32 in, on the device: no synchronisation */
typedef ts_status ts_adamw_fn(ts_stream *s, float *p, float *m, float *v, float *ema, const float *g,
                              const float *norm, const ts_adamw *a, int64_t N_decay, int64_t N);

ts_grad_norm_fn grad_norm_cpu, grad_norm_cuda;
ts_adamw_fn adamw_cpu, adamw_cuda;

#ifdef __cplusplus
}
#endif
#endif
