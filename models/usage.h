/* usage.h - how a codebook is used: codes that occur, and perplexity exp(entropy) of their distribution. */
#ifndef TS_USAGE_H
#define TS_USAGE_H

#include "tessera/op_pyramid.h"

typedef struct {
    int64_t tokens, used; /* tokens counted; different codes among them */
    double perplexity;
} ts_usage;

/* Of n codes; sorts them. */
ts_usage ts_usage_of(int32_t *codes, int64_t n);
/* Of scale k in tokens (B,T), which stay as they are. */
ts_status ts_usage_of_scale(ts_usage *u, const int32_t *tokens_BT, int64_t B, const ts_pyramid *p, int k);

#endif
