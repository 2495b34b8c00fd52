/* Drawing ids on the device, after a forward's launches: parameters and histories in, ids out, and the logits stay. Only
 * launches and copies from and to fixed places; the forward's wait is the only one. */
#include "cuda/cuda.h"

#include "base/size.h"

#include <string.h>

enum { ROWS_AT_ONCE = 64 }; /* that have scratch: blocks of one launch */

struct cuda_draw_places {
  size_t params, seen, id, scratch, bytes;
};

static int64_t seen_words(const ie_runner_options *o) {
  return ie_div_up(o->vocab, 32);
}

/* Where things lie in the device's block; what comes before scratch lies likewise on the host. */
static struct cuda_draw_places places_of(const ie_runner_options *o) {
  size_t rows = (size_t)o->draw_max;
  const ie_cuda_argmax_args largest = {.rows = o->draw_max, .vocab = o->vocab};
  const ie_cuda_sample_args sample = {.rows = ie_min_i64(o->draw_max, ROWS_AT_ONCE), .vocab = o->vocab};
  size_t a = ie_cuda_argmax_scratch(&largest), b = ie_cuda_sample_scratch(&sample);
  struct cuda_draw_places p = {.params = 0};
  p.id = ie_size_align(rows * sizeof(ie_cuda_sample_params), CUDA_ALIGN);
  p.seen = p.id + ie_size_align(rows * sizeof(int32_t), CUDA_ALIGN);
  p.scratch = p.seen + ie_size_align(rows * (size_t)seen_words(o) * sizeof(uint32_t), CUDA_ALIGN);
  p.bytes = p.scratch + (a > b ? a : b);
  return p;
}

size_t cuda_draw_bytes(const ie_runner_options *options) {
  return options->draw_max > 0 ? places_of(options).bytes : 0;
}

ie_status cuda_draw_open(cuda_device *device, const ie_runner_options *options, cuda_draw *draw,
                         ie_error *error) {
  *draw = (cuda_draw){.options = *options};
  if (options->draw_max < 1) return IE_OK;
  ie_device *base = &device->base;
  struct cuda_draw_places p = places_of(options);
  ie_status status = base->memory->take(base, p.bytes, "sampling", (void **)&draw->memory, error);
  if (status != IE_OK) return status;
  return cuda_pinned(device, p.scratch, "sampling", (void **)&draw->host, error);
}

void cuda_draw_close(cuda_device *device, cuda_draw *draw) {
  ie_device *base = &device->base;
  base->memory->give(base, draw->memory, cuda_draw_bytes(&draw->options));
  if (draw->host && cuda_choose(device)) cudaFreeHost(draw->host);
  *draw = (cuda_draw){0};
}

/* The bits of a row's history. */
static void seen_mark(uint32_t *seen, int64_t words, const ie_draw_row *row) {
  memset(seen, 0, (size_t)words * sizeof *seen);
  for (size_t i = 0; i < row->seen_count; i++) seen[row->seen[i] / 32] |= 1u << row->seen[i] % 32;
}

static ie_cuda_sample_params params_of(const ie_draw_row *row) {
  const ie_sample_params *p = row->params;
  return (ie_cuda_sample_params){.top_p = p->top_p,
                                 .min_p = p->min_p,
                                 .top_k = p->top_k,
                                 .seed = p->seed,
                                 .row = row->row,
                                 .step = row->step,
                                 .temperature = (float)p->temperature,
                                 .repetition_penalty = (float)p->repetition_penalty,
                                 .greedy = p->greedy};
}

/* Parameters and histories to the device; *penalty: some row needs its history. */
static cudaError_t params_send(cuda_draw *draw, const ie_cuda_queue *queue, const ie_draw_row *row, int64_t n,
                               bool *penalty) {
  struct cuda_draw_places p = places_of(&draw->options);
  ie_cuda_sample_params *params = (ie_cuda_sample_params *)(draw->host + p.params);
  int64_t words = seen_words(&draw->options);
  *penalty = false;
  for (int64_t i = 0; i < n; i++) {
    params[i] = params_of(&row[i]);
    *penalty |= params[i].repetition_penalty != 0.0f;
  }
  for (int64_t i = 0; i < n && *penalty; i++)
    seen_mark((uint32_t *)(draw->host + p.seen) + i * words, words, &row[i]);
  cudaError_t result = cudaMemcpyAsync(draw->memory + p.params, params, (size_t)n * sizeof *params,
                                       cudaMemcpyHostToDevice, queue->stream);
  if (result == cudaSuccess && *penalty)
    result = cudaMemcpyAsync(draw->memory + p.seen, draw->host + p.seen,
                             (size_t)(n * words) * sizeof(uint32_t), cudaMemcpyHostToDevice, queue->stream);
  return result;
}

/* The largest logit is all that these rows ask for. */
static bool rows_are_plain(const ie_draw_row *row, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!row[i].params->greedy || row[i].params->repetition_penalty != 0) return false;
  return true;
}

static cudaError_t rows_sample(cuda_draw *draw, const ie_cuda_queue *queue, float *logits,
                               const ie_draw_row *row, int64_t n, ie_cuda_check check) {
  struct cuda_draw_places p = places_of(&draw->options);
  int64_t V = draw->options.vocab, words = seen_words(&draw->options);
  bool penalty;
  cudaError_t result = params_send(draw, queue, row, n, &penalty);
  for (int64_t first = 0; first < n && result == cudaSuccess; first += ROWS_AT_ONCE) {
    const ie_cuda_sample_args args = {
        .id = (int32_t *)(draw->memory + p.id) + first,
        .logits = logits + first * V,
        .rows = ie_min_i64(n - first, ROWS_AT_ONCE),
        .first_row = first,
        .vocab = V,
        .params = (const ie_cuda_sample_params *)(draw->memory + p.params) + first,
        .seen = penalty ? (const uint32_t *)(draw->memory + p.seen) + first * words : NULL,
        .check = check,
        .scratch = draw->memory + p.scratch};
    result = ie_cuda_sample(queue, &args);
  }
  return result;
}

cudaError_t cuda_draw_launch(cuda_draw *draw, const ie_cuda_queue *queue, float *logits,
                             const ie_draw_row *row, int64_t n, ie_cuda_check check) {
  struct cuda_draw_places p = places_of(&draw->options);
  cudaError_t result;
  if (n > draw->options.draw_max) return cudaErrorInvalidValue;
  if (rows_are_plain(row, n)) {
    const ie_cuda_argmax_args args = {.id = (int32_t *)(draw->memory + p.id),
                                      .logits = logits,
                                      .rows = n,
                                      .vocab = draw->options.vocab,
                                      .check = check,
                                      .scratch = draw->memory + p.scratch};
    result = ie_cuda_argmax(queue, &args);
  } else {
    result = rows_sample(draw, queue, logits, row, n, check);
  }
  if (result != cudaSuccess) return result;
  return cudaMemcpyAsync(draw->host + p.id, draw->memory + p.id, (size_t)n * sizeof(int32_t),
                         cudaMemcpyDeviceToHost, queue->stream);
}

void cuda_draw_read(const cuda_draw *draw, ie_draw_row *row, int64_t n) {
  const int32_t *id = (const int32_t *)(draw->host + places_of(&draw->options).id);
  for (int64_t i = 0; i < n; i++) row[i].id = id[i];
}
