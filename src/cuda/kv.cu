/* Keys and values to the cache; groups of an int8 cache are quantised when their last position is written. */
#include "blocks/kv_int8.h"
#include "cuda/common.cuh"

enum { APPEND_THREADS = 128 };

static __device__ __forceinline__ void kv_store(const ie_cuda_kv &kv, void *to, int64_t i, float x) {
  if (kv.dtype == IE_F32)
    ((float *)to)[i] = x;
  else
    ((uint16_t *)to)[i] = kv.dtype == IE_F16 ? f32_to_f16(x) : f32_to_bf16(x);
}

/* A block a head of a token. */
static __global__ void append_kernel(ie_cuda_kv_append_args args) {
  launch_wait();
  launch_next();
  const ie_cuda_kv &kv = args.kv;
  int64_t t = blockIdx.x / kv.heads, h = blockIdx.x % kv.heads, D = kv.dim, half = args.half;
  int64_t position = args.position[t];
  if (position < 0) return;
  int64_t from = blockIdx.x * D, to = ((args.sequence[t] * kv.heads + h) * kv.cap + position % kv.cap) * D;
  for (int64_t d = threadIdx.x; d < D; d += blockDim.x) {
    float k = args.k[from + d], v = args.v[from + d];
    if (args.cos && d < 2 * half) {
      bool low = d < half;
      float other = args.k[from + (low ? d + half : d - half)];
      float c = args.cos[t * half + (low ? d : d - half)], s = args.sin[t * half + (low ? d : d - half)];
      k = low ? k * c - other * s : k * c + other * s;
    }
    if (args.check.fault && kv.dtype == IE_F16 && (fabsf(k) > 65504.0f || fabsf(v) > 65504.0f))
      fault_report(args.check, from + d, fabsf(k) > 65504.0f ? k : v);
    kv_store(kv, kv.k, to + d, k);
    kv_store(kv, kv.v, to + d, v);
  }
}

/* --- int8: blocks/kv_int8.c, number by number ------------------------------------------------------------------ */

static __device__ __forceinline__ uint32_t magnitude(float x) {
  return __float_as_uint(x) & 0x7FFFFFFFu;
}
static __device__ __forceinline__ uint16_t scale_of(uint32_t largest) {
  if (largest >= 0x7F800000u) return 0x7FC0;
  float s = __fdiv_rn(__uint_as_float(largest), 127.0f);
  return s < 0x1p-120f ? (uint16_t)0 : (uint16_t)((__float_as_uint(s) + 0xFFFF) >> 16);
}
static __device__ __forceinline__ int8_t quantised(float x, uint16_t scale) {
  float inverse = scale == 0 || scale == 0x7FC0 ? 0.0f : __fdiv_rn(1.0f, bf16_to_f32(scale));
  return (int8_t)(__float_as_uint(__fadd_rn(__fmul_rn(x, inverse), 0x1.8p23f)) & 0xFF);
}

/* A block a head of a token; what completes a group quantises it from the exact numbers. */
static __global__ void quantise_kernel(ie_cuda_kv kv, ie_cuda_kv recent, const int32_t *position,
                                       const int32_t *sequence) {
  __shared__ uint32_t row_largest[IE_KV_GROUP];
  launch_wait();
  launch_next();
  int64_t t = blockIdx.x / kv.heads, h = blockIdx.x % kv.heads, D = kv.dim, p = position[t];
  if (p < 0 || p % IE_KV_GROUP != IE_KV_GROUP - 1) return;
  int64_t row = sequence[t] * kv.heads + h, first = p - (IE_KV_GROUP - 1), to = (row * kv.cap + first) * D;
  int64_t from = (sequence[t] * recent.heads + h) * recent.cap + first % recent.cap;
  for (int i = (int)threadIdx.x; i < IE_KV_GROUP; i += (int)blockDim.x) row_largest[i] = 0;
  __syncthreads();
  for (int64_t d = threadIdx.x; d < D; d += blockDim.x) {
    uint32_t largest = 0;
    for (int i = 0; i < IE_KV_GROUP; i++) {
      uint32_t k = magnitude(load_as(recent.k, recent.dtype, (from + i) * D + d));
      largest = k > largest ? k : largest;
      atomicMax(&row_largest[i], magnitude(load_as(recent.v, recent.dtype, (from + i) * D + d)));
    }
    uint16_t scale = scale_of(largest);
    kv.k_scale[(row * (kv.cap / IE_KV_GROUP) + first / IE_KV_GROUP) * D + d] = scale;
    for (int i = 0; i < IE_KV_GROUP; i++)
      ((int8_t *)kv.k)[to + i * D + d] =
          quantised(load_as(recent.k, recent.dtype, (from + i) * D + d), scale);
  }
  __syncthreads();
  for (int i = (int)threadIdx.x; i < IE_KV_GROUP; i += (int)blockDim.x)
    kv.v_scale[row * kv.cap + first + i] = scale_of(row_largest[i]);
  for (int64_t d = threadIdx.x; d < D; d += blockDim.x)
    for (int i = 0; i < IE_KV_GROUP; i++)
      ((int8_t *)kv.v)[to + i * D + d] =
          quantised(load_as(recent.v, recent.dtype, (from + i) * D + d), scale_of(row_largest[i]));
}

cudaError_t ie_cuda_kv_append(const ie_cuda_queue *queue, const ie_cuda_kv_append_args *args) {
  const ie_cuda_kv *kv = &args->kv;
  int64_t blocks = args->tokens * kv->heads;
  if (args->tokens == 0) return cudaSuccess;
  if (!grid_fits(blocks) || 2 * args->half > kv->dim) return cudaErrorInvalidValue;
  if (kv->dtype != IE_I8)
    return launch(queue, {grid_of(blocks), dim3(APPEND_THREADS), 0}, append_kernel, *args);
  if (!kv->recent || kv->recent->dtype == IE_I8 || kv->recent->cap % IE_KV_GROUP != 0)
    return cudaErrorInvalidValue;
  ie_cuda_kv_append_args exact = *args;
  exact.kv = *kv->recent;
  cudaError_t status = ie_cuda_kv_append(queue, &exact);
  if (status != cudaSuccess) return status;
  return launch(queue, {grid_of(blocks), dim3(APPEND_THREADS), 0}, quantise_kernel, *kv, *kv->recent,
                args->position, args->sequence);
}
