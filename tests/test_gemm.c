/* General products: every instruction set against sums in double, all kinds of operands, and bits that depend neither
 * on threads nor on what else is computed. Operands end at pages that must not be touched; C has guards at its rows. */
#include "tensor/cpu_gemm.h"

#include "base/float.h"
#include "base/rng.h"
#include "base/size.h"
#include "blocks/mxfp4.h"
#include "support/amx_emulated.h"
#include "support/emulated.h"
#include "support/guard.h"
#include "support/integer_weight.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* --- Devices ----------------------------------------------------------------------------------------------------- */

enum {
  ARENA_BYTES = 32 << 20,
  DEVICES_MAX = 12,
  EMULATED_MOST = 100000 /* multiply-adds of a case on emulated tiles, some 100 times slower */
};

typedef struct bench {
  ie_device *device;
  ie_ctx ctx;
} bench;

static bench open_bench(const char *isa, int threads) {
  bench b;
  ie_error error = {0};
  ie_device_options options = {.isa = isa, .threads = threads};
  assert_int_equal(ie_device_open(&options, &b.device, &error), IE_OK);
  b.ctx = (ie_ctx){.device = b.device, .cls = IE_CLASS_F32, .layer = -1};
  assert_int_equal(ie_arena_open(ARENA_BYTES, &b.ctx.arena, &error), IE_OK);
  return b;
}

static void close_bench(bench *b) {
  assert_int_equal(b->ctx.status, IE_OK);
  assert_int_equal(b->ctx.arena.used, 0);
  ie_arena_close(&b->ctx.arena);
  ie_device_free(b->device);
}

/* --- Cases ------------------------------------------------------------------------------------------------------- */

/* How a matrix is stored. */
typedef struct layout {
  bool transposed, gather;
  int pad;            /* numbers between rows */
  int64_t col_stride; /* 0 or more */
  int format;         /* of B: an ie_wformat, or -1 */
} layout;

typedef struct product {
  int64_t M, N, K;
  layout a, b;
  bool add, bias, bf16;
  float alpha;
  bool exact; /* small integers: every order of sums gives the same number */
  uint64_t seed;
} product;

typedef struct setup {
  product p;
  ie_gemm gemm;
  float *data[2], *bias, *c;
  int32_t *gather[2];
  ie_weight weight;
  ie_wview view;
  uint8_t *part[2];
  double *expected, *magnitude; /* (M, N) */
} setup;

static float number(const product *p, uint64_t stream, int64_t i) {
  uint64_t u = ie_rng_u64(p->seed, stream, (uint64_t)i);
  if (p->exact) return (float)((int)(u % 15) - 7);
  return 2 * ie_rng_f32(p->seed, stream, (uint64_t)i) - 1;
}

/* A real matrix whose operand is (rows, cols) after transposition. */
static void matrix_fill(setup *s, int which, ie_gemm_matrix *out, int64_t rows, int64_t cols) {
  layout l = which ? s->p.b : s->p.a;
  if (l.transposed) {
    int64_t other = rows;
    rows = cols;
    cols = other;
  }
  int64_t stored = rows + (l.gather ? 3 : 0), step = l.col_stride ? l.col_stride : 1;
  out->transposed = l.transposed;
  out->col_stride = l.col_stride;
  out->row_stride = cols * step + l.pad;
  int64_t n = ie_max_i64((stored - 1) * out->row_stride + (cols - 1) * step + 1, 1);
  s->data[which] = guard_alloc((size_t)n * sizeof(float));
  for (int64_t i = 0; i < n; i++) s->data[which][i] = number(&s->p, (uint64_t)which, i);
  out->data = s->data[which];
  if (!l.gather || rows == 0) return;
  s->gather[which] = guard_alloc((size_t)rows * sizeof(int32_t));
  for (int64_t r = 0; r < rows; r++)
    s->gather[which][r] = (int32_t)(ie_rng_u64(s->p.seed, 20, (uint64_t)r) % (uint64_t)stored);
  out->gather = s->gather[which];
}

static void weight_fill(setup *s, ie_gemm_matrix *out, int64_t rows, int64_t cols) {
  ie_wformat format = (ie_wformat)s->p.b.format;
  ie_weight *w = &s->weight;
  *w = (ie_weight){.format = format, .experts = 1, .rows = rows, .cols = cols};
  for (int part = 0; part < 2; part++) {
    w->row_bytes[part] = ie_wformat_row_bytes(format, part, cols);
    w->expert_bytes[part] = (size_t)rows * w->row_bytes[part];
    if (w->row_bytes[part]) w->part[part] = s->part[part] = guard_alloc(w->expert_bytes[part]);
  }
  for (int64_t i = 0; i < rows * cols; i++) {
    float v = number(&s->p, 1, i);
    uint16_t h = format == IE_W_F16 ? ie_f32_to_f16(v) : ie_f32_to_bf16(v);
    if (format == IE_W_F32) memcpy(s->part[0] + 4 * i, &v, 4);
    if (format == IE_W_F16 || format == IE_W_BF16) memcpy(s->part[0] + 2 * i, &h, 2);
    if (format == IE_W_MXFP4) s->part[0][i / 2] = (uint8_t)ie_rng_u64(s->p.seed, 2, (uint64_t)i);
    if (format == IE_W_MXFP4 && i % 32 == 0)
      s->part[1][i / 32] = (uint8_t)(126 + ie_rng_u64(s->p.seed, 3, (uint64_t)i) % 3);
  }
  if (format == IE_W_INT8 || format == IE_W_INT4) integer_weight_fill(s->p.seed, w, s->part);
  s->view = ie_weight_view(w, 0);
  out->weight = &s->view;
  out->transposed = s->p.b.transposed;
}

/* The number at (row, col) of a matrix as it is stored. */
static double stored_at(const setup *s, const ie_gemm_matrix *x, int64_t row, int64_t col) {
  if (x->weight == NULL)
    return (double)x->data[(x->gather ? x->gather[row] : row) * x->row_stride +
                           col * (x->col_stride ? x->col_stride : 1)];
  const uint8_t *bytes = x->weight->part[0] + (size_t)row * x->weight->row_bytes[0];
  uint16_t h;
  float v;
  switch (x->weight->format) {
  case IE_W_F32: memcpy(&v, bytes + 4 * col, 4); return (double)v;
  case IE_W_F16: memcpy(&h, bytes + 2 * col, 2); return (double)ie_f16_to_f32(h);
  case IE_W_BF16: memcpy(&h, bytes + 2 * col, 2); return (double)ie_bf16_to_f32(h);
  case IE_W_MXFP4: {
    uint8_t scale = x->weight->part[1][(size_t)row * x->weight->row_bytes[1] + (size_t)(col / 32)];
    return ldexp((double)ie_mxfp4_values[col % 2 ? bytes[col / 2] >> 4 : bytes[col / 2] & 15], scale - 127);
  }
  default: return integer_weight_at(&s->weight, 0, row, col);
  }
}

static double operand_at(const setup *s, const ie_gemm_matrix *x, int64_t row, int64_t col) {
  double v = x->transposed ? stored_at(s, x, col, row) : stored_at(s, x, row, col);
  return s->p.bf16 ? (double)ie_f32_round_bf16((float)v) : v;
}

static float c_before(const setup *s, int64_t i, int64_t j) {
  return s->p.add ? (float)((i * 3 + j) % 11 - 5) : NAN;
}

static void expected_compute(setup *s) {
  const product *p = &s->p;
  double *b = calloc((size_t)(p->K * p->N + 1), sizeof *b), *a = calloc((size_t)p->K + 1, sizeof *a);
  s->expected = calloc((size_t)(p->M * p->N + 1), sizeof(double));
  s->magnitude = calloc((size_t)(p->M * p->N + 1), sizeof(double));
  assert_true(a && b && s->expected && s->magnitude);
  for (int64_t k = 0; k < p->K; k++)
    for (int64_t j = 0; j < p->N; j++) b[k * p->N + j] = operand_at(s, &s->gemm.b, k, j);
  for (int64_t i = 0; i < p->M; i++) {
    double *y = s->expected + i * p->N, *magnitude = s->magnitude + i * p->N;
    for (int64_t k = 0; k < p->K; k++) a[k] = operand_at(s, &s->gemm.a, i, k);
    for (int64_t k = 0; k < p->K; k++)
      for (int64_t j = 0; j < p->N; j++) {
        y[j] += a[k] * b[k * p->N + j];
        magnitude[j] += fabs(a[k] * b[k * p->N + j]);
      }
    double alpha = p->alpha == 0 ? 1 : (double)p->alpha;
    for (int64_t j = 0; j < p->N; j++) {
      double bias = p->bias ? (double)s->bias[j] : 0, before = p->add ? (double)c_before(s, i, j) : 0;
      y[j] = alpha * y[j] + bias + before;
      magnitude[j] = fabs(alpha) * magnitude[j] + fabs(bias) + fabs(before);
    }
  }
  free(a);
  free(b);
}

static const float guard_value = -12345.0f;

static void setup_open(setup *s, product p) {
  *s = (setup){.p = p};
  matrix_fill(s, 0, &s->gemm.a, p.M, p.K);
  if (p.b.format < 0)
    matrix_fill(s, 1, &s->gemm.b, p.K, p.N);
  else
    weight_fill(s, &s->gemm.b, p.b.transposed ? p.N : p.K, p.b.transposed ? p.K : p.N);
  s->bias = guard_alloc((size_t)p.N * sizeof(float));
  for (int64_t j = 0; j < p.N; j++) s->bias[j] = number(&p, 5, j);
  s->gemm.M = p.M, s->gemm.N = p.N, s->gemm.K = p.K;
  s->gemm.add = p.add, s->gemm.bf16 = p.bf16, s->gemm.alpha = p.alpha;
  s->gemm.bias = p.bias ? s->bias : NULL;
  s->gemm.c_stride = p.N + 3;
  s->c = guard_alloc((size_t)((p.M - 1) * s->gemm.c_stride + p.N) * sizeof(float));
  s->gemm.c = s->c;
  expected_compute(s);
}

static void setup_free(setup *s) {
  void *all[] = {s->data[0], s->data[1], s->gather[0], s->gather[1], s->part[0], s->part[1], s->bias, s->c};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (all[i] != NULL) guard_free(all[i]);
  free(s->expected);
  free(s->magnitude);
}

static int64_t c_count(const setup *s) {
  return (s->p.M - 1) * s->gemm.c_stride + s->p.N;
}

static void c_reset(setup *s) {
  for (int64_t i = 0; i < c_count(s); i++) {
    int64_t row = i / s->gemm.c_stride, col = i % s->gemm.c_stride;
    s->c[i] = col < s->p.N ? c_before(s, row, col) : guard_value;
  }
}

static void c_check(const setup *s, const char *isa) {
  const product *p = &s->p;
  for (int64_t i = 0; i < c_count(s); i++) {
    int64_t row = i / s->gemm.c_stride, col = i % s->gemm.c_stride;
    if (col >= p->N) {
      assert_true(s->c[i] == guard_value);
      continue;
    }
    double expected = s->expected[row * p->N + col];
    double allowed = p->exact ? 0 : 6e-8 * (4 + sqrt((double)p->K)) * s->magnitude[row * p->N + col];
    if (!(fabs((double)s->c[i] - expected) <= allowed))
      fail_msg(
          "%s M=%d N=%d K=%d a{%d %d %d} b{%d %d %d} format %d add=%d bias=%d bf16=%d exact=%d: C[%d, %d] = "
          "%.9g, expected %.9g",
          isa, (int)p->M, (int)p->N, (int)p->K, p->a.transposed, p->a.gather, (int)p->a.col_stride,
          p->b.transposed, p->b.gather, (int)p->b.col_stride, p->b.format, p->add, p->bias, p->bf16, p->exact,
          (int)row, (int)col, (double)s->c[i], expected);
  }
}

static float *c_copy(const setup *s) {
  float *copy = malloc((size_t)c_count(s) * sizeof *copy);
  assert_non_null(copy);
  memcpy(copy, s->c, (size_t)c_count(s) * sizeof *copy);
  return copy;
}

static void same_bits(const setup *s, const float *c, const char *what) {
  if (memcmp(c, s->c, (size_t)c_count(s) * sizeof *c) != 0)
    fail_msg("%s gives other bits: M=%d N=%d K=%d format %d", what, (int)s->p.M, (int)s->p.N, (int)s->p.K,
             s->p.b.format);
}

static const int64_t sizes[] = {1,  2,  3,  5,  6,  7,  8,  13, 14, 15,  16,  17,
                                27, 29, 31, 32, 33, 41, 63, 64, 65, 100, 113, 131};
static const int64_t depths[] = {1, 2, 3, 4, 5, 8, 31, 32, 33, 64, 65, 127, 383, 384, 385, 391, 769, 1000};
#define COUNT(a) ((uint64_t)(sizeof(a) / sizeof *(a)))

static product pick(uint64_t n, int format) {
  uint64_t u = ie_rng_u64(11, (uint64_t)(format + 1), n);
  product p = {.M = sizes[u % COUNT(sizes)],
               .N = sizes[(u >> 8) % COUNT(sizes)],
               .K = depths[(u >> 16) % COUNT(depths)],
               .a = {.transposed = u >> 24 & 1, .gather = (u >> 25 & 3) == 0, .pad = (int)(u >> 27 & 3)},
               .b = {.transposed = u >> 29 & 1, .gather = (u >> 30 & 3) == 0, .pad = (int)(u >> 32 & 3)},
               .add = u >> 34 & 1,
               .bias = u >> 35 & 1,
               .bf16 = u >> 36 & 1,
               .alpha = (u >> 37 & 3) == 0 ? 0.5f : 0,
               .exact = u >> 39 & 1,
               .seed = n};
  if ((u >> 40 & 7) == 0) p.a.col_stride = 2;
  if ((u >> 43 & 7) == 0) p.b.col_stride = 3;
  p.b.format = format;
  if (format == IE_W_INT8 || format == IE_W_INT4) p.exact = false;
  if (format == IE_W_MXFP4) { /* rows are whole blocks */
    int64_t *cols = p.b.transposed ? &p.K : &p.N;
    *cols = ie_div_up(*cols, 32) * 32;
  }
  return p;
}

/* --- Tests ------------------------------------------------------------------------------------------------------- */

typedef struct fleet {
  bench benches[DEVICES_MAX];
  const char *isa[DEVICES_MAX];
  int threads[DEVICES_MAX];
  bool amx[DEVICES_MAX]; /* in class bf16 */
  bool emulated[DEVICES_MAX];
  int n;
} fleet;

static void fleet_add(fleet *f, const char *isa, bool amx_emulated) {
  for (int threads = 1; threads <= 3; threads += 2, f->n++) {
    assert_true(f->n < DEVICES_MAX);
    f->isa[f->n] = amx_emulated ? "amx (emulated)" : isa;
    f->threads[f->n] = threads;
    f->emulated[f->n] = amx_emulated;
    f->amx[f->n] = amx_emulated || strcmp(isa, "amx") == 0;
    f->benches[f->n] = open_bench(isa, threads);
    if (amx_emulated) ie_kernels_fill_gemm__amx_emulated(&f->benches[f->n].device->kernels);
  }
}

/* Each instruction set with 1 and 3 threads. */
static fleet *fleet_open(void) {
  fleet *f = calloc(1, sizeof *f);
  assert_non_null(f);
  for (int isa = 0; ie_device_isa_list()[isa]; isa++) fleet_add(f, ie_device_isa_list()[isa], false);
  if (ie_isa_best() >= IE_ISA_AVX512) fleet_add(f, "avx512", true);
  return f;
}

static void fleet_close(fleet *f) {
  for (int i = 0; i < f->n; i++) close_bench(&f->benches[i]);
  free(f);
}

/* The values; the bits of one thread, of three, and of the serial function are the same, and so are those of the
 * instruction sets with FMA. */
static void check_everywhere(fleet *f, product p) {
  setup s;
  setup_open(&s, p);
  void *scratch = guard_alloc(ie_cpu_gemm_serial_bytes());
  float *first = NULL, *fused = NULL;
  for (int i = 0; i < f->n; i++) {
    bench *b = &f->benches[i];
    if (f->emulated[i] && (!p.bf16 || p.M * p.N * p.K > EMULATED_MOST)) continue;
    c_reset(&s);
    ie_cpu_gemm(&b->ctx, &s.gemm, 1);
    c_check(&s, f->isa[i]);
    if (f->threads[i] > 1) {
      same_bits(&s, first, f->isa[i]);
      continue;
    }
    free(first);
    first = c_copy(&s);
    c_reset(&s);
    ie_cpu_gemm_serial(&b->device->kernels, &s.gemm, scratch);
    same_bits(&s, first, "the serial function");
    if (b->device->kernels.isa == IE_ISA_SCALAR || (f->amx[i] && p.bf16)) continue;
    if (fused == NULL) fused = c_copy(&s);
    same_bits(&s, fused, f->isa[i]);
  }
  free(first);
  free(fused);
  guard_free(scratch);
  setup_free(&s);
}

static void test_matrices(void **state) {
  for (uint64_t n = 0; n < 400; n += (uint64_t)emulated_step(5)) check_everywhere(*state, pick(n, -1));
}

static void test_weights(void **state) {
  for (int format = 0; format < IE_W_COUNT; format++)
    for (uint64_t n = 0; n < 60; n += (uint64_t)emulated_step(5)) check_everywhere(*state, pick(n, format));
}

/* All sizes around a tile, of the layouts that a linear layer has. */
static void test_tiles(void **state) {
  static const int64_t around[] = {1, 4, 5, 6, 7, 12, 13, 14, 15, 16, 17, 28, 29, 31, 32, 33};
  static const int64_t across[] = {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65};
  for (uint64_t m = 0; m < COUNT(around); m++)
    for (uint64_t n = 0; n < 2 * COUNT(across); n += (uint64_t)emulated_step(5)) {
      product p = {.M = around[m], .N = across[n / 2], .K = 9, .exact = true, .seed = m * 100 + n};
      p.b.format = -1;
      p.a.transposed = (m + n / 2) % 2;
      p.b.transposed = (m + n / 2) / 2 % 2;
      p.add = n % 3 == 0;
      p.bf16 = n % 2;
      check_everywhere(*state, p);
    }
}

/* More than the panels hold: cut in columns and in depth. */
static void test_many_slabs(void **state) {
  static const int64_t cases[][3] = {{5, 1100, 2100}, {3, 70, 40000}, {2, 9000, 300},
                                     {500, 300, 97},  {600, 65, 33},  {2, 17, 2689}};
  for (uint64_t n = 0; n < COUNT(cases); n++) {
    product p = {
        .M = cases[n][0], .N = cases[n][1], .K = cases[n][2], .exact = true, .bias = true, .seed = n};
    p.b.format = n == 0 ? IE_W_BF16 : -1;
    p.b.transposed = n % 2 == 0;
    p.a.transposed = n % 3 == 1;
    p.bf16 = n == 5; /* whose last block of depth is one number */
    check_everywhere(*state, p);
  }
}

static void test_nothing_to_sum(void **state) {
  fleet *f = *state;
  for (int i = 0; i < f->n; i++) {
    float c[2][4] = {{1, 2, 3, 9}, {4, 5, 6, 9}}, bias[3] = {10, 20, 30}, none = 0;
    ie_gemm g = {.M = 2, .N = 3, .a = {.data = &none}, .b = {.data = &none}, .c = c[0], .c_stride = 4};
    g.bias = bias;
    g.add = true;
    ie_cpu_gemm(&f->benches[i].ctx, &g, 1);
    assert_true(c[0][0] == 11 && c[1][2] == 36 && c[0][3] == 9 && c[1][3] == 9);
    g.add = false;
    g.bias = NULL;
    ie_cpu_gemm(&f->benches[i].ctx, &g, 1);
    assert_true(c[0][0] == 0 && c[1][2] == 0 && c[0][3] == 9);
    g.K = 5;
    g.M = 0;
    ie_cpu_gemm(&f->benches[i].ctx, &g, 1);
    ie_cpu_gemm(&f->benches[i].ctx, NULL, 0);
    assert_int_equal(f->benches[i].ctx.work.flop % 2u, 0);
  }
}

/* Experts of very different sizes at once: the bits of each alone. */
static void test_groups(void **state) {
  fleet *f = *state;
  enum { EXPERTS = 80 };
  setup *s = calloc(EXPERTS, sizeof *s);
  float *alone[EXPERTS];
  ie_gemm g[EXPERTS];
  assert_non_null(s);
  for (int e = 0; e < EXPERTS; e++) {
    product p = {.M = e % 7 == 3 ? 0 : e * 5 % 61 + 1, .N = 96, .K = 160, .seed = (uint64_t)e};
    p.b.format = e % 2 ? IE_W_MXFP4 : -1;
    p.b.transposed = true;
    p.a.gather = true;
    bool empty = p.M == 0;
    p.M = ie_max_i64(p.M, 1);
    setup_open(&s[e], p);
    s[e].gemm.M = empty ? 0 : p.M;
    g[e] = s[e].gemm;
  }
  for (int i = 0; i < f->n; i++) {
    uint64_t flop = 0;
    for (int e = 0; e < EXPERTS; e++) {
      c_reset(&s[e]);
      ie_cpu_gemm(&f->benches[i].ctx, &g[e], 1);
      alone[e] = c_copy(&s[e]);
      c_reset(&s[e]);
      flop += (uint64_t)(2 * g[e].M * g[e].N * g[e].K);
    }
    uint64_t before = f->benches[i].ctx.work.flop;
    ie_cpu_gemm(&f->benches[i].ctx, g, EXPERTS);
    assert_int_equal(f->benches[i].ctx.work.flop - before, flop);
    for (int e = 0; e < EXPERTS; e++) {
      same_bits(&s[e], alone[e], "a group");
      free(alone[e]);
    }
  }
  for (int e = 0; e < EXPERTS; e++) setup_free(&s[e]);
  free(s);
}

/* A row does not know of the others: one at a time gives the same bits; and what is not finite stays in its row. */
static void test_rows_alone(void **state) {
  fleet *f = *state;
  product p = {.M = 31, .N = 45, .K = 700, .bf16 = true, .seed = 3};
  p.b.format = -1;
  setup s;
  setup_open(&s, p);
  for (int i = 0; i < f->n; i++) {
    c_reset(&s);
    ie_cpu_gemm(&f->benches[i].ctx, &s.gemm, 1);
    float *whole = c_copy(&s);
    for (int64_t row = 0; row < p.M; row++) {
      ie_gemm one = s.gemm;
      one.M = 1;
      one.a.data += row * one.a.row_stride;
      one.c += row * one.c_stride;
      ie_cpu_gemm(&f->benches[i].ctx, &one, 1);
    }
    same_bits(&s, whole, "rows alone");
    float *spoilt = &s.data[0][7 * s.gemm.a.row_stride + 650], kept = *spoilt;
    *spoilt = i % 2 ? NAN : INFINITY;
    ie_cpu_gemm(&f->benches[i].ctx, &s.gemm, 1);
    *spoilt = kept;
    for (int64_t j = 0; j < p.N; j++) {
      float *c = &s.c[7 * s.gemm.c_stride + j];
      assert_true(!isfinite(*c));
      *c = whole[7 * s.gemm.c_stride + j];
    }
    same_bits(&s, whole, "an infinity in row 7");
    free(whole);
  }
  setup_free(&s);
}

static void test_scratch(void **state) {
  (void)state;
  bench b = open_bench(NULL, 2);
  ie_ctx dry = {.device = b.device, .arena = ie_arena_measure(), .layer = -1, .dry = true};
  ie_gemm g = {.M = 1000, .N = 1000, .K = 1000};
  ie_cpu_gemm(&dry, &g, 1);
  assert_int_equal(dry.status, IE_OK);
  assert_true(dry.arena.used == 0 && dry.arena.peak > 0);
  assert_int_equal(dry.work.flop, 0);
  product p = {.M = 9, .N = 7, .K = 5, .exact = true, .b.format = -1};
  setup s;
  setup_open(&s, p);
  c_reset(&s);
  ie_cpu_gemm(&b.ctx, &s.gemm, 1);
  c_check(&s, "best");
  assert_int_equal(b.ctx.arena.peak, dry.arena.peak);
  assert_int_equal(b.ctx.work.flop, 2u * 9 * 7 * 5);
  /* an arena that is too small is a failure, not a crash */
  ie_ctx small = {.device = b.device, .layer = -1};
  ie_error error = {0};
  assert_int_equal(ie_arena_open(1 << 16, &small.arena, &error), IE_OK);
  c_reset(&s);
  ie_cpu_gemm(&small, &s.gemm, 1);
  assert_int_equal(small.status, IE_INTERNAL);
  assert_true(isnan(s.c[0]));
  ie_arena_close(&small.arena);
  setup_free(&s);
  close_bench(&b);
}

/* Decoded numbers are those of the scalar definition to the bit: all bytes, scales that are NaN or denormal too. */
static void test_weight_cols(void **state) {
  (void)state;
  enum { ROWS = 9 };
  ie_kernels scalar, other;
  ie_kernels_fill(&scalar, IE_ISA_SCALAR);
  for (int isa = IE_ISA_SCALAR + 1; isa <= (int)ie_isa_best(); isa++) {
    ie_kernels_fill(&other, (ie_isa)isa);
    for (int format = 0; format < IE_W_COUNT; format++)
      for (int64_t cols = 32; cols <= 608; cols += format == IE_W_MXFP4 ? 32 : 31) {
        ie_wview w = {.format = (ie_wformat)format, .rows = ROWS, .cols = cols};
        uint8_t *part[2] = {NULL, NULL};
        for (int i = 0; i < 2; i++) {
          w.row_bytes[i] = ie_wformat_row_bytes(w.format, i, cols);
          if (!w.row_bytes[i]) continue;
          w.part[i] = part[i] = guard_alloc(ROWS * w.row_bytes[i]);
          for (size_t n = 0; n < ROWS * w.row_bytes[i]; n++)
            part[i][n] = (uint8_t)ie_rng_u64(1, (uint64_t)cols, n);
        }
        for (int64_t row = 0; row < ROWS; row++) {
          int64_t col = row * 64 % (cols / 64 * 64 + 64), n = ie_max_i64(cols - col - row % 3, 1);
          if (col >= cols) continue;
          float *x = guard_alloc((size_t)n * sizeof *x), *y = guard_alloc((size_t)n * sizeof *y);
          scalar.weight_cols(x, &w, row, col, n);
          other.weight_cols(y, &w, row, col, n);
          for (int64_t i = 0; i < n; i++)
            assert_true(ie_f32_bits(x[i]) == ie_f32_bits(y[i]) || (isnan(x[i]) && isnan(y[i])));
          guard_free(x);
          guard_free(y);
        }
        for (int i = 0; i < 2; i++)
          if (part[i]) guard_free(part[i]);
      }
  }
}

static void test_depth(void **state) {
  (void)state;
  for (int64_t K = 0; K < 20000; K++) {
    int64_t depth = ie_gemm_depth(K);
    assert_true(depth % IE_GEMM_GROUP == 0 && depth >= IE_GEMM_GROUP && depth <= IE_GEMM_DEPTH_MAX);
  }
}

static int setup_fleet(void **state) {
  *state = fleet_open();
  return 0;
}
static int teardown_fleet(void **state) {
  fleet_close(*state);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_depth),      cmocka_unit_test(test_weight_cols),
      cmocka_unit_test(test_matrices),   cmocka_unit_test(test_weights),
      cmocka_unit_test(test_tiles),      cmocka_unit_test(test_many_slabs),
      cmocka_unit_test(test_groups),     cmocka_unit_test(test_nothing_to_sum),
      cmocka_unit_test(test_rows_alone), cmocka_unit_test(test_scratch),
  };
  return cmocka_run_group_tests(tests, setup_fleet, teardown_fleet);
}
