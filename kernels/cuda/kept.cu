/* kept.cu - contract: kept.h, and mem_constant of tessera/backend.h. */
#include "kernels/cuda/kept.h"

#include <stdlib.h>

#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/product.h"

/* Weights of `n` numbers, rounded. */
struct copy {
    const float *w;
    int64_t n;
    ts_dtype as;
    void *rounded;
    copy *next;
};

/* A range of constant memory. */
struct kept {
    const char *begin, *end;
    bool full; /* there was no memory for a copy: no more is asked for */
    copy *copies;
    kept *next;
};

static kept *range_of(const ts_stream *s, const float *w)
{
    for (kept *k = s->kept; k; k = k->next)
        if ((const char *)w >= k->begin && (const char *)w < k->end) return k;
    return nullptr;
}

static copy *copy_of(const kept *k, const float *w, int64_t n, ts_dtype as)
{
    copy *c = k->copies;
    while (c && !(c->w == w && c->n == n && c->as == as)) c = c->next;
    return c;
}

/* A copy that is still to be filled; NULL if there is no memory for it. */
static copy *new_copy(kept *k, const float *w, int64_t n, ts_dtype as)
{
    const size_t bytes = ts_room(n, as == TS_BF16 ? sizeof(uint16_t) : sizeof(float));
    copy *c = k->full ? nullptr : (copy *)calloc(1, sizeof *c);
    if (!c) return nullptr;
    if (cudaMalloc(&c->rounded, bytes) != cudaSuccess) {
        cudaGetLastError(); /* the failure is dealt with, later calls shall not report it */
        k->full = true;
        free(c);
        return nullptr;
    }
    c->w = w;
    c->n = n;
    c->as = as;
    c->next = k->copies;
    k->copies = c;
    return c;
}

static void drop_latest(kept *k)
{
    copy *c = k->copies;
    k->copies = c->next;
    cudaFree(c->rounded);
    free(c);
}

ts_status ts_round_weights(ts_stream *s, const void **p, const float *w, int64_t n, ts_dtype as, void *scratch)
{
    kept *k = n > 0 ? range_of(s, w) : nullptr;
    const copy *c = k ? copy_of(k, w, n, as) : nullptr;
    if (c) {
        *p = c->rounded;
        return TS_OK;
    }
    c = k && !s->recording ? new_copy(k, w, n, as) : nullptr;
    void *to = c ? c->rounded : scratch;
    *p = to;
    const ts_status st = ts_round(s, to, w, n, as);
    if (st != TS_OK && c) drop_latest(k);
    return st;
}

static void free_range(kept *k)
{
    while (k->copies) drop_latest(k);
    free(k);
}

void ts_kept_free(kept *k)
{
    while (k) {
        kept *next = k->next;
        free_range(k);
        k = next;
    }
}

ts_status mem_constant_cuda(ts_stream *s, const void *p, size_t bytes, int on)
{
    if (on) {
        kept *k = (kept *)calloc(1, sizeof *k);
        if (!k) return ts_fail(TS_E_NOMEM, "no memory for constant weights (%zu bytes)", sizeof *k);
        k->begin = (const char *)p;
        k->end = k->begin + bytes;
        k->next = s->kept;
        s->kept = k;
        return TS_OK;
    }
    kept **at = &s->kept;
    while (*at && (*at)->begin != p) at = &(*at)->next;
    if (!*at) return TS_OK;
    kept *k = *at;
    *at = k->next;
    free_range(k);
    return TS_OK;
}
