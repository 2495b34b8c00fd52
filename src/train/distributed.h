/* What training exchanges between ranks (clocher/ranks.h), and what a backend has to offer.
 *
 * All functions take NULL for one process and do nothing then. A backend's failure is IE_DEVICE; afterwards the ranks
 * are lost: every call fails at once, and what a process does is its own. */
#ifndef CLOCHER_TRAIN_DISTRIBUTED_H
#define CLOCHER_TRAIN_DISTRIBUTED_H

#include "base/real.h"
#include "clocher/ranks.h"

#include <stddef.h>
#include <stdint.h>

typedef enum ie_rank_type { IE_RANK_REAL, IE_RANK_DOUBLE, IE_RANK_BYTE } ie_rank_type;

/* Each returns 0, or the backend's error code. count is at most IE_RANK_MOST. */
enum { IE_RANK_MOST = 1 << 24 };
typedef struct ie_ranks_backend {
  const char *name;
  int (*sum)(void *self, void *x, int count, ie_rank_type type); /* in place; the same bits in all ranks */
  /* Begins such a sum, of reals, and goes on with those that were begun: wait: until all are done. All ranks begin the same
   * sums in the same order, each from one thread; nothing else may be asked for in between but these two. */
  int (*sum_begin)(void *self, void *x, int count);
  int (*sum_poll)(void *self, bool wait);
  int (*broadcast)(void *self, void *x, int count, ie_rank_type type, int root);
  int (*send)(void *self, const void *x, int count, ie_rank_type type, int to);
  int (*receive)(void *self, void *x, int count, ie_rank_type type, int from);
  void (*close)(void *self, bool lost);
} ie_ranks_backend;

/* Takes over `self`: closed with the ranks, or at once when memory is out. */
ie_status ie_ranks_new(const ie_ranks_backend *backend, void *self, int rank, int size, int local,
                       ie_ranks **out, ie_error *error);

/* x becomes the sum over all ranks, with the same bits in each. The order of the sum is the backend's. */
ie_status ie_ranks_sum(ie_ranks *ranks, real *x, size_t count, ie_error *error);
/* The same, beside other work: begin (x is the ranks' until the end), poll now and then, which is when messages move, and
 * end, which waits for all. A failure is kept for the end. */
void ie_ranks_sum_begin(ie_ranks *ranks, real *x, size_t count);
void ie_ranks_sum_poll(ie_ranks *ranks);
ie_status ie_ranks_sum_end(ie_ranks *ranks, ie_error *error);
ie_status ie_ranks_sum_doubles(ie_ranks *ranks, double *x, size_t count, ie_error *error);
/* From the rank `root` to all others. */
ie_status ie_ranks_broadcast(ie_ranks *ranks, real *x, size_t count, int root, ie_error *error);
ie_status ie_ranks_send(ie_ranks *ranks, const real *x, size_t count, int to, ie_error *error);
ie_status ie_ranks_receive(ie_ranks *ranks, real *x, size_t count, int from, ie_error *error);
/* IE_INTERNAL in all ranks when one brings other bytes than rank 0; `what` they are is said. */
ie_status ie_ranks_equal(ie_ranks *ranks, const void *bytes, size_t size, const char *what, ie_error *error);

#endif
