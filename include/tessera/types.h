/* types.h - what every contract shares: dtypes, the stream of a backend, and how precise products are. */
#ifndef TS_TYPES_H
#define TS_TYPES_H

#include <stddef.h>
#include <stdint.h>

#include "tessera/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { TS_F32, TS_BF16, TS_I32, TS_U8 } ts_dtype;

/* The queue of one backend, with the handles and caches its ops need. Opaque: only the backend looks inside.
 * Work queued on one stream runs in order; the CPU backend is synchronous. One thread uses a stream at a time. */
typedef struct ts_stream ts_stream;

/* How matrix products and convolutions multiply. Sums are float32 in both, and so are tensors in memory, but for those that an op
 * calls f32 or bf16: these hold the operand of a product as it will be multiplied, under TS_MATH_BF16 (ts_backend.factor_dtype).
 *   TS_MATH_F32   float32 products
 *   TS_MATH_BF16  operands are rounded to bfloat16 first (CPU: AMX or AVX512-BF16; CUDA: tensor cores)
 * Quantizers, norms, softmax, losses and optimizers are float32 always. */
typedef enum { TS_MATH_F32, TS_MATH_BF16 } ts_math;

enum { TS_ABOUT = 320 }; /* bytes of a line about a device */

/* Limits that let small structs travel by value into a kernel launch. */
enum {
    TS_MAX_D = 16,      /* channels of a scalar quantizer                          */
    TS_MAX_SCALES = 16, /* scales of a pyramid                                     */
    TS_MAX_SUM_L = 256  /* sum of the levels of all channels (digit head softmaxes) */
};

#ifdef __cplusplus
}
#endif
#endif
