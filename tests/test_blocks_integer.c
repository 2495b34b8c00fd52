/* blocks/: INT8 and INT4. Every code under every f16 scale, known bytes, the rounding of the encoder against its own
 * rules, the ends of the scale, what is refused, and the sizes of rows. */
#include "base/float.h"
#include "base/rng.h"
#include "blocks/format.h"
#include "blocks/int4.h"
#include "blocks/int8.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* The value of an f16 by the definition of IEEE 754, not by the library's conversion. */
static double half_value(uint16_t h) {
  int exponent = h >> 10 & 31, mantissa = h & 1023;
  double magnitude = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
  return h & 0x8000 ? -magnitude : magnitude;
}

static void test_every_code_under_every_scale(void **state) {
  (void)state;
  for (uint32_t h = 0; h < 0x10000; h++) {
    bool finite = (h & 0x7C00) != 0x7C00;
    int8_t wide[32];
    uint8_t narrow[32];
    float out8[32], out4[64];
    for (int i = 0; i < 32; i++) {
      wide[i] = (int8_t)((int)(h % 8 * 32) + i - 128);
      narrow[i] = (uint8_t)(i % 16 | (15 - i % 16) << 4);
    }
    ie_int8_decode_block(out8, wide, (uint16_t)h);
    ie_int4_decode_block(out4, narrow, (uint16_t)h);
    for (int c = 0; c < 32 && finite; c++) {
      assert_true((double)out8[c] == wide[c] * half_value((uint16_t)h));
      assert_true((double)out4[2 * c] == (c % 16 - 8) * half_value((uint16_t)h));
      assert_true((double)out4[2 * c + 1] == (7 - c % 16) * half_value((uint16_t)h));
    }
    for (int c = 0; c < 32 && !finite; c++) assert_false(isfinite(out8[c]) || isfinite(out4[c]));
  }
}

/* The example of docs/formats.md. */
static void test_known_bytes(void **state) {
  (void)state;
  float in8[32] = {0.5f, -1.0f, 0.25f, 0.0f, 1.0f}, in4[64] = {0.5f, -1.0f, 0.25f, 0.0f, 1.0f};
  int8_t wide[32];
  uint8_t narrow[32];
  uint16_t scale;
  assert_true(ie_int8_encode_block(wide, &scale, in8));
  assert_int_equal(scale, 0x2009); /* 1033 * 2^-17 = 0.0078811..., the first f16 above 1 / 127 */
  static const int8_t expected8[6] = {63, -127, 32, 0, 127, 0};
  assert_memory_equal(wide, expected8, 6);
  assert_true(ie_int4_encode_block(narrow, &scale, in4));
  assert_int_equal(scale, 0x3000); /* 1 / 8: the largest number is -1, so the scale is positive */
  static const uint8_t expected4[4] = {0x0C, 0x8A, 0x8F, 0x88};
  assert_memory_equal(narrow, expected4, 4);
}

static float random_number(uint64_t n, uint64_t i) {
  float v = ie_rng_f32(1, n, i) - 0.5f;
  int power = (int)(n % 60) - 40;
  if (n % 5 == 1) v = roundf(v * 16) / 16; /* many ties */
  if (n % 7 == 2 && i % 3 == 0) v = 0;
  return ldexpf(v, power);
}

static uint16_t next_below(uint16_t h) {
  return (uint16_t)(h - 1);
}

/* What the header promises: the smallest scale that clips nothing, and the nearest code, ties to even. */
static void test_int8_rules(void **state) {
  (void)state;
  for (uint64_t n = 0; n < 6000; n++) {
    float in[32], out[32], largest = 0;
    int8_t block[32];
    uint16_t h;
    for (uint64_t i = 0; i < 32; i++) in[i] = random_number(n, i);
    for (int i = 0; i < 32; i++) largest = fmaxf(largest, fabsf(in[i]));
    assert_true(ie_int8_encode_block(block, &h, in));
    double s = half_value(h);
    assert_true(127 * s >= (double)largest);
    if (h > 0) assert_true(127 * half_value(next_below(h)) < (double)largest);
    ie_int8_decode_block(out, block, h);
    for (int i = 0; i < 32 && h > 0; i++) {
      assert_int_equal(block[i], (int)rintf(in[i] / (float)s));
      assert_true(fabs((double)out[i] - (double)in[i]) <= s / 2 * (1 + 1e-6));
    }
  }
}

static void test_int4_rules(void **state) {
  (void)state;
  for (uint64_t n = 0; n < 6000; n++) {
    float in[64], largest = 0;
    uint8_t block[32];
    uint16_t h;
    int first = -1;
    for (uint64_t i = 0; i < 64; i++) in[i] = random_number(n, i);
    for (int i = 0; i < 64; i++)
      if (fabsf(in[i]) > largest) {
        largest = fabsf(in[i]);
        first = i;
      }
    assert_true(ie_int4_encode_block(block, &h, in));
    double s = half_value(h);
    uint16_t magnitude = h & 0x7FFF;
    assert_true(8 * fabs(s) >= (double)largest);
    if (magnitude > 0) assert_true(8 * half_value(next_below(magnitude)) < (double)largest);
    for (int i = 0; i < 64 && magnitude > 0; i++) {
      int code = (block[i / 2] >> (i % 2 * 4) & 15) - 8;
      float exact = rintf(in[i] / (float)s);
      assert_int_equal(code, exact > 7 ? 7 : (int)exact);
    }
    if (first >= 0) assert_true((in[first] > 0) == (s < 0));
  }
}

/* Negative input gives the same bytes and a negative scale (INT4), or negative codes (INT8). */
static void test_sign_symmetry(void **state) {
  (void)state;
  for (uint64_t n = 0; n < 300; n++) {
    float in[64], negative[64];
    int8_t wide[2][32];
    uint8_t narrow[2][32];
    uint16_t h[2];
    for (uint64_t i = 0; i < 64; i++) negative[i] = -(in[i] = random_number(n, i));
    assert_true(ie_int8_encode_block(wide[0], &h[0], in) && ie_int8_encode_block(wide[1], &h[1], negative));
    assert_int_equal(h[0], h[1]);
    for (int i = 0; i < 32; i++) assert_int_equal(wide[0][i], -wide[1][i]);
    assert_true(ie_int4_encode_block(narrow[0], &h[0], in) &&
                ie_int4_encode_block(narrow[1], &h[1], negative));
    assert_memory_equal(narrow[0], narrow[1], 32);
    if (h[0]) assert_int_equal(h[0], h[1] ^ 0x8000);
  }
}

static void test_ends_of_the_scale(void **state) {
  (void)state;
  float zeros[64] = {0}, tiny[64] = {0}, out[64];
  int8_t wide[32];
  uint8_t narrow[32];
  uint16_t h;
  assert_true(ie_int8_encode_block(wide, &h, zeros));
  assert_int_equal(h, 0);
  for (int i = 0; i < 32; i++) assert_int_equal(wide[i], 0);
  assert_true(ie_int4_encode_block(narrow, &h, zeros));
  assert_int_equal(h, 0);
  for (int i = 0; i < 32; i++) assert_int_equal(narrow[i], 0x88);
  tiny[3] = 0x1p-149f; /* a denormal: the smallest scale, and the code 0 */
  assert_true(ie_int8_encode_block(wide, &h, tiny));
  assert_int_equal(h, 1);
  assert_int_equal(wide[3], 0);
  tiny[3] = -100 * 0x1p-24f;
  assert_true(ie_int8_encode_block(wide, &h, tiny));
  ie_int8_decode_block(out, wide, h);
  assert_true(out[3] == -100 * 0x1p-24f);
  tiny[3] = 127 * 65504.0f; /* the largest numbers */
  assert_true(ie_int8_encode_block(wide, &h, tiny));
  assert_int_equal(h, 0x7BFF);
  assert_int_equal(wide[3], 127);
  tiny[3] = 8 * 65504.0f;
  assert_true(ie_int4_encode_block(narrow, &h, tiny));
  assert_int_equal(h, 0xFBFF);
}

static void test_refused(void **state) {
  (void)state;
  static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
  for (size_t i = 0; i < 4; i++)
    for (int at = 0; at < 32; at++) {
      float in[64] = {1, 2, 3};
      int8_t wide[32] = {55};
      uint8_t narrow[32] = {55};
      uint16_t h = 77;
      in[at] = bad[i];
      assert_false(ie_int8_encode_block(wide, &h, in) || ie_int4_encode_block(narrow, &h, in));
      in[at] = 3;
      in[63 - at] = bad[i];
      assert_false(ie_int4_encode_block(narrow, &h, in));
      assert_true(h == 77 && wide[0] == 55 && narrow[0] == 55);
    }
  float wide_in[64] = {nextafterf(127 * 65504.0f, INFINITY)}, narrow_in[64] = {-524033.0f};
  int8_t wide[32];
  uint8_t narrow[32];
  uint16_t h;
  assert_false(ie_int8_encode_block(wide, &h, wide_in));
  assert_false(ie_int4_encode_block(narrow, &h, narrow_in));
}

static void test_decode_encode_returns_the_bytes(void **state) {
  (void)state;
  for (uint64_t n = 0; n < 2000; n++) {
    int8_t wide[32], wide_again[32];
    uint8_t narrow[32], narrow_again[32];
    float out[64];
    uint16_t scale = (uint16_t)(1 + n * 13 % 0x7BFF), again; /* all magnitudes, subnormal ones too */
    for (uint64_t i = 0; i < 32; i++) {
      wide[i] = (int8_t)((int)(ie_rng_u64(2, n, i) % 255) - 127);
      narrow[i] = (uint8_t)ie_rng_u64(3, n, i);
    }
    wide[n % 32] = 127;
    narrow[0] &= 0xF0; /* the first -8 decides the scale, which takes its sign */
    ie_int8_decode_block(out, wide, scale);
    assert_true(ie_int8_encode_block(wide_again, &again, out));
    assert_int_equal(again, scale);
    assert_memory_equal(wide_again, wide, 32);
    scale = (uint16_t)(scale | n % 2 << 15);
    ie_int4_decode_block(out, narrow, scale);
    assert_true(ie_int4_encode_block(narrow_again, &again, out));
    assert_int_equal(again, scale);
    assert_memory_equal(narrow_again, narrow, 32);
  }
}

static void test_row_sizes(void **state) {
  (void)state;
  static const int64_t cols[] = {1, 31, 32, 33, 63, 64, 65, 2880, 4096};
  for (size_t i = 0; i < sizeof cols / sizeof cols[0]; i++) {
    size_t g8 = ((size_t)cols[i] + 31) / 32, g4 = ((size_t)cols[i] + 63) / 64;
    assert_int_equal(ie_wformat_row_bytes(IE_W_INT8, 0, cols[i]), 32 * g8);
    assert_int_equal(ie_wformat_row_bytes(IE_W_INT8, 1, cols[i]), 2 * g8);
    assert_int_equal(ie_wformat_row_bytes(IE_W_INT4, 0, cols[i]), 32 * g4);
    assert_int_equal(ie_wformat_row_bytes(IE_W_INT4, 1, cols[i]), 2 * g4);
  }
  assert_string_equal(ie_wformat_describe(IE_W_INT8)->name, "int8");
  assert_string_equal(ie_wformat_describe(IE_W_INT4)->name, "int4");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_code_under_every_scale),
      cmocka_unit_test(test_known_bytes),
      cmocka_unit_test(test_int8_rules),
      cmocka_unit_test(test_int4_rules),
      cmocka_unit_test(test_sign_symmetry),
      cmocka_unit_test(test_ends_of_the_scale),
      cmocka_unit_test(test_refused),
      cmocka_unit_test(test_decode_encode_returns_the_bytes),
      cmocka_unit_test(test_row_sizes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
