/* record_file.c - files that only grow. Contract: host/record_file.h. */
#include "host/record_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static ts_status failed(const char *path, const char *what)
{
    return ts_fail(TS_E_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

ts_status ts_record_open(ts_record_file *f, const char *path, int64_t keep)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return failed(path, "open for writing");
    if (ftruncate(fd, keep) != 0) {
        ts_status st = failed(path, "shorten");
        close(fd);
        return st;
    }
    char *copy = strdup(path);
    if (!copy) {
        close(fd);
        return ts_fail(TS_E_NOMEM, "%s: out of memory", path);
    }
    *f = (ts_record_file){ fd, copy };
    return TS_OK;
}

ts_status ts_record_append(ts_record_file *f, const void *record, size_t n)
{
    ssize_t written;
    do written = write(f->fd, record, n);
    while (written < 0 && errno == EINTR);
    if (written == (ssize_t)n) return TS_OK;
    if (written < 0) return failed(f->path, "write");

    struct stat now;
    if (fstat(f->fd, &now) != 0 || ftruncate(f->fd, now.st_size - written) != 0) return failed(f->path, "write");
    return ts_fail(TS_E_IO, "%s: cannot write: only %zd of %zu bytes fitted (disk full?)", f->path, written, n);
}

ts_status ts_record_sync(ts_record_file *f)
{
    return fdatasync(f->fd) == 0 ? TS_OK : failed(f->path, "sync");
}

ts_status ts_record_close(ts_record_file *f)
{
    ts_status st = close(f->fd) == 0 ? TS_OK : failed(f->path, "close");
    free(f->path);
    *f = (ts_record_file){ -1, NULL };
    return st;
}
