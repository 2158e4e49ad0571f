/* generator.c - contract and formulas: generator.h. */
#include "models/generator.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "models/sampler.h"

/* --- parameters --- */

static ts_status declare(ts_generator *m)
{
    const ts_generator_config *c = &m->c;
    int64_t C = c->embed_dim, first = m->p.start[1];
    float std = sqrtf(1 / (3 * (float)C));
    ts_init normal = ts_init_all(TS_INIT_NORMAL, std), zero = ts_init_all(TS_INIT_CONST, 0);
    m->word_embed = linear_declare(m->params, c->z_channels, C, std, "word_embed");
    m->class_emb = ts_params_add(m->params, normal, 0, 2, TG_DIMS(c->num_classes + 1, C), "class_emb.weight");
    m->pos_start = ts_params_add(m->params, normal, 0, 3, TG_DIMS(1, first, C), "pos_start");
    m->pos_1LC = ts_params_add(m->params, normal, 0, 3, TG_DIMS(1, m->p.T, C), "pos_1LC");
    m->lvl_embed = ts_params_add(m->params, normal, 0, 2, TG_DIMS(c->K, C), "lvl_embed.weight");
    transformer_declare(&m->t, m->params, c);
    if (c->head == TS_HEAD_JOINT) {
        m->head = linear_declare(m->params, C, c->V, std * 0.02f, "head");
        return TS_OK;
    }
    TS_TRY(ts_digit_head_init(&m->digits, c->level, c->D, c->head_hidden, c->K));
    int64_t M = c->head_hidden, sum = m->digits.sum_L, last = c->level[c->D - 1];
    ts_init wide = ts_init_all(TS_INIT_NORMAL, 1 / sqrtf((float)C)), small = ts_init_all(TS_INIT_NORMAL, 0.02f);
    m->head.w = ts_params_add(m->params, wide, TS_PARAM_DECAY | TS_PARAM_PRODUCT, 2, TG_DIMS(M, C), "head.up.weight");
    m->digit_bias = ts_params_add(m->params, zero, 0, 2, TG_DIMS(c->D, M), "head.digit_bias");
    m->digit_embed = ts_params_add(m->params, small, 0, 2, TG_DIMS(sum - last, M), "head.digit_embed");
    m->digit_weight = ts_params_add(m->params, small, TS_PARAM_DECAY, 2, TG_DIMS(sum, M), "head.digit_weight");
    m->digit_logit = ts_params_add(m->params, zero, 0, 2, TG_DIMS(c->K, sum), "head.digit_logit");
    return TS_OK;
}

/* file: where the weights are, which will not change then; it is taken over. NULL: they are to be filled in. */
static ts_status build(ts_generator **out, ts_device *d, const ts_generator_config *c, int training, ts_st_file **file)
{
    ts_generator *m = calloc(1, sizeof *m);
    if (!m) return ts_fail(TS_E_NOMEM, "out of host memory");
    m->c = *c;
    m->d = d;
    ts_status st = ts_params_new(&m->params);
    if (st == TS_OK) st = ts_graph_new(&m->g, d, 0);
    if (st == TS_OK) st = ts_pyramid_init(&m->p, c->side, c->K, -1, 0);
    if (st == TS_OK) st = declare(m);
    if (st == TS_OK && file) {
        st = ts_params_open(m->params, d, *file);
        *file = NULL;
    } else if (st == TS_OK) {
        st = ts_params_allocate(m->params, d, training);
    }
    if (st != TS_OK) {
        ts_generator_free(m);
        return st;
    }
    *out = m;
    return TS_OK;
}

ts_status ts_generator_new(ts_generator **m, ts_device *d, const ts_generator_config *c, int training, uint64_t seed)
{
    TS_TRY(build(m, d, c, training, NULL));
    ts_status st = ts_params_init((*m)->params, seed);
    if (st != TS_OK) {
        ts_generator_free(*m);
        *m = NULL;
    }
    return st;
}

void ts_generator_free(ts_generator *m)
{
    if (!m) return;
    sampler_forget(m);
    ts_graph_free(m->g);
    ts_params_free(m->params);
    for (int i = 0; m->classes && i < m->c.num_classes; i++) free(m->classes[i]);
    free(m->classes);
    free(m);
}

int ts_generator_classes(const ts_generator *m)
{
    return m->c.num_classes;
}

const char *ts_generator_class_name(const ts_generator *m, int i)
{
    return m->classes && i >= 0 && i < m->c.num_classes ? m->classes[i] : "";
}

ts_status ts_generator_set_classes(ts_generator *m, const char *const *names)
{
    if (!names) return TS_OK;
    m->classes = calloc((size_t)m->c.num_classes, sizeof *m->classes);
    for (int i = 0; m->classes && i < m->c.num_classes; i++)
        if (!(m->classes[i] = strdup(names[i]))) return ts_fail(TS_E_NOMEM, "out of host memory");
    return m->classes ? TS_OK : ts_fail(TS_E_NOMEM, "out of host memory");
}

/* Members of the file's JSON that are no part of the architecture: "tokenizer" (hash) and "classes". Removed from o. */
static ts_status read_extras(ts_generator *m, json_t *tokenizer, json_t *classes, const char *path)
{
    if (json_is_string(tokenizer)) {
        if (json_string_length(tokenizer) != 16)
            return ts_fail(TS_E_DATA, "%s: \"tokenizer\" must be a hash of 16 digits", path);
        strcpy(m->tokenizer_hash, json_string_value(tokenizer));
    }
    if (!classes) return TS_OK;
    if (json_array_size(classes) != (size_t)m->c.num_classes)
        return ts_fail(TS_E_DATA, "%s: \"classes\" has %zu names, expected %d", path, json_array_size(classes),
                       m->c.num_classes);
    const char **names = calloc((size_t)m->c.num_classes, sizeof *names);
    if (!names) return ts_fail(TS_E_NOMEM, "out of host memory");
    ts_status st = TS_OK;
    for (int i = 0; i < m->c.num_classes; i++) {
        names[i] = json_string_value(json_array_get(classes, (size_t)i));
        if (!names[i]) st = ts_fail(TS_E_DATA, "%s: \"classes\"[%d] is no string", path, i);
    }
    if (st == TS_OK) st = ts_generator_set_classes(m, names);
    free(names);
    return st;
}

static ts_status load_from(ts_generator **m, ts_device *d, ts_st_file **f, json_t *o, const char *path)
{
    json_t *tokenizer = json_incref(json_object_get(o, "tokenizer")), *classes = json_incref(json_object_get(o, "classes"));
    json_object_del(o, "tokenizer");
    json_object_del(o, "classes");
    ts_generator_config c;
    ts_status st = ts_generator_config_read(&c, o, path);
    if (st == TS_OK) st = build(m, d, &c, 0, f);
    if (st == TS_OK) st = read_extras(*m, tokenizer, classes, path);
    json_decref(tokenizer);
    json_decref(classes);
    return st;
}

ts_status ts_generator_load(ts_generator **m, ts_device *d, const char *path)
{
    ts_st_file *f = NULL;
    json_t *o = NULL;
    *m = NULL;
    ts_status st = ts_st_open(&f, path);
    if (st == TS_OK) st = ts_model_config(&o, f, "generator");
    if (st == TS_OK) st = load_from(m, d, &f, o, path);
    json_decref(o);
    ts_st_close(f);
    if (st != TS_OK) {
        ts_generator_free(*m);
        *m = NULL;
    }
    return st;
}

ts_status ts_generator_save(const ts_generator *m, const char *path, ts_buffer buffer, ts_st_dtype dtype)
{
    json_t *o = ts_generator_config_json(&m->c);
    if (o && m->tokenizer_hash[0]) json_object_set_new(o, "tokenizer", json_string(m->tokenizer_hash));
    if (o && m->classes) {
        json_t *names = json_array();
        for (int i = 0; i < m->c.num_classes; i++) json_array_append_new(names, json_string(m->classes[i]));
        json_object_set_new(o, "classes", names);
    }
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    ts_status st = text ? ts_params_save(m->params, path, &buffer, (const char *[]){ "" }, 1, dtype,
                                         (const char *[]){ "tessera" }, (const char *[]){ text }, 1)
                        : ts_fail(TS_E_NOMEM, "out of host memory");
    free(text);
    json_decref(o);
    return st;
}

ts_status ts_generator_fits(const ts_generator *m, const ts_tokenizer *t, const char *path)
{
    const ts_generator_config *c = &m->c;
    int same = c->K == t->c.K;
    for (int k = 0; same && k < c->K; k++) same = c->side[k] == t->c.side[k];
    if (!same) return ts_fail(TS_E_DATA, "%s: its scales differ from the generator's", path);
    if (c->V != t->c.q.V) return ts_fail(TS_E_DATA, "%s: has %d codes, the generator expects %d", path, t->c.q.V, c->V);
    if (c->z_channels != t->c.q.D)
        return ts_fail(TS_E_DATA, "%s: its codes have %d channels, the generator expects %d", path, t->c.q.D, c->z_channels);
    for (int i = 0; c->head == TS_HEAD_DIGITS && i < c->D; i++)
        if (t->c.q.kind == TS_QUANTIZER_VQ || c->D != t->c.q.D || c->level[i] != t->c.q.level[i])
            return ts_fail(TS_E_DATA, "%s: its levels differ from the generator's", path);
    if (m->tokenizer_hash[0] && t->hash[0] && strcmp(m->tokenizer_hash, t->hash) != 0)
        return ts_fail(TS_E_DATA, "%s: hash %s, but the generator was trained with tokenizer %s", path, t->hash,
                       m->tokenizer_hash);
    return TS_OK;
}

/* --- forward --- */

ts_tensor *generator_input(ts_graph *g, const quantizer *q, const int32_t *tokens, int64_t B)
{
    ts_tensor *f_hat = tg_zeros(g, TS_F32, 4, TG_DIMS(B, q->p.h, q->p.w, quantizer_channels(q))), *all = NULL;
    for (int k = 0; k + 1 < q->p.K; k++) {
        ts_tensor *code = quantizer_lookup(g, q, quantizer_upload(g, q, tokens, B, k), k);
        ts_tensor *next = quantizer_add(g, q, f_hat, code, k);
        all = all ? tg_concat_tokens(g, tg_move(all), tg_move(next)) : next;
    }
    return all;
}

void generator_spread(const ts_generator *m, int32_t *to, const int32_t *labels, int64_t B)
{
    int64_t first = m->p.start[1];
    for (int64_t i = 0; i < B * first; i++) to[i] = labels[i / first];
}

ts_tensor *generator_start(ts_graph *g, const ts_generator *m, ts_tensor *labels)
{
    return tg_add_rows(g, tg_move(tg_embedding(g, m->class_emb, labels)), m->pos_start);
}

/* The same from labels on the host. */
static ts_tensor *start_tokens(ts_graph *g, const ts_generator *m, const int32_t *labels, int64_t B)
{
    int64_t first = m->p.start[1];
    int32_t *repeated = malloc((size_t)(B * first) * sizeof *repeated);
    if (!repeated) {
        ts_graph_fail(g, ts_fail(TS_E_NOMEM, "out of host memory"));
        return NULL;
    }
    generator_spread(m, repeated, labels, B);
    ts_tensor *x = generator_start(g, m, tg_upload(g, repeated, TS_I32, 2, TG_DIMS(B, first)));
    free(repeated);
    return x;
}

/* Per token: its scale, and the token behind its segment. */
static ts_tensor *per_token(ts_graph *g, const ts_pyramid *p, int want_end)
{
    int32_t *x = malloc((size_t)p->T * sizeof *x);
    if (!x) {
        ts_graph_fail(g, ts_fail(TS_E_NOMEM, "out of host memory"));
        return NULL;
    }
    for (int k = 0; k < p->K; k++)
        for (int32_t t = p->start[k]; t < p->start[k + 1]; t++) x[t] = want_end ? p->start[k + 1] : k;
    ts_tensor *y = tg_upload(g, x, TS_I32, 1, TG_DIMS(p->T));
    free(x);
    return y;
}

ts_tensor *generator_embed(ts_graph *g, const ts_generator *m, ts_tensor *input)
{
    const int before = tg_exact(g, 1); /* a small product; rounding what it reads is half of the error of bfloat16 logits */
    ts_tensor *x = tg_linear(g, input, m->word_embed.w, m->word_embed.b);
    tg_exact(g, before);
    return x;
}

ts_tensor *generator_head(ts_graph *g, const ts_generator *m, ts_tensor *y)
{
    return tg_linear(g, tg_move(y), m->head.w, m->head.b);
}

ts_tensor *generator_logits(ts_graph *g, const ts_generator *m, const int32_t *labels, int64_t B, ts_tensor *input,
                            const float *keep)
{
    ts_tensor *cond = tg_embedding(g, m->class_emb, tg_upload(g, labels, TS_I32, 1, TG_DIMS(B)));
    modulation mod;
    transformer_modulate(g, &m->t, cond, &mod);
    ts_tensor *x = start_tokens(g, m, labels, B);
    if (input) x = tg_concat_tokens(g, x, generator_embed(g, m, input));
    x = tg_add_rows(g, x, tg_embedding(g, m->lvl_embed, per_token(g, &m->p, 0)));
    x = tg_add_rows(g, x, m->pos_1LC);
    return generator_head(g, m, transformer_forward(g, &m->t, x, &mod, per_token(g, &m->p, 1), keep, NULL));
}

ts_tensor *generator_loss(ts_graph *g, const ts_generator *m, ts_tensor *logits, const int32_t *tokens, int64_t B)
{
    ts_tensor *target = tg_upload(g, tokens, TS_I32, 2, TG_DIMS(B, m->p.T));
    if (m->c.head == TS_HEAD_JOINT) return tg_cross_entropy(g, logits, target, 1);
    return tg_digit_head(g, logits, m->digit_bias, m->digit_embed, m->digit_weight, m->digit_logit, target,
                         per_token(g, &m->p, 0), &m->digits, 1);
}

ts_status ts_generator_bits(ts_generator *m, ts_tokenizer *t, const int32_t *tokens, const int32_t *labels, int64_t B,
                            double *bits)
{
    ts_graph *g = m->g;
    int64_t per = m->c.head == TS_HEAD_DIGITS ? m->c.D : 1;
    float *loss = malloc((size_t)(B * m->p.T * per) * sizeof *loss);
    if (!loss) return ts_fail(TS_E_NOMEM, "out of host memory");
    ts_graph_reset(g);
    ts_tensor *input = generator_input(g, &t->q, tokens, B);
    tg_download(g, loss, generator_loss(g, m, generator_logits(g, m, labels, B, input, NULL), tokens, B));
    ts_status st = ts_graph_status(g);
    for (int64_t b = 0; b < B && st == TS_OK; b++)
        for (int k = 0; k < m->p.K; k++)
            for (int64_t i = (b * m->p.T + m->p.start[k]) * per; i < (b * m->p.T + m->p.start[k + 1]) * per; i++)
                bits[k] += loss[i] / log(2);
    free(loss);
    ts_graph_reset(g);
    return st;
}
