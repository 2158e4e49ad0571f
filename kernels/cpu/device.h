/* device.h - streams and memory of the CPU backend: the members of ts_backend that are no ops (tessera/backend.h), and
 * what the CPU ops know of a stream. */
#ifndef TS_CPU_DEVICE_H
#define TS_CPU_DEVICE_H

#include "tessera/backend.h"

ts_status about_cpu(int index, char text[TS_ABOUT]);
ts_math preferred_math_cpu(void);
ts_dtype factor_dtype_cpu(ts_math math);
ts_status stream_new_cpu(ts_stream **s, int index, int threads);
void stream_free_cpu(ts_stream *s);
ts_status stream_sync_cpu(ts_stream *s);
ts_status mem_alloc_cpu(ts_stream *s, void **p, size_t bytes);
void mem_free_cpu(ts_stream *s, void *p);
ts_status upload_cpu(ts_stream *s, void *device, const void *host, size_t bytes);
ts_status download_cpu(ts_stream *s, void *host, const void *device, size_t bytes);
ts_status copy_cpu(ts_stream *s, void *to, const void *from, size_t bytes);
ts_status zero_cpu(ts_stream *s, void *p, size_t bytes);
ts_status mem_constant_cpu(ts_stream *s, const void *p, size_t bytes, int on);
ts_status mem_stored_cpu(ts_stream *s, const void *p, const ts_stored *w);

#endif
