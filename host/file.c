/* file.c. Contract: file.h. */
#include "host/file.h"

#include <stddef.h>

ts_status ts_file_replace(const char *path, const void *bytes, size_t n)
{
    (void)path;
    (void)bytes;
    (void)n;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

ts_status ts_file_read(const char *path, size_t max, void **bytes, size_t *n)
{
    (void)path;
    (void)max;
    (void)bytes;
    (void)n;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

ts_status ts_file_hash(const char *path, char hex[17], uint64_t *bytes)
{
    (void)path;
    (void)hex;
    (void)bytes;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

ts_status ts_dir_make(const char *path)
{
    (void)path;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

ts_status ts_dir_sync(const char *path)
{
    (void)path;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

ts_status ts_dir_remove(const char *path)
{
    (void)path;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

int ts_path_exists(const char *path)
{
    (void)path;
    return 0;
}

int ts_path_is_dir(const char *path)
{
    (void)path;
    return 0;
}

ts_status ts_dir_lock(int *lock, const char *path)
{
    (void)lock;
    (void)path;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

void ts_dir_unlock(int lock)
{
    (void)lock;
}

char *ts_format(const char *format, ...)
{
    return 0;
}

