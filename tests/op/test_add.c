/* test_add.c - sums and row scaling of every backend.
 *
 * Oracle     one operation in double rounded once to float32 is exact, so those results must have equal bits; sums over
 *            rows are compared with a sum in double.
 * Inputs     seeded normals; extents of 0, 1 and beside a multiple of every vector width; in place too.
 */
#include "tests/t.h"

static const int64_t SIZES[] = { 0, 1, 31, 257, 40003 };
enum { N_SIZES = sizeof SIZES / sizeof *SIZES };

typedef struct {
    int64_t M, R, N;
} shape;

static const shape SHAPES[] = { { 1, 1, 1 },   { 6, 3, 31 },   { 12, 4, 257 }, { 340, 85, 64 },
                                { 600, 1, 3 }, { 5, 5, 1000 }, { 0, 4, 8 },    { 2048, 2, 70 } };
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };

T_TEST(two_tensors)
{
    for (int i = 0; i < N_SIZES; i++) {
        const int64_t n = SIZES[i];
        const float *a = t_normals(n, 1, 1), *b = t_normals(n, 1, 2);
        t_buf *y = T_OUTF(n), *on_a = T_INF(a, n), *on_b = T_INF(b, n);
        T_OK(be->add(s, y->dev, on_a->dev, on_b->dev, n));
        T_OK(be->add(s, on_a->dev, on_a->dev, T_INF(b, n)->dev, n));
        T_OK(be->add(s, on_b->dev, T_INF(a, n)->dev, on_b->dev, n));
        t_down(y), t_down(on_a), t_down(on_b);
        for (int64_t k = 0; k < n; k++) {
            const float want = (float)((double)a[k] + (double)b[k]);
            T_TRUE(T_F(y)[k] == want && T_F(on_a)[k] == want && T_F(on_b)[k] == want);
        }
    }
}

/* Any of the buffers may begin at any float. */
T_TEST(buffers_at_odd_addresses)
{
    enum { N = 62 };
    const float *x = t_normals(2 * N + 2, 1, 1);
    for (int odd = 0; odd < 8; odd++) {
        const int at_a = odd & 1, at_b = odd >> 1 & 1, at_y = odd >> 2;
        t_buf *y = T_OUTF(N + 1), *a = T_INF(x, N + 1), *b = T_INF(x + N + 1, N + 1);
        T_OK(be->add(s, (float *)y->dev + at_y, (float *)a->dev + at_a, (float *)b->dev + at_b, N));
        t_down(y);
        for (int i = 0; i < N; i++)
            T_TRUE(T_F(y)[at_y + i] == (float)((double)x[at_a + i] + (double)x[N + 1 + at_b + i]));
        T_TRUE(isnan(T_F(y)[at_y ? 0 : N]));
    }
}

T_TEST(rows_that_repeat)
{
    for (int i = 0; i < N_SHAPES; i++) {
        const shape p = SHAPES[i];
        const int64_t n = p.M * p.N;
        const float *a = t_normals(n, 1, 1), *rows = t_normals(p.R * p.N, 1, 2);
        t_buf *y = T_OUTF(n), *on_a = T_INF(a, n), *r = T_INF(rows, p.R * p.N);
        T_OK(be->add_rows(s, y->dev, T_INF(a, n)->dev, r->dev, p.M, p.R, p.N));
        T_OK(be->add_rows(s, on_a->dev, on_a->dev, r->dev, p.M, p.R, p.N));
        t_down(y), t_down(on_a);
        for (int64_t k = 0; k < n; k++) {
            const float want = (float)((double)a[k] + (double)rows[k % (p.R * p.N)]);
            T_TRUE(T_F(y)[k] == want && T_F(on_a)[k] == want);
        }
    }
}

T_TEST(sums_of_rows)
{
    for (int i = 0; i < N_SHAPES; i++) {
        const shape p = SHAPES[i];
        const int64_t n = p.M * p.N, out = p.R * p.N;
        const float *dy = t_normals(n, 1, 1), *start = t_normals(out, 1, 2);
        double *want = t_alloc(sizeof(double) * (size_t)out);
        for (int64_t k = 0; k < out; k++) want[k] = start[k];
        for (int64_t k = 0; k < n; k++) want[k % out] += dy[k];

        ts_stream *one;
        T_OK(be->stream_new(&one, 0, 1));
        t_buf *sum = T_INF(start, out), *sum_one = T_INF(start, out), *in = T_INF(dy, n);
        T_OK(be->sum_rows(s, sum->dev, in->dev, p.M, p.R, p.N));
        T_OK(be->sum_rows(one, sum_one->dev, in->dev, p.M, p.R, p.N));
        T_OK(be->stream_sync(one));
        t_down(sum), t_down(sum_one);
        t_close("drows", T_F(sum), want, out, 2e-6); /* 1024 roundings of 2^-24 that add up like a random walk */
        T_TRUE(memcmp(sum->host, sum_one->host, sum->bytes) == 0);
        be->stream_free(one);
    }
}

T_TEST(rows_times_a_factor)
{
    for (int i = 0; i < N_SHAPES; i++) {
        const shape p = SHAPES[i];
        const int64_t n = p.M * p.N;
        const float *a = t_normals(n, 1, 1), *factor = t_normals(p.M, 1, 2);
        t_buf *y = T_OUTF(n), *on_a = T_INF(a, n), *f = T_INF(factor, p.M);
        T_OK(be->scale_rows(s, y->dev, T_INF(a, n)->dev, f->dev, p.M, p.N));
        T_OK(be->scale_rows(s, on_a->dev, on_a->dev, f->dev, p.M, p.N));
        t_down(y), t_down(on_a);
        for (int64_t k = 0; k < n; k++) {
            const float want = (float)((double)a[k] * (double)factor[k / p.N]);
            T_TRUE(T_F(y)[k] == want && T_F(on_a)[k] == want);
        }
    }
}

int main(void)
{
    Suite *u = t_suite("op_add");
    T_ADD(u, two_tensors);
    T_ADD(u, buffers_at_odd_addresses);
    T_ADD(u, rows_that_repeat);
    T_ADD(u, sums_of_rows);
    T_ADD(u, rows_times_a_factor);
    return t_run(u);
}
