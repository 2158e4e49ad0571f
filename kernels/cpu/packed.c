/* packed.c - contract: packed.h. */
#include "kernels/cpu/packed.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/stream.h"

enum { PAGE = 4096 };

typedef struct {
    const char *begin, *end;
    ts_stored stored; /* O is 0 for memory of our own */
} range;

typedef struct {
    const char *tensor;
    dnnl_memory_desc_t md;
    int narrow;
    void *copy;
    size_t bytes;
} entry;

struct packed {
    range *ranges;
    entry *entries;
    size_t n_ranges, n_entries, room; /* room: of entries */
};

/* Copies stay for as long as the model, so they do not lie among the blocks that come and go: those would not grow together again.
 * In large pages where there are any: products of few rows, which do little but read weights, take a tenth less. */
static void *take(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

static const range *range_of(const ts_stream *s, const void *p)
{
    const struct packed *k = s->packed;
    for (size_t i = 0; k && i < k->n_ranges; i++)
        if ((const char *)p >= k->ranges[i].begin && (const char *)p < k->ranges[i].end) return &k->ranges[i];
    return NULL;
}

int packed_constant(const ts_stream *s, const void *p)
{
    return range_of(s, p) != NULL;
}

const ts_stored *packed_stored(const ts_stream *s, const void *p)
{
    const range *r = range_of(s, p);
    return r && r->stored.O && (r->stored.dtype != TS_F32 || r->stored.kk > 1) ? &r->stored : NULL;
}

static float number(const void *p, ts_dtype dtype, int64_t i)
{
    if (dtype == TS_F32) return ((const float *)p)[i];
    return bf16_widen(((const uint16_t *)p)[i]);
}

float *packed_expand(const ts_stream *s, const void *p, const ts_stored *w)
{
    float *out = malloc((size_t)(w->O * w->I * w->kk) * sizeof *out);
    if (!out) return NULL;
#pragma omp parallel for num_threads(s->threads)
    for (int64_t o = 0; o < w->O; o++) {
        const int64_t at = o * w->I * w->kk;
        for (int64_t j = 0; j < w->kk; j++)
            for (int64_t i = 0; i < w->I; i++) out[at + j * w->I + i] = number(p, w->dtype, at + i * w->kk + j);
    }
    return out;
}

void packed_release(const ts_stream *s, const void *p)
{
    const range *r = range_of(s, p);
    if (!r || !r->stored.O) return;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t begin = ((uintptr_t)r->begin + page - 1) / page * page, end = (uintptr_t)r->end / page * page;
    if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

void *packed_get(ts_stream *s, const void *p, const dnnl_memory_desc_t *md, size_t bytes, int narrow, int *is_new)
{
    struct packed *k = s->packed;
    *is_new = 0;
    for (size_t i = 0; i < k->n_entries; i++) {
        const entry *e = &k->entries[i];
        if (e->tensor == p && e->narrow == narrow && dnnl_memory_desc_equal(&e->md, md)) return e->copy;
    }
    if (k->n_entries == k->room) {
        const size_t room = k->room ? 2 * k->room : 64;
        entry *more = realloc(k->entries, room * sizeof *more);
        if (!more) return NULL;
        k->entries = more;
        k->room = room;
    }
    bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    void *copy = take(bytes);
    if (!copy) return NULL;
    k->entries[k->n_entries++] = (entry){ p, *md, narrow, copy, bytes };
    *is_new = 1;
    return copy;
}

void packed_forget(ts_stream *s, const void *copy)
{
    struct packed *k = s->packed;
    for (size_t i = 0; i < k->n_entries; i++) {
        if (k->entries[i].copy != copy) continue;
        munmap(k->entries[i].copy, k->entries[i].bytes);
        k->entries[i] = k->entries[--k->n_entries];
        return;
    }
}

static ts_status declare(ts_stream *s, range r)
{
    if (!s->packed) s->packed = calloc(1, sizeof *s->packed);
    struct packed *k = s->packed;
    range *more = k ? realloc(k->ranges, (k->n_ranges + 1) * sizeof *more) : NULL;
    if (!more) return ts_fail(TS_E_NOMEM, "out of host memory");
    k->ranges = more;
    k->ranges[k->n_ranges++] = r;
    return TS_OK;
}

static void forget(struct packed *k, const char *p)
{
    for (size_t i = 0; i < k->n_ranges; i++) {
        const range r = k->ranges[i];
        if (r.begin != p) continue;
        k->ranges[i] = k->ranges[--k->n_ranges];
        for (size_t j = 0; j < k->n_entries;) {
            if (k->entries[j].tensor < r.begin || k->entries[j].tensor >= r.end) {
                j++;
                continue;
            }
            munmap(k->entries[j].copy, k->entries[j].bytes);
            k->entries[j] = k->entries[--k->n_entries];
        }
        return;
    }
}

ts_status mem_constant_cpu(ts_stream *s, const void *p, size_t bytes, int on)
{
    if (on) return declare(s, (range){ .begin = p, .end = (const char *)p + bytes });
    if (s->packed) forget(s->packed, p);
    return TS_OK;
}

ts_status mem_stored_cpu(ts_stream *s, const void *p, const ts_stored *w)
{
    const int64_t bytes = w->O * w->I * w->kk * (w->dtype == TS_F32 ? 4 : 2);
    return declare(s, (range){ p, (const char *)p + bytes, *w });
}

void packed_free(struct packed *k)
{
    if (!k) return;
    for (size_t i = 0; i < k->n_entries; i++) munmap(k->entries[i].copy, k->entries[i].bytes);
    free(k->entries);
    free(k->ranges);
    free(k);
}
