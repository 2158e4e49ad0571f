/* simd.h - one vector of floats for kernels that need registers or a fixed order of summation.
 *
 * A loop under `#pragma omp simd reduction(+)` may be summed in an order that depends on the address of its data; sums
 * on which "the same whatever the batch size" rests are written with these functions instead. VF is the number of
 * lanes.
 */
#ifndef TS_CPU_SIMD_H
#define TS_CPU_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined __AVX512F__
#include <immintrin.h>
typedef __m512 vf;
enum { VF = 16 };
static inline vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline vf vf_max(vf a, vf b) /* b if either is NaN */
{
    return _mm512_max_ps(a, b);
}
static inline float vf_sum(vf v)
{
    return _mm512_reduce_add_ps(v);
}
static inline float vf_top(vf v)
{
    return _mm512_reduce_max_ps(v);
}
#elif defined __AVX2__ && defined __FMA__
#include <immintrin.h>
typedef __m256 vf;
enum { VF = 8 };
static inline vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
static inline vf vf_max(vf a, vf b) /* b if either is NaN */
{
    return _mm256_max_ps(a, b);
}
static inline float vf_sum(vf v)
{
    const __m128 four = _mm256_castps256_ps128(v) + _mm256_extractf128_ps(v, 1);
    const __m128 two = four + _mm_movehl_ps(four, four);
    return two[0] + two[1];
}
static inline float vf_top(vf v)
{
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return two[0] > two[1] ? two[0] : two[1];
}
#else
typedef float vf __attribute__((vector_size(16)));
enum { VF = 4 };
static inline vf vf_fma(vf a, vf b, vf c)
{
    for (int i = 0; i < VF; i++) c[i] = fmaf(a[i], b[i], c[i]);
    return c;
}
static inline vf vf_max(vf a, vf b) /* b if either is NaN */
{
    for (int i = 0; i < VF; i++) b[i] = a[i] > b[i] ? a[i] : b[i];
    return b;
}
static inline float vf_sum(vf v)
{
    return (v[0] + v[2]) + (v[1] + v[3]);
}
static inline float vf_top(vf v)
{
    const float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
}
#endif

static inline vf vf_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void vf_store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

static inline vf vf_all(float x)
{
    return x - (vf){ 0 };
}

/* The first n < VF lanes from p, the others x. */
static inline vf vf_load_some(const float *p, int64_t n, float x)
{
#if defined __AVX512F__
    return _mm512_mask_loadu_ps(_mm512_set1_ps(x), (__mmask16)((1u << n) - 1), p);
#else
    float lane[VF];
    for (int i = 0; i < VF; i++) lane[i] = i < n ? p[i] : x;
    return vf_load(lane);
#endif
}

/* sum of x[i] y[i] */
static inline float vf_dot(const float *x, const float *y, int64_t n)
{
    vf a = { 0 }, b = { 0 };
    int64_t i = 0;
    for (; i + 2 * VF <= n; i += 2 * VF) {
        a = vf_fma(vf_load(x + i), vf_load(y + i), a);
        b = vf_fma(vf_load(x + i + VF), vf_load(y + i + VF), b);
    }
    for (; i + VF <= n; i += VF) a = vf_fma(vf_load(x + i), vf_load(y + i), a);
    if (i < n) b = vf_fma(vf_load_some(x + i, n - i, 0), vf_load_some(y + i, n - i, 0), b);
    return vf_sum(a + b);
}

#endif
