#include "kernels/peak.h"

#include <immintrin.h>

enum { CHAINS = 12 };

static double f32_peak__avx512(int64_t rounds, float *sink) {
  __m512 s[CHAINS], a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1.5f);
  for (int i = 0; i < CHAINS; i++) s[i] = _mm512_set1_ps((float)i);
  for (int64_t n = 0; n < rounds; n++)
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) s[i] = _mm512_fmadd_ps(s[i], a, b);
  for (int i = 1; i < CHAINS; i++) s[0] = _mm512_add_ps(s[0], s[i]);
  *sink = _mm512_cvtss_f32(s[0]);
  return 2.0 * 16 * CHAINS * (double)rounds;
}

static double int8_peak__avx512(int64_t rounds, float *sink) {
  __m512i s[CHAINS], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (int i = 0; i < CHAINS; i++) s[i] = _mm512_set1_epi32(i);
  for (int64_t n = 0; n < rounds; n++)
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) s[i] = _mm512_dpbusd_epi32(s[i], a, b);
  for (int i = 1; i < CHAINS; i++) s[0] = _mm512_add_epi32(s[0], s[i]);
  *sink = (float)_mm512_cvtsi512_si32(s[0]);
  return 2.0 * 64 * CHAINS * (double)rounds;
}

/* f32 FMA also stands for bf16: vdpbf16ps is slower than FMA where it exists. */
void ie_peak_fill__avx512(ie_peak *out) {
  for (int c = 0; c < IE_CLASS_COUNT; c++) out->matrix[c] = (ie_peak_matrix){f32_peak__avx512, "avx512-fma"};
  out->matrix[IE_CLASS_INT8] = (ie_peak_matrix){int8_peak__avx512, "avx512-vnni"};
}
