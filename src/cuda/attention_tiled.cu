/* Attention of many tokens on the tensor cores (FlashAttention-2, Dao 2023, algorithm 1), class bf16, caches of bf16 and
 * f16. The class has q and the softmax's numerators in f32: each is taken as the sum of two numbers of the cache's type, 22
 * bits of f16 or 16 of bf16, and multiplied in two steps. Of a prefill's work attention is a few percent.
 *
 * A block has 64 query rows that share a KV head: the group's query heads of 64 / group neighbouring tokens; a warp has
 * 16 of them. Tiles of 64 keys and values come by asynchronous copies, one tile ahead. Where the block's tokens belong to
 * several sequences, it goes through the keys of one after the other; rows of the others see nothing meanwhile. */
#include "cuda/attention.cuh"

enum { WARPS = 4, THREADS = WARPS * WARP, ROWS = 64, KEYS = 64, PAD = 8, RUN_LEAST = 8 };

/* The cache's numbers: two of them in a register, and their product. */
struct of_bf16 {
  static __device__ __forceinline__ uint32_t pair(float low, float high) { return bf16x2_of(low, high); }
  static __device__ __forceinline__ float number(uint32_t bits) { return bf16_to_f32((uint16_t)bits); }
  static __device__ __forceinline__ float bounded(float x) { return x; }
  static __device__ __forceinline__ void mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    mma_bf16(d, a, b);
  }
};
struct of_f16 {
  static __device__ __forceinline__ uint32_t pair(float low, float high) { return f16x2_of(low, high); }
  static __device__ __forceinline__ float number(uint32_t bits) { return f16_to_f32((uint16_t)bits); }
  /* Beyond it two parts would be inf - inf; NaN passes. */
  static __device__ __forceinline__ float bounded(float x) {
    return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
  }
  static __device__ __forceinline__ void mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    mma_f16(d, a, b);
  }
};

/* Two numbers, as the sum of two of the cache's each. */
struct number_parts {
  uint32_t upper, lower;
};
template <class E> static __device__ __forceinline__ number_parts parts_of(float low, float high) {
  low = E::bounded(low), high = E::bounded(high);
  uint32_t upper = E::pair(low, high);
  return {upper, E::pair(low - E::number(upper & 0xFFFF), high - E::number(upper >> 16))};
}

struct tiled_job {
  ie_cuda_attention_args args;
  int64_t group, tokens; /* query heads of a KV head; tokens of a block */
};

/* Neighbouring tokens of one sequence in the block. */
struct token_run {
  int64_t first, end, sequence, lo, hi; /* keys lo <= p < hi */
};
static __device__ token_run run_at(const tiled_job &job, int64_t first, int64_t end) {
  const ie_cuda_attention_args &args = job.args;
  token_run run = {first, first + 1, args.sequence[first], 0, 0};
  if (args.position[first] < 0) return run; /* padding: no keys */
  while (run.end < end && args.sequence[run.end] == run.sequence && args.position[run.end] >= 0) run.end++;
  run.lo = window_start(args.window, args.position[first]) / KEYS * KEYS;
  run.hi = args.position[run.end - 1] + 1;
  return run;
}

/* Keys and values p0 .. p0 + 63 to a stage. */
template <int D>
static __device__ __forceinline__ void tile_copy(uint16_t *stage, const tiled_job &job, const token_run &run,
                                                 int64_t h, int64_t p0) {
  enum { PIECES = D / 8, STEP = D + PAD };
  const ie_cuda_kv &kv = job.args.kv;
  for (int i = (int)threadIdx.x; i < KEYS * PIECES; i += THREADS) {
    int key = i / PIECES, piece = i % PIECES * 8;
    bool valid = p0 + key < run.hi;
    int64_t at =
        ((run.sequence * kv.heads + h) * kv.cap + slot_of(valid ? p0 + key : p0, kv.cap)) * D + piece;
    copy_async(stage + key * STEP + piece, (const uint16_t *)kv.k + at, valid);
    copy_async(stage + (KEYS + key) * STEP + piece, (const uint16_t *)kv.v + at, valid);
  }
}

/* What a lane knows of its two query rows, 16 w + g and + 8 of the block. */
struct lane_queries {
  int64_t token[2], head[2];
  bool real[2];
  float m[2], l[2];
};

static __device__ lane_queries queries_of(const tiled_job &job, int64_t first, int64_t h) {
  lane_queries q;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int64_t row = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4 + 8 * i;
    q.token[i] = first + row / job.group;
    q.head[i] = h * job.group + row % job.group;
    q.real[i] = row < job.tokens * job.group && q.token[i] < job.args.tokens;
    bool sink = q.real[i] && job.args.sinks.data;
    q.m[i] = sink ? load_as(job.args.sinks.data, job.args.sinks.dtype, q.head[i]) : -INFINITY;
    q.l[i] = sink ? 1.0f : 0.0f;
  }
  return q;
}

/* The rows' numbers as operand A, in steps of 16 dimensions: their upper parts, then the lower ones. */
template <int D, class E>
static __device__ __forceinline__ void queries_load(uint32_t a[2][D / 16][4], const tiled_job &job,
                                                    const lane_queries &q) {
  int t = (int)(threadIdx.x % 4);
#pragma unroll
  for (int k = 0; k < D / 16; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float *x =
          job.args.q + (q.token[i % 2] * job.args.heads + q.head[i % 2]) * D + 16 * k + 2 * t + i / 2 * 8;
      number_parts x_parts = {0, 0};
      if (q.real[i % 2]) x_parts = parts_of<E>(x[0], x[1]);
      a[0][k][i] = x_parts.upper;
      a[1][k][i] = x_parts.lower;
    }
}

/* s (16, 64) = q k^T of a tile */
template <int D, class E>
static __device__ __forceinline__ void tile_scores(float s[KEYS / 8][4], const uint32_t a[2][D / 16][4],
                                                   const uint16_t *keys) {
  int m = (int)(threadIdx.x % WARP) / 8, r = (int)(threadIdx.x % 8);
#pragma unroll
  for (int n = 0; n < KEYS / 8; n += 2) {
#pragma unroll
    for (int i = 0; i < 4; i++) s[n][i] = s[n + 1][i] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
      uint32_t b[4];
      matrix_load(b, keys + (n * 8 + m / 2 * 8 + r) * (D + PAD) + 16 * k + m % 2 * 8);
#pragma unroll
      for (int part = 1; part >= 0; part--) {
        E::mma(s[n], a[part][k], b);
        E::mma(s[n + 1], a[part][k], b + 2);
      }
    }
  }
}

/* Masks, scales and exponentiates s; the running maximum and total move on. keep[i]: what row i's sum is multiplied by. */
static __device__ __forceinline__ void tile_softmax(float s[KEYS / 8][4], float keep[2], lane_queries &q,
                                                    const tiled_job &job, const token_run &run, int64_t p0) {
  int t = (int)(threadIdx.x % 4);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    bool in = q.real[i] && q.token[i] >= run.first && q.token[i] < run.end;
    int64_t position = in ? job.args.position[q.token[i]] : -1;
    int64_t lo = window_start(job.args.window, position);
    float most = q.m[i];
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        int64_t p = p0 + n * 8 + 2 * t + j;
        float *x = &s[n][2 * i + j];
        *x = in && p >= lo && p <= position ? *x * job.args.scale : -INFINITY;
        most = fmaxf(most, *x);
      }
    most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
    most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
    keep[i] = q.m[i] == -INFINITY ? 0.0f : expf(q.m[i] - most);
    float total = 0;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        float *x = &s[n][2 * i + j];
        *x = *x == -INFINITY ? 0.0f : expf(*x - most);
        total += *x;
      }
    total += __shfl_xor_sync(ALL_LANES, total, 1);
    total += __shfl_xor_sync(ALL_LANES, total, 2);
    q.l[i] = q.l[i] * keep[i] + total;
    q.m[i] = most;
  }
}

/* acc (16, D) += p v of a tile */
template <int D, class E>
static __device__ __forceinline__ void tile_values(float acc[D / 8][4], const float p[KEYS / 8][4],
                                                   const uint16_t *values) {
  int m = (int)(threadIdx.x % WARP) / 8, r = (int)(threadIdx.x % 8);
#pragma unroll
  for (int k = 0; k < KEYS / 16; k++) {
    const float *low = p[2 * k], *high = p[2 * k + 1];
    const number_parts x[4] = {parts_of<E>(low[0], low[1]), parts_of<E>(low[2], low[3]),
                               parts_of<E>(high[0], high[1]), parts_of<E>(high[2], high[3])};
    const uint32_t upper[4] = {x[0].upper, x[1].upper, x[2].upper, x[3].upper},
                   lower[4] = {x[0].lower, x[1].lower, x[2].lower, x[3].lower};
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t b[4];
      matrix_load_transposed(b, values + (16 * k + m % 2 * 8 + r) * (D + PAD) + n * 8 + m / 2 * 8);
      E::mma(acc[n], lower, b);
      E::mma(acc[n + 1], lower, b + 2);
      E::mma(acc[n], upper, b);
      E::mma(acc[n + 1], upper, b + 2);
    }
  }
}

template <int D, class E>
static __global__ void __launch_bounds__(THREADS) tiled_kernel(const __grid_constant__ tiled_job job) {
  enum { STAGE = 2 * KEYS * (D + PAD) };
  DYNAMIC_SHARED(memory);
  launch_wait();
  launch_next();
  uint16_t *stage = (uint16_t *)memory;
  const ie_cuda_attention_args &args = job.args;
  /* the last tokens have the most keys: first */
  int64_t blocks = blocks_for(args.tokens, job.tokens), h = blockIdx.x % args.kv.heads;
  int64_t first = (blocks - 1 - blockIdx.x / args.kv.heads) * job.tokens,
          end = least_of(first + job.tokens, args.tokens);
  lane_queries q = queries_of(job, first, h);
  uint32_t a[2][D / 16][4];
  queries_load<D, E>(a, job, q);
  float acc[D / 8][4] = {};
  for (int64_t at = first; at < end;) {
    token_run run = run_at(job, at, end);
    at = run.end;
    if (run.lo < run.hi) tile_copy<D>(stage, job, run, h, run.lo);
    copy_async_commit();
    for (int64_t p0 = run.lo, n = 0; p0 < run.hi; p0 += KEYS, n++) {
      if (p0 + KEYS < run.hi) tile_copy<D>(stage + (n + 1) % 2 * STAGE, job, run, h, p0 + KEYS);
      copy_async_commit();
      copy_async_wait<1>();
      __syncthreads();
      float s[KEYS / 8][4], keep[2];
      const uint16_t *keys = stage + n % 2 * STAGE;
      tile_scores<D, E>(s, a, keys);
      tile_softmax(s, keep, q, job, run, p0);
#pragma unroll
      for (int i = 0; i < D / 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][j] *= keep[j / 2];
      tile_values<D, E>(acc, s, keys + KEYS * (D + PAD));
      __syncthreads();
    }
  }
  copy_async_wait<0>();
  int t = (int)(threadIdx.x % 4);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    if (!q.real[i]) continue;
    float *y = args.y + (q.token[i] * args.heads + q.head[i]) * D;
    bool seen = q.l[i] != 0.0f && args.position[q.token[i]] >= 0;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) y[n * 8 + 2 * t + j] = seen ? acc[n][2 * i + j] / q.l[i] : 0.0f;
  }
}

/* --- Launching ------------------------------------------------------------------------------------------------------ */

bool attention_tiled_takes(const ie_cuda_queue *queue, const ie_cuda_attention_args *args) {
  int64_t D = args->kv.dim, group = args->heads / args->kv.heads;
  return args->cls == IE_CLASS_BF16 && (args->kv.dtype == IE_BF16 || args->kv.dtype == IE_F16) &&
         queue->major >= 8 && group <= ROWS && (D == 16 || D == 32 || D == 64 || D == 128) &&
         args->longest_run >= RUN_LEAST && (uintptr_t)args->kv.k % 16 == 0 && (uintptr_t)args->kv.v % 16 == 0;
}

template <int D, class E>
static cudaError_t tiled_launch_of(const ie_cuda_queue *queue, const tiled_job *job) {
  int64_t blocks = blocks_for(job->args.tokens, job->tokens) * job->args.kv.heads;
  if (!grid_fits(blocks)) return cudaErrorInvalidValue;
  return launch(queue, {grid_of(blocks), dim3(THREADS), (size_t)(4 * KEYS * (D + PAD)) * sizeof(uint16_t)},
                tiled_kernel<D, E>, *job);
}
template <int D> static cudaError_t tiled_launch(const ie_cuda_queue *queue, const tiled_job *job) {
  return job->args.kv.dtype == IE_F16 ? tiled_launch_of<D, of_f16>(queue, job)
                                      : tiled_launch_of<D, of_bf16>(queue, job);
}

cudaError_t attention_tiled(const ie_cuda_queue *queue, const ie_cuda_attention_args *args) {
  tiled_job job = {*args, args->heads / args->kv.heads, 0};
  job.tokens = ROWS / job.group;
  switch (args->kv.dim) {
  case 16: return tiled_launch<16>(queue, &job);
  case 32: return tiled_launch<32>(queue, &job);
  case 64: return tiled_launch<64>(queue, &job);
  default: return tiled_launch<128>(queue, &job);
  }
}
