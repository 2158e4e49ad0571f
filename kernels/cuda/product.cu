/* product.cu - matrix products by cuBLAS. Contract: product.h. */
#include "kernels/cuda/product.h"

#include "kernels/cuda/bf16.cuh"
#include "kernels/cuda/launch.cuh"

/* cuBLAS counts columns first: to it a row-major matrix is its own transpose, so c^T = b^T a^T is computed. */
ts_status ts_product(ts_stream *s, float *c, ts_operand a, ts_operand b, int64_t M, int64_t N, int64_t K, ts_math math,
                     int add)
{
    if (M > INT32_MAX || N > INT32_MAX || K > INT32_MAX)
        return ts_fail(TS_E_ARG, "a product of (%lld,%lld) and (%lld,%lld) is too large for cuBLAS", (long long)M,
                       (long long)K, (long long)K, (long long)N);
    const float one = 1, keep = add ? 1.0f : 0.0f;
    const cudaDataType_t type = math == TS_MATH_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const cublasStatus_t st = s->blas->gemm(s->blas_handle, b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                                            a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N, (int)N, (int)M, (int)K, &one, b.p,
                                            type, (int)(b.transposed ? K : N), a.p, type, (int)(a.transposed ? M : K),
                                            &keep, c, CUDA_R_32F, (int)N, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (st == CUBLAS_STATUS_SUCCESS) return TS_OK;
    return ts_fail(TS_E_DEVICE, "cuBLAS refuses a product of (%lld,%lld) and (%lld,%lld): status %d", (long long)M,
                   (long long)K, (long long)K, (long long)N, (int)st);
}

static __global__ void narrow_k1(uint16_t *y, const float *x, int64_t n)
{
    TS_EACH(i, n) y[i] = bf16_narrow(x[i]);
}

ts_status ts_narrow(ts_stream *s, uint16_t *y, const float *x, int64_t n)
{
    return n == 0 ? TS_OK : TS_LAUNCH(narrow_k1, ts_blocks(n), BLOCK, 0, s, y, x, n);
}

static __global__ void round_k1(float *y, const float *x, int64_t n)
{
    TS_EACH(i, n) y[i] = bf16_round(x[i]);
}

ts_status ts_round(ts_stream *s, void *y, const float *x, int64_t n, ts_dtype as)
{
    if (as == TS_BF16) return ts_narrow(s, (uint16_t *)y, x, n);
    return n == 0 ? TS_OK : TS_LAUNCH(round_k1, ts_blocks(n), BLOCK, 0, s, (float *)y, x, n);
}

static __global__ void widen_k1(float *y, const uint16_t *x, int64_t n, int64_t stride, int64_t all)
{
    TS_EACH(i, all) y[i] = bf16_widen(x[i / n * stride + i % n]);
}

ts_status ts_widen(ts_stream *s, float *y, const uint16_t *x, int64_t rows, int64_t n, int64_t stride)
{
    return rows * n == 0 ? TS_OK : TS_LAUNCH(widen_k1, ts_blocks(rows * n), BLOCK, 0, s, y, x, n, stride, rows * n);
}

static __global__ void fill_rows_k1(float *y, const float *b, int64_t all, int64_t N)
{
    TS_EACH(i, all) y[i] = b[i % N];
}

ts_status ts_fill_rows(ts_stream *s, float *y, const float *b, int64_t M, int64_t N)
{
    return M * N == 0 ? TS_OK : TS_LAUNCH(fill_rows_k1, ts_blocks(M * N), BLOCK, 0, s, y, b, M * N, N);
}
