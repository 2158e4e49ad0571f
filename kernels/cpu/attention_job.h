/* attention_job.h - one call of attention on the CPU, as the ways to compute it see it. */
#ifndef TS_CPU_ATTENTION_JOB_H
#define TS_CPU_ATTENTION_JOB_H

#include "kernels/cpu/simd.h"
#include "kernels/cpu/sizes.h"
#include "tessera/exact.h"
#include "tessera/op_attention.h"

/* Keys and values of the masked form lie in qkv, those of the cached form in the cache. */
typedef struct {
    const ts_attention *a;
    const float *qkv, *scale_mul;
    const int32_t *end;
    const void *k, *v;
    int narrow;                 /* k and v lie there as bfloat16, else as float32 */
    int64_t kv_image, kv_token; /* numbers between images and between tokens of k and v */
    int64_t keys;
    int normalise; /* k as it lies there is not yet normalised */
    void *out;
    float *lse;
    const float *dout, *fwd_out, *fwd_lse; /* backward only */
    float *dqkv;
} job;

/* A part of scratch that is handed out in pieces, each from a cache line on. */
typedef struct {
    float *base; /* NULL: only the size is wanted */
    int64_t used;
} arena;

static inline float *take(arena *at, int64_t n)
{
    float *p = at->base ? at->base + at->used : NULL;
    at->used += ts_round_up(n, 16);
    return p;
}

static const float SMALLEST_NORM = 1e-12f;
static const float LARGEST_SCALE_MUL = 4.60517019f; /* log 100 */

static inline float inverse_norm(const float *x, int64_t c)
{
    const float norm = sqrtf(vf_dot(x, x, c));
    return 1 / (norm < SMALLEST_NORM ? SMALLEST_NORM : norm);
}

static inline const float *query(const job *j, int64_t b, int64_t h, int64_t t)
{
    const ts_attention *a = j->a;
    return j->qkv + ((b * a->T + t) * 3 * a->H + h) * a->c;
}

/* The factor of all queries of a head but for their own norms. */
static inline float head_factor(const job *j, int64_t h)
{
    if (j->scale_mul == NULL) return j->a->scale;
    const float mul = j->scale_mul[h];
    return ts_expf(mul > LARGEST_SCALE_MUL ? LARGEST_SCALE_MUL : mul) * j->a->scale;
}

static inline int64_t end_of(const job *j, int64_t t)
{
    return j->end ? j->end[t] : j->keys;
}

#endif
