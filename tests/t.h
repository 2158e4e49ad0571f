/* t.h - the test harness, on top of Check: buffers with guard words on every backend, seeded inputs, golden files.
 *
 * A test program is one file with
 *     T_TEST(name) { ... }                     one test; `be` is the backend, `s` its stream (for T_BACKENDS tests)
 *     int main(void) { Suite *u = t_suite("op_x"); T_ADD(u, name); return t_run(u); }
 * T_ADD runs a test once per backend present (TS_TEST_BACKEND=cpu picks one, which must be there); T_ADD1 runs it once, with be = cpu.
 * Comparisons are written so that NaN fails.
 */
#ifndef T_H
#define T_H

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tessera/backend.h"

#define T_TEST(name) static void name(const ts_backend *be, ts_stream *s)

typedef void t_fn(const ts_backend *be, ts_stream *s);

Suite *t_suite(const char *name);
void t_add(Suite *u, const char *name, t_fn *fn, int every_backend);
#define T_ADD(u, fn) t_add(u, #fn, fn, 1)
#define T_ADD1(u, fn) t_add(u, #fn, fn, 0)
int t_run(Suite *u); /* 0 only if at least one test ran and none failed */

/* The call must return TS_OK / exactly this status; the message of ts_error() is shown otherwise. */
#define T_OK(expr) T_STATUS(TS_OK, expr)
#define T_STATUS(want, expr)                                                                                  \
    do {                                                                                                      \
        ts_status got_ = (expr);                                                                              \
        ck_assert_msg(got_ == (want), "%s: status %d, expected %d: %s", #expr, got_, (int)(want), ts_error()); \
    } while (0)
#define T_TRUE(expr) ck_assert_msg((expr), "%s is false", #expr)
#define T_EQI(a, b) ck_assert_int_eq((a), (b))

/* |got - want| <= tol for one number. */
#define T_NEAR(got, want, tol)                                                                          \
    do {                                                                                                \
        double g_ = (got), w_ = (want), t_ = (tol);                                                     \
        ck_assert_msg(fabs(g_ - w_) <= t_, "%s = %.9g, expected %.9g within %.3g", #got, g_, w_, t_);   \
    } while (0)

/* max |got - want| <= tol * max(|want|, floor 1e-30) over n numbers: an error relative to the tensor's largest value. */
void t_close(const char *what, const float *got, const double *want, int64_t n, double tol);
void t_closef(const char *what, const float *got, const float *want, int64_t n, double tol);

/* x rounded to bfloat16, to nearest even, by another way than the kernels'. */
double t_bf16(double x);
/* x (n) as operands of a product: in double, rounded so if math is TS_MATH_BF16. */
double *t_operand(const float *x, int64_t n, ts_math math);

/* How far float32 sums of n products of normals may be off: rounding errors, 2^-24 each, add up like a random walk. The factor 4
 * is for the largest of many outputs. Products of bfloat16 are exact in float32, so the bound is the same. */
double t_sum_tolerance(int64_t n);

/* A buffer on a backend, with a host copy. Outputs are poisoned with NaN (bytes 0xff) and stand between guard words
 * that t_down checks. All buffers of a test are freed after it. */
typedef struct t_buf {
    void *dev; /* pass this to an op    */
    void *host;
    size_t bytes;
    struct t_private *p;
} t_buf;

t_buf *t_out(const ts_backend *be, ts_stream *s, int64_t n, size_t size);       /* poisoned              */
t_buf *t_in(const ts_backend *be, ts_stream *s, const void *host, int64_t n, size_t size); /* a copy of host */
void t_up(t_buf *b);   /* host -> device                                   */
void t_down(t_buf *b); /* device -> host, after a sync; checks the guards  */
#define T_F(b) ((float *)(b)->host)
#define T_I(b) ((int32_t *)(b)->host)
#define T_OUTF(n) t_out(be, s, (n), 4)
#define T_INF(h, n) t_in(be, s, (h), (n), 4)
#define T_SCRATCH(bytes) (t_out(be, s, (int64_t)((bytes) + 1), 1)->dev)

/* The emulated device runs blocks and threads in another order for every seed, ascending for 0, until the test ends;
 * other backends have no such choice. */
void t_thread_order(unsigned seed);

/* Seeded numbers: splitmix64. */
uint64_t t_next(uint64_t *seed);
double t_uniform(uint64_t *seed); /* [0, 1) */
double t_normal(uint64_t *seed);
/* n normals times scale (malloc; freed after the test). */
float *t_normals(int64_t n, double scale, uint64_t seed);
void *t_alloc(size_t bytes); /* zeroed, freed after the test */

/* The hash rule of tests/golden/README.md: inputs, and weights by their published shape. */
void t_hash_input(float *x, const char *name, int64_t n);
void t_hash_weight(float *x, const char *name, const int64_t *shape, int rank);

/* One tensor of tests/golden/FILE.safetensors; n receives the number of elements. Fails the test if it is missing.
 * dtype is checked: "F32", "I32" or "F64". Freed after the test. */
void *t_golden(const char *file, const char *tensor, const char *dtype, int64_t *n);
int t_golden_has(const char *file, const char *tensor);

#endif
