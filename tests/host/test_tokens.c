/* test_tokens.c - token shards: what is written, resuming, what is read back.
 *
 * Oracle     a table of pictures made from their number; the files of a run that was not interrupted, byte for byte.
 * Faults     runs abandoned and killed, deterministically at every system call and at random moments; damaged files.
 */
#include "host/safetensors.h"
#include "host/tokens.h"
#include "tests/host/faults.h"

#include <dirent.h>
#include <jansson.h>

static const char INFO[] = "{\"tokenizer\":\"0123456789abcdef\",\"scales\":[1,2],\"preprocess\":\"var\"}";
static const char *const CLASSES[] = { "cat", "dog", "\xc3\xa9toile" };

typedef struct {
    int64_t T, V, sources, per_shard;
} shape;

static const shape SMALL = { 5, 300, 23, 4 }, WIDE = { 3, 390625, 10, 10 };

/* Picture i: some cannot be read, among them the last one and a whole shard of SMALL (8 to 11). */
static int readable(int64_t i)
{
    return i != 1 && i != 22 && (i < 8 || i > 11);
}

static int32_t picture(const shape *p, int64_t i, int32_t *tokens)
{
    uint64_t seed = (uint64_t)i;
    for (int64_t t = 0; t < p->T; t++) tokens[t] = (int32_t)(t_next(&seed) % (uint64_t)p->V);
    if (i % 2 == 0) tokens[i % p->T] = (int32_t)(p->V - 1);
    return (int32_t)(i % 4) - 1;
}

static ts_status begin(ts_token_writer **w, const char *dir, const shape *p)
{
    return ts_token_writer_new(w, dir, INFO, p->T, p->V, CLASSES, 3, p->sources, p->per_shard);
}

/* Add pictures from where the writer stands up to `end`; errors receives how many could not be read. */
static ts_status add_until(ts_token_writer *w, const shape *p, int64_t end, int64_t *errors)
{
    *errors = 0;
    for (int64_t i = ts_token_writer_resume(w); i < end; i++) {
        int32_t tokens[8], label = picture(p, i, tokens);
        if (readable(i))
            TS_TRY(ts_token_writer_add(w, i, label, tokens));
        else
            ++*errors;
    }
    return TS_OK;
}

static ts_status whole_run(const char *dir, const shape *p)
{
    ts_token_writer *w;
    int64_t errors;
    TS_TRY(begin(&w, dir, p));
    ts_status st = add_until(w, p, p->sources, &errors);
    if (st == TS_OK) return ts_token_writer_finish(w, errors);
    ts_token_writer_abandon(w);
    return st;
}

/* The same files with the same bytes, but for the lock. */
static void same_folder(const char *a, const char *b)
{
    int n = 0, m = 0;
    DIR *d = opendir(b);
    ck_assert_ptr_nonnull(d);
    while (readdir(d)) m++;
    closedir(d);
    d = opendir(a);
    ck_assert_ptr_nonnull(d);
    for (struct dirent *e; (e = readdir(d)); n++) {
        if (e->d_name[0] == '.') continue;
        void *x, *y;
        size_t nx, ny;
        T_OK(ts_file_read(t_text("%s/%s", a, e->d_name), 1 << 20, &x, &nx));
        T_OK(ts_file_read(t_text("%s/%s", b, e->d_name), 1 << 20, &y, &ny));
        ck_assert_msg(nx == ny && memcmp(x, y, nx) == 0, "%s differs between %s and %s", e->d_name, a, b);
        free(x);
        free(y);
    }
    closedir(d);
    ck_assert_int_eq(n, m);
}

static void check_set(const char *dir, const shape *p)
{
    ts_token_set *t;
    T_OK(ts_token_set_open(&t, dir, 1));
    T_TRUE(ts_token_set_T(t) == p->T && ts_token_set_V(t) == p->V && ts_token_set_classes(t) == 3);
    for (int i = 0; i < 3; i++) ck_assert_str_eq(ts_token_set_class(t, i), CLASSES[i]);
    ck_assert_str_eq(ts_token_set_info(t), INFO);
    int64_t n = 0;
    for (int64_t i = 0; i < p->sources; i++) {
        if (!readable(i)) continue;
        int32_t tokens[9] = { 0 }, want[8], label;
        uint64_t source;
        tokens[p->T] = 12345;
        T_OK(ts_token_set_get(t, n++, tokens, &label, &source));
        ck_assert_int_eq(label, picture(p, i, want));
        ck_assert_uint_eq(source, (uint64_t)i);
        T_TRUE(memcmp(tokens, want, (size_t)p->T * 4) == 0 && tokens[p->T] == 12345);
    }
    ck_assert_int_eq(ts_token_set_count(t), n);
    int32_t tokens[8], label;
    uint64_t source;
    T_STATUS(TS_E_ARG, ts_token_set_get(t, n, tokens, &label, &source));
    T_STATUS(TS_E_ARG, ts_token_set_get(t, -1, tokens, &label, &source));
    ts_token_set_close(t);
}

T_TEST(written_and_read)
{
    (void)be, (void)s;
    T_OK(whole_run(IN("small"), &SMALL));
    check_set(IN("small"), &SMALL);
    T_OK(whole_run(IN("wide/new/folder"), &WIDE));
    check_set(IN("wide/new/folder"), &WIDE);
    ts_token_set_close(NULL);
    ts_token_writer_abandon(NULL);
}

T_TEST(files)
{
    (void)be, (void)s;
    T_OK(whole_run(IN("d"), &SMALL));
    ts_st_file *f;
    T_OK(ts_st_open(&f, IN("d/tokens-00000-of-00006.safetensors")));
    const ts_st_tensor *tokens = ts_st_find(f, "tokens"), *labels = ts_st_find(f, "labels"),
                       *sample = ts_st_find(f, "sample");
    T_TRUE(tokens->dtype == TS_ST_U16 && labels->dtype == TS_ST_I32 && sample->dtype == TS_ST_U64);
    T_TRUE(tokens->shape[0] == 3 && tokens->shape[1] == 5 && labels->shape[0] == 3 && sample->shape[0] == 3);
    T_TRUE(memcmp(sample->data, (uint64_t[]){ 0, 2, 3 }, 24) == 0);
    ck_assert_str_eq(ts_st_metadata(f, "tessera"), INFO);
    ts_st_close(f);
    T_OK(ts_st_open(&f, IN("d/tokens-00002-of-00006.safetensors"))); /* nothing in it could be read */
    T_EQI(ts_st_find(f, "tokens")->shape[0], 0);
    ts_st_close(f);

    json_t *index = json_load_file(IN("d/index.json"), JSON_REJECT_DUPLICATES, NULL);
    T_EQI(json_integer_value(json_object_get(index, "version")), 1);
    T_EQI(json_integer_value(json_object_get(index, "sources")), 23);
    T_EQI(json_integer_value(json_object_get(index, "samples")), 17);
    T_EQI(json_integer_value(json_object_get(index, "errors")), 6);
    json_t *shards = json_object_get(index, "shards");
    T_EQI(json_array_size(shards), 6);
    for (size_t i = 0; i < 6; i++) {
        json_t *entry = json_array_get(shards, i);
        char hex[17];
        uint64_t bytes;
        T_OK(ts_file_hash(t_text("%s/%s", IN("d"), json_string_value(json_object_get(entry, "file"))), hex, &bytes));
        ck_assert_str_eq(hex, json_string_value(json_object_get(entry, "xxh3")));
        ck_assert_int_eq((int64_t)bytes, json_integer_value(json_object_get(entry, "bytes")));
    }
    json_decref(index);
}

T_TEST(widths)
{
    (void)be, (void)s;
    static const int64_t V[] = { 1, 65536, 65537, 2147483647 };
    for (int i = 0; i < 4; i++) {
        char *dir = IN(t_text("%d", i));
        ts_token_writer *w;
        int32_t top = (int32_t)(V[i] - 1), got, label;
        uint64_t source;
        T_OK(ts_token_writer_new(&w, dir, "{}", 1, V[i], NULL, 0, 1, 100));
        T_OK(ts_token_writer_add(w, 0, -1, &top));
        T_OK(ts_token_writer_finish(w, 0));
        ts_token_set *t;
        T_OK(ts_token_set_open(&t, dir, 1));
        T_OK(ts_token_set_get(t, 0, &got, &label, &source));
        T_TRUE(got == top && label == -1 && source == 0);
        ts_token_set_close(t);
        ts_st_file *f;
        T_OK(ts_st_open(&f, t_text("%s/tokens-00000-of-00001.safetensors", dir)));
        T_EQI(ts_st_find(f, "tokens")->dtype, i < 2 ? TS_ST_U16 : TS_ST_U32);
        ts_st_close(f);
    }
}

/* Shards in a row in which nothing could be read, at the beginning, in the middle and at the end. */
T_TEST(gaps)
{
    (void)be, (void)s;
    static const int64_t there[] = { 7, 8, 16 };
    ts_token_writer *w;
    ts_token_set *t;
    T_OK(ts_token_writer_new(&w, IN("d"), "{}", 1, 100, NULL, 0, 30, 3));
    for (int i = 0; i < 3; i++) T_OK(ts_token_writer_add(w, there[i], -1, &(int32_t){ (int32_t)there[i] }));
    T_OK(ts_token_writer_finish(w, 27));
    T_OK(ts_token_set_open(&t, IN("d"), 1));
    ck_assert_int_eq(ts_token_set_count(t), 3);
    for (int i = 0; i < 3; i++) {
        int32_t token, label;
        uint64_t source;
        T_OK(ts_token_set_get(t, i, &token, &label, &source));
        T_TRUE(token == there[i] && label == -1 && source == (uint64_t)there[i]);
    }
    ts_token_set_close(t);
    ts_st_file *f;
    T_OK(ts_st_open(&f, IN("d/tokens-00005-of-00010.safetensors")));
    T_EQI(ts_st_find(f, "sample")->shape[0], 1);
    T_TRUE(memcmp(ts_st_find(f, "sample")->data, &(uint64_t){ 16 }, 8) == 0);
    ts_st_close(f);
}

T_TEST(abandoned_and_resumed)
{
    (void)be, (void)s;
    T_OK(whole_run(IN("whole"), &SMALL));
    for (int64_t cut = 0; cut <= SMALL.sources; cut++) {
        char *dir = IN(t_text("cut%d", (int)cut));
        ts_token_writer *w;
        int64_t errors;
        ts_token_set *t;
        T_OK(begin(&w, dir, &SMALL));
        T_EQI(ts_token_writer_resume(w), 0);
        T_OK(add_until(w, &SMALL, cut, &errors));
        ts_token_writer_abandon(w);
        T_STATUS(TS_E_DATA, ts_token_set_open(&t, dir, 0));
        T_TRUE(t == NULL && strstr(ts_error(), "index.json"));
        T_OK(begin(&w, dir, &SMALL));
        /* a shard ends when its last picture, or one of a later shard, comes: 8 to 11 are missing, 22 too */
        int64_t kept = cut / 4 * 4;
        T_EQI(ts_token_writer_resume(w), cut >= 12 ? (cut == 12 ? 8 : kept) : kept > 8 ? 8 : kept);
        T_OK(add_until(w, &SMALL, SMALL.sources, &errors));
        T_OK(ts_token_writer_finish(w, errors));
        same_folder(IN("whole"), dir);
    }
}

/* In a child: go on with the run in dir, dying before system call k. */
static int killed_run(const char *dir, const shape *p, long k)
{
    pid_t child = fork();
    if (child == 0) {
        if (k > 0) faults_arm(NULL, k, FAULT_KILL);
        _exit(whole_run(dir, p) == TS_OK ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    ck_assert_msg(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "a resumed run failed");
    return WIFSIGNALED(status);
}

T_TEST(killed_at_every_call)
{
    (void)be, (void)s;
    static const shape tiny = { 5, 300, 7, 3 };
    T_OK(whole_run(IN("whole"), &tiny));
    int killed = 0;
    for (long k = 1;; k++) {
        char *dir = IN(t_text("k%ld", k));
        int dead = killed_run(dir, &tiny, k);
        ts_token_writer *w;
        ts_status st = begin(&w, dir, &tiny);
        if (st == TS_OK) {
            ts_token_writer_abandon(w);
            T_EQI(killed_run(dir, &tiny, 0), 0);
        } else {
            T_EQI(st, TS_E_BUSY); /* index.json was there already */
        }
        same_folder(IN("whole"), dir);
        check_set(dir, &tiny);
        T_OK(ts_dir_remove(dir));
        if (!dead) break;
        killed++;
    }
    ck_assert_int_gt(killed, 40);
}

/* Killed at a random moment, and again, until it is through. */
T_TEST(killed_at_random)
{
    (void)be, (void)s;
    T_OK(whole_run(IN("whole"), &SMALL));
    uint64_t seed = 11;
    int killed = 0;
    for (int i = 0; killed < 20; i++) {
        char *dir = IN(t_text("r%d", i)), *index = t_text("%s/index.json", dir);
        while (!ts_path_exists(index)) {
            pid_t child = fork();
            if (child == 0) _exit(whole_run(dir, &SMALL) == TS_OK ? 0 : 1);
            usleep((useconds_t)(t_next(&seed) % 6000));
            kill(child, SIGKILL);
            int status;
            waitpid(child, &status, 0);
            ck_assert_msg(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "a resumed run failed");
            killed += WIFSIGNALED(status);
        }
        same_folder(IN("whole"), dir);
        T_OK(ts_dir_remove(dir));
    }
}

T_TEST(every_call_fails)
{
    (void)be, (void)s;
    static const shape tiny = { 5, 300, 7, 3 };
    T_OK(whole_run(IN("whole"), &tiny));
    int failed = 0;
    for (long k = 1;; k++) {
        char *dir = IN(t_text("k%ld", k)), *index = t_text("%s/index.json", dir);
        faults_arm("owsrm", k, ENOSPC); /* not close: that of a file only read means nothing */
        ts_status st = whole_run(dir, &tiny);
        if (!faults_disarm()) {
            T_OK(st);
            break;
        }
        T_TRUE(st == TS_E_IO || st == TS_OK); /* OK: where only reading failed, a shard is made again */
        failed += st == TS_E_IO;
        if (st == TS_E_IO) T_TRUE(strstr(ts_error(), t_folder()) && strstr(ts_error(), strerror(ENOSPC)));
        if (!ts_path_exists(index)) T_OK(whole_run(dir, &tiny));
        same_folder(IN("whole"), dir);
    }
    ck_assert_int_gt(failed, 25);
}

T_TEST(another_run_is_refused)
{
    (void)be, (void)s;
    ts_token_writer *w, *v;
    int64_t errors;
    char *dir = IN("d");
    T_OK(begin(&w, dir, &SMALL));
    T_STATUS(TS_E_BUSY, begin(&v, dir, &SMALL)); /* locked */
    T_TRUE(v == NULL);
    T_OK(add_until(w, &SMALL, 9, &errors));
    ts_token_writer_abandon(w);
    static const char *const fewer[] = { "cat", "dog" }, *const other[] = { "cat", "dog", "etoile" };
    T_STATUS(TS_E_BUSY, ts_token_writer_new(&w, dir, "{}", 5, 300, CLASSES, 3, 23, 4));
    T_STATUS(TS_E_BUSY, ts_token_writer_new(&w, dir, INFO, 6, 300, CLASSES, 3, 23, 4));
    T_STATUS(TS_E_BUSY, ts_token_writer_new(&w, dir, INFO, 5, 301, CLASSES, 3, 23, 4));
    T_STATUS(TS_E_BUSY, ts_token_writer_new(&w, dir, INFO, 5, 300, fewer, 2, 23, 4));
    T_STATUS(TS_E_BUSY, ts_token_writer_new(&w, dir, INFO, 5, 300, other, 3, 23, 4));
    T_STATUS(TS_E_BUSY, ts_token_writer_new(&w, dir, INFO, 5, 300, CLASSES, 3, 24, 4));
    T_STATUS(TS_E_BUSY, ts_token_writer_new(&w, dir, INFO, 5, 300, CLASSES, 3, 25, 4)); /* 7 shards */
    T_STATUS(TS_E_BUSY, ts_token_writer_new(&w, dir, INFO, 5, 300, CLASSES, 3, 23, 5));
    T_TRUE(w == NULL && strstr(ts_error(), dir));
    T_OK(whole_run(dir, &SMALL));
    check_set(dir, &SMALL);
    T_STATUS(TS_E_BUSY, begin(&w, dir, &SMALL));
    T_TRUE(strstr(ts_error(), "finished"));
}

T_TEST(damaged_shards_are_made_again)
{
    (void)be, (void)s;
    T_OK(whole_run(IN("whole"), &SMALL));
    for (int kind = 0; kind < 4; kind++) {
        char *dir = IN(t_text("%d", kind)), *first = t_text("%s/tokens-00001-of-00006.safetensors", dir);
        ts_token_writer *w;
        int64_t errors;
        T_OK(begin(&w, dir, &SMALL));
        T_OK(add_until(w, &SMALL, 21, &errors));
        ts_token_writer_abandon(w);
        void *bytes;
        size_t n;
        T_OK(ts_file_read(first, 1 << 20, &bytes, &n));
        if (kind == 0) T_EQI(unlink(first), 0);
        if (kind == 1) T_OK(ts_file_replace(first, bytes, n - 1));
        if (kind == 2) ((unsigned char *)bytes)[n - 1] = 0xff; /* a token over V */
        if (kind == 3)
            ((unsigned char *)bytes)[n - 4 * (5 * 2 + 4 + 8)] = 5; /* the first sample number, 4 -> 5: no order */
        if (kind >= 2) T_OK(ts_file_replace(first, bytes, n));
        free(bytes);
        T_OK(begin(&w, dir, &SMALL));
        T_EQI(ts_token_writer_resume(w), 4);
        T_OK(add_until(w, &SMALL, SMALL.sources, &errors));
        T_OK(ts_token_writer_finish(w, errors));
        same_folder(IN("whole"), dir);
    }
}

T_TEST(refused_arguments)
{
    (void)be, (void)s;
    ts_token_writer *w;
    char *dir = IN("d");
    static const char *const bytes[] = { "\xff" };
    T_STATUS(TS_E_ARG, ts_token_writer_new(&w, dir, "[]", 5, 300, NULL, 0, 23, 4));
    T_STATUS(TS_E_ARG, ts_token_writer_new(&w, dir, "{", 5, 300, NULL, 0, 23, 4));
    T_STATUS(TS_E_ARG, ts_token_writer_new(&w, dir, "{}", 0, 300, NULL, 0, 23, 4));
    T_STATUS(TS_E_ARG, ts_token_writer_new(&w, dir, "{}", 5, 0, NULL, 0, 23, 4));
    T_STATUS(TS_E_ARG, ts_token_writer_new(&w, dir, "{}", 5, INT64_C(1) << 31, NULL, 0, 23, 4));
    T_STATUS(TS_E_ARG, ts_token_writer_new(&w, dir, "{}", 5, 300, NULL, 0, 0, 4));
    T_STATUS(TS_E_ARG, ts_token_writer_new(&w, dir, "{}", 5, 300, NULL, 0, 23, 0));
    T_STATUS(TS_E_ARG, ts_token_writer_new(&w, dir, "{}", 5, 300, bytes, 1, 23, 4));
    T_OK(begin(&w, dir, &SMALL));
    int32_t good[5] = { 0, 299, 0, 0, 0 }, over[5] = { 0, 0, 0, 0, 300 }, under[5] = { -1, 0, 0, 0, 0 };
    T_STATUS(TS_E_ARG, ts_token_writer_add(w, -1, 0, good));
    T_STATUS(TS_E_ARG, ts_token_writer_add(w, 23, 0, good));
    T_STATUS(TS_E_ARG, ts_token_writer_add(w, 0, 3, good));
    T_STATUS(TS_E_ARG, ts_token_writer_add(w, 0, -2, good));
    T_STATUS(TS_E_ARG, ts_token_writer_add(w, 0, 0, over));
    T_STATUS(TS_E_ARG, ts_token_writer_add(w, 0, 0, under));
    T_OK(ts_token_writer_add(w, 2, 2, good));
    T_STATUS(TS_E_ARG, ts_token_writer_add(w, 2, 0, good));
    T_STATUS(TS_E_ARG, ts_token_writer_add(w, 1, 0, good));
    ts_token_writer_abandon(w);
}

/* Change one thing in index.json and open. */
static void refuse_index(const char *dir, const char *key, json_t *value)
{
    char *path = t_text("%s/index.json", dir);
    void *old;
    size_t n;
    T_OK(ts_file_read(path, 1 << 20, &old, &n));
    json_t *index = json_loadb(old, n, 0, NULL);
    if (value)
        json_object_set_new(index, key, value);
    else
        json_object_del(index, key);
    T_EQI(json_dump_file(index, path, 0), 0);
    json_decref(index);
    ts_token_set *t;
    ck_assert_msg(ts_token_set_open(&t, dir, 0) == TS_E_DATA && !t, "a changed '%s' was accepted", key);
    T_TRUE(strstr(ts_error(), dir));
    T_OK(ts_file_replace(path, old, n));
    free(old);
    T_OK(ts_token_set_open(&t, dir, 0));
    ts_token_set_close(t);
}

T_TEST(refused_folders)
{
    (void)be, (void)s;
    ts_token_set *t;
    char *dir = IN("d");
    T_STATUS(TS_E_NOINPUT, ts_token_set_open(&t, dir, 0));
    T_OK(whole_run(dir, &SMALL));
    static const char *const keys[] = { "version", "T", "V", "samples", "shards", "classes", "info" };
    for (int i = 0; i < 7; i++) refuse_index(dir, keys[i], NULL);
    for (int i = 0; i < 7; i++) refuse_index(dir, keys[i], json_string("x"));
    refuse_index(dir, "version", json_integer(2));
    refuse_index(dir, "T", json_integer(6));
    refuse_index(dir, "V", json_integer(65537)); /* would be U32 */
    refuse_index(dir, "samples", json_integer(16));
    refuse_index(dir, "classes", json_pack("[i]", 1));
    refuse_index(dir, "info", json_object());
    refuse_index(dir, "shards", json_array());
    refuse_index(dir, "shards",
                 json_pack("[{s:s,s:i,s:i,s:s}]", "file", "../x", "samples", 17, "bytes", 1, "xxh3", ""));
    refuse_index(dir, "shards",
                 json_pack("[{s:s,s:i,s:i,s:s}]", "file", "none", "samples", 17, "bytes", 1, "xxh3", ""));
}

T_TEST(damage_is_found)
{
    (void)be, (void)s;
    char *dir = IN("d"), *shard = t_text("%s/tokens-00003-of-00006.safetensors", dir);
    T_OK(whole_run(dir, &SMALL));
    void *bytes;
    size_t n;
    ts_token_set *t;
    T_OK(ts_file_read(shard, 1 << 20, &bytes, &n));
    uint64_t seed = 3;
    for (int i = 0; i < 200; i++) { /* any bit: the hash finds it */
        size_t bit = (size_t)(t_next(&seed) % (8 * n));
        ((unsigned char *)bytes)[bit / 8] ^= (unsigned char)(1 << bit % 8);
        T_OK(ts_file_replace(shard, bytes, n));
        T_STATUS(TS_E_DATA, ts_token_set_open(&t, dir, 1));
        ((unsigned char *)bytes)[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    T_OK(ts_file_replace(shard, bytes, n - 1)); /* a wrong size: without the hash, too */
    T_STATUS(TS_E_DATA, ts_token_set_open(&t, dir, 0));

    int32_t tokens[8], label;
    uint64_t source;
    ((unsigned char *)bytes)[n - 2] = 300 % 256; /* the last token of the last row, sample 10, becomes V */
    ((unsigned char *)bytes)[n - 1] = 300 / 256;
    T_OK(ts_file_replace(shard, bytes, n));
    T_OK(ts_token_set_open(&t, dir, 0));
    T_OK(ts_token_set_get(t, 9, tokens, &label, &source));
    ck_assert_uint_eq(source, 14);
    T_STATUS(TS_E_DATA, ts_token_set_get(t, 10, tokens, &label, &source));
    T_TRUE(strstr(ts_error(), shard));
    ts_token_set_close(t);
    ((unsigned char *)bytes)[n - 2] = 299 % 256;         /* the largest that is allowed */
    ((unsigned char *)bytes)[n - 4 * 5 * 2 - 4 * 4] = 3; /* label of row 0: there are 3 classes */
    T_OK(ts_file_replace(shard, bytes, n));
    T_OK(ts_token_set_open(&t, dir, 0));
    T_STATUS(TS_E_DATA, ts_token_set_get(t, 7, tokens, &label, &source));
    ts_token_set_close(t);
    free(bytes);
}

int main(void)
{
    Suite *u = t_suite("tokens");
    T_ADD1(u, written_and_read);
    T_ADD1(u, files);
    T_ADD1(u, widths);
    T_ADD1(u, gaps);
    T_ADD1(u, abandoned_and_resumed);
    T_ADD1(u, killed_at_every_call);
    T_ADD1(u, killed_at_random);
    T_ADD1(u, every_call_fails);
    T_ADD1(u, another_run_is_refused);
    T_ADD1(u, damaged_shards_are_made_again);
    T_ADD1(u, refused_arguments);
    T_ADD1(u, refused_folders);
    T_ADD1(u, damage_is_found);
    return t_run(u);
}
