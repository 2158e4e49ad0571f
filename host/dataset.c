/* dataset.c - stub. */
#include "host/dataset.h"
#define NOT return ts_fail(TS_E_INTERNAL, "not written yet")
ts_status ts_dataset_open(ts_dataset **d, const char *const *inputs, int n_inputs) { (void)d; (void)inputs; (void)n_inputs; NOT; }
void ts_dataset_close(ts_dataset *d) { (void)d; }
int64_t ts_dataset_count(const ts_dataset *d) { (void)d; return 0; }
int ts_dataset_classes(const ts_dataset *d) { (void)d; return 0; }
const char *ts_dataset_class(const ts_dataset *d, int i) { (void)d; (void)i; return ""; }
const char *ts_dataset_name(const ts_dataset *d, int64_t i) { (void)d; (void)i; return ""; }
int32_t ts_dataset_label(const ts_dataset *d, int64_t i) { (void)d; (void)i; return -1; }
ts_status ts_dataset_read(const ts_dataset *d, int64_t i, ts_image *im) { (void)d; (void)i; (void)im; NOT; }
