/* arena.h - memory of a stream: one range of addresses, blocks at the lowest place where they fit.
 *
 * The parts of a run need blocks of other sizes, one after the other. A block that is freed leaves its pages to whatever fits
 * there next, so that a process holds about what the part with the most blocks holds, and nothing is cleared by the kernel twice. Pages
 * go back to the system when the arena is freed.
 */
#ifndef TS_CPU_ARENA_H
#define TS_CPU_ARENA_H

#include <stddef.h>

struct arena;

struct arena *arena_new(void); /* NULL if the system gives no such range: use the heap then */
void arena_free(struct arena *a); /* NULL is fine */

/* 256-byte aligned; NULL if there is no room. */
void *arena_take(struct arena *a, size_t bytes);
/* 1 if p was a block of this arena. */
int arena_drop(struct arena *a, void *p);

#endif
