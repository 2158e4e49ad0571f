/* graph.c - the tape itself: tensors, scopes, recording, and the way back. Contract: graph.h. */
#include "host/graph_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TG_CHUNK = 256 };

static size_t item_size(ts_dtype dtype)
{
    return dtype == TS_U8 ? 1 : dtype == TS_BF16 ? 2 : 4;
}

ts_status ts_graph_new(ts_graph **out, ts_device *d, int training)
{
    ts_graph *g = calloc(1, sizeof *g);
    if (!g) return ts_fail(TS_E_NOMEM, "out of host memory");
    g->d = d;
    g->pool = &d->pool;
    g->training = training;
    *out = g;
    return TS_OK;
}

void ts_graph_own_memory(ts_graph *g)
{
    g->pool = &g->own;
}

static ts_tensor *slot(const ts_graph *g, size_t i)
{
    return &g->chunks[i / TG_CHUNK][i % TG_CHUNK];
}

static void drop(ts_graph *g, ts_tensor *t)
{
    if (t->dropped) return;
    ts_block_drop(g->d, t->memory);
    ts_block_drop(g->d, t->grad_memory);
    t->memory = t->grad_memory = NULL;
    t->grad = NULL;
    t->dropped = 1;
}

void ts_graph_reset(ts_graph *g)
{
    for (size_t i = 0; i < g->n_nodes; i++)
        for (int j = 0; j < TG_SAVED; j++) ts_block_drop(g->d, g->nodes[i].saved[j]);
    for (size_t i = 0; i < g->n_tensors; i++) drop(g, slot(g, i));
    g->n_nodes = g->n_tensors = 0;
    g->status = TS_OK;
}

void ts_graph_free(ts_graph *g)
{
    if (!g) return;
    ts_graph_reset(g);
    ts_pool_release(g->d, &g->own);
    for (size_t i = 0; i < g->n_chunks; i++) free(g->chunks[i]);
    free(g->chunks);
    free(g->nodes);
    free(g);
}

ts_status ts_graph_status(const ts_graph *g)
{
    return g->status;
}

ts_device *ts_graph_device(const ts_graph *g)
{
    return g->d;
}

int ts_graph_training(const ts_graph *g)
{
    return g->training;
}

ts_status ts_graph_fail(ts_graph *g, ts_status st)
{
    if (g->status == TS_OK) g->status = st;
    return st;
}

int tg_check(ts_graph *g, ts_status st)
{
    if (st != TS_OK) ts_graph_fail(g, st);
    return g->status == TS_OK;
}

int tg_present(ts_graph *g, const ts_tensor *const *need, int n)
{
    if (g->status != TS_OK) return 0;
    for (int i = 0; i < n; i++)
        if (!need[i] || need[i]->dropped) {
            ts_graph_fail(g, ts_fail(TS_E_INTERNAL, "an op was given %s", need[i] ? "a tensor that was moved" : "no tensor"));
            return 0;
        }
    return 1;
}

int tg_whole(ts_graph *g, const ts_tensor *const *need, int n)
{
    if (!tg_present(g, need, n)) return 0;
    for (int i = 0; i < n; i++)
        if (need[i]->stride) {
            ts_graph_fail(g, ts_fail(TS_E_INTERNAL, "an op was given a chunk, expected a contiguous tensor"));
            return 0;
        }
    return 1;
}

int tg_ready(ts_graph *g, const ts_tensor *const *need, int n)
{
    if (!tg_whole(g, need, n)) return 0;
    for (int i = 0; i < n; i++)
        if (need[i]->dtype == TS_BF16) {
            ts_graph_fail(g, ts_fail(TS_E_INTERNAL, "an op was given bfloat16, which products alone read"));
            return 0;
        }
    return 1;
}

ts_tensor *tg_mismatch(ts_graph *g, const char *op, const char *expected, const ts_tensor *found)
{
    char shape[80] = "";
    for (int i = 0; i < found->rank; i++)
        snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "%s%lld", i ? "," : "", (long long)found->dim[i]);
    ts_graph_fail(g, ts_fail(TS_E_INTERNAL, "%s: shape (%s), expected %s", op, shape, expected));
    return NULL;
}

int64_t ts_tensor_count(const ts_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->dim[i];
    return n;
}

static ts_tensor *new_tensor(ts_graph *g, ts_dtype dtype, int rank, const int64_t *dim)
{
    if (g->n_tensors == g->n_chunks * TG_CHUNK) {
        ts_tensor **chunks = realloc(g->chunks, (g->n_chunks + 1) * sizeof *chunks);
        ts_tensor *chunk = malloc(TG_CHUNK * sizeof *chunk);
        if (chunks) g->chunks = chunks;
        if (!chunks || !chunk) {
            free(chunk);
            ts_graph_fail(g, ts_fail(TS_E_NOMEM, "out of host memory"));
            return NULL;
        }
        g->chunks[g->n_chunks++] = chunk;
    }
    ts_tensor *t = slot(g, g->n_tensors++);
    *t = (ts_tensor){ .rank = rank, .dtype = dtype };
    memcpy(t->dim, dim, (size_t)rank * sizeof *dim);
    return t;
}

ts_tensor *tg_new(ts_graph *g, ts_dtype dtype, int rank, const int64_t *dim)
{
    ts_tensor *t = new_tensor(g, dtype, rank, dim);
    if (!t) return NULL;
    t->memory = ts_block_from(g->d, g->pool, (size_t)ts_tensor_count(t) * item_size(dtype) + 1);
    if (!t->memory) {
        ts_graph_fail(g, TS_E_NOMEM);
        return NULL;
    }
    t->data = t->memory->p;
    return t;
}

ts_tensor *tg_like(ts_graph *g, const ts_tensor *x)
{
    return tg_new(g, x->dtype, x->rank, x->dim);
}

int tg_exact(ts_graph *g, int on)
{
    const int was = g->exact;
    g->exact = on;
    return was;
}

ts_math tg_math(const ts_graph *g)
{
    return g->exact ? TS_MATH_F32 : g->d->math;
}

ts_dtype tg_factor_dtype(const ts_graph *g)
{
    return g->training || !TG_BE(g)->factor_dtype ? TS_F32 : TG_BE(g)->factor_dtype(tg_math(g));
}

ts_tensor *tg_factor(ts_graph *g, const ts_tensor *like)
{
    return tg_new(g, tg_factor_dtype(g), like->rank, like->dim);
}

ts_block *tg_scratch(ts_graph *g, size_t bytes)
{
    ts_block *b = ts_block_from(g->d, g->pool, bytes ? bytes : 1);
    if (!b) ts_graph_fail(g, TS_E_NOMEM);
    return b;
}

ts_tensor *tg_empty(ts_graph *g, ts_dtype dtype, int rank, const int64_t *dim)
{
    return g->status == TS_OK ? tg_new(g, dtype, rank, dim) : NULL;
}

ts_tensor *tg_zeros(ts_graph *g, ts_dtype dtype, int rank, const int64_t *dim)
{
    ts_tensor *t = tg_empty(g, dtype, rank, dim);
    if (!t) return NULL;
    size_t bytes = (size_t)ts_tensor_count(t) * item_size(dtype);
    return bytes == 0 || tg_check(g, TG_BE(g)->zero(TG_S(g), t->data, bytes)) ? t : NULL;
}

ts_tensor *tg_upload(ts_graph *g, const void *host, ts_dtype dtype, int rank, const int64_t *dim)
{
    ts_tensor *t = tg_empty(g, dtype, rank, dim);
    return t && tg_refill(g, t, host) == TS_OK ? t : NULL;
}

ts_status tg_refill(ts_graph *g, ts_tensor *t, const void *host)
{
    if (g->status != TS_OK || !t) return g->status;
    size_t bytes = (size_t)ts_tensor_count(t) * item_size(t->dtype);
    if (bytes) tg_check(g, TG_BE(g)->upload(TG_S(g), t->data, host, bytes));
    return g->status;
}

void tg_place(ts_graph *g, ts_tensor *into, int64_t at, const ts_tensor *x)
{
    if (!tg_ready(g, (const ts_tensor *const[]){ into, x }, 2)) return;
    if (at < 0 || at + ts_tensor_count(x) > ts_tensor_count(into) || into->dtype != x->dtype) {
        tg_mismatch(g, "place", "room for all of it", x);
        return;
    }
    size_t size = item_size(x->dtype), bytes = (size_t)ts_tensor_count(x) * size;
    if (bytes) tg_check(g, TG_BE(g)->copy(TG_S(g), (char *)into->data + (size_t)at * size, x->data, bytes));
}

ts_status tg_download(ts_graph *g, void *host, const ts_tensor *t)
{
    if (g->status != TS_OK) return g->status;
    if (!t || t->dropped || t->stride)
        return ts_graph_fail(g, ts_fail(TS_E_INTERNAL, "download of a tensor that is not whole"));
    size_t bytes = (size_t)ts_tensor_count(t) * item_size(t->dtype);
    if (bytes) tg_check(g, TG_BE(g)->download(TG_S(g), host, t->data, bytes));
    return g->status;
}

/* --- scopes --- */

size_t tg_enter(ts_graph *g)
{
    return g->n_tensors;
}

ts_tensor *tg_leave(ts_graph *g, size_t scope, ts_tensor *keep)
{
    if (g->training) return keep;
    ts_tensor kept = { 0 };
    size_t at = g->n_tensors;
    for (size_t i = scope; i < g->n_tensors; i++) {
        if (slot(g, i) == keep) kept = *keep, at = i;
        else drop(g, slot(g, i));
    }
    int inside = at < g->n_tensors;
    g->n_tensors = scope + (inside ? 1 : 0);
    if (!inside) return keep;
    kept.moved = 0;
    *slot(g, scope) = kept;
    return slot(g, scope);
}

ts_tensor *tg_move(ts_tensor *t)
{
    if (t) t->moved = 1;
    return t;
}

void tg_drop(ts_graph *g, ts_tensor *t)
{
    if (t && !g->training) drop(g, t);
}

void tg_trim(ts_graph *g)
{
    if (!g->training && !g->d->be->capture_begin) ts_device_trim(g->d);
}

void tg_consume(ts_graph *g, ts_tensor *const *in, int n)
{
    for (int i = 0; i < n; i++) {
        if (!in[i] || !in[i]->moved) continue;
        in[i]->moved = 0;
        if (!g->training) drop(g, in[i]);
    }
}

/* --- views --- */

static ts_tensor *view(ts_graph *g, ts_tensor *x, int rank, const int64_t *dim, int64_t offset)
{
    ts_tensor *v = new_tensor(g, x->dtype, rank, dim);
    if (!v) return NULL;
    v->memory = ts_block_keep(x->memory);
    v->data = (char *)x->data + (size_t)offset * item_size(x->dtype);
    v->needs_grad = x->needs_grad;
    v->base = g->training ? (x->base ? x->base : x) : NULL;
    v->offset = x->offset + offset;
    tg_consume(g, &x, 1);
    return v;
}

ts_tensor *tg_reshape(ts_graph *g, ts_tensor *x, int rank, const int64_t *dim)
{
    TG_WHOLE(g, x);
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dim[i];
    if (n != ts_tensor_count(x)) return tg_mismatch(g, "reshape", "as many elements", x);
    return view(g, x, rank, dim, 0);
}

ts_tensor *tg_chunk(ts_graph *g, ts_tensor *x, int i, int n)
{
    TG_READY(g, x);
    if (x->rank != 2 || x->dim[1] % n != 0 || i < 0 || i >= n) return tg_mismatch(g, "chunk", "(B, n*C)", x);
    ts_tensor *v = view(g, x, 2, TG_DIMS(x->dim[0], x->dim[1] / n), i * (x->dim[1] / n));
    if (v) v->stride = x->dim[1];
    return v;
}

ts_tensor *tg_rows(ts_graph *g, ts_tensor *x, int64_t first, int64_t n)
{
    TG_READY(g, x);
    int64_t C = x->dim[x->rank - 1];
    if (first < 0 || n < 0 || (first + n) * C > ts_tensor_count(x) || (g->training && x->needs_grad))
        return tg_mismatch(g, "rows", "at least as many rows as asked for", x);
    return view(g, x, 2, TG_DIMS(n, C), first * C);
}

ts_tensor *tg_twice(ts_graph *g, ts_tensor *x)
{
    TG_READY(g, x);
    int64_t dim[TS_MAX_RANK];
    memcpy(dim, x->dim, sizeof dim);
    dim[0] *= 2;
    size_t bytes = (size_t)ts_tensor_count(x) * item_size(x->dtype);
    ts_tensor *y = tg_new(g, x->dtype, x->rank, dim);
    for (int i = 0; y && bytes && i < 2; i++)
        tg_check(g, TG_BE(g)->copy(TG_S(g), (char *)y->data + (size_t)i * bytes, x->data, bytes));
    tg_consume(g, &x, 1);
    return y;
}

/* --- recording and the way back --- */

tg_node *tg_record(ts_graph *g, void (*backward)(ts_graph *, tg_node *), ts_tensor *out, ts_tensor *const *in, int n)
{
    int needed = 0;
    for (int i = 0; i < n; i++) needed |= in[i] && in[i]->needs_grad;
    if (!g->training || !needed || g->status != TS_OK) return NULL;
    if (g->n_nodes == g->room) {
        size_t room = g->room ? 2 * g->room : 256;
        tg_node *nodes = realloc(g->nodes, room * sizeof *nodes);
        if (!nodes) {
            ts_graph_fail(g, ts_fail(TS_E_NOMEM, "out of host memory"));
            return NULL;
        }
        g->nodes = nodes;
        g->room = room;
    }
    tg_node *node = &g->nodes[g->n_nodes++];
    memset(node, 0, sizeof *node);
    node->backward = backward;
    node->out = out;
    if (out) out->needs_grad = 1;
    for (int i = 0; i < n; i++) node->in[i] = in[i];
    return node;
}

static ts_tensor *root(ts_tensor *t)
{
    return t->base ? t->base : t;
}

static size_t grad_bytes(const ts_tensor *r)
{
    return (size_t)ts_tensor_count(r) * sizeof(float);
}

static int new_grad(ts_graph *g, ts_tensor *r)
{
    ts_block *b = tg_scratch(g, grad_bytes(r));
    if (!b) return 0;
    r->grad_memory = b;
    r->grad = b->p;
    return 1;
}

float *tg_grad_set(ts_graph *g, ts_tensor *t, ts_block **temp)
{
    *temp = NULL;
    if (!t || !t->needs_grad || g->status != TS_OK) return NULL;
    ts_tensor *r = root(t);
    if (!r->grad) return new_grad(g, r) ? r->grad : NULL;
    *temp = tg_scratch(g, grad_bytes(r));
    return *temp ? (*temp)->p : NULL;
}

/* r->grad += more, in a block that nobody else refers to. */
static void accumulate(ts_graph *g, ts_tensor *r, const float *more)
{
    float *old = r->grad;
    ts_block *shared = r->grad_memory && r->grad_memory->refs > 1 ? r->grad_memory : NULL;
    if (shared && !new_grad(g, r)) return;
    tg_check(g, TG_BE(g)->add(TG_S(g), r->grad, old, more, ts_tensor_count(r)));
    ts_block_drop(g->d, shared);
}

void tg_grad_done(ts_graph *g, ts_tensor *t, ts_block *temp)
{
    if (!temp) return;
    if (g->status == TS_OK) accumulate(g, root(t), temp->p);
    ts_block_drop(g->d, temp);
}

float *tg_grad_add(ts_graph *g, ts_tensor *t)
{
    if (!t || !t->needs_grad || g->status != TS_OK) return NULL;
    ts_tensor *r = root(t);
    if (!r->grad) {
        if (!new_grad(g, r) || !tg_check(g, TG_BE(g)->zero(TG_S(g), r->grad, grad_bytes(r)))) return NULL;
    } else if (r->grad_memory && r->grad_memory->refs > 1) {
        ts_block *shared = r->grad_memory;
        float *old = r->grad;
        if (!new_grad(g, r) || !tg_check(g, TG_BE(g)->copy(TG_S(g), r->grad, old, grad_bytes(r)))) return NULL;
        ts_block_drop(g->d, shared);
    }
    return r->grad + t->offset;
}

void tg_grad_alias(ts_graph *g, ts_tensor *t, ts_block *block)
{
    if (!t || !t->needs_grad || g->status != TS_OK) return;
    ts_tensor *r = root(t);
    if (r->grad) {
        accumulate(g, r, block->p);
        return;
    }
    r->grad_memory = ts_block_keep(block);
    r->grad = block->p;
}

static void release(ts_graph *g, ts_tensor *out)
{
    if (out) drop(g, out);
}

ts_status ts_graph_backward(ts_graph *g)
{
    while (g->n_nodes > 0 && g->status == TS_OK) {
        tg_node *n = &g->nodes[--g->n_nodes];
        int reached = !n->out || n->out->grad || (n->out2 && n->out2->grad);
        if (reached) n->backward(g, n);
        for (int j = 0; j < TG_SAVED; j++) ts_block_drop(g->d, n->saved[j]);
        release(g, n->out);
        release(g, n->out2);
    }
    return g->status;
}
