/* backend.h - a backend is one constant table of the functions that compute and move memory on one kind of device.
 *
 * Backends: "cpu" (oneDNN, OpenMP), "cuda" (cuBLAS, cuDNN, own kernels); in tests "emu", the emulated CUDA device.
 */
#ifndef TS_BACKEND_H
#define TS_BACKEND_H

#include "tessera/op_act.h"
#include "tessera/op_ada_norm.h"
#include "tessera/op_add.h"
#include "tessera/op_attention.h"
#include "tessera/op_codebook_ema.h"
#include "tessera/op_conv2d.h"
#include "tessera/op_cross_entropy.h"
#include "tessera/op_digit_head.h"
#include "tessera/op_embedding.h"
#include "tessera/op_fsq.h"
#include "tessera/op_fsq_project.h"
#include "tessera/op_group_norm.h"
#include "tessera/op_linear.h"
#include "tessera/op_optimizer.h"
#include "tessera/op_pixel_loss.h"
#include "tessera/op_pyramid.h"
#include "tessera/op_resample.h"
#include "tessera/op_residual_fsq.h"
#include "tessera/op_residual_vq.h"
#include "tessera/op_resize.h"
#include "tessera/op_sample.h"
#include "tessera/op_step.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Work that was recorded once and is queued as a whole. */
typedef struct ts_capture ts_capture;

/* A weight as it stands in a model file: O x I x kk numbers, F32 or BF16; a convolution's kernel positions come last. */
typedef struct {
    int64_t O, I, kk;
    ts_dtype dtype;
} ts_stored;

typedef struct {
    const char *name;

    /* Device `index` of this kind in words, without tabs: what it is, its memory or threads, what it can do. TS_E_DEVICE if
     * there is no such device. */
    ts_status (*about)(int index, char text[TS_ABOUT]);
    /* How models that are only used, not trained, multiply on this machine unless told otherwise. NULL: TS_MATH_F32. */
    ts_math (*preferred_math)(void);
    /* In what operands of products may stand in memory where nothing flows back: TS_BF16 if, under this math, norms and activations
     * write it and products read it. NULL: TS_F32. */
    ts_dtype (*factor_dtype)(ts_math math);

    /* Streams. index: which device of this kind, from 0. threads: CPU threads, 0 for all (the CUDA backend ignores it).
     * free accepts NULL. sync waits for all queued work and reports what failed in it. */
    ts_status (*stream_new)(ts_stream **s, int index, int threads);
    void (*stream_free)(ts_stream *s);
    ts_status (*stream_sync)(ts_stream *s);

    /* Device memory, 256-byte aligned, freed on the stream that it was asked for from, and before that stream is. bytes > 0. Content
     * is undefined after alloc. free accepts NULL. */
    ts_status (*mem_alloc)(ts_stream *s, void **p, size_t bytes);
    void (*mem_free)(ts_stream *s, void *p);
    /* Ordered on the stream. upload and download return when the host side may be reused. */
    ts_status (*upload)(ts_stream *s, void *device, const void *host, size_t bytes);
    ts_status (*download)(ts_stream *s, void *host, const void *device, size_t bytes);
    ts_status (*copy)(ts_stream *s, void *to, const void *from, size_t bytes);
    ts_status (*zero)(ts_stream *s, void *p, size_t bytes);
    /* on: the bytes from p will not change until the same p is given with on = 0 (bytes is not read then), so a backend may keep
     * copies of weights in a layout of its own. Declared ranges do not overlap. Recordings may hold such copies: those made before
     * on = 0 are not launched after it. Results are the same, bit for bit, but for conv2d_fwd, which may then sum in another way. */
    ts_status (*mem_constant)(ts_stream *s, const void *p, size_t bytes, int on);
    /* p lies in a file that is mapped read-only, holds a weight as w says, and is constant until mem_constant(p, 0, 0). From now on
     * linear_fwd and conv2d_fwd, and nothing else, take p for their w. NULL: this backend cannot, weights must be uploaded. */
    ts_status (*mem_stored)(ts_stream *s, const void *p, const ts_stored *w);

    /* Recording. What is queued between begin and end does not run; launch queues all of it, at a cost that does not grow with it,
     * with the same pointers and numbers. Allocating, freeing, uploads, downloads and waiting are not allowed in between. end
     * follows every begin that returned TS_OK. begin is NULL where nothing can be recorded (CPU). free accepts NULL. */
    ts_status (*capture_begin)(ts_stream *s);
    ts_status (*capture_end)(ts_stream *s, ts_capture **c);
    ts_status (*capture_launch)(ts_stream *s, ts_capture *c);
    void (*capture_free)(ts_stream *s, ts_capture *c);

    ts_linear_scratch_fn *linear_scratch;
    ts_linear_fwd_fn *linear_fwd;
    ts_linear_bwd_fn *linear_bwd;
    ts_conv2d_scratch_fn *conv2d_scratch;
    ts_conv2d_fwd_fn *conv2d_fwd;
    ts_conv2d_bwd_fn *conv2d_bwd;
    ts_group_norm_fwd_fn *group_norm_fwd;
    ts_group_norm_bwd_fn *group_norm_bwd;
    ts_group_norm_scratch_fn *group_norm_scratch;
    ts_act_fwd_fn *act_fwd;
    ts_act_bwd_fn *act_bwd;
    ts_add_fn *add;
    ts_add_rows_fn *add_rows;
    ts_sum_rows_fn *sum_rows;
    ts_scale_rows_fn *scale_rows;
    ts_resample_fwd_fn *nearest2x_fwd;
    ts_resample_bwd_fn *nearest2x_bwd;
    ts_resample_fwd_fn *area_fwd;
    ts_resample_bwd_fn *area_bwd;
    ts_resample_fwd_fn *bicubic_fwd;
    ts_resample_bwd_fn *bicubic_bwd;
    ts_ada_norm_fwd_fn *ada_norm_fwd;
    ts_ada_norm_bwd_fn *ada_norm_bwd;
    ts_attention_scratch_fn *attention_scratch;
    ts_attention_fwd_fn *attention_fwd;
    ts_attention_bwd_fn *attention_bwd;
    ts_attention_cached_fn *attention_cached;
    ts_embedding_fwd_fn *embedding_fwd;
    ts_embedding_bwd_fn *embedding_bwd;
    ts_fsq_fwd_fn *fsq_fwd;
    ts_fsq_bwd_fn *fsq_bwd;
    ts_fsq_decode_fn *fsq_decode;
    ts_fsq_project_scratch_fn *fsq_project_scratch;
    ts_fsq_project_fwd_fn *fsq_project_fwd;
    ts_fsq_project_bwd_fn *fsq_project_bwd;
    ts_fsq_project_decode_fn *fsq_project_decode;
    ts_pyramid_scratch_fn *pyramid_scratch;
    ts_pyramid_add_fn *pyramid_add;
    ts_residual_fsq_scratch_fn *residual_fsq_scratch;
    ts_residual_fsq_fwd_fn *residual_fsq_fwd;
    ts_residual_fsq_bwd_fn *residual_fsq_bwd;
    ts_residual_fsq_lookup_fn *residual_fsq_lookup;
    ts_residual_vq_scratch_fn *residual_vq_scratch;
    ts_residual_vq_fwd_fn *residual_vq_fwd;
    ts_residual_vq_bwd_fn *residual_vq_bwd;
    ts_codebook_ema_scratch_fn *codebook_ema_scratch;
    ts_codebook_ema_fn *codebook_ema;
    ts_cross_entropy_fn *cross_entropy;
    ts_digit_head_scratch_fn *digit_head_scratch;
    ts_digit_head_fn *digit_head;
    ts_sample_scratch_fn *sample_scratch;
    ts_sample_fn *sample;
    ts_sample_digits_fn *sample_digits;
    ts_sample_smooth_fn *sample_smooth;
    ts_pixel_loss_fn *pixel_loss;
    ts_resize_scratch_fn *resize_scratch;
    ts_resize_fn *resize;
    ts_step_map_fn *step_map;
    ts_step_rows_fn *step_rows;
    ts_grad_norm_fn *grad_norm;
    ts_adamw_fn *adamw;
} ts_backend;

/* The backend called name, or NULL if this build lacks it. The table is constant and lives as long as the program. */
const ts_backend *ts_backend_get(const char *name);

/* Every backend of this build in turn, from i = 0; NULL after the last. */
const ts_backend *ts_backend_at(int i);

#ifdef __cplusplus
}
#endif
#endif
