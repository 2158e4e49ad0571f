/* backend.c - the tables of all backends of this build. Contract: tessera/backend.h. */
#include "tessera/backend.h"

#include <string.h>

#include "kernels/cpu/device.h"
#include "kernels/cuda/device.h"

static const ts_backend CPU = {
    .name = "cpu",
    .about = about_cpu,
    .stream_new = stream_new_cpu,
    .stream_free = stream_free_cpu,
    .stream_sync = stream_sync_cpu,
    .mem_alloc = mem_alloc_cpu,
    .mem_free = mem_free_cpu,
    .upload = upload_cpu,
    .download = download_cpu,
    .copy = copy_cpu,
    .zero = zero_cpu,
    .mem_constant = mem_constant_cpu,
    .linear_scratch = linear_scratch_cpu,
    .linear_fwd = linear_fwd_cpu,
    .linear_bwd = linear_bwd_cpu,
    .conv2d_scratch = conv2d_scratch_cpu,
    .conv2d_fwd = conv2d_fwd_cpu,
    .conv2d_bwd = conv2d_bwd_cpu,
    .group_norm_fwd = group_norm_fwd_cpu,
    .group_norm_bwd = group_norm_bwd_cpu,
    .group_norm_scratch = group_norm_scratch_cpu,
    .act_fwd = act_fwd_cpu,
    .act_bwd = act_bwd_cpu,
    .add = add_cpu,
    .add_rows = add_rows_cpu,
    .sum_rows = sum_rows_cpu,
    .scale_rows = scale_rows_cpu,
    .nearest2x_fwd = nearest2x_fwd_cpu,
    .nearest2x_bwd = nearest2x_bwd_cpu,
    .area_fwd = area_fwd_cpu,
    .area_bwd = area_bwd_cpu,
    .bicubic_fwd = bicubic_fwd_cpu,
    .bicubic_bwd = bicubic_bwd_cpu,
    .ada_norm_fwd = ada_norm_fwd_cpu,
    .ada_norm_bwd = ada_norm_bwd_cpu,
    .attention_scratch = attention_scratch_cpu,
    .attention_fwd = attention_fwd_cpu,
    .attention_bwd = attention_bwd_cpu,
    .attention_cached = attention_cached_cpu,
    .embedding_fwd = embedding_fwd_cpu,
    .embedding_bwd = embedding_bwd_cpu,
    .fsq_fwd = fsq_fwd_cpu,
    .fsq_bwd = fsq_bwd_cpu,
    .fsq_decode = fsq_decode_cpu,
    .pyramid_scratch = pyramid_scratch_cpu,
    .pyramid_add = pyramid_add_cpu,
    .residual_fsq_scratch = residual_fsq_scratch_cpu,
    .residual_fsq_fwd = residual_fsq_fwd_cpu,
    .residual_fsq_bwd = residual_fsq_bwd_cpu,
    .residual_fsq_lookup = residual_fsq_lookup_cpu,
    .residual_vq_scratch = residual_vq_scratch_cpu,
    .residual_vq_fwd = residual_vq_fwd_cpu,
    .residual_vq_bwd = residual_vq_bwd_cpu,
    .codebook_ema_scratch = codebook_ema_scratch_cpu,
    .codebook_ema = codebook_ema_cpu,
    .cross_entropy = cross_entropy_cpu,
    .digit_head_scratch = digit_head_scratch_cpu,
    .digit_head = digit_head_cpu,
    .sample_scratch = sample_scratch_cpu,
    .sample = sample_cpu,
    .sample_digits = sample_digits_cpu,
    .sample_smooth = sample_smooth_cpu,
    .pixel_loss = pixel_loss_cpu,
    .grad_norm = grad_norm_cpu,
    .adamw = adamw_cpu,
};

/* Test builds run the same functions on the emulated device (tests/emu). */
#if TS_CUDA || TS_EMU
static const ts_backend GPU = {
    .name = TS_EMU ? "emu" : "cuda",
    .about = about_cuda,
    .stream_new = stream_new_cuda,
    .stream_free = stream_free_cuda,
    .stream_sync = stream_sync_cuda,
    .mem_alloc = mem_alloc_cuda,
    .mem_free = mem_free_cuda,
    .upload = upload_cuda,
    .download = download_cuda,
    .copy = copy_cuda,
    .zero = zero_cuda,
    .mem_constant = mem_constant_cuda,
    .linear_scratch = linear_scratch_cuda,
    .linear_fwd = linear_fwd_cuda,
    .linear_bwd = linear_bwd_cuda,
    .conv2d_scratch = conv2d_scratch_cuda,
    .conv2d_fwd = conv2d_fwd_cuda,
    .conv2d_bwd = conv2d_bwd_cuda,
    .group_norm_fwd = group_norm_fwd_cuda,
    .group_norm_bwd = group_norm_bwd_cuda,
    .group_norm_scratch = group_norm_scratch_cuda,
    .act_fwd = act_fwd_cuda,
    .act_bwd = act_bwd_cuda,
    .add = add_cuda,
    .add_rows = add_rows_cuda,
    .sum_rows = sum_rows_cuda,
    .scale_rows = scale_rows_cuda,
    .nearest2x_fwd = nearest2x_fwd_cuda,
    .nearest2x_bwd = nearest2x_bwd_cuda,
    .area_fwd = area_fwd_cuda,
    .area_bwd = area_bwd_cuda,
    .bicubic_fwd = bicubic_fwd_cuda,
    .bicubic_bwd = bicubic_bwd_cuda,
    .ada_norm_fwd = ada_norm_fwd_cuda,
    .ada_norm_bwd = ada_norm_bwd_cuda,
    .attention_scratch = attention_scratch_cuda,
    .attention_fwd = attention_fwd_cuda,
    .attention_bwd = attention_bwd_cuda,
    .attention_cached = attention_cached_cuda,
    .embedding_fwd = embedding_fwd_cuda,
    .embedding_bwd = embedding_bwd_cuda,
    .fsq_fwd = fsq_fwd_cuda,
    .fsq_bwd = fsq_bwd_cuda,
    .fsq_decode = fsq_decode_cuda,
    .pyramid_scratch = pyramid_scratch_cuda,
    .pyramid_add = pyramid_add_cuda,
    .residual_fsq_scratch = residual_fsq_scratch_cuda,
    .residual_fsq_fwd = residual_fsq_fwd_cuda,
    .residual_fsq_bwd = residual_fsq_bwd_cuda,
    .residual_fsq_lookup = residual_fsq_lookup_cuda,
    .residual_vq_scratch = residual_vq_scratch_cuda,
    .residual_vq_fwd = residual_vq_fwd_cuda,
    .residual_vq_bwd = residual_vq_bwd_cuda,
    .codebook_ema_scratch = codebook_ema_scratch_cuda,
    .codebook_ema = codebook_ema_cuda,
    .cross_entropy = cross_entropy_cuda,
    .digit_head_scratch = digit_head_scratch_cuda,
    .digit_head = digit_head_cuda,
    .sample_scratch = sample_scratch_cuda,
    .sample = sample_cuda,
    .sample_digits = sample_digits_cuda,
    .sample_smooth = sample_smooth_cuda,
    .pixel_loss = pixel_loss_cuda,
    .grad_norm = grad_norm_cuda,
    .adamw = adamw_cuda,
};
#endif

static const ts_backend *const ALL[] = {
    &CPU,
#if TS_CUDA || TS_EMU
    &GPU,
#endif
    NULL,
};

const ts_backend *ts_backend_at(int i)
{
    return i >= 0 && i < (int)(sizeof ALL / sizeof *ALL) ? ALL[i] : NULL;
}

const ts_backend *ts_backend_get(const char *name)
{
    for (int i = 0; name && ALL[i]; i++)
        if (strcmp(ALL[i]->name, name) == 0) return ALL[i];
    return NULL;
}
