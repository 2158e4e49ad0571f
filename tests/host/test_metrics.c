/* test_metrics.c - metrics.jsonl and TensorBoard events: what is written, and what is left of it when a run is resumed.
 *
 * The event files are read back by a decoder of this file's own: records with both checksums (bitwise CRC-32C), then
 * the protobuf fields, each into one line of text.
 */
#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "host/log.h"
#include "tests/t.h"

/* --- files of a test --- */

static char run[256];

static void make_run(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(run, sizeof run, "%s/tessera-test-XXXXXX", tmp ? tmp : P_tmpdir);
    ck_assert_ptr_nonnull(mkdtemp(run));
}

static char *in_run(const char *name)
{
    size_t room = strlen(run) + strlen(name) + 2;
    char *path = t_alloc(room);
    snprintf(path, room, "%s/%s", run, name);
    return path;
}

static char *read_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "%s: cannot open", path);
    struct stat st;
    fstat(fileno(f), &st);
    char *text = t_alloc((size_t)st.st_size + 1);
    ck_assert_uint_eq(fread(text, 1, (size_t)st.st_size, f), (size_t)st.st_size);
    fclose(f);
    if (size) *size = (size_t)st.st_size;
    return text;
}

static void append_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "ab");
    ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

/* Names of the event files in byte order. */
static int event_files(char names[8][256])
{
    int n = 0;
    DIR *d = opendir(run);
    for (struct dirent *e; (e = readdir(d));) {
        if (!strstr(e->d_name, "tfevents")) continue;
        ck_assert_int_lt(n, 8);
        snprintf(names[n++], 256, "%s", e->d_name);
    }
    closedir(d);
    qsort(names, (size_t)n, 256, (int (*)(const void *, const void *))strcmp);
    return n;
}

static void remove_run(void)
{
    DIR *d = opendir(run);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] != '.') remove(in_run(e->d_name));
    }
    closedir(d);
    ck_assert_int_eq(rmdir(run), 0);
}

/* --- the decoder --- */

static uint32_t masked_crc(const unsigned char *p, size_t n)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++) crc = (crc & 1) ? (crc >> 1) ^ 0x82F63B78u : crc >> 1;
    }
    crc ^= ~0u;
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

typedef struct {
    const unsigned char *p, *end;
} span;

static uint64_t varint(span *s)
{
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
        ck_assert_msg(s->p < s->end && shift < 70, "varint runs out");
        v |= (uint64_t)(*s->p & 0x7f) << shift;
        if (!(*s->p++ & 0x80)) return v;
    }
}

static span take(span *s, uint64_t n)
{
    ck_assert_msg(n <= (uint64_t)(s->end - s->p), "field runs out");
    span inner = { s->p, s->p + n };
    s->p += n;
    return inner;
}

static void image_text(FILE *f, span s)
{
    while (s.p < s.end) {
        uint64_t key = varint(&s);
        if (key == (4 << 3 | 2)) {
            span png = take(&s, varint(&s));
            uint32_t sum = masked_crc(png.p, (size_t)(png.end - png.p));
            fprintf(f, " png=%zu:%08x", (size_t)(png.end - png.p), sum);
        } else {
            fprintf(f, " %c=%llu",
                    key == 1 << 3   ? 'h'
                    : key == 2 << 3 ? 'w'
                    : key == 3 << 3 ? 'c'
                                    : '?',
                    (unsigned long long)varint(&s));
        }
    }
}

static void value_text(FILE *f, span s)
{
    while (s.p < s.end) {
        uint64_t key = varint(&s);
        float v;
        if (key == (1 << 3 | 2)) {
            span tag = take(&s, varint(&s));
            fprintf(f, " %.*s", (int)(tag.end - tag.p), (const char *)tag.p);
        } else if (key == (2 << 3 | 5)) {
            memcpy(&v, take(&s, 4).p, 4);
            fprintf(f, "=%.6g", v);
        } else if (key == (4 << 3 | 2)) {
            image_text(f, take(&s, varint(&s)));
        } else {
            ck_abort_msg("unknown field %llu of a value", (unsigned long long)key);
        }
    }
}

/* "STEP tag=value tag=value", "0 version brain.Event:2", "STEP start" */
static void event_text(FILE *f, span s)
{
    char *rest = NULL;
    size_t size = 0;
    FILE *body = open_memstream(&rest, &size);
    long long step = 0;
    double wall = 0;
    while (s.p < s.end) {
        uint64_t key = varint(&s);
        if (key == (1 << 3 | 1))
            memcpy(&wall, take(&s, 8).p, 8);
        else if (key == 2 << 3)
            step = (long long)varint(&s);
        else if (key == (3 << 3 | 2)) {
            span version = take(&s, varint(&s));
            fprintf(body, " version %.*s", (int)(version.end - version.p), (const char *)version.p);
        } else if (key == (5 << 3 | 2)) {
            span summary = take(&s, varint(&s));
            while (summary.p < summary.end) {
                ck_assert_uint_eq(varint(&summary), 1 << 3 | 2);
                value_text(body, take(&summary, varint(&summary)));
            }
        } else if (key == (7 << 3 | 2)) {
            span session = take(&s, varint(&s));
            ck_assert_uint_eq(varint(&session), 1 << 3);
            fprintf(body, varint(&session) == 1 ? " start" : " ?");
        } else
            ck_abort_msg("unknown field %llu of an event", (unsigned long long)key);
    }
    ck_assert_msg(fabs(wall - (double)time(NULL)) < 100, "wall time %f", wall);
    fclose(body);
    fprintf(f, "%lld%s\n", step, rest);
    free(rest);
}

/* All events of all event files, one a line, files in byte order. */
static char *events(void)
{
    char names[8][256], *text = t_alloc(1 << 16);
    FILE *f = fmemopen(text, 1 << 16, "w");
    int n = event_files(names);
    for (int i = 0; i < n; i++) {
        size_t size;
        const unsigned char *p = (unsigned char *)read_file(in_run(names[i]), &size), *end = p + size;
        while (p < end) {
            uint64_t length;
            uint32_t crc;
            ck_assert_msg(end - p >= 16, "%s ends inside a record", names[i]);
            memcpy(&length, p, 8);
            memcpy(&crc, p + 8, 4);
            ck_assert_uint_eq(crc, masked_crc(p, 8));
            ck_assert_uint_le(length, (uint64_t)(end - p) - 16);
            memcpy(&crc, p + 12 + length, 4);
            ck_assert_uint_eq(crc, masked_crc(p + 12, length));
            event_text(f, (span){ p + 12, p + 12 + length });
            p += length + 16;
        }
    }
    fclose(f);
    return text;
}

static void add(ts_metrics *m, int64_t step, double loss)
{
    const char *names[] = { "loss", "scale/3/perplexity" };
    T_OK(ts_metrics_add(m, step, 2, names, (double[]){ loss, 2 * loss }));
}

/* --- tests --- */

T_TEST(checksum_is_crc32c)
{
    (void)be, (void)s;
    /* RFC 3720, B.4: 32 bytes of zeros have the CRC-32C 8a9136aa. The decoder is judged before it judges. */
    static const unsigned char zeros[32];
    uint32_t crc = 0x8a9136aau;
    ck_assert_uint_eq(masked_crc(zeros, 32), ((crc >> 15) | (crc << 17)) + 0xa282ead8u);
}

T_TEST(writes_both_files)
{
    (void)be, (void)s;
    make_run();
    ts_metrics *m;
    T_OK(ts_metrics_open(&m, run, -1));
    const char *names[] = {
        "z", "a", "quote\"back\\slash", "tab\there", "n\xc3\xa9", "nan", "inf", "-inf", "tiny", "third", "big", "zero"
    };
    const double v[] = { 1, -2.5, 3, 4, 5, NAN, INFINITY, -INFINITY, 1e-300, 1.0 / 3, 123456789012.0, -0.0 };
    T_OK(ts_metrics_add(m, 0, 12, names, v));
    T_OK(ts_metrics_add(m, 300, 0, NULL, NULL));
    T_OK(ts_metrics_add(m, (int64_t)1 << 40, 1, names, v));
    T_OK(ts_metrics_add(m, (int64_t)1 << 40, 1, names, v));
    T_OK(ts_metrics_close(m));

    ck_assert_str_eq(read_file(in_run("metrics.jsonl"), NULL),
                     "{\"step\": 0, \"z\": 1.0, \"a\": -2.5, \"quote\\\"back\\\\slash\": 3.0, \"tab\\there\": 4.0, "
                     "\"n\xc3\xa9\": 5.0, \"nan\": null, \"inf\": null, \"-inf\": null, \"tiny\": 1e-300, "
                     "\"third\": 0.333333333, \"big\": 1.23456789e11, \"zero\": -0.0}\n"
                     "{\"step\": 300}\n"
                     "{\"step\": 1099511627776, \"z\": 1.0}\n"
                     "{\"step\": 1099511627776, \"z\": 1.0}\n");
    ck_assert_str_eq(events(),
                     "0 version brain.Event:2\n"
                     "0 z=1 a=-2.5 quote\"back\\slash=3 tab\there=4 n\xc3\xa9=5 nan=nan inf=inf -inf=-inf tiny=0 "
                     "third=0.333333 big=1.23457e+11 zero=-0\n"
                     "300\n"
                     "1099511627776 z=1\n"
                     "1099511627776 z=1\n");
    for (char *line = strtok(read_file(in_run("metrics.jsonl"), NULL), "\n"); line; line = strtok(NULL, "\n")) {
        json_t *record = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        ck_assert_msg(record != NULL, "no JSON: %s", line);
        json_decref(record);
    }
    remove_run();
}

T_TEST(writes_pictures)
{
    (void)be, (void)s;
    make_run();
    ts_metrics *m;
    uint64_t seed = 1;
    unsigned char *png = t_alloc(40000);
    for (int i = 0; i < 40000; i++) png[i] = (unsigned char)t_next(&seed);
    T_OK(ts_metrics_open(&m, run, -1));
    T_OK(ts_metrics_image(m, 5, "samples", png, 40000, 640, 3));
    T_OK(ts_metrics_image(m, 6, "empty", png, 0, 1, 1));
    T_OK(ts_metrics_sync(m));
    T_OK(ts_metrics_close(m));
    char want[256];
    snprintf(want, sizeof want,
             "0 version brain.Event:2\n5 samples h=3 w=640 c=3 png=40000:%08x\n6 empty h=1 w=1 c=3 png=0:%08x\n",
             masked_crc(png, 40000), masked_crc(png, 0));
    ck_assert_str_eq(events(), want);
    remove_run();
}

/* A run that writes steps 10, 20, ... is resumed at every step there is, with every kind of torn end. */
T_TEST(resumed_run_equals_one_that_went_through)
{
    (void)be, (void)s;
    ts_metrics *m;
    make_run();
    T_OK(ts_metrics_open(&m, run, -1));
    for (int k = 1; k <= 6; k++) add(m, 10 * k, 1.0 / k);
    T_OK(ts_metrics_close(m));
    size_t whole_size;
    char *whole = read_file(in_run("metrics.jsonl"), &whole_size);
    remove_run();

    static const char *const torn[] = { "", "{", "{\"step\": 30, \"lo", "{\"step\": 30, \"loss\": 0.333333333, ",
                                        "garbage\n" };
    static const int kept_steps[] = { -1, 0, 9, 10, 11, 30, 40 };
    for (int t = 0; t < 5; t++) {
        for (int k = 0; k < 7; k++) {
            int step = kept_steps[k];
            make_run();
            T_OK(ts_metrics_open(&m, run, -1));
            for (int i = 1; i <= 4; i++) add(m, 10 * i, 1.0 / i);
            T_OK(ts_metrics_close(m));
            append_file(in_run("metrics.jsonl"), torn[t], strlen(torn[t]));
            T_OK(ts_metrics_open(&m, run, step));
            for (int i = 1; i <= 6; i++) {
                if (10 * i > step) add(m, 10 * i, 1.0 / i);
            }
            T_OK(ts_metrics_close(m));
            size_t size;
            char *text = read_file(in_run("metrics.jsonl"), &size);
            ck_assert_msg(size == whole_size && memcmp(text, whole, size) == 0, "torn by '%s', resumed at %d:\n%s",
                          torn[t], step, text);
            remove_run();
        }
    }
}

T_TEST(resumed_events_have_each_step_once)
{
    (void)be, (void)s;
    ts_metrics *m;
    make_run();
    T_OK(ts_metrics_open(&m, run, -1));
    for (int i = 1; i <= 4; i++) add(m, 10 * i, i);
    T_OK(ts_metrics_close(m));
    char names[8][256];
    T_EQI(event_files(names), 1);
    append_file(in_run(names[0]), "\x20\0\0\0\0\0\0\0torn", 12); /* the beginning of a record */

    T_OK(ts_metrics_open(&m, run, 20));
    add(m, 30, 33);
    add(m, 40, 44);
    T_OK(ts_metrics_close(m));
    ck_assert_str_eq(events(), "0 version brain.Event:2\n"
                               "10 loss=1 scale/3/perplexity=2\n"
                               "20 loss=2 scale/3/perplexity=4\n"
                               "0 version brain.Event:2\n"
                               "21 start\n"
                               "30 loss=33 scale/3/perplexity=66\n"
                               "40 loss=44 scale/3/perplexity=88\n");

    T_OK(ts_metrics_open(&m, run, 10)); /* back before the second file: it goes */
    add(m, 20, 22);
    T_OK(ts_metrics_close(m));
    ck_assert_str_eq(events(), "0 version brain.Event:2\n"
                               "10 loss=1 scale/3/perplexity=2\n"
                               "0 version brain.Event:2\n"
                               "11 start\n"
                               "20 loss=22 scale/3/perplexity=44\n");

    T_OK(ts_metrics_open(&m, run, -1)); /* from the beginning */
    T_OK(ts_metrics_close(m));
    ck_assert_str_eq(events(), "0 version brain.Event:2\n0 start\n");
    remove_run();
}

/* One flipped bit anywhere in a record: it and what follows it go, what is before it stays. */
T_TEST(damaged_events_are_cut_off)
{
    (void)be, (void)s;
    ts_metrics *m;
    for (int at = 0; at < 69; at += 2) {
        make_run();
        T_OK(ts_metrics_open(&m, run, -1));
        add(m, 1, 1);
        char names[8][256];
        T_EQI(event_files(names), 1);
        size_t size, after;
        char *path = in_run(names[0]);
        read_file(path, &size);
        add(m, 2, 2);
        add(m, 3, 3);
        T_OK(ts_metrics_close(m));
        char *bytes = read_file(path, &after);
        ck_assert_uint_eq(after - size, 2 * 69); /* two records */
        bytes[size + (size_t)at] ^= 0x10;
        remove(path);
        append_file(path, bytes, after);
        T_OK(ts_metrics_open(&m, run, 100));
        T_OK(ts_metrics_close(m));
        ck_assert_str_eq(
            events(), "0 version brain.Event:2\n1 loss=1 scale/3/perplexity=2\n0 version brain.Event:2\n101 start\n");
        remove_run();
    }
}

T_TEST(whole_last_line_without_newline_is_kept)
{
    (void)be, (void)s;
    ts_metrics *m;
    make_run();
    append_file(in_run("metrics.jsonl"), "{\"step\": 1}\n{\"step\": 2, \"loss\": 5}", 34);
    T_OK(ts_metrics_open(&m, run, 2));
    T_OK(ts_metrics_add(m, 3, 0, NULL, NULL));
    T_OK(ts_metrics_close(m));
    ck_assert_str_eq(read_file(in_run("metrics.jsonl"), NULL),
                     "{\"step\": 1}\n{\"step\": 2, \"loss\": 5}\n{\"step\": 3}\n");
    remove_run();
}

static void expect_error(ts_status want, ts_status st, const char *text)
{
    ck_assert_msg(st == want, "status %d, expected %d: %s", st, want, ts_error());
    ck_assert_msg(strstr(ts_error(), text) != NULL, "'%s' does not contain '%s'", ts_error(), text);
}

T_TEST(refuses)
{
    (void)be, (void)s;
    ts_metrics *m;
    make_run();
    static const char *const damaged[] = { "{\"step\": 1}\nno json\n{\"step\": 2}\n",
                                           "{\"step\": 1}\n{\"loss\": 1}\n{\"step\": 2}\n",
                                           "{\"step\": 1}\n{\"step\": 1.5}\n{\"step\": 2}\n",
                                           "{\"step\": 1}\n\n{\"step\": 2}\n", "{\"step\": 1}\nno\nnor this" };
    for (int i = 0; i < 5; i++) {
        append_file(in_run("metrics.jsonl"), damaged[i], strlen(damaged[i]));
        expect_error(TS_E_DATA, ts_metrics_open(&m, run, 5), "metrics.jsonl: line 2 is not a record with a step");
        ck_assert_ptr_null(m);
        ck_assert_str_eq(read_file(in_run("metrics.jsonl"), NULL), damaged[i]);
        remove(in_run("metrics.jsonl"));
    }
    expect_error(TS_E_IO, ts_metrics_open(&m, in_run("absent"), 5),
                 "absent/metrics.jsonl: cannot open for writing: No such file");

    T_OK(ts_metrics_open(&m, run, -1));
    const char *step = "step", *binary = "\xff";
    const double one = 1;
    T_OK(ts_metrics_add(m, 7, 0, NULL, NULL));
    expect_error(TS_E_ARG, ts_metrics_add(m, 6, 0, NULL, NULL), "step 6 after step 7");
    expect_error(TS_E_ARG, ts_metrics_image(m, 6, "x", "", 0, 1, 1), "step 6 after step 7");
    expect_error(TS_E_ARG, ts_metrics_add(m, 8, 1, &step, &one), "cannot be called step");
    expect_error(TS_E_ARG, ts_metrics_add(m, 8, 1, &binary, &one), "a name is not UTF-8");
    T_OK(ts_metrics_close(m));
    T_OK(ts_metrics_open(&m, run, 100));
    expect_error(TS_E_ARG, ts_metrics_add(m, 6, 0, NULL, NULL), "step 6 after step 7");
    T_OK(ts_metrics_close(m));
    T_OK(ts_metrics_close(NULL));
    ck_assert_str_eq(read_file(in_run("metrics.jsonl"), NULL), "{\"step\": 7}\n");
    remove_run();
}

/* A file-size limit stands for a full disk: the record that does not fit leaves nothing behind. */
T_TEST(full_disk_leaves_whole_records)
{
    (void)be, (void)s;
    ts_metrics *m;
    make_run();
    ts_signals_install(); /* ignores SIGXFSZ */
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 30;
    T_OK(ts_metrics_open(&m, run, -1));
    T_OK(ts_metrics_close(m));
    T_OK(ts_metrics_open(&m, run, -1));
    setrlimit(RLIMIT_FSIZE, &limit);
    ts_status first = ts_metrics_add(m, 1, 0, NULL, NULL);
    const char *name = "loss";
    const double v = 0.5;
    ts_status second = ts_metrics_add(m, 2, 1, &name, &v);
    limit.rlim_cur = before;
    setrlimit(RLIMIT_FSIZE, &limit);
    T_EQI(second, TS_E_IO);
    ck_assert_ptr_nonnull(strstr(ts_error(), "only 18 of 25 bytes fitted"));
    T_EQI(first, TS_E_IO); /* the event file is over the limit already; the line was written */
    T_OK(ts_metrics_add(m, 3, 0, NULL, NULL));
    T_OK(ts_metrics_close(m));
    ck_assert_str_eq(read_file(in_run("metrics.jsonl"), NULL), "{\"step\": 1}\n{\"step\": 3}\n");
    remove_run();
}

int main(void)
{
    Suite *u = t_suite("host_metrics");
    T_ADD1(u, checksum_is_crc32c);
    T_ADD1(u, writes_both_files);
    T_ADD1(u, writes_pictures);
    T_ADD1(u, resumed_run_equals_one_that_went_through);
    T_ADD1(u, resumed_events_have_each_step_once);
    T_ADD1(u, damaged_events_are_cut_off);
    T_ADD1(u, whole_last_line_without_newline_is_kept);
    T_ADD1(u, refuses);
    T_ADD1(u, full_disk_leaves_whole_records);
    return t_run(u);
}
