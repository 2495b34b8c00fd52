/* The loops around matrix-matrix products on FMA units, shared by the vector instruction sets (after Goto and van
 * de Geijn, "Anatomy of high-performance matrix multiplication", 2008).
 *
 * Tokens are the lanes. Activations are packed once, in groups of as many tokens as a register has lanes, K x lanes
 * numbers a group, so that a product needs no shuffle and no transposed weights: a panel of rows is decoded to f32
 * where it lies in K, and each weight is broadcast. Columns go in blocks: a block of packed tokens stays in the
 * first-level cache while all panels of the range pass over it. Each output is one chain of FMA over the columns in
 * their packed order, whatever the range of rows or T. */
#ifndef CLOCHER_KERNELS_PRODUCTS_MANY_H
#define CLOCHER_KERNELS_PRODUCTS_MANY_H

#include "kernels/kern.h"

enum {
  IE_MANY_COLS = 256,     /* columns of a block */
  IE_MANY_ROWS = 96,      /* rows of weights that are decoded at once, at most */
  IE_MANY_TOKENS = 512,   /* tokens whose sums are held at once, at most */
  IE_MANY_ROWS_MICRO = 12 /* largest panel */
};

typedef struct ie_many {
  int rows;     /* of one panel; divides IE_MANY_ROWS */
  int lanes;    /* tokens of a packed group */
  int pad_cols; /* K is padded with zeros to a multiple of this in packed activations; divides IE_MANY_COLS */
  /* panel[c] (n rounded up to pad_cols numbers): columns k0 .. k0 + n - 1 of a row, in packed order. */
  void (*decode)(float *panel, const ie_wview *w, int64_t row, int64_t k0, int64_t n);
  /* Two groups of tokens (x, and the next one x_group numbers further) or one, times one panel (rows IE_MANY_COLS
   * numbers apart), n columns: added to sums (rows, 2 * lanes), which start at zero when `first`. */
  void (*two_groups)(float *sums, const float *panel, const float *x, size_t x_group, int64_t n, bool first);
  void (*one_group)(float *sums, const float *panel, const float *x, size_t x_group, int64_t n, bool first);
  /* Stores the sums of `rows` rows (`stride` numbers apart) and `tokens` tokens from (r, t) on to y. */
  void (*store)(const ie_product_args *args, int64_t r, int64_t rows, int64_t t, int64_t tokens,
                const float *sums, int64_t stride);
} ie_many;

/* A store in plain C. */
void ie_many_store(const ie_product_args *args, int64_t r, int64_t rows, int64_t t, int64_t tokens,
                   const float *sums, int64_t stride);

size_t ie_many_pack_bytes(const ie_many *many, int64_t T, int64_t K);
size_t ie_many_scratch_bytes(int64_t T, int64_t K);
void ie_many_run(const ie_many *many, const ie_product_args *args, int64_t r0, int64_t r1, void *scratch);

#endif
