/* test_device.c - opening devices by name, and the caching allocator. Contract: host/device.h. */
#include "host/device.h"
#include "kernels/cpu/arena.h"
#include "tests/t.h"

#include <stdint.h>
#include <unistd.h>

static ts_device *open_cpu(void)
{
    ts_device *d;
    T_OK(ts_device_open(&d, "cpu", 1, TS_MATH_F32));
    return d;
}

T_TEST(names)
{
    (void)be, (void)s;
    static const char *const good[] = { "auto", "cpu", "cpu:0" };
    for (int i = 0; i < 3; i++) {
        ts_device *d;
        T_OK(ts_device_open(&d, good[i], 0, TS_MATH_F32));
        T_TRUE(d->be && d->s && d->in_use == 0 && d->held == 0);
        ts_device_close(d);
    }
    ts_device_close(NULL);
}

/* Every refusal names what was given; a number that is none must not become device 0. */
T_TEST(bad_names)
{
    (void)be, (void)s;
    static const struct {
        const char *spec;
        ts_status status;
    } cases[] = { { "", TS_E_ARG },
                  { "gpu", TS_E_ARG },
                  { "CPU", TS_E_ARG },
                  { "cpu ", TS_E_ARG },
                  { "cpu:", TS_E_ARG },
                  { "cpu:x", TS_E_ARG },
                  { "cpu:-1", TS_E_ARG },
                  { "cpu:0x", TS_E_ARG },
                  { "auto:1", TS_E_ARG },
                  { "cpu:1", TS_E_DEVICE },
                  { "cpu:99999999999", TS_E_ARG },
                  { "a-name-that-is-far-longer-than-any-backend-of-this-program-has", TS_E_ARG } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ts_device *d = NULL;
        ts_status st = ts_device_open(&d, cases[i].spec, 1, TS_MATH_F32);
        ck_assert_msg(st == cases[i].status, "'%s': status %d (%s)", cases[i].spec, st, ts_error());
        ck_assert_msg(strstr(ts_error(), cases[i].spec) != NULL, "'%s' is not in: %s", cases[i].spec, ts_error());
        ck_assert_ptr_null(d);
    }
    ts_device *d = NULL;
    T_STATUS(TS_E_ARG, ts_device_open(&d, "cpu", -1, TS_MATH_F32));
}

/* A block is at least as large as asked for and at most a quarter larger, whatever the size. */
T_TEST(sizes)
{
    (void)be, (void)s;
    ts_device *d = open_cpu();
    for (size_t bytes = 1; bytes < (size_t)1 << 22; bytes += 1 + bytes / 7) {
        ts_block *b = ts_block_get(d, bytes);
        ck_assert_ptr_nonnull(b);
        T_TRUE(b->bytes >= bytes && (bytes < 256 || b->bytes <= bytes + bytes / 4 + 64));
        T_EQI((uintptr_t)b->p % 256, 0);
        memset(b->p, 0xab, b->bytes); /* the sanitizer sees a block that is shorter than it says */
        T_EQI(d->in_use, b->bytes);
        ts_block_drop(d, b);
    }
    T_EQI(d->in_use, 0);
    ts_device_trim(d);
    T_EQI(d->held, 0);
    ts_device_close(d);
}

T_TEST(reuse)
{
    (void)be, (void)s;
    ts_device *d = open_cpu();
    ts_block *a = ts_block_get(d, 1000), *b = ts_block_get(d, 1000);
    T_TRUE(a != b && a->p != b->p);
    size_t held = d->held;
    T_EQI(d->peak, a->bytes + b->bytes);
    T_TRUE(ts_block_keep(a) == a);
    ts_block_drop(d, a);
    T_EQI(d->in_use, a->bytes + b->bytes); /* one reference is left */
    ts_block_drop(d, a);
    T_EQI(d->in_use, b->bytes);
    ts_block *c = ts_block_get(d, 990); /* of the same class */
    T_TRUE(c == a);
    T_EQI(d->held, held);
    ts_block_drop(d, b);
    ts_block_drop(d, c);
    ts_block_drop(d, NULL);
    ck_assert_ptr_null(ts_block_keep(NULL));
    T_EQI(d->peak, held);
    ts_device_close(d);
}

static const ts_backend *real;
static size_t room; /* bytes the fake backend still hands out */

static ts_status scarce_alloc(ts_stream *s, void **p, size_t bytes)
{
    if (bytes > room) return ts_fail(TS_E_NOMEM, "no memory: %zu bytes were asked for", bytes);
    room -= bytes;
    return real->mem_alloc(s, p, bytes);
}

static void scarce_free(ts_stream *s, void *p)
{
    room += 4096;
    real->mem_free(s, p);
}

/* When the system has no more, what lies spare in other sizes is given back and the request repeated. */
T_TEST(scarce)
{
    (void)s;
    ts_device *d = open_cpu();
    ts_backend fake = *be;
    real = be;
    fake.mem_alloc = scarce_alloc;
    fake.mem_free = scarce_free;
    d->be = &fake;
    room = 8192;
    ts_block *a = ts_block_get(d, 4096), *b = ts_block_get(d, 4096);
    T_TRUE(a && b);
    ck_assert_ptr_null(ts_block_get(d, 8192));
    T_TRUE(strstr(ts_error(), "8192") != NULL);
    ts_block_drop(d, a);
    ts_block_drop(d, b);
    T_EQI(d->held, 8192);
    ts_block *c = ts_block_get(d, 8192);
    ck_assert_ptr_nonnull(c);
    T_EQI(d->held, 8192);
    ts_block_drop(d, c);
    ck_assert_ptr_null(ts_block_get(d, SIZE_MAX));
    ck_assert_ptr_null(ts_block_get(d, SIZE_MAX / 2));
    ts_device_close(d);
}

/* Blocks of any size, taken and freed in any order, do not overlap; what was freed is taken again. */
T_TEST(memory_of_a_stream)
{
    enum { N = 40, TURNS = 3000, MOST = 50000 };
    char *p[N] = { 0 };
    size_t size[N] = { 0 };
    uint64_t seed = 1;
    uintptr_t low = UINTPTR_MAX, high = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        int i = (int)(t_next(&seed) % N);
        for (size_t j = 0; p[i] && j < size[i]; j += 97) T_TRUE(p[i][j] == (char)i);
        be->mem_free(s, p[i]);
        size[i] = 1 + t_next(&seed) % MOST;
        T_OK(be->mem_alloc(s, (void **)&p[i], size[i]));
        T_EQI((uintptr_t)p[i] % 256, 0);
        memset(p[i], i, size[i]);
        if ((uintptr_t)p[i] < low) low = (uintptr_t)p[i];
        if ((uintptr_t)p[i] > high) high = (uintptr_t)p[i];
    }
#ifndef __SANITIZE_ADDRESS__ /* which keeps freed blocks for a while */
    T_TRUE(high - low < (uintptr_t)4 * N * MOST);
#else
    T_TRUE(high > low);
#endif
    for (int i = 0; i < N; i++) be->mem_free(s, p[i]);
    void *none;
    T_STATUS(TS_E_NOMEM, be->mem_alloc(s, &none, SIZE_MAX - 7));
}

/* Beyond the end of the range there is nothing, however large the gap that is asked for. */
T_TEST(arena_has_an_end)
{
    (void)be, (void)s;
    const size_t all = 2 * (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    struct arena *a = arena_new();
    if (!a) return; /* the system gives no such range */
    char *first = arena_take(a, 1), *rest;
    T_TRUE(first != NULL);
    T_TRUE(arena_take(a, all) == NULL && arena_take(a, all - 1) == NULL && arena_take(a, SIZE_MAX) == NULL);
    T_TRUE((rest = arena_take(a, all - 256)) == first + 256);
    T_TRUE(arena_take(a, 1) == NULL);
    T_TRUE(arena_drop(a, first) && !arena_drop(a, first) && !arena_drop(a, rest + 1) && arena_take(a, 1) == first);
    arena_free(a);
}

/* What is listed can be opened under the name it is listed with. */
T_TEST(listed)
{
    (void)s;
    char spec[32], about[TS_ABOUT];
    int n = 0, mine = 0;
    for (; ts_device_at(n, spec, about); n++) {
        ts_device *d;
        T_OK(ts_device_open(&d, spec, 1, TS_MATH_F32));
        if (n == 0) T_TRUE(strcmp(spec, "cpu") == 0);
        T_TRUE(*about && !strpbrk(about, "\t\n"));
        mine += d->be == be;
        ts_device_close(d);
    }
    T_TRUE(n > 0 && mine > 0 && ts_device_at(n + 1, spec, about) == 0 && ts_device_at(-1, spec, about) == 0);
    T_STATUS(TS_E_DEVICE, be->about(9999, about));
    T_STATUS(TS_E_DEVICE, be->about(-1, about));
}

/* Two emulated devices, both listed. */
T_TEST(listed_by_number)
{
    if (strcmp(be->name, "emu") != 0) return;
    (void)s;
    char spec[32], about[TS_ABOUT];
    setenv("TS_EMU_DEVICES", "2", 1);
    for (int i = 0; i < 2; i++) {
        T_TRUE(ts_device_at(1 + i, spec, about));
        ck_assert_str_eq(spec, i ? "emu:1" : "emu:0");
        ck_assert_str_eq(about, "emulated device, 16.0 GiB, compute capability 8.0");
        ts_device *d;
        T_OK(ts_device_open(&d, spec, 1, TS_MATH_F32));
        T_EQI(d->index, i);
        ts_device_close(d);
    }
    T_EQI(ts_device_at(3, spec, about), 0);
}

int main(void)
{
    Suite *u = t_suite("device");
    T_ADD1(u, names);
    T_ADD1(u, bad_names);
    T_ADD1(u, sizes);
    T_ADD1(u, reuse);
    T_ADD1(u, scarce);
    T_ADD1(u, memory_of_a_stream);
    T_ADD1(u, arena_has_an_end);
    T_ADD(u, listed);
    T_ADD(u, listed_by_number);
    return t_run(u);
}
