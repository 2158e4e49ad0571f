/* archive.h - the members of a plain tar file, through libarchive. Nothing is ever extracted to disk. */
#ifndef TS_ARCHIVE_H
#define TS_ARCHIVE_H

#include <stddef.h>
#include <stdint.h>

#include "tessera/status.h"

typedef struct {
    const char *path;     /* as stored: a name, never a place on this machine */
    const uint8_t *bytes; /* the content, in mapped memory: valid during the call */
    int64_t offset, size; /* where it lies in the tar file */
} ts_tar_member;

typedef ts_status ts_tar_member_fn(void *context, const ts_tar_member *member);

/* Is this file a tar file, compressed or not? By content, or by the name's end .tar. */
int ts_tar_is(const char *path);

/* Call fn for each regular, whole member in order; a failure of fn ends the walk and is returned.
 * TS_E_DATA if the tar file is compressed, damaged or cut off. */
ts_status ts_tar_walk(const char *path, ts_tar_member_fn *fn, void *context);

#endif
