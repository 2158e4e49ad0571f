/* linear.cu - matrix product with bias on CUDA. Contract: tessera/op_linear.h. Twin: kernels/cpu/linear.c. */
#include "tessera/op_linear.h"

#include "kernels/cuda/act.h"
#include "kernels/cuda/kept.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/product.h"
#include "kernels/cuda/rows.h"

/* Bytes of the sums whose activations are stored as bfloat16. */
static size_t sums_between(const ts_linear *l)
{
    return l->act && l->y_dtype == TS_BF16 ? ts_room(l->N * l->O, 4) : 0;
}

/* Scratch: with bfloat16 the rounded operands x, unless it is bfloat16, w and, backward, dy. */
size_t linear_scratch_cuda(ts_stream *s, const ts_linear *l, int backward)
{
    (void)s;
    const size_t sums = backward ? 0 : sums_between(l);
    if (l->math == TS_MATH_F32) return sums;
    const size_t x = l->x_dtype == TS_BF16 ? 0 : ts_room(l->N * l->I, 2);
    return sums + x + ts_room(l->O * l->I, 2) + (backward ? ts_room(l->N * l->O, 2) : 0);
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

static ts_status sums_of(ts_stream *s, float *y, const void *x, const float *w, const float *b, const ts_linear *l, char *room)
{
    ts_operand left = { x, 0 }, right = { w, 1 };
    if (l->x_dtype != TS_BF16) TS_TRY(bring(s, &left.p, (const float *)x, l->N * l->I, l->math, &room));
    if (l->math == TS_MATH_BF16) TS_TRY(ts_round_weights(s, &right.p, w, l->O * l->I, TS_BF16, room));
    if (b) TS_TRY(ts_fill_rows(s, y, b, l->N, l->O));
    return ts_product(s, y, left, right, l->N, l->O, l->I, l->math, b != nullptr);
}

ts_status linear_fwd_cuda(ts_stream *s, void *y, const void *x, const float *w, const float *b, const ts_linear *l, void *scratch)
{
    if (l->N == 0) return TS_OK;
    const size_t between = sums_between(l);
    float *sums = (float *)(between ? scratch : y);
    TS_TRY(sums_of(s, sums, x, w, l->act ? nullptr : b, l, (char *)scratch + between));
    if (!l->act) return TS_OK;
    if (b) return ts_bias_act(s, y, sums, b, l->act, l->N, l->O, l->y_dtype);
    return act_fwd_cuda(s, y, sums, l->act, l->N * l->O, l->y_dtype);
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
