/* Routing and mixtures of experts on the device: routing to the bit, mixtures against sums in double. */
#include "base/exp.h"
#include "base/rng.h"
#include "cuda/device.h"
#include "cuda/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* As the CPU's launcher does it. */
static void route_row(const float *logits, int64_t E, int64_t k, int32_t *expert, float *weight) {
  for (int64_t j = 0; j < k; j++) {
    int32_t best = -1;
    for (int64_t e = 0; e < E; e++) {
      bool taken = false;
      for (int64_t i = 0; i < j; i++) taken |= expert[i] == e;
      if (!taken && (best < 0 || logits[e] > logits[best])) best = (int32_t)e;
    }
    expert[j] = best;
    weight[j] = logits[best];
  }
  float sum = 0.0f, top = weight[0];
  for (int64_t j = 0; j < k; j++) sum += weight[j] = ie_expf(weight[j] - top);
  for (int64_t j = 0; j < k; j++) weight[j] /= sum;
}

static void routing_is_the_cpus(void **state) {
  (void)state;
  static const int64_t experts[] = {1, 2, 31, 32, 33, 128, 1024}, top[] = {1, 2, 4, 8, 64};
  for (int i = 0; i < 7; i++)
    for (int j = 0; j < 5; j++) {
      const int64_t E = experts[i], k = top[j], T = i % 2 ? 9 : 1;
      if (k > E) continue;
      float *logits = floats_random((uint64_t)(i + j), T * E, 3);
      for (int64_t n = 0; n < T * E; n++)
        if (n % 3 == 0) logits[n] = roundf(logits[n]); /* ties */
      ie_cuda_route_args args = {.expert = device_new(NULL, (size_t)(T * k) * 4),
                                 .weight = device_new(NULL, (size_t)(T * k) * 4),
                                 .logits = device_new(logits, (size_t)(T * E) * 4),
                                 .tokens = T,
                                 .experts = E,
                                 .top_k = k,
                                 .check = check_new(1)};
      device_ok(ie_cuda_route(device_queue(), &args), "route");
      float *weight = device_floats(args.weight, T * k), expected_weight[64];
      int32_t *expert = malloc((size_t)(T * k) * 4), expected[64];
      assert_non_null(expert);
      device_read(expert, args.expert, (size_t)(T * k) * 4);
      for (int64_t t = 0; t < T; t++) {
        route_row(logits + t * E, E, k, expected, expected_weight);
        for (int64_t n = 0; n < k; n++) {
          assert_int_equal(expert[t * k + n], expected[n]);
          assert_true(weight[t * k + n] == expected_weight[n]);
        }
      }
      assert_true(check_read(args.check) == IE_CUDA_NO_FAULT);
      free(logits), free(weight), free(expert);
      device_free_all();
    }
}

typedef struct moe_case {
  ie_wformat format;
  ie_class cls;
  int64_t T, k, E, C, F;
  bool infinite; /* a gate is infinite: a fault, not a number */
} moe_case;

static float in_class(float x, ie_class cls) {
  return cls == IE_CLASS_BF16 ? ie_f32_round_bf16(x) : cls == IE_CLASS_F16 ? ie_f32_round_f16(x) : x;
}

/* y += the k experts of a token. */
static void moe_row(const moe_case *c, float *y, const float *x, const test_weight w[2],
                    const int32_t *expert, const float *weight) {
  float *row = malloc((size_t)(c->C + c->F) * 4), *a = malloc((size_t)c->F * 4), gu[2];
  assert_true(row && a);
  for (int64_t j = 0; j < c->k; j++) {
    for (int64_t f = 0; f < 2 * c->F; f++) {
      test_weight_row(row, &w[0], expert[j], f);
      double sum = (double)w[0].bias[expert[j] * 2 * c->F + f];
      for (int64_t i = 0; i < c->C; i++) sum += (double)in_class(x[i], c->cls) * (double)row[i];
      gu[f % 2] = (float)sum;
      if (f % 2 == 0) continue;
      double g = fmin((double)gu[0], 7), u = fmax(-7, fmin((double)gu[1], 7));
      a[f / 2] = in_class((float)((u + 1) * g / (1 + exp(-1.702 * g))), c->cls);
    }
    for (int64_t r = 0; r < c->C; r++) {
      test_weight_row(row, &w[1], expert[j], r);
      double sum = (double)w[1].bias[expert[j] * c->C + r];
      for (int64_t i = 0; i < c->F; i++) sum += (double)a[i] * (double)row[i];
      y[r] += weight[j] * (float)sum;
    }
  }
  free(row), free(a);
}

static void case_run_once(const moe_case *c) {
  const int64_t P = c->T * c->k;
  float *x = floats_random(1, c->T * c->C, 1), *y = floats_random(2, c->T * c->C, 1);
  float *weight = floats_random(3, P, 1);
  int32_t *expert = ints_new(P, 0, 0);
  for (int64_t p = 0; p < P; p++) /* different ones for each token; some experts get nothing */
    expert[p] = (int32_t)((p % c->k + (int64_t)(ie_rng_u64(4, 0, (uint64_t)(p / c->k)) % 3) * c->k) % c->E);
  if (c->infinite) x[c->C + 3] = INFINITY;
  test_weight w[2] = {test_weight_new(5, c->format, c->E, 2 * c->F, c->C),
                      test_weight_new(6, c->format, c->E, c->C, c->F)};
  test_weight_bias(&w[0], 7, IE_BF16);
  test_weight_bias(&w[1], 8, IE_F32);
  ie_cuda_moe_args args = {.y = device_new(y, (size_t)(c->T * c->C) * 4),
                           .x = device_new(x, (size_t)(c->T * c->C) * 4),
                           .expert = device_new(expert, (size_t)P * 4),
                           .weight = device_new(weight, (size_t)P * 4),
                           .tokens = c->T,
                           .top_k = c->k,
                           .gate_up = w[0].device,
                           .down = w[1].device,
                           .alpha = 1.702f,
                           .limit = 7,
                           .cls = c->cls,
                           .check = check_new(5)};
  args.scratch = device_new(NULL, ie_cuda_moe_scratch(&args));
  device_ok(ie_cuda_moe(device_queue(), &args), "moe");
  ie_cuda_fault fault = check_read(args.check);
  if (c->infinite) {
    assert_int_equal(IE_CUDA_FAULT_WHERE(fault), 5);
    assert_int_equal(IE_CUDA_FAULT_INDEX(fault) / (2 * c->F), c->k); /* the first pair of token 1 */
  } else {
    char what[128];
    assert_true(fault == IE_CUDA_NO_FAULT);
    for (int64_t t = 0; t < c->T; t++)
      moe_row(c, y + t * c->C, x + t * c->C, w, expert + t * c->k, weight + t * c->k);
    float *found = device_floats(args.y, c->T * c->C);
    snprintf(what, sizeof what, "format %d class %d T %lld k %lld E %lld C %lld F %lld", (int)c->format,
             (int)c->cls, (long long)c->T, (long long)c->k, (long long)c->E, (long long)c->C,
             (long long)c->F);
    /* in class bf16 a number between the products may round to its neighbour */
    floats_close(found, y, c->T * c->C, c->cls == IE_CLASS_F32 ? 1e-5 : 3e-3, what);
    free(found);
  }
  free(x), free(y), free(weight), free(expert);
  test_weight_free(&w[0]), test_weight_free(&w[1]);
  device_free_all();
}

/* Both ways where there are two. */
static void case_run(const moe_case *c) {
  device_wgmma(IE_CUDA_WGMMA_NEVER);
  case_run_once(c);
  if ((c->format == IE_W_BF16 || c->format == IE_W_MXFP4) && c->cls == IE_CLASS_BF16 &&
      device_wgmma(IE_CUDA_WGMMA_ALWAYS))
    case_run_once(c);
}

static void mixtures_of_every_format(void **state) {
  (void)state;
  static const int64_t tokens[] = {1, 4, 5, 33};
  for (int format = 0; format < IE_W_COUNT; format++)
    for (int cls = IE_CLASS_F32; cls <= IE_CLASS_F16; cls++)
      for (int i = 0; i < 4; i++) {
        if (cls == IE_CLASS_F16 && i != 1) continue;
        moe_case c = {.format = (ie_wformat)format,
                      .cls = (ie_class)cls,
                      .T = tokens[i],
                      .k = i == 0 ? 4 : 2,
                      .E = i == 3 ? 7 : 4,
                      .C = i % 2 ? 96 : 64,
                      .F = i % 2 ? 32 : 160};
        case_run(&c);
      }
}

/* Tiles of 64 pairs, several of one expert; and few of 16. */
static void mixtures_of_many_tokens(void **state) {
  (void)state;
  moe_case c = {.format = IE_W_MXFP4, .cls = IE_CLASS_BF16, .T = 99, .k = 2, .E = 6, .C = 32, .F = 64};
  case_run(&c);
  c.cls = IE_CLASS_F32;
  case_run(&c);
  c = (moe_case){.format = IE_W_BF16, .cls = IE_CLASS_BF16, .T = 70, .k = 1, .E = 1, .C = 40, .F = 72};
  case_run(&c);
}

/* Tiles of 128 pairs, one or two of an expert, and an expert without any; widths that end in a turn of 128 columns. */
static void mixtures_by_wgmma(void **state) {
  (void)state;
  for (int i = 0; i < 4; i++) {
    moe_case c = {.format = i % 2 ? IE_W_BF16 : IE_W_MXFP4,
                  .cls = IE_CLASS_BF16,
                  .T = i < 2 ? 420 : 60,
                  .k = i < 2 ? 1 : 3,
                  .E = i < 2 ? 4 : 10,
                  .C = i < 2 ? 32 : 224,
                  .F = i < 2 ? 96 : 160};
    case_run(&c);
  }
}

static void an_infinite_gate_is_named(void **state) {
  (void)state;
  moe_case c = {.format = IE_W_MXFP4, .T = 2, .k = 2, .E = 4, .C = 64, .F = 32, .infinite = true};
  case_run(&c);
  c.cls = IE_CLASS_BF16;
  case_run(&c);
  c.T = 30;
  case_run(&c);
}

static int group(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(routing_is_the_cpus), cmocka_unit_test(mixtures_of_every_format),
      cmocka_unit_test(mixtures_of_many_tokens), cmocka_unit_test(mixtures_by_wgmma),
      cmocka_unit_test(an_infinite_gate_is_named)};
  return cmocka_run_group_tests_name("cuda_moe", tests, NULL, NULL);
}

int main(void) {
  return device_run(group);
}
