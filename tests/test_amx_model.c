/* Whole forwards on AMX in emulation, on the committed golden models: with quantised weights too, in the classes that
 * have tiles, against the reference and against AVX-512. Deterministic class int8 is equal to AVX-512 to the bit. */
#include "support/amx_emulated.h"
#include "support/golden.h"
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

static ie_device *open_device(int threads, bool amx) {
  ie_error error = {0};
  ie_device *device;
  if (ie_device_open(&(ie_device_options){.kind = "cpu", .isa = "avx512", .threads = threads}, &device,
                     &error) != IE_OK)
    fail_msg("%s", error.message);
  if (!amx) return device;
  ie_kernels_fill_products__amx_emulated(&device->kernels);
  ie_kernels_fill_attend__amx_emulated(&device->kernels);
  for (int class = 0; class < IE_CLASS_COUNT; class ++) /* small models: tiles for whatever can be one */
    for (int format = 0; format < IE_W_COUNT; format++) device->kernels.many_min_tok[class][format] = 2;
  device->kernels.attend_many_rows = 2;
  return device;
}

typedef struct way {
  ie_model_options options;
  int threads;
  int64_t chunk;
  bool amx;
} way;

/* Logits of the longest case, (T, V), to be freed. */
static float *logits_of(const golden_model *golden, const way *w) {
  const golden_case *c = &golden->cases[golden->count - 1];
  ie_error error = {0};
  ie_model *model;
  ie_device *device = open_device(w->threads, w->amx);
  if (ie_model_open(device, golden->dir, &w->options, &model, &error) != IE_OK) fail_msg("%s", error.message);
  float *logits = golden_logits(model, c->ids, c->T, w->chunk);
  ie_model_free(model);
  ie_device_free(device);
  return logits;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The median over rows of the largest difference, of the largest number of b. */
static double median_error(const float *a, const float *b, int64_t T, int64_t V) {
  double *errors = malloc((size_t)T * sizeof *errors), largest = 0;
  assert_non_null(errors);
  for (int64_t i = 0; i < T * V; i++) largest = fmax(largest, fabs((double)b[i]));
  for (int64_t t = 0; t < T; t++) {
    errors[t] = 0;
    for (int64_t v = t * V; v < (t + 1) * V; v++) {
      double e = fabs((double)a[v] - (double)b[v]) / largest;
      if (!(e <= errors[t])) errors[t] = e; /* NaN comes through */
    }
  }
  qsort(errors, (size_t)T, sizeof *errors, ascending);
  double median = errors[T / 2];
  free(errors);
  return median;
}

static const ie_precision classes[] = {IE_PRECISION_BF16, IE_PRECISION_INT8};
static const ie_weights weights[] = {IE_WEIGHTS_PUBLISHED, IE_WEIGHTS_INT8, IE_WEIGHTS_INT4};

/* The same class on both instruction sets: the sums differ in their last digits, which rounding to bf16 or int8 now
 * and then makes more of. With published weights also against the reference. */
static void forwards_agree(void **state) {
  const golden_model *golden = *state;
  const golden_case *c = &golden->cases[golden->count - 1];
  for (size_t p = 0; p < 2; p++)
    for (size_t w = 0; w < 3; w++) {
      double rounding = p == 0 ? golden->rounding_bf16 : golden->rounding_int8;
      double allowed = 2 * (rounding > 0 ? rounding : 0.02) + 1e-3;
      way amx = {{.precision = classes[p], .dense_weights = weights[w]}, .threads = 1, .amx = true};
      way avx512 = amx;
      avx512.amx = false;
      float *found = logits_of(golden, &amx), *expected = logits_of(golden, &avx512);
      double error = median_error(found, expected, c->T, c->V);
      double reference = w == 0 ? median_error(found, c->logits, c->T, c->V) : 0;
      if (!(error <= allowed && reference <= allowed))
        fail_msg("%s %s weights %d: median error %.4f of AVX-512, %.4f of the reference, allowed %.4f",
                 golden->name, ie_precision_name(classes[p]), (int)w, error, reference, allowed);
      if (w == 0 || p == 0) assert_true(memcmp(found, expected, (size_t)(c->T * c->V) * sizeof(float)) != 0);
      if (w == 0) { /* and threads change no bit */
        amx.threads = 3;
        free(expected);
        expected = logits_of(golden, &amx);
        assert_memory_equal(found, expected, (size_t)(c->T * c->V) * sizeof(float));
      }
      free(found);
      free(expected);
    }
}

static void deterministic_int8_is_that_of_avx512(void **state) {
  const golden_model *golden = *state;
  const golden_case *c = &golden->cases[golden->count - 1];
  for (size_t w = 0; w < 3; w++) {
    way by = {{.precision = IE_PRECISION_INT8, .dense_weights = weights[w], .deterministic = true},
              .threads = 2};
    float *expected = logits_of(golden, &by);
    by.amx = true;
    for (int64_t chunk = 0; chunk <= 11; chunk += 11) {
      by.chunk = chunk;
      float *found = logits_of(golden, &by);
      assert_memory_equal(found, expected, (size_t)(c->T * c->V) * sizeof(float));
      free(found);
    }
    free(expected);
  }
}

int main(void) {
  static golden_model models[GOLDEN_MODELS_MAX];
  static struct CMUnitTest tests[2 * GOLDEN_MODELS_MAX];
  static char names[2 * GOLDEN_MODELS_MAX][128];
  if (ie_isa_best() < IE_ISA_AVX512) {
    printf("1..0 # SKIP the tiles in emulation need AVX-512\n");
    return 0;
  }
  int count = golden_open_all("tests/data/models", models, GOLDEN_MODELS_MAX), n = 0;
  for (int i = 0; i < count; i++) {
    snprintf(names[n], sizeof names[0], "forwards_agree %s", models[i].name);
    tests[n] =
        (struct CMUnitTest){.name = names[n], .test_func = forwards_agree, .initial_state = &models[i]};
    n++;
    snprintf(names[n], sizeof names[0], "deterministic_int8_is_that_of_avx512 %s", models[i].name);
    tests[n] = (struct CMUnitTest){
        .name = names[n], .test_func = deterministic_int8_is_that_of_avx512, .initial_state = &models[i]};
    n++;
  }
  int failed = _cmocka_run_group_tests("amx_model", tests, (size_t)n, NULL, NULL);
  for (int i = 0; i < count; i++) golden_close(&models[i]);
  return failed || count == 0;
}
