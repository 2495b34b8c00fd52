#include "kernels/peak.h"

#include <immintrin.h>

enum { CHAINS = 12 };

static double f32_peak__avx2(int64_t rounds, float *sink) {
  __m256 s[CHAINS], a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(1.5f);
  for (int i = 0; i < CHAINS; i++) s[i] = _mm256_set1_ps((float)i);
  for (int64_t n = 0; n < rounds; n++)
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) s[i] = _mm256_fmadd_ps(s[i], a, b);
  for (int i = 1; i < CHAINS; i++) s[0] = _mm256_add_ps(s[0], s[i]);
  *sink = _mm256_cvtss_f32(s[0]);
  return 2.0 * 8 * CHAINS * (double)rounds;
}

/* The multiply-adds of int8 products: vpmaddubsw, vpmaddwd with ones, vpaddd. */
static double int8_peak__avx2(int64_t rounds, float *sink) {
  __m256i s[CHAINS], ones = _mm256_set1_epi16(1), b = _mm256_set1_epi8(3);
  for (int i = 0; i < CHAINS; i++) s[i] = _mm256_set1_epi32(i);
  for (int64_t n = 0; n < rounds; n++)
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++)
      s[i] = _mm256_add_epi32(s[i], _mm256_madd_epi16(_mm256_maddubs_epi16(s[i], b), ones));
  for (int i = 1; i < CHAINS; i++) s[0] = _mm256_add_epi32(s[0], s[i]);
  *sink = (float)_mm256_cvtsi256_si32(s[0]);
  return 2.0 * 32 * CHAINS * (double)rounds;
}

void ie_peak_fill__avx2(ie_peak *out) {
  for (int c = 0; c < IE_CLASS_COUNT; c++) out->matrix[c] = (ie_peak_matrix){f32_peak__avx2, "avx2-fma"};
  out->matrix[IE_CLASS_INT8] = (ie_peak_matrix){int8_peak__avx2, "avx2-int8"};
}
