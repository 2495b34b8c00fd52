/* Models that are damaged or that overflow: every config field out of range is refused by name, and a number that is
 * not finite is named with its layer, never replaced. */
#include "clocher/clocher.h"
#include "support/small_model.h"
#include "support/tempdir.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char source[] = "tests/data/models/gpt-oss-hf";

static void file_copy(const char *dir, const char *name) {
  char from[256];
  snprintf(from, sizeof from, "%s/%s", source, name);
  FILE *file = fopen(from, "rb");
  assert_non_null(file);
  char *bytes = malloc(1 << 20);
  size_t size = fread(bytes, 1, 1 << 20, file);
  fclose(file);
  tempdir_write(dir, name, bytes, size);
  free(bytes);
}

static char *model_copy(void) {
  char *dir = tempdir_make();
  file_copy(dir, "config.json");
  file_copy(dir, "generation_config.json");
  file_copy(dir, "model.safetensors");
  return dir;
}

/* Sets key to a JSON value, or removes it (value NULL). */
static void config_set(const char *dir, const char *key, const char *value) {
  json_t *config = json_load_file(tempdir_path(dir, "config.json"), 0, NULL);
  assert_non_null(config);
  if (value)
    assert_int_equal(json_object_set_new(config, key, json_loads(value, JSON_DECODE_ANY, NULL)), 0);
  else
    json_object_del(config, key);
  char *text = json_dumps(config, 0);
  tempdir_write_text(dir, "config.json", text);
  free(text);
  json_decref(config);
}

static ie_status open_dir(const char *dir, ie_error *error) {
  ie_device *device;
  ie_model *model;
  assert_int_equal(ie_device_open(&(ie_device_options){.threads = 1}, &device, error), IE_OK);
  ie_status status = ie_model_open(device, dir, NULL, &model, error);
  ie_model_free(model);
  ie_device_free(device);
  return status;
}

static void configs_out_of_range_are_named(void **unused) {
  (void)unused;
  static const struct {
    const char *key, *value, *named;
  } cases[] = {
      {"num_hidden_layers", "-1", "num_hidden_layers"},
      {"num_hidden_layers", "2147483648", "num_hidden_layers"},
      {"num_hidden_layers", "1e308", "num_hidden_layers"},
      {"num_hidden_layers", "\"3\"", "num_hidden_layers"},
      {"num_hidden_layers", NULL, "num_hidden_layers"},
      {"num_hidden_layers", "5", "layer_types"},
      {"hidden_size", "1073741824", "hidden_size"},
      {"hidden_size", "1048576", "model.layers.0"},
      {"num_attention_heads", "0", "num_attention_heads"},
      {"num_key_value_heads", "3", "num_key_value_heads"},
      {"head_dim", "-4", "head_dim"},
      {"head_dim", "25", "head_dim"},
      {"head_dim", "1026", "head_dim"},
      {"vocab_size", "1000000000000", "vocab_size"},
      {"vocab_size", "258", "model.embed_tokens.weight"},
      {"num_local_experts", "0", "num_local_experts"},
      {"num_experts_per_tok", "99", "num_experts_per_tok"},
      {"sliding_window", "-5", "sliding_window"},
      {"layer_types", "[\"sliding_attention\"]", "layer_types"},
      {"layer_types", "[\"a\",\"b\",\"c\"]", "layer_types"},
      {"swiglu_limit", "\"no\"", "swiglu_limit"},
      {"rope_theta", "\"x\"", "rope_theta"},
      {"rope_scaling", "{\"rope_type\":\"new\"}", "new"},
      {"rope_scaling", "3", "rope_scaling"},
      {"tie_word_embeddings", "true", "tie_word_embeddings"},
      {"model_type", "\"unheard_of\"", "unheard_of"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char *dir = model_copy();
    ie_error error = {0};
    config_set(dir, cases[i].key, cases[i].value);
    ie_status status = open_dir(dir, &error);
    if (status == IE_OK || !strstr(error.message, cases[i].named))
      fail_msg("%s = %s: status %s, '%s'", cases[i].key, cases[i].value ? cases[i].value : "(absent)",
               ie_status_name(status), error.message);
    tempdir_remove(dir);
  }
}

/* A default that follows from other fields is held to the same range. */
static void computed_defaults_are_checked(void **unused) {
  (void)unused;
  char *dir = model_copy();
  ie_error error = {0};
  config_set(dir, "head_dim", NULL);
  config_set(dir, "hidden_size", "1048576");
  config_set(dir, "num_attention_heads", "1");
  config_set(dir, "num_key_value_heads", "1");
  assert_int_equal(open_dir(dir, &error), IE_FORMAT);
  assert_non_null(strstr(error.message, "head_dim"));
  config_set(dir, "num_attention_heads", "1048576"); /* a head of one dimension */
  assert_int_equal(open_dir(dir, &error), IE_FORMAT);
  assert_non_null(strstr(error.message, "head_dim"));
  tempdir_remove(dir);
}

/* Overwrites the first element of a bf16 tensor. */
static void tensor_poke(const char *dir, const char *name, uint16_t bits) {
  ie_error error;
  ie_tensor_file *file;
  char path[512];
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  assert_int_equal(ie_tensor_file_open(path, &file, &error), IE_OK);
  const ie_tensor_info *t = ie_tensor_file_get(file, name);
  assert_non_null(t);
  assert_int_equal(t->dtype, IE_BF16);
  long offset = (long)t->offset;
  ie_tensor_file_free(file);
  FILE *out = fopen(path, "r+b");
  assert_non_null(out);
  assert_int_equal(fseek(out, offset, SEEK_SET), 0);
  assert_int_equal(fwrite(&bits, sizeof bits, 1, out), 1);
  fclose(out);
}

static void nonfinite_numbers_are_named(void **unused) {
  (void)unused;
  enum { PLUS_INFINITY = 0x7F80, MINUS_INFINITY = 0xFF80, NOT_A_NUMBER = 0x7FC0 };
  static const struct {
    const char *tensor;
    uint16_t bits;
    const char *named;
  } cases[] = {
      {"model.layers.1.mlp.experts.gate_up_proj_bias", PLUS_INFINITY, "layer 1: gate and up of expert 0"},
      {"model.layers.1.mlp.experts.gate_up_proj_bias", MINUS_INFINITY, "layer 1: gate and up of expert 0"},
      {"model.layers.1.mlp.experts.down_proj_bias", NOT_A_NUMBER, "layer 1: residual after the experts"},
      {"model.layers.2.self_attn.o_proj.bias", PLUS_INFINITY, "layer 2: residual after attention"},
      {"model.layers.0.self_attn.sinks", NOT_A_NUMBER, "layer 0: residual after attention"},
      {"model.layers.0.mlp.router.bias", NOT_A_NUMBER, "layer 0: router logits"},
      {"model.norm.weight", PLUS_INFINITY, "logits"},
  };
  int32_t ids[64];
  for (int i = 0; i < 64; i++) ids[i] = 3 * i; /* enough tokens for each expert */
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    for (int isa = 0; ie_device_isa_list()[isa]; isa++) {
      char *dir = model_copy();
      ie_error error = {0};
      ie_device *device;
      ie_model *model;
      ie_state *state;
      tensor_poke(dir, cases[i].tensor, cases[i].bits);
      assert_int_equal(
          ie_device_open(&(ie_device_options){.isa = ie_device_isa_list()[isa]}, &device, &error), IE_OK);
      assert_int_equal(ie_model_open(device, dir, NULL, &model, &error), IE_OK);
      assert_int_equal(ie_state_new(model, NULL, &state, &error), IE_OK);
      ie_status status = ie_state_append(state, 0, ids, 64, NULL, &error);
      if (status != IE_NUMERIC || !strstr(error.message, cases[i].named))
        fail_msg("%s: status %s, '%s'", cases[i].tensor, ie_status_name(status), error.message);
      assert_int_equal(ie_state_length(state, 0), 0);
      ie_state_free(state);
      ie_model_free(model);
      ie_device_free(device);
      tempdir_remove(dir);
    }
  }
}

/* The last logits after three ids, to be freed. */
static float *three_ids(const char *dir, const char *layout, int64_t *vocab) {
  ie_error error = {0};
  ie_device *device;
  ie_model *model;
  ie_state *state;
  assert_int_equal(ie_device_open(NULL, &device, &error), IE_OK);
  if (ie_model_open(device, dir, NULL, &model, &error) != IE_OK) fail_msg("%s", error.message);
  assert_string_equal(ie_model_describe(model)->layout, layout);
  assert_int_equal(ie_state_new(model, NULL, &state, &error), IE_OK);
  assert_int_equal(ie_state_append(state, 0, (const int32_t[]){5, 6, 7}, 3, NULL, &error), IE_OK);
  *vocab = ie_model_describe(model)->vocab;
  float *logits = malloc((size_t)*vocab * sizeof *logits);
  memcpy(logits, ie_state_logits(state), (size_t)*vocab * sizeof *logits);
  ie_state_free(state);
  ie_model_free(model);
  ie_device_free(device);
  return logits;
}

/* As in the reference, a config that names no scheme of rotary positions has YaRN. */
static void no_scheme_is_yarn(void **unused) {
  (void)unused;
  static const char *const schemes[] = {
      NULL, "null",
      "{\"rope_type\":\"yarn\",\"factor\":32,\"beta_fast\":32,\"beta_slow\":1,\"truncate\":false,"
      "\"original_max_position_embeddings\":4096}",
      "{\"rope_type\":\"default\"}"};
  float *logits[4];
  int64_t vocab;
  for (int i = 0; i < 4; i++) {
    char *dir = model_copy();
    config_set(dir, "rope_scaling", schemes[i]);
    logits[i] = three_ids(dir, "hf", &vocab);
    tempdir_remove(dir);
  }
  const size_t bytes = (size_t)vocab * sizeof *logits[0];
  assert_memory_equal(logits[0], logits[2], bytes);
  assert_memory_equal(logits[1], logits[2], bytes);
  assert_memory_not_equal(logits[0], logits[3], bytes);
  for (int i = 0; i < 4; i++) free(logits[i]);
}

static void iebin_gives_the_same_logits(void **unused) {
  (void)unused;
  int64_t vocab;
  char *dir = model_copy();
  float *published = three_ids(dir, "hf", &vocab);
  iebin_pack(dir);
  float *packed = three_ids(dir, "iebin", &vocab);
  assert_memory_equal(published, packed, (size_t)vocab * sizeof *packed);
  free(published);
  free(packed);
  tempdir_remove(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(configs_out_of_range_are_named), cmocka_unit_test(computed_defaults_are_checked),
      cmocka_unit_test(nonfinite_numbers_are_named),    cmocka_unit_test(no_scheme_is_yarn),
      cmocka_unit_test(iebin_gives_the_same_logits),
  };
  return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
