/* Matrix-vector products of 4-bit weights, MXFP4 and INT4: 64 columns (32 bytes, 32 columns in each half of a register)
 * a step. */
#include "kernels/avx2/products.h"

ALWAYS_INLINE void step_float(__m256 sum[][IE_FEW_TOKENS], const ie_dots *dots, ie_shape shape, int64_t block,
                              int64_t blocks, ie_wformat format) {
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++) {
    const uint8_t *p = dots->w[shape.first + j] + block * IE_MXFP4_BYTES;
    _mm_prefetch((const char *)p + PREFETCH_BYTES, _MM_HINT_T0);
    __m256i bytes = load_nibbles(p, blocks);
    __m256 part[IE_FEW_TOKENS];
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      __m256 w[4];
      unpack_nibbles(w, half == 0 ? low_nibbles(bytes) : high_nibbles(bytes), format);
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
        for (int t = 0; t < shape.tokens; t++) {
          const float *x = (const float *)(const void *)(dots->x + (size_t)t * dots->token_bytes);
          __m256 xi = _mm256_load_ps(x + block * IE_BLOCK_COLS + half * 32 + i * 8);
          part[t] = half + i == 0 ? _mm256_mul_ps(w[i], xi) : _mm256_fmadd_ps(w[i], xi, part[t]);
        }
    }
    __m256 scale = load_scales(dots->scales[shape.first + j] + block, blocks, format);
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) sum[j][t] = _mm256_fmadd_ps(part[t], scale, sum[j][t]);
  }
}

/* Weights as bytes that are not negative (code_rule), so that vpmaddubsw takes them as unsigned; four products of
 * 24 * 127 fit 16 bits. */
ALWAYS_INLINE void step_int8(__m256 sum[][IE_FEW_TOKENS], const ie_dots *dots, ie_shape shape, int64_t block,
                             int64_t blocks, ie_wformat format) {
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++) {
    const uint8_t *p = dots->w[shape.first + j] + block * IE_MXFP4_BYTES;
    _mm_prefetch((const char *)p + PREFETCH_BYTES, _MM_HINT_T0);
    __m256i bytes = load_nibbles(p, blocks);
    __m256i even = unsigned_codes(low_nibbles(bytes), format);
    __m256i odd = unsigned_codes(high_nibbles(bytes), format);
    __m256 scale = load_scales(dots->scales[shape.first + j] + block, blocks, format);
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) {
      const int8_chunk *x =
          (const int8_chunk *)(const void *)(dots->x + (size_t)t * dots->token_bytes) + block / 2;
      __m256i d = _mm256_add_epi16(_mm256_maddubs_epi16(even, _mm256_load_si256((const __m256i *)x->even)),
                                   _mm256_maddubs_epi16(odd, _mm256_load_si256((const __m256i *)x->odd)));
      d = _mm256_add_epi32(_mm256_madd_epi16(d, _mm256_set1_epi16(1)),
                           _mm256_load_si256((const __m256i *)x->start));
      __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(d), _mm256_load_ps(x->scale));
      sum[j][t] = _mm256_fmadd_ps(part, scale, sum[j][t]);
    }
  }
}

typedef enum activation { ACTIVATION_FLOAT, ACTIVATION_INT8 } activation;

typedef struct weights_by {
  ie_wformat format;
  activation kind;
} weights_by;

ALWAYS_INLINE void step(__m256 sum[][IE_FEW_TOKENS], const ie_dots *dots, ie_shape shape, int64_t block,
                        int64_t blocks, weights_by by) {
  if (by.kind == ACTIVATION_FLOAT)
    step_float(sum, dots, shape, block, blocks, by.format);
  else
    step_int8(sum, dots, shape, block, blocks, by.format);
}

ALWAYS_INLINE void dot(float *out, const ie_dots *dots, ie_shape shape, weights_by by) {
  __m256 sum[IE_FEW_ROWS][IE_FEW_TOKENS];
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) sum[j][t] = _mm256_setzero_ps();
  int64_t blocks = by.format == IE_W_MXFP4 ? dots->K / IE_BLOCK_COLS : 2 * ie_div_up(dots->K, IE_INT4_COLS),
          b = 0;
  for (; b + 2 <= blocks; b += 2) {
    if (b % 64 == 0) /* once a line of scales */
      for (int j = 0; j < shape.rows; j++)
        _mm_prefetch((const char *)dots->scales[shape.first + j] + b + 256, _MM_HINT_T0);
    step(sum, dots, shape, b, 2, by);
  }
  if (b < blocks) step(sum, dots, shape, b, 1, by);
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) out[(shape.first + j) * shape.tokens + t] = add_lanes(sum[j][t]);
}

DEFINE_FEW(mxfp4, dot, ((weights_by){IE_W_MXFP4, ACTIVATION_FLOAT}), ie_few_token_bytes_nibbles__avx2)
DEFINE_FEW(int8_mxfp4, dot, ((weights_by){IE_W_MXFP4, ACTIVATION_INT8}), ie_few_token_bytes_int8__avx2)
DEFINE_FEW(int4, dot, ((weights_by){IE_W_INT4, ACTIVATION_FLOAT}), ie_few_token_bytes_nibbles__avx2)
DEFINE_FEW(int8_int4, dot, ((weights_by){IE_W_INT4, ACTIVATION_INT8}), ie_few_token_bytes_int8__avx2)
