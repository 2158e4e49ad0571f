/* test_sample_source.c - draws whose seed and first picture stand in device memory are those of the same numbers given
 * by value. */
#include "tests/t.h"

enum { B = 3, T = 7, V = 40, D = 5, M = 33 };

static const ts_sample RIGHT = { .B = B,
                                 .t = T,
                                 .V = V,
                                 .temperature = 1,
                                 .top_p = 0.9f,
                                 .token0 = 5,
                                 .seed = 0x0123456789abcdefu,
                                 .image0 = 0x123456789u };

/* Other numbers by value, those of RIGHT in device memory. */
static ts_sample elsewhere(const ts_backend *be, ts_stream *s)
{
    const uint64_t source[2] = { RIGHT.seed, RIGHT.image0 };
    ts_sample a = RIGHT;
    a.seed = 3, a.image0 = 8;
    a.source = t_in(be, s, source, 2, 8)->dev;
    return a;
}

static int32_t *drawn(const ts_backend *be, ts_stream *s, const ts_sample *a)
{
    t_buf *idx = t_out(be, s, B * T, 4), *scratch = t_out(be, s, (int64_t)be->sample_scratch(s, a), 1);
    T_OK(be->sample(s, idx->dev, T_INF(t_normals(B * T * V, 1, 9), B * T * V)->dev, a, scratch->dev));
    T_OK(be->stream_sync(s));
    t_down(idx);
    return T_I(idx);
}

static int32_t *digits(const ts_backend *be, ts_stream *s, const ts_sample *a)
{
    static const int32_t level[3] = { 5, 4, 7 };
    ts_digit_head d;
    T_OK(ts_digit_head_init(&d, level, 3, M, 1));
    ts_digit_params p = { T_INF(t_normals(3 * M, 1, 1), 3 * M)->dev, T_INF(t_normals(9 * M, 1, 2), 9 * M)->dev,
                          T_INF(t_normals(16 * M, 1, 3), 16 * M)->dev, T_INF(t_normals(16, 1, 4), 16)->dev };
    t_buf *idx = t_out(be, s, B * T, 4), *scratch = t_out(be, s, (int64_t)be->sample_scratch(s, a), 1);
    T_OK(be->sample_digits(s, idx->dev, T_INF(t_normals(B * T * M, 1, 9), B * T * M)->dev, &p, &d, 0, a, scratch->dev));
    T_OK(be->stream_sync(s));
    t_down(idx);
    return T_I(idx);
}

static float *smooth(const ts_backend *be, ts_stream *s, const ts_sample *a)
{
    const ts_smooth m = { D, 1, 0.3f };
    t_buf *code = T_OUTF(B * T * D), *scratch = t_out(be, s, (int64_t)be->sample_scratch(s, a), 1);
    T_OK(be->sample_smooth(s, code->dev, T_INF(t_normals(B * T * V, 1, 9), B * T * V)->dev,
                           T_INF(t_normals(V * D, 1, 5), V * D)->dev, a, &m, scratch->dev));
    T_OK(be->stream_sync(s));
    t_down(code);
    return T_F(code);
}

#define SAME(draw, bytes)                                                                                              \
    do {                                                                                                               \
        ts_sample there = elsewhere(be, s), wrong = there;                                                             \
        wrong.source = NULL;                                                                                           \
        ck_assert_mem_eq(draw(be, s, &there), draw(be, s, &RIGHT), bytes);                                             \
        ck_assert_mem_ne(draw(be, s, &wrong), draw(be, s, &RIGHT), bytes);                                             \
    } while (0)

T_TEST(tokens)
{
    SAME(drawn, B * T * sizeof(int32_t));
}

T_TEST(codes)
{
    SAME(digits, B * T * sizeof(int32_t));
}

T_TEST(means)
{
    SAME(smooth, B * T * D * sizeof(float));
}

int main(void)
{
    Suite *u = t_suite("sample_source");
    T_ADD(u, tokens);
    T_ADD(u, codes);
    T_ADD(u, means);
    return t_run(u);
}
