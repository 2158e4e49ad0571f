/* bench_unfused_attention.c - what attention is compared with: as bench_unfused.c. Scores and weights are written, softmax is a pass of
 * its own, and products are a call for each head, of a library where there is one. Contract: bench_kernels.h.
 *
 * Queries, keys, values and gradients of the output lie head by head here, (B,H,T,c), and so do the results: what it costs to bring them
 * there and back is not counted. */
#include <stdlib.h>
#include <string.h>

#include "tools/bench_kernels.h"

/* Buffers from k->aux on. The last four: backward. */
enum { Q, K, V, SCORES, WEIGHTS, SCALE, ROOM, DOUT, SLOPES, MEANS, ONES };

static float *at(const kernel *k, int i)
{
    return k->p[k->aux + i];
}

/* Of scores; its backward makes the products with weights. */
static ts_linear product_of(const ts_attention *a)
{
    return (ts_linear){ a->T, a->c, a->T, a->math, TS_F32 };
}

/* (B,T,parts,H,c) and (parts,B,H,T,c): from one to the other, or back. */
static void split_heads(float *to, const float *from, const ts_attention *a, int64_t parts, int back)
{
    for (int64_t i = 0; i < parts * a->B * a->H * a->T; i++) {
        const int64_t t = i % a->T, h = i / a->T % a->H, b = i / a->T / a->H % a->B, part = i / a->T / a->H / a->B;
        const int64_t j = ((b * a->T + t) * parts + part) * a->H + h;
        memcpy(to + (back ? j : i) * a->c, from + (back ? i : j) * a->c, sizeof *to * (size_t)a->c);
    }
}

static ts_status join_heads(const kernel *k, float *const *x)
{
    const ts_attention *a = &k->u.attention;
    const int64_t n = k->count[0];
    float *copy = malloc(sizeof *copy * (size_t)n);
    if (!copy) return ts_fail(TS_E_NOMEM, "out of host memory");
    memcpy(copy, x[0], sizeof *copy * (size_t)n);
    split_heads(x[0], copy, a, n / (a->B * a->T * a->H * a->c), 1);
    free(copy);
    return TS_OK;
}

static ts_status weights(kernel *k)
{
    const ts_attention *a = &k->u.attention;
    const ts_linear l = product_of(a);
    const int64_t heads = a->B * a->H, Tc = a->T * a->c, TT = a->T * a->T;
    for (int64_t i = 0; i < heads; i++)
        TS_TRY(k->be->linear_fwd(k->s, at(k, SCORES) + i * TT, at(k, Q) + i * Tc, at(k, K) + i * Tc, NULL, &l, at(k, ROOM)));
    TS_TRY(kernel_map(k, at(k, SCORES), at(k, SCORES), TS_STEP_MUL, at(k, SCALE), heads * TT, heads * TT, 1));
    return k->be->step_rows(k->s, at(k, WEIGHTS), at(k, SCORES), NULL, TS_STEP_SOFTMAX, NULL, heads * a->T, a->T);
}

static ts_status attention_in_steps(kernel *k)
{
    const ts_attention *a = &k->u.attention;
    const ts_linear l = product_of(a);
    const int64_t Tc = a->T * a->c, TT = a->T * a->T;
    TS_TRY(weights(k));
    for (int64_t i = 0; i < a->B * a->H; i++)
        TS_TRY(k->be->linear_bwd(k->s, k->p[0] + i * Tc, NULL, NULL, at(k, WEIGHTS) + i * TT, at(k, Q) + i * Tc, at(k, V) + i * Tc, &l,
                                 at(k, ROOM)));
    return TS_OK;
}

/* Gradients of scores: weights times what the gradients of weights are above their mean, times the scale. */
static ts_status score_slopes(kernel *k)
{
    const ts_attention *a = &k->u.attention;
    const int64_t rows = a->B * a->H * a->T, N = rows * a->T;
    const ts_linear sum = { rows, a->T, 1, TS_MATH_F32, TS_F32 };
    TS_TRY(kernel_map(k, at(k, SCORES), at(k, WEIGHTS), TS_STEP_MUL, at(k, SLOPES), N, 1, a->T));
    TS_TRY(k->be->linear_fwd(k->s, at(k, MEANS), at(k, SCORES), at(k, ONES), NULL, &sum, at(k, ROOM)));
    TS_TRY(kernel_map(k, at(k, SLOPES), at(k, SLOPES), TS_STEP_SUB, at(k, MEANS), N, a->T, 1));
    TS_TRY(kernel_map(k, at(k, SLOPES), at(k, SLOPES), TS_STEP_MUL, at(k, WEIGHTS), N, 1, a->T));
    return kernel_map(k, at(k, SLOPES), at(k, SLOPES), TS_STEP_MUL, at(k, SCALE), N, N, 1);
}

static ts_status attention_back_in_steps(kernel *k)
{
    const ts_attention *a = &k->u.attention;
    const ts_linear l = product_of(a);
    const int64_t heads = a->B * a->H, Tc = a->T * a->c, TT = a->T * a->T;
    float *dq = k->p[0], *dk = dq + heads * Tc, *dv = dk + heads * Tc;
    TS_TRY(weights(k));
    TS_TRY(k->be->zero(k->s, dk, sizeof *dk * (size_t)(2 * heads * Tc)));
    for (int64_t i = 0; i < heads; i++) {
        const float *dout = at(k, DOUT) + i * Tc, *v = at(k, V) + i * Tc;
        TS_TRY(k->be->linear_fwd(k->s, at(k, SLOPES) + i * TT, dout, v, NULL, &l, at(k, ROOM)));
        TS_TRY(k->be->linear_bwd(k->s, NULL, dv + i * Tc, NULL, at(k, WEIGHTS) + i * TT, dout, v, &l, at(k, ROOM)));
    }
    TS_TRY(score_slopes(k));
    for (int64_t i = 0; i < heads; i++)
        TS_TRY(k->be->linear_bwd(k->s, dq + i * Tc, dk + i * Tc, NULL, at(k, SLOPES) + i * TT, at(k, Q) + i * Tc, at(k, K) + i * Tc, &l,
                                 at(k, ROOM)));
    return TS_OK;
}

/* A part of buffer i, (B,T,parts,H,c), head by head, in buffers from `to` on. */
static ts_status split_buffer(kernel *k, int to, int i, int64_t parts)
{
    const ts_attention *a = &k->u.attention;
    const int64_t n = k->count[i];
    float *x = malloc(sizeof *x * (size_t)n), *y = malloc(sizeof *y * (size_t)n);
    ts_status st = x && y ? TS_OK : ts_fail(TS_E_NOMEM, "out of host memory");
    if (st == TS_OK) st = k->be->download(k->s, x, k->p[i], sizeof *x * (size_t)n);
    if (st == TS_OK) split_heads(y, x, a, parts, 0);
    for (int64_t part = 0; part < parts && st == TS_OK; part++)
        st = k->be->upload(k->s, at(k, to + (int)part), y + part * (n / parts), sizeof *y * (size_t)(n / parts));
    free(x);
    free(y);
    return st;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

void unfused_attention(kernel *k, ts_device *d, ts_status *st, int qkv, int dout)
{
    const ts_attention *a = &k->u.attention;
    const int64_t heads = a->B * a->H, n = heads * a->T * a->c, rows = heads * a->T, N = rows * a->T;
    const ts_linear l = product_of(a), sum = { rows, a->T, 1, TS_MATH_F32, TS_F32 };
    const int backward = dout >= 0;
    const size_t of_l = k->be->linear_scratch(k->s, &l, 0), of_sum = k->be->linear_scratch(k->s, &sum, 0);
    k->aux = kernel_room(k, d, st, n);
    for (int i = K; i <= V; i++) kernel_room(k, d, st, n);
    for (int i = SCORES; i <= WEIGHTS; i++) kernel_room(k, d, st, N);
    kernel_numbers(k, d, st, &a->scale, 1);
    kernel_scratch(k, d, st, larger(k->be->linear_scratch(k->s, &l, 1), larger(of_l, of_sum)));
    if (backward) {
        const float one = 1;
        kernel_room(k, d, st, n), kernel_room(k, d, st, N), kernel_room(k, d, st, rows), kernel_room(k, d, st, a->T);
        for (int64_t t = 0; t < a->T && *st == TS_OK; t++) *st = k->be->upload(k->s, at(k, ONES) + t, &one, sizeof one);
    }
    if (*st == TS_OK) *st = split_buffer(k, Q, qkv, 3);
    if (*st == TS_OK && backward) *st = split_buffer(k, DOUT, dout, 1);
    k->unfused = backward ? attention_back_in_steps : attention_in_steps;
    k->arrange = join_heads;
    k->products = backward ? 5 * heads + 1 : 2 * heads;
    k->product_bytes = backward ? 4.0 * (double)(5 * N + 12 * n + N + a->T + rows) : 4.0 * (double)(2 * N + 4 * n);
    k->same = 1;
}
