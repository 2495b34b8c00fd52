/* Loss and gradients of the global batch, whichever processes compute them.
 *
 * Rows are computed in forwards of micro_rows (0: all of a process's rows at once), each with gradients scaled by the
 * targets of the global batch, so that the sum over forwards and processes is the gradient of the mean. How a sum is
 * ordered decides its last bits:
 *
 *   as it comes    a process adds its forwards up as it computes them, and MPI adds the processes up: during the backward
 *                  of the last forward, what is ready in buckets of up to some 4 MB, always in the same order.
 *   deterministic  the global batch is cut into shares of micro_rows rows (0: one), whatever the processes. Each share
 *                  begins from zeros; shares are added up in pairs, the pairs in pairs, and so on: a tree over their
 *                  numbers. A process computes a run of shares and sends the sum of a part of the tree that lies with it
 *                  alone to the one that goes on with it. The result has the same bits for any number of processes. It
 *                  takes one more copy of the gradients for each level of the tree, forwards of one share, and up to that
 *                  many messages of all gradients a step. */
#ifndef CLOCHER_TRAIN_GLOBAL_H
#define CLOCHER_TRAIN_GLOBAL_H

#include "train/data.h"
#include "train/distributed.h"
#include "train/gradients.h"

typedef struct ie_global_options {
  ie_ranks *ranks; /* NULL: one process */
  bool deterministic;
  int64_t rows; /* of the global batch */
  int64_t micro_rows;
  double balance; /* weight of the routers' balance loss, as a mean over rows */
} ie_global_options;

/* Shares of a deterministic step, and levels of their tree. */
int64_t ie_global_shares(int64_t rows, int64_t micro_rows);
int ie_global_levels(int64_t shares);

typedef struct ie_global ie_global;
/* Borrows the gradients. IE_INVALID_ARGUMENT when there are fewer shares than processes. */
ie_status ie_global_new(ie_gradients *gradients, ie_device *device, const ie_global_options *options,
                        ie_global **out, ie_error *error);
void ie_global_free(ie_global *global);

/* *loss and the gradients of this batch, the same in all processes. batch: the rows of this process, or with
 * deterministic those of all. The status is agreed on. */
ie_status ie_global_compute(ie_global *global, const ie_data_batch *batch, double *loss, ie_error *error);

#endif
