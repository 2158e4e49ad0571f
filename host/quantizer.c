/* quantizer.c - the constants of a quantizer, filled once on the host. Contracts: tessera/op_fsq.h, op_pyramid.h,
 * op_residual_fsq.h. */
#include <math.h>

#include "tessera/op_fsq.h"
#include "tessera/op_pyramid.h"
#include "tessera/op_residual_fsq.h"

/* Checks the levels and fills the mixed-radix weights, channel 0 the least significant. */
static ts_status radix(int32_t *basis, int32_t *V, const int32_t *level, int D, int32_t least, int odd)
{
    if (D < 1 || D > TS_MAX_D) return ts_fail(TS_E_ARG, "quantizer: %d channels, expected 1..%d", D, TS_MAX_D);
    int64_t product = 1;
    for (int d = 0; d < D; d++) {
        if (level[d] < least)
            return ts_fail(TS_E_ARG, "quantizer: level %d of channel %d, expected %d or more", (int)level[d], d,
                           (int)least);
        if (odd && level[d] % 2 == 0)
            return ts_fail(TS_E_ARG, "quantizer: level %d of channel %d is even, expected an odd one", (int)level[d],
                           d);
        basis[d] = (int32_t)product;
        product *= level[d];
        if (product > INT32_MAX)
            return ts_fail(TS_E_ARG, "quantizer: the product of the levels exceeds %d at channel %d", INT32_MAX, d);
    }
    *V = (int32_t)product;
    return TS_OK;
}

ts_status ts_fsq_init(ts_fsq *q, ts_fsq_bound bound, const int32_t *level, int D)
{
    *q = (ts_fsq){ .D = D, .bound = bound };
    if (bound != TS_FSQ_TANH && bound != TS_FSQ_SIGMOID && bound != TS_FSQ_IFSQ)
        return ts_fail(TS_E_ARG, "quantizer: bound %d, expected tanh, sigmoid or ifsq", (int)bound);
    TS_TRY(radix(q->basis, &q->V, level, D, bound == TS_FSQ_IFSQ ? 3 : 2, bound == TS_FSQ_IFSQ));
    for (int d = 0; d < D; d++) {
        double half = (level[d] - 1) * 0.5, offset = 0;
        if (bound == TS_FSQ_TANH) {
            half *= 1.001;
            offset = level[d] % 2 == 0 ? 0.5 : 0;
        }
        q->level[d] = level[d];
        q->half[d] = (float)half;
        q->offset[d] = (float)offset;
        q->shift[d] = (float)atanh(offset / half);
    }
    return TS_OK;
}

/* The nearest of S ticks to k/(K-1); the first minimum wins. Ties are real (K = 3, S = 2), so the ticks are rounded as
 * the published model rounds them: start + j*step. */
static int32_t nearest_tick(int k, int K, int S)
{
    double start = S == 4 ? 1 / 3.0 / S : 1 / 2.0 / S, step = S > 1 ? (1 - start - start) / (S - 1) : 0;
    double at = (double)k / (K > 1 ? K - 1 : 1), best = 2;
    int32_t found = 0;
    for (int j = 0; j < S; j++) {
        double tick = start + j * step;
        if (fabs(tick - at) < best) {
            best = fabs(tick - at);
            found = j;
        }
    }
    return found;
}

ts_status ts_pyramid_init(ts_pyramid *p, const int32_t *side, int K, int share_quant_resi, float ratio)
{
    if (K < 1 || K > TS_MAX_SCALES) return ts_fail(TS_E_ARG, "pyramid: %d scales, expected 1..%d", K, TS_MAX_SCALES);
    int S = share_quant_resi == 0 ? K : share_quant_resi < 0 ? 0 : share_quant_resi;
    if (share_quant_resi < -1 || S > TS_MAX_SCALES)
        return ts_fail(TS_E_ARG, "pyramid: share_quant_resi %d, expected -1..%d", share_quant_resi, TS_MAX_SCALES);
    *p = (ts_pyramid){ .K = K, .S = S, .ratio = ratio };
    int64_t T = 0;
    for (int k = 0; k < K; k++) {
        if (side[k] <= (k > 0 ? side[k - 1] : 0))
            return ts_fail(TS_E_ARG, "pyramid: side %d of scale %d, expected sides of 1 or more in ascending order",
                           (int)side[k], k);
        p->py[k] = p->px[k] = side[k];
        p->start[k] = (int32_t)T;
        p->phi[k] = S > 0 ? nearest_tick(k, K, S) : 0;
        T += (int64_t)side[k] * side[k];
        if (T > INT32_MAX)
            return ts_fail(TS_E_ARG, "pyramid: more than %d tokens up to the scale of side %d", INT32_MAX,
                           (int)side[k]);
    }
    p->start[K] = p->T = (int)T;
    p->h = p->w = side[K - 1];
    return TS_OK;
}

ts_status ts_residual_fsq_init(ts_residual_fsq *q, const ts_pyramid *p, const int32_t *level, int D, int pre_tanh)
{
    *q = (ts_residual_fsq){ .p = *p, .D = D, .K_use = p->K, .pre_tanh = pre_tanh };
    TS_TRY(radix(q->basis, &q->V, level, D, 3, 1));
    for (int d = 0; d < D; d++) q->level[d] = level[d];
    return TS_OK;
}
