/* test_codebook_ema.c - moving averages as a codebook, and restarts, of every backend.
 *
 * The oracle keeps count and sum in double over several steps and counts plainly. Which vector a code starts anew from
 * it does not know: it looks which one the code is, and the draws are judged by their distribution.
 */
#include "tests/t.h"

typedef struct {
    int64_t N, D, V;
    int steps;
    ts_codebook_ema a;
} problem;

static const problem PROBLEMS[] = {
    { 1, 1, 1, 4, { 0.9f, 1e-5f, 0, 0, 0 } },
    { 31, 7, 5, 5, { 0.99f, 1e-5f, 0, 0, 0 } },
    { 257, 33, 100, 4, { 0.5f, 1e-2f, 0, 0, 0 } }, /* the smoothing shows */
    { 1000, 64, 37, 3, { 0, 1e-5f, 0, 0, 0 } },    /* no memory           */
    { 0, 5, 9, 2, { 0.9f, 1e-5f, 0.5f, 3, 0 } },   /* nothing to restart from */
    { 63, 17, 129, 6, { 0.9f, 1e-5f, 0.7f, 3, 0 } },
    { 333, 65, 40, 5, { 0.8f, 1e-5f, 9.03f, ~0ull, 1ll << 40 } }, /* restarted above the mean */
};
enum { N_PROBLEMS = sizeof PROBLEMS / sizeof *PROBLEMS };

typedef struct {
    t_buf *codebook, *count, *sum, *z, *idx;
    float *h_z;
    int32_t *h_idx;
} buffers;

/* Few codes are chosen often, many hardly ever, the last one never. */
static void new_batch(const ts_backend *be, ts_stream *s, buffers *b, const problem *q, uint64_t seed)
{
    b->h_z = t_normals(q->N * q->D, 1, seed);
    b->h_idx = t_alloc(4 * (size_t)q->N);
    for (int64_t t = 0; t < q->N; t++) {
        const double u = t_uniform(&seed);
        b->h_idx[t] = (int32_t)(u * u * u * (double)(q->V - 1));
    }
    b->z = T_INF(b->h_z, q->N * q->D), b->idx = T_INF(b->h_idx, q->N);
}

static buffers start(const ts_backend *be, ts_stream *s, const problem *q)
{
    float *count = t_alloc(4 * (size_t)q->V), *book = t_normals(q->V * q->D, 1, 1);
    for (int64_t v = 0; v < q->V; v++) count[v] = 1;
    return (
        buffers){ .codebook = T_INF(book, q->V * q->D), .count = T_INF(count, q->V), .sum = T_INF(book, q->V * q->D) };
}

static void step(const ts_backend *be, ts_stream *s, const buffers *b, const problem *q, const ts_codebook_ema *a)
{
    void *scratch = T_SCRATCH(be->codebook_ema_scratch(s, q->N, q->V));
    T_OK(be->codebook_ema(s, b->codebook->dev, b->count->dev, b->sum->dev, b->z->dev, b->idx->dev, a, q->N, q->D, q->V,
                          scratch));
    T_OK(be->stream_sync(s));
    t_down(b->codebook), t_down(b->count), t_down(b->sum);
}

typedef struct {
    double *count, *sum, *book;
    int restarts;
} oracle;

static oracle new_oracle(const buffers *b, const problem *q)
{
    oracle o = { t_alloc(8 * (size_t)q->V), t_alloc(8 * (size_t)(q->V * q->D)), t_alloc(8 * (size_t)(q->V * q->D)), 0 };
    for (int64_t v = 0; v < q->V; v++) o.count[v] = 1;
    for (int64_t i = 0; i < q->V * q->D; i++) o.sum[i] = o.book[i] = T_F(b->codebook)[i];
    return o;
}

/* The code is one of the batch's vectors, bit for bit. */
static int from_batch(const float *e, const buffers *b, const problem *q)
{
    for (int64_t t = 0; t < q->N; t++)
        if (memcmp(e, b->h_z + t * q->D, 4 * (size_t)q->D) == 0) return 1;
    return 0;
}

static void oracle_step(oracle *o, const buffers *b, const problem *q, double below)
{
    const double d = q->a.decay, eps = q->a.eps;
    double all = 0;
    for (int64_t v = 0; v < q->V; v++) {
        int hits = 0;
        for (int64_t c = 0; c < q->D; c++) o->sum[v * q->D + c] *= d;
        for (int64_t t = 0; t < q->N; t++) {
            if (b->h_idx[t] != v) continue;
            hits++;
            for (int64_t c = 0; c < q->D; c++) o->sum[v * q->D + c] += (1 - d) * b->h_z[t * q->D + c];
        }
        o->count[v] = d * o->count[v] + (1 - d) * hits;
        all += o->count[v];
    }
    for (int64_t v = 0; v < q->V; v++) {
        float *e = T_F(b->codebook) + v * q->D;
        ck_assert_msg(fabs(o->count[v] - below) > 1e-5 || below == 0,
                      "a count that float cannot tell from the threshold");
        if (o->count[v] < below && q->N > 0) {
            ck_assert_msg(from_batch(e, b, q), "code %d was not restarted from the batch", (int)v);
            o->count[v] = fmax(below, all / (double)q->V);
            for (int64_t c = 0; c < q->D; c++) o->sum[v * q->D + c] = o->count[v] * e[c], o->book[v * q->D + c] = e[c];
            o->restarts++;
        } else if (all > 0) {
            const double n = (o->count[v] + eps) / (all + (double)q->V * eps) * all;
            for (int64_t c = 0; c < q->D; c++) o->book[v * q->D + c] = o->sum[v * q->D + c] / n;
        }
    }
}

T_TEST(formula)
{
    int restarts = 0;
    for (int i = 0; i < N_PROBLEMS; i++) {
        const problem *q = &PROBLEMS[i];
        buffers b = start(be, s, q);
        oracle o = new_oracle(&b, q);
        for (int n = 0; n < q->steps; n++) {
            ts_codebook_ema a = q->a;
            a.step += n;
            new_batch(be, s, &b, q, 100 + (uint64_t)n);
            step(be, s, &b, q, &a);
            oracle_step(&o, &b, q, a.restart_below);
            t_close("count", T_F(b.count), o.count, q->V, 1e-6); /* a rounding or two of each number per step */
            t_close("sum", T_F(b.sum), o.sum, q->V * q->D, 1e-6);
            t_close("codebook", T_F(b.codebook), o.book, q->V * q->D, 2e-6);
        }
        T_TRUE((o.restarts > 0) == (q->a.restart_below > 0 && q->N > 0));
        restarts += o.restarts;
    }
    T_TRUE(restarts > 100);
}

/* Nothing was ever chosen and nothing is: the codebook stays. */
T_TEST(empty)
{
    static const problem q = { 0, 3, 4, 1, { 0.9f, 1e-5f, 0.5f, 1, 1 } };
    const float *zero = t_alloc(64), *book = t_normals(12, 1, 1);
    buffers b = { .codebook = T_INF(book, 12), .count = T_INF(zero, 4), .sum = T_INF(zero, 12) };
    new_batch(be, s, &b, &q, 1);
    step(be, s, &b, &q, &q.a);
    T_TRUE(memcmp(b.codebook->host, book, 48) == 0);
    T_TRUE(memcmp(b.count->host, zero, 16) == 0 && memcmp(b.sum->host, zero, 48) == 0);
    T_STATUS(TS_E_ARG, be->codebook_ema(s, NULL, NULL, NULL, NULL, NULL, &q.a, 0, 3, 0, NULL));
    T_STATUS(TS_E_ARG, be->codebook_ema(s, NULL, NULL, NULL, NULL, NULL, &q.a, 0, 0, 4, NULL));
}

/* All codes but one are dead: from where they start anew. */
static void drawn(const ts_backend *be, ts_stream *s, const problem *q, uint64_t seed, int64_t at, int32_t *from)
{
    buffers b = start(be, s, q);
    float *z = t_alloc(4 * (size_t)q->N);
    b.h_idx = t_alloc(4 * (size_t)q->N);
    for (int64_t t = 0; t < q->N; t++) z[t] = (float)t;
    b.z = T_INF(z, q->N), b.idx = T_INF(b.h_idx, q->N);
    ts_codebook_ema a = q->a;
    a.seed = seed, a.step = at;
    step(be, s, &b, q, &a);
    for (int64_t v = 1; v < q->V; v++) {
        from[v] = (int32_t)T_F(b.codebook)[v];
        T_TRUE(from[v] >= 0 && from[v] < q->N && T_F(b.codebook)[v] == (float)from[v]);
    }
}

T_TEST(draws)
{
    static const problem q = { 7, 1, 3501, 1, { 0, 1e-5f, 0.001f, 0, 0 } };
    enum { V = 3501 };
    static const struct {
        uint64_t seed;
        int64_t step;
    } WHEN[] = { { 5, 8 }, { 5, 8 }, { 6, 8 }, { 5, 9 }, { 5, 8 + (1ll << 32) }, { 5 + (1ull << 32), 8 } };
    int32_t *from[6];
    for (int i = 0; i < 6; i++) {
        int same = 0, hits[7] = { 0 };
        from[i] = t_alloc(4 * V);
        drawn(be, s, &q, WHEN[i].seed, WHEN[i].step, from[i]);
        for (int v = 1; v < V; v++) same += from[i][v] == from[0][v], hits[from[i][v]]++;
        for (int t = 0; t < 7; t++) T_TRUE(abs(hits[t] - 500) < 104); /* 5 standard deviations of 20.7 */
        if (i == 1) T_EQI(same, V - 1);
        if (i > 1) T_TRUE(abs(same - 500) < 104);
    }
}

T_TEST(threads)
{
    const problem *q = &PROBLEMS[5];
    buffers first = { 0 };
    for (int threads = 1; threads < 6; threads += 2) {
        ts_stream *other;
        buffers b = start(be, s, q);
        T_OK(be->stream_sync(s));
        T_OK(be->stream_new(&other, 0, threads));
        for (int n = 0; n < 4; n++) {
            ts_codebook_ema a = q->a;
            a.step = n;
            new_batch(be, s, &b, q, 7 + (uint64_t)n);
            T_OK(be->stream_sync(s));
            step(be, other, &b, q, &a);
        }
        be->stream_free(other);
        if (threads == 1) first = b;
        T_TRUE(memcmp(b.codebook->host, first.codebook->host, b.codebook->bytes) == 0);
        T_TRUE(memcmp(b.count->host, first.count->host, b.count->bytes) == 0);
        T_TRUE(memcmp(b.sum->host, first.sum->host, b.sum->bytes) == 0);
    }
}

int main(void)
{
    Suite *u = t_suite("op_codebook_ema");
    T_ADD(u, formula);
    T_ADD(u, empty);
    T_ADD(u, draws);
    T_ADD(u, threads);
    return t_run(u);
}
