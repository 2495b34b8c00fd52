/* Vectors of 16 floats: the AVX-512 side of the vocabulary in which vector_body.h and attend_body.h are written
 * (avx2/simd.h is the other). Only files of this folder and of amx/ may include it. Nothing here fuses a multiplication with
 * an addition but vf_fma. */
#ifndef CLOCHER_KERNELS_AVX512_SIMD_H
#define CLOCHER_KERNELS_AVX512_SIMD_H

#include "base/exp.h"
#include "clocher/tensor.h"

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define KERNEL(name) name##__avx512
#define INLINE       static inline __attribute__((always_inline))
/* Before a loop of at most 16 constant rounds whose arrays are to live in registers: -O2 keeps them as loops. */
#define UNROLL _Pragma("GCC unroll 16")

/* What attend_body.h includes for int8 keys. */
#define ATTEND_INTEGERS "kernels/avx512/attend_integers.h"

enum { VF_LANES = 16 };
typedef __m512 vf;

INLINE vf vf_set1(float x) {
  return _mm512_set1_ps(x);
}
INLINE vf vf_load(const float *p) {
  return _mm512_loadu_ps(p);
}
INLINE void vf_store(float *p, vf x) {
  _mm512_storeu_ps(p, x);
}
INLINE vf vf_add(vf a, vf b) {
  return _mm512_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b) {
  return _mm512_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b) {
  return _mm512_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b) {
  return _mm512_div_ps(a, b);
}
INLINE vf vf_sqrt(vf x) {
  return _mm512_sqrt_ps(x);
}
INLINE vf vf_fma(vf a, vf b, vf c) {
  return _mm512_fmadd_ps(a, b, c);
}
/* a < b ? a : b and a > b ? a : b, so a NaN in b comes through. */
INLINE vf vf_min(vf a, vf b) {
  return _mm512_min_ps(a, b);
}
INLINE vf vf_max(vf a, vf b) {
  return _mm512_max_ps(a, b);
}

INLINE vf vf_abs(vf x) {
  return _mm512_abs_ps(x);
}
/* Lane by lane a < b ? x : y; y where a or b is NaN. */
INLINE vf vf_select_less(vf a, vf b, vf x, vf y) {
  return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), x);
}

/* The first n lanes, 0 <= n <= VF_LANES; the rest is 0 and not touched in memory. */
INLINE __mmask16 first_lanes(int64_t n) {
  return (__mmask16)((1u << n) - 1u);
}
INLINE vf vf_load_n(const float *p, int64_t n) {
  return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
INLINE void vf_store_n(float *p, vf x, int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), x);
}

INLINE vf vf_from_bf16(__m256i h) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
INLINE vf vf_load_bf16(const uint16_t *p) {
  return vf_from_bf16(_mm256_loadu_si256((const void *)p));
}
INLINE vf vf_load_f16(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
INLINE vf vf_load_bf16_n(const uint16_t *p, int64_t n) {
  return vf_from_bf16(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
INLINE vf vf_load_i8(const int8_t *p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}
INLINE vf vf_load_i8_n(const int8_t *p, int64_t n) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first_lanes(n), p)));
}
INLINE vf vf_load_f16_n(const uint16_t *p, int64_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}

/* The bf16 of ie_f32_to_bf16 in the upper half of each lane; below it stands anything. */
INLINE __m512i bf16_bits(vf x) {
  __m512i u = _mm512_castps_si512(x);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd);
  __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
}
/* As ie_f32_round_bf16, ie_f32_to_bf16 and ie_f32_to_f16. */
INLINE vf vf_round_bf16(vf x) {
  return _mm512_castsi512_ps(_mm512_and_si512(bf16_bits(x), _mm512_set1_epi32((int)0xFFFF0000u)));
}
INLINE __m256i vf_to_bf16(vf x) {
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(bf16_bits(x), 16));
}
INLINE __m256i vf_to_f16(vf x) {
  return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE void vf_store_bf16_n(uint16_t *p, vf x, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), vf_to_bf16(x));
}
INLINE void vf_store_f16_n(uint16_t *p, vf x, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), vf_to_f16(x));
}

/* Even and odd numbers of 32. */
INLINE void vf_deinterleave(vf a, vf b, vf *even, vf *odd) {
  const __m512i e = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i o = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  *even = _mm512_permutex2var_ps(a, e, b);
  *odd = _mm512_permutex2var_ps(a, o, b);
}

/* The other way round. */
INLINE void vf_interleave(vf even, vf odd, vf *a, vf *b) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  *a = _mm512_permutex2var_ps(even, low, odd);
  *b = _mm512_permutex2var_ps(even, high, odd);
}

/* Bits of the lanes that are NaN, NaN or infinite, or equal. */
INLINE uint32_t vf_is_nan(vf x) {
  return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
}
INLINE uint32_t vf_is_nonfinite(vf x) {
  const __m512i inf = _mm512_set1_epi32(0x7F800000);
  return _mm512_cmpeq_epi32_mask(_mm512_and_si512(_mm512_castps_si512(x), inf), inf);
}
INLINE uint32_t vf_is_equal(vf x, vf y) {
  return _mm512_cmp_ps_mask(x, y, _CMP_EQ_OQ);
}

/* Lane i where lo <= i < hi, else `other`. Any lo and hi. */
INLINE vf vf_select_range(vf x, vf other, int64_t lo, int64_t hi) {
  int64_t a = lo < 0 ? 0 : lo > 16 ? 16 : lo, b = hi < 0 ? 0 : hi > 16 ? 16 : hi;
  __mmask16 keep = (__mmask16)(((1u << b) - 1u) & ~((1u << a) - 1u));
  return _mm512_mask_mov_ps(other, keep, x);
}

/* Lanes are added i + 8, i + 4, i + 2, i + 1. */
INLINE float vf_sum(vf x) {
  __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  __m128 z = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  z = _mm_add_ps(z, _mm_movehl_ps(z, z));
  return _mm_cvtss_f32(_mm_add_ss(z, _mm_shuffle_ps(z, z, 1)));
}
INLINE float vf_max_lane(vf x) {
  return _mm512_reduce_max_ps(x);
}

/* x 2^n for integers n of -150 to 128. Rounds once, as the two multiplications of ie_expf do. */
INLINE vf vf_scale(vf x, vf n) {
  return _mm512_scalef_ps(x, n);
}

/* ie_expf, bit for bit. */
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

/* 16 bytes from each of four rows that are `step` bytes apart. */
INLINE vf vf_load_quads(const char *p, int64_t step) {
  __m512 x = _mm512_castps128_ps512(_mm_loadu_ps((const void *)p));
  x = _mm512_insertf32x4(x, _mm_loadu_ps((const void *)(p + step)), 1);
  x = _mm512_insertf32x4(x, _mm_loadu_ps((const void *)(p + 2 * step)), 2);
  return _mm512_insertf32x4(x, _mm_loadu_ps((const void *)(p + 3 * step)), 3);
}

/* Transposes the 4 x 4 numbers of each 128 bits. */
INLINE void vf_transpose_quads(vf r[4]) {
  vf a = _mm512_unpacklo_ps(r[0], r[1]), b = _mm512_unpackhi_ps(r[0], r[1]);
  vf c = _mm512_unpacklo_ps(r[2], r[3]), d = _mm512_unpackhi_ps(r[2], r[3]);
  r[0] = _mm512_shuffle_ps(a, c, 0x44);
  r[1] = _mm512_shuffle_ps(a, c, 0xEE);
  r[2] = _mm512_shuffle_ps(b, d, 0x44);
  r[3] = _mm512_shuffle_ps(b, d, 0xEE);
}

/* For attend_eight.h: lanes are 8 rows times 2 keys. */
/* The numbers of a and b side by side, 2 VF_LANES of them: of each four, the first two stand in the first vector and
 * the others in the second. */
INLINE void vf_store_pairs(float *p, vf a, vf b) {
  vf_store(p, _mm512_unpacklo_ps(a, b));
  vf_store(p + VF_LANES, _mm512_unpackhi_ps(a, b));
}
/* VF_LANES / 8 numbers, again and again. */
INLINE vf vf_load_eighth(const float *p) {
  double pair;
  memcpy(&pair, p, sizeof pair);
  return _mm512_castpd_ps(_mm512_set1_pd(pair));
}
/* Eight numbers, each in VF_LANES / 8 lanes; and back. */
INLINE vf vf_load_rows(const float *p) {
  const __m512i rows = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return _mm512_permutexvar_ps(rows, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}
INLINE void vf_store_rows(float *p, vf x) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
  _mm256_storeu_ps(p, _mm512_castps512_ps256(_mm512_permutexvar_ps(even, x)));
}
INLINE vf vf_swap_neighbours(vf x) {
  return _mm512_permute_ps(x, 0xB1);
}

/* Two 16-bit numbers a lane: the low ones and the high ones as floats. */
INLINE vf vf_low_bf16(vf pair) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pair), 16));
}
INLINE vf vf_high_bf16(vf pair) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(pair), _mm512_set1_epi32((int)0xFFFF0000u)));
}
/* Signed byte j of each lane as a float, j constant. */
INLINE vf vf_byte(vf bytes, int j) {
  __m512i top = _mm512_slli_epi32(_mm512_castps_si512(bytes), (unsigned)(24 - 8 * j));
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(top, 24));
}
INLINE vf vf_low_f16(vf pair) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_castps_si512(pair)));
}
INLINE vf vf_high_f16(vf pair) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(pair), 16)));
}

#endif
