/* op_sample.h - one token from logits: guidance, temperature, top-k, top-p, one draw.
 *
 * Letters   B images, t tokens of this pass, V classes.
 * Formula   l[v] = guided ? (1 + guide) cond[v] - guide uncond[v] : cond[v];     l /= temperature
 *           a class with cond[v] = -inf has l[v] = -inf and is never drawn
 *           top_k > 0:   drop l[v] below the top_k-th largest (ties with it stay)
 *           top_p < 1:   sort ascending by (l, v), drop while the running sum of softmax(l) over the kept <= 1 - top_p;
 *                        the last always stays
 *           index = argmax over the kept v of l[v] + g[v],  g = -log(-log(U)),  U in (0,1);   lowest v of equals
 *           top_k == 1 takes the argmax of l (lowest v of equals) without a draw.
 *           U of class v: Philox4x32-10, key = seed (low word, high word), counter =
 *           (stage*65536 + v/4, token, image low, image high), word v mod 4; U = ((word >> 9) + 0.5) 2^-23, exact in
 *           float32 (with one bit more the largest U would round to 1, and its g to infinity).
 *           stage is 0 for the joint head, 1 + i for digit i. token counts from the first token of the pyramid.
 * Smooth    not one row of a codebook, but the mean of all its rows under the same draws, by a sharp softmax:
 *           y[v] = (sharpen l[v] + g[v])/tau over the kept v;     e[v] = exp(y[v] - max y)
 *           code = sum_v e[v] E[v] / sum_v e[v]
 *           top_k == 1 takes the row of the argmax of l. As tau goes to 0, sharpen 1 gives the row that is drawn.
 * So the same seed gives the same picture whatever the batch size, thread count, rank or device.
 * Source    arXiv:2404.02905 (guidance, top-k, top-p; smooth is more_smooth of its implementation); Philox: Salmon et
 *           al., SC 2011 (tessera/philox.h); Gumbel-max: Gumbel 1954.
 * Accuracy  bit-equal on all backends: l is computed in float32 as written, no product contracted with a sum, with
 *           log and exp from tessera/exact.h. Sums of softmax are integers, whose order does not matter:
 *           e[v] = floor(exp(l[v] - max) 2^40), dropped while sum e <= min(floor((1 - top_p) Z), Z - 1), Z the sum over
 *           all kept before top-p, and (1 - top_p) Z in float64. A digit's logits are
 *           a = u + E_0 + E_1 + ... + b_i in this order; lane m mod 32 sums fmaf(W, max(a, 0)) over m upwards, from 0;
 *           lane j += lane j + 16, then 8, 4, 2, 1; lane 0 + c.
 *           Smooth: y as written; a sum over v is 8 partial ones, of v mod 8, each over v upwards where e > 0, from 0,
 *           by fmaf(e, E, sum), or of e alone; then partial 0 + 1 + ... + 7 in this order; one division.
 * Errors    TS_E_ARG   an option out of its range, V over 4*65536 (the counter's room) or below 1, or k outside 0..K-1
 *           TS_E_DATA  a row of logits holds NaN or +inf, or nothing above -inf: its idx is 0 (CUDA: reported by the
 *                      next stream_sync); smooth: also where y is not finite; its code is 0
 */
#ifndef TS_OP_SAMPLE_H
#define TS_OP_SAMPLE_H

#include <math.h>

#include "tessera/op_digit_head.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t B, t, V;
    int guided;        /* logits hold 2B rows of pictures: B conditional, then B unconditional */
    float guide;       /* cfg*k/(K-1)                                                          */
    float temperature; /* > 0                                                                  */
    int top_k;         /* 0: off; V and more: off too                                          */
    float top_p;       /* > 0; 1: off                                                          */
    uint64_t seed;
    uint64_t image0;   /* number of the first picture of this batch                            */
    int64_t token0;    /* number of this pass's first token in its pyramid                     */
    const uint64_t *source; /* device memory: seed and image0 are read there when the draw is made, the two above are
                             * not; NULL: the two above                                                          */
} ts_sample;

enum { TS_SAMPLE_MAX_V = 4 * 65536 }; /* classes: what the counter has room for */

/* The options, the same for every backend: TS_E_ARG names the first that is out of its range. */
static inline ts_status ts_sample_check(const ts_sample *a)
{
    if (a->B < 0 || a->t < 0)
        return ts_fail(TS_E_ARG, "sample: %lld images of %lld tokens", (long long)a->B, (long long)a->t);
    if (a->token0 < 0 || a->token0 + a->t > (int64_t)UINT32_MAX + 1)
        return ts_fail(TS_E_ARG, "sample: first token %lld, expected 0..2^32-1", (long long)a->token0);
    if (a->guided && !isfinite(a->guide))
        return ts_fail(TS_E_ARG, "sample: guidance %g, expected a finite number", (double)a->guide);
    if (!(a->temperature > 0 && isfinite(a->temperature)))
        return ts_fail(TS_E_ARG, "sample: temperature %g, expected a number above 0", (double)a->temperature);
    if (a->top_k < 0) return ts_fail(TS_E_ARG, "sample: top-k %d, expected 0 (off) or more", a->top_k);
    if (!(a->top_p > 0 && a->top_p <= 1))
        return ts_fail(TS_E_ARG, "sample: top-p %g, expected above 0, up to 1", (double)a->top_p);
    return TS_OK;
}

/* V, which the digit head does not read. */
static inline ts_status ts_sample_check_classes(const ts_sample *a)
{
    if (a->V >= 1 && a->V <= TS_SAMPLE_MAX_V) return TS_OK;
    return ts_fail(TS_E_ARG, "sample: %lld classes, expected 1..%d", (long long)a->V, (int)TS_SAMPLE_MAX_V);
}

typedef size_t ts_sample_scratch_fn(ts_stream *s, const ts_sample *a);

/*   idx (B,t) i32 out      logits (B or 2B, t, V) f32 in */
typedef ts_status ts_sample_fn(ts_stream *s, int32_t *idx, const float *logits, const ts_sample *a, void *scratch);

/* The digit head: the same for each digit in turn, given the digits drawn before; guidance mixes the digit logits.
 *   idx (B,t) i32 out: codes      u (B or 2B, t, M) f32 in      k: scale of this pass      a->V is not read; scratch is
 *   that of sample and may be NULL on the CPU */
typedef ts_status ts_sample_digits_fn(ts_stream *s, int32_t *idx, const float *u, const ts_digit_params *param,
                                      const ts_digit_head *d, int k, const ts_sample *a, void *scratch);

typedef struct {
    int64_t D;     /* channels of the codebook                     */
    float sharpen; /* > 0; published: 1 + k/(K-1)                  */
    float tau;     /* > 0; max(0.27 (1 - 0.95 k/(K-1)), 0.005)     */
} ts_smooth;

static inline ts_status ts_smooth_check(const ts_smooth *m)
{
    if (m->D < 1) return ts_fail(TS_E_ARG, "sample: a codebook of %lld channels", (long long)m->D);
    if (!(m->sharpen > 0 && isfinite(m->sharpen)))
        return ts_fail(TS_E_ARG, "sample: logits times %g, expected a number above 0", (double)m->sharpen);
    if (!(m->tau > 0 && isfinite(m->tau)))
        return ts_fail(TS_E_ARG, "sample: tau %g, expected a number above 0", (double)m->tau);
    return TS_OK;
}

/* Smooth, with the scratch of sample.
 *   code (B,t,D) f32 out      logits (B or 2B, t, V) f32 in      codebook (V,D) f32 in */
typedef ts_status ts_sample_smooth_fn(ts_stream *s, float *code, const float *logits, const float *codebook,
                                      const ts_sample *a, const ts_smooth *m, void *scratch);

ts_sample_scratch_fn sample_scratch_cpu, sample_scratch_cuda;
ts_sample_fn sample_cpu, sample_cuda;
ts_sample_digits_fn sample_digits_cpu, sample_digits_cuda;
ts_sample_smooth_fn sample_smooth_cpu, sample_smooth_cuda;

#ifdef __cplusplus
}
#endif
#endif
