/* cudnn.cpp - convolutions of the emulated device as plain loops. Contract: emu.h, cuDNN's own manual. Sums have the
 * order that unrolling and cublas.cpp give them, so that the two ways of kernels/cuda to convolve have the same bits.
 */
#include "tests/emu/include/cudnn.h"

#include <vector>

#include "kernels/cuda/cudnn.h"
#include "tests/emu/emu.h"

struct emu_cudnn {
    cudaStream_t stream;
};
struct emu_cudnn_tensor {
    int n, c, h, w;
};
struct emu_cudnn_filter {
    int k, c, h, w;
};
struct emu_cudnn_convolution {
    int pad, stride;
    cudnnMathType_t math;
};

namespace
{

/* TS_EMU_CUDNN: "none", there is no cuDNN; "short", its lists hold no algorithm that can be used; "late", it takes a
 * shape and then does not do it. */
bool mood(const char *what)
{
    const char *text = getenv("TS_EMU_CUDNN");
    return text && strcmp(text, what) == 0;
}

struct shape {
    int B, Y, X, C, O, Yo, Xo, k, pad, stride;
    bool narrow; /* operands lose what TF32 does not hold */
    int64_t n_x() const
    {
        return (int64_t)B * Y * X * C;
    }
    int64_t n_y() const
    {
        return (int64_t)B * Yo * Xo * O;
    }
    int64_t n_w() const
    {
        return (int64_t)O * k * k * C;
    }
};

bool fits(shape *s, const emu_cudnn_tensor *x, const emu_cudnn_filter *w, const emu_cudnn_convolution *c,
          const emu_cudnn_tensor *y)
{
    *s = { x->n, x->h, x->w, x->c, w->k, y->h, y->w, w->h, c->pad, c->stride, c->math != CUDNN_FMA_MATH };
    return x->c == w->c && y->c == w->k && y->n == x->n && w->h == w->w && x->h + 2 * c->pad >= w->h &&
           x->w + 2 * c->pad >= w->h && y->h == (x->h + 2 * c->pad - w->h) / c->stride + 1 &&
           y->w == (x->w + 2 * c->pad - w->h) / c->stride + 1;
}

std::vector<float> load(const void *p, int64_t n, bool narrow)
{
    std::vector<float> x(n);
    emu::check_device(p, n * sizeof(float), false, "cuDNN");
    memcpy(x.data(), p, n * sizeof(float));
    for (int64_t i = 0; narrow && i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], 4);
        u = (u + 0xfff + (u >> 13 & 1)) & ~0x1fffu;
        memcpy(&x[i], &u, 4);
    }
    return x;
}

/* p = sum + keep p */
void store(float *p, const std::vector<float> &sum, float keep)
{
    const size_t bytes = sum.size() * sizeof(float);
    if (keep != 0) emu::check_device(p, bytes, false, "cuDNN");
    emu::check_device(p, bytes, true, "cuDNN");
    for (size_t i = 0; i < sum.size(); i++) p[i] = sum[i] + (keep != 0 ? keep * p[i] : 0);
}

/* Calls visit(row, tap, pixel) for every output position and tap whose pixel is in the picture: rows outside of taps,
 * or inside. */
template <class F> void visit(const shape &s, bool taps_first, F &&f)
{
    const int64_t rows = (int64_t)s.B * s.Yo * s.Xo, taps = s.k * s.k;
    for (int64_t i = 0; i < rows * taps; i++) {
        const int64_t row = taps_first ? i % rows : i / taps, tap = taps_first ? i / rows : i % taps;
        const int64_t b = row / s.Xo / s.Yo, y = row / s.Xo % s.Yo * s.stride + tap / s.k - s.pad;
        const int64_t x = row % s.Xo * s.stride + tap % s.k - s.pad;
        if (y >= 0 && y < s.Y && x >= 0 && x < s.X) f(row, tap, (b * s.Y + y) * s.X + x);
    }
}

void convolve(const shape &s, const void *x_, const void *w_, float *y, float keep)
{
    const std::vector<float> x = load(x_, s.n_x(), s.narrow), w = load(w_, s.n_w(), s.narrow);
    std::vector<float> turned(s.n_w()), sum(s.n_y());
    const int64_t width = (int64_t)s.k * s.k * s.C;
    for (int64_t o = 0; o < s.O; o++)
        for (int64_t i = 0; i < width; i++) turned[i * s.O + o] = w[o * width + i];
    visit(s, false, [&](int64_t row, int64_t tap, int64_t pixel) {
        for (int c = 0; c < s.C; c++) {
            const float v = x[pixel * s.C + c], *weights = &turned[(tap * s.C + c) * s.O];
            float *to = &sum[row * s.O];
            for (int o = 0; o < s.O; o++) to[o] += v * weights[o];
        }
    });
    store(y, sum, keep);
}

void back_to_data(const shape &s, const void *dy_, const void *w_, float *dx, float keep)
{
    const std::vector<float> dy = load(dy_, s.n_y(), s.narrow), w = load(w_, s.n_w(), s.narrow);
    std::vector<float> sum(s.n_x()), column(s.C);
    visit(s, true, [&](int64_t row, int64_t tap, int64_t pixel) {
        column.assign(s.C, 0);
        for (int o = 0; o < s.O; o++) {
            const float g = dy[row * s.O + o], *weights = &w[((int64_t)o * s.k * s.k + tap) * s.C];
            for (int c = 0; c < s.C; c++) column[c] += g * weights[c];
        }
        for (int c = 0; c < s.C; c++) sum[pixel * s.C + c] += column[c];
    });
    store(dx, sum, keep);
}

void back_to_weights(const shape &s, const void *dy_, const void *x_, float *dw, float keep)
{
    const std::vector<float> dy = load(dy_, s.n_y(), s.narrow), x = load(x_, s.n_x(), s.narrow);
    std::vector<float> sum(s.n_w());
    visit(s, false, [&](int64_t row, int64_t tap, int64_t pixel) {
        for (int o = 0; o < s.O; o++) {
            const float g = dy[row * s.O + o];
            float *to = &sum[((int64_t)o * s.k * s.k + tap) * s.C];
            for (int c = 0; c < s.C; c++) to[c] += g * x[pixel * s.C + c];
        }
    });
    store(dw, sum, keep);
}

size_t work_of(const shape &s, int algo)
{
    return algo == 1 ? 16 + (size_t)s.k * s.k * s.O * 4 : 0;
}

/* First come those that nobody should take: wrong in some way each. */
template <class A>
cudnnStatus_t list(const shape &s, const emu_cudnn_convolution *c, A atomics, A transform, int room, int *n,
                   emu_cudnn_listed<A> *all)
{
    if (emu::refuses()) return CUDNN_STATUS_INTERNAL_ERROR;
    const cudnnMathType_t math = c->math;
    const cudnnStatus_t good = CUDNN_STATUS_SUCCESS;
    const A one = (A)1;
    const size_t work = work_of(s, 1);
    const emu_cudnn_listed<A> rows[] = {
        { one, CUDNN_STATUS_NOT_SUPPORTED, -1, work, CUDNN_DETERMINISTIC, math, {} },
        { transform, good, 1, work, CUDNN_DETERMINISTIC, math, {} },
        { atomics, good, 2, 0, CUDNN_NON_DETERMINISTIC, math, {} },
        { one, good, 3, work, CUDNN_DETERMINISTIC, CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION, {} },
        { one, good, 4, (size_t)1 << 40, CUDNN_DETERMINISTIC, math, {} },
        { one, good, 5, work, CUDNN_DETERMINISTIC, math, {} },
    };
    const int most = (int)(sizeof rows / sizeof *rows) - mood("short");
    for (*n = 0; *n < room && *n < most; ++*n) all[*n] = rows[*n];
    return CUDNN_STATUS_SUCCESS;
}

/* Is this a convolution that can be done? */
template <class A> cudnnStatus_t check(const shape &s, A algo, const void *work, size_t bytes)
{
    if ((int)algo != 1 || mood("late")) return CUDNN_STATUS_NOT_SUPPORTED;
    if (!work || (uintptr_t)work % 16 || bytes < work_of(s, 1)) return CUDNN_STATUS_BAD_PARAM;
    return emu::refuses() ? CUDNN_STATUS_EXECUTION_FAILED : CUDNN_STATUS_SUCCESS;
}

template <class F> void enqueue(cudnnHandle_t h, void *work, size_t bytes, F &&f)
{
    emu::enqueue_task(h->stream, [=] {
        emu::check_device(work, bytes, true, "cuDNN's work space");
        memset(work, 0x5a, bytes);
        f();
    });
}

template <class D> cudnnStatus_t create(D **d)
{
    *d = nullptr;
    if (emu::refuses()) return CUDNN_STATUS_INTERNAL_ERROR;
    *d = new D();
    return CUDNN_STATUS_SUCCESS;
}

template <class D> cudnnStatus_t destroy(D *d)
{
    delete d;
    return CUDNN_STATUS_SUCCESS;
}

} // namespace

#define TRY(expr)                                                                                                      \
    do {                                                                                                               \
        const cudnnStatus_t st = (expr);                                                                               \
        if (st != CUDNN_STATUS_SUCCESS) return st;                                                                     \
    } while (0)
#define FIT(x, w, conv, y)                                                                                             \
    shape s;                                                                                                           \
    if (!fits(&s, x, w, conv, y)) return CUDNN_STATUS_BAD_PARAM

cudnnStatus_t cudnnCreate(cudnnHandle_t *h)
{
    *h = nullptr;
    return mood("none") ? CUDNN_STATUS_NOT_INITIALIZED : create(h);
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t h)
{
    return destroy(h);
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t s)
{
    if (emu::refuses()) return CUDNN_STATUS_INTERNAL_ERROR;
    h->stream = s;
    return CUDNN_STATUS_SUCCESS;
}

const char *cudnnGetErrorString(cudnnStatus_t st)
{
    return st == CUDNN_STATUS_EXECUTION_FAILED ? "CUDNN_STATUS_EXECUTION_FAILED" : "another status";
}

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t *d)
{
    return create(d);
}

cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t d, cudnnTensorFormat_t format, cudnnDataType_t type,
                                         int n, int c, int h, int w)
{
    if (format != CUDNN_TENSOR_NHWC || type != CUDNN_DATA_FLOAT || n < 1 || c < 1 || h < 1 || w < 1)
        return CUDNN_STATUS_BAD_PARAM;
    *d = { n, c, h, w };
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t d)
{
    return destroy(d);
}

cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t *d)
{
    return create(d);
}

cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t d, cudnnDataType_t type, cudnnTensorFormat_t format,
                                         int k, int c, int h, int w)
{
    if (format != CUDNN_TENSOR_NHWC || type != CUDNN_DATA_FLOAT || k < 1 || c < 1 || h < 1 || w < 1)
        return CUDNN_STATUS_BAD_PARAM;
    *d = { k, c, h, w };
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t d)
{
    return destroy(d);
}

cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t *d)
{
    return create(d);
}

cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t d, int pad_h, int pad_w, int u, int v,
                                              int dilation_h, int dilation_w, cudnnConvolutionMode_t mode,
                                              cudnnDataType_t type)
{
    if (pad_h < 0 || pad_h != pad_w || u < 1 || u != v || dilation_h != 1 || dilation_w != 1 ||
        mode != CUDNN_CROSS_CORRELATION || type != CUDNN_DATA_FLOAT)
        return CUDNN_STATUS_BAD_PARAM;
    *d = { pad_h, u, CUDNN_DEFAULT_MATH };
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t d, cudnnMathType_t math)
{
    d->math = math;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t d)
{
    return destroy(d);
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t, const cudnnTensorDescriptor_t x,
                                                     const cudnnFilterDescriptor_t w,
                                                     const cudnnConvolutionDescriptor_t conv,
                                                     const cudnnTensorDescriptor_t y, const int room, int *n,
                                                     cudnnConvolutionFwdAlgoPerf_t *all)
{
    FIT(x, w, conv, y);
    return list(s, conv, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD, room, n, all);
}

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t, const cudnnTensorDescriptor_t x,
                                                      const cudnnFilterDescriptor_t w,
                                                      const cudnnConvolutionDescriptor_t conv,
                                                      const cudnnTensorDescriptor_t y, cudnnConvolutionFwdAlgo_t algo,
                                                      size_t *bytes)
{
    FIT(x, w, conv, y);
    *bytes = work_of(s, algo);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t h, const void *, const cudnnTensorDescriptor_t x_desc,
                                      const void *x, const cudnnFilterDescriptor_t w_desc, const void *w,
                                      const cudnnConvolutionDescriptor_t conv, cudnnConvolutionFwdAlgo_t algo,
                                      void *work, size_t bytes, const void *beta, const cudnnTensorDescriptor_t y_desc,
                                      void *y)
{
    FIT(x_desc, w_desc, conv, y_desc);
    TRY(check(s, algo, work, bytes));
    const float keep = *(const float *)beta;
    enqueue(h, work, bytes, [=] { convolve(s, x, w, (float *)y, keep); });
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t, const cudnnFilterDescriptor_t w,
                                                          const cudnnTensorDescriptor_t dy,
                                                          const cudnnConvolutionDescriptor_t conv,
                                                          const cudnnTensorDescriptor_t dx, const int room, int *n,
                                                          cudnnConvolutionBwdDataAlgoPerf_t *all)
{
    FIT(dx, w, conv, dy);
    return list(s, conv, CUDNN_CONVOLUTION_BWD_DATA_ALGO_0, CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD, room, n, all);
}

cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t, const cudnnFilterDescriptor_t w,
                                                           const cudnnTensorDescriptor_t dy,
                                                           const cudnnConvolutionDescriptor_t conv,
                                                           const cudnnTensorDescriptor_t dx,
                                                           cudnnConvolutionBwdDataAlgo_t algo, size_t *bytes)
{
    FIT(dx, w, conv, dy);
    *bytes = work_of(s, algo);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t h, const void *, const cudnnFilterDescriptor_t w_desc,
                                           const void *w, const cudnnTensorDescriptor_t dy_desc, const void *dy,
                                           const cudnnConvolutionDescriptor_t conv, cudnnConvolutionBwdDataAlgo_t algo,
                                           void *work, size_t bytes, const void *beta,
                                           const cudnnTensorDescriptor_t dx_desc, void *dx)
{
    FIT(dx_desc, w_desc, conv, dy_desc);
    TRY(check(s, algo, work, bytes));
    const float keep = *(const float *)beta;
    enqueue(h, work, bytes, [=] { back_to_data(s, dy, w, (float *)dx, keep); });
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t, const cudnnTensorDescriptor_t x,
                                                            const cudnnTensorDescriptor_t dy,
                                                            const cudnnConvolutionDescriptor_t conv,
                                                            const cudnnFilterDescriptor_t dw, const int room, int *n,
                                                            cudnnConvolutionBwdFilterAlgoPerf_t *all)
{
    FIT(x, dw, conv, dy);
    return list(s, conv, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD_NONFUSED, room,
                n, all);
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t, const cudnnTensorDescriptor_t x,
                                                             const cudnnTensorDescriptor_t dy,
                                                             const cudnnConvolutionDescriptor_t conv,
                                                             const cudnnFilterDescriptor_t dw,
                                                             cudnnConvolutionBwdFilterAlgo_t algo, size_t *bytes)
{
    FIT(x, dw, conv, dy);
    *bytes = work_of(s, algo);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t h, const void *, const cudnnTensorDescriptor_t x_desc,
                                             const void *x, const cudnnTensorDescriptor_t dy_desc, const void *dy,
                                             const cudnnConvolutionDescriptor_t conv,
                                             cudnnConvolutionBwdFilterAlgo_t algo, void *work, size_t bytes,
                                             const void *beta, const cudnnFilterDescriptor_t dw_desc, void *dw)
{
    FIT(x_desc, dw_desc, conv, dy_desc);
    TRY(check(s, algo, work, bytes));
    const float keep = *(const float *)beta;
    enqueue(h, work, bytes, [=] { back_to_weights(s, dy, x, (float *)dw, keep); });
    return CUDNN_STATUS_SUCCESS;
}

#define ITSELF(name) name,
static const ts_cudnn CALLS = { TS_CUDNN_CALLS(ITSELF) };

const ts_cudnn *ts_cudnn_load(void)
{
    return &CALLS;
}
