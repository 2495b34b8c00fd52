/* The loop around matrix-vector products, shared by the vector instruction sets.
 *
 * One thread reads memory fastest from several streams at once (docs/SPEED.md), so a range of rows is cut into four
 * runs of equal length, and row i of each run is multiplied at the same time: four contiguous streams, each
 * prefetched across the ends of its rows. Rows that are left over go one by one. A dot function computes each
 * output by the same operations in the same order whatever its shape, so that no element of y depends on the range,
 * on the place of its row in it, or on T. */
#ifndef CLOCHER_KERNELS_PRODUCTS_FEW_H
#define CLOCHER_KERNELS_PRODUCTS_FEW_H

#include "kernels/kern.h"

enum { IE_FEW_ROWS = 4, IE_FEW_TOKENS = 4 };

typedef struct ie_dots {
  const uint8_t *w[IE_FEW_ROWS];      /* rows in part 0 */
  const uint8_t *scales[IE_FEW_ROWS]; /* the same rows in part 1; NULL for float weights */
  const uint8_t *x;                   /* packed tokens, token_bytes apart, 64-byte aligned */
  size_t token_bytes;
  int64_t K;
} ie_dots;

/* out[row * tokens + token] = the dot products of `rows` rows with `tokens` tokens. */
typedef void ie_dots_fn(float *out, const ie_dots *dots);

/* Which part of an ie_dots one pass takes: rows first .. first + rows - 1, by `tokens` tokens. Constants at each
 * call of an inlined pass, so that its loops unroll. */
typedef struct ie_shape {
  int first, rows, tokens;
} ie_shape;

typedef struct ie_few {
  size_t (*token_bytes)(int64_t K);
  ie_dots_fn *four_rows[3], *one_row[3]; /* with 1, 2 and 4 tokens */
} ie_few;

void ie_few_run(const ie_few *few, const ie_product_args *args, int64_t r0, int64_t r1);

#endif
