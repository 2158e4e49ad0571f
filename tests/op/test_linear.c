/* test_linear.c - matrix products of every backend against the formula in double.
 *
 * Oracle     plain loops in double over operands that a rounding of its own (frexp, rint) brought to bfloat16.
 * Inputs     seeded normals; ties of the rounding to bfloat16; odd and tiny extents; N = 0.
 * Promise    a row has the same bits whatever N and the number of threads.
 */
#include "tests/t.h"

#include <oneapi/dnnl/dnnl.h>

static const struct {
    int64_t N, I, O;
} SHAPES[] = { { 1, 1, 1 }, { 31, 17, 5 }, { 257, 64, 96 }, { 5, 256, 768 }, { 64, 31, 257 }, { 130, 300, 40 }, { 600, 3, 3 } };
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };

static double *doubles(int64_t n)
{
    return t_alloc(sizeof(double) * (size_t)n);
}

static void oracle_fwd(double *y, const double *x, const double *w, const double *b, const ts_linear *l)
{
    for (int64_t n = 0; n < l->N; n++)
        for (int64_t o = 0; o < l->O; o++) {
            double sum = b ? b[o] : 0;
            for (int64_t i = 0; i < l->I; i++) sum += x[n * l->I + i] * w[o * l->I + i];
            y[n * l->O + o] = sum;
        }
}

static void oracle_bwd(double *dx, double *dw, const double *dy, const double *x, const double *w, const ts_linear *l)
{
    for (int64_t n = 0; n < l->N; n++)
        for (int64_t o = 0; o < l->O; o++)
            for (int64_t i = 0; i < l->I; i++) {
                dx[n * l->I + i] += dy[n * l->O + o] * w[o * l->I + i];
                dw[o * l->I + i] += dy[n * l->O + o] * x[n * l->I + i];
            }
}

static void check_fwd(const ts_backend *be, ts_stream *s, const ts_linear *l, const float *x, const float *w,
                      const float *b)
{
    double *want = doubles(l->N * l->O);
    oracle_fwd(want, t_operand(x, l->N * l->I, l->math), t_operand(w, l->O * l->I, l->math),
               b ? t_operand(b, l->O, TS_MATH_F32) : NULL, l);
    t_buf *y = T_OUTF(l->N * l->O), *scratch = t_out(be, s, (int64_t)be->linear_scratch(s, l, 0), 1);
    t_buf *dx = T_INF(x, l->N * l->I), *dw = T_INF(w, l->O * l->I), *db = b ? T_INF(b, l->O) : NULL;
    T_OK(be->linear_fwd(s, y->dev, dx->dev, dw->dev, db ? db->dev : NULL, l, scratch->dev));
    t_down(y);
    t_down(scratch);
    t_close("y", T_F(y), want, l->N * l->O, t_sum_tolerance(l->I));
}

/* wanted: bit 0 dx, bit 1 dw, bit 2 db; the others are passed as NULL. */
static void check_bwd(const ts_backend *be, ts_stream *s, const ts_linear *l, const float *x, const float *w,
                      int wanted)
{
    const int64_t nx = l->N * l->I, nw = l->O * l->I, ny = l->N * l->O;
    const float *dy = t_normals(ny, 1, 11), *dw0 = t_normals(nw, 3, 12), *db0 = t_normals(l->O, 3, 13);
    double *want_dx = doubles(nx), *want_dw = t_operand(dw0, nw, TS_MATH_F32), *want_db = t_operand(db0, l->O, TS_MATH_F32);
    oracle_bwd(want_dx, want_dw, t_operand(dy, ny, l->math), t_operand(x, nx, l->math), t_operand(w, nw, l->math), l);
    for (int64_t i = 0; i < ny; i++) want_db[i % l->O] += dy[i];

    t_buf *dx = T_OUTF(nx), *dw = T_INF(dw0, nw), *db = T_INF(db0, l->O);
    t_buf *scratch = t_out(be, s, (int64_t)be->linear_scratch(s, l, 1), 1);
    T_OK(be->linear_bwd(s, wanted & 1 ? dx->dev : NULL, wanted & 2 ? dw->dev : NULL, wanted & 4 ? db->dev : NULL,
                        T_INF(dy, ny)->dev, T_INF(x, nx)->dev, T_INF(w, nw)->dev, l, scratch->dev));
    t_down(dx), t_down(dw), t_down(db), t_down(scratch);
    if (wanted & 1) t_close("dx", T_F(dx), want_dx, nx, t_sum_tolerance(l->O));
    if (wanted & 2) t_close("dw", T_F(dw), want_dw, nw, t_sum_tolerance(l->N));
    if (wanted & 4) t_close("db", T_F(db), want_db, l->O, t_sum_tolerance(l->N));
    if (!(wanted & 2)) T_TRUE(memcmp(dw->host, dw0, dw->bytes) == 0);
    if (!(wanted & 4)) T_TRUE(memcmp(db->host, db0, db->bytes) == 0);
}

static void check_all(const ts_backend *be, ts_stream *s, ts_math math)
{
    for (int i = 0; i < N_SHAPES; i++) {
        const ts_linear l = { .N = SHAPES[i].N, .I = SHAPES[i].I, .O = SHAPES[i].O, .math = math };
        const float *x = t_normals(l.N * l.I, 1, 1), *w = t_normals(l.O * l.I, 1, 2);
        check_fwd(be, s, &l, x, w, t_normals(l.O, 1, 3));
        check_fwd(be, s, &l, x, w, NULL);
        for (int wanted = i == 1 ? 1 : 7; wanted < 8; wanted++) check_bwd(be, s, &l, x, w, wanted);
    }
}

static double loss(const double *dy, const double *x, const double *w, const ts_linear *l)
{
    double *y = doubles(l->N * l->O), sum = 0;
    oracle_fwd(y, x, w, NULL, l);
    for (int64_t i = 0; i < l->N * l->O; i++) sum += dy[i] * y[i];
    return sum;
}

/* The loss is linear in each variable: central differences are exact but for rounding. */
static void check_slopes(double *at, int64_t n, const double *slope, const double *dy, const double *x, const double *w,
                         const ts_linear *l)
{
    for (int64_t i = 0; i < n; i++) {
        const double h = 0.5, was = at[i];
        at[i] = was + h;
        double rise = loss(dy, x, w, l);
        at[i] = was - h;
        rise -= loss(dy, x, w, l);
        at[i] = was;
        T_NEAR(slope[i], rise / (2 * h), 1e-12);
    }
}

T_TEST(oracle_gradient_is_the_slope)
{
    (void)be, (void)s;
    const ts_linear l = { .N = 3, .I = 4, .O = 5, .math = TS_MATH_F32 };
    double *x = t_operand(t_normals(12, 1, 1), 12, l.math), *w = t_operand(t_normals(20, 1, 2), 20, l.math);
    double *dy = t_operand(t_normals(15, 1, 3), 15, l.math), *dx = doubles(12), *dw = doubles(20);
    oracle_bwd(dx, dw, dy, x, w, &l);
    check_slopes(x, 12, dx, dy, x, w, &l);
    check_slopes(w, 20, dw, dy, x, w, &l);
}

T_TEST(both_kinds_of_product_on_one_stream)
{
    check_all(be, s, TS_MATH_F32);
    check_all(be, s, TS_MATH_BF16);
}

/* Without bfloat16 instructions the operands are rounded and multiplied in float32. */
T_TEST(bfloat16_without_the_instructions)
{
    T_EQI(dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2), dnnl_success);
    check_all(be, s, TS_MATH_BF16);
}

/* Halfway between two bfloat16 numbers the even one is taken; just beside, the nearer. */
T_TEST(bfloat16_rounds_to_even)
{
    static const float X[] = { 1 + 0x1p-8f, 1 + 0x3p-8f, -1 - 0x1p-8f, 1 + 0x1p-8f + 0x1p-23f, 1 + 0x3p-8f - 0x1p-23f,
                               2 - 0x1p-8f, 3e38f,       0x1.8p-100f };
    static const float WANT[] = { 1, 1 + 0x1p-6f, -1, 1 + 0x1p-7f, 1 + 0x1p-7f, 2, 0x1.c4p127f, 0x1.8p-100f };
    const ts_linear l = { .N = 8, .I = 1, .O = 1, .math = TS_MATH_BF16 };
    const float one = 1;
    t_buf *y = T_OUTF(8);
    void *scratch = T_SCRATCH(be->linear_scratch(s, &l, 0));
    T_OK(be->linear_fwd(s, y->dev, T_INF(X, 8)->dev, T_INF(&one, 1)->dev, NULL, &l, scratch));
    t_down(y);
    for (int i = 0; i < 8; i++) T_TRUE(T_F(y)[i] == WANT[i]);
}

T_TEST(not_a_number_and_infinity_stay_in_their_row)
{
    for (ts_math math = TS_MATH_F32; math <= TS_MATH_BF16; math++) {
        const ts_linear l = { .N = 40, .I = 64, .O = 48, .math = math };
        float *x = t_normals(l.N * l.I, 1, 1), *w = t_normals(l.O * l.I, 1, 2);
        uint32_t low_payload = 0x7f800001u; /* a NaN that cutting the lower half would turn into infinity */
        memcpy(&x[3 * l.I + 5], &low_payload, 4);
        x[7 * l.I + 60] = INFINITY;
        t_buf *y = T_OUTF(l.N * l.O);
        void *scratch = T_SCRATCH(be->linear_scratch(s, &l, 0));
        T_OK(be->linear_fwd(s, y->dev, T_INF(x, l.N * l.I)->dev, T_INF(w, l.O * l.I)->dev, NULL, &l, scratch));
        t_down(y);
        for (int64_t i = 0; i < l.N * l.O; i++) {
            const int64_t n = i / l.O;
            T_TRUE(n == 3 ? isnan(T_F(y)[i]) : n == 7 ? isinf(T_F(y)[i]) : isfinite(T_F(y)[i]));
        }
    }
}

T_TEST(no_rows)
{
    const ts_linear l = { .N = 0, .I = 4, .O = 3, .math = TS_MATH_F32 };
    const float w[12] = { 1, 2, 3, 4 };
    t_buf *dw = T_INF(w, 12), *db = T_INF(w, 3), *none = T_OUTF(0);
    void *scratch = T_SCRATCH(be->linear_scratch(s, &l, 1));
    T_OK(be->linear_fwd(s, none->dev, none->dev, dw->dev, db->dev, &l, scratch));
    T_OK(be->linear_bwd(s, none->dev, dw->dev, db->dev, none->dev, none->dev, dw->dev, &l, scratch));
    t_down(dw), t_down(db);
    T_TRUE(memcmp(dw->host, w, sizeof w) == 0 && memcmp(db->host, w, 12) == 0);
}

/* One row at a time on one thread, against N rows at once on one and on two. */
static void check_rows(const ts_backend *be, ts_stream *s, ts_stream *const *streams, int64_t I, int64_t O,
                       ts_math math)
{
    static const int64_t N[] = { 2, 3, 5, 7, 16, 31, 33, 64, 170, 340, 680 };
    enum { COUNTS = sizeof N / sizeof *N, MOST = 680, ALONE = 40 };
    t_buf *x = T_INF(t_normals(MOST * I, 1, 1), MOST * I), *w = T_INF(t_normals(O * I, 1, 2), O * I);
    t_buf *b = T_INF(t_normals(O, 1, 3), O), *want = T_OUTF(MOST * O), *y = T_OUTF(MOST * O);
    ts_linear l = { .N = 1, .I = I, .O = O, .math = math };
    void *scratch = T_SCRATCH(be->linear_scratch(streams[0], &l, 0));
    for (int64_t n = 0; n < MOST; n += n < ALONE ? 1 : 13)
        T_OK(be->linear_fwd(streams[0], (float *)want->dev + n * O, (float *)x->dev + n * I, w->dev, b->dev, &l,
                            scratch));
    T_OK(be->stream_sync(streams[0]));
    t_down(want);
    for (int i = 0; i < 2 * COUNTS; i++) {
        ts_stream *t = streams[i % 2];
        l.N = N[i / 2];
        T_OK(be->linear_fwd(t, y->dev, x->dev, w->dev, b->dev, &l, T_SCRATCH(be->linear_scratch(t, &l, 0))));
        T_OK(be->stream_sync(t));
        t_down(y);
        for (int64_t n = 0; n < l.N; n += n < ALONE ? 1 : 13)
            ck_assert_msg(memcmp(T_F(y) + n * O, T_F(want) + n * O, (size_t)O * 4) == 0,
                          "row %d of N=%d I=%d O=%d math=%d differs from the row alone", (int)n, (int)l.N, (int)I,
                          (int)O, math);
    }
}

T_TEST(a_row_does_not_depend_on_the_others)
{
    static const int64_t IO[][2] = { { 256, 768 }, { 256, 1024 }, { 1024, 256 }, { 128, 40 }, { 8, 256 },
                                     { 64, 192 },  { 32, 7 },     { 1536, 384 }, { 31, 257 } };
    ts_stream *streams[2];
    for (int i = 0; i < 2; i++) T_OK(be->stream_new(&streams[i], 0, i + 1));
    for (size_t i = 0; i < sizeof IO / sizeof *IO; i++)
        for (ts_math math = TS_MATH_F32; math <= TS_MATH_BF16; math++)
            check_rows(be, s, streams, IO[i][0], IO[i][1], math);
    for (int i = 0; i < 2; i++) be->stream_free(streams[i]);
}

/* Weights that were declared constant are kept in another layout: the bits stay the same, for every number of rows, and a weight
 * that changes after the declaration was taken back is seen, also when another declaration follows. */
T_TEST(constant_weights)
{
    static const int64_t N[] = { 1, 2, 40, 170 };
    enum { MOST = 170, I = 96, O = 96, W = I * O };
    t_buf *x = T_INF(t_normals(MOST * I, 1, 1), MOST * I), *b = T_INF(t_normals(O, 1, 3), O);
    t_buf *want = T_OUTF(MOST * O), *y = T_OUTF(MOST * O), *w = T_INF(t_normals(2 * W, 1, 2), 2 * W);
    for (int round = 0; round < 3; round++) {
        if (round != 1) T_OK(be->mem_constant(s, w->dev, 2 * W * sizeof(float), 1));
        for (int i = 0; i < 16; i++) { /* twice each: the second time nothing is brought */
            const ts_linear l = { .N = N[i / 4], .I = I, .O = O, .math = i & 1 ? TS_MATH_BF16 : TS_MATH_F32 };
            const float *weights = (const float *)w->dev + (i & 2 ? W : 0);
            void *scratch = T_SCRATCH(be->linear_scratch(s, &l, 0));
            ts_stream *plain;
            T_OK(be->stream_new(&plain, 0, 2));
            T_OK(be->linear_fwd(plain, want->dev, x->dev, weights, b->dev, &l, scratch));
            T_OK(be->stream_sync(plain));
            be->stream_free(plain);
            for (int twice = 0; twice < 2; twice++) {
                T_OK(be->linear_fwd(s, y->dev, x->dev, weights, b->dev, &l, scratch));
                t_down(y);
                t_down(want);
                T_TRUE(memcmp(T_F(y), T_F(want), (size_t)(l.N * O) * 4) == 0);
            }
        }
        if (round != 1) T_OK(be->mem_constant(s, w->dev, 0, 0));
        T_OK(be->upload(s, w->dev, t_normals(2 * W, 1, 20 + (uint64_t)round), 2 * W * sizeof(float)));
    }
}

/* What lies behind constant weights may change. */
T_TEST(weights_behind_constant_ones)
{
    enum { N = 4, I = 96, O = 96, W = I * O };
    const ts_linear l = { .N = N, .I = I, .O = O, .math = TS_MATH_BF16 };
    t_buf *x = T_INF(t_normals(N * I, 1, 1), N * I), *w = T_OUTF(2 * W), *want = T_OUTF(N * O), *y = T_OUTF(N * O);
    float *behind = (float *)w->dev + W;
    void *scratch = T_SCRATCH(be->linear_scratch(s, &l, 0));
    T_OK(be->mem_constant(s, w->dev, W * sizeof(float), 1));
    for (uint64_t round = 0; round < 2; round++) {
        const float *numbers = t_normals(W, 1, 2 + round);
        T_OK(be->upload(s, behind, numbers, W * sizeof(float)));
        T_OK(be->linear_fwd(s, y->dev, x->dev, behind, NULL, &l, scratch));
        T_OK(be->linear_fwd(s, want->dev, x->dev, T_INF(numbers, W)->dev, NULL, &l, scratch));
        t_down(y);
        t_down(want);
        T_TRUE(memcmp(y->host, want->host, N * O * 4) == 0);
    }
    T_OK(be->mem_constant(s, w->dev, 0, 0));
}

/* An activation at the end gives the bits that it gives afterwards, of whatever shape and type. */
T_TEST(activated)
{
    static const int64_t NIO[][3] = { { 37, 96, 64 }, { 530, 32, 160 }, { 5, 31, 17 }, { 0, 32, 32 }, { 3, 4128, 32 } };
    for (size_t i = 0; i < sizeof NIO / sizeof *NIO; i++)
        for (int mode = 0; mode < 16; mode++) {
            const ts_math math = mode & 1 ? TS_MATH_BF16 : TS_MATH_F32;
            const ts_dtype narrow = be->factor_dtype ? be->factor_dtype(math) : TS_F32;
            ts_linear l = { .N = NIO[i][0], .I = NIO[i][1], .O = NIO[i][2], .math = math };
            t_buf *x = T_INF(t_normals(l.N * l.I, 1, 1), l.N * l.I), *w = T_INF(t_normals(l.O * l.I, 1, 2), l.O * l.I);
            t_buf *b = mode & 2 ? T_INF(t_normals(l.O, 1, 3), l.O) : NULL, *sums = T_OUTF(l.N * l.O), *want, *y;
            const ts_act act = mode & 4 ? TS_SILU : TS_GELU_TANH;
            const ts_dtype dtype = mode & 8 ? narrow : TS_F32;
            want = t_out(be, s, l.N * l.O, dtype == TS_BF16 ? 2 : 4);
            y = t_out(be, s, l.N * l.O, dtype == TS_BF16 ? 2 : 4);
            T_OK(be->linear_fwd(s, sums->dev, x->dev, w->dev, b ? b->dev : NULL, &l, T_SCRATCH(be->linear_scratch(s, &l, 0))));
            if (l.N) T_OK(be->act_fwd(s, want->dev, sums->dev, act, l.N * l.O, dtype));
            l.act = act;
            l.y_dtype = dtype;
            T_OK(be->linear_fwd(s, y->dev, x->dev, w->dev, b ? b->dev : NULL, &l, T_SCRATCH(be->linear_scratch(s, &l, 0))));
            t_down(y);
            t_down(want);
            ck_assert_msg(memcmp(y->host, want->host, y->bytes) == 0, "N=%d I=%d O=%d, mode %d", (int)l.N, (int)l.I, (int)l.O, mode);
        }
}

/* Weights that a file holds in bfloat16 give what the same numbers in float32 give. Read once: the pages of a file may be given back. */
T_TEST(weights_in_a_file)
{
    static const int64_t O[] = { 64, 96, 80 }, N = 37, I = 96;
    if (!be->mem_stored) return;
    for (int i = 0; i < 6; i++) {
        const ts_linear l = { .N = N, .I = I, .O = O[i / 2], .math = i & 1 ? TS_MATH_BF16 : TS_MATH_F32 };
        const ts_stored stored = { l.O, I, 1, TS_BF16 };
        float *w = t_normals(l.O * I, 1, 2);
        uint16_t *narrow = t_alloc(sizeof *narrow * (size_t)(l.O * I));
        for (int64_t j = 0; j < l.O * I; j++) {
            w[j] = (float)t_bf16(w[j]);
            uint32_t bits;
            memcpy(&bits, &w[j], sizeof bits);
            narrow[j] = (uint16_t)(bits >> 16);
        }
        t_buf *x = T_INF(t_normals(N * I, 1, 1), N * I), *plain = T_INF(w, l.O * I), *want = T_OUTF(N * l.O), *y = T_OUTF(N * l.O);
        void *scratch = T_SCRATCH(be->linear_scratch(s, &l, 0));
        T_OK(be->linear_fwd(s, want->dev, x->dev, plain->dev, NULL, &l, scratch));
        T_OK(be->mem_stored(s, narrow, &stored));
        for (int twice = 0; twice < 2; twice++) {
            T_OK(be->linear_fwd(s, y->dev, x->dev, (const float *)(const void *)narrow, NULL, &l, scratch));
            t_down(y), t_down(want);
            T_TRUE(memcmp(y->host, want->host, (size_t)(N * l.O) * 4) == 0);
        }
        T_OK(be->mem_constant(s, narrow, 0, 0));
    }
}

int main(void)
{
    Suite *u = t_suite("op_linear");
    T_ADD1(u, oracle_gradient_is_the_slope);
    T_ADD(u, both_kinds_of_product_on_one_stream);
    T_ADD1(u, bfloat16_without_the_instructions);
    T_ADD(u, bfloat16_rounds_to_even);
    T_ADD(u, not_a_number_and_infinity_stay_in_their_row);
    T_ADD(u, no_rows);
    T_ADD(u, constant_weights);
    T_ADD(u, weights_behind_constant_ones);
    T_ADD(u, activated);
    T_ADD(u, weights_in_a_file);
    T_ADD(u, a_row_does_not_depend_on_the_others);
    return t_run(u);
}
