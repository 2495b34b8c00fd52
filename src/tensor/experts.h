/* Who has the experts' bytes: the `moe` op asks a provider for the experts that the router named.
 *
 * Without a provider (ctx->experts NULL) they lie where the weights point: mapped or copied. A provider that streams
 * them (engine/streaming.h) hands them out as they arrive, those that are there first. The answer never depends on it:
 * an expert's rows are computed for itself, and the results are added in the order of the router.
 *
 * One call of want, then take and give_back in turns until every expert was taken. A provider that fails calls
 * ie_ctx_fail; take then returns 0. The same thread calls all of them. */
#ifndef CLOCHER_TENSOR_EXPERTS_H
#define CLOCHER_TENSOR_EXPERTS_H

#include <stdint.h>

struct ie_ctx;

typedef struct ie_expert_want {
  int64_t expert, tokens; /* tokens that chose it */
} ie_expert_want;

typedef struct ie_expert_taken {
  int64_t index;                       /* into what was wanted */
  const uint8_t *gate_up[2], *down[2]; /* the parts of the expert's two matrices (ie_weight.part) */
} ie_expert_taken;

typedef struct ie_experts {
  /* The router of layer ctx->layer has spoken: `list` (n), borrowed until the next want, experts ascending. */
  void (*want)(struct ie_experts *self, struct ie_ctx *ctx, const ie_expert_want *list, int64_t n);
  /* The experts that are there, of those not taken yet; waits for one when there is none. *out has room for n. Their
   * bytes stay until give_back. */
  int64_t (*take)(struct ie_experts *self, struct ie_ctx *ctx, ie_expert_taken *out);
  /* A guess of what layer ctx->layer will want, before its router has spoken: (n) experts. Takes no part in the answer.
   * May be NULL. */
  void (*expect)(struct ie_experts *self, struct ie_ctx *ctx, const int32_t *expert, int64_t n);
  /* What the last take returned is computed. */
  void (*give_back)(struct ie_experts *self);
} ie_experts;

#endif
