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
 *                 of, in millions, 4.3 on an A100, 7.4 on an H100 (half as many backward). Where that is not half (5/8)
 *                 of it, blocks have half the threads and keep numbers in registers, too: with W of 40, as the published
 *                 autoencoder has, half as many again. 256x256 positions are 2.6. Beyond, x is read again in part:
 *                 kernels/cuda/REPORT.md has the numbers; 1.5 times what is least, and 1.67 backward, at most.
 * Sums of slices wait where y will be. y may be bfloat16: what is read and summed is the same, what is written is half. */
#include "kernels/cuda/bf16.cuh"
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

/* Values of the thread's next AHEAD positions; the pivot from `end` on. */
static __device__ inline void read_ahead(float *value, const float *x, int p, int end, float pivot, const cover &v, const part_of_image &w,
                                         const ts_group_norm &n)
{
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        const int q = p + k * v.rows;
        value[k] = q < end ? x[w.at + q * n.C + v.channel] : pivot;
    }
}

static __device__ inline void add_ahead(double *sum, double *squares, const float *value, float pivot)
{
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        const double d = (double)value[k] - pivot;
        *sum += d;
        *squares += d * d;
    }
}

/* Sums of x - pivot and its square over the part, for each of its groups. The pivot is a value of the group: neither a
 * mean far from zero nor a constant group costs digits. What is read before the end of the slab goes there, the thread's
 * first KEEP values into `held`. */
template <int KEEP>
static __device__ inline void add_up(float *held, group_room *room, const float *x, const part_of_image &w, const ts_group_norm &n,
                                     const slab &keep)
{
    double sum = 0, squares = 0;
    EACH_STRIP(strip, w)
    {
        const cover v = cover_of(w, strip);
        const float pivot = x[w.at + v.channel / w.wide * w.wide];
#pragma unroll
        for (int k = 0; k < KEEP; k += AHEAD) {
            read_ahead(held + k, x, w.p0 + v.row + k * v.rows, end_of_rows(v, w), pivot, v, w, n);
            add_ahead(&sum, &squares, held + k, pivot);
        }
        EACH_ROW(p, v, w, KEEP, AHEAD)
        {
            float value[AHEAD];
            read_ahead(value, x, p, w.p1, pivot, v, w, n);
            add_ahead(&sum, &squares, value, pivot);
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                const int q = p + k * v.rows;
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

/* What becomes of a value of the channel. */
static __device__ inline float normal(float x, float mean, float scale, float shift, int silu)
{
    const float u = fmaf(x - mean, scale, shift);
    return silu ? u * ts_sigmoidf(u) : u;
}

template <int KEEP, class Y>
static __device__ inline void normalise_part(Y *y, const float *held, const float *x, const float *mean, const float *rstd,
                                             const float *gamma, const float *beta, const part_of_image &w,
                                             const ts_group_norm &n, const slab &kept)
{
    EACH_STRIP(strip, w)
    {
        const cover v = cover_of(w, strip);
        const int64_t bg = w.b * n.G + v.channel / w.wide;
        const float m = mean[bg], scale = rstd[bg] * gamma[v.channel], shift = beta[v.channel];
#pragma unroll
        for (int k = 0; k < KEEP; k++) {
            const int p = w.p0 + v.row + k * v.rows;
            if (p < end_of_rows(v, w)) put(y + w.at + p * n.C + v.channel, normal(held[k], m, scale, shift, n.silu));
        }
        EACH_ROW(p, v, w, KEEP, 1)
        {
            const int64_t i = w.at + p * n.C + v.channel;
            put(y + i, normal(kept.has(p) ? kept(p, v.channel, w) : x[i], m, scale, shift, n.silu));
        }
    }
}

static __device__ inline group_room *room_of_block()
{
    __shared__ group_room room;
    return &room;
}

template <class Y>
static __global__ void group_norm_fwd_k1(Y *y, float *mean, float *rstd, const float *x, const float *gamma,
                                         const float *beta, ts_group_norm n, layout l)
{
    group_room *const room = room_of_block();
    const part_of_image w = my_part(n, l);
    add_up<0>(nullptr, room, x, w, n, slab{ nullptr, 0, 0 });
    if ((int)threadIdx.x < l.groups)
        finish_group(mean, rstd, room->sum[threadIdx.x], room->square[threadIdx.x], x,
                     w.b * n.G + w.c0 / w.wide + threadIdx.x, n);
    __syncthreads();
    normalise_part<0>(y, nullptr, x, mean, rstd, gamma, beta, w, n, slab{ nullptr, 0, 0 });
}

/* Where number k of a bundle's channels of y stands, counted row by row. */
template <class Y> static __device__ inline Y *number_at(Y *y, const part_of_image &w, const ts_group_norm &n, int k)
{
    const int width = w.groups * w.wide, row = k / width;
    return y + w.at + row * n.C + w.c0 + (k - row * width);
}

/* Float k of sums (groups,slices,4) of a bundle, where y will be: in the first rows of its channels. */
static __device__ inline void put_float(float *y, float v, const part_of_image &w, const ts_group_norm &n, int k)
{
    *number_at(y, w, n, k) = v;
}

static __device__ inline float get_float(const float *y, const part_of_image &w, const ts_group_norm &n, int k)
{
    return *number_at(y, w, n, k);
}

/* In bfloat16 it takes the places of two numbers. There is room: 8 numbers of a group, of at least 128 positions. */
static __device__ inline void put_float(uint16_t *y, float v, const part_of_image &w, const ts_group_norm &n, int k)
{
    const uint32_t bits = ts_bits_of(v);
    *number_at(y, w, n, 2 * k) = (uint16_t)(bits >> 16);
    *number_at(y, w, n, 2 * k + 1) = (uint16_t)bits;
}

static __device__ inline float get_float(const uint16_t *y, const part_of_image &w, const ts_group_norm &n, int k)
{
    return ts_float_of((uint32_t)*number_at(y, w, n, 2 * k) << 16 | *number_at(y, w, n, 2 * k + 1));
}

/* A sum as a float and another for what that leaves of it. */
template <class Y>
static __device__ inline void put_sum(Y *y, double sum, const part_of_image &w, const ts_group_norm &n, int k)
{
    const float high = (float)sum;
    put_float(y, high, w, n, k);
    put_float(y, (float)(sum - high), w, n, k + 1);
}

template <class Y> static __device__ inline double get_sum(const Y *y, const part_of_image &w, const ts_group_norm &n, int k)
{
    return (double)get_float(y, w, n, k) + get_float(y, w, n, k + 1);
}

/* Warps add up the slices of a group each. */
template <class Y>
static __device__ inline void finish_bundle(float *mean, float *rstd, const Y *y, const float *x, const part_of_image &w,
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

/* Sums of a slice, left in y. */
template <int KEEP, class Y>
static __device__ inline void sum_slice(float *held, Y *y, group_room *room, const float *x, const part_of_image &w,
                                        const ts_group_norm &n, const slab &keep)
{
    add_up<KEEP>(held, room, x, w, n, keep);
    if (in_team() >= w.groups || w.slice == w.slices) return;
    const int k = (in_team() * w.slices + w.slice) * 4;
    put_sum(y, room->sum[in_team()], w, n, k);
    put_sum(y, room->square[in_team()], w, n, k + 2);
}

/* All rounds of a block, rooms for so many teams before what it keeps in shared memory. */
template <int TEAMS, int KEEP, class Y>
static __device__ inline void forward_rounds(group_room *rooms, Y *y, float *mean, float *rstd, const float *x, const float *gamma,
                                             const float *beta, const ts_group_norm &n, const layout &l, const deal &d)
{
    group_room *const room = rooms + my_team();
    EACH_ROUND(i, d)
    {
        const share mine = my_share(d, i);
        const slab keep = { (float *)(rooms + TEAMS), (mine.first + d.ahead) * SLICE, d.held };
        float held[KEEP ? KEEP : 1];
        if (KEEP && mine.first < mine.end)
            sum_slice<KEEP>(held, y, room, x, team_part(n, l, i, mine.first, mine), n, slab{ nullptr, 0, 0 });
        for (int first = mine.first + d.ahead; first < mine.end; first += d.teams)
            sum_slice<0>(nullptr, y, room, x, team_part(n, l, i, first, mine), n, keep);
        meet(d);
        if (mine.first == 0 && mine.end > 0) finish_bundle(mean, rstd, y, x, part_of(n, l, i, 0), n);
        meet(d);
        if (KEEP && mine.first < mine.end)
            normalise_part<KEEP>(y, held, x, mean, rstd, gamma, beta, team_part(n, l, i, mine.first, mine), n, slab{ nullptr, 0, 0 });
        for (int first = mine.first + d.ahead; first < mine.end; first += d.teams)
            normalise_part<0>(y, nullptr, x, mean, rstd, gamma, beta, team_part(n, l, i, first, mine), n, keep);
    }
}

template <class Y>
static __global__ void __launch_bounds__(MOST_TEAMS *BLOCK)
    group_norm_slab_k1(Y *y, float *mean, float *rstd, const float *x, const float *gamma, const float *beta,
                       ts_group_norm n, layout l, deal d)
{
    TS_SHARED(shared);
    forward_rounds<MOST_TEAMS, 0>((group_room *)shared, y, mean, rstd, x, gamma, beta, n, l, d);
}

template <class Y>
static __global__ void __launch_bounds__(KEPT_TEAMS *BLOCK)
    group_norm_kept_k1(Y *y, float *mean, float *rstd, const float *x, const float *gamma, const float *beta,
                       ts_group_norm n, layout l, deal d)
{
    TS_SHARED(shared);
    forward_rounds<KEPT_TEAMS, KEPT_FWD>((group_room *)shared, y, mean, rstd, x, gamma, beta, n, l, d);
}

static keeping keeping_of(const ts_group_norm *n)
{
    keeping k = { (const void *)group_norm_slab_k1<float>, (const void *)group_norm_kept_k1<float>, sizeof(group_room), 1, 4, KEPT_FWD };
    if (n->y_dtype != TS_BF16) return k;
    k.slab = (const void *)group_norm_slab_k1<uint16_t>;
    k.kept = (const void *)group_norm_kept_k1<uint16_t>;
    return k;
}

ts_status group_norm_fwd_cuda(ts_stream *s, void *y, float *mean, float *rstd, const float *x, const float *gamma,
                              const float *beta, const ts_group_norm *n)
{
    if (n->B == 0) return TS_OK;
    TS_TRY(few_positions(n));
    const layout l = layout_of(n);
    if (l.slices == 1)
        return TS_LAUNCH_STORING(TS_LAUNCH, n->y_dtype, group_norm_fwd_k1, blocks_of(n), BLOCK, 0, s, y, mean, rstd, x, gamma, beta,
                                 *n, l);
    deal d;
    TS_TRY(deal_out(&d, s, n, keeping_of(n)));
    if (d.ahead)
        return TS_LAUNCH_STORING(TS_LAUNCH_TOGETHER, n->y_dtype, group_norm_kept_k1, d.grid, d.teams * BLOCK, d.bytes, s, y, mean,
                                 rstd, x, gamma, beta, *n, l, d);
    if (d.shares > 1)
        return TS_LAUNCH_STORING(TS_LAUNCH_TOGETHER, n->y_dtype, group_norm_slab_k1, d.grid, d.teams * BLOCK, d.bytes, s, y, mean,
                                 rstd, x, gamma, beta, *n, l, d);
    return TS_LAUNCH_STORING(TS_LAUNCH, n->y_dtype, group_norm_slab_k1, d.grid, d.teams * BLOCK, d.bytes, s, y, mean, rstd, x, gamma,
                             beta, *n, l, d);
}
