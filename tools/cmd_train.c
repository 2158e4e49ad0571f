/* cmd_train.c - `tessera train tokenizer|generator`. */
#include <stdlib.h>
#include <string.h>

#include "host/file.h"
#include "host/profile.h"
#include "tools/bench.h"
#include "tools/commands.h"
#include "tools/train.h"

enum { MAX_PRESET_BYTES = 1 << 20 };

static ts_status read_preset(json_t **o, const char *path)
{
    void *text;
    size_t n;
    TS_TRY(ts_file_read(path, MAX_PRESET_BYTES, &text, &n));
    json_error_t e;
    *o = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    free(text);
    if (!*o) return ts_fail(TS_E_DATA, "%s: line %d: %s", path, e.line, e.text);
    ts_reader r = ts_reader_open(*o, path, "preset");
    ts_read_object(&r, "model", 1);
    ts_read_object(&r, "train", 1);
    return ts_reader_close(&r);
}

/* A run is the same run only if it started from the same weights: their hash goes beside the preset into config.json. */
static ts_status name_start(json_t *preset, const char *path)
{
    char hash[17];
    uint64_t bytes;
    if (!path) return TS_OK;
    TS_TRY(ts_file_hash(path, hash, &bytes));
    return json_object_set_new(preset, "init", json_string(hash)) == 0 ? TS_OK : ts_fail(TS_E_NOMEM, "out of host memory");
}

static ts_status train(const train_options *o, int generator)
{
    json_t *preset = NULL;
    ts_device *d = NULL;
    ts_status st = read_preset(&preset, o->config_path);
    json_t *steps = json_object_get(json_object_get(preset, "train"), "steps");
    if (o->steps > 0 && steps) json_integer_set(steps, o->steps);
    if (st == TS_OK) st = name_start(preset, o->init);
    if (st == TS_OK) st = common_device(&d, &o->common);
    if (st == TS_OK && o->profile) st = ts_profile_begin(d);
    if (st == TS_OK) st = generator ? train_generator(o, preset, d) : train_tokenizer(o, preset, d);
    if (st == TS_OK && o->profile) bench_profile(NULL, 1, 0, "the whole run");
    ts_profile_end(d);
    ts_device_close(d);
    json_decref(preset);
    return st;
}

int cmd_train(int argc, char **argv)
{
    int generator = argc > 1 && strcmp(argv[1], "generator") == 0;
    if (argc < 2 || (!generator && strcmp(argv[1], "tokenizer") != 0 && strcmp(argv[1], "--help") != 0))
        return report(ts_fail(TS_E_ARG, "train: expected `tokenizer` or `generator` as its first word"));
    train_options o = { .common = COMMON_DEFAULTS };
    const opt_command command = {
        generator ? "train generator" : "train tokenizer",
        generator ? "--config PRESET.json --data TOKENS --tokenizer T.safetensors --out RUN [--resume]"
                  : "--config PRESET.json --data DIR --out RUN [--resume]",
        generator ? "Train a class-conditional next-scale generator on token shards."
                  : "Train a tokenizer on a folder of pictures.",
        0, 0
    };
    const opt options[] = {
        { .name = "config", .kind = OPT_STRING, .value = &o.config_path, .argument = "FILE", .required = 1,
          .help = "preset: model and training settings (models/presets)" },
        { .name = "data", .kind = OPT_STRING, .value = &o.data, .argument = "DIR", .required = 1,
          .help = generator ? "folder that `tessera tokenize` wrote" : "pictures: ImageFolder, flat folder or tar" },
        { .name = "tokenizer", .kind = OPT_STRING, .value = &o.tokenizer, .argument = "FILE", .required = generator,
          .help = generator ? "the tokenizer that made the tokens" : "not used for a tokenizer" },
        { .name = "out", .kind = OPT_STRING, .value = &o.run, .argument = "RUN", .required = 1,
          .help = "run folder: checkpoints, metrics, the final model.safetensors" },
        { .name = "init", .kind = OPT_STRING, .value = &o.init, .argument = "FILE",
          .help = "start from the weights of this model file (fine-tuning); with --resume, give it again" },
        { .name = "resume", .kind = OPT_FLAG, .value = &o.resume, .help = "go on with the run in RUN" },
        { .name = "steps", .kind = OPT_INT, .value = &o.steps, .min = 0, .max = 1000000000, .argument = "N",
          .help = "optimizer steps, 0 for what the preset says" },
        { .name = "profile", .kind = OPT_FLAG, .value = &o.profile,
          .help = "at the end, say where the time went; each op waits for the device, so a GPU is slower" },
        COMMON_OPTIONS(o.common),
        { .name = NULL }
    };
    char **positional;
    int n, code;
    if (opt_parse(argc - 1, argv + 1, &command, options, &positional, &n, &code)) return code;
    ts_signals_install();
    return report(train(&o, generator));
}
