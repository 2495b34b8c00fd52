/* Products with many rows of x on compute capability 9.0: wgmma, tiles of 192 rows of the weight and 128 rows of x, three
 * warpgroups of 64 rows each.
 *
 * The weights go from global memory to registers and are decoded there into operand A, as everywhere; x16 comes by
 * asynchronous copies into shared memory, from where the tensor cores read operand B themselves, once for each
 * warpgroup. Work goes in batches of 32 columns: a warpgroup does not wait for the batch that it has just begun, but
 * decodes the next one into other registers meanwhile.
 *
 * x comes in turns of 128 columns. What holds at the barrier of turn i, and why:
 *   x of turn i is there and the tensor cores may read it: each thread has waited for its copies and published them.
 *   the ring's place of turn i - 2 may be written: each warpgroup has waited for all but its last batch of turn i - 1. */
#include "cuda/mma.cuh"
#include "cuda/wgmma_tile.cuh"

#pragma nv_diag_suppress 177 /* functions that nobody calls where wgmma is not built */

enum {
  WARPGROUPS =
      3, /* 168 registers a thread, one block a multiprocessor; 2880 and 5760 are multiples of the rows */
  THREADS = WARPGROUPS * 4 * WARP,
  ROWS = WARPGROUPS * 64,
  BATCH_COLS = 32,
  STEPS = BATCH_COLS / 16,
  BATCHES = 4, /* of a turn */
  TURN_COLS = BATCHES * BATCH_COLS,
  TURNS = 5,                               /* of the ring */
  AHEAD = TURNS - 2,                       /* turns that are being copied while one is multiplied */
  COPY_TOKENS = THREADS / (TILE_COLS / 8), /* rows of x that all threads copy at once; a multiple of 8 */
  RING_BYTES = TURNS * 2 * WIDE_TOKENS * TILE_TOKEN_BYTES
};

/* --- Weights: operand A, by format ---------------------------------------------------------------------------------- */

/* Row of the weight that row g (half 0) or g + 8 (half 1) of a warp's 16 stands for: of pairs, gate and up. `first` is
 * that of the block. */
static __device__ __forceinline__ int64_t row_index(const product_job &job, int64_t first, int half) {
  int warp = (int)(threadIdx.x / WARP), g = (int)(threadIdx.x % WARP) / 4;
  return first + warp * 16 + (job.end == END_SWIGLU ? 2 * g + half : g + 8 * half);
}

/* A lane's two rows from its own columns on. A chunk (mma.cuh) of a row is 64 bytes, 16 of them a lane's. */
struct wide_rows {
  const uint8_t *data[2], *scale[2];
  int left; /* columns from the lane's first one to the end of the row */
  int half; /* MXFP4: the chunk of which a lane owns 16 columns (x16_is_half), or -1 */
};
template <ie_wformat F>
static __device__ __forceinline__ wide_rows rows_of(const product_job &job, int s, const moe_tile &tile,
                                                    int64_t first) {
  int t = (int)(threadIdx.x % 4);
  wide_rows rows;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    weight_rows r = weight_row(job.w[s], tile.expert, least_of(row_index(job, first, i), job.w[s].rows - 1));
    rows.data[i] = r.part[0] + 16 * t;
    rows.scale[i] = F == IE_W_MXFP4 ? r.part[1] + t : NULL; /* a lane's columns are a block */
  }
  rows.left = (int)job.K - t * format_traits<F>::LANE;
  rows.half = x16_is_half(job.K, job.K) ? (int)job.K / TURN_COLS : -1;
  return rows;
}
/* A lane's part of a chunk; zero beyond the last column. A row at a time: with both in one branch ptxas finds registers
 * of operand A written while products run (C7513), and lets no two of them overlap. */
template <ie_wformat F>
static __device__ __forceinline__ row_chunk row_load(const wide_rows &rows, int r, int chunk) {
  row_chunk out = {};
  if (chunk * format_traits<F>::CHUNK >= rows.left) return out;
  out.data = load_once(rows.data[r] + chunk * 64);
  if (F == IE_W_MXFP4) out.scale = rows.scale[r][chunk * 4];
  return out;
}
/* The same of chunk rows.half of MXFP4. */
static __device__ __forceinline__ row_chunk half_load(const wide_rows &rows, int r) {
  row_chunk out = {};
  int t = (int)(threadIdx.x % 4);
  if (rows.half * TURN_COLS >= rows.left + 16 * t) return out;
  uint2 v = load_once8(rows.data[r] + rows.half * 64 - 8 * t);
  out.data.x = v.x, out.data.y = v.y;
  out.scale = rows.scale[r][rows.half * 4 - (t + 1) / 2];
  return out;
}

/* begin: the first loads. take: operand A of batch q of a turn, decoded into a place that no product reads; products of
 * all but one batch are done. done: products of all batches before q are done. */
template <ie_wformat F> struct wide_weights;
typedef uint32_t operand_a[4]; /* of one step */

/* A turn is a chunk, a batch a quad of it. The next chunk is loaded while one is decoded. */
template <> struct wide_weights<IE_W_MXFP4> {
  row_chunk now[2], next[2];
  uint32_t first[2]; /* mxfp4_factor */
  bool rare;         /* a lane of this warp needs the rest of the factor */
  operand_a a[2][STEPS];

  __device__ __forceinline__ void load(const wide_rows &rows, int turn) {
#pragma unroll
    for (int r = 0; r < 2; r++)
      next[r] = turn == rows.half ? half_load(rows, r) : row_load<IE_W_MXFP4>(rows, r, turn);
  }
  __device__ __forceinline__ void begin(const wide_rows &rows) {
    load(rows, 0);
  }
  __device__ __forceinline__ operand_a *take(const wide_rows &, int, int q) {
    if (q == 0) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        now[r] = next[r];
        first[r] = mxfp4_factor_of(now[r].scale).first;
      }
      rare = __any_sync(ALL_LANES, now[0].scale > MXFP4_FIRST_MOST || now[1].scale > MXFP4_FIRST_MOST);
    }
    operand_a *to = a[q % 2];
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        to[i / 2][r + i % 2 * 2] = bf16x2_mul(mxfp4_bits(word_of(now[r].data, q), i), first[r]);
    if (rare) {
#pragma unroll
      for (int i = 0; i < 8; i++)
        to[i / 4][i % 4] = bf16x2_mul(to[i / 4][i % 4], mxfp4_factor_of(now[i % 2].scale).rest);
    }
    return to;
  }
  /* After the barrier, whose fence might wait for loads. */
  __device__ __forceinline__ void done(const wide_rows &rows, int turn, int q) {
    if (q == 0) load(rows, turn + 1);
  }
};

/* A batch is a chunk, which is operand A but for the order of its words. It is asked for three batches ahead, where the
 * products read it; a load brings words of one row and the products want two rows' in turns, so ptxas moves them, and waits
 * for them, in the batch that asked. Kept apart until their turn they made it run the wgmma one by one (C7513). */
template <> struct wide_weights<IE_W_BF16> {
  operand_a a[BATCHES][STEPS];

  __device__ __forceinline__ void load(const wide_rows &rows, int turn, int q) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      row_chunk c = row_load<IE_W_BF16>(rows, r, turn * BATCHES + q);
#pragma unroll
      for (int i = 0; i < 4; i++) a[q][i / 2][r + i % 2 * 2] = word_of(c.data, i);
    }
  }
  __device__ __forceinline__ void begin(const wide_rows &rows) {
#pragma unroll
    for (int q = 0; q < BATCHES - 1; q++) load(rows, 0, q);
  }
  __device__ __forceinline__ operand_a *take(const wide_rows &, int, int q) {
    return a[q];
  }
  __device__ __forceinline__ void done(const wide_rows &rows, int turn, int q) {
    if (q == 0)
      load(rows, turn, BATCHES - 1);
    else
      load(rows, turn + 1, q - 1);
  }
};

/* --- x -------------------------------------------------------------------------------------------------------------- */

constexpr uint32_t NO_ROW = 0xFFFFFFFF;

/* A thread copies the same 16 bytes of each tile of 64 columns for several rows of x. */
template <int N> struct wide_source {
  enum { ROUNDS = (N + COPY_TOKENS - 1) / COPY_TOKENS };
  uint32_t from[ROUNDS]; /* in x16, in units of 16 bytes; or NO_ROW */
  int to;                /* in a tile; round i: COPY_TOKENS rows further on */
};
template <int N>
static __device__ __forceinline__ wide_source<N> source_of(const product_job &job, const moe_tile &tile) {
  wide_source<N> s;
  int first = (int)threadIdx.x / 8, piece = (int)threadIdx.x % 8;
  s.to = first * TILE_TOKEN_BYTES + tile_piece(first, piece);
#pragma unroll
  for (int i = 0; i < s.ROUNDS; i++) {
    int token = first + i * COPY_TOKENS;
    s.from[i] = NO_ROW;
    if (token < tile.count)
      s.from[i] =
          (uint32_t)(tile_row(job.rows, tile, token) / job.rows.divide * (job.x16_stride / 8) + piece);
  }
  return s;
}
/* Both tiles of a turn; rows that x has not are zero. */
template <int N>
static __device__ __forceinline__ void turn_copy(unsigned char *to, const uint16_t *x16,
                                                 const wide_source<N> &s, int turn) {
  x16 += turn * TURN_COLS;
#pragma unroll
  for (int i = 0; i < s.ROUNDS; i++) {
    if (N % COPY_TOKENS != 0 && (int)threadIdx.x / 8 + i * COPY_TOKENS >= N) continue;
    bool valid = s.from[i] != NO_ROW;
    const uint16_t *from = x16 + (valid ? (size_t)s.from[i] * 8 : 0);
    unsigned char *at = to + s.to + i * COPY_TOKENS * TILE_TOKEN_BYTES;
    copy_async(at, from, valid);
    copy_async(at + N * TILE_TOKEN_BYTES, from + TILE_COLS, valid);
  }
}

/* --- Sums ------------------------------------------------------------------------------------------------------------- */

/* What is the same for all tokens of a thread, which has two rows of the weight: row[0] and row[0] + 8, or of pairs + 1. */
struct wide_end {
  int64_t row[2];
  bool real[2];
  float bias[2];
  const int *y_row; /* shared memory: of each token, or -1 */
};
template <int N>
static __device__ __forceinline__ void rows_note(int *y_row, const product_job &job, const moe_tile &tile) {
  int i = (int)threadIdx.x;
  if (i < N) y_row[i] = i < tile.count ? (int)tile_row(job.rows, tile, i) : -1;
}
static __device__ __forceinline__ int2 rows_get(const wide_end &end, int n) {
  return *(const int2 *)(end.y_row + 8 * n + 2 * (threadIdx.x % 4));
}

/* One multiplication with addition; of row -1 something that nobody uses. */
static __device__ __forceinline__ void *place_of(void *first, int row, uint32_t bytes) {
  return (void *)((uintptr_t)first + (uint64_t)(uint32_t)row * bytes);
}

template <int N, bool ADD>
static __device__ __forceinline__ void rows_store(const product_job &job, int s, const wide_end &end,
                                                  const float (&sum)[N / 2]) {
  float *to = job.y[s] + end.row[0];
  uint32_t bytes = (uint32_t)job.w[s].rows * (uint32_t)sizeof(float);
#pragma unroll
  for (int n = 0; n < N / 8; n++) {
    int2 rows = rows_get(end, n);
#pragma unroll
    for (int j = 0; j < 2; j++) {
      int y_row = j == 0 ? rows.x : rows.y;
      float *y = (float *)place_of(to, y_row, bytes);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        if (y_row < 0 || !end.real[i]) continue;
        float value = sum[4 * n + 2 * i + j] + end.bias[i];
        y[8 * i] = ADD ? y[8 * i] + value : value;
      }
    }
  }
}

/* Reports what is not finite of gates and ups without bias. */
template <int N>
static __device__ __forceinline__ void pairs_check(const product_job &job, const wide_end &end,
                                                   const float (&sum)[N / 2]) {
#pragma unroll
  for (int n = 0; n < N / 8; n++) {
    int2 rows = rows_get(end, n);
#pragma unroll
    for (int j = 0; j < 2; j++) {
      int64_t y_row = j == 0 ? rows.x : rows.y, at = y_row * job.w[0].rows + end.row[0];
#pragma unroll
      for (int i = 0; i < 2; i++)
        if (y_row >= 0 && end.real[1]) finite_check(job.check, at + i, sum[4 * n + 2 * i + j] + end.bias[i]);
    }
  }
}
template <int N>
static __device__ __forceinline__ void pairs_store(const product_job &job, const wide_end &end,
                                                   const float (&sum)[N / 2]) {
  uint16_t *to = job.y16 + x16_place(job.y16_order, end.row[0] / 2, job.y16_cols);
  uint32_t bytes = (uint32_t)job.y16_stride * (uint32_t)sizeof(uint16_t);
  float zero = 0; /* or NaN: one of them is not finite */
#pragma unroll
  for (int n = 0; n < N / 8; n++) {
    int2 rows = rows_get(end, n);
#pragma unroll
    for (int j = 0; j < 2; j++) {
      int y_row = j == 0 ? rows.x : rows.y;
      float gate = sum[4 * n + j] + end.bias[0], up = sum[4 * n + 2 + j] + end.bias[1];
      zero += gate * 0.0f;
      zero += up * 0.0f;
      uint16_t y = f32_to_bf16(swiglu_quick(gate, up, job.alpha, job.limit));
      if (y_row >= 0 && end.real[1]) *(uint16_t *)place_of(to, y_row, bytes) = y;
    }
  }
  if (job.check.fault && !(zero == 0.0f)) pairs_check<N>(job, end, sum);
}

template <int N>
static __device__ __forceinline__ void wide_store(const product_job &job, int s, const moe_tile &tile,
                                                  int64_t first, const int *y_row,
                                                  const float (&sum)[N / 2]) {
  const ie_cuda_weight &w = job.w[s];
  wide_end end;
  end.y_row = y_row;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    end.row[i] = row_index(job, first, i);
    end.real[i] = end.row[i] < w.rows;
    end.bias[i] = end.real[i] ? weight_bias(w, tile.expert, end.row[i]) : 0.0f;
  }
  if (job.end == END_SWIGLU)
    pairs_store<N>(job, end, sum);
  else if (job.add)
    rows_store<N, true>(job, s, end, sum);
  else
    rows_store<N, false>(job, s, end, sum);
}

/* --- The product ------------------------------------------------------------------------------------------------------ */

/* A tile of at most N rows of x. */
template <ie_wformat F, int N>
static __device__ __forceinline__ void wide_multiply(const product_job &job, int s, const moe_tile &tile,
                                                     int64_t first, unsigned char *ring) {
  int *y_row = (int *)(ring + RING_BYTES);
  enum { TILE_BYTES = N * TILE_TOKEN_BYTES, TURN_BYTES = 2 * TILE_BYTES };
  /* MXFP4: the batches of a turn have columns of all lanes, those of half a turn as well */
  int K = (int)job.K, end = F == IE_W_MXFP4 ? (K + 63) / 64 * 64 : K, turns = (K + TURN_COLS - 1) / TURN_COLS;
  wide_rows rows = rows_of<F>(job, s, tile, first);
  wide_weights<F> weights;
  weights.begin(rows);
  wide_source<N> x = source_of<N>(job, tile);
  rows_note<N>(y_row, job, tile);
  for (int i = 0; i < AHEAD; i++) {
    if (i < turns) turn_copy<N>(ring + i * TURN_BYTES, job.x16, x, i);
    copy_async_commit();
  }
  float sum[N / 2] = {};
  uint64_t operand = tile_descriptor(shared_address(ring));
  int place = 0; /* of the turn in the ring */
  for (int turn = 0; turn < turns; turn++) {
#pragma unroll
    for (int q = 0; q < BATCHES; q++) {
      if (turn * TURN_COLS + q * BATCH_COLS >= end) break;
      operand_a *a = weights.take(rows, turn, q);
      if (q == 0) {
        copy_async_wait<AHEAD - 1>();
        shared_publish();
        __syncthreads();
      }
      uint64_t b =
          tile_further(operand, place * TURN_BYTES + q / 2 * TILE_BYTES + q % 2 * STEPS * TILE_STEP_BYTES);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < STEPS; i++) wgmma_bf16(sum, a[i], tile_further(b, i * TILE_STEP_BYTES));
      wgmma_commit();
      if (q == 0) {
        int next = place + AHEAD < TURNS ? place + AHEAD : place + AHEAD - TURNS;
        if (turn + AHEAD < turns) turn_copy<N>(ring + next * TURN_BYTES, job.x16, x, turn + AHEAD);
        copy_async_commit();
      }
      wgmma_wait<1>();
      weights.done(rows, turn, q);
    }
    place = place + 1 < TURNS ? place + 1 : 0;
  }
  wgmma_wait<0>();
  wgmma_keep(sum);
  wide_store<N>(job, s, tile, first, y_row, sum);
}

template <ie_wformat F>
static __global__ void __launch_bounds__(WGMMA_BUILT ? THREADS : WARP, 1)
    wide_kernel(const __grid_constant__ product_job job) {
  if constexpr (WGMMA_BUILT) {
    DYNAMIC_SHARED(shared);
    launch_wait();
    launch_next();
    moe_tile tile = tile_at(job.rows, blockIdx.y, WIDE_TOKENS);
    if (tile.count == 0) return;
    int64_t block = blockIdx.x;
    int s = segment_at(job, &block);
    unsigned char *ring = tile_first(shared);
    if (tile.count > WIDE_TOKENS / 2)
      wide_multiply<F, WIDE_TOKENS>(job, s, tile, block * ROWS, ring);
    else
      wide_multiply<F, WIDE_TOKENS / 2>(job, s, tile, block * ROWS, ring);
  } else {
    wgmma_absent();
  }
}

/* --- Launching ------------------------------------------------------------------------------------------------------ */

bool ie_cuda_wgmma_loaded(const ie_cuda_queue *queue) {
  return queue->major == 9 && wgmma_loaded((const void *)wide_kernel<IE_W_BF16>, THREADS);
}

bool products_wide_takes(const ie_cuda_queue *queue, ie_wformat format, int64_t rows, int64_t x_rows,
                         int64_t tiles) {
  if (queue->wgmma == IE_CUDA_WGMMA_NEVER || (format != IE_W_BF16 && format != IE_W_MXFP4)) return false;
  if (queue->wgmma == IE_CUDA_WGMMA_ALWAYS) return true;
  /* half the chip is busy, and the tiles are a quarter full */
  return 2 * blocks_for(rows, ROWS) * tiles >= queue->sms && 4 * x_rows >= tiles * WIDE_TOKENS;
}

template <ie_wformat F> static cudaError_t wide_launch(const ie_cuda_queue *queue, product_job *job) {
  dim3 grid = grid_of(segments_place(job, ROWS), tiles_of(job->rows, WIDE_TOKENS));
  size_t shared = RING_BYTES + WIDE_TOKENS * sizeof(int) + TILE_ALIGN - 16;
  return launch(queue, {grid, dim3(THREADS), shared}, wide_kernel<F>, *job);
}

cudaError_t products_wide(const ie_cuda_queue *queue, product_job *job) {
  switch (job->w[0].format) {
  case IE_W_BF16: return wide_launch<IE_W_BF16>(queue, job);
  case IE_W_MXFP4: return wide_launch<IE_W_MXFP4>(queue, job);
  default: return cudaErrorNotSupported;
  }
}
