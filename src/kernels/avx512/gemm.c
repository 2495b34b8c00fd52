/* Tiles of 14 x 32: 28 sums in registers. */
#include "kernels/avx512/simd.h"

enum { MR = 14 };
#define GEMM_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)

INLINE vf quads_load(const float *const row[13], int64_t k) {
  __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(row[0] + k));
  x = _mm512_insertf32x4(x, _mm_loadu_ps(row[4] + k), 1);
  x = _mm512_insertf32x4(x, _mm_loadu_ps(row[8] + k), 2);
  return _mm512_insertf32x4(x, _mm_loadu_ps(row[12] + k), 3);
}

#include "kernels/gemm_body.h"
