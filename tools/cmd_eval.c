/* cmd_eval.c - `tessera eval`: what a tokenizer keeps of a set of pictures. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/dataset.h"
#include "host/log.h"
#include "models/metrics.h"
#include "models/generator.h"
#include "models/usage.h"
#include "tools/commands.h"
#include "tools/common.h"

typedef struct {
    const char *tokenizer, *generator, *data;
    int preprocess;
    int64_t batch;
    common_options common;
} eval_options;

/* Everything that is summed over the pictures. Per scale k: after it. */
typedef struct {
    int64_t pictures, unreadable;
    double psnr[TS_MAX_SCALES], ssim[TS_MAX_SCALES]; /* sums of per-picture values */
    double mse;                                      /* sum of per-picture means, 8-bit levels squared */
    double residual[TS_MAX_SCALES], clamped[TS_MAX_SCALES];
    double bits[TS_MAX_SCALES]; /* that the generator needs */
    int32_t *tokens; /* (pictures, T) */
    int64_t room;
} totals;

static ts_status keep_tokens(totals *s, const int32_t *tokens, int64_t n, int64_t T)
{
    if (s->pictures + n > s->room) {
        int64_t room = 2 * (s->pictures + n);
        int32_t *more = realloc(s->tokens, (size_t)(room * T) * sizeof *more);
        if (!more) return ts_fail(TS_E_NOMEM, "out of host memory");
        s->tokens = more;
        s->room = room;
    }
    memcpy(s->tokens + s->pictures * T, tokens, (size_t)(n * T) * sizeof *tokens);
    return TS_OK;
}

/* One batch; floats in work: images, then K partial results. */
static ts_status eval_batch(totals *s, ts_tokenizer *t, ts_generator *m, float *images, float *partial, int32_t *tokens,
                            const int32_t *labels, uint8_t *pixels, int64_t B)
{
    int K = t->q.p.K, side = t->c.image_size;
    int64_t n = (int64_t)side * side * 3;
    float stats[2 * TS_MAX_SCALES] = { 0 };
    TS_TRY(ts_tokenizer_reconstruct(t, images, B, tokens, NULL, partial, stats));
    TS_TRY(keep_tokens(s, tokens, B, t->q.p.T));
    if (m) TS_TRY(ts_generator_bits(m, t, tokens, labels, B, s->bits));
    uint8_t *original = pixels, *result = pixels + n;
    for (int64_t b = 0; b < B; b++) {
        ts_image_from_float(original, images + b * n, (size_t)n);
        for (int k = 0; k < K; k++) {
            ts_image_from_float(result, partial + (k * B + b) * n, (size_t)n);
            double mse = ts_mse(original, result, n);
            s->psnr[k] += ts_psnr(mse);
            s->ssim[k] += ts_ssim(original, result, side, side);
            if (k == K - 1) s->mse += mse;
        }
    }
    for (int k = 0; k < K && t->c.q.kind != TS_QUANTIZER_FSQ; k++) {
        int residual = t->c.q.kind == TS_QUANTIZER_RESIDUAL_FSQ;
        s->residual[k] += stats[residual ? 2 * k : k];
        if (residual) s->clamped[k] += stats[2 * k + 1];
    }
    s->pictures += B;
    return TS_OK;
}

static ts_status eval_all(totals *s, ts_tokenizer *t, ts_generator *m, const ts_dataset *data, const eval_options *o)
{
    int64_t n = (int64_t)t->c.image_size * t->c.image_size * 3, B = o->batch;
    ts_loader_options lo = { .how = common_preprocess(o->preprocess, t), .size = t->c.image_size, .threads = 2, .ahead = (int)(2 * B) };
    ts_loader *loader = NULL;
    float *images = malloc((size_t)(B * n) * sizeof *images), *partial = malloc((size_t)(t->q.p.K * B * n) * sizeof *partial);
    int32_t *tokens = malloc((size_t)(B * (t->q.p.T + 1)) * sizeof *tokens), *labels = tokens + B * t->q.p.T;
    uint8_t *pixels = malloc((size_t)n * 2);
    ts_status st = images && partial && tokens && pixels ? TS_OK : ts_fail(TS_E_NOMEM, "out of host memory");
    if (st == TS_OK) st = ts_loader_new(&loader, data, &lo);
    ts_progress *progress = ts_progress_new("eval", "img", ts_dataset_count(data), 0);
    int more = 1;
    while (st == TS_OK && more) {
        int64_t have = 0;
        while (have < B && st == TS_OK) {
            ts_loaded in;
            st = ts_loader_next(loader, &in, &more);
            if (st != TS_OK || !more) break;
            if (in.status != TS_OK) {
                ts_log("%s", in.error);
                s->unreadable++;
                continue;
            }
            int known = m && in.label >= 0 && in.label < m->c.num_classes;
            labels[have] = known ? in.label : m ? m->c.num_classes : 0;
            ts_image_to_float(images + have++ * n, in.image.rgb, (size_t)n);
            ts_image_free(&in.image);
        }
        if (st == TS_OK && have > 0) st = eval_batch(s, t, m, images, partial, tokens, labels, pixels, have);
        ts_progress_set(progress, s->pictures + s->unreadable, NULL);
    }
    ts_progress_free(progress);
    ts_loader_free(loader);
    free(images);
    free(partial);
    free(tokens);
    free(pixels);
    if (st == TS_OK && s->pictures == 0) st = ts_fail(TS_E_DATA, "%s: no picture could be read", o->data);
    return st;
}

static double mean_gain(ts_tokenizer *t, int k)
{
    float g[TS_MAX_D];
    const float *from = (const float *)t->q.log_gain->data + k * t->c.q.D;
    double sum = 0;
    if (t->d->be->download(t->d->s, g, from, (size_t)t->c.q.D * sizeof *g) != TS_OK) return NAN;
    for (int d = 0; d < t->c.q.D; d++) sum += exp(g[d]) / t->c.q.D;
    return sum;
}

static ts_status scale_row(json_t **row, const totals *s, ts_tokenizer *t, int k)
{
    const ts_pyramid *p = &t->q.p;
    ts_usage u;
    TS_TRY(ts_usage_of_scale(&u, s->tokens, s->pictures, p, k));
    double N = (double)s->pictures;
    *row = json_pack("{s:i,s:i,s:f,s:f,s:I,s:f}", "scale", k, "side", p->py[k], "psnr", s->psnr[k] / N, "ssim", s->ssim[k] / N,
                     "used", (json_int_t)u.used, "perplexity", u.perplexity);
    if (!*row) return ts_fail(TS_E_NOMEM, "out of host memory");
    if (t->c.q.kind == TS_QUANTIZER_FSQ) return TS_OK;
    json_object_set_new(*row, "residual_rms", json_real(sqrt(s->residual[k] / (N * p->h * p->w * t->c.q.D))));
    if (t->c.q.kind == TS_QUANTIZER_VQ) return TS_OK;
    json_object_set_new(*row, "gain", json_real(mean_gain(t, k)));
    json_object_set_new(*row, "clamped", json_real(s->clamped[k] / (N * p->py[k] * p->px[k] * t->c.q.D)));
    return TS_OK;
}

static ts_status result(json_t **out, const totals *s, ts_tokenizer *t, const ts_generator *m)
{
    int K = t->q.p.K;
    double N = (double)s->pictures, bits = 0;
    json_t *scales = json_array();
    for (int k = 0; k < K; k++) {
        json_t *row;
        TS_TRY(scale_row(&row, s, t, k));
        if (m) json_object_set_new(row, "bits", json_real(s->bits[k] / N));
        json_array_append_new(scales, row);
        bits += s->bits[k] / N;
    }
    *out = json_pack("{s:I,s:I,s:f,s:f,s:f,s:f,s:i,s:o}", "pictures", (json_int_t)s->pictures, "unreadable",
                     (json_int_t)s->unreadable, "psnr", s->psnr[K - 1] / N, "psnr_of_mean_mse", ts_psnr(s->mse / N), "ssim",
                     s->ssim[K - 1] / N, "bits_nominal", t->q.p.T * log2(t->c.q.V), "codes", t->c.q.V, "scales", scales);
    if (*out && m) json_object_set_new(*out, "bits_predicted", json_real(bits));
    return *out ? TS_OK : ts_fail(TS_E_NOMEM, "out of host memory");
}

static double number(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static void cell(const json_t *row, const char *key)
{
    if (json_object_get(row, key)) printf("%10.4f", number(row, key));
    else printf("%10s", "-");
}

static void print_table(const json_t *o)
{
    printf("pictures     %.0f%s\n", number(o, "pictures"), number(o, "unreadable") > 0 ? " (some could not be read)" : "");
    printf("PSNR         %.2f dB (mean over pictures), %.2f dB (of the mean squared error)\n", number(o, "psnr"),
           number(o, "psnr_of_mean_mse"));
    printf("SSIM         %.4f\n", number(o, "ssim"));
    printf("codes        %.0f, %.1f bits a picture", number(o, "codes"), number(o, "bits_nominal"));
    if (json_object_get(o, "bits_predicted")) printf(", %.1f as the generator predicts them", number(o, "bits_predicted"));
    printf("\n\nscale  side  PSNR dB     SSIM      used  perplexity  residual      gain   clamped      bits\n");
    size_t i;
    const json_t *row;
    json_array_foreach(json_object_get(o, "scales"), i, row)
    {
        printf("%5.0f %5.0f %8.2f %8.4f %9.0f %11.1f", number(row, "scale"), number(row, "side"), number(row, "psnr"),
               number(row, "ssim"), number(row, "used"), number(row, "perplexity"));
        cell(row, "residual_rms");
        cell(row, "gain");
        cell(row, "clamped");
        cell(row, "bits");
        printf("\n");
    }
}

static ts_status eval(const eval_options *o)
{
    ts_device *d = NULL;
    ts_tokenizer *t = NULL;
    ts_generator *m = NULL;
    ts_dataset *data = NULL;
    json_t *r = NULL;
    totals s = { 0 };
    ts_status st = common_device(&d, &o->common);
    if (st == TS_OK) st = ts_tokenizer_load(&t, d, o->tokenizer);
    if (st == TS_OK && o->generator) st = ts_generator_load(&m, d, o->generator);
    if (st == TS_OK && m) st = ts_generator_fits(m, t, o->tokenizer);
    if (st == TS_OK) st = ts_dataset_open(&data, &o->data, 1);
    if (st == TS_OK) st = eval_all(&s, t, m, data, o);
    if (st == TS_OK) st = result(&r, &s, t, m);
    if (st == TS_OK && o->common.json) json_dumpf(r, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)), printf("\n");
    else if (st == TS_OK) print_table(r);
    json_decref(r);
    free(s.tokens);
    ts_dataset_close(data);
    ts_generator_free(m);
    ts_tokenizer_free(t);
    ts_device_close(d);
    return st;
}

int cmd_eval(int argc, char **argv)
{
    eval_options o = { .batch = 32, .common = common_inference() };
    const opt_command command = { "eval", "--tokenizer T.safetensors --data DIR",
                                  "Measure a tokenizer on pictures: PSNR and SSIM after every scale, use of the codebook.", 0, 0 };
    const opt options[] = {
        { .name = "tokenizer", .kind = OPT_STRING, .value = &o.tokenizer, .argument = "FILE", .required = 1, .help = "model file" },
        { .name = "generator", .kind = OPT_STRING, .value = &o.generator, .argument = "FILE",
          .help = "also say how many bits this generator needs for the tokens" },
        { .name = "data", .kind = OPT_STRING, .value = &o.data, .argument = "DIR", .required = 1,
          .help = "pictures: ImageFolder, flat folder or tar" },
        { .name = "preprocess", .kind = OPT_CHOICE, .value = &o.preprocess, .choices = PREPROCESS_CHOICES,
          .help = PREPROCESS_HELP },
        { .name = "batch", .letter = 'b', .kind = OPT_INT, .value = &o.batch, .min = 1, .max = 4096, .argument = "N",
          .help = "pictures at a time" },
        COMMON_OPTIONS(o.common),
        { .name = NULL }
    };
    char **positional;
    int n, code;
    if (opt_parse(argc, argv, &command, options, &positional, &n, &code)) return code;
    return report(eval(&o));
}
