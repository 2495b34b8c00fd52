/* Weights of every format on the device: single numbers, and blocks of columns in f32. blocks/ says what the bytes
 * mean. */
#ifndef CLOCHER_CUDA_WEIGHTS_CUH
#define CLOCHER_CUDA_WEIGHTS_CUH

#include "cuda/common.cuh"

/* Columns of a block that weight_block decodes at once, whatever the format. */
enum { BLOCK_COLS = 32 };

/* E2M1: 0 .5 1 1.5 2 3 4 6 and their negatives. As bits of bf16 with the exponent's bias left out: the three lower bits
 * of the nibble stand at the end of the exponent and the head of the mantissa, subnormals included; times 2^126. */
static __device__ __forceinline__ float mxfp4_value(uint32_t nibble) {
  return __uint_as_float((nibble & 8) << 28 | (nibble & 7) << 22) * 0x1p126f;
}
/* 2^(byte - 127); byte 0 is subnormal, 255 NaN. */
static __device__ __forceinline__ float mxfp4_scale(uint32_t byte) {
  return byte == 255 ? NAN : byte == 0 ? 0x1p-127f : __uint_as_float(byte << 23);
}
static __device__ __forceinline__ float scale_f16(const uint8_t *scales, int64_t block) {
  return f16_to_f32(((const uint16_t *)scales)[block]);
}

/* Where the rows of an expert begin. */
struct weight_rows {
  const uint8_t *part[2];
};
static __device__ __forceinline__ weight_rows weight_row(const ie_cuda_weight &w, int64_t expert,
                                                         int64_t row) {
  weight_rows r;
  for (int i = 0; i < 2; i++)
    r.part[i] = w.part[i] + (size_t)expert * w.expert_bytes[i] + (size_t)row * w.row_bytes[i];
  return r;
}

static __device__ __forceinline__ float row_at(ie_wformat format, const weight_rows &r, int64_t k) {
  switch (format) {
  case IE_W_F32: return ((const float *)r.part[0])[k];
  case IE_W_F16: return f16_to_f32(((const uint16_t *)r.part[0])[k]);
  case IE_W_BF16: return bf16_to_f32(((const uint16_t *)r.part[0])[k]);
  case IE_W_INT8: return (float)((const int8_t *)r.part[0])[k] * scale_f16(r.part[1], k / 32);
  case IE_W_INT4:
    return (float)((int)(r.part[0][k / 2] >> (k % 2 * 4) & 15) - 8) * scale_f16(r.part[1], k / 64);
  default: return mxfp4_value(r.part[0][k / 2] >> (k % 2 * 4) & 15) * mxfp4_scale(r.part[1][k / 32]);
  }
}

/* The number at (row, k) of the first expert. */
static __device__ __forceinline__ float weight_at(const ie_cuda_weight &w, int64_t row, int64_t k) {
  return row_at(w.format, weight_row(w, 0, row), k);
}

static __device__ __forceinline__ float weight_bias(const ie_cuda_weight &w, int64_t expert, int64_t row) {
  return w.bias ? load_as(w.bias, w.bias_dtype, expert * w.bias_stride + row) : 0.0f;
}

#endif
