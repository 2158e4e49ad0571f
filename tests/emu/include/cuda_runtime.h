/* cuda_runtime.h - the emulated CUDA device: a stand-in for NVIDIA's header, as far as kernels/cuda uses it, so that
 * the host compiler builds the same sources. Behaviour of the device: tests/emu/emu.h. */
#ifndef TS_EMU_CUDA_RUNTIME_H
#define TS_EMU_CUDA_RUNTIME_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
/* One block runs at a time, so one copy does; the section tells shared memory from everything else. */
#define __shared__ static __attribute__((section("emu_shared")))

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

/* ---- what a thread calls ---- */

namespace emu
{

enum warp_op { SYNC, SHUFFLE, SHUFFLE_XOR, SHUFFLE_DOWN, SHUFFLE_UP, BALLOT, MEET, MATRIX };
enum atomic_op { ADD, MIN, MAX, EXCHANGE };

void barrier(const char *file, int line);
void grid_barrier(const char *file, int line);
uint64_t warp(warp_op op, unsigned mask, uint64_t value, int lane, const char *file, int line);
void *dynamic_shared();
void check_atomic(const void *p, size_t bytes); /* access and alignment */
void check_vector(const void *p, size_t bytes, bool write);

/* Matrix products of a warp (mma.h): what a lane brings, and c is what it takes away. */
struct matrix_lane {
    uint16_t a[8], b[8];
    float c[8];
};
/* Where number i of a lane is in its matrix. */
inline void matrix_place(int lane, int i, unsigned *row, unsigned *column)
{
    *row = lane / 4 + i / 2 % 2 * 8;
    *column = lane % 4 * 2 + i % 2 + i / 4 * 8;
}
/* A matrix of 16x16 that a warp loads or stores together: alignment; all lanes are there and mean the same. */
void check_matrix(const void *p, size_t row_bytes, const char *file, int line);

template <class T> T shuffle(warp_op op, unsigned mask, T value, int lane, const char *file, int line)
{
    static_assert(sizeof(T) <= 8 && std::is_arithmetic<T>::value, "shuffles move numbers of up to 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = warp(op, mask, bits, lane, file, line);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T> __attribute__((no_sanitize("thread"))) T atomic(atomic_op op, T *p, T value)
{
    check_atomic(p, sizeof *p);
    const T old = *p;
    switch (op) {
    case ADD:
        *p = old + value;
        break;
    case MIN:
        *p = value < old ? value : old;
        break;
    case MAX:
        *p = value > old ? value : old;
        break;
    case EXCHANGE:
        *p = value;
        break;
    }
    return old;
}

} // namespace emu

#define EMU_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMU_SITE)
{
    emu::barrier(file, line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_SITE)
{
    emu::warp(emu::SYNC, mask, 0, 0, file, line);
}
template <class T> T __shfl_sync(unsigned mask, T value, int lane, EMU_SITE)
{
    return emu::shuffle(emu::SHUFFLE, mask, value, lane, file, line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int lanes, EMU_SITE)
{
    return emu::shuffle(emu::SHUFFLE_XOR, mask, value, lanes, file, line);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, int lanes, EMU_SITE)
{
    return emu::shuffle(emu::SHUFFLE_DOWN, mask, value, lanes, file, line);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, int lanes, EMU_SITE)
{
    return emu::shuffle(emu::SHUFFLE_UP, mask, value, lanes, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_SITE)
{
    return (unsigned)emu::warp(emu::BALLOT, mask, predicate != 0, 0, file, line);
}
inline int __any_sync(unsigned mask, int predicate, EMU_SITE)
{
    return emu::warp(emu::BALLOT, mask, predicate != 0, 0, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMU_SITE)
{
    return emu::warp(emu::BALLOT, mask, predicate == 0, 0, file, line) == 0;
}
inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
inline void __threadfence() {}

template <class T> T atomicAdd(T *p, T value)
{
    return emu::atomic(emu::ADD, p, value);
}
template <class T> T atomicMin(T *p, T value)
{
    return emu::atomic(emu::MIN, p, value);
}
template <class T> T atomicMax(T *p, T value)
{
    return emu::atomic(emu::MAX, p, value);
}
template <class T> T atomicExch(T *p, T value)
{
    return emu::atomic(emu::EXCHANGE, p, value);
}
template <class T> T __ldg(const T *p)
{
    return *p;
}

/* ---- what the host calls ---- */

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoDevice = 100,
    cudaErrorInsufficientDriver = 35,
    cudaErrorCooperativeLaunchTooLarge = 720,
    cudaErrorUnknown = 999
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlockOptin;
    int major, minor, multiProcessorCount;
};

typedef struct emu_stream *cudaStream_t;
typedef struct emu_event *cudaEvent_t;
typedef struct emu_graph *cudaGraph_t;
typedef struct emu_graph_exec *cudaGraphExec_t;

const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device);
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int threads,
                                                          size_t dynamic_shared);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags = 0);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x);

namespace emu
{

cudaError_t set_shared_limit(const void *kernel, int bytes);

/* A launch that waits in a stream: the arguments, copied, and a function that runs one thread with them. */
struct launch_request {
    const char *name;
    const void *kernel;
    bool together; /* a cooperative launch */
    dim3 grid, block;
    size_t shared_bytes;
    void *arguments;
    size_t arguments_bytes;
    void (*run)(const void *kernel, void *arguments);
    void (*drop)(void *arguments);
};
cudaError_t enqueue(const launch_request &r, cudaStream_t s);

template <class... P, class... A>
cudaError_t launch(const char *name, bool together, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t s, A &&...a)
{
    using arguments = std::tuple<P...>;
    static_assert(sizeof(arguments) <= 4096, "the arguments of a kernel are at most 4 KB");
    auto run = [](const void *k, void *p) { std::apply((void (*)(P...))k, *(arguments *)p); };
    auto drop = [](void *p) { delete (arguments *)p; };
    const launch_request r = { name,         (const void *)kernel,   together,          grid, block,
                               shared_bytes, new arguments(P(a)...), sizeof(arguments), run,  drop };
    return enqueue(r, s);
}

} // namespace emu

template <class F> cudaError_t cudaFuncSetAttribute(F *kernel, cudaFuncAttribute, int value)
{
    return emu::set_shared_limit((const void *)kernel, value);
}

#endif
