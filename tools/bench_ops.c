/* bench_ops.c - what `tessera bench kernels` measures: products, norms, attention, and what goes element by element. Contract:
 * bench_ops.h. */
#include "tools/bench_ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

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
    k->u.linear = (ts_linear){ .N = a[0], .I = a[1], .O = a[2], .math = k->math };
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
/* What a transformer's hidden layer is: the product, its bias, GELU. */
MAKE(linear_gelu)
{
    make_linear_fwd(k, d, st, a);
    k->u.linear.act = TS_GELU_TANH;
    k->error = NULL;
    unfused_linear_gelu(k, d, st);
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
    k->u.conv = (ts_conv2d){ a[0], a[1], a[1], a[2], a[3], (int)a[4], (int)a[5], pad_lo, pad_hi, k->math, TS_F32, 0 };
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
    k->u.conv.recurs = 1;
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
    unfused_group_norm_bwd(k, d, st);
}

/* --- attention: B, T, H, c, pos, T_max, and 1: queries and keys are not normalised --- */

/* Buffer i where they are, NULL where not. */
static float *if_normalised(const kernel *k, int i)
{
    return k->u.attention.scale == 1 ? k->p[i] : NULL;
}

RUN(run_attention_fwd)
{
    return k->be->attention_fwd(k->s, k->p[0], k->p[1], k->p[2], if_normalised(k, 4), NULL, &k->u.attention, k->p[3]);
}
RUN(run_attention_bwd)
{
    return k->be->attention_bwd(k->s, k->p[0], if_normalised(k, 1), k->p[2], k->p[3], k->p[4], k->p[5], if_normalised(k, 7), NULL,
                                &k->u.attention, k->p[6]);
}
RUN(run_attention_cached)
{
    return k->be->attention_cached(k->s, k->p[0], k->p[1], k->p[2], k->p[3], k->p[4], &k->u.attention, k->p[5]);
}

static int64_t attention_shape(kernel *k, const int64_t *a)
{
    const float scale = a[6] ? 1 / sqrtf((float)a[3]) : 1;
    k->u.attention = (ts_attention){ a[0], a[1], a[2], a[3], scale, a[4], a[5], k->math, TS_F32 };
    k->flops = 4.0 * (double)(a[0] * a[2] * a[1] * (a[4] + a[1]) * a[3]);
    k->tolerance = k->math == TS_MATH_BF16 ? 2e-2 : 0; /* weights and gradients of scores are rounded, too */
    SHAPE(a[6] ? "B%lld T%lld H%lld c%lld plain" : "B%lld T%lld H%lld c%lld pos%lld", LL(a[0]), LL(a[1]), LL(a[2]), LL(a[3]), LL(a[4]));
    return a[0] * a[1] * a[2] * a[3];
}

MAKE(attention_fwd)
{
    int64_t n = attention_shape(k, a);
    OUT(n), OUT(a[0] * a[2] * a[1]), IN(3 * n), SCRATCH(k->be->attention_scratch(k->s, &k->u.attention, 0));
    if (!a[6]) IN(a[2]);
    k->run = run_attention_fwd;
    unfused_attention(k, d, st, &(attention_buffers){ .qkv = 2, .scale_mul = a[6] ? 0 : 4 });
}
MAKE(attention_bwd)
{
    int64_t n = attention_shape(k, a);
    k->flops *= 2.5; /* five products for the forward's two */
    OUT(3 * n), kernel_buffer(k, d, st, a[6] ? KERNEL_SCRATCH : KERNEL_ADD, a[2]), IN(n), IN(n), IN(a[0] * a[2] * a[1]), IN(3 * n);
    SCRATCH(k->be->attention_scratch(k->s, &k->u.attention, 1));
    if (!a[6]) IN(a[2]);
    k->run = run_attention_bwd;
    unfused_attention(k, d, st, &(attention_buffers){ .qkv = 5, .scale_mul = a[6] ? 0 : 7, .dout = 2 });
    if (*st == TS_OK) /* what forward leaves: output, sums of exponentials */
        *st = k->be->attention_fwd(k->s, k->p[3], k->p[4], k->p[5], if_normalised(k, 7), NULL, &k->u.attention, k->p[6]);
}
MAKE(attention_cached)
{
    int64_t n = attention_shape(k, a), cache = a[0] * a[5] * a[2] * a[3];
    OUT(n), IN(cache), IN(cache), IN(3 * n), IN(a[2]), SCRATCH(k->be->attention_scratch(k->s, &k->u.attention, 0));
    k->run = run_attention_cached;
    unfused_attention(k, d, st, &(attention_buffers){ .qkv = 3, .scale_mul = 4, .cache = 1 });
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
    unfused_ada_norm_bwd(k, d, st);
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

/* --- resize: side in, side out --- */

/* One half of a plan. turned: (taps, out) rather than (out, taps) */
static void plan_half(int32_t *plan, int in, int out, int taps, int turned)
{
    const int n = taps == 1 ? 1 : taps - 1;
    for (int j = 0; j < out; j++) {
        const int first = (int)((double)in / out * (j + 0.5) - n / 2.0);
        plan[j] = first < 0 ? 0 : first > in - n ? in - n : first;
        plan[out + j] = n;
        for (int i = 0; i < taps; i++) plan[2 * out + (turned ? i * out + j : j * taps + i)] = i < n ? (1 << 22) / n : 0;
    }
}

int kernel_plan(kernel *k, ts_device *d, ts_status *st, kernel_role role, const ts_resize *r)
{
    const size_t n = ts_resize_plan(r);
    int i = kernel_buffer(k, d, st, role, (int64_t)n);
    int32_t *plan = calloc(n, sizeof *plan);
    if (!plan) *st = ts_fail(TS_E_NOMEM, "out of host memory");
    if (*st == TS_OK) {
        plan_half(plan, r->in_width, r->width, r->taps_x, 1);
        plan_half(plan + (size_t)r->width * (size_t)(2 + r->taps_x), r->rows, r->height, r->taps_y, 0);
        *st = k->be->upload(k->s, k->p[i], plan, n * sizeof *plan);
    }
    free(plan);
    return i;
}

RUN(run_resize)
{
    return k->be->resize(k->s, (uint8_t *)k->p[0], (const uint8_t *)k->p[1], INT(2), &k->u.resize, k->p[3]);
}

MAKE(resize)
{
    const int in = (int)a[0], out = (int)a[1], taps = 4 * in / out + 1;
    k->u.resize = (ts_resize){ in, in, out, out, taps, taps };
    SHAPE("%dx%d to %dx%d, %d taps", in, in, out, out, taps - 1);
    CODES((int64_t)out * out * 3 / 4), IN((int64_t)in * in * 3 / 4), kernel_plan(k, d, st, KERNEL_IN, &k->u.resize);
    SCRATCH(k->be->resize_scratch(k->s, &k->u.resize));
    k->run = run_resize;
    unfused_resize(k, d, st);
}
