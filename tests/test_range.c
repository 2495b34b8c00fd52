/* GPT-NeoX whose numbers leave the range of f16, as those of a 20B model do: the residual stream is f32 in every
 * class, so it may; the input of a product in class fp16 may not, and that is an error which names its place, never an
 * answer. All factors are powers of two, so that the right answer is known: the same model without them. */
#include "support/golden.h"
#include "support/program.h"
#include "support/random_model.h"
#include "support/tempdir.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { T = 20 };
static const int32_t ids[T] = {1, 2, 3, 130, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 17, 18, 130, 20};
static const char ids_text[] = "1,2,3,130,5,6,7,8,9,10,11,12,13,14,15,0,17,18,130,20";

static const random_model plain = {.arch = RANDOM_GPT_NEOX,
                                   .layers = 3,
                                   .width = 72,
                                   .ffn = 104,
                                   .heads = 6,
                                   .kv_heads = 6,
                                   .head_dim = 12,
                                   .vocab = 131,
                                   .dtype = IE_BF16,
                                   .seed = 20};

static ie_device *device;
static char *dir; /* of the model at hand */

static int group_begin(void **state) {
  (void)state;
  ie_error error;
  return ie_device_open(NULL, &device, &error) == IE_OK ? 0 : -1;
}
static int group_end(void **state) {
  (void)state;
  ie_device_free(device);
  return 0;
}
static int dir_make(void **state) {
  (void)state;
  dir = tempdir_make();
  return 0;
}
static int dir_remove(void **state) {
  (void)state;
  tempdir_remove(dir);
  return 0;
}

/* The largest number of a residual stream. */
typedef struct extremes {
  float residual;
} extremes;

static ie_status hidden_look(void *arg, int64_t layer, int64_t position, int64_t count, const float *hidden,
                             ie_error *error) {
  extremes *e = arg;
  (void)position, (void)error, (void)layer;
  for (int64_t i = 0; i < count * plain.width; i++) {
    assert_true(isfinite(hidden[i]));
    e->residual = fmaxf(e->residual, fabsf(hidden[i]));
  }
  return IE_OK;
}

static float kept[T * 131];

static ie_status logits_keep(void *arg, int64_t position, int64_t count, const float *logits,
                             ie_error *error) {
  (void)arg, (void)error;
  memcpy(kept + position * plain.vocab, logits, (size_t)(count * plain.vocab) * sizeof(float));
  return IE_OK;
}

/* Computes the logits of all positions into `kept`. */
static ie_status compute(const random_model *m, ie_precision precision, ie_dtype kv, extremes *e,
                         ie_error *error) {
  ie_model *model;
  ie_state *state = NULL;
  random_model_write(m, dir);
  if (ie_model_open(device, dir, &(ie_model_options){.precision = precision}, &model, error) != IE_OK)
    fail_msg("%s", error->message);
  ie_status status = ie_state_new(model, &(ie_state_options){.context_tok = T, .kv = kv}, &state, error);
  assert_int_equal(status, IE_OK);
  ie_append_options o = {
      .all_logits = true, .logits = logits_keep, .hidden = e ? hidden_look : NULL, .arg = e};
  memset(kept, 0xFF, sizeof kept);
  status = ie_state_append(state, 0, ids, T, &o, error);
  ie_state_free(state);
  ie_model_free(model);
  return status;
}

static const ie_precision classes[] = {IE_PRECISION_FP32, IE_PRECISION_BF16, IE_PRECISION_FP16,
                                       IE_PRECISION_INT8};

/* A residual stream of millions: the answer of the same model at 1, in every class. */
static void the_residual_may_leave_f16(void **state) {
  (void)state;
  static float expected[T * 131];
  random_model large = plain;
  large.residual_log2 = 21;
  ie_error error;
  for (int c = 0; c < 4; c++) {
    extremes e = {0};
    if (compute(&plain, classes[c], IE_DTYPE_NONE, &e, &error) != IE_OK) fail_msg("%s", error.message);
    assert_true(e.residual < 100);
    memcpy(expected, kept, sizeof kept);
    e = (extremes){0};
    if (compute(&large, classes[c], IE_DTYPE_NONE, &e, &error) != IE_OK) fail_msg("%s", error.message);
    assert_true(e.residual > 1e6f);
    double difference = golden_error(kept, expected, T * plain.vocab);
    if (!(difference <= 1e-6)) fail_msg("%s: %.1e", ie_precision_name(classes[c]), difference);
  }
}

static void expect_numeric(const random_model *m, const char *tensor) {
  ie_error error = {0};
  extremes e = {0};
  assert_int_equal(compute(m, IE_PRECISION_FP16, IE_F32, &e, &error), IE_NUMERIC);
  assert_int_equal(error.status, IE_NUMERIC);
  if (!strstr(error.message, tensor) || !strstr(error.message, "layer 0"))
    fail_msg("expected layer 0 and '%s', found: %s", tensor, error.message);
}

/* Attention's result, which attention.dense reads, beyond 65504. */
static void an_input_beyond_f16_is_named(void **state) {
  (void)state;
  static float expected[T * 131];
  random_model values = plain;
  values.value_log2 = 20;
  ie_error error;
  expect_numeric(&values, "residual after attention");
  for (int c = 0; c < 4; c++) {
    if (classes[c] == IE_PRECISION_FP16) continue;
    if (compute(&plain, classes[c], IE_F32, NULL, &error) != IE_OK) fail_msg("%s", error.message);
    memcpy(expected, kept, sizeof kept);
    if (compute(&values, classes[c], IE_F32, NULL, &error) != IE_OK) fail_msg("%s", error.message);
    double difference = golden_error(kept, expected, T * plain.vocab);
    if (!(difference <= 1e-6)) fail_msg("%s: %.1e", ie_precision_name(classes[c]), difference);
  }
  /* f16 keys and values do not hold such values either, and say what does. */
  assert_int_equal(compute(&values, IE_PRECISION_BF16, IE_F16, NULL, &error), IE_NUMERIC);
  assert_non_null(strstr(error.message, "KV cache of f16"));
}

/* The MLP's hidden layer, which dense_4h_to_h reads. Its activation is no linear function, so the right answer is that
 * of class fp32, and bf16 is near it. */
static void a_hidden_layer_beyond_f16_is_named(void **state) {
  (void)state;
  static float expected[T * 131];
  random_model mlp = plain;
  mlp.mlp_log2 = 20;
  ie_error error;
  expect_numeric(&mlp, "residual after the MLP");
  if (compute(&mlp, IE_PRECISION_FP32, IE_F32, NULL, &error) != IE_OK) fail_msg("%s", error.message);
  memcpy(expected, kept, sizeof kept);
  if (compute(&mlp, IE_PRECISION_BF16, IE_F32, NULL, &error) != IE_OK) fail_msg("%s", error.message);
  assert_true(golden_error(kept, expected, T * plain.vocab) < 0.1);
  assert_true(golden_error(kept, expected, T * plain.vocab) > 0);
}

static json_t *row_of(const json_t *result, size_t i) {
  return json_array_get(json_object_get(result, "rows"), i);
}

/* The program: exit 1, the place on stderr, and no result anywhere. */
static void the_program_prints_no_result(void **state) {
  (void)state;
  random_model values = plain;
  values.value_log2 = 20;
  random_model_write(&values, dir);
  static const char *const commands[] = {"run", "run --print-ids"};
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
    program_result r =
        program_run("%s --model-dir %s --ids %s --max-new 4 --greedy --precision fp16 --kv f32", commands[i],
                    dir, ids_text);
    assert_int_equal(r.code, 1);
    assert_int_equal(r.out_size, 0);
    assert_non_null(strstr(r.err, "layer 0"));
    assert_non_null(strstr(r.err, "residual after attention"));
    program_free(&r);
  }
  program_result r = program_run(
      "run --json --model-dir %s --ids %s --max-new 4 --greedy --precision fp16 --kv f32", dir, ids_text);
  assert_int_equal(r.code, 1);
  assert_non_null(strstr(r.err, "residual after attention"));
  json_t *v = json_loads(r.out, 0, NULL), *row = row_of(v, 0);
  assert_string_equal(json_string_value(json_object_get(row, "stop_reason")), "error");
  assert_non_null(strstr(json_string_value(json_object_get(row, "error")), "residual after attention"));
  assert_int_equal(json_array_size(json_object_get(row, "new_ids")), 0);
  assert_true(json_is_array(json_object_get(row, "new_ids")));
  assert_int_equal(json_array_size(json_object_get(v, "rows")), 1);
  json_decref(v);
  program_free(&r);
  const char *out = tempdir_path(dir, "logits.safetensors");
  program_expect(1, "residual after attention",
                 "logits --model-dir %s --ids %s --precision fp16 --kv f32 --out %s", dir, ids_text, out);
  ie_tensor_file *file;
  assert_int_not_equal(ie_tensor_file_open(out, &file, NULL), IE_OK);
  program_expect(1, "KV cache of f16", "run --model-dir %s --ids %s --max-new 4 --precision bf16", dir,
                 ids_text);
  program_expect(0, NULL, "run --model-dir %s --ids %s --max-new 4 --precision bf16 --kv bf16", dir,
                 ids_text);
  program_expect(0, NULL, "run --model-dir %s --ids %s --max-new 4 --precision fp32", dir, ids_text);
  program_expect(0, NULL, "logits --model-dir %s --ids %s --precision bf16 --kv f32 --out %s", dir, ids_text,
                 out);
}

/* A row that fails ends alone, wherever it stands; the others are what they are without it. */
static void a_failed_row_leaves_the_others(void **state) {
  (void)state;
  static const char flags[] = "--max-new 4 --greedy --ignore-eos --precision fp32 --deterministic";
  random_model values = plain;
  values.poisoned = true;
  random_model_write(&values, dir);
  program_result one = program_run("run --model-dir %s --ids 1,2 %s", dir, flags);
  assert_int_equal(one.code, 0);
  for (int batch = 1; batch <= 3; batch += 2) {
    char expected[256];
    snprintf(expected, sizeof expected, "\n%s\n%s", one.out, one.out);
    program_result r =
        program_run("run --model-dir %s --ids '5,0;1,2;0;1,2' --batch %d %s", dir, batch, flags);
    assert_int_equal(r.code, 1);
    assert_string_equal(r.out, expected);
    assert_non_null(strstr(r.err, "row 1: "));
    assert_non_null(strstr(r.err, "row 3: "));
    assert_null(strstr(r.err, "row 2: "));
    program_free(&r);
    r = program_run("run --json --quiet --model-dir %s --ids '5,0;1,2;0;1,2' --batch %d %s --logprobs 2", dir,
                    batch, flags);
    assert_int_equal(r.code, 1);
    json_t *v = json_loads(r.out, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(v, "rows")), 4);
    for (size_t i = 0; i < 4; i++) {
      json_t *row = row_of(v, i);
      const char *reason = json_string_value(json_object_get(row, "stop_reason"));
      assert_string_equal(reason, i % 2 ? "length" : "error");
      assert_int_equal(json_array_size(json_object_get(row, "new_ids")), i % 2 ? 4 : 0);
      assert_true(json_is_string(json_object_get(row, "error")) == (i % 2 == 0));
      assert_null(json_object_get(row, "cancelled"));
    }
    json_decref(v);
    program_free(&r);
  }
  program_free(&one);
  char saved[1024];
  snprintf(saved, sizeof saved, "%s/saved.safetensors", dir);
  program_expect(1, "clocher: ", "run --model-dir %s --ids 5,0 %s --save-state %s", dir, flags, saved);
  assert_int_not_equal(access(saved, F_OK), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(the_residual_may_leave_f16, dir_make, dir_remove),
      cmocka_unit_test_setup_teardown(an_input_beyond_f16_is_named, dir_make, dir_remove),
      cmocka_unit_test_setup_teardown(a_hidden_layer_beyond_f16_is_named, dir_make, dir_remove),
      cmocka_unit_test_setup_teardown(the_program_prints_no_result, dir_make, dir_remove),
      cmocka_unit_test_setup_teardown(a_failed_row_leaves_the_others, dir_make, dir_remove),
  };
  return cmocka_run_group_tests(tests, group_begin, group_end);
}
