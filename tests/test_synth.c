/* Synthetic checkpoints: the published tables of tensors, and files that depend on nothing but seed and layout. */
#include "eval/synth.h"

#include "base/file.h"
#include "base/float.h"
#include "clocher/tensor.h"
#include "support/tempdir.h"

#include <jansson.h>
#include <math.h>
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

static void plan_of(const char *arch, const char *layout, synth_plan *plan) {
  ie_error error = {0};
  const ie_synth_options options = {.arch = arch, .layout = layout};
  if (ie_synth_plan_make(&options, plan, &error) != IE_OK) fail_msg("%s", error.message);
}

static const synth_tensor *plan_find(const synth_plan *plan, const char *name) {
  for (size_t i = 0; i < plan->count; i++)
    if (strcmp(plan->tensors[i].out.name, name) == 0) return &plan->tensors[i];
  return NULL;
}

/* Numbers of tensors, bytes and files. gpt-oss, Qwen3 and Llama: those of the real checkpoints, whose sizes are known.
 * GPT-NeoX: from the shapes, with buffers in F32. */
static void published_tables(void **state) {
  (void)state;
  static const struct {
    const char *arch, *layout;
    size_t tensors;
    uint64_t bytes;
    size_t files;
    const char *last_file;
  } real[] = {
      {"gpt-oss-20b", "hf", 459, 13761264768, 3, "model-00002-of-00002.safetensors"},
      {"gpt-oss-20b", "original", 363, 13761264768, 1, "model.safetensors"},
      {"gpt-oss-120b", "hf", 687, 65248815744, 15, "model-00014-of-00014.safetensors"},
      {"gpt-oss-120b", "original", 543, 65248815744, 7, "model--00007-of-00007.safetensors"},
      {"gpt-neox-20b", "hf", 664, 41293687024, 46, "model-00046-of-00046.safetensors"},
      {"pythia-1.4b", "hf", 364, 2929960544, 1, "model.safetensors"},
      {"qwen3-0.6b", "hf", 311, 1503264768, 1, "model.safetensors"},
      {"llama-3.2-1b", "hf", 146, 2471628800, 1, "model.safetensors"},
  };
  for (size_t i = 0; i < sizeof real / sizeof real[0]; i++) {
    synth_plan plan;
    plan_of(real[i].arch, real[i].layout, &plan);
    char name[64];
    ie_synth_file_name(&plan, plan.file_count - 1, name, sizeof name);
    if (plan.count != real[i].tensors || plan.total_bytes != real[i].bytes ||
        plan.file_count != real[i].files || strcmp(name, real[i].last_file) != 0)
      fail_msg("%s %s: %zu tensors, %llu bytes, %zu files, last %s", real[i].arch, real[i].layout, plan.count,
               (unsigned long long)plan.total_bytes, plan.file_count, name);
    ie_synth_plan_free(&plan);
  }
}

static void shapes_of_gptoss(void **state) {
  (void)state;
  static const struct {
    const char *name;
    ie_dtype dtype;
    int rank;
    int64_t shape[4];
  } real[] = {
      {"model.embed_tokens.weight", IE_BF16, 2, {201088, 2880}},
      {"model.layers.23.self_attn.q_proj.weight", IE_BF16, 2, {4096, 2880}},
      {"model.layers.0.self_attn.k_proj.weight", IE_BF16, 2, {512, 2880}},
      {"model.layers.0.self_attn.o_proj.weight", IE_BF16, 2, {2880, 4096}},
      {"model.layers.0.self_attn.sinks", IE_BF16, 1, {64}},
      {"model.layers.0.mlp.router.weight", IE_BF16, 2, {32, 2880}},
      {"model.layers.0.mlp.experts.gate_up_proj_blocks", IE_U8, 4, {32, 5760, 90, 16}},
      {"model.layers.0.mlp.experts.gate_up_proj_scales", IE_U8, 3, {32, 5760, 90}},
      {"model.layers.0.mlp.experts.down_proj_blocks", IE_U8, 4, {32, 2880, 90, 16}},
      {"model.layers.0.mlp.experts.down_proj_bias", IE_BF16, 2, {32, 2880}},
      {"lm_head.weight", IE_BF16, 2, {201088, 2880}},
  };
  synth_plan plan;
  plan_of("gpt-oss-20b", "hf", &plan);
  for (size_t i = 0; i < sizeof real / sizeof real[0]; i++) {
    const synth_tensor *t = plan_find(&plan, real[i].name);
    assert_non_null(t);
    assert_int_equal(t->out.dtype, real[i].dtype);
    assert_int_equal(t->out.rank, real[i].rank);
    for (int d = 0; d < real[i].rank; d++) assert_int_equal(t->out.shape[d], real[i].shape[d]);
  }
  assert_null(plan_find(&plan, "model.layers.24.self_attn.sinks"));
  ie_synth_plan_free(&plan);
}

/* All configs are JSON, and say what the tensors say. */
static void configs_match_tensors(void **state) {
  (void)state;
  for (const char *const *arch = ie_synth_archs(); *arch; arch++) {
    synth_plan plan;
    plan_of(*arch, "hf", &plan);
    json_t *config = json_loads(plan.config.data, JSON_REJECT_DUPLICATES, NULL);
    json_t *generation = json_loads(plan.generation_config.data, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(config);
    assert_non_null(generation);
    assert_non_null(json_object_get(generation, "eos_token_id"));
    assert_true(json_is_string(json_array_get(json_object_get(config, "architectures"), 0)));
    const synth_tensor *embedding = plan_find(&plan, "model.embed_tokens.weight");
    if (!embedding) embedding = plan_find(&plan, "gpt_neox.embed_in.weight");
    assert_non_null(embedding);
    assert_int_equal(json_integer_value(json_object_get(config, "vocab_size")), embedding->out.shape[0]);
    assert_int_equal(json_integer_value(json_object_get(config, "hidden_size")), embedding->out.shape[1]);
    json_int_t layers = json_integer_value(json_object_get(config, "num_hidden_layers"));
    const json_t *types = json_object_get(config, "layer_types");
    if (types) assert_int_equal(json_array_size(types), layers);
    json_decref(config);
    json_decref(generation);
    ie_synth_plan_free(&plan);
  }
}

static void refusals(void **state) {
  (void)state;
  static const struct {
    ie_synth_options options;
    const char *says;
  } cases[] = {
      {{.arch = "gpt-5", .layout = "hf"}, "unknown architecture 'gpt-5', expected gpt-oss-20b"},
      {{.arch = NULL, .layout = "hf"}, "unknown architecture ''"},
      {{.arch = "qwen3-0.6b", .layout = "original"}, "layout 'original', expected hf"},
      {{.arch = "gpt-oss-20b", .layout = NULL}, "expected hf or original"},
      {{.arch = "gpt-oss-20b", .layout = "hf", .layers = -1}, "-1 layers"},
      {{.arch = "gpt-oss-20b", .layout = "hf", .layers = 1001}, "1001 layers"},
      {{.arch = "gpt-oss-20b", .layout = "hf", .dir = ""}, "no folder"},
      {{.arch = "gpt-oss-20b", .layout = "hf"}, "no folder"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    ie_error error = {0};
    assert_int_equal(ie_synth_write(&cases[i].options, &error), IE_INVALID_ARGUMENT);
    if (!strstr(error.message, cases[i].says)) fail_msg("%s, expected: %s", error.message, cases[i].says);
  }
}

/* ---- small models of the same families, written ---- */

static const synth_model small_gptoss = {"small", "gpt_oss", 2, 64, 96, 320, 8, 2, 16, 6, 5000, 5000};
static const synth_model small_neox = {"small", "gpt_neox", 1, 96, 384, 272, 4, 4, 24, 0, 5000, 0};
static const synth_model small_qwen = {"small", "qwen3", 2, 64, 192, 304, 4, 2, 32, 0, 5000, 0};
static const synth_model small_llama = {"small", "llama", 2, 64, 224, 320, 8, 2, 8, 0, 5000, 0};

static void write_small(const synth_model *model, bool original, const char *dir, uint64_t seed,
                        int threads) {
  synth_plan plan;
  ie_error error = {0};
  const ie_synth_options options = {.dir = dir, .seed = seed, .threads = threads};
  if (ie_synth_plan_build(model, original, &plan, &error) != IE_OK ||
      ie_synth_plan_write(&plan, &options, &error) != IE_OK)
    fail_msg("%s", error.message);
  ie_synth_plan_free(&plan);
}

static ie_tensor_file *open_small(const char *dir) {
  ie_tensor_file *file;
  ie_error error = {0};
  if (ie_tensor_file_open(tempdir_path(dir, "model.safetensors"), &file, &error) != IE_OK)
    fail_msg("%s", error.message);
  return file;
}

static bool same_file(const char *dir1, const char *dir2, const char *name) {
  ie_map a, b;
  ie_error error = {0};
  if (ie_map_open(tempdir_path(dir1, name), &a, &error) != IE_OK ||
      ie_map_open(tempdir_path(dir2, name), &b, &error) != IE_OK)
    fail_msg("%s", error.message);
  bool same = a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
  ie_map_close(&a);
  ie_map_close(&b);
  return same;
}

static void threads_do_not_matter(void **state) {
  const synth_model *const small[] = {&small_gptoss, &small_neox, &small_qwen, &small_llama};
  for (size_t i = 0; i < 4; i++) {
    char one[1024], other[1024];
    snprintf(one, sizeof one, "%s/one%zu", (char *)*state, i);
    write_small(small[i], false, one, 7, 1);
    static const int threads[] = {2, 5, 0};
    for (size_t k = 0; k < 3; k++) {
      snprintf(other, sizeof other, "%s/other%zu.%zu", (char *)*state, i, k);
      write_small(small[i], false, other, 7, threads[k]);
      assert_true(same_file(one, other, "model.safetensors"));
      assert_true(same_file(one, other, "config.json"));
      assert_true(same_file(one, other, "generation_config.json"));
    }
    snprintf(other, sizeof other, "%s/seed%zu", (char *)*state, i);
    write_small(small[i], false, other, 8, 2);
    assert_false(same_file(one, other, "model.safetensors"));
  }
}

/* The same numbers under both names; OpenAI's q, k and v stand in one matrix. */
static void layouts_hold_one_model(void **state) {
  static const struct {
    const char *original;
    const char *hf[3];
  } pairs[] = {
      {"embedding.weight", {"model.embed_tokens.weight"}},
      {"block.1.attn.norm.scale", {"model.layers.1.input_layernorm.weight"}},
      {"block.1.attn.qkv.weight",
       {"model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.self_attn.v_proj.weight"}},
      {"block.1.attn.qkv.bias",
       {"model.layers.1.self_attn.q_proj.bias", "model.layers.1.self_attn.k_proj.bias",
        "model.layers.1.self_attn.v_proj.bias"}},
      {"block.1.attn.out.weight", {"model.layers.1.self_attn.o_proj.weight"}},
      {"block.1.attn.out.bias", {"model.layers.1.self_attn.o_proj.bias"}},
      {"block.1.attn.sinks", {"model.layers.1.self_attn.sinks"}},
      {"block.1.mlp.norm.scale", {"model.layers.1.post_attention_layernorm.weight"}},
      {"block.1.mlp.gate.weight", {"model.layers.1.mlp.router.weight"}},
      {"block.1.mlp.gate.bias", {"model.layers.1.mlp.router.bias"}},
      {"block.1.mlp.mlp1_weight.blocks", {"model.layers.1.mlp.experts.gate_up_proj_blocks"}},
      {"block.1.mlp.mlp1_weight.scales", {"model.layers.1.mlp.experts.gate_up_proj_scales"}},
      {"block.1.mlp.mlp1_bias", {"model.layers.1.mlp.experts.gate_up_proj_bias"}},
      {"block.1.mlp.mlp2_weight.blocks", {"model.layers.1.mlp.experts.down_proj_blocks"}},
      {"block.1.mlp.mlp2_weight.scales", {"model.layers.1.mlp.experts.down_proj_scales"}},
      {"block.1.mlp.mlp2_bias", {"model.layers.1.mlp.experts.down_proj_bias"}},
      {"norm.scale", {"model.norm.weight"}},
      {"unembedding.weight", {"lm_head.weight"}},
  };
  char hf_dir[1024], original_dir[1024];
  snprintf(hf_dir, sizeof hf_dir, "%s/hf", (char *)*state);
  snprintf(original_dir, sizeof original_dir, "%s/original", (char *)*state);
  write_small(&small_gptoss, false, hf_dir, 3, 2);
  write_small(&small_gptoss, true, original_dir, 3, 2);
  ie_tensor_file *hf = open_small(hf_dir), *original = open_small(original_dir);
  for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
    const ie_tensor_info *o = ie_tensor_file_get(original, pairs[i].original);
    assert_non_null(o);
    size_t at = 0;
    for (int p = 0; p < 3 && pairs[i].hf[p]; p++) {
      const ie_tensor_info *h = ie_tensor_file_get(hf, pairs[i].hf[p]);
      assert_non_null(h);
      assert_true(at + h->bytes <= o->bytes);
      assert_memory_equal((const uint8_t *)o->data + at, h->data, h->bytes);
      at += h->bytes;
    }
    assert_int_equal(at, o->bytes);
  }
  assert_int_equal(ie_tensor_file_count(original), 15 * 2 + 3);
  ie_tensor_file_free(hf);
  ie_tensor_file_free(original);
}

/* Mean and standard deviation of a 16-bit tensor; every value is finite. */
static void moments(const ie_tensor_info *t, double *mean, double *std) {
  double sum = 0, squares = 0;
  size_t n = t->bytes / 2;
  for (size_t i = 0; i < n; i++) {
    uint16_t h = ((const uint16_t *)t->data)[i];
    double x = t->dtype == IE_F16 ? ie_f16_to_f32(h) : ie_bf16_to_f32(h);
    assert_true(isfinite(x));
    sum += x;
    squares += x * x;
  }
  *mean = sum / (double)n;
  *std = sqrt(squares / (double)n - *mean * *mean);
}

static void statistics(void **state) {
  double mean, std;
  write_small(&small_gptoss, false, *state, 1, 2);
  ie_tensor_file *file = open_small(*state);
  moments(ie_tensor_file_get(file, "lm_head.weight"), &mean, &std);
  assert_true(fabs(mean) < 0.001 && fabs(std - 0.02) < 0.001);
  moments(ie_tensor_file_get(file, "model.layers.0.input_layernorm.weight"), &mean, &std);
  assert_true(fabs(mean - 1) < 0.1 && std > 0.05 && std < 0.2);
  const ie_tensor_info *scales = ie_tensor_file_get(file, "model.layers.0.mlp.experts.gate_up_proj_scales");
  for (size_t i = 0; i < scales->bytes; i++) {
    uint8_t scale = ((const uint8_t *)scales->data)[i];
    assert_true(scale >= 119 && scale <= 122);
  }
  const ie_tensor_info *blocks = ie_tensor_file_get(file, "model.layers.0.mlp.experts.gate_up_proj_blocks");
  size_t codes[16] = {0};
  for (size_t i = 0; i < blocks->bytes; i++) {
    codes[((const uint8_t *)blocks->data)[i] & 15]++;
    codes[((const uint8_t *)blocks->data)[i] >> 4]++;
  }
  assert_int_equal(codes[8], 0); /* minus zero is not written */
  for (int i = 0; i < 16; i++) assert_true(i == 8 || codes[i] > blocks->bytes / 50);
  for (int i = 1; i < 8; i++) { /* both signs alike */
    double more = (double)codes[i], less = (double)codes[i + 8];
    assert_true(fabs(more - less) < 0.1 * (more + less));
  }
  /* two layers are two draws */
  const ie_tensor_info *next = ie_tensor_file_get(file, "model.layers.1.mlp.experts.gate_up_proj_blocks");
  assert_memory_not_equal(blocks->data, next->data, blocks->bytes);
  ie_tensor_file_free(file);
}

static void buffers_of_neox(void **state) {
  write_small(&small_neox, false, *state, 1, 3);
  ie_tensor_file *file = open_small(*state);
  const ie_tensor_info *causal = ie_tensor_file_get(file, "gpt_neox.layers.0.attention.bias");
  assert_int_equal(causal->dtype, IE_BOOL);
  assert_int_equal(causal->rank, 4);
  for (size_t row = 0; row < 2048; row += 89)
    for (size_t col = 0; col < 2048; col++)
      assert_int_equal(((const uint8_t *)causal->data)[row * 2048 + col], col <= row);
  const ie_tensor_info *rope = ie_tensor_file_get(file, "gpt_neox.layers.0.attention.rotary_emb.inv_freq");
  assert_int_equal(rope->shape[0], 3);
  assert_true(((const float *)rope->data)[0] == 1.0f);
  assert_true(fabsf(((const float *)rope->data)[1] - 0.0464159f) < 1e-6f);
  const ie_tensor_info *fill = ie_tensor_file_get(file, "gpt_neox.layers.0.attention.masked_bias");
  assert_int_equal(fill->rank, 0);
  assert_true(*(const float *)fill->data == -1e9f);
  ie_tensor_file_free(file);
}

static void qwen_is_tied(void **state) {
  write_small(&small_qwen, false, *state, 1, 2);
  ie_tensor_file *file = open_small(*state);
  const ie_tensor_info *in = ie_tensor_file_get(file, "model.embed_tokens.weight");
  const ie_tensor_info *out = ie_tensor_file_get(file, "lm_head.weight");
  assert_memory_equal(in->data, out->data, in->bytes);
  ie_tensor_file_free(file);
}

/* Shards of 3 MB: each tensor is in the file that the index names. */
static void shards_and_index(void **state) {
  const synth_model model = {"shards", "llama", 3, 512, 1536, 5000, 8, 2, 64, 0, 3, 0};
  const ie_synth_options options = {.dir = *state, .seed = 1, .threads = 2};
  synth_plan plan;
  ie_error error = {0};
  assert_int_equal(ie_synth_plan_build(&model, false, &plan, &error), IE_OK);
  assert_int_equal(ie_synth_plan_write(&plan, &options, &error), IE_OK);
  assert_true(plan.file_count > 5);
  for (size_t i = 0; i < plan.file_count; i++) {
    char shard[64];
    ie_synth_file_name(&plan, i, shard, sizeof shard);
    assert_int_equal(access(tempdir_path(*state, shard), F_OK), 0);
  }
  ie_synth_plan_free(&plan);
  json_t *index =
      json_load_file(tempdir_path(*state, "model.safetensors.index.json"), JSON_REJECT_DUPLICATES, NULL);
  assert_non_null(index);
  const char *name;
  json_t *value;
  size_t count = 0;
  uint64_t bytes = 0;
  json_object_foreach(json_object_get(index, "weight_map"), name, value) {
    ie_tensor_file *file;
    if (ie_tensor_file_open(tempdir_path(*state, json_string_value(value)), &file, &error) != IE_OK)
      fail_msg("%s", error.message);
    const ie_tensor_info *t = ie_tensor_file_get(file, name);
    assert_non_null(t);
    double mean, std;
    moments(t, &mean, &std);
    assert_true(std > 0.005); /* written, not left as zeros */
    bytes += t->bytes;
    count++;
    ie_tensor_file_free(file);
  }
  assert_int_equal(count, 3 * 9 + 2);
  assert_int_equal(bytes,
                   json_integer_value(json_object_get(json_object_get(index, "metadata"), "total_size")));
  json_decref(index);
}

/* A tensor of several pieces is the same as drawn in one go: pieces of 4 MB are cut at 2^21 elements. */
static void pieces_join(void **state) {
  const synth_model model = {"pieces", "llama", 1, 1024, 16, 9000, 8, 2, 8, 0, 5000, 0};
  char one[1024], other[1024];
  snprintf(one, sizeof one, "%s/1", (char *)*state);
  snprintf(other, sizeof other, "%s/2", (char *)*state);
  write_small(&model, false, one, 5, 1);
  write_small(&model, false, other, 5, 4);
  assert_true(same_file(one, other, "model.safetensors"));
  ie_tensor_file *file = open_small(one);
  const ie_tensor_info *t = ie_tensor_file_get(file, "model.embed_tokens.weight");
  assert_true(t->bytes > 4 << 22);
  /* no piece repeats another */
  const uint8_t *data = t->data;
  assert_memory_not_equal(data, data + (4 << 20), 4096);
  assert_memory_not_equal(data + (4 << 20), data + (8 << 20), 4096);
  ie_tensor_file_free(file);
}

typedef struct watcher {
  int calls, stop_after;
  uint64_t last, total;
} watcher;

static bool watch(void *user, uint64_t done, uint64_t total) {
  watcher *w = user;
  assert_true(done >= w->last && done <= total);
  w->last = done;
  w->total = total;
  return ++w->calls != w->stop_after;
}

static void progress_and_stop(void **state) {
  synth_plan plan;
  ie_error error = {0};
  watcher w = {0};
  ie_synth_options options = {.dir = *state, .threads = 1, .progress = watch, .user = &w};
  assert_int_equal(ie_synth_plan_build(&small_gptoss, false, &plan, &error), IE_OK);
  assert_int_equal(ie_synth_plan_write(&plan, &options, &error), IE_OK);
  assert_int_equal(w.last, plan.total_bytes);
  assert_int_equal(w.total, plan.total_bytes);
  w = (watcher){.stop_after = 3};
  assert_int_equal(ie_synth_plan_write(&plan, &options, &error), IE_CANCELLED);
  assert_int_equal(w.calls, 3);
  assert_int_equal(access(tempdir_path(*state, "config.json"), F_OK),
                   -1); /* what is left does not look whole */
  options.dir = "/proc/nowhere";
  assert_int_equal(ie_synth_plan_write(&plan, &options, &error), IE_IO);
  assert_non_null(strstr(error.message, "/proc/nowhere"));
  ie_synth_plan_free(&plan);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(published_tables),
      cmocka_unit_test(shapes_of_gptoss),
      cmocka_unit_test(configs_match_tensors),
      cmocka_unit_test(refusals),
      CASE(threads_do_not_matter),
      CASE(layouts_hold_one_model),
      CASE(statistics),
      CASE(buffers_of_neox),
      CASE(qwen_is_tied),
      CASE(shards_and_index),
      CASE(pieces_join),
      CASE(progress_and_stop),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
