/* Attention under a tape, forward and backward, against a T x T reference in double: tile edges, windows, groups of
 * heads, sinks, prefixes and packed sequences; and what must hold to the bit: one thread = n, packed = apart. */
#include "base/real.h"
#include "base/rng.h"
#include "base/size.h"
#include "tensor/device.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SEQUENCES = 12, BUFFERS = 6 };

typedef struct shape {
  int64_t length[SEQUENCES]; /* ends with 0 */
  int64_t H, HK, D, P, window;
  bool sinks;
  double spread; /* of the logits */
} shape;

/* Inputs and outputs in the order of `names`. */
typedef struct problem {
  shape dim;
  int64_t T;
  real *q, *k, *v, *pk, *pv, *dy;
  float *sinks;
  int32_t *position, *sequence;
} problem;

static const char *const names[] = {"dq", "dk", "dv", "dprefix_k", "dprefix_v", "dsinks", "y", "lse"};
enum { DQ, DK, DV, DPK, DPV, DSINKS, Y, LSE, RESULTS };

typedef struct answer {
  real *x[RESULTS];
} answer;
typedef struct expected {
  double *x[RESULTS];
} expected;

static void counts_of(const problem *p, int64_t n[RESULTS]) {
  n[DQ] = n[Y] = p->T * p->dim.H * p->dim.D;
  n[DK] = n[DV] = p->T * p->dim.HK * p->dim.D;
  n[DPK] = n[DPV] = p->dim.P * p->dim.HK * p->dim.D;
  n[DSINKS] = p->dim.H;
  n[LSE] = p->T * p->dim.H;
}

/* What gradients held before. */
static real before(int64_t i) {
  return (real)0.25 * (real)(i % 5);
}

static double noise(uint64_t stream, int64_t i) {
  return 2.0 * (double)ie_rng_f32(5, stream, (uint64_t)i) - 1.0;
}

static void *take(int64_t n, size_t size) {
  void *memory = calloc((size_t)n + 1, size);
  assert_non_null(memory);
  return memory;
}

static real *random_reals(uint64_t stream, int64_t n, double factor) {
  real *x = take(n, sizeof *x);
  for (int64_t i = 0; i < n; i++) x[i] = (real)(factor * noise(stream, i));
  return x;
}

static problem problem_make(shape dim) {
  problem p = {.dim = dim};
  for (int i = 0; i < SEQUENCES && dim.length[i]; i++) p.T += dim.length[i];
  double factor = sqrt(dim.spread > 0 ? dim.spread : 3);
  p.q = random_reals(1, p.T * dim.H * dim.D, factor);
  p.k = random_reals(2, p.T * dim.HK * dim.D, factor);
  p.v = random_reals(3, p.T * dim.HK * dim.D, 1);
  p.pk = random_reals(4, dim.P * dim.HK * dim.D, factor);
  p.pv = random_reals(5, dim.P * dim.HK * dim.D, 1);
  p.dy = random_reals(6, p.T * dim.H * dim.D, 1);
  p.sinks = take(dim.H, sizeof *p.sinks);
  for (int64_t h = 0; h < dim.H; h++) p.sinks[h] = (float)(2 * noise(7, h));
  p.position = take(p.T, sizeof *p.position);
  p.sequence = take(p.T, sizeof *p.sequence);
  int64_t t = 0;
  for (int32_t i = 0; i < SEQUENCES && dim.length[i]; i++) {
    for (int32_t j = 0; j < dim.length[i]; j++, t++) {
      p.position[t] = (int32_t)dim.P + j;
      p.sequence[t] = i;
    }
  }
  return p;
}

static void problem_free(problem *p) {
  free(p->q), free(p->k), free(p->v), free(p->pk), free(p->pv), free(p->dy), free(p->sinks);
  free(p->position), free(p->sequence);
}

static void answer_free(answer *a) {
  for (int i = 0; i < RESULTS; i++) free(a->x[i]);
}
static void expected_free(expected *e) {
  for (int i = 0; i < RESULTS; i++) free(e->x[i]);
}

/* --- The reference ----------------------------------------------------------------------------------------------- */

static double scale_of(const problem *p) {
  return (double)(float)(1 / sqrt((double)p->dim.D));
}

/* Row of a key or value at position s of the sequence that begins at token `first`. */
static int64_t kv_row(const problem *p, int64_t first, int64_t s, int64_t head) {
  return ((s < p->dim.P ? s : first + s - p->dim.P) * p->dim.HK + head) * p->dim.D;
}

static double dot(const real *a, const real *b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
  return sum;
}

/* One query: token t at position `at` of a sequence that begins at token `first`. */
static void reference_row(const problem *p, expected *e, int64_t first, int64_t t, int64_t h) {
  int64_t D = p->dim.D, P = p->dim.P, at = P + t - first, row = (t * p->dim.H + h) * D;
  int64_t kv_head = h / (p->dim.H / p->dim.HK),
          lo = p->dim.window ? ie_max_i64(0, at - p->dim.window + 1) : 0;
  double *weight = take(at + 1, sizeof *weight), most = p->dim.sinks ? (double)p->sinks[h] : -INFINITY,
         sum = 0;
  double scale = scale_of(p), delta = 0;
  for (int64_t s = lo; s <= at; s++) {
    weight[s] = scale * dot(p->q + row, (s < P ? p->pk : p->k) + kv_row(p, first, s, kv_head), D);
    most = fmax(most, weight[s]);
  }
  if (p->dim.sinks) sum = exp((double)p->sinks[h] - most);
  for (int64_t s = lo; s <= at; s++) sum += weight[s] = exp(weight[s] - most);
  e->x[LSE][t * p->dim.H + h] = most + log(sum);
  for (int64_t s = lo; s <= at; s++) {
    weight[s] /= sum;
    const real *v = (s < P ? p->pv : p->v) + kv_row(p, first, s, kv_head);
    for (int64_t d = 0; d < D; d++) e->x[Y][row + d] += weight[s] * (double)v[d];
    delta += weight[s] * dot(p->dy + row, v, D);
  }
  if (p->dim.sinks) e->x[DSINKS][h] -= exp((double)p->sinks[h] - most) / sum * delta;
  for (int64_t s = lo; s <= at; s++) {
    int64_t from = kv_row(p, first, s, kv_head);
    const real *k = (s < P ? p->pk : p->k) + from, *v = (s < P ? p->pv : p->v) + from;
    double *dk = e->x[s < P ? DPK : DK] + from, *dv = e->x[s < P ? DPV : DV] + from;
    double flow = weight[s] * (dot(p->dy + row, v, D) - delta) * scale;
    for (int64_t d = 0; d < D; d++) {
      e->x[DQ][row + d] += flow * (double)k[d];
      dk[d] += flow * (double)p->q[row + d];
      dv[d] += weight[s] * (double)p->dy[row + d];
    }
  }
  free(weight);
}

static expected reference(const problem *p) {
  expected e;
  int64_t n[RESULTS], first = 0;
  counts_of(p, n);
  for (int i = 0; i < RESULTS; i++) {
    e.x[i] = take(n[i], sizeof *e.x[i]);
    for (int64_t j = 0; i < BUFFERS && j < n[i]; j++) e.x[i][j] = (double)before(j);
  }
  for (int64_t t = 0; t < p->T; t++) {
    if (t > 0 && p->sequence[t] != p->sequence[t - 1]) first = t;
    for (int64_t h = 0; h < p->dim.H; h++) reference_row(p, &e, first, t, h);
  }
  return e;
}

/* --- The launchers ------------------------------------------------------------------------------------------------- */

static ie_tensor tensor(real *data, int64_t a, int64_t b, int64_t c) {
  return (ie_tensor){.dtype = IE_F32, .rank = 3, .shape = {a, b, c, 1}, .data = data};
}

/* Both directions, of tokens t0 <= t < t1, on one context: measured in a dry run, then run in just that much memory. */
static void launch(const problem *p, ie_device *device, int64_t t0, int64_t t1, answer *a) {
  const shape *d = &p->dim;
  int64_t T = t1 - t0, q0 = t0 * d->H * d->D, k0 = t0 * d->HK * d->D;
  ie_tensor q = tensor(p->q + q0, T, d->H, d->D), y = tensor(a->x[Y] + q0, T, d->H * d->D, 1);
  ie_tensor k = tensor(p->k + k0, T, d->HK, d->D), v = tensor(p->v + k0, T, d->HK, d->D);
  ie_tensor pk = tensor(p->pk, d->P, d->HK, d->D), pv = tensor(p->pv, d->P, d->HK, d->D);
  ie_tensor lse = tensor(a->x[LSE] + t0 * d->H, T, d->H, 1);
  ie_attention_inputs in = {.q = &q, .k = &k, .v = &v};
  if (d->P) in.prefix_k = &pk, in.prefix_v = &pv;
  ie_batch batch = {.tokens = T, .position = p->position + t0, .sequence = p->sequence + t0};
  ie_attention_options options = {.scale = (float)scale_of(p), .window = d->window};
  if (d->sinks) options.sinks = (ie_vector){.data = p->sinks, .dtype = IE_F32, .n = d->H};
  ie_attention_grads to = {a->x[DQ] + q0, a->x[DK] + k0, a->x[DV] + k0, a->x[DPK], a->x[DPV], a->x[DSINKS]};
  ie_ctx *ctx = take(1, sizeof *ctx);
  *ctx = (ie_ctx){.device = device, .arena = ie_arena_measure(), .dry = true};
  device->ops.attention_train(ctx, &y, &lse, &in, &batch, &options);
  device->ops.attention_backward(ctx, &to, p->dy + q0, &y, &lse, &in, &batch, &options);
  size_t peak = ctx->arena.peak;
  assert_int_equal(ie_arena_open(peak, &ctx->arena, NULL), IE_OK);
  memset(ctx->arena.base, 0xff, peak); /* NaN: what is read was written */
  ctx->dry = false;
  device->ops.attention_train(ctx, &y, &lse, &in, &batch, &options);
  memset(ctx->arena.base, 0xff, peak); /* nothing may wait there for the backward */
  device->ops.attention_backward(ctx, &to, p->dy + q0, &y, &lse, &in, &batch, &options);
  assert_int_equal(ctx->status, IE_OK);
  assert_int_equal(ctx->arena.used, 0);
  ie_arena_close(&ctx->arena);
  free(ctx);
}

static answer answer_make(const problem *p) {
  answer a;
  int64_t n[RESULTS];
  counts_of(p, n);
  for (int i = 0; i < RESULTS; i++) {
    a.x[i] = take(n[i], sizeof *a.x[i]);
    for (int64_t j = 0; j < n[i]; j++) a.x[i][j] = i < BUFFERS ? before(j) : (real)NAN;
  }
  return a;
}

static ie_device *open_device(const char *isa, int threads) {
  ie_device *device;
  assert_int_equal(ie_device_open(&(ie_device_options){.isa = isa, .threads = threads}, &device, NULL),
                   IE_OK);
  return device;
}

static answer answer_of(const problem *p, const char *isa, int threads) {
  answer a = answer_make(p);
  ie_device *device = open_device(isa, threads);
  launch(p, device, 0, p->T, &a);
  ie_device_free(device);
  return a;
}

static void answer_check(const problem *p, const answer *a, const expected *e, const char *isa) {
  int64_t n[RESULTS];
  counts_of(p, n);
  for (int i = 0; i < RESULTS; i++) {
    double largest = 1, tolerance = sizeof(real) == 4 ? 3e-6 : 1e-13;
    for (int64_t j = 0; j < n[i]; j++) largest = fmax(largest, fabs(e->x[i][j]));
    for (int64_t j = 0; j < n[i]; j++) {
      if (fabs((double)a->x[i][j] - e->x[i][j]) <= tolerance * largest) continue;
      fail_msg(
          "%s, T %td, H %td, HK %td, D %td, P %td, window %td, sinks %d: %s[%td]: expected %.9g, found %.9g "
          "(largest %g)",
          isa, (ptrdiff_t)p->T, (ptrdiff_t)p->dim.H, (ptrdiff_t)p->dim.HK, (ptrdiff_t)p->dim.D,
          (ptrdiff_t)p->dim.P, (ptrdiff_t)p->dim.window, p->dim.sinks, names[i], (ptrdiff_t)j, e->x[i][j],
          (double)a->x[i][j], largest);
    }
  }
}

static void answers_equal(const problem *p, const answer *a, const answer *b) {
  int64_t n[RESULTS];
  counts_of(p, n);
  for (int i = 0; i < RESULTS; i++) assert_memory_equal(a->x[i], b->x[i], (size_t)n[i] * sizeof(real));
}

/* Every instruction set against the reference. */
static void shape_check(shape dim) {
  problem p = problem_make(dim);
  expected e = reference(&p);
  for (int i = 0; ie_device_isa_list()[i]; i++) {
    answer a = answer_of(&p, ie_device_isa_list()[i], /*threads=*/2);
    answer_check(&p, &a, &e, ie_device_isa_list()[i]);
    answer_free(&a);
  }
  expected_free(&e);
  problem_free(&p);
}

/* --- Tests --------------------------------------------------------------------------------------------------------- */

static void test_lengths(void **state) {
  (void)state;
  static const int64_t lengths[] = {1, 2, 3, 15, 16, 17, 31, 63, 64, 65, 127, 128, 129, 200};
  for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
    shape_check((shape){.length = {lengths[i]}, .H = 2, .HK = 2, .D = 24});
}

static void test_head_dimensions(void **state) {
  (void)state;
  static const int64_t dims[] = {2, 6, 10, 16, 18, 32, 48, 64, 80, 96, 112, 128, 160, 256};
  for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
    shape_check((shape){.length = {70}, .H = 2, .HK = 1, .D = dims[i], .sinks = true});
}

static void test_windows(void **state) {
  (void)state;
  static const int64_t windows[] = {1, 5, 16, 63, 64, 65, 130, 150, 1000};
  for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++)
    shape_check(
        (shape){.length = {150}, .H = 2, .HK = 2, .D = 16, .window = windows[i], .sinks = i % 2 == 0});
}

static void test_groups_of_heads(void **state) {
  (void)state;
  for (int64_t G = 1; G <= 8; G *= 2)
    for (int64_t HK = 1; HK <= 3; HK++)
      shape_check((shape){.length = {67, 5}, .H = HK * G, .HK = HK, .D = 24, .sinks = HK != 2});
  shape_check((shape){.length = {130, 70}, .H = 12, .HK = 12, .D = 16});
}

static void test_prefixes(void **state) {
  (void)state;
  static const int64_t prefixes[] = {1, 16, 63, 64, 70, 130};
  static const int64_t windows[] = {0, 1, 5, 16, 100};
  for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++)
    for (size_t j = 0; j < sizeof windows / sizeof windows[0]; j++)
      shape_check((shape){.length = {66, 3, 1},
                          .H = 4,
                          .HK = 2,
                          .D = 12,
                          .P = prefixes[i],
                          .window = windows[j],
                          .sinks = i % 2 == 0});
}

static const shape packed[] = {
    {.length = {1, 3, 64, 65}, .H = 4, .HK = 4, .D = 24},
    {.length = {65, 64, 3, 1, 1}, .H = 8, .HK = 1, .D = 20, .window = 16, .sinks = true},
    {.length = {130, 1, 200, 64}, .H = 4, .HK = 2, .D = 64, .sinks = true},
    /* more than are in one wave of a prefix */
    {.length = {65, 3, 64, 1, 2, 70, 5, 66, 1, 9},
     .H = 4,
     .HK = 2,
     .D = 16,
     .P = 70,
     .window = 90,
     .sinks = true},
};
enum { PACKED = sizeof packed / sizeof packed[0] };

static void test_sequences(void **state) {
  (void)state;
  for (int i = 0; i < PACKED; i++) shape_check(packed[i]);
}

static void test_sharp_softmax(void **state) {
  (void)state;
  problem p = problem_make((shape){.length = {100}, .H = 2, .HK = 1, .D = 16, .spread = 200, .sinks = true});
  expected e = reference(&p);
  for (int i = 0; ie_device_isa_list()[i]; i++) {
    answer a = answer_of(&p, ie_device_isa_list()[i], 1);
    for (int64_t j = 0; j < p.T * 2 * 16; j++) /* logits of 200: their rounding is 2e-5 */
      assert_true(fabs((double)a.x[Y][j] - e.x[Y][j]) < 1e-4 && fabs((double)a.x[DQ][j] - e.x[DQ][j]) < 2e-3);
    answer_free(&a);
  }
  expected_free(&e);
  problem_free(&p);
}

static void test_one_thread_is_n(void **state) {
  (void)state;
  for (int i = 0; i < PACKED; i++) {
    problem p = problem_make(packed[i]);
    for (int j = 0; ie_device_isa_list()[j]; j++) {
      answer one = answer_of(&p, ie_device_isa_list()[j], 1);
      for (int threads = 2; threads <= 5; threads += 3) {
        answer many = answer_of(&p, ie_device_isa_list()[j], threads);
        answers_equal(&p, &one, &many);
        answer_free(&many);
      }
      answer_free(&one);
    }
    problem_free(&p);
  }
}

/* To the bit, also where gradients of several sequences are added: those of a prefix and of sinks. */
static void test_packed_is_apart(void **state) {
  (void)state;
  for (int i = 0; i < PACKED; i++) {
    problem p = problem_make(packed[i]);
    for (int j = 0; ie_device_isa_list()[j]; j++) {
      answer together = answer_of(&p, ie_device_isa_list()[j], 2), apart = answer_make(&p);
      ie_device *device = open_device(ie_device_isa_list()[j], 2);
      int64_t t = 0;
      for (int s = 0; s < SEQUENCES && p.dim.length[s]; t += p.dim.length[s++])
        launch(&p, device, t, t + p.dim.length[s], &apart);
      answers_equal(&p, &together, &apart);
      ie_device_free(device);
      answer_free(&together);
      answer_free(&apart);
    }
    problem_free(&p);
  }
}

/* A gradient that is not asked for changes no other. */
static void test_gradients_not_wanted(void **state) {
  (void)state;
  problem p = problem_make((shape){.length = {70, 20}, .H = 4, .HK = 2, .D = 16, .P = 9, .sinks = true});
  answer all = answer_of(&p, NULL, 2);
  ie_device *device = open_device(NULL, 2);
  int64_t n[RESULTS];
  counts_of(&p, n);
  for (int skip = 0; skip < BUFFERS; skip++) {
    answer a = answer_make(&p);
    real *kept = a.x[skip];
    a.x[skip] = NULL;
    launch(&p, device, 0, p.T, &a);
    for (int i = 0; i < RESULTS; i++)
      if (i != skip) assert_memory_equal(a.x[i], all.x[i], (size_t)n[i] * sizeof(real));
    for (int64_t j = 0; j < n[skip]; j++) assert_true(kept[j] == before(j));
    a.x[skip] = kept;
    answer_free(&a);
  }
  ie_device_free(device);
  answer_free(&all);
  problem_free(&p);
}

/* Pairs of a query and a key that it sees, by hand: 2 + 3 + 3 of the first sequence, 2 of the second. */
static void test_work_is_counted(void **state) {
  (void)state;
  enum { H = 2, D = 4, PREFIX = 1 };
  problem p = problem_make((shape){.length = {3, 1}, .H = H, .HK = 1, .D = D, .P = PREFIX, .window = 3});
  answer a = answer_make(&p);
  ie_device *device = open_device(NULL, 1);
  ie_tensor q = tensor(p.q, p.T, H, D), k = tensor(p.k, p.T, 1, D), v = tensor(p.v, p.T, 1, D);
  ie_tensor pk = tensor(p.pk, PREFIX, 1, D), pv = tensor(p.pv, PREFIX, 1, D);
  ie_tensor y = tensor(a.x[Y], p.T, H * D, 1), lse = tensor(a.x[LSE], p.T, H, 1);
  ie_attention_inputs in = {&q, &k, &v, &pk, &pv};
  ie_batch batch = {.tokens = p.T, .position = p.position, .sequence = p.sequence};
  ie_attention_options options = {.scale = 1, .window = 3};
  ie_ctx *ctx = take(1, sizeof *ctx);
  *ctx = (ie_ctx){.device = device};
  assert_int_equal(ie_arena_open(16 << 20, &ctx->arena, NULL), IE_OK);
  device->ops.attention_train(ctx, &y, &lse, &in, &batch, &options);
  assert_int_equal(ctx->work.flop, 10 * 2 * 2 * H * D);
  ie_attention_grads to = {.q = a.x[DQ]};
  device->ops.attention_backward(ctx, &to, p.dy, &y, &lse, &in, &batch, &options);
  assert_int_equal(ctx->work.flop, 10 * 2 * (2 + 5) * H * D);
  ie_arena_close(&ctx->arena);
  free(ctx);
  ie_device_free(device);
  answer_free(&a);
  problem_free(&p);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_lengths),         cmocka_unit_test(test_head_dimensions),
      cmocka_unit_test(test_windows),         cmocka_unit_test(test_groups_of_heads),
      cmocka_unit_test(test_prefixes),        cmocka_unit_test(test_sequences),
      cmocka_unit_test(test_sharp_softmax),   cmocka_unit_test(test_one_thread_is_n),
      cmocka_unit_test(test_packed_is_apart), cmocka_unit_test(test_gradients_not_wanted),
      cmocka_unit_test(test_work_is_counted),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
