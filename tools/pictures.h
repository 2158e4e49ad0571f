/* pictures.h - what commands share about pictures on their way in and out. */
#ifndef TS_PICTURES_H
#define TS_PICTURES_H

#include "host/dataset.h"
#include "models/tokenizer.h"

/* Float pictures (B,side,side,3) in [-1,1] to images; each is freed with ts_image_free. */
ts_status pictures_from_float(ts_image *out, const float *x, int64_t B, int side);

/* DIR/000000.png and on: number n; DIR/000000.scale0.png for a scale k that is not negative. text as in ts_image_write_png. */
ts_status pictures_write(const char *dir, int64_t n, int k, const ts_image *im, const char *const (*text)[2], int n_text);

/* Does path name a PNG file, or NumPy arrays (by its ending), not a folder? */
int pictures_is_png(const char *path);
int pictures_is_npz(const char *path);

/* TS_E_ARG if path, not a folder, ends like a picture of another kind: only PNG is written. */
ts_status pictures_check_ending(const char *path);

/* Before long work: can a file of this name be written at all? TS_E_IO if its folder is not there. */
ts_status pictures_check_out(const char *path);

/* An output folder: made if missing, locked; TS_E_BUSY if it holds PNG files already. */
ts_status pictures_open_dir(int *lock, const char *dir);

#endif
