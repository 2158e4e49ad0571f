/* kept.h - weights as operands of products under TS_MATH_BF16: rounded once, if they are constant.
 *
 * A sampled picture multiplies with the same weights ten times or more. Those in memory that was declared constant (mem_constant of
 * tessera/backend.h) are rounded when a product first asks for them, outside of a recording, because none may ask for memory there,
 * and are kept until the declaration is taken back. That costs half the memory of the weights that products read, and for
 * convolutions by cuDNN, which reads float32 there, as much again as they have; where it is not there, weights are rounded each time. */
#ifndef TS_CUDA_KEPT_H
#define TS_CUDA_KEPT_H

#include "tessera/types.h"

struct kept;

/* *p = w (n) rounded to bfloat16, which stands there as `as` says: what is kept of it, or in scratch, ts_room(n, size) bytes. */
ts_status ts_round_weights(ts_stream *s, const void **p, const float *w, int64_t n, ts_dtype as, void *scratch);

void ts_kept_free(struct kept *k); /* accepts NULL */

#endif
