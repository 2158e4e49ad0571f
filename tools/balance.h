/* balance.h - picking token samples so that rare classes are seen more often than they occur.
 *
 * A sample's class c is drawn with a probability that is proportional to n_c^(1 - beta), n_c its samples; then one of the class's
 * samples evenly. beta 0 would be the classes as they occur, 1 every class the same (Kang et al., arXiv 1910.09217, section 3.1,
 * with q = 1 - beta). Samples without a label are a class of their own.
 */
#ifndef TS_BALANCE_H
#define TS_BALANCE_H

#include "host/tokens.h"

typedef struct {
    int n;          /* classes, the one of no label last */
    int64_t *first; /* [n+1] */
    int64_t *order; /* all samples, those of class c at first[c] .. first[c+1]-1 */
    double *upto;   /* [n] probability of the classes up to this one */
} class_balance;

/* Reads every label once; 8 bytes a sample. data must hold a sample. Free with class_balance_free in any case. */
ts_status class_balance_new(class_balance *b, const ts_token_set *data, double beta);
void class_balance_free(class_balance *b); /* all zeros are fine */

/* The sample for position n of a run: a function of (seed, n). */
int64_t class_balance_pick(const class_balance *b, uint64_t seed, int64_t n);

#endif
