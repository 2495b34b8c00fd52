/* Prefill with what can be switched while the program runs, one JSON object a line: products by mma.sync, by wgmma where
 * they are large or always; whole prompts and prompts in chunks. Logits may depend on that ("away": the largest difference
 * from "never", of its largest logit), since sums are taken in another order and random weights leave routers tied; but
 * equal runs must give equal bits, which a race does not, and none of them is NaN. Run by scripts/gpu_check.sh, stage speed.
 *
 *   gpu_prefill MODEL_DIR [--small]     --small: a prompt of 40 tokens, to try it over the emulator */
#include "cuda/cuda.h"
#include "engine/state.h"

#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 2048, SMALL_PROMPT = 40, RUNS = 4 };

static const char *const wgmma_name[] = {"never", "large", "always"};

static int fail(const char *what, const ie_error *error) {
  fprintf(stderr, "gpu_prefill: %s: %s\n", what, error->message);
  return 1;
}

static int64_t largest_of(const float *x, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; i++)
    if (x[i] > x[best]) best = i;
  return best;
}

/* The largest difference of two rows, of the largest number of the second; NaN when there is one in either. */
static double distance_of(const float *x, const float *from, int64_t n) {
  double most = 0, largest = 0;
  for (int64_t i = 0; i < n; i++) {
    double d = fabs((double)x[i] - (double)from[i]);
    if (!(d <= most)) most = d;
    if (isnan(most)) return most;
    largest = fmax(largest, fabs((double)from[i]));
  }
  return largest > 0 ? most / largest : most;
}

/* Keeps the first run's logits; the others must equal them. */
static ie_status logits_repeat(const float *logits, float *kept, int run, int64_t V, ie_error *error) {
  if (run == 0) memcpy(kept, logits, (size_t)V * sizeof *kept);
  if (isnan(distance_of(logits, kept, V))) return ie_error_set(error, IE_NUMERIC, "a logit is NaN");
  if (memcmp(logits, kept, (size_t)V * sizeof *kept) != 0)
    return ie_error_set(error, IE_INTERNAL, "run %d gave other logits than the first", run);
  return IE_OK;
}

/* The best of several runs, the first one not counted. logits: two rows, this setting's and those of "never". */
static ie_status prompt_run(ie_model *model, int64_t count, int64_t chunk, int runs, float *logits,
                            ie_error *error) {
  const ie_state_options options = {.context_tok = count, .chunk_tok = chunk};
  const cuda_device *device = cuda_of(model->device);
  int64_t V = ie_model_describe(model)->vocab;
  float *never = logits + V;
  ie_state *state = NULL;
  double best = 0;
  int32_t *ids = malloc((size_t)count * sizeof *ids);
  if (!ids) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a prompt");
  for (int64_t i = 0; i < count; i++) ids[i] = (int32_t)(1 + i * 7919 % (V - 1));
  ie_status status = ie_state_new(model, &options, &state, error);
  for (int i = 0; i < runs && status == IE_OK; i++) {
    status = ie_state_rollback(state, 0, 0, error);
    double begin = ie_clock_s();
    if (status == IE_OK) status = ie_state_append(state, 0, ids, count, NULL, error);
    double took = ie_clock_s() - begin;
    if (i > 0 && (best == 0 || took < best)) best = took;
    if (status == IE_OK) status = logits_repeat(ie_state_logits(state), logits, i, V, error);
  }
  free(ids);
  if (status == IE_OK) {
    if (device->queue.wgmma == IE_CUDA_WGMMA_NEVER) memcpy(never, logits, (size_t)V * sizeof *never);
    printf("{\"bench\":\"prefill\",\"tokens\":%lld,\"chunk\":%lld,\"wgmma\":\"%s\",\"ms\":%.2f,"
           "\"tok_s\":%.0f,\"largest\":%lld,\"away\":%.2e}\n",
           (long long)count, (long long)chunk, wgmma_name[device->queue.wgmma], 1e3 * best,
           (double)count / best, (long long)largest_of(logits, V), distance_of(logits, never, V));
    fflush(stdout);
  }
  ie_state_free(state);
  return status;
}

int main(int argc, char **argv) {
  bool small = argc > 2 && !strcmp(argv[2], "--small");
  ie_error error = {0};
  ie_device *device;
  ie_model *model = NULL;
  if (argc < 2) return fail("expected a model's directory", &error);
  if (ie_device_open(&(ie_device_options){.kind = "cuda"}, &device, &error) != IE_OK)
    return fail("open", &error);
  ie_status status = ie_model_open(device, argv[1], &(ie_model_options){0}, &model, &error);
  int64_t count = small ? SMALL_PROMPT : PROMPT, V = status == IE_OK ? ie_model_describe(model)->vocab : 1;
  float *logits = calloc((size_t)(2 * V), sizeof *logits);
  if (!logits && status == IE_OK) status = ie_error_set(&error, IE_OUT_OF_MEMORY, "out of memory for logits");
  for (int64_t chunk = count; chunk >= (small ? count : count / 4) && status == IE_OK; chunk /= 2)
    for (int wgmma = IE_CUDA_WGMMA_NEVER; wgmma <= IE_CUDA_WGMMA_ALWAYS && status == IE_OK; wgmma++) {
      cuda_wgmma(cuda_of(device), (ie_cuda_wgmma)wgmma);
      if ((int)cuda_of(device)->queue.wgmma == wgmma)
        status = prompt_run(model, count, chunk, small ? 2 : RUNS, logits, &error);
    }
  if (status != IE_OK) fail("prefill", &error);
  free(logits);
  ie_model_free(model);
  ie_device_free(device);
  return status != IE_OK;
}
