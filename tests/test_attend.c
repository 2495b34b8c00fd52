/* Attention against softmax in double precision, with windows, sinks and empty rows; and the promises of
 * kernels/attend.h: a row depends on its own keys alone, and what it does not see may hold anything. */
#include "base/float.h"
#include "base/rng.h"
#include "base/size.h"
#include "kernels/attend.h"
#include "support/amx_emulated.h"
#include "support/guard.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* int8 last: its rows have no NaN of their own. */
static const ie_dtype dtypes[] = {IE_F32, IE_F16, IE_BF16, IE_I8};
enum { FLOATS = 3, DTYPES = 4 };
static ie_kernels kernels[IE_ISA_COUNT + 1]; /* scalar first, AMX in emulation last */
static int kernel_count;

static int kernels_setup(void **state) {
  (void)state;
  ie_isa best = ie_isa_best();
  ie_kernels_fill_vector__scalar(&kernels[kernel_count++]);
#if defined(__x86_64__)
  if (best >= IE_ISA_AVX2) {
    kernels[kernel_count].isa = IE_ISA_AVX2;
    ie_kernels_fill_vector__avx2(&kernels[kernel_count++]);
  }
  if (best >= IE_ISA_AVX512) {
    kernels[kernel_count].isa = IE_ISA_AVX512;
    ie_kernels_fill_vector__avx512(&kernels[kernel_count++]);
    ie_kernels_fill_vector__avx512(&kernels[kernel_count]);
    ie_kernels_fill_attend__amx_emulated(&kernels[kernel_count]);
    kernels[kernel_count].isa = IE_ISA_AMX;
    kernels[kernel_count].attend = kernels[kernel_count].attend_many;
    kernel_count++;
  }
#endif
  print_message("instruction sets: %d\n", kernel_count);
  return best >= IE_ISA_AVX2 && kernel_count == 1;
}

/* --- A case ---------------------------------------------------------------------------------------------------- */

typedef struct shape {
  int64_t N, S, D;
  ie_dtype dtype;
  int64_t q_gap, kv_gap; /* elements between rows */
  float spread;          /* of the queries: large ones make sharp softmaxes */
} shape;

typedef struct problem {
  shape dim;
  ie_attend_args args; /* m, l, acc unset */
  float *q;
  void *k, *v;
  uint16_t *k_scale, *v_scale; /* of int8 */
  double *kd, *vd;             /* (S, D), the exact values */
  int32_t *lo, *hi;
  float *sink; /* (N); -inf: none */
} problem;

typedef struct answer {
  float *m, *l, *acc;
} answer;

static float uniform(uint64_t stream, int64_t i) {
  return 2 * ie_rng_f32(11, stream, (uint64_t)i) - 1;
}

static void kv_fill(const problem *p, void *to, double *exact, uint64_t stream) {
  int64_t D = p->dim.D, stride = p->args.kv_stride;
  size_t size = ie_dtype_bytes(p->dim.dtype);
  for (int64_t s = 0; s < p->dim.S; s++) {
    for (int64_t d = 0; d < D; d++) {
      float x = uniform(stream, s * D + d), back;
      uint8_t *at = (uint8_t *)to + (size_t)(s * stride + d) * size;
      kernels[0].store(at, p->dim.dtype, &x, 1);
      kernels[0].load(&back, at, p->dim.dtype, 1);
      exact[s * D + d] = back;
    }
  }
}

/* A scale of 0.3 / 127 to 1 / 127 in bf16. */
static uint16_t scale_at(uint64_t stream, int64_t i) {
  return ie_f32_to_bf16((0.65f + 0.35f * uniform(stream, i)) / 127);
}

static void int8_fill(const problem *p) {
  int64_t D = p->dim.D;
  for (int64_t i = 0; i < ie_div_up(p->dim.S, IE_KV_GROUP) * D; i++) p->k_scale[i] = scale_at(7, i);
  for (int64_t s = 0; s < p->dim.S; s++) {
    p->v_scale[s] = scale_at(8, s);
    for (int64_t d = 0; d < D; d++) {
      int64_t at = s * p->args.kv_stride + d;
      int8_t k = (int8_t)rintf(127 * uniform(1, s * D + d)), v = (int8_t)rintf(127 * uniform(2, s * D + d));
      ((int8_t *)p->k)[at] = k;
      ((int8_t *)p->v)[at] = v;
      p->kd[s * D + d] = k * (double)ie_bf16_to_f32(p->k_scale[s / IE_KV_GROUP * D + d]);
      p->vd[s * D + d] = v * (double)ie_bf16_to_f32(p->v_scale[s]);
    }
  }
}

/* Rows see everything; the gaps between rows, and what guard_alloc gave, are NaN. */
static problem problem_make(shape dim) {
  problem p = {.dim = dim};
  size_t size = ie_dtype_bytes(dim.dtype);
  int64_t q_stride = dim.D + dim.q_gap, kv_stride = dim.D + dim.kv_gap;
  /* The last row has no gap behind it: its last element is the last of the memory. */
  p.q = guard_alloc((size_t)((dim.N - 1) * q_stride + dim.D) * sizeof(float));
  p.k = guard_alloc((size_t)((dim.S - 1) * kv_stride + dim.D) * size);
  p.v = guard_alloc((size_t)((dim.S - 1) * kv_stride + dim.D) * size);
  p.kd = guard_alloc((size_t)(dim.S * dim.D) * sizeof(double));
  p.vd = guard_alloc((size_t)(dim.S * dim.D) * sizeof(double));
  p.lo = guard_alloc((size_t)dim.N * sizeof(int32_t));
  p.hi = guard_alloc((size_t)dim.N * sizeof(int32_t));
  p.sink = guard_alloc((size_t)dim.N * sizeof(float));
  p.k_scale = guard_alloc((size_t)(ie_div_up(dim.S, IE_KV_GROUP) * dim.D) * sizeof(uint16_t));
  p.v_scale = guard_alloc((size_t)dim.S * sizeof(uint16_t));
  p.args = (ie_attend_args){.q = p.q,
                            .q_stride = q_stride,
                            .k = p.k,
                            .v = p.v,
                            .kv_stride = kv_stride,
                            .kv_dtype = dim.dtype,
                            .k_scale = p.k_scale,
                            .v_scale = p.v_scale,
                            .lo = p.lo,
                            .hi = p.hi,
                            .N = dim.N,
                            .S = dim.S,
                            .D = dim.D,
                            .scale = 1 / sqrtf((float)dim.D)};
  if (dim.dtype == IE_I8) {
    int8_fill(&p);
  } else {
    kv_fill(&p, p.k, p.kd, 1);
    kv_fill(&p, p.v, p.vd, 2);
  }
  for (int64_t n = 0; n < dim.N; n++) {
    for (int64_t d = 0; d < dim.D; d++) p.q[n * q_stride + d] = dim.spread * uniform(3, n * dim.D + d);
    p.lo[n] = 0, p.hi[n] = (int32_t)dim.S;
    p.sink[n] = -INFINITY;
  }
  return p;
}

static void problem_free(problem *p) {
  guard_free(p->q), guard_free(p->k), guard_free(p->v), guard_free(p->kd), guard_free(p->vd);
  guard_free(p->k_scale), guard_free(p->v_scale), guard_free(p->lo), guard_free(p->hi), guard_free(p->sink);
}

static answer answer_make(const problem *p) {
  answer a = {guard_alloc((size_t)p->dim.N * sizeof(float)), guard_alloc((size_t)p->dim.N * sizeof(float)),
              guard_alloc((size_t)(p->dim.N * p->dim.D) * sizeof(float))};
  for (int64_t n = 0; n < p->dim.N; n++) {
    a.m[n] = p->sink[n];
    a.l[n] = isinf(p->sink[n]) ? 0.0f : 1.0f;
  }
  for (int64_t i = 0; i < p->dim.N * p->dim.D; i++) a.acc[i] = 0;
  return a;
}

static void answer_free(answer *a) {
  guard_free(a->m), guard_free(a->l), guard_free(a->acc);
}

static answer answer_of(const problem *p, const ie_kernels *by) {
  answer a = answer_make(p);
  ie_attend_args args = p->args;
  args.m = a.m, args.l = a.l, args.acc = a.acc;
  by->attend(&args);
  return a;
}

/* --- The reference ---------------------------------------------------------------------------------------------- */

/* out (D) of row n in double; returns the sum of exponentials, *largest the largest logit, sink included. */
static double reference_row(const problem *p, int64_t n, double *out, double *largest) {
  int64_t D = p->dim.D;
  double *logit = calloc((size_t)p->dim.S + 1, sizeof *logit), most = p->sink[n], sum = 0;
  assert_non_null(logit);
  for (int64_t s = p->lo[n]; s < p->hi[n]; s++) {
    double dot = 0;
    for (int64_t d = 0; d < D; d++) dot += (double)p->q[n * p->args.q_stride + d] * p->kd[s * D + d];
    logit[s] = dot * (double)p->args.scale;
    most = fmax(most, logit[s]);
  }
  for (int64_t d = 0; d < D; d++) out[d] = 0;
  if (!isinf(p->sink[n])) sum = exp((double)p->sink[n] - most);
  for (int64_t s = p->lo[n]; s < p->hi[n]; s++) {
    double weight = exp(logit[s] - most);
    sum += weight;
    for (int64_t d = 0; d < D; d++) out[d] += weight * p->vd[s * D + d];
  }
  for (int64_t d = 0; d < D && sum > 0; d++) out[d] /= sum;
  free(logit);
  *largest = most;
  return sum;
}

/* Values are at most 1 in size, so are outputs: tolerances are absolute. A sharp softmax multiplies the rounding of
 * its logits (about 1e-7 times their size). */
static void answer_check(const problem *p, const answer *a, const ie_kernels *by) {
  double out[512], largest;
  double tolerance = 1.5e-6 * fmax(1, p->dim.spread);
  /* Half a quantum of each query's number and of each weight, added at random; int8 has lost a hundred times as much. */
  if (p->args.integers && by->isa == IE_ISA_AVX512) tolerance *= 20;
  assert_true(p->dim.D <= 512);
  for (int64_t n = 0; n < p->dim.N; n++) {
    double sum = reference_row(p, n, out, &largest);
    if (p->lo[n] >= p->hi[n]) { /* nothing was seen: nothing changed */
      assert_true(ie_f32_bits(a->m[n]) == ie_f32_bits(p->sink[n]) &&
                  a->l[n] == (isinf(p->sink[n]) ? 0.0f : 1.0f));
      for (int64_t d = 0; d < p->dim.D; d++) assert_true(a->acc[n * p->dim.D + d] == 0);
      continue;
    }
    bool near =
        fabs((double)a->m[n] - largest) <= tolerance && fabs((double)a->l[n] / sum - 1) <= 2 * tolerance;
    for (int64_t d = 0; d < p->dim.D; d++) {
      double found = (double)a->acc[n * p->dim.D + d] / (double)a->l[n];
      if (near && fabs(found - out[d]) <= tolerance) continue;
      fail_msg("%s %s N %td S %td D %td: row %td [%d, %d), element %td: expected %.8f, found %.8f (m %g %g, "
               "l %g %g)",
               ie_isa_name(by->isa), ie_dtype_name(p->dim.dtype), (ptrdiff_t)p->dim.N, (ptrdiff_t)p->dim.S,
               (ptrdiff_t)p->dim.D, (ptrdiff_t)n, (int)p->lo[n], (int)p->hi[n], (ptrdiff_t)d, out[d], found,
               largest, (double)a->m[n], sum, (double)a->l[n]);
    }
  }
}

static void problem_check(const problem *p) {
  for (int k = 0; k < kernel_count; k++) {
    answer a = answer_of(p, &kernels[k]);
    answer_check(p, &a, &kernels[k]);
    answer_free(&a);
  }
}

/* --- Tests -------------------------------------------------------------------------------------------------------- */

static const int64_t dims[] = {1, 2, 7, 8, 16, 20, 24, 33, 64, 72, 80, 96, 128, 255, 256, 257, 320};
static const int64_t runs[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 257};
static const int64_t counts[] = {1, 2, 3, 4, 5, 8, 13};
enum { DIMS = sizeof dims / sizeof dims[0], RUNS = sizeof runs / sizeof runs[0] };
enum { COUNTS = sizeof counts / sizeof counts[0] };

static void test_shapes(void **state) {
  (void)state;
  int turn = 0;
  for (int i = 0; i < DIMS; i++) {
    for (int j = 0; j < RUNS; j++) {
      for (int t = 0; t < DTYPES; t++) {
        shape dim = {
            .N = counts[turn++ % COUNTS], .S = runs[j], .D = dims[i], .dtype = dtypes[t], .spread = 1};
        problem p = problem_make(dim);
        problem_check(&p);
        problem_free(&p);
      }
    }
  }
}

static void test_strides(void **state) {
  (void)state;
  for (int t = 0; t < DTYPES; t++) {
    shape dim = {.N = 6, .S = 75, .D = 40, .dtype = dtypes[t], .q_gap = 3, .kv_gap = 5, .spread = 1};
    problem p = problem_make(dim);
    problem_check(&p);
    problem_free(&p);
  }
}

/* Logits of some tens: the largest one rules, nothing overflows. */
static void test_sharp(void **state) {
  (void)state;
  shape dim = {.N = 8, .S = 200, .D = 64, .dtype = IE_F32, .spread = 40};
  problem p = problem_make(dim);
  problem_check(&p);
  p.args.scale = 20; /* logits up to thousands: one weight is 1, the others are 0 */
  for (int k = 0; k < kernel_count; k++) {
    answer a = answer_of(&p, &kernels[k]);
    for (int64_t n = 0; n < dim.N; n++)
      assert_true(isfinite(a.m[n]) && a.l[n] >= 1.0f && isfinite(a.acc[n * dim.D]));
    answer_free(&a);
  }
  problem_free(&p);
}

/* Causal, window, window of one, random, empty. */
static void ranges_set(problem *p, int kind) {
  int64_t N = p->dim.N, S = p->dim.S;
  for (int64_t n = 0; n < N; n++) {
    int64_t lo = 0, hi = ie_max_i64(0, S - N + n + 1);
    if (kind == 1) lo = ie_max_i64(0, hi - 20);
    if (kind == 2) lo = ie_max_i64(0, hi - 1);
    if (kind >= 3) {
      lo = (int64_t)(ie_rng_u64(5, (uint64_t)kind, 2 * (uint64_t)n) % (uint64_t)(S + 1));
      hi = (int64_t)(ie_rng_u64(5, (uint64_t)kind, 2 * (uint64_t)n + 1) % (uint64_t)(S + 1));
      if (hi < lo && n % 3) hi = lo;
    }
    p->lo[n] = (int32_t)lo, p->hi[n] = (int32_t)hi;
    if (n % 4 == 1) p->sink[n] = uniform(6, n) * 3;
  }
}

static void test_ranges(void **state) {
  (void)state;
  static const int64_t lengths[] = {1, 40, 64, 130, 300};
  for (size_t j = 0; j < sizeof lengths / sizeof lengths[0]; j++) {
    for (int kind = 0; kind < 6; kind++) {
      for (int t = 0; t < DTYPES; t++) {
        shape dim = {.N = 23, .S = lengths[j], .D = 72, .dtype = dtypes[t], .spread = 2};
        problem p = problem_make(dim);
        ranges_set(&p, kind);
        problem_check(&p);
        problem_free(&p);
      }
    }
  }
}

/* More rows than kernels take together: 32 (a block of tiles), and what fits their packed queries. */
static void test_many_rows(void **state) {
  (void)state;
  static const struct { int64_t N, S, D; } sizes[] = {{70, 90, 64}, {33, 200, 20}, {150, 70, 256}};
  for (int i = 0; i < 3; i++) {
    for (int t = 0; t < DTYPES; t++) {
      shape dim = {.N = sizes[i].N, .S = sizes[i].S, .D = sizes[i].D, .dtype = dtypes[t], .spread = 2};
      problem p = problem_make(dim);
      ranges_set(&p, i + t % 2);
      problem_check(&p);
      problem_free(&p);
    }
  }
}

/* A key just outside a range on either side would rule the softmax if it were seen. */
static void test_range_ends(void **state) {
  (void)state;
  static const int32_t ends[][2] = {{0, 1}, {3, 17}, {15, 33}, {16, 64}, {63, 65}, {64, 128}, {1, 129}};
  for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
    shape dim = {.N = 8, .S = 130, .D = 64, .dtype = IE_F32, .spread = 1};
    problem p = problem_make(dim);
    for (int64_t n = 0; n < dim.N; n++) {
      p.lo[n] = ends[i][0], p.hi[n] = ends[i][1];
      for (int64_t d = 0; d < dim.D; d++) p.q[n * dim.D + d] = 1;
    }
    for (int side = 0; side < 2; side++) {
      int64_t outside = side ? ends[i][1] : ends[i][0] - 1, inside = side ? ends[i][1] - 1 : ends[i][0];
      for (int64_t d = 0; d < dim.D; d++) {
        if (outside >= 0)
          ((float *)p.k)[outside * dim.D + d] = 50, ((float *)p.v)[outside * dim.D + d] = 1000;
        /* and the last one inside must be seen */
        ((float *)p.k)[inside * dim.D + d] = 10, ((float *)p.v)[inside * dim.D + d] = -(float)(2 + side);
      }
    }
    bool one = ends[i][1] - ends[i][0] == 1;
    for (int k = 0; k < kernel_count; k++) {
      answer a = answer_of(&p, &kernels[k]);
      for (int64_t n = 0; n < dim.N * dim.D; n++)
        assert_true(fabsf(a.acc[n] / a.l[n / dim.D] - (one ? -3.0f : -2.5f)) < 1e-5f);
      answer_free(&a);
    }
    problem_free(&p);
  }
}

/* Each row alone gives the bits that it gives among others, also when a neighbour sees NaN. */
static void test_rows_are_independent(void **state) {
  (void)state;
  for (int t = 0; t < DTYPES; t++) {
    for (int kind = 0; kind < 5; kind++) {
      shape dim = {.N = 21, .S = 150, .D = 80, .dtype = dtypes[t], .spread = 2};
      problem p = problem_make(dim);
      ranges_set(&p, kind);
      for (int k = 0; k < kernel_count; k++) {
        answer all = answer_of(&p, &kernels[k]);
        for (int64_t n = 0; n < dim.N; n++) {
          problem one = p;
          one.dim.N = one.args.N = 1;
          one.args.q = one.q = p.q + n * dim.D;
          one.args.lo = one.lo = p.lo + n, one.args.hi = one.hi = p.hi + n, one.sink = p.sink + n;
          answer a = answer_of(&one, &kernels[k]);
          assert_memory_equal(a.m, all.m + n, sizeof(float));
          assert_memory_equal(a.l, all.l + n, sizeof(float));
          assert_memory_equal(a.acc, all.acc + n * dim.D, (size_t)dim.D * sizeof(float));
          answer_free(&a);
        }
        answer_free(&all);
      }
      problem_free(&p);
    }
  }
}

/* The kernel for eight rows that see whole tiles gives the bits of the general one, which takes rows one by one; with
 * gaps between the rows, a first and last tile that is not whole, and head dimensions that it leaves to the other. */
static void test_eight_rows_are_eight_times_one(void **state) {
  (void)state;
  static const int64_t widths[] = {64, 128, 96};
  for (int i = 0; i < 3 * DTYPES * 2; i++) {
    shape dim = {.N = 8, .S = 330, .D = widths[i % 3], .dtype = dtypes[i / 3 % DTYPES], .spread = 3};
    if (i >= 3 * DTYPES) dim.q_gap = 3, dim.kv_gap = 5;
    problem p = problem_make(dim);
    for (int64_t n = 0; n < dim.N; n++) p.lo[n] = 10, p.hi[n] = 325, p.sink[n] = n % 2 ? -INFINITY : 0.5f;
    p.hi[7] = 200; /* its later tiles are not those of all */
    for (int k = 0; k < kernel_count; k++) {
      answer all = answer_of(&p, &kernels[k]);
      answer_check(&p, &all, &kernels[k]);
      for (int64_t n = 0; n < dim.N; n++) {
        problem one = p;
        one.dim.N = one.args.N = 1;
        one.args.q = one.q = p.q + n * (dim.D + dim.q_gap);
        one.args.lo = one.lo = p.lo + n, one.args.hi = one.hi = p.hi + n, one.sink = p.sink + n;
        answer a = answer_of(&one, &kernels[k]);
        assert_memory_equal(a.m, all.m + n, sizeof(float));
        assert_memory_equal(a.l, all.l + n, sizeof(float));
        assert_memory_equal(a.acc, all.acc + n * dim.D, (size_t)dim.D * sizeof(float));
        answer_free(&a);
      }
      answer_free(&all);
    }
    problem_free(&p);
  }
}

/* int8 in 16-bit integers: near the reference, the same whoever computes it before or after; where a tile cannot be taken
 * so (a row of zeros, a NaN), the other way is taken, and a NaN is not hidden. */
static void test_integers(void **state) {
  (void)state;
  for (int i = 0; i < 8; i++) {
    shape dim = {.N = 8, .S = 64 * (1 + i), .D = i % 2 ? 128 : 64, .dtype = IE_I8, .spread = i < 4 ? 1 : 6};
    if (i % 3 == 2) dim.q_gap = 3, dim.kv_gap = 5;
    problem p = problem_make(dim);
    for (int64_t n = 0; n < dim.N; n++) p.sink[n] = n % 2 ? -INFINITY : 0.5f;
    p.args.integers = true;
    problem_check(&p);
    for (int64_t d = 0; d < dim.D && i % 2; d++) p.q[2 * p.args.q_stride + d] = 0;
    p.args.scale = 1; /* sharp: weights of whole tiles vanish, and rounding of logits shows */
    p.dim.spread *= 10;
    problem_check(&p);
    for (int k = 0; k < kernel_count; k++) {
      answer one = answer_of(&p, &kernels[k]), two = answer_of(&p, &kernels[k]);
      assert_memory_equal(one.acc, two.acc, (size_t)(dim.N * dim.D) * sizeof(float));
      if (kernels[k].isa == IE_ISA_AVX512 && i % 2 == 0) { /* it does take another way */
        problem exact = p;
        exact.args.integers = false;
        answer other = answer_of(&exact, &kernels[k]);
        assert_memory_not_equal(one.acc, other.acc, (size_t)dim.D * sizeof(float));
        answer_free(&other);
      }
      uint16_t *scales[] = {p.k_scale + 5, p.v_scale + 40};
      for (int j = 0; j < 2; j++) {
        uint16_t kept = *scales[j];
        *scales[j] = 0x7FC0;
        answer bad = answer_of(&p, &kernels[k]);
        for (int64_t n = 0; n < dim.N; n++) assert_true(isnan(bad.acc[n * dim.D + 5] / bad.l[n]));
        *scales[j] = kept;
        answer_free(&bad);
      }
      answer_free(&one), answer_free(&two);
    }
    problem_free(&p);
  }
}

static void test_unseen_may_be_nan(void **state) {
  (void)state;
  for (int t = 0; t < FLOATS; t++) {
    shape dim = {.N = 9, .S = 140, .D = 64, .dtype = dtypes[t], .spread = 1};
    problem p = problem_make(dim);
    for (int64_t n = 0; n < dim.N; n++) p.lo[n] = 5, p.hi[n] = n == 4 ? 138 : 137;
    size_t row = (size_t)dim.D * ie_dtype_bytes(dim.dtype);
    static const int64_t bad[] = {0, 4, 137, 138, 139}; /* row 4 sees 137 */
    for (int k = 0; k < kernel_count; k++) {
      answer clean = answer_of(&p, &kernels[k]);
      uint8_t *kept_k = guard_alloc(row * (size_t)dim.S), *kept_v = guard_alloc(row * (size_t)dim.S);
      memcpy(kept_k, p.k, row * (size_t)dim.S), memcpy(kept_v, p.v, row * (size_t)dim.S);
      for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        memset((uint8_t *)p.k + (size_t)bad[i] * row, 0xFF, row);
        memset((uint8_t *)p.v + (size_t)bad[i] * row, 0xFF, row);
      }
      answer a = answer_of(&p, &kernels[k]);
      for (int64_t n = 0; n < dim.N; n++) {
        if (n == 4) {
          assert_true(isnan(a.acc[n * dim.D] / a.l[n])); /* never hidden from whom it concerns */
          continue;
        }
        assert_memory_equal(a.acc + n * dim.D, clean.acc + n * dim.D, (size_t)dim.D * sizeof(float));
        assert_true(a.l[n] == clean.l[n] && a.m[n] == clean.m[n]);
      }
      memcpy(p.k, kept_k, row * (size_t)dim.S), memcpy(p.v, kept_v, row * (size_t)dim.S);
      guard_free(kept_k), guard_free(kept_v);
      answer_free(&a), answer_free(&clean);
    }
    problem_free(&p);
  }
}

/* int8 says NaN in its scales: one of a value that nobody sees changes no bit, one that is seen is not hidden. */
static void test_unseen_scales_may_be_nan(void **state) {
  (void)state;
  shape dim = {.N = 3, .S = 128, .D = 40, .dtype = IE_I8, .spread = 1};
  problem p = problem_make(dim);
  for (int64_t n = 0; n < dim.N; n++) p.lo[n] = 5, p.hi[n] = n == 1 ? 65 : 64;
  for (int k = 0; k < kernel_count; k++) {
    answer clean = answer_of(&p, &kernels[k]);
    uint16_t kept = p.v_scale[64], kept_key = p.k_scale[dim.D + 3];
    for (int kind = 0; kind < 2; kind++) {
      p.v_scale[4] = p.v_scale[66] = 0x7FC0;
      if (kind == 0)
        p.v_scale[64] = 0x7FC0;
      else
        p.k_scale[dim.D + 3] = 0x7FC0;
      answer a = answer_of(&p, &kernels[k]);
      assert_true(isnan(a.acc[dim.D + 3] / a.l[1]));
      for (int64_t n = 0; n < dim.N; n += 2) {
        assert_memory_equal(a.acc + n * dim.D, clean.acc + n * dim.D, (size_t)dim.D * sizeof(float));
        assert_true(a.l[n] == clean.l[n] && a.m[n] == clean.m[n]);
      }
      p.v_scale[64] = kept, p.k_scale[dim.D + 3] = kept_key;
      p.v_scale[4] = p.v_scale[66] = kept;
      answer_free(&a);
    }
    answer_free(&clean);
  }
  problem_free(&p);
}

/* Keys in several runs, as a ring buffer gives them, equal keys in one. */
static void test_runs_add_up(void **state) {
  (void)state;
  for (int t = 0; t < FLOATS; t++) {
    shape dim = {.N = 11, .S = 333, .D = 64, .dtype = dtypes[t], .spread = 3};
    problem p = problem_make(dim);
    ranges_set(&p, 1 + t);
    for (int k = 0; k < kernel_count; k++) {
      answer whole = answer_of(&p, &kernels[k]), parts = answer_make(&p);
      static const int64_t cuts[] = {0, 1, 64, 100, 228, 229, 333};
      int32_t lo[16], hi[16];
      for (int c = 0; c < 6; c++) {
        ie_attend_args args = p.args;
        size_t skip = (size_t)(cuts[c] * dim.D) * ie_dtype_bytes(dim.dtype);
        args.k = (uint8_t *)p.k + skip, args.v = (uint8_t *)p.v + skip, args.S = cuts[c + 1] - cuts[c];
        for (int64_t n = 0; n < dim.N; n++) {
          lo[n] = (int32_t)ie_min_i64(args.S, ie_max_i64(0, p.lo[n] - cuts[c]));
          hi[n] = (int32_t)ie_min_i64(args.S, ie_max_i64(0, p.hi[n] - cuts[c]));
        }
        args.lo = lo, args.hi = hi, args.m = parts.m, args.l = parts.l, args.acc = parts.acc;
        kernels[k].attend(&args);
      }
      for (int64_t i = 0; i < dim.N * dim.D; i++) {
        int64_t n = i / dim.D;
        if (p.lo[n] >= p.hi[n]) continue;
        assert_true(fabsf(parts.acc[i] / parts.l[n] - whole.acc[i] / whole.l[n]) <= 1e-6f);
      }
      answer_free(&whole), answer_free(&parts);
    }
    problem_free(&p);
  }
}

/* A sink takes weight and gives no value. */
static void test_sink(void **state) {
  (void)state;
  shape dim = {.N = 2, .S = 1, .D = 16, .dtype = IE_F32, .spread = 1};
  problem p = problem_make(dim);
  for (int64_t d = 0; d < dim.D; d++) p.q[d] = p.q[dim.D + d] = 0, ((float *)p.v)[d] = 1;
  p.sink[0] = 0;          /* as large as the one logit: half of the weight */
  p.sink[1] = logf(3.0f); /* three quarters */
  for (int k = 0; k < kernel_count; k++) {
    answer a = answer_of(&p, &kernels[k]);
    assert_true(fabsf(a.acc[3] / a.l[0] - 0.5f) < 1e-6f && fabsf(a.acc[dim.D + 3] / a.l[1] - 0.25f) < 1e-6f);
    answer_free(&a);
  }
  problem_free(&p);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_shapes),
      cmocka_unit_test(test_strides),
      cmocka_unit_test(test_sharp),
      cmocka_unit_test(test_ranges),
      cmocka_unit_test(test_many_rows),
      cmocka_unit_test(test_range_ends),
      cmocka_unit_test(test_rows_are_independent),
      cmocka_unit_test(test_eight_rows_are_eight_times_one),
      cmocka_unit_test(test_integers),
      cmocka_unit_test(test_runs_add_up),
      cmocka_unit_test(test_unseen_may_be_nan),
      cmocka_unit_test(test_sink),
      cmocka_unit_test(test_unseen_scales_may_be_nan),
  };
  return cmocka_run_group_tests(tests, kernels_setup, NULL);
}
