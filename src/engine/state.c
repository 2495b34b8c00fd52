#include "engine/state.h"

#include "base/size.h"
#include "blocks/kv_int8.h"
#include "engine/generation.h"
#include "engine/streaming.h"
#include "models/decoder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { CONTEXT_DEFAULT = 4096, CHUNK_DEFAULT = 512 };
static const int64_t logits_bytes_max = 64 << 20; /* of one forward that wants every position */

/* --- Sizes ----------------------------------------------------------------------------------------------- */

/* f16 costs what bf16 costs and rounds eight times finer: on the golden models the error of class bf16 is 1.2 times
 * that of rounding the products' inputs alone with f16 keys and values, 1.8 times with bf16 (docs/DESIGN.md). */
static ie_dtype kv_default(ie_precision precision) {
  return precision == IE_PRECISION_FP32 ? IE_F32 : IE_F16;
}

/* A forward over nothing: takes from a measuring arena what a real one takes. Tokens are spread over all sequences; a
 * launcher to which it matters asks for what they take in one sequence too. */
static ie_status dry_run(const ie_model *model, const ie_state_sizes *s, int64_t tokens, int32_t *zeros,
                         size_t *peak, ie_error *error) {
  ie_ctx *ctx = calloc(1, sizeof *ctx);
  ie_kv_layer *kv = calloc((size_t)model->info.layers, sizeof *kv);
  if (!ctx || !kv) {
    free(ctx);
    free(kv);
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a dry run");
  }
  *ctx = (ie_ctx){.device = model->device,
                  .arena = ie_arena_measure(),
                  .cls = model->cls,
                  .deterministic = model->info.deterministic,
                  .dry = true};
  for (int64_t i = 0; i < model->info.layers; i++)
    kv[i] = (ie_kv_layer){
        .heads = model->kv[i].heads, .dim = model->kv[i].dim, .cap = IE_CACHE_SLOT_UNIT, .sequences = 1};
  ie_batch batch = {.tokens = tokens,
                    .ids = zeros,
                    .position = zeros,
                    .sequence = zeros,
                    .wanted = zeros,
                    .wanted_count = ie_min_i64(tokens, s->wanted_max),
                    .reach = s->context,
                    .longest_run = ie_div_up(tokens, s->sequences)};
  ie_decoder_forward(model->arch->decoder, ctx, model->net, kv, &batch, /*hooks=*/NULL);
  ie_status status = ctx->status;
  if (status != IE_OK) ie_error_set(error, status, "%s", ctx->error.message);
  if (ctx->arena.peak > *peak) *peak = ctx->arena.peak;
  free(ctx);
  free(kv);
  return status;
}

enum { EVERY_COUNT = 64 }; /* all products have changed from few to many by then */

/* The largest arena of any number of tokens up to the largest batch. Which product is taken changes with the number of
 * tokens: each small one is tried, then the powers of two. */
static ie_status scratch_measure(const ie_model *model, ie_state_sizes *s, ie_error *error) {
  int64_t largest = s->batch_max;
  int32_t *zeros = calloc((size_t)largest, sizeof *zeros);
  if (!zeros) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a dry run");
  ie_status status = IE_OK;
  for (int64_t tokens = 1; status == IE_OK; tokens = tokens < EVERY_COUNT ? tokens + 1 : 2 * tokens) {
    int64_t t = ie_min_i64(tokens, largest);
    status = dry_run(model, s, t, zeros, &s->scratch_bytes, error);
    if (t == largest) break;
  }
  free(zeros);
  return status;
}

static ie_status options_check(const ie_model *model, const ie_state_options *o, ie_error *error) {
  if (o->context_tok < 0 || o->sequences < 0 || o->chunk_tok < 0 || o->rollback_tok < -1 || o->logits_tok < 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "a state's context, sequences, chunk and logits cannot be negative");
  if (o->context_tok > model->info.context_tok)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "a context of %lld tokens was asked for, the model has %lld",
                        (long long)o->context_tok, (long long)model->info.context_tok);
  if (o->kv != IE_DTYPE_NONE && o->kv != IE_F32 && o->kv != IE_F16 && o->kv != IE_BF16 && o->kv != IE_I8)
    return ie_error_set(error, IE_UNSUPPORTED, "a KV cache of %s; f32, f16, bf16 and int8 are built",
                        ie_dtype_name(o->kv));
  return IE_OK;
}

static ie_cache_options cache_options(const ie_model *model, const ie_state_sizes *s) {
  return (ie_cache_options){.sequences = s->sequences,
                            .context = s->context,
                            .chunk = s->chunk,
                            .rollback = s->rollback,
                            .dtype = s->kv_dtype,
                            .exact_dtype = kv_default(model->info.precision)};
}

static bool device_draws(const ie_model *model) {
  const ie_device_memory *memory = model->device->memory;
  return memory && model->info.vocab <= memory->draw_vocab_max;
}

static ie_runner_options runner_options(const ie_model *model, const ie_state_sizes *s) {
  return (ie_runner_options){.batch_max = s->batch_max,
                             .wanted_max = s->wanted_max,
                             .vocab = model->info.vocab,
                             .draw_max = device_draws(model) ? s->sequences : 0};
}

ie_status ie_state_size(const ie_model *model, const ie_state_options *options, ie_state_sizes *out,
                        ie_error *error) {
  static const ie_state_options defaults = {0};
  if (!options) options = &defaults;
  *out = (ie_state_sizes){0};
  ie_status status = options_check(model, options, error);
  if (status != IE_OK) return status;
  ie_state_sizes s = {.sequences = ie_max_i64(options->sequences, 1)};
  s.context =
      options->context_tok ? options->context_tok : ie_min_i64(model->info.context_tok, CONTEXT_DEFAULT);
  s.chunk = ie_min_i64(options->chunk_tok ? options->chunk_tok : CHUNK_DEFAULT, s.context);
  s.rollback = options->rollback_tok == 0 ? IE_ROLLBACK_DEFAULT_TOK : ie_max_i64(options->rollback_tok, 0);
  s.rollback = ie_min_i64(s.rollback, s.context);
  s.kv_dtype = options->kv ? options->kv : kv_default(model->info.precision);
  /* Several short sequences fill a forward together. */
  int64_t together = s.context > INT64_MAX / s.sequences ? INT64_MAX : s.context * s.sequences;
  s.batch_max = ie_min_i64(options->chunk_tok ? options->chunk_tok : CHUNK_DEFAULT, together);
  s.batch_max = ie_max_i64(s.batch_max, s.sequences);
  int64_t logits = options->logits_tok ? options->logits_tok : logits_bytes_max / (4 * model->info.vocab);
  s.wanted_max = ie_max_i64(s.sequences, ie_min_i64(s.batch_max, logits));
  ie_cache_options cache = cache_options(model, &s);
  for (int64_t i = 0; i < model->info.layers; i++) {
    ie_kv_layer layer, recent;
    if (!ie_cache_place(&model->kv[i], &cache, /*base=*/NULL, &s.kv_bytes, &layer, &recent))
      return ie_error_set(error, IE_OUT_OF_MEMORY, "%lld sequences of %lld tokens do not fit any memory",
                          (long long)s.sequences, (long long)s.context);
  }
  s.table_bytes = (size_t)s.sequences * (size_t)s.context * sizeof(int32_t) +
                  4 * (size_t)s.batch_max * sizeof(int32_t) + (size_t)s.sequences * sizeof(ie_advance);
  s.table_bytes += (size_t)s.sequences * ie_generation_bytes(model->info.vocab, s.context);
  if (model->device->memory) {
    const ie_runner_options runner = runner_options(model, &s);
    s.runner_bytes = model->device->memory->runner_bytes(&runner);
  }
  status = scratch_measure(model, &s, error);
  if (status == IE_OK) *out = s;
  return status;
}

/* --- Life ------------------------------------------------------------------------------------------------ */

static void layers_place(ie_state *state, const ie_state_sizes *s) {
  ie_cache_options cache = cache_options(state->model, s);
  size_t at = 0; /* ie_state_size has counted the same */
  for (int64_t i = 0; i < state->model->info.layers; i++)
    ie_cache_place(&state->model->kv[i], &cache, state->kv_memory, &at, &state->layer[i], &state->recent[i]);
}

/* Under a limit memory is touched when it is taken: what does not fit shows now, not in the middle of a text. */
static void memory_touch(void *memory, size_t bytes) {
  if (memory && madvise(memory, bytes, MADV_POPULATE_WRITE) != 0) memset(memory, 0, bytes);
}

/* Attention at depth reads the cache in a stream, and in pages of 4 KiB spends a third of its time on translations. A
 * small cache is read in no time, and keeps the pages that are taken only when they are written. */
static void cache_advise(const ie_state *state) {
  static const size_t small = (size_t)128 << 20;
  if (state->kv_memory && state->kv_bytes >= small && !strcmp(state->model->device->kind, "cpu"))
    madvise(state->kv_memory, state->kv_bytes, MADV_HUGEPAGE); /* a refusal costs speed alone */
}

static size_t room_of(const ie_device *device) {
  size_t room = SIZE_MAX, total = 0;
  if (device->memory) device->memory->room((ie_device *)(uintptr_t)device, &room, &total);
  return room;
}

/* Whether caches, activations and what a runner takes fit. Devices hand out large blocks in whole pages. */
static bool sizes_fit(const ie_state_sizes *s, size_t room) {
  static const size_t page = (size_t)2 << 20;
  const size_t block[] = {s->kv_bytes, s->scratch_bytes, s->runner_bytes};
  for (size_t i = 0; i < sizeof block / sizeof *block; i++) {
    size_t more = block[i] < page || block[i] % page == 0 ? 0 : page - block[i] % page;
    if (block[i] > room || more > room - block[i]) return false;
    room -= block[i] + more;
  }
  return true;
}

/* The most units of 64 tokens of context (batch: the most sequences) up to `most` whose state fits `room`; 0: none. */
static int64_t most_that_fits(const ie_model *model, const ie_state_options *options, bool batch,
                              int64_t most, size_t room) {
  ie_state_options o = options ? *options : (ie_state_options){0};
  int64_t fits = 0;
  for (int64_t low = 1; low <= most;) {
    int64_t middle = low + (most - low) / 2;
    ie_state_sizes s;
    if (batch)
      o.sequences = middle;
    else
      o.context_tok = middle * IE_CACHE_SLOT_UNIT;
    if (ie_state_size(model, &o, &s, NULL) == IE_OK && sizes_fit(&s, room)) {
      fits = middle;
      low = middle + 1;
    } else {
      most = middle - 1;
    }
  }
  return fits;
}

/* Adds to an error of a device that is full what would fit. */
static void memory_hint(const ie_model *model, const ie_state_options *options, const ie_state_sizes *s,
                        ie_error *error) {
  if (!error || !model->device->memory || error->status != IE_OUT_OF_MEMORY) return;
  size_t room = room_of(model->device), at = strlen(error->message), left = sizeof error->message - at;
  if (sizes_fit(s, room)) return; /* it is the host that lacks memory */
  int64_t units = most_that_fits(model, options, /*batch=*/false, s->context / IE_CACHE_SLOT_UNIT, room);
  long long context = units * IE_CACHE_SLOT_UNIT,
            batch = most_that_fits(model, options, /*batch=*/true, s->sequences - 1, room);
  char *end = error->message + at;
  if (context > 0 && batch > 0)
    snprintf(end, left, "; --ctx %lld or --batch %lld would fit", context, batch);
  else if (context > 0 || batch > 0)
    snprintf(end, left, "; --%s %lld would fit", context > 0 ? "ctx" : "batch",
             context > 0 ? context : batch);
  else
    snprintf(end, left, "; --device cpu would fit");
}

/* Keys and values, the arena, and where a device of its own runs forwards. */
static ie_status state_memory(ie_state *state, const ie_state_sizes *s, ie_error *error) {
  ie_device *device = state->model->device;
  char what[96];
  snprintf(what, sizeof what, "keys and values (%lld sequences of %lld tokens)", (long long)s->sequences,
           (long long)s->context);
  ie_status status = ie_memory_take(device, s->kv_bytes, what, &state->kv_memory, error);
  void *arena = NULL;
  if (status == IE_OK) status = ie_memory_take(device, s->scratch_bytes, "activations", &arena, error);
  if (status != IE_OK) return status;
  state->ctx.arena = (ie_arena){.base = arena, .capacity = s->scratch_bytes};
  if (!device->memory) return IE_OK;
  const ie_runner_options options = runner_options(state->model, s);
  return device->memory->runner_new(device, &options, &state->runner, error);
}

ie_status ie_state_new(ie_model *model, const ie_state_options *options, ie_state **out, ie_error *error) {
  *out = NULL;
  ie_state_sizes s;
  if (model->plan_only)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "the model was opened for planning only");
  ie_status status = ie_state_size(model, options, &s, error);
  if (status != IE_OK) return status;
  ie_state *state = calloc(1, sizeof *state);
  if (!state) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a state");
  state->model = model;
  state->context = s.context;
  state->sequences = s.sequences;
  state->chunk = s.chunk;
  state->wanted_max = s.wanted_max;
  state->batch_max = s.batch_max;
  state->kv_dtype = s.kv_dtype;
  state->kv_bytes = s.kv_bytes;
  state->layer = calloc((size_t)model->info.layers, sizeof *state->layer);
  state->recent = calloc((size_t)model->info.layers, sizeof *state->recent);
  state->ids = calloc((size_t)s.sequences * (size_t)s.context, sizeof *state->ids);
  state->length = calloc((size_t)s.sequences, sizeof *state->length);
  state->high = calloc((size_t)s.sequences, sizeof *state->high);
  state->exact = calloc((size_t)s.sequences, sizeof *state->exact);
  state->step = calloc((size_t)s.sequences, sizeof *state->step);
  state->batch_memory = calloc(4 * (size_t)s.batch_max, sizeof *state->batch_memory);
  state->ctx =
      (ie_ctx){.device = model->device, .cls = model->cls, .deterministic = model->info.deterministic};
  if (!state->layer || !state->recent || !state->ids || !state->length || !state->high || !state->exact ||
      !state->step || !state->batch_memory)
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu bytes of tables", s.table_bytes);
  if (status == IE_OK) status = state_memory(state, &s, error);
  if (status != IE_OK) {
    ie_state_free(state);
    memory_hint(model, options, &s, error);
    return status;
  }
  cache_advise(state);
  if (model->limited && !model->device->memory) {
    memory_touch(state->kv_memory, s.kv_bytes);
    memory_touch(state->ctx.arena.base, state->ctx.arena.capacity);
  }
  layers_place(state, &s);
  *out = state;
  return IE_OK;
}

void ie_state_free(ie_state *state) {
  if (!state) return;
  ie_device *device = state->model->device;
  if (state->runner) device->memory->runner_free(device, state->runner);
  ie_memory_give(device, state->ctx.arena.base, state->ctx.arena.capacity);
  ie_memory_give(device, state->kv_memory, state->kv_bytes);
  free(state->layer);
  free(state->recent);
  free(state->ids);
  free(state->length);
  free(state->high);
  free(state->exact);
  free(state->step);
  free(state->batch_memory);
  free(state);
}

int64_t ie_state_context(const ie_state *state) {
  return state->context;
}
ie_dtype ie_state_kv(const ie_state *state) {
  return state->kv_dtype;
}
int64_t ie_state_sequences(const ie_state *state) {
  return state->sequences;
}
int64_t ie_state_chunk(const ie_state *state) {
  return state->chunk;
}
int64_t ie_state_forward_tok(const ie_state *state) {
  return state->batch_max;
}
int64_t ie_state_forward_logits(const ie_state *state) {
  return state->wanted_max;
}
size_t ie_state_kv_bytes(const ie_state *state) {
  return state->kv_bytes;
}
size_t ie_state_scratch_bytes(const ie_state *state) {
  return state->ctx.arena.capacity;
}
int64_t ie_state_length(const ie_state *state, int64_t sequence) {
  return state->length[sequence];
}
const int32_t *ie_state_ids(const ie_state *state, int64_t sequence) {
  return state->ids + sequence * state->context;
}
const float *ie_state_logits(const ie_state *state) {
  return state->logits ? state->logits + (state->logits_rows - 1) * state->model->info.vocab : NULL;
}

ie_state_work ie_state_work_done(const ie_state *state) {
  return (ie_state_work){.weight_bytes = state->ctx.work.weight_bytes,
                         .kv_bytes = state->ctx.work.kv_bytes,
                         .flop = state->ctx.work.flop,
                         .forwards = state->forwards,
                         .tokens = state->tokens};
}

/* --- Forward --------------------------------------------------------------------------------------------- */

typedef struct hidden_job {
  ie_device *device;
  ie_hidden_fn hidden;
  void *arg;
  int64_t position;
  ie_status status;
  ie_error *error;
} hidden_job;

static void hidden_pass(void *arg, int64_t layer, const ie_tensor *x) {
  hidden_job *job = arg;
  if (job->status != IE_OK) return;
  float *copy = NULL, *rows = ie_tensor_f32(x);
  if (job->device->memory) {
    size_t bytes = (size_t)ie_tensor_count(x) * sizeof *copy;
    rows = copy = malloc(bytes ? bytes : 1);
    job->status =
        copy ? ie_memory_read(job->device, copy, x->data, bytes, job->error)
             : ie_error_set(job->error, IE_OUT_OF_MEMORY, "out of memory for %zu bytes of a layer", bytes);
  }
  if (job->status == IE_OK)
    job->status = job->hidden(job->arg, layer, job->position, x->shape[0], rows, job->error);
  free(copy);
}

typedef struct decoder_job {
  ie_state *state;
  const ie_hooks *hooks;
} decoder_job;

static ie_tensor *decoder_run(ie_ctx *ctx, const ie_batch *batch, void *arg) {
  const decoder_job *job = arg;
  const ie_model *model = job->state->model;
  return ie_decoder_forward(model->arch->decoder, ctx, model->net, job->state->layer, batch, job->hooks);
}

ie_status ie_state_run(ie_state *state, const ie_forward *forward, ie_error *error) {
  ie_ctx *ctx = &state->ctx;
  ie_ctx_reset(ctx, (ie_ctx_mark){0});
  ctx->status = IE_OK;
  state->logits = NULL;
  if (state->runner) return ctx->device->memory->run(state->runner, ctx, forward, &state->logits, error);
  ie_tensor *logits = forward->run(ctx, forward->batch, forward->arg);
  if (ctx->status != IE_OK) return ie_error_set(error, ctx->status, "%s", ctx->error.message);
  state->logits = logits ? ie_tensor_f32(logits) : NULL;
  return IE_OK;
}

bool ie_state_draws(const ie_state *state) {
  return state->runner && device_draws(state->model);
}

void ie_state_draw_next(ie_state *state, ie_draw_row *rows, int64_t count) {
  state->draw = rows;
  state->draw_count = count;
  for (int64_t i = 0; rows && i < count; i++) rows[i].id = -1;
}

/* Tokens of a sequence stand together. */
static void shape_tell(ie_batch *batch) {
  int64_t run = 0;
  for (int64_t t = 0; t < batch->tokens; t++) {
    run = t > 0 && batch->sequence[t] == batch->sequence[t - 1] ? run + 1 : 1;
    batch->longest_run = ie_max_i64(batch->longest_run, run);
    batch->reach = ie_max_i64(batch->reach, batch->position[t] + 1);
  }
}

/* One forward of the batch that stands in batch_memory. */
static ie_status state_forward(ie_state *state, int64_t tokens, int64_t wanted, const ie_hooks *hooks,
                               ie_error *error) {
  ie_ctx *ctx = &state->ctx;
  int32_t *b = state->batch_memory;
  ie_batch batch = {.tokens = tokens,
                    .ids = b,
                    .position = b + state->batch_max,
                    .sequence = b + 2 * state->batch_max,
                    .wanted = b + 3 * state->batch_max,
                    .wanted_count = wanted};
  struct ie_stream *stream = state->model->stream;
  ctx->experts = stream ? ie_stream_experts(stream) : NULL;
  ie_status status = stream ? ie_stream_rows(stream, ctx, b, tokens, error) : IE_OK;
  if (status != IE_OK) return status;
  shape_tell(&batch);
  decoder_job job = {state, hooks};
  const ie_forward forward = {.run = decoder_run,
                              .arg = &job,
                              .batch = &batch,
                              .replay = !hooks,
                              .draw = wanted > 0 && wanted == state->draw_count ? state->draw : NULL};
  status = ie_state_run(state, &forward, error);
  if (status != IE_OK) return status;
  state->logits_rows = wanted;
  state->forwards++;
  state->tokens += (uint64_t)tokens;
  return IE_OK;
}

ie_status ie_state_ids_check(const ie_state *state, const int32_t *ids, int64_t count, ie_error *error) {
  for (int64_t i = 0; i < count; i++)
    if (ids[i] < 0 || ids[i] >= state->model->info.vocab)
      return ie_error_set(error, IE_INVALID_ARGUMENT, "id %d is not below the vocabulary, %lld", ids[i],
                          (long long)state->model->info.vocab);
  return IE_OK;
}

static ie_status sequence_check(const ie_state *state, int64_t sequence, ie_error *error) {
  if (sequence >= 0 && sequence < state->sequences) return IE_OK;
  return ie_error_set(error, IE_INVALID_ARGUMENT, "sequence %lld, but the state has %lld",
                      (long long)sequence, (long long)state->sequences);
}

static ie_status advance_check(const ie_state *state, const ie_advance *rows, int64_t n, ie_error *error) {
  int64_t tokens = 0, wanted = 0;
  ie_status status = n < 1 ? ie_error_set(error, IE_INVALID_ARGUMENT, "a forward of no sequences") : IE_OK;
  for (int64_t i = 0; i < n && status == IE_OK; i++) {
    const ie_advance *row = &rows[i];
    status = sequence_check(state, row->sequence, error);
    for (int64_t j = 0; j < i && status == IE_OK; j++)
      if (rows[j].sequence == row->sequence)
        status = ie_error_set(error, IE_INVALID_ARGUMENT, "sequence %lld stands twice in one forward",
                              (long long)row->sequence);
    if (status != IE_OK) break;
    if (row->count < 1 || row->count > state->chunk || row->wanted < 0 || row->wanted > row->count)
      status = ie_error_set(error, IE_INVALID_ARGUMENT,
                            "sequence %lld: %lld tokens and logits of %lld; expected 1 to %lld tokens",
                            (long long)row->sequence, (long long)row->count, (long long)row->wanted,
                            (long long)state->chunk);
    else
      status = ie_state_ids_check(state, row->ids, row->count, error);
    if (status == IE_OK && row->count > state->context - state->length[row->sequence])
      status = ie_error_set(error, IE_LIMIT,
                            "sequence %lld: %lld tokens do not fit: the context is %lld and holds %lld",
                            (long long)row->sequence, (long long)row->count, (long long)state->context,
                            (long long)state->length[row->sequence]);
    tokens += row->count;
    wanted += row->wanted;
  }
  if (status == IE_OK && (tokens > state->batch_max || wanted > state->wanted_max))
    status = ie_error_set(error, IE_INVALID_ARGUMENT,
                          "a forward of %lld tokens with logits of %lld; this state takes %lld and %lld",
                          (long long)tokens, (long long)wanted, (long long)state->batch_max,
                          (long long)state->wanted_max);
  return status;
}

void ie_state_written(ie_state *state, int64_t sequence, int64_t end) {
  state->high[sequence] = ie_max_i64(state->high[sequence], end);
  for (int64_t i = 0; i < state->model->info.layers; i++)
    if (state->layer[i].recent)
      state->exact[sequence] = ie_max_i64(state->exact[sequence], end - state->layer[i].recent->cap);
}

/* The tokens of a forward were computed: they now belong to the sequence. */
static void sequence_extend(ie_state *state, const ie_advance *row) {
  int64_t length = state->length[row->sequence];
  memcpy(state->ids + row->sequence * state->context + length, row->ids,
         (size_t)row->count * sizeof *row->ids);
  state->length[row->sequence] = length + row->count;
}

/* The batch of a forward over checked rows; returns its tokens. */
static int64_t batch_fill(ie_state *state, const ie_advance *rows, int64_t n, int64_t *wanted) {
  int32_t *b = state->batch_memory;
  int64_t at = 0;
  *wanted = 0;
  for (int64_t r = 0; r < n; r++) {
    const ie_advance *row = &rows[r];
    int64_t position = state->length[row->sequence];
    for (int64_t i = 0; i < row->count; i++, at++) {
      b[at] = row->ids[i];
      b[state->batch_max + at] = (int32_t)(position + i);
      b[2 * state->batch_max + at] = (int32_t)row->sequence;
      if (i >= row->count - row->wanted) b[3 * state->batch_max + (*wanted)++] = (int32_t)at;
    }
    /* Before the forward: a failed one may have overwritten slots of the rings. */
    ie_state_written(state, row->sequence, position + row->count);
  }
  return at;
}

static ie_status rows_forward(ie_state *state, ie_advance *rows, int64_t n, const ie_forward_options *options,
                              int64_t position, ie_error *error) {
  int64_t wanted, tokens = batch_fill(state, rows, n, &wanted);
  hidden_job job = {.device = state->model->device,
                    .hidden = options->hidden,
                    .arg = options->arg,
                    .position = position,
                    .error = error};
  ie_hooks hooks = {.hidden = hidden_pass, .arg = &job};
  state->ctx.cancelled = options->cancelled;
  state->ctx.cancelled_arg = options->cancelled_arg;
  ie_status status = state_forward(state, tokens, wanted, options->hidden ? &hooks : NULL, error);
  state->ctx.cancelled = NULL;
  if (status == IE_OK) status = job.status;
  const float *logits = state->logits;
  for (int64_t i = 0; i < n; i++) {
    rows[i].logits = status == IE_OK && rows[i].wanted > 0 ? logits : NULL;
    if (rows[i].logits) logits += rows[i].wanted * state->model->info.vocab;
  }
  return status;
}

ie_status ie_state_advance(ie_state *state, ie_advance *rows, int64_t n, const ie_forward_options *options,
                           ie_error *error) {
  static const ie_forward_options defaults = {0};
  ie_status status = advance_check(state, rows, n, error);
  if (status == IE_OK)
    status = rows_forward(state, rows, n, options ? options : &defaults, /*position=*/0, error);
  for (int64_t i = 0; i < n && status == IE_OK; i++) sequence_extend(state, &rows[i]);
  return status;
}

static ie_status append_chunk(ie_state *state, int64_t sequence, const int32_t *ids, int64_t count, bool last,
                              const ie_append_options *options, ie_error *error) {
  int64_t position = state->length[sequence];
  ie_advance row = {.sequence = sequence, .ids = ids, .count = count};
  row.wanted = options->all_logits ? count : last ? 1 : 0;
  ie_forward_options forward = {.hidden = options->hidden,
                                .arg = options->arg,
                                .cancelled = options->cancelled,
                                .cancelled_arg = options->cancelled_arg};
  ie_status status = rows_forward(state, &row, 1, &forward, position, error);
  if (status == IE_OK && options->logits && row.wanted > 0)
    status = options->logits(options->arg, position + count - row.wanted, row.wanted, row.logits, error);
  if (status == IE_OK) sequence_extend(state, &row);
  return status;
}

ie_status ie_state_append(ie_state *state, int64_t sequence, const int32_t *ids, int64_t count,
                          const ie_append_options *options, ie_error *error) {
  static const ie_append_options defaults = {0};
  if (!options) options = &defaults;
  ie_status status = sequence_check(state, sequence, error);
  if (status == IE_OK && count < 1) status = ie_error_set(error, IE_INVALID_ARGUMENT, "no ids to append");
  if (status == IE_OK) status = ie_state_ids_check(state, ids, count, error);
  if (status != IE_OK) return status;
  if (count > state->context - state->length[sequence])
    return ie_error_set(error, IE_LIMIT, "%lld tokens do not fit: the context is %lld and holds %lld",
                        (long long)count, (long long)state->context, (long long)state->length[sequence]);
  int64_t chunk = options->all_logits ? ie_min_i64(state->chunk, state->wanted_max) : state->chunk;
  for (int64_t done = 0; done < count && status == IE_OK; done += chunk) {
    if (options->cancelled && options->cancelled(options->cancelled_arg))
      return ie_error_set(error, IE_CANCELLED, "cancelled after %lld of %lld tokens", (long long)done,
                          (long long)count);
    int64_t n = ie_min_i64(chunk, count - done);
    status = append_chunk(state, sequence, ids + done, n, done + n == count, options, error);
  }
  return status;
}

ie_status ie_state_step(ie_state *state, const int32_t *sequence, const int32_t *ids, int64_t count,
                        const float **logits, ie_error *error) {
  *logits = NULL;
  if (count < 1 || count > state->sequences)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "a step of %lld sequences, but the state has %lld",
                        (long long)count, (long long)state->sequences);
  for (int64_t i = 0; i < count; i++)
    state->step[i] = (ie_advance){.sequence = sequence[i], .ids = &ids[i], .count = 1, .wanted = 1};
  ie_status status = ie_state_advance(state, state->step, count, /*options=*/NULL, error);
  if (status == IE_OK) *logits = state->logits;
  return status;
}

/* --- Going back ------------------------------------------------------------------------------------------ */

int64_t ie_state_first_held(const ie_state *state, int64_t layer_index, int64_t sequence) {
  const ie_kv_layer *layer = &state->layer[layer_index];
  if (state->model->kv[layer_index].window == 0) return 0; /* a full layer loses nothing */
  return ie_max_i64(0, state->high[sequence] - layer->cap);
}

static int64_t group_begin(int64_t position) {
  return position - position % IE_KV_GROUP;
}

/* What int8 layers need to go on at a length: the exact keys and values of its unfinished group. */
static ie_status recent_check(const ie_state *state, int64_t sequence, int64_t length, ie_error *error) {
  int64_t begin = group_begin(length);
  if (begin == length || state->exact[sequence] <= begin) return IE_OK;
  return ie_error_set(
      error, IE_LIMIT,
      "an int8 cache holds the exact keys and values of positions from %lld; to go on at %lld "
      "tokens it needs those from %lld (it can go back to any multiple of %d)",
      (long long)state->exact[sequence], (long long)length, (long long)begin, IE_KV_GROUP);
}

ie_status ie_state_rollback(ie_state *state, int64_t sequence, int64_t length, ie_error *error) {
  ie_status status = sequence_check(state, sequence, error);
  if (status != IE_OK) return status;
  if (length < 0 || length > state->length[sequence])
    return ie_error_set(error, IE_INVALID_ARGUMENT, "rollback to %lld tokens, but the sequence has %lld",
                        (long long)length, (long long)state->length[sequence]);
  for (int64_t i = 0; i < state->model->info.layers && length > 0; i++) {
    int64_t window = state->model->kv[i].window;
    int64_t first = window > 0 ? ie_max_i64(0, length - window + 1) : 0;
    if (first < ie_state_first_held(state, i, sequence))
      return ie_error_set(error, IE_LIMIT,
                          "layer %lld: its window at %lld tokens begins at position %lld, but it "
                          "holds positions from %lld",
                          (long long)i, (long long)length, (long long)first,
                          (long long)ie_state_first_held(state, i, sequence));
  }
  status = recent_check(state, sequence, length, error);
  if (status != IE_OK) return status;
  state->length[sequence] = length;
  state->exact[sequence] = ie_min_i64(state->exact[sequence], length);
  if (length == 0) state->high[sequence] = 0;
  return IE_OK;
}

ie_status ie_state_sync(ie_state *state, int64_t sequence, const int32_t *ids, int64_t count, int64_t *kept,
                        ie_error *error) {
  *kept = 0;
  ie_status status = sequence_check(state, sequence, error);
  if (status != IE_OK) return status;
  const int32_t *held = ie_state_ids(state, sequence);
  int64_t common = 0, limit = ie_min_i64(state->length[sequence], count - 1);
  while (common < limit && held[common] == ids[common]) common++;
  status = ie_state_rollback(state, sequence, common, error);
  if (status == IE_LIMIT && state->kv_dtype == IE_I8) {
    common = group_begin(common);
    status = ie_state_rollback(state, sequence, common, error);
  }
  if (status == IE_LIMIT) {
    common = 0;
    status = ie_state_rollback(state, sequence, 0, error);
  }
  if (status == IE_OK) *kept = common;
  return status;
}
