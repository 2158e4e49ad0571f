/* bench_unfused.c - what kernels are compared with: the same results by calls that do one step each, as a program without fused
 * kernels makes them. Contract: bench_kernels.h. */
#include <string.h>

#include "tools/bench_kernels.h"

int kernel_room(kernel *k, ts_device *d, ts_status *st, int64_t n)
{
    return kernel_buffer(k, d, st, KERNEL_SCRATCH, n);
}

int kernel_scratch(kernel *k, ts_device *d, ts_status *st, size_t bytes)
{
    return kernel_room(k, d, st, (int64_t)bytes / 4 + 1);
}

int kernel_numbers(kernel *k, ts_device *d, ts_status *st, const float *x, int64_t n)
{
    int i = kernel_room(k, d, st, n);
    if (*st == TS_OK) *st = k->be->upload(k->s, k->p[i], x, (size_t)n * sizeof *x);
    return i;
}

ts_status kernel_map(kernel *k, float *y, const float *a, ts_step_map f, const float *b, int64_t N, int64_t R, int64_t C)
{
    return k->be->step_map(k->s, y, a, b, f, N, R, C);
}

/* --- residual: gate, add; LayerNorm; modulate: scale, add, shift --- */

static ts_status ada_norm_in_steps(kernel *k)
{
    const ts_ada_norm *n = &k->u.ada;
    const int64_t N = n->B * n->T * n->C;
    const float *x = k->p[4], *h = k->p[5], *gate = k->p[6], *scale = k->p[7], *shift = k->p[8];
    float *r = k->p[0], *y = k->p[1], *norm = k->p[k->aux];
    TS_TRY(kernel_map(k, r, h, TS_STEP_MUL, gate, N, n->T, n->C));
    TS_TRY(kernel_map(k, r, r, TS_STEP_ADD, x, N, 1, n->C));
    TS_TRY(k->be->step_rows(k->s, norm, r, NULL, TS_STEP_NORMALISE, NULL, n->B * n->T, n->C));
    TS_TRY(kernel_map(k, y, norm, TS_STEP_MUL, scale, N, n->T, n->C));
    TS_TRY(kernel_map(k, y, y, TS_STEP_ADD, norm, N, 1, n->C));
    return kernel_map(k, y, y, TS_STEP_ADD, shift, N, n->T, n->C);
}

void unfused_ada_norm(kernel *k, ts_device *d, ts_status *st)
{
    k->aux = kernel_room(k, d, st, k->count[0]);
    k->unfused = ada_norm_in_steps;
    k->same = 2;
}

/* --- product; bias; GELU --- */

static ts_status linear_gelu_in_steps(kernel *k)
{
    ts_linear l = k->u.linear;
    l.act = TS_NO_ACT;
    TS_TRY(k->be->linear_fwd(k->s, aux(k, 0), k->p[1], k->p[2], NULL, &l, aux(k, 1)));
    TS_TRY(kernel_map(k, aux(k, 0), aux(k, 0), TS_STEP_ADD, k->p[3], l.N * l.O, l.N, l.O));
    return k->be->act_fwd(k->s, k->p[0], aux(k, 0), k->u.linear.act, l.N * l.O, TS_F32);
}

void unfused_linear_gelu(kernel *k, ts_device *d, ts_status *st)
{
    k->aux = kernel_room(k, d, st, k->count[0]);
    kernel_scratch(k, d, st, k->be->linear_scratch(k->s, &k->u.linear, 0));
    k->unfused = linear_gelu_in_steps;
    k->same = 1;
}

/* --- softmax, loss, gradient --- */

static ts_status cross_entropy_in_steps(kernel *k)
{
    const int32_t *target = (const int32_t *)(const void *)k->p[3];
    float *p = k->p[k->aux];
    TS_TRY(k->be->step_rows(k->s, p, k->p[2], NULL, TS_STEP_SOFTMAX, NULL, k->B, k->N));
    TS_TRY(k->be->step_rows(k->s, k->p[0], p, target, TS_STEP_LOSS, NULL, k->B, k->N));
    return k->be->step_rows(k->s, k->p[1], p, target, TS_STEP_ONE_HOT, NULL, k->B, k->N);
}

void unfused_cross_entropy(kernel *k, ts_device *d, ts_status *st)
{
    k->aux = kernel_room(k, d, st, k->count[1]);
    k->unfused = cross_entropy_in_steps;
    k->same = 2;
}

/* --- FSQ with the tanh bound: bound, round, value, index --- */

static ts_status fsq_in_steps(kernel *k)
{
    const int64_t D = k->u.fsq.D, N = k->N * D;
    float *value = k->p[0], *work = k->p[k->aux];
    const float *shift = k->p[k->aux + 1], *half = k->p[k->aux + 2], *offset = k->p[k->aux + 3], *mid = k->p[k->aux + 4],
                *basis = k->p[k->aux + 5];
    TS_TRY(kernel_map(k, work, k->p[2], TS_STEP_ADD, shift, N, k->N, D));
    TS_TRY(kernel_map(k, work, work, TS_STEP_TANH, NULL, N, k->N, D));
    TS_TRY(kernel_map(k, work, work, TS_STEP_MUL, half, N, k->N, D));
    TS_TRY(kernel_map(k, work, work, TS_STEP_SUB, offset, N, k->N, D));
    TS_TRY(kernel_map(k, work, work, TS_STEP_RINT, NULL, N, k->N, D));
    TS_TRY(kernel_map(k, value, work, TS_STEP_DIV, mid, N, k->N, D));
    TS_TRY(kernel_map(k, work, work, TS_STEP_ADD, mid, N, k->N, D));
    TS_TRY(kernel_map(k, work, work, TS_STEP_MUL, basis, N, k->N, D));
    return k->be->step_rows(k->s, k->p[1], work, NULL, TS_STEP_SUM, NULL, k->N, D);
}

void unfused_fsq(kernel *k, ts_device *d, ts_status *st)
{
    const ts_fsq *q = &k->u.fsq;
    float mid[TS_MAX_D], basis[TS_MAX_D];
    for (int i = 0; i < q->D; i++) mid[i] = (float)(q->level[i] / 2), basis[i] = (float)q->basis[i];
    k->aux = kernel_room(k, d, st, k->count[0]);
    kernel_numbers(k, d, st, q->shift, q->D);
    kernel_numbers(k, d, st, q->half, q->D);
    kernel_numbers(k, d, st, q->offset, q->D);
    kernel_numbers(k, d, st, mid, q->D);
    kernel_numbers(k, d, st, basis, q->D);
    k->unfused = fsq_in_steps;
    k->same = 2;
}

/* --- GroupNorm, then SiLU --- */

static ts_status group_norm_then_silu(kernel *k)
{
    ts_group_norm n = k->u.group;
    n.silu = 0;
    TS_TRY(k->be->group_norm_fwd(k->s, k->p[k->aux], k->p[1], k->p[2], k->p[3], k->p[4], k->p[5], &n));
    return k->be->act_fwd(k->s, k->p[0], k->p[k->aux], TS_SILU, n.B * n.P * n.C, TS_F32);
}

void unfused_group_norm(kernel *k, ts_device *d, ts_status *st)
{
    k->aux = kernel_room(k, d, st, k->count[0]);
    k->unfused = group_norm_then_silu;
    k->same = 3;
}

/* --- projection in, FSQ, projection out --- */

ts_linear kernel_way(const kernel *k, int I, int O)
{
    return (ts_linear){ .N = k->u.project.N, .I = I, .O = O };
}

static ts_status project_in_steps(kernel *k)
{
    const ts_fsq_project *p = &k->u.project;
    const ts_fsq_weights *w = &k->projections;
    const ts_linear in = kernel_way(k, p->C, p->q.D), out = kernel_way(k, p->q.D, p->O);
    float *z = k->p[k->aux], *value = k->p[k->aux + 1];
    TS_TRY(k->be->linear_fwd(k->s, z, k->p[2], w->w_in, w->b_in, &in, k->p[k->aux + 2]));
    TS_TRY(k->be->fsq_fwd(k->s, value, (int32_t *)(void *)k->p[1], z, &p->q, p->N));
    return k->be->linear_fwd(k->s, k->p[0], value, w->w_out, w->b_out, &out, k->p[k->aux + 3]);
}

void unfused_fsq_project(kernel *k, ts_device *d, ts_status *st)
{
    const ts_fsq_project *p = &k->u.project;
    const ts_linear in = kernel_way(k, p->C, p->q.D), out = kernel_way(k, p->q.D, p->O);
    k->aux = kernel_room(k, d, st, p->N * p->q.D);
    kernel_room(k, d, st, p->N * p->q.D);
    kernel_scratch(k, d, st, k->be->linear_scratch(k->s, &in, 0));
    kernel_scratch(k, d, st, k->be->linear_scratch(k->s, &out, 0));
    k->unfused = project_in_steps;
    k->products = 2; /* the bias lies in the result before, which is read and written then */
    k->product_bytes = 4.0 * (double)(p->N * (p->C + 2 * p->q.D) + p->N * (p->q.D + 2 * p->O) + p->q.D * (p->C + p->O));
    k->same = 2;
}

/* --- the residual pyramid, one call for each step of its loop --- */

/* One scale: rest -> code, h = what it adds to f_hat. */
static ts_status one_scale(kernel *k, int scale, float *rest, float *z, float *code, float *h)
{
    const ts_residual_fsq *q = &k->u.rfsq;
    const ts_pyramid *p = &q->p;
    const int side = p->py[scale];
    const ts_resample area = { k->B, q->D, p->h, p->w, side, side };
    ts_residual_fsq step;
    ts_pyramid alone;
    TS_TRY(ts_pyramid_init(&alone, &p->py[scale], 1, -1, 1));
    TS_TRY(ts_residual_fsq_init(&step, &alone, q->level, q->D, 0));
    if (side < p->h) TS_TRY(k->be->area_fwd(k->s, z, rest, &area));
    TS_TRY(k->be->residual_fsq_fwd(k->s, code, (int32_t *)(void *)k->p[k->aux + 4], NULL, NULL, NULL, side < p->h ? z : rest,
                                   k->p[5] + scale * q->D, NULL, &step, k->B, k->p[k->aux + 7]));
    TS_TRY(k->be->zero(k->s, h, (size_t)k->count[0] * sizeof(float)));
    return k->be->pyramid_add(k->s, h, NULL, code, &k->phi, p, q->D, scale, k->B, k->p[k->aux + 6]);
}

static ts_status pyramid_in_steps(kernel *k)
{
    const int64_t n = k->count[0];
    float *f_hat = k->p[0], *rest = k->p[k->aux], *z = k->p[k->aux + 1], *code = k->p[k->aux + 2], *h = k->p[k->aux + 3];
    const float *minus_one = k->p[k->aux + 5];
    TS_TRY(k->be->zero(k->s, f_hat, (size_t)n * sizeof(float)));
    TS_TRY(k->be->copy(k->s, rest, k->p[4], (size_t)n * sizeof(float)));
    for (int scale = 0; scale < k->u.rfsq.p.K; scale++) {
        TS_TRY(one_scale(k, scale, rest, z, code, h));
        TS_TRY(k->be->add(k->s, f_hat, f_hat, h, n));
        TS_TRY(k->be->scale_rows(k->s, h, h, minus_one, 1, n));
        TS_TRY(k->be->add(k->s, rest, rest, h, n));
    }
    return TS_OK;
}

void unfused_residual_fsq(kernel *k, ts_device *d, ts_status *st)
{
    const float minus_one = -1;
    k->aux = kernel_room(k, d, st, k->count[0]);
    for (int i = 0; i < 3; i++) kernel_room(k, d, st, k->count[0]);
    kernel_room(k, d, st, k->count[1]);
    int factor = kernel_room(k, d, st, 1);
    if (*st == TS_OK) *st = k->be->upload(k->s, k->p[factor], &minus_one, sizeof minus_one);
    kernel_scratch(k, d, st, k->be->pyramid_scratch(k->s, &k->u.rfsq.p, k->u.rfsq.D, k->B));
    kernel_scratch(k, d, st, k->be->residual_fsq_scratch(k->s, &k->u.rfsq, k->B, 0));
    k->unfused = pyramid_in_steps;
    k->same = 1;
}

/* --- AdamW, one call for each of a hundred tensors --- */

static ts_status adamw_by_tensor(kernel *k)
{
    const ts_adamw w = KERNEL_ADAMW;
    const int64_t step = k->N / 100 > 0 ? k->N / 100 : 1;
    for (int64_t at = 0; at < k->N; at += step) {
        const int64_t n = k->N - at < step ? k->N - at : step;
        const int64_t decay = k->N / 2 - at < 0 ? 0 : k->N / 2 - at < n ? k->N / 2 - at : n;
        TS_TRY(k->be->adamw(k->s, k->p[0] + at, k->p[1] + at, k->p[2] + at, k->p[3] + at, k->p[4] + at, k->p[5], &w, decay, n));
    }
    return TS_OK;
}

void unfused_adamw(kernel *k, ts_device *d, ts_status *st)
{
    (void)d, (void)st;
    k->unfused = adamw_by_tensor;
    k->same = 4;
}

/* --- resize: columns, then rows --- */

static ts_resize columns_of(const ts_resize *r)
{
    return (ts_resize){ r->in_width, r->rows, r->width, r->rows, r->taps_x, 1 };
}

static ts_resize rows_of(const ts_resize *r)
{
    return (ts_resize){ r->width, r->rows, r->width, r->height, 1, r->taps_y };
}

static ts_status columns_then_rows(kernel *k)
{
    const ts_resize x = columns_of(&k->u.resize), y = rows_of(&k->u.resize);
    uint8_t *between = (uint8_t *)k->p[k->aux];
    const int32_t *plan_x = (const int32_t *)(const void *)k->p[k->aux + 1], *plan_y = (const int32_t *)(const void *)k->p[k->aux + 2];
    TS_TRY(k->be->resize(k->s, between, (const uint8_t *)k->p[1], plan_x, &x, k->p[k->aux + 3]));
    return k->be->resize(k->s, (uint8_t *)k->p[0], between, plan_y, &y, k->p[k->aux + 4]);
}

void unfused_resize(kernel *k, ts_device *d, ts_status *st)
{
    const ts_resize *r = &k->u.resize, x = columns_of(r), y = rows_of(r);
    k->aux = kernel_scratch(k, d, st, (size_t)r->width * (size_t)r->rows * 3);
    kernel_plan(k, d, st, KERNEL_SCRATCH, &x);
    kernel_plan(k, d, st, KERNEL_SCRATCH, &y);
    kernel_scratch(k, d, st, k->be->resize_scratch(k->s, &x));
    kernel_scratch(k, d, st, k->be->resize_scratch(k->s, &y));
    k->unfused = columns_then_rows;
    k->same = 1;
}
