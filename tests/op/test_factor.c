/* test_factor.c - operands of products that stand in memory as bfloat16: ops that write them round what they write in float32, and
 * products of them are those of the same numbers in float32, bit for bit. A backend without them (factor_dtype) has nothing to check.
 */
#include "tests/t.h"

static int has_factors(const ts_backend *be)
{
    return be->factor_dtype && be->factor_dtype(TS_MATH_BF16) == TS_BF16;
}

/* The bits of x rounded to 8 significant ones, ties to even; x is finite and normal. */
static uint16_t rounded(float x)
{
    int e;
    const double m = frexp(x, &e);
    const float y = (float)ldexp(rint(ldexp(m, 8)), e - 8);
    uint32_t u;
    memcpy(&u, &y, sizeof u);
    return (uint16_t)(u >> 16);
}

static t_buf *in_bf16(const ts_backend *be, ts_stream *s, const float *x, int64_t n)
{
    uint16_t *y = t_alloc((size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++) y[i] = rounded(x[i]);
    return t_in(be, s, y, n, sizeof *y);
}

static void check_rounded(const char *what, t_buf *narrow, t_buf *wide, int64_t n)
{
    t_down(narrow);
    t_down(wide);
    const uint16_t *got = narrow->host;
    for (int64_t i = 0; i < n; i++)
        ck_assert_msg(got[i] == rounded(T_F(wide)[i]), "%s: number %d is %04x, expected %04x of %.9g", what, (int)i, got[i],
                      rounded(T_F(wide)[i]), T_F(wide)[i]);
}

T_TEST(factors_are_only_for_bfloat16)
{
    (void)s;
    if (be->factor_dtype) T_EQI(be->factor_dtype(TS_MATH_F32), TS_F32);
}

T_TEST(norms_and_activations_round)
{
    enum { B = 2, P = 33, C = 96, N = B * P * C };
    if (!has_factors(be)) return;
    float *numbers = t_normals(N, 1, 1);
    numbers[7] = 0;
    t_buf *x = T_INF(numbers, N), *wide = T_OUTF(N), *narrow = t_out(be, s, N, 2), *a = T_OUTF(B * P), *b = T_OUTF(B * P);
    t_buf *u = T_INF(t_normals(B * C, 1, 2), B * C), *v = T_INF(t_normals(B * C, 1, 3), B * C);
    for (int silu = 0; silu < 2; silu++) {
        ts_group_norm n = { B, P, C, 8, 1e-6f, silu, TS_F32 };
        T_OK(be->group_norm_fwd(s, wide->dev, a->dev, b->dev, x->dev, u->dev, v->dev, &n));
        n.y_dtype = TS_BF16;
        T_OK(be->group_norm_fwd(s, narrow->dev, a->dev, b->dev, x->dev, u->dev, v->dev, &n));
        check_rounded("group_norm", narrow, wide, N);
    }
    ts_ada_norm n = { B, P, C, C, C, C, 1e-6f, TS_F32 };
    T_OK(be->ada_norm_fwd(s, NULL, wide->dev, NULL, NULL, x->dev, NULL, NULL, u->dev, v->dev, &n));
    n.y_dtype = TS_BF16;
    T_OK(be->ada_norm_fwd(s, NULL, narrow->dev, NULL, NULL, x->dev, NULL, NULL, u->dev, v->dev, &n));
    check_rounded("ada_norm", narrow, wide, N);
    for (ts_act act = TS_SILU; act <= TS_GELU_TANH; act++) {
        T_OK(be->act_fwd(s, wide->dev, x->dev, act, N, TS_F32));
        T_OK(be->act_fwd(s, narrow->dev, x->dev, act, N, TS_BF16));
        check_rounded("act", narrow, wide, N);
    }
}

/* constant: the weights may be kept in another layout. */
static void check_conv(const ts_backend *be, ts_stream *s, ts_conv2d c, int constant)
{
    const int64_t n = c.B * c.Y * c.X * c.C, weights = c.O * c.k * c.k * c.C;
    const int64_t N = c.B * ts_conv2d_out(&c, c.Y) * ts_conv2d_out(&c, c.X) * c.O;
    const float *numbers = t_normals(n, 1, 4);
    t_buf *w = T_INF(t_normals(weights, 1, 5), weights), *b = T_INF(t_normals(c.O, 1, 6), c.O), *want = T_OUTF(N), *got = T_OUTF(N);
    if (constant) T_OK(be->mem_constant(s, w->dev, (size_t)weights * sizeof(float), 1));
    T_OK(be->conv2d_fwd(s, want->dev, T_INF(numbers, n)->dev, w->dev, b->dev, &c, T_SCRATCH(be->conv2d_scratch(s, &c, 0))));
    c.x_dtype = TS_BF16;
    T_OK(be->conv2d_fwd(s, got->dev, in_bf16(be, s, numbers, n)->dev, w->dev, b->dev, &c, T_SCRATCH(be->conv2d_scratch(s, &c, 0))));
    t_down(want);
    t_down(got);
    ck_assert_msg(memcmp(got->host, want->host, (size_t)N * 4) == 0, "%d channels to %d, kernel %d, stride %d", (int)c.C, (int)c.O,
                  c.k, c.stride);
    if (constant) T_OK(be->mem_constant(s, w->dev, 0, 0));
}

T_TEST(convolutions_are_the_same)
{
    static const ts_conv2d SHAPES[] = {
        { 2, 9, 7, 32, 40, 3, 1, 1, 1, TS_MATH_BF16, TS_F32 }, { 1, 8, 8, 160, 3, 3, 1, 1, 1, TS_MATH_BF16, TS_F32 },
        { 2, 8, 8, 5, 7, 3, 2, 0, 1, TS_MATH_BF16, TS_F32 },   { 1, 6, 6, 64, 192, 1, 1, 0, 0, TS_MATH_BF16, TS_F32 },
    };
    if (!has_factors(be)) return;
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
        for (int constant = 0; constant < 2; constant++) check_conv(be, s, SHAPES[i], constant);
}

T_TEST(matrix_products_are_the_same)
{
    static const int64_t SHAPES[][3] = { { 1, 64, 96 }, { 37, 256, 40 }, { 170, 31, 7 } };
    if (!has_factors(be)) return;
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++) {
        ts_linear l = { SHAPES[i][0], SHAPES[i][1], SHAPES[i][2], TS_MATH_BF16, TS_F32 };
        const float *x = t_normals(l.N * l.I, 1, 7);
        t_buf *w = T_INF(t_normals(l.O * l.I, 1, 8), l.O * l.I), *want = T_OUTF(l.N * l.O), *got = T_OUTF(l.N * l.O);
        T_OK(be->linear_fwd(s, want->dev, T_INF(x, l.N * l.I)->dev, w->dev, NULL, &l, T_SCRATCH(be->linear_scratch(s, &l, 0))));
        l.x_dtype = TS_BF16;
        T_OK(be->linear_fwd(s, got->dev, in_bf16(be, s, x, l.N * l.I)->dev, w->dev, NULL, &l, T_SCRATCH(be->linear_scratch(s, &l, 0))));
        t_down(want);
        t_down(got);
        T_TRUE(memcmp(got->host, want->host, (size_t)(l.N * l.O) * 4) == 0);
    }
}

int main(void)
{
    Suite *u = t_suite("op_factor");
    T_ADD(u, factors_are_only_for_bfloat16);
    T_ADD(u, norms_and_activations_round);
    T_ADD(u, convolutions_are_the_same);
    T_ADD(u, matrix_products_are_the_same);
    return t_run(u);
}
