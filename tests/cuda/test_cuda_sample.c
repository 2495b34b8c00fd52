/* The largest logit, advancing, and the probes on the device. */
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
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_first_largest_wins),
                                     cmocka_unit_test(bad_logits_are_faults), cmocka_unit_test(steps_advance),
                                     cmocka_unit_test(probes_run)};
  return cmocka_run_group_tests_name("cuda_sample", tests, NULL, NULL);
}

int main(void) {
  return device_run(group);
}
