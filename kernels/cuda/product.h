/* product.h - matrix products by cuBLAS, row-major, and rounding to bfloat16: what linear and conv2d share. */
#ifndef TS_CUDA_PRODUCT_H
#define TS_CUDA_PRODUCT_H

#include "tessera/types.h"

/* An operand of a product. */
typedef struct {
    const void *p;  /* float32, or bfloat16 (uint16_t)                 */
    int transposed; /* it lies in memory with rows and columns swapped */
} ts_operand;

/* c (M,N) = a (M,K) b (K,N) + (add ? c : 0), sums in float32. Both operands are bfloat16 if math is TS_MATH_BF16. */
ts_status ts_product(ts_stream *s, float *c, ts_operand a, ts_operand b, int64_t M, int64_t N, int64_t K, ts_math math,
                     int add);

/* y (n) = x rounded to bfloat16, to nearest even; NaN stays NaN. ts_round: they stand in y as `as` says. */
ts_status ts_narrow(ts_stream *s, uint16_t *y, const float *x, int64_t n);
ts_status ts_round(ts_stream *s, void *y, const float *x, int64_t n, ts_dtype as);

/* y (rows,n) = x, whose rows are `stride` numbers apart, as float32. */
ts_status ts_widen(ts_stream *s, float *y, const uint16_t *x, int64_t rows, int64_t n, int64_t stride);

/* y (M,N) = b (N) in every row. */
ts_status ts_fill_rows(ts_stream *s, float *y, const float *b, int64_t M, int64_t N);

/* Room for n numbers of `size` bytes in scratch, whole vectors. */
static inline size_t ts_room(int64_t n, size_t size)
{
    return ((size_t)n * size + 15) / 16 * 16;
}

#endif
