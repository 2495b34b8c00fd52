#include "train/pieces.h"

#include "base/size.h"

#include <stdlib.h>

ie_status ie_pieces_new(ie_param *const *param, int64_t count, ie_pieces *out, ie_error *error) {
  *out = (ie_pieces){0};
  int64_t pieces = 0;
  for (int64_t i = 0; i < count; i++)
    if (param[i]->grad) pieces += ie_div_up(param[i]->count, IE_PIECE);
  out->piece = calloc((size_t)ie_max_i64(1, pieces), sizeof *out->piece);
  if (!out->piece)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %lld pieces of parameters",
                        (long long)pieces);
  for (int64_t i = 0; i < count; i++) {
    if (!param[i]->grad) continue;
    for (int64_t begin = 0; begin < param[i]->count; begin += IE_PIECE)
      out->piece[out->count++] =
          (ie_piece){param[i], i, begin, ie_min_i64(IE_PIECE, param[i]->count - begin)};
  }
  return IE_OK;
}

void ie_pieces_free(ie_pieces *pieces) {
  free(pieces->piece);
  *pieces = (ie_pieces){0};
}
