/* attention.cu - attention on CUDA. Contract: tessera/op_attention.h. Twin: kernels/cpu/attention.c.
 *
 * Tiles of TILE queries by TILE keys in shared memory. Forward keeps a running maximum and sum for each query (online
 * softmax); backward recomputes the probabilities from lse, once by tiles of queries for dq and once by tiles of keys
 * for dk and dv. Every number has one owner and sums run in ascending order, so nothing depends on the launch. Heads
 * too wide for shared memory are read where they lie, and sums are kept where the results go. With TS_MATH_BF16
 * attention_mma.cu and attention_mma_bwd.cu do the work where heads fit there.
 *
 * In bfloat16 (ts_attention.dtype) the masked form, too, has a cache, in scratch: what is read again and again is half as much
 * there, and both forms see the same numbers. Where heads are too wide for tensor cores, it is widened, beside a float32 result. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/bf16.cuh"
#include "kernels/cuda/product.h"
#include "tessera/exact.h"

enum { WARPS = 4, ROWS = TILE / WARPS }; /* a warp owns ROWS rows of a tile, a lane a column */

static const float LARGEST_SCALE_MUL = 4.60517019f; /* log 100 */

/* A warp is one query: its factor, and that of the key beside it unless k_factor is NULL. */
static __global__ void factors_k1(float *q_factor, float *k_factor, const float *qkv, const float *scale_mul,
                                  float scale, int64_t rows, int64_t T, int64_t H, int c)
{
    const int lane = threadIdx.x % WARP;
    const int64_t n = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (n >= rows) return;
    const int64_t t = n % T, h = n / T % H, b = n / T / H;
    const float *q = qkv + ((b * T + t) * 3 * H + h) * c;
    float factor = scale, inverse = 1;
    if (scale_mul) {
        const float mul = scale_mul[h];
        factor = ts_expf(mul > LARGEST_SCALE_MUL ? LARGEST_SCALE_MUL : mul) * scale * inverse_norm(q, c, lane);
        if (k_factor) inverse = inverse_norm(q + H * c, c, lane);
    }
    if (lane != 0) return;
    q_factor[n] = factor;
    if (k_factor) k_factor[n] = inverse;
}

/* TILE rows of c numbers, in shared memory or, for wide heads, where they lie. */
struct tile {
    float *p;
    int64_t stride;
    __device__ float *row(int i) const
    {
        return p + i * stride;
    }
};

/* A tile of shared memory has a stride of c + 1: lanes that walk down a column then meet no bank conflict. */
static __host__ __device__ inline int tile_floats(int c)
{
    return TILE * (c + 1);
}

/* Rows t0.. of `from`, n in all. shared NULL: they stay where they are. */
static __device__ inline tile load_tile(float *shared, const float *from, int64_t token, int64_t t0, int64_t n, int c)
{
    if (!shared) return tile{ (float *)from + t0 * token, token };
    for (int i = (int)threadIdx.x; i < TILE * c; i += (int)blockDim.x) {
        const int row = i / c, at = i % c;
        if (t0 + row < n) shared[row * (c + 1) + at] = from[(t0 + row) * token + at];
    }
    return tile{ shared, c + 1 };
}

/* A tile of sums, all 0: in shared memory, or at `to`, where the results go. */
static __device__ inline tile zero_tile(float *shared, float *to, int64_t token, int64_t t0, int64_t n, int c)
{
    const tile a = shared ? tile{ shared, c + 1 } : tile{ to + t0 * token, token };
    for (int i = (int)threadIdx.x; i < TILE * c; i += (int)blockDim.x)
        if (t0 + i / c < n) a.row(i / c)[i % c] = 0;
    return a;
}

static __device__ inline float dot(const float *x, const float *y, int c)
{
    float sum = 0;
    for (int i = 0; i < c; i++) sum = fmaf(x[i], y[i], sum);
    return sum;
}

/* The score of query t and key u, with all factors. */
static __device__ inline float score(const job &j, int64_t head, int64_t t, int64_t u, const float *q, const float *k)
{
    const float s = dot(q, k, j.c) * j.q_factor[head * j.T + t];
    return j.k_factor ? s * j.k_factor[head * j.T + u] : s;
}

/* Bytes of a kernel with `tiles` tiles and `scores` squares of scores; without the tiles where they do not fit. */
static size_t shared_bytes(const ts_stream *s, int tiles, int scores, int c, int *staged)
{
    enum { STATIC = 1 << 10 };
    const size_t always = sizeof(float) * (size_t)(scores * TILE * (TILE + 1));
    const size_t all = always + sizeof(float) * (size_t)tiles * (size_t)tile_floats(c);
    *staged = all + STATIC <= s->most_shared;
    return *staged ? all : always;
}

/* The next tile of shared memory, or NULL. */
static __device__ inline float *take(float **shared, int staged, int c)
{
    float *p = *shared;
    if (!staged) return nullptr;
    *shared += tile_floats(c);
    return p;
}

static __global__ void attention_fwd_k1(job j, int staged)
{
    TS_SHARED(shared);
    const int c = j.c, lane = threadIdx.x % WARP, row0 = (int)threadIdx.x / WARP * ROWS;
    float *p = (float *)shared, *next = p + TILE * (TILE + 1);
    float *q_room = take(&next, staged, c), *k_room = take(&next, staged, c), *v_room = take(&next, staged, c);
    const int64_t t0 = (int64_t)blockIdx.x * TILE, h = blockIdx.y, b = blockIdx.z, head = b * j.H + h, C = j.H * c;
    const float *keys = j.k + b * j.kv_image + h * c, *values = j.v + b * j.kv_image + h * c;
    const int rows = rows_in(t0, j.T);
    const int64_t most = end_of(j, t0 + rows - 1); /* end never decreases */
    float max[ROWS], sum[ROWS];

    const tile q = load_tile(q_room, j.q + b * j.q_image + h * c, j.q_token, t0, j.T, c);
    const tile o = zero_tile(take(&next, staged, c), j.out + b * j.T * C + h * c, C, t0, j.T, c);
#pragma unroll
    for (int r = 0; r < ROWS; r++) max[r] = -INFINITY, sum[r] = 0;
    for (int64_t u0 = 0; u0 < most; u0 += TILE) {
        __syncthreads();
        const tile k = load_tile(k_room, keys, j.kv_token, u0, j.keys, c);
        const tile v = load_tile(v_room, values, j.kv_token, u0, j.keys, c);
        __syncthreads();
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int row = row0 + r;
            if (row >= rows) continue;
            const int n_seen = rows_in(u0, end_of(j, t0 + row)); /* what is not seen is not multiplied: it may be NaN */
            const bool seen = lane < n_seen;
            const float s = seen ? score(j, head, t0 + row, u0 + lane, q.row(row), k.row(lane)) : -INFINITY;
            const float most_now = warp_max(s), top = most_now > max[r] ? most_now : max[r];
            const float e = seen ? ts_expf(s - top) : 0.0f;
            const float keep = max[r] == -INFINITY ? 0.0f : ts_expf(max[r] - top);
            sum[r] = fmaf(sum[r], keep, warp_sum(e));
            max[r] = top;
            p[row * (TILE + 1) + lane] = e;
            __syncwarp();
            for (int i = lane; i < c; i += WARP) {
                float acc = 0;
                for (int u = 0; u < n_seen; u++) acc = fmaf(p[row * (TILE + 1) + u], v.row(u)[i], acc);
                o.row(row)[i] = fmaf(o.row(row)[i], keep, acc);
            }
            __syncwarp();
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const int64_t t = t0 + row0 + r;
        if (t >= j.T) continue;
        for (int i = lane; i < c; i += WARP) j.out[(b * j.T + t) * C + h * c + i] = o.row(row0 + r)[i] / sum[r];
        if (j.lse && lane == 0) j.lse[head * j.T + t] = max[r] + ts_logf(sum[r]);
    }
}

/* A grid has so many rows and layers. */
static ts_status check(const ts_attention *a)
{
    if (a->H <= 65535 && a->B <= 65535) return TS_OK;
    return ts_fail(TS_E_ARG, "attention: %lld images and %lld heads, at most 65535", (long long)a->B, (long long)a->H);
}

/* Whether the products of this call round their operands. */
static bool rounds(const ts_stream *s, const ts_attention *a)
{
    return a->math == TS_MATH_BF16 && attention_mma_fits(s, (int)a->c);
}

static ts_status forward(ts_stream *s, const job &j, const ts_attention *a)
{
    if (a->B == 0 || a->T == 0) return TS_OK;
    if (rounds(s, a)) return attention_mma_fwd(s, j, nullptr, a->B);
    int staged;
    const size_t bytes = shared_bytes(s, 4, 1, j.c, &staged);
    TS_TRY(ts_allow_shared((const void *)attention_fwd_k1, bytes, "attention"));
    return TS_LAUNCH(attention_fwd_k1, dim3((unsigned)((j.T + TILE - 1) / TILE), (unsigned)j.H, (unsigned)a->B),
                     WARPS * WARP, bytes, s, j, staged);
}

static ts_status factors(ts_stream *s, float *q_factor, float *k_factor, const float *qkv, const float *scale_mul,
                         const ts_attention *a)
{
    const int64_t rows = a->B * a->H * a->T;
    if (rows == 0) return TS_OK;
    return TS_LAUNCH(factors_k1, (unsigned)((rows * WARP + BLOCK - 1) / BLOCK), BLOCK, 0, s, q_factor, k_factor, qkv,
                     scale_mul, a->scale, rows, a->T, a->H, (int)a->c);
}

static int64_t tiles_of(const ts_attention *a, int tile)
{
    return (a->T + tile - 1) / tile;
}

/* What attention in bfloat16 has in scratch behind the factors of queries: keys and values of the masked form; and all of them, and
 * the results, in float32, if tensor cores do not take them. */
struct narrow_places {
    uint16_t *k, *v;
    float *wide_k, *wide_v, *wide_out;
    size_t bytes; /* with the factors */
};

static narrow_places narrow_scratch(const ts_stream *s, const ts_attention *a, void *scratch)
{
    const int64_t C = a->H * a->c, n = a->B * a->T * C, all = rounds(s, a) ? 0 : a->B * (a->pos + a->T) * C;
    const uintptr_t at = (uintptr_t)scratch; /* NULL if only the size is asked for */
    const uintptr_t k = at + ts_room(a->B * a->H * a->T, sizeof(float)), v = k + ts_room(n, sizeof(uint16_t));
    const uintptr_t wide_k = v + ts_room(n, sizeof(uint16_t)), wide_v = wide_k + ts_room(all, sizeof(float));
    const uintptr_t wide_out = wide_v + ts_room(all, sizeof(float));
    const uintptr_t end = wide_out + ts_room(all ? n : 0, sizeof(float));
    return narrow_places{ (uint16_t *)k, (uint16_t *)v, (float *)wide_k, (float *)wide_v, (float *)wide_out, end - at };
}

/* Scratch: factors of queries and keys; backward also delta and the parts of dscale_mul. */
size_t attention_scratch_cuda(ts_stream *s, const ts_attention *a, int backward)
{
    if (a->dtype == TS_BF16) return narrow_scratch(s, a, nullptr).bytes;
    const int64_t rows = a->B * a->H * a->T;
    return sizeof(float) * (size_t)(2 * rows + (backward ? rows + a->B * a->H * tiles_of(a, TILE) : 0));
}

static job masked(const float *qkv, const int32_t *end, const ts_attention *a, float *scratch)
{
    const int64_t C = a->H * a->c;
    job j = {};
    j.q = qkv;
    j.k = qkv + C;
    j.v = qkv + 2 * C;
    j.end = end;
    j.q_factor = scratch;
    j.k_factor = scratch + a->B * a->H * a->T;
    j.T = j.keys = a->T;
    j.H = a->H;
    j.q_image = j.kv_image = a->T * 3 * C;
    j.q_token = j.kv_token = 3 * C;
    j.c = (int)a->c;
    return j;
}

/* A warp copies one head's key and value of a new token behind those in the cache. */
template <class T>
static __global__ void append_k1(T *cache_k, T *cache_v, const float *qkv, int normalise, ts_attention a, int64_t rows)
{
    const int lane = threadIdx.x % WARP, c = (int)a.c;
    const int64_t n = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (n >= rows) return;
    const int64_t h = n % a.H, t = n / a.H % a.T, b = n / a.H / a.T;
    const float *k = qkv + ((b * a.T + t) * 3 + 1) * a.H * c + h * c, *v = k + a.H * c;
    const int64_t to = ((b * a.T_max + a.pos + t) * a.H + h) * c;
    const float inverse = normalise ? inverse_norm(k, c, lane) : 1.0f;
    for (int i = lane; i < c; i += WARP) {
        const float key = k[i] * inverse, value = v[i];
        put(cache_k + to + i, key);
        put(cache_v + to + i, value);
    }
}

/* Keys and values of T new tokens go behind those in the cache of T_max; the job is to read them there. */
static ts_status append(ts_stream *s, job *j, void *cache_k, void *cache_v, const float *qkv, int normalise, const ts_attention *a)
{
    const int64_t rows = a->B * a->T * a->H, C = a->H * a->c;
    j->k_factor = nullptr;
    j->keys = a->pos + a->T;
    j->kv_image = a->T_max * C;
    j->kv_token = C;
    const unsigned blocks = (unsigned)((rows * WARP + BLOCK - 1) / BLOCK);
    if (a->dtype == TS_BF16)
        return TS_LAUNCH(append_k1<uint16_t>, blocks, BLOCK, 0, s, (uint16_t *)cache_k, (uint16_t *)cache_v, qkv, normalise, *a, rows);
    j->k = (const float *)cache_k;
    j->v = (const float *)cache_v;
    return TS_LAUNCH(append_k1<float>, blocks, BLOCK, 0, s, (float *)cache_k, (float *)cache_v, qkv, normalise, *a, rows);
}

/* The job with keys and values of a cache in bfloat16, and results rounded. */
static ts_status forward_narrow(ts_stream *s, job j, const stored<uint16_t> &x, const narrow_places &m, const ts_attention *a)
{
    if (rounds(s, a)) return attention_mma_fwd(s, j, &x, a->B);
    const int64_t C = a->H * a->c, n = j.keys * C;
    TS_TRY(ts_widen(s, m.wide_k, x.k, a->B, n, j.kv_image));
    TS_TRY(ts_widen(s, m.wide_v, x.v, a->B, n, j.kv_image));
    j.k = m.wide_k;
    j.v = m.wide_v;
    j.kv_image = n;
    j.out = m.wide_out;
    TS_TRY(forward(s, j, a));
    return ts_narrow(s, x.out, m.wide_out, a->B * a->T * C);
}

ts_status attention_fwd_cuda(ts_stream *s, void *out, float *lse, const float *qkv, const float *scale_mul,
                             const int32_t *end, const ts_attention *a, void *scratch)
{
    float *q_factor = (float *)scratch, *k_factor = q_factor + a->B * a->H * a->T;
    TS_TRY(check(a));
    if (a->B * a->T * a->H == 0) return TS_OK;
    job j = masked(qkv, end, a, q_factor);
    j.lse = lse;
    if (a->dtype == TS_BF16) {
        const narrow_places m = narrow_scratch(s, a, scratch);
        ts_attention cached = *a;
        cached.pos = 0;
        cached.T_max = a->T;
        TS_TRY(factors(s, q_factor, nullptr, qkv, scale_mul, a));
        TS_TRY(append(s, &j, m.k, m.v, qkv, scale_mul != nullptr, &cached));
        return forward_narrow(s, j, { m.k, m.v, (uint16_t *)out }, m, &cached);
    }
    TS_TRY(factors(s, q_factor, k_factor, qkv, scale_mul, a));
    j.out = (float *)out;
    return forward(s, j, a);
}

ts_status attention_cached_cuda(ts_stream *s, void *out, void *keys, void *values, const float *qkv,
                                const float *scale_mul, const ts_attention *a, void *scratch)
{
    TS_TRY(check(a));
    if (a->pos < 0 || a->pos + a->T > a->T_max)
        return ts_fail(TS_E_INTERNAL, "attention: %lld new tokens behind %lld, the cache has room for %lld",
                       (long long)a->T, (long long)a->pos, (long long)a->T_max);
    if (a->B * a->T * a->H == 0) return TS_OK;
    job j = masked(qkv, nullptr, a, (float *)scratch);
    TS_TRY(factors(s, (float *)scratch, nullptr, qkv, scale_mul, a));
    TS_TRY(append(s, &j, keys, values, qkv, scale_mul != nullptr, a));
    if (a->dtype == TS_BF16) {
        const stored<uint16_t> x = { (const uint16_t *)keys, (const uint16_t *)values, (uint16_t *)out };
        return forward_narrow(s, j, x, narrow_scratch(s, a, scratch), a);
    }
    j.out = (float *)out;
    return forward(s, j, a);
}

/* ---- backward ---- */

/* delta (B,H,T) = dout.out, a warp each. rounded: dout as the products of attention_mma_bwd.cu see it, so that ds is
 * zero of a query that sees one key. */
static __global__ void delta_k1(float *delta, const float *dout, const float *out, int64_t rows, int64_t T, int64_t H,
                                int c, int rounded)
{
    const int lane = threadIdx.x % WARP;
    const int64_t n = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (n >= rows) return;
    const int64_t at = ((n / T / H * T + n % T) * H + n / T % H) * c;
    float sum = 0;
    for (int i = lane; i < c; i += WARP)
        sum = fmaf(rounded ? bf16_round(dout[at + i]) : dout[at + i], out[at + i], sum);
    sum = warp_sum(sum);
    if (lane == 0) delta[n] = sum;
}

/* Probability p and gradient ds = p (dout.v - delta) of the score of query t and key u. */
static __device__ inline void score_gradient(float *p, float *ds, const job &j, int64_t head, int64_t t, int64_t u,
                                             const float *q, const float *k, const float *g, const float *v)
{
    *p = *ds = 0;
    if (u >= end_of(j, t)) return;
    *p = ts_expf(score(j, head, t, u, q, k) - j.fwd_lse[head * j.T + t]);
    *ds = *p * (dot(g, v, j.c) - j.delta[head * j.T + t]);
}

/* dq of one tile of queries, and its part of sum_t (factor q).dq, the gradient of scale_mul. */
static __global__ void attention_dq_k1(job j, int normalised, int staged)
{
    TS_SHARED(shared);
    __shared__ float parts[WARPS];
    const int c = j.c, lane = threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, row0 = warp * ROWS;
    float *ds = (float *)shared, *next = ds + 2 * TILE * (TILE + 1);
    float *q_room = take(&next, staged, c), *g_room = take(&next, staged, c), *k_room = take(&next, staged, c);
    float *v_room = take(&next, staged, c), *dq_room = take(&next, staged, c);
    const int64_t t0 = (int64_t)blockIdx.x * TILE, h = blockIdx.y, b = blockIdx.z, head = b * j.H + h, C = j.H * c;
    const int rows = rows_in(t0, j.T);
    const int64_t most = end_of(j, t0 + rows - 1), at = b * j.q_image + h * c;

    const tile q = load_tile(q_room, j.q + at, j.q_token, t0, j.T, c);
    const tile g = load_tile(g_room, j.dout + b * j.T * C + h * c, C, t0, j.T, c);
    const tile dq = zero_tile(dq_room, j.dqkv + at, j.q_token, t0, j.T, c);
    for (int64_t u0 = 0; u0 < most; u0 += TILE) {
        __syncthreads();
        const tile k = load_tile(k_room, j.k + at, j.kv_token, u0, j.keys, c);
        const tile v = load_tile(v_room, j.v + at, j.kv_token, u0, j.keys, c);
        __syncthreads();
        for (int row = row0; row < row0 + ROWS && row < rows; row++) {
            const int n_seen = rows_in(u0, end_of(j, t0 + row));
            float p, *line = ds + row * (TILE + 1);
            score_gradient(&p, &line[lane], j, head, t0 + row, u0 + lane, q.row(row), k.row(lane), g.row(row),
                           v.row(lane));
            if (u0 + lane < j.keys) line[lane] *= j.k_factor[head * j.T + u0 + lane];
            __syncwarp();
            for (int i = lane; i < c; i += WARP) {
                float acc = dq.row(row)[i];
                for (int u = 0; u < n_seen; u++) acc = fmaf(line[u], k.row(u)[i], acc);
                dq.row(row)[i] = acc;
            }
            __syncwarp();
        }
    }
    __syncthreads();
    float mul = 0;
    for (int row = row0; row < row0 + ROWS && row < rows; row++) {
        const int64_t t = t0 + row;
        const float *x = j.q + at + t * j.q_token, *d = dq.row(row), factor = j.q_factor[head * j.T + t];
        const float inverse = normalised ? inverse_norm(x, c, lane) : 1.0f;
        for (int i = lane; i < c; i += WARP) mul = fmaf(factor * x[i], d[i], mul);
        through_norm(j.dqkv + at + t * j.q_token, x, d, factor, inverse, normalised, c, lane);
    }
    mul = warp_sum(mul);
    if (lane == 0) parts[warp] = mul;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < WARPS; w++) mul += parts[w];
    j.dmul[head * gridDim.x + blockIdx.x] = mul;
}

/* dk and dv of one tile of keys. */
static __global__ void attention_dkv_k1(job j, int normalised, int staged)
{
    TS_SHARED(shared);
    const int c = j.c, lane = threadIdx.x % WARP, row0 = (int)threadIdx.x / WARP * ROWS;
    float *p = (float *)shared, *ds = p + TILE * (TILE + 1), *next = ds + TILE * (TILE + 1);
    float *q_room = take(&next, staged, c), *g_room = take(&next, staged, c), *k_room = take(&next, staged, c);
    float *v_room = take(&next, staged, c), *dk_room = take(&next, staged, c), *dv_room = take(&next, staged, c);
    const int64_t u0 = (int64_t)blockIdx.x * TILE, h = blockIdx.y, b = blockIdx.z, head = b * j.H + h, C = j.H * c;
    const int64_t at = b * j.q_image + h * c;
    const int rows = rows_in(u0, j.keys);

    const tile k = load_tile(k_room, j.k + at, j.kv_token, u0, j.keys, c);
    const tile v = load_tile(v_room, j.v + at, j.kv_token, u0, j.keys, c);
    const tile dk = zero_tile(dk_room, j.dqkv + at + C, j.q_token, u0, j.keys, c);
    const tile dv = zero_tile(dv_room, j.dqkv + at + 2 * C, j.q_token, u0, j.keys, c);
    for (int64_t t0 = 0; t0 < j.T; t0 += TILE) {
        const int queries = rows_in(t0, j.T);
        if (end_of(j, t0 + queries - 1) <= u0) continue; /* nobody sees these keys */
        __syncthreads();
        const tile q = load_tile(q_room, j.q + at, j.q_token, t0, j.T, c);
        const tile g = load_tile(g_room, j.dout + b * j.T * C + h * c, C, t0, j.T, c);
        __syncthreads();
        for (int row = row0; row < row0 + ROWS && row < rows; row++) { /* a row is a key, a lane a query */
            float *chance = p + row * (TILE + 1), *slope = ds + row * (TILE + 1);
            score_gradient(&chance[lane], &slope[lane], j, head, t0 + lane, u0 + row, q.row(lane), k.row(row),
                           g.row(lane), v.row(row));
            if (t0 + lane < j.T) slope[lane] *= j.q_factor[head * j.T + t0 + lane];
            __syncwarp();
            const unsigned see = __ballot_sync(ALL_LANES, u0 + row < end_of(j, t0 + lane)); /* the last few queries */
            const int first = see ? __ffs((int)see) - 1 : queries;
            for (int i = lane; i < c; i += WARP) {
                float key = dk.row(row)[i], value = dv.row(row)[i];
                for (int t = first; t < queries; t++) {
                    key = fmaf(slope[t], q.row(t)[i], key);
                    value = fmaf(chance[t], g.row(t)[i], value);
                }
                dk.row(row)[i] = key;
                dv.row(row)[i] = value;
            }
            __syncwarp();
        }
    }
    __syncthreads();
    for (int row = row0; row < row0 + ROWS && row < rows; row++) {
        const int64_t u = u0 + row, to = at + u * j.q_token;
        const float inverse = j.k_factor[head * j.T + u];
        through_norm(j.dqkv + to + C, j.k + to, dk.row(row), inverse, inverse, normalised, c, lane);
        if (staged)
            for (int i = lane; i < c; i += WARP) j.dqkv[to + 2 * C + i] = dv.row(row)[i];
    }
}

static __global__ void scale_mul_k1(float *dscale_mul, const float *parts, const float *scale_mul, int64_t B, int64_t H,
                                    int64_t tiles)
{
    TS_EACH(h, H)
    {
        double sum = 0;
        for (int64_t b = 0; b < B; b++)
            for (int64_t i = 0; i < tiles; i++) sum += parts[(b * H + h) * tiles + i];
        if (scale_mul[h] <= LARGEST_SCALE_MUL) dscale_mul[h] += (float)sum;
    }
}

static ts_status backward(ts_stream *s, const job &j, const ts_attention *a, int normalised)
{
    int staged;
    const size_t bytes = shared_bytes(s, 6, 2, j.c, &staged);
    const dim3 grid((unsigned)tiles_of(a, TILE), (unsigned)a->H, (unsigned)a->B);
    TS_TRY(ts_allow_shared((const void *)attention_dq_k1, bytes, "attention"));
    TS_TRY(ts_allow_shared((const void *)attention_dkv_k1, bytes, "attention"));
    TS_TRY(TS_LAUNCH(attention_dq_k1, grid, WARPS * WARP, bytes, s, j, normalised, staged));
    return TS_LAUNCH(attention_dkv_k1, grid, WARPS * WARP, bytes, s, j, normalised, staged);
}

ts_status attention_bwd_cuda(ts_stream *s, float *dqkv, float *dscale_mul, const float *dout, const float *out,
                             const float *lse, const float *qkv, const float *scale_mul, const int32_t *end,
                             const ts_attention *a, void *scratch)
{
    const int64_t rows = a->B * a->H * a->T;
    const int rounded = rounds(s, a), normalised = scale_mul != nullptr;
    TS_TRY(check(a));
    if (rows == 0) return TS_OK;
    float *q_factor = (float *)scratch, *k_factor = q_factor + rows, *delta = k_factor + rows, *parts = delta + rows;
    TS_TRY(factors(s, q_factor, k_factor, qkv, scale_mul, a));
    TS_TRY(TS_LAUNCH(delta_k1, (unsigned)((rows * WARP + BLOCK - 1) / BLOCK), BLOCK, 0, s, delta, dout, out, rows, a->T,
                     a->H, (int)a->c, rounded));
    job j = masked(qkv, end, a, q_factor);
    j.dout = dout;
    j.fwd_lse = lse;
    j.delta = delta;
    j.dqkv = dqkv;
    j.dmul = parts;
    TS_TRY(rounded ? attention_mma_bwd(s, j, a->B, normalised) : backward(s, j, a, normalised));
    if (!normalised) return TS_OK;
    return TS_LAUNCH(scale_mul_k1, ts_blocks(a->H), BLOCK, 0, s, dscale_mul, parts, scale_mul, a->B, a->H,
                     tiles_of(a, rounded ? MMA_TILE : TILE));
}
