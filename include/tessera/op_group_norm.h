/* op_group_norm.h - GroupNorm, optionally followed by SiLU, channels last.
 *
 * Letters   B images, P positions (Y*X), C channels, G groups of C/G channels.
 * Formula   m, v = mean and biased variance of x over the P*C/G values of one image and group
 *           n = (x - m)/sqrt(v + eps);   u = n*gamma[c] + beta[c];   y = silu ? u*sigmoid(u) : u
 * Source    Wu & He 2018, arXiv:1803.08494; eps 1e-6 and G = 32 in the published autoencoder.
 * Accuracy  mean and variance in two passes or in double: a constant group gives n = 0, not NaN.
 */
#ifndef TS_OP_GROUP_NORM_H
#define TS_OP_GROUP_NORM_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t B, P, C, G;
    float eps;
    int silu;
    ts_dtype y_dtype; /* fwd: TS_F32, or TS_BF16: the same numbers, rounded to nearest even */
} ts_group_norm;

/*   y (B,P,C) f32 or bf16 out      mean, rstd (B,G) f32 out: kept for bwd      x (B,P,C), gamma, beta (C) f32 in */
typedef ts_status ts_group_norm_fwd_fn(ts_stream *s, void *y, float *mean, float *rstd, const float *x,
                                       const float *gamma, const float *beta, const ts_group_norm *n);

/*   dx (B,P,C) f32 set      dgamma, dbeta (C) f32 added to      dy, x (B,P,C), mean, rstd (B,G) f32 in
 *   Sums over images and positions have a fixed order: the result does not depend on the thread count. */
typedef ts_status ts_group_norm_bwd_fn(ts_stream *s, float *dx, float *dgamma, float *dbeta, const float *dy,
                                       const float *x, const float *mean, const float *rstd, const float *gamma,
                                       const float *beta, const ts_group_norm *n, void *scratch);

typedef size_t ts_group_norm_scratch_fn(ts_stream *s, const ts_group_norm *n); /* of bwd */

ts_group_norm_fwd_fn group_norm_fwd_cpu, group_norm_fwd_cuda;
ts_group_norm_bwd_fn group_norm_bwd_cpu, group_norm_bwd_cuda;
ts_group_norm_scratch_fn group_norm_scratch_cpu, group_norm_scratch_cuda;

#ifdef __cplusplus
}
#endif
#endif
