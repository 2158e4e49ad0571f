/* image.c - pictures: reading, sizes, float conversion, grids. Contract: image.h; formats: png.c, jpeg.c. */
#include "host/image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/codec.h"
#include "host/file.h"
#include "host/resize.h"

static const size_t MAX_FILE = (size_t)1 << 30;

void ts_image_free(ts_image *im)
{
    if (!im) return;
    free(im->rgb);
    *im = (ts_image){ 0 };
}

ts_status ts_image_alloc(ts_image *im, int64_t width, int64_t height, const char *name)
{
    *im = (ts_image){ 0 };
    if (width < 1 || height < 1 || width > TS_MAX_PIXELS || height > TS_MAX_PIXELS / width)
        return ts_fail(TS_E_DATA, "%s: %lld x %lld pixels; 1 to %d pixels are possible", name, (long long)width,
                       (long long)height, TS_MAX_PIXELS);
    uint8_t *rgb = malloc((size_t)width * (size_t)height * 3);
    if (!rgb)
        return ts_fail(TS_E_NOMEM, "%s: no memory for %lld x %lld pixels", name, (long long)width, (long long)height);
    *im = (ts_image){ (int)width, (int)height, rgb };
    return TS_OK;
}

ts_status ts_image_decode(ts_image *im, const char *name, const void *bytes, size_t n)
{
    *im = (ts_image){ 0 };
    if (n == 0) return ts_fail(TS_E_DATA, "%s: the file is empty", name);
    if (ts_png_is(bytes, n)) return ts_png_decode(im, name, bytes, n);
    if (ts_jpeg_is(bytes, n)) return ts_jpeg_decode(im, name, bytes, n);
    return ts_fail(TS_E_DATA, "%s: neither a PNG nor a JPEG picture", name);
}

ts_status ts_image_read(ts_image *im, const char *path)
{
    void *bytes;
    size_t n;
    *im = (ts_image){ 0 };
    TS_TRY(ts_file_read(path, MAX_FILE, &bytes, &n));
    ts_status st = ts_image_decode(im, path, bytes, n);
    free(bytes);
    return st;
}

static const char *const PREPROCESS[] = {
    [TS_PREPROCESS_VAR] = "var", [TS_PREPROCESS_ADM] = "adm", [TS_PREPROCESS_NONE] = "none"
};

ts_status ts_preprocess_parse(ts_preprocess *p, const char *name)
{
    for (int i = 0; i < (int)(sizeof PREPROCESS / sizeof *PREPROCESS); i++)
        if (strcmp(name, PREPROCESS[i]) == 0) {
            *p = (ts_preprocess)i;
            return TS_OK;
        }
    return ts_fail(TS_E_ARG, "preprocess '%s': var, adm and none are possible", name);
}

const char *ts_preprocess_name(ts_preprocess p)
{
    return PREPROCESS[p];
}

/* A very long picture would become enormous before the crop. */
static ts_status check_resized(double width, double height, const char *name)
{
    if (width * height <= TS_MAX_PIXELS) return TS_OK;
    return ts_fail(TS_E_DATA, "%s: %.0f x %.0f pixels after resizing; at most %d are possible", name, width, height,
                   TS_MAX_PIXELS);
}

static ts_status preprocess_var(ts_image *out, const ts_image *in, int size, const float *crop, struct ts_device *d,
                                const char *name)
{
    int mid = (int)rint(1.125 * size), tall = in->height > in->width;
    int side = tall ? in->width : in->height, along = tall ? in->height : in->width;
    double resized = trunc((double)((int64_t)mid * along) / side);
    TS_TRY(check_resized(mid, resized, name));
    int width = tall ? mid : (int)resized, height = tall ? (int)resized : mid;
    ts_window w = { (int)rint((width - size) / 2.0), (int)rint((height - size) / 2.0), size, size };
    if (crop) {
        if (!(crop[0] >= 0 && crop[0] < 1 && crop[1] >= 0 && crop[1] < 1))
            return ts_fail(TS_E_ARG, "crop %g, %g: 0 <= crop < 1 is possible", (double)crop[0], (double)crop[1]);
        w.top = (int)((double)crop[0] * (height - size + 1));
        w.left = (int)((double)crop[1] * (width - size + 1));
    }
    return ts_image_resize(out, in, width, height, TS_FILTER_LANCZOS, &w, d, name);
}

static int shorter(const ts_image *im)
{
    return im->width < im->height ? im->width : im->height;
}

static ts_status preprocess_adm(ts_image *out, const ts_image *in, int size, struct ts_device *d, const char *name)
{
    ts_image half = { 0 };
    const ts_image *from = in;
    while (shorter(from) >= 2 * size) {
        ts_image next;
        ts_status st = ts_image_resize(&next, from, from->width / 2, from->height / 2, TS_FILTER_BOX, NULL, d, name);
        ts_image_free(&half);
        TS_TRY(st);
        half = next;
        from = &half;
    }
    double scale = (double)size / shorter(from), width = rint(from->width * scale), height = rint(from->height * scale);
    ts_status st = check_resized(width, height, name);
    if (st == TS_OK) {
        ts_window w = { ((int)width - size) / 2, ((int)height - size) / 2, size, size };
        st = ts_image_resize(out, from, (int)width, (int)height, TS_FILTER_BICUBIC, &w, d, name);
    }
    ts_image_free(&half);
    return st;
}

static ts_status preprocess_none(ts_image *out, const ts_image *in, int size, const char *name)
{
    if (in->width != size || in->height != size)
        return ts_fail(TS_E_DATA, "%s: %d x %d pixels; the model takes %d x %d (or choose a preprocessing)", name,
                       in->width, in->height, size, size);
    TS_TRY(ts_image_alloc(out, size, size, name));
    memcpy(out->rgb, in->rgb, (size_t)size * size * 3);
    return TS_OK;
}

ts_status ts_image_preprocess(ts_image *out, const ts_image *in, ts_preprocess how, int size, const float *crop,
                              struct ts_device *d, const char *name)
{
    *out = (ts_image){ 0 };
    if (size < 1 || size > 8192) return ts_fail(TS_E_ARG, "size %d: 1 to 8192 is possible", size);
    if (crop && how != TS_PREPROCESS_VAR)
        return ts_fail(TS_E_ARG, "preprocess %s has no random crop", ts_preprocess_name(how));
    switch (how) {
    case TS_PREPROCESS_VAR:
        return preprocess_var(out, in, size, crop, d, name);
    case TS_PREPROCESS_ADM:
        return preprocess_adm(out, in, size, d, name);
    case TS_PREPROCESS_NONE:
        return preprocess_none(out, in, size, name);
    }
    return ts_fail(TS_E_ARG, "preprocess %d is not known", (int)how);
}

void ts_image_to_float(float *out, const uint8_t *in, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float x = (float)in[i] / 255.0f;
        out[i] = x + x - 1;
    }
}

void ts_image_from_float(uint8_t *out, const float *in, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float v = (in[i] + 1) * 127.5f;
        v = v > 0 ? v : 0; /* NaN too */
        v = v < 255 ? v : 255;
        out[i] = (uint8_t)rintf(v);
    }
}

ts_status ts_image_grid(ts_image *out, const ts_image *pictures, int n, int columns, int gap)
{
    *out = (ts_image){ 0 };
    if (n < 1 || columns < 1 || gap < 0)
        return ts_fail(TS_E_ARG, "a grid of %d pictures in %d columns with gap %d is not possible", n, columns, gap);
    int width = pictures[0].width, height = pictures[0].height, rows = (n - 1) / columns + 1;
    for (int i = 1; i < n; i++)
        if (pictures[i].width != width || pictures[i].height != height)
            return ts_fail(TS_E_ARG, "a grid needs pictures of equal size: %d x %d and %d x %d", width, height,
                           pictures[i].width, pictures[i].height);
    columns = columns < n ? columns : n;
    TS_TRY(ts_image_alloc(out, gap + (int64_t)columns * (width + (int64_t)gap),
                          gap + (int64_t)rows * (height + (int64_t)gap), "grid"));
    memset(out->rgb, 255, (size_t)out->width * (size_t)out->height * 3);
    for (int i = 0; i < n; i++) {
        if (!pictures[i].rgb) continue;
        size_t left = (size_t)gap + (size_t)(i % columns) * (size_t)(width + gap);
        size_t top = (size_t)gap + (size_t)(i / columns) * (size_t)(height + gap);
        for (int y = 0; y < height; y++)
            memcpy(out->rgb + ((top + (size_t)y) * (size_t)out->width + left) * 3,
                   pictures[i].rgb + (size_t)y * width * 3, (size_t)width * 3);
    }
    return TS_OK;
}

ts_status ts_image_zoom(ts_image *im, int factor)
{
    if (factor < 1) return ts_fail(TS_E_ARG, "zoom %d: 1 or more is possible", factor);
    ts_image out;
    TS_TRY(ts_image_alloc(&out, (int64_t)im->width * factor, (int64_t)im->height * factor, "zoomed picture"));
    size_t row = (size_t)out.width * 3;
    for (int y = 0; y < im->height; y++) {
        const uint8_t *from = im->rgb + (size_t)y * (size_t)im->width * 3;
        uint8_t *first = out.rgb + (size_t)y * (size_t)factor * row;
        for (int x = 0; x < out.width; x++) memcpy(first + (size_t)x * 3, from + (size_t)(x / factor) * 3, 3);
        for (int i = 1; i < factor; i++) memcpy(first + (size_t)i * row, first, row);
    }
    ts_image_free(im);
    *im = out;
    return TS_OK;
}
