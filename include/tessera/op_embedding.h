/* op_embedding.h - rows of a table.
 *
 * Formula   y[n] = table[idx[n]];   dtable[v] += sum over n with idx[n] = v of dy[n], in ascending n.
 */
#ifndef TS_OP_EMBEDDING_H
#define TS_OP_EMBEDDING_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/*   y (N,C) f32 out      table (V,C) f32, idx (N) i32 in, each 0..V-1 (checked by the caller, not here) */
typedef ts_status ts_embedding_fwd_fn(ts_stream *s, float *y, const float *table, const int32_t *idx, int64_t N,
                                      int64_t C);
/*   dtable (V,C) f32 added to      dy (N,C) f32, idx (N) i32 in */
typedef ts_status ts_embedding_bwd_fn(ts_stream *s, float *dtable, const float *dy, const int32_t *idx, int64_t N,
                                      int64_t C, int64_t V);

ts_embedding_fwd_fn embedding_fwd_cpu, embedding_fwd_cuda;
ts_embedding_bwd_fn embedding_bwd_cpu, embedding_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
