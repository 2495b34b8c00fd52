/* Matrix-vector products of float weights: 16 columns a step, two chains of sums an output. */
#include "kernels/avx2/products.h"

/* out[row * shape.tokens + token] for rows first .. first + rows - 1. */
ALWAYS_INLINE void dot(float *out, const ie_dots *dots, ie_shape shape, ie_wformat format) {
  const int64_t bytes = format == IE_W_F32 ? 4 : 2;
  __m256 sum[IE_FEW_ROWS][IE_FEW_TOKENS][2];
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) sum[j][t][0] = sum[j][t][1] = _mm256_setzero_ps();
  for (int64_t k = 0; k < dots->K; k += STEP_COLS) {
#pragma GCC unroll 4
    for (int j = 0; j < shape.rows; j++) {
      const uint8_t *row = dots->w[shape.first + j];
      __m256 w[2];
      load_weights(w, row, k, dots->K, format);
      _mm_prefetch((const char *)row + bytes * k + PREFETCH_BYTES, _MM_HINT_T0);
#pragma GCC unroll 4
      for (int t = 0; t < shape.tokens; t++) {
        const float *x = (const float *)(const void *)(dots->x + (size_t)t * dots->token_bytes) + k;
        sum[j][t][0] = _mm256_fmadd_ps(w[0], _mm256_load_ps(x), sum[j][t][0]);
        sum[j][t][1] = _mm256_fmadd_ps(w[1], _mm256_load_ps(x + 8), sum[j][t][1]);
      }
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++)
      out[(shape.first + j) * shape.tokens + t] = add_lanes(_mm256_add_ps(sum[j][t][0], sum[j][t][1]));
}

DEFINE_FEW(f32, dot, IE_W_F32, ie_few_token_bytes__avx2)
DEFINE_FEW(f16, dot, IE_W_F16, ie_few_token_bytes__avx2)
DEFINE_FEW(bf16, dot, IE_W_BF16, ie_few_token_bytes__avx2)
