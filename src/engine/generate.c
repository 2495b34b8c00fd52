/* Generation: the prompt, the loop over tokens, the text that may be shown. Manual: clocher/generate.h. */
#include "engine/generation.h"

#include "base/clock.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

const char *ie_stop_reason_name(ie_stop_reason reason) {
  static const char *const names[] = {[IE_STOP_LENGTH] = "length",
                                      [IE_STOP_EOS] = "eos",
                                      [IE_STOP_STRING] = "stop",
                                      [IE_STOP_CANCELLED] = "cancelled"};
  return (unsigned)reason <= IE_STOP_CANCELLED ? names[reason] : "unknown";
}

void ie_generate_result_free(ie_generate_result *result) {
  ie_ids_free(&result->ids);
  ie_bytes_free(&result->text);
  free(result->token_s);
  free(result->logprob);
  free(result->top);
  *result = (ie_generate_result){0};
}

/* --- Stop strings ---------------------------------------------------------------------------------------- */

/* Where the first stop string begins that ends after byte `from` of the text; SIZE_MAX: nowhere. */
static size_t stop_find(const ie_generate_options *o, const ie_bytes *text, size_t from) {
  size_t found = SIZE_MAX;
  for (size_t i = 0; i < o->stop_count; i++) {
    size_t n = strlen(o->stop[i]);
    if (n == 0 || n > text->size) continue;
    size_t start = from >= n ? from - n + 1 : 0;
    const char *at = memmem(text->data + start, text->size - start, o->stop[i], n);
    if (at && (size_t)(at - text->data) < found) found = (size_t)(at - text->data);
  }
  return found;
}

/* Bytes at the end of the text that could be the beginning of a stop string. */
static size_t stop_held(const ie_generate_options *o, const ie_bytes *text) {
  size_t held = 0;
  for (size_t i = 0; i < o->stop_count; i++) {
    size_t n = strlen(o->stop[i]);
    for (size_t k = n > 0 ? n - 1 : 0; k > held; k--) {
      if (k <= text->size && memcmp(text->data + text->size - k, o->stop[i], k) == 0) {
        held = k;
        break;
      }
    }
  }
  return held;
}

/* --- One token ------------------------------------------------------------------------------------------- */

static bool is_stop_id(const ie_generation *g, int32_t id) {
  const ie_model_info *info = &g->model->info;
  for (int i = 0; i < info->stop_count && !g->options.ignore_eos; i++)
    if (info->stop_ids[i] == id) return true;
  for (size_t i = 0; i < g->options.stop_id_count; i++)
    if (g->options.stop_ids[i] == id) return true;
  return false;
}

static ie_status logprobs_keep(ie_generation *g, const ie_sample_input *input, int32_t id, ie_error *error) {
  size_t n = (size_t)g->options.logprobs, at = g->result.ids.count;
  int32_t ids[IE_SAMPLE_TOP_MAX];
  float logprobs[IE_SAMPLE_TOP_MAX], chosen;
  ie_sample_top top = {.count = n, .ids = ids, .logprobs = logprobs};
  ie_status status = ie_sampler_logprobs(g->sampler, input, id, &chosen, &top, error);
  if (status != IE_OK) return status;
  g->result.logprob[at] = (ie_logprob){.id = id, .logprob = chosen};
  for (size_t i = 0; i < n; i++)
    g->result.top[at * n + i] = (ie_logprob){.id = ids[i], .logprob = logprobs[i]};
  return IE_OK;
}

bool ie_generation_draws(const ie_generation *g, const ie_state *state) {
  return ie_state_draws(state) && g->options.logprobs == 0;
}

ie_draw_row ie_generation_draw(const ie_generation *g) {
  size_t seen = (size_t)g->options.prompt_count + g->result.ids.count;
  return (ie_draw_row){.params = &g->options.sample,
                       .seen = g->history,
                       .seen_count = seen,
                       .row = g->options.row,
                       .step = (uint64_t)seen};
}

static ie_status token_sample(ie_generation *g, const float *logits, int32_t *id, ie_error *error) {
  const ie_draw_row draw = ie_generation_draw(g);
  ie_sample_input input = {.logits = logits,
                           .vocab = g->model->info.vocab,
                           .seen = draw.seen,
                           .seen_count = draw.seen_count,
                           .step = draw.step,
                           .row = draw.row};
  ie_status status = ie_sampler_draw(g->sampler, &input, id, error);
  if (status == IE_OK && g->options.logprobs > 0) status = logprobs_keep(g, &input, *id, error);
  return status;
}

static ie_status token_draw(ie_generation *g, const float *logits, int32_t *id, ie_error *error) {
  const ie_generate_options *o = &g->options;
  size_t written = g->result.ids.count;
  ie_status status = IE_OK;
  *id = g->drawn;
  if (logits)
    status = token_sample(g, logits, id, error);
  else if (*id < 0 || *id >= g->model->info.vocab)
    status = ie_error_set(error, IE_INTERNAL, "neither logits nor an id of the next token");
  if (status != IE_OK) return status;
  double now = ie_clock_s();
  g->result.token_s[written] = now - g->last;
  g->last = now;
  g->history[(size_t)o->prompt_count + written] = *id;
  return ie_ids_append(&g->result.ids, id, 1, error);
}

/* What may be shown beyond what was shown before, all but the last `held` bytes. */
static void text_refresh(ie_generation *g, size_t held) {
  const ie_bytes *text = &g->result.text;
  size_t end = text->size > held ? text->size - held : 0;
  g->fresh_begin = g->shown;
  if (end > g->shown) g->shown = end;
  g->fresh_end = g->shown;
}

ie_status ie_generation_take(ie_generation *g, const float *logits, bool *ended, ie_error *error) {
  ie_generate_result *r = &g->result;
  ie_bytes *text = &r->text;
  size_t before = text->size;
  int32_t id;
  *ended = false;
  g->fresh_begin = g->fresh_end = g->shown;
  ie_status status = token_draw(g, logits, &id, error);
  if (status != IE_OK) return status;
  if (r->ids.count == 1) r->first_token_s = g->last - g->started;
  r->decode_s = g->last - g->started - r->first_token_s;
  if (is_stop_id(g, id)) {
    r->reason = IE_STOP_EOS;
    *ended = true;
    return IE_OK;
  }
  if (g->options.tokenizer) {
    status = ie_detokenizer_push(&g->stream, g->options.tokenizer, id, text, error);
    if (status != IE_OK) return status;
  }
  size_t found = stop_find(&g->options, text, before);
  if (found != SIZE_MAX) {
    text->size = found;
    text->data[found] = '\0';
    r->reason = IE_STOP_STRING;
    *ended = true;
  }
  text_refresh(g, *ended ? 0 : stop_held(&g->options, text));
  return IE_OK;
}

bool ie_generation_full(const ie_generation *g) {
  return (int64_t)g->result.ids.count >= g->options.max_new;
}

/* Not after a stop string, which nothing may follow. */
ie_status ie_generation_finish(ie_generation *g, ie_error *error) {
  g->fresh_begin = g->fresh_end = g->shown;
  if (g->result.reason == IE_STOP_STRING || !g->options.tokenizer || g->result.ids.count == 0) return IE_OK;
  ie_status status = ie_detokenizer_finish(&g->stream, &g->result.text, error);
  if (status == IE_OK) text_refresh(g, /*held=*/0);
  return status;
}

/* --- Life ------------------------------------------------------------------------------------------------ */

static ie_status options_check(const ie_state *state, const ie_generate_options *o, ie_error *error) {
  if (o->prompt_count < 1) return ie_error_set(error, IE_INVALID_ARGUMENT, "the prompt is empty");
  if (o->max_new < 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "max_new is %lld", (long long)o->max_new);
  if (o->logprobs < 0 || o->logprobs > IE_SAMPLE_TOP_MAX || o->logprobs > state->model->info.vocab)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "logprobs: expected 0 to %d, found %d", IE_SAMPLE_TOP_MAX,
                        o->logprobs);
  if (o->stop_count > 0 && !o->tokenizer)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "stop strings need a tokenizer");
  if (o->prompt_count > state->context || o->max_new > state->context - o->prompt_count)
    return ie_error_set(error, IE_LIMIT,
                        "the prompt has %lld tokens and %lld new ones were asked for: %lld, but the "
                        "context is %lld",
                        (long long)o->prompt_count, (long long)o->max_new,
                        (long long)(o->prompt_count + o->max_new), (long long)state->context);
  return IE_OK;
}

ie_status ie_generation_open(ie_generation *g, const ie_state *state, const ie_generate_options *options,
                             ie_error *error) {
  ie_status status = options_check(state, options, error);
  if (status == IE_OK) status = ie_sample_params_check(&options->sample, error);
  if (status != IE_OK) return status;
  size_t bytes = (size_t)options->prompt_count * sizeof *g->history;
  g->model = state->model;
  g->options = *options;
  g->stream.skip_special = options->skip_special;
  g->result.reason = IE_STOP_LENGTH;
  g->history = malloc(bytes);
  if (!g->history)
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a prompt of %lld tokens",
                        (long long)options->prompt_count);
  memcpy(g->history, options->prompt, bytes);
  g->options.prompt = g->history;
  return IE_OK;
}

ie_status ie_generation_start(ie_generation *g, ie_sampler *sampler, ie_error *error) {
  ie_generate_result *r = &g->result;
  size_t n = (size_t)g->options.max_new, k = (size_t)g->options.logprobs;
  g->sampler = sampler;
  g->started = g->last = ie_clock_s();
  int32_t *history = realloc(g->history, ((size_t)g->options.prompt_count + n) * sizeof *history);
  if (history) g->options.prompt = g->history = history;
  r->token_s = malloc((n + 1) * sizeof *r->token_s);
  r->logprob = k ? malloc((n + 1) * sizeof *r->logprob) : NULL;
  r->top = k ? malloc((n * k + 1) * sizeof *r->top) : NULL;
  if (!history || !r->token_s || (k && (!r->logprob || !r->top)))
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu new tokens", n);
  return ie_sampler_configure(sampler, &g->options.sample, error);
}

size_t ie_generation_bytes(int64_t vocab, int64_t context) {
  return ie_sampler_bytes(vocab) + (size_t)context * (2 * sizeof(int32_t) + sizeof(double));
}

ie_status ie_generation_sampler(const ie_state *state, ie_sampler **out, ie_error *error) {
  static const ie_sample_params settings = {0}; /* until a generation brings its own */
  ie_status status = ie_sampler_new_default(&settings, state->model->info.vocab, out, error);
  if (status == IE_OK) ie_sampler_use_kernels(*out, &state->model->device->kernels);
  return status;
}

void ie_generation_close(ie_generation *g) {
  free(g->history);
  ie_generate_result_free(&g->result);
  *g = (ie_generation){0};
}

/* --- One sequence ---------------------------------------------------------------------------------------- */

/* Computes tokens of the sequence; the id after the last of them is drawn at once where that can be. */
static ie_status tokens_append(ie_generation *g, ie_state *state, int64_t sequence, const int32_t *ids,
                               int64_t count, ie_error *error) {
  const ie_generate_options *o = &g->options;
  bool prompt = g->result.ids.count == 0; /* one token is not worth asking at each layer */
  ie_append_options append = {.cancelled = prompt ? o->cancelled : NULL, .cancelled_arg = o->cancelled_arg};
  ie_draw_row row = ie_generation_draw(g);
  bool draws = ie_generation_draws(g, state) && !ie_generation_full(g);
  ie_state_draw_next(state, draws ? &row : NULL, draws);
  ie_status status = ie_state_append(state, sequence, ids, count, &append, error);
  ie_state_draw_next(state, NULL, 0);
  g->drawn = draws ? row.id : -1;
  return status;
}

static ie_status prompt_read(ie_generation *g, ie_state *state, int64_t sequence, ie_error *error) {
  const ie_generate_options *o = &g->options;
  int64_t kept = 0;
  ie_status status = ie_state_sync(state, sequence, o->prompt, o->prompt_count, &kept, error);
  if (status != IE_OK) return status;
  status = tokens_append(g, state, sequence, o->prompt + kept, o->prompt_count - kept, error);
  g->result.reused_prompt_tok = kept;
  g->result.computed_prompt_tok = ie_state_length(state, sequence) - kept;
  g->result.prefill_s = ie_clock_s() - g->started;
  return status;
}

/* Gives fresh text to the caller; false: he wants no more. */
static bool text_show(const ie_generation *g) {
  const ie_generate_result *r = &g->result;
  if (!g->options.on_token) return true;
  return g->options.on_token(g->options.arg, r->ids.ids[r->ids.count - 1],
                             r->text.size ? r->text.data + g->fresh_begin : "",
                             g->fresh_end - g->fresh_begin);
}

static ie_status tokens_write(ie_generation *g, ie_state *state, int64_t sequence, ie_error *error) {
  const ie_generate_options *o = &g->options;
  ie_generate_result *r = &g->result;
  bool ended = false;
  while (!ended && !ie_generation_full(g)) {
    ie_status status = ie_generation_take(g, ie_state_logits(state), &ended, error);
    if (status != IE_OK) return status;
    if (ended && r->reason == IE_STOP_EOS) break;
    bool wanted = text_show(g);
    if (ended) break;
    if (!wanted || (o->cancelled && o->cancelled(o->cancelled_arg))) {
      r->reason = IE_STOP_CANCELLED;
      break;
    }
    if (ie_generation_full(g)) break;
    status = tokens_append(g, state, sequence, &r->ids.ids[r->ids.count - 1], 1, error);
    if (status != IE_OK) return status;
  }
  ie_status status = ie_generation_finish(g, error);
  if (status == IE_OK && g->fresh_end > g->fresh_begin) text_show(g);
  return status;
}

ie_status ie_generate(ie_state *state, int64_t sequence, const ie_generate_options *options,
                      ie_generate_result *result, ie_error *error) {
  ie_generation g = {0};
  *result = (ie_generate_result){0};
  ie_sampler *sampler = NULL;
  ie_status status = ie_generation_open(&g, state, options, error);
  if (status == IE_OK) status = ie_generation_sampler(state, &sampler, error);
  if (status == IE_OK) status = ie_generation_start(&g, sampler, error);
  if (status == IE_OK) status = prompt_read(&g, state, sequence, error);
  if (status == IE_CANCELLED) {
    g.result.reason = IE_STOP_CANCELLED;
    status = IE_OK;
  } else if (status == IE_OK) {
    status = tokens_write(&g, state, sequence, error);
  }
  if (status == IE_OK) {
    *result = g.result;
    g.result = (ie_generate_result){0};
  }
  ie_generation_close(&g);
  ie_sampler_free(sampler);
  return status;
}
