/* pyramid.cu - one scale added to the sum, on CUDA. Contract: tessera/op_pyramid.h. Twin: kernels/cpu/pyramid.c.
 *
 * Three launches over all numbers of a batch: a batch of few images would leave most of a device idle if an image were
 * one block. */
#include "tessera/op_pyramid.h"

#include "kernels/cuda/pyramid.cuh"

static __global__ void bicubic_up_k1(float *u, const float *code, ts_pyramid p, int D, int k, int64_t all)
{
    const int grid = grid_floats(p, D);
    TS_EACH(n, all)
    {
        const int64_t b = n / grid;
        const int at = (int)(n % grid), cell = at / D, d = at % D;
        const float *image = code + b * p.py[k] * p.px[k] * D;
        if (same_grid(p, k))
            u[n] = image[at];
        else
            u[n] =
                bicubic_at(image + d, taps_of(cell / p.w, p.py[k], p.h), taps_of(cell % p.w, p.px[k], p.w), p.px[k], D);
    }
}

static __global__ void add_phi_k1(float *f_hat, const float *u, ts_phi phi, ts_pyramid p, int D, int k, int64_t all)
{
    const int grid = grid_floats(p, D);
    TS_EACH(n, all) f_hat[n] += phi_number(u + n / grid * grid, phi, p, D, k, (int)(n % grid));
}

static __global__ void next_scale_k1(float *next, const float *f_hat, ts_pyramid p, int D, int k, int64_t all)
{
    const int rows = p.py[k + 1], columns = p.px[k + 1], tokens = rows * columns;
    TS_EACH(n, all)
    {
        const int64_t cell = n / D, b = cell / tokens;
        const int at = (int)(cell % tokens), d = (int)(n % D);
        const float *image = f_hat + b * grid_floats(p, D);
        next[n] = same_grid(p, k + 1) ? image[at * D + d]
                                      : area_at(image + d, at / columns, at % columns, p.h, p.w, rows, columns, D);
    }
}

size_t pyramid_scratch_cuda(ts_stream *s, const ts_pyramid *p, int D, int64_t B)
{
    (void)s;
    return sizeof(float) * (size_t)(B * grid_floats(*p, D));
}

ts_status pyramid_add_cuda(ts_stream *s, float *f_hat, float *next, const float *code, const ts_phi *phi,
                           const ts_pyramid *p, int D, int k, int64_t B, void *scratch)
{
    if (k < 0 || k >= p->K) return ts_fail(TS_E_ARG, "pyramid_add: scale %d, expected 0..%d", k, p->K - 1);
    if (next && k == p->K - 1) return ts_fail(TS_E_ARG, "pyramid_add: the last scale has no next one");
    const int64_t all = B * grid_floats(*p, D);
    if (all == 0) return TS_OK;
    const ts_phi none = {};
    float *u = (float *)scratch;
    TS_TRY(TS_LAUNCH(bicubic_up_k1, ts_blocks(all), BLOCK, 0, s, u, code, *p, D, k, all));
    TS_TRY(TS_LAUNCH(add_phi_k1, ts_blocks(all), BLOCK, 0, s, f_hat, u, p->S > 0 ? *phi : none, *p, D, k, all));
    if (!next) return TS_OK;
    const int64_t after = B * p->py[k + 1] * p->px[k + 1] * D;
    return TS_LAUNCH(next_scale_k1, ts_blocks(after), BLOCK, 0, s, next, f_hat, *p, D, k, after);
}

static __global__ void add_phi_gradients_k1(ts_phi dphi, const float *part, int64_t parts, int64_t stride, ts_pyramid p,
                                            int D)
{
    const int one = (9 * D + 1) * D;
    TS_EACH(n, phi_floats(p, D))
    {
        const int j = (int)(n / one), i = (int)(n % one);
        float sum = 0;
        for (int64_t m = 0; m < parts; m++) sum += part[m * stride + n];
        if (i < 9 * D * D)
            dphi.w[j][i] += sum;
        else
            dphi.b[j][i - 9 * D * D] += sum;
    }
}

ts_status add_phi_gradients(ts_stream *s, const ts_phi *dphi, const float *part, int64_t n, int64_t stride,
                            const ts_pyramid *p, int D)
{
    if (p->S == 0) return TS_OK;
    return TS_LAUNCH(add_phi_gradients_k1, ts_blocks(phi_floats(*p, D)), BLOCK, 0, s, *dphi, part, n, stride, *p, D);
}

static __global__ void add_up_doubles_k1(float *out, const double *part, int64_t n, int width, int add)
{
    TS_EACH(i, width)
    {
        double sum = 0;
        for (int64_t m = 0; m < n; m++) sum += part[m * width + i];
        out[i] = add ? out[i] + (float)sum : (float)sum;
    }
}

ts_status add_up_doubles(ts_stream *s, float *out, const double *part, int64_t n, int width, int add)
{
    return TS_LAUNCH(add_up_doubles_k1, ts_blocks(width), BLOCK, 0, s, out, part, n, width, add);
}
