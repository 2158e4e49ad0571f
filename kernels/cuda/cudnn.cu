/* cudnn.cu - cuDNN, loaded at run time. Contract: cudnn.h. The emulated device has its own: tests/emu/cudnn.cpp. */
#include "kernels/cuda/cudnn.h"

#include <dlfcn.h>

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define LIBRARY "libcudnn.so." TEXT(CUDNN_MAJOR)

template <class F> static bool find(void *library, const char *name, F **f)
{
    *f = (F *)dlsym(library, name);
    return *f != nullptr;
}

static bool load(ts_cudnn *c)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL); /* stays until the program ends */
    bool all = library != nullptr;
#define FIND(name) all = all && find(library, #name, &c->name);
    TS_CUDNN_CALLS(FIND)
    return all;
}

const ts_cudnn *ts_cudnn_load(void)
{
    static ts_cudnn calls;
    static const bool loaded = load(&calls); /* C++ makes this safe between threads */
    return loaded ? &calls : nullptr;
}
