/* generator.h - the class-conditional next-scale generator: all tokens of a scale in one pass, given the coarser scales.
 *
 *   s = class_emb[label];   scale 0: s + pos_start;   scale k: word_embed(area(f_hat -> p_k));   all + lvl_embed[k] + pos_1LC
 *   logits = head(transformer(...))        head joint: Linear to V;  head digits: Linear to M, then op_digit_head.h
 * Source: arXiv:2404.02905; the digit head is ours.
 *
 * The label num_classes means "no class"; training drops labels to it, guidance samples beside it.
 */
#ifndef TS_GENERATOR_H
#define TS_GENERATOR_H

#include "models/tokenizer.h"
#include "models/transformer.h"

enum { TS_SAMPLERS = 2 };

struct ts_generator {
    ts_generator_config c;
    ts_device *d;
    ts_params *params;
    ts_graph *g; /* inference */
    ts_pyramid p;
    transformer t;
    ts_tensor *class_emb, *pos_start, *pos_1LC, *lvl_embed;
    linear word_embed;
    linear head;    /* joint: (V,C); digits: (M,C), b NULL */
    ts_digit_head digits;
    ts_tensor *digit_bias, *digit_embed, *digit_weight, *digit_logit;
    char tokenizer_hash[17]; /* of the tokenizer it was trained with, "" if unknown */
    char **classes;          /* num_classes names, or NULL */
    double *seconds;         /* K+1 numbers to which sampling adds the time of each scale and of decoding; NULL: no waiting */
    struct sampler *plan[TS_SAMPLERS]; /* what earlier batches left, the latest first (sampler.h) */
    int plain;               /* keep nothing between batches: memory was short */
};

ts_status ts_generator_new(ts_generator **m, ts_device *d, const ts_generator_config *c, int training, uint64_t seed);
ts_status ts_generator_save(const ts_generator *m, const char *path, ts_buffer buffer, ts_st_dtype dtype);

/* Do the two models belong together? Scales, codes and channels, and the hash where both are known. TS_E_DATA says what differs. */
ts_status ts_generator_fits(const ts_generator *m, const ts_tokenizer *t, const char *tokenizer_path);

/* Names of the classes, copied; NULL for none. */
ts_status ts_generator_set_classes(ts_generator *m, const char *const *names);

/* On a graph. The teacher-forced input of scales 1.. from host tokens: (B,T-p_0*p_0,D); NULL if there is one scale only. */
ts_tensor *generator_input(ts_graph *g, const quantizer *q, const int32_t *tokens_BT, int64_t B);
/* label_B i32 and input (B,T-p_0*p_0,D) -> logits (B,T,V), or u (B,T,M) for the digit head. keep: as transformer_forward. */
ts_tensor *generator_logits(ts_graph *g, const ts_generator *m, const int32_t *labels, int64_t B, ts_tensor *input,
                            const float *keep);
/* Mean cross-entropy over all tokens; returns the loss of each token (B*T), or of each digit (B*T,D). */
ts_tensor *generator_loss(ts_graph *g, const ts_generator *m, ts_tensor *logits, const int32_t *tokens_BT, int64_t B);

/* The parts that sampling uses, too. The class of every token of the first scale, to[B*p_0*p_0], on the host; the embedded first
 * scale of such labels (B,p_0*p_0); and the head without its last step: (B,t,V), or u (B,t,M). */
void generator_spread(const ts_generator *m, int32_t *to, const int32_t *labels, int64_t B);
ts_tensor *generator_start(ts_graph *g, const ts_generator *m, ts_tensor *labels);
ts_tensor *generator_embed(ts_graph *g, const ts_generator *m, ts_tensor *input_BtD); /* -> (B,t,C), multiplied in float32 */
ts_tensor *generator_head(ts_graph *g, const ts_generator *m, ts_tensor *y_BtC);

/* How many bits the model needs for each scale of these pictures: sums over the batch, added to bits[K]. Host arrays. */
ts_status ts_generator_bits(ts_generator *m, ts_tokenizer *t, const int32_t *tokens_BT, const int32_t *labels, int64_t B,
                            double *bits);

#endif
