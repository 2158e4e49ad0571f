/* device.h - one open device: its backend, its stream, and a caching allocator of device memory.
 *
 * Blocks are counted references to device memory. A freed block goes to a list of its size class and is handed out again,
 * so a loop of equal steps allocates nothing after its first turn.
 */
#ifndef TS_DEVICE_H
#define TS_DEVICE_H

#include "tessera/backend.h"
#include "tessera/tessera.h"

enum { TS_SIZE_CLASSES = 4 * 48 };

/* Blocks that were dropped, by size class. */
typedef struct ts_pool {
    struct ts_block *spare[TS_SIZE_CLASSES];
} ts_pool;

typedef struct ts_block {
    void *p; /* device memory */
    size_t bytes;
    int refs;
    ts_pool *pool; /* where it goes when it is dropped */
    struct ts_block *next;
} ts_block;

struct ts_device {
    const ts_backend *be;
    ts_stream *s;
    int index;    /* of the device among those of its backend                    */
    ts_math math; /* how matrix products and convolutions of this device multiply */
    ts_pool pool;
    size_t in_use, peak, held; /* bytes handed out, their maximum, and bytes taken from the system */
};

/* ts_device_open and ts_device_close stand in tessera/tessera.h; besides the names said there, open takes that of any backend of
 * this build. All blocks must have been dropped before close. */

ts_math ts_device_preferred_math(const ts_device *d); /* for inference: preferred_math of its backend */
const char *ts_math_name(ts_math math);               /* "f32", "bf16" */

/* A block of at least `bytes`, with one reference; NULL when memory is out (the reason is in ts_error()). */
ts_block *ts_block_get(ts_device *d, size_t bytes);
/* The same from a pool apart from the device's own: what was dropped there is handed out there only, so that memory which recorded
 * work reads and writes (ts_backend.capture_launch) belongs to nobody else. */
ts_block *ts_block_from(ts_device *d, ts_pool *pool, size_t bytes);
ts_block *ts_block_keep(ts_block *b);
void ts_block_drop(ts_device *d, ts_block *b); /* NULL is fine */

/* The spare blocks of a pool become the device's own. Those in use must have been dropped before. */
void ts_pool_release(ts_device *d, ts_pool *pool);

/* Give the spare blocks of the device's own pool back to the system. */
void ts_device_trim(ts_device *d);

#endif
