#include "kernels/peak.h"

/* The compiler's vectors of the base instruction set: a multiplication and an addition, 12 independent chains. */
typedef float f32x4 __attribute__((vector_size(16)));

static double f32_peak__scalar(int64_t rounds, float *sink) {
  enum { CHAINS = 12 };
  f32x4 s[CHAINS], a = {0.5f, 0.5f, 0.5f, 0.5f}, b = {1.5f, 1.5f, 1.5f, 1.5f};
  for (int i = 0; i < CHAINS; i++) s[i] = a * (float)i;
  for (int64_t n = 0; n < rounds; n++)
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) s[i] = s[i] * a + b;
  for (int i = 1; i < CHAINS; i++) s[0] += s[i];
  *sink = s[0][0];
  return 2.0 * 4 * CHAINS * (double)rounds;
}

void ie_peak_fill__scalar(ie_peak *out) {
  for (int c = 0; c < IE_CLASS_COUNT; c++) out->matrix[c] = (ie_peak_matrix){f32_peak__scalar, "f32-128"};
}
