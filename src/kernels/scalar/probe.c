/* Probe loops in plain C, with the compiler's own vectors of 16 bytes: what the scalar kernels can be compared to. */
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
typedef uint64_t vi __attribute__((vector_size(16)));
typedef float vf4 __attribute__((vector_size(16)));
#define VI_ZERO      ((vi){0})
#define VI_XOR(a, b) ((a) ^ (b))
enum { LOADS = 16 };

#include "kernels/probe_body.h"

enum { CHAINS = 12 };

static double f32_run(int64_t rounds) {
  volatile float seed = 0.5f;
  vf4 a = {seed, seed, seed, seed}, sum[CHAINS];
  UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = a * (float)i;
  for (int64_t r = 0; r < rounds; r++) UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = sum[i] * a + a;
  for (int i = 0; i < CHAINS; i++) seed = sum[i][0];
  return (double)rounds * CHAINS * 4 * 2;
}

void ie_probe_loops_fill__scalar(ie_probe_loops *out) {
  out->read = probe_read;
  out->matrix[0] = (ie_probe_matrix_loop){"scalar-f32", /*integer=*/false, f32_run};
  out->matrix_count = 1;
}
