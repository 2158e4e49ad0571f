/* test_tile_grad.c - gradients of weights on the tile registers (kernels/cpu/tile_grad.h) against the formula in double.
 *
 * Where the CPU has no such registers, tile.h does the same in plain C, so that the kernel is run everywhere.
 *
 * Oracle     plain loops in double over operands rounded to bfloat16 by frexp and rint.
 * Inputs     seeded normals; one pixel, fewer and more than tiles and strips hold; images of two columns, of odd and even heights;
 *            few panels, so that strips have sums of their own, and many. What dw holds before is added to.
 * Promise    the same bits for every number of threads.
 */
#include "tests/t.h"

#include "kernels/cpu/stream.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/tile_grad.h"

static const ts_conv2d SHAPES[] = {
    /* B  Y    X  C   O   k stride lo hi */
    { 1, 1, 1, 32, 32, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 },    { 1, 31, 1, 64, 32, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 },
    { 3, 11, 3, 32, 96, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 },   { 1, 2500, 1, 32, 32, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 },
    { 1, 40, 1, 512, 256, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 }, { 1, 70, 1, 2080, 32, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 },
    { 1, 1, 2, 32, 32, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },    { 2, 3, 6, 32, 64, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },
    { 5, 8, 8, 64, 64, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },    { 2, 131, 16, 32, 32, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },
    { 1, 2, 1100, 32, 32, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 }, { 9, 5, 4, 96, 32, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },
};
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES, GUARD = 64 };

static double *oracle(const ts_conv2d *c, const float *before, const double *dy, const double *x)
{
    const int64_t taps = c->k * c->k, n = c->O * taps * c->C;
    double *dw = t_alloc(sizeof(double) * (size_t)n);
    for (int64_t i = 0; i < n; i++) dw[i] = before[i];
    for (int64_t p = 0; p < c->B * c->Y * c->X; p++) {
        const int64_t column = p % c->X, row = p / c->X % c->Y;
        for (int64_t tap = 0; tap < taps; tap++) {
            const int64_t down = tap / c->k - c->pad_lo, right = tap % c->k - c->pad_lo;
            if (row + down < 0 || row + down >= c->Y || column + right < 0 || column + right >= c->X) continue;
            const double *from = x + (p + down * c->X + right) * c->C;
            for (int64_t o = 0; o < c->O; o++)
                for (int64_t i = 0; i < c->C; i++) dw[(o * taps + tap) * c->C + i] += dy[p * c->O + o] * from[i];
        }
    }
    return dw;
}

/* dw of `threads` threads between guards, with poisoned scratch. */
static const float *run(const ts_conv2d *c, int threads, const float *before, const float *dy, const float *x)
{
    const ts_stream s = { .threads = threads };
    const size_t n = (size_t)(c->O * c->k * c->k * c->C), bytes = tile_grad_scratch(c);
    float *dw = t_alloc((n + 2 * GUARD) * sizeof *dw);
    unsigned char *scratch = t_alloc(bytes + GUARD);
    memset(dw, 0xff, (n + 2 * GUARD) * sizeof *dw);
    memset(scratch, 0xff, bytes + GUARD);
    memcpy(dw + GUARD, before, n * sizeof *dw);
    tile_grad_run(&s, dw + GUARD, dy, x, c, scratch);
    for (size_t i = 0; i < GUARD; i++) {
        uint32_t bits[2];
        memcpy(bits, &dw[i], 4), memcpy(bits + 1, &dw[GUARD + n + i], 4);
        T_TRUE(bits[0] == 0xffffffff && bits[1] == 0xffffffff && scratch[bytes + i] == 0xff);
    }
    return dw + GUARD;
}

T_TEST(the_formula)
{
    (void)be, (void)s;
    for (int i = 0; i < N_SHAPES; i++) {
        const ts_conv2d *c = &SHAPES[i];
        const int64_t nx = c->B * c->Y * c->X * c->C, ny = c->B * c->Y * c->X * c->O, nw = c->O * c->k * c->k * c->C;
        const float *x = t_normals(nx, 1, 1), *dy = t_normals(ny, 1, 2), *before = t_normals(nw, 1, 3);
        T_TRUE(tile_grad_takes(c));
        const float *dw = run(c, 1, before, dy, x);
        t_close("dw", dw, oracle(c, before, t_operand(dy, ny, TS_MATH_BF16), t_operand(x, nx, TS_MATH_BF16)), nw, t_sum_tolerance(c->B * c->Y * c->X + 1));
        for (int threads = 2; threads < 5; threads++) T_TRUE(memcmp(dw, run(c, threads, before, dy, x), (size_t)nw * sizeof *dw) == 0);
    }
}

T_TEST(what_is_not_taken)
{
    (void)be, (void)s;
    static const ts_conv2d NOT[] = {
        { 1, 8, 16, 48, 32, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 }, { 1, 8, 16, 32, 48, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },
        { 1, 8, 15, 32, 32, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 }, { 1, 8, 16, 32, 32, 3, 1, 0, 1, TS_MATH_BF16, TS_F32, 0 },
        { 1, 8, 16, 32, 32, 3, 2, 1, 1, TS_MATH_BF16, TS_F32, 0 }, { 1, 8, 16, 32, 32, 1, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },
        { 1, 8, 16, 32, 32, 5, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 }, { 1, 8, 16, 32, 32, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
    };
    for (size_t i = 0; i < sizeof NOT / sizeof *NOT; i++) T_TRUE(!tile_grad_takes(&NOT[i]));
}

int main(void)
{
    Suite *u = t_suite("op_tile_grad");
    if (tile_unit() || TILE_IN_C) T_ADD1(u, the_formula); /* else the machine does not give the registers that this was built for */
    T_ADD1(u, what_is_not_taken);
    return t_run(u);
}
