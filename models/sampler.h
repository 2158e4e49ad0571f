/* sampler.h - sampling: scale after scale, each drawn in one pass, its codes added to f_hat, which is the input of the next.
 *
 * On devices that can record work (ts_backend.capture_begin) a scale is recorded once per kind of batch and then launched as a
 * whole, from the embedding of what came before it to the input of the next, and nothing waits for the device before the tokens
 * are fetched. The first batch of a kind runs op by op, which brings all memory into being; the second is recorded; the
 * following ones are launches alone. A kind is everything that is baked into a recording: the number of pictures, the settings,
 * and the weights' place. What changes with every batch (labels, seed, number of the first picture) is read from device memory.
 * A generator keeps TS_SAMPLERS kinds, with their memory; if memory runs out, none.
 */
#ifndef TS_SAMPLER_H
#define TS_SAMPLER_H

#include "models/generator.h"

/* ts_generator_sample with the pictures after every scale: scales (K,B,side,side,3), of which the last are the result; or NULL. */
ts_status ts_generator_sample_scales(ts_generator *m, ts_tokenizer *t, const int32_t *labels, int64_t B, const ts_sampling *o,
                                     int32_t *tokens, float *images, float *scales);

/* TS_E_ARG if a setting is out of range. */
ts_status ts_sampling_check(const ts_sampling *o);

/* Drop what earlier batches left. */
void sampler_forget(ts_generator *m);

#endif
