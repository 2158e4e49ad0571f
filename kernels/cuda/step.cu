/* step.cu - single steps of formulas on CUDA. Contract: tessera/op_step.h. Twin: kernels/cpu/step.c. A block owns a row. */
#include "tessera/op_step.h"

#include "kernels/cuda/launch.cuh"

static __device__ inline float map_at(float a, float b, ts_step_map f)
{
    switch (f) {
    case TS_STEP_ADD: return a + b;
    case TS_STEP_SUB: return a - b;
    case TS_STEP_MUL: return a * b;
    case TS_STEP_DIV: return a / b;
    case TS_STEP_MIN: return b < a ? b : a;
    case TS_STEP_TANH: return ts_tanhf(a);
    case TS_STEP_RELU: return a > 0 ? a : 0.0f;
    case TS_STEP_EXP: return ts_expf(a);
    default: return rintf(a);
    }
}

static __global__ void step_map_k1(float *y, const float *a, const float *b, ts_step_map f, int64_t N, int64_t R, int64_t C)
{
    TS_EACH(n, N) y[n] = map_at(a[n], b ? b[n / (R * C) * C + n % C] : 0.0f, f);
}

ts_status step_map_cuda(ts_stream *s, float *y, const float *a, const float *b, ts_step_map f, int64_t N, int64_t R, int64_t C)
{
    if (N == 0) return TS_OK;
    return TS_LAUNCH(step_map_k1, ts_blocks(N), BLOCK, 0, s, y, a, b, f, N, R, C);
}

#define EACH_OF_ROW(v) for (int64_t v = threadIdx.x; v < V; v += BLOCK)

/* A row, and room for sums over the block. */
struct row {
    const float *a;
    int64_t V;
    float *floats;
    double *doubles;
};

static __device__ inline float max_of(row r)
{
    const int64_t V = r.V;
    float max = -INFINITY;
    EACH_OF_ROW(v) max = r.a[v] > max ? r.a[v] : max;
    return block_max(max, r.floats);
}

static __device__ inline void normalise(float *y, row r)
{
    const int64_t V = r.V;
    double sum = 0, squares = 0;
    EACH_OF_ROW(v) sum += r.a[v];
    const double mean = block_sum(sum, r.doubles) / (double)V;
    EACH_OF_ROW(v) squares += (r.a[v] - mean) * (r.a[v] - mean);
    const double inv = 1 / sqrt(block_sum(squares, r.doubles) / (double)V + 1e-6);
    EACH_OF_ROW(v) y[v] = (float)((r.a[v] - mean) * inv);
}

static __device__ inline void softmax(float *y, row r)
{
    const int64_t V = r.V;
    const float max = max_of(r);
    float sum = 0;
    EACH_OF_ROW(v) sum += ts_expf(r.a[v] - max);
    sum = block_sum(sum, r.floats);
    EACH_OF_ROW(v) y[v] = ts_expf(r.a[v] - max) / sum;
}

static __device__ inline float length(row r)
{
    const int64_t V = r.V;
    double squares = 0;
    EACH_OF_ROW(v) squares += (double)r.a[v] * r.a[v];
    const float size = (float)sqrt(block_sum(squares, r.doubles));
    return size < 1e-12f ? 1e-12f : size;
}

static __device__ inline uint32_t kth_largest(row r, double k)
{
    const int64_t V = r.V;
    uint32_t u = 0;
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
        double above = 0;
        EACH_OF_ROW(v) above += ts_step_order(r.a[v]) >= (u | bit);
        if (block_sum(above, r.doubles) >= k) u |= bit;
    }
    return u;
}

static __device__ inline uint32_t mass_up_to(row r, double limit)
{
    const int64_t V = r.V;
    const float max = max_of(r);
    double all = 0;
    uint32_t u = 0;
    EACH_OF_ROW(v) all += ts_expf(r.a[v] - max);
    limit *= block_sum(all, r.doubles);
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
        double sum = 0;
        EACH_OF_ROW(v) sum += ts_step_order(r.a[v]) <= (u | bit) ? ts_expf(r.a[v] - max) : 0.0f;
        if (block_sum(sum, r.doubles) <= limit) u |= bit;
    }
    return u;
}

/* The lowest v of those that are the largest, with noise added or as they are; 0 where all are NaN, which none equals. */
static __device__ inline void draw(int32_t *y, row r, const ts_sample &how, const int32_t *which, int64_t n, bool noise)
{
    const int64_t V = r.V;
    float most = -INFINITY;
    EACH_OF_ROW(v)
    {
        const float x = noise ? r.a[v] + ts_step_noise(&how, which, n, v) : r.a[v];
        most = x > most ? x : most;
    }
    most = block_max(most, r.floats);
    float first = -(float)V;
    EACH_OF_ROW(v)
    {
        const float x = noise ? r.a[v] + ts_step_noise(&how, which, n, v) : r.a[v];
        if (x == most && -(float)v > first) first = -(float)v;
    }
    first = block_max(first, r.floats);
    if (threadIdx.x == 0) y[n] = first > -(float)V ? (int32_t)-first : 0;
}

static __global__ void __launch_bounds__(BLOCK, 6)
    step_rows_k1(void *y, const float *a, const int32_t *which, ts_step_rows f, ts_sample how, int64_t V)
{
    __shared__ float floats[WARP];
    __shared__ double doubles[WARP];
    const int64_t n = blockIdx.x;
    const row r = { a + n * V, V, floats, doubles };
    float *to = (float *)y + n * V;
    if (f == TS_STEP_NORMALISE) {
        normalise(to, r);
    } else if (f == TS_STEP_SOFTMAX) {
        softmax(to, r);
    } else if (f == TS_STEP_LENGTH) {
        const float size = length(r);
        if (threadIdx.x == 0) ((float *)y)[n] = size;
    } else if (f == TS_STEP_LOSS) {
        if (threadIdx.x == 0) ((float *)y)[n] = -ts_logf(r.a[which[n]]);
    } else if (f == TS_STEP_ONE_HOT) {
        EACH_OF_ROW(v) to[v] = r.a[v] - (v == which[n] ? 1.0f : 0.0f);
    } else if (f == TS_STEP_SUM) {
        float sum = 0;
        EACH_OF_ROW(v) sum += r.a[v];
        sum = block_sum(sum, floats);
        if (threadIdx.x == 0) ((int32_t *)y)[n] = (int32_t)sum;
    } else if (f == TS_STEP_DRAW || f == TS_STEP_ARGMAX) {
        draw((int32_t *)y, r, how, which, n, f == TS_STEP_DRAW);
    } else if (f == TS_STEP_NOISE) {
        EACH_OF_ROW(v) to[v] = r.a[v] + ts_step_noise(&how, which, n, v);
    } else {
        const uint32_t least = f == TS_STEP_TOP_K ? kth_largest(r, how.top_k) : mass_up_to(r, 1 - (double)how.top_p) + 1;
        EACH_OF_ROW(v) to[v] = ts_step_order(r.a[v]) >= least ? r.a[v] : -INFINITY;
    }
}

ts_status step_rows_cuda(ts_stream *s, void *y, const float *a, const int32_t *which, ts_step_rows f, const ts_sample *how, int64_t N,
                         int64_t V)
{
    if (N == 0) return TS_OK;
    const ts_sample none = {};
    return TS_LAUNCH(step_rows_k1, (unsigned)N, BLOCK, 0, s, y, a, which, f, how ? *how : none, V);
}
