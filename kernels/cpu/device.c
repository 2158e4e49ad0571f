/* device.c - streams and memory of the CPU backend. Contract: device.h, tessera/backend.h. */
#include "kernels/cpu/device.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/onednn.h"
#include "kernels/cpu/stream.h"

enum { ALIGN = 256, CHUNK = 1 << 20 };

ts_status stream_new_cpu(ts_stream **s, int index, int threads)
{
    *s = NULL;
    if (index != 0) return ts_fail(TS_E_DEVICE, "cpu:%d does not exist, the only device of this kind is cpu:0", index);
    if (threads < 0) return ts_fail(TS_E_ARG, "threads is %d, expected 0 (all) or more", threads);

    ts_stream *n = calloc(1, sizeof *n);
    if (!n) return ts_fail(TS_E_NOMEM, "no memory for a stream (%zu bytes)", sizeof *n);
    n->threads = threads ? threads : omp_get_max_threads();
    *s = n;
    return TS_OK;
}

void stream_free_cpu(ts_stream *s)
{
    if (!s) return;
    dnn_cache_free(s->dnn);
    free(s);
}

ts_status stream_sync_cpu(ts_stream *s)
{
    (void)s; /* every op has finished when it returns */
    return TS_OK;
}

ts_status mem_alloc_cpu(ts_stream *s, void **p, size_t bytes)
{
    (void)s;
    *p = bytes <= SIZE_MAX - ALIGN ? aligned_alloc(ALIGN, (bytes + ALIGN - 1) / ALIGN * ALIGN) : NULL;
    return *p ? TS_OK : ts_fail(TS_E_NOMEM, "no memory: %zu bytes were asked for", bytes);
}

void mem_free_cpu(ts_stream *s, void *p)
{
    (void)s;
    free(p);
}

ts_status upload_cpu(ts_stream *s, void *device, const void *host, size_t bytes)
{
    return copy_cpu(s, device, host, bytes);
}

ts_status download_cpu(ts_stream *s, void *host, const void *device, size_t bytes)
{
    return copy_cpu(s, host, device, bytes);
}

static size_t chunk_bytes(size_t at, size_t bytes)
{
    return bytes - at < CHUNK ? bytes - at : CHUNK;
}

ts_status copy_cpu(ts_stream *s, void *to, const void *from, size_t bytes)
{
    /* One core does not saturate the memory. */
#pragma omp parallel for num_threads(s->threads) if (bytes > CHUNK)
    for (size_t i = 0; i < bytes; i += CHUNK) memcpy((char *)to + i, (const char *)from + i, chunk_bytes(i, bytes));
    return TS_OK;
}

ts_status zero_cpu(ts_stream *s, void *p, size_t bytes)
{
#pragma omp parallel for num_threads(s->threads) if (bytes > CHUNK)
    for (size_t i = 0; i < bytes; i += CHUNK) memset((char *)p + i, 0, chunk_bytes(i, bytes));
    return TS_OK;
}
