/* winograd.c - contract and formula: winograd.h. */
#include "kernels/cpu/winograd.h"

#include <omp.h>

#include "kernels/cpu/product.h"
#include "kernels/cpu/stream.h"

enum {
    POINTS = 16,    /* of a transformed tile                                                       */
    TILES = 24,     /* that go through the products together: 2 x 250 KB at 160 channels           */
    NARROW = 32,    /* fewer channels than this are not worth the transforms                       */
    FEWEST = 16,    /* tiles of an image: below, weights that grow by 16/9 would be read too often */
    DW_TILES = 48,  /* that add to dw together, and                                                */
    DW_PIECE = 80   /* channels of either side, so that the sums of a piece of dw (400 KB) stay    */
};

int winograd_takes(const ts_conv2d *c)
{
    const int64_t tiles = (ts_conv2d_out(c, c->Y) / 2) * (ts_conv2d_out(c, c->X) / 2);
    const int padded = c->pad_lo >= 0 && c->pad_lo <= 2 && c->pad_hi >= 0 && c->pad_hi <= 2;
    return c->k == 3 && c->stride == 1 && padded && c->math == TS_MATH_F32 && c->C >= NARROW && c->O >= NARROW && tiles >= FEWEST;
}

ts_conv2d winograd_adjoint(const ts_conv2d *c)
{
    ts_conv2d a = *c;
    a.Y = ts_conv2d_out(c, c->Y);
    a.X = ts_conv2d_out(c, c->X);
    a.C = c->O;
    a.O = c->C;
    a.pad_lo = 2 - c->pad_lo;
    a.pad_hi = 2 - c->pad_hi;
    return a;
}

static int64_t outputs_pad(const ts_conv2d *c)
{
    return ts_round_up(c->O, VF);
}

/* Channels of the inputs or of the outputs, where there are more. */
static int64_t most_channels(const ts_conv2d *c)
{
    return ts_round_up(c->C > c->O ? c->C : c->O, VF);
}

/* Of one thread: transformed inputs (POINTS, TILES, C), products (POINTS, TILES, O), a row of zeros and one for what is not wanted. */
static int64_t room(const ts_conv2d *c)
{
    return POINTS * TILES * (c->C + outputs_pad(c)) + most_channels(c) + outputs_pad(c);
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

enum { LINE = PANEL < 16 ? PANEL : 16 }; /* kernels that are transformed together: neighbours in memory, a line of the cache */

/* G g G' of n kernels, tap t of kernel i at g[t*tap + i]. G: 1 0 0 / .5 .5 .5 / .5 -.5 .5 / 0 0 1 */
static void transform_kernels(float point[POINTS][LINE], const float *g, int64_t tap, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float rows[4][3];
#pragma GCC unroll 3
        for (int x = 0; x < 3; x++) {
            const float a = g[x * tap + i], b = g[(3 + x) * tap + i], c = g[(6 + x) * tap + i];
            rows[0][x] = a;
            rows[1][x] = 0.5f * (a + b + c);
            rows[2][x] = 0.5f * (a - b + c);
            rows[3][x] = c;
        }
#pragma GCC unroll 4
        for (int y = 0; y < 4; y++) {
            const float a = rows[y][0], b = rows[y][1], c = rows[y][2];
            point[4 * y][i] = a;
            point[4 * y + 1][i] = 0.5f * (a + b + c);
            point[4 * y + 2][i] = 0.5f * (a - b + c);
            point[4 * y + 3][i] = c;
        }
    }
}

/* Inputs i0.. of the weights, n of them, and outputs o0.., as many as a panel has, from w (O,3,3,C). */
static void transform_square(float *u, const float *w, const ts_conv2d *c, int64_t i0, int64_t n, int64_t o0)
{
    float point[PANEL][POINTS][LINE];
    const int64_t outputs = c->O - o0 < PANEL ? c->O - o0 : PANEL;
    memset(point[outputs], 0, (size_t)(PANEL - outputs) * sizeof point[0]);
    for (int64_t o = 0; o < outputs; o++) transform_kernels(point[o], w + (o0 + o) * 9 * c->C + i0, c->C, n);
    for (int p = 0; p < POINTS; p++)
        for (int64_t i = 0; i < n; i++) {
            float *to = point_of(u, c, p).p + o0 * c->C + (i0 + i) * PANEL;
            for (int o = 0; o < PANEL; o++) to[o] = point[o][p][i];
        }
}

/* Input i and outputs o0.., LINE of them, of the weights of an adjoint, from w (C,3,3,O), whose taps run backwards. */
static void transform_turned(float *u, const float *w, const ts_conv2d *c, int64_t i, int64_t o0)
{
    float point[POINTS][LINE] = { { 0 } };
    const int64_t n = c->O - o0 < LINE ? c->O - o0 : LINE;
    transform_kernels(point, w + (9 * i + 8) * c->O + o0, -c->O, n);
    for (int p = 0; p < POINTS; p++)
        memcpy(point_of(u, c, p).p + o0 / PANEL * PANEL * c->C + i * PANEL + o0 % PANEL, point[p], sizeof point[p]);
}

void winograd_transform(const ts_stream *s, float *u, const float *w, const ts_conv2d *c, int adjoint)
{
#pragma omp parallel for num_threads(s->threads)
    for (int64_t i0 = 0; i0 < c->C; i0 += LINE) {
        const int64_t n = c->C - i0 < LINE ? c->C - i0 : LINE;
        for (int64_t o0 = 0; !adjoint && o0 < c->O; o0 += PANEL) transform_square(u, w, c, i0, n, o0);
        for (int64_t i = 0; adjoint && i < n; i++)
            for (int64_t o0 = 0; o0 < c->O; o0 += LINE) transform_turned(u, w, c, i0 + i, o0);
    }
}

/* B' d B of `channels` channels, from `first` on, of one tile into 16 rows that are `apart` floats apart. d: where the 4x4 inputs stand. */
static void transform_inputs(float *v, int64_t apart, const float *d[4][4], int64_t first, int64_t channels)
{
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
        float rows[4][4];
#pragma GCC unroll 4
        for (int x = 0; x < 4; x++) {
            const float d0 = d[0][x][first + c], d1 = d[1][x][first + c], d2 = d[2][x][first + c], d3 = d[3][x][first + c];
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
#pragma GCC unroll 4
        for (int x = 0; x < 4; x++) {
            const float m0 = m[x * apart + o], m1 = m[(4 + x) * apart + o], m2 = m[(8 + x) * apart + o], m3 = m[(12 + x) * apart + o];
            top[x] = m0 + m1 + m2;
            bottom[x] = m1 - m2 - m3;
        }
        y00[o] = top[0] + top[1] + top[2] + b[o];
        y01[o] = top[1] - top[2] - top[3] + b[o];
        y10[o] = bottom[0] + bottom[1] + bottom[2] + b[o];
        y11[o] = bottom[1] - bottom[2] - bottom[3] + b[o];
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

static int64_t tiles_of(const ts_conv2d *c)
{
    return c->B * ((ts_conv2d_out(c, c->Y) + 1) / 2) * ((ts_conv2d_out(c, c->X) + 1) / 2);
}

/* d: where the inputs of a tile stand. */
static void find_inputs(const float *d[4][4], const float *x, const float *zeros, const ts_conv2d *c, int64_t tile)
{
    const place at = place_of(c, tile);
    for (int64_t i = 0; i < 4; i++)
        for (int64_t j = 0; j < 4; j++) {
            const int64_t row = at.y + i - c->pad_lo, column = at.x + j - c->pad_lo;
            const int inside = row >= 0 && row < c->Y && column >= 0 && column < c->X;
            d[i][j] = inside ? x + ((at.b * c->Y + row) * c->X + column) * c->C : zeros;
        }
}

static void read_tile(float *v, const float *x, const float *zeros, const ts_conv2d *c, int64_t tile)
{
    const float *d[4][4];
    find_inputs(d, x, zeros, c, tile);
    transform_inputs(v, TILES * c->C, d, 0, c->C);
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
    const int64_t tiles = tiles_of(c);
    const int64_t ldc = outputs_pad(c), size = ts_round_up(room(c), 16);
    float *base = (float *)(((uintptr_t)scratch + 63) / 64 * 64);
#pragma omp parallel num_threads(s->threads)
    {
        float *v = base + omp_get_thread_num() * size, *m = v + POINTS * TILES * c->C, *zeros = m + POINTS * TILES * ldc;
        float *unwanted = zeros + most_channels(c);
        memset(zeros, 0, (size_t)most_channels(c) * sizeof *zeros);
#pragma omp for schedule(dynamic, 4)
        for (int64_t t = 0; t < tiles; t += TILES) {
            const int64_t n = tiles - t < TILES ? tiles - t : TILES;
            for (int64_t i = 0; i < n; i++) read_tile(v + i * c->C, x, zeros, c, t + i);
            for (int p = 0; p < POINTS; p++)
                ts_product(m + p * TILES * ldc, ldc, (ts_left){ v + p * TILES * c->C, c->C, 1 }, point_of(u, c, p), n, c->O, 0, c->C, 0);
            for (int64_t i = 0; i < n; i++) write_tile(y, m + i * ldc, unwanted, b ? b : zeros, c, t + i);
        }
    }
}

/* ---- gradient of the weights: dw = G' [ sum over tiles of (A dy A') . (B' d B) ] G ---- */

/* A dy A' of one tile into 16 rows that are `apart` floats apart. dy: where the 2x2 gradients stand. */
static void transform_gradients(float *m, int64_t apart, const float *dy[2][2], int64_t O)
{
#pragma omp simd
    for (int64_t o = 0; o < O; o++) {
        float rows[4][2];
#pragma GCC unroll 2
        for (int x = 0; x < 2; x++) {
            const float top = dy[0][x][o], bottom = dy[1][x][o];
            rows[0][x] = top;
            rows[1][x] = top + bottom;
            rows[2][x] = top - bottom;
            rows[3][x] = -bottom;
        }
#pragma GCC unroll 4
        for (int y = 0; y < 4; y++) {
            float *to = m + 4 * y * apart + o;
            to[0] = rows[y][0];
            to[apart] = rows[y][0] + rows[y][1];
            to[2 * apart] = rows[y][0] - rows[y][1];
            to[3 * apart] = -rows[y][1];
        }
    }
}

static void read_gradients(float *m, int64_t apart, const float *dy, int64_t channels, const float *zeros, const ts_conv2d *c,
                           int64_t tile)
{
    const place at = place_of(c, tile);
    const int64_t rows = ts_conv2d_out(c, c->Y), columns = ts_conv2d_out(c, c->X);
    const float *from[2][2];
    for (int64_t i = 0; i < 2; i++)
        for (int64_t j = 0; j < 2; j++) {
            const int inside = at.y + i < rows && at.x + j < columns;
            from[i][j] = inside ? dy + ((at.b * rows + at.y + i) * columns + at.x + j) * c->O : zeros;
        }
    transform_gradients(m, apart, from, channels);
}

/* dw (O,3,3,C) += G' sum G for output o; sum: 16 rows that are `apart` floats apart, of `channels` input channels. */
static void add_to_weights(float *dw, const float *sum, int64_t apart, int64_t channels, int64_t C)
{
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
        float rows[3][4];
#pragma GCC unroll 4
        for (int x = 0; x < 4; x++) {
            const float s0 = sum[x * apart + c], s1 = sum[(4 + x) * apart + c], s2 = sum[(8 + x) * apart + c];
            const float s3 = sum[(12 + x) * apart + c];
            rows[0][x] = s0 + 0.5f * (s1 + s2);
            rows[1][x] = 0.5f * (s1 - s2);
            rows[2][x] = 0.5f * (s1 + s2) + s3;
        }
#pragma GCC unroll 3
        for (int y = 0; y < 3; y++) {
            float *to = dw + 3 * y * C + c;
            to[0] += rows[y][0] + 0.5f * (rows[y][1] + rows[y][2]);
            to[C] += 0.5f * (rows[y][1] - rows[y][2]);
            to[2 * C] += 0.5f * (rows[y][1] + rows[y][2]) + rows[y][3];
        }
    }
}

/* Channels of dw are cut into pieces of `outputs` by `inputs`, one thread each; the sums do not depend on how. */
typedef struct {
    int64_t outputs, inputs;
} cut;

static int64_t pieces(int64_t channels, int64_t each)
{
    return (channels + each - 1) / each;
}

static cut cut_of(const ts_stream *s, const ts_conv2d *c)
{
    enum { LEAST = 8 };
    cut n = { c->O < DW_PIECE ? c->O : DW_PIECE, c->C < DW_PIECE ? c->C : ts_round_up(DW_PIECE, PANEL) };
    while (pieces(c->O, n.outputs) * pieces(c->C, n.inputs) < s->threads && n.outputs >= 2 * LEAST) n.outputs = (n.outputs + 1) / 2;
    return n;
}

/* Of one thread: transformed inputs (POINTS, DW_TILES, inputs) in panels, gradients (POINTS, DW_TILES, outputs), sums (POINTS, outputs, inputs),
 * zeros. */
static int64_t dw_room(const ts_conv2d *c, cut n)
{
    const int64_t inputs = ts_round_up(n.inputs, PANEL);
    return POINTS * (DW_TILES * (inputs + n.outputs) + n.outputs * inputs) + most_channels(c);
}

size_t winograd_dw_scratch(const ts_stream *s, const ts_conv2d *c)
{
    return (size_t)(ts_round_up(dw_room(c, cut_of(s, c)), 16) * s->threads) * sizeof(float) + 64;
}

/* A piece of dw: outputs o0.. O of them, inputs c0.. C of them. */
typedef struct {
    int64_t o0, O, c0, C;
} piece;

static piece piece_of(const ts_conv2d *c, cut n, int64_t i)
{
    const int64_t o0 = i / pieces(c->C, n.inputs) * n.outputs, c0 = i % pieces(c->C, n.inputs) * n.inputs;
    return (piece){ o0, c->O - o0 < n.outputs ? c->O - o0 : n.outputs, c0, c->C - c0 < n.inputs ? c->C - c0 : n.inputs };
}

static void add_piece(float *dw, const float *dy, const float *x, const ts_conv2d *c, cut n, piece w, float *scratch)
{
    const int64_t inputs = ts_round_up(n.inputs, PANEL), each = DW_TILES * inputs, tiles = tiles_of(c);
    float *v = scratch, *m = v + POINTS * each, *sum = m + POINTS * DW_TILES * n.outputs, *zeros = sum + POINTS * n.outputs * inputs;
    memset(v, 0, (size_t)(POINTS * each) * sizeof *v); /* the columns of panels that are not inputs stay so */
    memset(zeros, 0, (size_t)most_channels(c) * sizeof *zeros);
    for (int64_t t = 0; t < tiles; t += DW_TILES) {
        const int64_t together = tiles - t < DW_TILES ? tiles - t : DW_TILES;
        for (int64_t k = 0; k < together; k++) {
            const float *d[4][4];
            find_inputs(d, x, zeros, c, t + k);
            for (int64_t i = 0; i < w.C; i += PANEL)
                transform_inputs(v + i * DW_TILES + k * PANEL, each, d, w.c0 + i, w.C - i < PANEL ? w.C - i : PANEL);
            read_gradients(m + k * n.outputs, DW_TILES * n.outputs, dy + w.o0, w.O, zeros, c, t + k);
        }
        for (int p = 0; p < POINTS; p++)
            ts_product(sum + p * n.outputs * inputs, inputs, (ts_left){ m + p * DW_TILES * n.outputs, 1, n.outputs },
                       (ts_panels){ v + p * each, DW_TILES }, w.O, w.C, 0, together, t > 0);
    }
    for (int64_t o = 0; o < w.O; o++)
        add_to_weights(dw + (w.o0 + o) * 9 * c->C + w.c0, sum + o * inputs, n.outputs * inputs, w.C, c->C);
}

void winograd_dw(const ts_stream *s, float *dw, const float *dy, const float *x, const ts_conv2d *c, void *scratch)
{
    const cut n = cut_of(s, c);
    const int64_t size = ts_round_up(dw_room(c, n), 16);
    float *base = (float *)(((uintptr_t)scratch + 63) / 64 * 64);
#pragma omp parallel for num_threads(s->threads) schedule(dynamic)
    for (int64_t i = 0; i < pieces(c->O, n.outputs) * pieces(c->C, n.inputs); i++)
        add_piece(dw, dy, x, c, n, piece_of(c, n, i), base + omp_get_thread_num() * size);
}
