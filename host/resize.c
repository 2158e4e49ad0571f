/* resize.c - Pillow's resampling. Contract: resize.h.
 *
 * Both passes are weighted sums of rows of equal length, which is what vectorises. For the columns a block of BLOCK
 * rows is transposed first, so that the BLOCK*3 bytes of one column lie side by side.
 */
#include "host/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/codec.h"

enum { BITS = 22, BLOCK = 16, COLUMN = BLOCK * 3 };

typedef struct {
    int taps;       /* weights per output position */
    int *first, *n; /* inputs first .. first+n-1 */
    int32_t *weight;
} plan;

static double box(double x)
{
    return x > -0.5 && x <= 0.5 ? 1 : 0;
}

static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

static double sinc(double x)
{
    if (x == 0) return 1;
    x *= M_PI;
    return sin(x) / x;
}

static double lanczos(double x)
{
    return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

static const struct {
    double (*f)(double);
    double support;
} FILTERS[] = {
    [TS_FILTER_BOX] = { box, 0.5 }, [TS_FILTER_BICUBIC] = { bicubic, 2 }, [TS_FILTER_LANCZOS] = { lanczos, 3 }
};

static void plan_free(plan *p)
{
    free(p->first);
    free(p->n);
    free(p->weight);
}

/* Weights of the output positions from .. from+count-1 of n_out. 0 when memory is out. */
static int plan_make(plan *p, int n_in, int n_out, int from, int count, ts_filter filter)
{
    double scale = (double)n_in / n_out, wide = fmax(scale, 1), reach = FILTERS[filter].support * wide;
    p->taps = (int)ceil(reach) * 2 + 1;
    p->first = malloc(sizeof *p->first * (size_t)count);
    p->n = malloc(sizeof *p->n * (size_t)count);
    p->weight = malloc(sizeof *p->weight * (size_t)count * (size_t)p->taps);
    double *w = malloc(sizeof *w * (size_t)p->taps);
    int ok = p->first && p->n && p->weight && w;
    for (int j = 0; ok && j < count; j++) {
        double centre = (from + j + 0.5) * scale, sum = 0;
        int lo = (int)(centre - reach + 0.5), hi = (int)(centre + reach + 0.5);
        lo = lo < 0 ? 0 : lo;
        hi = hi > n_in ? n_in : hi;
        for (int i = lo; i < hi; i++) sum += w[i - lo] = FILTERS[filter].f((i - centre + 0.5) * (1 / wide));
        for (int i = 0; i < hi - lo; i++) {
            double fixed = (sum != 0 ? w[i] / sum : w[i]) * (1 << BITS);
            p->weight[(size_t)j * p->taps + i] = (int32_t)(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
        }
        p->first[j] = lo;
        p->n[j] = hi - lo;
    }
    free(w);
    return ok;
}

/* out[0..length) = the weighted sum of n rows that lie `stride` bytes apart. */
static void sum_rows(uint8_t *restrict out, const uint8_t *restrict rows, size_t stride, const int32_t *restrict weight,
                     int n, int length)
{
    int32_t sum[COLUMN];
    for (int j = 0; j < length; j++) sum[j] = 1 << (BITS - 1);
    for (int i = 0; i < n; i++, rows += stride)
#pragma omp simd
        for (int j = 0; j < length; j++) sum[j] += weight[i] * rows[j];
#pragma omp simd
    for (int j = 0; j < length; j++) {
        int32_t v = sum[j] >> BITS;
        out[j] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
    }
}

/* Rows to columns: to[x][row][3] = from[row][x][3]; and back. */
static void transpose(uint8_t *restrict to, const uint8_t *restrict from, int rows, int width)
{
    for (int r = 0; r < rows; r++)
        for (int x = 0; x < width; x++) memcpy(to + (size_t)x * COLUMN + r * 3, from + ((size_t)r * width + x) * 3, 3);
}

static void transpose_back(uint8_t *restrict to, const uint8_t *restrict from, int rows, int width)
{
    for (int r = 0; r < rows; r++)
        for (int x = 0; x < width; x++) memcpy(to + ((size_t)r * width + x) * 3, from + (size_t)x * COLUMN + r * 3, 3);
}

/* Filter the columns of `rows` rows; scratch holds (width + p's outputs) columns. */
static void pass_columns(uint8_t *out, const uint8_t *in, int rows, int width, const plan *p, int n_out,
                         uint8_t *scratch)
{
    uint8_t *turned = scratch + (size_t)width * COLUMN;
    for (int y = 0; y < rows; y += BLOCK) {
        int n = rows - y < BLOCK ? rows - y : BLOCK;
        transpose(scratch, in + (size_t)y * width * 3, n, width);
        for (int x = 0; x < n_out; x++)
            sum_rows(turned + (size_t)x * COLUMN, scratch + (size_t)p->first[x] * COLUMN, COLUMN,
                     p->weight + (size_t)x * p->taps, p->n[x], COLUMN);
        transpose_back(out + (size_t)y * n_out * 3, turned, n, n_out);
    }
}

/* Filter the rows; `in` begins with the picture's row `first_row`. */
static void pass_rows(uint8_t *out, const uint8_t *in, int width, const plan *p, int n_out, int first_row)
{
    size_t stride = (size_t)width * 3;
    for (int y = 0; y < n_out; y++) {
        const uint8_t *rows = in + (size_t)(p->first[y] - first_row) * stride;
        for (size_t x = 0; x < stride; x += COLUMN)
            sum_rows(out + (size_t)y * stride + x, rows + x, stride, p->weight + (size_t)y * p->taps, p->n[y],
                     stride - x < COLUMN ? (int)(stride - x) : COLUMN);
    }
}

/* The window's columns of rows first .. first+rows-1, without filtering. */
static void copy_columns(uint8_t *out, const ts_image *in, int first, int rows, const ts_window *w)
{
    for (int y = 0; y < rows; y++)
        memcpy(out + (size_t)y * w->width * 3, in->rgb + ((size_t)(first + y) * in->width + w->left) * 3,
               (size_t)w->width * 3);
}

ts_status ts_image_resize(ts_image *out, const ts_image *in, int width, int height, ts_filter filter,
                          const ts_window *window, const char *name)
{
    const ts_window all = { 0, 0, width, height }, *w = window ? window : &all;
    *out = (ts_image){ 0 };
    if (width < 1 || height < 1 || w->left < 0 || w->top < 0 || w->width < 1 || w->height < 1 ||
        w->left > width - w->width || w->top > height - w->height)
        return ts_fail(TS_E_ARG, "%s: cannot cut %d x %d at %d, %d out of %d x %d pixels", name, w->width, w->height,
                       w->left, w->top, width, height);
    int columns = in->width != width, rows = in->height != height;
    plan px = { 0 }, py = { 0 };
    ts_image narrow = { 0 }; /* after the columns: only the rows that the window needs */
    uint8_t *scratch = columns ? malloc(((size_t)in->width + (size_t)w->width) * COLUMN) : NULL;
    ts_status st = TS_OK;
    int first = w->top, end = w->top + w->height;
    if ((columns && (!scratch || !plan_make(&px, in->width, width, w->left, w->width, filter))) ||
        (rows && !plan_make(&py, in->height, height, w->top, w->height, filter))) {
        st = ts_fail(TS_E_NOMEM, "%s: out of memory", name);
        goto done;
    }
    if (rows) first = py.first[0], end = py.first[w->height - 1] + py.n[w->height - 1];
    if ((st = ts_image_alloc(&narrow, w->width, end - first, name)) != TS_OK) goto done;
    if (columns)
        pass_columns(narrow.rgb, in->rgb + (size_t)first * in->width * 3, end - first, in->width, &px, w->width,
                     scratch);
    else
        copy_columns(narrow.rgb, in, first, end - first, w);
    if (rows) {
        if ((st = ts_image_alloc(out, w->width, w->height, name)) != TS_OK) goto done;
        pass_rows(out->rgb, narrow.rgb, w->width, &py, w->height, first);
    } else {
        *out = narrow;
        narrow.rgb = NULL;
    }
done:
    ts_image_free(&narrow);
    free(scratch);
    plan_free(&px);
    plan_free(&py);
    return st;
}
