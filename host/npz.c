/* npz.c - contract: npz.h. The zip file is libarchive's; its bytes go through ts_file_write. */
#include "host/npz.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/file.h"

enum { HEAD = 512, ALIGN = 64, PREFIX = 10 }; /* bytes: room for an array's header; it is padded to; before its text */

struct ts_npz {
    char *path;
    ts_file_out *file;
    struct archive *zip;
    struct archive_entry *entry;
    ts_status write_status; /* of the file: libarchive knows only that a write failed */
    int64_t left;           /* bytes that the array lacks */
};

static la_ssize_t write_bytes(struct archive *a, void *context, const void *bytes, size_t n)
{
    ts_npz *z = context;
    if (z->write_status == TS_OK) z->write_status = ts_file_write(z->file, bytes, n);
    if (z->write_status == TS_OK) return (la_ssize_t)n;
    archive_set_error(a, EIO, "write failed");
    return -1;
}

/* The status of a call of libarchive. */
static ts_status zip_status(ts_npz *z, int got)
{
    if (z->write_status != TS_OK) return z->write_status; /* its line stands in ts_error() */
    if (got >= ARCHIVE_WARN) return TS_OK;
    return ts_fail(TS_E_IO, "%s: cannot write: %s", z->path, archive_error_string(z->zip));
}

static ts_status open_zip(ts_npz *z)
{
    z->zip = archive_write_new();
    z->entry = archive_entry_new();
    if (!z->zip || !z->entry) return ts_fail(TS_E_NOMEM, "%s: out of memory", z->path);
    int got = archive_write_set_format_zip(z->zip);
    if (got == ARCHIVE_OK) got = archive_write_zip_set_compression_store(z->zip);
    if (got == ARCHIVE_OK) got = archive_write_set_bytes_per_block(z->zip, 0); /* no blocks, no padding */
    if (got == ARCHIVE_OK) got = archive_write_open(z->zip, z, NULL, write_bytes, NULL);
    return zip_status(z, got);
}

ts_status ts_npz_create(ts_npz **out, const char *path)
{
    *out = NULL;
    ts_npz *z = calloc(1, sizeof *z);
    if (!z) return ts_fail(TS_E_NOMEM, "%s: out of memory", path);
    z->path = strdup(path);
    ts_status st = z->path ? ts_file_create(&z->file, path) : ts_fail(TS_E_NOMEM, "%s: out of memory", path);
    if (st == TS_OK) st = open_zip(z);
    if (st == TS_OK)
        *out = z;
    else
        ts_npz_discard(z);
    return st;
}

static ts_status check_full(const ts_npz *z)
{
    if (z->left == 0) return TS_OK;
    return ts_fail(TS_E_ARG, "%s: an array lacks %lld bytes", z->path, (long long)z->left);
}

/* Bytes of an array. */
static ts_status count_bytes(const ts_npz *z, const char *type, int rank, const int64_t *dims, int64_t *bytes)
{
    static const char *const known[] = { "|u1", "<i4", "<i8", "<f4" };
    *bytes = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(type, known[i]) == 0) *bytes = type[2] - '0';
    int possible = *bytes > 0 && rank >= 0 && rank <= TS_NPZ_MAX_RANK;
    for (int i = 0; i < rank && possible; i++)
        possible = dims[i] >= 0 && !__builtin_mul_overflow(*bytes, dims[i], bytes) && *bytes < INT64_MAX - HEAD;
    return possible ? TS_OK
                    : ts_fail(TS_E_ARG, "%s: an array of type %s and rank %d is not possible", z->path, type, rank);
}

/* The .npy header: magic, version 1.0, length and text, padded to ALIGN. Returns its length. */
static size_t npy_header(char head[HEAD], const char *type, int rank, const int64_t *dims)
{
    char *text = head + PREFIX;
    size_t n = (size_t)snprintf(text, HEAD - PREFIX, "{'descr': '%s', 'fortran_order': False, 'shape': (", type);
    for (int i = 0; i < rank; i++)
        n += (size_t)snprintf(text + n, HEAD - PREFIX - n, "%lld,%s", (long long)dims[i], i + 1 < rank ? " " : "");
    if (rank > 1) n--; /* the comma after a single number alone */
    n += (size_t)snprintf(text + n, HEAD - PREFIX - n, "), }");
    while ((PREFIX + n + 1) % ALIGN != 0) text[n++] = ' ';
    text[n++] = '\n';
    memcpy(head, "\x93NUMPY\x01", 8);
    head[8] = (char)(n & 255);
    head[9] = (char)(n >> 8);
    return PREFIX + n;
}

ts_status ts_npz_array(ts_npz *z, const char *name, const char *type, int rank, const int64_t *dims)
{
    int64_t bytes;
    char head[HEAD];
    TS_TRY(check_full(z));
    TS_TRY(count_bytes(z, type, rank, dims, &bytes));
    size_t n = npy_header(head, type, rank, dims);
    char *member = ts_format("%s.npy", name);
    if (!member) return ts_fail(TS_E_NOMEM, "%s: out of memory", z->path);
    archive_entry_clear(z->entry);
    archive_entry_set_pathname(z->entry, member);
    archive_entry_set_filetype(z->entry, AE_IFREG);
    archive_entry_set_perm(z->entry, 0644);
    archive_entry_set_size(z->entry, bytes + (int64_t)n);
    free(member);
    TS_TRY(zip_status(z, archive_write_header(z->zip, z->entry)));
    z->left = bytes + (int64_t)n;
    return ts_npz_write(z, head, n);
}

ts_status ts_npz_write(ts_npz *z, const void *bytes, size_t n)
{
    if (n > (uint64_t)z->left)
        return ts_fail(TS_E_ARG, "%s: %zu bytes for an array that lacks %lld", z->path, n, (long long)z->left);
    if (n == 0) return TS_OK;
    la_ssize_t got = archive_write_data(z->zip, bytes, n);
    TS_TRY(zip_status(z, got == (la_ssize_t)n ? ARCHIVE_OK : ARCHIVE_FATAL));
    z->left -= (int64_t)n;
    return TS_OK;
}

static void free_all(ts_npz *z)
{
    archive_entry_free(z->entry);
    free(z->path);
    free(z);
}

ts_status ts_npz_commit(ts_npz *z)
{
    ts_status st = check_full(z);
    if (st == TS_OK) st = zip_status(z, archive_write_close(z->zip));
    if (st != TS_OK) {
        ts_npz_discard(z);
        return st;
    }
    archive_write_free(z->zip);
    st = ts_file_commit(z->file);
    free_all(z);
    return st;
}

void ts_npz_discard(ts_npz *z)
{
    if (!z) return;
    if (z->write_status == TS_OK) z->write_status = TS_E_STOPPED; /* what libarchive has left to write goes nowhere */
    archive_write_free(z->zip);
    ts_file_discard(z->file);
    free_all(z);
}
