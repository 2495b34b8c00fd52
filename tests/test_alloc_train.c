/* Training and memory: the n-th allocation fails over a run's beginning, a step, and going on from a snapshot. (Snapshots
 * and models that are written: test_alloc_failure.) */
#include "support/failing_malloc.h"
#include "support/tempdir.h"

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

enum { STEPS = 1, ROWS = 2, LENGTH = 6 };

static char *folder, ids_path[300], out_path[300];

/* What is trained: opened once, which other tests see to. */
static ie_device *device;
static ie_model *experts, *dense;
static ie_adapter *adapter; /* of dense */

static ie_status train_run(ie_model *model, ie_train_options o, bool save, ie_error *error) {
  o.data_ids = ids_path;
  o.out = out_path;
  o.source = ie_model_describe(model)->dir;
  o.steps = STEPS;
  o.rows = ROWS;
  ie_train *train = NULL;
  ie_status status = ie_train_new(model, &o, &train, error);
  while (status == IE_OK && ie_train_position(train) < STEPS) {
    ie_train_metrics m;
    status = ie_train_step(train, &m, error);
  }
  if (status == IE_OK && save) status = ie_train_save(train, error);
  ie_train_free(train);
  return status;
}

/* Sums in levels, blocks that are computed again, parameters as they will be stored. */
static ie_train_options experts_options(void) {
  ie_train_options o = ie_train_options_default();
  o.deterministic = true;
  o.micro_rows = 1;
  o.stored_steps = 1;
  o.recompute = true;
  return o;
}

static ie_status run_experts(void *arg, ie_error *error) {
  (void)arg;
  return train_run(experts, experts_options(), /*save=*/false, error);
}

/* The snapshot of setup, in which all steps are done. */
static ie_status run_resumed(void *arg, ie_error *error) {
  (void)arg;
  ie_train_options o = experts_options();
  o.resume = true;
  return train_run(experts, o, /*save=*/false, error);
}

static ie_status run_adapter(void *arg, ie_error *error) {
  (void)arg;
  ie_train_options o = ie_train_options_default();
  o.optimiser = IE_TRAIN_MUON;
  o.adapter = adapter;
  return train_run(dense, o, /*save=*/false, error);
}

static const failing_case cases[] = {
    {.name = "training: experts", .run = run_experts},
    {.name = "training: gone on with", .run = run_resumed},
    {.name = "training: an adapter by Muon", .run = run_adapter},
};
enum { CASES = sizeof cases / sizeof cases[0] };

static void exhaust(void **state) {
  failing_malloc_exhaust(*state, NULL);
}

static void ids_write(void) {
  int32_t ids[STEPS * ROWS * LENGTH];
  for (int i = 0; i < STEPS * ROWS * LENGTH; i++) ids[i] = 1 + i * 7 % 90;
  const ie_tensor_out data = {"data", IE_I32, 3, {STEPS, ROWS, LENGTH}, ids};
  ie_error error = {0};
  if (ie_tensor_file_write(ids_path, &data, 1, &error) != IE_OK) fail_msg("%s", error.message);
}

static int setup(void **state) {
  (void)state;
  ie_error error = {0};
  const ie_model_options all = {.precision = IE_PRECISION_FP32, .train = true},
                         frozen = {.precision = IE_PRECISION_FP32};
  const ie_lora_options lora = {.r = 2, .alpha = 4, .base_model = "base"};
  ids_write();
  ie_status status = ie_device_open(&(ie_device_options){.threads = 1}, &device, &error);
  if (status == IE_OK) status = ie_model_open(device, "tests/data/models/gpt-oss-hf", &all, &experts, &error);
  if (status == IE_OK) status = ie_model_open(device, "tests/data/models/qwen3", &frozen, &dense, &error);
  if (status == IE_OK) status = ie_adapter_for_model(dense, &lora, &adapter, &error);
  if (status == IE_OK) status = ie_model_attach(dense, adapter, /*train=*/true, &error);
  if (status == IE_OK) status = train_run(experts, experts_options(), /*save=*/true, &error);
  if (status != IE_OK) fail_msg("%s", error.message);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  ie_model_free(experts);
  ie_model_free(dense);
  ie_adapter_free(adapter);
  ie_device_free(device);
  return 0;
}

int main(void) {
  struct CMUnitTest tests[CASES];
  folder = tempdir_make();
  snprintf(ids_path, sizeof ids_path, "%s/ids.safetensors", folder);
  snprintf(out_path, sizeof out_path, "%s/out", folder);
  for (int i = 0; i < CASES; i++)
    tests[i] = (struct CMUnitTest){
        .name = cases[i].name, .test_func = exhaust, .initial_state = (void *)(uintptr_t)&cases[i]};
  failing_malloc_install();
  int failed = _cmocka_run_group_tests("alloc_train", tests, CASES, setup, teardown);
  failing_malloc_uninstall();
  tempdir_remove(folder);
  return failed;
}
