/* Kernels of training with AVX2, FMA and F16C. The first header names the vectors that the second one is written in. */
#include "kernels/avx2/simd.h"

#include "kernels/backward_body.h"
