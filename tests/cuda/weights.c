#include "cuda/weights.h"

#include "base/float.h"
#include "base/rng.h"
#include "cuda/device.h"

#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static ie_kernels scalar;

static void block_fill(test_weight *w, uint64_t seed, int64_t blocks) {
  const ie_wformat_info *info = ie_wformat_describe(w->device.format);
  for (int64_t i = 0; i < blocks * info->block_bytes[0]; i++)
    w->part[0][i] = (uint8_t)ie_rng_u64(seed, 3, (uint64_t)i);
  for (int64_t i = 0; i < blocks; i++) {
    float scale = (ie_rng_f32(seed, 5, (uint64_t)i) - 0.4f) * (w->device.format == IE_W_INT8 ? 0.02f : 0.2f);
    uint16_t h = ie_f32_to_f16(scale);
    if (w->device.format == IE_W_MXFP4)
      w->part[1][i] = (uint8_t)(120 + ie_rng_u64(seed, 6, (uint64_t)i) % 8);
    else
      memcpy(w->part[1] + 2 * i, &h, 2);
  }
}

/* Codes beyond the last column are those of zero. */
static void padding_clear(test_weight *w) {
  const ie_cuda_weight *d = &w->device;
  const ie_wformat_info *info = ie_wformat_describe(d->format);
  for (int64_t r = 0; r < d->experts * d->rows; r++) {
    uint8_t *row = w->part[0] + (size_t)r * d->row_bytes[0];
    int64_t whole = (d->cols + info->block_cols - 1) / info->block_cols * info->block_cols;
    for (int64_t k = d->cols; k < whole; k++) {
      if (d->format == IE_W_INT8) row[k] = 0;
      if (d->format == IE_W_INT4)
        row[k / 2] = (uint8_t)((row[k / 2] & (k % 2 ? 0x0F : 0xF0)) | 8 << k % 2 * 4);
    }
  }
}

test_weight test_weight_new(uint64_t seed, ie_wformat format, int64_t E, int64_t R, int64_t K) {
  if (!scalar.load) ie_kernels_fill(&scalar, IE_ISA_SCALAR);
  const ie_wformat_info *info = ie_wformat_describe(format);
  test_weight w = {.device = {.format = format, .experts = E, .rows = R, .cols = K}};
  for (int i = 0; i < 2; i++) {
    w.device.row_bytes[i] = ie_wformat_row_bytes(format, i, K);
    w.device.expert_bytes[i] = w.device.row_bytes[i] * (size_t)R;
    w.part[i] = calloc(w.device.expert_bytes[i] + 1, (size_t)E);
    assert_non_null(w.part[i]);
  }
  if (info->block_bytes[1] > 0) {
    block_fill(&w, seed, E * R * ((K + info->block_cols - 1) / info->block_cols));
    padding_clear(&w);
  } else {
    float *x = floats_random(seed, E * R * K, 1);
    scalar.store(w.part[0],
                 format == IE_W_F32   ? IE_F32
                 : format == IE_W_F16 ? IE_F16
                                      : IE_BF16,
                 x, E * R * K);
    free(x);
  }
  for (int i = 0; i < 2; i++)
    if (info->block_bytes[i] > 0)
      w.device.part[i] = device_new(w.part[i], w.device.expert_bytes[i] * (size_t)E);
  return w;
}

void test_weight_scale(test_weight *w, uint8_t scale) {
  size_t bytes = w->device.expert_bytes[1] * (size_t)w->device.experts;
  memset(w->part[1], scale, bytes);
  device_ok(cudaMemcpy((void *)(uintptr_t)w->device.part[1], w->part[1], bytes, cudaMemcpyHostToDevice),
            "cudaMemcpy");
}

void test_weight_bias(test_weight *w, uint64_t seed, ie_dtype dtype) {
  int64_t n = w->device.experts * w->device.rows;
  w->bias = floats_random(seed, n, 1);
  void *stored = malloc((size_t)n * 4);
  assert_non_null(stored);
  scalar.store(stored, dtype, w->bias, n);
  scalar.load(w->bias, stored, dtype, n);
  w->device.bias = device_new(stored, (size_t)n * ie_dtype_bytes(dtype));
  w->device.bias_dtype = dtype;
  w->device.bias_stride = w->device.rows;
  free(stored);
}

ie_wview test_weight_view(const test_weight *w, int64_t expert) {
  ie_wview v = {.format = w->device.format, .rows = w->device.rows, .cols = w->device.cols};
  for (int i = 0; i < 2; i++) {
    v.part[i] = w->part[i] + (size_t)expert * w->device.expert_bytes[i];
    v.row_bytes[i] = w->device.row_bytes[i];
  }
  return v;
}

void test_weight_row(float *out, const test_weight *w, int64_t expert, int64_t row) {
  ie_wview v = test_weight_view(w, expert);
  scalar.weight_cols(out, &v, row, 0, w->device.cols);
}

float test_weight_at(const test_weight *w, int64_t expert, int64_t row, int64_t col) {
  ie_wview v = test_weight_view(w, expert);
  float block[64];
  int64_t n = w->device.cols - col / 64 * 64;
  scalar.weight_cols(block, &v, row, col / 64 * 64, n < 64 ? n : 64);
  return block[col % 64];
}

void test_weight_free(test_weight *w) {
  free(w->part[0]);
  free(w->part[1]);
  free(w->bias);
}
