/* attention.cuh - what the kernels of attention share: attention.cu in float32, attention_mma.cu (forward) and
 * attention_mma_bwd.cu on tensor cores. */
#ifndef TS_CUDA_ATTENTION_CUH
#define TS_CUDA_ATTENTION_CUH

#include "kernels/cuda/launch.cuh"
#include "tessera/op_attention.h"

enum { TILE = 32, MMA_TILE = 64 }; /* queries or keys of a tile; those of a block on tensor cores */

/* Keys, values and results as they stand in memory: float32 or bfloat16. */
template <class T> struct stored {
    const T *k, *v;
    T *out;
};

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

static const float SMALLEST_NORM = 1e-12f;

static __device__ inline float inverse_norm(const float *x, int c, int lane)
{
    float sum = 0;
    for (int i = lane; i < c; i += WARP) sum = fmaf(x[i], x[i], sum);
    const float norm = sqrtf(warp_sum(sum));
    return 1 / (norm < SMALLEST_NORM ? SMALLEST_NORM : norm);
}

/* dx = the gradient of x, from g, that of factor*x, where factor = scale/max(|x|, smallest): through the norm only
 * where x is longer. A warp; along = x.g. g may be dx. */
static __device__ inline void through_norm(float *dx, const float *x, const float *g, float factor, float inverse,
                                           bool normalised, int c, int lane)
{
    float along = 0;
    for (int i = lane; i < c; i += WARP) along = fmaf(x[i], g[i], along);
    along = warp_sum(along);
    along = normalised && inverse < 1 / SMALLEST_NORM ? inverse * inverse * along : 0.0f;
    for (int i = lane; i < c; i += WARP) dx[i] = factor * fmaf(-along, x[i], g[i]);
}

/* Heads that are not too wide for shared memory. */
bool attention_mma_fits(const ts_stream *s, int c);

/* With operands rounded to bfloat16, of heads that fit. narrow: what stands in the places of k, v and out of the job, if they are
 * bfloat16, or NULL. In backward delta is that of rounded gradients of the output, and dmul (B,H,tiles of MMA_TILE queries). */
ts_status attention_mma_fwd(ts_stream *s, job j, const stored<uint16_t> *narrow, int64_t B);
ts_status attention_mma_bwd(ts_stream *s, job j, int64_t B, int normalised);

#endif
