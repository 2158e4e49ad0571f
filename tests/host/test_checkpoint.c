/* test_checkpoint.c - checkpoints are whole or not there.
 *
 * Oracle     files whose content follows from the step; the manifest read with Jansson alone.
 * Faults     a save is killed before, and fails at, every system call; bits are flipped: the newest whole one is found.
 */
#include "host/checkpoint.h"
#include "tests/host/faults.h"

#include <dirent.h>
#include <jansson.h>

static const char *const NAMES[] = { "model.safetensors", "optimizer.safetensors", "trainer_state.json" };
enum { FILES = 3, BYTES = 2000 };

static void content(unsigned char *bytes, int64_t step, int file, int version)
{
    uint64_t seed = (uint64_t)(step * 100 + file * 10 + version);
    for (int i = 0; i < BYTES; i++) bytes[i] = (unsigned char)t_next(&seed);
}

static ts_status save_version(const char *run, int64_t step, int keep, int version)
{
    char *dir;
    unsigned char bytes[BYTES];
    TS_TRY(ts_checkpoint_begin(run, step, &dir));
    for (int i = 0; i < FILES; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", dir, NAMES[i]);
        content(bytes, step, i, version);
        ts_status st = ts_file_replace(path, bytes, (size_t)(BYTES - i));
        if (st != TS_OK) {
            free(dir);
            return st;
        }
    }
    return ts_checkpoint_commit(run, step, dir, keep);
}

static ts_status save(const char *run, int64_t step, int keep)
{
    return save_version(run, step, keep, 0);
}

/* Are the files of dir those of this step and version? */
static int holds(const char *dir, int64_t step, int version)
{
    int good = 1;
    for (int i = 0; i < FILES; i++) {
        unsigned char want[BYTES];
        content(want, step, i, version);
        void *got;
        size_t n;
        if (ts_file_read(t_text("%s/%s", dir, NAMES[i]), 1 << 20, &got, &n) != TS_OK) return 0;
        good = good && n == (size_t)(BYTES - i) && memcmp(got, want, n) == 0;
        free(got);
    }
    return good;
}

static int warnings;
static char warned[1024];

static void warn(const char *line)
{
    warnings++;
    snprintf(warned, sizeof warned, "%s", line);
}

/* The newest step of run, whose files must be right. */
static int64_t newest(const char *run)
{
    int64_t step;
    char *dir;
    warnings = 0;
    T_OK(ts_checkpoint_newest(run, &step, &dir, warn));
    T_TRUE((step >= 0) == (dir != NULL));
    if (dir) T_TRUE(strcmp(dir, t_text("%s/step-%08lld", run, (long long)step)) == 0 && holds(dir, step, 0));
    free(dir);
    return step;
}

/* The names in run, one after another in order. */
static const char *listing(const char *run)
{
    struct dirent **list;
    int n = scandir(run, &list, NULL, alphasort);
    char *text = t_alloc(4096);
    for (int i = 0; i < n; i++) {
        if (list[i]->d_name[0] != '.') strcat(strcat(text, list[i]->d_name), " ");
        free(list[i]);
    }
    free(list);
    return text;
}

T_TEST(save_and_find)
{
    (void)be, (void)s;
    char *run = IN("deep/run");
    ck_assert_int_eq(newest(run), -1); /* no such folder */
    T_OK(save(run, 0, 2));
    ck_assert_int_eq(newest(run), 0);
    T_OK(save(run, 99999999, 9));
    T_OK(save(run, 100000000, 9)); /* by number: its name sorts before the one above */
    ck_assert_int_eq(newest(run), 100000000);
    T_EQI(warnings, 0);
    ck_assert_str_eq(listing(run), "step-00000000 step-100000000 step-99999999 ");
    T_OK(ts_checkpoint_verify(IN("deep/run/step-00000000")));

    json_t *manifest = json_load_file(IN("deep/run/step-00000000/manifest.json"), JSON_REJECT_DUPLICATES, NULL);
    json_t *files = json_object_get(manifest, "files");
    T_EQI(json_object_size(files), FILES);
    for (int i = 0; i < FILES; i++) {
        char hex[17];
        uint64_t bytes;
        T_OK(ts_file_hash(t_text("%s/step-00000000/%s", run, NAMES[i]), hex, &bytes));
        json_t *entry = json_object_get(files, NAMES[i]);
        ck_assert_int_eq(json_integer_value(json_object_get(entry, "bytes")), (int64_t)bytes);
        ck_assert_str_eq(json_string_value(json_object_get(entry, "xxh3")), hex);
    }
    json_decref(manifest);
}

T_TEST(pruning)
{
    (void)be, (void)s;
    char *run = IN("run");
    for (int64_t step = 10; step <= 50; step += 10) T_OK(save(run, step, 3));
    ck_assert_str_eq(listing(run), "step-00000030 step-00000040 step-00000050 ");
    T_OK(ts_dir_make(IN("run/step-5")));
    T_OK(ts_dir_make(IN("run/step-00000001x")));
    T_OK(ts_file_replace(IN("run/metrics.jsonl"), "1", 1));
    T_OK(save(run, 45, 1)); /* went on from 40 after 50 was damaged: 50 is left, and 45 itself is not pruned */
    ck_assert_str_eq(listing(run), "metrics.jsonl step-00000001x step-00000045 step-00000050 step-5 ");
    T_OK(save(run, 50, 1));
    ck_assert_str_eq(listing(run), "metrics.jsonl step-00000001x step-00000050 step-5 ");
}

T_TEST(replaced)
{
    (void)be, (void)s;
    char *run = IN("run");
    T_OK(save_version(run, 7, 2, 1));
    T_TRUE(holds(IN("run/step-00000007"), 7, 1));
    T_OK(save(run, 7, 2));
    ck_assert_str_eq(listing(run), "step-00000007 ");
    ck_assert_int_eq(newest(run), 7);
    T_OK(save_version(run, 7, 2, 1)); /* on a file system that cannot exchange */
    faults_arm("x", 1, EINVAL);
    T_OK(save(run, 7, 2));
    T_TRUE(faults_disarm());
    ck_assert_str_eq(listing(run), "step-00000007 ");
    ck_assert_int_eq(newest(run), 7);
}

T_TEST(leftovers)
{
    (void)be, (void)s;
    char *run = IN("run"), *dir;
    T_OK(save(run, 1, 5));
    T_OK(ts_checkpoint_begin(run, 2, &dir));
    T_OK(ts_file_replace(t_text("%s/x", dir), "x", 1));
    free(dir); /* the run died here */
    ck_assert_int_eq(newest(run), 1);
    T_EQI(warnings, 0);
    T_OK(save(run, 3, 5));
    ck_assert_str_eq(listing(run), "step-00000001 step-00000003 ");
    T_OK(ts_checkpoint_begin(run, 4, &dir));
    T_OK(ts_file_replace(t_text("%s/x", dir), "x", 1));
    free(dir);
    T_OK(ts_checkpoint_begin(run, 4, &dir));
    T_TRUE(!ts_path_exists(t_text("%s/x", dir)));
    T_OK(ts_checkpoint_commit(run, 4, dir, 5)); /* no file at all is fine */
    T_OK(ts_checkpoint_verify(IN("run/step-00000004")));
}

T_TEST(refused)
{
    (void)be, (void)s;
    char *run = IN("run"), *dir;
    T_STATUS(TS_E_ARG, ts_checkpoint_begin(run, -1, &dir));
    T_TRUE(!dir);
    T_OK(ts_checkpoint_begin(run, 1, &dir));
    T_STATUS(TS_E_ARG, ts_checkpoint_commit(run, 1, dir, 0));
    T_OK(ts_checkpoint_begin(run, 1, &dir));
    T_OK(ts_dir_make(t_text("%s/sub", dir)));
    T_STATUS(TS_E_NOINPUT, ts_checkpoint_commit(run, 1, dir, 1));
    T_TRUE(strstr(ts_error(), "sub"));
    ck_assert_int_eq(newest(run), -1);
    T_OK(ts_file_replace(IN("file"), "x", 1));
    T_STATUS(TS_E_IO, ts_checkpoint_begin(IN("file"), 1, &dir));
    T_STATUS(TS_E_DATA, ts_checkpoint_verify(IN("none")));
}

static void flip(const char *path, size_t bit)
{
    FILE *f = fopen(path, "r+b");
    ck_assert_ptr_nonnull(f);
    fseek(f, (long)(bit / 8), SEEK_SET);
    int byte = fgetc(f) ^ 1 << bit % 8;
    fseek(f, (long)(bit / 8), SEEK_SET);
    fputc(byte, f);
    ck_assert_int_eq(fclose(f), 0);
}

/* A flipped bit is found, and the checkpoint before is taken. Every bit of the manifest, 200 of each file. */
T_TEST(damage_is_found)
{
    (void)be, (void)s;
    char *run = IN("run"), *last = IN("run/step-00000002");
    T_OK(save(run, 1, 5));
    T_OK(save(run, 2, 5));
    uint64_t seed = 9;
    for (int file = 0; file <= FILES; file++) {
        char *path = t_text("%s/%s", last, file < FILES ? NAMES[file] : "manifest.json");
        struct stat st;
        T_EQI(stat(path, &st), 0);
        uint64_t bits = 8 * (uint64_t)st.st_size;
        for (uint64_t i = 0; i < (file < FILES ? 200 : bits); i++) {
            size_t bit = (size_t)(file < FILES ? t_next(&seed) % bits : i);
            flip(path, bit);
            int64_t step;
            char *dir;
            warnings = 0;
            T_OK(ts_checkpoint_newest(run, &step, &dir, warn));
            ck_assert_msg(step == 1 && warnings == 1 && strstr(warned, last), "bit %zu of %s: not found", bit, path);
            free(dir);
            flip(path, bit);
        }
    }
    ck_assert_int_eq(newest(run), 2);
    T_EQI(truncate(IN("run/step-00000002/model.safetensors"), BYTES - 1), 0);
    T_STATUS(TS_E_DATA, ts_checkpoint_verify(last));
    T_EQI(unlink(IN("run/step-00000002/model.safetensors")), 0);
    T_STATUS(TS_E_DATA, ts_checkpoint_verify(last));
    ck_assert_int_eq(newest(run), 1);
    T_EQI(unlink(IN("run/step-00000001/manifest.json")), 0);
    ck_assert_int_eq(newest(run), -1);
    T_EQI(warnings, 2);
    T_OK(save(run, 2, 5));
    ck_assert_int_eq(newest(run), 2);
}

T_TEST(bad_manifests)
{
    (void)be, (void)s;
    static const char *const text[] = {
        "",
        "[]",
        "{}",
        "{\"files\":[]}",
        "{\"files\":{\"a\":1}}",
        "{\"files\":{\"a\":{\"bytes\":1}}}",
        "{\"files\":{\"a\":{\"xxh3\":\"2d06800538d394c2\"}}}",
        "{\"files\":{\"none\":{\"bytes\":0,\"xxh3\":\"2d06800538d394c2\"}}}",
        "{\"files\":{\"../x/a\":{\"bytes\":0,\"xxh3\":\"2d06800538d394c2\"}}}",
        "{\"files\":{\"a\":{\"bytes\":0,\"xxh3\":\"2D06800538D394C2\"}}}",
        "{\"files\":{\"a\":{},\"a\":{\"bytes\":0,\"xxh3\":\"2d06800538d394c2\"}}}",
    };
    T_OK(ts_dir_make(IN("x")));
    T_OK(ts_file_replace(IN("x/a"), "", 0));
    for (size_t i = 0; i < sizeof text / sizeof text[0]; i++) {
        T_OK(ts_file_replace(IN("x/manifest.json"), text[i], strlen(text[i])));
        ck_assert_msg(ts_checkpoint_verify(IN("x")) == TS_E_DATA, "accepted: %s", text[i]);
        T_TRUE(strstr(ts_error(), t_folder()));
    }
    const char *good = "{\"files\":{\"a\":{\"bytes\":0,\"xxh3\":\"2d06800538d394c2\"}}}";
    T_OK(ts_file_replace(IN("x/manifest.json"), good, strlen(good)));
    T_OK(ts_checkpoint_verify(IN("x")));
}

static void prepare(const char *run)
{
    T_OK(ts_dir_remove(run));
    T_OK(save(run, 10, 9));
    T_OK(save(run, 20, 9));
    T_OK(save_version(run, 30, 9, 1));
    T_EQI(truncate(t_text("%s/step-00000030/model.safetensors", run), 3), 0); /* a damaged one where the next will go */
}

/* Saving step 30 over a damaged one with pruning of 10: 20 or 30 is there whatever happens. */
T_TEST(killed_at_every_call)
{
    (void)be, (void)s;
    char *run = IN("run");
    int killed = 0, was_old = 0, was_new = 0;
    for (long k = 1;; k++) {
        prepare(run);
        pid_t child = fork();
        if (child == 0) {
            faults_arm(NULL, k, FAULT_KILL);
            _exit(save(run, 30, 2) == TS_OK ? 0 : 1);
        }
        int status;
        waitpid(child, &status, 0);
        int64_t found = newest(run);
        T_TRUE(found == 20 || found == 30);
        T_EQI(warnings, found == 20);
        was_old += found == 20, was_new += found == 30;
        T_OK(ts_checkpoint_prune(run, found, 2)); /* the run is started again */
        ck_assert_str_eq(listing(run), found == 20 ? "step-00000010 step-00000020 step-00000030 "
                                                   : "step-00000020 step-00000030 ");
        T_OK(save(run, 40, 2));
        ck_assert_str_eq(listing(run), "step-00000030 step-00000040 ");
        if (!WIFSIGNALED(status)) {
            T_EQI(WEXITSTATUS(status), 0);
            break;
        }
        killed++;
    }
    T_TRUE(killed > 50 && was_old > 40 && was_new > 10);
}

T_TEST(every_call_fails)
{
    (void)be, (void)s;
    char *run = IN("run");
    int failed = 0;
    for (long k = 1;; k++) {
        prepare(run);
        faults_arm("owsrum", k, ENOSPC); /* x, the exchange, has a second way: see `replaced` */
        ts_status st = save(run, 30, 2);
        int reached = faults_disarm();
        if (st != TS_OK) T_TRUE(st == TS_E_IO && strstr(ts_error(), run) && strstr(ts_error(), strerror(ENOSPC)));
        failed += st != TS_OK;
        int64_t found = newest(run);
        T_TRUE(st == TS_OK ? found == 30 : found == 20 || found == 30);
        T_OK(save(run, 30, 2));
        ck_assert_str_eq(listing(run), "step-00000020 step-00000030 ");
        if (!reached) break;
    }
    ck_assert_int_gt(failed, 40);
}

/* All data is on the disk before the name is, and the name before anything older goes. */
T_TEST(order)
{
    (void)be, (void)s;
    char *run = IN("run"), *dir;
    T_OK(save(run, 1, 1));
    T_OK(ts_checkpoint_begin(run, 2, &dir));
    FILE *f = fopen(t_text("%s/a", dir), "wb"); /* not synced by whoever writes it */
    fputc('a', f);
    fclose(f);
    faults_arm("wsru", 0, 0);
    T_OK(ts_checkpoint_commit(run, 2, dir, 1));
    faults_disarm();
    /* file; manifest written, synced, renamed, folder synced; renamed, run synced; old one renamed, its 4 files and
     * folder */
    ck_assert_str_eq(faults.trace, "s"
                                   "wwwwwwsrs"
                                   "rs"
                                   "r"
                                   "uuuuu");
}

int main(void)
{
    Suite *u = t_suite("checkpoint");
    T_ADD1(u, save_and_find);
    T_ADD1(u, pruning);
    T_ADD1(u, replaced);
    T_ADD1(u, leftovers);
    T_ADD1(u, refused);
    T_ADD1(u, damage_is_found);
    T_ADD1(u, bad_manifests);
    T_ADD1(u, killed_at_every_call);
    T_ADD1(u, every_call_fails);
    T_ADD1(u, order);
    return t_run(u);
}
