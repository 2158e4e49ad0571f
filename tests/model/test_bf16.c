/* test_bf16.c - what bfloat16 products cost, against float32 on the same weights: the logits of a generator, the tokens that are
 * likeliest given the true ones before them, and what two decoders make of the same tokens.
 *
 * Two pairs of models: the demo's, trained; and one shaped like the published ones, with weights by the hash rule.
 */
#include "models/generator.h"
#include "tests/model/hash.h"

/* What must hold of any model: relative error of the logits, share of equal tokens, PSNR between decoded pictures in dB. */
static const double LOGITS = 2e-2, TOKENS = 0.97, PSNR = 40;

static const char HASH_TOKENIZER[] =
    "{\"kind\":\"tokenizer\",\"image_size\":64,\"ch\":64,\"ch_mult\":[1,1,2,2,4],\"num_res_blocks\":2,\"z_channels\":32,"
    "\"patch_nums\":[1,2,3,4],\"quantizer\":{\"kind\":\"vq\",\"vocab_size\":512,\"share_quant_resi\":4}}";
static const char HASH_GENERATOR[] =
    "{\"kind\":\"generator\",\"num_classes\":10,\"depth\":4,\"embed_dim\":256,\"num_heads\":4,\"attn_l2_norm\":true,"
    "\"patch_nums\":[1,2,3,4],\"vocab_size\":512,\"z_channels\":32}";

typedef struct {
    ts_device *d;
    ts_tokenizer *t;
    ts_generator *m;
} models;

static void open_device(models *m, const ts_backend *be, ts_math math)
{
    T_OK(ts_device_open(&m->d, be->name, 0, math));
}

static void close_models(models *m)
{
    ts_generator_free(m->m);
    ts_tokenizer_free(m->t);
    ts_device_close(m->d);
}

static models hash_models(const ts_backend *be, ts_math math)
{
    models m;
    ts_tokenizer_config t;
    ts_generator_config g;
    open_device(&m, be, math);
    json_t *o = json_loads(HASH_TOKENIZER, 0, NULL);
    T_OK(ts_tokenizer_config_read(&t, o, "hash"));
    json_decref(o);
    o = json_loads(HASH_GENERATOR, 0, NULL);
    T_OK(ts_generator_config_read(&g, o, "hash"));
    json_decref(o);
    T_OK(ts_tokenizer_new(&m.t, m.d, &t, 0, 1));
    T_OK(ts_generator_new(&m.m, m.d, &g, 0, 1));
    hash_weights(m.t->params, "bf16.tokenizer");
    hash_weights(m.m->params, "bf16.generator");
    return m;
}

static const char *demo(const char *name)
{
    const char *root = getenv("TS_ROOT");
    char *path = t_alloc(512);
    snprintf(path, 512, "%s/models/demo/%s", root ? root : ".", name);
    return path;
}

static models demo_models(const ts_backend *be, ts_math math)
{
    models m;
    open_device(&m, be, math);
    T_OK(ts_tokenizer_load(&m.t, m.d, demo("tokenizer.safetensors")));
    T_OK(ts_generator_load(&m.m, m.d, demo("generator.safetensors")));
    return m;
}

/* Tokens that the demo's generator drew in float32, EACH pictures of every class; returns the number of pictures. */
static int64_t demo_tokens(const models *m, int32_t **tokens, int32_t **labels)
{
    enum { EACH = 6 };
    int64_t n = (int64_t)EACH * m->m->c.num_classes;
    *tokens = t_alloc((size_t)(n * m->t->q.p.T) * sizeof **tokens);
    *labels = t_alloc((size_t)n * sizeof **labels);
    for (int64_t i = 0; i < n; i++) (*labels)[i] = (int32_t)(i / EACH);
    const ts_sampling o = { .seed = 1, .cfg = 1.5, .temperature = 1, .top_p = 1 };
    T_OK(ts_generator_sample(m->m, m->t, *labels, n, &o, *tokens, NULL));
    return n;
}

/* Any tokens. */
static int64_t hash_tokens(const models *m, int32_t **tokens, int32_t **labels)
{
    enum { N = 4 };
    uint64_t seed = 7;
    *tokens = t_alloc((size_t)(N * m->t->q.p.T) * sizeof **tokens);
    *labels = t_alloc(N * sizeof **labels);
    for (int i = 0; i < N * m->t->q.p.T; i++) (*tokens)[i] = (int32_t)(t_next(&seed) % (uint64_t)m->t->c.q.V);
    for (int i = 0; i < N; i++) (*labels)[i] = 2 * i;
    return N;
}

/* (B*T,V), or (B*T,M) of the digit head, given the true tokens; *n: how many numbers. */
static float *logits(const models *m, const int32_t *tokens, const int32_t *labels, int64_t B, int64_t *n)
{
    ts_graph *g = m->m->g;
    ts_tensor *input = generator_input(g, &m->t->q, tokens, B);
    const ts_tensor *y = generator_logits(g, m->m, labels, B, input, NULL);
    T_OK(ts_graph_status(g));
    *n = ts_tensor_count(y);
    float *x = t_alloc((size_t)*n * sizeof *x);
    T_OK(tg_download(g, x, y));
    ts_graph_reset(g);
    return x;
}

static float *fetch(const models *m, const ts_tensor *t)
{
    float *x = t_alloc((size_t)ts_tensor_count(t) * sizeof *x);
    T_OK(m->d->be->download(m->d->s, x, t->data, (size_t)ts_tensor_count(t) * sizeof *x));
    return x;
}

static int scale_of(const ts_pyramid *p, int64_t token)
{
    int k = 0;
    while (token >= p->start[k + 1]) k++;
    return k;
}

/* All digits' logits (rows,sum_L) from u (rows,M) by the formula of op_digit_head.h, each given the true digits before it. */
static float *digit_logits(const models *m, const float *u, const int32_t *tokens, int64_t rows)
{
    const ts_digit_head *h = &m->m->digits;
    const float *b = fetch(m, m->m->digit_bias), *E = fetch(m, m->m->digit_embed), *W = fetch(m, m->m->digit_weight),
                *c = fetch(m, m->m->digit_logit);
    float *out = t_alloc((size_t)(rows * h->sum_L) * sizeof *out), *before = t_alloc((size_t)h->M * sizeof *before);
    for (int64_t n = 0; n < rows; n++) {
        int k = scale_of(&m->m->p, n % m->m->p.T);
        memcpy(before, u + n * h->M, (size_t)h->M * sizeof *before);
        for (int i = 0; i < h->D; i++) {
            for (int l = 0; l < h->level[i]; l++) {
                double sum = c[k * h->sum_L + h->off[i] + l];
                for (int j = 0; j < h->M; j++) sum += W[(h->off[i] + l) * h->M + j] * fmax(before[j] + b[i * h->M + j], 0);
                out[n * h->sum_L + h->off[i] + l] = (float)sum;
            }
            int digit = tokens[n] / h->basis[i] % h->level[i];
            for (int j = 0; i < h->D - 1 && j < h->M; j++) before[j] += E[(h->off[i] + digit) * h->M + j];
        }
    }
    return out;
}

static int likeliest(const float *x, int n)
{
    int most = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[most]) most = i;
    return most;
}

/* The rows in which all digits' likeliest values agree. */
static int64_t same_tokens(const ts_digit_head *h, const float *a, const float *b, int64_t rows)
{
    int64_t same = 0;
    for (int64_t n = 0; n < rows; n++) {
        int equal = 1;
        for (int i = 0; i < h->D; i++) {
            int64_t at = n * h->sum_L + h->off[i];
            equal &= likeliest(a + at, h->level[i]) == likeliest(b + at, h->level[i]);
        }
        same += equal;
    }
    return same;
}

/* |a - b| / |b|, lengths of whole vectors */
static double relative_error(const float *a, const float *b, int64_t n)
{
    double difference = 0, length = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        length += (double)b[i] * b[i];
    }
    return sqrt(difference / length);
}

/* Between the decoded pictures, which lie in [-1, 1]. */
static double decoded_psnr(const models *a, const models *b, const int32_t *tokens, int64_t B)
{
    int64_t n = B * a->t->c.image_size * a->t->c.image_size * 3;
    float *x = t_alloc((size_t)n * sizeof *x), *y = t_alloc((size_t)n * sizeof *y);
    T_OK(ts_tokenizer_decode(a->t, tokens, B, x));
    T_OK(ts_tokenizer_decode(b->t, tokens, B, y));
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    T_TRUE(sum > 0); /* the two did not compute the same */
    return 10 * log10(4 * (double)n / sum);
}

static void agree(const char *what, double error, int64_t same, int64_t tokens, double psnr)
{
    double share = (double)same / (double)tokens;
    printf("%s: logits off by %.2e, %.2f %% of %lld tokens equal, decoded %.1f dB\n", what, error, 100 * share, (long long)tokens,
           psnr);
    T_TRUE(error <= LOGITS);
    T_TRUE(share >= TOKENS);
    T_TRUE(psnr >= PSNR);
}

T_TEST(demo_models_agree)
{
    (void)s;
    models f32 = demo_models(be, TS_MATH_F32), bf16 = demo_models(be, TS_MATH_BF16);
    int32_t *tokens, *labels;
    int64_t B = demo_tokens(&f32, &tokens, &labels), rows = B * f32.m->p.T, n;
    const ts_digit_head *h = &f32.m->digits;
    const float *a = digit_logits(&f32, logits(&f32, tokens, labels, B, &n), tokens, rows);
    const float *b = digit_logits(&bf16, logits(&bf16, tokens, labels, B, &n), tokens, rows);
    agree("demo", relative_error(b, a, rows * h->sum_L), same_tokens(h, a, b, rows), rows, decoded_psnr(&f32, &bf16, tokens, 12));
    close_models(&f32);
    close_models(&bf16);
}

T_TEST(hash_models_agree)
{
    (void)s;
    models f32 = hash_models(be, TS_MATH_F32), bf16 = hash_models(be, TS_MATH_BF16);
    int32_t *tokens, *labels;
    int64_t B = hash_tokens(&f32, &tokens, &labels), rows = B * f32.m->p.T, V = f32.m->c.V, same = 0, n;
    const float *a = logits(&f32, tokens, labels, B, &n), *b = logits(&bf16, tokens, labels, B, &n);
    for (int64_t i = 0; i < rows; i++) same += likeliest(a + i * V, (int)V) == likeliest(b + i * V, (int)V);
    agree("hash", relative_error(b, a, n), same, rows, decoded_psnr(&f32, &bf16, tokens, B));
    close_models(&f32);
    close_models(&bf16);
}

int main(void)
{
    Suite *u = t_suite("bf16");
    T_ADD(u, demo_models_agree);
    T_ADD(u, hash_models_agree);
    return t_run(u);
}
