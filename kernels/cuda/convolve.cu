/* convolve.cu - convolutions by cuDNN. Contract: convolve.h.
 *
 * Tensors are NHWC and float32 throughout. With TS_MATH_F32 cuDNN multiplies in float32. With TS_MATH_BF16 the operands
 * are rounded to bfloat16 before and multiplied by tensor cores as TF32, which holds every bfloat16 number: products
 * are exact, and sums and results stay float32, which cuDNN's bfloat16 convolutions do not give. So pictures that stand in
 * memory as bfloat16 are widened into scratch, as others are rounded.
 *
 * cuDNN pads both sides alike; where a convolution does not, the picture is padded into scratch before.
 *
 * The algorithm of a shape is chosen once, whatever the number of pictures: the first of cuDNN's list that forms sums
 * as a matrix product does (no transforms, which are less accurate) and always in the same order. */
#include "kernels/cuda/convolve.h"

#include <stdlib.h>

#include "kernels/cuda/bf16.cuh"
#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/kept.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/product.h"

enum { LISTED = 16, TYPICAL = 16 }; /* algorithms that are looked at; pictures for which they are chosen */
static const size_t MOST_WORK = (size_t)512 << 20;

/* What was chosen for a shape, of any number of pictures. */
struct chosen {
    ts_conv2d shape;
    int pass, algorithm;
    cudnnMathType_t math;
    bool refused;
    chosen *next;
};

struct ts_convolver {
    const ts_cudnn *calls;
    cudnnHandle_t handle;
    cudnnTensorDescriptor_t x, y;
    cudnnFilterDescriptor_t w;
    cudnnConvolutionDescriptor_t conv;
    chosen *choices;
};

/* ---- cuDNN's three convolutions with one face ---- */

struct forward {
    enum { PASS };
    typedef cudnnConvolutionFwdAlgoPerf_t listed;
    typedef cudnnConvolutionFwdAlgo_t algorithm;
    static bool plain(algorithm a)
    {
        return a == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM || a == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
    }
    static cudnnStatus_t list(const ts_convolver *v, int *n, listed *all)
    {
        return v->calls->cudnnGetConvolutionForwardAlgorithm_v7(v->handle, v->x, v->w, v->conv, v->y, LISTED, n, all);
    }
    static cudnnStatus_t work(const ts_convolver *v, algorithm a, size_t *bytes)
    {
        return v->calls->cudnnGetConvolutionForwardWorkspaceSize(v->handle, v->x, v->w, v->conv, v->y, a, bytes);
    }
};

struct to_data {
    enum { PASS = 1 };
    typedef cudnnConvolutionBwdDataAlgoPerf_t listed;
    typedef cudnnConvolutionBwdDataAlgo_t algorithm;
    static bool plain(algorithm a)
    {
        return a == CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
    }
    static cudnnStatus_t list(const ts_convolver *v, int *n, listed *all)
    {
        return v->calls->cudnnGetConvolutionBackwardDataAlgorithm_v7(v->handle, v->w, v->y, v->conv, v->x, LISTED, n,
                                                                     all);
    }
    static cudnnStatus_t work(const ts_convolver *v, algorithm a, size_t *bytes)
    {
        return v->calls->cudnnGetConvolutionBackwardDataWorkspaceSize(v->handle, v->w, v->y, v->conv, v->x, a, bytes);
    }
};

struct to_weights {
    enum { PASS = 2 };
    typedef cudnnConvolutionBwdFilterAlgoPerf_t listed;
    typedef cudnnConvolutionBwdFilterAlgo_t algorithm;
    static bool plain(algorithm a)
    {
        return a == CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;
    }
    static cudnnStatus_t list(const ts_convolver *v, int *n, listed *all)
    {
        return v->calls->cudnnGetConvolutionBackwardFilterAlgorithm_v7(v->handle, v->x, v->y, v->conv, v->w, LISTED, n,
                                                                       all);
    }
    static cudnnStatus_t work(const ts_convolver *v, algorithm a, size_t *bytes)
    {
        return v->calls->cudnnGetConvolutionBackwardFilterWorkspaceSize(v->handle, v->x, v->y, v->conv, v->w, a, bytes);
    }
};

/* ---- the stream's share ---- */

static void close(ts_convolver *v)
{
    while (v->choices) {
        chosen *next = v->choices->next;
        free(v->choices);
        v->choices = next;
    }
    if (v->conv) v->calls->cudnnDestroyConvolutionDescriptor(v->conv);
    if (v->w) v->calls->cudnnDestroyFilterDescriptor(v->w);
    if (v->y) v->calls->cudnnDestroyTensorDescriptor(v->y);
    if (v->x) v->calls->cudnnDestroyTensorDescriptor(v->x);
    if (v->handle) v->calls->cudnnDestroy(v->handle);
    free(v);
}

void ts_convolve_close(ts_stream *s)
{
    if (s->convolver) close(s->convolver);
    s->convolver = nullptr;
}

static bool prepare(ts_convolver *v, cudaStream_t stream)
{
    const ts_cudnn *c = v->calls;
    const cudnnStatus_t good = CUDNN_STATUS_SUCCESS;
    return c->cudnnCreate(&v->handle) == good && c->cudnnSetStream(v->handle, stream) == good &&
           c->cudnnCreateTensorDescriptor(&v->x) == good && c->cudnnCreateTensorDescriptor(&v->y) == good &&
           c->cudnnCreateFilterDescriptor(&v->w) == good && c->cudnnCreateConvolutionDescriptor(&v->conv) == good;
}

/* NULL where there is no cuDNN, or none that can be used. */
static ts_convolver *open(ts_stream *s)
{
    if (s->convolver || s->without_cudnn) return s->convolver;
    s->without_cudnn = 1;
    const ts_cudnn *calls = ts_cudnn_load();
    ts_convolver *v = calls ? (ts_convolver *)calloc(1, sizeof *v) : nullptr;
    if (!v) return nullptr;
    v->calls = calls;
    if (!prepare(v, s->stream)) {
        close(v);
        return nullptr;
    }
    return s->convolver = v;
}

/* ---- shapes ---- */

static bool uneven(const ts_conv2d *c)
{
    return c->pad_lo != c->pad_hi;
}

/* Side of the picture that cuDNN sees. */
static int64_t side(const ts_conv2d *c, int64_t n)
{
    return uneven(c) ? n + c->pad_lo + c->pad_hi : n;
}

/* Numbers of what cuDNN sees: picture, result, weights. */
static int64_t n_image(const ts_conv2d *c)
{
    return c->B * side(c, c->Y) * side(c, c->X) * c->C;
}

static int64_t n_out(const ts_conv2d *c)
{
    return c->B * ts_conv2d_out(c, c->Y) * ts_conv2d_out(c, c->X) * c->O;
}

static int64_t n_weights(const ts_conv2d *c)
{
    return c->O * c->k * c->k * c->C;
}

/* Its sizes are ints. */
static bool countable(const ts_conv2d *c)
{
    return n_image(c) <= INT32_MAX && n_out(c) <= INT32_MAX && n_weights(c) <= INT32_MAX;
}

static bool describe(const ts_convolver *v, const ts_conv2d *c, cudnnMathType_t math)
{
    const ts_cudnn *call = v->calls;
    const cudnnStatus_t good = CUDNN_STATUS_SUCCESS;
    const int Yo = (int)ts_conv2d_out(c, c->Y), Xo = (int)ts_conv2d_out(c, c->X), pad = uneven(c) ? 0 : c->pad_lo;
    return call->cudnnSetTensor4dDescriptor(v->x, CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, (int)c->B, (int)c->C,
                                            (int)side(c, c->Y), (int)side(c, c->X)) == good &&
           call->cudnnSetTensor4dDescriptor(v->y, CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, (int)c->B, (int)c->O, Yo, Xo) ==
               good &&
           call->cudnnSetFilter4dDescriptor(v->w, CUDNN_DATA_FLOAT, CUDNN_TENSOR_NHWC, (int)c->O, (int)c->C, c->k,
                                            c->k) == good &&
           call->cudnnSetConvolution2dDescriptor(v->conv, pad, pad, c->stride, c->stride, 1, 1, CUDNN_CROSS_CORRELATION,
                                                 CUDNN_DATA_FLOAT) == good &&
           call->cudnnSetConvolutionMathType(v->conv, math) == good;
}

/* ---- choosing ---- */

template <class P> static bool suits(const typename P::listed *a, ts_math math)
{
    const bool exact = a->mathType == CUDNN_FMA_MATH;
    const bool narrow = a->mathType == CUDNN_DEFAULT_MATH || a->mathType == CUDNN_TENSOR_OP_MATH;
    return a->status == CUDNN_STATUS_SUCCESS && a->determinism == CUDNN_DETERMINISTIC && P::plain(a->algo) &&
           a->memory <= MOST_WORK && (exact || (narrow && math == TS_MATH_BF16));
}

template <class P> static void choose(const ts_convolver *v, chosen *k)
{
    typename P::listed all[LISTED];
    ts_conv2d typical = k->shape;
    int n = 0;
    typical.B = TYPICAL;
    k->refused = true;
    if (!describe(v, &typical, typical.math == TS_MATH_BF16 ? CUDNN_DEFAULT_MATH : CUDNN_FMA_MATH)) return;
    if (P::list(v, &n, all) != CUDNN_STATUS_SUCCESS) return;
    int i = 0;
    while (i < n && !suits<P>(&all[i], typical.math)) i++;
    if (i == n) return;
    k->algorithm = (int)all[i].algo;
    k->math = all[i].mathType;
    k->refused = false;
}

static bool same(const ts_conv2d *a, const ts_conv2d *b)
{
    return a->Y == b->Y && a->X == b->X && a->C == b->C && a->O == b->O && a->k == b->k && a->stride == b->stride &&
           a->pad_lo == b->pad_lo && a->pad_hi == b->pad_hi && a->math == b->math;
}

template <class P> static chosen *find(ts_convolver *v, const ts_conv2d *c)
{
    for (chosen *k = v->choices; k; k = k->next)
        if (k->pass == (int)P::PASS && same(&k->shape, c)) return k;
    chosen *k = (chosen *)calloc(1, sizeof *k);
    if (!k) return nullptr;
    k->shape = *c;
    k->pass = P::PASS;
    choose<P>(v, k);
    k->next = v->choices;
    return v->choices = k;
}

/* The choice for this convolution, which the descriptors now stand for, and its room; NULL if cuDNN does not take
 * it. */
template <class P> static chosen *begin(ts_stream *s, const ts_conv2d *c, size_t *work)
{
    ts_convolver *v = c->B > 0 && countable(c) ? open(s) : nullptr;
    chosen *k = v ? find<P>(v, c) : nullptr;
    *work = 0;
    if (!k || k->refused || !describe(v, c, k->math)) return nullptr;
    if (P::work(v, (typename P::algorithm)k->algorithm, work) == CUDNN_STATUS_SUCCESS && *work <= MOST_WORK) return k;
    *work = 0;
    return nullptr;
}

/* ---- scratch: the picture, if it is padded or rounded; the others, if they are rounded; what cuDNN asks for ---- */

static size_t room_image(const ts_conv2d *c)
{
    return uneven(c) || c->math == TS_MATH_BF16 ? ts_room(n_image(c), sizeof(float)) : 0;
}

static size_t room_rounded(int64_t n, const ts_conv2d *c)
{
    return c->math == TS_MATH_BF16 ? ts_room(n, sizeof(float)) : 0;
}

size_t ts_convolve_scratch(ts_stream *s, const ts_conv2d *c, int backward)
{
    size_t work = 0, more = 0;
    const size_t rest = room_image(c) + room_rounded(n_weights(c), c);
    if (!backward) return begin<forward>(s, c, &work) ? rest + work : 0;
    const bool data = begin<to_data>(s, c, &work), weights = begin<to_weights>(s, c, &more);
    return data || weights ? rest + room_rounded(n_out(c), c) + (work > more ? work : more) : 0;
}

static __device__ inline float rounded(float x)
{
    return bf16_round(x);
}

static __device__ inline float rounded(uint16_t x)
{
    return bf16_widen(x);
}

static __global__ void widen_k1(float *y, const uint16_t *x, int64_t n)
{
    TS_EACH(i, n) y[i] = bf16_widen(x[i]);
}

/* y = x with zeros around it, Yp rows of Xp pixels. */
template <class X> static __global__ void pad_k1(float *y, const X *x, ts_conv2d c, int64_t Yp, int64_t Xp, int64_t all)
{
    TS_EACH(n, all)
    {
        const int64_t i = n % c.C, col = n / c.C % Xp - c.pad_lo, row = n / c.C / Xp % Yp - c.pad_lo;
        const int64_t b = n / c.C / Xp / Yp;
        const bool inside = row >= 0 && row < c.Y && col >= 0 && col < c.X;
        const X v = inside ? x[((b * c.Y + row) * c.X + col) * c.C + i] : X(0);
        y[n] = c.math == TS_MATH_BF16 ? rounded(v) : (float)v;
    }
}

/* The way back: x = what pad_k1 put inside. */
static __global__ void crop_k1(float *x, const float *y, ts_conv2d c, int64_t Yp, int64_t Xp, int64_t all)
{
    TS_EACH(n, all)
    {
        const int64_t i = n % c.C, col = n / c.C % c.X + c.pad_lo, row = n / c.C / c.X % c.Y + c.pad_lo;
        const int64_t b = n / c.C / c.X / c.Y;
        x[n] = y[((b * Yp + row) * Xp + col) * c.C + i];
    }
}

/* p is x as cuDNN takes it: itself, or prepared in scratch, which moves on. */
static ts_status bring(ts_stream *s, const float **p, const float *x, int64_t n, const ts_conv2d *c, char **scratch)
{
    *p = x;
    if (c->math == TS_MATH_F32) return TS_OK;
    float *y = (float *)*scratch;
    *p = y;
    *scratch += ts_room(n, sizeof(float));
    return ts_round(s, y, x, n);
}

static ts_status bring_weights(ts_stream *s, const void **p, const float *w, const ts_conv2d *c, char **scratch)
{
    *p = w;
    if (c->math == TS_MATH_F32) return TS_OK;
    TS_TRY(ts_round_weights(s, p, w, n_weights(c), TS_F32, *scratch));
    *scratch += ts_room(n_weights(c), sizeof(float));
    return TS_OK;
}

static ts_status bring_image(ts_stream *s, const float **p, const void *x, const ts_conv2d *c, char **scratch)
{
    const int64_t n = n_image(c), Yp = side(c, c->Y), Xp = side(c, c->X);
    const bool narrow = c->x_dtype == TS_BF16;
    const float *wide = (const float *)x;
    const uint16_t *bits = (const uint16_t *)x;
    if (!uneven(c) && !narrow) return bring(s, p, wide, n, c, scratch);
    float *y = (float *)*scratch;
    *p = y;
    *scratch += ts_room(n, sizeof(float));
    if (!uneven(c)) return TS_LAUNCH(widen_k1, ts_blocks(n), BLOCK, 0, s, y, bits, n);
    return narrow ? TS_LAUNCH(pad_k1<uint16_t>, ts_blocks(n), BLOCK, 0, s, y, bits, *c, Yp, Xp, n)
                  : TS_LAUNCH(pad_k1<float>, ts_blocks(n), BLOCK, 0, s, y, wide, *c, Yp, Xp, n);
}

/* ---- running ---- */

/* What cuDNN said: done; or that it does not do this, then it is not asked again; or that it failed. */
static ts_status answer(const ts_convolver *v, cudnnStatus_t st, chosen *k, const ts_conv2d *c, bool *done)
{
    enum { NO_LONGER_A_REFUSAL = 4000 };
    *done = st == CUDNN_STATUS_SUCCESS;
    k->refused = !*done;
    if ((int)st < NO_LONGER_A_REFUSAL) return TS_OK;
    return ts_fail(TS_E_DEVICE, "cuDNN fails in a convolution of B=%lld Y=%lld X=%lld C=%lld O=%lld k=%d: %s",
                   (long long)c->B, (long long)c->Y, (long long)c->X, (long long)c->C, (long long)c->O, c->k,
                   v->calls->cudnnGetErrorString(st));
}

ts_status ts_convolve_fwd(ts_stream *s, bool *done, float *y, const void *x, const float *w, const float *b,
                          const ts_conv2d *c, void *scratch)
{
    size_t work;
    const float *image;
    const void *weights;
    chosen *k = begin<forward>(s, c, &work);
    *done = false;
    if (!k) return TS_OK;
    const ts_convolver *v = s->convolver;
    const float one = 1, keep = b ? 1.0f : 0.0f;
    char *room = (char *)scratch;
    TS_TRY(bring_image(s, &image, x, c, &room));
    TS_TRY(bring_weights(s, &weights, w, c, &room));
    if (b) TS_TRY(ts_fill_rows(s, y, b, n_out(c) / c->O, c->O));
    return answer(v,
                  v->calls->cudnnConvolutionForward(v->handle, &one, v->x, image, v->w, weights, v->conv,
                                                    (forward::algorithm)k->algorithm, room, work, &keep, v->y, y),
                  k, c, done);
}

ts_status ts_convolve_dx(ts_stream *s, bool *done, float *dx, const float *dy, const float *w, const ts_conv2d *c,
                         void *scratch)
{
    size_t work;
    chosen *k = begin<to_data>(s, c, &work);
    *done = false;
    if (!k) return TS_OK;
    const ts_convolver *v = s->convolver;
    const float one = 1, zero = 0;
    char *room = (char *)scratch;
    float *padded = dx;
    if (uneven(c)) {
        padded = (float *)room;
        room += ts_room(n_image(c), sizeof(float));
    }
    TS_TRY(bring(s, &dy, dy, n_out(c), c, &room));
    TS_TRY(bring(s, &w, w, n_weights(c), c, &room));
    TS_TRY(answer(v,
                  v->calls->cudnnConvolutionBackwardData(v->handle, &one, v->w, w, v->y, dy, v->conv,
                                                         (to_data::algorithm)k->algorithm, room, work, &zero, v->x,
                                                         padded),
                  k, c, done));
    if (!*done || padded == dx) return TS_OK;
    const int64_t n = c->B * c->Y * c->X * c->C;
    return TS_LAUNCH(crop_k1, ts_blocks(n), BLOCK, 0, s, dx, padded, *c, side(c, c->Y), side(c, c->X), n);
}

ts_status ts_convolve_dw(ts_stream *s, bool *done, float *dw, const float *dy, const float *x, const ts_conv2d *c,
                         void *scratch)
{
    size_t work;
    chosen *k = begin<to_weights>(s, c, &work);
    *done = false;
    if (!k) return TS_OK;
    const ts_convolver *v = s->convolver;
    const float one = 1;
    char *room = (char *)scratch;
    TS_TRY(bring_image(s, &x, x, c, &room));
    TS_TRY(bring(s, &dy, dy, n_out(c), c, &room));
    return answer(v,
                  v->calls->cudnnConvolutionBackwardFilter(v->handle, &one, v->x, x, v->y, dy, v->conv,
                                                           (to_weights::algorithm)k->algorithm, room, work, &one, v->w,
                                                           dw),
                  k, c, done);
}
