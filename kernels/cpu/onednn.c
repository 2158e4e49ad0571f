#include "kernels/cpu/onednn.h"
void dnn_cache_free(struct dnn_cache *c) { (void)c; }
