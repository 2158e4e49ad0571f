/* device.cu - streams and memory of the CUDA backend. Contract: device.h, tessera/backend.h. */
#include "kernels/cuda/device.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/convolve.h"
#include "kernels/cuda/kept.h"
#include "kernels/cuda/launch.cuh"

enum { OLDEST = 8 }; /* major compute capability that kernels are compiled for */
static const double MIB = 1 << 20;

ts_status ts_cuda(cudaError_t e, const char *what)
{
    if (e == cudaSuccess) return TS_OK;
    return ts_fail(e == cudaErrorMemoryAllocation ? TS_E_NOMEM : TS_E_DEVICE, "%s: %s", what, cudaGetErrorString(e));
}

static ts_status find_device(int index, cudaDeviceProp *p)
{
    int n = 0;
    const cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess) return ts_fail(TS_E_DEVICE, "no CUDA device can be used: %s", cudaGetErrorString(e));
    if (index < 0 || index >= n)
        return ts_fail(TS_E_DEVICE, "cuda:%d does not exist, this machine has cuda:0 to cuda:%d", index, n - 1);
    return ts_cuda(cudaGetDeviceProperties(p, index), "cuda device");
}

ts_status about_cuda(int index, char text[TS_ABOUT])
{
    cudaDeviceProp p;
    TS_TRY(find_device(index, &p));
    snprintf(text, TS_ABOUT, "%s, %.1f GiB, compute capability %d.%d%s", p.name, (double)p.totalGlobalMem / (1 << 30),
             p.major, p.minor, p.major < OLDEST ? " (too old for this build)" : "");
    return TS_OK;
}

ts_dtype factor_dtype_cuda(ts_math math)
{
    return math == TS_MATH_BF16 ? TS_BF16 : TS_F32;
}

static ts_status take_device(ts_stream *s)
{
    cudaDeviceProp p;
    TS_TRY(find_device(s->index, &p));
    if (p.major < OLDEST)
        return ts_fail(TS_E_DEVICE, "cuda:%d has compute capability %d.%d, this build needs %d.0 or newer", s->index,
                       p.major, p.minor, OLDEST);
    s->most_shared = p.sharedMemPerBlockOptin;
    s->processors = p.multiProcessorCount;
    return ts_cuda(cudaSetDevice(s->index), "cuda device");
}

static ts_status open_blas(ts_stream *s)
{
    s->blas = ts_cublas_load();
    if (!s->blas) return TS_E_DEVICE;
    if (s->blas->create(&s->blas_handle) != CUBLAS_STATUS_SUCCESS)
        return ts_fail(TS_E_DEVICE, "cuBLAS cannot be started on cuda:%d", s->index);
    if (s->blas->set_stream(s->blas_handle, s->stream) != CUBLAS_STATUS_SUCCESS)
        return ts_fail(TS_E_DEVICE, "cuBLAS refuses the stream of cuda:%d", s->index);
    return TS_OK;
}

static ts_status open_stream(ts_stream *s)
{
    TS_TRY(take_device(s));
    TS_TRY(ts_cuda(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking), "cuda stream"));
    TS_TRY(ts_cuda(cudaMalloc((void **)&s->bad_draw, sizeof *s->bad_draw), "cuda stream"));
    TS_TRY(ts_cuda(cudaMemsetAsync(s->bad_draw, 0xff, sizeof *s->bad_draw, s->stream), "cuda stream"));
    TS_TRY(ts_cuda(cudaMalloc((void **)&s->partial, PARTIALS * sizeof *s->partial), "cuda stream"));
    return open_blas(s);
}

ts_status stream_new_cuda(ts_stream **s, int index, int threads)
{
    (void)threads; /* of the CPU */
    *s = nullptr;
    ts_stream *n = (ts_stream *)calloc(1, sizeof *n);
    if (!n) return ts_fail(TS_E_NOMEM, "no memory for a stream (%zu bytes)", sizeof *n);
    n->index = index;
    const ts_status st = open_stream(n);
    if (st != TS_OK) {
        stream_free_cuda(n);
        return st;
    }
    *s = n;
    return TS_OK;
}

void stream_free_cuda(ts_stream *s)
{
    if (!s) return;
    if (s->stream) cudaStreamSynchronize(s->stream);
    ts_convolve_close(s);
    ts_kept_free(s->kept);
    if (s->blas_handle) s->blas->destroy(s->blas_handle);
    cudaFree(s->bad_draw);
    cudaFree(s->partial);
    if (s->stream) cudaStreamDestroy(s->stream);
    free(s);
}

/* Draws that failed are reported here, since the host does not wait for a kernel. */
ts_status stream_sync_cuda(ts_stream *s)
{
    unsigned long long bad;
    TS_TRY(download_cuda(s, &bad, s->bad_draw, sizeof bad));
    if (bad == NO_BAD_DRAW) return TS_OK;
    TS_TRY(ts_cuda(cudaMemsetAsync(s->bad_draw, 0xff, sizeof bad, s->stream), "cuda memset"));
    return ts_fail(TS_E_DATA, "sample: the logits of picture %llu, token %llu hold NaN or +inf, or nothing above -inf",
                   bad >> 32, bad & 0xffffffffu);
}

ts_status mem_alloc_cuda(ts_stream *s, void **p, size_t bytes)
{
    *p = nullptr;
    const cudaError_t e = cudaMalloc(p, bytes);
    if (e == cudaSuccess) return TS_OK;
    size_t room = 0, total = 0;
    cudaGetLastError(); /* the failure is dealt with, later calls shall not report it */
    cudaMemGetInfo(&room, &total);
    return ts_fail(e == cudaErrorMemoryAllocation ? TS_E_NOMEM : TS_E_DEVICE,
                   "cuda:%d: %.1f MiB were asked for, %.1f of %.1f MiB are free (%s); a smaller batch needs less",
                   s->index, (double)bytes / MIB, (double)room / MIB, (double)total / MIB, cudaGetErrorString(e));
}

void mem_free_cuda(ts_stream *s, void *p)
{
    (void)s;
    cudaFree(p);
}

/* Pageable memory is copied aside before the call returns, so the host may reuse it at once. */
ts_status upload_cuda(ts_stream *s, void *device, const void *host, size_t bytes)
{
    return ts_cuda(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, s->stream), "cuda upload");
}

ts_status download_cuda(ts_stream *s, void *host, const void *device, size_t bytes)
{
    TS_TRY(ts_cuda(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, s->stream), "cuda download"));
    return ts_cuda(cudaStreamSynchronize(s->stream), "cuda");
}

ts_status copy_cuda(ts_stream *s, void *to, const void *from, size_t bytes)
{
    return ts_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, s->stream), "cuda copy");
}

ts_status zero_cuda(ts_stream *s, void *p, size_t bytes)
{
    return ts_cuda(cudaMemsetAsync(p, 0, bytes, s->stream), "cuda memset");
}

/* --- recording: a CUDA graph --- */

struct ts_capture {
    cudaGraphExec_t exec;
};

ts_status capture_begin_cuda(ts_stream *s)
{
    TS_TRY(ts_cuda(cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal), "cuda graph"));
    s->recording = 1;
    return TS_OK;
}

ts_status capture_end_cuda(ts_stream *s, ts_capture **c)
{
    cudaGraph_t graph = nullptr;
    *c = nullptr;
    s->recording = 0;
    TS_TRY(ts_cuda(cudaStreamEndCapture(s->stream, &graph), "cuda graph"));
    ts_capture *n = (ts_capture *)calloc(1, sizeof *n);
    ts_status st = n ? ts_cuda(cudaGraphInstantiate(&n->exec, graph, 0), "cuda graph")
                     : ts_fail(TS_E_NOMEM, "no memory for a graph (%zu bytes)", sizeof *n);
    cudaGraphDestroy(graph);
    if (st == TS_OK)
        *c = n;
    else
        free(n);
    return st;
}

ts_status capture_launch_cuda(ts_stream *s, ts_capture *c)
{
    return ts_cuda(cudaGraphLaunch(c->exec, s->stream), "cuda graph");
}

/* A graph that still runs is destroyed when it is done. */
void capture_free_cuda(ts_stream *s, ts_capture *c)
{
    (void)s;
    if (!c) return;
    cudaGraphExecDestroy(c->exec);
    free(c);
}
