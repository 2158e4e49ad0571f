/* op_fsq.h - Finite Scalar Quantization: bound, round, index, and the straight-through gradient.
 *
 * Letters   N tokens, D channels, L levels of a channel.
 * Formula   TS_FSQ_TANH     half = (L-1)(1+eps)/2, eps = 1e-3;  offset = L even ? 1/2 : 0;  shift = atanh(offset/half)
 *                           b = half*tanh(z + shift) - offset;  q = rint(b) (ties to even);  digit = q + floor(L/2)
 *                           dvalue/dz = half (1 - tanh^2(z + shift)) / floor(L/2)
 *           TS_FSQ_SIGMOID  digit = rint((L-1) sigmoid(z));  q = digit - floor(L/2) for the index arithmetic;
 *                           dvalue/dz = (L-1) sigmoid(z) (1 - sigmoid(z)) / floor(L/2)
 *           TS_FSQ_IFSQ     odd L only: b = (L-1)/2 (2 sigmoid(1.6 z) - 1);  q = rint(b);  digit = q + floor(L/2);
 *                           dvalue/dz = 1.6 (L-1) p (1 - p) / floor(L/2), p = sigmoid(1.6 z)
 *           q is kept in -floor(L/2) .. L-1-floor(L/2) (above 1001 levels the eps of tanh reaches further)
 *           value = q / floor(L/2);   index = sum_d digit_d * basis_d, basis_0 = 1, basis_{d+1} = basis_d L_d
 * Source    Mentzer et al. 2023, arXiv:2309.15505. TS_FSQ_TANH is the form of vector-quantize-pytorch and Cosmos: the
 *           authors' own listing has (1 - eps) and tan, and weights trained with one are not exact under the other.
 * Accuracy  idx equals the exact formula except where b lies within TS_FSQ_TIE of a rounding tie. All backends use the
 *           functions of tessera/exact.h and give the same idx and value, bit for bit.
 */
#ifndef TS_OP_FSQ_H
#define TS_OP_FSQ_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TS_FSQ_TIE 1e-5 /* in units of one level, up to 64 levels; more resolve less in float32 */

typedef enum { TS_FSQ_TANH, TS_FSQ_SIGMOID, TS_FSQ_IFSQ } ts_fsq_bound;

/* Constants of one quantizer, filled once in double and copied by value. Nothing to free. */
typedef struct {
    int D;
    ts_fsq_bound bound;
    int32_t V;               /* codebook size, the product of the levels */
    int32_t level[TS_MAX_D]; /* L_d                                      */
    int32_t basis[TS_MAX_D]; /* mixed-radix weights                      */
    float half[TS_MAX_D];    /* in levels                                */
    float offset[TS_MAX_D];  /* in levels                                */
    float shift[TS_MAX_D];   /* atanh(offset/half), in units of z        */
} ts_fsq;

/* Fill *q from level[D].
 * TS_E_ARG  D outside 1..TS_MAX_D, a level below 2 (TANH, SIGMOID) or below 3 (IFSQ), an even level for IFSQ, or a
 *           codebook size that does not fit in int32 */
ts_status ts_fsq_init(ts_fsq *q, ts_fsq_bound bound, const int32_t *level, int D);

/*   value (N,D) f32 out      idx (N) i32 out      z (N,D) f32 in, not NaN (infinities are fine) */
typedef ts_status ts_fsq_fwd_fn(ts_stream *s, float *value, int32_t *idx, const float *z, const ts_fsq *q, int64_t N);
/*   dz (N,D) f32 set      dvalue (N,D), z (N,D) f32 in */
typedef ts_status ts_fsq_bwd_fn(ts_stream *s, float *dz, const float *dvalue, const float *z, const ts_fsq *q,
                                int64_t N);
/*   value (N,D) f32 out, bit-equal to what fwd gave with this index      idx (N) i32 in, 0..V-1 */
typedef ts_status ts_fsq_decode_fn(ts_stream *s, float *value, const int32_t *idx, const ts_fsq *q, int64_t N);

ts_fsq_fwd_fn fsq_fwd_cpu, fsq_fwd_cuda;
ts_fsq_bwd_fn fsq_bwd_cpu, fsq_bwd_cuda;
ts_fsq_decode_fn fsq_decode_cpu, fsq_decode_cuda;

#ifdef __cplusplus
}
#endif
#endif
