/* balance.c - contract: balance.h. */
#include "tools/balance.h"

#include <math.h>
#include <stdlib.h>

#include "tessera/philox.h"

enum { DRAW_SAMPLE = 18 }; /* beside those of train_generator.c */

/* Fill order by a counting sort over the labels. */
static ts_status sort_samples(class_balance *b, const ts_token_set *data, int32_t *tokens)
{
    int64_t N = ts_token_set_count(data), *next = calloc((size_t)b->n + 1, sizeof *next);
    int32_t *label = malloc((size_t)N * sizeof *label);
    ts_status st = next && label ? TS_OK : ts_fail(TS_E_NOMEM, "out of host memory");
    for (int64_t i = 0; i < N && st == TS_OK; i++) {
        uint64_t source;
        st = ts_token_set_get(data, i, tokens, &label[i], &source);
        if (st != TS_OK) break;
        if (label[i] < 0) label[i] = b->n - 1;
        b->first[label[i] + 1]++;
    }
    for (int c = 0; c < b->n && st == TS_OK; c++) next[c + 1] = b->first[c + 1] += b->first[c];
    for (int64_t i = 0; i < N && st == TS_OK; i++) b->order[next[label[i]]++] = i;
    free(next);
    free(label);
    return st;
}

ts_status class_balance_new(class_balance *b, const ts_token_set *data, double beta)
{
    int n = ts_token_set_classes(data) + 1;
    *b = (class_balance){ .n = n,
                          .first = calloc((size_t)n + 1, sizeof *b->first),
                          .order = malloc((size_t)ts_token_set_count(data) * sizeof *b->order),
                          .upto = malloc((size_t)n * sizeof *b->upto) };
    int32_t *tokens = malloc((size_t)ts_token_set_T(data) * sizeof *tokens);
    int room = b->first && b->order && b->upto && tokens;
    ts_status st = room ? sort_samples(b, data, tokens) : ts_fail(TS_E_NOMEM, "out of host memory");
    free(tokens);
    if (st != TS_OK) return st;
    double sum = 0;
    for (int c = 0; c < n; c++) {
        int64_t samples = b->first[c + 1] - b->first[c];
        b->upto[c] = sum += samples ? pow((double)samples, 1 - beta) : 0;
    }
    for (int c = 0; c < n; c++) b->upto[c] /= sum;
    return TS_OK;
}

void class_balance_free(class_balance *b)
{
    free(b->first);
    free(b->order);
    free(b->upto);
    *b = (class_balance){ 0 };
}

int64_t class_balance_pick(const class_balance *b, uint64_t seed, int64_t n)
{
    ts_philox x = ts_philox_block(seed, DRAW_SAMPLE, 0, (uint32_t)n, (uint32_t)((uint64_t)n >> 32));
    double u = ts_philox_unit(x.word[0]);
    int c = 0;
    while (c < b->n - 1 && (u >= b->upto[c] || b->first[c] == b->first[c + 1])) c++;
    while (b->first[c] == b->first[c + 1]) c--; /* the last classes may be empty */
    uint64_t word = (uint64_t)x.word[1] << 32 | x.word[2];
    return b->order[b->first[c] + (int64_t)(word % (uint64_t)(b->first[c + 1] - b->first[c]))];
}
