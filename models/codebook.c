/* codebook.c - contract: codebook.h. */
#include "models/codebook.h"

#include <math.h>

ts_status codebook_average_begin(codebook_average *c, ts_tokenizer *t, double decay, double restart_below, uint64_t seed)
{
    const int64_t V = t->c.q.V, D = t->c.q.D;
    *c = (codebook_average){ .a = { (float)decay, 1e-5f, (float)restart_below, seed, 0 } };
    if (t->c.q.kind != TS_QUANTIZER_VQ) return ts_fail(TS_E_INTERNAL, "a codebook of averages needs a quantizer of kind vq");
    TS_TRY(ts_params_new(&c->state));
    c->count = ts_params_add(c->state, ts_init_all(TS_INIT_CONST, 1), 0, 1, TG_DIMS(V), "count");
    c->sum = ts_params_add(c->state, ts_init_all(TS_INIT_CONST, 0), 0, 2, TG_DIMS(V, D), "sum");
    TS_TRY(ts_params_allocate(c->state, t->d, 0));
    TS_TRY(ts_params_init(c->state, seed));
    TS_TRY(t->d->be->copy(t->d->s, c->sum->data, t->q.codebook->data, (size_t)(V * D) * sizeof(float)));
    ts_params_hold(t->params, t->q.codebook);
    t->q.want_z = 1;
    return TS_OK;
}

ts_status codebook_average_step(codebook_average *c, ts_tokenizer *t, const ts_quantized *q, int64_t step,
                                float grad_norm)
{
    if (!isfinite(grad_norm)) return TS_OK;
    const int64_t V = t->c.q.V, D = t->c.q.D, N = ts_tensor_count(q->idx);
    const ts_backend *be = t->d->be;
    ts_block *scratch = ts_block_get(t->d, be->codebook_ema_scratch(t->d->s, N, V));
    if (!scratch) return TS_E_NOMEM;
    c->a.step = step;
    ts_status st = be->codebook_ema(t->d->s, t->q.codebook->data, c->count->data, c->sum->data, q->z->data, q->idx->data,
                                    &c->a, N, D, V, scratch->p);
    ts_block_drop(t->d, scratch);
    return st == TS_OK ? ts_params_carry(t->params, t->q.codebook) : st;
}

void codebook_average_end(codebook_average *c)
{
    ts_params_free(c->state);
    c->state = NULL;
}
