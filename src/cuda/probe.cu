/* What the chip can do: the gap between launches, read bandwidth, the tensor cores' rate, a barrier of the grid. */
#include "cuda/common.cuh"
#include "cuda/wgmma_tile.cuh"

enum {
  READ_THREADS = 512,
  READ_DEEP = 8,
  MATRIX_WARPS = 8,
  MATRIX_CHAINS = 4,
  WGMMA_GROUPS = 2, /* warpgroups, of 64 x WGMMA_N sums each */
  WGMMA_THREADS = WGMMA_GROUPS * 4 * WARP,
  WGMMA_N = 256
};

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

static __global__ void __launch_bounds__(WGMMA_BUILT ? WGMMA_THREADS : WARP, 1)
    matrix_wgmma_kernel(int64_t rounds, float *sink) {
  if constexpr (WGMMA_BUILT) {
    DYNAMIC_SHARED(shared);
    launch_wait();
    launch_next();
    unsigned char *tile = tile_first(shared);
    for (int i = (int)threadIdx.x; i < WGMMA_N * TILE_TOKEN_BYTES / 16; i += WGMMA_THREADS) {
      uint32_t pair = bf16x2_of(0.125f * (float)(i % 3), (float)(i % 4) - 1.5f);
      shared_store(tile + 16 * i, make_uint4(pair, pair ^ 0x8000u, pair, pair));
    }
    shared_publish();
    __syncthreads();
    float d[WGMMA_N / 2] = {}, sum = 0;
    uint32_t a[TILE_STEPS][4];
#pragma unroll
    for (int i = 0; i < TILE_STEPS * 4; i++)
      a[i / 4][i % 4] = bf16x2_of((float)((threadIdx.x + i) % 7) - 3.0f, 0.25f * (float)(threadIdx.x % 5));
    uint64_t b = tile_descriptor(shared_address(tile));
    for (int64_t r = 0; r < rounds; r++) {
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < TILE_STEPS; i++) wgmma_bf16(d, a[i], tile_further(b, i * TILE_STEP_BYTES));
      wgmma_commit();
      wgmma_wait<1>();
    }
    wgmma_wait<0>();
    wgmma_keep(d);
#pragma unroll
    for (int i = 0; i < WGMMA_N / 2; i++) sum += d[i];
    if (sum == 12345.678f) *sink = sum;
  } else {
    wgmma_absent();
  }
}

cudaError_t ie_cuda_probe_matrix(const ie_cuda_queue *queue, int64_t rounds, float *sink, double *flop) {
  if (queue->major < 8) return cudaErrorNotSupported;
  if (queue->wgmma != IE_CUDA_WGMMA_NEVER) {
    *flop = 2.0 * 64 * WGMMA_N * TILE_COLS * WGMMA_GROUPS * (double)rounds * (double)queue->sms;
    return launch(queue, {grid_of(queue->sms), dim3(WGMMA_THREADS), WGMMA_N * TILE_TOKEN_BYTES + TILE_ALIGN},
                  matrix_wgmma_kernel, rounds, sink);
  }
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
