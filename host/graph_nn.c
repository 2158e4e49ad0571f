/* graph_nn.c - network ops on the tape: products, norms, activations, attention. Contract: graph.h. */
#include "host/graph_private.h"

#include <string.h>

/* --- linear --- */

static void linear_back(ts_graph *g, tg_node *n)
{
    ts_block *temp, *scratch = tg_scratch(g, TG_BE(g)->linear_scratch(TG_S(g), &n->u.linear, 1));
    float *dw = tg_grad_add(g, n->in[1]), *db = tg_grad_add(g, n->in[2]);
    float *dx = tg_grad_set(g, n->in[0], &temp);
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->linear_bwd(TG_S(g), dx, dw, db, n->out->grad, TG_F(n->in[0]), TG_F(n->in[1]), &n->u.linear,
                                         scratch->p));
    tg_grad_done(g, n->in[0], temp);
    ts_block_drop(g->d, scratch);
}

/* With an activation only where nothing flows back. */
static ts_tensor *linear(ts_graph *g, ts_tensor *x, ts_tensor *w, ts_tensor *b, ts_act act)
{
    TG_WHOLE(g, x, w);
    if (w->rank != 2 || x->dim[x->rank - 1] != w->dim[1])
        return tg_mismatch(g, "linear", "last dimension = columns of the weight", x);
    if (b && ts_tensor_count(b) != w->dim[0]) return tg_mismatch(g, "linear", "a bias as long as the output", b);
    ts_linear op = { ts_tensor_count(x) / w->dim[1], w->dim[1], w->dim[0], tg_math(g), x->dtype, act, act ? tg_factor_dtype(g) : TS_F32 };
    int64_t dim[TS_MAX_RANK];
    memcpy(dim, x->dim, sizeof dim);
    dim[x->rank - 1] = op.O;
    ts_tensor *y = tg_new(g, op.y_dtype, x->rank, dim), *in[] = { x, w, b };
    ts_block *scratch = tg_scratch(g, TG_BE(g)->linear_scratch(TG_S(g), &op, 0));
    if (y && scratch)
        tg_check(g, TG_BE(g)->linear_fwd(TG_S(g), y->data, x->data, TG_F(w), TG_F(b), &op, scratch->p));
    ts_block_drop(g->d, scratch);
    tg_node *n = tg_record(g, linear_back, y, in, 3);
    if (n) n->u.linear = op;
    tg_consume(g, in, 1);
    return y;
}

ts_tensor *tg_linear(ts_graph *g, ts_tensor *x, ts_tensor *w, ts_tensor *b)
{
    return linear(g, x, w, b, TS_NO_ACT);
}

ts_tensor *tg_linear_act(ts_graph *g, ts_tensor *x, ts_tensor *w, ts_tensor *b, ts_act act)
{
    return g->training ? tg_act(g, tg_move(tg_linear(g, x, w, b)), act) : linear(g, x, w, b, act);
}

/* --- conv2d --- */

static void conv2d_back(ts_graph *g, tg_node *n)
{
    ts_block *temp, *scratch = tg_scratch(g, TG_BE(g)->conv2d_scratch(TG_S(g), &n->u.conv, 1));
    float *dw = tg_grad_add(g, n->in[1]), *db = tg_grad_add(g, n->in[2]);
    float *dx = tg_grad_set(g, n->in[0], &temp);
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->conv2d_bwd(TG_S(g), dx, dw, db, n->out->grad, TG_F(n->in[0]), TG_F(n->in[1]), &n->u.conv,
                                         scratch->p));
    tg_grad_done(g, n->in[0], temp);
    ts_block_drop(g->d, scratch);
}

/* Where the time to prepare comes back: cuDNN compiles a kernel in about two seconds. By the published peaks of an A100 (156 TFLOP/s in
 * TF32, 312 in bfloat16) that saves 0.1 ms in a batch of 16 pictures with 1e9 multiplications each: it is back after 20,000 batches, and
 * for the large layers of a tokenizer much sooner. */
int tg_prepares(const ts_graph *g, int64_t multiplications)
{
    return g->training && multiplications >= 1000000000;
}

ts_tensor *tg_conv2d(ts_graph *g, ts_tensor *x, ts_tensor *w, ts_tensor *b, int stride, int pad_lo, int pad_hi)
{
    TG_WHOLE(g, x, w);
    if (x->rank != 4 || w->rank != 4 || x->dim[3] != w->dim[3])
        return tg_mismatch(g, "conv2d", "(B,Y,X,C) with the weight's input channels", x);
    ts_conv2d op = { x->dim[0], x->dim[1], x->dim[2], x->dim[3], w->dim[0], (int)w->dim[1], stride, pad_lo, pad_hi,
                     tg_math(g), x->dtype, 0 };
    op.recurs = tg_prepares(g, ts_conv2d_out(&op, op.Y) * ts_conv2d_out(&op, op.X) * op.O * op.k * op.k * op.C);
    ts_tensor *in[] = { x, w, b };
    ts_tensor *y = tg_new(g, TS_F32, 4, TG_DIMS(op.B, ts_conv2d_out(&op, op.Y), ts_conv2d_out(&op, op.X), op.O));
    ts_block *scratch = tg_scratch(g, TG_BE(g)->conv2d_scratch(TG_S(g), &op, 0));
    if (y && scratch)
        tg_check(g, TG_BE(g)->conv2d_fwd(TG_S(g), TG_F(y), x->data, TG_F(w), TG_F(b), &op, scratch->p));
    ts_block_drop(g->d, scratch);
    tg_node *n = tg_record(g, conv2d_back, y, in, 3);
    if (n) n->u.conv = op;
    tg_consume(g, in, 1);
    return y;
}

/* --- group norm --- */

static void group_norm_back(ts_graph *g, tg_node *n)
{
    ts_block *temp, *scratch = tg_scratch(g, TG_BE(g)->group_norm_scratch(TG_S(g), &n->u.group));
    float *dgamma = tg_grad_add(g, n->in[1]), *dbeta = tg_grad_add(g, n->in[2]);
    float *dx = tg_grad_set(g, n->in[0], &temp);
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->group_norm_bwd(TG_S(g), dx, dgamma, dbeta, n->out->grad, TG_F(n->in[0]), n->saved[0]->p,
                                             n->saved[1]->p, TG_F(n->in[1]), TG_F(n->in[2]), &n->u.group, scratch->p));
    tg_grad_done(g, n->in[0], temp);
    ts_block_drop(g->d, scratch);
}

ts_tensor *tg_group_norm(ts_graph *g, ts_tensor *x, ts_tensor *gamma, ts_tensor *beta, int groups, float eps, int silu)
{
    TG_READY(g, x, gamma, beta);
    int64_t C = x->dim[x->rank - 1];
    if (x->rank != 4 || C % groups != 0 || ts_tensor_count(gamma) != C)
        return tg_mismatch(g, "group_norm", "(B,Y,X,C), C a multiple of the groups", x);
    ts_tensor *y = tg_factor(g, x), *in[] = { x, gamma, beta };
    ts_group_norm op = { x->dim[0], x->dim[1] * x->dim[2], C, groups, eps, silu, y ? y->dtype : TS_F32 };
    size_t bytes = (size_t)(op.B * op.G) * sizeof(float);
    ts_block *mean = tg_scratch(g, bytes), *rstd = tg_scratch(g, bytes);
    if (y && mean && rstd)
        tg_check(g, TG_BE(g)->group_norm_fwd(TG_S(g), y->data, mean->p, rstd->p, TG_F(x), TG_F(gamma), TG_F(beta), &op));
    tg_node *n = tg_record(g, group_norm_back, y, in, 3);
    if (n) {
        n->u.group = op;
        n->saved[0] = mean;
        n->saved[1] = rstd;
    } else {
        ts_block_drop(g->d, mean);
        ts_block_drop(g->d, rstd);
    }
    tg_consume(g, in, 1);
    return y;
}

/* --- activations and sums --- */

static void act_back(ts_graph *g, tg_node *n)
{
    ts_block *temp;
    float *dx = tg_grad_set(g, n->in[0], &temp);
    if (dx)
        tg_check(g, TG_BE(g)->act_bwd(TG_S(g), dx, n->out->grad, TG_F(n->in[0]), n->act, ts_tensor_count(n->out)));
    tg_grad_done(g, n->in[0], temp);
}

ts_tensor *tg_act(ts_graph *g, ts_tensor *x, ts_act act)
{
    TG_READY(g, x);
    ts_tensor *y = tg_factor(g, x), *in[] = { x };
    if (y) tg_check(g, TG_BE(g)->act_fwd(TG_S(g), y->data, TG_F(x), act, ts_tensor_count(x), y->dtype));
    tg_node *n = tg_record(g, act_back, y, in, 1);
    if (n) n->act = act;
    tg_consume(g, in, 1);
    return y;
}

static void add_back(ts_graph *g, tg_node *n)
{
    tg_grad_alias(g, n->in[0], n->out->grad_memory);
    tg_grad_alias(g, n->in[1], n->out->grad_memory);
}

ts_tensor *tg_add(ts_graph *g, ts_tensor *a, ts_tensor *b)
{
    TG_READY(g, a, b);
    if (ts_tensor_count(a) != ts_tensor_count(b)) return tg_mismatch(g, "add", "two tensors of one shape", b);
    ts_tensor *y = tg_like(g, a), *in[] = { a, b };
    if (y) tg_check(g, TG_BE(g)->add(TG_S(g), TG_F(y), TG_F(a), TG_F(b), ts_tensor_count(a)));
    tg_record(g, add_back, y, in, 2);
    tg_consume(g, in, 2);
    return y;
}

static void add_rows_back(ts_graph *g, tg_node *n)
{
    float *drows = tg_grad_add(g, n->in[1]);
    int64_t N = ts_tensor_count(n->in[1]) / n->a;
    if (drows) tg_check(g, TG_BE(g)->sum_rows(TG_S(g), drows, n->out->grad, ts_tensor_count(n->out) / N, n->a, N));
    tg_grad_alias(g, n->in[0], n->out->grad_memory);
}

ts_tensor *tg_add_rows(ts_graph *g, ts_tensor *a, ts_tensor *rows)
{
    TG_READY(g, a, rows);
    int64_t N = a->dim[a->rank - 1], all = ts_tensor_count(rows);
    if (all % N != 0 || ts_tensor_count(a) % all != 0)
        return tg_mismatch(g, "add_rows", "rows that repeat a whole number of times", rows);
    ts_tensor *y = tg_like(g, a), *in[] = { a, rows };
    if (y) tg_check(g, TG_BE(g)->add_rows(TG_S(g), TG_F(y), TG_F(a), TG_F(rows), ts_tensor_count(a) / N, all / N, N));
    tg_node *n = tg_record(g, add_rows_back, y, in, 2);
    if (n) n->a = all / N;
    tg_consume(g, in, 1);
    return y;
}

static void scale_rows_back(ts_graph *g, tg_node *n)
{
    ts_block *temp;
    float *da = tg_grad_set(g, n->in[0], &temp);
    if (da)
        tg_check(g, TG_BE(g)->scale_rows(TG_S(g), da, n->out->grad, TG_F(n->in[1]), n->a, ts_tensor_count(n->out) / n->a));
    tg_grad_done(g, n->in[0], temp);
}

ts_tensor *tg_scale_rows(ts_graph *g, ts_tensor *a, ts_tensor *factor)
{
    TG_READY(g, a, factor);
    int64_t M = ts_tensor_count(factor);
    if (ts_tensor_count(a) % M != 0) return tg_mismatch(g, "scale_rows", "one factor per row", factor);
    ts_tensor *y = tg_like(g, a), *in[] = { a, factor };
    if (y) tg_check(g, TG_BE(g)->scale_rows(TG_S(g), TG_F(y), TG_F(a), TG_F(factor), M, ts_tensor_count(a) / M));
    tg_node *n = tg_record(g, scale_rows_back, y, in, 2);
    if (n) n->a = M;
    tg_consume(g, in, 1);
    return y;
}

/* --- resampling --- */

static void resample_back(ts_graph *g, tg_node *n, ts_resample_bwd_fn *bwd)
{
    ts_block *temp;
    float *dx = tg_grad_set(g, n->in[0], &temp);
    if (dx) tg_check(g, bwd(TG_S(g), dx, n->out->grad, &n->u.resample));
    tg_grad_done(g, n->in[0], temp);
}

static void nearest2x_back(ts_graph *g, tg_node *n)
{
    resample_back(g, n, TG_BE(g)->nearest2x_bwd);
}

static void area_back(ts_graph *g, tg_node *n)
{
    resample_back(g, n, TG_BE(g)->area_bwd);
}

static ts_tensor *resample(ts_graph *g, ts_tensor *x, int64_t rows, int64_t columns, ts_resample_fwd_fn *fwd,
                           void (*back)(ts_graph *, tg_node *))
{
    ts_resample op = { x->dim[0], x->dim[3], x->dim[1], x->dim[2], rows, columns };
    ts_tensor *y = tg_new(g, TS_F32, 4, TG_DIMS(op.B, rows, columns, op.D)), *in[] = { x };
    if (y) tg_check(g, fwd(TG_S(g), TG_F(y), TG_F(x), &op));
    tg_node *n = tg_record(g, back, y, in, 1);
    if (n) n->u.resample = op;
    tg_consume(g, in, 1);
    return y;
}

ts_tensor *tg_nearest2x(ts_graph *g, ts_tensor *x)
{
    TG_READY(g, x);
    if (x->rank != 4) return tg_mismatch(g, "nearest2x", "(B,Y,X,C)", x);
    return resample(g, x, 2 * x->dim[1], 2 * x->dim[2], TG_BE(g)->nearest2x_fwd, nearest2x_back);
}

ts_tensor *tg_area(ts_graph *g, ts_tensor *x, int64_t rows, int64_t columns)
{
    TG_READY(g, x);
    if (x->rank != 4 || rows > x->dim[1] || columns > x->dim[2])
        return tg_mismatch(g, "area", "(B,Y,X,C), no smaller than the result", x);
    return resample(g, x, rows, columns, TG_BE(g)->area_fwd, area_back);
}

/* --- tokens --- */

static void embedding_back(ts_graph *g, tg_node *n)
{
    float *dtable = tg_grad_add(g, n->in[0]);
    const ts_tensor *table = n->in[0];
    if (dtable)
        tg_check(g, TG_BE(g)->embedding_bwd(TG_S(g), dtable, n->out->grad, TG_I(n->in[1]), n->a, table->dim[1],
                                            table->dim[0]));
}

ts_tensor *tg_embedding(ts_graph *g, ts_tensor *table, ts_tensor *idx)
{
    TG_READY(g, table, idx);
    if (table->rank != 2 || idx->rank >= TS_MAX_RANK) return tg_mismatch(g, "embedding", "a table (V,C)", table);
    int64_t dim[TS_MAX_RANK], N = ts_tensor_count(idx);
    memcpy(dim, idx->dim, sizeof dim);
    dim[idx->rank] = table->dim[1];
    ts_tensor *y = tg_new(g, TS_F32, idx->rank + 1, dim), *in[] = { table, idx };
    if (y) tg_check(g, TG_BE(g)->embedding_fwd(TG_S(g), TG_F(y), TG_F(table), TG_I(idx), N, table->dim[1]));
    tg_node *n = tg_record(g, embedding_back, y, in, 2);
    if (n) n->a = N;
    return y;
}

/* Copies the tokens of one part into, or out of, the joined tensor. */
static void copy_tokens(ts_graph *g, float *part, float *joined, int64_t B, int64_t part_row, int64_t joined_row, int out)
{
    size_t bytes = (size_t)part_row * sizeof(float);
    for (int64_t b = 0; b < B; b++) {
        float *p = part + b * part_row, *j = joined + b * joined_row;
        tg_check(g, TG_BE(g)->copy(TG_S(g), out ? p : j, out ? j : p, bytes));
    }
}

static void concat_back(ts_graph *g, tg_node *n)
{
    int64_t at = 0, B = n->out->dim[0], row = n->out->dim[1] * n->out->dim[2];
    for (int i = 0; i < 2; i++) {
        ts_block *temp;
        float *d = tg_grad_set(g, n->in[i], &temp);
        int64_t part = n->in[i]->dim[1] * n->in[i]->dim[2];
        if (d) copy_tokens(g, d, n->out->grad + at, B, part, row, 1);
        tg_grad_done(g, n->in[i], temp);
        at += part;
    }
}

ts_tensor *tg_concat_tokens(ts_graph *g, ts_tensor *a, ts_tensor *b)
{
    TG_READY(g, a, b);
    if (a->rank != 3 || b->rank != 3 || a->dim[0] != b->dim[0] || a->dim[2] != b->dim[2])
        return tg_mismatch(g, "concat_tokens", "two (B,T,C) with equal B and C", b);
    int64_t B = a->dim[0], ra = a->dim[1] * a->dim[2], rb = b->dim[1] * b->dim[2];
    ts_tensor *y = tg_new(g, TS_F32, 3, TG_DIMS(B, a->dim[1] + b->dim[1], a->dim[2])), *in[] = { a, b };
    if (!y) return NULL;
    copy_tokens(g, TG_F(a), TG_F(y), B, ra, ra + rb, 0);
    copy_tokens(g, TG_F(b), TG_F(y) + ra, B, rb, ra + rb, 0);
    tg_record(g, concat_back, y, in, 2);
    tg_consume(g, in, 2);
    return y;
}

/* --- AdaLN --- */

static int64_t row_stride(const ts_tensor *t)
{
    return t ? (t->stride ? t->stride : t->dim[t->rank - 1]) : 0;
}

/* in: x, h, gate, scale, shift. out: y, out2: the residual stream (NULL where h was NULL: then it is x itself). */
static void ada_norm_back(ts_graph *g, tg_node *n)
{
    ts_tensor *x = n->in[0], *h = n->in[1], *r = n->out2 ? n->out2 : x;
    float *dgate = tg_grad_add(g, n->in[2]), *dscale = tg_grad_add(g, n->in[3]), *dshift = tg_grad_add(g, n->in[4]);
    ts_block *temp_x, *temp_h;
    if (!n->out->grad && n->out2) { /* nothing reads the norm: only the residual passes */
        ts_graph_fail(g, ts_fail(TS_E_INTERNAL, "ada_norm: the normalised output is not used"));
        return;
    }
    const float *dr = n->out2 ? n->out2->grad : NULL;
    float *dh = tg_grad_set(g, h, &temp_h), *dx = tg_grad_set(g, x, &temp_x);
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->ada_norm_bwd(TG_S(g), dx, dh, dgate, dscale, dshift, n->out->grad, dr, TG_F(r),
                                           n->saved[0]->p, n->saved[1]->p, TG_F(h), TG_F(n->in[2]), TG_F(n->in[3]),
                                           &n->u.ada));
    tg_grad_done(g, h, temp_h);
    tg_grad_done(g, x, temp_x);
}

ts_tensor *tg_ada_norm(ts_graph *g, ts_tensor **stream, ts_tensor *h, ts_tensor *gate, ts_tensor *scale, ts_tensor *shift,
                       float eps)
{
    ts_tensor *x = *stream, *in[] = { x, h, gate, scale, shift };
    if (!tg_ready(g, (const ts_tensor *const[]){ x }, 1)) return NULL;
    if (!tg_present(g, (const ts_tensor *const[]){ scale, shift }, 2)) return NULL;
    if (x->rank != 3 || scale->dim[0] != x->dim[0] || scale->dim[1] != x->dim[2])
        return tg_mismatch(g, "ada_norm", "x (B,T,C) with scale and shift (B,C)", scale);
    ts_tensor *y = tg_factor(g, x), *r = NULL;
    ts_ada_norm op = { x->dim[0], x->dim[1], x->dim[2], row_stride(gate), row_stride(scale), row_stride(shift), eps,
                       y ? y->dtype : TS_F32 };
    size_t bytes = (size_t)(op.B * op.T) * sizeof(float);
    /* In inference the stream is updated in place. */
    if (h) r = g->training ? tg_like(g, x) : x;
    ts_block *mean = g->training ? tg_scratch(g, bytes) : NULL, *rstd = g->training ? tg_scratch(g, bytes) : NULL;
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->ada_norm_fwd(TG_S(g), TG_F(r), y->data, mean ? mean->p : NULL, rstd ? rstd->p : NULL,
                                           TG_F(x), TG_F(h), TG_F(gate), TG_F(scale), TG_F(shift), &op));
    tg_node *n = tg_record(g, ada_norm_back, y, in, 5);
    if (n) {
        n->u.ada = op;
        n->saved[0] = mean;
        n->saved[1] = rstd;
        n->out2 = h ? r : NULL;
        if (r) r->needs_grad = 1;
    } else {
        ts_block_drop(g->d, mean);
        ts_block_drop(g->d, rstd);
    }
    if (h) *stream = r;
    tg_consume(g, &in[1], 1);
    return y;
}

/* --- attention --- */

static void attention_back(ts_graph *g, tg_node *n)
{
    ts_block *temp, *scratch = tg_scratch(g, TG_BE(g)->attention_scratch(TG_S(g), &n->u.attention, 1));
    float *dscale_mul = tg_grad_add(g, n->in[1]), *dqkv = tg_grad_set(g, n->in[0], &temp);
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->attention_bwd(TG_S(g), dqkv, dscale_mul, n->out->grad, TG_F(n->out), n->saved[0]->p,
                                            TG_F(n->in[0]), TG_F(n->in[1]), TG_I(n->in[2]), &n->u.attention, scratch->p));
    tg_grad_done(g, n->in[0], temp);
    ts_block_drop(g->d, scratch);
}

ts_tensor *tg_attention(ts_graph *g, ts_tensor *qkv, ts_tensor *scale_mul, ts_tensor *end, int64_t H, float scale)
{
    TG_READY(g, qkv);
    int64_t C = qkv->dim[2] / 3;
    if (qkv->rank != 3 || C * 3 != qkv->dim[2] || C % H != 0) return tg_mismatch(g, "attention", "(B,T,3*H*c)", qkv);
    ts_attention op = { qkv->dim[0], qkv->dim[1], H, C / H, scale, 0, 0, tg_math(g), tg_factor_dtype(g) };
    ts_tensor *y = tg_new(g, op.dtype, 3, TG_DIMS(op.B, op.T, C)), *in[] = { qkv, scale_mul, end };
    ts_block *lse = g->training ? tg_scratch(g, (size_t)(op.B * op.H * op.T) * sizeof(float)) : NULL;
    ts_block *scratch = tg_scratch(g, TG_BE(g)->attention_scratch(TG_S(g), &op, 0));
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->attention_fwd(TG_S(g), y->data, lse ? lse->p : NULL, TG_F(qkv), TG_F(scale_mul), TG_I(end),
                                            &op, scratch->p));
    ts_block_drop(g->d, scratch);
    tg_node *n = tg_record(g, attention_back, y, in, 3);
    if (n) {
        n->u.attention = op;
        n->saved[0] = lse;
    } else {
        ts_block_drop(g->d, lse);
    }
    tg_consume(g, in, 1);
    return y;
}

ts_tensor *tg_attention_cached(ts_graph *g, ts_tensor *qkv, ts_tensor *scale_mul, ts_tensor *cache_k, ts_tensor *cache_v,
                               int64_t pos, int64_t H, float scale)
{
    TG_READY(g, qkv);
    TG_WHOLE(g, cache_k, cache_v);
    int64_t C = qkv->dim[2] / 3;
    if (qkv->rank != 3 || cache_k->rank != 3 || cache_k->dim[2] != C || pos + qkv->dim[1] > cache_k->dim[1])
        return tg_mismatch(g, "attention_cached", "(B,T,3C) with room in the cache", qkv);
    if (cache_k->dtype != tg_factor_dtype(g) || cache_v->dtype != cache_k->dtype)
        return tg_mismatch(g, "attention_cached", "a cache of tg_factor_dtype", cache_k);
    ts_attention op = { qkv->dim[0], qkv->dim[1], H, C / H, scale, pos, cache_k->dim[1], tg_math(g), cache_k->dtype };
    ts_tensor *y = tg_new(g, op.dtype, 3, TG_DIMS(op.B, op.T, C)), *in[] = { qkv };
    ts_block *scratch = tg_scratch(g, TG_BE(g)->attention_scratch(TG_S(g), &op, 0));
    if (g->status == TS_OK)
        tg_check(g, TG_BE(g)->attention_cached(TG_S(g), y->data, cache_k->data, cache_v->data, TG_F(qkv), TG_F(scale_mul),
                                               &op, scratch->p));
    ts_block_drop(g->d, scratch);
    tg_consume(g, in, 1);
    return y;
}
