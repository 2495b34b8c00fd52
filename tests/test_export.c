/* train/export: what parameters become in files, from values that lie there already to those that cannot be stored. */
#include "base/file.h"
#include "base/float.h"
#include "base/rng.h"
#include "formats/checkpoint.h"
#include "formats/checkpoint_write.h"
#include "formats/convert.h"
#include "support/tempdir.h"
#include "train/export.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- parameters of a test ---- */

enum { PARAMS_MAX = 128 };
typedef struct params {
  ie_param storage[PARAMS_MAX];
  ie_param *items[PARAMS_MAX];
  ie_param_list list;
} params;

static ie_param *params_add(params *p, const char *name, const ie_param *like) {
  assert_true(p->list.count < PARAMS_MAX);
  ie_param *one = &p->storage[p->list.count];
  *one = *like;
  one->name = strdup(name);
  one->count = 1;
  for (int d = 0; d < one->rank; d++) one->count *= one->shape[d];
  one->value = calloc((size_t)one->count, sizeof *one->value);
  one->store.tensor = strdup(like->store.tensor ? like->store.tensor : name);
  assert_true(one->name && one->value && one->store.tensor);
  p->items[p->list.count++] = one;
  p->list.item = p->items;
  return one;
}

static void params_free(params *p) {
  for (int64_t i = 0; i < p->list.count; i++) {
    free(p->storage[i].name);
    free(p->storage[i].value);
    free(p->storage[i].store.tensor);
  }
  free(p);
}

static params *params_new(void) {
  params *p = calloc(1, sizeof *p);
  assert_non_null(p);
  return p;
}

static void fill(ie_param *p, uint64_t seed) {
  for (int64_t i = 0; i < p->count; i++) p->value[i] = 2 * ie_rng_f32(seed, 1, (uint64_t)i) - 1;
}

static void export_ok(const params *p, const ie_export_options *options) {
  ie_error error = {0};
  if (ie_export_model(&p->list, options, &error) != IE_OK) fail_msg("%s", error.message);
}

static ie_checkpoint *checkpoint_ok(const char *dir) {
  ie_checkpoint *c;
  ie_error error = {0};
  if (ie_checkpoint_open(dir, &c, &error) != IE_OK) fail_msg("%s", error.message);
  return c;
}

/* ---- a model that was read and is written again ---- */

static bool ends_with(const char *s, const char *end) {
  size_t n = strlen(s), m = strlen(end);
  return n >= m && strcmp(s + n - m, end) == 0;
}

/* The parameter that a tensor stands for; blocks and scales are one. */
static void param_of(params *p, const ie_checkpoint *c, const ie_tensor_info *t) {
  if (ends_with(t->name, "_scales") || ends_with(t->name, ".scales")) return;
  bool blocks = t->dtype == IE_U8 && t->rank == 4;
  if (!blocks && (!ie_convert_knows(t->dtype) || t->rank < 1 || t->rank > 3)) return; /* a buffer: copied */
  ie_param like = {.rank = t->rank, .store = {.dtype = t->dtype}};
  memcpy(like.shape, t->shape, sizeof like.shape);
  char name[256];
  snprintf(name, sizeof name, "%s", t->name);
  if (!blocks) {
    ie_param *one = params_add(p, name, &like);
    ie_convert_to_f32(t->dtype, t->data, one->count, one->value);
    return;
  }
  bool dotted = ends_with(name, ".blocks");
  name[strlen(name) - strlen("_blocks")] = '\0';
  like.store.blocks = dotted ? ".blocks" : "_blocks";
  like.store.scales = dotted ? ".scales" : "_scales";
  like.rank = 3;
  like.shape[2] *= IE_MXFP4_COLS;
  ie_param *one = params_add(p, name, &like);
  char scales_name[300];
  snprintf(scales_name, sizeof scales_name, "%s%s", name, like.store.scales);
  const ie_tensor_info *scales = ie_checkpoint_find(c, scales_name);
  assert_non_null(scales);
  for (int64_t b = 0; b < one->count / IE_MXFP4_COLS; b++)
    ie_mxfp4_decode_block(one->value + b * IE_MXFP4_COLS, (const uint8_t *)t->data + b * IE_MXFP4_BYTES,
                          ((const uint8_t *)scales->data)[b]);
}

/* Tensors equal to the byte; of MXFP4, whose encoding is not unique, the values. */
static void tensors_compare(const ie_checkpoint *a, const ie_checkpoint *b) {
  assert_int_equal(ie_checkpoint_count(a), ie_checkpoint_count(b));
  for (size_t i = 0; i < ie_checkpoint_count(a); i++) {
    const ie_tensor_info *x = ie_checkpoint_at(a, i), *y = ie_checkpoint_find(b, x->name);
    assert_non_null(y);
    assert_int_equal(x->dtype, y->dtype);
    assert_int_equal(x->rank, y->rank);
    assert_memory_equal(x->shape, y->shape, (size_t)x->rank * sizeof *x->shape);
    if (ends_with(x->name, "scales")) continue;
    if (!ends_with(x->name, "blocks")) {
      assert_memory_equal(x->data, y->data, x->bytes);
      continue;
    }
    char name[300];
    snprintf(name, sizeof name, "%.*sscales", (int)(strlen(x->name) - strlen("blocks")), x->name);
    const uint8_t *s = ie_checkpoint_find(a, name)->data, *t = ie_checkpoint_find(b, name)->data;
    for (size_t n = 0; n < x->bytes / IE_MXFP4_BYTES; n++) {
      float p[IE_MXFP4_COLS], q[IE_MXFP4_COLS];
      ie_mxfp4_decode_block(p, (const uint8_t *)x->data + n * IE_MXFP4_BYTES, s[n]);
      ie_mxfp4_decode_block(q, (const uint8_t *)y->data + n * IE_MXFP4_BYTES, t[n]);
      assert_memory_equal(p, q, sizeof p);
    }
  }
}

static void models_come_back(void **state) {
  (void)state;
  static const char *const names[] = {"gpt-oss-hf", "gpt-oss-bf16", "gpt-oss-original", "gpt-neox-parallel",
                                      "qwen3",      "llama3",       "nanochat-hf"};
  char *dir = tempdir_make();
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    char source[256], out[600];
    snprintf(source, sizeof source, "tests/data/models/%s", names[i]);
    snprintf(out, sizeof out, "%s/%s", dir, names[i]);
    ie_checkpoint *c = checkpoint_ok(source);
    params *p = params_new();
    for (size_t t = 0; t < ie_checkpoint_count(c); t++) param_of(p, c, ie_checkpoint_at(c, t));
    assert_true(p->list.count > 5);
    export_ok(p, &(ie_export_options){.dir = out, .source = source, .mxfp4 = (ie_mxfp4_rule)(i % 2)});
    ie_checkpoint *again = checkpoint_ok(out);
    tensors_compare(c, again);
    assert_true(ie_file_exists(tempdir_path(out, "config.json")));
    ie_checkpoint_free(again);
    /* One parameter alone: the rest is copied. */
    ie_param_list one = {.item = p->items, .count = 1, .capacity = 1};
    ie_error error = {0};
    assert_int_equal(ie_export_model(&one, &(ie_export_options){.dir = out, .source = source}, &error),
                     IE_OK);
    again = checkpoint_ok(out);
    tensors_compare(c, again);
    ie_checkpoint_free(again);
    ie_checkpoint_free(c);
    params_free(p);
  }
  tempdir_remove(dir);
}

/* ---- how parameters lie in tensors ---- */

static void parts_and_swapped_dimensions(void **state) {
  (void)state;
  char *dir = tempdir_make();
  params *p = params_new();
  const int64_t E = 3, R = 70, K = 1000; /* more elements than are converted at a time */
  /* Given out of order: rows 2 and 3 first. */
  ie_param part = {.rank = 2,
                   .shape = {2, 5},
                   .store = {.tensor = (char *)(uintptr_t) "qkv", .dtype = IE_F32, .first = 1, .total = 3}};
  fill(params_add(p, "k", &part), 1);
  part.store.first = 0;
  part.shape[0] = 1;
  fill(params_add(p, "q", &part), 2);
  fill(params_add(p, "up",
                  &(ie_param){.rank = 3, .shape = {E, R, K}, .store = {.dtype = IE_BF16, .swapped = true}}),
       3);
  fill(params_add(p, "conv",
                  &(ie_param){.rank = 2, .shape = {4, 6}, .store = {.dtype = IE_F16, .swapped = true}}),
       4);
  fill(params_add(p, "bias", &(ie_param){.rank = 1, .shape = {7}, .store = {.dtype = IE_F16}}), 5);
  export_ok(p, &(ie_export_options){.dir = dir, .config = "{\"model_type\":\"x\"}"});
  ie_checkpoint *c = checkpoint_ok(dir);
  assert_int_equal(ie_checkpoint_count(c), 4);
  const ie_tensor_info *t = ie_checkpoint_find(c, "qkv");
  assert_int_equal(t->shape[0], 3);
  assert_memory_equal(t->data, p->items[1]->value, 5 * sizeof(float));
  assert_memory_equal((const float *)t->data + 5, p->items[0]->value, 10 * sizeof(float));
  t = ie_checkpoint_find(c, "up");
  assert_true(t->shape[0] == E && t->shape[1] == K && t->shape[2] == R);
  const uint16_t *half = t->data;
  for (int64_t e = 0; e < E; e++)
    for (int64_t k = 0; k < K; k++)
      for (int64_t r = 0; r < R; r++)
        assert_int_equal(half[(e * K + k) * R + r], ie_f32_to_bf16(p->items[2]->value[(e * R + r) * K + k]));
  t = ie_checkpoint_find(c, "conv");
  half = t->data;
  for (int64_t k = 0; k < 6; k++)
    for (int64_t r = 0; r < 4; r++)
      assert_int_equal(half[k * 4 + r], ie_f32_to_f16(p->items[3]->value[r * 6 + k]));
  ie_checkpoint_free(c);
  params_free(p);
  tempdir_remove(dir);
}

static size_t files_count(const char *dir) {
  DIR *list = opendir(dir);
  size_t count = 0;
  assert_non_null(list);
  for (struct dirent *e; (e = readdir(list)) != NULL;) count += e->d_name[0] != '.';
  closedir(list);
  return count;
}

/* Shards as transformers cuts them, and back to one file: what the other way left is gone. */
static void shards(void **state) {
  (void)state;
  char *dir = tempdir_make();
  params *p = params_new();
  for (int i = 0; i < 5; i++) {
    char name[8];
    snprintf(name, sizeof name, "w%d", i);
    fill(params_add(p, name, &(ie_param){.rank = 1, .shape = {i == 3 ? 40 : 10}, .store = {.dtype = IE_F32}}),
         9);
  }
  const ie_export_options small = {.dir = dir, .config = "{}", .shard_bytes = 100};
  export_ok(p, &small);
  /* 40 + 40, 40, 160 (larger than a shard), 40 bytes */
  assert_true(ie_file_exists(tempdir_path(dir, "model-00004-of-00004.safetensors")));
  assert_true(ie_file_exists(tempdir_path(dir, "model.safetensors.index.json")));
  assert_int_equal(files_count(dir), 6);
  for (int round = 0; round < 2; round++) {
    ie_checkpoint *c = checkpoint_ok(dir);
    assert_int_equal(ie_checkpoint_count(c), 5);
    for (int64_t i = 0; i < 5; i++) {
      const ie_tensor_info *t = ie_checkpoint_find(c, p->items[i]->name);
      assert_memory_equal(t->data, p->items[i]->value, t->bytes);
    }
    ie_checkpoint_free(c);
    if (round > 0) break;
    export_ok(p, &(ie_export_options){.dir = dir, .config = "{}"});
    assert_int_equal(files_count(dir), 2);
  }
  export_ok(p, &small);
  assert_int_equal(files_count(dir), 6);
  params_free(p);
  tempdir_remove(dir);
}

static void sides_are_copied(void **state) {
  (void)state;
  char *dir = tempdir_make(), source[600], out[600];
  snprintf(source, sizeof source, "%s/source", dir);
  snprintf(out, sizeof out, "%s/out/deep", dir);
  static const char *const sides[] = {
      "config.json",    "generation_config.json", "tokenizer.json", "tokenizer_config.json",
      "vocab.tiktoken", "chat_template.jinja",    "merges.txt"};
  for (size_t i = 0; i < sizeof sides / sizeof sides[0]; i++) {
    char name[64];
    snprintf(name, sizeof name, "source/%s", sides[i]);
    tempdir_write_text(dir, name, sides[i]);
  }
  tempdir_write_text(dir, "source/README.md", "not");
  tempdir_write_text(dir, "source/tokenizer.folder/x", "not");
  params *p = params_new();
  fill(params_add(p, "w", &(ie_param){.rank = 1, .shape = {3}, .store = {.dtype = IE_F32}}), 9);
  export_ok(p, &(ie_export_options){.dir = out, .source = source, .config = "{\"mine\":1}"});
  assert_int_equal(files_count(out), 8);
  ie_buf text = {0};
  ie_error error;
  assert_int_equal(ie_file_read(tempdir_path(out, "config.json"), 100, &text, &error), IE_OK);
  assert_string_equal(text.data, "{\"mine\":1}");
  ie_buf_free(&text);
  assert_int_equal(ie_file_read(tempdir_path(out, "merges.txt"), 100, &text, &error), IE_OK);
  assert_string_equal(text.data, "merges.txt");
  ie_buf_free(&text);
  params_free(p);
  tempdir_remove(dir);
}

/* ---- refused ---- */

static void refused(const params *p, const char *dir, ie_status status, const char *message) {
  ie_error error = {0};
  assert_int_equal(ie_export_model(&p->list, &(ie_export_options){.dir = dir, .config = "{}"}, &error),
                   status);
  if (!strstr(error.message, message)) fail_msg("expected '%s', found: %s", message, error.message);
}

/* A number that the type does not hold: the model that was there stays, and nothing lies beside it. */
static void numbers_that_do_not_fit(void **state) {
  (void)state;
  static const struct {
    ie_dtype dtype;
    float value;
    bool blocks;
  } cases[] = {{IE_F32, NAN, false},          {IE_BF16, INFINITY, false}, {IE_F16, 65520, false},
               {IE_BF16, 0x1.FFp127f, false}, {IE_U8, NAN, true},         {IE_U8, -INFINITY, true}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char *dir = tempdir_make();
    tempdir_write_text(dir, "model.safetensors", "as it was");
    params *p = params_new();
    fill(params_add(p, "first", &(ie_param){.rank = 1, .shape = {3}, .store = {.dtype = IE_F32}}), 9);
    ie_param_store store = {.dtype = cases[i].dtype,
                            .blocks = cases[i].blocks ? "_blocks" : NULL,
                            .scales = cases[i].blocks ? "_scales" : NULL};
    ie_param *bad = params_add(p, "bad", &(ie_param){.rank = 2, .shape = {2, 64}, .store = store});
    fill(bad, 3);
    bad->value[77] = cases[i].value;
    refused(p, dir, IE_NUMERIC, "element 77 of parameter bad");
    assert_int_equal(files_count(dir), 1);
    ie_buf text = {0};
    ie_error error;
    assert_int_equal(ie_file_read(tempdir_path(dir, "model.safetensors"), 100, &text, &error), IE_OK);
    assert_string_equal(text.data, "as it was");
    ie_buf_free(&text);
    params_free(p);
    tempdir_remove(dir);
  }
}

static void one_refused(const ie_param *a, const ie_param *b, ie_status status, const char *message) {
  char *dir = tempdir_make();
  params *p = params_new();
  (void)params_add(p, "a", a);
  if (b) (void)params_add(p, "b", b);
  refused(p, dir, status, message);
  assert_int_equal(files_count(dir), 0);
  params_free(p);
  tempdir_remove(dir);
}

static void layouts_that_contradict(void **state) {
  (void)state;
  char *t = (char *)(uintptr_t) "t";
  const ie_param whole = {.rank = 2, .shape = {2, 4}, .store = {.tensor = t, .dtype = IE_F32}};
  ie_param half = whole, rest = whole;
  half.store.total = rest.store.total = 4;
  one_refused(&whole, &whole, IE_INVALID_ARGUMENT, "parameter");
  one_refused(&half, NULL, IE_INVALID_ARGUMENT, "hold 2 rows of 4");
  rest.store.first = 3;
  one_refused(&half, &rest, IE_INVALID_ARGUMENT, "from 3, expected from 2");
  rest.store.first = 2;
  rest.shape[1] = 5;
  one_refused(&half, &rest, IE_INVALID_ARGUMENT, "parameter b");
  ie_param odd = whole;
  odd.store.dtype = IE_I8;
  one_refused(&odd, NULL, IE_INVALID_ARGUMENT, "no way to store it as I8");
  odd.store.dtype = IE_U8;
  odd.store.blocks = "_b";
  odd.store.scales = "_s";
  one_refused(&odd, NULL, IE_UNSUPPORTED, "multiple of 32");
  half.store.swapped = rest.store.swapped = true;
  one_refused(&half, &rest, IE_UNSUPPORTED, "side by side");
}

/* nanochat's own files have another description. */
static void native_models(void **state) {
  (void)state;
  params *p = params_new();
  char *dir = tempdir_make();
  ie_error error = {0};
  fill(params_add(p, "w", &(ie_param){.rank = 1, .shape = {3}, .store = {.dtype = IE_F32}}), 9);
  const ie_export_options options = {.dir = dir, .source = "tests/data/models/nanochat-native"};
  assert_int_equal(ie_export_model(&p->list, &options, &error), IE_UNSUPPORTED);
  assert_non_null(strstr(error.message, "meta_000120.json"));
  params_free(p);
  tempdir_remove(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(models_come_back),
      cmocka_unit_test(parts_and_swapped_dimensions),
      cmocka_unit_test(shards),
      cmocka_unit_test(sides_are_copied),
      cmocka_unit_test(numbers_that_do_not_fit),
      cmocka_unit_test(layouts_that_contradict),
      cmocka_unit_test(native_models),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
