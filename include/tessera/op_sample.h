/* op_sample.h - one token from logits: guidance, temperature, top-k, top-p, one draw.
 *
 * Letters   B images, t tokens of this pass, V classes.
 * Formula   l[v] = guided ? (1 + guide) cond[v] - guide uncond[v] : cond[v];     l /= temperature
 *           top_k > 0:   drop l[v] below the top_k-th largest (ties with it stay)
 *           top_p < 1:   sort ascending, drop while the running sum of softmax(l) <= 1 - top_p; the largest always stays
 *           index = argmax over the kept v of l[v] + g[v],  g = -log(-log(U)),  U in (0,1);   lowest v of equals
 *           top_k == 1 takes the argmax of l without a draw.
 *           U of class v: Philox4x32-10, key = seed (low word, high word), counter =
 *           (stage*65536 + v/4, token, image low, image high), word v mod 4; U = ((word >> 8) + 0.5) 2^-24.
 *           stage is 0 for the joint head, 1 + i for digit i. token counts from the first token of the pyramid.
 * So the same seed gives the same picture whatever the batch size, thread count, rank or device.
 * Source    arXiv:2404.02905 (guidance, top-k, top-p); Philox: Salmon et al., SC 2011; Gumbel-max: Gumbel 1954.
 * Accuracy  log and exp from tessera/exact.h, sums in the order of v or of the sort: bit-equal on all backends.
 */
#ifndef TS_OP_SAMPLE_H
#define TS_OP_SAMPLE_H

#include "tessera/op_digit_head.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t B, t, V;
    int guided;        /* logits hold 2B rows of pictures: B conditional, then B unconditional */
    float guide;       /* cfg*k/(K-1)                                                          */
    float temperature; /* > 0                                                                  */
    int top_k;         /* 0: off                                                               */
    float top_p;       /* 1: off                                                               */
    uint64_t seed;
    uint64_t image0;   /* number of the first picture of this batch                            */
    int64_t token0;    /* number of this pass's first token in its pyramid                     */
} ts_sample;

typedef size_t ts_sample_scratch_fn(ts_stream *s, const ts_sample *a);

/*   idx (B,t) i32 out      logits (B or 2B, t, V) f32 in */
typedef ts_status ts_sample_fn(ts_stream *s, int32_t *idx, const float *logits, const ts_sample *a, void *scratch);

/* The digit head: the same for each digit in turn, given the digits drawn before; guidance mixes the digit logits.
 *   idx (B,t) i32 out: codes      u (B or 2B, t, M) f32 in      k: scale of this pass */
typedef ts_status ts_sample_digits_fn(ts_stream *s, int32_t *idx, const float *u, const ts_digit_params *param,
                                      const ts_digit_head *d, int k, const ts_sample *a, void *scratch);

ts_sample_scratch_fn sample_scratch_cpu, sample_scratch_cuda;
ts_sample_fn sample_cpu, sample_cuda;
ts_sample_digits_fn sample_digits_cpu, sample_digits_cuda;

#ifdef __cplusplus
}
#endif
#endif
