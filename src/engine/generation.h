/* One generation under way, without its forwards: history, sampler, text, stop rules. ie_generate and the scheduler
 * compute logits and hand them in. */
#ifndef CLOCHER_ENGINE_GENERATION_H
#define CLOCHER_ENGINE_GENERATION_H

#include "engine/sampler.h"
#include "engine/state.h"

typedef struct ie_generation {
  const ie_model *model;
  ie_generate_options options; /* prompt: the beginning of history */
  ie_generate_result result;
  ie_sampler *sampler; /* borrowed; set by ie_generation_start */
  int32_t *history;    /* (prompt_count), then (prompt_count + max_new): the prompt and what was written */
  ie_detokenizer stream;
  size_t shown;                  /* bytes of the text that may be shown */
  size_t fresh_begin, fresh_end; /* of them, what the last id or the end brought */
  int32_t drawn;                 /* the next id, when the forward drew it */
  double started, last;
} ie_generation;

/* Checks the options against the state and copies the prompt: one that waits takes no more memory. Close it in any case;
 * *generation starts all-zero. */
ie_status ie_generation_open(ie_generation *generation, const ie_state *state,
                             const ie_generate_options *options, ie_error *error);
/* What a generation under way takes at most, logprobs and text left out: its sampler, history and times. */
size_t ie_generation_bytes(int64_t vocab, int64_t context);
/* A sampler for generations over this state, one at a time; the caller's. */
ie_status ie_generation_sampler(const ie_state *state, ie_sampler **out, ie_error *error);
/* Takes the memory for what will be written, and gives the sampler, of the model's vocabulary, the options' settings.
 * The clocks of the result start here. */
ie_status ie_generation_start(ie_generation *generation, ie_sampler *sampler, ie_error *error);
/* Whether its next id can be drawn where the state's forwards run: what is told of logits needs them on the host. */
bool ie_generation_draws(const ie_generation *generation, const ie_state *state);
/* How its next id is to be drawn there. */
ie_draw_row ie_generation_draw(const ie_generation *generation);
/* Draws the next id from logits (vocab), or takes `drawn` (logits NULL), and records id and text; *ended by a stop id or a
 * stop string. */
ie_status ie_generation_take(ie_generation *generation, const float *logits, bool *ended, ie_error *error);
/* True when max_new ids are there. */
bool ie_generation_full(const ie_generation *generation);
/* Text that was held back, when nothing more will come: becomes fresh. */
ie_status ie_generation_finish(ie_generation *generation, ie_error *error);
/* Frees everything; the result too unless it was moved out. */
void ie_generation_close(ie_generation *generation);

#endif
