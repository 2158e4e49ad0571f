/* device.h - streams and memory of the CUDA backend: the members of ts_backend that are no ops (tessera/backend.h). */
#ifndef TS_CUDA_DEVICE_H
#define TS_CUDA_DEVICE_H

#include "tessera/types.h"

typedef struct ts_capture ts_capture;

#ifdef __cplusplus
extern "C" {
#endif

ts_status about_cuda(int index, char text[TS_ABOUT]);
ts_dtype factor_dtype_cuda(ts_math math);
ts_status stream_new_cuda(ts_stream **s, int index, int threads);
void stream_free_cuda(ts_stream *s);
ts_status stream_sync_cuda(ts_stream *s);
ts_status mem_alloc_cuda(ts_stream *s, void **p, size_t bytes);
void mem_free_cuda(ts_stream *s, void *p);
ts_status upload_cuda(ts_stream *s, void *device, const void *host, size_t bytes);
ts_status download_cuda(ts_stream *s, void *host, const void *device, size_t bytes);
ts_status copy_cuda(ts_stream *s, void *to, const void *from, size_t bytes);
ts_status zero_cuda(ts_stream *s, void *p, size_t bytes);
ts_status mem_constant_cuda(ts_stream *s, const void *p, size_t bytes, int on); /* kept.cu */
ts_status capture_begin_cuda(ts_stream *s);
ts_status capture_end_cuda(ts_stream *s, ts_capture **c);
ts_status capture_launch_cuda(ts_stream *s, ts_capture *c);
void capture_free_cuda(ts_stream *s, ts_capture *c);

#ifdef __cplusplus
}
#endif
#endif
