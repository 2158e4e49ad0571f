/* image.c - stub. */
#include "host/image.h"
#define NOT return ts_fail(TS_E_INTERNAL, "not written yet")
void ts_image_free(ts_image *im) { (void)im; }
ts_status ts_image_read(ts_image *im, const char *path) { (void)im; (void)path; NOT; }
ts_status ts_image_decode(ts_image *im, const char *name, const void *bytes, size_t n) { (void)im; (void)name; (void)bytes; (void)n; NOT; }
ts_status ts_preprocess_parse(ts_preprocess *p, const char *name) { (void)p; (void)name; NOT; }
const char *ts_preprocess_name(ts_preprocess p) { (void)p; return ""; }
ts_status ts_image_preprocess(ts_image *out, const ts_image *in, ts_preprocess how, int size, const float *crop, const char *name) { (void)out; (void)in; (void)how; (void)size; (void)crop; (void)name; NOT; }
void ts_image_to_float(float *out, const uint8_t *in, size_t n) { (void)out; (void)in; (void)n; }
void ts_image_from_float(uint8_t *out, const float *in, size_t n) { (void)out; (void)in; (void)n; }
ts_status ts_image_write_png(const char *path, const ts_image *im, const char *const (*text)[2], int n_text) { (void)path; (void)im; (void)text; (void)n_text; NOT; }
ts_status ts_image_encode_png(const ts_image *im, const char *const (*text)[2], int n_text, uint8_t **bytes, size_t *n) { (void)im; (void)text; (void)n_text; (void)bytes; (void)n; NOT; }
ts_status ts_image_grid(ts_image *out, const ts_image *pictures, int n, int columns, int gap) { (void)out; (void)pictures; (void)n; (void)columns; (void)gap; NOT; }
