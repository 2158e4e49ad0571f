/* test_sampler.c - batches of all kinds, one after the other, on two devices: what the CPU draws op by op, a device
 * that records scales draws, too, the first time, while it records, and when it launches what it recorded. */
#include "models/sampler.h"
#include "tests/model/tiny.h"

enum { T = 21, K = 3, MOST = 3 };

static const char *const HEADS[] = {
    "\"vocab_size\":125,\"z_channels\":3,\"shared_aln\":false,\"attn_l2_norm\":true,\"head\":\"joint\"",
    "\"vocab_size\":125,\"z_channels\":3,\"shared_aln\":true,\"attn_l2_norm\":false,\"head\":\"digits\",\"head_"
    "hidden\":16,"
    "\"levels\":[5,5,5]",
    "\"vocab_size\":32,\"z_channels\":8,\"shared_aln\":false,\"attn_l2_norm\":true,\"head\":\"joint\""
};
static const char *const QUANTIZERS[] = {
    "\"patch_nums\":[1,2,4],\"quantizer\":{\"kind\":\"residual_fsq\",\"levels\":[5,5,5]}",
    "\"patch_nums\":[1,2,4],\"quantizer\":{\"kind\":\"residual_fsq\",\"levels\":[5,5,5]}",
    "\"patch_nums\":[1,2,4],\"quantizer\":{\"kind\":\"vq\",\"vocab_size\":32,\"share_quant_resi\":4}"
};

typedef struct {
    ts_device *d;
    ts_tokenizer *t;
    ts_generator *m;
} models;

static ts_status try_models(models *p, const ts_backend *be, int kind, int training, ts_math math)
{
    ts_tokenizer_config tc = tiny_tokenizer_config(QUANTIZERS[kind], "[1,2,2]", 8);
    ts_generator_config c;
    char text[512];
    snprintf(text, sizeof text,
             "{\"kind\":\"generator\",\"num_classes\":4,\"depth\":2,\"embed_dim\":32,\"num_heads\":2,\"patch_nums\":[1,"
             "2,4],%s}",
             HEADS[kind]);
    json_t *o = json_loads(text, 0, NULL);
    T_OK(ts_generator_config_read(&c, o, text));
    json_decref(o);
    *p = (models){ NULL, NULL, NULL };
    TS_TRY(ts_device_open(&p->d, be->name, 1, math));
    TS_TRY(ts_tokenizer_new(&p->t, p->d, &tc, training, 1));
    return ts_generator_new(&p->m, p->d, &c, training, 2);
}

static models open_models(const ts_backend *be, int kind)
{
    models p;
    T_OK(try_models(&p, be, kind, 1, TS_MATH_F32));
    return p;
}

static void close_models(models *p)
{
    ts_generator_free(p->m);
    ts_tokenizer_free(p->t);
    if (p->d) T_EQI(p->d->in_use, 0);
    ts_device_close(p->d);
}

/* Two devices, one batch: the same tokens, and pictures that differ by the rounding of some 20 layers. */
static void compare(models p[2], int64_t B, const ts_sampling *how)
{
    static const int32_t labels[MOST] = { 0, 3, 3 };
    int32_t tokens[2][MOST * T];
    float images[2][MOST * TINY_PIXELS];
    for (int j = 0; j < 2; j++) T_OK(ts_generator_sample(p[j].m, p[j].t, labels, B, how, tokens[j], images[j]));
    ck_assert_mem_eq(tokens[0], tokens[1], (size_t)(B * T) * sizeof **tokens);
    for (int64_t i = 0; i < B * TINY_PIXELS; i++) T_NEAR(images[1][i], images[0][i], 1e-5);
    T_TRUE(B < 3 || memcmp(tokens[0] + T, tokens[0] + 2 * T, T * sizeof(int32_t)) != 0);
}

/* Batches go on through seeds and pictures; a smaller one comes and goes; settings change, and change back; so do
 * weights. */
static void all_kinds(const ts_backend *be, int kind)
{
    models p[2] = { open_models(ts_backend_get("cpu"), kind), open_models(be, kind) };
    ts_sampling how = { .seed = 5, .cfg = 2, .temperature = 1, .top_p = 0.9, .top_k = 20 };
    for (int i = 0; i < 4; i++, how.image0 += MOST) compare(p, MOST, &how);
    for (int i = 0; i < 3; i++, how.seed++) compare(p, 1, &how);
    compare(p, MOST, &how);
    how.cfg = 0, how.top_p = 1;
    for (int i = 0; i < 3; i++, how.image0++) compare(p, 1, &how);
    how.smooth = kind == 2;
    for (int i = 0; how.smooth && i < 3; i++, how.image0++) compare(p, 1, &how);
    for (int j = 0; j < 2; j++) T_OK(ts_params_init(p[j].m->params, 7)); /* other weights in the same place */
    compare(p, 1, &how);
    for (int j = 0; j < 2; j++) { /* and in another place; what lies in the place of before is NaN */
        ts_params *params = p[j].m->params;
        float *nan = t_alloc((size_t)ts_tensor_count(p[j].m->class_emb) * sizeof *nan);
        for (int64_t i = 0; i < ts_tensor_count(p[j].m->class_emb); i++) nan[i] = NAN;
        T_OK(p[j].d->be->upload(p[j].d->s, p[j].m->class_emb->data, nan, (size_t)ts_tensor_count(p[j].m->class_emb) * sizeof *nan));
        ts_params_swap_ema(params);
    }
    for (int i = 0; i < 3; i++) compare(p, 1, &how);
    for (int j = 0; j < 2; j++) { /* another tokenizer, maybe in the same place */
        ts_tokenizer_config c = p[j].t->c;
        ts_tokenizer_free(p[j].t);
        T_OK(ts_tokenizer_new(&p[j].t, p[j].d, &c, 0, 9));
    }
    compare(p, 1, &how);
    for (int j = 0; j < 2; j++) close_models(&p[j]);
}

T_TEST(joint)
{
    (void)s;
    all_kinds(be, 0);
}

T_TEST(digits)
{
    (void)s;
    all_kinds(be, 1);
}

T_TEST(vq)
{
    (void)s;
    all_kinds(be, 2);
}

/* Recordings hold copies of weights that were constant. Those that are no longer are seen, also in the place of before. */
T_TEST(weights_that_change)
{
    (void)s;
    enum { BATCHES = 3, TURNS = 4 };
    const ts_sampling how = { .seed = 5, .cfg = 2, .temperature = 1, .top_p = 0.9 };
    const int32_t label = 1;
    int32_t tokens[2][TURNS][BATCHES][T];
    for (int frozen = 0; frozen < 2; frozen++) {
        models p;
        T_OK(try_models(&p, be, 0, 1, TS_MATH_BF16));
        for (int turn = 0; turn < TURNS; turn++) {
            if (frozen) T_OK(ts_params_freeze(p.m->params));
            if (frozen) T_OK(ts_params_freeze(p.t->params));
            for (int i = 0; i < BATCHES; i++) T_OK(ts_generator_sample(p.m, p.t, &label, 1, &how, tokens[frozen][turn][i], NULL));
            if (turn == 1) T_OK(ts_params_init(p.m->params, 7));
            else ts_params_swap_ema(p.m->params);
        }
        close_models(&p);
    }
    ck_assert_mem_eq(tokens[0], tokens[1], sizeof tokens[0]);
    for (int turn = 0; turn < TURNS; turn++)
        for (int i = 1; i < BATCHES; i++) ck_assert_mem_eq(tokens[0][turn][0], tokens[0][turn][i], sizeof tokens[0][0][0]);
    T_TRUE(memcmp(tokens[0][1][0], tokens[0][2][0], sizeof tokens[0][0][0]) != 0);
}

/* --- what a batch asks of the device --- */

static const ts_backend *real;
static char calls[64];

static void note(char c)
{
    size_t n = strlen(calls);
    T_TRUE(n + 1 < sizeof calls);
    calls[n] = c;
}

static ts_status upload(ts_stream *s, void *device, const void *host, size_t bytes)
{
    note('u');
    return real->upload(s, device, host, bytes);
}

static ts_status launch(ts_stream *s, ts_capture *c)
{
    note('L');
    return real->capture_launch(s, c);
}

static ts_status begin(ts_stream *s)
{
    note('b');
    return real->capture_begin(s);
}

static ts_status end(ts_stream *s, ts_capture **c)
{
    note('e');
    return real->capture_end(s, c);
}

static ts_status download(ts_stream *s, void *host, const void *device, size_t bytes)
{
    note('d');
    return real->download(s, host, device, bytes);
}

static ts_status wait_for(ts_stream *s)
{
    note('w');
    return real->stream_sync(s);
}

/* Inputs up, one launch for each scale, tokens down: nothing else, and nothing waits in between. No memory is asked for
 * when scales are recorded. */
T_TEST(one_launch_a_scale)
{
    (void)s;
    if (!be->capture_begin) return;
    models p = open_models(be, 0);
    int32_t label = 1, tokens[T];
    const ts_sampling how = { .seed = 5, .cfg = 2, .temperature = 1, .top_p = 0.9 };
    ts_backend fake = *be;
    real = be;
    T_OK(ts_generator_sample(p.m, p.t, &label, 1, &how, tokens, NULL));
    fake.upload = upload, fake.download = download, fake.stream_sync = wait_for, fake.mem_alloc = NULL;
    fake.capture_begin = begin, fake.capture_end = end, fake.capture_launch = launch;
    p.d->be = &fake;
    T_OK(ts_generator_sample(p.m, p.t, &label, 1, &how, tokens, NULL));
    ck_assert_str_eq(calls, "uuubeLbeLbeLdw");
    memset(calls, 0, sizeof calls);
    fake = (ts_backend){ .upload = upload,
                         .download = download,
                         .stream_sync = wait_for,
                         .capture_begin = begin,
                         .capture_launch = launch };
    T_OK(ts_generator_sample(p.m, p.t, &label, 1, &how, tokens, NULL));
    ck_assert_str_eq(calls, "uuuLLLdw");
    p.d->be = be;
    close_models(&p);
}

/* --- memory that is short, and calls that fail --- */

static ts_status batches(models *p, const ts_backend *be, int64_t B, int32_t tokens[2][MOST * T], float *images)
{
    static const int32_t labels[MOST] = { 0, 3, 2 };
    TS_TRY(try_models(p, be, 0, 0, TS_MATH_F32));
    ts_sampling how = { .seed = 5, .cfg = 2, .temperature = 1, .top_p = 0.9 };
    for (int i = 0; i < 2; i++, how.image0 += (uint64_t)B)
        TS_TRY(ts_generator_sample(p->m, p->t, labels, B, &how, tokens[i], images));
    return TS_OK;
}

/* With whatever memory there is, a batch works or says that it is too large; somewhere between, nothing can be kept. */
T_TEST(little_memory)
{
    (void)s;
    if (strcmp(be->name, "emu") != 0) return;
    int32_t want[2][MOST * T], got[2][MOST * T];
    float images[MOST * TINY_PIXELS];
    models p;
    T_OK(batches(&p, be, MOST, want, images));
    size_t most = p.d->held;
    close_models(&p);
    int refused = 0, plain = 0, kept = 0;
    for (size_t room = most; refused < 1; room -= most / 10) {
        char text[24];
        snprintf(text, sizeof text, "%zu", room);
        setenv("TS_EMU_MEMORY", text, 1);
        ts_status st = batches(&p, be, MOST, got, images);
        if (st == TS_OK)
            ck_assert_mem_eq(got, want, sizeof got);
        else
            T_EQI(st, TS_E_NOMEM);
        refused += st != TS_OK;
        plain += st == TS_OK && p.m->plain;
        kept += st == TS_OK && !p.m->plain;
        close_models(&p);
    }
    T_TRUE(plain > 0 && kept > 0);
}

T_TEST(every_call_may_fail)
{
    (void)s;
    if (strcmp(be->name, "emu") != 0) return;
    int32_t want[2][MOST * T] = { { 0 } }, got[2][MOST * T] = { { 0 } };
    models p;
    T_OK(batches(&p, be, 1, want, NULL));
    close_models(&p);
    int reached = 1, turns = 0;
    for (int n = 1; reached; n += 1 + n / 6, turns++) {
        char text[16];
        snprintf(text, sizeof text, "%d", n);
        setenv("TS_EMU_FAIL", text, 1);
        ts_status st = batches(&p, be, 1, got, NULL);
        reached = getenv("TS_EMU_FAIL") == NULL;
        unsetenv("TS_EMU_FAIL");
        if (st == TS_OK)
            ck_assert_msg(memcmp(got, want, sizeof got) == 0, "call %d failed unseen", n);
        else
            ck_assert_msg(reached && strlen(ts_error()) > 10, "call %d: '%s'", n, ts_error());
        close_models(&p);
    }
    T_TRUE(turns > 15);
}

/* Every call of the batch that records, in turn. */
T_TEST(recording_may_fail)
{
    (void)s;
    if (strcmp(be->name, "emu") != 0) return;
    const ts_sampling how = { .seed = 5, .temperature = 1, .top_p = 1 };
    int32_t label = 1, want[T], got[T];
    models p = open_models(be, 0);
    T_OK(ts_generator_sample(p.m, p.t, &label, 1, &how, want, NULL));
    int reached = 1, failed = 0;
    for (int n = 1; reached; n++) {
        char text[16];
        sampler_forget(p.m);
        T_OK(ts_generator_sample(p.m, p.t, &label, 1, &how, got, NULL));
        snprintf(text, sizeof text, "%d", n);
        setenv("TS_EMU_FAIL", text, 1);
        ts_status st = ts_generator_sample(p.m, p.t, &label, 1, &how, got, NULL);
        reached = getenv("TS_EMU_FAIL") == NULL;
        unsetenv("TS_EMU_FAIL");
        failed += st != TS_OK;
        T_TRUE(st == TS_OK ? !reached && memcmp(got, want, sizeof got) == 0 : strlen(ts_error()) > 10);
        if (n % 8) continue;
        T_OK(
            ts_generator_sample(p.m, p.t, &label, 1, &how, got, NULL)); /* and the next is as if nothing had happened */
        ck_assert_mem_eq(got, want, sizeof got);
    }
    T_TRUE(failed > 4 * K);
    close_models(&p);
}

int main(void)
{
    Suite *u = t_suite("sampler");
    T_ADD(u, joint);
    T_ADD(u, digits);
    T_ADD(u, vq);
    T_ADD(u, weights_that_change);
    T_ADD(u, one_launch_a_scale);
    T_ADD(u, little_memory);
    T_ADD(u, every_call_may_fail);
    T_ADD(u, recording_may_fail);
    return t_run(u);
}
