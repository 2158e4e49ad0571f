/* test_attention_tile.c - the CPU's attention of bfloat16 by tiles, on any machine: where there are no such registers, their
 * plain C takes their place (kernels/cpu/tile.h).
 *
 * Oracle     plain loops in double; queries times their factors, keys and values are rounded by a function of its own.
 * Inputs     seeded normals; what is not written before it is read is NaN: outputs, the cache, all of scratch.
 */
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/tile.h"
#include "tests/t.h"

typedef struct {
    int64_t B, T, H, c;
    double scale;
    int l2;
    int segment[40]; /* lengths, 0 ends the list; none: every token sees all */
} shape;

static const shape SHAPES[] = {
    { 2, 680, 3, 64, 1, 1, { 1, 4, 9, 16, 25, 36, 64, 100, 169, 256 } }, /* ten scales of a published model */
    { 1, 47, 3, 32, 0.3, 0, { 0 } },                                     /* one past every block            */
    { 3, 33, 1, 32, 1, 1, { 0 } },
    { 1, 256, 1, 640, 0.04, 0, { 0 } },                     /* in the middle of a tokenizer */
    { 1, 171, 2, 96, 0.1, 0, { 31, 1, 1, 7, 57, 32, 42 } }, /* segments that end at groups of keys, before them and behind them */
    { 2, 33, 2, 64, 1, 1, { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 } },
    { 1, 80, 2, 32, 12, 0, { 48, 32 } }, /* scores span hundreds: most weights are zero */
    { 9, 1, 1, 64, 1, 1, { 1 } },       /* heads in parallel, one token each            */
};
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };

static float widen(uint16_t x)
{
    const uint32_t u = (uint32_t)x << 16;
    float y;
    memcpy(&y, &u, sizeof y);
    return y;
}

/* What one call needs. */
typedef struct {
    ts_attention a;
    int64_t C;
    int32_t *end; /* NULL: no mask */
    float *qkv, *mul;
} problem;

static problem make(const shape *p, uint64_t seed)
{
    problem x = { .a = { p->B, p->T, p->H, p->c, (float)p->scale, 0, 0, TS_MATH_BF16, TS_BF16 }, .C = p->H * p->c };
    x.qkv = t_normals(3 * p->B * p->T * x.C, 1, seed);
    x.mul = p->l2 ? t_alloc((size_t)p->H * sizeof *x.mul) : NULL;
    /* Where training starts; where scores are too large to do without the largest; and behind the bound. */
    for (int64_t h = 0; p->l2 && h < p->H; h++) x.mul[h] = (const float[]){ 1.4f, 3.5f, 5 }[h % 3];
    if (p->segment[0] == 0) return x;
    x.end = t_alloc((size_t)p->T * sizeof *x.end);
    int64_t t = 0;
    for (int i = 0, to = 0; i < 40 && p->segment[i]; i++)
        for (to += p->segment[i]; t < to; t++) x.end[t] = to;
    T_EQI(t, p->T);
    return x;
}

/* y = x times factor, over its norm where `unit`; rounded. */
static void operand(double *y, const float *x, double factor, int unit, int64_t c)
{
    double sum = 0;
    for (int64_t i = 0; unit && i < c; i++) sum += (double)x[i] * x[i];
    for (int64_t i = 0; i < c; i++) y[i] = t_bf16(x[i] * factor / (unit ? fmax(sqrt(sum), 1e-12) : 1));
}

/* out (B,T,H,c). Queries have a factor of 1/log 2 before they are rounded: exponentials are powers of two. */
static double *oracle(const problem *x)
{
    const int64_t T = x->a.T, c = x->a.c, C = x->C;
    double *out = t_alloc(sizeof(double) * (size_t)(x->a.B * T * C)), *k = t_alloc(sizeof(double) * (size_t)(T * c));
    double *p = t_alloc(sizeof(double) * (size_t)T), *q = t_alloc(sizeof(double) * (size_t)c);
    for (int64_t i = 0; i < x->a.B * x->a.H; i++) {
        const int64_t b = i / x->a.H, h = i % x->a.H;
        const float *head = x->qkv + b * T * 3 * C + h * c;
        for (int64_t u = 0; u < T; u++) operand(k + u * c, head + u * 3 * C + C, 1, x->mul != NULL, c);
        for (int64_t t = 0; t < T; t++) {
            const int64_t n = x->end ? x->end[t] : T;
            double *o = out + (b * T + t) * C + h * c, top = -INFINITY, sum = 0;
            operand(q, head + t * 3 * C, (x->mul ? exp(fmin(x->mul[h], log(100))) : 1) * x->a.scale / log(2), x->mul != NULL, c);
            for (int64_t u = 0; u < n; u++) {
                p[u] = 0;
                for (int64_t d = 0; d < c; d++) p[u] += q[d] * k[u * c + d];
                top = fmax(top, p[u]);
            }
            for (int64_t u = 0; u < n; u++) sum += p[u] = exp2(p[u] - top);
            for (int64_t u = 0; u < n; u++)
                for (int64_t d = 0; d < c; d++) o[d] += p[u] / sum * t_bf16(head[u * 3 * C + 2 * C + d]);
        }
    }
    return out;
}

/* The masked form on so many threads. */
static uint16_t *masked(const ts_backend *be, ts_stream *s, const problem *x, int threads)
{
    ts_stream *on;
    t_buf *out = t_out(be, s, x->a.B * x->a.T * x->C, 2);
    T_OK(be->stream_new(&on, 0, threads));
    t_buf *scratch = t_out(be, s, (int64_t)attention_tile_scratch(on, &x->a, x->a.T), 1);
    T_OK(attention_fwd_tile(on, out->dev, NULL, x->qkv, x->mul, x->end, &x->a, scratch->dev));
    be->stream_free(on);
    t_down(out);
    t_down(scratch);
    return out->host;
}

/* The cached form, segment by segment. The cache has room for three tokens more, which stay as they are. */
static uint16_t *cached(const ts_backend *be, ts_stream *s, const problem *x, const shape *p)
{
    const int64_t T = p->T, C = x->C, room = T + 3;
    uint16_t *all = t_alloc((size_t)(p->B * T * C) * sizeof *all);
    t_buf *k = t_out(be, s, p->B * room * C, 2), *v = t_out(be, s, p->B * room * C, 2);
    ts_attention a = x->a;
    a.T_max = room;
    for (int i = 0; i < 40 && p->segment[i]; i++, a.pos += a.T) {
        a.T = p->segment[i];
        float *part = t_alloc((size_t)(p->B * a.T * 3 * C) * sizeof *part);
        for (int64_t b = 0; b < p->B; b++)
            memcpy(part + b * a.T * 3 * C, x->qkv + (b * T + a.pos) * 3 * C, (size_t)(a.T * 3 * C) * sizeof *part);
        t_buf *out = t_out(be, s, p->B * a.T * C, 2);
        t_buf *scratch = t_out(be, s, (int64_t)attention_tile_scratch(s, &a, room), 1);
        T_OK(attention_cached_tile(s, out->dev, k->dev, v->dev, T_INF(part, p->B * a.T * 3 * C)->dev, x->mul, &a, scratch->dev));
        t_down(out);
        t_down(scratch);
        for (int64_t b = 0; b < p->B; b++)
            memcpy(all + (b * T + a.pos) * C, (uint16_t *)out->host + b * a.T * C, (size_t)(a.T * C) * sizeof *all);
    }
    T_EQI(a.pos, T);
    t_down(k);
    t_down(v);
    for (int64_t i = 0; i < p->B * room * C; i++)
        T_TRUE(i / C % room < T || (((uint16_t *)k->host)[i] == 0xffff && ((uint16_t *)v->host)[i] == 0xffff));
    return all;
}

/* A weight is off by up to 2^-8 of itself, as is an output behind that; weights err at random, so that their sums err by less.
 * The root of the mean square of such an error is less than half of the most; of the two together, less than 0.65 of it. */
static const double MOST = 0x1p-7, MEAN = 0.65 * 0x1p-8;

T_TEST(formula)
{
    for (int i = 0; i < N_SHAPES; i++) {
        const problem x = make(&SHAPES[i], 70 + (uint64_t)i);
        const int64_t n = x.a.B * x.a.T * x.C;
        const double *want = oracle(&x);
        const uint16_t *out = masked(be, s, &x, 2);
        float *got = t_alloc((size_t)n * sizeof *got);
        double size = 0, error = 0;
        for (int64_t t = 0; t < x.a.B * x.a.T; t++) { /* row by row: those that see one key are larger than means of many */
            for (int64_t d = 0; d < x.C; d++) got[t * x.C + d] = widen(out[t * x.C + d]);
            t_close("out", got + t * x.C, want + t * x.C, x.C, MOST);
        }
        for (int64_t m = 0; m < n; m++) size += want[m] * want[m], error += (got[m] - want[m]) * (got[m] - want[m]);
        T_TRUE(sqrt(error) <= MEAN * sqrt(size));
        if (x.end) T_TRUE(memcmp(out, cached(be, s, &x, &SHAPES[i]), (size_t)n * 2) == 0);
    }
}

/* The last image of a batch and the image alone, and any thread count: the same bits. */
T_TEST(invariance)
{
    static const shape cases[] = { { 2, 85, 3, 64, 1, 1, { 1, 4, 16, 64 } }, { 9, 37, 1, 32, 0.3, 0, { 0 } } };
    for (int i = 0; i < 2; i++) {
        problem x = make(&cases[i], 19);
        const int64_t last = (x.a.B - 1) * x.a.T * x.C, size = x.a.T * x.C * 2;
        const uint16_t *all = masked(be, s, &x, 2);
        for (int threads = 1; threads < 6; threads += 2) {
            problem alone = x;
            alone.a.B = 1;
            alone.qkv += 3 * last;
            T_TRUE(memcmp(all, masked(be, s, &x, threads), (size_t)(last * 2 + size)) == 0);
            T_TRUE(memcmp(all + last, masked(be, s, &alone, threads), (size_t)size) == 0);
        }
    }
}

/* A row is the same whatever the others ask, and whatever lies behind what it sees; who sees NaN or infinity gets NaN. */
T_TEST(rows_are_independent)
{
    static const shape p = { 1, 85, 2, 64, 1, 1, { 1, 4, 16, 64 } };
    problem x = make(&p, 23), others = make(&p, 23), late = make(&p, 23), key = make(&p, 23), value = make(&p, 23);
    const int64_t C = x.C, T = p.T, seen = 21;
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; t != 50 && i < C; i++) others.qkv[t * 3 * C + i] = t % 2 ? NAN : 7;
    for (int64_t i = seen * 3 * C; i < T * 3 * C; i++) late.qkv[i] = i % 2 ? NAN : INFINITY;
    key.qkv[(84 * 3 + 1) * C] = NAN;
    value.qkv[(84 * 3 + 2) * C] = INFINITY;
    const uint16_t *one = masked(be, s, &x, 2), *few = masked(be, s, &late, 2);
    T_TRUE(memcmp(one + 50 * C, masked(be, s, &others, 2) + 50 * C, (size_t)C * 2) == 0);
    T_TRUE(memcmp(one, few, (size_t)(seen * C) * 2) == 0);
    T_TRUE(isnan(widen(few[seen * C])) && isnan(widen(few[T * C - 1])));
    const uint16_t *bad_key = masked(be, s, &key, 2), *bad_value = masked(be, s, &value, 2);
    T_TRUE(memcmp(one, bad_key, (size_t)(seen * C) * 2) == 0 && memcmp(one, bad_value, (size_t)(seen * C) * 2) == 0);
    for (int64_t t = seen; t < T; t++) {
        for (int64_t i = 0; i < 64; i++) T_TRUE(isnan(widen(bad_key[t * C + i])));
        T_TRUE(memcmp(one + t * C + 64, bad_key + t * C + 64, 64 * 2) == 0); /* the other head */
        T_TRUE(!isfinite(widen(bad_value[t * C])) && isfinite(widen(bad_value[t * C + 1])));
    }
}

/* Who sees one key gets its value; so does who sees many of the same value. Vectors of zero are as good as others. */
T_TEST(weights_sum_to_one)
{
    static const shape p = { 2, 43, 3, 32, 1, 1, { 1, 42 } };
    problem x = make(&p, 29);
    for (int64_t i = 0; i < 2 * p.T * 3 * x.C; i++) {
        const int64_t t = i / (3 * x.C) % p.T;
        if (i / x.C % 3 == 2 && t > 0) x.qkv[i] = x.qkv[i - (t - 1) * 3 * x.C];
        if (i / x.C % 3 < 2 && t == 7) x.qkv[i] = 0;
    }
    for (int64_t b = 0; b < 2; b++)
        for (int64_t i = 0; i < x.C; i++) x.qkv[b * p.T * 3 * x.C + 2 * x.C + i] = x.qkv[(b * p.T * 3 + 5) * x.C + i];
    const uint16_t *out = masked(be, s, &x, 2);
    for (int64_t i = 0; i < 2 * p.T * x.C; i++) {
        const int64_t token = i / x.C;
        T_TRUE(widen(out[i]) == (float)t_bf16(x.qkv[(token * 3 + 2) * x.C + i % x.C]));
    }
}

T_TEST(shapes)
{
    (void)be, (void)s;
    const ts_attention a = { 1, 40, 2, 64, 0.3f, 0, 0, TS_MATH_BF16, TS_BF16 };
    ts_attention wide = a, f32 = a, odd = a;
    wide.dtype = TS_F32, f32.math = TS_MATH_F32, odd.c = 24;
    T_TRUE(attention_tile_fits(&a) && !attention_tile_fits(&wide) && !attention_tile_fits(&f32) && !attention_tile_fits(&odd));
}

/* The CPU goes this way where it has the registers, but not for lse. */
T_TEST(taken)
{
    static const shape p = { 1, 40, 2, 64, 0.3, 0, { 9, 31 } };
    problem x = make(&p, 31);
    const uint16_t *tiles = masked(be, s, &x, 1);
    t_buf *out = t_out(be, s, p.T * x.C, 2), *lse = T_OUTF(p.H * p.T);
    for (int i = 0; i < 2; i++) {
        void *scratch = T_SCRATCH(be->attention_scratch(s, &x.a, 0));
        T_OK(be->attention_fwd(s, out->dev, i ? lse->dev : NULL, x.qkv, NULL, x.end, &x.a, scratch));
        t_down(out);
        T_EQI(memcmp(out->host, tiles, (size_t)(p.T * x.C) * 2) == 0, tile_unit() && i == 0);
    }
    for (int64_t t = 0; t < 2; t++) { /* none, and no token */
        x.a.B = t;
        x.a.T = 1 - t;
        masked(be, s, &x, 2);
    }
}

/* Not where the program was built for registers that it may not use. */
static int may_run(void)
{
#if defined __AMX_BF16__ && defined __AMX_TILE__
    return tile_unit();
#else
    return 1;
#endif
}

int main(void)
{
    Suite *u = t_suite("op_attention_tile");
    T_ADD1(u, shapes);
    if (may_run()) {
        T_ADD1(u, formula);
        T_ADD1(u, invariance);
        T_ADD1(u, rows_are_independent);
        T_ADD1(u, weights_sum_to_one);
        T_ADD1(u, taken);
    }
    return t_run(u);
}
