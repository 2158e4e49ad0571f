/* quantizer.h - the quantizer of a tokenizer, whichever kind its configuration names. */
#ifndef TS_QUANTIZER_H
#define TS_QUANTIZER_H

#include "host/params.h"
#include "models/config.h"

typedef struct {
    ts_quantizer_config c;
    ts_pyramid p;
    ts_fsq fsq;           /* kind fsq          */
    ts_residual_fsq rfsq; /* kind residual_fsq */
    ts_residual_vq rvq;   /* kind vq           */
    int projects;         /* kind fsq: its op takes in quant_conv and post_quant_conv, ...   */
    tg_fsq_weights project; /* ... whose weights these are; set before anything runs       */
    int want_z;           /* kind vq: quantizer_forward hands out what was quantized */
    ts_tensor *log_gain, *codebook;
    ts_tensor *phi_w[TS_MAX_SCALES], *phi_b[TS_MAX_SCALES];
} quantizer;

/* Is the quantizer of this configuration one op with the convolutions before and behind it? Plain FSQ between 1x1 ones. */
int quantizer_projects(const ts_tokenizer_config *c);

/* Channels of f_hat. */
int quantizer_channels(const quantizer *q);

/* Declare the parameters ("quantize....") and fill the constants. */
ts_status quantizer_declare(quantizer *q, ts_params *p, const ts_tokenizer_config *c);

/* f_BhwD -> f_hat, indices. K_use: scales in use, for scale dropout; p.K for all. */
ts_quantized quantizer_forward(ts_graph *g, const quantizer *q, ts_tensor *f_BhwD, int K_use, int want_partial);

/* Indices of scale k, idx_Bt, to what is summed: code_BtD. */
ts_tensor *quantizer_lookup(ts_graph *g, const quantizer *q, ts_tensor *idx_Bt, int k);

/* f_hat += phi(upsampled code) in place; returns the generator's input for scale k+1, NULL after the last scale. */
ts_tensor *quantizer_add(ts_graph *g, const quantizer *q, ts_tensor *f_hat_BhwD, ts_tensor *code_BtD, int k);

/* Upload the tokens of scale k out of host tokens (B,T). */
ts_tensor *quantizer_upload(ts_graph *g, const quantizer *q, const int32_t *tokens_BT, int64_t B, int k);

#endif
