/* Speed of the three products of a linear layer in training, y = x W^T, dx = dy W and dW += dy^T x, beside the
 * machine's ceiling of f32 multiply-adds from registers, measured in the same run. A row is the median of several.
 *
 *   bench_gemm [ISA or best] [threads, 0 = all] [part of a shape's name] [f32|bf16|both] */
#include "base/clock.h"
#include "base/rng.h"
#include "clocher/bench.h"
#include "tensor/cpu_gemm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 5, EXPERTS_MAX = 32 };

typedef struct shape {
  const char *name;
  int64_t T, R, K; /* tokens, rows and columns of W */
  int experts;     /* that share T tokens unevenly; 0: a plain layer */
  int format;      /* of W: IE_W_F32 stands for a plain matrix */
} shape;

static const shape shapes[] = {
    {"10m-qkv", 1024, 960, 320, 0, 0},
    {"10m-up", 1024, 1280, 320, 0, 0},
    {"10m-down", 1024, 320, 1280, 0, 0},
    {"10m-qkv-8k", 8192, 960, 320, 0, 0},
    {"10m-up-8k", 8192, 1280, 320, 0, 0},
    {"gpt2-qkv", 1024, 2304, 768, 0, 0},
    {"gpt2-up", 1024, 3072, 768, 0, 0},
    {"gpt2-down", 1024, 768, 3072, 0, 0},
    {"gpt2-qkv-8k", 8192, 2304, 768, 0, 0},
    {"gpt2-vocab", 1024, 50257, 768, 0, 0},
    {"few-16", 16, 2304, 768, 0, 0},
    {"few-1", 1, 2304, 768, 0, 0},
    {"moe-small", 2048, 256, 320, 32, 0},
    {"moe-large", 512, 5760, 2880, 8, 0},
    {"moe-mxfp4", 512, 5760, 2880, 8, IE_W_MXFP4},
    {"frozen-bf16", 512, 2880, 2880, 0, IE_W_BF16},
    {"frozen-int4", 512, 2880, 2880, 0, IE_W_INT4},
};

typedef struct bench {
  ie_device *device;
  ie_ctx ctx;
  float *x, *y, *w; /* (T, K), (T, R), (E, R, K) */
  uint8_t *encoded;
  double ceiling; /* GFLOP/s */
} bench;

static float *random_floats(int64_t n) {
  float *x = malloc((size_t)n * sizeof *x);
  for (int64_t i = 0; x && i < n; i++) x[i] = (float)(ie_rng_mix((uint64_t)i) >> 40) * 0x1p-24f - 0.5f;
  return x;
}

/* Encoded weights of zeros and small numbers: the time does not depend on them. */
static ie_wview weight_view(const bench *b, const shape *s, int expert) {
  ie_wview w = {.format = (ie_wformat)s->format, .rows = s->R, .cols = s->K};
  size_t at = 0;
  for (int part = 0; part < 2; part++) {
    w.row_bytes[part] = ie_wformat_row_bytes(w.format, part, s->K);
    w.part[part] = b->encoded + at + (size_t)expert * (size_t)s->R * w.row_bytes[part];
    at += (size_t)(s->experts ? s->experts : 1) * (size_t)s->R * w.row_bytes[part];
  }
  return w;
}

typedef enum which { FORWARD, BACKWARD_X, BACKWARD_W } which;
static const char *const which_names[] = {"y = x W^T", "dx = dy W", "dW += dy^T x"};

static ie_gemm gemm_make(const bench *b, const shape *s, which what, int64_t t0, int64_t t1, int expert) {
  float *x = b->x + t0 * s->K, *y = b->y + t0 * s->R, *w = b->w + (s->format ? 0 : expert * s->R * s->K);
  ie_gemm_matrix mx = {.data = x, .row_stride = s->K}, my = {.data = y, .row_stride = s->R},
                 mw = {.data = w, .row_stride = s->K};
  ie_gemm g = {.M = t1 - t0, .N = s->R, .K = s->K, .a = mx, .b = mw, .c = y, .c_stride = s->R};
  g.b.transposed = true;
  if (what == BACKWARD_X)
    g = (ie_gemm){.M = t1 - t0, .N = s->K, .K = s->R, .a = my, .b = mw, .c = x, .c_stride = s->K};
  if (what == BACKWARD_W) {
    g = (ie_gemm){
        .M = s->R, .N = s->K, .K = t1 - t0, .a = my, .b = mx, .c = w, .c_stride = s->K, .add = true};
    g.a.transposed = true;
  }
  return g;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void measure(bench *b, const shape *s, which what, bool bf16) {
  ie_gemm g[EXPERTS_MAX];
  ie_wview views[EXPERTS_MAX];
  int n = s->experts ? s->experts : 1;
  double flop = 2.0 * (double)(s->T * s->R * s->K), times[RUNS];
  for (int e = 0; e < n; e++) { /* shares of e + 1/2 to n - 1/2, as uneven as routers are */
    g[e] = gemm_make(b, s, what, s->T * e * e / (n * n), s->T * (e + 1) * (e + 1) / (n * n), e);
    g[e].bf16 = bf16;
    views[e] = weight_view(b, s, e);
    if (s->format && what != BACKWARD_W) g[e].b.weight = &views[e];
  }
  int repeat = 1 + (int)(0.02 * b->ceiling * 1e9 / flop); /* of some 20 ms or more */
  for (int i = -1; i < RUNS; i++) {
    double start = ie_clock_s();
    for (int k = 0; k < repeat; k++) ie_cpu_gemm(&b->ctx, g, n);
    if (i >= 0) times[i] = (ie_clock_s() - start) / repeat;
  }
  qsort(times, RUNS, sizeof *times, compare);
  double rate = 1e-9 * flop / times[RUNS / 2];
  printf("%-12s %5d %6d %5d  %-13s %-5s %9.3f ms %8.1f GFLOP/s %5.1f%%\n", s->name, (int)s->T, (int)s->R,
         (int)s->K, which_names[what], bf16 ? "bf16" : "f32", 1e3 * times[RUNS / 2], rate,
         100 * rate / b->ceiling);
}

static bool run_shape(bench *b, const shape *s, const char *classes) {
  int64_t E = s->experts ? s->experts : 1;
  b->x = random_floats(s->T * s->K);
  b->y = random_floats(s->T * s->R);
  b->w = random_floats((s->format ? 1 : E) * s->R * s->K);
  b->encoded = calloc((size_t)(E * s->R), (size_t)s->K * 4);
  bool ok = b->x && b->y && b->w && b->encoded;
  for (int bf16 = 0; ok && bf16 < 2; bf16++)
    for (int what = FORWARD; what <= BACKWARD_W; what++) {
      if (strcmp(classes, bf16 ? "f32" : "bf16") == 0 || (s->format && what == BACKWARD_W)) continue;
      measure(b, s, (which)what, bf16);
    }
  free(b->x), free(b->y), free(b->w), free(b->encoded);
  return ok;
}

int main(int argc, char **argv) {
  bench b = {0};
  const char *isa = argc > 1 && strcmp(argv[1], "best") != 0 ? argv[1] : NULL;
  ie_device_options options = {.isa = isa, .threads = argc > 2 ? atoi(argv[2]) : 0};
  ie_error error = {0};
  if (ie_device_open(&options, &b.device, &error) != IE_OK) return fprintf(stderr, "%s\n", error.message), 1;
  b.ctx = (ie_ctx){.device = b.device, .layer = -1};
  if (ie_arena_open((size_t)256 << 20, &b.ctx.arena, &error) != IE_OK) return 1;
  ie_matrix_probe probe;
  ie_probe_matrix(b.device, &probe);
  for (int i = 0; i < probe.kinds; i++)
    if (strstr(probe.each[i].kind, "f32") != NULL) b.ceiling = 1e3 * probe.each[i].tera_s;
  printf("%s, %d threads: ceiling %.1f GFLOP/s\n", ie_isa_name(b.device->kernels.isa),
         ie_team_size(b.device->team), b.ceiling);
  bool ok = true;
  for (size_t i = 0; ok && i < sizeof shapes / sizeof *shapes; i++)
    if (argc < 4 || strstr(shapes[i].name, argv[3]) != NULL)
      ok = run_shape(&b, &shapes[i], argc > 4 ? argv[4] : "both");
  ie_arena_close(&b.ctx.arena);
  ie_device_free(b.device);
  return ok ? 0 : 1;
}
