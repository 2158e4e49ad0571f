/* packed.h - weights that do not change, kept in the layout and type in which a primitive reads them.
 *
 * A sampled picture multiplies with the same weights ten times or more; bringing them into oneDNN's layout each time would move
 * more bytes than the products do. So a range of memory can be declared constant (mem_constant of tessera/backend.h), and operands
 * that lie in it are brought once. The copies cost as much memory as the weights, half of it in bfloat16. Weights in a mapped file
 * (mem_stored) are expanded for that first, and their pages are given back.
 */
#ifndef TS_CPU_PACKED_H
#define TS_CPU_PACKED_H

#include <oneapi/dnnl/dnnl.h>

#include "tessera/backend.h"

struct packed;

/* Does p lie in memory that was declared constant? */
int packed_constant(const ts_stream *s, const void *p);

/* How p stands in a file if that is not float32 in the order that ops take, else NULL. */
const ts_stored *packed_stored(const ts_stream *s, const void *p);

/* The weight at p, which stands in a file as w says, in the order that ops take: float32, (O,kk,I). To be freed; NULL when memory
 * is out. */
float *packed_expand(const ts_stream *s, const void *p, const ts_stored *w);

/* The copy of the tensor at p in the layout md, of `bytes` bytes; narrow: its numbers are kept as bfloat16. *is_new tells that it is
 * still to be filled: packed_forget if that fails. NULL when memory is out: the caller then works without. p must be constant. */
void *packed_get(ts_stream *s, const void *p, const dnnl_memory_desc_t *md, size_t bytes, int narrow, int *is_new);
void packed_forget(ts_stream *s, const void *copy);

/* The copies are made: the file's pages are not needed now. */
void packed_release(const ts_stream *s, const void *p);

void packed_free(struct packed *k); /* accepts NULL */

#endif
