#include "kernels/avx2/simd.h"

#include "blocks/mxfp4.h"

INLINE __m256i codes_load(const uint8_t *codes) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)codes));
}
/* The upper half of the table is the lower one with the sign set. */
INLINE vf nibbles_mxfp4(const uint8_t *codes) {
  __m256i c = codes_load(codes);
  __m256i sign = _mm256_slli_epi32(_mm256_srli_epi32(c, 3), 31);
  vf magnitude = _mm256_permutevar8x32_ps(vf_load(ie_mxfp4_values), c); /* by the low three bits */
  return _mm256_or_ps(magnitude, _mm256_castsi256_ps(sign));
}
INLINE vf nibbles_int4(const uint8_t *codes) {
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(codes_load(codes), _mm256_set1_epi32(8)));
}

#include "kernels/weight_cols_body.h"
