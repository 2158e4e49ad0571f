/* hash.h - weights of whole models by the hash rule of tests/golden/README.md. */
#ifndef TS_TESTS_MODEL_HASH_H
#define TS_TESTS_MODEL_HASH_H

#include "host/params.h"
#include "tests/t.h"

/* Each weight by the name PREFIX.NAME; frozen ones stay as they are. */
static inline void hash_weights(ts_params *p, const char *prefix)
{
    for (int i = 0; i < ts_params_count(p); i++) {
        const ts_param *q = ts_params_at(p, i);
        if (q->flags & TS_PARAM_FROZEN) continue;
        char name[256];
        snprintf(name, sizeof name, "%s.%s", prefix, q->name);
        float *x = t_alloc((size_t)q->count * sizeof *x);
        t_hash_weight(x, name, q->shape, q->rank);
        T_OK(ts_params_put(p, &q->tensor, x));
    }
}

#endif
