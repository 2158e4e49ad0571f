/* test_safetensors.c - the reader's rules, one by one; the writer's bytes; conversion to float32.
 *
 * Oracle     files made by hand here and by tests/fuzz/make_corpus.py; the writer's bytes against text written out
 * below; t_golden's own reader; conversions against ldexp in double. Pass       every violation is TS_E_DATA with the
 * file's name and its own message; what is accepted is read back exactly.
 */
#include "host/safetensors.h"
#include "tests/host/faults.h"

#include <dirent.h>

/* Length, header and n bytes of data, in memory of exactly that size. */
static unsigned char *make(const char *header, size_t n, size_t *total)
{
    uint64_t length = strlen(header);
    *total = 8 + length + n;
    unsigned char *p = t_alloc(*total);
    memcpy(p, &length, 8);
    memcpy(p + 8, header, length);
    for (size_t i = 0; i < n; i++) p[8 + length + i] = (unsigned char)(i % 251);
    return p;
}

static ts_status try(const char *header, size_t n)
{
    size_t total;
    unsigned char *bytes = make(header, n, &total);
    ts_st_file *f;
    ts_status st = ts_st_open_memory(&f, "FILE", bytes, total);
    T_TRUE((st == TS_OK) == (f != NULL));
    ts_st_close(f);
    return st;
}

#define TENSOR(dtype, shape, offsets) "{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define ONE(dtype, shape, offsets) "{\"a\":" TENSOR(dtype, shape, offsets) "}"
#define TWO(offsets_a, offsets_b)                                                                                      \
    "{\"a\":" TENSOR("\"U8\"", "[2]", offsets_a) ",\"b\":" TENSOR("\"U8\"", "[2]", offsets_b) "}"

static const struct {
    const char *header, *message;
    size_t n;
} REFUSED[] = {
    { "", "is not JSON", 0 },
    { "{", "is not JSON", 0 },
    { "{}x", "is not JSON", 0 },
    { "[]", "expected an object", 0 },
    { "{\"__metadata__\":1}", "__metadata__ is not a JSON object", 0 },
    { "{\"__metadata__\":{\"k\":1}}", "holds 'k' that is not a string", 0 },
    { "{\"__metadata__\":{},\"__metadata__\":{}}", "holds a key twice", 0 },
    { "{\"a\":1}", "tensor 'a' is not a JSON object", 0 },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", "has no data_offsets", 1 },
    { "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", "has no shape", 1 },
    { "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", "has no dtype", 1 },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}", "has a field 'x'", 1 },
    { ONE("1", "[1]", "[0,1]"), "dtype that is not a string", 1 },
    { ONE("\"F8\"", "[1]", "[0,1]"), "has dtype 'F8', expected one of", 1 },
    { ONE("\"U8\"", "1", "[0,1]"), "shape that is not a list", 1 },
    { ONE("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), "has 9 dimensions, expected at most 8", 1 },
    { ONE("\"U8\"", "[1,1.0]", "[0,1]"), "dimension 1 that is not an integer", 1 },
    { ONE("\"U8\"", "[-1]", "[0,1]"), "dimension 0 of -1", 1 },
    { ONE("\"U8\"", "[9223372036854775808]", "[0,1]"), "number over 63 bits", 1 },
    { ONE("\"U8\"", "[4294967296,4294967296]", "[0,0]"), "does not fit 64 bits", 0 },
    { ONE("\"U64\"", "[2305843009213693952]", "[0,0]"), "does not fit 64 bits", 0 },
    { ONE("\"U8\"", "[1]", "0"), "not a list of two", 1 },
    { ONE("\"U8\"", "[1]", "[0,1,1]"), "not a list of two", 1 },
    { ONE("\"U8\"", "[1]", "[0,1.0]"), "data_offsets that are not integers", 1 },
    { ONE("\"U8\"", "[1]", "[-1,0]"), "begins at -1", 1 },
    { ONE("\"U8\"", "[0]", "[1,0]"), "begins at 1, after its end at 0", 1 },
    { ONE("\"U8\"", "[2]", "[0,2]"), "ends at 2, the data has 1 bytes", 1 },
    { ONE("\"U16\"", "[1]", "[0,1]"), "has 1 bytes of data, its shape and dtype need 2", 1 },
    { ONE("\"U16\"", "[1]", "[0,3]"), "has 3 bytes of data, its shape and dtype need 2", 3 },
    { ONE("\"U8\"", "[1]", "[0,1]"), "ends at 1, the data at 2", 2 },
    { ONE("\"U8\"", "[1]", "[1,2]"), "tensor 'a' begins at 1, a hole behind the data that ends at 0", 2 },
    { TWO("[0,2]", "[3,5]"), "tensor 'b' begins at 3, a hole behind the data that ends at 2", 5 },
    { TWO("[0,2]", "[1,3]"), "tensor 'b' begins at 1, inside the data that ends at 2", 3 },
    { TWO("[0,2]", "[0,2]"), "inside the data", 2 },
};

T_TEST(refused_headers)
{
    (void)be, (void)s;
    for (size_t i = 0; i < sizeof REFUSED / sizeof REFUSED[0]; i++) {
        T_STATUS(TS_E_DATA, try(REFUSED[i].header, REFUSED[i].n));
        ck_assert_msg(strncmp(ts_error(), "FILE: ", 6) == 0 && strstr(ts_error(), REFUSED[i].message),
                      "%s gives '%s', expected '%s'", REFUSED[i].header, ts_error(), REFUSED[i].message);
    }
}

T_TEST(accepted_headers)
{
    (void)be, (void)s;
    T_OK(try("{}", 0));
    T_OK(try("\n\t {}  ", 0));
    T_OK(try(ONE("\"U8\"", "[]", "[0,1]"), 1));
    T_OK(try(ONE("\"U8\"", "[0,9223372036854775807]", "[0,0]"), 0));
    T_OK(try(ONE("\"U8\"", "[1,1,1,1,1,1,1,1]", "[0,1]"), 1));
    T_OK(try(TWO("[2,4]", "[0,2]"), 4));
}

T_TEST(length_field)
{
    (void)be, (void)s;
    static const struct {
        uint64_t length;
        size_t n;
        const char *message;
    } cases[] = {
        { 0, 0, "has 0 bytes, too few" },
        { 0, 7, "has 7 bytes, too few" },
        { 0, 8, "is not JSON" },
        { 1, 8, "header of 1 bytes ends after the file of 8 bytes" },
        { 3, 10, "header of 3 bytes ends after" },
        { 100000000, 10, "header of 100000000 bytes ends after" },
        { 100000001, 10, "expected at most 100000000" },
        { UINT64_MAX, 10, "expected at most 100000000" },
        { UINT64_MAX - 7, 10, "expected at most 100000000" }, /* 8 + length wraps to 0 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned char *bytes = malloc(cases[i].n + 1), whole[10] = "........{}";
        memcpy(whole, &cases[i].length, 8);
        memcpy(bytes, whole, cases[i].n);
        ts_st_file *f;
        T_STATUS(TS_E_DATA, ts_st_open_memory(&f, "FILE", bytes, cases[i].n));
        ck_assert_msg(strstr(ts_error(), cases[i].message), "'%s', expected '%s'", ts_error(), cases[i].message);
        free(bytes);
    }
}

/* Checkpoints of PyTorch are named as such; a header whose length begins with the same bytes is not one. */
T_TEST(pth_files)
{
    (void)be, (void)s;
    static const char *const begins[] = { "PK\3\4\0\0\10\10\0\0", "PK\3\4\24\0\0\0\10\0", "\x80\2\x8a\nl\xfc\x9c\x46\xf9 ",
                                          "\x80\2}q\0.\0\0\0\0" };
    ts_st_file *f;
    for (int i = 0; i < 4; i++) {
        char *bytes = t_alloc(10);
        memcpy(bytes, begins[i], 10);
        T_STATUS(TS_E_DATA, ts_st_open_memory(&f, "FILE", bytes, 10));
        ck_assert_msg(strstr(ts_error(), "convert it with tools/convert_var.py") != NULL, "%d: %s", i, ts_error());
    }
    T_STATUS(TS_E_DATA, ts_st_open_memory(&f, "FILE", "\x80\2\0\0\0\0\0\0{}", 10)); /* cut off in its header of 640 bytes */
    T_TRUE(strstr(ts_error(), "ends after the file") != NULL);
    char header[641];
    snprintf(header, sizeof header, "%-640s", "{}");
    T_OK(try(header, 0));
    snprintf(header, sizeof header, "%-640s", " {}");
    T_OK(try(header, 0));
    T_OK(ts_file_replace(IN("x.pth"), begins[0], 10));
    T_STATUS(TS_E_DATA, ts_st_open(&f, IN("x.pth")));
    T_TRUE(strstr(ts_error(), "x.pth: is a zip archive or a pickle") != NULL);
}

T_TEST(what_is_handed_out)
{
    (void)be, (void)s;
    size_t total;
    unsigned char *bytes =
        make("{\"b\":" TENSOR("\"F32\"", "[1,2]", "[3,11]") ",\"__metadata__\":{\"k\":\"v\"},"
                                                            "\"z\":" TENSOR("\"U8\"", "[3]", "[0,3]") ",\"e\":" TENSOR(
                                                                "\"U8\"", "[0]", "[3,3]") "}",
             11, &total);
    ts_st_file *f;
    T_OK(ts_st_open_memory(&f, "FILE", bytes, total));
    T_EQI(ts_st_count(f), 3);
    ck_assert_str_eq(ts_st_path(f), "FILE");
    ck_assert_str_eq(ts_st_at(f, 0)->name, "z");
    ck_assert_str_eq(ts_st_at(f, 1)->name, "e");
    ck_assert_str_eq(ts_st_at(f, 2)->name, "b");
    const ts_st_tensor *b = ts_st_find(f, "b");
    T_TRUE(b == ts_st_at(f, 2) && b->dtype == TS_ST_F32 && b->rank == 2 && b->shape[0] == 1 && b->shape[1] == 2);
    T_TRUE(b->bytes == 8 && b->data == bytes + total - 8);
    T_TRUE(ts_st_find(f, "z") == ts_st_at(f, 0) && ts_st_find(f, "e") == ts_st_at(f, 1));
    T_TRUE(!ts_st_find(f, "") && !ts_st_find(f, "zz") && !ts_st_find(f, "__metadata__"));
    ck_assert_str_eq(ts_st_metadata(f, "k"), "v");
    T_TRUE(!ts_st_metadata(f, "other"));
    ts_st_close(f);
    ts_st_close(NULL);
    bytes = make("{}", 0, &total);
    T_OK(ts_st_open_memory(&f, "FILE", bytes, total));
    T_TRUE(ts_st_count(f) == 0 && !ts_st_find(f, "a") && !ts_st_metadata(f, "k"));
    ts_st_close(f);
}

/* The hand-made files: their names say whether they are good. */
T_TEST(corpus)
{
    (void)be, (void)s;
    const char *root = getenv("TS_ROOT");
    char *dir = t_text("%s/tests/fuzz/corpus/safetensors", root ? root : ".");
    DIR *d = opendir(dir);
    ck_assert_msg(d != NULL, "%s cannot be listed", dir);
    int good = 0, bad = 0;
    for (struct dirent *e; (e = readdir(d));) {
        int is_good = strncmp(e->d_name, "ok-", 3) == 0, is_bad = strncmp(e->d_name, "bad-", 4) == 0;
        if (!is_good && !is_bad) continue;
        ts_st_file *f;
        T_STATUS(is_good ? TS_OK : TS_E_DATA, ts_st_open(&f, t_text("%s/%s", dir, e->d_name)));
        ts_st_close(f);
        good += is_good, bad += is_bad;
    }
    closedir(d);
    T_TRUE(good >= 15 && bad >= 55);
}

T_TEST(files_that_cannot_be_read)
{
    (void)be, (void)s;
    ts_st_file *f;
    T_STATUS(TS_E_NOINPUT, ts_st_open(&f, IN("none")));
    T_STATUS(TS_E_NOINPUT, ts_st_open(&f, t_folder()));
    T_OK(ts_file_replace(IN("empty"), "", 0));
    T_STATUS(TS_E_DATA, ts_st_open(&f, IN("empty")));
    T_TRUE(strstr(ts_error(), "empty") && !f);
}

T_TEST(golden_files)
{
    (void)be, (void)s;
    const char *root = getenv("TS_ROOT");
    ts_st_file *f;
    T_OK(ts_st_open(&f, t_text("%s/tests/golden/resample.safetensors", root ? root : ".")));
    ck_assert_int_gt(ts_st_count(f), 10);
    for (int i = 0; i < ts_st_count(f); i++) {
        const ts_st_tensor *t = ts_st_at(f, i);
        int64_t n;
        float *want = t_golden("resample", t->name, ts_st_dtype_name(t->dtype), &n);
        T_TRUE(t->bytes == (uint64_t)n * ts_st_dtype_size(t->dtype) && memcmp(t->data, want, t->bytes) == 0);
    }
    ts_st_close(f);
}

/* The bytes of a small file, written out: order, padding, metadata in order of the keys. */
T_TEST(written_bytes)
{
    (void)be, (void)s;
    static const unsigned char u8[3] = { 7, 8, 9 };
    static const uint16_t u16[2] = { 1, 2 };
    static const float f32[2] = { 1, -2 };
    const ts_st_tensor tensors[] = {
        { "b", TS_ST_U8, 1, { 3 }, u8, 3 },   { "y", TS_ST_F32, 2, { 2, 1 }, f32, 8 },
        { "a", TS_ST_U16, 1, { 2 }, u16, 4 }, { "x", TS_ST_F64, 2, { 3, 0 }, NULL, 0 },
        { "c", TS_ST_I32, 0, { 0 }, f32, 4 },
    };
    const char *const keys[] = { "tessera", "a" }, *const values[] = { "{\"n\":1}", "" };
    const char *header = "{\"__metadata__\":{\"a\":\"\",\"format\":\"pt\",\"tessera\":\"{\\\"n\\\":1}\"},"
                         "\"x\":{\"dtype\":\"F64\",\"shape\":[3,0],\"data_offsets\":[0,0]},"
                         "\"c\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]},"
                         "\"y\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[4,12]},"
                         "\"a\":{\"dtype\":\"U16\",\"shape\":[2],\"data_offsets\":[12,16]},"
                         "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[16,19]}}";
    uint64_t length = (strlen(header) + 7) / 8 * 8;
    ck_assert_uint_ne(length, strlen(header)); /* so that padding is seen */
    size_t total = 8 + length + 19, n;
    unsigned char *want = t_alloc(total);
    memset(want, ' ', total);
    memcpy(want, &length, 8);
    memcpy(want + 8, header, strlen(header));
    memcpy(want + total - 19, f32, 4);
    memcpy(want + total - 15, f32, 8);
    memcpy(want + total - 7, u16, 4);
    memcpy(want + total - 3, u8, 3);

    T_OK(ts_st_write(IN("f"), tensors, 5, keys, values, 2));
    void *got;
    T_OK(ts_file_read(IN("f"), 10000, &got, &n));
    ck_assert_uint_eq(n, total);
    ck_assert_mem_eq(got, want, total);
    free(got);

    ts_st_tensor turned[5]; /* another order in, the same bytes out */
    for (int i = 0; i < 5; i++) turned[i] = tensors[4 - i];
    const char *const keys2[] = { "a", "tessera" }, *const values2[] = { "", "{\"n\":1}" };
    T_OK(ts_st_write(IN("f"), turned, 5, keys2, values2, 2));
    T_OK(ts_file_read(IN("f"), 10000, &got, &n));
    T_TRUE(n == total && memcmp(got, want, total) == 0);
    free(got);
}

/* The data begins at a multiple of 8, with fewer than 8 spaces before it. */
T_TEST(padding)
{
    (void)be, (void)s;
    for (int i = 0; i < 8; i++) {
        const char *const key = "k", *const value = t_text("%.*s", i, "1234567");
        void *got;
        size_t n;
        T_OK(ts_st_write(IN("f"), NULL, 0, &key, &value, 1));
        T_OK(ts_file_read(IN("f"), 10000, &got, &n));
        const char *text = got;
        uint64_t length;
        memcpy(&length, text, 8);
        T_TRUE(length == n - 8 && length % 8 == 0);
        size_t bare = strrchr(text + 8, '}') + 1 - (text + 8);
        ck_assert_uint_lt(length - bare, 8);
        T_EQI(strspn(text + 8 + bare, " "), length - bare);
        free(got);
    }
}

T_TEST(round_trip)
{
    (void)be, (void)s;
    enum { N = 300 };
    uint64_t seed = 5;
    ts_st_tensor in[N];
    for (int i = 0; i < N; i++) {
        in[i] =
            (ts_st_tensor){ .name = t_text("layer.%d.\"\\\n\xc3\xa9", i), .dtype = (ts_st_dtype)(t_next(&seed) % 13) };
        in[i].rank = (int)(t_next(&seed) % 5);
        in[i].bytes = ts_st_dtype_size(in[i].dtype);
        for (int r = 0; r < in[i].rank; r++) in[i].bytes *= (uint64_t)(in[i].shape[r] = (int64_t)(t_next(&seed) % 8));
        unsigned char *data = t_alloc(in[i].bytes);
        for (uint64_t b = 0; b < in[i].bytes; b++) data[b] = (unsigned char)t_next(&seed);
        in[i].data = data;
    }
    T_OK(ts_st_write(IN("f"), in, N, NULL, NULL, 0));
    ts_st_file *f;
    T_OK(ts_st_open(&f, IN("f")));
    T_EQI(ts_st_count(f), N);
    ck_assert_str_eq(ts_st_metadata(f, "format"), "pt");
    for (int i = 0; i < N; i++) {
        const ts_st_tensor *t = ts_st_find(f, in[i].name);
        T_TRUE(t && t->dtype == in[i].dtype && t->rank == in[i].rank && t->bytes == in[i].bytes);
        T_TRUE(memcmp(t->shape, in[i].shape, sizeof t->shape) == 0);
        T_TRUE(t->bytes == 0 || memcmp(t->data, in[i].data, t->bytes) == 0);
        ck_assert_uint_eq((uintptr_t)t->data % ts_st_dtype_size(t->dtype), 0); /* what we write is aligned */
    }
    ts_st_close(f);
}

T_TEST(refused_writes)
{
    (void)be, (void)s;
    static const float x[2] = { 1, 2 };
    const ts_st_tensor good = { "a", TS_ST_F32, 1, { 2 }, x, 8 };
    ts_st_tensor bad[2] = { good, good };
    T_OK(ts_file_replace(IN("f"), "old", 3));
#define REFUSE(n, keys, values, pairs)                                                                                 \
    T_STATUS(TS_E_ARG, ts_st_write(IN("f"), bad, (n), (keys), (values), (pairs)));                                     \
    T_TRUE(strstr(ts_error(), IN("f")))
    REFUSE(2, NULL, NULL, 0); /* a name twice */
    bad[0] = good, bad[0].bytes = 4;
    REFUSE(1, NULL, NULL, 0);
    bad[0] = good, bad[0].shape[0] = -2;
    REFUSE(1, NULL, NULL, 0);
    bad[0] = good, bad[0].rank = 9;
    REFUSE(1, NULL, NULL, 0);
    bad[0] = good, bad[0].dtype = (ts_st_dtype)13;
    REFUSE(1, NULL, NULL, 0);
    bad[0] = good, bad[0].data = NULL;
    REFUSE(1, NULL, NULL, 0);
    bad[0] = good, bad[0].name = "\xff";
    REFUSE(1, NULL, NULL, 0);
    bad[0] = good, bad[0].name = "__metadata__";
    REFUSE(1, NULL, NULL, 0);
    bad[0] = good;
    REFUSE(1, ((const char *[]){ "k", "k" }), ((const char *[]){ "1", "2" }), 2);
    REFUSE(1, ((const char *[]){ "format" }), ((const char *[]){ "tf" }), 1);
    REFUSE(1, ((const char *[]){ "k" }), ((const char *[]){ "\xff" }), 1);
    char *huge = t_alloc(25000001);
    memset(huge, 'x', 25000000);
    REFUSE(1, ((const char *[]){ "k" }), (&(const char *){ huge }), 1);
    T_STATUS(TS_E_IO, ts_st_write(IN("none/f"), bad, 1, NULL, NULL, 0));
    void *back;
    size_t n;
    T_OK(ts_file_read(IN("f"), 10, &back, &n));
    T_TRUE(n == 3 && memcmp(back, "old", 3) == 0);
    free(back);
}

T_TEST(conversion)
{
    (void)be, (void)s;
    enum { N = 65536 };
    unsigned char *bytes = t_alloc(2 * N + 1);
    float *out = t_alloc(N * sizeof *out);
    for (int i = 0; i < N; i++) bytes[1 + 2 * i] = (unsigned char)i, bytes[2 + 2 * i] = (unsigned char)(i >> 8);
    ts_st_tensor t = { "t", TS_ST_F16, 1, { N }, bytes + 1, 2 * N }; /* at an odd address */
    T_OK(ts_st_to_f32(out, &t));
    for (int i = 0; i < N; i++) {
        int e = i >> 10 & 31, m = i & 1023;
        double want = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
        if (i & 0x8000) want = -want;
        ck_assert_msg(isnan(want) ? isnan(out[i]) : out[i] == want && !signbit(out[i]) == !signbit(want),
                      "half %04x gives %g, expected %g", (unsigned)i, out[i], want);
    }
    t.dtype = TS_ST_BF16;
    T_OK(ts_st_to_f32(out, &t));
    for (int i = 0; i < N; i++) {
        int e = i >> 7 & 255, m = i & 127;
        double want = e == 255 ? (m ? NAN : INFINITY) : e ? ldexp(128 + m, e - 134) : ldexp(m, -133);
        if (i & 0x8000) want = -want;
        ck_assert_msg(isnan(want) ? isnan(out[i]) : out[i] == want && !signbit(out[i]) == !signbit(want),
                      "bf16 %04x gives %g, expected %g", (unsigned)i, out[i], want);
    }
    static const double f64[3] = { 1.0 / 3, 1e300, -0.0 };
    T_OK(ts_st_to_f32(out, &(ts_st_tensor){ "t", TS_ST_F64, 1, { 3 }, f64, 24 }));
    T_TRUE(out[0] == 1.0f / 3 && out[1] == INFINITY && out[2] == 0 && signbit(out[2]));
    static const float f32[2] = { 1.5f, -7 };
    T_OK(ts_st_to_f32(out, &(ts_st_tensor){ "t", TS_ST_F32, 1, { 2 }, f32, 8 }));
    T_TRUE(memcmp(out, f32, 8) == 0);
    T_OK(ts_st_to_f32(out, &(ts_st_tensor){ "t", TS_ST_F32, 1, { 0 }, NULL, 0 }));
    T_STATUS(TS_E_DATA, ts_st_to_f32(out, &(ts_st_tensor){ "t", TS_ST_I32, 1, { 2 }, f32, 8 }));
}

int main(void)
{
    Suite *u = t_suite("safetensors");
    T_ADD1(u, refused_headers);
    T_ADD1(u, accepted_headers);
    T_ADD1(u, length_field);
    T_ADD1(u, pth_files);
    T_ADD1(u, what_is_handed_out);
    T_ADD1(u, corpus);
    T_ADD1(u, files_that_cannot_be_read);
    T_ADD1(u, golden_files);
    T_ADD1(u, written_bytes);
    T_ADD1(u, padding);
    T_ADD1(u, round_trip);
    T_ADD1(u, refused_writes);
    T_ADD1(u, conversion);
    return t_run(u);
}
