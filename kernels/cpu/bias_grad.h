/* bias_grad.h - gradient of a bias: the column sums of a (M,N) tensor, added to db.
 *
 * Rows are summed in fixed chunks in float32 and the chunks in double, so the result neither depends on the thread
 * count nor loses digits when M is large. */
#ifndef TS_CPU_BIAS_GRAD_H
#define TS_CPU_BIAS_GRAD_H

#include "tessera/types.h"

size_t bias_grad_scratch(int64_t M, int64_t N);
void bias_grad(ts_stream *s, float *db, const float *dy, int64_t M, int64_t N, float *scratch);

#endif
