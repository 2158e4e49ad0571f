/* codec.h - what image.c, png.c and jpeg.c share: the limits, the allocation of pictures, and the two formats. */
#ifndef TS_CODEC_H
#define TS_CODEC_H

#include "host/image.h"

enum { TS_MAX_PIXELS = 178956970 }; /* Pillow refuses larger pictures too */

/* Pixels for a picture of this size, not set. TS_E_DATA if it is empty or too large; name is for messages. */
ts_status ts_image_alloc(ts_image *im, int64_t width, int64_t height, const char *name);

int ts_png_is(const uint8_t *bytes, size_t n);
int ts_jpeg_is(const uint8_t *bytes, size_t n);
ts_status ts_png_decode(ts_image *im, const char *name, const uint8_t *bytes, size_t n);
ts_status ts_jpeg_decode(ts_image *im, const char *name, const uint8_t *bytes, size_t n);

#endif
