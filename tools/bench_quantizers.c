/* bench_quantizers.c - what `tessera bench kernels` measures: quantizers, heads and sampling. Contract: bench_ops.h. */
#include <stdio.h>

#include "tools/bench_ops.h"

/* --- quantizers: B; the scales, levels and codes of the demo's tokenizer, and of the published one --- */

static const int32_t DEMO_SIDE[] = { 1, 2, 4, 8 }, DEMO_LEVEL[] = { 5, 5, 5, 5, 5, 5, 5, 5 };
static const int32_t PUBLISHED_SIDE[] = { 1, 2, 3, 4, 5, 6, 8, 10, 13, 16 };

static void phi_buffers(kernel *k, ts_device *d, ts_status *st, int S, int D, ts_phi *phi, kernel_role role)
{
    int w = kernel_buffer(k, d, st, role, (int64_t)S * D * D * 9), b = kernel_buffer(k, d, st, role, (int64_t)S * D);
    for (int i = 0; i < S && *st == TS_OK; i++) {
        phi->w[i] = k->p[w] + i * D * D * 9;
        phi->b[i] = k->p[b] + i * D;
    }
}

RUN(run_fsq_fwd)
{
    return k->be->fsq_fwd(k->s, k->p[0], INT(1), k->p[2], &k->u.fsq, k->N);
}
RUN(run_fsq_bwd)
{
    return k->be->fsq_bwd(k->s, k->p[0], k->p[1], k->p[2], &k->u.fsq, k->N);
}
RUN(run_project_fwd)
{
    return k->be->fsq_project_fwd(k->s, k->p[0], INT(1), NULL, k->p[2], &k->projections, &k->u.project);
}
RUN(run_project_bwd)
{
    const ts_fsq_weights grad = { k->p[1], k->p[2], k->p[3], k->p[4] };
    return k->be->fsq_project_bwd(k->s, k->p[0], &grad, k->p[5], k->p[6], k->p[7], &k->projections, &k->u.project, k->p[12]);
}
RUN(run_rfsq_fwd)
{
    return k->be->residual_fsq_fwd(k->s, k->p[0], INT(1), k->p[2], NULL, k->p[3], k->p[4], k->p[5], &k->phi, &k->u.rfsq,
                                   k->B, k->p[8]);
}
RUN(run_rvq_fwd)
{
    return k->be->residual_vq_fwd(k->s, k->p[0], INT(1), NULL, NULL, k->p[2], k->p[3], k->p[4], &k->phi, &k->u.rvq, k->B,
                                  k->p[7]);
}

/* N tokens of the five levels 7, 5, 5, 5, 5 */
static int64_t fsq_shape(kernel *k, ts_status *st, int64_t N)
{
    if (*st == TS_OK) *st = ts_fsq_init(&k->u.fsq, TS_FSQ_TANH, (const int32_t[]){ 7, 5, 5, 5, 5 }, 5);
    k->N = N;
    SHAPE("N%lld D5 V4375", LL(N));
    return N * 5;
}
MAKE(fsq_fwd)
{
    int64_t n = fsq_shape(k, st, a[0]);
    OUT(n), CODES(a[0]), IN(n);
    k->run = run_fsq_fwd;
    unfused_fsq(k, d, st);
}
MAKE(fsq_bwd)
{
    int64_t n = fsq_shape(k, st, a[0]);
    OUT(n), IN(n), IN(n);
    k->run = run_fsq_bwd;
    unfused_fsq_bwd(k, d, st);
}
/* N, C = O: FSQ between two projections; forward for inference */
static void project_shape(kernel *k, ts_status *st, const int64_t *a)
{
    const int C = (int)a[1];
    ts_fsq_project p = { a[0], C, C, { 0 } };
    if (*st == TS_OK) *st = ts_fsq_init(&p.q, TS_FSQ_TANH, (const int32_t[]){ 7, 5, 5, 5, 5 }, 5);
    k->u.project = p;
    SHAPE("N%lld C%d D5 O%d V4375", LL(a[0]), C, C);
}
static void project_weights(kernel *k, ts_device *d, ts_status *st, int64_t C)
{
    int w = IN(5 * C), b = IN(5), v = IN(C * 5), c = IN(C);
    k->projections = (ts_fsq_weights){ k->p[w], k->p[b], k->p[v], k->p[c] };
}
MAKE(fsq_project_fwd)
{
    const int64_t C = a[1];
    project_shape(k, st, a);
    OUT(a[0] * C), CODES(a[0]), IN(a[0] * C);
    project_weights(k, d, st, C);
    k->run = run_project_fwd;
    unfused_fsq_project(k, d, st);
}
MAKE(fsq_project_bwd)
{
    const int64_t C = a[1];
    project_shape(k, st, a);
    OUT(a[0] * C), ADD(5 * C), ADD(5), ADD(C * 5), ADD(C), IN(a[0] * C), IN(a[0] * C), IN(a[0] * 5);
    project_weights(k, d, st, C);
    SCRATCH(k->be->fsq_project_scratch(k->s, &k->u.project));
    k->run = run_project_bwd;
    unfused_fsq_project_bwd(k, d, st);
}
MAKE(residual_fsq_fwd)
{
    ts_pyramid p;
    if (*st == TS_OK) *st = ts_pyramid_init(&p, DEMO_SIDE, 4, 0, 0.5f);
    if (*st == TS_OK) *st = ts_residual_fsq_init(&k->u.rfsq, &p, DEMO_LEVEL, 8, 0);
    if (*st != TS_OK) return;
    int64_t n = a[0] * 64 * 8;
    k->B = a[0];
    SHAPE("B%lld 8x8 D8 K4 V390625", LL(a[0]));
    OUT(n), CODES(a[0] * 85), OUT(a[0] * 85 * 8), OUT(8), IN(n), IN(32);
    phi_buffers(k, d, st, 4, 8, &k->phi, KERNEL_IN);
    SCRATCH(k->be->residual_fsq_scratch(k->s, &k->u.rfsq, a[0], 0));
    k->run = run_rfsq_fwd;
    unfused_residual_fsq(k, d, st);
}
/* B, V, K scales of the published ones */
MAKE(residual_vq_fwd)
{
    ts_pyramid p;
    if (*st == TS_OK) *st = ts_pyramid_init(&p, PUBLISHED_SIDE, (int)a[2], 4, 0.5f);
    if (*st != TS_OK) return;
    const int64_t n = a[0] * p.h * p.w * 32, V = a[1];
    k->u.rvq = (ts_residual_vq){ p, 32, (int32_t)V, 0, 0.25f };
    k->flops = 2.0 * (double)(a[0] * p.T * V * 32);
    k->B = a[0];
    SHAPE("B%lld %dx%d D32 K%d V%lld", LL(a[0]), p.h, p.w, p.K, LL(V));
    OUT(n), CODES(a[0] * p.T), OUT(p.K), IN(n), IN(V * 32);
    phi_buffers(k, d, st, 4, 32, &k->phi, KERNEL_IN);
    SCRATCH(k->be->residual_vq_scratch(k->s, &k->u.rvq, a[0], 0));
    k->run = run_rvq_fwd;
    unfused_residual_vq(k, d, st);
}

/* --- heads --- */

static void digit_buffers(kernel *k, ts_device *d, ts_status *st, int M)
{
    if (*st == TS_OK) *st = ts_digit_head_init(&k->head, DEMO_LEVEL, 8, M, 4);
    int b = IN(8 * M), E = IN(35 * M), W = IN(40 * M), c = IN(160);
    k->digits = (ts_digit_params){ k->p[b], k->p[E], k->p[W], k->p[c] };
}

RUN(run_cross_entropy)
{
    return k->be->cross_entropy(k->s, k->p[0], k->p[1], k->p[2], INT(3), 1, k->B, k->N);
}
RUN(run_digit_head)
{
    return k->be->digit_head(k->s, k->p[0], NULL, NULL, k->p[1], INT(2), INT(3), &k->digits, 1, &k->head, k->N, 85,
                             k->p[8]);
}
RUN(run_sample)
{
    return k->be->sample(k->s, INT(0), k->p[1], &k->u.sample, k->p[2]);
}
RUN(run_sample_smooth)
{
    return k->be->sample_smooth(k->s, k->p[0], k->p[1], k->p[2], &k->u.sample, &k->smooth, k->p[3]);
}
RUN(run_sample_digits)
{
    return k->be->sample_digits(k->s, INT(0), k->p[1], &k->digits, &k->head, KERNEL_SCALE, &k->u.sample, k->p[6]);
}

/* N, V */
MAKE(cross_entropy)
{
    k->B = a[0];
    k->N = a[1];
    SHAPE("N%lld V%lld", LL(a[0]), LL(a[1]));
    OUT(a[0]), OUT(a[0] * a[1]), IN(a[0] * a[1]), INTS(a[0], a[1]);
    k->run = run_cross_entropy;
    unfused_cross_entropy(k, d, st);
}
/* B, M: the loss alone */
MAKE(digit_head)
{
    int64_t N = a[0] * 85;
    k->N = N;
    k->flops = 2.0 * (double)(N * 40 * a[1]);
    SHAPE("N%lld M%lld 8 digits of 5", LL(N), LL(a[1]));
    OUT(N * 8), IN(N * a[1]), INTS(N, 390625), INTS(85, 4);
    digit_buffers(k, d, st, (int)a[1]);
    if (*st == TS_OK) SCRATCH(k->be->digit_head_scratch(k->s, &k->head, N));
    k->run = run_digit_head;
    unfused_digit_head(k, d, st);
}
/* B, t, V: guided, top-k 900, top-p 0.96 */
MAKE(sample)
{
    k->u.sample = (ts_sample){ a[0], a[1], a[2], 1, 1.5f, 1, 900, 0.96f, 1, 0, 0, NULL };
    SHAPE("B2x%lld t%lld V%lld k900 p.96", LL(a[0]), LL(a[1]), LL(a[2]));
    CODES(a[0] * a[1]), IN(2 * a[0] * a[1] * a[2]), SCRATCH(k->be->sample_scratch(k->s, &k->u.sample));
    k->run = run_sample;
    unfused_sample(k, d, st);
}
/* B, t, V, D: the same, the last scale */
MAKE(sample_smooth)
{
    k->u.sample = (ts_sample){ a[0], a[1], a[2], 1, 1.5f, 1, 900, 0.96f, 1, 0, 0, NULL };
    k->smooth = (ts_smooth){ a[3], 2, 0.0135f };
    SHAPE("B2x%lld t%lld V%lld D%lld k900 p.96", LL(a[0]), LL(a[1]), LL(a[2]), LL(a[3]));
    OUT(a[0] * a[1] * a[3]), IN(2 * a[0] * a[1] * a[2]), IN(a[2] * a[3]), SCRATCH(k->be->sample_scratch(k->s, &k->u.sample));
    k->run = run_sample_smooth;
    unfused_sample_smooth(k, d, st);
}
/* B, t, M: guided */
MAKE(sample_digits)
{
    k->u.sample = (ts_sample){ a[0], a[1], 1, 1, 1.5f, 1, 0, 1, 1, 0, 21, NULL };
    k->flops = 2.0 * (double)(2 * a[0] * a[1] * 40 * a[2]);
    SHAPE("B2x%lld t%lld M%lld 8 digits of 5", LL(a[0]), LL(a[1]), LL(a[2]));
    CODES(a[0] * a[1]), IN(2 * a[0] * a[1] * a[2]);
    digit_buffers(k, d, st, (int)a[2]);
    if (*st == TS_OK) SCRATCH(k->be->sample_scratch(k->s, &k->u.sample));
    k->run = run_sample_digits;
    unfused_sample_digits(k, d, st);
}
