/* op_resize.h - Pillow's resampling with given weights: columns, then rows, 8 bits in between.
 *
 * Letters   A picture is (rows,columns,3) bytes. A plan says of each output position which inputs it is made of, and with what weight:
 *           first[width], n[width], weight[taps_x,width] for columns, then first[height], n[height], weight[height,taps_y] for rows, all
 *           i32. first ascends.
 * Formula   between[y,x,c] = clip8((2^21 + sum_{i<n[x]} weight[i,x] in[y, first[x]+i, c]) >> 22)     for all `rows` rows
 *           out[y,x,c]     = clip8((2^21 + sum_{i<n[y]} weight[y,i] between[first[y]+i, x, c]) >> 22)
 *           A direction that is not filtered has one weight of 2^22, which changes nothing.
 * Source    Pillow's Resample.c. host/resize.h makes the plans of its filters.
 * Accuracy  whole numbers: the same bits on all backends. Weights of one position sum to 2^22 but for rounding, so int32 holds.
 */
#ifndef TS_OP_RESIZE_H
#define TS_OP_RESIZE_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int in_width, rows;   /* of the picture that is read: the rows that the output needs */
    int width, height;    /* of the output */
    int taps_x, taps_y;   /* most weights of a position */
} ts_resize;

/* i32 numbers of a plan. */
static inline size_t ts_resize_plan(const ts_resize *r)
{
    return (size_t)r->width * (size_t)(2 + r->taps_x) + (size_t)r->height * (size_t)(2 + r->taps_y);
}

typedef size_t ts_resize_scratch_fn(ts_stream *s, const ts_resize *r);

/*   out (height,width,3) u8 out      in (rows,in_width,3) u8, plan i32 in, indices inside the picture. The CPU's does not use s,
 * runs in the thread that calls it, and may be called from several at once. */
typedef ts_status ts_resize_fn(ts_stream *s, uint8_t *out, const uint8_t *in, const int32_t *plan, const ts_resize *r, void *scratch);

ts_resize_scratch_fn resize_scratch_cpu, resize_scratch_cuda;
ts_resize_fn resize_cpu, resize_cuda;

#ifdef __cplusplus
}
#endif
#endif
