/* Generation: the prompt, the loop over tokens, the text that may be shown. Manual: clocher/generate.h. */
#include "base/buf.h"
#include "base/clock.h"
#include "base/size.h"
#include "engine/sampler.h"
#include "engine/state.h"

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

/* One generation under way. */
typedef struct generation {
  ie_state *state;
  int64_t sequence;
  const ie_generate_options *options;
  ie_generate_result *result;
  ie_sampler *sampler;
  int32_t *history; /* (prompt_count + max_new) the prompt and what was written */
  ie_detokenizer stream;
  size_t shown; /* bytes of the text that were given to on_token */
  double started, last;
  int32_t top_ids[IE_SAMPLE_TOP_MAX];
  float top_logprobs[IE_SAMPLE_TOP_MAX];
} generation;

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

static bool is_stop_id(const generation *g, int32_t id) {
  const ie_model_info *info = &g->state->model->info;
  for (int i = 0; i < info->stop_count && !g->options->ignore_eos; i++)
    if (info->stop_ids[i] == id) return true;
  return false;
}

static ie_status logprobs_keep(generation *g, const ie_sample_input *input, int32_t id, ie_error *error) {
  size_t n = (size_t)g->options->logprobs, at = g->result->ids.count;
  ie_sample_top top = {.count = n, .ids = g->top_ids, .logprobs = g->top_logprobs};
  float chosen;
  ie_status status = ie_sampler_logprobs(g->sampler, input, id, &chosen, &top, error);
  if (status != IE_OK) return status;
  g->result->logprob[at] = (ie_logprob){.id = id, .logprob = chosen};
  for (size_t i = 0; i < n; i++)
    g->result->top[at * n + i] = (ie_logprob){.id = g->top_ids[i], .logprob = g->top_logprobs[i]};
  return IE_OK;
}

/* Draws the next id from the state's logits and records it. */
static ie_status token_draw(generation *g, int32_t *id, ie_error *error) {
  const ie_generate_options *o = g->options;
  size_t written = g->result->ids.count;
  ie_sample_input input = {.logits = ie_state_logits(g->state),
                           .vocab = g->state->model->info.vocab,
                           .seen = g->history,
                           .seen_count = (size_t)o->prompt_count + written,
                           .step = (uint64_t)o->prompt_count + written,
                           .row = o->row};
  ie_status status = ie_sampler_draw(g->sampler, &input, id, error);
  if (status == IE_OK && o->logprobs > 0) status = logprobs_keep(g, &input, *id, error);
  if (status != IE_OK) return status;
  double now = ie_clock_s();
  g->result->token_s[written] = now - g->last;
  g->last = now;
  g->history[(size_t)o->prompt_count + written] = *id;
  return ie_ids_append(&g->result->ids, id, 1, error);
}

/* Gives what may be shown to the caller; false: he wants no more. */
static bool text_show(generation *g, int32_t id, size_t held) {
  const ie_bytes *text = &g->result->text;
  size_t end = text->size > held ? text->size - held : 0;
  size_t begin = g->shown;
  if (end > begin) g->shown = end;
  if (!g->options->on_token) return true;
  return g->options->on_token(g->options->arg, id, text->size ? text->data + begin : "",
                              end > begin ? end - begin : 0);
}

/* Adds the text of an id; *stopped when a stop string is complete or the caller stops. */
static ie_status token_show(generation *g, int32_t id, bool *stopped, ie_error *error) {
  ie_bytes *text = &g->result->text;
  size_t before = text->size;
  if (g->options->tokenizer) {
    ie_status status = ie_detokenizer_push(&g->stream, g->options->tokenizer, id, text, error);
    if (status != IE_OK) return status;
  }
  size_t found = stop_find(g->options, text, before);
  if (found != SIZE_MAX) {
    text->size = found;
    text->data[found] = '\0';
    g->result->reason = IE_STOP_STRING;
    *stopped = true;
  }
  if (!text_show(g, id, *stopped ? 0 : stop_held(g->options, text)) && !*stopped) {
    g->result->reason = IE_STOP_CANCELLED;
    *stopped = true;
  }
  return IE_OK;
}

/* --- The loop -------------------------------------------------------------------------------------------- */

static bool cancelled(const generation *g) {
  return g->options->cancelled && g->options->cancelled(g->options->cancelled_arg);
}

static ie_status tokens_write(generation *g, ie_error *error) {
  const ie_generate_options *o = g->options;
  ie_generate_result *r = g->result;
  bool stopped = false;
  r->reason = IE_STOP_LENGTH;
  while ((int64_t)r->ids.count < o->max_new && !stopped) {
    int32_t id;
    ie_status status = token_draw(g, &id, error);
    if (status != IE_OK) return status;
    if (r->ids.count == 1) r->first_token_s = g->last - g->started;
    if (is_stop_id(g, id)) {
      r->reason = IE_STOP_EOS;
      break;
    }
    status = token_show(g, id, &stopped, error);
    if (status != IE_OK) return status;
    if (!stopped && cancelled(g)) {
      r->reason = IE_STOP_CANCELLED;
      stopped = true;
    }
    if (stopped || (int64_t)r->ids.count == o->max_new) break;
    status = ie_state_append(g->state, g->sequence, &id, 1, /*options=*/NULL, error);
    if (status != IE_OK) return status;
  }
  return IE_OK;
}

static ie_status prompt_read(generation *g, ie_error *error) {
  const ie_generate_options *o = g->options;
  int64_t kept = 0;
  ie_status status = ie_state_sync(g->state, g->sequence, o->prompt, o->prompt_count, &kept, error);
  if (status != IE_OK) return status;
  ie_append_options append = {.cancelled = o->cancelled, .cancelled_arg = o->cancelled_arg};
  status = ie_state_append(g->state, g->sequence, o->prompt + kept, o->prompt_count - kept, &append, error);
  g->result->reused_prompt_tok = kept;
  g->result->computed_prompt_tok = ie_state_length(g->state, g->sequence) - kept;
  g->result->prefill_s = ie_clock_s() - g->started;
  return status;
}

/* Text that was held back, when nothing more will come: not after a stop string, which nothing may follow. */
static ie_status text_finish(generation *g, ie_error *error) {
  if (g->result->reason == IE_STOP_STRING || !g->options->tokenizer || g->result->ids.count == 0)
    return IE_OK;
  ie_status status = ie_detokenizer_finish(&g->stream, &g->result->text, error);
  if (status == IE_OK && g->shown < g->result->text.size)
    text_show(g, g->result->ids.ids[g->result->ids.count - 1], /*held=*/0);
  return status;
}

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

static ie_status generation_open(generation *g, ie_error *error) {
  const ie_generate_options *o = g->options;
  ie_generate_result *r = g->result;
  size_t n = (size_t)o->max_new, k = (size_t)o->logprobs;
  ie_status status = ie_sampler_new_default(&o->sample, g->state->model->info.vocab, &g->sampler, error);
  if (status != IE_OK) return status;
  ie_sampler_use_kernels(g->sampler, &g->state->model->device->kernels);
  g->history = malloc(((size_t)o->prompt_count + n) * sizeof *g->history);
  r->token_s = malloc((n + 1) * sizeof *r->token_s);
  r->logprob = k ? malloc((n + 1) * sizeof *r->logprob) : NULL;
  r->top = k ? malloc((n * k + 1) * sizeof *r->top) : NULL;
  if (!g->history || !r->token_s || (k && (!r->logprob || !r->top)))
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %zu new tokens", n);
  memcpy(g->history, o->prompt, (size_t)o->prompt_count * sizeof *g->history);
  return IE_OK;
}

ie_status ie_generate(ie_state *state, int64_t sequence, const ie_generate_options *options,
                      ie_generate_result *result, ie_error *error) {
  *result = (ie_generate_result){0};
  ie_status status = options_check(state, options, error);
  if (status != IE_OK) return status;
  generation g = {.state = state, .sequence = sequence, .options = options, .result = result};
  g.stream.skip_special = options->skip_special;
  status = generation_open(&g, error);
  g.started = g.last = ie_clock_s();
  if (status == IE_OK) status = prompt_read(&g, error);
  if (status == IE_CANCELLED) {
    result->reason = IE_STOP_CANCELLED;
    status = IE_OK;
  } else if (status == IE_OK) {
    status = tokens_write(&g, error);
    if (status == IE_OK) status = text_finish(&g, error);
  }
  if (result->ids.count > 0) result->decode_s = g.last - g.started - result->first_token_s;
  ie_sampler_free(g.sampler);
  free(g.history);
  if (status != IE_OK) ie_generate_result_free(result);
  return status;
}
