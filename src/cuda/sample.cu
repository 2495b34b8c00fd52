/* From logits to ids: the largest, and what changes between two steps of decode. */
#include "cuda/common.cuh"

enum { ARGMAX_THREADS = 256, ARGMAX_PART = 8192 };

/* The largest so far, its first index; a NaN or +infinity is larger than all, the first of them the largest. */
struct best {
  float value;
  int64_t index;
};
static __device__ __forceinline__ bool is_bad(float x) {
  return !(x < INFINITY);
}
static __device__ __forceinline__ bool is_before(const best &a, const best &b) {
  if (is_bad(a.value) != is_bad(b.value)) return is_bad(a.value);
  if (!is_bad(a.value) && a.value != b.value) return a.value > b.value;
  return a.index < b.index;
}

/* The best of the block's threads, in thread 0. */
static __device__ best block_best(best mine) {
  __shared__ best warps[WARP];
  for (int bits = 16; bits > 0; bits /= 2) {
    best other;
    other.value = __shfl_xor_sync(ALL_LANES, mine.value, bits);
    other.index = __shfl_xor_sync(ALL_LANES, mine.index, bits);
    if (is_before(other, mine)) mine = other;
  }
  if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = mine;
  __syncthreads();
  for (unsigned int i = 0; threadIdx.x == 0 && i < blockDim.x / WARP; i++)
    if (is_before(warps[i], mine)) mine = warps[i];
  return mine;
}

/* A block a part of a row. */
static __global__ void argmax_parts_kernel(best *parts, const float *logits, int64_t vocab, int64_t count) {
  launch_wait();
  launch_next();
  int64_t row = blockIdx.x / count, first = blockIdx.x % count * ARGMAX_PART;
  int64_t end = least_of(first + ARGMAX_PART, vocab);
  best mine = {-INFINITY, vocab};
  for (int64_t i = first + threadIdx.x; i < end; i += ARGMAX_THREADS) {
    best one = {logits[row * vocab + i], i};
    if (is_before(one, mine)) mine = one;
  }
  mine = block_best(mine);
  if (threadIdx.x == 0) parts[blockIdx.x] = mine;
}

/* A block a row. */
static __global__ void argmax_kernel(ie_cuda_argmax_args args, const best *parts, int64_t count) {
  launch_wait();
  launch_next();
  int64_t row = blockIdx.x;
  best mine = {-INFINITY, args.vocab};
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x)
    if (is_before(parts[row * count + i], mine)) mine = parts[row * count + i];
  mine = block_best(mine);
  if (threadIdx.x != 0) return;
  bool good = is_finite(mine.value);
  args.id[row] = good ? (int32_t)mine.index : 0;
  if (!good && args.check.fault)
    fault_report(args.check, row * args.vocab + (mine.index < args.vocab ? mine.index : 0), mine.value);
}

size_t ie_cuda_argmax_scratch(const ie_cuda_argmax_args *args) {
  return (size_t)(args->rows * blocks_for(args->vocab, ARGMAX_PART)) * sizeof(best);
}

cudaError_t ie_cuda_argmax(const ie_cuda_queue *queue, const ie_cuda_argmax_args *args) {
  int64_t count = blocks_for(args->vocab, ARGMAX_PART);
  if (args->rows == 0) return cudaSuccess;
  if (args->vocab < 1 || !args->scratch || !grid_fits(args->rows * count)) return cudaErrorInvalidValue;
  best *parts = (best *)args->scratch;
  cudaError_t status = launch(queue, {grid_of(args->rows * count), dim3(ARGMAX_THREADS), 0},
                              argmax_parts_kernel, parts, args->logits, args->vocab, count);
  if (status != cudaSuccess) return status;
  return launch(queue, {grid_of(args->rows), dim3(WARP), 0}, argmax_kernel, *args, (const best *)parts,
                count);
}

static __global__ void advance_kernel(ie_cuda_advance_args args) {
  launch_wait();
  launch_next();
  int64_t t = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= args.tokens) return;
  int32_t id = args.id[t];
  args.ids[t] = id;
  if (args.position[t] >= 0) args.position[t]++;
  if (args.params) args.params[t].step++;
  if (args.seen && id >= 0 && id < args.vocab)
    atomicOr(&args.seen[t * blocks_for(args.vocab, 32) + id / 32], 1u << id % 32);
}

cudaError_t ie_cuda_advance(const ie_cuda_queue *queue, const ie_cuda_advance_args *args) {
  if (args->tokens == 0) return cudaSuccess;
  return launch(queue, {grid_of(blocks_for(args->tokens, 64)), dim3(64), 0}, advance_kernel, *args);
}
