/* pillow.h - run pillow.py, if this machine has Python and Pillow, and read its pictures. */
#ifndef T_PILLOW_H
#define T_PILLOW_H

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "host/image.h"
#include "tests/t.h"

static inline const char *t_root(void)
{
    const char *root = getenv("TS_ROOT");
    return root ? root : ".";
}

/* A file name of this process in the folder for temporary files; freed after the test. */
static inline char *t_temp(const char *name)
{
    const char *folder = getenv("TMPDIR");
    char *path = t_alloc(512);
    snprintf(path, 512, "%s/tessera-%d-%s", folder ? folder : "/tmp", (int)getpid(), name);
    return path;
}

/* 0 if Python or Pillow is missing; n counts what is then not compared. */
static inline int pillow_run(const char *arguments, int n)
{
    size_t room = strlen(arguments) + 600;
    char *command = t_alloc(room);
    snprintf(command, room, "python3 %s/tests/host/pillow.py %s", t_root(), arguments);
    int code = system(command);
    ck_assert_msg(WIFEXITED(code), "%s was killed", command);
    if (WEXITSTATUS(code) == 77 || WEXITSTATUS(code) == 127) {
        fprintf(stderr, "SKIP %d comparisons with Pillow: it is not installed\n", n);
        return 0;
    }
    ck_assert_msg(WEXITSTATUS(code) == 0, "%s: exit %d", command, WEXITSTATUS(code));
    return 1;
}

/* The next picture of pillow.py's output; pixels are freed after the test. */
static inline ts_image pillow_next(FILE *f)
{
    int32_t size[2];
    ck_assert_uint_eq(fread(size, 4, 2, f), 2);
    size_t bytes = (size_t)size[0] * (size_t)size[1] * 3;
    ts_image im = { size[0], size[1], t_alloc(bytes) };
    ck_assert_uint_eq(fread(im.rgb, 1, bytes, f), bytes);
    return im;
}

/* XXH3 of the size and the pixels. */
static inline uint64_t t_image_hash(const ts_image *im)
{
    uint64_t size = (uint64_t)im->width << 32 | (uint64_t)im->height;
    return XXH3_64bits_withSeed(im->rgb, (size_t)im->width * (size_t)im->height * 3, size);
}

/* Equal size and pixels; `what` names the case. */
static inline void t_same_image(const char *what, const ts_image *got, const ts_image *want)
{
    ck_assert_msg(got->width == want->width && got->height == want->height, "%s: %d x %d, expected %d x %d", what,
                  got->width, got->height, want->width, want->height);
    int64_t n = (int64_t)got->width * got->height * 3;
    for (int64_t i = 0; i < n; i++)
        ck_assert_msg(got->rgb[i] == want->rgb[i], "%s: row %lld, column %lld, channel %lld is %d, expected %d", what,
                      (long long)(i / 3 / got->width), (long long)(i / 3 % got->width), (long long)(i % 3), got->rgb[i],
                      want->rgb[i]);
}

/* A picture with noise, edges and pure black and white, where overshoot is clipped; freed after the test. */
static inline ts_image t_picture(int width, int height, uint64_t seed)
{
    ts_image im = { width, height, t_alloc((size_t)width * (size_t)height * 3) };
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++) {
                uint64_t r = t_next(&seed);
                int edge = (x / 7 + y / 5 + c) % 2 ? 255 : 0, smooth = (x * 5 + y * 3 + c * 40) & 255;
                im.rgb[((size_t)y * width + x) * 3 + c] = (uint8_t)(r % 4 == 0   ? (int)(r >> 56)
                                                                    : r % 4 == 1 ? smooth
                                                                                 : edge);
            }
    return im;
}

#endif
