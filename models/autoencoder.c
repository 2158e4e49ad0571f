/* autoencoder.c - contract and formulas: autoencoder.h. */
#include "models/autoencoder.h"

#include <math.h>
#include <string.h>

/* --- declarations: names and shapes of the published checkpoint --- */

static conv declare(ts_params *p, int C, int O, int k, int flags, const char *name)
{
    ts_init fan_in = ts_init_all(TS_INIT_UNIFORM, 1 / sqrtf((float)(C * k * k)));
    conv c = { .k = k };
    c.w = ts_params_add(p, fan_in, TS_PARAM_CONV | TS_PARAM_DECAY | flags, 4, TG_DIMS(O, C, k, k), "%s.weight", name);
    c.b = ts_params_add(p, fan_in, 0, 1, TG_DIMS(O), "%s.bias", name);
    return c;
}

conv conv_declare(ts_params *p, int C, int O, int k, const char *name)
{
    return declare(p, C, O, k, TS_PARAM_PRODUCT, name);
}

conv conv_declare_read(ts_params *p, int C, int O, int k, const char *name)
{
    return declare(p, C, O, k, 0, name);
}

static norm norm_declare(ts_params *p, int C, int groups, const char *name)
{
    norm n = { .groups = groups };
    n.gamma = ts_params_add(p, ts_init_all(TS_INIT_CONST, 1), 0, 1, TG_DIMS(C), "%s.weight", name);
    n.beta = ts_params_add(p, ts_init_all(TS_INIT_CONST, 0), 0, 1, TG_DIMS(C), "%s.bias", name);
    return n;
}

typedef struct {
    char text[96];
} path;

static path under(const char *parent, const char *child)
{
    path r;
    if (snprintf(r.text, sizeof r.text, "%s.%s", parent, child) >= (int)sizeof r.text) r.text[0] = '\0';
    return r;
}

static path item(const char *parent, const char *list, int i)
{
    path r;
    if (snprintf(r.text, sizeof r.text, "%s.%s.%d", parent, list, i) >= (int)sizeof r.text) r.text[0] = '\0';
    return r;
}

static res_block res_declare(ts_params *p, int C, int O, int groups, const char *name)
{
    res_block r = { .norm1 = norm_declare(p, C, groups, under(name, "norm1").text) };
    r.conv1 = conv_declare(p, C, O, 3, under(name, "conv1").text);
    r.norm2 = norm_declare(p, O, groups, under(name, "norm2").text);
    r.conv2 = conv_declare(p, O, O, 3, under(name, "conv2").text);
    if (C != O) r.shortcut = conv_declare(p, C, O, 1, under(name, "nin_shortcut").text);
    return r;
}

static attn_block attn_declare(ts_params *p, int C, int groups, const char *name)
{
    attn_block a = { .norm = norm_declare(p, C, groups, under(name, "norm").text) };
    a.qkv = conv_declare(p, C, 3 * C, 1, under(name, "qkv").text);
    a.proj_out = conv_declare(p, C, C, 1, under(name, "proj_out").text);
    return a;
}

static void mid_declare(autoencoder_half *m, ts_params *p, int C, const ts_tokenizer_config *c, const char *root)
{
    m->mid_1 = res_declare(p, C, C, c->norm_groups, under(root, "mid.block_1").text);
    if (c->attention) m->mid_attn = attn_declare(p, C, c->norm_groups, under(root, "mid.attn_1").text);
    m->mid_2 = res_declare(p, C, C, c->norm_groups, under(root, "mid.block_2").text);
}

/* The blocks of one level; returns the width behind it. */
static int level_declare(level *l, ts_params *p, int C, int i, int n_blocks, const ts_tokenizer_config *c, const char *name)
{
    int O = c->ch * c->ch_mult[i];
    l->n_blocks = n_blocks;
    for (int j = 0; j < n_blocks; j++) {
        l->block[j] = res_declare(p, C, O, c->norm_groups, item(name, "block", j).text);
        C = O;
        if (i == c->n_mult - 1 && c->attention) l->attn[j] = attn_declare(p, C, c->norm_groups, item(name, "attn", j).text);
    }
    return C;
}

void encoder_declare(autoencoder_half *m, ts_params *p, const ts_tokenizer_config *c)
{
    int C = c->ch;
    memset(m, 0, sizeof *m);
    m->n_levels = c->n_mult;
    m->conv_in = conv_declare(p, c->in_channels, C, 3, "encoder.conv_in");
    for (int i = 0; i < c->n_mult; i++) {
        path name = item("encoder", "down", i);
        C = level_declare(&m->level[i], p, C, i, c->num_res_blocks, c, name.text);
        if (i < c->n_mult - 1) m->level[i].resize = conv_declare(p, C, C, 3, under(name.text, "downsample.conv").text);
    }
    mid_declare(m, p, C, c, "encoder");
    m->norm_out = norm_declare(p, C, c->norm_groups, "encoder.norm_out");
    m->conv_out = conv_declare(p, C, c->z_channels, 3, "encoder.conv_out");
}

void decoder_declare(autoencoder_half *m, ts_params *p, const ts_tokenizer_config *c)
{
    int C = c->ch * c->ch_mult[c->n_mult - 1];
    memset(m, 0, sizeof *m);
    m->n_levels = c->n_mult;
    m->conv_in = conv_declare(p, c->z_channels, C, 3, "decoder.conv_in");
    mid_declare(m, p, C, c, "decoder");
    for (int i = c->n_mult - 1; i >= 0; i--) {
        path name = item("decoder", "up", i);
        C = level_declare(&m->level[i], p, C, i, c->num_res_blocks + 1, c, name.text);
        if (i > 0) m->level[i].resize = conv_declare(p, C, C, 3, under(name.text, "upsample.conv").text);
    }
    m->norm_out = norm_declare(p, C, c->norm_groups, "decoder.norm_out");
    m->conv_out = conv_declare(p, C, c->in_channels, 3, "decoder.conv_out");
}

/* --- forward --- */

ts_tensor *conv_forward(ts_graph *g, const conv *c, ts_tensor *x)
{
    return tg_conv2d(g, x, c->w, c->b, 1, c->k / 2, c->k / 2);
}

static ts_tensor *norm_forward(ts_graph *g, const norm *n, ts_tensor *x, int silu)
{
    return tg_group_norm(g, x, n->gamma, n->beta, n->groups, 1e-6f, silu);
}

/* x is consumed. */
static ts_tensor *res_forward(ts_graph *g, const res_block *m, ts_tensor *x)
{
    ts_tensor *h = norm_forward(g, &m->norm1, x, 1);
    h = conv_forward(g, &m->conv1, tg_move(h));
    h = norm_forward(g, &m->norm2, tg_move(h), 1);
    h = conv_forward(g, &m->conv2, tg_move(h));
    if (m->shortcut.w) x = conv_forward(g, &m->shortcut, tg_move(x));
    return tg_add(g, tg_move(x), tg_move(h));
}

/* x is consumed. */
static ts_tensor *attn_forward(ts_graph *g, const attn_block *m, ts_tensor *x)
{
    if (!x || !m->norm.gamma) return x;
    int64_t B = x->dim[0], h = x->dim[1], w = x->dim[2], C = x->dim[3];
    ts_tensor *y = norm_forward(g, &m->norm, x, 0);
    y = conv_forward(g, &m->qkv, tg_move(y));
    y = tg_reshape(g, tg_move(y), 3, TG_DIMS(B, h * w, 3 * C));
    y = tg_attention(g, tg_move(y), NULL, NULL, 1, 1 / sqrtf((float)C));
    y = tg_reshape(g, tg_move(y), 4, TG_DIMS(B, h, w, C));
    y = conv_forward(g, &m->proj_out, tg_move(y));
    return tg_add(g, tg_move(x), tg_move(y));
}

static ts_tensor *level_forward(ts_graph *g, const level *m, ts_tensor *x)
{
    for (int j = 0; j < m->n_blocks; j++) {
        x = res_forward(g, &m->block[j], x);
        x = attn_forward(g, &m->attn[j], x);
    }
    return x;
}

static ts_tensor *mid_forward(ts_graph *g, const autoencoder_half *m, ts_tensor *x)
{
    x = res_forward(g, &m->mid_1, x);
    x = attn_forward(g, &m->mid_attn, x);
    return res_forward(g, &m->mid_2, x);
}

ts_tensor *encoder_forward(ts_graph *g, const autoencoder_half *m, ts_tensor *image)
{
    size_t scope = tg_enter(g);
    ts_tensor *x = conv_forward(g, &m->conv_in, image);
    for (int i = 0; i < m->n_levels; i++) {
        const level *l = &m->level[i];
        x = level_forward(g, l, x);
        if (l->resize.w) x = tg_conv2d(g, tg_move(x), l->resize.w, l->resize.b, 2, 0, 1);
        tg_trim(g);
    }
    x = mid_forward(g, m, x);
    x = norm_forward(g, &m->norm_out, tg_move(x), 1);
    return tg_leave(g, scope, conv_forward(g, &m->conv_out, tg_move(x)));
}

ts_tensor *decoder_forward(ts_graph *g, const autoencoder_half *m, ts_tensor *z)
{
    size_t scope = tg_enter(g);
    ts_tensor *x = conv_forward(g, &m->conv_in, z);
    x = mid_forward(g, m, x);
    for (int i = m->n_levels - 1; i >= 0; i--) {
        const level *l = &m->level[i];
        x = level_forward(g, l, x);
        tg_trim(g);
        if (l->resize.w) x = conv_forward(g, &l->resize, tg_nearest2x(g, tg_move(x)));
    }
    x = norm_forward(g, &m->norm_out, tg_move(x), 1);
    return tg_leave(g, scope, conv_forward(g, &m->conv_out, tg_move(x)));
}
