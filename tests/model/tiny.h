/* tiny.h - models small enough to train in a test: 16x16 pictures, latents of 8x8 (tokenizers) or 4x4 (generators). */
#ifndef TINY_H
#define TINY_H

#include "models/generator.h"
#include "tests/t.h"

enum { TINY_SIDE = 16, TINY_PIXELS = TINY_SIDE * TINY_SIDE * 3, TINY_CLASSES = 4 };

#define TINY_RESIDUAL_FSQ "\"patch_nums\":[1,2,4,8],\"quantizer\":{\"kind\":\"residual_fsq\",\"levels\":[5,5,5]}"
#define TINY_FSQ "\"patch_nums\":[8],\"quantizer\":{\"kind\":\"fsq\",\"levels\":[5,4,7]}"
/* Projections of 1x1: one op with the quantizer. */
#define TINY_FSQ_PROJECT "\"quant_conv_ks\":1," TINY_FSQ
#define TINY_VQ "\"patch_nums\":[1,2,4,8],\"quantizer\":{\"kind\":\"vq\",\"vocab_size\":32,\"share_quant_resi\":4}"

/* kind: one of the above; mult: "[1,2]" for 8x8 latents, "[1,2,2]" for 4x4. */
static inline ts_tokenizer_config tiny_tokenizer_config(const char *kind, const char *mult, int z)
{
    char text[512];
    snprintf(
        text, sizeof text,
        "{\"kind\":\"tokenizer\",\"image_size\":16,\"ch\":16,\"ch_mult\":%s,\"num_res_blocks\":1,\"norm_groups\":8,"
        "\"z_channels\":%d,%s}",
        mult, z, kind);
    ts_tokenizer_config c;
    json_t *o = json_loads(text, 0, NULL);
    T_OK(ts_tokenizer_config_read(&c, o, "tiny"));
    json_decref(o);
    return c;
}

static inline ts_device *tiny_device(const ts_backend *be, int threads, ts_math math)
{
    ts_device *d;
    T_OK(ts_device_open(&d, be->name, threads, math));
    return d;
}

static inline ts_tokenizer *tiny_tokenizer(ts_device *d, const ts_tokenizer_config *c, int training)
{
    ts_tokenizer *t;
    T_OK(ts_tokenizer_new(&t, d, c, training, 1));
    return t;
}

/* B smooth pictures: waves of different direction and colour. */
static inline float *tiny_pictures(int64_t B)
{
    float *x = t_alloc((size_t)(B * TINY_PIXELS) * sizeof *x);
    for (int64_t i = 0; i < B * TINY_PIXELS; i++) {
        double b = (double)(i / TINY_PIXELS), y = (double)(i / 3 / TINY_SIDE % TINY_SIDE),
               u = (double)(i / 3 % TINY_SIDE);
        x[i] = (float)(0.8 * sin(0.3 * (1 + 0.2 * b) * y + 0.15 * (b + 1) * u + (double)(i % 3) + b));
    }
    return x;
}

/* One AdamW step with what the backward left. */
static inline void tiny_step(ts_params *p, int64_t step, double lr)
{
    const ts_adamw a = { (float)lr, 0.9f, 0.95f, 1e-8f, 0.01f, 1, 0.9f, step + 1 };
    float length;
    T_OK(ts_params_step(p, &a, &length));
    T_TRUE(isfinite(length) && length > 0);
}

#endif
