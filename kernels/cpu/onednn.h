/* onednn.h - oneDNN primitives of a stream, built once per shape and kept until the stream is freed.
 *
 * A plan is one primitive with everything around it: its operands arrive as plain tensors, are brought into the
 * layout and type that the primitive wants (in scratch), and its results are brought back. An op describes a plan only
 * when its shape is seen for the first time:
 *
 *     const dnn_key key = { { DNN_LINEAR_DX, l->math, l->N, l->I, l->O } };
 *     dnn_plan *p = dnn_find(s, &key);
 *     if (!p) TS_TRY(dnn_build(s, &p, &key, &recipe));
 *     return dnn_run(s, p, (void *[]){ dy, w, dx }, scratch);
 */
#ifndef TS_CPU_ONEDNN_H
#define TS_CPU_ONEDNN_H

#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_version.h>

#include "tessera/types.h"

#if DNNL_VERSION_MAJOR != 2
#error "tessera needs oneDNN 2.x (Debian's libdnnl-dev): the C interface of other major versions differs"
#endif

struct dnn_cache;
typedef struct dnn_plan dnn_plan;

enum { DNN_MAX_ARGS = 4, DNN_KEY_WORDS = 13 };

typedef enum { DNN_LINEAR_DX = 1, DNN_LINEAR_DW, DNN_CONV_FWD, DNN_CONV_DX, DNN_CONV_DW } dnn_pass;

/* The pass, the math and every extent that the primitive depends on; unused words are 0. */
typedef struct {
    int64_t v[DNN_KEY_WORDS];
} dnn_key;

typedef enum {
    DNN_FACTOR, /* operand of the product: rounded to bfloat16 under TS_MATH_BF16 */
    DNN_PLAIN,  /* operand that stays float32 (bias)                              */
    DNN_SET,    /* result, written over                                           */
    DNN_ADD     /* result, added to what is there                                 */
} dnn_role;

/* One tensor of a plan. */
typedef struct {
    int id; /* DNNL_ARG_... */
    dnn_role role;
    dnnl_memory_desc_t user; /* dense float32, as the caller of the op has it; a factor under TS_MATH_BF16 may be bfloat16 */
} dnn_arg;

/* What dnn_build needs. describe fills the operation descriptor (say, a dnnl_matmul_desc_t) of `shape`, with `factor`
 * as the type of the factors: float32 or, where the machine has such a primitive and math asks for it, bfloat16. */
typedef struct {
    const char *what; /* the op and its shape, for messages */
    ts_math math;
    dnnl_status_t (*describe)(void *desc, const void *shape, dnnl_data_type_t factor);
    const void *shape;
    int sums; /* the primitive itself can add to its result (post-op sum), if that has the caller's layout */
    int n_args;
    dnn_arg arg[DNN_MAX_ARGS]; /* in the order in which dnn_run takes the pointers */
} dnn_recipe;

/* NULL if the stream has no such plan yet. */
dnn_plan *dnn_find(ts_stream *s, const dnn_key *key);

/* Build a plan and keep it in the stream. */
ts_status dnn_build(ts_stream *s, dnn_plan **p, const dnn_key *key, const dnn_recipe *r);

/* Bytes of scratch that dnn_run needs. */
size_t dnn_scratch(const dnn_plan *p);

ts_status dnn_run(ts_stream *s, dnn_plan *p, void *const *tensors, void *scratch);

void dnn_cache_free(struct dnn_cache *c); /* accepts NULL */

#endif
