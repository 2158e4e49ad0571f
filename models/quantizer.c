/* quantizer.c - contract: quantizer.h. */
#include "models/quantizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void phi_name(char *out, size_t room, int S, int K, int share, int j)
{
    if (share == 1) snprintf(out, room, "quantize.quant_resi.qresi");
    else if (S == K && share == 0) snprintf(out, room, "quantize.quant_resi.%d", j);
    else snprintf(out, room, "quantize.quant_resi.qresi_ls.%d", j);
}

int quantizer_projects(const ts_tokenizer_config *c)
{
    return c->q.kind == TS_QUANTIZER_FSQ && c->quant_conv_ks == 1 && ts_fsq_project_fits(c->q.D, c->z_channels, c->z_channels);
}

int quantizer_channels(const quantizer *q)
{
    return q->projects ? (int)q->project.w_out->dim[0] : q->c.D;
}

ts_status quantizer_declare(quantizer *q, ts_params *p, const ts_tokenizer_config *c)
{
    q->c = c->q;
    int D = c->q.D, kind = c->q.kind, share = kind == TS_QUANTIZER_FSQ ? -1 : c->q.share_quant_resi;
    TS_TRY(ts_pyramid_init(&q->p, c->side, c->K, share, c->q.quant_resi));
    if (kind == TS_QUANTIZER_FSQ) TS_TRY(ts_fsq_init(&q->fsq, c->q.bound, c->q.level, D));
    if (kind == TS_QUANTIZER_RESIDUAL_FSQ) {
        TS_TRY(ts_residual_fsq_init(&q->rfsq, &q->p, c->q.level, D, c->q.pre_tanh));
        /* Steps fall geometrically from 1 to 1/4: the residual shrinks from scale to scale. */
        q->log_gain = ts_params_add(p, ts_init_all(TS_INIT_RAMP, -logf(4)), 0, 2, TG_DIMS(c->K, D), "quantize.log_gain");
    }
    if (kind == TS_QUANTIZER_VQ) {
        q->rvq = (ts_residual_vq){ q->p, D, c->q.V, c->q.using_znorm, c->q.beta };
        q->codebook = ts_params_add(p, ts_init_all(TS_INIT_UNIFORM, 1.0f / (float)c->q.V), 0, 2, TG_DIMS(c->q.V, D),
                                    "quantize.embedding.weight");
    }
    for (int j = 0; j < q->p.S; j++) {
        char name[64];
        phi_name(name, sizeof name, q->p.S, q->p.K, share, j);
        q->phi_w[j] = ts_params_add(p, ts_init_all(TS_INIT_DIRAC, 1), TS_PARAM_CONV, 4, TG_DIMS(D, D, 3, 3), "%s.weight", name);
        q->phi_b[j] = ts_params_add(p, ts_init_all(TS_INIT_CONST, 0), 0, 1, TG_DIMS(D), "%s.bias", name);
    }
    return TS_OK;
}

ts_quantized quantizer_forward(ts_graph *g, const quantizer *q, ts_tensor *f, int K_use, int want_partial)
{
    if (q->c.kind == TS_QUANTIZER_VQ) 
        return tg_residual_vq(g, f, q->codebook, q->phi_w, q->phi_b, &q->rvq, 1, want_partial, q->want_z);
    if (q->c.kind == TS_QUANTIZER_RESIDUAL_FSQ) {
        ts_residual_fsq r = q->rfsq;
        r.K_use = K_use;
        return tg_residual_fsq(g, f, q->log_gain, q->phi_w, q->phi_b, &r, q->c.aux_weight, want_partial);
    }
    ts_quantized r = q->projects ? tg_fsq_project(g, f, &q->project, &q->fsq) : tg_fsq(g, f, &q->fsq);
    if (want_partial) r.partial = r.f_hat; /* one scale: its sum is the result */
    return r;
}

ts_tensor *quantizer_lookup(ts_graph *g, const quantizer *q, ts_tensor *idx, int k)
{
    if (q->c.kind == TS_QUANTIZER_VQ) return tg_embedding(g, q->codebook, idx);
    if (q->c.kind == TS_QUANTIZER_RESIDUAL_FSQ) return tg_residual_fsq_lookup(g, idx, q->log_gain, &q->rfsq, k);
    return q->projects ? tg_fsq_project_decode(g, idx, &q->project, &q->fsq) : tg_fsq_decode(g, idx, &q->fsq);
}

ts_tensor *quantizer_add(ts_graph *g, const quantizer *q, ts_tensor *f_hat, ts_tensor *code, int k)
{
    return tg_pyramid_add(g, f_hat, code, q->phi_w, q->phi_b, &q->p, k);
}

ts_tensor *quantizer_upload(ts_graph *g, const quantizer *q, const int32_t *tokens, int64_t B, int k)
{
    int64_t t = q->p.start[k + 1] - q->p.start[k];
    int32_t *part = malloc((size_t)(B * t) * sizeof *part);
    if (!part) {
        ts_graph_fail(g, ts_fail(TS_E_NOMEM, "out of host memory"));
        return NULL;
    }
    for (int64_t b = 0; b < B; b++) memcpy(part + b * t, tokens + b * q->p.T + q->p.start[k], (size_t)t * sizeof *part);
    ts_tensor *idx = tg_upload(g, part, TS_I32, 2, TG_DIMS(B, t));
    free(part);
    return idx;
}
