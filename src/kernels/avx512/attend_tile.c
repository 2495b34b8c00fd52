/* Attention under a tape with AVX-512. The first header names the vectors that the second one is written in. */
#include "kernels/avx512/simd.h"

#include "kernels/attend_tile_body.h"
