/* test_grid.cpp - cooperative launches on the emulated device: correct ones pass under every order of blocks and
 * threads, and each mistake ends the program with the line that names it. */
#include <cooperative_groups.h>

#include "tests/emu/strict.h"

enum { LAST = 4 }; /* block that does what is wrong */

static void wait_for_grid(int really = 1)
{
    if (really) cooperative_groups::this_grid().sync();
}

/* Each block reads in `out` what the next one has left, and finds its own shared memory as it was, three times. */
static void pass_on(int *out, int barrier)
{
    TS_SHARED(shared);
    __shared__ int room[N];
    int *const more = (int *)shared, n = (int)gridDim.x * N, me = (int)blockIdx.x * N + (int)threadIdx.x;
    for (int round = 0; round < 3; round++) {
        int *const sums = out + round * n;
        room[threadIdx.x] = sums[me] = me + round;
        more[threadIdx.x] = -me;
        wait_for_grid(barrier);
        const int next = sums[(me + N) % n], other = N - 1 - (int)threadIdx.x;
        wait_for_grid();
        sums[me] = next + room[other] + more[other];
        __syncthreads();
    }
}

static void check_pass_on()
{
    int got[3 * N * (LAST + 1)], *out = device_ints(3 * N * (LAST + 1));
    LAUNCH_TOGETHER(pass_on, LAST + 1, N, N * sizeof(int), out, 1);
    ck_assert_int_eq(download_cuda(s, got, out, sizeof got), TS_OK);
    for (int i = 0; i < 3 * N * (LAST + 1); i++) {
        const int me = i % (N * (LAST + 1)), round = i / (N * (LAST + 1));
        ck_assert_int_eq(got[i], (me + N) % (N * (LAST + 1)) + 2 * round);
    }
}

static void some_threads_at_grid(int *out)
{
    if (blockIdx.x < LAST || threadIdx.x < 32) wait_for_grid();
    out[threadIdx.x] = 0;
}

static void some_blocks_at_grid(int *out)
{
    if (blockIdx.x < LAST) wait_for_grid();
    out[threadIdx.x] = 0;
}

static void two_grid_barriers(int *out)
{
    if (blockIdx.x < LAST)
        cooperative_groups::this_grid().sync();
    else
        cooperative_groups::this_grid().sync();
    out[threadIdx.x] = 0;
}

static void shared_of_another_block(int *out)
{
    __shared__ int room[N];
    if (blockIdx.x < LAST) room[threadIdx.x] = 1;
    wait_for_grid();
    out[threadIdx.x] = room[threadIdx.x];
}

static void too_many_blocks(const char *there, int blocks)
{
    setenv("TS_EMU_PROCESSORS", there, 1);
    int64_t most;
    ck_assert_int_eq(stream_new_cuda(&s, 0, 0), TS_OK);
    ck_assert_int_eq(ts_resident(&most, s, (const void *)pass_on, 1024, 4 * 1024, "pass_on"), TS_OK);
    ck_assert_int_eq(most, blocks);
    int *out = device_ints(3 * 1024 * (blocks + 1));
    ck_assert_int_eq(TS_LAUNCH_TOGETHER(pass_on, blocks + 1, 1024, 4 * 1024, s, out, 1), TS_E_DEVICE);
    ck_assert_str_eq(ts_error(), "pass_on: too many blocks in cooperative launch");
}

START_TEST(grids)
{
    static const char *const seeds[] = { "0", "1", "2" };
    for (const char *seed : seeds) {
        setenv("TS_EMU_SEED", seed, 1);
        expect("in order", check_pass_on, nullptr);
        expect(
            "some threads", [] { LAUNCH_TOGETHER(some_threads_at_grid, LAST + 1, N, 0, device_ints(N)); },
            "barrier of the grid that thread");
        expect(
            "some blocks", [] { LAUNCH_TOGETHER(some_blocks_at_grid, LAST + 1, N, 0, device_ints(N)); },
            "barrier of the grid that block (4,0,0) never reaches: it has ended");
        expect(
            "two barriers", [] { LAUNCH_TOGETHER(two_grid_barriers, LAST + 1, N, 0, device_ints(N)); },
            "does not reach: it waits at");
    }
    unsetenv("TS_EMU_SEED");
    expect(
        "not cooperative", [] { LAUNCH(pass_on, LAST + 1, N, N * sizeof(int), device_ints(3 * N * (LAST + 1)), 1); },
        "barrier of the grid in a launch that is not cooperative");
    expect(
        "few", [] { too_many_blocks("3", 6); }, nullptr);
    expect(
        "many", [] { too_many_blocks("108", 216); }, nullptr);
    if (CALLBACKS) {
        expect(
            "no barrier",
            [] { LAUNCH_TOGETHER(pass_on, LAST + 1, N, N * sizeof(int), device_ints(3 * N * (LAST + 1)), 0); },
            "never written");
        expect(
            "shared memory", [] { LAUNCH_TOGETHER(shared_of_another_block, LAST + 1, N, 0, device_ints(N)); },
            "before it was written");
    }
}
END_TEST

int main()
{
    return run_tests("grid", { grids });
}
