/* arena.c - contract: arena.h. */
#include "kernels/cpu/arena.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGN = 256, FIRST_ROOM = 256 };

typedef struct {
    char *begin, *end;
} span;

struct arena {
    span all;
    span *used; /* in the order of addresses */
    size_t n, room;
};

/* Addresses cost nothing: pages come into being when they are written. */
static size_t range_bytes(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? 2 * (size_t)pages * (size_t)page : 0;
}

struct arena *arena_new(void)
{
    const size_t bytes = range_bytes();
    if (bytes == 0) return NULL;
    struct arena *a = calloc(1, sizeof *a);
    char *p = a ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) : MAP_FAILED;
    if (p == MAP_FAILED) {
        free(a);
        return NULL;
    }
    a->all = (span){ p, p + bytes };
    return a;
}

void arena_free(struct arena *a)
{
    if (!a) return;
    munmap(a->all.begin, (size_t)(a->all.end - a->all.begin));
    free(a->used);
    free(a);
}

/* The lowest gap of so many bytes: its place among the blocks, and where it begins; NULL if there is none. */
static char *find_gap(const struct arena *a, size_t bytes, size_t *at)
{
    char *begin = a->all.begin;
    for (*at = 0; *at < a->n && (size_t)(a->used[*at].begin - begin) < bytes; ++*at) begin = a->used[*at].end;
    const char *end = *at < a->n ? a->used[*at].begin : a->all.end;
    return (size_t)(end - begin) >= bytes ? begin : NULL;
}

void *arena_take(struct arena *a, size_t bytes)
{
    if (a->n == a->room) {
        const size_t room = a->room ? 2 * a->room : FIRST_ROOM;
        span *more = realloc(a->used, room * sizeof *more);
        if (!more) return NULL;
        a->used = more;
        a->room = room;
    }
    size_t at;
    if (bytes > (size_t)(a->all.end - a->all.begin)) return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    char *p = find_gap(a, bytes, &at);
    if (!p) return NULL;
    memmove(a->used + at + 1, a->used + at, (a->n - at) * sizeof *a->used);
    a->used[at] = (span){ p, p + bytes };
    a->n++;
    return p;
}

int arena_drop(struct arena *a, void *p)
{
    if ((char *)p < a->all.begin || (char *)p >= a->all.end) return 0;
    size_t low = 0, high = a->n;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (a->used[middle].begin < (char *)p) low = middle + 1;
        else high = middle;
    }
    if (low == a->n || a->used[low].begin != p) return 0;
    memmove(a->used + low, a->used + low + 1, (a->n - low - 1) * sizeof *a->used);
    a->n--;
    return 1;
}
