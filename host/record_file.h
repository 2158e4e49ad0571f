/* record_file.h - files that only grow, a whole record at a time: metrics.jsonl and TensorBoard's event files. */
#ifndef TS_RECORD_FILE_H
#define TS_RECORD_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "tessera/status.h"

typedef struct {
    int fd;
    char *path;
} ts_record_file;

/* Open for appending, created if need be, cut to its first `keep` bytes. On failure *f needs no close. */
ts_status ts_record_open(ts_record_file *f, const char *path, int64_t keep);

/* Append a record with one write. If not all of it fits (disk full), what was written of it is taken back. */
ts_status ts_record_append(ts_record_file *f, const void *record, size_t n);

ts_status ts_record_sync(ts_record_file *f); /* what was appended is on the disk */

ts_status ts_record_close(ts_record_file *f);

#endif
