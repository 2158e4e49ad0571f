/* op_digit_head.h - the digit head: p(code) = prod_i p(digit_i | u, digits before i), for FSQ codebooks too large for one
 * softmax; training loss with all gradients, in one pass.
 *
 * Letters   N rows (tokens), T tokens of a pyramid (row n is token n mod T), M hidden channels, D digits, L_i levels,
 *           K scales, sum_L = sum of L_i, off_i = sum of L_j over j < i.
 * Formula   a_i = u + b[i] + sum_{j<i} E[off_j + digit_j];     g_i = max(a_i, 0)
 *           logit_i[l] = W[off_i + l] . g_i + c[scale, off_i + l]      l in 0..L_i-1
 *           loss[n,i] = log(sum_l exp(logit_i[l])) - logit_i[digit_i]      in nats
 *           digit_i of a code: (code / basis_i) mod L_i, basis as in op_fsq.h
 * The last channel's rows of E condition nothing and are not stored: E has sum_L - L_{D-1} rows.
 */
#ifndef TS_OP_DIGIT_HEAD_H
#define TS_OP_DIGIT_HEAD_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int D, M, K, sum_L;
    int32_t level[TS_MAX_D];
    int32_t basis[TS_MAX_D];
    int32_t off[TS_MAX_D];
} ts_digit_head;

/* Fill *d. TS_E_ARG  D outside 1..TS_MAX_D, a level below 2, sum_L over TS_MAX_SUM_L, M or K below 1, or a codebook size
 * that does not fit in int32 */
ts_status ts_digit_head_init(ts_digit_head *d, const int32_t *level, int D, int M, int K);

/* Device pointers of the head's parameters, or of their gradients. */
typedef struct {
    float *b; /* (D,M)                   */
    float *E; /* (sum_L - L_{D-1}, M)    */
    float *W; /* (sum_L, M)              */
    float *c; /* (K, sum_L)              */
} ts_digit_params;

typedef size_t ts_digit_head_scratch_fn(ts_stream *s, const ts_digit_head *d, int64_t N);

/*   loss (N,D) f32 out      u (N,M) f32 in      code (N) i32 in      scale_of (T) i32 in: scale of token t, 0..K-1
 *   du (N,M) f32 set and grad->* added to, all times grad_scale; or du and grad NULL for the loss alone.
 *   The gradient of max(a, 0) is 0 at a = 0.
 *   Sums over rows have a fixed order, whatever the thread count. */
typedef ts_status ts_digit_head_fn(ts_stream *s, float *loss, float *du, const ts_digit_params *grad, const float *u,
                                   const int32_t *code, const int32_t *scale_of, const ts_digit_params *param,
                                   float grad_scale, const ts_digit_head *d, int64_t N, int64_t T, void *scratch);

ts_digit_head_scratch_fn digit_head_scratch_cpu, digit_head_scratch_cuda;
ts_digit_head_fn digit_head_cpu, digit_head_cuda;

#ifdef __cplusplus
}
#endif
#endif
