/* Parameters cut into pieces of a fixed size, so that one loop of the team covers all of them, small and large, and
 * what is summed by pieces does not depend on threads. */
#ifndef CLOCHER_TRAIN_PIECES_H
#define CLOCHER_TRAIN_PIECES_H

#include "clocher/status.h"
#include "tensor/param.h"

/* Elements of a piece: 64 KiB of an array, which four arrays of fit a second-level cache; a multiple of the blocks
 * of 8-bit states. */
enum { IE_PIECE = 16384 };

typedef struct ie_piece {
  ie_param *param;
  int64_t index; /* of the parameter in its list */
  int64_t begin, count;
} ie_piece;

typedef struct ie_pieces {
  ie_piece *piece; /* (count) owned; parameters in their order, those without a gradient left out */
  int64_t count;
} ie_pieces;

/* IE_OUT_OF_MEMORY; *out is empty then. */
ie_status ie_pieces_new(ie_param *const *param, int64_t count, ie_pieces *out, ie_error *error);
void ie_pieces_free(ie_pieces *pieces);

#endif
