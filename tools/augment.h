/* augment.h - random variations of training pictures.
 *
 *   none    nothing
 *   flip    half of the pictures mirrored
 *   shift   half mirrored, and moved by up to a sixteenth of the side each way, the border repeated
 *   strong  one of the eight turns and mirrorings of the square; half of the pictures get their colour channels permuted too.
 *           For small sets: a tokenizer that sees each picture some hundred times learns it by heart otherwise.
 */
#ifndef TS_AUGMENT_H
#define TS_AUGMENT_H

#include "host/image.h"

#define AUGMENT_CHOICES "none|flip|shift|strong"
typedef enum { AUGMENT_NONE, AUGMENT_FLIP, AUGMENT_SHIFT, AUGMENT_STRONG } augment_kind;

/* Vary a square picture in place. A function of seed and n alone. */
ts_status augment(ts_image *im, augment_kind kind, uint64_t seed, uint64_t n);

#endif
