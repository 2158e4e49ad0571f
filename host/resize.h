/* resize.h - Pillow's resampling, bit for bit.
 *
 * For each output position x of n_out, with scale = n_in/n_out and wide = max(scale, 1):
 *   centre = (x + 0.5)*scale;  reach = support*wide
 *   inputs i from max(0, int(centre - reach + 0.5)) to min(n_in, int(centre + reach + 0.5)) - 1
 *   weight_i = filter((i - centre + 0.5)/wide), divided by their sum in double, then times 2^22, rounded half away from
 * zero output = clip8((2^21 + sum weight_i*pixel_i) >> 22) in int32 Columns first, to 8 bits, then rows. A direction
 * whose size does not change is not filtered.
 */
#ifndef TS_RESIZE_H
#define TS_RESIZE_H

#include "host/image.h"

typedef enum {
    TS_FILTER_BOX,     /* support 0.5 */
    TS_FILTER_BICUBIC, /* support 2, a = -0.5 */
    TS_FILTER_LANCZOS  /* support 3 */
} ts_filter;

typedef struct {
    int left, top, width, height;
} ts_window;

/* *out: the part `window` (NULL: all) of `in` resized to width x height. Only what the window needs is computed.
 * d: where; NULL: on the CPU, in this thread. The bits are the same. name is for messages. */
ts_status ts_image_resize(ts_image *out, const ts_image *in, int width, int height, ts_filter filter,
                          const ts_window *window, struct ts_device *d, const char *name);

#endif
