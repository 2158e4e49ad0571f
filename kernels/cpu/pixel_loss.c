/* pixel_loss.c - L1 and L2 distance on the CPU. Contract: tessera/op_pixel_loss.h. */
#include "tessera/op_pixel_loss.h"

#include <math.h>

#include "kernels/cpu/stream.h"

/* The number of chunks is fixed, so that the order of the sum does not depend on the thread count. */
enum { CHUNKS = 256, LINE = 16 };

static void distances(double sum[2], const float *x, const float *target, int64_t begin, int64_t end)
{
    double l1 = 0, l2 = 0;
#pragma omp simd reduction(+ : l1, l2)
    for (int64_t n = begin; n < end; n++) {
        const double d = x[n] - target[n];
        l1 += fabs(d);
        l2 += d * d;
    }
    sum[0] = l1;
    sum[1] = l2;
}

static void gradient(float *dx, const float *x, const float *target, float g1, float g2, int64_t begin, int64_t end)
{
#pragma omp simd
    for (int64_t n = begin; n < end; n++) {
        const float d = x[n] - target[n];
        const float sign = (d > 0 ? 1.0f : 0.0f) - (d < 0 ? 1.0f : 0.0f);
        dx[n] = fmaf(g2, d, g1 * sign);
    }
}

ts_status pixel_loss_cpu(ts_stream *s, float *sums, float *dx, const float *x, const float *target, float w1, float w2,
                         int64_t N)
{
    double part[CHUNKS][2];
    const int64_t chunk = (N + CHUNKS * LINE - 1) / (CHUNKS * LINE) * LINE;
    const double count = N > 0 ? (double)N : 1;
    const float g1 = (float)(w1 / count), g2 = (float)(2 * w2 / count);

#pragma omp parallel for num_threads(s->threads)
    for (int i = 0; i < CHUNKS; i++) {
        const int64_t begin = i * chunk < N ? i * chunk : N, end = begin + chunk < N ? begin + chunk : N;
        distances(part[i], x, target, begin, end);
        if (dx) gradient(dx, x, target, g1, g2, begin, end);
    }

    double l1 = 0, l2 = 0;
    for (int i = 0; i < CHUNKS; i++) {
        l1 += part[i][0];
        l2 += part[i][1];
    }
    sums[0] = (float)l1;
    sums[1] = (float)l2;
    return TS_OK;
}
