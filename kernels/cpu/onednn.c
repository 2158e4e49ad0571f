/* onednn.c - oneDNN primitives of a stream. Contract: onednn.h. */
#include "kernels/cpu/onednn.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl_debug.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/packed.h"
#include "kernels/cpu/stream.h"

enum { ALIGN = 64, FIRST_SLOTS = 64 };

/* How a tensor of the caller and the primitive's view of it are brought together. */
typedef enum {
    DIRECT, /* the primitive works on the caller's memory    */
    NARROW, /* same order, rounded to bfloat16 in scratch    */
    REORDER /* another layout in scratch, brought by oneDNN  */
} transport;

typedef struct {
    dnn_role role;
    transport how;
    int wide; /* bfloat16 of the caller, to be made float32 first: for a plan that rounds */
    int64_t elements;
    dnnl_memory_t user, prim; /* user: of the reorder, else NULL                                    */
    dnnl_primitive_t reorder; /* user -> prim of an operand, prim -> user of a result               */
    size_t rounded_at;        /* offsets in scratch: the float32 copy of a factor, if plan->round,  */
    size_t prim_at;           /* and prim, unless how is DIRECT                                     */
} operand;

struct dnn_plan {
    dnn_key key;
    char what[160];
    dnnl_primitive_t prim;
    int round; /* bfloat16 wanted, but no such primitive here: round the factors, multiply in float32 */
    int n_ops;
    operand op[DNN_MAX_ARGS];
    dnnl_exec_arg_t exec[DNN_MAX_ARGS + 1]; /* the last is the primitive's scratchpad */
    dnnl_memory_t pad;
    size_t pad_at, bytes;
};

struct dnn_cache {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnn_plan **slot; /* open addressing, at most half full; slots is a power of two */
    size_t slots, used;
};

#define DNN_TRY(expr)                                                                                                  \
    do {                                                                                                               \
        dnnl_status_t dnn_try_ = (expr);                                                                               \
        if (dnn_try_ != dnnl_success) return dnn_try_;                                                                 \
    } while (0)

static ts_status refused(const char *what, dnnl_status_t st)
{
    return ts_fail(st == dnnl_out_of_memory ? TS_E_NOMEM : TS_E_INTERNAL, "%s: oneDNN answered %s", what,
                   dnnl_status2str(st));
}

/* ---- the table of plans ---- */

static uint64_t hash(const dnn_key *key)
{
    uint64_t h = 0;
    for (int i = 0; i < DNN_KEY_WORDS; i++) {
        h = (h ^ (uint64_t)key->v[i]) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    return h;
}

static size_t slot_of(const struct dnn_cache *c, const dnn_key *key)
{
    size_t i = hash(key) & (c->slots - 1);
    while (c->slot[i] && memcmp(&c->slot[i]->key, key, sizeof *key) != 0) i = (i + 1) & (c->slots - 1);
    return i;
}

static int grow(struct dnn_cache *c)
{
    if (c->used * 2 < c->slots) return 1;
    struct dnn_cache bigger = { .slots = c->slots ? c->slots * 2 : FIRST_SLOTS };
    bigger.slot = calloc(bigger.slots, sizeof *bigger.slot);
    if (!bigger.slot) return 0;
    for (size_t i = 0; i < c->slots; i++)
        if (c->slot[i]) bigger.slot[slot_of(&bigger, &c->slot[i]->key)] = c->slot[i];
    free(c->slot);
    c->slot = bigger.slot;
    c->slots = bigger.slots;
    return 1;
}

dnn_plan *dnn_find(ts_stream *s, const dnn_key *key)
{
    return s->dnn ? s->dnn->slot[slot_of(s->dnn, key)] : NULL;
}

static void plan_free(dnn_plan *p)
{
    if (!p) return;
    for (int i = 0; i < p->n_ops; i++) {
        dnnl_memory_destroy(p->op[i].user);
        dnnl_memory_destroy(p->op[i].prim);
        dnnl_primitive_destroy(p->op[i].reorder);
    }
    dnnl_memory_destroy(p->pad);
    dnnl_primitive_destroy(p->prim);
    free(p);
}

void dnn_cache_free(struct dnn_cache *c)
{
    if (!c) return;
    for (size_t i = 0; i < c->slots; i++) plan_free(c->slot[i]);
    free(c->slot);
    dnnl_stream_destroy(c->stream);
    dnnl_engine_destroy(c->engine);
    free(c);
}

static ts_status cache_new(struct dnn_cache **out)
{
    struct dnn_cache *c = calloc(1, sizeof *c);
    if (!c || !grow(c)) {
        free(c);
        return ts_fail(TS_E_NOMEM, "no memory for the table of oneDNN primitives");
    }
    dnnl_status_t st = dnnl_engine_create(&c->engine, dnnl_cpu, 0);
    if (st == dnnl_success) st = dnnl_stream_create(&c->stream, c->engine, dnnl_stream_default_flags);
    if (st != dnnl_success) {
        dnn_cache_free(c);
        return refused("cpu engine", st);
    }
    *out = c;
    return TS_OK;
}

/* ---- building ---- */

static size_t reserve(dnn_plan *p, size_t bytes)
{
    const size_t at = p->bytes;
    p->bytes += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return at;
}

static int64_t count(const dnnl_memory_desc_t *md)
{
    int64_t n = 1;
    for (int i = 0; i < md->ndims; i++) n *= md->dims[i];
    return n;
}

/* Attributes of a primitive whose scratchpad the caller provides, and which adds to its result if sum is set. */
static dnnl_status_t attributes(dnnl_primitive_attr_t *attr, int sum)
{
    dnnl_post_ops_t ops = NULL;
    *attr = NULL;
    DNN_TRY(dnnl_primitive_attr_create(attr));
    dnnl_status_t st = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    if (st == dnnl_success && sum) {
        st = dnnl_post_ops_create(&ops);
        if (st == dnnl_success) st = dnnl_post_ops_append_sum(ops, 1.0f);
        if (st == dnnl_success) st = dnnl_primitive_attr_set_post_ops(*attr, ops);
        dnnl_post_ops_destroy(ops);
    }
    return st;
}

static dnnl_status_t reorder_new(dnnl_primitive_t *reorder, size_t *pad_bytes, dnnl_engine_t e,
                                 const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to, int sum)
{
    dnnl_primitive_attr_t attr;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t st = attributes(&attr, sum);
    if (st == dnnl_success) st = dnnl_reorder_primitive_desc_create(&pd, from, e, to, e, attr);
    if (st == dnnl_success) {
        const size_t need = dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
        if (need > *pad_bytes) *pad_bytes = need;
        st = dnnl_primitive_create(reorder, pd);
    }
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_attr_destroy(attr);
    return st;
}

static transport choose(dnn_role role, const dnnl_memory_desc_t *user, const dnnl_memory_desc_t *prim, int sums)
{
    dnnl_memory_desc_t narrow = *user;
    narrow.data_type = dnnl_bf16;
    const int add_outside = role == DNN_ADD && !sums;
    if (dnnl_memory_desc_equal(user, prim) && !add_outside) return DIRECT;
    return role == DNN_FACTOR && dnnl_memory_desc_equal(&narrow, prim) ? NARROW : REORDER;
}

static dnnl_status_t operand_new(dnn_plan *p, size_t *pad_bytes, dnnl_engine_t e, const dnn_recipe *r, int i,
                                 const dnnl_memory_desc_t *prim)
{
    const dnn_arg *a = &r->arg[i];
    operand *o = &p->op[i];
    dnnl_memory_desc_t user = a->user;
    o->role = a->role;
    o->elements = count(&user);
    o->wide = p->round && user.data_type == dnnl_bf16;
    if (o->wide) user.data_type = dnnl_f32;
    o->how = choose(a->role, &user, prim, r->sums);

    if (p->round && a->role == DNN_FACTOR) o->rounded_at = reserve(p, (size_t)o->elements * sizeof(float));
    if (o->how != DIRECT) o->prim_at = reserve(p, dnnl_memory_desc_get_size(prim));
    DNN_TRY(dnnl_memory_create(&o->prim, prim, e, DNNL_MEMORY_NONE));
    p->exec[i] = (dnnl_exec_arg_t){ a->id, o->prim };
    if (o->how != REORDER) return dnnl_success;

    DNN_TRY(dnnl_memory_create(&o->user, &user, e, DNNL_MEMORY_NONE));
    const int operand_in = a->role == DNN_FACTOR || a->role == DNN_PLAIN;
    return operand_in ? reorder_new(&o->reorder, pad_bytes, e, &user, prim, 0)
                      : reorder_new(&o->reorder, pad_bytes, e, prim, &user, a->role == DNN_ADD);
}

static dnnl_status_t describe(dnnl_primitive_desc_t *pd, dnnl_engine_t e, const dnn_recipe *r, dnnl_data_type_t factor)
{
    union {
        dnnl_matmul_desc_t matmul;
        dnnl_convolution_desc_t conv;
    } desc;
    dnnl_primitive_attr_t attr;
    dnnl_status_t st = attributes(&attr, r->sums);
    if (st == dnnl_success) st = r->describe(&desc, r->shape, factor);
    if (st == dnnl_success) st = dnnl_primitive_desc_create(pd, &desc, attr, e, NULL);
    dnnl_primitive_attr_destroy(attr);
    return st;
}

static dnnl_status_t fill(dnn_plan *p, dnnl_engine_t e, const dnn_recipe *r, dnnl_primitive_desc_t pd)
{
    const dnnl_memory_desc_t *pad_md = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    size_t pad_bytes = dnnl_memory_desc_get_size(pad_md);
    for (int i = 0; i < r->n_args; i++) {
        p->n_ops = i + 1;
        const dnnl_memory_desc_t *md = dnnl_primitive_desc_query_md(pd, dnnl_query_exec_arg_md, r->arg[i].id);
        if (!md) return dnnl_invalid_arguments;
        DNN_TRY(operand_new(p, &pad_bytes, e, r, i, md));
    }
    /* One pad serves the primitive and its reorders: they run one after the other. */
    p->pad_at = reserve(p, pad_bytes);
    DNN_TRY(dnnl_memory_create(&p->pad, pad_md, e, DNNL_MEMORY_NONE));
    p->exec[p->n_ops] = (dnnl_exec_arg_t){ DNNL_ARG_SCRATCHPAD, p->pad };
    return dnnl_primitive_create(&p->prim, pd);
}

static dnnl_status_t build(dnn_plan *p, dnnl_engine_t e, const dnn_recipe *r)
{
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t st = describe(&pd, e, r, r->math == TS_MATH_BF16 ? dnnl_bf16 : dnnl_f32);
    if (st == dnnl_unimplemented && r->math == TS_MATH_BF16) {
        p->round = 1;
        st = describe(&pd, e, r, dnnl_f32);
    }
    if (st == dnnl_success) st = fill(p, e, r, pd);
    dnnl_primitive_desc_destroy(pd);
    return st;
}

ts_status dnn_build(ts_stream *s, dnn_plan **out, const dnn_key *key, const dnn_recipe *r)
{
    if (!s->dnn) TS_TRY(cache_new(&s->dnn));
    dnn_plan *p = calloc(1, sizeof *p);
    if (!p || !grow(s->dnn)) {
        free(p);
        return ts_fail(TS_E_NOMEM, "%s: no memory for a oneDNN primitive", r->what);
    }
    p->key = *key;
    snprintf(p->what, sizeof p->what, "%s", r->what);

    /* A primitive is made for the number of threads that OpenMP would use at that moment. */
    const int threads = omp_get_max_threads();
    omp_set_num_threads(s->threads);
    dnnl_status_t st = build(p, s->dnn->engine, r);
    omp_set_num_threads(threads);
    if (st != dnnl_success) {
        plan_free(p);
        return refused(r->what, st);
    }
    s->dnn->slot[slot_of(s->dnn, key)] = p;
    s->dnn->used++;
    *out = p;
    return TS_OK;
}

size_t dnn_scratch(const dnn_plan *p)
{
    return p->bytes;
}

/* ---- running ---- */

static void round_all(float *to, const float *from, int64_t n, int threads)
{
#pragma omp parallel for simd num_threads(threads)
    for (int64_t i = 0; i < n; i++) to[i] = bf16_round(from[i]);
}

static void narrow_all(uint16_t *to, const float *from, int64_t n, int threads)
{
#pragma omp parallel for simd num_threads(threads)
    for (int64_t i = 0; i < n; i++) to[i] = bf16_narrow(from[i]);
}

static void widen_all(float *to, const uint16_t *from, int64_t n, int threads)
{
#pragma omp parallel for simd num_threads(threads)
    for (int64_t i = 0; i < n; i++) to[i] = bf16_widen(from[i]);
}

static dnnl_status_t move(const dnn_plan *p, const operand *o, dnnl_stream_t stream, int from, int to)
{
    const dnnl_exec_arg_t arg[] = { { from, o->user }, { to, o->prim }, { DNNL_ARG_SCRATCHPAD, p->pad } };
    return dnnl_primitive_execute(o->reorder, stream, 3, arg);
}

static dnnl_status_t bring(const dnn_plan *p, const operand *o, ts_stream *s, void *tensor, char *scratch, void *prim)
{
    if (p->round && o->role == DNN_FACTOR) {
        float *rounded = (float *)(scratch + o->rounded_at);
        if (o->wide) widen_all(rounded, tensor, o->elements, s->threads);
        else round_all(rounded, tensor, o->elements, s->threads);
        tensor = rounded;
    }
    if (o->how == DIRECT) prim = tensor;
    DNN_TRY(dnnl_memory_set_data_handle(o->prim, prim));
    if (o->how == NARROW) narrow_all(prim, tensor, o->elements, s->threads);
    if (o->how != REORDER) return dnnl_success;

    DNN_TRY(dnnl_memory_set_data_handle(o->user, tensor));
    if (o->role == DNN_SET || o->role == DNN_ADD) return dnnl_success; /* moved after the primitive */
    return move(p, o, s->dnn->stream, DNNL_ARG_FROM, DNNL_ARG_TO);
}

/* The first time: from p, as it stands in memory or a file, to copy. */
static dnnl_status_t make_copy(const dnn_plan *p, const operand *o, ts_stream *s, void *tensor, char *scratch, void *copy,
                               size_t numbers)
{
    const ts_stored *stored = packed_stored(s, tensor);
    float *plain = stored ? packed_expand(s, tensor, stored) : NULL;
    if (stored && !plain) return dnnl_out_of_memory;
    if (o->how == DIRECT) memcpy(copy, plain, numbers * sizeof *plain);
    const dnnl_status_t st = o->how == DIRECT ? dnnl_success
                                              : bring(p, o, s, plain ? plain : tensor, scratch, p->round ? scratch + o->prim_at : copy);
    if (o->how != DIRECT && p->round) narrow_all(copy, (const float *)(scratch + o->prim_at), (int64_t)numbers, s->threads);
    free(plain);
    packed_release(s, tensor);
    return st;
}

/* Weights that do not change are brought once; everything else, each time, to scratch. Where bfloat16 is but rounding, the copy is
 * bfloat16 still and is widened each time: that costs less than the product, and halves the memory. A weight that stands in a file
 * in the layout that the primitive wants, but as other numbers, is copied as well. */
static dnnl_status_t bring_weights(const dnn_plan *p, const operand *o, ts_stream *s, void *tensor, char *scratch)
{
    const dnnl_memory_desc_t *md;
    int is_new = 0;
    DNN_TRY(dnnl_memory_get_memory_desc(o->prim, &md));
    const int narrow = p->round && o->how != DIRECT;
    const size_t size = dnnl_memory_desc_get_size(md), numbers = size / sizeof(float);
    void *copy = packed_get(s, tensor, md, narrow ? size / 2 : size, narrow, &is_new);
    if (!copy && packed_stored(s, tensor)) return dnnl_out_of_memory;
    if (!copy) return bring(p, o, s, tensor, scratch, scratch + o->prim_at);
    const dnnl_status_t st = is_new ? make_copy(p, o, s, tensor, scratch, copy, numbers) : dnnl_success;
    if (st != dnnl_success) {
        packed_forget(s, copy);
        return st;
    }
    if (o->how == DIRECT) return bring(p, o, s, copy, scratch, NULL);
    if (narrow && !is_new) widen_all((float *)(scratch + o->prim_at), copy, (int64_t)numbers, s->threads);
    return dnnl_memory_set_data_handle(o->prim, narrow ? scratch + o->prim_at : copy);
}

static int is_kept(const dnn_plan *p, int i, const ts_stream *s, const void *tensor)
{
    if (p->exec[i].arg != DNNL_ARG_WEIGHTS || !packed_constant(s, tensor)) return 0;
    return p->op[i].how != DIRECT || packed_stored(s, tensor);
}

static dnnl_status_t run(dnn_plan *p, ts_stream *s, void *const *tensors, char *scratch)
{
    DNN_TRY(dnnl_memory_set_data_handle(p->pad, scratch + p->pad_at));
    for (int i = 0; i < p->n_ops; i++) {
        const operand *o = &p->op[i];
        DNN_TRY(is_kept(p, i, s, tensors[i]) ? bring_weights(p, o, s, tensors[i], scratch)
                                             : bring(p, o, s, tensors[i], scratch, scratch + o->prim_at));
    }
    DNN_TRY(dnnl_primitive_execute(p->prim, s->dnn->stream, p->n_ops + 1, p->exec));
    for (int i = 0; i < p->n_ops; i++)
        if (p->op[i].reorder && (p->op[i].role == DNN_SET || p->op[i].role == DNN_ADD))
            DNN_TRY(move(p, &p->op[i], s->dnn->stream, DNNL_ARG_TO, DNNL_ARG_FROM));
    return dnnl_stream_wait(s->dnn->stream);
}

ts_status dnn_run(ts_stream *s, dnn_plan *p, void *const *tensors, void *scratch)
{
    /* oneDNN asks OpenMP for the number of threads, so the stream's number has to be OpenMP's meanwhile. */
    const int threads = omp_get_max_threads();
    omp_set_num_threads(s->threads);
    const dnnl_status_t st = run(p, s, tensors, scratch);
    omp_set_num_threads(threads);
    return st == dnnl_success ? TS_OK : refused(p->what, st);
}
