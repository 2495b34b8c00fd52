/* The books of the expert cache: places, pins, and hit rates on routing traces beside LRU simulated on the same trace. */
#include "engine/expert_cache.h"

#include "base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LAYERS = 3, EXPERTS = 32, TOP = 4, TOKENS = 3000 };

static ie_expert_cache *cache_make(int64_t slots, int64_t transit, ie_cache_rule rule) {
  ie_expert_cache *cache;
  ie_error error;
  ie_expert_cache_options o = {
      .layers = LAYERS, .experts = EXPERTS, .slots = slots, .transit = transit, .rule = rule};
  assert_int_equal(ie_expert_cache_new(&o, &cache, &error), IE_OK);
  return cache;
}

/* One forward of a layer as the provider does it: hits are pinned, misses are taken one by one, used, settled. */
static int64_t cache_forward(ie_expert_cache *cache, int64_t layer, const int64_t *expert, int64_t n) {
  ie_expert_want used[EXPERTS] = {0};
  int64_t hits = 0, slot[EXPERTS];
  for (int64_t i = 0; i < n; i++) used[i] = (ie_expert_want){expert[i], 1};
  ie_expert_cache_use(cache, layer, used, n);
  for (int64_t i = 0; i < n; i++) {
    slot[i] = ie_expert_cache_find(cache, layer, expert[i]);
    if (slot[i] >= 0) ie_expert_cache_pin(cache, slot[i]);
    hits += slot[i] >= 0;
  }
  for (int64_t i = 0; i < n; i++) {
    if (slot[i] < 0) continue;
    ie_expert_cache_unpin(cache, slot[i]);
    ie_expert_cache_settle(cache, slot[i]);
  }
  for (int64_t i = 0; i < n; i++) {
    if (slot[i] >= 0) continue;
    int64_t at = ie_expert_cache_take(cache, layer, expert[i]);
    assert_true(at >= 0);
    assert_int_equal(ie_expert_cache_find(cache, layer, expert[i]), at);
    ie_expert_cache_settle(cache, at);
  }
  return hits;
}

static void places(void **state) {
  (void)state;
  ie_expert_cache *c = cache_make(2 + 2 * LAYERS + 1, 2, IE_CACHE_ADAPT);
  assert_int_equal(ie_expert_cache_home(c, 0), 3); /* the odd one goes to the first layer */
  assert_int_equal(ie_expert_cache_home(c, 1), 2);
  assert_int_equal(ie_expert_cache_find(c, 1, 5), -1);
  /* two places at home, then the two in transit, then none while all are pinned */
  int64_t slot[4];
  for (int64_t i = 0; i < 4; i++) {
    slot[i] = ie_expert_cache_take(c, 1, i);
    assert_true(slot[i] >= 0);
    for (int64_t k = 0; k < i; k++) assert_true(slot[k] != slot[i]);
    ie_expert_cache_pin(c, slot[i]);
  }
  assert_int_equal(ie_expert_cache_take(c, 1, 9), -1);
  assert_true(ie_expert_cache_take(c, 2, 9) >= 0); /* another layer's own place */
  /* the one that is let go is the next to be given away, and is forgotten then */
  ie_expert_cache_unpin(c, slot[3]);
  assert_int_equal(ie_expert_cache_find(c, 1, 3), slot[3]);
  assert_int_equal(ie_expert_cache_take(c, 0, 7) >= 0, 1);
  assert_int_equal(ie_expert_cache_find(c, 1, 3), slot[3]); /* layer 0 had a place of its own */
  assert_int_equal(ie_expert_cache_take(c, 1, 9), slot[3]);
  assert_int_equal(ie_expert_cache_find(c, 1, 3), -1);
  ie_expert_cache_drop(c, slot[3]);
  assert_int_equal(ie_expert_cache_find(c, 1, 9), -1);
  for (int64_t i = 0; i < 3; i++) assert_int_equal(ie_expert_cache_find(c, 1, i), slot[i]);
  ie_expert_cache_free(c);
  ie_error error;
  assert_int_equal(
      ie_expert_cache_new(&(ie_expert_cache_options){.layers = 1, .experts = 1, .slots = 0, .transit = 1}, &c,
                          &error),
      IE_INVALID_ARGUMENT);
}

/* A single slot serves everything; nothing is found but a repetition. */
static void one_slot_is_enough(void **state) {
  (void)state;
  ie_expert_cache *c = cache_make(1, 1, IE_CACHE_ADAPT);
  const int64_t three[3] = {4, 5, 6}, last[1] = {6};
  for (int64_t layer = 0; layer < LAYERS; layer++) assert_int_equal(cache_forward(c, layer, three, 3), 0);
  assert_int_equal(cache_forward(c, LAYERS - 1, last, 1), 1);
  assert_int_equal(cache_forward(c, 0, last, 1), 0);
  ie_expert_cache_free(c);
}

static void everything_fits(void **state) {
  (void)state;
  ie_expert_cache *c = cache_make(LAYERS * EXPERTS + 2, 2, IE_CACHE_ADAPT);
  int64_t all[EXPERTS];
  for (int64_t i = 0; i < EXPERTS; i++) all[i] = i;
  for (int64_t layer = 0; layer < LAYERS; layer++) assert_int_equal(cache_forward(c, layer, all, EXPERTS), 0);
  for (int64_t layer = 0; layer < LAYERS; layer++)
    assert_int_equal(cache_forward(c, layer, all, EXPERTS), EXPERTS);
  ie_expert_cache_free(c);
}

/* --- Traces -------------------------------------------------------------------------------------------------- */

typedef struct trace {
  int64_t expert[TOKENS][LAYERS][TOP];
} trace;

static double uniform(uint64_t stream, uint64_t i) {
  return (double)(ie_rng_u64(/*seed=*/7, stream, i) >> 11) * 0x1p-53;
}

/* TOP different experts, the r-th most popular with a weight of (r + 1)^-power; each layer has its own order. */
static void zipf_draw(int64_t out[TOP], uint64_t layer, uint64_t token, double power) {
  uint64_t step = 0;
  for (int64_t n = 0; n < TOP;) {
    double total = 0, sum = 0, at = uniform(1000 + layer, token * 1000 + step++);
    for (int r = 0; r < EXPERTS; r++) total += pow(r + 1, -power);
    int64_t rank = 0;
    for (; rank < EXPERTS - 1; rank++) {
      sum += pow((double)rank + 1, -power) / total;
      if (at < sum) break;
    }
    int64_t expert = (rank * 5 + (int64_t)layer * 11) % EXPERTS;
    bool known = false;
    for (int64_t k = 0; k < n; k++) known |= out[k] == expert;
    if (!known) out[n++] = expert;
  }
}

static void trace_zipf(trace *t, double power) {
  for (uint64_t token = 0; token < TOKENS; token++)
    for (uint64_t layer = 0; layer < LAYERS; layer++) zipf_draw(t->expert[token][layer], layer, token, power);
}

/* A text that stays with its experts: each of the four is kept with nine in ten. */
static void trace_sticky(trace *t) {
  trace_zipf(t, 0);
  for (uint64_t token = 1; token < TOKENS; token++)
    for (uint64_t layer = 0; layer < LAYERS; layer++)
      for (uint64_t k = 0; k < TOP; k++) {
        int64_t before = t->expert[token - 1][layer][k], *now = t->expert[token][layer];
        bool known = false;
        for (uint64_t j = 0; j < TOP; j++) known |= j != k && now[j] == before;
        if (uniform(50 + layer, token * TOP + k) < 0.9 && !known) now[k] = before;
      }
}

static double lru_rate(const trace *t, int64_t home) {
  static int64_t last[LAYERS][EXPERTS];
  int64_t hits = 0, order = 0;
  memset(last, 0, sizeof last);
  for (int64_t token = 0; token < TOKENS; token++)
    for (int64_t layer = 0; layer < LAYERS; layer++) {
      for (int64_t k = 0; k < TOP; k++) {
        int64_t mine = last[layer][t->expert[token][layer][k]], before = 0;
        for (int64_t e = 0; e < EXPERTS; e++) before += last[layer][e] > mine;
        hits += mine > 0 && before < home;
      }
      for (int64_t k = 0; k < TOP; k++) last[layer][t->expert[token][layer][k]] = ++order;
    }
  return (double)hits / (TOKENS * LAYERS * TOP);
}

static double cache_rate(const trace *t, int64_t home, ie_cache_rule rule) {
  ie_expert_cache *c = cache_make(home * LAYERS + 1, /*transit=*/1, rule);
  int64_t hits = 0;
  for (int64_t token = 0; token < TOKENS; token++)
    for (int64_t layer = 0; layer < LAYERS; layer++)
      hits += cache_forward(c, layer, t->expert[token][layer], TOP);
  ie_expert_cache_free(c);
  return (double)hits / (TOKENS * LAYERS * TOP);
}

static const int64_t homes[] = {4, 5, 8, 16};
enum { HOMES = sizeof homes / sizeof homes[0] };

static void rates_show(const char *what, int64_t home, double lru, double ours) {
  print_message("    %s, %lld slots a layer: LRU %.1f%%, ours %.1f%%\n", what, (long long)home, 100 * lru,
                100 * ours);
}

static void recent_is_lru(void **state) {
  trace *t = *state;
  trace_sticky(t);
  for (int i = 0; i < HOMES; i++)
    assert_true(fabs(cache_rate(t, homes[i], IE_CACHE_RECENT) - lru_rate(t, homes[i])) < 0.02);
}

static void skewed_traces_beat_lru(void **state) {
  trace *t = *state;
  trace_zipf(t, 1.0);
  for (int i = 0; i < HOMES; i++) {
    double lru = lru_rate(t, homes[i]), ours = cache_rate(t, homes[i], IE_CACHE_ADAPT);
    rates_show("Zipf 1.0", homes[i], lru, ours);
    assert_true(ours > lru + 0.02);
  }
}

static void sticky_traces_keep_up_with_lru(void **state) {
  trace *t = *state;
  trace_sticky(t);
  for (int i = 0; i < HOMES; i++) {
    double lru = lru_rate(t, homes[i]), ours = cache_rate(t, homes[i], IE_CACHE_ADAPT);
    rates_show("sticky", homes[i], lru, ours);
    assert_true(ours > lru - 0.02);
    /* the other rule alone would fall behind where slots are few */
    if (homes[i] <= 5) assert_true(cache_rate(t, homes[i], IE_CACHE_FREQUENT) < lru - 0.02);
  }
}

static void even_traces_keep_up_with_lru(void **state) {
  trace *t = *state;
  trace_zipf(t, 0);
  for (int i = 0; i < HOMES; i++) {
    double lru = lru_rate(t, homes[i]), ours = cache_rate(t, homes[i], IE_CACHE_ADAPT);
    rates_show("even", homes[i], lru, ours);
    assert_true(ours > lru - 0.02);
  }
}

/* A prompt uses every expert of a layer again and again: some of them are found each time, where LRU finds none. */
static void scans_keep_something(void **state) {
  (void)state;
  ie_expert_cache *c = cache_make(8 * LAYERS + 2, 2, IE_CACHE_ADAPT);
  int64_t all[EXPERTS], hits = 0;
  for (int64_t i = 0; i < EXPERTS; i++) all[i] = i;
  for (int pass = 0; pass < 10; pass++)
    for (int64_t layer = 0; layer < LAYERS; layer++) hits += cache_forward(c, layer, all, EXPERTS);
  ie_expert_cache_free(c);
  assert_true(hits >= 9 * LAYERS * 7);
}

int main(void) {
  static trace t;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(places),
      cmocka_unit_test(one_slot_is_enough),
      cmocka_unit_test(everything_fits),
      cmocka_unit_test_prestate(recent_is_lru, &t),
      cmocka_unit_test_prestate(skewed_traces_beat_lru, &t),
      cmocka_unit_test_prestate(sticky_traces_keep_up_with_lru, &t),
      cmocka_unit_test_prestate(even_traces_keep_up_with_lru, &t),
      cmocka_unit_test(scans_keep_something),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
