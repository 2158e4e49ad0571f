/* attention_tile.h - attention's forward in products of bfloat16, by the tile registers of tile.h.
 *
 * For inference: queries and the exponentials of scores are rounded on their way into a product, as keys and values are anyway.
 * A query's result depends on nothing but the query and what it sees.
 */
#ifndef TS_CPU_ATTENTION_TILE_H
#define TS_CPU_ATTENTION_TILE_H

#include "kernels/cpu/attention_job.h"

/* May forward go this way, were there tile registers? Not where lse is wanted. */
int attention_tile_fits(const ts_attention *a);

/* Bytes of scratch for that many keys. */
size_t attention_tile_scratch(const ts_stream *s, const ts_attention *a, int64_t keys);

void attention_tile_forward(ts_stream *s, const job *j, void *scratch);

/* What attention_fwd_cpu and attention_cached_cpu do where tile_unit() says yes and a shape fits: for tests on any machine. */
ts_attention_fwd_fn attention_fwd_tile;
ts_attention_cached_fn attention_cached_tile;

#endif
