/* permute.c - a keyed permutation without a table. Contract: dataset.h.
 *
 * A Feistel network permutes 0..4^half_bits-1, the smallest such range that holds 0..n-1; a result beyond n goes
 * through it again (cycle walking), less than four times on average.
 */
#include "host/dataset.h"

enum { ROUNDS = 8 };

static uint64_t mix(uint64_t z)
{
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

int64_t ts_permute(uint64_t key, int64_t i, int64_t n)
{
    int half_bits = 1;
    while (half_bits < 31 && (int64_t)1 << 2 * half_bits < n) half_bits++;
    uint64_t mask = ((uint64_t)1 << half_bits) - 1, x = (uint64_t)i;
    do {
        uint64_t left = x >> half_bits, right = x & mask;
        for (uint64_t round = 0; round < ROUNDS; round++) {
            uint64_t t = left ^ (mix(mix(key ^ round << 56) ^ right) & mask);
            left = right;
            right = t;
        }
        x = left << half_bits | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}
