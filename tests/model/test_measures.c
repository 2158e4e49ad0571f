/* test_measures.c - PSNR, SSIM and codebook usage against their formulas, and known values. */
#include "models/metrics.h"
#include "models/usage.h"
#include "tests/t.h"

enum { W = 19, H = 14 };

/* SSIM by the definition: explicit 2-D Gaussian weights, central moments. */
static double oracle_ssim(const uint8_t *a, const uint8_t *b)
{
    double g[11][11], sum = 0, total = 0;
    int windows = 0;
    for (int i = 0; i < 11; i++)
        for (int j = 0; j < 11; j++) sum += g[i][j] = exp(-((i - 5) * (i - 5) + (j - 5) * (j - 5)) / 4.5);
    for (int c = 0; c < 3; c++)
        for (int y = 0; y + 11 <= H; y++)
            for (int x = 0; x + 11 <= W; x++, windows++) {
                double ma = 0, mb = 0, va = 0, vb = 0, cov = 0;
                for (int k = 0; k < 121; k++) {
                    int p = ((y + k / 11) * W + x + k % 11) * 3 + c;
                    ma += g[k / 11][k % 11] / sum * a[p], mb += g[k / 11][k % 11] / sum * b[p];
                }
                for (int k = 0; k < 121; k++) {
                    int p = ((y + k / 11) * W + x + k % 11) * 3 + c;
                    double w = g[k / 11][k % 11] / sum, u = a[p] - ma, v = b[p] - mb;
                    va += w * u * u, vb += w * v * v, cov += w * u * v;
                }
                total += (2 * ma * mb + 6.5025) * (2 * cov + 58.5225) / ((ma * ma + mb * mb + 6.5025) * (va + vb + 58.5225));
            }
    return total / windows;
}

T_TEST(distances)
{
    (void)be, (void)s;
    uint8_t a[W * H * 3], b[W * H * 3];
    uint64_t seed = 5;
    for (int i = 0; i < W * H * 3; i++) {
        a[i] = (uint8_t)(t_next(&seed) % 256);
        int v = a[i] + (int)(t_next(&seed) % 81) - 40;
        b[i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
    }
    double mse = 0;
    for (int i = 0; i < W * H * 3; i++) mse += ((double)a[i] - b[i]) * ((double)a[i] - b[i]) / (W * H * 3);
    T_NEAR(ts_mse(a, b, W * H * 3), mse, 1e-9 * mse);
    T_NEAR(ts_psnr(mse), 20 * log10(255) - 10 * log10(mse), 1e-9);
    T_NEAR(ts_psnr(1), 48.1308036, 1e-6); /* one level everywhere */
    T_TRUE(ts_psnr(0) == 99);
    /* Both in double; means of squares lose about 1e-11 against central moments. */
    T_NEAR(ts_ssim(a, b, W, H), oracle_ssim(a, b), 1e-9);
    T_NEAR(ts_ssim(a, a, W, H), 1, 1e-9);
    T_NEAR(ts_ssim(a, a, 4, 3), 1, 1e-9); /* smaller than the window */
    T_TRUE(ts_ssim(a, b, W, H) < 0.99);
}

T_TEST(usage)
{
    (void)be, (void)s;
    int32_t even[] = { 9, 3, 9, 3, 7, 7, 1, 1 }, skewed[] = { 5, 5, 5, 2 }, one[] = { 4, 4, 4 };
    ts_usage u = ts_usage_of(even, 8);
    T_TRUE(u.tokens == 8 && u.used == 4);
    T_NEAR(u.perplexity, 4, 1e-12);
    u = ts_usage_of(skewed, 4);
    T_EQI(u.used, 2);
    T_NEAR(u.perplexity, exp(0.75 * log(4 / 3.0) + 0.25 * log(4)), 1e-12);
    u = ts_usage_of(one, 3);
    T_TRUE(u.used == 1 && u.perplexity == 1);
    u = ts_usage_of(one, 0);
    T_TRUE(u.used == 0 && u.tokens == 0);
    ts_pyramid p;
    T_OK(ts_pyramid_init(&p, (const int32_t[]){ 1, 2 }, 2, -1, 0));
    const int32_t tokens[] = { 8, 1, 1, 2, 2, 8, 1, 1, 2, 2 }; /* two pictures */
    T_OK(ts_usage_of_scale(&u, tokens, 2, &p, 0));
    T_TRUE(u.tokens == 2 && u.used == 1);
    T_OK(ts_usage_of_scale(&u, tokens, 2, &p, 1));
    T_TRUE(u.tokens == 8 && u.used == 2);
    T_NEAR(u.perplexity, 2, 1e-12);
}

int main(void)
{
    Suite *u = t_suite("measures");
    T_ADD1(u, distances);
    T_ADD1(u, usage);
    return t_run(u);
}
