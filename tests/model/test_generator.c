/* test_generator.c - tiny generators with both heads, both AdaLN kinds, both attention scalings: they learn, and
 * sampling with a cache is the same model as teacher forcing. */
#include <unistd.h>

#include "models/sampler.h"
#include "tests/model/tiny.h"

enum { B = 4, T = 21, C = 32, V = 125, STEPS = 120, THREADS = 1, HIDDEN = 16 };

typedef struct {
    const char *name, *head;
    int shared, l2, digits;
} kind;

static const kind KINDS[] = {
    { "joint, l2 norm", "\"head\":\"joint\"", 0, 1, 0 },
    { "joint, shared, plain", "\"head\":\"joint\"", 1, 0, 0 },
    { "digits, shared, l2 norm", "\"head\":\"digits\",\"head_hidden\":16,\"levels\":[5,5,5]", 1, 1, 1 },
    { "digits, plain", "\"head\":\"digits\",\"head_hidden\":16,\"levels\":[5,5,5]", 0, 0, 1 },
};
enum { N_KINDS = sizeof KINDS / sizeof *KINDS };

static ts_generator_config config(const kind *k)
{
    char text[512];
    snprintf(text, sizeof text,
             "{\"kind\":\"generator\",\"num_classes\":4,\"depth\":2,\"embed_dim\":32,\"num_heads\":2,\"shared_aln\":%s,"
             "\"attn_l2_norm\":%s,\"patch_nums\":[1,2,4],\"vocab_size\":125,\"z_channels\":3,%s}",
             k->shared ? "true" : "false", k->l2 ? "true" : "false", k->head);
    ts_generator_config c;
    json_t *o = json_loads(text, 0, NULL);
    T_OK(ts_generator_config_read(&c, o, k->name));
    json_decref(o);
    return c;
}

/* A pair of models on a device of its own, and one batch of tokens. */
typedef struct {
    ts_device *d;
    ts_tokenizer *t;
    ts_generator *m;
    int32_t tokens[B * T], labels[B];
} pair;

static pair open_pair(const ts_backend *be, const kind *k, int threads, ts_math math, int training)
{
    pair p = { .d = tiny_device(be, threads, math) };
    ts_tokenizer_config tc = tiny_tokenizer_config("\"patch_nums\":[1,2,4],\"quantizer\":{\"kind\":\"residual_fsq\","
                                                   "\"levels\":[5,5,5]}",
                                                   "[1,2,2]", 8);
    ts_generator_config c = config(k);
    p.t = tiny_tokenizer(p.d, &tc, 0);
    T_OK(ts_generator_new(&p.m, p.d, &c, training, 2));
    T_OK(ts_generator_fits(p.m, p.t, "tiny"));
    uint64_t seed = 4;
    for (int i = 0; i < B * T; i++) p.tokens[i] = (int32_t)(t_next(&seed) % V);
    for (int i = 0; i < B; i++) p.labels[i] = i;
    return p;
}

static void close_pair(pair *p)
{
    ts_generator_free(p->m);
    ts_tokenizer_free(p->t);
    T_EQI(p->d->in_use, 0);
    ts_device_close(p->d);
}

/* Mean loss of a token in nats. */
static double forward(pair *p, ts_graph *g, const float *keep)
{
    float rows[B * T * TS_MAX_D];
    int64_t n = B * T * (p->m->c.head == TS_HEAD_DIGITS ? p->m->c.D : 1);
    ts_graph_reset(g);
    ts_tensor *input = generator_input(g, &p->t->q, p->tokens, B);
    ts_tensor *logits = generator_logits(g, p->m, p->labels, B, input, keep);
    T_OK(tg_download(g, rows, generator_loss(g, p->m, logits, p->tokens, B)));
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += rows[i];
    return sum / (B * T);
}

/* The loss before the last of these steps; *start: before the first. */
static double overfit(pair *p, int steps, double *start)
{
    ts_graph *g;
    T_OK(ts_graph_new(&g, p->d, 1));
    size_t held = 0;
    double loss = 0;
    for (int i = 0; i < steps; i++) {
        loss = forward(p, g, NULL);
        T_OK(ts_graph_backward(g));
        tiny_step(p->m->params, i, 6e-3);
        if (i == 0 && start) *start = loss;
        if (i == 2) held = p->d->held;
        if (i > 2) T_EQI(p->d->held, held); /* steps are equal: nothing more is taken from the system */
    }
    ts_graph_free(g);
    return loss;
}

T_TEST(overfit_one_batch)
{
    (void)s;
    for (int i = 0; i < N_KINDS; i++) {
        pair p = open_pair(be, &KINDS[i], THREADS, TS_MATH_F32, 1);
        double start, end = overfit(&p, STEPS, &start);
        T_NEAR(start, log(V), 0.3); /* a fresh head is close to indifferent */
        ck_assert_msg(end < 0.25 * start, "%s: loss %g, then %g", KINDS[i].name, start, end);
        close_pair(&p);
    }
}

T_TEST(bf16)
{
    (void)s;
    double loss[2];
    for (int math = TS_MATH_F32; math <= TS_MATH_BF16; math++) {
        pair p = open_pair(be, &KINDS[2], THREADS, (ts_math)math, 1);
        loss[math] = overfit(&p, 20, NULL);
        close_pair(&p);
    }
    T_NEAR(loss[1], loss[0], 0.03 * loss[0]); /* operands have 8 bits of mantissa, 20 steps add up */
    T_TRUE(loss[1] != loss[0]);
}

/* keep of all ones changes nothing; of zeros takes the sub-layers out, so that a token no longer hears from the others.
 */
T_TEST(drop_path)
{
    (void)s;
    pair p = open_pair(be, &KINDS[0], THREADS, TS_MATH_F32, 1);
    overfit(&p, 10, NULL);
    ts_graph *g;
    T_OK(ts_graph_new(&g, p.d, 1));
    float ones[4 * B], zeros[4 * B] = { 0 };
    for (int i = 0; i < 4 * B; i++) ones[i] = 1;
    double plain = forward(&p, g, NULL);
    T_TRUE(forward(&p, g, ones) == plain);
    double without = forward(&p, g, zeros);
    T_TRUE(fabs(without - plain) > 1e-3);
    T_OK(ts_graph_backward(g));
    ts_graph_free(g);
    close_pair(&p);
}

/* --- sampling --- */

static int largest(const double *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static float *values(pair *p, const ts_tensor *t)
{
    int64_t n = ts_tensor_count(t);
    float *x = t_alloc((size_t)n * sizeof *x);
    T_OK(p->d->be->download(p->d->s, x, t->data, (size_t)n * sizeof *x));
    return x;
}

/* The greedy code of a row u of the digit head, from the formula in op_digit_head.h. */
static int greedy_digits(const pair *p, const float *u, int scale, const float *const w[4])
{
    const ts_digit_head *d = &p->m->digits;
    double a[HIDDEN], logit[8];
    int code = 0;
    for (int m = 0; m < HIDDEN; m++) a[m] = u[m];
    for (int i = 0; i < d->D; i++) {
        for (int l = 0; l < d->level[i]; l++) {
            logit[l] = w[3][scale * d->sum_L + d->off[i] + l];
            for (int m = 0; m < HIDDEN; m++)
                logit[l] += fmax(a[m] + w[0][i * HIDDEN + m], 0) * w[2][(d->off[i] + l) * HIDDEN + m];
        }
        int digit = largest(logit, d->level[i]);
        code += digit * d->basis[i];
        for (int m = 0; i + 1 < d->D && m < HIDDEN; m++) a[m] += w[1][(d->off[i] + digit) * HIDDEN + m];
    }
    return code;
}

static int greedy_code(const pair *p, const float *row, int scale, const float *const w[4])
{
    if (p->m->c.head == TS_HEAD_DIGITS) return greedy_digits(p, row, scale, w);
    double x[V];
    for (int v = 0; v < V; v++) x[v] = row[v];
    return largest(x, V);
}

/* What is drawn greedily, scale by scale with a cache, is the largest logit everywhere when it is fed back
 * teacher-forced. A trained model has margins between its logits that are far above the rounding of another order of
 * sums. */
T_TEST(cache_is_teacher_forcing)
{
    (void)s;
    for (int i = 0; i < N_KINDS; i++) {
        pair p = open_pair(be, &KINDS[i], THREADS, TS_MATH_F32, 1);
        overfit(&p, 40, NULL);
        const ts_sampling greedy = { .temperature = 1, .top_p = 1, .top_k = 1 };
        int32_t drawn[B * T];
        T_OK(ts_generator_sample(p.m, p.t, p.labels, B, &greedy, drawn, NULL));
        ts_graph *g = p.m->g;
        ts_tensor *logits = generator_logits(g, p.m, p.labels, B, generator_input(g, &p.t->q, drawn, B), NULL);
        T_OK(ts_graph_status(g));
        int64_t width = logits->dim[2];
        const float *x = values(&p, logits), *w[4] = { 0 };
        if (KINDS[i].digits) {
            w[0] = values(&p, p.m->digit_bias), w[1] = values(&p, p.m->digit_embed);
            w[2] = values(&p, p.m->digit_weight), w[3] = values(&p, p.m->digit_logit);
        }
        for (int j = 0; j < B * T; j++) {
            int t = j % T, scale = t < 1 ? 0 : t < 5 ? 1 : 2;
            ck_assert_msg(drawn[j] == greedy_code(&p, x + j * width, scale, w), "%s: token %d", KINDS[i].name, j);
        }
        int different = 0;
        for (int j = T; j < B * T; j++) different += drawn[j] != drawn[j % T];
        T_TRUE(different > T); /* classes are told apart */
        ts_graph_reset(g);
        close_pair(&p);
    }
}

/* Tokens and pictures are the same bits for any batch, number of threads, and after saving and loading. */
T_TEST(batches_threads_files)
{
    (void)s;
    enum { MANY = 8 };
    static const int sizes[] = { 8, 1, 3 };
    static const ts_sampling how[] = { { .seed = 7, .cfg = 2, .temperature = 1, .top_p = 0.9 },
                                       { .seed = 8, .temperature = 0.7, .top_p = 1, .top_k = 5 } };
    char path[256];
    snprintf(path, sizeof path, "%s/tessera-test-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : P_tmpdir);
    T_TRUE(close(mkstemp(path)) == 0);
    for (int i = 0; i < N_KINDS; i++) {
        pair trained = open_pair(be, &KINDS[i], THREADS, TS_MATH_F32, 1);
        overfit(&trained, 10, NULL);
        T_OK(ts_generator_save(trained.m, path, TS_BUFFER_WEIGHT, TS_ST_F32));
        close_pair(&trained);
        size_t n = (size_t)MANY * TINY_PIXELS;
        float *first = t_alloc(n * sizeof *first), *out = t_alloc(n * sizeof *out);
        int32_t labels[MANY] = { 0, 1, 2, 3, 0, 0, 1, 3 }, first_tokens[MANY * T], tokens[MANY * T];
        for (int turn = 0; turn < 12; turn++) {
            pair p = open_pair(be, &KINDS[i], 1 + turn % 2, TS_MATH_F32, 0);
            ts_generator_free(p.m);
            T_OK(ts_generator_load(&p.m, p.d, path));
            int is_first = turn % 6 == 0; /* of one way to sample */
            for (int b = 0, have; b < MANY; b += have) {
                ts_sampling o = how[turn / 6];
                o.image0 = (uint64_t)b;
                have = sizes[turn % 6 / 2] < MANY - b ? sizes[turn % 6 / 2] : MANY - b;
                T_OK(ts_generator_sample(p.m, p.t, labels + b, have, &o, (is_first ? first_tokens : tokens) + b * T,
                                         (is_first ? first : out) + b * TINY_PIXELS));
            }
            if (!is_first) T_TRUE(memcmp(tokens, first_tokens, sizeof tokens) == 0);
            if (!is_first) T_TRUE(memcmp(out, first, n * sizeof *out) == 0);
            close_pair(&p);
        }
        T_TRUE(memcmp(first_tokens, first_tokens + 4 * T, T * sizeof *tokens) != 0); /* same class, another picture */
    }
    unlink(path);
}

/* The picture after scale k is the decoded sum of the tokens up to there; the last one is the result. */
T_TEST(pictures_after_every_scale)
{
    (void)s;
    enum { SCALES = 3 };
    pair p = open_pair(be, &KINDS[0], THREADS, TS_MATH_F32, 0);
    const ts_sampling how = TS_SAMPLING_DEFAULTS;
    int64_t n = (int64_t)B * TINY_PIXELS;
    float *scales = t_alloc((size_t)(SCALES * n) * sizeof *scales), *images = t_alloc((size_t)n * sizeof *images);
    int32_t tokens[B * T];
    T_OK(ts_generator_sample_scales(p.m, p.t, p.labels, B, &how, tokens, images, scales));
    T_TRUE(memcmp(scales + (SCALES - 1) * n, images, (size_t)n * sizeof *images) == 0);
    T_OK(ts_generator_sample(p.m, p.t, p.labels, B, &how, NULL, scales));
    T_TRUE(memcmp(scales, images, (size_t)n * sizeof *images) == 0);
    T_OK(ts_generator_sample_scales(p.m, p.t, p.labels, B, &how, NULL, NULL, scales));
    ts_graph *g = p.t->g;
    const quantizer *q = &p.t->q;
    ts_tensor *f_hat = tg_zeros(g, TS_F32, 4, TG_DIMS(B, q->p.h, q->p.w, q->c.D));
    for (int k = 0; k < SCALES; k++) {
        quantizer_add(g, q, f_hat, quantizer_lookup(g, q, quantizer_upload(g, q, tokens, B, k), k), k);
        tg_download(g, images, tokenizer_decode(g, p.t, f_hat));
        T_OK(ts_graph_status(g));
        T_TRUE(memcmp(scales + k * n, images, (size_t)n * sizeof *images) == 0);
    }
    ts_graph_reset(g);
    close_pair(&p);
}

/* ts_generator_bits is the training loss in bits. */
T_TEST(bits)
{
    (void)s;
    for (int i = 0; i < N_KINDS; i++) {
        pair p = open_pair(be, &KINDS[i], THREADS, TS_MATH_F32, 1);
        overfit(&p, 3, NULL);
        ts_graph *g;
        T_OK(ts_graph_new(&g, p.d, 1));
        double loss = forward(&p, g, NULL), bits[3] = { 0 };
        T_OK(ts_generator_bits(p.m, p.t, p.tokens, p.labels, B, bits));
        T_NEAR(bits[0] + bits[1] + bits[2], loss * B * T / log(2),
               1e-4 * loss * B * T); /* float32 losses, summed twice */
        ts_graph_free(g);
        close_pair(&p);
    }
}

T_TEST(refusals)
{
    (void)s;
    pair p = open_pair(be, &KINDS[0], 1, TS_MATH_F32, 0);
    const ts_sampling good = TS_SAMPLING_DEFAULTS;
    static const int32_t labels[] = { 4, -1 };
    for (int i = 0; i < 2; i++) T_STATUS(TS_E_ARG, ts_generator_sample(p.m, p.t, &labels[i], 1, &good, p.tokens, NULL));
    static const ts_sampling bad[] = { { .cfg = -0.1, .temperature = 1, .top_p = 1 },
                                       { .cfg = NAN, .temperature = 1, .top_p = 1 },
                                       { .cfg = 100.1, .temperature = 1, .top_p = 1 },
                                       { .temperature = 0, .top_p = 1 },
                                       { .temperature = NAN, .top_p = 1 },
                                       { .temperature = 1, .top_p = 0 },
                                       { .temperature = 1, .top_p = 1.01 },
                                       { .temperature = 1, .top_p = NAN },
                                       { .temperature = 1, .top_p = 1, .top_k = -1 } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        T_STATUS(TS_E_ARG, ts_generator_sample(p.m, p.t, p.labels, 1, &bad[i], p.tokens, NULL));
    T_OK(ts_generator_sample(p.m, p.t, p.labels, 1, &good, p.tokens, NULL));

    ts_tokenizer_config other = tiny_tokenizer_config(TINY_RESIDUAL_FSQ, "[1,2]", 8);
    ts_tokenizer *t = tiny_tokenizer(p.d, &other, 0);
    T_STATUS(TS_E_DATA, ts_generator_sample(p.m, t, p.labels, 1, &good, p.tokens, NULL));
    T_TRUE(strstr(ts_error(), "scales") != NULL);
    ts_tokenizer_free(t);
    strcpy(p.m->tokenizer_hash, "0123456789abcdef");
    strcpy(p.t->hash, "0123456789abcdee");
    T_STATUS(TS_E_DATA, ts_generator_fits(p.m, p.t, "t.safetensors"));
    T_TRUE(strstr(ts_error(), "t.safetensors") && strstr(ts_error(), "0123456789abcdef"));
    close_pair(&p);
}

int main(void)
{
    Suite *u = t_suite("generator");
    T_ADD1(u, overfit_one_batch);
    T_ADD1(u, bf16);
    T_ADD1(u, drop_path);
    T_ADD1(u, cache_is_teacher_forcing);
    T_ADD1(u, batches_threads_files);
    T_ADD1(u, pictures_after_every_scale);
    T_ADD1(u, bits);
    T_ADD1(u, refusals);
    return t_run(u);
}
