/* rows.h - sums over rows that several ops share. */
#ifndef TS_CUDA_ROWS_H
#define TS_CUDA_ROWS_H

#include "tessera/types.h"

/* table (V,C) += rows of dy (N,C): row n goes to row idx[n], in ascending n. */
ts_status add_to_rows(ts_stream *s, float *table, const float *dy, const int32_t *idx, int64_t N, int64_t C, int64_t V);

/* db[n] += sum over m of dy[m,n], in double and in a fixed order. */
ts_status add_columns(ts_stream *s, float *db, const float *dy, int64_t M, int64_t N);

#endif
