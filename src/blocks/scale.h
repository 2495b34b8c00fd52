/* The f16 scale of a block of integers, for blocks/int8.c and int4.c. */
#ifndef CLOCHER_BLOCKS_SCALE_H
#define CLOCHER_BLOCKS_SCALE_H

#include "base/float.h"

#include <stdbool.h>
#include <stdint.h>

/* The smallest f16 with code * scale >= largest >= 0, for a largest code that is an integer below 2^13 (so that the
 * product is exact); false when there is none. */
static inline bool ie_scale_f16(uint16_t *scale, float largest, float code) {
  uint16_t h = ie_f32_to_f16(largest / code);
  if (ie_f16_to_f32(h) * code < largest) h++; /* the next f16: up to infinity */
  *scale = h;
  return h < 0x7C00;
}

/* x rounded to the nearest integer, ties to even, for |x| < 2^22: what rintf gives, in two additions that the
 * compiler can do for several numbers at once. */
static inline float ie_round_small(float x) {
  const float magic = 0x1.8p23f;
  return (x + magic) - magic;
}

#endif
