/* device.c - streams and memory of the CPU backend. Contract: device.h, tessera/backend.h. */
#include "kernels/cpu/device.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/onednn.h"
#include "kernels/cpu/packed.h"
#include "kernels/cpu/stream.h"

enum { ALIGN = 256, CHUNK = 1 << 20 };

/* AddressSanitizer watches the bounds of blocks that come from the heap. */
#ifdef __SANITIZE_ADDRESS__
enum { ONE_BY_ONE = 1 };
#else
enum { ONE_BY_ONE = 0 };
#endif

/* "AMD EPYC 7B13" of Linux on x86; "CPU" elsewhere. */
static void find_model(char model[128])
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    strcpy(model, "CPU");
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strstr(line, ": ");
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        size_t n = strcspn(colon + 2, "\n");
        while (n > 0 && colon[1 + n] == ' ') n--;
        if (n > 0) snprintf(model, 128, "%.*s", (int)n, colon + 2);
        break;
    }
    if (f) fclose(f);
    for (char *c = model; *c; c++)
        if (*c == '\t') *c = ' ';
}

/* The most that oneDNN makes use of here. */
static const char *instruction_set(void)
{
    static const struct {
        dnnl_cpu_isa_t isa;
        const char *name;
    } names[] = { { dnnl_cpu_isa_sse41, "SSE4.1" },
                  { dnnl_cpu_isa_avx, "AVX" },
                  { dnnl_cpu_isa_avx2, "AVX2" },
                  { dnnl_cpu_isa_avx2_vnni, "AVX2 with VNNI" },
                  { dnnl_cpu_isa_avx512_core, "AVX-512" },
                  { dnnl_cpu_isa_avx512_core_vnni, "AVX-512 with VNNI" },
                  { dnnl_cpu_isa_avx512_core_bf16, "AVX-512 with BF16" },
                  { dnnl_cpu_isa_avx512_core_amx, "AVX-512 with AMX" } };
    const dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].isa == isa) return names[i].name;
    return "no SIMD that oneDNN names";
}

/* bfloat16 where it is an instruction: elsewhere it would be rounding, and a float32 product after that. */
ts_math preferred_math_cpu(void)
{
    const dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    return isa == dnnl_cpu_isa_avx512_core_bf16 || isa == dnnl_cpu_isa_avx512_core_amx ? TS_MATH_BF16 : TS_MATH_F32;
}

/* Where bfloat16 is no instruction it still halves the memory, and widening costs no more than rounding. */
ts_dtype factor_dtype_cpu(ts_math math)
{
    return math == TS_MATH_BF16 ? TS_BF16 : TS_F32;
}

static ts_status no_such_cpu(int index)
{
    return ts_fail(TS_E_DEVICE, "cpu:%d does not exist, the only device of this kind is cpu:0", index);
}

ts_status about_cpu(int index, char text[TS_ABOUT])
{
    if (index != 0) return no_such_cpu(index);
    char model[128];
    find_model(model);
    const int threads = omp_get_max_threads();
    snprintf(text, TS_ABOUT, "%s, %d thread%s, %s", model, threads, threads == 1 ? "" : "s", instruction_set());
    return TS_OK;
}

ts_status stream_new_cpu(ts_stream **s, int index, int threads)
{
    *s = NULL;
    if (index != 0) return no_such_cpu(index);
    if (threads < 0) return ts_fail(TS_E_ARG, "threads is %d, expected 0 (all) or more", threads);

    ts_stream *n = calloc(1, sizeof *n);
    if (!n) return ts_fail(TS_E_NOMEM, "no memory for a stream (%zu bytes)", sizeof *n);
    n->threads = threads ? threads : omp_get_max_threads();
    n->arena = ONE_BY_ONE ? NULL : arena_new();
    *s = n;
    return TS_OK;
}

void stream_free_cpu(ts_stream *s)
{
    if (!s) return;
    dnn_cache_free(s->dnn);
    packed_free(s->packed);
    arena_free(s->arena);
    free(s);
}

ts_status stream_sync_cpu(ts_stream *s)
{
    (void)s; /* every op has finished when it returns */
    return TS_OK;
}

ts_status mem_alloc_cpu(ts_stream *s, void **p, size_t bytes)
{
    *p = s->arena ? arena_take(s->arena, bytes) : NULL;
    if (*p) return TS_OK;
    *p = bytes <= SIZE_MAX - ALIGN ? aligned_alloc(ALIGN, (bytes + ALIGN - 1) / ALIGN * ALIGN) : NULL;
    return *p ? TS_OK : ts_fail(TS_E_NOMEM, "no memory: %zu bytes were asked for", bytes);
}

void mem_free_cpu(ts_stream *s, void *p)
{
    if (!s->arena || !arena_drop(s->arena, p)) free(p);
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
