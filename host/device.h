/* device.h - one open device: its backend, its stream, and a caching allocator of device memory.
 *
 * Blocks are counted references to device memory. A freed block goes to a list of its size class and is handed out again,
 * so a loop of equal steps allocates nothing after its first turn.
 */
#ifndef TS_DEVICE_H
#define TS_DEVICE_H

#include "tessera/backend.h"
#include "tessera/tessera.h"

typedef struct ts_block {
    void *p; /* device memory */
    size_t bytes;
    int refs;
    struct ts_block *next;
} ts_block;

enum { TS_SIZE_CLASSES = 4 * 48 };

struct ts_device {
    const ts_backend *be;
    ts_stream *s;
    int index;    /* of the device among those of its backend                    */
    ts_math math; /* how matrix products and convolutions of this device multiply */
    ts_block *spare[TS_SIZE_CLASSES];
    size_t in_use, peak, held; /* bytes handed out, their maximum, and bytes taken from the system */
};

/* ts_device_open and ts_device_close stand in tessera/tessera.h; besides the names said there, open takes that of any backend of
 * this build. All blocks must have been dropped before close. */

/* A block of at least `bytes`, with one reference; NULL when memory is out (the reason is in ts_error()). */
ts_block *ts_block_get(ts_device *d, size_t bytes);
ts_block *ts_block_keep(ts_block *b);
void ts_block_drop(ts_device *d, ts_block *b); /* NULL is fine */

/* Give the spare blocks back to the system. */
void ts_device_trim(ts_device *d);

#endif
