/* Speed of the launchers of training that touch each number once, in bytes read and written a second beside a plain
 * copy's, and of the cross-entropy beside the ceiling of multiply-adds. A row is the median of several.
 *
 *   bench_train_rows [ISA or best] [threads, 0 = all] [part of a row's name] */
#include "base/clock.h"
#include "base/rng.h"
#include "clocher/bench.h"
#include "tensor/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 7, T = 1024, C = 768, F = 3072, V = 50257, D = 64 };

typedef struct bench {
  ie_device *device;
  ie_ctx ctx;
  float *x, *dy, *dx; /* (T, F), more than cached */
  float *weight, *grads;
  float *head, *dhead; /* (V, C) */
  int32_t *ids;
} bench;

static float *random_floats(int64_t n) {
  float *x = malloc((size_t)n * sizeof *x);
  for (int64_t i = 0; x && i < n; i++) x[i] = (float)(ie_rng_mix((uint64_t)i) >> 40) * 0x1p-24f - 0.5f;
  return x;
}

static ie_tensor matrix(float *data, int64_t rows, int64_t cols) {
  return (ie_tensor){.dtype = IE_F32, .rank = 2, .shape = {rows, cols, 1, 1}, .data = data};
}

static void run_copy(bench *b) {
  ie_tensor x = matrix(b->x, T, F), y = matrix(b->dx, T, F);
  b->device->ops.copy(&b->ctx, &y, &x);
}
static void run_add(bench *b) {
  b->device->ops.add(&b->ctx, b->dx, b->x, (int64_t)T * F);
}
static void run_norms(bench *b, bool layer) {
  ie_param weight = {.grad = b->grads}, bias = {.grad = b->grads + C};
  ie_vector w = {.data = b->weight, .n = C, .param = &weight},
            v = {.data = b->weight, .n = C, .param = &bias};
  w.dtype = v.dtype = IE_F32;
  ie_tensor x = matrix(b->x, (int64_t)T * F / C, C);
  if (layer)
    b->device->ops.layer_norm_backward(&b->ctx, b->dx, b->dy, &x, &w, &v, 1e-5f);
  else
    b->device->ops.rms_norm_backward(&b->ctx, b->dx, b->dy, &x, &w, 1e-5f);
}
static void run_rms_norm(bench *b) {
  run_norms(b, false);
}
static void run_layer_norm(bench *b) {
  run_norms(b, true);
}
static void run_activation(bench *b, ie_activation activation) {
  ie_tensor x = matrix(b->x, T, F);
  b->device->ops.activate_backward(&b->ctx, b->dx, b->dy, &x, activation);
}
static void run_gelu(bench *b) {
  run_activation(b, IE_GELU);
}
static void run_gelu_tanh(bench *b) {
  run_activation(b, IE_GELU_TANH);
}
static void run_relu2(bench *b) {
  run_activation(b, IE_RELU2);
}
static void run_rope(bench *b) {
  ie_tensor x = matrix(NULL, T, F / D), table = matrix(b->x, T, D / 2);
  x.rank = 3, x.shape[2] = D;
  b->device->ops.rope_backward(&b->ctx, b->dx, &x, &table, &table);
}
static void run_embed(bench *b) {
  ie_param param = {.grad = b->dhead};
  ie_weight w = {.rows = V, .cols = C, .param = &param};
  b->device->ops.embed_backward(&b->ctx, b->dy, &w, &(ie_batch){.tokens = T, .ids = b->ids});
}
static void run_loss(bench *b) {
  ie_param param = {.value = b->head, .grad = b->dhead};
  ie_weight head = {.name = "head", .format = IE_W_F32, .experts = 1, .rows = V, .cols = C, .param = &param};
  ie_tensor x = matrix(b->x, T, C);
  ie_loss_options options = {.head = &head, .target = b->ids, .scale = 1.0 / T};
  b->device->ops.cross_entropy(&b->ctx, b->dx, &x, &options);
}

static const struct {
  const char *name;
  void (*run)(bench *b);
  double arrays; /* of T F numbers, read or written once; 0: counts flop */
  double gflop;
} rows[] = {
    {"copy", run_copy, 2, 0},
    {"add", run_add, 3, 0},
    {"rms_norm_backward", run_rms_norm, 4, 0},
    {"layer_norm_backward", run_layer_norm, 4, 0},
    {"gelu_backward", run_gelu, 4, 0},
    {"gelu_tanh_backward", run_gelu_tanh, 4, 0},
    {"relu2_backward", run_relu2, 4, 0},
    {"rope_backward", run_rope, 2, 0},
    {"embed_backward", run_embed, 3.0 * C / F, 0},
    {"cross_entropy", run_loss, 0, 6e-9 * T *C *V},
};

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void row_measure(bench *b, size_t r) {
  double seconds[RUNS];
  for (int i = 0; i < RUNS; i++) {
    double start = ie_clock_s();
    rows[r].run(b);
    seconds[i] = ie_clock_s() - start;
  }
  qsort(seconds, RUNS, sizeof *seconds, compare);
  double median = seconds[RUNS / 2];
  if (rows[r].arrays > 0)
    printf("%-22s %9.3f ms %8.1f GB/s\n", rows[r].name, median * 1e3,
           rows[r].arrays * T * F * sizeof(float) / median * 1e-9);
  else
    printf("%-22s %9.3f ms %8.1f GFLOP/s\n", rows[r].name, median * 1e3, rows[r].gflop / median);
  fflush(stdout);
}

int main(int argc, char **argv) {
  const char *isa = argc > 1 && strcmp(argv[1], "best") != 0 ? argv[1] : NULL;
  ie_error error = {0};
  bench b = {0};
  if (ie_device_open(&(ie_device_options){.isa = isa, .threads = argc > 2 ? atoi(argv[2]) : 0}, &b.device,
                     &error) != IE_OK ||
      ie_arena_open((size_t)1 << 30, &b.ctx.arena, &error) != IE_OK) {
    fprintf(stderr, "bench_train_rows: %s\n", error.message);
    return 1;
  }
  b.ctx.device = b.device;
  b.ctx.cls = IE_CLASS_F32;
  b.x = random_floats((int64_t)T * F), b.dy = random_floats((int64_t)T * F);
  b.dx = random_floats((int64_t)T * F), b.weight = random_floats(C), b.grads = random_floats(2 * C);
  b.head = random_floats((int64_t)V * C), b.dhead = random_floats((int64_t)V * C);
  b.ids = malloc(T * sizeof *b.ids);
  if (!b.x || !b.dy || !b.dx || !b.weight || !b.grads || !b.head || !b.dhead || !b.ids) return 1;
  for (uint64_t t = 0; t < T; t++) b.ids[t] = (int32_t)(ie_rng_mix(t) % V);
  printf("%s, %d threads, (%d, %d)\n", ie_device_isa(b.device), ie_device_threads(b.device), T, F);
  for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
    if (argc <= 3 || strstr(rows[r].name, argv[3])) row_measure(&b, r);
  return 0;
}
