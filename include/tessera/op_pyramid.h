/* op_pyramid.h - the geometry of a token pyramid, and the step that adds one scale to the sum.
 *
 * Letters   B images, K scales, h w latent grid, p_k side of scale k, T all tokens, D channels, S shared convolutions.
 * Formula   up = p_k == h,w ? code : bicubic(code -> h x w);   up = phi_k(up);   f_hat += up
 *           phi_k(u) = (1 - ratio) u + ratio (conv3x3(u, w_j) + b_j), zero padding 1, j = phi[k]
 *           next = area(f_hat -> p_{k+1}): what the generator reads for scale k+1
 *           phi[k] = the nearest of S ticks to k/(K-1) (k/1 if K = 1): ticks are linspace(1/(3S), 1-1/(3S), S) if S = 4,
 *           else linspace(1/(2S), 1-1/(2S), S); the first minimum wins.
 * Source    arXiv:2404.02905, algorithms 1 and 2.
 */
#ifndef TS_OP_PYRAMID_H
#define TS_OP_PYRAMID_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Plain data: copy it freely, nothing to free. */
typedef struct {
    int K, S;                         /* scales; shared convolutions (0: no phi at all, phi is the identity)  */
    int h, w;                         /* latent grid = the last scale                                         */
    int T;                            /* tokens of all scales                                                 */
    int32_t py[TS_MAX_SCALES];        /* rows of tokens of scale k                                            */
    int32_t px[TS_MAX_SCALES];        /* columns                                                              */
    int32_t start[TS_MAX_SCALES + 1]; /* first token of scale k; start[K] = T                                 */
    int32_t phi[TS_MAX_SCALES];       /* which convolution scale k uses, 0..S-1                               */
    float ratio;                      /* 0.5                                                                  */
} ts_pyramid;

/* Device pointers of the S convolutions: w[j] (D,3,3,D) as (out,ky,kx,in), b[j] (D). */
typedef struct {
    float *w[TS_MAX_SCALES];
    float *b[TS_MAX_SCALES];
} ts_phi;

/* Fill *p from the sides of the scales, square, ascending.
 * share_quant_resi: 4 or any S > 0 convolutions shared by the scales; 1 one for all; 0 one per scale (S = K);
 * -1 none. TS_E_ARG  K outside 1..TS_MAX_SCALES, sides not strictly ascending or below 1 */
ts_status ts_pyramid_init(ts_pyramid *p, const int32_t *side, int K, int share_quant_resi, float ratio);

typedef size_t ts_pyramid_scratch_fn(ts_stream *s, const ts_pyramid *p, int D, int64_t B);

/*   f_hat (B,h,w,D) f32 in and out      next (B,p_{k+1},p_{k+1},D) f32 out, or NULL; must be NULL for k = K-1
 *   code (B,p_k,p_k,D) f32 in */
typedef ts_status ts_pyramid_add_fn(ts_stream *s, float *f_hat, float *next, const float *code, const ts_phi *phi,
                                    const ts_pyramid *p, int D, int k, int64_t B, void *scratch);

ts_pyramid_scratch_fn pyramid_scratch_cpu, pyramid_scratch_cuda;
ts_pyramid_add_fn pyramid_add_cpu, pyramid_add_cuda;

#ifdef __cplusplus
}
#endif
#endif
