/* resize.c - Pillow's resampling: the plans of its filters. Contract: resize.h. What follows a plan: kernels/cpu/resize.c. */
#include "host/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/codec.h"
#include "host/device.h"

enum { BITS = 22 };

/* One direction: n_in positions to n_out, of which those from .. from+count-1 are made. */
typedef struct {
    int n_in, n_out, from, count;
    ts_filter filter;
} direction;

static double box(double x)
{
    return x > -0.5 && x <= 0.5 ? 1 : 0;
}

static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

static double sinc(double x)
{
    if (x == 0) return 1;
    x *= M_PI;
    return sin(x) / x;
}

static double lanczos(double x)
{
    return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

static const struct {
    double (*f)(double);
    double support;
} FILTERS[] = {
    [TS_FILTER_BOX] = { box, 0.5 }, [TS_FILTER_BICUBIC] = { bicubic, 2 }, [TS_FILTER_LANCZOS] = { lanczos, 3 }
};

static double reach_of(const direction *d)
{
    return FILTERS[d->filter].support * fmax((double)d->n_in / d->n_out, 1);
}

/* Most weights of a position. */
static int taps_of(const direction *d)
{
    return d->n_in == d->n_out ? 1 : (int)ceil(reach_of(d)) * 2 + 1;
}

/* The inputs lo .. hi-1 of output position j. */
static void inputs_of(const direction *d, int j, int *lo, int *hi)
{
    const double centre = (j + 0.5) * ((double)d->n_in / d->n_out), reach = reach_of(d);
    *lo = (int)(centre - reach + 0.5), *hi = (int)(centre + reach + 0.5);
    *lo = *lo < 0 ? 0 : *lo;
    *hi = *hi > d->n_in ? d->n_in : *hi;
    if (d->n_in == d->n_out) *lo = j, *hi = j + 1;
}

/* The weights of output position j, `step` apart; w: room for as many. */
static void weights_of(int32_t *weight, size_t step, double *w, const direction *d, int j, int lo, int hi)
{
    const double scale = (double)d->n_in / d->n_out, wide = fmax(scale, 1), centre = (j + 0.5) * scale;
    double sum = 0;
    for (int i = lo; i < hi; i++) sum += w[i - lo] = FILTERS[d->filter].f((i - centre + 0.5) * (1 / wide));
    for (int i = 0; i < hi - lo; i++) {
        double fixed = (sum != 0 ? w[i] / sum : w[i]) * (1 << BITS);
        weight[(size_t)i * step] = (int32_t)(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
    }
    if (d->n_in == d->n_out) weight[0] = 1 << BITS;
}

/* One half of a plan; inputs are counted from `base`. turned: (taps, count) rather than (count, taps). */
static void plan_make(int32_t *plan, double *w, const direction *d, int base, int turned)
{
    const size_t taps = (size_t)taps_of(d), count = (size_t)d->count, step = turned ? count : 1, next = turned ? 1 : taps;
    int32_t *first = plan, *n = plan + count, *weight = plan + 2 * count;
    memset(weight, 0, sizeof *weight * taps * count);
    for (size_t j = 0; j < count; j++) {
        int lo, hi;
        inputs_of(d, d->from + (int)j, &lo, &hi);
        first[j] = lo - base;
        n[j] = hi - lo;
        weights_of(weight + j * next, step, w, d, d->from + (int)j, lo, hi);
    }
}

static ts_status run_here(uint8_t *out, const uint8_t *in, const int32_t *plan, const ts_resize *r, const char *name)
{
    const ts_backend *cpu = ts_backend_get("cpu");
    void *scratch = malloc(cpu->resize_scratch(NULL, r));
    if (!scratch) return ts_fail(TS_E_NOMEM, "%s: out of memory", name);
    ts_status st = cpu->resize(NULL, out, in, plan, r, scratch);
    free(scratch);
    return st;
}

static ts_status run_on(ts_device *d, uint8_t *out, const uint8_t *in, const int32_t *plan, const ts_resize *r)
{
    const size_t bytes[4] = { (size_t)r->height * (size_t)r->width * 3, (size_t)r->rows * (size_t)r->in_width * 3,
                              ts_resize_plan(r) * sizeof *plan, d->be->resize_scratch(d->s, r) };
    ts_block *b[4] = { NULL };
    ts_status st = TS_OK;
    for (int i = 0; i < 4 && st == TS_OK; i++)
        if (!(b[i] = ts_block_get(d, bytes[i]))) st = TS_E_NOMEM;
    if (st == TS_OK) st = d->be->upload(d->s, b[1]->p, in, bytes[1]);
    if (st == TS_OK) st = d->be->upload(d->s, b[2]->p, plan, bytes[2]);
    if (st == TS_OK) st = d->be->resize(d->s, b[0]->p, b[1]->p, b[2]->p, r, b[3]->p);
    if (st == TS_OK) st = d->be->download(d->s, out, b[0]->p, bytes[0]);
    for (int i = 0; i < 4; i++) ts_block_drop(d, b[i]);
    return st;
}

ts_status ts_image_resize(ts_image *out, const ts_image *in, int width, int height, ts_filter filter,
                          const ts_window *window, ts_device *d, const char *name)
{
    const ts_window all = { 0, 0, width, height }, *w = window ? window : &all;
    *out = (ts_image){ 0 };
    if (width < 1 || height < 1 || w->left < 0 || w->top < 0 || w->width < 1 || w->height < 1 ||
        w->left > width - w->width || w->top > height - w->height)
        return ts_fail(TS_E_ARG, "%s: cannot cut %d x %d at %d, %d out of %d x %d pixels", name, w->width, w->height,
                       w->left, w->top, width, height);
    const direction x = { in->width, width, w->left, w->width, filter }, y = { in->height, height, w->top, w->height, filter };
    int first, end, other;
    inputs_of(&y, w->top, &first, &other);
    inputs_of(&y, w->top + w->height - 1, &other, &end);
    const ts_resize r = { in->width, end - first, w->width, w->height, taps_of(&x), taps_of(&y) };
    if ((int64_t)r.rows * r.width > TS_MAX_PIXELS)
        return ts_fail(TS_E_DATA, "%s: %d x %d pixels between columns and rows; at most %d are possible", name, r.width, r.rows,
                       TS_MAX_PIXELS);
    int32_t *plan = malloc(ts_resize_plan(&r) * sizeof *plan);
    double *room = malloc(sizeof *room * (size_t)(r.taps_x > r.taps_y ? r.taps_x : r.taps_y));
    ts_status st = plan && room ? ts_image_alloc(out, w->width, w->height, name) : ts_fail(TS_E_NOMEM, "%s: out of memory", name);
    if (st == TS_OK) {
        plan_make(plan, room, &x, 0, 1);
        plan_make(plan + (size_t)r.width * (size_t)(2 + r.taps_x), room, &y, first, 0);
        const uint8_t *rows = in->rgb + (size_t)first * (size_t)in->width * 3;
        st = d ? run_on(d, out->rgb, rows, plan, &r) : run_here(out->rgb, rows, plan, &r, name);
    }
    if (st != TS_OK) ts_image_free(out);
    free(plan);
    free(room);
    return st;
}
