/* common.h - what all commands share: the options every one of them has, opening the device, and reporting a failure.
 *
 *     common_options common = COMMON_DEFAULTS;
 *     const opt options[] = { {"out", ...}, COMMON_OPTIONS(common), { .name = NULL } };
 */
#ifndef TS_COMMON_H
#define TS_COMMON_H

#include "host/device.h"
#include "models/tokenizer.h"
#include "tools/options.h"

typedef struct {
    const char *device;
    int dtype; /* index in "f32|bf16": a ts_math */
    int dtype_given;
    int inference; /* without --dtype: what the device prefers */
    int64_t threads;
    uint64_t seed;
    int json;
} common_options;

#define COMMON_DEFAULTS                                \
    {                                                  \
        .device = "auto", .dtype = TS_MATH_F32         \
    }

/* For commands that use models: --dtype starts as what this CPU prefers. */
common_options common_inference(void);

#define INFERENCE_DTYPE "what matrix products and convolutions multiply; by default bf16 on a CPU with AVX512-BF16 or AMX, else f32"

/* The lines of an option table; c is a common_options variable. They come last. */
#define COMMON_OPTIONS(c)                                                                                              \
    { .name = "Common options", .kind = OPT_GROUP },                                                                   \
        { .name = "device", .kind = OPT_STRING, .value = &(c).device, .argument = "auto|cpu|cuda[:N]",                 \
          .help = "where to compute (see tessera --list-devices); auto takes the first GPU if there is one" },                                      \
        { .name = "dtype", .kind = OPT_CHOICE, .value = &(c).dtype, .choices = "f32|bf16",                             \
          .given = &(c).dtype_given, .help = (c).inference ? INFERENCE_DTYPE : "what matrix products and convolutions multiply" }, \
        { .name = "threads", .kind = OPT_INT, .value = &(c).threads, .min = 0, .max = 1024, .argument = "N",           \
          .help = "CPU threads, 0 for all cores" },                                                                    \
        { .name = "seed", .kind = OPT_SEED, .value = &(c).seed, .argument = "N", .help = "seed of all random draws" }, \
        { .name = "json", .kind = OPT_FLAG, .value = &(c).json, .help = "results as JSON on standard output" }

/* --preprocess: "model" is what the tokenizer's file says. */
#define PREPROCESS_CHOICES "model|var|adm|none"
#define PREPROCESS_HELP "how pictures are brought to the model's size; model: as the tokenizer was trained"
ts_preprocess common_preprocess(int choice, const ts_tokenizer *t);

/* Where pictures are resized: NULL, in the threads that read them, if the models run on the CPU; else on the device. */
ts_device *common_resizer(ts_device *d);

/* The device that the common options ask for. */
ts_status common_device(ts_device **d, const common_options *c);

/* Any text as a JSON string: bytes that are not UTF-8, as file names may hold, become question marks. New reference. */
json_t *common_text(const char *text);

/* "tessera: WHAT WENT WRONG" on stderr unless st is TS_OK; returns the exit code for st. */
int report(ts_status st);

#endif
