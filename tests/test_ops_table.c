/* Every operation of the device table: what it computes against sums in double, for each weight format, parameter type
 * and instruction set; what it refuses, by name; and that the tables in docs/ops.md say the same.
 *
 * `test_ops_table --write docs/ops.md` (make docs-ops) writes the tables there anew. A new launcher fails to compile
 * here (op_count), a new weight format fails in weight_at, until both are described. */
#include "base/float.h"
#include "base/rng.h"
#include "base/size.h"
#include "blocks/mxfp4.h"
#include "clocher/device.h"
#include "ops/ops.h"
#include "support/integer_weight.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { T = 5, C = 64, H = 4, HK = 2, D = 16, V = 41, E = 3, F = 32, TOP = 2 };

/* What one run is made with. */
typedef struct variant {
  ie_wformat format;  /* of weights */
  ie_dtype parameter; /* of norm weights, biases, sinks; of the cache */
  ie_class cls;
} variant;

typedef struct bench {
  ie_device *device;
  ie_ctx ctx;
  const variant *v;
  void *memory[16]; /* freed at the end */
  int memories;
} bench;

static double noise(uint64_t stream, int64_t i) {
  return 2.0 * ie_rng_f64(11, stream, (uint64_t)i) - 1.0;
}

static void bench_open(bench *b, const char *isa, const variant *v) {
  ie_error error = {0};
  memset(b, 0, sizeof *b);
  assert_int_equal(ie_device_open(&(ie_device_options){.isa = isa, .threads = 2}, &b->device, &error), IE_OK);
  b->ctx = (ie_ctx){.device = b->device, .cls = v->cls, .layer = -1};
  b->v = v;
  assert_int_equal(ie_arena_open(16 << 20, &b->ctx.arena, &error), IE_OK);
}

static void bench_close(bench *b) {
  while (b->memories > 0) free(b->memory[--b->memories]);
  ie_arena_close(&b->ctx.arena);
  ie_device_free(b->device);
}

static void *bench_take(bench *b, size_t bytes) {
  assert_true(b->memories < (int)(sizeof b->memory / sizeof *b->memory));
  void *memory = b->memory[b->memories++] = aligned_alloc(64, ie_size_align(bytes, 64));
  assert_non_null(memory);
  memset(memory, 0, ie_size_align(bytes, 64));
  return memory;
}

/* A shape of rank 2 or 3 (depth > 0); values of `spread`. */
static ie_tensor *tensor_of(bench *b, uint64_t stream, int64_t rows, int64_t cols, int64_t depth,
                            double spread) {
  ie_tensor *t = ie_ctx_tensor(&b->ctx, IE_F32, depth ? 3 : 2, (int64_t[]){rows, cols, depth});
  assert_non_null(t);
  for (int64_t i = 0; i < ie_tensor_count(t); i++) ie_tensor_f32(t)[i] = (float)(spread * noise(stream, i));
  return t;
}

/* What an op in place has changed is compared with this. */
static ie_tensor *tensor_copy(bench *b, const ie_tensor *t) {
  ie_tensor *copy = ie_ctx_tensor(&b->ctx, t->dtype, t->rank, t->shape);
  memcpy(copy->data, t->data, (size_t)ie_tensor_count(t) * sizeof(float));
  return copy;
}

static double at(const ie_tensor *t, int64_t i) {
  return (double)ie_tensor_f32(t)[i];
}

static void expect_near(double found, double expected, double bound, const char *op, int64_t i) {
  if (!(fabs(found - expected) <= bound))
    fail_msg("%s: element %lld: expected %.9g, found %.9g, allowed %.3g", op, (long long)i, expected, found,
             bound);
}

/* --- Parameters and weights ---------------------------------------------------------------------------------- */

static ie_vector vector_of(bench *b, uint64_t stream, int64_t n) {
  ie_dtype dtype = b->v->parameter;
  ie_vector v = {.dtype = dtype, .n = n, .data = bench_take(b, (size_t)n * ie_dtype_bytes(dtype))};
  float *x = bench_take(b, (size_t)n * sizeof *x);
  for (int64_t i = 0; i < n; i++) x[i] = (float)noise(stream, i);
  if (dtype == IE_F32 || dtype == IE_F16 || dtype == IE_BF16)
    b->device->kernels.store((void *)(uintptr_t)v.data, dtype, x, n);
  return v;
}

/* Bytes of a stack of weights: numbers of about 1 for float formats, any nibbles and scales of 1/8 to 1 else. */
static void weight_fill(bench *b, uint64_t stream, ie_weight *w, uint8_t *const part[2]) {
  int64_t n = w->experts * w->rows * w->cols;
  static const ie_dtype dtypes[] = {[IE_W_F32] = IE_F32, [IE_W_F16] = IE_F16, [IE_W_BF16] = IE_BF16};
  switch (w->format) {
  case IE_W_F32:
  case IE_W_F16:
  case IE_W_BF16:
    for (int64_t i = 0; i < n; i++) {
      float x = (float)noise(stream, i);
      b->device->kernels.store(part[0] + (size_t)i * ie_dtype_bytes(dtypes[w->format]), dtypes[w->format], &x,
                               1);
    }
    break;
  case IE_W_MXFP4:
    for (int64_t i = 0; i < n / 2; i++) part[0][i] = (uint8_t)ie_rng_u64(11, stream, (uint64_t)i);
    for (int64_t i = 0; i < n / 32; i++)
      part[1][i] = (uint8_t)(124 + ie_rng_u64(12, stream, (uint64_t)i) % 4);
    break;
  case IE_W_INT8:
  case IE_W_INT4: integer_weight_fill(stream, w, part); break;
  default: fail_msg("weight format %s: write its bytes here", ie_wformat_describe(w->format)->name);
  }
}

static ie_weight weight_of(bench *b, uint64_t stream, int64_t experts, int64_t rows, int64_t cols) {
  ie_weight w = {.name = "w", .format = b->v->format, .experts = experts, .rows = rows, .cols = cols};
  uint8_t *part[2];
  for (int i = 0; i < 2; i++) {
    w.row_bytes[i] = ie_wformat_row_bytes(w.format, i, cols);
    w.expert_bytes[i] = w.row_bytes[i] * (size_t)rows;
    part[i] = bench_take(b, ie_size_align(w.expert_bytes[i] * (size_t)experts, 64) + 64);
    w.part[i] = w.row_bytes[i] ? part[i] : NULL;
  }
  weight_fill(b, stream, &w, part);
  ie_vector bias = vector_of(b, stream + 100, experts * rows);
  w.bias = bias.data, w.bias_dtype = bias.dtype, w.bias_stride = rows;
  ie_weight_choose(&w, &b->device->kernels, b->ctx.cls);
  return w;
}

/* The number at (row, col) of an expert, by the definition of its format. */
static double weight_at(const ie_weight *w, int64_t e, int64_t row, int64_t col) {
  const uint8_t *p = w->part[0] + (size_t)e * w->expert_bytes[0] + (size_t)row * w->row_bytes[0];
  ie_vector v = {.data = p, .dtype = IE_F32};
  switch (w->format) {
  case IE_W_BF16: v.dtype = IE_BF16; break;
  case IE_W_F16: v.dtype = IE_F16; break;
  case IE_W_F32: break;
  case IE_W_MXFP4: {
    uint8_t scale =
        w->part[1][(size_t)e * w->expert_bytes[1] + (size_t)row * w->row_bytes[1] + (size_t)(col / 32)];
    return (double)ie_mxfp4_values[col % 2 ? p[col / 2] >> 4 : p[col / 2] & 15] * ldexp(1, scale - 127);
  }
  case IE_W_INT8:
  case IE_W_INT4: return integer_weight_at(w, e, row, col);
  default: fail_msg("weight format %s: say here what its bytes mean", ie_wformat_describe(w->format)->name);
  }
  return (double)ie_vector_at(&v, col);
}

static double bias_at(const ie_weight *w, int64_t e, int64_t row) {
  ie_vector v = {.data = w->bias, .dtype = w->bias_dtype};
  return (double)ie_vector_at(&v, e * w->bias_stride + row);
}

/* How far a class may round an activation, as a share of the largest of its block. */
static const double class_rounding[IE_CLASS_COUNT] = {[IE_CLASS_F32] = 1e-6,
                                                      [IE_CLASS_BF16] = 1.0 / 256,
                                                      [IE_CLASS_F16] = 1.0 / 2048,
                                                      [IE_CLASS_INT8] = 1.0 / 250};

/* y[row] = x . w[row] + bias in double, and what rounding may move it by (in any direction at random: 4 sigma of the
 * worst case is far below the sum of all). */
static double product_at(const ie_weight *w, int64_t e, int64_t row, const double *x, double rounding,
                         double *bound) {
  double sum = bias_at(w, e, row), size = fabs(sum), largest = 0;
  for (int64_t k = 0; k < w->cols; k++) largest = fmax(largest, fabs(x[k]));
  for (int64_t k = 0; k < w->cols; k++) {
    double weight = weight_at(w, e, row, k);
    sum += x[k] * weight;
    size += largest * fabs(weight);
  }
  *bound = rounding * size;
  return sum;
}

/* --- The batch ------------------------------------------------------------------------------------------------ */

static const int32_t ids[T] = {3, 40, 0, 17, 3}, positions[T] = {0, 1, 2, 0, 1},
                     sequences[T] = {0, 0, 0, 1, 1};
static const int32_t wanted[2] = {2, 4};
static const ie_batch batch = {.tokens = T,
                               .ids = ids,
                               .position = positions,
                               .sequence = sequences,
                               .wanted = wanted,
                               .wanted_count = 2};

/* --- One run of each operation -------------------------------------------------------------------------------- */

/* Returns false when the op gave nothing: the caller looks at ctx.status. */
typedef bool (*op_run)(bench *b);

static bool run_embed(bench *b) {
  ie_weight w = weight_of(b, 1, 1, V, C);
  ie_tensor *y = ie_op_embed(&b->ctx, &w, &batch);
  if (!y) return false;
  for (int64_t i = 0; i < T * C; i++)
    expect_near(at(y, i), weight_at(&w, 0, ids[i / C], i % C), 0, "embed", i);
  return true;
}

static bool run_gather_rows(bench *b) {
  ie_tensor *x = tensor_of(b, 1, T, C, 0, 1), *y = ie_op_gather_wanted(&b->ctx, x, &batch);
  if (!y) return false;
  for (int64_t i = 0; i < 2 * C; i++)
    expect_near(at(y, i), at(x, wanted[i / C] * C + i % C), 0, "gather_rows", i);
  return true;
}

static bool run_rms_norm(bench *b) {
  ie_vector weight = vector_of(b, 2, C);
  ie_tensor *x = tensor_of(b, 1, T, C, 0, 1), *y = ie_op_rms_norm(&b->ctx, x, &weight, 1e-5f);
  if (!y) return false;
  for (int64_t t = 0; t < T; t++) {
    double squares = 0;
    for (int64_t i = t * C; i < (t + 1) * C; i++) squares += at(x, i) * at(x, i);
    for (int64_t i = 0; i < C; i++) {
      double exact = at(x, t * C + i) / sqrt(squares / C + 1e-5) * (double)ie_vector_at(&weight, i);
      expect_near(at(y, t * C + i), exact, 1e-6 * fabs(exact), "rms_norm", t * C + i);
    }
  }
  return true;
}

static bool run_layer_norm(bench *b) {
  ie_vector weight = vector_of(b, 2, C), bias = vector_of(b, 3, C);
  ie_tensor *x = tensor_of(b, 1, T, C, 0, 1), *y = ie_op_layer_norm(&b->ctx, x, &weight, &bias, 1e-5f);
  if (!y) return false;
  for (int64_t t = 0; t < T; t++) {
    double mean = 0, squares = 0;
    for (int64_t i = t * C; i < (t + 1) * C; i++) mean += at(x, i) / C;
    for (int64_t i = t * C; i < (t + 1) * C; i++) squares += (at(x, i) - mean) * (at(x, i) - mean);
    for (int64_t i = 0; i < C; i++) {
      double exact = (at(x, t * C + i) - mean) / sqrt(squares / C + 1e-5) * (double)ie_vector_at(&weight, i) +
                     (double)ie_vector_at(&bias, i);
      expect_near(at(y, t * C + i), exact, 2e-6, "layer_norm", t * C + i);
    }
  }
  return true;
}

/* Through the device's launcher: the op that uses it multiplies before (test_golden has it whole). */
static bool run_activate(bench *b) {
  ie_weight w = weight_of(b, 1, 1, C, C);
  ie_tensor *x = tensor_of(b, 2, T, C, 0, 1);
  for (int a = 0; a < 3; a++) {
    ie_tensor *before = ie_op_linear(&b->ctx, x, &w);
    ie_tensor *y = ie_op_linear_activation(&b->ctx, x, &w, (ie_activation)a);
    if (!y) return false;
    for (int64_t i = 0; i < T * C; i++) {
      double v = at(before, i), exact = v < 0 ? 0 : v * v;
      if (a == IE_GELU) exact = 0.5 * v * erfc(-v * sqrt(0.5));
      if (a == IE_GELU_TANH) exact = 0.5 * v * (1 + tanh(0.79788456080286536 * (v + 0.044715 * v * v * v)));
      expect_near(at(y, i), exact, 3e-7 * fmax(1, fabs(exact)), "activate", i);
    }
  }
  return true;
}

static bool run_split_heads(bench *b) {
  ie_weight w = weight_of(b, 1, 1, H * 3 * D, C);
  ie_tensor *x = tensor_of(b, 2, T, C, 0, 1), *fused = ie_op_linear(&b->ctx, x, &w);
  ie_qkv y = ie_op_qkv_interleaved(&b->ctx, x, &w, D);
  if (!y.q) return false;
  ie_tensor *parts[3] = {y.q, y.k, y.v};
  for (int64_t t = 0; t < T; t++)
    for (int64_t h = 0; h < H; h++)
      for (int i = 0; i < 3; i++)
        for (int64_t d = 0; d < D; d++)
          expect_near(at(parts[i], (t * H + h) * D + d), at(fused, ((t * H + h) * 3 + i) * D + d), 0,
                      "split_heads", d);
  return true;
}

static bool run_soft_cap(bench *b) {
  ie_tensor *x = tensor_of(b, 1, T, C, 0, 40), *before = tensor_copy(b, x);
  if (!ie_op_soft_cap(&b->ctx, x, 15.0f)) return false;
  for (int64_t i = 0; i < T * C; i++)
    expect_near(at(x, i), 15 * tanh(at(before, i) / 15), 6e-6, "soft_cap", i);
  return true;
}

static bool run_linear(bench *b) {
  for (int64_t tokens = 1; tokens <= 37; tokens += 36) { /* few and many */
    ie_weight w = weight_of(b, (uint64_t)tokens, 1, 19, C);
    ie_tensor *x = tensor_of(b, 2, tokens, C, 0, 1), *y = ie_op_linear(&b->ctx, x, &w);
    if (!y) return false;
    for (int64_t t = 0; t < tokens; t++) {
      double row[C], bound;
      for (int64_t i = 0; i < C; i++) row[i] = at(x, t * C + i);
      for (int64_t r = 0; r < w.rows; r++) {
        double exact = product_at(&w, 0, r, row, class_rounding[b->ctx.cls], &bound);
        expect_near(at(y, t * w.rows + r), exact, bound, "linear", t * w.rows + r);
      }
    }
  }
  return true;
}

static const float inv_freq[D / 2] = {1, 0.5f, 0.25f, 0.1f, 0.05f, 0.01f, 1e-3f, 1e-4f};

static bool run_rope_table(bench *b) {
  for (int bf16 = 0; bf16 < 2; bf16++) {
    ie_rope_table table = ie_op_rope_table(&b->ctx, &batch, inv_freq, D / 2, 1.25f, bf16);
    if (!table.cos) return false;
    for (int64_t i = 0; i < T * D / 2; i++) {
      double angle = (double)((float)positions[i / (D / 2)] * inv_freq[i % (D / 2)]);
      double bound = bf16 ? 1.0 / 256 : 2e-7;
      expect_near(at(table.cos, i), 1.25 * cos(angle), bound, "rope_table", i);
      expect_near(at(table.sin, i), 1.25 * sin(angle), bound, "rope_table", i);
      if (bf16) assert_int_equal(ie_f32_bits(ie_tensor_f32(table.cos)[i]) & 0xFFFF, 0);
    }
  }
  return true;
}

/* The last pairs of a head pass through. */
static bool run_rope(bench *b) {
  enum { HALF = D / 2 - 2 };
  ie_rope_table table = ie_op_rope_table(&b->ctx, &batch, inv_freq, HALF, 1, /*bf16=*/false);
  ie_tensor *x = tensor_of(b, 1, T, H, D, 1), *before = tensor_copy(b, x);
  if (!ie_op_rope(&b->ctx, x, table)) return false;
  for (int64_t row = 0; row < T * H; row++)
    for (int64_t d = 0; d < D; d++) {
      int64_t i = d % HALF, base = row * D;
      double c = at(table.cos, row / H * HALF + i), s = at(table.sin, row / H * HALF + i);
      double low = at(before, base + i), high = at(before, base + HALF + i);
      double exact = d < HALF ? low * c - high * s : high * c + low * s;
      if (d >= 2 * HALF) exact = at(before, base + d);
      expect_near(at(x, base + d), exact, 3e-7, "rope", base + d);
    }
  return true;
}

static bool run_kv_append(bench *b) {
  enum { CAP = 64 };
  ie_dtype dtype = b->v->parameter;
  size_t bytes = 2 * HK * CAP * D * ie_dtype_bytes(dtype);
  ie_kv_layer kv = {.k = bench_take(b, bytes),
                    .v = bench_take(b, bytes),
                    .dtype = dtype,
                    .sequences = 2,
                    .heads = HK,
                    .cap = CAP,
                    .dim = D};
  ie_tensor *k = tensor_of(b, 1, T, HK, D, 1), *v = tensor_of(b, 2, T, HK, D, 1);
  ie_op_kv_append(&b->ctx, &kv, k, v, &batch);
  if (b->ctx.status != IE_OK) return false;
  double share = dtype == IE_F32 ? 0 : dtype == IE_F16 ? 1.0 / 2048 : 1.0 / 256;
  ie_vector stored[2] = {{.data = kv.k, .dtype = dtype}, {.data = kv.v, .dtype = dtype}};
  for (int64_t t = 0; t < T; t++)
    for (int64_t h = 0; h < HK; h++)
      for (int64_t d = 0; d < D; d++) {
        int64_t slot = ((sequences[t] * HK + h) * CAP + positions[t]) * D + d, i = (t * HK + h) * D + d;
        expect_near((double)ie_vector_at(&stored[0], slot), at(k, i), share * fabs(at(k, i)) + 1e-7,
                    "kv_append", i);
        expect_near((double)ie_vector_at(&stored[1], slot), at(v, i), share * fabs(at(v, i)) + 1e-7,
                    "kv_append", i);
      }
  return true;
}

/* One query in double: keys first .. last of its sequence, and a sink. */
static void attend_exact(double *out, const ie_tensor *q, const ie_vector kv[2], int64_t t, int64_t h,
                         double sink) {
  enum { CAP = 64, WINDOW = 2 };
  int64_t base = (sequences[t] * HK + h / (H / HK)) * CAP, first = ie_max_i64(0, positions[t] - WINDOW + 1);
  double logit[T], sum = exp(sink);
  for (int64_t s = first; s <= positions[t]; s++) {
    logit[s] = 0;
    for (int64_t d = 0; d < D; d++)
      logit[s] += 0.25 * at(q, (t * H + h) * D + d) * (double)ie_vector_at(&kv[0], (base + s) * D + d);
    sum += exp(logit[s]);
  }
  for (int64_t d = 0; d < D; d++) {
    out[d] = 0;
    for (int64_t s = first; s <= positions[t]; s++)
      out[d] += exp(logit[s]) / sum * (double)ie_vector_at(&kv[1], (base + s) * D + d);
  }
}

static bool run_attention(bench *b) {
  enum { CAP = 64 };
  ie_vector k = vector_of(b, 1, 2 * HK * CAP * D), v = vector_of(b, 2, 2 * HK * CAP * D),
            sinks = vector_of(b, 3, H);
  ie_kv_layer kv = {.k = (void *)(uintptr_t)k.data,
                    .v = (void *)(uintptr_t)v.data,
                    .dtype = k.dtype,
                    .sequences = 2,
                    .heads = HK,
                    .cap = CAP,
                    .dim = D};
  ie_tensor *q = tensor_of(b, 4, T, H, D, 1);
  ie_attention_options options = {.scale = 0.25f, .window = 2, .sinks = sinks};
  ie_tensor *y = ie_op_attention(&b->ctx, q, &kv, &batch, &options);
  if (!y) return false;
  for (int64_t t = 0; t < T; t++)
    for (int64_t h = 0; h < H; h++) {
      double exact[D];
      attend_exact(exact, q, (ie_vector[2]){k, v}, t, h, (double)ie_vector_at(&sinks, h));
      for (int64_t d = 0; d < D; d++) expect_near(at(y, (t * H + h) * D + d), exact[d], 2e-6, "attention", d);
    }
  return true;
}

static bool run_route(bench *b) {
  ie_tensor *logits = tensor_of(b, 1, T, E, 0, 2);
  ie_routing r = ie_op_route(&b->ctx, logits, &(ie_route_options){.top_k = TOP});
  if (!r.expert) return false;
  for (int64_t t = 0; t < T; t++) {
    int order[E] = {0, 1, 2};
    for (int i = 0; i < E; i++)
      for (int j = i + 1; j < E; j++)
        if (at(logits, t * E + order[j]) > at(logits, t * E + order[i])) {
          int kept = order[i];
          order[i] = order[j], order[j] = kept;
        }
    double ratio = exp(at(logits, t * E + order[1]) - at(logits, t * E + order[0]));
    assert_int_equal(ie_tensor_i32(r.expert)[t * TOP], order[0]);
    assert_int_equal(ie_tensor_i32(r.expert)[t * TOP + 1], order[1]);
    expect_near(at(r.weight, t * TOP), 1 / (1 + ratio), 1e-6, "route", t);
    expect_near(at(r.weight, t * TOP + 1), ratio / (1 + ratio), 1e-6, "route", t);
  }
  return true;
}

/* One expert for one token: out (C) += scale * down(swiglu(gate_up x)), and how far rounding may move it. */
static void expert_add(double *out, double *allowed, const double *x, const ie_moe_options *o, int64_t e,
                       double scale, double rounding) {
  double a[F], spread = 0, largest = 0;
  for (int64_t f = 0; f < F; f++) {
    double bound[2], g = product_at(o->gate_up, e, 2 * f, x, rounding, &bound[0]);
    double u = product_at(o->gate_up, e, 2 * f + 1, x, rounding, &bound[1]), limit = (double)o->limit;
    g = fmin(g, limit), u = fmax(fmin(u, limit), -limit);
    a[f] = (u + 1) * g / (1 + exp(-(double)o->alpha * g));
    spread = fmax(spread, 1.2 * (limit + 1) * (bound[0] + bound[1]));
    largest = fmax(largest, fabs(a[f]));
  }
  for (int64_t r = 0; r < C; r++) {
    double bound, y = product_at(o->down, e, r, a, rounding + spread / largest, &bound);
    out[r] += scale * y;
    allowed[r] += scale * bound;
  }
}

static bool run_moe(bench *b) {
  ie_weight up = weight_of(b, 1, E, 2 * F, C), down = weight_of(b, 2, E, C, F);
  ie_moe_options o = {.gate_up = &up, .down = &down, .alpha = 1.702f, .limit = 3.0f};
  ie_tensor *x = tensor_of(b, 3, T, C, 0, 1), *y = tensor_of(b, 4, T, C, 0, 1), *before = tensor_copy(b, y);
  ie_tensor *logits = tensor_of(b, 5, T, E, 0, 2);
  ie_routing r = ie_op_route(&b->ctx, logits, &(ie_route_options){.top_k = TOP});
  if (!ie_op_moe_residual(&b->ctx, y, x, r, &o)) return false;
  for (int64_t t = 0; t < T; t++) {
    double exact[C], allowed[C], row[C];
    for (int64_t i = 0; i < C; i++)
      exact[i] = at(before, t * C + i), allowed[i] = 1e-5, row[i] = at(x, t * C + i);
    for (int j = 0; j < TOP; j++)
      expert_add(exact, allowed, row, &o, ie_tensor_i32(r.expert)[t * TOP + j], at(r.weight, t * TOP + j),
                 class_rounding[b->ctx.cls]);
    for (int64_t i = 0; i < C; i++) expect_near(at(y, t * C + i), exact[i], allowed[i], "moe", t * C + i);
  }
  return true;
}

static bool run_swiglu(bench *b) {
  ie_weight gate = weight_of(b, 1, 1, F, C), up = weight_of(b, 2, 1, F, C);
  ie_tensor *x = tensor_of(b, 3, T, C, 0, 1), *g = ie_op_linear(&b->ctx, x, &gate),
            *u = ie_op_linear(&b->ctx, x, &up);
  ie_tensor *y = ie_op_swiglu(&b->ctx, x, &gate, &up);
  if (!y) return false;
  for (int64_t i = 0; i < T * F; i++) {
    double exact = at(g, i) / (1 + exp(-at(g, i))) * at(u, i);
    expect_near(at(y, i), exact, 4e-6 * fabs(exact) + 1e-6, "swiglu", i);
  }
  return true;
}

static bool run_find_nonfinite(bench *b) {
  ie_tensor *x = tensor_of(b, 1, T, C, 0, 1);
  if (!ie_op_check_finite(&b->ctx, x, "x")) return false;
  ie_tensor_f32(x)[2 * C + 7] = INFINITY;
  assert_null(ie_op_check_finite(&b->ctx, x, "x"));
  assert_int_equal(b->ctx.status, IE_NUMERIC);
  assert_non_null(strstr(b->ctx.error.message, "x: infinity at token 2 of this forward, column 7"));
  b->ctx.status = IE_OK;
  return true;
}

/* --- The table ------------------------------------------------------------------------------------------------ */

/* What an op depends on beside f32 tensors. */
typedef enum axis { AXIS_NONE, AXIS_WEIGHT, AXIS_PARAMETER, AXIS_CACHE } axis;

typedef struct op_case {
  const char *name;
  size_t entry; /* of its launcher in ie_device_ops */
  axis axis;
  op_run run;
  const char *what;     /* for the document */
  const char *tests[4]; /* beside this one */
} op_case;

#define OP(name) #name, offsetof(ie_device_ops, name)
static const op_case cases[] = {
    {OP(embed), AXIS_WEIGHT, run_embed, "rows of a matrix by id", {"test_golden"}},
    {OP(gather_rows),
     AXIS_NONE,
     run_gather_rows,
     "the rows whose logits are asked for",
     {"test_golden", "test_twins"}},
    {OP(rms_norm), AXIS_PARAMETER, run_rms_norm, "RMS norm", {"test_vector", "test_golden"}},
    {OP(layer_norm), AXIS_PARAMETER, run_layer_norm, "layer norm with bias", {"test_vector", "test_golden"}},
    {OP(activate),
     AXIS_NONE,
     run_activate,
     "GELU, GELU by tanh, squared ReLU",
     {"test_vector", "test_golden"}},
    {OP(split_heads), AXIS_NONE, run_split_heads, "q, k, v from rows interleaved by head", {"test_golden"}},
    {OP(soft_cap), AXIS_NONE, run_soft_cap, "cap tanh(x / cap)", {"test_vector", "test_golden"}},
    {OP(linear),
     AXIS_WEIGHT,
     run_linear,
     "x W^T + b; also += and several weights at once",
     {"test_products", "test_ops", "test_golden"}},
    {OP(rope_table), AXIS_NONE, run_rope_table, "cosines and sines of a batch", {"test_golden"}},
    {OP(rope),
     AXIS_NONE,
     run_rope,
     "half-split rotation, whole heads or a part",
     {"test_vector", "test_golden"}},
    {OP(kv_append),
     AXIS_CACHE,
     run_kv_append,
     "keys and values to their slots",
     {"test_twins", "test_golden"}},
    {OP(attention),
     AXIS_CACHE,
     run_attention,
     "causal, window, sinks, grouped heads",
     {"test_attend", "test_twins", "test_golden"}},
    {OP(route), AXIS_NONE, run_route, "top-k, softmax over the chosen", {"test_ops", "test_golden"}},
    {OP(moe),
     AXIS_WEIGHT,
     run_moe,
     "experts with clamped SwiGLU, added to the residual",
     {"test_ops", "test_twins", "test_golden"}},
    {OP(swiglu), AXIS_NONE, run_swiglu, "silu(gate) up", {"test_golden"}},
    {OP(find_nonfinite),
     AXIS_NONE,
     run_find_nonfinite,
     "the first NaN or infinity",
     {"test_vector", "test_model"}},
};
enum { OPS = sizeof cases / sizeof cases[0] };
/* Every launcher of a forward without a tape has its case: they stand before linear_train. (tests/double checks the
 * others.) */
_Static_assert(OPS * sizeof(void (*)(void)) == offsetof(ie_device_ops, linear_train), "op_count");

static const ie_dtype parameters[3] = {IE_F32, IE_F16, IE_BF16};
static const char *const class_names[IE_CLASS_COUNT] = {"fp32", "bf16", "fp16", "int8"};

/* Runs one case. True when it computed; false when it was refused by its name, else the test fails. `drop` takes the
 * launcher away first. */
static bool case_run(const op_case *c, const char *isa, const variant *v, bool drop) {
  bench b;
  bench_open(&b, isa, v);
  if (drop) memset((char *)&b.device->ops + c->entry, 0, sizeof(void (*)(void)));
  bool ran = c->run(&b);
  if (!ran) {
    if (b.ctx.status != IE_UNSUPPORTED || strncmp(b.ctx.error.message, c->name, strlen(c->name)) != 0)
      fail_msg("%s: status %d: %s", c->name, (int)b.ctx.status, b.ctx.error.message);
  }
  bench_close(&b);
  return ran;
}

/* The types or formats of an axis. */
static int axis_count(axis a) {
  return a == AXIS_WEIGHT ? IE_W_COUNT : a == AXIS_NONE ? 1 : 3;
}
static variant axis_variant(axis a, int i, ie_class cls) {
  return (variant){.format = a == AXIS_WEIGHT ? (ie_wformat)i : IE_W_F32,
                   .parameter = a == AXIS_PARAMETER || a == AXIS_CACHE ? parameters[i] : IE_F32,
                   .cls = cls};
}

/* What a cell of the document says: the classes that ran, on every instruction set alike. */
static void cell_text(const op_case *c, int i, char out[96]) {
  int classes = c->axis == AXIS_WEIGHT ? IE_CLASS_COUNT : 1, ran = 0, at_byte = 0;
  char list[64] = "";
  for (int cls = 0; cls < classes; cls++) {
    variant v = axis_variant(c->axis, i, (ie_class)cls);
    bool first = case_run(c, ie_device_isa_list()[0], &v, false);
    for (int k = 1; ie_device_isa_list()[k]; k++)
      if (case_run(c, ie_device_isa_list()[k], &v, false) != first)
        fail_msg("%s: %s and scalar do not both refuse", c->name, ie_device_isa_list()[k]);
    if (!first) continue;
    at_byte +=
        snprintf(list + at_byte, sizeof list - (size_t)at_byte, "%s%s", ran ? ", " : "", class_names[cls]);
    ran++;
  }
  if (ran == classes)
    snprintf(out, 96, "yes");
  else if (ran == 0)
    snprintf(out, 96, "refused");
  else
    snprintf(out, 96, "%s", list);
}

static void row_write(FILE *out, const op_case *c) {
  char cell[96];
  fprintf(out, "| `%s` | %s |", c->name, c->what);
  for (int i = 0; i < axis_count(c->axis); i++) {
    cell_text(c, i, cell);
    fprintf(out, " %s |", cell);
  }
  fprintf(out, " test_ops_table");
  for (int i = 0; i < 4 && c->tests[i]; i++) fprintf(out, ", %s", c->tests[i]);
  fprintf(out, " |\n");
}

static void section_write(FILE *out, const char *title, axis first, axis second) {
  int columns = axis_count(first);
  fprintf(out, "\n## %s\n\n| op (cpu) | what |", title);
  for (int i = 0; i < columns; i++) {
    const char *name = first == AXIS_NONE     ? "cpu"
                       : first == AXIS_WEIGHT ? ie_wformat_describe((ie_wformat)i)->name
                                              : ie_dtype_name(parameters[i]);
    fprintf(out, " %s |", name);
  }
  fprintf(out, " tests |\n|---|---|");
  for (int i = 0; i < columns; i++) fprintf(out, "---|");
  fprintf(out, "---|\n");
  for (int i = 0; i < OPS; i++)
    if (cases[i].axis == first || cases[i].axis == second) row_write(out, &cases[i]);
}

/* The caller frees it. */
static char *tables_text(void) {
  char *text;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  assert_non_null(out);
  section_write(out, "Operations with weights, by weight format", AXIS_WEIGHT, AXIS_WEIGHT);
  section_write(out, "Operations with parameters or a cache, by its type", AXIS_PARAMETER, AXIS_CACHE);
  section_write(out, "Operations of f32 tensors", AXIS_NONE, AXIS_NONE);
  assert_int_equal(fclose(out), 0);
  return text;
}

/* --- The document ----------------------------------------------------------------------------------------------- */

static const char begin_mark[] = "<!-- tables: written by `make docs-ops` -->\n",
                  end_mark[] = "\n<!-- end of tables -->\n";

static char *file_read(const char *path) {
  FILE *in = fopen(path, "r");
  if (!in) fail_msg("%s cannot be opened", path);
  char *text = calloc(1, 1 << 20);
  assert_non_null(text);
  assert_true(fread(text, 1, (1 << 20) - 1, in) > 0);
  fclose(in);
  return text;
}

/* The file is old[..from) + tables + to. */
static void document_split(const char *text, const char **from, const char **to) {
  const char *begin = strstr(text, begin_mark);
  *to = strstr(text, end_mark);
  if (!begin || !*to) fail_msg("the document lacks the marks between which the tables stand");
  *from = begin + strlen(begin_mark);
}

static void document_agrees(void **unused) {
  (void)unused;
  char *document = file_read("docs/ops.md"), *tables = tables_text();
  const char *from, *to;
  document_split(document, &from, &to);
  if ((size_t)(to - from) != strlen(tables) || strncmp(from, tables, strlen(tables)) != 0)
    fail_msg("docs/ops.md does not say what the program does (make docs-ops). The program's tables:\n%s",
             tables);
  free(document);
  free(tables);
}

static int document_write(const char *path) {
  char *document = file_read(path), *tables = tables_text();
  const char *from, *to;
  document_split(document, &from, &to);
  FILE *out = fopen(path, "w");
  if (!out) return 1;
  fwrite(document, 1, (size_t)(from - document), out);
  fprintf(out, "%s%s", tables, to);
  free(document);
  free(tables);
  return fclose(out) != 0;
}

/* --- Refusals ----------------------------------------------------------------------------------------------------- */

static void missing_launchers_are_refused(void **unused) {
  (void)unused;
  for (int i = 0; i < OPS; i++) {
    variant v = axis_variant(cases[i].axis, 0, IE_CLASS_F32);
    if (case_run(&cases[i], NULL, &v, /*drop=*/true)) fail_msg("%s ran without a launcher", cases[i].name);
  }
}

/* A device without a kernel, or without that format of rows, for each format in turn. */
static void weights_without_kernel_are_refused(void **unused) {
  (void)unused;
  for (int f = 0; f < IE_W_COUNT; f++) {
    variant v = {.format = (ie_wformat)f, .parameter = IE_F32};
    const char *format = ie_wformat_describe(v.format)->name;
    char expected[160];
    bench b;
    bench_open(&b, NULL, &v);
    b.device->kernels.few[IE_CLASS_F32][f] = (ie_product){0};
    b.device->kernels.many[IE_CLASS_F32][f] = (ie_product){0};
    b.device->ops.embed_formats &= ~((uint64_t)1 << f);
    const op_run runs[3] = {run_linear, run_moe, run_embed};
    const char *const messages[3] = {
        "linear: w: device cpu has no product with weights of format %s in this precision",
        "moe: w: device cpu has no product with weights of format %s in this precision",
        "embed: w: device cpu reads no rows of format %s"};
    for (int i = 0; i < 3; i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
      snprintf(expected, sizeof expected, messages[i], format);
#pragma GCC diagnostic pop
      b.ctx.status = IE_OK;
      assert_false(runs[i](&b));
      assert_int_equal(b.ctx.status, IE_UNSUPPORTED);
      assert_string_equal(b.ctx.error.message, expected);
    }
    bench_close(&b);
  }
}

/* Each type that is no float of a parameter, a bias and a cache. */
static void other_types_are_refused(void **unused) {
  (void)unused;
  static const char *const names[] = {"rms_norm", "layer_norm", "kv_append", "attention", "linear", "moe"};
  for (int dtype = IE_BOOL; dtype < IE_DTYPE_COUNT; dtype++) {
    if (dtype == IE_F32 || dtype == IE_F16 || dtype == IE_BF16) continue;
    for (size_t n = 0; n < sizeof names / sizeof *names; n++)
      for (int i = 0; i < OPS; i++) {
        variant v = {.format = IE_W_F32, .parameter = (ie_dtype)dtype};
        if (strcmp(cases[i].name, names[n]) == 0 && case_run(&cases[i], NULL, &v, false))
          fail_msg("%s ran with parameters of type %s", names[n], ie_dtype_name((ie_dtype)dtype));
      }
  }
}

static void named_tests_exist(void **unused) {
  (void)unused;
  for (int i = 0; i < OPS; i++)
    for (int j = 0; j < 4 && cases[i].tests[j]; j++) {
      char path[64];
      snprintf(path, sizeof path, "tests/%s.c", cases[i].tests[j]);
      if (access(path, R_OK) != 0) fail_msg("%s names %s", cases[i].name, path);
    }
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "--write") == 0) return document_write(argv[2]);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(document_agrees),
      cmocka_unit_test(missing_launchers_are_refused),
      cmocka_unit_test(weights_without_kernel_are_refused),
      cmocka_unit_test(other_types_are_refused),
      cmocka_unit_test(named_tests_exist),
  };
  return cmocka_run_group_tests_name("ops_table", tests, NULL, NULL);
}
