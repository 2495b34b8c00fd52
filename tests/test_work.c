/* What ie_state_work_done says was read and computed: against the formula of two small models, step by step, and against
 * kernels that count what they are given to read. */
#include "base/size.h"
#include "blocks/kv_int8.h"
#include "clocher/clocher.h"
#include "tensor/device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* --- Kernels that count ------------------------------------------------------------------------------------------ */

typedef struct counts {
  atomic_uint_fast64_t weight_bytes, kv_bytes;
} counts;
static counts seen;

/* The kernels below ours. A product is told where it stands in the table by the function that is called. */
static ie_kernels original;

static void product_count(const ie_product *below, const ie_product_args *args, int64_t r0, int64_t r1,
                          void *scratch) {
  uint64_t bytes = 0;
  for (int part = 0; part < 2; part++)
    if (args->w.part[part]) bytes += ie_wformat_row_bytes(args->w.format, part, args->w.cols);
  atomic_fetch_add(&seen.weight_bytes, bytes * (uint64_t)(r1 - r0));
  below->run(args, r0, r1, scratch);
}

#define COUNTED(cls)                                                                                         \
  static void few_##cls(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch) {                \
    product_count(&original.few[cls][args->w.format], args, r0, r1, scratch);                                \
  }                                                                                                          \
  static void many_##cls(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch) {               \
    product_count(&original.many[cls][args->w.format], args, r0, r1, scratch);                               \
  }
COUNTED(IE_CLASS_F32)
COUNTED(IE_CLASS_BF16)
COUNTED(IE_CLASS_F16)
COUNTED(IE_CLASS_INT8)

/* Keys and values from the first to the last that some row sees. */
static void attend_count(const ie_attend_args *args) {
  int64_t first = INT64_MAX, last = 0;
  for (int64_t n = 0; n < args->N; n++) {
    if (args->lo[n] >= args->hi[n]) continue;
    first = ie_min_i64(first, args->lo[n]);
    last = ie_max_i64(last, args->hi[n]);
  }
  if (first < last) {
    int64_t keys = last - first, bytes = 2 * keys * args->D * (int64_t)ie_dtype_bytes(args->kv_dtype);
    if (args->kv_dtype == IE_I8) /* a scale for each channel of a group's keys, and for each value */
      bytes += 2 * ((ie_div_up(last, IE_KV_GROUP) - first / IE_KV_GROUP) * args->D + keys);
    atomic_fetch_add(&seen.kv_bytes, (uint64_t)bytes);
  }
  original.attend(args);
}

static void kernels_count(ie_kernels *kernels) {
  static void (*const few[])(const ie_product_args *, int64_t, int64_t, void *) = {
      few_IE_CLASS_F32, few_IE_CLASS_BF16, few_IE_CLASS_F16, few_IE_CLASS_INT8};
  static void (*const many[])(const ie_product_args *, int64_t, int64_t, void *) = {
      many_IE_CLASS_F32, many_IE_CLASS_BF16, many_IE_CLASS_F16, many_IE_CLASS_INT8};
  original = *kernels;
  for (int c = 0; c < IE_CLASS_COUNT; c++) {
    for (int f = 0; f < IE_W_COUNT; f++) {
      if (kernels->few[c][f].run) kernels->few[c][f].run = few[c];
      if (kernels->many[c][f].run) kernels->many[c][f].run = many[c];
    }
  }
  kernels->attend = attend_count;
}

/* --- A model ------------------------------------------------------------------------------------------------------ */

/* Dimensions as config.json of the model has them. */
typedef struct shape {
  const char *dir;
  int64_t layers, windowed, window; /* `windowed` of the layers see `window` keys */
  int64_t C, H, HK, D, F, E, k, V;  /* E = 0: dense */
} shape;

static const shape shapes[] = {
    {"tests/data/models/gpt-oss-hf", 3, 2, 8, 96, 5, 1, 24, 64, 5, 2, 259},
    {"tests/data/models/qwen3", 2, 0, 0, 72, 6, 1, 24, 104, 0, 0, 131},
};

typedef struct fixture {
  ie_device *device;
  ie_model *model;
  ie_state *state;
} fixture;

typedef struct setting {
  ie_precision precision;
  ie_weights weights;
  ie_dtype kv;
} setting;

static fixture fixture_open_as(const shape *s, setting how, int64_t chunk) {
  fixture f;
  ie_error error = {0};
  ie_state_options options = {.context_tok = 160, .chunk_tok = chunk, .kv = how.kv};
  ie_model_options opened = {.precision = how.precision, .dense_weights = how.weights};
  assert_int_equal(ie_device_open(&(ie_device_options){.threads = 2}, &f.device, &error), IE_OK);
  kernels_count(&f.device->kernels); /* before the model chooses its kernels */
  if (ie_model_open(f.device, s->dir, &opened, &f.model, &error) != IE_OK) fail_msg("%s", error.message);
  if (ie_state_new(f.model, &options, &f.state, &error) != IE_OK) fail_msg("%s", error.message);
  atomic_store(&seen.weight_bytes, 0);
  atomic_store(&seen.kv_bytes, 0);
  return f;
}

static fixture fixture_open(const shape *s, ie_precision precision, int64_t chunk) {
  return fixture_open_as(s, (setting){.precision = precision}, chunk);
}

static void fixture_close(fixture *f) {
  ie_state_free(f->state);
  ie_model_free(f->model);
  ie_device_free(f->device);
}

/* Numbers of all weights that each token multiplies with outside the experts: q, k, v, o, router or MLP; head apart. */
static int64_t dense_numbers(const shape *s) {
  int64_t attention = (s->H + 2 * s->HK) * s->D * s->C + s->C * s->H * s->D;
  return s->layers * (attention + (s->E ? s->E * s->C : 3 * s->F * s->C));
}
/* Bytes of `rows` rows of K numbers: bf16, or groups with an f16 scale each (docs/formats.md). */
static int64_t matrix_bytes(ie_weights weights, int64_t rows, int64_t K) {
  if (weights == IE_WEIGHTS_INT8) return rows * ie_div_up(K, 32) * (32 + 2);
  if (weights == IE_WEIGHTS_INT4) return rows * ie_div_up(K, 64) * (32 + 2);
  return 2 * rows * K;
}
/* The same numbers and the head's, as bytes; the router stays as published. */
static int64_t dense_bytes(const shape *s, ie_weights w) {
  int64_t attention = matrix_bytes(w, (s->H + 2 * s->HK) * s->D, s->C) + matrix_bytes(w, s->C, s->H * s->D);
  int64_t rest = s->E ? 2 * s->E * s->C : matrix_bytes(w, 2 * s->F, s->C) + matrix_bytes(w, s->C, s->F);
  return s->layers * (attention + rest) + matrix_bytes(w, s->V, s->C);
}
/* One expert: gate and up (2F, C), down (C, F). */
static int64_t expert_numbers(const shape *s) {
  return s->E ? 3 * s->F * s->C : 0;
}
static const int64_t mxfp4_block_bytes = 17, mxfp4_block = 32;

/* Keys that a token at position p sees in all layers. */
static int64_t keys_seen(const shape *s, int64_t p) {
  int64_t few = ie_min_i64(p + 1, s->window);
  return (s->layers - s->windowed) * (p + 1) + s->windowed * few;
}

/* What a token at position p reads of keys and values in int8: whole groups before its own with a scale for each channel
 * of a group's keys and for each value; its own group, and all of a layer with a window, in the f16 that stands for exact. */
static int64_t int8_kv_bytes(const shape *s, int64_t p) {
  int64_t groups = p / IE_KV_GROUP, exact = p % IE_KV_GROUP + 1, D = s->D;
  int64_t full = groups * (IE_KV_GROUP * 2 * D + 2 * (D + IE_KV_GROUP)) + exact * 2 * D * 2;
  return s->HK * ((s->layers - s->windowed) * full + s->windowed * ie_min_i64(p + 1, s->window) * 2 * D * 2);
}

static void step(fixture *f, int32_t id) {
  int32_t sequence = 0;
  const float *logits;
  ie_error error = {0};
  if (ie_state_step(f->state, &sequence, &id, 1, &logits, &error) != IE_OK) fail_msg("%s", error.message);
}

/* --- Tests --------------------------------------------------------------------------------------------------------- */

static void steps_follow_the_formula(void **state) {
  (void)state;
  static const ie_precision classes[] = {IE_PRECISION_FP32, IE_PRECISION_BF16, IE_PRECISION_INT8};
  for (int i = 0; i < 2 * 3; i++) {
    const shape *s = &shapes[i / 3];
    fixture f = fixture_open(s, classes[i % 3], 16);
    uint64_t kv_number = classes[i % 3] == IE_PRECISION_FP32 ? 4 : 2;
    for (int64_t p = 0; p < 100; p++) { /* the rings turn over: window 8, chunk 16, rollback of the context */
      ie_state_work before = ie_state_work_done(f.state);
      step(&f, (int32_t)(7 * p % s->V));
      ie_state_work after = ie_state_work_done(f.state);
      int64_t expert_bytes = s->layers * s->k * expert_numbers(s) / mxfp4_block * mxfp4_block_bytes;
      assert_int_equal(after.weight_bytes - before.weight_bytes,
                       2 * (dense_numbers(s) + s->V * s->C) + expert_bytes);
      assert_int_equal(after.kv_bytes - before.kv_bytes,
                       2 * kv_number * (uint64_t)(s->HK * s->D * keys_seen(s, p)));
      int64_t numbers = dense_numbers(s) + s->V * s->C + s->layers * s->k * expert_numbers(s);
      assert_int_equal(after.flop - before.flop, 2 * numbers + 4 * s->H * s->D * keys_seen(s, p));
    }
    ie_state_work all = ie_state_work_done(f.state);
    assert_int_equal(all.weight_bytes, atomic_load(&seen.weight_bytes));
    assert_int_equal(all.kv_bytes, atomic_load(&seen.kv_bytes));
    fixture_close(&f);
  }
}

/* Dense weights in int8 and int4, keys and values in int8: each has its own bytes, scales included. */
static void encodings_follow_the_formula(void **state) {
  (void)state;
  static const setting settings[] = {{IE_PRECISION_INT8, IE_WEIGHTS_INT8, IE_DTYPE_NONE},
                                     {IE_PRECISION_BF16, IE_WEIGHTS_INT8, IE_DTYPE_NONE},
                                     {IE_PRECISION_INT8, IE_WEIGHTS_INT4, IE_DTYPE_NONE},
                                     {IE_PRECISION_BF16, IE_WEIGHTS_INT4, IE_DTYPE_NONE},
                                     {IE_PRECISION_BF16, IE_WEIGHTS_PUBLISHED, IE_I8},
                                     {IE_PRECISION_INT8, IE_WEIGHTS_INT8, IE_I8}};
  enum { SETTINGS = sizeof settings / sizeof *settings, POSITIONS = 150 };
  for (int i = 0; i < 2 * SETTINGS; i++) {
    const shape *s = &shapes[i / SETTINGS];
    setting how = settings[i % SETTINGS];
    fixture f = fixture_open_as(s, how, 16);
    for (int64_t p = 0; p < POSITIONS; p++) { /* two whole groups of int8, and a part of a third */
      ie_state_work before = ie_state_work_done(f.state);
      step(&f, (int32_t)(7 * p % s->V));
      ie_state_work after = ie_state_work_done(f.state);
      int64_t expert_bytes = s->layers * s->k * expert_numbers(s) / mxfp4_block * mxfp4_block_bytes;
      int64_t kv = how.kv == IE_I8 ? int8_kv_bytes(s, p) : 4 * s->HK * s->D * keys_seen(s, p);
      assert_int_equal(after.weight_bytes - before.weight_bytes, dense_bytes(s, how.weights) + expert_bytes);
      assert_int_equal(after.kv_bytes - before.kv_bytes, kv);
    }
    ie_state_work all = ie_state_work_done(f.state);
    assert_int_equal(all.weight_bytes, atomic_load(&seen.weight_bytes));
    assert_int_equal(all.kv_bytes, atomic_load(&seen.kv_bytes));
    fixture_close(&f);
  }
}

/* Chunks: every weight once a forward, of the experts those that some token chose; the head for the last token alone. */
static void prompts_are_what_kernels_read(void **state) {
  (void)state;
  static const int64_t chunks[] = {1, 5, 16, 48};
  int32_t ids[48];
  for (int i = 0; i < 48; i++) ids[i] = 11 * i % 131;
  for (int i = 0; i < 2 * 4; i++) {
    const shape *s = &shapes[i / 4];
    ie_error error = {0};
    fixture f = fixture_open(s, IE_PRECISION_BF16, chunks[i % 4]);
    if (ie_state_append(f.state, 0, ids, 48, NULL, &error) != IE_OK) fail_msg("%s", error.message);
    ie_state_work work = ie_state_work_done(f.state);
    assert_int_equal(work.weight_bytes, atomic_load(&seen.weight_bytes));
    assert_int_equal(work.kv_bytes, atomic_load(&seen.kv_bytes));
    int64_t forwards = ie_div_up(48, chunks[i % 4]);
    int64_t experts = (int64_t)work.weight_bytes - 2 * (forwards * dense_numbers(s) + s->V * s->C);
    int64_t one = expert_numbers(s) / mxfp4_block * mxfp4_block_bytes;
    if (one == 0) {
      assert_int_equal(experts, 0);
    } else {
      assert_int_equal(experts % one, 0);
      assert_in_range(experts / one, forwards * s->layers * s->k, forwards * s->layers * s->E);
      if (chunks[i % 4] == 1) assert_int_equal(experts / one, forwards * s->layers * s->k);
    }
    int64_t keys = 0;
    for (int64_t p = 0; p < 48; p++) keys += keys_seen(s, p);
    int64_t numbers = dense_numbers(s) + s->layers * s->k * expert_numbers(s);
    assert_int_equal(work.flop, 2 * (48 * numbers + s->V * s->C) + 4 * s->H * s->D * keys);
    fixture_close(&f);
  }
}

/* A cache filled for a measurement is read as one that was computed; the same again to the bit, another sequence not. */
static void a_random_cache_is_a_cache(void **state) {
  (void)state;
  const shape *s = &shapes[0];
  ie_error error = {0};
  fixture f = fixture_open(s, IE_PRECISION_BF16, 16);
  float first[259], again[259];
  for (int turn = 0; turn < 2; turn++) {
    if (ie_state_fill_random(f.state, 0, 100, &error) != IE_OK) fail_msg("%s", error.message);
    assert_int_equal(ie_state_length(f.state, 0), 100);
    ie_state_work before = ie_state_work_done(f.state);
    int32_t sequence = 0, id = 5;
    const float *logits;
    if (ie_state_step(f.state, &sequence, &id, 1, &logits, &error) != IE_OK) fail_msg("%s", error.message);
    ie_state_work after = ie_state_work_done(f.state);
    assert_int_equal(after.kv_bytes - before.kv_bytes, 4 * s->HK * s->D * keys_seen(s, 100));
    memcpy(turn ? again : first, logits, sizeof first);
  }
  assert_memory_equal(first, again, sizeof first);
  /* going back within what rings hold, and another depth */
  assert_int_equal(ie_state_rollback(f.state, 0, 90, &error), IE_OK);
  assert_int_equal(ie_state_fill_random(f.state, 0, 3, &error), IE_OK);
  step(&f, 5);
  assert_memory_not_equal(ie_state_logits(f.state) ? ie_state_logits(f.state) : again, first, sizeof first);
  assert_int_equal(ie_state_fill_random(f.state, 0, 0, &error), IE_OK);
  assert_int_equal(ie_state_length(f.state, 0), 0);
  assert_int_equal(ie_state_fill_random(f.state, 0, 161, &error), IE_LIMIT);
  assert_int_equal(ie_state_fill_random(f.state, 1, 3, &error), IE_INVALID_ARGUMENT);
  fixture_close(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(steps_follow_the_formula),
      cmocka_unit_test(encodings_follow_the_formula),
      cmocka_unit_test(prompts_are_what_kernels_read),
      cmocka_unit_test(a_random_cache_is_a_cache),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
