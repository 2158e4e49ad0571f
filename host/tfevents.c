/* tfevents.c - TensorBoard event files. Contract and format: host/tfevents.h. */
#include "host/tfevents.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "host/file.h"
#include "host/record_file.h"

#define PREFIX "events.out.tfevents."

enum { HEAD = 12, TAIL = 4 }; /* bytes of a record before and behind the event */

/* --- CRC-32C --- */

typedef struct {
    uint32_t of[256];
} crc_table;

static void crc_init(crc_table *t)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0); /* Castagnoli, reflected */
        t->of[i] = c;
    }
}

static uint32_t crc_masked(const crc_table *t, const uint8_t *p, size_t n)
{
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++) c = t->of[(c ^ p[i]) & 255] ^ c >> 8;
    c = ~c;
    return (c >> 15 | c << 17) + 0xa282ead8u;
}

/* --- writing protobuf --- */

typedef struct {
    uint8_t *p;
    size_t n, room;
    int failed; /* out of memory; then nothing more is added */
} buffer;

static void add_bytes(buffer *b, const void *p, size_t n)
{
    if (b->n + n > b->room && !b->failed) {
        size_t room = 2 * (b->n + n) + 64;
        uint8_t *more = realloc(b->p, room);
        if (more)
            b->p = more, b->room = room;
        else
            b->failed = 1;
    }
    if (b->failed || n == 0) return;
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

/* The low n bytes of v, least significant first. */
static void add_little(buffer *b, uint64_t v, int n)
{
    uint8_t bytes[8];
    for (int i = 0; i < n; i++) bytes[i] = (uint8_t)(v >> 8 * i);
    add_bytes(b, bytes, (size_t)n);
}

static void add_varint(buffer *b, uint64_t v)
{
    for (; v >= 128; v >>= 7) add_little(b, (v & 127) | 128, 1);
    add_little(b, v, 1);
}

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 }; /* protobuf's wire types */

static void add_key(buffer *b, unsigned field, unsigned wire)
{
    add_varint(b, field << 3 | wire);
}

static void add_int(buffer *b, unsigned field, int64_t v)
{
    add_key(b, field, VARINT);
    add_varint(b, (uint64_t)v);
}

static void add_double(buffer *b, unsigned field, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    add_key(b, field, FIXED64);
    add_little(b, bits, 8);
}

static void add_float(buffer *b, unsigned field, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    add_key(b, field, FIXED32);
    add_little(b, bits, 4);
}

static void add_blob(buffer *b, unsigned field, const void *p, size_t n)
{
    add_key(b, field, BYTES);
    add_varint(b, n);
    add_bytes(b, p, n);
}

static void add_text(buffer *b, unsigned field, const char *text)
{
    add_blob(b, field, text, strlen(text));
}

/* A message inside a message. Frees the inner one. */
static void add_message(buffer *b, unsigned field, buffer *inner)
{
    add_blob(b, field, inner->p, inner->n);
    b->failed |= inner->failed;
    free(inner->p);
}

/* --- reading, as far as it takes to find a record's step --- */

static int get_varint(const uint8_t **p, const uint8_t *end, uint64_t *v)
{
    *v = 0;
    for (int shift = 0; shift < 64 && *p < end; shift += 7) {
        uint8_t byte = *(*p)++;
        *v |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return 1;
    }
    return 0;
}

/* The step of an encoded Event (0 if it names none). Returns 0 if the bytes are no protobuf message. */
static int event_step(const uint8_t *p, size_t n, int64_t *step)
{
    const uint8_t *end = p + n;
    *step = 0;
    while (p < end) {
        uint64_t key, v, skip = 0;
        if (!get_varint(&p, end, &key)) return 0;
        switch (key & 7) {
        case VARINT:
            if (!get_varint(&p, end, &v)) return 0;
            if (key >> 3 == 2) *step = (int64_t)v;
            break;
        case FIXED64:
            skip = 8;
            break;
        case FIXED32:
            skip = 4;
            break;
        case BYTES:
            if (!get_varint(&p, end, &skip)) return 0;
            break;
        default:
            return 0;
        }
        if (skip > (uint64_t)(end - p)) return 0;
        p += skip;
    }
    return 1;
}

static uint64_t little(const uint8_t *p, int n)
{
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)p[i] << 8 * i;
    return v;
}

/* The next record of f, of which `left` bytes remain: its whole length and step. 0 at the end and where it is damaged.
 */
static int64_t next_record(FILE *f, const crc_table *crc, int64_t left, int64_t *step)
{
    uint8_t head[HEAD];
    if (left < HEAD + TAIL || fread(head, 1, HEAD, f) != HEAD) return 0;
    uint64_t n = little(head, 8);
    if (little(head + 8, 4) != crc_masked(crc, head, 8) || n > (uint64_t)left - HEAD - TAIL) return 0;

    uint8_t *event = malloc(n + TAIL);
    int good = event && fread(event, 1, n + TAIL, f) == n + TAIL &&
               little(event + n, TAIL) == crc_masked(crc, event, n) && event_step(event, n, step);
    free(event);
    return good ? (int64_t)n + HEAD + TAIL : 0;
}

/* Cut one event file behind its last record of a step <= `step`. Steps ascend within a file. */
static ts_status cut_file(const char *path, const crc_table *crc, int64_t step)
{
    FILE *f = fopen(path, "rb");
    struct stat now;
    if (!f || fstat(fileno(f), &now) != 0) {
        if (f) fclose(f);
        return ts_fail(TS_E_IO, "%s: cannot read: %s", path, strerror(errno));
    }
    int64_t keep = 0, records = 0, n, at;
    while ((n = next_record(f, crc, now.st_size - keep, &at)) > 0 && at <= step) keep += n, records++;
    fclose(f);
    /* The first record is only the version. */
    int bad = records <= 1 ? unlink(path) : keep < now.st_size ? truncate(path, keep) : 0;
    return bad ? ts_fail(TS_E_IO, "%s: cannot shorten: %s", path, strerror(errno)) : TS_OK;
}

/* Cut every event file of the folder. *newest: the largest time in a name, 0 if there is no file. */
static ts_status cut_folder(const char *run, const crc_table *crc, int64_t step, int64_t *newest)
{
    *newest = 0;
    DIR *d = opendir(run);
    if (!d) return ts_fail(TS_E_IO, "%s: cannot list: %s", run, strerror(errno));
    ts_status st = TS_OK;
    for (struct dirent *e; st == TS_OK && (e = readdir(d));) {
        if (strncmp(e->d_name, PREFIX, strlen(PREFIX)) != 0) continue;
        int64_t time_in_name = strtoll(e->d_name + strlen(PREFIX), NULL, 10);
        if (time_in_name > *newest) *newest = time_in_name;
        char *path = ts_format("%s/%s", run, e->d_name);
        st = path ? cut_file(path, crc, step) : ts_fail(TS_E_NOMEM, "%s: out of memory", run);
        free(path);
    }
    closedir(d);
    return st;
}

/* --- the writer --- */

struct ts_tfevents {
    ts_record_file file;
    crc_table crc;
};

/* Frame the event and append it. Frees the event. */
static ts_status append_event(ts_tfevents *t, buffer *event)
{
    buffer record = { 0 };
    add_little(&record, event->n, 8);
    add_little(&record, record.failed ? 0 : crc_masked(&t->crc, record.p, 8), 4);
    add_bytes(&record, event->p, event->n);
    add_little(&record, event->failed ? 0 : crc_masked(&t->crc, event->p, event->n), 4);

    ts_status st = event->failed || record.failed ? ts_fail(TS_E_NOMEM, "%s: out of memory", t->file.path)
                                                  : ts_record_append(&t->file, record.p, record.n);
    free(event->p);
    free(record.p);
    return st;
}

static buffer new_event(int64_t step)
{
    buffer event = { 0 };
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    add_double(&event, 1, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    if (step != 0) add_int(&event, 2, step);
    return event;
}

static ts_status append_version(ts_tfevents *t)
{
    buffer event = new_event(0);
    add_text(&event, 3, "brain.Event:2");
    return append_event(t, &event);
}

/* A session that starts at a step makes TensorBoard drop what it has read of that step and later ones. */
static ts_status append_session_start(ts_tfevents *t, int64_t step)
{
    buffer event = new_event(step), session = { 0 };
    add_int(&session, 1, 1);
    add_message(&event, 7, &session);
    return append_event(t, &event);
}

ts_status ts_tfevents_open(ts_tfevents **out, const char *run, int64_t step)
{
    *out = NULL;
    ts_tfevents *t = calloc(1, sizeof *t);
    if (!t) return ts_fail(TS_E_NOMEM, "%s: out of memory", run);
    crc_init(&t->crc);
    int64_t newest;
    ts_status st = cut_folder(run, &t->crc, step, &newest);
    int64_t now = (int64_t)time(NULL);
    char host[64] = "localhost";
    gethostname(host, sizeof host - 1);
    /* TensorBoard reads the files in the order of their names. */
    char *path =
        ts_format("%s/" PREFIX "%010" PRId64 ".%s.%ld.0", run, now > newest ? now : newest + 1, host, (long)getpid());
    if (st == TS_OK && !path) st = ts_fail(TS_E_NOMEM, "%s: out of memory", run);
    if (st == TS_OK) st = ts_record_open(&t->file, path, 0);
    free(path);
    if (st != TS_OK) {
        free(t);
        return st;
    }
    st = append_version(t);
    if (st == TS_OK && newest > 0) st = append_session_start(t, step + 1);
    if (st != TS_OK) {
        ts_record_close(&t->file);
        free(t);
        return st;
    }
    *out = t;
    return TS_OK;
}

ts_status ts_tfevents_scalars(ts_tfevents *t, int64_t step, int n, const char *const *tags, const double *values)
{
    buffer event = new_event(step), summary = { 0 };
    for (int i = 0; i < n; i++) {
        buffer value = { 0 };
        add_text(&value, 1, tags[i]);
        add_float(&value, 2, (float)values[i]);
        add_message(&summary, 1, &value);
    }
    add_message(&event, 5, &summary);
    return append_event(t, &event);
}

ts_status ts_tfevents_image(ts_tfevents *t, int64_t step, const char *tag, const void *png, size_t bytes, int width,
                            int height)
{
    buffer event = new_event(step), summary = { 0 }, value = { 0 }, image = { 0 };
    add_int(&image, 1, height);
    add_int(&image, 2, width);
    add_int(&image, 3, 3); /* RGB */
    add_blob(&image, 4, png, bytes);
    add_text(&value, 1, tag);
    add_message(&value, 4, &image);
    add_message(&summary, 1, &value);
    add_message(&event, 5, &summary);
    return append_event(t, &event);
}

ts_status ts_tfevents_sync(ts_tfevents *t)
{
    return ts_record_sync(&t->file);
}

ts_status ts_tfevents_close(ts_tfevents *t)
{
    if (!t) return TS_OK;
    ts_status st = ts_record_close(&t->file);
    free(t);
    return st;
}
