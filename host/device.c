/* device.c - contract: device.h. */
#include "host/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = 32 };
static const size_t MOST = (size_t)1 << 52; /* bytes of a block: sizes beyond are sums gone wrong */

/* Four classes to each power of two, so at most a fifth of a block is unused. */
static int size_class(size_t bytes, size_t *rounded)
{
    size_t unit = 64; /* classes 4*64, 5*64, 6*64, 7*64, then doubled */
    int octave = 0;
    while (unit * 8 <= bytes) unit *= 2, octave++;
    size_t n = (bytes + unit - 1) / unit;
    if (n < 4) n = 4;
    if (n == 8) unit *= 2, octave++, n = 4;
    *rounded = n * unit;
    return 4 * octave + (int)n - 4;
}

static ts_block *take(ts_pool *pool, int c)
{
    ts_block *b = pool->spare[c];
    if (b) pool->spare[c] = b->next;
    return b;
}

static void put(ts_pool *pool, int c, ts_block *b)
{
    b->pool = pool;
    b->next = pool->spare[c];
    pool->spare[c] = b;
}

ts_block *ts_block_get(ts_device *d, size_t bytes)
{
    return ts_block_from(d, &d->pool, bytes);
}

ts_block *ts_block_from(ts_device *d, ts_pool *pool, size_t bytes)
{
    if (bytes > MOST) {
        ts_fail(TS_E_NOMEM, "%zu bytes of device memory were asked for", bytes);
        return NULL;
    }
    size_t rounded;
    int c = size_class(bytes, &rounded);
    ts_block *b = take(pool, c);
    if (!b) b = take(&d->pool, c);
    if (!b) {
        b = malloc(sizeof *b);
        if (!b) {
            ts_fail(TS_E_NOMEM, "out of host memory");
            return NULL;
        }
        b->bytes = rounded;
        if (d->be->mem_alloc(d->s, &b->p, rounded) != TS_OK) {
            ts_device_trim(d); /* what lies spare in other sizes may be enough */
            if (d->be->mem_alloc(d->s, &b->p, rounded) != TS_OK) {
                free(b);
                return NULL;
            }
        }
        d->held += rounded;
    }
    b->refs = 1;
    b->pool = pool;
    b->next = NULL;
    d->in_use += b->bytes;
    if (d->in_use > d->peak) d->peak = d->in_use;
    return b;
}

ts_block *ts_block_keep(ts_block *b)
{
    if (b) b->refs++;
    return b;
}

void ts_block_drop(ts_device *d, ts_block *b)
{
    if (!b || --b->refs > 0) return;
    size_t rounded;
    int c = size_class(b->bytes, &rounded);
    d->in_use -= b->bytes;
    put(b->pool, c, b);
}

void ts_pool_release(ts_device *d, ts_pool *pool)
{
    ts_block *b;
    for (int c = 0; c < TS_SIZE_CLASSES; c++)
        while ((b = take(pool, c)) != NULL) put(&d->pool, c, b);
}

void ts_device_trim(ts_device *d)
{
    ts_block *b;
    for (int c = 0; c < TS_SIZE_CLASSES; c++)
        while ((b = take(&d->pool, c)) != NULL) {
            d->be->mem_free(d->s, b->p);
            d->held -= b->bytes;
            free(b);
        }
}

/* "NAME" or "NAME:N" to name and index; "auto" takes no number. */
static ts_status parse(const char *spec, char name[NAME], int *index)
{
    size_t n = strcspn(spec, ":"), digits = spec[n] ? strspn(spec + n + 1, "0123456789") : 0;
    int numbered = spec[n] == ':';
    *index = numbered && digits <= 4 ? atoi(spec + n + 1) : 0;
    if (n >= NAME || (numbered && (digits < 1 || digits > 4 || spec[n + 1 + digits])) ||
        (numbered && strncmp(spec, "auto", n) == 0))
        return ts_fail(TS_E_ARG, "device '%s' is unknown; expected auto, cpu or cuda[:N]", spec);
    memcpy(name, spec, n);
    name[n] = '\0';
    if (strcmp(name, "auto") == 0) strcpy(name, ts_backend_get("cuda") ? "cuda" : "cpu");
    return TS_OK;
}

ts_status ts_device_open(ts_device **out, const char *spec, int threads, ts_math math)
{
    char name[NAME];
    int index;
    TS_TRY(parse(spec, name, &index));
    const ts_backend *be = ts_backend_get(name);
    if (!be) {
        if (strcmp(name, "cuda") == 0) return ts_fail(TS_E_DEVICE, "device %s: this build has no CUDA backend", spec);
        return ts_fail(TS_E_ARG, "device '%s' is unknown; expected auto, cpu or cuda[:N]", spec);
    }
    ts_device *d = calloc(1, sizeof *d);
    if (!d) return ts_fail(TS_E_NOMEM, "out of host memory");
    d->be = be;
    d->index = index;
    d->math = math;
    ts_status st = be->stream_new(&d->s, index, threads);
    if (st != TS_OK && strcmp(spec, "auto") == 0 && strcmp(name, "cuda") == 0) {
        d->index = 0;
        d->be = ts_backend_get("cpu"); /* a CUDA build on a machine without a GPU */
        st = d->be->stream_new(&d->s, 0, threads);
    }
    if (st != TS_OK) {
        free(d);
        return st;
    }
    *out = d;
    return TS_OK;
}

ts_math ts_device_preferred_math(const ts_device *d)
{
    return d->be->preferred_math ? d->be->preferred_math() : TS_MATH_F32;
}

const char *ts_math_name(ts_math math)
{
    return math == TS_MATH_BF16 ? "bf16" : "f32";
}

int ts_device_at(int i, char spec[NAME], char about[TS_ABOUT])
{
    const ts_backend *be;
    for (int b = 0; (be = ts_backend_at(b)) != NULL; b++)
        for (int index = 0; be->about(index, about) == TS_OK; index++)
            if (i-- == 0) {
                snprintf(spec, NAME, strcmp(be->name, "cpu") == 0 ? "%.16s" : "%.16s:%d", be->name, index);
                return 1;
            }
    return 0;
}

void ts_device_close(ts_device *d)
{
    if (!d) return;
    ts_device_trim(d);
    d->be->stream_free(d->s);
    free(d);
}
