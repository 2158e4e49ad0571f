/* op_residual_vq.h - multi-scale residual VQ of the published model: the whole pyramid of a batch, and its backward.
 *
 * Letters   B images, h w latent grid, D channels, K scales, T all tokens, V codes shared by all scales.
 * Formula   r = f, f_hat = 0; for each k:  z = k < K-1 ? area(r -> p_k) : r;  index = nearest code
 *               (smallest |z|^2 - 2 z.e + |e|^2, or with znorm the largest z/|z| . e/|e|; the first of equals),
 *               computed as |e|^2/2 - z.e or -z.e/|e|, since |z| does not change the order
 *               h_k = phi_k(bicubic(e[index] -> h x w));   f_hat += h_k;   r -= h_k
 *           loss = (1/K) sum_k [ beta*mean((sg f_hat_k - f)^2) + mean((f_hat_k - sg f)^2) ]
 *           backward: f receives df_hat unchanged (straight through the whole loop) plus the beta term; codebook and
 *           phi receive the second term and nothing from df_hat; the residual is detached.
 * Source    arXiv:2404.02905; values and gradients in tests/golden/quantizer_*.safetensors.
 */
#ifndef TS_OP_RESIDUAL_VQ_H
#define TS_OP_RESIDUAL_VQ_H

#include "tessera/op_pyramid.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    ts_pyramid p;
    int D;
    int32_t V;
    int znorm;
    float beta;
} ts_residual_vq;

typedef size_t ts_residual_vq_scratch_fn(ts_stream *s, const ts_residual_vq *q, int64_t B, int backward);

/*   f_hat (B,h,w,D) f32 out      idx (B,T) i32 out      partial (K,B,h,w,D) f32 out or NULL
 *   z (B,T,D) f32 out: what was quantized, or NULL
 *   stats (K) f32 out: sum over the batch of (f_hat_k - f)^2, or NULL. Never stores the (N,V) distances.
 *   f (B,h,w,D) f32 in           codebook (V,D) f32 in. NaN in f: code 0 and a NaN sum. */
typedef ts_status ts_residual_vq_fwd_fn(ts_stream *s, float *f_hat, int32_t *idx, float *z, float *partial,
                                        float *stats, const float *f, const float *codebook, const ts_phi *phi,
                                        const ts_residual_vq *q, int64_t B, void *scratch);

/*   df (B,h,w,D) f32 set      dcodebook (V,D) f32 added to, or NULL      dphi: gradients of phi, added to
 *   df_hat (B,h,w,D) f32 in      loss_weight: factor of the loss above in the total loss */
typedef ts_status ts_residual_vq_bwd_fn(ts_stream *s, float *df, float *dcodebook, const ts_phi *dphi,
                                        const float *df_hat, float loss_weight, const float *f, const int32_t *idx,
                                        const float *codebook, const ts_phi *phi, const ts_residual_vq *q, int64_t B,
                                        void *scratch);

ts_residual_vq_scratch_fn residual_vq_scratch_cpu, residual_vq_scratch_cuda;
ts_residual_vq_fwd_fn residual_vq_fwd_cpu, residual_vq_fwd_cuda;
ts_residual_vq_bwd_fn residual_vq_bwd_cpu, residual_vq_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
