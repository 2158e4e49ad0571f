/* jpeg.c - JPEG through libjpeg-turbo's libjpeg interface. Contract: codec.h.
 *
 * The default accurate transform and smooth upsampling give Pillow's pixels. As Pillow does, damage that libjpeg can
 * step over is accepted (ImageNet has such files), and a file that ends too early is not.
 */
#include <setjmp.h>
#include <stdio.h> /* jpeglib.h needs it */
#include <stdlib.h>

#include <jerror.h>
#include <jpeglib.h>

#include "host/codec.h"

enum {
    MAX_SCANS = 100, /* a progressive file has about ten; each one costs a pass over the whole picture */
    /* Pixels for which there must be a byte: Huffman coding spends at least one bit on a block, and at the strangest
     * subsampling a block covers 256 pixels. Arithmetic coding can go far below a bit. */
    HUFFMAN_RATIO = 2048,
    ARITHMETIC_RATIO = 100 * HUFFMAN_RATIO
};

typedef struct {
    struct jpeg_decompress_struct cinfo;
    struct jpeg_error_mgr err;
    struct jpeg_progress_mgr progress;
    jmp_buf back;
    int truncated, too_many_scans;
    uint8_t *cmyk; /* one row */
} jpeg_context;

static _Noreturn void on_error(j_common_ptr cinfo)
{
    jpeg_context *c = cinfo->client_data;
    longjmp(c->back, 1);
}

static void on_message(j_common_ptr cinfo, int level)
{
    jpeg_context *c = cinfo->client_data;
    if (level >= 0 || cinfo->err->msg_code != JWRN_JPEG_EOF) return;
    c->truncated = 1;
    longjmp(c->back, 1);
}

static void count_scans(j_common_ptr cinfo)
{
    jpeg_context *c = cinfo->client_data;
    if (c->cinfo.input_scan_number <= MAX_SCANS) return;
    c->too_many_scans = 1;
    longjmp(c->back, 1);
}

int ts_jpeg_is(const uint8_t *bytes, size_t n)
{
    return n >= 3 && bytes[0] == 0xff && bytes[1] == 0xd8 && bytes[2] == 0xff;
}

/* round(a*b/255), in Pillow's way. */
static int mul_255(int a, int b)
{
    int t = a * b + 128;
    return ((t >> 8) + t) >> 8;
}

/* Adobe writes CMYK inverted; Pillow takes every CMYK JPEG for one of Adobe's. */
static void cmyk_to_rgb(uint8_t *rgb, const uint8_t *cmyk, int width)
{
    for (int x = 0; x < width; x++) {
        int light = cmyk[4 * x + 3];
        for (int i = 0; i < 3; i++) {
            int v = light - mul_255(255 - cmyk[4 * x + i], light);
            rgb[3 * x + i] = (uint8_t)(v < 0 ? 0 : v);
        }
    }
}

/* Leaves by longjmp on any error of libjpeg; *im and c->cmyk are then freed by the caller. */
static ts_status read_picture(jpeg_context *c, ts_image *im, const char *name, size_t n)
{
    struct jpeg_decompress_struct *d = &c->cinfo;
    jpeg_read_header(d, TRUE);
    if (d->num_components != 1 && d->num_components != 3 && d->num_components != 4)
        return ts_fail(TS_E_DATA, "%s: a JPEG with %d components; 1, 3 and 4 are read", name, d->num_components);
    uint64_t pixels = (uint64_t)d->image_width * d->image_height;
    if (pixels / (d->arith_code ? ARITHMETIC_RATIO : HUFFMAN_RATIO) > n)
        return ts_fail(TS_E_DATA, "%s: not a whole JPEG: %zu bytes cannot hold %u x %u pixels", name, n, d->image_width,
                       d->image_height);
    TS_TRY(ts_image_alloc(im, d->image_width, d->image_height, name));
    d->out_color_space = d->num_components == 4 ? JCS_CMYK : JCS_RGB;
    if (d->num_components == 4 && !(c->cmyk = malloc((size_t)im->width * 4)))
        return ts_fail(TS_E_NOMEM, "%s: out of memory", name);
    jpeg_start_decompress(d);
    while (d->output_scanline < d->output_height) {
        uint8_t *row = im->rgb + (size_t)d->output_scanline * im->width * 3;
        JSAMPROW to = c->cmyk ? c->cmyk : row;
        jpeg_read_scanlines(d, &to, 1);
        if (c->cmyk) cmyk_to_rgb(row, c->cmyk, im->width);
    }
    jpeg_finish_decompress(d);
    return TS_OK;
}

static ts_status report(jpeg_context *c, const char *name)
{
    char message[JMSG_LENGTH_MAX];
    if (c->truncated) return ts_fail(TS_E_DATA, "%s: damaged JPEG: the file ends too early", name);
    if (c->too_many_scans) return ts_fail(TS_E_DATA, "%s: a JPEG of more than %d scans", name, MAX_SCANS);
    c->err.format_message((j_common_ptr)&c->cinfo, message);
    if (c->err.msg_code == JERR_OUT_OF_MEMORY) return ts_fail(TS_E_NOMEM, "%s: out of memory", name);
    return ts_fail(TS_E_DATA, "%s: damaged JPEG: %s", name, message);
}

ts_status ts_jpeg_decode(ts_image *im, const char *name, const uint8_t *bytes, size_t n)
{
    jpeg_context c = { 0 };
    ts_status volatile st = TS_OK;
    *im = (ts_image){ 0 };
    c.cinfo.err = jpeg_std_error(&c.err);
    c.err.error_exit = on_error;
    c.err.emit_message = on_message;
    c.cinfo.client_data = &c;
    if (setjmp(c.back) == 0) {
        jpeg_create_decompress(&c.cinfo);
        c.progress.progress_monitor = count_scans;
        c.cinfo.progress = &c.progress;
        jpeg_mem_src(&c.cinfo, bytes, n);
        st = read_picture(&c, im, name, n);
    } else {
        st = report(&c, name);
    }
    jpeg_destroy_decompress(&c.cinfo);
    free(c.cmyk);
    if (st != TS_OK) ts_image_free(im);
    return st;
}
