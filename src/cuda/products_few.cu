/* Products with few rows of x (decode): bound by the bytes of the weights, each read once.
 *
 * A block has 16 rows of a weight; its 8 warps share out the columns chunk by chunk, each with several chunks of loads
 * under way, and their sums meet in shared memory in a fixed order. Multiplying with the tensor cores is not for their
 * rate (up to 7 of 8 columns of B are idle): f32 arithmetic would be 32 multiply-adds and as many conversions for 17
 * bytes of MXFP4, more than an H200's cores can do at its bandwidth. x stays in shared memory, in bf16. */
#include "cuda/mma.cuh"

enum { WARPS = 8, THREADS = WARPS * WARP, ROWS = 16, SHARED_MOST = 96 << 10 };

/* x[row] (K) to `columns` columns of shared memory: rounded, in the order of x16_place, zero from K on. */
static __device__ void x_stage(unsigned char *to, const float *x, int64_t K, ie_wformat format) {
  int64_t eights = blocks_for(K, 4 * SUB_COLS) * 4 * SUB_COLS / 8;
  for (int64_t e = threadIdx.x; e < eights; e += THREADS) {
    float v[8] = {};
    if (8 * e + 8 <= K) {
      float4 a = *(const float4 *)(x + 8 * e), b = *(const float4 *)(x + 8 * e + 4);
      v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++)
        if (8 * e + i < K) v[i] = x[8 * e + i];
    }
    bool nibbles = format == IE_W_MXFP4 || format == IE_W_INT4;
    uint4 out = nibbles ? make_uint4(bf16x2_of(v[0], v[4]), bf16x2_of(v[1], v[5]), bf16x2_of(v[2], v[6]),
                                     bf16x2_of(v[3], v[7]))
                        : make_uint4(bf16x2_of(v[0], v[1]), bf16x2_of(v[2], v[3]), bf16x2_of(v[4], v[5]),
                                     bf16x2_of(v[6], v[7]));
    *(uint4 *)(to + x_offset((int)(8 * e))) = out;
  }
}

/* The rows of a lane: g and g + 8 of a block, at most the last one. */
struct lane_rows {
  weight_rows row[2];
};
static __device__ __forceinline__ lane_rows lane_rows_at(const ie_cuda_weight &w, int64_t expert,
                                                         int64_t first, int g) {
  lane_rows out;
  for (int i = 0; i < 2; i++) {
    int64_t row = first + g + 8 * i;
    out.row[i] = weight_row(w, expert, row < w.rows ? row : w.rows - 1);
  }
  return out;
}

/* AHEAD chunks of both rows, the first of them c. */
template <ie_wformat F> struct chunk_ring { row_chunk chunk[format_traits<F>::AHEAD][2]; };
template <ie_wformat F>
static __device__ __forceinline__ void ring_load(chunk_ring<F> &ring, const lane_rows &rows, int64_t c, int t,
                                                 int64_t K) {
#pragma unroll
  for (int i = 0; i < format_traits<F>::AHEAD; i++)
    for (int r = 0; r < 2; r++) ring.chunk[i][r] = chunk_load<F>(rows.row[r], c + i * WARPS, t, K);
}
template <ie_wformat F>
static __device__ __forceinline__ void ring_multiply(float sum[1][1][4], const chunk_ring<F> &ring,
                                                     const unsigned char *x, int64_t c, int64_t chunks,
                                                     bool use) {
  typedef format_traits<F> format;
#pragma unroll
  for (int i = 0; i < format::AHEAD; i++)
    if (c + i * WARPS < chunks) {
      chunk_multiply<F, 1, 1>(sum, &ring.chunk[i], x + x_offset((int)((c + i * WARPS) * format::CHUNK)),
                              /*x_step=*/0,
                              /*active=*/1, use);
    }
}

/* k matrices whose products add up, one after the other: expert[j] of w, with its own x. */
struct row_walk {
  const ie_cuda_weight *w;
  const int32_t *expert; /* (k); not read where k is 1 */
  int k;
  int64_t first, K;       /* row of the block; columns */
  const unsigned char *x; /* this lane's columns of the first x; the others x_step bytes apart */
  int64_t x_step;
  uint32_t use; /* bit j: this lane has a token of the j-th */
};

/* All chunks of a warp; `ring` holds the first ones already. The next loads are under way before the last ones are used,
 * across matrices too. */
template <ie_wformat F>
static __device__ __forceinline__ void walk_multiply(float sum[1][1][4], chunk_ring<F> &ring, lane_rows rows,
                                                     const row_walk &walk) {
  enum { STEP = format_traits<F>::AHEAD * WARPS };
  int t = (int)(threadIdx.x % 4), g = (int)(threadIdx.x % WARP) / 4, warp = (int)(threadIdx.x / WARP);
  int64_t chunks = blocks_for(walk.K, format_traits<F>::CHUNK);
  int64_t c = warp;
  for (int j = 0; j < walk.k;) {
    int64_t next_c = c + STEP;
    int next_j = j;
    if (next_c >= chunks) {
      next_c = warp;
      next_j = j + 1;
      if (next_j < walk.k) rows = lane_rows_at(*walk.w, walk.expert[next_j], walk.first, g);
    }
    chunk_ring<F> next;
    if (next_j < walk.k) ring_load<F>(next, rows, next_c, t, walk.K);
    ring_multiply<F>(sum, ring, walk.x + j * walk.x_step, c, chunks, walk.use >> j & 1);
    if (next_j < walk.k) ring = next;
    j = next_j;
    c = next_c;
  }
}

/* The warps' sums of row m and column n, added in the order of the warps. */
typedef float block_sums[WARPS][ROWS][8];
static __device__ __forceinline__ void sums_put(block_sums &all, const float sum[4]) {
  int lane = (int)(threadIdx.x % WARP), g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; i++) all[threadIdx.x / WARP][g + i / 2 * 8][2 * t + i % 2] = sum[i];
}
static __device__ __forceinline__ float sums_get(const block_sums &all, int m, int n) {
  float sum = 0;
  for (int w = 0; w < WARPS; w++) sum += all[w][m][n];
  return sum;
}

template <ie_wformat F>
static __global__ void __launch_bounds__(THREADS, 2) few_kernel(const __grid_constant__ product_job job) {
  DYNAMIC_SHARED(x);
  __shared__ block_sums sums;
  int64_t block = blockIdx.x, K = job.K;
  int s = segment_at(job, &block), lane = (int)(threadIdx.x % WARP), g = lane / 4, t = lane % 4;
  const ie_cuda_weight &w = job.w[s];
  chunk_ring<F> ring;
  lane_rows rows = lane_rows_at(w, 0, block * ROWS, g);
  /* weights do not wait for the kernel before, unless it chooses the expert */
  if (!job.rows.expert) ring_load<F>(ring, rows, threadIdx.x / WARP, t, K);
  launch_wait();
  launch_next();
  moe_tile tile = tile_at(job.rows, blockIdx.y, FEW_TOKENS);
  if (job.rows.expert) {
    rows = lane_rows_at(w, tile.expert, block * ROWS, g);
    ring_load<F>(ring, rows, threadIdx.x / WARP, t, K);
  }
  int64_t x_bytes = x_row_bytes(K);
  for (int i = 0; i < tile.count; i++)
    x_stage(x + i * x_bytes, job.x + tile_row(job.rows, tile, i) / job.rows.divide * K, K, F);
  __syncthreads();
  float sum[1][1][4] = {};
  bool use = g < tile.count;
  row_walk walk = {&w, NULL, 1, block * ROWS, K, x + (use ? g : 0) * x_bytes + x_lane<F>(t), 0, use};
  walk_multiply<F>(sum, ring, rows, walk);
  sums_put(sums, sum[0][0]);
  __syncthreads();
  int m = (int)threadIdx.x / 8, n = (int)threadIdx.x % 8;
  if (m >= ROWS || n >= tile.count) return;
  int64_t row = block * ROWS + m, y_row = tile_row(job.rows, tile, n);
  if (row >= w.rows) return;
  if (job.end == END_STORE)
    product_store(job, s, tile.expert, row, y_row, sums_get(sums, m, n));
  else if (m % 2 == 0)
    swiglu_store(job, tile.expert, row / 2, y_row, sums_get(sums, m, n), sums_get(sums, m + 1, n));
}

/* A token's k experts in one block: column j of the tensor cores' B belongs to expert j alone, so all of them add up
 * side by side in one accumulator. */
template <ie_wformat F>
static __global__ void __launch_bounds__(THREADS, 2)
    fold_kernel(const __grid_constant__ product_job job, const float *weight, int k) {
  DYNAMIC_SHARED(x);
  __shared__ block_sums sums;
  launch_wait();
  launch_next();
  int64_t K = job.K, x_bytes = x_row_bytes(K), first = (int64_t)blockIdx.x * ROWS,
          p0 = (int64_t)blockIdx.y * k;
  int lane = (int)(threadIdx.x % WARP), g = lane / 4, t = lane % 4;
  const ie_cuda_weight &w = job.w[0];
  chunk_ring<F> ring;
  lane_rows rows = lane_rows_at(w, job.rows.expert[p0], first, g);
  ring_load<F>(ring, rows, threadIdx.x / WARP, t, K);
  for (int j = 0; j < k; j++) x_stage(x + j * x_bytes, job.x + (p0 + j) * K, K, F);
  __syncthreads();
  float sum[1][1][4] = {};
  row_walk walk = {&w, job.rows.expert + p0, k, first, K, x + x_lane<F>(t), x_bytes, 1u << g};
  walk_multiply<F>(sum, ring, rows, walk);
  sums_put(sums, sum[0][0]);
  __syncthreads();
  int m = (int)threadIdx.x;
  if (m >= ROWS || first + m >= w.rows) return;
  float *y = job.y[0] + blockIdx.y * w.rows + first + m, total = *y;
  for (int j = 0; j < k; j++)
    total += weight[p0 + j] * (sums_get(sums, m, j) + weight_bias(w, job.rows.expert[p0 + j], first + m));
  *y = total;
}

/* --- Launching ------------------------------------------------------------------------------------------------------ */

bool products_few_fits(const ie_cuda_queue *queue, int64_t K, int64_t rows) {
  int64_t most = (int64_t)queue->shared_bytes - (int64_t)sizeof(block_sums) - 1024;
  return x_row_bytes(K) * rows <= least_of(most, SHARED_MOST);
}

template <ie_wformat F> static cudaError_t few_launch(const ie_cuda_queue *queue, product_job *job) {
  int64_t most = job->rows.expert ? 1 : least_of(job->rows.count, FEW_TOKENS);
  dim3 grid = grid_of(segments_place(job, ROWS), tiles_of(job->rows, FEW_TOKENS));
  return launch(queue, {grid, dim3(THREADS), (size_t)(x_row_bytes(job->K) * most)}, few_kernel<F>, *job);
}

cudaError_t products_few(const ie_cuda_queue *queue, product_job *job) {
  switch (job->w[0].format) {
  case IE_W_BF16: return few_launch<IE_W_BF16>(queue, job);
  case IE_W_MXFP4: return few_launch<IE_W_MXFP4>(queue, job);
  case IE_W_INT8: return few_launch<IE_W_INT8>(queue, job);
  case IE_W_INT4: return few_launch<IE_W_INT4>(queue, job);
  default: return cudaErrorNotSupported;
  }
}

template <ie_wformat F>
static cudaError_t fold_launch(const ie_cuda_queue *queue, product_job *job, const float *weight,
                               int64_t tokens, int k) {
  dim3 grid = grid_of(blocks_for(job->w[0].rows, ROWS), tokens);
  return launch(queue, {grid, dim3(THREADS), (size_t)(x_row_bytes(job->K) * k)}, fold_kernel<F>, *job, weight,
                k);
}

cudaError_t products_fold(const ie_cuda_queue *queue, product_job *job, const float *weight, int64_t tokens,
                          int k) {
  switch (job->w[0].format) {
  case IE_W_BF16: return fold_launch<IE_W_BF16>(queue, job, weight, tokens, k);
  case IE_W_MXFP4: return fold_launch<IE_W_MXFP4>(queue, job, weight, tokens, k);
  case IE_W_INT8: return fold_launch<IE_W_INT8>(queue, job, weight, tokens, k);
  case IE_W_INT4: return fold_launch<IE_W_INT4>(queue, job, weight, tokens, k);
  default: return cudaErrorNotSupported;
  }
}
