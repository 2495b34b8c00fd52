/* The processes of a training run: --ranks, and what mpirun says about them. */
#ifndef CLOCHER_CLI_TRAIN_RANKS_H
#define CLOCHER_CLI_TRAIN_RANKS_H

#include "cli.h"
#include "clocher/ranks.h"

enum { TRAIN_RANKS_AUTO, TRAIN_RANKS_NONE, TRAIN_RANKS_MPI };
extern const char *const train_ranks_names[];

/* Opens the ranks that the choice means; *out NULL: this process alone. Then only rank 0 says anything (as with --quiet in
 * the others), and where no --threads was given and the starter left all processors to each process, they share them. */
ie_status train_ranks_open(cli_context *context, int choice, ie_ranks **out, ie_error *error);

#endif
