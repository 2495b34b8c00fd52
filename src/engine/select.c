#include "engine/select.h"

#include "base/rng.h"

#include <math.h>
#include <string.h>

static inline ie_f32x4 larger4(ie_f32x4 a, ie_f32x4 b) {
  ie_i32x4 first = a > b;
  return (ie_f32x4)(((ie_i32x4)a & first) | ((ie_i32x4)b & ~first));
}

bool ie_select_block_maxima(const float *scores, int64_t count, float *maxima) {
  const ie_f32x4 infinite = {INFINITY, INFINITY, INFINITY, INFINITY};
  ie_i32x4 good = {-1, -1, -1, -1};
  int64_t b = 0, whole = count / IE_SELECT_BLOCK;
  for (; b < whole; b++) {
    ie_f32x4 x[4], most[4];
    const float *at = scores + b * IE_SELECT_BLOCK;
    memcpy(most, at, sizeof most);
    for (int j = 0; j < 4; j++) good &= most[j] < infinite;
    for (int i = 16; i < IE_SELECT_BLOCK; i += 16) {
      memcpy(x, at + i, sizeof x);
      for (int j = 0; j < 4; j++) {
        good &= x[j] < infinite;
        most[j] = larger4(x[j], most[j]);
      }
    }
    most[0] = larger4(larger4(most[0], most[1]), larger4(most[2], most[3]));
    float low = most[0][0] > most[0][1] ? most[0][0] : most[0][1];
    float high = most[0][2] > most[0][3] ? most[0][2] : most[0][3];
    maxima[b] = low > high ? low : high;
  }
  bool ok = good[0] && good[1] && good[2] && good[3];
  if (b * IE_SELECT_BLOCK == count) return ok;
  float most = -INFINITY;
  for (int64_t i = b * IE_SELECT_BLOCK; i < count; i++) {
    ok = ok && scores[i] < INFINITY;
    most = scores[i] > most ? scores[i] : most;
  }
  maxima[b] = most;
  return ok;
}

void ie_select_buckets(const float *scores, int64_t n, float largest, float scale, int32_t *bucket) {
  const float last = (float)(IE_SELECT_BUCKETS - 1);
  const ie_f32x4 limit = {last, last, last, last};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    ie_f32x4 x;
    memcpy(&x, scores + i, sizeof x);
    ie_f32x4 at = (largest - x) * scale;
    ie_i32x4 in = at < limit;
    at = (ie_f32x4)(((ie_i32x4)at & in) | ((ie_i32x4)limit & ~in));
    ie_i32x4 index = __builtin_convertvector(at, ie_i32x4);
    memcpy(bucket + i, &index, sizeof index);
  }
  for (; i < n; i++) {
    float at = (largest - scores[i]) * scale;
    bucket[i] = (int32_t)(at < last ? at : last);
  }
}

static float median3(float a, float b, float c) {
  float low = a < b ? a : b, high = a < b ? b : a;
  return c < low ? low : c > high ? high : c;
}

/* A pivot from three places that do not follow the data's order; a pure function of the entries. */
static float pivot_pick(const ie_scored *e, int64_t count, uint64_t round) {
  uint64_t n = (uint64_t)count;
  return median3(e[ie_rng_u64(round, 0, n) % n].score, e[ie_rng_u64(round, 1, n) % n].score,
                 e[ie_rng_u64(round, 2, n) % n].score);
}

ie_cut ie_select_cut(ie_scored *entries, int64_t count, double target) {
  ie_scored *e = entries;
  for (uint64_t round = 0;; round++) {
    float pivot = pivot_pick(e, count, round);
    double above = 0, equal = 0;
    float tie_mass = 0;
    /* three parts: [0, larger) > pivot, [larger, smaller) == pivot, [smaller, count) < pivot */
    int64_t larger = 0, i = 0, smaller = count;
    while (i < smaller) {
      ie_scored x = e[i];
      if (x.score > pivot) {
        above += x.mass;
        e[i++] = e[larger];
        e[larger++] = x;
      } else if (x.score < pivot) {
        e[i] = e[--smaller];
        e[smaller] = x;
      } else {
        equal += x.mass;
        tie_mass = x.mass;
        i++;
      }
    }
    int64_t ties = smaller - larger;
    if (larger > 0 && above >= target) {
      count = larger;
    } else if (above + equal >= target || smaller == count) {
      double wanted = tie_mass > 0 ? ceil((target - above) / tie_mass) : (double)ties;
      return (ie_cut){pivot, wanted < 1 ? 1 : wanted > (double)ties ? ties : (int64_t)wanted};
    } else {
      target -= above + equal;
      e += smaller;
      count -= smaller;
    }
  }
}
