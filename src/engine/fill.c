/* ie_state_fill_random: a cache of any depth without the forwards that would fill it. The numbers go through the
 * device's own kv_append, so the cache is one that forwards could have written, of any type. */
#include "engine/state.h"

#include "base/rng.h"
#include "base/size.h"

#include <stdlib.h>

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

/* One round: positions [first, first + n) of a sequence that will have `length`, in all layers. */
typedef struct round_job {
  ie_state *state;
  int64_t sequence, first, n, length;
  float *host; /* (n, width of the widest layer) where tensors do not lie in the host's memory; else NULL */
} round_job;

/* Keys (which = 0) or values (1) of one layer. */
static ie_tensor *fill_tensor(ie_ctx *ctx, const round_job *r, int64_t layer, int which) {
  const ie_kv_layer *kv = &r->state->layer[layer];
  ie_tensor *t = ie_ctx_tensor(ctx, IE_F32, 3, (int64_t[]){r->n, kv->heads, kv->dim});
  if (!t) return NULL;
  fill_job job = {.to = r->host ? r->host : ie_tensor_f32(t),
                  .width = kv->heads * kv->dim,
                  .first = r->first,
                  .stream = (uint64_t)((r->sequence * r->state->model->info.layers + layer) * 2 + which)};
  ie_team_for(ctx->device->team, r->n, /*chunk=*/4, fill_rows, &job);
  if (!r->host) return t;
  ie_error error = {0};
  ie_status status =
      ie_memory_write(ctx->device, t->data, r->host, (size_t)ie_tensor_count(t) * sizeof(float), &error);
  return status == IE_OK ? t : ie_ctx_fail(ctx, status, "%s", error.message);
}

/* Layers that keep only the last positions skip the others. */
static ie_tensor *round_run(ie_ctx *ctx, const ie_batch *batch, void *arg) {
  const round_job *r = arg;
  ie_ctx_mark mark = ie_ctx_save(ctx);
  for (int64_t i = 0; i < r->state->model->info.layers && ctx->status == IE_OK; i++) {
    ie_kv_layer *kv = &r->state->layer[i];
    if (r->first + r->n <= r->length - kv->cap) continue;
    ie_tensor *k = fill_tensor(ctx, r, i, 0), *v = fill_tensor(ctx, r, i, 1);
    if (k && v) ctx->device->ops.kv_append(ctx, kv, k, v, batch);
    ie_ctx_reset(ctx, mark);
  }
  return NULL;
}

static ie_status fill_round(round_job *r, ie_error *error) {
  ie_state *state = r->state;
  int32_t *b = state->batch_memory;
  for (int64_t i = 0; i < r->n; i++) {
    b[i] = 0;
    b[state->batch_max + i] = (int32_t)(r->first + i);
    b[2 * state->batch_max + i] = (int32_t)r->sequence;
  }
  ie_batch batch = {.tokens = r->n,
                    .ids = b,
                    .position = b + state->batch_max,
                    .sequence = b + 2 * state->batch_max,
                    .wanted = b + 3 * state->batch_max,
                    .reach = r->first + r->n,
                    .longest_run = r->n};
  return ie_state_run(state, &(ie_forward){.run = round_run, .arg = r, .batch = &batch}, error);
}

/* Numbers of one round's keys in the widest layer; NULL with *error when memory is out. */
static float *host_numbers(const ie_state *state, ie_error *error) {
  int64_t width = 1;
  for (int64_t i = 0; i < state->model->info.layers; i++)
    width = ie_max_i64(width, state->layer[i].heads * state->layer[i].dim);
  float *host = malloc((size_t)(FILL_TOK * width) * sizeof *host);
  if (!host) ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %d random keys", FILL_TOK);
  return host;
}

ie_status ie_state_fill_random(ie_state *state, int64_t sequence, int64_t length, ie_error *error) {
  ie_status status = ie_state_rollback(state, sequence, 0, error);
  if (status != IE_OK) return status;
  if (length < 0 || length > state->context)
    return ie_error_set(error, IE_LIMIT, "%lld tokens do not fit: the context is %lld", (long long)length,
                        (long long)state->context);
  round_job round = {.state = state, .sequence = sequence, .length = length};
  if (state->runner && !(round.host = host_numbers(state, error))) return IE_OUT_OF_MEMORY;
  for (int64_t first = 0; status == IE_OK && first < length; first += round.n) {
    round.first = first;
    round.n = ie_min_i64(ie_min_i64(FILL_TOK, state->batch_max), length - first);
    ie_state_written(state, sequence, first + round.n);
    status = fill_round(&round, error);
  }
  free(round.host);
  if (status != IE_OK) return status;
  for (int64_t i = 0; i < length; i++) state->ids[sequence * state->context + i] = 0;
  state->length[sequence] = length;
  return IE_OK;
}
