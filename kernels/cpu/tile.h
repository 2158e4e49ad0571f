/* tile.h - the tile registers of AMX: eight matrices of up to 16 rows of 64 bytes, and the product of two in bfloat16.
 *
 *     tile_begin();                      the shapes below are set, for this thread
 *     TILE_ZERO(0); TILE_LOAD(4, a, row); TILE_LOAD(6, b, 64); TILE_DOT(0, 4, 6); TILE_STORE(0, c, row);
 *     tile_end();
 *
 * TILE_DOT(c, a, b):  c[m][n] += sum over pairs p = 0..15 of  a[m][p].b[p][n],  where c is of 16x16 floats, a pair is two
 * neighbours in bfloat16, and x.y the sum of two products. So a is 16 rows of 32 numbers as they lie in a matrix; of b, 32 by 16,
 * row p holds the numbers (2p, n) and (2p+1, n) next to each other. Sums are in float32, in an order of the machine's (AMX: of first
 * and of second neighbours apart, then both, then c; the C below another); a row of c depends on nothing but itself, its row of a and
 * b. In AMX subnormal numbers count as zero.
 * Strides are in bytes. Registers are constants 0 to 7.
 *
 * Where the compiler builds for a CPU without tiles, the same is done in plain C: far slower than other ways to multiply, so
 * tile_unit() says no there, and only tests use it.
 */
#ifndef TS_CPU_TILE_H
#define TS_CPU_TILE_H

#include <stdint.h>
#include <string.h>

#include "kernels/cpu/bf16.h"

enum { TILE = 16, TILE_DEPTH = 32, TILE_BYTES = 1024 }; /* rows and columns of c; numbers that a DOT sums; bytes of a whole tile */

/* Does the machine have tile registers, and may this process use them? To be asked before the first tile_begin, whatever the answer is
 * used for: Linux gives the registers to those who ask. */
int tile_unit(void);

/* Eight lines, `apart` bytes apart, half of a tile, to the first-level cache. */
static inline void tile_fetch(const void *p, int64_t apart)
{
    for (int i = 0; i < TILE / 2; i++) __builtin_prefetch((const char *)p + i * apart);
}

#if defined __AMX_BF16__ && defined __AMX_TILE__
enum { TILE_IN_C = 0 };

/* All eight are 16 rows of 64 bytes. */
static inline void tile_begin(void)
{
    const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shapes = { .palette = 1,
                 .row_bytes = { 64, 64, 64, 64, 64, 64, 64, 64 },
                 .rows = { TILE, TILE, TILE, TILE, TILE, TILE, TILE, TILE } };
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes));
}

static inline void tile_end(void)
{
    __asm__ volatile("tilerelease" ::: "memory");
}

/* Not the compiler's intrinsics: those of gcc 12 do not say that they read and write memory. */
#define TILE_LOAD(t, p, stride) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t : : "r"((const void *)(p)), "r"((int64_t)(stride)) : "memory")
#define TILE_STORE(t, p, stride) __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" : : "r"((void *)(p)), "r"((int64_t)(stride)) : "memory")
#define TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t ::)
#define TILE_DOT(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

#else
enum { TILE_IN_C = 1 };

static _Thread_local uint32_t tile_register[8][TILE][TILE];

static inline void tile_begin(void)
{
    memset(tile_register, 0, sizeof tile_register);
}

static inline void tile_end(void)
{
}

static inline void TILE_LOAD(int t, const void *p, int64_t stride)
{
    for (int m = 0; m < TILE; m++) memcpy(tile_register[t][m], (const char *)p + m * stride, 64);
}

static inline void TILE_STORE(int t, void *p, int64_t stride)
{
    for (int m = 0; m < TILE; m++) memcpy((char *)p + m * stride, tile_register[t][m], 64);
}

static inline void TILE_ZERO(int t)
{
    memset(tile_register[t], 0, sizeof tile_register[t]);
}

static inline void TILE_DOT(int c, int a, int b)
{
    for (int m = 0; m < TILE; m++)
        for (int p = 0; p < TILE; p++)
            for (int n = 0; n < TILE; n++) {
                const uint32_t x = tile_register[a][m][p], y = tile_register[b][p][n];
                float sum;
                memcpy(&sum, &tile_register[c][m][n], sizeof sum);
                sum += bf16_widen((uint16_t)x) * bf16_widen((uint16_t)y) + bf16_widen((uint16_t)(x >> 16)) * bf16_widen((uint16_t)(y >> 16));
                memcpy(&tile_register[c][m][n], &sum, sizeof sum);
            }
}

#endif
#endif
