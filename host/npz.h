/* npz.h - NumPy's .npz: a zip file of stored .npy arrays, written as a stream and whole or not there at all (file.h).
 *
 *     ts_npz *z;
 *     ts_npz_create(&z, "x.npz");
 *     ts_npz_array(z, "arr_0", "|u1", 4, (int64_t[]){ N, Y, X, 3 });
 *     for (...) ts_npz_write(z, some, bytes);        all of the array's numbers, in C order
 *     ts_npz_array(z, "arr_1", ...);  ...
 *     ts_npz_commit(z);
 *
 * The same arrays are the same bytes: no time and no user is written. ZIP64 is used where an array or the file needs
 * it.
 */
#ifndef TS_NPZ_H
#define TS_NPZ_H

#include <stddef.h>
#include <stdint.h>

#include "tessera/status.h"

enum { TS_NPZ_MAX_RANK = 8 };

typedef struct ts_npz ts_npz;

/* As ts_file_create. */
ts_status ts_npz_create(ts_npz **z, const char *path);

/* Begin the next array. type: NumPy's, "|u1", "<i4", "<i8", "<f4". TS_E_ARG for another type or a shape that cannot be,
 * or if the array before it is not full. */
ts_status ts_npz_array(ts_npz *z, const char *name, const char *type, int rank, const int64_t *dims);

/* The array's next n bytes. TS_E_ARG if they are more than are left. */
ts_status ts_npz_write(ts_npz *z, const void *bytes, size_t n);

ts_status ts_npz_commit(ts_npz *z); /* frees z in any case; TS_E_ARG, and no file, if the last array is not full */
void ts_npz_discard(ts_npz *z);     /* NULL is fine */

#endif
