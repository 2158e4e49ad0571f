/* group_norm.cuh - how the kernels of group_norm.cu and group_norm_bwd.cu deal out positions and channels. */
#ifndef TS_CUDA_GROUP_NORM_CUH
#define TS_CUDA_GROUP_NORM_CUH

#include "kernels/cuda/launch.cuh"
#include "tessera/exact.h"
#include "tessera/op_group_norm.h"

enum { SLICE = 256, MOST_GROUPS = BLOCK / WARP, SECTOR_FLOATS = 8 };
enum { MOST_TEAMS = 4 }; /* BLOCK threads each, which take slices by turns, of a block that keeps a slab */
enum { AHEAD = 4 };      /* values that a thread asks for before it waits for the first */

static __host__ __device__ inline int64_t slices_of(const ts_group_norm *n)
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
    int64_t b, slice, slices, at, p0, p1;
    int c0, groups, wide;
};

/* Slice `slice` of bundle i of all images' groups; nothing of it where there are fewer slices. */
static __device__ inline part_of_image part_of(const ts_group_norm &n, int groups, int64_t i, int64_t slice)
{
    const int64_t bundles = n.G / groups;
    part_of_image w;
    w.slices = slices_of(&n);
    w.slice = slice;
    w.b = i / bundles;
    w.at = w.b * n.P * n.C;
    w.p0 = w.slice * SLICE;
    w.p1 = n.P - w.p0 < SLICE ? n.P : w.p0 + SLICE;
    w.groups = groups;
    w.wide = (int)(n.C / n.G);
    w.c0 = (int)(i % bundles) * groups * w.wide;
    return w;
}

static __device__ inline part_of_image my_part(const ts_group_norm &n, int groups)
{
    const int64_t slices = slices_of(&n);
    return part_of(n, groups, blockIdx.x / slices, blockIdx.x % slices);
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
    for (int64_t p = (w).p0 + (v).row; (v).row < (v).rows && p < (w).p1; p += (together) * (v).rows)

/* What stays in shared memory: one number of each channel of the block, of the first `held` positions. */
struct slab {
    float *at;
    int64_t held;
    __device__ float &operator()(int64_t p, int channel, const part_of_image &w) const
    {
        return at[(int)p * w.groups * w.wide + channel - w.c0];
    }
};

/* ---- shared memory ---- */

static inline ts_status allow_shared(const void *kernel, size_t bytes)
{
    return ts_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), "group_norm");
}

static inline int teams_of(const ts_group_norm *n)
{
    return slices_of(n) < MOST_TEAMS ? (int)slices_of(n) : (int)MOST_TEAMS;
}

/* Positions that fit into shared memory, `number` numbers of a channel each, beside `room` bytes; 0 if they are less
 * than `eighths` of all. *bytes: of shared memory. */
static inline int64_t held_of(const ts_stream *s, const ts_group_norm *n, int64_t room, int numbers, int eighths,
                              size_t *bytes)
{
    enum { STATIC = 128 };
    const int64_t position = groups_together(n) * (n->C / n->G) * numbers * (int64_t)sizeof(float);
    int64_t held = ((int64_t)s->most_shared - STATIC - room) / position;
    if (held > n->P) held = n->P;
    if (held <= 0 || 8 * held < eighths * n->P) return 0;
    *bytes = (size_t)(room + held * position);
    return held;
}

#endif
