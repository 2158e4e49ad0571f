/* train.h - the two trainings behind `tessera train`. */
#ifndef TS_TRAIN_H
#define TS_TRAIN_H

#include "tools/common.h"
#include "tools/trainer.h"

typedef struct {
    const char *config_path, *data, *tokenizer, *run;
    int resume;
    int64_t steps; /* 0: as the preset says */
    common_options common;
} train_options;

ts_status train_tokenizer(const train_options *o, json_t *preset, ts_device *d);
ts_status train_generator(const train_options *o, json_t *preset, ts_device *d);

#endif
