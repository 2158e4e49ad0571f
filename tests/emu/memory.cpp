/* memory.cpp - device memory of the emulated device and the checks of every access. Contract: emu.h.
 *
 * Addresses are never used twice, so freed memory stays recognisable, and allocations stand at least GAP apart. */
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

#include "tests/emu/emu.h"

#if defined __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

extern "C" {
extern char __start_emu_shared[] __attribute__((weak));
extern char __stop_emu_shared[] __attribute__((weak));
extern char __executable_start[], end[];
}

namespace emu
{

namespace
{

/* TS_EMU_CALLBACKS is 0 where nobody tells what kernels write: AddressSanitizer, coverage. */
constexpr size_t ARENA = (size_t)16 << 30, GAP = 256, PAGE = 4096;
enum : unsigned char { NOTHING = 0, ALLOCATED = 1, WRITTEN = 2 };

char *arena;
unsigned char *shadow;
size_t top;   /* bytes of the arena in use or used */
size_t taken; /* bytes in use */
bool guarded; /* the host may not touch device memory */
std::map<size_t, size_t> blocks;

struct range {
    uintptr_t begin;
    size_t bytes;
    bool holds(uintptr_t a) const
    {
        return a - begin < bytes;
    }
};
range arguments, stacks, dynamic_range, static_range;

/* Who touched a word of shared memory last. */
struct word {
    unsigned block;                   /* block in which it was written        */
    unsigned write_epoch, read_epoch; /* of the last write, the last reads    */
    int writer, reader;               /* thread; reader -1: several           */
    int read_warp;                    /* -1: of several warps                 */
    unsigned write_syncs, read_syncs; /* warp operations of these, then       */
};
std::vector<word> words;
unsigned block_number, last_block;

#if !defined __SANITIZE_ADDRESS__
void on_fault(int, siginfo_t *info, void *)
{
    const uintptr_t a = (uintptr_t)info->si_addr;
    if (arena && a - (uintptr_t)arena < ARENA && !current) {
        static const char text[] = "emu: host code touched device memory\n";
        if (write(2, text, sizeof text - 1) < 0) _exit(71);
    }
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}
#endif

void start()
{
    if (arena) return;
    const int rights = PROT_READ | PROT_WRITE;
    guarded = getenv("TS_EMU_GUARD") != nullptr;
    arena =
        (char *)mmap(nullptr, ARENA, guarded ? PROT_NONE : rights, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *s = mmap(nullptr, ARENA, rights, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED || s == MAP_FAILED) fatal("no address space for device memory");
    shadow = (unsigned char *)s;
#if !defined __SANITIZE_ADDRESS__
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
#endif
}

const char *state_name(size_t at)
{
    if (shadow[at] == ALLOCATED) return "never written";
    auto next = blocks.upper_bound(at);
    if (next != blocks.begin()) {
        auto b = std::prev(next);
        if (at - b->first < b->second + GAP && shadow[b->first] != NOTHING) return "outside of its allocation";
        if (at - b->first < b->second) return "freed";
    }
    return "not allocated";
}

bool allowed(const unsigned char *state, size_t bytes, bool write)
{
    if (bytes == 4) { /* nearly all there is */
        uint32_t x;
        memcpy(&x, state, 4);
        return write ? ((x - 0x01010101u) & ~x & 0x80808080u) == 0 : x == 0x01010101u * WRITTEN;
    }
    if (write) return memchr(state, NOTHING, bytes) == nullptr;
    return bytes == 0 || (*state == WRITTEN && memcmp(state, state + 1, bytes - 1) == 0);
}

void device_access(size_t at, size_t bytes, bool write, const char *what)
{
    if (!allowed(shadow + at, bytes, write)) {
        size_t i = 0;
        while (shadow[at + i] >= (write ? ALLOCATED : WRITTEN)) i++;
        fatal("%s %s of %zu bytes at device memory %p + %zu: %s", what, write ? "write" : "read", bytes,
              (void *)(arena + at), i, state_name(at + i));
    }
    if (write) memset(shadow + at, WRITTEN, bytes);
}

/* No order between the two: same barrier interval, and not same warp with a warp operation between. */
bool unordered(unsigned epoch, int number, int warp, unsigned syncs)
{
    if (epoch != block_epoch || number == current->number) return false;
    return warp != current->number / WARP || syncs == current->warp_syncs;
}

void shared_access(word &w, bool write, uintptr_t a)
{
    const int me = current->number, warp = me / WARP;
    if (!write && w.block != block_number) fatal("shared memory %p is read before it was written", (void *)a);
    if (w.block == block_number && unordered(w.write_epoch, w.writer, w.writer / WARP, w.write_syncs))
        fatal("race on shared memory %p: thread %d wrote it, no barrier between", (void *)a, w.writer);
    if (write) {
        if (unordered(w.read_epoch, w.reader, w.read_warp, w.read_syncs))
            fatal("race on shared memory %p: thread %d reads it (-1: several), no barrier between", (void *)a,
                  w.reader);
        w.block = block_number;
        w.write_epoch = block_epoch;
        w.writer = me;
        w.write_syncs = current->warp_syncs;
        return;
    }
    /* Earlier reads of the same warp, a warp operation ago, are no more in anybody's way than this one. */
    const bool first = w.read_epoch != block_epoch || (w.read_warp == warp && w.read_syncs < current->warp_syncs);
    w.reader = first || w.reader == me ? me : -1;
    w.read_warp = first || w.read_warp == warp ? warp : -1;
    w.read_syncs = first || current->warp_syncs > w.read_syncs ? current->warp_syncs : w.read_syncs;
    w.read_epoch = block_epoch;
}

/* One access of a kernel, at this place of the program. */
void access(const void *p, size_t bytes, bool write, const void *site)
{
    if (!current) return;
    const uintptr_t a = (uintptr_t)p;
    const size_t at = a - (uintptr_t)arena;
    if (at < ARENA) {
        if (counting) count_access(p, bytes, write, false, site);
        return device_access(at, bytes, write, "a");
    }
    for (const range *r : { &static_range, &dynamic_range }) {
        if (!r->holds(a)) continue;
        if (counting) count_access(p, bytes, write, true, site);
        if (!r->holds(a + bytes - 1)) fatal("access of %zu bytes runs over the end of shared memory", bytes);
        const size_t base = r == &dynamic_range ? static_range.bytes / 4 + 1 : 0;
        for (size_t i = (a - r->begin) / 4; i <= (a - r->begin + bytes - 1) / 4; i++)
            shared_access(words[base + i], write, a);
        return;
    }
    if (stacks.holds(a) || arguments.holds(a)) return;
    if (!write && a - (uintptr_t)__executable_start < (uintptr_t)(end - __executable_start)) return; /* constants */
    fatal("%s of %zu bytes at %p, which is host memory or beyond shared memory", write ? "write" : "read", bytes, p);
}

} // namespace

void *device_alloc(size_t bytes)
{
    start();
    const size_t at = top + GAP, next = (at + bytes + GAP - 1) / GAP * GAP;
    if (bytes > device_room() || next > ARENA - PAGE) return nullptr;
    top = next;
    taken += bytes;
    blocks[at] = bytes;
    memset(shadow + at, TS_EMU_CALLBACKS ? ALLOCATED : WRITTEN, bytes);
    ASAN_POISON_MEMORY_REGION(arena + at + bytes, next - at - bytes + GAP);
    return arena + at;
}

void device_free(void *p)
{
    const size_t at = (size_t)((char *)p - arena);
    auto b = blocks.find(at);
    if (b == blocks.end() || shadow[at] == NOTHING) fatal("cudaFree of %p, which is not allocated", p);
    memset(shadow + at, NOTHING, b->second);
    taken -= b->second;
    const size_t first = (at + PAGE - 1) / PAGE * PAGE, last = (at + b->second) / PAGE * PAGE;
    if (last > first) madvise(arena + first, last - first, MADV_DONTNEED);
    ASAN_POISON_MEMORY_REGION(p, b->second);
}

size_t device_memory()
{
    const char *text = getenv("TS_EMU_MEMORY");
    return text ? (size_t)atoll(text) : ARENA;
}

size_t device_room()
{
    const size_t all = device_memory();
    return taken < all ? all - taken : 0;
}

/* The pages that have been used, open or closed to the host: dear, so only on demand. */
static void protect(int rights)
{
    start();
    if (guarded && top && mprotect(arena, (top + PAGE - 1) / PAGE * PAGE, rights) != 0) fatal("mprotect failed");
}

void open_memory()
{
    protect(PROT_READ | PROT_WRITE);
}

void close_memory()
{
    protect(PROT_NONE);
}

void check_device(const void *p, size_t bytes, bool write, const char *what)
{
    const size_t at = (uintptr_t)p - (uintptr_t)arena;
    if (!arena || at >= ARENA || bytes > ARENA - at) fatal("%s: %p is not device memory", what, p);
    device_access(at, bytes, write, what);
}

void check_atomic(const void *p, size_t bytes)
{
    if ((uintptr_t)p % bytes) fatal("atomic access of %zu bytes at %p is misaligned", bytes, p);
    const size_t at = (uintptr_t)p - (uintptr_t)arena;
    if (!current || at >= ARENA) return;
    device_access(at, bytes, false, "an atomic"); /* races of atomics are fine */
    if (counting) count_access(p, bytes, true, false, __builtin_return_address(0));
}

void check_vector(const void *p, size_t bytes, bool write)
{
    if ((uintptr_t)p % bytes) fatal("%s of %zu bytes at %p is misaligned", write ? "write" : "read", bytes, p);
    if (counting) count_vector(p, bytes, write, (uintptr_t)p - (uintptr_t)arena >= ARENA, __builtin_return_address(0));
}

void begin_block(void *dynamic, size_t bytes)
{
    static_range = { (uintptr_t)__start_emu_shared, (size_t)(__stop_emu_shared - __start_emu_shared) };
    dynamic_range = { (uintptr_t)dynamic, bytes };
    words.resize((static_range.bytes + MAX_SHARED) / 4 + 2);
    block_number = ++last_block;
    if (static_range.bytes) memset(__start_emu_shared, 0xff, static_range.bytes);
    if (bytes) memset(dynamic, 0xff, bytes);
}

struct block_memory {
    std::vector<char> variables, dynamic;
    std::vector<word> words;
    unsigned number;
};

block_memory *leave_block()
{
    const char *v = (const char *)static_range.begin, *d = (const char *)dynamic_range.begin;
    return new block_memory{
        { v, v + static_range.bytes }, { d, d + dynamic_range.bytes }, std::move(words), block_number
    };
}

void return_to_block(block_memory *m)
{
    if (!m->variables.empty()) memcpy((void *)static_range.begin, m->variables.data(), m->variables.size());
    if (!m->dynamic.empty()) memcpy((void *)dynamic_range.begin, m->dynamic.data(), m->dynamic.size());
    words = std::move(m->words);
    block_number = m->number;
    delete m;
}

void set_arguments(const void *p, size_t bytes)
{
    arguments = { (uintptr_t)p, bytes };
}

void set_stacks(const void *p, size_t bytes)
{
    stacks = { (uintptr_t)p, bytes };
}

void fatal(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fflush(stdout);
    fprintf(stderr, "emu: ");
    extern const char *kernel_name;
    if (current)
        fprintf(stderr, "kernel %s, block (%u,%u,%u), thread (%u,%u,%u): ", kernel_name, blockIdx.x, blockIdx.y,
                blockIdx.z, current->index.x, current->index.y, current->index.z);
    vfprintf(stderr, format, list);
    fprintf(stderr, "\n");
    va_end(list);
    abort();
}

} // namespace emu

/* ---- the instrumentation of kernels ---- */

using emu::access;

#define SITE __builtin_return_address(0)
#define ACCESS(SIZE)                                                                                                   \
    void __tsan_read##SIZE(void *p)                                                                                    \
    {                                                                                                                  \
        access(p, SIZE, false, SITE);                                                                                  \
    }                                                                                                                  \
    void __tsan_write##SIZE(void *p)                                                                                   \
    {                                                                                                                  \
        access(p, SIZE, true, SITE);                                                                                   \
    }                                                                                                                  \
    void __tsan_unaligned_read##SIZE(void *p)                                                                          \
    {                                                                                                                  \
        access(p, SIZE, false, SITE);                                                                                  \
    }                                                                                                                  \
    void __tsan_unaligned_write##SIZE(void *p)                                                                         \
    {                                                                                                                  \
        access(p, SIZE, true, SITE);                                                                                   \
    }                                                                                                                  \
    void __tsan_volatile_read##SIZE(void *p)                                                                           \
    {                                                                                                                  \
        access(p, SIZE, false, SITE);                                                                                  \
    }                                                                                                                  \
    void __tsan_volatile_write##SIZE(void *p)                                                                          \
    {                                                                                                                  \
        access(p, SIZE, true, SITE);                                                                                   \
    }

extern "C" {
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void *p, size_t n)
{
    access(p, n, false, SITE);
}
void __tsan_write_range(void *p, size_t n)
{
    access(p, n, true, SITE);
}
void __tsan_vptr_update(void **, void *) {}
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
}
