/* pictures.c - contract: pictures.h. */
#include "tools/pictures.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/file.h"

ts_status pictures_from_float(ts_image *out, const float *x, int64_t B, int side)
{
    size_t n = (size_t)side * (size_t)side * 3;
    for (int64_t b = 0; b < B; b++) {
        out[b] = (ts_image){ side, side, malloc(n) };
        if (!out[b].rgb) {
            while (b-- > 0) ts_image_free(&out[b]);
            return ts_fail(TS_E_NOMEM, "out of host memory");
        }
        ts_image_from_float(out[b].rgb, x + (size_t)b * n, n);
    }
    return TS_OK;
}

ts_status pictures_write(const char *dir, int64_t n, int k, const ts_image *im, const char *const (*text)[2], int n_text)
{
    char *path = k < 0 ? ts_format("%s/%06lld.png", dir, (long long)n) : ts_format("%s/%06lld.scale%d.png", dir, (long long)n, k);
    ts_status st = path ? ts_image_write_png(path, im, text, n_text) : ts_fail(TS_E_NOMEM, "out of host memory");
    free(path);
    return st;
}

static int is_file(const char *path, const char *ending)
{
    size_t n = strlen(path), m = strlen(ending);
    return n > m && strcasecmp(path + n - m, ending) == 0 && !ts_path_is_dir(path);
}

int pictures_is_png(const char *path)
{
    return is_file(path, ".png");
}

int pictures_is_npz(const char *path)
{
    return is_file(path, ".npz");
}

ts_status pictures_check_ending(const char *path)
{
    static const char *const others[] = { ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".npy" };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (is_file(path, others[i])) return ts_fail(TS_E_ARG, "--out: %s: pictures are written as PNG, not as %s", path, others[i]);
    return TS_OK;
}

ts_status pictures_check_out(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? ts_format("%.*s", (int)(slash - path + 1), path) : NULL;
    int there = !slash || (dir && ts_path_is_dir(dir));
    free(dir);
    return there ? TS_OK : ts_fail(TS_E_IO, "%s: its folder does not exist", path);
}

ts_status pictures_open_dir(int *lock, const char *dir)
{
    *lock = -1;
    TS_TRY(ts_dir_make(dir));
    TS_TRY(ts_dir_lock(lock, dir));
    DIR *d = opendir(dir);
    if (!d) return ts_fail(TS_E_IO, "%s: %s", dir, strerror(errno));
    ts_status st = TS_OK;
    for (struct dirent *e; (e = readdir(d)) && st == TS_OK;) {
        size_t n = strlen(e->d_name);
        if (n > 4 && strcmp(e->d_name + n - 4, ".png") == 0)
            st = ts_fail(TS_E_BUSY, "%s: holds pictures already (%s), expected an empty or new folder", dir, e->d_name);
    }
    closedir(d);
    return st == TS_OK ? ts_dir_clean(dir) : st;
}
