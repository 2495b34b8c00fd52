/* Matrix-vector products of float weights. 32 columns a step; two chains of sums an output. Memory bound: unpacking
 * bf16 costs two instructions for 64 bytes. */
#include "kernels/avx512/products.h"

/* Columns k .. k + n - 1 (n <= 32) of all rows and tokens. */
ALWAYS_INLINE void step(__m512 sum[][IE_FEW_TOKENS][2], const ie_dots *dots, ie_shape shape, int64_t k,
                        int64_t n, ie_wformat format) {
  const int64_t element_bytes = format == IE_W_F32 ? 4 : 2;
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++) {
    const uint8_t *row = dots->w[shape.first + j];
    __m512 w[2];
    load_weights(w, row, k, n, format);
    _mm_prefetch((const char *)row + element_bytes * k + PREFETCH_BYTES, _MM_HINT_T0);
    if (format == IE_W_F32)
      _mm_prefetch((const char *)row + element_bytes * k + PREFETCH_BYTES + 64, _MM_HINT_T0);
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) {
      const float *x = (const float *)(dots->x + (size_t)t * dots->token_bytes) + k;
      sum[j][t][0] = _mm512_fmadd_ps(w[0], _mm512_load_ps(x), sum[j][t][0]);
      sum[j][t][1] = _mm512_fmadd_ps(w[1], _mm512_load_ps(x + 16), sum[j][t][1]);
    }
  }
}

/* out[row * shape.tokens + token] for rows first .. first + rows - 1. */
ALWAYS_INLINE void dot(float *out, const ie_dots *dots, ie_shape shape, ie_wformat format) {
  __m512 sum[IE_FEW_ROWS][IE_FEW_TOKENS][2];
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) sum[j][t][0] = sum[j][t][1] = _mm512_setzero_ps();
  int64_t k = 0;
  for (; k + 32 <= dots->K; k += 32) step(sum, dots, shape, k, 32, format);
  if (k < dots->K) step(sum, dots, shape, k, dots->K - k, format);
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++)
      out[(shape.first + j) * shape.tokens + t] =
          _mm512_reduce_add_ps(_mm512_add_ps(sum[j][t][0], sum[j][t][1]));
}

DEFINE_FEW(f32, dot, IE_W_F32, ie_few_token_bytes__avx512)
DEFINE_FEW(f16, dot, IE_W_F16, ie_few_token_bytes__avx512)
DEFINE_FEW(bf16, dot, IE_W_BF16, ie_few_token_bytes__avx512)
