/* group_norm.cu - GroupNorm with SiLU on CUDA: forward; backward is group_norm_bwd.cu. Contract:
 * tessera/op_group_norm.h. Twin: kernels/cpu/group_norm.c.
 *
 * A block has a few neighbouring groups, W channels together, so many that a row of them fills whole sectors of memory.
 * How positions are dealt out depends on the shape of one image alone, and so do the sums, which are in double, slice
 * by slice of SLICE positions: whichever way is taken, the bits are the same. An op moves x and y once (backward: x, dy
 * and dx) and, per block, again what it says here:
 *   P <= SLICE    one launch; x (and dy) once more, from the cache: W SLICE 4 bytes, twice that backward
 *   slabs         one launch; the first positions stay in shared memory, the others are read again. Taken where that
 *                 is at most 1.25 times what is least: half of the P positions fit forward, 5/8 of them backward
 *   otherwise     sums and result are launches of their own: x is read twice, 1.5 times what is least; backward x and
 *                 dy, 1.67
 * So 1.25 holds up to W P of about, in thousands,   sm_86, 89, 120: 46 forward, 18 backward;   sm_80: 78 and 31;
 * sm_90, 100: 112 and 44. W is 8 where groups have 1, 2, 4 or 8 channels (64x64 positions: 33), 40 in the published
 * autoencoder: its maps of 32x32 (41) stay within it forward, those of 64x64 and up (164) do not, on any device. */
#include "kernels/cuda/group_norm.cuh"

/* v of all threads, added up for each group: sums[group]. part: BLOCK values in shared memory. */
static __device__ inline void add_up_groups(double *sums, double v, const part_of_image &w, double *part)
{
    const int width = w.groups * w.wide, mine = w.groups == 1 ? (int)BLOCK : BLOCK / width * w.wide;
    const int group = in_team() / WARP;
    part[in_team()] = v;
    __syncthreads();
    if (group < w.groups) {
        double sum = 0;
        for (int i = (int)threadIdx.x % WARP; i < mine; i += WARP)
            sum += part[w.groups == 1 ? i : i / w.wide * width + group * w.wide + i % w.wide];
        sum = warp_sum(sum);
        if (threadIdx.x % WARP == 0) sums[group] = sum;
    }
    __syncthreads();
}

/* Room for the sums of a team. */
struct group_room {
    double part[BLOCK], sum[MOST_GROUPS], square[MOST_GROUPS];
};

/* Sums of x - pivot and its square over the part, for each of its groups. The pivot is a value of the group: neither a
 * mean far from zero nor a constant group costs digits. What is read before the end of the slab goes there. */
static __device__ inline void add_up(group_room *room, const float *x, const part_of_image &w, const ts_group_norm &n,
                                     const slab &keep)
{
    double sum = 0, squares = 0;
    EACH_STRIP(strip, w)
    {
        const cover v = cover_of(w, strip);
        const float pivot = x[w.at + v.channel / w.wide * w.wide];
        EACH_ROW(p, v, w, AHEAD)
        {
            float value[AHEAD];
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                const int64_t q = p + k * v.rows;
                value[k] = q < w.p1 ? x[w.at + q * n.C + v.channel] : pivot;
            }
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                const int64_t q = p + k * v.rows;
                const double d = (double)value[k] - pivot;
                sum += d;
                squares += d * d;
                if (q < keep.held && q < w.p1) keep(q, v.channel, w) = value[k];
            }
        }
    }
    add_up_groups(room->sum, sum, w, room->part);
    add_up_groups(room->square, squares, w, room->part);
}

/* A sum as slices hand it over: as a float and another for what that leaves of it. */
static __device__ inline double two_floats(double sum)
{
    const float high = (float)sum;
    return (double)high + (float)(sum - high);
}

/* Mean and 1/sqrt(variance + eps) of group g of all, from sums over all of its values. */
static __device__ inline void finish_group(float *mean, float *rstd, double sum, double squares, const float *x,
                                           int64_t bg, const ts_group_norm &n)
{
    const int64_t wide = n.C / n.G;
    const double count = (double)n.P * (double)wide, shift = sum / count;
    const double variance = squares / count - shift * shift;
    mean[bg] = (float)(x[bg / n.G * n.P * n.C + bg % n.G * wide] + shift);
    rstd[bg] = (float)(1.0 / sqrt((variance > 0 ? variance : variance - variance) + n.eps)); /* NaN stays */
}

static __device__ inline void normalise(float *y, const float *x, const float *mean, const float *rstd,
                                        const float *gamma, const float *beta, const part_of_image &w,
                                        const ts_group_norm &n, const slab &kept)
{
    EACH_STRIP(strip, w)
    {
        const cover v = cover_of(w, strip);
        const int64_t bg = w.b * n.G + v.channel / w.wide;
        const float m = mean[bg], scale = rstd[bg] * gamma[v.channel], shift = beta[v.channel];
        EACH_ROW(p, v, w, 1)
        {
            const int64_t i = w.at + p * n.C + v.channel;
            const float u = fmaf((p < kept.held ? kept(p, v.channel, w) : x[i]) - m, scale, shift);
            y[i] = n.silu ? u * ts_sigmoidf(u) : u;
        }
    }
}

static __global__ void group_norm_fwd_k1(float *y, float *mean, float *rstd, const float *x, const float *gamma,
                                         const float *beta, ts_group_norm n, int groups)
{
    __shared__ group_room room;
    const part_of_image w = my_part(n, groups);
    add_up(&room, x, w, n, slab{ nullptr, 0 });
    if ((int)threadIdx.x < groups)
        finish_group(mean, rstd, room.sum[threadIdx.x], room.square[threadIdx.x], x,
                     w.b * n.G + w.c0 / w.wide + threadIdx.x, n);
    __syncthreads();
    normalise(y, x, mean, rstd, gamma, beta, w, n, slab{ nullptr, 0 });
}

/* All positions of a bundle of groups, in one block; the slices' sums wait in shared memory. */
static __global__ void __launch_bounds__(MOST_TEAMS *BLOCK)
    group_norm_slab_k1(float *y, float *mean, float *rstd, const float *x, const float *gamma, const float *beta,
                       ts_group_norm n, int groups, int64_t held)
{
    TS_SHARED(shared);
    const int teams = (int)blockDim.x / BLOCK, group = (int)threadIdx.x / WARP;
    const int64_t slices = slices_of(&n);
    group_room *const rooms = (group_room *)shared, *const room = rooms + my_team();
    double *const sums = (double *)(rooms + teams), *const squares = sums + groups * slices; /* (groups,slices) */
    const slab keep = { (float *)(squares + groups * slices), held };
    for (int64_t first = 0; first < slices; first += teams) {
        const part_of_image w = part_of(n, groups, blockIdx.x, first + my_team());
        add_up(room, x, w, n, keep);
        if (in_team() < groups && w.slice < slices) {
            sums[in_team() * slices + w.slice] = two_floats(room->sum[in_team()]);
            squares[in_team() * slices + w.slice] = two_floats(room->square[in_team()]);
        }
    }
    __syncthreads();
    const part_of_image all = part_of(n, groups, blockIdx.x, 0);
    if (group < groups) {
        double sum = 0, square = 0;
        for (int64_t i = threadIdx.x % WARP; i < slices; i += WARP) {
            sum += sums[group * slices + i];
            square += squares[group * slices + i];
        }
        sum = warp_sum(sum);
        square = warp_sum(square);
        if (threadIdx.x % WARP == 0)
            finish_group(mean, rstd, sum, square, x, all.b * n.G + all.c0 / all.wide + group, n);
    }
    __syncthreads();
    for (int64_t first = 0; first < slices; first += teams)
        normalise(y, x, mean, rstd, gamma, beta, part_of(n, groups, blockIdx.x, first + my_team()), n, keep);
}

/* Of a slice: sums (B,G,slices,4), each of two floats. They wait where y will be. */
static __global__ void group_norm_slices_k1(float *sums, const float *x, ts_group_norm n, int groups)
{
    __shared__ group_room room;
    const part_of_image w = my_part(n, groups);
    add_up(&room, x, w, n, slab{ nullptr, 0 });
    if ((int)threadIdx.x < groups) {
        const double sum = room.sum[threadIdx.x], square = room.square[threadIdx.x];
        float *to = sums + ((w.b * n.G + w.c0 / w.wide + threadIdx.x) * w.slices + w.slice) * 4;
        to[0] = (float)sum;
        to[1] = (float)(sum - to[0]);
        to[2] = (float)square;
        to[3] = (float)(square - to[2]);
    }
}

/* A warp adds up a group's slices. */
static __global__ void group_norm_finish_k1(float *mean, float *rstd, const float *sums, const float *x,
                                            ts_group_norm n, int64_t slices)
{
    const int64_t bg = (int64_t)blockIdx.x * (BLOCK / WARP) + threadIdx.x / WARP;
    if (bg >= n.B * n.G) return;
    double sum = 0, square = 0;
    for (int64_t i = threadIdx.x % WARP; i < slices; i += WARP) {
        const float *from = sums + (bg * slices + i) * 4;
        sum += (double)from[0] + from[1];
        square += (double)from[2] + from[3];
    }
    sum = warp_sum(sum);
    square = warp_sum(square);
    if (threadIdx.x % WARP == 0) finish_group(mean, rstd, sum, square, x, bg, n);
}

static __global__ void group_norm_apply_k1(float *y, const float *x, const float *mean, const float *rstd,
                                           const float *gamma, const float *beta, ts_group_norm n, int groups)
{
    normalise(y, x, mean, rstd, gamma, beta, my_part(n, groups), n, slab{ nullptr, 0 });
}

ts_status group_norm_fwd_cuda(ts_stream *s, void *out, float *mean, float *rstd, const float *x, const float *gamma,
                              const float *beta, const ts_group_norm *n)
{
    float *y = (float *)out;
    if (n->B == 0) return TS_OK;
    const int groups = groups_together(n);
    const int64_t slices = slices_of(n);
    if (slices == 1)
        return TS_LAUNCH(group_norm_fwd_k1, blocks_of(n), BLOCK, 0, s, y, mean, rstd, x, gamma, beta, *n, groups);
    size_t bytes;
    const int64_t room = teams_of(n) * (int64_t)sizeof(group_room) + 2 * groups * slices * (int64_t)sizeof(double);
    const int64_t held = held_of(s, n, room, 1, 4, &bytes);
    if (held) {
        TS_TRY(allow_shared((const void *)group_norm_slab_k1, bytes));
        return TS_LAUNCH(group_norm_slab_k1, bundles_of(n), teams_of(n) * BLOCK, bytes, s, y, mean, rstd, x, gamma,
                         beta, *n, groups, held);
    }
    TS_TRY(TS_LAUNCH(group_norm_slices_k1, blocks_of(n), BLOCK, 0, s, y, x, *n, groups));
    const unsigned warps = BLOCK / WARP, blocks = (unsigned)((n->B * n->G + warps - 1) / warps);
    TS_TRY(TS_LAUNCH(group_norm_finish_k1, blocks, BLOCK, 0, s, mean, rstd, y, x, *n, slices));
    return TS_LAUNCH(group_norm_apply_k1, blocks_of(n), BLOCK, 0, s, y, x, mean, rstd, gamma, beta, *n, groups);
}
