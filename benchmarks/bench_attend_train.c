/* Attention under a tape: multiply-adds a second of the forward and the backward, beside the machine's multiply-adds
 * from registers. Counted are the pairs of a query and a key that it sees (the causal half): 2 products of D
 * multiply-adds forward, 5 backward; what a kernel computes besides is its own loss.
 *
 * One thread is timed by the processor time that it used, which says what the code is worth on a busy machine too;
 * several by the clock on the wall. The ceiling is that of one thread by its processor time, times the threads.
 * Usage: bench_attend_train [tokens] [query heads] [KV heads] [head dimension] [window] [sequences]. */
#include "base/clock.h"
#include "base/rng.h"
#include "kernels/probe.h"
#include "tensor/device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RUNS = 25 };

typedef struct train_bench {
  ie_ctx ctx;
  int64_t T, H, HK, D, sequences;
  ie_tensor q, k, v, y, lse;
  ie_attention_inputs in;
  ie_attention_grads to;
  ie_batch batch;
  ie_attention_options options;
  real *dy;
} train_bench;

static ie_tensor random_tensor(uint64_t stream, int64_t a, int64_t b, int64_t c) {
  ie_tensor t = {.dtype = IE_F32, .rank = 3, .shape = {a, b, c, 1}};
  real *x = malloc((size_t)(a * b * c) * sizeof *x);
  if (!x) exit(1);
  for (int64_t i = 0; i < a * b * c; i++) x[i] = 2 * ie_rng_f32(1, stream, (uint64_t)i) - 1;
  t.data = x;
  return t;
}

static void setup(train_bench *b) {
  int64_t T = b->T, H = b->H, HK = b->HK, D = b->D;
  b->q = random_tensor(1, T, H, D);
  b->k = random_tensor(2, T, HK, D);
  b->v = random_tensor(3, T, HK, D);
  b->y = random_tensor(4, T, H * D, 1);
  b->lse = random_tensor(5, T, H, 1);
  b->dy = random_tensor(6, T, H, D).data;
  b->in = (ie_attention_inputs){.q = &b->q, .k = &b->k, .v = &b->v};
  b->to = (ie_attention_grads){.q = random_tensor(7, T, H, D).data,
                               .k = random_tensor(8, T, HK, D).data,
                               .v = random_tensor(9, T, HK, D).data};
  int32_t *position = malloc((size_t)T * sizeof *position), *sequence = malloc((size_t)T * sizeof *sequence);
  if (!position || !sequence) exit(1);
  int64_t each = (T + b->sequences - 1) / b->sequences;
  for (int64_t t = 0; t < T; t++) position[t] = (int32_t)(t % each), sequence[t] = (int32_t)(t / each);
  b->batch = (ie_batch){.tokens = T, .position = position, .sequence = sequence};
}

static void teardown(train_bench *b) {
  free(b->q.data), free(b->k.data), free(b->v.data), free(b->y.data), free(b->lse.data), free(b->dy);
  free(b->to.q), free(b->to.k), free(b->to.v);
  free((void *)(uintptr_t)b->batch.position), free((void *)(uintptr_t)b->batch.sequence);
}

static void forward(train_bench *b) {
  b->ctx.device->ops.attention_train(&b->ctx, &b->y, &b->lse, &b->in, &b->batch, &b->options);
}
static void backward(train_bench *b) {
  b->ctx.device->ops.attention_backward(&b->ctx, &b->to, b->dy, &b->y, &b->lse, &b->in, &b->batch,
                                        &b->options);
}

static double cpu_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

typedef struct timing {
  double best, median, flop;
} timing;

static timing measure(train_bench *b, void (*run)(train_bench *)) {
  double seconds[RUNS];
  double (*now)(void) = ie_team_size(b->ctx.device->team) == 1 ? cpu_s : ie_clock_s;
  b->ctx.work.flop = 0;
  for (int i = 0; i < RUNS; i++) {
    double start = now();
    run(b);
    seconds[i] = now() - start;
  }
  qsort(seconds, RUNS, sizeof seconds[0], by_size);
  return (timing){seconds[0], seconds[RUNS / 2], (double)b->ctx.work.flop / RUNS};
}

static void print_timing(const char *name, timing t, double ceiling) {
  printf("%-10s best %8.3f ms, median %8.3f ms: %6.1f GFLOP/s, %4.1f%% of the ceiling (median %4.1f%%)\n",
         name, 1e3 * t.best, 1e3 * t.median, 1e-9 * t.flop / t.best, 100 * t.flop / t.best / ceiling,
         100 * t.flop / t.median / ceiling);
}

/* Multiply-adds of f32 from registers, a second, of one thread. */
static double f32_ceiling(ie_device *device) {
  ie_probe_loops loops;
  double best = 0;
  ie_probe_loops_fill(&loops, device->kernels.isa);
  for (int i = 0; i < loops.matrix_count; i++) {
    if (!strstr(loops.matrix[i].kind, "-f32")) continue;
    for (int j = 0; j < 50; j++) {
      double start = cpu_s(), flop = loops.matrix[i].run(/*rounds=*/20000);
      best = fmax(best, flop / (cpu_s() - start));
    }
  }
  return best;
}

static void threads_measure(train_bench *b, int threads) {
  ie_device *device;
  ie_device_options options = {.kind = "cpu", .threads = threads, .isa = getenv("CLOCHER_ISA")};
  if (ie_device_open(&options, &device, NULL) != IE_OK) exit(1);
  b->ctx = (ie_ctx){.device = device, .arena = ie_arena_measure(), .dry = true};
  forward(b), backward(b);
  if (ie_arena_open(b->ctx.arena.peak, &b->ctx.arena, NULL) != IE_OK) exit(1);
  b->ctx.dry = false;
  forward(b), backward(b);
  double ceiling = f32_ceiling(device);
  timing f = measure(b, forward), g = measure(b, backward);
  ceiling = fmax(ceiling, f32_ceiling(device)) * ie_device_threads(device);
  printf("%s, %d threads, ceiling %.1f GFLOP/s, scratch %.1f MiB\n", ie_device_isa(device),
         ie_device_threads(device), 1e-9 * ceiling, (double)b->ctx.arena.capacity / (1 << 20));
  print_timing("forward", f, ceiling);
  print_timing("backward", g, ceiling);
  print_timing("both", (timing){f.best + g.best, f.median + g.median, f.flop + g.flop}, ceiling);
  ie_arena_close(&b->ctx.arena);
  ie_device_free(device);
}

int main(int argc, char **argv) {
  int64_t number[6] = {1024, 12, 12, 64, 0, 1};
  for (int i = 1; i < argc && i <= 6; i++) number[i - 1] = atoi(argv[i]);
  static train_bench b;
  b.T = number[0], b.H = number[1], b.HK = number[2], b.D = number[3], b.sequences = number[5];
  if (b.T < 1 || b.HK < 1 || b.H < 1 || b.H % b.HK || b.D < 1 || b.sequences < 1 || number[4] < 0) return 2;
  b.options = (ie_attention_options){.scale = (float)(1 / sqrt((double)b.D)), .window = number[4]};
  setup(&b);
  for (int threads = 1; threads >= 0; threads--) threads_measure(&b, threads); /* 0: all */
  teardown(&b);
  return 0;
}
