/* One step of each optimiser over one large matrix: GB/s of values, gradients and states read and written beside the
 * machine's read ceiling, and the clipping norm. Usage: bench_optimisers [threads] [million parameters]. */
#include "base/clock.h"
#include "clocher/device.h"
#include "train/clip.h"
#include "train/optimiser.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 7 };

typedef struct bench {
  ie_device *device;
  ie_param param;
  ie_param *list[1];
} bench;

/* bytes: read and written of one element. */
static void step_measure(bench *b, ie_optimiser_kind kind, const char *name, double bytes) {
  ie_optimiser_group group = ie_optimiser_group_default(kind);
  group.param = b->list, group.count = 1;
  ie_optimiser *o;
  ie_error error;
  if (ie_optimiser_new(b->device, &group, 1, &o, &error) != IE_OK) {
    fprintf(stderr, "%s\n", error.message);
    return;
  }
  double best = 1e9;
  for (int i = 0; i < ROUNDS; i++) {
    double start = ie_clock_s();
    ie_optimiser_step(o, &(ie_step){.rate = 1e-3, .number = i + 1});
    best = fmin(best, ie_clock_s() - start);
  }
  printf("%-10s %8.2f ms, %6.2f ns an element, %6.2f GB/s\n", name, 1e3 * best,
         1e9 * best / (double)b->param.count, 1e-9 * bytes * (double)b->param.count / best);
  ie_optimiser_free(o);
}

static void norm_measure(bench *b) {
  double best = 1e9, norm;
  for (int i = 0; i < ROUNDS; i++) {
    double start = ie_clock_s();
    ie_grad_norm(b->device, b->list, 1, &norm, NULL);
    best = fmin(best, ie_clock_s() - start);
  }
  printf("%-10s %8.2f ms, %6.2f GB/s\n", "norm", 1e3 * best, 4e-9 * (double)b->param.count / best);
}

int main(int argc, char **argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 0;
  const int64_t rows = (argc > 2 ? atoi(argv[2]) : 32) * (int64_t)1024;
  bench b = {.param = {.name = "w", .rank = 2, .shape = {rows, 1024}, .count = rows * 1024}};
  b.list[0] = &b.param;
  b.param.value = calloc((size_t)b.param.count, sizeof(real));
  b.param.grad = calloc((size_t)b.param.count, sizeof(real));
  if (!b.param.value || !b.param.grad ||
      ie_device_open(&(ie_device_options){.kind = "cpu", .threads = threads}, &b.device, NULL) != IE_OK)
    return 1;
  for (int64_t i = 0; i < b.param.count; i++) b.param.grad[i] = (real)((double)(i % 2001) / 1000 - 1);
  printf("%d threads, %s, %lld elements\n", ie_device_threads(b.device), ie_device_isa(b.device),
         (long long)b.param.count);
  norm_measure(&b);
  step_measure(&b, IE_OPTIMISER_ADAMW, "adamw", 28);
  step_measure(&b, IE_OPTIMISER_ADAMW8BIT, "adamw8bit", 16 + 8.0 / 256 * 2);
  b.param.shape[0] = 1024, b.param.count = 1024 * 1024;
  step_measure(&b, IE_OPTIMISER_MUON, "muon 1024", 20);
  free(b.param.value);
  free(b.param.grad);
  ie_device_free(b.device);
  return 0;
}
