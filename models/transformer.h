/* transformer.h - GPT-2-like pre-norm blocks with adaptive LayerNorm, conditioned on one vector per picture.
 *
 *   (g1, g2, sc1, sc2, sh1, sh2) = Linear(SiLU(s)), in this order       shared_aln: ada_gss + one shared Linear(SiLU(s))
 *   x += g1 * attn(LN(x)*(1 + sc1) + sh1);   x += g2 * mlp(LN(x)*(1 + sc2) + sh2);   mlp = fc2(gelu_tanh(fc1(.)))
 *   attention: one qkv matrix, biases for q and v only; l2 norm or a fixed scale (op_attention.h)
 *   head norm: LN(x)*(1 + sc) + sh, (sc, sh) = Linear(SiLU(s))
 * Source: arXiv:2404.02905, the published VAR transformer.
 *
 * A sequence is a list of segments; tokens of one segment are predicted together and see their own and all earlier segments. The
 * transformer knows them only as `end`: the token behind the segment of token t.
 *
 * Easy to get wrong: gains come first in the six chunks, then scales, then shifts; in the head scale comes before shift; the
 * residual of a sub-layer is added inside the next norm (op_ada_norm.h).
 */
#ifndef TS_TRANSFORMER_H
#define TS_TRANSFORMER_H

#include "host/params.h"
#include "models/config.h"

enum { TS_MAX_DEPTH = 128 };

typedef struct {
    ts_tensor *w, *b;
} linear;

typedef struct {
    linear ada_lin;                   /* (6C,C); w is NULL with shared_aln  */
    ts_tensor *ada_gss;               /* (1,1,6,C), shared_aln only         */
    ts_tensor *mat_qkv, *qkv_bias;    /* (3C,C), (3C): q_bias, zeros, v_bias */
    ts_tensor *scale_mul;             /* (1,H,1,1); NULL without l2 norm    */
    linear proj, fc1, fc2;
} transformer_block;

typedef struct {
    int depth, H;
    int64_t C;
    float eps, scale, drop_path; /* drop_path: rate at the last block, growing linearly from 0 */
    transformer_block block[TS_MAX_DEPTH];
    linear shared_ada_lin, head_ada_lin;
} transformer;

void transformer_declare(transformer *m, ts_params *p, const ts_generator_config *c);

/* The modulations of one batch, computed once per picture. */
typedef struct {
    ts_tensor *block_B6C[TS_MAX_DEPTH], *head_B2C;
} modulation;

void transformer_modulate(ts_graph *g, const transformer *m, ts_tensor *cond_BC, modulation *out);

/* Keys and values of the tokens so far, (B,T_max,C) per block. */
typedef struct {
    ts_tensor *k[TS_MAX_DEPTH], *v[TS_MAX_DEPTH];
    int64_t pos;
} kv_cache;

void transformer_cache(ts_graph *g, const transformer *m, int64_t B, int64_t T_max, kv_cache *out);

/* x_BTC -> normalised output of the last block, y_BTC. Training: end (T) i32 masks, cache is NULL; keep (2*depth rows of B factors,
 * host) is drop-path's choice per sub-layer and picture, or NULL. Decoding: cache is given and grows by T. */
ts_tensor *transformer_forward(ts_graph *g, const transformer *m, ts_tensor *x_BTC, const modulation *mod, ts_tensor *end,
                               const float *keep, kv_cache *cache);

linear linear_declare(ts_params *p, int64_t I, int64_t O, float std, const char *name);

#endif
