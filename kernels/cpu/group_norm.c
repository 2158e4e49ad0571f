/* group_norm.c - GroupNorm with SiLU on the CPU. Contract: tessera/op_group_norm.h.
 *
 * A job is one image and a strip of whole groups, up to 80 channels wide. It reads its part of x twice: for the
 * statistics and for the result. At the sizes of a training step the second time finds it in the cache, so the traffic
 * is x once and y once (backward: x and dy once, dx once). Jobs share nothing and sum in a fixed order.
 */
#include "tessera/op_group_norm.h"

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/stream.h"
#include "tessera/exact.h"

enum {
    WIDTH = 80, /* channels summed side by side: half of the published model's 160, five vectors of 16 */
    ROWS = 256  /* positions that are summed in float32 before the sums are folded in double         */
};

/* Some channels of a strip over some positions: element (p, c) at x[p*stride + c]. */
typedef struct {
    int64_t rows, stride, width;
} tile;

/* Running count, mean and sum of squared deviations. */
typedef struct {
    double n, mean, m2;
} moments;

static void merge(moments *a, double n, double mean, double m2)
{
    const double delta = mean - a->mean, total = a->n + n;
    a->mean += delta * (n / total);
    a->m2 += m2 + delta * delta * (a->n * n / total);
    a->n = total;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- how groups are dealt out ---- */

typedef struct {
    int64_t wide;   /* channels of a group         */
    int64_t groups; /* groups of a strip           */
    int64_t strips;
} split;

static split split_of(const ts_group_norm *n)
{
    split s = { .wide = n->C / n->G };
    const int64_t fit = s.wide < WIDTH ? WIDTH / s.wide : 1;
    s.strips = (n->G + fit - 1) / fit;
    s.groups = (n->G + s.strips - 1) / s.strips;
    s.strips = (n->G + s.groups - 1) / s.groups;
    return s;
}

/* ---- forward ---- */

static void column_sums(float *sum, const float *x, tile t)
{
    for (int64_t c = 0; c < t.width; c++) sum[c] = 0;
    for (int64_t p = 0; p < t.rows; p++)
#pragma omp simd
        for (int64_t c = 0; c < t.width; c++) sum[c] += x[p * t.stride + c];
}

static void column_sums_about(float *sum, float *square, const float *x, const float *pivot, tile t)
{
    for (int64_t c = 0; c < t.width; c++) sum[c] = square[c] = 0;
    for (int64_t p = 0; p < t.rows; p++)
#pragma omp simd
        for (int64_t c = 0; c < t.width; c++) {
            const float d = x[p * t.stride + c] - pivot[c];
            sum[c] += d;
            square[c] = fmaf(d, d, square[c]);
        }
}

/* Merge a tile, whose groups are `wide` channels each, into m[]. Deviations are taken from the tile's own mean, so that
 * neither a large mean nor the float32 sums cost digits. */
static void add_tile(moments *m, const float *x, tile t, int64_t wide)
{
    float sum[WIDTH], square[WIDTH], pivot[WIDTH];
    const double n = (double)(t.rows * wide);
    column_sums(sum, x, t);
    for (int64_t c = 0; c < t.width; c += wide) {
        double total = 0;
        for (int64_t i = c; i < c + wide; i++) total += sum[i];
        for (int64_t i = c; i < c + wide; i++) pivot[i] = (float)(total / n);
    }
    column_sums_about(sum, square, x, pivot, t);
    for (int64_t c = 0; c < t.width; c += wide) {
        double d = 0, d2 = 0;
        for (int64_t i = c; i < c + wide; i++) d += sum[i], d2 += square[i];
        merge(m++, n, pivot[c] + d / n, d2 - d * d / n);
    }
}

/* Mean and variance of `groups` groups that begin at x. */
static void statistics(moments *m, const float *x, const ts_group_norm *n, int64_t groups, int64_t wide)
{
    const int64_t channels = groups * wide; /* more than WIDTH only if it is one group */
    for (int64_t g = 0; g < groups; g++) m[g] = (moments){ 0, 0, 0 };
    for (int64_t p = 0; p < n->P; p += ROWS)
        for (int64_t c = 0; c < channels; c += WIDTH) {
            const tile t = { least(ROWS, n->P - p), n->C, least(WIDTH, channels - c) };
            add_tile(m, x + p * n->C + c, t, least(wide, t.width));
        }
}

static void normalise(float *y, const float *x, const float *mean, const float *scale, const float *beta, tile t,
                      int silu)
{
    for (int64_t p = 0; p < t.rows; p++) {
        const int64_t at = p * t.stride;
        if (silu) {
#pragma omp simd
            for (int64_t c = 0; c < t.width; c++) {
                const float u = fmaf(x[at + c] - mean[c], scale[c], beta[c]);
                y[at + c] = u * ts_sigmoidf(u);
            }
        } else {
#pragma omp simd
            for (int64_t c = 0; c < t.width; c++) y[at + c] = fmaf(x[at + c] - mean[c], scale[c], beta[c]);
        }
    }
}

/* The same into bfloat16, by way of a row. */
static void normalise_narrow(uint16_t *y, const float *x, const float *mean, const float *scale, const float *beta, tile t,
                             int silu)
{
    const tile one = { 1, 0, t.width };
    float row[WIDTH];
    for (int64_t p = 0; p < t.rows; p++) {
        normalise(row, x + p * t.stride, mean, scale, beta, one, silu);
#pragma omp simd
        for (int64_t c = 0; c < t.width; c++) y[p * t.stride + c] = bf16_narrow(row[c]);
    }
}

/* One job: groups g0.. of image b. */
static void forward(void *y, float *mean, float *rstd, const float *x, const float *gamma, const float *beta,
                    const ts_group_norm *n, const split *s, int64_t b, int64_t g0)
{
    const int64_t groups = least(s->groups, n->G - g0), c0 = g0 * s->wide, c1 = c0 + groups * s->wide;
    moments m[WIDTH];
    statistics(m, x + b * n->P * n->C + c0, n, groups, s->wide);
    for (int64_t g = 0; g < groups; g++) {
        mean[b * n->G + g0 + g] = (float)m[g].mean;
        rstd[b * n->G + g0 + g] = (float)(1.0 / sqrt(m[g].m2 / m[g].n + n->eps));
    }
    for (int64_t c = c0; c < c1; c += WIDTH) {
        const tile t = { n->P, n->C, least(WIDTH, c1 - c) };
        float centre[WIDTH], scale[WIDTH];
        for (int64_t i = 0; i < t.width; i++) {
            const int64_t g = b * n->G + (c + i) / s->wide;
            centre[i] = mean[g];
            scale[i] = rstd[g] * gamma[c + i];
        }
        const int64_t at = b * n->P * n->C + c;
        if (n->y_dtype == TS_BF16) normalise_narrow((uint16_t *)y + at, x + at, centre, scale, beta + c, t, n->silu);
        else normalise((float *)y + at, x + at, centre, scale, beta + c, t, n->silu);
    }
}

ts_status group_norm_fwd_cpu(ts_stream *s, void *y, float *mean, float *rstd, const float *x, const float *gamma,
                             const float *beta, const ts_group_norm *n)
{
    const split sp = split_of(n);
#pragma omp parallel for collapse(2) num_threads(s->threads)
    for (int64_t b = 0; b < n->B; b++)
        for (int64_t i = 0; i < sp.strips; i++) forward(y, mean, rstd, x, gamma, beta, n, &sp, b, i * sp.groups);
    return TS_OK;
}

/* ---- backward ---- */

/* What the channels of a tile have in common over all positions. */
typedef struct {
    float mean[WIDTH], rstd[WIDTH], gamma[WIDTH], beta[WIDTH];
} channel_data;

static void load(channel_data *k, const float *mean, const float *rstd, const float *gamma, const float *beta,
                 const ts_group_norm *n, int64_t b, int64_t c, int64_t width)
{
    const int64_t wide = n->C / n->G;
    for (int64_t i = 0; i < width; i++) {
        const int64_t g = b * n->G + (c + i) / wide;
        k->mean[i] = mean[g];
        k->rstd[i] = rstd[g];
        k->gamma[i] = gamma[c + i];
        k->beta[i] = beta[c + i];
    }
}

/* Gradient at u, from that at y = silu(u). */
static inline float before_silu(float dy, float u)
{
    const float sig = ts_sigmoidf(u);
    return dy * fmaf(sig * u, 1.0f - sig, sig);
}

/* du_sum[c] = sum of du, dun_sum[c] = sum of du*n over the tile's positions. With silu du itself goes to dx, where
 * input_gradient finds it: the sigmoid is the dear part. */
static void sum_gradients(float *du_sum, float *dun_sum, float *dx, const float *dy, const float *x,
                          const channel_data *k, tile t, int silu)
{
    for (int64_t c = 0; c < t.width; c++) du_sum[c] = dun_sum[c] = 0;
    for (int64_t p = 0; p < t.rows; p++) {
        const int64_t row = p * t.stride;
        if (silu) {
#pragma omp simd
            for (int64_t c = 0; c < t.width; c++) {
                const float norm = (x[row + c] - k->mean[c]) * k->rstd[c];
                const float du = before_silu(dy[row + c], fmaf(norm, k->gamma[c], k->beta[c]));
                dx[row + c] = du;
                du_sum[c] += du;
                dun_sum[c] = fmaf(du, norm, dun_sum[c]);
            }
        } else {
#pragma omp simd
            for (int64_t c = 0; c < t.width; c++) {
                const float norm = (x[row + c] - k->mean[c]) * k->rstd[c];
                du_sum[c] += dy[row + c];
                dun_sum[c] = fmaf(dy[row + c], norm, dun_sum[c]);
            }
        }
    }
}

/* dx = rstd (dn - m1 - n m2), where m1 and m2 are the group's means of dn and dn*n, given per channel. */
static void input_gradient(float *dx, const float *du, const float *x, const channel_data *k, const float *m1,
                           const float *m2, tile t)
{
    for (int64_t p = 0; p < t.rows; p++) {
        const int64_t row = p * t.stride;
#pragma omp simd
        for (int64_t c = 0; c < t.width; c++) {
            const float norm = (x[row + c] - k->mean[c]) * k->rstd[c];
            dx[row + c] = k->rstd[c] * fmaf(-norm, m2[c], fmaf(du[row + c], k->gamma[c], -m1[c]));
        }
    }
}

/* Sums over the positions of image b of du and du*n, for channels c0..c1: into sums (2,C). */
static void sum_image(double *sums, float *dx, const float *dy, const float *x, const channel_data *k,
                      const ts_group_norm *n, int64_t c, int64_t width)
{
    double *du = sums + c, *dun = sums + n->C + c;
    for (int64_t i = 0; i < width; i++) du[i] = dun[i] = 0;
    for (int64_t p = 0; p < n->P; p += ROWS) {
        float du_part[WIDTH], dun_part[WIDTH];
        const tile t = { least(ROWS, n->P - p), n->C, width };
        sum_gradients(du_part, dun_part, dx + p * n->C, dy + p * n->C, x + p * n->C, k, t, n->silu);
        for (int64_t i = 0; i < width; i++) du[i] += du_part[i], dun[i] += dun_part[i];
    }
}

/* Means over a group of dn and dn*n, dn = du*gamma, for each channel of a tile. */
static void group_means(float *m1, float *m2, const double *sums, const float *gamma, const ts_group_norm *n, int64_t c,
                        int64_t width)
{
    const int64_t wide = n->C / n->G;
    int64_t last = -1;
    double dn = 0, dnn = 0;
    for (int64_t i = 0; i < width; i++) {
        const int64_t g = (c + i) / wide;
        if (g != last) {
            dn = dnn = 0;
            for (int64_t j = g * wide; j < (g + 1) * wide; j++) {
                dn += sums[j] * gamma[j];
                dnn += sums[n->C + j] * gamma[j];
            }
            last = g;
        }
        m1[i] = (float)(dn / (double)(n->P * wide));
        m2[i] = (float)(dnn / (double)(n->P * wide));
    }
}

typedef struct {
    const float *dy, *x, *mean, *rstd, *gamma, *beta;
    const ts_group_norm *n;
} inputs;

/* One job: channels c0..c1 of image b, whole groups. sums (2,C) of the image. */
static void backward(float *dx, double *sums, const inputs *in, int64_t b, int64_t c0, int64_t c1)
{
    const ts_group_norm *n = in->n;
    const int64_t image = b * n->P * n->C;
    channel_data k;
    for (int64_t c = c0; c < c1; c += WIDTH) {
        const int64_t width = least(WIDTH, c1 - c);
        load(&k, in->mean, in->rstd, in->gamma, in->beta, n, b, c, width);
        sum_image(sums, dx + image + c, in->dy + image + c, in->x + image + c, &k, n, c, width);
    }
    for (int64_t c = c0; c < c1; c += WIDTH) {
        const tile t = { n->P, n->C, least(WIDTH, c1 - c) };
        float m1[WIDTH], m2[WIDTH];
        load(&k, in->mean, in->rstd, in->gamma, in->beta, n, b, c, t.width);
        group_means(m1, m2, sums, in->gamma, n, c, t.width);
        const float *du = n->silu ? dx : in->dy;
        input_gradient(dx + image + c, du + image + c, in->x + image + c, &k, m1, m2, t);
    }
}

size_t group_norm_scratch_cpu(ts_stream *s, const ts_group_norm *n)
{
    (void)s;
    return (size_t)(n->B * 2 * n->C) * sizeof(double); /* sums of du and du*n of each image */
}

ts_status group_norm_bwd_cpu(ts_stream *s, float *dx, float *dgamma, float *dbeta, const float *dy, const float *x,
                             const float *mean, const float *rstd, const float *gamma, const float *beta,
                             const ts_group_norm *n, void *scratch)
{
    const split sp = split_of(n);
    const inputs in = { dy, x, mean, rstd, gamma, beta, n };
    double *sums = scratch;
#pragma omp parallel for collapse(2) num_threads(s->threads)
    for (int64_t b = 0; b < n->B; b++)
        for (int64_t i = 0; i < sp.strips; i++) {
            const int64_t c0 = i * sp.groups * sp.wide, c1 = least(n->C, c0 + sp.groups * sp.wide);
            backward(dx, sums + b * 2 * n->C, &in, b, c0, c1);
        }
    for (int64_t c = 0; c < n->C; c++) {
        double du = 0, dun = 0;
        for (int64_t b = 0; b < n->B; b++) {
            du += sums[b * 2 * n->C + c];
            dun += sums[b * 2 * n->C + n->C + c];
        }
        dbeta[c] += (float)du;
        dgamma[c] += (float)dun;
    }
    return TS_OK;
}
