/* sample_oracle.h - what the tests of sampling share: classes sorted and cut, Philox written anew, noise, all in double. */
#ifndef TS_SAMPLE_ORACLE_H
#define TS_SAMPLE_ORACLE_H

#include "tests/t.h"

typedef struct {
    double l;
    int v;
} class;

static inline void philox_oracle(uint32_t x[4], uint32_t key0, uint32_t key1, int rounds)
{
    if (rounds == 0) return;
    uint64_t a = x[0] * 3528531795ull, b = x[2] * 3449720151ull;
    uint32_t y[4] = { (uint32_t)(b >> 32) ^ x[1] ^ key0, (uint32_t)b, (uint32_t)(a >> 32) ^ x[3] ^ key1, (uint32_t)a };
    memcpy(x, y, sizeof y);
    philox_oracle(x, key0 + 2654435769u, key1 + 3144134277u, rounds - 1);
}

static inline double gumbel(const ts_sample *a, int stage, int64_t token, uint64_t image, int v)
{
    uint32_t x[4] = { (uint32_t)(stage * 65536 + v / 4), (uint32_t)token, (uint32_t)(image % 4294967296u),
                      (uint32_t)(image / 4294967296u) };
    philox_oracle(x, (uint32_t)(a->seed % 4294967296u), (uint32_t)(a->seed / 4294967296u), 10);
    return -log(-log((x[v % 4] / 512 + 0.5) / 8388608));
}

static inline int ascending(const void *p, const void *q)
{
    const class *a = p, *b = q;
    return a->l != b->l ? (a->l > b->l) - (a->l < b->l) : a->v - b->v;
}

static inline double mixed(const ts_sample *a, double cond, double uncond)
{
    if (!a->guided || cond == -INFINITY) return cond / a->temperature;
    return ((1 + (double)a->guide) * cond - (double)a->guide * uncond) / a->temperature;
}

/* Top-k and top-p of V sorted classes: the first that stays. *margin becomes the distance from another cut, if that is less. */
static inline int first_kept(const class *c, int V, const ts_sample *a, double *margin)
{
    int first = 0;
    if (a->top_k > 0 && a->top_k < V) {
        first = V - a->top_k;
        while (first > 0 && c[first - 1].l == c[first].l) first--;
        if (first > 0) *margin = fmin(*margin, c[first].l - c[first - 1].l);
    }
    if (a->top_p >= 1 || a->top_k == 1) return first;
    double sum = 0, run = 0;
    for (int i = first; i < V; i++) sum += exp(c[i].l - c[V - 1].l);
    for (; first < V - 1; first++) {
        run += exp(c[first].l - c[V - 1].l) / sum;
        *margin = fmin(*margin, fabs(run - (1 - (double)a->top_p)));
        if (run > 1 - (double)a->top_p) break;
    }
    return first;
}

#endif
