/* tokens_private.h - one token shard, as the writer (tokens.c) and the reader (token_set.c) both see it. */
#ifndef TS_TOKENS_PRIVATE_H
#define TS_TOKENS_PRIVATE_H

#include "host/safetensors.h"

#define TS_TOKENS_INFO "tessera" /* metadata keys of a shard */
#define TS_TOKENS_RUN "tessera.run"

enum { TS_TOKENS_NARROW = 65536 }; /* the largest V whose tokens are U16 */

/* A mapped shard. The pointers may be unaligned when another program wrote the file. */
typedef struct {
    ts_st_file *file;
    int64_t samples, T, V;
    const unsigned char *tokens, *labels, *sample;
} ts_token_shard;

/* TS_E_DATA if the tensors are not those of T tokens below V. */
ts_status ts_token_shard_open(ts_token_shard *s, const char *path, int64_t T, int64_t V);
void ts_token_shard_close(ts_token_shard *s); /* a zeroed one is fine */

/* Row i. TS_E_DATA if a token is not below V or the label is not -1..n_classes-1. */
ts_status ts_token_shard_get(const ts_token_shard *s, int64_t i, int n_classes, int32_t *tokens, int32_t *label,
                             uint64_t *source);

#endif
