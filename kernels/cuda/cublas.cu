/* cublas.cu - cuBLAS, loaded at run time. Contract: cublas.h. The emulated device has its own: tests/emu/cublas.cpp. */
#include "kernels/cuda/cublas.h"

#include "kernels/cuda/library.h"
#include "tessera/status.h"

#define LIBRARY TS_LIBRARY("cublas", CUBLAS_VER_MAJOR)

static bool load(ts_cublas *c)
{
    void *library = ts_library(LIBRARY);
    if (!library) {
        ts_fail(TS_E_DEVICE, "cuBLAS cannot be loaded: %s", dlerror());
        return false;
    }
    if (ts_find(library, "cublasCreate_v2", &c->create) && ts_find(library, "cublasDestroy_v2", &c->destroy) &&
        ts_find(library, "cublasSetStream_v2", &c->set_stream) && ts_find(library, "cublasGemmEx", &c->gemm))
        return true;
    ts_fail(TS_E_DEVICE, "cuBLAS cannot be used: %s", dlerror());
    return false;
}

const ts_cublas *ts_cublas_load(void)
{
    static ts_cublas calls;
    static const bool loaded = load(&calls); /* C++ makes this safe between threads */
    if (!loaded) ts_fail(TS_E_DEVICE, "cuBLAS (%s) is missing or cannot be used", LIBRARY);
    return loaded ? &calls : nullptr;
}
