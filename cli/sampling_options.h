/* The sampling flags that commands share: --greedy, --temperature, --top-k, --top-p, --min-p, --repetition-penalty,
 * --seed, and what they make of ie_sample_params. */
#ifndef CLOCHER_CLI_SAMPLING_OPTIONS_H
#define CLOCHER_CLI_SAMPLING_OPTIONS_H

#include "cli.h"
#include "clocher/sample.h"

typedef struct sampling_settings {
  double temperature, top_p, min_p, repetition_penalty;
  int64_t top_k, seed;
  bool greedy;
} sampling_settings;

/* The entries of a command's option table; field is the sampling_settings within its settings. */
#define SAMPLING_OPTIONS(settings, field)                                                                    \
  {"--greedy", CLI_AS_FLAG(settings, field.greedy),                                                          \
   .meaning = "Take the most probable token instead of drawing."},                                           \
      {"--temperature",                                                                                      \
       CLI_AS_FLOAT(settings, field.temperature),                                                            \
       .argument = "F",                                                                                      \
       .fallback = "1",                                                                                      \
       .min = 0,                                                                                             \
       .max = 1e6,                                                                                           \
       .meaning = "Divides the logits; 0 is --greedy."},                                                     \
      {"--top-k",                                                                                            \
       CLI_AS_INT(settings, field.top_k),                                                                    \
       .argument = "N",                                                                                      \
       .fallback = "0",                                                                                      \
       .min = 0,                                                                                             \
       .max = 1 << 30,                                                                                       \
       .meaning = "Draw from the N largest; 0: all."},                                                       \
      {"--top-p",                                                                                            \
       CLI_AS_FLOAT(settings, field.top_p),                                                                  \
       .argument = "F",                                                                                      \
       .fallback = "1",                                                                                      \
       .min = 0,                                                                                             \
       .max = 1,                                                                                             \
       .meaning = "Draw from the most probable tokens that together reach F."},                              \
      {"--min-p",                                                                                            \
       CLI_AS_FLOAT(settings, field.min_p),                                                                  \
       .argument = "F",                                                                                      \
       .fallback = "0",                                                                                      \
       .min = 0,                                                                                             \
       .max = 1,                                                                                             \
       .meaning = "Draw from tokens at least F times as probable as the best."},                             \
      {"--repetition-penalty",                                                                               \
       CLI_AS_FLOAT(settings, field.repetition_penalty),                                                     \
       .argument = "F",                                                                                      \
       .fallback = "1",                                                                                      \
       .min = 1e-6,                                                                                          \
       .max = 1e6,                                                                                           \
       .meaning = "Above 1: tokens that stand in the prompt or were written become rarer."},                 \
  {                                                                                                          \
    "--seed", CLI_AS_INT(settings, field.seed),                                                              \
        .argument = "N", .fallback = "0",                                                                    \
        .meaning =                                                                                           \
            "Another seed, other draws. A draw depends on the logits, the settings, the seed, the place "    \
            "in the context and the row alone: a restored run goes on as the whole one would."               \
  }

/* Values that mean "off" make no step; temperature 0 and top-p 0 leave the best token alone. */
ie_sample_params sampling_params(const sampling_settings *settings);

/* Logs each flag that was given although nothing is drawn. */
void sampling_unused_log(const cli_context *context, const sampling_settings *settings);

#endif
