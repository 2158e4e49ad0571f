/* faults.h - for tests of files: a folder of one's own, and system calls that fail, or kill, at a chosen moment.
 *
 * The functions below replace those of the C library in a test program that includes this header. Calls are counted and
 * traced while armed: o open, w write, s fsync, c close, r rename, x exchange, u unlink or remove, m mkdir.
 */
#ifndef FAULTS_H
#define FAULTS_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/file.h"
#include "tests/t.h"

enum { FAULT_KILL = -1, TRACE_MAX = 4000 };

static struct {
    int armed, error; /* errno to fail with, FAULT_KILL to die before the call, 0 to trace alone */
    long at, seen;    /* which call, from 1; calls so far                                        */
    const char *only; /* letters of the calls to count; NULL: all                                */
    char trace[TRACE_MAX + 1];
} faults;

__attribute__((unused)) static void faults_arm(const char *only, long at, int error)
{
    memset(&faults, 0, sizeof faults);
    faults.only = only;
    faults.at = at;
    faults.error = error;
    faults.armed = 1;
}

/* Stop; was the fault reached? */
__attribute__((unused)) static int faults_disarm(void)
{
    faults.armed = 0;
    return faults.seen >= faults.at;
}

static int fault(char call)
{
    if (!faults.armed || (faults.only && !strchr(faults.only, call))) return 0;
    if (faults.seen < TRACE_MAX) faults.trace[faults.seen] = call;
    if (++faults.seen != faults.at || faults.error == 0) return 0;
    if (faults.error == FAULT_KILL) kill(getpid(), SIGKILL);
    errno = faults.error;
    return 1;
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return fault('o') ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

ssize_t write(int fd, const void *bytes, size_t n)
{
    if (fault('w')) return -1;
    if (faults.armed && n > 1) n = n / 2 + 1; /* always short */
    return syscall(SYS_write, fd, bytes, n);
}

int fsync(int fd)
{
    return fault('s') ? -1 : (int)syscall(SYS_fsync, fd);
}

int close(int fd)
{
    int failed = fault('c'), error = errno; /* a failing close closes nevertheless */
    int rc = (int)syscall(SYS_close, fd);
    if (failed) errno = error;
    return failed ? -1 : rc;
}

int rename(const char *from, const char *to)
{
    return fault('r') ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
    return fault('x') ? -1 : (int)syscall(SYS_renameat2, a, from, b, to, flags);
}

int unlink(const char *path)
{
    return fault('u') ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int remove(const char *path)
{
    if (fault('u')) return -1;
    struct stat st;
    int folder = lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, folder ? AT_REMOVEDIR : 0);
}

int mkdir(const char *path, mode_t mode)
{
    return fault('m') ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

static char folder[64];

static void folder_end(void)
{
    ts_dir_remove(folder);
}

/* A new folder, removed when the test's process ends. In memory where that is possible: these tests sync thousands of
 * times, and a busy disk takes tenths of a second for each. */
static const char *t_folder(void)
{
    if (folder[0]) return folder;
    const char *wish = getenv("TMPDIR"), *memory = "/dev/shm";
    if (!wish) wish = access(memory, W_OK) == 0 ? memory : P_tmpdir;
    snprintf(folder, sizeof folder, "%s/tessera-test-XXXXXX", wish);
    ck_assert_ptr_nonnull(mkdtemp(folder));
    atexit(folder_end);
    return folder;
}

/* printf into memory that is freed after the test. */
__attribute__((unused, format(printf, 1, 2))) static char *t_text(const char *format, ...)
{
    char *text = t_alloc(4096);
    va_list args;
    va_start(args, format);
    vsnprintf(text, 4096, format, args);
    va_end(args);
    return text;
}

#define IN(name) t_text("%s/%s", t_folder(), (name))

#endif
