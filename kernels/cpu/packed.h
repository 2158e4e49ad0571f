/* packed.h - weights that do not change, kept in the layout and type in which a primitive reads them.
 *
 * A sampled picture multiplies with the same weights ten times or more; bringing them into oneDNN's layout each time would move
 * more bytes than the products do. So a range of memory can be declared constant (mem_constant of tessera/backend.h), and operands
 * that lie in it are brought once. The copies cost as much memory as the weights, half of it in bfloat16.
 */
#ifndef TS_CPU_PACKED_H
#define TS_CPU_PACKED_H

#include <oneapi/dnnl/dnnl.h>

#include "tessera/types.h"

struct packed;

/* Does p lie in memory that was declared constant? */
int packed_constant(const ts_stream *s, const void *p);

/* The copy of the tensor at p in the layout md, rounded to bfloat16 on the way if rounded is set. *is_new tells that it is still
 * to be filled. NULL when memory is out: the caller then works without. p must be constant. */
void *packed_get(ts_stream *s, const void *p, const dnnl_memory_desc_t *md, int rounded, int *is_new);

void packed_free(struct packed *k); /* accepts NULL */

#endif
