/* CPU launcher of the softmax cross-entropy: a chunk of rows at a time through the product with the output matrix, so
 * that the memory for logits does not grow with the tokens. Rows that do not count are left out before the product. */
#include "tensor/device.h"

#include "base/size.h"

#include <math.h>
#include <string.h>

enum {
  LOGITS_MOST = 32 << 20, /* numbers of a chunk */
  ROWS_MOST = 512,        /* each chunk adds to the whole gradient of the matrix, so they should be few */
  ROWS_STEP = 64,
};

/* Rows of a chunk; a function of the vocabulary alone (and of few tokens), so the sums are too. */
static int64_t chunk_rows(int64_t tokens, int64_t vocabulary) {
  int64_t rows = LOGITS_MOST / ie_max_i64(1, vocabulary) / ROWS_STEP * ROWS_STEP;
  rows = ie_max_i64(ROWS_STEP, ie_min_i64(rows, ROWS_MOST));
  return ie_min_i64(rows, tokens);
}

typedef struct loss_job {
  const ie_kernels *kernels;
  const ie_loss_options *options;
  bool backward; /* something wants a gradient: logits become theirs */
  int64_t vocabulary, rows;
  real *logits;         /* (rows, vocabulary) */
  const int32_t *index; /* (rows) the token of each row */
  double *loss;         /* (rows) weighted, not scaled */
} loss_job;

static void loss_row(const loss_job *job, int64_t r) {
  const ie_loss_options *o = job->options;
  int64_t n = job->vocabulary, at;
  int32_t token = job->index[r], target = o->target[token];
  double weight = o->weight ? (double)o->weight[token] : 1.0;
  real *x = job->logits + r * n;
  if (o->soft_cap > 0.0f) job->kernels->soft_cap(x, n, o->soft_cap);
  real max = job->kernels->max(x, n, &at), own = x[target];
  double sum = job->kernels->exp_sum(x, n, max);
  job->loss[r] = weight * (log(sum) + ((double)max - (double)own));
  if (!job->backward) return;
  double factor = o->scale * weight;
  job->kernels->softmax_backward(x, n, max, (real)(factor / sum), o->soft_cap);
  double slope = 1.0;
  if (o->soft_cap > 0.0f) slope -= (double)own / (double)o->soft_cap * ((double)own / (double)o->soft_cap);
  x[target] -= (real)(factor * slope);
}

static void loss_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  for (int64_t r = begin; r < end; r++) loss_row(arg, r);
}

/* Fills the chunk's index from token *t on; moves *t behind what was looked at. */
static int64_t chunk_next(const ie_loss_options *o, int64_t tokens, int64_t most, int32_t *index,
                          int64_t *t) {
  int64_t rows = 0;
  for (; *t < tokens && rows < most; ++*t)
    if (o->target[*t] >= 0 && (!o->weight || o->weight[*t] != 0.0f)) index[rows++] = (int32_t)*t;
  return rows;
}

/* Memory of a chunk. Rows that do not stand side by side are copied to x, and their gradient comes from dx. */
typedef struct loss_memory {
  real *logits, *x, *dx;
  int32_t *index;
  double *loss;
  real *h, *dh; /* (rows, r) of an adapter: scale x A^T, and its gradient */
} loss_memory;

static bool memory_take(ie_ctx *ctx, int64_t rows, const ie_weight *head, loss_memory *m) {
  enum { PARTS = 7 };
  const int64_t r = head->low_rank ? head->low_rank->a.rows : 0;
  void *part[PARTS] = {0};
  const size_t bytes[PARTS] = {(size_t)(rows * head->rows) * sizeof(real),
                               (size_t)(rows * head->cols) * sizeof(real),
                               (size_t)(rows * head->cols) * sizeof(real),
                               (size_t)rows * sizeof(int32_t),
                               (size_t)rows * sizeof(double),
                               (size_t)(rows * r) * sizeof(real),
                               (size_t)(rows * r) * sizeof(real)};
  for (int i = 0; i < PARTS; i++)
    if (bytes[i] > 0 && !ie_ctx_scratch(ctx, bytes[i], &part[i])) return false;
  *m = (loss_memory){part[0], part[1], part[2], part[3], part[4], part[5], part[6]};
  return true;
}

static ie_tensor adapter_hidden(const loss_job *job, const loss_memory *m) {
  const int64_t r = job->options->head->low_rank->a.rows;
  return (ie_tensor){.dtype = IE_F32, .rank = 2, .shape = {job->rows, r, 1, 1}, .data = m->h};
}

/* logits += h B^T with h = scale x A^T */
static void adapter_forward(ie_ctx *ctx, const loss_job *job, ie_tensor *logits, const ie_tensor *x,
                            const loss_memory *m) {
  const ie_low_rank *low = job->options->head->low_rank;
  if (!low) return;
  ie_tensor h = adapter_hidden(job, m);
  ctx->device->ops.linear_train(ctx, &h, x, &low->a, /*add=*/false);
  ctx->device->ops.scale(ctx, m->h, job->rows * low->a.rows, low->scale);
  ctx->device->ops.linear_train(ctx, logits, &h, &low->b, /*add=*/true);
}

/* Of these lines: dB += dlogits^T h, dh = dlogits B; then dA += (scale dh)^T x and dx += scale dh A. */
static void adapter_backward(ie_ctx *ctx, const loss_job *job, real *dx, const ie_tensor *x,
                             const loss_memory *m) {
  const ie_low_rank *low = job->options->head->low_rank;
  ie_tensor h = adapter_hidden(job, m);
  const int64_t count = job->rows * low->a.rows;
  if (!ctx->dry) memset(m->dh, 0, (size_t)count * sizeof(real));
  ctx->device->ops.linear_backward(ctx, m->dh, m->logits, &h, &low->b);
  ctx->device->ops.scale(ctx, m->dh, count, low->scale);
  ctx->device->ops.linear_backward(ctx, dx, m->dh, x, &low->a);
}

/* Gradients of the head, of its adapter and, where dx is not NULL, of x, which is added. */
static void head_backward(ie_ctx *ctx, const loss_job *job, real *dx, const ie_tensor *x,
                          const loss_memory *m) {
  ctx->device->ops.linear_backward(ctx, dx, m->logits, x, job->options->head);
  if (job->options->head->low_rank) adapter_backward(ctx, job, dx, x, m);
}

/* One chunk. In a dry run the products take their scratch. */
static void chunk_run(ie_ctx *ctx, loss_job *job, real *dx, const ie_tensor *x, const loss_memory *m) {
  int64_t C = x->shape[1], n = job->rows, first = ctx->dry ? 0 : m->index[0];
  bool together = ctx->dry || m->index[n - 1] - first == n - 1;
  ie_tensor rows = {.dtype = IE_F32, .rank = 2, .shape = {n, C, 1, 1}};
  ie_tensor logits = {.dtype = IE_F32, .rank = 2, .shape = {n, job->vocabulary, 1, 1}, .data = m->logits};
  ie_device_ops *ops = &ctx->device->ops;
  if (!ctx->dry) rows.data = together ? ie_tensor_f32(x) + first * C : m->x;
  if (!together)
    for (int64_t r = 0; r < n; r++)
      memcpy(m->x + r * C, ie_tensor_f32(x) + m->index[r] * C, (size_t)C * sizeof(real));
  ops->linear_train(ctx, &logits, &rows, job->options->head, /*add=*/false);
  adapter_forward(ctx, job, &logits, &rows, m);
  if (!ctx->dry) ie_team_for(ctx->device->team, n, /*chunk=*/1, loss_rows, job);
  if (!job->backward) return;
  if (together || !dx) {
    head_backward(ctx, job, dx ? dx + first * C : NULL, &rows, m);
    return;
  }
  memset(m->dx, 0, (size_t)(n * C) * sizeof(real));
  head_backward(ctx, job, m->dx, &rows, m);
  ops->gather_rows_backward(ctx, dx, m->dx, C, m->index, n);
}

static double cpu_cross_entropy(ie_ctx *ctx, real *dx, const ie_tensor *x, const ie_loss_options *options) {
  int64_t T = x->shape[0], V = options->head->rows, most = chunk_rows(T, V);
  loss_job job = {.kernels = &ctx->device->kernels, .options = options, .vocabulary = V};
  const ie_low_rank *low = options->head->low_rank;
  job.backward = ctx->dry || dx || options->head->param || options->head->bias_param || (low && low->a.param);
  double total = 0;
  loss_memory memory;
  ie_ctx_mark mark = ie_ctx_save(ctx);
  if (memory_take(ctx, most, options->head, &memory)) {
    job.logits = memory.logits;
    job.index = memory.index;
    job.loss = memory.loss;
    if (ctx->dry) {
      job.rows = most;
      chunk_run(ctx, &job, dx, x, &memory);
    }
    for (int64_t t = 0; !ctx->dry && t < T && ctx->status == IE_OK;) {
      job.rows = chunk_next(options, T, most, memory.index, &t);
      if (job.rows == 0) break;
      chunk_run(ctx, &job, dx, x, &memory);
      for (int64_t r = 0; r < job.rows; r++) total += memory.loss[r];
    }
  }
  ie_ctx_reset(ctx, mark);
  return options->scale * total;
}

void ie_cpu_fill_loss(ie_device_ops *ops) {
  ops->cross_entropy = cpu_cross_entropy;
}
