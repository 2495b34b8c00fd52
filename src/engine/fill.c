/* ie_state_fill_random: a cache of any depth without the forwards that would fill it. The numbers go through the
 * device's own kv_append, so the cache is one that forwards could have written, of any type. */
#include "engine/state.h"

#include "base/rng.h"
#include "base/size.h"

enum { FILL_TOK = 64, FILL_SEED = 20 }; /* tokens a round: their keys and values are scratch of the arena */

typedef struct fill_job {
  float *to; /* (tokens, width) */
  int64_t width, first;
  uint64_t stream;
} fill_job;

static void fill_rows(void *arg, int thread, int64_t begin, int64_t end) {
  (void)thread;
  const fill_job *job = arg;
  for (int64_t i = begin * job->width; i < end * job->width; i++)
    job->to[i] = 2 * ie_rng_f32(FILL_SEED, job->stream, (uint64_t)(job->first * job->width + i)) - 1;
}

/* Positions [first, first + n) of one layer; the batch names them. */
static ie_status fill_layer(ie_state *state, int64_t layer, int64_t sequence, const ie_batch *batch,
                            ie_error *error) {
  ie_ctx *ctx = &state->ctx;
  ie_kv_layer *kv = &state->layer[layer];
  ie_ctx_reset(ctx, (ie_ctx_mark){0});
  ctx->status = IE_OK;
  int64_t shape[3] = {batch->tokens, kv->heads, kv->dim};
  ie_tensor *pair[2];
  for (int i = 0; i < 2; i++) {
    pair[i] = ie_ctx_tensor(ctx, IE_F32, 3, shape);
    if (!pair[i]) break;
    fill_job job = {.to = ie_tensor_f32(pair[i]),
                    .width = kv->heads * kv->dim,
                    .first = batch->position[0],
                    .stream = (uint64_t)((sequence * state->model->info.layers + layer) * 2 + i)};
    ie_team_for(ctx->device->team, batch->tokens, /*chunk=*/4, fill_rows, &job);
  }
  if (ctx->status == IE_OK) ctx->device->ops.kv_append(ctx, kv, pair[0], pair[1], batch);
  ie_status status = ctx->status;
  if (status != IE_OK) ie_error_set(error, status, "%s", ctx->error.message);
  ie_ctx_reset(ctx, (ie_ctx_mark){0});
  return status;
}

/* One round of all layers; those that keep only the last positions skip the others. */
static ie_status fill_round(ie_state *state, int64_t sequence, int64_t first, int64_t n, int64_t length,
                            ie_error *error) {
  int32_t *b = state->batch_memory;
  for (int64_t i = 0; i < n; i++) {
    b[i] = 0;
    b[state->batch_max + i] = (int32_t)(first + i);
    b[2 * state->batch_max + i] = (int32_t)sequence;
  }
  ie_batch batch = {
      .tokens = n, .ids = b, .position = b + state->batch_max, .sequence = b + 2 * state->batch_max};
  ie_status status = IE_OK;
  for (int64_t layer = 0; status == IE_OK && layer < state->model->info.layers; layer++)
    if (first + n > length - state->layer[layer].cap)
      status = fill_layer(state, layer, sequence, &batch, error);
  return status;
}

ie_status ie_state_fill_random(ie_state *state, int64_t sequence, int64_t length, ie_error *error) {
  ie_status status = ie_state_rollback(state, sequence, 0, error);
  if (status != IE_OK) return status;
  if (length < 0 || length > state->context)
    return ie_error_set(error, IE_LIMIT, "%lld tokens do not fit: the context is %lld", (long long)length,
                        (long long)state->context);
  state->logits = NULL; /* they lay in the arena */
  for (int64_t first = 0, n; status == IE_OK && first < length; first += n) {
    n = ie_min_i64(ie_min_i64(FILL_TOK, state->batch_max), length - first);
    ie_state_written(state, sequence, first + n);
    status = fill_round(state, sequence, first, n, length, error);
  }
  if (status != IE_OK) return status;
  for (int64_t i = 0; i < length; i++) state->ids[sequence * state->context + i] = 0;
  state->length[sequence] = length;
  return IE_OK;
}
