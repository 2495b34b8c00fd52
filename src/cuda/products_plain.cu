/* Products in f32 with weights of every format: what the arithmetic classes other than bf16 take, and odd sizes. */
#include "cuda/products.cuh"

enum {
  FEW_WARPS = 8,
  FEW_N = 8,
  TILE_ROWS = 64,
  TILE_TOK = 64,
  TILE_K = 16,
  TILE_PAD = 4,
  X16_THREADS = 128
};

/* Numbers k .. k + 3 of a row; zero from K on. k is a multiple of 4. */
template <ie_wformat F>
static __device__ __forceinline__ void load4(float w[4], const weight_rows &r, int64_t k, int64_t K,
                                             bool vector) {
  if (!vector) {
    for (int i = 0; i < 4; i++) w[i] = k + i < K ? row_at(F, r, k + i) : 0.0f;
    return;
  }
  if (F == IE_W_F32) {
    float4 v = *(const float4 *)((const float *)r.part[0] + k);
    w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
  } else if (F == IE_W_F16 || F == IE_W_BF16) {
    uint2 v = *(const uint2 *)((const uint16_t *)r.part[0] + k);
    const uint16_t h[4] = {(uint16_t)v.x, (uint16_t)(v.x >> 16), (uint16_t)v.y, (uint16_t)(v.y >> 16)};
    for (int i = 0; i < 4; i++) w[i] = F == IE_W_F16 ? f16_to_f32(h[i]) : bf16_to_f32(h[i]);
  } else if (F == IE_W_INT8) {
    uint32_t v = *(const uint32_t *)(r.part[0] + k);
    float scale = scale_f16(r.part[1], k / 32);
    for (int i = 0; i < 4; i++) w[i] = (float)(int8_t)(v >> 8 * i) * scale;
  } else {
    uint32_t v = *(const uint16_t *)(r.part[0] + k / 2);
    float scale = F == IE_W_INT4 ? scale_f16(r.part[1], k / 64) : mxfp4_scale(r.part[1][k / 32]);
    for (int i = 0; i < 4; i++) {
      uint32_t nibble = v >> 4 * i & 15;
      w[i] = (F == IE_W_INT4 ? (float)((int)nibble - 8) : mxfp4_value(nibble)) * scale;
    }
  }
}

static __device__ __forceinline__ void load_x4(float x[4], const float *row, int64_t k, int64_t K,
                                               bool vector) {
  if (vector) {
    float4 v = *(const float4 *)(row + k);
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
  } else {
    for (int i = 0; i < 4; i++) x[i] = k + i < K ? row[k + i] : 0.0f;
  }
}

/* --- Few rows of x: `split` warps a row of the weight ------------------------------------------------------------------ */

template <ie_wformat F> static __global__ void plain_few_kernel(product_job job) {
  __shared__ float parts[FEW_WARPS][FEW_N];
  launch_wait();
  launch_next();
  moe_tile tile = tile_at(job.rows, blockIdx.y, FEW_N);
  if (tile.count == 0) return;
  int64_t block = blockIdx.x, K = job.K;
  int s = segment_at(job, &block), warp = (int)(threadIdx.x / WARP), lane = (int)(threadIdx.x % WARP);
  int rows = FEW_WARPS / job.split;
  int64_t first = block * rows, row = first + warp / job.split, last = job.w[s].rows - 1;
  weight_rows r = weight_row(job.w[s], tile.expert, row < last ? row : last);
  const float *x[FEW_N];
  float sum[FEW_N];
#pragma unroll
  for (int i = 0; i < FEW_N; i++) {
    x[i] = job.x + tile_row(job.rows, tile, i < tile.count ? i : 0) / job.rows.divide * K;
    sum[i] = 0;
  }
  for (int64_t k = 4 * (lane + WARP * (warp % job.split)); k < K; k += 4 * WARP * job.split) {
    float w[4], v[4];
    load4<F>(w, r, k, K, job.vector);
#pragma unroll
    for (int i = 0; i < FEW_N; i++) {
      if (i >= tile.count) break;
      load_x4(v, x[i], k, K, job.vector);
      sum[i] += v[0] * w[0] + v[1] * w[1] + v[2] * w[2] + v[3] * w[3];
    }
  }
#pragma unroll
  for (int i = 0; i < FEW_N; i++) {
    if (i >= tile.count) break;
    sum[i] = warp_sum(sum[i]);
    if (lane == 0) parts[warp][i] = sum[i];
  }
  __syncthreads();
  int i = (int)threadIdx.x % FEW_N, at = (int)threadIdx.x / FEW_N;
  if (at >= rows || i >= tile.count || first + at > last) return;
  float total = 0;
  for (int p = 0; p < job.split; p++) total += parts[at * job.split + p][i];
  product_store(job, s, tile.expert, first + at, tile_row(job.rows, tile, i), total);
}

/* --- Many: tiles of 64 x 64, 4 x 4 a thread ------------------------------------------------------------------------------ */

template <ie_wformat F> static __global__ void plain_many_kernel(product_job job) {
  __shared__ float ws[TILE_K][TILE_ROWS + TILE_PAD], xs[TILE_K][TILE_TOK + TILE_PAD];
  launch_wait();
  launch_next();
  moe_tile tile = tile_at(job.rows, blockIdx.y, TILE_TOK);
  if (tile.count == 0) return;
  int64_t block = blockIdx.x, K = job.K;
  int s = segment_at(job, &block), tid = (int)threadIdx.x;
  int64_t first = block * TILE_ROWS, last = job.w[s].rows - 1;
  int at = tid / 4, k4 = tid % 4 * 4, r0 = tid / 16 * 4, t0 = tid % 16 * 4;
  weight_rows r = weight_row(job.w[s], tile.expert, first + at < last ? first + at : last);
  const float *x = job.x + tile_row(job.rows, tile, at < tile.count ? at : 0) / job.rows.divide * K;
  float sum[4][4] = {};
  for (int64_t k0 = 0; k0 < K; k0 += TILE_K) {
    float w[4] = {}, v[4] = {};
    if (k0 + k4 < K) {
      load4<F>(w, r, k0 + k4, K, job.vector);
      load_x4(v, x, k0 + k4, K, job.vector);
    }
    __syncthreads();
    for (int i = 0; i < 4; i++) {
      ws[k4 + i][at] = w[i];
      xs[k4 + i][at] = v[i];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < TILE_K; k++)
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) sum[i][j] += ws[k][r0 + i] * xs[k][t0 + j];
  }
  for (int j = 0; j < 4 && t0 + j < tile.count; j++) {
    int64_t y_row = tile_row(job.rows, tile, t0 + j);
    for (int i = 0; i < 4; i++)
      if (first + r0 + i <= last) product_store(job, s, tile.expert, first + r0 + i, y_row, sum[i][j]);
  }
}

/* --- Choosing ------------------------------------------------------------------------------------------------------------- */

/* Whether load4 may load 4 numbers at once. */
static bool vector_loads(const product_job *job) {
  static const size_t bytes[] = {16, 8, 8, 2, 4, 2}; /* by format */
  bool fits = job->K % 4 == 0 && (uintptr_t)job->x % 16 == 0;
  for (int i = 0; i < job->n; i++) {
    size_t n = bytes[job->w[i].format];
    fits = fits && (uintptr_t)job->w[i].part[0] % n == 0 && job->w[i].row_bytes[0] % n == 0 &&
           job->w[i].expert_bytes[0] % n == 0;
  }
  return fits;
}

template <ie_wformat F> static cudaError_t plain_launch(const ie_cuda_queue *queue, product_job *job) {
  bool many = job->rows.tiles != NULL || (!job->rows.expert && job->rows.count > 2 * FEW_N);
  if (many) {
    dim3 grid = grid_of(segments_place(job, TILE_ROWS), tiles_of(job->rows, TILE_TOK));
    return launch(queue, {grid, dim3(256), 0}, plain_many_kernel<F>, *job);
  }
  int64_t rows = 0, tiles = tiles_of(job->rows, FEW_N);
  for (int i = 0; i < job->n; i++) rows += job->w[i].rows;
  job->split = 1;
  while (job->split < FEW_WARPS && rows * tiles * job->split < (int64_t)queue->sms * 4 * FEW_WARPS)
    job->split *= 2;
  dim3 grid = grid_of(segments_place(job, FEW_WARPS / job->split), tiles);
  return launch(queue, {grid, dim3(FEW_WARPS * WARP), 0}, plain_few_kernel<F>, *job);
}

cudaError_t products_plain(const ie_cuda_queue *queue, product_job *job) {
  job->vector = vector_loads(job);
  switch (job->w[0].format) {
  case IE_W_F32: return plain_launch<IE_W_F32>(queue, job);
  case IE_W_F16: return plain_launch<IE_W_F16>(queue, job);
  case IE_W_BF16: return plain_launch<IE_W_BF16>(queue, job);
  case IE_W_MXFP4: return plain_launch<IE_W_MXFP4>(queue, job);
  case IE_W_INT8: return plain_launch<IE_W_INT8>(queue, job);
  case IE_W_INT4: return plain_launch<IE_W_INT4>(queue, job);
  default: return cudaErrorNotSupported;
  }
}

/* --- Activations ------------------------------------------------------------------------------------------------------------ */

/* q s with s = max|x| / 127 over the warp's 32 columns: ie_quantise_block. */
static __device__ __forceinline__ float quantised(float x) {
  float s = warp_max(fabsf(x)) / 127.0f;
  if (__any_sync(ALL_LANES, !is_finite(x))) return NAN;
  if (s == 0.0f) return 0.0f;
  return fmaxf(-127.0f, fminf(127.0f, rintf(x / s))) * s;
}

/* A warp takes 32 columns of a row. */
static __global__ void x_prepare_kernel(float *out, const float *x, int64_t rows, int64_t K, ie_class cls) {
  launch_wait();
  launch_next();
  int64_t unit = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP, units = blocks_for(K, WARP);
  if (unit >= rows * units) return; /* whole warps */
  int64_t row = unit / units, k = unit % units * WARP + threadIdx.x % WARP;
  float v = k < K ? x[row * K + k] : 0.0f;
  if (cls == IE_CLASS_BF16) v = round_bf16(v);
  if (cls == IE_CLASS_F16) v = f16_to_f32(f32_to_f16(v));
  if (cls == IE_CLASS_INT8) v = quantised(v);
  if (k < K) out[row * K + k] = v;
}

cudaError_t x_prepare(const ie_cuda_queue *queue, float *out, const float *x, int64_t rows, int64_t K,
                      ie_class cls) {
  int64_t blocks = blocks_for(rows * blocks_for(K, WARP), 8);
  if (!grid_fits(blocks)) return cudaErrorInvalidValue;
  return launch(queue, {grid_of(blocks), dim3(8 * WARP), 0}, x_prepare_kernel, out, x, rows, K, cls);
}

/* A thread makes 8 places, which are 16 bytes. The first `rows` blocks a row of x each; the others, of all rows of y16, what
 * nobody else writes. */
static __global__ void __launch_bounds__(X16_THREADS)
    x16_kernel(const __grid_constant__ product_job job, uint16_t *out, int64_t rows) {
  launch_wait();
  launch_next();
  if (blockIdx.x >= rows) {
    int64_t first = job.y16_cols / x16_period(job.y16_order) * x16_period(job.y16_order);
    int64_t eights = (job.y16_stride - first) / 8,
            i = ((int64_t)blockIdx.x - rows) * X16_THREADS + threadIdx.x;
    if (i < job.rows.count * eights)
      *(uint4 *)(job.y16 + i / eights * job.y16_stride + first + i % eights * 8) = make_uint4(0, 0, 0, 0);
    return;
  }
  const float *x = job.x + (int64_t)blockIdx.x * job.K;
  for (int64_t p = 8 * threadIdx.x; p < job.x16_stride; p += 8 * X16_THREADS) {
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
      int64_t k = x16_column(job.order, p + i, job.K);
      v[i] = k < job.K ? x[k] : 0.0f;
    }
    *(uint4 *)(out + (int64_t)blockIdx.x * job.x16_stride + p) = make_uint4(
        bf16x2_of(v[0], v[1]), bf16x2_of(v[2], v[3]), bf16x2_of(v[4], v[5]), bf16x2_of(v[6], v[7]));
  }
}

cudaError_t x16_prepare(const ie_cuda_queue *queue, product_job *job, uint16_t *out, int64_t rows) {
  job->x16 = out;
  job->x16_stride = x16_stride_of(job->order, job->K);
  int64_t blocks = rows;
  if (job->y16) {
    int64_t period = x16_period(job->y16_order);
    blocks +=
        blocks_for(job->rows.count * ((job->y16_stride - job->y16_cols / period * period) / 8), X16_THREADS);
  }
  if (!grid_fits(blocks)) return cudaErrorInvalidValue;
  return launch(queue, {grid_of(blocks), dim3(X16_THREADS), 0}, x16_kernel, *job, out, rows);
}
