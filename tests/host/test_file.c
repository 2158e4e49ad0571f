/* test_file.c - durable writes, reads, hashes, folders and locks.
 *
 * Oracle     plain stdio, stat and a list of what lies in the folder; XXH3 of the whole content at once.
 * Faults     every system call of a save fails in turn, or kills the process before it: what was there stays whole.
 */
#include "tests/host/faults.h"

#include <dirent.h>
#include <sys/resource.h>
#include <xxhash.h>

static int entries(const char *path)
{
    int n = 0;
    DIR *d = opendir(path);
    ck_assert_ptr_nonnull(d);
    while (readdir(d)) n++;
    closedir(d);
    return n - 2;
}

static void put(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

static int holds(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    char *got = malloc(n + 2);
    size_t m = fread(got, 1, n + 2, f);
    int same = m == n && memcmp(got, bytes, n) == 0;
    fclose(f);
    free(got);
    return same;
}

static unsigned char *noise(size_t n, uint64_t seed)
{
    unsigned char *p = t_alloc(n + 1);
    for (size_t i = 0; i < n; i++) p[i] = (unsigned char)t_next(&seed);
    return p;
}

T_TEST(replace_and_read)
{
    (void)be, (void)s;
    static const size_t sizes[] = { 0, 1, 65535, 65536, 65537, 300000 }; /* around the write buffer */
    char *path = IN("a");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t n = sizes[i], got;
        unsigned char *bytes = noise(n, i);
        void *back;
        T_OK(ts_file_replace(path, bytes, n));
        T_TRUE(holds(path, bytes, n));
        T_EQI(entries(t_folder()), 1);
        T_OK(ts_file_read(path, n, &back, &got));
        T_TRUE(got == n && memcmp(back, bytes, n) == 0 && ((char *)back)[n] == '\0');
        free(back);
        if (n > 0) T_STATUS(TS_E_DATA, ts_file_read(path, n - 1, &back, &got));
        if (n > 0) T_TRUE(back == NULL && strstr(ts_error(), path));
    }
    T_OK(ts_file_replace(path, "x", 1));
    struct stat st;
    T_EQI(stat(path, &st), 0);
    mode_t mask = umask(0);
    umask(mask);
    T_EQI(st.st_mode & 0777, 0666 & ~mask);
}

T_TEST(write_in_pieces)
{
    (void)be, (void)s;
    enum { N = 400000 };
    unsigned char *bytes = noise(N, 7);
    uint64_t seed = 8;
    ts_file_out *o;
    T_OK(ts_file_create(&o, IN("a")));
    for (size_t at = 0; at < N;) {
        size_t n = t_next(&seed) % 3 ? (size_t)(t_next(&seed) % 999) : (size_t)(t_next(&seed) % 99999);
        if (n > N - at) n = N - at;
        T_OK(ts_file_write(o, bytes + at, n));
        at += n;
        T_TRUE(!ts_path_exists(IN("a")));
    }
    T_OK(ts_file_commit(o));
    T_TRUE(holds(IN("a"), bytes, N));
    T_OK(ts_file_create(&o, IN("a")));
    T_OK(ts_file_write(o, "new", 3));
    ts_file_discard(o);
    ts_file_discard(NULL);
    T_TRUE(holds(IN("a"), bytes, N));
    T_EQI(entries(t_folder()), 1);
}

T_TEST(refusals)
{
    (void)be, (void)s;
    void *back;
    size_t n;
    char hex[17];
    uint64_t bytes;
    int fd;
    T_STATUS(TS_E_NOINPUT, ts_file_read(IN("none"), 10, &back, &n));
    T_TRUE(strstr(ts_error(), "none") && strstr(ts_error(), strerror(ENOENT)));
    T_STATUS(TS_E_NOINPUT, ts_file_read(t_folder(), 10, &back, &n));
    T_STATUS(TS_E_NOINPUT, ts_file_hash(t_folder(), hex, &bytes));
    T_STATUS(TS_E_NOINPUT, ts_file_sync(IN("none")));
    put(IN("file"), "abc", 3);
    T_STATUS(TS_E_NOINPUT, ts_file_open(&fd, NULL, IN("file/under")));
    T_STATUS(TS_E_IO, ts_file_replace(IN("none/a"), "x", 1));
    T_STATUS(TS_E_IO, ts_file_replace(t_folder(), "x", 1));
    T_STATUS(TS_E_IO, ts_file_replace("/dev/null", "x", 1));
    struct stat st;
    T_TRUE(stat("/dev/null", &st) == 0 && S_ISCHR(st.st_mode));
    T_EQI(entries(t_folder()), 1);
    char *longest =
        IN("123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"
           "123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"
           "123456789012345678901234567890123456789012345678901234567890123456789012345"); /* 255 characters */
    T_OK(ts_file_replace(longest, "x", 1));
}

/* A full disk, as a limit on the size of files. */
T_TEST(disk_full)
{
    (void)be, (void)s;
    put(IN("a"), "old", 3);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 100000, 100000 });
    T_STATUS(TS_E_IO, ts_file_replace(IN("a"), noise(200000, 1), 200000));
    T_TRUE(strstr(ts_error(), IN("a")) && strstr(ts_error(), strerror(EFBIG)));
    T_TRUE(holds(IN("a"), "old", 3));
    T_EQI(entries(t_folder()), 1);
}

T_TEST(save_in_order)
{
    (void)be, (void)s;
    faults_arm(NULL, 0, 0);
    T_OK(ts_file_replace(IN("a"), "x", 1));
    faults_disarm();
    ck_assert_str_eq(faults.trace, "owscrosc"); /* temporary file, rename, folder */
}

T_TEST(every_call_fails)
{
    (void)be, (void)s;
    static const int errors[] = { EIO, ENOSPC };
    unsigned char *fresh = noise(150000, 2);
    for (int e = 0; e < 2; e++) {
        int reached = 1;
        long k = 0;
        while (reached) {
            put(IN("a"), "old", 3);
            faults_arm("owscr", ++k, errors[e]);
            ts_status st = ts_file_replace(IN("a"), fresh, 150000);
            reached = faults_disarm();
            /* the last close is of a folder that was read, its result means nothing */
            int last = strcmp(faults.trace + faults.seen - 3, "osc") == 0 && k == faults.seen;
            T_EQI(st, reached && !last ? TS_E_IO : TS_OK);
            if (st != TS_OK) T_TRUE(strstr(ts_error(), t_folder()) && strstr(ts_error(), strerror(errors[e])));
            int renamed = strchr(faults.trace, 'r') && strchr(faults.trace, 'r') + 1 < faults.trace + faults.seen;
            T_TRUE(holds(IN("a"), st == TS_OK || renamed ? (void *)fresh : (void *)"old",
                         st == TS_OK || renamed ? 150000 : 3));
            T_EQI(entries(t_folder()), 1);
        }
        ck_assert_int_gt(k, 15); /* writes are cut short here, so there are many */
    }
}

T_TEST(interrupted_calls_are_repeated)
{
    (void)be, (void)s;
    unsigned char *fresh = noise(150000, 3);
    long k = 0;
    for (int reached = 1; reached;) {
        faults_arm("owsc", ++k, EINTR);
        T_OK(ts_file_replace(IN("a"), fresh, 150000));
        reached = faults_disarm();
        T_TRUE(holds(IN("a"), fresh, 150000));
    }
    ck_assert_int_gt(k, 15);
}

T_TEST(killed_at_every_call)
{
    (void)be, (void)s;
    unsigned char *old = noise(90000, 4), *fresh = noise(150000, 5);
    int killed = 0, was_old = 0, was_new = 0;
    for (long k = 1;; k++) {
        put(IN("a"), old, 90000);
        pid_t child = fork();
        if (child == 0) {
            faults_arm(NULL, k, FAULT_KILL);
            ts_file_replace(IN("a"), fresh, 150000);
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        int is_old = holds(IN("a"), old, 90000), is_new = holds(IN("a"), fresh, 150000);
        ck_assert_int_eq(is_old + is_new, 1);
        was_old += is_old, was_new += is_new;
        T_OK(ts_dir_clean(t_folder()));
        T_EQI(entries(t_folder()), 1);
        if (!WIFSIGNALED(status)) break;
        killed++;
    }
    T_TRUE(killed > 15 && was_old > 10 && was_new == 4); /* before open, fsync and close of the folder, and alive */
}

T_TEST(pipes_are_read)
{
    (void)be, (void)s;
    unsigned char *bytes = noise(200000, 6);
    T_EQI(mkfifo(IN("pipe"), 0600), 0);
    pid_t child = fork();
    if (child == 0) {
        FILE *f = fopen(IN("pipe"), "wb");
        _exit(f && fwrite(bytes, 1, 200000, f) == 200000 && fclose(f) == 0 ? 0 : 1);
    }
    void *back;
    size_t n;
    T_OK(ts_file_read(IN("pipe"), 1000000, &back, &n));
    T_TRUE(n == 200000 && memcmp(back, bytes, n) == 0);
    free(back);
    waitpid(child, NULL, 0);
}

T_TEST(hashes)
{
    (void)be, (void)s;
    static const size_t sizes[] = { 0, 1, 262143, 262144, 262145, 600000 }; /* around the read block */
    char hex[17], want[17];
    uint64_t bytes;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *x = noise(sizes[i], i + 10);
        put(IN("a"), x, sizes[i]);
        T_OK(ts_file_hash(IN("a"), hex, &bytes));
        snprintf(want, sizeof want, "%016llx", (unsigned long long)XXH3_64bits(x, sizes[i]));
        ck_assert_str_eq(hex, want);
        ck_assert_uint_eq(bytes, sizes[i]);
    }
    put(IN("a"), "", 0);
    T_OK(ts_file_hash(IN("a"), hex, &bytes));
    ck_assert_str_eq(hex, "2d06800538d394c2"); /* published value of the empty input */
}

T_TEST(folders)
{
    (void)be, (void)s;
    T_OK(ts_dir_make(IN("x//y/z/")));
    T_TRUE(ts_path_is_dir(IN("x/y/z")));
    T_OK(ts_dir_make(IN("x/y/z")));
    T_OK(ts_dir_make("/"));
    T_EQI(chdir(t_folder()), 0);
    T_OK(ts_dir_make("relative/q"));
    T_TRUE(ts_path_is_dir(IN("relative/q")));
    T_STATUS(TS_E_ARG, ts_dir_make(""));
    put(IN("x/file"), "1", 1);
    T_STATUS(TS_E_IO, ts_dir_make(IN("x/file")));
    T_STATUS(TS_E_IO, ts_dir_make(IN("x/file/under")));
    T_STATUS(TS_E_IO, ts_dir_sync(IN("none")));

    T_OK(ts_dir_make(IN("outside")));
    put(IN("outside/kept"), "1", 1);
    T_EQI(symlink(IN("outside"), IN("x/y/link")), 0);
    T_OK(ts_dir_remove(IN("x")));
    T_TRUE(!ts_path_exists(IN("x")) && ts_path_exists(IN("outside/kept")));
    T_OK(ts_dir_remove(IN("x")));

    put(IN("outside/.tessera-12-3.tmp"), "1", 1);
    put(IN("outside/.tessera-12-3.tmpx"), "1", 1);
    put(IN("outside/a.tmp"), "1", 1);
    T_OK(ts_dir_clean(IN("outside")));
    T_EQI(entries(IN("outside")), 3);
    T_STATUS(TS_E_IO, ts_dir_clean(IN("none")));
}

T_TEST(removal_fails)
{
    (void)be, (void)s;
    T_OK(ts_dir_make(IN("x/y")));
    faults_arm("u", 1, EIO);
    T_STATUS(TS_E_IO, ts_dir_remove(IN("x")));
    T_TRUE(faults_disarm());
    T_TRUE(strstr(ts_error(), "x/y") && strstr(ts_error(), strerror(EIO)));
}

T_TEST(locks)
{
    (void)be, (void)s;
    int a, b;
    T_OK(ts_dir_lock(&a, t_folder()));
    T_STATUS(TS_E_BUSY, ts_dir_lock(&b, t_folder()));
    T_TRUE(b == -1 && strstr(ts_error(), t_folder()));
    ts_dir_unlock(b);
    ts_dir_unlock(a);
    T_OK(ts_dir_lock(&a, t_folder()));
    ts_dir_unlock(a);
    T_STATUS(TS_E_IO, ts_dir_lock(&a, IN("none")));

    int ready[2];
    T_EQI(pipe(ready), 0);
    pid_t child = fork(); /* a process that is killed gives its lock back */
    if (child == 0) {
        char ok = ts_dir_lock(&a, t_folder()) == TS_OK;
        syscall(SYS_write, ready[1], &ok, 1);
        pause();
        _exit(0);
    }
    char ok = 0;
    T_TRUE(read(ready[0], &ok, 1) == 1 && ok);
    T_STATUS(TS_E_BUSY, ts_dir_lock(&b, t_folder()));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    T_OK(ts_dir_lock(&b, t_folder()));
    ts_dir_unlock(b);
}

int main(void)
{
    Suite *u = t_suite("file");
    T_ADD1(u, replace_and_read);
    T_ADD1(u, write_in_pieces);
    T_ADD1(u, refusals);
    T_ADD1(u, disk_full);
    T_ADD1(u, save_in_order);
    T_ADD1(u, every_call_fails);
    T_ADD1(u, interrupted_calls_are_repeated);
    T_ADD1(u, killed_at_every_call);
    T_ADD1(u, pipes_are_read);
    T_ADD1(u, hashes);
    T_ADD1(u, folders);
    T_ADD1(u, removal_fails);
    T_ADD1(u, locks);
    return t_run(u);
}
