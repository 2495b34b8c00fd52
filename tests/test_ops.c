/* Operations: fused = unfused, the mixture of experts against sums in double, shapes that do not fit and launchers that
 * are missing are refused by name. */
#include "ops/ops.h"

#include "base/rng.h"
#include "tensor/cpu_finite.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct bench {
  ie_device *device;
  ie_ctx ctx;
} bench;

static float noise(uint64_t stream, uint64_t i) {
  return 2.0f * ie_rng_f32(7, stream, i) - 1.0f;
}

static void open_ctx(bench *b, const char *isa) {
  ie_error error = {0};
  memset(b, 0, sizeof *b);
  assert_int_equal(ie_device_open(&(ie_device_options){.isa = isa, .threads = 2}, &b->device, &error), IE_OK);
  b->ctx = (ie_ctx){.device = b->device, .cls = IE_CLASS_F32, .layer = 3};
  assert_int_equal(ie_arena_open(64 << 20, &b->ctx.arena, &error), IE_OK);
}

static void close_ctx(bench *b) {
  ie_arena_close(&b->ctx.arena);
  ie_device_free(b->device);
}

static ie_tensor *random_tensor(ie_ctx *ctx, uint64_t stream, int64_t rows, int64_t cols) {
  ie_tensor *t = ie_ctx_tensor(ctx, IE_F32, 2, (int64_t[]){rows, cols});
  for (int64_t i = 0; i < rows * cols; i++) ie_tensor_f32(t)[i] = noise(stream, (uint64_t)i);
  return t;
}

/* A stack of f32 matrices with biases; the memory is the caller's. */
static ie_weight random_weight(ie_ctx *ctx, uint64_t stream, int64_t E, int64_t R, int64_t K,
                               float **memory) {
  int64_t n = E * R * (K + 1);
  float *data = *memory = malloc((size_t)n * sizeof *data);
  for (int64_t i = 0; i < n; i++) data[i] = noise(stream, (uint64_t)i);
  ie_weight w = {.name = "w", .format = IE_W_F32, .experts = E, .rows = R, .cols = K};
  w.part[0] = (const uint8_t *)data;
  w.row_bytes[0] = (size_t)K * sizeof *data;
  w.expert_bytes[0] = (size_t)R * w.row_bytes[0];
  w.bias = data + E * R * K;
  w.bias_dtype = IE_F32;
  w.bias_stride = R;
  ie_weight_choose(&w, &ctx->device->kernels, ctx->cls);
  return w;
}

enum { T = 37, C = 70, D = 10, H = 6, HK = 2 };

static void qkv_is_three_linears(void **unused) {
  (void)unused;
  for (int isa = 0; ie_device_isa_list()[isa]; isa++) {
    bench b;
    open_ctx(&b, ie_device_isa_list()[isa]);
    float *m[3];
    const int64_t rows[3] = {H * D, HK * D, HK * D};
    ie_weight w[3];
    for (int i = 0; i < 3; i++) w[i] = random_weight(&b.ctx, (uint64_t)i, 1, rows[i], C, &m[i]);
    ie_tensor *x = random_tensor(&b.ctx, 9, T, C);
    ie_qkv fused = ie_op_qkv(&b.ctx, x, &w[0], &w[1], &w[2], D);
    ie_tensor *out[3] = {fused.q, fused.k, fused.v};
    for (int i = 0; i < 3; i++) {
      ie_tensor *alone = ie_op_linear(&b.ctx, x, &w[i]);
      assert_non_null(out[i]);
      assert_int_equal(out[i]->shape[1] * out[i]->shape[2], rows[i]);
      assert_memory_equal(ie_tensor_f32(out[i]), ie_tensor_f32(alone), (size_t)(T * rows[i]) * sizeof(float));
      free(m[i]);
    }
    close_ctx(&b);
  }
}

static void linear_residual_is_linear_and_a_sum(void **unused) {
  (void)unused;
  bench b;
  open_ctx(&b, NULL);
  float *memory;
  ie_weight w = random_weight(&b.ctx, 1, 1, C, H * D, &memory);
  ie_tensor *x = random_tensor(&b.ctx, 2, T, H * D), *residual = random_tensor(&b.ctx, 3, T, C);
  ie_tensor *before = random_tensor(&b.ctx, 3, T, C), *y = ie_op_linear(&b.ctx, x, &w);
  assert_ptr_equal(ie_op_linear_residual(&b.ctx, residual, x, &w), residual);
  for (int64_t i = 0; i < T * C; i++)
    assert_true(fabsf(ie_tensor_f32(residual)[i] - (ie_tensor_f32(before)[i] + ie_tensor_f32(y)[i])) < 2e-5f);
  free(memory);
  close_ctx(&b);
}

enum { E = 5, F = 24, TOP = 2 };

static double weight_at(const ie_weight *w, int64_t e, int64_t r, int64_t k) {
  return ((const float *)(const void *)w->part[0])[(e * w->rows + r) * w->cols + k];
}
static double bias_at(const ie_weight *w, int64_t e, int64_t r) {
  return ((const float *)w->bias)[e * w->rows + r];
}

/* One expert for one token, in double: out (C) += scale * down(swiglu(gate_up x)). */
static void expert_add(double *out, const float *x, const ie_moe_options *o, int64_t e, double scale) {
  double a[F];
  for (int64_t f = 0; f < F; f++) {
    double gu[2];
    for (int j = 0; j < 2; j++) {
      gu[j] = bias_at(o->gate_up, e, 2 * f + j);
      for (int64_t k = 0; k < C; k++) gu[j] += weight_at(o->gate_up, e, 2 * f + j, k) * (double)x[k];
    }
    double limit = (double)o->limit, gate = fmin(gu[0], limit), up = fmax(fmin(gu[1], limit), -limit);
    a[f] = (up + 1) * gate / (1 + exp(-(double)o->alpha * gate));
  }
  for (int64_t r = 0; r < C; r++) {
    double sum = bias_at(o->down, e, r);
    for (int64_t f = 0; f < F; f++) sum += weight_at(o->down, e, r, f) * a[f];
    out[r] += scale * sum;
  }
}

/* Tokens that all choose the same experts, tokens that choose different ones, one token, many. */
static void moe_equals_sums_in_double(void **unused) {
  (void)unused;
  static const int64_t lengths[] = {1, 2, T};
  for (int isa = 0; ie_device_isa_list()[isa]; isa++) {
    for (size_t l = 0; l < 3; l++) {
      bench b;
      open_ctx(&b, ie_device_isa_list()[isa]);
      int64_t n = lengths[l];
      float *m[2];
      ie_weight up = random_weight(&b.ctx, 1, E, 2 * F, C, &m[0]),
                down = random_weight(&b.ctx, 2, E, C, F, &m[1]);
      ie_moe_options o = {.gate_up = &up, .down = &down, .alpha = 1.702f, .limit = 2.0f};
      ie_tensor *x = random_tensor(&b.ctx, 3, n, C), *y = random_tensor(&b.ctx, 4, n, C);
      ie_tensor *scores = random_tensor(&b.ctx, 5, n, E);
      for (int64_t i = 0; i < E && n > 20; i++) ie_tensor_f32(scores)[i] = i == 2; /* ties among the rest */
      ie_routing routing = ie_op_route(&b.ctx, scores, &(ie_route_options){.top_k = TOP});
      double *want = malloc((size_t)(n * C) * sizeof *want);
      for (int64_t i = 0; i < n * C; i++) want[i] = (double)ie_tensor_f32(y)[i];
      for (int64_t t = 0; t < n; t++)
        for (int j = 0; j < TOP; j++)
          expert_add(want + t * C, ie_tensor_f32(x) + t * C, &o, ie_tensor_i32(routing.expert)[t * TOP + j],
                     (double)ie_tensor_f32(routing.weight)[t * TOP + j]);
      assert_ptr_equal(ie_op_moe_residual(&b.ctx, y, x, routing, &o), y);
      for (int64_t i = 0; i < n * C; i++) assert_true(fabs((double)ie_tensor_f32(y)[i] - want[i]) < 2e-4);
      free(want);
      free(m[0]);
      free(m[1]);
      close_ctx(&b);
    }
  }
}

static void routing_takes_the_largest(void **unused) {
  (void)unused;
  bench b;
  open_ctx(&b, NULL);
  ie_tensor *scores = random_tensor(&b.ctx, 1, 2, E);
  const float rows[2][E] = {{0, 3, 1, 3, 2}, {-1, -1, -1, -1, -1}};
  memcpy(scores->data, rows, sizeof rows);
  ie_routing r = ie_op_route(&b.ctx, scores, &(ie_route_options){.top_k = 3});
  const int32_t want[6] = {1, 3, 4, 0, 1, 2}; /* the smaller index among equals */
  assert_memory_equal(r.expert->data, want, sizeof want);
  double sum = 2 * exp(3) + exp(2);
  assert_true(fabs((double)ie_tensor_f32(r.weight)[2] - exp(2) / sum) < 1e-6);
  assert_true(fabsf(ie_tensor_f32(r.weight)[4] - 1.0f / 3) < 1e-6f);
  assert_null(ie_op_route(&b.ctx, scores, &(ie_route_options){.top_k = E + 1}).expert);
  assert_int_equal(b.ctx.status, IE_FORMAT);
  close_ctx(&b);
}

/* The first error stays, names op, layer and both sizes; what follows does nothing. */
static void wrong_shapes_and_missing_launchers_are_named(void **unused) {
  (void)unused;
  bench b;
  open_ctx(&b, NULL);
  float *memory;
  ie_weight w = random_weight(&b.ctx, 1, 1, C, H * D, &memory);
  ie_tensor *x = random_tensor(&b.ctx, 2, T, C);
  assert_null(ie_op_linear(&b.ctx, x, &w));
  assert_int_equal(b.ctx.status, IE_FORMAT);
  assert_string_equal(b.ctx.error.message, "layer 3: linear: w: expected 60, found 70");
  assert_null(ie_op_rms_norm(&b.ctx, x, &(ie_vector){.n = 1}, 1e-5f));
  assert_string_equal(b.ctx.error.message, "layer 3: linear: w: expected 60, found 70");
  assert_null(ie_op_linear(&b.ctx, NULL, &w));

  b.ctx.status = IE_OK;
  b.device->ops.rms_norm = NULL;
  assert_null(ie_op_rms_norm(&b.ctx, x, &(ie_vector){.n = C}, 1e-5f));
  assert_int_equal(b.ctx.status, IE_UNSUPPORTED);
  assert_non_null(strstr(b.ctx.error.message, "rms_norm: device cpu has no such operation"));
  free(memory);
  close_ctx(&b);
}

/* Many numbers are looked at by all threads; the first one is named, wherever others are. */
static void first_of_many_nonfinite(void **state) {
  (void)state;
  enum { N = 1 << 20 };
  static const int64_t places[][3] = {{N - 1, N - 1, N - 1},
                                      {0, 5, N - 1},
                                      {N / 2, N / 2 + 1, N - 2},
                                      {N / 2 - 1, N / 2, N - 1},
                                      {70000, N / 2, 600000}};
  bench b;
  open_ctx(&b, NULL);
  float *x = calloc(N, sizeof *x);
  assert_non_null(x);
  assert_int_equal(cpu_first_nonfinite(b.device, x, N), -1);
  for (size_t i = 0; i < sizeof places / sizeof *places; i++)
    for (int repeat = 0; repeat < 20; repeat++) {
      for (int k = 0; k < 3; k++) x[places[i][k]] = k == 1 ? NAN : INFINITY;
      assert_int_equal(cpu_first_nonfinite(b.device, x, N), places[i][0]);
      assert_int_equal(cpu_first_nonfinite(b.device, x, places[i][0]), -1);
      for (int k = 0; k < 3; k++) x[places[i][k]] = 0;
    }
  free(x);
  close_ctx(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(qkv_is_three_linears),
      cmocka_unit_test(linear_residual_is_linear_and_a_sum),
      cmocka_unit_test(moe_equals_sums_in_double),
      cmocka_unit_test(routing_takes_the_largest),
      cmocka_unit_test(first_of_many_nonfinite),
      cmocka_unit_test(wrong_shapes_and_missing_launchers_are_named),
  };
  return cmocka_run_group_tests_name("ops", tests, NULL, NULL);
}
