/* fuzz_safetensors.c - any bytes as a safetensors file: refused with a message, or consistent in all that is handed
 * out. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "host/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int holds)
{
    if (!holds) abort();
}

static void check_tensor(const ts_st_file *f, const ts_st_tensor *t, const uint8_t *data, size_t size)
{
    must(t->rank >= 0 && t->rank <= TS_ST_MAX_RANK);
    uint64_t bytes = ts_st_dtype_size(t->dtype);
    for (int i = 0; i < t->rank; i++) {
        must(t->shape[i] >= 0);
        bytes *= (uint64_t)t->shape[i];
    }
    must(bytes == t->bytes && t->bytes <= size);
    must((const uint8_t *)t->data >= data && (const uint8_t *)t->data + t->bytes <= data + size);
    must(ts_st_find(f, t->name) == t);
    float *out = malloc((size_t)t->bytes * 2 + 4); /* two-byte numbers become four */
    must(out != NULL);
    ts_st_to_f32(out, t);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ts_st_file *f;
    ts_status st = ts_st_open_memory(&f, "input", data, size);
    if (st != TS_OK) {
        must(f == NULL && st == TS_E_DATA && strncmp(ts_error(), "input: ", 7) == 0);
        return 0;
    }
    uint64_t total = 0;
    for (int i = 0; i < ts_st_count(f); i++) {
        const ts_st_tensor *t = ts_st_at(f, i);
        check_tensor(f, t, data, size);
        total += t->bytes;
    }
    must(total + 8 <= size);
    must(!ts_st_find(f, "__metadata__"));
    const char *format = ts_st_metadata(f, "format");
    must(!format || strlen(format) < size);
    ts_st_close(f);
    return 0;
}
