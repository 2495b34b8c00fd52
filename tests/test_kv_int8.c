/* Keys and values in int8 (blocks/kv_int8.h): the scale is the smallest bf16 that holds the largest number, every number
 * is off by at most half of it, nothing is written beyond the extents, and what is no number is never hidden. */
#include "base/float.h"
#include "base/rng.h"
#include "blocks/kv_int8.h"
#include "support/guard.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static float uniform(uint64_t stream, int64_t i) {
  return 2 * ie_rng_f32(17, stream, (uint64_t)i) - 1;
}

static float read(int8_t q, uint16_t scale) {
  return (float)q * ie_bf16_to_f32(scale);
}

/* The scale of numbers whose largest magnitude is `most`. */
static void scale_check(uint16_t scale, float most) {
  double s = (double)ie_bf16_to_f32(scale);
  if (most < 127 * 0x1p-120f) {
    assert_true(scale == 0 || s <= 0x1.02p-120);
    return;
  }
  assert_true(127 * s >= (double)most * (1 - 1e-7)); /* nothing is clipped */
  assert_true(127 * (double)ie_bf16_to_f32((uint16_t)(scale - 1)) <=
              (double)most * (1 + 1e-7)); /* nor is it larger */
}

static void number_check(float x, int8_t q, uint16_t scale) {
  double s = (double)ie_bf16_to_f32(scale), back = (double)read(q, scale);
  assert_true(q >= -127);
  assert_true(fabs(back - (double)x) <= 0.5 * s * (1 + 1e-5) + 127 * 0x1p-120);
  /* q s is exact in f32 */
  assert_true(back == q * s);
}

static void values_of_all_lengths(void **state) {
  (void)state;
  static const int64_t lengths[] = {1, 2, 7, 16, 24, 63, 64, 65, 128, 257, 1024};
  static const float sizes[] = {1, 1e-30f, 1e30f, 3e-38f, 65504, 0x1p-110f};
  for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
    for (size_t j = 0; j < sizeof sizes / sizeof sizes[0]; j++) {
      int64_t n = lengths[i];
      float *x = guard_alloc((size_t)n * sizeof *x), most = 0;
      int8_t *q = guard_alloc((size_t)n);
      for (int64_t d = 0; d < n; d++) {
        x[d] = sizes[j] * uniform(i, d);
        most = fmaxf(most, fabsf(x[d]));
      }
      uint16_t scale = ie_kv_int8_values(q, x, n);
      scale_check(scale, most);
      for (int64_t d = 0; d < n; d++) number_check(x[d], q[d], scale);
      guard_free(x), guard_free(q);
    }
  }
}

/* Each channel has a size of its own, and the gaps between rows are left alone. */
static void keys_of_all_widths(void **state) {
  (void)state;
  static const int64_t widths[] = {1, 2, 12, 24, 63, 64, 65, 80, 130};
  for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
    for (int64_t gap = 0; gap < 4; gap += 3) {
      int64_t n = widths[i], stride = n + gap, count = (IE_KV_GROUP - 1) * stride + n;
      float *x = guard_alloc((size_t)count * sizeof *x);
      int8_t *q = guard_alloc((size_t)count);
      uint16_t *scale = guard_alloc((size_t)n * sizeof *scale);
      for (int64_t p = 0; p < IE_KV_GROUP; p++)
        for (int64_t d = 0; d < n; d++)
          x[p * stride + d] = ldexpf(uniform(i, p * n + d), (int)(d % 11) * 9 - 45);
      ie_kv_int8_keys(q, stride, scale, x, stride, n);
      for (int64_t d = 0; d < n; d++) {
        float most = 0;
        for (int64_t p = 0; p < IE_KV_GROUP; p++) most = fmaxf(most, fabsf(x[p * stride + d]));
        scale_check(scale[d], most);
        for (int64_t p = 0; p < IE_KV_GROUP; p++)
          number_check(x[p * stride + d], q[p * stride + d], scale[d]);
      }
      for (int64_t p = 0; p + 1 < IE_KV_GROUP; p++)
        for (int64_t d = n; d < stride; d++) assert_int_equal((uint8_t)q[p * stride + d], 0xFF);
      guard_free(x), guard_free(q), guard_free(scale);
    }
  }
}

static void edges(void **state) {
  (void)state;
  int8_t q[4];
  /* The largest and the smallest get 127 and -127; halves go to the even number. */
  assert_int_equal(ie_kv_int8_values(q, (float[]){127, -127, 0.5f, 1.5f}, 4), ie_f32_to_bf16(1));
  assert_true(q[0] == 127 && q[1] == -127 && q[2] == 0 && q[3] == 2);
  assert_int_equal(ie_kv_int8_values(q, (float[]){0, -0.0f, 0, 0}, 4), 0);
  assert_true(q[0] == 0 && q[1] == 0);
  assert_int_equal(ie_kv_int8_values(q, (float[]){0x1p-149f, 0x1p-140f, 0, 0}, 4), 0);
  assert_true(q[0] == 0 && q[1] == 0);
  uint16_t scale = ie_kv_int8_values(q, (float[]){FLT_MAX, -FLT_MAX, 1, 0}, 4);
  assert_true(isfinite(ie_bf16_to_f32(scale)) && q[0] >= 126 && q[1] == -q[0] && q[2] == 0);
  for (int i = 0; i < 4; i++) {
    static const uint32_t bad[] = {0x7FC00000, 0xFF800000, 0x7F800000, 0xFFFFFFFF};
    float x[4] = {1, 2, 3, 4};
    x[i] = ie_f32_from_bits(bad[i]);
    scale = ie_kv_int8_values(q, x, 4);
    for (int d = 0; d < 4; d++) assert_true(isnan(read(q[d], scale)));
  }
}

/* A NaN in one channel is that channel's. */
static void bad_channel_stays_alone(void **state) {
  (void)state;
  enum { WIDTH = 70 };
  float x[IE_KV_GROUP * WIDTH];
  int8_t q[IE_KV_GROUP * WIDTH], clean[IE_KV_GROUP * WIDTH];
  uint16_t scale[WIDTH], clean_scale[WIDTH];
  for (int i = 0; i < IE_KV_GROUP * WIDTH; i++) x[i] = uniform(3, i);
  ie_kv_int8_keys(clean, WIDTH, clean_scale, x, WIDTH, WIDTH);
  x[17 * WIDTH + 66] = NAN;
  ie_kv_int8_keys(q, WIDTH, scale, x, WIDTH, WIDTH);
  for (int i = 0; i < IE_KV_GROUP * WIDTH; i++) {
    if (i % WIDTH == 66)
      assert_true(isnan(read(q[i], scale[66])));
    else
      assert_true(q[i] == clean[i] && scale[i % WIDTH] == clean_scale[i % WIDTH]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(values_of_all_lengths),
      cmocka_unit_test(keys_of_all_widths),
      cmocka_unit_test(edges),
      cmocka_unit_test(bad_channel_stays_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
