#include "train_ranks.h"

#include <sched.h>
#include <unistd.h>

const char *const train_ranks_names[] = {"auto", "none", "mpi", NULL};

/* Whether this process may run on every processor of the machine. */
static bool unbound(void) {
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) != 0)
    return true; /* more processors than the mask has room for */
  return CPU_COUNT(&mask) >= sysconf(_SC_NPROCESSORS_ONLN);
}

ie_status train_ranks_open(cli_context *context, int choice, ie_ranks **out, ie_error *error) {
  *out = NULL;
  bool wanted = choice == TRAIN_RANKS_MPI || (choice == TRAIN_RANKS_AUTO && context->env.ranks > 1);
  if (!wanted) return IE_OK;
  bool bound = !unbound(); /* before MPI may change it */
  ie_status status = ie_ranks_open_mpi(out, error);
  if (status != IE_OK) return status;
  if (ie_ranks_rank(*out) > 0) context->common.quiet = true;
  int local = ie_ranks_local(*out);
  if (context->common.threads == 0 && !bound && local > 1) {
    long share = sysconf(_SC_NPROCESSORS_ONLN) / local;
    context->common.threads = share > 1 ? share : 1;
  }
  return IE_OK;
}
