/* Two ways to the same numbers: threads, chunks, steps of several sequences, going back, prefix reuse, saved and
 * restored states. On the committed golden models, in class fp32. Threads must agree to the bit; the others within
 * the twin tolerance (docs/testing.md). */
#include "support/golden.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct subject {
  golden_model *golden;
  ie_device *device;
  ie_model *model;
  double tolerance;
} subject;

static ie_model *open_model(ie_device *device, const char *dir, ie_precision precision) {
  ie_error error = {0};
  ie_model *model;
  if (ie_model_open(device, dir, &(ie_model_options){.precision = precision}, &model, &error) != IE_OK)
    fail_msg("%s", error.message);
  return model;
}

static ie_device *open_device(const char *isa, int threads) {
  ie_error error = {0};
  ie_device *device;
  if (ie_device_open(&(ie_device_options){.isa = isa, .threads = threads}, &device, &error) != IE_OK)
    fail_msg("%s", error.message);
  return device;
}

static ie_state *open_state(ie_model *model, const ie_state_options *options) {
  ie_error error = {0};
  ie_state *state;
  if (ie_state_new(model, options, &state, &error) != IE_OK) fail_msg("%s", error.message);
  return state;
}

static void append(ie_state *state, int64_t sequence, const int32_t *ids, int64_t n) {
  ie_error error = {0};
  if (ie_state_append(state, sequence, ids, n, NULL, &error) != IE_OK) fail_msg("%s", error.message);
}

/* The longest case, whose prompt is longer than every window. */
static const golden_case *longest(const subject *s) {
  return &s->golden->cases[s->golden->count - 1];
}

/* Logits of the longest case, computed in one way: kept in *first (to be freed) when that is NULL, else the same to
 * the bit. */
static void bits_check(const subject *s, const ie_model_options *options, int threads, int64_t chunk,
                       float **first) {
  const golden_case *c = longest(s);
  ie_error error = {0};
  ie_model *model;
  ie_device *device = open_device(NULL, threads);
  if (ie_model_open(device, s->golden->dir, options, &model, &error) != IE_OK) fail_msg("%s", error.message);
  float *logits = golden_logits(model, c->ids, c->T, chunk);
  if (*first && memcmp(*first, logits, (size_t)(c->T * c->V) * sizeof(float)) != 0)
    fail_msg("%s %s: %d threads, chunk %d differ", s->golden->name, ie_precision_name(options->precision),
             threads, (int)chunk);
  if (*first)
    free(logits);
  else
    *first = logits;
  ie_model_free(model);
  ie_device_free(device);
}

static void threads_agree_to_the_bit(void **state) {
  const subject *s = *state;
  static const ie_precision classes[] = {IE_PRECISION_FP32, IE_PRECISION_BF16, IE_PRECISION_FP16,
                                         IE_PRECISION_INT8};
  for (size_t p = 0; p < sizeof classes / sizeof classes[0]; p++) {
    float *first = NULL;
    for (int threads = 1; threads <= 5; threads += threads == 1 ? 1 : 3) {
      ie_model_options options = {.precision = classes[p]};
      bits_check(s, &options, threads, /*chunk=*/0, &first);
    }
    free(first);
  }
}

static void chunks_agree(void **state) {
  const subject *s = *state;
  const golden_case *c = longest(s);
  float *whole = golden_logits(s->model, c->ids, c->T, /*chunk=*/0);
  static const int64_t chunks[] = {1, 7, 33, 64};
  for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
    float *logits = golden_logits(s->model, c->ids, c->T, chunks[i]);
    double error = golden_error(logits, whole, c->T * c->V);
    free(logits);
    if (!(error <= s->tolerance))
      fail_msg("%s chunk %lld: %.1e", s->golden->name, (long long)chunks[i], error);
  }
  free(whole);
}

/* With `deterministic`, in every class: chunks and threads to the bit. */
static void deterministic_agrees_to_the_bit(void **state) {
  const subject *s = *state;
  static const struct {
    int threads;
    int64_t chunk;
  } ways[] = {{2, 0}, {1, 1}, {3, 7}, {2, 33}};
  for (int precision = IE_PRECISION_BF16; precision <= IE_PRECISION_INT8; precision++) {
    float *first = NULL;
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
      ie_model_options options = {.precision = (ie_precision)precision, .deterministic = true};
      bits_check(s, &options, ways[i].threads, ways[i].chunk, &first);
    }
    free(first);
  }
}

static void instruction_sets_agree(void **state) {
  const subject *s = *state;
  const golden_case *c = longest(s);
  float *best = golden_logits(s->model, c->ids, c->T, /*chunk=*/0);
  for (int i = 0; ie_device_isa_list()[i]; i++) {
    ie_device *device = open_device(ie_device_isa_list()[i], 0);
    ie_model *model = open_model(device, s->golden->dir, IE_PRECISION_FP32);
    float *logits = golden_logits(model, c->ids, c->T, /*chunk=*/0);
    double error = golden_error(logits, best, c->T * c->V);
    if (!(error <= s->tolerance)) fail_msg("%s: %.1e", ie_device_isa_list()[i], error);
    free(logits);
    ie_model_free(model);
    ie_device_free(device);
  }
  free(best);
}

/* Several sequences of different lengths, advanced together, equal each one alone. */
static void steps_of_several_sequences_agree(void **state) {
  const subject *s = *state;
  enum { ROWS = 3, STEPS = 6 };
  const golden_case *c = longest(s);
  ie_error error = {0};
  ie_state *together = open_state(s->model, &(ie_state_options){.context_tok = c->T, .sequences = ROWS});
  ie_state *alone = open_state(s->model, &(ie_state_options){.context_tok = c->T});
  const int64_t start[ROWS] = {3, 20, c->T - STEPS - 1};
  for (int r = 0; r < ROWS; r++) append(together, r, c->ids + r, start[r]);
  for (int step = 0; step < STEPS; step++) {
    const int32_t rows[ROWS] = {2, 0, 1};
    int32_t ids[ROWS];
    const float *logits;
    for (int i = 0; i < ROWS; i++) ids[i] = c->ids[rows[i] + start[rows[i]] + step];
    if (ie_state_step(together, rows, ids, ROWS, &logits, &error) != IE_OK) fail_msg("%s", error.message);
    for (int i = 0; i < ROWS; i++) {
      if (ie_state_rollback(alone, 0, 0, &error) != IE_OK) fail_msg("%s", error.message);
      append(alone, 0, c->ids + rows[i], start[rows[i]] + step + 1);
      double e = golden_error(logits + i * c->V, ie_state_logits(alone), c->V);
      if (!(e <= s->tolerance)) fail_msg("row %d step %d: %.1e", i, step, e);
    }
  }
  ie_state_free(together);
  ie_state_free(alone);
}

static void rollback_and_prefix_reuse_agree(void **state) {
  const subject *s = *state;
  const golden_case *c = longest(s);
  ie_error error = {0};
  int64_t kept, shared = c->T / 2;
  int32_t *other = malloc((size_t)c->T * sizeof *other);
  for (int64_t i = 0; i < c->T; i++) other[i] = i < shared ? c->ids[i] : (c->ids[i] + 1) % (int32_t)c->V;
  ie_state *fresh = open_state(s->model, &(ie_state_options){.context_tok = c->T});
  append(fresh, 0, other, c->T);
  ie_state *reused = open_state(s->model, &(ie_state_options){.context_tok = c->T, .chunk_tok = 16});
  append(reused, 0, c->ids, c->T);
  assert_int_equal(ie_state_sync(reused, 0, other, c->T, &kept, &error), IE_OK);
  assert_int_equal(kept, shared);
  append(reused, 0, other + kept, c->T - kept);
  assert_true(golden_error(ie_state_logits(reused), ie_state_logits(fresh), c->V) <= s->tolerance);
  /* The same prompt again: all but the last token is kept. */
  assert_int_equal(ie_state_sync(reused, 0, other, c->T, &kept, &error), IE_OK);
  assert_int_equal(kept, c->T - 1);
  ie_state_free(reused);

  /* Without room to go back, rings are honest: rollback refuses, sync starts again, the logits are the same. */
  ie_state *tight =
      open_state(s->model, &(ie_state_options){.context_tok = c->T, .chunk_tok = 1, .rollback_tok = -1});
  append(tight, 0, c->ids, c->T);
  bool windows = strncmp(s->golden->name, "gpt-oss", 7) == 0;
  if (windows) {
    assert_int_equal(ie_state_rollback(tight, 0, 1, &error), IE_LIMIT);
    assert_int_equal(ie_state_length(tight, 0), c->T);
  }
  assert_int_equal(ie_state_sync(tight, 0, other, c->T, &kept, &error), IE_OK);
  assert_int_equal(kept, windows ? 0 : shared);
  append(tight, 0, other + kept, c->T - kept);
  assert_true(golden_error(ie_state_logits(tight), ie_state_logits(fresh), c->V) <= s->tolerance);
  ie_state_free(tight);
  ie_state_free(fresh);
  free(other);
}

static void restored_state_continues(void **state) {
  const subject *s = *state;
  const golden_case *c = longest(s);
  ie_error error = {0};
  char path[64];
  snprintf(path, sizeof path, "/tmp/clocher-test-state.%d.safetensors", (int)getpid());
  for (int tight = 0; tight < 2; tight++) {
    ie_state_options options = {.context_tok = c->T, .chunk_tok = 5, .rollback_tok = tight ? -1 : 0};
    ie_state *saved = open_state(s->model, &options);
    append(saved, 0, c->ids, c->T - 4);
    if (ie_state_save(saved, 0, path, &error) != IE_OK) fail_msg("%s", error.message);
    append(saved, 0, c->ids + c->T - 4, 4);
    ie_state *restored = open_state(s->model, &options);
    if (ie_state_load(restored, 0, path, &error) != IE_OK) fail_msg("%s", error.message);
    assert_int_equal(ie_state_length(restored, 0), c->T - 4);
    assert_memory_equal(ie_state_ids(restored, 0), c->ids, (size_t)(c->T - 4) * sizeof(int32_t));
    append(restored, 0, c->ids + c->T - 4, 4);
    assert_memory_equal(ie_state_logits(restored), ie_state_logits(saved), (size_t)c->V * sizeof(float));
    ie_state_free(saved);
    ie_state_free(restored);
    /* A context that is too small, another KV type: refused, and the state stays empty. */
    ie_state *small = open_state(s->model, &(ie_state_options){.context_tok = c->T - 5});
    assert_int_equal(ie_state_load(small, 0, path, &error), IE_LIMIT);
    assert_int_equal(ie_state_length(small, 0), 0);
    ie_state_free(small);
    ie_state *bf16 = open_state(s->model, &(ie_state_options){.context_tok = c->T, .kv = IE_BF16});
    assert_int_equal(ie_state_load(bf16, 0, path, &error), IE_FORMAT);
    ie_state_free(bf16);
  }
  unlink(path);
}

/* Saved with a short ring, loaded where rings are longer: nothing that full layers hold is lost, one token back and
 * saving again work. */
static void restored_with_other_chunks(void **state) {
  const subject *s = *state;
  const golden_case *c = longest(s);
  ie_error error = {0};
  char path[64];
  snprintf(path, sizeof path, "/tmp/clocher-test-chunks.%d.safetensors", (int)getpid());
  ie_state *tight =
      open_state(s->model, &(ie_state_options){.context_tok = c->T, .chunk_tok = 1, .rollback_tok = -1});
  append(tight, 0, c->ids, c->T - 1);
  if (ie_state_save(tight, 0, path, &error) != IE_OK) fail_msg("%s", error.message);
  ie_state *wide = open_state(s->model, &(ie_state_options){.context_tok = c->T, .chunk_tok = 64});
  for (int round = 0; round < 2; round++) {
    int64_t kept;
    if (ie_state_load(wide, 0, path, &error) != IE_OK) fail_msg("%s", error.message);
    if (ie_state_sync(wide, 0, c->ids, c->T, &kept, &error) != IE_OK) fail_msg("%s", error.message);
    assert_int_equal(kept, c->T - 1);
    append(wide, 0, c->ids + kept, c->T - kept);
    ie_state *fresh = open_state(s->model, &(ie_state_options){.context_tok = c->T});
    append(fresh, 0, c->ids, c->T);
    assert_true(golden_error(ie_state_logits(wide), ie_state_logits(fresh), c->V) <= s->tolerance);
    ie_state_free(fresh);
    if (ie_state_rollback(wide, 0, c->T - 1, &error) != IE_OK) fail_msg("%s", error.message);
    if (ie_state_save(wide, 0, path, &error) != IE_OK) fail_msg("%s", error.message);
  }
  ie_state_free(wide);
  ie_state_free(tight);
  unlink(path);
}

static bool count_down(void *arg) {
  return --*(int *)arg < 0;
}

static void limits_are_refused_before_computing(void **state) {
  const subject *s = *state;
  const golden_case *c = &s->golden->cases[0];
  ie_error error = {0};
  ie_state *st = open_state(s->model, &(ie_state_options){.context_tok = c->T + 2, .chunk_tok = 2});
  ie_generate_result r;
  ie_generate_options o = {.prompt = c->ids, .prompt_count = c->T, .max_new = 3, .sample = {.greedy = true}};
  assert_int_equal(ie_generate(st, 0, &o, &r, &error), IE_LIMIT);
  assert_int_equal(ie_state_work_done(st).forwards, 0);
  int32_t bad[2] = {0, (int32_t)c->V};
  assert_int_equal(ie_state_append(st, 0, bad, 2, NULL, &error), IE_INVALID_ARGUMENT);
  bad[1] = -1;
  assert_int_equal(ie_state_append(st, 0, bad, 2, NULL, &error), IE_INVALID_ARGUMENT);
  assert_int_equal(ie_state_append(st, 1, bad, 1, NULL, &error), IE_INVALID_ARGUMENT);
  assert_int_equal(ie_state_work_done(st).forwards, 0);
  /* A prompt that is cancelled between chunks keeps the chunks that were computed. */
  int left = 1;
  ie_append_options cancel = {.cancelled = count_down, .cancelled_arg = &left};
  assert_int_equal(ie_state_append(st, 0, c->ids, c->T, &cancel, &error), IE_CANCELLED);
  assert_int_equal(ie_state_length(st, 0), 0); /* in the first chunk */
  left = 2 +
         (int)ie_model_describe(s->model)->layers; /* the questions of the first chunk, and one of the next */
  assert_int_equal(ie_state_append(st, 0, c->ids, c->T, &cancel, &error), IE_CANCELLED);
  assert_int_equal(ie_state_length(st, 0), 2);
  ie_state_free(st);
}

static const struct {
  const char *name;
  CMUnitTestFunction function;
} checks[] = {
    {"threads_agree_to_the_bit", threads_agree_to_the_bit},
    {"chunks_agree", chunks_agree},
    {"deterministic_agrees_to_the_bit", deterministic_agrees_to_the_bit},
    {"instruction_sets_agree", instruction_sets_agree},
    {"steps_of_several_sequences_agree", steps_of_several_sequences_agree},
    {"rollback_and_prefix_reuse_agree", rollback_and_prefix_reuse_agree},
    {"restored_state_continues", restored_state_continues},
    {"restored_with_other_chunks", restored_with_other_chunks},
    {"limits_are_refused_before_computing", limits_are_refused_before_computing},
};
enum { CHECKS = sizeof checks / sizeof checks[0] };

/* Stands for the larger models where there are none. */
static void models_of_test_data(void **state) {
  (void)state;
  skip();
}

int main(void) {
  static golden_model models[GOLDEN_MODELS_MAX];
  static subject subjects[GOLDEN_MODELS_MAX];
  static struct CMUnitTest tests[GOLDEN_MODELS_MAX * CHECKS + 1];
  static char names[GOLDEN_MODELS_MAX * CHECKS][128];
  const char *data = getenv("CLOCHER_TEST_DATA");
  char shared[1024];
  int count = golden_open_all("tests/data/models", models, GOLDEN_MODELS_MAX), t = 0;
  if (data) {
    snprintf(shared, sizeof shared, "%s/golden/models", data);
    count += golden_open_all(shared, models + count, GOLDEN_MODELS_MAX - count);
  }
  ie_error error;
  ie_device *device;
  if (count == 0 || ie_device_open(NULL, &device, &error) != IE_OK) return 1;
  for (int m = 0; m < count; m++) {
    subjects[m] = (subject){.golden = &models[m], .device = device};
    subjects[m].tolerance = fmax(2e-5, 4 * models[m].noise);
    ie_model_options options = {.precision = IE_PRECISION_FP32};
    if (ie_model_open(device, models[m].dir, &options, &subjects[m].model, &error) != IE_OK) {
      print_error("%s\n", error.message);
      return 1;
    }
    for (int c = 0; c < CHECKS; c++, t++) {
      snprintf(names[t], sizeof names[t], "%s %s", checks[c].name, models[m].name);
      tests[t] = (struct CMUnitTest){
          .name = names[t], .test_func = checks[c].function, .initial_state = &subjects[m]};
    }
  }
  if (!data) tests[t++] = (struct CMUnitTest)cmocka_unit_test(models_of_test_data);
  int failed = _cmocka_run_group_tests("twins", tests, (size_t)t, NULL, NULL);
  for (int m = 0; m < count; m++) {
    ie_model_free(subjects[m].model);
    golden_close(&models[m]);
  }
  ie_device_free(device);
  return failed;
}
