/* exp in f32 from additions and multiplications only (no fused ones), so that every machine, compiler and
 * instruction set gives the same bits: libm's expf differs between versions. At most 1 ulp off (tests/test_vector.c
 * measures all floats); gradual underflow and overflow to infinity as the exact function has them.
 *
 * x = n ln 2 + r with n the nearest integer, e^r = 1 + r + r^2 p(r), result times 2^n.
 * The vector forms (kernels/<isa>/simd.h) compute exactly this. */
#ifndef CLOCHER_BASE_EXP_H
#define CLOCHER_BASE_EXP_H

#include "base/float.h"

/* Beyond these the result is 0 or infinity whatever x is. */
#define IE_EXP_LEAST    -104.0f
#define IE_EXP_MOST     89.0f
#define IE_EXP_LOG2E    0x1.715476p+0f
#define IE_EXP_LN2_HIGH 0x1.63p-1f /* 9 bits: its product with n is exact */
#define IE_EXP_LN2_LOW  -0x1.bd0106p-13f
/* p, highest power first: least largest relative error of e^r on |r| <= ln 2 / 2 (Lawson's iteration), 3e-9. */
#define IE_EXP_C4 0x1.6a2352p-10f
#define IE_EXP_C3 0x1.123a6cp-7f
#define IE_EXP_C2 0x1.5558f4p-5f
#define IE_EXP_C1 0x1.555490p-3f
#define IE_EXP_C0 0x1.fffffcp-2f

static inline float ie_expf(float x) {
  /* Written so that NaN passes through both. */
  if (x < IE_EXP_LEAST) x = IE_EXP_LEAST;
  if (x > IE_EXP_MOST) x = IE_EXP_MOST;
  if (!(x == x)) return x;
  float n = (x * IE_EXP_LOG2E + 0x1.8p23f) - 0x1.8p23f; /* nearest even integer */
  float r = (x - n * IE_EXP_LN2_HIGH) - n * IE_EXP_LN2_LOW;
  float p = (((IE_EXP_C4 * r + IE_EXP_C3) * r + IE_EXP_C2) * r + IE_EXP_C1) * r + IE_EXP_C0;
  float y = (p * (r * r) + r) + 1.0f;
  /* 2^n in two steps: n may be -150 to 128. Only the second one can round. */
  int32_t whole = (int32_t)n, half = whole / 2;
  return y * ie_f32_from_bits((uint32_t)(half + 127) << 23) *
         ie_f32_from_bits((uint32_t)(whole - half + 127) << 23);
}

#endif
