/* autoencoder.h - the convolutional encoder and decoder of the published tokenizer.
 *
 *   block      h = conv1(silu(norm1(x)));  h = conv2(silu(norm2(h)));  (nin_shortcut x where widths differ, else x) + h
 *   attention  x + proj_out(softmax(q k^T / sqrt(C)) v),  q, k, v = thirds of qkv(norm(x)); one head
 *   encoder    conv_in; per level: num_res_blocks blocks (with attention after each at the last level), then a stride-2
 *              convolution with padding right and below only; block, attention, block; norm_out, silu, conv_out
 *   decoder    conv_in; block, attention, block; per level from the last: num_res_blocks + 1 blocks (with attention at the last
 *              level), then nearest 2x and a convolution; norm_out, silu, conv_out
 * Source: the published VAR tokenizer (arXiv:2404.02905), after VQGAN (arXiv:2012.09841).
 *
 * Easy to get wrong: GroupNorm eps is 1e-6; levels of the decoder are numbered as the encoder's and run backwards; attention stands
 * at the lowest resolution and in the middle only.
 */
#ifndef TS_AUTOENCODER_H
#define TS_AUTOENCODER_H

#include "host/params.h"
#include "models/config.h"

enum { TS_MAX_BLOCKS = 17 };

typedef struct {
    ts_tensor *w, *b;
    int k;
} conv;

typedef struct {
    ts_tensor *gamma, *beta;
    int groups;
} norm;

typedef struct {
    norm norm1, norm2;
    conv conv1, conv2, shortcut; /* shortcut.w is NULL where widths agree */
} res_block;

typedef struct {
    norm norm;
    conv qkv, proj_out;
} attn_block;

typedef struct {
    int n_blocks;
    res_block block[TS_MAX_BLOCKS];
    attn_block attn[TS_MAX_BLOCKS]; /* norm.gamma is NULL where there is none */
    conv resize;                    /* down or up; w is NULL where there is none */
} level;

typedef struct {
    int n_levels;
    conv conv_in, conv_out;
    level level[TS_MAX_LEVELS_OF_CH];
    res_block mid_1, mid_2;
    attn_block mid_attn;
    norm norm_out;
} autoencoder_half;

conv conv_declare(ts_params *p, int C, int O, int k, const char *name);
conv conv_declare_read(ts_params *p, int C, int O, int k, const char *name); /* its weight is read by other ops than tg_conv2d */
ts_tensor *conv_forward(ts_graph *g, const conv *c, ts_tensor *x); /* stride 1, same size */

void encoder_declare(autoencoder_half *m, ts_params *p, const ts_tokenizer_config *c);
void decoder_declare(autoencoder_half *m, ts_params *p, const ts_tokenizer_config *c);

ts_tensor *encoder_forward(ts_graph *g, const autoencoder_half *m, ts_tensor *image_BYX3); /* -> (B,h,w,z_channels) */
ts_tensor *decoder_forward(ts_graph *g, const autoencoder_half *m, ts_tensor *z_BhwC);     /* -> (B,Y,X,3) */

#endif
