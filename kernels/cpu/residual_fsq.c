/* residual_fsq.c - multi-scale residual FSQ on the CPU. Contract: tessera/op_residual_fsq.h. Twin:
 * kernels/cuda/residual_fsq.cu.
 *
 * Forward: threads take images. Backward: images are dealt to a fixed number of chunks, each with gradients of its own
 * that are summed in order at the end, so the thread count changes nothing. The orders that indices depend on are
 * written in pyramid.c and resample.c. */
#include "tessera/op_residual_fsq.h"

#include <omp.h>
#include <string.h>

#include "kernels/cpu/pyramid.h"
#include "kernels/cpu/stream.h"
#include "tessera/exact.h"

enum { CHUNKS = 16 };

typedef struct {
    const ts_residual_fsq *q;
    float step[TS_MAX_SCALES][TS_MAX_D]; /* s_k */
    float half[TS_MAX_D];
    const float *pack, *pack_t; /* phi, packed; pack_t only backward */
} context;

static ts_status check(const char *op, const ts_residual_fsq *q, int k)
{
    if (q->K_use < 1 || q->K_use > q->p.K)
        return ts_fail(TS_E_ARG, "%s: %d scales in use, expected 1..%d", op, q->K_use, q->p.K);
    if (k < 0 || k >= q->p.K) return ts_fail(TS_E_ARG, "%s: scale %d, expected 0..%d", op, k, q->p.K - 1);
    return TS_OK;
}

static void constants(context *c, const ts_residual_fsq *q, const float *log_gain)
{
    *c = (context){ .q = q };
    for (int k = 0; k < q->p.K; k++)
        for (int d = 0; d < q->D; d++) c->step[k][d] = ts_expf(log_gain[k * q->D + d]);
    for (int d = 0; d < q->D; d++) c->half[d] = (float)((q->level[d] - 1) / 2);
}

static int64_t tokens_of(const ts_pyramid *p, int k)
{
    return (int64_t)p->py[k] * p->px[k];
}

/* f~ */
static void bound(float *r, const float *f, const ts_residual_fsq *q)
{
    const int64_t n = ts_grid_floats(&q->p, q->D);
    if (!q->pre_tanh) {
        memcpy(r, f, sizeof(float) * (size_t)n);
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) r[i] = ts_tanhf(f[i]);
}

/* The tokens of scale k of one image: idx, code q = s*c and (unless NULL) x from z. Returns how many |x| > 1. NaN
 * becomes digit 0, so that an index is always inside the codebook. */
static int64_t quantize(int32_t *idx, float *code, float *x, const float *z, const context *c, int k)
{
    const int D = c->q->D;
    int64_t clamped = 0;
    for (int64_t t = 0; t < tokens_of(&c->q->p, k); t++) {
        int32_t sum = 0;
        for (int d = 0; d < D; d++) {
            const float v = z[t * D + d] / c->step[k][d];
            float n = v > -1.0f ? v : -1.0f;
            n = n < 1.0f ? n : 1.0f;
            n = rintf(n * c->half[d]) + 0.0f; /* + 0 drops the sign of -0, which lookup cannot know */
            code[t * D + d] = c->step[k][d] * (n / c->half[d]);
            sum += (int32_t)(n + c->half[d]) * c->q->basis[d];
            clamped += fabsf(v) > 1.0f;
            if (x) x[t * D + d] = v;
        }
        idx[t] = sum;
    }
    return clamped;
}

static void look_up(float *code, const int32_t *idx, const context *c, int k)
{
    const ts_residual_fsq *q = c->q;
    for (int64_t t = 0; t < tokens_of(&q->p, k); t++) {
        int32_t rest = idx[t];
        for (int d = 0; d < q->D; d++) {
            float n = (float)(rest % q->level[d]) - c->half[d];
            code[t * q->D + d] = c->step[k][d] * (n / c->half[d]);
            rest /= q->level[d];
        }
    }
}

static double sum_of_squares(const float *r, int64_t n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += (double)r[i] * r[i];
    return sum;
}

/* Forward scratch: packed phi; stats of every image (B,K,2); per thread a padded grid and five grids. */
static int64_t forward_floats(const ts_residual_fsq *q)
{
    return ts_padded_floats(&q->p, q->D) + 5 * ts_grid_floats(&q->p, q->D);
}

/* One chunk of the backward scratch, in floats from its start. */
typedef struct {
    int64_t dpack, r, u, pad, dh, dr, aux, code, code_aux, tmp, total;
} chunk_layout;

static chunk_layout lay_out(const ts_residual_fsq *q)
{
    const int64_t grid = ts_grid_floats(&q->p, q->D), padded = ts_padded_floats(&q->p, q->D);
    const int64_t wide = (int64_t)q->p.h * q->p.w * ts_lanes(q->D);
    chunk_layout l = { 0 };
    l.dpack = 0;                                   /* S packed gradients */
    l.r = l.dpack + q->p.S * ts_pack_floats(q->D); /* r of every scale */
    l.u = l.r + q->p.K * grid;                     /* u of every scale, padded */
    l.pad = l.u + q->p.K * padded;
    l.dh = l.pad + padded;
    l.dr = l.dh + grid;
    l.aux = l.dr + grid;
    l.code = l.aux + grid;
    l.code_aux = l.code + grid;
    l.tmp = l.code_aux + grid;
    l.total = l.tmp + (wide > 2 * grid ? wide : 2 * grid);
    return l;
}

static int64_t chunks_of(int64_t B)
{
    return B < CHUNKS ? B : CHUNKS;
}

size_t residual_fsq_scratch_cpu(ts_stream *s, const ts_residual_fsq *q, int64_t B, int backward)
{
    const int64_t pack = q->p.S * ts_pack_floats(q->D);
    if (!backward)
        return sizeof(double) * (size_t)(B * q->p.K * 2) +
               sizeof(float) * (size_t)(pack + s->threads * forward_floats(q));
    return sizeof(double) * (size_t)(chunks_of(B) * q->p.K * q->D) +
           sizeof(float) * (size_t)(2 * pack + chunks_of(B) * lay_out(q).total);
}

typedef struct {
    float *f_hat, *x, *partial;
    int32_t *idx;
    double *stats; /* (K,2) */
    int64_t partial_stride;
} image_out;

static void image_forward(const image_out *o, const float *f, const context *c, float *work)
{
    const ts_residual_fsq *q = c->q;
    const ts_pyramid *p = &q->p;
    const int D = q->D;
    const int64_t grid = ts_grid_floats(p, D);
    float *u = work, *r = u + ts_padded_floats(p, D), *z = r + grid, *code = z + grid, *up = code + grid,
          *tmp = up + grid;
    bound(r, f, q);
    memset(o->f_hat, 0, sizeof(float) * (size_t)grid);
    for (int k = 0; k < p->K; k++) {
        const int64_t first = p->start[k], n = tokens_of(p, k);
        o->stats[2 * k] = o->stats[2 * k + 1] = 0;
        if (k < q->K_use) {
            ts_scale_area(z, r, p, D, k);
            int64_t clamped = quantize(o->idx + first, code, o->x ? o->x + first * D : NULL, z, c, k);
            ts_scale_up(up, u, code, c->pack, p, D, k, tmp);
#pragma omp simd
            for (int64_t i = 0; i < grid; i++) {
                o->f_hat[i] += up[i];
                r[i] -= up[i];
            }
            o->stats[2 * k] = sum_of_squares(r, grid);
            o->stats[2 * k + 1] = (double)clamped;
        } else {
            for (int64_t t = 0; t < n; t++) o->idx[first + t] = (q->V - 1) / 2;
            if (o->x) memset(o->x + first * D, 0, sizeof(float) * (size_t)(n * D));
        }
        if (o->partial) memcpy(o->partial + k * o->partial_stride, o->f_hat, sizeof(float) * (size_t)grid);
    }
}

ts_status residual_fsq_fwd_cpu(ts_stream *s, float *f_hat, int32_t *idx, float *x, float *partial, float *stats,
                               const float *f, const float *log_gain, const ts_phi *phi, const ts_residual_fsq *q,
                               int64_t B, void *scratch)
{
    TS_TRY(check("residual_fsq", q, 0));
    const ts_pyramid *p = &q->p;
    const int64_t grid = ts_grid_floats(p, q->D);
    double *image_stats = scratch;
    float *pack = (float *)(image_stats + B * p->K * 2), *work = pack + p->S * ts_pack_floats(q->D);
    context c;
    constants(&c, q, log_gain);
    ts_phi_pack(pack, phi, p, q->D);
    c.pack = pack;
#pragma omp parallel num_threads(s->threads)
    {
        float *mine = work + omp_get_thread_num() * forward_floats(q);
        memset(mine, 0, sizeof(float) * (size_t)ts_padded_floats(p, q->D));
#pragma omp for
        for (int64_t b = 0; b < B; b++) {
            image_out o = { f_hat + b * grid, x ? x + b * p->T * q->D : NULL, partial ? partial + b * grid : NULL,
                            idx + b * p->T,   image_stats + b * p->K * 2,     B * grid };
            image_forward(&o, f + b * grid, &c, mine);
        }
    }
    if (!stats) return TS_OK;
    for (int i = 0; i < 2 * p->K; i++) {
        double sum = 0;
        for (int64_t b = 0; b < B; b++) sum += image_stats[b * p->K * 2 + i];
        stats[i] = (float)sum;
    }
    return TS_OK;
}

typedef struct {
    const float *df_hat, *f, *x;
    const int32_t *idx;
    float aux; /* 2*aux_weight/(K_use*B*h*w*D), the factor of -r_k in the gradient of aux */
} image_in;

/* r and u of every scale again, from the indices. */
static void replay(float *r, float *u, const image_in *in, const context *c, float *code, float *up, float *tmp)
{
    const ts_pyramid *p = &c->q->p;
    const int D = c->q->D;
    const int64_t grid = ts_grid_floats(p, D);
    const float *rest = up; /* r_{-1}, before it becomes the room of h_k */
    bound(up, in->f, c->q);
    memcpy(r, rest, sizeof(float) * (size_t)grid);
    for (int k = 0; k < c->q->K_use; k++) {
        float *now = r + k * grid;
        if (k > 0) memcpy(now, now - grid, sizeof(float) * (size_t)grid);
        look_up(code, in->idx + p->start[k], c, k);
        ts_scale_up(up, u + k * ts_padded_floats(p, D), code, c->pack, p, D, k, tmp);
#pragma omp simd
        for (int64_t i = 0; i < grid; i++) now[i] -= up[i];
    }
}

/* From the gradients of q (main: straight through the loop; aux: of the auxiliary loss) to that of z, which replaces
 * main, and to that of log_gain. */
static void quantize_backward(double *dlog_gain, float *main, const float *aux, const image_in *in, const context *c,
                              int k)
{
    const ts_residual_fsq *q = c->q;
    const int D = q->D;
    const int64_t first = q->p.start[k];
    for (int64_t t = 0; t < tokens_of(&q->p, k); t++) {
        int32_t rest = in->idx[first + t];
        for (int d = 0; d < D; d++) {
            const float v = in->x[(first + t) * D + d], half = c->half[d];
            const float value = ((float)(rest % q->level[d]) - half) / half;
            const int inside = fabsf(v) <= 1.0f;
            const float slope = inside ? value - v : v > 0 ? 1.0f : -1.0f;
            float *g = main + t * D + d;
            dlog_gain[k * D + d] += (double)(*g + (aux ? aux[t * D + d] : 0.0f)) * slope * c->step[k][d];
            if (!inside) *g = 0;
            rest /= q->level[d];
        }
    }
}

/* R = d loss/d r_k, from R_{K-1} = 0 downwards: dh = df_hat - R_k, and R_{k-1} = R_k + area^T(dz). */
static void image_backward(float *df, double *dlog_gain, const image_in *in, const context *c, float *work,
                           const chunk_layout *l)
{
    const ts_residual_fsq *q = c->q;
    const ts_pyramid *p = &q->p;
    const int D = q->D;
    const int64_t grid = ts_grid_floats(p, D), padded = ts_padded_floats(p, D);
    float *r = work + l->r, *u = work + l->u, *dh = work + l->dh, *dr = work + l->dr, *aux = work + l->aux;
    float *code = work + l->code, *code_aux = work + l->code_aux, *tmp = work + l->tmp;
    replay(r, u, in, c, code, dh, tmp);
    memset(dr, 0, sizeof(float) * (size_t)grid);
    memset(aux, 0, sizeof(float) * (size_t)grid);
    for (int k = q->K_use - 1; k >= 0; k--) {
        for (int64_t i = 0; i < grid; i++) dh[i] = in->df_hat[i] - dr[i];
        ts_scale_up_adjoint(code, dh, c->pack_t, p, D, k, work + l->pad, tmp);
        if (in->aux != 0) {
            for (int64_t i = 0; i < grid; i++) {
                aux[i] -= in->aux * r[k * grid + i];
                dh[i] += aux[i];
            }
            ts_scale_up_adjoint(code_aux, aux, c->pack_t, p, D, k, work + l->pad, tmp);
        }
        ts_phi_gradient(work + l->dpack, u + k * padded, dh, p, D, k, tmp);
        quantize_backward(dlog_gain, code, in->aux != 0 ? code_aux : NULL, in, c, k);
        ts_scale_area_adjoint(dr, code, p, D, k);
    }
    bound(tmp, in->f, q);
    for (int64_t i = 0; i < grid; i++) df[i] = q->pre_tanh ? dr[i] * fmaf(-tmp[i], tmp[i], 1.0f) : dr[i];
}

ts_status residual_fsq_bwd_cpu(ts_stream *s, float *df, float *dlog_gain, const ts_phi *dphi, const float *df_hat,
                               float aux_weight, const float *f, const float *x, const int32_t *idx,
                               const float *log_gain, const ts_phi *phi, const ts_residual_fsq *q, int64_t B,
                               void *scratch)
{
    TS_TRY(check("residual_fsq", q, 0));
    const ts_pyramid *p = &q->p;
    const int D = q->D;
    const int64_t grid = ts_grid_floats(p, D), packs = p->S * ts_pack_floats(D), chunks = chunks_of(B);
    const int n_gains = p->K * D;
    const chunk_layout l = lay_out(q);
    double *gains = scratch;
    float *pack = (float *)(gains + chunks * n_gains), *pack_t = pack + packs, *work = pack_t + packs;
    context c;
    constants(&c, q, log_gain);
    ts_phi_pack(pack, phi, p, D);
    ts_phi_pack_transposed(pack_t, phi, p, D);
    c.pack = pack;
    c.pack_t = pack_t;
    const float aux = B > 0 ? (float)(2.0 * aux_weight / ((double)q->K_use * (double)B * (double)grid)) : 0;
#pragma omp parallel for schedule(dynamic) num_threads(s->threads)
    for (int64_t m = 0; m < chunks; m++) {
        float *mine = work + m * l.total;
        memset(gains + m * n_gains, 0, sizeof(double) * (size_t)n_gains);
        memset(mine, 0, sizeof(float) * (size_t)l.dh); /* gradients, and the rings of zeros */
        for (int64_t b = m * B / chunks; b < (m + 1) * B / chunks; b++) {
            image_in in = { df_hat + b * grid, f + b * grid, x + b * p->T * D, idx + b * p->T, aux };
            image_backward(df + b * grid, gains + m * n_gains, &in, &c, mine, &l);
        }
    }
    for (int i = 0; i < n_gains; i++) {
        double sum = 0;
        for (int64_t m = 0; m < chunks; m++) sum += gains[m * n_gains + i];
        dlog_gain[i] += (float)sum;
    }
    ts_phi_gradient_sum(s, dphi, work + l.dpack, chunks, l.total, p, D);
    return TS_OK;
}

ts_status residual_fsq_lookup_cpu(ts_stream *s, float *code, const int32_t *idx, const float *log_gain,
                                  const ts_residual_fsq *q, int k, int64_t B)
{
    TS_TRY(check("residual_fsq_lookup", q, k));
    const int64_t n = tokens_of(&q->p, k);
    context c;
    constants(&c, q, log_gain);
#pragma omp parallel for num_threads(s->threads)
    for (int64_t b = 0; b < B; b++) look_up(code + b * n * q->D, idx + b * n, &c, k);
    return TS_OK;
}
