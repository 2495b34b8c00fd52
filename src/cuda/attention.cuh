/* The two kernels of attention: any cache and any class (attention_split.cu), and tiles on the tensor cores for many
 * tokens of a sequence (attention_tiled.cu). */
#ifndef CLOCHER_CUDA_ATTENTION_CUH
#define CLOCHER_CUDA_ATTENTION_CUH

#include "cuda/common.cuh"

/* First position that the query at position p sees. */
static __device__ __forceinline__ int64_t window_start(int64_t window, int64_t p) {
  return window > 0 && p - window + 1 > 0 ? p - window + 1 : 0;
}

bool attention_tiled_takes(const ie_cuda_queue *queue, const ie_cuda_attention_args *args);
cudaError_t attention_tiled(const ie_cuda_queue *queue, const ie_cuda_attention_args *args);

#endif
