/* png.c - PNG through libpng. Contracts: codec.h, image.h. */
#include <png.h>
#include <stdlib.h>
#include <string.h>

#include "host/codec.h"
#include "host/file.h"

/* deflate cannot shrink more than this, so a header that promises more pixels than the file can hold is refused. */
enum { DEFLATE_RATIO = 1032 };

typedef struct {
    const uint8_t *bytes; /* decoding: what is left to read */
    size_t n;
    uint8_t *out; /* encoding: what is written so far */
    size_t n_out, room;
    char error[200];
} png_context;

static void on_error(png_structp png, png_const_charp message)
{
    png_context *c = png_get_error_ptr(png);
    strncpy(c->error, message, sizeof c->error - 1);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void read_bytes(png_structp png, png_bytep to, size_t n)
{
    png_context *c = png_get_io_ptr(png);
    if (n > c->n) png_error(png, "the file ends too early");
    memcpy(to, c->bytes, n);
    c->bytes += n;
    c->n -= n;
}

static void write_bytes(png_structp png, png_bytep from, size_t n)
{
    png_context *c = png_get_io_ptr(png);
    if (n > c->room - c->n_out) {
        size_t room = (c->room + n) * 2;
        uint8_t *grown = realloc(c->out, room);
        if (!grown) png_error(png, "out of memory");
        c->out = grown;
        c->room = room;
    }
    memcpy(c->out + c->n_out, from, n);
    c->n_out += n;
}

static void flush_nothing(png_structp png)
{
    (void)png;
}

int ts_png_is(const uint8_t *bytes, size_t n)
{
    return n >= 8 && png_sig_cmp(bytes, 0, 8) == 0;
}

/* Pillow's convert('RGB'): the high byte of 16 bits, alpha and transparency dropped, grey replicated. */
static void set_rgb_output(png_structp png, int bits, int color)
{
    if (color == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (color == PNG_COLOR_TYPE_GRAY && bits < 8) png_set_expand_gray_1_2_4_to_8(png);
    if (color & PNG_COLOR_MASK_ALPHA) png_set_strip_alpha(png);
    if (bits == 16 && color == PNG_COLOR_TYPE_GRAY) return; /* see clip_grey_16 */
    if (bits == 16) png_set_strip_16(png);
    if (!(color & PNG_COLOR_MASK_COLOR)) png_set_gray_to_rgb(png);
}

/* Pillow clips 16-bit grey at 255 instead of scaling it. In place, backwards: 2 bytes a pixel become 3. */
static void clip_grey_16(uint8_t *row, int width)
{
    for (int x = width - 1; x >= 0; x--) {
        uint8_t v = row[2 * x] ? 255 : row[2 * x + 1];
        row[3 * x] = row[3 * x + 1] = row[3 * x + 2] = v;
    }
}

/* Leaves by longjmp on any error of libpng; *im is then freed by the caller. */
static ts_status read_picture(png_structp png, png_infop info, ts_image *im, const char *name)
{
    static const png_byte skipped[] = "iCCP\0zTXt\0iTXt\0tEXt\0eXIf\0tRNS\0sPLT\0hIST"; /* never needed, may be bombs */
    const png_context *c = png_get_io_ptr(png);
    size_t n = c->n;
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, skipped, sizeof skipped / 5);
    png_set_user_limits(png, TS_MAX_PIXELS, TS_MAX_PIXELS);
    png_read_info(png, info);
    int width = (int)png_get_image_width(png, info), height = (int)png_get_image_height(png, info);
    int bits = png_get_bit_depth(png, info), color = png_get_color_type(png, info);
    if ((uint64_t)n * DEFLATE_RATIO < (uint64_t)png_get_rowbytes(png, info) * (uint64_t)height)
        return ts_fail(TS_E_DATA, "%s: not a whole PNG: %zu bytes cannot hold %d x %d pixels", name, n, width, height);
    TS_TRY(ts_image_alloc(im, width, height, name));
    set_rgb_output(png, bits, color);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < height; y++) png_read_row(png, im->rgb + (size_t)y * width * 3, NULL);
    png_read_end(png, NULL); /* checks the last CRC */
    if (bits == 16 && color == PNG_COLOR_TYPE_GRAY)
        for (int y = 0; y < height; y++) clip_grey_16(im->rgb + (size_t)y * width * 3, width);
    return TS_OK;
}

ts_status ts_png_decode(ts_image *im, const char *name, const uint8_t *bytes, size_t n)
{
    png_context c = { .bytes = bytes, .n = n };
    png_infop info = NULL;
    ts_status volatile st = TS_OK;
    *im = (ts_image){ 0 };
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &c, on_error, on_warning);
    if (png) info = png_create_info_struct(png);
    if (!info) {
        png_destroy_read_struct(&png, NULL, NULL);
        return ts_fail(TS_E_NOMEM, "%s: out of memory", name);
    }
    if (setjmp(png_jmpbuf(png)) == 0) {
        png_set_read_fn(png, &c, read_bytes);
        st = read_picture(png, info, im, name);
    } else {
        st = ts_fail(TS_E_DATA, "%s: damaged PNG: %s", name, c.error);
    }
    png_destroy_read_struct(&png, &info, NULL);
    if (st != TS_OK) ts_image_free(im);
    return st;
}

static void write_picture(png_structp png, png_infop info, const ts_image *im, png_text *text, int n_text)
{
    png_set_IHDR(png, info, (png_uint_32)im->width, (png_uint_32)im->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_text(png, info, text, n_text);
    png_write_info(png, info);
    for (int y = 0; y < im->height; y++) png_write_row(png, im->rgb + (size_t)y * im->width * 3);
    png_write_end(png, info);
}

static ts_status encode(png_context *c, const ts_image *im, png_text *text, int n_text)
{
    png_infop info = NULL;
    ts_status volatile st = TS_OK;
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, c, on_error, on_warning);
    if (png) info = png_create_info_struct(png);
    if (!info) {
        png_destroy_write_struct(&png, NULL);
        return ts_fail(TS_E_NOMEM, "PNG of %d x %d pixels: out of memory", im->width, im->height);
    }
    if (setjmp(png_jmpbuf(png)) == 0) {
        png_set_write_fn(png, c, write_bytes, flush_nothing);
        write_picture(png, info, im, text, n_text);
    } else {
        st = ts_fail(TS_E_INTERNAL, "PNG of %d x %d pixels: %s", im->width, im->height, c->error);
    }
    png_destroy_write_struct(&png, &info);
    return st;
}

ts_status ts_image_encode_png(const ts_image *im, const char *const (*text)[2], int n_text, uint8_t **bytes, size_t *n)
{
    *bytes = NULL;
    *n = 0;
    png_text *chunks = calloc((size_t)n_text + 1, sizeof *chunks);
    if (!chunks) return ts_fail(TS_E_NOMEM, "PNG: out of memory");
    for (int i = 0; i < n_text; i++) {
        chunks[i].compression = PNG_TEXT_COMPRESSION_NONE;
        chunks[i].key = (char *)(uintptr_t)text[i][0]; /* libpng only reads them */
        chunks[i].text = (char *)(uintptr_t)text[i][1];
    }
    png_context c = { 0 };
    ts_status st = encode(&c, im, chunks, n_text);
    free(chunks);
    if (st != TS_OK) {
        free(c.out);
        return st;
    }
    *bytes = c.out;
    *n = c.n_out;
    return TS_OK;
}

ts_status ts_image_write_png(const char *path, const ts_image *im, const char *const (*text)[2], int n_text)
{
    uint8_t *bytes;
    size_t n;
    TS_TRY(ts_image_encode_png(im, text, n_text, &bytes, &n));
    ts_status st = ts_file_replace(path, bytes, n);
    free(bytes);
    return st;
}
