/* cudnn.cu - cuDNN, loaded at run time. Contract: cudnn.h. The emulated device has its own: tests/emu/cudnn.cpp. */
#include "kernels/cuda/cudnn.h"

#include "kernels/cuda/library.h"

static bool load(ts_cudnn *c)
{
    void *library = ts_library(TS_LIBRARY("cudnn", CUDNN_MAJOR));
    bool all = library != nullptr;
#define FIND(name) all = all && ts_find(library, #name, &c->name);
    TS_CUDNN_CALLS(FIND)
    return all;
}

const ts_cudnn *ts_cudnn_load(void)
{
    static ts_cudnn calls;
    static const bool loaded = load(&calls); /* C++ makes this safe between threads */
    return loaded ? &calls : nullptr;
}
