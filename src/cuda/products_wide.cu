/* Products with many rows of x on compute capability 9.0: wgmma, tiles of 64 rows of the weight for each warpgroup of a
 * block and 128 rows of x.
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

enum {
  BATCH_COLS = 32,
  STEPS = BATCH_COLS / 16,
  BATCHES = 4, /* of a turn */
  TURN_COLS = BATCHES * BATCH_COLS,
};

/* W warpgroups a block: 2, and two blocks a multiprocessor (128 registers a thread), of which one covers what the other
 * waits for; or 3 and one block, which reads less of x. */
template <int W> struct wide_shape {
  enum {
    THREADS = W * 4 * WARP,
    BLOCKS = W == 2 ? 2 : 1,
    ROWS = W * 64,
    TURNS = W == 2 ? 3 : 5,                 /* of the ring */
    AHEAD = TURNS - 2,                      /* turns that are being copied while one is multiplied */
    COPY_TOKENS = THREADS / (TILE_COLS / 8) /* rows of x that all threads copy at once; a multiple of 8 */
  };
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
/* A lane's part of a chunk; zero beyond the last column. */
template <ie_wformat F>
static __device__ __forceinline__ row_chunk rows_load(const wide_rows &rows, int half, int chunk) {
  row_chunk out = {};
  if (F == IE_W_MXFP4 && chunk == rows.half) {
    int t = (int)(threadIdx.x % 4);
    if (chunk * format_traits<F>::CHUNK >= rows.left + 16 * t) return out;
    uint2 v = load_once8(rows.data[half] + chunk * 64 - 8 * t);
    out.data.x = v.x, out.data.y = v.y;
    out.scale = rows.scale[half][chunk * 4 - (t + 1) / 2];
    return out;
  }
  if (chunk * format_traits<F>::CHUNK >= rows.left) return out;
  out.data = load_once(rows.data[half] + chunk * 64);
  if (F == IE_W_MXFP4) out.scale = rows.scale[half][chunk * 4];
  return out;
}

/* begin: the first loads. take: operand A of batch q of a turn, decoded into a place that no product reads; products of
 * all but one batch are done. done: products of all batches before q are done. */
template <ie_wformat F> struct wide_weights;
typedef uint32_t operand_a[4]; /* of one step */

/* A turn is a chunk, a batch a quad of it. The next chunk is loaded while one is decoded. */
template <> struct wide_weights<IE_W_MXFP4> {
  row_chunk now[2], next[2];
  mxfp4_factor factor[2];
  operand_a a[2][STEPS];

  __device__ __forceinline__ void load(const wide_rows &rows, int turn) {
#pragma unroll
    for (int r = 0; r < 2; r++) next[r] = rows_load<IE_W_MXFP4>(rows, r, turn);
  }
  __device__ __forceinline__ void begin(const wide_rows &rows) {
    load(rows, 0);
  }
  __device__ __forceinline__ operand_a *take(const wide_rows &rows, int turn, int q) {
    if (q == 0) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        now[r] = next[r];
        factor[r] = mxfp4_factor_of(now[r].scale);
      }
      load(rows, turn + 1);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      uint32_t pair[4];
      quad_decode<IE_W_MXFP4>(pair, now[r], q, factor[r]);
#pragma unroll
      for (int i = 0; i < 4; i++) a[q % 2][i / 2][r + i % 2 * 2] = pair[i];
    }
    return a[q % 2];
  }
  __device__ __forceinline__ void done(const wide_rows &, int, int) {}
};

/* A batch is a chunk, which is operand A as it is: it is loaded where the products read it, three batches ahead. */
template <> struct wide_weights<IE_W_BF16> {
  operand_a a[BATCHES][STEPS];

  __device__ __forceinline__ void load(const wide_rows &rows, int turn, int q) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      row_chunk c = rows_load<IE_W_BF16>(rows, r, turn * BATCHES + q);
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

/* A thread copies the same 16 bytes of each tile of 64 columns for several rows of x. */
template <int W, int N> struct wide_source {
  enum { STEP = wide_shape<W>::COPY_TOKENS, ROUNDS = (N + STEP - 1) / STEP };
  const uint16_t *from[ROUNDS];
  uint32_t valid; /* bit i: round i has a row of x */
  int to;         /* in a tile; round i: STEP rows further on */
};
template <int W, int N>
static __device__ __forceinline__ wide_source<W, N> source_of(const product_job &job, const moe_tile &tile) {
  wide_source<W, N> s;
  int first = (int)threadIdx.x / 8, piece = (int)threadIdx.x % 8;
  s.valid = 0;
  s.to = first * TILE_TOKEN_BYTES + tile_piece(first, piece);
#pragma unroll
  for (int i = 0; i < s.ROUNDS; i++) {
    int token = first + i * s.STEP;
    s.from[i] = job.x16;
    if (token >= tile.count) continue;
    s.from[i] += tile_row(job.rows, tile, token) / job.rows.divide * job.x16_stride + piece * 8;
    s.valid |= 1u << i;
  }
  return s;
}
/* Both tiles of a turn; rows that x has not are zero. */
template <int W, int N>
static __device__ __forceinline__ void turn_copy(unsigned char *to, const wide_source<W, N> &s, int turn) {
#pragma unroll
  for (int i = 0; i < s.ROUNDS; i++) {
    if (N % s.STEP != 0 && (int)threadIdx.x / 8 + i * s.STEP >= N) continue;
    bool valid = s.valid >> i & 1;
    const uint16_t *from = s.from[i] + turn * TURN_COLS;
    unsigned char *at = to + s.to + i * s.STEP * TILE_TOKEN_BYTES;
    copy_async(at, from, valid);
    copy_async(at + N * TILE_TOKEN_BYTES, from + TILE_COLS, valid);
  }
}

/* --- Sums ------------------------------------------------------------------------------------------------------------- */

/* What is the same for all tokens of a thread, which has two rows. */
struct wide_end {
  int64_t row[2];
  float bias[2];
  int64_t at; /* END_SWIGLU: where number row[0] / 2 stands in y16 */
};

static __device__ __forceinline__ void pair_store(const product_job &job, const wide_end &end, int64_t y_row,
                                                  float gate, float up) {
  gate += end.bias[0];
  up += end.bias[1];
  int64_t at = y_row * job.w[0].rows + end.row[0];
  finite_check(job.check, at, gate);
  finite_check(job.check, at + 1, up);
  job.y16[y_row * job.y16_stride + end.at] = f32_to_bf16(swiglu_quick(gate, up, job.alpha, job.limit));
}

template <int N>
static __device__ __forceinline__ void wide_store(const product_job &job, int s, const moe_tile &tile,
                                                  int64_t first, const float (&sum)[N / 2]) {
  const ie_cuda_weight &w = job.w[s];
  wide_end end;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    end.row[i] = row_index(job, first, i);
    end.bias[i] = end.row[i] < w.rows ? weight_bias(w, tile.expert, end.row[i]) : 0.0f;
  }
  end.at = x16_place(job.y16_order, end.row[0] / 2, job.y16_cols);
#pragma unroll
  for (int n = 0; n < N / 8; n++)
#pragma unroll
    for (int j = 0; j < 2; j++) {
      int token = n * 8 + 2 * (int)(threadIdx.x % 4) + j;
      if (token >= tile.count) continue;
      int64_t y_row = tile_row(job.rows, tile, token);
      const float *d = sum + 4 * n + j;
      if (job.end == END_SWIGLU) {
        if (end.row[1] < w.rows) pair_store(job, end, y_row, d[0], d[2]);
        continue;
      }
      float *y = job.y[s] + y_row * w.rows;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        if (end.row[i] >= w.rows) continue;
        float value = d[2 * i] + end.bias[i];
        y[end.row[i]] = job.add ? y[end.row[i]] + value : value;
      }
    }
}

/* --- The product ------------------------------------------------------------------------------------------------------ */

/* A tile of at most N rows of x. */
template <ie_wformat F, int W, int N>
static __device__ __forceinline__ void wide_multiply(const product_job &job, int s, const moe_tile &tile,
                                                     int64_t first, unsigned char *ring) {
  typedef wide_shape<W> shape;
  enum { TILE_BYTES = N * TILE_TOKEN_BYTES, TURN_BYTES = 2 * TILE_BYTES, AHEAD = shape::AHEAD };
  /* MXFP4: the batches of a turn have columns of all lanes, those of half a turn as well */
  int K = (int)job.K, end = F == IE_W_MXFP4 ? (K + 63) / 64 * 64 : K, turns = (K + TURN_COLS - 1) / TURN_COLS;
  wide_rows rows = rows_of<F>(job, s, tile, first);
  wide_weights<F> weights;
  weights.begin(rows);
  wide_source<W, N> x = source_of<W, N>(job, tile);
  for (int i = 0; i < AHEAD; i++) {
    if (i < turns) turn_copy<W, N>(ring + i * TURN_BYTES, x, i);
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
        int next = place + AHEAD < shape::TURNS ? place + AHEAD : place + AHEAD - shape::TURNS;
        if (turn + AHEAD < turns) turn_copy<W, N>(ring + next * TURN_BYTES, x, turn + AHEAD);
        copy_async_commit();
      }
      wgmma_wait<1>();
      weights.done(rows, turn, q);
    }
    place = place + 1 < shape::TURNS ? place + 1 : 0;
  }
  wgmma_wait<0>();
  wgmma_keep(sum);
  wide_store<N>(job, s, tile, first, sum);
}

template <ie_wformat F, int W>
static __global__ void __launch_bounds__(WGMMA_BUILT ? wide_shape<W>::THREADS : WARP, wide_shape<W>::BLOCKS)
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
      wide_multiply<F, W, WIDE_TOKENS>(job, s, tile, block * wide_shape<W>::ROWS, ring);
    else
      wide_multiply<F, W, WIDE_TOKENS / 2>(job, s, tile, block * wide_shape<W>::ROWS, ring);
  } else {
    wgmma_absent();
  }
}

/* --- Launching ------------------------------------------------------------------------------------------------------ */

bool ie_cuda_wgmma_loaded(const ie_cuda_queue *queue) {
  return queue->major == 9 && wgmma_loaded((const void *)wide_kernel<IE_W_BF16, 2>, wide_shape<2>::THREADS);
}

bool products_wide_takes(const ie_cuda_queue *queue, ie_wformat format, int64_t rows, int64_t x_rows,
                         int64_t tiles) {
  if (queue->wgmma == IE_CUDA_WGMMA_NEVER || (format != IE_W_BF16 && format != IE_W_MXFP4)) return false;
  if (queue->wgmma == IE_CUDA_WGMMA_ALWAYS) return true;
  /* half the chip is busy, and the tiles are a quarter full */
  return 2 * blocks_for(rows, wide_shape<2>::ROWS) * tiles >= queue->sms && 4 * x_rows >= tiles * WIDE_TOKENS;
}

template <ie_wformat F, int W> static cudaError_t wide_launch(const ie_cuda_queue *queue, product_job *job) {
  typedef wide_shape<W> shape;
  dim3 grid = grid_of(segments_place(job, shape::ROWS), tiles_of(job->rows, WIDE_TOKENS));
  size_t ring = (size_t)shape::TURNS * 2 * WIDE_TOKENS * TILE_TOKEN_BYTES;
  return launch(queue, {grid, dim3(shape::THREADS), ring + TILE_ALIGN - 16}, wide_kernel<F, W>, *job);
}

cudaError_t products_wide(const ie_cuda_queue *queue, product_job *job) {
  switch (job->w[0].format) {
  case IE_W_BF16:
    return queue->wgmma_tall ? wide_launch<IE_W_BF16, 3>(queue, job) : wide_launch<IE_W_BF16, 2>(queue, job);
  case IE_W_MXFP4:
    return queue->wgmma_tall ? wide_launch<IE_W_MXFP4, 3>(queue, job)
                             : wide_launch<IE_W_MXFP4, 2>(queue, job);
  default: return cudaErrorNotSupported;
  }
}
