/* image.h - pictures in and out: PNG and JPEG told apart by content, Pillow-exact resizing, PNG writing.
 *
 * Decoding gives what Pillow's convert('RGB') gives: EXIF orientation, ICC and gamma ignored, alpha dropped, palette
 * expanded, grey replicated, Adobe-inverted CMYK, 16-bit RGB keeps the high byte, 16-bit grey is clipped at 255.
 * Resizing is Pillow's arithmetic: 22-bit integer weights, horizontal then vertical, 8-bit between. See resize.h.
 */
#ifndef TS_IMAGE_H
#define TS_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "tessera/status.h"

typedef struct {
    int width, height;
    uint8_t *rgb; /* height*width*3, rows top to bottom, no padding; malloc'ed */
} ts_image;

void ts_image_free(ts_image *im); /* frees the pixels, zeroes *im; NULL is fine */

/* Decode a file, or bytes in memory (name is for messages). Limits: 178,956,970 pixels, checked before any allocation. */
ts_status ts_image_read(ts_image *im, const char *path);
ts_status ts_image_decode(ts_image *im, const char *name, const void *bytes, size_t n);

/* How pictures are brought to the model's size:
 *   var   short side to rint(1.125*size) with LANCZOS (long side truncated), then a crop of size: centre, or at crop
 *   adm   BOX halvings, then BICUBIC, then the centre crop (guided-diffusion's center_crop_arr)
 *   none  the picture must have the model's size already; TS_E_DATA otherwise */
typedef enum { TS_PREPROCESS_VAR, TS_PREPROCESS_ADM, TS_PREPROCESS_NONE } ts_preprocess;

ts_status ts_preprocess_parse(ts_preprocess *p, const char *name);
const char *ts_preprocess_name(ts_preprocess p);

/* *out: a new image of size x size. crop: NULL for the centre, else two numbers in [0,1) that choose the offset of a random
 * crop (var only): top = floor(crop[0]*(H-size+1)), left = floor(crop[1]*(W-size+1)). d: where pictures are resized; NULL: on the
 * CPU, in this thread. The bits are the same. name is for messages. */
struct ts_device;
ts_status ts_image_preprocess(ts_image *out, const ts_image *in, ts_preprocess how, int size, const float *crop,
                              struct ts_device *d, const char *name);

/* torch's float conversion: v/255*2 - 1, as float32 v/255 then x + x - 1. out: n floats. */
void ts_image_to_float(float *out, const uint8_t *in, size_t n);
/* The way back: round to nearest of (x+1)*127.5, clamped to 0..255. NaN becomes 0. */
void ts_image_from_float(uint8_t *out, const float *in, size_t n);

/* Write an 8-bit RGB PNG atomically. text: n_text pairs of keyword and value for tEXt chunks, or NULL. */
ts_status ts_image_write_png(const char *path, const ts_image *im, const char *const (*text)[2], int n_text);
/* The same into memory (malloc'ed). */
ts_status ts_image_encode_png(const ts_image *im, const char *const (*text)[2], int n_text, uint8_t **bytes, size_t *n);

/* Lay n pictures of equal size out in rows of `columns` (at most n), with `gap` white pixels between and around. The place of a
 * picture without pixels (rgb NULL) stays white. */
ts_status ts_image_grid(ts_image *out, const ts_image *pictures, int n, int columns, int gap);

/* Every pixel becomes a square of factor x factor, in place. TS_E_ARG for a factor below 1. */
ts_status ts_image_zoom(ts_image *im, int factor);

#endif
