/* Vector kernels: every instruction set gives the bits of the scalar definition, and the definition the numbers of a
 * double-precision reference. Arrays end at a page without rights, and start at odd places. */
#include "base/float.h"
#include "base/rng.h"
#include "base/special.h"
#include "kernels/kern.h"
#include "support/guard.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const int64_t lengths[] = {1,  2,  3,  7,  8,  9,   15,  16,  17,   23,   31,   32,   33,
                                  47, 63, 64, 65, 97, 127, 128, 129, 1023, 1024, 1025, 2880, 2887};
enum { LENGTHS = sizeof lengths / sizeof lengths[0] };
static const ie_dtype dtypes[] = {IE_F32, IE_F16, IE_BF16};

static ie_kernels scalar, others[IE_ISA_COUNT];
static int other_count;

static int kernels_setup(void **state) {
  (void)state;
  ie_isa best = ie_isa_best();
  ie_kernels_fill_vector__scalar(&scalar);
#if defined(__x86_64__)
  if (best >= IE_ISA_AVX2) {
    others[other_count].isa = IE_ISA_AVX2;
    ie_kernels_fill_vector__avx2(&others[other_count++]);
  }
  if (best >= IE_ISA_AVX512) {
    others[other_count].isa = IE_ISA_AVX512;
    ie_kernels_fill_vector__avx512(&others[other_count++]);
  }
#endif
  print_message("instruction sets beside scalar: %d\n", other_count);
  return best >= IE_ISA_AVX2 && other_count == 0;
}

/* Normal numbers of about 1, reproducible. */
static float number(uint64_t stream, int64_t i) {
  double u = ie_rng_f64(7, stream, 2 * (uint64_t)i) + 1e-12, v = ie_rng_f64(7, stream, 2 * (uint64_t)i + 1);
  return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

static float *numbers(uint64_t stream, int64_t n) {
  float *x = guard_alloc((size_t)n * sizeof *x);
  for (int64_t i = 0; i < n; i++) x[i] = number(stream, i);
  return x;
}

static float *copy(const float *x, int64_t n) {
  float *y = guard_alloc((size_t)n * sizeof *y);
  memcpy(y, x, (size_t)n * sizeof *y);
  return y;
}

/* n numbers of dtype in guarded memory. */
static void *numbers_as(ie_dtype dtype, uint64_t stream, int64_t n) {
  float *x = numbers(stream, n);
  void *y = guard_alloc((size_t)n * ie_dtype_bytes(dtype));
  scalar.store(y, dtype, x, n);
  guard_free(x);
  return y;
}

static void assert_same(const float *x, const float *y, int64_t n, const char *what, ie_isa isa) {
  for (int64_t i = 0; i < n; i++)
    if (ie_f32_bits(x[i]) != ie_f32_bits(y[i]))
      fail_msg("%s %s: n = %td, element %td: scalar %a, found %a", what, ie_isa_name(isa), (ptrdiff_t)n,
               (ptrdiff_t)i, (double)x[i], (double)y[i]);
}

/* --- exp ----------------------------------------------------------------------------------------------------- */

static void test_exp(void **state) {
  (void)state;
  double worst = 0;
  for (uint32_t u = 0; u < 0xFF800000u; u += 4099) { /* prime: all exponents and signs, many mantissas */
    float x = ie_f32_from_bits(u);
    if (!(x > -110.0f && x < 88.72f)) continue;
    int exponent;
    double exact = exp((double)x);
    frexp(exact, &exponent);
    double ulp = ldexp(1, exponent - 24 < -149 ? -149 : exponent - 24);
    double off = fabs((double)ie_expf(x) - exact) / ulp;
    if (off > worst) worst = off;
  }
  print_message("exp: at most %.3f ulp off\n", worst);
  assert_true(worst > 0.4 && worst < 1.0);
  assert_true(ie_expf(0.0f) == 1.0f && ie_expf(-0.0f) == 1.0f);
  assert_true(ie_expf(-INFINITY) == 0.0f && ie_expf(-104.0f) == 0.0f && ie_expf(-103.0f) == 0x1p-149f);
  assert_true(ie_expf(INFINITY) == INFINITY && ie_expf(88.73f) == INFINITY && ie_expf(88.72f) < INFINITY);
  assert_true(isnan(ie_expf(NAN)));
}

/* --- rms_norm ------------------------------------------------------------------------------------------------ */

static void norm_check(int64_t n, const ie_dtype *dtype, uint64_t stream) {
  float *x = numbers(stream, n), *y = guard_alloc((size_t)n * sizeof *y),
        *z = guard_alloc((size_t)n * sizeof *z);
  void *weight = dtype ? numbers_as(*dtype, stream + 1, n) : NULL;
  float *w = guard_alloc((size_t)n * sizeof *w);
  if (weight) scalar.load(w, weight, *dtype, n);
  scalar.rms_norm(y, x, weight, dtype ? *dtype : IE_F32, n, 1e-5f);
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
  double scale = 1 / sqrt(sum / (double)n + 1e-5);
  for (int64_t i = 0; i < n; i++) {
    double exact = (double)x[i] * scale * (weight ? (double)w[i] : 1.0);
    assert_true(fabs((double)y[i] - exact) <= 6e-7 * fabs(exact));
  }
  for (int k = 0; k < other_count; k++) {
    others[k].rms_norm(z, x, weight, dtype ? *dtype : IE_F32, n, 1e-5f);
    assert_same(y, z, n, "rms_norm", others[k].isa);
    float *in_place = copy(x, n);
    others[k].rms_norm(in_place, in_place, weight, dtype ? *dtype : IE_F32, n, 1e-5f);
    assert_same(y, in_place, n, "rms_norm in place", others[k].isa);
    guard_free(in_place);
  }
  guard_free(x), guard_free(y), guard_free(z), guard_free(w), guard_free(weight);
}

static void test_rms_norm(void **state) {
  (void)state;
  for (int i = 0; i < LENGTHS; i++) {
    norm_check(lengths[i], NULL, 10);
    for (int d = 0; d < 3; d++) norm_check(lengths[i], &dtypes[d], 20);
  }
}

/* --- layer_norm ---------------------------------------------------------------------------------------------- */

/* Numbers around `middle`: the variance is that of the numbers, not of what the mean leaves. */
static void layer_norm_check(int64_t n, ie_dtype dtype, float middle) {
  float *x = numbers(90, n), *y = guard_alloc((size_t)n * sizeof *y), *z = guard_alloc((size_t)n * sizeof *z);
  float *w = guard_alloc((size_t)n * sizeof *w), *b = guard_alloc((size_t)n * sizeof *b);
  void *weight = numbers_as(dtype, 91, n), *bias = numbers_as(dtype, 92, n);
  for (int64_t i = 0; i < n; i++) x[i] += middle;
  scalar.load(w, weight, dtype, n), scalar.load(b, bias, dtype, n);
  scalar.layer_norm(y, x, weight, bias, dtype, n, 1e-5f);
  double mean = 0, variance = 0;
  for (int64_t i = 0; i < n; i++) mean += (double)x[i] / (double)n;
  for (int64_t i = 0; i < n; i++) variance += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
  for (int64_t i = 0; i < n; i++) {
    double scale = 1 / sqrt(variance + 1e-5),
           exact = ((double)x[i] - mean) * scale * (double)w[i] + (double)b[i];
    /* the mean is a float: half an ulp of it, times scale and weight */
    double bound = 6e-7 * (fabs(exact) + fabs((double)b[i])) +
                   (fabs((double)w[i]) * scale * (1 + fabs(mean)) + fabs(exact)) * 4e-7;
    if (fabs((double)y[i] - exact) > bound)
      fail_msg("layer_norm of %td, element %td: expected %.9g, found %.9g", (ptrdiff_t)n, (ptrdiff_t)i, exact,
               (double)y[i]);
  }
  for (int k = 0; k < other_count; k++) {
    others[k].layer_norm(z, x, weight, bias, dtype, n, 1e-5f);
    assert_same(y, z, n, "layer_norm", others[k].isa);
    float *in_place = copy(x, n);
    others[k].layer_norm(in_place, in_place, weight, bias, dtype, n, 1e-5f);
    assert_same(y, in_place, n, "layer_norm in place", others[k].isa);
    guard_free(in_place);
  }
  guard_free(x), guard_free(y), guard_free(z), guard_free(w), guard_free(b);
  guard_free(weight), guard_free(bias);
}

static void test_layer_norm(void **state) {
  (void)state;
  for (int i = 0; i < LENGTHS; i++)
    for (int d = 0; d < 3; d++) {
      layer_norm_check(lengths[i], dtypes[d], 0.0f);
      layer_norm_check(lengths[i], dtypes[d], 100.0f);
    }
}

/* --- activate, soft_cap -------------------------------------------------------------------------------------- */

/* What 1 + erf and 1 + tanh lose by cancellation on the left is taken from the tails instead. */
static double activation_exact(double x, ie_activation activation) {
  const double slope = 0.79788456080286535588; /* sqrt(2 / pi) */
  switch (activation) {
  case IE_GELU: return 0.5 * x * erfc(-x * 0.70710678118654752440);
  case IE_GELU_TANH: return x / (1 + exp(-2 * slope * (x + 0.044715 * x * x * x)));
  default: return x < 0 ? 0 : x * x;
  }
}

/* Over floats of all exponents and signs: the worst error beside the number, and beside the input. */
static void activation_measure(ie_activation activation, double *relative, double *absolute) {
  *relative = *absolute = 0;
  for (uint32_t u = 0; u < 0xFF800000u; u += 1021) {
    float x = ie_f32_from_bits(u), y = x;
    if (!(fabsf(x) < 1e18f)) continue;
    scalar.activate(&y, 1, activation);
    double exact = activation_exact((double)x, activation), off = fabs((double)y - exact);
    if (fabs(exact) > 1e-30) *relative = fmax(*relative, off / fabs(exact));
    *absolute = fmax(*absolute, off / fmax(1, fabs(exact)));
  }
}

/* base/special.h and kern.h state these bounds. The reference's own f32 sums are 1e-7 off near 0. */
static void test_activate_numbers(void **state) {
  (void)state;
  static const struct {
    const char *name;
    ie_activation activation;
    double relative, absolute;
  } cases[] = {{"gelu", IE_GELU, 5e-6, 1.2e-7},
               {"gelu tanh", IE_GELU_TANH, 1.3e-5, 1.5e-7},
               {"relu2", IE_RELU2, 6e-8, 6e-8}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    double relative, absolute;
    activation_measure(cases[i].activation, &relative, &absolute);
    print_message("%s: at most %.2e off, %.2e of the number itself\n", cases[i].name, absolute, relative);
    assert_true(relative > 1e-8 && relative < cases[i].relative && absolute < cases[i].absolute);
  }
  float zero[2] = {0.0f, -0.0f};
  scalar.activate(zero, 2, IE_GELU);
  assert_true(zero[0] == 0 && !signbit(zero[0]) && zero[1] == 0 && signbit(zero[1]));
}

static void test_tanh(void **state) {
  (void)state;
  double worst = 0;
  for (uint32_t u = 0; u < 0xFF800000u; u += 1021) {
    float x = ie_f32_from_bits(u);
    if (!(x == x)) continue;
    double exact = tanh((double)x);
    if (fabs(exact) < 0x1p-125) {
      assert_true(ie_tanhf(x) == x); /* subnormal inputs come back */
      continue;
    }
    int exponent;
    frexp(exact, &exponent);
    worst = fmax(worst, fabs((double)ie_tanhf(x) - exact) / ldexp(1, exponent - 24));
  }
  print_message("tanh: at most %.3f ulp off\n", worst);
  assert_true(worst > 0.4 && worst < 1.5);
  assert_true(ie_tanhf(INFINITY) == 1.0f && ie_tanhf(-INFINITY) == -1.0f && isnan(ie_tanhf(NAN)));
}

/* A function of one number in place. */
typedef void (*in_place_fn)(const ie_kernels *kernels, float *x, int64_t n);
static void run_gelu(const ie_kernels *kernels, float *x, int64_t n) {
  kernels->activate(x, n, IE_GELU);
}
static void run_gelu_tanh(const ie_kernels *kernels, float *x, int64_t n) {
  kernels->activate(x, n, IE_GELU_TANH);
}
static void run_relu2(const ie_kernels *kernels, float *x, int64_t n) {
  kernels->activate(x, n, IE_RELU2);
}
static void run_soft_cap(const ie_kernels *kernels, float *x, int64_t n) {
  kernels->soft_cap(x, n, 15.0f);
}

static void in_place_check(const char *name, in_place_fn run, const float *start, int64_t n) {
  float *y = copy(start, n);
  run(&scalar, y, n);
  for (int k = 0; k < other_count; k++) {
    float *z = copy(start, n);
    run(&others[k], z, n);
    for (int64_t i = 0; i < n; i++)
      if (isnan(y[i]) && isnan(z[i])) z[i] = y[i]; /* any NaN */
    assert_same(y, z, n, name, others[k].isa);
    guard_free(z);
  }
  guard_free(y);
}

static void test_activate_bits(void **state) {
  (void)state;
  static const struct {
    const char *name;
    in_place_fn run;
  } cases[] = {
      {"gelu", run_gelu}, {"gelu tanh", run_gelu_tanh}, {"relu2", run_relu2}, {"soft_cap", run_soft_cap}};
  enum { ALL = 1 << 20 };
  float *all = guard_alloc(ALL * sizeof *all);
  for (uint32_t i = 0; i < ALL; i++) all[i] = ie_f32_from_bits(i * 4096u + (i * 2654435761u >> 20));
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    for (int i = 0; i < LENGTHS; i++) {
      float *x = numbers(95, lengths[i]);
      for (int64_t j = 0; j < lengths[i]; j++) x[j] *= 6.0f;
      in_place_check(cases[c].name, cases[c].run, x, lengths[i]);
      guard_free(x);
    }
    in_place_check(cases[c].name, cases[c].run, all, ALL);
  }
  guard_free(all);
}

static void test_soft_cap(void **state) {
  (void)state;
  for (int i = 0; i < LENGTHS; i++) {
    int64_t n = lengths[i];
    float *x = numbers(96, n), *y;
    for (int64_t j = 0; j < n; j++) x[j] *= 20.0f;
    y = copy(x, n);
    scalar.soft_cap(y, n, 15.0f);
    for (int64_t j = 0; j < n; j++) {
      double exact = 15 * tanh((double)x[j] / 15);
      assert_true(fabs((double)y[j] - exact) <= 4e-7 * fabs(exact));
    }
    guard_free(x), guard_free(y);
  }
}

/* --- rope, swiglu, axpy ---------------------------------------------------------------------------------------- */

static void test_rope_half(void **state) {
  (void)state;
  for (int i = 0; i < LENGTHS; i++) {
    int64_t half = lengths[i], n = 2 * half;
    float *x = numbers(30, n), *y = copy(x, n), *angle = numbers(31, half);
    float *c = guard_alloc((size_t)half * sizeof *c), *s = guard_alloc((size_t)half * sizeof *s);
    for (int64_t j = 0; j < half; j++) c[j] = cosf(angle[j]), s[j] = sinf(angle[j]);
    scalar.rope_half(y, c, s, n);
    for (int64_t j = 0; j < half; j++) {
      double a = x[j], b = x[j + half];
      assert_true(fabs((double)y[j] - (a * c[j] - b * s[j])) <= 2e-7 * (fabs(a) + fabs(b)));
      assert_true(fabs((double)y[j + half] - (b * c[j] + a * s[j])) <= 2e-7 * (fabs(a) + fabs(b)));
    }
    for (int k = 0; k < other_count; k++) {
      float *z = copy(x, n);
      others[k].rope_half(z, c, s, n);
      assert_same(y, z, n, "rope_half", others[k].isa);
      guard_free(z);
    }
    guard_free(x), guard_free(y), guard_free(angle), guard_free(c), guard_free(s);
  }
}

static void swiglu_check(int64_t n, float spread, float alpha, float limit) {
  float *gu = numbers(40, 2 * n), *y = guard_alloc((size_t)n * sizeof *y),
        *z = guard_alloc((size_t)n * sizeof *z);
  for (int64_t i = 0; i < 2 * n; i++) gu[i] *= spread;
  scalar.swiglu_clamped(y, gu, n, alpha, limit);
  for (int64_t i = 0; i < n; i++) {
    double g = fmin(gu[2 * i], limit), u = fmin(fmax(gu[2 * i + 1], -(double)limit), limit);
    double exact = (u + 1) * g / (1 + exp(-(double)alpha * g));
    /* exp carries the rounding of alpha g: half an ulp of up to 90 is 4e-6 of exp */
    if (fabs((double)y[i] - exact) > 6e-6 * fabs(exact) + 1e-36)
      fail_msg("swiglu of (%a, %a): expected %.9g, found %.9g", (double)gu[2 * i], (double)gu[2 * i + 1],
               exact, (double)y[i]);
  }
  for (int k = 0; k < other_count; k++) {
    others[k].swiglu_clamped(z, gu, n, alpha, limit);
    assert_same(y, z, n, "swiglu_clamped", others[k].isa);
  }
  guard_free(gu), guard_free(y), guard_free(z);
}

static void test_swiglu(void **state) {
  (void)state;
  for (int i = 0; i < LENGTHS; i++) {
    swiglu_check(lengths[i], 1.0f, 1.702f, 7.0f);
    swiglu_check(lengths[i], 6.0f, 1.702f, 7.0f);
    swiglu_check(lengths[i], 20.0f, 1.0f, INFINITY);
  }
}

static void test_swiglu_edges(void **state) {
  (void)state;
  const float gu[] = {100, 100, 100, -100, -100, 100, -500, 1, 0, 5, NAN, 1, 1, NAN, 7, -7, 3, -1, -40, 2};
  float y[10], z[10];
  scalar.swiglu_clamped(y, gu, 10, 1.702f, 7.0f);
  assert_true(fabsf(y[0] - 8 * 7.0f) < 1e-3f);  /* both at the upper limit */
  assert_true(fabsf(y[1] - -6 * 7.0f) < 1e-3f); /* up has a lower limit, */
  assert_true(y[2] == 0 && signbit(y[2]));      /* the gate none: -100 e^-170 */
  assert_true(y[3] == 0 && y[4] == 0 && isnan(y[5]) && isnan(y[6]));
  for (int k = 0; k < other_count; k++) {
    others[k].swiglu_clamped(z, gu, 10, 1.702f, 7.0f);
    for (int i = 0; i < 10; i++) assert_true(y[i] == z[i] || (isnan(y[i]) && isnan(z[i])));
  }
}

static void test_axpy(void **state) {
  (void)state;
  for (int i = 0; i < LENGTHS; i++) {
    int64_t n = lengths[i];
    float *x = numbers(50, n), *start = numbers(51, n), *y = copy(start, n);
    scalar.axpy(y, x, 0.37f, n);
    for (int64_t j = 0; j < n; j++)
      assert_true(fabs((double)y[j] - ((double)start[j] + 0.37 * (double)x[j])) <=
                  3e-7 * (1 + fabs((double)x[j])));
    for (int k = 0; k < other_count; k++) {
      float *z = copy(start, n);
      others[k].axpy(z, x, 0.37f, n);
      assert_same(y, z, n, "axpy", others[k].isa);
      guard_free(z);
    }
    guard_free(x), guard_free(start), guard_free(y);
  }
}

/* --- store and load ---------------------------------------------------------------------------------------------- */

/* Every 16-bit pattern to f32 and back is itself, NaN stays NaN. */
static void test_load_store_all(void **state) {
  (void)state;
  enum { ALL = 65536 };
  static uint16_t from[ALL], back[ALL];
  static float wide[ALL], other[ALL];
  for (int i = 0; i < ALL; i++) from[i] = (uint16_t)i;
  for (int d = 1; d < 3; d++) {
    scalar.load(wide, from, dtypes[d], ALL);
    for (int i = 0; i < ALL; i++) {
      double exact =
          dtypes[d] == IE_F16
              ? ldexp((i & 0x7C00 ? 1024 : 0) + (i & 0x3FF), (i & 0x7C00 ? (i >> 10 & 31) : 1) - 25)
              : ldexp((i & 0x7F80 ? 128 : 0) + (i & 0x7F), (i & 0x7F80 ? (i >> 7 & 255) : 1) - 134);
      bool finite = dtypes[d] == IE_F16 ? (i & 0x7C00) != 0x7C00 : (i & 0x7F80) != 0x7F80;
      if (finite)
        assert_true((double)wide[i] == (i & 0x8000 ? -exact : exact));
      else
        assert_true(!isfinite(wide[i]));
    }
    scalar.store(back, dtypes[d], wide, ALL);
    for (int i = 0; i < ALL; i++) assert_true(back[i] == from[i] || isnan(wide[i]));
    for (int k = 0; k < other_count; k++) {
      others[k].load(other, from, dtypes[d], ALL);
      for (int i = 0; i < ALL; i++)
        assert_true(ie_f32_bits(other[i]) == ie_f32_bits(wide[i]) || (isnan(other[i]) && isnan(wide[i])));
    }
  }
}

/* Between two neighbours a < b: up to the middle to a or b, the middle itself to the even one. */
static void test_store_rounds_to_even(void **state) {
  (void)state;
  for (int d = 1; d < 3; d++) {
    int last = dtypes[d] == IE_F16 ? 0x7BFF : 0x7F7F; /* the largest finite one */
    for (int h = 0; h < last; h++) {
      uint16_t pair[2] = {(uint16_t)h, (uint16_t)(h + 1)}, found[3];
      float wide[2], x[3];
      scalar.load(wide, pair, dtypes[d], 2);
      x[1] = wide[0] + (wide[1] - wide[0]) / 2;
      x[0] = nextafterf(x[1], 0.0f), x[2] = nextafterf(x[1], INFINITY);
      scalar.store(found, dtypes[d], x, 3);
      if (x[0] < x[1]) assert_int_equal(found[0], h);
      assert_int_equal(found[1], h % 2 == 0 ? h : h + 1);
      if (x[2] > x[1]) assert_int_equal(found[2], h + 1);
    }
  }
}

static void test_store_bits(void **state) {
  (void)state;
  for (int d = 0; d < 3; d++) {
    size_t size = ie_dtype_bytes(dtypes[d]);
    for (int i = 0; i < LENGTHS; i++) {
      int64_t n = lengths[i];
      float *x = guard_alloc((size_t)n * sizeof *x), *y = guard_alloc((size_t)n * sizeof *y);
      for (int64_t j = 0; j < n; j++)
        x[j] = ie_f32_from_bits((uint32_t)ie_rng_u64(9, (uint64_t)d, (uint64_t)j));
      void *a = guard_alloc((size_t)n * size), *b = guard_alloc((size_t)n * size);
      scalar.store(a, dtypes[d], x, n);
      for (int k = 0; k < other_count; k++) {
        memset(b, 0, (size_t)n * size);
        others[k].store(b, dtypes[d], x, n);
        assert_memory_equal(a, b, (size_t)n * size);
        others[k].load(y, a, dtypes[d], n);
        float *wide = guard_alloc((size_t)n * sizeof *wide);
        scalar.load(wide, a, dtypes[d], n);
        assert_memory_equal(y, wide, (size_t)n * sizeof *wide);
        guard_free(wide);
      }
      guard_free(x), guard_free(y), guard_free(a), guard_free(b);
    }
  }
}

/* --- max and find_nonfinite ------------------------------------------------------------------------------------------ */

static void max_check(const ie_kernels *kernels, const float *x, int64_t n, int64_t expected) {
  int64_t at = -7;
  float found = kernels->max(x, n, &at);
  if (at != expected)
    fail_msg("max %s: n = %td, index %td expected, found %td", ie_isa_name(kernels->isa), (ptrdiff_t)n,
             (ptrdiff_t)expected, (ptrdiff_t)at);
  assert_true(ie_f32_bits(found) == ie_f32_bits(x[expected]));
}

static void max_check_all(const ie_kernels *kernels) {
  for (int i = 0; i < LENGTHS; i++) {
    int64_t n = lengths[i];
    float *x = numbers(60, n);
    int64_t step = n > 200 ? 37 : 1;
    for (int64_t at = 0; at < n; at += step) {
      float kept = x[at];
      x[at] = 50.0f;
      max_check(kernels, x, n, at);
      float last = x[n - 1];
      x[n - 1] = 50.0f; /* a tie: the first one */
      max_check(kernels, x, n, at);
      x[n - 1] = at == n - 1 ? 50.0f : last;
      int64_t before = at / 2;
      float other = x[before];
      x[at] = NAN;
      max_check(kernels, x, n, at);
      x[before] = NAN; /* the first NaN */
      max_check(kernels, x, n, before);
      x[before] = other;
      x[at] = kept;
    }
    for (int64_t j = 0; j < n; j++) x[j] = -INFINITY;
    max_check(kernels, x, n, 0);
    x[n - 1] = -1e38f;
    max_check(kernels, x, n, n - 1);
    guard_free(x);
  }
}

static void find_check_all(const ie_kernels *kernels) {
  static const float bad[] = {NAN, INFINITY, -INFINITY};
  for (int i = 0; i < LENGTHS; i++) {
    int64_t n = lengths[i];
    float *x = numbers(70, n);
    x[0] = 3.4028235e38f, x[n - 1] = n > 1 ? 1e-45f : x[0];
    assert_int_equal(kernels->find_nonfinite(x, n), -1);
    for (int64_t at = 0; at<n; at += n> 200 ? 37 : 1) {
      float kept = x[at], last = x[n - 1];
      x[n - 1] = NAN;
      x[at] = bad[at % 3];
      assert_int_equal(kernels->find_nonfinite(x, n), at);
      x[n - 1] = last;
      x[at] = kept;
    }
    guard_free(x);
  }
}

static void test_max(void **state) {
  (void)state;
  max_check_all(&scalar);
  for (int k = 0; k < other_count; k++) max_check_all(&others[k]);
}

static void test_find_nonfinite(void **state) {
  (void)state;
  find_check_all(&scalar);
  for (int k = 0; k < other_count; k++) find_check_all(&others[k]);
}

/* --- adamw --------------------------------------------------------------------------------------------------- */

static void adamw_check(int64_t n, const ie_adamw_args *args) {
  float *g = numbers(60, n), *start[3] = {numbers(61, n), numbers(62, n), numbers(63, n)}, *a[3];
  for (int64_t j = 0; j < n; j++) start[2][j] = start[2][j] * start[2][j]; /* a second moment */
  for (int s = 0; s < 3; s++) a[s] = copy(start[s], n);
  scalar.adamw(a[0], g, a[1], a[2], n, args);
  double beta1 = args->towards ? -(double)args->weight1 : 1 - (double)args->weight1;
  for (int64_t j = 0; j < n; j++) {
    double x = (double)g[j] * (double)args->grad_scale;
    double m = beta1 * (double)start[1][j] + (1 - beta1) * x;
    double v = (double)args->beta2 * (double)start[2][j] + (double)args->weight2 * x * x;
    double root = sqrt(v) / (double)args->root2 + (double)args->eps;
    double p = (double)start[0][j] * (double)args->decay + (double)args->step_size * m / root;
    double m_off = 3e-7 * (fabs((double)start[1][j]) + fabs(x)); /* m may cancel */
    assert_true(fabs((double)a[1][j] - m) <= m_off);
    assert_true(fabs((double)a[2][j] - v) <= 3e-7 * v);
    assert_true(fabs((double)a[0][j] - p) <=
                1e-6 * (fabs((double)start[0][j]) + fabs(p)) + fabs((double)args->step_size) * m_off / root);
  }
  for (int k = 0; k < other_count; k++) {
    float *b[3];
    for (int s = 0; s < 3; s++) b[s] = copy(start[s], n);
    others[k].adamw(b[0], g, b[1], b[2], n, args);
    for (int s = 0; s < 3; s++) assert_same(a[s], b[s], n, "adamw", others[k].isa);
    for (int s = 0; s < 3; s++) guard_free(b[s]);
  }
  for (int s = 0; s < 3; s++) guard_free(a[s]), guard_free(start[s]);
  guard_free(g);
}

static void test_adamw(void **state) {
  (void)state;
  ie_adamw_args args = {.grad_scale = 0.75f,
                        .decay = 0.999f,
                        .weight1 = 0.1f,
                        .beta2 = 0.95f,
                        .weight2 = 0.05f,
                        .root2 = 0.3f,
                        .eps = 1e-8f,
                        .step_size = -0.02f};
  for (int i = 0; i < LENGTHS; i++) adamw_check(lengths[i], &args);
  args.towards = true; /* beta1 = 0.3: the mean starts from the gradient's side */
  args.weight1 = -0.3f;
  for (int i = 0; i < LENGTHS; i++) adamw_check(lengths[i], &args);
}

/* --- bf16_mix ------------------------------------------------------------------------------------------------ */

/* By the definition, in place over each operand and without the second one. */
static void mix_check(const ie_kernels *k, int64_t n) {
  float *x = numbers(64, n), *z = numbers(65, n), *both = copy(x, n), *one = copy(x, n);
  for (int64_t j = 0; j < n; j++) {
    one[j] = ie_f32_round_bf16(-4.775f * x[j]);
    both[j] = ie_f32_round_bf16(one[j] + ie_f32_round_bf16(z[j]));
  }
  float *over_x = copy(x, n), *over_z = copy(z, n), *alone = copy(x, n);
  k->bf16_mix(over_x, over_x, -4.775f, z, n);
  k->bf16_mix(over_z, x, -4.775f, over_z, n);
  k->bf16_mix(alone, alone, -4.775f, NULL, n);
  assert_same(both, over_x, n, "bf16_mix", k->isa);
  assert_same(both, over_z, n, "bf16_mix", k->isa);
  assert_same(one, alone, n, "bf16_mix", k->isa);
  guard_free(x), guard_free(z), guard_free(both), guard_free(one);
  guard_free(over_x), guard_free(over_z), guard_free(alone);
}

static void test_bf16_mix(void **state) {
  (void)state;
  for (int i = 0; i < LENGTHS; i++) {
    mix_check(&scalar, lengths[i]);
    for (int k = 0; k < other_count; k++) mix_check(&others[k], lengths[i]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bf16_mix),
      cmocka_unit_test(test_exp),
      cmocka_unit_test(test_rms_norm),
      cmocka_unit_test(test_layer_norm),
      cmocka_unit_test(test_activate_numbers),
      cmocka_unit_test(test_activate_bits),
      cmocka_unit_test(test_tanh),
      cmocka_unit_test(test_soft_cap),
      cmocka_unit_test(test_rope_half),
      cmocka_unit_test(test_swiglu),
      cmocka_unit_test(test_swiglu_edges),
      cmocka_unit_test(test_axpy),
      cmocka_unit_test(test_adamw),
      cmocka_unit_test(test_load_store_all),
      cmocka_unit_test(test_store_rounds_to_even),
      cmocka_unit_test(test_store_bits),
      cmocka_unit_test(test_max),
      cmocka_unit_test(test_find_nonfinite),
  };
  return cmocka_run_group_tests(tests, kernels_setup, NULL);
}
