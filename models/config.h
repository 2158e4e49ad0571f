/* config.h - what a model is: configurations of tokenizer and generator, read from and written to JSON.
 *
 * The same JSON stands in presets ("model") and in model files (metadata "tessera"). Unknown keys are refused, so that a typing
 * error cannot silently become a default.
 */
#ifndef TS_CONFIG_H
#define TS_CONFIG_H

#include <jansson.h>

#include "host/image.h"
#include "tessera/op_fsq.h"
#include "tessera/op_residual_fsq.h"
#include "tessera/op_residual_vq.h"

enum { TS_MAX_LEVELS_OF_CH = 8 };

typedef enum { TS_QUANTIZER_VQ, TS_QUANTIZER_RESIDUAL_FSQ, TS_QUANTIZER_FSQ } ts_quantizer_kind;

typedef struct {
    ts_quantizer_kind kind;
    int D;                   /* channels of the quantized latent: levels, or z_channels for vq  */
    int32_t level[TS_MAX_D]; /* fsq, residual_fsq                                               */
    int V;                   /* codes                                                           */
    ts_fsq_bound bound;      /* fsq                                                             */
    int pre_tanh;            /* residual_fsq: "pre_bound": "none" or "tanh"                     */
    int using_znorm;         /* vq                                                              */
    float beta;              /* vq                                                              */
    float quant_resi;        /* weight of the convolution in phi                                */
    int share_quant_resi;    /* 4, 1, 0 (one per scale), -1 (none)                              */
    float aux_weight;        /* residual_fsq                                                    */
} ts_quantizer_config;

typedef struct {
    int image_size, in_channels;
    int ch, n_mult, ch_mult[TS_MAX_LEVELS_OF_CH];
    int num_res_blocks, norm_groups, attention;
    int z_channels, quant_conv_ks;
    int K;
    int32_t side[TS_MAX_SCALES];
    ts_preprocess preprocess; /* of the pictures it was trained on */
    ts_quantizer_config q;
} ts_tokenizer_config;

typedef enum { TS_HEAD_JOINT, TS_HEAD_DIGITS } ts_head_kind;

typedef struct {
    int num_classes, depth, embed_dim, num_heads;
    float mlp_ratio, norm_eps;
    int shared_aln, attn_l2_norm;
    int K;
    int32_t side[TS_MAX_SCALES];
    int V, z_channels;
    ts_head_kind head;
    int head_hidden;         /* digits */
    int D;                   /* digits */
    int32_t level[TS_MAX_D]; /* digits */
} ts_generator_config;

/* file is for messages. Every value is checked against its range; the first that does not fit is the message. */
ts_status ts_tokenizer_config_read(ts_tokenizer_config *c, const json_t *o, const char *file);
ts_status ts_generator_config_read(ts_generator_config *c, const json_t *o, const char *file);
json_t *ts_tokenizer_config_json(const ts_tokenizer_config *c); /* new reference, NULL when memory is out */
json_t *ts_generator_config_json(const ts_generator_config *c);

/* Strict reading of a JSON object, member by member. Errors stick: after the first one every call returns its default. */
typedef struct {
    const json_t *o;
    const char *file, *where; /* "model", "train", ... */
    ts_status status;
    const char *seen[64];
    int n_seen;
} ts_reader;

ts_reader ts_reader_open(const json_t *o, const char *file, const char *where);
int64_t ts_read_int(ts_reader *r, const char *key, int64_t min, int64_t max, int64_t missing); /* missing < min: required */
double ts_read_number(ts_reader *r, const char *key, double min, double max, double missing);  /* missing NAN: required   */
int ts_read_bool(ts_reader *r, const char *key, int missing);
/* One of "a|b|c"; missing NULL: required. Returns its position. */
int ts_read_choice(ts_reader *r, const char *key, const char *choices, const char *missing);
int ts_read_ints(ts_reader *r, const char *key, int64_t min, int64_t max, int32_t *out, int room); /* required; count */
const json_t *ts_read_object(ts_reader *r, const char *key, int required);
ts_status ts_reader_close(ts_reader *r); /* refuses members that nobody read */

#endif
