/* op_add.h - sums: of two tensors, of a tensor and rows that repeat, and the scaling of rows.
 *
 * Formula   add        y[n] = a[n] + b[n]
 *           add_rows   y[r,n] = a[r,n] + rows[r mod R, n]
 *           sum_rows   drows[q,n] += sum over r with r mod R = q of dy[r,n], in ascending r
 *           scale_rows y[r,n] = a[r,n] * factor[r]
 */
#ifndef TS_OP_ADD_H
#define TS_OP_ADD_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/*   y (N) f32 out, may be a or b      a, b (N) f32 in */
typedef ts_status ts_add_fn(ts_stream *s, float *y, const float *a, const float *b, int64_t N);
/*   y (M,N) f32 out, may be a      a (M,N), rows (R,N) f32 in; M is a multiple of R */
typedef ts_status ts_add_rows_fn(ts_stream *s, float *y, const float *a, const float *rows, int64_t M, int64_t R,
                                 int64_t N);
/*   drows (R,N) f32 added to      dy (M,N) f32 in */
typedef ts_status ts_sum_rows_fn(ts_stream *s, float *drows, const float *dy, int64_t M, int64_t R, int64_t N);
/*   y (M,N) f32 out, may be a      a (M,N), factor (M) f32 in */
typedef ts_status ts_scale_rows_fn(ts_stream *s, float *y, const float *a, const float *factor, int64_t M, int64_t N);

ts_add_fn add_cpu, add_cuda;
ts_add_rows_fn add_rows_cpu, add_rows_cuda;
ts_sum_rows_fn sum_rows_cpu, sum_rows_cuda;
ts_scale_rows_fn scale_rows_cpu, scale_rows_cuda;

#ifdef __cplusplus
}
#endif
#endif
