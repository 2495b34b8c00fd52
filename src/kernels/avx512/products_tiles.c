#include "kernels/avx512/products_tiles.h"

#include "kernels/avx512/tiles_decode.h"
#include "kernels/avx512/transpose.h"

/* --- Activations ------------------------------------------------------------------------------------------------ */

size_t ie_tiles_pack_bytes__avx512(int64_t T, int64_t K) {
  return (size_t)(ie_div_up(T, IE_TILE_TOKENS) * ie_div_up(K, IE_TILE_COLS)) * IE_TILE_BYTES;
}

size_t ie_tiles_int8_pack_bytes__avx512(int64_t T, int64_t K) {
  return (size_t)(ie_div_up(T, IE_TILE_TOKENS) * ie_div_up(K, IE_TILE_COLS)) * IE_SCALED_TILE_BYTES;
}

/* How 32 numbers of a token become 16 pairs. */
typedef struct pair_rule {
  bool halves; /* columns i and 16 + i side by side, else columns 2 i and 2 i + 1 */
  bool codes;  /* of class INT8, unscaled */
} pair_rule;

ALWAYS_INLINE __m512i pairs_of(float *scale, const float *x, int64_t k, int64_t K, pair_rule rule) {
  __m512 v[2];
  load_rounded(v, x, k, K, rule.codes ? IE_CLASS_F32 : IE_CLASS_BF16);
  if (rule.codes) {
    __m512i q[2];
    *scale = quantise_block(q, v[0], v[1]);
    v[0] = _mm512_cvtepi32_ps(q[0]);
    v[1] = _mm512_cvtepi32_ps(q[1]);
  }
  if (rule.halves) return halves_bf16(_mm512_castps_si512(v[0]), _mm512_castps_si512(v[1]));
  __m256i low = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(v[0]), 16));
  __m256i high = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(v[1]), 16));
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* One tile of the tokens of a group, and their scales after it. */
ALWAYS_INLINE void pack_step(char *out, const float *const rows[IE_TILE_TOKENS], int64_t k, int64_t K,
                             pair_rule rule) {
  __m512i pairs[IE_TILE_TOKENS];
  _Alignas(64) float scales[IE_TILE_TOKENS] = {0};
  for (int64_t i = 0; i < IE_TILE_TOKENS; i++)
    pairs[i] = rows[i] != NULL ? pairs_of(&scales[i], rows[i], k, K, rule) : _mm512_setzero_si512();
  transpose_16x16(pairs);
  for (int64_t p = 0; p < 16; p++) _mm512_store_si512(out + 64 * p, pairs[p]);
  if (rule.codes) _mm512_store_ps(out + IE_TILE_BYTES, _mm512_load_ps(scales));
}

#define DEFINE_PACK(name, ...)                                                                               \
  void name(void *packed, const float *x, int64_t x_stride, const int32_t *x_rows, int64_t T, int64_t t0,    \
            int64_t t1, int64_t K) {                                                                         \
    (void)T;                                                                                                 \
    const pair_rule rule = {__VA_ARGS__};                                                                    \
    const int64_t steps = ie_div_up(K, IE_TILE_COLS),                                                        \
                  step = rule.codes ? IE_SCALED_TILE_BYTES : IE_TILE_BYTES;                                  \
    for (int64_t t = t0; t < t1; t += IE_TILE_TOKENS) {                                                      \
      const float *rows[IE_TILE_TOKENS] = {NULL};                                                            \
      for (int64_t i = 0; i < IE_TILE_TOKENS && t + i < t1; i++)                                             \
        rows[i] = ie_pack_source(x, x_stride, x_rows, t + i);                                                \
      for (int64_t s = 0; s < steps; s++)                                                                    \
        pack_step((char *)packed + (t / IE_TILE_TOKENS * steps + s) * step, rows, s * IE_TILE_COLS, K,       \
                  rule);                                                                                     \
    }                                                                                                        \
  }
DEFINE_PACK(ie_pack_tiles__avx512, .halves = false)
DEFINE_PACK(ie_pack_tiles_halves__avx512, .halves = true)
DEFINE_PACK(ie_pack_tiles_int8__avx512, .codes = true)
DEFINE_PACK(ie_pack_tiles_int8_halves__avx512, .halves = true, .codes = true)

/* --- Weights ---------------------------------------------------------------------------------------------------- */

/* True when value * scale is a normal bf16 for all scales of the row: 0.5 * 2^(2 - 127) and 6 * 2^(252 - 127). */
bool ie_tiles_scales_normal__avx512(const uint8_t *scales, int64_t blocks) {
  __m512i smallest = _mm512_set1_epi8(127), largest = smallest;
  for (int64_t b = 0; b < blocks; b += 64) {
    __mmask64 valid = blocks - b >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << (blocks - b)) - 1;
    __m512i v = _mm512_mask_loadu_epi8(_mm512_set1_epi8(127), valid, scales + b);
    smallest = _mm512_min_epu8(smallest, v);
    largest = _mm512_max_epu8(largest, v);
  }
  return _mm512_cmplt_epu8_mask(smallest, _mm512_set1_epi8(2)) == 0 &&
         _mm512_cmpgt_epu8_mask(largest, _mm512_set1_epi8((char)252)) == 0;
}

static void decode_any_scale(uint16_t *out, const uint8_t *p, const uint8_t *scales, int64_t blocks) {
  for (int64_t b = 0; b < blocks; b++) {
    float v[IE_MXFP4_COLS];
    ie_mxfp4_decode_block(v, p + b * IE_MXFP4_BYTES, scales[b]);
    for (int64_t i = 0; i < IE_MXFP4_COLS; i++) out[b * IE_MXFP4_COLS + i] = ie_f32_to_bf16(v[i]);
  }
}

void ie_tiles_decode_mxfp4__avx512(uint16_t *out, const ie_wview *w, int64_t row) {
  const uint8_t *p = w->part[0] + (size_t)row * w->row_bytes[0];
  const uint8_t *scales = w->part[1] + (size_t)row * w->row_bytes[1];
  int64_t blocks = w->cols / IE_BLOCK_COLS;
  if (!ie_tiles_scales_normal__avx512(scales, blocks)) {
    decode_any_scale(out, p, scales, blocks);
    return;
  }
  const __m512i table = table_bf16(ie_mxfp4_values);
  for (int64_t b = 0; b < blocks; b++) {
    _mm_prefetch((const char *)p + b * IE_MXFP4_BYTES + PREFETCH_BYTES, _MM_HINT_T0);
    decode_mxfp4_bf16(out + b * IE_BLOCK_COLS, p + b * IE_MXFP4_BYTES, scales[b], table);
  }
}

/* --- Results ---------------------------------------------------------------------------------------------------- */

static __m512 load_bias(const ie_product_args *args, int64_t r, __mmask16 rows) {
  if (args->bias == NULL) return _mm512_setzero_ps();
  if (args->bias_dtype == IE_F32) return _mm512_maskz_loadu_ps(rows, (const float *)args->bias + r);
  __m256i half = _mm256_maskz_loadu_epi16(rows, (const uint16_t *)args->bias + r);
  if (args->bias_dtype == IE_F16) return _mm512_cvtph_ps(half);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* As ie_tiles_store__avx512, for at most 16 tokens. */
static void store_16(const ie_product_args *args, int64_t r, int64_t rows, int64_t t, int64_t tokens,
                     const float *sums, int64_t stride) {
  __mmask16 valid_rows = mask16(rows), valid_tokens = mask16(tokens);
  __m512 bias = load_bias(args, r, valid_rows);
  __m512i v[16];
#pragma GCC unroll 16
  for (int64_t i = 0; i < 16; i++)
    v[i] = i < rows ? _mm512_maskz_loadu_epi32(valid_tokens, sums + i * stride) : _mm512_setzero_si512();
  transpose_16x16(v);
  for (int64_t j = 0; j < tokens; j++) {
    float *y = args->y + (t + j) * args->y_stride + r;
    __m512 sum = _mm512_add_ps(_mm512_castsi512_ps(v[j]), bias);
    if (args->add) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(valid_rows, y), sum);
    _mm512_mask_storeu_ps(y, valid_rows, sum);
  }
}

void ie_tiles_store__avx512(const ie_product_args *args, int64_t r, int64_t rows, int64_t t, int64_t tokens,
                            const float *sums, int64_t stride) {
  for (int64_t j = 0; j < tokens; j += 16)
    store_16(args, r, rows, t + j, ie_min_i64(16, tokens - j), sums + j, stride);
}
