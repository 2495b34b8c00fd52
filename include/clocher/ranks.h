/* Ranks: the processes of one training run, one a processor or machine, that add up their gradients.
 *
 * NULL stands everywhere for a run of one process. Otherwise processes are started by MPI's own starter (mpirun -n 2
 * clocher train ...), each opens its ranks once, and all make the same calls in the same order: a call waits for the
 * others. Where what they do can fail, they agree on a status, so that all of them end the same way.
 *
 * The MPI library is loaded by ie_ranks_open_mpi and not before: a program that never opens ranks neither needs it nor
 * starts slower for it. Open MPI 3 to 5 is known.
 *
 * Threads: one thread at a time, the one that opened them. */
#ifndef CLOCHER_RANKS_H
#define CLOCHER_RANKS_H

#include "clocher/status.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct ie_ranks ie_ranks;

/* Whether this library was built with MPI's headers. */
bool ie_ranks_mpi_built(void);

/* Loads MPI and, unless the program has done so, initialises it (MPI_THREAD_FUNNELED). IE_UNSUPPORTED: not built;
 * IE_DEVICE: the MPI library is not there, or failed. */
ie_status ie_ranks_open_mpi(ie_ranks **out, ie_error *error);
/* Waits for the others, and ends MPI if the open began it: then no ranks can be opened again. NULL is allowed. */
void ie_ranks_close(ie_ranks *ranks);

int ie_ranks_rank(const ie_ranks *ranks);  /* from 0; NULL: 0 */
int ie_ranks_size(const ie_ranks *ranks);  /* NULL: 1 */
int ie_ranks_local(const ie_ranks *ranks); /* how many of them run on this machine; NULL: 1 */

/* All come with the status of what they did and leave with the same one: IE_OK, or that of the lowest rank that failed,
 * with its message. What others did before is seen by all afterwards. */
ie_status ie_ranks_agree(ie_ranks *ranks, ie_status status, ie_error *error);
/* Whether any came with true. */
bool ie_ranks_any(ie_ranks *ranks, bool value);
/* Whether this process reports to the user: rank 0, or any when they have lost each other. */
bool ie_ranks_reports(const ie_ranks *ranks);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
