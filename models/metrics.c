/* metrics.c - contract: metrics.h. */
#include "models/metrics.h"

#include <math.h>

enum { WINDOW = 11 };

double ts_mse(const uint8_t *a, const uint8_t *b, int64_t n)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return n > 0 ? (double)sum / (double)n : 0;
}

double ts_psnr(double mse)
{
    return mse > 0 ? 10 * log10(255 * 255 / mse) : 99;
}

static int window(double *w, int side)
{
    int n = side < WINDOW ? side : WINDOW;
    double sum = 0;
    for (int i = 0; i < n; i++) {
        double x = i - (n - 1) / 2.0;
        w[i] = exp(-x * x / (2 * 1.5 * 1.5));
        sum += w[i];
    }
    for (int i = 0; i < n; i++) w[i] /= sum;
    return n;
}

/* Weighted means of a, b, aa, bb, ab over the window at (y, x) of channel c, and SSIM of it. */
static double at(const uint8_t *a, const uint8_t *b, int width, int y, int x, int c, const double *wy, int ny,
                 const double *wx, int nx)
{
    const double c1 = (0.01 * 255) * (0.01 * 255), c2 = (0.03 * 255) * (0.03 * 255);
    double ma = 0, mb = 0, aa = 0, bb = 0, ab = 0;
    for (int i = 0; i < ny; i++)
        for (int j = 0; j < nx; j++) {
            int64_t p = ((int64_t)(y + i) * width + x + j) * 3 + c;
            double w = wy[i] * wx[j], u = a[p], v = b[p];
            ma += w * u, mb += w * v, aa += w * u * u, bb += w * v * v, ab += w * u * v;
        }
    double va = aa - ma * ma, vb = bb - mb * mb, cov = ab - ma * mb;
    return (2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2));
}

double ts_ssim(const uint8_t *a, const uint8_t *b, int width, int height)
{
    double wx[WINDOW], wy[WINDOW], sum = 0;
    int nx = window(wx, width), ny = window(wy, height);
    for (int y = 0; y + ny <= height; y++)
        for (int x = 0; x + nx <= width; x++)
            for (int c = 0; c < 3; c++) sum += at(a, b, width, y, x, c, wy, ny, wx, nx);
    return sum / (3.0 * (height - ny + 1) * (width - nx + 1));
}
