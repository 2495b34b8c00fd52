/* Decode with what can be switched while the program runs, one JSON object a line: launches that overlap or not, and the
 * largest logit's id, the logits copied to the host, or an id drawn on the device. Run by scripts/gpu_check.sh, stage speed.
 *
 * Each line proves what it measured; status 1 when something differs:
 *   - hash: of all ids of the run, and of the last logits bit by bit; it must not depend on the overlap;
 *   - the logits on the host get the ids that "largest" found, and after the last step their largest must be its last id;
 *   - the last draw is repeated from logits on the host by the engine's sampler, which must draw the same.
 *
 *   gpu_bench MODEL_DIR [--small]     --small: two sequences and a token, to try it over the emulator */
#include "cuda/cuda.h"
#include "engine/state.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH_MAX = 64, DEPTH = 64, WARM = 2, STEPS_MAX = 48 }; /* launched, recorded, then replayed */

typedef enum ids_from { FROM_LARGEST, FROM_LOGITS, FROM_DRAW, FROM_COUNT } ids_from;
static const char *const from_name[FROM_COUNT] = {"largest", "logits on the host", "drawn"};
static const ie_sample_params drawn = {.temperature = 0.7, .top_k = 50, .top_p = 0.95, .seed = 1};

typedef struct bench {
  ie_model *model;
  ie_state *state;
  int64_t batch, steps, vocab;
  bool overlap;
  int wrong;        /* proofs that failed */
  double read_gb_s; /* the chip's */
  int32_t ids[WARM + STEPS_MAX + 1]
             [BATCH_MAX]; /* that went into each step, and those that the last one gave */
  int32_t chosen[WARM + STEPS_MAX + 1][BATCH_MAX]; /* the same of "largest" */
} bench;

static int fail(const char *what, const ie_error *error) {
  fprintf(stderr, "gpu_bench: %s: %s\n", what, error->message);
  return 1;
}

static void hash_add(uint64_t *hash, const void *data, size_t bytes) {
  const uint8_t *byte = data;
  for (size_t i = 0; i < bytes; i++) *hash = (*hash ^ byte[i]) * 1099511628211u;
}

/* Step k of all sequences: ids[k] go in, ids[k + 1] come out. */
static ie_status step(bench *b, ids_from from, int64_t k, const float **logits, ie_error *error) {
  static const ie_sample_params largest = {.greedy = true};
  ie_advance row[BATCH_MAX];
  ie_draw_row draw[BATCH_MAX];
  for (int64_t i = 0; i < b->batch; i++) {
    row[i] = (ie_advance){.sequence = i, .ids = &b->ids[k][i], .count = 1, .wanted = 1};
    draw[i] = (ie_draw_row){
        .params = from == FROM_DRAW ? &drawn : &largest, .row = (uint64_t)i, .step = (uint64_t)k};
  }
  ie_state_draw_next(b->state, from == FROM_LOGITS ? NULL : draw, b->batch);
  ie_status status = ie_state_advance(b->state, row, b->batch, NULL, error);
  ie_state_draw_next(b->state, NULL, 0);
  if (status != IE_OK) return status;
  for (int64_t i = 0; i < b->batch; i++)
    b->ids[k + 1][i] = from == FROM_LOGITS ? b->chosen[k + 1][i] : draw[i].id;
  *logits = row[0].logits; /* the rows lie one after the other */
  return IE_OK;
}

static ie_status begin(bench *b, ie_error *error) {
  ie_status status = IE_OK;
  for (int64_t i = 0; i < b->batch && status == IE_OK; i++) {
    b->ids[0][i] = (int32_t)(1 + i);
    status = ie_state_rollback(b->state, i, 0, error);
    if (status == IE_OK) status = ie_state_fill_random(b->state, i, DEPTH, error);
  }
  return status;
}

/* --- Proofs --------------------------------------------------------------------------------------------------- */

static void differs(bench *b, int64_t row, const char *what, int32_t found) {
  fprintf(stderr, "gpu_bench: row %lld of batch %lld: %s, the device had id %d\n", (long long)row,
          (long long)b->batch, what, (int)found);
  b->wrong++;
}

/* The largest of the last logits is what "largest" gave. */
static void logits_compare(bench *b, const float *logits) {
  const int32_t *last = b->chosen[WARM + b->steps];
  for (int64_t i = 0; i < b->batch; i++) {
    const float *x = logits + i * b->vocab;
    int64_t best = 0;
    for (int64_t v = 1; v < b->vocab; v++)
      if (x[v] > x[best]) best = v;
    if (best != last[i]) differs(b, i, "the logits have another largest one", last[i]);
  }
}

/* The last step once more, with logits on the host: the engine's sampler draws from them what the device drew. */
static ie_status draws_compare(bench *b, ie_error *error) {
  int64_t k = WARM + b->steps - 1;
  int32_t found[BATCH_MAX], id = 0;
  const float *logits = NULL;
  ie_sampler *sampler;
  ie_status status = ie_sampler_new_default(&drawn, b->vocab, &sampler, error);
  if (status != IE_OK) return status;
  memcpy(found, b->ids[k + 1], sizeof found);
  for (int64_t i = 0; i < b->batch && status == IE_OK; i++)
    status = ie_state_rollback(b->state, i, DEPTH + k, error);
  if (status == IE_OK) status = step(b, FROM_LOGITS, k, &logits, error);
  for (int64_t i = 0; i < b->batch && status == IE_OK; i++) {
    const ie_sample_input input = {
        .logits = logits + i * b->vocab, .vocab = b->vocab, .step = (uint64_t)k, .row = (uint64_t)i};
    status = ie_sampler_draw(sampler, &input, &id, error);
    if (status == IE_OK && id != found[i]) differs(b, i, "the host draws another one", found[i]);
  }
  ie_sampler_free(sampler);
  return status;
}

/* --- Runs ----------------------------------------------------------------------------------------------------- */

typedef struct timing {
  double took;
  ie_state_work work; /* before */
  uint64_t replayed;  /* before */
} timing;

static void report(const bench *b, ids_from from, const timing *t, uint64_t hash) {
  ie_state_work after = ie_state_work_done(b->state);
  uint64_t bytes = after.weight_bytes + after.kv_bytes - t->work.weight_bytes - t->work.kv_bytes;
  bool replayed = cuda_runner_counts(b->state->runner).replayed == t->replayed + (uint64_t)b->steps;
  double gb_s = 1e-9 * (double)bytes / t->took;
  const char *note = ie_device_note(b->model->device);
  printf("{\"bench\":\"decode\",\"batch\":%lld,\"overlap\":%s,\"ids\":\"%s\",\"step_us\":%.1f,\"tok_s\":%.1f,"
         "\"gb_s\":%.1f,\"share\":%.3f,\"replayed\":%s,\"hash\":\"%016llx\",\"note\":\"%s\"}\n",
         (long long)b->batch, b->overlap ? "true" : "false", from_name[from],
         1e6 * t->took / (double)b->steps, (double)(b->steps * b->batch) / t->took, gb_s,
         b->read_gb_s > 0 ? gb_s / b->read_gb_s : 0, replayed ? "true" : "false", (unsigned long long)hash,
         note ? note : "");
  fflush(stdout);
}

static ie_status run(bench *b, ids_from from, uint64_t *hash, ie_error *error) {
  const float *logits = NULL;
  timing t = {0};
  ie_status status = begin(b, error);
  for (int64_t k = 0; k < WARM && status == IE_OK; k++) status = step(b, from, k, &logits, error);
  t.work = ie_state_work_done(b->state);
  t.replayed = cuda_runner_counts(b->state->runner).replayed;
  double start = ie_clock_s();
  for (int64_t k = WARM; k < WARM + b->steps && status == IE_OK; k++)
    status = step(b, from, k, &logits, error);
  t.took = ie_clock_s() - start;
  if (status != IE_OK) return status;
  *hash = 14695981039346656037u;
  for (int64_t k = 0; k <= WARM + b->steps; k++)
    hash_add(hash, b->ids[k], (size_t)b->batch * sizeof **b->ids);
  if (from == FROM_LOGITS) hash_add(hash, logits, (size_t)(b->batch * b->vocab) * sizeof *logits);
  report(b, from, &t, *hash);
  if (from == FROM_LARGEST) memcpy(b->chosen, b->ids, sizeof b->chosen);
  if (from == FROM_LOGITS) logits_compare(b, logits);
  return from == FROM_DRAW ? draws_compare(b, error) : status;
}

/* All ways for one batch. */
static ie_status batch_run(bench *b, cuda_device *device, ie_error *error) {
  uint64_t hash[2][FROM_COUNT];
  const ie_state_options options = {.context_tok = DEPTH + WARM + b->steps, .sequences = b->batch};
  ie_status status = ie_state_new(b->model, &options, &b->state, error);
  for (int overlap = 0; overlap < 2 && status == IE_OK; overlap++) {
    cuda_overlap(device, b->overlap = overlap);
    for (int from = 0; from < FROM_COUNT && status == IE_OK; from++)
      status = run(b, (ids_from)from, &hash[overlap][from], error);
  }
  for (int from = 0; from < FROM_COUNT && status == IE_OK; from++) {
    if (hash[0][from] == hash[1][from]) continue;
    fprintf(stderr, "gpu_bench: batch %lld, %s: it depends on the overlap\n", (long long)b->batch,
            from_name[from]);
    b->wrong++;
  }
  ie_state_free(b->state);
  return status;
}

int main(int argc, char **argv) {
  static bench b;
  bool small = argc > 2 && !strcmp(argv[2], "--small");
  ie_error error = {0};
  ie_device *device;
  ie_ceilings ceilings = {0};
  if (argc < 2) return fail("expected a model's directory", &error);
  if (ie_device_open(&(ie_device_options){.kind = "cuda"}, &device, &error) != IE_OK)
    return fail("open", &error);
  ie_status status = device->memory->probe_read(device, small ? (size_t)1 << 16 : 0, &ceilings, &error);
  b.read_gb_s = ceilings.read_gb_s;
  if (status == IE_OK) status = ie_model_open(device, argv[1], &(ie_model_options){0}, &b.model, &error);
  if (status == IE_OK) b.vocab = ie_model_describe(b.model)->vocab;
  const int64_t batches[] = {small ? 2 : 1, 8, BATCH_MAX};
  for (int i = 0; i < (small ? 1 : 3) && status == IE_OK; i++) {
    b.batch = batches[i];
    b.steps = small ? 1 : STEPS_MAX;
    status = batch_run(&b, cuda_of(device), &error);
  }
  if (status != IE_OK) fail("decode", &error);
  ie_model_free(b.model);
  ie_device_free(device);
  return status != IE_OK || b.wrong > 0;
}
