/* Matrix-matrix products of int8 activations and quantised weights by VNNI: 6 rows x 32 tokens, one block of 32 columns
 * after the other; the integer sums of a block are exact, then scaled and added in f32 in the order of the kernel for few
 * tokens: blocks b, b + 4, b + 8 ... are one chain of FMA, and the four chains are added in their order. Each chain is
 * a pass over its blocks, which lie together in the packed activations.
 *
 * Tokens are the lanes. Weights become unsigned bytes (code_rule), four of which are broadcast: neighbouring columns
 * of INT8; of 4-bit weights, four even or four odd ones. (The kernel for few tokens of INT8 has another order of sums.) */
#include "kernels/avx512/products.h"
#include "kernels/avx512/products_tiles.h"
#include "kernels/avx512/transpose.h"
#include "kernels/products_many.h"

enum { ROWS = 6, LANES = GROUP_TOKENS };

ALWAYS_INLINE code_rule codes_of(ie_wformat format) {
  return format == IE_W_MXFP4 ? codes_mxfp4 : format == IE_W_INT8 ? codes_int8 : codes_int4;
}

/* --- Activations ------------------------------------------------------------------------------------------------ */

static size_t pack_bytes(int64_t T, int64_t K) {
  return (size_t)(ie_div_up(T, LANES) * ie_div_up(K, IE_BLOCK_COLS)) * sizeof(group_block);
}

/* The tokens of a group: 16 rows of x, NULL beyond the last one. */
typedef struct group_rows {
  const float *row[LANES];
  int64_t K;
} group_rows;

ALWAYS_INLINE void pack_block(group_block *out, const group_rows *tokens, int64_t k, ie_wformat format) {
  const code_rule codes = codes_of(format);
  const __m256i even_odd = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15)); /* then lanes: 0 2 1 3 */
  __m512i rows[LANES];
  for (int64_t i = 0; i < LANES; i++) {
    __m512i q[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    float s = 0;
    if (tokens->row[i] != NULL) {
      __m512 v[2];
      load_rounded(v, tokens->row[i], k, tokens->K, IE_CLASS_F32);
      s = quantise_block(q, v[0], v[1]);
    }
    __m256i bytes = _mm256_set_m128i(_mm512_cvtepi32_epi8(q[1]), _mm512_cvtepi32_epi8(q[0]));
    if (format != IE_W_INT8) bytes = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(bytes, even_odd), 0xD8);
    rows[i] = _mm512_castsi256_si512(bytes);
    out->start[i] = -codes.offset * (_mm512_reduce_add_epi32(q[0]) + _mm512_reduce_add_epi32(q[1]));
    out->scale[i] = s / codes.factor;
  }
  transpose_16x16(rows);
  for (int j = 0; j < QUADS; j++) _mm512_store_si512(out->q[j], rows[j]);
}

ALWAYS_INLINE void pack_groups(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows,
                               const int64_t range[2], int64_t K, ie_wformat format) {
  int64_t blocks = ie_div_up(K, IE_BLOCK_COLS);
  for (int64_t t = range[0]; t < range[1]; t += LANES) {
    group_rows rows = {.K = K};
    for (int64_t i = 0; i < LANES && t + i < range[1]; i++)
      rows.row[i] = ie_pack_source(x, x_stride, x_rows, t + i);
    group_block *out = (group_block *)packed + t / LANES * blocks;
    for (int64_t b = 0; b < blocks; b++)
      pack_block(out + chain_start(b % CHAINS, blocks) + b / CHAINS, &rows, b * IE_BLOCK_COLS, format);
  }
}

/* --- Weights ---------------------------------------------------------------------------------------------------- */

/* Bytes of a decoded row: INT8 in order; of 4-bit weights for each four blocks 64 even columns, then 64 odd ones. */
static size_t row_bytes(int64_t K) {
  return ie_size_align((size_t)K, MX_CHUNK_COLS);
}
static size_t row_scales(int64_t K) {
  return ie_size_align((size_t)ie_div_up(K, IE_BLOCK_COLS), LANES);
}

static size_t scratch_bytes(int64_t T, int64_t K) {
  (void)T;
  return IE_MANY_ROWS * (row_bytes(K) + row_scales(K) * sizeof(float));
}

ALWAYS_INLINE void decode_row(uint8_t *bytes, float *scales, const ie_wview *w, int64_t row,
                              ie_wformat format) {
  const uint8_t *p = w->part[0] + (size_t)row * w->row_bytes[0];
  const uint8_t *s = w->part[1] + (size_t)row * w->row_bytes[1];
  int64_t blocks = ie_div_up(w->cols, IE_BLOCK_COLS);
  for (int64_t b = 0; format == IE_W_INT8 && b < blocks; b += 2) {
    __m512i v = _mm512_maskz_loadu_epi32(mask16_clamped(8 * (blocks - b)), p + b * 32);
    _mm_prefetch((const char *)p + b * 32 + PREFETCH_BYTES, _MM_HINT_T0);
    _mm512_store_si512(bytes + 32 * b, _mm512_xor_si512(v, _mm512_set1_epi8((char)codes_int8.offset)));
  }
  for (int64_t b = 0; format != IE_W_INT8 && b < blocks; b += 4) {
    __m512i v = _mm512_maskz_loadu_epi32(mask16_clamped(4 * (blocks - b)), p + b * 16);
    _mm_prefetch((const char *)p + b * 16 + PREFETCH_BYTES, _MM_HINT_T0);
    _mm512_store_si512(bytes + 32 * b, unsigned_codes(v, format));
    _mm512_store_si512(bytes + 32 * b + 64, unsigned_codes(_mm512_srli_epi16(v, 4), format));
  }
  for (int64_t b = 0; b < blocks; b += LANES) _mm512_store_ps(scales + b, block_scales(s, b, blocks, format));
}

/* --- Products --------------------------------------------------------------------------------------------------- */

typedef struct panel {
  const uint8_t *bytes; /* (ROWS, row_bytes) */
  const float *scales;  /* (ROWS, row_scales) */
  size_t row_bytes, row_scales;
} panel;

/* One chain: the integer sums of a block for all rows and groups, then scaled and added. */
ALWAYS_INLINE void chain(__m512 s[][2], const panel *w, const group_block *x, int64_t c, int64_t blocks,
                         int groups, ie_wformat format) {
  const int64_t x_group = blocks;
  const group_block *at = x + chain_start(c, blocks);
  for (int64_t b = c; b < blocks; b += CHAINS, at++) {
    const uint8_t *bytes = w->bytes + (format == IE_W_INT8 ? b * 32 : b / 4 * 128 + b % 4 * 16);
    __m512i d[ROWS][2];
#pragma GCC unroll 8
    for (int j = 0; j < QUADS; j++) {
      __m512i xj[2];
#pragma GCC unroll 2
      for (int g = 0; g < groups; g++) xj[g] = _mm512_load_si512(at[g * x_group].q[j]);
#pragma GCC unroll 6
      for (int r = 0; r < ROWS; r++) {
        int32_t quad;
        memcpy(&quad,
               bytes + (size_t)r * w->row_bytes + (format == IE_W_INT8 ? j * 4 : j / 4 * 64 + j % 4 * 4), 4);
        __m512i wj = _mm512_set1_epi32(quad);
#pragma GCC unroll 2
        for (int g = 0; g < groups; g++)
          d[r][g] =
              _mm512_dpbusd_epi32(j == 0 ? _mm512_load_si512(at[g * x_group].start) : d[r][g], wj, xj[g]);
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++) {
      __m512 scale = _mm512_set1_ps(w->scales[(size_t)r * w->row_scales + (size_t)b]);
#pragma GCC unroll 2
      for (int g = 0; g < groups; g++)
        s[r][g] =
            _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(d[r][g]), _mm512_load_ps(at[g * x_group].scale)),
                            scale, s[r][g]);
    }
  }
}

/* out (ROWS, 2 * LANES): the products of a panel with one or two groups of tokens, `blocks` blocks apart. */
ALWAYS_INLINE void micro(float *out, const panel *w, const group_block *x, int64_t blocks, int groups,
                         ie_wformat format) {
  for (int64_t c = 0; c < CHAINS; c++) {
    __m512 s[ROWS][2];
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++) s[r][0] = s[r][1] = _mm512_setzero_ps();
    chain(s, w, x, c, blocks, groups, format);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
      for (int g = 0; g < groups; g++) {
        float *to = out + 2 * LANES * r + LANES * g;
        _mm512_store_ps(to, c == 0 ? s[r][g] : _mm512_add_ps(_mm512_load_ps(to), s[r][g]));
      }
  }
}

/* At most IE_MANY_ROWS rows: decoded once, then used by all tokens. */
ALWAYS_INLINE void run_rows(const ie_product_args *args, int64_t r0, int64_t r1, uint8_t *bytes,
                            float *scales, ie_wformat format) {
  int64_t K = args->w.cols, blocks = ie_div_up(K, IE_BLOCK_COLS), rows = ie_div_up(r1 - r0, ROWS) * ROWS;
  for (int64_t i = 0; i < rows; i++) { /* rows that complete the last panel repeat the last one */
    int64_t r = ie_min_i64(r0 + i, r1 - 1);
    decode_row(bytes + (size_t)i * row_bytes(K), scales + (size_t)i * row_scales(K), &args->w, r, format);
  }
  for (int64_t t = 0; t < args->T; t += 2 * LANES) {
    const group_block *x = (const group_block *)args->packed + t / LANES * blocks;
    for (int64_t i = 0; i < rows; i += ROWS) {
      panel w = {bytes + (size_t)i * row_bytes(K), scales + (size_t)i * row_scales(K), row_bytes(K),
                 row_scales(K)};
      _Alignas(64) float out[ROWS * 2 * LANES];
      if (args->T - t > LANES)
        micro(out, &w, x, blocks, 2, format);
      else
        micro(out, &w, x, blocks, 1, format);
      ie_tiles_store__avx512(args, r0 + i, ie_min_i64(ROWS, r1 - r0 - i), t,
                             ie_min_i64(2 * LANES, args->T - t), out, 2 * LANES);
    }
  }
}

#define DEFINE_MANY(suffix, format)                                                                          \
  static void pack_##suffix(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows,           \
                            int64_t T, int64_t t0, int64_t t1, int64_t K) {                                  \
    (void)T;                                                                                                 \
    pack_groups(packed, x, x_stride, x_rows, (int64_t[]){t0, t1}, K, format);                                \
  }                                                                                                          \
  static void run_##suffix(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch) {             \
    uint8_t *bytes = scratch;                                                                                \
    float *scales = (float *)(void *)(bytes + IE_MANY_ROWS * row_bytes(args->w.cols));                       \
    for (int64_t r = r0; r < r1; r += IE_MANY_ROWS)                                                          \
      run_rows(args, r, ie_min_i64(r + IE_MANY_ROWS, r1), bytes, scales, format);                            \
  }                                                                                                          \
  const ie_product ie_many_int8_##suffix##__avx512 = {pack_bytes,   pack_##suffix, scratch_bytes,            \
                                                      run_##suffix, ROWS,          LANES};
DEFINE_MANY(mxfp4, IE_W_MXFP4)
DEFINE_MANY(int8, IE_W_INT8)
DEFINE_MANY(int4, IE_W_INT4)
