/* tessera.h - the library: load a tokenizer and a generator, turn pictures into tokens and back, sample pictures.
 *
 *     ts_device *d;  ts_tokenizer *t;  ts_generator *g;
 *     if (ts_device_open(&d, "auto", 0, TS_MATH_F32) != TS_OK) fail(ts_error());
 *     if (ts_tokenizer_load(&t, d, "tokenizer.safetensors") != TS_OK) fail(ts_error());
 *     if (ts_generator_load(&g, d, "generator.safetensors") != TS_OK) fail(ts_error());
 *     ts_sampling how = TS_SAMPLING_DEFAULTS;
 *     int32_t label = 3;
 *     float *picture = malloc(sizeof(float) * side * side * 3);   // side = ts_tokenizer_image_size(t)
 *     if (ts_generator_sample(g, t, &label, 1, &how, NULL, picture) != TS_OK) fail(ts_error());
 *     ts_generator_free(g);  ts_tokenizer_free(t);  ts_device_close(d);
 *
 * Pictures are float32 in [-1, 1], (B, side, side, 3), rows top to bottom, RGB. Tokens are int32, (B, T): scale after scale, row by
 * row. The library never prints and never exits; a failure returns a status, and ts_error() is its line of text. A device and what
 * was loaded on it are used by one thread at a time; free the models before the device.
 */
#ifndef TS_TESSERA_H
#define TS_TESSERA_H

#include "tessera/types.h"

#if defined(__GNUC__)
#define TS_API __attribute__((visibility("default")))
#else
#define TS_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ts_device ts_device;
typedef struct ts_tokenizer ts_tokenizer;
typedef struct ts_generator ts_generator;

TS_API const char *ts_version(void); /* "0.1.0" */

/* spec: "auto", "cpu", "cuda" or "cuda:N". threads: CPU threads, 0 for all. TS_E_ARG for an unknown name, TS_E_DEVICE if the device
 * is not there. */
TS_API ts_status ts_device_open(ts_device **d, const char *spec, int threads, ts_math math);
TS_API void ts_device_close(ts_device *d); /* NULL is fine */

/* The devices of this machine in turn, from i = 0: the spec that opens one, and a line about it, without tabs. 0 after the last. */
TS_API int ts_device_at(int i, char spec[32], char about[TS_ABOUT]);

/* A model file (safetensors with its configuration). TS_E_NOINPUT if it is not there, TS_E_DATA if it does not fit. */
TS_API ts_status ts_tokenizer_load(ts_tokenizer **t, ts_device *d, const char *path);
TS_API void ts_tokenizer_free(ts_tokenizer *t); /* NULL is fine */
TS_API int ts_tokenizer_image_size(const ts_tokenizer *t);
TS_API int ts_tokenizer_tokens(const ts_tokenizer *t); /* T, tokens of one picture     */
TS_API int ts_tokenizer_codes(const ts_tokenizer *t);  /* V, a token is 0..V-1         */

/* images (B,side,side,3) -> tokens (B,T), and back. Arrays are the caller's. TS_E_DATA for a token outside 0..V-1. */
TS_API ts_status ts_tokenizer_encode(ts_tokenizer *t, const float *images, int64_t B, int32_t *tokens);
TS_API ts_status ts_tokenizer_decode(ts_tokenizer *t, const int32_t *tokens, int64_t B, float *images);

TS_API ts_status ts_generator_load(ts_generator **g, ts_device *d, const char *path);
TS_API void ts_generator_free(ts_generator *g); /* NULL is fine */
TS_API int ts_generator_classes(const ts_generator *g);
TS_API const char *ts_generator_class_name(const ts_generator *g, int i); /* "" if the file names none */

typedef struct {
    uint64_t seed, image0; /* number of the first picture: the same (seed, number) is the same picture in any batch */
    double cfg;            /* guidance at the last scale, 0..100; 0: none                                            */
    double temperature;    /* over 0                                                                                 */
    double top_p;          /* over 0, at most 1; 1: all                                                              */
    int top_k;             /* 0: all, 1: greedy                                                                      */
    int smooth;            /* a mean of codebook rows instead of the drawn one: only for vq with a joint head        */
} ts_sampling;

#define TS_SAMPLING_DEFAULTS { 0, 0, 1.5, 1, 1, 0, 0 }

/* B pictures of the classes labels[B], each 0..classes-1: tokens (B,T) and images (B,side,side,3); either may be NULL.
 * Smooth: the tokens are those drawn, the pictures are not made of them alone.
 * TS_E_ARG for settings or labels out of range, TS_E_DATA if the two models do not belong together. */
TS_API ts_status ts_generator_sample(ts_generator *g, ts_tokenizer *t, const int32_t *labels, int64_t B, const ts_sampling *how,
                                     int32_t *tokens, float *images);

/* status.h */
TS_API int ts_exit_code(ts_status st);
TS_API const char *ts_error(void);

#ifdef __cplusplus
}
#endif
#endif
