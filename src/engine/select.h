/* Selection without sorting: where a list of scores, taken from the largest down, reaches a given mass.
 * The parts of the sampler that have nothing to do with tokens. */
#ifndef CLOCHER_ENGINE_SELECT_H
#define CLOCHER_ENGINE_SELECT_H

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

/* e^x for x <= 0, relative error below 2e-7, 0 below -87 (a result under 1.7e-38). Written out so that it rounds
 * alike everywhere: Cody-Waite reduction by ln 2 and the polynomial of Cephes' expf (Moshier). */
static inline ie_f32x4 ie_exp_nonpositive4(ie_f32x4 x) {
  const ie_f32x4 low = {-87.0f, -87.0f, -87.0f, -87.0f};
  ie_i32x4 in = x >= low; /* all bits set where true */
  ie_f32x4 clamped = (ie_f32x4)(((ie_i32x4)x & in) | ((ie_i32x4)low & ~in));
  /* 1.5 * 2^23: adding it rounds to the nearest integer n, which then stands in the low bits */
  ie_f32x4 shifted = clamped * 1.44269504f + 12582912.0f;
  ie_f32x4 n = shifted - 12582912.0f;
  ie_f32x4 power = (ie_f32x4)((((ie_i32x4)shifted - 0x4B400000 + 127) << 23) & in); /* 2^n, or 0 */
  ie_f32x4 r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  ie_f32x4 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return ((p * r) * r + r + 1.0f) * power;
}

static inline float ie_exp_nonpositive(float x) {
  return ie_exp_nonpositive4((ie_f32x4){x, x, x, x})[0];
}

#endif
