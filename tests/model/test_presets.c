/* test_presets.c - every file of models/presets is read; the published models have the published sizes. Nothing is allocated. */
#include <dirent.h>

#include "models/generator.h"
#include "tests/t.h"

static char *preset_path(const char *name)
{
    const char *root = getenv("TS_ROOT");
    char *path = t_alloc(512);
    snprintf(path, 512, "%s/models/presets/%s", root ? root : ".", name);
    return path;
}

static json_t *read_model(const char *path)
{
    json_error_t e;
    json_t *o = json_load_file(path, JSON_REJECT_DUPLICATES, &e);
    ck_assert_msg(o != NULL, "%s: line %d: %s", path, e.line, e.text);
    ck_assert_msg(json_object_size(o) == 2 && json_is_object(json_object_get(o, "train")), "%s: no train section", path);
    json_t *model = json_incref(json_object_get(o, "model"));
    json_decref(o);
    return model;
}

static int is_tokenizer(const json_t *model)
{
    const char *kind = json_string_value(json_object_get(model, "kind"));
    T_TRUE(kind != NULL);
    return strcmp(kind, "tokenizer") == 0;
}

/* What training takes from the tokenizer and the data where a preset does not say it. */
static void complete(json_t *model)
{
    static const char *const keys[] = { "num_classes", "patch_nums", "vocab_size", "z_channels" };
    json_t *values[] = { json_integer(9), json_pack("[i,i]", 1, 2), json_integer(25), json_integer(2) };
    for (int i = 0; i < 4; i++) {
        if (!json_object_get(model, keys[i])) json_object_set(model, keys[i], values[i]);
        json_decref(values[i]);
    }
    const char *head = json_string_value(json_object_get(model, "head"));
    if (head && strcmp(head, "digits") == 0 && !json_object_get(model, "levels"))
        json_object_set_new(model, "levels", json_pack("[i,i]", 5, 5));
}

T_TEST(all_are_read)
{
    (void)be, (void)s;
    DIR *d = opendir(preset_path("."));
    T_TRUE(d != NULL);
    int n = 0;
    for (const struct dirent *e; (e = readdir(d));) {
        const char *suffix = strrchr(e->d_name, '.');
        if (!suffix || strcmp(suffix, ".json") != 0) continue;
        json_t *model = read_model(preset_path(e->d_name));
        ts_tokenizer_config t;
        ts_generator_config g;
        if (is_tokenizer(model)) {
            T_OK(ts_tokenizer_config_read(&t, model, e->d_name));
        } else {
            complete(model);
            T_OK(ts_generator_config_read(&g, model, e->d_name));
        }
        json_decref(model);
        n++;
    }
    closedir(d);
    T_TRUE(n >= 10);
}

static ts_tokenizer_config published_tokenizer(void)
{
    ts_tokenizer_config c;
    json_t *model = read_model(preset_path("var-tokenizer.json"));
    T_OK(ts_tokenizer_config_read(&c, model, "var-tokenizer.json"));
    json_decref(model);
    return c;
}

T_TEST(published_tokenizer_size)
{
    (void)be, (void)s;
    ts_tokenizer_config c = published_tokenizer();
    ts_params *p;
    static autoencoder_half encoder, decoder;
    static quantizer q;
    T_OK(ts_params_new(&p));
    encoder_declare(&encoder, p, &c);
    decoder_declare(&decoder, p, &c);
    conv_declare(p, c.z_channels, c.q.D, c.quant_conv_ks, "quant_conv");
    conv_declare(p, c.q.D, c.z_channels, c.quant_conv_ks, "post_quant_conv");
    T_OK(quantizer_declare(&q, p, &c));
    T_NEAR((double)ts_params_floats(p) / 1e6, 108.95, 0.01);
    T_EQI(q.p.T, 680);
    T_EQI(q.p.S, 4);
    ts_params_free(p);
}

/* Numbers in the file of a generator: no zero_k_bias. */
static int64_t generator_numbers(const ts_generator_config *c)
{
    ts_params *p;
    static transformer m;
    T_OK(ts_params_new(&p));
    transformer_declare(&m, p, c);
    linear_declare(p, c->z_channels, c->embed_dim, 1, "word_embed");
    linear_declare(p, c->embed_dim, c->V, 1, "head");
    int64_t rows = c->num_classes + 1 + c->K + 1, n = ts_params_floats(p) - (int64_t)c->depth * c->embed_dim;
    for (int k = 0; k < c->K; k++) rows += c->side[k] * c->side[k];
    ts_params_free(p);
    return n + rows * c->embed_dim;
}

T_TEST(published_generator_sizes)
{
    (void)be, (void)s;
    /* The table of the published README, in units of its last digit. */
    static const struct {
        const char *name;
        int depth, T;
        double millions, unit;
    } cases[] = { { "var-d16.json", 16, 680, 310, 1 },
                  { "var-d20.json", 20, 680, 600, 10 },
                  { "var-d24.json", 24, 680, 1000, 100 },
                  { "var-d30.json", 30, 680, 2000, 100 },
                  { "var-d36.json", 36, 2240, 2300, 100 } };
    ts_tokenizer_config t = published_tokenizer();
    for (int i = 0; i < 5; i++) {
        ts_generator_config c;
        json_t *model = read_model(preset_path(cases[i].name));
        T_OK(ts_generator_config_read(&c, model, cases[i].name));
        json_decref(model);
        int T = 0;
        for (int k = 0; k < c.K; k++) T += c.side[k] * c.side[k];
        T_EQI(c.depth, cases[i].depth);
        T_EQI(c.embed_dim, 64 * c.depth);
        T_EQI(c.num_heads, c.depth);
        T_EQI(c.shared_aln, c.depth == 36);
        T_EQI(T, cases[i].T);
        T_TRUE(c.V == t.q.V && c.z_channels == t.q.D);
        T_TRUE(c.depth == 36 || (c.K == t.K && memcmp(c.side, t.side, sizeof c.side) == 0));
        T_NEAR((double)generator_numbers(&c) / 1e6, cases[i].millions, cases[i].unit);
    }
}

int main(void)
{
    Suite *u = t_suite("presets");
    T_ADD1(u, all_are_read);
    T_ADD1(u, published_tokenizer_size);
    T_ADD1(u, published_generator_sizes);
    return t_run(u);
}
