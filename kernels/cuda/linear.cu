/* linear.cu - matrix product with bias on CUDA. Contract: tessera/op_linear.h. Twin: kernels/cpu/linear.c. */
#include "tessera/op_linear.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/product.h"
#include "kernels/cuda/rows.h"

/* Scratch: with bfloat16 the rounded operands x, unless it is bfloat16, w and, backward, dy. */
size_t linear_scratch_cuda(ts_stream *s, const ts_linear *l, int backward)
{
    (void)s;
    if (l->math == TS_MATH_F32) return 0;
    const size_t x = l->x_dtype == TS_BF16 ? 0 : ts_room(l->N * l->I, 2);
    return x + ts_room(l->O * l->I, 2) + (backward ? ts_room(l->N * l->O, 2) : 0);
}

/* x as an operand: itself, or rounded into scratch, which moves on. */
static ts_status bring(ts_stream *s, const void **p, const float *x, int64_t n, ts_math math, char **scratch)
{
    *p = x;
    if (math == TS_MATH_F32) return TS_OK;
    *p = *scratch;
    TS_TRY(ts_narrow(s, (uint16_t *)*scratch, x, n));
    *scratch += ts_room(n, 2);
    return TS_OK;
}

ts_status linear_fwd_cuda(ts_stream *s, float *y, const void *x, const float *w, const float *b, const ts_linear *l,
                          void *scratch)
{
    if (l->N == 0) return TS_OK;
    char *room = (char *)scratch;
    ts_operand left = {}, right = { nullptr, 1 };
    left.p = x;
    if (l->x_dtype != TS_BF16) TS_TRY(bring(s, &left.p, (const float *)x, l->N * l->I, l->math, &room));
    TS_TRY(bring(s, &right.p, w, l->O * l->I, l->math, &room));
    if (b) TS_TRY(ts_fill_rows(s, y, b, l->N, l->O));
    return ts_product(s, y, left, right, l->N, l->O, l->I, l->math, b != nullptr);
}

ts_status linear_bwd_cuda(ts_stream *s, float *dx, float *dw, float *db, const float *dy, const float *x,
                          const float *w, const ts_linear *l, void *scratch)
{
    if (l->N == 0) return TS_OK;
    char *room = (char *)scratch;
    ts_operand g = {}, right = {};
    TS_TRY(bring(s, &g.p, dy, l->N * l->O, l->math, &room));
    if (dx) {
        TS_TRY(bring(s, &right.p, w, l->O * l->I, l->math, &room));
        TS_TRY(ts_product(s, dx, g, right, l->N, l->I, l->O, l->math, 0));
    }
    if (dw) {
        TS_TRY(bring(s, &right.p, x, l->N * l->I, l->math, &room));
        g.transposed = 1;
        TS_TRY(ts_product(s, dw, g, right, l->O, l->I, l->N, l->math, 1));
    }
    return db ? add_columns(s, db, dy, l->N, l->O) : TS_OK;
}
