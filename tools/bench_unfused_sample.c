/* bench_unfused_sample.c - what sampling is compared with: as bench_unfused.c. Contract: bench_kernels.h. */
#include "tools/bench_kernels.h"

/* --- guidance, temperature, top-k, top-p --- */

/* Buffers from k->aux on, of all three. GUIDE: the two factors of guidance and the temperature. */
enum { MIXED, KEPT, GUIDE, OTHERS };

/* MIXED = N logits, guided, over the temperature. */
static ts_status mix(kernel *k, const float *logits, int64_t N)
{
    const float *guide = aux(k, GUIDE);
    TS_TRY(kernel_map(k, aux(k, MIXED), logits, TS_STEP_MUL, guide, N, N, 1));
    TS_TRY(kernel_map(k, aux(k, KEPT), logits + N, TS_STEP_MUL, guide + 1, N, N, 1));
    TS_TRY(kernel_map(k, aux(k, MIXED), aux(k, MIXED), TS_STEP_SUB, aux(k, KEPT), N, 1, N));
    return kernel_map(k, aux(k, MIXED), aux(k, MIXED), TS_STEP_DIV, guide + 2, N, N, 1);
}

/* MIXED = what of the logits may be drawn. */
static ts_status mix_and_cut(kernel *k)
{
    const ts_sample *a = &k->u.sample;
    const int64_t rows = a->B * a->t;
    TS_TRY(mix(k, k->p[1], rows * a->V));
    TS_TRY(k->be->step_rows(k->s, aux(k, KEPT), aux(k, MIXED), NULL, TS_STEP_TOP_K, a, rows, a->V));
    return k->be->step_rows(k->s, aux(k, MIXED), aux(k, KEPT), NULL, TS_STEP_TOP_P, a, rows, a->V);
}

/* The buffers of mix, for N logits. */
static void buffers_to_mix(kernel *k, ts_device *d, ts_status *st, int64_t N)
{
    const ts_sample *a = &k->u.sample;
    const float guide[3] = { 1 + a->guide, a->guide, a->temperature };
    k->aux = kernel_room(k, d, st, N);
    kernel_room(k, d, st, N);
    kernel_numbers(k, d, st, guide, 3);
    k->same = 1;
}

/* --- one of the classes: a draw --- */

static ts_status sample_in_steps(kernel *k)
{
    const ts_sample *a = &k->u.sample;
    TS_TRY(mix_and_cut(k));
    return k->be->step_rows(k->s, k->p[0], aux(k, MIXED), NULL, TS_STEP_DRAW, a, a->B * a->t, a->V);
}

void unfused_sample(kernel *k, ts_device *d, ts_status *st)
{
    const ts_sample *a = &k->u.sample;
    buffers_to_mix(k, d, st, a->B * a->t * a->V);
    k->unfused = sample_in_steps;
}

/* --- the mean of the codebook's rows: sharpen, noise, over tau, softmax, product --- */

enum { SHARPEN = OTHERS, TAU, PRODUCT_ROOM };

static ts_linear mean_of(const kernel *k)
{
    return (ts_linear){ .N = k->u.sample.B * k->u.sample.t, .I = k->smooth.D, .O = k->u.sample.V };
}

static ts_status smooth_in_steps(kernel *k)
{
    const ts_sample *a = &k->u.sample;
    const ts_linear mean = mean_of(k);
    const int64_t rows = mean.N, N = rows * a->V;
    TS_TRY(mix_and_cut(k));
    TS_TRY(kernel_map(k, aux(k, KEPT), aux(k, MIXED), TS_STEP_MUL, aux(k, SHARPEN), N, N, 1));
    TS_TRY(k->be->step_rows(k->s, aux(k, MIXED), aux(k, KEPT), NULL, TS_STEP_NOISE, a, rows, a->V));
    TS_TRY(kernel_map(k, aux(k, MIXED), aux(k, MIXED), TS_STEP_DIV, aux(k, TAU), N, N, 1));
    TS_TRY(k->be->step_rows(k->s, aux(k, KEPT), aux(k, MIXED), NULL, TS_STEP_SOFTMAX, NULL, rows, a->V));
    return k->be->linear_bwd(k->s, k->p[0], NULL, NULL, aux(k, KEPT), NULL, k->p[2], &mean, aux(k, PRODUCT_ROOM));
}

void unfused_sample_smooth(kernel *k, ts_device *d, ts_status *st)
{
    const ts_linear mean = mean_of(k);
    buffers_to_mix(k, d, st, mean.N * mean.O);
    kernel_numbers(k, d, st, &k->smooth.sharpen, 1);
    kernel_numbers(k, d, st, &k->smooth.tau, 1);
    kernel_scratch(k, d, st, k->be->linear_scratch(k->s, &mean, 1));
    k->unfused = smooth_in_steps;
    k->products = 1;
    k->product_bytes = 4.0 * (double)(mean.N * mean.O + mean.O * mean.I + mean.N * mean.I);
}

/* --- the digit head: a digit after the other, each the bias, activation, product, guidance, draw, and what it adds to the code --- */

/* STAGES (D,N), DRAWN (N) are whole numbers; SHARES: what every digit adds to the code, (D,L). */
enum { SUM = OTHERS, HIDDEN, LOGITS, STAGES, DRAWN, SHARES, SHARE, CODE, DIGIT_ROOM };

static ts_linear logits_of(const kernel *k, int i)
{
    return (ts_linear){ .N = 2 * k->u.sample.B * k->u.sample.t, .I = k->head.M, .O = k->head.level[i] };
}

static ts_status draw_digit(kernel *k, int i)
{
    const ts_digit_head *h = &k->head;
    const ts_linear l = logits_of(k, i);
    const int64_t N = l.N / 2, M = h->M;
    const float *bias = k->digits.c + KERNEL_SCALE * h->sum_L + h->off[i];
    TS_TRY(kernel_map(k, aux(k, HIDDEN), aux(k, SUM), TS_STEP_ADD, k->digits.b + i * M, l.N * M, l.N, M));
    TS_TRY(kernel_map(k, aux(k, HIDDEN), aux(k, HIDDEN), TS_STEP_RELU, NULL, l.N * M, l.N, M));
    TS_TRY(k->be->linear_fwd(k->s, aux(k, LOGITS), aux(k, HIDDEN), k->digits.W + h->off[i] * M, bias, &l, aux(k, DIGIT_ROOM)));
    TS_TRY(mix(k, aux(k, LOGITS), N * l.O));
    return k->be->step_rows(k->s, aux(k, DRAWN), aux(k, MIXED), aux_ints(k, STAGES) + i * N, TS_STEP_DRAW, &k->u.sample, N, l.O);
}

/* What is drawn goes into the code and into the hidden sums of both halves, guiding and guided. */
static ts_status add_digit(kernel *k, int i)
{
    const ts_digit_head *h = &k->head;
    const int64_t N = k->count[0], M = h->M;
    float *guiding = aux(k, SUM) + N * M;
    TS_TRY(k->be->embedding_fwd(k->s, aux(k, SHARE), aux(k, SHARES) + h->off[i], aux_ints(k, DRAWN), N, 1));
    TS_TRY(k->be->add(k->s, aux(k, CODE), aux(k, CODE), aux(k, SHARE), N));
    if (i == h->D - 1) return TS_OK;
    TS_TRY(k->be->embedding_fwd(k->s, aux(k, HIDDEN), k->digits.E + h->off[i] * M, aux_ints(k, DRAWN), N, M));
    TS_TRY(k->be->add(k->s, aux(k, SUM), aux(k, SUM), aux(k, HIDDEN), N * M));
    return k->be->add(k->s, guiding, guiding, aux(k, HIDDEN), N * M);
}

static ts_status draw_digit_by_digit(kernel *k)
{
    const int64_t N = k->count[0];
    TS_TRY(k->be->zero(k->s, aux(k, CODE), sizeof(float) * (size_t)N));
    TS_TRY(k->be->copy(k->s, aux(k, SUM), k->p[1], sizeof(float) * (size_t)k->count[1]));
    for (int i = 0; i < k->head.D; i++) {
        TS_TRY(draw_digit(k, i));
        TS_TRY(add_digit(k, i));
    }
    return k->be->step_rows(k->s, k->p[0], aux(k, CODE), NULL, TS_STEP_SUM, NULL, N, 1);
}

static ts_status fill_digits(kernel *k)
{
    const ts_digit_head *h = &k->head;
    const int64_t N = k->count[0];
    float share[TS_MAX_SUM_L];
    for (int i = 0; i < h->D; i++) {
        const int32_t stage = 1 + i;
        for (int j = 0; j < h->level[i]; j++) share[h->off[i] + j] = (float)(j * h->basis[i]);
        for (int64_t n = 0; n < N; n++) TS_TRY(k->be->upload(k->s, aux_ints(k, STAGES) + i * N + n, &stage, sizeof stage));
    }
    return k->be->upload(k->s, aux(k, SHARES), share, sizeof *share * (size_t)h->sum_L);
}

void unfused_sample_digits(kernel *k, ts_device *d, ts_status *st)
{
    const ts_digit_head *h = &k->head;
    if (*st != TS_OK) return;
    const ts_linear l = logits_of(k, 0); /* all digits of the bench have as many levels */
    const int64_t N = l.N / 2, rooms[] = { l.N * l.I, l.N * l.I, l.N * l.O, h->D * N, N, h->sum_L, N, N };
    buffers_to_mix(k, d, st, N * l.O);
    for (int i = SUM; i < DIGIT_ROOM; i++) kernel_room(k, d, st, rooms[i - SUM]);
    kernel_scratch(k, d, st, k->be->linear_scratch(k->s, &l, 0));
    if (*st == TS_OK) *st = fill_digits(k);
    k->unfused = draw_digit_by_digit;
    k->products = h->D;
    k->product_bytes = 4.0 * (double)(h->D * (l.N * l.I + l.I * l.O + 2 * l.N * l.O));
}
