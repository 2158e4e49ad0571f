/* mma.h - the emulated CUDA device: a stand-in for NVIDIA's header, as far as kernels/cuda uses it: products of 16x16
 * by 16x16 bfloat16 numbers. A lane has eight numbers of a fragment, those that the instruction below (mma, m16n8k16)
 * gives it, so that bank conflicts are those of a device; kernels may not know. All lanes of a warp must come together
 * at a call, which orders no memory. */
#ifndef TS_EMU_MMA_H
#define TS_EMU_MMA_H

#include "cuda_bf16.h"
#include "cuda_runtime.h"

namespace nvcuda
{
namespace wmma
{

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment {
    static_assert(M == 16 && N == 16 && K == 16, "fragments have 16 rows and columns");
    enum { num_elements = 8 };
    T x[num_elements];
};

/* Number i of this lane lies at p[emu_at(i)]: for the right operand rows and columns change places. */
inline unsigned emu_at(int i, unsigned stride, bool rows)
{
    unsigned row, column;
    emu::matrix_place((int)threadIdx.x % 32, i, &row, &column);
    return rows ? row * stride + column : column * stride + row;
}

template <class Use, class T, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout> &f, const T *p, unsigned stride, EMU_SITE)
{
    emu::check_matrix(p, stride * sizeof(T), file, line);
    const bool rows = std::is_same<Layout, row_major>::value, right = std::is_same<Use, matrix_b>::value;
    for (int i = 0; i < 8; i++) f.x[i] = p[emu_at(i, stride, rows != right)];
}

inline void load_matrix_sync(fragment<accumulator, 16, 16, 16, float> &f, const float *p, unsigned stride,
                             layout_t layout, EMU_SITE)
{
    emu::check_matrix(p, stride * sizeof(float), file, line);
    for (int i = 0; i < 8; i++) f.x[i] = p[emu_at(i, stride, layout == mem_row_major)];
}

inline void store_matrix_sync(float *p, const fragment<accumulator, 16, 16, 16, float> &f, unsigned stride,
                              layout_t layout, EMU_SITE)
{
    emu::check_matrix(p, stride * sizeof(float), file, line);
    for (int i = 0; i < 8; i++) p[emu_at(i, stride, layout == mem_row_major)] = f.x[i];
}

template <class Use, class T, class Layout> void fill_fragment(fragment<Use, 16, 16, 16, T, Layout> &f, T value)
{
    for (T &x : f.x) x = value;
}

template <class A, class B>
void mma_sync(fragment<accumulator, 16, 16, 16, float> &d, const fragment<matrix_a, 16, 16, 16, __nv_bfloat16, A> &a,
              const fragment<matrix_b, 16, 16, 16, __nv_bfloat16, B> &b,
              const fragment<accumulator, 16, 16, 16, float> &c, EMU_SITE)
{
    emu::matrix_lane lane = { { 0 }, { 0 }, { 0 } };
    for (int i = 0; i < 8; i++) lane.a[i] = a.x[i].bits, lane.b[i] = b.x[i].bits, lane.c[i] = c.x[i];
    emu::warp(emu::MATRIX, 0xffffffffu, (uint64_t)(uintptr_t)&lane, 0, file, line);
    for (int i = 0; i < 8; i++) d.x[i] = lane.c[i];
}

} // namespace wmma
} // namespace nvcuda

#endif
