/* op_step.h - single steps of formulas, each one pass over memory: what `tessera bench kernels` compares fused kernels with. No model
 * uses them.
 *
 * Letters   map: N numbers; b has A rows of C numbers, each for R*C of the N.    rows: N rows of V numbers.
 * Formula   ADD, SUB, MUL, DIV, MIN  y[n] = a[n] op b[n/(R*C)*C + n mod C]
 *           TANH, RINT, RELU, EXP  y[n] = f(a[n]), ties to even; max(a[n], 0)
 *           NORMALISE  y = (a - mean)/sqrt(var + 1e-6) of its row, biased variance
 *           SOFTMAX    y = exp(a - max)/sum of its row
 *           LENGTH     y[n] = max(|a[n]|, 1e-12), the norm of its row
 *           LOSS       y[n] = -log(a[n,which[n]])
 *           ONE_HOT    y = a - (v == which[n])
 *           SUM        y[n] = sum_v a[n,v], as i32
 *           TOP_K      y = a, -inf below the top_k-th largest of its row
 *           TOP_P      y = a, -inf where softmax(a) summed over all up to and with a is at most 1 - top_p
 *           ARGMAX     y[n] = the first v where a[n,v] is largest, as i32; a NaN is not looked at, a row of them gives 0
 *           NOISE      y = a + g[v] as in op_sample.h, of stage which[n]; 0 where `which` is NULL
 *           DRAW       y[n] = argmax_v a[n,v] + g[v], the same, as i32
 */
#ifndef TS_OP_STEP_H
#define TS_OP_STEP_H

#include "tessera/op_sample.h"
#include "tessera/philox.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { TS_STEP_ADD, TS_STEP_SUB, TS_STEP_MUL, TS_STEP_DIV, TS_STEP_MIN, TS_STEP_TANH, TS_STEP_RINT, TS_STEP_RELU,
               TS_STEP_EXP } ts_step_map;
typedef enum {
    TS_STEP_NORMALISE, TS_STEP_SOFTMAX, TS_STEP_LENGTH, TS_STEP_LOSS, TS_STEP_ONE_HOT, TS_STEP_SUM, TS_STEP_TOP_K, TS_STEP_TOP_P,
    TS_STEP_ARGMAX, TS_STEP_NOISE, TS_STEP_DRAW
} ts_step_rows;

/*   y (N) f32 out, may be a      a (N) f32 in      b f32 in, NULL for functions of a alone */
typedef ts_status ts_step_map_fn(ts_stream *s, float *y, const float *a, const float *b, ts_step_map f, int64_t N, int64_t R,
                                 int64_t C);
/*   y (N,V) f32, or (N) f32 or i32, out; not a      a (N,V) f32 in      which (N) i32 in: LOSS, ONE_HOT, NOISE and DRAW
 *   how: TOP_K, TOP_P, NOISE and DRAW; else NULL. Row n is token token0 + n mod t of image image0 + n/t. */
typedef ts_status ts_step_rows_fn(ts_stream *s, void *y, const float *a, const int32_t *which, ts_step_rows f,
                                  const ts_sample *how, int64_t N, int64_t V);

/* The noise of class v in row n, in stage which[n]. */
static inline TS_HD float ts_step_noise(const ts_sample *how, const int32_t *which, int64_t n, int64_t v)
{
    const uint64_t image = how->image0 + (uint64_t)(n / how->t);
    const uint32_t stage = which ? (uint32_t)which[n] : 0;
    const ts_philox x = ts_philox_block(how->seed, stage * 65536 + (uint32_t)(v / 4), (uint32_t)(how->token0 + n % how->t), (uint32_t)image,
                                        (uint32_t)(image >> 32));
    return -ts_logf(-ts_logf(ts_philox_unit(x.word[v % 4])));
}

/* Whole numbers in the order of the floats. */
static inline TS_HD uint32_t ts_step_order(float x)
{
    const uint32_t u = ts_bits_of(x);
    return u >> 31 ? ~u : u | 0x80000000u;
}

ts_step_map_fn step_map_cpu, step_map_cuda;
ts_step_rows_fn step_rows_cpu, step_rows_cuda;

#ifdef __cplusplus
}
#endif
#endif
