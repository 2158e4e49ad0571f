/* cmd_bench.c - `tessera bench`: how fast this machine runs the kernels and the models. How to read it:
 * bench/README.md. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/profile.h"
#include "tools/bench.h"
#include "tools/commands.h"

static const struct {
    const char *name;
    ts_status (*run)(bench_options *o, ts_device *d);
} BENCHES[] = {
    { "kernels", bench_kernels }, { "tokenize", bench_tokenize }, { "sample", bench_sample }, { "train", bench_train }
};
enum { N_BENCHES = sizeof BENCHES / sizeof BENCHES[0] };

/* What a number means nothing without. */
static json_t *machine(const bench_options *o, const ts_device *d)
{
    char about[TS_ABOUT] = "unknown";
    double load[1] = { 0 };
    d->be->about(d->index, about);
    getloadavg(load, 1);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return json_pack("{s:s,s:s,s:s,s:I,s:I,s:f,s:f,s:s,s:s}", "version", TS_VERSION, "device", d->be->name, "hardware",
                     about, "threads", (json_int_t)(o->common.threads ? o->common.threads : cores), "cores",
                     (json_int_t)cores, "l3_mb", cache > 0 ? (double)cache / 1e6 : 0.0, "load", load[0], "dtype",
                     ts_math_name(d->math), "compiler", __VERSION__);
}

static void print_machine(const json_t *m)
{
    double load = json_real_value(json_object_get(m, "load"));
    printf("tessera %s on %s: %s, %lld of %lld cores, %.0f MB of L3, %s, compiler %s\n",
           json_string_value(json_object_get(m, "version")), json_string_value(json_object_get(m, "device")),
           json_string_value(json_object_get(m, "hardware")),
           (long long)json_integer_value(json_object_get(m, "threads")),
           (long long)json_integer_value(json_object_get(m, "cores")), json_real_value(json_object_get(m, "l3_mb")),
           json_string_value(json_object_get(m, "dtype")), json_string_value(json_object_get(m, "compiler")));
    if (load > 0.5) printf("The machine is busy (load %.1f): times are longer than they should be.\n", load);
}

static ts_status bench(bench_options *o, int which)
{
    ts_device *d = NULL;
    TS_TRY(common_device(&d, &o->common));
    json_t *m = machine(o, d);
    if (o->common.json)
        o->results = json_array();
    else if (!o->csv)
        print_machine(m);
    ts_status st = o->profile ? ts_profile_begin(d) : TS_OK;
    if (st == TS_OK) st = BENCHES[which].run(o, d);
    ts_profile_end(d);
    if (st == TS_OK && o->results) {
        json_t *all = json_pack("{s:s,s:O,s:O}", "bench", BENCHES[which].name, "machine", m, "results", o->results);
        json_dumpf(all, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(7));
        printf("\n");
        json_decref(all);
    }
    json_decref(o->results);
    json_decref(m);
    ts_device_close(d);
    return st;
}

int cmd_bench(int argc, char **argv)
{
    bench_options o = { .tokenizer = "models/demo/tokenizer.safetensors",
                        .generator = "models/demo/generator.safetensors",
                        .config = "models/presets/emoji-32-tokenizer.json",
                        .batch = 32,
                        .seconds = 1,
                        .common = COMMON_DEFAULTS };
    const opt_command command = {
        "bench", "kernels|tokenize|sample|train",
        "Measure speed: every kernel at the shapes of the models, tokenizing and decoding, sampling, or "
        "training steps. Pictures are random numbers in memory.",
        1, 1
    };
    const opt options[] = {
        { .name = "tokenizer", .kind = OPT_STRING, .value = &o.tokenizer, .argument = "FILE", .help = "model file" },
        { .name = "generator",
          .kind = OPT_STRING,
          .value = &o.generator,
          .argument = "FILE",
          .help = "model file (sample)" },
        { .name = "config",
          .kind = OPT_STRING,
          .value = &o.config,
          .argument = "FILE",
          .help = "preset of a tokenizer or a generator (train)" },
        { .name = "batch",
          .letter = 'b',
          .kind = OPT_INT,
          .value = &o.batch,
          .min = 1,
          .max = 4096,
          .argument = "N",
          .help = "pictures at a time" },
        { .name = "seconds",
          .kind = OPT_FLOAT,
          .value = &o.seconds,
          .min = 0,
          .max = 3600,
          .argument = "S",
          .help = "time spent on each line of the result; 0: check only" },
        { .name = "profile",
          .kind = OPT_FLAG,
          .value = &o.profile,
          .help = "where the time goes: time inside each of the backend's functions, and outside of them" },
        { .name = "csv", .kind = OPT_FLAG, .value = &o.csv, .help = "results as CSV on standard output (kernels)" },
        COMMON_OPTIONS(o.common),
        { .name = NULL }
    };
    char **positional;
    int n, code;
    if (opt_parse(argc, argv, &command, options, &positional, &n, &code)) return code;
    if (o.csv && (o.common.json || strcmp(positional[0], "kernels") != 0))
        return report(ts_fail(TS_E_ARG, "bench: --csv is for 'kernels', and without --json"));
    for (int i = 0; i < N_BENCHES; i++)
        if (strcmp(positional[0], BENCHES[i].name) == 0) return report(bench(&o, i));
    return report(
        ts_fail(TS_E_ARG, "bench: there is no '%s', expected kernels, tokenize, sample or train", positional[0]));
}
