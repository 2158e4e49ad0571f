/* cublas.cpp - matrix products of the emulated device as plain loops. Contract: emu.h, cuBLAS's own manual. Every
 * number of the result is one sum in ascending k, so it does not depend on the size of the product. */
#include "tests/emu/include/cublas_v2.h"

#include <vector>

#include "kernels/cuda/cublas.h"
#include "tests/emu/emu.h"

struct emu_cublas {
    cudaStream_t stream;
};

cublasStatus_t cublasCreate_v2(cublasHandle_t *h)
{
    if (emu::refuses()) return CUBLAS_STATUS_INTERNAL_ERROR;
    *h = new emu_cublas();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t h)
{
    delete h;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t h, cudaStream_t s)
{
    if (emu::refuses()) return CUBLAS_STATUS_INTERNAL_ERROR;
    h->stream = s;
    return CUBLAS_STATUS_SUCCESS;
}

namespace
{

struct operand {
    const void *p;
    cudaDataType_t type;
    int rows, columns, ld; /* as it lies in memory, column by column */
};

/* As floats, element (i, j) at [i + j*rows]; transposed if asked for. */
std::vector<float> load(const operand &o, bool transpose)
{
    const size_t size = o.type == CUDA_R_16BF ? 2 : 4;
    std::vector<float> x((size_t)o.rows * o.columns);
    for (int j = 0; j < o.columns; j++) {
        const char *column = (const char *)o.p + (size_t)j * o.ld * size;
        emu::check_device(column, o.rows * size, false, "cublasGemmEx");
        for (int i = 0; i < o.rows; i++) {
            uint32_t bits = 0;
            if (size == 4)
                memcpy(&bits, column + 4 * i, 4);
            else
                memcpy((char *)&bits + 2, column + 2 * i, 2);
            memcpy(&x[transpose ? (size_t)i * o.columns + j : (size_t)j * o.rows + i], &bits, 4);
        }
    }
    return x;
}

void gemm(int m, int n, int k, const std::vector<float> &a, const std::vector<float> &b, float *c, int ldc, float alpha,
          float beta)
{
    std::vector<float> sum(m);
    for (int j = 0; j < n; j++) {
        sum.assign(m, 0);
        for (int l = 0; l < k; l++)
            for (int i = 0; i < m; i++) sum[i] += a[(size_t)l * m + i] * b[(size_t)j * k + l];
        float *column = c + (size_t)j * ldc;
        if (beta != 0) emu::check_device(column, m * sizeof *c, false, "cublasGemmEx");
        emu::check_device(column, m * sizeof *c, true, "cublasGemmEx");
        for (int i = 0; i < m; i++) column[i] = alpha * sum[i] + (beta != 0 ? beta * column[i] : 0);
    }
}

} // namespace

cublasStatus_t cublasGemmEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                            const void *alpha, const void *a, cudaDataType_t a_type, int lda, const void *b,
                            cudaDataType_t b_type, int ldb, const void *beta, void *c, cudaDataType_t c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t)
{
    const operand left = { a, a_type, ta == CUBLAS_OP_N ? m : k, ta == CUBLAS_OP_N ? k : m, lda };
    const operand right = { b, b_type, tb == CUBLAS_OP_N ? k : n, tb == CUBLAS_OP_N ? n : k, ldb };
    if (m < 0 || n < 0 || k < 0 || lda < left.rows || ldb < right.rows || ldc < m || a_type != b_type ||
        c_type != CUDA_R_32F || compute != CUBLAS_COMPUTE_32F)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (emu::refuses()) return CUBLAS_STATUS_INTERNAL_ERROR;
    const float factor = *(const float *)alpha, keep = *(const float *)beta;
    emu::enqueue_task(h->stream, [=] {
        gemm(m, n, k, load(left, ta == CUBLAS_OP_T), load(right, tb == CUBLAS_OP_T), (float *)c, ldc, factor, keep);
    });
    return CUBLAS_STATUS_SUCCESS;
}

static const ts_cublas CALLS = { cublasCreate_v2, cublasDestroy_v2, cublasSetStream_v2, cublasGemmEx };

const ts_cublas *ts_cublas_load(void)
{
    return &CALLS;
}
