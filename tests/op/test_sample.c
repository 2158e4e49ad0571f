/* test_sample.c - drawing tokens on every backend, against a sampler in double that sorts.
 *
 * Oracle    logits mixed in double, classes sorted, Philox written anew, noise in double (sample_oracle.h). It also says
 *           how far its choice was from another one; a draw closer than 1e-5 to a tie may differ (float32 logits up to
 *           20 round to 1e-6, and the noise too), and such draws must be rare.
 * Then      what the contract promises exactly: batches, passes and threads change nothing; ties; the ends of each
 *           range.
 */
#include "tests/op/sample_oracle.h"

static const double TIE = 1e-5;

/* ---- Oracle --------------------------------------------------------------------------------------------------- */

typedef struct {
    double z, margin; /* noisy logit; distance of the whole draw from a tie */
    int v;
} choice;

/* One class of V from mixed logits l. */
static choice oracle_draw(const double *l, int V, const ts_sample *a, int stage, int64_t token, uint64_t image)
{
    class *c = malloc((size_t)V * sizeof *c);
    for (int v = 0; v < V; v++) c[v] = (class){ l[v], v };
    qsort(c, (size_t)V, sizeof *c, ascending);
    choice best = { -INFINITY, INFINITY, -1 };
    int first = first_kept(c, V, a, &best.margin);
    double second = -INFINITY;
    for (int i = first; i < V; i++) {
        double z = c[i].l + (a->top_k == 1 ? 0 : gumbel(a, stage, token, image, c[i].v));
        if (z > best.z || (z == best.z && c[i].v < best.v))
            second = best.z, best.z = z, best.v = c[i].v;
        else
            second = fmax(second, z);
    }
    if (a->top_k != 1) best.margin = fmin(best.margin, best.z - second);
    free(c);
    return best;
}

static choice oracle_row(const float *logits, const ts_sample *a, int64_t n)
{
    int V = (int)a->V;
    double *l = t_alloc((size_t)V * sizeof *l);
    for (int v = 0; v < V; v++) {
        int64_t at = n * V + v;
        l[v] = mixed(a, logits[at], a->guided ? logits[a->B * a->t * V + at] : 0);
    }
    return oracle_draw(l, V, a, 0, a->token0 + n % a->t, a->image0 + (uint64_t)(n / a->t));
}

/* ---- Running the op ------------------------------------------------------------------------------------------- */

static ts_sample options(int64_t B, int64_t t, int64_t V)
{
    return (ts_sample){ .B = B, .t = t, .V = V, .temperature = 1, .top_p = 1, .seed = 0x0123456789abcdefu };
}

static int32_t *sample_on(const ts_backend *be, ts_stream *s, ts_stream *s1, const float *logits, const ts_sample *a)
{
    t_buf *in = T_INF(logits, (a->guided ? 2 : 1) * a->B * a->t * a->V), *idx = t_out(be, s, a->B * a->t, 4);
    t_buf *scratch = t_out(be, s, (int64_t)be->sample_scratch(s1, a), 1);
    T_OK(be->sample(s1, idx->dev, in->dev, a, scratch->dev));
    T_OK(be->stream_sync(s1));
    t_down(scratch), t_down(idx);
    return T_I(idx);
}

static int32_t *sample(const ts_backend *be, ts_stream *s, const float *logits, const ts_sample *a)
{
    return sample_on(be, s, s, logits, a);
}

static int32_t sample_one(const ts_backend *be, ts_stream *s, const float *logits, const ts_sample *a)
{
    return sample(be, s, logits, a)[0];
}

/* n draws against the oracle's; near ties may differ, but those are few. */
static void compare(const int32_t *got, const choice *want, int64_t n, const char *what)
{
    int64_t excused = 0;
    for (int64_t i = 0; i < n; i++) {
        if (got[i] != want[i].v && want[i].margin < TIE)
            excused++;
        else
            ck_assert_msg(got[i] == want[i].v, "%s: draw %lld gave %d, expected %d (margin %g)", what, (long long)i,
                          got[i], want[i].v, want[i].margin);
    }
    ck_assert_msg(excused * 50 <= n, "%s: %lld of %lld draws near a tie", what, (long long)excused, (long long)n);
}

static void check_rows(const ts_backend *be, ts_stream *s, const float *logits, const ts_sample *a, const char *what)
{
    int64_t rows = a->B * a->t;
    choice *want = t_alloc((size_t)rows * sizeof *want);
    for (int64_t n = 0; n < rows; n++) want[n] = oracle_row(logits, a, n);
    compare(sample(be, s, logits, a), want, rows, what);
}

T_TEST(against_sorting_oracle)
{
    static const struct {
        const char *name;
        int64_t B, t, V;
        int guided, top_k;
        float guide, temperature, top_p;
    } c[] = {
        { "plain", 3, 31, 257, 0, 0, 0, 1, 1 },        { "one class", 2, 3, 1, 0, 0, 0, 1, 0.5f },
        { "two classes", 2, 31, 2, 0, 1, 0, 1, 0.7f }, { "guided", 2, 17, 31, 1, 0, 1.5f, 0.7f, 1 },
        { "top-k", 2, 31, 257, 0, 20, 0, 1.3f, 1 },    { "top-p", 2, 31, 257, 0, 0, 0, 1, 0.9f },
        { "all", 2, 9, 4096, 1, 900, 1.5f, 1, 0.96f }, { "all but one", 2, 31, 31, 0, 30, 0, 3, 0.99f },
        { "k is V", 2, 31, 31, 0, 31, 0, 1, 1 },       { "greedy", 2, 31, 257, 1, 1, 0.5f, 1, 0.5f },
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        ts_sample a = options(c[i].B, c[i].t, c[i].V);
        a.guided = c[i].guided, a.guide = c[i].guide, a.temperature = c[i].temperature;
        a.top_k = c[i].top_k, a.top_p = c[i].top_p;
        a.image0 = (7ull << 32) - 1, a.token0 = 14; /* the picture's number carries into its high word */
        float *logits = t_normals(2 * a.B * a.t * a.V, 3, 40 + i);
        for (int64_t n = 0; n < 2 * a.B * a.t * a.V; n += 11)
            if (a.V > 31) logits[n] = n % 2 ? -INFINITY : -0.f;
        for (int64_t n = 0; n < a.B * a.t * a.V; n++) /* uncond may be -inf only where cond is */
            if (logits[n + a.B * a.t * a.V] == -INFINITY) logits[n] = -INFINITY;
        check_rows(be, s, logits, &a, c[i].name);
    }
}

T_TEST(largest_codebook)
{
    ts_sample a = options(1, 2, 4 * 65536);
    float *logits = t_normals(a.t * a.V, 1, 4);
    for (int64_t v = 0; v < a.V / 2; v++) logits[v] = -INFINITY; /* the upper half must be reached */
    a.top_p = 0.999f;
    check_rows(be, s, logits, &a, "largest codebook");
}

/* ---- Distribution --------------------------------------------------------------------------------------------- */

/* Chi-square of N draws by picture number; the seed is fixed, so this cannot flicker. */
static double chi_square(const ts_backend *be, ts_stream *s, const float *l, int V, const ts_sample *options_, int N)
{
    ts_sample a = *options_;
    a.B = N, a.t = 1, a.V = V;
    float *logits = t_alloc(sizeof(float) * (size_t)(N * V));
    for (int i = 0; i < N * V; i++) logits[i] = l[i % V];
    int32_t *idx = sample(be, s, logits, &a);
    double *count = t_alloc(sizeof(double) * (size_t)V), sum = 0, chi = 0;
    for (int n = 0; n < N; n++) count[idx[n]]++;
    for (int v = 0; v < V; v++) sum += exp(l[v] / a.temperature);
    for (int v = 0; v < V; v++) {
        double e = N * exp(l[v] / a.temperature) / sum;
        chi += (count[v] - e) * (count[v] - e) / e;
    }
    return chi;
}

T_TEST(draws_follow_softmax)
{
    static const float l[] = { 0, 1, -1, 2, 0.5f, -2, 1.5f, 0, -0.5f, 1, -1.5f };
    for (uint64_t seed = 1; seed <= 3; seed++) {
        ts_sample a = options(1, 1, 11);
        a.seed = seed << 40;
        T_TRUE(chi_square(be, s, l, 11, &a, 20000) < 29.6); /* 10 degrees of freedom, 0.999 */
        a.temperature = 2.5f;
        T_TRUE(chi_square(be, s, l, 11, &a, 20000) < 29.6);
    }
}

/* Tokens, digits and pictures draw apart: each pair of neighbours agrees as often as chance has it. */
T_TEST(draws_are_independent)
{
    enum { N = 200, V = 4 };
    ts_sample a = options(N, N / 2, V);
    float *logits = t_alloc(sizeof(float) * (size_t)(a.B * a.t * V)); /* uniform */
    int32_t *idx = sample(be, s, logits, &a);
    double token = 0, image = 0, n = (double)((N - 1) * (N / 2 - 1));
    for (int b = 0; b + 1 < N; b++)
        for (int t = 0; t + 1 < N / 2; t++) {
            token += idx[b * (N / 2) + t] == idx[b * (N / 2) + t + 1];
            image += idx[b * (N / 2) + t] == idx[(b + 1) * (N / 2) + t];
        }
    double spread = 4 * sqrt(0.25 * 0.75 / n);
    T_NEAR(token / n, 0.25, spread);
    T_NEAR(image / n, 0.25, spread);
}

/* ---- Promises ------------------------------------------------------------------------------------------------- */

T_TEST(batch_pass_and_threads_change_nothing)
{
    enum { B = 8, T = 13, V = 100 };
    ts_sample a = options(B, T, V);
    a.guided = 1, a.guide = 0.75f, a.top_k = 50, a.top_p = 0.9f, a.image0 = 1000, a.token0 = 5;
    float *all = t_normals(2 * B * T * V, 2, 9), part[2 * T * V];
    int32_t *want = sample(be, s, all, &a);
    for (int b = 0; b < B; b++) { /* one picture at a time, its tokens in two passes */
        for (int half = 0; half < 2; half++) {
            int t0 = half ? 6 : 0, n = half ? T - 6 : 6;
            ts_sample one = a;
            one.B = 1, one.t = n, one.image0 += (uint64_t)b, one.token0 += t0;
            for (int u = 0; u < 2; u++)
                memcpy(part + u * n * V, all + ((u * B + b) * T + t0) * V, sizeof(float) * (size_t)(n * V));
            ck_assert_mem_eq(sample(be, s, part, &one), want + b * T + t0, (size_t)n * 4);
        }
    }
    for (int threads = 1; threads <= 3; threads += 2) {
        ts_stream *other;
        T_OK(be->stream_new(&other, 0, threads));
        ck_assert_mem_eq(sample_on(be, s, other, all, &a), want, B * T * 4);
        be->stream_free(other);
    }
}

/* The classes that n pictures draw from one row of logits, as bits. */
static uint64_t drawn(const ts_backend *be, ts_stream *s, const float *l, int V, ts_sample a, int n)
{
    a.B = n, a.t = 1, a.V = V;
    float *logits = t_alloc(sizeof(float) * (size_t)(n * V));
    for (int i = 0; i < n * V; i++) logits[i] = l[i % V];
    int32_t *idx = sample(be, s, logits, &a);
    uint64_t set = 0;
    for (int i = 0; i < n; i++) set |= 1ull << idx[i];
    return set;
}

T_TEST(top_k_keeps_ties)
{
    static const float l[] = { 1, 2, -0.f, 1, 0, 1, -3 }; /* sorted: 2 1 1 1 0 -0 -3 */
    static const uint64_t want[] = { 0x7f, 0x02, 0x2b, 0x2b, 0x2b, 0x3f, 0x3f, 0x7f, 0x7f };
    ts_sample a = options(1, 1, 1);
    a.temperature = 4; /* so that all that is kept is drawn */
    for (int k = 0; k <= 8; k++) {
        a.top_k = k;
        ck_assert_uint_eq(drawn(be, s, l, 7, a, 500), want[k]);
    }
}

/* Probabilities 1/8, 1/2, 1/8, 1/4: exact in float32 as long as exp and its sum are within 1e-6. */
T_TEST(top_p_cuts_where_it_says)
{
    const float l[] = { logf(1), logf(4), logf(1), logf(2) };
    static const struct {
        float p;
        uint64_t want;
    } c[] = { { 1, 0xf },      { 0.9999f, 0xf }, { 0.876f, 0xf }, { 0.874f, 0xe }, { 0.751f, 0xe },
              { 0.749f, 0xa }, { 0.501f, 0xa },  { 0.499f, 0x2 }, { 1e-4f, 0x2 },  { 1e-30f, 0x2 } };
    ts_sample a = options(1, 1, 1);
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        a.top_p = c[i].p;
        ck_assert_uint_eq(drawn(be, s, l, 4, a, 500), c[i].want);
    }
    a.top_k = 2, a.top_p = 0.65f; /* of the two that are left one has 2/3: top-p counts after top-k */
    ck_assert_uint_eq(drawn(be, s, l, 4, a, 500), 0x2);
    a.top_p = 0.68f;
    ck_assert_uint_eq(drawn(be, s, l, 4, a, 500), 0xa);
}

/* One class of 1/2 and 4096 that share the other half: small masses count as exactly as large ones. */
T_TEST(top_p_counts_small_classes)
{
    enum { N = 300, V = 4097 };
    ts_sample a = options(N, 1, V);
    a.top_p = 0.7501f; /* drops 2047 of the small ones, the first */
    float *l = t_alloc(sizeof(float) * N * V);
    for (int i = 0; i < N * V; i++) l[i] = i % V == V - 1 ? 0 : -logf(4096);
    int32_t *idx = sample(be, s, l, &a), lowest = V, small = 0;
    for (int n = 0; n < N; n++) {
        if (idx[n] < lowest) lowest = idx[n];
        small += idx[n] < V - 1;
    }
    T_TRUE(lowest >= 2047);
    T_NEAR(small / (double)N, 1.0 / 3, 4 * sqrt(2.0 / 9 / N)); /* a quarter against a half */
}

/* Equal logits are exact: 4 classes of 1/4, and the running sum may reach 1 - top_p without passing it. */
T_TEST(top_p_among_equals)
{
    static const float l[4] = { 0.3f, 0.3f, 0.3f, 0.3f };
    ts_sample a = options(1, 1, 1);
    a.top_p = 0.5f;
    ck_assert_uint_eq(drawn(be, s, l, 4, a, 500), 0xc);
    a.top_p = 0.51f;
    ck_assert_uint_eq(drawn(be, s, l, 4, a, 500), 0xe);
    a.top_p = 1e-4f;
    ck_assert_uint_eq(drawn(be, s, l, 4, a, 500), 0x8);

    ts_sample many = options(1, 1, 4 * 65536);
    many.top_p = 1e-6f;
    T_EQI(sample_one(be, s, t_alloc(sizeof(float) * (size_t)many.V), &many), 4 * 65536 - 1);
}

T_TEST(greedy_takes_lowest_of_largest)
{
    static const float l[] = { 1, 5, -2, 5, 5, 0 }, low[] = { -7, -7.000001f, -7, -8, -6.999999f, -6.999999f };
    ts_sample a = options(1, 1, 6);
    a.top_k = 1, a.top_p = 0.3f;
    T_EQI(sample_one(be, s, l, &a), 1);
    T_EQI(sample_one(be, s, low, &a), 4);
}

T_TEST(minus_infinity_is_never_drawn)
{
    static const float l[] = { -INFINITY, -30, -INFINITY, -30, -INFINITY };
    float both[10];
    memcpy(both, l, sizeof l), memcpy(both + 5, l, sizeof l);
    ts_sample a = options(1, 1, 1);
    ck_assert_uint_eq(drawn(be, s, l, 5, a, 300), 0xa);
    a.top_k = 4;
    ck_assert_uint_eq(drawn(be, s, l, 5, a, 300), 0xa);
    a.top_p = 0.99f;
    ck_assert_uint_eq(drawn(be, s, l, 5, a, 300), 0xa);
    a.guided = 1, a.guide = 0, a.V = 5;
    for (a.seed = 0; a.seed < 20; a.seed++) T_TRUE((0xa >> sample_one(be, s, both, &a) & 1) == 1);
}

/* No draw is possible: the row's index is 0, the others are drawn, and the failure names picture and token. */
T_TEST(bad_logits_are_reported)
{
    enum { B = 2, T = 5, V = 9 };
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    for (int i = 0; i < 3; i++) {
        ts_sample a = options(B, T, V);
        a.image0 = 40, a.token0 = 5, a.top_k = i == 1;
        float *l = t_normals(B * T * V, 1, 3);
        int32_t *want = sample(be, s, l, &a);
        t_buf *idx = t_out(be, s, B * T, 4);
        for (int v = i == 2 ? 0 : 7; v < V; v++) l[8 * V + v] = bad[i];
        t_buf *in = T_INF(l, B * T * V), *scratch = t_out(be, s, (int64_t)be->sample_scratch(s, &a), 1);
        ts_status st = be->sample(s, idx->dev, in->dev, &a, scratch->dev);
        if (st == TS_OK) st = be->stream_sync(s);
        T_EQI(st, TS_E_DATA);
        ck_assert_msg(strstr(ts_error(), "picture 41") && strstr(ts_error(), "token 8"), "%s", ts_error());
        t_down(idx);
        T_EQI(T_I(idx)[8], 0);
        for (int n = 0; n < B * T; n++) T_TRUE(n == 8 || T_I(idx)[n] == want[n]);
    }
}

/* Several such rows: the first one is named, in whatever order they are drawn. */
T_TEST(first_bad_row_is_reported)
{
    enum { B = 2, T = 5, V = 9 };
    ts_sample a = options(B, T, V);
    a.image0 = 40, a.token0 = 5;
    float *l = t_normals(B * T * V, 1, 3);
    l[3 * V] = l[8 * V + 2] = l[9 * V] = NAN;
    t_buf *in = T_INF(l, B * T * V), *idx = t_out(be, s, B * T, 4),
          *scratch = t_out(be, s, (int64_t)be->sample_scratch(s, &a), 1);
    for (unsigned order = 0; order < 4; order++) {
        t_thread_order(order);
        ts_status st = be->sample(s, idx->dev, in->dev, &a, scratch->dev);
        if (st == TS_OK) st = be->stream_sync(s);
        T_EQI(st, TS_E_DATA);
        ck_assert_msg(strstr(ts_error(), "picture 40") && strstr(ts_error(), "token 8"), "%s", ts_error());
    }
}

T_TEST(empty)
{
    ts_sample a = options(0, 4, 10);
    T_OK(be->sample(s, NULL, NULL, &a, NULL));
    a.B = 3, a.t = 0;
    T_OK(be->sample(s, NULL, NULL, &a, NULL));
}

T_TEST(options_out_of_range)
{
    ts_sample good = options(0, 4, 10), a;
    ts_digit_head d;
    T_OK(ts_digit_head_init(&d, (int32_t[]){ 3, 3 }, 2, 4, 2));
    ts_digit_params p = { 0 };
#define REFUSED(member, value)                                                                                         \
    do {                                                                                                               \
        a = good, a.guided = 1, a.member = (value);                                                                    \
        T_STATUS(TS_E_ARG, be->sample(s, NULL, NULL, &a, NULL));                                                       \
        if (strcmp(#member, "V") != 0) T_STATUS(TS_E_ARG, be->sample_digits(s, NULL, NULL, &p, &d, 0, &a, NULL));      \
    } while (0)
    REFUSED(B, -1);
    REFUSED(t, -1);
    REFUSED(V, 0);
    REFUSED(V, 4 * 65536 + 1);
    REFUSED(temperature, 0);
    REFUSED(temperature, -1);
    REFUSED(temperature, NAN);
    REFUSED(temperature, INFINITY);
    REFUSED(top_k, -1);
    REFUSED(top_p, 0);
    REFUSED(top_p, -0.1f);
    REFUSED(top_p, 1.001f);
    REFUSED(top_p, NAN);
    REFUSED(guide, NAN);
    REFUSED(guide, INFINITY);
    REFUSED(token0, -1);
    REFUSED(token0, 1ll << 32);
    T_OK(be->sample_digits(s, NULL, NULL, &p, &d, 1, &good, NULL));
    T_STATUS(TS_E_ARG, be->sample_digits(s, NULL, NULL, &p, &d, -1, &good, NULL));
    T_STATUS(TS_E_ARG, be->sample_digits(s, NULL, NULL, &p, &d, 2, &good, NULL));
}

/* ---- Digits --------------------------------------------------------------------------------------------------- */

enum { DIGITS = 4, K = 3 };
static const int32_t LEVEL[DIGITS] = { 7, 2, 5, 4 };

typedef struct {
    ts_digit_head d;
    float *u, *b, *E, *W, *c;
} head;

static head make_head(int M, int64_t rows)
{
    head h = { .u = t_normals(rows * M, 1, 60),
               .b = t_normals(DIGITS * M, 1, 61),
               .E = t_normals(14 * M, 1, 62),
               .W = t_normals(18 * M, 2 / sqrt(M), 63),
               .c = t_normals(K * 18, 1, 64) };
    T_OK(ts_digit_head_init(&h.d, LEVEL, DIGITS, M, K));
    return h;
}

static int32_t *sample_digits(const ts_backend *be, ts_stream *s, ts_stream *s1, const head *h, const float *u,
                              const ts_sample *a, int k)
{
    int M = h->d.M;
    t_buf *in = T_INF(u, (a->guided ? 2 : 1) * a->B * a->t * M), *idx = t_out(be, s, a->B * a->t, 4);
    t_buf *b = T_INF(h->b, DIGITS * M), *E = T_INF(h->E, 14 * M), *W = T_INF(h->W, 18 * M), *c = T_INF(h->c, K * 18);
    ts_digit_params p = { b->dev, E->dev, W->dev, c->dev };
    t_buf *scratch = t_out(be, s, (int64_t)be->sample_scratch(s1, a), 1);
    T_OK(be->sample_digits(s1, idx->dev, in->dev, &p, &h->d, k, a, scratch->dev));
    T_OK(be->stream_sync(s1));
    t_down(scratch), t_down(idx);
    return T_I(idx);
}

/* Logit of class `row` (counted over all digits) of digit i; base is the first row of E of each digit drawn. */
static double digit_logit(const head *h, const float *u, const int *drawn_row, int i, int row, int k)
{
    int M = h->d.M;
    double z = h->c[k * 18 + row];
    for (int m = 0; m < M; m++) {
        double a = (double)u[m] + h->b[i * M + m];
        for (int j = 0; j < i; j++) a += h->E[drawn_row[j] * M + m];
        z += a > 0 ? a * h->W[row * M + m] : 0;
    }
    return z;
}

static choice oracle_code(const head *h, const float *u, const ts_sample *a, int k, int64_t n)
{
    const float *cond = u + n * h->d.M, *uncond = cond + a->B * a->t * h->d.M;
    choice all = { 0, INFINITY, 0 };
    int drawn_row[DIGITS], row = 0, unit = 1;
    for (int i = 0; i < DIGITS; i++) {
        double l[8];
        for (int c = 0; c < LEVEL[i]; c++) {
            double z = digit_logit(h, cond, drawn_row, i, row + c, k);
            l[c] = mixed(a, z, a->guided ? digit_logit(h, uncond, drawn_row, i, row + c, k) : 0);
        }
        choice one = oracle_draw(l, LEVEL[i], a, 1 + i, a->token0 + n % a->t, a->image0 + (uint64_t)(n / a->t));
        if (one.margin < all.margin) all.margin = one.margin;
        drawn_row[i] = row + one.v;
        all.v += one.v * unit;
        unit *= LEVEL[i], row += LEVEL[i];
    }
    return all;
}

T_TEST(digits_against_oracle)
{
    static const int width[] = { 1, 31, 128, 257 };
    for (int i = 0; i < 8; i++) {
        ts_sample a = options(3, 37, 0);
        a.guided = i % 2, a.guide = 1.25f, a.temperature = 0.9f, a.image0 = 5, a.token0 = 21;
        a.top_k = i / 2 == 1 ? 3 : 0, a.top_p = i / 2 >= 2 ? 0.8f : 1;
        head h = make_head(width[i / 2], 2 * a.B * a.t);
        choice *want = t_alloc((size_t)(a.B * a.t) * sizeof *want);
        for (int64_t n = 0; n < a.B * a.t; n++) want[n] = oracle_code(&h, h.u, &a, 2, n);
        compare(sample_digits(be, s, s, &h, h.u, &a, 2), want, a.B * a.t, "digits");
    }
}

T_TEST(digits_batch_pass_and_threads_change_nothing)
{
    enum { B = 4, T = 9, M = 40 };
    ts_sample a = options(B, T, 0);
    a.guided = 1, a.guide = 0.5f, a.top_p = 0.9f, a.image0 = 77, a.token0 = 2;
    head h = make_head(M, 2 * B * T);
    float part[2 * T * M];
    int32_t *want = sample_digits(be, s, s, &h, h.u, &a, 1);
    for (int b = 0; b < B; b++)
        for (int t0 = 0; t0 < T; t0 += 5) {
            int n = T - t0 < 5 ? T - t0 : 5;
            ts_sample one = a;
            one.B = 1, one.t = n, one.image0 += (uint64_t)b, one.token0 += t0;
            for (int u = 0; u < 2; u++)
                memcpy(part + u * n * M, h.u + ((u * B + b) * T + t0) * M, sizeof(float) * (size_t)(n * M));
            ck_assert_mem_eq(sample_digits(be, s, s, &h, part, &one, 1), want + b * T + t0, (size_t)n * 4);
        }
    ts_stream *single;
    T_OK(be->stream_new(&single, 0, 1));
    ck_assert_mem_eq(sample_digits(be, s, single, &h, h.u, &a, 1), want, B * T * 4);
    be->stream_free(single);
}

T_TEST(digits_report_nan)
{
    ts_sample a = options(1, 3, 0);
    head h = make_head(33, 3);
    h.u[2 * 33 + 32] = NAN;
    t_buf *in = T_INF(h.u, 3 * 33), *idx = t_out(be, s, 3, 4), *b = T_INF(h.b, DIGITS * 33), *E = T_INF(h.E, 14 * 33);
    t_buf *W = T_INF(h.W, 18 * 33), *c = T_INF(h.c, K * 18),
          *scratch = t_out(be, s, (int64_t)be->sample_scratch(s, &a), 1);
    ts_digit_params p = { b->dev, E->dev, W->dev, c->dev };
    ts_status st = be->sample_digits(s, idx->dev, in->dev, &p, &h.d, 0, &a, scratch->dev);
    if (st == TS_OK) st = be->stream_sync(s);
    T_EQI(st, TS_E_DATA);
    t_down(idx);
    T_EQI(T_I(idx)[2], 0);
}

int main(void)
{
    Suite *u = t_suite("sample");
    T_ADD(u, against_sorting_oracle);
    T_ADD(u, largest_codebook);
    T_ADD(u, draws_follow_softmax);
    T_ADD(u, draws_are_independent);
    T_ADD(u, batch_pass_and_threads_change_nothing);
    T_ADD(u, top_k_keeps_ties);
    T_ADD(u, top_p_cuts_where_it_says);
    T_ADD(u, top_p_counts_small_classes);
    T_ADD(u, top_p_among_equals);
    T_ADD(u, greedy_takes_lowest_of_largest);
    T_ADD(u, minus_infinity_is_never_drawn);
    T_ADD(u, bad_logits_are_reported);
    T_ADD(u, first_bad_row_is_reported);
    T_ADD(u, empty);
    T_ADD(u, options_out_of_range);
    T_ADD(u, digits_against_oracle);
    T_ADD(u, digits_batch_pass_and_threads_change_nothing);
    T_ADD(u, digits_report_nan);
    return t_run(u);
}
