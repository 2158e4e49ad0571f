/* group_norm.cuh - how the kernels of group_norm.cu and group_norm_bwd.cu deal out positions and channels. */
#ifndef TS_CUDA_GROUP_NORM_CUH
#define TS_CUDA_GROUP_NORM_CUH

#include <cooperative_groups.h>

#include "kernels/cuda/launch.cuh"
#include "tessera/exact.h"
#include "tessera/op_group_norm.h"

enum { SLICE = 256, MOST_GROUPS = BLOCK / WARP, SECTOR_FLOATS = 8 };
enum { MOST_TEAMS = 4 }; /* BLOCK threads each, which take slices by turns, of a block that keeps a slab */
enum { AHEAD = 4 };      /* values that a thread asks for before it waits for the first */

static inline int64_t slices_of(const ts_group_norm *n)
{
    return n->P <= SLICE ? 1 : (n->P + SLICE - 1) / SLICE;
}

/* Kernels count positions in 31 bits, with a slice to spare. */
static inline ts_status few_positions(const ts_group_norm *n)
{
    const int64_t most = INT32_MAX - 2 * MOST_TEAMS * SLICE;
    return n->P <= most
               ? TS_OK
               : ts_fail(TS_E_ARG, "group_norm: %lld positions, at most %lld", (long long)n->P, (long long)most);
}

/* Groups of a block. */
static inline int groups_together(const ts_group_norm *n)
{
    const int64_t wide = n->C / n->G;
    int m = 1;
    while (m < MOST_GROUPS && m * wide % SECTOR_FLOATS != 0) m *= 2;
    return m * wide % SECTOR_FLOATS == 0 && n->G % m == 0 && m * wide <= BLOCK ? m : 1;
}

/* How an image is dealt out: bundles of `groups` groups of `wide` channels, slices of SLICE positions. */
struct layout {
    int groups, wide, bundles, slices;
};

static inline layout layout_of(const ts_group_norm *n)
{
    const int groups = groups_together(n);
    return layout{ groups, (int)(n->C / n->G), (int)(n->G / groups), (int)slices_of(n) };
}

/* Blocks that have all positions of their groups, and those that have a slice. */
static inline unsigned bundles_of(const ts_group_norm *n)
{
    return (unsigned)(n->B * (n->G / groups_together(n)));
}

static inline unsigned blocks_of(const ts_group_norm *n)
{
    return bundles_of(n) * (unsigned)slices_of(n);
}

/* What a block has before it: `groups` groups of `wide` channels, from channel c0 on, and positions p0..p1-1 of image
 * b; x and y from `at` on are that image. */
struct part_of_image {
    int64_t at;
    int b, slice, slices, p0, p1, c0, groups, wide;
};

/* Slice `slice` of bundle i of all images' groups; nothing of it where there are fewer slices. */
static __device__ inline part_of_image part_of(const ts_group_norm &n, const layout &l, int i, int slice)
{
    part_of_image w;
    w.slices = l.slices;
    w.slice = slice;
    w.b = i / l.bundles;
    w.at = w.b * n.P * n.C;
    w.p0 = w.slice * SLICE;
    w.p1 = (int)n.P - w.p0 < SLICE ? (int)n.P : w.p0 + SLICE;
    w.groups = l.groups;
    w.wide = l.wide;
    w.c0 = i % l.bundles * l.groups * l.wide;
    return w;
}

static __device__ inline part_of_image my_part(const ts_group_norm &n, const layout &l)
{
    return part_of(n, l, (int)blockIdx.x / l.slices, (int)blockIdx.x % l.slices);
}

static __device__ inline int my_team()
{
    return (int)threadIdx.x / BLOCK;
}

static __device__ inline int in_team()
{
    return (int)threadIdx.x % BLOCK;
}

/* How the threads of a team cover `width` channels, of which they take BLOCK at a time: thread i takes channel
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
    v.channel = w.c0 + strip + in_team() % v.width;
    v.row = in_team() / v.width;
    return v;
}

/* for (strip over the channels of a block) */
#define EACH_STRIP(strip, w) for (int strip = 0; strip < (w).groups * (w).wide; strip += BLOCK)
/* for (p over the thread's positions, `together` of them at a time, v.rows apart) */
#define EACH_ROW(p, v, w, together)                                                                                    \
    for (int p = (w).p0 + (v).row; (v).row < (v).rows && p < (w).p1; p += (together) * (v).rows)

/* What stays in shared memory: one number of each channel of the block, of `held` positions from `first` on. */
struct slab {
    float *at;
    int first, held;
    __device__ bool has(int p) const
    {
        return p - first < held;
    }
    __device__ float &operator()(int p, int channel, const part_of_image &w) const
    {
        return at[(p - first) * w.groups * w.wide + channel - w.c0];
    }
};

/* ---- shared memory ---- */

/* How the slices of a bundle are dealt out to blocks: `shares` of them have `per` slices each (the last ones fewer, or
 * none), and keep `held` positions of them. With several shares all blocks are there at one time, and take the bundles
 * in rounds, so many together; `end` is a whole number of rounds. */
struct deal {
    int shares, per, held, bundles, together, end, teams;
    size_t bytes; /* of shared memory */
    unsigned grid;
};

/* Shared memory holds `numbers` numbers of a channel beside `room` bytes. One block takes a whole bundle where at least
 * `eighths` of it stay there; otherwise as many blocks as keep all of it, or all that the device has. */
static inline ts_status deal_out(deal *d, const ts_stream *s, const ts_group_norm *n, const void *kernel, size_t room,
                                 int numbers, int eighths)
{
    enum { STATIC = 128 };
    const int64_t slices = slices_of(n), bundles = bundles_of(n);
    const int64_t position = groups_together(n) * (n->C / n->G) * numbers * (int64_t)sizeof(float);
    const int64_t fits = ((int64_t)s->most_shared - STATIC - (int64_t)room) / position;
    d->shares = 1;
    d->bundles = d->together = d->end = (int)bundles;
    if (8 * fits < eighths * n->P) {
        int64_t blocks;
        const size_t most = room + (size_t)(fits * position);
        TS_TRY(ts_allow_shared(kernel, most, "group_norm"));
        TS_TRY(ts_resident(&blocks, s, kernel, MOST_TEAMS * BLOCK, most, "group_norm"));
        const int64_t least = fits < SLICE ? slices : (slices + fits / SLICE - 1) / (fits / SLICE);
        const int rounds = (int)(least > blocks ? bundles : (bundles + blocks / least - 1) / (blocks / least));
        d->together = (d->bundles + rounds - 1) / rounds;
        d->end = rounds * d->together;
        d->shares = (int)(blocks / d->together < slices ? blocks / d->together : slices);
    }
    d->per = (int)((slices + d->shares - 1) / d->shares);
    d->held = (int)((int64_t)d->per * SLICE < n->P ? (int64_t)d->per * SLICE : n->P);
    if (d->held > fits) d->held = (int)fits;
    d->bytes = room + (size_t)(d->held * position);
    d->teams = d->per < MOST_TEAMS ? d->per : (int)MOST_TEAMS;
    d->grid = (unsigned)d->together * (unsigned)d->shares;
    return ts_allow_shared(kernel, d->bytes, "group_norm");
}

/* for (bundle that a block has in each round; from d.bundles on it has none, and waits with the others) */
#define EACH_ROUND(bundle, d) for (int bundle = (int)blockIdx.x / (d).shares; bundle < (d).end; bundle += (d).together)

/* Slices first..end-1 of bundle i are the block's. */
struct share {
    int first, end;
};

static __device__ inline share my_share(const layout &l, const deal &d, int i)
{
    const int slices = i < d.bundles ? l.slices : 0, first = (int)blockIdx.x % d.shares * d.per;
    return share{ first, first + d.per < slices ? first + d.per : slices };
}

/* The team's slice, of those that the teams take from `first` on. */
static __device__ inline part_of_image team_part(const ts_group_norm &n, const layout &l, int i, int first,
                                                 const share &mine)
{
    const int slice = first + my_team();
    return part_of(n, l, i, slice < mine.end ? slice : l.slices);
}

/* All blocks that share a bundle have come as far as this, and what they wrote can be read. */
static __device__ inline void meet(const deal &d)
{
    if (d.shares == 1)
        __syncthreads();
    else
        cooperative_groups::this_grid().sync();
}

#endif
