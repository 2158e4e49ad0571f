/* cublas.h - the calls of cuBLAS in use, found when the first stream is made and not when the program is loaded: a
 * build with CUDA runs on machines that have neither the library nor a driver. */
#ifndef TS_CUDA_CUBLAS_H
#define TS_CUDA_CUBLAS_H

#include <cublas_v2.h>

typedef struct {
    cublasStatus_t (*create)(cublasHandle_t *h);
    cublasStatus_t (*destroy)(cublasHandle_t h);
    cublasStatus_t (*set_stream)(cublasHandle_t h, cudaStream_t s);
    cublasStatus_t (*gemm)(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                           const void *alpha, const void *a, cudaDataType_t a_type, int lda, const void *b,
                           cudaDataType_t b_type, int ldb, const void *beta, void *c, cudaDataType_t c_type, int ldc,
                           cublasComputeType_t compute, cublasGemmAlgo_t algo);
} ts_cublas;

/* NULL if there is no such library: the reason is recorded (ts_error). */
const ts_cublas *ts_cublas_load(void);

#endif
