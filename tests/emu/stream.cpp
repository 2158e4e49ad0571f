/* stream.cpp - streams, events, graphs and the rest of the runtime's host side. Contract: emu.h.
 *
 * Work that is queued runs when the host waits for it and not before, so that a missing synchronisation reads stale
 * memory every time. Copies from pageable host memory take their source at once, as CUDA documents; those from pinned
 * memory when they run. */
#include <cstdlib>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/emu/emu.h"

using task = std::function<void()>;

struct emu_graph {
    std::vector<task> tasks;
};
struct emu_graph_exec {
    std::vector<task> tasks;
};
struct emu_stream {
    std::deque<task> queue;
    uint64_t queued, done;
    emu_graph *capture;
};
struct emu_event {
    emu_stream *stream;
    uint64_t at; /* reached when stream->done is this */
};

namespace
{

std::set<emu_stream *> streams;
std::set<const void *> pinned;
int depth; /* streams run each other through events */

void run_until(emu_stream *s, uint64_t at)
{
    if (s->done >= at) return;
    if (depth++ == 0) emu::open_memory();
    while (s->done < at && !s->queue.empty()) {
        task t = std::move(s->queue.front());
        s->queue.pop_front();
        t();
        s->done++;
    }
    if (--depth == 0) emu::close_memory();
}

void run_all()
{
    for (emu_stream *s : streams) run_until(s, s->queued);
}

emu_stream *known(cudaStream_t s)
{
    if (streams.count(s) == 0) emu::fatal("a stream that does not exist (or the default stream) is used");
    return s;
}

void no_capture(const emu_stream *s, const char *what)
{
    if (s->capture) emu::fatal("%s while the stream is captured", what);
}

/* For calls that would reach beyond their stream: a capture of the thread's forbids them. */
void no_captures(const char *what)
{
    for (const emu_stream *s : streams) no_capture(s, what);
}

} // namespace

namespace emu
{

bool refuses()
{
    static std::string last;
    static long left;
    const char *text = getenv("TS_EMU_FAIL");
    if (!text) last.clear();
    if (!text) return false;
    if (last != text) left = atol(text);
    last = text;
    if (--left != 0) return false;
    unsetenv("TS_EMU_FAIL");
    return true;
}

void enqueue_task(cudaStream_t stream, std::function<void()> t)
{
    emu_stream *s = known(stream);
    if (s->capture) {
        s->capture->tasks.push_back(std::move(t));
        return;
    }
    s->queue.push_back(std::move(t));
    s->queued++;
}

cudaError_t enqueue(const launch_request &r, cudaStream_t s)
{
    std::shared_ptr<void> arguments(r.arguments, r.drop);
    if (refuses()) return cudaErrorUnknown;
    const uint64_t blocks = (uint64_t)r.grid.x * r.grid.y * r.grid.z;
    const int threads = (int)(r.block.x * r.block.y * r.block.z);
    if (r.together && blocks > (uint64_t)processors() * resident_blocks(threads, r.shared_bytes))
        return cudaErrorCooperativeLaunchTooLarge;
    enqueue_task(s, [r, arguments] { run_kernel(r); });
    return cudaSuccess;
}

} // namespace emu

const char *cudaGetErrorString(cudaError_t e)
{
    switch (e) {
    case cudaSuccess:
        return "no error";
    case cudaErrorInvalidValue:
        return "invalid argument";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorCooperativeLaunchTooLarge:
        return "too many blocks in cooperative launch";
    case cudaErrorUnknown:
        break;
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient for CUDA runtime version";
    }
    return "unknown error";
}

cudaError_t cudaGetLastError()
{
    return cudaSuccess;
}

/* TS_EMU_DEVICES: how many devices there are, -1 for a machine without a driver. */
cudaError_t cudaGetDeviceCount(int *n)
{
    if (emu::refuses()) return cudaErrorUnknown;
    const char *text = getenv("TS_EMU_DEVICES");
    *n = text ? atoi(text) : 1;
    if (*n < 0) return cudaErrorInsufficientDriver;
    return *n ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaSetDevice(int device)
{
    int n = 0;
    const cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess) return e;
    return device >= 0 && device < n ? cudaSuccess : cudaErrorInvalidDevice;
}

/* TS_EMU_SHARED: bytes of shared memory that a block can have, less on some devices than on sm_80. TS_EMU_CAPABILITY:
 * ten times the compute capability. */
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    const char *shared = getenv("TS_EMU_SHARED"), *capability = getenv("TS_EMU_CAPABILITY");
    const int tens = capability ? atoi(capability) : 80;
    *p = {};
    strcpy(p->name, "emulated device");
    p->totalGlobalMem = emu::device_memory();
    p->sharedMemPerBlockOptin = shared ? (size_t)atoi(shared) : (size_t)emu::MAX_SHARED;
    p->major = tens / 10;
    p->minor = tens % 10;
    p->multiProcessorCount = emu::processors();
    return cudaSetDevice(device);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *, int threads, size_t dynamic_shared)
{
    if (emu::refuses()) return cudaErrorUnknown;
    *blocks = emu::resident_blocks(threads, dynamic_shared);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *free_bytes = emu::device_room();
    *total = emu::device_memory();
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    *p = nullptr;
    no_captures("cudaMalloc");
    if (emu::refuses()) return cudaErrorMemoryAllocation;
    *p = bytes ? emu::device_alloc(bytes) : nullptr;
    return *p || !bytes ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void *p)
{
    no_captures("cudaFree");
    run_all(); /* cudaFree waits for the device */
    emu::open_memory();
    if (p) emu::device_free(p);
    emu::close_memory();
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    *p = emu::refuses() ? nullptr : malloc(bytes);
    if (!*p) return cudaErrorMemoryAllocation;
    pinned.insert(*p);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    if (p && pinned.erase(p) == 0) emu::fatal("cudaFreeHost of %p, which is no pinned allocation", p);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s)
{
    task t;
    if (emu::refuses()) return cudaErrorUnknown;
    if (kind == cudaMemcpyHostToDevice && !pinned.count(from)) no_capture(known(s), "cudaMemcpy from pageable memory");
    if (kind == cudaMemcpyDeviceToDevice)
        t = [=] {
            emu::check_device(from, bytes, false, "cudaMemcpy");
            emu::check_device(to, bytes, true, "cudaMemcpy");
            memmove(to, from, bytes);
        };
    else if (kind == cudaMemcpyDeviceToHost)
        t = [=] {
            emu::check_device(from, bytes, false, "cudaMemcpy");
            memcpy(to, from, bytes);
        };
    else if (pinned.count(from))
        t = [=] {
            emu::check_device(to, bytes, true, "cudaMemcpy");
            memcpy(to, from, bytes);
        };
    else {
        auto copy = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
        t = [=] {
            emu::check_device(to, bytes, true, "cudaMemcpy");
            memcpy(to, copy->data(), bytes);
        };
    }
    emu::enqueue_task(s, std::move(t));
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s)
{
    if (emu::refuses()) return cudaErrorUnknown;
    emu::enqueue_task(s, [=] {
        emu::check_device(p, bytes, true, "cudaMemset");
        memset(p, value, bytes);
    });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = nullptr;
    if (emu::refuses()) return cudaErrorUnknown;
    *s = new emu_stream();
    streams.insert(*s);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    run_until(known(s), s->queued);
    streams.erase(s);
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    no_capture(known(s), "cudaStreamSynchronize");
    run_until(s, s->queued);
    return emu::refuses() ? cudaErrorUnknown : cudaSuccess;
}

cudaError_t cudaDeviceSynchronize()
{
    run_all();
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new emu_event();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    e->stream = known(s);
    e->at = s->queued;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    if (e->stream) run_until(known(e->stream), e->at);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    if (!e->stream) return cudaSuccess;
    emu_stream *other = known(e->stream);
    const uint64_t at = e->at;
    emu::enqueue_task(s, [=] { run_until(other, at); });
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    no_capture(known(s), "cudaStreamBeginCapture");
    if (emu::refuses()) return cudaErrorUnknown;
    s->capture = new emu_graph();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    if (!known(s)->capture) emu::fatal("cudaStreamEndCapture of a stream that is not captured");
    *g = s->capture;
    s->capture = nullptr;
    if (!emu::refuses()) return cudaSuccess;
    delete *g;
    *g = nullptr;
    return cudaErrorUnknown;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long)
{
    *x = nullptr;
    if (emu::refuses()) return cudaErrorUnknown;
    *x = new emu_graph_exec{ g->tasks };
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
    if (emu::refuses()) return cudaErrorUnknown;
    std::vector<task> tasks = x->tasks; /* the graph may be gone when they run */
    emu::enqueue_task(s, [tasks] {
        for (const task &t : tasks) t();
    });
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    delete x;
    return cudaSuccess;
}
