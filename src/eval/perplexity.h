/* Inside of an evaluation of perplexity: which tokens a window has, and what one position says. The public part is
 * clocher/eval.h. */
#ifndef CLOCHER_EVAL_PERPLEXITY_H
#define CLOCHER_EVAL_PERPLEXITY_H

#include "clocher/eval.h"
#include "kernels/kern.h"

/* Tokens [begin, end) of the text; [target, end) are its targets. */
typedef struct ie_window {
  int64_t begin, end, target;
} ie_window;

/* Window `index` of a document that is tokens [begin, begin + count) of the text. */
ie_window ie_window_at(const ie_perplexity_options *options, int64_t begin, int64_t count, int64_t index);

typedef struct ie_position_score {
  double nll;
  double kl; /* not less than 0; 0 without a second model */
  bool agree;
} ie_position_score;

/* logits and other (NULL: one model alone): (vocab). */
ie_position_score ie_position_measure(const ie_kernels *kernels, const float *logits, const float *other,
                                      int64_t vocab, int32_t target);

#endif
