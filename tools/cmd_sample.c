/* cmd_sample.c - `tessera sample`: pictures from classes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/file.h"
#include "host/log.h"
#include "host/npz.h"
#include "models/sampler.h"
#include "tools/class_list.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/pictures.h"

typedef struct {
    const char *tokenizer, *generator, *classes, *out;
    int64_t per_class, num, batch, top_k, zoom;
    int per_class_given, show_scales, smooth;
    double cfg, top_p, temperature;
    int no_metadata;
    common_options common;
} sample_options;

typedef struct {
    const sample_options *o;
    ts_tokenizer *t;
    ts_generator *m;
    int64_t *classes; /* as asked for */
    int n_classes;
    int said; /* exit code if --class was refused: why stands on stderr already */
    int64_t each, extra, total; /* pictures: of a class; classes at the front that have one more; of all classes */
    int K; /* pictures of a sample: after every scale, or 1 */
    int64_t columns, cells; /* of the grid */
    ts_image *grid; /* a row of columns for every class with pictures, K pictures each, for --out grid.png; else NULL */
    ts_npz *npz;    /* for --out X.npz; else NULL */
    json_t *list;   /* samples.json, for --out DIR; else NULL */
} sample_run;

static ts_status parse_classes(sample_run *r)
{
    const ts_generator *m = r->m;
    r->said = class_list("--class", r->o->classes, (const char *const *)m->classes, m->c.num_classes, &r->classes, &r->n_classes);
    return r->said ? TS_E_ARG : TS_OK;
}

static void count_pictures(sample_run *r)
{
    const sample_options *o = r->o;
    r->each = o->num ? o->num / r->n_classes : o->per_class;
    r->extra = o->num % r->n_classes;
    r->columns = (r->each + (r->extra > 0)) * r->K;
    r->total = r->each * r->n_classes + r->extra;
}

/* Where picture n stands in the list of classes, and among those of its class. */
static int64_t class_of(const sample_run *r, int64_t n, int64_t *column)
{
    int64_t longer = r->extra * (r->each + 1), per = n < longer ? r->each + 1 : r->each;
    if (n >= longer) n -= longer;
    if (column) *column = n % per;
    return n / per + (per == r->each ? r->extra : 0);
}

static char *settings(const sample_options *o, const ts_generator *m, int64_t label, int64_t number)
{
    return ts_format("class %lld %s, picture %lld, seed %llu, cfg %g, top-k %lld, top-p %g, temperature %g%s, tokenizer %s, dtype %s, "
                     "tessera " TS_VERSION, (long long)label, ts_generator_class_name(m, (int)label), (long long)number, (unsigned long long)o->common.seed,
                     o->cfg, (long long)o->top_k, o->top_p, o->temperature, o->smooth ? ", smooth" : "", m->tokenizer_hash,
                     ts_math_name(m->d->math));
}

/* A file of its own, and a line in samples.json for the result. */
static ts_status keep_file(sample_run *r, int64_t number, int64_t label, int k, const ts_image *im)
{
    int result = k == r->K - 1, bare = r->o->no_metadata;
    char *text = settings(r->o, r->m, label, number), *file = ts_format("%06lld.png", (long long)number);
    const char *const pair[1][2] = { { "parameters", text } };
    ts_status st = text && file ? TS_OK : ts_fail(TS_E_NOMEM, "out of host memory");
    if (st == TS_OK && r->o->show_scales) st = pictures_write(r->o->out, number, k, im, pair, !bare);
    if (st == TS_OK && result) st = pictures_write(r->o->out, number, -1, im, pair, !bare);
    if (st == TS_OK && result)
        json_array_append_new(r->list, json_pack("{s:s,s:I,s:s}", "file", file, "class", (json_int_t)label, "name",
                                                 ts_generator_class_name(r->m, (int)label)));
    free(text);
    free(file);
    return st;
}

/* Picture k of sample `number` goes to where --out says; im is used up. */
static ts_status keep(sample_run *r, int64_t number, int64_t label, int k, ts_image *im)
{
    if (r->grid) {
        int64_t column, row = class_of(r, number, &column);
        r->grid[row * r->columns + column * r->K + k] = *im;
        *im = (ts_image){ 0, 0, NULL };
        return TS_OK;
    }
    ts_status st = r->npz ? ts_npz_write(r->npz, im->rgb, (size_t)im->width * (size_t)im->height * 3)
                          : keep_file(r, number, label, k, im);
    ts_image_free(im);
    return st;
}

/* images: room for (K,B) pictures; out: for as many. */
static ts_status sample_batch(sample_run *r, int64_t first, int64_t B, int32_t *labels, float *images, ts_image *out)
{
    const sample_options *o = r->o;
    int scales = o->show_scales;
    for (int64_t b = 0; b < B; b++) labels[b] = (int32_t)r->classes[class_of(r, first + b, NULL)];
    ts_sampling s = { .seed = o->common.seed, .image0 = (uint64_t)first, .cfg = o->cfg, .temperature = o->temperature,
                      .top_p = o->top_p, .top_k = (int)o->top_k, .smooth = o->smooth };
    TS_TRY(ts_generator_sample_scales(r->m, r->t, labels, B, &s, NULL, scales ? NULL : images, scales ? images : NULL));
    TS_TRY(pictures_from_float(out, images, r->K * B, r->t->c.image_size));
    ts_status st = TS_OK;
    for (int64_t i = 0; i < B * r->K; i++) {
        int64_t b = i / r->K, k = i % r->K;
        ts_image *im = &out[k * B + b];
        if (st == TS_OK) st = keep(r, first + b, labels[b], (int)k, im);
        else ts_image_free(im);
    }
    return st;
}

static ts_status sample_all(sample_run *r)
{
    int64_t B = r->o->batch < r->total ? r->o->batch : r->total;
    int64_t pixels = (int64_t)r->t->c.image_size * r->t->c.image_size * 3;
    int32_t *labels = malloc((size_t)B * sizeof *labels);
    float *images = malloc((size_t)(r->K * B * pixels) * sizeof *images);
    ts_image *out = calloc((size_t)(r->K * B), sizeof *out);
    ts_status st = labels && images && out ? TS_OK : ts_fail(TS_E_NOMEM, "out of host memory");
    ts_progress *progress = ts_progress_new("sample", "img", r->total, 0);
    for (int64_t i = 0; i < r->total && st == TS_OK; i += B) {
        int64_t n = i + B < r->total ? B : r->total - i;
        st = sample_batch(r, i, n, labels, images, out);
        ts_progress_set(progress, i + n, NULL);
        if (st == TS_OK && ts_signals_stop())
            st = ts_fail(TS_E_STOPPED, "stopped at picture %lld of %lld", (long long)(i + n), (long long)r->total);
    }
    ts_progress_free(progress);
    free(labels);
    free(images);
    free(out);
    return st;
}

static ts_status write_grid(sample_run *r)
{
    ts_image grid;
    TS_TRY(ts_image_grid(&grid, r->grid, (int)r->cells, (int)r->columns, 2));
    ts_status st = ts_image_zoom(&grid, (int)r->o->zoom);
    char *text = settings(r->o, r->m, r->classes[0], 0);
    const char *const pair[1][2] = { { "parameters", text } };
    if (!text) st = ts_fail(TS_E_NOMEM, "out of host memory");
    if (st == TS_OK) st = ts_image_write_png(r->o->out, &grid, pair, r->o->no_metadata ? 0 : 1);
    free(text);
    ts_image_free(&grid);
    return st;
}

static ts_status write_list(const sample_run *r)
{
    const sample_options *o = r->o;
    /* JSON readers take integers up to 2^63 */
    json_t *seed = o->common.seed <= INT64_MAX ? json_integer((json_int_t)o->common.seed)
                                               : json_sprintf("%llu", (unsigned long long)o->common.seed);
    json_t *all = json_pack("{s:o,s:f,s:I,s:f,s:f,s:b,s:s,s:s,s:O}", "seed", seed, "cfg", o->cfg, "top_k", (json_int_t)o->top_k,
                            "top_p", o->top_p, "temperature", o->temperature, "smooth", o->smooth, "tokenizer", r->m->tokenizer_hash, "dtype",
                            ts_math_name(r->m->d->math), "samples", r->list);
    char *text = all ? json_dumps(all, JSON_INDENT(1)) : NULL, *path = ts_format("%s/samples.json", o->out);
    ts_status st = text && path ? ts_file_replace(path, text, strlen(text)) : ts_fail(TS_E_NOMEM, "out of host memory");
    free(text);
    free(path);
    json_decref(all);
    return st;
}

/* ADM-style: all pictures, then their labels. */
static ts_status sample_npz(sample_run *r)
{
    int side = r->t->c.image_size;
    TS_TRY(pictures_check_out(r->o->out));
    TS_TRY(ts_npz_create(&r->npz, r->o->out));
    TS_TRY(ts_npz_array(r->npz, "arr_0", "|u1", 4, (int64_t[]){ r->total, side, side, 3 }));
    TS_TRY(sample_all(r));
    TS_TRY(ts_npz_array(r->npz, "arr_1", "<i8", 1, (int64_t[]){ r->total }));
    for (int64_t n = 0; n < r->total; n++)
        TS_TRY(ts_npz_write(r->npz, &r->classes[class_of(r, n, NULL)], sizeof *r->classes));
    ts_npz *z = r->npz;
    r->npz = NULL;
    return ts_npz_commit(z);
}

static ts_status open_grid(sample_run *r)
{
    if (r->total > 10000 / r->K)
        return ts_fail(TS_E_ARG, "%lld pictures are too many for one grid (10000); give a folder", (long long)r->total * r->K);
    int side = r->t->c.image_size;
    r->cells = (class_of(r, r->total - 1, NULL) + 1) * r->columns;
    r->grid = calloc((size_t)r->cells, sizeof *r->grid);
    if (!r->grid) return ts_fail(TS_E_NOMEM, "out of host memory");
    for (int64_t i = 0; i < r->cells; i++) r->grid[i] = (ts_image){ side, side, NULL };
    return TS_OK;
}

/* A grid when out ends in .png, arrays when in .npz, else a folder. */
static ts_status sample_to(sample_run *r, int *lock)
{
    if (pictures_is_npz(r->o->out)) return sample_npz(r);
    if (pictures_is_png(r->o->out)) {
        TS_TRY(pictures_check_out(r->o->out));
        TS_TRY(open_grid(r));
        TS_TRY(sample_all(r));
        return write_grid(r);
    }
    r->list = json_array();
    TS_TRY(pictures_open_dir(lock, r->o->out));
    TS_TRY(sample_all(r));
    return write_list(r);
}

static int sample(const sample_options *o)
{
    sample_run r = { .o = o };
    ts_device *d = NULL;
    int lock = -1;
    ts_status st = common_device(&d, &o->common);
    if (st == TS_OK) st = ts_tokenizer_load(&r.t, d, o->tokenizer);
    if (st == TS_OK) st = ts_generator_load(&r.m, d, o->generator);
    if (st == TS_OK) st = ts_generator_fits(r.m, r.t, o->tokenizer);
    if (st == TS_OK && o->smooth && (r.m->c.head != TS_HEAD_JOINT || r.t->c.q.kind != TS_QUANTIZER_VQ))
        st = ts_fail(TS_E_ARG, "--smooth: %s has no vq codebook with a joint head before it", o->generator);
    if (st == TS_OK) st = parse_classes(&r);
    r.K = st == TS_OK && o->show_scales ? r.t->q.p.K : 1;
    if (st == TS_OK) count_pictures(&r);
    double start = ts_seconds();
    if (st == TS_OK) st = sample_to(&r, &lock);
    double seconds = ts_seconds() - start;
    if (st == TS_OK && o->common.json) {
        json_t *j = json_pack("{s:I,s:f,s:o}", "pictures", (json_int_t)r.total, "seconds", seconds, "out", common_text(o->out));
        json_dumpf(j, stdout, JSON_REAL_PRECISION(6)), printf("\n");
        json_decref(j);
    } else if (st == TS_OK && seconds > (double)r.total)
        printf("%s: %lld pictures, %.1f s/picture\n", o->out, (long long)r.total, seconds / (double)r.total);
    else if (st == TS_OK)
        printf("%s: %lld pictures, %.1f pictures/s\n", o->out, (long long)r.total, (double)r.total / seconds);
    for (int64_t i = 0; r.grid && i < r.cells; i++) ts_image_free(&r.grid[i]);
    free(r.grid);
    free(r.classes);
    ts_npz_discard(r.npz);
    json_decref(r.list);
    ts_dir_unlock(lock);
    ts_generator_free(r.m);
    ts_tokenizer_free(r.t);
    ts_device_close(d);
    return r.said ? r.said : report(st);
}

int cmd_sample(int argc, char **argv)
{
    sample_options o = { .classes = "all", .per_class = 8, .batch = 8, .zoom = 1, .cfg = 1.5, .top_p = 1, .temperature = 1, .common = common_inference() };
    const opt_command command = { "sample", "--tokenizer T.safetensors --generator G.safetensors --out grid.png|DIR|X.npz",
                                  "Generate pictures. The same seed gives the same pictures whatever the batch size or thread "
                                  "count.", 0, 0 };
    const opt options[] = {
        { .name = "tokenizer", .kind = OPT_STRING, .value = &o.tokenizer, .argument = "FILE", .required = 1, .help = "model file" },
        { .name = "generator", .kind = OPT_STRING, .value = &o.generator, .argument = "FILE", .required = 1, .help = "model file" },
        { .name = "class", .letter = 'c', .kind = OPT_STRING, .value = &o.classes, .argument = "LIST",
          .help = "numbers or names such as 3,7,10-12,dog; case is ignored, and 'dog' finds '7-dog'" },
        { .name = "out", .letter = 'o', .kind = OPT_STRING, .value = &o.out, .argument = "PATH", .required = 1,
          .help = "FILE.png: a grid with a row per class; FILE.npz: arr_0, pictures (N,Y,X,3) uint8, and arr_1, their classes (N) "
                  "int64; else a folder with 000000.png and on" },
        { .name = "per-class", .letter = 'n', .kind = OPT_INT, .value = &o.per_class, .min = 1, .max = 1e9, .argument = "N",
          .help = "pictures of each class", .given = &o.per_class_given },
        { .name = "num", .kind = OPT_INT, .value = &o.num, .min = 0, .max = 1e12, .argument = "N",
          .help = "instead: pictures in all, spread evenly over the classes, the first of the list get one more; 0: off" },
        { .name = "batch", .letter = 'b', .kind = OPT_INT, .value = &o.batch, .min = 1, .max = 4096, .argument = "N",
          .help = "pictures at a time" },
        { .name = "cfg", .kind = OPT_FLOAT, .value = &o.cfg, .min = 0, .max = 100, .argument = "X",
          .help = "classifier-free guidance at the last scale; 0: none" },
        { .name = "top-k", .kind = OPT_INT, .value = &o.top_k, .min = 0, .max = 1 << 24, .argument = "N",
          .help = "draw from the N likeliest only; 0: all, 1: greedy" },
        { .name = "top-p", .kind = OPT_FLOAT, .value = &o.top_p, .min = 1e-6, .max = 1, .argument = "P",
          .help = "draw from the likeliest that hold this probability; 1: all" },
        { .name = "temperature", .kind = OPT_FLOAT, .value = &o.temperature, .min = 1e-3, .max = 100, .argument = "X",
          .help = "logits are divided by it" },
        { .name = "smooth", .kind = OPT_FLAG, .value = &o.smooth,
          .help = "sum means of codebook rows, sharpened from scale to scale, instead of drawn rows: smoother pictures, no fair "
                  "sample for measuring; only models with a vq codebook and a joint head" },
        { .name = "show-scales", .kind = OPT_FLAG, .value = &o.show_scales,
          .help = "the picture after every scale: side by side in a grid, the last is the result; 000000.scale0.png and on in a "
                  "folder" },
        { .name = "zoom", .kind = OPT_INT, .value = &o.zoom, .min = 1, .max = 16, .argument = "N",
          .help = "enlarge the grid: a pixel becomes N x N" },
        { .name = "no-metadata", .kind = OPT_FLAG, .value = &o.no_metadata, .help = "leave the settings out of the PNG files" },
        COMMON_OPTIONS(o.common),
        { .name = NULL }
    };
    char **positional;
    int n, code;
    if (opt_parse(argc, argv, &command, options, &positional, &n, &code)) return code;
    if (o.num && o.per_class_given) return report(ts_fail(TS_E_ARG, "--num and --per-class (-n) exclude each other"));
    if (o.show_scales && pictures_is_npz(o.out)) return report(ts_fail(TS_E_ARG, "--show-scales: %s holds results alone", o.out));
    const ts_status ending = pictures_check_ending(o.out);
    if (ending != TS_OK) return report(ending);
    ts_signals_install();
    return sample(&o);
}
