/* augment.c - contract: augment.h. */
#include "tools/augment.h"

#include <stdlib.h>
#include <string.h>

#include "tessera/philox.h"

enum { DRAW_AUGMENT = 5 }; /* first counter word of its Philox numbers */

/* Bit 0 mirrors left and right, bit 1 up and down, bit 2 exchanges rows and columns. */
static ts_status turn(ts_image *im, unsigned how)
{
    int side = im->width;
    uint8_t *out = malloc((size_t)side * (size_t)side * 3);
    if (!out) return ts_fail(TS_E_NOMEM, "out of host memory");
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++) {
            int v = how & 2 ? side - 1 - y : y, u = how & 1 ? side - 1 - x : x;
            int from = how & 4 ? u * side + v : v * side + u;
            memcpy(out + (size_t)(y * side + x) * 3, im->rgb + (size_t)from * 3, 3);
        }
    free(im->rgb);
    im->rgb = out;
    return TS_OK;
}

static int inside(int i, int side)
{
    return i < 0 ? 0 : i >= side ? side - 1 : i;
}

/* Every pixel comes from (y + down, x + right) of the old picture. */
static ts_status shift(ts_image *im, int down, int right)
{
    int side = im->width;
    uint8_t *out = malloc((size_t)side * (size_t)side * 3);
    if (!out) return ts_fail(TS_E_NOMEM, "out of host memory");
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++) {
            int from = inside(y + down, side) * side + inside(x + right, side);
            memcpy(out + (size_t)(y * side + x) * 3, im->rgb + (size_t)from * 3, 3);
        }
    free(im->rgb);
    im->rgb = out;
    return TS_OK;
}

static void permute_channels(ts_image *im, unsigned which)
{
    static const uint8_t ORDER[6][3] = { { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 }, { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 } };
    size_t n = (size_t)im->width * (size_t)im->height;
    for (size_t i = 0; i < n; i++) {
        uint8_t *p = im->rgb + 3 * i, c[3] = { p[0], p[1], p[2] };
        for (int j = 0; j < 3; j++) p[j] = c[ORDER[which][j]];
    }
}

ts_status augment(ts_image *im, augment_kind kind, uint64_t seed, uint64_t n)
{
    ts_philox u = ts_philox_block(seed, DRAW_AUGMENT, 0, (uint32_t)n, (uint32_t)(n >> 32));
    if ((kind == AUGMENT_FLIP || kind == AUGMENT_SHIFT) && u.word[0] % 2) TS_TRY(turn(im, 1));
    int most = im->width / 16;
    unsigned places = 2 * (unsigned)most + 1;
    if (kind == AUGMENT_SHIFT) return shift(im, (int)(u.word[1] % places) - most, (int)(u.word[2] % places) - most);
    if (kind != AUGMENT_STRONG) return TS_OK;
    if (u.word[2] % 2) permute_channels(im, u.word[1] % 6);
    return u.word[0] % 8 ? turn(im, u.word[0] % 8) : TS_OK;
}
