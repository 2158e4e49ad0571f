/* launch.cuh - what every kernel file of the CUDA backend shares: its stream, launches, and sums over a block.
 *
 * The same sources are compiled by nvcc and, against tests/emu, by the host compiler. They are compiled without
 * contraction (-fmad=false): a product is fused with a sum only where fmaf is written, as on the CPU.
 */
#ifndef TS_CUDA_LAUNCH_CUH
#define TS_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

#include "kernels/cuda/cublas.h"
#include "tessera/types.h"

struct ts_stream {
    int index;          /* of the device                                             */
    size_t most_shared; /* bytes of shared memory that a block can have, if it asks  */
    int processors;     /* multiprocessors                                           */
    cudaStream_t stream;
    const ts_cublas *blas;
    cublasHandle_t blas_handle;
    struct ts_convolver *convolver; /* cuDNN, once a convolution was asked for; NULL and */
    int without_cudnn;              /* 1 where it cannot be used                         */
    unsigned long long *bad_draw; /* device: the first draw that failed, picture * 2^32 + token, or NO_BAD_DRAW */
    double *partial;              /* device: PARTIALS numbers for sums over a whole tensor  */
    struct kept *kept;            /* constant memory, and what of it is kept rounded (kept.h) */
    int recording;                /* work is recorded: no memory may be asked for           */
};

static const unsigned long long NO_BAD_DRAW = ~0ull;

enum { WARP = 32, BLOCK = 256, PARTIALS = 1024 };
static const unsigned ALL_LANES = 0xffffffffu;

/* The status of a call of the runtime; `what` names it in the message. */
ts_status ts_cuda(cudaError_t e, const char *what);

/* A kernel that is a template gets its static shared memory from a function that is none: the host compiler does not tell the
 * emulated device which variables of templates are shared.
 *
 * Launch a kernel on ts_stream *s; the value is a ts_status. TOGETHER: a cooperative launch, whose blocks are all there
 * at one time (ts_resident) and may wait for each other. */
#ifdef __CUDACC__
#define TS_LAUNCH(kernel, grid, block, shared_bytes, s, ...)                                                           \
    (kernel<<<(grid), (block), (shared_bytes), (s)->stream>>>(__VA_ARGS__), ts_cuda(cudaGetLastError(), #kernel))
#define TS_LAUNCH_TOGETHER(kernel, ...) ts_launch_together(#kernel, kernel, __VA_ARGS__)
#define TS_SHARED(name) extern __shared__ __align__(32) unsigned char name[]
#define TS_VECTOR(p, bytes, write) ((void)0)
#else
#define TS_LAUNCH(kernel, grid, block, shared_bytes, s, ...)                                                           \
    ts_cuda(emu::launch(#kernel, false, kernel, (grid), (block), (shared_bytes), (s)->stream, __VA_ARGS__), #kernel)
#define TS_LAUNCH_TOGETHER(kernel, grid, block, shared_bytes, s, ...)                                                  \
    ts_cuda(emu::launch(#kernel, true, kernel, (grid), (block), (shared_bytes), (s)->stream, __VA_ARGS__), #kernel)
#define TS_SHARED(name) unsigned char *const name = (unsigned char *)emu::dynamic_shared()
#define TS_VECTOR(p, bytes, write) emu::check_vector(p, bytes, write)
#endif

#ifdef __CUDACC__
template <class... P, class... A>
ts_status ts_launch_together(const char *name, void (*kernel)(P...), unsigned grid, int block, size_t shared_bytes,
                             const ts_stream *s, A... a)
{
    const auto launch = [&](P... p) {
        void *list[] = { (void *)&p... };
        return cudaLaunchCooperativeKernel((const void *)kernel, grid, block, list, shared_bytes, s->stream);
    };
    return ts_cuda(launch(a...), name);
}
#endif

/* Blocks of this kernel may use so much dynamic shared memory, beyond the 48 KB that all may. */
static inline ts_status ts_allow_shared(const void *kernel, size_t bytes, const char *what)
{
    return ts_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), what);
}

/* Blocks of a kernel that the device holds at one time. */
static inline ts_status ts_resident(int64_t *blocks, const ts_stream *s, const void *kernel, int threads,
                                    size_t shared_bytes, const char *what)
{
    int n = 0;
    TS_TRY(ts_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, kernel, threads, shared_bytes), what));
    *blocks = (int64_t)(n < 1 ? 1 : n) * s->processors; /* if there is no room for one, the launch says so */
    return TS_OK;
}

/* Blocks for n threads of a grid-stride loop: enough to fill any device, so that big tensors do not start more. */
static inline unsigned ts_blocks(int64_t n)
{
    const int64_t blocks = (n + BLOCK - 1) / BLOCK, most = 4096;
    return (unsigned)(blocks < most ? blocks : most);
}

/* Blocks for a sum over a whole tensor, at most BLOCK. Their number, and so the order of the sum, depends on n alone.
 */
static inline int ts_sum_blocks(int64_t n)
{
    const int64_t blocks = (n + 8 * BLOCK - 1) / (8 * BLOCK);
    return blocks < 1 ? 1 : blocks < BLOCK ? (int)blocks : (int)BLOCK;
}

/* for (n over 0..N-1, shared by the whole grid) */
#define TS_EACH(n, N)                                                                                                  \
    for (int64_t n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; n < (N); n += (int64_t)gridDim.x * blockDim.x)

static __device__ inline float4 load4(const float *p)
{
    TS_VECTOR(p, 16, false);
    return *(const float4 *)p;
}

static __device__ inline void store4(float *p, float4 v)
{
    TS_VECTOR(p, 16, true);
    *(float4 *)p = v;
}

/* True if float4 may be used on p. */
static inline int ts_aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

template <class T> __device__ inline T warp_sum(T v)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) v += __shfl_xor_sync(ALL_LANES, v, lanes);
    return v;
}

static __device__ inline float warp_max(float v)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, v, lanes);
        v = other > v ? other : v;
    }
    return v;
}

/* Sum over a block of whole warps, in a fixed order, the same in every thread. part: WARP values of shared memory; all
 * threads have left the previous use of it when they arrive here, because the sum ends with a barrier. */
template <class T> __device__ inline T block_sum(T v, T *part)
{
    v = warp_sum(v);
    if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = v;
    __syncthreads();
    T sum = 0;
    for (unsigned w = 0; w < blockDim.x / WARP; w++) sum += part[w];
    __syncthreads();
    return sum;
}

static __device__ inline float block_max(float v, float *part)
{
    v = warp_max(v);
    if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = v;
    __syncthreads();
    float max = part[0];
    for (unsigned w = 1; w < blockDim.x / WARP; w++) max = part[w] > max ? part[w] : max;
    __syncthreads();
    return max;
}

#endif
