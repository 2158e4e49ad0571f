/* attention.cuh - what the two forward kernels of attention share: attention.cu in float32, attention_mma.cu on tensor
 * cores. */
#ifndef TS_CUDA_ATTENTION_CUH
#define TS_CUDA_ATTENTION_CUH

#include "kernels/cuda/launch.cuh"
#include "tessera/op_attention.h"

enum { TILE = 32 };

/* One call. Keys and values of the masked form lie in qkv, those of the cached form in the cache. */
struct job {
    const float *q, *k, *v;
    const int32_t *end;
    const float *q_factor; /* (B,H,T) all factors of a query, its norm among them */
    const float *k_factor; /* (B,H,T) 1/norm of a key, NULL for 1                 */
    float *out, *lse;
    const float *dout, *fwd_lse, *delta; /* backward; delta (B,H,T) = dout.out    */
    float *dqkv, *dmul;                  /* dmul (B,H,tiles of queries)           */
    int64_t T, H, keys;
    int64_t q_image, q_token, kv_image, kv_token; /* floats between images and between tokens */
    int c;
    int quads; /* heads are read four numbers at a time: all of them are aligned */
};

/* How many of the rows t0.. of a tile lie before n. */
static __device__ inline int rows_in(int64_t t0, int64_t n)
{
    return n - t0 < TILE ? (int)(n - t0) : (int)TILE;
}

static __device__ inline int64_t end_of(const job &j, int64_t t)
{
    return t >= j.T ? 0 : j.end ? j.end[t] : j.keys;
}

/* Forward with operands rounded to bfloat16. *done: false for heads too wide for shared memory, of which nothing was
 * done. */
ts_status attention_mma(ts_stream *s, bool *done, job j, int64_t B);

#endif
