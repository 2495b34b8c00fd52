/* Decode with what can be switched while the program runs, one JSON object a line: launches that overlap or not, and the
 * logits copied to the host, the largest one's id, or an id drawn on the device. The ids must not depend on the overlap:
 * status 1 when they do. Run by scripts/gpu_check.sh, stage speed.
 *
 *   gpu_bench MODEL_DIR [--small]     --small: two sequences and a token, to try it over the emulator */
#include "cuda/cuda.h"
#include "engine/state.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH_MAX = 64, DEPTH = 64, WARM = 2 }; /* launched, recorded, then replayed */

typedef struct bench {
  ie_model *model;
  ie_state *state;
  int64_t batch, steps;
  bool overlap;
} bench;

typedef enum ids_from { FROM_LOGITS, FROM_LARGEST, FROM_DRAW, FROM_COUNT } ids_from;
static const char *const from_name[FROM_COUNT] = {"logits on the host", "largest", "drawn"};
static const ie_sample_params drawn = {.temperature = 0.7, .top_k = 50, .top_p = 0.95, .seed = 1};

static int fail(const char *what, const ie_error *error) {
  fprintf(stderr, "gpu_bench: %s: %s\n", what, error->message);
  return 1;
}

/* One step of all sequences; ids: in and out, but with logits on the host they stay. */
static ie_status step(const bench *b, ids_from from, int32_t *ids, uint64_t at, ie_error *error) {
  static const ie_sample_params largest = {.greedy = true};
  ie_advance row[BATCH_MAX];
  ie_draw_row draw[BATCH_MAX];
  for (int64_t i = 0; i < b->batch; i++) {
    row[i] = (ie_advance){.sequence = i, .ids = &ids[i], .count = 1, .wanted = 1};
    draw[i] = (ie_draw_row){.params = from == FROM_DRAW ? &drawn : &largest, .row = (uint64_t)i, .step = at};
  }
  ie_state_draw_next(b->state, from == FROM_LOGITS ? NULL : draw, b->batch);
  ie_status status = ie_state_advance(b->state, row, b->batch, NULL, error);
  ie_state_draw_next(b->state, NULL, 0);
  for (int64_t i = 0; i < b->batch && from != FROM_LOGITS && status == IE_OK; i++) ids[i] = draw[i].id;
  return status;
}

static ie_status run(const bench *b, ids_from from, uint64_t *hash, ie_error *error) {
  int32_t ids[BATCH_MAX];
  double begin = 0;
  uint64_t replayed = cuda_runner_counts(b->state->runner).replayed;
  ie_status status = IE_OK;
  for (int64_t i = 0; i < b->batch && status == IE_OK; i++) {
    ids[i] = (int32_t)(1 + i);
    status = ie_state_rollback(b->state, i, 0, error);
    if (status == IE_OK) status = ie_state_fill_random(b->state, i, DEPTH, error);
  }
  *hash = 14695981039346656037u;
  for (int64_t k = 0; k < WARM + b->steps && status == IE_OK; k++) {
    if (k == WARM) begin = ie_clock_s();
    status = step(b, from, ids, (uint64_t)k, error);
    for (int64_t i = 0; i < b->batch; i++) *hash = (*hash ^ (uint64_t)ids[i]) * 1099511628211u;
  }
  if (status != IE_OK) return status;
  double took = ie_clock_s() - begin;
  const char *note = ie_device_note(b->model->device);
  printf("{\"bench\":\"decode\",\"batch\":%lld,\"overlap\":%s,\"ids\":\"%s\",\"step_us\":%.1f,\"tok_s\":%.1f,"
         "\"replayed\":%s,\"note\":\"%s\"}\n",
         (long long)b->batch, b->overlap ? "true" : "false", from_name[from], 1e6 * took / (double)b->steps,
         (double)(b->steps * b->batch) / took,
         cuda_runner_counts(b->state->runner).replayed > replayed ? "true" : "false", note ? note : "");
  fflush(stdout);
  return IE_OK;
}

/* Both ways for one batch; *same: the ids were. */
static ie_status batch_run(bench *b, cuda_device *device, bool *same, ie_error *error) {
  uint64_t hash[2][FROM_COUNT];
  const ie_state_options options = {.context_tok = DEPTH + WARM + b->steps, .sequences = b->batch};
  ie_status status = ie_state_new(b->model, &options, &b->state, error);
  for (int overlap = 0; overlap < 2 && status == IE_OK; overlap++) {
    cuda_overlap(device, b->overlap = overlap);
    for (int from = 0; from < FROM_COUNT && status == IE_OK; from++)
      status = run(b, (ids_from)from, &hash[overlap][from], error);
  }
  *same = status == IE_OK && !memcmp(hash[0], hash[1], sizeof hash[0]);
  ie_state_free(b->state);
  return status;
}

int main(int argc, char **argv) {
  bool small = argc > 2 && !strcmp(argv[2], "--small"), same = true;
  ie_error error = {0};
  ie_device *device;
  bench b = {0};
  if (argc < 2) return fail("expected a model's directory", &error);
  if (ie_device_open(&(ie_device_options){.kind = "cuda"}, &device, &error) != IE_OK)
    return fail("open", &error);
  ie_status status = ie_model_open(device, argv[1], &(ie_model_options){0}, &b.model, &error);
  const int64_t batches[] = {small ? 2 : 1, 8, BATCH_MAX};
  for (int i = 0; i < (small ? 1 : 3) && status == IE_OK && same; i++) {
    b.batch = batches[i];
    b.steps = small ? 1 : 48;
    status = batch_run(&b, cuda_of(device), &same, &error);
  }
  if (status != IE_OK) fail("decode", &error);
  if (!same && status == IE_OK)
    fprintf(stderr, "gpu_bench: ids of batch %d depend on the overlap\n", (int)b.batch);
  ie_model_free(b.model);
  ie_device_free(device);
  return status != IE_OK || !same;
}
