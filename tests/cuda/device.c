#include "cuda/device.h"

#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { GUARD = 256, HELD_MAX = 1024, FILL = 0xA5 };

typedef struct held {
  uint8_t *memory;
  size_t bytes;
} held;

static held all[HELD_MAX];
static int count;

static ie_cuda_queue *queue_get(void) {
  static ie_cuda_queue queue;
  static bool ready;
  if (!ready) device_ok(ie_cuda_queue_prepare(0, &queue), "ie_cuda_queue_prepare");
  ready = true;
  return &queue;
}
const ie_cuda_queue *device_queue(void) {
  return queue_get();
}

bool device_wgmma(ie_cuda_wgmma wanted) {
  ie_cuda_queue *queue = queue_get();
  bool loaded = ie_cuda_wgmma_loaded(queue);
  queue->wgmma = loaded ? wanted : IE_CUDA_WGMMA_NEVER;
  return loaded;
}

void device_ok(cudaError_t status, const char *what) {
  if (status != cudaSuccess) fail_msg("%s: %s", what, cudaGetErrorString(status));
}

static size_t padded(size_t bytes) {
  return (bytes + GUARD - 1) / GUARD * GUARD;
}

void *device_new(const void *from, size_t bytes) {
  assert_true(count < HELD_MAX);
  held *h = &all[count];
  h->bytes = bytes;
  device_ok(cudaMalloc((void **)&h->memory, padded(bytes) + 2 * (size_t)GUARD), "cudaMalloc");
  device_ok(cudaMemset(h->memory, FILL, padded(bytes) + 2 * (size_t)GUARD), "cudaMemset");
  if (from)
    device_ok(cudaMemcpy(h->memory + GUARD, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  else
    device_ok(cudaMemset(h->memory + GUARD, 0xFF, bytes), "cudaMemset");
  count++;
  return h->memory + GUARD;
}

void device_read(void *to, const void *from, size_t bytes) {
  device_ok(cudaStreamSynchronize(device_queue()->stream), "a kernel");
  device_ok(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
}

float *device_floats(const void *from, int64_t n) {
  float *x = malloc((size_t)n * sizeof *x + 1);
  assert_non_null(x);
  device_read(x, from, (size_t)n * sizeof *x);
  return x;
}

void device_free_all(void) {
  while (count > 0) {
    held *h = &all[--count];
    size_t whole = padded(h->bytes) + 2 * (size_t)GUARD;
    uint8_t *copy = malloc(whole);
    assert_non_null(copy);
    device_read(copy, h->memory, whole);
    for (size_t i = 0; i < whole; i++)
      if ((i < GUARD || i >= GUARD + h->bytes) && copy[i] != FILL)
        fail_msg("a kernel wrote at byte %lld of %zu", (long long)i - GUARD, h->bytes);
    free(copy);
    device_ok(cudaFree(h->memory), "cudaFree");
  }
}

int device_run(device_group_fn *group) {
#ifdef CLOCHER_CUDA_EMULATED
  static const unsigned int orders[] = {0, 1, 12345};
  int failed = 0;
  for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
    ie_emulate_order(orders[i]);
    failed += group();
  }
  return failed;
#else
  return group();
#endif
}

float *floats_random(uint64_t seed, int64_t n, float scale) {
  float *x = malloc((size_t)n * sizeof *x + 1);
  assert_non_null(x);
  for (int64_t i = 0; i < n; i++) x[i] = (2 * ie_rng_f32(seed, 77, (uint64_t)i) - 1) * scale;
  return x;
}

int32_t *ints_new(int64_t n, int32_t first, int32_t step) {
  int32_t *x = malloc((size_t)n * sizeof *x + 1);
  assert_non_null(x);
  for (int64_t i = 0; i < n; i++) x[i] = first + (int32_t)i * step;
  return x;
}

void floats_close(const float *found, const float *expected, int64_t n, double tolerance, const char *what) {
  double largest = 1e-30;
  for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)expected[i]));
  for (int64_t i = 0; i < n; i++)
    if (!(fabs((double)found[i] - (double)expected[i]) <= tolerance * largest))
      fail_msg("%s: number %lld of %lld is %g, expected %g (largest %g, tolerance %g)", what, (long long)i,
               (long long)n, (double)found[i], (double)expected[i], largest, tolerance);
}

ie_cuda_check check_new(int where) {
  ie_cuda_check check = {.fault = device_new(NULL, sizeof(ie_cuda_fault)), .where = where};
  device_ok(ie_cuda_fault_clear(device_queue(), check.fault), "fault_clear");
  return check;
}

ie_cuda_fault check_read(ie_cuda_check check) {
  ie_cuda_fault fault;
  device_read(&fault, check.fault, sizeof fault);
  return fault;
}
