/* embedding.cu - rows of a table on CUDA. Contract: tessera/op_embedding.h. Twin: kernels/cpu/embedding.c. */
#include "tessera/op_embedding.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rows.h"

static __global__ void embedding_fwd_k1(float *y, const float *table, const int32_t *idx, int64_t all, int64_t C)
{
    TS_EACH(n, all) y[n] = table[idx[n / C] * C + n % C];
}

ts_status embedding_fwd_cuda(ts_stream *s, float *y, const float *table, const int32_t *idx, int64_t N, int64_t C)
{
    if (N == 0 || C == 0) return TS_OK;
    return TS_LAUNCH(embedding_fwd_k1, ts_blocks(N * C), BLOCK, 0, s, y, table, idx, N * C, C);
}

ts_status embedding_bwd_cuda(ts_stream *s, float *dtable, const float *dy, const int32_t *idx, int64_t N, int64_t C,
                             int64_t V)
{
    return add_to_rows(s, dtable, dy, idx, N, C, V);
}
