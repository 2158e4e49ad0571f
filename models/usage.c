/* usage.c - contract: usage.h. */
#include "models/usage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int ascending(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

ts_usage ts_usage_of(int32_t *codes, int64_t n)
{
    ts_usage u = { n, 0, n > 0 ? 1 : 0 };
    double entropy = 0;
    qsort(codes, (size_t)n, sizeof *codes, ascending);
    for (int64_t i = 0, j; i < n; i = j) {
        for (j = i + 1; j < n && codes[j] == codes[i]; j++) {}
        double p = (double)(j - i) / (double)n;
        entropy -= p * log(p);
        u.used++;
    }
    if (n > 0) u.perplexity = exp(entropy);
    return u;
}

ts_status ts_usage_of_scale(ts_usage *u, const int32_t *tokens, int64_t B, const ts_pyramid *p, int k)
{
    int64_t t = p->start[k + 1] - p->start[k];
    int32_t *codes = malloc((size_t)(B * t) * sizeof *codes + 1);
    if (!codes) return ts_fail(TS_E_NOMEM, "out of host memory");
    for (int64_t b = 0; b < B; b++) memcpy(codes + b * t, tokens + b * p->T + p->start[k], (size_t)t * sizeof *codes);
    *u = ts_usage_of(codes, B * t);
    free(codes);
    return TS_OK;
}
