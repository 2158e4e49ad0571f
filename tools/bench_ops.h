/* bench_ops.h - how ops are described to `tessera bench kernels`: bench_ops.c and bench_quantizers.c do, bench_cases.c lists the
 * shapes. Contract: bench_kernels.h. */
#ifndef TS_BENCH_OPS_H
#define TS_BENCH_OPS_H

#include "tools/bench_kernels.h"

/* Of the kernel k that is made, in the order of its buffers. */
#define IN(n) kernel_buffer(k, d, st, KERNEL_IN, n)
#define OUT(n) kernel_buffer(k, d, st, KERNEL_OUT, n)
#define ADD(n) kernel_buffer(k, d, st, KERNEL_ADD, n)
#define SCRATCH(bytes) kernel_buffer(k, d, st, KERNEL_SCRATCH, (int64_t)(bytes) / 4 + 1)
#define CODES(n) kernel_buffer(k, d, st, KERNEL_CODES, n)
#define INTS(n, below) kernel_ints(k, d, st, n, below)
#define MAKE(name) void make_##name(kernel *k, ts_device *d, ts_status *st, const int64_t *a)
#define RUN(name) static ts_status name(kernel *k)
#define SHAPE(...) snprintf(k->shape, sizeof k->shape, __VA_ARGS__)
#define INT(i) ((int32_t *)(void *)k->p[i])
#define LL(x) ((long long)(x))

/* make of a kernel_case. */
MAKE(linear_fwd);
MAKE(linear_gelu);
MAKE(linear_bwd);
MAKE(conv2d_fwd);
MAKE(conv2d_bwd);
MAKE(group_norm_fwd);
MAKE(group_norm_bwd);
MAKE(attention_fwd);
MAKE(attention_bwd);
MAKE(attention_cached);
MAKE(ada_norm_fwd);
MAKE(ada_norm_bwd);
MAKE(act_fwd);
MAKE(act_bwd);
MAKE(add);
MAKE(pixel_loss);
MAKE(adamw);
MAKE(nearest2x_fwd);
MAKE(resize);
MAKE(fsq_fwd);
MAKE(fsq_bwd);
MAKE(fsq_project_fwd);
MAKE(fsq_project_bwd);
MAKE(residual_fsq_fwd);
MAKE(residual_vq_fwd);
MAKE(cross_entropy);
MAKE(digit_head);
MAKE(sample);
MAKE(sample_smooth);
MAKE(sample_digits);

#endif
