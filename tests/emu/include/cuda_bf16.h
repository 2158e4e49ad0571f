/* cuda_bf16.h - the emulated CUDA device: a stand-in for NVIDIA's header, as far as kernels/cuda uses it. */
#ifndef TS_EMU_CUDA_BF16_H
#define TS_EMU_CUDA_BF16_H

struct __nv_bfloat16 {
    unsigned short bits;
};

#endif
