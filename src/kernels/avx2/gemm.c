/* Tiles of 6 x 16: 12 sums in registers. */
#include "kernels/avx2/simd.h"

enum { MR = 6 };
#define GEMM_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6)

INLINE vf quads_load(const float *const row[5], int64_t k) {
  return _mm256_loadu2_m128(row[4] + k, row[0] + k);
}

#include "kernels/gemm_body.h"
