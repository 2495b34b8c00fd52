/* The sampler: distributions against transformers, draws against their distribution, what is refused, speed. */
#include "base/clock.h"
#include "base/json.h"
#include "base/rng.h"
#include "clocher/sample.h"
#include "clocher/tensor.h"
#include "engine/select.h"
#include "support/emulated.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BIG = 201088 };

static ie_sampler *sampler_make(const ie_sample_params *params, int64_t vocab) {
  ie_error error = {0};
  ie_sampler *s;
  if (ie_sampler_new_default(params, vocab, &s, &error) != IE_OK) fail_msg("%s", error.message);
  return s;
}

static double number(const json_t *p, const char *key) {
  return json_number_value(json_object_get(p, key));
}

static ie_sample_params params_read(const json_t *p) {
  return (ie_sample_params){.repetition_penalty = number(p, "repetition_penalty"),
                            .temperature = number(p, "temperature"),
                            .top_k = (int64_t)number(p, "top_k"),
                            .top_p = number(p, "top_p"),
                            .min_p = number(p, "min_p")};
}

static int float_compare(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return x < y ? -1 : x > y;
}

/* The largest difference; with ties the sorted distributions are compared, because which of them stay is free. */
static double probs_error(float *a, const float *b, int64_t n, bool ties) {
  float *reference = malloc((size_t)n * sizeof *reference);
  double worst = 0;
  assert_non_null(reference);
  memcpy(reference, b, (size_t)n * sizeof *reference);
  if (ties) {
    qsort(a, (size_t)n, sizeof *a, float_compare);
    qsort(reference, (size_t)n, sizeof *reference, float_compare);
  }
  for (int64_t i = 0; i < n; i++) {
    double d = fabs((double)a[i] - (double)reference[i]);
    if (!(d <= worst)) worst = isnan(d) ? INFINITY : d;
  }
  free(reference);
  return worst;
}

/* Each case of a folder with sampling.json and sampling.safetensors. Returns how many were compared. */
static int vectors_check(const char *folder, bool own) {
  char path[1024], name[64];
  ie_error error = {0};
  json_t *root;
  ie_tensor_file *file;
  snprintf(path, sizeof path, "%s/sampling.json", folder);
  if (ie_json_read_object(path, 1 << 20, &root, &error) != IE_OK) fail_msg("%s", error.message);
  snprintf(path, sizeof path, "%s/sampling.safetensors", folder);
  if (ie_tensor_file_open(path, &file, &error) != IE_OK) fail_msg("%s", error.message);
  const json_t *cases = json_object_get(root, "cases");
  int count = (int)json_array_size(cases);
  for (int i = 0; i < count; i++) {
    const json_t *one = json_array_get(cases, (size_t)i);
    const char *logits_name = json_string_value(json_object_get(one, "logits"));
    if (own)
      snprintf(name, sizeof name, "%s.logits", logits_name);
    else
      snprintf(name, sizeof name, "case%d.logits", i);
    const ie_tensor_info *logits = ie_tensor_file_get(file, name);
    if (own)
      snprintf(name, sizeof name, "%s.seen", logits_name);
    else
      snprintf(name, sizeof name, "case%d.ids", i);
    const ie_tensor_info *seen = ie_tensor_file_get(file, name);
    snprintf(name, sizeof name, "case%d.probs", i);
    const ie_tensor_info *want = ie_tensor_file_get(file, name);
    assert_non_null(logits);
    assert_non_null(seen);
    assert_non_null(want);
    ie_sample_params params = params_read(own ? json_object_get(one, "parameters") : one);
    ie_sample_input input = {.logits = logits->data,
                             .vocab = logits->shape[0],
                             .seen = seen->data,
                             .seen_count = (size_t)seen->shape[0]};
    ie_sampler *s = sampler_make(&params, input.vocab);
    float *probs = malloc(want->bytes);
    assert_int_equal(ie_sampler_probs(s, &input, probs, &error), IE_OK);
    double worst =
        probs_error(probs, want->data, input.vocab, !own || json_is_true(json_object_get(one, "ties")));
    if (!(worst <= 1e-6)) fail_msg("%s case %d: %.1e", folder, i, worst);
    /* zeros must not pass */
    memset(probs, 0, want->bytes);
    assert_true(probs_error(probs, want->data, input.vocab, false) > 1e-4);
    free(probs);
    ie_sampler_free(s);
  }
  json_decref(root);
  ie_tensor_file_free(file);
  return count;
}

static void distributions_equal_transformers(void **state) {
  (void)state;
  assert_true(vectors_check("tests/data/numeric", /*own=*/true) > 60);
}

static void distributions_equal_shared_vectors(void **state) {
  (void)state;
  const char *data = getenv("CLOCHER_TEST_DATA");
  if (!data) skip();
  char folder[1024];
  snprintf(folder, sizeof folder, "%s/golden/numeric", data);
  assert_true(vectors_check(folder, /*own=*/false) > 40);
}

/* Standard normal logits by Box and Muller, times `scale`. */
static float *logits_make(int64_t n, double scale) {
  float *x = malloc((size_t)n * sizeof *x);
  assert_non_null(x);
  for (int64_t i = 0; i < n; i++) {
    double u = ie_rng_f64(1, 0, (uint64_t)i) + 1e-15, v = ie_rng_f64(1, 1, (uint64_t)i);
    x[i] = (float)(scale * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
  }
  return x;
}

/* By sorting everything: what the selection must agree with. Fills keep (n) with 0 or 1. */
static void reference_cut(const float *x, int64_t n, int64_t top_k, double top_p, unsigned char *keep) {
  float *sorted = malloc((size_t)n * sizeof *sorted);
  assert_non_null(sorted);
  memcpy(sorted, x, (size_t)n * sizeof *sorted);
  qsort(sorted, (size_t)n, sizeof *sorted, float_compare);
  float cut = -INFINITY;
  if (top_k) cut = sorted[n - top_k];
  if (top_p > 0) {
    double total = 0, sum = 0, most = (double)sorted[n - 1];
    for (int64_t i = 0; i < n; i++) total += exp((double)sorted[i] - most);
    for (int64_t i = n - 1; i >= 0 && sum < top_p * total; i--) {
      sum += exp((double)sorted[i] - most);
      cut = sorted[i];
    }
  }
  for (int64_t i = 0; i < n; i++) keep[i] = x[i] >= cut;
  free(sorted);
}

/* Large rows take other ways through the selection than the vectors: heads of a few, of thousands, of nearly all. */
static void large_rows_equal_sorting(void **state) {
  (void)state;
  static const struct {
    double scale;
    int64_t top_k;
    double top_p;
  } cases[] = {{3, 50, 0},    {3, 5000, 0}, {0.3, 100000, 0}, {3, 0, 0.95},    {3, 0, 0.3},    {0.3, 0, 0.95},
               {0.3, 0, 0.5}, {30, 0, 0.9}, {30, 3000, 0},    {3, 0, 0.99999}, {1000, 4000, 0}};
  unsigned char *keep = malloc(BIG);
  float *probs = malloc(BIG * sizeof *probs);
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    float *x = logits_make(BIG, cases[c].scale);
    ie_sample_params params = {.top_k = cases[c].top_k, .top_p = cases[c].top_p};
    ie_sampler *s = sampler_make(&params, BIG);
    ie_sample_input input = {.logits = x, .vocab = BIG};
    assert_int_equal(ie_sampler_probs(s, &input, probs, NULL), IE_OK);
    reference_cut(x, BIG, cases[c].top_k, cases[c].top_p, keep);
    int64_t differ = 0;
    double sum = 0;
    float most = x[0];
    for (int64_t i = 0; i < BIG; i++) most = x[i] > most ? x[i] : most;
    for (int64_t i = 0; i < BIG; i++) {
      /* a kept probability may itself be too small for a float */
      differ += (probs[i] > 0) != keep[i] && !(keep[i] && x[i] < most - 86);
      sum += (double)probs[i];
    }
    /* top-p sums in another order than the reference: the cut may move by some of 200,000 */
    if (differ > (cases[c].top_p > 0 ? 4 : 0)) fail_msg("case %zu: %lld differ", c, (long long)differ);
    assert_true(fabs(sum - 1) < 1e-4);
    ie_sampler_free(s);
    free(x);
  }
  free(keep);
  free(probs);
}

static void exponential_is_accurate(void **state) {
  (void)state;
  double worst = 0;
  for (int i = 0; i <= 870000; i++) {
    float x = -1e-4f * (float)i;
    double e = exp((double)x), d = fabs((double)ie_exp_nonpositive(x) - e) / e;
    if (!(d <= worst)) worst = d;
  }
  assert_true(worst < 2e-7);
  assert_true(ie_exp_nonpositive(0) == 1.0f);
  assert_true(ie_exp_nonpositive(-87.1f) == 0.0f);
  assert_true(ie_exp_nonpositive(-INFINITY) == 0.0f);
}

/* Chi-squared of 200,000 draws against the distribution: 5 deviations would be chance once in a million. */
static void draws_follow_the_distribution(void **state) {
  (void)state;
  enum { V = 97, DRAWS = 200000 };
  float *x = logits_make(V, 1.5), probs[V];
  ie_sample_params params = {.temperature = 0.8, .top_k = 60, .seed = 42};
  ie_sampler *s = sampler_make(&params, V);
  ie_sample_input input = {.logits = x, .vocab = V, .row = 3};
  int32_t *ids = malloc(DRAWS * sizeof *ids);
  int64_t counts[V] = {0};
  assert_int_equal(ie_sampler_probs(s, &input, probs, NULL), IE_OK);
  assert_int_equal(ie_sampler_draw_many(s, &input, ids, DRAWS, NULL), IE_OK);
  double chi = 0, degrees = -1;
  for (int i = 0; i < DRAWS; i++) counts[ids[i]]++;
  for (int i = 0; i < V; i++) {
    double expected = (double)probs[i] * DRAWS;
    if (probs[i] == 0) assert_int_equal(counts[i], 0);
    if (expected < 5) continue;
    chi += ((double)counts[i] - expected) * ((double)counts[i] - expected) / expected;
    degrees++;
  }
  assert_true(degrees > 30);
  assert_true(fabs(chi - degrees) < 5 * sqrt(2 * degrees));
  free(ids);
  free(x);
  ie_sampler_free(s);
}

static void draws_depend_on_seed_step_and_row_alone(void **state) {
  (void)state;
  enum { V = 1000, DRAWS = 64 };
  float *x = logits_make(V, 1);
  int32_t first[DRAWS], again[DRAWS], other[DRAWS];
  ie_sample_params params = {.top_p = 0.9, .seed = 7};
  ie_sampler *s = sampler_make(&params, V);
  ie_sample_input input = {.logits = x, .vocab = V};
  assert_int_equal(ie_sampler_draw_many(s, &input, first, DRAWS, NULL), IE_OK);
  /* one by one, backwards, with another row drawn in between */
  for (int i = DRAWS - 1; i >= 0; i--) {
    ie_sample_input one = {.logits = x, .vocab = V, .step = (uint64_t)i};
    assert_int_equal(ie_sampler_draw(s, &one, &again[i], NULL), IE_OK);
    one.row = 9;
    assert_int_equal(ie_sampler_draw(s, &one, &other[i], NULL), IE_OK);
  }
  assert_memory_equal(first, again, sizeof first);
  assert_memory_not_equal(first, other, sizeof first);
  ie_sampler_free(s);
  params.seed = 8;
  s = sampler_make(&params, V);
  assert_int_equal(ie_sampler_draw_many(s, &input, other, DRAWS, NULL), IE_OK);
  assert_memory_not_equal(first, other, sizeof first);
  ie_sampler_free(s);
  free(x);
}

/* These ids must never change: a seed is part of what people write down. */
static void draws_are_the_same_everywhere(void **state) {
  (void)state;
  enum { V = 5000 };
  static const int32_t expected[8] = {1284, 2241, 317, 2113, 438, 3185, 2987, 2208};
  float *x = malloc(V * sizeof *x);
  int32_t ids[8];
  for (int i = 0; i < V; i++) x[i] = (float)((int)(ie_rng_u64(5, 0, (uint64_t)i) >> 50) - 8192) * 0x1p-11f;
  ie_sample_params params = {
      .temperature = 0.75, .top_k = 300, .top_p = 0.875, .min_p = 0.0625, .seed = 2024};
  ie_sampler *s = sampler_make(&params, V);
  ie_sample_input input = {.logits = x, .vocab = V};
  assert_int_equal(ie_sampler_draw_many(s, &input, ids, 8, NULL), IE_OK);
  for (int i = 0; i < 8; i++)
    if (ids[i] != expected[i]) fail_msg("draw %d: %d, expected %d", i, (int)ids[i], (int)expected[i]);
  ie_sampler_free(s);
  free(x);
}

static void greedy_takes_the_first_largest(void **state) {
  (void)state;
  enum { V = 777 };
  float *x = logits_make(V, 1), probs[V];
  int32_t id;
  int32_t seen[] = {500, 500};
  x[500] = 9;
  x[600] = 9;
  ie_sample_params params = {.greedy = true, .temperature = 0.5, .top_k = 3};
  ie_sampler *s = sampler_make(&params, V);
  ie_sample_input input = {.logits = x, .vocab = V, .seen = seen, .seen_count = 2};
  assert_int_equal(ie_sampler_draw(s, &input, &id, NULL), IE_OK);
  assert_int_equal(id, 500);
  assert_int_equal(ie_sampler_probs(s, &input, probs, NULL), IE_OK);
  assert_true(probs[500] == 1.0f && probs[600] == 0.0f);
  ie_sampler_free(s);
  /* the penalty makes the seen one smaller */
  params.repetition_penalty = 1.5;
  s = sampler_make(&params, V);
  assert_int_equal(ie_sampler_draw(s, &input, &id, NULL), IE_OK);
  assert_int_equal(id, 600);
  ie_sampler_free(s);
  free(x);
}

static ie_status forbid_even(void *state, ie_sample_row *row, ie_error *error) {
  (void)error;
  (*(int *)state)++;
  for (int64_t i = 0; i < row->count; i++)
    if ((row->ids ? row->ids[i] : (int32_t)i) % 2 == 0) row->scores[i] = -INFINITY;
  return IE_OK;
}

static void custom_steps_run_in_their_place(void **state) {
  (void)state;
  enum { V = 50 };
  float x[V], probs[V];
  int calls = 0, kept = 0;
  for (int i = 0; i < V; i++) x[i] = (float)i * 0.1f;
  ie_sample_step own = {.kind = IE_SAMPLE_CUSTOM, .apply = forbid_even, .state = &calls};
  ie_sample_step top = {.kind = IE_SAMPLE_TOP_K, .value = 10};
  ie_sample_input input = {.logits = x, .vocab = V};
  for (int order = 0; order < 2; order++) {
    ie_sample_step steps[] = {order ? top : own, order ? own : top};
    ie_sampler *s;
    assert_int_equal(
        ie_sampler_new(&(ie_sampler_config){.steps = steps, .step_count = 2, .vocab = V}, &s, NULL), IE_OK);
    assert_int_equal(ie_sampler_probs(s, &input, probs, NULL), IE_OK);
    kept = 0;
    for (int i = 0; i < V; i++) {
      if (i % 2 == 0) assert_true(probs[i] == 0.0f);
      kept += probs[i] > 0;
    }
    assert_int_equal(kept, order ? 5 : 10); /* ten odd ones, or the odd ones of the ten largest */
    ie_sampler_free(s);
  }
  assert_int_equal(calls, 2);
}

static void bad_numbers_are_named(void **state) {
  (void)state;
  static const int64_t places[] = {0, 63, 64, 130, 996};
  static const ie_sample_params settings[] = {
      {.greedy = true}, {.top_k = 5}, {.top_p = 0.5}, {.temperature = 2}};
  float *x = logits_make(997, 1);
  ie_error error;
  int32_t id;
  for (size_t p = 0; p < sizeof settings / sizeof *settings; p++) {
    ie_sampler *s = sampler_make(&settings[p], 997);
    ie_sample_input input = {.logits = x, .vocab = 997};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
      for (int k = 0; k < 2; k++) {
        char where[32];
        float saved = x[places[i]];
        x[places[i]] = k ? NAN : INFINITY;
        error = (ie_error){0};
        assert_int_equal(ie_sampler_draw(s, &input, &id, &error), IE_NUMERIC);
        snprintf(where, sizeof where, "id %lld ", (long long)places[i]);
        if (!strstr(error.message, where)) fail_msg("'%s' does not name %s", error.message, where);
        x[places[i]] = saved;
      }
    ie_sampler_free(s);
  }
  for (int i = 0; i < 997; i++) x[i] = -INFINITY;
  for (size_t p = 0; p < sizeof settings / sizeof *settings; p++) {
    ie_sampler *s = sampler_make(&settings[p], 997);
    ie_sample_input input = {.logits = x, .vocab = 997};
    assert_int_equal(ie_sampler_draw(s, &input, &id, &error), IE_NUMERIC);
    ie_sampler_free(s);
  }
  free(x);
}

static void bad_arguments_are_refused(void **state) {
  (void)state;
  static const ie_sample_step bad[] = {
      {.kind = IE_SAMPLE_TEMPERATURE, .value = 0},
      {.kind = IE_SAMPLE_TEMPERATURE, .value = -1},
      {.kind = IE_SAMPLE_TEMPERATURE, .value = NAN},
      {.kind = IE_SAMPLE_TOP_K, .value = 0},
      {.kind = IE_SAMPLE_TOP_K, .value = 1.5},
      {.kind = IE_SAMPLE_TOP_P, .value = 1.1},
      {.kind = IE_SAMPLE_TOP_P, .value = -0.1},
      {.kind = IE_SAMPLE_MIN_P, .value = 2},
      {.kind = IE_SAMPLE_REPETITION_PENALTY},
      {.kind = IE_SAMPLE_CUSTOM},
      {.kind = (ie_sample_kind)99},
  };
  ie_sampler *s;
  ie_error error;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    s = (ie_sampler *)&error;
    assert_int_equal(
        ie_sampler_new(&(ie_sampler_config){.steps = &bad[i], .step_count = 1, .vocab = 10}, &s, &error),
        IE_INVALID_ARGUMENT);
    assert_null(s);
    assert_true(strlen(error.message) > 10);
  }
  ie_sample_params params = {.repetition_penalty = 1.1};
  float x[10] = {0};
  int32_t id, seen[] = {3, 10};
  s = sampler_make(&params, 10);
  ie_sample_input input = {.logits = x, .vocab = 10, .seen = seen, .seen_count = 2};
  assert_int_equal(ie_sampler_draw(s, &input, &id, &error), IE_INVALID_ARGUMENT);
  input = (ie_sample_input){.logits = x, .vocab = 11};
  assert_int_equal(ie_sampler_draw(s, &input, &id, &error), IE_INVALID_ARGUMENT);
  ie_sampler_free(s);
}

static void logprobs_are_those_of_the_raw_logits(void **state) {
  (void)state;
  enum { V = 2000, K = 20 };
  float *x = logits_make(V, 2), logprob, top_logprobs[K];
  int32_t top_ids[K];
  x[1500] = x[700] = 11; /* equal: the lower id comes first */
  ie_sample_params params = {.temperature = 0.3, .top_k = 2};
  ie_sampler *s = sampler_make(&params, V);
  ie_sample_input input = {.logits = x, .vocab = V};
  ie_sample_top top = {.count = K, .ids = top_ids, .logprobs = top_logprobs};
  double total = 0;
  for (int i = 0; i < V; i++) total += exp((double)x[i]);
  assert_int_equal(ie_sampler_logprobs(s, &input, 123, &logprob, &top, NULL), IE_OK);
  assert_true(fabs((double)logprob - ((double)x[123] - log(total))) < 1e-5);
  assert_int_equal(top_ids[0], 700);
  assert_int_equal(top_ids[1], 1500);
  for (int i = 0; i < K; i++) {
    int larger = 0;
    for (int j = 0; j < V; j++) larger += x[j] > x[top_ids[i]] || (x[j] == x[top_ids[i]] && j < top_ids[i]);
    assert_int_equal(larger, i);
    assert_true(fabs((double)top_logprobs[i] - ((double)x[top_ids[i]] - log(total))) < 1e-5);
  }
  assert_int_equal(ie_sampler_logprobs(s, &input, V, &logprob, NULL, NULL), IE_INVALID_ARGUMENT);
  ie_sampler_free(s);
  free(x);
}

/* Printed, and held to ten times the goal: the tests run on busy machines and under sanitizers. */
static void speed_is_printed(void **state) {
  (void)state;
  static const struct {
    const char *name;
    ie_sample_params params;
    double most_ms;
  } cases[] = {{"greedy", {.greedy = true}, 1},
               {"top-k 50, top-p 0.95, temperature 0.7", {.temperature = 0.7, .top_k = 50, .top_p = 0.95}, 5},
               {"top-p 0.95", {.top_p = 0.95}, 20}};
  float *x = logits_make(BIG, 3);
  for (int i = 0; i < 20; i++) x[i * 7919] = (float)(20 - i);
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    ie_sampler *s = sampler_make(&cases[c].params, BIG);
    double best = INFINITY;
    for (uint64_t i = 0; i < 30; i++) {
      int32_t id;
      ie_sample_input input = {.logits = x, .vocab = BIG, .step = i};
      double start = ie_clock_s();
      assert_int_equal(ie_sampler_draw(s, &input, &id, NULL), IE_OK);
      best = fmin(best, ie_clock_s() - start);
    }
    print_message("sampler, %d logits, %s: %.3f ms\n", BIG, cases[c].name, 1e3 * best);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(emulated() || 1e3 * best < cases[c].most_ms);
#endif
    ie_sampler_free(s);
  }
  free(x);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(distributions_equal_transformers),
      cmocka_unit_test(distributions_equal_shared_vectors),
      cmocka_unit_test(large_rows_equal_sorting),
      cmocka_unit_test(exponential_is_accurate),
      cmocka_unit_test(draws_follow_the_distribution),
      cmocka_unit_test(draws_depend_on_seed_step_and_row_alone),
      cmocka_unit_test(draws_are_the_same_everywhere),
      cmocka_unit_test(greedy_takes_the_first_largest),
      cmocka_unit_test(custom_steps_run_in_their_place),
      cmocka_unit_test(bad_numbers_are_named),
      cmocka_unit_test(bad_arguments_are_refused),
      cmocka_unit_test(logprobs_are_those_of_the_raw_logits),
      cmocka_unit_test(speed_is_printed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
