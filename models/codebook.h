/* codebook.h - training the codebook of a vq tokenizer as moving averages (op_codebook_ema.h) instead of by gradient.
 *
 * The codebook then gets no gradient and no optimizer step; of the loss of op_residual_vq.h f receives the beta term as
 * ever, and phi the other one. The averages are state of the training: a checkpoint must hold them.
 */
#ifndef TS_CODEBOOK_H
#define TS_CODEBOOK_H

#include "models/tokenizer.h"

typedef struct {
    ts_codebook_ema a;
    ts_params *state;        /* "count" (V) and "sum" (V,D)  */
    ts_tensor *count, *sum;
} codebook_average;

/* Take the codebook of t, a tokenizer of kind vq made for training, from the optimizer. Every code begins with count 1.
 * restart_below 0: no restarts. On failure codebook_average_end is still to be called. */
ts_status codebook_average_begin(codebook_average *c, ts_tokenizer *t, double decay, double restart_below, uint64_t seed);

/* After the optimizer step of step `step`: q is what quantizer_forward gave, grad_norm the gradient norm. One that is not
 * finite changes nothing. The moving average of the weights takes the new codebook as it is. */
ts_status codebook_average_step(codebook_average *c, ts_tokenizer *t, const ts_quantized *q, int64_t step,
                                float grad_norm);

void codebook_average_end(codebook_average *c);

#endif
