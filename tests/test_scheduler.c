/* Several generations together: each equals itself alone, whatever it shares its forwards with. */
#include "engine/state.h"
#include "support/emulated.h"
#include "support/golden.h"
#include "support/random_model.h"
#include "support/tempdir.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

enum { REQUESTS = 9, CONTEXT = 96, MAX_NEW = 12, TOP = 8 };

static golden_model golden[GOLDEN_MODELS_MAX];
static int golden_count;

static ie_device *device_open(int threads) {
  ie_error error;
  ie_device *device;
  if (ie_device_open(&(ie_device_options){.threads = threads}, &device, &error) != IE_OK)
    fail_msg("%s", error.message);
  return device;
}

static ie_model *model_open(ie_device *device, const char *dir, ie_precision precision, bool deterministic) {
  ie_error error;
  ie_model *model;
  ie_model_options options = {.precision = precision, .deterministic = deterministic};
  if (ie_model_open(device, dir, &options, &model, &error) != IE_OK) fail_msg("%s", error.message);
  return model;
}

static ie_state *state_open(ie_model *model, int64_t sequences, int64_t chunk) {
  ie_error error;
  ie_state *state;
  ie_state_options options = {.context_tok = CONTEXT, .sequences = sequences, .chunk_tok = chunk};
  if (ie_state_new(model, &options, &state, &error) != IE_OK) fail_msg("%s", error.message);
  return state;
}

/* Request i: prompts of all lengths, its own sampler, number of new tokens and row. */
static ie_generate_options request(const int32_t *ids, int64_t T, int i, bool greedy) {
  int64_t count = 1 + (i * 11) % (T < 60 ? T : 60);
  return (ie_generate_options){
      .prompt = ids + (T - count) * (i % 2),
      .prompt_count = count,
      .max_new = i == 4 ? 0 : 3 + (i * 5) % (MAX_NEW - 2),
      .sample = {.greedy = greedy || i % 3 == 0, .temperature = 1.3, .top_k = 40, .seed = (uint64_t)(i % 4)},
      .row = (uint64_t)i,
      .ignore_eos = i % 2 == 0,
      .logprobs = TOP};
}

/* All requests through a scheduler, in results[i]. */
static void run_together(ie_state *state, const ie_generate_options *options, int n,
                         ie_generate_result *results) {
  ie_error error;
  ie_scheduler *scheduler;
  uint64_t ids[REQUESTS];
  if (ie_scheduler_new(state, &scheduler, &error) != IE_OK) fail_msg("%s", error.message);
  for (int i = 0; i < n; i++)
    if (ie_scheduler_submit(scheduler, &options[i], &ids[i], &error) != IE_OK) fail_msg("%s", error.message);
  int ended = 0;
  while (ie_scheduler_running(scheduler) + ie_scheduler_waiting(scheduler) > 0) {
    const ie_event *events;
    size_t count = ie_scheduler_step(scheduler, NULL, NULL, &events);
    assert_true((int64_t)ie_scheduler_running(scheduler) <= ie_state_sequences(state));
    for (size_t e = 0; e < count; e++) {
      if (!events[e].ended) continue;
      if (events[e].status != IE_OK) fail_msg("%s", events[e].error.message);
      int i = 0;
      while (ids[i] != events[e].request) i++;
      results[i] = *events[e].result;
      *events[e].result = (ie_generate_result){0};
      ended++;
    }
  }
  assert_int_equal(ended, n);
  ie_scheduler_free(scheduler);
}

static void run_alone(ie_model *model, const ie_generate_options *options, int n,
                      ie_generate_result *results) {
  ie_error error;
  for (int i = 0; i < n; i++) {
    ie_state *state = state_open(model, 1, 0);
    if (ie_generate(state, 0, &options[i], &results[i], &error) != IE_OK) fail_msg("%s", error.message);
    ie_state_free(state);
  }
}

/* Ids, and as a fingerprint of the logits the log probabilities of the chosen ids and the best ones. */
static void results_equal(const char *name, const ie_generate_result *a, const ie_generate_result *b, int n,
                          bool bits) {
  for (int i = 0; i < n; i++) {
    if (a[i].ids.count != b[i].ids.count || a[i].reason != b[i].reason)
      fail_msg("%s: request %d has %d new ids, alone %d", name, i, (int)a[i].ids.count, (int)b[i].ids.count);
    size_t m = a[i].ids.count;
    if (m && memcmp(a[i].ids.ids, b[i].ids.ids, m * sizeof(int32_t)) != 0)
      fail_msg("%s: request %d: other ids than alone", name, i);
    if (bits && m && memcmp(a[i].top, b[i].top, m * TOP * sizeof(ie_logprob)) != 0)
      fail_msg("%s: request %d: other logits than alone", name, i);
    for (size_t k = 0; !bits && k < m; k++)
      assert_true(fabsf(a[i].logprob[k].logprob - b[i].logprob[k].logprob) < 1e-3f);
  }
}

static void results_free(ie_generate_result *results) {
  for (int i = 0; i < REQUESTS; i++) ie_generate_result_free(&results[i]);
}

/* Greedy, class fp32: the ids of each one alone, for any number of rows together. */
static void equal_to_one_at_a_time(void **state) {
  const golden_model *g = *state;
  const golden_case *c = &g->cases[g->count - 1];
  ie_device *device = device_open(2);
  ie_model *model = model_open(device, g->dir, IE_PRECISION_FP32, false);
  ie_generate_options options[REQUESTS];
  ie_generate_result alone[REQUESTS], together[REQUESTS];
  for (int i = 0; i < REQUESTS; i++) options[i] = request(c->ids, c->T, i, true);
  run_alone(model, options, REQUESTS, alone);
  for (int64_t batch = 1; batch <= 8; batch += batch < 3 ? 1 : 2 + batch % 2) {
    ie_state *st = state_open(model, batch, batch % 2 ? 0 : 16);
    run_together(st, options, REQUESTS, together);
    results_equal(g->name, together, alone, REQUESTS, false);
    results_free(together);
    ie_state_free(st);
  }
  results_free(alone);
  ie_model_free(model);
  ie_device_free(device);
}

/* Deterministic, all classes, drawn: the bits of each one alone for 1 to 8 rows, chunk sizes and threads. */
static void deterministic_to_the_bit(void **state) {
  const golden_model *g = *state;
  const golden_case *c = &g->cases[g->count - 1];
  static const ie_precision classes[] = {IE_PRECISION_FP32, IE_PRECISION_BF16, IE_PRECISION_FP16,
                                         IE_PRECISION_INT8};
  static const int64_t chunks[] = {0, 1, 7, 33};
  ie_generate_options options[REQUESTS];
  ie_generate_result alone[REQUESTS], together[REQUESTS];
  for (int i = 0; i < REQUESTS; i++) options[i] = request(c->ids, c->T, i, false);
  for (int p = 0; p < 4; p++) {
    ie_device *one = device_open(1);
    ie_model *model = model_open(one, g->dir, classes[p], true);
    run_alone(model, options, REQUESTS, alone);
    ie_model_free(model);
    ie_device_free(one);
    for (int threads = 1; threads <= 3; threads += 2) {
      ie_device *device = device_open(threads);
      model = model_open(device, g->dir, classes[p], true);
      for (int64_t batch = 1; batch <= 8; batch += emulated_step(3)) {
        ie_state *st = state_open(model, batch, chunks[(batch + threads) % 4]);
        char name[160];
        snprintf(name, sizeof name, "%s %s, %d together, %d threads", g->name, ie_precision_name(classes[p]),
                 (int)batch, threads);
        run_together(st, options, REQUESTS, together);
        results_equal(name, together, alone, REQUESTS, true);
        results_free(together);
        ie_state_free(st);
      }
      ie_model_free(model);
      ie_device_free(device);
    }
    results_free(alone);
  }
}

/* --- One model is enough --------------------------------------------------------------------------------------- */

static const golden_model *any_model(void) {
  return &golden[0];
}

/* More requests than places: each begins in its turn, and one that begins like what a place holds does not compute
 * that part again. */
static void places_are_taken_in_turn(void **state) {
  (void)state;
  const golden_model *g = any_model();
  const golden_case *c = &g->cases[g->count - 1];
  ie_device *device = device_open(2);
  ie_model *model = model_open(device, g->dir, IE_PRECISION_FP32, false);
  ie_state *st = state_open(model, 2, 0);
  ie_scheduler *scheduler;
  ie_error error;
  uint64_t id[5];
  assert_int_equal(ie_scheduler_new(st, &scheduler, &error), IE_OK);
  for (int i = 0; i < 5; i++) { /* the last one begins as the first one did */
    ie_generate_options o = request(c->ids, c->T, 0, true);
    o.prompt = i == 4 ? c->ids : c->ids + i;
    o.prompt_count = 10 + (i == 4);
    o.max_new = 2 + i;
    o.ignore_eos = true;
    assert_int_equal(ie_scheduler_submit(scheduler, &o, &id[i], &error), IE_OK);
    assert_int_equal(id[i], (uint64_t)i + 1);
  }
  assert_int_equal(ie_scheduler_waiting(scheduler), 5);
  int order[5], n = 0;
  int64_t reused = 0;
  while (ie_scheduler_running(scheduler) + ie_scheduler_waiting(scheduler) > 0) {
    const ie_event *events;
    size_t count = ie_scheduler_step(scheduler, NULL, NULL, &events);
    for (size_t e = 0; e < count; e++)
      if (events[e].ended) {
        assert_int_equal(events[e].result->ids.count, 2 + events[e].request - 1);
        if (events[e].request == 5) reused = events[e].result->reused_prompt_tok;
        order[n++] = (int)events[e].request;
      }
  }
  assert_int_equal(n, 5);
  for (int i = 0; i < 5; i++) assert_int_equal(order[i], i + 1);
  /* places: 1 and 2, then 3 behind 1, 4 behind 2, 5 behind 3, whose prompt is another: nothing is common */
  assert_int_equal(reused, 0);
  ie_scheduler_work work = ie_scheduler_work_done(scheduler);
  assert_int_equal(work.prompt_tok, 4 * 10 + 11);
  assert_true(work.decode_tok > 0 && work.decode_bytes > 0 && work.prefill_s > 0 && work.decode_s > 0);
  /* Now the place of 5 holds its prompt: the same again computes one token. */
  ie_generate_options o = request(c->ids, c->T, 0, true);
  o.prompt = c->ids, o.prompt_count = 11, o.max_new = 1;
  assert_int_equal(ie_scheduler_submit(scheduler, &o, &id[0], &error), IE_OK);
  const ie_event *events;
  assert_int_equal(ie_scheduler_step(scheduler, NULL, NULL, &events), 1);
  assert_true(events[0].ended && events[0].begun);
  assert_int_equal(events[0].result->reused_prompt_tok, 10);
  assert_int_equal(events[0].result->computed_prompt_tok, 1);
  ie_scheduler_free(scheduler);
  ie_state_free(st);
  ie_model_free(model);
  ie_device_free(device);
}

static bool say_yes(void *arg) {
  ++*(int *)arg;
  return true;
}

static void cancelled_requests_leave_the_others_alone(void **state) {
  (void)state;
  const golden_model *g = any_model();
  const golden_case *c = &g->cases[g->count - 1];
  ie_device *device = device_open(2);
  ie_model *model = model_open(device, g->dir, IE_PRECISION_BF16, true);
  ie_generate_options options[4];
  ie_generate_result alone[REQUESTS] = {0};
  for (int i = 0; i < 4; i++) {
    options[i] = request(c->ids, c->T, i, false);
    options[i].max_new = 10;
    options[i].ignore_eos = true;
  }
  run_alone(model, options, 4, alone);
  ie_state *st = state_open(model, 2, 0);
  ie_scheduler *scheduler;
  ie_error error;
  uint64_t id[4];
  assert_int_equal(ie_scheduler_new(st, &scheduler, &error), IE_OK);
  for (int i = 0; i < 4; i++)
    assert_int_equal(ie_scheduler_submit(scheduler, &options[i], &id[i], &error), IE_OK);
  int ended[4] = {0};
  for (int step = 0; ie_scheduler_running(scheduler) + ie_scheduler_waiting(scheduler) > 0; step++) {
    const ie_event *events;
    size_t count = ie_scheduler_step(scheduler, NULL, NULL, &events);
    for (size_t e = 0; e < count; e++) {
      if (!events[e].ended) continue;
      int i = (int)(events[e].request - 1);
      ended[i]++;
      assert_int_equal(events[e].status, IE_OK);
      bool stopped = i == 0 || i == 2;
      assert_int_equal(events[e].result->reason, stopped ? IE_STOP_CANCELLED : IE_STOP_LENGTH);
      assert_int_equal(events[e].begun, i != 2);
      if (i == 0) assert_int_equal(events[e].result->ids.count, 4);
      if (stopped) continue;
      assert_int_equal(events[e].result->ids.count, 10);
      assert_memory_equal(events[e].result->ids.ids, alone[i].ids.ids, 10 * sizeof(int32_t));
    }
    if (step == 3) {
      ie_scheduler_cancel(scheduler, id[0]); /* runs */
      ie_scheduler_cancel(scheduler, id[2]); /* waits */
      ie_scheduler_cancel(scheduler, 77);
    }
  }
  for (int i = 0; i < 4; i++) assert_int_equal(ended[i], 1);
  /* Asked to stop within a forward, everything ends with what it has. */
  int asked = 0;
  const ie_event *events;
  for (int i = 0; i < 4; i++)
    assert_int_equal(ie_scheduler_submit(scheduler, &options[i], &id[i], &error), IE_OK);
  assert_int_equal(ie_scheduler_step(scheduler, NULL, NULL, &events), 2);
  assert_int_equal(ie_scheduler_step(scheduler, say_yes, &asked, &events), 4);
  assert_true(asked > 0);
  for (int i = 0; i < 4; i++) {
    assert_true(events[i].ended && events[i].status == IE_OK);
    assert_int_equal(events[i].result->reason, IE_STOP_CANCELLED);
    assert_int_equal(events[i].result->ids.count, events[i].begun ? 1 : 0);
  }
  assert_int_equal(ie_scheduler_running(scheduler) + ie_scheduler_waiting(scheduler), 0);
  ie_scheduler_free(scheduler); /* with the moved results gone, and the others owned */
  ie_state_free(st);
  results_free(alone);
  ie_model_free(model);
  ie_device_free(device);
}

/* The embedding of one id is NaN. */
static const random_model poisoned = {.arch = RANDOM_LLAMA,
                                      .layers = 2,
                                      .width = 40,
                                      .ffn = 48,
                                      .heads = 4,
                                      .kv_heads = 2,
                                      .head_dim = 10,
                                      .vocab = 67,
                                      .dtype = IE_F32,
                                      .seed = 3,
                                      .poisoned = true};

/* A request whose numbers are NaN fails by itself; those that shared its forward do not notice. */
static void a_failure_is_its_own(void **state) {
  (void)state;
  static const int32_t good[] = {5, 6, 7, 8, 9, 10}, bad[] = {5, 6, 0, 8};
  char *dir = tempdir_make();
  random_model_write(&poisoned, dir);
  ie_device *device = device_open(2);
  ie_model *model = model_open(device, dir, IE_PRECISION_FP32, true);
  ie_state *st = state_open(model, 3, 0);
  ie_scheduler *scheduler;
  ie_error error;
  ie_generate_options o = {.max_new = 6, .sample = {.greedy = true}, .logprobs = TOP};
  ie_generate_result alone;
  o.prompt = good, o.prompt_count = 6;
  ie_state *single = state_open(model, 1, 0);
  assert_int_equal(ie_generate(single, 0, &o, &alone, &error), IE_OK);
  ie_state_free(single);
  assert_int_equal(ie_scheduler_new(st, &scheduler, &error), IE_OK);
  uint64_t id;
  for (int i = 0; i < 3; i++) {
    o.prompt = i == 1 ? bad : good;
    o.prompt_count = i == 1 ? 4 : 6;
    assert_int_equal(ie_scheduler_submit(scheduler, &o, &id, &error), IE_OK);
  }
  int ended = 0;
  while (ie_scheduler_running(scheduler) + ie_scheduler_waiting(scheduler) > 0) {
    const ie_event *events;
    size_t count = ie_scheduler_step(scheduler, NULL, NULL, &events);
    for (size_t e = 0; e < count; e++) {
      if (!events[e].ended) continue;
      ended++;
      if (events[e].request == 2) {
        assert_int_equal(events[e].status, IE_NUMERIC);
        assert_non_null(strstr(events[e].error.message, "embedding"));
        assert_null(events[e].result);
        continue;
      }
      assert_int_equal(events[e].status, IE_OK);
      assert_int_equal(events[e].result->ids.count, alone.ids.count);
      assert_memory_equal(events[e].result->ids.ids, alone.ids.ids, alone.ids.count * sizeof(int32_t));
      assert_memory_equal(events[e].result->top, alone.top, alone.ids.count * TOP * sizeof(ie_logprob));
    }
  }
  assert_int_equal(ended, 3);
  ie_scheduler_free(scheduler);
  ie_generate_result_free(&alone);
  ie_state_free(st);
  ie_model_free(model);
  ie_device_free(device);
  tempdir_remove(dir);
}

/* Rows that draw the id whose embedding is NaN fail one step later, in the middle of a joint forward: forwards
 * that gave no id are not in the scheduler's rate. */
static void failed_forwards_are_not_in_the_rate(void **state) {
  (void)state;
  static const int32_t prompt[] = {5, 6, 7};
  char *dir = tempdir_make();
  random_model_write(&poisoned, dir);
  ie_device *device = device_open(1);
  ie_model *model = model_open(device, dir, IE_PRECISION_FP32, true);
  ie_state *st = state_open(model, 4, 0);
  ie_scheduler *scheduler;
  ie_error error;
  assert_int_equal(ie_scheduler_new(st, &scheduler, &error), IE_OK);
  for (uint64_t i = 0; i < 4; i++) {
    uint64_t id;
    ie_generate_options o = {
        .prompt = prompt, .prompt_count = 3, .max_new = 80, .row = i, .ignore_eos = true};
    o.sample.temperature = 1000;
    assert_int_equal(ie_scheduler_submit(scheduler, &o, &id, &error), IE_OK);
  }
  const ie_event *events;
  assert_int_equal(ie_scheduler_step(scheduler, NULL, NULL, &events), 4); /* the prompts */
  ie_state_work before = ie_state_work_done(st);
  int failed = 0, joint = 0;
  int64_t drawn = 0;
  while (ie_scheduler_running(scheduler) > 0) {
    size_t count = ie_scheduler_step(scheduler, NULL, NULL, &events);
    for (size_t e = 0; e < count; e++) {
      if (events[e].id >= 0) drawn++;
      if (!events[e].ended || events[e].status == IE_OK) continue;
      failed++;
      if (count > 1) joint++;
    }
  }
  assert_true(failed > 0 && joint > 0);
  ie_state_work after = ie_state_work_done(st);
  ie_scheduler_work work = ie_scheduler_work_done(scheduler);
  assert_int_equal(work.decode_tok, drawn);
  assert_true(work.decode_bytes > 0);
  /* equal here: NaN is found before any weight is read */
  assert_true(work.decode_bytes <=
              after.weight_bytes + after.kv_bytes - before.weight_bytes - before.kv_bytes);
  ie_scheduler_free(scheduler);
  ie_state_free(st);
  ie_model_free(model);
  ie_device_free(device);
  tempdir_remove(dir);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const bool memory_limited = false; /* sanitizers need all addresses */
#else
static const bool memory_limited = true;
#endif

/* A sampler of this vocabulary has 3 MiB: one for each request that waits would take 12 GiB. */
static void waiting_requests_take_little_memory(void **state) {
  (void)state;
  enum { WAITING = 4000, NEW = 40 };
  static const random_model wide = {.arch = RANDOM_LLAMA,
                                    .layers = 1,
                                    .width = 8,
                                    .ffn = 8,
                                    .heads = 1,
                                    .kv_heads = 1,
                                    .head_dim = 8,
                                    .vocab = 151936,
                                    .dtype = IE_BF16,
                                    .seed = 5};
  static const int32_t prompt[] = {5, 6, 151935};
  char *dir = tempdir_make();
  random_model_write(&wide, dir);
  ie_device *device = device_open(1);
  ie_model *model = model_open(device, dir, IE_PRECISION_FP32, false);
  ie_state_sizes one, four;
  ie_error error;
  ie_state_options options = {.context_tok = CONTEXT, .sequences = 1};
  assert_int_equal(ie_state_size(model, &options, &one, &error), IE_OK);
  options.sequences = 4;
  assert_int_equal(ie_state_size(model, &options, &four, &error), IE_OK);
  assert_true(four.table_bytes > one.table_bytes + 3 * 20 * (size_t)wide.vocab);
  ie_state *st = state_open(model, 2, 0);
  ie_scheduler *scheduler;
  assert_int_equal(ie_scheduler_new(st, &scheduler, &error), IE_OK);
  struct rlimit before, limit;
  assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
  limit = (struct rlimit){.rlim_cur = (rlim_t)1 << 30, .rlim_max = before.rlim_max};
  if (memory_limited) assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
  int submitted = 0;
  for (; submitted < WAITING; submitted++) {
    uint64_t id;
    ie_generate_options o = {.prompt = prompt, .prompt_count = 3, .max_new = NEW, .logprobs = TOP};
    o.sample.temperature = 0.5 + submitted;
    if (ie_scheduler_submit(scheduler, &o, &id, &error) != IE_OK) break;
  }
  const ie_event *events;
  size_t first = ie_scheduler_step(scheduler, NULL, NULL, &events);
  bool drawn = first == 2 && events[0].id >= 0 && events[1].id >= 0;
  ie_scheduler_cancel_all(scheduler);
  size_t ended = ie_scheduler_step(scheduler, NULL, NULL, &events);
  assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
  assert_int_equal(submitted, WAITING);
  assert_true(drawn);
  assert_int_equal(ended, WAITING);
  /* Settings are refused when they are given, not when their turn comes. */
  uint64_t id;
  ie_generate_options bad = {.prompt = prompt, .prompt_count = 3, .max_new = 1, .sample = {.top_p = 2}};
  assert_int_equal(ie_scheduler_submit(scheduler, &bad, &id, &error), IE_INVALID_ARGUMENT);
  ie_scheduler_free(scheduler);
  ie_state_free(st);
  ie_model_free(model);
  ie_device_free(device);
  tempdir_remove(dir);
}

static bool no_token(void *arg, int32_t id, const char *text, size_t size) {
  (void)arg, (void)id, (void)text, (void)size;
  return true;
}

static void what_cannot_be_computed_is_refused(void **state) {
  (void)state;
  const golden_model *g = any_model();
  ie_device *device = device_open(1);
  ie_model *model = model_open(device, g->dir, IE_PRECISION_FP32, false);
  ie_state *st = state_open(model, 2, 8);
  ie_scheduler *scheduler;
  ie_error error;
  uint64_t id = 7;
  int32_t prompt[CONTEXT] = {1, 2, 3};
  assert_int_equal(ie_scheduler_new(st, &scheduler, &error), IE_OK);
  ie_generate_options o = {.prompt = prompt, .prompt_count = CONTEXT, .max_new = 1};
  assert_int_equal(ie_scheduler_submit(scheduler, &o, &id, &error), IE_LIMIT);
  assert_int_equal(id, 0);
  o.prompt_count = 3;
  prompt[2] = (int32_t)ie_model_describe(model)->vocab;
  assert_int_equal(ie_scheduler_submit(scheduler, &o, &id, &error), IE_INVALID_ARGUMENT);
  prompt[2] = 3;
  o.on_token = no_token;
  assert_int_equal(ie_scheduler_submit(scheduler, &o, &id, &error), IE_INVALID_ARGUMENT);
  assert_int_equal(ie_scheduler_waiting(scheduler), 0);
  /* And forwards of several: one sequence twice, too many tokens, a row beyond the chunk. */
  ie_advance rows[2] = {{.sequence = 0, .ids = prompt, .count = 2, .wanted = 1},
                        {.sequence = 0, .ids = prompt, .count = 2, .wanted = 1}};
  assert_int_equal(ie_state_advance(st, rows, 2, NULL, &error), IE_INVALID_ARGUMENT);
  rows[1].sequence = 1;
  rows[0].count = 9;
  assert_int_equal(ie_state_advance(st, rows, 2, NULL, &error), IE_INVALID_ARGUMENT);
  rows[0].count = 8;
  assert_int_equal(ie_state_advance(st, rows, 2, NULL, &error), IE_INVALID_ARGUMENT);
  assert_int_equal(ie_state_length(st, 0) + ie_state_length(st, 1), 0);
  rows[0].count = 6;
  assert_int_equal(ie_state_advance(st, rows, 2, NULL, &error), IE_OK);
  assert_int_equal(ie_state_length(st, 0), 6);
  assert_int_equal(ie_state_length(st, 1), 2);
  ie_scheduler_free(scheduler);
  ie_state_free(st);
  ie_model_free(model);
  ie_device_free(device);
}

int main(void) {
  static struct CMUnitTest tests[2 * GOLDEN_MODELS_MAX + 12];
  static char names[2 * GOLDEN_MODELS_MAX][160];
  golden_count = golden_open_all("tests/data/models", golden, GOLDEN_MODELS_MAX);
  if (golden_count == 0) return 1;
  size_t n = 0;
  for (int i = 0; i < golden_count; i += sanitized_step(2)) {
    snprintf(names[n], sizeof names[0], "equal_to_one_at_a_time %s", golden[i].name);
    tests[n] = (struct CMUnitTest){
        .name = names[n], .test_func = equal_to_one_at_a_time, .initial_state = &golden[i]};
    n++;
    snprintf(names[n], sizeof names[0], "deterministic_to_the_bit %s", golden[i].name);
    tests[n] = (struct CMUnitTest){
        .name = names[n], .test_func = deterministic_to_the_bit, .initial_state = &golden[i]};
    n++;
  }
  tests[n++] = (struct CMUnitTest)cmocka_unit_test(places_are_taken_in_turn);
  tests[n++] = (struct CMUnitTest)cmocka_unit_test(cancelled_requests_leave_the_others_alone);
  tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_failure_is_its_own);
  tests[n++] = (struct CMUnitTest)cmocka_unit_test(failed_forwards_are_not_in_the_rate);
  tests[n++] = (struct CMUnitTest)cmocka_unit_test(waiting_requests_take_little_memory);
  tests[n++] = (struct CMUnitTest)cmocka_unit_test(what_cannot_be_computed_is_refused);
  int failed = _cmocka_run_group_tests("scheduler", tests, n, NULL, NULL);
  for (int i = 0; i < golden_count; i++) golden_close(&golden[i]);
  return failed;
}
