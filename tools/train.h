/* train.h - the two trainings behind `tessera train`. */
#ifndef TS_TRAIN_H
#define TS_TRAIN_H

#include "tools/common.h"
#include "tools/trainer.h"

typedef struct {
    const char *config_path, *data, *tokenizer, *run, *init; /* init: a model file to start from, or NULL */
    int resume, profile;
    int64_t steps; /* 0: as the preset says */
    common_options common;
} train_options;

/* What follows from the tokenizer may be left out of a preset's "model", and must agree where it is given. */
void train_generator_complete(json_t *model, const ts_tokenizer *t, int classes);

ts_status train_tokenizer(const train_options *o, json_t *preset, ts_device *d);
ts_status train_generator(const train_options *o, json_t *preset, ts_device *d);

#endif
