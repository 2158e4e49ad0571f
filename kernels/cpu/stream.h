/* stream.h - what the CPU ops know of a stream. */
#ifndef TS_CPU_STREAM_H
#define TS_CPU_STREAM_H

#include "tessera/types.h"

struct arena;
struct dnn_cache;
struct packed;

struct ts_stream {
    int threads;           /* at least 1; every parallel region asks for so many: num_threads(s->threads) */
    struct arena *arena;   /* its memory (arena.h); NULL: the heap's                                       */
    struct dnn_cache *dnn; /* oneDNN's engine and primitives (onednn.h); NULL until the first product     */
    struct packed *packed; /* constant weights and their copies (packed.h); NULL until there are any      */
};

#endif
