#include "support/small_model.h"

#include "support/tempdir.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

json_t *byte_vocab_make(void) {
  json_t *vocab = json_object();
  int next = 256;
  for (int b = 0; b < 256; b++) {
    /* the byte alphabet of GPT-2: printable bytes stand for themselves, the others for U+0100 onwards */
    bool plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    int c = plain ? b : next++;
    char key[3] = {(char)(c < 128 ? c : 0xC0 | c >> 6), (char)(0x80 | (c & 63)), 0};
    if (c < 128) key[1] = 0;
    json_object_set_new(vocab, key, json_integer(b));
  }
  return vocab;
}

/* A folder with the model and a tokenizer of single bytes: ids 0 to 255, then <|start|>, <|end|>, <|pad|>. */
char *text_model_make(void) {
  char *dir = tempdir_make(), path[1024], link[1024], where[1024];
  static const char *const files[] = {"config.json", "generation_config.json", "model.safetensors"};
  assert_non_null(getcwd(where, sizeof where / 2));
  for (size_t i = 0; i < 3; i++) {
    snprintf(path, sizeof path, "%.400s/%s/%s", where, SMALL_MODEL, files[i]);
    snprintf(link, sizeof link, "%s/%s", dir, files[i]);
    assert_int_equal(symlink(path, link), 0);
  }
  json_t *vocab = byte_vocab_make();
  json_t *root = json_pack(
      "{s:s, s:[{s:i,s:s,s:b,s:b,s:b,s:b,s:b},{s:i,s:s,s:b,s:b,s:b,s:b,s:b}], s:n, s:{s:s,s:b,s:b,s:b}, "
      "s:{s:s,s:b,s:b,s:b}, s:{s:s,s:o,s:[]}}",
      "version", "1.0", "added_tokens", "id", 256, "content", "<|start|>", "single_word", 0, "lstrip", 0,
      "rstrip", 0, "normalized", 0, "special", 1, "id", 257, "content", "<|end|>", "single_word", 0, "lstrip",
      0, "rstrip", 0, "normalized", 0, "special", 1, "normalizer", "pre_tokenizer", "type", "ByteLevel",
      "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1, "decoder", "type", "ByteLevel",
      "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1, "model", "type", "BPE", "vocab", vocab,
      "merges");
  assert_non_null(root);
  snprintf(path, sizeof path, "%s/tokenizer.json", dir);
  assert_int_equal(json_dump_file(root, path, 0), 0);
  json_decref(root);
  return dir;
}

json_t *result_row(json_t *result, size_t i) {
  json_t *row = json_array_get(json_object_get(result, "rows"), i);
  assert_non_null(row);
  return row;
}

/* The new ids of one row, as JSON text; the caller frees it. */
char *result_new_ids(json_t *result, size_t row) {
  char *text = json_dumps(json_object_get(result_row(result, row), "new_ids"), JSON_COMPACT);
  assert_non_null(text);
  return text;
}

void result_ids_equal(json_t *a, size_t row_a, json_t *b, size_t row_b) {
  char *x = result_new_ids(a, row_a), *y = result_new_ids(b, row_b);
  assert_string_equal(x, y);
  free(x);
  free(y);
}

/* Every number of a JSON value is finite, which jansson's parser makes sure of, and none is null. */
void result_no_nulls(const json_t *value) {
  const char *key;
  json_t *item;
  size_t i;
  assert_false(json_is_null(value));
  json_array_foreach(value, i, item) result_no_nulls(item);
  json_object_foreach((json_t *)(uintptr_t)value, key, item) result_no_nulls(item);
}

int64_t result_integer(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  if (!json_is_integer(value)) fail_msg("%s is no integer", key);
  return json_integer_value(value);
}

ie_tensor_file *tensors_open(const char *path) {
  ie_tensor_file *file;
  ie_error error = {0};
  if (ie_tensor_file_open(path, &file, &error) != IE_OK) fail_msg("%s", error.message);
  return file;
}

void iebin_pack(const char *dir) {
  ie_error error;
  ie_tensor_file *file;
  char path[512];
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  assert_int_equal(ie_tensor_file_open(path, &file, &error), IE_OK);
  char *bytes = calloc(1, 1 << 20);
  size_t size = 0;
  json_t *tensors = json_array();
  for (size_t i = 0; i < ie_tensor_file_count(file); i++) {
    const ie_tensor_info *t = ie_tensor_file_at(file, i);
    json_t *shape = json_array();
    size = (size + 63) / 64 * 64;
    for (int k = 0; k < t->rank; k++) json_array_append_new(shape, json_integer(t->shape[k]));
    json_array_append_new(tensors, json_pack("{s:s, s:s, s:o, s:I, s:I}", "name", t->name, "dtype",
                                             ie_dtype_name(t->dtype), "shape", shape, "nbytes",
                                             (json_int_t)t->bytes, "offset", (json_int_t)size));
    memcpy(bytes + size, t->data, t->bytes);
    size += t->bytes;
  }
  json_t *root = json_pack("{s:i, s:s, s:s, s:o}", "version", 1, "dtype", "bf16", "weights_bin",
                           "model.ie.bin", "tensors", tensors);
  char *text = json_dumps(root, 0);
  tempdir_write_text(dir, "model.ie.json", text);
  tempdir_write(dir, "model.ie.bin", bytes, size);
  free(text);
  free(bytes);
  json_decref(root);
  ie_tensor_file_free(file);
  assert_int_equal(remove(path), 0);
}
