/* op_attention.h - multi-head softmax attention, with a segment mask for training or a key/value cache for decoding.
 *
 * Letters   B images, T tokens, H heads, c width of a head; C = H*c.
 * Formula   q, k, v = the three thirds of qkv, per head
 *           if scale_mul:  q = q/max(|q|, 1e-12) * exp(min(scale_mul[h], log 100));  k = k/max(|k|, 1e-12)
 *           a[t,u] = scale * q[t].k[u]   for u < end[t], else minus infinity;   out[t] = sum_u softmax_u(a[t,u]) v[u]
 *           end[t] is the end of the segment of t: a token sees its own segment and all earlier ones. NULL: sees all.
 * Source    arXiv:2404.02905 (attn_l2_norm); online softmax arXiv:1805.02867.
 * Accuracy  float32 throughout, but for what dtype says; with TS_MATH_BF16 a backend may round q, k, v, dout, the softmax's
 *           exponentials and the gradients of scores to bfloat16 before products, whose sums are float32. CUDA does, where a head
 *           fits into shared memory. The CPU rounds q, times its factors, and the exponentials (k and v are then rounded anyway)
 *           where dtype is TS_BF16, lse is NULL, c is a multiple of 32 and the machine has tile registers (AMX); else nothing.
 *           An image's result does not depend on B or on the thread count (bit for bit); the cached form gives the same numbers
 *           as the masked form up to rounding.
 */
#ifndef TS_OP_ATTENTION_H
#define TS_OP_ATTENTION_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t B, T, H, c;
    float scale;
    int64_t pos;   /* cached form: tokens already in the cache                          */
    int64_t T_max; /* cached form: tokens that the cache has room for, pos + T <= T_max */
    ts_math math;  /* of forward and backward, the same in both                         */
    ts_dtype dtype; /* without bwd: TS_F32, or TS_BF16: keys (normalised) and values are rounded to nearest even, the cache holds them
                     * so, and out is rounded, too. Sums are float32. */
} ts_attention;

typedef size_t ts_attention_scratch_fn(ts_stream *s, const ts_attention *a, int backward);

/*   out (B,T,C) f32 or bf16 out      lse (B,H,T) f32 out: log of the sum of exponentials, for bwd; NULL if none follows
 *   qkv (B,T,3,H,c) f32 in   scale_mul (H) f32 in, or NULL      end (T) i32 in, 1..T, or NULL */
typedef ts_status ts_attention_fwd_fn(ts_stream *s, void *out, float *lse, const float *qkv, const float *scale_mul,
                                      const int32_t *end, const ts_attention *a, void *scratch);

/*   dqkv (B,T,3,H,c) f32 set      dscale_mul (H) f32 added to, NULL if scale_mul is NULL
 *   dout, out (B,T,C), lse (B,H,T), qkv f32 in */
typedef ts_status ts_attention_bwd_fn(ts_stream *s, float *dqkv, float *dscale_mul, const float *dout,
                                      const float *out, const float *lse, const float *qkv, const float *scale_mul,
                                      const int32_t *end, const ts_attention *a, void *scratch);

/* Appends the keys (normalised, where scale_mul is given) and values of T new tokens to the cache at pos, then lets
 * every new token see all pos + T of them. qkv (B,T,3,H,c); cache_k, cache_v (B,T_max,H,c) f32 or bf16 in and out. */
typedef ts_status ts_attention_cached_fn(ts_stream *s, void *out, void *cache_k, void *cache_v, const float *qkv,
                                         const float *scale_mul, const ts_attention *a, void *scratch);

ts_attention_scratch_fn attention_scratch_cpu, attention_scratch_cuda;
ts_attention_fwd_fn attention_fwd_cpu, attention_fwd_cuda;
ts_attention_bwd_fn attention_bwd_cpu, attention_bwd_cuda;
ts_attention_cached_fn attention_cached_cpu, attention_cached_cuda;

#ifdef __cplusplus
}
#endif
#endif
