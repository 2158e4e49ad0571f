/* trainer.h - what training a tokenizer and training a generator share: the schedule, checkpoints, resuming, metrics, signals.
 *
 * A run folder holds step-NNNNNNNN/ (model.safetensors with the moving average, optimizer.safetensors with weights and moments,
 * trainer_state.json, state.safetensors where a training keeps more, manifest.json), metrics.jsonl, TensorBoard events, config.json and, at the end, model.safetensors.
 * Everything that is drawn is a function of (seed, step), so a run that was stopped and resumed ends in the same bytes.
 */
#ifndef TS_TRAINER_H
#define TS_TRAINER_H

#include "host/log.h"
#include "host/params.h"
#include "models/config.h"

enum { TS_MAX_METRICS = 96 };

/* The member "train" of a preset. */
typedef struct {
    int64_t steps, batch, warmup, log_every, checkpoint_every;
    double lr, lr_end; /* lr_end: what is left of lr at the last step, 0..1 */
    double beta1, beta2, weight_decay, clip, ema;
    double l1, l2, scale_dropout; /* tokenizer */
    double codebook_ema, restart_below; /* tokenizer of kind vq: decay, 0 for a codebook that is trained by gradient */
    double label_dropout, drop_path, class_balance; /* generator */
    ts_st_dtype save;   /* of the model files; what a run resumes from is float32 always */
    int augment;        /* tokenizer: an augment_kind */
} train_config;

ts_status train_config_read(train_config *c, const json_t *o, const char *file, int tokenizer);

typedef struct trainer {
    const char *run;
    train_config c;
    uint64_t seed;
    ts_params *params;
    ts_params *more; /* state beside parameters and optimizer, part of a checkpoint; NULL for none */
    ts_graph *g;
    ts_metrics *metrics;
    ts_progress *progress;
    int lock;
    int64_t step;    /* steps done */
    int64_t skipped, skipped_in_a_row;
    /* Means since the last record, by name. */
    int n;
    char name[TS_MAX_METRICS][32];
    double sum[TS_MAX_METRICS];
    int64_t count;
    /* Record values of this step alone, appended to the means. */
    int n_now;
    char now_name[TS_MAX_METRICS][32];
    double now[TS_MAX_METRICS];

    /* One forward and backward on t->g for step t->step; adds to the means with trainer_mean. */
    ts_status (*forward)(struct trainer *t, void *context);
    /* After the optimizer's step: moves what the optimizer does not. A norm that is not finite: the step is skipped. May be NULL. */
    ts_status (*update)(struct trainer *t, void *context, float grad_norm);
    /* Called before a record is written: adds what is measured only then, with trainer_now. May be NULL. */
    ts_status (*measure)(struct trainer *t, void *context);
    /* Write the model (moving average) to path. */
    ts_status (*save)(struct trainer *t, void *context, const char *path);
    const char *unit; /* of the progress bar: "img" */
    void *context;
} trainer;

/* Start weights and moving average from a model file of this kind ("tokenizer", "generator"); every tensor must be there and
 * fit. NULL: leave them as they are. Call it after the parameters have their initial values. */
ts_status trainer_start_from(trainer *t, const char *path, const char *kind);
/* Lock the run folder, write config.json (or, with resume, demand that it is the same), load the newest whole checkpoint. */
ts_status trainer_begin(trainer *t, const json_t *config, int resume);
/* To the last step, or until a signal (TS_E_STOPPED, with a checkpoint saved). */
ts_status trainer_run(trainer *t);
void trainer_end(trainer *t);

void trainer_mean(trainer *t, const char *name, double value); /* in the same order at every step */
void trainer_now(trainer *t, double value, const char *name, ...) __attribute__((format(printf, 3, 4)));

/* Position n of a run over `count` samples: a fresh permutation each epoch. */
int64_t trainer_pick(uint64_t seed, int64_t n, int64_t count);

#endif
