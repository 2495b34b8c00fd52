/* AdamW with moments in 8 bits: bitsandbytes' AdamW8bit (Dettmers et al. 2022), block-wise, in the arithmetic of its
 * CPU code.
 *
 * 256 consecutive elements share a scale, their largest magnitude, and each is one of 256 numbers between -1 (first
 * moment) or 0 (second) and 1: the dynamic map, which has seven decades with 1 to 64 (2 to 128) equally spaced
 * numbers each, 0 and 1. A step decodes a block, computes AdamW (train/adamw.h), and encodes the new moments with new
 * scales. As there, x = moment / scale is first rounded to a multiple of 2 / 65535 and then to the nearest number, so
 * that second moments below 1.5e-5 of the largest never become 0, from where the next step would be a jump. (Its CUDA
 * code takes the nearest number at once.) Other than there, 0 stays 0: what has no gradient does not move.
 *
 * Parameters of fewer than IE_ADAMW8BIT_LEAST elements keep float states, as there. */
#ifndef CLOCHER_TRAIN_ADAMW8BIT_H
#define CLOCHER_TRAIN_ADAMW8BIT_H

#include "base/real.h"
#include "kernels/kern.h"

#include <stdbool.h>
#include <stdint.h>

enum { IE_ADAMW8BIT_BLOCK = 256, IE_ADAMW8BIT_LEAST = 4096 };

typedef struct ie_dynamic_map {
  float number[256];   /* ascending */
  uint8_t zero;        /* index of 0: 127 with a sign, else 0 */
  uint8_t code[65536]; /* of -1 + k 2 / 65535 */
} ie_dynamic_map;

void ie_dynamic_map_fill(ie_dynamic_map *map, bool with_sign);
/* The index of the number for x, -1 <= x <= 1. */
uint8_t ie_dynamic_map_encode(const ie_dynamic_map *map, float x);

/* What all parameters share. */
typedef struct ie_adamw8bit {
  const ie_kernels *kernels; /* borrowed */
  ie_dynamic_map first, second;
} ie_adamw8bit;

/* The states of n elements. All zero at first: under a scale of 0 every code is 0. */
typedef struct ie_adamw8bit_state {
  uint8_t *first, *second;       /* (n) */
  float *first_max, *second_max; /* (n / IE_ADAMW8BIT_BLOCK, rounded up) */
} ie_adamw8bit_state;

/* One step over elements begin <= i < end of p and g; begin is a multiple of IE_ADAMW8BIT_BLOCK. Different ranges
 * may run at the same time. */
void ie_adamw8bit_step(const ie_adamw8bit *shared, const ie_adamw_args *args, real *p, const real *g,
                       const ie_adamw8bit_state *state, int64_t begin, int64_t end);

#endif
