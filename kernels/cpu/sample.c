/* sample.c - drawing tokens on the CPU. Contract: tessera/op_sample.h.
 *
 * Nothing is sorted: the cuts of top-k and top-p are found bit by bit in the order-preserving integer keys of the
 * logits, 32 vectorised passes over a row that lies in the cache.
 */
#include "tessera/op_sample.h"

#include <omp.h>

#include "kernels/cpu/stream.h"
#include "tessera/philox.h"

enum { LANES = 32, PARTIALS = 8, CHANNELS = 64 };

/* Working memory for V classes; of these the first n, in the order of v, are still in the draw. */
typedef struct {
    float *l, *unit; /* unit has room for whole blocks of 4 */
    int32_t *v;
    uint32_t *key;
    uint64_t *mass;
} row;

/* What names a draw beside its class. */
typedef struct {
    uint32_t stage, token;
    uint64_t image;
} place;

enum { ROW_BYTES = 2 * sizeof(float) + sizeof(int32_t) + sizeof(uint32_t) + sizeof(uint64_t) }; /* per class */

static size_t room(const ts_sample *a)
{
    return (size_t)(a->V + 15) / 16 * 16; /* cache lines, which threads do not share, and whole blocks of Philox */
}

size_t sample_scratch_cpu(ts_stream *s, const ts_sample *a)
{
    return (size_t)s->threads * room(a) * ROW_BYTES;
}

static row row_of(const ts_sample *a, void *scratch)
{
    size_t n = room(a);
    uint64_t *mass = (uint64_t *)scratch + (size_t)omp_get_thread_num() * n * ROW_BYTES / sizeof(uint64_t);
    float *l = (float *)(mass + n);
    return (row){ l, l + n, (int32_t *)(l + 2 * n), (uint32_t *)(l + 3 * n), mass };
}

/* l = guidance and temperature of one row of logits; uncond is NULL without guidance. */
static void mix(float *l, const float *cond, const float *uncond, const ts_sample *a, int64_t V)
{
    float more = 1 + a->guide, guide = a->guide, temperature = a->temperature;
    if (!uncond) {
#pragma omp simd
        for (int64_t v = 0; v < V; v++) l[v] = cond[v] / temperature;
        return;
    }
#pragma omp simd
    for (int64_t v = 0; v < V; v++) {
        float both = more * cond[v] - guide * uncond[v];
        l[v] = cond[v] == -INFINITY ? -INFINITY : both / temperature;
    }
}

/* The largest of n numbers; NaN if there is one among them. A maximum of integers, which compilers know to vectorise:
 * the bits in the order of the floats, and above all of them what is not a number. */
static float largest(const float *l, int64_t n)
{
    int32_t max = INT32_MIN;
#pragma omp simd reduction(max : max)
    for (int64_t i = 0; i < n; i++) {
        int32_t u = (int32_t)ts_bits_of(l[i]), order = u ^ ((u >> 31) & INT32_MAX);
        order = l[i] == l[i] ? order : INT32_MAX;
        max = order > max ? order : max;
    }
    return ts_float_of((uint32_t)(max ^ ((max >> 31) & INT32_MAX)));
}

/* Integers in the order of the floats; -0 and 0 get the same. */
static void make_keys(uint32_t *key, const float *l, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = ts_bits_of(l[i] + 0.0f);
        key[i] = u >> 31 ? ~u : u | 0x80000000u;
    }
}

/* The k-th largest key: the largest key that k keys reach. */
static uint32_t kth_largest(const uint32_t *key, int64_t n, int64_t k)
{
    uint32_t cut = 0;
    for (int bit = 31; bit >= 0; bit--) {
        uint32_t c = cut | 1u << bit, count = 0;
#pragma omp simd reduction(+ : count)
        for (int64_t i = 0; i < n; i++) count += key[i] >= c;
        if (count >= k) cut = c;
    }
    return cut;
}

/* The key at which the running sum of mass in ascending order first exceeds budget: the largest key with no more than
 * budget below it. *below is the sum below it. */
static uint32_t mass_cut(const uint32_t *key, const uint64_t *mass, int64_t n, uint64_t budget, uint64_t *below)
{
    uint32_t cut = 0;
    *below = 0;
    for (int bit = 31; bit >= 0; bit--) {
        uint32_t c = cut | 1u << bit;
        uint64_t sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += key[i] < c ? mass[i] : 0;
        if (sum <= budget) cut = c, *below = sum;
    }
    return cut;
}

static int64_t keep_top_k(row *r, int64_t n, int64_t k)
{
    make_keys(r->key, r->l, n);
    uint32_t cut = kth_largest(r->key, n, k);
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        r->l[kept] = r->l[i];
        r->v[kept] = r->v[i];
        kept += r->key[i] >= cut;
    }
    return kept;
}

static int64_t keep_top_p(row *r, int64_t n, float max, float top_p)
{
    uint64_t Z = 0, below;
    make_keys(r->key, r->l, n);
#pragma omp simd reduction(+ : Z)
    for (int64_t i = 0; i < n; i++) {
        r->mass[i] = (uint64_t)(int64_t)(ts_expf(r->l[i] - max) * 0x1p40f);
        Z += r->mass[i];
    }
    uint64_t budget = (uint64_t)((1 - (double)top_p) * (double)Z);
    if (budget > Z - 1) budget = Z - 1;
    uint32_t cut = mass_cut(r->key, r->mass, n, budget, &below);
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        int keep = r->key[i] > cut;
        if (r->key[i] == cut) { /* of equals the first are dropped */
            below += r->mass[i];
            keep = below > budget;
        }
        r->l[kept] = r->l[i];
        r->v[kept] = r->v[i];
        kept += keep;
    }
    return kept;
}

/* The draw of class v alone. */
static inline float unit_of(int32_t v, uint64_t seed, uint32_t high, uint32_t token, uint32_t image0, uint32_t image1)
{
    ts_philox x = ts_philox_block(seed, high + ((uint32_t)v >> 2), token, image0, image1);
    uint32_t even = v & 1 ? x.word[1] : x.word[0], odd = v & 1 ? x.word[3] : x.word[2];
    return ts_philox_unit(v & 2 ? odd : even);
}

/* l += Gumbel noise, each class by its own counter. Where most of the classes are left, whole blocks are drawn. */
static void add_gumbel(row *r, int64_t n, uint64_t seed, place at)
{
    float *l = r->l, *unit = r->unit;
    const int32_t *v = r->v;
    uint32_t high = at.stage * 65536u, token = at.token, image0 = (uint32_t)at.image;
    uint32_t image1 = (uint32_t)(at.image >> 32);
    int64_t blocks = v[n - 1] / 4 + 1;
    if (n < blocks) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) l[i] -= ts_logf(-ts_logf(unit_of(v[i], seed, high, token, image0, image1)));
        return;
    }
#pragma omp simd
    for (int64_t j = 0; j < blocks; j++) {
        ts_philox x = ts_philox_block(seed, high + (uint32_t)j, token, image0, image1);
        float *u = unit + 4 * j;
        u[0] = ts_philox_unit(x.word[0]);
        u[1] = ts_philox_unit(x.word[1]);
        u[2] = ts_philox_unit(x.word[2]);
        u[3] = ts_philox_unit(x.word[3]);
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) l[i] -= ts_logf(-ts_logf(unit[v[i]]));
}

/* Top-k and top-p of n logits in r->l; how many are left, 0 if the logits allow no draw. Greedy keeps one. */
static int64_t keep(row *r, int64_t n, const ts_sample *a)
{
    float max = largest(r->l, n);
    if (!isfinite(max)) return 0;
    if (a->top_k == 1) {
        int32_t i = 0;
        while (r->l[i] < max) i++;
        r->l[0] = max;
        r->v[0] = i;
        return 1;
    }
    for (int64_t i = 0; i < n; i++) r->v[i] = (int32_t)i;
    if (a->top_k > 0 && a->top_k < n) n = keep_top_k(r, n, a->top_k);
    if (a->top_p < 1) n = keep_top_p(r, n, max, a->top_p);
    return n;
}

/* One class from the n logits in r->l, which are used up. -1 if they allow no draw. */
static int32_t draw(row *r, int64_t n, const ts_sample *a, place at)
{
    n = keep(r, n, a);
    if (n == 0) return -1;
    if (a->top_k == 1) return r->v[0];
    add_gumbel(r, n, a->seed, at);
    float max = largest(r->l, n);
    int64_t i = 0;
    while (r->l[i] < max) i++;
    return r->v[i];
}

/* The options with seed and number of the first picture from where they are. */
static ts_sample followed(const ts_sample *a)
{
    ts_sample r = *a;
    if (a->source) r.seed = a->source[0], r.image0 = a->source[1];
    return r;
}

/* Token n of this call. */
static place place_of(const ts_sample *a, int64_t n)
{
    return (place){ 0, (uint32_t)(a->token0 + n % a->t), a->image0 + (uint64_t)(n / a->t) };
}

static void mix_row(row *r, const float *logits, const ts_sample *a, int64_t n)
{
    const float *cond = logits + n * a->V;
    mix(r->l, cond, a->guided ? cond + a->B * a->t * a->V : NULL, a, a->V);
}

/* bad is the smallest row without a draw, or B t if all had one. */
static ts_status report(const ts_sample *a, int64_t bad)
{
    if (bad == a->B * a->t) return TS_OK;
    return ts_fail(TS_E_DATA, "sample: the logits of picture %llu, token %lld hold NaN or +inf, or nothing above -inf",
                   (unsigned long long)(a->image0 + (uint64_t)(bad / a->t)), (long long)(a->token0 + bad % a->t));
}

ts_status sample_cpu(ts_stream *s, int32_t *idx, const float *logits, const ts_sample *a, void *scratch)
{
    TS_TRY(ts_sample_check(a));
    TS_TRY(ts_sample_check_classes(a));
    const ts_sample here = followed(a);
    a = &here;
    int64_t rows = a->B * a->t, bad = rows;
#pragma omp parallel num_threads(s->threads) reduction(min : bad)
    {
        row r = row_of(a, scratch);
#pragma omp for schedule(dynamic, 4)
        for (int64_t n = 0; n < rows; n++) {
            mix_row(&r, logits, a, n);
            int32_t v = draw(&r, a->V, a, place_of(a, n));
            if (v < 0 && n < bad) bad = n;
            idx[n] = v < 0 ? 0 : v;
        }
    }
    return report(a, bad);
}

/* l becomes e of the contract, and the classes are those where it is not 0: how many; none if there is no draw. */
static int64_t weigh(row *r, int64_t n, const ts_sample *a, const ts_smooth *m, place at)
{
    n = keep(r, n, a);
    if (n == 0) return 0;
    if (a->top_k == 1) return r->l[0] = 1, 1;
    float *l = r->l, sharpen = m->sharpen, tau = m->tau;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) l[i] *= sharpen;
    add_gumbel(r, n, a->seed, at);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) l[i] /= tau;
    float max = largest(l, n);
    if (!isfinite(max)) return 0;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) l[i] = ts_expf(l[i] - max);
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        l[kept] = l[i];
        r->v[kept] = r->v[i];
        kept += l[i] > 0;
    }
    return kept;
}

static float sum_of(const float *part, int64_t stride)
{
    float sum = part[0];
    for (int j = 1; j < PARTIALS; j++) sum += part[j * stride];
    return sum;
}

/* code (D) = the mean of the codebook's rows r->v, weighted by r->l. */
static void mean_row(float *code, const row *r, int64_t n, const float *codebook, int64_t D)
{
    float part[PARTIALS][CHANNELS], whole[PARTIALS] = { 0 };
    for (int64_t i = 0; i < n; i++) whole[r->v[i] % PARTIALS] += r->l[i];
    float Z = sum_of(whole, 1);
    for (int64_t d0 = 0; d0 < D; d0 += CHANNELS) {
        int64_t some = D - d0 < CHANNELS ? D - d0 : CHANNELS;
        memset(part, 0, sizeof part);
        for (int64_t i = 0; i < n; i++) {
            const float *E = codebook + r->v[i] * D + d0;
            float *sum = part[r->v[i] % PARTIALS], e = r->l[i];
#pragma omp simd
            for (int64_t d = 0; d < some; d++) sum[d] = fmaf(e, E[d], sum[d]);
        }
        for (int64_t d = 0; d < some; d++) code[d0 + d] = sum_of(&part[0][d], CHANNELS) / Z;
    }
}

ts_status sample_smooth_cpu(ts_stream *s, float *code, const float *logits, const float *codebook, const ts_sample *a,
                            const ts_smooth *m, void *scratch)
{
    TS_TRY(ts_sample_check(a));
    TS_TRY(ts_sample_check_classes(a));
    TS_TRY(ts_smooth_check(m));
    const ts_sample here = followed(a);
    a = &here;
    int64_t rows = a->B * a->t, bad = rows;
#pragma omp parallel num_threads(s->threads) reduction(min : bad)
    {
        row r = row_of(a, scratch);
#pragma omp for schedule(dynamic, 4)
        for (int64_t n = 0; n < rows; n++) {
            mix_row(&r, logits, a, n);
            int64_t kept = weigh(&r, a->V, a, m, place_of(a, n));
            if (kept == 0 && n < bad) bad = n;
            if (kept == 0)
                memset(code + n * m->D, 0, (size_t)m->D * sizeof *code);
            else
                mean_row(code + n * m->D, &r, kept, codebook, m->D);
        }
    }
    return report(a, bad);
}

/* The logits of digit i after digit[0..i-1], summed in the contract's 32 lanes. */
static void digit_logits(float *z, const float *u, const int32_t *digit, int i, int k, const ts_digit_params *p,
                         const ts_digit_head *d)
{
    int M = d->M, off = d->off[i], L = d->level[i];
    float lane[TS_MAX_SUM_L][LANES];
    memset(lane, 0, sizeof lane[0] * (size_t)L);
    for (int m0 = 0; m0 < M; m0 += LANES) {
        int n = M - m0 < LANES ? M - m0 : LANES;
        float g[LANES];
        memcpy(g, u + m0, (size_t)n * sizeof *g);
        for (int j = 0; j < i; j++) {
            const float *E = p->E + (int64_t)(d->off[j] + digit[j]) * M + m0;
            for (int m = 0; m < n; m++) g[m] += E[m];
        }
        const float *b = p->b + (int64_t)i * M + m0;
        for (int m = 0; m < n; m++) {
            float x = g[m] + b[m];
            g[m] = x < 0 ? 0 : x;
        }
        for (int l = 0; l < L; l++) {
            const float *W = p->W + (int64_t)(off + l) * M + m0;
            for (int m = 0; m < n; m++) lane[l][m] = fmaf(W[m], g[m], lane[l][m]);
        }
    }
    const float *c = p->c + (int64_t)k * d->sum_L + off;
    for (int l = 0; l < L; l++) {
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int j = 0; j < half; j++) lane[l][j] += lane[l][j + half];
        z[l] = lane[l][0] + c[l];
    }
}

/* The code of one token, or -1. uncond is NULL without guidance; it sees the digits drawn so far as cond does. */
static int32_t draw_code(const float *cond, const float *uncond, int k, const ts_digit_params *p,
                         const ts_digit_head *d, const ts_sample *a, place at)
{
    float l[TS_MAX_SUM_L], unit[TS_MAX_SUM_L], z[2][TS_MAX_SUM_L];
    int32_t v[TS_MAX_SUM_L], digit[TS_MAX_D], code = 0;
    uint32_t key[TS_MAX_SUM_L];
    uint64_t mass[TS_MAX_SUM_L];
    row r = { l, unit, v, key, mass };
    for (int i = 0; i < d->D; i++) {
        digit_logits(z[0], cond, digit, i, k, p, d);
        if (uncond) digit_logits(z[1], uncond, digit, i, k, p, d);
        mix(l, z[0], uncond ? z[1] : NULL, a, d->level[i]);
        at.stage = 1 + (uint32_t)i;
        digit[i] = draw(&r, d->level[i], a, at);
        if (digit[i] < 0) return -1;
        code += digit[i] * d->basis[i];
    }
    return code;
}

ts_status sample_digits_cpu(ts_stream *s, int32_t *idx, const float *u, const ts_digit_params *param,
                            const ts_digit_head *d, int k, const ts_sample *a, void *scratch)
{
    (void)scratch;
    TS_TRY(ts_sample_check(a));
    if (k < 0 || k >= d->K) return ts_fail(TS_E_ARG, "sample: scale %d, expected 0..%d", k, d->K - 1);
    const ts_sample here = followed(a);
    a = &here;
    int64_t rows = a->B * a->t, bad = rows;
#pragma omp parallel for num_threads(s->threads) schedule(dynamic, 4) reduction(min : bad)
    for (int64_t n = 0; n < rows; n++) {
        const float *cond = u + n * d->M, *uncond = a->guided ? cond + rows * d->M : NULL;
        int32_t code = draw_code(cond, uncond, k, param, d, a, place_of(a, n));
        if (code < 0 && n < bad) bad = n;
        idx[n] = code < 0 ? 0 : code;
    }
    return report(a, bad);
}
