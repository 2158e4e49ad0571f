/* act.c - activations on the CPU. Contract: tessera/op_act.h. */
#include "tessera/op_act.h"

#include "kernels/cpu/act.h"
#include "kernels/cpu/sizes.h"
#include "kernels/cpu/stream.h"

/* Below SERIAL values waking the other threads costs more than they save. */
enum { SERIAL = 1 << 13, PIECE = 1 << 12 };

static inline float silu_slope(float x)
{
    const float sig = ts_sigmoidf(x);
    return fmaf(sig * x, 1.0f - sig, sig);
}

static inline float gelu_slope(float x)
{
    const float t = gelu_tanh_of(x);
    const float inner = GELU_A * fmaf(3.0f * GELU_B * x, x, 1.0f);
    return 0.5f * fmaf(x * (1.0f - t * t), inner, 1.0f + t);
}

ts_status act_fwd_cpu(ts_stream *s, void *y, const float *x, ts_act act, int64_t N, ts_dtype y_dtype)
{
    const int64_t size = y_dtype == TS_BF16 ? 2 : 4;
#pragma omp parallel for num_threads(s->threads) if (N > SERIAL)
    for (int64_t n = 0; n < N; n += PIECE) act_numbers((char *)y + n * size, x + n, act, ts_at_most(N - n, PIECE), y_dtype);
    return TS_OK;
}

ts_status act_bwd_cpu(ts_stream *s, float *dx, const float *dy, const float *x, ts_act act, int64_t N)
{
    if (act == TS_SILU) {
#pragma omp parallel for simd num_threads(s->threads) if (N > SERIAL)
        for (int64_t n = 0; n < N; n++) dx[n] = dy[n] * silu_slope(x[n]);
    } else {
#pragma omp parallel for simd num_threads(s->threads) if (N > SERIAL)
        for (int64_t n = 0; n < N; n++) dx[n] = dy[n] * gelu_slope(x[n]);
    }
    return TS_OK;
}
