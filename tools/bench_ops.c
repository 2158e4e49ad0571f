/* bench_ops.c - what `tessera bench kernels` measures: each op at the shapes of the demo models (32x32 pictures, latent
 * 8x8, 85 tokens) and a few of the published ones (256x256 pictures, latent 16x16, 680 tokens). Contract:
 * bench_kernels.h. */
#include <math.h>
#include <stdio.h>

#include "tools/bench_kernels.h"

#define IN(n) kernel_buffer(k, d, st, KERNEL_IN, n)
#define OUT(n) kernel_buffer(k, d, st, KERNEL_OUT, n)
#define ADD(n) kernel_buffer(k, d, st, KERNEL_ADD, n)
#define SCRATCH(bytes) kernel_buffer(k, d, st, KERNEL_SCRATCH, (int64_t)(bytes) / 4 + 1)
#define CODES(n) kernel_buffer(k, d, st, KERNEL_CODES, n)
#define INTS(n, below) kernel_ints(k, d, st, n, below)
#define MAKE(name) static void name(kernel *k, ts_device *d, ts_status *st, const int64_t *a)
#define RUN(name) static ts_status name(kernel *k)
#define SHAPE(...) snprintf(k->shape, sizeof k->shape, __VA_ARGS__)
#define INT(i) ((int32_t *)(void *)k->p[i])
#define LL(x) ((long long)(x))

/* --- linear: N, I, O --- */

RUN(run_linear_fwd)
{
    return k->be->linear_fwd(k->s, k->p[0], k->p[1], k->p[2], k->p[3], &k->u.linear, k->p[4]);
}
RUN(run_linear_bwd)
{
    return k->be->linear_bwd(k->s, k->p[0], k->p[1], k->p[2], k->p[3], k->p[4], k->p[5], &k->u.linear, k->p[6]);
}

static double linear_error(const kernel *k, float *const *x)
{
    const ts_linear *l = &k->u.linear;
    double worst = 0;
    for (int64_t i = 0; i < 16; i++) {
        int64_t n = i * 7919 % l->N, o = i * 104729 % l->O;
        double sum = x[3][o], size = fabs(sum);
        for (int64_t j = 0; j < l->I; j++) {
            double term = (double)x[1][n * l->I + j] * x[2][o * l->I + j];
            sum += term;
            size += fabs(term);
        }
        worst = fmax(worst, fabs(x[0][n * l->O + o] - sum) / size);
    }
    return worst;
}

static void linear_shape(kernel *k, const int64_t *a)
{
    k->u.linear = (ts_linear){ a[0], a[1], a[2], k->math, TS_F32 };
    SHAPE("N%lld I%lld O%lld", LL(a[0]), LL(a[1]), LL(a[2]));
}

MAKE(linear_fwd)
{
    linear_shape(k, a);
    k->flops = 2.0 * (double)(a[0] * a[1] * a[2]);
    OUT(a[0] * a[2]), IN(a[0] * a[1]), IN(a[1] * a[2]), IN(a[2]), SCRATCH(k->be->linear_scratch(k->s, &k->u.linear, 0));
    k->run = run_linear_fwd;
    k->error = linear_error;
}
MAKE(linear_bwd)
{
    linear_shape(k, a);
    k->flops = 4.0 * (double)(a[0] * a[1] * a[2]);
    OUT(a[0] * a[1]), ADD(a[1] * a[2]), ADD(a[2]), IN(a[0] * a[2]), IN(a[0] * a[1]), IN(a[1] * a[2]);
    SCRATCH(k->be->linear_scratch(k->s, &k->u.linear, 1));
    k->run = run_linear_bwd;
}

/* --- conv2d: B, Y = X, C, O, k, stride --- */

RUN(run_conv_fwd)
{
    return k->be->conv2d_fwd(k->s, k->p[0], k->p[1], k->p[2], k->p[3], &k->u.conv, k->p[4]);
}
RUN(run_conv_bwd)
{
    return k->be->conv2d_bwd(k->s, k->p[0], k->p[1], k->p[2], k->p[3], k->p[4], k->p[5], &k->u.conv, k->p[6]);
}

static double conv_error(const kernel *k, float *const *x)
{
    const ts_conv2d *c = &k->u.conv;
    int64_t Yo = ts_conv2d_out(c, c->Y), Xo = ts_conv2d_out(c, c->X);
    double worst = 0;
    for (int64_t i = 0; i < 16; i++) {
        int64_t at = i * 15485863 % (c->B * Yo * Xo * c->O), o = at % c->O, j = at / c->O % Xo, y = at / c->O / Xo % Yo;
        int64_t b = at / c->O / Xo / Yo;
        double sum = x[3][o], size = fabs(sum);
        for (int64_t u = 0; u < c->k * c->k; u++) {
            int64_t yy = y * c->stride + u / c->k - c->pad_lo, xx = j * c->stride + u % c->k - c->pad_lo;
            if (yy < 0 || xx < 0 || yy >= c->Y || xx >= c->X) continue;
            for (int64_t e = 0; e < c->C; e++) {
                double term =
                    (double)x[1][((b * c->Y + yy) * c->X + xx) * c->C + e] * x[2][(o * c->k * c->k + u) * c->C + e];
                sum += term;
                size += fabs(term);
            }
        }
        worst = fmax(worst, fabs(x[0][at] - sum) / size);
    }
    return worst;
}

static int64_t conv_shape(kernel *k, const int64_t *a)
{
    int pad_lo = a[5] == 1 ? (int)(a[4] / 2) : 0, pad_hi = a[5] == 1 ? pad_lo : 1;
    k->u.conv = (ts_conv2d){ a[0], a[1], a[1], a[2], a[3], (int)a[4], (int)a[5], pad_lo, pad_hi, k->math, TS_F32 };
    int64_t side = ts_conv2d_out(&k->u.conv, a[1]), out = a[0] * side * side * a[3];
    k->flops = 2.0 * (double)(out * a[2] * a[4] * a[4]);
    SHAPE("B%lld %lldx%lld C%lld O%lld k%lld s%lld", LL(a[0]), LL(a[1]), LL(a[1]), LL(a[2]), LL(a[3]), LL(a[4]),
          LL(a[5]));
    return out;
}

MAKE(conv2d_fwd)
{
    int64_t out = conv_shape(k, a);
    OUT(out), IN(a[0] * a[1] * a[1] * a[2]), IN(a[3] * a[4] * a[4] * a[2]), IN(a[3]);
    SCRATCH(k->be->conv2d_scratch(k->s, &k->u.conv, 0));
    k->run = run_conv_fwd;
    k->error = conv_error;
}
MAKE(conv2d_bwd)
{
    int64_t out = conv_shape(k, a), in = a[0] * a[1] * a[1] * a[2], w = a[3] * a[4] * a[4] * a[2];
    k->flops *= 2;
    OUT(in), ADD(w), ADD(a[3]), IN(out), IN(in), IN(w), SCRATCH(k->be->conv2d_scratch(k->s, &k->u.conv, 1));
    k->run = run_conv_bwd;
}

/* --- group_norm: B, P, C, G --- */

RUN(run_group_fwd)
{
    return k->be->group_norm_fwd(k->s, k->p[0], k->p[1], k->p[2], k->p[3], k->p[4], k->p[5], &k->u.group);
}
RUN(run_group_bwd)
{
    return k->be->group_norm_bwd(k->s, k->p[0], k->p[1], k->p[2], k->p[3], k->p[4], k->p[5], k->p[6], k->p[7], k->p[8],
                                 &k->u.group, k->p[9]);
}

static int64_t group_shape(kernel *k, const int64_t *a)
{
    k->u.group = (ts_group_norm){ a[0], a[1], a[2], a[3], 1e-6f, 1, TS_F32 };
    SHAPE("B%lld P%lld C%lld G%lld silu", LL(a[0]), LL(a[1]), LL(a[2]), LL(a[3]));
    return a[0] * a[1] * a[2];
}

MAKE(group_norm_fwd)
{
    int64_t n = group_shape(k, a);
    OUT(n), OUT(a[0] * a[3]), OUT(a[0] * a[3]), IN(n), IN(a[2]), IN(a[2]);
    k->run = run_group_fwd;
    unfused_group_norm(k, d, st);
}
MAKE(group_norm_bwd)
{
    int64_t n = group_shape(k, a);
    OUT(n), ADD(a[2]), ADD(a[2]), IN(n), IN(n), IN(a[0] * a[3]), IN(a[0] * a[3]), IN(a[2]), IN(a[2]);
    SCRATCH(k->be->group_norm_scratch(k->s, &k->u.group));
    k->run = run_group_bwd;
}

/* --- attention: B, T, H, c, pos, T_max --- */

RUN(run_attention_fwd)
{
    return k->be->attention_fwd(k->s, k->p[0], k->p[1], k->p[2], k->p[3], NULL, &k->u.attention, k->p[4]);
}
RUN(run_attention_bwd)
{
    return k->be->attention_bwd(k->s, k->p[0], k->p[1], k->p[2], k->p[3], k->p[4], k->p[5], k->p[6], NULL,
                                &k->u.attention, k->p[7]);
}
RUN(run_attention_cached)
{
    return k->be->attention_cached(k->s, k->p[0], k->p[1], k->p[2], k->p[3], k->p[4], &k->u.attention, k->p[5]);
}

static int64_t attention_shape(kernel *k, const int64_t *a)
{
    k->u.attention =
        (ts_attention){ .B = a[0], .T = a[1], .H = a[2], .c = a[3], .scale = 1, .pos = a[4], .T_max = a[5] };
    k->flops = 4.0 * (double)(a[0] * a[1] * (a[4] + a[1]) * a[2] * a[3]);
    SHAPE("B%lld T%lld H%lld c%lld pos%lld", LL(a[0]), LL(a[1]), LL(a[2]), LL(a[3]), LL(a[4]));
    return a[0] * a[1] * a[2] * a[3];
}

MAKE(attention_fwd)
{
    int64_t n = attention_shape(k, a);
    OUT(n), OUT(a[0] * a[2] * a[1]), IN(3 * n), IN(a[2]), SCRATCH(k->be->attention_scratch(k->s, &k->u.attention, 0));
    k->run = run_attention_fwd;
}
MAKE(attention_bwd)
{
    int64_t n = attention_shape(k, a);
    k->flops *= 2.5; /* five products for the forward's two */
    OUT(3 * n), ADD(a[2]), IN(n), IN(n), IN(a[0] * a[2] * a[1]), IN(3 * n), IN(a[2]);
    SCRATCH(k->be->attention_scratch(k->s, &k->u.attention, 1));
    k->run = run_attention_bwd;
}
MAKE(attention_cached)
{
    int64_t n = attention_shape(k, a), cache = a[0] * a[5] * a[2] * a[3];
    OUT(n), IN(cache), IN(cache), IN(3 * n), IN(a[2]), SCRATCH(k->be->attention_scratch(k->s, &k->u.attention, 0));
    k->run = run_attention_cached;
}

/* --- ada_norm: B, T, C --- */

RUN(run_ada_fwd)
{
    return k->be->ada_norm_fwd(k->s, k->p[0], k->p[1], k->p[2], k->p[3], k->p[4], k->p[5], k->p[6], k->p[7], k->p[8],
                               &k->u.ada);
}
RUN(run_ada_bwd)
{
    return k->be->ada_norm_bwd(k->s, k->p[0], k->p[1], k->p[2], k->p[3], k->p[4], k->p[5], k->p[6], k->p[7], k->p[8],
                               k->p[9], k->p[10], k->p[11], k->p[11], &k->u.ada);
}

MAKE(ada_norm_fwd)
{
    int64_t rows = a[0] * a[1], n = rows * a[2], m = a[0] * a[2];
    k->u.ada = (ts_ada_norm){ a[0], a[1], a[2], a[2], a[2], a[2], 1e-6f, TS_F32 };
    SHAPE("B%lld T%lld C%lld", LL(a[0]), LL(a[1]), LL(a[2]));
    OUT(n), OUT(n), OUT(rows), OUT(rows), IN(n), IN(n), IN(m), IN(m), IN(m);
    k->run = run_ada_fwd;
    unfused_ada_norm(k, d, st);
}
MAKE(ada_norm_bwd)
{
    int64_t rows = a[0] * a[1], n = rows * a[2], m = a[0] * a[2];
    k->u.ada = (ts_ada_norm){ a[0], a[1], a[2], a[2], a[2], a[2], 1e-6f, TS_F32 };
    SHAPE("B%lld T%lld C%lld", LL(a[0]), LL(a[1]), LL(a[2]));
    OUT(n), OUT(n), ADD(m), ADD(m), ADD(m), IN(n), IN(n), IN(n), IN(rows), IN(rows), IN(n), IN(m);
    k->run = run_ada_bwd;
}

/* --- element by element: N --- */

RUN(run_act_fwd)
{
    return k->be->act_fwd(k->s, k->p[0], k->p[1], TS_GELU_TANH, k->N, TS_F32);
}
RUN(run_act_bwd)
{
    return k->be->act_bwd(k->s, k->p[0], k->p[1], k->p[2], TS_GELU_TANH, k->N);
}
RUN(run_add)
{
    return k->be->add(k->s, k->p[0], k->p[1], k->p[2], k->N);
}
RUN(run_pixel_loss)
{
    return k->be->pixel_loss(k->s, k->p[0], k->p[1], k->p[2], k->p[3], 0.2f, 1, k->N);
}
RUN(run_adamw)
{
    const ts_adamw w = KERNEL_ADAMW;
    return k->be->adamw(k->s, k->p[0], k->p[1], k->p[2], k->p[3], k->p[4], k->p[5], &w, k->N / 2, k->N);
}

static double add_error(const kernel *k, float *const *x)
{
    double worst = 0;
    for (int64_t i = 0; i < k->N; i++) worst = fmax(worst, fabs(x[0][i] - ((double)x[1][i] + x[2][i])));
    return worst;
}

static int64_t elements(kernel *k, int64_t n)
{
    k->N = n;
    SHAPE("N%lld", LL(n));
    return n;
}

MAKE(act_fwd)
{
    int64_t n = elements(k, a[0]);
    OUT(n), IN(n);
    k->run = run_act_fwd;
}
MAKE(act_bwd)
{
    int64_t n = elements(k, a[0]);
    OUT(n), IN(n), IN(n);
    k->run = run_act_bwd;
}
MAKE(add)
{
    int64_t n = elements(k, a[0]);
    OUT(n), IN(n), IN(n);
    k->run = run_add;
    k->error = add_error;
}
MAKE(pixel_loss)
{
    int64_t n = elements(k, a[0]);
    OUT(2), OUT(n), IN(n), IN(n);
    k->run = run_pixel_loss;
}
MAKE(adamw)
{
    int64_t n = elements(k, a[0]);
    ADD(n), ADD(n), kernel_buffer(k, d, st, KERNEL_POSITIVE, n), ADD(n), IN(n), IN(1);
    k->run = run_adamw;
    unfused_adamw(k, d, st);
}

/* --- nearest2x: B, Y = X, C --- */

RUN(run_nearest)
{
    return k->be->nearest2x_fwd(k->s, k->p[0], k->p[1], &k->u.resample);
}

MAKE(nearest2x_fwd)
{
    int64_t n = a[0] * a[1] * a[1] * a[2];
    k->u.resample = (ts_resample){ a[0], a[2], a[1], a[1], 2 * a[1], 2 * a[1] };
    SHAPE("B%lld %lldx%lld C%lld", LL(a[0]), LL(a[1]), LL(a[1]), LL(a[2]));
    OUT(4 * n), IN(n);
    k->run = run_nearest;
}

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
}
/* N, C = O: FSQ between two projections, for inference */
MAKE(fsq_project_fwd)
{
    const int C = (int)a[1];
    ts_fsq_project p = { a[0], C, C, { 0 } };
    if (*st == TS_OK) *st = ts_fsq_init(&p.q, TS_FSQ_TANH, (const int32_t[]){ 7, 5, 5, 5, 5 }, 5);
    k->u.project = p;
    SHAPE("N%lld C%d D5 O%d V4375", LL(a[0]), C, C);
    OUT(a[0] * C), CODES(a[0]), IN(a[0] * C);
    int w = IN(5 * C), b = IN(5), v = IN(C * 5), c = IN(C);
    k->projections = (ts_fsq_weights){ k->p[w], k->p[b], k->p[v], k->p[c] };
    k->run = run_project_fwd;
    unfused_fsq_project(k, d, st);
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
MAKE(residual_vq_fwd)
{
    ts_pyramid p;
    if (*st == TS_OK) *st = ts_pyramid_init(&p, PUBLISHED_SIDE, 10, 4, 0.5f);
    if (*st != TS_OK) return;
    int64_t n = a[0] * 256 * 32;
    k->u.rvq = (ts_residual_vq){ p, 32, 4096, 0, 0.25f };
    k->flops = 2.0 * (double)(a[0] * 680 * 4096 * 32);
    k->B = a[0];
    SHAPE("B%lld 16x16 D32 K10 V4096", LL(a[0]));
    OUT(n), CODES(a[0] * 680), OUT(10), IN(n), IN(4096 * 32);
    phi_buffers(k, d, st, 4, 32, &k->phi, KERNEL_IN);
    SCRATCH(k->be->residual_vq_scratch(k->s, &k->u.rvq, a[0], 0));
    k->run = run_rvq_fwd;
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
    return k->be->sample_digits(k->s, INT(0), k->p[1], &k->digits, &k->head, 3, &k->u.sample, k->p[6]);
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
}

const kernel_case KERNEL_CASES[] = {
    { "conv2d_fwd", { 32, 32, 3, 32, 3, 1 }, conv2d_fwd, KERNEL_DEMO },
    { "conv2d_fwd", { 32, 32, 32, 32, 3, 1 }, conv2d_fwd, KERNEL_DEMO },
    { "conv2d_fwd", { 32, 16, 64, 64, 3, 1 }, conv2d_fwd, KERNEL_DEMO },
    { "conv2d_fwd", { 32, 8, 64, 64, 3, 1 }, conv2d_fwd, KERNEL_DEMO },
    { "conv2d_fwd", { 32, 16, 64, 64, 3, 2 }, conv2d_fwd, KERNEL_DEMO },
    { "conv2d_fwd", { 1, 64, 320, 320, 3, 1 }, conv2d_fwd, KERNEL_PUBLISHED },
    { "conv2d_bwd", { 32, 32, 32, 32, 3, 1 }, conv2d_bwd, KERNEL_DEMO },
    { "conv2d_bwd", { 32, 16, 64, 64, 3, 1 }, conv2d_bwd, KERNEL_DEMO },
    { "group_norm_fwd", { 32, 1024, 32, 16 }, group_norm_fwd, KERNEL_DEMO },
    { "group_norm_fwd", { 32, 256, 64, 16 }, group_norm_fwd, KERNEL_DEMO },
    { "group_norm_fwd", { 1, 65536, 160, 32 }, group_norm_fwd, KERNEL_PUBLISHED },
    { "group_norm_bwd", { 32, 1024, 32, 16 }, group_norm_bwd, KERNEL_DEMO },
    { "nearest2x_fwd", { 32, 16, 64 }, nearest2x_fwd, KERNEL_DEMO },
    { "add", { 1 << 20 }, add, KERNEL_DEMO },
    { "pixel_loss", { 32 * 32 * 32 * 3 }, pixel_loss, KERNEL_DEMO },
    { "fsq_fwd", { 32 * 1024 }, fsq_fwd, KERNEL_DEMO },
    { "fsq_bwd", { 32 * 1024 }, fsq_bwd, KERNEL_DEMO },
    { "fsq_project_fwd", { 32 * 1024, 32 }, fsq_project_fwd, KERNEL_DEMO },
    { "residual_fsq_fwd", { 1 }, residual_fsq_fwd, KERNEL_DEMO },
    { "residual_fsq_fwd", { 32 }, residual_fsq_fwd, KERNEL_DEMO },
    { "residual_vq_fwd", { 4 }, residual_vq_fwd, KERNEL_PUBLISHED },
    { "linear_fwd", { 32 * 85, 256, 768 }, linear_fwd, KERNEL_DEMO },
    { "linear_fwd", { 32 * 85, 256, 1024 }, linear_fwd, KERNEL_DEMO },
    { "linear_fwd", { 16, 256, 768 }, linear_fwd, KERNEL_DEMO },
    { "linear_fwd", { 680, 1024, 3072 }, linear_fwd, KERNEL_PUBLISHED },
    { "linear_bwd", { 32 * 85, 256, 768 }, linear_bwd, KERNEL_DEMO },
    { "attention_fwd", { 32, 85, 4, 64, 0, 85 }, attention_fwd, KERNEL_DEMO },
    { "attention_fwd", { 1, 680, 16, 64, 0, 680 }, attention_fwd, KERNEL_PUBLISHED },
    { "attention_bwd", { 32, 85, 4, 64, 0, 85 }, attention_bwd, KERNEL_DEMO },
    { "attention_cached", { 16, 64, 4, 64, 21, 85 }, attention_cached, KERNEL_DEMO },
    { "ada_norm_fwd", { 32, 85, 256 }, ada_norm_fwd, KERNEL_DEMO },
    { "ada_norm_fwd", { 2, 680, 1024 }, ada_norm_fwd, KERNEL_PUBLISHED },
    { "ada_norm_bwd", { 32, 85, 256 }, ada_norm_bwd, KERNEL_DEMO },
    { "act_fwd", { 32 * 85 * 1024 }, act_fwd, KERNEL_DEMO },
    { "act_bwd", { 32 * 85 * 1024 }, act_bwd, KERNEL_DEMO },
    { "digit_head", { 32, 128 }, digit_head, KERNEL_DEMO },
    { "cross_entropy", { 680, 4096 }, cross_entropy, KERNEL_PUBLISHED },
    { "sample", { 8, 64, 4096 }, sample, KERNEL_PUBLISHED },
    { "sample_smooth", { 8, 64, 4096, 32 }, sample_smooth, KERNEL_PUBLISHED },
    { "sample_digits", { 8, 64, 128 }, sample_digits, KERNEL_DEMO },
    { "adamw", { 5000000 }, adamw, KERNEL_DEMO },
    { "group_norm_fwd", { 1, 64, 64, 16 }, group_norm_fwd, KERNEL_SMALL },
    { "group_norm_fwd", { 1, 1024, 32, 16 }, group_norm_fwd, KERNEL_SMALL },
    { "group_norm_bwd", { 1, 256, 32, 16 }, group_norm_bwd, KERNEL_SMALL },
    { "nearest2x_fwd", { 1, 16, 32 }, nearest2x_fwd, KERNEL_SMALL },
    { "add", { 1 << 14 }, add, KERNEL_SMALL },
    { "pixel_loss", { 3072 }, pixel_loss, KERNEL_SMALL },
    { "fsq_fwd", { 4096 }, fsq_fwd, KERNEL_SMALL },
    { "fsq_bwd", { 4096 }, fsq_bwd, KERNEL_SMALL },
    { "fsq_project_fwd", { 1024, 32 }, fsq_project_fwd, KERNEL_SMALL },
    { "residual_fsq_fwd", { 2 }, residual_fsq_fwd, KERNEL_SMALL },
    { "attention_fwd", { 1, 85, 2, 32, 0, 85 }, attention_fwd, KERNEL_SMALL },
    { "attention_bwd", { 1, 85, 2, 32, 0, 85 }, attention_bwd, KERNEL_SMALL },
    { "attention_cached", { 1, 64, 2, 32, 21, 85 }, attention_cached, KERNEL_SMALL },
    { "ada_norm_fwd", { 2, 85, 64 }, ada_norm_fwd, KERNEL_SMALL },
    { "ada_norm_bwd", { 2, 85, 64 }, ada_norm_bwd, KERNEL_SMALL },
    { "act_fwd", { 1 << 14 }, act_fwd, KERNEL_SMALL },
    { "act_bwd", { 1 << 14 }, act_bwd, KERNEL_SMALL },
    { "digit_head", { 1, 128 }, digit_head, KERNEL_SMALL },
    { "cross_entropy", { 16, 4096 }, cross_entropy, KERNEL_SMALL },
    { "sample", { 1, 4, 1024 }, sample, KERNEL_SMALL },
    { "sample_digits", { 1, 4, 128 }, sample_digits, KERNEL_SMALL },
    { "adamw", { 1 << 14 }, adamw, KERNEL_SMALL },
    { NULL, { 0 }, NULL, KERNEL_DEMO },
};
