/* IEBIN v1: all its dialects are read, and every kind of damage is refused with the file and tensor named. */
#include "formats/iebin.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char json_path[] = "some/model.ie.json", bin_path[] = "some/model.ie.bin";

/* Parses JSON over a file of weights of `size` bytes (byte i is i), both on the heap and exactly as long. */
static ie_status read_all(const char *json, size_t json_size, size_t size, ie_table *table, uint8_t **bin,
                          ie_error *error) {
  *table = (ie_table){0};
  *error = (ie_error){0};
  *bin = malloc(size ? size : 1);
  char *text = malloc(json_size ? json_size : 1);
  assert_non_null(*bin);
  assert_non_null(text);
  for (size_t i = 0; i < size; i++) (*bin)[i] = (uint8_t)i;
  memcpy(text, json, json_size);
  ie_iebin iebin;
  ie_status status = ie_iebin_parse(text, json_size, json_path, &iebin, error);
  if (status == IE_OK) status = ie_iebin_read_table(&iebin, size ? *bin : NULL, size, bin_path, table, error);
  ie_iebin_free(&iebin);
  free(text);
  return status;
}

#define TWO                                                                                                  \
  "{\"name\":\"b\",\"dtype\":\"F32\",\"shape\":[2,3],\"nbytes\":24,\"offset\":64},"                          \
  "{\"name\":\"a\",\"dtype\":\"BF16\",\"shape\":[5],\"nbytes\":10,\"offset\":0}"
static const char full[] =
    "{\"version\":1,\"dtype\":\"mixed\",\"weights_bin\":\"model.ie.bin\","
    "\"format\":\"iebin_v1_raw_safetensors\",\"hf_dir\":\"/abs\",\"tensors\":[" TWO "]}";

static void as_written(void **state) {
  (void)state;
  ie_table table;
  ie_error error;
  uint8_t *bin;
  assert_int_equal(read_all(full, strlen(full), 88, &table, &bin, &error), IE_OK);
  assert_int_equal(table.count, 2);
  const ie_tensor_info *b = ie_table_find(&table, "b");
  assert_non_null(b);
  assert_int_equal(b->dtype, IE_F32);
  assert_int_equal(b->rank, 2);
  assert_int_equal(b->shape[1], 3);
  assert_int_equal(b->bytes, 24);
  assert_int_equal(b->offset, 64);
  assert_ptr_equal(b->data, bin + 64);
  assert_ptr_equal(b->file, bin_path);
  assert_string_equal(table.tensors[0].name, "a");
  ie_table_free(&table);
  free(bin);
}

static const struct variant {
  const char *json;
  size_t bin_size;
  const char *says; /* in the message; NULL: it is read */
  ie_dtype dtype;   /* of tensor a, when it is read */
} variants[] = {
    /* dialects */
    {"{\"tensors\":{\"a\":{\"dtype\":\"F16\",\"shape\":[4],\"size_bytes\":8,\"offset\":64}}}", 72, NULL,
     IE_F16},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"bf16\",\"shape\":[4],\"offset\":0}]}", 8, NULL, IE_BF16},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"Float32\",\"shape\":[1],\"offset\":0}]}", 4, NULL, IE_F32},
    {"{\"dtype\":\"bfloat16\",\"tensors\":[{\"name\":\"a\",\"shape\":[1],\"offset\":0}]}", 2, NULL, IE_BF16},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":0,\"shape\":[1],\"offset\":0}]}", 8, NULL, IE_F64},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":1,\"shape\":[1],\"offset\":0}]}", 2, NULL, IE_F16},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":2,\"shape\":[1],\"offset\":0}]}", 2, NULL, IE_BF16},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":3,\"shape\":[1],\"offset\":0}]}", 4, NULL, IE_F32},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":4,\"shape\":[1],\"offset\":0}]}", 1, NULL, IE_I8},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":8,\"shape\":[1],\"offset\":0}]}", 1, NULL, IE_U8},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":10,\"shape\":[1],\"offset\":0}]}", 1, NULL, IE_U8},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":12,\"shape\":[1],\"offset\":0}]}", 1, NULL, IE_U8},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[0],\"nbytes\":0,\"offset\":0}]}", 0, NULL,
     IE_U8},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[],\"offset\":64,\"shard\":\"x\"}]}", 999,
     NULL, IE_U8},
    /* outside the tensors */
    {"", 0, "not valid JSON", 0},
    {"[]", 0, "expected a JSON object", 0},
    {"{}", 0, "tensors: expected an array or an object, found nothing", 0},
    {"{\"tensors\":3}", 0, "tensors: expected an array or an object, found an integer", 0},
    {"{\"version\":2,\"tensors\":[]}", 0, "IEBIN version 2", 0},
    {"{\"version\":\"1\",\"tensors\":[]}", 0, "version: expected an integer", 0},
    {"{\"weights_bin\":\"../x\",\"tensors\":[]}", 0, "'../x' is not the name of a file in this folder", 0},
    {"{\"bin\":\"/abs\",\"tensors\":[]}", 0, "'/abs' is not the name", 0},
    {"{\"bin\":\"\",\"tensors\":[]}", 0, "'' is not the name", 0},
    {"{\"iebin\":{\"bin\":\"..\"},\"tensors\":[]}", 0, "'..' is not the name", 0},
    {"{\"bin\":7,\"tensors\":[]}", 0, "the file of weights: expected a name, found an integer", 0},
    {"{\"tensors\":[],\"tensors\":[]}", 0, "duplicate", 0},
    /* the entries */
    {"{\"tensors\":[3]}", 0, "expected an object, found an integer", 0},
    {"{\"tensors\":{\"a\":null}}", 0, "expected an object, found null", 0},
    {"{\"tensors\":[{\"dtype\":\"U8\",\"shape\":[1],\"offset\":0}]}", 1, "an entry has no name", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"shape\":[1],\"offset\":0}]}", 1, "tensor a: dtype 'nothing'", 0},
    {"{\"dtype\":\"mixed\",\"tensors\":[{\"name\":\"a\",\"shape\":[1],\"offset\":0}]}", 1, "dtype 'mixed'",
     0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"int4\",\"shape\":[1],\"offset\":0}]}", 1,
     "tensor a: dtype 'int4'", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":5,\"shape\":[1],\"offset\":0}]}", 1, "tensor a: dtype 'code 5'",
     0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":13,\"shape\":[1],\"offset\":0}]}", 1, "dtype 'code 13'", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":-1,\"shape\":[1],\"offset\":0}]}", 1, "dtype 'code -1'", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[-1],\"offset\":0}]}", 1,
     "tensor a: shape[0] is -1", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"offset\":0}]}", 1,
     "tensor a: shape: expected an array", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"offset\":0}]}", 1,
     "tensor a: the product", 0},
    /* places */
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[1]}]}", 1, "tensor a: offset is missing", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[1],\"offset\":-64}]}", 1,
     "tensor a: offset: expected", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[1],\"offset\":\"0\"}]}", 1,
     "tensor a: offset: expected", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[1],\"offset\":32}]}", 64,
     "tensor a: offset 32 is not a multiple of 64", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[1],\"offset\":64}]}", 64, "it is truncated",
     0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[65],\"offset\":0}]}", 64, "it is truncated",
     0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[0],\"offset\":128}]}", 64, "it is truncated",
     0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[1],\"offset\":9223372036854775744}]}", 64,
     "it is truncated", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[9223372036854775807],\"offset\":"
     "9223372036854775744}]}",
     64, "it is truncated", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"F32\",\"shape\":[2],\"nbytes\":4,\"offset\":0}]}", 64,
     "tensor a: its shape and dtype F32 take 8 bytes, its entry says 4", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"F32\",\"shape\":[2],\"nbytes\":8,\"size_bytes\":9,\"offset\":"
     "0}]}",
     64, "its entry says 9", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[65],\"offset\":0},"
     "{\"name\":\"b\",\"dtype\":\"U8\",\"shape\":[1],\"offset\":64}]}",
     128, "tensors a and b overlap", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[200],\"offset\":0},"
     "{\"name\":\"b\",\"dtype\":\"U8\",\"shape\":[1],\"offset\":64},"
     "{\"name\":\"c\",\"dtype\":\"U8\",\"shape\":[1],\"offset\":128}]}",
     256, "tensors a and b overlap", 0},
    {"{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[1],\"offset\":0},"
     "{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[1],\"offset\":64}]}",
     128, "tensor a stands there twice", 0},
};

static void variants_and_damage(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
    const struct variant *v = &variants[i];
    ie_table table;
    ie_error error;
    uint8_t *bin;
    ie_status status = read_all(v->json, strlen(v->json), v->bin_size, &table, &bin, &error);
    if (!v->says) {
      if (status != IE_OK) fail_msg("%s: %s", v->json, error.message);
      const ie_tensor_info *a = ie_table_find(&table, "a");
      assert_non_null(a);
      assert_int_equal(a->dtype, v->dtype);
    } else {
      if (status == IE_OK) fail_msg("%s: accepted, expected: %s", v->json, v->says);
      if (!strstr(error.message, v->says) || !strstr(error.message, "some/model.ie."))
        fail_msg("%s: '%s', expected: %s", v->json, error.message, v->says);
    }
    ie_table_free(&table);
    free(bin);
  }
}

/* All the keys under which writers name the file of weights. */
static void weights_keys(void **state) {
  (void)state;
  static const char *const keys[] = {"bin", "weights_bin", "weightsBin", "weights_path", "weightsPath"};
  static const char *const groups[] = {"weights", "iebin"};
  char json[128];
  ie_iebin iebin;
  ie_error error;
  for (size_t i = 0; i < 5; i++) {
    snprintf(json, sizeof json, "{\"tensors\":[],\"%s\":\"w.bin\"}", keys[i]);
    assert_int_equal(ie_iebin_parse(json, strlen(json), json_path, &iebin, &error), IE_OK);
    assert_string_equal(iebin.bin_name, "w.bin");
    ie_iebin_free(&iebin);
  }
  for (size_t i = 0; i < 4; i++) {
    snprintf(json, sizeof json, "{\"tensors\":{},\"%s\":{\"%s\":\"w.bin\"}}", groups[i / 2], keys[i % 2]);
    assert_int_equal(ie_iebin_parse(json, strlen(json), json_path, &iebin, &error), IE_OK);
    assert_string_equal(iebin.bin_name, "w.bin");
    ie_iebin_free(&iebin);
  }
  assert_int_equal(ie_iebin_parse("{\"tensors\":[]}", 14, json_path, &iebin, &error), IE_OK);
  assert_string_equal(iebin.bin_name, "model.ie.bin");
  ie_iebin_free(&iebin);
}

static void cut_at_every_byte(void **state) {
  (void)state;
  ie_table table;
  ie_error error;
  uint8_t *bin;
  for (size_t n = 0; n < strlen(full); n++) { /* the JSON */
    assert_int_equal(read_all(full, n, 88, &table, &bin, &error), IE_FORMAT);
    ie_table_free(&table);
    free(bin);
  }
  for (size_t n = 0; n < 88; n++) { /* the weights */
    assert_int_equal(read_all(full, strlen(full), n, &table, &bin, &error), IE_FORMAT);
    assert_non_null(strstr(error.message, "it is truncated"));
    ie_table_free(&table);
    free(bin);
  }
}

/* Whatever is accepted lies in the file of weights. */
static void bit_flips(void **state) {
  (void)state;
  char json[sizeof full];
  memcpy(json, full, sizeof full);
  size_t refused = 0;
  for (size_t bit = 0; bit < 8 * strlen(full); bit++) {
    json[bit / 8] = (char)(json[bit / 8] ^ (1 << (bit % 8)));
    ie_table table;
    ie_error error;
    uint8_t *bin;
    volatile unsigned sum = 0;
    ie_status status = read_all(json, strlen(full), 88, &table, &bin, &error);
    refused += status != IE_OK;
    for (size_t i = 0; status == IE_OK && i < table.count; i++)
      for (size_t k = 0; k < table.tensors[i].bytes; k++) sum += ((const uint8_t *)table.tensors[i].data)[k];
    ie_table_free(&table);
    free(bin);
    json[bit / 8] = (char)(json[bit / 8] ^ (1 << (bit % 8)));
  }
  assert_true(refused > strlen(full)); /* more than one bit of eight */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(as_written),   cmocka_unit_test(variants_and_damage),
      cmocka_unit_test(weights_keys), cmocka_unit_test(cut_at_every_byte),
      cmocka_unit_test(bit_flips),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
