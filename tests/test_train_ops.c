/* Launchers of training that touch each number once, and the loss: every instruction set gives the bits of the scalar
 * definition, every number of threads the same bits, and the cross-entropy the numbers of sums in double. (The formulas
 * of the backward passes are checked in double by tests/double.) */
#include "base/rng.h"
#include "clocher/device.h"
#include "support/guard.h"
#include "tensor/device.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static float noise(uint64_t stream, int64_t i) {
  return (float)(4.0 * ie_rng_f64(3, stream, (uint64_t)i) - 2.0);
}

static float *numbers(uint64_t stream, int64_t n) {
  float *x = guard_alloc((size_t)n * sizeof *x);
  for (int64_t i = 0; i < n; i++) x[i] = noise(stream, i);
  return x;
}

/* --- Kernels: the bits of the scalar ones -------------------------------------------------------------------- */

static const int64_t lengths[] = {1,  2,  7,  8,  9,  15,  16,  17,  31,  32,   33,
                                  47, 61, 63, 64, 65, 127, 128, 129, 769, 1023, 2887};
enum { LENGTHS = sizeof lengths / sizeof lengths[0], OUTPUTS = 3 };
static const ie_dtype dtypes[] = {IE_F32, IE_F16, IE_BF16};

static ie_kernels table[IE_ISA_COUNT];
static int tables;

static int kernels_setup(void **state) {
  (void)state;
  for (int isa = IE_ISA_SCALAR; isa <= (int)ie_isa_best() && isa <= IE_ISA_AVX512; isa++)
    ie_kernels_fill(&table[tables++], (ie_isa)isa);
  return 0;
}

/* What one kernel makes of inputs that are the same for all: up to three arrays of n, and a number. */
typedef struct outcome {
  float *out[OUTPUTS];
  double number;
} outcome;
typedef void (*kernel_fn)(const ie_kernels *kernels, int variant, int64_t n, outcome *result);

static void run_rms_norm(const ie_kernels *kernels, int variant, int64_t n, outcome *o) {
  float *dy = numbers(10, n), *x = numbers(11, n), *w = numbers(12, n);
  ie_dtype dtype = dtypes[variant % 3];
  void *weight = guard_alloc((size_t)n * ie_dtype_bytes(dtype));
  kernels->store(weight, dtype, w, n);
  ie_norm_backward_args args = {.dx = variant < 6 ? o->out[0] : NULL,
                                .dweight = variant >= 3 ? o->out[1] : NULL,
                                .dy = dy,
                                .x = x,
                                .weight = variant == 3 ? NULL : weight,
                                .dtype = dtype,
                                .n = n,
                                .eps = 1e-5f};
  kernels->rms_norm_backward(&args);
  guard_free(dy), guard_free(x), guard_free(w), guard_free(weight);
}

static void run_layer_norm(const ie_kernels *kernels, int variant, int64_t n, outcome *o) {
  float *dy = numbers(10, n), *x = numbers(11, n), *w = numbers(12, n);
  ie_dtype dtype = dtypes[variant % 3];
  void *weight = guard_alloc((size_t)n * ie_dtype_bytes(dtype));
  kernels->store(weight, dtype, w, n);
  for (int64_t i = 0; i < n; i++) x[i] += 5.0f;
  ie_norm_backward_args args = {.dx = variant < 6 ? o->out[0] : NULL,
                                .dweight = variant >= 3 ? o->out[1] : NULL,
                                .dbias = variant >= 3 ? o->out[2] : NULL,
                                .dy = dy,
                                .x = x,
                                .weight = weight,
                                .dtype = dtype,
                                .n = n,
                                .eps = 1e-5f};
  kernels->layer_norm_backward(&args);
  guard_free(dy), guard_free(x), guard_free(w), guard_free(weight);
}

/* Variants beyond 2 spread the inputs over all magnitudes. */
static void run_activate(const ie_kernels *kernels, int variant, int64_t n, outcome *o) {
  float *dy = numbers(10, n), *x = numbers(11, n);
  for (int64_t i = 0; variant >= 3 && i < n; i++) x[i] = ldexpf(x[i], (int)(i % 60) - 40);
  kernels->activate_backward(o->out[0], dy, x, n, (ie_activation)(variant % 3));
  guard_free(dy), guard_free(x);
}

static void run_soft_cap(const ie_kernels *kernels, int variant, int64_t n, outcome *o) {
  float *y = numbers(10, n);
  kernels->soft_cap_backward(o->out[0], y, n, variant ? 15.0f : 2.5f);
  guard_free(y);
}

/* out[1] and out[2] are the tables; n/2 pairs, the middle is left out when n is odd. */
static void run_rope(const ie_kernels *kernels, int variant, int64_t n, outcome *o) {
  (void)variant;
  kernels->rope_half_backward(o->out[0], o->out[1], o->out[2], n / 2 * 2);
}

static void run_softmax(const ie_kernels *kernels, int variant, int64_t n, outcome *o) {
  int64_t at;
  float max = kernels->max(o->out[0], n, &at);
  o->number = kernels->exp_sum(o->out[0], n, max);
  kernels->softmax_backward(o->out[0], n, max, 0.37f, variant ? 3.0f : 0.0f);
}

static void kernel_check(const char *name, kernel_fn run, int variants) {
  for (int variant = 0; variant < variants; variant++)
    for (int l = 0; l < LENGTHS; l++) {
      int64_t n = lengths[l];
      outcome results[IE_ISA_COUNT] = {0};
      for (int k = 0; k < tables; k++) {
        outcome *o = &results[k];
        for (int i = 0; i < OUTPUTS; i++) o->out[i] = numbers(20 + (uint64_t)i, n);
        run(&table[k], variant, n, o);
        for (int i = 0; i < OUTPUTS; i++)
          if (memcmp(results[0].out[i], o->out[i], (size_t)n * sizeof(float)) != 0)
            fail_msg("%s, variant %d, n = %td: %s differs from scalar in output %d", name, variant,
                     (ptrdiff_t)n, ie_isa_name(table[k].isa), i);
        if (results[0].number != o->number) fail_msg("%s: %s differs", name, ie_isa_name(table[k].isa));
      }
      for (int k = 0; k < tables; k++)
        for (int i = 0; i < OUTPUTS; i++) guard_free(results[k].out[i]);
    }
}

static void kernels_give_scalar_bits(void **state) {
  (void)state;
  kernel_check("rms_norm_backward", run_rms_norm, 9);
  kernel_check("layer_norm_backward", run_layer_norm, 9);
  kernel_check("activate_backward", run_activate, 6);
  kernel_check("soft_cap_backward", run_soft_cap, 2);
  kernel_check("rope_half_backward", run_rope, 1);
  kernel_check("softmax", run_softmax, 2);
}

/* Slopes of activations in f32 against double, over floats of all exponents. */
static void slopes_are_close(void **state) {
  (void)state;
  static const double bounds[] = {[IE_GELU] = 3e-7, [IE_GELU_TANH] = 5e-7, [IE_RELU2] = 1e-7};
  for (int a = IE_GELU; a <= IE_RELU2; a++) {
    double worst = 0;
    for (uint32_t u = 0; u < 0xFF800000u; u += 1021) {
      float x = ie_f32_from_bits(u), dx = 0, one = 1;
      if (!(fabsf(x) < 1e15f)) continue;
      table[0].activate_backward(&dx, &one, &x, 1, (ie_activation)a);
      double d = (double)x, k = 1.5957691216057308, s = 1 / (1 + exp(-k * (d + 0.044715 * d * d * d)));
      double exact = a == IE_RELU2 ? fmax(0, 2 * d)
                     : a == IE_GELU
                         ? 0.5 * erfc(-d * 0.70710678118654752) + d * exp(-d * d / 2) * 0.3989422804014327
                     : s == 0 ? 0
                              : s + d * s * (1 - s) * k * (1 + 3 * 0.044715 * d * d);
      worst = fmax(worst, fabs((double)dx - exact) / fmax(1, fabs(exact)));
    }
    print_message("activation %d: slope at most %.2e off\n", a, worst);
    assert_true(worst < bounds[a]);
  }
}

/* --- Launchers: threads -------------------------------------------------------------------------------------- */

typedef struct bench {
  ie_device *device;
  ie_ctx ctx;
} bench;

static void bench_open(bench *b, const char *isa, int threads) {
  ie_error error = {0};
  memset(b, 0, sizeof *b);
  assert_int_equal(ie_device_open(&(ie_device_options){.isa = isa, .threads = threads}, &b->device, &error),
                   IE_OK);
  b->ctx = (ie_ctx){.device = b->device, .cls = IE_CLASS_F32, .layer = -1};
  assert_int_equal(ie_arena_open(256 << 20, &b->ctx.arena, &error), IE_OK);
}

static void bench_close(bench *b) {
  assert_int_equal(b->ctx.status, IE_OK);
  ie_arena_close(&b->ctx.arena);
  ie_device_free(b->device);
}

/* Runs `body` measured and then computed in an arena of exactly the size that was measured. */
typedef void (*body_fn)(ie_ctx *ctx, void *arg);
static void measured(bench *b, body_fn body, void *arg) {
  ie_arena own = b->ctx.arena;
  ie_error error = {0};
  b->ctx.arena = ie_arena_measure();
  b->ctx.dry = true;
  body(&b->ctx, arg);
  size_t bytes = b->ctx.arena.peak;
  assert_int_equal(b->ctx.arena.used, 0);
  assert_int_equal(ie_arena_open(bytes, &b->ctx.arena, &error), IE_OK);
  memset(b->ctx.arena.base, 0xff, bytes); /* NaN: what is read was written */
  b->ctx.dry = false;
  body(&b->ctx, arg);
  assert_int_equal(b->ctx.status, IE_OK);
  assert_int_equal(b->ctx.arena.used, 0);
  ie_arena_close(&b->ctx.arena);
  b->ctx.arena = own;
}

static ie_tensor tensor_of(float *data, int64_t rows, int64_t cols) {
  return (ie_tensor){.dtype = IE_F32, .rank = 2, .shape = {rows, cols, 1, 1}, .data = data};
}

enum { ROWS = 331, WIDTH = 195, VOCABULARY = 53 };

/* Inputs and outputs of every launcher; outputs begin with numbers, to which gradients are added. */
typedef struct everything {
  float *x, *dy, *dx, *weight, *bias, *table;
  float *out; /* (OUT_COUNT) what is compared */
  int32_t *ids;
} everything;
enum { OUT_COUNT = 2 * ROWS * WIDTH + VOCABULARY * WIDTH + 2 * WIDTH };

static void every_launcher(ie_ctx *ctx, void *arg) {
  everything *e = arg;
  const ie_device_ops *ops = &ctx->device->ops;
  float *dx = e->out, *dx2 = dx + ROWS * WIDTH, *dtable = dx2 + ROWS * WIDTH,
        *dw = dtable + VOCABULARY * WIDTH;
  ie_tensor x = tensor_of(e->x, ROWS, WIDTH), heads = tensor_of(e->x, ROWS, 5),
            angle = tensor_of(e->table, ROWS, 17);
  heads.rank = 3, heads.shape[2] = WIDTH / 5;
  ie_param table_param = {.grad = dtable}, weight_param = {.grad = dw}, bias_param = {.grad = dw + WIDTH};
  ie_vector weight = {.data = e->weight, .n = WIDTH, .param = &weight_param};
  ie_vector bias = {.data = e->bias, .n = WIDTH, .param = &bias_param};
  weight.dtype = bias.dtype = IE_F32;
  ie_weight embedding = {.rows = VOCABULARY, .cols = WIDTH, .param = &table_param};
  ops->rms_norm_backward(ctx, dx, e->dy, &x, &weight, 1e-5f);
  ops->layer_norm_backward(ctx, dx, e->dy, &x, &weight, &bias, 1e-5f);
  ops->activate_backward(ctx, dx, e->dy, &x, IE_GELU);
  ops->soft_cap_backward(ctx, dx2, &x, 15.0f);
  ops->rope_backward(ctx, dx2, &heads, &angle, &angle);
  ops->embed_backward(ctx, e->dy, &embedding, &(ie_batch){.tokens = ROWS, .ids = e->ids});
  ops->gather_rows_backward(ctx, dx2, e->dy, WIDTH, e->ids, ROWS);
  ops->add(ctx, dx2, dx, ROWS * WIDTH);
  ops->scale(ctx, dx2, ROWS * WIDTH, 0.3f);
  ie_tensor q = heads;
  q.shape[0] = ROWS / 3;
  ops->split_heads_backward(ctx, dx, (const real *const[3]){e->dy, NULL, e->dy + WIDTH}, &q);
  ie_tensor to = tensor_of(dx2, 1, WIDTH);
  ops->zero(ctx, dtable + WIDTH, (VOCABULARY - 2) * WIDTH);
  ops->copy(ctx, &to, &(ie_tensor){.rank = 2, .shape = {1, WIDTH, 1, 1}, .data = e->dy});
}

static void threads_give_the_same_bits(void **state) {
  (void)state;
  everything e = {.x = numbers(1, ROWS * WIDTH),
                  .dy = numbers(2, ROWS * WIDTH),
                  .weight = numbers(3, WIDTH),
                  .bias = numbers(4, WIDTH),
                  .table = numbers(5, ROWS * 17)};
  e.ids = guard_alloc(ROWS * sizeof *e.ids);
  for (int64_t t = 0; t < ROWS; t++) e.ids[t] = (int32_t)(ie_rng_u64(5, 6, (uint64_t)t) % VOCABULARY);
  float *first = NULL;
  static const int teams[] = {1, 2, 3, 7};
  for (int k = 0; k < tables; k++)
    for (size_t i = 0; i < sizeof teams / sizeof *teams; i++) {
      bench b;
      bench_open(&b, ie_isa_name(table[k].isa), teams[i]);
      e.out = numbers(9, OUT_COUNT);
      measured(&b, every_launcher, &e);
      bench_close(&b);
      if (first) {
        assert_memory_equal(first, e.out, OUT_COUNT * sizeof *first);
        guard_free(e.out);
      } else {
        first = e.out;
      }
    }
  guard_free(first), guard_free(e.x), guard_free(e.dy), guard_free(e.weight), guard_free(e.bias);
  guard_free(e.table), guard_free(e.ids);
}

/* --- Cross-entropy ------------------------------------------------------------------------------------------- */

typedef struct loss_case {
  int64_t T, C, V;
  bool bias, weights, ignored, frozen;
  float cap;
} loss_case;

typedef struct loss_run {
  const loss_case *c;
  float *x, *w, *bias, *weight, *dx, *dw, *dbias;
  int32_t *target;
  double loss;
  bool with_dx;
} loss_run;

enum { SCALE_NUMERATOR = 3 };
static double loss_scale(const loss_case *c) {
  return SCALE_NUMERATOR / (double)c->T;
}

static void loss_body(ie_ctx *ctx, void *arg) {
  loss_run *run = arg;
  const loss_case *c = run->c;
  ie_param w = {.value = run->w, .grad = run->dw}, b = {.value = run->bias, .grad = run->dbias};
  ie_weight head = {.name = "head",
                    .format = IE_W_F32,
                    .experts = 1,
                    .rows = c->V,
                    .cols = c->C,
                    .part = {(const uint8_t *)run->w},
                    .row_bytes = {(size_t)c->C * sizeof(float)},
                    .bias = c->bias ? run->bias : NULL,
                    .bias_dtype = IE_F32,
                    .bias_stride = c->V};
  if (!c->frozen) head.param = &w, head.bias_param = c->bias ? &b : NULL;
  ie_tensor x = tensor_of(run->x, c->T, c->C);
  ie_loss_options options = {.head = &head,
                             .target = run->target,
                             .weight = c->weights ? run->weight : NULL,
                             .scale = loss_scale(c),
                             .soft_cap = c->cap};
  run->loss = ctx->device->ops.cross_entropy(ctx, run->with_dx ? run->dx : NULL, &x, &options);
}

static loss_run loss_new(const loss_case *c) {
  loss_run run = {.c = c,
                  .x = numbers(30, c->T * c->C),
                  .w = numbers(31, c->V * c->C),
                  .bias = numbers(32, c->V),
                  .weight = numbers(33, c->T),
                  .dx = numbers(34, c->T * c->C),
                  .dw = numbers(35, c->V * c->C),
                  .dbias = numbers(36, c->V),
                  .with_dx = true};
  float *starts[3] = {run.dx, run.dw, run.dbias}; /* small: what is looked at is what is added */
  const int64_t counts[3] = {c->T * c->C, c->V * c->C, c->V};
  for (int i = 0; i < 3; i++)
    for (int64_t j = 0; j < counts[i]; j++) starts[i][j] *= 0x1p-6f;
  run.target = guard_alloc((size_t)c->T * sizeof *run.target);
  for (int64_t t = 0; t < c->T; t++) {
    run.weight[t] = t % 5 == 3 ? 0.0f : fabsf(run.weight[t]);
    run.target[t] = (int32_t)(ie_rng_u64(8, 9, (uint64_t)t) % (uint64_t)c->V);
    if (c->ignored && t % 3 != 1) run.target[t] = t % 2 ? -1 : -100;
  }
  return run;
}

static void loss_free(loss_run *run) {
  guard_free(run->x), guard_free(run->w), guard_free(run->bias), guard_free(run->weight), guard_free(run->dx);
  guard_free(run->dw), guard_free(run->dbias), guard_free(run->target);
}

/* The definition, in double: adds gradients to dx, dw, dbias and returns the loss. */
static double loss_exact(const loss_run *run, double *dx, double *dw, double *dbias) {
  const loss_case *c = run->c;
  double total = 0, *l = malloc((size_t)c->V * sizeof *l);
  for (int64_t t = 0; t < c->T; t++) {
    double weight = c->weights ? (double)run->weight[t] : 1, sum = 0, max = -INFINITY;
    if (run->target[t] < 0) continue;
    for (int64_t v = 0; v < c->V; v++) {
      l[v] = c->bias ? (double)run->bias[v] : 0;
      for (int64_t i = 0; i < c->C; i++) l[v] += (double)run->x[t * c->C + i] * (double)run->w[v * c->C + i];
      if (c->cap > 0) l[v] = (double)c->cap * tanh(l[v] / (double)c->cap);
      max = fmax(max, l[v]);
    }
    for (int64_t v = 0; v < c->V; v++) sum += exp(l[v] - max);
    total += weight * (log(sum) + max - l[run->target[t]]);
    for (int64_t v = 0; v < c->V; v++) {
      double d = loss_scale(c) * weight * (exp(l[v] - max) / sum - (v == run->target[t]));
      if (c->cap > 0) d *= 1 - l[v] * l[v] / ((double)c->cap * (double)c->cap);
      dbias[v] += d;
      for (int64_t i = 0; i < c->C; i++) {
        dx[t * c->C + i] += d * (double)run->w[v * c->C + i];
        dw[v * c->C + i] += d * (double)run->x[t * c->C + i];
      }
    }
  }
  free(l);
  return loss_scale(c) * total;
}

static double *doubles(const float *x, int64_t n) {
  double *y = malloc((size_t)n * sizeof *y);
  for (int64_t i = 0; i < n; i++) y[i] = (double)x[i];
  return y;
}

/* found = start + gradient, to 4e-6 of the largest gradient and the rounding of the sum. */
static void gradient_check(const char *what, const loss_case *c, const float *found, const double *expected,
                           const float *start, int64_t n) {
  double most = 1e-6;
  for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(expected[i] - (double)start[i]));
  for (int64_t i = 0; i < n; i++)
    if (!(fabs((double)found[i] - expected[i]) <= 4e-6 * most + 2e-7))
      fail_msg("%s, T %td C %td V %td cap %g: element %td: expected %.9g, found %.9g", what, (ptrdiff_t)c->T,
               (ptrdiff_t)c->C, (ptrdiff_t)c->V, (double)c->cap, (ptrdiff_t)i, expected[i], (double)found[i]);
}

static void loss_check(const loss_case *c) {
  loss_run start = loss_new(c), first = {0};
  double *dx = doubles(start.dx, c->T * c->C), *dw = doubles(start.dw, c->V * c->C),
         *db = doubles(start.dbias, c->V);
  double expected = loss_exact(&start, dx, dw, db);
  for (int threads = 1; threads <= 3; threads++) {
    loss_run run = loss_new(c);
    bench b;
    bench_open(&b, NULL, threads);
    measured(&b, loss_body, &run);
    bench_close(&b);
    if (!(fabs(run.loss - expected) <= 2e-6 * fmax(1, fabs(expected))))
      fail_msg("T %td C %td V %td: loss %.12g, expected %.12g", (ptrdiff_t)c->T, (ptrdiff_t)c->C,
               (ptrdiff_t)c->V, run.loss, expected);
    gradient_check("dx", c, run.dx, dx, start.dx, c->T * c->C);
    if (c->frozen)
      assert_memory_equal(run.dw, start.dw, (size_t)(c->V * c->C) * sizeof(float));
    else
      gradient_check("dw", c, run.dw, dw, start.dw, c->V * c->C);
    if (c->bias && !c->frozen) gradient_check("dbias", c, run.dbias, db, start.dbias, c->V);
    if (threads == 1) {
      first = run;
      continue;
    }
    assert_true(first.loss == run.loss);
    assert_memory_equal(first.dx, run.dx, (size_t)(c->T * c->C) * sizeof(float));
    assert_memory_equal(first.dw, run.dw, (size_t)(c->V * c->C) * sizeof(float));
    assert_memory_equal(first.dbias, run.dbias, (size_t)c->V * sizeof(float));
    loss_free(&run);
  }
  loss_free(&first), loss_free(&start), free(dx), free(dw), free(db);
}

static void cross_entropy_is_the_definition(void **state) {
  (void)state;
  static const loss_case cases[] = {
      {.T = 1, .C = 1, .V = 1},
      {.T = 1, .C = 7, .V = 2},
      {.T = 3, .C = 16, .V = 33, .bias = true},
      {.T = 37, .C = 20, .V = 131, .cap = 5.0f},
      {.T = 37, .C = 20, .V = 131, .bias = true, .weights = true, .cap = 15.0f},
      {.T = 37, .C = 20, .V = 131, .ignored = true},
      {.T = 38, .C = 20, .V = 1025, .ignored = true, .weights = true, .bias = true},
      {.T = 37, .C = 20, .V = 131, .frozen = true, .bias = true},
      {.T = 511, .C = 9, .V = 23},
      {.T = 512, .C = 9, .V = 23},
      {.T = 513, .C = 9, .V = 23, .bias = true},
      {.T = 1031, .C = 9, .V = 23, .weights = true},
      {.T = 1601, .C = 5, .V = 17, .ignored = true, .weights = true, .bias = true, .cap = 4.0f},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) loss_check(&cases[i]);
}

/* Without a gradient of x: the head's alone, or nothing but the loss. With no target that counts: 0. */
static void cross_entropy_without_gradients(void **state) {
  (void)state;
  for (int frozen = 0; frozen < 2; frozen++) {
    loss_case c = {.T = 29, .C = 12, .V = 41, .frozen = frozen != 0, .ignored = true};
    loss_run full = loss_new(&c), run = loss_new(&c), start = loss_new(&c);
    bench b;
    bench_open(&b, NULL, 2);
    measured(&b, loss_body, &full);
    run.with_dx = false;
    measured(&b, loss_body, &run);
    assert_true(full.loss == run.loss);
    assert_memory_equal(full.dw, run.dw, (size_t)(c.V * c.C) * sizeof(float));
    assert_memory_equal(start.dx, run.dx, (size_t)(c.T * c.C) * sizeof(float));
    for (int64_t t = 0; t < c.T; t++) start.target[t] = -100;
    measured(&b, loss_body, &start);
    assert_true(start.loss == 0);
    bench_close(&b);
    loss_free(&full), loss_free(&run), loss_free(&start);
  }
}

/* The memory of the logits is that of a chunk. */
static void cross_entropy_takes_bounded_memory(void **state) {
  (void)state;
  size_t peak[2];
  for (int i = 0; i < 2; i++) {
    bench b;
    bench_open(&b, NULL, 2);
    loss_case c = {.T = i ? 1 << 20 : 1 << 12, .C = 768, .V = 50257};
    loss_run run = {.c = &c};
    ie_arena own = b.ctx.arena;
    b.ctx.arena = ie_arena_measure();
    b.ctx.dry = true;
    loss_body(&b.ctx, &run);
    peak[i] = b.ctx.arena.peak;
    b.ctx.arena = own;
    bench_close(&b);
  }
  assert_int_equal(peak[0], peak[1]);
  assert_in_range(peak[0], 1 << 20, 256 << 20);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(kernels_give_scalar_bits),        cmocka_unit_test(slopes_are_close),
      cmocka_unit_test(threads_give_the_same_bits),      cmocka_unit_test(cross_entropy_is_the_definition),
      cmocka_unit_test(cross_entropy_without_gradients), cmocka_unit_test(cross_entropy_takes_bounded_memory),
  };
  return cmocka_run_group_tests(tests, kernels_setup, NULL);
}
