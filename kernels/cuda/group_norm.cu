/* group_norm.cu - GroupNorm with SiLU on CUDA. Contract: tessera/op_group_norm.h. Twin: kernels/cpu/group_norm.c.
 *
 * A block has a few neighbouring groups, so many that a row of their channels fills whole sectors of memory, of SLICE
 * positions of an image. Up to SLICE positions an op is one launch, which reads its part of x again from the cache;
 * beyond, sums over slices and the result are launches of their own. How positions are dealt out depends on the shape
 * of one image alone, and so do the sums, which are in double. */
#include "tessera/op_group_norm.h"

#include "kernels/cuda/launch.cuh"
#include "tessera/exact.h"

enum { SLICE = 256, MOST_GROUPS = BLOCK / WARP, SECTOR_FLOATS = 8 };

/* ---- who does what ---- */

static inline int64_t slices_of(const ts_group_norm *n)
{
    return n->P <= SLICE ? 1 : (n->P + SLICE - 1) / SLICE;
}

/* Groups of a block. */
static inline int groups_together(const ts_group_norm *n)
{
    const int64_t wide = n->C / n->G;
    int m = 1;
    while (m < MOST_GROUPS && m * wide % SECTOR_FLOATS != 0) m *= 2;
    return m * wide % SECTOR_FLOATS == 0 && n->G % m == 0 && m * wide <= BLOCK ? m : 1;
}

static inline unsigned blocks_of(const ts_group_norm *n)
{
    return (unsigned)(n->B * (n->G / groups_together(n)) * slices_of(n));
}

/* What a block has before it: `groups` groups of `wide` channels, from channel c0 on, and positions p0..p1-1 of image b;
 * x and y from `at` on are that image. */
struct part_of_image {
    int64_t b, slice, slices, at, p0, p1;
    int c0, groups, wide;
};

static __device__ inline part_of_image my_part(const ts_group_norm &n, int groups)
{
    const int64_t bundles = n.G / groups, i = blockIdx.x;
    part_of_image w;
    w.slices = n.P <= SLICE ? 1 : (n.P + SLICE - 1) / SLICE;
    w.slice = i % w.slices;
    w.b = i / w.slices / bundles;
    w.at = w.b * n.P * n.C;
    w.p0 = w.slice * SLICE;
    w.p1 = n.P - w.p0 < SLICE ? n.P : w.p0 + SLICE;
    w.groups = groups;
    w.wide = (int)(n.C / n.G);
    w.c0 = (int)(i / w.slices % bundles) * groups * w.wide;
    return w;
}

/* How the threads of a block cover `width` channels, of which they take BLOCK at a time: thread i takes channel
 * i % width of every `rows`-th position; threads behind rows*width rest. */
struct cover {
    int width, rows, channel, row;
};

static __device__ inline cover cover_of(const part_of_image &w, int strip)
{
    const int rest = w.groups * w.wide - strip;
    cover v;
    v.width = rest < BLOCK ? rest : (int)BLOCK;
    v.rows = BLOCK / v.width;
    v.channel = w.c0 + strip + (int)threadIdx.x % v.width;
    v.row = (int)threadIdx.x / v.width;
    return v;
}

/* for (strip over the channels of a block) */
#define EACH_STRIP(strip, w) for (int strip = 0; strip < (w).groups * (w).wide; strip += BLOCK)
/* for (p over the thread's positions) */
#define EACH_ROW(p, v, w) for (int64_t p = (w).p0 + (v).row; (v).row < (v).rows && p < (w).p1; p += (v).rows)

/* ---- forward ---- */

/* v of all threads, added up for each group: sums[group]. part: BLOCK values in shared memory. */
static __device__ inline void add_up_groups(double *sums, double v, const part_of_image &w, double *part)
{
    const int width = w.groups * w.wide, mine = w.groups == 1 ? (int)BLOCK : BLOCK / width * w.wide;
    const int group = (int)threadIdx.x / WARP;
    part[threadIdx.x] = v;
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

/* Room for the sums of a block. */
struct group_room {
    double part[BLOCK], sum[MOST_GROUPS], square[MOST_GROUPS];
};

/* Sums of x - pivot and its square over the block's part, for each of its groups. The pivot is a value of the group:
 * neither a mean far from zero nor a constant group costs digits. */
static __device__ inline void add_up(group_room *room, const float *x, const part_of_image &w, const ts_group_norm &n)
{
    double sum = 0, squares = 0;
    EACH_STRIP(strip, w)
    {
        const cover v = cover_of(w, strip);
        const double pivot = x[w.at + v.channel / w.wide * w.wide];
        EACH_ROW(p, v, w)
        {
            const double d = x[w.at + p * n.C + v.channel] - pivot;
            sum += d;
            squares += d * d;
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
                                        const ts_group_norm &n)
{
    EACH_STRIP(strip, w)
    {
        const cover v = cover_of(w, strip);
        const int64_t bg = w.b * n.G + v.channel / w.wide;
        const float m = mean[bg], scale = rstd[bg] * gamma[v.channel], shift = beta[v.channel];
        EACH_ROW(p, v, w)
        {
            const int64_t i = w.at + p * n.C + v.channel;
            const float u = fmaf(x[i] - m, scale, shift);
            y[i] = n.silu ? u * ts_sigmoidf(u) : u;
        }
    }
}

static __global__ void group_norm_fwd_k1(float *y, float *mean, float *rstd, const float *x, const float *gamma,
                                         const float *beta, ts_group_norm n, int groups)
{
    __shared__ group_room room;
    const part_of_image w = my_part(n, groups);
    add_up(&room, x, w, n);
    if ((int)threadIdx.x < groups)
        finish_group(mean, rstd, room.sum[threadIdx.x], room.square[threadIdx.x], x,
                     w.b * n.G + w.c0 / w.wide + threadIdx.x, n);
    __syncthreads();
    normalise(y, x, mean, rstd, gamma, beta, w, n);
}

/* Of a slice: sums (B,G,slices,4), each sum as a float and what that leaves of it. They wait where y will be. */
static __global__ void group_norm_slices_k1(float *sums, const float *x, ts_group_norm n, int groups)
{
    __shared__ group_room room;
    const part_of_image w = my_part(n, groups);
    add_up(&room, x, w, n);
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
    normalise(y, x, mean, rstd, gamma, beta, my_part(n, groups), n);
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
    TS_TRY(TS_LAUNCH(group_norm_slices_k1, blocks_of(n), BLOCK, 0, s, y, x, *n, groups));
    const unsigned warps = BLOCK / WARP, blocks = (unsigned)((n->B * n->G + warps - 1) / warps);
    TS_TRY(TS_LAUNCH(group_norm_finish_k1, blocks, BLOCK, 0, s, mean, rstd, y, x, *n, slices));
    return TS_LAUNCH(group_norm_apply_k1, blocks_of(n), BLOCK, 0, s, y, x, mean, rstd, gamma, beta, *n, groups);
}

/* ---- backward ---- */

/* Gradient at u, from that at y = silu(u). */
static __device__ inline float before_silu(float dy, float u)
{
    const float sig = ts_sigmoidf(u);
    return dy * fmaf(sig * u, 1.0f - sig, sig);
}

/* The sum over the threads of each channel, which the first row of threads gets. part: BLOCK values in shared memory.
 */
static __device__ inline double sum_rows_of(double v, const cover &c, double *part)
{
    part[threadIdx.x] = v;
    __syncthreads();
    double sum = 0;
    for (int row = 0; row < c.rows && c.row == 0; row++) sum += part[row * c.width + (int)threadIdx.x];
    __syncthreads();
    return sum;
}

struct gradient_in {
    const float *dy, *x, *mean, *rstd, *gamma, *beta;
};

/* What a thread needs of its channel. */
struct channel {
    float mean, rstd, weight, shift;
};

static __device__ inline channel channel_of(const gradient_in &in, const cover &v, const part_of_image &w,
                                            const ts_group_norm &n)
{
    const int64_t bg = w.b * n.G + v.channel / w.wide;
    return channel{ in.mean[bg], in.rstd[bg], in.gamma[v.channel], in.beta[v.channel] };
}

/* Gradient at u of value i, and the normalised value. */
static __device__ inline float gradient_at(float *norm, const gradient_in &in, int64_t i, const channel &c, int silu)
{
    *norm = (in.x[i] - c.mean) * c.rstd;
    return silu ? before_silu(in.dy[i], fmaf(*norm, c.weight, c.shift)) : in.dy[i];
}

/* Sums of du and of du*n over the block's positions: sums[c] and sums[C + c]. */
static __device__ inline void add_up_channels(double *sums, const gradient_in &in, const part_of_image &w,
                                              const ts_group_norm &n, double *part)
{
    EACH_STRIP(strip, w)
    {
        const cover v = cover_of(w, strip);
        const channel c = channel_of(in, v, w, n);
        double du_sum = 0, dun_sum = 0;
        EACH_ROW(p, v, w)
        {
            float norm;
            const float du = gradient_at(&norm, in, w.at + p * n.C + v.channel, c, n.silu);
            du_sum += du;
            dun_sum += (double)du * norm;
        }
        du_sum = sum_rows_of(du_sum, v, part);
        dun_sum = sum_rows_of(dun_sum, v, part);
        if (v.row == 0) {
            sums[v.channel] = du_sum;
            sums[n.C + v.channel] = dun_sum;
        }
    }
}

/* dx = rstd (dn - avg(dn) - n avg(dn n)), dn = du*gamma, averages over the group. sums: of all positions. */
static __device__ inline void apply_gradient(float *dx, const double *sums, const gradient_in &in,
                                             const part_of_image &w, const ts_group_norm &n, float (*average)[2])
{
    const int group = (int)threadIdx.x / WARP;
    if (group < w.groups) {
        const double count = (double)n.P * w.wide;
        double dn = 0, dnn = 0;
        for (int i = (int)threadIdx.x % WARP; i < w.wide; i += WARP) {
            const int c = w.c0 + group * w.wide + i;
            dn += sums[c] * in.gamma[c];
            dnn += sums[n.C + c] * in.gamma[c];
        }
        dn = warp_sum(dn);
        dnn = warp_sum(dnn);
        if (threadIdx.x % WARP == 0) {
            average[group][0] = (float)(dn / count);
            average[group][1] = (float)(dnn / count);
        }
    }
    __syncthreads();
    EACH_STRIP(strip, w)
    {
        const cover v = cover_of(w, strip);
        const channel c = channel_of(in, v, w, n);
        const float *avg = average[(v.channel - w.c0) / w.wide];
        EACH_ROW(p, v, w)
        {
            const int64_t i = w.at + p * n.C + v.channel;
            float norm;
            const float du = gradient_at(&norm, in, i, c, n.silu);
            dx[i] = c.rstd * fmaf(-norm, avg[1], fmaf(du, c.weight, -avg[0]));
        }
    }
}

/* sums (B,2,C): sums over the positions of an image of du and du*n. */
static __global__ void group_norm_bwd_k1(float *dx, double *sums, gradient_in in, ts_group_norm n, int groups)
{
    __shared__ double part[BLOCK];
    __shared__ float average[MOST_GROUPS][2];
    const part_of_image w = my_part(n, groups);
    double *image = sums + w.b * 2 * n.C;
    add_up_channels(image, in, w, n, part);
    __syncthreads();
    apply_gradient(dx, image, in, w, n, average);
}

/* slices (B,slices,2,C): the same of each slice. */
static __global__ void group_norm_bwd_slices_k1(double *slices, gradient_in in, ts_group_norm n, int groups)
{
    __shared__ double part[BLOCK];
    const part_of_image w = my_part(n, groups);
    add_up_channels(slices + (w.b * w.slices + w.slice) * 2 * n.C, in, w, n, part);
}

static __global__ void group_norm_add_slices_k1(double *sums, const double *slices, int64_t count, ts_group_norm n)
{
    TS_EACH(i, n.B * 2 * n.C)
    {
        const double *from = slices + i / (2 * n.C) * count * 2 * n.C + i % (2 * n.C);
        double sum = 0;
        for (int64_t m = 0; m < count; m++) sum += from[m * 2 * n.C];
        sums[i] = sum;
    }
}

static __global__ void group_norm_bwd_apply_k1(float *dx, const double *sums, gradient_in in, ts_group_norm n,
                                               int groups)
{
    __shared__ float average[MOST_GROUPS][2];
    const part_of_image w = my_part(n, groups);
    apply_gradient(dx, sums + w.b * 2 * n.C, in, w, n, average);
}

static __global__ void group_norm_params_k1(float *dgamma, float *dbeta, const double *sums, int64_t B, int64_t C)
{
    TS_EACH(c, C)
    {
        double du = 0, dun = 0;
        for (int64_t b = 0; b < B; b++) {
            du += sums[b * 2 * C + c];
            dun += sums[b * 2 * C + C + c];
        }
        dbeta[c] += (float)du;
        dgamma[c] += (float)dun;
    }
}

size_t group_norm_scratch_cuda(ts_stream *s, const ts_group_norm *n)
{
    (void)s;
    const int64_t slices = slices_of(n);
    return (size_t)(n->B * 2 * n->C * (slices > 1 ? 1 + slices : 1)) * sizeof(double);
}

ts_status group_norm_bwd_cuda(ts_stream *s, float *dx, float *dgamma, float *dbeta, const float *dy, const float *x,
                              const float *mean, const float *rstd, const float *gamma, const float *beta,
                              const ts_group_norm *n, void *scratch)
{
    if (n->B == 0) return TS_OK;
    const int groups = groups_together(n);
    const int64_t slices = slices_of(n), all = n->B * 2 * n->C;
    const gradient_in in = { dy, x, mean, rstd, gamma, beta };
    double *sums = (double *)scratch, *of_slices = sums + all;
    if (slices == 1) {
        TS_TRY(TS_LAUNCH(group_norm_bwd_k1, blocks_of(n), BLOCK, 0, s, dx, sums, in, *n, groups));
    } else {
        TS_TRY(TS_LAUNCH(group_norm_bwd_slices_k1, blocks_of(n), BLOCK, 0, s, of_slices, in, *n, groups));
        TS_TRY(TS_LAUNCH(group_norm_add_slices_k1, ts_blocks(all), BLOCK, 0, s, sums, of_slices, slices, *n));
        TS_TRY(TS_LAUNCH(group_norm_bwd_apply_k1, blocks_of(n), BLOCK, 0, s, dx, sums, in, *n, groups));
    }
    return TS_LAUNCH(group_norm_params_k1, ts_blocks(n->C), BLOCK, 0, s, dgamma, dbeta, sums, n->B, n->C);
}
