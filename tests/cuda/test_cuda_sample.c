/* The largest logit, advancing, and the probes on the device. */
#include "clocher/sample.h"
#include "cuda/device.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void argmax_case(const float *logits, int64_t rows, int64_t vocab, int32_t *id, ie_cuda_fault *fault) {
  ie_cuda_argmax_args args = {.id = device_new(NULL, (size_t)rows * 4),
                              .logits = device_new(logits, (size_t)(rows * vocab) * 4),
                              .rows = rows,
                              .vocab = vocab,
                              .check = check_new(2)};
  args.scratch = device_new(NULL, ie_cuda_argmax_scratch(&args));
  device_ok(ie_cuda_argmax(device_queue(), &args), "argmax");
  device_read(id, args.id, (size_t)rows * 4);
  *fault = check_read(args.check);
  device_free_all();
}

static void the_first_largest_wins(void **state) {
  (void)state;
  static const int64_t sizes[] = {1, 31, 33, 8191, 8192, 8193, 20011};
  for (int i = 0; i < 7; i++) {
    const int64_t V = sizes[i], rows = 3;
    float *x = floats_random((uint64_t)i, rows * V, 4);
    int32_t id[3], expected[3] = {0};
    ie_cuda_fault fault;
    x[V / 2] = x[V - 1] = 9; /* a tie */
    x[V + V / 3] = -INFINITY;
    for (int64_t r = 0; r < rows; r++)
      for (int64_t v = 0; v < V; v++)
        if (x[r * V + v] > x[r * V + expected[r]]) expected[r] = (int32_t)v;
    if (V == 1) x[V] = 0;
    argmax_case(x, rows, V, id, &fault);
    assert_true(fault == IE_CUDA_NO_FAULT);
    for (int r = 0; r < 3; r++) assert_int_equal(id[r], expected[r]);
    free(x);
  }
}

static void bad_logits_are_faults(void **state) {
  (void)state;
  enum { V = 9000 };
  float *x = floats_random(5, 2 * V, 1);
  int32_t id[2];
  ie_cuda_fault fault;
  x[V + 8500] = NAN;
  x[V + 8400] = INFINITY;
  argmax_case(x, 2, V, id, &fault);
  assert_int_equal(IE_CUDA_FAULT_INDEX(fault), V + 8400);
  assert_int_equal(IE_CUDA_FAULT_NAN(fault), 0);
  assert_int_equal(id[1], 0);
  for (int i = 0; i < V; i++) x[i] = -INFINITY;
  argmax_case(x, 1, V, id, &fault);
  assert_int_equal(IE_CUDA_FAULT_WHERE(fault), 2);
  free(x);
}

/* The engine's sampler and the device's, for a few rows and several steps. */
static void draws_compare(const ie_sample_params *p, int64_t vocab, bool ties) {
  enum { ROWS = 3, SEEN = 20 };
  const int64_t words = (vocab + 31) / 32;
  float *logits = floats_random((uint64_t)vocab, ROWS * vocab, 6);
  uint32_t *seen = calloc((size_t)(ROWS * words), 4);
  int32_t history[ROWS][SEEN], id[ROWS];
  ie_cuda_sample_params params[ROWS];
  ie_sampler *sampler;
  ie_error error;
  assert_non_null(seen);
  assert_int_equal(ie_sampler_new_default(p, vocab, &sampler, &error), IE_OK);
  for (int64_t i = 0; ties && i < ROWS * vocab; i++) logits[i] = roundf(2 * logits[i]) / 2;
  for (int64_t i = 0; i < ROWS * vocab; i += 11) logits[i] = i % 2 ? -INFINITY : -200;
  memset(params, 0, sizeof params);
  for (int r = 0; r < ROWS; r++) {
    logits[r * vocab + vocab / 2] = 5;
    for (int i = 0; i < SEEN; i++) {
      history[r][i] = (int32_t)((r * 31 + i * 17) % vocab);
      seen[r * words + history[r][i] / 32] |= 1u << history[r][i] % 32;
    }
  }
  for (int step = 0; step < 2; step++) {
    for (int r = 0; r < ROWS; r++)
      params[r] = (ie_cuda_sample_params){.top_p = p->top_p,
                                          .min_p = p->min_p,
                                          .top_k = p->top_k,
                                          .seed = p->seed,
                                          .row = (uint64_t)r,
                                          .step = (uint64_t)step,
                                          .temperature = (float)p->temperature,
                                          .repetition_penalty = (float)p->repetition_penalty,
                                          .greedy = p->greedy};
    ie_cuda_sample_args args = {.id = device_new(NULL, sizeof id),
                                .logits = device_new(logits, (size_t)(ROWS * vocab) * 4),
                                .rows = ROWS,
                                .vocab = vocab,
                                .params = device_new(params, sizeof params),
                                .seen = device_new(seen, (size_t)(ROWS * words) * 4),
                                .check = check_new(1)};
    args.scratch = device_new(NULL, ie_cuda_sample_scratch(&args));
    device_ok(ie_cuda_sample(device_queue(), &args), "sample");
    device_read(id, args.id, sizeof id);
    assert_true(check_read(args.check) == IE_CUDA_NO_FAULT);
    for (int r = 0; r < ROWS; r++) {
      int32_t expected;
      ie_sample_input input = {.logits = logits + r * vocab,
                               .vocab = vocab,
                               .seen = history[r],
                               .seen_count = SEEN,
                               .step = (uint64_t)step,
                               .row = (uint64_t)r};
      assert_int_equal(ie_sampler_draw(sampler, &input, &expected, &error), IE_OK);
      if (id[r] != expected)
        fail_msg("vocabulary %lld, row %d, step %d: id %d, expected %d", (long long)vocab, r, step, id[r],
                 expected);
    }
    device_free_all();
  }
  ie_sampler_free(sampler);
  free(logits), free(seen);
}

static void draws_are_the_engines(void **state) {
  (void)state;
  static const ie_sample_params params[] = {
      {.seed = 1},
      {.seed = 2, .temperature = 0.7, .top_k = 50, .top_p = 0.95},
      {.seed = 3, .top_p = 0.8},
      {.seed = 4, .top_k = 5, .min_p = 0.05},
      {.seed = 5, .repetition_penalty = 1.3, .temperature = 1.5, .top_p = 0.3, .min_p = 0.01},
      {.seed = 6, .top_k = 1},
      {.seed = 7, .min_p = 0.2, .top_k = 100000},
      {.seed = 8, .greedy = true, .temperature = 0.3},
      {.seed = 9, .greedy = true, .repetition_penalty = 2, .top_k = 3},
      {.seed = 10, .top_p = 1e-9, .temperature = 3}};
  static const int64_t sizes[] = {2, 63, 64, 65, 1023, 1025, 2053};
  for (size_t i = 0; i < sizeof params / sizeof params[0]; i++)
    for (int j = 0; j < 7; j++) draws_compare(&params[i], sizes[j], (i + (size_t)j) % 2);
}

static void bad_rows_draw_nothing(void **state) {
  (void)state;
  float *x = floats_random(5, 2 * 100, 1);
  ie_cuda_sample_params params[2];
  int32_t id[2];
  memset(params, 0, sizeof params);
  x[130] = NAN;
  ie_cuda_sample_args args = {.id = device_new(NULL, sizeof id),
                              .logits = device_new(x, 800),
                              .rows = 2,
                              .vocab = 100,
                              .params = device_new(params, sizeof params),
                              .check = check_new(6)};
  args.scratch = device_new(NULL, ie_cuda_sample_scratch(&args));
  device_ok(ie_cuda_sample(device_queue(), &args), "sample");
  device_read(id, args.id, sizeof id);
  assert_int_equal(id[1], 0);
  ie_cuda_fault fault = check_read(args.check);
  assert_int_equal(IE_CUDA_FAULT_WHERE(fault), 6);
  assert_int_equal(IE_CUDA_FAULT_INDEX(fault), 130);
  assert_int_equal(IE_CUDA_FAULT_NAN(fault), 1);
  free(x);
  device_free_all();
}

static void steps_advance(void **state) {
  (void)state;
  enum { T = 70, V = 100, WORDS = 4 };
  int32_t *id = ints_new(T, 30, 1), *position = ints_new(T, -2, 1), read[T];
  uint32_t seen[T * WORDS] = {0};
  ie_cuda_sample_params params[T];
  memset(params, 0, sizeof params);
  for (int t = 0; t < T; t++) params[t].step = (uint64_t)t;
  ie_cuda_advance_args args = {.ids = device_new(NULL, sizeof read),
                               .position = device_new(position, sizeof read),
                               .id = device_new(id, sizeof read),
                               .tokens = T,
                               .vocab = V,
                               .params = device_new(params, sizeof params),
                               .seen = device_new(seen, sizeof seen)};
  device_ok(ie_cuda_advance(device_queue(), &args), "advance");
  device_read(read, args.ids, sizeof read);
  assert_memory_equal(read, id, sizeof read);
  device_read(read, args.position, sizeof read);
  device_read(params, args.params, sizeof params);
  device_read(seen, args.seen, sizeof seen);
  for (int t = 0; t < T; t++) {
    assert_int_equal(read[t], t < 2 ? t - 2 : t - 1);
    assert_int_equal(params[t].step, t + 1);
    for (int v = 0; v < V; v++) assert_int_equal(seen[t * WORDS + v / 32] >> v % 32 & 1, v == 30 + t);
  }
  free(id), free(position);
  device_free_all();
}

static void probes_run(void **state) {
  (void)state;
  float *data = floats_random(1, 4096, 1), *sink = device_new(data, 4);
  uint32_t zero = 0;
  double flop = 0;
  device_ok(ie_cuda_probe_empty(device_queue()), "empty");
  device_ok(ie_cuda_probe_read(device_queue(), device_new(data, 16384), 16384, sink), "read");
  device_ok(ie_cuda_probe_matrix(device_queue(), 2, sink, &flop), "matrix");
  assert_true(flop > 0);
  cudaError_t status = ie_cuda_probe_barrier(device_queue(), device_new(&zero, 4), 3);
  if (status != cudaErrorNotSupported) device_ok(status, "barrier");
  free(data);
  device_free_all();
}

static int group(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_first_largest_wins), cmocka_unit_test(bad_logits_are_faults),
      cmocka_unit_test(draws_are_the_engines),  cmocka_unit_test(bad_rows_draw_nothing),
      cmocka_unit_test(steps_advance),          cmocka_unit_test(probes_run)};
  return cmocka_run_group_tests_name("cuda_sample", tests, NULL, NULL);
}

int main(void) {
  return device_run(group);
}
