/* emu.h - the emulated CUDA device, inside. Kernels and the host code of kernels/cuda are compiled by the host compiler
 * against include/cuda_runtime.h; this is what runs them.
 *
 *   memory.cpp  device memory with one shadow byte for each byte, and the checks of every access
 *   block.cpp   the threads of a block as fibers; barriers, warp operations, shared memory
 *   traffic.cpp bytes, sectors and bank conflicts of launches, if asked for
 *   stream.cpp  streams, events, graphs: work is put off until somebody waits for it
 *   include/mma.h  matrix fragments; products of a warp in block.cpp
 *   cublas.cpp, cudnn.cpp  the calls of cuBLAS and cuDNN in use, as plain loops (of cuDNN in convolution.cpp)
 *
 * Every access of a kernel arrives here because kernels are compiled with -fsanitize=thread and linked with the
 * __tsan_* functions of memory.cpp. (With ASAN=1 AddressSanitizer takes that place: bounds and freed memory, but
 * neither unwritten memory nor races.) What a device would do wrong silently ends the program with one line:
 *   - launches and shared memory over the limits of sm_80, empty launches
 *   - a barrier or warp operation that not all its threads reach, or reach at different lines; a barrier of the grid that
 *     not all threads of all blocks reach, or in a launch that is not cooperative
 *   - access to device memory outside of any allocation, freed, or never written; to host memory; misaligned vectors
 *   - shared memory read before it is written, and races: two threads, one word, a write, no barrier between
 *   - with TS_EMU_GUARD=1 (slow) host code that touches device memory
 * TS_EMU_FAIL=N makes the N-th call of the runtime, cuBLAS or cuDNN from now on fail, and takes the variable away then.
 * TS_EMU_PROCESSORS=N is how many multiprocessors there are, 8 without it. A cooperative launch of more blocks than they
 * have room for is refused as by CUDA; static shared memory and registers, which are not known here, take none.
 * TS_EMU_SEED=N runs blocks, and the threads of a block, in another order for every N; 0, the default, is ascending.
 */
#ifndef TS_EMU_H
#define TS_EMU_H

#include <functional>

#include "tests/emu/include/cuda_runtime.h"

namespace emu
{

enum { MAX_THREADS = 1024, WARP = 32, STATIC_SHARED = 48 << 10, MAX_SHARED = 163 << 10 };

/* One thread of the block that runs. */
struct thread {
    uint3 index;
    int number;          /* in its block */
    unsigned warp_syncs; /* warp operations so far, over all launches */
    struct fiber *fiber;
    enum { NEW, READY, AT_BARRIER, AT_WARP, AT_GRID, DONE } state;
    const char *file; /* where it waits, and for what */
    int line;
    warp_op op;
    unsigned mask;
    uint64_t value, result;
    int lane;
};

extern thread *current;      /* NULL outside of kernels */
extern unsigned block_epoch; /* counts barriers and blocks */

/* Ends the program: "emu: kernel K, block (x,y,z), thread (x,y,z): what". */
[[noreturn]] void fatal(const char *format, ...) __attribute__((format(printf, 1, 2)));

void run_kernel(const launch_request &r);
int most_shared(); /* bytes of shared memory that a block can have: TS_EMU_SHARED */
int processors();
int resident_blocks(int threads, size_t dynamic_shared); /* of a multiprocessor at one time */

/* memory.cpp. With TS_EMU_GUARD device memory is inaccessible to the host except between open and close. */
void *device_alloc(size_t bytes); /* NULL if there is no more */
void device_free(void *p);
size_t device_memory(); /* all there is: TS_EMU_MEMORY bytes, 16 GiB without it */
size_t device_room();   /* what of it is free */
void open_memory();
void close_memory();
/* All of [p, p + bytes) must be allocated device memory; for reading it must have been written, writing marks it so. */
void check_device(const void *p, size_t bytes, bool write, const char *what);

/* Shared memory of a block: the section of __shared__ variables and one dynamic buffer. */
void begin_block(void *dynamic, size_t bytes);
/* A block that waits for the grid leaves its shared memory, and what is known of it, and finds both again. */
struct block_memory;
block_memory *leave_block();
void return_to_block(block_memory *m); /* which is gone then */
void set_arguments(const void *p, size_t bytes);
void set_stacks(const void *p, size_t bytes);

/* traffic.cpp. With TS_EMU_TRAFFIC=FILE every launch leaves a line there: its kernel, how many launches of it came
 * before, sizes, and the bytes of all accesses; with TS_EMU_TRAFFIC_OF=" KERNEL#NUMBER KERNEL#NUMBER " those launches
 * alone, or with "all" all of them, with all that the report of tools/cuda_report.py says of them. */
extern bool counting; /* accesses of this launch are counted */
void begin_traffic(const char *kernel, int threads);
void count_access(const void *p, size_t bytes, bool write, bool shared, const void *site);
/* A vector, whose numbers follow one by one. */
void count_vector(const void *p, size_t bytes, bool write, bool shared, const void *site);
void end_phase();    /* all threads stand at a barrier, or have ended */
void change_block(); /* of a cooperative launch: each begins, and goes on behind a barrier, with an empty cache */
void end_traffic(const launch_request &r);

/* stream.cpp */
bool refuses(); /* TS_EMU_FAIL: is this the call? Asked by each that can fail, but those that free */
void enqueue_task(cudaStream_t s, std::function<void()> task);

} // namespace emu

#endif
