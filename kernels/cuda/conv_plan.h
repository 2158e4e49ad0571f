/* conv_plan.h - a convolution as a graph of cuDNN, and what computes it there. Host code only.
 *
 * For a graph cuDNN names engines, with numbers ("knobs") that it fixes for the size at hand. So that the bits of a picture do not
 * depend on how many there are, engine and knobs are chosen for a typical number, once per shape; a plan is made of them for every
 * number of pictures that comes.
 *
 * Operands are float32 or bfloat16; sums and results are float32. For bfloat16 operands the kernels that come with cuDNN store
 * bfloat16 only. Where the sum goes on to another operation, be it the identity, cuDNN compiles a kernel that stores float32: that
 * takes one to three seconds (version 9.19 on a 2.1 GHz Xeon), so it is for shapes that come again and again.
 *
 * Source: "Graph API" in the manual of cuDNN 9. What it takes on which architecture: tests/cudnn.
 */
#ifndef TS_CUDA_CONV_PLAN_H
#define TS_CUDA_CONV_PLAN_H

#include "kernels/cuda/cudnn.h"
#include "tessera/op_conv2d.h"

enum ts_conv_pass { TS_CONV_FWD, TS_CONV_DX, TS_CONV_DW };

/* What is to be computed: y = bias + x w; dx; dw. */
struct ts_conv_graph {
    ts_conv2d shape; /* of it: B Y X C O k stride, pad_lo for both sides, and math: TS_MATH_F32 keeps tensor cores out */
    ts_conv_pass pass;
    ts_dtype operands; /* TS_F32; TS_BF16: kernels are compiled */
};

enum { TS_CONV_KNOBS = 32, TS_CONV_ENGINES = 8 };

struct ts_conv_engine {
    int64_t index;
    int knobs;
    cudnnBackendKnobType_t knob[TS_CONV_KNOBS];
    int64_t value[TS_CONV_KNOBS];
};

/* Where it will run: on the device of a handle, or, with cuDNN 9.8 or later and no device, on one that has these properties. */
struct ts_conv_place {
    const ts_cudnn *calls;
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t properties;
};

/* Engines for the graph of any number of pictures, cuDNN's favourite first. They add in a fixed order, without transforms, and, with
 * TS_MATH_F32, in float32. Returns how many. Not each of them takes each number. */
int ts_conv_engines(const ts_conv_place *at, const ts_conv_graph *g, ts_conv_engine e[TS_CONV_ENGINES]);

struct ts_conv_plan;

/* *p is NULL if the engine does not take this number of pictures, or there is no memory; then the status is no success. */
cudnnStatus_t ts_conv_plan_new(ts_conv_plan **p, const ts_conv_place *at, const ts_conv_graph *g, const ts_conv_engine *e);
size_t ts_conv_plan_work(const ts_conv_plan *p); /* bytes of work space */
void ts_conv_plan_free(ts_conv_plan *p);         /* accepts NULL */

/* What a plan reads and writes: device memory, aligned to 16 bytes; bias forward only. Which is written is the pass. */
struct ts_conv_operands {
    const void *x, *w, *y, *bias;
};
cudnnStatus_t ts_conv_plan_run(const ts_conv_place *at, const ts_conv_plan *p, ts_conv_operands o, void *work);

#endif
