/* file.c - durable writes, reads, hashes, folders and locks. Contract: file.h. */
#include "host/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { BUFFER = 1 << 16, HASH_BLOCK = 1 << 18, OPEN_FOLDERS = 16 };

static const char TEMP_HEAD[] = ".tessera-", TEMP_TAIL[] = ".tmp";

struct ts_file_out {
    int fd;
    char *path, *temp;
    size_t used;
    unsigned char buffer[BUFFER];
};

char *ts_format(const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    return n < 0 ? NULL : text;
}

static ts_status no_memory(const char *path)
{
    return ts_fail(TS_E_NOMEM, "%s: out of memory", path);
}

static ts_status io_error(const char *path, const char *what)
{
    return ts_fail(TS_E_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

static int open_again(const char *path, int flags)
{
    int fd;
    do fd = open(path, flags | O_CLOEXEC, 0666);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static int sync_again(int fd)
{
    int rc;
    do rc = fsync(fd);
    while (rc != 0 && errno == EINTR);
    return rc;
}

/* The folder a path lies in, malloc'ed. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash) return strdup(".");
    if (slash == path) return strdup("/");
    return strndup(path, (size_t)(slash - path));
}

/* A temporary file beside o->path. Its name is short and of its own, so that a long file name stays possible; O_EXCL
 * and the counter keep threads and dead processes of the same number apart. */
static ts_status create_temp(ts_file_out *o)
{
    static atomic_uint counter;
    char *folder = folder_of(o->path);
    if (!folder) return no_memory(o->path);
    do {
        free(o->temp);
        o->temp =
            ts_format("%s/%s%ld-%u%s", folder, TEMP_HEAD, (long)getpid(), atomic_fetch_add(&counter, 1), TEMP_TAIL);
        o->fd = o->temp ? open_again(o->temp, O_WRONLY | O_CREAT | O_EXCL) : -1;
    } while (o->temp && o->fd < 0 && errno == EEXIST);
    free(folder);
    if (!o->temp) return no_memory(o->path);
    return o->fd < 0 ? io_error(o->path, "create a temporary file beside it") : TS_OK;
}

ts_status ts_file_create(ts_file_out **out, const char *path)
{
    *out = NULL;
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return ts_fail(TS_E_IO, "%s: is %s, expected a regular file or none", path,
                       S_ISDIR(st.st_mode) ? "a folder" : "a device or pipe");
    ts_file_out *o = calloc(1, sizeof *o);
    if (!o) return no_memory(path);
    o->fd = -1;
    o->path = strdup(path);
    ts_status status = o->path ? create_temp(o) : no_memory(path);
    if (status == TS_OK)
        *out = o;
    else
        ts_file_discard(o);
    return status;
}

static ts_status write_all(ts_file_out *o, const unsigned char *p, size_t n)
{
    while (n > 0) {
        ssize_t done = write(o->fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return io_error(o->path, "write");
        p += done;
        n -= (size_t)done;
    }
    return TS_OK;
}

static ts_status flush(ts_file_out *o)
{
    size_t n = o->used;
    o->used = 0;
    return write_all(o, o->buffer, n);
}

ts_status ts_file_write(ts_file_out *o, const void *bytes, size_t n)
{
    if (n > BUFFER - o->used) TS_TRY(flush(o));
    if (n >= BUFFER) return write_all(o, bytes, n);
    if (n > 0) memcpy(o->buffer + o->used, bytes, n);
    o->used += n;
    return TS_OK;
}

static ts_status finish_temp(ts_file_out *o)
{
    TS_TRY(flush(o));
    if (sync_again(o->fd) != 0) return io_error(o->path, "fsync");
    int rc = close(o->fd);
    o->fd = -1; /* closed even if close fails */
    if (rc != 0 && errno != EINTR) return io_error(o->path, "close");
    if (rename(o->temp, o->path) != 0) return io_error(o->path, "rename a temporary file to it");
    free(o->temp);
    o->temp = NULL;
    char *folder = folder_of(o->path);
    ts_status status = folder ? ts_dir_sync(folder) : no_memory(o->path);
    free(folder);
    return status;
}

ts_status ts_file_commit(ts_file_out *o)
{
    ts_status status = finish_temp(o);
    ts_file_discard(o);
    return status;
}

void ts_file_discard(ts_file_out *o)
{
    if (!o) return;
    if (o->fd >= 0) close(o->fd);
    if (o->temp) unlink(o->temp);
    free(o->temp);
    free(o->path);
    free(o);
}

ts_status ts_file_replace(const char *path, const void *bytes, size_t n)
{
    ts_file_out *o;
    TS_TRY(ts_file_create(&o, path));
    ts_status status = ts_file_write(o, bytes, n);
    if (status == TS_OK) return ts_file_commit(o);
    ts_file_discard(o);
    return status;
}

ts_status ts_file_open(int *fd, uint64_t *bytes, const char *path)
{
    *fd = open_again(path, O_RDONLY);
    if (*fd < 0) {
        int named = errno == ENOENT || errno == ENOTDIR || errno == EACCES || errno == EPERM || errno == ELOOP ||
                    errno == ENAMETOOLONG || errno == ENXIO; /* the name is to blame, not the machine */
        return ts_fail(named ? TS_E_NOINPUT : TS_E_IO, "%s: cannot open: %s", path, strerror(errno));
    }
    struct stat st;
    ts_status status = TS_OK;
    if (fstat(*fd, &st) != 0)
        status = io_error(path, "stat");
    else if (S_ISDIR(st.st_mode))
        status = ts_fail(TS_E_NOINPUT, "%s: is a folder, expected a file", path);
    if (status != TS_OK) {
        close(*fd);
        *fd = -1;
    } else if (bytes) {
        *bytes = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    }
    return status;
}

/* Up to n bytes; *got is less only at the end of the file. */
static ts_status read_full(int fd, const char *path, void *bytes, size_t n, size_t *got)
{
    *got = 0;
    while (*got < n) {
        ssize_t done = read(fd, (char *)bytes + *got, n - *got);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return io_error(path, "read");
        if (done == 0) break;
        *got += (size_t)done;
    }
    return TS_OK;
}

/* Read to the end, whatever size was announced: pipes have none, and a file may grow. The buffer keeps a byte of room.
 */
static ts_status read_to_end(int fd, const char *path, size_t max, uint64_t expected, char **text, size_t *n)
{
    if (expected > max)
        return ts_fail(TS_E_DATA, "%s: has %llu bytes, expected at most %zu", path, (unsigned long long)expected, max);
    for (size_t room = (size_t)expected + 2;;) {
        char *more = realloc(*text, room);
        if (!more) return no_memory(path);
        *text = more;
        size_t got;
        TS_TRY(read_full(fd, path, more + *n, room - 1 - *n, &got));
        *n += got;
        if (*n > max) return ts_fail(TS_E_DATA, "%s: has over %zu bytes, expected at most that", path, max);
        if (*n < room - 1) break;
        room = room > max / 2 ? max + 2 : 2 * room;
    }
    (*text)[*n] = '\0';
    return TS_OK;
}

ts_status ts_file_read(const char *path, size_t max, void **bytes, size_t *n)
{
    *bytes = NULL;
    *n = 0;
    if (max > SIZE_MAX / 4) max = SIZE_MAX / 4; /* so that the sums below cannot wrap */
    int fd;
    uint64_t expected;
    TS_TRY(ts_file_open(&fd, &expected, path));
    char *text = NULL;
    ts_status status = read_to_end(fd, path, max, expected, &text, n);
    close(fd);
    if (status == TS_OK)
        *bytes = text;
    else
        free(text);
    return status;
}

static ts_status hash_stream(XXH3_state_t *state, void *block, int fd, const char *path, char hex[17], uint64_t *bytes)
{
    XXH3_64bits_reset(state);
    *bytes = 0;
    for (size_t got = HASH_BLOCK; got == HASH_BLOCK;) {
        TS_TRY(read_full(fd, path, block, HASH_BLOCK, &got));
        XXH3_64bits_update(state, block, got);
        *bytes += got;
    }
    snprintf(hex, 17, "%016llx", (unsigned long long)XXH3_64bits_digest(state));
    return TS_OK;
}

ts_status ts_file_hash(const char *path, char hex[17], uint64_t *bytes)
{
    int fd;
    TS_TRY(ts_file_open(&fd, NULL, path));
    XXH3_state_t *state = XXH3_createState();
    void *block = malloc(HASH_BLOCK);
    ts_status status = state && block ? hash_stream(state, block, fd, path, hex, bytes) : no_memory(path);
    free(block);
    XXH3_freeState(state);
    close(fd);
    return status;
}

ts_status ts_file_sync(const char *path)
{
    int fd;
    TS_TRY(ts_file_open(&fd, NULL, path));
    ts_status status = sync_again(fd) == 0 ? TS_OK : io_error(path, "fsync");
    close(fd);
    return status;
}

static ts_status make_one(const char *path)
{
    if (mkdir(path, 0777) != 0) {
        int error = errno; /* some mounts say "read-only" or "denied" about folders that exist */
        if (ts_path_is_dir(path)) return TS_OK;
        if (ts_path_exists(path)) return ts_fail(TS_E_IO, "%s: is a file, expected a folder or nothing", path);
        return ts_fail(TS_E_IO, "%s: cannot make the folder: %s", path, strerror(error));
    }
    char *parent = folder_of(path);
    ts_status status = parent ? ts_dir_sync(parent) : no_memory(path);
    free(parent);
    return status;
}

ts_status ts_dir_make(const char *path)
{
    if (path[0] == '\0') return ts_fail(TS_E_ARG, "the name of a folder is empty");
    char *part = strdup(path);
    if (!part) return no_memory(path);
    size_t n = strlen(part);
    while (n > 1 && part[n - 1] == '/') part[--n] = '\0';
    ts_status status = TS_OK;
    for (size_t i = 1; i <= n && status == TS_OK; i++) {
        if (part[i] != '/' && part[i] != '\0') continue;
        if (part[i - 1] == '/') continue;
        part[i] = '\0';
        status = make_one(part);
        if (i < n) part[i] = '/';
    }
    free(part);
    return status;
}

ts_status ts_dir_sync(const char *path)
{
    int fd = open_again(path, O_RDONLY | O_DIRECTORY);
    if (fd < 0) return io_error(path, "open the folder for fsync");
    int failed = sync_again(fd) != 0 && errno != EINVAL; /* EINVAL: a file system that cannot sync folders */
    ts_status status = failed ? io_error(path, "fsync the folder") : TS_OK;
    close(fd);
    return status;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    if (remove(path) == 0 || errno == ENOENT) return 0;
    io_error(path, "remove");
    return 1;
}

ts_status ts_dir_remove(const char *path)
{
    int rc = nftw(path, remove_one, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
    if (rc > 0) return TS_E_IO; /* remove_one has said why */
    return rc == 0 || errno == ENOENT ? TS_OK : io_error(path, "list");
}

ts_status ts_dir_clean(const char *path)
{
    DIR *d = opendir(path);
    if (!d) return io_error(path, "list");
    ts_status status = TS_OK;
    for (struct dirent *e; status == TS_OK && (e = readdir(d));) {
        size_t n = strlen(e->d_name), head = strlen(TEMP_HEAD), tail = strlen(TEMP_TAIL);
        if (n < head + tail || strncmp(e->d_name, TEMP_HEAD, head) != 0) continue;
        if (strcmp(e->d_name + n - tail, TEMP_TAIL) != 0) continue;
        if (unlinkat(dirfd(d), e->d_name, 0) != 0 && errno != ENOENT)
            status = io_error(path, "remove a temporary file in it");
    }
    closedir(d);
    return status;
}

int ts_path_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

int ts_path_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

ts_status ts_dir_lock(int *lock, const char *path)
{
    *lock = -1;
    char *name = ts_format("%s/.lock", path);
    if (!name) return no_memory(path);
    int fd = open_again(name, O_RDWR | O_CREAT);
    free(name);
    if (fd < 0) return io_error(path, "create its lock file");
    int rc;
    do rc = flock(fd, LOCK_EX | LOCK_NB);
    while (rc != 0 && errno == EINTR);
    if (rc == 0) {
        *lock = fd;
        return TS_OK;
    }
    ts_status status =
        errno == EWOULDBLOCK ? ts_fail(TS_E_BUSY, "%s: is in use by another process", path) : io_error(path, "lock");
    close(fd);
    return status;
}

void ts_dir_unlock(int lock)
{
    if (lock >= 0) close(lock);
}
