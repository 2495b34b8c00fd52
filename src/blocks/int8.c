#include "blocks/int8.h"

#include "blocks/scale.h"

#include <assert.h>
#include <stddef.h>

static_assert(sizeof(int8_t[IE_INT8_COLS]) == 32, "a byte a column");

void ie_int8_decode_block(float out[IE_INT8_COLS], const int8_t block[IE_INT8_COLS], uint16_t scale) {
  float s = ie_f16_to_f32(scale);
  for (size_t i = 0; i < IE_INT8_COLS; i++) out[i] = (float)block[i] * s;
}

bool ie_int8_encode_block(int8_t block[IE_INT8_COLS], uint16_t *scale, const float in[IE_INT8_COLS]) {
  /* Magnitudes compare as their bits do, infinity and NaN above all numbers. */
  int32_t largest = 0;
  for (size_t i = 0; i < IE_INT8_COLS; i++) {
    int32_t bits = (int32_t)(ie_f32_bits(in[i]) & 0x7FFFFFFFu);
    largest = bits > largest ? bits : largest;
  }
  uint16_t half;
  if (largest >= 0x7F800000 || !ie_scale_f16(&half, ie_f32_from_bits((uint32_t)largest), 127)) return false;
  *scale = half;
  float s = half ? ie_f16_to_f32(half) : 1;
  int32_t code
      [IE_INT8_COLS]; /* in steps that the compiler does for several numbers at once: 1.4 instead of 2.0 ns a number */
  for (size_t i = 0; i < IE_INT8_COLS; i++) code[i] = (int32_t)ie_round_small(in[i] / s);
  for (size_t i = 0; i < IE_INT8_COLS; i++) block[i] = (int8_t)code[i];
  return true;
}
