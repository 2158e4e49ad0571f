/* profile.c - contract: profile.h. */
#include "host/profile.h"

#include <stdlib.h>
#include <string.h>

#include "host/log.h"

/* Multiplications and additions of the products; attention counts what a mask hides, too, and its backward repeats one of the
 * two products of forward beside its own four. */
#define FLOPS_LINEAR (2.0 * (double)l->N * (double)l->I * (double)l->O)
#define FLOPS_CONV                                                                                                     \
    (2.0 * (double)(c->B * ts_conv2d_out(c, c->Y) * ts_conv2d_out(c, c->X)) * (double)(c->k * c->k) * (double)c->C * (double)c->O)
#define FLOPS_PROJECT (2.0 * (double)p->N * p->q.D * (p->C + p->O))
#define FLOPS_ATTENTION(seen) (4.0 * (double)(a->B * a->T) * (double)(seen) * (double)(a->H * a->c))

/* The functions that are timed: name, parameters, arguments, operations. Sizes of scratch are asked for on the host and are not. */
#define OPS(X)                                                                                                         \
    X(mem_alloc, (ts_stream * s, void **p, size_t bytes), (s, p, bytes), 0)                                            \
    X(upload, (ts_stream * s, void *device, const void *host, size_t bytes), (s, device, host, bytes), 0)              \
    X(download, (ts_stream * s, void *host, const void *device, size_t bytes), (s, host, device, bytes), 0)            \
    X(copy, (ts_stream * s, void *to, const void *from, size_t bytes), (s, to, from, bytes), 0)                        \
    X(zero, (ts_stream * s, void *p, size_t bytes), (s, p, bytes), 0)                                                  \
    X(mem_constant, (ts_stream * s, const void *p, size_t bytes, int on), (s, p, bytes, on), 0)                        \
    X(linear_fwd,                                                                                                      \
      (ts_stream * s, void *y, const void *x, const float *w, const float *b, const ts_linear *l, void *scratch),      \
      (s, y, x, w, b, l, scratch), FLOPS_LINEAR)                                                                       \
    X(linear_bwd,                                                                                                      \
      (ts_stream * s, float *dx, float *dw, float *db, const float *dy, const float *x, const float *w,                \
       const ts_linear *l, void *scratch),                                                                             \
      (s, dx, dw, db, dy, x, w, l, scratch), FLOPS_LINEAR * ((dx != NULL) + (dw != NULL)))                             \
    X(conv2d_fwd,                                                                                                      \
      (ts_stream * s, float *y, const void *x, const float *w, const float *b, const ts_conv2d *c, void *scratch),     \
      (s, y, x, w, b, c, scratch), FLOPS_CONV)                                                                         \
    X(conv2d_bwd,                                                                                                      \
      (ts_stream * s, float *dx, float *dw, float *db, const float *dy, const float *x, const float *w,                \
       const ts_conv2d *c, void *scratch),                                                                             \
      (s, dx, dw, db, dy, x, w, c, scratch), FLOPS_CONV * ((dx != NULL) + (dw != NULL)))                               \
    X(group_norm_fwd,                                                                                                  \
      (ts_stream * s, void *y, float *mean, float *rstd, const float *x, const float *gamma, const float *beta,       \
       const ts_group_norm *n),                                                                                        \
      (s, y, mean, rstd, x, gamma, beta, n), 0)                                                                        \
    X(group_norm_bwd,                                                                                                  \
      (ts_stream * s, float *dx, float *dgamma, float *dbeta, const float *dy, const float *x, const float *mean,      \
       const float *rstd, const float *gamma, const float *beta, const ts_group_norm *n, void *scratch),               \
      (s, dx, dgamma, dbeta, dy, x, mean, rstd, gamma, beta, n, scratch), 0)                                           \
    X(act_fwd, (ts_stream * s, void *y, const float *x, ts_act act, int64_t N, ts_dtype y_dtype),                      \
      (s, y, x, act, N, y_dtype), 0)                                                                                   \
    X(act_bwd, (ts_stream * s, float *dx, const float *dy, const float *x, ts_act act, int64_t N),                     \
      (s, dx, dy, x, act, N), 0)                                                                                       \
    X(add, (ts_stream * s, float *y, const float *a, const float *b, int64_t N), (s, y, a, b, N), 0)                   \
    X(add_rows, (ts_stream * s, float *y, const float *a, const float *rows, int64_t M, int64_t R, int64_t N),         \
      (s, y, a, rows, M, R, N), 0)                                                                                     \
    X(sum_rows, (ts_stream * s, float *drows, const float *dy, int64_t M, int64_t R, int64_t N),                       \
      (s, drows, dy, M, R, N), 0)                                                                                      \
    X(scale_rows, (ts_stream * s, float *y, const float *a, const float *factor, int64_t M, int64_t N),                \
      (s, y, a, factor, M, N), 0)                                                                                      \
    X(nearest2x_fwd, (ts_stream * s, float *y, const float *x, const ts_resample *r), (s, y, x, r), 0)                 \
    X(nearest2x_bwd, (ts_stream * s, float *dx, const float *dy, const ts_resample *r), (s, dx, dy, r), 0)             \
    X(area_fwd, (ts_stream * s, float *y, const float *x, const ts_resample *r), (s, y, x, r), 0)                      \
    X(area_bwd, (ts_stream * s, float *dx, const float *dy, const ts_resample *r), (s, dx, dy, r), 0)                  \
    X(bicubic_fwd, (ts_stream * s, float *y, const float *x, const ts_resample *r), (s, y, x, r), 0)                   \
    X(bicubic_bwd, (ts_stream * s, float *dx, const float *dy, const ts_resample *r), (s, dx, dy, r), 0)               \
    X(ada_norm_fwd,                                                                                                    \
      (ts_stream * s, float *r, void *y, float *mean, float *rstd, const float *x, const float *h, const float *gate,  \
       const float *scale, const float *shift, const ts_ada_norm *n),                                                  \
      (s, r, y, mean, rstd, x, h, gate, scale, shift, n), 0)                                                           \
    X(ada_norm_bwd,                                                                                                    \
      (ts_stream * s, float *dx, float *dh, float *dgate, float *dscale, float *dshift, const float *dy,               \
       const float *dr, const float *r, const float *mean, const float *rstd, const float *h, const float *gate,       \
       const float *scale, const ts_ada_norm *n),                                                                      \
      (s, dx, dh, dgate, dscale, dshift, dy, dr, r, mean, rstd, h, gate, scale, n), 0)                                 \
    X(attention_fwd,                                                                                                   \
      (ts_stream * s, void *out, float *lse, const float *qkv, const float *scale_mul, const int32_t *end,             \
       const ts_attention *a, void *scratch),                                                                          \
      (s, out, lse, qkv, scale_mul, end, a, scratch), FLOPS_ATTENTION(a->T))                                           \
    X(attention_bwd,                                                                                                   \
      (ts_stream * s, float *dqkv, float *dscale_mul, const float *dout, const float *out, const float *lse,           \
       const float *qkv, const float *scale_mul, const int32_t *end, const ts_attention *a, void *scratch),            \
      (s, dqkv, dscale_mul, dout, out, lse, qkv, scale_mul, end, a, scratch), FLOPS_ATTENTION(a->T) * 2.5)             \
    X(attention_cached,                                                                                                \
      (ts_stream * s, void *out, void *cache_k, void *cache_v, const float *qkv, const float *scale_mul,               \
       const ts_attention *a, void *scratch),                                                                          \
      (s, out, cache_k, cache_v, qkv, scale_mul, a, scratch), FLOPS_ATTENTION(a->pos + a->T))                          \
    X(embedding_fwd, (ts_stream * s, float *y, const float *table, const int32_t *idx, int64_t N, int64_t C),          \
      (s, y, table, idx, N, C), 0)                                                                                     \
    X(embedding_bwd,                                                                                                   \
      (ts_stream * s, float *dtable, const float *dy, const int32_t *idx, int64_t N, int64_t C, int64_t V),            \
      (s, dtable, dy, idx, N, C, V), 0)                                                                                \
    X(fsq_fwd, (ts_stream * s, float *value, int32_t *idx, const float *z, const ts_fsq *q, int64_t N),                \
      (s, value, idx, z, q, N), 0)                                                                                     \
    X(fsq_bwd, (ts_stream * s, float *dz, const float *dvalue, const float *z, const ts_fsq *q, int64_t N),            \
      (s, dz, dvalue, z, q, N), 0)                                                                                     \
    X(fsq_decode, (ts_stream * s, float *value, const int32_t *idx, const ts_fsq *q, int64_t N),                       \
      (s, value, idx, q, N), 0)                                                                                        \
    X(fsq_project_fwd,                                                                                                 \
      (ts_stream * s, float *y, int32_t *idx, float *z, const float *x, const ts_fsq_weights *w, const ts_fsq_project *p), \
      (s, y, idx, z, x, w, p), FLOPS_PROJECT)                                                                          \
    X(fsq_project_bwd,                                                                                                 \
      (ts_stream * s, float *dx, const ts_fsq_weights *grad, const float *dy, const float *x, const float *z,          \
       const ts_fsq_weights *w, const ts_fsq_project *p, void *scratch),                                               \
      (s, dx, grad, dy, x, z, w, p, scratch), 2 * FLOPS_PROJECT)                                                       \
    X(fsq_project_decode,                                                                                              \
      (ts_stream * s, float *y, const int32_t *idx, const ts_fsq_weights *w, const ts_fsq_project *p),                 \
      (s, y, idx, w, p), 2.0 * (double)p->N * p->q.D * p->O)                                                           \
    X(pyramid_add,                                                                                                     \
      (ts_stream * s, float *f_hat, float *next, const float *code, const ts_phi *phi, const ts_pyramid *p, int D,     \
       int k, int64_t B, void *scratch),                                                                               \
      (s, f_hat, next, code, phi, p, D, k, B, scratch), 0)                                                             \
    X(residual_fsq_fwd,                                                                                                \
      (ts_stream * s, float *f_hat, int32_t *idx, float *x, float *partial, float *stats, const float *f,              \
       const float *log_gain, const ts_phi *phi, const ts_residual_fsq *q, int64_t B, void *scratch),                  \
      (s, f_hat, idx, x, partial, stats, f, log_gain, phi, q, B, scratch), 0)                                          \
    X(residual_fsq_bwd,                                                                                                \
      (ts_stream * s, float *df, float *dlog_gain, const ts_phi *dphi, const float *df_hat, float aux_weight,          \
       const float *f, const float *x, const int32_t *idx, const float *log_gain, const ts_phi *phi,                   \
       const ts_residual_fsq *q, int64_t B, void *scratch),                                                            \
      (s, df, dlog_gain, dphi, df_hat, aux_weight, f, x, idx, log_gain, phi, q, B, scratch), 0)                        \
    X(residual_fsq_lookup,                                                                                             \
      (ts_stream * s, float *code, const int32_t *idx, const float *log_gain, const ts_residual_fsq *q, int k,         \
       int64_t B),                                                                                                     \
      (s, code, idx, log_gain, q, k, B), 0)                                                                            \
    X(residual_vq_fwd,                                                                                                 \
      (ts_stream * s, float *f_hat, int32_t *idx, float *z, float *partial, float *stats, const float *f,              \
       const float *codebook, const ts_phi *phi, const ts_residual_vq *q, int64_t B, void *scratch),                   \
      (s, f_hat, idx, z, partial, stats, f, codebook, phi, q, B, scratch), 0)                                          \
    X(residual_vq_bwd,                                                                                                 \
      (ts_stream * s, float *df, float *dcodebook, const ts_phi *dphi, const float *df_hat, float loss_weight,         \
       const float *f, const int32_t *idx, const float *codebook, const ts_phi *phi, const ts_residual_vq *q,          \
       int64_t B, void *scratch),                                                                                      \
      (s, df, dcodebook, dphi, df_hat, loss_weight, f, idx, codebook, phi, q, B, scratch), 0)                          \
    X(codebook_ema,                                                                                                    \
      (ts_stream * s, float *codebook, float *count, float *sum, const float *z, const int32_t *idx,                   \
       const ts_codebook_ema *a, int64_t N, int64_t D, int64_t V, void *scratch),                                      \
      (s, codebook, count, sum, z, idx, a, N, D, V, scratch), 0)                                                       \
    X(cross_entropy,                                                                                                   \
      (ts_stream * s, float *loss, float *dlogits, const float *logits, const int32_t *target, float grad_scale,       \
       int64_t N, int64_t V),                                                                                          \
      (s, loss, dlogits, logits, target, grad_scale, N, V), 0)                                                         \
    X(digit_head,                                                                                                      \
      (ts_stream * s, float *loss, float *du, const ts_digit_params *grad, const float *u, const int32_t *code,        \
       const int32_t *scale_of, const ts_digit_params *param, float grad_scale, const ts_digit_head *d, int64_t N,     \
       int64_t T, void *scratch),                                                                                      \
      (s, loss, du, grad, u, code, scale_of, param, grad_scale, d, N, T, scratch), 0)                                  \
    X(sample, (ts_stream * s, int32_t * idx, const float *logits, const ts_sample *a, void *scratch),                  \
      (s, idx, logits, a, scratch), 0)                                                                                 \
    X(sample_digits,                                                                                                   \
      (ts_stream * s, int32_t * idx, const float *u, const ts_digit_params *param, const ts_digit_head *d, int k,      \
       const ts_sample *a, void *scratch),                                                                             \
      (s, idx, u, param, d, k, a, scratch), 0)                                                                         \
    X(sample_smooth,                                                                                                   \
      (ts_stream * s, float *code, const float *logits, const float *codebook, const ts_sample *a,                     \
       const ts_smooth *m, void *scratch),                                                                             \
      (s, code, logits, codebook, a, m, scratch), 0)                                                                   \
    X(pixel_loss,                                                                                                      \
      (ts_stream * s, float *sums, float *dx, const float *x, const float *target, float w1, float w2, int64_t N),     \
      (s, sums, dx, x, target, w1, w2, N), 0)                                                                          \
    X(resize,                                                                                                          \
      (ts_stream * s, uint8_t *out, const uint8_t *in, const int32_t *plan, const ts_resize *r, void *scratch),        \
      (s, out, in, plan, r, scratch), 0)                                                                               \
    X(step_map,                                                                                                        \
      (ts_stream * s, float *y, const float *a, const float *b, ts_step_map f, int64_t N, int64_t R, int64_t C),       \
      (s, y, a, b, f, N, R, C), 0)                                                                                     \
    X(step_rows,                                                                                                       \
      (ts_stream * s, void *y, const float *a, const int32_t *which, ts_step_rows f, const ts_sample *how, int64_t N, int64_t V), \
      (s, y, a, which, f, how, N, V), 0)                                                                               \
    X(grad_norm, (ts_stream * s, float *norm, const float *g, int64_t N), (s, norm, g, N), 0)                          \
    X(adamw,                                                                                                           \
      (ts_stream * s, float *p, float *m, float *v, float *ema, const float *g, const float *norm, const ts_adamw *a,  \
       int64_t N_decay, int64_t N),                                                                                    \
      (s, p, m, v, ema, g, norm, a, N_decay, N), 0)

#define NUMBER(op, parameters, arguments, operations) OP_##op,
enum { OPS(NUMBER) N_OPS };
_Static_assert((int)N_OPS <= (int)TS_PROFILE_MAX, "a reader has room for every op");

static struct {
    const ts_backend *real; /* NULL: no profile is on */
    ts_backend timed;
    double begin;
    ts_profile_line line[N_OPS];
} profile;

static ts_status note(int op, ts_stream *s, double start, ts_status st)
{
    if (st == TS_OK) st = profile.real->stream_sync(s);
    profile.line[op].calls++;
    profile.line[op].seconds += ts_seconds() - start;
    return st;
}

#define TIMED(op, parameters, arguments, operations)                                                                   \
    static ts_status op parameters                                                                                     \
    {                                                                                                                  \
        double start = ts_seconds();                                                                                   \
        profile.line[OP_##op].flops += operations;                                                                     \
        return note(OP_##op, s, start, profile.real->op arguments);                                                    \
    }
OPS(TIMED)

ts_status ts_profile_begin(ts_device *d)
{
    if (profile.real) return ts_fail(TS_E_BUSY, "a profile is on already");
    profile.real = d->be;
    profile.timed = *d->be;
#define REPLACE(op, parameters, arguments, operations) profile.timed.op = op;
    OPS(REPLACE)
    profile.timed.capture_begin = NULL;
    d->be = &profile.timed;
    ts_profile_reset();
    return TS_OK;
}

void ts_profile_end(ts_device *d)
{
    if (!profile.real || !d || d->be != &profile.timed) return;
    d->be = profile.real;
    profile.real = NULL;
}

void ts_profile_reset(void)
{
#define NAME(op, parameters, arguments, operations) profile.line[OP_##op] = (ts_profile_line){ #op, 0, 0, 0 };
    OPS(NAME)
    profile.begin = ts_seconds();
}

static int longest_first(const void *a, const void *b)
{
    double x = ((const ts_profile_line *)a)->seconds, y = ((const ts_profile_line *)b)->seconds;
    return x < y ? 1 : x > y ? -1 : 0;
}

int ts_profile_read(ts_profile_line out[TS_PROFILE_MAX], double *wall)
{
    int n = 0;
    *wall = ts_seconds() - profile.begin;
    for (int i = 0; i < N_OPS; i++)
        if (profile.line[i].calls > 0) out[n++] = profile.line[i];
    qsort(out, (size_t)n, sizeof *out, longest_first);
    return n;
}
