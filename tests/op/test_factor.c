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
    enum { P = 33, WIDTH = 96, N = 2 * P * WIDTH };
    if (!has_factors(be)) return;
    float *numbers = t_normals(N, 1, 1);
    numbers[7] = 0;
    t_buf *x = T_INF(numbers, N), *wide = T_OUTF(N), *narrow = t_out(be, s, N, 2), *a = T_OUTF(2 * P), *b = T_OUTF(2 * P);
    t_buf *u = T_INF(t_normals(2 * WIDTH, 1, 2), 2 * WIDTH), *v = T_INF(t_normals(2 * WIDTH, 1, 3), 2 * WIDTH);
    for (int silu = 0; silu < 2; silu++) {
        ts_group_norm n = { 2, P, WIDTH, 8, 1e-6f, silu, TS_F32 };
        T_OK(be->group_norm_fwd(s, wide->dev, a->dev, b->dev, x->dev, u->dev, v->dev, &n));
        n.y_dtype = TS_BF16;
        T_OK(be->group_norm_fwd(s, narrow->dev, a->dev, b->dev, x->dev, u->dev, v->dev, &n));
        check_rounded("group_norm", narrow, wide, N);
    }
    ts_ada_norm n = { 2, P, WIDTH, WIDTH, WIDTH, WIDTH, 1e-6f, TS_F32 };
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

enum { B = 2, T = 21, FIRST = 5, H = 3, HEAD = 24, C = H * HEAD, ROOM = T + 2 };

/* Attention of T tokens, the first FIRST of them alone, with a cache of room for ROOM. */
typedef struct {
    t_buf *out[2], *k, *v;
} cached;

static cached run_cached(const ts_backend *be, ts_stream *s, const float *qkv, const float *scale_mul, ts_dtype dtype)
{
    int64_t size = dtype == TS_BF16 ? 2 : 4, n[2] = { FIRST, T - FIRST };
    ts_attention a = { .B = B, .H = H, .c = HEAD, .scale = 0.4f, .T_max = ROOM, .math = TS_MATH_BF16, .dtype = dtype };
    cached r = { .k = t_out(be, s, B * ROOM * C, size), .v = t_out(be, s, B * ROOM * C, size) };
    for (int i = 0; i < 2; i++) {
        float *part = t_alloc((size_t)(B * n[i] * 3 * C) * sizeof *part);
        for (int64_t b = 0; b < B; b++)
            memcpy(part + b * n[i] * 3 * C, qkv + (b * T + a.pos) * 3 * C, (size_t)(n[i] * 3 * C) * sizeof *part);
        a.T = n[i];
        r.out[i] = t_out(be, s, B * n[i] * C, size);
        T_OK(be->attention_cached(s, r.out[i]->dev, r.k->dev, r.v->dev, T_INF(part, B * n[i] * 3 * C)->dev, scale_mul, &a,
                                  T_SCRATCH(be->attention_scratch(s, &a, 0))));
        a.pos += n[i];
    }
    return r;
}

static t_buf *run_masked(const ts_backend *be, ts_stream *s, const float *qkv, const float *scale_mul, ts_dtype dtype)
{
    int32_t end[T];
    for (int t = 0; t < T; t++) end[t] = t < FIRST ? FIRST : T;
    const ts_attention a = { .B = B, .T = T, .H = H, .c = HEAD, .scale = 0.4f, .math = TS_MATH_BF16, .dtype = dtype };
    t_buf *out = t_out(be, s, B * T * C, dtype == TS_BF16 ? 2 : 4);
    T_OK(be->attention_fwd(s, out->dev, NULL, T_INF(qkv, B * T * 3 * C)->dev, scale_mul, t_in(be, s, end, T, 4)->dev, &a,
                           T_SCRATCH(be->attention_scratch(s, &a, 0))));
    return out;
}

/* Keys and values that are rounded already are those of float32, so that the outputs differ by their own rounding alone. */
T_TEST(attention_rounds_keys_values_and_outputs)
{
    if (!has_factors(be)) return;
    float *qkv = t_normals(B * T * 3 * C, 1, 9);
    for (int64_t i = 0; i < B * T * 3 * C; i++) {
        uint32_t u = (uint32_t)rounded(qkv[i]) << 16;
        if (i / C % 3 > 0) memcpy(qkv + i, &u, sizeof u);
    }
    cached wide = run_cached(be, s, qkv, NULL, TS_F32), narrow = run_cached(be, s, qkv, NULL, TS_BF16);
    check_rounded("first tokens", narrow.out[0], wide.out[0], B * FIRST * C);
    check_rounded("other tokens", narrow.out[1], wide.out[1], B * (T - FIRST) * C);
    check_rounded("all tokens, masked", run_masked(be, s, qkv, NULL, TS_BF16), run_masked(be, s, qkv, NULL, TS_F32), B * T * C);
}

T_TEST(attention_rounds_keys_behind_their_norm)
{
    if (!has_factors(be)) return;
    const float mul[H] = { 1, 0.5f, 2 }, *qkv = t_normals(B * T * 3 * C, 1, 10);
    const float *scale_mul = T_INF(mul, H)->dev;
    cached wide = run_cached(be, s, qkv, scale_mul, TS_F32), narrow = run_cached(be, s, qkv, scale_mul, TS_BF16);
    t_buf *masked = run_masked(be, s, qkv, scale_mul, TS_BF16), *cache[][2] = { { wide.k, narrow.k }, { wide.v, narrow.v } };
    for (int i = 0; i < 2; i++) {
        t_down(cache[i][0]);
        t_down(cache[i][1]);
        for (int64_t j = 0; j < B * ROOM * C; j++)
            if (j / C % ROOM < T) T_EQI(((uint16_t *)cache[i][1]->host)[j], rounded(T_F(cache[i][0])[j]));
    }
    /* What the masked form makes of the same tokens is what the cached form makes: it rounds the same numbers. */
    t_down(masked);
    for (int i = 0; i < 2; i++) {
        const int64_t n = i ? T - FIRST : FIRST;
        t_down(narrow.out[i]);
        for (int64_t b = 0; b < B; b++)
            T_TRUE(memcmp((uint16_t *)narrow.out[i]->host + b * n * C, (uint16_t *)masked->host + (b * T + (i ? FIRST : 0)) * C,
                          (size_t)(n * C) * 2) == 0);
    }
}

int main(void)
{
    Suite *u = t_suite("op_factor");
    T_ADD(u, attention_rounds_keys_values_and_outputs);
    T_ADD(u, attention_rounds_keys_behind_their_norm);
    T_ADD(u, factors_are_only_for_bfloat16);
    T_ADD(u, norms_and_activations_round);
    T_ADD(u, convolutions_are_the_same);
    T_ADD(u, matrix_products_are_the_same);
    return t_run(u);
}
