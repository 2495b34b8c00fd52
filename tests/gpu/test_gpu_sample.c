/* Ids that the device draws from logits which stay there: those of the host's sampler for the same seed, from the CPU's
 * logits and from the device's own; alone, and in a batch of requests of which some read prompts meanwhile. What needs
 * logits on the host (logprobs) gets them there, and draws the same. */
#include "clocher/scheduler.h"
#include "cuda/cuda.h"
#include "engine/state.h"
#include "support/golden.h"

#include <math.h>
#include <string.h>

#include <cmocka.h>

static const char model_dir[] = "tests/data/models/qwen3";
static const int32_t prompt[] = {3, 1, 4, 1, 5, 9, 2, 6};
enum { PROMPT = sizeof prompt / sizeof prompt[0], NEW_TOK = 5, REQUESTS = 5 };

static const ie_sample_params settings[REQUESTS] = {
    {.greedy = true},
    {.temperature = 0.8, .top_k = 40, .top_p = 0.9, .seed = 5},
    {.temperature = 1.3, .repetition_penalty = 1.2, .seed = 9},
    {.greedy = true, .repetition_penalty = 1.5},
    {.min_p = 0.05, .seed = 11}};

typedef struct opened {
  ie_device *device;
  ie_model *model;
  ie_state *state;
} opened;

static opened open_on(const char *kind, int64_t sequences) {
  opened o = {0};
  ie_error error = {0};
  const ie_model_options options = {.precision = IE_PRECISION_FP32};
  if (ie_device_open(&(ie_device_options){.kind = kind, .threads = 1}, &o.device, &error) != IE_OK ||
      ie_model_open(o.device, model_dir, &options, &o.model, &error) != IE_OK ||
      ie_state_new(o.model, &(ie_state_options){.context_tok = 64, .sequences = sequences}, &o.state,
                   &error) != IE_OK)
    fail_msg("%s", error.message);
  return o;
}

static void close_all(opened *o) {
  ie_state_free(o->state);
  ie_model_free(o->model);
  ie_device_free(o->device);
}

static ie_generate_options request_of(int i, int logprobs) {
  return (ie_generate_options){.prompt = prompt,
                               .prompt_count = PROMPT - i, /* of different lengths */
                               .max_new = NEW_TOK,
                               .ignore_eos = true,
                               .sample = settings[i],
                               .row = (uint64_t)i,
                               .logprobs = logprobs};
}

static void generate(const opened *o, int i, int logprobs, int32_t ids[NEW_TOK]) {
  const ie_generate_options options = request_of(i, logprobs);
  ie_generate_result result;
  ie_error error = {0};
  if (ie_generate(o->state, 0, &options, &result, &error) != IE_OK) fail_msg("%s", error.message);
  assert_int_equal(result.ids.count, NEW_TOK);
  memcpy(ids, result.ids.ids, NEW_TOK * sizeof *ids);
  ie_generate_result_free(&result);
}

static void ids_equal(const int32_t *found, const int32_t *expected, int i, const char *what) {
  for (int k = 0; k < NEW_TOK; k++)
    if (found[k] != expected[k])
      fail_msg("%s, settings %d: id %d is %d, expected %d", what, i, k, found[k], expected[k]);
}

static void draws_are_the_hosts(void **opaque) {
  (void)opaque;
  opened cpu = open_on("cpu", 1), cuda = open_on("cuda", 1);
  for (int i = 0; i < REQUESTS; i++) {
    int32_t expected[NEW_TOK], host[NEW_TOK], device[NEW_TOK];
    generate(&cpu, i, /*logprobs=*/0, expected);
    generate(&cuda, i, /*logprobs=*/1, host);
    assert_non_null(ie_state_logits(cuda.state));
    generate(&cuda, i, /*logprobs=*/0, device);
    assert_null(ie_state_logits(cuda.state)); /* they have stayed there */
    ids_equal(host, expected, i, "drawn on the host from the device's logits");
    ids_equal(device, expected, i, "drawn on the device");
  }
  assert_true(cuda_runner_counts(cuda.state->runner).replayed > 0);
  close_all(&cpu);
  close_all(&cuda);
}

/* All requests at once; that of number `logprobs` (or none, -1) wants logprobs. */
static void schedule(const opened *o, int logprobs, int32_t ids[REQUESTS][NEW_TOK]) {
  ie_scheduler *scheduler;
  ie_error error = {0};
  uint64_t request[REQUESTS];
  int ended = 0;
  if (ie_scheduler_new(o->state, &scheduler, &error) != IE_OK) fail_msg("%s", error.message);
  for (int i = 0; i < REQUESTS; i++) {
    const ie_generate_options options = request_of(i, i == logprobs ? 2 : 0);
    if (ie_scheduler_submit(scheduler, &options, &request[i], &error) != IE_OK) fail_msg("%s", error.message);
  }
  for (int steps = 0; ended < REQUESTS && steps < 100; steps++) {
    const ie_event *event;
    size_t n = ie_scheduler_step(scheduler, NULL, NULL, &event);
    for (size_t k = 0; k < n; k++) {
      if (event[k].status != IE_OK) fail_msg("%s", event[k].error.message);
      if (!event[k].ended) continue;
      for (int i = 0; i < REQUESTS; i++)
        if (event[k].request == request[i]) memcpy(ids[i], event[k].result->ids.ids, sizeof ids[i]);
      ended++;
    }
  }
  assert_int_equal(ended, REQUESTS);
  ie_scheduler_free(scheduler);
}

static void batches_draw_as_alone(void **opaque) {
  (void)opaque;
  opened cpu = open_on("cpu", 1), cuda = open_on("cuda", 3);
  int32_t ids[REQUESTS][NEW_TOK], mixed[REQUESTS][NEW_TOK], expected[NEW_TOK];
  schedule(&cuda, -1, ids);
  schedule(&cuda, 2, mixed);
  for (int i = 0; i < REQUESTS; i++) {
    generate(&cpu, i, /*logprobs=*/0, expected);
    ids_equal(ids[i], expected, i, "in a batch");
    ids_equal(mixed[i], expected, i, "in a batch beside one with logprobs");
  }
  close_all(&cpu);
  close_all(&cuda);
}

/* What only a sampler would find: a row without any number above -infinity cannot come from a forward, so the row is put
 * to the drawing itself. */
static void rows_without_a_choice_are_refused(void **opaque) {
  (void)opaque;
  opened cuda = open_on("cuda", 1);
  cuda_device *device = cuda_of(cuda.device);
  enum { V = 100 };
  float row[V];
  void *logits;
  ie_error error = {0};
  cuda_draw draw;
  const ie_runner_options options = {.batch_max = 1, .wanted_max = 1, .vocab = V, .draw_max = 1};
  for (int i = 0; i < V; i++) row[i] = -INFINITY;
  assert_int_equal(cuda_draw_open(device, &options, &draw, &error), IE_OK);
  assert_int_equal(ie_memory_take(cuda.device, sizeof row, "logits", &logits, &error), IE_OK);
  for (int i = 0; i < 2; i++) {
    ie_draw_row want = {.params = &settings[i], .seen = prompt, .seen_count = PROMPT};
    ie_cuda_fault fault;
    assert_int_equal(ie_memory_write(cuda.device, logits, row, sizeof row, &error), IE_OK);
    assert_int_equal(ie_cuda_fault_clear(&device->queue, device->fault), cudaSuccess);
    assert_int_equal(cuda_draw_launch(&draw, &device->queue, logits, &want, 1,
                                      (ie_cuda_check){.fault = device->fault, .where = CUDA_CHECK_DRAW}),
                     cudaSuccess);
    assert_int_equal(ie_memory_read(cuda.device, &fault, device->fault, sizeof fault, &error), IE_OK);
    assert_int_equal(IE_CUDA_FAULT_WHERE(fault), CUDA_CHECK_DRAW);
    cuda_draw_read(&draw, &want, 1);
    assert_int_equal(want.id, 0);
    assert_int_equal(cuda_draw_launch(&draw, &device->queue, logits, &want, 2, (ie_cuda_check){0}),
                     cudaErrorInvalidValue);
  }
  ie_memory_give(cuda.device, logits, sizeof row);
  cuda_draw_close(device, &draw);
  close_all(&cuda);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(draws_are_the_hosts),
                                     cmocka_unit_test(batches_draw_as_alone),
                                     cmocka_unit_test(rows_without_a_choice_are_refused)};
  return cmocka_run_group_tests_name("gpu sample", tests, NULL, NULL);
}
