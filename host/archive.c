/* archive.c - the members of a plain tar file. Contract: archive.h.
 *
 * The file is mapped, so that libarchive, which understands all the dialects of tar headers, hands out pointers into
 * the mapping: their distance from its beginning is the member's offset, and the content is never touched.
 */
#include "host/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *name;
    uint8_t magic[6];
    int n;
} COMPRESSED[] = {
    { "gzip", { 0x1f, 0x8b }, 2 },
    { "zstd", { 0x28, 0xb5, 0x2f, 0xfd }, 4 },
    { "xz", { 0xfd, '7', 'z', 'X', 'Z', 0 }, 6 },
    { "bzip2", { 'B', 'Z', 'h' }, 3 },
};

static const char *compression(const uint8_t *head, ssize_t n)
{
    for (size_t i = 0; i < sizeof COMPRESSED / sizeof *COMPRESSED; i++)
        if (n >= COMPRESSED[i].n && memcmp(head, COMPRESSED[i].magic, (size_t)COMPRESSED[i].n) == 0)
            return COMPRESSED[i].name;
    return NULL;
}

int ts_tar_is(const char *path)
{
    uint8_t head[512];
    size_t length = strlen(path);
    if (length > 4 && strcasecmp(path + length - 4, ".tar") == 0) return 1; /* the oldest dialect has no magic number */
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = pread(fd, head, sizeof head, 0);
    close(fd);
    return compression(head, n) != NULL || (n == sizeof head && memcmp(head + 257, "ustar", 5) == 0);
}

/* One member; the bytes of an empty one are never asked for. */
static ts_status visit(struct archive *a, struct archive_entry *e, const char *path, const uint8_t *map, size_t size,
                       ts_tar_member_fn *fn, void *context)
{
    const char *name = archive_entry_pathname(e);
    if (!name) name = archive_entry_pathname_utf8(e);
    if (!name || archive_entry_filetype(e) != AE_IFREG || archive_entry_hardlink(e)) return TS_OK;
    ts_tar_member m = { name, map, 0, archive_entry_size(e) };
    if (m.size > 0) {
        const void *block;
        size_t length;
        la_int64_t at;
        int got = archive_read_data_block(a, &block, &length, &at);
        m.bytes = block;
        if (got != ARCHIVE_OK || at != 0 || (int64_t)length != m.size || m.bytes < map || m.bytes + length > map + size)
            return ts_fail(TS_E_DATA, "%s: member %.200s is cut off or sparse", path, name);
        m.offset = m.bytes - map;
    }
    return fn(context, &m);
}

static ts_status walk(const char *path, const uint8_t *map, size_t size, ts_tar_member_fn *fn, void *context)
{
    struct archive *a = archive_read_new();
    struct archive_entry *e;
    ts_status st = TS_OK;
    if (!a) return ts_fail(TS_E_NOMEM, "%s: out of memory", path);
    archive_read_support_format_tar(a);
    int got = archive_read_open_memory(a, map, size);
    while (got == ARCHIVE_OK && st == TS_OK) {
        got = archive_read_next_header(a, &e);
        if (got == ARCHIVE_WARN) got = ARCHIVE_OK; /* a name that this locale cannot show, or the like */
        if (got == ARCHIVE_OK) st = visit(a, e, path, map, size, fn, context);
    }
    if (st == TS_OK && got != ARCHIVE_EOF)
        st = ts_fail(TS_E_DATA, "%s: damaged tar file: %s", path, archive_error_string(a));
    archive_read_free(a);
    return st;
}

ts_status ts_tar_walk(const char *path, ts_tar_member_fn *fn, void *context)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0) return ts_fail(TS_E_NOINPUT, "%s: %s", path, strerror(errno));
    if (fstat(fd, &info) != 0 || info.st_size == 0) {
        close(fd);
        return ts_fail(TS_E_DATA, "%s: an empty tar file", path);
    }
    size_t size = (size_t)info.st_size;
    uint8_t *map = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return ts_fail(TS_E_IO, "%s: cannot be mapped: %s", path, strerror(errno));
    const char *packed = compression(map, (ssize_t)size);
    ts_status st = packed ? ts_fail(TS_E_DATA, "%s: compressed with %s; unpack it to a plain .tar first", path, packed)
                          : walk(path, map, size, fn, context);
    munmap(map, size);
    return st;
}
