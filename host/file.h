/* file.h - files that are whole or not there: atomic replacement, locks, hashes, folders. */
#ifndef TS_FILE_H
#define TS_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "tessera/status.h"

/* Write bytes to path: temporary file in the same folder, fsync, rename, fsync of the folder. */
ts_status ts_file_replace(const char *path, const void *bytes, size_t n);

/* The same in pieces: create, any number of writes, then commit or discard. A path that is there already and is not a
 * regular file is refused; a failure is TS_E_IO and leaves what was at path as it was. */
typedef struct ts_file_out ts_file_out;
ts_status ts_file_create(ts_file_out **o, const char *path);
ts_status ts_file_write(ts_file_out *o, const void *bytes, size_t n);
ts_status ts_file_commit(ts_file_out *o); /* frees o in any case */
void ts_file_discard(ts_file_out *o);     /* removes the temporary file; NULL is fine */

/* Open for reading. TS_E_NOINPUT if there is no such file, it may not be read, or it is a folder. bytes: its size (may
 * be NULL; 0 for pipes). */
ts_status ts_file_open(int *fd, uint64_t *bytes, const char *path);

/* The whole of a file, malloc'ed with a 0 byte behind it. TS_E_NOINPUT if it is not there, TS_E_DATA if over max bytes.
 */
ts_status ts_file_read(const char *path, size_t max, void **bytes, size_t *n);

/* XXH3 (64 bit) of a file, as 16 hex digits and a 0 byte. */
ts_status ts_file_hash(const char *path, char hex[17], uint64_t *bytes);

ts_status ts_file_sync(const char *path);  /* fsync of a file that something else wrote */
ts_status ts_dir_make(const char *path);   /* mkdir -p; an existing folder is fine */
ts_status ts_dir_sync(const char *path);   /* fsync of a folder */
ts_status ts_dir_remove(const char *path); /* a folder and all in it; nothing there is fine */
ts_status ts_dir_clean(const char *path);  /* temporary files of killed processes; only under its lock */
int ts_path_exists(const char *path);
int ts_path_is_dir(const char *path);

/* Take the folder for this process (flock on FOLDER/.lock); TS_E_BUSY if another process holds it. Released by unlock
 * or when the process ends. The lock file itself stays. */
ts_status ts_dir_lock(int *lock, const char *path);
void ts_dir_unlock(int lock);

/* printf into a new string (malloc). NULL only when memory is out. */
char *ts_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
