/* product.h - small matrix products in registers, for kernels that multiply what is already in the cache.
 *
 * Every number of the result is one chain of fused multiply-adds in ascending k, so its bits depend neither on how the
 * rows are split into calls nor on the shape of the tile that computed it.
 */
#ifndef TS_CPU_PRODUCT_H
#define TS_CPU_PRODUCT_H

#include "kernels/cpu/simd.h"
#include "kernels/cpu/sizes.h"

/* The accumulators of a tile, TILE_ROWS by TILE_VF vectors, leave registers for the operands (32 or 16 in all). */
enum { TILE_ROWS = 6, TILE_VF = VF == 16 ? 4 : 2, PANEL = TILE_VF * VF };

/* The left operand: number (m, k) is p[m*row + k*col]. */
typedef struct {
    const float *p;
    int64_t row, col;
} ts_left;

/* The right operand, (rows, columns) cut into panels of PANEL columns: number (k, n) of panel i is
 * p[(i*rows + k)*PANEL + n]. Of the last panel only the vectors that hold columns are used; they are whole. */
typedef struct {
    float *p;
    int64_t rows;
} ts_panels;

/* Floats of a right operand. */
static inline int64_t ts_panels_size(int64_t rows, int64_t columns)
{
    return rows * ts_round_up(columns, PANEL);
}

/* c (M,N) = (add: +=) left (M, k0..k1-1) right (k0..k1-1, N). c has a stride of ldc and room for N rounded up to VF
 * columns in each row. */
void ts_product(float *c, int64_t ldc, ts_left left, ts_panels right, int64_t M, int64_t N, int64_t k0, int64_t k1,
                int add);

/* right row k = x, of N floats; the padding becomes zero. */
void ts_pack_row(ts_panels right, int64_t k, const float *x, int64_t N);

/* right column n = x, of right.rows floats, for n = n0..n0+VF-1 and x[0..VF-1]; n0 is a multiple of VF. */
void ts_pack_columns(ts_panels right, int64_t n0, const float *const x[VF]);

#endif
