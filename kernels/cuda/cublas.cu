/* cublas.cu - cuBLAS, loaded at run time. Contract: cublas.h. The emulated device has its own: tests/emu/cublas.cpp. */
#include "kernels/cuda/cublas.h"

#include <dlfcn.h>

#include "tessera/status.h"

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define LIBRARY "libcublas.so." TEXT(CUBLAS_VER_MAJOR)

template <class F> static bool find(void *library, const char *name, F **f)
{
    *f = (F *)dlsym(library, name);
    return *f != nullptr;
}

static bool load(ts_cublas *c)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL); /* stays until the program ends */
    if (!library) {
        ts_fail(TS_E_DEVICE, "cuBLAS cannot be loaded: %s", dlerror());
        return false;
    }
    if (find(library, "cublasCreate_v2", &c->create) && find(library, "cublasDestroy_v2", &c->destroy) &&
        find(library, "cublasSetStream_v2", &c->set_stream) && find(library, "cublasGemmEx", &c->gemm))
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
