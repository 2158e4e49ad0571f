/* test_tokenizer.c - tiny tokenizers of every quantizer kind: they learn, and their two directions fit together. */
#include "tests/model/tiny.h"

enum { B = 2, STEPS = 40, THREADS = 1 };

static const char *const KINDS[] = { TINY_RESIDUAL_FSQ, TINY_FSQ, TINY_FSQ_PROJECT, TINY_VQ };
enum { N_KINDS = sizeof KINDS / sizeof *KINDS };

static double train_step(ts_tokenizer *t, ts_graph *g, const float *images, int K_use)
{
    ts_graph_reset(g);
    ts_tensor *image = tg_upload(g, images, TS_F32, 4, TG_DIMS(B, TINY_SIDE, TINY_SIDE, 3));
    ts_quantized q = quantizer_forward(g, &t->q, tokenizer_encode(g, t, image), K_use, 0);
    ts_tensor *sums = tg_pixel_loss(g, tokenizer_decode(g, t, q.f_hat), image, 0.1f, 1);
    float s[2];
    T_OK(tg_download(g, s, sums));
    T_OK(ts_graph_backward(g));
    return s[1] / (B * TINY_PIXELS);
}

/* The squared error of a batch that is seen again and again; *end: after STEPS steps. */
static double overfit(ts_tokenizer *t, double *end)
{
    ts_graph *g;
    T_OK(ts_graph_new(&g, t->d, 1));
    const float *images = tiny_pictures(B);
    double start = 0;
    size_t held = 0;
    for (int i = 0; i < STEPS; i++) {
        *end = train_step(t, g, images, t->q.p.K);
        tiny_step(t->params, i, 3e-3);
        if (i == 0) start = *end;
        if (i == 2) held = t->d->held;
        if (i > 2) T_EQI(t->d->held, held); /* steps are equal: nothing more is taken from the system */
    }
    ts_graph_free(g);
    return start;
}

T_TEST(overfit_one_batch)
{
    (void)s;
    for (int i = 0; i < N_KINDS; i++) {
        ts_device *d = tiny_device(be, THREADS, TS_MATH_F32);
        ts_tokenizer_config c = tiny_tokenizer_config(KINDS[i], "[1,2]", 8);
        ts_tokenizer *t = tiny_tokenizer(d, &c, 1);
        double end, start = overfit(t, &end);
        /* The pictures' variance is about 0.3; a decoder that is not reached by the picture stays above 0.25. */
        ck_assert_msg(end < start / 8 && end < 0.04, "%s: squared error %g, then %g", KINDS[i], start, end);
        ts_tokenizer_free(t);
        T_EQI(d->in_use, 0);
        ts_device_close(d);
    }
}

T_TEST(bf16)
{
    (void)s;
    double first[2], end[2];
    for (int math = TS_MATH_F32; math <= TS_MATH_BF16; math++) {
        ts_device *d = tiny_device(be, THREADS, (ts_math)math);
        ts_tokenizer_config c = tiny_tokenizer_config(TINY_RESIDUAL_FSQ, "[1,2]", 8);
        ts_tokenizer *t = tiny_tokenizer(d, &c, 1);
        first[math] = overfit(t, &end[math]);
        ts_tokenizer_free(t);
        ts_device_close(d);
    }
    T_NEAR(first[1], first[0], 0.02 * first[0]); /* 8 bits of mantissa through some 20 layers */
    T_TRUE(first[1] != first[0]);                /* it was used at all */
    T_TRUE(end[1] < first[1] / 8);
}

/* decode(encode(x)) is what reconstruct gives, bit for bit, and so is the partial result after the last scale. */
T_TEST(encode_decode)
{
    (void)s;
    for (int i = 0; i < N_KINDS; i++) {
        ts_device *d = tiny_device(be, THREADS, TS_MATH_F32);
        ts_tokenizer_config c = tiny_tokenizer_config(KINDS[i], "[1,2]", 8);
        ts_tokenizer *t = tiny_tokenizer(d, &c, 0);
        int T = t->q.p.T, K = t->q.p.K;
        size_t n = (size_t)B * TINY_PIXELS, bytes = n * sizeof(float);
        const float *images = tiny_pictures(B);
        int32_t *tokens = t_alloc((size_t)(B * T) * sizeof *tokens), *again = t_alloc((size_t)(B * T) * sizeof *tokens);
        float *out = t_alloc(bytes), *decoded = t_alloc(bytes), *partial = t_alloc((size_t)K * bytes);
        float stats[2 * TS_MAX_SCALES];
        T_OK(ts_tokenizer_encode(t, images, B, tokens));
        T_OK(ts_tokenizer_reconstruct(t, images, B, again, out, partial, stats));
        T_OK(ts_tokenizer_decode(t, tokens, B, decoded));
        T_TRUE(memcmp(tokens, again, (size_t)(B * T) * sizeof *tokens) == 0);
        T_TRUE(memcmp(out, decoded, bytes) == 0);
        T_TRUE(memcmp(out, partial + (size_t)(K - 1) * n, bytes) == 0);
        int different = 0; /* tokens that are all equal would hide much */
        for (int j = 1; j < B * T; j++) different += tokens[j] != tokens[0];
        T_TRUE(different > B * T / 4);
        tokens[3] = c.q.V;
        T_STATUS(TS_E_DATA, ts_tokenizer_decode(t, tokens, B, decoded));
        tokens[3] = -1;
        T_STATUS(TS_E_DATA, ts_tokenizer_decode(t, tokens, B, decoded));
        ts_tokenizer_free(t);
        T_EQI(d->in_use, 0);
        ts_device_close(d);
    }
}

/* Batches of any size and any number of threads give the same bits. */
T_TEST(batches_and_threads)
{
    (void)s;
    enum { MANY = 9 };
    static const int sizes[] = { 1, 4, 9 };
    for (int i = 0; i < N_KINDS; i++) {
        ts_tokenizer_config c = tiny_tokenizer_config(KINDS[i], "[1,2]", 8);
        const float *images = tiny_pictures(MANY);
        size_t bytes = (size_t)MANY * TINY_PIXELS * sizeof(float);
        float *first = t_alloc(bytes), *out = t_alloc(bytes);
        int32_t first_tokens[MANY * 85], tokens[MANY * 85];
        for (int turn = 0; turn < 6; turn++) {
            ts_device *d = tiny_device(be, 1 + turn % 2, TS_MATH_F32);
            ts_tokenizer *t = tiny_tokenizer(d, &c, 0);
            int64_t T = t->q.p.T;
            for (int64_t b = 0, n; b < MANY; b += n) {
                n = sizes[turn / 2] < MANY - b ? sizes[turn / 2] : MANY - b;
                T_OK(ts_tokenizer_reconstruct(t, images + b * TINY_PIXELS, n, (turn ? tokens : first_tokens) + b * T,
                                              (turn ? out : first) + b * TINY_PIXELS, NULL, NULL));
            }
            if (turn) T_TRUE(memcmp(tokens, first_tokens, (size_t)(MANY * T) * sizeof *tokens) == 0);
            if (turn) T_TRUE(memcmp(out, first, bytes) == 0);
            ts_tokenizer_free(t);
            ts_device_close(d);
        }
    }
}

/* Every code of a scalar quantizer: what decoding looks up is quantized to the same code again. */
T_TEST(every_index)
{
    (void)s;
    static const char *const kinds[] = {
        TINY_FSQ, "\"patch_nums\":[8],\"quantizer\":{\"kind\":\"residual_fsq\",\"levels\":[5,3,7]}"
    };
    for (int i = 0; i < 2; i++) {
        ts_device *d = tiny_device(be, THREADS, TS_MATH_F32);
        ts_tokenizer_config c = tiny_tokenizer_config(kinds[i], "[1,2]", 8);
        ts_tokenizer *t = tiny_tokenizer(d, &c, 0);
        int64_t V = c.q.V, pictures = (V + 63) / 64, n = pictures * 64 * 3;
        int32_t *idx = t_alloc((size_t)pictures * 64 * sizeof *idx),
                *got = t_alloc((size_t)pictures * 64 * sizeof *got);
        for (int64_t j = 0; j < pictures * 64; j++) idx[j] = (int32_t)(j % V);
        ts_graph *g = t->g;
        float *value = t_alloc((size_t)n * sizeof *value), *f = t_alloc((size_t)n * sizeof *f),
              *f_hat = t_alloc((size_t)n * sizeof *f);
        T_OK(tg_download(g, value, quantizer_lookup(g, &t->q, quantizer_upload(g, &t->q, idx, pictures, 0), 0)));
        for (int64_t j = 0; j < n; j++) { /* the way back through the bound: b = half tanh(z + shift) - offset */
            int k = (int)(j % 3), L = c.q.level[k], even = L % 2 == 0;
            double half = (L - 1) * 1.001 / 2, offset = even ? 0.5 : 0, b = (double)value[j] * (L / 2);
            f[j] = i ? value[j] : (float)(atanh((b + offset) / half) - atanh(offset / half));
        }
        ts_quantized r = quantizer_forward(g, &t->q, tg_upload(g, f, TS_F32, 4, TG_DIMS(pictures, 8, 8, 3)), 1, 0);
        T_OK(tg_download(g, got, r.idx));
        T_OK(tg_download(g, f_hat, r.f_hat));
        for (int64_t j = 0; j < pictures * 64; j++) T_EQI(got[j], idx[j]);
        T_TRUE(memcmp(f_hat, value, (size_t)n * sizeof *value) == 0);
        ts_tokenizer_free(t);
        ts_device_close(d);
    }
}

/* The fused quantizer gives what its three ops give one after the other. */
T_TEST(projected)
{
    (void)s;
    enum { N = 4 * 64 };
    ts_device *d = tiny_device(be, THREADS, TS_MATH_F32);
    ts_tokenizer_config c = tiny_tokenizer_config(TINY_FSQ_PROJECT, "[1,2]", 8);
    ts_tokenizer *t = tiny_tokenizer(d, &c, 0);
    const int C = c.z_channels;
    T_TRUE(t->q.projects && quantizer_channels(&t->q) == C);
    float *f = t_normals(N * C, 1, 3), *fused = t_alloc(sizeof *f * (size_t)(N * C)), *apart = t_alloc(sizeof *f * (size_t)(N * C));
    int32_t idx[2][N];
    ts_graph *g = t->g;
    ts_tensor *x = tg_upload(g, f, TS_F32, 4, TG_DIMS(4, 8, 8, C));
    ts_quantized r = quantizer_forward(g, &t->q, x, 1, 0), e = tg_fsq(g, conv_forward(g, &t->quant_conv, x), &t->q.fsq);
    T_OK(tg_download(g, fused, r.f_hat));
    T_OK(tg_download(g, apart, conv_forward(g, &t->post_quant_conv, e.f_hat)));
    T_OK(tg_download(g, idx[0], r.idx));
    T_OK(tg_download(g, idx[1], e.idx));
    T_TRUE(memcmp(idx[0], idx[1], sizeof idx[0]) == 0);
    t_closef("f_hat", fused, apart, N * C, 1e-6);
    ts_graph_reset(g);
    ts_tokenizer_free(t);
    ts_device_close(d);
    c.z_channels = 300; /* too wide to be fused */
    T_TRUE(!quantizer_projects(&c));
}

/* With fewer scales in use f_hat is the partial sum of all of them, and what is left out gets no gradient. */
T_TEST(scale_dropout)
{
    (void)s;
    ts_device *d = tiny_device(be, THREADS, TS_MATH_F32);
    ts_tokenizer_config c = tiny_tokenizer_config(TINY_RESIDUAL_FSQ, "[1,2]", 8);
    ts_tokenizer *t = tiny_tokenizer(d, &c, 1);
    enum { N = B * 64 * 3 };
    float *f = t_normals(N, 0.5, 9), got[N], want[4 * N];
    int32_t idx[B * 85], all[B * 85];
    ts_graph *g = t->g;
    ts_quantized r = quantizer_forward(g, &t->q, tg_upload(g, f, TS_F32, 4, TG_DIMS(B, 8, 8, 3)), 4, 1);
    T_OK(tg_download(g, want, r.partial));
    T_OK(tg_download(g, all, r.idx));
    r = quantizer_forward(g, &t->q, tg_upload(g, f, TS_F32, 4, TG_DIMS(B, 8, 8, 3)), 2, 0);
    T_OK(tg_download(g, got, r.f_hat));
    T_OK(tg_download(g, idx, r.idx));
    T_TRUE(memcmp(got, want + N, sizeof got) == 0);
    for (int i = 0; i < B * 85; i++) T_EQI(idx[i], i % 85 < 5 ? all[i] : 62); /* 62: the middle of every level */
    ts_graph_reset(g);

    T_OK(ts_graph_new(&g, d, 1));
    train_step(t, g, tiny_pictures(B), 2);
    float gain[12];
    T_OK(be->download(d->s, gain, t->q.log_gain->grad, sizeof gain));
    for (int i = 0; i < 12; i++) T_TRUE((gain[i] != 0) == (i < 6));
    ts_graph_free(g);
    ts_tokenizer_free(t);
    ts_device_close(d);
}

int main(void)
{
    Suite *u = t_suite("tokenizer");
    T_ADD1(u, overfit_one_batch);
    T_ADD1(u, bf16);
    T_ADD1(u, encode_decode);
    T_ADD1(u, batches_and_threads);
    T_ADD1(u, every_index);
    T_ADD1(u, projected);
    T_ADD1(u, scale_dropout);
    return t_run(u);
}
