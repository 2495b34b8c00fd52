/* models/adapter: PEFT's files read and written, new adapters, and the merged model against the reference. */
#include "base/float.h"
#include "base/rng.h"
#include "clocher/clocher.h"
#include "models/adapter.h"
#include "support/golden.h"
#include "support/tempdir.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- adapter_config.json ---- */

static ie_status config_parse(const char *text, ie_adapter_config *out, ie_error *error) {
  return ie_adapter_config_parse(text, strlen(text), "adapter_config.json", out, error);
}

static void config_ok(const char *text, ie_adapter_config *out) {
  ie_error error = {0};
  if (config_parse(text, out, &error) != IE_OK) fail_msg("%s: %s", text, error.message);
}

static void config_refused(const char *text, ie_status status, const char *message) {
  ie_adapter_config c;
  ie_error error = {0};
  ie_status got = config_parse(text, &c, &error);
  if (got != status || !strstr(error.message, message))
    fail_msg("%s: status %d, expected '%s', found: %s", text, (int)got, message, error.message);
  assert_null(c.root);
}

static void configs_refused(void **state) {
  (void)state;
#define T "\"target_modules\":[\"q\"]"
  config_refused("", IE_FORMAT, "adapter_config.json");
  config_refused("[]", IE_FORMAT, "expected an object, found an array");
  config_refused("{}", IE_FORMAT, "target_modules");
  config_refused("{\"target_modules\":[]}", IE_FORMAT, "target_modules");
  config_refused("{\"target_modules\":[1]}", IE_FORMAT, "target_modules");
  config_refused("{" T ",\"peft_type\":\"IA3\"}", IE_UNSUPPORTED, "'IA3'");
  config_refused("{" T ",\"bias\":\"all\"}", IE_UNSUPPORTED, "bias");
  config_refused("{" T ",\"r\":0}", IE_FORMAT, "r");
  config_refused("{" T ",\"r\":\"8\"}", IE_FORMAT, "r");
  config_refused("{" T ",\"lora_alpha\":-1}", IE_FORMAT, "lora_alpha");
  config_refused("{" T ",\"use_dora\":true}", IE_UNSUPPORTED, "use_dora is true");
  config_refused("{" T ",\"modules_to_save\":[\"lm_head\"]}", IE_UNSUPPORTED,
                 "modules_to_save is [\"lm_head\"]");
  config_refused("{" T ",\"target_parameters\":[\"mlp.experts.gate_up_proj\"]}", IE_UNSUPPORTED,
                 "gate_up_proj");
  config_refused("{" T ",\"trainable_token_indices\":[1]}", IE_UNSUPPORTED, "trainable_token_indices");
  config_refused("{" T ",\"layer_replication\":[[0,2]]}", IE_UNSUPPORTED, "layer_replication");
  config_refused("{" T ",\"init_lora_weights\":\"pissa_niter_4\"}", IE_UNSUPPORTED, "pissa_niter_4");
  config_refused("{" T ",\"rank_pattern\":{\"q\":0}}", IE_FORMAT, "rank_pattern.q");
  config_refused("{" T ",\"rank_pattern\":{\"q\":1.5}}", IE_FORMAT, "rank_pattern.q");
  config_refused("{" T ",\"alpha_pattern\":{\"q\":[]}}", IE_FORMAT, "alpha_pattern.q");
  config_refused("{" T ",\"alpha_pattern\":[]}", IE_FORMAT, "alpha_pattern");
}

static bool matches(const ie_adapter_config *c, const char *module) {
  bool result;
  ie_error error = {0};
  if (ie_adapter_config_matches(c, module, &result, &error) != IE_OK) fail_msg("%s", error.message);
  return result;
}

static void rank_check(const ie_adapter_config *c, const char *module, int64_t r, double alpha,
                       double scale) {
  ie_adapter_rank rank;
  ie_error error = {0};
  if (ie_adapter_config_rank(c, module, &rank, &error) != IE_OK) fail_msg("%s", error.message);
  assert_int_equal(rank.r, r);
  assert_true(rank.alpha == alpha);
  assert_true(fabs(rank.scale - scale) < 1e-12);
}

static void modules_and_ranks(void **state) {
  (void)state;
  ie_adapter_config c;
  config_ok("{\"target_modules\":[\"q_proj\",\"mlp.up\"],\"unknown\":{\"x\":1},\"fan_in_fan_out\":true}", &c);
  assert_true(matches(&c, "model.layers.0.self_attn.q_proj") && matches(&c, "q_proj") &&
              matches(&c, "a.mlp.up"));
  assert_false(matches(&c, "model.xq_proj") || matches(&c, "a.q_proj.b") || matches(&c, "up"));
  rank_check(&c, "q_proj", 8, 8, 1); /* LoraConfig's defaults */
  ie_adapter_config_free(&c);
  config_ok("{\"target_modules\":\"all-linear\",\"r\":4,\"lora_alpha\":6.5,\"use_rslora\":true}", &c);
  assert_true(matches(&c, "anything"));
  rank_check(&c, "anything", 4, 6.5, 3.25);
  ie_adapter_config_free(&c);
  config_ok(
      "{\"target_modules\":\".*\\\\.layers\\\\.(0|2)\\\\.attention\\\\.(dense|query_key_value)\",\"r\":8,"
      "\"lora_alpha\":16,\"rank_pattern\":{\"dense\":2,\"layers\\\\.2\\\\..*\":3,\"a.b\":5},"
      "\"alpha_pattern\":{\"^gpt\\\\.layers\\\\.0.*\":1}}",
      &c);
  assert_true(matches(&c, "gpt.layers.2.attention.dense"));
  assert_false(matches(&c, "gpt.layers.1.attention.dense") || matches(&c, "gpt.layers.2.attention.dense.x"));
  rank_check(&c, "gpt.layers.2.attention.dense", 2, 16, 8); /* the first that matches */
  rank_check(&c, "gpt.layers.2.attention.query_key_value", 3, 16, 16.0 / 3);
  rank_check(&c, "gpt.layers.1.attention.query_key_value", 8, 16, 2);
  rank_check(&c, "gpt.axb", 5, 16, 3.2); /* a key is an expression: '.' is any character */
  rank_check(&c, "gpt.layers.0.x", 8, 1, 0.125);
  rank_check(&c, "x.gpt.layers.0.x", 8, 16, 2); /* '^' stands for the start of the name */
  ie_adapter_config_free(&c);
}

static void expressions_refused(void **state) {
  (void)state;
  static const struct {
    const char *text, *message;
  } cases[] = {{"{\"target_modules\":\"(a\"}", "expression '(a'"},
               {"{\"target_modules\":\"(*LIMIT_MATCH=1)a\"}", "found '(*'"},
               {"{\"target_modules\":\"(a|a)*(a|a)*[^a]\"}", "too long"}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    ie_adapter_config c;
    ie_error error = {0};
    bool result;
    config_ok(cases[i].text, &c);
    assert_int_equal(ie_adapter_config_matches(&c, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                                               &result, &error),
                     IE_FORMAT);
    if (!strstr(error.message, cases[i].message)) fail_msg("%s", error.message);
    ie_adapter_config_free(&c);
  }
}

/* ---- made, written, read ---- */

static const ie_adapter_weight weights[] = {
    {"model.layers.0.self_attn.q_proj.weight", 48, 32, false},
    {"model.layers.0.self_attn.k_proj.weight", 16, 32, false},
    {"model.layers.0.mlp.up_proj.weight", 64, 32, false},
    {"model.layers.1.self_attn.q_proj.weight", 48, 32, false},
    {"lm_head.weight", 100, 32, true},
};
enum { WEIGHTS = sizeof weights / sizeof weights[0] };

static ie_adapter *adapter_ok(const ie_adapter_options *options) {
  ie_adapter *adapter;
  ie_error error = {0};
  if (ie_adapter_create(options, weights, WEIGHTS, &adapter, &error) != IE_OK) fail_msg("%s", error.message);
  return adapter;
}

static void new_adapters(void **state) {
  (void)state;
  static const char *const targets[] = {"q_proj", "lm_head"};
  ie_adapter_options options = {.r = 8, .alpha = 16, .targets = targets, .target_count = 2, .seed = 5};
  ie_adapter *a = adapter_ok(&options);
  assert_int_equal(ie_adapter_count(a), 3);
  assert_string_equal(ie_adapter_at(a, 0)->target, "lm_head.weight");
  assert_null(ie_adapter_at(a, 3));
  assert_null(ie_adapter_find(a, "model.layers.0.self_attn.k_proj.weight"));
  const ie_lora *q = ie_adapter_find(a, "model.layers.1.self_attn.q_proj.weight");
  assert_true(q->rows == 48 && q->cols == 32 && q->r == 8 && q->scale == 2);
  double sum = 0, squares = 0, bound = 1 / sqrt(32.0);
  for (int64_t i = 0; i < 8 * 32; i++) {
    assert_true(fabs((double)q->a[i]) <= bound);
    sum += (double)q->a[i];
    squares += (double)q->a[i] * (double)q->a[i];
  }
  assert_true(fabs(sum / 256) <
              4 * bound / sqrt(3.0 * 256)); /* U(-bound, bound): mean 0, variance bound^2 / 3 */
  assert_true(fabs(squares / 256 / (bound * bound / 3) - 1) < 0.25);
  for (int64_t i = 0; i < 48 * 8; i++) assert_true(q->b[i] == 0);
  /* Drawn by seed and name: not by what else is adapted. */
  options.target_count = 1;
  ie_adapter *b = adapter_ok(&options);
  const ie_lora *same = ie_adapter_find(b, q->target);
  assert_memory_equal(same->a, q->a, 8 * 32 * sizeof(float));
  assert_true(memcmp(ie_adapter_find(b, weights[0].name)->a, q->a, 8 * 32 * sizeof(float)) != 0);
  ie_adapter_free(b);
  options.seed = 6;
  b = adapter_ok(&options);
  assert_true(memcmp(ie_adapter_find(b, q->target)->a, q->a, 8 * 32 * sizeof(float)) != 0);
  ie_adapter_free(b);
  ie_adapter_free(a);
  a = adapter_ok(
      &(ie_adapter_options){.r = 2, .alpha = 3, .rslora = true}); /* all linear layers but the output */
  assert_int_equal(ie_adapter_count(a), 4);
  assert_true(fabs(ie_adapter_at(a, 0)->scale - 3 / sqrt(2.0)) < 1e-12);
  ie_adapter_free(a);
}

static void create_refused(const ie_adapter_options *options, const char *message) {
  ie_adapter *adapter;
  ie_error error = {0};
  assert_int_equal(ie_adapter_create(options, weights, WEIGHTS, &adapter, &error), IE_INVALID_ARGUMENT);
  assert_null(adapter);
  if (!strstr(error.message, message)) fail_msg("expected '%s', found: %s", message, error.message);
}

static void new_adapters_refused(void **state) {
  (void)state;
  static const char *const targets[] = {"q_proj", "query"};
  create_refused(&(ie_adapter_options){.r = 8, .alpha = 16, .targets = targets, .target_count = 2},
                 "called 'query': there are q_proj, k_proj, up_proj, lm_head");
  create_refused(&(ie_adapter_options){.r = 0, .alpha = 16}, "found r 0");
  create_refused(&(ie_adapter_options){.r = 8, .alpha = 0}, "alpha 0");
  create_refused(&(ie_adapter_options){.r = 8, .alpha = 8, .dropout = 1}, "dropout 1");
}

static void equal(const ie_adapter *a, const ie_adapter *b) {
  assert_int_equal(ie_adapter_count(a), ie_adapter_count(b));
  for (size_t i = 0; i < ie_adapter_count(a); i++) {
    const ie_lora *x = ie_adapter_at(a, i), *y = ie_adapter_at(b, i);
    assert_string_equal(x->target, y->target);
    assert_true(x->rows == y->rows && x->cols == y->cols && x->r == y->r && x->scale == y->scale &&
                x->alpha == y->alpha);
    assert_memory_equal(x->a, y->a, (size_t)(x->r * x->cols) * sizeof(float));
    assert_memory_equal(x->b, y->b, (size_t)(x->rows * x->r) * sizeof(float));
  }
  assert_true(json_equal(a->config.root, b->config.root));
}

static ie_adapter *open_ok(const char *dir) {
  ie_adapter *adapter;
  ie_error error = {0};
  if (ie_adapter_open(dir, &adapter, &error) != IE_OK) fail_msg("%s", error.message);
  return adapter;
}

static void written_and_read(void **state) {
  (void)state;
  char *dir = tempdir_make();
  static const char *const targets[] = {"q_proj", "up_proj"};
  ie_error error = {0};
  for (int all = 0; all < 2; all++) {
    const ie_adapter_options options = {.r = 4,
                                        .alpha = all ? 2.5 : 8,
                                        .dropout = 0.05,
                                        .targets = targets,
                                        .target_count = all ? 0 : 2,
                                        .base_model = "x/y"};
    ie_adapter *a = adapter_ok(&options);
    for (size_t i = 0; i < ie_adapter_count(a); i++)
      for (int64_t k = 0; k < ie_adapter_at(a, i)->rows * 4; k++)
        ie_adapter_at(a, i)->b[k] = ie_rng_f32(9, i, (uint64_t)k);
    assert_int_equal(ie_adapter_write(a, tempdir_path(dir, "new/folder"), &error), IE_OK);
    ie_adapter *b = open_ok(tempdir_path(dir, "new/folder"));
    equal(a, b);
    ie_adapter_free(a);
    ie_adapter_free(b);
  }
  tempdir_remove(dir);
}

/* ---- files that contradict themselves ---- */

typedef struct matrix {
  const char *name;
  ie_dtype dtype;
  int64_t rows, cols;
} matrix;

static const char config_r2[] = "{\"r\":2,\"target_modules\":[\"q\"]}";

static void adapter_write(const char *dir, const char *config, const matrix *matrices, size_t count) {
  static const float data[64] = {1, NAN};
  ie_tensor_out out[8] = {0};
  ie_error error;
  for (size_t i = 0; i < count; i++)
    out[i] = (ie_tensor_out){.name = matrices[i].name,
                             .dtype = matrices[i].dtype,
                             .rank = matrices[i].rows ? 2 : 1,
                             .shape = {matrices[i].rows ? matrices[i].rows : 3, matrices[i].cols},
                             .data = data + (matrices[i].rows == 7 ? 0 : 2)};
  tempdir_write_text(dir, "adapter_config.json", config);
  assert_int_equal(ie_tensor_file_write(tempdir_path(dir, "adapter_model.safetensors"), out, count, &error),
                   IE_OK);
}

static void files_refused(void **state) {
  (void)state;
#define A    "base_model.model.m.q.lora_A.weight"
#define B    "base_model.model.m.q.lora_B.weight"
#define BASE "base_model.model.m.q.base_layer.weight" /* as PEFT writes beside an adapter of lm_head */
  static const struct {
    matrix matrices[3];
    ie_status status;
    const char *message;
  } cases[] = {
      {{{A, IE_F32, 2, 5}, {B, IE_F16, 3, 2}}, IE_OK, ""},
      {{{A, IE_F32, 2, 5}, {B, IE_F32, 3, 2}, {BASE, IE_BF16, 3, 5}}, IE_OK, ""},
      {{{A, IE_F32, 2, 5}, {B, IE_F32, 3, 2}, {BASE, IE_BF16, 4, 5}},
       IE_FORMAT,
       "the shape of what its adapter"},
      {{{BASE, IE_BF16, 3, 5}}, IE_FORMAT, "expected base_model.model.MODULE"},
      {{{A, IE_F32, 2, 5}}, IE_FORMAT, "its lora_B is missing"},
      {{{B, IE_F32, 2, 5}}, IE_FORMAT, "its lora_A is missing"},
      {{{A, IE_F32, 2, 5}, {B, IE_F32, 3, 3}}, IE_FORMAT, "expected r = 2"},
      {{{A, IE_F32, 4, 5}, {B, IE_F32, 3, 4}}, IE_FORMAT, "expected r = 2"},
      {{{A, IE_F32, 0, 0}, {B, IE_F32, 3, 2}}, IE_FORMAT, "expected a matrix"},
      {{{A, IE_I8, 2, 5}, {B, IE_F32, 3, 2}}, IE_UNSUPPORTED, "found I8"},
      {{{A, IE_F32, 2, 5}, {B, IE_F32, 7, 2}}, IE_NUMERIC, "element 1 is"},
      {{{"base_model.model.m.k.lora_A.weight", IE_F32, 2, 5},
        {"base_model.model.m.k.lora_B.weight", IE_F32, 3, 2}},
       IE_FORMAT,
       "module m.k is not among target_modules"},
      {{{"m.q.lora_A.weight", IE_F32, 2, 5}}, IE_FORMAT, "expected base_model.model.MODULE"},
      {{{"base_model.model.m.q.weight", IE_F32, 2, 5}}, IE_FORMAT, "expected base_model.model.MODULE"},
      {{{"base_model.model.m.q.lora_embedding_A", IE_F32, 2, 5}}, IE_UNSUPPORTED, "embeddings"},
      {{{"base_model.model.m.q.lora_magnitude_vector", IE_F32, 2, 5}}, IE_UNSUPPORTED, "DoRA"},
      {{{"base_model.model.m.q.lora_B.bias", IE_F32, 2, 5}}, IE_UNSUPPORTED, "bias"},
      {{{NULL, IE_F32, 0, 0}}, IE_FORMAT, "no adapted weights"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char *dir = tempdir_make();
    size_t count = 0;
    while (count < 3 && cases[i].matrices[count].name) count++;
    adapter_write(dir, config_r2, cases[i].matrices, count);
    ie_adapter *adapter;
    ie_error error = {0};
    ie_status status = ie_adapter_open(dir, &adapter, &error);
    if (status != cases[i].status || !strstr(error.message, cases[i].message))
      fail_msg("case %zu: expected '%s', found: %s", i, cases[i].message, error.message);
    ie_adapter_free(adapter);
    tempdir_remove(dir);
  }
  ie_adapter *adapter;
  ie_error error = {0};
  assert_int_equal(ie_adapter_open("tests/data", &adapter, &error), IE_IO);
  assert_non_null(strstr(error.message, "adapter_config.json"));
}

/* ---- merging ---- */

static void row_sums(void **state) {
  (void)state;
  float a[3 * 33], b[5 * 3], out[33], sum[33];
  for (uint64_t i = 0; i < 99; i++) a[i] = 2 * ie_rng_f32(1, 1, i) - 1;
  for (uint64_t i = 0; i < 15; i++) b[i] = 2 * ie_rng_f32(1, 2, i) - 1;
  const ie_lora lora = {.rows = 5, .cols = 33, .r = 3, .scale = 1.5, .a = a, .b = b};
  for (int64_t row = 0; row < 5; row++) {
    for (int c = 0; c < 33; c++) out[c] = (float)c;
    ie_lora_add_row(&lora, row, out, sum);
    for (int c = 0; c < 33; c++) {
      double expected = c;
      for (int k = 0; k < 3; k++) expected += 1.5 * (double)b[row * 3 + k] * (double)a[k * 33 + c];
      assert_true(fabs((double)out[c] - expected) < 1e-5 * (1 + fabs(expected)));
    }
  }
}

static ie_status merge(const char *model, const char *adapter, const char *out, ie_error *error) {
  return ie_adapter_merge(&(ie_adapter_merge_options){.model_dir = model, .adapter_dir = adapter, .out = out},
                          error);
}

static void merge_refused(const char *model, const char *adapter, const char *out, ie_status status,
                          const char *message) {
  ie_error error = {0};
  ie_status got = merge(model, adapter, out, &error);
  if (got != status || !strstr(error.message, message))
    fail_msg("status %d, expected '%s', found: %s", (int)got, message, error.message);
}

static void merges_refused(void **state) {
  (void)state;
  char *dir = tempdir_make(), adapter[600], out[600];
  snprintf(adapter, sizeof adapter, "%s/adapter", dir);
  snprintf(out, sizeof out, "%s/out", dir);
  tempdir_write_text(dir, "adapter/x", "");
  static const char model[] = "tests/data/models/gpt-oss-hf";
#define M "base_model.model.model.layers.0."
  adapter_write(adapter, "{\"r\":2,\"target_modules\":\"all-linear\"}",
                (matrix[]){{M "self_attn.q_proj.lora_A.weight", IE_F32, 2, 5},
                           {M "self_attn.q_proj.lora_B.weight", IE_F32, 3, 2}},
                2);
  merge_refused(model, adapter, out, IE_FORMAT, "is for (3, 5), the model's is");
  merge_refused(model, adapter, model, IE_INVALID_ARGUMENT, "own folder");
  merge_refused("tests/data/models/nothing", adapter, out, IE_IO, "nothing");
  merge_refused(model, dir, out, IE_IO, "adapter_config.json");
  adapter_write(adapter, "{\"r\":2,\"target_modules\":\"all-linear\"}",
                (matrix[]){{M "mlp.experts.gate_up_proj.lora_A.weight", IE_F32, 2, 5},
                           {M "mlp.experts.gate_up_proj.lora_B.weight", IE_F32, 3, 2}},
                2);
  merge_refused(model, adapter, out, IE_UNSUPPORTED, "stored as MXFP4");
  adapter_write(adapter, "{\"r\":2,\"target_modules\":\"all-linear\"}",
                (matrix[]){{"base_model.model.h.c_attn.lora_A.weight", IE_F32, 2, 5},
                           {"base_model.model.h.c_attn.lora_B.weight", IE_F32, 3, 2}},
                2);
  merge_refused(model, adapter, out, IE_FORMAT, "1 weight that the model does not have: h.c_attn.weight");
  ie_error error;
  ie_tensor_file *file;
  assert_int_equal(ie_tensor_file_open(out, &file, &error), IE_IO); /* nothing was begun */
  tempdir_remove(dir);
}

/* The first model of the reference in f32, beside its config. */
static void f32_copy(const char *from, const char *dir) {
  char path[1200];
  ie_error error;
  ie_tensor_file *file;
  ie_tensor_out out[256];
  snprintf(path, sizeof path, "%s/model.safetensors", from);
  assert_int_equal(ie_tensor_file_open(path, &file, &error), IE_OK);
  size_t n = 0;
  for (size_t i = 0; i < ie_tensor_file_count(file); i++) {
    const ie_tensor_info *t = ie_tensor_file_at(file, i);
    assert_true(n < 256);
    out[n] = (ie_tensor_out){.name = t->name, .dtype = t->dtype, .rank = t->rank, .data = t->data};
    memcpy(out[n].shape, t->shape, sizeof t->shape);
    if (t->dtype == IE_F16) {
      float *wide = malloc(2 * t->bytes);
      assert_non_null(wide);
      for (size_t k = 0; k < t->bytes / 2; k++) wide[k] = ie_f16_to_f32(((const uint16_t *)t->data)[k]);
      out[n].dtype = IE_F32;
      out[n].data = wide;
    }
    n++;
  }
  assert_int_equal(ie_tensor_file_write(tempdir_path(dir, "model.safetensors"), out, n, &error), IE_OK);
  for (size_t i = 0; i < n; i++)
    if (out[i].dtype == IE_F32 && ie_tensor_file_get(file, out[i].name)->dtype == IE_F16)
      free((void *)(uintptr_t)out[i].data);
  ie_tensor_file_free(file);
  char text[8192];
  snprintf(path, sizeof path, "%s/config.json", from);
  FILE *in = fopen(path, "rb");
  assert_non_null(in);
  size_t size = fread(text, 1, sizeof text, in);
  fclose(in);
  tempdir_write(dir, "config.json", text, size);
}

static double merged_error(const char *dir, const ie_tensor_file *reference, const char *name) {
  ie_device *device;
  ie_model *model;
  ie_error error = {0};
  const ie_device_options options = {.kind = "cpu", .threads = 1};
  assert_int_equal(ie_device_open(&options, &device, &error), IE_OK);
  if (ie_model_open(device, dir, &(ie_model_options){.precision = IE_PRECISION_FP32}, &model, &error) !=
      IE_OK)
    fail_msg("%s", error.message);
  const ie_tensor_info *ids = ie_tensor_file_get(reference, "ids"),
                       *logits = ie_tensor_file_get(reference, name);
  float *got = golden_logits(model, ids->data, ids->shape[0], 64);
  double e = golden_error(got, logits->data, (int64_t)(logits->bytes / sizeof(float)));
  free(got);
  ie_model_free(model);
  ie_device_free(device);
  return e;
}

/* PEFT's adapter, written by us and read again, merged: the logits of PEFT's merged model. Its weights were f32; in the
 * model's own f16 the sums are rounded, which moved the logits by 7.4e-4. */
static void the_reference_adapter(void **state) {
  (void)state;
  const char *root = getenv("CLOCHER_TEST_DATA");
  if (!root) skip();
  char model[1024], end[1024], path[1200];
  snprintf(model, sizeof model, "%s/golden/models/gpt-neox-parallel", root);
  snprintf(end, sizeof end, "%s/golden/training/adapter_end", root);
  snprintf(path, sizeof path, "%s/golden/training/lora.safetensors", root);
  char *dir = tempdir_make(), wide[600], again[600], out[600];
  snprintf(wide, sizeof wide, "%s/wide", dir);
  snprintf(again, sizeof again, "%s/again", dir);
  snprintf(out, sizeof out, "%s/out", dir);
  ie_adapter *a = open_ok(end), *b;
  ie_error error = {0};
  ie_tensor_file *reference;
  assert_int_equal(ie_adapter_count(a), 6);
  assert_true(ie_adapter_at(a, 0)->scale == 2);
  assert_int_equal(ie_adapter_write(a, again, &error), IE_OK);
  b = open_ok(again);
  equal(a, b);
  assert_int_equal(ie_tensor_file_open(path, &reference, &error), IE_OK);
  tempdir_write_text(dir, "wide/x", "");
  f32_copy(model, wide);
  if (merge(wide, again, out, &error) != IE_OK) fail_msg("%s", error.message);
  assert_true(merged_error(out, reference, "logits_end_merged") < 1e-4);
  assert_true(merged_error(out, reference, "logits_start") > 0.1);
  assert_int_equal(merge(model, end, out, &error), IE_OK);
  assert_true(merged_error(out, reference, "logits_end_merged") < 2e-3);
  ie_tensor_file_free(reference);
  ie_adapter_free(a);
  ie_adapter_free(b);
  tempdir_remove(dir);
}

/* ---- for tools/golden/adapter.py ---- */

/* Writes to OUT the adapter in FROM again; where FROM is a model, a new adapter for its attention and MLP matrices, with
 * a B that is not zero. */
static int adapter_make(const char *from, const char *out) {
  static ie_adapter_weight matrices[256];
  static const char *const targets[] = {"query_key_value", "dense", "dense_h_to_4h"};
  char path[1200];
  ie_error error;
  ie_adapter *adapter = NULL;
  ie_tensor_file *file = NULL;
  snprintf(path, sizeof path, "%s/model.safetensors", from);
  ie_status status = ie_adapter_open(from, &adapter, &error);
  if (status == IE_IO) status = ie_tensor_file_open(path, &file, &error);
  if (file && status == IE_OK) {
    size_t n = 0;
    for (size_t i = 0; i < ie_tensor_file_count(file) && n < 256; i++) {
      const ie_tensor_info *t = ie_tensor_file_at(file, i);
      if (t->rank == 2 && strstr(t->name, ".layers."))
        matrices[n++] = (ie_adapter_weight){.name = t->name, .rows = t->shape[0], .cols = t->shape[1]};
    }
    const ie_adapter_options options = {
        .r = 5, .alpha = 7.5, .targets = targets, .target_count = 3, .seed = 1};
    status = ie_adapter_create(&options, matrices, n, &adapter, &error);
    for (size_t i = 0; status == IE_OK && i < adapter->count; i++)
      for (int64_t k = 0; k < adapter->items[i].rows * 5; k++)
        adapter->items[i].b[k] = ie_rng_f32(2, i, (uint64_t)k) - 0.5f;
  }
  if (status == IE_OK) status = ie_adapter_write(adapter, out, &error);
  if (status != IE_OK) fprintf(stderr, "%s\n", error.message);
  ie_adapter_free(adapter);
  ie_tensor_file_free(file);
  return status != IE_OK;
}

int main(int argc, char **argv) {
  if (argc == 4 && strcmp(argv[1], "--write") == 0) return adapter_make(argv[2], argv[3]);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(configs_refused),      cmocka_unit_test(modules_and_ranks),
      cmocka_unit_test(expressions_refused),  cmocka_unit_test(new_adapters),
      cmocka_unit_test(new_adapters_refused), cmocka_unit_test(written_and_read),
      cmocka_unit_test(files_refused),        cmocka_unit_test(row_sums),
      cmocka_unit_test(merges_refused),       cmocka_unit_test(the_reference_adapter),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
