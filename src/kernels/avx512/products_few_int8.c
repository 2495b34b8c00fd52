/* Matrix-vector products of INT8 weights, 64 columns (64 bytes, two blocks) a step. */
#include "kernels/avx512/products.h"

#include "blocks/int8.h"

/* One step of a row: the chunk of 64 bytes, and which of its eight it is (the scales of eight are loaded together).
 * `last`: it ends the row, and only `lanes` of it exist. */
typedef struct place {
  int64_t chunk;
  int c;
  bool last;
  __mmask16 lanes;
} place;

ALWAYS_INLINE __m512i load_codes(const uint8_t *w, place at) {
  return at.last ? _mm512_maskz_loadu_epi32(at.lanes, w) : _mm512_loadu_si512(w);
}

/* Columns 16 i .. 16 i + 15 of a chunk. */
ALWAYS_INLINE __m512 widen(__m512i whole, const uint8_t *w, int i, place at) {
  __m128i bytes;
  if (!at.last)
    bytes = _mm_loadu_si128((const __m128i *)(const void *)(w + 16 * i));
  else if (i < 2)
    bytes = i ? _mm512_extracti32x4_epi32(whole, 1) : _mm512_castsi512_si128(whole);
  else
    bytes = i == 2 ? _mm512_extracti32x4_epi32(whole, 2) : _mm512_extracti32x4_epi32(whole, 3);
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

ALWAYS_INLINE void step_float(__m512 sum[][IE_FEW_TOKENS], const ie_dots *dots, ie_shape shape,
                              const __m512 *scales, place at) {
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++) {
    const uint8_t *p = dots->w[shape.first + j] + INT8_CHUNK_COLS * at.chunk;
    _mm_prefetch((const char *)p + PREFETCH_BYTES, _MM_HINT_T0);
    __m512i whole = at.last ? load_codes(p, at) : _mm512_setzero_si512();
    __m512 part[2][IE_FEW_TOKENS];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      __m512 w = widen(whole, p, i, at);
#pragma GCC unroll 4
      for (int t = 0; t < shape.tokens; t++) {
        const float *x =
            (const float *)(dots->x + (size_t)t * dots->token_bytes) + INT8_CHUNK_COLS * at.chunk;
        __m512 xi = _mm512_load_ps(x + 16 * i);
        part[i / 2][t] = i % 2 == 0 ? _mm512_mul_ps(w, xi) : _mm512_fmadd_ps(w, xi, part[i / 2][t]);
      }
    }
#pragma GCC unroll 2
    for (int b = 0; b < 2; b++) {
      __m512 scale = _mm512_permutexvar_ps(_mm512_set1_epi32(2 * at.c + b), scales[j]);
#pragma GCC unroll 4
      for (int t = 0; t < shape.tokens; t++) sum[j][t] = _mm512_fmadd_ps(part[b][t], scale, sum[j][t]);
    }
  }
}

/* Weights plus 128 are the unsigned operand. */
ALWAYS_INLINE void step_int8(__m512 sum[][IE_FEW_TOKENS], const ie_dots *dots, ie_shape shape,
                             const __m512 *scales, place at) {
  const __m512i offset = _mm512_set1_epi8((char)codes_int8.offset);
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++) {
    const uint8_t *p = dots->w[shape.first + j] + INT8_CHUNK_COLS * at.chunk;
    _mm_prefetch((const char *)p + PREFETCH_BYTES, _MM_HINT_T0);
    __m512i w = _mm512_xor_si512(load_codes(p, at), offset);
    __m512 scale = spread_pairs(scales[j], at.c);
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) {
      const int8_wide_chunk *x =
          (const int8_wide_chunk *)(dots->x + (size_t)t * dots->token_bytes) + at.chunk;
      __m512i d = _mm512_dpbusd_epi32(_mm512_load_si512(x->start), w, _mm512_load_si512(x->q));
      __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(d), _mm512_load_ps(x->scale));
      sum[j][t] = _mm512_fmadd_ps(part, scale, sum[j][t]);
    }
  }
}

ALWAYS_INLINE void step(__m512 sum[][IE_FEW_TOKENS], const ie_dots *dots, ie_shape shape,
                        const __m512 *scales, place at, bool integers) {
  if (integers)
    step_int8(sum, dots, shape, scales, at);
  else
    step_float(sum, dots, shape, scales, at);
}

ALWAYS_INLINE void dot(float *out, const ie_dots *dots, ie_shape shape, bool integers) {
  __m512 sum[IE_FEW_ROWS][IE_FEW_TOKENS], scales[IE_FEW_ROWS];
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) sum[j][t] = _mm512_setzero_ps();
  int64_t blocks = ie_div_up(dots->K, IE_INT8_COLS), chunks = ie_div_up(blocks, 2);
  for (int64_t chunk = 0; chunk < chunks; chunk += 8) {
#pragma GCC unroll 4
    for (int j = 0; j < shape.rows; j++) {
      const uint8_t *p = dots->scales[shape.first + j] + 4 * chunk;
      _mm_prefetch((const char *)p + 256, _MM_HINT_T0);
      scales[j] = load_f16_scales(p, mask16_clamped(blocks - 2 * chunk));
    }
    int64_t whole =
        ie_min_i64(8, chunks - 1 - chunk); /* of these eight, the chunks that do not end the row */
    for (int c = 0; c < (int)whole; c++)
      step(sum, dots, shape, scales, (place){chunk + c, c, false, 0xFFFF}, integers);
    if (whole < 8) {
      place end = {chunks - 1, (int)whole, true, mask16(8 * (blocks - 2 * (chunks - 1)))};
      step(sum, dots, shape, scales, end, integers);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++)
      out[(shape.first + j) * shape.tokens + t] = _mm512_reduce_add_ps(sum[j][t]);
}

DEFINE_FEW(int8, dot, false, ie_few_token_bytes_int8w__avx512)
DEFINE_FEW(int8_int8, dot, true, ie_few_token_bytes_int8_int8__avx512)
