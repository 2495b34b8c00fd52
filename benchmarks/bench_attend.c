/* Attention of one token alone: GB/s of keys and values read and multiply-adds a second, on one thread and on all,
 * beside the read ceiling. Usage: bench_attend [query heads a KV head] [head dimension] [MiB of keys and values in f16] [int8].
 * With int8 the same keys and values in half of the bytes, in f32 and in integers (kern.h). */
#include "base/clock.h"
#include "base/float.h"
#include "base/rng.h"
#include "clocher/bench.h"
#include "tensor/device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef struct attend_bench {
  const ie_kernels *kernels;
  const float *q;
  const uint16_t *k, *v; /* (units, S, D), or int8 */
  bool int8, integers;
  const uint16_t *scale; /* of int8, for keys and for values */
  int64_t rows, D, S, units;
} attend_bench;

enum { ROWS_MAX = 64, DIM_MAX = 512 };

static void units_attend(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const attend_bench *b = arg;
  float acc[ROWS_MAX * DIM_MAX] = {0}, m[ROWS_MAX], l[ROWS_MAX];
  int32_t lo[ROWS_MAX], hi[ROWS_MAX];
  int64_t size = b->int8 ? 1 : 2;
  for (int64_t u = begin; u < end; u++) {
    for (int64_t n = 0; n < b->rows; n++) m[n] = -INFINITY, l[n] = 0, lo[n] = 0, hi[n] = (int32_t)b->S;
    ie_attend_args args = {.q = b->q,
                           .q_stride = b->D,
                           .k = (const char *)b->k + u * b->S * b->D * size,
                           .v = (const char *)b->v + u * b->S * b->D * size,
                           .kv_stride = b->D,
                           .kv_dtype = b->int8 ? IE_I8 : IE_F16,
                           .k_scale = b->scale,
                           .v_scale = b->scale,
                           .integers = b->integers,
                           .lo = lo,
                           .hi = hi,
                           .N = b->rows,
                           .S = b->S,
                           .D = b->D,
                           .scale = 0.125f,
                           .m = m,
                           .l = l,
                           .acc = acc};
    b->kernels->attend(&args);
  }
}

static void measure(ie_device *device, const attend_bench *b, const char *name) {
  double best = 1e9;
  for (int i = 0; i < 9; i++) {
    double start = ie_clock_s();
    ie_team_for(device->team, b->units, 1, units_attend, (void *)(uintptr_t)b);
    best = fmin(best, ie_clock_s() - start);
  }
  double numbers = 2.0 * (double)(b->units * b->S * b->D);
  printf("%-10s %d threads: %6.2f GB/s, %6.1f GFLOP/s\n", name, ie_team_size(device->team),
         (b->int8 ? 1e-9 : 2e-9) * numbers / best, 2e-9 * numbers * (double)b->rows / best);
}

/* Memory in huge pages, as a state's cache asks for. */
static void *cache_alloc(size_t bytes) {
  const size_t page = (size_t)2 << 20;
  size_t whole = (bytes + page - 1) / page * page;
  void *p = aligned_alloc(page, whole);
  if (p) madvise(p, whole, MADV_HUGEPAGE);
  return p;
}

static void numbers_fill(attend_bench *b, float *q, uint16_t *k, uint16_t *v) {
  int64_t n = b->units * b->S * b->D;
  for (int64_t i = 0; i < b->rows * b->D; i++) q[i] = 2 * ie_rng_f32(1, 1, (uint64_t)i) - 1;
  for (int64_t i = 0; i < n; i++) {
    float x = 2 * ie_rng_f32(1, 2, (uint64_t)i) - 1;
    if (b->int8)
      ((int8_t *)k)[i] = ((int8_t *)v)[i] = (int8_t)lrintf(127 * x);
    else
      k[i] = v[i] = ie_f32_to_f16(x);
  }
  b->q = q, b->k = k, b->v = v;
}

int main(int argc, char **argv) {
  attend_bench b = {.rows = argc > 1 ? atoi(argv[1]) : 8,
                    .D = argc > 2 ? atoi(argv[2]) : 64,
                    .int8 = argc > 4 && !strcmp(argv[4], "int8")};
  size_t bytes = (size_t)(argc > 3 ? atoi(argv[3]) : 256) << 20;
  if (b.rows < 1 || b.rows > ROWS_MAX || b.D < 1 || b.D > DIM_MAX) return 2;
  b.units = 16;
  b.S = (int64_t)(bytes / 4) / b.D / b.units / 64 * 64;
  size_t n = (size_t)(b.units * b.S * b.D), size = b.int8 ? 1 : 2;
  float *q = malloc((size_t)(b.rows * b.D) * sizeof *q);
  uint16_t *k = cache_alloc(n * size), *v = cache_alloc(n * size), *scale = malloc(n * sizeof *scale);
  if (!q || !k || !v || !scale) return 1;
  for (size_t i = 0; i < n; i++) scale[i] = ie_f32_to_bf16(1.0f / 127);
  b.scale = scale;
  numbers_fill(&b, q, k, v);
  for (int threads = 1; threads >= 0; threads--) { /* 0: all */
    ie_device *device;
    ie_device_options options = {.kind = "cpu", .threads = threads, .isa = getenv("CLOCHER_ISA")};
    if (ie_device_open(&options, &device, NULL) != IE_OK) return 1;
    b.kernels = &device->kernels;
    b.integers = false;
    measure(device, &b, b.int8 ? "int8" : "f16");
    b.integers = b.int8;
    if (b.int8) measure(device, &b, "integers");
    ie_memory_probe probe;
    if (ie_probe_memory(device, NULL, &probe, NULL) == IE_OK)
      printf("%-10s %d threads: %6.2f GB/s\n", "ceiling", ie_team_size(device->team), probe.read_gb_s);
    ie_device_free(device);
  }
  free(q), free(k), free(v), free(scale);
  return 0;
}
