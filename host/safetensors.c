/* safetensors.c - reader and writer of the safetensors format. Contract: safetensors.h. */
#include "host/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/file.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors files are little-endian and are used without conversion"
#endif

enum {
    PREFIX = 8,                /* the header's length                                        */
    HEADER_READ = 100000000,   /* the format's limit                                         */
    HEADER_WRITTEN = 25000000, /* the Hugging Face hub does not look at files with more      */
    FIELDS = 3,                /* dtype, shape, data_offsets                                 */
    NAME_SHOWN = 80            /* a name may have megabytes; a message shows its beginning   */
};

static const struct {
    const char *name;
    size_t size;
} DTYPES[] = {
    [TS_ST_BOOL] = { "BOOL", 1 }, [TS_ST_U8] = { "U8", 1 },   [TS_ST_I8] = { "I8", 1 },     [TS_ST_I16] = { "I16", 2 },
    [TS_ST_U16] = { "U16", 2 },   [TS_ST_F16] = { "F16", 2 }, [TS_ST_BF16] = { "BF16", 2 }, [TS_ST_I32] = { "I32", 4 },
    [TS_ST_U32] = { "U32", 4 },   [TS_ST_F32] = { "F32", 4 }, [TS_ST_F64] = { "F64", 8 },   [TS_ST_I64] = { "I64", 8 },
    [TS_ST_U64] = { "U64", 8 },
};
enum { N_DTYPES = sizeof DTYPES / sizeof DTYPES[0] };

static const char METADATA[] = "__metadata__";

struct ts_st_file {
    char *path;
    const unsigned char *bytes;
    size_t n;
    int mapped;
    json_t *header;        /* owns the names and the metadata */
    ts_st_tensor *tensors; /* in the order of the data        */
    const ts_st_tensor **by_name;
    int count;
};

size_t ts_st_dtype_size(ts_st_dtype dtype)
{
    return DTYPES[dtype].size;
}

const char *ts_st_dtype_name(ts_st_dtype dtype)
{
    return DTYPES[dtype].name;
}

static ts_status no_memory(const char *path)
{
    return ts_fail(TS_E_NOMEM, "%s: out of memory", path);
}

/* Bytes of a tensor; 0 when the product does not fit. The order of the factors is the reference's: a zero in front of
 * large dimensions stops them from overflowing. */
static int tensor_bytes(const ts_st_tensor *t, uint64_t *bytes)
{
    uint64_t n = 1;
    for (int i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(n, (uint64_t)t->shape[i], &n)) return 0;
    return !__builtin_mul_overflow(n, DTYPES[t->dtype].size, bytes);
}

/* ---- reading ---- */

#define BAD(f, name, ...) bad_tensor(f, name, ts_format(__VA_ARGS__))

/* Fail with "FILE: tensor 'NAME' WHAT". Frees what. */
static ts_status bad_tensor(const ts_st_file *f, const char *name, char *what)
{
    ts_status status =
        what ? ts_fail(TS_E_DATA, "%s: tensor '%.*s' %s", f->path, NAME_SHOWN, name, what) : no_memory(f->path);
    free(what);
    return status;
}

static ts_status check_fields(const ts_st_file *f, const char *name, json_t *entry)
{
    static const char *const fields[FIELDS] = { "dtype", "shape", "data_offsets" };
    if (!json_is_object(entry)) return BAD(f, name, "is not a JSON object");
    for (int i = 0; i < FIELDS; i++)
        if (!json_object_get(entry, fields[i])) return BAD(f, name, "has no %s", fields[i]);
    const char *key;
    json_t *value;
    json_object_foreach(entry, key, value)
    {
        int known = 0;
        for (int i = 0; i < FIELDS; i++) known |= strcmp(key, fields[i]) == 0;
        if (!known)
            return BAD(f, name, "has a field '%.*s', expected dtype, shape and data_offsets alone", NAME_SHOWN, key);
    }
    return TS_OK;
}

static ts_status read_dtype(const ts_st_file *f, ts_st_tensor *t, const json_t *dtype)
{
    if (!json_is_string(dtype)) return BAD(f, t->name, "has a dtype that is not a string");
    for (int i = 0; i < N_DTYPES; i++) {
        if (strcmp(json_string_value(dtype), DTYPES[i].name) != 0) continue;
        t->dtype = (ts_st_dtype)i;
        return TS_OK;
    }
    return BAD(f, t->name, "has dtype '%.*s', expected one of BOOL U8 I8 I16 U16 F16 BF16 I32 U32 F32 F64 I64 U64",
               NAME_SHOWN, json_string_value(dtype));
}

static ts_status read_shape(const ts_st_file *f, ts_st_tensor *t, const json_t *shape)
{
    if (!json_is_array(shape)) return BAD(f, t->name, "has a shape that is not a list");
    size_t rank = json_array_size(shape);
    if (rank > TS_ST_MAX_RANK) return BAD(f, t->name, "has %zu dimensions, expected at most %d", rank, TS_ST_MAX_RANK);
    t->rank = (int)rank;
    for (int i = 0; i < t->rank; i++) {
        const json_t *extent = json_array_get(shape, (size_t)i);
        if (!json_is_integer(extent)) return BAD(f, t->name, "has dimension %d that is not an integer", i);
        t->shape[i] = json_integer_value(extent);
        if (t->shape[i] < 0)
            return BAD(f, t->name, "has dimension %d of %" PRId64 ", expected 0 or more", i, t->shape[i]);
    }
    return TS_OK;
}

static ts_status read_offsets(const ts_st_file *f, ts_st_tensor *t, const json_t *offsets, size_t start)
{
    if (!json_is_array(offsets) || json_array_size(offsets) != 2)
        return BAD(f, t->name, "has data_offsets that are not a list of two");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (!json_is_integer(first) || !json_is_integer(last))
        return BAD(f, t->name, "has data_offsets that are not integers");
    int64_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0) return BAD(f, t->name, "begins at %" PRId64 ", expected 0 or more", begin);
    if (begin > end) return BAD(f, t->name, "begins at %" PRId64 ", after its end at %" PRId64, begin, end);
    if ((uint64_t)end > f->n - start)
        return BAD(f, t->name, "ends at %" PRId64 ", the data has %zu bytes", end, f->n - start);
    t->data = f->bytes + start + begin;
    t->bytes = (uint64_t)(end - begin);
    return TS_OK;
}

static ts_status read_tensor(const ts_st_file *f, ts_st_tensor *t, const char *name, json_t *entry, size_t start)
{
    t->name = name;
    TS_TRY(check_fields(f, name, entry));
    TS_TRY(read_dtype(f, t, json_object_get(entry, "dtype")));
    TS_TRY(read_shape(f, t, json_object_get(entry, "shape")));
    TS_TRY(read_offsets(f, t, json_object_get(entry, "data_offsets"), start));
    uint64_t bytes;
    if (!tensor_bytes(t, &bytes)) return BAD(f, name, "has a shape whose size in bytes does not fit 64 bits");
    if (bytes != t->bytes)
        return BAD(f, name, "has %" PRIu64 " bytes of data, its shape and dtype need %" PRIu64, t->bytes, bytes);
    return TS_OK;
}

static ts_status check_metadata(const ts_st_file *f, json_t *metadata)
{
    if (!json_is_object(metadata)) return ts_fail(TS_E_DATA, "%s: %s is not a JSON object", f->path, METADATA);
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value))
            return ts_fail(TS_E_DATA, "%s: %s holds '%.*s' that is not a string", f->path, METADATA, NAME_SHOWN, key);
    }
    return TS_OK;
}

/* A checkpoint of PyTorch: a zip archive, or before version 1.6 a pickle. Such bytes can be the length of a header, too: then
 * the header follows them. */
static int is_pth(const ts_st_file *f)
{
    if (memcmp(f->bytes, "PK\3\4", 4) != 0 && memcmp(f->bytes, "\x80\2", 2) != 0) return 0;
    return f->n > PREFIX && !memchr("{ \t\r\n", f->bytes[PREFIX], 5);
}

static ts_status read_header(ts_st_file *f, size_t *start)
{
    uint64_t length;
    if (f->n < PREFIX) return ts_fail(TS_E_DATA, "%s: has %zu bytes, too few for a safetensors file", f->path, f->n);
    memcpy(&length, f->bytes, PREFIX);
    if (is_pth(f))
        return ts_fail(TS_E_DATA, "%s: is a zip archive or a pickle like PyTorch's .pth files, expected safetensors: convert it "
                                  "with tools/convert_var.py", f->path);
    if (length > HEADER_READ)
        return ts_fail(TS_E_DATA, "%s: is not a safetensors file: header of %" PRIu64 " bytes, expected at most %d",
                       f->path, length, HEADER_READ);
    if (length > f->n - PREFIX)
        return ts_fail(TS_E_DATA, "%s: header of %" PRIu64 " bytes ends after the file of %zu bytes", f->path, length,
                       f->n);
    *start = PREFIX + (size_t)length;
    json_error_t error;
    f->header = json_loadb((const char *)f->bytes + PREFIX, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!f->header) {
        enum json_error_code code = json_error_code(&error);
        if (code == json_error_out_of_memory) return no_memory(f->path);
        const char *what = code == json_error_duplicate_key      ? "holds a key twice"
                           : code == json_error_numeric_overflow ? "holds a number over 63 bits"
                                                                 : "is not JSON";
        return ts_fail(TS_E_DATA, "%s: header %s: %s, byte %d", f->path, what, error.text, error.position);
    }
    if (!json_is_object(f->header)) return ts_fail(TS_E_DATA, "%s: header is a JSON list, expected an object", f->path);
    return TS_OK;
}

/* By place, an empty tensor before the one that begins where it lies; names make the order unique. */
static int by_place(const void *a, const void *b)
{
    const ts_st_tensor *x = a, *y = b;
    if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b)
{
    const ts_st_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* The sorted tensors must cover the data exactly. */
static ts_status check_cover(const ts_st_file *f, size_t start)
{
    size_t end = 0, all = f->n - start;
    for (int i = 0; i < f->count; i++) {
        const ts_st_tensor *t = &f->tensors[i];
        size_t begin = (size_t)((const unsigned char *)t->data - f->bytes) - start;
        if (begin > end) return BAD(f, t->name, "begins at %zu, a hole behind the data that ends at %zu", begin, end);
        if (begin < end) return BAD(f, t->name, "begins at %zu, inside the data that ends at %zu", begin, end);
        end = begin + t->bytes;
    }
    if (end != all)
        return ts_fail(TS_E_DATA, "%s: the last tensor ends at %zu, the data at %zu: bytes of no tensor", f->path, end,
                       all);
    return TS_OK;
}

static ts_status read_all(ts_st_file *f)
{
    size_t start;
    TS_TRY(read_header(f, &start));
    size_t entries = json_object_size(f->header);
    f->tensors = calloc(entries + 1, sizeof *f->tensors);
    f->by_name = calloc(entries + 1, sizeof *f->by_name);
    if (!f->tensors || !f->by_name) return no_memory(f->path);
    const char *name;
    json_t *entry;
    json_object_foreach(f->header, name, entry)
    {
        if (strcmp(name, METADATA) == 0)
            TS_TRY(check_metadata(f, entry));
        else
            TS_TRY(read_tensor(f, &f->tensors[f->count++], name, entry, start));
    }
    qsort(f->tensors, (size_t)f->count, sizeof *f->tensors, by_place);
    for (int i = 0; i < f->count; i++) f->by_name[i] = &f->tensors[i];
    qsort(f->by_name, (size_t)f->count, sizeof *f->by_name, by_name);
    return check_cover(f, start);
}

/* Takes the mapping over in any case. */
static ts_status open_bytes(ts_st_file **file, const char *path, const void *bytes, size_t n, int mapped)
{
    *file = NULL;
    ts_st_file *f = calloc(1, sizeof *f);
    if (!f) {
        if (mapped) munmap((void *)bytes, n);
        return no_memory(path);
    }
    *f = (ts_st_file){ .path = strdup(path), .bytes = bytes, .n = n, .mapped = mapped };
    ts_status status = f->path ? read_all(f) : no_memory(path);
    if (status == TS_OK)
        *file = f;
    else
        ts_st_close(f);
    return status;
}

ts_status ts_st_open_memory(ts_st_file **f, const char *path, const void *bytes, size_t n)
{
    return open_bytes(f, path, bytes, n, 0);
}

ts_status ts_st_open(ts_st_file **f, const char *path)
{
    *f = NULL;
    int fd;
    uint64_t n;
    TS_TRY(ts_file_open(&fd, &n, path));
    if (n < PREFIX) {
        close(fd);
        return open_bytes(f, path, NULL, (size_t)n, 0); /* for its message; an empty file cannot be mapped */
    }
    void *map = mmap(NULL, (size_t)n, PROT_READ, MAP_PRIVATE, fd, 0);
    int error = errno;
    close(fd);
    if (map == MAP_FAILED) return ts_fail(TS_E_IO, "%s: cannot map: %s", path, strerror(error));
    return open_bytes(f, path, map, (size_t)n, 1);
}

void ts_st_close(ts_st_file *f)
{
    if (!f) return;
    if (f->mapped) munmap((void *)f->bytes, f->n);
    json_decref(f->header);
    free(f->tensors);
    free(f->by_name);
    free(f->path);
    free(f);
}

const char *ts_st_path(const ts_st_file *f)
{
    return f->path;
}

int ts_st_count(const ts_st_file *f)
{
    return f->count;
}

const ts_st_tensor *ts_st_at(const ts_st_file *f, int i)
{
    return &f->tensors[i];
}

const ts_st_tensor *ts_st_find(const ts_st_file *f, const char *name)
{
    ts_st_tensor key = { .name = name };
    const ts_st_tensor *const wanted = &key;
    const ts_st_tensor *const *found = bsearch(&wanted, f->by_name, (size_t)f->count, sizeof *f->by_name, by_name);
    return found ? *found : NULL;
}

const char *ts_st_metadata(const ts_st_file *f, const char *key)
{
    return json_string_value(json_object_get(json_object_get(f->header, METADATA), key));
}

static float half_to_float(uint16_t half)
{
    uint32_t magnitude = half & 0x7fffu;
    float tiny = (float)magnitude * 0x1p-24f; /* subnormal halves, exactly */
    uint32_t bits;
    memcpy(&bits, &tiny, 4);
    if (magnitude >= 0x400) bits = (magnitude << 13) + (112u << 23);
    if (magnitude >= 0x7c00) bits += 112u << 23;
    bits |= (uint32_t)(half & 0x8000u) << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* The source may lie at any address, hence memcpy. */
ts_status ts_st_to_f32(float *out, const ts_st_tensor *t)
{
    const unsigned char *in = t->data;
    size_t n = (size_t)t->bytes / DTYPES[t->dtype].size;
    switch (t->dtype) {
    case TS_ST_F32:
        if (n) memcpy(out, in, n * 4);
        return TS_OK;
    case TS_ST_F16:
        for (size_t i = 0; i < n; i++) {
            uint16_t half;
            memcpy(&half, in + 2 * i, 2);
            out[i] = half_to_float(half);
        }
        return TS_OK;
    case TS_ST_BF16:
        for (size_t i = 0; i < n; i++) {
            uint16_t high;
            memcpy(&high, in + 2 * i, 2);
            uint32_t bits = (uint32_t)high << 16;
            memcpy(&out[i], &bits, 4);
        }
        return TS_OK;
    case TS_ST_F64:
        for (size_t i = 0; i < n; i++) {
            double x;
            memcpy(&x, in + 8 * i, 8);
            out[i] = (float)x;
        }
        return TS_OK;
    default:
        return ts_fail(TS_E_DATA, "tensor '%.*s' has dtype %s, expected F32, F16, BF16 or F64", NAME_SHOWN, t->name,
                       DTYPES[t->dtype].name);
    }
}

/* ---- writing ---- */

static int by_size_then_name(const void *a, const void *b)
{
    const ts_st_tensor *const *x = a, *const *y = b;
    size_t m = DTYPES[(*x)->dtype].size, n = DTYPES[(*y)->dtype].size;
    if (m != n) return m > n ? -1 : 1;
    return strcmp((*x)->name, (*y)->name);
}

static ts_status check_written(const char *path, const ts_st_tensor *t)
{
    uint64_t bytes;
    int fits = t->rank >= 0 && t->rank <= TS_ST_MAX_RANK && (unsigned)t->dtype < N_DTYPES;
    for (int i = 0; fits && i < t->rank; i++) fits = t->shape[i] >= 0;
    if (!fits || !tensor_bytes(t, &bytes) || bytes != t->bytes || (bytes > 0 && !t->data))
        return ts_fail(TS_E_ARG, "%s: tensor '%.*s' to be written has a shape that its %" PRIu64 " bytes do not match",
                       path, NAME_SHOWN, t->name, t->bytes);
    return TS_OK;
}

/* Add value under key; a failure means a key that is there already, text that is not UTF-8, or no memory. Takes value.
 */
static ts_status add(const char *path, json_t *object, const char *key, json_t *value)
{
    if (json_object_get(object, key)) {
        json_decref(value);
        return ts_fail(TS_E_ARG, "%s: '%.*s' is to be written twice", path, NAME_SHOWN, key);
    }
    if (!value || json_object_set_new(object, key, value) != 0)
        return ts_fail(TS_E_ARG, "%s: '%.*s' to be written is not UTF-8 text", path, NAME_SHOWN, key);
    return TS_OK;
}

static ts_status add_tensor(const char *path, json_t *header, const ts_st_tensor *t, uint64_t *offset)
{
    uint64_t begin = *offset;
    if (__builtin_add_overflow(begin, t->bytes, offset) || *offset > INT64_MAX)
        return ts_fail(TS_E_ARG, "%s: more than 2^63 bytes are to be written", path);
    json_t *shape = json_array();
    for (int i = 0; i < t->rank; i++) json_array_append_new(shape, json_integer(t->shape[i]));
    json_t *entry = json_pack("{s:s, s:o, s:[I,I]}", "dtype", DTYPES[t->dtype].name, "shape", shape, "data_offsets",
                              (json_int_t)begin, (json_int_t)*offset);
    return entry ? add(path, header, t->name, entry) : no_memory(path);
}

typedef struct {
    const char *key, *value;
} pair;

static int by_key(const void *a, const void *b)
{
    return strcmp(((const pair *)a)->key, ((const pair *)b)->key);
}

static ts_status add_metadata(const char *path, json_t *header, const char *const *keys, const char *const *values,
                              int n)
{
    json_t *metadata = json_object();
    pair *pairs = calloc((size_t)n + 1, sizeof *pairs);
    ts_status status = metadata && pairs ? add(path, header, METADATA, json_incref(metadata)) : no_memory(path);
    if (status == TS_OK) {
        for (int i = 0; i < n; i++) pairs[i] = (pair){ keys[i], values[i] };
        pairs[n] = (pair){ "format", "pt" };
        qsort(pairs, (size_t)n + 1, sizeof *pairs, by_key);
    }
    for (int i = 0; i <= n && status == TS_OK; i++)
        status = add(path, metadata, pairs[i].key, json_string(pairs[i].value));
    free(pairs);
    json_decref(metadata);
    return status;
}

/* The header as text, with spaces behind it so that the data is aligned to 8 bytes. */
static ts_status header_text(const char *path, const json_t *header, char **text, size_t *n)
{
    char *bare = json_dumps(header, JSON_COMPACT);
    if (!bare) return no_memory(path);
    *n = (strlen(bare) + 7) / 8 * 8;
    *text = *n <= HEADER_WRITTEN ? ts_format("%-*s", (int)*n, bare) : NULL;
    free(bare);
    if (*n > HEADER_WRITTEN)
        return ts_fail(TS_E_ARG, "%s: a header of %zu bytes is to be written, at most %d are allowed", path, *n,
                       HEADER_WRITTEN);
    return *text ? TS_OK : no_memory(path);
}

static ts_status write_file(const char *path, const char *header, size_t n, const ts_st_tensor *const *sorted,
                            int count)
{
    ts_file_out *o;
    TS_TRY(ts_file_create(&o, path));
    uint64_t length = n;
    ts_status status = ts_file_write(o, &length, PREFIX);
    if (status == TS_OK) status = ts_file_write(o, header, n);
    for (int i = 0; i < count && status == TS_OK; i++)
        status = ts_file_write(o, sorted[i]->data, (size_t)sorted[i]->bytes);
    if (status == TS_OK) return ts_file_commit(o);
    ts_file_discard(o);
    return status;
}

ts_status ts_st_write(const char *path, const ts_st_tensor *tensors, int n, const char *const *keys,
                      const char *const *values, int n_pairs)
{
    const ts_st_tensor **sorted = calloc((size_t)n + 1, sizeof *sorted);
    json_t *header = json_object();
    char *text = NULL;
    size_t length = 0;
    uint64_t offset = 0;
    ts_status status = sorted && header ? add_metadata(path, header, keys, values, n_pairs) : no_memory(path);
    for (int i = 0; i < n && status == TS_OK; i++) status = check_written(path, &tensors[i]);
    if (status == TS_OK) {
        for (int i = 0; i < n; i++) sorted[i] = &tensors[i];
        qsort(sorted, (size_t)n, sizeof *sorted, by_size_then_name);
    }
    for (int i = 0; i < n && status == TS_OK; i++) status = add_tensor(path, header, sorted[i], &offset);
    if (status == TS_OK) status = header_text(path, header, &text, &length);
    if (status == TS_OK) status = write_file(path, text, length, sorted, n);
    free(text);
    free(sorted);
    json_decref(header);
    return status;
}
