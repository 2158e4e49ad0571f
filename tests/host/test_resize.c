/* test_resize.c - resizing and preprocessing against Pillow.
 *
 * Oracle     Pillow itself, bit for bit, over random sizes, shrinking and enlarging (tests/host/pillow.py). Where it is
 * not installed, the XXH3 of our results, stored below when they were equal to Pillow 13's. Inputs     noise, edges,
 * black and white: overshoot is clipped at both ends; sizes 1 to 230, odd, equal in one direction.
 */
#include "host/resize.h"

#include "tests/host/pillow.h"

enum { BOX, BICUBIC, LANCZOS, VAR, ADM, KINDS };

typedef struct {
    int kind, width, height, a, b;
    ts_image in, out;
} resize_case;

static void write_case(FILE *f, const resize_case *c)
{
    int32_t head[5] = { c->kind, c->width, c->height, c->a, c->b };
    fwrite(head, 4, 5, f);
    fwrite(c->in.rgb, 3, (size_t)c->width * (size_t)c->height, f);
}

static void run_case(resize_case *c, uint64_t seed)
{
    c->in = t_picture(c->width, c->height, seed);
    if (c->kind == VAR)
        T_OK(ts_image_preprocess(&c->out, &c->in, TS_PREPROCESS_VAR, c->a, NULL, NULL, "case"));
    else if (c->kind == ADM)
        T_OK(ts_image_preprocess(&c->out, &c->in, TS_PREPROCESS_ADM, c->a, NULL, NULL, "case"));
    else
        T_OK(ts_image_resize(&c->out, &c->in, c->a, c->b, (ts_filter)c->kind, NULL, NULL, "case"));
}

/* Run the cases, compare with Pillow if it is there, and all of them with the stored hash. */
static void check(resize_case *c, int n, uint64_t hash, const char *label)
{
    char *in = t_temp("in"), *out = t_temp("out"), arguments[1100], what[100];
    FILE *f = fopen(in, "wb");
    T_TRUE(f != NULL);
    uint64_t sum = 0;
    for (int i = 0; i < n; i++) {
        run_case(&c[i], (uint64_t)i + 1);
        sum = sum * 31 + t_image_hash(&c[i].out);
        write_case(f, &c[i]);
    }
    T_EQI(fclose(f), 0);
    snprintf(arguments, sizeof arguments, "resize %s %s", in, out);
    if (pillow_run(arguments, n)) {
        T_TRUE((f = fopen(out, "rb")) != NULL);
        for (int i = 0; i < n; i++) {
            ts_image want = pillow_next(f);
            snprintf(what, sizeof what, "%s %d: kind %d, %d x %d to %d x %d", label, i, c[i].kind, c[i].width,
                     c[i].height, c[i].a, c[i].b);
            t_same_image(what, &c[i].out, &want);
        }
        fclose(f);
        unlink(out);
    }
    unlink(in);
    for (int i = 0; i < n; i++) ts_image_free(&c[i].out);
    ck_assert_msg(sum == hash, "%s: hash of all results is 0x%016llx", label, (unsigned long long)sum);
}

static int between(uint64_t *seed, int lo, int hi)
{
    return lo + (int)(t_next(seed) % (uint64_t)(hi - lo + 1));
}

T_TEST(random_sizes)
{
    enum { N = 240 };
    (void)be, (void)s;
    resize_case *c = t_alloc(N * sizeof *c);
    uint64_t seed = 5;
    for (int i = 0; i < N; i++) {
        int most = i % 4 ? 70 : 230;
        c[i] = (resize_case){ .kind = i % 3, .width = between(&seed, 1, most), .height = between(&seed, 1, most) };
        c[i].a = i % 7 == 3 ? c[i].width : between(&seed, 1, most); /* now and then only one direction changes */
        c[i].b = i % 7 == 5 ? c[i].height : between(&seed, 1, most);
    }
    check(c, N, 0x0b1b15d2ce9c035c, "resize");
}

T_TEST(chosen_sizes)
{
    (void)be, (void)s;
    static const int SIZES[][4] = {
        { 1, 1, 1, 1 },    { 1, 1, 31, 17 },  { 257, 31, 1, 1 },   { 31, 257, 31, 257 }, { 500, 375, 384, 288 },
        { 640, 9, 16, 9 }, { 16, 16, 48, 1 }, { 33, 700, 16, 17 }, { 2, 2, 1, 1 },       { 425, 250, 489, 288 },
    };
    enum { N = 3 * sizeof SIZES / sizeof *SIZES };
    resize_case *c = t_alloc(N * sizeof *c);
    for (int i = 0; i < N; i++) {
        const int *z = SIZES[i / 3];
        c[i] = (resize_case){ .kind = i % 3, .width = z[0], .height = z[1], .a = z[2], .b = z[3] };
    }
    check(c, N, 0x331448b0268f2fc0, "resize");
}

T_TEST(preprocessing)
{
    static const int SIZE[] = { 1, 4, 12, 20, 28, 32, 64 }; /* 1.125*4, *12, *20, *28 end in .5: ties */
    enum { N = 140 };
    (void)be, (void)s;
    resize_case *c = t_alloc(N * sizeof *c);
    uint64_t seed = 9;
    for (int i = 0; i < N; i++) {
        c[i] = (resize_case){ .kind = i % 2 ? VAR : ADM,
                              .width = between(&seed, 3, 260),
                              .height = between(&seed, 3, 260) };
        c[i].a = SIZE[i / 2 % 7];
        if (i % 20 < 2) c[i].height = c[i].width; /* square */
        if (i % 20 == 3) c[i].width = 36;         /* 1.125*32: the size is there already */
    }
    check(c, N, 0xd2d4195860bbdfa8, "preprocess");
}

/* A window is the same as cutting it out of the whole. */
T_TEST(windows)
{
    (void)be, (void)s;
    ts_image in = t_picture(90, 61, 3), all, part;
    static const int TO[][2] = { { 50, 40 }, { 90, 40 }, { 50, 61 }, { 90, 61 }, { 133, 97 } };
    static const ts_window W[] = { { 0, 0, 50, 40 }, { 49, 39, 1, 1 }, { 7, 11, 20, 13 }, { 0, 39, 50, 1 } };
    for (int i = 0; i < 5; i++) {
        T_OK(ts_image_resize(&all, &in, TO[i][0], TO[i][1], TS_FILTER_LANCZOS, NULL, NULL, "all"));
        for (int k = 0; k < 4; k++) {
            T_OK(ts_image_resize(&part, &in, TO[i][0], TO[i][1], TS_FILTER_LANCZOS, &W[k], NULL, "part"));
            T_EQI(part.width, W[k].width);
            T_EQI(part.height, W[k].height);
            for (int y = 0; y < part.height; y++)
                ck_assert_mem_eq(part.rgb + y * part.width * 3, all.rgb + ((W[k].top + y) * all.width + W[k].left) * 3,
                                 (size_t)part.width * 3);
            ts_image_free(&part);
        }
        ts_image_free(&all);
    }
    T_STATUS(TS_E_ARG, ts_image_resize(&part, &in, 50, 40, TS_FILTER_BOX, &(ts_window){ 1, 0, 50, 40 }, NULL, "wide"));
    T_STATUS(TS_E_ARG, ts_image_resize(&part, &in, 50, 40, TS_FILTER_BOX, &(ts_window){ 0, -1, 50, 40 }, NULL, "up"));
    T_STATUS(TS_E_ARG, ts_image_resize(&part, &in, 0, 40, TS_FILTER_BOX, NULL, NULL, "flat"));
}

/* crop chooses floor(crop*(room + 1)) of the whole resized picture: first and last offset are both reached. */
T_TEST(random_crop)
{
    (void)be, (void)s;
    enum { SIZE = 32, MID = 36 };
    ts_image in = t_picture(71, 50, 8), all, part; /* 36 high, 51 wide */
    T_OK(ts_image_resize(&all, &in, 51, MID, TS_FILTER_LANCZOS, NULL, NULL, "all"));
    const struct {
        float crop[2];
        int top, left;
    } CASES[] = { { { 0, 0 }, 0, 0 }, { { 0.99999994f, 0.99999994f }, 4, 19 }, { { 0.5f, 0.24f }, 2, 4 } };
    for (int i = 0; i < 3; i++) {
        T_OK(ts_image_preprocess(&part, &in, TS_PREPROCESS_VAR, SIZE, CASES[i].crop, NULL, "crop"));
        for (int y = 0; y < SIZE; y++)
            ck_assert_mem_eq(part.rgb + y * SIZE * 3, all.rgb + ((CASES[i].top + y) * all.width + CASES[i].left) * 3,
                             SIZE * 3);
        ts_image_free(&part);
    }
    ts_image_free(&all);
    T_STATUS(TS_E_ARG, ts_image_preprocess(&part, &in, TS_PREPROCESS_VAR, SIZE, (float[]){ 1, 0 }, NULL, "one"));
    T_STATUS(TS_E_ARG, ts_image_preprocess(&part, &in, TS_PREPROCESS_VAR, SIZE, (float[]){ NAN, 0 }, NULL, "nan"));
    T_STATUS(TS_E_ARG, ts_image_preprocess(&part, &in, TS_PREPROCESS_ADM, SIZE, CASES[0].crop, NULL, "adm"));
}

T_TEST(refusals)
{
    (void)be, (void)s;
    ts_image in = t_picture(20, 10, 1), out, line = t_picture(200000, 1, 1);
    T_OK(ts_image_preprocess(&out, &in, TS_PREPROCESS_VAR, 8, NULL, NULL, "a.png"));
    ts_image_free(&out);
    T_STATUS(TS_E_DATA, ts_image_preprocess(&out, &in, TS_PREPROCESS_NONE, 8, NULL, NULL, "a.png"));
    T_TRUE(strstr(ts_error(), "a.png") && strstr(ts_error(), "20 x 10") && out.rgb == NULL);
    ts_image square = t_picture(8, 8, 2);
    T_OK(ts_image_preprocess(&out, &square, TS_PREPROCESS_NONE, 8, NULL, NULL, "b.png"));
    t_same_image("none", &out, &square);
    ts_image_free(&out);
    T_STATUS(TS_E_ARG, ts_image_preprocess(&out, &in, TS_PREPROCESS_VAR, 0, NULL, NULL, "a.png"));
    /* one pixel high: 288 high it would be 57,600,000 wide */
    T_STATUS(TS_E_DATA, ts_image_preprocess(&out, &line, TS_PREPROCESS_VAR, 256, NULL, NULL, "line.png"));
    T_TRUE(strstr(ts_error(), "line.png") != NULL);
    T_STATUS(TS_E_DATA, ts_image_preprocess(&out, &line, TS_PREPROCESS_ADM, 256, NULL, NULL, "line.png"));
    ts_preprocess p;
    for (int i = 0; i < 3; i++) {
        T_OK(ts_preprocess_parse(&p, ts_preprocess_name((ts_preprocess)i)));
        T_EQI(p, i);
    }
    T_STATUS(TS_E_ARG, ts_preprocess_parse(&p, "VAR"));
}

int main(void)
{
    Suite *u = t_suite("resize");
    T_ADD1(u, random_sizes);
    T_ADD1(u, chosen_sizes);
    T_ADD1(u, preprocessing);
    T_ADD1(u, windows);
    T_ADD1(u, random_crop);
    T_ADD1(u, refusals);
    return t_run(u);
}
