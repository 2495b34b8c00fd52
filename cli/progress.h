/* Progress on stderr: a bar with rate and time left on a terminal, a plain line from time to time elsewhere,
 * nothing with --quiet. One thread at a time. */
#ifndef CLOCHER_CLI_PROGRESS_H
#define CLOCHER_CLI_PROGRESS_H

#include "cli.h"

typedef struct cli_progress {
  const char *label; /* what is done: "writing"; borrowed */
  const char *unit;  /* "tok"; "B" is shown as kB, MB, GB; borrowed */
  uint64_t total;    /* 0: not known */
  uint64_t done;
  double start_s, shown_s;
  bool terminal, silent, drawn;
} cli_progress;

void cli_progress_start(cli_progress *progress, const cli_context *context, const char *label, uint64_t total,
                        const char *unit);
/* `done` units are finished. Cheap: draws at most ten times a second. */
void cli_progress_set(cli_progress *progress, uint64_t done);
/* Draws the last state (a line with time and rate). */
void cli_progress_end(cli_progress *progress);
/* Removes the bar from the terminal, before something else is printed there. */
void cli_progress_clear(cli_progress *progress);

#endif
