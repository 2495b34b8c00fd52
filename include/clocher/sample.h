/* Sampling: from one row of logits to a distribution, and to one token.
 *
 * A sampler is a list of steps that run in the given order over one row of scores; ie_sample_default_steps makes
 * transformers' list in transformers' order (repetition penalty, temperature, top-k, top-p, min-p), and after the
 * last step softmax. What each built-in step does (transformers/generation/logits_process.py):
 *
 *   repetition penalty r   each id of the history: score < 0 ? score * r : score / r, once however often seen
 *   temperature t          score / t
 *   top-k k                keeps the k largest; all that equal the k-th stay
 *   top-p p                keeps a score when the probabilities of all larger ones sum to less than p
 *   min-p m                keeps a score when its probability is at least m times the largest
 *
 * A draw is a function of (logits, steps, history, seed, step, row) alone: it uses a counter-based generator and
 * an exponential of our own, so that equal logits give equal tokens on every machine.
 * A NaN or +infinity among the logits is IE_NUMERIC, with its index; -infinity is a masked token.
 *
 * Ownership: the caller frees what _new made. Thread safety: a sampler has scratch memory for one row and belongs
 * to one thread at a time; it may serve any number of rows one after the other. No call after _new allocates. */
#ifndef CLOCHER_SAMPLE_H
#define CLOCHER_SAMPLE_H

#include "clocher/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* What a step of one's own sees: the candidates that are left and what was said before. */
typedef struct ie_sample_row {
  float *scores;       /* (count) may be changed; -infinity masks */
  const int32_t *ids;  /* (count) ascending; NULL: candidate i is id i */
  int64_t count;       /* > 0 */
  const int32_t *seen; /* (seen_count) the history */
  size_t seen_count;
  uint64_t step; /* number of the token that is drawn */
} ie_sample_row;

typedef enum ie_sample_kind {
  IE_SAMPLE_REPETITION_PENALTY, /* value > 0 */
  IE_SAMPLE_TEMPERATURE,        /* value > 0 */
  IE_SAMPLE_TOP_K,              /* value >= 1, an integer */
  IE_SAMPLE_TOP_P,              /* 0 <= value <= 1; 1 keeps all */
  IE_SAMPLE_MIN_P,              /* 0 <= value <= 1 */
  IE_SAMPLE_CUSTOM              /* apply(state, row, error) */
} ie_sample_kind;

typedef struct ie_sample_step {
  ie_sample_kind kind;
  double value;
  ie_status (*apply)(void *state, ie_sample_row *row, ie_error *error); /* IE_SAMPLE_CUSTOM only */
  void *state;                                                          /* the caller's */
} ie_sample_step;

/* The usual settings. Zero in a field: that step is absent. */
typedef struct ie_sample_params {
  bool greedy; /* the largest score after the steps, not a draw */
  double repetition_penalty;
  double temperature;
  int64_t top_k;
  double top_p;
  double min_p;
  uint64_t seed;
} ie_sample_params;

enum { IE_SAMPLE_DEFAULT_STEPS = 5 };

/* Writes the steps that `params` asks for in transformers' order and returns how many. */
size_t ie_sample_default_steps(const ie_sample_params *params, ie_sample_step steps[IE_SAMPLE_DEFAULT_STEPS]);

typedef struct ie_sampler ie_sampler;

typedef struct ie_sampler_config {
  const ie_sample_step *steps; /* (step_count), copied */
  size_t step_count;
  int64_t vocab; /* the largest row that will come */
  uint64_t seed;
  bool greedy; /* the largest score after the steps (its first index), not a draw */
} ie_sampler_config;

/* IE_INVALID_ARGUMENT names a value that is out of range. */
ie_status ie_sampler_new(const ie_sampler_config *config, ie_sampler **out, ie_error *error);
/* The same with the default steps of params. */
ie_status ie_sampler_new_default(const ie_sample_params *params, int64_t vocab, ie_sampler **out,
                                 ie_error *error);
void ie_sampler_free(ie_sampler *sampler);

/* One row of logits and where it stands. */
typedef struct ie_sample_input {
  const float *logits; /* (vocab) */
  int64_t vocab;       /* <= the sampler's */
  const int32_t *seen; /* (seen_count) ids so far, prompt included; each in [0, vocab) */
  size_t seen_count;
  uint64_t step; /* counts the draws of one sequence */
  uint64_t row;  /* tells the sequences of a batch apart */
} ie_sample_input;

/* probs (vocab): the distribution after all steps; it sums to 1, what was cut is 0. With `greedy`: 1 and zeros. */
ie_status ie_sampler_probs(ie_sampler *sampler, const ie_sample_input *input, float *probs, ie_error *error);

/* Draws one id. */
ie_status ie_sampler_draw(ie_sampler *sampler, const ie_sample_input *input, int32_t *id, ie_error *error);

/* Draws `count` ids of the same row, numbered step, step + 1, ...: what as many calls of ie_sampler_draw give. */
ie_status ie_sampler_draw_many(ie_sampler *sampler, const ie_sample_input *input, int32_t *ids, size_t count,
                               ie_error *error);

enum { IE_SAMPLE_TOP_MAX = 256 };

/* The caller's memory for the most probable ids: count <= IE_SAMPLE_TOP_MAX and <= vocab. */
typedef struct ie_sample_top {
  size_t count;
  int32_t *ids;    /* (count) */
  float *logprobs; /* (count) */
} ie_sample_top;

/* log softmax of the raw logits, before any step: *logprob (may be NULL) of `id`, and the top->count largest
 * (top may be NULL), largest first, the lower id first among equals. */
ie_status ie_sampler_logprobs(ie_sampler *sampler, const ie_sample_input *input, int32_t id, float *logprob,
                              ie_sample_top *top, ie_error *error);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
