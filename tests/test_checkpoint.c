/* Checkpoints: which files of a folder are taken as weights, and what is refused. */
#include "formats/checkpoint.h"

#include "clocher/tensor.h"
#include "support/tempdir.h"
#include "support/torch_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int setup(void **state) {
  *state = tempdir_make();
  return 0;
}

static int teardown(void **state) {
  tempdir_remove(*state);
  return 0;
}

/* Writes a file of U8 tensors of one byte each; names are separated by spaces, `mark` is their value. */
static void shard(const char *dir, const char *file, const char *names, uint8_t mark) {
  ie_tensor_out out[8] = {{0}};
  char copy[256], *save = NULL;
  size_t count = 0;
  snprintf(copy, sizeof copy, "%s", names);
  for (char *name = strtok_r(copy, " ", &save); name; name = strtok_r(NULL, " ", &save))
    out[count++] = (ie_tensor_out){.name = name, .dtype = IE_U8, .rank = 1, .shape = {1}, .data = &mark};
  const char *path = tempdir_write(dir, file, "", 0); /* makes the folders */
  ie_error error;
  assert_int_equal(ie_tensor_file_write(path, out, count, &error), IE_OK);
}

static void iebin(const char *dir, const char *folder, uint8_t mark) {
  char name[64];
  snprintf(name, sizeof name, "%smodel.ie.bin", folder);
  tempdir_write(dir, name, &mark, 1);
  snprintf(name, sizeof name, "%smodel.ie.json", folder);
  tempdir_write_text(
      dir, name, "{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[1],\"nbytes\":1,\"offset\":0}]}");
}

/* Opens and expects tensor a of that value, in a folder whose name ends so. */
static void expect(const char *dir, const char *folder, size_t count, uint8_t mark) {
  ie_checkpoint *c;
  ie_error error = {0};
  if (ie_checkpoint_open(dir, &c, &error) != IE_OK) fail_msg("%s", error.message);
  assert_int_equal(ie_checkpoint_count(c), count);
  const ie_tensor_info *a = ie_checkpoint_find(c, "a");
  assert_non_null(a);
  assert_int_equal(*(const uint8_t *)a->data, mark);
  const char *found = ie_checkpoint_dir(c);
  size_t n = strlen(found), m = strlen(folder);
  if (n < m || strcmp(found + n - m, folder) != 0) fail_msg("found in %s, expected %s", found, folder);
  assert_null(ie_checkpoint_find(c, "nothing"));
  assert_null(ie_checkpoint_at(c, count));
  for (size_t i = 1; i < count; i++)
    assert_true(strcmp(ie_checkpoint_at(c, i - 1)->name, ie_checkpoint_at(c, i)->name) < 0);
  ie_checkpoint_free(c);
}

/* Opens and expects a refusal whose message has each of the texts (up to a NULL). */
static void refuse(const char *dir, ie_status status, const char *text1, const char *text2) {
  ie_checkpoint *c = (void *)1;
  ie_error error = {0};
  ie_status got = ie_checkpoint_open(dir, &c, &error);
  assert_null(c);
  if (got != status || !strstr(error.message, text1) || (text2 && !strstr(error.message, text2)))
    fail_msg("status %d: %s (expected %d, %s, %s)", got, error.message, status, text1, text2 ? text2 : "");
}

static const char index_ok[] = "{\"metadata\":{\"total_size\":4},\"weight_map\":{\"a\":\"x-1.safetensors\","
                               "\"b\":\"x-1.safetensors\",\"c\":\"x-2.safetensors\"}}";

static void single_file(void **state) {
  shard(*state, "model.safetensors", "a b", 1);
  shard(*state, "reference.safetensors", "a z", 2);
  shard(*state, "model-00001-of-00001.safetensors", "a", 3);
  iebin(*state, "", 4);
  expect(*state, *state, 2, 1);
}

static void index_wins_over_single(void **state) {
  shard(*state, "x-1.safetensors", "a b", 1);
  shard(*state, "x-2.safetensors", "c d", 1); /* d: not in the index, kept */
  shard(*state, "model.safetensors", "a", 2);
  tempdir_write_text(*state, "model.safetensors.index.json", index_ok);
  expect(*state, *state, 4, 1);
}

static void numbered_shards(void **state) {
  shard(*state, "model-00001-of-00002.safetensors", "a", 1);
  refuse(*state, IE_FORMAT, "shard 2 of 2 is missing", "model-00001-of-00002");
  shard(*state, "model-00002-of-00002.safetensors", "b", 1);
  shard(*state, "gradients.safetensors", "a", 2);
  expect(*state, *state, 2, 1);
  shard(*state, "model-00000-of-00002.safetensors", "c", 1); /* as gpt-oss is published */
  expect(*state, *state, 3, 1);
  shard(*state, "model-00001-of-00003.safetensors", "e", 1);
  refuse(*state, IE_FORMAT, "shards of two checkpoints", NULL);
}

static void numbered_shards_with_two_dashes(void **state) {
  shard(*state, "model--00001-of-00002.safetensors", "a", 1);
  shard(*state, "model--00002-of-00002.safetensors", "b", 1);
  expect(*state, *state, 2, 1);
}

static void hostile_shard_numbers(void **state) {
  shard(*state, "model-1-of-99999999999999999999.safetensors", "a", 1);
  refuse(*state, IE_FORMAT, "shard 2 of", "is missing");
}

static void tensor_in_two_shards(void **state) {
  shard(*state, "model-00001-of-00002.safetensors", "a b", 1);
  shard(*state, "model-00002-of-00002.safetensors", "c b", 1);
  refuse(*state, IE_FORMAT, "tensor b stands in two files", "model-00002-of-00002.safetensors");
}

static void lone_file(void **state) {
  shard(*state, "adapter.safetensors", "a", 1);
  expect(*state, *state, 1, 1);
  shard(*state, "hf/model.safetensors", "a", 2); /* a well-known name further down wins over a lone file */
  expect(*state, "/hf", 1, 2);
}

static void nothing_is_listed(void **state) {
  refuse(*state, IE_IO, "no weights", "found no file of weights");
  shard(*state, "reference.safetensors", "a", 1);
  shard(*state, "gradients.safetensors", "a", 1);
  tempdir_write_text(*state, "hf/adapter_model.bin", "x");
  refuse(*state, IE_IO, "gradients.safetensors, reference.safetensors, hf/adapter_model.bin", *state);
  refuse(tempdir_path(*state, "absent"), IE_IO, "no such folder", "absent");
  refuse(tempdir_path(*state, "hf/adapter_model.bin"), IE_IO, "expected a model's folder", NULL);
}

static void folders_in_order(void **state) {
  shard(*state, "original/model.safetensors", "a", 4);
  expect(*state, "/original", 1, 4);
  shard(*state, "hf/original/model.safetensors", "a", 3);
  expect(*state, "/hf/original", 1, 3);
  shard(*state, "hf/model.safetensors", "a", 2);
  expect(*state, "/hf", 1, 2);
  iebin(*state, "", 9); /* IEBIN in DIR wins over what lies below */
  expect(*state, *state, 1, 9);
  shard(*state, "model.safetensors", "a", 1); /* safetensors win over IEBIN beside them */
  expect(*state, *state, 1, 1);
}

/* PyTorch's file of the same tensors. */
static void torch_file(const char *dir, const char *file, const char *names, uint8_t mark) {
  zip_writer zip = {0};
  torch_marks(&zip, names, mark);
  tempdir_write(dir, file, zip.bytes.data, zip.bytes.size);
  zip_free(&zip);
}

static void torch_files_in_order(void **state) {
  torch_file(*state, "model_000010.pt", "a", 9);
  expect(*state, *state, 1, 9);
  torch_file(*state, "pytorch_model-00001-of-00002.bin", "a", 1);
  refuse(*state, IE_FORMAT, "shard 2 of 2 is missing", "pytorch_model.bin.index.json");
  torch_file(*state, "pytorch_model-00002-of-00002.bin", "b", 1);
  expect(*state, *state, 2, 1);
  torch_file(*state, "pytorch_model.bin", "a b c", 2);
  expect(*state, *state, 3, 2);
  torch_file(*state, "x-1.bin", "a b", 3);
  torch_file(*state, "x-2.bin", "c d", 3);
  tempdir_write_text(*state, "pytorch_model.bin.index.json",
                     "{\"weight_map\":{\"a\":\"x-1.bin\",\"b\":\"x-1.bin\",\"c\":\"x-2.bin\"}}");
  expect(*state, *state, 4, 3);
  iebin(*state, "", 5); /* containers made for mapping win over PyTorch's beside them */
  expect(*state, *state, 1, 5);
  shard(*state, "model.safetensors", "a b", 6);
  expect(*state, *state, 2, 6);
}

static void expect_config(const char *dir, const char *name, ie_container container) {
  ie_checkpoint *c;
  ie_error error = {0};
  if (ie_checkpoint_open(dir, &c, &error) != IE_OK) fail_msg("%s", error.message);
  assert_string_equal(ie_checkpoint_config_name(c), name);
  assert_int_equal(ie_checkpoint_container(c), container);
  assert_int_equal(ie_checkpoint_copied_bytes(c), 0);
  assert_false(ie_checkpoint_is_copied(c, ie_checkpoint_at(c, 0)));
  ie_checkpoint_free(c);
}

/* The last step by its number, not by its name; other files of the trainer are no weights. */
static void last_step_is_chosen(void **state) {
  torch_file(*state, "model_000700.pt", "a", 1);
  torch_file(*state, "optim_000900.pt", "a", 2);
  torch_file(*state, "model_.pt", "a", 2);
  torch_file(*state, "model_12a.pt", "a", 2);
  torch_file(*state, "model_9999999999999999999.pt", "a", 2);
  expect_config(*state, "meta_000700.json", IE_CONTAINER_NATIVE);
  expect(*state, *state, 1, 1);
  torch_file(*state, "model_1000000.pt", "a", 3);
  torch_file(*state, "model_000800.pt", "a", 2);
  expect_config(*state, "meta_1000000.json", IE_CONTAINER_NATIVE);
  expect(*state, *state, 1, 3);
  torch_file(*state, "pytorch_model.bin", "a", 4);
  expect_config(*state, "config.json", IE_CONTAINER_TORCH);
}

static void damaged_torch_files_are_named(void **state) {
  torch_file(*state, "pytorch_model-00001-of-00002.bin", "a b", 1);
  tempdir_write_text(*state, "pytorch_model-00002-of-00002.bin", "PK\3\4");
  refuse(*state, IE_FORMAT, "pytorch_model-00002-of-00002.bin", "cut");
  torch_file(*state, "pytorch_model-00002-of-00002.bin", "b c", 1);
  refuse(*state, IE_FORMAT, "tensor b stands in two files", "pytorch_model-00002-of-00002.bin");
}

static void damaged_is_not_skipped(void **state) {
  shard(*state, "hf/model.safetensors", "a", 1);
  tempdir_write_text(*state, "model.safetensors", "damaged, but here");
  refuse(*state, IE_FORMAT, "model.safetensors", "header of");
}

static void iebin_alone(void **state) {
  iebin(*state, "", 5);
  shard(*state, "reference.safetensors", "z", 1); /* not weights, though it is the only safetensors file */
  ie_checkpoint *c;
  ie_error error;
  assert_int_equal(ie_checkpoint_open(*state, &c, &error), IE_OK);
  assert_int_equal(ie_checkpoint_container(c), IE_CONTAINER_IEBIN);
  assert_int_equal(ie_checkpoint_count(c), 1);
  size_t bytes;
  assert_int_equal(ie_checkpoint_file_count(c), 1);
  assert_non_null(strstr(ie_checkpoint_file_at(c, 0, &bytes), "/model.ie.bin"));
  assert_int_equal(bytes, 1);
  assert_null(ie_checkpoint_file_at(c, 1, &bytes));
  ie_checkpoint_free(c);
  assert_int_equal(unlink(tempdir_path(*state, "model.ie.bin")), 0);
  refuse(*state, IE_IO, "model.ie.bin", NULL);
}

static void broken_indices(void **state) {
  static const struct {
    const char *index, *says;
  } cases[] = {
      {"", "not valid JSON"},
      {"[]", "weight_map: expected an object"},
      {"{}", "weight_map: expected an object, found nothing"},
      {"{\"weight_map\":{}}", "weight_map is empty"},
      {"{\"weight_map\":[\"a\"]}", "weight_map: expected an object, found an array"},
      {"{\"weight_map\":{\"a\":3}}", "tensor a: expected a file name, found an integer"},
      {"{\"weight_map\":{\"a\":\"\"}}", "tensor a: ''"},
      {"{\"weight_map\":{\"a\":\"../x-1.safetensors\"}}",
       "'../x-1.safetensors' is not the name of a file in this"},
      {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "'/etc/passwd' is not the name"},
      {"{\"weight_map\":{\"a\":\"..\"}}", "'..' is not the name"},
      {"{\"weight_map\":{\"a\":\".\"}}", "'.' is not the name"},
      {"{\"weight_map\":{\"a\":\"sub/x.safetensors\"}}", "'sub/x.safetensors' is not the name"},
      {"{\"weight_map\":{\"a\":\"x-1.safetensors\",\"a\":\"x-2.safetensors\"}}", "duplicate"},
      {"{\"weight_map\":{\"a\":\"x-9.safetensors\"}}", "x-9.safetensors: cannot open"},
      {"{\"weight_map\":{\"a\":\"x-1.safetensors\",\"q\":\"x-2.safetensors\"}}", "tensor q is missing"},
      {"{\"weight_map\":{\"a\":\"x-2.safetensors\",\"b\":\"x-1.safetensors\"}}", "tensor a should be in x-2"},
  };
  shard(*state, "x-1.safetensors", "a b", 1);
  shard(*state, "x-2.safetensors", "c d", 1);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    tempdir_write_text(*state, "model.safetensors.index.json", cases[i].index);
    refuse(*state, strstr(cases[i].says, "cannot open") ? IE_IO : IE_FORMAT, cases[i].says, *state);
  }
  tempdir_write_text(*state, "model.safetensors.index.json", index_ok);
  expect(*state, *state, 4, 1);
}

static void index_cut_at_every_byte(void **state) {
  shard(*state, "x-1.safetensors", "a b", 1);
  shard(*state, "x-2.safetensors", "c d", 1);
  for (size_t n = 0; n < strlen(index_ok); n++) {
    tempdir_write(*state, "model.safetensors.index.json", index_ok, n);
    refuse(*state, IE_FORMAT, "model.safetensors.index.json", NULL);
  }
}

static void side_files(void **state) {
  shard(*state, "hf/original/model.safetensors", "a", 1);
  tempdir_write_text(*state, "config.json", "{}");
  tempdir_write_text(*state, "hf/original/config.json", "{}");
  tempdir_write_text(*state, "hf/tokenizer.json", "{}");
  ie_checkpoint *c;
  ie_error error;
  assert_int_equal(ie_checkpoint_open(*state, &c, &error), IE_OK);
  char *path;
  assert_int_equal(ie_checkpoint_path(c, "config.json", &path, NULL), IE_OK); /* beside the weights first */
  assert_non_null(path);
  assert_non_null(strstr(path, "/hf/original/config.json"));
  free(path);
  assert_int_equal(ie_checkpoint_path(c, "tokenizer.json", &path, NULL), IE_OK);
  assert_non_null(path);
  assert_non_null(strstr(path, "/hf/tokenizer.json"));
  free(path);
  assert_int_equal(ie_checkpoint_path(c, "generation_config.json", &path, NULL), IE_OK);
  assert_null(path);
  ie_checkpoint_free(c);
  ie_checkpoint_free(NULL);
}

/* The published layouts, from the folder that CLOCHER_TEST_DATA names. */
static void golden_models(void **state) {
  (void)state;
  static const struct {
    const char *name;
    size_t tensors, files;
  } models[] = {
      {"gpt-oss-hf", 79, 1}, {"gpt-oss-original", 63, 1}, {"gpt-oss-bf16", 71, 3}, {"qwen2", 38, 2}};
  const char *data = getenv("CLOCHER_TEST_DATA");
  if (!data || !data[0]) skip();
  for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
    char dir[1024];
    snprintf(dir, sizeof dir, "%s/golden/models/%s", data, models[i].name);
    ie_checkpoint *c;
    ie_error error = {0};
    if (ie_checkpoint_open(dir, &c, &error) != IE_OK) fail_msg("%s", error.message);
    assert_int_equal(ie_checkpoint_count(c), models[i].tensors);
    assert_int_equal(ie_checkpoint_file_count(c), models[i].files);
    ie_checkpoint_free(c);
  }
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      CASE(single_file),
      CASE(index_wins_over_single),
      CASE(numbered_shards),
      CASE(tensor_in_two_shards),
      CASE(numbered_shards_with_two_dashes),
      CASE(hostile_shard_numbers),
      CASE(lone_file),
      CASE(nothing_is_listed),
      CASE(folders_in_order),
      CASE(torch_files_in_order),
      CASE(last_step_is_chosen),
      CASE(damaged_torch_files_are_named),
      CASE(iebin_alone),
      CASE(damaged_is_not_skipped),
      CASE(broken_indices),
      CASE(side_files),
      CASE(index_cut_at_every_byte),
      cmocka_unit_test(golden_models),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
