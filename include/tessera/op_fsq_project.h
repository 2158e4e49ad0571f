/* op_fsq_project.h - FSQ with the products before and behind it: projection in, bound, round, index, value, projection out in one
 * pass, so that neither what is quantized nor its value goes through memory.
 *
 * Letters   N tokens, C channels in, D channels of the quantizer, O channels out.
 * Formula   z[n,d] = b_in[d] + sum_c x[n,c] w_in[d,c];   value, idx = fsq(z) (op_fsq.h)
 *           y[n,o] = b_out[o] + sum_d value[n,d] w_out[o,d]
 *           dvalue[n,d] = sum_o dy[n,o] w_out[o,d];   dz = dvalue * dvalue/dz of op_fsq.h;   dx[n,c] = sum_d dz[n,d] w_in[d,c]
 *           dw_in[d,c] += sum_n dz[n,d] x[n,c];   db_in[d] += sum_n dz[n,d]
 *           dw_out[o,d] += sum_n dy[n,o] value[n,d];   db_out[o] += sum_n dy[n,o]
 * Source    the two are 1x1 convolutions, as quant_conv and post_quant_conv of VQGAN (arXiv:2012.09841) around FSQ.
 * Accuracy  float32 whatever the ts_math of products. Sums of z and y begin with the bias and go on in ascending order, each step an
 *           fmaf: idx, z and y are equal bit for bit on all backends, and those of decode to those of fwd. Gradients of weights have
 *           an order that depends on N alone.
 */
#ifndef TS_OP_FSQ_PROJECT_H
#define TS_OP_FSQ_PROJECT_H

#include "tessera/op_fsq.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t N;
    int C, O;
    ts_fsq q;
} ts_fsq_project;

/* Device pointers: w_in (D,C), b_in (D), w_out (O,D), b_out (O). */
typedef struct {
    float *w_in, *b_in, *w_out, *b_out;
} ts_fsq_weights;

/* So much fits beside the tokens in 44 KB of shared memory. Other shapes are refused with TS_E_ARG. */
static inline int ts_fsq_project_fits(int D, int C, int O)
{
    return D >= 1 && D <= TS_MAX_D && C >= 1 && C <= 256 && O >= 1 && O <= 256 && D * (C + O) <= 4096;
}

/* Bytes of scratch of bwd. */
typedef size_t ts_fsq_project_scratch_fn(ts_stream *s, const ts_fsq_project *p);

/*   y (N,O) f32 out      idx (N) i32 out      z (N,D) f32 out: for bwd, NULL if none follows      x (N,C) f32 in, sums not NaN */
typedef ts_status ts_fsq_project_fwd_fn(ts_stream *s, float *y, int32_t *idx, float *z, const float *x,
                                        const ts_fsq_weights *w, const ts_fsq_project *p);
/*   dx (N,C) f32 set, or NULL      grad: added to, each may be NULL      dy (N,O), x (N,C), z (N,D) f32 in */
typedef ts_status ts_fsq_project_bwd_fn(ts_stream *s, float *dx, const ts_fsq_weights *grad, const float *dy, const float *x,
                                        const float *z, const ts_fsq_weights *w, const ts_fsq_project *p, void *scratch);
/*   y (N,O) f32 out      idx (N) i32 in, 0..V-1; of w the out half is read */
typedef ts_status ts_fsq_project_decode_fn(ts_stream *s, float *y, const int32_t *idx, const ts_fsq_weights *w,
                                           const ts_fsq_project *p);

ts_fsq_project_scratch_fn fsq_project_scratch_cpu, fsq_project_scratch_cuda;
ts_fsq_project_fwd_fn fsq_project_fwd_cpu, fsq_project_fwd_cuda;
ts_fsq_project_bwd_fn fsq_project_bwd_cpu, fsq_project_bwd_cuda;
ts_fsq_project_decode_fn fsq_project_decode_cpu, fsq_project_decode_cuda;

#ifdef __cplusplus
}
#endif
#endif
