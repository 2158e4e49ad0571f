/* tokenizer.h - pictures to token pyramids and back: encoder, quant_conv, quantizer, post_quant_conv, decoder.
 *
 *   f = quant_conv(encoder(image));   f_hat, tokens = quantizer(f);   image' = decoder(post_quant_conv(f_hat))
 *
 * Where the quantizer is fused with these convolutions (quantizer_projects), f is what the encoder gives, f_hat what the decoder takes.
 *
 * Two levels: functions on a graph, which training uses, and functions on host arrays, which everybody else uses.
 * Pictures are (B,Y,X,3) float32 in [-1, 1], tokens (B,T) int32, scale after scale, row by row.
 */
#ifndef TS_TOKENIZER_H
#define TS_TOKENIZER_H

#include "host/params.h"
#include "models/autoencoder.h"
#include "models/config.h"
#include "models/quantizer.h"
#include "tessera/tessera.h"

struct ts_tokenizer {
    ts_tokenizer_config c;
    ts_device *d;
    ts_params *params;
    ts_graph *g; /* inference */
    autoencoder_half encoder, decoder;
    conv quant_conv, post_quant_conv;
    quantizer q;
    char hash[17]; /* XXH3 of the file it came from, "" if it was not loaded */
};

/* A tokenizer with initial weights from seed. */
ts_status ts_tokenizer_new(ts_tokenizer **t, ts_device *d, const ts_tokenizer_config *c, int training, uint64_t seed);

/* Write weights (or their moving average) and configuration. */
ts_status ts_tokenizer_save(const ts_tokenizer *t, const char *path, ts_buffer buffer, ts_st_dtype dtype);

/* On a graph. */
ts_tensor *tokenizer_encode(ts_graph *g, const ts_tokenizer *t, ts_tensor *image_BYX3); /* -> f_BhwD */
ts_tensor *tokenizer_decode(ts_graph *g, const ts_tokenizer *t, ts_tensor *f_hat_BhwD); /* -> image_BYX3 */

/* On host arrays. partial: (K,B,Y,X,3), the decoded sum after every scale; stats: as ts_quantized; any output may be NULL. */
ts_status ts_tokenizer_reconstruct(ts_tokenizer *t, const float *images, int64_t B, int32_t *tokens, float *out,
                                   float *partial, float *stats);

/* Read the configuration of a model file: the JSON of its metadata (new reference). kind: "tokenizer" or "generator", checked. */
ts_status ts_model_config(json_t **o, const ts_st_file *f, const char *kind);

#endif
