/* Attention under a tape by instruction set: kern.h says what attend_pack, attend_delta, attend_tile and
 * attend_tile_backward do. A call of fill overwrites these entries of a table.
 *
 * A tile of logits is held transposed, a row a key and a column a query: what belongs to a query (its maximum, its
 * sum, its lse) is then a lane, and a softmax needs no sum across lanes. */
#ifndef CLOCHER_KERNELS_ATTEND_TILE_H
#define CLOCHER_KERNELS_ATTEND_TILE_H

#include "kernels/kern.h"

void ie_attend_tile_fill__scalar(ie_kernels *out);
void ie_attend_tile_fill__avx2(ie_kernels *out);
void ie_attend_tile_fill__avx512(ie_kernels *out);

#endif
