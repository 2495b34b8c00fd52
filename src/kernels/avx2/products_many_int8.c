/* Matrix-matrix products of int8 activations and 4-bit weights by vpmaddubsw: 3 rows x 16 tokens, one block of 32 columns
 * after the other. Tokens are the lanes; weights become unsigned bytes (code_rule), of which four even or four odd
 * neighbours are broadcast. A product of two columns is at most 24 x 127 x 2 (MXFP4) or 15 x 127 x 2 (INT4), so that 16
 * bits hold the sums of four or of eight of them. The integer sum of a block is exact; it is scaled and added in f32, in one
 * chain of FMA over the blocks.
 *
 * INT8 weights have no such kernel: their products fill 16 bits at once, and widening each of them takes as many operations
 * as f32 does. */
#include "kernels/avx2/products.h"
#include "kernels/products_many.h"

enum { ROWS = 3, LANES = 8, QUADS = IE_BLOCK_COLS / 4 };

/* One block of columns of 8 tokens; quads 0 to 3 are the even columns, 4 to 7 the odd ones. */
typedef struct group_block {
  int8_t q[QUADS][LANES][4];
  int32_t start[LANES]; /* -offset * sum of q */
  float scale[LANES];   /* s / factor */
} group_block;

ALWAYS_INLINE code_rule codes_of(ie_wformat format) {
  return format == IE_W_MXFP4 ? codes_mxfp4 : codes_int4;
}

/* --- Activations ------------------------------------------------------------------------------------------------ */

static size_t pack_bytes(int64_t T, int64_t K) {
  return (size_t)(ie_div_up(T, LANES) * ie_div_up(K, IE_BLOCK_COLS)) * sizeof(group_block);
}

/* Token i of a group; x NULL: there is none. */
static void pack_block(group_block *out, int64_t i, const float *x, int64_t k, int64_t K, code_rule codes) {
  int32_t q[IE_BLOCK_COLS] = {0}, sum = 0;
  float s = x ? quantise_cols(q, x, k, K) : 0;
  for (int64_t j = 0; j < QUADS / 2; j++)
    for (int64_t c = 0; c < 4; c++) {
      out->q[j][i][c] = (int8_t)q[8 * j + 2 * c];
      out->q[QUADS / 2 + j][i][c] = (int8_t)q[8 * j + 2 * c + 1];
    }
  for (int64_t c = 0; c < IE_BLOCK_COLS; c++) sum += q[c];
  out->start[i] = -codes.offset * sum;
  out->scale[i] = s / codes.factor;
}

static void pack_groups(group_block *out, const float *const rows[LANES], int64_t K, code_rule codes) {
  for (int64_t b = 0; b < ie_div_up(K, IE_BLOCK_COLS); b++)
    for (int64_t i = 0; i < LANES; i++) pack_block(&out[b], i, rows[i], b * IE_BLOCK_COLS, K, codes);
}

/* --- Weights ---------------------------------------------------------------------------------------------------- */

/* Bytes of a decoded row: of each 64 columns 32 even ones, then 32 odd ones. */
static size_t row_bytes(int64_t K) {
  return ie_size_align((size_t)K, MX_CHUNK_COLS);
}
static size_t row_scales(int64_t K) {
  return row_bytes(K) / IE_BLOCK_COLS;
}

static size_t scratch_bytes(int64_t T, int64_t K) {
  (void)T;
  return IE_MANY_ROWS * (row_bytes(K) + ie_size_align(row_scales(K) * sizeof(float), 64));
}

ALWAYS_INLINE void decode_row(uint8_t *bytes, float *scales, const ie_wview *w, int64_t row,
                              ie_wformat format) {
  const uint8_t *p = w->part[0] + (size_t)row * w->row_bytes[0];
  const uint8_t *s = w->part[1] + (size_t)row * w->row_bytes[1];
  int64_t blocks = ie_div_up(w->cols, IE_BLOCK_COLS);
  for (int64_t b = 0; b < blocks; b += 2, bytes += MX_CHUNK_COLS) {
    __m256i v = load_nibbles(p + 16 * b, format == IE_W_MXFP4 ? blocks - b : 2);
    _mm_prefetch((const char *)p + 16 * b + PREFETCH_BYTES, _MM_HINT_T0);
    _mm256_store_si256((__m256i *)(void *)bytes, unsigned_codes(low_nibbles(v), format));
    _mm256_store_si256((__m256i *)(void *)(bytes + 32), unsigned_codes(high_nibbles(v), format));
    __m256 scale = load_scales(s + b, format == IE_W_MXFP4 ? blocks - b : 2, format);
    scales[b] = _mm256_cvtss_f32(scale);
    scales[b + 1] = _mm_cvtss_f32(_mm256_extractf128_ps(scale, 1));
  }
}

/* --- Products --------------------------------------------------------------------------------------------------- */

typedef struct panel {
  const uint8_t *bytes; /* (ROWS, row_bytes) */
  const float *scales;  /* (ROWS, row_scales) */
  size_t row_bytes, row_scales;
} panel;

/* sums[r][g] = the products of quads first to first + count - 1 in 16 bits, in pairs. */
ALWAYS_INLINE void quads_multiply(__m256i sums[][2], const uint8_t *w, size_t row_bytes,
                                  const group_block *const x[2], int first, int count) {
#pragma GCC unroll 8
  for (int j = first; j < first + count; j++) {
    __m256i x0 = _mm256_load_si256((const __m256i *)(const void *)x[0]->q[j]);
    __m256i x1 = _mm256_load_si256((const __m256i *)(const void *)x[1]->q[j]);
#pragma GCC unroll 3
    for (int r = 0; r < ROWS; r++) {
      int32_t quad;
      memcpy(&quad, w + (size_t)r * row_bytes + j / 4 * 32 + j % 4 * 4, 4);
      __m256i wj = _mm256_set1_epi32(quad);
      __m256i p0 = _mm256_maddubs_epi16(wj, x0), p1 = _mm256_maddubs_epi16(wj, x1);
      sums[r][0] = j == first ? p0 : _mm256_add_epi16(sums[r][0], p0);
      sums[r][1] = j == first ? p1 : _mm256_add_epi16(sums[r][1], p1);
    }
  }
}

/* out (ROWS, 2 * LANES): the products of a panel with two groups of tokens, which may be the same. */
ALWAYS_INLINE void micro(float *out, const panel *w, const group_block *const groups[2], int64_t blocks,
                         ie_wformat format) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int i = 0; i < ROWS * 2; i++) _mm256_store_ps(out + LANES * i, _mm256_setzero_ps());
  for (int64_t b = 0; b < blocks; b++) {
    const group_block *const x[2] = {groups[0] + b, groups[1] + b};
    const uint8_t *bytes = w->bytes + b / 2 * MX_CHUNK_COLS + b % 2 * 16;
    __m256i d[ROWS][2], half[ROWS][2];
    quads_multiply(half, bytes, w->row_bytes, x, 0, format == IE_W_MXFP4 ? QUADS / 2 : QUADS);
#pragma GCC unroll 3
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
      for (int g = 0; g < 2; g++) d[r][g] = _mm256_madd_epi16(half[r][g], ones);
    if (format == IE_W_MXFP4) quads_multiply(half, bytes, w->row_bytes, x, QUADS / 2, QUADS / 2);
#pragma GCC unroll 3
    for (int r = 0; r < ROWS; r++) {
      __m256 scale = _mm256_broadcast_ss(w->scales + (size_t)r * w->row_scales + b);
#pragma GCC unroll 2
      for (int g = 0; g < 2; g++) {
        __m256i sum =
            _mm256_add_epi32(d[r][g], _mm256_load_si256((const __m256i *)(const void *)x[g]->start));
        if (format == IE_W_MXFP4) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(half[r][g], ones));
        __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_load_ps(x[g]->scale));
        float *to = out + LANES * (2 * r + g);
        _mm256_store_ps(to, _mm256_fmadd_ps(scaled, scale, _mm256_load_ps(to)));
      }
    }
  }
}

/* At most IE_MANY_ROWS rows: decoded once, then used by all tokens. */
ALWAYS_INLINE void run_rows(const ie_product_args *args, int64_t r0, int64_t r1, uint8_t *bytes,
                            float *scales, ie_wformat format) {
  int64_t K = args->w.cols, blocks = ie_div_up(K, IE_BLOCK_COLS), rows = ie_div_up(r1 - r0, ROWS) * ROWS;
  for (int64_t i = 0; i < rows; i++) /* rows that complete the last panel repeat the last one */
    decode_row(bytes + (size_t)i * row_bytes(K), scales + (size_t)i * row_scales(K), &args->w,
               ie_min_i64(r0 + i, r1 - 1), format);
  for (int64_t t = 0; t < args->T; t += 2 * LANES) {
    const group_block *x = (const group_block *)args->packed + t / LANES * blocks;
    const group_block *const groups[2] = {x, args->T - t > LANES ? x + blocks : x};
    for (int64_t i = 0; i < rows; i += ROWS) {
      panel w = {bytes + (size_t)i * row_bytes(K), scales + (size_t)i * row_scales(K), row_bytes(K),
                 row_scales(K)};
      _Alignas(32) float out[ROWS * 2 * LANES];
      micro(out, &w, groups, blocks, format);
      ie_many_store(args, r0 + i, ie_min_i64(ROWS, r1 - r0 - i), t, ie_min_i64(2 * LANES, args->T - t), out,
                    2 * LANES);
    }
  }
}

#define DEFINE_MANY(suffix, format)                                                                          \
  static void pack_##suffix(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows,           \
                            int64_t T, int64_t t0, int64_t t1, int64_t K) {                                  \
    (void)T;                                                                                                 \
    for (int64_t t = t0; t < t1; t += LANES) {                                                               \
      const float *rows[LANES] = {NULL};                                                                     \
      for (int64_t i = 0; i < LANES && t + i < t1; i++)                                                      \
        rows[i] = ie_pack_source(x, x_stride, x_rows, t + i);                                                \
      pack_groups((group_block *)packed + t / LANES * ie_div_up(K, IE_BLOCK_COLS), rows, K,                  \
                  codes_of(format));                                                                         \
    }                                                                                                        \
  }                                                                                                          \
  static void run_##suffix(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch) {             \
    uint8_t *bytes = scratch;                                                                                \
    float *scales = (float *)(void *)(bytes + IE_MANY_ROWS * row_bytes(args->w.cols));                       \
    for (int64_t r = r0; r < r1; r += IE_MANY_ROWS)                                                          \
      run_rows(args, r, ie_min_i64(r + IE_MANY_ROWS, r1), bytes, scales, format);                            \
  }                                                                                                          \
  const ie_product ie_many_int8_##suffix##__avx2 = {pack_bytes,   pack_##suffix, scratch_bytes,              \
                                                    run_##suffix, ROWS,          LANES};
DEFINE_MANY(mxfp4, IE_W_MXFP4)
DEFINE_MANY(int4, IE_W_INT4)
