/* What every product kernel shares: the geometry of int8 activations, and how a sum becomes an element of y. */
#ifndef CLOCHER_KERNELS_PRODUCTS_COMMON_H
#define CLOCHER_KERNELS_PRODUCTS_COMMON_H

#include "base/float.h"
#include "base/size.h"
#include "kernels/kern.h"

#include <math.h>
#include <string.h>

enum { IE_BLOCK_COLS = 32 }; /* columns that share a scale, of MXFP4 weights and of int8 activations */

/* Quantises n <= 32 numbers as class INT8 says, and returns the scale s. Zero for the columns from n on. NaN or
 * infinity makes s NaN and the block zero, so that every product of the block is NaN. The limit of 127 acts only
 * where s is so small (denormal) that it is rounded by itself. */
static inline float ie_quantise_block(int8_t q[IE_BLOCK_COLS], const float *x, int n) {
  float largest = 0, finite = 0; /* finite stays 0 unless a number is NaN or infinite */
  for (int i = 0; i < n; i++) {
    float a = fabsf(x[i]);
    if (a > largest) largest = a;
    finite += x[i] * 0.0f;
  }
  memset(q, 0, IE_BLOCK_COLS);
  if (finite != 0) return NAN; /* true for NaN too */
  float s = largest / 127.0f;
  if (s == 0) return 0;
  for (int i = 0; i < n; i++) q[i] = (int8_t)fmaxf(-127.0f, fminf(127.0f, rintf(x[i] / s)));
  return s;
}

static inline float ie_product_bias(const ie_product_args *args, int64_t r) {
  if (args->bias == NULL) return 0;
  switch (args->bias_dtype) {
  case IE_F16: return ie_f16_to_f32(((const uint16_t *)args->bias)[r]);
  case IE_BF16: return ie_bf16_to_f32(((const uint16_t *)args->bias)[r]);
  default: return ((const float *)args->bias)[r];
  }
}

/* y[t, r] = sum + bias, or y[t, r] += sum + bias: in this order in every instruction set. */
static inline void ie_product_store(const ie_product_args *args, int64_t t, int64_t r, float sum,
                                    float bias) {
  float *y = args->y + t * args->y_stride + r;
  sum += bias;
  *y = args->add ? *y + sum : sum;
}

/* The row of x that token t stands for. */
static inline const float *ie_pack_source(const float *x, int64_t x_stride, const int32_t *x_rows,
                                          int64_t t) {
  return x + (x_rows != NULL ? (int64_t)x_rows[t] : t) * x_stride;
}

#endif
