/* Products with many rows of x (prefill, large batches) in class bf16: mma.sync, tiles of 128 rows of the weight and
 * 8 NT rows of x, four warps of 32 rows each.
 *
 * The weights go from global memory to registers and are decoded there, each byte once a tile; x16 comes through shared
 * memory, STAGES groups of 128 columns deep, by asynchronous copies. With 64 rows of x a decoded weight is used by 8
 * steps of the tensor cores, which covers the decoding of MXFP4. */
#include "cuda/mma.cuh"

enum {
  WARPS = 4,
  THREADS = WARPS * WARP,
  MT = 2, /* 16 rows each, of a warp */
  ROWS = WARPS * MT * 16,
  GROUP = 128,
  TOKEN_BYTES = GROUP / SUB_COLS * SUB_BYTES, /* an odd multiple of 64: mma.cuh */
  STAGES = 3
};

/* Chunks of a group, and how many chunks ahead a warp loads: at least two, whole groups. */
template <ie_wformat F> struct ring_traits {
  enum {
    PER_GROUP = GROUP / format_traits<F>::CHUNK,
    GROUPS = PER_GROUP > 1 ? 1 : 2,
    SIZE = PER_GROUP * GROUPS
  };
};

struct warp_rows {
  weight_rows row[MT][2];
};
/* Row of the weight that mma row g (half 0) or g + 8 (half 1) of tile m stands for: of pairs, gate and up. */
static __device__ __forceinline__ int64_t row_index(const product_job &job, int64_t block, int m, int half) {
  int warp = (int)(threadIdx.x / WARP), g = (int)(threadIdx.x % WARP) / 4;
  int64_t base = block * ROWS + (warp * MT + m) * 16;
  return base + (job.end == END_SWIGLU ? 2 * g + half : g + 8 * half);
}

/* Group `group` of all tokens of a tile to a stage. */
template <int NT>
static __device__ __forceinline__ void x_copy(unsigned char *stage, const product_job &job,
                                              const moe_tile &tile, int64_t group) {
  enum { PIECES = GROUP / 8 };
#pragma unroll
  for (int i = (int)threadIdx.x; i < NT * 8 * PIECES; i += THREADS) {
    int token = i / PIECES, column = i % PIECES * 8;
    bool valid = token < tile.count && group * GROUP + column < job.x16_stride;
    const uint16_t *from = job.x16;
    if (valid)
      from += tile_row(job.rows, tile, token) / job.rows.divide * job.x16_stride + group * GROUP + column;
    copy_async(stage + token * TOKEN_BYTES + x_offset(column), from, valid);
  }
}

template <ie_wformat F>
static __device__ __forceinline__ void rows_load(row_chunk out[MT][2], const warp_rows &rows, int64_t chunk,
                                                 int64_t K) {
  int t = (int)(threadIdx.x % 4);
#pragma unroll
  for (int m = 0; m < MT; m++)
    for (int half = 0; half < 2; half++) out[m][half] = chunk_load<F>(rows.row[m][half], chunk, t, K);
}

template <int NT>
static __device__ void tile_store(const product_job &job, int s, const moe_tile &tile, int64_t block,
                                  float sum[MT][NT][4]) {
  int t = (int)(threadIdx.x % 4);
  const ie_cuda_weight &w = job.w[s];
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int j = 0; j < 2; j++) {
      int token = n * 8 + 2 * t + j;
      if (token >= tile.count) continue;
      int64_t y_row = tile_row(job.rows, tile, token);
#pragma unroll
      for (int m = 0; m < MT; m++) {
        int64_t low = row_index(job, block, m, 0), high = row_index(job, block, m, 1);
        if (job.end == END_SWIGLU) {
          if (high < w.rows) swiglu_store(job, tile.expert, low / 2, y_row, sum[m][n][j], sum[m][n][2 + j]);
          continue;
        }
        if (low < w.rows) product_store(job, s, tile.expert, low, y_row, sum[m][n][j]);
        if (high < w.rows) product_store(job, s, tile.expert, high, y_row, sum[m][n][2 + j]);
      }
    }
}

template <ie_wformat F, int NT>
static __global__ void __launch_bounds__(THREADS) many_kernel(const __grid_constant__ product_job job) {
  typedef format_traits<F> format;
  typedef ring_traits<F> ring;
  enum { STAGE_BYTES = NT * 8 * TOKEN_BYTES };
  DYNAMIC_SHARED(stages);
  launch_wait();
  launch_next();
  moe_tile tile = tile_at(job.rows, blockIdx.y, NT * 8);
  if (tile.count == 0) return;
  int64_t block = blockIdx.x, K = job.K, groups = blocks_for(K, GROUP);
  int s = segment_at(job, &block), lane = (int)(threadIdx.x % WARP), g = lane / 4, t = lane % 4;
  int active = (tile.count + 7) / 8;
  warp_rows rows;
  for (int m = 0; m < MT; m++)
    for (int half = 0; half < 2; half++) {
      int64_t row = row_index(job, block, m, half);
      rows.row[m][half] = weight_row(job.w[s], tile.expert, least_of(row, job.w[s].rows - 1));
    }
  for (int i = 0; i < STAGES - 1; i++) {
    if (i < groups) x_copy<NT>(stages + i * STAGE_BYTES, job, tile, i);
    copy_async_commit();
  }
  row_chunk held[ring::SIZE][MT][2];
#pragma unroll
  for (int i = 0; i < ring::SIZE; i++) rows_load<F>(held[i], rows, i, K);
  float sum[MT][NT][4] = {};
  for (int64_t first = 0; first < groups; first += ring::GROUPS)
#pragma unroll
    for (int u = 0; u < ring::GROUPS; u++) {
      int64_t group = first + u, ahead = group + STAGES - 1;
      if (group >= groups) break;
      copy_async_wait<STAGES - 2>();
      __syncthreads();
      if (ahead < groups) x_copy<NT>(stages + ahead % STAGES * STAGE_BYTES, job, tile, ahead);
      copy_async_commit();
      const unsigned char *x = stages + group % STAGES * STAGE_BYTES + g * TOKEN_BYTES + x_lane<F>(t);
#pragma unroll
      for (int i = 0; i < ring::PER_GROUP; i++) {
        row_chunk(*now)[2] = held[u * ring::PER_GROUP + i];
        chunk_multiply<F, MT, NT>(sum, now, x + x_offset(i * format::CHUNK), 8 * TOKEN_BYTES, active,
                                  /*use=*/true);
        rows_load<F>(now, rows, (group + ring::GROUPS) * ring::PER_GROUP + i, K);
      }
    }
  tile_store<NT>(job, s, tile, block, sum);
}

/* --- Launching ------------------------------------------------------------------------------------------------------ */

bool products_mma_takes(const ie_cuda_queue *queue, const ie_cuda_weight *w, ie_class cls) {
  bool format =
      w->format == IE_W_BF16 || w->format == IE_W_MXFP4 || w->format == IE_W_INT8 || w->format == IE_W_INT4;
  size_t unit = w->format == IE_W_INT8 || w->format == IE_W_INT4 ? 8 : 16;
  return format && cls == IE_CLASS_BF16 && queue->major >= 8 && (uintptr_t)w->part[0] % unit == 0 &&
         w->row_bytes[0] % unit == 0 && w->expert_bytes[0] % unit == 0;
}

template <ie_wformat F>
static cudaError_t many_launch(const ie_cuda_queue *queue, product_job *job, int tile) {
  dim3 grid = grid_of(segments_place(job, ROWS), tiles_of(job->rows, tile));
  size_t shared = (size_t)STAGES * (size_t)tile * TOKEN_BYTES;
  if (tile == MID_TOKENS)
    return launch(queue, {grid, dim3(THREADS), shared}, many_kernel<F, MID_TOKENS / 8>, *job);
  return launch(queue, {grid, dim3(THREADS), shared}, many_kernel<F, MANY_TOKENS / 8>, *job);
}

cudaError_t products_many(const ie_cuda_queue *queue, product_job *job, int tile) {
  switch (job->w[0].format) {
  case IE_W_BF16: return many_launch<IE_W_BF16>(queue, job, tile);
  case IE_W_MXFP4: return many_launch<IE_W_MXFP4>(queue, job, tile);
  case IE_W_INT8: return many_launch<IE_W_INT8>(queue, job, tile);
  case IE_W_INT4: return many_launch<IE_W_INT4>(queue, job, tile);
  default: return cudaErrorNotSupported;
  }
}
