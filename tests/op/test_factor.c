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
        ck_assert_msg(isfinite(T_F(wide)[i]) && got[i] == rounded(T_F(wide)[i]), "%s: number %d is %04x, expected %04x of %.9g", what,
                      (int)i, got[i], rounded(T_F(wide)[i]), T_F(wide)[i]);
}

T_TEST(factors_are_only_for_bfloat16)
{
    (void)s;
    if (be->factor_dtype) T_EQI(be->factor_dtype(TS_MATH_F32), TS_F32);
}

static float *numbers_and_a_zero(int64_t n)
{
    float *x = t_normals(n, 1, 1);
    x[7] = 0;
    return x;
}

/* On stream `on`; mean and rstd stay what they are, too. */
static void check_group_norm(const ts_backend *be, ts_stream *s, ts_stream *on, ts_group_norm n)
{
    const int64_t N = n.B * n.P * n.C, groups = n.B * n.G;
    t_buf *x = T_INF(numbers_and_a_zero(N), N), *wide = T_OUTF(N), *narrow = t_out(be, s, N, 2);
    t_buf *u = T_INF(t_normals(n.C, 1, 2), n.C), *v = T_INF(t_normals(n.C, 1, 3), n.C), *stats[4];
    for (int i = 0; i < 4; i++) stats[i] = T_OUTF(groups);
    T_OK(be->group_norm_fwd(on, wide->dev, stats[0]->dev, stats[1]->dev, x->dev, u->dev, v->dev, &n));
    n.y_dtype = TS_BF16;
    T_OK(be->group_norm_fwd(on, narrow->dev, stats[2]->dev, stats[3]->dev, x->dev, u->dev, v->dev, &n));
    T_OK(be->stream_sync(on));
    check_rounded("group_norm", narrow, wide, N);
    for (int i = 0; i < 4; i++) t_down(stats[i]);
    for (int i = 0; i < 2; i++) T_TRUE(memcmp(stats[i]->host, stats[i + 2]->host, (size_t)groups * 4) == 0);
}

/* One slice of 256 positions or several, groups whose channels do not come in pairs or fill a sector. */
T_TEST(group_norm_rounds)
{
    static const int64_t SHAPES[][4] = { { 2, 33, 96, 8 }, { 2, 513, 35, 7 }, { 1, 300, 24, 8 }, { 1, 257, 3, 3 } };
    if (!has_factors(be)) return;
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
        for (int silu = 0; silu < 2; silu++)
            check_group_norm(be, s, s,
                             (ts_group_norm){ SHAPES[i][0], SHAPES[i][1], SHAPES[i][2], SHAPES[i][3], 1e-6f, silu, TS_F32 });
}

/* The emulated device has so many multiprocessors: a map is shared by blocks that keep all of it, or, of 2, in part. */
T_TEST(group_norm_of_large_maps_rounds)
{
    static const char *const PROCESSORS[] = { "18", "2" };
    if (!has_factors(be)) return;
    for (int i = 0; i < 2; i++) {
        ts_stream *on;
        setenv("TS_EMU_PROCESSORS", PROCESSORS[i], 1);
        T_OK(be->stream_new(&on, 0, 0));
        check_group_norm(be, s, on, (ts_group_norm){ 1, 64 * 64, 40, 8, 1e-6f, 1, TS_F32 });
        be->stream_free(on);
        unsetenv("TS_EMU_PROCESSORS");
    }
}

T_TEST(norms_and_activations_round)
{
    enum { P = 33, WIDTH = 96, N = 2 * P * WIDTH, ODD = N - 1 };
    if (!has_factors(be)) return;
    t_buf *x = T_INF(numbers_and_a_zero(N), N), *wide = T_OUTF(N), *narrow = t_out(be, s, N, 2);
    t_buf *u = T_INF(t_normals(2 * WIDTH, 1, 2), 2 * WIDTH), *v = T_INF(t_normals(2 * WIDTH, 1, 3), 2 * WIDTH);
    ts_ada_norm n = { 2, P, WIDTH, WIDTH, WIDTH, WIDTH, 1e-6f, TS_F32 };
    T_OK(be->ada_norm_fwd(s, NULL, wide->dev, NULL, NULL, x->dev, NULL, NULL, u->dev, v->dev, &n));
    n.y_dtype = TS_BF16;
    T_OK(be->ada_norm_fwd(s, NULL, narrow->dev, NULL, NULL, x->dev, NULL, NULL, u->dev, v->dev, &n));
    check_rounded("ada_norm", narrow, wide, N);
    for (ts_act act = TS_SILU; act <= TS_GELU_TANH; act++) {
        T_OK(be->act_fwd(s, wide->dev, x->dev, act, N, TS_F32));
        T_OK(be->act_fwd(s, narrow->dev, x->dev, act, N, TS_BF16));
        check_rounded("act", narrow, wide, N);
        t_buf *part[] = { T_OUTF(ODD), t_out(be, s, ODD, 2) }; /* the last numbers do not fill a vector; then none is aligned */
        for (int skip = 0; skip < 2; skip++) {
            T_OK(be->act_fwd(s, part[0]->dev, (float *)x->dev + skip, act, ODD, TS_F32));
            T_OK(be->act_fwd(s, part[1]->dev, (float *)x->dev + skip, act, ODD, TS_BF16));
            check_rounded("act, odd", part[1], part[0], ODD);
        }
    }
}

/* On stream `on`. constant: the weights may be kept in another layout. */
static void check_conv(const ts_backend *be, ts_stream *s, ts_stream *on, ts_conv2d c, int constant)
{
    const int64_t n = c.B * c.Y * c.X * c.C, weights = c.O * c.k * c.k * c.C;
    const int64_t N = c.B * ts_conv2d_out(&c, c.Y) * ts_conv2d_out(&c, c.X) * c.O;
    const float *numbers = t_normals(n, 1, 4);
    t_buf *w = T_INF(t_normals(weights, 1, 5), weights), *b = T_INF(t_normals(c.O, 1, 6), c.O), *want = T_OUTF(N), *got = T_OUTF(N);
    if (constant) T_OK(be->mem_constant(on, w->dev, (size_t)weights * sizeof(float), 1));
    T_OK(be->conv2d_fwd(on, want->dev, T_INF(numbers, n)->dev, w->dev, b->dev, &c, T_SCRATCH(be->conv2d_scratch(on, &c, 0))));
    c.x_dtype = TS_BF16;
    T_OK(be->conv2d_fwd(on, got->dev, in_bf16(be, s, numbers, n)->dev, w->dev, b->dev, &c, T_SCRATCH(be->conv2d_scratch(on, &c, 0))));
    T_OK(be->stream_sync(on));
    t_down(want);
    t_down(got);
    ck_assert_msg(memcmp(got->host, want->host, (size_t)N * 4) == 0, "%d channels to %d, kernel %d, stride %d", (int)c.C, (int)c.O,
                  c.k, c.stride);
    if (constant) T_OK(be->mem_constant(on, w->dev, 0, 0));
}

static void check_convs(const ts_backend *be, ts_stream *s, ts_stream *on)
{
    static const ts_conv2d SHAPES[] = {
        { 2, 9, 7, 32, 40, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 }, { 1, 8, 8, 160, 3, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },
        { 2, 8, 8, 5, 7, 3, 2, 0, 1, TS_MATH_BF16, TS_F32, 0 },   { 1, 6, 6, 64, 192, 1, 1, 0, 0, TS_MATH_BF16, TS_F32, 0 },
    };
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
        for (int kind = 0; kind < 3; kind++) {
            ts_conv2d c = SHAPES[i];
            c.recurs = kind == 2;
            check_conv(be, s, on, c, kind == 1);
        }
}

T_TEST(convolutions_are_the_same)
{
    if (has_factors(be)) check_convs(be, s, s);
}

/* On an emulated device without cuDNN. */
T_TEST(convolutions_by_products_are_the_same)
{
    if (!has_factors(be)) return;
    ts_stream *on;
    setenv("TS_EMU_CUDNN", "none", 1);
    T_OK(be->stream_new(&on, 0, 0));
    check_convs(be, s, on);
    be->stream_free(on);
    unsetenv("TS_EMU_CUDNN");
}

T_TEST(matrix_products_are_the_same)
{
    static const int64_t SHAPES[][3] = { { 1, 64, 96 }, { 37, 256, 40 }, { 170, 31, 7 } };
    if (!has_factors(be)) return;
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++) {
        ts_linear l = { .N = SHAPES[i][0], .I = SHAPES[i][1], .O = SHAPES[i][2], .math = TS_MATH_BF16 };
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

enum { B = 2, T = 85, FIRST = 21, H = 3, ROOM = T + 2 };

/* A case: where it runs, and channels of a head and of all. */
typedef struct {
    ts_stream *on;
    int64_t c, C;
} heads;

/* Attention of T tokens, the first FIRST of them alone, with a cache of room for ROOM. */
typedef struct {
    t_buf *out[2], *k, *v;
} cached;

static cached run_cached(const ts_backend *be, ts_stream *s, heads h, const float *qkv, const float *scale_mul, ts_dtype dtype)
{
    int64_t size = dtype == TS_BF16 ? 2 : 4, n[2] = { FIRST, T - FIRST }, C = h.C;
    ts_attention a = { .B = B, .H = H, .c = h.c, .scale = 0.4f, .T_max = ROOM, .math = TS_MATH_BF16, .dtype = dtype };
    cached r = { .k = t_out(be, s, B * ROOM * C, size), .v = t_out(be, s, B * ROOM * C, size) };
    for (int i = 0; i < 2; i++) {
        float *part = t_alloc((size_t)(B * n[i] * 3 * C) * sizeof *part);
        for (int64_t b = 0; b < B; b++)
            memcpy(part + b * n[i] * 3 * C, qkv + (b * T + a.pos) * 3 * C, (size_t)(n[i] * 3 * C) * sizeof *part);
        a.T = n[i];
        r.out[i] = t_out(be, s, B * n[i] * C, size);
        T_OK(be->attention_cached(h.on, r.out[i]->dev, r.k->dev, r.v->dev, T_INF(part, B * n[i] * 3 * C)->dev, scale_mul, &a,
                                  T_SCRATCH(be->attention_scratch(h.on, &a, 0))));
        a.pos += n[i];
    }
    T_OK(be->stream_sync(h.on));
    return r;
}

static t_buf *run_masked(const ts_backend *be, ts_stream *s, heads h, const float *qkv, const float *scale_mul, ts_dtype dtype)
{
    int32_t end[T];
    for (int t = 0; t < T; t++) end[t] = t < FIRST ? FIRST : T;
    const int64_t C = h.C;
    const ts_attention a = { .B = B, .T = T, .H = H, .c = h.c, .scale = 0.4f, .math = TS_MATH_BF16, .dtype = dtype };
    t_buf *out = t_out(be, s, B * T * C, dtype == TS_BF16 ? 2 : 4);
    T_OK(be->attention_fwd(h.on, out->dev, NULL, T_INF(qkv, B * T * 3 * C)->dev, scale_mul, t_in(be, s, end, T, 4)->dev, &a,
                           T_SCRATCH(be->attention_scratch(h.on, &a, 0))));
    T_OK(be->stream_sync(h.on));
    return out;
}

/* Keys and values that are rounded already are those of float32, so that the outputs differ by their own rounding alone. */
static void check_outputs(const ts_backend *be, ts_stream *s, heads h)
{
    const int64_t C = h.C;
    float *qkv = t_normals(B * T * 3 * C, 1, 9);
    for (int64_t i = 0; i < B * T * 3 * C; i++) {
        uint32_t u = (uint32_t)rounded(qkv[i]) << 16;
        if (i / C % 3 > 0) memcpy(qkv + i, &u, sizeof u);
    }
    cached wide = run_cached(be, s, h, qkv, NULL, TS_F32), narrow = run_cached(be, s, h, qkv, NULL, TS_BF16);
    check_rounded("first tokens", narrow.out[0], wide.out[0], B * FIRST * C);
    check_rounded("other tokens", narrow.out[1], wide.out[1], B * (T - FIRST) * C);
    check_rounded("all tokens, masked", run_masked(be, s, h, qkv, NULL, TS_BF16), run_masked(be, s, h, qkv, NULL, TS_F32), B * T * C);
}

static void check_keys(const ts_backend *be, ts_stream *s, heads h)
{
    const int64_t C = h.C;
    const float mul[H] = { 1, 0.5f, 2 }, *qkv = t_normals(B * T * 3 * C, 1, 10);
    const float *scale_mul = T_INF(mul, H)->dev;
    cached wide = run_cached(be, s, h, qkv, scale_mul, TS_F32), narrow = run_cached(be, s, h, qkv, scale_mul, TS_BF16);
    t_buf *masked = run_masked(be, s, h, qkv, scale_mul, TS_BF16), *cache[][2] = { { wide.k, narrow.k }, { wide.v, narrow.v } };
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

static const int64_t HEADS[] = { 24, 10 };

T_TEST(attention_rounds_keys_values_and_outputs)
{
    if (!has_factors(be)) return;
    for (int i = 0; i < 2; i++) check_outputs(be, s, (heads){ s, HEADS[i], H * HEADS[i] });
}

T_TEST(attention_rounds_keys_behind_their_norm)
{
    if (!has_factors(be)) return;
    for (int i = 0; i < 2; i++) check_keys(be, s, (heads){ s, HEADS[i], H * HEADS[i] });
}

/* On an emulated device whose shared memory no head fits into. */
T_TEST(attention_rounds_without_shared_memory)
{
    if (!has_factors(be)) return;
    ts_stream *on;
    setenv("TS_EMU_SHARED", "16384", 1);
    T_OK(be->stream_new(&on, 0, 0));
    unsetenv("TS_EMU_SHARED");
    check_outputs(be, s, (heads){ on, HEADS[0], H * HEADS[0] });
    check_keys(be, s, (heads){ on, HEADS[0], H * HEADS[0] });
    be->stream_free(on);
}

int main(void)
{
    Suite *u = t_suite("op_factor");
    T_ADD(u, attention_rounds_keys_values_and_outputs);
    T_ADD(u, attention_rounds_keys_behind_their_norm);
    T_ADD(u, attention_rounds_without_shared_memory);
    T_ADD(u, factors_are_only_for_bfloat16);
    T_ADD(u, group_norm_rounds);
    T_ADD(u, group_norm_of_large_maps_rounds);
    T_ADD(u, norms_and_activations_round);
    T_ADD(u, convolutions_are_the_same);
    T_ADD(u, convolutions_by_products_are_the_same);
    T_ADD(u, matrix_products_are_the_same);
    return t_run(u);
}
