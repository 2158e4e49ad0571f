/* t.c - the test harness. Contract: t.h. */
#include "tests/t.h"

#include <jansson.h>
#include <stdio.h>

enum { GUARD = 64, MAX_TESTS = 256 };

struct t_private {
    const ts_backend *be;
    ts_stream *s;
    void *base; /* guard, data, guard */
};

typedef struct node {
    struct node *next;
    void *p;
    t_buf *b;
} node;

static node *owned;
static struct {
    const char *name;
    t_fn *fn;
} tests[MAX_TESTS];
static int n_tests;
static struct { /* what the test was called with: its stream owns all memory, for it outlives those that a test opens */
    const ts_backend *be;
    ts_stream *s;
} home;

static ts_stream *owner(const ts_backend *be, ts_stream *s)
{
    return be == home.be ? home.s : s;
}

static void own(void *p, t_buf *b)
{
    node *n = malloc(sizeof *n);
    *n = (node){ owned, p, b };
    owned = n;
}

static void release(void)
{
    while (owned) {
        node *n = owned;
        owned = n->next;
        if (n->b) n->b->p->be->mem_free(owner(n->b->p->be, n->b->p->s), n->b->p->base);
        if (n->b) free(n->b->p);
        free(n->p);
        free(n);
    }
}

void *t_alloc(size_t bytes)
{
    void *p = calloc(bytes ? bytes : 1, 1);
    ck_assert_ptr_nonnull(p);
    own(p, NULL);
    return p;
}

/* asked_for: by name, so that there must be such a device. */
static void run_on(const ts_backend *be, t_fn *fn, int asked_for)
{
    ts_stream *s = NULL;
    ts_status st = be->stream_new(&s, 0, 0);
    if (st == TS_E_DEVICE && !asked_for) { /* built in, but this machine has none */
        fprintf(stderr, "SKIP %s: %s\n", be->name, ts_error());
        return;
    }
    ck_assert_msg(st == TS_OK, "%s", ts_error());
    home.be = be, home.s = s;
    fn(be, s);
    release();
    be->stream_free(s);
    home.be = NULL;
}

static void run_one(int i)
{
    run_on(ts_backend_get("cpu"), tests[i].fn, 1);
}

static void run_every(int i)
{
    const char *only = getenv("TS_TEST_BACKEND");
    int ran = 0;
    for (int b = 0; ts_backend_at(b); b++) {
        if (only && strcmp(only, ts_backend_at(b)->name) != 0) continue;
        run_on(ts_backend_at(b), tests[i].fn, only != NULL);
        ran++;
    }
    ck_assert_msg(ran > 0, "no backend is called %s", only);
}

START_TEST(one) { run_one(_i); }
END_TEST
START_TEST(every) { run_every(_i); }
END_TEST

Suite *t_suite(const char *name)
{
    return suite_create(name);
}

void t_add(Suite *u, const char *name, t_fn *fn, int every_backend)
{
    if (n_tests == MAX_TESTS) abort(); /* Check asserts only inside a running test */
    tests[n_tests].name = name;
    tests[n_tests].fn = fn;
    TCase *c = tcase_create(name);
    tcase_set_timeout(c, 300);
    if (every_backend) tcase_add_loop_test(c, every, n_tests, n_tests + 1);
    else tcase_add_loop_test(c, one, n_tests, n_tests + 1);
    suite_add_tcase(u, c);
    n_tests++;
}

int t_run(Suite *u)
{
    SRunner *r = srunner_create(u);
    srunner_run_all(r, CK_NORMAL); /* each test in a process of its own: OpenMP starts after the fork */
    int ran = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return ran > 0 && failed == 0 ? 0 : 1;
}

static void worst(const char *what, double err, int64_t at, double got, double want, double scale, double tol)
{
    ck_assert_msg(err <= tol * scale, "%s: error %.4g of largest value %.4g at [%lld]: got %.9g, expected %.9g (tolerance %.3g)",
                  what, err, scale, (long long)at, got, want, tol);
}

double t_bf16(double x)
{
    int e;
    const double m = frexp(x, &e); /* 8 significant bits */
    return ldexp(rint(ldexp(m, 8)), e - 8);
}

double *t_operand(const float *x, int64_t n, ts_math math)
{
    double *y = t_alloc(sizeof(double) * (size_t)n);
    for (int64_t i = 0; i < n; i++) y[i] = math == TS_MATH_BF16 ? t_bf16(x[i]) : x[i];
    return y;
}

double t_sum_tolerance(int64_t n)
{
    return 4 * sqrt((double)n + 4) * 0x1p-24;
}

void t_close(const char *what, const float *got, const double *want, int64_t n, double tol)
{
    double scale = 1e-30, err = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) scale = fmax(scale, fabs(want[i]));
    for (int64_t i = 0; i < n; i++) {
        double e = fabs(got[i] - want[i]);
        if (!(e <= err)) err = e, at = i; /* NaN is kept */
        if (isnan(e)) break;
    }
    worst(what, err, at, n ? got[at] : 0, n ? want[at] : 0, scale, tol);
}

void t_closef(const char *what, const float *got, const float *want, int64_t n, double tol)
{
    double *w = malloc(sizeof(double) * (size_t)(n + 1));
    for (int64_t i = 0; i < n; i++) w[i] = want[i];
    own(w, NULL);
    t_close(what, got, w, n, tol);
}

static t_buf *new_buf(const ts_backend *be, ts_stream *s, size_t bytes)
{
    t_buf *b = malloc(sizeof *b);
    struct t_private *p = malloc(sizeof *p);
    *p = (struct t_private){ be, s, NULL };
    size_t room = (bytes + 255) / 256 * 256; /* the second guard starts right behind the data, unaligned */
    ck_assert_int_eq(be->mem_alloc(owner(be, s), &p->base, room + 512), TS_OK);
    unsigned char *fill = malloc(room + 512);
    memset(fill, 0xff, room + 512);
    memset(fill, 0xa5, 256);
    memset(fill + 256 + bytes, 0xa5, room + 256 - bytes);
    ck_assert_int_eq(be->upload(s, p->base, fill, room + 512), TS_OK);
    ck_assert_int_eq(be->stream_sync(s), TS_OK); /* other streams may use it too */
    free(fill);
    *b = (t_buf){ (char *)p->base + 256, t_alloc(bytes), bytes, p };
    own(b, b);
    return b;
}

t_buf *t_out(const ts_backend *be, ts_stream *s, int64_t n, size_t size)
{
    return new_buf(be, s, (size_t)n * size);
}

t_buf *t_in(const ts_backend *be, ts_stream *s, const void *host, int64_t n, size_t size)
{
    t_buf *b = new_buf(be, s, (size_t)n * size);
    if (n) memcpy(b->host, host, b->bytes);
    t_up(b);
    return b;
}

void t_up(t_buf *b)
{
    if (!b->bytes) return;
    ck_assert_int_eq(b->p->be->upload(b->p->s, b->dev, b->host, b->bytes), TS_OK);
    ck_assert_int_eq(b->p->be->stream_sync(b->p->s), TS_OK);
}

void t_down(t_buf *b)
{
    size_t room = (b->bytes + 255) / 256 * 256;
    unsigned char *all = malloc(room + 512);
    ck_assert_msg(b->p->be->stream_sync(b->p->s) == TS_OK, "%s", ts_error());
    ck_assert_int_eq(b->p->be->download(b->p->s, all, b->p->base, room + 512), TS_OK);
    memcpy(b->host, all + 256, b->bytes);
    size_t bad = 0;
    for (size_t i = 0; i < 256; i++) bad += all[i] != 0xa5;
    for (size_t i = 256 + b->bytes; i < room + 512; i++) bad += all[i] != 0xa5;
    free(all);
    ck_assert_msg(bad == 0, "%zu guard bytes around a buffer of %zu bytes were overwritten", bad, b->bytes);
}

void t_thread_order(unsigned seed)
{
    char text[16];
    snprintf(text, sizeof text, "%u", seed);
    setenv("TS_EMU_SEED", text, 1);
}

uint64_t t_next(uint64_t *seed)
{
    uint64_t z = (*seed += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

double t_uniform(uint64_t *seed)
{
    return (double)(t_next(seed) >> 11) * 0x1p-53;
}

double t_normal(uint64_t *seed)
{
    double u = t_uniform(seed), v = t_uniform(seed);
    return sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v);
}

float *t_normals(int64_t n, double scale, uint64_t seed)
{
    float *x = t_alloc(sizeof(float) * (size_t)n);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(scale * t_normal(&seed));
    return x;
}

void t_hash_input(float *x, const char *name, int64_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    h = (h ^ 'c') * 0x100000001b3u;
    for (const char *c = name; *c; c++) h = (h ^ (unsigned char)*c) * 0x100000001b3u;
    for (int64_t i = 0; i < n; i++) x[i] = 2 * (float)(t_next(&h) >> 40) * 0x1p-24f - 1;
}

static int ends(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

void t_hash_weight(float *x, const char *name, const int64_t *shape, int rank)
{
    int64_t n = 1, fan = 1;
    for (int i = 0; i < rank; i++) n *= shape[i];
    for (int i = 1; i < rank; i++) fan *= shape[i];
    t_hash_input(x, name, n);
    float root = (float)sqrt(3.0 / (double)fan);
    for (int64_t i = 0; i < n; i++) {
        if (ends(name, "scale_mul_1H11")) x[i] = (float)(log(4.0) + 0.1 * x[i]);
        else if (rank == 2 || (rank == 4 && !ends(name, "ada_gss"))) x[i] *= root;
        else if (rank == 1) x[i] = (float)((ends(name, ".weight") ? 1 : 0) + 0.1 * x[i]);
        else x[i] *= 0.5f;
    }
}

/* A reader of its own: the project's is under test, and a golden file is trusted. */
static FILE *golden_open(const char *file, json_t **head, int64_t *data)
{
    char path[512];
    const char *root = getenv("TS_ROOT");
    snprintf(path, sizeof path, "%s/tests/golden/%s.safetensors", root ? root : ".", file);
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "%s: cannot open", path);
    uint64_t len = 0;
    ck_assert_uint_eq(fread(&len, 8, 1, f), 1);
    char *text = t_alloc(len + 1);
    ck_assert_uint_eq(fread(text, 1, len, f), len);
    *head = json_loads(text, 0, NULL);
    *data = 8 + (int64_t)len;
    return f;
}

int t_golden_has(const char *file, const char *tensor)
{
    json_t *head;
    int64_t at;
    fclose(golden_open(file, &head, &at));
    int has = json_object_get(head, tensor) != NULL;
    json_decref(head);
    return has;
}

void *t_golden(const char *file, const char *tensor, const char *dtype, int64_t *n)
{
    json_t *head;
    int64_t at;
    FILE *f = golden_open(file, &head, &at);
    json_t *t = json_object_get(head, tensor);
    ck_assert_msg(t != NULL, "%s has no tensor %s", file, tensor);
    ck_assert_str_eq(json_string_value(json_object_get(t, "dtype")), dtype);
    json_t *off = json_object_get(t, "data_offsets");
    int64_t a = json_integer_value(json_array_get(off, 0)), b = json_integer_value(json_array_get(off, 1));
    void *data = t_alloc((size_t)(b - a));
    fseek(f, (long)(at + a), SEEK_SET);
    ck_assert_uint_eq(fread(data, 1, (size_t)(b - a), f), (size_t)(b - a));
    fclose(f);
    json_decref(head);
    if (n) *n = (b - a) / (strcmp(dtype, "F64") == 0 ? 8 : 4);
    return data;
}
