/* test_tile_conv.c - convolutions and products on the tile registers (kernels/cpu/tile_conv.h) against the formula in double.
 *
 * Where the CPU has no such registers, tile.h does the same in plain C, so that the kernel is run everywhere.
 *
 * Oracle     plain loops in double over operands rounded to bfloat16 by frexp and rint.
 * Inputs     seeded normals; one pixel, one more and one fewer than tiles and strips hold; sums that are cut; several images.
 * Promise    every number has the same bits whatever the number of threads, the images beside it and the type that x comes in.
 */
#include "tests/t.h"

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/conv2d.h"
#include "kernels/cpu/stream.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/tile_conv.h"
#include "tessera/op_act.h"

static const ts_conv2d SHAPES[] = {
    /* B  Y   X   C   O   k stride lo hi */
    { 1, 1, 1, 32, 32, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 },    { 1, 17, 1, 64, 96, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 },
    { 2, 4, 4, 32, 64, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 },    { 3, 11, 1, 96, 32, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 },
    { 1, 453, 1, 2080, 64, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 }, { 1, 523, 1, 32, 32, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 },
    { 1, 1, 16, 32, 32, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },   { 2, 3, 48, 32, 64, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },
    { 1, 131, 16, 64, 32, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },  { 1, 2, 528, 32, 32, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },
    { 1, 140, 1, 4160, 32, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 },
    { 2, 5, 32, 96, 32, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },     { 2, 1100, 1, 64, 32, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 },
};
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES, GUARD = 64 };

static double *oracle(const ts_conv2d *c, const double *x, const double *w, const float *b)
{
    double *y = t_alloc(sizeof(double) * (size_t)(c->B * c->Y * c->X * c->O));
    for (int64_t i = 0; i < c->B * c->Y * c->X * c->O; i++) {
        const int64_t o = i % c->O, column = i / c->O % c->X, row = i / c->O / c->X % c->Y, image = i / c->O / c->X / c->Y;
        y[i] = b ? b[o] : 0;
        for (int tap = 0; tap < c->k * c->k; tap++) {
            const int64_t r = row + tap / c->k - c->pad_lo, q = column + tap % c->k - c->pad_lo;
            if (r < 0 || r >= c->Y || q < 0 || q >= c->X) continue;
            const double *px = x + ((image * c->Y + r) * c->X + q) * c->C, *pw = w + (o * c->k * c->k + tap) * c->C;
            for (int64_t k = 0; k < c->C; k++) y[i] += px[k] * pw[k];
        }
    }
    return y;
}

/* y of `threads` threads between guards, over poisoned memory. */
static const void *run_to(const ts_conv2d *c, int threads, const void *x, const float *w, const float *b, const tile_conv_end *end)
{
    const ts_stream s = { .threads = threads };
    const size_t size = end && end->dtype == TS_BF16 ? 2 : 4, n = (size_t)(c->B * c->Y * c->X * c->O) * size;
    const size_t numbers = tile_conv_weights(c), bytes = tile_conv_scratch(&s, c);
    unsigned char *y = t_alloc(n + 2 * GUARD), *scratch = t_alloc(bytes + GUARD);
    uint16_t *u = t_alloc((numbers + 2 * GUARD) * sizeof *u);
    memset(y, 0xff, n + 2 * GUARD);
    memset(u, 0xff, (numbers + 2 * GUARD) * sizeof *u);
    memset(scratch, 0xff, bytes + GUARD);
    tile_conv_transform(&s, u + GUARD, w, TS_F32, c);
    tile_conv_run(&s, y + GUARD, x, u + GUARD, b, c, end, scratch);
    for (size_t i = 0; i < GUARD; i++) {
        T_TRUE(y[i] == 0xff && y[GUARD + n + i] == 0xff);
        T_TRUE(u[i] == 0xffff && u[GUARD + numbers + i] == 0xffff);
        T_TRUE(scratch[bytes + i] == 0xff);
    }
    return y + GUARD;
}

static const float *run(const ts_conv2d *c, int threads, const void *x, const float *w, const float *b)
{
    return run_to(c, threads, x, w, b, NULL);
}

static uint16_t *narrow(const float *x, int64_t n)
{
    uint16_t *y = t_alloc((size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++) y[i] = bf16_narrow(x[i]);
    return y;
}

T_TEST(the_formula)
{
    (void)be, (void)s;
    for (int i = 0; i < N_SHAPES; i++) {
        ts_conv2d c = SHAPES[i];
        const int64_t nx = c.B * c.Y * c.X * c.C, nw = c.O * c.k * c.k * c.C, ny = c.B * c.Y * c.X * c.O;
        const float *x = t_normals(nx, 1, 1), *w = t_normals(nw, 1, 2), *b = t_normals(c.O, 1, 3);
        T_TRUE(tile_conv_takes(&c));
        const double *xd = t_operand(x, nx, TS_MATH_BF16), *wd = t_operand(w, nw, TS_MATH_BF16);
        const float *y = run(&c, 1, x, w, b);
        t_close("y", y, oracle(&c, xd, wd, b), ny, t_sum_tolerance(c.k * c.k * c.C));
        t_close("y without bias", run(&c, 2, x, w, NULL), oracle(&c, xd, wd, NULL), ny, t_sum_tolerance(c.k * c.k * c.C));
        T_TRUE(memcmp(y, run(&c, 3, x, w, b), (size_t)ny * sizeof *y) == 0);
        c.x_dtype = TS_BF16;
        T_TRUE(memcmp(y, run(&c, 2, narrow(x, nx), w, b), (size_t)ny * sizeof *y) == 0);
    }
}

T_TEST(an_image_alone)
{
    (void)be, (void)s;
    for (int i = 0; i < N_SHAPES; i++) {
        ts_conv2d c = SHAPES[i];
        const int64_t nx = c.Y * c.X * c.C, nw = c.O * c.k * c.k * c.C, ny = c.Y * c.X * c.O;
        const float *x = t_normals(3 * nx, 1, 1), *w = t_normals(nw, 1, 2), *b = t_normals(c.O, 1, 3);
        c.B = 3;
        const float *y = run(&c, 2, x, w, b);
        c.B = 1;
        for (int64_t j = 0; j < 3; j++) T_TRUE(memcmp(y + j * ny, run(&c, 1, x + j * nx, w, b), (size_t)ny * sizeof *y) == 0);
    }
}

/* What is stored instead of sums has the bits that act_fwd makes of them. */
T_TEST(activations)
{
    (void)be, (void)s;
    ts_stream stream = { .threads = 1 };
    int tried = 0;
    for (int i = 0; i < N_SHAPES; i++) {
        const ts_conv2d c = SHAPES[i];
        const int64_t ny = c.B * c.Y * c.X * c.O;
        if (!tile_conv_ends(&c)) continue;
        const float *x = t_normals(c.B * c.Y * c.X * c.C, 1, 1), *w = t_normals(c.O * c.C, 1, 2), *b = t_normals(c.O, 1, 3);
        const float *sums = run(&c, 2, x, w, b);
        for (int j = 0; j < 4; j++, tried++) {
            const tile_conv_end end = { j & 1 ? TS_SILU : TS_GELU_TANH, j & 2 ? TS_BF16 : TS_F32 };
            const size_t bytes = (size_t)ny * (j & 2 ? 2 : 4);
            void *want = t_alloc(bytes);
            T_OK(act_fwd_cpu(&stream, want, sums, end.act, ny, end.dtype));
            T_TRUE(memcmp(run_to(&c, 3, x, w, b, &end), want, bytes) == 0);
        }
    }
    T_TRUE(tried >= 24);
    T_TRUE(!tile_conv_ends(&SHAPES[6]) && !tile_conv_ends(&(ts_conv2d){ 1, 9, 1, 4128, 32, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 }));
}

/* Weights that are bfloat16 already. */
T_TEST(narrow_weights)
{
    (void)be, (void)s;
    const ts_stream stream = { .threads = 2 };
    const ts_conv2d c = SHAPES[7];
    const int64_t n = (int64_t)tile_conv_weights(&c);
    const float *w = t_normals(n, 1, 1);
    uint16_t *u = t_alloc((size_t)n * sizeof *u), *v = t_alloc((size_t)n * sizeof *v);
    tile_conv_transform(&stream, u, w, TS_F32, &c);
    tile_conv_transform(&stream, v, narrow(w, n), TS_BF16, &c);
    T_TRUE(memcmp(u, v, (size_t)n * sizeof *u) == 0);
}

/* dx of dy by the adjoint, whose weights are those of the convolution itself: its adjoint's formula in double. */
T_TEST(gradients_of_pixels)
{
    (void)be, (void)s;
    for (int i = 0; i < N_SHAPES; i++) {
        const ts_conv2d c = SHAPES[i], a = conv2d_adjoint(&c);
        const int64_t nx = c.B * c.Y * c.X * c.C, nw = c.O * c.k * c.k * c.C, ny = c.B * c.Y * c.X * c.O;
        const float *dy = t_normals(ny, 1, 1), *w = t_normals(nw, 1, 2);
        float *turned = t_alloc((size_t)nw * sizeof *turned);
        for (int64_t j = 0; j < nw; j++) {
            const int64_t channel = j % c.C, tap = j / c.C % (c.k * c.k), o = j / c.C / (c.k * c.k);
            turned[(channel * c.k * c.k + c.k * c.k - 1 - tap) * c.O + o] = w[j];
        }
        const ts_stream stream = { .threads = 2 };
        const size_t numbers = tile_conv_weights(&a);
        uint16_t *u = t_alloc((numbers + GUARD) * sizeof *u), *want = t_alloc(numbers * sizeof *want);
        memset(u, 0xff, (numbers + GUARD) * sizeof *u);
        tile_conv_transform_adjoint(&stream, u, w, &a);
        tile_conv_transform(&stream, want, turned, TS_F32, &a);
        T_TRUE(memcmp(u, want, numbers * sizeof *u) == 0);
        for (size_t j = 0; j < GUARD; j++) T_TRUE(u[numbers + j] == 0xffff);
        t_close("dx", run(&a, 2, dy, turned, NULL), oracle(&a, t_operand(dy, ny, TS_MATH_BF16), t_operand(turned, nw, TS_MATH_BF16), NULL), nx,
                t_sum_tolerance(c.k * c.k * c.O));
    }
}

T_TEST(what_is_not_taken)
{
    (void)be, (void)s;
    static const ts_conv2d NOT[] = {
        { 1, 8, 16, 33, 32, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 }, { 1, 8, 16, 32, 48, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },
        { 1, 8, 24, 32, 32, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 }, { 1, 8, 16, 32, 32, 3, 1, 0, 1, TS_MATH_BF16, TS_F32, 0 },
        { 1, 8, 16, 32, 32, 3, 2, 1, 1, TS_MATH_BF16, TS_F32, 0 }, { 1, 8, 16, 32, 32, 1, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },
        { 1, 8, 16, 32, 32, 5, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 }, { 1, 8, 16, 32, 32, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
    };
    for (size_t i = 0; i < sizeof NOT / sizeof *NOT; i++) T_TRUE(!tile_conv_takes(&NOT[i]));
}

int main(void)
{
    Suite *u = t_suite("op_tile_conv");
    if (tile_unit() || TILE_IN_C) { /* else the machine does not give the registers that this was built for */
        T_ADD1(u, the_formula);
        T_ADD1(u, an_image_alone);
        T_ADD1(u, activations);
        T_ADD1(u, gradients_of_pixels);
    }
    T_ADD1(u, narrow_weights);
    T_ADD1(u, what_is_not_taken);
    return t_run(u);
}
