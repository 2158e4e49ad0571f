/* resize.cu - Pillow's resampling on CUDA. Contract: tessera/op_resize.h. Twin: kernels/cpu/resize.c. */
#include "tessera/op_resize.h"

#include "kernels/cuda/launch.cuh"

enum { BITS = 22, ROUND = 1 << (BITS - 1) };

static __device__ inline uint8_t clip8(int32_t sum)
{
    const int32_t v = sum >> BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* A thread makes one pixel. */
static __global__ void resize_columns_k1(uint8_t *between, const uint8_t *in, const int32_t *plan, ts_resize r)
{
    const int32_t *first = plan, *count = plan + r.width, *weights = plan + 2 * r.width;
    TS_EACH(i, (int64_t)r.rows * r.width)
    {
        const int x = (int)(i % r.width), n = count[x];
        const uint8_t *from = in + ((i / r.width) * r.in_width + first[x]) * 3;
        int32_t sum[3] = { ROUND, ROUND, ROUND };
        for (int j = 0; j < n; j++) {
            const int32_t weight = weights[(int64_t)x * r.taps_x + j];
#pragma unroll
            for (int c = 0; c < 3; c++) sum[c] += weight * from[j * 3 + c];
        }
#pragma unroll
        for (int c = 0; c < 3; c++) between[i * 3 + c] = clip8(sum[c]);
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
        out[i] = clip8(sum);
    }
}

size_t resize_scratch_cuda(ts_stream *s, const ts_resize *r)
{
    (void)s;
    return (size_t)r->rows * (size_t)r->width * 3;
}

ts_status resize_cuda(ts_stream *s, uint8_t *out, const uint8_t *in, const int32_t *plan, const ts_resize *r, void *scratch)
{
    const int64_t pixels = (int64_t)r->rows * r->width, bytes = (int64_t)r->height * r->width * 3;
    if (pixels == 0 || bytes == 0) return TS_OK;
    TS_TRY(TS_LAUNCH(resize_columns_k1, ts_blocks(pixels), BLOCK, 0, s, (uint8_t *)scratch, in, plan, *r));
    return TS_LAUNCH(resize_rows_k1, ts_blocks(bytes), BLOCK, 0, s, out, (const uint8_t *)scratch,
                     plan + (int64_t)r->width * (2 + r->taps_x), *r);
}
