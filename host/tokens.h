/* tokens.h - token shards: what `tokenize` writes and what the generator is trained on.
 *
 *   tokens-00000-of-00004.safetensors   tokens U16 (U32 if V > 65536) [N,T], labels I32 [N], sample U64 [N]
 *                                       metadata "tessera": the JSON string `info` (tokenizer hash, scales,
 * preprocessing) and "tessera.run": T, V, sources, per_shard, hash of the class names index.json {"version":1, "T":85,
 * "V":390625, "sources":M, "samples":N, "shards":[{"file":..., "samples":..., "bytes":..., "xxh3":...}],
 *                                        "classes":[names], "info":{...}, "errors":n}
 * Which samples go into which shard depends on the sample numbers alone, so a run that was killed and started again
 * ends in the same bytes. index.json is written last: a folder without it is not finished. A shard whose pictures could
 * all not be read is there with N = 0.
 */
#ifndef TS_TOKENS_H
#define TS_TOKENS_H

#include <stdint.h>

#include "tessera/status.h"

typedef struct ts_token_writer ts_token_writer;

/* info: JSON object text; it, T, V, n_sources, per_shard and the classes are checked against what an unfinished run
 * left in the folder (TS_E_BUSY when they differ, or when the folder already holds a finished index.json). n_sources >=
 * 1: how many source pictures there are; shard i of n holds those with numbers [i*per_shard, (i+1)*per_shard). Locks
 * the folder. T >= 1, 1 <= V < 2^31; info and classes are UTF-8 and are copied. */
ts_status ts_token_writer_new(ts_token_writer **w, const char *dir, const char *info, int64_t T, int64_t V,
                              const char *const *classes, int n_classes, int64_t n_sources, int64_t per_shard);
/* The first source number that still has to be done: whole shards of an earlier run are kept and skipped, damaged ones
 * are made again. */
int64_t ts_token_writer_resume(const ts_token_writer *w);
/* Add one picture. source numbers ascend; gaps are pictures that could not be read. tokens[T], each 0..V-1;
 * label: -1, or 0..n_classes-1. TS_E_ARG otherwise. */
ts_status ts_token_writer_add(ts_token_writer *w, int64_t source, int32_t label, const int32_t *tokens);
/* Write the last shard and index.json. Frees w in any case. n_errors: pictures from `resume` on that could not be read;
 * the index has these and the gaps of the shards that were kept. */
ts_status ts_token_writer_finish(ts_token_writer *w, int64_t n_errors);
void ts_token_writer_abandon(ts_token_writer *w); /* free without finishing; whole shards stay; NULL is fine */

typedef struct ts_token_set ts_token_set;

/* Open a finished folder; verifies sizes of all shards, and their hashes if verify is not 0. TS_E_NOINPUT if there is
 * no such folder, TS_E_DATA if it is not finished or not what its index says. */
ts_status ts_token_set_open(ts_token_set **t, const char *dir, int verify);
void ts_token_set_close(ts_token_set *t);
int64_t ts_token_set_count(const ts_token_set *t);
int64_t ts_token_set_T(const ts_token_set *t);
int64_t ts_token_set_V(const ts_token_set *t);
const char *ts_token_set_info(const ts_token_set *t); /* JSON text */
int ts_token_set_classes(const ts_token_set *t);
const char *ts_token_set_class(const ts_token_set *t, int i);
/* Sample i in 0..count-1. tokens[T]. TS_E_DATA if a token is outside 0..V-1 or the label is that of no class.
 * Thread-safe. */
ts_status ts_token_set_get(const ts_token_set *t, int64_t i, int32_t *tokens, int32_t *label, uint64_t *source);

#endif
