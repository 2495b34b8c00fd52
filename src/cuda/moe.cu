/* Routing and the mixture of experts. Few tokens: each pair of token and expert by itself, two launches. Many: pairs
 * sorted by expert (a stable counting sort in one block), tiles of one expert's pairs, two grouped products. */
#include "cuda/products.cuh"

enum {
  EXPERTS_MOST = 1024,
  TOP_MOST = 64,
  ROUTE_WARPS = 4,
  SORT_THREADS = 1024,
  FEW_MOE_TOKENS = 4, /* beyond, tokens share experts often enough that reading each once per tile wins */
  FOLD_MOST = 8       /* experts of a token that products_fold takes */
};

/* --- Routing ---------------------------------------------------------------------------------------------------- */

struct choice {
  float value;
  int32_t index; /* -1: none yet */
};
static __device__ __forceinline__ bool is_better(const choice &a, const choice &b) {
  return a.index >= 0 && (b.index < 0 || a.value > b.value || (a.value == b.value && a.index < b.index));
}

/* The best of the warp's E numbers that were not taken. */
static __device__ choice choose(const float *logits, const uint8_t *taken, int64_t E) {
  choice best = {0, -1};
  for (int64_t e = threadIdx.x % WARP; e < E; e += WARP) {
    choice one = {logits[e], (int32_t)e};
    if (!taken[e] && is_better(one, best)) best = one;
  }
  for (int bits = 16; bits > 0; bits /= 2) {
    choice other;
    other.value = __shfl_xor_sync(ALL_LANES, best.value, bits);
    other.index = __shfl_xor_sync(ALL_LANES, best.index, bits);
    if (is_better(other, best)) best = other;
  }
  return best;
}

/* A warp a token. */
static __global__ void route_kernel(ie_cuda_route_args args) {
  __shared__ uint8_t taken_all[ROUTE_WARPS][EXPERTS_MOST];
  __shared__ float weight_all[ROUTE_WARPS][TOP_MOST];
  launch_wait();
  launch_next();
  int warp = (int)(threadIdx.x / WARP), lane = (int)(threadIdx.x % WARP);
  int64_t t = (int64_t)blockIdx.x * ROUTE_WARPS + warp, E = args.experts, k = args.top_k;
  if (t >= args.tokens) return; /* a whole warp; no barrier of the block follows */
  const float *logits = args.logits + t * E;
  uint8_t *taken = taken_all[warp];
  float *weight = weight_all[warp];
  for (int64_t e = lane; e < E; e += WARP) {
    finite_check(args.check, t * E + e, logits[e]);
    taken[e] = 0;
  }
  __syncwarp();
  for (int64_t j = 0; j < k; j++) {
    choice best = choose(logits, taken, E);
    __syncwarp();
    if (lane == 0) {
      if (best.index < 0) best.index = 0; /* NaNs only: named by the check */
      taken[best.index] = 1;
      weight[j] = best.value;
      args.expert[t * k + j] = best.index;
    }
    __syncwarp();
  }
  if (lane != 0) return;
  float sum = 0, top = weight[0];
  for (int64_t j = 0; j < k; j++) sum += weight[j] = exact_exp(weight[j] - top);
  for (int64_t j = 0; j < k; j++) args.weight[t * k + j] = weight[j] / sum;
}

cudaError_t ie_cuda_route(const ie_cuda_queue *queue, const ie_cuda_route_args *args) {
  if (args->experts < 1 || args->top_k < 1 || args->top_k > args->experts) return cudaErrorInvalidValue;
  if (args->experts > EXPERTS_MOST || args->top_k > TOP_MOST) return cudaErrorNotSupported;
  if (args->tokens == 0) return cudaSuccess;
  return launch(queue, {grid_of(blocks_for(args->tokens, ROUTE_WARPS)), dim3(ROUTE_WARPS * WARP), 0},
                route_kernel, *args);
}

/* --- Pairs by expert ------------------------------------------------------------------------------------------------ */

struct sort_args {
  const int32_t *expert; /* (P) */
  int64_t P, E;
  int N; /* pairs of a tile */
  int32_t *pair;
  moe_tile *tiles;
  int64_t tile_count;
};

/* How many pairs have expert e; with `to`, their numbers in order. A warp; a lane has DEEP neighbouring pairs, whose loads
 * are under way together. */
static __device__ int32_t pairs_of(const sort_args &args, int32_t e, int32_t *to) {
  enum { DEEP = 16 };
  int32_t count = 0;
  uint32_t lane = threadIdx.x % WARP, before = (1u << lane) - 1;
  for (int64_t p0 = 0; p0 < args.P; p0 += DEEP * WARP) {
    int64_t p = p0 + DEEP * lane;
    int32_t found[DEEP], at = count;
    for (int i = 0; i < DEEP; i++) found[i] = p + i < args.P ? args.expert[p + i] : -1;
    for (int i = 0; i < DEEP; i++) {
      uint32_t all = __ballot_sync(ALL_LANES, found[i] == e);
      at += __popc(all & before);
      count += __popc(all);
    }
    for (int i = 0; to && i < DEEP; i++)
      if (found[i] == e) to[at++] = (int32_t)(p + i);
  }
  return count;
}

static __global__ void __launch_bounds__(SORT_THREADS) sort_kernel(sort_args args) {
  __shared__ int32_t first[EXPERTS_MOST + 1], first_tile[EXPERTS_MOST + 1];
  launch_wait();
  launch_next();
  int warp = (int)(threadIdx.x / WARP), lane = (int)(threadIdx.x % WARP);
  for (int64_t e = warp; e < args.E; e += SORT_THREADS / WARP) {
    int32_t count = pairs_of(args, (int32_t)e, NULL);
    if (lane == 0) first[e + 1] = count;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    first[0] = first_tile[0] = 0;
    for (int64_t e = 0; e < args.E; e++) {
      first_tile[e + 1] = first_tile[e] + (first[e + 1] + args.N - 1) / args.N;
      first[e + 1] += first[e];
    }
  }
  __syncthreads();
  for (int64_t e = warp; e < args.E; e += SORT_THREADS / WARP) {
    int32_t count = pairs_of(args, (int32_t)e, args.pair + first[e]);
    for (int32_t i = lane; i * args.N < count; i += WARP) {
      moe_tile tile = {(int32_t)e, first[e] + i * args.N,
                       count - i * args.N < args.N ? count - i * args.N : args.N};
      args.tiles[first_tile[e] + i] = tile;
    }
  }
  moe_tile none = {0, 0, 0};
  for (int64_t i = first_tile[args.E] + threadIdx.x; i < args.tile_count; i += SORT_THREADS)
    args.tiles[i] = none;
}

/* --- Between and after the products ------------------------------------------------------------------------------------ */

/* a (P, F) from h (P, 2F), which has its biases. */
static __global__ void moe_swiglu_kernel(float *a, const float *h, int64_t n, ie_cuda_moe_args args) {
  launch_wait();
  launch_next();
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  finite_check(args.check, 2 * i, h[2 * i]);
  finite_check(args.check, 2 * i + 1, h[2 * i + 1]);
  a[i] = swiglu_clamped(h[2 * i], h[2 * i + 1], args.alpha, args.limit);
}

/* y (T, C) += sum over j of weight times d (T k, C) */
static __global__ void moe_combine_kernel(const float *d, ie_cuda_moe_args args) {
  launch_wait();
  launch_next();
  int64_t t = blockIdx.x, C = args.down.rows, k = args.top_k;
  for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
    float y = args.y[t * C + c];
    for (int64_t j = 0; j < k; j++) y += args.weight[t * k + j] * d[(t * k + j) * C + c];
    args.y[t * C + c] = y;
  }
}

/* --- The mixture ---------------------------------------------------------------------------------------------------------- */

/* Scratch: what every path needs, then what one of them does. */
struct moe_memory {
  int32_t *pair;
  moe_tile *tiles;
  float *d, *x, *h, *a; /* (P, C); rounded (T, C); (P, 2F); (P, F) */
  uint16_t *x16, *a16;
  int64_t tile_count;
  size_t bytes;
};
static void *take(uint8_t *base, size_t *at, size_t bytes) {
  void *memory = base ? base + *at : NULL;
  *at += (bytes + 255) / 256 * 256;
  return memory;
}
static moe_memory memory_place(const ie_cuda_moe_args *args, uint8_t *base) {
  size_t T = (size_t)args->tokens, P = T * (size_t)args->top_k, C = (size_t)args->gate_up.cols, at = 0, plain;
  size_t F = (size_t)args->down.cols;
  moe_memory m = {};
  m.tile_count = blocks_for((int64_t)P, MID_TOKENS) + least_of(args->gate_up.experts, (int64_t)P);
  m.pair = (int32_t *)take(base, &at, P * sizeof(int32_t));
  m.tiles = (moe_tile *)take(base, &at, (size_t)m.tile_count * sizeof(moe_tile));
  m.d = (float *)take(base, &at, P * C * sizeof(float));
  m.a = (float *)take(base, &at, P * F * sizeof(float));
  plain = at;
  m.x = (float *)take(base, &plain, T * C * sizeof(float));
  m.h = (float *)take(base, &plain, P * 2 * F * sizeof(float));
  m.x16 = (uint16_t *)take(base, &at, T * (size_t)x16_columns((int64_t)C) * sizeof(uint16_t));
  m.a16 = (uint16_t *)take(base, &at, P * (size_t)x16_columns((int64_t)F) * sizeof(uint16_t));
  m.bytes = at > plain ? at : plain;
  return m;
}

size_t ie_cuda_moe_scratch(const ie_cuda_moe_args *args) {
  return args->tokens < 1 ? 0 : memory_place(args, NULL).bytes;
}

static product_job job_of(const ie_cuda_moe_args *args, bool down) {
  product_job job = {};
  job.n = 1;
  job.w[0] = down ? args->down : args->gate_up;
  job.K = job.w[0].cols;
  job.rows.expert = args->expert;
  job.rows.count = args->tokens * args->top_k;
  job.rows.divide = down ? 1 : (int)args->top_k;
  job.alpha = args->alpha;
  job.limit = args->limit;
  job.check = args->check;
  return job;
}

static cudaError_t moe_few(const ie_cuda_queue *queue, const ie_cuda_moe_args *args, const moe_memory &m) {
  product_job up = job_of(args, /*down=*/false), down = job_of(args, /*down=*/true);
  up.x = args->x;
  up.y[0] = m.a;
  up.end = END_SWIGLU;
  cudaError_t status = products_few(queue, &up);
  down.x = m.a;
  down.y[0] = args->y;
  return status == cudaSuccess ? products_fold(queue, &down, args->weight, args->tokens, (int)args->top_k)
                               : status;
}

/* Sorts the pairs into tiles of N for both jobs. */
static cudaError_t pairs_sort(const ie_cuda_queue *queue, const ie_cuda_moe_args *args, const moe_memory &m,
                              int N, product_job *jobs) {
  sort_args sort = {args->expert, args->tokens * args->top_k, args->gate_up.experts, N, m.pair, m.tiles, 0};
  sort.tile_count = blocks_for(sort.P, N) + least_of(sort.E, sort.P);
  if (sort.tile_count > 65535) return cudaErrorInvalidValue;
  for (int i = 0; i < 2; i++) {
    jobs[i].rows.tiles = m.tiles;
    jobs[i].rows.pair = m.pair;
    jobs[i].rows.tile_count = sort.tile_count;
  }
  return launch(queue, {dim3(1), dim3(SORT_THREADS), 0}, sort_kernel, sort);
}

static cudaError_t moe_combine(const ie_cuda_queue *queue, const ie_cuda_moe_args *args,
                               const moe_memory &m) {
  return launch(queue, {grid_of(args->tokens), dim3(256), 0}, moe_combine_kernel, (const float *)m.d, *args);
}

/* With wgmma both products or none: they share the tiles. */
static bool moe_is_wide(const ie_cuda_queue *queue, const ie_cuda_moe_args *args) {
  const ie_cuda_weight *up = &args->gate_up, *down = &args->down;
  int64_t pairs = args->tokens * args->top_k,
          tiles = blocks_for(pairs, WIDE_TOKENS) + least_of(up->experts, pairs);
  return products_wide_takes(queue, up->format, up->rows, pairs, tiles) &&
         products_wide_takes(queue, down->format, down->rows, pairs, tiles);
}

static cudaError_t moe_many(const ie_cuda_queue *queue, const ie_cuda_moe_args *args, const moe_memory &m,
                            bool wide) {
  product_job jobs[2] = {job_of(args, false), job_of(args, true)};
  product_job *up = &jobs[0], *down = &jobs[1];
  bool mid = up->rows.count <= MID_TOKENS * args->gate_up.experts;
  int tile = wide ? (int)WIDE_TOKENS : mid ? (int)MID_TOKENS : (int)MANY_TOKENS;
  cudaError_t status = pairs_sort(queue, args, m, tile, jobs);
  up->x = args->x;
  up->order = x16_order_of(up->w[0].format, wide);
  up->end = END_SWIGLU;
  up->y16 = m.a16;
  up->y16_order = down->order = x16_order_of(down->w[0].format, wide);
  up->y16_cols = down->K;
  up->y16_stride = down->x16_stride = x16_stride_of(down->order, down->K);
  if (status == cudaSuccess) status = x16_prepare(queue, up, m.x16, args->tokens);
  if (status == cudaSuccess) status = wide ? products_wide(queue, up) : products_many(queue, up, tile);
  down->x16 = m.a16;
  down->y[0] = m.d;
  if (status == cudaSuccess) status = wide ? products_wide(queue, down) : products_many(queue, down, tile);
  return status == cudaSuccess ? moe_combine(queue, args, m) : status;
}

static cudaError_t moe_plain(const ie_cuda_queue *queue, const ie_cuda_moe_args *args, const moe_memory &m) {
  product_job jobs[2] = {job_of(args, false), job_of(args, true)};
  int64_t P = jobs[0].rows.count, F = args->down.cols, C = args->gate_up.cols,
          blocks = blocks_for(P * F, 256);
  cudaError_t status = P > 16 ? pairs_sort(queue, args, m, 64, jobs) : cudaSuccess;
  jobs[0].x = args->x;
  if (status == cudaSuccess && args->cls != IE_CLASS_F32) {
    status = x_prepare(queue, m.x, args->x, args->tokens, C, args->cls);
    jobs[0].x = m.x;
  }
  jobs[0].y[0] = m.h;
  if (status == cudaSuccess) status = products_plain(queue, &jobs[0]);
  if (status == cudaSuccess)
    status = launch(queue, {grid_of(blocks), dim3(256), 0}, moe_swiglu_kernel, m.a, (const float *)m.h, P * F,
                    *args);
  jobs[1].x = m.a;
  jobs[1].y[0] = m.d;
  if (status == cudaSuccess && args->cls != IE_CLASS_F32) {
    status = x_prepare(queue, m.h, m.a, P, F, args->cls); /* h has done its work */
    jobs[1].x = m.h;
  }
  if (status == cudaSuccess) status = products_plain(queue, &jobs[1]);
  return status == cudaSuccess ? moe_combine(queue, args, m) : status;
}

cudaError_t ie_cuda_moe(const ie_cuda_queue *queue, const ie_cuda_moe_args *args) {
  const ie_cuda_weight *up = &args->gate_up, *down = &args->down;
  if (args->tokens == 0) return cudaSuccess;
  if (args->top_k < 1 || up->rows != 2 * down->cols || up->cols != down->rows || !args->scratch ||
      !grid_fits(blocks_for(args->tokens * args->top_k * down->cols, 256)))
    return cudaErrorInvalidValue;
  if (args->top_k > TOP_MOST || up->experts > EXPERTS_MOST) return cudaErrorNotSupported;
  moe_memory m = memory_place(args, (uint8_t *)args->scratch);
  if (!products_mma_takes(queue, up, args->cls) || !products_mma_takes(queue, down, args->cls))
    return moe_plain(queue, args, m);
  bool wide = moe_is_wide(queue, args);
  bool few = !wide && args->tokens <= FEW_MOE_TOKENS && args->top_k <= FOLD_MOST &&
             products_few_takes(args->x, up->cols) && products_few_takes(m.a, down->cols) &&
             products_few_fits(queue, up->cols, 1) && products_few_fits(queue, down->cols, args->top_k);
  return few ? moe_few(queue, args, m) : moe_many(queue, args, m, wide);
}
