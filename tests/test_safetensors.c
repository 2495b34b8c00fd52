/* safetensors: what is written comes back, and every kind of damage is refused with the file and tensor named. */
#include "clocher/tensor.h"

#include "formats/safetensors.h"
#include "support/emulated.h"
#include "support/tempdir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int setup(void **state) {
  *state = tempdir_make();
  return 0;
}

static int teardown(void **state) {
  tempdir_remove(*state);
  return 0;
}

/* A file in memory of exactly its size, so that a read behind it is seen by AddressSanitizer. */
static uint8_t *file_make(const char *header, size_t data_size, size_t *size) {
  size_t n = strlen(header);
  *size = 8 + n + data_size;
  uint8_t *bytes = malloc(*size);
  assert_non_null(bytes);
  for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)((uint64_t)n >> (8 * i));
  memcpy(bytes + 8, header, n);
  for (size_t i = 0; i < data_size; i++) bytes[8 + n + i] = (uint8_t)i;
  return bytes;
}

static ie_status parse(const void *bytes, size_t size, ie_table *table, ie_error *error) {
  *table = (ie_table){0};
  *error = (ie_error){0};
  return ie_safetensors_parse(bytes, size, "some/file.safetensors", table, error);
}

/* ---- writing and reading ---- */

static void round_trip(void **state) {
  static const float f32[6] = {0, -1.5f, 3e38f, 1e-40f, 5, 6};
  static const uint16_t bf16[4] = {1, 2, 0x7F80, 0xFFFF};
  static const uint8_t u8[3] = {7, 8, 255};
  static const int64_t i64[1] = {INT64_MIN};
  const ie_tensor_out out[] = {
      {"u8", IE_U8, 1, {3}, u8},
      {"zero", IE_F32, 2, {0, 7}, NULL},
      {"a \"quoted\"\\name\n\xC3\xA9", IE_F32, 2, {2, 3}, f32},
      {"scalar", IE_I64, 0, {0}, i64},
      {"bf", IE_BF16, 8, {1, 1, 2, 1, 1, 1, 2, 1}, bf16},
      {"", IE_BOOL, 1, {1}, u8},
  };
  const char *path = tempdir_path(*state, "round.safetensors");
  ie_error error;
  assert_int_equal(ie_tensor_file_write(path, out, 6, &error), IE_OK);
  ie_tensor_file *file;
  assert_int_equal(ie_tensor_file_open(path, &file, &error), IE_OK);
  assert_int_equal(ie_tensor_file_count(file), 6);
  for (size_t i = 0; i < 6; i++) {
    const ie_tensor_info *t = ie_tensor_file_get(file, out[i].name);
    assert_non_null(t);
    assert_string_equal(t->name, out[i].name);
    assert_int_equal(t->dtype, out[i].dtype);
    assert_int_equal(t->rank, out[i].rank);
    for (int d = 0; d < t->rank; d++) assert_int_equal(t->shape[d], out[i].shape[d]);
    if (t->bytes) assert_memory_equal(t->data, out[i].data, t->bytes);
    assert_int_equal(t->offset % ie_dtype_bytes(t->dtype), 0);
    assert_string_equal(t->file, path);
  }
  const ie_tensor_info *first = ie_tensor_file_get(file, "scalar"); /* the widest type comes first */
  assert_int_equal(first->offset % 64, 0);
  for (size_t i = 1; i < 6; i++)
    assert_true(strcmp(ie_tensor_file_at(file, i - 1)->name, ie_tensor_file_at(file, i)->name) < 0);
  assert_null(ie_tensor_file_at(file, 6));
  assert_null(ie_tensor_file_get(file, "u"));
  assert_null(ie_tensor_file_get(file, "u88"));
  ie_tensor_file_free(file);
}

static void empty_file(void **state) {
  const char *path = tempdir_path(*state, "empty.safetensors");
  ie_error error;
  ie_tensor_file *file;
  assert_int_equal(ie_tensor_file_write(path, NULL, 0, &error), IE_OK);
  assert_int_equal(ie_tensor_file_open(path, &file, &error), IE_OK);
  assert_int_equal(ie_tensor_file_count(file), 0);
  assert_null(ie_tensor_file_get(file, "x"));
  ie_tensor_file_free(file);
  ie_tensor_file_free(NULL);
}

static void write_refuses(void **state) {
  static const uint8_t data[16] = {0};
  const ie_tensor_out bad[] = {
      {"neg", IE_U8, 1, {-1}, data},         {"huge", IE_F32, 2, {INT64_MAX, 4}, data},
      {"none", IE_DTYPE_NONE, 1, {1}, data}, {"rank", IE_U8, IE_MAX_RANK + 1, {1}, data},
      {"__metadata__", IE_U8, 1, {1}, data}, {"\xFF\xFE", IE_U8, 1, {1}, data},
      {NULL, IE_U8, 1, {1}, data},           {"dtype", (ie_dtype)99, 1, {1}, data},
  };
  const char *path = tempdir_path(*state, "bad.safetensors");
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    ie_error error = {0};
    assert_int_equal(ie_tensor_file_write(path, &bad[i], 1, &error), IE_INVALID_ARGUMENT);
    assert_true(error.message[0] != '\0');
    assert_int_equal(access(path, F_OK), -1);
  }
  const ie_tensor_out twice[] = {
      {"a", IE_U8, 1, {1}, data}, {"b", IE_U8, 1, {1}, data}, {"a", IE_U8, 1, {1}, data}};
  ie_error error = {0};
  assert_int_equal(ie_tensor_file_write(path, twice, 3, &error), IE_INVALID_ARGUMENT);
  assert_non_null(strstr(error.message, "tensor a"));
  assert_int_equal(ie_tensor_file_write("/nonexistent/folder/x.safetensors", twice, 2, &error), IE_IO);
  assert_non_null(strstr(error.message, "/nonexistent/folder/x.safetensors"));
}

static void open_refuses(void **state) {
  ie_error error = {0};
  ie_tensor_file *file = (void *)1;
  assert_int_equal(ie_tensor_file_open(tempdir_path(*state, "missing"), &file, &error), IE_IO);
  assert_null(file);
  file = (void *)1;
  assert_int_equal(ie_tensor_file_open(*state, &file, &error), IE_IO);
  assert_null(file);
  assert_int_equal(ie_tensor_file_open(tempdir_write(*state, "void", "", 0), &file, &error), IE_FORMAT);
  assert_int_equal(ie_tensor_file_open(tempdir_write(*state, "short", "1234567", 7), &file, &error),
                   IE_FORMAT);
  assert_non_null(strstr(error.message, "short"));
}

/* ---- damage ---- */

#define T(name, dtype, shape, begin, end)                                                                    \
  "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static const struct damage {
  const char *header;
  size_t data_size;
  const char *says; /* must stand in the message; NULL: the file is fine */
} damages[] = {
    {"{" T("a", "F32", "[2,2]", 0, 16) "}", 16, NULL},
    {"{" T("a", "F32", "[2,2]", 0, 16) "}   \n", 16, NULL},
    {"{}", 0, NULL},
    {"{\"__metadata__\":{\"format\":\"pt\"}," T("a", "U8", "[]", 0, 1) "}", 1, NULL},
    {"{" T("z", "F32", "[0]", 0, 0) "," T("a", "U8", "[4]", 0, 4) "," T("y", "U8", "[0,9]", 4, 4) "}", 4,
     NULL},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"note\":[1,{}]}}", 1, NULL},
    /* the JSON */
    {"", 0, "does not start"},
    {" {}", 0, "does not start"},
    {"[]", 0, "does not start"},
    {"{", 0, "not valid JSON"},
    {"{}x", 0, "not valid JSON"},
    {"{\"a\":1,}", 0, "not valid JSON"},
    {"{\"\\u0000\":1}", 0, "not valid JSON"},
    {"{\"\xFF\":1}", 0, "not valid JSON"},
    {"{" T("a", "U8", "[1]", 0, 1) "," T("a", "U8", "[1]", 1, 2) "}", 2, "duplicate"},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "duplicate"},
    {"{\"__metadata__\":[]}", 0, "__metadata__: expected an object"},
    {"{\"__metadata__\":{\"k\":3}}", 0, "__metadata__.k"},
    /* the entries */
    {"{\"a\":7}", 0, "tensor a: expected an object"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "tensor a: dtype"},
    {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "tensor a: shape"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "tensor a: data_offsets"},
    {"{\"a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "tensor a: dtype"},
    {"{" T("a", "F4", "[1]", 0, 1) "}", 1, "unknown dtype 'F4'"},
    {"{" T("a", "f32", "[1]", 0, 4) "}", 4, "unknown dtype 'f32'"},
    {"{" T("a", "none", "[1]", 0, 0) "}", 0, "unknown dtype 'none'"},
    {"{" T("a", "F32\\n", "[1]", 0, 4) "}", 4, "unknown dtype 'F32?'"},
    /* shapes */
    {"{" T("a", "F32", "[-1]", 0, 4) "}", 4, "tensor a: shape[0] is -1"},
    {"{" T("a", "F32", "[1,1.0]", 0, 4) "}", 4, "tensor a: shape[1]: expected an integer, found a real"},
    {"{" T("a", "F32", "[\"1\"]", 0, 4) "}", 4, "tensor a: shape[0]: expected an integer, found a string"},
    {"{" T("a", "F32", "[true]", 0, 4) "}", 4, "tensor a: shape[0]"},
    {"{" T("a", "F32", "{}", 0, 4) "}", 4, "tensor a: shape: expected an array"},
    {"{" T("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1, "tensor a: 9 dimensions"},
    {"{" T("a", "F32", "[4611686018427387904,4]", 0, 16) "}", 16, "tensor a: the product"},
    {"{" T("a", "F32", "[4294967296,4294967296]", 0, 0) "}", 0, "tensor a: the product"},
    {"{" T("a", "F32", "[99999999999999999999]", 0, 4) "}", 4, "not valid JSON"},
    /* offsets */
    {"{" T("a", "F32", "[2]", 0, 4) "}", 4, "tensor a: its shape and dtype F32 take 8 bytes, its offsets 4"},
    {"{" T("a", "F32", "[2]", 0, 8) "}", 7, "tensor a ends at byte 8"},
    {"{" T("a", "F32", "[2]", 0, 8) "}", 0, "tensor a ends at byte 8"},
    {"{" T("a", "F32", "[2]", -8, 0) "}", 8, "tensor a: data_offsets [-8, 0]"},
    {"{" T("a", "F32", "[2]", 8, 0) "}", 8, "tensor a: data_offsets [8, 0]"},
    {"{" T("a", "U8", "[1]", 0.0, 1) "}", 1, "tensor a: data_offsets[0]"},
    {"{" T("a", "U8", "[1]", 0, "1") "}", 1, "tensor a: data_offsets[1]"},
    {"{" T("a", "U8", "[0]", 9223372036854775807, 9223372036854775807) "}", 1, "tensor a ends at byte"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 2, "tensor a: data_offsets"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":\"x\"}}", 2, "tensor a: data_offsets"},
    /* how they lie */
    {"{" T("a", "U8", "[4]", 0, 4) "," T("b", "U8", "[4]", 2, 6) "}", 6, "tensors a and b overlap"},
    {"{" T("a", "U8", "[4]", 0, 4) "," T("b", "U8", "[4]", 0, 4) "}", 4, "overlap"},
    {"{" T("a", "U8", "[6]", 0, 6) "," T("b", "U8", "[1]", 2, 3) "}", 6, "tensors a and b overlap"},
    {"{" T("a", "U8", "[4]", 0, 4) "," T("z", "U8", "[0]", 2, 2) "}", 4, "tensors a and z overlap"},
    {"{" T("a", "U8", "[4]", 4, 8) "}", 8, "4 bytes before tensor a belong to no tensor"},
    {"{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 3, 5) "}", 5, "1 bytes before tensor b"},
    {"{" T("a", "U8", "[2]", 0, 2) "," T("z", "U8", "[0]", 4, 4) "}", 4, "before tensor z"},
    {"{" T("a", "U8", "[2]", 0, 2) "}", 5, "3 bytes at its end belong to no tensor"},
    {"{}", 1, "1 bytes at its end"},
};

static void damage_is_named(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
    size_t size;
    ie_table table;
    ie_error error;
    uint8_t *bytes = file_make(damages[i].header, damages[i].data_size, &size);
    ie_status status = parse(bytes, size, &table, &error);
    if (!damages[i].says) {
      if (status != IE_OK) fail_msg("%s: %s", damages[i].header, error.message);
    } else {
      if (status == IE_OK) fail_msg("%s: accepted, expected: %s", damages[i].header, damages[i].says);
      if (!strstr(error.message, damages[i].says) || !strstr(error.message, "some/file.safetensors"))
        fail_msg("%s: '%s', expected: %s", damages[i].header, error.message, damages[i].says);
      assert_int_equal(error.status, status);
    }
    ie_table_free(&table);
    free(bytes);
  }
}

static const char sample[] =
    "{\"__metadata__\":{\"format\":\"pt\"}," T("first.weight", "F32", "[2,2]", 0, 16) "," //
    T("second.bias", "BF16", "[3]", 16, 22) "," T("zero", "F16", "[0,5]", 22, 22) "}";

static void cut_at_every_byte(void **state) {
  (void)state;
  size_t size;
  uint8_t *bytes = file_make(sample, 22, &size);
  for (size_t n = 0; n <= size; n++) {
    uint8_t *cut = malloc(n ? n : 1);
    assert_non_null(cut);
    memcpy(cut, bytes, n);
    ie_table table;
    ie_error error;
    ie_status status = parse(cut, n, &table, &error);
    assert_int_equal(status, n == size ? IE_OK : IE_FORMAT);
    if (n < size) assert_non_null(strstr(error.message, "some/file.safetensors"));
    ie_table_free(&table);
    free(cut);
  }
  free(bytes);
}

/* Whatever the parser accepts lies in the file: every byte of every tensor is read. */
static unsigned table_touch(const ie_table *table) {
  unsigned sum = 0;
  for (size_t i = 0; i < table->count; i++) {
    const uint8_t *p = table->tensors[i].data;
    for (size_t k = 0; k < table->tensors[i].bytes; k++) sum += p[k];
  }
  return sum;
}

static void bit_flips(void **state) {
  (void)state;
  size_t size, refused = 0;
  uint8_t *bytes = file_make(sample, 22, &size);
  volatile unsigned sum = 0;
  for (size_t bit = 0; bit < 8 * size; bit++) {
    bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    ie_table table;
    ie_error error;
    if (parse(bytes, size, &table, &error) == IE_OK)
      sum += table_touch(&table);
    else
      refused++;
    ie_table_free(&table);
    bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
  }
  assert_true(refused > 8 * strlen(sample) / 2); /* flips in names and data are no damage that can be seen */
  assert_true(refused < 8 * (size - 22));
  free(bytes);
}

/* ---- hostile sizes ---- */

static void huge_header_is_refused_at_once(void **state) {
  static const uint64_t lengths[] = {1000000000, 100000001, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63};
  const char *path = tempdir_write(*state, "huge.safetensors", "", 0);
  for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(&lengths[i], 8, 1, file), 1);
    assert_int_equal(fputc('{', file), '{');
    assert_int_equal(fclose(file), 0);
    assert_int_equal(truncate(path, 1200000000), 0); /* sparse: as long as it claims */
    ie_error error = {0};
    ie_tensor_file *opened;
    double start = now_s();
    assert_int_equal(ie_tensor_file_open(path, &opened, &error), IE_FORMAT);
    assert_true(emulated() || now_s() - start < 1);
    assert_non_null(strstr(error.message, "expected at most 100000000"));
  }
}

/* Text that would become a tree of JSON values many times its size is refused before it is parsed. */
static void dense_header_is_refused_at_once(void **state) {
  (void)state;
  static const char *const patterns[] = {"[],", "{},", "1,", "[["};
  for (size_t p = 0; p < sizeof patterns / sizeof patterns[0]; p++) {
    size_t n = 32u << 20, m = strlen(patterns[p]);
    uint8_t *bytes = malloc(8 + n);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(bytes + 8, "{\"a\":[", 6);
    for (size_t i = 6; i < n; i++) bytes[8 + i] = (uint8_t)patterns[p][(i - 6) % m];
    ie_table table;
    ie_error error;
    double start = now_s();
    assert_int_equal(parse(bytes, 8 + n, &table, &error), IE_FORMAT);
    assert_true(emulated() || now_s() - start < 1);
    ie_table_free(&table);
    free(bytes);
  }
}

/* A real header of many tensors (and of metadata full of commas) is not taken for one of those. */
static void large_header_is_read(void **state) {
  (void)state;
  enum { COUNT = 20000 };
  ie_buf header = {0};
  ie_buf_append_str(&header, "{\"__metadata__\":{\"json\":\"");
  for (int i = 0; i < 700000; i++) ie_buf_append_str(&header, i % 2 ? "\\\"" : "[,");
  ie_buf_append_str(&header, "\"}");
  for (int i = 0; i < COUNT; i++)
    ie_buf_printf(&header, ",\"t%d\":{\"dtype\":\"U8\",\"shape\":[1,1,1],\"data_offsets\":[%d,%d]}", i, i,
                  i + 1);
  ie_buf_append_char(&header, '}');
  assert_false(header.failed);
  size_t size;
  uint8_t *bytes = file_make(header.data, COUNT, &size);
  ie_table table;
  ie_error error;
  assert_int_equal(parse(bytes, size, &table, &error), IE_OK);
  assert_int_equal(table.count, COUNT);
  const ie_tensor_info *t = ie_table_find(&table, "t12345");
  assert_non_null(t);
  assert_int_equal(*(const uint8_t *)t->data, 12345 & 255);
  ie_table_free(&table);
  ie_buf_free(&header);
  free(bytes);
}

static void long_names_do_not_break_messages(void **state) {
  (void)state;
  char header[4096], name[3001];
  for (size_t i = 0; i < 3000; i += 3) memcpy(name + i, "\xE2\x82\xAC", 3);
  name[3000] = '\0';
  snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"F99\"}}", name);
  size_t size;
  uint8_t *bytes = file_make(header, 0, &size);
  ie_table table;
  ie_error error;
  assert_int_equal(parse(bytes, size, &table, &error), IE_FORMAT);
  assert_non_null(
      strstr(error.message, "unknown dtype 'F99'")); /* the name was shortened, the reason is there */
  ie_table_free(&table);
  free(bytes);
}

static void dtype_names(void **state) {
  (void)state;
  assert_int_equal(ie_dtype_bytes(IE_DTYPE_NONE), 0);
  assert_int_equal(ie_dtype_bytes((ie_dtype)-1), 0);
  assert_int_equal(ie_dtype_bytes(IE_DTYPE_COUNT), 0);
  assert_string_equal(ie_dtype_name((ie_dtype)1000), "none");
  assert_int_equal(ie_dtype_from_name(NULL), IE_DTYPE_NONE);
  assert_int_equal(ie_dtype_from_name("bogus"), IE_DTYPE_NONE);
  for (int i = 1; i < IE_DTYPE_COUNT; i++) {
    assert_int_equal(ie_dtype_from_name(ie_dtype_name((ie_dtype)i)), i);
    assert_true(ie_dtype_bytes((ie_dtype)i) > 0);
  }
  assert_int_equal(ie_dtype_bytes(IE_BF16), 2);
  assert_int_equal(ie_dtype_bytes(IE_I64), 8);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(dtype_names),
      cmocka_unit_test_setup_teardown(round_trip, setup, teardown),
      cmocka_unit_test_setup_teardown(empty_file, setup, teardown),
      cmocka_unit_test_setup_teardown(write_refuses, setup, teardown),
      cmocka_unit_test_setup_teardown(open_refuses, setup, teardown),
      cmocka_unit_test(damage_is_named),
      cmocka_unit_test(cut_at_every_byte),
      cmocka_unit_test(bit_flips),
      cmocka_unit_test_setup_teardown(huge_header_is_refused_at_once, setup, teardown),
      cmocka_unit_test(dense_header_is_refused_at_once),
      cmocka_unit_test(large_header_is_read),
      cmocka_unit_test(long_names_do_not_break_messages),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
