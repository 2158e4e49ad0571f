/* product.c - small matrix products. Contract: kernels/cpu/product.h. */
#include "kernels/cpu/product.h"

typedef void tile_fn(float *c, int64_t ldc, const float *a, int64_t row, int64_t col, const float *b, int64_t depth,
                     int add);

/* c (rows, vectors*VF) = or += a (rows, depth) b (depth, PANEL). rows and vectors are constants where this is inlined,
 * so that sum lives in registers. */
static inline __attribute__((always_inline)) void tile(const int rows, const int vectors, float *c, int64_t ldc,
                                                       const float *a, int64_t row, int64_t col, const float *b,
                                                       int64_t depth, int add)
{
    vf sum[TILE_ROWS][TILE_VF];
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 8
        for (int n = 0; n < vectors; n++) sum[m][n] = add ? vf_load(c + m * ldc + n * VF) : (vf){ 0 };

    for (int64_t k = 0; k < depth; k++) {
        vf right[TILE_VF];
#pragma GCC unroll 8
        for (int n = 0; n < vectors; n++) right[n] = vf_load(b + k * PANEL + n * VF);
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++) {
            const vf left = vf_all(a[m * row + k * col]);
#pragma GCC unroll 8
            for (int n = 0; n < vectors; n++) sum[m][n] = vf_fma(left, right[n], sum[m][n]);
        }
    }

#pragma GCC unroll 8
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 8
        for (int n = 0; n < vectors; n++) vf_store(c + m * ldc + n * VF, sum[m][n]);
}

#define TILE(ROWS, VECTORS)                                                                                            \
    static void tile_##ROWS##_##VECTORS(float *c, int64_t ldc, const float *a, int64_t row, int64_t col,               \
                                        const float *b, int64_t depth, int add)                                        \
    {                                                                                                                  \
        tile(ROWS, VECTORS <= TILE_VF ? VECTORS : TILE_VF, c, ldc, a, row, col, b, depth, add);                        \
    }
#define TILES_OF(ROWS) TILE(ROWS, 1) TILE(ROWS, 2) TILE(ROWS, 4)
TILES_OF(1)
TILES_OF(2)
TILES_OF(3)
TILES_OF(4)
TILES_OF(5)
TILES_OF(6)

static tile_fn *const TILES[TILE_ROWS][3] = {
    { tile_1_1, tile_1_2, tile_1_4 }, { tile_2_1, tile_2_2, tile_2_4 }, { tile_3_1, tile_3_2, tile_3_4 },
    { tile_4_1, tile_4_2, tile_4_4 }, { tile_5_1, tile_5_2, tile_5_4 }, { tile_6_1, tile_6_2, tile_6_4 },
};

void ts_product(float *c, int64_t ldc, ts_left left, ts_panels right, int64_t M, int64_t N, int64_t k0, int64_t k1,
                int add)
{
    enum { DEPTH = 128 }; /* DEPTH rows of a panel stay in the first-level cache while all rows of c pass */
    for (int64_t k = k0; k < k1; k += DEPTH) {
        const int64_t depth = k1 - k < DEPTH ? k1 - k : DEPTH;
        int vectors;
        for (int64_t n = 0; n < N; n += vectors * VF) {
            const int64_t left_over = (N - n + VF - 1) / VF;
            const int size = left_over >= 4 && TILE_VF >= 4 ? 2 : left_over >= 2 ? 1 : 0;
            const float *b = right.p + (n / PANEL * right.rows + k) * PANEL + n % PANEL;
            vectors = 1 << size;
            for (int64_t m = 0; m < M; m += TILE_ROWS) {
                const int64_t rows = M - m < TILE_ROWS ? M - m : TILE_ROWS;
                TILES[rows - 1][size](c + m * ldc + n, ldc, left.p + m * left.row + k * left.col, left.row, left.col, b,
                                      depth, add || k > k0);
            }
        }
    }
}

void ts_pack_row(ts_panels right, int64_t k, const float *x, int64_t N)
{
    for (int64_t n = 0; n < N; n += PANEL) {
        float *to = right.p + (n / PANEL * right.rows + k) * PANEL;
        const int64_t width = N - n < PANEL ? N - n : PANEL, padded = ts_round_up(width, VF);
        memcpy(to, x + n, (size_t)width * sizeof *to);
        memset(to + width, 0, (size_t)(padded - width) * sizeof *to);
    }
}

void ts_pack_columns(ts_panels right, int64_t n0, const float *const x[VF])
{
    float *to = right.p + n0 / PANEL * right.rows * PANEL + n0 % PANEL;
    for (int64_t k = 0; k < right.rows; k++)
        for (int i = 0; i < VF; i++) to[k * PANEL + i] = x[i][k];
}
