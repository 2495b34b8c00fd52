/* Which kernel a linear takes. */
#include "cuda/products.cuh"

/* Beyond this many tokens the weights would be read from memory more than twice by tiles of FEW_TOKENS. */
enum { FEW_MOST = 2 * FEW_TOKENS };

static size_t aligned(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

size_t ie_cuda_linear_scratch(const ie_cuda_linear_args *args) {
  if (args->n < 1 || args->tokens < 1) return 0;
  /* x rounded in f32, or in bf16: which of them depends on the weights' addresses */
  return aligned((size_t)args->tokens * (size_t)args->w[0].cols * sizeof(float)) +
         aligned((size_t)args->tokens * (size_t)x16_columns(args->w[0].cols) * sizeof(uint16_t));
}

/* Weights [first, first + n) of the call: one format, one kind of kernel. */
static cudaError_t linear_some(const ie_cuda_queue *queue, const ie_cuda_linear_args *args, int first, int n,
                               bool mma) {
  product_job job = {};
  job.n = n;
  for (int i = 0; i < n; i++) {
    job.w[i] = args->w[first + i];
    job.y[i] = args->y[first + i];
  }
  job.x = args->x;
  job.K = args->w[0].cols;
  job.rows.count = args->tokens;
  job.rows.divide = 1;
  job.add = args->add;
  job.end = END_STORE;
  cudaError_t status = cudaSuccess;
  int64_t rows = 0;
  for (int i = 0; i < n; i++) rows += job.w[i].rows;
  bool wide = mma && products_wide_takes(queue, job.w[0].format, rows, args->tokens,
                                         blocks_for(args->tokens, WIDE_TOKENS));
  if (mma && !wide && products_few_takes(args->x, job.K) && args->tokens <= FEW_MOST &&
      products_few_fits(queue, job.K, least_of(args->tokens, FEW_TOKENS)))
    return products_few(queue, &job);
  if (!args->scratch) return cudaErrorInvalidValue;
  if (mma) {
    uint16_t *x16 = (uint16_t *)args->scratch +
                    aligned((size_t)args->tokens * (size_t)job.K * sizeof(float)) / sizeof(uint16_t);
    job.order = x16_order_of(job.w[0].format, wide);
    status = x16_prepare(queue, &job, x16, args->tokens);
    if (status != cudaSuccess) return status;
    return wide ? products_wide(queue, &job)
                : products_many(queue, &job, args->tokens <= MID_TOKENS ? MID_TOKENS : MANY_TOKENS);
  }
  if (args->cls != IE_CLASS_F32) {
    float *x = (float *)args->scratch;
    status = x_prepare(queue, x, args->x, args->tokens, job.K, args->cls);
    job.x = x;
  }
  return status == cudaSuccess ? products_plain(queue, &job) : status;
}

cudaError_t ie_cuda_linear(const ie_cuda_queue *queue, const ie_cuda_linear_args *args) {
  if (args->n < 1 || args->n > IE_CUDA_LINEAR_MAX || args->cls < 0 || args->cls >= IE_CLASS_COUNT)
    return cudaErrorInvalidValue;
  if (args->tokens == 0) return cudaSuccess;
  for (int i = 1; i < args->n; i++)
    if (args->w[i].cols != args->w[0].cols) return cudaErrorInvalidValue;
  for (int i = 0; i < args->n;) {
    bool mma = products_mma_takes(queue, &args->w[i], args->cls);
    int n = 1;
    while (i + n < args->n && args->w[i + n].format == args->w[i].format &&
           products_mma_takes(queue, &args->w[i + n], args->cls) == mma)
      n++;
    cudaError_t status = linear_some(queue, args, i, n, mma);
    if (status != cudaSuccess) return status;
    i += n;
  }
  return cudaSuccess;
}
