/* Products of every format and class on the device against sums in double over the numbers that the class says. */
#include "cuda/device.h"
#include "cuda/weights.h"
#include "kernels/products_common.h"

#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* x as class cls reads it. */
static float *x_rounded(const float *x, int64_t T, int64_t K, ie_class cls) {
  float *out = malloc((size_t)(T * K) * sizeof *out + 1);
  assert_non_null(out);
  for (int64_t t = 0; t < T; t++)
    for (int64_t k = 0; k < K; k += 32) {
      int8_t q[32];
      int n = (int)ie_min_i64(32, K - k);
      float s = cls == IE_CLASS_INT8 ? ie_quantise_block(q, x + t * K + k, n) : 0;
      for (int i = 0; i < n; i++) {
        float v = x[t * K + k + i];
        out[t * K + k + i] = cls == IE_CLASS_BF16   ? ie_f32_round_bf16(v)
                             : cls == IE_CLASS_F16  ? ie_f32_round_f16(v)
                             : cls == IE_CLASS_INT8 ? (float)q[i] * s
                                                    : v;
      }
    }
  return out;
}

typedef struct linear_case {
  ie_wformat format;
  ie_class cls;
  int64_t T, K;
  int64_t R[3];
  int n;
  bool add, bias;
  uint8_t scale; /* MXFP4: of all blocks; 0: any */
} linear_case;

/* Of the largest number. Tensor cores cut sums off where others round them: up to 2^-23 of the sum so far in each step of
 * 16 columns. */
static double tolerance_of(const linear_case *c) {
  return 3e-6 + (c->cls == IE_CLASS_BF16 ? (double)c->K / 16 * 0x1p-23 : 0);
}

static void case_run_once(const linear_case *c) {
  ie_cuda_linear_args args = {.n = c->n, .tokens = c->T, .cls = c->cls, .add = c->add};
  float *x = floats_random((uint64_t)(c->T + c->K), c->T * c->K, 1),
        *rounded = x_rounded(x, c->T, c->K, c->cls);
  float *y[3];
  test_weight w[3];
  char what[128];
  args.x = device_new(x, (size_t)(c->T * c->K) * 4);
  for (int i = 0; i < c->n; i++) {
    w[i] = test_weight_new((uint64_t)i, c->format, 1, c->R[i], c->K);
    if (c->scale) test_weight_scale(&w[i], c->scale);
    if (c->bias) test_weight_bias(&w[i], 8, i == 0 ? IE_BF16 : i == 1 ? IE_F32 : IE_F16);
    args.w[i] = w[i].device;
    y[i] = floats_random(3, c->T * c->R[i], 1);
    args.y[i] = device_new(c->add ? y[i] : NULL, (size_t)(c->T * c->R[i]) * 4);
  }
  args.scratch = device_new(NULL, ie_cuda_linear_scratch(&args));
  device_ok(ie_cuda_linear(device_queue(), &args), "linear");
  for (int i = 0; i < c->n; i++) {
    float *row = malloc((size_t)c->K * 4);
    assert_non_null(row);
    for (int64_t r = 0; r < c->R[i]; r++) {
      test_weight_row(row, &w[i], 0, r);
      for (int64_t t = 0; t < c->T; t++) {
        double sum = c->bias ? (double)w[i].bias[r] : 0;
        for (int64_t k = 0; k < c->K; k++) sum += (double)rounded[t * c->K + k] * (double)row[k];
        y[i][t * c->R[i] + r] = (float)(sum + (c->add ? (double)y[i][t * c->R[i] + r] : 0));
      }
    }
    float *found = device_floats(args.y[i], c->T * c->R[i]);
    snprintf(what, sizeof what, "format %d class %d T %lld R %lld K %lld weight %d", (int)c->format,
             (int)c->cls, (long long)c->T, (long long)c->R[i], (long long)c->K, i);
    floats_close(found, y[i], c->T * c->R[i], tolerance_of(c), what);
    free(found), free(row), free(y[i]);
    test_weight_free(&w[i]);
  }
  free(x), free(rounded);
  device_free_all();
}

/* Both ways where there are two. */
static void case_run(const linear_case *c) {
  device_wgmma(IE_CUDA_WGMMA_NEVER);
  case_run_once(c);
  if ((c->format == IE_W_BF16 || c->format == IE_W_MXFP4) && c->cls == IE_CLASS_BF16 &&
      device_wgmma(IE_CUDA_WGMMA_ALWAYS))
    case_run_once(c);
}

static const int64_t tokens[] = {1, 2, 7, 8, 9, 16, 17, 65};
static const int64_t rows[] = {1, 15, 16, 17, 31, 64, 65, 129};

static void every_format_and_class(void **state) {
  (void)state;
  int at = 0;
  for (int format = 0; format < IE_W_COUNT; format++)
    for (int cls = 0; cls < IE_CLASS_COUNT; cls++)
      for (int i = 0; i < 8; i++, at++) {
        static const int64_t widths[] = {32, 64, 128, 160, 96, 288, 416, 1312};
        linear_case c = {.format = (ie_wformat)format,
                         .cls = (ie_class)cls,
                         .T = tokens[i],
                         .K = widths[(i + format) % 8],
                         .R = {rows[at % 8], rows[(at + 3) % 8], 5},
                         .n = 1 + at % 3,
                         .add = at % 2,
                         .bias = at % 5 != 0};
        case_run(&c);
      }
}

/* Widths that are no multiple of anything: rows of weights are not aligned. */
static void odd_widths(void **state) {
  (void)state;
  for (int format = 0; format < IE_W_COUNT; format++) {
    if (format == IE_W_MXFP4) continue;
    for (int i = 0; i < 8; i++) {
      static const int64_t widths[] = {1, 3, 7, 33, 40, 61, 97, 100};
      linear_case c = {.format = (ie_wformat)format,
                       .cls = i % 2 ? IE_CLASS_BF16 : IE_CLASS_F32,
                       .T = tokens[(i + format) % 8],
                       .K = widths[i],
                       .R = {7, 18},
                       .n = 2,
                       .bias = true};
      case_run(&c);
    }
  }
}

/* More x than the shared memory of the kernels for few tokens holds. */
static void wide_rows(void **state) {
  (void)state;
  linear_case c = {.format = IE_W_MXFP4, .cls = IE_CLASS_BF16, .T = 3, .K = 16384, .R = {18}, .n = 1};
  case_run(&c);
  c.format = IE_W_BF16;
  case_run(&c);
}

/* Tiles of 192 rows and 128 or 64 tokens, turns of 128 columns and a ring of five of them: one less, one more, several. */
static void tiles_of_wgmma(void **state) {
  (void)state;
#ifdef CLOCHER_CUDA_EMULATED
  assert_true(device_wgmma(IE_CUDA_WGMMA_ALWAYS));
#endif
  static const int64_t T[] = {1, 63, 64, 65, 127, 128, 129, 257}, R[] = {191, 1, 193, 64, 385, 192, 17, 65},
                       K[] = {32, 192, 96, 640, 128, 160, 64, 544};
  for (int i = 0; i < 24; i++) {
    linear_case c = {.format = i % 3 ? IE_W_MXFP4 : IE_W_BF16,
                     .cls = IE_CLASS_BF16,
                     .T = T[i % 8],
                     .K = i == 3 ? 72 : K[i / 3],
                     .R = {R[(i + i / 8) % 8], 5, 200},
                     .n = 1 + i % 3,
                     .add = i % 2,
                     .bias = i % 4 != 0};
    case_run(&c);
  }
}

/* Scales whose weights are bf16 in one multiplication or two, or hardly at all. */
static void scales_of_mxfp4(void **state) {
  (void)state;
  static const uint8_t scales[] = {60, 127, 128, 129, 130, 200};
  for (int i = 0; i < 6; i++)
    for (int64_t T = 3; T <= 65; T += 31) {
      linear_case c = {.format = IE_W_MXFP4,
                       .cls = IE_CLASS_BF16,
                       .T = T,
                       .K = 192,
                       .R = {33},
                       .n = 1,
                       .scale = scales[i]};
      case_run(&c);
    }
}

/* Large enough by itself, or not: the answer is the same. */
static void large_products_choose(void **state) {
  (void)state;
  device_wgmma(IE_CUDA_WGMMA_LARGE);
  for (int64_t T = 16; T <= 144; T += 64) {
    linear_case c = {.format = IE_W_MXFP4, .cls = IE_CLASS_BF16, .T = T, .K = 64, .R = {400}, .n = 1};
    case_run_once(&c);
  }
}

static int group(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_format_and_class),
                                     cmocka_unit_test(odd_widths),
                                     cmocka_unit_test(wide_rows),
                                     cmocka_unit_test(tiles_of_wgmma),
                                     cmocka_unit_test(scales_of_mxfp4),
                                     cmocka_unit_test(large_products_choose)};
  return cmocka_run_group_tests_name("cuda_linear", tests, NULL, NULL);
}

int main(void) {
  return device_run(group);
}
