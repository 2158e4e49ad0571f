/* params.c - contract: params.h. */
#include "host/params_private.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16 }; /* floats: 64 bytes */

static uint64_t next_serial(void)
{
    static _Atomic uint64_t last;
    return ++last;
}

ts_status ts_params_new(ts_params **out)
{
    *out = calloc(1, sizeof **out);
    if (!*out) return ts_fail(TS_E_NOMEM, "out of host memory");
    (*out)->serial = next_serial();
    return TS_OK;
}

uint64_t ts_params_serial(const ts_params *p)
{
    return p->serial;
}

void params_thaw(ts_params *p)
{
    if (!p->frozen) return;
    p->d->be->mem_constant(p->d->s, p->buffer[TS_BUFFER_WEIGHT]->p, 0, 0);
    p->frozen = 0;
    p->serial = next_serial();
}

ts_status ts_params_freeze(ts_params *p)
{
    if (p->frozen) return TS_OK;
    TS_TRY(p->d->be->mem_constant(p->d->s, p->buffer[TS_BUFFER_WEIGHT]->p, (size_t)p->total * sizeof(float), 1));
    p->frozen = 1;
    return TS_OK;
}

void ts_params_free(ts_params *p)
{
    if (!p) return;
    params_thaw(p);
    for (int i = 0; i < p->n; i++) {
        if (p->list[i]->declared) p->d->be->mem_constant(p->d->s, p->list[i]->stored->data, 0, 0);
        free(p->list[i]->name);
        free(p->list[i]);
    }
    for (int i = 0; i < p->n_spans; i++) free(p->spans[i]);
    for (int i = 0; i < TS_BUFFERS; i++)
        if (p->buffer[i]) ts_block_drop(p->d, p->buffer[i]);
    free(p->list);
    free(p->spans);
    free(p->span_first);
    ts_st_close(p->file);
    free(p);
}

ts_tensor *ts_params_add(ts_params *p, ts_init init, int flags, int rank, const int64_t *shape, const char *name, ...)
{
    if (p->n == p->room) {
        int room = p->room ? 2 * p->room : 256;
        ts_param **list = realloc(p->list, (size_t)room * sizeof *list);
        if (!list) goto fail;
        p->list = list;
        p->room = room;
    }
    ts_param *q = calloc(1, sizeof *q);
    if (!q) goto fail;
    va_list args;
    va_start(args, name);
    int written = vasprintf(&q->name, name, args);
    va_end(args);
    if (written < 0) {
        free(q);
        goto fail;
    }
    q->init = init;
    q->flags = flags;
    q->rank = rank;
    q->count = 1;
    for (int i = 0; i < rank; i++) {
        q->shape[i] = q->tensor.dim[i] = shape[i];
        q->count *= shape[i];
    }
    if (flags & TS_PARAM_CONV) { /* (O,I,k,k) -> (O,k,k,I) */
        q->tensor.dim[1] = shape[2];
        q->tensor.dim[2] = shape[3];
        q->tensor.dim[3] = shape[1];
    }
    q->tensor.rank = rank;
    q->tensor.dtype = TS_F32;
    p->list[p->n++] = q;
    return &q->tensor;
fail:
    p->failed = 1;
    return NULL;
}

ts_tensor *ts_params_span(ts_params *p, const ts_tensor *first, int64_t n)
{
    ts_tensor **spans = realloc(p->spans, (size_t)(p->n_spans + 1) * sizeof *spans);
    if (spans) p->spans = spans;
    const ts_tensor **from = realloc(p->span_first, (size_t)(p->n_spans + 1) * sizeof *from);
    if (from) p->span_first = from;
    ts_tensor *t = calloc(1, sizeof *t);
    if (!spans || !from || !t) {
        free(t);
        p->failed = 1;
        return NULL;
    }
    t->rank = 1;
    t->dim[0] = n;
    t->dtype = TS_F32;
    p->spans[p->n_spans] = t;
    p->span_first[p->n_spans++] = first;
    return t;
}

/* Point every tensor at its place in the buffers. */
static void bind(ts_params *p)
{
    int training = p->buffer[TS_BUFFER_GRAD] != NULL;
    float *w = p->buffer[TS_BUFFER_WEIGHT]->p, *grad = training ? p->buffer[TS_BUFFER_GRAD]->p : NULL;
    for (int i = 0; i < p->n; i++) {
        ts_param *q = p->list[i];
        if (q->stored) continue;
        q->tensor.data = w + q->offset;
        q->tensor.grad = grad ? grad + q->offset : NULL;
        q->tensor.needs_grad = training && !(q->flags & TS_PARAM_HELD);
    }
    for (int i = 0; i < p->n_spans; i++) {
        p->spans[i]->data = p->span_first[i]->data;
        p->spans[i]->grad = p->span_first[i]->grad;
        p->spans[i]->needs_grad = training;
    }
}

ts_status ts_params_allocate(ts_params *p, ts_device *d, int training)
{
    if (p->failed) return ts_fail(TS_E_NOMEM, "out of host memory");
    p->d = d;
    for (int pass = 0; pass < 2; pass++) { /* decayed ones first */
        for (int i = 0; i < p->n; i++) {
            ts_param *q = p->list[i];
            int decays = (q->flags & TS_PARAM_DECAY) != 0;
            if (decays == pass || q->stored) continue;
            q->offset = p->total;
            p->total += (q->count + ALIGN - 1) / ALIGN * ALIGN;
        }
        if (pass == 0) p->decayed = p->total;
    }
    size_t bytes = (size_t)(p->total ? p->total : 1) * sizeof(float);
    for (int b = 0; b < (training ? TS_BUFFERS : 1); b++) {
        p->buffer[b] = ts_block_get(d, bytes);
        if (!p->buffer[b]) return TS_E_NOMEM;
        TS_TRY(d->be->zero(d->s, p->buffer[b]->p, bytes));
    }
    bind(p);
    return TS_OK;
}

int ts_params_count(const ts_params *p)
{
    return p->n;
}

const ts_param *ts_params_at(const ts_params *p, int i)
{
    return p->list[i];
}

int64_t ts_params_floats(const ts_params *p)
{
    int64_t n = 0;
    for (int i = 0; i < p->n; i++) n += p->list[i]->count;
    return n;
}

/* --- initial values --- */

static uint64_t next(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static double uniform(uint64_t *state)
{
    return ((double)(next(state) >> 11) + 0.5) * 0x1p-53;
}

static float draw(ts_init_kind kind, float value, uint64_t *state)
{
    if (kind == TS_INIT_CONST) return value;
    double u = uniform(state);
    if (kind == TS_INIT_UNIFORM) return (float)((2 * u - 1) * value);
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * uniform(state)) * value);
}

void params_initialise(float *x, const ts_param *q, uint64_t seed)
{
    uint64_t state = seed * 0x9E3779B97F4A7C15u + 0xcbf29ce484222325u;
    for (const char *c = q->name; *c; c++) state = (state ^ (unsigned char)*c) * 0x100000001b3u;
    if (q->init.kind == TS_INIT_RAMP) {
        int64_t R = q->shape[0], columns = q->count / R;
        for (int64_t i = 0; i < q->count; i++)
            x[i] = R > 1 ? (float)(q->init.value * (double)(i / columns) / (double)(R - 1)) : 0;
    } else if (q->init.kind == TS_INIT_DIRAC) {
        int64_t I = q->shape[1], k = q->shape[2];
        memset(x, 0, (size_t)q->count * sizeof *x);
        for (int64_t o = 0; o < q->shape[0]; o++) x[((o * I + o) * k + k / 2) * k + k / 2] = 1;
    } else {
        for (int64_t i = 0; i < q->count; i++)
            x[i] = draw(q->init.kind, i < q->init.n_first ? q->init.first : q->init.value, &state);
    }
}

/* Between the order of files (O,I,k,k) and of memory (O,k,k,I). */
static void reorder(float *to, const float *from, const ts_param *q, int to_memory)
{
    int64_t O = q->shape[0], I = q->shape[1], kk = q->shape[2] * q->shape[3];
    for (int64_t o = 0; o < O; o++)
        for (int64_t i = 0; i < I; i++)
            for (int64_t j = 0; j < kk; j++) {
                int64_t file = (o * I + i) * kk + j, memory = (o * kk + j) * I + i;
                to[to_memory ? memory : file] = from[to_memory ? file : memory];
            }
}

/* x is in file order and is overwritten. */
ts_status params_put(ts_params *p, ts_buffer b, const ts_param *q, float *x, float *spare)
{
    if (q->flags & TS_PARAM_CONV) {
        reorder(spare, x, q, 1);
        x = spare;
    }
    if (q->stored) return ts_fail(TS_E_INTERNAL, "%s lies in a mapped file and cannot change", q->name);
    float *to = (float *)p->buffer[b]->p + q->offset;
    return q->count ? p->d->be->upload(p->d->s, to, x, (size_t)q->count * sizeof *x) : TS_OK;
}

ts_status params_fetch(const ts_params *p, ts_buffer b, const ts_param *q, float *x, float *spare)
{
    int conv = q->flags & TS_PARAM_CONV;
    if (q->stored) return ts_st_to_f32(x, q->stored);
    const float *from = (const float *)p->buffer[b]->p + q->offset;
    if (q->count) TS_TRY(p->d->be->download(p->d->s, conv ? spare : x, from, (size_t)q->count * sizeof *x));
    if (conv) reorder(x, spare, q, 0);
    return TS_OK;
}

int64_t params_largest(const ts_params *p)
{
    int64_t n = 1;
    for (int i = 0; i < p->n; i++)
        if (p->list[i]->count > n) n = p->list[i]->count;
    return n;
}

ts_status ts_params_init(ts_params *p, uint64_t seed)
{
    params_thaw(p);
    float *x = malloc((size_t)params_largest(p) * 2 * sizeof *x);
    if (!x) return ts_fail(TS_E_NOMEM, "out of host memory");
    ts_status st = TS_OK;
    for (int i = 0; i < p->n && st == TS_OK; i++) {
        params_initialise(x, p->list[i], seed);
        st = params_put(p, TS_BUFFER_WEIGHT, p->list[i], x, x + params_largest(p));
    }
    free(x);
    if (st == TS_OK && p->buffer[TS_BUFFER_EMA]) {
        size_t bytes = (size_t)p->total * sizeof(float);
        st = p->d->be->copy(p->d->s, p->buffer[TS_BUFFER_EMA]->p, p->buffer[TS_BUFFER_WEIGHT]->p, bytes);
    }
    return st;
}

static ts_param *param_of(const ts_params *p, const ts_tensor *t)
{
    for (int i = 0; i < p->n; i++)
        if (&p->list[i]->tensor == t) return p->list[i];
    return NULL;
}

static ts_status no_parameter(void)
{
    return ts_fail(TS_E_INTERNAL, "the tensor is no parameter of this table");
}

ts_status ts_params_put(ts_params *p, const ts_tensor *t, const float *x)
{
    const ts_param *q = param_of(p, t);
    if (!q) return no_parameter();
    params_thaw(p);
    float *copy = malloc((size_t)q->count * 2 * sizeof *copy);
    if (!copy) return ts_fail(TS_E_NOMEM, "out of host memory");
    ts_status st = TS_OK;
    for (int b = 0; b < TS_BUFFERS && st == TS_OK; b++) {
        if ((b != TS_BUFFER_WEIGHT && b != TS_BUFFER_EMA) || !p->buffer[b]) continue;
        memcpy(copy, x, (size_t)q->count * sizeof *copy);
        st = params_put(p, (ts_buffer)b, q, copy, copy + q->count);
    }
    free(copy);
    return st;
}

void ts_params_hold(ts_params *p, const ts_tensor *t)
{
    ts_param *q = param_of(p, t);
    if (!q) return;
    q->flags |= TS_PARAM_HELD;
    q->tensor.needs_grad = 0;
}

ts_status ts_params_carry(ts_params *p, const ts_tensor *t)
{
    const ts_param *q = param_of(p, t);
    if (!q) return no_parameter();
    if (!p->buffer[TS_BUFFER_EMA]) return TS_OK;
    float *to = (float *)p->buffer[TS_BUFFER_EMA]->p + q->offset, *from = (float *)p->buffer[TS_BUFFER_WEIGHT]->p + q->offset;
    return p->d->be->copy(p->d->s, to, from, (size_t)q->count * sizeof(float));
}

void ts_params_swap_ema(ts_params *p)
{
    params_thaw(p);
    ts_block *w = p->buffer[TS_BUFFER_WEIGHT];
    p->buffer[TS_BUFFER_WEIGHT] = p->buffer[TS_BUFFER_EMA];
    p->buffer[TS_BUFFER_EMA] = w;
    bind(p);
}

/* --- training --- */

ts_status ts_params_step(ts_params *p, const ts_adamw *a, float *norm)
{
    const ts_backend *be = p->d->be;
    ts_stream *s = p->d->s;
    float *grad = p->buffer[TS_BUFFER_GRAD]->p;
    for (int i = 0; i < p->n; i++) {
        const ts_param *q = p->list[i];
        if (q->flags & TS_PARAM_FROZEN) TS_TRY(be->zero(s, grad + q->offset, (size_t)q->count * sizeof *grad));
    }
    ts_block *n = ts_block_get(p->d, sizeof *norm);
    if (!n) return TS_E_NOMEM;
    ts_status st = be->grad_norm(s, n->p, grad, p->total);
    if (st == TS_OK)
        st = be->adamw(s, p->buffer[TS_BUFFER_WEIGHT]->p, p->buffer[TS_BUFFER_M]->p, p->buffer[TS_BUFFER_V]->p,
                       p->buffer[TS_BUFFER_EMA]->p, grad, n->p, a, p->decayed, p->total);
    if (st == TS_OK) st = be->zero(s, grad, (size_t)p->total * sizeof *grad);
    if (st == TS_OK) st = be->download(s, norm, n->p, sizeof *norm);
    ts_block_drop(p->d, n);
    return st;
}
