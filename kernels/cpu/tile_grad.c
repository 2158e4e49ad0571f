/* tile_grad.c - contract: tile_grad.h.
 *
 * The sum goes over pixels, in strips that stay in the second-level cache. Of 3x3 each image has a row of zeros behind it, so that
 * the pixels of all images are one sequence, and a tap of the rows above or below is X pixels earlier or later in it. A tile of
 * dy is 16 outputs by 32 pixels, so dy is turned round; of x it is 16 pairs of pixels by 16 channels. A pair shifted by one pixel is
 * another pair, so x is stored three times.
 *
 * A task is a panel of 32 outputs, 32 channels and a tap. Where there are few of them, several strips are at work at a time, each but
 * the first with sums of its own, which are added in the end.
 */
#include "kernels/cpu/tile_grad.h"

#include <string.h>

#include "kernels/cpu/sizes.h"
#include "kernels/cpu/stream.h"
#include "kernels/cpu/tile.h"

enum {
    PANEL = 2 * TILE,      /* outputs, and channels, of a panel                  */
    STEP = 2 * TILE_BYTES, /* bytes of a panel of dy for 32 pixels               */
    STRIP = 1024,          /* most pixels of a strip                             */
    NUMBERS = 1 << 19,     /* most dwords of what is stored of x for one         */
    SPREAD = TILE,         /* dwords between the channels of two pairs of pixels */
    TASKS = 32,            /* that are enough for the threads                    */
    LINE = 64              /* bytes of a line of the cache                       */
};

int tile_grad_takes(const ts_conv2d *c)
{
    if (c->math != TS_MATH_BF16 || c->stride != 1 || c->C % PANEL || c->O % PANEL || c->C < 1 || c->O < 1) return 0;
    if (c->k == 1) return c->pad_lo == 0 && c->pad_hi == 0;
    return c->k == 3 && c->pad_lo == 1 && c->pad_hi == 1 && c->X % 2 == 0;
}

/* Pixels are counted in the sequence; -1 and less, `all` and more do not exist. */
typedef struct {
    const ts_conv2d *c;
    const float *dy, *x, *zeros; /* zeros: as many as there are channels, and outputs */
    int64_t all;
    int64_t strip;  /* pixels of a strip, whole tiles                       */
    int64_t halo;   /* pixels before and behind that x has besides          */
    int64_t shifts; /* of pairs: 1 or 3                                     */
    int64_t pitch;  /* dwords between pairs                                 */
    int64_t panels, groups;
    uint32_t *turned; /* dy: (groups, O/32, strip/32, 2) tiles              */
    uint32_t *pairs;  /* x: (groups, shifts, strip/2 + halo, pitch)         */
    float *dw, *sums; /* sums: (groups - 1, numbers of dw)                  */
} job;

static int64_t n_weights(const ts_conv2d *c)
{
    return c->O * c->k * c->k * c->C;
}

static int64_t turned_numbers(const job *j)
{
    return j->strip / 2 * j->c->O;
}

static int64_t shift_numbers(const job *j)
{
    return (j->strip / 2 + j->halo) * j->pitch;
}

static job job_of(const ts_conv2d *c)
{
    const int64_t three = c->k == 3, shifts = three ? 3 : 1, pitch = c->C + SPREAD;
    const int64_t fits = NUMBERS / (shifts * pitch) / TILE_DEPTH * TILE_DEPTH;
    job j = { .c = c, .halo = three ? c->X : 0, .shifts = shifts, .pitch = pitch };
    j.all = three ? c->B * (c->Y + 1) * c->X : c->B * c->Y * c->X;
    j.strip = ts_at_most(ts_at_most(fits < TILE_DEPTH ? TILE_DEPTH : fits, STRIP), ts_round_up(j.all, TILE_DEPTH));
    j.panels = c->O / PANEL * (c->C / PANEL) * c->k * c->k;
    j.groups = ts_at_most(ts_pieces(TASKS, j.panels), ts_pieces(j.all, j.strip));
    return j;
}

size_t tile_grad_scratch(const ts_conv2d *c)
{
    const job j = job_of(c);
    const int64_t dwords = j.groups * (turned_numbers(&j) + j.shifts * shift_numbers(&j)) + (j.groups - 1) * n_weights(c) + c->C + c->O;
    return (size_t)dwords * sizeof(uint32_t) + LINE;
}

/* ---- operands ---- */

/* A pixel of the sequence, and where it is in which image. */
typedef struct {
    int64_t q, column, row, image;
} place;

static place place_of(const job *j, int64_t q)
{
    const ts_conv2d *c = j->c;
    const int64_t whole = (c->Y + 1) * c->X, from = q + whole; /* the row before the first image is one of zeros, too */
    return c->k == 1 ? (place){ .q = q } : (place){ q, from % c->X, from / c->X % (c->Y + 1), from / whole - 1 };
}

static void go_on(const job *j, place *p)
{
    p->q++;
    if (j->c->k == 1 || ++p->column < j->c->X) return;
    p->column = 0;
    if (++p->row <= j->c->Y) return;
    p->row = 0;
    p->image++;
}

/* The pixel in a tensor of `width` numbers for each. */
static const float *pixel(const job *j, const float *of, int64_t width, const place *p)
{
    const ts_conv2d *c = j->c;
    if (p->q >= j->all || p->row == c->Y) return j->zeros;
    return of + (c->k == 1 ? p->q : (p->image * c->Y + p->row) * c->X + p->column) * width;
}

typedef uint32_t lanes __attribute__((vector_size(4 * TILE)));

/* Lanes of two registers: where bit `n` of a lane is set, the second gives what the first has there without it; and the others. */
#define EVEN_1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define ODD_1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#define EVEN_2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define ODD_2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define EVEN_4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define ODD_4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define EVEN_8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define ODD_8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31

/* One of four steps that turn a matrix round: r[i][k] and r[k][i] change places, blocks of `n` at a time. */
#define TURN(n)                                                                                                                        \
    for (int i = 0; i < TILE; i++) {                                                                                                   \
        if (i & (n)) continue;                                                                                                         \
        const lanes a = r[i], b = r[i + (n)];                                                                                          \
        r[i] = __builtin_shufflevector(a, b, EVEN_##n);                                                                                \
        r[i + (n)] = __builtin_shufflevector(a, b, ODD_##n);                                                                           \
    }

static void turn(uint32_t *to, uint32_t (*pairs)[TILE])
{
    lanes r[TILE];
    memcpy(r, pairs, sizeof r);
    TURN(1)
    TURN(2)
    TURN(4)
    TURN(8)
    memcpy(to, r, sizeof r);
}

/* dy of 32 pixels from q on: to is where the first panel has them. */
static void turn_pixels(const job *j, uint32_t *to, int64_t q)
{
    const float *row[TILE_DEPTH];
    place at = place_of(j, q);
    for (int i = 0; i < TILE_DEPTH; i++, go_on(j, &at)) row[i] = pixel(j, j->dy, j->c->O, &at);
    for (int64_t o = 0; o < j->c->O / TILE; o++) {
        uint32_t pairs[TILE][TILE];
        for (int p = 0; p < TILE; p++) {
            const float *first = row[2 * p] + o * TILE, *second = row[2 * p + 1] + o * TILE;
#pragma omp simd
            for (int n = 0; n < TILE; n++) pairs[p][n] = bf16_pair(first[n], second[n]);
        }
        turn(to + (o / 2 * (j->strip / TILE_DEPTH) * STEP + o % 2 * TILE_BYTES) / (int64_t)sizeof *to, pairs);
    }
}

/* x of pixel p, in an even column, and the next one, shifted by each number of pixels that there is. */
static void pair_pixels(const job *j, uint32_t *to, place p)
{
    const int64_t C = j->c->C, X = j->c->X, apart = shift_numbers(j), column = p.column;
    const float *b = pixel(j, j->x, C, &p);
    go_on(j, &p);
    const float *c = pixel(j, j->x, C, &p);
    if (j->shifts == 1) {
#pragma omp simd
        for (int64_t i = 0; i < C; i++) to[i] = bf16_pair(b[i], c[i]);
        return;
    }
    const float *a = b != j->zeros && column > 0 ? b - C : j->zeros, *d = c != j->zeros && column + 2 < X ? c + C : j->zeros;
    uint32_t *middle = to + apart, *right = middle + apart;
#pragma omp simd
    for (int64_t i = 0; i < C; i++) {
        to[i] = bf16_pair(a[i], b[i]);
        middle[i] = bf16_pair(b[i], c[i]);
        right[i] = bf16_pair(c[i], d[i]);
    }
}

/* Inside of a parallel region: strips first.. of the round, `strips` of them. */
static void prepare(const job *j, int64_t first, int64_t strips)
{
    const int64_t chunks = j->strip / TILE_DEPTH, pairs = j->strip / 2 + j->halo;
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < strips * chunks; i++) {
        const int64_t g = i / chunks, chunk = i % chunks;
        turn_pixels(j, j->turned + g * turned_numbers(j) + chunk * STEP / 4, (first + g) * j->strip + chunk * TILE_DEPTH);
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < strips * pairs; i++) {
        const int64_t g = i / pairs, pair = i % pairs;
        pair_pixels(j, j->pairs + g * j->shifts * shift_numbers(j) + pair * j->pitch, place_of(j, (first + g) * j->strip - j->halo + 2 * pair));
    }
}

/* ---- sums ---- */

/* The order of instructions, and fetching ahead, as in tile_conv.c. */
static __attribute__((noinline)) void sum_panel(const char *dy, const char *x, int64_t stride, int64_t steps)
{
    TILE_LOAD(4, dy, LINE);
    TILE_LOAD(7, x + LINE, stride);
    TILE_LOAD(5, dy + TILE_BYTES, LINE);
    TILE_LOAD(6, x, stride);
    TILE_DOT(3, 5, 7);
    for (int64_t i = 1; i < steps; i++) {
        dy += STEP;
        x += TILE * stride;
        const char *next = x + TILE * stride;
        TILE_DOT(0, 4, 6);
        tile_fetch(next, stride);
        TILE_DOT(1, 4, 7);
        tile_fetch(next + 8 * stride, stride);
        TILE_LOAD(4, dy, LINE);
        tile_fetch(next + LINE, stride);
        TILE_LOAD(7, x + LINE, stride);
        tile_fetch(next + 8 * stride + LINE, stride);
        TILE_DOT(2, 5, 6);
        tile_fetch(dy + STEP, LINE);
        TILE_LOAD(5, dy + TILE_BYTES, LINE);
        tile_fetch(dy + STEP + 8 * LINE, LINE);
        TILE_LOAD(6, x, stride);
        tile_fetch(dy + STEP + 16 * LINE, LINE);
        TILE_DOT(3, 5, 7);
        tile_fetch(dy + STEP + 24 * LINE, LINE);
    }
    TILE_DOT(0, 4, 6);
    TILE_DOT(1, 4, 7);
    TILE_DOT(2, 5, 6);
}

/* Panel n of strip g of the round. */
static void add_panel(const job *j, int64_t g, int64_t n)
{
    const ts_conv2d *c = j->c;
    const int64_t taps = c->k * c->k, tap = n % taps, channel = n / taps % (c->C / PANEL) * PANEL, o = n / taps / (c->C / PANEL);
    const int64_t steps = j->strip / TILE_DEPTH, row = taps * c->C, above = tap / c->k * j->halo / 2;
    const uint32_t *dy = j->turned + g * turned_numbers(j) + o * steps * STEP / 4;
    const uint32_t *x = j->pairs + (g * j->shifts + tap % c->k) * shift_numbers(j) + above * j->pitch + channel;
    float *to = (g ? j->sums + (g - 1) * n_weights(c) : j->dw) + o * PANEL * row + tap * c->C + channel;
    const int64_t stride = row * (int64_t)sizeof *to;
    TILE_LOAD(0, to, stride);
    TILE_LOAD(1, to + TILE, stride);
    TILE_LOAD(2, to + TILE * row, stride);
    TILE_LOAD(3, to + TILE * row + TILE, stride);
    sum_panel((const char *)dy, (const char *)x, j->pitch * (int64_t)sizeof *x, steps);
    TILE_STORE(0, to, stride);
    TILE_STORE(1, to + TILE, stride);
    TILE_STORE(2, to + TILE * row, stride);
    TILE_STORE(3, to + TILE * row + TILE, stride);
}

void tile_grad_run(const ts_stream *s, float *dw, const float *dy, const float *x, const ts_conv2d *c, void *scratch)
{
    job j = job_of(c);
    const int64_t numbers = n_weights(c), strips = ts_pieces(j.all, j.strip), zeros = c->C + c->O;
    j.dw = dw, j.dy = dy, j.x = x;
    j.turned = ts_next_line(scratch);
    j.pairs = j.turned + j.groups * turned_numbers(&j);
    j.sums = (float *)(j.pairs + j.groups * j.shifts * shift_numbers(&j));
    j.zeros = memset(j.sums + (j.groups - 1) * numbers, 0, (size_t)zeros * sizeof(float));
#pragma omp parallel num_threads(s->threads)
    {
        tile_begin();
#pragma omp for schedule(static)
        for (int64_t i = 0; i < (j.groups - 1) * numbers; i++) j.sums[i] = 0;
        for (int64_t first = 0; first < strips; first += j.groups) {
            const int64_t together = ts_at_most(strips - first, j.groups);
            prepare(&j, first, together);
#pragma omp for schedule(static)
            for (int64_t i = 0; i < together * j.panels; i++) add_panel(&j, i / j.panels, i % j.panels);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < numbers; i++)
            for (int64_t g = 1; g < j.groups; g++) dw[i] += j.sums[(g - 1) * numbers + i];
        tile_end();
    }
}
