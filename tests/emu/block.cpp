/* block.cpp - the threads of a block as fibers. Contract: emu.h.
 *
 * A fiber runs threads one after the other until one has to wait; that thread keeps the fiber, and the scheduler takes
 * another. So a kernel without barriers costs no switches. Blocks run one after the other as well; those of a
 * cooperative launch up to the barrier of the grid, where each leaves its threads and its shared memory for the next
 * one. */
#include <sys/mman.h>

#include <algorithm>
#include <boost/context/detail/fcontext.hpp>
#include <cstdlib>
#include <deque>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "tests/emu/emu.h"

#if defined __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#else
static void __sanitizer_start_switch_fiber(void **, const void *, size_t) {}
static void __sanitizer_finish_switch_fiber(void *, const void **, size_t *) {}
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emu
{

namespace context = boost::context::detail;

thread *current;
unsigned block_epoch;
extern const char *kernel_name;
const char *kernel_name = "";

struct fiber {
    context::fcontext_t context;
    char *stack;
    void *fake; /* AddressSanitizer's */
};

namespace
{

/* Fibers are made when they are needed; each takes two of the 65,530 mappings that Linux allows. */
constexpr size_t STACK = 128 << 10, PAGE = 4096, MOST_FIBERS = 28 << 10;

char *stacks;
std::deque<fiber> fibers;
std::vector<fiber *> idle;
std::vector<thread> threads;
std::vector<int> order; /* in which threads start and go on */
size_t started;
fiber *running;
context::fcontext_t scheduler;
const void *scheduler_stack;
size_t scheduler_bytes;
void *scheduler_fake;
const launch_request *request;
char *dynamic_buffer;
std::map<const void *, int> shared_limits;

/* From a fiber back to the scheduler; returns when the fiber goes on. */
void leave()
{
    fiber *me = running;
    __sanitizer_start_switch_fiber(&me->fake, scheduler_stack, scheduler_bytes);
    scheduler = context::jump_fcontext(scheduler, nullptr).fctx;
    __sanitizer_finish_switch_fiber(me->fake, &scheduler_stack, &scheduler_bytes);
}

void resume(fiber *f)
{
    running = f;
    __sanitizer_start_switch_fiber(&scheduler_fake, f->stack, STACK);
    f->context = context::jump_fcontext(f->context, nullptr).fctx;
    __sanitizer_finish_switch_fiber(scheduler_fake, nullptr, nullptr);
    current = nullptr;
}

void set_current(thread *t)
{
    current = t;
    threadIdx = t->index;
}

/* What a fiber does: start threads while there are any, then lie idle until the next block. */
void fiber_main(context::transfer_t from)
{
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_bytes);
    scheduler = from.fctx;
    for (;;) {
        while (started < threads.size()) {
            thread *t = &threads[order[started++]];
            t->fiber = running;
            set_current(t);
            request->run(request->kernel, request->arguments);
            current->state = thread::DONE;
        }
        idle.push_back(running);
        leave();
    }
}

void make_stacks()
{
    if (stacks) return;
    const size_t bytes = MOST_FIBERS * STACK;
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) fatal("no memory for the stacks of %zu fibers", MOST_FIBERS);
    stacks = (char *)p;
    set_stacks(p, bytes);
}

fiber *take_fiber()
{
    if (idle.empty()) {
        if (fibers.size() == MOST_FIBERS) fatal("%s has more than %zu threads at one time", kernel_name, MOST_FIBERS);
        char *stack = stacks + fibers.size() * STACK;
        mprotect(stack, PAGE, PROT_NONE); /* stacks grow down into this page */
        fibers.push_back(fiber{ context::make_fcontext(stack + STACK, STACK - PAGE, fiber_main), stack, nullptr });
        return &fibers.back();
    }
    fiber *f = idle.back();
    idle.pop_back();
    return f;
}

std::string name_of(const thread &t)
{
    return "(" + std::to_string(t.index.x) + "," + std::to_string(t.index.y) + "," + std::to_string(t.index.z) + ")";
}

float widened(uint16_t bits)
{
    const uint32_t u = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* c += a b */
void multiply(thread *base)
{
    float a[16][16], b[16][16], c[16][16];
    unsigned row, column;
    for (int n = 0; n < 256; n++) {
        const matrix_lane &from = *(matrix_lane *)(uintptr_t)base[n / 8].value;
        matrix_place(n / 8, n % 8, &row, &column);
        a[row][column] = widened(from.a[n % 8]);
        b[column][row] = widened(from.b[n % 8]);
        c[row][column] = from.c[n % 8];
    }
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 16; j++) c[i][j] += a[i][k] * b[k][j];
    for (int n = 0; n < 256; n++) {
        matrix_place(n / 8, n % 8, &row, &column);
        ((matrix_lane *)(uintptr_t)base[n / 8].value)->c[n % 8] = c[row][column];
    }
}

/* The operation of a whole group of lanes, which all wait at it. base: lane 0 of their warp. */
void finish_warp(thread *base, int lanes, unsigned mask)
{
    for (int i = 0; i < lanes; i++) {
        thread &t = base[i];
        if (!(mask >> i & 1)) continue;
        int from = i;
        switch (t.op) {
        case SYNC:
            break;
        case SHUFFLE:
            from = t.lane & (WARP - 1);
            break;
        case SHUFFLE_XOR:
            from = i ^ t.lane;
            break;
        case SHUFFLE_DOWN:
            from = i + t.lane < WARP ? i + t.lane : i;
            break;
        case SHUFFLE_UP:
            from = i - t.lane >= 0 ? i - t.lane : i;
            break;
        case BALLOT:
        case MEET:
        case MATRIX:
            break;
        }
        if (t.op == MEET && base[0].value != t.value) {
            current = &t;
            fatal("%s:%d: the lanes of a warp name different matrices", t.file, t.line);
        }
        if (from >= lanes || !(mask >> from & 1)) {
            current = &t;
            fatal("%s:%d: shuffle from lane %d, which does not take part", t.file, t.line, from);
        }
        t.result = base[from].value;
        if (t.op == BALLOT) {
            t.result = 0;
            for (int j = 0; j < lanes; j++) t.result |= (mask >> j & 1 ? base[j].value : 0) << j;
        }
    }
    const warp_op op = base[__builtin_ctz(mask)].op;
    if (op == MATRIX) multiply(base);
    for (int i = 0; i < lanes; i++) {
        if (!(mask >> i & 1)) continue;
        base[i].state = thread::READY;
        base[i].warp_syncs += op != MEET && op != MATRIX; /* those order no memory */
    }
}

bool same_operation(const thread &a, const thread &b)
{
    return b.state == thread::AT_WARP && a.op == b.op && a.mask == b.mask && a.line == b.line && a.file == b.file;
}

/* Finish the warp operations that all their lanes have reached. */
bool release_warps()
{
    bool any = false;
    const int n = (int)threads.size();
    for (int w = 0; w < n; w += WARP) {
        const int lanes = std::min<int>(WARP, n - w);
        for (int i = 0; i < lanes; i++) {
            const thread &t = threads[w + i];
            if (t.state != thread::AT_WARP) continue;
            const unsigned mask = lanes == WARP ? t.mask : t.mask & ((1u << lanes) - 1);
            bool all = true;
            for (int j = 0; j < lanes; j++) all = all && (!(mask >> j & 1) || same_operation(t, threads[w + j]));
            if (!all) continue;
            finish_warp(&threads[w], lanes, mask);
            any = true;
        }
    }
    return any;
}

/* Let everybody pass if all stand at the same barrier. */
bool release_barrier()
{
    const thread &first = threads[0];
    for (const thread &t : threads)
        if (t.state != thread::AT_BARRIER || t.line != first.line || t.file != first.file) return false;
    for (thread &t : threads) t.state = thread::READY;
    block_epoch++;
    if (counting) end_phase();
    return true;
}

bool same_barrier(const thread &a, const thread &b)
{
    return a.state != thread::AT_WARP && a.state == b.state && a.line == b.line && a.file == b.file;
}

/* Nothing can go on: either all is done, or all wait for the other blocks, or somebody waits for ever. */
void finish_block()
{
    for (thread &t : threads) {
        if (t.state == thread::DONE) continue;
        for (thread &other : threads) {
            if (t.state == thread::AT_WARP && (other.number / WARP != t.number / WARP || same_operation(t, other)))
                continue;
            if (same_barrier(t, other)) continue;
            current = &t;
            const char *what = t.state == thread::AT_WARP   ? "warp operation"
                               : t.state == thread::AT_GRID ? "barrier of the grid"
                                                            : "barrier";
            if (other.state == thread::DONE)
                fatal("%s:%d: %s that thread %s never reaches: it has ended", t.file, t.line, what,
                      name_of(other).c_str());
            fatal("%s:%d: %s that thread %s does not reach: it waits at %s:%d", t.file, t.line, what,
                  name_of(other).c_str(), other.file, other.line);
        }
    }
}

void start_block(uint64_t b, size_t dynamic_bytes)
{
    blockIdx = { (unsigned)(b % gridDim.x), (unsigned)(b / gridDim.x % gridDim.y),
                 (unsigned)(b / gridDim.x / gridDim.y) };
    for (thread &t : threads) t.state = thread::NEW;
    started = 0;
    begin_block(dynamic_bytes ? dynamic_buffer : nullptr, dynamic_bytes);
}

/* Run the block until all of its threads have ended, or wait for the grid. */
void go_on()
{
    block_epoch++;
    while (started < threads.size()) resume(take_fiber());
    for (;;) {
        bool any = false;
        for (int i : order) {
            thread &t = threads[i];
            if (t.state != thread::READY) continue;
            any = true;
            set_current(&t);
            resume(t.fiber);
        }
        if (!any && !release_warps() && !release_barrier()) break;
    }
    finish_block();
    if (counting) end_phase();
}

/* A block of a cooperative launch while others run. */
struct waiting_block {
    uint3 index;
    std::vector<thread> all;
    std::vector<int> turns;
    block_memory *memory;
};

void put_aside(waiting_block &w)
{
    w = { blockIdx, std::move(threads), std::move(order), leave_block() };
}

/* Its threads have passed the barrier. */
void take_up(waiting_block &w)
{
    blockIdx = w.index;
    threads = std::move(w.all);
    order = std::move(w.turns);
    return_to_block(w.memory);
    for (thread &t : threads) t.state = thread::READY;
    started = threads.size();
}

/* All blocks have come as far as they can: all have ended, or all wait at one barrier; true then. */
bool pass_grid_barrier(std::vector<waiting_block> &blocks)
{
    for (waiting_block &w : blocks) {
        thread &t = w.all[0];
        for (const waiting_block &o : blocks) {
            const thread &other = o.all[0];
            if (t.state == thread::DONE || same_barrier(t, other)) continue;
            current = &t;
            blockIdx = w.index;
            if (other.state == thread::DONE)
                fatal("%s:%d: barrier of the grid that block (%u,%u,%u) never reaches: it has ended", t.file, t.line,
                      o.index.x, o.index.y, o.index.z);
            fatal("%s:%d: barrier of the grid that block (%u,%u,%u) does not reach: it waits at %s:%d", t.file, t.line,
                  o.index.x, o.index.y, o.index.z, other.file, other.line);
        }
    }
    return blocks[0].all[0].state == thread::AT_GRID;
}

uint64_t next_random(uint64_t *seed)
{
    uint64_t z = (*seed += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

std::vector<int> make_order(int n, uint64_t *seed)
{
    std::vector<int> o(n);
    std::iota(o.begin(), o.end(), 0);
    if (*seed)
        for (int i = n - 1; i > 0; i--) std::swap(o[i], o[next_random(seed) % (uint64_t)(i + 1)]);
    return o;
}

void make_threads(int n)
{
    threads.assign(n, thread());
    for (int i = 0; i < n; i++) {
        threads[i].number = i;
        threads[i].index = { i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y };
    }
}

void wait_at(decltype(thread::state) state, const char *file, int line)
{
    current->state = state;
    current->file = file;
    current->line = line;
    leave();
}

void check_limits(const launch_request &r)
{
    const uint64_t n = (uint64_t)r.block.x * r.block.y * r.block.z;
    if (n < 1 || n > MAX_THREADS || r.block.z > 64)
        fatal("launch of %s with blocks of (%u,%u,%u), at most 1024 threads", r.name, r.block.x, r.block.y, r.block.z);
    if (!r.grid.x || !r.grid.y || !r.grid.z || r.grid.x > INT32_MAX || r.grid.y > 65535 || r.grid.z > 65535)
        fatal("launch of %s with a grid of (%u,%u,%u)", r.name, r.grid.x, r.grid.y, r.grid.z);
    auto limit = shared_limits.find(r.kernel);
    const size_t most = limit == shared_limits.end() ? (size_t)STATIC_SHARED : (size_t)limit->second;
    if (r.shared_bytes > most)
        fatal("launch of %s with %zu bytes of dynamic shared memory, the limit is %zu", r.name, r.shared_bytes, most);
}

} // namespace

int most_shared()
{
    const char *text = getenv("TS_EMU_SHARED");
    return !text ? (int)MAX_SHARED : atoi(text) < STATIC_SHARED ? (int)STATIC_SHARED : atoi(text);
}

int processors()
{
    const char *text = getenv("TS_EMU_PROCESSORS");
    return text ? atoi(text) : 8;
}

int resident_blocks(int threads, size_t dynamic_shared)
{
    enum { THREADS = 2048, BLOCKS = 32, OF_SYSTEM = 1 << 10 };
    const int whole = (threads + WARP - 1) / WARP * WARP;
    const size_t by_memory = ((size_t)most_shared() + OF_SYSTEM) / (dynamic_shared + OF_SYSTEM);
    return std::min({ (int)BLOCKS, THREADS / whole, (int)by_memory });
}

cudaError_t set_shared_limit(const void *kernel, int bytes)
{
    if (bytes < 0 || bytes > most_shared() || refuses()) return cudaErrorInvalidValue;
    shared_limits[kernel] = bytes;
    return cudaSuccess;
}

void run_kernel(const launch_request &r)
{
    const char *text = getenv("TS_EMU_SEED");
    uint64_t seed = text ? strtoull(text, nullptr, 10) : 0;
    const bool backwards = seed % 2; /* every other seed starts with the last block */
    kernel_name = r.name;
    check_limits(r);
    make_stacks();
    request = &r;
    set_arguments(r.arguments, r.arguments_bytes);
    blockDim = r.block;
    gridDim = r.grid;
    /* A buffer of exactly this size: AddressSanitizer sees its end. */
    free(dynamic_buffer);
    if (posix_memalign((void **)&dynamic_buffer, 128, r.shared_bytes + 1) != 0) fatal("no memory for shared memory");
    const int n = (int)(r.block.x * r.block.y * r.block.z);
    const uint64_t blocks = (uint64_t)r.grid.x * r.grid.y * r.grid.z;
    std::vector<waiting_block> aside(r.together ? blocks : 0);
    begin_traffic(r.name, n);
    for (uint64_t i = 0; i < blocks; i++) {
        if (i == 0 || r.together) make_threads(n);
        if (i == 0 || r.together || seed) order = make_order(n, &seed);
        if (r.together) change_block();
        start_block(backwards ? blocks - 1 - i : i, r.shared_bytes);
        go_on();
        if (r.together) put_aside(aside[i]);
    }
    while (r.together && pass_grid_barrier(aside))
        for (waiting_block &w : aside) {
            take_up(w);
            change_block();
            go_on();
            put_aside(w);
        }
    for (waiting_block &w : aside) return_to_block(w.memory);
    end_traffic(r);
}

void grid_barrier(const char *file, int line)
{
    if (!request->together) fatal("%s:%d: barrier of the grid in a launch that is not cooperative", file, line);
    wait_at(thread::AT_GRID, file, line);
}

void barrier(const char *file, int line)
{
    wait_at(thread::AT_BARRIER, file, line);
}

uint64_t warp(warp_op op, unsigned mask, uint64_t value, int lane, const char *file, int line)
{
    thread *t = current;
    if (!(mask >> t->number % WARP & 1)) fatal("%s:%d: mask %08x leaves out the calling lane", file, line, mask);
    t->state = thread::AT_WARP;
    t->op = op;
    t->mask = mask;
    t->value = value;
    t->lane = lane;
    t->file = file;
    t->line = line;
    leave();
    return t->result;
}

void check_matrix(const void *p, size_t row_bytes, const char *file, int line)
{
    if (blockDim.x % WARP || blockDim.y * blockDim.z != 1) fatal("%s:%d: a matrix needs whole warps", file, line);
    if ((uintptr_t)p % 32 || row_bytes % 16)
        fatal("%s:%d: matrix at %p with rows of %zu bytes is misaligned", file, line, p, row_bytes);
    warp(MEET, 0xffffffffu, (uint64_t)(uintptr_t)p, (int)row_bytes, file, line);
}

void *dynamic_shared()
{
    return dynamic_buffer;
}

} // namespace emu
