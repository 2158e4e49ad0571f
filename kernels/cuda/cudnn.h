/* cudnn.h - the calls of cuDNN in use, found when the first convolution is made: a build with cuDNN runs without it, too. */
#ifndef TS_CUDA_CUDNN_H
#define TS_CUDA_CUDNN_H

#include <cudnn.h>

#define TS_CUDNN_CALLS(X)                                                                                              \
    X(cudnnCreate)                                                                                                     \
    X(cudnnDestroy)                                                                                                    \
    X(cudnnSetStream)                                                                                                  \
    X(cudnnGetErrorString)                                                                                             \
    X(cudnnBackendCreateDescriptor)                                                                                    \
    X(cudnnBackendDestroyDescriptor)                                                                                   \
    X(cudnnBackendSetAttribute)                                                                                        \
    X(cudnnBackendGetAttribute)                                                                                        \
    X(cudnnBackendFinalize)                                                                                            \
    X(cudnnBackendExecute)

#define TS_CUDNN_MEMBER(name) decltype(&::name) name;
struct ts_cudnn {
    TS_CUDNN_CALLS(TS_CUDNN_MEMBER)
};

/* NULL if there is no such library, or not all of it. */
const ts_cudnn *ts_cudnn_load(void);

#endif
