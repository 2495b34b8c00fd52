/* The expert cache beside LRU on the routing of a real run: decodes under a memory limit, records which experts each
 * layer's router named, and simulates LRU on that trace with as many slots.
 *
 *   bench_experts MODEL_DIR LIMIT_MIB TOKENS [PRECISION]
 *
 * The first ids are 5, then what the model finds most likely; `cold` counts all tokens, `warm` those after the first
 * eighth. LRU is simulated twice: with the slots of each layer (an equal share of all), and over all layers together. */
#include "clocher/generate.h"
#include "engine/streaming.h"
#include "models/arch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS_MAX = 128, EXPERTS_MAX = 512 };

typedef struct used {
  int32_t token, layer, expert;
} used;

typedef struct recorder {
  void (*want)(ie_experts *self, ie_ctx *ctx, const ie_expert_want *list, int64_t n); /* the stream's own */
  used *trace;
  int64_t count, capacity;
  int32_t token;
} recorder;

static recorder record; /* the provider has no room for it */

static void want_recorded(ie_experts *self, ie_ctx *ctx, const ie_expert_want *list, int64_t n) {
  for (int64_t i = 0; i < n && record.count < record.capacity; i++)
    record.trace[record.count++] = (used){record.token, (int32_t)ctx->layer, (int32_t)list[i].expert};
  record.want(self, ctx, list, n);
}

typedef struct lru {
  int64_t last[LAYERS_MAX][EXPERTS_MAX]; /* when it was used; 0: never */
  int64_t now;
} lru;

/* Whether it is in a cache of `slots` places of its layer (or of all layers), of `layers` layers. */
static bool lru_has(const lru *l, const used *u, int64_t slots, bool all_layers, int64_t layers) {
  int64_t mine = l->last[u->layer][u->expert], before = 0;
  if (mine == 0) return false;
  for (int64_t layer = all_layers ? 0 : u->layer; layer < (all_layers ? layers : u->layer + 1); layer++)
    for (int e = 0; e < EXPERTS_MAX; e++) before += l->last[layer][e] > mine;
  return before < slots;
}

/* Experts of one forward and layer are looked up together, and then used. */
static void lru_rates(int64_t slots, bool all_layers, int64_t layers, int32_t warm_from, double rate[2]) {
  lru *l = calloc(1, sizeof *l);
  int64_t hits[2] = {0}, total[2] = {0};
  if (!l) exit(1);
  for (int64_t i = 0; i < record.count;) {
    int64_t end = i;
    while (end < record.count && record.trace[end].token == record.trace[i].token &&
           record.trace[end].layer == record.trace[i].layer)
      end++;
    bool warm = record.trace[i].token >= warm_from;
    for (int64_t k = i; k < end; k++) {
      bool hit = lru_has(l, &record.trace[k], slots, all_layers, layers);
      hits[0] += hit, total[0]++;
      hits[1] += warm && hit, total[1] += warm;
    }
    for (; i < end; i++) l->last[record.trace[i].layer][record.trace[i].expert] = ++l->now;
  }
  for (int k = 0; k < 2; k++) rate[k] = 100.0 * (double)hits[k] / (double)(total[k] ? total[k] : 1);
  free(l);
}

static void fail(const ie_error *error) {
  fprintf(stderr, "bench_experts: %s\n", error->message);
  exit(1);
}

static ie_state *model_start(ie_model *model, int64_t tokens, size_t limit) {
  ie_error error = {0};
  ie_plan_options plan = {.state = {.context_tok = tokens + 1}, .memory_bytes = limit};
  if (ie_model_place(model, &plan, &error) != IE_OK) fail(&error);
  ie_state_options options = {.context_tok = tokens + 1};
  ie_state *state;
  if (ie_state_new(model, &options, &state, &error) != IE_OK) fail(&error);
  return state;
}

static int32_t best_id(const float *logits, int64_t vocab) {
  int64_t best = 0;
  for (int64_t i = 1; i < vocab; i++)
    if (logits[i] > logits[best]) best = i;
  return (int32_t)best;
}

int main(int argc, char **argv) {
  ie_error error = {0};
  ie_device *device;
  ie_model *model;
  if (argc < 4) return 2;
  int64_t tokens = atoi(argv[3]);
  ie_model_options how = {.limited = true,
                          .precision =
                              argc > 4 && !strcmp(argv[4], "int8") ? IE_PRECISION_INT8 : IE_PRECISION_BF16};
  if (ie_device_open(&(ie_device_options){0}, &device, &error) != IE_OK) fail(&error);
  if (ie_model_open(device, argv[1], &how, &model, &error) != IE_OK) fail(&error);
  ie_state *state = model_start(model, tokens, (size_t)atoi(argv[2]) << 20);
  int64_t layers = model->info.layers;
  if (!model->stream || layers > LAYERS_MAX) {
    fprintf(stderr, "bench_experts: everything fits, or there are too many layers\n");
    return 2;
  }
  ie_experts *provider = ie_stream_experts(model->stream);
  record.capacity = tokens * layers * EXPERTS_MAX;
  record.trace = malloc((size_t)record.capacity * sizeof *record.trace);
  if (!record.trace) return 1;
  record.want = provider->want;
  provider->want = want_recorded;
  int32_t id = 5, warm_from = (int32_t)(tokens / 8);
  ie_stream_stats first = {0}, last;
  for (record.token = 0; record.token < tokens; record.token++) {
    if (record.token == warm_from) ie_model_stream_stats(model, &first);
    if (ie_state_append(state, 0, &id, 1, NULL, &error) != IE_OK) fail(&error);
    id = best_id(ie_state_logits(state), model->info.vocab);
  }
  ie_model_stream_stats(model, &last);
  double own[2], all[2];
  lru_rates(last.slots / layers, /*all_layers=*/false, layers, warm_from, own);
  lru_rates(last.slots, /*all_layers=*/true, layers, warm_from, all);
  uint64_t warm_hits = last.hits - first.hits, warm_misses = last.misses - first.misses;
  printf("%lld slots, %lld layers, %lld tokens, %lld experts used\n", (long long)last.slots,
         (long long)layers, (long long)tokens, (long long)record.count);
  printf("ours: cold %.2f%%, warm %.2f%%\n", 100.0 * (double)last.hits / (double)(last.hits + last.misses),
         100.0 * (double)warm_hits / (double)(warm_hits + warm_misses));
  printf("LRU, %lld slots a layer: cold %.2f%%, warm %.2f%%\n", (long long)(last.slots / layers), own[0],
         own[1]);
  printf("LRU, %lld slots for all layers: cold %.2f%%, warm %.2f%%\n", (long long)last.slots, all[0], all[1]);
  free(record.trace);
  ie_state_free(state);
  ie_model_free(model);
  ie_device_free(device);
  return 0;
}
