/* graph_quant.c - quantizers, losses and sampling on the tape. Contract: graph.h. */
#include "host/graph_private.h"

#include <string.h>

static ts_phi phi_data(ts_tensor *const *w, ts_tensor *const *b, int S)
{
    ts_phi phi = { { NULL }, { NULL } };
    for (int j = 0; j < S; j++) {
        phi.w[j] = TG_F(w[j]);
        phi.b[j] = TG_F(b[j]);
    }
    return phi;
}

static ts_phi phi_grad(ts_graph *g, ts_tensor *const *w, ts_tensor *const *b, int S)
{
    ts_phi phi = { { NULL }, { NULL } };
    for (int j = 0; g->training && j < S; j++) {
        phi.w[j] = tg_grad_add(g, w[j]);
        phi.b[j] = tg_grad_add(g, b[j]);
    }
    return phi;
}

static int pyramid_fits(const ts_tensor *f, const ts_pyramid *p, int D)
{
    return f->rank == 4 && f->dim[1] == p->h && f->dim[2] == p->w && f->dim[3] == D;
}

/* --- FSQ, one scale --- */

static void fsq_back(ts_graph *g, tg_node *n)
{
    ts_block *temp;
    float *dz = tg_grad_set(g, n->in[0], &temp);
    if (dz)
        tg_check(g, TG_BE(g)->fsq_bwd(TG_S(g), dz, n->out->grad, TG_F(n->in[0]), &n->u.fsq,
                                      ts_tensor_count(n->out) / n->u.fsq.D));
    tg_grad_done(g, n->in[0], temp);
}

ts_quantized tg_fsq(ts_graph *g, ts_tensor *z, const ts_fsq *q)
{
    ts_quantized r = { NULL, NULL, NULL, NULL, NULL };
    if (!tg_ready(g, (const ts_tensor *const[]){ z }, 1)) return r;
    if (z->rank != 4 || z->dim[3] != q->D) {
        tg_mismatch(g, "fsq", "(B,h,w,D) with one channel per level", z);
        return r;
    }
    int64_t tokens = z->dim[1] * z->dim[2];
    ts_tensor *in[] = { z };
    r.f_hat = tg_like(g, z);
    r.idx = tg_new(g, TS_I32, 2, TG_DIMS(z->dim[0], tokens));
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->fsq_fwd(TG_S(g), TG_F(r.f_hat), TG_I(r.idx), TG_F(z), q, z->dim[0] * tokens));
    tg_node *n = tg_record(g, fsq_back, r.f_hat, in, 1);
    if (n) n->u.fsq = *q;
    tg_consume(g, in, 1);
    return r;
}

ts_tensor *tg_fsq_decode(ts_graph *g, ts_tensor *idx, const ts_fsq *q)
{
    TG_READY(g, idx);
    ts_tensor *y = tg_new(g, TS_F32, 3, TG_DIMS(idx->dim[0], idx->dim[1], q->D));
    if (y) tg_check(g, TG_BE(g)->fsq_decode(TG_S(g), TG_F(y), TG_I(idx), q, ts_tensor_count(idx)));
    return y;
}

/* --- FSQ between two 1x1 convolutions: in x and the weights; saved: z --- */

static ts_fsq_project project_of(const tg_fsq_weights *w, const ts_fsq *q, int64_t N)
{
    return (ts_fsq_project){ N, (int)w->w_in->dim[3], (int)w->w_out->dim[0], *q };
}

static int project_fits(const tg_fsq_weights *w, const ts_fsq *q)
{
    return w->w_in->rank == 4 && w->w_out->rank == 4 && w->w_in->dim[0] == q->D && w->w_out->dim[3] == q->D &&
           w->w_in->dim[1] == 1 && w->w_out->dim[1] == 1;
}

static ts_fsq_weights project_data(ts_tensor *const *w)
{
    return (ts_fsq_weights){ TG_F(w[0]), TG_F(w[1]), TG_F(w[2]), TG_F(w[3]) };
}

static void fsq_project_back(ts_graph *g, tg_node *n)
{
    const ts_fsq_project *p = &n->u.project;
    const ts_fsq_weights w = project_data(n->in + 1);
    ts_block *temp, *scratch = tg_scratch(g, TG_BE(g)->fsq_project_scratch(TG_S(g), p));
    const ts_fsq_weights grad = { tg_grad_add(g, n->in[1]), tg_grad_add(g, n->in[2]), tg_grad_add(g, n->in[3]),
                                  tg_grad_add(g, n->in[4]) };
    float *dx = tg_grad_set(g, n->in[0], &temp);
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->fsq_project_bwd(TG_S(g), dx, &grad, n->out->grad, TG_F(n->in[0]), n->saved[0]->p, &w, p,
                                              scratch->p));
    tg_grad_done(g, n->in[0], temp);
    ts_block_drop(g->d, scratch);
}

ts_quantized tg_fsq_project(ts_graph *g, ts_tensor *x, const tg_fsq_weights *w, const ts_fsq *q)
{
    ts_quantized r = { NULL, NULL, NULL, NULL, NULL };
    ts_tensor *in[] = { x, w->w_in, w->b_in, w->w_out, w->b_out };
    if (!tg_ready(g, (const ts_tensor *const[]){ x, w->w_in, w->b_in, w->w_out, w->b_out }, 5)) return r;
    if (x->rank != 4 || !project_fits(w, q) || x->dim[3] != w->w_in->dim[3]) {
        tg_mismatch(g, "fsq_project", "(B,h,w,C) and 1x1 weights for one channel per level", x);
        return r;
    }
    const int64_t tokens = x->dim[1] * x->dim[2];
    const ts_fsq_project p = project_of(w, q, x->dim[0] * tokens);
    const ts_fsq_weights data = project_data(in + 1);
    r.f_hat = tg_new(g, TS_F32, 4, TG_DIMS(x->dim[0], x->dim[1], x->dim[2], p.O));
    r.idx = tg_new(g, TS_I32, 2, TG_DIMS(x->dim[0], tokens));
    ts_block *z = g->training ? tg_scratch(g, (size_t)(p.N * q->D) * sizeof(float)) : NULL;
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->fsq_project_fwd(TG_S(g), TG_F(r.f_hat), TG_I(r.idx), z ? z->p : NULL, TG_F(x), &data, &p));
    tg_node *n = tg_record(g, fsq_project_back, r.f_hat, in, 5);
    if (n) {
        n->u.project = p;
        n->saved[0] = z;
    } else {
        ts_block_drop(g->d, z);
    }
    tg_consume(g, in, 1);
    return r;
}

ts_tensor *tg_fsq_project_decode(ts_graph *g, ts_tensor *idx, const tg_fsq_weights *w, const ts_fsq *q)
{
    TG_READY(g, idx, w->w_in, w->w_out, w->b_out);
    if (!project_fits(w, q)) return tg_mismatch(g, "fsq_project", "1x1 weights for one channel per level", w->w_out);
    ts_tensor *const all[] = { w->w_in, w->b_in, w->w_out, w->b_out };
    const ts_fsq_project p = project_of(w, q, ts_tensor_count(idx));
    const ts_fsq_weights data = project_data(all);
    ts_tensor *y = tg_new(g, TS_F32, 3, TG_DIMS(idx->dim[0], idx->dim[1], p.O));
    if (y) tg_check(g, TG_BE(g)->fsq_project_decode(TG_S(g), TG_F(y), TG_I(idx), &data, &p));
    return y;
}

/* --- multi-scale residual FSQ: in f, log_gain; saved: idx, x --- */

static void residual_fsq_back(ts_graph *g, tg_node *n)
{
    int64_t B = n->in[0]->dim[0];
    ts_block *temp, *scratch = tg_scratch(g, TG_BE(g)->residual_fsq_scratch(TG_S(g), &n->u.rfsq, B, 1));
    float *dgain = tg_grad_add(g, n->in[1]), *df = tg_grad_set(g, n->in[0], &temp);
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->residual_fsq_bwd(TG_S(g), df, dgain, &n->dphi, n->out->grad, n->f, TG_F(n->in[0]),
                                               n->saved[1]->p, n->saved[0]->p, TG_F(n->in[1]), &n->phi, &n->u.rfsq, B,
                                               scratch->p));
    tg_grad_done(g, n->in[0], temp);
    ts_block_drop(g->d, scratch);
}

ts_quantized tg_residual_fsq(ts_graph *g, ts_tensor *f, ts_tensor *log_gain, ts_tensor *const *phi_w,
                             ts_tensor *const *phi_b, const ts_residual_fsq *q, float aux_weight, int want_partial)
{
    ts_quantized r = { NULL, NULL, NULL, NULL, NULL };
    if (!tg_ready(g, (const ts_tensor *const[]){ f, log_gain }, 2)) return r;
    if (!pyramid_fits(f, &q->p, q->D)) {
        tg_mismatch(g, "residual_fsq", "(B,h,w,D) of the pyramid", f);
        return r;
    }
    int64_t B = f->dim[0];
    ts_phi phi = phi_data(phi_w, phi_b, q->p.S);
    ts_tensor *in[] = { f, log_gain };
    r.f_hat = tg_like(g, f);
    r.idx = tg_new(g, TS_I32, 2, TG_DIMS(B, q->p.T));
    r.stats = tg_new(g, TS_F32, 2, TG_DIMS(q->p.K, 2));
    if (want_partial) r.partial = tg_new(g, TS_F32, 4, TG_DIMS(q->p.K * B, f->dim[1], f->dim[2], q->D));
    ts_block *x = g->training ? tg_scratch(g, (size_t)(B * q->p.T * q->D) * sizeof(float)) : NULL;
    ts_block *scratch = tg_scratch(g, TG_BE(g)->residual_fsq_scratch(TG_S(g), q, B, 0));
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->residual_fsq_fwd(TG_S(g), TG_F(r.f_hat), TG_I(r.idx), x ? x->p : NULL, TG_F(r.partial),
                                               TG_F(r.stats), TG_F(f), TG_F(log_gain), &phi, q, B, scratch->p));
    ts_block_drop(g->d, scratch);
    tg_node *n = tg_record(g, residual_fsq_back, r.f_hat, in, 2);
    if (n) {
        n->u.rfsq = *q;
        n->f = aux_weight;
        n->phi = phi;
        n->dphi = phi_grad(g, phi_w, phi_b, q->p.S);
        n->saved[0] = ts_block_keep(r.idx->memory);
        n->saved[1] = x;
    } else {
        ts_block_drop(g->d, x);
    }
    tg_consume(g, in, 1);
    return r;
}

ts_tensor *tg_residual_fsq_lookup(ts_graph *g, ts_tensor *idx, ts_tensor *log_gain, const ts_residual_fsq *q, int k)
{
    TG_READY(g, idx, log_gain);
    if (idx->rank != 2 || idx->dim[1] != q->p.start[k + 1] - q->p.start[k])
        return tg_mismatch(g, "residual_fsq_lookup", "(B, tokens of this scale)", idx);
    ts_tensor *y = tg_new(g, TS_F32, 3, TG_DIMS(idx->dim[0], idx->dim[1], q->D));
    if (y) tg_check(g, TG_BE(g)->residual_fsq_lookup(TG_S(g), TG_F(y), TG_I(idx), TG_F(log_gain), q, k, idx->dim[0]));
    return y;
}

/* --- multi-scale residual VQ: in f, codebook; saved: idx --- */

static void residual_vq_back(ts_graph *g, tg_node *n)
{
    int64_t B = n->in[0]->dim[0];
    ts_block *temp, *scratch = tg_scratch(g, TG_BE(g)->residual_vq_scratch(TG_S(g), &n->u.rvq, B, 1));
    float *dcode = tg_grad_add(g, n->in[1]), *df = tg_grad_set(g, n->in[0], &temp);
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->residual_vq_bwd(TG_S(g), df, dcode, &n->dphi, n->out->grad, n->f, TG_F(n->in[0]),
                                              n->saved[0]->p, TG_F(n->in[1]), &n->phi, &n->u.rvq, B, scratch->p));
    tg_grad_done(g, n->in[0], temp);
    ts_block_drop(g->d, scratch);
}

ts_quantized tg_residual_vq(ts_graph *g, ts_tensor *f, ts_tensor *codebook, ts_tensor *const *phi_w,
                            ts_tensor *const *phi_b, const ts_residual_vq *q, float loss_weight, int want_partial,
                            int want_z)
{
    ts_quantized r = { NULL, NULL, NULL, NULL, NULL };
    if (!tg_ready(g, (const ts_tensor *const[]){ f, codebook }, 2)) return r;
    if (!pyramid_fits(f, &q->p, q->D)) {
        tg_mismatch(g, "residual_vq", "(B,h,w,D) of the pyramid", f);
        return r;
    }
    int64_t B = f->dim[0];
    ts_phi phi = phi_data(phi_w, phi_b, q->p.S);
    ts_tensor *in[] = { f, codebook };
    r.f_hat = tg_like(g, f);
    r.idx = tg_new(g, TS_I32, 2, TG_DIMS(B, q->p.T));
    r.stats = tg_new(g, TS_F32, 1, TG_DIMS(q->p.K));
    if (want_z) r.z = tg_new(g, TS_F32, 3, TG_DIMS(B, q->p.T, q->D));
    if (want_partial) r.partial = tg_new(g, TS_F32, 4, TG_DIMS(q->p.K * B, f->dim[1], f->dim[2], q->D));
    ts_block *scratch = tg_scratch(g, TG_BE(g)->residual_vq_scratch(TG_S(g), q, B, 0));
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->residual_vq_fwd(TG_S(g), TG_F(r.f_hat), TG_I(r.idx), TG_F(r.z), TG_F(r.partial),
                                              TG_F(r.stats), TG_F(f), TG_F(codebook), &phi, q, B, scratch->p));
    ts_block_drop(g->d, scratch);
    tg_node *n = tg_record(g, residual_vq_back, r.f_hat, in, 2);
    if (n) {
        n->u.rvq = *q;
        n->f = loss_weight;
        n->phi = phi;
        n->dphi = phi_grad(g, phi_w, phi_b, q->p.S);
        n->saved[0] = ts_block_keep(r.idx->memory);
    }
    tg_consume(g, in, 1);
    return r;
}

ts_tensor *tg_pyramid_add(ts_graph *g, ts_tensor *f_hat, ts_tensor *code, ts_tensor *const *phi_w,
                          ts_tensor *const *phi_b, const ts_pyramid *p, int k)
{
    TG_READY(g, f_hat, code);
    int D = (int)f_hat->dim[3];
    if (!pyramid_fits(f_hat, p, D) || ts_tensor_count(code) != f_hat->dim[0] * p->py[k] * p->px[k] * D)
        return tg_mismatch(g, "pyramid_add", "the codes of this scale", code);
    int64_t B = f_hat->dim[0];
    ts_phi phi = phi_data(phi_w, phi_b, p->S);
    ts_tensor *next = NULL;
    if (k + 1 < p->K) next = tg_new(g, TS_F32, 3, TG_DIMS(B, (int64_t)p->py[k + 1] * p->px[k + 1], D));
    ts_block *scratch = tg_scratch(g, TG_BE(g)->pyramid_scratch(TG_S(g), p, D, B));
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->pyramid_add(TG_S(g), TG_F(f_hat), TG_F(next), TG_F(code), &phi, p, D, k, B, scratch->p));
    ts_block_drop(g->d, scratch);
    tg_consume(g, &code, 1);
    return next;
}

/* --- losses: the gradient of the input is computed in the forward and kept until the way back --- */

static void loss_back(ts_graph *g, tg_node *n)
{
    tg_grad_alias(g, n->in[0], n->saved[0]);
}

static void record_loss(ts_graph *g, ts_tensor *x, ts_block *dx)
{
    tg_node *n = tg_record(g, loss_back, NULL, &x, 1);
    if (n) n->saved[0] = dx;
    else ts_block_drop(g->d, dx);
}

static ts_block *loss_gradient(ts_graph *g, const ts_tensor *x)
{
    return g->training && x->needs_grad ? tg_scratch(g, (size_t)ts_tensor_count(x) * sizeof(float)) : NULL;
}

ts_tensor *tg_pixel_loss(ts_graph *g, ts_tensor *x, ts_tensor *target, float w1, float w2)
{
    TG_READY(g, x, target);
    if (ts_tensor_count(x) != ts_tensor_count(target)) return tg_mismatch(g, "pixel_loss", "the target's shape", x);
    ts_tensor *sums = tg_new(g, TS_F32, 1, TG_DIMS(2));
    ts_block *dx = loss_gradient(g, x);
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->pixel_loss(TG_S(g), TG_F(sums), dx ? dx->p : NULL, TG_F(x), TG_F(target), w1, w2,
                                         ts_tensor_count(x)));
    record_loss(g, x, dx);
    return sums;
}

ts_tensor *tg_cross_entropy(ts_graph *g, ts_tensor *logits, ts_tensor *target, float weight)
{
    TG_READY(g, logits, target);
    int64_t V = logits->dim[logits->rank - 1], N = ts_tensor_count(logits) / V;
    if (ts_tensor_count(target) != N) return tg_mismatch(g, "cross_entropy", "one target per row", target);
    ts_tensor *loss = tg_new(g, TS_F32, 1, TG_DIMS(N));
    ts_block *d = loss_gradient(g, logits);
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->cross_entropy(TG_S(g), TG_F(loss), d ? d->p : NULL, TG_F(logits), TG_I(target),
                                            weight / (float)N, N, V));
    record_loss(g, logits, d);
    return loss;
}

ts_tensor *tg_digit_head(ts_graph *g, ts_tensor *u, ts_tensor *b, ts_tensor *E, ts_tensor *W, ts_tensor *c,
                         ts_tensor *code, ts_tensor *scale_of, const ts_digit_head *d, float weight)
{
    TG_READY(g, u, b, E, W, c, code, scale_of);
    int64_t N = ts_tensor_count(code), T = ts_tensor_count(scale_of);
    if (ts_tensor_count(u) != N * d->M || N % T != 0) return tg_mismatch(g, "digit_head", "(B,T,M)", u);
    ts_tensor *loss = tg_new(g, TS_F32, 2, TG_DIMS(N, d->D));
    ts_digit_params p = { TG_F(b), TG_F(E), TG_F(W), TG_F(c) }, dp;
    ts_block *du = loss_gradient(g, u);
    if (du) dp = (ts_digit_params){ tg_grad_add(g, b), tg_grad_add(g, E), tg_grad_add(g, W), tg_grad_add(g, c) };
    ts_block *scratch = tg_scratch(g, TG_BE(g)->digit_head_scratch(TG_S(g), d, N));
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->digit_head(TG_S(g), TG_F(loss), du ? du->p : NULL, du ? &dp : NULL, TG_F(u), TG_I(code),
                                         TG_I(scale_of), &p, weight / (float)N, d, N, T, scratch->p));
    ts_block_drop(g->d, scratch);
    record_loss(g, u, du);
    return loss;
}

/* --- sampling --- */

ts_tensor *tg_sample(ts_graph *g, ts_tensor *logits, const ts_sample *a)
{
    TG_READY(g, logits);
    if (ts_tensor_count(logits) != (a->guided ? 2 : 1) * a->B * a->t * a->V)
        return tg_mismatch(g, "sample", "(B or 2B, t, V)", logits);
    ts_tensor *idx = tg_new(g, TS_I32, 2, TG_DIMS(a->B, a->t));
    ts_block *scratch = tg_scratch(g, TG_BE(g)->sample_scratch(TG_S(g), a));
    if (g->status == TS_OK) tg_check(g, TG_BE(g)->sample(TG_S(g), TG_I(idx), TG_F(logits), a, scratch->p));
    ts_block_drop(g->d, scratch);
    return idx;
}

ts_tensor *tg_sample_smooth(ts_graph *g, ts_tensor *logits, ts_tensor *codebook, const ts_sample *a, float sharpen, float tau)
{
    TG_READY(g, logits, codebook);
    if (ts_tensor_count(logits) != (a->guided ? 2 : 1) * a->B * a->t * a->V)
        return tg_mismatch(g, "sample_smooth", "(B or 2B, t, V)", logits);
    if (codebook->rank != 2 || codebook->dim[0] != a->V) return tg_mismatch(g, "sample_smooth", "a codebook (V,D)", codebook);
    const ts_smooth m = { codebook->dim[1], sharpen, tau };
    ts_tensor *code = tg_new(g, TS_F32, 3, TG_DIMS(a->B, a->t, m.D));
    ts_block *scratch = tg_scratch(g, TG_BE(g)->sample_scratch(TG_S(g), a));
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->sample_smooth(TG_S(g), TG_F(code), TG_F(logits), TG_F(codebook), a, &m, scratch->p));
    ts_block_drop(g->d, scratch);
    return code;
}

ts_tensor *tg_sample_digits(ts_graph *g, ts_tensor *u, ts_tensor *b, ts_tensor *E, ts_tensor *W, ts_tensor *c,
                            const ts_digit_head *d, int k, const ts_sample *a)
{
    TG_READY(g, u, b, E, W, c);
    if (ts_tensor_count(u) != (a->guided ? 2 : 1) * a->B * a->t * d->M)
        return tg_mismatch(g, "sample_digits", "(B or 2B, t, M)", u);
    ts_digit_params p = { TG_F(b), TG_F(E), TG_F(W), TG_F(c) };
    ts_tensor *idx = tg_new(g, TS_I32, 2, TG_DIMS(a->B, a->t));
    ts_block *scratch = tg_scratch(g, TG_BE(g)->sample_scratch(TG_S(g), a));
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->sample_digits(TG_S(g), TG_I(idx), TG_F(u), &p, d, k, a, scratch->p));
    ts_block_drop(g->d, scratch);
    return idx;
}
