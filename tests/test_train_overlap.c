/* train/global: sums over processes begin while the backward runs, in one order, each of gradients that are complete. The
 * other process is one that brings zeros. */
#include "support/tempdir.h"
#include "train/distributed.h"

#include "clocher/clocher.h"
#include "clocher/tensor.h"
#include "clocher/train.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { STEPS = 2, ROWS = 4, LENGTH = 6, SUMS_MOST = 64 };

/* What was begun in a step. */
typedef struct seen_sum {
  const float *x;
  int count;
  double sum; /* of the numbers when it was begun */
} seen_sum;

typedef struct fake {
  seen_sum of[SUMS_MOST];
  int sums, polled;                      /* polled: those that the last poll saw */
  int waves;                             /* polls that saw new ones: not all of them began together */
  const float *before[STEPS][SUMS_MOST]; /* the order of each step */
  int count[STEPS], steps;
  int fails_at; /* the sum that fails, from 1; 0: none */
  int changed;  /* sums whose numbers were added to after they were begun */
} fake;

static double numbers_sum(const float *x, int count) {
  double sum = 0;
  for (int i = 0; i < count; i++) sum += (double)x[i] * (i % 7 + 1);
  return sum;
}

static int fake_sum(void *self, void *x, int count, ie_rank_type type) {
  (void)self, (void)x, (void)count, (void)type;
  return 0;
}

static int fake_broadcast(void *self, void *x, int count, ie_rank_type type, int root) {
  (void)self, (void)x, (void)count, (void)type, (void)root;
  return 0;
}

static int fake_begin(void *self, void *x, int count) {
  fake *f = self;
  assert_true(f->sums < SUMS_MOST);
  f->of[f->sums++] = (seen_sum){x, count, numbers_sum(x, count)};
  return f->fails_at == f->sums ? 5 : 0;
}

static int fake_poll(void *self, bool wait) {
  fake *f = self;
  f->waves += !wait && f->sums > f->polled;
  f->polled = wait ? 0 : f->sums;
  if (!wait) return 0;
  for (int i = 0; i < f->sums; i++) {
    f->changed += numbers_sum(f->of[i].x, f->of[i].count) != f->of[i].sum;
    f->before[f->steps][i] = f->of[i].x;
  }
  f->count[f->steps++] = f->sums;
  f->sums = 0;
  return 0;
}

static void fake_close(void *self, bool lost) {
  (void)self, (void)lost;
}

static const ie_ranks_backend backend = {.name = "fake",
                                         .sum = fake_sum,
                                         .sum_begin = fake_begin,
                                         .sum_poll = fake_poll,
                                         .broadcast = fake_broadcast,
                                         .close = fake_close};

/* The embedding of the second is its output matrix too: its gradient is complete last. */
static const char plain[] = "tests/data/models/gpt-oss-hf", tied[] = "tests/data/models/qwen3";

static char *folder;
static ie_device *device;

/* Both steps, or the failure of the first. */
static ie_status run(fake *f, const char *dir, const ie_train_options *like, ie_error *error) {
  ie_model *model = NULL;
  ie_ranks *ranks = NULL;
  ie_train *train = NULL;
  const ie_model_options options = {.precision = IE_PRECISION_FP32, .train = true};
  ie_status status = ie_model_open(device, dir, &options, &model, error);
  if (status == IE_OK) status = ie_ranks_new(&backend, f, /*rank=*/0, /*size=*/2, /*local=*/1, &ranks, error);
  ie_train_options o = *like;
  o.data_ids = tempdir_path(folder, "ids.safetensors");
  o.out = folder;
  o.steps = STEPS;
  o.rows = ROWS;
  o.ranks = ranks;
  if (status == IE_OK) status = ie_train_new(model, &o, &train, error);
  while (status == IE_OK && ie_train_position(train) < STEPS) {
    ie_train_metrics m;
    status = ie_train_step(train, &m, error);
  }
  ie_train_free(train);
  ie_ranks_close(ranks);
  ie_model_free(model);
  return status;
}

static void sums_are_complete(void **state) {
  (void)state;
  for (int variant = 0; variant < 6; variant++) {
    const char *dir = variant < 3 ? plain : tied;
    ie_train_options o = ie_train_options_default();
    o.recompute = variant % 3 == 1;
    o.micro_rows = variant % 3 == 2 ? 1 : 0;
    fake f = {0};
    ie_error error = {0};
    if (run(&f, dir, &o, &error) != IE_OK) fail_msg("%s", error.message);
    assert_int_equal(f.steps, STEPS);
    assert_int_equal(f.changed, 0);
    assert_true(f.count[0] > 4);
    assert_true(f.waves > 4 * STEPS); /* sums begin all along the backward, not at its end */
    assert_int_equal(f.count[0], f.count[1]);
    assert_memory_equal(f.before[0], f.before[1], sizeof f.before[0]);
    for (int i = 1; i < f.count[0] - 1; i++) /* from the end on; the embedding comes last */
      assert_true(f.before[0][i] < f.before[0][i - 1]);
  }
}

static void a_lost_sum_is_told(void **state) {
  (void)state;
  fake f = {.fails_at = 2};
  ie_error error = {0};
  const ie_train_options o = ie_train_options_default();
  assert_int_equal(run(&f, plain, &o, &error), IE_DEVICE);
  assert_non_null(strstr(error.message, "process 0 of 2 has lost the others (fake error 5)"));
}

static void ids_write(void) {
  int32_t ids[STEPS * ROWS * LENGTH];
  for (int i = 0; i < STEPS * ROWS * LENGTH; i++) ids[i] = 1 + i * 7 % 90;
  const ie_tensor_out data = {"data", IE_I32, 3, {STEPS, ROWS, LENGTH}, ids};
  ie_error error = {0};
  if (ie_tensor_file_write(tempdir_path(folder, "ids.safetensors"), &data, 1, &error) != IE_OK)
    fail_msg("%s", error.message);
}

static int setup(void **state) {
  (void)state;
  ie_error error = {0};
  folder = tempdir_make();
  ids_write();
  if (ie_device_open(&(ie_device_options){.threads = 1}, &device, &error) != IE_OK)
    fail_msg("%s", error.message);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  ie_device_free(device);
  tempdir_remove(folder);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(sums_are_complete),
                                     cmocka_unit_test(a_lost_sum_is_told)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
