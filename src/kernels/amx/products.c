/* Matrix-matrix products of class BF16 on AMX tiles: 32 rows x 32 tokens as 2 x 2 tiles, 32 columns a step.
 *
 * Rows of bf16 weights are the A operand as they are published (16 rows of 64 bytes, one stride apart); activations
 * were packed as the B operand; the result is a block of y transposed, f32. Rows of MXFP4 are decoded, exactly, to a
 * panel of bf16, once for all tokens, and those of f16 to two bf16 parts whose sum they are, hence two products a step.
 * While 32 rows are multiplied the next 32 are decoded, some columns between two steps, so that vector instructions run
 * in the shadow of the tiles. Rows and columns that do not fill a tile go through the panel too.
 *
 * Columns go in runs: 32 rows of one stay in the first-level cache while the tokens pass, whose sums are tiles in memory
 * meanwhile (which changes no bit). Tokens go in blocks that stay in the second-level cache while the rows pass.
 *
 * Denormal numbers: AMX takes bf16 inputs below 2^-126 as zero. This touches activations below 1.2e-38, and weights
 * of MXFP4 blocks with scale byte 0 or 1 (2^-127, 2^-126), which no trained model has. */
#include "kernels/amx/products.h"
#include "kernels/amx/tile.h"
#include "kernels/avx512/products_tiles.h"
#include "kernels/avx512/tiles_decode.h"

enum {
  TILE_ROWS = 16,
  BLOCK_ROWS = 2 * TILE_ROWS,
  BLOCK_TOKENS = 2 * IE_TILE_TOKENS,
  SUMS = BLOCK_ROWS * BLOCK_TOKENS,
  PANEL_BYTES = 1 << 20, /* of decoded rows: half of a 2 MiB second-level cache */
  PANEL_ROWS_MAX = 256,
  RUN_BYTES = 1024,        /* of a row of the panel in one run: 32 KiB of 32 rows */
  TOKEN_BYTES = 512 << 10, /* of packed tokens that rows pass over */
  TOKEN_PAIRS_MAX = 16     /* of groups: 64 KiB of sums */
};

/* Parts of bf16 that a number is the sum of. */
ALWAYS_INLINE int parts_of(ie_wformat format) {
  return format == IE_W_F16 ? 2 : 1;
}

/* Bytes of a step of a row of A. */
ALWAYS_INLINE size_t step_bytes(ie_wformat format) {
  return 64 * (size_t)parts_of(format);
}

/* A row of the panel: K numbers padded to whole steps, and 64 bytes more, so that rows of a power of two of bytes do
 * not fall into one set of the first-level cache. */
ALWAYS_INLINE size_t panel_stride(ie_wformat format, int64_t K) {
  return (size_t)ie_div_up(K, IE_TILE_COLS) * step_bytes(format) + 64;
}

/* Rows that are decoded at once: as many blocks as fit PANEL_BYTES. */
ALWAYS_INLINE int64_t panel_rows(ie_wformat format, int64_t K) {
  int64_t rows = (int64_t)(PANEL_BYTES / panel_stride(format, K)) / BLOCK_ROWS * BLOCK_ROWS;
  return ie_max_i64(BLOCK_ROWS, ie_min_i64(rows, PANEL_ROWS_MAX));
}

static int64_t token_pairs(int64_t K) {
  int64_t pairs = TOKEN_BYTES / (ie_div_up(K, IE_TILE_COLS) * 2 * IE_TILE_BYTES);
  return ie_max_i64(1, ie_min_i64(pairs, TOKEN_PAIRS_MAX));
}

static size_t sums_bytes(int64_t K) {
  return (size_t)token_pairs(K) * SUMS * sizeof(float);
}

ALWAYS_INLINE size_t scratch_for(ie_wformat format, int64_t K) {
  return sums_bytes(K) + (size_t)panel_rows(format, K) * panel_stride(format, K);
}

/* --- Weights ---------------------------------------------------------------------------------------------------- */

/* Rows of the panel that are being decoded, in units of 32 columns. */
typedef struct filler {
  const ie_wview *w;
  int64_t row, end; /* the next row, and where they end */
  int64_t step;     /* of that row, decoded next */
  uint8_t *out;     /* that row in the panel */
  size_t stride;
  int64_t pace; /* units between two steps of tiles */
} filler;

/* Units that cannot be decoded one by one: a row of bf16, and one of MXFP4 with scales beyond the normal numbers. */
ALWAYS_INLINE bool fills_rows(const filler *f, ie_wformat format) {
  if (format != IE_W_MXFP4) return format == IE_W_BF16;
  return !ie_tiles_scales_normal__avx512(f->w->part[1] + (size_t)f->row * f->w->row_bytes[1],
                                         ie_div_up(f->w->cols, IE_BLOCK_COLS));
}

static void fill_row(const filler *f) {
  const ie_wview *w = f->w;
  size_t K = (size_t)w->cols;
  if (w->format == IE_W_MXFP4) {
    ie_tiles_decode_mxfp4__avx512((uint16_t *)(void *)f->out, w, f->row);
    return;
  }
  memcpy(f->out, w->part[0] + (size_t)f->row * w->row_bytes[0], 2 * K);
  memset(f->out + 2 * K, 0, 2 * (ie_size_align(K, IE_TILE_COLS) - K));
}

ALWAYS_INLINE void fill_units(const filler *f, int64_t n, ie_wformat format) {
  const uint8_t *p = f->w->part[0] + (size_t)f->row * f->w->row_bytes[0];
  uint8_t *out = f->out + (size_t)f->step * step_bytes(format);
  if (format == IE_W_MXFP4) {
    const uint8_t *scales = f->w->part[1] + (size_t)f->row * f->w->row_bytes[1] + f->step;
    const __m512i table = table_bf16(ie_mxfp4_values);
    p += f->step * IE_MXFP4_BYTES;
    for (int64_t i = 0; i < n; i++) {
      _mm_prefetch((const char *)p + i * IE_MXFP4_BYTES + PREFETCH_BYTES, _MM_HINT_T0);
      decode_mxfp4_bf16((uint16_t *)(void *)(out + 64 * i), p + i * IE_MXFP4_BYTES, scales[i], table);
    }
  } else if (format == IE_W_F16) {
    p += f->step * 2 * IE_TILE_COLS;
    for (int64_t i = 0; i < n; i++) {
      _mm_prefetch((const char *)p + 64 * i + PREFETCH_BYTES, _MM_HINT_T0);
      decode_f16_bf16(out + 128 * i, out + 128 * i + 64, p + 64 * i,
                      f->w->cols - (f->step + i) * IE_TILE_COLS);
    }
  }
}

/* Decodes n more units, or what is left. */
ALWAYS_INLINE void fill_some(filler *f, int64_t n, ie_wformat format) {
  const int64_t steps = ie_div_up(f->w->cols, IE_TILE_COLS);
  while (n > 0 && f->row < f->end) {
    int64_t now = ie_min_i64(n, steps - f->step);
    if (f->step == 0 && fills_rows(f, format)) {
      fill_row(f);
      now = steps;
    } else {
      fill_units(f, now, format);
    }
    n -= now;
    f->step += now;
    if (f->step < steps) continue;
    f->step = 0;
    f->row++;
    f->out += f->stride;
  }
}

/* --- Tiles ------------------------------------------------------------------------------------------------------ */

/* Some steps of 32 rows and 32 tokens. */
typedef struct operands {
  const uint8_t *a, *b;
  size_t a_stride, b_group; /* from row to row, and from the first group of tokens to the second */
  int64_t steps;
} operands;

ALWAYS_INLINE void sums_load(const float *sums, bool first, bool pair) {
  const size_t stride = BLOCK_TOKENS * sizeof(float);
  if (first) {
    tile_zero(0);
    tile_zero(2);
    if (!pair) return;
    tile_zero(1);
    tile_zero(3);
    return;
  }
  tile_load(0, sums, stride);
  tile_load(2, sums + TILE_ROWS * BLOCK_TOKENS, stride);
  if (!pair) return;
  tile_load(1, sums + IE_TILE_TOKENS, stride);
  tile_load(3, sums + TILE_ROWS * BLOCK_TOKENS + IE_TILE_TOKENS, stride);
}

ALWAYS_INLINE void sums_store(float *sums, bool pair) {
  const size_t stride = BLOCK_TOKENS * sizeof(float);
  tile_store(0, sums, stride);
  tile_store(2, sums + TILE_ROWS * BLOCK_TOKENS, stride);
  if (!pair) return;
  tile_store(1, sums + IE_TILE_TOKENS, stride);
  tile_store(3, sums + TILE_ROWS * BLOCK_TOKENS + IE_TILE_TOKENS, stride);
}

/* Two A tiles a step and part times two (or one) B tiles, added to `sums` (32 rows, 32 tokens). */
ALWAYS_INLINE void multiply(float *sums, const operands *o, bool first, bool pair, filler *next,
                            ie_wformat format) {
  tile_barrier();
  sums_load(sums, first, pair);
  for (int64_t s = 0; s < o->steps; s++) {
    const uint8_t *b = o->b + s * IE_TILE_BYTES;
    tile_load(6, b, 64);
    if (pair) tile_load(7, b + o->b_group, 64);
#pragma GCC unroll 2
    for (int part = 0; part < parts_of(format); part++) {
      const uint8_t *a = o->a + (size_t)s * step_bytes(format) + 64 * part;
      tile_load(4, a, o->a_stride);
      tile_add_products(0, 4, 6);
      if (pair) tile_add_products(1, 4, 7);
      tile_load(5, a + TILE_ROWS * o->a_stride, o->a_stride);
      tile_add_products(2, 5, 6);
      if (pair) tile_add_products(3, 5, 7);
    }
    if (format != IE_W_BF16) fill_some(next, next->pace, format);
  }
  sums_store(sums, pair);
}

/* --- Loops ------------------------------------------------------------------------------------------------------ */

typedef struct panel {
  const uint8_t *rows; /* A, from row r0 on */
  size_t stride;
  int64_t r0, r1;
} panel;

/* 32 rows from r on times the tokens of pairs p0 .. p1 - 1. */
ALWAYS_INLINE void multiply_rows(const ie_product_args *args, const panel *w, int64_t r,
                                 const int64_t pairs[2], float *sums, filler *next, ie_wformat format) {
  const int64_t steps = ie_div_up(args->w.cols, IE_TILE_COLS), run = RUN_BYTES / (int64_t)step_bytes(format);
  const size_t group = (size_t)steps * IE_TILE_BYTES;
  const uint8_t *a = w->rows + (size_t)(r - w->r0) * w->stride;
  for (int64_t s = 0; s < steps; s += run)
    for (int64_t p = pairs[0]; p < pairs[1]; p++) {
      operands o = {.a = a + (size_t)s * step_bytes(format),
                    .b = (const uint8_t *)args->packed + 2 * (size_t)p * group + (size_t)s * IE_TILE_BYTES,
                    .a_stride = w->stride,
                    .b_group = group,
                    .steps = ie_min_i64(run, steps - s)};
      float *to = sums + (p - pairs[0]) * SUMS;
      if (args->T - p * BLOCK_TOKENS > IE_TILE_TOKENS)
        multiply(to, &o, s == 0, /*pair=*/true, next, format);
      else
        multiply(to, &o, s == 0, /*pair=*/false, next, format);
    }
  for (int64_t p = pairs[0]; p < pairs[1]; p++)
    for (int64_t i = 0; i < BLOCK_ROWS && r + i < w->r1; i += TILE_ROWS)
      ie_tiles_store__avx512(args, r + i, ie_min_i64(TILE_ROWS, w->r1 - r - i), p * BLOCK_TOKENS,
                             ie_min_i64(BLOCK_TOKENS, args->T - p * BLOCK_TOKENS),
                             sums + (p - pairs[0]) * SUMS + i * BLOCK_TOKENS, BLOCK_TOKENS);
}

/* A panel times all tokens. Of what is decoded (`next` not at its end), the first block of rows is decoded now and each
 * next one during the one before it. */
ALWAYS_INLINE void multiply_panel(const ie_product_args *args, const panel *w, float *sums, filler *next,
                                  ie_wformat format) {
  const int64_t last = next->end, all = ie_div_up(args->T, BLOCK_TOKENS), most = token_pairs(args->w.cols);
  next->end = ie_min_i64(next->row + BLOCK_ROWS, last);
  fill_some(next, INT64_MAX, format);
  for (int64_t p = 0; p < all; p += most) {
    int64_t pairs[2] = {p, ie_min_i64(p + most, all)};
    for (int64_t r = w->r0; r < w->r1; r += BLOCK_ROWS) {
      next->end = ie_min_i64(next->row + BLOCK_ROWS, last);
      next->pace = ie_div_up(next->end - next->row, pairs[1] - pairs[0]);
      multiply_rows(args, w, r, pairs, sums, next, format);
      fill_some(next, INT64_MAX, format);
    }
  }
}

ALWAYS_INLINE void run_format(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch,
                              ie_wformat format) {
  const ie_wview *w = &args->w;
  float *sums = scratch;
  uint8_t *rows = (uint8_t *)scratch + sums_bytes(w->cols);
  const size_t stride = panel_stride(format, w->cols);
  const int64_t most = panel_rows(format, w->cols);
  const bool in_place = format == IE_W_BF16 && w->cols % IE_TILE_COLS == 0;
  tiles_begin();
  panel at = {.r0 = r0};
  for (; at.r0 < r1; at.r0 = at.r1) {
    int64_t n = ie_min_i64(most, r1 - at.r0);
    filler next = {.w = w, .row = at.r0, .end = at.r0, .out = rows, .stride = stride};
    if (in_place && n >= BLOCK_ROWS) { /* whole blocks of rows as they lie in the file */
      n = n / BLOCK_ROWS * BLOCK_ROWS;
      at.rows = w->part[0] + (size_t)at.r0 * w->row_bytes[0];
      at.stride = w->row_bytes[0];
    } else {
      memset(rows + (size_t)n * stride, 0, (size_t)(ie_div_up(n, BLOCK_ROWS) * BLOCK_ROWS - n) * stride);
      next.end = at.r0 + n;
      at.rows = rows;
      at.stride = stride;
    }
    at.r1 = at.r0 + n;
    multiply_panel(args, &at, sums, &next, format);
  }
  tiles_end();
}

#define DEFINE_RUN(suffix, format)                                                                           \
  static void run_##suffix(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch) {             \
    run_format(args, r0, r1, scratch, format);                                                               \
  }                                                                                                          \
  static size_t scratch_##suffix(int64_t T, int64_t K) {                                                     \
    (void)T;                                                                                                 \
    return scratch_for(format, K);                                                                           \
  }
DEFINE_RUN(bf16, IE_W_BF16)
DEFINE_RUN(f16, IE_W_F16)
DEFINE_RUN(mxfp4, IE_W_MXFP4)

void ie_kernels_fill_products__amx(ie_kernels *out) {
  ie_product *many = out->many[IE_CLASS_BF16];
  many[IE_W_BF16] = (ie_product){
      ie_tiles_pack_bytes__avx512, ie_pack_tiles__avx512, scratch_bf16, run_bf16, BLOCK_ROWS, IE_TILE_TOKENS};
  many[IE_W_MXFP4] = (ie_product){ie_tiles_pack_bytes__avx512,
                                  ie_pack_tiles__avx512,
                                  scratch_mxfp4,
                                  run_mxfp4,
                                  BLOCK_ROWS,
                                  IE_TILE_TOKENS};
  many[IE_W_F16] = (ie_product){ie_tiles_pack_bytes__avx512,
                                ie_pack_tiles_halves__avx512,
                                scratch_f16,
                                run_f16,
                                BLOCK_ROWS,
                                IE_TILE_TOKENS};
  ie_kernels_fill_products_blocks__amx(out);
  /* Estimates: 16 tokens cost what one does, 8 to 9 GB/s of bf16 a thread and less of what is decoded first, where few
   * reads 16 at one token and half of that at four (docs/speed-notes/products.md). To be measured where AMX runs. */
  out->many_min_tok[IE_CLASS_BF16][IE_W_BF16] = out->many_min_tok[IE_CLASS_BF16][IE_W_F16] = 6;
  out->many_min_tok[IE_CLASS_BF16][IE_W_INT8] = out->many_min_tok[IE_CLASS_BF16][IE_W_INT4] = 6;
  out->many_min_tok[IE_CLASS_BF16][IE_W_MXFP4] = 4;
  out->many_min_tok[IE_CLASS_INT8][IE_W_INT8] = out->many_min_tok[IE_CLASS_INT8][IE_W_INT4] = 6;
  out->many_min_tok[IE_CLASS_INT8][IE_W_BF16] = out->many_min_tok[IE_CLASS_INT8][IE_W_F16] = 6;
  out->many_min_tok[IE_CLASS_INT8][IE_W_MXFP4] = 6;
}
