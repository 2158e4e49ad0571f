/* test_faults.cpp - the CUDA backend says no in one line: to sizes that a device or cuBLAS cannot do, and when a call
 * of the runtime fails. */
#include <cstring>

#include "kernels/cuda/product.h"
#include "tessera/op_attention.h"
#include "tessera/op_cross_entropy.h"
#include "tessera/op_digit_head.h"
#include "tessera/op_group_norm.h"
#include "tests/emu/emu.h"
#include "tests/emu/strict.h"

#define REFUSED(status, text, expr)                                                                                    \
    do {                                                                                                               \
        ck_assert_int_eq(expr, status);                                                                                \
        ck_assert_str_eq(ts_error(), text);                                                                            \
    } while (0)

START_TEST(sizes)
{
    ck_assert_int_eq(stream_new_cuda(&s, 0, 0), TS_OK);
    const ts_attention images = { 65536, 1, 2, 4, 1, 0, 1, TS_MATH_F32, TS_F32 },
                       heads = { 1, 1, 65536, 4, 1, 0, 1, TS_MATH_F32, TS_F32 };
    REFUSED(TS_E_ARG, "attention: 65536 images and 2 heads, at most 65535",
            attention_fwd_cuda(s, nullptr, nullptr, nullptr, nullptr, nullptr, &images, nullptr));
    REFUSED(TS_E_ARG, "attention: 1 images and 65536 heads, at most 65535",
            attention_fwd_cuda(s, nullptr, nullptr, nullptr, nullptr, nullptr, &heads, nullptr));
    REFUSED(TS_E_ARG, "attention: 65536 images and 2 heads, at most 65535",
            attention_bwd_cuda(s, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, &images,
                               nullptr));
    REFUSED(TS_E_ARG, "attention: 1 images and 65536 heads, at most 65535",
            attention_cached_cuda(s, nullptr, nullptr, nullptr, nullptr, nullptr, &heads, nullptr));
    const ts_group_norm wide = { 1, (int64_t)1 << 31, 1, 1, 0, 0, TS_F32 };
    REFUSED(TS_E_ARG, "group_norm: 2147483648 positions, at most 2147481599",
            group_norm_fwd_cuda(s, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, &wide));
    REFUSED(TS_E_ARG, "group_norm: 2147483648 positions, at most 2147481599",
            group_norm_bwd_cuda(s, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                                &wide, nullptr));
    const ts_operand x = { nullptr, 0 };
    REFUSED(TS_E_ARG, "a product of (2147483648,2) and (2,3) is too large for cuBLAS",
            ts_product(s, nullptr, x, x, (int64_t)1 << 31, 3, 2, TS_MATH_F32, 0));
    REFUSED(TS_E_DEVICE, "cuBLAS refuses a product of (-1,2) and (2,3): status 7",
            ts_product(s, nullptr, x, x, -1, 3, 2, TS_MATH_F32, 0));
    const int32_t level[16] = { 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5 };
    ts_digit_head d;
    ck_assert_int_eq(ts_digit_head_init(&d, level, 13, 4096, 1), TS_OK);
    const ts_digit_params p = {};
    REFUSED(TS_E_ARG, "digit head: 13 digits of 4096 hidden channels are too many for one block",
            digit_head_cuda(s, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, &p, 1, &d, 1, 1, nullptr));
    stream_free_cuda(s);
}
END_TEST

/* Whichever call fails, opening a stream fails with a line, and what it had taken is given back. */
START_TEST(opening)
{
    const size_t room = emu::device_room();
    int n = 0, other = 0;
    for (bool failed = true; failed; n++) {
        char text[16];
        snprintf(text, sizeof text, "%d", n + 1);
        setenv("TS_EMU_FAIL", text, 1);
        const ts_status st = stream_new_cuda(&s, 0, 0);
        failed = !getenv("TS_EMU_FAIL");
        ck_assert_int_eq(st != TS_OK, failed);
        ck_assert_int_eq(s == nullptr, failed);
        if (failed) ck_assert_msg(st == TS_E_DEVICE || st == TS_E_NOMEM, "call %d: status %d", n + 1, st);
        if (failed) ck_assert_int_ge(strlen(ts_error()), 10);
        other += failed && !strstr(ts_error(), "cuda") && !strstr(ts_error(), "CUDA");
        stream_free_cuda(s);
        ck_assert_uint_eq(emu::device_room(), room);
    }
    ck_assert_int_ge(n, 8);
    ck_assert_int_eq(other, 0); /* every line says what it is about */
}
END_TEST

/* Call number `call` fails; nothing is launched then. */
static void fails(int call, const char *op, ts_status (*run)())
{
    char text[16];
    ck_assert_int_eq(stream_sync_cuda(s), TS_OK);
    snprintf(text, sizeof text, "%d", call);
    setenv("TS_EMU_FAIL", text, 1);
    ck_assert_int_eq(run(), TS_E_DEVICE);
    ck_assert_msg(strstr(ts_error(), op), "%s", ts_error());
}

static const ts_group_norm map = { 1, 4096, 40, 8, 1e-6f, 1, TS_F32 };
static float x; /* nobody reads it */
static double scratch;

/* Whichever call fails before blocks share a map or a row. */
START_TEST(sharing)
{
    ck_assert_int_eq(stream_new_cuda(&s, 0, 0), TS_OK);
    for (int call = 1; call <= 4; call++) {
        fails(call, "group_norm", [] { return group_norm_fwd_cuda(s, &x, &x, &x, &x, &x, &x, &map); });
        fails(call, "group_norm",
              [] { return group_norm_bwd_cuda(s, &x, &x, &x, &x, &x, &x, &x, &x, &x, &map, &scratch); });
        if (call < 4)
            fails(call, "cross_entropy", [] { return cross_entropy_cuda(s, &x, &x, &x, nullptr, 1, 2, 100000); });
    }
    setenv("TS_EMU_PROCESSORS", "1", 1); /* a device that others have taken */
    REFUSED(TS_E_DEVICE, "group_norm_slab_k1<float>: too many blocks in cooperative launch",
            group_norm_fwd_cuda(s, &x, &x, &x, &x, &x, &x, &map));
    unsetenv("TS_EMU_PROCESSORS");
    stream_free_cuda(s);
}
END_TEST

int main()
{
    return run_tests("faults", { sizes, opening, sharing });
}
