/* group_norm_bwd.cu - GroupNorm with SiLU on CUDA: backward. Contract: tessera/op_group_norm.h. What it moves:
 * group_norm.cu. Sums over positions go by channels, slice by slice; groups make averages of them. */
#include "kernels/cuda/group_norm.cuh"

/* Gradient at u, from that at y = silu(u). */
static __device__ inline float before_silu(float dy, float u)
{
    const float sig = ts_sigmoidf(u);
    return dy * fmaf(sig * u, 1.0f - sig, sig);
}

/* The sum over the threads of each channel, which the first row of threads gets. part: BLOCK values in shared memory.
 */
static __device__ inline double sum_rows_of(double v, const cover &c, double *part)
{
    part[in_team()] = v;
    __syncthreads();
    double sum = 0;
    for (int row = 0; row < c.rows && c.row == 0; row++) sum += part[row * c.width + in_team()];
    __syncthreads();
    return sum;
}

struct gradient_in {
    const float *dy, *x, *mean, *rstd, *gamma, *beta;
};

/* What a thread needs of its channel. */
struct channel {
    float mean, rstd, weight, shift;
};

static __device__ inline channel channel_of(const gradient_in &in, const cover &v, const part_of_image &w,
                                            const ts_group_norm &n)
{
    const int64_t bg = w.b * n.G + v.channel / w.wide;
    return channel{ in.mean[bg], in.rstd[bg], in.gamma[v.channel], in.beta[v.channel] };
}

/* Gradient at u of a value, and the normalised value. */
static __device__ inline float gradient_of(float *norm, float dy, float x, const channel &c, int silu)
{
    *norm = (x - c.mean) * c.rstd;
    return silu ? before_silu(dy, fmaf(*norm, c.weight, c.shift)) : dy;
}

/* What apply_gradient finds again: normalised values and, so many numbers behind them, gradients at u. */
struct slabs {
    slab norm;
    int behind;
};

static __device__ inline slabs no_slabs()
{
    return slabs{ { nullptr, 0, 0 }, 0 };
}

/* What a thread keeps of a part: normalised values and gradients at u of its first KEEP positions. */
template <int KEEP> struct held_numbers {
    float norm[KEEP ? KEEP : 1], du[KEEP ? KEEP : 1];
};

/* The thread's next AHEAD positions: normalised values, gradients at u, their sums; nothing behind the end. */
static __device__ inline void gradients_ahead(float *norm, float *du, double *du_sum, double *dun_sum, const gradient_in &in, int p,
                                              const channel &c, const cover &v, const part_of_image &w, const ts_group_norm &n)
{
    float dy[AHEAD], x[AHEAD];
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        const int q = p + k * v.rows;
        const int64_t i = w.at + q * n.C + v.channel;
        dy[k] = q < end_of_rows(v, w) ? in.dy[i] : 0.0f;
        x[k] = q < end_of_rows(v, w) ? in.x[i] : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        du[k] = gradient_of(&norm[k], dy[k], x[k], c, n.silu);
        if (p + k * v.rows >= end_of_rows(v, w)) continue;
        *du_sum += du[k];
        *dun_sum += (double)du[k] * norm[k];
    }
}

/* Sums of du and of du*n over the part's positions: sums[c] and sums[C + c]. */
template <int KEEP>
static __device__ inline void add_up_channels(held_numbers<KEEP> *held, double *sums, const gradient_in &in, const part_of_image &w,
                                              const ts_group_norm &n, double *part, const slabs &keep)
{
    EACH_STRIP(strip, w)
    {
        const cover v = cover_of(w, strip);
        const channel c = channel_of(in, v, w, n);
        double du_sum = 0, dun_sum = 0;
#pragma unroll
        for (int k = 0; k < KEEP; k += AHEAD)
            gradients_ahead(held->norm + k, held->du + k, &du_sum, &dun_sum, in, w.p0 + v.row + k * v.rows, c, v, w, n);
        EACH_ROW(p, v, w, KEEP, AHEAD)
        {
            float norm[AHEAD], du[AHEAD];
            gradients_ahead(norm, du, &du_sum, &dun_sum, in, p, c, v, w, n);
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                const int q = p + k * v.rows;
                if (!keep.norm.has(q) || q >= w.p1) continue;
                float *const to = &keep.norm(q, v.channel, w);
                to[0] = norm[k];
                to[keep.behind] = du[k];
            }
        }
        du_sum = sum_rows_of(du_sum, v, part);
        dun_sum = sum_rows_of(dun_sum, v, part);
        if (v.row == 0 && w.slice < w.slices) {
            sums[v.channel] = du_sum;
            sums[n.C + v.channel] = dun_sum;
        }
    }
}

/* Averages of dn = du*gamma and of dn n over each group, from sums over all positions. */
static __device__ inline void average_groups(float (*average)[2], const double *sums, const gradient_in &in,
                                             const part_of_image &w, const ts_group_norm &n)
{
    const int group = (int)threadIdx.x / WARP;
    if (group < w.groups) {
        const double count = (double)n.P * w.wide;
        double dn = 0, dnn = 0;
        for (int i = (int)threadIdx.x % WARP; i < w.wide; i += WARP) {
            const int c = w.c0 + group * w.wide + i;
            dn += sums[c] * in.gamma[c];
            dnn += sums[n.C + c] * in.gamma[c];
        }
        dn = warp_sum(dn);
        dnn = warp_sum(dnn);
        if (threadIdx.x % WARP == 0) {
            average[group][0] = (float)(dn / count);
            average[group][1] = (float)(dnn / count);
        }
    }
    __syncthreads();
}

/* dx = rstd (dn - avg(dn) - n avg(dn n)) */
static __device__ inline float input_gradient(float norm, float du, const channel &c, const float *avg)
{
    return c.rstd * fmaf(-norm, avg[1], fmaf(du, c.weight, -avg[0]));
}

template <int KEEP>
static __device__ inline void apply_gradient(float *dx, const held_numbers<KEEP> *held, const gradient_in &in, const part_of_image &w,
                                             const ts_group_norm &n, const float (*average)[2], const slabs &kept)
{
    EACH_STRIP(strip, w)
    {
        const cover v = cover_of(w, strip);
        const channel c = channel_of(in, v, w, n);
        const float *avg = average[(v.channel - w.c0) / w.wide];
#pragma unroll
        for (int k = 0; k < KEEP; k++) {
            const int p = w.p0 + v.row + k * v.rows;
            if (p < end_of_rows(v, w)) dx[w.at + p * n.C + v.channel] = input_gradient(held->norm[k], held->du[k], c, avg);
        }
        EACH_ROW(p, v, w, KEEP, 1)
        {
            const int64_t i = w.at + p * n.C + v.channel;
            float norm, du;
            if (kept.norm.has(p)) {
                const float *const from = &kept.norm(p, v.channel, w);
                norm = from[0];
                du = from[kept.behind];
            } else {
                du = gradient_of(&norm, in.dy[i], in.x[i], c, n.silu);
            }
            dx[i] = input_gradient(norm, du, c, avg);
        }
    }
}

/* sums (B,2,C): sums over the positions of an image of du and du*n. */
static __global__ void group_norm_bwd_k1(float *dx, double *sums, gradient_in in, ts_group_norm n, layout l)
{
    __shared__ double part[BLOCK];
    __shared__ float average[MOST_GROUPS][2];
    const part_of_image w = my_part(n, l);
    double *image = sums + w.b * 2 * n.C;
    add_up_channels<0>(nullptr, image, in, w, n, part, no_slabs());
    __syncthreads();
    average_groups(average, image, in, w, n);
    apply_gradient<0>(dx, nullptr, in, w, n, average, no_slabs());
}

/* Sum i of (B,2,C) over the slices. */
static __device__ inline double add_slices(const double *slices, int64_t i, int64_t count, int64_t C)
{
    const double *from = slices + i / (2 * C) * count * 2 * C + i % (2 * C);
    double sum = 0;
    for (int64_t m = 0; m < count; m++) sum += from[m * 2 * C];
    return sum;
}

/* All rounds of a block. slices (B,slices,2,C): the same of each slice. parts: rooms for so many teams, before what is
 * kept in shared memory. */
template <int TEAMS, int KEEP>
static __device__ inline void backward_rounds(double *parts, float (*average)[2], float *dx, double *sums, double *slices,
                                              const gradient_in &in, const ts_group_norm &n, const layout &l, const deal &d)
{
    const int width = l.groups * l.wide;
    float *const kept = (float *)(parts + TEAMS * BLOCK);
    double *const part = parts + my_team() * BLOCK;
    EACH_ROUND(i, d)
    {
        const share mine = my_share(d, i);
        const part_of_image all = part_of(n, l, i, 0);
        const slabs keep = { { kept, (mine.first + d.ahead) * SLICE, d.held }, d.held * width };
        double *const image = slices + (int64_t)all.b * l.slices * 2 * n.C;
        held_numbers<KEEP> held;
        if (KEEP && mine.first < mine.end) {
            const part_of_image w = team_part(n, l, i, mine.first, mine);
            add_up_channels<KEEP>(&held, image + (int64_t)w.slice * 2 * n.C, in, w, n, part, no_slabs());
        }
        for (int first = mine.first + d.ahead; first < mine.end; first += d.teams) {
            const part_of_image w = team_part(n, l, i, first, mine);
            add_up_channels<0>(nullptr, image + (int64_t)w.slice * 2 * n.C, in, w, n, part, keep);
        }
        meet(d);
        for (int c = (int)threadIdx.x; mine.first == 0 && mine.end > 0 && c < 2 * width; c += (int)blockDim.x) {
            const int64_t k = (all.b * 2 + c / width) * n.C + all.c0 + c % width;
            sums[k] = add_slices(slices, k, all.slices, n.C);
        }
        meet(d);
        if (i < d.bundles) average_groups(average, sums + all.b * 2 * n.C, in, all, n);
        if (KEEP && mine.first < mine.end)
            apply_gradient<KEEP>(dx, &held, in, team_part(n, l, i, mine.first, mine), n, average, no_slabs());
        for (int first = mine.first + d.ahead; first < mine.end; first += d.teams)
            apply_gradient<0>(dx, nullptr, in, team_part(n, l, i, first, mine), n, average, keep);
    }
}

static __global__ void __launch_bounds__(MOST_TEAMS *BLOCK)
    group_norm_bwd_slab_k1(float *dx, double *sums, double *slices, gradient_in in, ts_group_norm n, layout l, deal d)
{
    TS_SHARED(shared);
    __shared__ float average[MOST_GROUPS][2];
    backward_rounds<MOST_TEAMS, 0>((double *)shared, average, dx, sums, slices, in, n, l, d);
}

static __global__ void __launch_bounds__(KEPT_TEAMS *BLOCK)
    group_norm_bwd_kept_k1(float *dx, double *sums, double *slices, gradient_in in, ts_group_norm n, layout l, deal d)
{
    TS_SHARED(shared);
    __shared__ float average[MOST_GROUPS][2];
    backward_rounds<KEPT_TEAMS, KEPT_BWD>((double *)shared, average, dx, sums, slices, in, n, l, d);
}

static __global__ void group_norm_params_k1(float *dgamma, float *dbeta, const double *sums, int64_t B, int64_t C)
{
    TS_EACH(c, C)
    {
        double du = 0, dun = 0;
        for (int64_t b = 0; b < B; b++) {
            du += sums[b * 2 * C + c];
            dun += sums[b * 2 * C + C + c];
        }
        dbeta[c] += (float)du;
        dgamma[c] += (float)dun;
    }
}

size_t group_norm_scratch_cuda(ts_stream *s, const ts_group_norm *n)
{
    (void)s;
    const int64_t slices = slices_of(n);
    return (size_t)(n->B * 2 * n->C * (slices > 1 ? 1 + slices : 1)) * sizeof(double);
}

ts_status group_norm_bwd_cuda(ts_stream *s, float *dx, float *dgamma, float *dbeta, const float *dy, const float *x,
                              const float *mean, const float *rstd, const float *gamma, const float *beta,
                              const ts_group_norm *n, void *scratch)
{
    if (n->B == 0) return TS_OK;
    TS_TRY(few_positions(n));
    const layout l = layout_of(n);
    const int64_t all = n->B * 2 * n->C;
    const gradient_in in = { dy, x, mean, rstd, gamma, beta };
    double *sums = (double *)scratch, *of_slices = sums + all;
    if (l.slices == 1) {
        TS_TRY(TS_LAUNCH(group_norm_bwd_k1, blocks_of(n), BLOCK, 0, s, dx, sums, in, *n, l));
    } else {
        const keeping k = { (const void *)group_norm_bwd_slab_k1, (const void *)group_norm_bwd_kept_k1, BLOCK * sizeof(double), 2, 5,
                            KEPT_BWD };
        deal d;
        TS_TRY(deal_out(&d, s, n, k));
        if (d.ahead)
            TS_TRY(TS_LAUNCH_TOGETHER(group_norm_bwd_kept_k1, d.grid, d.teams * BLOCK, d.bytes, s, dx, sums, of_slices, in, *n, l, d));
        else
            TS_TRY(d.shares == 1 ? TS_LAUNCH(group_norm_bwd_slab_k1, d.grid, d.teams * BLOCK, d.bytes, s, dx, sums,
                                             of_slices, in, *n, l, d)
                                 : TS_LAUNCH_TOGETHER(group_norm_bwd_slab_k1, d.grid, d.teams * BLOCK, d.bytes, s, dx, sums,
                                                      of_slices, in, *n, l, d));
    }
    return TS_LAUNCH(group_norm_params_k1, ts_blocks(n->C), BLOCK, 0, s, dgamma, dbeta, sums, n->B, n->C);
}
