/* attention_tile.c - attention's forward by tile registers. Contract: kernels/cpu/attention_tile.h.
 *
 * One head of one image at a time: its keys and values are packed as right operands that stay in the second-level cache, then
 * blocks of queries pass over them. The queries of a block see the same keys, so that no product has a key that one of its rows
 * must not see; of the last group of keys, those that the block does not see have no score and a value of zero.
 */
#include "kernels/cpu/attention_tile.h"

#include <omp.h>

#include "kernels/cpu/stream.h"
#include "kernels/cpu/tile.h"

enum {
    ROWS = 2 * TILE,           /* most queries in a block                                           */
    GROUP = TILE_DEPTH,        /* keys that are packed together: the depth of a product with values */
    PAIR = 2 * TILE_BYTES / 2, /* numbers of two neighbouring tiles of a right operand              */
    LINE = 16                  /* floats in a cache line                                            */
};

static const float LOG2_E = 1.44269504f; /* exponentials are powers of two */
static const float NARROW = 32; /* scores within this of zero need no search for the largest: 2^-64 is as exact as 1 */

/* What one thread works in. */
typedef struct {
    uint16_t *k;    /* groups of keys; of a group, pairs of tiles: 32 of c and its 32 keys                    */
    uint16_t *v;    /* 32 of c; of those, groups of values as pairs of tiles: the group's 32 keys and 32 of c */
    uint16_t *last; /* the group that a block sees in part: a pair of tiles for each 32 of c                  */
    uint16_t *q;    /* (ROWS, q_row) queries times all their factors                                          */
    float *s[2];    /* (ROWS, GROUP) scores                                                                   */
    uint16_t *p;    /* (groups, ROWS, GROUP) their exponentials                                               */
    float *o;       /* (ROWS, GROUP) sums of values                                                           */
    uint16_t *rows; /* (2 GROUP, c) keys and values that are narrowed on their way, or are not there          */
    int64_t groups;
    int64_t q_row; /* c and some: an odd number of cache lines, so that neighbours are in other sets of a cache */
} workspace;

static uint16_t *take_narrow(arena *at, int64_t n)
{
    return (uint16_t *)take(at, (n + 1) / 2);
}

/* n numbers of bfloat16, rounded up to an odd number of cache lines. */
static int64_t odd_lines(int64_t n)
{
    return ((n + 2 * LINE - 1) / (2 * LINE) | 1) * 2 * LINE;
}

static workspace carve(arena *at, int64_t c, int64_t keys)
{
    workspace w = { .groups = ts_pieces(keys, GROUP) };
    w.q_row = odd_lines(c);
    w.k = take_narrow(at, w.groups * GROUP * c);
    w.v = take_narrow(at, w.groups * GROUP * c);
    w.last = take_narrow(at, GROUP * c);
    w.q = take_narrow(at, ROWS * w.q_row);
    w.s[0] = take(at, ROWS * GROUP);
    w.s[1] = take(at, ROWS * GROUP);
    w.p = take_narrow(at, w.groups * ROWS * GROUP);
    w.o = take(at, ROWS * GROUP);
    w.rows = take_narrow(at, 2 * GROUP * c);
    return w;
}

int attention_tile_fits(const ts_attention *a)
{
    return a->math == TS_MATH_BF16 && a->dtype == TS_BF16 && a->c > 0 && a->c % GROUP == 0;
}

static int64_t workspace_size(int64_t c, int64_t keys)
{
    arena at = { 0 };
    carve(&at, c, keys);
    return at.used;
}

size_t attention_tile_scratch(const ts_stream *s, const ts_attention *a, int64_t keys)
{
    return (size_t)(workspace_size(a->c, keys) * s->threads) * sizeof(float) + 64;
}

/* y = factor x, rounded to bfloat16. */
static void narrow_scaled(uint16_t *y, const float *x, float factor, int64_t c)
{
#pragma omp simd
    for (int64_t i = 0; i < c; i++) y[i] = bf16_narrow(factor * x[i]);
}

/* Where a key or value stands in bfloat16: in the cache, or else in room, narrowed. */
static const uint16_t *narrow_row(const job *j, uint16_t *room, const void *from, int64_t at, int normalise)
{
    if (j->narrow) return (const uint16_t *)from + at;
    const float *x = (const float *)from + at;
    narrow_scaled(room, x, normalise ? inverse_norm(x, j->a->c) : 1, j->a->c);
    return room;
}

/* 16 pairs of numbers of 16 rows, transposed: pair p of row n becomes pair n of row p. */
static inline void transpose(uint16_t *to, const uint16_t *const rows[TILE], int64_t i)
{
#if defined __AVX512F__
    /* The two halves of the rows take turns, four times. Each moves the highest bit of a pair's place, of four bits of the row
     * before four of the column, to the end. */
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    __m512i x[TILE], y[TILE];
    for (int n = 0; n < TILE; n++) x[n] = _mm512_loadu_si512(rows[n] + i);
#pragma GCC unroll 4
    for (int turn = 0; turn < 4; turn++) {
#pragma GCC unroll 8
        for (int n = 0; n < TILE / 2; n++) {
            y[2 * n] = _mm512_permutex2var_epi32(x[n], low, x[n + TILE / 2]);
            y[2 * n + 1] = _mm512_permutex2var_epi32(x[n], high, x[n + TILE / 2]);
        }
        memcpy(x, y, sizeof x);
    }
    for (int n = 0; n < TILE; n++) _mm512_storeu_si512(to + 2 * n * TILE, x[n]);
#else
    for (int p = 0; p < TILE; p++)
        for (int n = 0; n < TILE; n++, to += 2) memcpy(to, rows[n] + i + 2 * p, 2 * sizeof *to);
#endif
}

/* A group of keys: row p of a tile holds numbers 2p and 2p+1 of 16 keys. */
static void pack_keys(uint16_t *to, const uint16_t *const rows[GROUP], int64_t c)
{
    for (int64_t i = 0; i < c; i += TILE_DEPTH, to += PAIR)
        for (int half = 0; half < 2; half++) transpose(to + half * PAIR / 2, rows + half * TILE, i);
}

/* A group of values: row p of a tile holds 16 numbers of keys 2p and 2p+1, which take turns. Tiles of the next 32 of c lie step
 * further on. */
static void pack_values(uint16_t *to, int64_t step, const uint16_t *const rows[GROUP], int64_t c)
{
    for (int64_t i = 0; i < c; i += 2 * TILE, to += step)
        for (int half = 0; half < 2; half++)
            for (int p = 0; p < TILE; p++) {
                const uint16_t *even = rows[2 * p] + i + half * TILE, *odd = rows[2 * p + 1] + i + half * TILE;
                uint16_t *row = to + (half * TILE + p) * 2 * TILE;
#pragma omp simd
                for (int n = 0; n < TILE; n++) row[2 * n] = even[n], row[2 * n + 1] = odd[n];
            }
}

/* Packs one group of one head. What stands for keys behind the last is zero. */
static void pack(const job *j, workspace *w, int64_t b, int64_t h, int64_t group)
{
    const int64_t c = j->a->c, head = b * j->kv_image + h * c;
    const uint16_t *k[GROUP], *v[GROUP];
    for (int64_t i = 0; i < GROUP; i++) {
        const int64_t n = group * GROUP + i, at = head + n * j->kv_token;
        uint16_t *room = w->rows + i * c;
        if (n < j->keys) {
            k[i] = narrow_row(j, room, j->k, at, j->normalise);
            v[i] = narrow_row(j, room + GROUP * c, j->v, at, 0);
        } else {
            k[i] = v[i] = memset(room, 0, (size_t)c * sizeof *room);
        }
    }
    pack_keys(w->k + group * GROUP * c, k, c);
    pack_values(w->v + group * PAIR, w->groups * PAIR, v, c);
}

/* The last group that a block of end keys sees, with values of zero for those that it does not see. */
static void pack_last(workspace *w, int64_t end, int64_t c)
{
    const int64_t group = end / GROUP;
    for (int64_t i = 0; i < c / GROUP; i++) {
        uint16_t *to = w->last + i * PAIR;
        memcpy(to, w->v + (i * w->groups + group) * PAIR, PAIR * sizeof *to);
        for (int64_t key = end % GROUP; key < GROUP; key++)
            for (int n = 0; n < TILE; n++)
                for (int half = 0; half < 2; half++) to[((half * TILE + key / 2) * TILE + n) * 2 + key % 2] = 0;
    }
}

/* Asks for queries t0..t1-1 of a head: they lie too far apart for the machine to see that they come next. */
static void fetch_queries(const job *j, int64_t b, int64_t h, int64_t t0, int64_t t1)
{
    for (int64_t t = t0; t < t1; t++)
        for (int64_t i = 0; i < j->a->c; i += LINE) __builtin_prefetch(query(j, b, h, t) + i, 0, 2);
}

static void load_queries(const job *j, workspace *w, int64_t b, int64_t h, int64_t t0, int64_t t1)
{
    const int64_t c = j->a->c;
    const float factor = head_factor(j, h) * LOG2_E;
    for (int64_t t = t0; t < t1; t++) {
        const float *q = query(j, b, h, t);
        narrow_scaled(w->q + (t - t0) * w->q_row, q, j->scale_mul ? factor * inverse_norm(q, c) : factor, c);
    }
    memset(w->q + (t1 - t0) * w->q_row, 0, (size_t)((ROWS - (t1 - t0)) * w->q_row) * sizeof *w->q);
}

/* Sums of 32 rows, or 16 where not tall, and 32 columns: registers 0 and 1, 2 and 3. */
static inline void clear(void)
{
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
}

/* Adds the product of n tiles of a, which lie step apart, and of n pairs of tiles at b. */
static inline void multiply(const uint16_t *a, int64_t row, int64_t step, const uint16_t *b, int64_t n, int tall)
{
    const int64_t stride = row * 2;
    for (; n > 0; n--, a += step, b += PAIR) {
        TILE_LOAD(4, a, stride);
        TILE_LOAD(6, b, 64);
        TILE_DOT(0, 4, 6);
        TILE_LOAD(7, b + PAIR / 2, 64);
        TILE_DOT(1, 4, 7);
        if (!tall) continue;
        TILE_LOAD(5, a + TILE * row, stride);
        TILE_DOT(2, 5, 6);
        TILE_DOT(3, 5, 7);
    }
}

static inline void store(float *to, int tall)
{
    TILE_STORE(0, to, GROUP * 4);
    TILE_STORE(1, to + TILE, GROUP * 4);
    if (!tall) return;
    TILE_STORE(2, to + TILE * GROUP, GROUP * 4);
    TILE_STORE(3, to + TILE * GROUP + TILE, GROUP * 4);
}

typedef uint32_t vu __attribute__((vector_size(sizeof(vf))));

/* 2^x within 2^-18 for x up to 0, and 0 where that is below 2^-126.5. NaN stays NaN. */
static inline vf power_of_two(vf x)
{
    const vf round = vf_all(12582912.0f + 127); /* 1.5 * 2^23: low bits of a sum with it are an integer, an exponent */
    x = vf_max(vf_all(-127), x);
    const vf t = x + round, f = x - (t - round);
    vf y = vf_all(9.78291255e-3f); /* minimax of 2^f over |f| <= 1/2, exact at 0 */
    y = vf_fma(y, f, vf_all(5.59768836e-2f));
    y = vf_fma(y, f, vf_all(2.40207111e-1f));
    y = vf_fma(y, f, vf_all(6.93113604e-1f));
    y = vf_fma(y, f, vf_all(1));
    return y * (vf)((vu)t << 23);
}

/* p = 2^(s - largest) of a group of scores, rounded to bfloat16; adds to the lanes of sum what was rounded. */
static inline vf exponentials(uint16_t *p, const float *s, vf largest, vf sum)
{
#if defined __AVX512BF16__
    const __m512bh y = _mm512_cvtne2ps_pbh(power_of_two(vf_load(s + VF) - largest), power_of_two(vf_load(s) - largest));
    memcpy(p, &y, sizeof y);
    return _mm512_dpbf16_ps(sum, y, (__m512bh)_mm512_set1_epi16(0x3f80)); /* times 1 */
#else
    for (int i = 0; i < GROUP; i += VF) {
        float y[VF];
        vf_store(y, power_of_two(vf_load(s + i) - largest));
        for (int n = 0; n < VF; n++) y[n] = bf16_round(y[n]), p[i + n] = bf16_narrow(y[n]);
        sum += vf_load(y);
    }
    return sum;
#endif
}

/* Queries of a block, and what they see. */
typedef struct {
    int64_t rows, end, groups;
    int64_t whole;       /* groups before one that has values which they do not see */
    float largest[ROWS]; /* no score of a row is larger by much                     */
    vf sum[ROWS];        /* of exponentials                                         */
} block;

/* Scores of the block for a group of keys. A key that it does not see has one of minus infinity. */
static inline void score(float *s, const workspace *w, const block *x, int64_t group, int64_t c)
{
    clear();
    multiply(w->q, w->q_row, TILE_DEPTH, w->k + group * GROUP * c, c / TILE_DEPTH, x->rows > TILE);
    store(s, x->rows > TILE);
    if ((group + 1) * GROUP <= x->end) return;
    for (int64_t i = 0; i < x->rows; i++)
        for (int64_t n = x->end % GROUP; n < GROUP; n++) s[i * GROUP + n] = -INFINITY;
}

static void find_largest(const workspace *w, block *x, int64_t c)
{
    vf top[ROWS];
    for (int64_t i = 0; i < x->rows; i++) top[i] = vf_all(-INFINITY);
    for (int64_t g = 0; g < x->groups; g++) {
        score(w->s[0], w, x, g, c);
        for (int64_t i = 0; i < x->rows; i++)
            for (int n = 0; n < GROUP; n += VF) top[i] = vf_max(vf_load(w->s[0] + i * GROUP + n), top[i]);
    }
    for (int64_t i = 0; i < x->rows; i++) x->largest[i] = vf_top(top[i]);
}

/* Exponentials of all scores, and zeros for rows that there are not. Tiles compute the next group's scores meanwhile. */
static void soften(const workspace *w, block *x, int64_t c)
{
    uint16_t *p = w->p;
    const int64_t missing = (x->rows > TILE ? ROWS : TILE) - x->rows;
    score(w->s[0], w, x, 0, c);
    for (int64_t g = 0; g < x->groups; g++, p += ROWS * GROUP) {
        const float *s = w->s[g % 2];
        if (g + 1 < x->groups) score(w->s[(g + 1) % 2], w, x, g + 1, c);
        for (int64_t i = 0; i < x->rows; i++)
            x->sum[i] = exponentials(p + i * GROUP, s + i * GROUP, vf_all(x->largest[i]), x->sum[i]);
        if (missing) memset(p + x->rows * GROUP, 0, (size_t)(missing * GROUP) * sizeof *p);
    }
}

/* 32 of the outputs of a block, from those at i on: the exponentials' products with values, over their sums. */
static void put_values(uint16_t *out, int64_t row, const workspace *w, const block *x, int64_t i)
{
    const int tall = x->rows > TILE;
    clear();
    multiply(w->p, GROUP, ROWS * GROUP, w->v + i * w->groups * GROUP, x->whole, tall);
    if (x->whole < x->groups) multiply(w->p + x->whole * ROWS * GROUP, GROUP, 0, w->last + i * GROUP, 1, tall);
    store(w->o, tall);
    for (int64_t t = 0; t < x->rows; t++) narrow_scaled(out + t * row + i, w->o + t * GROUP, 1 / vf_sum(x->sum[t]), GROUP);
}

/* Outputs of queries t0..t1-1 of one head, at most ROWS, which see `end` keys; those are packed. */
static void attend_block(const job *j, workspace *w, int64_t b, int64_t h, int64_t t0, int64_t t1, int64_t end)
{
    const ts_attention *a = j->a;
    const int64_t c = a->c;
    const float bound = fabsf(head_factor(j, h)) * LOG2_E;
    block x = { .rows = t1 - t0, .end = end, .groups = ts_pieces(end, GROUP) };
    x.whole = end < j->keys ? end / GROUP : x.groups;
    load_queries(j, w, b, h, t0, t1);
    fetch_queries(j, b, h, t1, ts_at_most(t1 + ROWS, a->T));
    if (j->scale_mul && bound <= NARROW)
        for (int64_t i = 0; i < x.rows; i++) x.largest[i] = bound;
    else find_largest(w, &x, c);
    soften(w, &x, c);
    if (x.whole < x.groups) pack_last(w, end, c);
    for (int64_t i = 0; i < c; i += 2 * TILE)
        put_values((uint16_t *)j->out + ((b * a->T + t0) * a->H + h) * c, a->H * c, w, &x, i);
}

static void attend(const job *j, workspace *w, int64_t b, int64_t h, int64_t t0, int64_t t1)
{
    int64_t stop;
    for (; t0 < t1; t0 = stop) {
        const int64_t end = end_of(j, t0);
        for (stop = t0 + 1; stop < t1 && stop - t0 < ROWS && end_of(j, stop) == end;) stop++;
        attend_block(j, w, b, h, t0, stop, end);
    }
}

/* With many heads a task is a head. With few, all threads share the packing of a head and then its queries. */
void attention_tile_forward(ts_stream *s, const job *j, void *scratch)
{
    const ts_attention *a = j->a;
    const int64_t heads = a->B * a->H, size = workspace_size(a->c, j->keys);
    float *base = ts_next_line(scratch);

#pragma omp parallel num_threads(s->threads)
    {
        workspace w = carve(&(arena){ base + omp_get_thread_num() * size, 0 }, a->c, j->keys);
        tile_begin();
        if (heads >= 4 * s->threads) {
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < heads; i++) {
                fetch_queries(j, i / a->H, i % a->H, 0, ts_at_most(ROWS, a->T));
                for (int64_t g = 0; g < w.groups; g++) pack(j, &w, i / a->H, i % a->H, g);
                attend(j, &w, i / a->H, i % a->H, 0, a->T);
            }
        } else {
            const workspace shared = carve(&(arena){ base, 0 }, a->c, j->keys);
            w.k = shared.k;
            w.v = shared.v;
            for (int64_t i = 0; i < heads; i++) {
#pragma omp for
                for (int64_t g = 0; g < w.groups; g++) pack(j, &w, i / a->H, i % a->H, g);
#pragma omp for schedule(dynamic)
                for (int64_t t = 0; t < a->T; t += ROWS) attend(j, &w, i / a->H, i % a->H, t, ts_at_most(t + ROWS, a->T));
            }
        }
        tile_end();
    }
}
