/* What the product kernels share: which tokens a block multiplies with which expert, and where the sums go.
 *
 * Rows of x and y come in tiles of N. Without experts tile i is tokens i N to i N + N - 1. With `expert` but no tiles each
 * row (a pair of token and choice) is a tile of its own. With tiles the pairs were sorted by expert: a tile is up to N
 * pairs of one expert, named by `pair`. */
#ifndef CLOCHER_CUDA_PRODUCTS_CUH
#define CLOCHER_CUDA_PRODUCTS_CUH

#include "cuda/weights.cuh"

struct moe_tile {
  int32_t expert, first, count;
};

struct product_rows {
  const moe_tile *tiles;
  const int32_t *pair;   /* (count) pairs in the order of their experts */
  const int32_t *expert; /* (count) of pair p */
  int64_t count;         /* rows of y */
  int64_t tile_count;    /* at most so many tiles; the rest of a table has count 0 */
  int divide;            /* row p of y is computed from row p / divide of x */
};

/* The order of columns in x16, so that the tensor cores' k of a lane are the columns whose weights it has (mma.cuh). */
enum x16_order {
  X16_PLAIN,        /* mma.sync: as they are */
  X16_NIBBLES,      /* mma.sync, of nibbles: within 8 */
  X16_WIDE,         /* wgmma: within 32 */
  X16_WIDE_NIBBLES, /* wgmma, of nibbles: within 128 */
};

enum product_end {
  END_STORE, /* y = or += sum + bias */
  END_SWIGLU /* rows 2i and 2i + 1 become number i of y */
};

struct product_job {
  ie_cuda_weight w[IE_CUDA_LINEAR_MAX];
  float *y[IE_CUDA_LINEAR_MAX];
  int64_t first_block[IE_CUDA_LINEAR_MAX + 1]; /* of each weight in the grid's x */
  int n;
  const float *x;      /* (.., K) */
  const uint16_t *x16; /* the same in bf16, columns in the order of x16_place, rows x16_stride apart */
  int64_t x16_stride;
  x16_order order; /* of x16 */
  int64_t K;
  product_rows rows;
  bool add;
  bool vector; /* loads of several numbers are aligned */
  int split;   /* warps that share a row (plain_few) */
  product_end end;
  float alpha, limit;
  uint16_t *y16; /* END_SWIGLU: y in bf16 for the next product, or NULL */
  int64_t y16_cols, y16_stride;
  x16_order y16_order;
  ie_cuda_check check;
};

static inline int64_t tiles_of(const product_rows &rows, int64_t N) {
  if (rows.tiles) return rows.tile_count;
  return rows.expert ? rows.count : blocks_for(rows.count, N);
}

static __device__ __forceinline__ moe_tile tile_at(const product_rows &rows, int64_t i, int N) {
  if (rows.tiles) return rows.tiles[i];
  moe_tile tile = {0, (int32_t)i, 1};
  if (rows.expert) {
    tile.expert = rows.expert[i];
    return tile;
  }
  tile.first = (int32_t)(i * N);
  tile.count = (int32_t)(rows.count - i * N < N ? rows.count - i * N : N);
  return tile;
}
/* Row of y of the i-th of a tile. */
static __device__ __forceinline__ int64_t tile_row(const product_rows &rows, const moe_tile &tile, int i) {
  return rows.pair ? rows.pair[tile.first + i] : tile.first + i;
}

/* Index of the weight whose rows block `b` has; *b becomes the block within it. */
static __device__ __forceinline__ int segment_at(const product_job &job, int64_t *b) {
  int s = 0;
  while (s + 1 < job.n && *b >= job.first_block[s + 1]) s++;
  *b -= job.first_block[s];
  return s;
}
/* Fills first_block for blocks of so many rows; returns the grid's x. */
static inline int64_t segments_place(product_job *job, int64_t block_rows) {
  int64_t at = 0;
  for (int i = 0; i < job->n; i++) {
    job->first_block[i] = at;
    at += blocks_for(job->w[i].rows, block_rows);
  }
  return job->first_block[job->n] = at;
}

static __device__ __forceinline__ void product_store(const product_job &job, int s, int64_t expert,
                                                     int64_t row, int64_t y_row, float sum) {
  const ie_cuda_weight &w = job.w[s];
  float *y = job.y[s] + y_row * w.rows + row;
  sum += weight_bias(w, expert, row);
  *y = job.add ? *y + sum : sum;
}

static inline x16_order x16_order_of(ie_wformat format, bool wgmma) {
  bool nibbles = format == IE_W_MXFP4 || format == IE_W_INT4;
  return wgmma ? (nibbles ? X16_WIDE_NIBBLES : X16_WIDE) : (nibbles ? X16_NIBBLES : X16_PLAIN);
}
/* Rows of x16 are whole periods, zero from column K on. */
static __host__ __device__ __forceinline__ int64_t x16_period(x16_order order) {
  return order == X16_WIDE || order == X16_WIDE_NIBBLES ? 128 : 8;
}
static __host__ __device__ __forceinline__ int64_t x16_stride_of(x16_order order, int64_t K) {
  return blocks_for(K, x16_period(order)) * x16_period(order);
}

/* Where column k of K stands in a row of x16. Lane t of four owns the columns 8 t .. 8 t + 7 of 32 (nibbles: 32 t .. 32 t +
 * 31 of 128), in steps s of 16 columns, of which a lane's are the k 2 t, 2 t + 1, 2 t + 8 and 2 t + 9. mma.sync: 16 bytes of
 * x16 are a lane's B of two steps. wgmma: x16 is in the order of k. Of nibbles, a 32-bit word gives columns (0, 4), (1, 5),
 * (2, 6), (3, 7). Where no more than 64 columns are left for the last 128 of wgmma, a lane owns 16 of 64 there. */
static __host__ __device__ __forceinline__ bool x16_is_half(int64_t k, int64_t K) {
  return (k | 127) > K && (K & 127) != 0 && (K & 127) <= 64;
}
static __device__ __forceinline__ int64_t x16_place(x16_order order, int64_t k, int64_t K) {
  int c = (int)(k & 127), r = c & 7;
  switch (order) {
  case X16_PLAIN: return k;
  case X16_NIBBLES: return k - r + (r < 4 ? 2 * r : 2 * r - 7);
  case X16_WIDE: return k - (c & 31) + (r >> 1) * 8 + (c >> 3 & 3) * 2 + (r & 1);
  case X16_WIDE_NIBBLES: {
    bool half = x16_is_half(k, K);
    int t = half ? c >> 4 : c >> 5, q = half ? c >> 3 & 1 : c >> 3 & 3;
    return k - c + q * 32 + (r & 3) * 8 + t * 2 + (r >> 2);
  }
  }
  return k;
}
/* The column that stands at place p, K or more where none does: x16_place backwards. */
static __device__ __forceinline__ int64_t x16_column(x16_order order, int64_t p, int64_t K) {
  int c = (int)(p & 127), r = c & 7;
  switch (order) {
  case X16_PLAIN: return p;
  case X16_NIBBLES: return p - r + r / 2 + r % 2 * 4;
  case X16_WIDE: return p - (c & 31) + (r >> 1) * 8 + (c >> 3 & 3) * 2 + (r & 1);
  case X16_WIDE_NIBBLES: {
    bool half = x16_is_half(p, K);
    if (half && c >= 64) return K;
    return p - c + (r >> 1) * (half ? 16 : 32) + (c >> 5) * 8 + (c >> 3 & 3) + (r & 1) * 4;
  }
  }
  return p;
}

/* (u + 1) g sigmoid(alpha g) of clamped g and u; comparisons let NaN pass. */
static __device__ __forceinline__ float swiglu_clamped(float g, float u, float alpha, float limit) {
  if (g > limit) g = limit;
  if (u > limit) u = limit;
  if (u < -limit) u = -limit;
  return (u + 1.0f) * swish(g, alpha);
}

/* The same with the chip's own exponential and reciprocal, a quarter of the instructions: for results that are rounded to
 * bf16. */
static __device__ __forceinline__ float swiglu_quick(float g, float u, float alpha, float limit) {
  if (g > limit) g = limit;
  if (u > limit) u = limit;
  if (u < -limit) u = -limit;
  return quick_divide((u + 1.0f) * g, 1.0f + quick_exp(-alpha * g));
}

/* Gate and up, sums without bias, of number i: rows 2i and 2i + 1 of an expert. */
static __device__ __forceinline__ void swiglu_store(const product_job &job, int64_t expert, int64_t i,
                                                    int64_t y_row, float gate, float up) {
  const ie_cuda_weight &w = job.w[0];
  gate += weight_bias(w, expert, 2 * i);
  up += weight_bias(w, expert, 2 * i + 1);
  finite_check(job.check, y_row * w.rows + 2 * i, gate);
  finite_check(job.check, y_row * w.rows + 2 * i + 1, up);
  float y = swiglu_clamped(gate, up, job.alpha, job.limit);
  if (job.y16)
    job.y16[y_row * job.y16_stride + x16_place(job.y16_order, i, job.y16_cols)] = f32_to_bf16(y);
  else
    job.y[0][y_row * (w.rows / 2) + i] = y;
}

/* --- The kernels, by file ------------------------------------------------------------------------------------------- */

/* products_plain.cu: every format and alignment, f32 products; x must be rounded already (x_prepare). */
cudaError_t products_plain(const ie_cuda_queue *queue, product_job *job);
/* out (rows, K) = x rounded or quantised as class cls says. */
cudaError_t x_prepare(const ie_cuda_queue *queue, float *out, const float *x, int64_t rows, int64_t K,
                      ie_class cls);
/* job->x16 = bf16 of x (rows, K) in job->order, in `out`: room for rows * x16_columns(K) numbers. Of job->y16 (if any;
 * rows.count rows) the places from y16_cols on become zero, which nobody writes. */
cudaError_t x16_prepare(const ie_cuda_queue *queue, product_job *job, uint16_t *out, int64_t rows);
/* At least x16_stride_of any order. */
static inline int64_t x16_columns(int64_t K) {
  return blocks_for(K, 128) * 128;
}

/* products_few.cu, products_many.cu: class bf16 on the tensor cores; weights that products_mma_takes. */
bool products_mma_takes(const ie_cuda_queue *queue, const ie_cuda_weight *w, ie_class cls);
/* Whether the rows of x of one tile fit the shared memory. */
bool products_few_fits(const ie_cuda_queue *queue, int64_t K, int64_t rows);
cudaError_t products_few(const ie_cuda_queue *queue, product_job *job);
/* Whether every row of x (.., K) begins at a multiple of 16 bytes. */
static inline bool products_few_takes(const float *x, int64_t K) {
  return (uintptr_t)x % 16 == 0 && K % 4 == 0;
}
/* y (T, C) += sum over j < k of weight[t k + j] * (row t k + j of x times expert[t k + j]): k <= 8. */
cudaError_t products_fold(const ie_cuda_queue *queue, product_job *job, const float *weight, int64_t tokens,
                          int k);
/* Tiles of MANY_TOKENS rows, of few ones MID_TOKENS. */
enum { FEW_TOKENS = 8, MID_TOKENS = 16, MANY_TOKENS = 64 };
cudaError_t products_many(const ie_cuda_queue *queue, product_job *job, int tile);

/* products_wide.cu: the same with wgmma, in tiles of WIDE_TOKENS rows of x; x16 in wgmma's order. `takes` is the one place
 * that decides, by queue->wgmma: whether weights of a format that products_mma_takes, so many rows together, go there
 * when x has x_rows rows in so many tiles. */
enum { WIDE_TOKENS = 128 };
bool products_wide_takes(const ie_cuda_queue *queue, ie_wformat format, int64_t rows, int64_t x_rows,
                         int64_t tiles);
cudaError_t products_wide(const ie_cuda_queue *queue, product_job *job);

#endif
