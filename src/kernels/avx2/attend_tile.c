/* Attention under a tape with AVX2 and FMA. The first header names the vectors that the second one is written in. */
#include "kernels/avx2/simd.h"

#include "kernels/attend_tile_body.h"
