/* make_pictures.c - pictures for the tests of the commands.
 *
 *     make_pictures DIR COUNT SIDE CLASSES              DIR/class0/000.png ...: a disc on a gradient, colours by class
 *     make_pictures tile GRID SIDE ROW COLUMN OUT.png   cut one picture out of a grid
 *     make_pictures raw PNG...                          their bytes RGB to standard output
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/file.h"
#include "host/image.h"

static uint64_t next(uint64_t *seed)
{
    uint64_t z = (*seed += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static void paint(uint8_t *rgb, int side, int label, uint64_t seed)
{
    int cx = (int)(next(&seed) % (uint64_t)side), cy = (int)(next(&seed) % (uint64_t)side);
    int radius = side / 4 + (int)(next(&seed) % 3), slope = 128 / side;
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++) {
            int inside = (x - cx) * (x - cx) + (y - cy) * (y - cy) < radius * radius;
            uint8_t *p = rgb + 3 * (y * side + x);
            p[0] = (uint8_t)(inside ? 60 * label % 256 : 100 + slope * x);
            p[1] = (uint8_t)(inside ? 255 - 50 * label % 256 : 60 + slope * y);
            p[2] = (uint8_t)(inside ? 90 : 20 + slope * (x + y) / 2);
        }
}

static ts_status make(const char *dir, int count, int side, int classes)
{
    ts_image im = { side, side, malloc((size_t)(side * side * 3)) };
    ts_status st = im.rgb ? TS_OK : ts_fail(TS_E_NOMEM, "out of memory");
    for (int i = 0; i < count && st == TS_OK; i++) {
        char *folder = ts_format("%s/class%d", dir, i % classes), *path = ts_format("%s/%03d.png", folder, i);
        paint(im.rgb, side, i % classes, (uint64_t)i);
        st = ts_dir_make(folder);
        if (st == TS_OK) st = ts_image_write_png(path, &im, NULL, 0);
        free(folder);
        free(path);
    }
    ts_image_free(&im);
    return st;
}

enum { GAP = 2 }; /* white pixels between the pictures of a grid, and around */

static ts_status tile(const char *grid, int side, int row, int column, const char *out)
{
    ts_image in;
    ts_status st = ts_image_read(&in, grid);
    if (st != TS_OK) return st;
    int top = GAP + row * (side + GAP), left = GAP + column * (side + GAP);
    ts_image im = { side, side, malloc((size_t)(side * side * 3)) };
    if (!im.rgb)
        st = ts_fail(TS_E_NOMEM, "out of memory");
    else if (top + side + GAP > in.height || left + side + GAP > in.width)
        st = ts_fail(TS_E_ARG, "%s: has no such tile", grid);
    for (int y = 0; y < side && st == TS_OK; y++)
        memcpy(im.rgb + 3 * y * side, in.rgb + 3 * ((top + y) * in.width + left), (size_t)(3 * side));
    if (st == TS_OK) st = ts_image_write_png(out, &im, NULL, 0);
    ts_image_free(&in);
    ts_image_free(&im);
    return st;
}

static ts_status raw(char **paths, int n)
{
    for (int i = 0; i < n; i++) {
        ts_image im;
        TS_TRY(ts_image_read(&im, paths[i]));
        size_t size = (size_t)im.width * (size_t)im.height * 3, done = fwrite(im.rgb, 1, size, stdout);
        ts_image_free(&im);
        if (done != size) return ts_fail(TS_E_IO, "cannot write");
    }
    return TS_OK;
}

int main(int argc, char **argv)
{
    int cut = argc == 7 && strcmp(argv[1], "tile") == 0, plain = argc > 2 && strcmp(argv[1], "raw") == 0;
    if (!cut && !plain && argc != 5) {
        fprintf(stderr, "usage: make_pictures DIR COUNT SIDE CLASSES | tile GRID SIDE ROW COLUMN OUT.png | raw PNG...\n");
        return 2;
    }
    ts_status st = plain ? raw(argv + 2, argc - 2)
                   : cut ? tile(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), argv[6])
                         : make(argv[1], atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
    if (st != TS_OK) fprintf(stderr, "make_pictures: %s\n", ts_error());
    return ts_exit_code(st);
}
