/* Norms, lookups, activations, RoPE and checks on the device against the scalar kernels. */
#include "blocks/int4.h"
#include "blocks/int8.h"
#include "blocks/mxfp4.h"
#include "cuda/device.h"
#include "cuda/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const int64_t sizes[] = {1, 2, 31, 32, 33, 97, 255, 256, 257, 1031};
enum { SIZES = sizeof sizes / sizeof sizes[0] };
#define EACH_SIZE(n) (int i_ = 0; i_ < SIZES; i_++) for (int64_t n = sizes[i_], once_ = 1; once_; once_ = 0)

static ie_kernels scalar;

static size_t bytes_of(int64_t n) {
  return (size_t)n * sizeof(float);
}

static void *vector_new(uint64_t seed, ie_dtype dtype, int64_t n, void **host) {
  float *x = floats_random(seed, n, 2);
  *host = malloc(bytes_of(n) + 1);
  assert_non_null(*host);
  scalar.store(*host, dtype, x, n);
  free(x);
  return device_new(*host, (size_t)n * ie_dtype_bytes(dtype));
}

static void norms_are_those_of_scalar(void **state) {
  (void)state;
  static const ie_dtype dtypes[] = {IE_F32, IE_F16, IE_BF16};
  for
    EACH_SIZE(n)
  for (int rows = 1; rows <= 3; rows += 2)
    for (int kind = 0; kind < 3; kind++) { /* plain, weighted, layer norm */
      ie_dtype dtype = dtypes[(n + kind) % 3];
      float *x = floats_random((uint64_t)n, rows * n, 3), *expected = malloc(bytes_of(rows * n));
      void *weight, *bias;
      ie_cuda_norm_args args = {.x = device_new(x, bytes_of(rows * n)),
                                .y = device_new(NULL, bytes_of(rows * n)),
                                .rows = rows,
                                .width = n,
                                .eps = 1e-5f,
                                .check = check_new(3)};
      args.weight = (ie_cuda_vector){vector_new(5, dtype, n, &weight), dtype};
      args.bias = (ie_cuda_vector){vector_new(6, dtype, n, &bias), dtype};
      if (kind == 0) args.weight.data = NULL;
      for (int r = 0; r < rows; r++) {
        if (kind < 2)
          scalar.rms_norm(expected + r * n, x + r * n, kind ? weight : NULL, dtype, n, args.eps);
        else
          scalar.layer_norm(expected + r * n, x + r * n, weight, bias, dtype, n, args.eps);
      }
      device_ok((kind < 2 ? ie_cuda_rms_norm : ie_cuda_layer_norm)(device_queue(), &args), "norm");
      float *y = device_floats(args.y, rows * n);
      floats_close(y, expected, rows * n, 2e-6, "norm");
      assert_true(check_read(args.check) == IE_CUDA_NO_FAULT);
      free(x), free(expected), free(weight), free(bias), free(y);
      device_free_all();
    }
}

static void faults_name_the_first_number(void **state) {
  (void)state;
  float *x = floats_random(1, 1031, 1);
  x[700] = INFINITY;
  x[900] = NAN;
  float *at = device_new(x, bytes_of(1031));
  ie_cuda_check late = check_new(9), early = {late.fault, 4};
  device_ok(ie_cuda_check_finite(device_queue(), at, 1031, late), "check");
  ie_cuda_fault fault = check_read(late);
  assert_int_equal(IE_CUDA_FAULT_WHERE(fault), 9);
  assert_int_equal(IE_CUDA_FAULT_INDEX(fault), 700);
  assert_int_equal(IE_CUDA_FAULT_NAN(fault), 0);
  ie_cuda_norm_args args = {
      .x = at + 800, .y = device_new(NULL, bytes_of(200)), .rows = 2, .width = 100, .check = early};
  device_ok(ie_cuda_rms_norm(device_queue(), &args), "norm");
  fault = check_read(late);
  assert_int_equal(IE_CUDA_FAULT_WHERE(fault), 4);
  assert_int_equal(IE_CUDA_FAULT_INDEX(fault), 100);
  assert_int_equal(IE_CUDA_FAULT_NAN(fault), 1);
  device_ok(ie_cuda_check_finite(device_queue(), at, 600, late), "check");
  assert_true(check_read(late) == fault);
  free(x);
  device_free_all();
}

static void elements_are_those_of_scalar(void **state) {
  (void)state;
  for
    EACH_SIZE(n) {
      float *x = floats_random(2, n, 6), *u = floats_random(3, n, 6), *expected = malloc(bytes_of(n));
      float *dx = device_new(x, bytes_of(n)), *du = device_new(u, bytes_of(n)), *y;
      for (int a = IE_GELU; a <= IE_RELU2; a++) {
        memcpy(expected, x, bytes_of(n));
        scalar.activate(expected, n, (ie_activation)a);
        float *z = device_new(x, bytes_of(n));
        device_ok(ie_cuda_activate(device_queue(), z, n, (ie_activation)a), "activate");
        y = device_floats(z, n);
        floats_close(y, expected, n, 1e-6, "activate");
        free(y);
      }
      memcpy(expected, x, bytes_of(n));
      scalar.soft_cap(expected, n, 2.5f);
      float *z = device_new(x, bytes_of(n));
      device_ok(ie_cuda_soft_cap(device_queue(), z, n, 2.5f), "soft_cap");
      y = device_floats(z, n);
      floats_close(y, expected, n, 1e-6, "soft_cap");
      free(y);
      scalar.swiglu(expected, x, u, n);
      device_ok(ie_cuda_swiglu(device_queue(), z, dx, du, n), "swiglu");
      y = device_floats(z, n);
      floats_close(y, expected, n, 1e-6, "swiglu");
      free(y);
      device_ok(ie_cuda_copy(device_queue(), z, dx, n), "copy");
      device_ok(ie_cuda_scale(device_queue(), z, n, 0.5f), "scale");
      device_ok(ie_cuda_add(device_queue(), z, du, n), "add");
      for (int64_t i = 0; i < n; i++) expected[i] = 0.5f * x[i] + u[i];
      y = device_floats(z, n);
      floats_close(y, expected, n, 1e-6, "copy, scale, add");
      free(y);
      device_ok(ie_cuda_zero(device_queue(), z, n), "zero");
      y = device_floats(z, n);
      for (int64_t i = 0; i < n; i++) assert_true(y[i] == 0);
      free(y), free(x), free(u), free(expected);
      device_free_all();
    }
}

static void rope_is_that_of_scalar(void **state) {
  (void)state;
  enum { T = 3, D = 10 };
  for (int bf16 = 0; bf16 < 2; bf16++)
    for (int64_t half = 1; half <= 5; half++) {
      const int64_t heads[2] = {4, 3};
      float *inverse = floats_random(9, half, 1), *x[2], table[2][T * 5];
      int32_t *position = ints_new(T, 5, 1000);
      ie_cuda_rope_table_args table_args = {.cos = device_new(NULL, bytes_of(T * half)),
                                            .sin = device_new(NULL, bytes_of(T * half)),
                                            .position = device_new(position, T * sizeof *position),
                                            .inv_freq = device_new(inverse, bytes_of(half)),
                                            .tokens = T,
                                            .half = half,
                                            .scale = 1.25f,
                                            .bf16 = bf16};
      device_ok(ie_cuda_rope_table(device_queue(), &table_args), "rope_table");
      for (int64_t i = 0; i < T * half; i++) {
        float angle = (float)position[i / half] * inverse[i % half];
        table[0][i] = (float)cos((double)angle) * 1.25f;
        table[1][i] = (float)sin((double)angle) * 1.25f;
        for (int j = 0; bf16 && j < 2; j++) table[j][i] = ie_f32_round_bf16(table[j][i]);
      }
      for (int j = 0; j < 2; j++) {
        float *found = device_floats(j ? table_args.sin : table_args.cos, T * half);
        floats_close(found, table[j], T * half, bf16 ? 1e-2 : 1e-6, "rope_table");
        memcpy(table[j], found, bytes_of(T * half));
        free(found);
      }
      ie_cuda_rope_args args = {
          .n = 2, .cos = table_args.cos, .sin = table_args.sin, .tokens = T, .dim = D, .half = half};
      for (int j = 0; j < 2; j++) {
        x[j] = floats_random((uint64_t)(20 + j), T * heads[j] * D, 2);
        args.x[j] = device_new(x[j], bytes_of(T * heads[j] * D));
        args.heads[j] = heads[j];
        for (int64_t r = 0; r < T * heads[j]; r++)
          scalar.rope_half(x[j] + r * D, table[0] + r / heads[j] * half, table[1] + r / heads[j] * half,
                           2 * half);
      }
      device_ok(ie_cuda_rope(device_queue(), &args), "rope");
      for (int j = 0; j < 2; j++) {
        float *found = device_floats(args.x[j], T * heads[j] * D);
        floats_close(found, x[j], T * heads[j] * D, 1e-6, "rope");
        free(found), free(x[j]);
      }
      free(inverse), free(position);
      device_free_all();
    }
}

static void lookups_are_exact(void **state) {
  (void)state;
  static const int64_t widths[] = {32, 64, 96, 224};
  for (int format = 0; format < IE_W_COUNT; format++)
    for (int j = 0; j < 4; j++) {
      enum { V = 7, T = 5 };
      const int64_t K = widths[j];
      test_weight w = test_weight_new((uint64_t)j, (ie_wformat)format, 1, V, K);
      const int32_t ids[T] = {6, 0, 3, 3, 5};
      ie_cuda_embed_args args = {.y = device_new(NULL, bytes_of(T * K)),
                                 .w = w.device,
                                 .ids = device_new(ids, sizeof ids),
                                 .tokens = T};
      device_ok(ie_cuda_embed(device_queue(), &args), "embed");
      float *y = device_floats(args.y, T * K);
      for (int64_t i = 0; i < T * K; i++) assert_true(y[i] == test_weight_at(&w, 0, ids[i / K], i % K));
      ie_cuda_gather_args gather = {.y = device_new(NULL, bytes_of(2 * K)),
                                    .x = args.y,
                                    .index = device_new((int32_t[]){4, 1}, 8),
                                    .rows = 2,
                                    .width = K};
      device_ok(ie_cuda_gather_rows(device_queue(), &gather), "gather_rows");
      float *z = device_floats(gather.y, 2 * K);
      for (int64_t i = 0; i < 2 * K; i++) assert_true(z[i] == y[(i < K ? 4 : 1) * K + i % K]);
      free(y), free(z);
      test_weight_free(&w);
      device_free_all();
    }
}

static void heads_are_split(void **state) {
  (void)state;
  enum { T = 3, H = 2, D = 5, N = T * H * D };
  float *x = floats_random(4, 3 * N, 1);
  ie_cuda_split_args args = {.x = device_new(x, bytes_of(3 * N)), .tokens = T, .heads = H, .dim = D};
  for (int i = 0; i < 3; i++) args.y[i] = device_new(NULL, bytes_of(N));
  device_ok(ie_cuda_split_heads(device_queue(), &args), "split_heads");
  for (int i = 0; i < 3; i++) {
    float *y = device_floats(args.y[i], N);
    for (int64_t j = 0; j < N; j++) assert_true(y[j] == x[(3 * (j / D) + i) * D + j % D]);
    free(y);
  }
  free(x);
  device_free_all();
}

static int group(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(norms_are_those_of_scalar),
                                     cmocka_unit_test(faults_name_the_first_number),
                                     cmocka_unit_test(elements_are_those_of_scalar),
                                     cmocka_unit_test(rope_is_that_of_scalar),
                                     cmocka_unit_test(lookups_are_exact),
                                     cmocka_unit_test(heads_are_split)};
  return cmocka_run_group_tests_name("cuda_rows", tests, NULL, NULL);
}

int main(void) {
  ie_kernels_fill(&scalar, IE_ISA_SCALAR);
  return device_run(group);
}
