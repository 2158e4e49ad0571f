/* test_params.c - the table of parameters: layout, initial values, files, optimizer steps. Contract: host/params.h. */
#include "host/file.h"
#include "host/params.h"
#include "tests/host/faults.h"

enum { DECAY = TS_PARAM_DECAY, CONV = TS_PARAM_CONV, FROZEN = TS_PARAM_FROZEN, PRODUCT = TS_PARAM_PRODUCT };

typedef struct {
    ts_device *d;
    ts_params *p;
    ts_tensor *bias, *conv, *q, *k, *v, *matrix, *dirac, *ramp, *span;
} table;

/* In the order of declaration; q, k, v stand in a row so that a span covers them. */
static table declare_only(const ts_backend *be)
{
    table t;
    T_OK(ts_device_open(&t.d, be->name, 1, TS_MATH_F32));
    T_OK(ts_params_new(&t.p));
    ts_init normal = ts_init_all(TS_INIT_NORMAL, 2), uniform = ts_init_all(TS_INIT_UNIFORM, 0.5f),
            zero = ts_init_all(TS_INIT_CONST, 0);
    t.bias = ts_params_add(t.p, uniform, 0, 1, TG_DIMS(5), "layer.%d.%s", 3, "bias");
    t.conv = ts_params_add(t.p, normal, CONV | DECAY | PRODUCT, 4, TG_DIMS(2, 3, 3, 3), "conv.weight");
    t.q = ts_params_add(t.p, normal, 0, 1, TG_DIMS(16), "q");
    t.k = ts_params_add(t.p, zero, FROZEN, 1, TG_DIMS(16), "k");
    t.v = ts_params_add(t.p, normal, 0, 1, TG_DIMS(16), "v");
    t.matrix = ts_params_add(t.p, (ts_init){ TS_INIT_NORMAL, 1, 1e-3f, 40 }, DECAY | PRODUCT, 2, TG_DIMS(20, 7), "matrix");
    t.dirac = ts_params_add(t.p, ts_init_all(TS_INIT_DIRAC, 1), CONV, 4, TG_DIMS(2, 2, 3, 3), "dirac");
    t.ramp = ts_params_add(t.p, ts_init_all(TS_INIT_RAMP, -3), 0, 2, TG_DIMS(4, 2), "ramp");
    t.span = ts_params_span(t.p, t.q, 48);
    return t;
}

static table declare(const ts_backend *be, int training)
{
    table t = declare_only(be);
    T_OK(ts_params_allocate(t.p, t.d, training));
    T_OK(ts_params_init(t.p, 1));
    return t;
}

static void end(table *t)
{
    ts_params_free(t->p);
    T_EQI(t->d->in_use, 0);
    ts_device_close(t->d);
}

static float *read_floats(const table *t, const void *from, int64_t n)
{
    float *x = t_alloc((size_t)n * sizeof *x);
    T_OK(t->d->be->download(t->d->s, x, from, (size_t)n * sizeof *x));
    return x;
}

static float *read_tensor(const table *t, const ts_tensor *x)
{
    return read_floats(t, x->data, ts_tensor_count(x));
}

T_TEST(layout)
{
    (void)s;
    table t = declare(be, 1);
    T_EQI(ts_params_count(t.p), 8);
    T_EQI(ts_params_floats(t.p), 5 + 54 + 48 + 140 + 36 + 8);
    int64_t decayed = 0, next = 0;
    for (int pass = 0; pass < 2; pass++) /* those with decay first; within, the order of declaration without holes */
        for (int i = 0; i < ts_params_count(t.p); i++) {
            const ts_param *q = ts_params_at(t.p, i);
            if (((q->flags & DECAY) != 0) == pass) continue;
            T_EQI(q->offset, next);
            T_EQI((uintptr_t)q->tensor.data % 64, 0);
            T_EQI((uintptr_t)q->tensor.grad % 64, 0);
            T_TRUE(q->tensor.needs_grad && q->tensor.dtype == TS_F32);
            next += (q->count + 15) / 16 * 16;
            if (pass == 0) decayed = next;
        }
    T_EQI(decayed, 64 + 144);
    T_TRUE(strcmp(ts_params_at(t.p, 0)->name, "layer.3.bias") == 0);
    T_TRUE(t.conv->dim[0] == 2 && t.conv->dim[1] == 3 && t.conv->dim[2] == 3 && t.conv->dim[3] == 3);
    T_TRUE(t.dirac->rank == 4 && t.matrix->dim[0] == 20);
    T_TRUE(t.span->data == t.q->data && t.span->grad == t.q->grad && t.span->dim[0] == 48);
    T_TRUE((float *)t.v->data == (float *)t.q->data + 32);
    end(&t);

    t = declare(be, 0);
    T_TRUE(t.conv->grad == NULL && !t.conv->needs_grad && t.span->grad == NULL);
    end(&t);
    ts_params_free(NULL);
}

/* --- initial values --- */

static void moments(const float *x, int64_t n, double *mean, double *deviation)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i], squares += (double)x[i] * x[i];
    *mean = sum / (double)n;
    *deviation = sqrt(squares / (double)n - *mean * *mean);
}

/* One parameter of n numbers, in a table with `before` others. */
static float *drawn(const ts_backend *be, ts_init init, int64_t n, const char *name, uint64_t seed, int before)
{
    table t;
    T_OK(ts_device_open(&t.d, be->name, 1, TS_MATH_F32));
    T_OK(ts_params_new(&t.p));
    for (int i = 0; i < before; i++) ts_params_add(t.p, init, DECAY, 1, TG_DIMS(3), "other.%d", i);
    const ts_tensor *x = ts_params_add(t.p, init, 0, 1, TG_DIMS(n), "%s", name);
    T_OK(ts_params_allocate(t.p, t.d, 0));
    T_OK(ts_params_init(t.p, seed));
    float *values = read_tensor(&t, x);
    end(&t);
    return values;
}

T_TEST(initial_values)
{
    (void)s;
    enum { N = 40000 };
    double mean, deviation;
    const float *x = drawn(be, ts_init_all(TS_INIT_NORMAL, 2), N, "a", 1, 0);
    moments(x, N, &mean, &deviation);
    T_NEAR(mean, 0, 5 * 2 / sqrt(N)); /* five standard errors */
    T_NEAR(deviation, 2, 5 * 2 / sqrt(2.0 * N));
    T_TRUE(memcmp(x, drawn(be, ts_init_all(TS_INIT_NORMAL, 2), N, "a", 1, 3), N * sizeof *x) ==
           0); /* seed and name alone */
    T_TRUE(memcmp(x, drawn(be, ts_init_all(TS_INIT_NORMAL, 2), N, "b", 1, 0), N * sizeof *x) != 0);
    T_TRUE(memcmp(x, drawn(be, ts_init_all(TS_INIT_NORMAL, 2), N, "a", 2, 0), N * sizeof *x) != 0);

    x = drawn(be, ts_init_all(TS_INIT_UNIFORM, 0.5f), N, "a", 1, 0);
    moments(x, N, &mean, &deviation);
    T_NEAR(mean, 0, 5 * 0.289 / sqrt(N));
    T_NEAR(deviation, 1 / sqrt(12), 0.01);
    for (int i = 0; i < N; i++) T_TRUE(fabsf(x[i]) <= 0.5f);

    x = drawn(be, (ts_init){ TS_INIT_NORMAL, 1, 1e-3f, 100 }, 200, "a", 1, 0);
    for (int i = 0; i < 100; i++) T_TRUE(fabsf(x[i]) < 6e-3f);
    moments(x + 100, 100, &mean, &deviation);
    T_NEAR(deviation, 1, 0.4);
    x = drawn(be, (ts_init){ TS_INIT_CONST, 4, -1, 2 }, 4, "a", 1, 0);
    T_TRUE(x[0] == -1 && x[1] == -1 && x[2] == 4 && x[3] == 4);

    table t = declare(be, 1);
    const float *ramp = read_tensor(&t, t.ramp), *dirac = read_tensor(&t, t.dirac), *ema;
    for (int i = 0; i < 8; i++) T_TRUE(ramp[i] == -(float)(i / 2));
    for (int i = 0; i < 36; i++)
        T_TRUE(dirac[i] == (i == 4 * 2 || i == 18 + 4 * 2 + 1 ? 1 : 0)); /* (o, middle, o) of (O,k,k,I) */
    const float *weight = read_tensor(&t, t.matrix);
    ts_params_swap_ema(t.p);
    ema = read_tensor(&t, t.matrix);
    T_TRUE(memcmp(ema, weight, 140 * sizeof *ema) == 0); /* the average starts at the weights */
    end(&t);
}

/* --- files --- */

static const ts_buffer WEIGHT[] = { TS_BUFFER_WEIGHT };
static const char *const NO_PREFIX[] = { "" };

static ts_status save(const table *t, const char *path, ts_st_dtype dtype)
{
    return ts_params_save(t->p, path, WEIGHT, NO_PREFIX, 1, dtype, NULL, NULL, 0);
}

static ts_status load(table *t, const char *path, const char *prefix, int exact)
{
    ts_st_file *f;
    T_OK(ts_st_open(&f, path));
    ts_status st = ts_params_load(t->p, TS_BUFFER_WEIGHT, f, prefix, exact);
    ts_st_close(f);
    return st;
}

static float nearest_bf16(float x)
{
    double scale = ldexp(1, ilogb(x) - 7); /* 8 bits of mantissa; rint rounds to even */
    return x == 0 ? 0 : (float)(rint(x / scale) * scale);
}

T_TEST(save_and_load)
{
    (void)s;
    static const ts_st_dtype dtypes[] = { TS_ST_F32, TS_ST_BF16 };
    table from = declare(be, 1);
    for (int i = 0; i < 2; i++) {
        const char *path = IN("weights.safetensors");
        T_OK(save(&from, path, dtypes[i]));
        table to = declare(be, 0);
        T_OK(ts_params_init(to.p, 99));
        T_OK(load(&to, path, "", 1));
        for (int j = 0; j < ts_params_count(from.p); j++) {
            const ts_param *a = ts_params_at(from.p, j), *b = ts_params_at(to.p, j);
            const float *x = read_tensor(&from, &a->tensor), *y = read_tensor(&to, &b->tensor);
            for (int64_t k = 0; k < a->count; k++)
                ck_assert_msg(y[k] == (i ? nearest_bf16(x[k]) : x[k]), "%s[%lld] is %g, was %g", a->name, (long long)k,
                              y[k], x[k]);
        }
        end(&to);
    }
    end(&from);
}

static void write_tensor_file(const char *path, const char *const *names, const int64_t (*shapes)[2], int n)
{
    ts_st_tensor tensors[64];
    const float zeros[256] = { 0 };
    for (int i = 0; i < n; i++) {
        tensors[i] = (ts_st_tensor){ .name = names[i], .dtype = TS_ST_F32, .rank = 2, .data = zeros };
        memcpy(tensors[i].shape, shapes[i], 2 * sizeof(int64_t));
        tensors[i].bytes = (uint64_t)(shapes[i][0] * shapes[i][1]) * 4;
    }
    T_OK(ts_st_write(path, tensors, n, NULL, NULL, 0));
}

/* The products of the matrix and of the convolution with some numbers, twice. */
static float *products(const table *t, ts_math math)
{
    enum { ROWS = 3, SIDE = 4, N = ROWS * 20 + 2 * SIDE * SIDE };
    float *y = t_alloc(2 * N * sizeof *y);
    ts_graph *g;
    t->d->math = math;
    T_OK(ts_graph_new(&g, t->d, 0));
    for (int twice = 0; twice < 2; twice++) {
        ts_tensor *x = tg_upload(g, t_normals(ROWS * 7, 1, 1), TS_F32, 2, TG_DIMS(ROWS, 7));
        T_OK(tg_download(g, y + twice * N, tg_linear(g, x, t->matrix, NULL)));
        x = tg_upload(g, t_normals(SIDE * SIDE * 3, 1, 2), TS_F32, 4, TG_DIMS(1, SIDE, SIDE, 3));
        T_OK(tg_download(g, y + twice * N + ROWS * 20, tg_conv2d(g, x, t->conv, NULL, 1, 1, 1)));
    }
    ts_graph_free(g);
    T_TRUE(memcmp(y, y + N, N * sizeof *y) == 0);
    return memcpy(t_alloc(N * sizeof *y), y, N * sizeof *y);
}

static ts_status open_table(table *t, const ts_backend *be, const char *path)
{
    ts_st_file *f;
    *t = declare_only(be);
    T_OK(ts_st_open(&f, path));
    return ts_params_open(t->p, t->d, f);
}

/* Opened, weights are those that were loaded, wherever they lie; they do not change. */
T_TEST(open_in_place)
{
    (void)s;
    static const ts_st_dtype dtypes[] = { TS_ST_F32, TS_ST_BF16 };
    table from = declare(be, 1);
    for (int i = 0; i < 2; i++) {
        const char *path = IN("weights.safetensors"), *again = IN("again.safetensors"), *same = IN("same.safetensors");
        T_OK(save(&from, path, dtypes[i]));
        table loaded = declare(be, 0), opened;
        T_OK(load(&loaded, path, "", 1));
        T_OK(open_table(&opened, be, path));
        T_OK(save(&loaded, same, TS_ST_F32));
        T_OK(save(&opened, again, TS_ST_F32));
        char want[17], got[17];
        uint64_t bytes;
        T_OK(ts_file_hash(same, want, &bytes));
        T_OK(ts_file_hash(again, got, &bytes));
        ck_assert_str_eq(got, want);
        if (be->mem_stored) T_TRUE(opened.d->in_use < loaded.d->in_use);
        for (ts_math math = TS_MATH_F32; math <= TS_MATH_BF16; math++)
            T_TRUE(memcmp(products(&opened, math), products(&loaded, math), 92 * sizeof(float)) == 0);
        float x[140] = { 0 };
        T_STATUS(be->mem_stored ? TS_E_INTERNAL : TS_OK, ts_params_put(opened.p, opened.matrix, x));
        end(&opened);
        end(&loaded);
    }
    end(&from);
    table t;
    write_tensor_file(IN("other.safetensors"), (const char *[]){ "matrix" }, (const int64_t[][2]){ { 3, 2 } }, 1);
    T_STATUS(TS_E_DATA, open_table(&t, be, IN("other.safetensors")));
    T_TRUE(strstr(ts_error(), "missing layer.3.bias, conv.weight, ") && strstr(ts_error(), "matrix has shape [3,2]"));
    end(&t);
}

/* Numbers of float64 cannot stay in the file: they are in memory, and a device may keep copies of them. */
static table open_doubles(const ts_backend *be, const char *path)
{
    table from = declare_only(be), t;
    ts_st_tensor tensors[16];
    for (int i = 0; i < ts_params_count(from.p); i++) {
        const ts_param *q = ts_params_at(from.p, i);
        const float *x = t_normals(q->count, 1, 30 + (uint64_t)i);
        double *wide = t_alloc((size_t)q->count * sizeof *wide);
        for (int64_t n = 0; n < q->count; n++) wide[n] = x[n];
        tensors[i] = (ts_st_tensor){ .name = q->name, .dtype = TS_ST_F64, .rank = q->rank, .data = wide };
        memcpy(tensors[i].shape, q->shape, sizeof q->shape);
        tensors[i].bytes = (uint64_t)q->count * sizeof *wide;
    }
    T_OK(ts_st_write(path, tensors, ts_params_count(from.p), NULL, NULL, 0));
    end(&from);
    T_OK(open_table(&t, be, path));
    return t;
}

/* Convolution and matrix as in declare_only, and as many other numbers. */
static table other_weights(ts_device *d)
{
    table t = { .d = d };
    const ts_init normal = ts_init_all(TS_INIT_NORMAL, 1);
    T_OK(ts_params_new(&t.p));
    t.conv = ts_params_add(t.p, normal, CONV | DECAY | PRODUCT, 4, TG_DIMS(2, 3, 3, 3), "conv");
    t.matrix = ts_params_add(t.p, normal, DECAY | PRODUCT, 2, TG_DIMS(20, 7), "matrix");
    ts_params_add(t.p, normal, 0, 1, TG_DIMS(128), "rest");
    T_OK(ts_params_allocate(t.p, d, 0));
    T_OK(ts_params_init(t.p, 3));
    return t;
}

/* Constant weights that change after all, or make room for others, are seen by products that were made with them before. */
T_TEST(change_after_open)
{
    (void)s;
    table t = open_doubles(be, IN("doubles.safetensors")), fresh;
    const void *place = t.matrix->data;
    const float *before = products(&t, TS_MATH_F32);
    const uint64_t serial = ts_params_serial(t.p);
    T_OK(ts_params_put(t.p, t.matrix, t_normals(140, 1, 50)));
    T_TRUE(ts_params_serial(t.p) != serial); /* recordings are not launched again */
    const float *after = products(&t, TS_MATH_F32);
    T_TRUE(memcmp(before, after, 60 * sizeof *before) != 0 && memcmp(before + 60, after + 60, 32 * sizeof *before) == 0);
    T_OK(ts_params_freeze(t.p));
    products(&t, TS_MATH_F32);
    ts_params_free(t.p);
    t = other_weights(t.d);
    T_TRUE(t.matrix->data == place);
    T_OK(ts_device_open(&fresh.d, be->name, 1, TS_MATH_F32));
    fresh = other_weights(fresh.d);
    T_TRUE(memcmp(products(&t, TS_MATH_F32), products(&fresh, TS_MATH_F32), 92 * sizeof *after) == 0);
    end(&t);
    end(&fresh);
}

/* Ties go to the even neighbour, what is too large becomes infinite, NaN stays NaN. */
T_TEST(bf16_rounding)
{
    (void)s;
    static const float cases[][2] = {
        { 0x1.01p0f, 1 },           { 0x1.03p0f, 0x1.04p0f },      { 0x1.010002p0f, 0x1.02p0f },
        { -0x1.03p0f, -0x1.04p0f }, { 0x1.fffffep127f, INFINITY }, { -INFINITY, -INFINITY },
        { 0x1p-140f, 0x0p0f },      { 0x1p-133f, 0x1p-133f },      { -0.0f, -0.0f }
    };
    enum { CASES = sizeof cases / sizeof *cases };
    table t = declare(be, 0);
    float x[140] = { 0 };
    for (int i = 0; i < CASES; i++) x[i] = cases[i][0];
    x[CASES] = NAN;
    T_OK(ts_params_put(t.p, t.matrix, x));
    const char *path = IN("rounded.safetensors");
    T_OK(save(&t, path, TS_ST_BF16));
    T_OK(load(&t, path, "", 1));
    const float *y = read_tensor(&t, t.matrix);
    for (int i = 0; i < CASES; i++)
        ck_assert_msg(memcmp(&y[i], &cases[i][1], 4) == 0, "%a became %a, expected %a", cases[i][0], y[i], cases[i][1]);
    T_TRUE(isnan(y[CASES]));
    end(&t);
}

/* Files hold convolutions as (O,I,k,k). */
T_TEST(file_order)
{
    (void)s;
    table t = declare(be, 0);
    float x[54];
    for (int i = 0; i < 54; i++) x[i] = (float)i;
    T_OK(ts_params_put(t.p, t.conv, x));
    const float *memory = read_tensor(&t, t.conv);
    for (int o = 0; o < 2; o++)
        for (int c = 0; c < 3; c++)
            for (int k = 0; k < 9; k++) T_TRUE(memory[(o * 9 + k) * 3 + c] == (float)((o * 3 + c) * 9 + k));
    const char *path = IN("conv.safetensors");
    T_OK(save(&t, path, TS_ST_F32));
    ts_st_file *f;
    T_OK(ts_st_open(&f, path));
    const ts_st_tensor *c = ts_st_find(f, "conv.weight");
    T_TRUE(c && c->rank == 4 && c->shape[0] == 2 && c->shape[1] == 3 && c->shape[2] == 3 && c->bytes == sizeof x);
    T_TRUE(memcmp(c->data, x, sizeof x) == 0);
    ts_st_close(f);
    ts_tensor stranger = { 0 };
    T_STATUS(TS_E_INTERNAL, ts_params_put(t.p, &stranger, x));
    end(&t);
}

/* Several buffers under prefixes in one file, as checkpoints have them. */
T_TEST(prefixes)
{
    (void)s;
    static const ts_buffer buffers[] = { TS_BUFFER_WEIGHT, TS_BUFFER_M };
    static const char *const prefixes[] = { "weight.", "m." };
    table t = declare(be, 1);
    const char *path = IN("state.safetensors");
    const float *weight = read_tensor(&t, t.matrix);
    T_OK(ts_params_save(t.p, path, buffers, prefixes, 2, TS_ST_F32, (const char *[]){ "key" },
                        (const char *[]){ "value" }, 1));
    T_OK(ts_params_init(t.p, 5));
    T_OK(load(&t, path, "weight.", 0));
    T_TRUE(memcmp(read_tensor(&t, t.matrix), weight, 140 * sizeof *weight) == 0);
    T_OK(load(&t, path, "m.", 0));
    const float *m = read_tensor(&t, t.matrix);
    for (int i = 0; i < 140; i++) T_TRUE(m[i] == 0);
    T_STATUS(TS_E_DATA, load(&t, path, "weight.", 1)); /* the other buffer's tensors are unknown to it */
    end(&t);
}

static table two_matrices(const ts_backend *be)
{
    table t;
    T_OK(ts_device_open(&t.d, be->name, 1, TS_MATH_F32));
    T_OK(ts_params_new(&t.p));
    t.matrix = ts_params_add(t.p, ts_init_all(TS_INIT_CONST, 2), 0, 2, TG_DIMS(2, 3), "a");
    t.q = ts_params_add(t.p, ts_init_all(TS_INIT_CONST, 3), 0, 2, TG_DIMS(4, 4), "b");
    t.k = ts_params_add(t.p, ts_init_all(TS_INIT_CONST, 4), FROZEN, 2, TG_DIMS(1, 2), "c");
    T_OK(ts_params_allocate(t.p, t.d, 0));
    return t;
}

/* All that does not fit is one line; nothing is loaded then. */
T_TEST(complaints)
{
    (void)s;
    table t = two_matrices(be);
    T_OK(ts_params_init(t.p, 1));
    const char *path = IN("other.safetensors");
    write_tensor_file(path, (const char *[]){ "a", "x" }, (const int64_t[][2]){ { 3, 2 }, { 1, 1 } }, 2);
    T_STATUS(TS_E_DATA, load(&t, path, "", 1));
    static const char *const parts[] = { "other.safetensors", "missing b", "tensor a has shape [3,2], expected [2,3]",
                                         "unknown tensor x" };
    for (int i = 0; i < 4; i++)
        ck_assert_msg(strstr(ts_error(), parts[i]) != NULL, "'%s' is not in: %s", parts[i], ts_error());
    ck_assert_ptr_null(strchr(ts_error(), '\n'));
    ck_assert_ptr_null(strstr(ts_error(), "missing c")); /* frozen ones may be missing */
    T_TRUE(read_tensor(&t, t.matrix)[0] == 2);
    T_STATUS(TS_E_DATA, load(&t, path, "", 0));
    ck_assert_ptr_null(strstr(ts_error(), "unknown"));

    write_tensor_file(path, (const char *[]){ "p", "q", "r" }, (const int64_t[][2]){ { 1, 1 }, { 1, 1 }, { 1, 1 } }, 3);
    T_STATUS(TS_E_DATA, load(&t, path, "", 1));
    const char *line = "does not fit its configuration: missing a, b; unknown tensor p, q, r";
    ck_assert_msg(strcmp(ts_error() + strlen(ts_error()) - strlen(line), line) == 0, "%s", ts_error());

    write_tensor_file(path, (const char *[]){ "a", "b" }, (const int64_t[][2]){ { 2, 3 }, { 4, 4 } }, 2);
    T_OK(ts_params_init(t.p, 1));
    T_OK(load(&t, path, "", 1));
    T_TRUE(read_tensor(&t, t.matrix)[5] == 0 && read_tensor(&t, t.q)[15] == 0);
    T_TRUE(read_tensor(&t, t.k)[1] == 4); /* not in the file: its initial value */
    end(&t);
}

/* Twenty of a kind are named, long names less, and the others counted; what comes after has its place. */
T_TEST(many_complaints)
{
    (void)s;
    enum { N = 45 };
    static char long_names[N][120], short_names[N][8];
    const char *names[N];
    int64_t shapes[N][2];
    table t = two_matrices(be);
    const char *path = IN("many.safetensors");
    for (int i = 0; i < N; i++) {
        snprintf(short_names[i], sizeof short_names[i], "u%02d", i);
        snprintf(long_names[i], sizeof long_names[i], "l%0100d", i);
        names[i] = short_names[i];
        shapes[i][0] = shapes[i][1] = 1;
    }
    write_tensor_file(path, names, (const int64_t(*)[2])shapes, N);
    T_STATUS(TS_E_DATA, load(&t, path, "", 1));
    T_TRUE(strstr(ts_error(), "missing a, b; unknown tensor u00, u01") != NULL);
    T_TRUE(strstr(ts_error(), "u18, u19 and 25 more") != NULL && !strstr(ts_error(), "u20"));
    for (int i = 0; i < N; i++) names[i] = long_names[i];
    write_tensor_file(path, names, (const int64_t(*)[2])shapes, N);
    T_STATUS(TS_E_DATA, load(&t, path, "", 1));
    int shown = 0, more = 0;
    for (const char *c = strstr(ts_error(), "unknown tensor "); c && (c = strstr(c, "l00")); c++) shown++;
    const char *rest = strstr(ts_error(), " and ");
    T_TRUE(rest && sscanf(rest, " and %d more", &more) == 1);
    T_TRUE(shown > 10 && shown <= 20);
    T_EQI(shown + more, N);
    end(&t);
}

/* --- steps --- */

static void set_gradients(table *t, float value)
{
    for (int i = 0; i < ts_params_count(t->p); i++) {
        const ts_param *q = ts_params_at(t->p, i);
        float *x = t_alloc((size_t)q->count * sizeof *x);
        for (int64_t j = 0; j < q->count; j++) x[j] = value;
        T_OK(t->d->be->upload(t->d->s, q->tensor.grad, x, (size_t)q->count * sizeof *x));
    }
}

T_TEST(steps)
{
    (void)s;
    table t = declare(be, 1);
    const ts_adamw a = { 0.1f, 0.9f, 0.99f, 1e-8f, 0.5f, 0, 0.5f, 1 };
    const float *matrix = read_tensor(&t, t.matrix), *bias = read_tensor(&t, t.bias), *k = read_tensor(&t, t.k);
    float norm;
    set_gradients(&t, 2);
    T_OK(ts_params_step(t.p, &a, &norm));
    T_NEAR(norm, 2 * sqrt((double)ts_params_floats(t.p) - 16), 1e-4); /* without the frozen ones */
    const float *after = read_tensor(&t, t.matrix), *bias_after = read_tensor(&t, t.bias);
    for (int i = 0; i < 140; i++) T_NEAR(after[i], matrix[i] * (1 - 0.1 * 0.5) - 0.1, 1e-6 + 1e-6 * fabsf(matrix[i]));
    for (int i = 0; i < 5; i++) T_NEAR(bias_after[i], bias[i] - 0.1, 1e-6); /* no decay */
    T_TRUE(memcmp(read_tensor(&t, t.k), k, 16 * sizeof *k) == 0);           /* frozen */
    for (int i = 0; i < ts_params_count(t.p); i++) {
        const ts_param *q = ts_params_at(t.p, i);
        const float *grad = read_floats(&t, q->tensor.grad, q->count);
        for (int64_t j = 0; j < q->count; j++) T_TRUE(grad[j] == 0);
    }

    ts_params_swap_ema(t.p);
    const float *ema = read_tensor(&t, t.matrix), *span = read_floats(&t, t.span->data, 48), *q = read_tensor(&t, t.q);
    for (int i = 0; i < 140; i++) T_NEAR(ema[i], 0.5 * matrix[i] + 0.5 * after[i], 1e-6 + 1e-6 * fabsf(matrix[i]));
    T_TRUE(memcmp(span, q, 16 * sizeof *q) == 0); /* spans go with it */
    ts_params_swap_ema(t.p);
    T_TRUE(memcmp(read_tensor(&t, t.matrix), after, 140 * sizeof *after) == 0);

    static const float bad[] = { INFINITY, NAN };
    for (int i = 0; i < 2; i++) {
        set_gradients(&t, bad[i]);
        T_OK(ts_params_step(t.p, &a, &norm));
        T_TRUE(!isfinite(norm));
        T_TRUE(memcmp(read_tensor(&t, t.matrix), after, 140 * sizeof *after) == 0); /* skipped */
        T_TRUE(read_floats(&t, t.matrix->grad, 1)[0] == 0);
    }
    end(&t);
}

/* A parameter that is moved by other means: the optimizer leaves it alone, and its average takes its value when told. */
T_TEST(hold_and_carry)
{
    (void)s;
    table t = declare(be, 1);
    const ts_adamw a = { 0.1f, 0.9f, 0.99f, 1e-8f, 0.5f, 0, 0.5f, 1 };
    static const float moved[5] = { 1, 2, 3, 4, 5 };
    float norm;
    ts_params_hold(t.p, t.bias);
    T_TRUE(!t.bias->needs_grad && t.q->needs_grad);
    T_OK(t.d->be->upload(t.d->s, t.q->grad, moved, sizeof moved)); /* of q, v and others there is one */
    T_OK(t.d->be->upload(t.d->s, t.bias->data, moved, sizeof moved));
    T_OK(ts_params_step(t.p, &a, &norm));
    T_TRUE(isfinite(norm) && memcmp(read_tensor(&t, t.bias), moved, sizeof moved) == 0);
    const float *others = read_tensor(&t, t.matrix);
    T_OK(ts_params_carry(t.p, t.bias));
    ts_params_swap_ema(t.p);
    T_TRUE(memcmp(read_tensor(&t, t.bias), moved, sizeof moved) == 0);
    T_TRUE(memcmp(read_tensor(&t, t.matrix), others, 140 * sizeof *others) != 0); /* no other was carried */
    T_TRUE(!t.bias->needs_grad && t.q->needs_grad);
    T_STATUS(TS_E_INTERNAL, ts_params_carry(t.p, t.span));
    end(&t);
}

int main(void)
{
    Suite *u = t_suite("params");
    T_ADD1(u, layout);
    T_ADD1(u, initial_values);
    T_ADD1(u, save_and_load);
    T_ADD(u, open_in_place);
    T_ADD(u, change_after_open);
    T_ADD1(u, bf16_rounding);
    T_ADD1(u, file_order);
    T_ADD1(u, prefixes);
    T_ADD1(u, complaints);
    T_ADD1(u, many_complaints);
    T_ADD1(u, steps);
    T_ADD1(u, hold_and_carry);
    return t_run(u);
}
