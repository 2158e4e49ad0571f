/* test_embedding.c - rows of a table, and their gradient, of every backend.
 *
 * Forward is a copy: compared bit for bit. Backward adds in ascending n: so does the oracle, in float, bit for bit.
 */
#include "tests/t.h"

typedef struct {
    int64_t N, C, V;
} shape;

static const shape SHAPES[] = {
    { 1, 1, 1 }, { 31, 7, 5 }, { 257, 33, 3 }, { 100, 256, 1000 }, { 640, 64, 1 }, { 0, 8, 4 },
};
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };

static int32_t *indices(const shape *p, uint64_t seed)
{
    int32_t *idx = t_alloc(4 * (size_t)p->N);
    for (int64_t n = 0; n < p->N; n++) idx[n] = (int32_t)(t_next(&seed) % (uint64_t)p->V);
    if (p->N > 1) idx[0] = (int32_t)p->V - 1, idx[p->N - 1] = 0;
    return idx;
}

static void same(const float *got, const float *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        ck_assert_msg(got[i] == want[i], "[%lld]: %.9g, expected %.9g", (long long)i, (double)got[i], (double)want[i]);
}

T_TEST(forward)
{
    for (int i = 0; i < N_SHAPES; i++) {
        const shape *p = &SHAPES[i];
        const int32_t *idx = indices(p, 5);
        const float *table = t_normals(p->V * p->C, 1, 6);
        t_buf *y = T_OUTF(p->N * p->C);
        T_OK(be->embedding_fwd(s, y->dev, T_INF(table, p->V * p->C)->dev, T_INF(idx, p->N)->dev, p->N, p->C));
        t_down(y);
        for (int64_t n = 0; n < p->N; n++) same(T_F(y) + n * p->C, table + idx[n] * p->C, p->C);
    }
}

static void backward_on(const ts_backend *be, ts_stream *s, const shape *p, int threads)
{
    const int32_t *idx = indices(p, 5);
    const float *dy = t_normals(p->N * p->C, 1, 7);
    float *want = t_normals(p->V * p->C, 1, 8); /* added to */
    t_buf *dtable = T_INF(want, p->V * p->C);
    const t_buf *ddy = T_INF(dy, p->N * p->C), *didx = T_INF(idx, p->N);
    ts_stream *other;
    T_OK(be->stream_sync(s));
    T_OK(be->stream_new(&other, 0, threads));
    T_OK(be->embedding_bwd(other, dtable->dev, ddy->dev, didx->dev, p->N, p->C, p->V));
    T_OK(be->stream_sync(other));
    be->stream_free(other);
    t_down(dtable);
    for (int64_t n = 0; n < p->N; n++)
        for (int64_t c = 0; c < p->C; c++) want[idx[n] * p->C + c] += dy[n * p->C + c];
    same(T_F(dtable), want, p->V * p->C);
}

T_TEST(backward)
{
    for (int threads = 1; threads < 6; threads += 2)
        for (int i = 0; i < N_SHAPES; i++) backward_on(be, s, &SHAPES[i], threads);
}

int main(void)
{
    Suite *u = t_suite("op_embedding");
    T_ADD(u, forward);
    T_ADD(u, backward);
    return t_run(u);
}
