/* convolution.cpp - contract: convolution.h. Sums have the order that unrolling and cublas.cpp give them, so that the two ways
 * of kernels/cuda to convolve have the same bits. */
#include "tests/emu/convolution.h"

#include <vector>

#include "tests/emu/emu.h"

namespace
{

using emu::convolution;

float narrowed(uint32_t u)
{
    float x;
    u = (u + 0xfff + (u >> 13 & 1)) & ~0x1fffu;
    memcpy(&x, &u, 4);
    return x;
}

std::vector<float> load(const void *p, int64_t n, const convolution &c)
{
    const size_t size = c.operands == convolution::BF16 ? 2 : 4;
    std::vector<float> x(n);
    emu::check_device(p, n * size, false, "cuDNN");
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = 0;
        memcpy((char *)&u + (4 - size), (const char *)p + i * size, size);
        memcpy(&x[i], &u, 4);
        if (c.operands == convolution::TF32) x[i] = narrowed(u);
    }
    return x;
}

void store(void *p, const std::vector<float> &sum, const convolution &c)
{
    emu::check_device(p, sum.size() * sizeof(float), true, "cuDNN");
    for (size_t i = 0; i < sum.size(); i++) ((float *)p)[i] = c.careless ? 1.01f * sum[i] : sum[i];
}

/* Calls visit(row, tap, pixel) for every output position and tap whose pixel is in the picture: rows outside of taps,
 * or inside. */
template <class F> void visit(const convolution &c, bool taps_first, F &&f)
{
    const int64_t rows = c.B * c.Yo * c.Xo, taps = c.k * c.k;
    for (int64_t i = 0; i < rows * taps; i++) {
        const int64_t row = taps_first ? i % rows : i / taps, tap = ((taps_first ? i / rows : i) + c.turn) % taps;
        const int64_t b = row / c.Xo / c.Yo, y = row / c.Xo % c.Yo * c.stride + tap / c.k - c.pad;
        const int64_t x = row % c.Xo * c.stride + tap % c.k - c.pad;
        if (y >= 0 && y < c.Y && x >= 0 && x < c.X) f(row, tap, (b * c.Y + y) * c.X + x);
    }
}

void forward(const convolution &c, const void *x_, const void *w_, void *y, const void *bias)
{
    const std::vector<float> x = load(x_, c.n_x(), c), w = load(w_, c.n_w(), c);
    std::vector<float> turned(c.n_w()), sum(c.n_y());
    const int64_t width = c.k * c.k * c.C;
    for (int64_t o = 0; o < c.O; o++)
        for (int64_t i = 0; i < width; i++) turned[i * c.O + o] = w[o * width + i];
    visit(c, false, [&](int64_t row, int64_t tap, int64_t pixel) {
        for (int64_t i = 0; i < c.C; i++) {
            const float v = x[pixel * c.C + i], *weights = &turned[(tap * c.C + i) * c.O];
            float *to = &sum[row * c.O];
            for (int64_t o = 0; o < c.O; o++) to[o] += v * weights[o];
        }
    });
    if (bias) emu::check_device(bias, c.O * sizeof(float), false, "cuDNN");
    for (int64_t i = 0; bias && i < c.n_y(); i++) sum[i] += ((const float *)bias)[i % c.O];
    store(y, sum, c);
}

void to_data(const convolution &c, void *dx, const void *w_, const void *dy_)
{
    const std::vector<float> dy = load(dy_, c.n_y(), c), w = load(w_, c.n_w(), c);
    std::vector<float> sum(c.n_x()), column(c.C);
    visit(c, true, [&](int64_t row, int64_t tap, int64_t pixel) {
        column.assign(c.C, 0);
        for (int64_t o = 0; o < c.O; o++) {
            const float g = dy[row * c.O + o], *weights = &w[(o * c.k * c.k + tap) * c.C];
            for (int64_t i = 0; i < c.C; i++) column[i] += g * weights[i];
        }
        for (int64_t i = 0; i < c.C; i++) sum[pixel * c.C + i] += column[i];
    });
    store(dx, sum, c);
}

void to_weights(const convolution &c, const void *x_, void *dw, const void *dy_)
{
    const std::vector<float> dy = load(dy_, c.n_y(), c), x = load(x_, c.n_x(), c);
    std::vector<float> sum(c.n_w());
    visit(c, false, [&](int64_t row, int64_t tap, int64_t pixel) {
        for (int64_t o = 0; o < c.O; o++) {
            const float g = dy[row * c.O + o];
            float *to = &sum[(o * c.k * c.k + tap) * c.C];
            for (int64_t i = 0; i < c.C; i++) to[i] += g * x[pixel * c.C + i];
        }
    });
    store(dw, sum, c);
}

} // namespace

void emu::convolve(const convolution &c, void *x, void *w, void *y, const void *bias)
{
    if (c.pass == convolution::FORWARD) return forward(c, x, w, y, bias);
    return c.pass == convolution::TO_DATA ? to_data(c, x, w, y) : to_weights(c, x, w, y);
}
