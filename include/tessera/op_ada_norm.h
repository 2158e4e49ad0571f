/* op_ada_norm.h - residual, gate, LayerNorm without affine and modulation in one pass (AdaLN).
 *
 * Letters   B images, T tokens, C channels. gate, scale, shift are one row per image.
 * Formula   r = x + gate*h          (h NULL: r = x, and r is not written)
 *           n = (r - mean)/sqrt(var + eps), over the C values of one token, biased variance
 *           y = n*(1 + scale) + shift
 * Source    arXiv:2404.02905 (blocks of VAR), DiT arXiv:2212.09748. The residual of one sub-layer is fused with the
 *           norm of the next, so a chain of these ops is the whole residual stream of the transformer.
 */
#ifndef TS_OP_ADA_NORM_H
#define TS_OP_ADA_NORM_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t B, T, C;
    int64_t gate_stride, scale_stride, shift_stride; /* floats between the rows of two images: C, or 6C in a chunk */
    float eps;
    ts_dtype y_dtype; /* fwd: TS_F32, or TS_BF16: the same numbers, rounded to nearest even */
} ts_ada_norm;

/*   r (B,T,C) f32 out, may be x itself; not used when h is NULL      y (B,T,C) f32 or bf16 out
 *   mean, rstd (B,T) f32 out, or both NULL when no backward follows
 *   x, h (B,T,C) f32 in      gate, scale, shift (B, C at their strides) f32 in; gate NULL means 1 */
typedef ts_status ts_ada_norm_fwd_fn(ts_stream *s, float *r, void *y, float *mean, float *rstd, const float *x,
                                     const float *h, const float *gate, const float *scale, const float *shift,
                                     const ts_ada_norm *n);

/*   dx (B,T,C) f32 set; may be dr itself      dh (B,T,C) f32 set, NULL if h is NULL
 *   dgate (if gate), dscale, dshift (B, C at the strides of gate, scale, shift) f32 added to
 *   dy (B,T,C) in      dr (B,T,C) in: gradient that reaches r by the residual path, NULL for zero
 *   r (B,T,C): the sum, x itself where h was NULL      mean, rstd as fwd left them */
typedef ts_status ts_ada_norm_bwd_fn(ts_stream *s, float *dx, float *dh, float *dgate, float *dscale, float *dshift,
                                     const float *dy, const float *dr, const float *r, const float *mean,
                                     const float *rstd, const float *h, const float *gate, const float *scale,
                                     const ts_ada_norm *n);

ts_ada_norm_fwd_fn ada_norm_fwd_cpu, ada_norm_fwd_cuda;
ts_ada_norm_bwd_fn ada_norm_bwd_cpu, ada_norm_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
