/* dataset.h - image sets: what is in them, and threaded, ordered loading in bounded memory.
 *
 * A source is a folder in ImageFolder layout (class = sub-folder, labels by byte-wise sorted name; files found recursively, in
 * byte-wise order of their path), a folder of pictures whose sub-folders, if any, hold none (label -1), a single picture, or a
 * webdataset tar file (sample = neighbouring members that share the path up to the first dot of the base name; class from .cls,
 * a number). In folders the names .png, .jpg and .jpeg (either case) choose the pictures, what they hold decides how they are
 * read; hidden names are skipped, links followed; pictures beside class folders belong to none and are left out. Several
 * ImageFolders share their classes by name. Tar files are read in place and must not be compressed.
 */
#ifndef TS_DATASET_H
#define TS_DATASET_H

#include "host/image.h"

typedef struct ts_dataset ts_dataset;

/* List one or more inputs. TS_E_NOINPUT if one is not there, TS_E_DATA if no picture is found in all of them. */
ts_status ts_dataset_open(ts_dataset **d, const char *const *inputs, int n_inputs);
void ts_dataset_close(ts_dataset *d); /* NULL is fine */
int64_t ts_dataset_count(const ts_dataset *d);
int ts_dataset_classes(const ts_dataset *d);
const char *ts_dataset_class(const ts_dataset *d, int i);
const char *ts_dataset_name(const ts_dataset *d, int64_t i);  /* path, or TAR:KEY */
int32_t ts_dataset_label(const ts_dataset *d, int64_t i);     /* -1 if it has none */

/* One picture, decoded. Thread-safe. */
ts_status ts_dataset_read(const ts_dataset *d, int64_t i, ts_image *im);

/* Where the next picture of a loader comes from: the caller maps position n = 0, 1, ... of the run to a picture and a crop,
 * as a pure function, so that a run can be resumed at any position. crop as in ts_image_preprocess; *has_crop = 0 for centre.
 * Returns the picture's number, or -1 for the end. Called from several threads. */
typedef int64_t ts_order_fn(void *context, int64_t n, float crop[2], int *has_crop);

typedef struct ts_loader ts_loader;

typedef struct {
    ts_preprocess how;
    int size;    /* 0: pictures are delivered as they are */
    int threads; /* >= 1 */
    int ahead;   /* pictures decoded ahead at most, >= 1 */
    int64_t first; /* position to start from */
    ts_order_fn *order; /* NULL: the pictures in turn, centre crop */
    void *context;
} ts_loader_options;

typedef struct {
    int64_t position;  /* n                                     */
    int64_t picture;   /* number in the data set                */
    int32_t label;
    ts_status status;  /* TS_OK, or why this one is unreadable  */
    char error[256];   /* its message                           */
    ts_image image;    /* size x size, or whole; owned by the receiver */
} ts_loaded;

ts_status ts_loader_new(ts_loader **l, const ts_dataset *d, const ts_loader_options *o);
/* The next picture, in order of position. *more = 0 at the end. An unreadable picture is delivered with its status. */
ts_status ts_loader_next(ts_loader *l, ts_loaded *out, int *more);
void ts_loader_free(ts_loader *l); /* stops the threads; NULL is fine */

/* A keyed permutation of 0..n-1 without a table (cycle-walking Feistel network): position i of epoch `key`. */
int64_t ts_permute(uint64_t key, int64_t i, int64_t n);

#endif
