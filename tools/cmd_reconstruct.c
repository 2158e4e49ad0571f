/* cmd_reconstruct.c - `tessera reconstruct`: a grid with a row per picture: input, result, and the result after every scale. */
#include <stdlib.h>
#include <string.h>

#include "host/log.h"
#include "models/metrics.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/pictures.h"

typedef struct {
    const char *tokenizer, *out;
    int preprocess;
    int64_t zoom;
    common_options common;
} reconstruct_options;

static ts_status one_row(ts_tokenizer *t, const ts_dataset *data, int64_t i, ts_preprocess how, ts_image *row, double *psnr)
{
    int K = t->q.p.K, side = t->c.image_size;
    size_t n = (size_t)side * (size_t)side * 3;
    ts_image in = { 0, 0, NULL };
    float *x = malloc(n * (size_t)(K + 1) * sizeof *x);
    ts_status st = x ? ts_dataset_read(data, i, &in) : ts_fail(TS_E_NOMEM, "out of host memory");
    if (st == TS_OK) st = ts_image_preprocess(&row[0], &in, how, side, NULL, common_resizer(t->d), ts_dataset_name(data, i));
    if (st == TS_OK) {
        ts_image_to_float(x, row[0].rgb, n);
        st = ts_tokenizer_reconstruct(t, x, 1, NULL, NULL, x + n, NULL);
    }
    if (st == TS_OK) st = pictures_from_float(&row[1], x + n * (size_t)K, 1, side);
    if (st == TS_OK) st = pictures_from_float(&row[2], x + n, K, side);
    if (st == TS_OK) *psnr = ts_psnr(ts_mse(row[0].rgb, row[1].rgb, (int64_t)n));
    ts_image_free(&in);
    free(x);
    return st;
}

static ts_status reconstruct_all(ts_tokenizer *t, const ts_dataset *data, const reconstruct_options *o)
{
    int columns = t->q.p.K + 2;
    int64_t n = ts_dataset_count(data);
    TS_TRY(pictures_check_out(o->out));
    if (n > 1000) return ts_fail(TS_E_ARG, "%lld pictures, expected at most 1000 for one grid", (long long)n);
    ts_image *all = calloc((size_t)(n * columns), sizeof *all), grid = { 0, 0, NULL };
    ts_status st = all ? TS_OK : ts_fail(TS_E_NOMEM, "out of host memory");
    double sum = 0;
    for (int64_t i = 0; i < n && st == TS_OK; i++) {
        double psnr = 0;
        st = one_row(t, data, i, common_preprocess(o->preprocess, t), all + i * columns, &psnr);
        sum += psnr;
        if (st == TS_OK) printf("%s: %.2f dB\n", ts_dataset_name(data, i), psnr);
    }
    if (st == TS_OK) st = ts_image_grid(&grid, all, (int)(n * columns), columns, 2);
    if (st == TS_OK) st = ts_image_zoom(&grid, (int)o->zoom);
    if (st == TS_OK) st = ts_image_write_png(o->out, &grid, NULL, 0);
    if (st == TS_OK)
        printf("%s: input, result, then the sum after each of %d scales; mean PSNR %.2f dB\n", o->out, t->q.p.K, sum / (double)n);
    ts_image_free(&grid);
    for (int64_t i = 0; all && i < n * columns; i++) ts_image_free(&all[i]);
    free(all);
    return st;
}

static ts_status reconstruct(const reconstruct_options *o, char **inputs, int n)
{
    ts_device *d = NULL;
    ts_tokenizer *t = NULL;
    ts_dataset *data = NULL;
    ts_status st = common_device(&d, &o->common);
    if (st == TS_OK) st = ts_tokenizer_load(&t, d, o->tokenizer);
    if (st == TS_OK) st = ts_dataset_open(&data, (const char *const *)inputs, n);
    if (st == TS_OK) st = reconstruct_all(t, data, o);
    ts_dataset_close(data);
    ts_tokenizer_free(t);
    ts_device_close(d);
    return st;
}

int cmd_reconstruct(int argc, char **argv)
{
    reconstruct_options o = { .zoom = 1, .common = common_inference() };
    const opt_command command = { "reconstruct", "--tokenizer T.safetensors --out grid.png IMAGE...",
                                  "Show what a tokenizer keeps: a row per picture with the input, the result, and the result after "
                                  "every scale.", 1, -1 };
    const opt options[] = {
        { .name = "tokenizer", .kind = OPT_STRING, .value = &o.tokenizer, .argument = "FILE", .required = 1, .help = "model file" },
        { .name = "out", .kind = OPT_STRING, .value = &o.out, .argument = "FILE", .required = 1, .help = "PNG file to write" },
        { .name = "preprocess", .kind = OPT_CHOICE, .value = &o.preprocess, .choices = PREPROCESS_CHOICES,
          .help = PREPROCESS_HELP },
        { .name = "zoom", .kind = OPT_INT, .value = &o.zoom, .min = 1, .max = 16, .argument = "N",
          .help = "enlarge the grid: a pixel becomes N x N" },
        COMMON_OPTIONS(o.common),
        { .name = NULL }
    };
    char **positional;
    int n, code;
    if (opt_parse(argc, argv, &command, options, &positional, &n, &code)) return code;
    const ts_status ending = pictures_check_ending(o.out);
    if (ending != TS_OK) return report(ending);
    return report(reconstruct(&o, positional, n));
}
