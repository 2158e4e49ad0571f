/* test_kept.cpp - constant weights are rounded once (kernels/cuda/kept.h): what memory that takes and when it is given back, that
 * recordings take none, and what happens when there is none. That results are right is for the op tests. */
#include <cstring>
#include <vector>

#include "tessera/op_conv2d.h"
#include "tessera/op_linear.h"
#include "tests/emu/emu.h"
#include "tests/emu/strict.h"

enum { ROWS = 2, IN = 64, OUT = 32, WEIGHTS = IN * OUT, ROUNDED = 2 * WEIGHTS };

static const ts_linear product = { ROWS, IN, OUT, TS_MATH_BF16, TS_F32, TS_NO_ACT, TS_F32 };
static float *x, *w, *y, *scratch; /* w: two matrices, or a kernel of 3x3 from 8 channels to 8 */

static float *device_floats(int n, float step)
{
    std::vector<float> host(n);
    void *p;
    for (int i = 0; i < n; i++) host[i] = step * (float)(i % 101 - 50);
    ck_assert_int_eq(mem_alloc_cuda(s, &p, n * sizeof(float)), TS_OK);
    ck_assert_int_eq(upload_cuda(s, p, host.data(), n * sizeof(float)), TS_OK);
    return (float *)p;
}

static void open_all()
{
    ck_assert_int_eq(stream_new_cuda(&s, 0, 0), TS_OK);
    x = device_floats(ROWS * IN, 0.37f);
    w = device_floats(2 * WEIGHTS, 0.111f);
    y = device_floats(4 * ROWS * OUT, 0);
    scratch = device_floats(1 << 14, 0);
}

static void close_all()
{
    for (float *p : { x, w, y, scratch }) mem_free_cuda(s, p);
    stream_free_cuda(s);
}

/* Of matrix 0 or 1. */
static ts_status multiply(int matrix, float *to)
{
    return linear_fwd_cuda(s, to, x, w + matrix * WEIGHTS, nullptr, &product, scratch);
}

static void expect_same(const float *a, const float *b)
{
    float host[2][ROWS * OUT];
    ck_assert_int_eq(download_cuda(s, host[0], a, sizeof host[0]), TS_OK);
    ck_assert_int_eq(download_cuda(s, host[1], b, sizeof host[1]), TS_OK);
    ck_assert_mem_eq(host[0], host[1], sizeof host[0]);
    ck_assert(host[0][0] != 0);
}

static void declare(int on)
{
    ck_assert_int_eq(mem_constant_cuda(s, w, 2 * WEIGHTS * sizeof(float), on), TS_OK);
}

START_TEST(memory)
{
    const size_t all = emu::device_room();
    const ts_conv2d c = { 1, 2, 2, 8, 8, 3, 1, 1, 1, TS_MATH_BF16, TS_F32, 0 };
    open_all();
    ck_assert_int_eq(conv2d_fwd_cuda(s, y, x, w, nullptr, &c, scratch), TS_OK); /* cuDNN is open now */
    const size_t room = emu::device_room();
    ck_assert_int_eq(multiply(0, y), TS_OK);
    declare(1);
    ck_assert_uint_eq(emu::device_room(), room);
    for (int twice = 0; twice < 2; twice++) {
        ck_assert_int_eq(multiply(0, y), TS_OK);
        ck_assert_uint_eq(room - emu::device_room(), ROUNDED);
    }
    ck_assert_int_eq(multiply(1, y), TS_OK);
    ck_assert_uint_eq(room - emu::device_room(), 2 * ROUNDED);
    for (int twice = 0; twice < 2; twice++) {
        ck_assert_int_eq(conv2d_fwd_cuda(s, y, x, w, nullptr, &c, scratch), TS_OK);
        ck_assert_uint_eq(room - emu::device_room(), 2 * ROUNDED + 8 * 9 * 8 * sizeof(float));
    }
    ck_assert_int_eq(mem_constant_cuda(s, x, 0, 0), TS_OK); /* nobody declared that */
    declare(0);
    ck_assert_uint_eq(emu::device_room(), room);
    ck_assert_int_eq(multiply(0, y), TS_OK);
    ck_assert_uint_eq(emu::device_room(), room);
    declare(1);
    ck_assert_int_eq(multiply(0, y), TS_OK);
    close_all(); /* with all that it keeps */
    ck_assert_uint_eq(emu::device_room(), all);
}
END_TEST

/* The emulated device ends a program that asks for memory while it records. */
START_TEST(recordings)
{
    ts_capture *c;
    open_all();
    float *const to[] = { y, y + ROWS * OUT, y + 2 * ROWS * OUT, y + 3 * ROWS * OUT };
    for (int i = 0; i < 2; i++) ck_assert_int_eq(multiply(i, to[i]), TS_OK);
    declare(1);
    ck_assert_int_eq(multiply(0, to[2]), TS_OK);
    setenv("TS_EMU_FAIL", "1", 1);
    ck_assert_int_eq(capture_begin_cuda(s), TS_E_DEVICE);
    const size_t room = emu::device_room();
    ck_assert_int_eq(capture_begin_cuda(s), TS_OK);
    for (int i = 0; i < 2; i++) ck_assert_int_eq(multiply(i, to[i + 2]), TS_OK);
    ck_assert_int_eq(capture_end_cuda(s, &c), TS_OK);
    for (int twice = 0; twice < 2; twice++) {
        ck_assert_int_eq(zero_cuda(s, to[2], 2 * ROWS * OUT * sizeof(float)), TS_OK);
        ck_assert_int_eq(capture_launch_cuda(s, c), TS_OK);
        for (int i = 0; i < 2; i++) expect_same(to[i], to[i + 2]);
    }
    ck_assert_uint_eq(emu::device_room(), room);
    ck_assert_int_eq(multiply(1, to[3]), TS_OK); /* now it is kept */
    ck_assert_uint_eq(room - emu::device_room(), ROUNDED);
    expect_same(to[1], to[3]);
    capture_free_cuda(s, c);
    close_all();
}
END_TEST

/* Calls of a product: x is rounded, memory is asked for, w is rounded. */
START_TEST(failures)
{
    open_all();
    float *const want = y, *const got = y + ROWS * OUT;
    ck_assert_int_eq(multiply(0, want), TS_OK);
    const size_t room = emu::device_room();
    declare(1);
    setenv("TS_EMU_FAIL", "3", 1);
    ck_assert_int_eq(multiply(0, got), TS_E_DEVICE);
    ck_assert_uint_eq(emu::device_room(), room);
    for (int twice = 0; twice < 2; twice++) { /* no memory: not asked for again */
        ck_assert_int_eq(zero_cuda(s, got, ROWS * OUT * sizeof(float)), TS_OK);
        if (!twice) setenv("TS_EMU_FAIL", "2", 1);
        ck_assert_int_eq(multiply(0, got), TS_OK);
        expect_same(want, got);
        ck_assert_ptr_null(getenv("TS_EMU_FAIL"));
        ck_assert_uint_eq(emu::device_room(), room);
    }
    declare(0);
    declare(1);
    ck_assert_int_eq(multiply(0, got), TS_OK);
    expect_same(want, got);
    ck_assert_uint_eq(room - emu::device_room(), ROUNDED);
    close_all();
}
END_TEST

int main()
{
    return run_tests("kept", { memory, recordings, failures });
}
