/* test_npz.c - arrays as NumPy's .npz.
 *
 * Oracle     libarchive's reader, and the bytes of a .npy header written by NumPy itself.
 * Faults     every system call of a save fails in turn: what was there stays whole.
 */
#include "tests/host/faults.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <time.h>

#include "host/npz.h"

static int files(char *name)
{
    int n = 0;
    DIR *d = opendir(t_folder());
    ck_assert_ptr_nonnull(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.' && strlen(e->d_name) < 3) continue;
        if (name) strcpy(name, e->d_name);
        n++;
    }
    closedir(d);
    return n;
}

static ts_status write_array(ts_npz *z, const char *name, const char *type, int rank, const int64_t *dims,
                             const void *bytes, size_t n, size_t piece)
{
    ts_status st = ts_npz_array(z, name, type, rank, dims);
    for (size_t i = 0; i < n && st == TS_OK; i += piece)
        st = ts_npz_write(z, (const char *)bytes + i, i + piece < n ? piece : n - i);
    return st;
}

enum { N = 50, SIDE = 40, PICTURES = N * SIDE * SIDE * 3 };

/* Pictures and labels as `tessera sample` writes them. */
static ts_status save(const char *path, const uint8_t *pictures, const int64_t *labels, size_t piece)
{
    ts_npz *z;
    TS_TRY(ts_npz_create(&z, path));
    ts_status st = write_array(z, "arr_0", "|u1", 4, (int64_t[]){ N, SIDE, SIDE, 3 }, pictures, PICTURES, piece);
    if (st == TS_OK) st = write_array(z, "arr_1", "<i8", 1, (int64_t[]){ N }, labels, N * 8, piece);
    if (st == TS_OK) return ts_npz_commit(z);
    ts_npz_discard(z);
    return st;
}

static uint8_t *noise(size_t n)
{
    uint64_t seed = 5;
    uint8_t *p = t_alloc(n);
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)t_next(&seed);
    return p;
}

/* The next member is NAME.npy with this header and these bytes. */
static void expect(struct archive *a, const char *name, const char *header, const void *bytes, size_t n)
{
    struct archive_entry *e;
    T_EQI(archive_read_next_header(a, &e), ARCHIVE_OK);
    ck_assert_str_eq(archive_entry_pathname(e), name);
    size_t head = strlen(header) + 10, pad = 64 - head % 64;
    T_EQI(archive_entry_size(e), (int64_t)(head + pad + n));
    T_EQI(archive_entry_filetype(e), AE_IFREG);
    uint8_t *got = t_alloc(head + pad + n + 1);
    T_EQI(archive_read_data(a, got, head + pad + n), (la_ssize_t)(head + pad + n));
    ck_assert_mem_eq(got, "\x93NUMPY\x01\0", 8);
    T_EQI(got[8] + 256 * got[9] + 10, (int64_t)(head + pad));
    ck_assert_mem_eq(got + 10, header, strlen(header));
    for (size_t i = 0; i < pad; i++) T_EQI(got[head + i], i + 1 < pad ? ' ' : '\n');
    if (n > 0) ck_assert_mem_eq(got + head + pad, bytes, n);
}

static struct archive *reader(const char *path)
{
    struct archive *a = archive_read_new();
    T_EQI(archive_read_support_format_zip_seekable(a), ARCHIVE_OK);
    T_EQI(archive_read_open_filename(a, path, 10240), ARCHIVE_OK);
    return a;
}

static void end(struct archive *a)
{
    struct archive_entry *e;
    T_EQI(archive_read_next_header(a, &e), ARCHIVE_EOF);
    archive_read_free(a);
}

T_TEST(reads_back)
{
    (void)be, (void)s;
    uint8_t *pictures = noise(PICTURES);
    int64_t labels[N];
    for (int i = 0; i < N; i++) labels[i] = (int64_t)i << (i % 60);
    char *path = IN("a.npz"), *other = IN("b.npz");
    T_OK(save(path, pictures, labels, 1000000));
    struct archive *a = reader(path);
    expect(a, "arr_0.npy", "{'descr': '|u1', 'fortran_order': False, 'shape': (50, 40, 40, 3), }", pictures, PICTURES);
    expect(a, "arr_1.npy", "{'descr': '<i8', 'fortran_order': False, 'shape': (50,), }", labels, sizeof labels);
    end(a);
    size_t n, m;
    void *bytes, *again;
    T_OK(ts_file_read(path, 1 << 24, &bytes, &n));
    const uint8_t *p = bytes;
    ck_assert_mem_eq(p, "PK\3\4", 4);
    T_EQI(p[4], 10);       /* needs version 1.0: no ZIP64 */
    T_EQI(p[8] | p[9], 0); /* stored */
    setenv("TZ", "Asia/Tokyo", 1), tzset();
    T_OK(save(other, pictures, labels, 7777)); /* pieces and time zones do not show */
    T_OK(ts_file_read(other, 1 << 24, &again, &m));
    T_TRUE(n == m && memcmp(bytes, again, n) == 0);
    free(bytes), free(again);
    T_EQI(files(NULL), 2);
}

T_TEST(shapes)
{
    (void)be, (void)s;
    ts_npz *z;
    const float four[4] = { 1, 2, 3, 4 };
    const int32_t one = 7;
    char *path = IN("a.npz");
    T_OK(ts_npz_create(&z, path));
    T_OK(write_array(z, "scalar", "<i4", 0, NULL, &one, 4, 4));
    T_OK(write_array(z, "empty", "|u1", 4, (int64_t[]){ 0, 8, 8, 3 }, NULL, 0, 1));
    T_OK(write_array(z, "f", "<f4", 2, (int64_t[]){ 2, 2 }, four, 16, 5));
    T_OK(ts_npz_commit(z));
    struct archive *a = reader(path);
    expect(a, "scalar.npy", "{'descr': '<i4', 'fortran_order': False, 'shape': (), }", &one, 4);
    expect(a, "empty.npy", "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 8, 8, 3), }", NULL, 0);
    expect(a, "f.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }", four, 16);
    end(a);
}

T_TEST(misuse)
{
    (void)be, (void)s;
    ts_npz *z;
    char *path = IN("a.npz");
    T_OK(ts_npz_create(&z, path));
    T_STATUS(TS_E_ARG, ts_npz_write(z, "x", 1));
    T_STATUS(TS_E_ARG, ts_npz_array(z, "a", "<f8", 1, (int64_t[]){ 3 }));
    T_STATUS(TS_E_ARG, ts_npz_array(z, "a", "|u1", 9, (int64_t[9]){ 0 }));
    T_STATUS(TS_E_ARG, ts_npz_array(z, "a", "|u1", 1, (int64_t[]){ -1 }));
    T_STATUS(TS_E_ARG, ts_npz_array(z, "a", "<i8", 2, (int64_t[]){ 1ll << 31, 1ll << 31 }));
    T_STATUS(TS_E_ARG, ts_npz_array(z, "a", "|u1", 1, (int64_t[]){ INT64_MAX }));
    T_OK(ts_npz_array(z, "a", "|u1", 1, (int64_t[]){ 3 }));
    T_STATUS(TS_E_ARG, ts_npz_write(z, "four", 4));
    T_OK(ts_npz_write(z, "tw", 2));
    T_STATUS(TS_E_ARG, ts_npz_array(z, "b", "|u1", 1, (int64_t[]){ 3 }));
    T_STATUS(TS_E_ARG, ts_npz_commit(z));
    T_EQI(files(NULL), 0);
    ts_npz_discard(NULL);
    T_STATUS(TS_E_IO, ts_npz_create(&z, t_folder()));
    T_STATUS(TS_E_IO, ts_npz_create(&z, IN("none/a.npz")));
    T_TRUE(z == NULL);
}

static uint64_t little(const uint8_t *p, int n)
{
    uint64_t x = 0;
    while (n-- > 0) x = x << 8 | p[n];
    return x;
}

/* The header of an array over 4 GiB, in the temporary file of a save that is given up. */
T_TEST(large_arrays_are_zip64)
{
    (void)be, (void)s;
    ts_npz *z;
    char name[256];
    uint8_t *zeros = t_alloc(1 << 17);
    T_OK(ts_npz_create(&z, IN("a.npz")));
    T_OK(ts_npz_array(z, "arr_0", "|u1", 1, (int64_t[]){ 5ll << 30 }));
    T_OK(ts_npz_write(z, zeros, 1 << 17));
    T_EQI(files(name), 1);
    FILE *f = fopen(IN(name), "rb");
    uint8_t p[256];
    ck_assert_uint_eq(fread(p, 1, sizeof p, f), sizeof p);
    fclose(f);
    T_EQI(p[4], 45); /* needs version 4.5 */
    ck_assert_uint_eq(little(p + 18, 4), UINT32_MAX);
    ck_assert_uint_eq(little(p + 22, 4), UINT32_MAX);
    const uint8_t *extra = p + 30 + little(p + 26, 2), *stop = extra + little(p + 28, 2);
    while (extra + 4 <= stop && little(extra, 2) != 1) extra += 4 + little(extra + 2, 2);
    T_TRUE(extra + 20 <= stop);
    ck_assert_uint_eq(little(extra + 4, 8), (5ull << 30) + 128);
    ck_assert_uint_eq(little(extra + 12, 8), (5ull << 30) + 128);
    ts_npz_discard(z);
    T_EQI(files(NULL), 0);
}

T_TEST(every_failure_leaves_the_old_file)
{
    (void)be, (void)s;
    uint8_t *pictures = noise(PICTURES);
    int64_t labels[N] = { 0 };
    char *path = IN("a.npz");
    T_OK(ts_file_replace(path, "old", 3));
    int reached = 1;
    for (long at = 1; reached; at++) {
        faults_arm("owsr", at, ENOSPC);
        ts_status st = save(path, pictures, labels, 30000);
        reached = faults_disarm();
        T_EQI(st, reached ? TS_E_IO : TS_OK);
        if (!reached) break;
        ck_assert_msg(strstr(ts_error(), "No space left") != NULL, "call %ld: %s", at, ts_error());
        void *bytes;
        size_t n;
        T_EQI(files(NULL), 1);
        T_OK(ts_file_read(path, 1 << 24, &bytes, &n));
        if (n != 3) { /* the folder's fsync, after the rename */
            T_TRUE(at > 5 && n > PICTURES);
            T_OK(ts_file_replace(path, "old", 3));
        }
        free(bytes);
    }
    T_EQI(files(NULL), 1);
}

int main(void)
{
    Suite *u = t_suite("npz");
    T_ADD1(u, reads_back);
    T_ADD1(u, shapes);
    T_ADD1(u, misuse);
    T_ADD1(u, large_arrays_are_zip64);
    T_ADD1(u, every_failure_leaves_the_old_file);
    return t_run(u);
}
