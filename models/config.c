/* config.c - contract: config.h. */
#include "models/config.h"

#include <math.h>
#include <string.h>

#include "tessera/op_sample.h"

/* --- strict reading --- */

ts_reader ts_reader_open(const json_t *o, const char *file, const char *where)
{
    ts_reader r = { .o = o, .file = file, .where = where, .status = TS_OK };
    if (!json_is_object(o)) r.status = ts_fail(TS_E_DATA, "%s: %s is not a JSON object", file, where);
    return r;
}

static const json_t *get(ts_reader *r, const char *key, int required)
{
    if (r->status != TS_OK) return NULL;
    if (r->n_seen < (int)(sizeof r->seen / sizeof *r->seen)) r->seen[r->n_seen++] = key;
    const json_t *v = json_object_get(r->o, key);
    if (!v && required) r->status = ts_fail(TS_E_DATA, "%s: %s: \"%s\" is missing", r->file, r->where, key);
    return v;
}

int64_t ts_read_int(ts_reader *r, const char *key, int64_t min, int64_t max, int64_t missing)
{
    const json_t *v = get(r, key, missing < min);
    if (!v) return missing;
    int64_t n = json_integer_value(v);
    if (json_is_integer(v) && n >= min && n <= max) return n;
    char *found = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    r->status = ts_fail(TS_E_DATA, "%s: %s: \"%s\" is %.40s, expected an integer from %lld to %lld", r->file, r->where, key,
                        found ? found : "?", (long long)min, (long long)max);
    free(found);
    return missing;
}

double ts_read_number(ts_reader *r, const char *key, double min, double max, double missing)
{
    const json_t *v = get(r, key, isnan(missing));
    if (!v) return missing;
    double n = json_number_value(v);
    if (json_is_number(v) && n >= min && n <= max) return n;
    char *found = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    r->status = ts_fail(TS_E_DATA, "%s: %s: \"%s\" is %.40s, expected a number from %g to %g", r->file, r->where, key,
                        found ? found : "?", min, max);
    free(found);
    return missing;
}

int ts_read_bool(ts_reader *r, const char *key, int missing)
{
    const json_t *v = get(r, key, 0);
    if (!v) return missing;
    if (!json_is_boolean(v))
        r->status = ts_fail(TS_E_DATA, "%s: %s: \"%s\" must be true or false", r->file, r->where, key);
    return json_is_true(v);
}

int ts_read_choice(ts_reader *r, const char *key, const char *choices, const char *missing)
{
    const json_t *v = get(r, key, missing == NULL);
    const char *text = v ? json_string_value(v) : missing;
    if (r->status != TS_OK) return 0;
    int i = 0;
    for (const char *c = choices; text; i++) {
        size_t n = strcspn(c, "|");
        if (strlen(text) == n && strncmp(c, text, n) == 0) return i;
        if (c[n] == '\0') break;
        c += n + 1;
    }
    r->status = ts_fail(TS_E_DATA, "%s: %s: \"%s\" is %s, expected one of %s", r->file, r->where, key,
                        text ? text : "not a string", choices);
    return 0;
}

int ts_read_ints(ts_reader *r, const char *key, int64_t min, int64_t max, int32_t *out, int room)
{
    const json_t *v = get(r, key, 1);
    if (!v) return 0;
    size_t n = json_array_size(v);
    if (!json_is_array(v) || n < 1 || n > (size_t)room) {
        r->status = ts_fail(TS_E_DATA, "%s: %s: \"%s\" must be a list of 1 to %d integers", r->file, r->where, key, room);
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *e = json_array_get(v, i);
        int64_t x = json_integer_value(e);
        if (!json_is_integer(e) || x < min || x > max) {
            char *found = json_dumps(e, JSON_ENCODE_ANY | JSON_COMPACT);
            r->status = ts_fail(TS_E_DATA, "%s: %s: \"%s\"[%zu] is %.40s, expected an integer from %lld to %lld", r->file,
                                r->where, key, i, found ? found : "?", (long long)min, (long long)max);
            free(found);
            return 0;
        }
        out[i] = (int32_t)x;
    }
    return (int)n;
}

const json_t *ts_read_object(ts_reader *r, const char *key, int required)
{
    const json_t *v = get(r, key, required);
    if (v && !json_is_object(v)) {
        r->status = ts_fail(TS_E_DATA, "%s: %s: \"%s\" must be an object", r->file, r->where, key);
        return NULL;
    }
    return v;
}

ts_status ts_reader_close(ts_reader *r)
{
    if (r->status != TS_OK) return r->status;
    for (void *it = json_object_iter((json_t *)(uintptr_t)r->o); it;
         it = json_object_iter_next((json_t *)(uintptr_t)r->o, it)) {
        const char *key = json_object_iter_key(it);
        int known = 0;
        for (int i = 0; i < r->n_seen; i++) known |= strcmp(key, r->seen[i]) == 0;
        if (!known) return r->status = ts_fail(TS_E_DATA, "%s: %s: \"%s\" is not a known setting", r->file, r->where, key);
    }
    return TS_OK;
}

/* --- tokenizer --- */

static const char *const KINDS[] = { "vq", "residual_fsq", "fsq" };
static const char *const BOUNDS[] = { "tanh", "sigmoid", "ifsq" };

static ts_status product(const int32_t *level, int n, int *V, const char *file)
{
    int64_t p = 1;
    for (int i = 0; i < n; i++) {
        p *= level[i];
        if (p > INT32_MAX)
            return ts_fail(TS_E_DATA, "%s: quantizer: the product of the levels does not fit in 31 bits", file);
    }
    *V = (int)p;
    return TS_OK;
}

static ts_status read_quantizer(ts_quantizer_config *q, const json_t *o, int z_channels, const char *file)
{
    ts_reader r = ts_reader_open(o, file, "quantizer");
    q->kind = (ts_quantizer_kind)ts_read_choice(&r, "kind", "vq|residual_fsq|fsq", NULL);
    if (q->kind == TS_QUANTIZER_VQ) {
        q->V = (int)ts_read_int(&r, "vocab_size", 2, 1 << 20, -1);
        q->using_znorm = ts_read_bool(&r, "using_znorm", 0);
        q->beta = (float)ts_read_number(&r, "beta", 0, 100, 0.25);
        q->D = z_channels;
    } else {
        q->D = ts_read_ints(&r, "levels", 2, 65536, q->level, TS_MAX_D);
    }
    if (q->kind == TS_QUANTIZER_FSQ) q->bound = (ts_fsq_bound)ts_read_choice(&r, "bound", "tanh|sigmoid|ifsq", "tanh");
    if (q->kind == TS_QUANTIZER_RESIDUAL_FSQ) {
        q->pre_tanh = ts_read_choice(&r, "pre_bound", "none|tanh", "none");
        q->aux_weight = (float)ts_read_number(&r, "aux_weight", 0, 100, 1);
    }
    if (q->kind != TS_QUANTIZER_FSQ) {
        q->quant_resi = (float)ts_read_number(&r, "quant_resi", 0, 1, 0.5);
        q->share_quant_resi = (int)ts_read_int(&r, "share_quant_resi", -1, TS_MAX_SCALES, q->kind == TS_QUANTIZER_VQ ? 4 : 0);
    }
    TS_TRY(ts_reader_close(&r));
    if (q->kind == TS_QUANTIZER_VQ) return TS_OK;
    int odd_only = q->kind == TS_QUANTIZER_RESIDUAL_FSQ || q->bound == TS_FSQ_IFSQ;
    for (int i = 0; odd_only && i < q->D; i++)
        if (q->level[i] % 2 == 0)
            return ts_fail(TS_E_DATA, "%s: quantizer: \"levels\"[%d] is %d, expected an odd level: %s", file, i, q->level[i],
                           q->kind == TS_QUANTIZER_RESIDUAL_FSQ ? "an even grid cannot code a residual of zero"
                                                                : "bound ifsq is defined for odd levels only");
    return product(q->level, q->D, &q->V, file);
}

static ts_status check_sides(const int32_t *side, int K, const char *file)
{
    for (int k = 1; k < K; k++)
        if (side[k] <= side[k - 1])
            return ts_fail(TS_E_DATA, "%s: \"patch_nums\": %d stands after %d, expected ascending scales", file, side[k],
                           side[k - 1]);
    return TS_OK;
}

ts_status ts_tokenizer_config_read(ts_tokenizer_config *c, const json_t *o, const char *file)
{
    memset(c, 0, sizeof *c);
    ts_reader r = ts_reader_open(o, file, "model");
    ts_read_choice(&r, "kind", "tokenizer", NULL);
    c->image_size = (int)ts_read_int(&r, "image_size", 4, 8192, -1);
    c->in_channels = (int)ts_read_int(&r, "in_channels", 3, 3, 3);
    c->ch = (int)ts_read_int(&r, "ch", 1, 4096, -1);
    int32_t mult[TS_MAX_LEVELS_OF_CH] = { 0 };
    c->n_mult = ts_read_ints(&r, "ch_mult", 1, 64, mult, TS_MAX_LEVELS_OF_CH);
    for (int i = 0; i < c->n_mult; i++) c->ch_mult[i] = mult[i];
    c->num_res_blocks = (int)ts_read_int(&r, "num_res_blocks", 1, 16, 2);
    c->norm_groups = (int)ts_read_int(&r, "norm_groups", 1, 1024, 32);
    c->attention = ts_read_bool(&r, "attention", 1);
    c->z_channels = (int)ts_read_int(&r, "z_channels", 1, 4096, -1);
    c->quant_conv_ks = (int)ts_read_int(&r, "quant_conv_ks", 1, 7, 3);
    c->K = ts_read_ints(&r, "patch_nums", 1, 1024, c->side, TS_MAX_SCALES);
    c->preprocess = (ts_preprocess)ts_read_choice(&r, "preprocess", "var|adm|none", "var");
    const json_t *q = ts_read_object(&r, "quantizer", 1);
    TS_TRY(ts_reader_close(&r));
    TS_TRY(read_quantizer(&c->q, q, c->z_channels, file));
    TS_TRY(check_sides(c->side, c->K, file));
    int down = 1 << (c->n_mult - 1), latent = c->image_size / down;
    if (c->image_size % down != 0)
        return ts_fail(TS_E_DATA, "%s: \"image_size\" is %d, expected a multiple of %d (ch_mult halves it %d times)", file,
                       c->image_size, down, c->n_mult - 1);
    if (c->side[c->K - 1] != latent)
        return ts_fail(TS_E_DATA, "%s: \"patch_nums\" ends at %d, expected the latent size %d (image_size %d / %d)", file,
                       c->side[c->K - 1], latent, c->image_size, down);
    if (c->q.kind == TS_QUANTIZER_FSQ && c->K != 1)
        return ts_fail(TS_E_DATA, "%s: \"patch_nums\" has %d scales, expected 1 for quantizer fsq", file, c->K);
    for (int i = 0; i < c->n_mult; i++)
        if (c->ch * c->ch_mult[i] % c->norm_groups != 0)
            return ts_fail(TS_E_DATA, "%s: \"norm_groups\" is %d, expected a divisor of ch*ch_mult = %d", file, c->norm_groups,
                           c->ch * c->ch_mult[i]);
    if (c->quant_conv_ks % 2 == 0) return ts_fail(TS_E_DATA, "%s: \"quant_conv_ks\" must be odd", file);
    return TS_OK;
}

static json_t *ints(const int32_t *x, int n)
{
    json_t *a = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(a, json_integer(x[i]));
    return a;
}

/* A float32 as the shortest decimal that reads back as the same float32: 0.25, not 0.25000000298. */
static json_t *real(float x)
{
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x) break;
    }
    return json_real(strtod(text, NULL));
}

static json_t *quantizer_json(const ts_quantizer_config *q)
{
    json_t *o = json_object();
    json_object_set_new(o, "kind", json_string(KINDS[q->kind]));
    if (q->kind == TS_QUANTIZER_VQ) {
        json_object_set_new(o, "vocab_size", json_integer(q->V));
        json_object_set_new(o, "using_znorm", json_boolean(q->using_znorm));
        json_object_set_new(o, "beta", real(q->beta));
    } else {
        json_object_set_new(o, "levels", ints(q->level, q->D));
    }
    if (q->kind == TS_QUANTIZER_FSQ) json_object_set_new(o, "bound", json_string(BOUNDS[q->bound]));
    if (q->kind == TS_QUANTIZER_RESIDUAL_FSQ) {
        json_object_set_new(o, "pre_bound", json_string(q->pre_tanh ? "tanh" : "none"));
        json_object_set_new(o, "aux_weight", real(q->aux_weight));
    }
    if (q->kind != TS_QUANTIZER_FSQ) {
        json_object_set_new(o, "quant_resi", real(q->quant_resi));
        json_object_set_new(o, "share_quant_resi", json_integer(q->share_quant_resi));
    }
    return o;
}

json_t *ts_tokenizer_config_json(const ts_tokenizer_config *c)
{
    json_t *o = json_object();
    int32_t mult[TS_MAX_LEVELS_OF_CH];
    for (int i = 0; i < c->n_mult; i++) mult[i] = c->ch_mult[i];
    json_object_set_new(o, "kind", json_string("tokenizer"));
    json_object_set_new(o, "image_size", json_integer(c->image_size));
    json_object_set_new(o, "in_channels", json_integer(c->in_channels));
    json_object_set_new(o, "ch", json_integer(c->ch));
    json_object_set_new(o, "ch_mult", ints(mult, c->n_mult));
    json_object_set_new(o, "num_res_blocks", json_integer(c->num_res_blocks));
    json_object_set_new(o, "norm_groups", json_integer(c->norm_groups));
    json_object_set_new(o, "attention", json_boolean(c->attention));
    json_object_set_new(o, "z_channels", json_integer(c->z_channels));
    json_object_set_new(o, "quant_conv_ks", json_integer(c->quant_conv_ks));
    json_object_set_new(o, "patch_nums", ints(c->side, c->K));
    json_object_set_new(o, "preprocess", json_string(ts_preprocess_name(c->preprocess)));
    json_object_set_new(o, "quantizer", quantizer_json(&c->q));
    return o;
}

/* --- generator --- */

ts_status ts_generator_config_read(ts_generator_config *c, const json_t *o, const char *file)
{
    memset(c, 0, sizeof *c);
    ts_reader r = ts_reader_open(o, file, "model");
    ts_read_choice(&r, "kind", "generator", NULL);
    c->num_classes = (int)ts_read_int(&r, "num_classes", 1, 1 << 20, -1);
    c->depth = (int)ts_read_int(&r, "depth", 1, 128, -1);
    c->embed_dim = (int)ts_read_int(&r, "embed_dim", 16, 16384, -1);
    c->num_heads = (int)ts_read_int(&r, "num_heads", 1, 256, -1);
    c->mlp_ratio = (float)ts_read_number(&r, "mlp_ratio", 0.25, 16, 4);
    c->norm_eps = (float)ts_read_number(&r, "norm_eps", 0, 1, 1e-6);
    c->shared_aln = ts_read_bool(&r, "shared_aln", 0);
    c->attn_l2_norm = ts_read_bool(&r, "attn_l2_norm", 1);
    c->K = ts_read_ints(&r, "patch_nums", 1, 1024, c->side, TS_MAX_SCALES);
    c->V = (int)ts_read_int(&r, "vocab_size", 2, INT32_MAX, -1);
    c->z_channels = (int)ts_read_int(&r, "z_channels", 1, 4096, -1);
    c->head = (ts_head_kind)ts_read_choice(&r, "head", "joint|digits", "joint");
    if (c->head == TS_HEAD_DIGITS) {
        c->head_hidden = (int)ts_read_int(&r, "head_hidden", 1, 4096, 128);
        c->D = ts_read_ints(&r, "levels", 2, TS_MAX_SUM_L, c->level, TS_MAX_D);
    }
    TS_TRY(ts_reader_close(&r));
    TS_TRY(check_sides(c->side, c->K, file));
    if (c->embed_dim % c->num_heads != 0 || c->embed_dim % 16 != 0)
        return ts_fail(TS_E_DATA, "%s: \"embed_dim\" is %d, expected a multiple of 16 and of num_heads %d", file, c->embed_dim,
                       c->num_heads);
    if (c->head == TS_HEAD_JOINT && c->V > TS_SAMPLE_MAX_V)
        return ts_fail(TS_E_DATA, "%s: \"vocab_size\" is %d, expected at most %d for head joint; head digits takes more", file,
                       c->V, TS_SAMPLE_MAX_V);
    if (c->head == TS_HEAD_JOINT) return TS_OK;
    int V = 0;
    TS_TRY(product(c->level, c->D, &V, file));
    if (V != c->V)
        return ts_fail(TS_E_DATA, "%s: \"vocab_size\" is %d, expected %d, the product of \"levels\"", file, c->V, V);
    return TS_OK;
}

json_t *ts_generator_config_json(const ts_generator_config *c)
{
    json_t *o = json_object();
    json_object_set_new(o, "kind", json_string("generator"));
    json_object_set_new(o, "num_classes", json_integer(c->num_classes));
    json_object_set_new(o, "depth", json_integer(c->depth));
    json_object_set_new(o, "embed_dim", json_integer(c->embed_dim));
    json_object_set_new(o, "num_heads", json_integer(c->num_heads));
    json_object_set_new(o, "mlp_ratio", real(c->mlp_ratio));
    json_object_set_new(o, "norm_eps", real(c->norm_eps));
    json_object_set_new(o, "shared_aln", json_boolean(c->shared_aln));
    json_object_set_new(o, "attn_l2_norm", json_boolean(c->attn_l2_norm));
    json_object_set_new(o, "patch_nums", ints(c->side, c->K));
    json_object_set_new(o, "vocab_size", json_integer(c->V));
    json_object_set_new(o, "z_channels", json_integer(c->z_channels));
    json_object_set_new(o, "head", json_string(c->head == TS_HEAD_DIGITS ? "digits" : "joint"));
    if (c->head == TS_HEAD_DIGITS) {
        json_object_set_new(o, "head_hidden", json_integer(c->head_hidden));
        json_object_set_new(o, "levels", ints(c->level, c->D));
    }
    return o;
}
