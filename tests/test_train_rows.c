/* Rows that share a forward: the loss and all gradients are those of the rows one by one, for every architecture that the
 * golden models have, with and without blocks that are computed again. */
#include "base/rng.h"
#include "models/decoder.h"
#include "train/gradients.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ROWS = 4, TOKENS = 70 };
static const int lengths[ROWS] = {21, 3, 38, 8};
static const double tolerance = 2e-5; /* of a tensor's largest gradient: sums in another order */

typedef struct bench {
  ie_device *device;
  ie_model *model;
  ie_gradients *gradients;
  int32_t ids[TOKENS], target[TOKENS], position[TOKENS], sequence[TOKENS];
  int64_t targets;
} bench;

static void bench_open(bench *b, const char *name, bool recompute) {
  char dir[256];
  ie_error error = {0};
  memset(b, 0, sizeof *b);
  snprintf(dir, sizeof dir, "tests/data/models/%s", name);
  assert_int_equal(ie_device_open(&(ie_device_options){.threads = 2}, &b->device, &error), IE_OK);
  const ie_model_options options = {.precision = IE_PRECISION_FP32, .train = true};
  if (ie_model_open(b->device, dir, &options, &b->model, &error) != IE_OK) fail_msg("%s", error.message);
  const ie_gradients_options g = {.recompute = recompute};
  if (ie_gradients_new(b->model, &g, &b->gradients, &error) != IE_OK) fail_msg("%s", error.message);
  uint64_t vocabulary = (uint64_t)b->model->info.vocab;
  for (int row = 0, at = 0; row < ROWS; at += lengths[row++])
    for (int t = 0; t < lengths[row]; t++) {
      b->ids[at + t] = (int32_t)(ie_rng_u64(1, 2, (uint64_t)(at + t)) % vocabulary);
      b->position[at + t] = t;
      b->sequence[at + t] = row;
    }
  for (int t = 0; t < TOKENS; t++) {
    bool last = t + 1 == TOKENS || b->sequence[t + 1] != b->sequence[t];
    b->target[t] = last ? -1 : b->ids[t + 1];
    b->targets += !last;
  }
}

static void bench_close(bench *b) {
  ie_gradients_free(b->gradients);
  ie_model_free(b->model);
  ie_device_free(b->device);
}

/* The loss of tokens first .. first + count - 1; their gradients are added. */
static void rows_add(bench *b, int first, int count, double *loss) {
  ie_error error = {0};
  const ie_token_rows rows = {.tokens = count,
                              .ids = b->ids + first,
                              .target = b->target + first,
                              .position = b->position + first,
                              .sequence = b->sequence + first};
  if (ie_gradients_add(b->gradients, &rows, 1.0 / (double)b->targets, loss, &error) != IE_OK)
    fail_msg("%s", error.message);
}

static double largest(const real *x, int64_t n) {
  double most = 0;
  for (int64_t i = 0; i < n; i++) most = fmax(most, fabs((double)x[i]));
  return most;
}

static const char *const models[] = {
    "gpt-oss-hf",        "gpt-oss-bf16",        "qwen2",      "qwen3", "llama3",
    "gpt-neox-parallel", "gpt-neox-sequential", "nanochat-hf"};

static void packed_compare(const char *name, bool recompute) {
  bench b;
  bench_open(&b, name, recompute);
  const ie_param_list *params = &b.model->params;
  double packed = 0, apart = 0;
  ie_gradients_zero(b.gradients);
  rows_add(&b, 0, TOKENS, &packed);
  real **kept = calloc((size_t)params->count, sizeof *kept);
  assert_non_null(kept);
  for (int64_t i = 0; i < params->count; i++) {
    size_t bytes = (size_t)params->item[i]->count * sizeof(real);
    assert_non_null(kept[i] = malloc(bytes));
    memcpy(kept[i], params->item[i]->grad, bytes);
  }
  ie_gradients_zero(b.gradients);
  for (int row = 0, at = 0; row < ROWS; at += lengths[row++]) rows_add(&b, at, lengths[row], &apart);
  if (fabs(packed - apart) > 1e-6 * apart) fail_msg("%s: loss %.9g packed, %.9g apart", name, packed, apart);
  for (int64_t i = 0; i < params->count; i++) {
    const ie_param *p = params->item[i];
    double most = largest(p->grad, p->count);
    for (int64_t k = 0; k < p->count; k++) kept[i][k] -= p->grad[k];
    double off = largest(kept[i], p->count);
    if (!(off <= tolerance * most + 1e-9))
      fail_msg("%s: %s: %.3g apart, the largest is %.3g", name, p->name, off, most);
    free(kept[i]);
  }
  free(kept);
  bench_close(&b);
}

static void test_packed(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof models / sizeof models[0]; i++)
    for (int recompute = 0; recompute < 2; recompute++) packed_compare(models[i], recompute);
}

/* What was complete when. */
typedef struct ready_log {
  const ie_param_list *params;
  int *times;  /* (params) */
  double *sum; /* (params) of the gradient at that moment */
} ready_log;

static double grad_sum(const ie_param *p) {
  double sum = 0;
  for (int64_t i = 0; i < p->count; i++) sum += (double)p->grad[i] * (double)(i % 7 + 1);
  return sum;
}

static void ready(void *arg, ie_param *param) {
  ready_log *log = arg;
  for (int64_t i = 0; i < log->params->count; i++)
    if (log->params->item[i] == param) {
      log->times[i]++;
      log->sum[i] = grad_sum(param);
    }
}

/* Every parameter once in a forward and backward, when nothing is added to its gradient any more. */
static void ready_check(const char *name, bool recompute) {
  bench b;
  bench_open(&b, name, recompute);
  const ie_param_list *params = &b.model->params;
  size_t count = (size_t)params->count;
  ready_log log = {params, calloc(count, sizeof *log.times), calloc(count, sizeof *log.sum)};
  assert_true(log.times && log.sum);
  ie_gradients_on_ready(b.gradients, ready, &log);
  for (int pass = 1; pass <= 2; pass++) {
    double loss = 0;
    ie_gradients_zero(b.gradients);
    rows_add(&b, 0, TOKENS, &loss);
    for (size_t i = 0; i < count; i++) {
      const ie_param *p = params->item[i];
      if (log.times[i] != pass)
        fail_msg("%s: %s: ready %d times in %d passes", name, p->name, log.times[i], pass);
      if (log.sum[i] != grad_sum(p)) fail_msg("%s: %s: changed after it was ready", name, p->name);
    }
  }
  free(log.times);
  free(log.sum);
  bench_close(&b);
}

static void test_ready(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof models / sizeof models[0]; i++)
    for (int recompute = 0; recompute < 2; recompute++) ready_check(models[i], recompute);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_packed), cmocka_unit_test(test_ready)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
