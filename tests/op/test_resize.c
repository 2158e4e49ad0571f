/* test_resize.c - resizing on every backend: Pillow's results, and the same bits as the CPU.
 *
 * Oracle     Pillow: sizes and the XXH3 of all results are those of chosen_sizes in tests/host/test_resize.c, which compares them with
 *            Pillow itself where it is installed. Plans of random whole numbers against a plain loop. */
#include "host/device.h"
#include "host/resize.h"
#include "tests/host/pillow.h"

static const int SIZES[][4] = {
    { 1, 1, 1, 1 },    { 1, 1, 31, 17 },  { 257, 31, 1, 1 },   { 31, 257, 31, 257 }, { 500, 375, 384, 288 },
    { 640, 9, 16, 9 }, { 16, 16, 48, 1 }, { 33, 700, 16, 17 }, { 2, 2, 1, 1 },       { 425, 250, 489, 288 },
};
enum { N = 3 * sizeof SIZES / sizeof *SIZES };

T_TEST(pillow)
{
    (void)s;
    ts_device *d;
    uint64_t sum = 0;
    T_OK(ts_device_open(&d, be->name, 2, TS_MATH_F32));
    for (int i = 0; i < N; i++) {
        const int *z = SIZES[i / 3];
        ts_image in = t_picture(z[0], z[1], (uint64_t)i + 1), out;
        T_OK(ts_image_resize(&out, &in, z[2], z[3], (ts_filter)(i % 3), NULL, d, "case"));
        sum = sum * 31 + t_image_hash(&out);
        ts_image_free(&out);
    }
    ck_assert_msg(sum == 0x331448b0268f2fc0, "hash of all results is 0x%016llx", (unsigned long long)sum);
    T_EQI(d->in_use, 0);
    ts_device_close(d);
}

/* Preprocessing on a device is preprocessing on the CPU. */
T_TEST(preprocessing)
{
    (void)s;
    ts_device *d;
    uint64_t seed = 4;
    T_OK(ts_device_open(&d, be->name, 2, TS_MATH_F32));
    for (int i = 0; i < 16; i++) {
        const int width = 5 + (int)(t_next(&seed) % 120), height = 5 + (int)(t_next(&seed) % 120), size = 4 + 4 * (i % 5);
        const float crop[2] = { (float)t_uniform(&seed), (float)t_uniform(&seed) };
        const ts_preprocess how = i % 2 ? TS_PREPROCESS_VAR : TS_PREPROCESS_ADM;
        ts_image in = t_picture(width, height, (uint64_t)i), want, got;
        T_OK(ts_image_preprocess(&want, &in, how, size, i % 4 == 3 ? crop : NULL, NULL, "here"));
        T_OK(ts_image_preprocess(&got, &in, how, size, i % 4 == 3 ? crop : NULL, d, "there"));
        t_same_image("picture", &got, &want);
        ts_image_free(&want);
        ts_image_free(&got);
    }
    ts_device_close(d);
}

static uint8_t clip(int64_t sum)
{
    const int64_t v = (int64_t)floor((double)(sum + (1 << 21)) / (1 << 22));
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static int ascending(const void *a, const void *b)
{
    return *(const int32_t *)a - *(const int32_t *)b;
}

/* Half a plan: random places and weights, so that results fall below 0, above 255, and between. */
static void half(int32_t *plan, int n_in, int n, int taps, uint64_t *seed)
{
    for (int j = 0; j < n; j++) {
        const int count = 1 + (int)(t_next(seed) % (uint64_t)(taps < n_in ? taps : n_in));
        plan[n + j] = count;
        plan[j] = (int32_t)(t_next(seed) % (uint64_t)n_in);
        for (int i = 0; i < taps; i++) plan[2 * n + j * taps + i] = (int32_t)((t_uniform(seed) - 0.3) * 2.0 * (1 << 22) / taps);
    }
    qsort(plan, (size_t)n, sizeof *plan, ascending);
    for (int j = 0; j < n; j++)
        if (plan[n + j] > n_in - plan[j]) plan[n + j] = n_in - plan[j];
}

static void expect(uint8_t *out, const uint8_t *in, const int32_t *plan, const ts_resize *r)
{
    const int32_t *rows = plan + r->width * (2 + r->taps_x);
    uint8_t *between = t_alloc((size_t)(r->rows * r->width * 3));
    for (int i = 0; i < r->rows * r->width * 3; i++) {
        const int c = i % 3, x = i / 3 % r->width, y = i / 3 / r->width;
        int64_t sum = 0;
        for (int j = 0; j < plan[r->width + x]; j++)
            sum += (int64_t)plan[2 * r->width + j * r->width + x] * in[(y * r->in_width + plan[x] + j) * 3 + c];
        between[i] = clip(sum);
    }
    for (int i = 0; i < r->height * r->width * 3; i++) {
        const int at = i % (r->width * 3), y = i / 3 / r->width;
        int64_t sum = 0;
        for (int j = 0; j < rows[r->height + y]; j++)
            sum += (int64_t)rows[2 * r->height + y * r->taps_y + j] * between[(rows[y] + j) * r->width * 3 + at];
        out[i] = clip(sum);
    }
}

T_TEST(random_plans)
{
    static const ts_resize CASES[] = { { 1, 1, 1, 1, 1, 1 }, { 40, 17, 23, 9, 5, 3 }, { 7, 50, 30, 1, 2, 50 }, { 300, 3, 2, 33, 300, 1 }, { 12000, 2, 300, 2, 40, 2 } }; /* the last: more than shared memory holds */
    uint64_t seed = 8;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const ts_resize *r = &CASES[i];
        const int n_in = r->rows * r->in_width * 3, n_out = r->height * r->width * 3;
        int32_t *plan = t_alloc(ts_resize_plan(r) * sizeof *plan);
        uint8_t *in = t_alloc((size_t)n_in), *want = t_alloc((size_t)n_out);
        for (int j = 0; j < n_in; j++) in[j] = (uint8_t)t_next(&seed);
        half(plan, r->in_width, r->width, r->taps_x, &seed);
        half(plan + r->width * (2 + r->taps_x), r->rows, r->height, r->taps_y, &seed);
        expect(want, in, plan, r);
        t_buf *from = t_in(be, s, in, n_in, 1), *how = t_in(be, s, plan, (int64_t)ts_resize_plan(r), 4), *out = t_out(be, s, n_out, 1);
        T_OK(be->resize(s, out->dev, from->dev, how->dev, r, T_SCRATCH(be->resize_scratch(s, r))));
        t_down(out);
        T_TRUE(memcmp(out->host, want, (size_t)n_out) == 0);
    }
}

int main(void)
{
    Suite *u = t_suite("resize");
    T_ADD(u, pillow);
    T_ADD(u, preprocessing);
    T_ADD(u, random_plans);
    return t_run(u);
}
