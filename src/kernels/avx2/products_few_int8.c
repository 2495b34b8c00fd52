/* Matrix-vector products of INT8 weights: a block of 32 columns (32 bytes) a step, the scales of eight blocks at once. */
#include "kernels/avx2/products.h"

/* The scales of a row's blocks b .. b + 7; zero from `blocks` on. */
ALWAYS_INLINE __m256 load_eight(const uint8_t *scales, int64_t b, int64_t blocks) {
  if (blocks - b >= 8)
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(scales + 2 * b)));
  uint16_t tail[8] = {0};
  memcpy(tail, scales + 2 * b, 2 * (size_t)(blocks - b));
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)tail));
}

ALWAYS_INLINE void step_float(__m256 *sum, const ie_dots *dots, const uint8_t *p, float scale, int64_t b,
                              int tokens) {
  __m256 part[IE_FEW_TOKENS];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    __m256 w = _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + b * IE_INT8_COLS + 8 * i))));
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) {
      const float *x = (const float *)(const void *)(dots->x + (size_t)t * dots->token_bytes);
      __m256 xi = _mm256_load_ps(x + b * IE_INT8_COLS + 8 * i);
      part[t] = i == 0 ? _mm256_mul_ps(w, xi) : _mm256_fmadd_ps(w, xi, part[t]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < tokens; t++) sum[t] = _mm256_fmadd_ps(part[t], _mm256_set1_ps(scale), sum[t]);
}

/* vpmaddubsw takes one operand unsigned: the magnitude of the weight, and the activation with the weight's sign. Two
 * products of 128 * 127 fit 16 bits. scale[t]: that of the weights times that of token t. */
ALWAYS_INLINE void step_int8(__m256 *sum, const ie_dots *dots, const uint8_t *p, const float *scale,
                             int64_t b, int tokens) {
  __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)(p + b * IE_INT8_COLS));
  __m256i magnitude = _mm256_abs_epi8(w);
#pragma GCC unroll 4
  for (int t = 0; t < tokens; t++) {
    const uint8_t *x = dots->x + (size_t)t * dots->token_bytes;
    __m256i q = _mm256_load_si256((const __m256i *)(const void *)(x + b * IE_INT8_COLS));
    __m256i d = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(q, w));
    d = _mm256_madd_epi16(d, _mm256_set1_epi16(1));
    sum[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(d), _mm256_broadcast_ss(scale + 8 * t), sum[t]);
  }
}

/* Blocks b .. b + n - 1 (n <= 8; a constant where it is 8) of all rows and tokens. */
ALWAYS_INLINE void step_blocks(__m256 sum[][IE_FEW_TOKENS], const ie_dots *dots, ie_shape shape, int64_t b,
                               int64_t n, bool integers) {
  const int64_t blocks = b + n;
  _Alignas(32) float scales[IE_FEW_ROWS][IE_FEW_TOKENS][8];
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++) {
    const uint8_t *row = dots->scales[shape.first + j];
    if (b % 32 == 0) _mm_prefetch((const char *)row + 2 * b + 256, _MM_HINT_T0); /* once a line */
    __m256 w = load_eight(row, b, blocks);
    if (!integers) {
      _mm256_store_ps(scales[j][0], w);
      continue;
    }
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) {
      const float *x =
          (const float *)(const void *)(dots->x + (size_t)t * dots->token_bytes + int8_padded_cols(dots->K));
      _mm256_store_ps(scales[j][t], _mm256_mul_ps(w, _mm256_load_ps(x + b)));
    }
  }
  for (int64_t i = 0; i < n; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < shape.rows; j++) {
      const uint8_t *p = dots->w[shape.first + j];
      if (i % 2 == 0) _mm_prefetch((const char *)p + (b + i) * IE_INT8_COLS + PREFETCH_BYTES, _MM_HINT_T0);
      if (integers)
        step_int8(sum[j], dots, p, &scales[j][0][i], b + i, shape.tokens);
      else
        step_float(sum[j], dots, p, scales[j][0][i], b + i, shape.tokens);
    }
  }
}

ALWAYS_INLINE void dot(float *out, const ie_dots *dots, ie_shape shape, bool integers) {
  __m256 sum[IE_FEW_ROWS][IE_FEW_TOKENS];
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) sum[j][t] = _mm256_setzero_ps();
  int64_t blocks = ie_div_up(dots->K, IE_INT8_COLS), b = 0;
  for (; b + 8 <= blocks; b += 8) step_blocks(sum, dots, shape, b, 8, integers);
  if (b < blocks) step_blocks(sum, dots, shape, b, blocks - b, integers);
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) out[(shape.first + j) * shape.tokens + t] = add_lanes(sum[j][t]);
}

DEFINE_FEW(int8, dot, false, ie_few_token_bytes__avx2)
DEFINE_FEW(int8_int8, dot, true, ie_few_token_bytes_int8_int8__avx2)
