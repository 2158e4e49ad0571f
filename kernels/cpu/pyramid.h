/* pyramid.h - one scale of one image: what pyramid_add, residual_fsq and residual_vq share on the CPU.
 *
 * Grids are channels last. "padded" grids are (h+2,w+2,D) with a ring of zeros: a convolution then has no border.
 * "Packed" phi: for each of the S convolutions weights (3,3,in,lanes), then biases (lanes), where lanes is D rounded up
 * to whole vectors of output channels and the surplus is zero. Sizes are in floats. */
#ifndef TS_CPU_PYRAMID_H
#define TS_CPU_PYRAMID_H

#include "tessera/op_pyramid.h"

enum { TS_LANES = 16 };

static inline int64_t ts_lanes(int D)
{
    return (D + TS_LANES - 1) / TS_LANES * TS_LANES;
}

static inline int64_t ts_grid_floats(const ts_pyramid *p, int D)
{
    return (int64_t)p->h * p->w * D;
}

static inline int64_t ts_padded_floats(const ts_pyramid *p, int D)
{
    return (int64_t)(p->h + 2) * (p->w + 2) * D;
}

/* One packed convolution; its biases start at 9*D*lanes. */
static inline int64_t ts_pack_floats(int D)
{
    return (9 * (int64_t)D + 1) * ts_lanes(D);
}

/* pack (S packed convolutions): as they are, or transposed (from the gradient of the output to that of the input:
 * kernels flipped, input and output swapped, no bias). phi is not read if S = 0. */
void ts_phi_pack(float *pack, const ts_phi *phi, const ts_pyramid *p, int D);
void ts_phi_pack_transposed(float *pack, const ts_phi *phi, const ts_pyramid *p, int D);

/* z (p_k,p_k,D) = area(r (h,w,D)), a copy for the last scale; and its adjoint: dr += area^T(dz). */
void ts_scale_area(float *z, const float *r, const ts_pyramid *p, int D, int k);
void ts_scale_area_adjoint(float *dr, const float *dz, const ts_pyramid *p, int D, int k);

/* u (padded out; its ring is zeros already) = bicubic(code); up (h,w,D) = phi_k(u).      tmp: one grid */
void ts_scale_up(float *up, float *u, const float *code, const float *pack, const ts_pyramid *p, int D, int k,
                 float *tmp);

/* dcode (p_k,p_k,D) = the adjoint of ts_scale_up applied to dup (h,w,D).
 * pack: transposed      pad: padded, its ring zeros      tmp: two grids */
void ts_scale_up_adjoint(float *dcode, const float *dup, const float *pack, const ts_pyramid *p, int D, int k,
                         float *pad, float *tmp);

/* The packed gradient of phi_k of one image, added to dpack (S packed convolutions).
 * u: from ts_scale_up      dup (h,w,D)      tmp: h*w*lanes */
void ts_phi_gradient(float *dpack, const float *u, const float *dup, const ts_pyramid *p, int D, int k, float *tmp);

/* dphi += the sum over n packed gradients, in ascending order; they lie `stride` floats apart. */
void ts_phi_gradient_sum(ts_stream *s, const ts_phi *dphi, const float *dpack, int64_t n, int64_t stride,
                         const ts_pyramid *p, int D);

#endif
