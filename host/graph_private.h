/* graph_private.h - what the files of the tape share: nodes, and how gradients find their place. */
#ifndef TS_GRAPH_PRIVATE_H
#define TS_GRAPH_PRIVATE_H

#include "host/graph.h"

enum { TG_IN = 8, TG_SAVED = 3 };

/* One recorded op: what its backward needs. */
typedef struct tg_node {
    void (*backward)(ts_graph *g, struct tg_node *n);
    ts_tensor *in[TG_IN];
    ts_tensor *out, *out2;
    ts_block *saved[TG_SAVED]; /* references, dropped after the backward */
    int64_t a, b;
    float f;
    ts_act act;
    union {
        ts_linear linear;
        ts_conv2d conv;
        ts_group_norm group;
        ts_ada_norm ada;
        ts_attention attention;
        ts_resample resample;
        ts_fsq fsq;
        ts_fsq_project project;
        ts_residual_fsq rfsq;
        ts_residual_vq rvq;
    } u;
    ts_phi phi, dphi;
} tg_node;

struct ts_graph {
    ts_device *d;
    ts_pool *pool; /* the device's, or own */
    ts_pool own;
    int training;
    int exact;
    ts_status status;
    ts_tensor **chunks; /* tensors, TG_CHUNK to a chunk: their addresses do not change */
    size_t n_chunks, n_tensors;
    tg_node *nodes;
    size_t n_nodes, room;
};

/* Returns NULL from the calling function unless all is well so far and the tensors are there, whole and contiguous. WHOLE: they may
 * also be bfloat16. */
#define TG_READY(g, ...) TG_CHECK_ALL(tg_ready, g, __VA_ARGS__)
#define TG_WHOLE(g, ...) TG_CHECK_ALL(tg_whole, g, __VA_ARGS__)
#define TG_CHECK_ALL(check, g, ...)                                            \
    do {                                                                       \
        const ts_tensor *const need_[] = { __VA_ARGS__ };                      \
        if (!check(g, need_, (int)(sizeof need_ / sizeof *need_))) return NULL; \
    } while (0)
int tg_ready(ts_graph *g, const ts_tensor *const *need, int n);
int tg_whole(ts_graph *g, const ts_tensor *const *need, int n);
int tg_present(ts_graph *g, const ts_tensor *const *need, int n); /* the same for an op that reads chunks */

/* A shape that does not fit: one line with the op's name and what was expected; always returns NULL. */
ts_tensor *tg_mismatch(ts_graph *g, const char *op, const char *expected, const ts_tensor *found);

ts_tensor *tg_new(ts_graph *g, ts_dtype dtype, int rank, const int64_t *dim); /* with memory */
ts_tensor *tg_like(ts_graph *g, const ts_tensor *x);
ts_tensor *tg_factor(ts_graph *g, const ts_tensor *like); /* of tg_factor_dtype */
ts_math tg_math(const ts_graph *g); /* how an op that is called now multiplies */
ts_block *tg_scratch(ts_graph *g, size_t bytes); /* at least one byte; NULL makes the failure stick */
int tg_check(ts_graph *g, ts_status st);         /* st sticks if it is a failure; 1 if it is TS_OK */
/* Drop the inputs that were handed over with tg_move (inference). */
void tg_consume(ts_graph *g, ts_tensor *const *in, int n);

/* Record a node for `out` if the inputs need gradients; NULL if nothing is to be recorded. in: TG_IN at most, NULLs allowed. */
tg_node *tg_record(ts_graph *g, void (*backward)(ts_graph *, tg_node *), ts_tensor *out, ts_tensor *const *in, int n);

/* Gradients, in a backward. set: where to write with "="; NULL if t takes none. tg_grad_done must follow with the same temp.
 * add: where to add to with "+="; NULL if t takes none. alias: t's gradient is (also) this whole block. */
float *tg_grad_set(ts_graph *g, ts_tensor *t, ts_block **temp);
void tg_grad_done(ts_graph *g, ts_tensor *t, ts_block *temp);
float *tg_grad_add(ts_graph *g, ts_tensor *t);
void tg_grad_alias(ts_graph *g, ts_tensor *t, ts_block *block);

#define TG_BE(g) ((g)->d->be)
#define TG_S(g) ((g)->d->s)
#define TG_F(t) ((t) ? (float *)(t)->data : NULL)
#define TG_I(t) ((t) ? (int32_t *)(t)->data : NULL)

#endif
