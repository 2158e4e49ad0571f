/* sample.cu - drawing tokens on CUDA. Contract: tessera/op_sample.h. Twin: kernels/cpu/sample.c.
 *
 * Nothing is sorted: the cuts of top-k and top-p are found bit by bit in the order-preserving integer keys of the
 * logits. A block draws one token at a time; the digit head's blocks are one warp, because its sums are those of 32
 * lanes. What a pass needs beside the logits (keys, masses) is formed again in each pass. */
#include "tessera/op_sample.h"

#include "kernels/cuda/launch.cuh"
#include "tessera/philox.h"

enum { SAMPLE_BLOCKS = 264, SHARED_V = 10 << 10, SMOOTH_WARPS = 8 };

/* What names a draw beside its class. */
struct token_place {
    uint32_t stage, token;
    uint64_t image;
};

struct choice {
    float value;
    int32_t v;
};

/* Room for reductions over a block. */
struct reducer {
    unsigned long long sum[WARP];
    choice best[WARP];
};

#define EACH_CLASS(v, n) for (int v = (int)threadIdx.x; v < (n); v += (int)blockDim.x)

/* l = guidance and temperature of one row of logits; uncond is NULL without guidance. */
static __device__ inline void mix(float *l, const float *cond, const float *uncond, const ts_sample &a, int V)
{
    const float more = 1 + a.guide;
    EACH_CLASS(v, V)
    {
        const float both = uncond ? more * cond[v] - a.guide * uncond[v] : cond[v];
        l[v] = uncond && cond[v] == -INFINITY ? -INFINITY : both / a.temperature;
    }
}

/* An integer in the order of the floats; -0 and 0 get the same. */
static __device__ inline uint32_t key_of(float l)
{
    const uint32_t u = ts_bits_of(l + 0.0f);
    return u >> 31 ? ~u : u | 0x80000000u;
}

static __device__ inline unsigned long long mass_of(float l, float max)
{
    return (unsigned long long)(long long)(ts_expf(l - max) * 0x1p40f);
}

/* The larger value, the lower class of equals. NaN wins over everything. */
static __device__ inline choice better(choice a, choice b)
{
    if (a.value != a.value) return a;
    return b.value != b.value || b.value > a.value || (b.value == a.value && b.v < a.v) ? b : a;
}

static __device__ inline choice block_best(choice c, reducer *room)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        choice other;
        other.value = __shfl_xor_sync(ALL_LANES, c.value, lanes);
        other.v = __shfl_xor_sync(ALL_LANES, c.v, lanes);
        c = better(c, other);
    }
    if (threadIdx.x % WARP == 0) room->best[threadIdx.x / WARP] = c;
    __syncthreads();
    c = room->best[0];
    for (unsigned w = 1; w < blockDim.x / WARP; w++) c = better(c, room->best[w]);
    __syncthreads();
    return c;
}

/* The k-th largest key: the largest key that k keys reach. */
static __device__ inline uint32_t kth_largest(const float *l, int n, int k, reducer *room)
{
    uint32_t cut = 0;
    for (int bit = 31; bit >= 0; bit--) {
        const uint32_t c = cut | 1u << bit;
        unsigned long long count = 0;
        EACH_CLASS(v, n) count += key_of(l[v]) >= c;
        if (block_sum(count, room->sum) >= (unsigned long long)k) cut = c;
    }
    return cut;
}

/* What is left in the draw: keys above `key`, and of those equal to it the classes from `first` on. */
struct cut {
    uint32_t key;
    int first;
};

/* Of keys from `least` on, in ascending order, those are dropped whose running sum of mass stays within the budget. */
static __device__ inline cut keep_top_p(const float *l, int n, uint32_t least, float max, float top_p, reducer *room)
{
    unsigned long long Z = 0, below = 0, equals = 0;
    EACH_CLASS(v, n) Z += key_of(l[v]) >= least ? mass_of(l[v], max) : 0;
    Z = block_sum(Z, room->sum);
    unsigned long long budget = (unsigned long long)((1 - (double)top_p) * (double)Z);
    if (budget > Z - 1) budget = Z - 1;
    cut at = { 0, 0 };
    for (int bit = 31; bit >= 0; bit--) {
        const uint32_t c = at.key | 1u << bit;
        unsigned long long sum = 0;
        EACH_CLASS(v, n) sum += key_of(l[v]) >= least && key_of(l[v]) < c ? mass_of(l[v], max) : 0;
        sum = block_sum(sum, room->sum);
        if (sum <= budget) {
            at.key = c;
            below = sum;
        }
    }
    /* Equals have equal masses: the first `dropped` of them go, and `first` is the class of the one after these. */
    unsigned long long mass = 0;
    EACH_CLASS(v, n) if (key_of(l[v]) == at.key) mass = mass_of(l[v], max), equals++;
    equals = block_sum(equals, room->sum);
    if (equals < 2) return at;
    unsigned long long most = 0;
    for (int bit = 40; bit >= 0; bit--) { /* the mass, known to some threads alone: the maximum, bit by bit */
        const unsigned long long c = most | 1ull << bit;
        if (block_sum((unsigned long long)(mass >= c), room->sum)) most = c;
    }
    const unsigned long long dropped = (budget - below) / most;
    for (int bit = 17; bit >= 0; bit--) { /* the largest class with no more than `dropped` equals before it */
        const int c = at.first | 1 << bit;
        unsigned long long before = 0;
        EACH_CLASS(v, n) before += v < c && key_of(l[v]) == at.key;
        if (block_sum(before, room->sum) <= dropped) at.first = c;
    }
    return at;
}

/* The draw of class v alone. */
static __device__ inline float unit_of(int v, uint64_t seed, token_place at)
{
    const ts_philox x = ts_philox_block(seed, at.stage * 65536u + ((uint32_t)v >> 2), at.token, (uint32_t)at.image,
                                        (uint32_t)(at.image >> 32));
    const uint32_t even = v & 1 ? x.word[1] : x.word[0], odd = v & 1 ? x.word[3] : x.word[2];
    return ts_philox_unit(v & 2 ? odd : even);
}

/* One class from the n logits in l. -1 if they allow no draw. All threads get it; a barrier is behind l. */
static __device__ inline int32_t draw(const float *l, int n, const ts_sample &a, token_place where, reducer *room)
{
    choice best = { -INFINITY, 0 };
    EACH_CLASS(v, n) best = better(best, choice{ l[v], v });
    best = block_best(best, room);
    const float max = best.value;
    if (!isfinite(max)) return -1;
    if (a.top_k == 1) return best.v;
    cut at = { 0, 0 };
    if (a.top_k > 0 && a.top_k < n) at.key = kth_largest(l, n, a.top_k, room);
    if (a.top_p < 1) at = keep_top_p(l, n, at.key, max, a.top_p, room);
    best = choice{ -INFINITY, TS_SAMPLE_MAX_V };
    EACH_CLASS(v, n)
    {
        const uint32_t key = key_of(l[v]);
        if (key < at.key || (key == at.key && v < at.first)) continue;
        best = better(best, choice{ l[v] - ts_logf(-ts_logf(unit_of(v, a.seed, where))), v });
    }
    return block_best(best, room).v;
}

/* Seed and number of the first picture from where they are. */
static __device__ inline void follow(ts_sample *a)
{
    if (!a->source) return;
    a->seed = a->source[0];
    a->image0 = a->source[1];
}

/* Token n of this call. */
static __device__ inline token_place place_of(const ts_sample &a, int64_t n)
{
    return token_place{ 0, (uint32_t)(a.token0 + n % a.t), a.image0 + (uint64_t)(n / a.t) };
}

/* The first draw that failed is kept for stream_sync, in an order that does not depend on the order of blocks. */
static __device__ inline void note_bad(token_place at, unsigned long long *bad_draw)
{
    atomicMin(bad_draw, (unsigned long long)(at.image << 32 | at.token));
}

/* Thread 0 leaves the result. */
static __device__ inline void finish(int32_t *idx, int32_t v, token_place at, unsigned long long *bad_draw)
{
    if (threadIdx.x != 0) return;
    *idx = v < 0 ? 0 : v;
    if (v < 0) note_bad(at, bad_draw);
}

static __global__ void sample_k1(int32_t *idx, const float *logits, ts_sample a, float *spill,
                                 unsigned long long *bad_draw)
{
    TS_SHARED(shared);
    __shared__ reducer room;
    const int V = (int)a.V;
    float *l = spill ? spill + (int64_t)blockIdx.x * V : (float *)shared;
    const int64_t rows = a.B * a.t;
    follow(&a);
    for (int64_t n = blockIdx.x; n < rows; n += gridDim.x) {
        const float *cond = logits + n * a.V;
        mix(l, cond, a.guided ? cond + rows * a.V : nullptr, a, V);
        __syncthreads();
        const int32_t v = draw(l, V, a, place_of(a, n), &room);
        finish(idx + n, v, place_of(a, n), bad_draw);
        __syncthreads();
    }
}

/* Rows of classes that do not fit into the shared memory that every block has lie in scratch. */
size_t sample_scratch_cuda(ts_stream *s, const ts_sample *a)
{
    (void)s;
    return a->V > SHARED_V ? sizeof(float) * SAMPLE_BLOCKS * (size_t)a->V : 0;
}

static unsigned blocks_for(int64_t rows)
{
    return (unsigned)(rows < SAMPLE_BLOCKS ? rows : (int64_t)SAMPLE_BLOCKS);
}

/* Threads of a draw from V classes. A draw is a hundred short passes with a sum behind each: for few classes one warp,
 * which has no other to wait for, and more rows at a time. */
static int threads_for(int64_t V)
{
    return V <= (8 << 10) ? (int)WARP : (int)BLOCK;
}

ts_status sample_cuda(ts_stream *s, int32_t *idx, const float *logits, const ts_sample *a, void *scratch)
{
    TS_TRY(ts_sample_check(a));
    TS_TRY(ts_sample_check_classes(a));
    if (a->B * a->t == 0) return TS_OK;
    const bool spilled = a->V > SHARED_V;
    return TS_LAUNCH(sample_k1, blocks_for(a->B * a->t), threads_for(a->V), spilled ? 0 : sizeof(float) * (size_t)a->V,
                     s, idx, logits, *a, spilled ? (float *)scratch : nullptr, s->bad_draw);
}

/* l becomes e of the contract, 0 for the classes that are not in the draw. False if there is none. All threads get it;
 * a barrier is behind l. */
static __device__ inline bool weigh(float *l, int n, const ts_sample &a, const ts_smooth &m, token_place where,
                                    reducer *room)
{
    choice best = { -INFINITY, 0 };
    EACH_CLASS(v, n) best = better(best, choice{ l[v], v });
    best = block_best(best, room);
    if (!isfinite(best.value)) return false;
    if (a.top_k == 1) {
        EACH_CLASS(v, n) l[v] = v == best.v ? 1.0f : 0.0f;
        __syncthreads();
        return true;
    }
    cut at = { 0, 0 };
    if (a.top_k > 0 && a.top_k < n) at.key = kth_largest(l, n, a.top_k, room);
    if (a.top_p < 1) at = keep_top_p(l, n, at.key, best.value, a.top_p, room);
    best = choice{ -INFINITY, TS_SAMPLE_MAX_V };
    EACH_CLASS(v, n)
    {
        const uint32_t key = key_of(l[v]);
        if (key < at.key || (key == at.key && v < at.first))
            l[v] = -INFINITY;
        else
            l[v] = (m.sharpen * l[v] - ts_logf(-ts_logf(unit_of(v, a.seed, where)))) / m.tau;
        best = better(best, choice{ l[v], v });
    }
    const float max = block_best(best, room).value;
    if (!isfinite(max)) return false;
    EACH_CLASS(v, n) l[v] = ts_expf(l[v] - max);
    __syncthreads();
    return true;
}

/* code (D) = the mean of the codebook's rows, weighted by e: a warp for each partial sum, a lane for each channel. */
static __device__ inline void mean_row(float *code, const float *e, const float *codebook, int V, int64_t D,
                                       float (*part)[WARP], float *whole)
{
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float Z = 0;
    for (int v = warp; v < V; v += SMOOTH_WARPS)
        if (e[v] > 0) Z += e[v];
    if (lane == 0) whole[warp] = Z;
    for (int64_t d0 = 0; d0 < D; d0 += WARP) {
        const int64_t d = d0 + lane;
        float sum = 0;
        for (int v = warp; v < V; v += SMOOTH_WARPS)
            if (e[v] > 0 && d < D) sum = fmaf(e[v], codebook[v * D + d], sum);
        part[warp][lane] = sum;
        __syncthreads();
        if (warp == 0 && d < D) {
            sum = part[0][lane], Z = whole[0];
            for (int j = 1; j < SMOOTH_WARPS; j++) sum += part[j][lane], Z += whole[j];
            code[d] = sum / Z;
        }
        __syncthreads();
    }
}

static __global__ void sample_smooth_k1(float *code, const float *logits, const float *codebook, ts_sample a,
                                        ts_smooth m, float *spill, unsigned long long *bad_draw)
{
    TS_SHARED(shared);
    __shared__ reducer room;
    __shared__ float part[SMOOTH_WARPS][WARP], whole[SMOOTH_WARPS];
    const int V = (int)a.V;
    float *l = spill ? spill + (int64_t)blockIdx.x * V : (float *)shared;
    const int64_t rows = a.B * a.t;
    follow(&a);
    for (int64_t n = blockIdx.x; n < rows; n += gridDim.x) {
        const float *cond = logits + n * a.V;
        mix(l, cond, a.guided ? cond + rows * a.V : nullptr, a, V);
        __syncthreads();
        if (weigh(l, V, a, m, place_of(a, n), &room)) {
            mean_row(code + n * m.D, l, codebook, V, m.D, part, whole);
            continue;
        }
        for (int64_t d = threadIdx.x; d < m.D; d += blockDim.x) code[n * m.D + d] = 0;
        if (threadIdx.x == 0) note_bad(place_of(a, n), bad_draw);
        __syncthreads();
    }
}

ts_status sample_smooth_cuda(ts_stream *s, float *code, const float *logits, const float *codebook, const ts_sample *a,
                             const ts_smooth *m, void *scratch)
{
    TS_TRY(ts_sample_check(a));
    TS_TRY(ts_sample_check_classes(a));
    TS_TRY(ts_smooth_check(m));
    if (a->B * a->t == 0) return TS_OK;
    const bool spilled = a->V > SHARED_V;
    return TS_LAUNCH(sample_smooth_k1, blocks_for(a->B * a->t), SMOOTH_WARPS * WARP,
                     spilled ? 0 : sizeof(float) * (size_t)a->V, s, code, logits, codebook, *a, *m,
                     spilled ? (float *)scratch : nullptr, s->bad_draw);
}

/* The logits of digit i after digit[0..i-1], by one warp, summed in the contract's 32 lanes. g: (M) of shared memory,
 * where each lane finds what it left itself. */
static __device__ inline void digit_logits(float *z, float *g, const float *u, const int *digit, int i, int k,
                                           const ts_digit_params &p, const ts_digit_head &d)
{
    const int lane = threadIdx.x;
    for (int m = lane; m < d.M; m += WARP) {
        float a = u[m];
        for (int j = 0; j < i; j++) a += p.E[(int64_t)(d.off[j] + digit[j]) * d.M + m];
        a += p.b[i * d.M + m];
        g[m] = a < 0 ? 0 : a;
    }
    for (int l = 0; l < d.level[i]; l++) {
        const float *w = p.W + (int64_t)(d.off[i] + l) * d.M;
        float sum = 0;
        for (int m = lane; m < d.M; m += WARP) sum = fmaf(w[m], g[m], sum);
        for (int half = WARP / 2; half > 0; half /= 2) sum += __shfl_down_sync(ALL_LANES, sum, half);
        if (lane == 0) z[l] = sum + p.c[(int64_t)k * d.sum_L + d.off[i] + l];
    }
}

static __global__ void sample_digits_k1(int32_t *idx, const float *u, ts_digit_params p, ts_digit_head d, int k,
                                        ts_sample a, unsigned long long *bad_draw)
{
    TS_SHARED(shared);
    __shared__ reducer room;
    __shared__ float z[2][TS_MAX_SUM_L], l[TS_MAX_SUM_L];
    __shared__ int digit[TS_MAX_D];
    float *g = (float *)shared;
    const int64_t rows = a.B * a.t;
    follow(&a);
    for (int64_t n = blockIdx.x; n < rows; n += gridDim.x) {
        const float *cond = u + n * d.M;
        token_place at = place_of(a, n);
        int32_t code = 0;
        for (int i = 0; i < d.D && code >= 0; i++) {
            digit_logits(z[0], g, cond, digit, i, k, p, d);
            if (a.guided) digit_logits(z[1], g, cond + rows * d.M, digit, i, k, p, d);
            __syncthreads();
            mix(l, z[0], a.guided ? z[1] : nullptr, a, d.level[i]);
            __syncthreads();
            at.stage = 1 + (uint32_t)i;
            const int drawn = draw(l, d.level[i], a, at, &room);
            if (threadIdx.x == 0) digit[i] = drawn;
            code = drawn < 0 ? -1 : code + drawn * d.basis[i];
            __syncthreads();
        }
        finish(idx + n, code, at, bad_draw);
    }
}

ts_status sample_digits_cuda(ts_stream *s, int32_t *idx, const float *u, const ts_digit_params *param,
                             const ts_digit_head *d, int k, const ts_sample *a, void *scratch)
{
    (void)scratch;
    TS_TRY(ts_sample_check(a));
    if (k < 0 || k >= d->K) return ts_fail(TS_E_ARG, "sample: scale %d, expected 0..%d", k, d->K - 1);
    if (a->B * a->t == 0) return TS_OK;
    enum { MOST = 8 << 10 }; /* hidden channels that fit into the shared memory that every block has */
    if (d->M > MOST) return ts_fail(TS_E_ARG, "sample: %d hidden channels, at most %d", d->M, (int)MOST);
    return TS_LAUNCH(sample_digits_k1, (unsigned)(a->B * a->t), WARP, sizeof(float) * (size_t)d->M, s, idx, u, *param,
                     *d, k, *a, s->bad_draw);
}
