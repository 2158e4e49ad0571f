/* metrics.h - how far two 8-bit RGB pictures are apart.
 *
 *   mse   mean over all pixels and channels of the squared difference, in levels squared
 *   psnr  10 log10(255^2 / mse) dB; 99 where mse is 0
 *   ssim  Wang et al. 2004: 11x11 Gaussian window, sigma 1.5, K1 = 0.01, K2 = 0.03, data range 255, windows that lie wholly inside
 *         the picture (a smaller window for pictures under 11 pixels); mean over windows and the three channels
 */
#ifndef TS_METRICS_H
#define TS_METRICS_H

#include <stdint.h>

double ts_mse(const uint8_t *a, const uint8_t *b, int64_t n);
double ts_psnr(double mse);
double ts_ssim(const uint8_t *a, const uint8_t *b, int width, int height); /* (height,width,3) */

#endif
