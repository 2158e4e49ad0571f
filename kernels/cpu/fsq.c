/* fsq.c - Finite Scalar Quantization on the CPU. Contract: tessera/op_fsq.h. Twin: kernels/cuda/fsq.cu. */
#include "tessera/op_fsq.h"

#include "kernels/cpu/fsq.h"
#include "kernels/cpu/stream.h"

ts_status fsq_fwd_cpu(ts_stream *s, float *value, int32_t *idx, const float *z, const ts_fsq *q, int64_t N)
{
    const int D = q->D;
    fsq_constants c;
    fsq_repeat(&c, q);
#pragma omp parallel for num_threads(s->threads)
    for (int64_t n = 0; n < N; n += FSQ_ROWS) fsq_fwd_rows(value + n * D, idx + n, z + n * D, &c, q, fsq_rows_from(n, N));
    return TS_OK;
}

ts_status fsq_bwd_cpu(ts_stream *s, float *dz, const float *dvalue, const float *z, const ts_fsq *q, int64_t N)
{
    const int D = q->D;
    fsq_constants c;
    fsq_repeat(&c, q);
#pragma omp parallel for num_threads(s->threads)
    for (int64_t n = 0; n < N; n += FSQ_ROWS)
        fsq_bwd_rows(dz + n * D, dvalue + n * D, z + n * D, &c, q, fsq_rows_from(n, N));
    return TS_OK;
}

ts_status fsq_decode_cpu(ts_stream *s, float *value, const int32_t *idx, const ts_fsq *q, int64_t N)
{
#pragma omp parallel for num_threads(s->threads)
    for (int64_t n = 0; n < N; n++) fsq_decode_row(value + n * q->D, idx[n], q);
    return TS_OK;
}
