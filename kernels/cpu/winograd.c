/* winograd.c - contract and formula: winograd.h. */
#include "kernels/cpu/winograd.h"

#include <omp.h>

#include "kernels/cpu/product.h"
#include "kernels/cpu/stream.h"

enum {
    POINTS = 16,  /* of a transformed tile                                                       */
    TILES = 24,   /* that go through the products together: 2 x 250 KB at 160 channels           */
    NARROW = 32,  /* fewer channels than this are not worth the transforms                       */
    FEWEST = 256  /* tiles of an image: below, weights that grow by 16/9 would be read too often */
};

int winograd_takes(const ts_conv2d *c)
{
    const int64_t tiles = (ts_conv2d_out(c, c->Y) / 2) * (ts_conv2d_out(c, c->X) / 2);
    return c->k == 3 && c->stride == 1 && c->math == TS_MATH_F32 && c->C >= NARROW && c->O >= NARROW && tiles >= FEWEST;
}

static int64_t outputs_pad(const ts_conv2d *c)
{
    return ts_round_up(c->O, VF);
}

/* Of one thread: transformed inputs (POINTS, TILES, C), products (POINTS, TILES, O), a row of zeros and one for what is not wanted. */
static int64_t room(const ts_conv2d *c)
{
    return POINTS * TILES * (c->C + outputs_pad(c)) + ts_round_up(c->C, VF) + outputs_pad(c);
}

size_t winograd_scratch(const ts_stream *s, const ts_conv2d *c)
{
    return (size_t)(ts_round_up(room(c), 16) * s->threads) * sizeof(float) + 64;
}

size_t winograd_weights(const ts_conv2d *c)
{
    return (size_t)(POINTS * ts_panels_size(c->C, c->O));
}

static ts_panels point_of(float *u, const ts_conv2d *c, int i)
{
    return (ts_panels){ u + i * ts_panels_size(c->C, c->O), c->C };
}

/* G g: 1 0 0 / .5 .5 .5 / .5 -.5 .5 / 0 0 1 */
static void transform_three(float out[4], float a, float b, float c)
{
    out[0] = a;
    out[1] = 0.5f * (a + b + c);
    out[2] = 0.5f * (a - b + c);
    out[3] = c;
}

void winograd_transform(const ts_stream *s, float *u, const float *w, const ts_conv2d *c)
{
    enum { LANES = 64 }; /* outputs at a time */
#pragma omp parallel for num_threads(s->threads)
    for (int64_t i = 0; i < c->C; i++) {
        float all[POINTS][LANES];
        for (int64_t o0 = 0; o0 < c->O; o0 += LANES) {
            const int64_t n = c->O - o0 < LANES ? c->O - o0 : LANES;
            for (int64_t o = 0; o < n; o++) {
                const float *g = w + (o0 + o) * 9 * c->C + i;
                float rows[3][4], point[4];
                for (int y = 0; y < 3; y++) transform_three(rows[y], g[3 * y * c->C], g[(3 * y + 1) * c->C], g[(3 * y + 2) * c->C]);
                for (int x = 0; x < 4; x++) {
                    transform_three(point, rows[0][x], rows[1][x], rows[2][x]);
                    for (int y = 0; y < 4; y++) all[4 * y + x][o] = point[y];
                }
            }
            for (int p = 0; p < POINTS; p++) {
                ts_panels right = point_of(u, c, p);
                right.p += o0 / PANEL * right.rows * PANEL; /* LANES is a multiple of PANEL */
                ts_pack_row(right, i, all[p], n);
            }
        }
    }
}

/* B' d B of one tile into 16 rows that are `apart` floats apart. d: where the 4x4 inputs stand. */
static void transform_inputs(float *v, int64_t apart, const float *d[4][4], int64_t C)
{
#pragma omp simd
    for (int64_t c = 0; c < C; c++) {
        float rows[4][4];
#pragma GCC unroll 4
        for (int x = 0; x < 4; x++) {
            const float d0 = d[0][x][c], d1 = d[1][x][c], d2 = d[2][x][c], d3 = d[3][x][c];
            rows[0][x] = d0 - d2;
            rows[1][x] = d1 + d2;
            rows[2][x] = d2 - d1;
            rows[3][x] = d1 - d3;
        }
#pragma GCC unroll 4
        for (int y = 0; y < 4; y++) {
            float *to = v + 4 * y * apart + c;
            to[0] = rows[y][0] - rows[y][2];
            to[apart] = rows[y][1] + rows[y][2];
            to[2 * apart] = rows[y][2] - rows[y][1];
            to[3 * apart] = rows[y][1] - rows[y][3];
        }
    }
}

/* A' m A of one tile, plus bias. y: where the 2x2 outputs stand. */
static void transform_outputs(float *y[2][2], const float *m, int64_t apart, const float *b, int64_t O)
{
    float *y00 = y[0][0], *y01 = y[0][1], *y10 = y[1][0], *y11 = y[1][1];
#pragma omp simd
    for (int64_t o = 0; o < O; o++) {
        float top[4], bottom[4];
        const float bias = b ? b[o] : 0;
#pragma GCC unroll 4
        for (int x = 0; x < 4; x++) {
            const float m0 = m[x * apart + o], m1 = m[(4 + x) * apart + o], m2 = m[(8 + x) * apart + o], m3 = m[(12 + x) * apart + o];
            top[x] = m0 + m1 + m2;
            bottom[x] = m1 - m2 - m3;
        }
        y00[o] = top[0] + top[1] + top[2] + bias;
        y01[o] = top[1] - top[2] - top[3] + bias;
        y10[o] = bottom[0] + bottom[1] + bottom[2] + bias;
        y11[o] = bottom[1] - bottom[2] - bottom[3] + bias;
    }
}

/* Tile `tile` of all images: image, and its first output. */
typedef struct {
    int64_t b, y, x;
} place;

static place place_of(const ts_conv2d *c, int64_t tile)
{
    const int64_t rows = (ts_conv2d_out(c, c->Y) + 1) / 2, columns = (ts_conv2d_out(c, c->X) + 1) / 2;
    return (place){ tile / (rows * columns), tile / columns % rows * 2, tile % columns * 2 };
}

static void read_tile(float *v, const float *x, const float *zeros, const ts_conv2d *c, int64_t tile)
{
    const place at = place_of(c, tile);
    const float *d[4][4];
    for (int64_t i = 0; i < 4; i++)
        for (int64_t j = 0; j < 4; j++) {
            const int64_t row = at.y + i - c->pad_lo, column = at.x + j - c->pad_lo;
            const int inside = row >= 0 && row < c->Y && column >= 0 && column < c->X;
            d[i][j] = inside ? x + ((at.b * c->Y + row) * c->X + column) * c->C : zeros;
        }
    transform_inputs(v, TILES * c->C, d, c->C);
}

static void write_tile(float *y, const float *m, float *unwanted, const float *b, const ts_conv2d *c, int64_t tile)
{
    const place at = place_of(c, tile);
    const int64_t rows = ts_conv2d_out(c, c->Y), columns = ts_conv2d_out(c, c->X);
    float *to[2][2];
    for (int64_t i = 0; i < 2; i++)
        for (int64_t j = 0; j < 2; j++) {
            const int inside = at.y + i < rows && at.x + j < columns;
            to[i][j] = inside ? y + ((at.b * rows + at.y + i) * columns + at.x + j) * c->O : unwanted;
        }
    transform_outputs(to, m, TILES * outputs_pad(c), b, c->O);
}

void winograd_run(const ts_stream *s, float *y, const float *x, float *u, const float *b, const ts_conv2d *c, void *scratch)
{
    const int64_t each = ((ts_conv2d_out(c, c->Y) + 1) / 2) * ((ts_conv2d_out(c, c->X) + 1) / 2), tiles = c->B * each;
    const int64_t ldc = outputs_pad(c), size = ts_round_up(room(c), 16);
    float *base = (float *)(((uintptr_t)scratch + 63) / 64 * 64);
#pragma omp parallel num_threads(s->threads)
    {
        float *v = base + omp_get_thread_num() * size, *m = v + POINTS * TILES * c->C, *zeros = m + POINTS * TILES * ldc;
        float *unwanted = zeros + ts_round_up(c->C, VF);
        memset(zeros, 0, (size_t)c->C * sizeof *zeros);
#pragma omp for schedule(dynamic, 4)
        for (int64_t t = 0; t < tiles; t += TILES) {
            const int64_t n = tiles - t < TILES ? tiles - t : TILES;
            for (int64_t i = 0; i < n; i++) read_tile(v + i * c->C, x, zeros, c, t + i);
            for (int p = 0; p < POINTS; p++)
                ts_product(m + p * TILES * ldc, ldc, (ts_left){ v + p * TILES * c->C, c->C, 1 }, point_of(u, c, p), n, c->O, 0, c->C, 0);
            for (int64_t i = 0; i < n; i++) write_tile(y, m + i * ldc, unwanted, b, c, t + i);
        }
    }
}
