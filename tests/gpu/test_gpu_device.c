/* What the CUDA device refuses and how it fails: operations without a launcher, training, limits, memory that is full, a
 * device that is lost, numbers that are not finite; and states that move between devices. */
#include "cuda/cuda.h"
#include "engine/state.h"
#include "models/decoder.h"
#include "support/golden.h"
#include "support/tempdir.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const char moe_dir[] = "tests/data/models/gpt-oss-hf", dense_dir[] = "tests/data/models/qwen3";

static ie_device *device_open(const char *kind) {
  ie_device *device;
  ie_error error = {0};
  if (ie_device_open(&(ie_device_options){.kind = kind, .threads = 2}, &device, &error) != IE_OK)
    fail_msg("%s", error.message);
  return device;
}

static ie_model *model_open(ie_device *device, const char *dir) {
  ie_model *model;
  ie_error error = {0};
  const ie_model_options options = {.precision = IE_PRECISION_FP32};
  if (ie_model_open(device, dir, &options, &model, &error) != IE_OK) fail_msg("%s", error.message);
  return model;
}

static ie_state *state_open(ie_model *model) {
  ie_state *state;
  ie_error error = {0};
  if (ie_state_new(model, &(ie_state_options){.context_tok = 96}, &state, &error) != IE_OK)
    fail_msg("%s", error.message);
  return state;
}

static const int32_t prompt[] = {3, 1, 4, 1, 5, 9, 2, 6};
enum { PROMPT = sizeof prompt / sizeof prompt[0] };

static ie_status prompt_append(ie_state *state, ie_error *error) {
  return ie_state_append(state, 0, prompt, PROMPT, NULL, error);
}

static void expect(ie_status found, ie_status status, const ie_error *error, const char *text) {
  if (found != status || !strstr(error->message, text))
    fail_msg("expected %s with '%s', found %s: %s", ie_status_name(status), text, ie_status_name(found),
             error->message);
}

/* --- Choosing ------------------------------------------------------------------------------------------------ */

static void devices_are_chosen_by_name(void **opaque) {
  (void)opaque;
  ie_device *device;
  ie_error error = {0};
  assert_true(ie_device_cuda_built());
  expect(ie_device_open(&(ie_device_options){.kind = "ze"}, &device, &error), IE_UNSUPPORTED, &error,
         "not built");
  expect(ie_device_open(&(ie_device_options){.kind = "cuda:999"}, &device, &error), IE_DEVICE, &error,
         "cuda:999");
  expect(ie_device_open(&(ie_device_options){.kind = "cuda:x"}, &device, &error), IE_INVALID_ARGUMENT, &error,
         "cuda:N");
  static const char *const kinds[] = {"auto", "cuda", "cuda:0"};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    device = device_open(kinds[i]);
    assert_string_equal(ie_device_kind(device), "cuda");
    assert_non_null(strstr(ie_device_name(device), "cuda:0 "));
    ie_device_free(device);
  }
  device = device_open("cpu");
  assert_string_equal(ie_device_kind(device), "cpu");
  ie_device_free(device);
}

/* --- Refusals -------------------------------------------------------------------------------------------------- */

static void operations_without_a_launcher_are_refused(void **opaque) {
  (void)opaque;
  ie_device *device = device_open("cuda");
  ie_model *model = model_open(device, moe_dir);
  ie_state *state = state_open(model);
  ie_error error = {0};
  void (*moe)(ie_ctx *, ie_tensor *, const ie_tensor *, const ie_tensor *, const ie_tensor *,
              const ie_moe_options *) = device->ops.moe;
  device->ops.moe = NULL;
  expect(prompt_append(state, &error), IE_UNSUPPORTED, &error, "moe: device cuda has no such operation");
  device->ops.moe = moe;
  assert_int_equal(prompt_append(state, &error), IE_OK);
  ie_state_free(state);
  ie_model_free(model);
  ie_device_free(device);
}

static void training_and_limits_are_refused(void **opaque) {
  (void)opaque;
  ie_device *device = device_open("cuda");
  ie_model *model;
  ie_error error = {0};
  ie_model_options options = {.precision = IE_PRECISION_FP32, .train = true};
  expect(ie_model_open(device, dense_dir, &options, &model, &error), IE_UNSUPPORTED, &error, "training");
  model = model_open(device, moe_dir);
  const ie_plan_options plan = {.state = {.context_tok = 96}, .memory_bytes = (size_t)64 << 20};
  expect(ie_model_place(model, &plan, &error), IE_UNSUPPORTED, &error, "--memory");
  ie_model_free(model);
  ie_device_free(device);
}

/* --- Numbers that are not finite -------------------------------------------------------------------------------- */

/* Puts one number into the device's copy of a vector of the host. */
static void plant(ie_device *device, const void *host, ie_dtype dtype, float value) {
  void *copy = (void *)(uintptr_t)cuda_held_find(cuda_of(device), host);
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  uint16_t half = dtype == IE_BF16 ? (uint16_t)(bits >> 16) : isnan(value) ? 0x7E00 : 0x7C00;
  ie_error error = {0};
  assert_non_null(copy);
  assert_int_equal(dtype == IE_F32 ? ie_memory_write(device, copy, &value, 4, &error)
                                   : ie_memory_write(device, copy, &half, 2, &error),
                   IE_OK);
}

static void nan_is_named(void **opaque) {
  (void)opaque;
  ie_device *device = device_open("cuda");
  ie_model *model = model_open(device, moe_dir);
  ie_state *state = state_open(model);
  ie_error error = {0};
  const ie_tensor_info *t = ie_checkpoint_find(model->checkpoint, "model.layers.1.self_attn.o_proj.bias");
  assert_non_null(t);
  plant(device, t->data, t->dtype, NAN);
  expect(prompt_append(state, &error), IE_NUMERIC, &error,
         "layer 1: residual after attention: NaN at token 0 of this forward, column 0");
  assert_int_equal(ie_state_length(state, 0), 0);
  ie_state_free(state);
  ie_model_free(model);
  ie_device_free(device);
}

/* --- Moving ----------------------------------------------------------------------------------------------------- */

/* A sequence that one device saved goes on on the other. */
static void saved_states_move_between_devices(void **opaque) {
  (void)opaque;
  ie_device *devices[2] = {device_open("cpu"), device_open("cuda")};
  char *dir = tempdir_make(), path[512];
  snprintf(path, sizeof path, "%s/state.safetensors", dir);
  for (int from = 0; from < 2; from++) {
    ie_model *a = model_open(devices[from], moe_dir), *b = model_open(devices[1 - from], moe_dir);
    ie_state *x = state_open(a), *y = state_open(b);
    ie_error error = {0};
    const float *p, *q;
    const int32_t sequence = 0, id = 7;
    assert_int_equal(prompt_append(x, &error), IE_OK);
    if (ie_state_save(x, 0, path, &error) != IE_OK || ie_state_load(y, 0, path, &error) != IE_OK)
      fail_msg("%s", error.message);
    assert_int_equal(ie_state_step(x, &sequence, &id, 1, &p, &error), IE_OK);
    assert_int_equal(ie_state_step(y, &sequence, &id, 1, &q, &error), IE_OK);
    assert_true(golden_error(q, p, ie_model_describe(a)->vocab) < 1e-4);
    ie_state_free(x);
    ie_state_free(y);
    ie_model_free(a);
    ie_model_free(b);
  }
  tempdir_remove(dir);
  ie_device_free(devices[0]);
  ie_device_free(devices[1]);
}

/* Random caches are the same ones; a rolled back sequence gives what it gave. */
static void random_caches_and_rollback(void **opaque) {
  (void)opaque;
  ie_device *devices[2] = {device_open("cpu"), device_open("cuda")};
  float *logits[2];
  int64_t V = 0;
  for (int i = 0; i < 2; i++) {
    ie_model *model = model_open(devices[i], moe_dir);
    ie_state *state = state_open(model);
    ie_error error = {0};
    const float *row;
    const int32_t sequence = 0, id = 11;
    V = ie_model_describe(model)->vocab;
    if (ie_state_fill_random(state, 0, 70, &error) != IE_OK) fail_msg("%s", error.message);
    for (int k = 0; k < 4; k++) {
      if (ie_state_step(state, &sequence, &id, 1, &row, &error) != IE_OK) fail_msg("%s", error.message);
      if (k == 0) {
        logits[i] = malloc((size_t)V * sizeof **logits);
        memcpy(logits[i], row, (size_t)V * sizeof **logits);
      }
      assert_memory_equal(logits[i], row, (size_t)V * sizeof *row);
      assert_int_equal(ie_state_rollback(state, 0, 70, &error), IE_OK);
    }
    ie_state_free(state);
    ie_model_free(model);
  }
  assert_true(golden_error(logits[1], logits[0], V) < 1e-4);
  for (int i = 0; i < 2; i++) {
    free(logits[i]);
    ie_device_free(devices[i]);
  }
}

/* Takes the device's memory until not a mebibyte is left; returns how many blocks. */
static int memory_eat(ie_device *device, void *block[], int most) {
  size_t bytes = (size_t)1 << 40;
  int n = 0;
  while (bytes >= (size_t)1 << 20 && n < most) {
    if (cudaMalloc(&block[n], bytes) == cudaSuccess) {
      n++;
      continue;
    }
    cudaGetLastError();
    bytes /= 2;
  }
  size_t room, total;
  device->memory->room(device, &room, &total);
  print_message("%zu of %zu bytes are free\n", room, total);
  return n;
}

/* A device that is really full: a status that says so, and everything goes on when there is room again. */
static void full_device_is_a_status(void **opaque) {
  (void)opaque;
  enum { BLOCKS = 256 };
#ifdef CLOCHER_CUDA_EMULATED
  ie_emulate_memory((size_t)64 << 20);
#endif
  ie_device *device = device_open("cuda");
  ie_model *model = model_open(device, moe_dir);
  ie_state *state;
  ie_error error = {0};
  void *block[BLOCKS];
  const ie_state_options deep = {.context_tok = 2048, .sequences = 64};
  int n = memory_eat(device, block, BLOCKS);
  assert_true(n > 0);
  ie_status status = ie_state_new(model, &deep, &state, &error);
  print_message("%s\n", error.message);
  expect(status, IE_OUT_OF_MEMORY, &error, "keys and values (64 sequences of 2048 tokens)");
  expect(status, IE_OUT_OF_MEMORY, &error, "bytes are wanted");
  expect(status, IE_OUT_OF_MEMORY, &error, " would fit");
  while (n > 0) assert_int_equal(cudaFree(block[--n]), cudaSuccess);
  state = state_open(model);
  if (prompt_append(state, &error) != IE_OK) fail_msg("%s", error.message);
  ie_state_free(state);
  ie_model_free(model);
  ie_device_free(device);
#ifdef CLOCHER_CUDA_EMULATED
  ie_emulate_memory((size_t)4 << 30);
#endif
}

/* --- Failures of the runtime, which only the emulator can bring about -------------------------------------------- */

#ifdef CLOCHER_CUDA_EMULATED
static void full_memory_names_what_would_fit(void **opaque) {
  (void)opaque;
  ie_device *device = device_open("cuda");
  ie_model *model = model_open(device, moe_dir), *second;
  ie_state *state;
  ie_error error = {0};
  size_t room, total;
  device->memory->room(device, &room, &total);
  ie_emulate_memory(total - room + (6 << 20));
  const ie_state_options deep = {.context_tok = 2048, .sequences = 8};
  ie_status status = ie_state_new(model, &deep, &state, &error);
  expect(status, IE_OUT_OF_MEMORY, &error, "keys and values (8 sequences of 2048 tokens)");
  expect(status, IE_OUT_OF_MEMORY, &error, "bytes are wanted");
  expect(status, IE_OUT_OF_MEMORY, &error, "would fit");
  /* What it says must be true. */
  const char *context = strstr(error.message, "--ctx "), *batch = strstr(error.message, "--batch ");
  assert_true(context && batch);
  const ie_state_options less[] = {{.context_tok = atoll(context + 6), .sequences = 8},
                                   {.context_tok = 2048, .sequences = atoll(batch + 8)}};
  for (int i = 0; i < 2; i++) {
    ie_error none = {0};
    if (ie_state_new(model, &less[i], &state, &none) != IE_OK) fail_msg("%s", none.message);
    ie_state_free(state);
  }
  ie_emulate_memory(total - room + 4096);
  const ie_model_options options = {.precision = IE_PRECISION_FP32};
  status = ie_model_open(device, dense_dir, &options, &second, &error);
  expect(status, IE_OUT_OF_MEMORY, &error, "weights: ");
  expect(status, IE_OUT_OF_MEMORY, &error, "--device cpu would fit");
  ie_emulate_memory((size_t)4 << 30);
  ie_model_free(model);
  ie_device_free(device);
}

/* Opens everything, writes a few tokens (forwards that are launched, recorded and replayed) and gives everything back. */
static ie_status whole_life(const char *dir, int32_t ids[4], ie_error *error) {
  ie_device *device = NULL;
  ie_model *model = NULL;
  ie_state *state = NULL;
  ie_generate_result result = {0};
  const ie_model_options options = {.precision = IE_PRECISION_BF16};
  const ie_generate_options generate = {.prompt = prompt,
                                        .prompt_count = 2,
                                        .max_new = 4,
                                        .ignore_eos = true,
                                        .sample = {.temperature = 0.9, .seed = 3}};
  ie_status status = ie_device_open(&(ie_device_options){.kind = "cuda", .threads = 1}, &device, error);
  if (status == IE_OK) status = ie_model_open(device, dir, &options, &model, error);
  if (status == IE_OK) status = ie_state_new(model, &(ie_state_options){.context_tok = 96}, &state, error);
  if (status == IE_OK) status = ie_generate(state, 0, &generate, &result, error);
  if (status == IE_OK) memcpy(ids, result.ids.ids, 4 * sizeof *ids);
  ie_generate_result_free(&result);
  ie_state_free(state);
  ie_model_free(model);
  ie_device_free(device);
  return status;
}

/* Any call of the runtime may fail: a status that says where, or the same ids (a graph that cannot be recorded is
 * launched), and nothing is left behind. All calls up to the first forward, then some. */
static void each_call_may_fail(void **opaque) {
  (void)opaque;
  enum { EACH = 70, SOME = 37 };
  int32_t expected[4], ids[4];
  ie_error error = {0};
  assert_int_equal(whole_life(dense_dir, expected, &error), IE_OK);
  assert_int_equal(ie_emulate_held(), 0);
  int failed = 0;
  for (uint64_t n = 1;; n += n < EACH ? 1 : SOME) {
    error = (ie_error){0};
    ie_emulate_refuse(n, n % 2 ? cudaErrorMemoryAllocation : cudaErrorLaunchFailure);
    ie_status status = whole_life(dense_dir, ids, &error);
    bool beyond = ie_emulate_refuse_left() > 0;
    ie_emulate_refuse(0, cudaSuccess);
    if (ie_emulate_held() != 0) fail_msg("call %d: %d things are left", (int)n, (int)ie_emulate_held());
    if (status != IE_OK && status != IE_OUT_OF_MEMORY && status != IE_DEVICE)
      fail_msg("call %d: %s: %s", (int)n, ie_status_name(status), error.message);
    if (status != IE_OK && !strstr(error.message, "cuda")) fail_msg("call %d: %s", (int)n, error.message);
    if (status == IE_OK) assert_memory_equal(ids, expected, sizeof ids);
    failed += status != IE_OK;
    if (beyond) break;
  }
  assert_true(failed > EACH / 2);
}

/* Memory of the host that cannot be pinned is not mistaken for a device that is full. */
static void full_host_is_not_a_full_device(void **opaque) {
  (void)opaque;
  ie_device *device = device_open("cuda");
  ie_model *model = model_open(device, dense_dir);
  ie_state *state;
  ie_error error = {0};
  bool seen = false;
  for (uint64_t n = 1; n < 40; n++) {
    ie_emulate_refuse(n, cudaErrorMemoryAllocation);
    ie_status status = ie_state_new(model, &(ie_state_options){.context_tok = 96}, &state, &error);
    ie_emulate_refuse(0, cudaSuccess);
    if (status == IE_OK) {
      ie_state_free(state);
      continue;
    }
    if (!strstr(error.message, "pinned bytes are wanted")) continue;
    seen = true;
    assert_null(strstr(error.message, "would fit"));
  }
  assert_true(seen);
  ie_model_free(model);
  ie_device_free(device);
}

/* What forwards and sampling take besides counts as well. */
static void full_memory_for_sampling_is_named(void **opaque) {
  (void)opaque;
  ie_device *device = device_open("cuda");
  ie_model *model = model_open(device, dense_dir);
  ie_state *state;
  ie_state_sizes sizes;
  ie_error error = {0};
  size_t room, total;
  const ie_state_options options = {.context_tok = 96, .sequences = 2};
  device->memory->room(device, &room, &total);
  assert_int_equal(ie_state_size(model, &options, &sizes, &error), IE_OK);
  ie_emulate_memory(total - room + sizes.kv_bytes + sizes.scratch_bytes + sizes.runner_bytes - 300);
  ie_status status = ie_state_new(model, &options, &state, &error);
  expect(status, IE_OUT_OF_MEMORY, &error, "out of memory for sampling: ");
  expect(status, IE_OUT_OF_MEMORY, &error, "--ctx ");
  ie_emulate_memory((size_t)4 << 30);
  ie_model_free(model);
  ie_device_free(device);
}

/* What is said when there is no device to open: by name, and by `auto`, which computes on the CPU and notes why. */
static void missing_devices_are_explained(void **opaque) {
  (void)opaque;
  static const struct {
    int driver, devices;
    const char *why;
  } cases[] = {{0, 1, "no NVIDIA driver is installed"},
               {12040, 1, "the NVIDIA driver is too old: it has CUDA 12.4, this program needs 13.0"},
               {12090, 0, "the NVIDIA driver is too old: it has CUDA 12.9, this program needs 13.0"},
               {CUDART_VERSION, 0, "there is no NVIDIA GPU that CUDA can use"}};
  static const char *const kinds[] = {"cuda", "cuda:0", "cuda:1"};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ie_device *device;
    ie_error error = {0};
    char expected[200];
    ie_emulate_driver(cases[i].driver, cases[i].devices);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
      ie_status status = ie_device_open(&(ie_device_options){.kind = kinds[k]}, &device, &error);
      snprintf(expected, sizeof expected, "device '%s': %s", kinds[k], cases[i].why);
      expect(status, IE_DEVICE, &error, expected);
    }
    device = device_open("auto");
    assert_string_equal(ie_device_kind(device), "cpu");
    assert_string_equal(ie_device_note(device), cases[i].why);
    ie_device_free(device);
  }
  ie_emulate_driver(CUDART_VERSION, 2);
  ie_device *second = device_open("cuda:1");
  assert_non_null(strstr(ie_device_name(second), "cuda:1 "));
  ie_device_free(second);
  ie_emulate_driver(CUDART_VERSION + 10, 1); /* a newer driver is no fault */
  ie_device_free(device_open("cuda"));
  ie_emulate_driver(CUDART_VERSION, 1);
}

/* A device that stops answering, in the middle of what `part` does: a status after the limit, at once from then on, and
 * nothing that gives memory back waits for it (the emulator ends a process that would). */
static int hangs_in(int part) {
  ie_device *device = device_open("cuda");
  cuda_of(device)->wait_s = 0.05;
  ie_model *model = model_open(device, moe_dir), *second;
  ie_state *state = state_open(model);
  ie_ceilings ceilings;
  ie_error error = {0};
  const ie_model_options options = {.precision = IE_PRECISION_FP32};
  ie_emulate_hang(1);
  ie_status status = IE_OK;
  if (part == 0) status = prompt_append(state, &error);
  if (part == 1) status = ie_model_open(device, dense_dir, &options, &second, &error);
  if (part == 2) status = device->memory->probe_read(device, 1 << 16, &ceilings, &error);
  if (part == 3) status = device->memory->probe_matrix(device, &ceilings, &error);
  if (status != IE_DEVICE || !strstr(error.message, "no answer for ")) return 1;
  if (prompt_append(state, &error) != IE_DEVICE || !strstr(error.message, "it was lost")) return 2;
  if (ie_model_open(device, dense_dir, &options, &second, &error) != IE_DEVICE) return 3;
  ie_state_free(state);
  ie_model_free(model);
  ie_device_free(device);
  return 0;
}

/* In a process of its own: what a lost device holds is never given back. */
static void hanging_device_is_a_status(void **opaque) {
  (void)opaque;
  for (int part = 0; part < 4; part++) {
    int status;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) _exit(hangs_in(part));
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (status != 0) fail_msg("part %d: status %d", part, status);
  }
}

static void lost_device_is_a_status(void **opaque) {
  (void)opaque;
  for (uint64_t at = 1; at < 40; at += 6) {
    ie_device *device = device_open("cuda");
    ie_model *model = model_open(device, moe_dir);
    ie_state *state = state_open(model);
    ie_error error = {0};
    ie_emulate_fail(at, cudaErrorLaunchFailure);
    expect(prompt_append(state, &error), IE_DEVICE, &error, "cuda:0");
    expect(prompt_append(state, &error), IE_DEVICE, &error, "cuda:0");
    ie_emulate_fail(0, cudaSuccess);
    ie_state_free(state);
    ie_model_free(model);
    ie_device_free(device);
  }
}
#endif

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(devices_are_chosen_by_name),
      cmocka_unit_test(operations_without_a_launcher_are_refused),
      cmocka_unit_test(training_and_limits_are_refused),
      cmocka_unit_test(nan_is_named),
      cmocka_unit_test(saved_states_move_between_devices),
      cmocka_unit_test(random_caches_and_rollback),
      cmocka_unit_test(full_device_is_a_status),
#ifdef CLOCHER_CUDA_EMULATED
      cmocka_unit_test(full_memory_names_what_would_fit),
      cmocka_unit_test(lost_device_is_a_status),
      cmocka_unit_test(missing_devices_are_explained),
      cmocka_unit_test(hanging_device_is_a_status),
      cmocka_unit_test(each_call_may_fail),
      cmocka_unit_test(full_host_is_not_a_full_device),
      cmocka_unit_test(full_memory_for_sampling_is_named),
#endif
  };
  return cmocka_run_group_tests_name("gpu device", tests, NULL, NULL);
}
