/* transformer.c - contract and formulas: transformer.h. */
#include "models/transformer.h"

#include <math.h>
#include <stdio.h>

enum { GATE_1, GATE_2, SCALE_1, SCALE_2, SHIFT_1, SHIFT_2, CHUNKS };

typedef struct {
    char text[64];
} path;

static path in_block(int i, const char *name)
{
    path r;
    snprintf(r.text, sizeof r.text, "blocks.%d.%s", i, name);
    return r;
}

linear linear_declare(ts_params *p, int64_t I, int64_t O, float std, const char *name)
{
    linear l;
    l.w = ts_params_add(p, ts_init_all(TS_INIT_NORMAL, std), TS_PARAM_DECAY | TS_PARAM_PRODUCT, 2, TG_DIMS(O, I), "%s.weight", name);
    l.b = ts_params_add(p, ts_init_all(TS_INIT_CONST, 0), 0, 1, TG_DIMS(O), "%s.bias", name);
    return l;
}

/* Modulation weights start small, the gates' near zero; the gates' biases start at one, as in a plain pre-norm block. */
static linear ada_declare(ts_params *p, int64_t C, float std, const char *name)
{
    linear l;
    ts_init w = { TS_INIT_NORMAL, std / 2, std * 1e-3f, 2 * C * C }, b = { TS_INIT_CONST, 0, 1, 2 * C };
    l.w = ts_params_add(p, w, TS_PARAM_DECAY | TS_PARAM_PRODUCT, 2, TG_DIMS(CHUNKS * C, C), "%s.weight", name);
    l.b = ts_params_add(p, b, 0, 1, TG_DIMS(CHUNKS * C), "%s.bias", name);
    return l;
}

static void block_declare(transformer_block *b, ts_params *p, const ts_generator_config *c, int i, float std)
{
    int64_t C = c->embed_dim, hidden = (int64_t)lrintf((float)C * c->mlp_ratio);
    ts_init zero = ts_init_all(TS_INIT_CONST, 0);
    float deep = std / sqrtf(2 * (float)c->depth);
    if (c->shared_aln) {
        float unit = 1 / sqrtf((float)C);
        ts_init gss = { TS_INIT_NORMAL, unit / 2, unit * 1e-3f, 2 * C };
        b->ada_gss = ts_params_add(p, gss, 0, 4, TG_DIMS(1, 1, CHUNKS, C), "blocks.%d.ada_gss", i);
    } else {
        b->ada_lin = ada_declare(p, C, std, in_block(i, "ada_lin.1").text);
    }
    b->mat_qkv = ts_params_add(p, ts_init_all(TS_INIT_NORMAL, std), TS_PARAM_DECAY | TS_PARAM_PRODUCT, 2, TG_DIMS(3 * C, C),
                               "blocks.%d.attn.mat_qkv.weight", i);
    const ts_tensor *q_bias = ts_params_add(p, zero, 0, 1, TG_DIMS(C), "blocks.%d.attn.q_bias", i);
    ts_params_add(p, zero, TS_PARAM_FROZEN, 1, TG_DIMS(C), "blocks.%d.attn.zero_k_bias", i);
    ts_params_add(p, zero, 0, 1, TG_DIMS(C), "blocks.%d.attn.v_bias", i);
    b->qkv_bias = ts_params_span(p, q_bias, 3 * C);
    if (c->attn_l2_norm)
        b->scale_mul = ts_params_add(p, ts_init_all(TS_INIT_CONST, logf(4)), 0, 4, TG_DIMS(1, c->num_heads, 1, 1),
                                     "blocks.%d.attn.scale_mul_1H11", i);
    b->proj = linear_declare(p, C, C, deep, in_block(i, "attn.proj").text);
    b->fc1 = linear_declare(p, C, hidden, std, in_block(i, "ffn.fc1").text);
    b->fc2 = linear_declare(p, hidden, C, deep, in_block(i, "ffn.fc2").text);
}

void transformer_declare(transformer *m, ts_params *p, const ts_generator_config *c)
{
    float std = sqrtf(1 / (3 * (float)c->embed_dim));
    *m = (transformer){ .depth = c->depth, .H = c->num_heads, .C = c->embed_dim, .eps = c->norm_eps };
    m->scale = c->attn_l2_norm ? 1 : 0.25f / sqrtf((float)(c->embed_dim / c->num_heads));
    if (c->shared_aln) m->shared_ada_lin = ada_declare(p, m->C, std, "shared_ada_lin.1");
    for (int i = 0; i < c->depth; i++) block_declare(&m->block[i], p, c, i, std);
    m->head_ada_lin = linear_declare(p, m->C, 2 * m->C, std / 2, "head_nm.ada_lin.1");
}

void transformer_modulate(ts_graph *g, const transformer *m, ts_tensor *cond, modulation *out)
{
    ts_tensor *s = tg_act(g, cond, TS_SILU), *shared = NULL;
    if (m->shared_ada_lin.w) shared = tg_linear(g, s, m->shared_ada_lin.w, m->shared_ada_lin.b);
    for (int i = 0; i < m->depth; i++) {
        const transformer_block *b = &m->block[i];
        if (!shared) {
            out->block_B6C[i] = tg_linear(g, s, b->ada_lin.w, b->ada_lin.b);
            continue;
        }
        ts_tensor *gss = tg_reshape(g, b->ada_gss, 2, TG_DIMS(1, CHUNKS * m->C));
        out->block_B6C[i] = tg_add_rows(g, shared, gss);
    }
    out->head_B2C = tg_linear(g, s, m->head_ada_lin.w, m->head_ada_lin.b);
}

void transformer_cache(ts_graph *g, const transformer *m, int64_t B, int64_t T_max, kv_cache *out)
{
    out->pos = 0;
    for (int i = 0; i < m->depth; i++) {
        out->k[i] = tg_empty(g, tg_factor_dtype(g), 3, TG_DIMS(B, T_max, m->C));
        out->v[i] = tg_empty(g, tg_factor_dtype(g), 3, TG_DIMS(B, T_max, m->C));
    }
}

static ts_tensor *attention(ts_graph *g, const transformer *m, int i, ts_tensor *h, ts_tensor *end, kv_cache *cache)
{
    const transformer_block *b = &m->block[i];
    ts_tensor *qkv = tg_linear(g, tg_move(h), b->mat_qkv, b->qkv_bias);
    if (cache) h = tg_attention_cached(g, tg_move(qkv), b->scale_mul, cache->k[i], cache->v[i], cache->pos, m->H, m->scale);
    else h = tg_attention(g, tg_move(qkv), b->scale_mul, end, m->H, m->scale);
    return tg_linear(g, tg_move(h), b->proj.w, b->proj.b);
}

static ts_tensor *mlp(ts_graph *g, const transformer_block *b, ts_tensor *h)
{
    h = tg_linear_act(g, tg_move(h), b->fc1.w, b->fc1.b, TS_GELU_TANH);
    return tg_linear(g, tg_move(h), b->fc2.w, b->fc2.b);
}

/* Drop-path: sub-layer j of picture b is multiplied by keep[j*B + b], 0 or 1/(1-rate). */
static ts_tensor *drop_path(ts_graph *g, ts_tensor *h, const float *keep, int j)
{
    if (!keep || !h) return h;
    ts_tensor *factor = tg_upload(g, keep + j * h->dim[0], TS_F32, 1, h->dim);
    return tg_scale_rows(g, h, factor);
}

ts_tensor *transformer_forward(ts_graph *g, const transformer *m, ts_tensor *x, const modulation *mod, ts_tensor *end,
                               const float *keep, kv_cache *cache)
{
    ts_tensor *h = NULL, *gate = NULL;
    int64_t T = x ? x->dim[1] : 0;
    for (int i = 0; i < m->depth; i++) {
        ts_tensor *a = mod->block_B6C[i];
        h = tg_ada_norm(g, &x, tg_move(h), gate, tg_chunk(g, a, SCALE_1, CHUNKS), tg_chunk(g, a, SHIFT_1, CHUNKS), m->eps);
        h = drop_path(g, attention(g, m, i, h, end, cache), keep, 2 * i);
        gate = tg_chunk(g, a, GATE_1, CHUNKS);
        h = tg_ada_norm(g, &x, tg_move(h), gate, tg_chunk(g, a, SCALE_2, CHUNKS), tg_chunk(g, a, SHIFT_2, CHUNKS), m->eps);
        h = drop_path(g, mlp(g, &m->block[i], h), keep, 2 * i + 1);
        gate = tg_chunk(g, a, GATE_2, CHUNKS);
    }
    if (cache) cache->pos += T;
    ts_tensor *a = mod->head_B2C;
    return tg_ada_norm(g, &x, tg_move(h), gate, tg_chunk(g, a, 0, 2), tg_chunk(g, a, 1, 2), m->eps);
}
