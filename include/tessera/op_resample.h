/* op_resample.h - changes of grid size, channels last: nearest 2x, area, bicubic.
 *
 * Letters   B images, D channels; grids are y rows by x columns. "from" is the input grid, "to" the output grid.
 * Formula   nearest2x  y[i,j] = x[i/2, j/2]
 *           area       cell i of p over n covers rows floor(i*n/p) .. ceil((i+1)*n/p)-1; mean over the cell in both axes
 *                      (adaptive average pooling; F.interpolate(mode='area') of PyTorch)
 *           bicubic    a = -0.75, half-pixel centres: source s = (i + 0.5)*from/to - 0.5; taps floor(s)-1 .. floor(s)+2,
 *                      each clamped to the border; no antialias (F.interpolate(mode='bicubic', align_corners=False))
 *           bwd is the exact adjoint.
 */
#ifndef TS_OP_RESAMPLE_H
#define TS_OP_RESAMPLE_H

#include "tessera/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t B, D;
    int64_t from_y, from_x, to_y, to_x;
} ts_resample;

/*   y (B,to_y,to_x,D) f32 out      x (B,from_y,from_x,D) f32 in. nearest2x demands to = 2 from; area to <= from. */
typedef ts_status ts_resample_fwd_fn(ts_stream *s, float *y, const float *x, const ts_resample *r);
/*   dx (B,from_y,from_x,D) f32 set      dy (B,to_y,to_x,D) f32 in */
typedef ts_status ts_resample_bwd_fn(ts_stream *s, float *dx, const float *dy, const ts_resample *r);

ts_resample_fwd_fn nearest2x_fwd_cpu, nearest2x_fwd_cuda, area_fwd_cpu, area_fwd_cuda, bicubic_fwd_cpu,
    bicubic_fwd_cuda;
ts_resample_bwd_fn nearest2x_bwd_cpu, nearest2x_bwd_cuda, area_bwd_cpu, area_bwd_cuda, bicubic_bwd_cpu,
    bicubic_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
