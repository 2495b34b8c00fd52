/* Selection without sorting: where a list of scores, taken from the largest down, reaches a given mass.
 * The parts of the sampler that have nothing to do with tokens. */
#ifndef CLOCHER_ENGINE_SELECT_H
#define CLOCHER_ENGINE_SELECT_H

#include "base/exp.h"

#include <stdbool.h>
#include <stdint.h>

enum { IE_SELECT_BLOCK = 64, IE_SELECT_BUCKETS = 1024 };

typedef struct ie_scored {
  float score, mass;
} ie_scored;

/* Candidates with score > `score` are above the cut; `ties` of those that equal it reach the mass with them. */
typedef struct ie_cut {
  float score;
  int64_t ties;
} ie_cut;

/* The cut of `count` > 0 entries at which the masses, summed from the largest score down, first reach `target`;
 * the smallest score when they never do. At least one entry is kept. Reorders entries; expected time O(count).
 * masses >= 0. */
ie_cut ie_select_cut(ie_scored *entries, int64_t count, double target);

/* maxima[b] = the largest of scores[b * BLOCK ...]; (ceil(count / BLOCK)) entries. False when a score is NaN or
 * +infinity; the maxima mean nothing then. */
bool ie_select_block_maxima(const float *scores, int64_t count, float *maxima);

/* bucket[i] = min(floor((largest - scores[i]) * scale), BUCKETS - 1) for n <= BLOCK scores <= largest. */
void ie_select_buckets(const float *scores, int64_t n, float largest, float scale, int32_t *bucket);

/* Four floats at once: the compiler's vector type, in every instruction set the same IEEE operations. */
typedef float ie_f32x4 __attribute__((vector_size(16)));
typedef int32_t ie_i32x4 __attribute__((vector_size(16)));

/* e^x for x <= 0, four at once: what ie_expf (base/exp.h) computes, but 0 below -87 (a result under 1.7e-38), so
 * that 2^n is one factor and there is no branch. Rounds alike on every machine. */
static inline ie_f32x4 ie_exp_nonpositive4(ie_f32x4 x) {
  const ie_f32x4 low = {-87.0f, -87.0f, -87.0f, -87.0f};
  ie_i32x4 in = x >= low; /* all bits set where true */
  ie_f32x4 clamped = (ie_f32x4)(((ie_i32x4)x & in) | ((ie_i32x4)low & ~in));
  /* 1.5 * 2^23: adding it rounds to the nearest integer n, which then stands in the low bits */
  ie_f32x4 shifted = clamped * IE_EXP_LOG2E + 0x1.8p23f;
  ie_f32x4 n = shifted - 0x1.8p23f;
  ie_f32x4 power = (ie_f32x4)((((ie_i32x4)shifted - 0x4B400000 + 127) << 23) & in); /* 2^n, or 0 */
  ie_f32x4 r = (clamped - n * IE_EXP_LN2_HIGH) - n * IE_EXP_LN2_LOW;
  ie_f32x4 p = r * IE_EXP_C4 + IE_EXP_C3;
  p = p * r + IE_EXP_C2;
  p = p * r + IE_EXP_C1;
  p = p * r + IE_EXP_C0;
  return ((p * (r * r) + r) + 1.0f) * power;
}

static inline float ie_exp_nonpositive(float x) {
  return ie_exp_nonpositive4((ie_f32x4){x, x, x, x})[0];
}

#endif
