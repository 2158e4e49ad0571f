/* bench_unfused_bwd.c - what backward kernels are compared with: as bench_unfused.c. Contract: bench_kernels.h. */
#include "tools/bench_kernels.h"

enum { MOST_CHANNELS = 1024 };

/* --- SiLU backward, then GroupNorm backward, of what forward's GroupNorm left --- */

static ts_status silu_then_group_norm(kernel *k)
{
    ts_group_norm n = k->u.group;
    n.silu = 0;
    float *du = k->p[k->aux], *u = k->p[k->aux + 1];
    TS_TRY(k->be->act_bwd(k->s, du, k->p[3], u, TS_SILU, k->count[0]));
    return k->be->group_norm_bwd(k->s, k->p[0], k->p[1], k->p[2], du, k->p[4], k->p[5], k->p[6], k->p[7], k->p[8], &n, k->p[9]);
}

void unfused_group_norm_bwd(kernel *k, ts_device *d, ts_status *st)
{
    ts_group_norm n = k->u.group;
    n.silu = 0;
    k->aux = kernel_room(k, d, st, k->count[0]);
    kernel_room(k, d, st, k->count[0]);
    /* what forward would have left, its statistics, too */
    if (*st == TS_OK)
        *st = k->be->group_norm_fwd(k->s, k->p[k->aux + 1], k->p[5], k->p[6], k->p[4], k->p[7], k->p[8], &n);
    k->unfused = silu_then_group_norm;
    k->same = 3;
}

/* --- AdaLN: modulate, LayerNorm, gate, each backward --- */

/* sum (B,C) += the rows x (B,T,C) of each image */
static ts_status sum_tokens(kernel *k, float *sum, const float *x)
{
    const ts_ada_norm *n = &k->u.ada;
    for (int64_t b = 0; b < n->B; b++) TS_TRY(k->be->sum_rows(k->s, sum + b * n->C, x + b * n->T * n->C, n->T, 1, n->C));
    return TS_OK;
}

/* dn = the gradient of r, from dn, that of norm = (r - mean) rstd; work (B,T,C), means (B,T): room */
static ts_status layer_norm_bwd(kernel *k, float *dn, const float *norm, float *work, float *means)
{
    const ts_ada_norm *n = &k->u.ada;
    const int64_t rows = n->B * n->T, N = rows * n->C;
    const ts_linear mean = { .N = rows, .I = n->C, .O = 1 };
    const float *each = k->p[k->aux + 4], *rstd = k->p[9];
    float *room = k->p[k->aux + 5];
    TS_TRY(kernel_map(k, work, dn, TS_STEP_MUL, norm, N, 1, n->C));
    TS_TRY(k->be->linear_fwd(k->s, means, work, each, NULL, &mean, room));
    TS_TRY(kernel_map(k, work, norm, TS_STEP_MUL, means, N, n->C, 1));
    TS_TRY(k->be->linear_fwd(k->s, means, dn, each, NULL, &mean, room));
    TS_TRY(kernel_map(k, dn, dn, TS_STEP_SUB, means, N, n->C, 1));
    TS_TRY(kernel_map(k, dn, dn, TS_STEP_SUB, work, N, 1, n->C));
    return kernel_map(k, dn, dn, TS_STEP_MUL, rstd, N, n->C, 1);
}

static ts_status ada_norm_back_in_steps(kernel *k)
{
    const ts_ada_norm *n = &k->u.ada;
    const int64_t N = n->B * n->T * n->C;
    float *dx = k->p[0], *dh = k->p[1], *dgate = k->p[2], *dscale = k->p[3], *dshift = k->p[4];
    const float *dy = k->p[5], *dr = k->p[6], *r = k->p[7], *mean = k->p[8], *rstd = k->p[9], *h = k->p[10], *gate = k->p[11];
    float *norm = k->p[k->aux], *dn = k->p[k->aux + 1], *work = k->p[k->aux + 2], *means = k->p[k->aux + 3];
    TS_TRY(kernel_map(k, norm, r, TS_STEP_SUB, mean, N, n->C, 1));
    TS_TRY(kernel_map(k, norm, norm, TS_STEP_MUL, rstd, N, n->C, 1));
    TS_TRY(kernel_map(k, work, dy, TS_STEP_MUL, norm, N, 1, n->C));
    TS_TRY(sum_tokens(k, dscale, work));
    TS_TRY(sum_tokens(k, dshift, dy));
    TS_TRY(kernel_map(k, dn, dy, TS_STEP_MUL, gate, N, n->T, n->C)); /* the scale, one buffer for both */
    TS_TRY(kernel_map(k, dn, dn, TS_STEP_ADD, dy, N, 1, n->C));
    TS_TRY(layer_norm_bwd(k, dn, norm, work, means));
    TS_TRY(kernel_map(k, dx, dn, TS_STEP_ADD, dr, N, 1, n->C));
    TS_TRY(kernel_map(k, work, dx, TS_STEP_MUL, h, N, 1, n->C));
    TS_TRY(sum_tokens(k, dgate, work));
    return kernel_map(k, dh, dx, TS_STEP_MUL, gate, N, n->T, n->C);
}

void unfused_ada_norm_bwd(kernel *k, ts_device *d, ts_status *st)
{
    const ts_ada_norm *n = &k->u.ada;
    const int64_t rows = n->B * n->T;
    const ts_linear mean = { .N = rows, .I = n->C, .O = 1 };
    float each[MOST_CHANNELS];
    if (*st == TS_OK && n->C > MOST_CHANNELS) *st = ts_fail(TS_E_INTERNAL, "bench: more than %d channels", MOST_CHANNELS);
    for (int64_t i = 0; i < n->C && i < MOST_CHANNELS; i++) each[i] = 1 / (float)n->C;
    k->aux = kernel_room(k, d, st, k->count[0]);
    for (int i = 0; i < 2; i++) kernel_room(k, d, st, k->count[0]);
    kernel_room(k, d, st, rows);
    if (*st != TS_OK) return;
    kernel_numbers(k, d, st, each, n->C);
    kernel_scratch(k, d, st, k->be->linear_scratch(k->s, &mean, 0));
    k->unfused = ada_norm_back_in_steps;
    k->products = 2;
    k->product_bytes = 2 * 4.0 * (double)(rows * n->C + n->C + rows);
    k->same = 5;
}

/* --- FSQ with the tanh bound: its slope, times the gradient --- */

static ts_status fsq_back_in_steps(kernel *k)
{
    const int64_t D = k->u.fsq.D, N = k->N * D;
    float *work = k->p[k->aux];
    const float *shift = k->p[k->aux + 1], *one = k->p[k->aux + 2], *slope = k->p[k->aux + 3];
    TS_TRY(kernel_map(k, work, k->p[2], TS_STEP_ADD, shift, N, k->N, D));
    TS_TRY(kernel_map(k, work, work, TS_STEP_TANH, NULL, N, k->N, D));
    TS_TRY(kernel_map(k, work, work, TS_STEP_MUL, work, N, 1, D));
    TS_TRY(kernel_map(k, work, work, TS_STEP_SUB, one, N, N, 1));
    TS_TRY(kernel_map(k, work, work, TS_STEP_MUL, slope, N, k->N, D));
    return kernel_map(k, k->p[0], work, TS_STEP_MUL, k->p[1], N, 1, D);
}

void unfused_fsq_bwd(kernel *k, ts_device *d, ts_status *st)
{
    const ts_fsq *q = &k->u.fsq;
    const float one = 1;
    float slope[TS_MAX_D];
    for (int i = 0; i < q->D; i++) slope[i] = -q->half[i] / (float)(q->level[i] / 2);
    k->aux = kernel_room(k, d, st, k->count[0]);
    kernel_numbers(k, d, st, q->shift, q->D);
    kernel_numbers(k, d, st, &one, 1);
    kernel_numbers(k, d, st, slope, q->D);
    k->unfused = fsq_back_in_steps;
    k->same = 1;
}

/* --- projection out, FSQ, projection in, each backward; the values once more --- */

static ts_status project_back_in_steps(kernel *k)
{
    const ts_fsq_project *p = &k->u.project;
    const ts_fsq_weights *w = &k->projections;
    const ts_linear in = kernel_way(k, p->C, p->q.D), out = kernel_way(k, p->q.D, p->O);
    const float *dy = k->p[5], *x = k->p[6], *z = k->p[7];
    float *value = k->p[k->aux], *dvalue = k->p[k->aux + 1], *dz = k->p[k->aux + 2];
    TS_TRY(k->be->fsq_fwd(k->s, value, (int32_t *)(void *)k->p[k->aux + 3], z, &p->q, p->N));
    TS_TRY(k->be->linear_bwd(k->s, dvalue, k->p[3], k->p[4], dy, value, w->w_out, &out, k->p[k->aux + 4]));
    TS_TRY(k->be->fsq_bwd(k->s, dz, dvalue, z, &p->q, p->N));
    return k->be->linear_bwd(k->s, k->p[0], k->p[1], k->p[2], dz, x, w->w_in, &in, k->p[k->aux + 5]);
}

void unfused_fsq_project_bwd(kernel *k, ts_device *d, ts_status *st)
{
    const ts_fsq_project *p = &k->u.project;
    const int64_t D = p->q.D;
    const ts_linear in = kernel_way(k, p->C, p->q.D), out = kernel_way(k, p->q.D, p->O);
    k->aux = kernel_room(k, d, st, p->N * D);
    for (int i = 0; i < 2; i++) kernel_room(k, d, st, p->N * D);
    kernel_room(k, d, st, p->N);
    kernel_scratch(k, d, st, k->be->linear_scratch(k->s, &out, 1));
    kernel_scratch(k, d, st, k->be->linear_scratch(k->s, &in, 1));
    k->unfused = project_back_in_steps;
    k->products = 4; /* gradients of both inputs and of both weights, which are added to */
    k->product_bytes = 4.0 * (double)(2 * p->N * (p->C + p->O + 2 * D) + 3 * D * (p->C + p->O));
    k->same = 5;
}
