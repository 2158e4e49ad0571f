/* cross_entropy.cu - softmax cross-entropy on CUDA. Contract: tessera/op_cross_entropy.h. Twin:
 * kernels/cpu/cross_entropy.c.
 *
 * A row is read once and stays in shared memory, as logits and then as exponentials: N V 8 bytes (4 for the loss
 * alone), the least there is. One block has a row of which at least half fits; the rest goes into a running maximum and
 * sum (online softmax) and is read again for the gradient: at most 1.25 times the least. Longer rows, of more than
 * 50,000 classes on sm_86, 89 and 120, 83,000 on sm_80, 116,000 on sm_90 and 100, are shared by many blocks, which are
 * on the device together and exchange their maxima and sums: the least again, as long as all of them have room for half
 * a row (9 million classes on an A100). */
#include "tessera/op_cross_entropy.h"

#include <cooperative_groups.h>

#include "kernels/cuda/launch.cuh"
#include "tessera/exact.h"

enum { LONG = 8 << 10, LONG_BLOCK = 1024 }; /* threads of rows of more than LONG classes */

/* The largest of some logits, and the sum of exp(x - max) over them. */
struct running {
    float max, sum;
};

static __device__ inline void take(running *r, float x)
{
    if (x > r->max) {
        r->sum = fmaf(r->sum, ts_expf(r->max - x), 1.0f);
        r->max = x;
    } else if (x != -INFINITY) { /* which adds nothing, and no maximum may be there yet */
        r->sum += ts_expf(x - r->max);
    }
}

/* for (v over first..end-1, shared by the block) */
#define EACH_CLASS(v, first, end) for (int v = (first) + (int)threadIdx.x; v < (end); v += (int)blockDim.x)

/* How rows are dealt out: a row to `shares` blocks, each of which has `per` classes (the last ones fewer, or none) and
 * keeps the first `held` of them. */
struct row_deal {
    int shares, per, held;
};

/* What the blocks that share a row make of their parts of it: the running maximum and sum of the whole row, the same in
 * all of them. A block may be in the next round while another still reads, so rounds take turns in `parts`. */
static __device__ inline running exchange(running part, running *parts, int share, int shares, float *warps)
{
    if (threadIdx.x == 0) parts[share] = part;
    cooperative_groups::this_grid().sync();
    running all = { -INFINITY, 0 };
    for (int i = (int)threadIdx.x; i < shares; i += (int)blockDim.x)
        all.max = parts[i].max > all.max ? parts[i].max : all.max;
    all.max = block_max(all.max, warps);
    for (int i = (int)threadIdx.x; i < shares; i += (int)blockDim.x)
        all.sum += parts[i].sum * ts_expf(parts[i].max - all.max);
    all.sum = block_sum(all.sum, warps);
    return all;
}

/* Row n, or the block's share of it; n may be N. */
template <bool SHARED>
static __device__ inline void row_part(float *loss, float *dlogits, const float *logits, const int32_t *target,
                                       running *parts, float grad_scale, int64_t n, int64_t N, int64_t V,
                                       const row_deal &d, float *warps)
{
    TS_SHARED(shared);
    float *const kept = (float *)shared;
    const int share = SHARED ? (int)blockIdx.x % d.shares : 0;
    const int64_t first = (int64_t)share * d.per, left = n < N ? V - first : 0, at = n * V + first;
    const int count = left < d.per ? left < 0 ? 0 : (int)left : d.per, held = count < d.held ? count : d.held;
    const float *x = logits + at;
    const int hit = n < N ? (int)(target[n] - first) : 0; /* perhaps another's */
    const bool first_thread = n < N && share == 0 && threadIdx.x == 0;
    /* dlogits may be logits, so the loss takes what it needs of them now. */
    const float of_target = first_thread ? x[hit] : 0.0f;
    running rest = { -INFINITY, 0 }, part = rest;
#pragma unroll 4
    EACH_CLASS(v, 0, held)
    {
        const float l = x[v];
        kept[v] = l;
        part.max = l > part.max ? l : part.max;
    }
#pragma unroll 1
    EACH_CLASS(v, held, count) take(&rest, x[v]);
    part.max = block_max(rest.max > part.max ? rest.max : part.max, warps);
    const float base = part.max > -INFINITY ? part.max : 0.0f; /* nothing above -inf may be in a part of a row */
    part.sum = rest.sum * ts_expf(rest.max - base);
#pragma unroll 1
    EACH_CLASS(v, 0, held)
    {
        const float p = ts_expf(kept[v] - base);
        kept[v] = p;
        part.sum += p;
    }
    part.sum = block_sum(part.sum, warps);
    const running all = SHARED ? exchange(part, parts, share, d.shares, warps) : part;
    if (first_thread) loss[n] = ts_logf(all.sum) + (all.max - of_target);
    if (!dlogits) return;
    const float scale = grad_scale / all.sum, own = scale * ts_expf(part.max - all.max);
    float *dx = dlogits + at;
    EACH_CLASS(v, 0, held) dx[v] = own * kept[v] - (v == hit ? grad_scale : 0.0f);
#pragma unroll 1
    EACH_CLASS(v, held, count) dx[v] = scale * ts_expf(x[v] - all.max) - (v == hit ? grad_scale : 0.0f);
}

static __global__ void __launch_bounds__(LONG_BLOCK)
    cross_entropy_k1(float *loss, float *dlogits, const float *logits, const int32_t *target, float grad_scale,
                     int64_t N, int64_t V, row_deal d)
{
    __shared__ float warps[WARP];
    row_part<false>(loss, dlogits, logits, target, nullptr, grad_scale, blockIdx.x, N, V, d, warps);
}

static __global__ void __launch_bounds__(LONG_BLOCK, 1)
    cross_entropy_shared_k1(float *loss, float *dlogits, const float *logits, const int32_t *target, running *parts,
                            float grad_scale, int64_t N, int64_t V, row_deal d)
{
    __shared__ float warps[WARP];
    const int row = (int)blockIdx.x / d.shares, together = (int)gridDim.x / d.shares;
    for (int64_t n = row, round = 0; round * together < N; n += together, round++)
        row_part<true>(loss, dlogits, logits, target, parts + (round % 2 * together + row) * d.shares, grad_scale, n, N,
                       V, d, warps);
}

/* Rows of which less than half fits into a block's `room` are shared by as many blocks as keep all of it, or all that
 * the device has. *together: rows at one time. */
static ts_status share_rows(row_deal *d, int64_t *together, const ts_stream *s, int64_t room, int64_t N, int64_t V)
{
    int64_t blocks;
    const size_t bytes = sizeof(float) * (size_t)room;
    TS_TRY(ts_allow_shared((const void *)cross_entropy_shared_k1, bytes, "cross_entropy"));
    TS_TRY(ts_resident(&blocks, s, (const void *)cross_entropy_shared_k1, LONG_BLOCK, bytes, "cross_entropy"));
    if (blocks > PARTIALS / 2) blocks = PARTIALS / 2;
    const int64_t least = (V + room - 1) / room;
    const int64_t rounds = least > blocks ? N : (N + blocks / least - 1) / (blocks / least);
    *together = (N + rounds - 1) / rounds;
    d->shares = (int)(blocks / *together);
    d->per = (int)((V + d->shares - 1) / d->shares);
    d->held = d->per < room ? d->per : (int)room;
    return TS_OK;
}

ts_status cross_entropy_cuda(ts_stream *s, float *loss, float *dlogits, const float *logits, const int32_t *target,
                             float grad_scale, int64_t N, int64_t V)
{
    enum { STATIC = WARP * sizeof(float) };
    static_assert(sizeof(running) == sizeof *s->partial, "the parts of PARTIALS / 2 blocks, twice, fit into partial");
    if (N == 0) return TS_OK;
    const int64_t room = (int64_t)((s->most_shared - STATIC) / sizeof(float));
    const int threads = V > LONG ? (int)LONG_BLOCK : (int)BLOCK;
    if (dlogits && 2 * room < V) {
        int64_t together;
        row_deal d;
        TS_TRY(share_rows(&d, &together, s, room, N, V));
        return TS_LAUNCH_TOGETHER(cross_entropy_shared_k1, (unsigned)(together * d.shares), threads,
                                  sizeof(float) * (size_t)d.held, s, loss, dlogits, logits, target,
                                  (running *)s->partial, grad_scale, N, V, d);
    }
    const row_deal d = { 1, (int)V, (int)(V < room ? V : room) };
    const size_t bytes = sizeof(float) * (size_t)d.held;
    TS_TRY(ts_allow_shared((const void *)cross_entropy_k1, bytes, "cross_entropy"));
    return TS_LAUNCH(cross_entropy_k1, (unsigned)N, threads, bytes, s, loss, dlogits, logits, target, grad_scale, N, V,
                     d);
}
