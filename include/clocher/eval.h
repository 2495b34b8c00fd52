/* Evaluation: how well a model predicts a text, and how far two models are apart.
 *
 * Perplexity is measured as the guide "Perplexity of fixed-length models" of Hugging Face's transformers does: a window of
 * window_tok tokens moves over the text by stride_tok. Each window is computed from an empty cache. The first one counts
 * all its targets, later ones those that no window before had: the last stride_tok. A target is predicted from the
 * tokens before it in its window, so a window's first token is no target; with stride_tok = window_tok one token of each
 * window is not measured. The guide weighs each window by its targets less one; here each target counts once.
 *
 * Arithmetic: logits as the state computes them, sums in f64: exponentials in f32 (at most 1 ulp off), added in f64. The sum
 * over the text is in the order of its tokens, so the results depend on chunks and batch only as the logits do.
 *
 * Thread safety: an evaluation is an operation of its states and their devices. */
#ifndef CLOCHER_EVAL_H
#define CLOCHER_EVAL_H

#include "clocher/generate.h"

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct ie_perplexity_options {
  const int32_t *ids; /* (count) the text; all below the vocabulary */
  const int32_t
      *id_bytes; /* (count) bytes of the text that each token stands for, 0 or more; NULL: not counted */
  int64_t count; /* 2 or more */
  /* Where each of several documents begins, (documents) from 0 ascending: no window reaches over the end of one, each
   * begins with an empty cache, and its first token is no target. NULL: one document. */
  const int64_t *document;
  int64_t documents;
  int64_t window_tok; /* 2 or more */
  int64_t stride_tok; /* 1 to window_tok */
  /* May be NULL. Called from the calling thread before each layer of each forward, with the tokens that are computed (by
   * both models). False stops: IE_CANCELLED. */
  bool (*progress)(void *user, int64_t done_tok, int64_t total_tok);
  void *user;
} ie_perplexity_options;

typedef struct ie_perplexity_result {
  int64_t windows;
  int64_t tokens;       /* targets */
  int64_t bytes;        /* of the targets; 0 without id_bytes */
  double nll_sum;       /* -ln p of all targets, in nats */
  double nll_nats, ppl; /* per target, and e to its power */
  double bits_per_byte; /* nll_sum / ln 2 / bytes; 0 when no bytes are counted */
  /* With a second model, else 0. P is the first model's distribution at a position, Q the second one's; over the targets'
   * positions. */
  double kl_mean;        /* of KL(P || Q) = sum over the vocabulary of P ln (P / Q), in nats; at least 0 */
  double kl_p99;         /* 99% of the positions are not above it (nearest rank) */
  double top1_agreement; /* share of the positions where P and Q have the same most likely token */
} ie_perplexity_result;

/* Windows with a target that a text of one document has; 0 when the arguments are out of range. */
int64_t ie_perplexity_windows(int64_t count, int64_t window_tok, int64_t stride_tok);

/* Measures. What the sequences of the states held is forgotten; each has as many of them as windows are computed
 * together, and a context of least(window_tok, count) - 1 positions or more. against may be NULL: the state of a second
 * model with the same vocabulary; it may use the same device. IE_INVALID_ARGUMENT for what is out of range; IE_NUMERIC
 * when a target has no probability at all, or the perplexity no finite value; errors of ie_state_advance. */
ie_status ie_perplexity(ie_state *state, ie_state *against, const ie_perplexity_options *options,
                        ie_perplexity_result *out, ie_error *error);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
