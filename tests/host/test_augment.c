/* test_augment.c - variations of training pictures: every kind does what tools/augment.h says, and draws evenly. */
#include "tests/t.h"
#include "tools/augment.h"

enum { SIDE = 16, DRAWS = 960 };

/* Every pixel names its own place: red is the row, green the column, blue a constant of its own. */
static ts_image ramp(void)
{
    ts_image im = { SIDE, SIDE, malloc(SIDE * SIDE * 3) };
    for (int i = 0; i < SIDE * SIDE; i++) {
        im.rgb[3 * i] = (uint8_t)(i / SIDE);
        im.rgb[3 * i + 1] = (uint8_t)(i % SIDE + 100);
        im.rgb[3 * i + 2] = 200;
    }
    return im;
}

static ts_image varied(augment_kind kind, uint64_t seed, uint64_t n)
{
    ts_image im = ramp();
    T_OK(augment(&im, kind, seed, n));
    T_TRUE(im.width == SIDE && im.height == SIDE);
    return im;
}

T_TEST(none_and_repeatable)
{
    (void)be, (void)s;
    static const augment_kind KINDS[] = { AUGMENT_NONE, AUGMENT_FLIP, AUGMENT_SHIFT, AUGMENT_STRONG };
    for (int k = 0; k < 4; k++)
        for (uint64_t n = 0; n < 50; n++) {
            ts_image a = varied(KINDS[k], 7, n), b = varied(KINDS[k], 7, n), plain = ramp();
            ck_assert_mem_eq(a.rgb, b.rgb, SIDE * SIDE * 3);
            if (k == 0) ck_assert_mem_eq(a.rgb, plain.rgb, SIDE * SIDE * 3);
            ts_image_free(&a), ts_image_free(&b), ts_image_free(&plain);
        }
}

/* Where pixel (y, x) must come from after a mirror image and a move; the border is repeated. */
static int source(int i, int move)
{
    int j = i + move;
    return j < 0 ? 0 : j >= SIDE ? SIDE - 1 : j;
}

/* Which (mirrored, down, right) explains the picture; fails if none does. Moves are at most a sixteenth of the side: 1. */
static int explain(const ts_image *im, int most)
{
    for (int mirrored = 0; mirrored < 2; mirrored++)
        for (int down = -most; down <= most; down++)
            for (int right = -most; right <= most; right++) {
                int same = 1;
                for (int y = 0; y < SIDE; y++)
                    for (int x = 0; x < SIDE; x++) {
                        const uint8_t *p = im->rgb + 3 * (y * SIDE + x);
                        int u = source(x, right);
                        same &= p[0] == source(y, down) && p[1] == 100 + (mirrored ? SIDE - 1 - u : u) && p[2] == 200;
                    }
                if (same) return (mirrored * 3 + down + 1) * 3 + right + 1;
            }
    ck_abort_msg("the picture is no mirrored and moved copy");
    return -1;
}

T_TEST(flip_and_shift)
{
    (void)be, (void)s;
    int flips = 0, seen[18] = { 0 };
    for (uint64_t n = 0; n < DRAWS; n++) {
        ts_image a = varied(AUGMENT_FLIP, 1, n), b = varied(AUGMENT_SHIFT, 1, n);
        flips += explain(&a, 0) >= 9;
        seen[explain(&b, 1)]++;
        ts_image_free(&a), ts_image_free(&b);
    }
    /* Binomial: half of 960 with deviation 15.5; 960/18 = 53 with deviation 7.1. The seed is fixed; five deviations. */
    T_TRUE(abs(flips - DRAWS / 2) <= 78);
    for (int i = 0; i < 18; i++) T_TRUE(abs(seen[i] - DRAWS / 18) <= 36);
}

/* Undo the permutation of the channels: blue is known by its value, columns by being 100 and more. */
static int channel(const uint8_t *p, int lowest, int highest)
{
    for (int c = 0; c < 3; c++)
        if (p[c] >= lowest && p[c] <= highest) return c;
    ck_abort_msg("a channel is lost");
    return -1;
}

T_TEST(strong)
{
    (void)be, (void)s;
    int turns[8] = { 0 }, orders[27] = { 0 };
    for (uint64_t n = 0; n < DRAWS; n++) {
        ts_image a = varied(AUGMENT_STRONG, 3, n);
        int row = channel(a.rgb, 0, SIDE - 1), column = channel(a.rgb, 100, 100 + SIDE - 1), blue = channel(a.rgb, 200, 200);
        const uint8_t *first = a.rgb, *right = a.rgb + 3 * (SIDE - 1);
        int turned = first[row] != right[row]; /* rows run along x: rows and columns are exchanged */
        int how = 4 * turned + 2 * (first[row] != 0) + (first[column] != 100);
        turns[how]++;
        orders[(row * 3 + column) * 3 + blue]++;
        for (int i = 0; i < SIDE * SIDE; i++) { /* every pixel of the square once, where the turn puts it */
            int y = i / SIDE, x = i % SIDE, v = turned ? x : y, u = turned ? y : x;
            T_EQI(a.rgb[3 * i + row], first[row] ? SIDE - 1 - v : v);
            T_EQI(a.rgb[3 * i + column], 100 + (first[column] != 100 ? SIDE - 1 - u : u));
            T_EQI(a.rgb[3 * i + blue], 200);
        }
        ts_image_free(&a);
    }
    for (int i = 0; i < 8; i++) T_TRUE(abs(turns[i] - DRAWS / 8) <= 52); /* 120, deviation 10.2 */
    int found = 0;
    for (int i = 0; i < 27; i++) found += orders[i] > 0;
    T_EQI(found, 6);
    T_TRUE(abs(orders[(0 * 3 + 1) * 3 + 2] - DRAWS * 7 / 12) <= 77); /* as they were: 1/2 + 1/2 * 1/6; deviation 15.3 */
}

int main(void)
{
    Suite *u = t_suite("augment");
    T_ADD1(u, none_and_repeatable);
    T_ADD1(u, flip_and_shift);
    T_ADD1(u, strong);
    return t_run(u);
}
