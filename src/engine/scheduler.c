/* Many generations over one state. Manual: clocher/scheduler.h. */
#include "clocher/scheduler.h"

#include "base/clock.h"
#include "base/size.h"
#include "engine/generation.h"

#include <stdlib.h>
#include <string.h>

typedef struct request {
  uint64_t id;
  ie_generation g;
  int64_t sequence; /* -1: waits */
  int64_t read;     /* tokens of the prompt that the sequence holds */
  bool cancelled;
  struct request *next; /* in the queue, or in the list of those that have ended */
} request;

struct ie_scheduler {
  ie_state *state;
  int64_t sequences;
  request **running; /* (sequences), oldest first */
  size_t running_count;
  bool *taken;           /* (sequences) */
  ie_sampler **samplers; /* (sequences) whoever has the sequence uses its sampler */
  ie_advance *rows;      /* (sequences) of the forward, and whose they are */
  request **owner;
  ie_draw_row *draws;     /* (sequences) of the rows that want an id */
  request *first, **last; /* the queue */
  size_t waiting_count;
  request *ended; /* in the last step: their events are still looked at */
  ie_event *events;
  size_t event_count, event_room;
  uint64_t next_id;
  ie_scheduler_work work;
};

/* --- Life ------------------------------------------------------------------------------------------------ */

static void request_free(request *q) {
  ie_generation_close(&q->g);
  free(q);
}

static void list_free(request *q) {
  while (q) {
    request *next = q->next;
    request_free(q);
    q = next;
  }
}

ie_status ie_scheduler_new(ie_state *state, ie_scheduler **out, ie_error *error) {
  *out = NULL;
  ie_scheduler *s = calloc(1, sizeof *s);
  if (!s) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a scheduler");
  size_t n = (size_t)state->sequences;
  s->state = state;
  s->sequences = state->sequences;
  s->last = &s->first;
  s->running = calloc(n, sizeof(request *));
  s->taken = calloc(n, sizeof *s->taken);
  s->rows = calloc(n, sizeof *s->rows);
  s->owner = calloc(n, sizeof(request *));
  s->draws = calloc(n, sizeof *s->draws);
  s->samplers = calloc(n, sizeof(ie_sampler *));
  ie_status status = IE_OK;
  if (!s->running || !s->taken || !s->rows || !s->owner || !s->draws || !s->samplers)
    status = ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a scheduler of %zu sequences", n);
  for (size_t i = 0; i < n && status == IE_OK; i++)
    status = ie_generation_sampler(state, &s->samplers[i], error);
  if (status != IE_OK) {
    ie_scheduler_free(s);
    return status;
  }
  *out = s;
  return IE_OK;
}

void ie_scheduler_free(ie_scheduler *s) {
  if (!s) return;
  for (size_t i = 0; i < s->running_count; i++) request_free(s->running[i]);
  list_free(s->first);
  list_free(s->ended);
  for (int64_t i = 0; s->samplers && i < s->sequences; i++) ie_sampler_free(s->samplers[i]);
  free(s->samplers);
  free(s->running);
  free(s->taken);
  free(s->rows);
  free(s->owner);
  free(s->draws);
  free(s->events);
  free(s);
}

size_t ie_scheduler_running(const ie_scheduler *s) {
  return s->running_count;
}
size_t ie_scheduler_waiting(const ie_scheduler *s) {
  return s->waiting_count;
}
ie_scheduler_work ie_scheduler_work_done(const ie_scheduler *s) {
  return s->work;
}

/* --- Requests -------------------------------------------------------------------------------------------- */

/* A step gives each request two events at most (a token, then its end): with this room it needs no memory. */
static bool events_room(ie_scheduler *s) {
  size_t needed = 2 * (s->running_count + s->waiting_count + 1);
  if (s->event_room >= needed) return true;
  size_t room = needed * 2;
  ie_event *events = realloc(s->events, room * sizeof *events);
  if (!events) return false;
  s->events = events;
  s->event_room = room;
  return true;
}

ie_status ie_scheduler_submit(ie_scheduler *s, const ie_generate_options *options, uint64_t *id,
                              ie_error *error) {
  *id = 0;
  if (options->on_token || options->cancelled)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "a scheduler's request has events instead of on_token and cancelled");
  if (!events_room(s)) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a request");
  request *q = calloc(1, sizeof *q);
  if (!q) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a request");
  ie_status status = ie_generation_open(&q->g, s->state, options, error);
  if (status == IE_OK) status = ie_state_ids_check(s->state, options->prompt, options->prompt_count, error);
  if (status != IE_OK) {
    request_free(q);
    return status;
  }
  *id = q->id = ++s->next_id;
  q->sequence = -1;
  *s->last = q;
  s->last = &q->next;
  s->waiting_count++;
  return IE_OK;
}

void ie_scheduler_cancel(ie_scheduler *s, uint64_t id) {
  for (size_t i = 0; i < s->running_count; i++)
    if (s->running[i]->id == id) s->running[i]->cancelled = true;
  for (request *q = s->first; q; q = q->next)
    if (q->id == id) q->cancelled = true;
}

void ie_scheduler_cancel_all(ie_scheduler *s) {
  for (size_t i = 0; i < s->running_count; i++) s->running[i]->cancelled = true;
  for (request *q = s->first; q; q = q->next) q->cancelled = true;
}

/* --- Events ---------------------------------------------------------------------------------------------- */

static ie_event *event_add(ie_scheduler *s, const request *q) {
  ie_event *event = &s->events[s->event_count++];
  *event =
      (ie_event){.request = q->id, .id = -1, .text = "", .begun = q->sequence >= 0, .sequence = q->sequence};
  return event;
}

/* The text between two places of the result. */
static void event_text(ie_event *event, const request *q, size_t begin, size_t end) {
  if (end > begin) event->text = q->g.result.text.data + begin;
  event->size = end - begin;
}

/* The request has ended; it stays until its event was looked at. */
static void request_end(ie_scheduler *s, request *q, ie_event *event) {
  event->ended = true;
  event->result = event->status == IE_OK ? &q->g.result : NULL;
  if (q->sequence >= 0) {
    size_t at = 0;
    while (s->running[at] != q) at++;
    memmove(&s->running[at], &s->running[at + 1], (s->running_count - at - 1) * sizeof(request *));
    s->running_count--;
    s->taken[q->sequence] = false;
  }
  q->next = s->ended;
  s->ended = q;
}

/* Ends a request that was stopped or is complete: what was held back of its text may be shown. `begin`: where the
 * event's text begins. */
static void request_finish(ie_scheduler *s, request *q, ie_event *event, size_t begin) {
  event->status = ie_generation_finish(&q->g, &event->error);
  event_text(event, q, begin, q->g.fresh_end);
  request_end(s, q, event);
}

static void request_stop(ie_scheduler *s, request *q) {
  q->g.result.reason = IE_STOP_CANCELLED;
  request_finish(s, q, event_add(s, q), q->g.shown);
}

static void request_fail(ie_scheduler *s, request *q, ie_status status, const ie_error *error) {
  ie_event *event = event_add(s, q);
  event->status = status;
  event->error = *error;
  request_end(s, q, event);
}

static void cancelled_end(ie_scheduler *s) {
  for (size_t i = 0; i < s->running_count;) {
    request *q = s->running[i];
    if (q->cancelled)
      request_stop(s, q); /* the next one moves to place i */
    else
      i++;
  }
  for (request **at = &s->first; *at;) {
    request *q = *at;
    if (!q->cancelled) {
      at = &q->next;
      continue;
    }
    *at = q->next;
    if (!*at) s->last = at;
    s->waiting_count--;
    request_stop(s, q);
  }
}

/* --- Admission ------------------------------------------------------------------------------------------- */

/* The free sequence that holds most of the prompt's beginning; -1: none is free. */
static int64_t sequence_choose(const ie_scheduler *s, const request *q) {
  int64_t best = -1, most = -1;
  for (int64_t i = 0; i < s->sequences; i++) {
    if (s->taken[i]) continue;
    const int32_t *held = ie_state_ids(s->state, i);
    int64_t common = 0, limit = ie_min_i64(ie_state_length(s->state, i), q->g.options.prompt_count - 1);
    while (common < limit && held[common] == q->g.history[common]) common++;
    if (common > most) {
      best = i;
      most = common;
    }
  }
  return best;
}

static void requests_admit(ie_scheduler *s) {
  while (s->first) {
    request *q = s->first;
    ie_error error;
    int64_t sequence = sequence_choose(s, q);
    if (sequence < 0) return;
    s->first = q->next;
    if (!s->first) s->last = &s->first;
    s->waiting_count--;
    ie_status status = ie_generation_start(&q->g, s->samplers[sequence], &error);
    if (status == IE_OK)
      status = ie_state_sync(s->state, sequence, q->g.history, q->g.options.prompt_count, &q->read, &error);
    if (status != IE_OK) { /* no memory for it now; others may need less */
      request_fail(s, q, status, &error);
      continue;
    }
    q->sequence = sequence;
    q->g.result.reused_prompt_tok = q->read;
    s->taken[sequence] = true;
    s->running[s->running_count++] = q;
  }
}

/* --- One forward ----------------------------------------------------------------------------------------- */

/* The rows of the next forward: one token of each request that writes, and prompts while there is room. *prompts: of
 * them, tokens of prompts. */
static int64_t rows_choose(ie_scheduler *s, int64_t *prompts) {
  int64_t n = 0, room = ie_state_forward_tok(s->state);
  *prompts = 0;
  for (size_t i = 0; i < s->running_count; i++) {
    request *q = s->running[i];
    if (q->read < q->g.options.prompt_count) continue;
    int64_t at = q->g.options.prompt_count + (int64_t)q->g.result.ids.count - 1;
    s->owner[n] = q;
    s->rows[n++] = (ie_advance){.sequence = q->sequence, .ids = &q->g.history[at], .count = 1, .wanted = 1};
    room--;
  }
  for (size_t i = 0; i < s->running_count && room > 0; i++) {
    request *q = s->running[i];
    int64_t left = q->g.options.prompt_count - q->read;
    if (left == 0) continue;
    int64_t count = ie_min_i64(ie_min_i64(left, room), ie_state_chunk(s->state));
    s->owner[n] = q;
    s->rows[n++] = (ie_advance){.sequence = q->sequence,
                                .ids = &q->g.history[q->read],
                                .count = count,
                                .wanted = count == left ? 1 : 0};
    room -= count;
    *prompts += count;
  }
  return n;
}

/* The logits of a row are there: its next token, and what follows from it. */
static void row_take(ie_scheduler *s, request *q, const ie_advance *row) {
  ie_generation *g = &q->g;
  ie_error error;
  if (q->read < g->options.prompt_count) {
    q->read += row->count;
    g->result.computed_prompt_tok += row->count;
    s->work.prompt_tok += row->count;
    if (row->wanted == 0) return;
    g->result.prefill_s = ie_clock_s() - g->started;
  }
  bool ended = ie_generation_full(g); /* max_new 0: the prompt alone was wanted */
  int32_t id = -1;
  size_t begin = g->shown;
  if (!ended) {
    ie_status status = ie_generation_take(g, row->logits, &ended, &error);
    if (status != IE_OK) {
      request_fail(s, q, status, &error);
      return;
    }
    id = g->result.ids.ids[g->result.ids.count - 1];
  }
  ie_event *event = event_add(s, q);
  event->id = id;
  if (ended || ie_generation_full(g))
    request_finish(s, q, event, begin);
  else
    event_text(event, q, begin, g->fresh_end);
}

static uint64_t bytes_read(const ie_scheduler *s) {
  ie_state_work work = ie_state_work_done(s->state);
  return work.weight_bytes + work.kv_bytes;
}

/* One forward over rows [first, first + n). Where each of those that want logits can do with an id, the device draws. */
static ie_status rows_advance(ie_scheduler *s, int64_t first, int64_t n, const ie_forward_options *options,
                              ie_error *error) {
  int64_t wanted = 0;
  bool draws = true;
  for (int64_t i = first; i < first + n; i++) {
    const ie_generation *g = &s->owner[i]->g;
    if (s->rows[i].wanted == 0) continue;
    s->draws[wanted++] = ie_generation_draw(g);
    draws = draws && ie_generation_draws(g, s->state);
  }
  draws = draws && wanted > 0;
  ie_state_draw_next(s->state, draws ? s->draws : NULL, draws ? wanted : 0);
  ie_status status = ie_state_advance(s->state, s->rows + first, n, options, error);
  ie_state_draw_next(s->state, NULL, 0);
  for (int64_t i = first, at = 0; draws && i < first + n; i++)
    if (s->rows[i].wanted > 0) s->owner[i]->g.drawn = s->draws[at++].id;
  return status;
}

/* Computes rows and hands out their logits; after a failure of several, each alone. *bytes: what the forwards read whose
 * logits were used; *tokens of them. False: it was cancelled. */
static bool rows_compute(ie_scheduler *s, int64_t n, const ie_forward_options *options, uint64_t *bytes,
                         int64_t *tokens) {
  ie_error error;
  uint64_t before = bytes_read(s);
  ie_status status = rows_advance(s, 0, n, options, &error);
  if (status == IE_CANCELLED) return false;
  if (status == IE_OK) {
    *bytes = bytes_read(s) - before;
    *tokens = n;
    for (int64_t i = 0; i < n; i++) row_take(s, s->owner[i], &s->rows[i]);
    return true;
  }
  for (int64_t i = 0; i < n; i++) {
    before = bytes_read(s);
    if (n > 1) status = rows_advance(s, i, 1, options, &error);
    if (status == IE_CANCELLED) return false;
    if (status != IE_OK) {
      request_fail(s, s->owner[i], status, &error);
      continue;
    }
    *bytes += bytes_read(s) - before;
    ++*tokens;
    row_take(s, s->owner[i], &s->rows[i]);
  }
  return true;
}

size_t ie_scheduler_step(ie_scheduler *s, bool (*cancelled)(void *arg), void *arg, const ie_event **events) {
  double start = ie_clock_s();
  uint64_t bytes = 0;
  int64_t prompts = 0, tokens = 0;
  list_free(s->ended);
  s->ended = NULL;
  s->event_count = 0;
  cancelled_end(s);
  requests_admit(s);
  int64_t n = rows_choose(s, &prompts);
  ie_forward_options options = {.cancelled = cancelled, .cancelled_arg = arg};
  bool stopped = cancelled && cancelled(arg);
  if (!stopped && n > 0) stopped = !rows_compute(s, n, &options, &bytes, &tokens);
  if (stopped) {
    ie_scheduler_cancel_all(s);
    cancelled_end(s);
  }
  double seconds = ie_clock_s() - start;
  if (prompts > 0) {
    s->work.prefill_s += seconds;
  } else {
    s->work.decode_s += seconds;
    s->work.decode_tok += tokens;
    s->work.decode_bytes += bytes;
  }
  *events = s->events;
  return s->event_count;
}
