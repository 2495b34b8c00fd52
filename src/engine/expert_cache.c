#include "engine/expert_cache.h"

#include <math.h>
#include <stdlib.h>

static const double half_life_tok = 256; /* of a use, in tokens: long enough to tell popular from lucky */
static const double judge_decay = 0.98;  /* of the two rules' hits, per forward */

typedef struct cache_entry {
  int64_t slot; /* -1: none */
  int64_t last; /* order of its last use; 0: never */
  double uses;  /* tokens that used it, each worth half after half_life_tok, at the layer's time `at` */
  int64_t at;
} cache_entry;

typedef struct cache_slot {
  int64_t layer, expert; /* -1: empty */
  int64_t home;          /* the layer that it belongs to; -1: in transit */
  int64_t pins;
  int64_t taken; /* order in which slots in transit were used */
} cache_slot;

typedef struct cache_layer {
  int64_t home; /* slots */
  int64_t now;  /* tokens so far */
  double hits[2];
} cache_layer;

struct ie_expert_cache {
  ie_expert_cache_options o;
  cache_entry *entry; /* (layers, experts) */
  cache_slot *slot;   /* (slots) */
  cache_layer *layer; /* (layers) */
  int64_t order;
};

static cache_entry *entry_at(const ie_expert_cache *c, int64_t layer, int64_t expert) {
  return &c->entry[layer * c->o.experts + expert];
}

ie_status ie_expert_cache_new(const ie_expert_cache_options *options, ie_expert_cache **out,
                              ie_error *error) {
  *out = NULL;
  if (options->layers < 1 || options->experts < 1 || options->slots < 1 || options->transit < 1)
    return ie_error_set(error, IE_INVALID_ARGUMENT, "a cache of %lld slots for %lld layers of %lld experts",
                        (long long)options->slots, (long long)options->layers, (long long)options->experts);
  ie_expert_cache *c = calloc(1, sizeof *c);
  if (c) {
    c->o = *options;
    c->entry = calloc((size_t)options->layers * (size_t)options->experts, sizeof *c->entry);
    c->slot = calloc((size_t)options->slots, sizeof *c->slot);
    c->layer = calloc((size_t)options->layers, sizeof *c->layer);
  }
  if (!c || !c->entry || !c->slot || !c->layer) {
    ie_expert_cache_free(c);
    return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a cache of experts");
  }
  for (int64_t i = 0; i < options->layers * options->experts; i++) c->entry[i].slot = -1;
  for (int64_t i = 0; i < options->slots; i++)
    c->slot[i] = (cache_slot){.layer = -1, .expert = -1, .home = -1};
  int64_t homes = options->slots - options->transit, at = 0;
  for (int64_t i = 0; i < options->layers && homes > 0; i++) {
    int64_t share = homes / options->layers + (i < homes % options->layers);
    if (share > options->experts) share = options->experts;
    c->layer[i].home = share;
    for (int64_t k = 0; k < share; k++) c->slot[at++].home = i;
  }
  *out = c;
  return IE_OK;
}

void ie_expert_cache_free(ie_expert_cache *c) {
  if (!c) return;
  free(c->entry);
  free(c->slot);
  free(c->layer);
  free(c);
}

int64_t ie_expert_cache_find(const ie_expert_cache *c, int64_t layer, int64_t expert) {
  return entry_at(c, layer, expert)->slot;
}

int64_t ie_expert_cache_home(const ie_expert_cache *c, int64_t layer) {
  return c->layer[layer].home;
}

/* --- Worth ------------------------------------------------------------------------------------------------- */

static double uses_now(const ie_expert_cache *c, int64_t layer, const cache_entry *e) {
  return e->uses * exp2(-(double)(c->layer[layer].now - e->at) / half_life_tok);
}

static bool rule_recent(const ie_expert_cache *c, int64_t layer) {
  if (c->o.rule != IE_CACHE_ADAPT) return c->o.rule == IE_CACHE_RECENT;
  return c->layer[layer].hits[0] > c->layer[layer].hits[1];
}

/* Whether a stands before b in the order of a rule; equal ones keep the order of their last use. */
static bool entry_before(const ie_expert_cache *c, int64_t layer, const cache_entry *a, const cache_entry *b,
                         bool recent) {
  if (!recent) {
    double x = uses_now(c, layer, a), y = uses_now(c, layer, b);
    if (x != y) return x > y;
  }
  return a->last > b->last;
}

static void rules_judge(ie_expert_cache *c, int64_t layer, const ie_expert_want *used, int64_t n) {
  cache_layer *l = &c->layer[layer];
  for (int rule = 0; rule < 2; rule++) {
    double hits = 0;
    for (int64_t i = 0; i < n; i++) {
      const cache_entry *e = entry_at(c, layer, used[i].expert);
      int64_t before = 0;
      for (int64_t k = 0; k < c->o.experts && before < l->home; k++) {
        const cache_entry *other = entry_at(c, layer, k);
        before += other != e && entry_before(c, layer, other, e, /*recent=*/rule == 0);
      }
      hits += e->last > 0 && before < l->home;
    }
    l->hits[rule] = l->hits[rule] * judge_decay + hits;
  }
}

void ie_expert_cache_use(ie_expert_cache *c, int64_t layer, const ie_expert_want *used, int64_t n) {
  if (c->o.rule == IE_CACHE_ADAPT) rules_judge(c, layer, used, n);
  int64_t tokens =
      0; /* of the forward, or a little less: nobody says how many chose nothing that others chose */
  for (int64_t i = 0; i < n; i++)
    if (used[i].tokens > tokens) tokens = used[i].tokens;
  c->layer[layer].now += tokens;
  for (int64_t i = 0; i < n; i++) {
    cache_entry *e = entry_at(c, layer, used[i].expert);
    e->uses = uses_now(c, layer, e) + (double)used[i].tokens;
    e->at = c->layer[layer].now;
    e->last = ++c->order;
  }
}

/* --- Slots ------------------------------------------------------------------------------------------------- */

void ie_expert_cache_drop(ie_expert_cache *c, int64_t slot) {
  cache_slot *s = &c->slot[slot];
  if (s->layer >= 0) entry_at(c, s->layer, s->expert)->slot = -1;
  s->layer = s->expert = -1;
}

int64_t ie_expert_cache_take(ie_expert_cache *c, int64_t layer, int64_t expert) {
  int64_t best = -1;
  for (int64_t i = 0; i < c->o.slots; i++) {
    const cache_slot *s = &c->slot[i];
    /* A layer's slot that was never filled is as good: what is read there is at home at once. */
    bool usable = s->home < 0 || (s->home == layer && s->layer < 0);
    if (!usable || s->pins > 0) continue;
    if (s->home == layer) {
      best = i;
      break;
    }
    bool empty = s->layer < 0, best_empty = best >= 0 && c->slot[best].layer < 0;
    if (best < 0 || (empty && !best_empty) || (empty == best_empty && s->taken < c->slot[best].taken))
      best = i;
  }
  if (best < 0) return -1;
  ie_expert_cache_drop(c, best);
  c->slot[best].layer = layer;
  c->slot[best].expert = expert;
  c->slot[best].taken = ++c->order;
  entry_at(c, layer, expert)->slot = best;
  return best;
}

void ie_expert_cache_pin(ie_expert_cache *c, int64_t slot) {
  c->slot[slot].pins++;
}

void ie_expert_cache_unpin(ie_expert_cache *c, int64_t slot) {
  c->slot[slot].pins--;
}

void ie_expert_cache_settle(ie_expert_cache *c, int64_t slot) {
  cache_slot *s = &c->slot[slot];
  if (s->home >= 0 || s->layer < 0 || s->pins > 0) return;
  int64_t layer = s->layer, worst = -1;
  bool recent = rule_recent(c, layer);
  const cache_entry *mine = entry_at(c, layer, s->expert);
  for (int64_t i = 0; i < c->o.slots; i++) {
    const cache_slot *other = &c->slot[i];
    if (other->home != layer || other->pins > 0) continue;
    if (other->layer < 0) {
      worst = i;
      break;
    }
    const cache_entry *e = entry_at(c, layer, other->expert);
    if (worst < 0 || entry_before(c, layer, entry_at(c, layer, c->slot[worst].expert), e, recent)) worst = i;
  }
  if (worst < 0) return;
  if (c->slot[worst].layer >= 0 &&
      entry_before(c, layer, entry_at(c, layer, c->slot[worst].expert), mine, recent))
    return;
  s->home = layer;
  c->slot[worst].home = -1;
  c->slot[worst].taken = ++c->order;
}
