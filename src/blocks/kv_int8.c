#include "blocks/kv_int8.h"

#include "base/float.h"

#include <stdbool.h>

enum { SLICE = 64 }; /* channels at a time */

static const uint32_t magnitude = 0x7FFFFFFF, infinite = 0x7F800000;
static const uint16_t bf16_nan = 0x7FC0;

/* The scale of numbers whose largest has these bits without its sign: what is a NaN sorts above every number. */
static uint16_t scale_of(uint32_t largest_bits) {
  if (largest_bits >= infinite) return bf16_nan;
  float s = ie_f32_from_bits(largest_bits) / 127.0f;
  if (s < 0x1p-120f) return 0;
  return (uint16_t)((ie_f32_bits(s) + 0xFFFF) >> 16);
}

/* What x is multiplied by; 0 where there is nothing to be kept. */
static float scale_inverse(uint16_t scale) {
  return scale == 0 || scale == bf16_nan ? 0.0f : 1.0f / ie_bf16_to_f32(scale);
}

/* rint(x inverse). Adding 1.5 * 2^23 leaves no bits below one; a NaN or infinity (inverse 0) gives some number of the
 * range, which its scale, NaN, hides. */
static int8_t quantised(float x, float inverse) {
  return (int8_t)(int32_t)(ie_f32_bits(x * inverse + 0x1.8p23f) & 0xFF);
}

void ie_kv_int8_keys(int8_t *q, int64_t q_stride, uint16_t *scale, const float *x, int64_t x_stride,
                     int64_t n) {
  for (int64_t first = 0; first < n; first += SLICE) {
    int64_t count = n - first < SLICE ? n - first : SLICE;
    uint32_t largest[SLICE] = {0};
    float inverse[SLICE];
    for (int64_t p = 0; p < IE_KV_GROUP; p++) {
      const float *row = x + p * x_stride + first;
      for (int64_t i = 0; i < count; i++) {
        uint32_t bits = ie_f32_bits(row[i]) & magnitude;
        largest[i] = bits > largest[i] ? bits : largest[i];
      }
    }
    for (int64_t i = 0; i < count; i++) {
      scale[first + i] = scale_of(largest[i]);
      inverse[i] = scale_inverse(scale[first + i]);
    }
    for (int64_t p = 0; p < IE_KV_GROUP; p++) {
      const float *row = x + p * x_stride + first;
      int8_t *to = q + p * q_stride + first;
      for (int64_t i = 0; i < count; i++) to[i] = quantised(row[i], inverse[i]);
    }
  }
}

uint16_t ie_kv_int8_values(int8_t *q, const float *x, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits = ie_f32_bits(x[i]) & magnitude;
    largest = bits > largest ? bits : largest;
  }
  uint16_t scale = scale_of(largest);
  float inverse = scale_inverse(scale);
  for (int64_t i = 0; i < n; i++) q[i] = quantised(x[i], inverse);
  return scale;
}
