/* group_norm.cu - GroupNorm with SiLU on CUDA: forward; backward is group_norm_bwd.cu. Contract:
 * tessera/op_group_norm.h. Twin: kernels/cpu/group_norm.c.
 *
 * Blocks have a few neighbouring groups, W channels together (a bundle), so many that a row of them fills whole sectors
 * of memory. How positions are dealt out depends on the shape of one image alone, and so do the sums, which are in
 * double, slice by slice of SLICE positions: whatever the way, the bits are the same. An op is one launch (backward:
 * another one for gamma and beta) and moves x and y once (backward: x, dy and dx) and again
 *   P <= SLICE    x (and dy) once more, from the cache: a block has W SLICE 4 bytes, twice that backward
 *   otherwise     what did not stay in shared memory. One block has a bundle where half of it stays (5/8 backward: 1.25
 *                 times what is least). Larger ones are shared by many blocks, which are on the device together, wait
 *                 for each other's sums, and keep everything as long as the device has the shared memory: W P numbers
 *                 of, in millions, 4.3 on an A100, 7.4 on an H100 (half as many backward). The published autoencoder
 *                 has W of 40: 256x256 positions are 2.6. Beyond, x is read again in part: 1.5 times what is least, and
 *                 1.67 backward, at most.
 * Sums of slices wait where y will be. */
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
                const int q = p + k * v.rows;
                value[k] = q < w.p1 ? x[w.at + q * n.C + v.channel] : pivot;
            }
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                const int q = p + k * v.rows;
                const double d = (double)value[k] - pivot;
                sum += d;
                squares += d * d;
                if (keep.has(q) && q < w.p1) keep(q, v.channel, w) = value[k];
            }
        }
    }
    add_up_groups(room->sum, sum, w, room->part);
    add_up_groups(room->square, squares, w, room->part);
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
            const float u = fmaf((kept.has(p) ? kept(p, v.channel, w) : x[i]) - m, scale, shift);
            y[i] = n.silu ? u * ts_sigmoidf(u) : u;
        }
    }
}

static __global__ void group_norm_fwd_k1(float *y, float *mean, float *rstd, const float *x, const float *gamma,
                                         const float *beta, ts_group_norm n, layout l)
{
    __shared__ group_room room;
    const part_of_image w = my_part(n, l);
    add_up(&room, x, w, n, slab{ nullptr, 0, 0 });
    if ((int)threadIdx.x < l.groups)
        finish_group(mean, rstd, room.sum[threadIdx.x], room.square[threadIdx.x], x,
                     w.b * n.G + w.c0 / w.wide + threadIdx.x, n);
    __syncthreads();
    normalise(y, x, mean, rstd, gamma, beta, w, n, slab{ nullptr, 0, 0 });
}

/* Number k of sums (groups,slices,4) of bundle i, where y will be: in the first rows of its channels. */
static __device__ inline float *sums_at(float *y, const part_of_image &w, const ts_group_norm &n, int k)
{
    const int width = w.groups * w.wide, row = k / width;
    return y + w.at + row * n.C + w.c0 + (k - row * width);
}

/* A sum as a float and another for what that leaves of it. */
static __device__ inline void put_sum(float *y, double sum, const part_of_image &w, const ts_group_norm &n, int k)
{
    const float high = (float)sum;
    *sums_at(y, w, n, k) = high;
    *sums_at(y, w, n, k + 1) = (float)(sum - high);
}

static __device__ inline double get_sum(float *y, const part_of_image &w, const ts_group_norm &n, int k)
{
    return (double)*sums_at(y, w, n, k) + *sums_at(y, w, n, k + 1);
}

/* Warps add up the slices of a group each. */
static __device__ inline void finish_bundle(float *mean, float *rstd, float *y, const float *x, const part_of_image &w,
                                            const ts_group_norm &n)
{
    const int group = (int)threadIdx.x / WARP;
    if (group >= w.groups) return;
    double sum = 0, square = 0;
    for (int i = (int)threadIdx.x % WARP; i < w.slices; i += WARP) {
        const int k = (group * w.slices + i) * 4;
        sum += get_sum(y, w, n, k);
        square += get_sum(y, w, n, k + 2);
    }
    sum = warp_sum(sum);
    square = warp_sum(square);
    if (threadIdx.x % WARP == 0) finish_group(mean, rstd, sum, square, x, w.b * n.G + w.c0 / w.wide + group, n);
}

static __global__ void __launch_bounds__(MOST_TEAMS *BLOCK)
    group_norm_slab_k1(float *y, float *mean, float *rstd, const float *x, const float *gamma, const float *beta,
                       ts_group_norm n, layout l, deal d)
{
    TS_SHARED(shared);
    group_room *const room = (group_room *)shared + my_team();
    EACH_ROUND(i, d)
    {
        const share mine = my_share(l, d, i);
        const slab keep = { (float *)((group_room *)shared + MOST_TEAMS), mine.first * SLICE, d.held };
        for (int first = mine.first; first < mine.end; first += d.teams) {
            const part_of_image w = team_part(n, l, i, first, mine);
            add_up(room, x, w, n, keep);
            if (in_team() >= l.groups || w.slice == w.slices) continue;
            const int k = (in_team() * w.slices + w.slice) * 4;
            put_sum(y, room->sum[in_team()], w, n, k);
            put_sum(y, room->square[in_team()], w, n, k + 2);
        }
        meet(d);
        if (mine.first == 0 && mine.end > 0) finish_bundle(mean, rstd, y, x, part_of(n, l, i, 0), n);
        meet(d);
        for (int first = mine.first; first < mine.end; first += d.teams)
            normalise(y, x, mean, rstd, gamma, beta, team_part(n, l, i, first, mine), n, keep);
    }
}

ts_status group_norm_fwd_cuda(ts_stream *s, void *out, float *mean, float *rstd, const float *x, const float *gamma,
                              const float *beta, const ts_group_norm *n)
{
    float *y = (float *)out;
    if (n->B == 0) return TS_OK;
    TS_TRY(few_positions(n));
    const layout l = layout_of(n);
    if (l.slices == 1)
        return TS_LAUNCH(group_norm_fwd_k1, blocks_of(n), BLOCK, 0, s, y, mean, rstd, x, gamma, beta, *n, l);
    deal d;
    TS_TRY(deal_out(&d, s, n, (const void *)group_norm_slab_k1, MOST_TEAMS * sizeof(group_room), 1, 4));
    return d.shares == 1 ? TS_LAUNCH(group_norm_slab_k1, d.grid, d.teams * BLOCK, d.bytes, s, y, mean, rstd, x, gamma,
                                     beta, *n, l, d)
                         : TS_LAUNCH_TOGETHER(group_norm_slab_k1, d.grid, d.teams * BLOCK, d.bytes, s, y, mean, rstd, x,
                                              gamma, beta, *n, l, d);
}
