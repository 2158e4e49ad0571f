/* make_pictures.c - a small ImageFolder for the tests of the commands.
 *
 *     make_pictures DIR COUNT SIDE CLASSES      DIR/class0/000.png ...: a disc on a gradient, colours by class
 */
#include <stdio.h>
#include <stdlib.h>

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

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: make_pictures DIR COUNT SIDE CLASSES\n");
        return 2;
    }
    ts_status st = make(argv[1], atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
    if (st != TS_OK) fprintf(stderr, "make_pictures: %s\n", ts_error());
    return ts_exit_code(st);
}
