/* pyramid.cuh - one scale of one image, done by all threads of a block: what residual_fsq and residual_vq share.
 *
 * A function leaves its result to the other threads only after the next barrier, which is the caller's. Grids are
 * (h,w,D); they may lie in shared or in global memory. */
#ifndef TS_CUDA_PYRAMID_CUH
#define TS_CUDA_PYRAMID_CUH

#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/launch.cuh"

enum {
    CHUNKS = 128
}; /* blocks of a backward pass, each with gradients of its own: images are dealt to them in order */

/* for (n over 0..N-1, shared by the block) */
#define TS_BLOCK_EACH(n, N) for (int n = (int)threadIdx.x; n < (N); n += (int)blockDim.x)

static __host__ __device__ inline int grid_floats(const ts_pyramid &p, int D)
{
    return p.h * p.w * D;
}

/* The gradient of all S convolutions: for each (D,3,3,D), then (D). */
static __host__ __device__ inline int phi_floats(const ts_pyramid &p, int D)
{
    return p.S * (9 * D + 1) * D;
}

static __host__ __device__ inline int64_t chunks_of(int64_t B)
{
    return B < CHUNKS ? B : (int64_t)CHUNKS;
}

/* State of a block: in shared memory if it fits beside the taps and what is always there, else in scratch. */
struct state_place {
    size_t shared_bytes; /* dynamic shared memory of the launch */
    int64_t spilled;     /* floats of scratch for each block    */
};

static inline size_t taps_bytes(const ts_pyramid &p)
{
    return (size_t)(p.h + p.w) * sizeof(taps);
}

static inline state_place place_state(const ts_stream *s, const ts_pyramid &p, int64_t floats, int always = 0)
{
    enum { STATIC = 2 << 10 }; /* room for the static arrays of the kernels */
    const size_t least = taps_bytes(p) + (size_t)always * sizeof(float), bytes = (size_t)floats * sizeof(float);
    if (least + bytes + STATIC <= s->most_shared) return state_place{ least + bytes, 0 };
    return state_place{ least, floats };
}

/* Taps of scale k: those of the h rows, then those of the w columns. */
static __device__ inline void make_taps(taps *t, const ts_pyramid &p, int k)
{
    TS_BLOCK_EACH(i, p.h + p.w)
    {
        t[i] = i < p.h ? taps_of(i, p.py[k], p.h) : taps_of(i - p.h, p.px[k], p.w);
    }
}

static __device__ inline bool same_grid(const ts_pyramid &p, int k)
{
    return p.py[k] == p.h && p.px[k] == p.w;
}

/* z (p_k,p_k,D) = area(r) */
static __device__ inline void scale_area(float *z, const float *r, const ts_pyramid &p, int D, int k)
{
    const int columns = p.px[k];
    TS_BLOCK_EACH(n, p.py[k] * columns * D)
    {
        const int cell = n / D, d = n % D;
        z[n] = same_grid(p, k) ? r[n] : area_at(r + d, cell / columns, cell % columns, p.h, p.w, p.py[k], columns, D);
    }
}

/* dr += area^T(dz) */
static __device__ inline void scale_area_adjoint(float *dr, const float *dz, const ts_pyramid &p, int D, int k)
{
    TS_BLOCK_EACH(n, grid_floats(p, D))
    {
        const int cell = n / D, d = n % D;
        dr[n] = same_grid(p, k) ? dr[n] + dz[n]
                                : area_adjoint_at(dr[n], dz + d, cell / p.w, cell % p.w, p.h, p.w, p.py[k], p.px[k], D);
    }
}

/* u = bicubic(code), a copy for the last scale */
static __device__ inline void scale_bicubic(float *u, const float *code, const taps *t, const ts_pyramid &p, int D,
                                            int k)
{
    TS_BLOCK_EACH(n, grid_floats(p, D))
    {
        const int cell = n / D, d = n % D;
        u[n] = same_grid(p, k) ? code[n] : bicubic_at(code + d, t[cell / p.w], t[p.h + cell % p.w], p.px[k], D);
    }
}

static __device__ inline float phi_number(const float *u, const phi_weights &w, const ts_pyramid &p, int D, int n)
{
    const int cell = n / D;
    return phi_at(u, w, cell / p.w, cell % p.w, n % D, p, D);
}

/* Number n of phi_k(u). */
static __device__ inline float phi_number(const float *u, const ts_phi &phi, const ts_pyramid &p, int D, int k, int n)
{
    if (p.S == 0) return u[n];
    const int j = p.phi[k];
    return phi_number(u, phi_weights{ phi.w[j], phi.b[j], 9 * D, 1 }, p, D, n);
}

/* Number n of the gradient of u, from that of phi_k(u). */
static __device__ inline float phi_adjoint_number(const float *dup, const ts_phi &phi, const ts_pyramid &p, int D,
                                                  int k, int n)
{
    if (p.S == 0) return dup[n];
    const int cell = n / D, y = cell / p.w, x = cell % p.w, i = n % D;
    const float *w = phi.w[p.phi[k]];
    float acc = 0;
    for (int ky = 0; ky < 3; ky++) {
        for (int kx = 0; kx < 3; kx++) {
            const int to_y = y + 1 - ky, to_x = x + 1 - kx; /* the cell that reads this one at (ky, kx) */
            if (to_y < 0 || to_y >= p.h || to_x < 0 || to_x >= p.w) continue;
            const float *from = dup + (to_y * p.w + to_x) * D;
            for (int o = 0; o < D; o++) acc = fmaf(from[o], w[((o * 3 + ky) * 3 + kx) * D + i], acc);
        }
    }
    return fmaf(p.ratio, acc, (1.0f - p.ratio) * dup[n]);
}

/* dcode (p_k,p_k,D) = the adjoint of phi_k(bicubic(.)) applied to dup. tmp: two grids. Has barriers of its own, one of
 * them first and one last. */
static __device__ inline void scale_up_adjoint(float *dcode, const float *dup, const ts_phi &phi, const taps *t,
                                               const ts_pyramid &p, int D, int k, float *tmp)
{
    const int grid = grid_floats(p, D), columns = p.px[k];
    float *du = same_grid(p, k) ? dcode : tmp, *rows = tmp + grid;
    __syncthreads();
    TS_BLOCK_EACH(n, grid) du[n] = phi_adjoint_number(dup, phi, p, D, k, n);
    __syncthreads();
    if (same_grid(p, k)) return;
    TS_BLOCK_EACH(n, p.py[k] * p.w * D) /* along y */
    {
        const int i = n / (p.w * D), rest = n % (p.w * D);
        float sum = 0;
        for (int y = 0; y < p.h; y++) sum = fmaf(weight_at(t[y], i), du[y * p.w * D + rest], sum);
        rows[n] = sum;
    }
    __syncthreads();
    TS_BLOCK_EACH(n, p.py[k] * columns * D) /* along x */
    {
        const int cell = n / D, i = cell / columns, j = cell % columns;
        float sum = 0;
        for (int x = 0; x < p.w; x++) sum = fmaf(weight_at(t[p.h + x], j), rows[(i * p.w + x) * D + n % D], sum);
        dcode[n] = sum;
    }
    __syncthreads();
}

/* The gradient of phi_k of one image, added to dphi (phi_floats). A thread always owns the same numbers. */
static __device__ inline void phi_gradient(float *dphi, const float *u, const float *dup, const ts_pyramid &p, int D,
                                           int k)
{
    if (p.S == 0) return;
    float *to = dphi + p.phi[k] * (9 * D + 1) * D;
    TS_BLOCK_EACH(n, (9 * D + 1) * D)
    {
        float sum = 0;
        if (n >= 9 * D * D) {
            for (int cell = 0; cell < p.h * p.w; cell++) sum += dup[cell * D + n - 9 * D * D];
        } else {
            const int o = n / (9 * D), ky = n / (3 * D) % 3, kx = n / D % 3, i = n % D;
            for (int y = 0; y < p.h; y++) {
                const int from_y = y + ky - 1;
                if (from_y < 0 || from_y >= p.h) continue;
                for (int x = 0; x < p.w; x++) {
                    const int from_x = x + kx - 1;
                    if (from_x < 0 || from_x >= p.w) continue;
                    sum = fmaf(u[(from_y * p.w + from_x) * D + i], dup[(y * p.w + x) * D + o], sum);
                }
            }
        }
        to[n] += p.ratio * sum;
    }
}

static inline int64_t round_up4(int64_t n)
{
    return (n + 3) / 4 * 4;
}

/* pyramid.cu: dphi += the sum over n gradients (phi_floats each, `stride` floats apart), in ascending order. */
ts_status add_phi_gradients(ts_stream *s, const ts_phi *dphi, const float *part, int64_t n, int64_t stride,
                            const ts_pyramid *p, int D);

/* pyramid.cu: out[i] = (add: +=) the sum over m of part[m*width + i], in ascending order, for i < width. */
ts_status add_up_doubles(ts_stream *s, float *out, const double *part, int64_t n, int width, int add);

#endif
