/* sizes.h - arithmetic of sizes: the smaller of two, pieces, whole units, lines of the cache. */
#ifndef TS_CPU_SIZES_H
#define TS_CPU_SIZES_H

#include <stdint.h>

static inline int64_t ts_at_most(int64_t n, int64_t most)
{
    return n < most ? n : most;
}

/* How many pieces of that size hold n. */
static inline int64_t ts_pieces(int64_t n, int64_t each)
{
    return (n + each - 1) / each;
}

static inline int64_t ts_round_up(int64_t n, int64_t unit)
{
    return ts_pieces(n, unit) * unit;
}

/* Where the next line of the cache, of 64 bytes, begins in scratch: p, or up to 63 bytes behind it. */
static inline void *ts_next_line(void *p)
{
    return (void *)(((uintptr_t)p + 63) / 64 * 64);
}

#endif
