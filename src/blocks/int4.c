#include "blocks/int4.h"

#include "blocks/scale.h"

#include <assert.h>
#include <stddef.h>

static_assert(IE_INT4_COLS == 2 * IE_INT4_BYTES, "two columns a byte");

const float ie_int4_values[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};

void ie_int4_decode_block(float out[IE_INT4_COLS], const uint8_t block[IE_INT4_BYTES], uint16_t scale) {
  float s = ie_f16_to_f32(scale);
  for (size_t i = 0; i < IE_INT4_BYTES; i++) {
    out[2 * i] = ie_int4_values[block[i] & 15] * s;
    out[2 * i + 1] = ie_int4_values[block[i] >> 4] * s;
  }
}

bool ie_int4_encode_block(uint8_t block[IE_INT4_BYTES], uint16_t *scale, const float in[IE_INT4_COLS]) {
  /* Magnitudes compare as their bits do, infinity and NaN above all numbers. */
  int32_t largest = 0;
  for (size_t i = 0; i < IE_INT4_COLS; i++) {
    int32_t bits = (int32_t)(ie_f32_bits(in[i]) & 0x7FFFFFFFu);
    largest = bits > largest ? bits : largest;
  }
  uint16_t half;
  if (largest >= 0x7F800000 || !ie_scale_f16(&half, ie_f32_from_bits((uint32_t)largest), 8)) return false;
  size_t first = 0;
  while ((int32_t)(ie_f32_bits(in[first]) & 0x7FFFFFFFu) != largest) first++;
  if (largest > 0 && in[first] > 0) half |= 0x8000;
  *scale = half;
  float s = half ? ie_f16_to_f32(half) : 1;
  int32_t code[IE_INT4_COLS]; /* in steps that the compiler does for several numbers at once */
  for (size_t i = 0; i < IE_INT4_COLS; i++) code[i] = (int32_t)ie_round_small(in[i] / s);
  for (size_t i = 0; i < IE_INT4_COLS; i++) code[i] = (code[i] < 7 ? code[i] : 7) + 8;
  for (size_t i = 0; i < IE_INT4_BYTES; i++) block[i] = (uint8_t)(code[2 * i] | code[2 * i + 1] << 4);
  return true;
}
