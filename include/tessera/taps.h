/* taps.h - which cells of a grid an output cell reads, and with what weight: shared by the twins of the resampling ops,
 * so that they agree bit for bit. Formulas in tessera/op_resample.h. One axis at a time. */
#ifndef TS_TAPS_H
#define TS_TAPS_H

#include "tessera/exact.h"

/* Area: output cell i of `to` averages input cells *first .. *end - 1 of `from`. */
static inline TS_HD void ts_area_range(int64_t i, int64_t from, int64_t to, int64_t *first, int64_t *end)
{
    *first = i * from / to;
    *end = ((i + 1) * from + to - 1) / to;
}

/* Bicubic: output cell i of `to` is the sum of weight[j] * input[at[j]], j ascending. The source position is the
 * fraction ((2i+1)*from - to)/(2*to), split into whole and rest in integers. */
static inline TS_HD void ts_bicubic_taps(int64_t i, int64_t from, int64_t to, int64_t at[4], float weight[4])
{
    const float a = -0.75f;
    int64_t n = (2 * i + 1) * from - to, whole = n / (2 * to);
    if (whole * 2 * to > n) whole--; /* floor; / cuts towards zero */
    float t1 = (float)(n - whole * 2 * to) / (float)(2 * to), t2 = 1.0f - t1;
    float t0 = t1 + 1.0f, t3 = t2 + 1.0f; /* distances of the four taps */
    weight[0] = fmaf(fmaf(fmaf(a, t0, -5.0f * a), t0, 8.0f * a), t0, -4.0f * a);
    weight[1] = fmaf(fmaf(a + 2.0f, t1, -(a + 3.0f)), t1 * t1, 1.0f);
    weight[2] = fmaf(fmaf(a + 2.0f, t2, -(a + 3.0f)), t2 * t2, 1.0f);
    weight[3] = fmaf(fmaf(fmaf(a, t3, -5.0f * a), t3, 8.0f * a), t3, -4.0f * a);
    for (int j = 0; j < 4; j++) {
        int64_t c = whole - 1 + j;
        at[j] = c < 0 ? 0 : c >= from ? from - 1 : c;
    }
}

#endif
