/* tfevents.h - TensorBoard event files.
 *
 *   record   u64 length, u32 crc(length), the bytes of an Event, u32 crc(bytes); little-endian;
 *            crc is CRC-32C, masked: rotated right by 15, plus 0xa282ead8
 *   Event    protobuf: 1 wall_time f64, 2 step i64, 3 file_version "brain.Event:2" (first record), 5 Summary, 7 SessionLog
 *   Summary  1 Value {1 tag, 2 simple_value f32, 4 Image {1 height, 2 width, 3 colorspace, 4 PNG bytes}}
 * Source    tensorflow/core/util/event.proto, framework/summary.proto, lib/io/record_writer.h.
 */
#ifndef TS_TFEVENTS_H
#define TS_TFEVENTS_H

#include <stddef.h>
#include <stdint.h>

#include "tessera/status.h"

typedef struct ts_tfevents ts_tfevents;

/* Begin RUN/events.out.tfevents.<time>.<host>.<pid>.0. Event files that are there already are cut behind their last record of
 * a step <= `step` (those without one are removed), and a TensorBoard that is watching is told to forget later steps. */
ts_status ts_tfevents_open(ts_tfevents **t, const char *run, int64_t step);

ts_status ts_tfevents_scalars(ts_tfevents *t, int64_t step, int n, const char *const *tags, const double *values);
ts_status ts_tfevents_image(ts_tfevents *t, int64_t step, const char *tag, const void *png, size_t bytes, int width,
                            int height);
ts_status ts_tfevents_sync(ts_tfevents *t);
ts_status ts_tfevents_close(ts_tfevents *t); /* NULL is fine */

#endif
