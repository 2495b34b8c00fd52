/* Matrix-vector products of 4-bit weights, MXFP4 and INT4, 128 columns (64 bytes, four blocks of 32) a step. Lane l of
 * a register holds bytes 4 l .. 4 l + 3, so columns 8 l .. 8 l + 7, and four neighbouring lanes are one block of 32 (of
 * INT4, eight are one of 64): its scale is applied to the sums of the lanes. */
#include "kernels/avx512/products.h"

#include "blocks/int4.h"
#include "blocks/mxfp4.h"

/* The factors of the lanes of chunk c (0 .. 3), from the scales of four chunks. */
ALWAYS_INLINE __m512 spread(__m512 scales, int c, ie_wformat format) {
  return format == IE_W_MXFP4 ? spread_scales(scales, c) : spread_pairs(scales, c);
}

/* The scales of the four chunks from `chunk` on, of a row of `blocks` blocks of 32; zero where there are none. */
ALWAYS_INLINE __m512 load_four(const uint8_t *scales, int64_t chunk, int64_t blocks, ie_wformat format) {
  if (format == IE_W_MXFP4) return load_scales(scales + 4 * chunk, mask16_clamped(blocks - 4 * chunk));
  return load_f16_scales(scales + 4 * chunk, mask16_clamped(blocks / 2 - 2 * chunk) & 0xFF);
}

/* One step of a row: the chunk of 64 bytes, and which of its four it is (the scales of four are loaded together).
 * `last`: it ends the row, and only `lanes` of it exist. */
typedef struct place {
  int64_t chunk;
  int c;
  bool last;
  __mmask16 lanes;
} place;

/* Column 8 l + j of lane l is chosen by the low four bits of element j of the result; bits above are other columns
 * (a table look-up by vpermps ignores them). Loading at the odd byte is free, so that only odd columns need a
 * shift. The end of a row is loaded once, so that nothing beyond it is. */
ALWAYS_INLINE __m512i load_nibbles(const uint8_t *w, int j, place at) {
  __m512i v;
  if (at.last)
    v = _mm512_srli_epi32(_mm512_maskz_loadu_epi32(at.lanes, w), (unsigned)(8 * (j / 2)));
  else
    v = _mm512_loadu_si512(w + j / 2);
  return j % 2 ? _mm512_srli_epi32(v, 4) : v;
}

ALWAYS_INLINE void step_float(__m512 sum[][IE_FEW_TOKENS], const ie_dots *dots, ie_shape shape,
                              const __m512 *scales, place at, ie_wformat format) {
  const __m512 values = _mm512_loadu_ps(format == IE_W_MXFP4 ? ie_mxfp4_values : ie_int4_values);
  __m512 part[IE_FEW_ROWS][IE_FEW_TOKENS];
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
    _mm_prefetch((const char *)dots->w[shape.first + j] + 64 * at.chunk + PREFETCH_BYTES, _MM_HINT_T0);
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < shape.rows; j++) {
      __m512 w = _mm512_permutexvar_ps(load_nibbles(dots->w[shape.first + j] + 64 * at.chunk, i, at), values);
#pragma GCC unroll 4
      for (int t = 0; t < shape.tokens; t++) {
        const float *x = (const float *)(dots->x + (size_t)t * dots->token_bytes) + MX_CHUNK_COLS * at.chunk;
        __m512 xi = _mm512_load_ps(x + 16 * i);
        part[j][t] = i == 0 ? _mm512_mul_ps(w, xi) : _mm512_fmadd_ps(w, xi, part[j][t]);
      }
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++) {
    __m512 scale = spread(scales[j], at.c, format);
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) sum[j][t] = _mm512_fmadd_ps(part[j][t], scale, sum[j][t]);
  }
}

ALWAYS_INLINE void step_int8(__m512 sum[][IE_FEW_TOKENS], const ie_dots *dots, ie_shape shape,
                             const __m512 *scales, place at, ie_wformat format) {
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++) {
    const uint8_t *p = dots->w[shape.first + j] + 64 * at.chunk;
    _mm_prefetch((const char *)p + PREFETCH_BYTES, _MM_HINT_T0);
    __m512i w = at.last ? _mm512_maskz_loadu_epi32(at.lanes, p) : _mm512_loadu_si512(p);
    __m512i even = unsigned_codes(w, format);
    __m512i odd = unsigned_codes(_mm512_srli_epi16(w, 4), format);
    __m512 scale = spread(scales[j], at.c, format);
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) {
      const int8_chunk *x = (const int8_chunk *)(dots->x + (size_t)t * dots->token_bytes) + at.chunk;
      __m512i d = _mm512_dpbusd_epi32(_mm512_load_si512(x->start), even, _mm512_load_si512(x->even));
      d = _mm512_dpbusd_epi32(d, odd, _mm512_load_si512(x->odd));
      __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(d), _mm512_load_ps(x->scale));
      sum[j][t] = _mm512_fmadd_ps(part, scale, sum[j][t]);
    }
  }
}

/* Three short chains, not one long one by Horner's scheme: the latter waits for its latency. Sums of a lane
 * stay below 8 * 12 * 2^22 < 2^31. */
ALWAYS_INLINE void step_fixed(__m512 sum[][IE_FEW_TOKENS], const ie_dots *dots, ie_shape shape,
                              const __m512 *scales, place at, ie_wformat format) {
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++) {
    const uint8_t *p = dots->w[shape.first + j] + 64 * at.chunk;
    _mm_prefetch((const char *)p + PREFETCH_BYTES, _MM_HINT_T0);
    __m512i w = at.last ? _mm512_maskz_loadu_epi32(at.lanes, p) : _mm512_loadu_si512(p);
    __m512i even = unsigned_codes(w, format);
    __m512i odd = unsigned_codes(_mm512_srli_epi16(w, 4), format);
    __m512 scale = spread(scales[j], at.c, format);
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) {
      const fixed_chunk *x = (const fixed_chunk *)(dots->x + (size_t)t * dots->token_bytes) + at.chunk;
      __m512i digit[3];
#pragma GCC unroll 3
      for (int i = 0; i < 3; i++) {
        digit[i] = i == 2 ? _mm512_load_si512(x->start) : _mm512_setzero_si512();
        digit[i] = _mm512_dpbusd_epi32(digit[i], even, _mm512_load_si512(x->even[i]));
        digit[i] = _mm512_dpbusd_epi32(digit[i], odd, _mm512_load_si512(x->odd[i]));
      }
      __m512i d = _mm512_add_epi32(_mm512_slli_epi32(digit[0], 8), digit[1]);
      d = _mm512_add_epi32(_mm512_slli_epi32(d, 8), digit[2]);
      __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(d), _mm512_load_ps(x->unit));
      sum[j][t] = _mm512_fmadd_ps(part, scale, sum[j][t]);
    }
  }
}

typedef enum activation { ACTIVATION_FLOAT, ACTIVATION_INT8, ACTIVATION_FIXED } activation;

typedef struct weights_by {
  ie_wformat format;
  activation kind;
} weights_by;

ALWAYS_INLINE void step(__m512 sum[][IE_FEW_TOKENS], const ie_dots *dots, ie_shape shape,
                        const __m512 *scales, place at, weights_by by) {
  if (by.kind == ACTIVATION_FLOAT)
    step_float(sum, dots, shape, scales, at, by.format);
  else if (by.kind == ACTIVATION_FIXED)
    step_fixed(sum, dots, shape, scales, at, by.format);
  else
    step_int8(sum, dots, shape, scales, at, by.format);
}

ALWAYS_INLINE void dot(float *out, const ie_dots *dots, ie_shape shape, weights_by by) {
  __m512 sum[IE_FEW_ROWS][IE_FEW_TOKENS], scales[IE_FEW_ROWS];
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++) sum[j][t] = _mm512_setzero_ps();
  int64_t blocks = by.format == IE_W_MXFP4 ? dots->K / IE_BLOCK_COLS : 2 * ie_div_up(dots->K, IE_INT4_COLS);
  int64_t chunks = ie_div_up(blocks, 4);
  for (int64_t chunk = 0; chunk < chunks; chunk += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < shape.rows; j++) {
      const uint8_t *p = dots->scales[shape.first + j];
      _mm_prefetch((const char *)p + 4 * chunk + 256, _MM_HINT_T0);
      scales[j] = load_four(p, chunk, blocks, by.format);
    }
    int64_t whole = ie_min_i64(4, chunks - 1 - chunk); /* of these four, the chunks that do not end the row */
    for (int c = 0; c < (int)whole; c++)
      step(sum, dots, shape, scales, (place){chunk + c, c, false, 0xFFFF}, by);
    if (whole < 4) {
      place end = {chunks - 1, (int)whole, true, mask16(4 * (blocks - 4 * (chunks - 1)))};
      step(sum, dots, shape, scales, end, by);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < shape.rows; j++)
#pragma GCC unroll 4
    for (int t = 0; t < shape.tokens; t++)
      out[(shape.first + j) * shape.tokens + t] = _mm512_reduce_add_ps(sum[j][t]);
}

#define DEFINE_FEW(name, format, kind, token_bytes)                                                          \
  static void name##_1x1(float *out, const ie_dots *dots) {                                                  \
    dot(out, dots, (ie_shape){0, 1, 1}, (weights_by){format, kind});                                         \
  }                                                                                                          \
  static void name##_1x2(float *out, const ie_dots *dots) {                                                  \
    dot(out, dots, (ie_shape){0, 1, 2}, (weights_by){format, kind});                                         \
  }                                                                                                          \
  static void name##_1x4(float *out, const ie_dots *dots) {                                                  \
    dot(out, dots, (ie_shape){0, 1, 4}, (weights_by){format, kind});                                         \
  }                                                                                                          \
  static void name##_4x1(float *out, const ie_dots *dots) {                                                  \
    dot(out, dots, (ie_shape){0, 4, 1}, (weights_by){format, kind});                                         \
  }                                                                                                          \
  static void name##_4x2(float *out, const ie_dots *dots) {                                                  \
    dot(out, dots, (ie_shape){0, 4, 2}, (weights_by){format, kind});                                         \
  }                                                                                                          \
  static void name##_4x4(float *out,                                                                         \
                         const ie_dots *dots) { /* two and two rows: else the registers overflow */          \
    dot(out, dots, (ie_shape){0, 2, 4}, (weights_by){format, kind});                                         \
    dot(out, dots, (ie_shape){2, 2, 4}, (weights_by){format, kind});                                         \
  }                                                                                                          \
  const ie_few ie_few_##name##__avx512 = {                                                                   \
      token_bytes, {name##_4x1, name##_4x2, name##_4x4}, {name##_1x1, name##_1x2, name##_1x4}};
DEFINE_FEW(mxfp4, IE_W_MXFP4, ACTIVATION_FLOAT, ie_few_token_bytes_nibbles__avx512)
DEFINE_FEW(int8_mxfp4, IE_W_MXFP4, ACTIVATION_INT8, ie_few_token_bytes_int8__avx512)
DEFINE_FEW(fixed_mxfp4, IE_W_MXFP4, ACTIVATION_FIXED, ie_few_token_bytes_fixed__avx512)
DEFINE_FEW(int4, IE_W_INT4, ACTIVATION_FLOAT, ie_few_token_bytes_nibbles__avx512)
DEFINE_FEW(int8_int4, IE_W_INT4, ACTIVATION_INT8, ie_few_token_bytes_int8__avx512)
DEFINE_FEW(fixed_int4, IE_W_INT4, ACTIVATION_FIXED, ie_few_token_bytes_fixed__avx512)
