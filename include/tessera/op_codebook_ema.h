/* op_codebook_ema.h - a codebook as moving averages of the vectors that its codes were chosen for: no gradient.
 *
 * Letters   N vectors of a batch, D channels, V codes.
 * Formula   n_i = number of t with idx_t = i,  s_i = sum of their z_t         (in double, ascending t)
 *           N_i = d N_i + (1-d) n_i;   m_i = d m_i + (1-d) s_i
 *           e_i = m_i / N'_i,   N'_i = (N_i + eps)/(M + V eps) M,   M = sum_j N_j        (stays where N'_i is 0)
 * Restart   where N_i < restart_below (a code that is hardly ever chosen): t is drawn by Philox from seed, step and i
 *           among 0..N-1;   e_i = z_t,   N_i = max(restart_below, M/V),   m_i = N_i z_t
 * Source    arXiv:1711.00937, appendix A.1; the smoothing is that of sonnet's VectorQuantizerEMA; restarts are those of
 *           arXiv:2005.00341, section 3, with the average started anew.
 */
#ifndef TS_OP_CODEBOOK_EMA_H
#define TS_OP_CODEBOOK_EMA_H

#include "tessera/philox.h"
#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    float decay;         /* d, 0 <= d < 1      */
    float eps;           /* of the smoothing   */
    float restart_below; /* 0: no restarts     */
    uint64_t seed;
    int64_t step;
} ts_codebook_ema;

enum { TS_DRAW_RESTART = 32 }; /* first counter word of the draws */

/* The vector that code i starts anew from, 0..N-1; N >= 1. */
static inline TS_HD int64_t ts_codebook_draw(const ts_codebook_ema *a, int64_t i, int64_t N)
{
    const uint64_t step = (uint64_t)a->step;
    const ts_philox x = ts_philox_block(a->seed, TS_DRAW_RESTART, (uint32_t)i, (uint32_t)step, (uint32_t)(step >> 32));
    return (int64_t)(((uint64_t)x.word[0] * (uint64_t)N) >> 32);
}

typedef size_t ts_codebook_ema_scratch_fn(ts_stream *s, int64_t N, int64_t V);

/*   codebook (V,D), count (V), sum (V,D) f32 in and out
 *   z (N,D) f32 in      idx (N) i32 in, each 0..V-1 (checked by the caller, not here)
 *   N below 2^31. The same bits for any number of threads. */
typedef ts_status ts_codebook_ema_fn(ts_stream *s, float *codebook, float *count, float *sum, const float *z,
                                     const int32_t *idx, const ts_codebook_ema *a, int64_t N, int64_t D, int64_t V,
                                     void *scratch);

ts_codebook_ema_scratch_fn codebook_ema_scratch_cpu, codebook_ema_scratch_cuda;
ts_codebook_ema_fn codebook_ema_cpu, codebook_ema_cuda;

#ifdef __cplusplus
}
#endif
#endif
