/* The window: rounds x prompts, as many prompts of a round together as the state has sequences; after each new token
 * its work-touch.
 *
 * A token's own time is one forward and one draw. After the last token one more forward reads it, so that N new tokens
 * cost N forwards after the prompt, whatever N is: tps_true = tokens_generated / decode_time_s. Touch and logs come
 * between the scheduler's steps; their time is inside the window and outside the tokens' times. */
#include "clocher/scheduler.h"
#include "inference_engine.h"
#include "out.h"
#include "signals.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A prompt on its way. */
typedef struct slot {
  bool used;
  size_t prompt;
  uint64_t request;
  double started_s;      /* on the clock */
  double between_s;      /* window.between_s at its last token */
  double *token_between; /* (token_room) what passed between steps within each token's time */
  size_t tokens;
  double touch_s;
  /* Ended: */
  bool ended;
  int64_t sequence;
  ie_generate_result result;
} slot;

typedef struct window {
  infer_job *job;
  ie_scheduler *scheduler;
  slot *slots; /* (slot_count) one a sequence */
  size_t slot_count, active;
  int64_t round;
  size_t next, traced; /* prompts of the round that were begun, and whose trace is written */
  double step_end_s;   /* on the clock */
  double between_s;    /* of all that was done between steps */
} window;

static ie_status memory_error(ie_error *error, const char *what) {
  return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for %s", what);
}

/* --- Trace ---------------------------------------------------------------------------------------------------------- */

/* Appended, a line at a time. */
static ie_status trace_open(infer_job *job, ie_error *error) {
  const char *path = job->setup.trace_ids;
  if (!path) return IE_OK;
  job->trace = fopen(path, "ae");
  if (!job->trace)
    return ie_error_set(error, IE_IO, "%s: cannot open for the trace: %s", path, strerror(errno));
  setvbuf(job->trace, NULL, _IOLBF, 1 << 16);
  return IE_OK;
}

static ie_status trace_prompt(const infer_job *job, size_t i, int64_t r, ie_error *error) {
  const infer_prompt *p = &job->prompts.items[i];
  const infer_round *round = &p->rounds[r];
  if (!job->trace) return IE_OK;
  bool ok = cli_json_write(job->trace, json_pack("{s:s, s:I, s:o, s:o}", "kind", "prompt", "prompt_index",
                                                 (json_int_t)i, "prompt", cli_json_text(p->text, p->size),
                                                 "prompt_token_ids", cli_json_ids(p->ids.ids, p->ids.count)));
  for (size_t k = 0; ok && k < round->ids.count; k++)
    ok = cli_json_write(job->trace,
                        json_pack("{s:s, s:I, s:I, s:i}", "kind", "gen_step", "prompt_index", (json_int_t)i,
                                  "step", (json_int_t)k, "next_id", (int)round->ids.ids[k]));
  return ok ? IE_OK
            : ie_error_set(error, IE_IO, "%s: cannot write the trace: %s", job->setup.trace_ids,
                           strerror(errno));
}

/* The prompts of the round that have ended, in their order. */
static ie_status trace_go_on(window *w, ie_error *error) {
  const infer_job *job = w->job;
  ie_status status = IE_OK;
  while (status == IE_OK && w->traced < w->next && job->prompts.items[w->traced].rounds[w->round].stop_reason)
    status = trace_prompt(job, w->traced++, w->round, error);
  return status;
}

/* --- Logs ----------------------------------------------------------------------------------------------------------- */

/* "prompt 3 " where several are on their way, else nothing. */
static const char *prompt_name(const window *w, const slot *s, char *out, size_t size) {
  out[0] = '\0';
  if (w->slot_count > 1) snprintf(out, size, "prompt %zu ", s->prompt);
  return out;
}

static void token_log(const window *w, const slot *s, const ie_event *event) {
  const infer_setup *setup = &w->job->setup;
  int64_t step = (int64_t)s->tokens;
  char name[32];
  prompt_name(w, s, name, sizeof name);
  if (setup->log_tokens && (setup->log_every < 2 || step % setup->log_every == 0))
    infer_info(w->job->context, "%sstep %lld: id %d", name, (long long)step, (int)event->id);
  if (setup->debug_decode && (setup->decode_every < 2 || step % setup->decode_every == 0))
    infer_info(w->job->context, "%sstep %lld: text '%.*s'", name, (long long)step, (int)event->size,
               event->text);
}

static void topk_log(const window *w, const slot *s) {
  const infer_setup *setup = &w->job->setup;
  const ie_generate_result *g = &s->result;
  size_t k = (size_t)setup->topk, every = setup->topk_every > 1 ? (size_t)setup->topk_every : 1;
  char name[32];
  prompt_name(w, s, name, sizeof name);
  for (size_t i = 0; k > 0 && i < g->ids.count; i += every)
    for (size_t j = 0; j < k; j++)
      infer_info(w->job->context, "%sstep %zu: top %zu: id %d, log probability %.6f", name, i, j + 1,
                 (int)g->top[i * k + j].id, (double)g->top[i * k + j].logprob);
}

/* --- The end of a prompt ---------------------------------------------------------------------------------------------- */

/* Room for n more. */
static double *doubles_grow(double **list, size_t count, size_t n) {
  double *grown = realloc(*list, (count + n) * sizeof *grown);
  if (grown) *list = grown;
  return grown;
}

/* The tokens' times, without what passed between the steps: those after the first one, then the forward of the last
 * token, last_s (negative: there was none). */
static ie_status times_keep(infer_job *job, const slot *s, double last_s, infer_round *round,
                            ie_error *error) {
  const ie_generate_result *g = &s->result;
  size_t n = g->ids.count;
  double first_between = n > 0 ? s->token_between[0] : 0;
  const infer_prompt *p = &job->prompts.items[s->prompt];
  round->prefill_s = g->prefill_s - first_between;
  round->ttft_s = p->tokenize_s + (n > 0 ? g->first_token_s - first_between : round->prefill_s);
  if (n == 0) return IE_OK;
  if (!doubles_grow(&job->token_s, job->token_count, n) || !doubles_grow(&job->ttft_s, job->ttft_count, 1))
    return memory_error(error, "token times");
  round->decode_s = g->first_token_s - g->prefill_s;
  for (size_t i = 1; i <= n; i++) {
    double own = i < n ? g->token_s[i] - s->token_between[i] : last_s;
    if (own < 0) continue;
    job->token_s[job->token_count++] = own;
    round->decode_s += own;
  }
  job->ttft_s[job->ttft_count++] = round->ttft_s;
  return IE_OK;
}

void infer_expected_compare(const infer_prompt *p, infer_round *round) {
  size_t n = round->ids.count < p->expected.count ? round->ids.count : p->expected.count, i = 0;
  while (i < n && round->ids.ids[i] == p->expected.ids[i]) i++;
  round->expected_ok = i == n && round->ids.count == p->expected.count;
  round->mismatch_index = round->expected_ok ? -1 : (int64_t)i;
}

/* Its place is free afterwards, and its sequence empty: nothing of one prompt is reused for another. */
static ie_status slot_finish(window *w, slot *s, double last_s, ie_error *error) {
  infer_job *job = w->job;
  infer_prompt *p = &job->prompts.items[s->prompt];
  infer_round *round = &p->rounds[w->round];
  ie_generate_result *g = &s->result;
  ie_status status = times_keep(job, s, last_s, round, error);
  round->touch_s = s->touch_s;
  if (s->sequence >= 0) round->positions = ie_state_length(job->state, s->sequence);
  round->stop_reason = ie_stop_reason_name(g->reason);
  topk_log(w, s);
  round->ids = g->ids;
  g->ids = (ie_ids){0};
  if (job->setup.print_text) {
    round->text = g->text;
    g->text = (ie_bytes){0};
  }
  if (p->expected_present) infer_expected_compare(p, round);
  if (status == IE_OK && s->sequence >= 0) status = ie_state_rollback(job->state, s->sequence, 0, error);
  round->window_s = cli_clock_s() - s->started_s;
  ie_generate_result_free(g);
  s->used = false;
  w->active--;
  return status;
}

/* The last token of a prompt that ended was drawn and not read. */
static bool last_unread(const window *w, const slot *s) {
  const ie_generate_result *g = &s->result;
  if (!s->ended || g->ids.count == 0 || g->reason == IE_STOP_CANCELLED) return false;
  int64_t prompt_tok = (int64_t)w->job->prompts.items[s->prompt].ids.count;
  return ie_state_length(w->job->state, s->sequence) < prompt_tok + (int64_t)g->ids.count;
}

/* The forward of the last tokens of all prompts that ended in this step, then their end. */
static ie_status ended_finish(window *w, ie_error *error) {
  infer_job *job = w->job;
  enum { TOGETHER = 64 };
  int32_t sequence[TOGETHER], id[TOGETHER];
  ie_status status = IE_OK;
  for (size_t begin = 0; begin < w->slot_count && status == IE_OK; begin += TOGETHER) {
    size_t end = begin + TOGETHER < w->slot_count ? begin + TOGETHER : w->slot_count;
    int64_t n = 0;
    bool unread[TOGETHER] = {false};
    for (size_t i = begin; i < end; i++) {
      const slot *s = &w->slots[i];
      if (!s->used || !last_unread(w, s)) continue;
      unread[i - begin] = true;
      sequence[n] = (int32_t)s->sequence;
      id[n++] = s->result.ids.ids[s->result.ids.count - 1];
    }
    double start = cli_clock_s(), last_s;
    const float *logits;
    if (n > 0) status = ie_state_step(job->state, sequence, id, n, &logits, error);
    last_s = cli_clock_s() - start;
    job->decode_s += n > 0 ? last_s : 0;
    for (size_t i = begin; i < end && status == IE_OK; i++)
      if (w->slots[i].used && w->slots[i].ended)
        status = slot_finish(w, &w->slots[i], unread[i - begin] ? last_s : -1, error);
  }
  return status;
}

/* --- Steps --------------------------------------------------------------------------------------------------------------- */

static bool stop_wanted(void *arg) {
  (void)arg;
  return cli_interrupted();
}

/* Says which prompt an error is about, where there are several. */
static ie_status prompt_error(const window *w, size_t prompt, const ie_error *cause, ie_error *error) {
  ie_error copy = *cause;
  if (w->job->prompts.count > 1)
    return ie_error_set(error, copy.status, "prompt %zu: %s", prompt, copy.message);
  *error = copy;
  return copy.status;
}

/* Submits prompts of the round as long as there is a place. */
static ie_status prompts_begin(window *w, ie_error *error) {
  infer_job *job = w->job;
  ie_status status = IE_OK;
  for (size_t i = 0; i < w->slot_count && status == IE_OK && w->next < job->prompts.count; i++) {
    slot *s = &w->slots[i];
    if (s->used || cli_interrupted()) continue;
    const ie_ids *ids = &job->prompts.items[w->next].ids;
    ie_generate_options o = {.prompt = ids->ids,
                             .prompt_count = (int64_t)ids->count,
                             .max_new = job->setup.flags->max_new,
                             .sample = job->setup.sample,
                             .row = w->next,
                             .tokenizer = job->tokenizer,
                             .ignore_eos = job->setup.flags->ignore_eos,
                             .logprobs = (int)job->setup.topk};
    *s = (slot){.prompt = w->next, .token_between = s->token_between, .started_s = cli_clock_s()};
    s->between_s = -1; /* until its first step */
    status = ie_scheduler_submit(w->scheduler, &o, &s->request, error);
    if (status != IE_OK) return prompt_error(w, w->next, error, error);
    s->used = true;
    w->active++;
    w->next++;
  }
  return status;
}

static slot *slot_of(window *w, uint64_t request) {
  size_t i = 0;
  while (!w->slots[i].used || w->slots[i].request != request) i++;
  return &w->slots[i];
}

static ie_status event_take(window *w, const ie_event *event, ie_error *error) {
  infer_job *job = w->job;
  slot *s = slot_of(w, event->request);
  if (event->ended && event->status != IE_OK) return prompt_error(w, s->prompt, &event->error, error);
  if (event->id >= 0) {
    double touched = job->touch.seconds;
    infer_touch_token(&job->touch);
    s->touch_s += job->touch.seconds - touched;
    token_log(w, s, event);
    s->token_between[s->tokens++] = w->between_s - s->between_s;
    s->between_s = w->between_s;
  }
  if (!event->ended) return IE_OK;
  s->ended = true;
  s->sequence = event->sequence;
  s->result = *event->result;
  *event->result = (ie_generate_result){0};
  return IE_OK;
}

/* One step counts as decode when anyone writes already, else as prefill. */
static size_t step_compute(window *w, const ie_event **events) {
  bool writing = false;
  double start = cli_clock_s();
  w->between_s += start - w->step_end_s;
  for (size_t i = 0; i < w->slot_count; i++) {
    slot *s = &w->slots[i];
    if (s->used && s->between_s < 0) s->between_s = w->between_s;
    if (s->used && s->tokens > 0) writing = true;
  }
  size_t count = ie_scheduler_step(w->scheduler, stop_wanted, NULL, events);
  w->step_end_s = cli_clock_s();
  *(writing ? &w->job->decode_s : &w->job->prefill_s) += w->step_end_s - start;
  return count;
}

static ie_status round_run(window *w, ie_error *error) {
  ie_status status = IE_OK;
  w->next = w->traced = 0;
  while (status == IE_OK) {
    const ie_event *events;
    status = prompts_begin(w, error);
    if (status != IE_OK || w->active == 0) break;
    size_t count = step_compute(w, &events);
    for (size_t i = 0; i < count && status == IE_OK; i++) status = event_take(w, &events[i], error);
    if (status == IE_OK) status = ended_finish(w, error);
    if (status == IE_OK) status = trace_go_on(w, error);
  }
  return status;
}

/* --- All of it ------------------------------------------------------------------------------------------------------------ */

static ie_status window_open(window *w, ie_error *error) {
  infer_job *job = w->job;
  ie_status status = trace_open(job, error);
  if (status == IE_OK) status = ie_scheduler_new(job->state, &w->scheduler, error);
  if (status != IE_OK) return status;
  w->slot_count = (size_t)ie_state_sequences(job->state);
  w->slots = calloc(w->slot_count, sizeof *w->slots);
  int64_t room = ie_state_context(job->state), most = job->setup.flags->max_new;
  size_t token_room = (size_t)(most < room ? most : room) + 1;
  for (size_t i = 0; w->slots && i < w->slot_count; i++) {
    w->slots[i].token_between = malloc(token_room * sizeof(double));
    if (!w->slots[i].token_between) return memory_error(error, "token times");
  }
  return w->slots ? IE_OK : memory_error(error, "prompts");
}

static void window_close(window *w) {
  for (size_t i = 0; w->slots && i < w->slot_count; i++) {
    ie_generate_result_free(&w->slots[i].result);
    free(w->slots[i].token_between);
  }
  free(w->slots);
  ie_scheduler_free(w->scheduler);
}

ie_status infer_window_run(infer_job *job, ie_error *error) {
  window w = {.job = job};
  ie_status status = window_open(&w, error);
  double start = cli_clock_s();
  w.step_end_s = start;
  for (; status == IE_OK && w.round < job->prompts.rounds && !cli_interrupted(); w.round++)
    status = round_run(&w, error);
  job->wall_s = cli_clock_s() - start;
  window_close(&w);
  return status;
}
