/* params_private.h - what the files of the table share. */
#ifndef TS_PARAMS_PRIVATE_H
#define TS_PARAMS_PRIVATE_H

#include "host/params.h"

struct ts_params {
    ts_device *d;
    uint64_t serial;
    ts_param **list;
    int n, room;
    ts_tensor **spans; /* their base's offset is found through `first` */
    const ts_tensor **span_first;
    int n_spans;
    int64_t total, decayed; /* floats, with padding */
    ts_block *buffer[TS_BUFFERS];
    int failed;
    int frozen;       /* the device takes the weights for constant           */
    ts_st_file *file; /* in which the parameters with `stored` lie, else NULL */
};

void params_thaw(ts_params *p); /* before any weight changes */
int64_t params_largest(const ts_params *p);
void params_initialise(float *x, const ts_param *q, uint64_t seed);
/* x is in file order and is overwritten; spare has as much room. */
ts_status params_put(ts_params *p, ts_buffer b, const ts_param *q, float *x, float *spare);
ts_status params_fetch(const ts_params *p, ts_buffer b, const ts_param *q, float *x, float *spare);

#endif
