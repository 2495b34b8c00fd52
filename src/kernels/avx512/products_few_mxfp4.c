/* Matrix-vector products of MXFP4 weights, 128 columns (64 bytes, four blocks) a step. Lane l of a register holds
 * bytes 4 l .. 4 l + 3, so columns 8 l .. 8 l + 7, and four neighbouring lanes are one block: its scale is applied
 * to the sums of the lanes. */
#include "kernels/avx512/products.h"

#include "blocks/mxfp4.h"

/* Column 8 l + j of lane l is chosen by the low four bits of element j of the result; bits above are other columns
 * (a table look-up by vpermps ignores them). Loading at the odd byte is free, so that only odd columns need a
 * shift. `last`: the 64 bytes may end the row: load only the first lanes and nothing beyond. */
ALWAYS_INLINE __m512i load_nibbles(const uint8_t *w, int j, bool last, __mmask16 lanes) {
  __m512i v;
  if (last)
    v = _mm512_srli_epi32(_mm512_maskz_loadu_epi32(lanes, w), (unsigned)(8 * (j / 2)));
  else
    v = _mm512_loadu_si512(w + j / 2);
  return j % 2 ? _mm512_srli_epi32(v, 4) : v;
}

ALWAYS_INLINE void step_float(__m512 sum[][IE_FEW_TOKENS], const ie_dots *dots, int first, int rows,
                              int tokens, int64_t chunk, const __m512 *scales, int c, bool last,
                              __mmask16 lanes) {
  const __m512 values = _mm512_loadu_ps(ie_mxfp4_values);
  __m512 part[IE_FEW_ROWS][IE_FEW_TOKENS];
#pragma GCC unroll 4
  for (int j = 0; j < rows; j++)
    _mm_prefetch((const char *)dots->w[first + j] + 64 * chunk + PREFETCH_BYTES, _MM_HINT_T0);
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < rows; j++) {
      __m512 w = _mm512_permutexvar_ps(load_nibbles(dots->w[first + j] + 64 * chunk, i, last, lanes), values);
#pragma GCC unroll 4
      for (int t = 0; t < tokens; t++) {
        const float *x = (const float *)(dots->x + (size_t)t * dots->token_bytes) + MX_CHUNK_COLS * chunk;
        __m512 xi = _mm512_load_ps(x + 16 * i);
        part[j][t] = i == 0 ? _mm512_mul_ps(w, xi) : _mm512_fmadd_ps(w, xi, part[j][t]);
      }
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < rows; j++) {
    __m512 scale = spread_scales(scales[j], c);
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) sum[j][t] = _mm512_fmadd_ps(part[j][t], scale, sum[j][t]);
  }
}

ALWAYS_INLINE void step_int8(__m512 sum[][IE_FEW_TOKENS], const ie_dots *dots, int first, int rows,
                             int tokens, int64_t chunk, const __m512 *scales, int c, bool last,
                             __mmask16 lanes) {
  const __m512i values = offset_values();
#pragma GCC unroll 4
  for (int j = 0; j < rows; j++) {
    const uint8_t *p = dots->w[first + j] + 64 * chunk;
    _mm_prefetch((const char *)p + PREFETCH_BYTES, _MM_HINT_T0);
    __m512i w = last ? _mm512_maskz_loadu_epi32(lanes, p) : _mm512_loadu_si512(p);
    __m512i even = _mm512_permutexvar_epi8(w, values);
    __m512i odd = _mm512_permutexvar_epi8(_mm512_srli_epi16(w, 4), values);
    __m512 scale = spread_scales(scales[j], c);
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) {
      const int8_chunk *x = (const int8_chunk *)(dots->x + (size_t)t * dots->token_bytes) + chunk;
      __m512i d = _mm512_dpbusd_epi32(_mm512_load_si512(x->start), even, _mm512_load_si512(x->even));
      d = _mm512_dpbusd_epi32(d, odd, _mm512_load_si512(x->odd));
      sum[j][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(d), _mm512_mul_ps(scale, _mm512_load_ps(x->half_scale)),
                                  sum[j][t]);
    }
  }
}

typedef enum activation { ACTIVATION_FLOAT, ACTIVATION_INT8 } activation;

ALWAYS_INLINE void step(__m512 sum[][IE_FEW_TOKENS], const ie_dots *dots, int first, int rows, int tokens,
                        int64_t chunk, const __m512 *scales, int c, bool last, __mmask16 lanes,
                        activation kind) {
  if (kind == ACTIVATION_FLOAT)
    step_float(sum, dots, first, rows, tokens, chunk, scales, c, last, lanes);
  else
    step_int8(sum, dots, first, rows, tokens, chunk, scales, c, last, lanes);
}

ALWAYS_INLINE void dot(float *out, const ie_dots *dots, int first, int rows, int tokens, activation kind) {
  __m512 sum[IE_FEW_ROWS][IE_FEW_TOKENS], scales[IE_FEW_ROWS];
#pragma GCC unroll 4
  for (int j = 0; j < rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) sum[j][t] = _mm512_setzero_ps();
  int64_t blocks = dots->K / IE_BLOCK_COLS, chunks = ie_div_up(blocks, 4);
  for (int64_t chunk = 0; chunk < chunks; chunk += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < rows; j++) {
      const uint8_t *p = dots->scales[first + j] + 4 * chunk;
      _mm_prefetch((const char *)p + 256, _MM_HINT_T0);
      scales[j] = load_scales(p, mask16_clamped(blocks - 4 * chunk));
    }
    int64_t whole = ie_min_i64(4, chunks - 1 - chunk); /* of these four, the chunks that do not end the row */
    for (int c = 0; c < (int)whole; c++)
      step(sum, dots, first, rows, tokens, chunk + c, scales, c, false, 0xFFFF, kind);
    if (whole < 4)
      step(sum, dots, first, rows, tokens, chunks - 1, scales, (int)whole, true,
           mask16(4 * (blocks - 4 * (chunks - 1))), kind);
  }
#pragma GCC unroll 4
  for (int j = 0; j < rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) out[(first + j) * tokens + t] = _mm512_reduce_add_ps(sum[j][t]);
}

#define DEFINE_FEW(name, kind, token_bytes)                                                                  \
  static void name##_1x1(float *out, const ie_dots *dots) {                                                  \
    dot(out, dots, 0, 1, 1, kind);                                                                           \
  }                                                                                                          \
  static void name##_1x2(float *out, const ie_dots *dots) {                                                  \
    dot(out, dots, 0, 1, 2, kind);                                                                           \
  }                                                                                                          \
  static void name##_1x4(float *out, const ie_dots *dots) {                                                  \
    dot(out, dots, 0, 1, 4, kind);                                                                           \
  }                                                                                                          \
  static void name##_4x1(float *out, const ie_dots *dots) {                                                  \
    dot(out, dots, 0, 4, 1, kind);                                                                           \
  }                                                                                                          \
  static void name##_4x2(float *out, const ie_dots *dots) {                                                  \
    dot(out, dots, 0, 4, 2, kind);                                                                           \
  }                                                                                                          \
  static void name##_4x4(float *out,                                                                         \
                         const ie_dots *dots) { /* two and two rows: else the registers overflow */          \
    dot(out, dots, 0, 2, 4, kind);                                                                           \
    dot(out, dots, 2, 2, 4, kind);                                                                           \
  }                                                                                                          \
  const ie_few few_##name##__avx512 = {                                                                      \
      token_bytes, {name##_4x1, name##_4x2, name##_4x4}, {name##_1x1, name##_1x2, name##_1x4}};
DEFINE_FEW(mxfp4, ACTIVATION_FLOAT, few_token_bytes_mxfp4__avx512)
DEFINE_FEW(int8_mxfp4, ACTIVATION_INT8, few_token_bytes_int8__avx512)
