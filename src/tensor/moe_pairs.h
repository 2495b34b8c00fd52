/* The pairs (token, chosen expert) of a mixture, sorted by expert and then by token: each expert's tokens stand
 * together, in an order that depends on the routing alone. */
#ifndef CLOCHER_TENSOR_MOE_PAIRS_H
#define CLOCHER_TENSOR_MOE_PAIRS_H

#include "tensor/device.h"

typedef struct moe_pairs {
  int64_t T, k, E, P; /* tokens, experts per token, experts, pairs = T k */
  int32_t *pair;      /* (P) t k + j of each pair, in sorted order */
  int32_t *row;       /* (P) its token t */
  int32_t *sorted;    /* (T, k) where the pair (t, j) stands */
  int32_t *start;     /* (E + 1) where the pairs of each expert begin */
} moe_pairs;

/* Takes the arrays from the arena. False after a failure. */
bool moe_pairs_take(ie_ctx *ctx, moe_pairs *pairs, int64_t T, int64_t k, int64_t E);

/* Fills them from expert (T, k). */
void moe_pairs_sort(moe_pairs *pairs, const int32_t *expert);

#endif
