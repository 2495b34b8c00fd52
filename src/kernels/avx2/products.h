/* What the AVX2 product files share: rounding of activations in registers, and how weights unpack, which fixes the
 * columns' order in packed activations. For files of avx2/ only. */
#ifndef CLOCHER_KERNELS_AVX2_PRODUCTS_H
#define CLOCHER_KERNELS_AVX2_PRODUCTS_H

#include "blocks/int4.h"
#include "blocks/int8.h"
#include "blocks/mxfp4.h"
#include "kernels/products_common.h"
#include "kernels/products_few.h"

#include <immintrin.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum {
  PREFETCH_BYTES = 1024, /* ahead of each stream */
  STEP_COLS = 16,        /* columns of float weights that are unpacked together */
  MX_CHUNK_COLS = 64,    /* columns of MXFP4 (two blocks) or INT4 (one) in one 32-byte load */
};

/* --- Activations ------------------------------------------------------------------------------------------------ */

/* As ie_f32_to_bf16 rounds. */
ALWAYS_INLINE __m256 round_bf16(__m256 x) {
  __m256i u = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
  __m256 quiet = _mm256_or_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x00400000)));
  __m256 v = _mm256_blendv_ps(_mm256_castsi256_ps(r), quiet, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xFFFF0000)));
}

ALWAYS_INLINE __m256 round_f16(__m256 x) {
  return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* ie_quantise_block for 32 numbers in four registers. */
ALWAYS_INLINE float quantise_block(__m256i q[4], const __m256 x[4]) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 largest = _mm256_setzero_ps(), finite = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  for (int i = 0; i < 4; i++) {
    __m256 a = _mm256_andnot_ps(sign, x[i]);
    largest = _mm256_max_ps(largest, a);
    finite = _mm256_and_ps(finite, _mm256_cmp_ps(a, _mm256_set1_ps(INFINITY), _CMP_LT_OQ));
    q[i] = _mm256_setzero_si256();
  }
  if (_mm256_movemask_ps(finite) != 0xFF) return NAN;
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  m = _mm_max_ss(m, _mm_movehdup_ps(m));
  float s = _mm_cvtss_f32(m) / 127.0f;
  if (s == 0) return 0;
  __m256 scale = _mm256_set1_ps(s), limit = _mm256_set1_ps(127), lower = _mm256_set1_ps(-127);
  for (int i = 0; i < 4; i++)
    q[i] = _mm256_cvtps_epi32(_mm256_max_ps(lower, _mm256_min_ps(limit, _mm256_div_ps(x[i], scale))));
  return s;
}

/* Columns k0 .. k0 + 31 of a row of K; zeros beyond K. */
ALWAYS_INLINE void load_block(__m256 v[4], const float *x, int64_t k0, int64_t K) {
  float tail[IE_BLOCK_COLS] = {0};
  const float *p = x + k0;
  if (K - k0 < IE_BLOCK_COLS) {
    if (K > k0) memcpy(tail, p, (size_t)(K - k0) * sizeof(float));
    p = tail;
  }
  for (int i = 0; i < 4; i++) v[i] = _mm256_loadu_ps(p + 8 * i);
}

/* Quantises columns k .. k + 31 of a row of K (zero beyond it), and returns their scale. */
ALWAYS_INLINE float quantise_cols(int32_t q[IE_BLOCK_COLS], const float *x, int64_t k, int64_t K) {
  __m256 v[4];
  __m256i quantised[4];
  load_block(v, x, k, K);
  float s = quantise_block(quantised, v);
  for (int i = 0; i < 4; i++) _mm256_storeu_si256((__m256i *)(void *)(q + 8 * i), quantised[i]);
  return s;
}

/* load_block, as the class has the numbers. */
ALWAYS_INLINE void load_rounded(float out[IE_BLOCK_COLS], const float *x, int64_t k0, int64_t K,
                                ie_class class) {
  __m256 v[4];
  load_block(v, x, k0, K);
  __m256i q[4];
  __m256 s = _mm256_set1_ps(class == IE_CLASS_INT8 ? quantise_block(q, v) : 0);
  for (int i = 0; i < 4; i++) {
    if (class == IE_CLASS_BF16) v[i] = round_bf16(v[i]);
    if (class == IE_CLASS_F16) v[i] = round_f16(v[i]);
    if (class == IE_CLASS_INT8) v[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(q[i]), s);
    _mm256_storeu_ps(out + 8 * i, v[i]);
  }
}

typedef enum order {
  ORDER_NATURAL, /* f32, f16 and INT8 weights */
  ORDER_PAIRS,   /* bf16 weights: of each 16 columns the 8 even ones, then the 8 odd ones */
  ORDER_NIBBLES, /* MXFP4 and INT4: of each 64 columns as unpack_nibbles gives them */
} order;

/* Where column k stands in a packed row. */
ALWAYS_INLINE int64_t packed_col(int64_t k, order ordering) {
  if (ordering == ORDER_PAIRS) return k / 16 * 16 + k % 2 * 8 + k % 16 / 2;
  if (ordering == ORDER_NIBBLES) {
    int64_t byte = k % 32 / 2; /* of its block */
    int64_t reg = k % 2 * 4 + byte / 8 * 2 + byte % 2;
    return k / 64 * 64 + reg * 8 + k % 64 / 32 * 4 + byte % 8 / 2;
  }
  return k;
}

/* --- Weights ---------------------------------------------------------------------------------------------------- */

/* 16 whole columns at p. */
ALWAYS_INLINE void unpack_floats(__m256 out[2], const uint8_t *p, ie_wformat format) {
  if (format == IE_W_F32) {
    out[0] = _mm256_loadu_ps((const float *)(const void *)p);
    out[1] = _mm256_loadu_ps((const float *)(const void *)(p + 32));
  } else if (format == IE_W_F16) {
    out[0] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
    out[1] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 16)));
  } else {
    __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)p);
    out[0] = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
    out[1] = _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int)0xFFFF0000)));
  }
}

/* Columns k .. k + 15 of a row of K; zeros beyond K. */
ALWAYS_INLINE void load_weights(__m256 out[2], const uint8_t *row, int64_t k, int64_t K, ie_wformat format) {
  const int64_t bytes = format == IE_W_F32 ? 4 : 2;
  if (K - k >= STEP_COLS) {
    unpack_floats(out, row + bytes * k, format);
    return;
  }
  uint8_t tail[4 * STEP_COLS] = {0};
  if (K > k) memcpy(tail, row + bytes * k, (size_t)(bytes * (K - k)));
  unpack_floats(out, tail, format);
}

/* 32 bytes of nibbles: 32 columns in each half; the upper half is zero when `blocks` is 1. */
ALWAYS_INLINE __m256i load_nibbles(const uint8_t *p, int64_t blocks) {
  if (blocks >= 2) return _mm256_loadu_si256((const __m256i *)(const void *)p);
  return _mm256_zextsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* The f16 at p. */
ALWAYS_INLINE float load_f16(const uint8_t *p) {
  uint16_t h;
  memcpy(&h, p, 2);
  return _cvtsh_ss(h);
}

/* The scale of each 32 columns in their half (of INT4 one f16 for both; it takes two bytes for 64 columns, as MXFP4
 * does); zero where there is none. */
ALWAYS_INLINE __m256 load_scales(const uint8_t *p, int64_t blocks, ie_wformat format) {
  if (format == IE_W_INT4) return _mm256_set1_ps(load_f16(p));
  __m128 high = blocks >= 2 ? _mm_broadcast_ss(&ie_mxfp4_scales[p[1]]) : _mm_setzero_ps();
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_broadcast_ss(&ie_mxfp4_scales[p[0]])), high, 1);
}

/* Half of the columns of 32 bytes (nibbles in the low four bits, the others zero) as four registers: the numbers are
 * put together as bf16, from a table of high and one of low bytes, and bf16 is widened as in unpack_floats. */
ALWAYS_INLINE void unpack_nibbles(__m256 out[4], __m256i nibbles, ie_wformat format) {
  const bool mx = format == IE_W_MXFP4; /* 0 .5 1 1.5 2 3 4 6 and negative; else -8 .. 7 */
  const __m256i high_bytes =
      _mm256_broadcastsi128_si256(mx ? _mm_setr_epi8(0x00, 0x3F, 0x3F, 0x3F, 0x40, 0x40, 0x40, 0x40, -0x80,
                                                     -0x41, -0x41, -0x41, -0x40, -0x40, -0x40, -0x40)
                                     : _mm_setr_epi8(-0x3F, -0x40, -0x40, -0x40, -0x40, -0x40, -0x40, -0x41,
                                                     0x00, 0x3F, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40));
  const __m256i low_bytes = _mm256_broadcastsi128_si256(
      mx ? _mm_setr_epi8(0, 0, -0x80, -0x40, 0, 0x40, -0x80, -0x40, 0, 0, -0x80, -0x40, 0, 0x40, -0x80, -0x40)
         : _mm_setr_epi8(0x00, -0x20, -0x40, -0x60, -0x80, 0x40, 0x00, -0x80, 0x00, -0x80, 0x00, 0x40, -0x80,
                         -0x60, -0x40, -0x20));
  const __m256i upper = _mm256_set1_epi32((int)0xFFFF0000);
  __m256i high = _mm256_shuffle_epi8(high_bytes, nibbles), low = _mm256_shuffle_epi8(low_bytes, nibbles);
  __m256i first = _mm256_unpacklo_epi8(low, high), second = _mm256_unpackhi_epi8(low, high);
  out[0] = _mm256_castsi256_ps(_mm256_slli_epi32(first, 16));
  out[1] = _mm256_castsi256_ps(_mm256_and_si256(first, upper));
  out[2] = _mm256_castsi256_ps(_mm256_slli_epi32(second, 16));
  out[3] = _mm256_castsi256_ps(_mm256_and_si256(second, upper));
}

ALWAYS_INLINE __m256i low_nibbles(__m256i w) {
  return _mm256_and_si256(w, _mm256_set1_epi8(15));
}
ALWAYS_INLINE __m256i high_nibbles(__m256i w) {
  return low_nibbles(_mm256_srli_epi16(w, 4));
}

/* The sum of the lanes, in a fixed order. */
ALWAYS_INLINE float add_lanes(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* --- Tables ----------------------------------------------------------------------------------------------------- */

/* What class INT8 makes of 4-bit weights: code = factor * value + offset, not negative. */
typedef struct code_rule {
  int offset;
  float factor;
} code_rule;
static const code_rule codes_mxfp4 = {12, 2}, codes_int4 = {8, 1};

/* Nibbles, the upper bits zero, as those codes. */
ALWAYS_INLINE __m256i unsigned_codes(__m256i nibbles, ie_wformat format) {
  const __m256i values =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  return format == IE_W_MXFP4 ? _mm256_shuffle_epi8(values, nibbles) : nibbles;
}

/* Packed int8 for `few` with 4-bit weights: for each 64 columns one of these. Lane l stands for columns 8 l ..
 * 8 l + 7. */
typedef struct int8_chunk {
  int8_t even[32], odd[32]; /* q of columns 2 i and 2 i + 1 */
  int32_t start[8];         /* -offset * sum of q over the columns of the lane */
  float scale[8];           /* s / factor of the block of the lane */
} int8_chunk;

/* The same with INT8 weights: K padded to 256 columns, the q of all of them, then the scale of each 32. */
enum { INT8_GROUP_COLS = 256 };
ALWAYS_INLINE int64_t int8_padded_cols(int64_t K) {
  return (int64_t)ie_size_align((size_t)K, INT8_GROUP_COLS);
}

size_t ie_few_token_bytes__avx2(int64_t K);
size_t ie_few_token_bytes_nibbles__avx2(int64_t K);
size_t ie_few_token_bytes_int8__avx2(int64_t K);
size_t ie_few_token_bytes_int8_int8__avx2(int64_t K);
extern const ie_few ie_few_f32__avx2, ie_few_f16__avx2, ie_few_bf16__avx2; /* products_few.c */
extern const ie_few ie_few_mxfp4__avx2, ie_few_int8_mxfp4__avx2, ie_few_int4__avx2,
    ie_few_int8_int4__avx2;                                    /* products_few_nibbles.c */
extern const ie_few ie_few_int8__avx2, ie_few_int8_int8__avx2; /* products_few_int8.c */

extern const ie_product ie_many_products__avx2[IE_CLASS_COUNT][IE_W_COUNT]; /* products_many.c */

extern const ie_product ie_many_int8_mxfp4__avx2, ie_many_int8_int4__avx2; /* products_many_int8.c */

/* The table of one format: its six shapes from a dot function and what that is told of the weights. */
#define DEFINE_FEW(name, dot_of, by, token_bytes)                                                            \
  static void name##_1x1(float *out, const ie_dots *dots) {                                                  \
    dot_of(out, dots, (ie_shape){0, 1, 1}, by);                                                              \
  }                                                                                                          \
  static void name##_1x2(float *out, const ie_dots *dots) {                                                  \
    dot_of(out, dots, (ie_shape){0, 1, 2}, by);                                                              \
  }                                                                                                          \
  static void name##_1x4(float *out, const ie_dots *dots) {                                                  \
    dot_of(out, dots, (ie_shape){0, 1, 4}, by);                                                              \
  }                                                                                                          \
  static void name##_4x1(float *out, const ie_dots *dots) {                                                  \
    dot_of(out, dots, (ie_shape){0, 4, 1}, by);                                                              \
  }                                                                                                          \
  static void name##_4x2(float *out, const ie_dots *dots) { /* as many at once as 16 registers hold */       \
    for (int j = 0; j < 4; j += 2) dot_of(out, dots, (ie_shape){j, 2, 2}, by);                               \
  }                                                                                                          \
  static void name##_4x4(float *out, const ie_dots *dots) {                                                  \
    for (int j = 0; j < 4; j++) dot_of(out, dots, (ie_shape){j, 1, 4}, by);                                  \
  }                                                                                                          \
  const ie_few ie_few_##name##__avx2 = {                                                                     \
      token_bytes, {name##_4x1, name##_4x2, name##_4x4}, {name##_1x1, name##_1x2, name##_1x4}};

#endif
