/* test_balance.c - samples drawn by class: as often as tools/balance.h says, each of its class, and none from nowhere. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/t.h"
#include "tools/balance.h"

enum { T = 3, V = 10, DRAWS = 40000 };

/* Four classes of 4, 0, 64 and 16 samples, and 1 without a label, mixed. */
static const int SIZES[5] = { 4, 0, 64, 16, 1 };

static ts_token_set *open_set(char *dir)
{
    static const char *const NAMES[] = { "a", "b", "c", "d" };
    strcpy(dir, "/tmp/tessera-balance-XXXXXX");
    T_TRUE(mkdtemp(dir) != NULL);
    ts_token_writer *w;
    T_OK(ts_token_writer_new(&w, dir, "{}", T, V, NAMES, 4, 85, 30));
    int left[5];
    memcpy(left, SIZES, sizeof left);
    for (int i = 0, c = 0; i < 85; i++) {
        do c = (c + 1) % 5;
        while (left[c] == 0);
        left[c]--;
        T_OK(ts_token_writer_add(w, i, c == 4 ? -1 : c, (int32_t[T]){ c, 1, 2 }));
    }
    T_OK(ts_token_writer_finish(w, 0));
    ts_token_set *set;
    T_OK(ts_token_set_open(&set, dir, 1));
    return set;
}

static void close_set(ts_token_set *set, const char *dir)
{
    char line[200];
    ts_token_set_close(set);
    snprintf(line, sizeof line, "rm -rf '%s'", dir);
    T_EQI(system(line), 0);
}

static void check_share(double beta)
{
    char dir[64];
    ts_token_set *set = open_set(dir);
    class_balance b;
    T_OK(class_balance_new(&b, set, beta));
    double weight[5], sum = 0;
    for (int c = 0; c < 5; c++) sum += weight[c] = SIZES[c] ? pow(SIZES[c], 1 - beta) : 0;
    int drawn[5] = { 0 }, each[85] = { 0 };
    for (int64_t n = 0; n < DRAWS; n++) {
        int64_t i = class_balance_pick(&b, 3, n);
        T_TRUE(i >= 0 && i < 85);
        int32_t tokens[T], label;
        uint64_t source;
        T_OK(ts_token_set_get(set, i, tokens, &label, &source));
        T_EQI(tokens[0], label < 0 ? 4 : label);
        drawn[tokens[0]]++, each[i]++;
    }
    for (int c = 0; c < 5; c++) { /* five standard deviations of a binomial */
        double p = weight[c] / sum, off = fabs(drawn[c] - DRAWS * p);
        T_TRUE(off <= 5 * sqrt(DRAWS * p * (1 - p)));
    }
    for (int i = 0; i < 85; i++) T_TRUE(each[i] > 0);
    class_balance_free(&b);
    close_set(set, dir);
}

T_TEST(shares)
{
    (void)be, (void)s;
    check_share(0);
    check_share(0.5);
    check_share(1);
}

T_TEST(function_of_seed_and_position)
{
    (void)be, (void)s;
    char dir[64];
    ts_token_set *set = open_set(dir);
    class_balance b, again;
    T_OK(class_balance_new(&b, set, 0.5));
    T_OK(class_balance_new(&again, set, 0.5));
    int differ = 0;
    for (int64_t n = 0; n < 1000; n++) {
        int64_t far = n << 30; /* both words of the position count */
        T_EQI(class_balance_pick(&b, 5, n), class_balance_pick(&again, 5, n));
        differ += class_balance_pick(&b, 5, n) != class_balance_pick(&b, 6, n);
        differ += class_balance_pick(&b, 5, far) != class_balance_pick(&b, 5, far + (1LL << 32));
    }
    T_TRUE(differ > 1800);
    class_balance_free(&b);
    class_balance_free(&again);
    close_set(set, dir);
}

int main(void)
{
    Suite *u = t_suite("balance");
    T_ADD1(u, shares);
    T_ADD1(u, function_of_seed_and_position);
    return t_run(u);
}
