/* loader.c - stub. */
#include "host/dataset.h"
#define NOT return ts_fail(TS_E_INTERNAL, "not written yet")
ts_status ts_loader_new(ts_loader **l, const ts_dataset *d, const ts_loader_options *o) { (void)l; (void)d; (void)o; NOT; }
ts_status ts_loader_next(ts_loader *l, ts_loaded *out, int *more) { (void)l; (void)out; (void)more; NOT; }
void ts_loader_free(ts_loader *l) { (void)l; }
int64_t ts_permute(uint64_t key, int64_t i, int64_t n) { (void)key; (void)n; return i; }
