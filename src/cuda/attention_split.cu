/* Attention in f32 over any cache, the context split over blocks: decode, class fp32, int8 caches.
 *
 * A block has one token, up to GH query heads of one KV head, and one part of the keys; its warps take 32 keys at a time:
 * a lane a key for q . k, a lane some dimensions for the sum of values. Parts meet in a second kernel. */
#include "blocks/kv_int8.h"
#include "cuda/attention.cuh"

enum { WARPS = 4, THREADS = WARPS * WARP, DIM_MAX = 1024, PART_KEYS = WARPS * WARP, BLOCKS_WANTED = 512 };

struct split_job {
  ie_cuda_attention_args args;
  ie_cuda_kv recent;
  int64_t splits, group, chunks; /* query heads of a KV head; blocks that share them */
  float *parts;                  /* (T, H, splits, D + 2): sum, maximum, total */
  bool vector;                   /* rows of keys may be read 16 bytes at a time */
};

/* One sequence's keys and values of a KV head, as the query at a position sees them. */
struct kv_view {
  const ie_cuda_kv *exact, *packed; /* packed: int8, for positions below `limit` */
  int64_t exact_row, packed_row;    /* b * HK + h */
  int64_t limit;
};
static __device__ __forceinline__ kv_view view_of(const split_job &job, int64_t sequence, int64_t h,
                                                  int64_t position) {
  kv_view view = {&job.args.kv, NULL, sequence * job.args.kv.heads + h, 0, 0};
  if (job.args.kv.dtype != IE_I8) return view;
  view.packed = &job.args.kv;
  view.packed_row = view.exact_row;
  view.exact = &job.recent;
  view.limit = position / IE_KV_GROUP * IE_KV_GROUP;
  return view;
}

static __device__ __forceinline__ float key_at(const kv_view &v, int64_t p, int64_t d) {
  int64_t D = v.exact->dim;
  if (p >= v.limit)
    return load_as(v.exact->k, v.exact->dtype,
                   (v.exact_row * v.exact->cap + slot_of(p, v.exact->cap)) * D + d);
  int64_t cap = v.packed->cap;
  return (float)((const int8_t *)v.packed->k)[(v.packed_row * cap + p) * D + d] *
         bf16_to_f32(v.packed->k_scale[(v.packed_row * (cap / IE_KV_GROUP) + p / IE_KV_GROUP) * D + d]);
}
static __device__ __forceinline__ float value_at(const kv_view &v, int64_t p, int64_t d) {
  int64_t D = v.exact->dim;
  if (p >= v.limit)
    return load_as(v.exact->v, v.exact->dtype,
                   (v.exact_row * v.exact->cap + slot_of(p, v.exact->cap)) * D + d);
  int64_t at = v.packed_row * v.packed->cap + p;
  return (float)((const int8_t *)v.packed->v)[at * D + d] * bf16_to_f32(v.packed->v_scale[at]);
}
/* Eight dimensions of a key of a float cache, aligned. */
static __device__ __forceinline__ void key_load8(float x[8], const ie_cuda_kv &kv, int64_t at) {
  if (kv.dtype == IE_F32) {
    float4 a = *(const float4 *)((const float *)kv.k + at),
           b = *(const float4 *)((const float *)kv.k + at + 4);
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    return;
  }
  uint4 v = *(const uint4 *)((const uint16_t *)kv.k + at);
  const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 8; i++) {
    uint16_t h = (uint16_t)(word[i / 2] >> 16 * (i % 2));
    x[i] = kv.dtype == IE_F16 ? f16_to_f32(h) : bf16_to_f32(h);
  }
}

/* q . k of GH heads for the lane's key; q (GH, D) in shared memory. */
template <int GH>
static __device__ __forceinline__ void scores(float s[GH], const split_job &job, const kv_view &view,
                                              const float *q, int64_t p) {
  int64_t D = job.args.kv.dim;
#pragma unroll
  for (int h = 0; h < GH; h++) s[h] = 0;
  if (job.vector && !view.packed) {
    int64_t at = (view.exact_row * view.exact->cap + slot_of(p, view.exact->cap)) * D;
    for (int64_t d = 0; d < D; d += 8) {
      float k[8];
      key_load8(k, *view.exact, at + d);
#pragma unroll
      for (int h = 0; h < GH; h++)
        for (int i = 0; i < 8; i++) s[h] += q[h * D + d + i] * k[i];
    }
    return;
  }
  for (int64_t d = 0; d < D; d++) {
    float k = key_at(view, p, d);
#pragma unroll
    for (int h = 0; h < GH; h++) s[h] += q[h * D + d] * k;
  }
}

/* Running softmax of a warp: GH heads, dimension lane + 32 i of each in acc. */
template <int GH, int DL> struct running { float m[GH], l[GH], acc[GH][DL]; };

/* Shared memory of a warp: the block's queries (GH, D) and its own softmax numerators (32, GH). */
struct warp_memory {
  const float *q;
  float *p;
};

/* Keys first .. first + 31 below end. */
template <int GH, int DL>
static __device__ __forceinline__ void keys_add(running<GH, DL> &r, const split_job &job, const kv_view &view,
                                                const warp_memory &memory, int64_t first, int64_t end) {
  int lane = (int)(threadIdx.x % WARP);
  int64_t D = job.args.kv.dim, mine = first + lane;
  float s[GH], *p = memory.p;
  scores<GH>(s, job, view, memory.q, mine < end ? mine : end - 1);
#pragma unroll
  for (int h = 0; h < GH; h++) {
    s[h] = mine < end ? s[h] * job.args.scale : -INFINITY;
    float m = fmaxf(r.m[h], warp_max(s[h]));
    float keep = r.m[h] == -INFINITY ? 0.0f : expf(r.m[h] - m);
    float e = mine < end ? expf(s[h] - m) : 0.0f;
    p[lane * GH + h] = e;
    r.l[h] = r.l[h] * keep + warp_sum(e);
    r.m[h] = m;
#pragma unroll
    for (int i = 0; i < DL; i++) r.acc[h][i] *= keep;
  }
  __syncwarp();
  int count = (int)least_of(end - first, WARP);
#pragma unroll 4
  for (int j = 0; j < count; j++) {
#pragma unroll
    for (int i = 0; i < DL; i++) {
      if (lane + WARP * i >= D) break;
      float v = value_at(view, first + j, lane + WARP * i);
#pragma unroll
      for (int h = 0; h < GH; h++) r.acc[h][i] += p[j * GH + h] * v;
    }
  }
  __syncwarp();
}

/* What a block found for one head goes to its part, or with the sink to y. */
static __device__ __forceinline__ void head_store(const split_job &job, int64_t t, int64_t head, int64_t part,
                                                  int64_t d, const float found[3]) {
  const ie_cuda_attention_args &args = job.args;
  int64_t D = args.kv.dim, row = t * args.heads + head;
  float m = found[0], l = found[1], sum = found[2];
  if (job.splits > 1) {
    float *to = job.parts + (row * job.splits + part) * (D + 2);
    to[d] = sum;
    if (d == 0) to[D] = m, to[D + 1] = l;
    return;
  }
  if (args.sinks.data) {
    float sink = load_as(args.sinks.data, args.sinks.dtype, head), most = fmaxf(m, sink);
    float keep = m == -INFINITY ? 0.0f : expf(m - most);
    l = l * keep + expf(sink - most);
    sum *= keep;
  }
  args.y[row * D + d] = l == 0.0f ? 0.0f : sum / l;
}

/* The warps' results become the block's. `all` (WARPS, GH, 32 DL + 2) in shared memory. */
template <int GH, int DL>
static __device__ void warps_merge(const running<GH, DL> &r, const split_job &job, float *all,
                                   const int64_t at[3]) {
  enum { STEP = WARP * DL + 2 };
  int lane = (int)(threadIdx.x % WARP), warp = (int)(threadIdx.x / WARP);
#pragma unroll
  for (int h = 0; h < GH; h++) {
    float *to = all + (warp * GH + h) * STEP;
    for (int i = 0; i < DL; i++) to[lane + WARP * i] = r.acc[h][i];
    if (lane == 0) to[WARP * DL] = r.m[h], to[WARP * DL + 1] = r.l[h];
  }
  __syncthreads();
  int64_t D = job.args.kv.dim;
  for (int64_t n = threadIdx.x; n < GH * D; n += THREADS) {
    int64_t h = n / D, d = n % D;
    if (at[1] + h >= at[2]) break;
    float found[3] = {-INFINITY, 0, 0};
    for (int w = 0; w < WARPS; w++) found[0] = fmaxf(found[0], all[(w * GH + h) * STEP + WARP * DL]);
    for (int w = 0; w < WARPS; w++) {
      const float *from = all + (w * GH + h) * STEP;
      float keep = from[WARP * DL] == -INFINITY ? 0.0f : expf(from[WARP * DL] - found[0]);
      found[1] += keep * from[WARP * DL + 1];
      found[2] += keep * from[d];
    }
    head_store(job, at[0], at[1] + h, blockIdx.x % job.splits, d, found);
  }
}

template <int GH, int DL>
static __global__ void __launch_bounds__(THREADS) split_kernel(const __grid_constant__ split_job job) {
  DYNAMIC_SHARED(memory);
  launch_wait();
  launch_next();
  const ie_cuda_attention_args &args = job.args;
  int64_t D = args.kv.dim, split = blockIdx.x % job.splits, unit = blockIdx.x / job.splits;
  int64_t chunk = unit % job.chunks, h = unit / job.chunks % args.kv.heads,
          t = unit / job.chunks / args.kv.heads;
  int64_t head = h * job.group + chunk * GH, head_end = (h + 1) * job.group, position = args.position[t];
  float *q = (float *)memory, *p = q + GH * D;
  for (int64_t n = threadIdx.x; n < GH * D; n += THREADS)
    q[n] = head + n / D < head_end ? args.q[(t * args.heads + head) * D + n] : 0.0f;
  __syncthreads();
  running<GH, DL> r = {};
#pragma unroll
  for (int i = 0; i < GH; i++) r.m[i] = -INFINITY;
  int64_t lo = window_start(args.window, position), keys = position + 1 - lo;
  int64_t each = blocks_for(blocks_for(keys, job.splits), WARP) * WARP;
  int64_t first = lo + split * each, end = least_of(first + each, lo + keys);
  int warp = (int)(threadIdx.x / WARP);
  kv_view view = view_of(job, args.sequence[t], h, position);
  warp_memory own = {q, p + warp * WARP * GH};
  for (int64_t k = first + warp * WARP; position >= 0 && k < end; k += PART_KEYS)
    keys_add<GH, DL>(r, job, view, own, k, end);
  __syncthreads();
  const int64_t at[3] = {t, head, head_end};
  warps_merge<GH, DL>(r, job, (float *)memory, at);
}

/* A block a head of a token: the parts, weighted by their maxima, and the sink. */
static __global__ void combine_kernel(split_job job) {
  launch_wait();
  launch_next();
  const ie_cuda_attention_args &args = job.args;
  int64_t D = args.kv.dim, row = blockIdx.x;
  const float *parts = job.parts + row * job.splits * (D + 2);
  float most = args.sinks.data ? load_as(args.sinks.data, args.sinks.dtype, row % args.heads) : -INFINITY,
        sink = most;
  for (int64_t s = 0; s < job.splits; s++) most = fmaxf(most, parts[s * (D + 2) + D]);
  if (args.position[row / args.heads] < 0) most = -INFINITY;
  for (int64_t d = threadIdx.x; d < D; d += blockDim.x) {
    float sum = 0, l = args.sinks.data ? expf(sink - most) : 0.0f;
    for (int64_t s = 0; s < job.splits; s++) {
      const float *part = parts + s * (D + 2);
      float keep = part[D] == -INFINITY ? 0.0f : expf(part[D] - most);
      l += keep * part[D + 1];
      sum += keep * part[d];
    }
    args.y[row * D + d] = most == -INFINITY ? 0.0f : sum / l;
  }
}

/* --- Launching ------------------------------------------------------------------------------------------------------ */

/* Query heads of a block, for so many dimensions a lane. */
static int64_t heads_of_block(int64_t group, int64_t D) {
  if (D > 256) return 1;
  int64_t most = D > 128 ? 4 : 8, n = 1;
  while (n < group && n < most) n *= 2;
  return n;
}

static split_job job_of(const ie_cuda_attention_args *args) {
  split_job job = {};
  job.args = *args;
  if (args->kv.recent) job.recent = *args->kv.recent;
  job.group = args->heads / args->kv.heads;
  job.chunks = blocks_for(job.group, heads_of_block(job.group, args->kv.dim));
  int64_t blocks = args->tokens * args->kv.heads * job.chunks;
  job.splits = least_of(BLOCKS_WANTED / (blocks > 0 ? blocks : 1), blocks_for(args->key_bound, PART_KEYS));
  if (job.splits < 1) job.splits = 1;
  job.parts = (float *)args->scratch;
  job.vector = args->kv.dtype != IE_I8 && args->kv.dim % 8 == 0 && (uintptr_t)args->kv.k % 16 == 0;
  return job;
}

size_t ie_cuda_attention_scratch(const ie_cuda_attention_args *args) {
  if (args->tokens < 1 || args->kv.heads < 1) return 0;
  split_job job = job_of(args);
  return job.splits == 1
             ? 0
             : (size_t)(args->tokens * args->heads * job.splits) * (size_t)(args->kv.dim + 2) * sizeof(float);
}

template <int GH, int DL> static cudaError_t split_launch(const ie_cuda_queue *queue, const split_job *job) {
  int64_t D = job->args.kv.dim, blocks = job->args.tokens * job->args.kv.heads * job->chunks * job->splits;
  int64_t loop = GH * D + THREADS * GH, merge = WARPS * GH * (WARP * DL + 2);
  if (!grid_fits(blocks)) return cudaErrorInvalidValue;
  size_t shared = (size_t)(loop > merge ? loop : merge) * sizeof(float);
  return launch(queue, {grid_of(blocks), dim3(THREADS), shared}, split_kernel<GH, DL>, *job);
}

template <int DL> static cudaError_t split_heads(const ie_cuda_queue *queue, const split_job *job) {
  switch (heads_of_block(job->group, job->args.kv.dim)) {
  case 1: return split_launch<1, DL>(queue, job);
  case 2: return split_launch<2, DL>(queue, job);
  case 4: return split_launch<4, DL>(queue, job);
  default: return split_launch<8, DL>(queue, job);
  }
}

cudaError_t ie_cuda_attention(const ie_cuda_queue *queue, const ie_cuda_attention_args *args) {
  int64_t D = args->kv.dim;
  if (args->tokens == 0) return cudaSuccess;
  if (D < 1 || args->kv.heads < 1 || args->heads % args->kv.heads != 0 || args->key_bound < 1 ||
      (args->kv.dtype == IE_I8 && (!args->kv.recent || args->window > 0)))
    return cudaErrorInvalidValue;
  if (D > DIM_MAX) return cudaErrorNotSupported;
  if (attention_tiled_takes(queue, args)) return attention_tiled(queue, args);
  split_job job = job_of(args);
  if (job.splits > 1 && !args->scratch) return cudaErrorInvalidValue;
  cudaError_t status = D <= 32    ? split_heads<1>(queue, &job)
                       : D <= 64  ? split_heads<2>(queue, &job)
                       : D <= 128 ? split_heads<4>(queue, &job)
                       : D <= 256 ? split_heads<8>(queue, &job)
                                  : split_launch<1, 32>(queue, &job);
  if (status != cudaSuccess || job.splits == 1) return status;
  return launch(queue, {grid_of(args->tokens * args->heads), dim3(64), 0}, combine_kernel, job);
}
