/* Damaged configs and weights of every architecture and layout, through the program: exit status 1 or 2, and a message
 * that names the place; no crash, no endless loop, no answer. */
#include "clocher/model.h"
#include "support/emulated.h"
#include "support/program.h"
#include "support/tempdir.h"

#include <dirent.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct subject {
  const char *name;
  const char *config;  /* the file */
  const char *inner;   /* the object in it that holds the dimensions, or NULL */
  const char *weights; /* the first file of weights */
  const char *tensor;  /* a matrix of the last layer in it */
} subject;

static const subject subjects[] = {
    {"gpt-oss-hf", "config.json", NULL, "model.safetensors", "model.layers.2.self_attn.k_proj.weight"},
    {"gpt-oss-bf16", "config.json", NULL, "model-00001-of-00003.safetensors",
     "model.layers.2.self_attn.k_proj.weight"},
    {"gpt-oss-original", "config.json", NULL, "model.safetensors", "block.2.attn.qkv.weight"},
    {"qwen2", "config.json", NULL, "model.safetensors", "model.layers.1.self_attn.q_proj.weight"},
    {"qwen3", "config.json", NULL, "model.safetensors", "model.layers.1.mlp.up_proj.weight"},
    {"qwen3-bin", "config.json", NULL, "pytorch_model-00002-of-00002.bin",
     "model.layers.1.mlp.up_proj.weight"},
    {"llama3", "config.json", NULL, "model.safetensors", "model.layers.1.mlp.down_proj.weight"},
    {"gpt-neox-parallel", "config.json", NULL, "model.safetensors",
     "gpt_neox.layers.1.attention.query_key_value.weight"},
    {"gpt-neox-sequential", "config.json", NULL, "model.safetensors",
     "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"},
    {"nanochat-hf", "config.json", NULL, "model.safetensors", "model.layers.1.mlp.fc1.weight"},
    {"nanochat-native", "meta_000120.json", "model_config", "model_000120.pt",
     "transformer.h.1.mlp.c_fc.weight"},
};
enum { SUBJECTS = sizeof subjects / sizeof subjects[0] };

/* ---- a model to be damaged ---- */

/* A folder of links to the model's files; what is to be damaged replaces its link. */
static char *model_link(const subject *s) {
  char *dir = tempdir_make(), from[1024], where[512];
  assert_non_null(getcwd(where, sizeof where));
  snprintf(from, sizeof from, "tests/data/models/%s", s->name);
  DIR *stream = opendir(from);
  assert_non_null(stream);
  for (struct dirent *entry; (entry = readdir(stream)) != NULL;) {
    if (entry->d_name[0] == '.' || strncmp(entry->d_name, "reference", 9) == 0) continue;
    snprintf(from, sizeof from, "%.400s/tests/data/models/%.60s/%.200s", where, s->name, entry->d_name);
    assert_int_equal(symlink(from, tempdir_path(dir, entry->d_name)), 0);
  }
  closedir(stream);
  return dir;
}

static char *file_read(const char *dir, const char *name, size_t *size) {
  FILE *file = fopen(tempdir_path(dir, name), "rb");
  assert_non_null(file);
  char *bytes = malloc(1 << 20);
  *size = fread(bytes, 1, 1 << 20, file);
  assert_true(*size < 1 << 20);
  fclose(file);
  return bytes;
}

static void file_replace(const char *dir, const char *name, const void *bytes, size_t size) {
  assert_int_equal(unlink(tempdir_path(dir, name)), 0);
  tempdir_write(dir, name, bytes, size);
}

/* Runs the model: refused, with `named` in the message. may_pass: damage that need not show. Removes dir. */
static void expect_refusal(char *dir, const char *what, const char *named, bool may_pass) {
  program_result r = program_run("run --model-dir %s --ids 5,6,7 --max-new 2 --greedy --print-ids", dir);
  bool refused = (r.code == 1 || r.code == 2) && strstr(r.err, named) && strstr(r.err, "clocher:");
  if (!refused && !(may_pass && r.code == 0))
    fail_msg("%s: exit %d, '%s', expected %s", what, r.code, r.err, named);
  program_free(&r);
  tempdir_remove(dir);
}

/* ---- configs ---- */

typedef struct config_case {
  const char *key, *native, *value; /* native: the key in nanochat's own file, or NULL; value NULL: removed */
  const char *named;                /* NULL: the key */
  const char *only;                 /* models whose name starts so, or NULL */
} config_case;

static const config_case config_cases[] = {
    {"num_hidden_layers", "n_layer", NULL, NULL, NULL},
    {"num_hidden_layers", "n_layer", "0", NULL, NULL},
    {"num_hidden_layers", "n_layer", "-1", NULL, NULL},
    {"num_hidden_layers", "n_layer", "2147483648", NULL, NULL},
    {"num_hidden_layers", "n_layer", "1e308", NULL, NULL},
    {"num_hidden_layers", "n_layer", "\"2\"", NULL, NULL},
    {"num_hidden_layers", "n_layer", "[2]", NULL, NULL},
    {"num_hidden_layers", "n_layer", "true", NULL, NULL},
    {"num_hidden_layers", "n_layer", "4000", "", NULL}, /* a tensor is missing, or layer_types too short */
    {"hidden_size", "n_embd", NULL, NULL, NULL},
    {"hidden_size", "n_embd", "0", NULL, NULL},
    {"hidden_size", "n_embd", "1073741824", NULL, NULL},
    {"hidden_size", "n_embd", "{}", NULL, NULL},
    {"hidden_size", "n_embd", "96.5", NULL, NULL},
    {"hidden_size", "n_embd", "80", "expected",
     NULL}, /* by whom depends: a tensor's shape, or what must fit */
    {"num_attention_heads", "n_head", NULL, NULL, NULL},
    {"num_attention_heads", "n_head", "0", NULL, NULL},
    {"num_attention_heads", "n_head", "4096", "expected", NULL},
    {"num_key_value_heads", "n_kv_head", "0", NULL, NULL},
    {"num_key_value_heads", "n_kv_head", "-1", NULL, NULL},
    {"num_key_value_heads", "n_kv_head", "null", "",
     "gpt-oss"}, /* as many as query heads: a tensor's shape */
    {"num_key_value_heads", "n_kv_head", "4", "expected", NULL},
    {"vocab_size", "vocab_size", NULL, NULL, NULL},
    {"vocab_size", "vocab_size", "0", NULL, NULL},
    {"vocab_size", "vocab_size", "1000000000000", NULL, NULL},
    {"vocab_size", "vocab_size", "200", "expected shape [200, ", NULL},
    {"max_position_embeddings", "sequence_len", "0", NULL, NULL},
    {"max_position_embeddings", "sequence_len", "\"x\"", NULL, NULL},
    {"intermediate_size", NULL, NULL, NULL, NULL},
    {"intermediate_size", NULL, "7", "expected", NULL},
    {"head_dim", NULL, "0", NULL, NULL},
    {"head_dim", NULL, "-4", NULL, NULL},
    {"head_dim", NULL, "13", NULL, NULL},
    {"head_dim", NULL, "1000000", NULL, NULL},
    {"rope_theta", NULL, "\"x\"", NULL, NULL},
    {"rope_theta", NULL, "0", NULL, NULL},
    {"rope_parameters", NULL, "{\"rope_type\":\"unheard_of\",\"partial_rotary_factor\":1}", "unheard_of",
     NULL},
    {"rope_parameters", NULL, "3", NULL, NULL},
    {"rope_scaling", NULL, "\"x\"", NULL, NULL},
    {"rms_norm_eps", "rms_norm_eps", "\"x\"", NULL, "nanochat"},
    {"rms_norm_eps", NULL, "-1", NULL, "qwen"},
    {"rms_norm_eps", NULL, "2", NULL, "llama"},
    {"layer_norm_eps", NULL, "[]", NULL, "gpt-neox"},
    {"model_type", NULL, "\"unheard_of\"", "unheard_of", NULL},
    {"hidden_act", NULL, "\"mish\"", "mish", "gpt-neox"},
    {"hidden_act", NULL, "7", NULL, "gpt-neox"},
    {"hidden_act", NULL, "\"gelu\"", "relu2", "nanochat-hf"},
    {"use_parallel_residual", NULL, "3", NULL, "gpt-neox"},
    {"rope_parameters", NULL, "{\"partial_rotary_factor\":7}", "partial_rotary_factor", "gpt-neox"},
    {"rope_parameters", NULL, "{\"rope_type\":\"llama3\",\"factor\":0}", "factor", "llama"},
    {"final_logit_softcapping", NULL, "-1", NULL, "nanochat-hf"},
    {"tie_word_embeddings", NULL, "\"yes\"", NULL, "qwen"},
    {"num_local_experts", NULL, "0", NULL, "gpt-oss-hf"},
    {"num_experts_per_tok", NULL, "99", NULL, "gpt-oss-hf"},
    {"sliding_window", NULL, "-5", NULL, "gpt-oss-hf"},
    {"layer_types", NULL, "[1]", NULL, "gpt-oss-hf"},
    {NULL, "window_pattern", "\"SSSL\"", NULL, "nanochat-native"},
    {NULL, "window_pattern", "5", NULL, "nanochat-native"},
    {NULL, "n_head", "3", NULL, "nanochat-native"}, /* 40 wide */
};

/* Sets key of the config to a JSON value, or removes it. */
static void config_set(const subject *s, const char *dir, const char *key, const char *value) {
  json_t *root = json_load_file(tempdir_path(dir, s->config), 0, NULL);
  assert_non_null(root);
  json_t *object = s->inner ? json_object_get(root, s->inner) : root;
  if (value)
    assert_int_equal(json_object_set_new(object, key, json_loads(value, JSON_DECODE_ANY, NULL)), 0);
  else
    json_object_del(object, key);
  char *text = json_dumps(root, 0);
  file_replace(dir, s->config, text, strlen(text));
  free(text);
  json_decref(root);
}

/* OpenAI's own config has other keys for some of these; what it does not have cannot be damaged. */
static bool case_applies(const subject *s, const config_case *c) {
  if (c->only && strncmp(s->name, c->only, strlen(c->only)) != 0) return false;
  if (strcmp(s->name, "gpt-oss-original") == 0)
    return c->key && (!strncmp(c->key, "num_", 4) || !strcmp(c->key, "head_dim") ||
                      !strcmp(c->key, "vocab_size") || !strcmp(c->key, "hidden_size"));
  return s->inner ? c->native != NULL : c->key != NULL;
}

static void configs_are_refused(void **state) {
  const subject *s = *state;
  const size_t step = (size_t)emulated_step(4); /* from another first case for each model */
  size_t count = 0;
  for (size_t i = (size_t)(s - subjects) % step; i < sizeof config_cases / sizeof config_cases[0];
       i += step) {
    const config_case *c = &config_cases[i];
    const char *key = s->inner ? c->native : c->key;
    char what[256];
    if (!case_applies(s, c)) continue;
    char *dir = model_link(s);
    snprintf(what, sizeof what, "%s: %s = %s", s->name, key, c->value ? c->value : "(removed)");
    config_set(s, dir, key, c->value);
    expect_refusal(dir, what, c->named ? c->named : key, /*may_pass=*/false);
    count++;
  }
  assert_true(count >= 15 / step);
}

static void config_files_are_refused(void **state) {
  const subject *s = *state;
  static const char *const texts[] = {
      "",  "{", "[]", "5", "null", "{\"hidden_size\": NaN}", "{\"hidden_size\": 1e999}", "{\"a\": \"\xff\"}",
      "{}"};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    char *dir = model_link(s);
    file_replace(dir, s->config, texts[i], strlen(texts[i]));
    expect_refusal(dir, texts[i], s->config, false);
  }
  char *deep = malloc(200001);
  memset(deep, '[', 200000);
  deep[200000] = '\0';
  char *dir = model_link(s);
  file_replace(dir, s->config, deep, 200000);
  free(deep);
  expect_refusal(dir, "deep", s->config, false);
  dir = model_link(s);
  assert_int_equal(unlink(tempdir_path(dir, s->config)), 0);
  expect_refusal(dir, "missing", s->config, false);
  dir = model_link(s);
  assert_int_equal(unlink(tempdir_path(dir, s->config)), 0);
  assert_int_equal(mkdir(tempdir_path(dir, s->config), 0700), 0);
  expect_refusal(dir, "a folder", s->config, false);
}

/* ---- weights ---- */

static void cut_weights_are_refused(void **state) {
  const subject *s = *state;
  static const double parts[] = {0, 1e-5, 5e-4, 0.01, 0.3, 0.9, 0.9999};
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
    size_t size;
    char *dir = model_link(s), *bytes = file_read(dir, s->weights, &size);
    file_replace(dir, s->weights, bytes, (size_t)((double)size * parts[i]));
    free(bytes);
    expect_refusal(dir, "cut", s->weights, false);
  }
  char *dir = model_link(s);
  assert_int_equal(unlink(tempdir_path(dir, s->weights)), 0);
  expect_refusal(dir, "missing", dir, false);
}

/* Changes one tensor in the header of a safetensors file: a value of its entry, or (key NULL) its name. */
static void header_change(const subject *s, const char *dir, const char *key, const char *value) {
  size_t size;
  char *bytes = file_read(dir, s->weights, &size);
  uint64_t length;
  memcpy(&length, bytes, 8); /* the machines of the tests are little-endian */
  json_t *root = json_loadb(bytes + 8, (size_t)length, 0, NULL);
  assert_non_null(root);
  if (key) {
    json_t *tensor = json_object_get(root, s->tensor);
    assert_non_null(tensor);
    json_object_set_new(tensor, key, json_loads(value, JSON_DECODE_ANY, NULL));
  } else {
    json_t *tensor = json_incref(json_object_get(root, s->tensor));
    assert_non_null(tensor);
    json_object_del(root, s->tensor);
    json_object_set_new(root, "another.name", tensor);
  }
  char *text = json_dumps(root, JSON_COMPACT);
  uint64_t written = (strlen(text) + 7) / 8 * 8; /* the data stays aligned */
  char *out = malloc(8 + written + size);
  memset(out, ' ', 8 + written);
  memcpy(out, &written, 8);
  memcpy(out + 8, text, strlen(text));
  memcpy(out + 8 + written, bytes + 8 + length, size - 8 - length);
  file_replace(dir, s->weights, out, 8 + written + size - 8 - length);
  free(out);
  free(text);
  free(bytes);
  json_decref(root);
}

/* The same in a PyTorch file: another name, then one more in the shape. */
static void torch_tensor_change(const subject *s) {
  for (int shape = 0; shape < 2; shape++) {
    size_t size;
    char *dir = model_link(s), *bytes = file_read(dir, s->weights, &size);
    char *name = memmem(bytes, size, s->tensor, strlen(s->tensor));
    assert_non_null(name);
    char *id = memchr(name, 'Q', (size_t)(bytes + size - name)); /* BINPERSID; offset and shape follow */
    assert_non_null(id);
    char *tuple = memchr(id, (char)0x86, 16); /* TUPLE2 */
    assert_non_null(tuple);
    if (shape)
      tuple[-1]++;
    else
      name[strlen(s->tensor) - 1] = 'x';
    file_replace(dir, s->weights, bytes, size);
    free(bytes);
    char cut[128]; /* the old name without its last letter stands in either message */
    snprintf(cut, sizeof cut, "%.*s", (int)strlen(s->tensor) - 1, s->tensor);
    expect_refusal(dir, shape ? "another shape" : "another name", cut, false);
  }
}

static void other_tensors_are_refused(void **state) {
  const subject *s = *state;
  static const struct {
    const char *key, *value;
  } cases[] = {
      {NULL, NULL},
      {"shape", "[3, 5]"},
      {"shape", "[-72, 72]"},
      {"shape", "[1099511627776, 1099511627776]"},
      {"shape", "[\"a\", \"b\"]"},
      {"dtype", "\"F13\""},
      {"dtype", "\"I8\""},
      {"dtype", "5"},
      {"data_offsets", "[-8, 10]"},
      {"data_offsets", "[4611686018427387904, 4611686018427387914]"},
  };
  if (!strstr(s->weights, ".safetensors")) {
    torch_tensor_change(s);
    return;
  }
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char *dir = model_link(s);
    header_change(s, dir, cases[i].key, cases[i].value);
    expect_refusal(dir, cases[i].key ? cases[i].value : "missing", s->tensor, false);
  }
}

/* Bits of the part that describes the tensors; damage in a name may stay unseen where nobody asks for it. */
static void flipped_bits_are_answered(void **state) {
  const subject *s = *state;
  uint64_t random = 12345;
  for (int round = 0; round < 12; round += emulated_step(4)) {
    size_t size, part;
    char *dir = model_link(s), *bytes = file_read(dir, s->weights, &size);
    part = size / 4 < 3000 ? size / 4 : 3000;
    for (int i = 0; i < 3; i++) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      size_t bit = (size_t)(random >> 33) % (8 * part);
      bytes[bit / 8] = (char)(bytes[bit / 8] ^ (1 << bit % 8));
    }
    file_replace(dir, s->weights, bytes, size);
    free(bytes);
    expect_refusal(dir, "flipped bits", "", /*may_pass=*/true);
  }
}

/* A matrix of the last layer becomes NaN: the layer is named, and no token comes. */
static void weights_that_are_not_numbers_are_named(void **state) {
  const subject *s = *state;
  char *dir = model_link(s), layer[32];
  size_t size, offset = 0, bytes = 0;
  ie_inspection *inspection;
  ie_error error;
  assert_int_equal(ie_inspect_open(dir, &inspection, &error), IE_OK);
  for (size_t i = 0; i < ie_inspect_tensor_count(inspection); i++) {
    const ie_tensor_info *t = ie_inspect_tensor(inspection, i);
    if (strcmp(t->name, s->tensor) != 0) continue;
    offset = (size_t)t->offset;
    bytes = t->bytes;
  }
  snprintf(layer, sizeof layer, "layer %lld", (long long)ie_inspect_info(inspection)->layers - 1);
  ie_inspect_free(inspection);
  assert_true(bytes > 0);
  char *file = file_read(dir, s->weights, &size);
  memset(file + offset, 0xFF, bytes); /* NaN in bf16, f16 and f32 */
  file_replace(dir, s->weights, file, size);
  free(file);
  expect_refusal(dir, "NaN", layer, false);
}

static const struct {
  const char *name;
  CMUnitTestFunction function;
} checks[] = {
    {"configs_are_refused", configs_are_refused},
    {"config_files_are_refused", config_files_are_refused},
    {"cut_weights_are_refused", cut_weights_are_refused},
    {"other_tensors_are_refused", other_tensors_are_refused},
    {"flipped_bits_are_answered", flipped_bits_are_answered},
    {"weights_that_are_not_numbers_are_named", weights_that_are_not_numbers_are_named},
};
enum { CHECKS = sizeof checks / sizeof checks[0] };

int main(void) {
  static struct CMUnitTest tests[SUBJECTS * CHECKS];
  static char names[SUBJECTS * CHECKS][128];
  int t = 0;
  for (int s = 0; s < SUBJECTS; s++)
    for (int c = 0; c < CHECKS; c++, t++) {
      snprintf(names[t], sizeof names[t], "%s %s", checks[c].name, subjects[s].name);
      tests[t] = (struct CMUnitTest){.name = names[t],
                                     .test_func = checks[c].function,
                                     .initial_state = (void *)(uintptr_t)&subjects[s]};
    }
  return _cmocka_run_group_tests("damage", tests, (size_t)t, NULL, NULL);
}
