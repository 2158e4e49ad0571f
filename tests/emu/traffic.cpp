/* traffic.cpp - what a launch moves, counted access by access and warp by warp. Contract: emu.h.
 *
 * Threads of a block run one after the other, so the accesses that a warp makes together are put together afterwards:
 * those at one place of the program, by lanes that stand at the same warp operation, each lane's k-th there since the
 * last barrier. They pass through a cache, cold at first, of the size that a block may hope for when a device is full
 * of blocks. Blocks of a cooperative launch begin with a cold one each, and again behind each barrier of the grid. */
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/emu/emu.h"

namespace emu
{

bool counting;

namespace
{

enum { SECTOR = 32, WORD = 4, BANKS = 32, CACHE = 48 << 10, SLOTS = CACHE / SECTOR, NOWHERE = -1 };

/* The accesses of one warp at one place: where each lane's begins. */
struct request {
    bool shared, write;
    int bytes, lanes;
    std::array<uintptr_t, WARP> at;
};

/* Of one lane: how often it was at each place, and vectors whose single numbers are still to come. */
struct lane_state {
    unsigned syncs;
    std::vector<uint32_t> visits;
    struct {
        uintptr_t at;
        int left;
    } vector[2];
};

/* A sector of device memory. A bit of read and written stands for each of its bytes. */
struct sector {
    uint32_t read, written; /* read: before it was written */
    int slot = NOWHERE;     /* in the cache */
};

/* Slots of the cache in a ring, from the one used last to the one used longest ago. */
struct slot {
    int before, after;
    sector *holds;
    uint32_t valid, dirty;
};

struct totals {
    uint64_t bytes; /* of all accesses of device memory                 */
    uint64_t moved; /* what the cache did not have, or wrote            */
    uint64_t sectors, ideal;
    uint64_t groups, passes; /* of shared memory */
};

const char *path, *wanted;
std::unordered_map<std::string, int> launches; /* of each kernel so far */
bool closely;                                  /* this launch is wanted */
totals now;
std::unordered_map<uintptr_t, int> sites;
std::vector<lane_state> lanes;
std::unordered_map<uint64_t, size_t> index_of; /* of a request */
std::vector<request> requests;
std::unordered_map<uintptr_t, sector> touched;
std::array<slot, SLOTS> cache;
int newest;

int site_of(uintptr_t program_counter)
{
    return sites.emplace(program_counter, (int)sites.size()).first->second;
}

void add_access(uintptr_t at, int bytes, bool write, bool shared, uintptr_t program_counter)
{
    const int number = current->number, site = site_of(program_counter);
    lane_state &lane = lanes[number];
    if (lane.syncs != current->warp_syncs) {
        lane.syncs = current->warp_syncs;
        lane.visits.clear();
    }
    if (lane.visits.size() <= (size_t)site) lane.visits.resize(site + 1);
    const uint64_t k = lane.visits[site]++;
    const uint64_t key = (uint64_t)(number / WARP) << 58 | (uint64_t)(site & 0xfff) << 46 |
                         (uint64_t)(lane.syncs & 0xfffff) << 26 | (k & 0x3ffffff);
    auto [found, fresh] = index_of.emplace(key, requests.size());
    if (fresh) requests.push_back(request{ shared, write, bytes, 0, {} });
    request &r = requests[found->second];
    if (r.lanes < WARP) r.at[r.lanes++] = at;
}

/* ---- the cache ---- */

void empty_cache()
{
    for (int i = 0; i < SLOTS; i++) cache[i] = slot{ (i + SLOTS - 1) % SLOTS, (i + 1) % SLOTS, nullptr, 0, 0 };
    newest = 0;
}

void give_up(slot &s)
{
    if (s.dirty) now.moved += SECTOR;
    if (s.holds) s.holds->slot = NOWHERE;
    s.holds = nullptr;
    s.valid = s.dirty = 0;
}

/* Slot i becomes the newest. */
void freshen(int i)
{
    if (i == newest) return;
    cache[cache[i].before].after = cache[i].after;
    cache[cache[i].after].before = cache[i].before;
    const int oldest = cache[newest].before;
    cache[i].before = oldest;
    cache[i].after = newest;
    cache[oldest].after = cache[newest].before = i;
    newest = i;
}

/* These bytes of a sector are read or written. */
void touch(sector &s, uint32_t bytes, bool write)
{
    (write ? s.written : s.read) |= write ? bytes : bytes & ~s.written;
    if (s.slot == NOWHERE) {
        const int oldest = cache[newest].before;
        give_up(cache[oldest]);
        cache[oldest].holds = &s;
        s.slot = oldest;
    }
    freshen(s.slot);
    slot &c = cache[s.slot];
    if (write) {
        c.dirty |= bytes;
    } else if (bytes & ~c.valid) {
        now.moved += SECTOR;
        c.valid = ~0u;
    }
    c.valid |= bytes;
}

/* ---- requests ---- */

uint32_t bits_from(int first, int n)
{
    return (n == SECTOR ? ~0u : (1u << n) - 1) << first;
}

void finish_device(const request &r)
{
    static std::vector<std::pair<uintptr_t, uint32_t>> parts; /* sector and its bytes */
    parts.clear();
    for (int i = 0; i < r.lanes; i++)
        for (int done = 0; done < r.bytes;) {
            const int first = (int)((r.at[i] + done) % SECTOR), n = std::min(SECTOR - first, r.bytes - done);
            parts.emplace_back((r.at[i] + done) / SECTOR, bits_from(first, n));
            done += n;
        }
    std::sort(parts.begin(), parts.end());
    int bytes = 0, sectors = 0;
    for (size_t i = 0; i < parts.size();) {
        uint32_t all = 0;
        const uintptr_t where = parts[i].first;
        for (; i < parts.size() && parts[i].first == where; i++) all |= parts[i].second;
        touch(touched[where], all, r.write);
        bytes += __builtin_popcount(all);
        sectors++;
    }
    now.sectors += sectors;
    now.ideal += (bytes + SECTOR - 1) / SECTOR;
}

/* Lanes from `first` on that are served together: the most words that they want of one bank. */
int passes_of(const request &r, int first, int end)
{
    static std::vector<uintptr_t> words;
    words.clear();
    for (int i = first; i < end; i++)
        for (int b = 0; b < r.bytes; b += WORD) words.push_back((r.at[i] + b) / WORD);
    std::sort(words.begin(), words.end());
    int most = 0, of_bank[BANKS] = { 0 };
    for (size_t i = 0; i < words.size(); i++)
        if (i == 0 || words[i] != words[i - 1]) most = std::max(most, ++of_bank[words[i] % BANKS]);
    return most;
}

void finish_shared(const request &r)
{
    const int together = r.bytes <= WORD ? (int)WARP : r.bytes <= 2 * WORD ? WARP / 2 : WARP / 4;
    for (int i = 0; i < r.lanes; i += together) {
        now.groups++;
        now.passes += passes_of(r, i, std::min(i + together, r.lanes));
    }
}

bool is_wanted(const char *name, int ordinal)
{
    if (!wanted || std::string(wanted) == "all") return wanted;
    return std::string(wanted).find(" " + std::string(name) + "#" + std::to_string(ordinal) + " ") != std::string::npos;
}

} // namespace

void begin_traffic(const char *kernel, int threads)
{
    path = getenv("TS_EMU_TRAFFIC");
    if (!path) return;
    wanted = getenv("TS_EMU_TRAFFIC_OF");
    closely = is_wanted(kernel, launches[kernel]++);
    counting = closely || !wanted;
    now = {};
    if (!closely) return;
    sites.clear();
    touched.clear();
    empty_cache();
    lanes.assign(threads, lane_state());
}

void count_access(const void *p, size_t bytes, bool write, bool shared, const void *site)
{
    const uintptr_t a = (uintptr_t)p;
    if (!shared) now.bytes += bytes;
    if (!closely) return;
    for (auto &v : lanes[current->number].vector)
        if (v.left > 0 && a - v.at < 16) {
            v.left -= (int)bytes;
            return;
        }
    for (size_t i = 0; bytes > 8 && i < bytes; i += WORD) add_access(a + i, WORD, write, shared, (uintptr_t)site + i);
    if (bytes <= 8) add_access(a, (int)bytes, write, shared, (uintptr_t)site);
}

void count_vector(const void *p, size_t bytes, bool write, bool shared, const void *site)
{
    if (!closely) return;
    auto &vector = lanes[current->number].vector;
    vector[1] = vector[0];
    vector[0] = { (uintptr_t)p, (int)bytes };
    add_access((uintptr_t)p, (int)bytes, write, shared, (uintptr_t)site);
}

void end_phase()
{
    if (!closely) return;
    for (const request &r : requests) r.shared ? finish_shared(r) : finish_device(r);
    requests.clear();
    index_of.clear();
    for (lane_state &lane : lanes) lane = lane_state();
}

void change_block()
{
    if (!closely) return;
    for (slot &s : cache) give_up(s);
}

/* KERNEL ORDINAL GRID BLOCK DYNAMIC-SHARED BYTES, and of those wanted also MOVED FLOOR SECTORS IDEAL GROUPS PASSES. */
void end_traffic(const launch_request &r)
{
    if (!path || !counting) return;
    FILE *f = fopen(path, "a");
    if (!f) fatal("%s cannot be written", path);
    fprintf(f, "%s\t%d\t%u,%u,%u\t%u,%u,%u\t%zu\t%llu", r.name, launches[r.name] - 1, r.grid.x, r.grid.y, r.grid.z,
            r.block.x, r.block.y, r.block.z, r.shared_bytes, (unsigned long long)now.bytes);
    if (closely) {
        uint64_t floor = 0;
        for (slot &s : cache) give_up(s);
        for (const auto &s : touched)
            floor += __builtin_popcount(s.second.read) + __builtin_popcount(s.second.written);
        for (uint64_t n : { now.moved, floor, now.sectors, now.ideal, now.groups, now.passes })
            fprintf(f, "\t%llu", (unsigned long long)n);
    }
    fprintf(f, "\n");
    fclose(f);
    counting = closely = false;
}

} // namespace emu
