/* Vectors of 8 floats: the AVX2 side of the vocabulary in which vector_body.h and attend_body.h are written
 * (avx512/simd.h is the other, and says what each function does). Only files of this folder may include it. */
#ifndef CLOCHER_KERNELS_AVX2_SIMD_H
#define CLOCHER_KERNELS_AVX2_SIMD_H

#include "base/exp.h"
#include "clocher/tensor.h"

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define KERNEL(name) name##__avx2
#define INLINE       static inline __attribute__((always_inline))
/* Before a loop of at most 16 constant rounds whose arrays are to live in registers: -O2 keeps them as loops. */
#define UNROLL _Pragma("GCC unroll 16")

enum { VF_LANES = 8 };
typedef __m256 vf;

INLINE vf vf_set1(float x) {
  return _mm256_set1_ps(x);
}
INLINE vf vf_load(const float *p) {
  return _mm256_loadu_ps(p);
}
INLINE void vf_store(float *p, vf x) {
  _mm256_storeu_ps(p, x);
}
INLINE vf vf_add(vf a, vf b) {
  return _mm256_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b) {
  return _mm256_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b) {
  return _mm256_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b) {
  return _mm256_div_ps(a, b);
}
INLINE vf vf_sqrt(vf x) {
  return _mm256_sqrt_ps(x);
}
INLINE vf vf_fma(vf a, vf b, vf c) {
  return _mm256_fmadd_ps(a, b, c);
}
INLINE vf vf_min(vf a, vf b) {
  return _mm256_min_ps(a, b);
}
INLINE vf vf_max(vf a, vf b) {
  return _mm256_max_ps(a, b);
}

INLINE vf vf_abs(vf x) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}
INLINE vf vf_select_less(vf a, vf b, vf x, vf y) {
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

INLINE __m256i lane_numbers(void) {
  return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}
INLINE __m256i first_lanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane_numbers());
}
INLINE vf vf_load_n(const float *p, int64_t n) {
  return _mm256_maskload_ps(p, first_lanes(n));
}
INLINE void vf_store_n(float *p, vf x, int64_t n) {
  _mm256_maskstore_ps(p, first_lanes(n), x);
}

INLINE vf vf_from_bf16(__m128i h) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
INLINE vf vf_load_bf16(const uint16_t *p) {
  return vf_from_bf16(_mm_loadu_si128((const void *)p));
}
INLINE vf vf_load_f16(const uint16_t *p) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}
/* There is no masked load of 16 bits: tails go through a buffer. */
INLINE __m128i load_words_n(const uint16_t *p, int64_t n) {
  uint16_t words[8] = {0};
  memcpy(words, p, (size_t)n * sizeof words[0]);
  return _mm_loadu_si128((const void *)words);
}
INLINE void store_words_n(uint16_t *p, __m128i x, int64_t n) {
  if (n == 8) {
    _mm_storeu_si128((void *)p, x);
    return;
  }
  uint16_t words[8];
  _mm_storeu_si128((void *)words, x);
  memcpy(p, words, (size_t)n * sizeof words[0]);
}
INLINE vf vf_load_bf16_n(const uint16_t *p, int64_t n) {
  return n == 8 ? vf_load_bf16(p) : vf_from_bf16(load_words_n(p, n));
}
INLINE vf vf_load_f16_n(const uint16_t *p, int64_t n) {
  return n == 8 ? vf_load_f16(p) : _mm256_cvtph_ps(load_words_n(p, n));
}

INLINE vf vf_from_i8(__m128i bytes) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
INLINE vf vf_load_i8(const int8_t *p) {
  return vf_from_i8(_mm_loadl_epi64((const void *)p));
}
INLINE vf vf_load_i8_n(const int8_t *p, int64_t n) {
  int8_t bytes[16] = {0};
  memcpy(bytes, p, (size_t)n);
  return vf_from_i8(_mm_loadu_si128((const void *)bytes));
}

INLINE __m256i bf16_bits(vf x) {
  __m256i u = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
}
INLINE vf vf_round_bf16(vf x) {
  return _mm256_castsi256_ps(_mm256_and_si256(bf16_bits(x), _mm256_set1_epi32((int)0xFFFF0000u)));
}
INLINE __m128i vf_to_bf16(vf x) {
  __m256i rounded = _mm256_srli_epi32(bf16_bits(x), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}
INLINE __m128i vf_to_f16(vf x) {
  return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE void vf_store_bf16_n(uint16_t *p, vf x, int64_t n) {
  store_words_n(p, vf_to_bf16(x), n);
}
INLINE void vf_store_f16_n(uint16_t *p, vf x, int64_t n) {
  store_words_n(p, vf_to_f16(x), n);
}

INLINE void vf_deinterleave(vf a, vf b, vf *even, vf *odd) {
  vf low = _mm256_permute2f128_ps(a, b, 0x20), high = _mm256_permute2f128_ps(a, b, 0x31);
  *even = _mm256_shuffle_ps(low, high, 0x88);
  *odd = _mm256_shuffle_ps(low, high, 0xDD);
}

INLINE void vf_interleave(vf even, vf odd, vf *a, vf *b) {
  vf low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
  *a = _mm256_permute2f128_ps(low, high, 0x20);
  *b = _mm256_permute2f128_ps(low, high, 0x31);
}

INLINE uint32_t vf_is_nan(vf x) {
  return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
INLINE uint32_t vf_is_nonfinite(vf x) {
  const __m256i inf = _mm256_set1_epi32(0x7F800000);
  __m256i same = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(x), inf), inf);
  return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(same));
}
INLINE uint32_t vf_is_equal(vf x, vf y) {
  return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x, y, _CMP_EQ_OQ));
}

INLINE vf vf_select_range(vf x, vf other, int64_t lo, int64_t hi) {
  int a = lo < 0 ? 0 : lo > 8 ? 8 : (int)lo, b = hi < 0 ? 0 : hi > 8 ? 8 : (int)hi;
  __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(b), lane_numbers());
  __m256i keep = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(a), lane_numbers()), below);
  return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(keep));
}

INLINE float vf_sum(vf y) {
  __m128 z = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  z = _mm_add_ps(z, _mm_movehl_ps(z, z));
  return _mm_cvtss_f32(_mm_add_ss(z, _mm_shuffle_ps(z, z, 1)));
}
INLINE float vf_max_lane(vf y) {
  __m128 z = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  z = _mm_max_ps(z, _mm_movehl_ps(z, z));
  return _mm_cvtss_f32(_mm_max_ss(z, _mm_shuffle_ps(z, z, 1)));
}

/* 2^n as a float for |n| <= 126. */
INLINE vf exp2_int(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

INLINE vf vf_scale(vf x, vf n) {
  __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
  return vf_mul(vf_mul(x, exp2_int(half)), exp2_int(_mm256_sub_epi32(whole, half)));
}

INLINE vf vf_exp(vf x) {
  x = vf_min(vf_set1(IE_EXP_MOST), vf_max(vf_set1(IE_EXP_LEAST), x));
  const vf magic = vf_set1(0x1.8p23f);
  vf n = vf_sub(vf_add(vf_mul(x, vf_set1(IE_EXP_LOG2E)), magic), magic);
  vf r = vf_sub(vf_sub(x, vf_mul(n, vf_set1(IE_EXP_LN2_HIGH))), vf_mul(n, vf_set1(IE_EXP_LN2_LOW)));
  vf p = vf_add(vf_mul(vf_set1(IE_EXP_C4), r), vf_set1(IE_EXP_C3));
  p = vf_add(vf_mul(p, r), vf_set1(IE_EXP_C2));
  p = vf_add(vf_mul(p, r), vf_set1(IE_EXP_C1));
  p = vf_add(vf_mul(p, r), vf_set1(IE_EXP_C0));
  vf y = vf_add(vf_add(vf_mul(p, vf_mul(r, r)), r), vf_set1(1.0f));
  return vf_scale(y, n);
}

/* Of two rows here. */
INLINE vf vf_load_quads(const char *p, int64_t step) {
  return _mm256_loadu2_m128((const void *)(p + step), (const void *)p);
}

INLINE void vf_transpose_quads(vf r[4]) {
  vf a = _mm256_unpacklo_ps(r[0], r[1]), b = _mm256_unpackhi_ps(r[0], r[1]);
  vf c = _mm256_unpacklo_ps(r[2], r[3]), d = _mm256_unpackhi_ps(r[2], r[3]);
  r[0] = _mm256_shuffle_ps(a, c, 0x44);
  r[1] = _mm256_shuffle_ps(a, c, 0xEE);
  r[2] = _mm256_shuffle_ps(b, d, 0x44);
  r[3] = _mm256_shuffle_ps(b, d, 0xEE);
}

/* For attend_eight.h: a lane is a row, and no two keys share a vector. */
INLINE void vf_store_pairs(float *p, vf a, vf b) {
  vf_store(p, a);
  vf_store(p + VF_LANES, b);
}
INLINE vf vf_load_eighth(const float *p) {
  return _mm256_broadcast_ss(p);
}
INLINE vf vf_load_rows(const float *p) {
  return vf_load(p);
}
INLINE void vf_store_rows(float *p, vf x) {
  vf_store(p, x);
}
INLINE vf vf_swap_neighbours(vf x) {
  return x;
}

INLINE vf vf_low_bf16(vf pair) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pair), 16));
}
INLINE vf vf_high_bf16(vf pair) {
  return _mm256_castsi256_ps(
      _mm256_and_si256(_mm256_castps_si256(pair), _mm256_set1_epi32((int)0xFFFF0000u)));
}
INLINE vf vf_byte(vf bytes, int j) {
  __m256i top = _mm256_slli_epi32(_mm256_castps_si256(bytes), 24 - 8 * j);
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(top, 24));
}
INLINE __m128i pack_words(__m256i x) {
  return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}
INLINE vf vf_low_f16(vf pair) {
  return _mm256_cvtph_ps(pack_words(_mm256_and_si256(_mm256_castps_si256(pair), _mm256_set1_epi32(0xFFFF))));
}
INLINE vf vf_high_f16(vf pair) {
  return _mm256_cvtph_ps(pack_words(_mm256_srli_epi32(_mm256_castps_si256(pair), 16)));
}

#endif
