/* The two kernels of attention: any cache and any class (attention_split.cu), and tiles on the tensor cores for many
 * tokens of a sequence (attention_tiled.cu). */
#ifndef CLOCHER_CUDA_ATTENTION_CUH
#define CLOCHER_CUDA_ATTENTION_CUH

#include "cuda/common.cuh"

/* First position that the query at position p sees. */
static __device__ __forceinline__ int64_t window_start(int64_t window, int64_t p) {
  return window > 0 && p - window + 1 > 0 ? p - window + 1 : 0;
}

/* Slot of a position in a ring of cap slots: both are below 2^31, and dividing 64 bits takes several times as long. */
static __device__ __forceinline__ int64_t slot_of(int64_t p, int64_t cap) {
  return (uint32_t)p % (uint32_t)cap;
}

bool attention_tiled_takes(const ie_cuda_queue *queue, const ie_cuda_attention_args *args);
cudaError_t attention_tiled(const ie_cuda_queue *queue, const ie_cuda_attention_args *args);

#endif
