/* What the chip can do: the gap between launches, read bandwidth, the tensor cores' rate, a barrier of the grid. */
#include "cuda/common.cuh"

enum { READ_THREADS = 512, READ_DEEP = 8, MATRIX_WARPS = 8, MATRIX_CHAINS = 4 };

static __global__ void empty_kernel() {
  launch_wait();
  launch_next();
}

cudaError_t ie_cuda_probe_empty(const ie_cuda_queue *queue) {
  return launch(queue, {dim3(1), dim3(WARP), 0}, empty_kernel);
}

static __global__ void __launch_bounds__(READ_THREADS)
    read_kernel(const uint4 *data, int64_t n, float *sink) {
  launch_wait();
  launch_next();
  int64_t stride = (int64_t)gridDim.x * READ_THREADS;
  uint32_t bits = 0;
  for (int64_t i = (int64_t)blockIdx.x * READ_THREADS + threadIdx.x; i < n; i += READ_DEEP * stride) {
    uint4 v[READ_DEEP];
#pragma unroll
    for (int j = 0; j < READ_DEEP; j++)
      v[j] = i + j * stride < n ? load_once(data + i + j * stride) : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int j = 0; j < READ_DEEP; j++) bits |= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (bits == 0xDEADBEEFu) *sink = 1.0f; /* so that the loads are needed */
}

cudaError_t ie_cuda_probe_read(const ie_cuda_queue *queue, const void *data, size_t bytes, float *sink) {
  if (bytes % 16 != 0 || bytes == 0 || (uintptr_t)data % 16 != 0) return cudaErrorInvalidValue;
  return launch(queue, {grid_of(4 * queue->sms), dim3(READ_THREADS), 0}, read_kernel, (const uint4 *)data,
                (int64_t)(bytes / 16), sink);
}

static __global__ void __launch_bounds__(MATRIX_WARPS *WARP) matrix_kernel(int64_t rounds, float *sink) {
  launch_wait();
  launch_next();
  float d[MATRIX_CHAINS][4] = {};
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; i++)
    a[i] = bf16x2_of((float)((threadIdx.x + i) % 7) - 3.0f, 0.25f * (float)(threadIdx.x % 5));
  for (int i = 0; i < 2; i++)
    b[i] = bf16x2_of(0.125f * (float)(threadIdx.x % 3), (float)((threadIdx.x + i) % 4) - 1.5f);
  for (int64_t r = 0; r < rounds; r++)
#pragma unroll
    for (int i = 0; i < MATRIX_CHAINS; i++) mma_bf16(d[i], a, b);
  float sum = 0;
  for (int i = 0; i < MATRIX_CHAINS; i++) sum += d[i][0] + d[i][1] + d[i][2] + d[i][3];
  if (sum == 12345.678f) *sink = sum;
}

cudaError_t ie_cuda_probe_matrix(const ie_cuda_queue *queue, int64_t rounds, float *sink, double *flop) {
  if (queue->major < 8) return cudaErrorNotSupported;
  int64_t blocks = 2 * queue->sms;
  *flop = 2.0 * 16 * 8 * 16 * MATRIX_CHAINS * MATRIX_WARPS * (double)rounds * (double)blocks;
  return launch(queue, {grid_of(blocks), dim3(MATRIX_WARPS * WARP), 0}, matrix_kernel, rounds, sink);
}

/* The counter grows by the blocks of the grid at each barrier. */
static __global__ void barrier_kernel(uint32_t *counter, int64_t rounds) {
  for (int64_t r = 1; r <= rounds; r++) {
    __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence();
      atomicAdd(counter, 1u);
      while (*(volatile uint32_t *)counter < (uint32_t)(r * gridDim.x)) continue;
      __threadfence();
    }
    __syncthreads();
  }
}

cudaError_t ie_cuda_probe_barrier(const ie_cuda_queue *queue, uint32_t *counter, int64_t rounds) {
  if (rounds * queue->sms > INT32_MAX) return cudaErrorInvalidValue;
  return launch_together(queue, {grid_of(queue->sms), dim3(256), 0}, barrier_kernel, counter, rounds);
}
