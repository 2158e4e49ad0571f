/* graph.h - tensors and the tape: the only thing models see.
 *
 * A model is forward code: tg_conv2d(g, x, w, b, ...) checks shapes, takes memory, calls the backend and, in training, records
 * its backward. Errors stick: after the first one every call returns NULL and does nothing; ts_graph_status() says what it was.
 *
 * Memory. In training everything lives until its backward has run. In inference a tensor lives until the scope that made it is
 * left (tg_leave), or until the op that reads tg_move(x) has run:
 *     size_t scope = tg_enter(g);
 *     ts_tensor *h = tg_group_norm(g, x, ...);
 *     h = tg_conv2d(g, tg_move(h), ...);                  // the norm's output is freed (or reused) here
 *     return tg_leave(g, scope, tg_add(g, x, tg_move(h))); // everything made since tg_enter but the result is freed
 *
 * Shapes are channels last: pictures (B,Y,X,C), tokens (B,T,C).
 */
#ifndef TS_GRAPH_H
#define TS_GRAPH_H

#include "host/device.h"

enum { TS_MAX_RANK = 4 };

typedef struct ts_tensor {
    int rank;
    int64_t dim[TS_MAX_RANK];
    ts_dtype dtype;
    void *data;              /* device pointer                                                              */
    float *grad;             /* device pointer; NULL until something has flowed back                        */
    int64_t stride;          /* floats between rows of dim[0]; 0 means contiguous. Only tg_chunk sets it    */
    ts_block *memory, *grad_memory; /* owned references; NULL for parameters and views                      */
    struct ts_tensor *base;  /* a view's data and gradient lie in its base                                  */
    int64_t offset;          /* of a view in its base, in elements                                          */
    int needs_grad, moved, dropped;
} ts_tensor;

typedef struct ts_graph ts_graph;

ts_status ts_graph_new(ts_graph **g, ts_device *d, int training);
void ts_graph_free(ts_graph *g); /* NULL is fine */
/* Memory that this graph has used is from now on used by it alone, until it is freed. Before the first tensor. */
void ts_graph_own_memory(ts_graph *g);
void ts_graph_reset(ts_graph *g); /* forget all tensors and nodes, clear the status; memory goes back to the device */
ts_status ts_graph_status(const ts_graph *g);
ts_device *ts_graph_device(const ts_graph *g);
int ts_graph_training(const ts_graph *g);
ts_status ts_graph_fail(ts_graph *g, ts_status st); /* make st stick */

/* Run the backward of everything recorded, last first. Gradients of parameters are added to. */
ts_status ts_graph_backward(ts_graph *g);

/* Host <-> device. bytes follow from shape and dtype. download waits for the device. */
ts_tensor *tg_upload(ts_graph *g, const void *host, ts_dtype dtype, int rank, const int64_t *dim);
ts_status tg_download(ts_graph *g, void *host, const ts_tensor *t);
ts_status tg_refill(ts_graph *g, ts_tensor *t, const void *host); /* new content for t, as upload brings it */
/* Elements [at, at + count of x) of `into` become those of x, on the device. Inference only. */
void tg_place(ts_graph *g, ts_tensor *into, int64_t at, const ts_tensor *x);
/* What tensors that only products or attention read are made of: TS_BF16 if this graph's products round and nothing flows back. Norms,
 * activations and attention make theirs so. */
ts_dtype tg_factor_dtype(const ts_graph *g);
ts_tensor *tg_empty(ts_graph *g, ts_dtype dtype, int rank, const int64_t *dim);
ts_tensor *tg_zeros(ts_graph *g, ts_dtype dtype, int rank, const int64_t *dim);
int64_t ts_tensor_count(const ts_tensor *t);
/* How much the tape's checks may be trusted with shapes: `dims` is shorthand for a compound literal. */
#define TG_DIMS(...) ((int64_t[]){ __VA_ARGS__ })

size_t tg_enter(ts_graph *g);
ts_tensor *tg_leave(ts_graph *g, size_t scope, ts_tensor *keep);
ts_tensor *tg_move(ts_tensor *t);
void tg_drop(ts_graph *g, ts_tensor *t); /* t, which may be NULL, is not needed any more. Inference only */
/* What follows wants blocks of other sizes, so spare ones go back to the system. Nothing in training, and where work is recorded
 * (backend.h), which counts on the same blocks. */
void tg_trim(ts_graph *g);

/* Will a convolution of so many multiplications for each picture be prepared for (ts_conv2d.recurs)? In training, if it is large. */
int tg_prepares(const ts_graph *g, int64_t multiplications);

/* Views: no copy. */
ts_tensor *tg_reshape(ts_graph *g, ts_tensor *x, int rank, const int64_t *dim);
/* Columns [i*C, (i+1)*C) of x (B, n*C): what an AdaLN chunk is. */
ts_tensor *tg_chunk(ts_graph *g, ts_tensor *x, int i, int n);
/* Rows [first, first+n) of x, seen as rows of its last dimension: (n, C). Inference only. */
ts_tensor *tg_rows(ts_graph *g, ts_tensor *x, int64_t first, int64_t n);
/* x twice, one after the other along dim[0]: (2B,...). Inference only. */
ts_tensor *tg_twice(ts_graph *g, ts_tensor *x);

/* While on, products multiply in float32 whatever the device does, and what they read stays float32. Returns what was on before. */
int tg_exact(ts_graph *g, int on);

/* --- ops; b may be NULL --- */
ts_tensor *tg_linear(ts_graph *g, ts_tensor *x, ts_tensor *w, ts_tensor *b); /* (...,I) x (O,I) -> (...,O) */
ts_tensor *tg_linear_act(ts_graph *g, ts_tensor *x, ts_tensor *w, ts_tensor *b, ts_act act); /* then the activation, at once if it can be */
ts_tensor *tg_conv2d(ts_graph *g, ts_tensor *x, ts_tensor *w, ts_tensor *b, int stride, int pad_lo, int pad_hi);
ts_tensor *tg_group_norm(ts_graph *g, ts_tensor *x, ts_tensor *gamma, ts_tensor *beta, int groups, float eps, int silu);
ts_tensor *tg_act(ts_graph *g, ts_tensor *x, ts_act act);
ts_tensor *tg_add(ts_graph *g, ts_tensor *a, ts_tensor *b);
/* y[r] = a[r] + rows[r mod R]: rows (R,N), a has a multiple of R*N elements */
ts_tensor *tg_add_rows(ts_graph *g, ts_tensor *a, ts_tensor *rows);
/* y[b,:] = a[b,:] * factor[b]; factor is a constant (B) */
ts_tensor *tg_scale_rows(ts_graph *g, ts_tensor *a, ts_tensor *factor);
ts_tensor *tg_nearest2x(ts_graph *g, ts_tensor *x);
ts_tensor *tg_area(ts_graph *g, ts_tensor *x, int64_t rows, int64_t columns);
ts_tensor *tg_embedding(ts_graph *g, ts_tensor *table, ts_tensor *idx); /* (V,C), idx (N) or (B,T) -> (...,C) */
/* Tokens of all pictures joined along T: a (B,Ta,C), b (B,Tb,C) -> (B,Ta+Tb,C). */
ts_tensor *tg_concat_tokens(ts_graph *g, ts_tensor *a, ts_tensor *b);
/* Residual, gate, norm, modulate (op_ada_norm.h). *x is replaced by the new residual stream; h and gate may be NULL. */
ts_tensor *tg_ada_norm(ts_graph *g, ts_tensor **x, ts_tensor *h, ts_tensor *gate, ts_tensor *scale, ts_tensor *shift,
                       float eps);
/* qkv (B,T,3C), H heads; end (T) i32 or NULL -> (B,T,C) */
ts_tensor *tg_attention(ts_graph *g, ts_tensor *qkv, ts_tensor *scale_mul, ts_tensor *end, int64_t H, float scale);
/* caches (B,T_max,C): inference only */
ts_tensor *tg_attention_cached(ts_graph *g, ts_tensor *qkv, ts_tensor *scale_mul, ts_tensor *cache_k,
                               ts_tensor *cache_v, int64_t pos, int64_t H, float scale);

/* --- quantizers: idx (B,T) i32 is handed out beside f_hat; partial (K,B,h,w,D as one rank-1 tensor) and stats on demand --- */
typedef struct {
    ts_tensor *f_hat;   /* (B,h,w,D)                                            */
    ts_tensor *idx;     /* (B,T) i32                                            */
    ts_tensor *partial; /* (K*B,h,w,D), NULL unless asked for                   */
    ts_tensor *stats;   /* residual_fsq (K,2), residual_vq (K), else NULL       */
    ts_tensor *z;       /* residual_vq (B,T,D), NULL unless asked for           */
} ts_quantized;

ts_quantized tg_fsq(ts_graph *g, ts_tensor *z, const ts_fsq *q);
ts_quantized tg_residual_fsq(ts_graph *g, ts_tensor *f, ts_tensor *log_gain, ts_tensor *const *phi_w,
                             ts_tensor *const *phi_b, const ts_residual_fsq *q, float aux_weight, int want_partial);
ts_quantized tg_residual_vq(ts_graph *g, ts_tensor *f, ts_tensor *codebook, ts_tensor *const *phi_w,
                            ts_tensor *const *phi_b, const ts_residual_vq *q, float loss_weight, int want_partial,
                            int want_z);
/* The same with a 1x1 convolution before and behind it (op_fsq_project.h): x (B,h,w,C), w_in (D,1,1,C), w_out (O,1,1,D) -> f_hat
 * (B,h,w,O); and from indices. ts_fsq_project_fits says which widths it takes. */
typedef struct {
    ts_tensor *w_in, *b_in, *w_out, *b_out;
} tg_fsq_weights;
ts_quantized tg_fsq_project(ts_graph *g, ts_tensor *x, const tg_fsq_weights *w, const ts_fsq *q);
ts_tensor *tg_fsq_project_decode(ts_graph *g, ts_tensor *idx, const tg_fsq_weights *w, const ts_fsq *q);
ts_tensor *tg_fsq_decode(ts_graph *g, ts_tensor *idx, const ts_fsq *q);
ts_tensor *tg_residual_fsq_lookup(ts_graph *g, ts_tensor *idx, ts_tensor *log_gain, const ts_residual_fsq *q, int k);
/* f_hat += phi_k(bicubic(code)), in place; returns area(f_hat -> p_{k+1}) as tokens (B,p*p,D), NULL after the last scale.
 * Inference only. */
ts_tensor *tg_pyramid_add(ts_graph *g, ts_tensor *f_hat, ts_tensor *code, ts_tensor *const *phi_w,
                          ts_tensor *const *phi_b, const ts_pyramid *p, int k);

/* --- losses: the end of the tape. Values stay on the device; in training the gradient is computed at once, so it is scaled by
 * the weights given here. --- */
/* w1*L1 + w2*L2 means; returns sums (2) */
ts_tensor *tg_pixel_loss(ts_graph *g, ts_tensor *x, ts_tensor *target, float w1, float w2);
/* mean over rows, times weight; returns the loss of each row (N) */
ts_tensor *tg_cross_entropy(ts_graph *g, ts_tensor *logits, ts_tensor *target, float weight);
/* u (B,T,M), code (B,T), scale_of (T); returns the loss of each digit (B*T,D); the mean is over tokens */
ts_tensor *tg_digit_head(ts_graph *g, ts_tensor *u, ts_tensor *b, ts_tensor *E, ts_tensor *W, ts_tensor *c,
                         ts_tensor *code, ts_tensor *scale_of, const ts_digit_head *d, float weight);

/* --- sampling: idx (B,t) i32; smooth: code (B,t,D) f32 --- */
ts_tensor *tg_sample(ts_graph *g, ts_tensor *logits, const ts_sample *a);
ts_tensor *tg_sample_smooth(ts_graph *g, ts_tensor *logits, ts_tensor *codebook, const ts_sample *a, float sharpen, float tau);
ts_tensor *tg_sample_digits(ts_graph *g, ts_tensor *u, ts_tensor *b, ts_tensor *E, ts_tensor *W, ts_tensor *c,
                            const ts_digit_head *d, int k, const ts_sample *a);

#endif
