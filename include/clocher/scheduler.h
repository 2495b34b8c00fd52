/* The scheduler: many generations over one state, computed together.
 *
 * A request waits until a sequence of the state is free, reads its prompt, writes its tokens and leaves; the next
 * waiting one takes its place, in the order of submission. Each step is one forward over all requests under way:
 * those that write take one token each, what is left of the forward is filled with prompt tokens, oldest request
 * first. A prompt that begins like what a free sequence still holds does not compute that part again.
 *
 * Every request has its own sampler, seed, stop rules and row number. Its answer does not depend on the others: equal
 * to ie_generate within rounding, and to the bit with ie_model_options.deterministic, as a draw is a function of
 * logits, settings, seed, step and row. A forward that fails (IE_NUMERIC) is repeated for each request alone, so that
 * one request's failure is not another's.
 *
 * Ownership: a scheduler borrows its state, all of whose sequences are its own until it is freed; requests borrow
 * their tokenizer and stop strings until they have ended, and copy the prompt. One thread at a time. */
#ifndef CLOCHER_SCHEDULER_H
#define CLOCHER_SCHEDULER_H

#include "clocher/generate.h"

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct ie_scheduler ie_scheduler;

/* Takes a sampler for each sequence of the state. A request that waits takes little more than its prompt; what its
 * tokens need is taken when it gets a sequence, and when that fails the request ends with IE_OUT_OF_MEMORY. */
ie_status ie_scheduler_new(ie_state *state, ie_scheduler **out, ie_error *error);
void ie_scheduler_free(ie_scheduler *scheduler);

/* Puts a request at the end of the queue; *id (from 1, never used again) names it. What cannot be computed is refused
 * here, as by ie_generate: IE_LIMIT for a prompt and max_new beyond the context, IE_INVALID_ARGUMENT for ids and
 * settings. on_token and cancelled are not for the scheduler and must be NULL: events and ie_scheduler_cancel take
 * their place. */
ie_status ie_scheduler_submit(ie_scheduler *scheduler, const ie_generate_options *options, uint64_t *id,
                              ie_error *error);

/* Ends a request at the next step, with what it has written; a request that has ended already is left alone. */
void ie_scheduler_cancel(ie_scheduler *scheduler, uint64_t id);
void ie_scheduler_cancel_all(ie_scheduler *scheduler);

/* What one step did for one request. Borrowed until the next call of step, submit or free. */
typedef struct ie_event {
  uint64_t request;
  int32_t id;       /* the new id; -1: none */
  const char *text; /* what may be shown now (may be empty; never half a character) */
  size_t size;
  bool ended; /* the last event of this request */
  /* Ended: how. IE_OK: the result, stopped as its reason says; else the failure, with its message. */
  ie_status status;
  ie_error error;
  bool begun;       /* ended: it had a sequence, so it is not one that was cancelled while it waited */
  int64_t sequence; /* -1: none. Ended: the sequence keeps its tokens until a next request takes it */
  ie_generate_result
      *result; /* ended with IE_OK: may be moved out (copy the struct, then zero it); else NULL */
} ie_event;

/* One step; returns how many *events there are, in the order of the
 * requests' progress: an id and its text, the end, or both in one. It cannot fail: requests that fail or are
 * cancelled say so in their events. `cancelled` (may be NULL) is asked before each layer: true ends all requests as
 * ie_scheduler_cancel_all does. */
size_t ie_scheduler_step(ie_scheduler *scheduler, bool (*cancelled)(void *arg), void *arg,
                         const ie_event **events);

/* Requests under way, and requests that wait. */
size_t ie_scheduler_running(const ie_scheduler *scheduler);
size_t ie_scheduler_waiting(const ie_scheduler *scheduler);

/* Time and work of all steps, split by kind: a step that computed any prompt token counts as prefill. Times count all;
 * decode's ids and bytes those of forwards that gave ids, not one that failed or was cancelled (ie_state_work_done has
 * the bytes of all). */
typedef struct ie_scheduler_work {
  double prefill_s, decode_s;
  int64_t prompt_tok;    /* computed, of steps with prompts */
  int64_t decode_tok;    /* ids of steps without */
  uint64_t decode_bytes; /* weights, keys and values that those steps read */
} ie_scheduler_work;
ie_scheduler_work ie_scheduler_work_done(const ie_scheduler *scheduler);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
