/* digit_head.c - the constants of a digit head. Contract: tessera/op_digit_head.h. */
#include "tessera/op_digit_head.h"

ts_status ts_digit_head_init(ts_digit_head *d, const int32_t *level, int D, int M, int K)
{
    if (D < 1 || D > TS_MAX_D) return ts_fail(TS_E_ARG, "digit head: %d digits, expected 1..%d", D, TS_MAX_D);
    if (M < 1) return ts_fail(TS_E_ARG, "digit head: %d hidden channels, expected at least 1", M);
    if (K < 1) return ts_fail(TS_E_ARG, "digit head: %d scales, expected at least 1", K);
    *d = (ts_digit_head){ .D = D, .M = M, .K = K };
    int64_t sum = 0, basis = 1;
    for (int i = 0; i < D; i++) {
        if (level[i] < 2)
            return ts_fail(TS_E_ARG, "digit head: level %d of digit %d, expected at least 2", level[i], i);
        d->level[i] = level[i];
        d->basis[i] = (int32_t)basis;
        d->off[i] = (int32_t)sum;
        sum += level[i];
        basis *= level[i];
        if (sum > TS_MAX_SUM_L)
            return ts_fail(TS_E_ARG, "digit head: the levels sum to more than %d", (int)TS_MAX_SUM_L);
        if (basis > INT32_MAX)
            return ts_fail(TS_E_ARG, "digit head: the product of the levels does not fit in 31 bits");
    }
    d->sum_L = (int)sum;
    return TS_OK;
}
