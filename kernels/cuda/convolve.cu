/* convolve.cu - convolutions by cuDNN. Contract: convolve.h.
 *
 * Tensors are NHWC, sums and results float32. With TS_MATH_F32 cuDNN multiplies in float32. With TS_MATH_BF16 the operands are
 * rounded to bfloat16. Where a shape recurs, they stand in memory so, and cuDNN compiles kernels for them (conv_plan.h). Elsewhere
 * that takes too long: they stand there as float32, and tensor cores multiply them as TF32, which holds every bfloat16 number.
 * Either way products are exact and sums are float32.
 *
 * cuDNN could pad sides differently, but on most devices only its slowest engines do so in float32: where a convolution does, the
 * picture is padded into scratch before.
 *
 * A batch for which cuDNN wants too much work space is computed in pieces, by the engine that computes any other.
 */
#include "kernels/cuda/convolve.h"

#include <stdlib.h>

#include "kernels/cuda/bf16.cuh"
#include "kernels/cuda/conv_plan.h"
#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/kept.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/product.h"
#include "tessera/op_add.h"

/* For a number of pictures. */
struct planned {
    int64_t B;
    ts_conv_plan *plan; /* NULL: refused */
    planned *next;
};

/* What was chosen for a shape, of any number of pictures. */
struct chosen {
    ts_conv_graph graph;
    ts_conv_engine engine[TS_CONV_ENGINES];
    int engines, at; /* how many, and which of them it is; none is left where they are equal */
    bool settled;    /* it is, from now on */
    planned *plans;  /* with it */
    chosen *next;
};

struct ts_convolver {
    ts_conv_place place;
    chosen *choices;
};

/* ---- the stream's share ---- */

static void free_plans(chosen *k)
{
    while (k->plans) {
        planned *next = k->plans->next;
        ts_conv_plan_free(k->plans->plan);
        free(k->plans);
        k->plans = next;
    }
}

static void close(ts_convolver *v)
{
    while (v->choices) {
        chosen *next = v->choices->next;
        free_plans(v->choices);
        free(v->choices);
        v->choices = next;
    }
    if (v->place.handle) v->place.calls->cudnnDestroy(v->place.handle);
    free(v);
}

void ts_convolve_close(ts_stream *s)
{
    if (s->convolver) close(s->convolver);
    s->convolver = nullptr;
}

/* NULL where there is no cuDNN, or none that can be used. */
static ts_convolver *open(ts_stream *s)
{
    if (s->convolver || s->without_cudnn) return s->convolver;
    s->without_cudnn = 1;
    const ts_cudnn *c = ts_cudnn_load();
    ts_convolver *v = c ? (ts_convolver *)calloc(1, sizeof *v) : nullptr;
    if (!v) return nullptr;
    v->place.calls = c;
    if (c->cudnnCreate(&v->place.handle) != CUDNN_STATUS_SUCCESS ||
        c->cudnnSetStream(v->place.handle, s->stream) != CUDNN_STATUS_SUCCESS) {
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

static ts_conv_graph graph_of(const ts_conv2d *c, ts_conv_pass pass, ts_dtype operands)
{
    ts_conv_graph g = { *c, pass, operands };
    g.shape.Y = side(c, c->Y);
    g.shape.X = side(c, c->X);
    if (uneven(c)) g.shape.pad_lo = g.shape.pad_hi = 0;
    return g;
}

/* ---- choosing ---- */

static bool same(const ts_conv_graph *g, const ts_conv_graph *h)
{
    const ts_conv2d *a = &g->shape, *b = &h->shape;
    return g->pass == h->pass && g->operands == h->operands && a->Y == b->Y && a->X == b->X && a->C == b->C && a->O == b->O &&
           a->k == b->k && a->stride == b->stride && a->pad_lo == b->pad_lo && a->math == b->math;
}

static chosen *choice_of(ts_convolver *v, const ts_conv_graph *g)
{
    for (chosen *k = v->choices; k; k = k->next)
        if (same(&k->graph, g)) return k;
    chosen *k = (chosen *)calloc(1, sizeof *k);
    if (!k) return nullptr;
    k->graph = *g;
    k->engines = ts_conv_engines(&v->place, g, k->engine);
    k->next = v->choices;
    return v->choices = k;
}

/* Its plan for B pictures. NULL: it does not take them, or more than all engines count. */
static const ts_conv_plan *plan_of(ts_convolver *v, chosen *k, int64_t B)
{
    for (planned *p = k->plans; p; p = p->next)
        if (p->B == B) return p->plan;
    planned *p = (planned *)calloc(1, sizeof *p);
    if (!p) return nullptr;
    ts_conv_graph g = k->graph;
    const ts_conv2d *c = &g.shape;
    g.shape.B = p->B = B;
    if (n_image(c) <= INT32_MAX && n_out(c) <= INT32_MAX && n_weights(c) <= INT32_MAX)
        ts_conv_plan_new(&p->plan, &v->place, &g, &k->engine[k->at]);
    p->next = k->plans;
    k->plans = p;
    return p->plan;
}

/* Whole vectors in a picture: the next one is aligned, too. */
static bool divides(const chosen *k)
{
    ts_conv2d c = k->graph.shape;
    c.B = 1;
    return n_image(&c) % 8 == 0 && n_out(&c) % 8 == 0;
}

/* How many of B pictures to convolve at a time, 0 for no way. The first engine that has one is that of the shape from then on. */
static int64_t piece_of(ts_convolver *v, chosen *k, int64_t B)
{
    for (; k->at < k->engines; k->at++) {
        for (int64_t P = B; P == B || divides(k); P = (P + 1) / 2) {
            const bool fits = plan_of(v, k, P) && (B % P == 0 || plan_of(v, k, B % P));
            k->settled = k->settled || fits;
            if (fits) return P;
            if (P == 1) break;
        }
        if (k->settled) return 0;
        free_plans(k);
    }
    return 0;
}

/* A pass of a convolution that cuDNN takes. */
struct taken {
    chosen *k; /* NULL: it does not */
    int64_t piece;
};

static taken take(ts_stream *s, const ts_conv2d *c, ts_conv_pass pass)
{
    ts_convolver *v = c->B > 0 ? open(s) : nullptr;
    for (int narrow = c->math == TS_MATH_BF16 && c->recurs; v && narrow >= 0; narrow--) {
        const ts_conv_graph g = graph_of(c, pass, narrow ? TS_BF16 : TS_F32);
        chosen *k = choice_of(v, &g);
        const int64_t piece = k ? piece_of(v, k, c->B) : 0;
        if (piece) return taken{ k, piece };
    }
    return taken{ nullptr, 0 };
}

/* Bytes of work space. */
static size_t work_of(ts_stream *s, const taken *t, int64_t B)
{
    const size_t whole = ts_conv_plan_work(plan_of(s->convolver, t->k, t->piece));
    const size_t rest = B % t->piece ? ts_conv_plan_work(plan_of(s->convolver, t->k, B % t->piece)) : 0;
    return whole > rest ? whole : rest;
}

/* ---- operands: as they are, or prepared in scratch ---- */

static size_t bytes_of(int64_t n, ts_dtype as)
{
    return ts_room(n, as == TS_BF16 ? sizeof(uint16_t) : sizeof(float));
}

static size_t room_rounded(int64_t n, const ts_conv2d *c, ts_dtype as)
{
    return c->math == TS_MATH_BF16 ? bytes_of(n, as) : 0;
}

/* Is x what cuDNN reads, as it stands? */
static bool ready(const ts_conv2d *c, ts_dtype as)
{
    return !uneven(c) && (c->math == TS_MATH_F32 || (as == TS_BF16 && c->x_dtype == TS_BF16));
}

static size_t room_image(const ts_conv2d *c, ts_dtype as)
{
    return ready(c, as) ? 0 : bytes_of(n_image(c), as);
}

/* In this order, then what cuDNN asks for. */
static size_t room_of(ts_stream *s, const ts_conv2d *c, ts_conv_pass pass)
{
    const taken t = take(s, c, pass);
    if (!t.k) return 0;
    const ts_dtype as = t.k->graph.operands;
    const size_t work = work_of(s, &t, c->B), w = room_rounded(n_weights(c), c, as), dy = room_rounded(n_out(c), c, as);
    if (pass == TS_CONV_FWD) return room_image(c, as) + w + bytes_of(c->O, TS_F32) + work;
    if (pass == TS_CONV_DX) return (uneven(c) ? bytes_of(n_image(c), TS_F32) : 0) + dy + w + work;
    return room_image(c, as) + dy + bytes_of(n_weights(c), TS_F32) + work;
}

size_t ts_convolve_scratch(ts_stream *s, const ts_conv2d *c, int backward)
{
    if (!backward) return room_of(s, c, TS_CONV_FWD);
    const size_t dx = room_of(s, c, TS_CONV_DX), dw = room_of(s, c, TS_CONV_DW);
    return dx > dw ? dx : dw;
}

/* A number of the picture as cuDNN reads it. */
static __device__ inline void put_operand(float *to, float x, ts_math math)
{
    *to = math == TS_MATH_BF16 ? bf16_round(x) : x;
}

static __device__ inline void put_operand(float *to, uint16_t x, ts_math)
{
    *to = bf16_widen(x);
}

static __device__ inline void put_operand(uint16_t *to, float x, ts_math)
{
    *to = bf16_narrow(x);
}

static __device__ inline void put_operand(uint16_t *to, uint16_t x, ts_math)
{
    *to = x;
}

/* y = x with zeros around it, Yp rows of Xp pixels. */
template <class T, class X>
static __device__ inline void fill_padded(T *y, const X *x, const ts_conv2d &c, int64_t Yp, int64_t Xp, int64_t all)
{
    TS_EACH(n, all)
    {
        const int64_t i = n % c.C, col = n / c.C % Xp - c.pad_lo, row = n / c.C / Xp % Yp - c.pad_lo;
        const int64_t b = n / c.C / Xp / Yp;
        const bool inside = row >= 0 && row < c.Y && col >= 0 && col < c.X;
        put_operand(y + n, inside ? x[((b * c.Y + row) * c.X + col) * c.C + i] : X(0), c.math);
    }
}

template <class X> static __global__ void pad_k1(float *y, const X *x, ts_conv2d c, int64_t Yp, int64_t Xp, int64_t all)
{
    fill_padded(y, x, c, Yp, Xp, all);
}

template <class X> static __global__ void pad_narrow_k1(uint16_t *y, const X *x, ts_conv2d c, int64_t Yp, int64_t Xp, int64_t all)
{
    fill_padded(y, x, c, Yp, Xp, all);
}

/* The way back: x = what was put inside. */
static __global__ void crop_k1(float *x, const float *y, ts_conv2d c, int64_t Yp, int64_t Xp, int64_t all)
{
    TS_EACH(n, all)
    {
        const int64_t i = n % c.C, col = n / c.C % c.X + c.pad_lo, row = n / c.C / c.X % c.Y + c.pad_lo;
        const int64_t b = n / c.C / c.X / c.Y;
        x[n] = y[((b * Yp + row) * Xp + col) * c.C + i];
    }
}

/* Takes room for n numbers from scratch, which moves on. */
static void *from(char **scratch, int64_t n, ts_dtype as)
{
    void *p = *scratch;
    *scratch += bytes_of(n, as);
    return p;
}

static ts_status bring(ts_stream *s, const void **p, const float *x, int64_t n, const ts_conv2d *c, ts_dtype as, char **scratch)
{
    *p = x;
    if (c->math == TS_MATH_F32) return TS_OK;
    void *y = from(scratch, n, as);
    *p = y;
    return ts_round(s, y, x, n, as);
}

static ts_status bring_weights(ts_stream *s, const void **p, const float *w, const ts_conv2d *c, ts_dtype as, char **scratch)
{
    *p = w;
    if (c->math == TS_MATH_F32) return TS_OK;
    return ts_round_weights(s, p, w, n_weights(c), as, from(scratch, n_weights(c), as));
}

static ts_status pad(ts_stream *s, void *y_, const void *x_, const ts_conv2d *c, ts_dtype as)
{
    const int64_t n = n_image(c), Yp = side(c, c->Y), Xp = side(c, c->X);
    const unsigned grid = ts_blocks(n);
    const uint16_t *bits = (const uint16_t *)x_;
    const float *x = (const float *)x_;
    uint16_t *narrow = (uint16_t *)y_;
    float *y = (float *)y_;
    if (as == TS_BF16)
        return c->x_dtype == TS_BF16 ? TS_LAUNCH(pad_narrow_k1<uint16_t>, grid, BLOCK, 0, s, narrow, bits, *c, Yp, Xp, n)
                                     : TS_LAUNCH(pad_narrow_k1<float>, grid, BLOCK, 0, s, narrow, x, *c, Yp, Xp, n);
    return c->x_dtype == TS_BF16 ? TS_LAUNCH(pad_k1<uint16_t>, grid, BLOCK, 0, s, y, bits, *c, Yp, Xp, n)
                                 : TS_LAUNCH(pad_k1<float>, grid, BLOCK, 0, s, y, x, *c, Yp, Xp, n);
}

static ts_status bring_image(ts_stream *s, const void **p, const void *x, const ts_conv2d *c, ts_dtype as, char **scratch)
{
    const int64_t n = n_image(c);
    *p = x;
    if (ready(c, as)) return TS_OK;
    void *y = from(scratch, n, as);
    *p = y;
    if (uneven(c)) return pad(s, y, x, c, as);
    if (c->x_dtype == TS_BF16) return ts_widen(s, (float *)y, (const uint16_t *)x, 1, n, n);
    return ts_round(s, y, (const float *)x, n, as);
}

/* ---- running ---- */

static bool aligned(ts_conv_operands o)
{
    return ts_aligned(o.x) && ts_aligned(o.w) && ts_aligned(o.y) && ts_aligned(o.bias);
}

static ts_status failed(const ts_cudnn *calls, const ts_conv2d *c, cudnnStatus_t st)
{
    return ts_fail(TS_E_DEVICE, "cuDNN fails in a convolution of B=%lld Y=%lld X=%lld C=%lld O=%lld k=%d: %s",
                   (long long)c->B, (long long)c->Y, (long long)c->X, (long long)c->C, (long long)c->O, c->k,
                   calls->cudnnGetErrorString(st));
}

/* Pictures `first` and on, a piece of them or what is left. *done: cuDNN did it. If, of the first, it says that it does not do this, it
 * is not asked again. */
static ts_status run(ts_stream *s, const taken *t, ts_conv_operands o, int64_t first, void *work, const ts_conv2d *c, bool *done)
{
    enum { NO_LONGER_A_REFUSAL = 4000 };
    ts_convolver *v = s->convolver;
    const int64_t left = c->B - first, B = left < t->piece ? left : t->piece;
    const ts_conv_pass pass = t->k->graph.pass;
    const size_t size = t->k->graph.operands == TS_BF16 ? sizeof(uint16_t) : sizeof(float);
    o.x = (const char *)o.x + first * (n_image(c) / c->B) * (pass == TS_CONV_DX ? sizeof(float) : size);
    o.y = (const char *)o.y + first * (n_out(c) / c->B) * (pass == TS_CONV_FWD ? sizeof(float) : size);
    if (!aligned(o)) return TS_OK;
    const cudnnStatus_t st = ts_conv_plan_run(&v->place, plan_of(v, t->k, B), o, work);
    *done = st == CUDNN_STATUS_SUCCESS;
    if (*done) return TS_OK;
    t->k->at = t->k->engines;
    return (int)st < NO_LONGER_A_REFUSAL && first == 0 ? TS_OK : failed(v->place.calls, c, st);
}

/* All pictures. */
static ts_status run_all(ts_stream *s, const taken *t, ts_conv_operands o, void *work, const ts_conv2d *c, bool *done)
{
    TS_TRY(run(s, t, o, 0, work, c, done));
    for (int64_t first = t->piece; *done && first < c->B; first += t->piece) TS_TRY(run(s, t, o, first, work, c, done));
    return TS_OK;
}

ts_status ts_convolve_fwd(ts_stream *s, bool *done, float *y, const void *x, const float *w, const float *b,
                          const ts_conv2d *c, void *scratch)
{
    const taken t = take(s, c, TS_CONV_FWD);
    ts_conv_operands o = { nullptr, nullptr, y, b };
    char *room = (char *)scratch;
    *done = false;
    if (!t.k) return TS_OK;
    const ts_dtype as = t.k->graph.operands;
    TS_TRY(bring_image(s, &o.x, x, c, as, &room));
    TS_TRY(bring_weights(s, &o.w, w, c, as, &room));
    void *none = from(&room, c->O, TS_F32);
    if (!b) {
        TS_TRY(zero_cuda(s, none, (size_t)c->O * sizeof(float)));
        o.bias = none;
    }
    return run_all(s, &t, o, room, c, done);
}

ts_status ts_convolve_dx(ts_stream *s, bool *done, float *dx, const float *dy, const float *w, const ts_conv2d *c,
                         void *scratch)
{
    const taken t = take(s, c, TS_CONV_DX);
    ts_conv_operands o = { dx, nullptr, nullptr, nullptr };
    char *room = (char *)scratch;
    *done = false;
    if (!t.k) return TS_OK;
    const ts_dtype as = t.k->graph.operands;
    float *padded = uneven(c) ? (float *)from(&room, n_image(c), TS_F32) : dx;
    o.x = padded;
    TS_TRY(bring(s, &o.y, dy, n_out(c), c, as, &room));
    TS_TRY(bring(s, &o.w, w, n_weights(c), c, as, &room));
    TS_TRY(run_all(s, &t, o, room, c, done));
    if (!*done || padded == dx) return TS_OK;
    const int64_t n = c->B * c->Y * c->X * c->C;
    return TS_LAUNCH(crop_k1, ts_blocks(n), BLOCK, 0, s, dx, padded, *c, side(c, c->Y), side(c, c->X), n);
}

ts_status ts_convolve_dw(ts_stream *s, bool *done, float *dw, const float *dy, const float *x, const ts_conv2d *c,
                         void *scratch)
{
    const taken t = take(s, c, TS_CONV_DW);
    ts_conv_operands o = {};
    char *room = (char *)scratch;
    *done = false;
    if (!t.k) return TS_OK;
    const ts_dtype as = t.k->graph.operands;
    TS_TRY(bring_image(s, &o.x, x, c, as, &room));
    TS_TRY(bring(s, &o.y, dy, n_out(c), c, as, &room));
    float *sum = (float *)from(&room, n_weights(c), TS_F32);
    o.w = sum;
    for (int64_t first = 0; first < c->B; first += t.piece) {
        TS_TRY(run(s, &t, o, first, room, c, done));
        if (!*done) return TS_OK;
        TS_TRY(add_cuda(s, dw, dw, sum, n_weights(c)));
    }
    return TS_OK;
}
