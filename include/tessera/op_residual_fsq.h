/* op_residual_fsq.h - multi-scale residual FSQ: the whole pyramid of a batch in one call, and its backward.
 *
 * Letters   B images, h w latent grid, D channels, K scales, p_k side, T all tokens, L_d levels (odd).
 * Formula   half_d = (L_d - 1)/2;   s_k = exp(log_gain[k]);   f~ = pre_tanh ? tanh(f) : f;   r_{-1} = f~
 *           for k in 0..K_use-1:
 *               z = area(r_{k-1} -> p_k)  (no area where p_k is h x w);   x = z/s_k;   xc = clamp(x, -1, 1)
 *               n = rint(xc*half);   digit = n + half;   index as in op_fsq.h;   c = n/half;   q = s_k*c
 *               h_k = phi_k(bicubic(q -> h x w));   f_hat += h_k;   r_k = r_{k-1} - h_k
 *           backward, straight-through, the residual is not detached:
 *               dq/dz = |x| <= 1 ? 1 : 0;   dq/ds = |x| <= 1 ? c - x : sign(x)
 *           auxiliary loss (trains gains and phi only; z and f~ are constants in it):
 *               aux = (1/K_use) sum_k mean((f_hat_k - f~)^2) = (1/K_use) sum_k sum(r_k^2)/(B h w D)
 * Why aux   without it the straight-through gradients of all gains but the last cancel exactly.
 * Accuracy  indices are equal bit for bit on all backends: every sum has the order written in the CPU twin, no
 *           contraction, exp and tanh from tessera/exact.h.
 */
#ifndef TS_OP_RESIDUAL_FSQ_H
#define TS_OP_RESIDUAL_FSQ_H

#include "tessera/op_pyramid.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    ts_pyramid p;
    int D;
    int K_use;               /* scales in use, 1..K; fewer than K drops the last ones (scale dropout) */
    int pre_tanh;
    int32_t V;               /* product of the levels       */
    int32_t level[TS_MAX_D]; /* odd, 3 or more              */
    int32_t basis[TS_MAX_D]; /* mixed-radix weights         */
} ts_residual_fsq;

/* Fill *q; K_use = K. TS_E_ARG  D outside 1..TS_MAX_D, a level below 3 or even, V does not fit in int32 */
ts_status ts_residual_fsq_init(ts_residual_fsq *q, const ts_pyramid *p, const int32_t *level, int D, int pre_tanh);

typedef size_t ts_residual_fsq_scratch_fn(ts_stream *s, const ts_residual_fsq *q, int64_t B, int backward);

/*   f_hat (B,h,w,D) f32 out       idx (B,T) i32 out; tokens of dropped scales are set to the zero code
 *   x (B,T,D) f32 out: z/s before the clamp, for bwd; NULL if none follows
 *   partial (K,B,h,w,D) f32 out: f_hat after every scale; or NULL
 *   stats (K,2) f32 out: sum of r_k^2 over the batch, number of values with |x| > 1; or NULL
 *   Dropped scales: x and stats 0, partial a copy of f_hat. NaN in f: digit 0 and a NaN sum of r_k^2.
 *   f (B,h,w,D) f32 in            log_gain (K,D) f32 in */
typedef ts_status ts_residual_fsq_fwd_fn(ts_stream *s, float *f_hat, int32_t *idx, float *x, float *partial,
                                         float *stats, const float *f, const float *log_gain, const ts_phi *phi,
                                         const ts_residual_fsq *q, int64_t B, void *scratch);

/*   df (B,h,w,D) f32 set       dlog_gain (K,D) f32 added to       dphi: gradients of phi, added to
 *   df_hat (B,h,w,D) f32 in    aux_weight: factor of aux in the total loss, 0 for none
 *   f, x, idx as in fwd.       Sums over images have a fixed order, whatever the thread count. */
typedef ts_status ts_residual_fsq_bwd_fn(ts_stream *s, float *df, float *dlog_gain, const ts_phi *dphi,
                                         const float *df_hat, float aux_weight, const float *f, const float *x,
                                         const int32_t *idx, const float *log_gain, const ts_phi *phi,
                                         const ts_residual_fsq *q, int64_t B, void *scratch);

/*   code (B,t,D) f32 out: q = s_k*c of the tokens of scale k, t = p_k*p_k       idx (B,t) i32 in, 0..V-1 */
typedef ts_status ts_residual_fsq_lookup_fn(ts_stream *s, float *code, const int32_t *idx, const float *log_gain,
                                            const ts_residual_fsq *q, int k, int64_t B);

ts_residual_fsq_scratch_fn residual_fsq_scratch_cpu, residual_fsq_scratch_cuda;
ts_residual_fsq_fwd_fn residual_fsq_fwd_cpu, residual_fsq_fwd_cuda;
ts_residual_fsq_bwd_fn residual_fsq_bwd_cpu, residual_fsq_bwd_cuda;
ts_residual_fsq_lookup_fn residual_fsq_lookup_cpu, residual_fsq_lookup_cuda;

#ifdef __cplusplus
}
#endif
#endif
