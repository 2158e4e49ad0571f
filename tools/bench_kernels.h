/* bench_kernels.h - one kernel call with its buffers and its cost: what bench_ops.c describes and bench_kernels.c
 * measures. */
#ifndef TS_BENCH_KERNELS_H
#define TS_BENCH_KERNELS_H

#include "host/device.h"

enum { KERNEL_BUFFERS = 12 };

typedef enum {
    KERNEL_IN,       /* random numbers in [-1, 1)                                     */
    KERNEL_OUT,      /* poisoned before the check                                     */
    KERNEL_ADD,      /* added to: read and written; not checked for being repeatable  */
    KERNEL_POSITIVE, /* the same, of numbers in [0, 1)                              */
    KERNEL_SCRATCH   /* costs nothing                                                 */
} kernel_role;

typedef struct kernel kernel;
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
    union {
        ts_linear linear;
        ts_conv2d conv;
        ts_group_norm group;
        ts_ada_norm ada;
        ts_attention attention;
        ts_resample resample;
        ts_residual_fsq rfsq;
        ts_residual_vq rvq;
        ts_sample sample;
    } u;
    ts_digit_head head;
    ts_smooth smooth;
    int64_t B, N; /* extents that u does not hold */
    ts_status (*run)(kernel *k);
    /* Largest error of a few outputs against a plain loop in double, relative to the sum of absolute terms; NULL: none.
     * x: host copies of the buffers. */
    double (*error)(const kernel *k, float *const *x);
};

/* A buffer of n floats on the device; returns its number. A failure shows in *st. */
int kernel_buffer(kernel *k, ts_device *d, ts_status *st, kernel_role role, int64_t n);
/* The same for n whole numbers 0..below-1. */
int kernel_ints(kernel *k, ts_device *d, ts_status *st, int64_t n, int64_t below);

typedef struct {
    const char *name;
    int64_t a[8]; /* what they mean is said where make is */
    void (*make)(kernel *k, ts_device *d, ts_status *st, const int64_t *a);
    int published; /* a shape of the published models, rather than of the demo's */
} kernel_case;

extern const kernel_case KERNEL_CASES[]; /* ends with a NULL name */

#endif
