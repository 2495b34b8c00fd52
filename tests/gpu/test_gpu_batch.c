/* Decode of many sequences at once: 64 rows fill a tile of the products and a launch of the drawing kernel, 66 reach into
 * the next ones. Rows against the CPU's, replays against what was launched, and faults by the row they are in. */
#include "cuda/cuda.h"
#include "engine/state.h"
#include "support/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TILE = 64, ROWS = TILE + 2, CONTEXT = 8, V = 100 };

static const char moe_dir[] = "tests/data/models/gpt-oss-hf", dense_dir[] = "tests/data/models/qwen3";

typedef struct opened {
  ie_device *device;
  ie_model *model;
  ie_state *state;
  int64_t vocab;
} opened;

static opened open_on(const char *kind, const char *dir, ie_precision precision) {
  opened o = {0};
  ie_error error = {0};
  const ie_model_options options = {.precision = precision};
  const ie_state_options state = {.context_tok = CONTEXT, .sequences = ROWS};
  if (ie_device_open(&(ie_device_options){.kind = kind, .threads = 2}, &o.device, &error) != IE_OK ||
      ie_model_open(o.device, dir, &options, &o.model, &error) != IE_OK ||
      ie_state_new(o.model, &state, &o.state, &error) != IE_OK)
    fail_msg("%s", error.message);
  o.vocab = ie_model_describe(o.model)->vocab;
  return o;
}

static void close_all(opened *o) {
  ie_state_free(o->state);
  ie_model_free(o->model);
  ie_device_free(o->device);
}

/* --- Forwards --------------------------------------------------------------------------------------------------- */

/* One to three tokens of each sequence, so that the rows of a step stand at different positions. */
static void prompts_append(const opened *o) {
  static const int32_t ids[] = {3, 1, 4, 1, 5, 9, 2, 6};
  ie_advance row[ROWS];
  ie_error error = {0};
  for (int64_t i = 0; i < ROWS; i++)
    row[i] = (ie_advance){.sequence = i, .ids = ids + i % 5, .count = 1 + i % 3};
  if (ie_state_advance(o->state, row, ROWS, NULL, &error) != IE_OK) fail_msg("%s", error.message);
}

/* One token of each of the first n sequences; logits (n, vocab), to be freed. */
static float *step(const opened *o, int64_t n) {
  int32_t sequence[ROWS], ids[ROWS];
  const float *logits;
  ie_error error = {0};
  for (int64_t i = 0; i < n; i++) {
    sequence[i] = (int32_t)i;
    ids[i] = (int32_t)(7 * i % o->vocab);
  }
#ifdef CLOCHER_CUDA_EMULATED
  uint64_t waits = ie_emulate_waits();
#endif
  if (ie_state_step(o->state, sequence, ids, n, &logits, &error) != IE_OK) fail_msg("%s", error.message);
#ifdef CLOCHER_CUDA_EMULATED
  if (o->state->runner) assert_int_equal(ie_emulate_waits() - waits, 1); /* at the end, and for no layer */
#endif
  size_t bytes = (size_t)(n * o->vocab) * sizeof *logits;
  float *copy = malloc(bytes);
  assert_non_null(copy);
  memcpy(copy, logits, bytes);
  return copy;
}

static void step_back(const opened *o, int64_t n) {
  ie_error error = {0};
  for (int64_t i = 0; i < n; i++)
    assert_int_equal(ie_state_rollback(o->state, i, ie_state_length(o->state, i) - 1, &error), IE_OK);
}

/* Rows of `found` that lie farther from `expected` than `tolerance` of its largest number. */
static int64_t rows_beyond(const float *found, const float *expected, int64_t n, int64_t vocab,
                           double tolerance) {
  double largest = 0;
  int64_t beyond = 0;
  for (int64_t i = 0; i < n * vocab; i++) largest = fmax(largest, fabs((double)expected[i]));
  for (int64_t r = 0; r < n; r++) {
    bool far = false;
    for (int64_t i = r * vocab; i < (r + 1) * vocab; i++)
      far |= !(fabs((double)found[i] - (double)expected[i]) <= tolerance * largest);
    beyond += far;
  }
  return beyond;
}

/* The same step launched, recorded and replayed; and as the CPU does it. excused: rows of a mixture whose router may be
 * tied, where the devices round sums differently. */
static void rows_agree(const char *dir, ie_precision precision, double tolerance, int64_t excused) {
  opened cpu = open_on("cpu", dir, precision), cuda = open_on("cuda", dir, precision);
  static const int64_t batches[] = {TILE, ROWS};
  prompts_append(&cpu);
  prompts_append(&cuda);
  for (int b = 0; b < 2; b++) {
    int64_t n = batches[b];
    cuda_counts before = cuda_runner_counts(cuda.state->runner);
    float *expected = step(&cpu, n), *launched = step(&cuda, n);
    for (int k = 0; k < 2; k++) {
      step_back(&cuda, n);
      float *again = step(&cuda, n);
      assert_memory_equal(again, launched, (size_t)(n * cuda.vocab) * sizeof *again);
      free(again);
    }
    cuda_counts after = cuda_runner_counts(cuda.state->runner);
    assert_int_equal(after.eager, before.eager + 1);
    assert_int_equal(after.recorded, before.recorded + 1);
    assert_int_equal(after.replayed, before.replayed + 2);
    int64_t beyond = rows_beyond(launched, expected, n, cuda.vocab, tolerance);
    if (beyond > excused)
      fail_msg("%s: %lld of %lld rows are farther than %g", dir, (long long)beyond, (long long)n, tolerance);
    free(expected);
    free(launched);
  }
  close_all(&cpu);
  close_all(&cuda);
}

#ifdef CLOCHER_CUDA_EMULATED
enum { TIED = 0 };
#else
enum { TIED = 1 };
#endif

static void dense_rows_in_bf16(void **opaque) {
  (void)opaque;
  rows_agree(dense_dir, IE_PRECISION_BF16, 1e-2, 0);
}
static void dense_rows_in_fp32(void **opaque) {
  (void)opaque;
  rows_agree(dense_dir, IE_PRECISION_FP32, 1e-4, 0);
}
static void mixture_rows_in_bf16(void **opaque) {
  (void)opaque;
  rows_agree(moe_dir, IE_PRECISION_BF16, 1e-2, TIED);
}
static void mixture_rows_in_fp32(void **opaque) {
  (void)opaque;
  rows_agree(moe_dir, IE_PRECISION_FP32, 1e-4, 0);
}

/* A number in the cache of one sequence that is none: the forward names the token of that row. */
static void a_fault_names_its_row(void **opaque) {
  (void)opaque;
  opened o = open_on("cuda", dense_dir, IE_PRECISION_FP32);
  ie_error error = {0};
  int32_t sequence[ROWS], ids[ROWS] = {0};
  const float *logits, bad = NAN;
  prompts_append(&o);
  const ie_kv_layer *kv = &o.state->layer[1];
  assert_int_equal(kv->dtype, IE_F32);
  for (int i = 0; i < ROWS; i++) sequence[i] = i;
  float *values = (float *)kv->v + (ROWS - 1) * kv->heads * kv->cap * kv->dim; /* of its position 0 */
  assert_int_equal(ie_memory_write(o.device, values, &bad, sizeof bad, &error), IE_OK);
  assert_int_equal(ie_state_step(o.state, sequence, ids, ROWS, &logits, &error), IE_NUMERIC);
  if (!strstr(error.message, "layer 1: ") || !strstr(error.message, "NaN at token 65 of this forward"))
    fail_msg("%s", error.message);
  close_all(&o);
}

/* Weights of the last id that are no numbers: every row's logits have one, and the first row is named. */
static void bad_logits_name_id_and_row(void **opaque) {
  (void)opaque;
  opened o = open_on("cuda", dense_dir, IE_PRECISION_FP32);
  static const uint8_t bad[4] = {0xFF, 0xFF, 0xFF, 0x7F}; /* NaN in f32, and its last half in bf16 */
  const ie_tensor_info *t = ie_checkpoint_find(o.model->checkpoint, "lm_head.weight");
  if (!t) t = ie_checkpoint_find(o.model->checkpoint, "model.embed_tokens.weight");
  assert_non_null(t);
  size_t one = t->bytes / (size_t)(t->shape[0] * t->shape[1]);
  const uint8_t *host = (const uint8_t *)t->data + t->bytes - one;
  void *copy = (void *)(uintptr_t)cuda_held_find(cuda_of(o.device), host);
  assert_non_null(copy);
  static const int32_t ids[ROWS] = {0};
  static const ie_sample_params greedy = {.greedy = true};
  ie_advance row[ROWS];
  ie_draw_row draw[ROWS];
  ie_error error = {0};
  assert_int_equal(ie_memory_write(o.device, copy, bad + 4 - one, one, &error), IE_OK);
  for (int i = 0; i < ROWS; i++) {
    row[i] = (ie_advance){.sequence = i, .ids = &ids[i], .count = 1, .wanted = 1};
    draw[i] = (ie_draw_row){.params = &greedy, .row = (uint64_t)i};
  }
  ie_state_draw_next(o.state, draw, ROWS);
  assert_int_equal(ie_state_advance(o.state, row, ROWS, NULL, &error), IE_NUMERIC);
  char expected[96];
  snprintf(expected, sizeof expected, "logits: NaN at token 0 of this forward, column %lld",
           (long long)o.vocab - 1);
  if (!strstr(error.message, expected)) fail_msg("%s", error.message);
  close_all(&o);
}

/* --- Drawing ---------------------------------------------------------------------------------------------------- */

static const ie_sample_params largest = {.greedy = true},
                              drawn = {.temperature = 0.8, .top_k = 40, .top_p = 0.9, .seed = 5};

/* Draws an id from each row; the fault. */
static ie_cuda_fault rows_draw(ie_device *device, const ie_sample_params *params, const float *rows,
                               int64_t n, int32_t *ids) {
  cuda_device *cuda = cuda_of(device);
  const ie_runner_options options = {.batch_max = n, .wanted_max = n, .vocab = V, .draw_max = n};
  size_t bytes = (size_t)(n * V) * sizeof *rows;
  ie_draw_row want[ROWS];
  ie_error error = {0};
  ie_cuda_fault fault;
  cuda_draw draw;
  void *logits;
  for (int64_t i = 0; i < n; i++)
    want[i] = (ie_draw_row){.params = params, .row = (uint64_t)i, .step = 3, .id = -1};
  assert_int_equal(cuda_draw_open(cuda, &options, &draw, &error), IE_OK);
  assert_int_equal(ie_memory_take(device, bytes, "logits", &logits, &error), IE_OK);
  assert_int_equal(ie_memory_write(device, logits, rows, bytes, &error), IE_OK);
  assert_int_equal(ie_cuda_fault_clear(&cuda->queue, cuda->fault), cudaSuccess);
  assert_int_equal(cuda_draw_launch(&draw, &cuda->queue, logits, want, n,
                                    (ie_cuda_check){.fault = cuda->fault, .where = CUDA_CHECK_DRAW}),
                   cudaSuccess);
  assert_int_equal(ie_memory_read(device, &fault, cuda->fault, sizeof fault, &error), IE_OK);
  cuda_draw_read(&draw, want, n);
  for (int64_t i = 0; i < n; i++) ids[i] = want[i].id;
  ie_memory_give(device, logits, bytes);
  cuda_draw_close(cuda, &draw);
  return fault;
}

static void ids_compare(const ie_sample_params *params, const float *rows, int64_t n, const int32_t *ids,
                        int64_t but) {
  ie_sampler *sampler;
  ie_error error = {0};
  assert_int_equal(ie_sampler_new_default(params, V, &sampler, &error), IE_OK);
  for (int64_t i = 0; i < n; i++) {
    int32_t expected = 0; /* a row with a fault gets id 0 */
    const ie_sample_input input = {.logits = rows + i * V, .vocab = V, .row = (uint64_t)i, .step = 3};
    if (i != but) assert_int_equal(ie_sampler_draw(sampler, &input, &expected, &error), IE_OK);
    if (ids[i] != expected)
      fail_msg("row %lld of %lld: id %d, expected %d", (long long)i, (long long)n, ids[i], expected);
  }
  ie_sampler_free(sampler);
}

/* Rows of the second launch have parameters, ids and scratch of their own, and a fault in them their number. */
static void draws_past_a_tile(void **opaque) {
  (void)opaque;
  static const ie_sample_params *const params[] = {&largest, &drawn};
  static const int64_t counts[] = {1, TILE, TILE + 1, ROWS};
  static float rows[ROWS * V];
  ie_device *device;
  ie_error error = {0};
  int32_t ids[ROWS];
  assert_int_equal(ie_device_open(&(ie_device_options){.kind = "cuda", .threads = 1}, &device, &error),
                   IE_OK);
  for (int i = 0; i < ROWS * V; i++) rows[i] = (float)(i * 7919 % 4099) / 500;
  for (int p = 0; p < 2; p++)
    for (int c = 0; c < 4; c++) {
      int64_t n = counts[c], bad = (n - 1) * V + 17;
      float good = rows[bad];
      assert_true(rows_draw(device, params[p], rows, n, ids) == IE_CUDA_NO_FAULT);
      ids_compare(params[p], rows, n, ids, /*but=*/-1);
      rows[bad] = p ? NAN : INFINITY;
      ie_cuda_fault fault = rows_draw(device, params[p], rows, n, ids);
      ids_compare(params[p], rows, n, ids, /*but=*/n - 1);
      rows[bad] = good;
      assert_int_equal(IE_CUDA_FAULT_WHERE(fault), CUDA_CHECK_DRAW);
      assert_int_equal(IE_CUDA_FAULT_INDEX(fault), bad);
      assert_int_equal(IE_CUDA_FAULT_NAN(fault), p);
    }
  ie_device_free(device);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(dense_rows_in_bf16),    cmocka_unit_test(dense_rows_in_fp32),
      cmocka_unit_test(mixture_rows_in_bf16),  cmocka_unit_test(mixture_rows_in_fp32),
      cmocka_unit_test(a_fault_names_its_row), cmocka_unit_test(bad_logits_name_id_and_row),
      cmocka_unit_test(draws_past_a_tile)};
  return cmocka_run_group_tests_name("gpu batch", tests, NULL, NULL);
}
