/* Matrix-matrix products of class BF16 on AMX tiles: 32 rows x 32 tokens as 2 x 2 tiles, 32 columns a step.
 *
 * Rows of weights are the A operand as they are published (16 rows of 64 bytes, one stride apart); activations were
 * packed as the B operand; the result is a block of y transposed, f32. MXFP4 rows are first decoded, exactly, to a
 * panel of bf16, once for all tokens, and so are rows and columns that do not fill a tile.
 *
 * Denormal numbers: AMX takes bf16 inputs below 2^-126 as zero. This touches activations below 1.2e-38, and weights
 * of MXFP4 blocks with scale byte 0 or 1 (2^-127, 2^-126), which no trained model has. */
#include "kernels/amx/tile.h"
#include "kernels/avx512/products_tiles.h"
#include "kernels/products_common.h"

enum {
  TILE_ROWS = 16,
  BLOCK_ROWS = 2 * TILE_ROWS,
  BLOCK_TOKENS = 2 * IE_TILE_TOKENS,
  PANEL_BYTES = 1 << 20, /* of decoded rows: half of a 2 MiB second-level cache */
  PANEL_ROWS_MAX = 256,
  SUMS_BYTES = BLOCK_ROWS * BLOCK_TOKENS * (int)sizeof(float)
};

/* A row of the panel: K numbers padded to whole steps, and 64 bytes more, so that rows of a power of two of bytes do
 * not fall into one set of the first-level cache. */
static size_t panel_stride(int64_t K) {
  return ie_size_align((size_t)K, IE_TILE_COLS) * 2 + 64;
}

/* Rows that are decoded at once: as many blocks as fit PANEL_BYTES. */
static int64_t panel_rows(int64_t K) {
  int64_t rows = (int64_t)(PANEL_BYTES / panel_stride(K)) / BLOCK_ROWS * BLOCK_ROWS;
  return ie_max_i64(BLOCK_ROWS, ie_min_i64(rows, PANEL_ROWS_MAX));
}

static size_t scratch_bytes(int64_t T, int64_t K) {
  (void)T;
  return SUMS_BYTES + (size_t)panel_rows(K) * panel_stride(K);
}

/* The A operand of 32 rows: whole steps at `rows`, `stride` bytes from row to row. */
typedef struct operand {
  const uint8_t *rows;
  size_t stride;
} operand;

/* Two A tiles a step times two (or one) B tiles; the sums go to `sums` (32 rows, 32 tokens). */
static void multiply_pair(float *sums, operand a, const uint8_t *b, size_t b_group, int64_t steps) {
  tile_barrier();
  tile_zero(0);
  tile_zero(1);
  tile_zero(2);
  tile_zero(3);
  for (int64_t s = 0; s < steps; s++) {
    tile_load(6, b + s * IE_TILE_BYTES, 64);
    tile_load(4, a.rows + s * 64, a.stride);
    tile_add_products(0, 4, 6);
    tile_load(7, b + b_group + s * IE_TILE_BYTES, 64);
    tile_add_products(1, 4, 7);
    tile_load(5, a.rows + TILE_ROWS * a.stride + (size_t)s * 64, a.stride);
    tile_add_products(2, 5, 6);
    tile_add_products(3, 5, 7);
  }
  const size_t stride = BLOCK_TOKENS * sizeof(float);
  tile_store(0, sums, stride);
  tile_store(1, sums + IE_TILE_TOKENS, stride);
  tile_store(2, sums + TILE_ROWS * BLOCK_TOKENS, stride);
  tile_store(3, sums + TILE_ROWS * BLOCK_TOKENS + IE_TILE_TOKENS, stride);
}

static void multiply_single(float *sums, operand a, const uint8_t *b, int64_t steps) {
  tile_barrier();
  tile_zero(0);
  tile_zero(2);
  for (int64_t s = 0; s < steps; s++) {
    tile_load(6, b + s * IE_TILE_BYTES, 64);
    tile_load(4, a.rows + s * 64, a.stride);
    tile_add_products(0, 4, 6);
    tile_load(5, a.rows + TILE_ROWS * a.stride + (size_t)s * 64, a.stride);
    tile_add_products(2, 5, 6);
  }
  const size_t stride = BLOCK_TOKENS * sizeof(float);
  tile_store(0, sums, stride);
  tile_store(2, sums + TILE_ROWS * BLOCK_TOKENS, stride);
}

static void store_block(const ie_product_args *args, int64_t r, int64_t rows, int64_t t, int64_t tokens,
                        const float *sums) {
  for (int64_t i = 0; i < rows; i += TILE_ROWS)
    ie_tiles_store__avx512(args, r + i, ie_min_i64(TILE_ROWS, rows - i), t, tokens, sums + i * BLOCK_TOKENS,
                           BLOCK_TOKENS);
}

/* Rows r0 .. r1 - 1 of a panel times all tokens: a pair of token groups stays near while the rows pass. */
static void multiply_rows(const ie_product_args *args, int64_t r0, int64_t r1, operand a, float *sums) {
  int64_t steps = ie_div_up(args->w.cols, IE_TILE_COLS);
  size_t group = (size_t)steps * IE_TILE_BYTES;
  for (int64_t t = 0; t < args->T; t += BLOCK_TOKENS) {
    const uint8_t *b = (const uint8_t *)args->packed + (size_t)(t / IE_TILE_TOKENS) * group;
    int64_t tokens = ie_min_i64(BLOCK_TOKENS, args->T - t);
    for (int64_t r = r0; r < r1; r += BLOCK_ROWS) {
      operand block = {a.rows + (size_t)(r - r0) * a.stride, a.stride};
      if (tokens > IE_TILE_TOKENS)
        multiply_pair(sums, block, b, group, steps);
      else
        multiply_single(sums, block, b, steps);
      store_block(args, r, ie_min_i64(BLOCK_ROWS, r1 - r), t, tokens, sums);
    }
  }
}

/* One row of the panel, zeros from column K on. */
static void fill_row(uint16_t *out, const ie_wview *w, int64_t row) {
  size_t K = (size_t)w->cols;
  if (w->format == IE_W_MXFP4)
    ie_tiles_decode_mxfp4__avx512(out, w, row);
  else
    memcpy(out, w->part[0] + (size_t)row * w->row_bytes[0], 2 * K);
  memset(out + K, 0, 2 * (ie_size_align(K, IE_TILE_COLS) - K));
}

static void run(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch) {
  const ie_wview *w = &args->w;
  float *sums = scratch;
  uint8_t *panel = (uint8_t *)scratch + SUMS_BYTES;
  const size_t stride = panel_stride(w->cols);
  const int64_t most = panel_rows(w->cols);
  const bool in_place = w->format == IE_W_BF16 && w->cols % IE_TILE_COLS == 0;
  tiles_begin();
  for (int64_t r = r0; r < r1;) {
    int64_t rows = ie_min_i64(most, r1 - r);
    if (in_place && rows >= BLOCK_ROWS) { /* whole blocks of rows as they lie in the file */
      rows = rows / BLOCK_ROWS * BLOCK_ROWS;
      multiply_rows(args, r, r + rows, (operand){w->part[0] + (size_t)r * w->row_bytes[0], w->row_bytes[0]},
                    sums);
    } else {
      int64_t filled = ie_div_up(rows, BLOCK_ROWS) * BLOCK_ROWS;
      for (int64_t i = 0; i < rows; i++) fill_row((uint16_t *)(void *)(panel + (size_t)i * stride), w, r + i);
      memset(panel + (size_t)rows * stride, 0, (size_t)(filled - rows) * stride);
      multiply_rows(args, r, r + rows, (operand){panel, stride}, sums);
    }
    r += rows;
  }
  tiles_end();
}

void ie_kernels_fill_products__amx(ie_kernels *out) {
  const ie_product product = {
      ie_tiles_pack_bytes__avx512, ie_pack_tiles__avx512, scratch_bytes, run, BLOCK_ROWS, IE_TILE_TOKENS};
  out->many[IE_CLASS_BF16][IE_W_BF16] = product;
  out->many[IE_CLASS_BF16][IE_W_MXFP4] = product;
  /* Estimates from the bandwidth of one-column tiles (docs/SPEED.md); to be measured where AMX runs. */
  out->many_min_tok[IE_CLASS_BF16][IE_W_BF16] = 6;
  out->many_min_tok[IE_CLASS_BF16][IE_W_MXFP4] = 4;
}
