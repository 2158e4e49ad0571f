/* test_conv2d.c - convolution of every backend against the formula in double.
 *
 * Oracle     plain loops in double over operands that a rounding of its own (frexp, rint) brought to bfloat16; the
 *            gradients scatter what the forward loop gathers. Checked against central differences.
 * Inputs     seeded normals; one pixel, odd sides, few channels, one-sided padding, stride 2, 1x1, even kernels.
 * Promise    an image has the same bits whatever B and the number of threads.
 */
#include "tests/t.h"

#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>

static const ts_conv2d SHAPES[] = {
    /* B  Y   X   C   O   k stride lo hi */
    { 2, 5, 7, 3, 8, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },    { 1, 8, 8, 32, 32, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
    { 3, 9, 6, 5, 7, 3, 2, 0, 1, TS_MATH_F32, TS_F32, 0 },    { 2, 8, 8, 16, 33, 1, 1, 0, 0, TS_MATH_F32, TS_F32, 0 },
    { 3, 1, 1, 4, 3, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },    { 2, 4, 4, 64, 96, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
    { 2, 7, 7, 6, 6, 4, 2, 1, 1, TS_MATH_F32, TS_F32, 0 },    { 1, 6, 5, 8, 9, 3, 1, 0, 2, TS_MATH_F32, TS_F32, 0 },
    { 2, 16, 16, 32, 3, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 }, { 2, 5, 5, 12, 20, 1, 2, 0, 0, TS_MATH_F32, TS_F32, 0 },
    { 1, 1, 1, 1, 1, 1, 1, 0, 0, TS_MATH_F32, TS_F32, 0 },    { 5, 8, 8, 7, 31, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
};
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };

static double *doubles(int64_t n)
{
    return t_alloc(sizeof(double) * (size_t)n);
}

typedef struct {
    int64_t x, w, y, Yo, Xo;
} sizes;

static sizes sizes_of(const ts_conv2d *c)
{
    const int64_t Yo = (c->Y + c->pad_lo + c->pad_hi - c->k) / c->stride + 1;
    const int64_t Xo = (c->X + c->pad_lo + c->pad_hi - c->k) / c->stride + 1;
    return (sizes){ c->B * c->Y * c->X * c->C, c->O * c->k * c->k * c->C, c->B * Yo * Xo * c->O, Yo, Xo };
}

/* Visits every product of the formula: output (b,i,j,o), weight (o,u,v), input pixel (b,row,col), all channels.
 * y += x w forward; backward dx += dy w and dw += dy x. */
static void oracle(const ts_conv2d *c, double *y, double *dx, double *dw, const double *dy, const double *x,
                   const double *w)
{
    const sizes n = sizes_of(c);
    for (int64_t out = 0; out < n.y; out++) {
        const int64_t o = out % c->O, j = out / c->O % n.Xo, i = out / c->O / n.Xo % n.Yo;
        const int64_t b = out / c->O / n.Xo / n.Yo;
        for (int tap = 0; tap < c->k * c->k; tap++) {
            const int64_t row = i * c->stride + tap / c->k - c->pad_lo, col = j * c->stride + tap % c->k - c->pad_lo;
            if (row < 0 || row >= c->Y || col < 0 || col >= c->X) continue;
            const int64_t px = ((b * c->Y + row) * c->X + col) * c->C, pw = (o * c->k * c->k + tap) * c->C;
            for (int64_t ch = 0; ch < c->C; ch++) {
                if (y) y[out] += x[px + ch] * w[pw + ch];
                if (dx) dx[px + ch] += dy[out] * w[pw + ch];
                if (dw) dw[pw + ch] += dy[out] * x[px + ch];
            }
        }
    }
}

static void check_fwd(const ts_backend *be, ts_stream *s, const ts_conv2d *c, const float *x, const float *w,
                      const float *b)
{
    const sizes n = sizes_of(c);
    double *want = doubles(n.y);
    for (int64_t i = 0; b && i < n.y; i++) want[i] = b[i % c->O];
    oracle(c, want, NULL, NULL, NULL, t_operand(x, n.x, c->math), t_operand(w, n.w, c->math));
    t_buf *y = T_OUTF(n.y), *scratch = t_out(be, s, (int64_t)be->conv2d_scratch(s, c, 0), 1);
    T_OK(be->conv2d_fwd(s, y->dev, T_INF(x, n.x)->dev, T_INF(w, n.w)->dev, b ? T_INF(b, c->O)->dev : NULL, c,
                        scratch->dev));
    t_down(y), t_down(scratch);
    t_close("y", T_F(y), want, n.y, t_sum_tolerance(c->k * c->k * c->C));
}

/* wanted: bit 0 dx, bit 1 dw, bit 2 db; the others are passed as NULL. */
static void check_bwd(const ts_backend *be, ts_stream *s, const ts_conv2d *c, const float *x, const float *w,
                      int wanted)
{
    const sizes n = sizes_of(c);
    const float *dy = t_normals(n.y, 1, 11), *dw0 = t_normals(n.w, 3, 12), *db0 = t_normals(c->O, 3, 13);
    double *want_dx = doubles(n.x), *want_dw = t_operand(dw0, n.w, TS_MATH_F32);
    double *want_db = t_operand(db0, c->O, TS_MATH_F32);
    oracle(c, NULL, want_dx, want_dw, t_operand(dy, n.y, c->math), t_operand(x, n.x, c->math), t_operand(w, n.w, c->math));
    for (int64_t i = 0; i < n.y; i++) want_db[i % c->O] += dy[i];

    t_buf *dx = T_OUTF(n.x), *dw = T_INF(dw0, n.w), *db = T_INF(db0, c->O);
    t_buf *scratch = t_out(be, s, (int64_t)be->conv2d_scratch(s, c, 1), 1);
    T_OK(be->conv2d_bwd(s, wanted & 1 ? dx->dev : NULL, wanted & 2 ? dw->dev : NULL, wanted & 4 ? db->dev : NULL,
                        T_INF(dy, n.y)->dev, T_INF(x, n.x)->dev, T_INF(w, n.w)->dev, c, scratch->dev));
    t_down(dx), t_down(dw), t_down(db), t_down(scratch);
    const int64_t positions = n.y / c->O;
    if (wanted & 1) t_close("dx", T_F(dx), want_dx, n.x, t_sum_tolerance(c->k * c->k * c->O));
    if (wanted & 2) t_close("dw", T_F(dw), want_dw, n.w, t_sum_tolerance(positions));
    if (wanted & 4) t_close("db", T_F(db), want_db, c->O, t_sum_tolerance(positions));
    if (!(wanted & 2)) T_TRUE(memcmp(dw->host, dw0, dw->bytes) == 0);
    if (!(wanted & 4)) T_TRUE(memcmp(db->host, db0, db->bytes) == 0);
}

static void check_all(const ts_backend *be, ts_stream *s, ts_math math, int recurs)
{
    for (int i = 0; i < N_SHAPES; i++) {
        ts_conv2d c = SHAPES[i];
        c.math = math;
        c.recurs = recurs;
        const sizes n = sizes_of(&c);
        const float *x = t_normals(n.x, 1, 1), *w = t_normals(n.w, 1, 2);
        check_fwd(be, s, &c, x, w, t_normals(c.O, 1, 3));
        check_fwd(be, s, &c, x, w, NULL);
        for (int wanted = i < 2 ? 1 : 7; wanted < 8; wanted++) check_bwd(be, s, &c, x, w, wanted);
    }
}

T_TEST(both_kinds_of_product_on_one_stream)
{
    check_all(be, s, TS_MATH_F32, 0);
    for (int recurs = 0; recurs < 2; recurs++) check_all(be, s, TS_MATH_BF16, recurs);
}

/* On the emulated device, where cuDNN is missing, has no engine for a shape, compiles none, or takes a shape and then does not do it. */
static void check_without(const ts_backend *be, const char *how)
{
    ts_stream *other;
    if (strcmp(be->name, "emu") != 0) return;
    setenv("TS_EMU_CUDNN", how, 1);
    T_OK(be->stream_new(&other, 0, 1));
    for (int recurs = 0; recurs < 2; recurs++) check_all(be, other, TS_MATH_BF16, recurs);
    check_all(be, other, TS_MATH_F32, 1);
    be->stream_free(other);
}

T_TEST(no_cudnn)
{
    (void)s;
    check_without(be, "none");
}

T_TEST(cudnn_lists_nothing)
{
    (void)s;
    check_without(be, "short");
}

T_TEST(cudnn_compiles_nothing)
{
    (void)s;
    check_without(be, "ready");
}

T_TEST(cudnn_refuses_late)
{
    (void)s;
    check_without(be, "late");
}

/* Every call of the runtime fails in turn: that is made good, or a line. Three of the calls are convolutions of cuDNN. */
static void check_failures(const ts_backend *be, ts_stream *s, ts_conv2d c)
{
    const sizes n = sizes_of(&c);
    t_buf *x = T_INF(t_normals(n.x, 1, 1), n.x), *w = T_INF(t_normals(n.w, 1, 2), n.w);
    t_buf *y = T_INF(t_normals(n.y, 1, 3), n.y), *dx = T_OUTF(n.x), *dw = T_INF(t_normals(n.w, 1, 2), n.w);
    size_t enough = 0; /* whatever cuDNN will do */
    for (c.recurs = 0; c.recurs < 2; c.recurs++) enough += be->conv2d_scratch(s, &c, 1) + be->conv2d_scratch(s, &c, 0);
    c.recurs = 1;
    int reached = 1, seen = 0;
    char want[128];
    snprintf(want, sizeof want, "cuDNN fails in a convolution of B=%d Y=%d X=%d C=%d O=%d k=3: CUDNN_STATUS_EXECUTION_FAILED", (int)c.B,
             (int)c.Y, (int)c.X, (int)c.C, (int)c.O);
    for (int i = 1; reached; i++) {
        ts_stream *other;
        char text[16];
        T_OK(be->stream_new(&other, 0, 1));
        void *scratch = T_SCRATCH(enough);
        snprintf(text, sizeof text, "%d", i);
        setenv("TS_EMU_FAIL", text, 1);
        ts_status st = be->conv2d_fwd(other, y->dev, x->dev, w->dev, NULL, &c, scratch);
        if (st == TS_OK) st = be->conv2d_bwd(other, dx->dev, dw->dev, NULL, y->dev, x->dev, w->dev, &c, scratch);
        reached = getenv("TS_EMU_FAIL") == NULL;
        unsetenv("TS_EMU_FAIL");
        T_TRUE(st == TS_OK || (reached && st == TS_E_DEVICE));
        seen += st != TS_OK && strcmp(ts_error(), want) == 0;
        be->stream_free(other);
    }
    T_EQI(seen, 3);
}

T_TEST(cudnn_fails)
{
    static const ts_conv2d TAKEN[] = { { 3, 9, 6, 5, 7, 3, 2, 0, 1, TS_MATH_F32, TS_F32, 0 },
                                       { 2, 5, 7, 3, 8, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 } };
    if (strcmp(be->name, "emu") != 0) return;
    for (int i = 0; i < 2; i++) check_failures(be, s, TAKEN[i]);
}

/* More than is unrolled at a time: pieces of two images and one. */
T_TEST(a_batch_in_pieces)
{
    const ts_conv2d c = { 3, 64, 64, 80, 2, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 };
    const sizes n = sizes_of(&c);
    const float *x = t_normals(n.x, 1, 1), *w = t_normals(n.w, 1, 2);
    setenv("TS_EMU_CUDNN", "none", 1);
    check_fwd(be, s, &c, x, w, t_normals(c.O, 1, 3));
    check_bwd(be, s, &c, x, w, 7);
}

/* Without bfloat16 instructions the operands are rounded and multiplied in float32. */
T_TEST(bfloat16_without_the_instructions)
{
    T_EQI(dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2), dnnl_success);
    check_all(be, s, TS_MATH_BF16, 0);
}

static double loss(const double *dy, const double *x, const double *w, const ts_conv2d *c)
{
    const int64_t n = sizes_of(c).y;
    double *y = doubles(n), sum = 0;
    oracle(c, y, NULL, NULL, NULL, x, w);
    for (int64_t i = 0; i < n; i++) sum += dy[i] * y[i];
    return sum;
}

/* The loss is linear in each variable: central differences are exact but for rounding. */
static void check_slopes(double *at, int64_t n, const double *slope, const double *dy, const double *x, const double *w,
                         const ts_conv2d *c)
{
    for (int64_t i = 0; i < n; i++) {
        const double h = 0.5, was = at[i];
        at[i] = was + h;
        double rise = loss(dy, x, w, c);
        at[i] = was - h;
        rise -= loss(dy, x, w, c);
        at[i] = was;
        T_NEAR(slope[i], rise / (2 * h), 1e-12);
    }
}

T_TEST(oracle_gradient_is_the_slope)
{
    (void)be, (void)s;
    const ts_conv2d c = { 2, 4, 5, 2, 3, 3, 2, 0, 1, TS_MATH_F32, TS_F32, 0 };
    const sizes n = sizes_of(&c);
    double *x = t_operand(t_normals(n.x, 1, 1), n.x, c.math), *w = t_operand(t_normals(n.w, 1, 2), n.w, c.math);
    double *dy = t_operand(t_normals(n.y, 1, 3), n.y, c.math), *dx = doubles(n.x), *dw = doubles(n.w);
    oracle(&c, NULL, dx, dw, dy, x, w);
    check_slopes(x, n.x, dx, dy, x, w, &c);
    check_slopes(w, n.w, dw, dy, x, w, &c);
}

/* Weights are (O,k,k,C): a kernel with a single one shifts the picture. */
T_TEST(a_single_weight_shifts)
{
    const ts_conv2d c = { 1, 4, 5, 2, 3, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 };
    const float *x = t_normals(40, 1, 1);
    float w[3 * 9 * 2] = { 0 };
    w[(2 * 9 + 1 * 3 + 2) * 2 + 1] = 1; /* o = 2, u = 1, v = 2, c = 1: takes the pixel to the right */
    t_buf *y = T_OUTF(60);
    void *scratch = T_SCRATCH(be->conv2d_scratch(s, &c, 0));
    T_OK(be->conv2d_fwd(s, y->dev, T_INF(x, 40)->dev, T_INF(w, 54)->dev, NULL, &c, scratch));
    t_down(y);
    for (int i = 0; i < 60; i++) {
        const int o = i % 3, col = i / 3 % 5, row = i / 15;
        T_TRUE(T_F(y)[i] == (o == 2 && col < 4 ? x[(row * 5 + col + 1) * 2 + 1] : 0.0f));
    }
}

T_TEST(no_images)
{
    const ts_conv2d c = { 0, 4, 4, 2, 3, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 };
    const float w[54] = { 1, 2, 3 };
    t_buf *dw = T_INF(w, 54), *db = T_INF(w, 3), *none = T_OUTF(0);
    void *scratch = T_SCRATCH(be->conv2d_scratch(s, &c, 1));
    T_OK(be->conv2d_fwd(s, none->dev, none->dev, dw->dev, db->dev, &c, scratch));
    T_OK(be->conv2d_bwd(s, none->dev, dw->dev, db->dev, none->dev, none->dev, dw->dev, &c, scratch));
    t_down(dw), t_down(db);
    T_TRUE(memcmp(dw->host, w, sizeof w) == 0 && memcmp(db->host, w, 12) == 0);
}

T_TEST(a_refusal_names_the_shape)
{
    const ts_conv2d c = { 1, 1, 1, 4, 5, 3, 1, 0, 0, TS_MATH_F32, TS_F32, 0 }; /* the kernel is larger than the image */
    float none[1] = { 0 };
    T_EQI(be->conv2d_scratch(s, &c, 0), 0);
    T_STATUS(TS_E_INTERNAL, be->conv2d_fwd(s, none, none, none, NULL, &c, none));
    T_TRUE(strstr(ts_error(), "conv2d fwd of B=1 Y=1 X=1 C=4 O=5 k=3") != NULL);
}

/* One image at a time on one thread, against B images at once on one and on two. */
static void check_images(const ts_backend *be, ts_stream *s, ts_stream *const *streams, ts_conv2d c)
{
    static const int B[] = { 1, 2, 3, 8, 32 };
    enum { COUNTS = sizeof B / sizeof *B, MOST = 32 };
    const int most = c.Y >= 32 ? 8 : MOST;
    c.B = 1;
    const sizes n = sizes_of(&c);
    t_buf *x = T_INF(t_normals(most * n.x, 1, 1), most * n.x), *w = T_INF(t_normals(n.w, 1, 2), n.w);
    t_buf *b = T_INF(t_normals(c.O, 1, 3), c.O), *want = T_OUTF(most * n.y), *y = T_OUTF(most * n.y);
    void *scratch = T_SCRATCH(be->conv2d_scratch(streams[0], &c, 0));
    for (int i = 0; i < most; i++)
        T_OK(be->conv2d_fwd(streams[0], (float *)want->dev + i * n.y, (float *)x->dev + i * n.x, w->dev, b->dev, &c,
                            scratch));
    T_OK(be->stream_sync(streams[0]));
    t_down(want);
    for (int i = 0; i < 2 * COUNTS && B[i / 2] <= most; i++) {
        ts_stream *t = streams[i % 2];
        c.B = B[i / 2];
        T_OK(be->conv2d_fwd(t, y->dev, x->dev, w->dev, b->dev, &c, T_SCRATCH(be->conv2d_scratch(t, &c, 0))));
        T_OK(be->stream_sync(t));
        t_down(y);
        ck_assert_msg(memcmp(y->host, want->host, (size_t)(c.B * n.y) * 4) == 0,
                      "B=%d Y=%d C=%d O=%d k=%d stride=%d math=%d threads=%d differs from the images alone", (int)c.B,
                      (int)c.Y, (int)c.C, (int)c.O, c.k, c.stride, c.math, i % 2 + 1);
    }
}

T_TEST(an_image_does_not_depend_on_the_others)
{
    static const ts_conv2d LAYERS[] = {
        { 1, 32, 32, 3, 32, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },  { 1, 32, 32, 32, 32, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
        { 1, 16, 16, 64, 64, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 }, { 1, 8, 8, 96, 96, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
        { 1, 4, 4, 128, 128, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 }, { 1, 8, 8, 96, 7, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
        { 1, 8, 8, 8, 96, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },    { 1, 32, 32, 32, 3, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
        { 1, 8, 8, 7, 7, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },     { 1, 16, 16, 32, 64, 1, 1, 0, 0, TS_MATH_F32, TS_F32, 0 },
        { 1, 8, 8, 96, 96, 1, 1, 0, 0, TS_MATH_F32, TS_F32, 0 },   { 1, 32, 32, 32, 32, 3, 2, 0, 1, TS_MATH_F32, TS_F32, 0 },
        { 1, 16, 16, 64, 64, 3, 2, 0, 1, TS_MATH_F32, TS_F32, 0 }, { 1, 8, 8, 96, 96, 3, 2, 1, 1, TS_MATH_F32, TS_F32, 0 },
        { 1, 1, 1, 128, 64, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },  { 1, 2, 2, 64, 96, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
    };
    ts_stream *streams[2];
    for (int i = 0; i < 2; i++) T_OK(be->stream_new(&streams[i], 0, i + 1));
    for (size_t i = 0; i < sizeof LAYERS / sizeof *LAYERS; i++)
        for (int kind = 0; kind < 3; kind++) {
            ts_conv2d c = LAYERS[i];
            c.math = kind ? TS_MATH_BF16 : TS_MATH_F32;
            c.recurs = kind == 2;
            check_images(be, s, streams, c);
        }
    for (int i = 0; i < 2; i++) be->stream_free(streams[i]);
}

/* Weights that were declared constant may be used in another way: right still, and the same for every image, batch and thread count.
 * Sizes that do not divide into tiles, channels that do not fill vectors, padding on one side. */
T_TEST(constant_weights)
{
    static const ts_conv2d LAYERS[] = {
        { 3, 33, 35, 40, 49, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 }, { 2, 34, 33, 32, 70, 3, 1, 0, 2, TS_MATH_F32, TS_F32, 0 },
        { 1, 32, 32, 160, 32, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 }, { 2, 36, 32, 33, 32, 3, 1, 2, 0, TS_MATH_F32, TS_F32, 0 },
        { 2, 32, 32, 40, 40, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 }, { 2, 18, 16, 64, 96, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 },
    };
    ts_stream *streams[2];
    for (int i = 0; i < 2; i++) T_OK(be->stream_new(&streams[i], 0, i + 1));
    for (size_t i = 0; i < sizeof LAYERS / sizeof *LAYERS; i++) {
        ts_conv2d c = LAYERS[i];
        const sizes n = sizes_of(&c);
        const float *x = t_normals(n.x, 1, 1), *w = t_normals(n.w, 1, 2), *b = t_normals(c.O, 1, 3);
        double *want = doubles(n.y);
        for (int64_t j = 0; j < n.y; j++) want[j] = b[j % c.O];
        oracle(&c, want, NULL, NULL, NULL, t_operand(x, n.x, c.math), t_operand(w, n.w, c.math));
        t_buf *in = T_INF(x, n.x), *weights = T_INF(w, n.w), *bias = T_INF(b, c.O), *y[2], *alone = T_OUTF(n.y);
        for (int t = 0; t < 2; t++) {
            T_OK(be->mem_constant(streams[t], weights->dev, (size_t)n.w * sizeof(float), 1));
            y[t] = T_OUTF(n.y);
            for (int twice = 0; twice < 2; twice++)
                T_OK(be->conv2d_fwd(streams[t], y[t]->dev, in->dev, weights->dev, bias->dev, &c,
                                    T_SCRATCH(be->conv2d_scratch(streams[t], &c, 0))));
            T_OK(be->stream_sync(streams[t]));
            t_down(y[t]);
            t_close("y of constant weights", T_F(y[t]), want, n.y, t_sum_tolerance(c.k * c.k * c.C));
        }
        const int64_t B = c.B;
        c.B = 1;
        for (int64_t j = 0; j < B; j++)
            T_OK(be->conv2d_fwd(streams[0], (float *)alone->dev + j * n.y / B, (float *)in->dev + j * n.x / B, weights->dev, bias->dev,
                                &c, T_SCRATCH(be->conv2d_scratch(streams[0], &c, 0))));
        T_OK(be->stream_sync(streams[0]));
        t_down(alone);
        T_TRUE(memcmp(y[0]->host, y[1]->host, (size_t)n.y * 4) == 0);
        T_TRUE(memcmp(y[0]->host, alone->host, (size_t)n.y * 4) == 0);
        for (int t = 0; t < 2; t++) T_OK(be->mem_constant(streams[t], weights->dev, 0, 0));
    }
    for (int i = 0; i < 2; i++) be->stream_free(streams[i]);
}

/* Layers that the CPU computes in a way of its own (kernels/cpu/winograd.c), with channels that do not fill vectors and more of them
 * than are added up together. The gradients of weights are the same for every number of threads there. */
T_TEST(wide_layers)
{
    static const ts_conv2d LAYERS[] = {
        { 3, 9, 11, 40, 49, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 }, { 2, 9, 8, 32, 70, 3, 1, 0, 2, TS_MATH_F32, TS_F32, 0 },
        { 1, 8, 8, 170, 33, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },  { 2, 11, 8, 33, 170, 3, 1, 2, 0, TS_MATH_F32, TS_F32, 0 },
        { 1, 10, 10, 32, 32, 3, 1, 0, 0, TS_MATH_F32, TS_F32, 0 }, { 1, 29, 30, 96, 100, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
    };
    enum { COUNTS = 3 };
    ts_stream *streams[COUNTS];
    for (int t = 0; t < COUNTS; t++) T_OK(be->stream_new(&streams[t], 0, 1 + 3 * t));
    for (size_t i = 0; i < sizeof LAYERS / sizeof *LAYERS; i++) {
        const ts_conv2d c = LAYERS[i];
        const sizes n = sizes_of(&c);
        const float *x = t_normals(n.x, 1, 1), *w = t_normals(n.w, 1, 2), *dy = t_normals(n.y, 1, 3);
        check_fwd(be, s, &c, x, w, t_normals(c.O, 1, 3));
        check_fwd(be, s, &c, x, w, NULL);
        for (int wanted = c.Y > 16 ? 7 : 1; wanted < 8; wanted++) check_bwd(be, s, &c, x, w, wanted);
        t_buf *dw[COUNTS];
        for (int t = 0; t < COUNTS; t++) {
            dw[t] = T_INF(w, n.w);
            T_OK(be->conv2d_bwd(streams[t], NULL, dw[t]->dev, NULL, T_INF(dy, n.y)->dev, T_INF(x, n.x)->dev, T_INF(w, n.w)->dev, &c,
                                T_SCRATCH(be->conv2d_scratch(streams[t], &c, 1))));
            T_OK(be->stream_sync(streams[t]));
            t_down(dw[t]);
            T_TRUE(memcmp(dw[t]->host, dw[0]->host, dw[0]->bytes) == 0);
        }
    }
    for (int t = 0; t < COUNTS; t++) be->stream_free(streams[t]);
}

int main(void)
{
    Suite *u = t_suite("op_conv2d");
    T_ADD1(u, oracle_gradient_is_the_slope);
    T_ADD(u, both_kinds_of_product_on_one_stream);
    T_ADD(u, no_cudnn);
    T_ADD(u, cudnn_lists_nothing);
    T_ADD(u, cudnn_compiles_nothing);
    T_ADD(u, cudnn_refuses_late);
    T_ADD(u, cudnn_fails);
    T_ADD(u, a_batch_in_pieces);
    T_ADD1(u, bfloat16_without_the_instructions);
    T_ADD(u, a_single_weight_shifts);
    T_ADD(u, no_images);
    T_ADD1(u, a_refusal_names_the_shape);
    T_ADD(u, an_image_does_not_depend_on_the_others);
    T_ADD(u, constant_weights);
    T_ADD1(u, wide_layers);
    return t_run(u);
}
