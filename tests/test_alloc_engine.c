/* The engine and memory: the n-th allocation fails over load, prompt, token, save and restore; and no allocation at
 * all happens while tokens are computed. */
#include "support/failing_malloc.h"

#include "clocher/clocher.h"
#include "engine/streaming.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char mxfp4_dir[] = "tests/data/models/gpt-oss-hf";
static const char tied_dir[] = "tests/data/models/qwen3";               /* the head is the embedding */
static const char input_first_dir[] = "tests/data/models/gpt-oss-bf16"; /* transposed at load */

static const int32_t prompt[] = {5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
enum { PROMPT = sizeof prompt / sizeof prompt[0], NEW = 3, CONTEXT = 32 };

static char state_path[64];

/* From nothing to generated ids, a saved state and a restored one. */
static ie_status run_all(const char *dir, ie_weights weights, ie_device *device, ie_error *error) {
  ie_model *model = NULL;
  ie_state *state = NULL, *restored = NULL;
  ie_generate_result result = {0};
  const ie_state_options options = {.context_tok = CONTEXT, .chunk_tok = 5};
  const ie_model_options how = {.precision = IE_PRECISION_FP32, .dense_weights = weights};
  ie_status status = ie_model_open(device, dir, &how, &model, error);
  if (status == IE_OK) status = ie_state_new(model, &options, &state, error);
  if (status == IE_OK)
    status = ie_generate(state, 0,
                         &(ie_generate_options){.prompt = prompt,
                                                .prompt_count = PROMPT,
                                                .max_new = NEW,
                                                .ignore_eos = true,
                                                .logprobs = 2,
                                                .sample = {.temperature = 0.8, .top_k = 5, .top_p = 0.9}},
                         &result, error);
  if (status == IE_OK) status = ie_state_save(state, 0, state_path, error);
  if (status == IE_OK) status = ie_state_new(model, &options, &restored, error);
  if (status == IE_OK) status = ie_state_load(restored, 0, state_path, error);
  if (status == IE_OK && (result.ids.count != NEW || ie_state_length(restored, 0) != PROMPT + NEW - 1))
    status = ie_error_set(error, IE_INTERNAL, "generated or restored something else");
  ie_generate_result_free(&result);
  ie_state_free(restored);
  ie_state_free(state);
  ie_model_free(model);
  return status;
}

/* Three requests on two sequences, with text and without an end of their own. */
static ie_status run_scheduler(ie_model *model, ie_error *error) {
  ie_state *state = NULL;
  ie_scheduler *scheduler = NULL;
  ie_status status =
      ie_state_new(model, &(ie_state_options){.context_tok = CONTEXT, .sequences = 2}, &state, error);
  if (status == IE_OK) status = ie_scheduler_new(state, &scheduler, error);
  for (int i = 0; i < 3 && status == IE_OK; i++) {
    uint64_t id;
    ie_generate_options o = {.prompt = prompt + i,
                             .prompt_count = PROMPT - 2 * i,
                             .max_new = NEW,
                             .ignore_eos = true,
                             .logprobs = 2};
    status = ie_scheduler_submit(scheduler, &o, &id, error);
  }
  while (status == IE_OK && ie_scheduler_running(scheduler) + ie_scheduler_waiting(scheduler) > 0) {
    const ie_event *events;
    size_t count = ie_scheduler_step(scheduler, NULL, NULL, &events);
    for (size_t i = 0; i < count && status == IE_OK; i++)
      if (events[i].ended && events[i].status != IE_OK) {
        status = events[i].status;
        *error = events[i].error;
      }
  }
  ie_scheduler_free(scheduler);
  ie_state_free(state);
  return status;
}

static ie_status run_together(void *arg, ie_error *error) {
  (void)arg;
  ie_device *device;
  ie_model *model = NULL;
  ie_status status = ie_device_open(&(ie_device_options){.threads = 1}, &device, error);
  if (status != IE_OK) return status;
  status = ie_model_open(device, mxfp4_dir, NULL, &model, error);
  if (status == IE_OK) status = run_scheduler(model, error);
  ie_model_free(model);
  ie_device_free(device);
  return status;
}

/* Windows over a text, by two states of one model. */
static ie_status run_perplexity(void *arg, ie_error *error) {
  (void)arg;
  ie_device *device;
  ie_model *model = NULL;
  ie_state *state = NULL, *against = NULL;
  ie_perplexity_result result = {0};
  const ie_state_options options = {.context_tok = 7, .sequences = 2, .chunk_tok = 9};
  ie_status status = ie_device_open(&(ie_device_options){.threads = 1}, &device, error);
  if (status != IE_OK) return status;
  status = ie_model_open(device, mxfp4_dir, NULL, &model, error);
  if (status == IE_OK) status = ie_state_new(model, &options, &state, error);
  if (status == IE_OK) status = ie_state_new(model, &options, &against, error);
  if (status == IE_OK)
    status = ie_perplexity(
        state, against,
        &(ie_perplexity_options){.ids = prompt, .count = PROMPT, .window_tok = 8, .stride_tok = 3}, &result,
        error);
  ie_state_free(against);
  ie_state_free(state);
  ie_model_free(model);
  ie_device_free(device);
  if (status == IE_OK && (result.tokens != PROMPT - 1 || result.kl_mean != 0))
    status = ie_error_set(error, IE_INTERNAL, "measured something else");
  return status;
}

static ie_status run_with_device(const char *dir, ie_weights weights, ie_error *error) {
  ie_device *device;
  ie_status status = ie_device_open(&(ie_device_options){.threads = 2}, &device, error);
  if (status == IE_LIMIT) return ie_error_set(error, IE_OUT_OF_MEMORY, "the system refused a thread");
  if (status != IE_OK) return status;
  status = run_all(dir, weights, device, error);
  ie_device_free(device);
  return status;
}

/* The same model with its experts read from disk: opened, placed, a prompt and a token, closed. */
static ie_status run_streamed(void *arg, ie_error *error) {
  const ie_stream_options *how = arg;
  ie_device *device;
  ie_model *model = NULL;
  ie_state *state = NULL;
  ie_state_sizes sizes;
  ie_placement place;
  const ie_state_options options = {.context_tok = CONTEXT, .chunk_tok = 5};
  ie_status status = ie_device_open(&(ie_device_options){.threads = 1}, &device, error);
  if (status != IE_OK) return status;
  status = ie_model_open(device, mxfp4_dir, NULL, &model, error);
  if (status == IE_OK) status = ie_state_size(model, &options, &sizes, error);
  if (status == IE_OK && !ie_placement_split(model, &sizes, 0, &place))
    status = ie_error_set(error, IE_INTERNAL, "the model cannot be split");
  if (status == IE_OK) status = ie_stream_open(model, &place, how, error);
  if (status == IE_OK) status = ie_state_new(model, &options, &state, error);
  if (status == IE_OK) status = ie_state_append(state, 0, prompt, PROMPT, NULL, error);
  if (status == IE_OK) status = ie_state_append(state, 0, prompt, 1, NULL, error);
  ie_state_free(state);
  ie_model_free(model);
  ie_device_free(device);
  return status;
}

static ie_status run_streamed_uring(void *arg, ie_error *error) {
  (void)arg;
  return run_streamed(&(ie_stream_options){.reader = {.kind = IE_READER_AUTO}}, error);
}

static ie_status run_streamed_threads(void *arg, ie_error *error) {
  (void)arg;
  return run_streamed(&(ie_stream_options){.reader = {.kind = IE_READER_THREADS, .depth = 2}}, error);
}

static ie_status run_mxfp4(void *arg, ie_error *error) {
  (void)arg;
  return run_with_device(mxfp4_dir, IE_WEIGHTS_PUBLISHED, error);
}

static ie_status run_input_first(void *arg, ie_error *error) {
  (void)arg;
  return run_with_device(input_first_dir, IE_WEIGHTS_PUBLISHED, error);
}

static ie_status run_quantised(void *arg, ie_error *error) {
  (void)arg;
  return run_with_device(mxfp4_dir, IE_WEIGHTS_INT8, error);
}

static ie_status run_quantised_tied(void *arg, ie_error *error) {
  (void)arg;
  return run_with_device(tied_dir, IE_WEIGHTS_INT4, error);
}

/* An inspection that runs out of memory half-way may say so as a problem of the directory. */
static ie_status run_inspect(void *arg, ie_error *error) {
  (void)arg;
  ie_inspection *inspection;
  ie_status status = ie_inspect_open(mxfp4_dir, &inspection, error);
  if (status == IE_OK) ie_inspect_free(inspection);
  return status;
}

static const failing_case cases[] = {
    /* a folder's fsync and a thread can be done without */
    {.name = "engine: MXFP4 experts", .run = run_mxfp4, .tolerant = true},
    {.name = "engine: experts stored input-first", .run = run_input_first, .tolerant = true},
    {.name = "engine: weights quantised at load", .run = run_quantised, .tolerant = true},
    {.name = "engine: a tied head quantised at load", .run = run_quantised_tied, .tolerant = true},
    /* where direct reads cannot be tried, or a thread is missing, it reads otherwise */
    {.name = "experts from disk, io_uring", .run = run_streamed_uring, .tolerant = true},
    {.name = "experts from disk, threads", .run = run_streamed_threads, .tolerant = true},
    {.name = "engine: a scheduler", .run = run_together, .tolerant = true},
    {.name = "perplexity", .run = run_perplexity, .tolerant = true},
    {.name = "inspect", .run = run_inspect, .tolerant = true},
};
enum { CASES = sizeof cases / sizeof cases[0] };

static void exhaust(void **state) {
  failing_malloc_exhaust(*state, NULL);
}

/* Prompt chunks, single tokens, steps and rollback: nothing is allocated. */
static void tokens_allocate_nothing(void **unused) {
  (void)unused;
  ie_error error = {0};
  ie_device *device;
  ie_model *model;
  ie_state *state;
  assert_int_equal(ie_device_open(&(ie_device_options){.threads = 2}, &device, &error), IE_OK);
  assert_int_equal(ie_model_open(device, mxfp4_dir, NULL, &model, &error), IE_OK);
  assert_int_equal(ie_state_new(model,
                                &(ie_state_options){.context_tok = CONTEXT, .chunk_tok = 5, .sequences = 2},
                                &state, &error),
                   IE_OK);
  const float *logits;
  int32_t id = prompt[0];
  failing_malloc_arm(1, FAILING_FOREVER);
  ie_status prompt_status = ie_state_append(state, 0, prompt, PROMPT, NULL, &error);
  ie_status token_status = ie_state_append(state, 0, &id, 1, NULL, &error);
  ie_status step_status =
      ie_state_step(state, (const int32_t[]){1, 0}, (const int32_t[]){3, 4}, 2, &logits, &error);
  ie_advance rows[2] = {{.sequence = 0, .ids = prompt, .count = 4, .wanted = 1},
                        {.sequence = 1, .ids = prompt, .count = 1, .wanted = 1}};
  ie_status advance_status = ie_state_advance(state, rows, 2, NULL, &error);
  ie_status back_status = ie_state_rollback(state, 0, 4, &error);
  bool failed = failing_malloc_disarm();
  assert_int_equal(prompt_status, IE_OK);
  assert_int_equal(token_status, IE_OK);
  assert_int_equal(step_status, IE_OK);
  assert_int_equal(advance_status, IE_OK);
  assert_int_equal(back_status, IE_OK);
  assert_false(failed);
  ie_state_free(state);
  ie_model_free(model);
  ie_device_free(device);
}

int main(void) {
  struct CMUnitTest tests[CASES + 1];
  snprintf(state_path, sizeof state_path, "/tmp/clocher-alloc.%d.safetensors", (int)getpid());
  for (int i = 0; i < CASES; i++)
    tests[i] = (struct CMUnitTest){
        .name = cases[i].name, .test_func = exhaust, .initial_state = (void *)(uintptr_t)&cases[i]};
  tests[CASES] = (struct CMUnitTest)cmocka_unit_test(tokens_allocate_nothing);
  failing_malloc_install();
  int failed = _cmocka_run_group_tests("alloc_engine", tests, CASES + 1, NULL, NULL);
  failing_malloc_uninstall();
  unlink(state_path);
  return failed;
}
