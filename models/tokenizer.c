/* tokenizer.c - contract: tokenizer.h. */
#include "models/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "host/file.h"

const char *ts_version(void)
{
    return TS_VERSION;
}

int ts_tokenizer_image_size(const ts_tokenizer *t)
{
    return t->c.image_size;
}

int ts_tokenizer_tokens(const ts_tokenizer *t)
{
    return t->q.p.T;
}

int ts_tokenizer_codes(const ts_tokenizer *t)
{
    return t->c.q.V;
}

/* file: where the weights are, which will not change then; it is taken over. NULL: they are to be filled in. */
static ts_status build(ts_tokenizer **out, ts_device *d, const ts_tokenizer_config *c, int training, ts_st_file **file)
{
    ts_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return ts_fail(TS_E_NOMEM, "out of host memory");
    t->c = *c;
    t->d = d;
    ts_status st = ts_params_new(&t->params);
    if (st == TS_OK) st = ts_graph_new(&t->g, d, 0);
    if (st == TS_OK) {
        encoder_declare(&t->encoder, t->params, c);
        decoder_declare(&t->decoder, t->params, c);
        const int fused = quantizer_projects(c);
        conv (*make)(ts_params *p, int C, int O, int k, const char *name) = fused ? conv_declare_read : conv_declare;
        t->quant_conv = make(t->params, c->z_channels, c->q.D, c->quant_conv_ks, "quant_conv");
        t->post_quant_conv = make(t->params, c->q.D, c->z_channels, c->quant_conv_ks, "post_quant_conv");
        t->q.projects = fused;
        t->q.project = (tg_fsq_weights){ t->quant_conv.w, t->quant_conv.b, t->post_quant_conv.w, t->post_quant_conv.b };
        st = quantizer_declare(&t->q, t->params, c);
    }
    if (st == TS_OK && file) {
        st = ts_params_open(t->params, d, *file);
        *file = NULL;
    } else if (st == TS_OK) {
        st = ts_params_allocate(t->params, d, training);
    }
    if (st != TS_OK) {
        ts_tokenizer_free(t);
        return st;
    }
    *out = t;
    return TS_OK;
}

ts_status ts_tokenizer_new(ts_tokenizer **t, ts_device *d, const ts_tokenizer_config *c, int training, uint64_t seed)
{
    TS_TRY(build(t, d, c, training, NULL));
    ts_status st = ts_params_init((*t)->params, seed);
    if (st != TS_OK) {
        ts_tokenizer_free(*t);
        *t = NULL;
    }
    return st;
}

ts_status ts_model_config(json_t **o, const ts_st_file *f, const char *kind)
{
    const char *text = ts_st_metadata(f, "tessera"), *path = ts_st_path(f);
    if (!text) return ts_fail(TS_E_DATA, "%s: no \"tessera\" metadata, expected the configuration of a %s", path, kind);
    json_error_t e;
    *o = json_loads(text, JSON_REJECT_DUPLICATES, &e);
    if (!*o) return ts_fail(TS_E_DATA, "%s: the configuration is not JSON: %s", path, e.text);
    const char *found = json_string_value(json_object_get(*o, "kind"));
    if (found && strcmp(found, kind) == 0) return TS_OK;
    ts_status st = ts_fail(TS_E_DATA, "%s: this is a %s, expected a %s", path, found ? found : "file of unknown kind", kind);
    json_decref(*o);
    *o = NULL;
    return st;
}

ts_status ts_tokenizer_load(ts_tokenizer **t, ts_device *d, const char *path)
{
    ts_st_file *f = NULL;
    json_t *o = NULL;
    ts_tokenizer_config c;
    uint64_t bytes;
    *t = NULL;
    ts_status st = ts_st_open(&f, path);
    if (st == TS_OK) st = ts_model_config(&o, f, "tokenizer");
    if (st == TS_OK) st = ts_tokenizer_config_read(&c, o, path);
    if (st == TS_OK) st = build(t, d, &c, 0, &f);
    if (st == TS_OK) st = ts_file_hash(path, (*t)->hash, &bytes);
    json_decref(o);
    ts_st_close(f);
    if (st != TS_OK && *t) {
        ts_tokenizer_free(*t);
        *t = NULL;
    }
    return st;
}

void ts_tokenizer_free(ts_tokenizer *t)
{
    if (!t) return;
    ts_graph_free(t->g);
    ts_params_free(t->params);
    free(t);
}

ts_status ts_tokenizer_save(const ts_tokenizer *t, const char *path, ts_buffer buffer, ts_st_dtype dtype)
{
    json_t *o = ts_tokenizer_config_json(&t->c);
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    ts_status st = text ? ts_params_save(t->params, path, &buffer, (const char *[]){ "" }, 1, dtype,
                                         (const char *[]){ "tessera" }, (const char *[]){ text }, 1)
                        : ts_fail(TS_E_NOMEM, "out of host memory");
    free(text);
    json_decref(o);
    return st;
}

ts_tensor *tokenizer_encode(ts_graph *g, const ts_tokenizer *t, ts_tensor *image)
{
    ts_tensor *z = encoder_forward(g, &t->encoder, image);
    return t->q.projects ? z : conv_forward(g, &t->quant_conv, tg_move(z));
}

ts_tensor *tokenizer_decode(ts_graph *g, const ts_tokenizer *t, ts_tensor *f_hat)
{
    if (t->q.projects) return decoder_forward(g, &t->decoder, f_hat);
    ts_tensor *z = conv_forward(g, &t->post_quant_conv, f_hat);
    return decoder_forward(g, &t->decoder, tg_move(z));
}

static ts_tensor *upload_images(ts_graph *g, const ts_tokenizer *t, const float *images, int64_t B)
{
    int64_t side = t->c.image_size;
    return tg_upload(g, images, TS_F32, 4, TG_DIMS(B, side, side, t->c.in_channels));
}

ts_status ts_tokenizer_encode(ts_tokenizer *t, const float *images, int64_t B, int32_t *tokens)
{
    return ts_tokenizer_reconstruct(t, images, B, tokens, NULL, NULL, NULL);
}

/* The decoded sum after every scale, one scale at a time: no more memory than one reconstruction. */
static void decode_partials(ts_tokenizer *t, const ts_quantized *r, int64_t B, float *out)
{
    ts_graph *g = t->g;
    int K = t->q.p.K;
    int64_t one = r->f_hat ? ts_tensor_count(r->f_hat) : 0;
    int64_t pixels = B * t->c.image_size * t->c.image_size * t->c.in_channels;
    for (int k = 0; k < K && ts_graph_status(g) == TS_OK; k++) {
        size_t scope = tg_enter(g);
        ts_tensor *f = tg_empty(g, TS_F32, 4, r->f_hat->dim);
        const float *from = (const float *)r->partial->data + k * one;
        if (f) ts_graph_fail(g, t->d->be->copy(t->d->s, f->data, from, (size_t)one * sizeof(float)));
        tg_download(g, out + k * pixels, tokenizer_decode(g, t, tg_move(f)));
        tg_leave(g, scope, NULL);
    }
}

ts_status ts_tokenizer_reconstruct(ts_tokenizer *t, const float *images, int64_t B, int32_t *tokens, float *out,
                                   float *partial, float *stats)
{
    ts_graph *g = t->g;
    ts_graph_reset(g);
    ts_tensor *f = tokenizer_encode(g, t, tg_move(upload_images(g, t, images, B)));
    ts_quantized r = quantizer_forward(g, &t->q, tg_move(f), t->q.p.K, partial != NULL);
    if (tokens) tg_download(g, tokens, r.idx);
    if (stats && r.stats) tg_download(g, stats, r.stats);
    if (partial && ts_graph_status(g) == TS_OK) decode_partials(t, &r, B, partial);
    if (out) tg_download(g, out, tokenizer_decode(g, t, tg_move(r.f_hat)));
    ts_status st = ts_graph_status(g);
    ts_graph_reset(g);
    return st;
}

static ts_status check_tokens(const ts_tokenizer *t, const int32_t *tokens, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= t->c.q.V)
            return ts_fail(TS_E_DATA, "token %lld is %d, expected 0..%d", (long long)i, tokens[i], t->c.q.V - 1);
    return TS_OK;
}

ts_status ts_tokenizer_decode(ts_tokenizer *t, const int32_t *tokens, int64_t B, float *images)
{
    ts_graph *g = t->g;
    const ts_pyramid *p = &t->q.p;
    TS_TRY(check_tokens(t, tokens, B * p->T));
    ts_graph_reset(g);
    ts_tensor *f_hat = tg_zeros(g, TS_F32, 4, TG_DIMS(B, p->h, p->w, quantizer_channels(&t->q)));
    for (int k = 0; k < p->K; k++) {
        size_t scope = tg_enter(g);
        ts_tensor *code = quantizer_lookup(g, &t->q, quantizer_upload(g, &t->q, tokens, B, k), k);
        quantizer_add(g, &t->q, f_hat, code, k);
        tg_leave(g, scope, NULL);
    }
    tg_download(g, images, tokenizer_decode(g, t, tg_move(f_hat)));
    ts_status st = ts_graph_status(g);
    ts_graph_reset(g);
    return st;
}
