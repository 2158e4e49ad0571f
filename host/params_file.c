/* params_file.c - parameters and files: loading, mapping, saving. Contract: params.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/params_private.h"

/* --- what fits --- */

static int same_shape(const ts_param *q, const ts_st_tensor *t)
{
    if (q->rank != t->rank) return 0;
    for (int i = 0; i < q->rank; i++)
        if (q->shape[i] != t->shape[i]) return 0;
    return 1;
}

static void describe(char *out, size_t room, int rank, const int64_t *shape)
{
    size_t n = (size_t)snprintf(out, room, "[");
    for (int i = 0; i < rank && n < room; i++)
        n += (size_t)snprintf(out + n, room - n, i ? ",%lld" : "%lld", (long long)shape[i]);
    if (n < room) snprintf(out + n, room - n, "]");
}

/* What does not fit, by kind, for one line: the first names of each kind, and how many there are. */
typedef enum { MISSING, MISSHAPEN, UNKNOWN, COMPLAINTS } complaint;
enum { NAMED = 20, NAME_SHOWN = 80 };

typedef struct {
    char text[COMPLAINTS][1100];
    int shown[COMPLAINTS], n[COMPLAINTS];
} complaints;

static void complain(complaints *c, complaint kind, const char *name, const char *detail)
{
    static const char *const opening[COMPLAINTS] = { "missing ", "tensor ", "unknown tensor " };
    char *text = c->text[kind];
    size_t at = strlen(text), room = sizeof c->text[kind] - at;
    if (c->n[kind]++ > c->shown[kind] || c->shown[kind] == NAMED) return;
    int n = snprintf(text + at, room, "%s%.*s%s", at ? ", " : opening[kind], NAME_SHOWN, name, detail);
    if (n >= 0 && (size_t)n < room) c->shown[kind]++;
    else text[at] = '\0';
}

static ts_status report(const complaints *c, const ts_st_file *f)
{
    char all[sizeof c->text + 100] = "";
    for (int k = 0; k < COMPLAINTS; k++) {
        size_t at = strlen(all);
        if (c->n[k] == 0) continue;
        at += (size_t)snprintf(all + at, sizeof all - at, "%s%s", at ? "; " : "", c->text[k]);
        if (c->n[k] > c->shown[k]) snprintf(all + at, sizeof all - at, " and %d more", c->n[k] - c->shown[k]);
    }
    return all[0] ? ts_fail(TS_E_DATA, "%s: does not fit its configuration: %s", ts_st_path(f), all) : TS_OK;
}

static const ts_st_tensor *find(const ts_st_file *f, const char *prefix, const char *name)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return ts_st_find(f, full);
}

static int wanted(const ts_params *p, const char *prefix, const char *name)
{
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0) return 0;
    for (int i = 0; i < p->n; i++)
        if (strcmp(p->list[i]->name, name + n) == 0) return 1;
    return 0;
}

static void compare(const ts_params *p, const ts_st_file *f, const char *prefix, int exact, complaints *c)
{
    for (int i = 0; i < p->n; i++) {
        const ts_param *q = p->list[i];
        const ts_st_tensor *t = find(f, prefix, q->name);
        if (!t) {
            if (!(q->flags & TS_PARAM_FROZEN)) complain(c, MISSING, q->name, "");
        } else if (!same_shape(q, t)) {
            char found[80], expected[80], detail[200];
            describe(found, sizeof found, t->rank, t->shape);
            describe(expected, sizeof expected, q->rank, q->shape);
            snprintf(detail, sizeof detail, " has shape %s, expected %s", found, expected);
            complain(c, MISSHAPEN, q->name, detail);
        }
    }
    for (int i = 0; exact && i < ts_st_count(f); i++)
        if (!wanted(p, prefix, ts_st_at(f, i)->name)) complain(c, UNKNOWN, ts_st_at(f, i)->name, "");
}

/* --- loading and mapping --- */

/* All that are not mapped. */
static ts_status read_all(ts_params *p, ts_buffer b, const ts_st_file *f, const char *prefix)
{
    float *x = malloc((size_t)params_largest(p) * 2 * sizeof *x);
    if (!x) return ts_fail(TS_E_NOMEM, "out of host memory");
    ts_status st = TS_OK;
    for (int i = 0; i < p->n && st == TS_OK; i++) {
        const ts_st_tensor *t = find(f, prefix, p->list[i]->name);
        if (p->list[i]->stored) continue;
        if (t) st = ts_st_to_f32(x, t);
        else params_initialise(x, p->list[i], 0);
        if (st == TS_OK) st = params_put(p, b, p->list[i], x, x + params_largest(p));
    }
    free(x);
    return st;
}

ts_status ts_params_load(ts_params *p, ts_buffer b, const ts_st_file *f, const char *prefix, int exact)
{
    params_thaw(p);
    complaints c = { 0 };
    compare(p, f, prefix, exact, &c);
    TS_TRY(report(&c, f));
    return read_all(p, b, f, prefix);
}

static int can_stay(const ts_param *q, const ts_st_tensor *t)
{
    if (!t || !(q->flags & TS_PARAM_PRODUCT) || q->count == 0 || (t->dtype != TS_ST_F32 && t->dtype != TS_ST_BF16)) return 0;
    return (uintptr_t)t->data % ts_st_dtype_size(t->dtype) == 0;
}

static ts_status declare(const ts_params *p, ts_param *q)
{
    int conv = q->flags & TS_PARAM_CONV;
    q->tensor.data = (void *)(uintptr_t)q->stored->data;
    q->tensor.dtype = q->stored->dtype == TS_ST_F32 ? TS_F32 : TS_BF16;
    ts_stored w = { q->shape[0], q->shape[1], conv ? q->shape[2] * q->shape[3] : 1, q->tensor.dtype };
    TS_TRY(p->d->be->mem_stored(p->d->s, q->stored->data, &w));
    q->declared = 1;
    return TS_OK;
}

ts_status ts_params_open(ts_params *p, ts_device *d, ts_st_file *f)
{
    complaints c = { 0 };
    p->file = f;
    compare(p, f, "", 1, &c);
    TS_TRY(report(&c, f));
    int stay = 0;
    for (int i = 0; i < p->n && d->be->mem_stored; i++) {
        const ts_st_tensor *t = find(f, "", p->list[i]->name);
        p->list[i]->stored = can_stay(p->list[i], t) ? t : NULL;
        stay += p->list[i]->stored != NULL;
    }
    TS_TRY(ts_params_allocate(p, d, 0));
    TS_TRY(read_all(p, TS_BUFFER_WEIGHT, f, ""));
    for (int i = 0; i < p->n; i++)
        if (p->list[i]->stored) TS_TRY(declare(p, p->list[i]));
    TS_TRY(ts_params_freeze(p));
    if (stay) return TS_OK;
    ts_st_close(f);
    p->file = NULL;
    return TS_OK;
}

/* --- saving --- */

static void to_bf16(uint16_t *out, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], 4);
        out[i] = isnan(x[i]) ? (uint16_t)(u >> 16 | 0x40) : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
}

static ts_status gather(const ts_params *p, const ts_buffer *buffers, const char *const *prefixes, int n_buffers,
                        ts_st_dtype dtype, ts_st_tensor *t, char *data)
{
    float *spare = malloc((size_t)params_largest(p) * 2 * sizeof *spare);
    if (!spare) return ts_fail(TS_E_NOMEM, "out of host memory");
    ts_status st = TS_OK;
    for (int b = 0; b < n_buffers; b++)
        for (int i = 0; i < p->n && st == TS_OK; i++, t++) {
            const ts_param *q = p->list[i];
            char *name = NULL;
            if (asprintf(&name, "%s%s", prefixes[b], q->name) < 0) name = NULL;
            *t = (ts_st_tensor){ .name = name, .dtype = dtype, .rank = q->rank, .data = data };
            memcpy(t->shape, q->shape, sizeof q->shape);
            t->bytes = (uint64_t)q->count * ts_st_dtype_size(dtype);
            st = name ? params_fetch(p, buffers[b], q, spare, spare + params_largest(p)) : ts_fail(TS_E_NOMEM, "out of host memory");
            if (st == TS_OK && dtype == TS_ST_BF16) to_bf16((uint16_t *)(void *)data, spare, q->count);
            else if (st == TS_OK) memcpy(data, spare, t->bytes);
            data += (t->bytes + 7) / 8 * 8;
        }
    free(spare);
    return st;
}

ts_status ts_params_save(const ts_params *p, const char *path, const ts_buffer *buffers, const char *const *prefixes,
                         int n_buffers, ts_st_dtype dtype, const char *const *keys, const char *const *values, int n_pairs)
{
    size_t bytes = 0;
    for (int i = 0; i < p->n; i++) bytes += ((size_t)p->list[i]->count * ts_st_dtype_size(dtype) + 7) / 8 * 8;
    int n = n_buffers * p->n;
    ts_st_tensor *t = calloc((size_t)n + 1, sizeof *t);
    char *data = malloc(bytes * (size_t)n_buffers + 1);
    ts_status st = t && data ? gather(p, buffers, prefixes, n_buffers, dtype, t, data)
                             : ts_fail(TS_E_NOMEM, "out of host memory");
    if (st == TS_OK) st = ts_st_write(path, t, n, keys, values, n_pairs);
    for (int i = 0; t && i < n; i++) free((void *)(uintptr_t)t[i].name);
    free(t);
    free(data);
    return st;
}
