/* conv2d.cu - convolution on CUDA. Contract: tessera/op_conv2d.h. Twin: kernels/cpu/conv2d.c.
 *
 * cuDNN convolves what it takes (convolve.h). For the rest, the patches that outputs read become rows of a matrix
 * ("columns", (rows,k,k,C)) and the convolution a product. A piece of the batch is unrolled at a time; its size depends
 * on one image alone, and so do the products but for the last. */
#include "tessera/op_conv2d.h"

#include "kernels/cuda/bf16.cuh"
#include "kernels/cuda/convolve.h"
#include "kernels/cuda/kept.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/product.h"
#include "kernels/cuda/rows.h"
#include "tessera/op_linear.h"

/* Sizes of one image and of a piece. */
struct unrolled {
    int64_t rows, width; /* outputs of an image; numbers of a patch */
    int64_t in, out;     /* numbers of x and y of an image          */
    int64_t images;      /* of a piece                              */
    int64_t weights;
    size_t size; /* bytes of an operand's number            */
};

static unrolled unroll(const ts_conv2d *c)
{
    enum { PIECE = 32 << 20 }; /* bytes of columns */
    unrolled u;
    u.rows = ts_conv2d_out(c, c->Y) * ts_conv2d_out(c, c->X);
    u.width = (int64_t)c->k * c->k * c->C;
    u.in = c->Y * c->X * c->C;
    u.out = u.rows * c->O;
    u.images = PIECE / (u.rows * u.width * (int64_t)sizeof(float) + 1);
    if (u.images > c->B) u.images = c->B;
    if (u.images < 1) u.images = 1;
    u.weights = c->O * u.width;
    u.size = c->math == TS_MATH_BF16 ? sizeof(uint16_t) : sizeof(float);
    return u;
}

/* A 1x1 convolution is a product as it stands. */
static bool pointwise(const ts_conv2d *c)
{
    return c->k == 1 && c->stride == 1 && c->pad_lo == 0 && c->pad_hi == 0;
}

static ts_linear as_linear(const ts_conv2d *c)
{
    return ts_linear{ c->B * c->Y * c->X, c->C, c->O, c->math, c->x_dtype, TS_NO_ACT, TS_F32 };
}

size_t conv2d_scratch_cuda(ts_stream *s, const ts_conv2d *c, int backward)
{
    const ts_linear l = as_linear(c);
    if (pointwise(c)) return linear_scratch_cuda(s, &l, backward);
    const size_t convolved = ts_convolve_scratch(s, c, backward);
    const unrolled u = unroll(c);
    const size_t rounded =
        c->math == TS_MATH_BF16 ? ts_room(u.weights, 2) + (backward ? ts_room(u.images * u.out, 2) : 0) : 0;
    const size_t product = ts_room(u.images * u.rows * u.width, backward ? sizeof(float) : u.size) + rounded;
    return convolved > product ? convolved : product;
}

static __device__ inline void put(uint16_t *to, uint16_t x)
{
    *to = x;
}

template <class T, class X>
static __device__ inline void fill_columns(T *columns, const X *x, const ts_conv2d &c, int64_t Yo, int64_t Xo, int64_t all)
{
    TS_EACH(n, all)
    {
        const int64_t i = n % c.C, tap = n / c.C % (c.k * c.k), row = n / c.C / (c.k * c.k);
        const int64_t b = row / (Yo * Xo), yo = row / Xo % Yo, xo = row % Xo;
        const int64_t y = yo * c.stride + tap / c.k - c.pad_lo, z = xo * c.stride + tap % c.k - c.pad_lo;
        const bool inside = y >= 0 && y < c.Y && z >= 0 && z < c.X;
        put(columns + n, inside ? x[((b * c.Y + y) * c.X + z) * c.C + i] : X(0));
    }
}

template <class T>
static __global__ void columns_k1(T *columns, const float *x, ts_conv2d c, int64_t Yo, int64_t Xo, int64_t all)
{
    fill_columns(columns, x, c, Yo, Xo, all);
}

/* Of x in bfloat16. */
static __global__ void columns_narrow_k1(uint16_t *columns, const uint16_t *x, ts_conv2d c, int64_t Yo, int64_t Xo, int64_t all)
{
    fill_columns(columns, x, c, Yo, Xo, all);
}

/* dx from the gradients of the columns: each number gathers the patches that hold it. */
static __global__ void image_k1(float *dx, const float *columns, ts_conv2d c, int64_t Yo, int64_t Xo, int64_t all)
{
    TS_EACH(n, all)
    {
        const int64_t i = n % c.C, x = n / c.C % c.X, y = n / c.C / c.X % c.Y, b = n / c.C / c.X / c.Y;
        float sum = 0;
        for (int u = 0; u < c.k; u++) {
            const int64_t yo = y + c.pad_lo - u;
            if (yo < 0 || yo % c.stride || yo / c.stride >= Yo) continue;
            for (int v = 0; v < c.k; v++) {
                const int64_t xo = x + c.pad_lo - v;
                if (xo < 0 || xo % c.stride || xo / c.stride >= Xo) continue;
                const int64_t row = (b * Yo + yo / c.stride) * Xo + xo / c.stride;
                sum += columns[((row * c.k + u) * c.k + v) * c.C + i];
            }
        }
        dx[n] = sum;
    }
}

/* Columns of `images` images, number `first` and on. */
static ts_status make_columns(ts_stream *s, void *columns, const void *x, const ts_conv2d *c, const unrolled *u, int64_t first,
                              int64_t images)
{
    const int64_t Yo = ts_conv2d_out(c, c->Y), Xo = ts_conv2d_out(c, c->X), all = images * u->rows * u->width;
    if (c->x_dtype == TS_BF16)
        return TS_LAUNCH(columns_narrow_k1, ts_blocks(all), BLOCK, 0, s, (uint16_t *)columns, (const uint16_t *)x + first * u->in, *c,
                         Yo, Xo, all);
    const ts_dtype dtype = c->math == TS_MATH_BF16 ? TS_BF16 : TS_F32;
    return TS_LAUNCH_STORING(TS_LAUNCH, dtype, columns_k1, ts_blocks(all), BLOCK, 0, s, columns, (const float *)x + first * u->in, *c,
                             Yo, Xo, all);
}

/* w as an operand: itself, or rounded. */
static ts_status bring_weights(ts_stream *s, const void **p, const float *w, const ts_conv2d *c, const unrolled *u,
                               void *scratch)
{
    *p = w;
    if (c->math == TS_MATH_F32) return TS_OK;
    return ts_round_weights(s, p, w, u->weights, TS_BF16, scratch);
}

ts_status conv2d_fwd_cuda(ts_stream *s, float *y, const void *x, const float *w, const float *b, const ts_conv2d *c,
                          void *scratch)
{
    const ts_linear l = as_linear(c);
    if (pointwise(c)) return linear_fwd_cuda(s, y, x, w, b, &l, scratch);
    if (c->B == 0) return TS_OK;
    bool done;
    TS_TRY(ts_convolve_fwd(s, &done, y, x, w, b, c, scratch));
    if (done) return TS_OK;
    const unrolled u = unroll(c);
    void *columns = scratch;
    ts_operand right = { nullptr, 1 };
    TS_TRY(bring_weights(s, &right.p, w, c, &u, (char *)scratch + ts_room(u.images * u.rows * u.width, u.size)));
    if (b) TS_TRY(ts_fill_rows(s, y, b, c->B * u.rows, c->O));
    for (int64_t at = 0; at < c->B; at += u.images) {
        const int64_t images = c->B - at < u.images ? c->B - at : u.images;
        TS_TRY(make_columns(s, columns, x, c, &u, at, images));
        TS_TRY(ts_product(s, y + at * u.out, ts_operand{ columns, 0 }, right, images * u.rows, c->O, u.width, c->math, b != nullptr));
    }
    return TS_OK;
}

/* dx and dw by products; either may be NULL. */
static ts_status by_products(ts_stream *s, float *dx, float *dw, const float *dy, const float *x, const float *w,
                             const ts_conv2d *c, void *scratch)
{
    const unrolled u = unroll(c);
    char *columns = (char *)scratch, *weights = columns + ts_room(u.images * u.rows * u.width, sizeof(float));
    uint16_t *rounded = (uint16_t *)(weights + ts_room(u.weights, 2));
    ts_operand right = {};
    if (dx) TS_TRY(bring_weights(s, &right.p, w, c, &u, weights));
    for (int64_t at = 0; at < c->B; at += u.images) {
        const int64_t images = c->B - at < u.images ? c->B - at : u.images, rows = images * u.rows;
        ts_operand g = { dy + at * u.out, 0 };
        if (c->math == TS_MATH_BF16) {
            TS_TRY(ts_narrow(s, rounded, dy + at * u.out, images * u.out));
            g.p = rounded;
        }
        if (dx) {
            TS_TRY(ts_product(s, (float *)columns, g, right, rows, u.width, c->O, c->math, 0));
            TS_TRY(TS_LAUNCH(image_k1, ts_blocks(images * u.in), BLOCK, 0, s, dx + at * u.in, (const float *)columns,
                             *c, ts_conv2d_out(c, c->Y), ts_conv2d_out(c, c->X), images * u.in));
        }
        if (dw) {
            TS_TRY(make_columns(s, columns, x, c, &u, at, images));
            g.transposed = 1;
            TS_TRY(ts_product(s, dw, g, ts_operand{ columns, 0 }, c->O, u.width, rows, c->math, 1));
        }
    }
    return TS_OK;
}

ts_status conv2d_bwd_cuda(ts_stream *s, float *dx, float *dw, float *db, const float *dy, const float *x,
                          const float *w, const ts_conv2d *c, void *scratch)
{
    const ts_linear l = as_linear(c);
    if (pointwise(c)) return linear_bwd_cuda(s, dx, dw, db, dy, x, w, &l, scratch);
    if (c->B == 0) return TS_OK;
    bool done_dx = !dx, done_dw = !dw;
    if (dx) TS_TRY(ts_convolve_dx(s, &done_dx, dx, dy, w, c, scratch));
    if (dw) TS_TRY(ts_convolve_dw(s, &done_dw, dw, dy, x, c, scratch));
    if (!done_dx || !done_dw)
        TS_TRY(by_products(s, done_dx ? nullptr : dx, done_dw ? nullptr : dw, dy, x, w, c, scratch));
    return db ? add_columns(s, db, dy, c->B * ts_conv2d_out(c, c->Y) * ts_conv2d_out(c, c->X), c->O) : TS_OK;
}
