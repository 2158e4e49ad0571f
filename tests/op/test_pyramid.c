/* test_pyramid.c - the geometry of a pyramid, and the step that adds one scale, against the formula in double. */
#include "tests/op/pyramid_oracle.h"

typedef struct {
    int K, share, D, B;
    int32_t side[TS_MAX_SCALES];
} add_case;

static const add_case CASES[] = {
    { 4, 4, 5, 3, { 1, 2, 4, 8 } }, { 6, 1, 8, 2, { 1, 2, 3, 4, 6, 8 } },
    { 2, 0, 1, 2, { 1, 5 } },       { 3, -1, 5, 2, { 1, 3, 7 } },
    { 1, 1, 3, 1, { 1 } },          { 4, 0, 32, 2, { 1, 2, 5, 16 } },
    { 3, 2, 17, 1, { 2, 3, 9 } },   { 2, 1, 4, 0, { 1, 4 } },
};

static void run(const ts_backend *be, ts_stream *s, const add_case *c)
{
    ts_pyramid p;
    T_OK(ts_pyramid_init(&p, c->side, c->K, c->share, 0.4f));
    const int n = p.h, D = c->D, grid = n * n * D;
    o_phis phi = o_phis_new(be, s, p.S, D, 0.1, 11);
    void *scratch = T_SCRATCH(be->pyramid_scratch(s, &p, D, c->B));
    double *u = t_alloc(sizeof(double) * (size_t)grid), *up = t_alloc(sizeof(double) * (size_t)grid);
    for (int k = 0; k < c->K; k++) {
        const int side = p.py[k], t = side * side * D, next_side = k + 1 < c->K ? p.py[k + 1] : 0;
        const int t_next = next_side * next_side * D;
        float *h_code = t_normals(c->B * t, 1, 20 + (uint64_t)k), *h_f = t_normals(c->B * grid, 1, 40);
        t_buf *code = T_INF(h_code, c->B * t), *f = T_INF(h_f, c->B * grid), *next = T_OUTF(c->B * t_next);
        T_OK(be->pyramid_add(s, f->dev, t_next ? next->dev : NULL, code->dev, &phi.dev, &p, D, k, c->B, scratch));
        t_down(f), t_down(next);
        const o_axis bicubic = o_bicubic(side, n), area = o_area(n, next_side ? next_side : 1);
        double *want = t_alloc(sizeof(double) * (size_t)(c->B * grid + 1)), *x = t_alloc(sizeof(double) * (size_t)t);
        double *want_next = t_alloc(sizeof(double) * (size_t)(c->B * t_next + 1));
        for (int b = 0; b < c->B; b++) {
            for (int i = 0; i < t; i++) x[i] = h_code[b * t + i];
            o_apply(u, x, &bicubic, D);
            if (p.S > 0)
                o_phi(up, u, phi.w[p.phi[k]], phi.b[p.phi[k]], 0.4f, n, D);
            else
                memcpy(up, u, sizeof(double) * (size_t)grid);
            for (int i = 0; i < grid; i++) want[b * grid + i] = h_f[b * grid + i] + up[i];
            if (t_next) o_apply(want_next + b * t_next, want + b * grid, &area, D);
        }
        /* sums of 9*32 products of float32, values up to 5 */
        t_close("f_hat", T_F(f), want, c->B * grid, 2e-6);
        t_close("next", T_F(next), want_next, c->B * t_next, 2e-6);
    }
}

T_TEST(against_oracle)
{
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) run(be, s, &CASES[i]);
}

T_TEST(geometry)
{
    (void)be, (void)s;
    static const int32_t published[] = { 1, 2, 3, 4, 5, 6, 8, 10, 13, 16 };
    static const int32_t phi4[] = { 0, 0, 1, 1, 1, 2, 2, 3, 3, 3 };
    ts_pyramid p;
    T_OK(ts_pyramid_init(&p, published, 10, 4, 0.5f));
    T_EQI(p.T, 680);
    T_EQI(p.start[10], 680);
    T_EQI(p.start[9], 680 - 256);
    T_EQI(p.h, 16);
    for (int k = 0; k < 10; k++) T_EQI(p.phi[k], phi4[k]);
    T_OK(ts_pyramid_init(&p, published, 10, 0, 0.5f));
    T_EQI(p.S, 10);
    for (int k = 0; k < 10; k++) T_EQI(p.phi[k], k);
    T_OK(ts_pyramid_init(&p, published, 3, 2, 0.5f)); /* 0.5 lies between the ticks: the first wins */
    T_EQI(p.phi[1], 0);
    T_EQI(p.phi[2], 1);
    T_OK(ts_pyramid_init(&p, published, 1, 3, 0.5f));
    T_EQI(p.phi[0], 0);
    T_OK(ts_pyramid_init(&p, published, 4, -1, 0.5f));
    T_EQI(p.S, 0);
}

T_TEST(threads)
{
    ts_stream *one;
    ts_pyramid p;
    T_OK(be->stream_new(&one, 0, 1));
    T_OK(ts_pyramid_init(&p, (int32_t[]){ 1, 3, 6 }, 3, 0, 0.5f));
    const int D = 5, B = 7, grid = 36 * D;
    o_phis phi = o_phis_new(be, s, 3, D, 0.1, 3);
    t_buf *code = T_INF(t_normals(B * 9 * D, 1, 1), B * 9 * D), *f[2], *next[2];
    for (int i = 0; i < 2; i++) {
        ts_stream *with = i ? one : s;
        f[i] = T_INF(t_normals(B * grid, 1, 2), B * grid);
        next[i] = T_OUTF(B * grid);
        void *scratch = T_SCRATCH(be->pyramid_scratch(with, &p, D, B));
        T_OK(be->pyramid_add(with, f[i]->dev, next[i]->dev, code->dev, &phi.dev, &p, D, 1, B, scratch));
        T_OK(be->stream_sync(with));
        t_down(f[i]), t_down(next[i]);
    }
    T_TRUE(memcmp(f[0]->host, f[1]->host, f[0]->bytes) == 0);
    T_TRUE(memcmp(next[0]->host, next[1]->host, next[0]->bytes) == 0);
    be->stream_free(one);
}

T_TEST(refusals)
{
    ts_pyramid p;
    int32_t many[TS_MAX_SCALES + 1];
    for (int i = 0; i <= TS_MAX_SCALES; i++) many[i] = i + 1;
    T_STATUS(TS_E_ARG, ts_pyramid_init(&p, many, 0, 4, 0.5f));
    T_STATUS(TS_E_ARG, ts_pyramid_init(&p, many, TS_MAX_SCALES + 1, 4, 0.5f));
    T_STATUS(TS_E_ARG, ts_pyramid_init(&p, (int32_t[]){ 1, 3, 3 }, 3, 4, 0.5f));
    T_STATUS(TS_E_ARG, ts_pyramid_init(&p, (int32_t[]){ 0, 3 }, 2, 4, 0.5f));
    T_STATUS(TS_E_ARG, ts_pyramid_init(&p, (int32_t[]){ 1, 50000 }, 2, 4, 0.5f));
    T_STATUS(TS_E_ARG, ts_pyramid_init(&p, many, 3, -2, 0.5f));
    T_STATUS(TS_E_ARG, ts_pyramid_init(&p, many, 3, TS_MAX_SCALES + 1, 0.5f));
    T_OK(ts_pyramid_init(&p, many, 2, -1, 0.5f));
    T_STATUS(TS_E_ARG, be->pyramid_add(s, NULL, NULL, NULL, NULL, &p, 1, 2, 0, NULL));
    float v = 0;
    T_STATUS(TS_E_ARG, be->pyramid_add(s, &v, &v, &v, NULL, &p, 1, 1, 0, NULL));
}

int main(void)
{
    Suite *u = t_suite("pyramid");
    T_ADD(u, against_oracle);
    T_ADD1(u, geometry);
    T_ADD(u, threads);
    T_ADD(u, refusals);
    return t_run(u);
}
