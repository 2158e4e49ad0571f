/* resize.cu - Pillow's resampling on CUDA. Contract: tessera/op_resize.h. Twin: kernels/cpu/resize.c. */
#include "tessera/op_resize.h"

#include "kernels/cuda/launch.cuh"

enum { BITS = 22, ROUND = 1 << (BITS - 1) };

static __device__ inline int32_t clip8(int32_t sum)
{
    const int32_t v = sum >> BITS;
    return v < 0 ? 0 : v > 255 ? 255 : v;
}

/* Bytes of device memory before the first whole word. */
static __device__ inline int bytes_before(const uint8_t *p, int n)
{
    const int head = (int)(-(uintptr_t)p & 3);
    return head < n ? head : n;
}

/* n bytes to shared memory, whole words where there are any: they keep their place in a word, and a word has one thread. Returns where
 * they begin in `room`, which is a whole word and has one to spare. */
static __device__ inline const uint8_t *fetch(uint32_t *room, const uint8_t *from, int n)
{
    const int head = bytes_before(from, n), words = (n - head) / 4, shift = (int)((uintptr_t)from & 3);
    uint8_t *to = (uint8_t *)room + shift;
    for (int i = (int)threadIdx.x; i < words; i += BLOCK)
        *(uint32_t *)(to + head + 4 * i) = *(const uint32_t *)(from + head + 4 * i);
    if (threadIdx.x == 0)
        for (int i = 0; i < head; i++) to[i] = from[i];
    if (threadIdx.x == BLOCK - 1)
        for (int i = head + 4 * words; i < n; i++) to[i] = from[i];
    return to;
}

/* n numbers 0..255 to as many bytes, as whole words where there are any. */
static __device__ inline void leave(uint8_t *to, const int32_t *made, int n)
{
    const int head = bytes_before(to, n), words = (n - head) / 4;
    for (int i = (int)threadIdx.x; i < words; i += BLOCK) {
        const int32_t *four = made + head + 4 * i;
        *(uint32_t *)(to + head + 4 * i) = (uint32_t)(four[0] | four[1] << 8 | four[2] << 16) | (uint32_t)four[3] << 24;
    }
    for (int i = (int)threadIdx.x; i < n - 4 * words; i += BLOCK) {
        const int at = i < head ? i : i + 4 * words;
        to[at] = (uint8_t)made[at];
    }
}

enum { SPAN = 24 << 10 }; /* bytes of a row in shared memory */

/* A block makes up to BLOCK neighbouring pixels at a time, a thread one of them. What they are made of goes through shared memory,
 * unless it is more than there is room for. */
static __global__ void resize_columns_k1(uint8_t *between, const uint8_t *in, const int32_t *plan, ts_resize r)
{
    __shared__ uint32_t span[SPAN / 4 + 1];
    __shared__ int32_t made[3 * BLOCK];
    const int32_t *first = plan, *count = plan + r.width, *weights = plan + 2 * r.width;
    const int segments = (r.width + BLOCK - 1) / BLOCK;
    for (int64_t b = blockIdx.x; b < (int64_t)r.rows * segments; b += gridDim.x) {
        const int x0 = (int)(b % segments) * BLOCK, x = x0 + (int)threadIdx.x;
        const int pixels = r.width - x0 < BLOCK ? r.width - x0 : (int)BLOCK, last = first[x0 + pixels - 1] + r.taps_x;
        const int lo = first[x0], n = 3 * ((last < r.in_width ? last : r.in_width) - lo);
        const uint8_t *row = in + b / segments * r.in_width * 3;
        const uint8_t *part = n <= SPAN - 4 ? fetch(span, row + 3 * lo, n) : row + 3 * lo;
        __syncthreads();
        if (x < r.width) {
            const uint8_t *from = part + 3 * (first[x] - lo);
            int32_t sum[3] = { ROUND, ROUND, ROUND };
            for (int j = 0; j < count[x]; j++) {
                const int32_t weight = weights[(int64_t)j * r.width + x];
#pragma unroll
                for (int c = 0; c < 3; c++) sum[c] += weight * from[j * 3 + c];
            }
#pragma unroll
            for (int c = 0; c < 3; c++) made[threadIdx.x * 3 + c] = clip8(sum[c]);
        }
        __syncthreads();
        leave(between + (b / segments * r.width + x0) * 3, made, 3 * pixels);
    }
}

/* A thread makes one byte: neighbours read neighbours. */
static __global__ void resize_rows_k1(uint8_t *out, const uint8_t *between, const int32_t *plan, ts_resize r)
{
    const int32_t *first = plan, *count = plan + r.height, *weights = plan + 2 * r.height;
    const int64_t row = (int64_t)r.width * 3;
    TS_EACH(i, r.height * row)
    {
        const int y = (int)(i / row), n = count[y];
        const uint8_t *from = between + first[y] * row + i % row;
        int32_t sum = ROUND;
        for (int j = 0; j < n; j++) sum += weights[(int64_t)y * r.taps_y + j] * from[j * row];
        out[i] = (uint8_t)clip8(sum);
    }
}

size_t resize_scratch_cuda(ts_stream *s, const ts_resize *r)
{
    (void)s;
    return (size_t)r->rows * (size_t)r->width * 3;
}

ts_status resize_cuda(ts_stream *s, uint8_t *out, const uint8_t *in, const int32_t *plan, const ts_resize *r, void *scratch)
{
    const int64_t pieces = (int64_t)r->rows * ((r->width + BLOCK - 1) / BLOCK), bytes = (int64_t)r->height * r->width * 3;
    if (pieces == 0 || bytes == 0) return TS_OK;
    TS_TRY(TS_LAUNCH(resize_columns_k1, (unsigned)(pieces < 4096 ? pieces : 4096), BLOCK, 0, s, (uint8_t *)scratch, in, plan, *r));
    return TS_LAUNCH(resize_rows_k1, ts_blocks(bytes), BLOCK, 0, s, out, (const uint8_t *)scratch,
                     plan + (int64_t)r->width * (2 + r->taps_x), *r);
}
