/* winograd.c - contract and formula: winograd.h. */
#include "kernels/cpu/winograd.h"

#include <omp.h>

#include "kernels/cpu/product.h"
#include "kernels/cpu/stream.h"

enum {
    OUT = 4,             /* outputs of a tile, along one side               */
    TAPS = 3,            /* of the kernel                                   */
    IN = OUT + TAPS - 1, /* inputs of a tile, and numbers once transformed  */
    POINTS = IN * IN,
    NARROW = 32,   /* fewer channels than this are not worth the transforms */
    TILES = 12,    /* that go through the products together: 550 KB at 160 channels */
    DW_TILES = 24, /* that add to dw together, and                                  */
    DW_PIECE = 80, /* channels of either side, so that the sums of a piece of dw (900 KB) stay in a cache */
    LANES = 64     /* channels that go through both steps of a transform together, in the first-level one */
};

static int64_t tiles_along(const ts_conv2d *c, int64_t side)
{
    return (ts_conv2d_out(c, side) + OUT - 1) / OUT;
}

static int64_t tiles_of(const ts_conv2d *c)
{
    return c->B * tiles_along(c, c->Y) * tiles_along(c, c->X);
}

/* Transformed weights are four times as many as the weights. They should stay in a cache, or many tiles should use
 * them. */
int winograd_takes(const ts_conv2d *c)
{
    enum { SMALL = 8192, FEW = 4, MANY = 64 }; /* 1.2 MB; tiles of an image */
    const int64_t tiles = tiles_along(c, c->Y) * tiles_along(c, c->X);
    const int padded = c->pad_lo >= 0 && c->pad_lo < TAPS && c->pad_hi >= 0 && c->pad_hi < TAPS;
    return c->k == TAPS && c->stride == 1 && padded && c->math == TS_MATH_F32 && c->C >= NARROW && c->O >= NARROW &&
           tiles >= (c->C * c->O <= SMALL ? FEW : MANY);
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

/* ---- transforms, of the numbers of many channels side by side ----
 *
 * The points of interpolation are 0, a, -a, b, -b and infinity. 3/4 and 3/2 give about half the rounding error of the
 * usual 1 and 2. What makes the rows of B' simple, factors that belong to a point, is in G, which weights meet once. */

#define PA 0.75f
#define PB 1.5f
#define A2 (PA * PA)
#define B2 (PB * PB)
#define SCALE_0 (1 / (A2 * B2))
#define SCALE_A (1 / (2 * A2 * (A2 - B2)))
#define SCALE_B (1 / (2 * B2 * (B2 - A2)))

/* One line of a transform: to = matrix from, for n channels. add: n numbers for each of `to` (outputs alone). */
typedef void line_fn(float *const to[], const float *const from[], const float *add, int64_t n);

#define LINE(name)                                                                                                     \
    static inline __attribute__((always_inline)) void name(float *const to[], const float *const from[],               \
                                                           const float *add, int64_t n)
#define EACH_CHANNEL _Pragma("omp simd") for (int64_t i = 0; i < n; i++)

/* B': IN to IN */
LINE(line_of_inputs)
{
    float *t0 = to[0], *t1 = to[1], *t2 = to[2], *t3 = to[3], *t4 = to[4], *t5 = to[5];
    const float *f0 = from[0], *f1 = from[1], *f2 = from[2], *f3 = from[3], *f4 = from[4], *f5 = from[5];
    (void)add;
    EACH_CHANNEL
    {
        const float d0 = f0[i], d1 = f1[i], d2 = f2[i], d3 = f3[i], d4 = f4[i], d5 = f5[i];
        const float even_a = d4 - B2 * d2, odd_a = PA * (d3 - B2 * d1), even_b = d4 - A2 * d2,
                    odd_b = PB * (d3 - A2 * d1);
        t0[i] = A2 * B2 * d0 - (A2 + B2) * d2 + d4;
        t1[i] = even_a + odd_a;
        t2[i] = even_a - odd_a;
        t3[i] = even_b + odd_b;
        t4[i] = even_b - odd_b;
        t5[i] = A2 * B2 * d1 - (A2 + B2) * d3 + d5;
    }
}

/* A': IN to OUT */
LINE(line_of_outputs)
{
    float *t0 = to[0], *t1 = to[1], *t2 = to[2], *t3 = to[3];
    const float *f0 = from[0], *f1 = from[1], *f2 = from[2], *f3 = from[3], *f4 = from[4], *f5 = from[5];
    EACH_CHANNEL
    {
        const float even_a = f1[i] + f2[i], odd_a = f1[i] - f2[i], even_b = f3[i] + f4[i], odd_b = f3[i] - f4[i];
        t0[i] = f0[i] + even_a + even_b + add[i];
        t1[i] = PA * odd_a + PB * odd_b + add[i];
        t2[i] = A2 * even_a + B2 * even_b + add[i];
        t3[i] = A2 * PA * odd_a + B2 * PB * odd_b + f5[i] + add[i];
    }
}

/* A: OUT to IN */
LINE(line_of_gradients)
{
    float *t0 = to[0], *t1 = to[1], *t2 = to[2], *t3 = to[3], *t4 = to[4], *t5 = to[5];
    const float *f0 = from[0], *f1 = from[1], *f2 = from[2], *f3 = from[3];
    (void)add;
    EACH_CHANNEL
    {
        const float y0 = f0[i], y1 = f1[i], y2 = f2[i], y3 = f3[i];
        const float even_a = y0 + A2 * y2, odd_a = PA * (y1 + A2 * y3), even_b = y0 + B2 * y2,
                    odd_b = PB * (y1 + B2 * y3);
        t0[i] = y0;
        t1[i] = even_a + odd_a;
        t2[i] = even_a - odd_a;
        t3[i] = even_b + odd_b;
        t4[i] = even_b - odd_b;
        t5[i] = y3;
    }
}

/* G: TAPS to IN */
LINE(line_of_weights)
{
    float *t0 = to[0], *t1 = to[1], *t2 = to[2], *t3 = to[3], *t4 = to[4], *t5 = to[5];
    const float *f0 = from[0], *f1 = from[1], *f2 = from[2];
    (void)add;
    EACH_CHANNEL
    {
        const float g0 = f0[i], g1 = f1[i], g2 = f2[i];
        const float even_a = SCALE_A * (g0 + A2 * g2), odd_a = SCALE_A * PA * g1;
        const float even_b = SCALE_B * (g0 + B2 * g2), odd_b = SCALE_B * PB * g1;
        t0[i] = SCALE_0 * g0;
        t1[i] = even_a + odd_a;
        t2[i] = even_a - odd_a;
        t3[i] = even_b + odd_b;
        t4[i] = even_b - odd_b;
        t5[i] = g2;
    }
}

/* G': IN to TAPS */
LINE(line_of_sums)
{
    float *t0 = to[0], *t1 = to[1], *t2 = to[2];
    const float *f0 = from[0], *f1 = from[1], *f2 = from[2], *f3 = from[3], *f4 = from[4], *f5 = from[5];
    (void)add;
    EACH_CHANNEL
    {
        const float even_a = SCALE_A * (f1[i] + f2[i]), odd_a = SCALE_A * PA * (f1[i] - f2[i]);
        const float even_b = SCALE_B * (f3[i] + f4[i]), odd_b = SCALE_B * PB * (f3[i] - f4[i]);
        t0[i] = SCALE_0 * f0[i] + even_a + even_b;
        t1[i] = odd_a + odd_b;
        t2[i] = A2 * even_a + B2 * even_b + f5[i];
    }
}

static const float ZEROS[LANES];

/* matrix from matrix': rows and columns of (in,in) numbers to (out,out) of them, of n <= LANES channels. */
static inline __attribute__((always_inline)) void both_ways(line_fn line, const int in, const int out,
                                                            float *const to[], const float *const from[],
                                                            const float *add, int64_t n)
{
    float between[IN * IN][LANES];
    for (int x = 0; x < in; x++) {
        float *column_to[IN];
        const float *column[IN];
        for (int y = 0; y < out; y++) column_to[y] = between[y * in + x];
        for (int y = 0; y < in; y++) column[y] = from[y * in + x];
        line(column_to, column, ZEROS, n);
    }
    for (int y = 0; y < out; y++) {
        const float *row[IN];
        for (int x = 0; x < in; x++) row[x] = between[y * in + x];
        line(to + y * out, row, add, n);
    }
}

/* ---- weights ---- */

size_t winograd_weights(const ts_conv2d *c)
{
    return (size_t)(POINTS * ts_panels_size(c->C, c->O));
}

static ts_panels point_of(const float *u, const ts_conv2d *c, int i)
{
    return (ts_panels){ (float *)u + i * ts_panels_size(c->C, c->O), c->C };
}

/* Kernels that are transformed together: neighbours in memory, a line of the cache. */
enum { NEAR = PANEL < 16 ? PANEL : 16 };

/* G g G' of n kernels, tap t of kernel i at g[t*tap + i]. */
static void transform_kernels(float point[POINTS][NEAR], const float *g, int64_t tap, int64_t n)
{
    float *to[POINTS];
    const float *from[TAPS * TAPS];
    for (int p = 0; p < POINTS; p++) to[p] = point[p];
    for (int t = 0; t < TAPS * TAPS; t++) from[t] = g + t * tap;
    both_ways(line_of_weights, TAPS, IN, to, from, ZEROS, n);
}

/* Inputs i0.. of the weights, n of them, and outputs o0.., as many as a panel has, from w (O,3,3,C). */
static void transform_square(float *u, const float *w, const ts_conv2d *c, int64_t i0, int64_t n, int64_t o0)
{
    float point[PANEL][POINTS][NEAR];
    const int64_t outputs = ts_at_most(c->O - o0, PANEL);
    memset(point[outputs], 0, (size_t)(PANEL - outputs) * sizeof point[0]);
    for (int64_t o = 0; o < outputs; o++) transform_kernels(point[o], w + (o0 + o) * TAPS * TAPS * c->C + i0, c->C, n);
    for (int p = 0; p < POINTS; p++)
        for (int64_t i = 0; i < n; i++) {
            float *to = point_of(u, c, p).p + o0 * c->C + (i0 + i) * PANEL;
            for (int o = 0; o < PANEL; o++) to[o] = point[o][p][i];
        }
}

/* Input i and outputs o0.., NEAR of them, of the weights of an adjoint, from w (C,3,3,O), whose taps run backwards. */
static void transform_turned(float *u, const float *w, const ts_conv2d *c, int64_t i, int64_t o0)
{
    float point[POINTS][NEAR] = { { 0 } };
    transform_kernels(point, w + (TAPS * TAPS * (i + 1) - 1) * c->O + o0, -c->O, ts_at_most(c->O - o0, NEAR));
    for (int p = 0; p < POINTS; p++)
        memcpy(point_of(u, c, p).p + o0 / PANEL * PANEL * c->C + i * PANEL + o0 % PANEL, point[p], sizeof point[p]);
}

void winograd_transform(const ts_stream *s, float *u, const float *w, const ts_conv2d *c, int adjoint)
{
#pragma omp parallel for num_threads(s->threads)
    for (int64_t i0 = 0; i0 < c->C; i0 += NEAR) {
        const int64_t n = ts_at_most(c->C - i0, NEAR);
        for (int64_t o0 = 0; !adjoint && o0 < c->O; o0 += PANEL) transform_square(u, w, c, i0, n, o0);
        for (int64_t i = 0; adjoint && i < n; i++)
            for (int64_t o0 = 0; o0 < c->O; o0 += NEAR) transform_turned(u, w, c, i0 + i, o0);
    }
}

/* ---- tiles ---- */

/* Tile `tile` of all images: image, and its first output. */
typedef struct {
    int64_t b, y, x;
} place;

static place place_of(const ts_conv2d *c, int64_t tile)
{
    const int64_t rows = tiles_along(c, c->Y), columns = tiles_along(c, c->X);
    return (place){ tile / (rows * columns), tile / columns % rows * OUT, tile % columns * OUT };
}

/* Where the inputs of a tile stand; those outside of the image at zeros. */
static void find_inputs(const float *d[POINTS], const float *x, const float *zeros, const ts_conv2d *c, int64_t tile)
{
    const place at = place_of(c, tile);
    for (int64_t i = 0; i < POINTS; i++) {
        const int64_t row = at.y + i / IN - c->pad_lo, column = at.x + i % IN - c->pad_lo;
        const int inside = row >= 0 && row < c->Y && column >= 0 && column < c->X;
        d[i] = inside ? x + ((at.b * c->Y + row) * c->X + column) * c->C : zeros;
    }
}

/* Where the outputs of a tile stand in y (B,Yo,Xo,O), as offsets; -1 where there is none. */
static void find_outputs(int64_t at[OUT * OUT], const ts_conv2d *c, int64_t tile)
{
    const place first = place_of(c, tile);
    const int64_t rows = ts_conv2d_out(c, c->Y), columns = ts_conv2d_out(c, c->X);
    for (int64_t i = 0; i < OUT * OUT; i++) {
        const int64_t row = first.y + i / OUT, column = first.x + i % OUT;
        at[i] = row < rows && column < columns ? ((first.b * rows + row) * columns + column) * c->O : -1;
    }
}

/* B' d B of channels c0.. of a tile, n <= LANES of them, into POINTS rows that are `apart` floats apart. */
static void transform_inputs(float *v, int64_t apart, const float *const d[POINTS], int64_t c0, int64_t n)
{
    float *to[POINTS];
    const float *from[POINTS];
    for (int p = 0; p < POINTS; p++) {
        to[p] = v + p * apart;
        from[p] = d[p] + c0;
    }
    both_ways(line_of_inputs, IN, IN, to, from, ZEROS, n);
}

static void read_tile(float *v, const float *x, const float *zeros, const ts_conv2d *c, int64_t tile)
{
    const float *d[POINTS];
    find_inputs(d, x, zeros, c, tile);
    for (int64_t i = 0; i < c->C; i += LANES) transform_inputs(v + i, TILES * c->C, d, i, ts_at_most(c->C - i, LANES));
}

/* A' m A of a tile, plus bias. */
static void write_tile(float *y, const float *m, float *unwanted, const float *b, const ts_conv2d *c, int64_t tile)
{
    int64_t at[OUT * OUT];
    find_outputs(at, c, tile);
    for (int64_t o = 0; o < c->O; o += LANES) {
        float *to[OUT * OUT];
        const float *from[POINTS];
        for (int i = 0; i < OUT * OUT; i++) to[i] = (at[i] < 0 ? unwanted : y + at[i]) + o;
        for (int p = 0; p < POINTS; p++) from[p] = m + p * TILES * outputs_pad(c) + o;
        both_ways(line_of_outputs, IN, OUT, to, from, b + o, ts_at_most(c->O - o, LANES));
    }
}

/* Of one thread: transformed inputs (POINTS, TILES, C), products (POINTS, TILES, O), a row of zeros and one for what is
 * not wanted. */
static int64_t room(const ts_conv2d *c)
{
    return POINTS * TILES * (c->C + outputs_pad(c)) + most_channels(c) + outputs_pad(c);
}

size_t winograd_scratch(const ts_stream *s, const ts_conv2d *c)
{
    return (size_t)(ts_round_up(room(c), 16) * s->threads) * sizeof(float) + 64;
}

void winograd_run(const ts_stream *s, float *y, const float *x, const float *u, const float *b, const ts_conv2d *c,
                  void *scratch)
{
    const int64_t tiles = tiles_of(c), ldc = outputs_pad(c), size = ts_round_up(room(c), 16);
    float *base = ts_next_line(scratch);
#pragma omp parallel num_threads(s->threads)
    {
        float *v = base + omp_get_thread_num() * size, *m = v + POINTS * TILES * c->C,
              *zeros = m + POINTS * TILES * ldc;
        float *unwanted = zeros + most_channels(c);
        memset(zeros, 0, (size_t)most_channels(c) * sizeof *zeros);
#pragma omp for schedule(dynamic, 4)
        for (int64_t t = 0; t < tiles; t += TILES) {
            const int64_t n = ts_at_most(tiles - t, TILES);
            for (int64_t i = 0; i < n; i++) read_tile(v + i * c->C, x, zeros, c, t + i);
            for (int p = 0; p < POINTS; p++)
                ts_product(m + p * TILES * ldc, ldc, (ts_left){ v + p * TILES * c->C, c->C, 1 }, point_of(u, c, p), n,
                           c->O, 0, c->C, 0);
            for (int64_t i = 0; i < n; i++) write_tile(y, m + i * ldc, unwanted, b ? b : zeros, c, t + i);
        }
    }
}

/* ---- gradient of the weights: dw = G' [ sum over tiles of (A dy A') . (B' d B) ] G ---- */

/* A dy A' of outputs o0.. of a tile, n of them, into POINTS rows that are `apart` floats apart. */
static void read_gradients(float *m, int64_t apart, const float *dy, int64_t o0, int64_t n, const float *zeros,
                           const ts_conv2d *c, int64_t tile)
{
    int64_t at[OUT * OUT];
    find_outputs(at, c, tile);
    for (int64_t o = 0; o < n; o += LANES) {
        float *to[POINTS];
        const float *from[OUT * OUT];
        for (int p = 0; p < POINTS; p++) to[p] = m + p * apart + o;
        for (int i = 0; i < OUT * OUT; i++) from[i] = (at[i] < 0 ? zeros : dy + at[i]) + o0 + o;
        both_ways(line_of_gradients, OUT, IN, to, from, ZEROS, ts_at_most(n - o, LANES));
    }
}

/* dw += G' sum G for one output; sum: POINTS rows that are `apart` floats apart, of `channels` input channels of C. */
static void add_to_weights(float *dw, const float *sum, int64_t apart, int64_t channels, int64_t C)
{
    for (int64_t c = 0; c < channels; c += LANES) {
        float g[TAPS * TAPS][LANES], *to[TAPS * TAPS];
        const float *from[POINTS];
        const int64_t n = ts_at_most(channels - c, LANES);
        for (int t = 0; t < TAPS * TAPS; t++) to[t] = g[t];
        for (int p = 0; p < POINTS; p++) from[p] = sum + p * apart + c;
        both_ways(line_of_sums, IN, TAPS, to, from, ZEROS, n);
        for (int t = 0; t < TAPS * TAPS; t++)
            for (int64_t i = 0; i < n; i++) dw[t * C + c + i] += g[t][i];
    }
}

/* Channels of dw are cut into pieces of `outputs` by `inputs`, one thread each; the sums do not depend on how. */
typedef struct {
    int64_t outputs, inputs;
} cut;

static cut cut_of(const ts_stream *s, const ts_conv2d *c)
{
    enum { LEAST = 8 };
    cut n = { ts_at_most(c->O, DW_PIECE), ts_at_most(c->C, ts_round_up(DW_PIECE, PANEL)) };
    while (ts_pieces(c->O, n.outputs) * ts_pieces(c->C, n.inputs) < s->threads && n.outputs >= 2 * LEAST)
        n.outputs = (n.outputs + 1) / 2;
    return n;
}

/* Of one thread: transformed inputs (POINTS, DW_TILES, inputs) in panels, gradients (POINTS, DW_TILES, outputs), sums
 * (POINTS, outputs, inputs), zeros. */
static int64_t dw_room(const ts_conv2d *c, cut n)
{
    const int64_t inputs = ts_round_up(n.inputs, PANEL);
    return POINTS * (DW_TILES * (inputs + n.outputs) + n.outputs * inputs) + most_channels(c);
}

size_t winograd_dw_scratch(const ts_stream *s, const ts_conv2d *c)
{
    return (size_t)(ts_round_up(dw_room(c, cut_of(s, c)), 16) * s->threads) * sizeof(float) + 64;
}

/* A piece of dw: O outputs from o0 on, C inputs from c0 on. */
typedef struct {
    int64_t o0, O, c0, C;
} piece;

static piece piece_of(const ts_conv2d *c, cut n, int64_t i)
{
    const int64_t o0 = i / ts_pieces(c->C, n.inputs) * n.outputs, c0 = i % ts_pieces(c->C, n.inputs) * n.inputs;
    return (piece){ o0, ts_at_most(c->O - o0, n.outputs), c0, ts_at_most(c->C - c0, n.inputs) };
}

static void add_piece(float *dw, const float *dy, const float *x, const ts_conv2d *c, cut n, piece w, float *scratch)
{
    const int64_t inputs = ts_round_up(n.inputs, PANEL), each = DW_TILES * inputs, tiles = tiles_of(c);
    float *v = scratch, *m = v + POINTS * each, *sum = m + POINTS * DW_TILES * n.outputs,
          *zeros = sum + POINTS * n.outputs * inputs;
    memset(v, 0, (size_t)(POINTS * each) * sizeof *v); /* the columns of panels that are not inputs stay so */
    memset(zeros, 0, (size_t)most_channels(c) * sizeof *zeros);
    for (int64_t t = 0; t < tiles; t += DW_TILES) {
        const int64_t together = ts_at_most(tiles - t, DW_TILES);
        for (int64_t k = 0; k < together; k++) {
            const float *d[POINTS];
            find_inputs(d, x, zeros, c, t + k);
            for (int64_t i = 0; i < w.C; i += PANEL)
                transform_inputs(v + i * DW_TILES + k * PANEL, each, d, w.c0 + i, ts_at_most(w.C - i, PANEL));
            read_gradients(m + k * n.outputs, DW_TILES * n.outputs, dy, w.o0, w.O, zeros, c, t + k);
        }
        for (int p = 0; p < POINTS; p++)
            ts_product(sum + p * n.outputs * inputs, inputs, (ts_left){ m + p * DW_TILES * n.outputs, 1, n.outputs },
                       (ts_panels){ v + p * each, DW_TILES }, w.O, w.C, 0, together, t > 0);
    }
    for (int64_t o = 0; o < w.O; o++)
        add_to_weights(dw + (w.o0 + o) * TAPS * TAPS * c->C + w.c0, sum + o * inputs, n.outputs * inputs, w.C, c->C);
}

void winograd_dw(const ts_stream *s, float *dw, const float *dy, const float *x, const ts_conv2d *c, void *scratch)
{
    const cut n = cut_of(s, c);
    const int64_t size = ts_round_up(dw_room(c, n), 16);
    float *base = ts_next_line(scratch);
#pragma omp parallel for num_threads(s->threads) schedule(dynamic)
    for (int64_t i = 0; i < ts_pieces(c->O, n.outputs) * ts_pieces(c->C, n.inputs); i++)
        add_piece(dw, dy, x, c, n, piece_of(c, n, i), base + omp_get_thread_num() * size);
}
