/* step.c - single steps of formulas on the CPU. Contract: tessera/op_step.h. Twin: kernels/cuda/step.cu. */
#include "tessera/op_step.h"

#include <string.h>

#include "kernels/cpu/stream.h"

enum { PIECE = 4096 };

/* n numbers of y = a f b, b one number for all of them or one for each; f and one are constants where this is inlined. */
static inline void run(float *y, const float *a, const float *b, int64_t n, ts_step_map f, int one)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float right = one ? *b : b[i];
        y[i] = f == TS_STEP_ADD    ? a[i] + right
               : f == TS_STEP_SUB  ? a[i] - right
               : f == TS_STEP_MUL  ? a[i] * right
               : f == TS_STEP_DIV  ? a[i] / right
               : f == TS_STEP_MIN  ? (right < a[i] ? right : a[i])
               : f == TS_STEP_TANH ? ts_tanhf(a[i])
               : f == TS_STEP_RELU ? (a[i] > 0 ? a[i] : 0)
               : f == TS_STEP_EXP  ? ts_expf(a[i])
                                   : rintf(a[i]);
    }
}

static inline void map_run(float *y, const float *a, const float *b, int64_t n, ts_step_map f, int one)
{
    switch (f) {
    case TS_STEP_ADD: run(y, a, b, n, TS_STEP_ADD, one); return;
    case TS_STEP_SUB: run(y, a, b, n, TS_STEP_SUB, one); return;
    case TS_STEP_MUL: run(y, a, b, n, TS_STEP_MUL, one); return;
    case TS_STEP_DIV: run(y, a, b, n, TS_STEP_DIV, one); return;
    case TS_STEP_MIN: run(y, a, b, n, TS_STEP_MIN, one); return;
    case TS_STEP_TANH: run(y, a, b, n, TS_STEP_TANH, one); return;
    case TS_STEP_RINT: run(y, a, b, n, TS_STEP_RINT, one); return;
    case TS_STEP_RELU: run(y, a, b, n, TS_STEP_RELU, one); return;
    case TS_STEP_EXP: run(y, a, b, n, TS_STEP_EXP, one); return;
    }
}

/* Rows of b that stand for part numbers from n on, side by side. */
static void repeat_rows(float *to, const float *b, int64_t n, int64_t part, int64_t R, int64_t C)
{
    for (int64_t i = 0; i < part; i += C) memcpy(to + i, b + (n + i) / (R * C) * C, sizeof(float) * (size_t)C);
}

/* Pieces of PIECE numbers or so: inside a run of equal b, or whole rows of C, short ones several at a time. */
ts_status step_map_cpu(ts_stream *s, float *y, const float *a, const float *b, ts_step_map f, int64_t N, int64_t R, int64_t C)
{
    const int each = !b || R == 1, one = !each && C == 1, several = !each && !one && C < PIECE;
    const int64_t run = one ? R : N, piece = each || one ? PIECE : several ? PIECE / C * C : C, of_run = (run + piece - 1) / piece;
    const int64_t pieces = one ? N / R * of_run : of_run;
#pragma omp parallel for num_threads(s->threads)
    for (int64_t i = 0; i < pieces; i++) {
        float rows[PIECE];
        const int64_t at = i % of_run * piece, n = i / of_run * run + at, part = run - at < piece ? run - at : piece;
        const float *right = !b ? a + n : each ? b + n : several ? rows : b + n / (R * C) * C;
        if (several) repeat_rows(rows, b, n, part, R, C);
        if (one) map_run(y + n, a + n, right, part, f, 1);
        else map_run(y + n, a + n, right, part, f, 0);
    }
    return TS_OK;
}

/* The largest of V numbers, without those that are NaN; -inf if there is no other. A maximum of integers, which compilers know to
 * vectorise. */
static float max_of(const float *a, int64_t V)
{
    uint32_t max = ts_step_order(-INFINITY);
#pragma omp simd reduction(max : max)
    for (int64_t v = 0; v < V; v++) {
        const uint32_t order = a[v] == a[v] ? ts_step_order(a[v]) : 0;
        max = order > max ? order : max;
    }
    return ts_float_of(max >> 31 ? max & 0x7fffffffu : ~max);
}

static void normalise(float *y, const float *a, int64_t V)
{
    double sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t v = 0; v < V; v++) sum += a[v];
    const double mean = sum / (double)V;
#pragma omp simd reduction(+ : squares)
    for (int64_t v = 0; v < V; v++) squares += (a[v] - mean) * (a[v] - mean);
    const double inv = 1 / sqrt(squares / (double)V + 1e-6);
    for (int64_t v = 0; v < V; v++) y[v] = (float)((a[v] - mean) * inv);
}

static void softmax(float *y, const float *a, int64_t V)
{
    const float max = max_of(a, V);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t v = 0; v < V; v++) sum += y[v] = ts_expf(a[v] - max);
    for (int64_t v = 0; v < V; v++) y[v] /= sum;
}

/* The order of the k-th largest: bit by bit. */
static uint32_t kth_largest(const float *a, int64_t V, int64_t k)
{
    uint32_t u = 0;
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
        int64_t above = 0;
#pragma omp simd reduction(+ : above)
        for (int64_t v = 0; v < V; v++) above += ts_step_order(a[v]) >= (u | bit);
        if (above >= k) u |= bit;
    }
    return u;
}

/* The largest order up to which probabilities sum to `limit` at most. */
static uint32_t mass_up_to(const float *a, int64_t V, double limit)
{
    const float max = max_of(a, V);
    double all = 0;
    uint32_t u = 0;
    for (int64_t v = 0; v < V; v++) all += ts_expf(a[v] - max);
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t v = 0; v < V; v++) sum += ts_step_order(a[v]) <= (u | bit) ? ts_expf(a[v] - max) : 0;
        if (sum <= limit * all) u |= bit;
    }
    return u;
}

static float length(const float *a, int64_t V)
{
    double squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t v = 0; v < V; v++) squares += (double)a[v] * a[v];
    const float size = (float)sqrt(squares);
    return size < 1e-12f ? 1e-12f : size;
}

static int32_t draw(const float *a, const ts_sample *how, const int32_t *which, int64_t n, int64_t V)
{
    int32_t best = 0;
    float most = -INFINITY;
    for (int64_t v = 0; v < V; v++) {
        const float x = a[v] + ts_step_noise(how, which, n, v);
        if (x > most) most = x, best = (int32_t)v;
    }
    return best;
}

static int32_t first_largest(const float *a, int64_t V)
{
    const float max = max_of(a, V);
    for (int64_t v = 0; v < V; v++)
        if (a[v] == max) return (int32_t)v;
    return 0;
}

static void one_row(void *y, const float *a, const int32_t *which, ts_step_rows f, const ts_sample *how, int64_t n, int64_t V)
{
    float *row = (float *)y + n * V, sum = 0;
    const uint32_t least = f == TS_STEP_TOP_K   ? kth_largest(a, V, how->top_k)
                           : f == TS_STEP_TOP_P ? mass_up_to(a, V, 1 - (double)how->top_p) + 1
                                                : 0;
    switch (f) {
    case TS_STEP_NORMALISE: normalise(row, a, V); return;
    case TS_STEP_SOFTMAX: softmax(row, a, V); return;
    case TS_STEP_LENGTH: ((float *)y)[n] = length(a, V); return;
    case TS_STEP_LOSS: ((float *)y)[n] = -ts_logf(a[which[n]]); return;
    case TS_STEP_ONE_HOT:
        for (int64_t v = 0; v < V; v++) row[v] = a[v] - (v == which[n]);
        return;
    case TS_STEP_SUM:
        for (int64_t v = 0; v < V; v++) sum += a[v];
        ((int32_t *)y)[n] = (int32_t)sum;
        return;
    case TS_STEP_TOP_K:
    case TS_STEP_TOP_P:
        for (int64_t v = 0; v < V; v++) row[v] = ts_step_order(a[v]) >= least ? a[v] : -INFINITY;
        return;
    case TS_STEP_ARGMAX: ((int32_t *)y)[n] = first_largest(a, V); return;
    case TS_STEP_NOISE:
        for (int64_t v = 0; v < V; v++) row[v] = a[v] + ts_step_noise(how, which, n, v);
        return;
    case TS_STEP_DRAW: ((int32_t *)y)[n] = draw(a, how, which, n, V); return;
    }
}

ts_status step_rows_cpu(ts_stream *s, void *y, const float *a, const int32_t *which, ts_step_rows f, const ts_sample *how, int64_t N,
                        int64_t V)
{
#pragma omp parallel for num_threads(s->threads)
    for (int64_t n = 0; n < N; n++) one_row(y, a + n * V, which, f, how, n, V);
    return TS_OK;
}
