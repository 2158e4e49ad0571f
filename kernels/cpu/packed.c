/* packed.c - contract: packed.h. */
#include "kernels/cpu/packed.h"

#include <stdlib.h>

#include "kernels/cpu/device.h"
#include "kernels/cpu/stream.h"

enum { ALIGN = 64 };

typedef struct {
    const char *begin, *end;
} range;

typedef struct {
    const char *tensor;
    dnnl_memory_desc_t md;
    int rounded;
    void *copy;
} entry;

struct packed {
    range *ranges;
    entry *entries;
    size_t n_ranges, n_entries, room; /* room: of entries */
};

int packed_constant(const ts_stream *s, const void *p)
{
    const struct packed *k = s->packed;
    for (size_t i = 0; k && i < k->n_ranges; i++)
        if ((const char *)p >= k->ranges[i].begin && (const char *)p < k->ranges[i].end) return 1;
    return 0;
}

void *packed_get(ts_stream *s, const void *p, const dnnl_memory_desc_t *md, int rounded, int *is_new)
{
    struct packed *k = s->packed;
    *is_new = 0;
    for (size_t i = 0; i < k->n_entries; i++) {
        const entry *e = &k->entries[i];
        if (e->tensor == p && e->rounded == rounded && dnnl_memory_desc_equal(&e->md, md)) return e->copy;
    }
    if (k->n_entries == k->room) {
        const size_t room = k->room ? 2 * k->room : 64;
        entry *more = realloc(k->entries, room * sizeof *more);
        if (!more) return NULL;
        k->entries = more;
        k->room = room;
    }
    const size_t bytes = (dnnl_memory_desc_get_size(md) + ALIGN - 1) / ALIGN * ALIGN;
    void *copy = aligned_alloc(ALIGN, bytes);
    if (!copy) return NULL;
    k->entries[k->n_entries++] = (entry){ p, *md, rounded, copy };
    *is_new = 1;
    return copy;
}

static ts_status declare(ts_stream *s, const char *p, size_t bytes)
{
    if (!s->packed) s->packed = calloc(1, sizeof *s->packed);
    struct packed *k = s->packed;
    range *more = k ? realloc(k->ranges, (k->n_ranges + 1) * sizeof *more) : NULL;
    if (!more) return ts_fail(TS_E_NOMEM, "out of host memory");
    k->ranges = more;
    k->ranges[k->n_ranges++] = (range){ p, p + bytes };
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
            free(k->entries[j].copy);
            k->entries[j] = k->entries[--k->n_entries];
        }
        return;
    }
}

ts_status mem_constant_cpu(ts_stream *s, const void *p, size_t bytes, int on)
{
    if (on) return declare(s, p, bytes);
    if (s->packed) forget(s->packed, p);
    return TS_OK;
}

void packed_free(struct packed *k)
{
    if (!k) return;
    for (size_t i = 0; i < k->n_entries; i++) free(k->entries[i].copy);
    free(k->entries);
    free(k->ranges);
    free(k);
}
