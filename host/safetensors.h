/* safetensors.h - one reader and one writer for every tensor file: weights, checkpoints, token shards, goldens.
 *
 * Layout   8 bytes little-endian N; N bytes of JSON header; the tensors' bytes, without holes or overlap, to the end.
 * Rules    header <= 100 MB; keys unique; offsets relative to the data, contiguous from 0 when sorted, the last end is
 *          the end of the file; shape product * item size checked in 64 bits and equal to end - begin; `__metadata__`
 * is a map of strings. Every violation is TS_E_DATA with the file, what was found and what was expected. Leading JSON
 * whitespace, empty tensors and rank 0 are allowed. Names hold no NUL character. Source   huggingface/safetensors
 * README and tensor.rs.
 */
#ifndef TS_SAFETENSORS_H
#define TS_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "tessera/status.h"

typedef enum {
    TS_ST_BOOL,
    TS_ST_U8,
    TS_ST_I8,
    TS_ST_I16,
    TS_ST_U16,
    TS_ST_F16,
    TS_ST_BF16,
    TS_ST_I32,
    TS_ST_U32,
    TS_ST_F32,
    TS_ST_F64,
    TS_ST_I64,
    TS_ST_U64
} ts_st_dtype;

size_t ts_st_dtype_size(ts_st_dtype dtype);
const char *ts_st_dtype_name(ts_st_dtype dtype); /* "F32", ... */

enum { TS_ST_MAX_RANK = 8 };

typedef struct {
    const char *name;
    ts_st_dtype dtype;
    int rank;
    int64_t shape[TS_ST_MAX_RANK];
    const void *data; /* into the mapping, aligned as in the file only: to its item size if we wrote it, else perhaps
                         not at all; when writing, the caller's memory */
    uint64_t bytes;
} ts_st_tensor;

/* A file, mapped read-only. Opaque. Everything it hands out lives until close. */
typedef struct ts_st_file ts_st_file;

ts_status ts_st_open(ts_st_file **f, const char *path);
void ts_st_close(ts_st_file *f); /* NULL is fine */
const char *ts_st_path(const ts_st_file *f);
int ts_st_count(const ts_st_file *f);
const ts_st_tensor *ts_st_at(const ts_st_file *f, int i);              /* in the order of the data */
const ts_st_tensor *ts_st_find(const ts_st_file *f, const char *name); /* NULL if there is none */
const char *ts_st_metadata(const ts_st_file *f, const char *key);      /* NULL if there is none */

/* Read from memory: what the fuzz target uses. bytes must stay valid. path is only for messages. */
ts_status ts_st_open_memory(ts_st_file **f, const char *path, const void *bytes, size_t n);

/* Write n tensors and the metadata pairs (keys[i], values[i]) through a temporary file in the same folder, fsync,
 * rename, fsync of the folder. "format": "pt" is always added. Order: dtype size descending, then name: the same
 * content gives the same bytes. TS_E_ARG: a name or key twice, text that is not UTF-8, bytes that do not match the
 * shape, a header over 25 MB (what other readers accept). */
ts_status ts_st_write(const char *path, const ts_st_tensor *tensors, int n, const char *const *keys,
                      const char *const *values, int n_pairs);

/* Convert a tensor's numbers to float32 (F32, F16, BF16, F64). TS_E_DATA for other dtypes. */
ts_status ts_st_to_f32(float *out, const ts_st_tensor *t);

#endif
