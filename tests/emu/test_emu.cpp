/* test_emu.cpp - the emulated device is strict: each mistake of a kernel or of its host code, made on purpose, ends the
 * program with the line that names it, and correct code passes under every order of threads. */
#include "tests/emu/strict.h"

/* ---- threads of a block ---- */

static void reverse(int *out, int barrier)
{
    __shared__ int room[N];
    room[threadIdx.x] = (int)threadIdx.x;
    if (barrier) __syncthreads();
    out[threadIdx.x] = room[N - 1 - threadIdx.x];
}

static void rotate_in_warp(int *out, int sync)
{
    __shared__ int room[N];
    const int lane = threadIdx.x % WARP, base = (int)threadIdx.x - lane;
    for (int round = 0; round < 3; round++) {
        room[threadIdx.x] = lane + round;
        if (sync) __syncwarp();
        out[threadIdx.x] = room[base + (lane + 1) % WARP];
        if (sync) __syncwarp();
    }
}

static void half_at_barrier(int *out)
{
    out[threadIdx.x] = 0;
    if (threadIdx.x < 32) __syncthreads();
}

static void two_barriers(int *out)
{
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 0;
}

static void shared_unwritten(int *out)
{
    __shared__ int room[N];
    if (threadIdx.x > 0) room[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = room[threadIdx.x];
}

static void shared_overrun(int *out)
{
    TS_SHARED(shared);
    int *room = (int *)shared;
    room[threadIdx.x + 1] = 1;
    out[threadIdx.x] = room[threadIdx.x + 1];
}

START_TEST(barriers)
{
    expect(
        "barrier", [] { LAUNCH(reverse, 3, N, 0, device_ints(N), 1); }, nullptr);
    expect(
        "warp", [] { LAUNCH(rotate_in_warp, 3, N, 0, device_ints(N), 1); }, nullptr);
    expect(
        "half a block", [] { LAUNCH(half_at_barrier, 1, N, 0, device_ints(N)); }, "it has ended");
    expect(
        "two barriers", [] { LAUNCH(two_barriers, 1, N, 0, device_ints(N)); }, "it waits at");
    if (CALLBACKS) {
        expect(
            "no barrier", [] { LAUNCH(reverse, 1, N, 0, device_ints(N), 0); }, "shared memory");
        expect(
            "no __syncwarp", [] { LAUNCH(rotate_in_warp, 1, N, 0, device_ints(N), 0); }, "shared memory");
        expect(
            "unwritten", [] { LAUNCH(shared_unwritten, 1, N, 0, device_ints(N)); }, "before it was written");
        expect(
            "overrun", [] { LAUNCH(shared_overrun, 1, N, N * sizeof(int), device_ints(N)); }, "beyond shared memory");
    }
}
END_TEST

static void warp_operations(int *out)
{
    const int lane = threadIdx.x % WARP;
    const double sum = warp_sum((double)lane);
    const int down = __shfl_down_sync(ALL_LANES, lane, 4), up = __shfl_up_sync(ALL_LANES, lane, 4);
    const unsigned even = __ballot_sync(ALL_LANES, lane % 2 == 0);
    const int right = sum == 496 && down == (lane + 4 < WARP ? lane + 4 : lane) &&
                      up == (lane >= 4 ? lane - 4 : lane) && even == 0x55555555u && __all_sync(ALL_LANES, 1) &&
                      !__any_sync(ALL_LANES, 0) && __shfl_sync(ALL_LANES, lane, 7) == 7;
    atomicAdd(out, right);
}

static void check_count(void (*kernel)(int *), int blocks, int threads)
{
    int *out = written_ints(1), got = -1;
    LAUNCH(kernel, blocks, threads, 0, out);
    ck_assert_int_eq(download_cuda(s, &got, out, sizeof got), TS_OK);
    ck_assert_int_eq(got, blocks * threads);
}

static void shuffle_from_outside(int *out)
{
    if (threadIdx.x < 16) out[0] = __shfl_sync(0xffffu, 1, 20);
}

static void mask_without_caller(int *out)
{
    out[0] = __shfl_sync(0xffffu, 1, 0);
}

static void lane_that_left(int *out)
{
    if (threadIdx.x == 3) return;
    out[0] = __shfl_sync(ALL_LANES, 1, 0);
}

START_TEST(warps)
{
    expect(
        "all", [] { check_count(warp_operations, 2, 64); }, nullptr);
    expect(
        "outside", [] { LAUNCH(shuffle_from_outside, 1, 32, 0, device_ints(1)); }, "does not take part");
    expect(
        "mask", [] { LAUNCH(mask_without_caller, 1, 32, 0, device_ints(1)); }, "leaves out the calling lane");
    expect(
        "left", [] { LAUNCH(lane_that_left, 1, 32, 0, device_ints(1)); }, "it has ended");
}
END_TEST

/* ---- memory ---- */

static void read_at(int *out, const int *x, int64_t at)
{
    out[0] = x[at];
}

static void read_vector(float *out, const float *x)
{
    out[0] = load4(x).x;
}

static void read_freed()
{
    int *x = written_ints(4096), *out = device_ints(1);
    ck_assert_int_eq(stream_sync_cuda(s), TS_OK);
    mem_free_cuda(s, x);
    LAUNCH(read_at, 1, 1, 0, out, x, 7);
}

static void free_twice()
{
    int *x = device_ints(4);
    mem_free_cuda(s, x);
    mem_free_cuda(s, x);
}

static void touch_from_host()
{
    setenv("TS_EMU_GUARD", "1", 1);
    volatile int *x = written_ints(4);
    ck_assert_int_eq(stream_sync_cuda(s), TS_OK);
    x[0] = 1;
}

START_TEST(memory)
{
    static int host[4];
    expect(
        "inside", [] { LAUNCH(read_at, 1, 1, 0, device_ints(1), written_ints(8), 7); }, nullptr);
    if (CALLBACKS) {
        expect(
            "behind", [] { LAUNCH(read_at, 1, 1, 0, device_ints(1), written_ints(8), 8); },
            "outside of its allocation");
        expect(
            "before", [] { LAUNCH(read_at, 1, 1, 0, device_ints(1), written_ints(8), -1); }, "a read of 4 bytes");
        expect(
            "unwritten", [] { LAUNCH(read_at, 1, 1, 0, device_ints(1), device_ints(8), 7); }, "never written");
        expect("freed", read_freed, "freed");
        expect(
            "host", [] { LAUNCH(read_at, 1, 1, 0, (int *)malloc(4), written_ints(8), 7); }, "host memory");
    }
    expect(
        "vector", [] { LAUNCH(read_vector, 1, 1, 0, (float *)device_ints(1), (const float *)(written_ints(8) + 1)); },
        "misaligned");
    expect("free twice", free_twice, "not allocated");
    expect(
        "upload to the host", [] { upload_cuda(s, host, host, 4); }, "not device memory");
    if (CALLBACKS) {
        expect(
            "download unwritten", [] { download_cuda(s, host, device_ints(4), 4); }, "never written");
        setenv("TS_EMU_GUARD", "1", 1);
        expect("host touches", touch_from_host, "host code touched device memory");
        unsetenv("TS_EMU_GUARD");
    }
}
END_TEST

START_TEST(limits)
{
    expect(
        "threads", [] { LAUNCH(read_at, 1, 1025, 0, device_ints(1), written_ints(8), 7); }, "at most 1024 threads");
    expect(
        "no blocks", [] { LAUNCH(read_at, 0, 32, 0, device_ints(1), written_ints(8), 7); }, "with a grid of (0,1,1)");
    expect(
        "grid", [] { LAUNCH(read_at, dim3(1, 65536), 32, 0, device_ints(1), written_ints(8), 7); }, "with a grid of");
    expect(
        "shared", [] { LAUNCH(reverse, 1, N, 49153, device_ints(N), 1); }, "the limit is 49152");
    expect(
        "more shared",
        [] {
            const cudaFuncAttribute most = cudaFuncAttributeMaxDynamicSharedMemorySize;
            ck_assert_int_eq(cudaFuncSetAttribute(reverse, most, 166912), cudaSuccess);
            ck_assert_int_eq(cudaFuncSetAttribute(reverse, most, 166913), cudaErrorInvalidValue);
            LAUNCH(reverse, 1, N, 166912, device_ints(N), 1);
        },
        nullptr);
}
END_TEST

/* ---- streams ---- */

static void set_to(int *x, int value)
{
    *x = value;
}

static void increment(int *x)
{
    x[0]++;
}

static void late_work()
{
    int *x = device_ints(1), *pinned;
    ck_assert_int_eq(cudaMallocHost((void **)&pinned, sizeof *pinned), cudaSuccess);
    *pinned = -1;
    LAUNCH(set_to, 1, 1, 0, x, 5);
    ck_assert_int_eq(cudaMemcpyAsync(pinned, x, sizeof *pinned, cudaMemcpyDeviceToHost, s->stream), cudaSuccess);
    ck_assert_int_eq(*pinned, -1); /* nobody has waited */
    ck_assert_int_eq(stream_sync_cuda(s), TS_OK);
    ck_assert_int_eq(*pinned, 5);
    *pinned = 6; /* a copy from pinned memory reads it when it runs, one from other memory at once */
    ck_assert_int_eq(cudaMemcpyAsync(x, pinned, sizeof *pinned, cudaMemcpyHostToDevice, s->stream), cudaSuccess);
    *pinned = 7;
    int got, plain = 8;
    ck_assert_int_eq(download_cuda(s, &got, x, sizeof got), TS_OK);
    ck_assert_int_eq(got, 7);
    ck_assert_int_eq(upload_cuda(s, x, &plain, sizeof plain), TS_OK);
    plain = 9;
    ck_assert_int_eq(download_cuda(s, &got, x, sizeof got), TS_OK);
    ck_assert_int_eq(got, 8);
    cudaFreeHost(pinned);
}

/* The second stream reads what the first writes. */
static void two_streams(int ordered)
{
    ts_stream *other;
    cudaEvent_t written;
    int *x = device_ints(1), *out = device_ints(1);
    ck_assert_int_eq(stream_new_cuda(&other, 0, 0), TS_OK);
    ck_assert_int_eq(cudaEventCreateWithFlags(&written, cudaEventDisableTiming), cudaSuccess);
    LAUNCH(set_to, 1, 1, 0, x, 5);
    cudaEventRecord(written, s->stream);
    if (ordered) cudaStreamWaitEvent(other->stream, written);
    TS_LAUNCH(read_at, 1, 1, 0, other, out, x, 0);
    int got = 0;
    ck_assert_int_eq(download_cuda(other, &got, out, sizeof got), TS_OK);
    ck_assert_int_eq(got, 5);
    cudaEventDestroy(written);
    stream_free_cuda(other);
}

static void graph()
{
    cudaGraph_t g;
    cudaGraphExec_t x;
    int *n = written_ints(1), got = 0;
    ck_assert_int_eq(cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    LAUNCH(increment, 1, 1, 0, n);
    LAUNCH(increment, 1, 1, 0, n);
    ck_assert_int_eq(cudaStreamEndCapture(s->stream, &g), cudaSuccess);
    ck_assert_int_eq(cudaGraphInstantiate(&x, g), cudaSuccess);
    ck_assert_int_eq(download_cuda(s, &got, n, sizeof got), TS_OK);
    ck_assert_int_eq(got, 0); /* captured, not run */
    cudaGraphDestroy(g);
    for (int i = 0; i < 3; i++) cudaGraphLaunch(x, s->stream);
    cudaGraphExecDestroy(x);
    ck_assert_int_eq(download_cuda(s, &got, n, sizeof got), TS_OK);
    ck_assert_int_eq(got, 6);
}

static void sync_in_capture()
{
    cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal);
    cudaStreamSynchronize(s->stream);
}

static void alloc_in_capture()
{
    void *p;
    cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal);
    cudaMalloc(&p, 16);
}

static void free_in_capture()
{
    int *n = device_ints(1);
    cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal);
    cudaFree(n);
}

static void upload_in_capture()
{
    int x = 1, *n = device_ints(1);
    cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal);
    upload_cuda(s, n, &x, sizeof x);
}

/* What the backend makes of it: a ts_capture runs as often as it is launched. */
static void recorded()
{
    ts_capture *c;
    int *n = written_ints(1), got = 0;
    ck_assert_int_eq(capture_begin_cuda(s), TS_OK);
    LAUNCH_TOGETHER(increment, 1, 1, 0, n);
    ck_assert_int_eq(capture_end_cuda(s, &c), TS_OK);
    for (int i = 0; i < 3; i++) ck_assert_int_eq(capture_launch_cuda(s, c), TS_OK);
    capture_free_cuda(s, c);
    capture_free_cuda(s, nullptr);
    ck_assert_int_eq(download_cuda(s, &got, n, sizeof got), TS_OK);
    ck_assert_int_eq(got, 3);
}

START_TEST(streams)
{
    expect("late", late_work, nullptr);
    expect(
        "ordered", [] { two_streams(1); }, nullptr);
    if (CALLBACKS) {
        expect(
            "not ordered", [] { two_streams(0); }, "never written");
    }
    expect("graph", graph, nullptr);
    expect("recorded", recorded, nullptr);
    expect("capture", sync_in_capture, "cudaStreamSynchronize while the stream is captured");
    expect("capture, alloc", alloc_in_capture, "cudaMalloc while the stream is captured");
    expect("capture, free", free_in_capture, "cudaFree while the stream is captured");
    expect("capture, upload", upload_in_capture, "cudaMemcpy from pageable memory while the stream is captured");
    expect(
        "default stream", [] { cudaMemsetAsync(device_ints(1), 0, 4, nullptr); }, "default stream");
}
END_TEST

static void note_order(int *count, int *order)
{
    order[atomicAdd(count, 1)] = (int)(blockIdx.x * blockDim.x + threadIdx.x);
}

/* The order in which the threads of two blocks run under this seed. */
static void order_of(int order[2 * N], const char *seed)
{
    setenv("TS_EMU_SEED", seed, 1);
    int *count = written_ints(1), *all = device_ints(2 * N);
    LAUNCH(note_order, 2, N, 0, count, all);
    ck_assert_int_eq(download_cuda(s, order, all, 2 * N * sizeof(int)), TS_OK);
    int seen[2 * N] = {};
    for (int i = 0; i < 2 * N; i++) seen[order[i]]++;
    for (int i = 0; i < 2 * N; i++) ck_assert_int_eq(seen[i], 1);
}

START_TEST(seeds)
{
    expect(
        "orders",
        [] {
            int plain[2 * N], one[2 * N], again[2 * N], two[2 * N];
            order_of(plain, "0");
            order_of(one, "1");
            order_of(again, "1");
            order_of(two, "2");
            for (int i = 0; i < 2 * N; i++) ck_assert_int_eq(plain[i], i);
            ck_assert(memcmp(one, plain, sizeof one) != 0 && memcmp(one, two, sizeof one) != 0);
            ck_assert(memcmp(one, again, sizeof one) == 0);
        },
        nullptr);
    expect(
        "reverse",
        [] {
            setenv("TS_EMU_SEED", "3", 1);
            LAUNCH(reverse, 3, N, 0, device_ints(N), 1);
        },
        nullptr);
}
END_TEST

/* ---- a backend without its device ---- */

START_TEST(devices)
{
    setenv("TS_EMU_DEVICES", "-1", 1);
    ck_assert_int_eq(stream_new_cuda(&s, 0, 0), TS_E_DEVICE);
    ck_assert_msg(strstr(ts_error(), "driver version is insufficient"), "%s", ts_error());
    setenv("TS_EMU_DEVICES", "0", 1);
    ck_assert_int_eq(stream_new_cuda(&s, 0, 0), TS_E_DEVICE);
    ck_assert_ptr_null(s);
    setenv("TS_EMU_DEVICES", "2", 1);
    ck_assert_int_eq(stream_new_cuda(&s, 2, 0), TS_E_DEVICE);
    ck_assert_msg(strstr(ts_error(), "cuda:2 does not exist"), "%s", ts_error());
    ck_assert_int_eq(stream_new_cuda(&s, -1, 0), TS_E_DEVICE);
    ck_assert_int_eq(stream_new_cuda(&s, 1, 0), TS_OK);
    stream_free_cuda(s);
    stream_free_cuda(nullptr);
    setenv("TS_EMU_CAPABILITY", "75", 1);
    ck_assert_int_eq(stream_new_cuda(&s, 1, 0), TS_E_DEVICE);
    ck_assert_str_eq(ts_error(), "cuda:1 has compute capability 7.5, this build needs 8.0 or newer");
}
END_TEST

START_TEST(about)
{
    char text[TS_ABOUT] = "";
    ck_assert_int_eq(about_cuda(0, text), TS_OK);
    ck_assert_str_eq(text, "emulated device, 16.0 GiB, compute capability 8.0");
    ck_assert_int_eq(about_cuda(1, text), TS_E_DEVICE);
    ck_assert_int_eq(about_cuda(-1, text), TS_E_DEVICE);
    setenv("TS_EMU_DEVICES", "2", 1);
    setenv("TS_EMU_CAPABILITY", "75", 1);
    ck_assert_int_eq(about_cuda(1, text), TS_OK);
    ck_assert_str_eq(text, "emulated device, 16.0 GiB, compute capability 7.5 (too old for this build)");
    setenv("TS_EMU_DEVICES", "-1", 1);
    ck_assert_int_eq(about_cuda(0, text), TS_E_DEVICE);
}
END_TEST

/* What is free counts what was freed; the message says how much was wanted, and what helps. */
START_TEST(out_of_memory)
{
    const size_t mib = 1 << 20;
    setenv("TS_EMU_MEMORY", "67108864", 1);
    setenv("TS_EMU_DEVICES", "4", 1);
    ck_assert_int_eq(stream_new_cuda(&s, 3, 0), TS_OK);
    void *a, *b;
    ck_assert_int_eq(mem_alloc_cuda(s, &a, 40 * mib), TS_OK);
    ck_assert_int_eq(mem_alloc_cuda(s, &b, 24 * mib), TS_E_NOMEM);
    ck_assert_ptr_null(b);
    ck_assert_str_eq(ts_error(), "cuda:3: 24.0 MiB were asked for, 24.0 of 64.0 MiB are free (out of memory); "
                                 "a smaller batch needs less");
    ck_assert_int_eq(mem_alloc_cuda(s, &b, 23 * mib), TS_OK);
    mem_free_cuda(s, a);
    ck_assert_int_eq(mem_alloc_cuda(s, &a, (size_t)1 << 40), TS_E_NOMEM);
    ck_assert_str_eq(ts_error(), "cuda:3: 1048576.0 MiB were asked for, 41.0 of 64.0 MiB are free (out of memory); "
                                 "a smaller batch needs less");
    mem_free_cuda(s, b);
    stream_free_cuda(s);
}
END_TEST

int main()
{
    return run_tests("emu", { barriers, warps, memory, limits, streams, seeds, devices, about, out_of_memory });
}
