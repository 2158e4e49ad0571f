/* sampler.c - contract: sampler.h. */
#include "models/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/log.h"

/* What is baked into a recording. Made by recipe_of alone, compared byte by byte. */
typedef struct {
    int64_t B;
    const void *weights[2]; /* of generator and tokenizer: where they lie */
    uint64_t serial[2];
    double cfg, temperature, top_p;
    int top_k, smooth, drawn; /* drawn: tokens are, not just their smooth mean */
} recipe;

typedef struct sampler {
    recipe of;
    ts_generator *m;
    ts_tokenizer *t;
    ts_graph *g;
    ts_tensor *label, *first, *source; /* (rows), (rows,p_0*p_0), seed and number of the first picture */
    modulation mod;
    kv_cache cache;
    ts_tensor *f_hat, *next, *idx; /* idx: scale after scale, (B,t) each */
    ts_capture *scale[TS_MAX_SCALES];
    int64_t rows; /* B, or 2B with guidance */
    int batches;  /* so far */
} sampler;

ts_status ts_sampling_check(const ts_sampling *o)
{
    if (!(o->cfg >= 0 && o->cfg <= 100)) return ts_fail(TS_E_ARG, "cfg is %g, expected 0 to 100", o->cfg);
    if (!(o->temperature > 0 && o->temperature <= 100))
        return ts_fail(TS_E_ARG, "temperature is %g, expected more than 0, at most 100", o->temperature);
    if (!(o->top_p > 0 && o->top_p <= 1)) return ts_fail(TS_E_ARG, "top-p is %g, expected more than 0, at most 1", o->top_p);
    if (o->top_k < 0) return ts_fail(TS_E_ARG, "top-k is %d, expected 0 (off) or more", o->top_k);
    return TS_OK;
}

/* --- what is kept between batches --- */

static void forget_recordings(sampler *s)
{
    const ts_device *d = s->m->d;
    for (int k = 0; k < TS_MAX_SCALES; k++) {
        if (s->scale[k]) d->be->capture_free(d->s, s->scale[k]);
        s->scale[k] = NULL;
    }
}

static void sampler_free(sampler *s)
{
    if (!s) return;
    forget_recordings(s);
    ts_graph_free(s->g);
    free(s);
}

void sampler_forget(ts_generator *m)
{
    for (int i = 0; i < TS_SAMPLERS; i++) {
        sampler_free(m->plan[i]);
        m->plan[i] = NULL;
    }
}

static int can_record(const ts_generator *m)
{
    return m->d->be->capture_begin && !m->plain;
}

static recipe recipe_of(const ts_generator *m, const ts_tokenizer *t, int64_t B, const ts_sampling *o, int want_tokens)
{
    recipe r;
    memset(&r, 0, sizeof r);
    r.B = B;
    r.weights[0] = m->class_emb->data;
    r.weights[1] = t->quant_conv.w->data;
    r.serial[0] = ts_params_serial(m->params);
    r.serial[1] = ts_params_serial(t->params);
    r.cfg = o->cfg, r.temperature = o->temperature, r.top_p = o->top_p;
    r.top_k = o->top_k, r.smooth = o->smooth != 0, r.drawn = want_tokens || !o->smooth;
    return r;
}

static ts_status sampler_new(sampler **out, ts_generator *m, ts_tokenizer *t, const recipe *of)
{
    sampler *s = calloc(1, sizeof *s);
    if (!s) return ts_fail(TS_E_NOMEM, "out of host memory");
    s->of = *of;
    s->m = m;
    s->t = t;
    s->rows = (of->cfg > 0 ? 2 : 1) * of->B;
    ts_status st = ts_graph_new(&s->g, m->d, 0);
    if (st != TS_OK) {
        free(s);
        return st;
    }
    if (can_record(m)) ts_graph_own_memory(s->g);
    *out = s;
    return TS_OK;
}

/* The sampler of this recipe, which becomes m->plan[0]; the one used longest ago makes room. */
static ts_status find_sampler(sampler **out, ts_generator *m, ts_tokenizer *t, const recipe *of)
{
    int i = 0;
    while (i < TS_SAMPLERS && !(m->plan[i] && memcmp(&m->plan[i]->of, of, sizeof *of) == 0)) i++;
    sampler *s = i < TS_SAMPLERS ? m->plan[i] : NULL;
    if (!s) {
        i = TS_SAMPLERS - 1;
        sampler_free(m->plan[i]); /* its memory may be what the new one takes */
        m->plan[i] = NULL;
        TS_TRY(sampler_new(&s, m, t, of));
    }
    memmove(m->plan + 1, m->plan, (size_t)i * sizeof *m->plan);
    m->plan[0] = *out = s;
    return TS_OK;
}

static void drop_latest(ts_generator *m)
{
    sampler_free(m->plan[0]);
    memmove(m->plan, m->plan + 1, (TS_SAMPLERS - 1) * sizeof *m->plan);
    m->plan[TS_SAMPLERS - 1] = NULL;
}

/* --- one scale, op by op --- */

/* 0 at the first scale, 1 at the last. */
static double ratio_of(const sampler *s, int k)
{
    return s->m->p.K > 1 ? (double)k / (s->m->p.K - 1) : 1;
}

static ts_sample sample_of(const sampler *s, int k)
{
    const ts_generator *m = s->m;
    const recipe *of = &s->of;
    ts_sample a = { .B = of->B, .t = m->p.start[k + 1] - m->p.start[k], .token0 = m->p.start[k], .top_k = of->top_k };
    a.V = m->c.head == TS_HEAD_JOINT ? m->c.V : 1; /* the digit head does not read it, its scratch grows with it */
    a.guided = s->rows > of->B;
    a.guide = (float)(of->cfg * ratio_of(s, k));
    a.temperature = (float)of->temperature;
    a.top_p = (float)of->top_p;
    a.source = s->source ? s->source->data : NULL;
    return a;
}

static ts_tensor *draw(const sampler *s, ts_tensor *logits, int k)
{
    const ts_generator *m = s->m;
    const ts_sample a = sample_of(s, k);
    if (m->c.head == TS_HEAD_JOINT) return tg_sample(s->g, logits, &a);
    return tg_sample_digits(s->g, logits, m->digit_bias, m->digit_embed, m->digit_weight, m->digit_logit, &m->digits, k, &a);
}

/* What is summed (B,t,D), of the drawn tokens or smooth. Constants of the published implementation. */
static ts_tensor *code_of(const sampler *s, ts_tensor *logits, ts_tensor *idx, int k)
{
    if (!s->of.smooth) return quantizer_lookup(s->g, &s->t->q, idx, k);
    const ts_sample a = sample_of(s, k);
    double ratio = ratio_of(s, k), tau = fmax(0.27 * (1 - 0.95 * ratio), 0.005);
    return tg_sample_smooth(s->g, logits, s->t->q.codebook, &a, (float)(1 + ratio), (float)tau);
}

/* What all scales share. */
static void begin(sampler *s)
{
    const ts_generator *m = s->m;
    ts_graph *g = s->g;
    transformer_modulate(g, &m->t, tg_embedding(g, m->class_emb, s->label), &s->mod);
    transformer_cache(g, &m->t, s->rows, m->p.T, &s->cache);
    s->f_hat = tg_zeros(g, TS_F32, 4, TG_DIMS(s->of.B, m->p.h, m->p.w, quantizer_channels(&s->t->q)));
}

static ts_tensor *embedded(sampler *s, int k)
{
    const ts_generator *m = s->m;
    ts_graph *g = s->g;
    ts_tensor *x;
    if (k == 0) {
        x = generator_start(g, m, s->first);
    } else {
        x = generator_embed(g, m, tg_move(s->next));
        if (s->rows > s->of.B) x = tg_twice(g, tg_move(x));
    }
    x = tg_add_rows(g, tg_move(x), tg_rows(g, m->lvl_embed, k, 1));
    return tg_add_rows(g, tg_move(x), tg_rows(g, m->pos_1LC, m->p.start[k], m->p.start[k + 1] - m->p.start[k]));
}

static void forward(sampler *s, int k)
{
    const ts_generator *m = s->m;
    ts_graph *g = s->g;
    if (k == 0) begin(s);
    size_t scope = tg_enter(g);
    ts_tensor *x = embedded(s, k);
    ts_tensor *logits = generator_head(g, m, transformer_forward(g, &m->t, x, &s->mod, NULL, NULL, &s->cache));
    ts_tensor *idx = s->of.drawn ? draw(s, logits, k) : NULL;
    if (idx) tg_place(g, s->idx, s->of.B * m->p.start[k], idx);
    s->next = tg_leave(g, scope, quantizer_add(g, &s->t->q, s->f_hat, code_of(s, logits, idx, k), k));
}

/* --- one batch --- */

static ts_status record(sampler *s, int k)
{
    const ts_device *d = s->m->d;
    TS_TRY(d->be->capture_begin(d->s));
    forward(s, k);
    ts_status st = d->be->capture_end(d->s, &s->scale[k]);
    return ts_graph_status(s->g) != TS_OK ? ts_graph_status(s->g) : st;
}

static ts_status run_scale(sampler *s, int k)
{
    const ts_device *d = s->m->d;
    if (s->batches == 0 || !can_record(s->m)) {
        forward(s, k);
        return ts_graph_status(s->g);
    }
    if (!s->scale[k]) TS_TRY(record(s, k));
    return d->be->capture_launch(d->s, s->scale[k]);
}

static ts_status bring_inputs(sampler *s, const int32_t *labels, const ts_sampling *o)
{
    const ts_generator *m = s->m;
    ts_graph *g = s->g;
    int64_t B = s->of.B, first = m->p.start[1];
    int32_t *label = malloc((size_t)(s->rows * (1 + first)) * sizeof *label);
    if (!label) return ts_fail(TS_E_NOMEM, "out of host memory");
    for (int64_t i = 0; i < s->rows; i++) label[i] = i < B ? labels[i] : m->c.num_classes;
    generator_spread(m, label + s->rows, label, s->rows);
    tg_refill(g, s->label, label);
    tg_refill(g, s->first, label + s->rows);
    tg_refill(g, s->source, (const uint64_t[]){ o->seed, o->image0 });
    free(label);
    return ts_graph_status(g);
}

/* Unless all scales are recorded, everything starts anew; the same blocks are handed out in the same order. */
static void prepare(sampler *s)
{
    const ts_pyramid *p = &s->m->p;
    if (can_record(s->m) && s->scale[p->K - 1]) return;
    forget_recordings(s);
    ts_graph_reset(s->g);
    s->label = tg_empty(s->g, TS_I32, 1, TG_DIMS(s->rows));
    s->first = tg_empty(s->g, TS_I32, 2, TG_DIMS(s->rows, p->start[1]));
    s->source = tg_empty(s->g, TS_I32, 1, TG_DIMS(4)); /* two numbers of 64 bits */
    s->idx = tg_empty(s->g, TS_I32, 1, TG_DIMS(s->of.B * p->T));
}

static int64_t pixels_of(const ts_tokenizer *t)
{
    return (int64_t)t->c.image_size * t->c.image_size * t->c.in_channels;
}

/* The pictures that the sum so far is. */
static ts_status show(sampler *s, float *images)
{
    ts_graph *g = s->m->g;
    ts_graph_reset(g);
    tg_download(g, images, tokenizer_decode(g, s->t, s->f_hat));
    ts_status st = ts_graph_status(g);
    ts_graph_reset(g);
    return st;
}

static ts_status fetch_tokens(sampler *s, int32_t *tokens)
{
    const ts_pyramid *p = &s->m->p;
    int64_t B = s->of.B;
    int32_t *idx = malloc((size_t)(B * p->T) * sizeof *idx);
    if (!idx) return ts_fail(TS_E_NOMEM, "out of host memory");
    ts_status st = tg_download(s->g, idx, s->idx);
    for (int k = 0; k < p->K && st == TS_OK; k++) {
        int64_t start = p->start[k], t = p->start[k + 1] - start;
        for (int64_t b = 0; b < B; b++)
            memcpy(tokens + b * p->T + start, idx + B * start + b * t, (size_t)t * sizeof *idx);
    }
    free(idx);
    return st;
}

/* The time since *last goes to part i. */
static void count_time(ts_generator *m, int i, double *last)
{
    if (!m->seconds || m->d->be->stream_sync(m->d->s) != TS_OK) return;
    double now = ts_seconds();
    m->seconds[i] += now - *last;
    *last = now;
}

/* What only the scales need goes before the pictures are made: both together would be the most memory of a run. */
static void leave_scales(sampler *s)
{
    for (int i = 0; i < s->m->t.depth && !can_record(s->m); i++) {
        tg_drop(s->g, s->cache.k[i]);
        tg_drop(s->g, s->cache.v[i]);
        tg_drop(s->g, s->mod.block_B6C[i]);
    }
    tg_trim(s->g);
}

static ts_status try_batch(sampler *s, const int32_t *labels, const ts_sampling *o, int32_t *tokens, float *images,
                           float *scales)
{
    ts_generator *m = s->m;
    const ts_device *d = m->d;
    double last = ts_seconds();
    prepare(s);
    TS_TRY(bring_inputs(s, labels, o));
    for (int k = 0; k < m->p.K; k++) {
        TS_TRY(run_scale(s, k));
        tg_trim(s->g);
        if (scales) TS_TRY(show(s, scales + k * s->of.B * pixels_of(s->t)));
        count_time(m, k, &last);
    }
    s->batches++;
    leave_scales(s);
    if (images) TS_TRY(show(s, images));
    if (tokens) TS_TRY(fetch_tokens(s, tokens));
    TS_TRY(d->be->stream_sync(d->s)); /* where a draw that failed is reported */
    count_time(m, m->p.K, &last);
    return TS_OK;
}

static ts_status run_batch(ts_generator *m, ts_tokenizer *t, const int32_t *labels, int64_t B, const ts_sampling *o,
                           int32_t *tokens, float *images, float *scales)
{
    const recipe of = recipe_of(m, t, B, o, tokens != NULL);
    sampler *s;
    TS_TRY(find_sampler(&s, m, t, &of));
    ts_status st = try_batch(s, labels, o, tokens, images, scales);
    if (st != TS_OK || !can_record(m)) drop_latest(m);
    return st;
}

ts_status ts_generator_sample(ts_generator *m, ts_tokenizer *t, const int32_t *labels, int64_t B, const ts_sampling *o,
                              int32_t *tokens, float *images)
{
    return ts_generator_sample_scales(m, t, labels, B, o, tokens, images, NULL);
}

ts_status ts_generator_sample_scales(ts_generator *m, ts_tokenizer *t, const int32_t *labels, int64_t B, const ts_sampling *o,
                                     int32_t *tokens, float *images, float *scales)
{
    TS_TRY(ts_sampling_check(o));
    TS_TRY(ts_generator_fits(m, t, "tokenizer"));
    if (o->smooth && (m->c.head != TS_HEAD_JOINT || t->c.q.kind != TS_QUANTIZER_VQ))
        return ts_fail(TS_E_ARG, "smooth sampling needs a vq codebook and a joint head, these models have none");
    for (int64_t b = 0; b < B; b++)
        if (labels[b] < 0 || labels[b] >= m->c.num_classes)
            return ts_fail(TS_E_ARG, "class %d, expected 0 to %d", labels[b], m->c.num_classes - 1);
    ts_status st = run_batch(m, t, labels, B, o, tokens, images, scales);
    if (st != TS_E_NOMEM || !can_record(m)) return st;
    sampler_forget(m); /* once more, with nothing kept */
    m->plain = 1;
    return run_batch(m, t, labels, B, o, tokens, images, scales);
}
