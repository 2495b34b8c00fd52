/* Probe loops with AVX2 and FMA. */
#include "kernels/avx2/simd.h"

typedef __m256i vi;
#define VI_ZERO _mm256_setzero_si256()
#define VI_XOR  _mm256_xor_si256
enum { LOADS = 8 };

#include "kernels/probe_body.h"

enum { CHAINS = 12 }; /* two a cycle, four cycles each, and some to spare */

static double f32_run(int64_t rounds) {
  volatile float seed = 0.5f;
  vf a = vf_set1(seed), sum[CHAINS];
  UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = vf_set1((float)i);
  for (int64_t r = 0; r < rounds; r++) UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = vf_fma(sum[i], a, a);
  for (int i = 0; i < CHAINS; i++) seed = vf_sum(sum[i]);
  return (double)rounds * CHAINS * VF_LANES * 2;
}

void ie_probe_loops_fill__avx2(ie_probe_loops *out) {
  out->read = probe_read;
  out->matrix[0] = (ie_probe_matrix_loop){"avx2-f32", /*integer=*/false, f32_run};
  out->matrix_count = 1;
}
