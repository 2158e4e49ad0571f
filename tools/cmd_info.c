/* cmd_info.c - `tessera info`: what is in a model file, any safetensors file, or a token folder. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/file.h"
#include "host/safetensors.h"
#include "host/tokens.h"
#include "tools/commands.h"
#include "tools/common.h"

typedef struct {
    int tensors;
    common_options common;
} info_options;

static json_t *shape_json(const ts_st_tensor *t)
{
    json_t *a = json_array();
    for (int i = 0; i < t->rank; i++) json_array_append_new(a, json_integer(t->shape[i]));
    return a;
}

static json_t *file_json(const ts_st_file *f)
{
    uint64_t bytes = 0, numbers = 0;
    json_t *tensors = json_array(), *o = json_object();
    for (int i = 0; i < ts_st_count(f); i++) {
        const ts_st_tensor *t = ts_st_at(f, i);
        bytes += t->bytes;
        numbers += t->bytes / ts_st_dtype_size(t->dtype);
        json_array_append_new(tensors, json_pack("{s:s,s:s,s:o,s:I}", "name", t->name, "dtype", ts_st_dtype_name(t->dtype), "shape",
                                                 shape_json(t), "bytes", (json_int_t)t->bytes));
    }
    const char *config = ts_st_metadata(f, "tessera");
    json_error_t e;
    json_t *c = config ? json_loads(config, 0, &e) : NULL;
    json_object_set_new(o, "file", common_text(ts_st_path(f)));
    if (c) json_object_set_new(o, "config", c);
    json_object_set_new(o, "numbers", json_integer((json_int_t)numbers));
    json_object_set_new(o, "bytes", json_integer((json_int_t)bytes));
    json_object_set_new(o, "tensors", tensors);
    return o;
}

static void print_config(const json_t *c, int indent)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)c, key, v)
    {
        if (json_is_object(v)) {
            printf("%*s%s\n", indent, "", key);
            print_config(v, indent + 2);
            continue;
        }
        char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(7));
        printf("%*s%-*s%s\n", indent, "", 22 - indent, key, text ? text : "?");
        free(text);
    }
}

static void print_file(const json_t *o, int with_tensors)
{
    const json_t *c = json_object_get(o, "config"), *tensors = json_object_get(o, "tensors"), *t;
    printf("%s\n", json_string_value(json_object_get(o, "file")));
    if (c) print_config(c, 2);
    printf("  %-20s%zu tensors, %.2f M numbers, %.2f MB\n", "size", json_array_size(tensors),
           (double)json_integer_value(json_object_get(o, "numbers")) / 1e6,
           (double)json_integer_value(json_object_get(o, "bytes")) / 1e6);
    size_t i;
    if (!with_tensors) return;
    json_array_foreach(tensors, i, t)
    {
        char *shape = json_dumps(json_object_get(t, "shape"), JSON_COMPACT);
        printf("  %-5s %-20s %s\n", json_string_value(json_object_get(t, "dtype")), shape ? shape : "?",
               json_string_value(json_object_get(t, "name")));
        free(shape);
    }
}

static ts_status info_file(const char *path, const info_options *o)
{
    ts_st_file *f;
    TS_TRY(ts_st_open(&f, path));
    json_t *j = file_json(f);
    if (o->common.json) json_dumpf(j, stdout, JSON_INDENT(1)), printf("\n");
    else print_file(j, o->tensors);
    json_decref(j);
    ts_st_close(f);
    return TS_OK;
}

static ts_status info_tokens(const char *path, const info_options *o)
{
    ts_token_set *s;
    TS_TRY(ts_token_set_open(&s, path, 1));
    json_error_t e;
    json_t *names = json_array();
    for (int i = 0; i < ts_token_set_classes(s); i++) json_array_append_new(names, json_string(ts_token_set_class(s, i)));
    json_t *j = json_pack("{s:o,s:I,s:I,s:I,s:o,s:o}", "folder", common_text(path), "pictures", (json_int_t)ts_token_set_count(s), "tokens",
                          (json_int_t)ts_token_set_T(s), "codes", (json_int_t)ts_token_set_V(s), "classes", names, "info",
                          json_loads(ts_token_set_info(s), 0, &e));
    if (o->common.json) json_dumpf(j, stdout, JSON_INDENT(1)), printf("\n");
    else print_config(j, 0);
    json_decref(j);
    ts_token_set_close(s);
    return TS_OK;
}

int cmd_info(int argc, char **argv)
{
    info_options o = { .common = COMMON_DEFAULTS };
    const opt_command command = { "info", "FILE|TOKENS",
                                  "Say what is in a model file, any safetensors file, or a folder of token shards (whose hashes are "
                                  "verified).", 1, 1 };
    const opt options[] = {
        { .name = "tensors", .kind = OPT_FLAG, .value = &o.tensors, .help = "list every tensor with dtype and shape" },
        COMMON_OPTIONS(o.common),
        { .name = NULL }
    };
    char **positional;
    int n, code;
    if (opt_parse(argc, argv, &command, options, &positional, &n, &code)) return code;
    return report(ts_path_is_dir(positional[0]) ? info_tokens(positional[0], &o) : info_file(positional[0], &o));
}
