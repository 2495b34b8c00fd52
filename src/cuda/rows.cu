/* Kernels that touch each number once: norms, lookups, activations, RoPE, checks. */
#include "cuda/common.cuh"
#include "cuda/weights.cuh"

enum { ELEMENT_THREADS = 256, NORM_THREADS = 256 };

cudaError_t ie_cuda_queue_prepare(int device, ie_cuda_queue *out) {
  cudaDeviceProp p;
  cudaError_t status = cudaGetDeviceProperties(&p, device);
  if (status != cudaSuccess) return status;
  out->sms = p.multiProcessorCount;
  out->major = p.major;
  out->minor = p.minor;
  out->shared_bytes = p.sharedMemPerBlockOptin;
  out->overlap = false;
  out->wgmma = ie_cuda_wgmma_loaded(out) ? IE_CUDA_WGMMA_LARGE : IE_CUDA_WGMMA_NEVER;
  return cudaSuccess;
}

/* One thread an element, in a grid that strides. */
template <class... P, class... A>
static cudaError_t launch_elements(const ie_cuda_queue *queue, int64_t n, void (*kernel)(P...), A... args) {
  if (n == 0) return cudaSuccess;
  if (n < 0) return cudaErrorInvalidValue;
  int64_t blocks = blocks_for(n, ELEMENT_THREADS), most = (int64_t)queue->sms * 16;
  return launch(queue, {grid_of(blocks < most ? blocks : most), dim3(ELEMENT_THREADS), 0}, kernel, args...);
}
#define EACH(i, n)                                                                                           \
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, stride = (int64_t)gridDim.x * blockDim.x;      \
  i < (n);                                                                                                   \
  i += stride

/* --- Checks ------------------------------------------------------------------------------------------------------- */

static __global__ void fault_clear_kernel(ie_cuda_fault *fault) {
  launch_wait();
  launch_next();
  if (threadIdx.x == 0) *fault = IE_CUDA_NO_FAULT;
}

cudaError_t ie_cuda_fault_clear(const ie_cuda_queue *queue, ie_cuda_fault *fault) {
  return launch(queue, {dim3(1), dim3(WARP), 0}, fault_clear_kernel, fault);
}

static __global__ void check_finite_kernel(const float *x, int64_t n, ie_cuda_check check) {
  launch_wait();
  launch_next();
  for (EACH(i, n)) finite_check(check, i, x[i]);
}

cudaError_t ie_cuda_check_finite(const ie_cuda_queue *queue, const float *x, int64_t n, ie_cuda_check check) {
  if (!check.fault) return cudaSuccess;
  return launch_elements(queue, n, check_finite_kernel, x, n, check);
}

/* --- Lookups -------------------------------------------------------------------------------------------------------- */

static __global__ void embed_kernel(ie_cuda_embed_args args) {
  launch_wait();
  launch_next();
  int64_t t = blockIdx.x, row = args.ids[t];
  for (int64_t k = threadIdx.x; k < args.w.cols; k += blockDim.x)
    args.y[t * args.w.cols + k] = weight_at(args.w, row, k);
}

cudaError_t ie_cuda_embed(const ie_cuda_queue *queue, const ie_cuda_embed_args *args) {
  if (args->tokens == 0) return cudaSuccess;
  if (!grid_fits(args->tokens)) return cudaErrorInvalidValue;
  return launch(queue, {grid_of(args->tokens), dim3(ELEMENT_THREADS), 0}, embed_kernel, *args);
}

static __global__ void gather_kernel(ie_cuda_gather_args args) {
  launch_wait();
  launch_next();
  int64_t t = blockIdx.x, from = args.index[t];
  for (int64_t k = threadIdx.x; k < args.width; k += blockDim.x)
    args.y[t * args.width + k] = args.x[from * args.width + k];
}

cudaError_t ie_cuda_gather_rows(const ie_cuda_queue *queue, const ie_cuda_gather_args *args) {
  if (args->rows == 0) return cudaSuccess;
  if (!grid_fits(args->rows)) return cudaErrorInvalidValue;
  return launch(queue, {grid_of(args->rows), dim3(ELEMENT_THREADS), 0}, gather_kernel, *args);
}

static __global__ void split_kernel(ie_cuda_split_args args) {
  launch_wait();
  launch_next();
  int64_t D = args.dim, n = args.tokens * args.heads * 3 * D;
  for (EACH(i, n)) {
    int64_t head = i / (3 * D), part = i / D % 3;
    args.y[part][head * D + i % D] = args.x[i];
  }
}

cudaError_t ie_cuda_split_heads(const ie_cuda_queue *queue, const ie_cuda_split_args *args) {
  return launch_elements(queue, args->tokens * args->heads * 3 * args->dim, split_kernel, *args);
}

/* --- Norms ------------------------------------------------------------------------------------------------------------ */

/* A block a row. */
static __global__ void rms_norm_kernel(ie_cuda_norm_args args) {
  __shared__ float partial[WARP];
  launch_wait();
  launch_next();
  int64_t row = blockIdx.x, n = args.width;
  const float *x = args.x + row * n;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    finite_check(args.check, row * n + i, x[i]);
    squares += x[i] * x[i];
  }
  float scale = 1.0f / sqrtf(block_sum(squares, partial) / (float)n + args.eps);
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    float y = x[i] * scale;
    args.y[row * n + i] = args.weight.data ? y * load_as(args.weight.data, args.weight.dtype, i) : y;
  }
}

static __global__ void layer_norm_kernel(ie_cuda_norm_args args) {
  __shared__ float partial[2 * WARP];
  launch_wait();
  launch_next();
  int64_t row = blockIdx.x, n = args.width;
  const float *x = args.x + row * n;
  float sum = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    finite_check(args.check, row * n + i, x[i]);
    sum += x[i];
  }
  float mean = block_sum(sum, partial) / (float)n;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) squares += (x[i] - mean) * (x[i] - mean);
  float scale = 1.0f / sqrtf(block_sum(squares, partial + WARP) / (float)n + args.eps);
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
    args.y[row * n + i] = (x[i] - mean) * scale * load_as(args.weight.data, args.weight.dtype, i) +
                          load_as(args.bias.data, args.bias.dtype, i);
}

static cudaError_t norm_launch(const ie_cuda_queue *queue, const ie_cuda_norm_args *args,
                               void (*kernel)(ie_cuda_norm_args)) {
  if (args->rows == 0) return cudaSuccess;
  if (!grid_fits(args->rows) || args->width < 1) return cudaErrorInvalidValue;
  int64_t threads = blocks_for(args->width, WARP) * WARP;
  if (threads > NORM_THREADS) threads = NORM_THREADS;
  return launch(queue, {grid_of(args->rows), dim3((unsigned int)threads), 0}, kernel, *args);
}

cudaError_t ie_cuda_rms_norm(const ie_cuda_queue *queue, const ie_cuda_norm_args *args) {
  return norm_launch(queue, args, rms_norm_kernel);
}

cudaError_t ie_cuda_layer_norm(const ie_cuda_queue *queue, const ie_cuda_norm_args *args) {
  if (!args->weight.data || !args->bias.data) return cudaErrorInvalidValue;
  return norm_launch(queue, args, layer_norm_kernel);
}

/* --- Elements ----------------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ float activation_of(float a, ie_activation activation) {
  switch (activation) {
  case IE_GELU: {
    float tail = normal_tail(a);
    return a * (a < 0.0f ? tail : 1.0f - tail);
  }
  case IE_GELU_TANH: return a / (1.0f + exact_exp(-1.5957691216057308f * (a + 0.044715f * a * a * a)));
  default: return a < 0.0f ? 0.0f : a * a;
  }
}

static __global__ void activate_kernel(float *x, int64_t n, ie_activation activation) {
  launch_wait();
  launch_next();
  for (EACH(i, n)) x[i] = activation_of(x[i], activation);
}
cudaError_t ie_cuda_activate(const ie_cuda_queue *queue, float *x, int64_t n, ie_activation activation) {
  if (activation != IE_GELU && activation != IE_GELU_TANH && activation != IE_RELU2)
    return cudaErrorNotSupported;
  return launch_elements(queue, n, activate_kernel, x, n, activation);
}

static __global__ void soft_cap_kernel(float *x, int64_t n, float cap) {
  launch_wait();
  launch_next();
  for (EACH(i, n)) x[i] = cap * tanh_of(x[i] / cap);
}
cudaError_t ie_cuda_soft_cap(const ie_cuda_queue *queue, float *x, int64_t n, float cap) {
  return launch_elements(queue, n, soft_cap_kernel, x, n, cap);
}

static __global__ void scale_kernel(float *x, int64_t n, float factor) {
  launch_wait();
  launch_next();
  for (EACH(i, n)) x[i] *= factor;
}
static __global__ void add_kernel(float *y, const float *x, int64_t n) {
  launch_wait();
  launch_next();
  for (EACH(i, n)) y[i] += x[i];
}
cudaError_t ie_cuda_zero(const ie_cuda_queue *queue, float *x, int64_t n) {
  return n == 0 ? cudaSuccess : cudaMemsetAsync(x, 0, (size_t)n * sizeof *x, queue->stream);
}
cudaError_t ie_cuda_scale(const ie_cuda_queue *queue, float *x, int64_t n, float factor) {
  return launch_elements(queue, n, scale_kernel, x, n, factor);
}
cudaError_t ie_cuda_copy(const ie_cuda_queue *queue, float *y, const float *x, int64_t n) {
  if (n == 0) return cudaSuccess;
  return cudaMemcpyAsync(y, x, (size_t)n * sizeof *x, cudaMemcpyDeviceToDevice, queue->stream);
}
cudaError_t ie_cuda_add(const ie_cuda_queue *queue, float *y, const float *x, int64_t n) {
  return launch_elements(queue, n, add_kernel, y, x, n);
}

static __global__ void swiglu_kernel(float *y, const float *gate, const float *up, int64_t n) {
  launch_wait();
  launch_next();
  for (EACH(i, n)) y[i] = up[i] * swish(gate[i], 1.0f);
}
cudaError_t ie_cuda_swiglu(const ie_cuda_queue *queue, float *y, const float *gate, const float *up,
                           int64_t n) {
  return launch_elements(queue, n, swiglu_kernel, y, gate, up, n);
}

/* --- RoPE ---------------------------------------------------------------------------------------------------------------- */

static __global__ void rope_table_kernel(ie_cuda_rope_table_args args) {
  launch_wait();
  launch_next();
  int64_t n = args.tokens * args.half;
  for (EACH(i, n)) {
    float angle = (float)args.position[i / args.half] * args.inv_freq[i % args.half];
    float c = (float)cos((double)angle) * args.scale, s = (float)sin((double)angle) * args.scale;
    args.cos[i] = args.bf16 ? round_bf16(c) : c;
    args.sin[i] = args.bf16 ? round_bf16(s) : s;
  }
}
cudaError_t ie_cuda_rope_table(const ie_cuda_queue *queue, const ie_cuda_rope_table_args *args) {
  return launch_elements(queue, args->tokens * args->half, rope_table_kernel, *args);
}

static __global__ void rope_kernel(ie_cuda_rope_args args, int64_t n) {
  launch_wait();
  launch_next();
  int64_t half = args.half, heads = args.heads[0] + (args.n > 1 ? args.heads[1] : 0);
  for (EACH(i, n)) {
    int64_t t = i / (heads * half), h = i / half % heads, pair = i % half;
    bool second = h >= args.heads[0];
    float *x = second ? args.x[1] + (t * args.heads[1] + h - args.heads[0]) * args.dim
                      : args.x[0] + (t * args.heads[0] + h) * args.dim;
    float a = x[pair], b = x[pair + half], c = args.cos[t * half + pair], s = args.sin[t * half + pair];
    x[pair] = a * c - b * s;
    x[pair + half] = b * c + a * s;
  }
}
cudaError_t ie_cuda_rope(const ie_cuda_queue *queue, const ie_cuda_rope_args *args) {
  if (args->n < 1 || args->n > 2 || 2 * args->half > args->dim) return cudaErrorInvalidValue;
  int64_t n = args->tokens * (args->heads[0] + (args->n > 1 ? args->heads[1] : 0)) * args->half;
  return launch_elements(queue, n, rope_kernel, *args, n);
}
