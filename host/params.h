/* params.h - the parameters of a model as one table: name, shape, initialiser, weight decay or not.
 *
 * The table drives allocation, initialisation, loading, saving, the optimizer and printing. Names and shapes are those of the
 * published checkpoints; convolution weights are (O,I,k,k) in files and (O,k,k,I) in memory. All parameters lie in one buffer,
 * those with weight decay first; gradients, moments and the moving average have the same layout.
 */
#ifndef TS_PARAMS_H
#define TS_PARAMS_H

#include "host/graph.h"
#include "host/safetensors.h"

typedef enum {
    TS_INIT_CONST,   /* value                                                                  */
    TS_INIT_NORMAL,  /* standard deviation value                                               */
    TS_INIT_UNIFORM, /* -value .. value                                                        */
    TS_INIT_RAMP,    /* row r of R rows: value*r/(R-1), 0 where R is 1                         */
    TS_INIT_DIRAC    /* convolution that passes its input through                              */
} ts_init_kind;

typedef struct {
    ts_init_kind kind;
    float value;
    float first;     /* CONST, NORMAL, UNIFORM: the first n_first numbers are made with this value instead */
    int64_t n_first;
} ts_init;

static inline ts_init ts_init_all(ts_init_kind kind, float value)
{
    return (ts_init){ kind, value, 0, 0 };
}

enum {
    TS_PARAM_CONV = 1,   /* shape is (O,I,k,k)                                                  */
    TS_PARAM_DECAY = 2,  /* weight decay applies                                                */
    TS_PARAM_FROZEN = 4, /* never trained; missing in a file is fine (it keeps its initial value) */
    TS_PARAM_HELD = 8,   /* set by ts_params_hold                                                 */
    TS_PARAM_PRODUCT = 16 /* read by tg_linear and tg_conv2d alone, as their weight               */
};

typedef struct {
    char *name;
    int rank;
    int64_t shape[TS_MAX_RANK]; /* as in files */
    ts_init init;
    int flags;
    int64_t offset, count; /* floats */
    ts_tensor tensor;
    const ts_st_tensor *stored; /* in a mapped file, where the device reads it; NULL: in the buffer */
    int declared;               /* the device was told so                                           */
} ts_param;

typedef enum { TS_BUFFER_WEIGHT, TS_BUFFER_GRAD, TS_BUFFER_M, TS_BUFFER_V, TS_BUFFER_EMA, TS_BUFFERS } ts_buffer;

typedef struct ts_params ts_params;

ts_status ts_params_new(ts_params **p);
/* A number that no other table of this process has or had, and another one each time that weights were no longer constant: what was
 * recorded with them (ts_backend.capture_begin) is to be forgotten then. */
uint64_t ts_params_serial(const ts_params *p);
void ts_params_free(ts_params *p); /* NULL is fine */

/* Declare a parameter; the tensor's address is valid from now on, its data after ts_params_allocate. Returns NULL when memory is
 * out, which ts_params_allocate reports. */
ts_tensor *ts_params_add(ts_params *p, ts_init init, int flags, int rank, const int64_t *shape, const char *name, ...)
    __attribute__((format(printf, 6, 7)));

/* One tensor (n) over n floats that start at `first`, e.g. three biases declared in a row, each a multiple of 16 floats long. */
ts_tensor *ts_params_span(ts_params *p, const ts_tensor *first, int64_t n);

/* Take the memory: weights only, or the buffers of training too. */
ts_status ts_params_allocate(ts_params *p, ts_device *d, int training);
/* Initial values, a function of seed and name alone. */
ts_status ts_params_init(ts_params *p, uint64_t seed);

/* Set one parameter (weights and moving average) from host floats in file order. */
ts_status ts_params_put(ts_params *p, const ts_tensor *t, const float *x);
/* From now on this one has no gradient and the optimizer leaves it alone: it is moved by other means. Not for one with decay. */
void ts_params_hold(ts_params *p, const ts_tensor *t);
/* The moving average of this one takes its value. */
ts_status ts_params_carry(ts_params *p, const ts_tensor *t);
/* Exchange weights and moving average, as evaluation does before and after. */
void ts_params_swap_ema(ts_params *p);

/* The weights will not change any more: the device may keep them in a layout of its own. Putting or loading values ends that. */
ts_status ts_params_freeze(ts_params *p);

int ts_params_count(const ts_params *p);
const ts_param *ts_params_at(const ts_params *p, int i);
int64_t ts_params_floats(const ts_params *p); /* numbers in the model, padding not counted */

/* Read one buffer from tensors called prefix + name. All that is missing or of another shape is reported in one line, by kind,
 * up to 20 names of each; with exact, tensors of the file that no parameter wants are too. */
ts_status ts_params_load(ts_params *p, ts_buffer buffer, const ts_st_file *f, const char *prefix, int exact);

/* In place of allocating and loading, for weights that will not change: memory is taken only for what the device cannot read where
 * it stands in the mapped file. What does not fit is reported as by ts_params_load, exactly, before any memory is taken. f belongs to
 * the table from now on, also after a failure. */
ts_status ts_params_open(ts_params *p, ts_device *d, ts_st_file *f);

/* Write buffers[i] as tensors called prefixes[i] + name, F32 or BF16 (rounded to nearest even). */
ts_status ts_params_save(const ts_params *p, const char *path, const ts_buffer *buffers, const char *const *prefixes,
                         int n_buffers, ts_st_dtype dtype, const char *const *keys, const char *const *values,
                         int n_pairs);

/* One optimizer step on the accumulated gradients: frozen parameters are left alone, gradients are zeroed afterwards. *norm is
 * the gradient norm before clipping; not finite means that the step was skipped. */
ts_status ts_params_step(ts_params *p, const ts_adamw *a, float *norm);

#endif
