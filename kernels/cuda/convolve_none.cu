/* convolve_none.cu - a build without cuDNN: every convolution is a product. Contract: convolve.h. */
#include "kernels/cuda/convolve.h"

size_t ts_convolve_scratch(ts_stream *, const ts_conv2d *, int)
{
    return 0;
}

ts_status ts_convolve_fwd(ts_stream *, bool *done, float *, const void *, const float *, const float *,
                          const ts_conv2d *, void *)
{
    *done = false;
    return TS_OK;
}

ts_status ts_convolve_dx(ts_stream *, bool *done, float *, const float *, const float *, const ts_conv2d *, void *)
{
    *done = false;
    return TS_OK;
}

ts_status ts_convolve_dw(ts_stream *, bool *done, float *, const float *, const float *, const ts_conv2d *, void *)
{
    *done = false;
    return TS_OK;
}

void ts_convolve_close(ts_stream *) {}
