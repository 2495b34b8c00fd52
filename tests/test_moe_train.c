/* The mixture of experts under a tape: forward and backward against sums in double for every instruction set, the same
 * bits for any number of threads, frozen experts; the router's backward and its balance; the backwards of both SwiGLUs. */
#include "base/float.h"
#include "base/rng.h"
#include "blocks/mxfp4.h"
#include "support/guard.h"
#include "tensor/device.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static float noise(uint64_t stream, int64_t i) {
  return 2.0f * ie_rng_f32(11, stream, (uint64_t)i) - 1.0f;
}

static float *noises(uint64_t stream, int64_t n, float scale) {
  float *x = malloc((size_t)n * sizeof *x);
  assert_non_null(x);
  for (int64_t i = 0; i < n; i++) x[i] = scale * noise(stream, i);
  return x;
}

typedef struct bench {
  ie_device *device;
  ie_ctx ctx;
} bench;

static void bench_open(bench *b, const char *isa, int threads, ie_class cls, size_t arena_bytes) {
  ie_error error = {0};
  memset(b, 0, sizeof *b);
  assert_int_equal(ie_device_open(&(ie_device_options){.isa = isa, .threads = threads}, &b->device, &error),
                   IE_OK);
  b->ctx = (ie_ctx){.device = b->device, .cls = cls, .layer = 2};
  assert_int_equal(ie_arena_open(arena_bytes, &b->ctx.arena, &error), IE_OK);
}

static void bench_close(bench *b) {
  if (b->ctx.status != IE_OK) fail_msg("%s", b->ctx.error.message);
  ie_arena_close(&b->ctx.arena);
  ie_device_free(b->device);
}

static ie_tensor tensor_of(ie_dtype dtype, int64_t rows, int64_t cols, void *data) {
  return (ie_tensor){.dtype = dtype, .rank = 2, .shape = {rows, cols, 1, 1}, .data = data};
}

/* --- A mixture, run and computed in double ------------------------------------------------------------------------ */

typedef struct shape {
  int64_t T, E, k, C, F;
  ie_wformat up, down;
  bool up_frozen, down_frozen, no_bias;
  int64_t unused; /* an expert that nobody chooses; 0: none */
} shape;

/* Everything that comes out, in this order: y (T, C), gate_up (P, 2F), dx (T, C), dweight (T, k), and the gradients of
 * gate_up (E, 2F, C), down (E, C, F) and their biases (E, 2F), (E, C). */
enum { OUT_Y, OUT_GATE_UP, OUT_DX, OUT_DWEIGHT, OUT_UP, OUT_DOWN, OUT_UP_BIAS, OUT_DOWN_BIAS, OUTS };
static const char *const out_names[OUTS] = {"y",     "gate_up", "dx",    "dweight",
                                            "dW up", "dW down", "db up", "db down"};

typedef struct mixture {
  shape s;
  int64_t P, first[OUTS + 1]; /* of each part in an array of all */
  float alpha, limit;
  float *x, *dy, *logits, *initial; /* initial (all): what is there before */
  float *matrix[2], *bias[2];       /* as numbers */
  void *stored[2], *scales[2];
  int32_t *expert; /* (T, k) */
  float *weight;
} mixture;

static void matrix_store(mixture *m, int i, ie_wformat format, int64_t rows, int64_t cols) {
  int64_t n = rows * cols;
  float *x = m->matrix[i];
  m->stored[i] = malloc((size_t)n * sizeof *x);
  m->scales[i] = malloc((size_t)n);
  assert_true(m->stored[i] && m->scales[i]);
  if (format == IE_W_F32) {
    memcpy(m->stored[i], x, (size_t)n * sizeof *x);
  } else if (format == IE_W_BF16) {
    for (int64_t j = 0; j < n; j++) {
      uint16_t h = ie_f32_to_bf16(x[j]);
      ((uint16_t *)m->stored[i])[j] = h;
      x[j] = ie_bf16_to_f32(h);
    }
  } else {
    uint8_t *bytes = m->stored[i], *scales = m->scales[i];
    for (int64_t j = 0; j < n / IE_MXFP4_COLS; j++) {
      for (int b = 0; b < IE_MXFP4_BYTES; b++)
        bytes[j * IE_MXFP4_BYTES + b] = (uint8_t)ie_rng_u64(3, (uint64_t)i, (uint64_t)(j * 16 + b));
      scales[j] = (uint8_t)(123 + j % 2);
      ie_mxfp4_decode_block(x + j * IE_MXFP4_COLS, bytes + j * IE_MXFP4_BYTES, scales[j]);
    }
  }
}

static ie_weight matrix_weight(const mixture *m, int i, const ie_ctx *ctx) {
  bool down = i == 1;
  ie_weight w = {.name = "w", .format = down ? m->s.down : m->s.up, .experts = m->s.E};
  w.rows = down ? m->s.C : 2 * m->s.F;
  w.cols = down ? m->s.F : m->s.C;
  w.part[0] = m->stored[i];
  w.part[1] = m->scales[i];
  for (int part = 0; part < 2; part++) {
    w.row_bytes[part] = ie_wformat_row_bytes(w.format, part, w.cols);
    w.expert_bytes[part] = (size_t)w.rows * w.row_bytes[part];
  }
  if (!m->s.no_bias) w.bias = m->bias[i];
  w.bias_dtype = IE_F32;
  w.bias_stride = w.rows;
  ie_weight_choose(&w, &ctx->device->kernels, ctx->cls);
  return w;
}

static mixture mixture_new(const shape *s) {
  mixture m = {.s = *s, .P = s->T * s->k, .alpha = 1.702f, .limit = 1.5f};
  const int64_t counts[OUTS] = {s->T * s->C,        m.P * 2 * s->F,  s->T * s->C, m.P, s->E * 2 * s->F * s->C,
                                s->E * s->C * s->F, s->E * 2 * s->F, s->E * s->C};
  for (int i = 0; i < OUTS; i++) m.first[i + 1] = m.first[i] + counts[i];
  m.x = noises(1, s->T * s->C, 1.5f);
  m.dy = noises(2, s->T * s->C, 1.0f);
  m.logits = noises(3, s->T * s->E, 2.0f);
  m.initial = noises(4, m.first[OUTS], 0.25f);
  m.matrix[0] = noises(5, s->E * 2 * s->F * s->C, 2.5f / sqrtf((float)s->C));
  m.matrix[1] = noises(6, s->E * s->C * s->F, 2.0f / sqrtf((float)s->F));
  m.bias[0] = noises(7, s->E * 2 * s->F, 0.5f);
  m.bias[1] = noises(8, s->E * s->C, 0.5f);
  matrix_store(&m, 0, s->up, s->E * 2 * s->F, s->C);
  matrix_store(&m, 1, s->down, s->E * s->C, s->F);
  for (int64_t t = 0; t < s->T && s->unused; t++) m.logits[t * s->E + s->unused] = -100;
  m.expert = malloc((size_t)m.P * sizeof *m.expert);
  m.weight = malloc((size_t)m.P * sizeof *m.weight);
  bench b;
  bench_open(&b, "scalar", 1, IE_CLASS_F32, 1 << 20);
  ie_tensor expert = tensor_of(IE_I32, s->T, s->k, m.expert),
            weight = tensor_of(IE_F32, s->T, s->k, m.weight),
            logits = tensor_of(IE_F32, s->T, s->E, m.logits);
  b.device->ops.route(&b.ctx, &expert, &weight, &logits, &(ie_route_options){.top_k = s->k});
  bench_close(&b);
  return m;
}

static void mixture_free(mixture *m) {
  free(m->x), free(m->dy), free(m->logits), free(m->initial), free(m->expert), free(m->weight);
  for (int i = 0; i < 2; i++) free(m->matrix[i]), free(m->bias[i]), free(m->stored[i]), free(m->scales[i]);
}

/* Forward and backward on the device; the caller frees what comes out. */
static float *mixture_run(const mixture *m, const char *isa, int threads, ie_class cls, bool measured) {
  const shape *s = &m->s;
  float *out = malloc((size_t)m->first[OUTS] * sizeof *out);
  memcpy(out, m->initial, (size_t)m->first[OUTS] * sizeof *out);
  bench b;
  bench_open(&b, isa, threads, cls, 128 << 20);
  ie_weight up = matrix_weight(m, 0, &b.ctx), down = matrix_weight(m, 1, &b.ctx);
  ie_param params[4] = {
      {.value = m->matrix[0]}, {.value = m->matrix[1]}, {.value = m->bias[0]}, {.value = m->bias[1]}};
  for (int i = 0; i < 4; i++) params[i].grad = out + m->first[OUT_UP + i];
  if (!s->up_frozen) up.param = &params[0], up.bias_param = s->no_bias ? NULL : &params[2];
  if (!s->down_frozen) down.param = &params[1], down.bias_param = s->no_bias ? NULL : &params[3];
  ie_moe_options options = {.gate_up = &up, .down = &down, .alpha = m->alpha, .limit = m->limit};
  ie_tensor x = tensor_of(IE_F32, s->T, s->C, m->x), y = tensor_of(IE_F32, s->T, s->C, out),
            gate_up = tensor_of(IE_F32, m->P, 2 * s->F, out + m->first[OUT_GATE_UP]),
            expert = tensor_of(IE_I32, s->T, s->k, m->expert),
            weight = tensor_of(IE_F32, s->T, s->k, m->weight);
  ie_tensor *const routing[2] = {&expert, &weight};
  ie_moe_grads to = {.x = out + m->first[OUT_DX], .weight = out + m->first[OUT_DWEIGHT]};
  if (measured) { /* an arena of just what a dry run took */
    ie_arena arena = b.ctx.arena;
    ie_error error;
    b.ctx.arena = ie_arena_measure();
    b.ctx.dry = true;
    b.device->ops.moe_train(&b.ctx, &y, &gate_up, &x, routing, &options);
    b.device->ops.moe_backward(&b.ctx, &to, NULL, &gate_up, &x, routing, &options);
    b.ctx.dry = false;
    ie_arena_close(&arena);
    assert_int_equal(ie_arena_open(b.ctx.arena.peak, &b.ctx.arena, &error), IE_OK);
  }
  b.device->ops.moe_train(&b.ctx, &y, &gate_up, &x, routing, &options);
  b.device->ops.moe_backward(&b.ctx, &to, m->dy, &gate_up, &x, routing, &options);
  assert_true(b.ctx.arena.used == 0);
  bench_close(&b);
  return out;
}

static double rounded(double x, ie_class cls) {
  return cls == IE_CLASS_BF16 ? (double)ie_f32_round_bf16((float)x) : x;
}

/* One pair: adds to all parts but gate_up, which it writes. */
static void pair_exact(const mixture *m, double *out, ie_class cls, int64_t pair, int64_t place) {
  const shape *s = &m->s;
  int64_t t = pair / s->k, C = s->C, F = s->F, e = m->expert[pair];
  double w = (double)m->weight[pair], limit = (double)m->limit, alpha = (double)m->alpha, dw = 0;
  const float *x = m->x + t * C, *dy = m->dy + t * C, *up = m->matrix[0] + e * 2 * F * C,
              *down = m->matrix[1] + e * C * F;
  double *gu = out + m->first[OUT_GATE_UP] + place * 2 * F, *dgu = malloc((size_t)(2 * F) * sizeof *dgu),
         *h = malloc((size_t)F * sizeof *h);
  for (int64_t r = 0; r < 2 * F; r++) {
    gu[r] = s->no_bias ? 0 : (double)m->bias[0][e * 2 * F + r];
    for (int64_t c = 0; c < C; c++) gu[r] += rounded((double)up[r * C + c], cls) * rounded((double)x[c], cls);
  }
  for (int64_t f = 0; f < F; f++) {
    double dh = 0, g = fmin(gu[2 * f], limit), u = fmax(fmin(gu[2 * f + 1], limit), -limit);
    double q = 1 / (1 + exp(-alpha * g));
    h[f] = (u + 1) * g * q;
    for (int64_t c = 0; c < C; c++) dh += rounded((double)dy[c], cls) * rounded((double)down[c * F + f], cls);
    dw += dh * h[f];
    dgu[2 * f] = gu[2 * f] > limit ? 0 : w * dh * (u + 1) * q * (1 + alpha * g * (1 - q));
    dgu[2 * f + 1] = fabs(gu[2 * f + 1]) > limit ? 0 : w * dh * g * q;
  }
  for (int64_t c = 0; c < C; c++) {
    double y = s->no_bias ? 0 : (double)m->bias[1][e * C + c];
    dw += y * (double)dy[c];
    for (int64_t f = 0; f < F; f++) {
      y += rounded((double)down[c * F + f], cls) * rounded(h[f], cls);
      out[m->first[OUT_DOWN] + (e * C + c) * F + f] += rounded((double)dy[c], cls) * rounded(w * h[f], cls);
    }
    out[m->first[OUT_Y] + t * C + c] += w * y;
    out[m->first[OUT_DOWN_BIAS] + e * C + c] += w * (double)dy[c];
  }
  for (int64_t r = 0; r < 2 * F; r++) {
    out[m->first[OUT_UP_BIAS] + e * 2 * F + r] += dgu[r];
    for (int64_t c = 0; c < C; c++) {
      out[m->first[OUT_DX] + t * C + c] += rounded(dgu[r], cls) * rounded((double)up[r * C + c], cls);
      out[m->first[OUT_UP] + (e * 2 * F + r) * C + c] += rounded(dgu[r], cls) * rounded((double)x[c], cls);
    }
  }
  out[m->first[OUT_DWEIGHT] + pair] += dw;
  free(dgu);
  free(h);
}

static double *mixture_exact(const mixture *m, ie_class cls) {
  int64_t n = m->first[OUTS], place = 0;
  double *out = malloc((size_t)n * sizeof *out);
  for (int64_t i = 0; i < n; i++) out[i] = (double)m->initial[i];
  for (int64_t e = 0; e < m->s.E; e++)
    for (int64_t pair = 0; pair < m->P; pair++)
      if (m->expert[pair] == e) pair_exact(m, out, cls, pair, place++);
  /* What is frozen keeps what stood there. */
  for (int i = 0; i < 4; i++) {
    if (!(i % 2 ? m->s.down_frozen : m->s.up_frozen) && !(i >= 2 && m->s.no_bias)) continue;
    for (int64_t j = m->first[OUT_UP + i]; j < m->first[OUT_UP + i + 1]; j++) out[j] = (double)m->initial[j];
  }
  return out;
}

/* Largest difference as a share of the largest number of the part. */
static void mixture_compare(const mixture *m, const float *found, const double *exact, double tolerance,
                            const char *isa) {
  for (int part = 0; part < OUTS; part++) {
    double largest = 0, worst = 0;
    for (int64_t i = m->first[part]; i < m->first[part + 1]; i++) {
      largest = fmax(largest, fabs(exact[i]));
      worst = fmax(worst, fabs(exact[i] - (double)found[i]));
      assert_true(isfinite(found[i]));
    }
    if (worst > tolerance * largest)
      fail_msg("%s: %s of T %d E %d k %d C %d F %d: off by %.3g of %.3g", isa, out_names[part], (int)m->s.T,
               (int)m->s.E, (int)m->s.k, (int)m->s.C, (int)m->s.F, worst, largest);
  }
}

static const shape shapes[] = {
    {.T = 1, .E = 2, .k = 1, .C = 33, .F = 17},
    {.T = 1, .E = 8, .k = 4, .C = 5, .F = 3},
    {.T = 7, .E = 5, .k = 2, .C = 35, .F = 37},
    {.T = 64, .E = 8, .k = 4, .C = 63, .F = 45, .unused = 3},
    {.T = 130, .E = 5, .k = 4, .C = 97, .F = 51},
    {.T = 130, .E = 8, .k = 1, .C = 33, .F = 65, .no_bias = true},
    {.T = 130, .E = 2, .k = 2, .C = 65, .F = 31},
    {.T = 7, .E = 5, .k = 2, .C = 35, .F = 37, .up = IE_W_BF16, .up_frozen = true},
    {.T = 64, .E = 5, .k = 2, .C = 35, .F = 37, .down = IE_W_BF16, .down_frozen = true},
    {.T = 64,
     .E = 5,
     .k = 4,
     .C = 96,
     .F = 160,
     .up = IE_W_MXFP4,
     .down = IE_W_MXFP4,
     .up_frozen = true,
     .down_frozen = true},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static void equals_sums_in_double(void **state) {
  (void)state;
  static const ie_class classes[2] = {IE_CLASS_F32, IE_CLASS_BF16};
  for (int i = 0; i < SHAPES; i++) {
    mixture m = mixture_new(&shapes[i]);
    for (int c = 0; c < 2; c++) {
      double *exact = mixture_exact(&m, classes[c]);
      for (int isa = 0; ie_device_isa_list()[isa]; isa++) {
        const char *name = ie_device_isa_list()[isa];
        float *found = mixture_run(&m, name, 2, classes[c], /*measured=*/isa == 1);
        /* bf16: an activation may round to the other side. */
        mixture_compare(&m, found, exact, c ? 2e-3 : 5e-6, name);
        free(found);
      }
      free(exact);
    }
    mixture_free(&m);
  }
}

static void threads_do_not_change_a_bit(void **state) {
  (void)state;
  static const int teams[] = {2, 3, 5};
  for (int i = 2; i < SHAPES; i += 2) {
    mixture m = mixture_new(&shapes[i]);
    for (int c = 0; c < 2; c++) {
      ie_class cls = c ? IE_CLASS_BF16 : IE_CLASS_F32;
      float *one = mixture_run(&m, NULL, 1, cls, false);
      for (int n = 0; n < 3; n++) {
        float *found = mixture_run(&m, NULL, teams[n], cls, false);
        assert_memory_equal(one, found, (size_t)m.first[OUTS] * sizeof *one);
        free(found);
      }
      free(one);
    }
    mixture_free(&m);
  }
}

/* The launcher of inference adds in another order. */
static void forward_is_that_of_inference(void **state) {
  (void)state;
  for (int i = 0; i < SHAPES; i++) {
    mixture m = mixture_new(&shapes[i]);
    const shape *s = &m.s;
    float *train = mixture_run(&m, NULL, 2, IE_CLASS_F32, false);
    float *out = malloc((size_t)(s->T * s->C) * sizeof *out), largest = 0;
    memcpy(out, m.initial, (size_t)(s->T * s->C) * sizeof *out);
    bench b;
    bench_open(&b, NULL, 2, IE_CLASS_F32, 64 << 20);
    ie_weight up = matrix_weight(&m, 0, &b.ctx), down = matrix_weight(&m, 1, &b.ctx);
    ie_moe_options options = {.gate_up = &up, .down = &down, .alpha = m.alpha, .limit = m.limit};
    ie_tensor x = tensor_of(IE_F32, s->T, s->C, m.x), y = tensor_of(IE_F32, s->T, s->C, out),
              expert = tensor_of(IE_I32, s->T, s->k, m.expert),
              weight = tensor_of(IE_F32, s->T, s->k, m.weight);
    b.device->ops.moe(&b.ctx, &y, &x, &expert, &weight, &options);
    bench_close(&b);
    for (int64_t j = 0; j < s->T * s->C; j++) largest = fmaxf(largest, fabsf(out[j]));
    for (int64_t j = 0; j < s->T * s->C; j++) assert_true(fabsf(out[j] - train[j]) <= 4e-6f * largest);
    free(train), free(out);
    mixture_free(&m);
  }
}

/* No gradient of x or of the weights asked for; what has no backward is named. */
static void what_is_not_wanted_is_left_out(void **state) {
  (void)state;
  mixture m = mixture_new(&shapes[2]);
  const shape *s = &m.s;
  float *all = mixture_run(&m, NULL, 1, IE_CLASS_F32, false), *grads = m.initial + m.first[OUT_UP];
  bench b;
  bench_open(&b, NULL, 1, IE_CLASS_F32, 64 << 20);
  ie_weight up = matrix_weight(&m, 0, &b.ctx), down = matrix_weight(&m, 1, &b.ctx);
  ie_param param = {.value = m.matrix[0], .grad = grads};
  ie_param matrix = {.value = m.matrix[1]}, bias = {.value = m.bias[1]};
  up.param = &param;
  down.param = &matrix;
  down.bias_param = &bias;
  ie_moe_options options = {.gate_up = &up, .down = &down, .alpha = m.alpha, .limit = m.limit};
  ie_tensor x = tensor_of(IE_F32, s->T, s->C, m.x), y = tensor_of(IE_F32, s->T, s->C, all),
            gate_up = tensor_of(IE_F32, m.P, 2 * s->F, all + m.first[OUT_GATE_UP]),
            expert = tensor_of(IE_I32, s->T, s->k, m.expert),
            weight = tensor_of(IE_F32, s->T, s->k, m.weight);
  ie_tensor *const routing[2] = {&expert, &weight};
  b.device->ops.moe_backward(&b.ctx, &(ie_moe_grads){.x = NULL}, m.dy, &gate_up, &x, routing, &options);
  assert_memory_equal(grads, all + m.first[OUT_UP],
                      (size_t)(m.first[OUT_DOWN] - m.first[OUT_UP]) * sizeof *grads);

  b.ctx.cls = IE_CLASS_INT8;
  b.device->ops.moe_train(&b.ctx, &y, &gate_up, &x, routing, &options);
  assert_int_equal(b.ctx.status, IE_UNSUPPORTED);
  assert_string_equal(b.ctx.error.message, "layer 2: moe: training has products in fp32 and bf16 only");
  b.ctx.status = IE_OK;
  b.ctx.cls = IE_CLASS_F32;
  m.x[3] = INFINITY; /* row 0 of the first product is NaN or infinite */
  b.device->ops.moe_train(&b.ctx, &y, &gate_up, &x, routing, &options);
  assert_int_equal(b.ctx.status, IE_NUMERIC);
  assert_non_null(strstr(b.ctx.error.message, "layer 2: gate and up of expert "));
  b.ctx.status = IE_OK;
  assert_true(b.ctx.arena.used == 0);
  bench_close(&b);
  free(all);
  mixture_free(&m);
}

/* --- Router --------------------------------------------------------------------------------------------------- */

/* Weights of the chosen experts, and the balance with the shares f, both in double. */
static double weights_dot(const double *logits, const int32_t *expert, const float *dweight, int64_t k) {
  double sum = 0, dot = 0;
  for (int64_t j = 0; j < k; j++) sum += exp(logits[expert[j]]);
  for (int64_t j = 0; j < k; j++) dot += (double)dweight[j] * exp(logits[expert[j]]) / sum;
  return dot;
}
static double balance_of(const double *logits, const double *f, int64_t T, int64_t E) {
  double loss = 0;
  for (int64_t t = 0; t < T; t++) {
    double sum = 0;
    for (int64_t e = 0; e < E; e++) sum += exp(logits[t * E + e]);
    for (int64_t e = 0; e < E; e++) loss += f[e] * exp(logits[t * E + e]) / sum;
  }
  return loss * (double)E / (double)T;
}

typedef struct router {
  int64_t T, E, k;
  float *logits, *dweight, *weight, *grad; /* (T, E), (T, k), (T, k), (T, E) */
  int32_t *expert;
  ie_route_balance balance;
} router;

static void router_run(router *r, const char *isa, int threads, bool with_weights) {
  bench b;
  bench_open(&b, isa, threads, IE_CLASS_F32, 1 << 20);
  ie_tensor expert = tensor_of(IE_I32, r->T, r->k, r->expert),
            weight = tensor_of(IE_F32, r->T, r->k, r->weight),
            logits = tensor_of(IE_F32, r->T, r->E, r->logits);
  ie_tensor *const routing[2] = {&expert, &weight};
  ie_route_options options = {.top_k = r->k, .balance = r->balance.chosen ? &r->balance : NULL};
  b.device->ops.route(&b.ctx, &expert, &weight, &logits, &options);
  b.device->ops.route_backward(&b.ctx, r->grad, with_weights ? r->dweight : NULL, &logits, routing, &options);
  assert_true(b.ctx.arena.used == 0);
  bench_close(&b);
}

static router router_new(int64_t T, int64_t E, int64_t k) {
  router r = {.T = T, .E = E, .k = k, .logits = noises(20, T * E, 3), .dweight = noises(21, T * k, 1)};
  r.weight = noises(22, T * k, 1);
  r.grad = calloc((size_t)(T * E), sizeof *r.grad);
  r.expert = calloc((size_t)(T * k), sizeof *r.expert);
  r.balance.chosen = calloc((size_t)E, sizeof *r.balance.chosen);
  assert_true(r.grad && r.expert && r.balance.chosen);
  return r;
}

static void router_free(router *r) {
  free(r->logits), free(r->dweight), free(r->weight), free(r->grad), free(r->expert), free(r->balance.chosen);
}

static void router_check(int64_t T, int64_t E, int64_t k, double coefficient) {
  router r = router_new(T, E, k);
  r.balance.coefficient = coefficient;
  for (int64_t i = 0; i < T * E; i++) r.grad[i] = noise(23, i);
  router_run(&r, NULL, 2, true);
  double *logits = malloc((size_t)(T * E) * sizeof *logits), *f = calloc((size_t)E, sizeof *f), total = 0;
  for (int64_t i = 0; i < T * E; i++) logits[i] = (double)r.logits[i];
  for (int64_t i = 0; i < T * k; i++) f[r.expert[i]] += 1.0 / (double)T;
  for (int64_t e = 0; e < E; e++) {
    assert_int_equal(r.balance.chosen[e], llround(f[e] * (double)T));
    total += (double)r.balance.chosen[e];
  }
  assert_true(total == (double)(T * k) && r.balance.tokens == T);
  double loss = balance_of(logits, f, T, E);
  assert_true(fabs(r.balance.loss / (double)T - loss) <= 1e-6 * loss);
  for (int64_t i = 0; i < T * E; i++) {
    double value[2], keep = logits[i], step = 1e-5;
    for (int side = 0; side < 2; side++) {
      logits[i] = keep + (side ? step : -step);
      int64_t t = i / E;
      value[side] = weights_dot(logits + t * E, r.expert + t * k, r.dweight + t * k, k) +
                    coefficient * balance_of(logits, f, T, E);
    }
    logits[i] = keep;
    double slope = (value[1] - value[0]) / (2 * step);
    assert_true(fabs((double)r.grad[i] - (double)noise(23, i) - slope) <= 1e-6);
  }
  free(logits);
  free(f);
  router_free(&r);
}

static void route_backward_equals_differences(void **state) {
  (void)state;
  router_check(1, 2, 1, 0.0);
  router_check(7, 5, 2, 0.0);
  router_check(7, 5, 2, 1.0);
  router_check(64, 8, 4, 0.5);
  router_check(130, 8, 4, 2.0);
}

/* Of transformers 5.23: load_balancing_loss_func((logits,), 5, 2) and its gradient, in double. */
static void balance_is_that_of_transformers(void **state) {
  (void)state;
  enum { T = 7, E = 5 };
  static const double rows[2][E] = {{-0.000882105, -0.008798276, 0.009131306, -0.014505904, 0.015054979},
                                    {-0.003655736, -0.036462976, 0.015522591, -0.000996304, 0.025592426}};
  router r = router_new(T, E, 2);
  for (int t = 0; t < T; t++)
    for (int e = 0; e < E; e++) r.logits[t * E + e] = (float)((t * 37 + e * 23) % 41) / 10 - 2;
  r.balance.coefficient = 1;
  router_run(&r, NULL, 2, false);
  assert_true(fabs(r.balance.loss / T - 2.094444752) < 1e-6);
  for (int e = 0; e < E; e++) {
    assert_true(fabs((double)r.grad[e] - rows[0][e]) < 1e-7);
    assert_true(fabs((double)r.grad[6 * E + e] - rows[1][e]) < 1e-7);
  }
  router_run(&r, NULL, 2, false); /* numbers are added */
  assert_true(fabs(r.balance.loss / T - 2 * 2.094444752) < 2e-6 && r.balance.tokens == 2 * T);
  router_free(&r);
}

static void route_backward_is_the_same_for_any_team(void **state) {
  (void)state;
  router one = router_new(333, 8, 4);
  one.balance.coefficient = 0.01;
  router_run(&one, "scalar", 1, true);
  for (int threads = 2; threads < 6; threads++) {
    router r = router_new(333, 8, 4);
    r.balance.coefficient = 0.01;
    router_run(&r, NULL, threads, true);
    assert_memory_equal(r.grad, one.grad, 333 * 8 * sizeof *r.grad);
    assert_true(r.balance.loss == one.balance.loss);
    router_free(&r);
  }
  router_free(&one);
}

/* --- Kernels -------------------------------------------------------------------------------------------------- */

static const int64_t lengths[] = {1,  2,  7,  8,  9,  15, 16, 17,  31,   32,
                                  33, 47, 48, 63, 64, 65, 97, 129, 1023, 1440};
enum { LENGTHS = sizeof lengths / sizeof lengths[0], LIMIT_CASES = 4 };

static float *guarded(uint64_t stream, int64_t n, float scale) {
  float *x = guard_alloc((size_t)n * sizeof *x);
  for (int64_t i = 0; i < n; i++) x[i] = scale * noise(stream, i);
  return x;
}

static double clamped(double g, double u, double alpha, double limit) {
  g = fmin(g, limit);
  u = fmax(fmin(u, limit), -limit);
  return (u + 1) * g / (1 + exp(-alpha * g));
}

/* Against central differences of the forward in double; then the bits of every instruction set. */
static void clamped_check(int64_t n, float limit) {
  ie_kernels scalar, other;
  ie_kernels_fill(&scalar, IE_ISA_SCALAR);
  float alpha = 1.702f, weight = 0.37f;
  float *gu = guarded(30, 2 * n, 5), *dy = guarded(31, n, 1);
  if (n > 8 && isfinite(limit)) gu[2] = limit, gu[5] = limit, gu[7] = -limit;
  if (n > 8) gu[8] = 40, gu[10] = -90, gu[13] = 90;
  float *dgu = guard_alloc((size_t)(2 * n) * sizeof *dgu), *dh = guarded(31, n, 1);
  float dot = scalar.swiglu_clamped_backward(dgu, dh, gu, n, weight, alpha, limit);
  double exact_dot = 0, most = 0, l = (double)limit, a = (double)alpha;
  for (int64_t i = 0; i < n; i++) {
    double g = (double)gu[2 * i], u = (double)gu[2 * i + 1], d = (double)dy[i], step = 1e-5;
    double h = clamped(g, u, a, l);
    exact_dot += d * h;
    most += fabs(d * h);
    assert_true(fabs((double)dh[i] - (double)weight * h) <= 1e-6 * fmax(1, fabs(h)));
    /* At a limit the gradient is the one from inside. */
    double dg =
        (clamped(g == l ? g : g + step, u, a, l) - clamped(g - step, u, a, l)) / (g == l ? step : 2 * step);
    bool top = u == l, bottom = u == -l;
    double du = (clamped(g, top ? u : u + step, a, l) - clamped(g, bottom ? u : u - step, a, l)) /
                (top || bottom ? step : 2 * step);
    double allowed = 3e-5 * fmax(1, fabs(u) * fmax(1, fabs(g)));
    assert_true(fabs((double)dgu[2 * i] - d * (double)weight * dg) <= allowed);
    assert_true(fabs((double)dgu[2 * i + 1] - d * (double)weight * du) <= allowed);
    if (g > l) assert_true(dgu[2 * i] == 0);
    if (fabs(u) > l) assert_true(dgu[2 * i + 1] == 0);
  }
  assert_true(fabs((double)dot - exact_dot) <= 1e-6 * fmax(1, most));
  for (int isa = 1; isa <= (int)ie_isa_best(); isa++) {
    ie_kernels_fill(&other, (ie_isa)isa);
    float *dgu2 = guard_alloc((size_t)(2 * n) * sizeof *dgu2), *dh2 = guarded(31, n, 1);
    float dot2 = other.swiglu_clamped_backward(dgu2, dh2, gu, n, weight, alpha, limit);
    assert_memory_equal(&dot, &dot2, sizeof dot);
    for (int64_t i = 0; i < 2 * n; i++) assert_true(dgu[i] == dgu2[i]);
    assert_memory_equal(dh, dh2, (size_t)n * sizeof *dh);
    guard_free(dgu2), guard_free(dh2);
  }
  guard_free(gu), guard_free(dy), guard_free(dgu), guard_free(dh);
}

static void swiglu_clamped_backward_kernels(void **state) {
  (void)state;
  static const float limits[LIMIT_CASES] = {7.0f, 1.5f, 0.25f, INFINITY};
  for (int i = 0; i < LENGTHS; i++)
    for (int l = 0; l < LIMIT_CASES; l++) clamped_check(lengths[i], limits[l]);
}

static double silu(double x) {
  return x / (1 + exp(-x));
}

static void swiglu_check(int64_t n) {
  ie_kernels scalar, other;
  ie_kernels_fill(&scalar, IE_ISA_SCALAR);
  float *gate = guarded(40, n, 6), *up = guarded(41, n, 3), *dy = guarded(42, n, 1);
  if (n > 8) gate[1] = 90, gate[2] = -90, gate[3] = 0;
  float *dgate = guarded(43, n, 1), *dup = guarded(44, n, 1);
  scalar.swiglu_backward(dgate, dup, dy, gate, up, n);
  for (int64_t i = 0; i < n; i++) {
    double g = (double)gate[i], d = (double)dy[i], step = 1e-5;
    double slope = (silu(g + step) - silu(g - step)) / (2 * step);
    assert_true(fabs((double)dgate[i] - (double)noise(43, i) - d * (double)up[i] * slope) <= 2e-6);
    assert_true(fabs((double)dup[i] - (double)noise(44, i) - d * silu(g)) <= 2e-6 * fmax(1, fabs(g)));
  }
  for (int isa = 1; isa <= (int)ie_isa_best(); isa++) {
    ie_kernels_fill(&other, (ie_isa)isa);
    float *a = guarded(43, n, 1), *b = guarded(44, n, 1);
    other.swiglu_backward(a, NULL, dy, gate, up, n);
    other.swiglu_backward(NULL, b, dy, gate, up, n);
    assert_memory_equal(a, dgate, (size_t)n * sizeof *a);
    assert_memory_equal(b, dup, (size_t)n * sizeof *b);
    guard_free(a), guard_free(b);
  }
  guard_free(gate), guard_free(up), guard_free(dy), guard_free(dgate), guard_free(dup);
}

static void swiglu_backward_kernels(void **state) {
  (void)state;
  for (int i = 0; i < LENGTHS; i++) swiglu_check(lengths[i]);
}

/* The launcher, for several teams: the same as one call of the kernel. */
static void swiglu_backward_splits_rows(void **state) {
  (void)state;
  enum { T = 37, F = 211 };
  float *gate = noises(50, T * F, 4), *up = noises(51, T * F, 2), *dy = noises(52, T * F, 1);
  float *one[2] = {noises(53, T * F, 1), noises(54, T * F, 1)};
  for (int threads = 1; threads < 4; threads++) {
    float *found[2] = {noises(53, T * F, 1), noises(54, T * F, 1)};
    bench b;
    bench_open(&b, NULL, threads, IE_CLASS_F32, 1 << 16);
    ie_tensor g = tensor_of(IE_F32, T, F, gate), u = tensor_of(IE_F32, T, F, up);
    if (threads == 1) b.device->kernels.swiglu_backward(one[0], one[1], dy, gate, up, T * F);
    b.device->ops.swiglu_backward(&b.ctx, found[0], found[1], dy, &g, &u);
    bench_close(&b);
    for (int i = 0; i < 2; i++) {
      assert_memory_equal(one[i], found[i], T * F * sizeof(float));
      free(found[i]);
    }
  }
  free(gate), free(up), free(dy), free(one[0]), free(one[1]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(equals_sums_in_double),
      cmocka_unit_test(threads_do_not_change_a_bit),
      cmocka_unit_test(forward_is_that_of_inference),
      cmocka_unit_test(what_is_not_wanted_is_left_out),
      cmocka_unit_test(route_backward_equals_differences),
      cmocka_unit_test(balance_is_that_of_transformers),
      cmocka_unit_test(route_backward_is_the_same_for_any_team),
      cmocka_unit_test(swiglu_clamped_backward_kernels),
      cmocka_unit_test(swiglu_backward_kernels),
      cmocka_unit_test(swiglu_backward_splits_rows),
  };
  return cmocka_run_group_tests_name("moe_train", tests, NULL, NULL);
}
