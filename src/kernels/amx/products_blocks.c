/* Matrix-matrix products on AMX tiles of blocks of columns whose scale bf16 cannot take in: INT8, INT4 and MXFP4 in class
 * INT8 (TDPBSSD, exact integer sums), INT8 and INT4 in class BF16, bf16 and f16 in class INT8 (TDPBF16PS; codes are
 * exact in bf16, and an f16 is two parts).
 *
 * 16 rows x 16 tokens at a time: one tile holds the sums of one block, is stored to the first-level cache, and 16
 * vector registers take it in with its scales. A tile is stored two blocks after it was begun and read one block after
 * that, so that tiles and vectors work at the same time. docs/speed-notes/products.md counts both.
 *
 * Class INT8: activations, blocks and the order of sums are those of avx512/products_many_int8.c, to the bit: four
 * chains over blocks c, c + 4, c + 8 ..., added in their order. The others: runs of RUN_COLS columns, added in their
 * order; a run of 16 rows stays in the first-level cache while tokens pass. */
#include "kernels/amx/products.h"
#include "kernels/amx/tile.h"
#include "kernels/avx512/products.h"
#include "kernels/avx512/products_tiles.h"
#include "kernels/avx512/tiles_decode.h"
#include "kernels/avx512/transpose.h"

#include <stddef.h>

enum {
  ROWS = 16,
  TOKENS = IE_TILE_TOKENS,
  SUMS = ROWS * TOKENS,
  SUMS_BYTES = SUMS * (int)sizeof(float),
  RING = 4,                /* tiles in flight */
  RUN_COLS = 512,          /* 16 KiB of bf16 rows */
  PANEL_BYTES = 512 << 10, /* of decoded rows: a quarter of a 2 MiB second-level cache */
  PANEL_ROWS_MAX = 256,    /* a multiple of ROWS */
  TOKEN_BYTES = 1 << 20,   /* of packed tokens that rows pass over */
  TOKEN_GROUPS_MAX = 64,
  STORE_AFTER = 2,
  ADD_AFTER = 3 /* blocks after the one whose tile is begun */
};

/* How the blocks of a weight are multiplied. */
typedef struct block_kind {
  ie_wformat format;
  bool integers;  /* quantised weights in class INT8: scales of rows and of tokens */
  bool of_tokens; /* float weights in class INT8: scales of tokens alone; false for both: of rows alone */
  int cols;       /* of a scaled block, hence of one tile of sums */
  int products;   /* tile products of a block: of columns, or of two parts of the weights */
  int a_bytes;    /* of a block in a row of A */
  int b_bytes;    /* and of packed tokens */
} block_kind;

static const block_kind kind_int8_mxfp4 = {IE_W_MXFP4, true, false, 32, 1, 32, sizeof(group_block)};
static const block_kind kind_int8_int8 = {IE_W_INT8, true, false, 32, 1, 32, sizeof(group_block)};
static const block_kind kind_int8_int4 = {IE_W_INT4, true, false, 32, 1, 32, sizeof(group_block)};
static const block_kind kind_int8_bf16 = {IE_W_BF16, false, true, 32, 1, 64, IE_SCALED_TILE_BYTES};
static const block_kind kind_int8_f16 = {IE_W_F16, false, true, 32, 2, 128, IE_SCALED_TILE_BYTES};
static const block_kind kind_bf16_int8 = {IE_W_INT8, false, false, 32, 1, 64, IE_TILE_BYTES};
static const block_kind kind_bf16_int4 = {IE_W_INT4, false, false, 64, 2, 128, 2 * IE_TILE_BYTES};

/* --- Tiles ------------------------------------------------------------------------------------------------------ */

/* Some blocks of 16 rows and 16 tokens, each a step after the one before. */
typedef struct pass {
  const uint8_t *a, *b;
  size_t a_stride, a_step, b_step;
  size_t b_offset;     /* of b from the tokens of its group */
  const float *scales; /* (blocks, ROWS) of the weights */
  int64_t scale_step, n;
  int64_t last_products; /* of the last block: it may have fewer columns */
} pass;

/* Begins block i in tile t: of two operands in turn, so that a load need not wait for the product before. */
#define BEGIN_BLOCK(t, ta, tb)                                                                               \
  do {                                                                                                       \
    const uint8_t *a = p->a + (size_t)i * p->a_step, *b = p->b + (size_t)i * p->b_step;                      \
    tile_zero(t);                                                                                            \
    tile_load(tb, b, 64);                                                                                    \
    tile_load(ta, a, p->a_stride);                                                                           \
    if (kind.integers)                                                                                       \
      tile_add_bytes(t, ta, tb);                                                                             \
    else                                                                                                     \
      tile_add_products(t, ta, tb);                                                                          \
    if (kind.products == 2 && (i + 1 < p->n || p->last_products == 2)) {                                     \
      if (!kind.of_tokens) tile_load(tb, b + IE_TILE_BYTES, 64);                                             \
      tile_load(ta, a + 64, p->a_stride);                                                                    \
      tile_add_products(t, ta, tb);                                                                          \
    }                                                                                                        \
  } while (0)

/* Adds the sums of block i with its scales. */
ALWAYS_INLINE void add_block(__m512 sum[ROWS], const void *tile, const pass *p, int64_t i, block_kind kind) {
  const float *scale = p->scales + i * p->scale_step;
  __m512 token = _mm512_setzero_ps();
  if (kind.integers || kind.of_tokens)
    token = _mm512_load_ps(p->b + (size_t)i * p->b_step +
                           (kind.integers ? offsetof(group_block, scale) : IE_TILE_BYTES));
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; r++) {
    __m512 part;
    if (kind.integers)
      part = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512((const int32_t *)tile + TOKENS * r)), token);
    else
      part = _mm512_load_ps((const float *)tile + TOKENS * r);
    sum[r] = _mm512_fmadd_ps(part, kind.of_tokens ? token : _mm512_set1_ps(scale[r]), sum[r]);
  }
}

/* What is done while block i is begun in tile t: an older one is stored, and one older still is added. */
#define STEP(t, ta, tb, stored)                                                                              \
  do {                                                                                                       \
    if (i < p->n) BEGIN_BLOCK(t, ta, tb);                                                                    \
    if (i >= STORE_AFTER && i < p->n + STORE_AFTER) tile_store(stored, ring[stored], 64);                    \
    if (i >= ADD_AFTER && i < p->n + ADD_AFTER)                                                              \
      add_block(sum, ring[(t + 1) % RING], p, i - ADD_AFTER, kind);                                          \
    i++;                                                                                                     \
  } while (0)

/* out (ROWS, TOKENS) = the sums of a pass, or += them. */
ALWAYS_INLINE void multiply(float *out, const pass *p, bool first, block_kind kind) {
  _Alignas(64) float ring[RING][SUMS];
  __m512 sum[ROWS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; r++) sum[r] = _mm512_setzero_ps();
  tile_barrier();
  for (int64_t i = 0; i < p->n + ADD_AFTER;) {
    STEP(0, 4, 6, 2);
    STEP(1, 5, 7, 3);
    STEP(2, 4, 6, 0);
    STEP(3, 5, 7, 1);
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; r++) {
    float *to = out + TOKENS * r;
    _mm512_store_ps(to, first ? sum[r] : _mm512_add_ps(_mm512_load_ps(to), sum[r]));
  }
}

/* --- Weights ---------------------------------------------------------------------------------------------------- */

static int64_t block_count(block_kind kind, int64_t K) {
  return ie_div_up(K, kind.cols);
}

/* Bytes of a decoded row, in whole chunks of what is decoded at once; 64 more as in products.c. */
static size_t panel_stride(block_kind kind, int64_t K) {
  return (size_t)ie_div_up(K, MX_CHUNK_COLS) * (size_t)(MX_CHUNK_COLS / kind.cols * kind.a_bytes) + 64;
}

static size_t scale_blocks(block_kind kind, int64_t K) {
  return kind.of_tokens ? 0 : ie_size_align((size_t)block_count(kind, K), 16);
}

static int64_t panel_rows(block_kind kind, int64_t K) {
  int64_t rows = (int64_t)(PANEL_BYTES / panel_stride(kind, K)) / ROWS * ROWS;
  return ie_max_i64(ROWS, ie_min_i64(rows, PANEL_ROWS_MAX));
}

static int64_t token_groups(block_kind kind, int64_t K) {
  int64_t groups = TOKEN_BYTES / (block_count(kind, K) * kind.b_bytes);
  return ie_max_i64(1, ie_min_i64(groups, TOKEN_GROUPS_MAX));
}

/* Sums of a block of tokens, then the panel, then its scales (panel rows / ROWS, blocks, ROWS). */
static size_t scratch_for(block_kind kind, int64_t K) {
  return (size_t)token_groups(kind, K) * SUMS_BYTES +
         (size_t)panel_rows(kind, K) * (panel_stride(kind, K) + scale_blocks(kind, K) * sizeof(float));
}

/* Scales of 16 rows, side by side; rows beyond the last one have none. */
ALWAYS_INLINE void decode_scales(float *out, const ie_wview *w, int64_t row, int64_t rows, block_kind kind) {
  int64_t blocks = block_count(kind, w->cols);
  /* INT4 in class BF16 has a scale for each 64 columns: read as INT8 has them */
  ie_wformat as = kind.format == IE_W_INT4 && kind.cols == 64 ? IE_W_INT8 : kind.format;
  for (int64_t b = 0; b < blocks; b += 16) {
    __m512i v[ROWS];
    for (int64_t i = 0; i < ROWS; i++) {
      v[i] = _mm512_setzero_si512();
      if (i < rows)
        v[i] = _mm512_castps_si512(
            block_scales(w->part[1] + (size_t)(row + i) * w->row_bytes[1], b, blocks, as));
    }
    transpose_16x16(v);
    for (int64_t i = 0; i < 16; i++) _mm512_store_si512(out + (b + i) * ROWS, v[i]);
  }
}

/* One row of A. Beyond the last column lie codes of zero, or what meets activations of zero. */
ALWAYS_INLINE void decode_row(uint8_t *out, const ie_wview *w, int64_t row, block_kind kind) {
  const uint8_t *p = w->part[0] + (size_t)row * w->row_bytes[0];
  const int64_t steps = ie_div_up(w->cols, IE_TILE_COLS);
  if (kind.format == IE_W_INT8 && kind.integers)
    memcpy(out, p, w->row_bytes[0]);
  else if (kind.format == IE_W_BF16) {
    memset(out + 64 * (steps - 1), 0, 64);
    memcpy(out, p, (size_t)w->cols * 2);
  } else if (kind.format == IE_W_F16)
    for (int64_t b = 0; b < steps; b++)
      decode_f16_bf16(out + 128 * b, out + 128 * b + 64, p + 64 * b, w->cols - IE_TILE_COLS * b);
  else if (kind.format == IE_W_INT8)
    for (int64_t b = 0; b < block_count(kind, w->cols); b++) decode_int8_bf16(out + 64 * b, p + 32 * b);
  else if (kind.integers)
    decode_nibbles_int8(out, p, steps, kind.format);
  else {
    const __m512i table = table_bf16(ie_int4_values);
    for (int64_t b = 0; b < steps; b++) decode_int4_bf16(out + 64 * b, p + 16 * b, table);
  }
}

/* --- Loops ------------------------------------------------------------------------------------------------------ */

/* Decoded rows r0 .. r1 - 1, or rows where they lie in the file. */
typedef struct panel {
  const uint8_t *rows;
  size_t stride;
  const float *scales;
  int64_t r0, r1;
} panel;

/* A pass over one chain (class INT8) or run (class BF16) of a block of tokens: 16 rows from `rows` on. */
ALWAYS_INLINE pass pass_make(const panel *w, int64_t rows, int64_t K, int64_t number, block_kind kind) {
  int64_t blocks = block_count(kind, K), run = RUN_COLS / kind.cols;
  int64_t begin = kind.integers ? number : number * run, step = kind.integers ? CHAINS : 1;
  int64_t n = kind.integers ? chain_start(number + 1, blocks) - chain_start(number, blocks)
                            : ie_min_i64(run, blocks - begin);
  size_t packed = (size_t)(kind.integers ? chain_start(number, blocks) : begin);
  pass p = {.a = w->rows + (size_t)rows * w->stride + (size_t)begin * (size_t)kind.a_bytes,
            .a_stride = w->stride,
            .a_step = (size_t)step * (size_t)kind.a_bytes,
            .b_step = (size_t)kind.b_bytes,
            .b_offset = packed * (size_t)kind.b_bytes,
            .scales = w->scales + (size_t)rows * scale_blocks(kind, K) + begin * ROWS,
            .scale_step = step * ROWS,
            .n = n};
  bool end = kind.cols > IE_TILE_COLS && begin + n == blocks;
  p.last_products = end ? ie_div_up(K - (blocks - 1) * kind.cols, IE_TILE_COLS) : kind.products;
  return p;
}

/* A panel times all tokens: blocks of tokens stay in the second-level cache while rows pass. */
ALWAYS_INLINE void multiply_panel(const ie_product_args *args, const panel *w, float *sums, block_kind kind) {
  int64_t K = args->w.cols, groups = ie_div_up(args->T, TOKENS), most = token_groups(kind, K);
  size_t group = (size_t)(ie_div_up(K, IE_TILE_COLS) * (kind.b_bytes / (kind.cols / IE_TILE_COLS)));
  int64_t passes = kind.integers ? CHAINS : ie_div_up(K, RUN_COLS);
  for (int64_t g0 = 0; g0 < groups; g0 += most) {
    int64_t g1 = ie_min_i64(g0 + most, groups);
    for (int64_t r = w->r0; r < w->r1; r += ROWS) {
      for (int64_t number = 0; number < passes; number++) {
        pass p = pass_make(w, r - w->r0, K, number, kind);
        for (int64_t g = g0; g < g1; g++) {
          pass one = p;
          one.b = (const uint8_t *)args->packed + (size_t)g * group + p.b_offset;
          multiply(sums + (g - g0) * SUMS, &one, number == 0, kind);
        }
      }
      for (int64_t g = g0; g < g1; g++)
        ie_tiles_store__avx512(args, r, ie_min_i64(ROWS, w->r1 - r), g * TOKENS,
                               ie_min_i64(TOKENS, args->T - g * TOKENS), sums + (g - g0) * SUMS, TOKENS);
    }
  }
}

/* The operand is what lies in the file. */
ALWAYS_INLINE bool lies_as_operand(const ie_wview *w, block_kind kind) {
  if (kind.format == IE_W_BF16) return w->cols % IE_TILE_COLS == 0;
  return kind.integers && kind.format == IE_W_INT8;
}

ALWAYS_INLINE void run_kind(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch,
                            block_kind kind) {
  const ie_wview *w = &args->w;
  const int64_t K = w->cols, most = panel_rows(kind, K);
  const size_t stride = panel_stride(kind, K);
  float *sums = scratch, *scales = sums + token_groups(kind, K) * SUMS;
  uint8_t *rows = (uint8_t *)(scales + (size_t)most * scale_blocks(kind, K));
  if (kind.integers)
    tiles_begin_bytes();
  else
    tiles_begin();
  panel at = {.rows = rows, .stride = stride, .scales = scales};
  for (at.r0 = r0; at.r0 < r1; at.r0 = at.r1) {
    int64_t n = ie_min_i64(most, r1 - at.r0);
    bool in_place = n >= ROWS && lies_as_operand(w, kind);
    if (in_place) n = n / ROWS * ROWS;
    at.r1 = at.r0 + n;
    at.rows = in_place ? w->part[0] + (size_t)at.r0 * w->row_bytes[0] : rows;
    at.stride = in_place ? w->row_bytes[0] : stride;
    for (int64_t i = 0; i < n && !kind.of_tokens; i += ROWS)
      decode_scales(scales + (size_t)i * scale_blocks(kind, K), w, at.r0 + i, n - i, kind);
    for (int64_t i = 0; i < n && !in_place; i++) decode_row(rows + (size_t)i * stride, w, at.r0 + i, kind);
    if (!in_place) memset(rows + (size_t)n * stride, 0, (size_t)(ie_div_up(n, ROWS) * ROWS - n) * stride);
    multiply_panel(args, &at, sums, kind);
  }
  tiles_end();
}

#define DEFINE_RUN(name)                                                                                     \
  static void run_##name(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch) {               \
    run_kind(args, r0, r1, scratch, kind_##name);                                                            \
  }                                                                                                          \
  static size_t scratch_##name(int64_t T, int64_t K) {                                                       \
    (void)T;                                                                                                 \
    return scratch_for(kind_##name, K);                                                                      \
  }
DEFINE_RUN(int8_mxfp4)
DEFINE_RUN(int8_int8)
DEFINE_RUN(int8_int4)
DEFINE_RUN(int8_bf16)
DEFINE_RUN(int8_f16)
DEFINE_RUN(bf16_int8)
DEFINE_RUN(bf16_int4)

/* The activations of class INT8 are those of the AVX-512 kernels. */
static ie_product of_integers(const ie_product *avx512, ie_product own) {
  own.pack_bytes = avx512->pack_bytes;
  own.pack = avx512->pack;
  own.pack_tok = avx512->pack_tok;
  return own;
}

void ie_kernels_fill_products_blocks__amx(ie_kernels *out) {
  ie_product *int8 = out->many[IE_CLASS_INT8], *bf16 = out->many[IE_CLASS_BF16];
  int8[IE_W_MXFP4] = of_integers(
      &ie_many_int8_mxfp4__avx512,
      (ie_product){.scratch_bytes = scratch_int8_mxfp4, .run = run_int8_mxfp4, .row_multiple = ROWS});
  int8[IE_W_INT8] = of_integers(
      &ie_many_int8_int8__avx512,
      (ie_product){.scratch_bytes = scratch_int8_int8, .run = run_int8_int8, .row_multiple = ROWS});
  int8[IE_W_INT4] = of_integers(
      &ie_many_int8_int4__avx512,
      (ie_product){.scratch_bytes = scratch_int8_int4, .run = run_int8_int4, .row_multiple = ROWS});
  int8[IE_W_BF16] = (ie_product){ie_tiles_int8_pack_bytes__avx512,
                                 ie_pack_tiles_int8__avx512,
                                 scratch_int8_bf16,
                                 run_int8_bf16,
                                 ROWS,
                                 TOKENS};
  int8[IE_W_F16] = (ie_product){ie_tiles_int8_pack_bytes__avx512,
                                ie_pack_tiles_int8_halves__avx512,
                                scratch_int8_f16,
                                run_int8_f16,
                                ROWS,
                                TOKENS};
  bf16[IE_W_INT8] = (ie_product){ie_tiles_pack_bytes__avx512,
                                 ie_pack_tiles_halves__avx512,
                                 scratch_bf16_int8,
                                 run_bf16_int8,
                                 ROWS,
                                 TOKENS};
  bf16[IE_W_INT4] = (ie_product){
      ie_tiles_pack_bytes__avx512, ie_pack_tiles__avx512, scratch_bf16_int4, run_bf16_int4, ROWS, TOKENS};
}
