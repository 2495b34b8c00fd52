/* Which experts are in memory: the books of a cache of slots, without the bytes.
 *
 * Every layer has a few home slots; a few more, in transit, serve all layers. A missing expert is read into a slot in
 * transit. After its use it may change places with an expert of its layer at home, which then stays in transit until
 * its slot is needed. So there is always room to read into, and a cache of two slots works.
 *
 * Which expert stays at home is decided by one of two rules, and by the one that would have hit more often lately, for
 * each layer on its own:
 *   recent    the expert used last (LRU), which wins where a text stays with its experts;
 *   frequent  the expert used by the most tokens, counted with a half-life, which wins where some experts are always
 *             more popular, and does not let rare ones push them out.
 * Both are judged without a second cache: an expert would have been found in h slots exactly when fewer than h others of
 * the layer stand before it in that order.
 *
 * A slot that is pinned is neither given to another expert nor moved. One thread at a time. */
#ifndef CLOCHER_ENGINE_EXPERT_CACHE_H
#define CLOCHER_ENGINE_EXPERT_CACHE_H

#include "clocher/status.h"
#include "tensor/experts.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ie_expert_cache ie_expert_cache;

typedef enum ie_cache_rule { IE_CACHE_ADAPT, IE_CACHE_RECENT, IE_CACHE_FREQUENT } ie_cache_rule;

typedef struct ie_expert_cache_options {
  int64_t layers, experts;
  int64_t slots;   /* in all, at least 1 */
  int64_t transit; /* of them at least this many in transit; the layers share the rest evenly */
  ie_cache_rule rule;
} ie_expert_cache_options;

ie_status ie_expert_cache_new(const ie_expert_cache_options *options, ie_expert_cache **out, ie_error *error);
void ie_expert_cache_free(ie_expert_cache *cache);

/* The slot that holds an expert or is being read for it; -1: none. */
int64_t ie_expert_cache_find(const ie_expert_cache *cache, int64_t layer, int64_t expert);

/* A forward uses n experts of a layer. Call it once for a forward and layer, before places are taken. */
void ie_expert_cache_use(ie_expert_cache *cache, int64_t layer, const ie_expert_want *used, int64_t n);

/* A slot in transit for an expert that is not there, which forgets what it held; -1 when all of them are pinned. */
int64_t ie_expert_cache_take(ie_expert_cache *cache, int64_t layer, int64_t expert);
/* Forgets what a slot holds: its read failed. */
void ie_expert_cache_drop(ie_expert_cache *cache, int64_t slot);

void ie_expert_cache_pin(ie_expert_cache *cache, int64_t slot);
void ie_expert_cache_unpin(ie_expert_cache *cache, int64_t slot);

/* The expert in a slot in transit was used: it goes home when a place is empty or held by one that is worth less. */
void ie_expert_cache_settle(ie_expert_cache *cache, int64_t slot);

/* The slots of a layer at home. */
int64_t ie_expert_cache_home(const ie_expert_cache *cache, int64_t layer);

#endif
