/* bench_unfused_heads.c - what the digit head and multi-scale residual VQ are compared with: as bench_unfused.c. Contract:
 * bench_kernels.h. */
#include <stdlib.h>

#include "tools/bench_kernels.h"

/* --- digit head: embedding, bias, activation, product, softmax and loss, digit by digit --- */

/* c is that of a digit (K,L), digit after digit; DIGITS (D,N) and SCALES (N) are whole numbers. */
enum { SUM, HIDDEN, LOGITS, CHANCES, BIASES, BIAS_OF_SCALE, DIGITS, SCALES, ROOM };

static ts_linear logits_of(const kernel *k, int i)
{
    return (ts_linear){ .N = k->N, .I = k->head.M, .O = k->head.level[i] };
}

static ts_status one_digit(kernel *k, int i)
{
    const ts_digit_head *h = &k->head;
    const int64_t N = k->N, M = h->M, L = h->level[i];
    const ts_linear l = logits_of(k, i);
    const int32_t *digit = aux_ints(k, DIGITS) + i * N;
    TS_TRY(kernel_map(k, aux(k, HIDDEN), aux(k, SUM), TS_STEP_ADD, k->digits.b + i * M, N * M, N, M));
    TS_TRY(kernel_map(k, aux(k, HIDDEN), aux(k, HIDDEN), TS_STEP_RELU, NULL, N * M, N, M));
    TS_TRY(k->be->linear_fwd(k->s, aux(k, LOGITS), aux(k, HIDDEN), k->digits.W + h->off[i] * M, NULL, &l, aux(k, ROOM)));
    TS_TRY(k->be->embedding_fwd(k->s, aux(k, BIAS_OF_SCALE), aux(k, BIASES) + h->K * h->off[i], aux_ints(k, SCALES), N, L));
    TS_TRY(k->be->add(k->s, aux(k, LOGITS), aux(k, LOGITS), aux(k, BIAS_OF_SCALE), N * L));
    TS_TRY(k->be->step_rows(k->s, aux(k, CHANCES), aux(k, LOGITS), NULL, TS_STEP_SOFTMAX, NULL, N, L));
    TS_TRY(k->be->step_rows(k->s, k->p[0] + i * N, aux(k, CHANCES), digit, TS_STEP_LOSS, NULL, N, L));
    if (i == h->D - 1) return TS_OK;
    TS_TRY(k->be->embedding_fwd(k->s, aux(k, HIDDEN), k->digits.E + h->off[i] * M, digit, N, M));
    return k->be->add(k->s, aux(k, SUM), aux(k, SUM), aux(k, HIDDEN), N * M);
}

static ts_status digit_by_digit(kernel *k)
{
    TS_TRY(k->be->copy(k->s, aux(k, SUM), k->p[1], sizeof(float) * (size_t)k->count[1]));
    for (int i = 0; i < k->head.D; i++) TS_TRY(one_digit(k, i));
    return TS_OK;
}

/* Losses (D,N) become (N,D). */
static ts_status join_digits(const kernel *k, float *const *x)
{
    const int64_t n = k->count[0], D = k->head.D;
    float *copy = malloc(sizeof *copy * (size_t)n);
    if (!copy) return ts_fail(TS_E_NOMEM, "out of host memory");
    for (int64_t i = 0; i < n; i++) copy[i] = x[0][i];
    for (int64_t i = 0; i < n; i++) x[0][i % k->N * D + i / k->N] = copy[i];
    free(copy);
    return TS_OK;
}

/* codes: room for the digits as well, N (1 + D) numbers; biases: room for two copies */
static ts_status split_digits(kernel *k, int32_t *codes, float *biases)
{
    const ts_digit_head *h = &k->head;
    const int64_t N = k->N, T = k->count[3], all = (int64_t)h->K * h->sum_L;
    int32_t *digit = codes + N;
    float *by_digit = biases + all;
    TS_TRY(k->be->download(k->s, codes, k->p[2], sizeof *codes * (size_t)N));
    for (int64_t n = 0; n < h->D * N; n++) digit[n] = codes[n % N] / h->basis[n / N] % h->level[n / N];
    TS_TRY(k->be->upload(k->s, aux(k, DIGITS), digit, sizeof *digit * (size_t)(h->D * N)));
    TS_TRY(k->be->download(k->s, codes, k->p[3], sizeof *codes * (size_t)T));
    for (int64_t n = T; n < N; n++) codes[n] = codes[n % T];
    TS_TRY(k->be->upload(k->s, aux(k, SCALES), codes, sizeof *codes * (size_t)N));
    TS_TRY(k->be->download(k->s, biases, k->digits.c, sizeof *biases * (size_t)all));
    for (int i = 0; i < h->D; i++)
        for (int64_t j = 0; j < (int64_t)h->K * h->level[i]; j++)
            by_digit[h->K * h->off[i] + j] = biases[j / h->level[i] * h->sum_L + h->off[i] + j % h->level[i]];
    return k->be->upload(k->s, aux(k, BIASES), by_digit, sizeof *by_digit * (size_t)all);
}

void unfused_digit_head(kernel *k, ts_device *d, ts_status *st)
{
    const ts_digit_head *h = &k->head;
    if (*st != TS_OK) return;
    const ts_linear l = logits_of(k, 0);
    const int64_t N = k->N, all = (int64_t)h->K * h->sum_L, L = h->level[0];
    const int64_t rooms[] = { N * h->M, N * h->M, N * L, N * L, all, N * L, N * h->D, N };
    k->aux = k->n;
    for (int i = SUM; i < ROOM; i++) kernel_room(k, d, st, rooms[i]);
    kernel_scratch(k, d, st, k->be->linear_scratch(k->s, &l, 0));
    int32_t *codes = malloc(sizeof *codes * (size_t)(N * (1 + h->D)));
    float *biases = malloc(sizeof *biases * (size_t)(2 * all));
    if (*st == TS_OK) *st = codes && biases ? split_digits(k, codes, biases) : ts_fail(TS_E_NOMEM, "out of host memory");
    free(codes);
    free(biases);
    k->unfused = digit_by_digit;
    k->arrange = join_digits;
    k->products = h->D;
    k->product_bytes = 4.0 * (double)(h->D * (N * h->M + h->M * L + N * L));
    k->same = 1;
}

/* --- residual VQ: at each scale area, distances, the nearest, its code, and what it adds --- */

enum { REST, Z, CODE, ADDED, INDEX, DISTANCES, SQUARES, HALVES, MINUS_HALF, PRODUCT_ROOM, PYRAMID_ROOM };

static ts_linear distances_of(const kernel *k, int side)
{
    return (ts_linear){ .N = k->B * side * side, .I = k->u.rvq.D, .O = k->u.rvq.V };
}

static ts_status one_scale(kernel *k, int scale)
{
    const ts_residual_vq *q = &k->u.rvq;
    const ts_pyramid *p = &q->p;
    const int side = p->py[scale];
    const int64_t n = k->count[0];
    const ts_resample area = { k->B, q->D, p->h, p->w, side, side };
    const ts_linear l = distances_of(k, side);
    const float *codebook = k->p[4], *z = side < p->h ? aux(k, Z) : aux(k, REST);
    if (side < p->h) TS_TRY(k->be->area_fwd(k->s, aux(k, Z), aux(k, REST), &area));
    TS_TRY(k->be->linear_fwd(k->s, aux(k, DISTANCES), z, codebook, aux(k, HALVES), &l, aux(k, PRODUCT_ROOM)));
    TS_TRY(k->be->step_rows(k->s, aux(k, INDEX), aux(k, DISTANCES), NULL, TS_STEP_ARGMAX, NULL, l.N, q->V));
    TS_TRY(k->be->embedding_fwd(k->s, aux(k, CODE), codebook, aux_ints(k, INDEX), l.N, q->D));
    TS_TRY(k->be->zero(k->s, aux(k, ADDED), sizeof(float) * (size_t)n));
    TS_TRY(k->be->pyramid_add(k->s, aux(k, ADDED), NULL, aux(k, CODE), &k->phi, p, q->D, scale, k->B, aux(k, PYRAMID_ROOM)));
    TS_TRY(k->be->add(k->s, k->p[0], k->p[0], aux(k, ADDED), n));
    return kernel_map(k, aux(k, REST), aux(k, REST), TS_STEP_SUB, aux(k, ADDED), n, 1, q->D);
}

static ts_status scale_by_scale(kernel *k)
{
    const ts_residual_vq *q = &k->u.rvq;
    const ts_linear halves = { .N = q->V, .I = q->D, .O = 1 };
    TS_TRY(kernel_map(k, aux(k, SQUARES), k->p[4], TS_STEP_MUL, k->p[4], (int64_t)q->V * q->D, 1, q->D));
    TS_TRY(k->be->linear_fwd(k->s, aux(k, HALVES), aux(k, SQUARES), aux(k, MINUS_HALF), NULL, &halves, aux(k, PRODUCT_ROOM)));
    TS_TRY(k->be->zero(k->s, k->p[0], sizeof(float) * (size_t)k->count[0]));
    TS_TRY(k->be->copy(k->s, aux(k, REST), k->p[3], sizeof(float) * (size_t)k->count[0]));
    for (int scale = 0; scale < q->p.K; scale++) TS_TRY(one_scale(k, scale));
    return TS_OK;
}

void unfused_residual_vq(kernel *k, ts_device *d, ts_status *st)
{
    const ts_residual_vq *q = &k->u.rvq;
    const ts_linear l = distances_of(k, q->p.h), halves = { .N = q->V, .I = q->D, .O = 1 };
    const size_t a = k->be->linear_scratch(k->s, &l, 0), b = k->be->linear_scratch(k->s, &halves, 0);
    const int64_t n = k->count[0], T = k->B * q->p.T;
    float minus_half[64];
    for (int i = 0; i < 64; i++) minus_half[i] = -0.5f;
    k->aux = k->n;
    for (int i = REST; i <= ADDED; i++) kernel_room(k, d, st, n);
    kernel_room(k, d, st, l.N);
    kernel_room(k, d, st, l.N * q->V);
    kernel_room(k, d, st, (int64_t)q->V * q->D);
    kernel_room(k, d, st, q->V);
    kernel_numbers(k, d, st, minus_half, q->D);
    kernel_scratch(k, d, st, a > b ? a : b);
    kernel_scratch(k, d, st, k->be->pyramid_scratch(k->s, &q->p, q->D, k->B));
    k->unfused = scale_by_scale;
    k->products = q->p.K + 1;
    k->product_bytes = 4.0 * (double)(T * (q->D + q->V) + (q->p.K + 1) * (int64_t)q->V * q->D + (q->p.K + 1) * (int64_t)q->V);
    k->same = 1;
}
