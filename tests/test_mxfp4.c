/* blocks/: the meaning of every nibble under every scale, the encoder's rounding, and the row sizes. */
#include "base/float.h"
#include "base/rng.h"
#include "blocks/format.h"
#include "blocks/mxfp4.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

/* The value of a nibble by the definition of E2M1, not by the table under test. */
static double e2m1(int nibble) {
  int exponent = (nibble >> 1) & 3;
  double mantissa = 0.5 * (nibble & 1);
  double magnitude = exponent == 0 ? mantissa : ldexp(1 + mantissa, exponent - 1);
  return nibble & 8 ? -magnitude : magnitude;
}

static void test_every_nibble_under_every_scale(void **state) {
  (void)state;
  for (int s = 0; s < 256; s++) {
    uint8_t block[16];
    for (int i = 0; i < 16; i++) block[i] = (uint8_t)(i | (15 - i) << 4);
    float out[32];
    ie_mxfp4_decode_block(out, block, (uint8_t)s);
    for (int c = 0; c < 32; c++) {
      int nibble = c % 2 == 0 ? c / 2 : 15 - c / 2;
      if (s == 255) {
        assert_true(isnan(out[c]));
        continue;
      }
      float expected = (float)ldexp(e2m1(nibble), s - 127); /* exact or infinite */
      assert_int_equal(ie_f32_bits(out[c]), ie_f32_bits(expected));
    }
  }
}

static void test_known_block(void **state) {
  (void)state;
  /* Written out by hand: the first byte 0x21 holds column 0 = nibble 1 and column 1 = nibble 2. */
  const uint8_t block[16] = {0x21, 0x43, 0x65, 0x87, 0xA9, 0xCB, 0xED, 0x0F};
  const float expected[16] = {1, 2, 3, 4, 6, 8, 12, -0.0f, -1, -2, -3, -4, -6, -8, -12, 0};
  float out[32];
  ie_mxfp4_decode_block(out, block, 128);
  for (int c = 0; c < 16; c++) assert_int_equal(ie_f32_bits(out[c]), ie_f32_bits(expected[c]));
}

static void test_decode_encode_returns_the_bytes(void **state) {
  (void)state;
  for (uint64_t n = 0; n < 2000; n++) {
    uint8_t block[16], again[16], scale = (uint8_t)(n % 252), scale_again;
    for (uint64_t i = 0; i < 16; i++) block[i] = (uint8_t)ie_rng_u64(1, n, i);
    block[3] = (uint8_t)((block[3] & 0xF0) | (n & 1 ? 7 : 6)); /* a 4 or 6 keeps the scale rule's choice */
    float values[32];
    ie_mxfp4_decode_block(values, block, scale);
    assert_true(ie_mxfp4_encode_block(again, &scale_again, values, IE_MXFP4_OCP));
    assert_int_equal(scale_again, scale);
    assert_memory_equal(again, block, sizeof block);
  }
}

static void test_encode_takes_the_nearest_value(void **state) {
  (void)state;
  for (uint64_t n = 0; n < 500; n++) {
    float in[32], out[32];
    uint8_t block[16], scale;
    float spread = ldexpf(1, (int)(n % 240) - 120);
    for (uint64_t c = 0; c < 32; c++) in[c] = spread * (2 * ie_rng_f32(2, n, c) - 1);
    assert_true(ie_mxfp4_encode_block(block, &scale, in, IE_MXFP4_OCP));
    float largest = 0;
    for (int c = 0; c < 32; c++) largest = fmaxf(largest, fabsf(in[c]));
    assert_int_equal(scale, ilogbf(largest) - 2 + 127);
    ie_mxfp4_decode_block(out, block, scale);
    for (int c = 0; c < 32; c++) {
      double x = ldexp((double)in[c], 127 - scale), best = 1e9;
      for (int v = 0; v < 16; v++) best = fmin(best, fabs(e2m1(v) - x));
      assert_true(fabs(ldexp((double)out[c], 127 - scale) - x) == best);
    }
  }
}

static void test_encode_ties_go_to_even(void **state) {
  (void)state;
  const float in[16] = {6,     .25f,  .75f,   1.25f,  1.75f, 2.5f,  3.5f, 5,
                        -.25f, -.75f, -1.25f, -1.75f, -2.5f, -3.5f, -5,   7};
  const float expected[16] = {6, 0, 1, 1, 2, 2, 4, 4, -0.0f, -1, -1, -2, -2, -4, -4, 6};
  float padded[32] = {0}, out[32];
  memcpy(padded, in, sizeof in);
  uint8_t block[16], scale;
  assert_true(ie_mxfp4_encode_block(block, &scale, padded, IE_MXFP4_OCP));
  assert_int_equal(scale, 127);
  ie_mxfp4_decode_block(out, block, scale);
  for (int c = 0; c < 16; c++) assert_int_equal(ie_f32_bits(out[c]), ie_f32_bits(expected[c]));
}

static void test_encode_edges(void **state) {
  (void)state;
  uint8_t block[16], scale;
  float in[32] = {0};
  assert_true(ie_mxfp4_encode_block(block, &scale, in, IE_MXFP4_OCP));
  assert_int_equal(scale, 127);
  in[5] = 0x1p-149f; /* smaller than anything that byte 0 can hold */
  assert_true(ie_mxfp4_encode_block(block, &scale, in, IE_MXFP4_OCP));
  assert_int_equal(scale, 0);
  in[5] = 0x1.fffffep127f;
  assert_true(ie_mxfp4_encode_block(block, &scale, in, IE_MXFP4_OCP));
  assert_int_equal(scale, 252);
  scale = 77;
  in[31] = INFINITY;
  assert_false(ie_mxfp4_encode_block(block, &scale, in, IE_MXFP4_OCP));
  in[31] = NAN;
  assert_false(ie_mxfp4_encode_block(block, &scale, in, IE_MXFP4_OCP));
  assert_int_equal(scale, 77);
}

static double squared_error(const float in[32], const uint8_t block[16], uint8_t scale) {
  float out[32];
  double sum = 0;
  ie_mxfp4_decode_block(out, block, scale);
  for (int c = 0; c < 32; c++) sum += pow((double)in[c] - (double)out[c], 2);
  return sum;
}

/* Whatever the codes of a block are, its values come back under both rules. */
static void test_values_of_the_format_come_back(void **state) {
  (void)state;
  for (uint64_t n = 0; n < 253 * 8; n++) {
    uint8_t block[16], again[16], scale = (uint8_t)(n % 253), scale_again;
    for (uint64_t i = 0; i < 16; i++) {
      uint8_t mask = (uint8_t[]){0xFF, 0xBB, 0xCC, 0x99}[n / 253 % 4]; /* all values, or only small ones */
      block[i] = (uint8_t)ie_rng_u64(3, n, i) & mask;
    }
    if (n % 7 == 0) memset(block + 1, 0x80, 15); /* one pair of numbers, and signed zeros */
    float values[32], out[32];
    ie_mxfp4_decode_block(values, block, scale);
    for (int rule = IE_MXFP4_OCP; rule <= IE_MXFP4_SEARCH; rule++) {
      assert_int_equal(ie_mxfp4_encode(again, &scale_again, values, 32, (ie_mxfp4_rule)rule), -1);
      ie_mxfp4_decode_block(out, again, scale_again);
      assert_memory_equal(out, values, sizeof out);
    }
  }
}

/* No scale of all that keep the block finite has a smaller squared error than the one that search finds. */
static void test_search_finds_the_least_error(void **state) {
  (void)state;
  int better = 0, below = 0, above = 0;
  for (uint64_t n = 0; n < 400; n++) {
    float in[32];
    uint8_t block[16], scale, ocp_block[16], ocp;
    float spread = ldexpf(1, (int)(n % 20) * 10 - 100);
    for (uint64_t c = 0; c < 32; c++) in[c] = spread * (2 * ie_rng_f32(4, n, c) - 1);
    if (n % 3 == 0) /* one number far from the rest */
      for (int c = 1; c < 32; c++) in[c] *= 0.2f;
    assert_true(ie_mxfp4_encode_block(block, &scale, in, IE_MXFP4_SEARCH));
    assert_true(ie_mxfp4_encode_block(ocp_block, &ocp, in, IE_MXFP4_OCP));
    double found = squared_error(in, block, scale), least = squared_error(in, ocp_block, ocp);
    if (found < least) better++;
    if (found == least) assert_int_equal(scale, ocp);
    below += scale < ocp;
    above += scale > ocp;
    for (int s = ocp < 6 ? 0 : ocp - 6; s <= ocp + 6; s++) {
      double sum = 0;
      for (int c = 0; c < 32; c++) {
        double nearest = 1e300;
        for (int v = 0; v < 16; v++) nearest = fmin(nearest, fabs(ldexp(e2m1(v), s - 127) - (double)in[c]));
        sum += nearest * nearest;
      }
      least = fmin(least, sum);
    }
    assert_true(found <= least * (1 + 1e-12));
  }
  assert_true(better > 20 && above > 0); /* the rules differ, so the comparison says something */
  assert_int_equal(better, below + above);
}

static void test_search_at_the_edges(void **state) {
  (void)state;
  float in[32], out[32];
  uint8_t block[16], scale;
  for (int c = 0; c < 32; c++) in[c] = 0x1.fffffep127f; /* the next scale would be nearer, and infinite */
  assert_true(ie_mxfp4_encode_block(block, &scale, in, IE_MXFP4_SEARCH));
  assert_int_equal(scale, 252);
  ie_mxfp4_decode_block(out, block, scale);
  assert_true(isfinite(out[0]));
  for (int c = 0; c < 32; c++) in[c] = 0x1p-149f;
  assert_true(ie_mxfp4_encode_block(block, &scale, in, IE_MXFP4_SEARCH));
  assert_int_equal(scale, 0);
  in[7] = -INFINITY;
  assert_false(ie_mxfp4_encode_block(block, &scale, in, IE_MXFP4_SEARCH));
  float row[96] = {0};
  uint8_t blocks[48], scales[3];
  row[64] = NAN;
  assert_int_equal(ie_mxfp4_encode(blocks, scales, row, 96, IE_MXFP4_OCP), 2);
}

static void test_row_bytes(void **state) {
  (void)state;
  assert_int_equal(ie_wformat_row_bytes(IE_W_F32, 0, 7), 28);
  assert_int_equal(ie_wformat_row_bytes(IE_W_F16, 0, 7), 14);
  assert_int_equal(ie_wformat_row_bytes(IE_W_BF16, 0, 7), 14);
  assert_int_equal(ie_wformat_row_bytes(IE_W_BF16, 1, 7), 0);
  assert_int_equal(ie_wformat_row_bytes(IE_W_MXFP4, 0, 96), 48);
  assert_int_equal(ie_wformat_row_bytes(IE_W_MXFP4, 1, 96), 3);
  assert_string_equal(ie_wformat_describe(IE_W_MXFP4)->name, "mxfp4");
}

/* Reads the reference's vectors with jansson alone, so that this test needs nothing but blocks/. */
static uint8_t *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) return NULL;
  uint8_t *data = malloc(1 << 20);
  assert_non_null(data);
  *size = fread(data, 1, 1 << 20, file);
  fclose(file);
  return data;
}

static const uint8_t *tensor_data(const json_t *header, const uint8_t *data, const char *name) {
  const json_t *offsets = json_object_get(json_object_get(header, name), "data_offsets");
  assert_non_null(offsets);
  return data + json_integer_value(json_array_get(offsets, 0));
}

static void test_reference_vectors(void **state) {
  (void)state;
  const char *root = getenv("CLOCHER_TEST_DATA");
  if (root == NULL) skip();
  char path[4096];
  snprintf(path, sizeof path, "%s/golden/numeric/mxfp4.safetensors", root);
  size_t size = 0;
  uint8_t *file = read_file(path, &size);
  assert_non_null(file);
  uint64_t header_size;
  memcpy(&header_size, file, 8);
  assert_true(header_size < size);
  json_t *header = json_loadb((const char *)file + 8, header_size, 0, NULL);
  assert_non_null(header);
  const uint8_t *data = file + 8 + header_size;
  const uint8_t *blocks = tensor_data(header, data, "blocks");
  const uint8_t *scales = tensor_data(header, data, "scales");
  const uint8_t *values = tensor_data(header, data, "values");
  for (size_t n = 0; n < 510; n++) {
    float out[32];
    ie_mxfp4_decode_block(out, blocks + 16 * n, scales[n]);
    assert_memory_equal(out, values + 128 * n, sizeof out);
    uint8_t again[16], scale;
    float decoded[32];
    bool finite = true;
    for (int c = 0; c < 32; c++) finite = finite && isfinite(out[c]);
    assert_true(ie_mxfp4_encode_block(again, &scale, out, IE_MXFP4_SEARCH) == finite);
    if (!finite) continue;
    ie_mxfp4_decode_block(decoded, again, scale);
    assert_memory_equal(decoded, out, sizeof out);
  }
  json_decref(header);
  free(file);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_nibble_under_every_scale),
      cmocka_unit_test(test_known_block),
      cmocka_unit_test(test_decode_encode_returns_the_bytes),
      cmocka_unit_test(test_encode_takes_the_nearest_value),
      cmocka_unit_test(test_encode_ties_go_to_even),
      cmocka_unit_test(test_encode_edges),
      cmocka_unit_test(test_values_of_the_format_come_back),
      cmocka_unit_test(test_search_finds_the_least_error),
      cmocka_unit_test(test_search_at_the_edges),
      cmocka_unit_test(test_row_bytes),
      cmocka_unit_test(test_reference_vectors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
