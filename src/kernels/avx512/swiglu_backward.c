/* Backwards of the SwiGLUs with AVX-512. The first header names the vectors that the second one is written in. */
#include "kernels/avx512/simd.h"

#include "kernels/swiglu_backward_body.h"
