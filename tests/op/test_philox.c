/* test_philox.c - the counter-based generator: published answers, the ends of the interval, moments of the normal. */
#include "tessera/philox.h"

#include "tests/t.h"

/* The known answers of Random123 (kat_vectors, philox4x32 10). */
T_TEST(known_answers)
{
    (void)be, (void)s;
    static const struct {
        uint32_t counter[4];
        uint64_t seed;
        uint32_t want[4];
    } kat[] = {
        { { 0, 0, 0, 0 }, 0, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { ~0u, ~0u, ~0u, ~0u }, ~0ull, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
          0x299f31d0a4093822ull,
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (size_t i = 0; i < sizeof kat / sizeof *kat; i++) {
        const uint32_t *c = kat[i].counter;
        ts_philox got = ts_philox_block(kat[i].seed, c[0], c[1], c[2], c[3]);
        for (int j = 0; j < 4; j++) ck_assert_uint_eq(got.word[j], kat[i].want[j]);
    }
}

T_TEST(unit_is_open_interval)
{
    (void)be, (void)s;
    ck_assert(ts_philox_unit(0) == 0x1p-24f);
    ck_assert(ts_philox_unit(~0u) == 1 - 0x1p-24f);
    ck_assert(ts_philox_unit(0x80000000u) == 0.5f + 0x1p-24f);
}

/* Each argument reaches its word of the counter. */
T_TEST(uniform_uses_every_argument)
{
    (void)be, (void)s;
    uint64_t seed = 0x1122334455667788u, c = 0x99aabbccddeeff00u;
    float base = ts_philox_uniform(seed, 1, 2, c);
    ck_assert(base == ts_philox_unit(ts_philox_block(seed, 1, 2, 0xddeeff00u, 0x99aabbccu).word[0]));
    ck_assert(base != ts_philox_uniform(seed + 1, 1, 2, c));
    ck_assert(base != ts_philox_uniform(seed + (1ull << 32), 1, 2, c));
    ck_assert(base != ts_philox_uniform(seed, 0, 2, c));
    ck_assert(base != ts_philox_uniform(seed, 1, 3, c));
    ck_assert(base != ts_philox_uniform(seed, 1, 2, c + 1));
    ck_assert(base != ts_philox_uniform(seed, 1, 2, c + (1ull << 32)));
}

/* Against the formula of Box and Muller in double, and the moments of 40000 draws within 4 standard errors. */
T_TEST(normal)
{
    (void)be, (void)s;
    enum { N = 40000 };
    double moment[4] = { 0 };
    for (uint32_t i = 0; i < N; i++) {
        float x = ts_philox_normal(7, i, 3, 5);
        ts_philox w = ts_philox_block(7, i, 3, 5, 0);
        double u0 = ((w.word[0] >> 9) + 0.5) / 8388608, u1 = ((w.word[1] >> 9) + 0.5) / 8388608;
        /* 5.8 is the largest radius; sine and logarithm are within some 1e-7 */
        T_NEAR(x, sqrt(-2 * log(u0)) * cos(2 * 3.14159265358979323846 * u1), 5.8 * 3e-7);
        for (int k = 0; k < 4; k++) moment[k] += pow(x, k + 1) / N;
    }
    T_NEAR(moment[0], 0, 4 * sqrt(1.0 / N));
    T_NEAR(moment[1], 1, 4 * sqrt(2.0 / N));
    T_NEAR(moment[2], 0, 4 * sqrt(15.0 / N));
    T_NEAR(moment[3], 3, 4 * sqrt(96.0 / N));
}

int main(void)
{
    Suite *u = t_suite("philox");
    T_ADD1(u, known_answers);
    T_ADD1(u, unit_is_open_interval);
    T_ADD1(u, uniform_uses_every_argument);
    T_ADD1(u, normal);
    return t_run(u);
}
