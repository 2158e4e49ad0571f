/* resize.c - Pillow's resampling on the CPU. Contract: tessera/op_resize.h. Twin: kernels/cuda/resize.cu.
 *
 * Both passes are weighted sums of rows of equal length, which is what vectorises. For the columns a block of BLOCK
 * rows is transposed first, so that the BLOCK*3 bytes of one column lie side by side.
 */
#include "tessera/op_resize.h"

#include <string.h>

enum { BITS = 22, BLOCK = 16, COLUMN = BLOCK * 3 };

/* out[0..length) = the weighted sum of n rows that lie `stride` bytes apart, of weights that lie `step` apart. */
static void sum_rows(uint8_t *restrict out, const uint8_t *restrict rows, size_t stride, const int32_t *restrict weight,
                     size_t step, int n, int length)
{
    int32_t sum[COLUMN];
    for (int j = 0; j < length; j++) sum[j] = 1 << (BITS - 1);
    for (int i = 0; i < n; i++, rows += stride, weight += step)
#pragma omp simd
        for (int j = 0; j < length; j++) sum[j] += *weight * rows[j];
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

/* Filter the columns of `rows` rows; scratch holds as many columns as are read and written. */
static void pass_columns(uint8_t *out, const uint8_t *in, const int32_t *plan, const ts_resize *r, uint8_t *scratch)
{
    const int rows = r->rows, width = r->in_width, n_out = r->width;
    const int32_t *first = plan, *count = plan + n_out, *weight = plan + 2 * n_out;
    uint8_t *turned = scratch + (size_t)width * COLUMN;
    for (int y = 0; y < rows; y += BLOCK) {
        int n = rows - y < BLOCK ? rows - y : BLOCK;
        transpose(scratch, in + (size_t)y * width * 3, n, width);
        for (int x = 0; x < n_out; x++)
            sum_rows(turned + (size_t)x * COLUMN, scratch + (size_t)first[x] * COLUMN, COLUMN,
                     weight + x, (size_t)n_out, count[x], COLUMN);
        transpose_back(out + (size_t)y * n_out * 3, turned, n, n_out);
    }
}

static void pass_rows(uint8_t *out, const uint8_t *in, const int32_t *plan, const ts_resize *r)
{
    const int32_t *first = plan, *count = plan + r->height, *weight = plan + 2 * r->height;
    const size_t stride = (size_t)r->width * 3;
    for (int y = 0; y < r->height; y++) {
        const uint8_t *rows = in + (size_t)first[y] * stride;
        for (size_t x = 0; x < stride; x += COLUMN)
            sum_rows(out + (size_t)y * stride + x, rows + x, stride, weight + (size_t)y * (size_t)r->taps_y, 1, count[y],
                     stride - x < COLUMN ? (int)(stride - x) : COLUMN);
    }
}

static size_t between_bytes(const ts_resize *r)
{
    return (size_t)r->rows * (size_t)r->width * 3;
}

size_t resize_scratch_cpu(ts_stream *s, const ts_resize *r)
{
    (void)s;
    return between_bytes(r) + ((size_t)r->in_width + (size_t)r->width) * COLUMN;
}

ts_status resize_cpu(ts_stream *s, uint8_t *out, const uint8_t *in, const int32_t *plan, const ts_resize *r, void *scratch)
{
    (void)s;
    uint8_t *between = scratch;
    pass_columns(between, in, plan, r, between + between_bytes(r));
    pass_rows(out, between, plan + (size_t)r->width * (size_t)(2 + r->taps_x), r);
    return TS_OK;
}
