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
enum { KEPT_TEAMS = 2 }; /* of a block that keeps numbers in registers, too: each thread may have 128 of them */
enum { KEPT_FWD = 44, KEPT_BWD = 20 }; /* positions that a thread keeps there, whole AHEADs: one number, backward two */

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
/* for (p over the thread's positions behind its first `behind`, `together` of them at a time, v.rows apart) */
#define EACH_ROW(p, v, w, behind, together)                                                                            \
    for (int p = (w).p0 + (v).row + (behind) * (v).rows; p < end_of_rows(v, w); p += (together) * (v).rows)

/* The end of the thread's positions. */
static __device__ inline int end_of_rows(const cover &v, const part_of_image &w)
{
    return v.row < v.rows ? w.p1 : w.p0;
}

/* What stays in shared memory: one number of each channel of the block, of `held` positions from `first` on. */
struct slab {
    float *at;
    int first, held;
    __device__ bool has(int p) const
    {
        return p >= first && p - first < held;
    }
    __device__ float &operator()(int p, int channel, const part_of_image &w) const
    {
        return at[(p - first) * w.groups * w.wide + channel - w.c0];
    }
};

/* ---- shared memory ---- */

/* How the slices of a bundle are dealt out to blocks: `shares` of them have `each` slices, the first `more` of them
 * another one, and keep `held` positions of them, those behind the first `ahead` slices, one for each team, of which registers
 * keep what they can. With several shares all blocks are there at one time, and take the bundles in rounds, so many
 * together; `end` is a whole number of rounds. */
struct deal {
    int shares, each, more, held, ahead, bundles, together, end, teams;
    size_t bytes; /* of shared memory */
    unsigned grid;
};

/* What forward and backward keep: `numbers` numbers of a channel beside `room` bytes of a team in shared memory, so that
 * one block takes a whole bundle where at least `eighths` of it stay there; kept: the kernel that has registers for
 * `positions` positions of each thread. */
struct keeping {
    const void *slab, *kept;
    size_t room;
    int numbers, eighths, positions;
};

static inline int64_t bytes_of_position(const ts_group_norm *n, const keeping &k)
{
    return groups_together(n) * (n->C / n->G) * k.numbers * (int64_t)sizeof(float);
}

/* Positions that fit into the shared memory of a block of so many teams. */
static inline int64_t fitting(const ts_stream *s, const ts_group_norm *n, const keeping &k, int teams)
{
    enum { STATIC = 128 };
    return ((int64_t)s->most_shared - STATIC - teams * (int64_t)k.room) / bytes_of_position(n, k);
}

/* Positions of a slice that registers keep; channels that are taken strip by strip have none. */
static inline int64_t in_registers(const ts_group_norm *n, const keeping &k)
{
    const int64_t width = groups_together(n) * (n->C / n->G), positions = width <= BLOCK ? BLOCK / width * k.positions : 0;
    return positions < SLICE ? positions : (int64_t)SLICE;
}

/* As many blocks as keep all of a bundle, or all that the device has. */
static inline ts_status share_out(deal *d, const ts_stream *s, const ts_group_norm *n, const keeping &k, const void *kernel, int teams)
{
    const int64_t slices = slices_of(n), bundles = bundles_of(n), fits = fitting(s, n, k, teams);
    const int64_t keeps = fits + (kernel == k.kept ? teams * in_registers(n, k) : 0);
    const size_t most = teams * k.room + (size_t)(fits * bytes_of_position(n, k));
    int64_t blocks;
    TS_TRY(ts_allow_shared(kernel, most, "group_norm"));
    TS_TRY(ts_resident(&blocks, s, kernel, teams * BLOCK, most, "group_norm"));
    const int64_t least = keeps < SLICE ? slices : (slices + keeps / SLICE - 1) / (keeps / SLICE);
    const int rounds = (int)(least > blocks ? bundles : (bundles + blocks / least - 1) / (blocks / least));
    d->together = (d->bundles + rounds - 1) / rounds;
    d->end = rounds * d->together;
    d->shares = (int)(blocks / d->together < slices ? blocks / d->together : slices);
    return TS_OK;
}

/* What a block of at most so many teams has of its share. */
static inline void fill_block(deal *d, const ts_stream *s, const ts_group_norm *n, const keeping &k, int teams, bool kept)
{
    const int64_t fits = fitting(s, n, k, teams);
    d->each = (int)(slices_of(n) / d->shares);
    d->more = (int)(slices_of(n) % d->shares);
    const int most = d->each + (d->more > 0);
    d->teams = most < teams ? most : teams;
    d->ahead = kept ? d->teams : 0;
    const int64_t positions = (int64_t)(most - d->ahead) * SLICE, held = positions < n->P ? positions : n->P;
    d->held = (int)(held < fits ? held : fits);
    d->bytes = teams * k.room + (size_t)(d->held * bytes_of_position(n, k));
    d->grid = (unsigned)d->together * (unsigned)d->shares;
}

/* Positions that all blocks of a bundle keep. */
static inline int64_t kept_by(const deal &d, const ts_group_norm *n, const keeping &k)
{
    return d.shares * (d.held + d.ahead * in_registers(n, k));
}

/* One block for a bundle; where it keeps too little, several; where they keep too little, several with registers. */
static inline ts_status deal_out(deal *d, const ts_stream *s, const ts_group_norm *n, const keeping &k)
{
    d->shares = 1;
    d->bundles = d->together = d->end = (int)bundles_of(n);
    if (8 * fitting(s, n, k, MOST_TEAMS) < k.eighths * n->P) TS_TRY(share_out(d, s, n, k, k.slab, MOST_TEAMS));
    fill_block(d, s, n, k, MOST_TEAMS, false);
    if (8 * kept_by(*d, n, k) < k.eighths * n->P) {
        deal other = *d;
        TS_TRY(share_out(&other, s, n, k, k.kept, KEPT_TEAMS));
        fill_block(&other, s, n, k, KEPT_TEAMS, true);
        if (kept_by(other, n, k) > kept_by(*d, n, k)) *d = other;
    }
    return ts_allow_shared(d->ahead ? k.kept : k.slab, d->bytes, "group_norm");
}

/* for (bundle that a block has in each round; from d.bundles on it has none, and waits with the others) */
#define EACH_ROUND(bundle, d) for (int bundle = (int)blockIdx.x / (d).shares; bundle < (d).end; bundle += (d).together)

/* Slices first..end-1 of bundle i are the block's. */
struct share {
    int first, end;
};

static __device__ inline share my_share(const deal &d, int i)
{
    const int k = (int)blockIdx.x % d.shares, first = k * d.each + (k < d.more ? k : d.more);
    return i < d.bundles ? share{ first, first + d.each + (k < d.more) } : share{ 0, 0 };
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
