/* Dense weights quantised at load. The encoder over the team gives the bytes of blocks/ with any number of threads and
 * any instruction set; a model with quantised weights equals a checkpoint that holds the decoded numbers; threads,
 * chunks and instruction sets agree as they do with published weights; what cannot be encoded is refused by name. */
#include "base/float.h"
#include "base/rng.h"
#include "base/size.h"
#include "blocks/int4.h"
#include "blocks/int8.h"
#include "formats/checkpoint.h"
#include "support/emulated.h"
#include "support/golden.h"
#include "support/tempdir.h"
#include "tensor/quantise.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const ie_wformat formats[] = {[IE_WEIGHTS_INT8] = IE_W_INT8, [IE_WEIGHTS_INT4] = IE_W_INT4};

/* --- The encoder ------------------------------------------------------------------------------------------------ */

/* A row of float numbers as whole blocks, by blocks/ alone. */
static bool row_encode(ie_wformat format, const float *x, int64_t cols, uint8_t *codes, uint8_t *scales) {
  const ie_wformat_info *info = ie_wformat_describe(format);
  for (int64_t k = 0; k < cols; k += info->block_cols) {
    float block[IE_INT4_COLS] = {0};
    uint16_t scale;
    memcpy(block, x + k, (size_t)ie_min_i64(info->block_cols, cols - k) * sizeof *x);
    bool fits = format == IE_W_INT8 ? ie_int8_encode_block((int8_t *)codes, &scale, block)
                                    : ie_int4_encode_block(codes, &scale, block);
    if (!fits) return false;
    memcpy(scales, &scale, 2);
    codes += info->block_bytes[0];
    scales += 2;
  }
  return true;
}

static void row_decode(ie_wformat format, float *x, int64_t cols, const uint8_t *codes,
                       const uint8_t *scales) {
  const ie_wformat_info *info = ie_wformat_describe(format);
  for (int64_t k = 0; k < cols; k += info->block_cols) {
    float block[IE_INT4_COLS];
    uint16_t scale;
    memcpy(&scale, scales, 2);
    if (format == IE_W_INT8)
      ie_int8_decode_block(block, (const int8_t *)codes, scale);
    else
      ie_int4_decode_block(block, codes, scale);
    memcpy(x + k, block, (size_t)ie_min_i64(info->block_cols, cols - k) * sizeof *x);
    codes += info->block_bytes[0];
    scales += 2;
  }
}

enum { ROWS = 37 };

typedef struct matrix {
  int64_t cols;
  ie_wformat source; /* f32, f16, bf16 */
  uint8_t *bytes;    /* (ROWS, cols) of source */
  float *numbers;    /* the same as floats */
} matrix;

static matrix matrix_make(int64_t cols, ie_wformat source) {
  matrix m = {cols, source, malloc((size_t)(ROWS * cols) * 4), malloc((size_t)(ROWS * cols) * sizeof(float))};
  assert_true(m.bytes && m.numbers);
  for (int64_t i = 0; i < ROWS * cols; i++) {
    float v = (ie_rng_f32(4, (uint64_t)cols, (uint64_t)i) - 0.5f) * (i % 97 == 0 ? 8 : 1);
    uint16_t h = source == IE_W_F16 ? ie_f32_to_f16(v) : ie_f32_to_bf16(v);
    if (source == IE_W_F32)
      memcpy(m.bytes + 4 * i, &v, 4);
    else
      memcpy(m.bytes + 2 * i, &h, 2);
    m.numbers[i] = source == IE_W_F32 ? v : source == IE_W_F16 ? ie_f16_to_f32(h) : ie_bf16_to_f32(h);
  }
  return m;
}

static ie_weight weight_of(const matrix *m) {
  ie_weight w = {.name = "m", .format = m->source, .experts = 1, .rows = ROWS, .cols = m->cols};
  w.part[0] = m->bytes;
  w.row_bytes[0] = ie_wformat_row_bytes(m->source, 0, m->cols);
  return w;
}

static _Atomic size_t done_bytes;
static void count_done(const void *source, size_t bytes) {
  (void)source;
  done_bytes += bytes;
}

static void check_encoding(const matrix *m, ie_wformat format, int threads, ie_isa isa) {
  ie_error error = {0};
  ie_team *team;
  ie_kernels kernels;
  ie_kernels_fill(&kernels, isa);
  assert_int_equal(ie_team_new(threads, "none", &team, &error), IE_OK);
  size_t bytes = ie_quantised_bytes(format, ROWS, m->cols);
  uint8_t *memory = aligned_alloc(64, ie_size_align(bytes, 64) + 64), *row = malloc(bytes);
  assert_true(memory && row);
  memset(memory, 0xAB, bytes + 1);
  ie_weight w = weight_of(m);
  done_bytes = 0;
  if (ie_weight_quantise(team, &kernels, &w, format, memory, count_done, &error) != IE_OK)
    fail_msg("%s", error.message);
  assert_int_equal(done_bytes, (size_t)ROWS * ie_wformat_row_bytes(m->source, 0, m->cols));
  assert_int_equal(memory[bytes], 0xAB);
  assert_int_equal(w.format, format);
  for (int64_t r = 0; r < ROWS; r++) {
    uint8_t *scales = row + w.row_bytes[0];
    assert_true(row_encode(format, m->numbers + r * m->cols, m->cols, row, scales));
    assert_memory_equal(w.part[0] + (size_t)r * w.row_bytes[0], row, w.row_bytes[0]);
    assert_memory_equal(w.part[1] + (size_t)r * w.row_bytes[1], scales, w.row_bytes[1]);
  }
  free(row);
  free(memory);
  ie_team_free(team);
}

static void bytes_are_those_of_blocks(void **state) {
  (void)state;
  static const int64_t cols[] = {1, 31, 32, 33, 64, 100, 511, 512, 513, 1000};
  static const ie_wformat sources[] = {IE_W_F32, IE_W_F16, IE_W_BF16};
  for (size_t c = 0; c < sizeof cols / sizeof cols[0]; c++)
    for (int s = 0; s < 3; s++) {
      matrix m = matrix_make(cols[c], sources[s]);
      for (int f = IE_WEIGHTS_INT8; f <= IE_WEIGHTS_INT4; f++)
        for (int isa = 0; isa <= (int)ie_isa_best(); isa++)
          for (int threads = 1; threads <= 3; threads += 2)
            check_encoding(&m, formats[f], threads, (ie_isa)isa);
      free(m.bytes);
      free(m.numbers);
    }
}

static void first_bad_row_is_named(void **state) {
  (void)state;
  ie_error error = {0};
  ie_team *team;
  ie_kernels kernels;
  ie_kernels_fill(&kernels, IE_ISA_SCALAR);
  assert_int_equal(ie_team_new(3, "none", &team, &error), IE_OK);
  matrix m = matrix_make(70, IE_W_F32);
  float bad = NAN;
  memcpy(m.bytes + 4 * (20 * 70 + 69), &bad, 4);
  bad = 1e30f;
  memcpy(m.bytes + 4 * (9 * 70), &bad, 4);
  for (int f = IE_WEIGHTS_INT8; f <= IE_WEIGHTS_INT4; f++) {
    void *memory = malloc(ie_quantised_bytes(formats[f], ROWS, 70));
    ie_weight w = weight_of(&m);
    assert_int_equal(ie_weight_quantise(team, &kernels, &w, formats[f], memory, NULL, &error), IE_FORMAT);
    assert_non_null(strstr(error.message, "tensor m: row 9 "));
    assert_int_equal(w.format, IE_W_F32);
    free(memory);
  }
  free(m.bytes);
  free(m.numbers);
  ie_team_free(team);
}

/* --- Models ----------------------------------------------------------------------------------------------------- */

static ie_device *open_device(const char *isa, int threads) {
  ie_error error = {0};
  ie_device *device;
  if (ie_device_open(&(ie_device_options){.isa = isa, .threads = threads}, &device, &error) != IE_OK)
    fail_msg("%s", error.message);
  return device;
}

static float *logits_of(const char *dir, const ie_model_options *options, const char *isa, int threads,
                        const golden_case *c, int64_t chunk) {
  ie_error error = {0};
  ie_model *model;
  ie_device *device = open_device(isa, threads);
  if (ie_model_open(device, dir, options, &model, &error) != IE_OK) fail_msg("%s", error.message);
  float *logits = golden_logits(model, c->ids, c->T, chunk);
  ie_model_free(model);
  ie_device_free(device);
  return logits;
}

static bool is_dense(const ie_tensor_info *t) {
  static const char *const others[] = {"embed_tokens", "embed_in", "router", "mlp.gate.",
                                       "norm",         "bias",     "experts"};
  bool dense = t->rank == 2 && (t->dtype == IE_BF16 || t->dtype == IE_F32 || t->dtype == IE_F16);
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) dense = dense && !strstr(t->name, others[i]);
  return dense && strcmp(t->name, "embedding.weight") != 0;
}

/* The numbers of a tensor after a round trip through the format, in fresh memory. */
static float *decoded(const ie_tensor_info *t, ie_wformat format) {
  int64_t rows = t->shape[0], cols = t->shape[1];
  float *out = malloc((size_t)(rows * cols) * sizeof *out);
  size_t codes = ie_wformat_row_bytes(format, 0, cols), scales = ie_wformat_row_bytes(format, 1, cols);
  uint8_t *row = malloc(codes + scales);
  assert_true(out && row);
  for (int64_t r = 0; r < rows; r++) {
    float *x = out + r * cols;
    for (int64_t k = 0; k < cols; k++) {
      uint16_t h;
      memcpy(&h, (const uint8_t *)t->data + (t->dtype == IE_F32 ? 0 : 2 * (r * cols + k)), 2);
      x[k] = t->dtype == IE_F32    ? ((const float *)t->data)[r * cols + k]
             : t->dtype == IE_BF16 ? ie_bf16_to_f32(h)
                                   : ie_f16_to_f32(h);
    }
    assert_true(row_encode(format, x, cols, row, row + codes));
    row_decode(format, x, cols, row, row + codes);
  }
  free(row);
  return out;
}

/* config.json says that the output matrix is one of its own. */
static void copy_untied(const char *from_dir, const char *to_dir, const char *name) {
  static const char tied[] = "\"tie_word_embeddings\": true", untied[] = "\"tie_word_embeddings\": false";
  static char text[1 << 16];
  FILE *f = fopen(tempdir_path(from_dir, name), "rb");
  if (!f) return;
  size_t n = fread(text, 1, sizeof text - 2, f);
  fclose(f);
  text[n] = '\0';
  char *at = strstr(text, tied);
  if (at) {
    memmove(at + strlen(untied), at + strlen(tied), strlen(at + strlen(tied)) + 1);
    memcpy(at, untied, strlen(untied));
  }
  tempdir_write_text(to_dir, name, text);
}

static bool is_tied(const char *dir) {
  return strstr(dir, "qwen3") || strstr(dir, "llama3");
}

/* A folder with the checkpoint whose dense matrices hold the decoded numbers, as f32; `spoil`: the first one has a
 * NaN. *spoiled is its name. */
static char *twin_make(const char *dir, ie_wformat format, bool spoil, char spoiled[256]) {
  enum { MOST = 512 };
  static ie_tensor_out out[MOST];
  float *owned[MOST];
  size_t owned_count = 0;
  ie_error error = {0};
  ie_checkpoint *c;
  if (ie_checkpoint_open(dir, &c, &error) != IE_OK) fail_msg("%s", error.message);
  size_t n = ie_checkpoint_count(c);
  assert_true(n < MOST);
  for (size_t i = 0; i < n; i++) {
    const ie_tensor_info *t = ie_checkpoint_at(c, i);
    out[i] = (ie_tensor_out){.name = t->name, .dtype = t->dtype, .rank = t->rank, .data = t->data};
    memcpy(out[i].shape, t->shape, sizeof out[i].shape);
    if (!is_dense(t)) continue;
    float *x = owned[owned_count++] = decoded(t, format);
    if (spoil && owned_count == 1) {
      x[t->shape[1] + 1] = NAN;
      snprintf(spoiled, 256, "%s: row 1 ", t->name);
    }
    out[i].dtype = IE_F32;
    out[i].data = x;
  }
  if (is_tied(dir) && !ie_checkpoint_find(c, "lm_head.weight")) {
    const ie_tensor_info *t = ie_checkpoint_find(c, "model.embed_tokens.weight");
    out[n] = (ie_tensor_out){.name = "lm_head.weight", .dtype = IE_F32, .rank = 2};
    memcpy(out[n].shape, t->shape, sizeof out[n].shape);
    out[n++].data = owned[owned_count++] = decoded(t, format);
  }
  assert_true(owned_count > 4 && owned_count <= MOST);
  char *twin = tempdir_make();
  copy_untied(dir, twin, "config.json");
  copy_untied(dir, twin, "generation_config.json");
  if (ie_tensor_file_write(tempdir_path(twin, "model.safetensors"), out, n, &error) != IE_OK)
    fail_msg("%s", error.message);
  for (size_t i = 0; i < owned_count; i++) free(owned[i]);
  ie_checkpoint_free(c);
  return twin;
}

static bool has_config(const char *dir) {
  FILE *f = fopen(tempdir_path(dir, "config.json"), "rb");
  if (f) fclose(f);
  return f != NULL;
}

typedef struct subject {
  golden_model *golden;
  ie_weights weights;
} subject;

static const golden_case *longest(const subject *s) {
  return &s->golden->cases[s->golden->count - 1];
}

/* Class fp32: quantised at load = published as the decoded numbers; routers, norms, biases, sinks, embedding and
 * experts untouched. */
static void equals_its_decoded_twin(void **state) {
  const subject *s = *state;
  if (!has_config(s->golden->dir)) skip(); /* nanochat's own layout, which this test does not write */
  const golden_case *c = longest(s);
  char *twin = twin_make(s->golden->dir, formats[s->weights], false, NULL);
  ie_model_options quantised = {.precision = IE_PRECISION_FP32, .dense_weights = s->weights};
  ie_model_options published = {.precision = IE_PRECISION_FP32};
  float *a = logits_of(s->golden->dir, &quantised, NULL, 2, c, 0);
  float *b = logits_of(twin, &published, NULL, 2, c, 0);
  float *plain = logits_of(s->golden->dir, &published, NULL, 2, c, 0);
  double error = golden_error(a, b, c->T * c->V), change = golden_error(a, plain, c->T * c->V);
  double tolerance = fmax(2e-5, 4 * s->golden->noise);
  if (!(error <= tolerance)) fail_msg("%s: %.1e from the decoded twin", s->golden->name, error);
  if (!(change > 10 * tolerance)) fail_msg("%s: %.1e, nothing was quantised", s->golden->name, change);
  free(a);
  free(b);
  free(plain);
  tempdir_remove(twin);
}

/* Threads and, with `deterministic`, chunks to the bit, in every class. */
static void threads_and_chunks_agree(void **state) {
  const subject *s = *state;
  const golden_case *c = longest(s);
  for (int precision = 0; precision <= IE_PRECISION_INT8; precision++) {
    ie_model_options o = {.precision = (ie_precision)precision, .dense_weights = s->weights};
    size_t bytes = (size_t)(c->T * c->V) * sizeof(float);
    float *one = logits_of(s->golden->dir, &o, NULL, 1, c, 0);
    float *three = logits_of(s->golden->dir, &o, NULL, 3, c, 0);
    assert_memory_equal(one, three, bytes);
    o.deterministic = true;
    float *whole = logits_of(s->golden->dir, &o, NULL, 2, c, 0);
    float *single = logits_of(s->golden->dir, &o, NULL, 2, c, 1);
    float *seven = logits_of(s->golden->dir, &o, NULL, 1, c, 7);
    assert_memory_equal(whole, single, bytes);
    assert_memory_equal(whole, seven, bytes);
    float *all[] = {one, three, whole, single, seven};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
  }
}

static void instruction_sets_agree(void **state) {
  const subject *s = *state;
  const golden_case *c = longest(s);
  ie_model_options o = {.precision = IE_PRECISION_FP32, .dense_weights = s->weights};
  float *scalar = logits_of(s->golden->dir, &o, "scalar", 2, c, 0);
  for (int i = 1; ie_device_isa_list()[i]; i++) {
    float *other = logits_of(s->golden->dir, &o, ie_device_isa_list()[i], 2, c, 0);
    double error = golden_error(other, scalar, c->T * c->V);
    if (!(error <= fmax(2e-5, 4 * s->golden->noise)))
      fail_msg("%s %s: %.1e", s->golden->name, ie_device_isa_list()[i], error);
    free(other);
  }
  free(scalar);
}

/* A plan counts what an open model takes, and how it is called. */
static void bytes_are_planned(void **state) {
  const subject *s = *state;
  ie_error error = {0};
  ie_device *device = open_device(NULL, 1);
  ie_model *models[2];
  for (int plan = 0; plan < 2; plan++) {
    ie_model_options o = {.dense_weights = s->weights, .plan_only = plan};
    if (ie_model_open(device, s->golden->dir, &o, &models[plan], &error) != IE_OK)
      fail_msg("%s", error.message);
  }
  const ie_model_info *opened = ie_model_describe(models[0]), *planned = ie_model_describe(models[1]);
  assert_int_equal(opened->weights_copied_bytes, planned->weights_copied_bytes);
  assert_int_equal(opened->weights_replaced_bytes, planned->weights_replaced_bytes);
  assert_int_equal(opened->weights_bytes, planned->weights_bytes);
  assert_string_equal(opened->weights, planned->weights);
  assert_non_null(strstr(opened->weights, ie_wformat_describe(formats[s->weights])->name));
  assert_true(opened->weights_copied_bytes > 0 && opened->weights_replaced_bytes > 0);
  for (int64_t context = 2; context <= 64; context += 62) { /* of the embedding some rows, and all */
    ie_plan a, b;
    ie_plan_options o = {.state = {.context_tok = context}};
    assert_int_equal(ie_model_plan(models[0], &o, &a, &error), IE_OK);
    assert_int_equal(ie_model_plan(models[1], &o, &b, &error), IE_OK);
    assert_int_equal(a.peak_bytes, b.peak_bytes);
    assert_int_equal(a.resident_weights_bytes, b.resident_weights_bytes);
    assert_int_equal(a.minimum_bytes, b.minimum_bytes);
    assert_true(a.resident_weights_bytes >= opened->weights_copied_bytes);
    assert_true(a.resident_weights_bytes <= opened->weights_bytes + opened->weights_copied_bytes);
  }
  ie_model_free(models[0]);
  ie_model_free(models[1]);
  ie_device_free(device);
}

static void nan_is_refused_by_name(void **state) {
  const subject *s = *state;
  if (!has_config(s->golden->dir)) skip();
  char expected[256];
  char *twin = twin_make(s->golden->dir, formats[s->weights], true, expected);
  ie_error error = {0};
  ie_model *model;
  ie_device *device = open_device(NULL, 2);
  ie_model_options o = {.dense_weights = s->weights};
  assert_int_equal(ie_model_open(device, twin, &o, &model, &error), IE_FORMAT);
  assert_null(model);
  if (!strstr(error.message, expected)) fail_msg("'%s' is not in: %s", expected, error.message);
  o.dense_weights = IE_WEIGHTS_PUBLISHED;
  assert_int_equal(ie_model_open(device, twin, &o, &model, &error), IE_OK);
  ie_model_free(model);
  ie_device_free(device);
  tempdir_remove(twin);
}

static const struct {
  const char *name;
  CMUnitTestFunction function;
} checks[] = {
    {"equals_its_decoded_twin", equals_its_decoded_twin},
    {"threads_and_chunks_agree", threads_and_chunks_agree},
    {"instruction_sets_agree", instruction_sets_agree},
    {"bytes_are_planned", bytes_are_planned},
    {"nan_is_refused_by_name", nan_is_refused_by_name},
};
enum { CHECKS = sizeof checks / sizeof checks[0], MODELS = 16 };

int main(void) {
  static golden_model models[MODELS];
  static subject subjects[2 * MODELS];
  static struct CMUnitTest tests[2 * MODELS * CHECKS + 2];
  static char names[2 * MODELS * CHECKS][128];
  int count = golden_open_all("tests/data/models", models, MODELS), t = 0;
  tests[t++] = (struct CMUnitTest)cmocka_unit_test(bytes_are_those_of_blocks);
  tests[t++] = (struct CMUnitTest)cmocka_unit_test(first_bad_row_is_named);
  for (int i = 0; i < 2 * count; i += emulated_step(5)) {
    subjects[i] = (subject){&models[i / 2], i % 2 ? IE_WEIGHTS_INT4 : IE_WEIGHTS_INT8};
    for (int k = 0; k < CHECKS; k++) {
      char *name = names[i * CHECKS + k];
      snprintf(name, sizeof names[0], "%s %s %s", models[i / 2].name, i % 2 ? "int4" : "int8",
               checks[k].name);
      tests[t++] = (struct CMUnitTest){name, checks[k].function, NULL, NULL, &subjects[i]};
    }
  }
  int failed = count < 5 ? 1 : _cmocka_run_group_tests("quantised", tests, (size_t)t, NULL, NULL);
  for (int i = 0; i < count; i++) golden_close(&models[i]);
  return failed;
}
