/* test_image.c - decoding, encoding, float conversion and grids.
 *
 * Oracle     decoding: Pillow's convert('RGB') of the pictures in tests/images, bit for bit (tests/host/pillow.py);
 * where it is not installed, the XXH3 of our pixels, stored below when they were equal to Pillow 13's. Broken     every
 * file tests/images/bad_* is refused with one line that names it, before memory is taken for its pixels.
 */
#include "host/image.h"

#include <dirent.h>
#include <sys/resource.h>

#include "tests/host/pillow.h"

static const struct {
    const char *name;
    uint64_t hash;
} GOOD[] = {
    { "411.jpg", 0x850bf55a7d217a90 },
    { "420.jpg", 0x0e0d896b7e060773 },
    { "422.jpg", 0x18b6d4d11682f159 },
    { "440.jpg", 0x7a06a1ab30855609 },
    { "444.jpg", 0xad1de8542ad3c4ee },
    { "arithmetic.jpg", 0x74ff06efa6c0e27b },
    { "cmyk.jpg", 0x8e2f087aa14e60ef },
    { "grey.jpg", 0xd5fdde398e61595d },
    { "grey1.png", 0x3ef8f3744dd42db1 },
    { "grey16.png", 0x62f6f6a78d5d88ff },
    { "grey16_dark.png", 0x1b33c0bbe00a6df9 },
    { "grey16_key.png", 0x813cacc01ab93077 },
    { "grey2.png", 0x16b29739114e908c },
    { "grey4.png", 0xe9a00461e681ff02 },
    { "grey8.png", 0xc8d34cf49f65fc7b },
    { "grey_alpha16.png", 0xdbcff7375f71bc54 },
    { "grey_alpha8.png", 0x38652cfb97f7bb36 },
    { "grey_key.png", 0x93cdb806a842367a },
    { "interlaced16_0.png", 0xd33ae84dc3081bd9 },
    { "interlaced16_6.png", 0xbdbf775fd66beb4f },
    { "interlaced1_0.png", 0x018f63c66e7ec25e },
    { "interlaced4_3.png", 0xfafb857c627c385c },
    { "interlaced8_2.png", 0x4e1b7d3ef425bd3f },
    { "jpeg_named.png", 0xad1de8542ad3c4ee },
    { "palette1.png", 0xe83ceb761728327b },
    { "palette2.png", 0x14891bbe37b15d89 },
    { "palette4.png", 0xdb432f2e583a6dbe },
    { "palette8.png", 0xbfa2bb3b766b7542 },
    { "palette_alpha.png", 0x000e86c36703a760 },
    { "palette_short.png", 0xc28468f6419ec38a },
    { "pixel.png", 0xbb83feb20c64fd76 },
    { "png_named.jpg", 0x86f8b7ebc9ea3bd8 },
    { "progressive.jpg", 0x0e0d896b7e060773 },
    { "restarts.jpg", 0x0e0d896b7e060773 },
    { "rgb.jpg", 0xe6820a9ee23a885b },
    { "rgb16.png", 0x36c7a8043dc0c6fa },
    { "rgb8.png", 0x86f8b7ebc9ea3bd8 },
    { "rgb_extras.png", 0x44dc034314e40a6c },
    { "rgb_key.png", 0x40c7e3460fbdb583 },
    { "rgba16.png", 0x183116c5c6925631 },
    { "rgba8.png", 0xcd9825bdfa3a7d1f },
    { "turned.jpg", 0x0e0d896b7e060773 },
    { "ycck.jpg", 0x21ea48cb7e7fcf40 },
};
enum { N_GOOD = sizeof GOOD / sizeof *GOOD };

static const struct {
    const char *name, *says;
} BAD[] = {
    { "bad_bomb.png", "180 bytes cannot hold 12000 x 12000" },
    { "bad_bomb.jpg", "1055 bytes cannot hold 13000 x 13000" },
    { "bad_components.jpg", "2 components" },
    { "bad_crc.png", "damaged PNG" },
    { "bad_cut.jpg", "ends too early" },
    { "bad_cut.png", "ends too early" },
    { "bad_empty.png", "empty" },
    { "bad_header.jpg", "damaged JPEG" },
    { "bad_huge.jpg", "65500 x 65500" },
    { "bad_huge.png", "50000 x 50000" },
    { "bad_huge_side.png", "damaged PNG" },
    { "bad_no_end.png", "ends too early" },
    { "bad_no_palette.png", "damaged PNG" },
    { "bad_scans.jpg", "scans" },
    { "bad_text.png", "neither a PNG nor a JPEG" },
    { "bad_zero.png", "damaged PNG" },
};
enum { N_BAD = sizeof BAD / sizeof *BAD };

static char *picture_path(const char *name)
{
    char *path = t_alloc(512);
    snprintf(path, 512, "%s/tests/images/%s", t_root(), name);
    return path;
}

T_TEST(decoding)
{
    (void)be, (void)s;
    char *out = t_temp("out"), *arguments = t_alloc(N_GOOD * 512);
    int length = snprintf(arguments, 512, "decode %s", out);
    ts_image im[N_GOOD];
    for (int i = 0; i < N_GOOD; i++) {
        T_OK(ts_image_read(&im[i], picture_path(GOOD[i].name)));
        length += snprintf(arguments + length, 512, " %s", picture_path(GOOD[i].name));
    }
    if (pillow_run(arguments, N_GOOD)) {
        FILE *f = fopen(out, "rb");
        T_TRUE(f != NULL);
        for (int i = 0; i < N_GOOD; i++) {
            ts_image want = pillow_next(f);
            t_same_image(GOOD[i].name, &im[i], &want);
        }
        fclose(f);
        unlink(out);
    }
    for (int i = 0; i < N_GOOD; i++) {
        uint64_t hash = t_image_hash(&im[i]);
        ck_assert_msg(hash == GOOD[i].hash, "%s: hash is 0x%016llx", GOOD[i].name, (unsigned long long)hash);
        ts_image_free(&im[i]);
    }
}

/* No picture of the folder is forgotten in the tables above. */
T_TEST(tables_are_complete)
{
    (void)be, (void)s;
    int found = 0;
    char folder[512];
    snprintf(folder, sizeof folder, "%s/tests/images", t_root());
    DIR *d = opendir(folder);
    T_TRUE(d != NULL);
    for (struct dirent *e; (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        found += n > 4 && (strcmp(e->d_name + n - 4, ".png") == 0 || strcmp(e->d_name + n - 4, ".jpg") == 0);
    }
    closedir(d);
    T_EQI(found, N_GOOD + N_BAD);
}

T_TEST(broken_pictures)
{
    (void)be, (void)s;
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    for (int i = 0; i < N_BAD; i++) {
        ts_image im = { 1, 1, NULL };
        T_STATUS(TS_E_DATA, ts_image_read(&im, picture_path(BAD[i].name)));
        ck_assert_msg(strstr(ts_error(), BAD[i].name) && strstr(ts_error(), BAD[i].says), "%s: '%s' does not say '%s'",
                      BAD[i].name, ts_error(), BAD[i].says);
        T_TRUE(im.rgb == NULL && im.width == 0 && im.height == 0);
    }
    getrusage(RUSAGE_SELF, &after);
    ck_assert_int_lt(after.ru_maxrss - before.ru_maxrss, 64 * 1024); /* KB; bad_bomb.png alone would be 412 MB */
    ts_image im;
    T_STATUS(TS_E_NOINPUT, ts_image_read(&im, picture_path("not_there.png")));
    T_TRUE(strstr(ts_error(), "not_there.png") != NULL);
}

/* Cut anywhere, a picture is refused; with any byte changed it is refused or read, and nothing else happens. */
T_TEST(damage)
{
    (void)be, (void)s;
    static const char *const NAMES[] = { "interlaced4_3.png", "grey16.png", "420.jpg", "progressive.jpg", "cmyk.jpg" };
    for (int k = 0; k < 5; k++) {
        FILE *f = fopen(picture_path(NAMES[k]), "rb");
        T_TRUE(f != NULL);
        uint8_t bytes[4096];
        size_t n = fread(bytes, 1, sizeof bytes, f);
        fclose(f);
        ts_image im;
        for (size_t cut = 0; cut < n; cut++) {
            uint8_t *part = malloc(cut + 1); /* a block of its own, so that a sanitizer sees every byte beyond */
            memcpy(part, bytes, cut);
            ck_assert_msg(ts_image_decode(&im, "part", part, cut) == TS_E_DATA, "%s cut at %zu is read", NAMES[k], cut);
            free(part);
        }
        for (size_t i = 0; i < n; i++) {
            uint8_t old = bytes[i];
            bytes[i] ^= (uint8_t)(1u << i % 8);
            ts_status st = ts_image_decode(&im, "changed", bytes, n);
            T_TRUE(st == TS_OK || st == TS_E_DATA);
            ck_assert_msg(st != TS_OK || strstr(NAMES[k], ".jpg") || i < 8, "%s with byte %zu changed is read",
                          NAMES[k], i);
            ts_image_free(&im);
            bytes[i] = old;
        }
    }
}

T_TEST(png_round_trip)
{
    static const int SIZES[][2] = { { 1, 1 }, { 31, 1 }, { 1, 257 }, { 64, 48 } };
    (void)be, (void)s;
    for (int i = 0; i < 4; i++) {
        ts_image in = t_picture(SIZES[i][0], SIZES[i][1], (uint64_t)i), back;
        uint8_t *bytes;
        size_t n;
        T_OK(ts_image_encode_png(&in, NULL, 0, &bytes, &n));
        T_OK(ts_image_decode(&back, "memory", bytes, n));
        t_same_image("memory", &back, &in);
        ts_image_free(&back);
        free(bytes);
        char *path = t_temp("round.png");
        T_OK(ts_image_write_png(path, &in, NULL, 0));
        T_OK(ts_image_read(&back, path));
        t_same_image("file", &back, &in);
        ts_image_free(&back);
        unlink(path);
    }
    ts_image in = t_picture(3, 3, 1);
    T_STATUS(TS_E_IO, ts_image_write_png("/nonexistent-folder/x.png", &in, NULL, 0));
    T_TRUE(strstr(ts_error(), "/nonexistent-folder") != NULL);
}

/* tEXt chunks hold keyword, 0, value; they stand before the pixels. */
T_TEST(png_text)
{
    (void)be, (void)s;
    static const char *const TEXT[][2] = { { "seed", "42" }, { "parameters", "{\"cfg\": 1.5}" } };
    ts_image in = t_picture(5, 4, 1);
    uint8_t *bytes;
    size_t n;
    T_OK(ts_image_encode_png(&in, TEXT, 2, &bytes, &n));
    static const char FIRST[] = "\0\0\0\7tEXtseed\00042", SECOND[] = "tEXtparameters\0{\"cfg\": 1.5}";
    const uint8_t *a = memmem(bytes, n, FIRST, sizeof FIRST - 1), *b = memmem(bytes, n, SECOND, sizeof SECOND - 1);
    const uint8_t *pixels = memmem(bytes, n, "IDAT", 4);
    T_TRUE(a && b && a < b && b < pixels);
    ts_image back;
    T_OK(ts_image_decode(&back, "text", bytes, n));
    t_same_image("text", &back, &in);
    ts_image_free(&back);
    free(bytes);
}

T_TEST(to_and_from_float)
{
    (void)be, (void)s;
    uint8_t all[256], back[256];
    float x[257];
    for (int i = 0; i < 256; i++) all[i] = (uint8_t)i;
    x[256] = 7;
    ts_image_to_float(x, all, 256);
    T_TRUE(x[256] == 7 && x[0] == -1 && x[255] == 1);
    for (int i = 0; i < 256; i++) { /* v/255 correctly rounded to float, doubled, minus 1: each step as in torch */
        float quotient = (float)((double)i / 255.0);
        float want = (float)(2.0 * (double)quotient - 1.0);
        ck_assert_msg(x[i] == want, "%d becomes %.9g, expected %.9g", i, (double)x[i], (double)want);
    }
    ts_image_from_float(back, x, 256);
    ck_assert_mem_eq(back, all, 256);
    static const float IN[] = { -1.5f,  1.5f, INFINITY, -INFINITY, NAN, 0, -1 + 0.4f / 127.5f, -1 + 0.6f / 127.5f,
                                0.999f, -0.0f };
    static const uint8_t WANT[] = { 0, 255, 255, 0, 0, 128, 0, 1, 255, 128 }; /* 0 is 127.5: to even */
    ts_image_from_float(back, IN, 10);
    for (int i = 0; i < 10; i++)
        ck_assert_msg(back[i] == WANT[i], "%g becomes %d, expected %d", (double)IN[i], back[i], WANT[i]);
    back[0] = 9;
    ts_image_from_float(back, IN, 0);
    T_EQI(back[0], 9);
}

T_TEST(grid)
{
    (void)be, (void)s;
    ts_image p[5], out;
    for (int i = 0; i < 5; i++) p[i] = t_picture(6, 4, (uint64_t)i + 1);
    T_OK(ts_image_grid(&out, p, 5, 3, 2));
    T_EQI(out.width, 2 + 3 * 8);
    T_EQI(out.height, 2 + 2 * 6);
    for (int y = 0; y < out.height; y++)
        for (int x = 0; x < out.width; x++) {
            int column = x / 8, row = y / 6, in_x = x % 8 - 2, in_y = y % 6 - 2, i = row * 3 + column;
            const uint8_t *got = out.rgb + (y * out.width + x) * 3, white[3] = { 255, 255, 255 };
            ck_assert_mem_eq(got, in_x < 0 || in_y < 0 || i >= 5 ? white : p[i].rgb + (in_y * 6 + in_x) * 3, 3);
        }
    ts_image_free(&out);
    ts_image hole[2] = { { 6, 4, NULL }, p[0] };
    T_OK(ts_image_grid(&out, hole, 2, 1, 0));
    for (int i = 0; i < 6 * 4 * 3; i++) T_EQI(out.rgb[i], 255);
    ck_assert_mem_eq(out.rgb + 6 * 4 * 3, p[0].rgb, 6 * 4 * 3);
    ts_image_free(&out);
    T_OK(ts_image_grid(&out, p, 1, 8, 0));
    t_same_image("one", &out, &p[0]);
    ts_image_free(&out);
    p[2].width = 5;
    T_STATUS(TS_E_ARG, ts_image_grid(&out, p, 5, 3, 2));
    T_STATUS(TS_E_ARG, ts_image_grid(&out, p, 0, 3, 2));
    T_STATUS(TS_E_ARG, ts_image_grid(&out, p, 2, 0, 2));
    T_STATUS(TS_E_ARG, ts_image_grid(&out, p, 2, 3, -1));
    T_STATUS(TS_E_DATA, ts_image_grid(&out, p, 2, 3, 1 << 30)); /* larger than a picture may be */
    ts_image_free(NULL);
}

T_TEST(zoom)
{
    (void)be, (void)s;
    ts_image im, one = t_picture(5, 3, 1);
    T_OK(ts_image_grid(&im, &one, 1, 1, 0)); /* a copy that is ours to free */
    T_OK(ts_image_zoom(&im, 1));
    t_same_image("zoom 1", &im, &one);
    T_OK(ts_image_zoom(&im, 4));
    T_EQI(im.width, 20);
    T_EQI(im.height, 12);
    for (int i = 0; i < 20 * 12; i++) ck_assert_mem_eq(im.rgb + i * 3, one.rgb + (i / 20 / 4 * 5 + i % 20 / 4) * 3, 3);
    T_STATUS(TS_E_ARG, ts_image_zoom(&im, 0));
    T_STATUS(TS_E_DATA, ts_image_zoom(&im, 1 << 20)); /* larger than a picture may be */
    T_EQI(im.width, 20);
    ts_image_free(&im);
}

int main(void)
{
    Suite *u = t_suite("image");
    T_ADD1(u, decoding);
    T_ADD1(u, tables_are_complete);
    T_ADD1(u, broken_pictures);
    T_ADD1(u, damage);
    T_ADD1(u, png_round_trip);
    T_ADD1(u, png_text);
    T_ADD1(u, to_and_from_float);
    T_ADD1(u, grid);
    T_ADD1(u, zoom);
    return t_run(u);
}
