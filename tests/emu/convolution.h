/* convolution.h - convolutions of the emulated device as plain loops, for cudnn.cpp. */
#ifndef TS_EMU_CONVOLUTION_H
#define TS_EMU_CONVOLUTION_H

#include <cstddef>
#include <cstdint>

namespace emu
{

struct convolution {
    enum { FORWARD, TO_DATA, TO_WEIGHTS } pass;
    int64_t B, Y, X, C, O, Yo, Xo, k, pad, stride;
    enum { FLOAT, TF32, BF16 } operands; /* TF32: float32, of which what TF32 does not hold is lost */
    int64_t turn;                        /* sums begin with this tap       */
    bool careless;                       /* sums are off by one in a hundred */

    int64_t n_x() const
    {
        return B * Y * X * C;
    }
    int64_t n_y() const
    {
        return B * Yo * Xo * O;
    }
    int64_t n_w() const
    {
        return O * k * k * C;
    }
};

/* Device memory; what the pass computes is written, the other two are read. bias NULL: there is none. */
void convolve(const convolution &c, void *x, void *w, void *y, const void *bias);

} // namespace emu

#endif
