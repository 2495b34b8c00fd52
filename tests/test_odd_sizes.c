/* Sizes that are no multiple of anything, in every architecture: random models of prime and awkward dimensions give
 * the same logits with every instruction set, chunk size and number of rows together, in all four classes. Ids include
 * the last row of the embedding. */
#include "support/golden.h"
#include "support/random_model.h"
#include "support/tempdir.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const random_model models[] = {
    {.arch = RANDOM_GPT_OSS,
     .layers = 3,
     .width = 96,
     .ffn = 160,
     .heads = 5,
     .kv_heads = 1,
     .head_dim = 24,
     .vocab = 259,
     .experts = 5,
     .top_k = 3,
     .window = 7,
     .dtype = IE_BF16,
     .seed = 11},
    {.arch = RANDOM_GPT_OSS,
     .layers = 2,
     .width = 72,
     .ffn = 37,
     .heads = 3,
     .kv_heads = 3,
     .head_dim = 10,
     .vocab = 131,
     .experts = 3,
     .top_k = 1,
     .window = 5,
     .float_experts = true,
     .dtype = IE_BF16,
     .seed = 12},
    {.arch = RANDOM_QWEN2,
     .layers = 2,
     .width = 72,
     .ffn = 101,
     .heads = 6,
     .kv_heads = 2,
     .head_dim = 12,
     .vocab = 259,
     .dtype = IE_BF16,
     .seed = 13},
    {.arch = RANDOM_QWEN3,
     .layers = 3,
     .width = 59,
     .ffn = 113,
     .heads = 5,
     .kv_heads = 1,
     .head_dim = 24,
     .vocab = 257,
     .dtype = IE_F16,
     .seed = 14},
    {.arch = RANDOM_LLAMA,
     .layers = 2,
     .width = 67,
     .ffn = 31,
     .heads = 7,
     .kv_heads = 7,
     .head_dim = 6,
     .vocab = 61,
     .dtype = IE_F32,
     .seed = 15},
    {.arch = RANDOM_GPT_NEOX,
     .layers = 2,
     .width = 84,
     .ffn = 53,
     .heads = 7,
     .kv_heads = 7,
     .head_dim = 12,
     .vocab = 263,
     .dtype = IE_F16,
     .seed = 16},
    {.arch = RANDOM_NANOCHAT,
     .layers = 2,
     .width = 46,
     .ffn = 71,
     .heads = 4,
     .kv_heads = 1,
     .head_dim = 14,
     .vocab = 127,
     .dtype = IE_BF16,
     .seed = 17},
};
enum { MODELS = sizeof models / sizeof models[0], T = 45, ROWS = 5 };

typedef struct subject {
  const random_model *m;
  char *dir;
  int32_t ids[T];
} subject;

static ie_device *device_open(const char *isa, int threads) {
  ie_error error;
  ie_device *device;
  if (ie_device_open(&(ie_device_options){.isa = isa, .threads = threads}, &device, &error) != IE_OK)
    fail_msg("%s", error.message);
  return device;
}

static ie_model *model_open(const subject *s, ie_device *device, ie_precision precision, bool deterministic) {
  ie_error error;
  ie_model *model;
  ie_model_options options = {.precision = precision, .deterministic = deterministic};
  if (ie_model_open(device, s->dir, &options, &model, &error) != IE_OK) fail_msg("%s", error.message);
  return model;
}

static int float_compare(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return x < y ? -1 : x > y;
}

/* The median difference as a share of the largest logit: a rounded activation may fall to the other side, and a
 * router's choice with it, so the largest difference says nothing in classes that round. */
static double median_error(const float *a, const float *b, int64_t n) {
  float *d = malloc((size_t)n * sizeof *d), largest = 0;
  assert_non_null(d);
  for (int64_t i = 0; i < n; i++) {
    assert_true(isfinite(a[i]) && isfinite(b[i]));
    d[i] = fabsf(a[i] - b[i]);
    largest = fmaxf(largest, fabsf(b[i]));
  }
  qsort(d, (size_t)n, sizeof *d, float_compare);
  double median = (double)(d[n / 2] / largest);
  free(d);
  return median;
}

static void compare(const subject *s, ie_precision precision, const char *what, const float *a,
                    const float *b) {
  int64_t n = (int64_t)T * s->m->vocab;
  bool exact = precision == IE_PRECISION_FP32;
  double error = exact ? golden_error(a, b, n) : median_error(a, b, n);
  if (!(error <= (exact ? 2e-5 : 2e-3)))
    fail_msg("%s %s, %s: %.1e", random_arch_name(s->m->arch), ie_precision_name(precision), what, error);
}

static const ie_precision classes[] = {IE_PRECISION_FP32, IE_PRECISION_BF16, IE_PRECISION_FP16,
                                       IE_PRECISION_INT8};

/* Different positions and ids must give different logits: twins that are all zero would agree. */
static void check_alive(const subject *s, const float *logits) {
  int64_t V = s->m->vocab;
  for (int64_t t = 1; t < T; t++) assert_true(golden_error(logits + t * V, logits + (t - 1) * V, V) > 0.05);
}

static void instruction_sets_and_chunks_agree(void **state) {
  const subject *s = *state;
  for (int c = 0; c < 4; c++) {
    float *first = NULL;
    for (int i = 0; ie_device_isa_list()[i]; i++) {
      ie_device *device = device_open(ie_device_isa_list()[i], 2);
      ie_model *model = model_open(s, device, classes[c], false);
      static const int64_t chunks[] = {0, 1, 13, 31};
      for (size_t k = 0; k < sizeof chunks / sizeof chunks[0]; k++) {
        float *logits = golden_logits(model, s->ids, T, chunks[k]);
        char what[64];
        snprintf(what, sizeof what, "%s, chunk %d", ie_device_isa_list()[i], (int)chunks[k]);
        if (first) {
          compare(s, classes[c], what, logits, first);
          free(logits);
        } else {
          check_alive(s, logits);
          first = logits;
        }
      }
      ie_model_free(model);
      ie_device_free(device);
    }
    free(first);
  }
}

/* Rows of all lengths read in one forward each, in pieces of their own sizes, then one token together: with
 * `deterministic` the bits of each one alone. */
static void rows_agree_to_the_bit(void **state) {
  const subject *s = *state;
  const int64_t V = s->m->vocab;
  for (int i = 0; ie_device_isa_list()[i]; i++)
    for (int c = 0; c < 4; c++) {
      ie_device *device = device_open(ie_device_isa_list()[i], 3);
      ie_model *model = model_open(s, device, classes[c], true);
      ie_state *st;
      ie_error error;
      ie_state_options options = {.context_tok = T, .sequences = ROWS, .chunk_tok = 100};
      if (ie_state_new(model, &options, &st, &error) != IE_OK) fail_msg("%s", error.message);
      float *alone = golden_logits(model, s->ids, T, 0);
      int64_t done[ROWS] = {0};
      for (int step = 0; done[0] < T; step++) {
        ie_advance rows[ROWS];
        int64_t n = 0;
        for (int r = 0; r < ROWS; r++) {
          int64_t count = 1 + (r * 7 + step * 3) % 11;
          if (count > T - done[r]) count = T - done[r];
          if (count > 0)
            rows[n++] = (ie_advance){.sequence = r, .ids = s->ids + done[r], .count = count, .wanted = count};
        }
        if (ie_state_advance(st, rows, n, NULL, &error) != IE_OK) fail_msg("%s", error.message);
        for (int64_t k = 0; k < n; k++) {
          int64_t *at = &done[rows[k].sequence];
          size_t bytes = (size_t)(rows[k].count * V) * sizeof(float);
          if (memcmp(rows[k].logits, alone + *at * V, bytes) != 0)
            fail_msg("%s %s %s: row %d at %d differs", random_arch_name(s->m->arch),
                     ie_precision_name(classes[c]), ie_device_isa_list()[i], (int)rows[k].sequence, (int)*at);
          *at += rows[k].count;
        }
      }
      free(alone);
      ie_state_free(st);
      ie_model_free(model);
      ie_device_free(device);
    }
}

int main(void) {
  static subject subjects[MODELS];
  static struct CMUnitTest tests[2 * MODELS];
  static char names[2 * MODELS][96];
  static const CMUnitTestFunction functions[2] = {instruction_sets_and_chunks_agree, rows_agree_to_the_bit};
  static const char *const titles[2] = {"instruction_sets_and_chunks_agree", "rows_agree_to_the_bit"};
  for (int i = 0; i < MODELS; i++) {
    subject *s = &subjects[i];
    *s = (subject){.m = &models[i], .dir = tempdir_make()};
    random_model_write(s->m, s->dir);
    for (int t = 0; t < T; t++) /* the last id, the first one, and others */
      s->ids[t] = (int32_t)(t % 5 == 0 ? s->m->vocab - 1 : t % 7 == 0 ? 0 : (t * 37 + i) % s->m->vocab);
    for (int f = 0; f < 2; f++) {
      snprintf(names[2 * i + f], sizeof names[0], "%s %s %d", titles[f], random_arch_name(s->m->arch), i);
      tests[2 * i + f] =
          (struct CMUnitTest){.name = names[2 * i + f], .test_func = functions[f], .initial_state = s};
    }
  }
  int failed = _cmocka_run_group_tests("odd_sizes", tests, 2 * MODELS, NULL, NULL);
  for (int i = 0; i < MODELS; i++) tempdir_remove(subjects[i].dir);
  return failed;
}
