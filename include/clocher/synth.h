/* Synthetic checkpoints: full-size models of random weights in the layouts in which the real ones are published
 * (names, types, shapes, shards, config.json, generation_config.json), to measure and to test with where the real
 * weights are not at hand.
 *
 * What is written depends on architecture, layout, seed and layers alone, not on threads or machine. Weights are
 * drawn so that activations stay finite through every layer and the router spreads tokens over the experts: they
 * compute, they make no sense. gpt-oss of one seed is the same model in both layouts.
 *
 * Memory: a few MB a thread, whatever the size of the model. Thread safety: calls may run at the same time on
 * different folders. */
#ifndef CLOCHER_SYNTH_H
#define CLOCHER_SYNTH_H

#include "clocher/status.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* Called from the calling thread, some hundred times. False stops the writing: IE_CANCELLED. */
typedef bool (*ie_synth_progress)(void *user, uint64_t done_bytes, uint64_t total_bytes);

typedef struct ie_synth_options {
  const char *arch;   /* one of ie_synth_archs() */
  const char *layout; /* "hf", or "original" (gpt-oss: OpenAI's own names and config.json) */
  const char *dir;    /* made when missing; files of the same names in it are replaced */
  uint64_t seed;
  int layers;                 /* 0: as published; else fewer or more, for a smaller or larger model */
  int threads;                /* 0: one a core */
  ie_synth_progress progress; /* may be NULL */
  void *user;
} ie_synth_options;

/* Writes the checkpoint, each file atomically, config.json last: a folder with a config.json is complete.
 * IE_INVALID_ARGUMENT for an unknown architecture or layout (the message lists them), IE_LIMIT when the disk has
 * less room than it takes, IE_IO, IE_CANCELLED. */
ie_status ie_synth_write(const ie_synth_options *options, ie_error *error);

/* The names of the architectures, NULL-terminated. */
const char *const *ie_synth_archs(void);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
