/* bench_kernels.h - one kernel call with its buffers and its cost: what bench_ops.h describes, bench_unfused*.c take apart and
 * bench_kernels.c measures. */
#ifndef TS_BENCH_KERNELS_H
#define TS_BENCH_KERNELS_H

#include "host/device.h"

enum { KERNEL_BUFFERS = 40, KERNEL_SCALE = 3 /* whose digits are sampled */ };

typedef enum {
    KERNEL_IN,       /* random numbers in [-1, 1)                                     */
    KERNEL_OUT,      /* poisoned before the check                                     */
    KERNEL_CODES,    /* the same, of whole numbers: compared exactly                  */
    KERNEL_ADD,      /* added to: read and written                                    */
    KERNEL_POSITIVE, /* the same, of numbers in [0, 1)                                */
    KERNEL_SCRATCH   /* costs nothing                                                 */
} kernel_role;

typedef struct kernel kernel;
typedef ts_status kernel_run(kernel *k);
struct kernel {
    const ts_backend *be;
    ts_stream *s;
    ts_math math;
    char shape[64];
    int n;
    ts_block *block[KERNEL_BUFFERS];
    float *p[KERNEL_BUFFERS];
    int64_t count[KERNEL_BUFFERS];
    kernel_role role[KERNEL_BUFFERS];
    double bytes; /* the least that must move: every input read once, every output written once */
    double flops; /* of the products; 0: bound by memory */
    ts_phi phi;
    ts_digit_params digits;
    ts_fsq_weights projections;
    union {
        ts_linear linear;
        ts_conv2d conv;
        ts_group_norm group;
        ts_ada_norm ada;
        ts_attention attention;
        ts_resample resample;
        ts_fsq fsq;
        ts_fsq_project project;
        ts_residual_fsq rfsq;
        ts_residual_vq rvq;
        ts_sample sample;
        ts_resize resize;
    } u;
    ts_digit_head head;
    ts_smooth smooth;
    int64_t B, N; /* extents that u does not hold */
    kernel_run *run;
    kernel_run *unfused; /* the same result, one pass over memory for each step, in buffers `aux` and on; NULL: none  */
    int same;            /* so many of the buffers, from the first, hold results that both write                     */
    int aux;
    ts_status (*arrange)(const kernel *k, float *const *x); /* unfused results, on the host, into the order of the fused; NULL */
    double tolerance; /* of unfused results, as a share of the largest; 0: 1e-4                                   */
    int64_t products; /* of a library, in the unfused form: the emulated device counts their operands only here, */
    double product_bytes; /* by what they must move                                                               */
    /* Largest error of a few outputs against a plain loop in double, relative to the sum of absolute terms; NULL: none.
     * x: host copies of the buffers. */
    double (*error)(const kernel *k, float *const *x);
};

/* Buffer i of the unfused form, counted from k->aux on. */
static inline float *aux(const kernel *k, int i)
{
    return k->p[k->aux + i];
}
static inline int32_t *aux_ints(const kernel *k, int i)
{
    return (int32_t *)(void *)aux(k, i);
}

/* A buffer of n floats on the device; returns its number. A failure shows in *st. */
int kernel_buffer(kernel *k, ts_device *d, ts_status *st, kernel_role role, int64_t n);
/* The same for n whole numbers 0..below-1. */
int kernel_ints(kernel *k, ts_device *d, ts_status *st, int64_t n, int64_t below);

typedef struct {
    const char *name;
    int64_t a[8]; /* what they mean is said where make is */
    void (*make)(kernel *k, ts_device *d, ts_status *st, const int64_t *a);
    enum { KERNEL_DEMO, KERNEL_PUBLISHED, KERNEL_SMALL } shapes; /* of which models; SMALL: for the emulated device */
} kernel_case;

extern const kernel_case KERNEL_CASES[]; /* ends with a NULL name */

#define KERNEL_ADAMW { 1e-3f, 0.9f, 0.99f, 1e-8f, 0.01f, 1, 0.999f, 1 }

/* Give k its unfused form: called by make after all other buffers, k->u is filled. */
void unfused_group_norm(kernel *k, ts_device *d, ts_status *st);
void unfused_ada_norm(kernel *k, ts_device *d, ts_status *st);
void unfused_linear_gelu(kernel *k, ts_device *d, ts_status *st);
void unfused_cross_entropy(kernel *k, ts_device *d, ts_status *st);
void unfused_fsq(kernel *k, ts_device *d, ts_status *st);
void unfused_sample(kernel *k, ts_device *d, ts_status *st);
void unfused_sample_smooth(kernel *k, ts_device *d, ts_status *st);
void unfused_sample_digits(kernel *k, ts_device *d, ts_status *st);
void unfused_fsq_project(kernel *k, ts_device *d, ts_status *st);
void unfused_residual_fsq(kernel *k, ts_device *d, ts_status *st);
void unfused_adamw(kernel *k, ts_device *d, ts_status *st);
void unfused_group_norm_bwd(kernel *k, ts_device *d, ts_status *st);
void unfused_ada_norm_bwd(kernel *k, ts_device *d, ts_status *st);
void unfused_fsq_bwd(kernel *k, ts_device *d, ts_status *st);
void unfused_fsq_project_bwd(kernel *k, ts_device *d, ts_status *st);
/* Buffers of attention, of a cache that of keys, before that of values; 0, which is the result: it has none. With dout and scale_mul
 * buffer 1 is the gradient of scale_mul. */
typedef struct {
    int qkv, scale_mul, cache, dout;
} attention_buffers;
void unfused_attention(kernel *k, ts_device *d, ts_status *st, const attention_buffers *in);

void unfused_digit_head(kernel *k, ts_device *d, ts_status *st);
void unfused_residual_vq(kernel *k, ts_device *d, ts_status *st);
void unfused_resize(kernel *k, ts_device *d, ts_status *st);

/* A plan of op_resize.h as those of a bicubic filter are: so many inputs for each output, all of one weight. n numbers. */
int kernel_plan(kernel *k, ts_device *d, ts_status *st, kernel_role role, const ts_resize *r);

/* For them: a buffer of n floats that costs nothing; one of so many bytes; one of these numbers; a way into or out of FSQ;
 * y = a f b of N numbers, b (N/(R*C),C) (op_step.h). */
int kernel_room(kernel *k, ts_device *d, ts_status *st, int64_t n);
int kernel_scratch(kernel *k, ts_device *d, ts_status *st, size_t bytes);
int kernel_numbers(kernel *k, ts_device *d, ts_status *st, const float *x, int64_t n);
ts_linear kernel_way(const kernel *k, int I, int O);
ts_status kernel_map(kernel *k, float *y, const float *a, ts_step_map f, const float *b, int64_t N, int64_t R, int64_t C);

/* What the emulated device counts (tests/emu/traffic.cpp), over all launches of a call. */
typedef struct {
    int64_t launches;
    double moved, sectors, ideal, groups, passes; /* bytes; sectors touched, least; requests of shared memory, turns they took */
} kernel_counts;

int kernel_counts_possible(const ts_device *d); /* is it the emulated one? */
ts_status kernel_count(kernel_counts *c, kernel *k, kernel_run *run);

#endif
