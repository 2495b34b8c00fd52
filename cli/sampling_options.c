#include "sampling_options.h"

#include <string.h>

static bool is_greedy(const sampling_settings *s) {
  return s->greedy || s->temperature == 0 || s->top_p == 0;
}

ie_sample_params sampling_params(const sampling_settings *s) {
  ie_sample_params p = {.greedy = is_greedy(s), .seed = (uint64_t)s->seed};
  if (s->repetition_penalty != 1) p.repetition_penalty = s->repetition_penalty;
  if (p.greedy) return p;
  if (s->temperature != 1) p.temperature = s->temperature;
  p.top_k = s->top_k;
  if (s->top_p != 1) p.top_p = s->top_p;
  p.min_p = s->min_p;
  return p;
}

void sampling_unused_log(const cli_context *context, const sampling_settings *s) {
  static const char *const drawing[] = {"--temperature", "--top-k", "--top-p", "--min-p", "--seed"};
  if (!is_greedy(s)) return;
  const char *cause = s->greedy ? "--greedy" : s->temperature == 0 ? "--temperature" : "--top-p";
  const char *why = s->greedy ? "--greedy" : s->temperature == 0 ? "--temperature 0" : "--top-p 0";
  for (size_t i = 0; i < sizeof drawing / sizeof *drawing; i++)
    if (strcmp(cause, drawing[i]) != 0 && cli_given(context, drawing[i]))
      cli_log(context, "clocher: %s is ignored: %s", drawing[i], why);
}
