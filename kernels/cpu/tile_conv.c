/* tile_conv.c - contract: tile_conv.h.
 *
 * The pixels that are at work are copied to a strip, rounded, with zeros around them and a distance between pixels that
 * spreads them over the cache. A tile of x is 16 neighbouring pixels by 32 channels of one tap; a tile of w is those
 * channels by 16 outputs. Weights lie in panels of 32 outputs, two tiles for each step of the sum.
 *
 * 3x3: a task is a strip of some rows of an image, and all of its outputs. 1x1: likewise where the weights are small; else the
 * strip is shared and a task is a panel. Strips stay in the second-level cache: of many channels they hold fewer pixels, and of more
 * than DEPTH a part, which cuts the sum.
 */
#include "kernels/cpu/tile_conv.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/act.h"
#include "kernels/cpu/sizes.h"
#include "kernels/cpu/stream.h"
#include "kernels/cpu/tile.h"

enum {
    PANEL = 2 * TILE,      /* outputs of a panel                               */
    STEP = 2 * TILE_BYTES, /* bytes of a panel's step                          */
    STRIP = 512,           /* most pixels of a strip                           */
    NUMBERS = 1 << 19,     /* most numbers of a strip of 1x1                   */
    DEPTH = 4096,          /* most channels of one                             */
    SPREAD = TILE_DEPTH,   /* numbers between the channels of two pixels       */
    NEAR = 2,              /* steps: how far ahead both are fetched to the first-level cache */
    FAR = 12,              /* steps: how far ahead weights that are read for the first time  */
    LINE = 64              /* bytes of a line of the cache                     */
};

static const float ZEROS[PANEL];

int tile_conv_takes(const ts_conv2d *c)
{
    if (c->math != TS_MATH_BF16 || c->stride != 1 || c->C % TILE_DEPTH || c->O % PANEL || c->C < 1 || c->O < 1)
        return 0;
    if (c->k == 1) return c->pad_lo == 0 && c->pad_hi == 0;
    return c->k == 3 && c->pad_lo == 1 && c->pad_hi == 1 && c->X % TILE == 0;
}

/* ---- weights: (O/32, k*k*C/32, 2) tiles ---- */

size_t tile_conv_weights(const ts_conv2d *c)
{
    return (size_t)(c->O * c->k * c->k * c->C);
}

/* One tile: 16 outputs that are `apart` numbers apart, 32 channels, from number `at` of w on. */
static void transform_tile(uint32_t *to, const void *w, ts_dtype dtype, int64_t at, int64_t apart)
{
    uint32_t pair[TILE][TILE];
    for (int n = 0; n < TILE; n++) {
        if (dtype == TS_BF16) {
            memcpy(pair[n], (const uint16_t *)w + at + n * apart, sizeof pair[n]);
            continue;
        }
        const float *row = (const float *)w + at + n * apart;
        for (int p = 0; p < TILE; p++) pair[n][p] = bf16_pair(row[2 * p], row[2 * p + 1]);
    }
    for (int p = 0; p < TILE; p++)
        for (int n = 0; n < TILE; n++) to[p * TILE + n] = pair[n][p];
}

void tile_conv_transform(const ts_stream *s, void *u, const void *w, ts_dtype dtype, const ts_conv2d *c)
{
    const int64_t row = c->k * c->k * c->C, steps = row / TILE_DEPTH;
#pragma omp parallel for num_threads(s->threads)
    for (int64_t o = 0; o < c->O / TILE; o++)
        for (int64_t i = 0; i < steps; i++) {
            char *to = (char *)u + (o / 2 * steps + i) * STEP + o % 2 * TILE_BYTES;
            transform_tile((uint32_t *)to, w, dtype, o * TILE * row + i * TILE_DEPTH, row);
        }
}

/* One tile of an adjoint: its outputs lie next to each other in w, its channels `apart` numbers apart. */
static void transform_turned(uint32_t *to, const float *w, int64_t apart)
{
    for (int p = 0; p < TILE; p++) {
        const float *even = w + 2 * p * apart, *odd = even + apart;
#pragma omp simd
        for (int n = 0; n < TILE; n++) to[p * TILE + n] = bf16_pair(even[n], odd[n]);
    }
}

void tile_conv_transform_adjoint(const ts_stream *s, void *u, const float *w, const ts_conv2d *c)
{
    const int64_t taps = c->k * c->k, each = c->C / TILE_DEPTH, steps = taps * each;
#pragma omp parallel for num_threads(s->threads)
    for (int64_t o = 0; o < c->O / TILE; o++)
        for (int64_t i = 0; i < steps; i++) {
            const int64_t tap = taps - 1 - i / each, channel = i % each * TILE_DEPTH;
            char *to = (char *)u + (o / 2 * steps + i) * STEP + o % 2 * TILE_BYTES;
            transform_turned((uint32_t *)to, w + (channel * taps + tap) * c->O + o * TILE, taps * c->O);
        }
}

/* ---- sums ---- */

/* Sixteen pixels of a strip, or two times as many, and where their outputs go. */
typedef struct {
    const uint16_t *x[2]; /* the first channel of the first tap */
    float *y[2];
    const char *out[2]; /* where they stand in the end: y, unless there is an activation */
    int64_t pixels[2]; /* that exist, of 16; 0: the second is not there */
} block;

/* What all blocks share. */
typedef struct {
    int64_t pitch;       /* numbers between pixels of the strip                         */
    int64_t apart;       /* numbers between pixels of y                                 */
    int64_t out_apart;   /* bytes between pixels of out                                 */
    int64_t out_bytes;   /* that 32 outputs of a pixel have there                       */
    const int32_t *step; /* (steps + NEAR) where the channels of a step are, in numbers from x; the last again */
    int64_t steps;
    int fresh; /* the panel is read for the first time */
} plan;

static void fetch_far(const char *panel)
{
    for (int i = 0; i < STEP; i += LINE) __builtin_prefetch(panel + FAR * STEP + i, 0, 2);
}

/* The outputs of pixel n of 32, for writing: they are too far apart for the machine to see by itself what comes next. */
static void fetch_outputs(const block *k, const plan *p, int64_t n)
{
    if (n % TILE >= k->pixels[n / TILE]) return;
    const char *out = k->out[n / TILE] + n % TILE * p->out_apart;
    __builtin_prefetch(out, 1);
    __builtin_prefetch(out + p->out_bytes - LINE, 1);
}

/* Registers: sums 0 to 3 (2x2), pixels 4 and 5, weights 6 and 7. The order of instructions is the fastest of 400 that were tried: where
 * another thread uses the same core, few of them are under way at a time, and the usual order, loads before products, takes a tenth
 * longer. Sum 3 is one step ahead of the others. A load that finds its lines in the second-level cache alone holds up what follows, so
 * they are fetched before, a few at a time: then a product takes a quarter less time. */
static void sum_two(const block *k, const plan *p, const char *panel)
{
    const int64_t stride = p->pitch * 2;
    TILE_LOAD(4, k->x[0] + p->step[0], stride);
    TILE_LOAD(7, panel + TILE_BYTES, LINE);
    TILE_LOAD(5, k->x[1] + p->step[0], stride);
    TILE_LOAD(6, panel, LINE);
    TILE_DOT(3, 5, 7);
    for (int64_t i = 1; i < p->steps; i++) {
        const char *w = panel + NEAR * STEP;
        const uint16_t *x[2] = { k->x[0] + p->step[i + NEAR], k->x[1] + p->step[i + NEAR] };
        if (p->fresh) fetch_far(panel);
        if (i <= 2 * TILE) fetch_outputs(k, p, i - 1);
        panel += STEP;
        TILE_DOT(0, 4, 6);
        tile_fetch(w, LINE);
        TILE_DOT(1, 4, 7);
        tile_fetch(w + 8 * LINE, LINE);
        TILE_LOAD(4, k->x[0] + p->step[i], stride);
        tile_fetch(x[0], stride);
        TILE_LOAD(7, panel + TILE_BYTES, LINE);
        tile_fetch(x[0] + 8 * p->pitch, stride);
        TILE_DOT(2, 5, 6);
        tile_fetch(x[1], stride);
        TILE_LOAD(5, k->x[1] + p->step[i], stride);
        tile_fetch(x[1] + 8 * p->pitch, stride);
        TILE_LOAD(6, panel, LINE);
        tile_fetch(w + 16 * LINE, LINE);
        TILE_DOT(3, 5, 7);
        tile_fetch(w + 24 * LINE, LINE);
    }
    TILE_DOT(0, 4, 6);
    TILE_DOT(1, 4, 7);
    TILE_DOT(2, 5, 6);
}

static void sum_one(const block *k, const plan *p, const char *panel)
{
    const int64_t stride = p->pitch * 2;
    for (int64_t i = 0; i < p->steps; i++, panel += STEP) {
        if (p->fresh) fetch_far(panel);
        TILE_LOAD(4, k->x[0] + p->step[i], stride);
        TILE_LOAD(6, panel, LINE);
        TILE_DOT(0, 4, 6);
        TILE_LOAD(7, panel + TILE_BYTES, LINE);
        TILE_DOT(1, 4, 7);
    }
}

static void copy_rows(float *to, int64_t to_apart, const float *from, int64_t from_apart, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) memcpy(to + i * to_apart, from + i * from_apart, PANEL * sizeof *to);
}

/* 32 outputs of a block: what y holds, if `more`, or the bias, plus the sum over the steps. Where fewer than 16 pixels
 * exist, the sums are those of a copy. */
static void run_block(const block *k, const plan *p, const char *panel, const float *bias, int more)
{
    _Alignas(LINE) float copy[2][TILE * PANEL];
    float *y[2];
    int64_t stride[2];
    for (int i = 0; i < 2; i++) {
        const int whole = k->pixels[i] == TILE;
        y[i] = whole ? k->y[i] : copy[i];
        stride[i] = (whole ? p->apart : PANEL) * (int64_t)sizeof(float);
        if (more && !whole) copy_rows(copy[i], PANEL, k->y[i], p->apart, k->pixels[i]);
    }
    const float *from[2] = { more ? y[0] : bias, more ? y[1] : bias };
    const int64_t from_stride[2] = { more ? stride[0] : 0, more ? stride[1] : 0 };
    TILE_LOAD(0, from[0], from_stride[0]);
    TILE_LOAD(1, from[0] + TILE, from_stride[0]);
    if (k->pixels[1]) {
        TILE_LOAD(2, from[1], from_stride[1]);
        TILE_LOAD(3, from[1] + TILE, from_stride[1]);
        sum_two(k, p, panel);
        TILE_STORE(2, y[1], stride[1]);
        TILE_STORE(3, y[1] + TILE, stride[1]);
    } else {
        sum_one(k, p, panel);
    }
    TILE_STORE(0, y[0], stride[0]);
    TILE_STORE(1, y[0] + TILE, stride[0]);
    for (int i = 0; i < 2; i++)
        if (k->pixels[i] < TILE) copy_rows(k->y[i], p->apart, copy[i], PANEL, k->pixels[i]);
}

/* Channels c0.. of a pixel, n of them, rounded. */
static void put_pixel(uint16_t *to, const void *x, ts_dtype dtype, int64_t at, int64_t n)
{
    if (dtype == TS_BF16) {
        memcpy(to, (const uint16_t *)x + at, (size_t)n * sizeof *to);
        return;
    }
    const float *from = (const float *)x + at;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] = bf16_narrow(from[i]);
}

/* ---- 1x1 ---- */

static int64_t depth_of(const ts_conv2d *c)
{
    return ts_round_up(ts_pieces(c->C, ts_pieces(c->C, DEPTH)), TILE_DEPTH);
}

/* Bytes of the table of steps, which stands before the strips. */
static int64_t table_bytes(const ts_conv2d *c)
{
    return ts_round_up((c->k * c->k * c->C / TILE_DEPTH + NEAR) * (int64_t)sizeof(int32_t), LINE);
}

/* A product: rows n0.., `rows` of them, and channels c0.. of x, which are at work in a strip. */
typedef struct {
    const ts_conv2d *c;
    const tile_conv_end *end;
    void *y;
    const void *x;
    const uint16_t *u;
    const float *b;
    const int32_t *step;
    uint16_t *strip;
    int64_t n0, rows, c0, channels;
} part;

static int64_t pitch_of_rows(const ts_conv2d *c)
{
    return depth_of(c) + SPREAD;
}

int tile_conv_ends(const ts_conv2d *c)
{
    return c->k == 1 && c->C <= DEPTH;
}

static int64_t rows_of_strip(const ts_conv2d *c)
{
    return ts_at_most(NUMBERS / depth_of(c) / (2 * TILE) * (2 * TILE), STRIP);
}

/* Row n of a strip; zeros, where a tile is not full. */
static void put_row(const part *k, int64_t n)
{
    uint16_t *to = k->strip + n * pitch_of_rows(k->c);
    if (n < k->rows)
        put_pixel(to, k->x, k->c->x_dtype, (k->n0 + n) * k->c->C + k->c0, k->channels);
    else
        memset(to, 0, (size_t)k->channels * sizeof *to);
}

/* Outputs o.. of a panel, of all rows. Sums whose activations are stored stand in a block of their own until then. */
static void run_panel(const part *k, int64_t o)
{
    _Alignas(LINE) float sums[2 * TILE * PANEL];
    const ts_conv2d *c = k->c;
    const int64_t pitch = pitch_of_rows(c), at = (o / PANEL * c->C + k->c0) / TILE_DEPTH;
    const int64_t size = k->end && k->end->dtype == TS_BF16 ? 2 : 4;
    const char *panel = (const char *)k->u + at * STEP;
    const float *bias = k->b ? k->b + o : ZEROS;
    plan p = { pitch, k->end ? PANEL : c->O, c->O * size, PANEL * size, k->step, k->channels / TILE_DEPTH, 1 };
    for (int64_t n = 0; n < k->rows; n += 2 * TILE, p.fresh = 0) {
        const int64_t rows = ts_at_most(k->rows - n, 2 * TILE), first = (k->n0 + n) * c->O + o;
        block two = { .pixels = { ts_at_most(rows, TILE), rows > TILE ? rows - TILE : 0 } };
        for (int j = 0; j < 2; j++) {
            const int64_t number = first + j * TILE * c->O;
            two.x[j] = k->strip + (n + j * TILE) * pitch;
            two.y[j] = k->end ? sums + j * TILE * PANEL : (float *)k->y + number;
            two.out[j] = (const char *)k->y + number * size;
        }
        run_block(&two, &p, panel, bias, k->c0 > 0);
        for (int64_t i = 0; k->end && i < rows; i++)
            act_numbers((char *)k->y + (first + i * c->O) * size, sums + i * PANEL, k->end->act, PANEL, k->end->dtype);
    }
}

/* Weights that stay in the second-level cache beside a strip, and rows enough: then every thread has strips of its own.
 */
static int small(const ts_conv2d *c)
{
    return c->C <= DEPTH && c->C * c->O <= NUMBERS / 2;
}

static int64_t strip_of_rows(const ts_conv2d *c)
{
    return rows_of_strip(c) * pitch_of_rows(c);
}

/* Inside of a parallel region: every thread its strips. */
static void run_apart(part k, int64_t N)
{
    const int64_t most = rows_of_strip(k.c);
    k.strip += omp_get_thread_num() * strip_of_rows(k.c);
#pragma omp for schedule(dynamic)
    for (int64_t n0 = 0; n0 < N; n0 += most) {
        k.n0 = n0, k.rows = ts_at_most(N - n0, most);
        for (int64_t n = 0; n < ts_round_up(k.rows, TILE); n++) put_row(&k, n);
        for (int64_t o = 0; o < k.c->O; o += PANEL) run_panel(&k, o);
    }
}

/* Inside of a parallel region: one strip after the other, all threads its outputs. With few rows, what a panel costs is to read it, and
 * a thread that goes on to the next one finds it fetched. */
static void run_together(part k, int64_t N)
{
    enum { FEW = 4 * TILE, NEIGHBOURS = 4 };
    const int64_t most = rows_of_strip(k.c), depth = depth_of(k.c), C = k.c->C, O = k.c->O;
    for (k.n0 = 0; k.n0 < N; k.n0 += most)
        for (k.c0 = 0; k.c0 < C; k.c0 += depth) {
            k.rows = ts_at_most(N - k.n0, most), k.channels = ts_at_most(C - k.c0, depth);
#pragma omp for
            for (int64_t n = 0; n < ts_round_up(k.rows, TILE); n++) put_row(&k, n);
#pragma omp for schedule(dynamic, k.rows > FEW ? 1 : NEIGHBOURS)
            for (int64_t o = 0; o < O; o += PANEL) run_panel(&k, o);
        }
}

static void run_product(const ts_stream *s, const part *k)
{
    const int64_t N = k->c->B * k->c->Y * k->c->X;
    const int apart = small(k->c) && N >= 2 * rows_of_strip(k->c) * s->threads;
#pragma omp parallel num_threads(s->threads)
    {
        tile_begin();
        if (apart)
            run_apart(*k, N);
        else
            run_together(*k, N);
        tile_end();
    }
}

/* ---- 3x3 ---- */

/* Rows of outputs in a strip: so many that every thread has two strips, if there are. */
static int64_t height_of(const ts_stream *s, const ts_conv2d *c)
{
    const int64_t share = ts_pieces(c->B * c->Y, 2 * s->threads), most = c->X < STRIP ? STRIP / c->X : 1;
    return ts_at_most(ts_at_most(share, most), c->Y);
}

static int64_t strip_numbers(const ts_stream *s, const ts_conv2d *c)
{
    return (height_of(s, c) + 2) * (c->X + 2) * (c->C + SPREAD);
}

/* Rows y0-1 .. y0+rows of image b, with a column of zeros on both sides, and zeros for rows outside. */
static void put_rows(uint16_t *strip, const void *x, const ts_conv2d *c, int64_t b, int64_t y0, int64_t rows)
{
    const int64_t pitch = c->C + SPREAD, row = (c->X + 2) * pitch;
    for (int64_t i = 0; i < rows + 2; i++) {
        const int64_t yy = y0 + i - 1;
        uint16_t *to = strip + i * row;
        if (yy < 0 || yy >= c->Y) {
            memset(to, 0, (size_t)row * sizeof *to);
            continue;
        }
        memset(to, 0, (size_t)pitch * sizeof *to);
        memset(to + (c->X + 1) * pitch, 0, (size_t)pitch * sizeof *to);
        for (int64_t xx = 0; xx < c->X; xx++)
            put_pixel(to + (xx + 1) * pitch, x, c->x_dtype, ((b * c->Y + yy) * c->X + xx) * c->C, c->C);
    }
}

/* Blocks i and i+1 of a strip of `count`; y is that of its first pixel. */
static block pixels_of(const uint16_t *strip, float *y, const ts_conv2d *c, int64_t i, int64_t count)
{
    const int64_t pitch = c->C + SPREAD, across = c->X / TILE;
    block k = { .pixels = { TILE, i + 1 < count ? TILE : 0 } };
    for (int j = 0; j < 2; j++) {
        const int64_t row = (i + j) / across, column = (i + j) % across * TILE;
        k.x[j] = strip + (row * (c->X + 2) + column) * pitch;
        k.y[j] = y + (row * c->X + column) * c->O;
        k.out[j] = (const char *)k.y[j];
    }
    return k;
}

static void run_strip(float *y, const uint16_t *u, const float *b, const ts_conv2d *c, const int32_t *step,
                      const uint16_t *strip, int64_t rows)
{
    const int64_t steps = 9 * c->C / TILE_DEPTH, count = rows * c->X / TILE;
    for (int64_t o = 0; o < c->O; o += PANEL) {
        const char *panel = (const char *)u + o / PANEL * steps * STEP;
        plan p = { c->C + SPREAD, c->O, c->O * 4, PANEL * 4, step, steps, 1 };
        for (int64_t i = 0; i < count; i += 2, p.fresh = 0) {
            const block k = pixels_of(strip, y + o, c, i, count);
            run_block(&k, &p, panel, b ? b + o : ZEROS, 0);
        }
    }
}

static void run_images(const ts_stream *s, float *y, const void *x, const uint16_t *u, const float *b,
                       const ts_conv2d *c, const int32_t *step, uint16_t *strips)
{
    const int64_t height = height_of(s, c), down = ts_pieces(c->Y, height);
#pragma omp parallel num_threads(s->threads)
    {
        uint16_t *strip = strips + omp_get_thread_num() * strip_numbers(s, c);
        tile_begin();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < c->B * down; i++) {
            const int64_t y0 = i % down * height, rows = ts_at_most(c->Y - y0, height);
            put_rows(strip, x, c, i / down, y0, rows);
            run_strip(y + (i / down * c->Y + y0) * c->X * c->O, u, b, c, step, strip, rows);
        }
        tile_end();
    }
}

/* ---- both ---- */

size_t tile_conv_scratch(const ts_stream *s, const ts_conv2d *c)
{
    const int64_t numbers = c->k == 1 ? strip_of_rows(c) * (small(c) ? s->threads : 1) : strip_numbers(s, c) * s->threads;
    return (size_t)(table_bytes(c) + numbers * (int64_t)sizeof(uint16_t) + LINE);
}

void tile_conv_run(const ts_stream *s, void *y, const void *x, const void *u, const float *b, const ts_conv2d *c,
                   const tile_conv_end *end, void *scratch)
{
    int32_t *step = ts_next_line(scratch);
    uint16_t *strips = (uint16_t *)((char *)step + table_bytes(c));
    const int64_t each = c->C / TILE_DEPTH, pitch = c->C + SPREAD;
    for (int64_t tap = 0; tap < c->k * c->k; tap++)
        for (int64_t i = 0; i < each; i++)
            step[tap * each + i] = (int32_t)((tap / c->k * (c->X + 2) + tap % c->k) * pitch + i * TILE_DEPTH);
    const int64_t steps = c->k * c->k * each;
    for (int i = 0; i < NEAR; i++) step[steps + i] = step[steps - 1];
    if (c->k == 1)
        run_product(s, &(part){ c, end, y, x, u, b, step, strips, .channels = c->C });
    else
        run_images(s, y, x, u, b, c, step, strips);
}
