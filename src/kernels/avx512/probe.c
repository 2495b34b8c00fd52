/* Probe loops with AVX-512 and VNNI. */
#include "kernels/avx512/simd.h"

typedef __m512i vi;
#define VI_ZERO _mm512_setzero_si512()
#define VI_XOR  _mm512_xor_si512
enum { LOADS = 4 };

#include "kernels/probe_body.h"

enum { CHAINS = 16 }; /* two a cycle, four or five cycles each, and some to spare */

static double f32_run(int64_t rounds) {
  volatile float seed = 0.5f;
  vf a = vf_set1(seed), sum[CHAINS];
  UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = vf_set1((float)i);
  for (int64_t r = 0; r < rounds; r++) UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = vf_fma(sum[i], a, a);
  for (int i = 0; i < CHAINS; i++) seed = vf_sum(sum[i]);
  return (double)rounds * CHAINS * VF_LANES * 2;
}

static double int8_run(int64_t rounds) {
  volatile int seed = 0x01020304;
  __m512i a = _mm512_set1_epi32(seed), sum[CHAINS];
  UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_set1_epi32(i);
  for (int64_t r = 0; r < rounds; r++)
    UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_dpbusd_epi32(sum[i], a, a);
  for (int i = 0; i < CHAINS; i++) seed = _mm512_reduce_or_epi32(sum[i]); /* an or cannot overflow */
  return (double)rounds * CHAINS * 64 * 2;
}

void ie_probe_loops_fill__avx512(ie_probe_loops *out) {
  out->read = probe_read;
  out->matrix[0] = (ie_probe_matrix_loop){"avx512-f32", /*integer=*/false, f32_run};
  out->matrix[1] = (ie_probe_matrix_loop){"avx512-vnni", /*integer=*/true, int8_run};
  out->matrix_count = 2;
}
