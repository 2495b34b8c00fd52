#include "kernels/products_many.h"

#include "kernels/products_common.h"

/* What one call works on: panels of decoded weights, and sums[panel][pair of groups][row][token]. */
typedef struct work {
  const ie_many *many;
  const ie_product_args *args;
  int64_t r0, r1, t0, t1;
  float *panels, *sums;
} work;

static int64_t padded_cols(const ie_many *many, int64_t K) {
  return (int64_t)ie_size_align((size_t)K, (size_t)many->pad_cols);
}

size_t ie_many_pack_bytes(const ie_many *many, int64_t T, int64_t K) {
  return ie_size_align((size_t)T, (size_t)many->lanes) * (size_t)padded_cols(many, K) * sizeof(float);
}

size_t ie_many_scratch_bytes(int64_t T, int64_t K) {
  (void)T;
  (void)K;
  return IE_MANY_ROWS * (IE_MANY_COLS + IE_MANY_TOKENS) * sizeof(float);
}

static float *sums_of(const work *tile, int64_t panel, int64_t pair) {
  int64_t pairs = IE_MANY_TOKENS / (2 * tile->many->lanes);
  return tile->sums + (panel * pairs + pair) * tile->many->rows * 2 * tile->many->lanes;
}

/* Decodes columns k0 .. k0 + n - 1 of all rows; rows that complete the last panel are zero. */
static void decode_panels(const work *tile, int64_t k0, int64_t n) {
  int64_t rows = ie_div_up(tile->r1 - tile->r0, tile->many->rows) * tile->many->rows;
  for (int64_t r = 0; r < rows; r++) {
    float *row = tile->panels + r * IE_MANY_COLS;
    if (tile->r0 + r < tile->r1)
      tile->many->decode(row, &tile->args->w, tile->r0 + r, k0, n);
    else
      memset(row, 0, IE_MANY_COLS * sizeof(float));
  }
}

/* Adds the products of one block of columns to the sums. */
static void multiply_block(const work *tile, int64_t k0, int64_t n) {
  const ie_many *many = tile->many;
  size_t group = (size_t)padded_cols(many, tile->args->w.cols) * (size_t)many->lanes;
  int64_t panels = ie_div_up(tile->r1 - tile->r0, many->rows);
  for (int64_t t = tile->t0, pair = 0; t < tile->t1; t += 2 * many->lanes, pair++) {
    const float *x = (const float *)tile->args->packed + (size_t)(t / many->lanes) * group + k0 * many->lanes;
    bool two = t + many->lanes < tile->t1;
    for (int64_t p = 0; p < panels; p++)
      (two ? many->two_groups : many->one_group)(
          sums_of(tile, p, pair), tile->panels + p * many->rows * IE_MANY_COLS, x, group, n, k0 == 0);
  }
}

void ie_many_store(const ie_product_args *args, int64_t r, int64_t rows, int64_t t, int64_t tokens,
                   const float *sums, int64_t stride) {
  float bias[IE_MANY_ROWS_MICRO];
  for (int64_t i = 0; i < rows; i++) bias[i] = ie_product_bias(args, r + i);
  for (int64_t j = 0; j < tokens; j++)
    for (int64_t i = 0; i < rows; i++) ie_product_store(args, t + j, r + i, sums[i * stride + j], bias[i]);
}

static void store_sums(const work *tile) {
  const ie_many *many = tile->many;
  int64_t tokens = 2 * many->lanes;
  for (int64_t p = 0; tile->r0 + p * many->rows < tile->r1; p++) {
    int64_t r = tile->r0 + p * many->rows, rows = ie_min_i64(many->rows, tile->r1 - r);
    for (int64_t t = tile->t0, pair = 0; t < tile->t1; t += tokens, pair++)
      many->store(tile->args, r, rows, t, ie_min_i64(tokens, tile->t1 - t), sums_of(tile, p, pair), tokens);
  }
}

void ie_many_run(const ie_many *many, const ie_product_args *args, int64_t r0, int64_t r1, void *scratch) {
  work tile = {.many = many, .args = args, .panels = scratch};
  tile.sums = tile.panels + IE_MANY_ROWS * IE_MANY_COLS;
  int64_t K = args->w.cols;
  for (tile.t0 = 0; tile.t0 < args->T; tile.t0 = tile.t1) {
    tile.t1 = ie_min_i64(tile.t0 + IE_MANY_TOKENS, args->T);
    for (tile.r0 = r0; tile.r0 < r1; tile.r0 = tile.r1) {
      tile.r1 = ie_min_i64(tile.r0 + IE_MANY_ROWS, r1);
      for (int64_t k0 = 0; k0 < K; k0 += IE_MANY_COLS) {
        int64_t n = ie_min_i64(IE_MANY_COLS, K - k0);
        decode_panels(&tile, k0, n);
        multiply_block(&tile, k0, padded_cols(many, n));
      }
      store_sums(&tile);
    }
  }
}
