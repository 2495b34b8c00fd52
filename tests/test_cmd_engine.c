/* logits, inspect, plan, sample and bench from outside, on the small golden models. */
#include "clocher/tensor.h"
#include "support/program.h"
#include "support/random_model.h"
#include "support/small_model.h"
#include "support/tempdir.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static const char model[] = SMALL_MODEL;
enum { VOCAB = SMALL_MODEL_VOCAB, WIDTH = 96 };

/* --- logits ---------------------------------------------------------------------------------------------------- */

static void logits_have_their_names_and_shapes(void **state) {
  (void)state;
  char *dir = tempdir_make();
  const char *path = tempdir_path(dir, "o");
  program_expect(0, NULL, "logits --model-dir %s --ids '5,6,7,8;9,10' --out %s --hidden", model, path);
  ie_tensor_file *several = tensors_open(path);
  assert_non_null(ie_tensor_file_get(several, "logits.0"));
  const ie_tensor_info *second = ie_tensor_file_get(several, "logits.1");
  assert_non_null(second);
  assert_true(second->rank == 2 && second->shape[0] == 2 && second->shape[1] == VOCAB &&
              second->dtype == IE_F32);
  assert_non_null(ie_tensor_file_get(several, "hidden.1.0"));
  const char *one = tempdir_path(dir, "one");
  program_expect(0, NULL, "logits --model-dir %s --ids 5,6,7,8 --out %s --hidden", model, one);
  ie_tensor_file *single = tensors_open(one);
  const ie_tensor_info *first = ie_tensor_file_get(several, "logits.0"),
                       *alone = ie_tensor_file_get(single, "logits");
  assert_non_null(alone);
  assert_int_equal(alone->bytes, first->bytes);
  assert_memory_equal(alone->data, first->data, alone->bytes);
  const ie_tensor_info *embedded = ie_tensor_file_get(single, "hidden.0");
  assert_true(embedded && embedded->shape[0] == 4 && embedded->shape[1] == WIDTH);
  /* --last: the last row of the same */
  const char *last = tempdir_path(dir, "last");
  program_expect(0, NULL, "logits --model-dir %s --ids 5,6,7,8 --out %s --last", model, last);
  ie_tensor_file *tail = tensors_open(last);
  const ie_tensor_info *row = ie_tensor_file_get(tail, "logits");
  assert_true(row && row->shape[0] == 1 && row->shape[1] == VOCAB);
  assert_memory_equal(row->data, (const float *)alone->data + 3 * VOCAB, VOCAB * sizeof(float));
  ie_tensor_file_free(several);
  ie_tensor_file_free(single);
  ie_tensor_file_free(tail);
  tempdir_remove(dir);
}

static void logits_failures_leave_no_file(void **state) {
  (void)state;
  char *dir = tempdir_make();
  program_expect(1, "missing", "logits --model-dir %s --ids 5,6 --out %s/missing/o", model, dir);
  /* before the model is opened, not after it has computed */
  program_expect(2, "empty path", "logits --model-dir %s/none --ids 5,6 --out ''", dir);
  program_expect(2, "found the folder", "logits --model-dir %s/none --ids 5,6 --out %s", dir, dir);
  program_expect(1, "the folder", "logits --model-dir %s/none --ids 5,6 --out %s/missing/o", dir, dir);
  program_expect(2, "--out F is missing", "logits --model-dir %s --ids 5,6", model);
  program_expect(2, "one of --ids and --ids-file", "logits --model-dir %s --out %s/o", model, dir);
  program_expect(2, "0 to 258", "logits --model-dir %s --ids 5,300 --out %s/o", model, dir);
  assert_int_not_equal(access(tempdir_path(dir, "o"), F_OK), 0);
  tempdir_remove(dir);
}

/* --- inspect, plan, sample, bench ------------------------------------------------------------------------------- */

/* A file whose tensors begin at an odd byte. `header` is its JSON; it is filled up with spaces. */
static void odd_file_write(const char *path, const char *header, const void *data, size_t bytes) {
  uint64_t length = strlen(header) | 1;
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(&length, 8, 1, f), 1);
  assert_int_equal(fprintf(f, "%-*s", (int)length, header), (int)length);
  assert_int_equal(fwrite(data, 1, bytes, f), bytes);
  assert_int_equal(fclose(f), 0);
}

static void files_may_begin_tensors_at_any_byte(void **state) {
  (void)state;
  char *dir = tempdir_make(), path[256], out[256], params[256];
  const int32_t ids[3] = {9, 8, 7};
  const struct {
    float logits[4];
    int32_t seen[2];
  } rows = {{1, 9, 2, 3}, {1, 1}};
  snprintf(path, sizeof path, "%s/f", dir);
  snprintf(out, sizeof out, "%s/o", dir);
  snprintf(params, sizeof params, "%s/p", dir);
  odd_file_write(path, "{\"ids\":{\"dtype\":\"I32\",\"shape\":[3],\"data_offsets\":[0,12]}}", ids,
                 sizeof ids);
  json_t *a = program_json("run --model-dir %s --ids-file %s --max-new 5 --greedy --json", model, path);
  json_t *b = program_json("run --model-dir %s --ids 9,8,7 --max-new 5 --greedy --json", model);
  result_ids_equal(a, 0, b, 0);
  json_decref(a);
  json_decref(b);
  odd_file_write(path,
                 "{\"logits\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"
                 "\"seen\":{\"dtype\":\"I32\",\"shape\":[2,1],\"data_offsets\":[16,24]}}",
                 &rows, sizeof rows);
  json_t *settings = json_pack("{s:i}", "top_k", 1);
  assert_int_equal(json_dump_file(settings, params, 0), 0);
  json_decref(settings);
  program_expect(0, NULL, "sample --logits %s --params %s --out %s", path, params, out);
  ie_tensor_file *file = tensors_open(out);
  const float *probs = ie_tensor_file_get(file, "probs")->data;
  for (int i = 0; i < 4; i++) assert_true(probs[i] == (float)(i % 2));
  ie_tensor_file_free(file);
  tempdir_remove(dir);
}

/* A token that the model has no row for is a warning: the model runs without it. */
static void inspect_warns_of_ids_without_rows(void **state) {
  (void)state;
  char *dir = text_model_make(), path[1024];
  program_result r = program_run("inspect %s --no-cache", dir);
  assert_null(strstr(r.out, "warning: tokenizer"));
  program_free(&r);
  snprintf(path, sizeof path, "%s/tokenizer.json", dir);
  json_t *root = json_load_file(path, 0, NULL);
  assert_non_null(root);
  json_t *added = json_object_get(root, "added_tokens");
  for (int id = VOCAB - 1; id <= VOCAB; id++) {
    json_t *token = json_deep_copy(json_array_get(added, 0));
    json_object_set_new(token, "id", json_integer(id));
    json_object_set_new(token, "content", json_string(id < VOCAB ? "<|last|>" : "<|beyond|>"));
    assert_int_equal(json_array_append_new(added, token), 0);
  }
  assert_int_equal(json_dump_file(root, path, 0), 0);
  json_decref(root);
  r = program_run("inspect %s --no-cache", dir);
  assert_int_equal(r.code, 0);
  assert_non_null(strstr(r.out, "warning: tokenizer: it has ids up to 259, but the model has 259 rows"));
  program_free(&r);
  json_t *v = program_json("inspect %s --json --no-cache", dir), *problem;
  size_t i, found = 0;
  json_array_foreach(json_object_get(v, "problems"), i, problem) {
    bool mine = !strcmp(json_string_value(json_object_get(problem, "where")), "tokenizer");
    if (mine) assert_string_equal(json_string_value(json_object_get(problem, "level")), "warning");
    found += mine;
  }
  assert_int_equal(found, 1);
  json_decref(v);
  tempdir_remove(dir);
}

static void inspect_tells_what_is_there(void **state) {
  (void)state;
  char *dir = text_model_make();
  json_t *v = program_json("inspect %s --json --no-cache", dir);
  assert_string_equal(json_string_value(json_object_get(v, "architecture")), "gpt-oss");
  assert_string_equal(json_string_value(json_object_get(v, "layout")), "hf");
  assert_true(result_integer(v, "parameters") > result_integer(v, "active_parameters") &&
              result_integer(v, "active_parameters") > 0);
  int64_t bytes = 0;
  json_t *t;
  size_t i;
  json_array_foreach(json_object_get(v, "tensors"), i, t) {
    bytes += result_integer(t, "bytes");
    assert_true(json_is_string(json_object_get(t, "name")) && json_is_string(json_object_get(t, "dtype")));
    assert_string_equal(json_string_value(json_object_get(t, "file")), "model.safetensors");
    assert_true(result_integer(t, "offset") > 0 && json_is_array(json_object_get(t, "shape")));
  }
  assert_int_equal(bytes, result_integer(v, "weights_bytes"));
  assert_int_equal(result_integer(json_object_get(v, "tokenizer"), "vocab"), 258);
  assert_true(json_is_null(json_object_get(v, "chat_format")));
  assert_int_equal(json_array_size(json_object_get(v, "problems")), 0);
  json_decref(v);
  v = program_json("inspect %s --json", model);
  assert_true(json_is_null(json_object_get(v, "tokenizer")));
  json_decref(v);
  program_expect(0, NULL, "inspect %s --tensors", model);
  program_expect(2, "expected: clocher inspect", "inspect");
  /* a missing tensor is an error, and the exit code says so */
  char path[1024];
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  assert_int_equal(unlink(path), 0);
  program_result r = program_run("inspect %s --json --no-cache", dir);
  assert_int_equal(r.code, 1);
  program_free(&r);
  /* its text leaves out what is not known, and names the path once */
  r = program_run("inspect %s --no-cache", dir);
  assert_int_equal(r.code, 1);
  assert_null(strstr(r.out, "unknown"));
  assert_null(strstr(r.out, "weights  "));
  assert_null(strstr(r.out, "parameters"));
  const char *named = strstr(r.out, dir);
  assert_non_null(named);
  assert_null(strstr(named + 1, dir));
  program_free(&r);
  tempdir_remove(dir);
}

static void plan_adds_up(void **state) {
  (void)state;
  json_t *v = program_json("plan --model-dir %s --ctx 256 --batch 3 --kv f32 --json", model);
  result_no_nulls(v);
  int64_t sum = result_integer(v, "resident_weights_bytes") + result_integer(v, "kv_bytes") +
                result_integer(v, "scratch_bytes") + result_integer(v, "other_bytes");
  assert_int_equal(result_integer(v, "peak_bytes"), sum);
  assert_true(result_integer(v, "minimum_bytes") <= sum && result_integer(v, "kv_bytes") > 0);
  assert_true(json_is_true(json_object_get(v, "fits")) && result_integer(v, "limit_bytes") >= sum);
  assert_true(json_array_size(json_object_get(v, "placement")) >= 2);
  int64_t kv = result_integer(v, "kv_bytes");
  json_decref(v);
  v = program_json("plan --model-dir %s --ctx 256 --batch 3 --kv f16 --memory 1000 --json", model);
  assert_int_equal(2 * result_integer(v, "kv_bytes"), kv);
  assert_true(json_is_false(json_object_get(v, "fits")));
  json_decref(v);
  program_expect(0, NULL, "plan --model-dir %s", model);
  program_expect(2, "int4", "plan --model-dir %s --weights int3", model);
  program_expect(2, "context", "plan --model-dir %s --ctx 1000000000 --json", model);
}

/* Quantised dense weights take the bytes of their encoding, and what they were read from is not resident. */
static void plan_counts_quantised_weights(void **state) {
  (void)state;
  static const char *const weights[] = {"published", "int8", "int4"};
  int64_t resident[3], published = 0;
  for (int i = 0; i < 3; i++) {
    json_t *v = program_json("plan --model-dir %s --ctx 64 --weights %s --json", model, weights[i]);
    resident[i] = result_integer(v, "resident_weights_bytes");
    published = result_integer(v, "weights_bytes");
    int64_t placed = 0;
    json_t *places = json_object_get(v, "placement");
    for (size_t k = 0; k < json_array_size(places); k++)
      placed += result_integer(json_array_get(places, k), "bytes");
    assert_int_equal(placed, result_integer(v, "peak_bytes"));
    json_decref(v);
  }
  assert_int_equal(resident[0], published);
  assert_true(resident[2] < resident[1] && resident[1] < resident[0]);
  json_t *v = program_json("run --model-dir %s --ids 1,2,3 --max-new 2 --weights int8 --json", model);
  json_t *arithmetic = json_object_get(v, "arithmetic");
  assert_string_equal(json_string_value(json_object_get(arithmetic, "weights")), "mxfp4+int8+bf16");
  json_decref(v);
}

/* The directory's tokenizer has its room: 1 MiB and 100 bytes a row of the vocabulary. */
static void plan_counts_a_tokenizer(void **state) {
  (void)state;
  char *dir = text_model_make();
  json_t *without = program_json("plan --model-dir %s --ctx 64 --json", model);
  json_t *with = program_json("plan --model-dir %s --ctx 64 --json", dir);
  assert_int_equal(result_integer(with, "other_bytes") - result_integer(without, "other_bytes"),
                   (1 << 20) + 100 * VOCAB);
  json_decref(without);
  json_decref(with);
  tempdir_remove(dir);
}

static void sample_writes_what_it_promises(void **state) {
  (void)state;
  char *dir = tempdir_make();
  float logits[2][5] = {{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}};
  const int32_t seen[2][1] = {{4}, {0}};
  ie_tensor_out t[] = {{.name = "logits", .dtype = IE_F32, .rank = 2, .shape = {2, 5}, .data = logits},
                       {.name = "seen", .dtype = IE_I32, .rank = 2, .shape = {2, 1}, .data = seen}};
  char in[256], out[256];
  snprintf(in, sizeof in, "%s", tempdir_path(dir, "l"));
  snprintf(out, sizeof out, "%s", tempdir_path(dir, "o"));
  assert_int_equal(ie_tensor_file_write(in, t, 2, NULL), IE_OK);
  char params[256];
  snprintf(params, sizeof params, "%s",
           tempdir_write_text(dir, "p", "{\"top_k\": 2, \"draws\": 100, \"seed\": 5, \"what\": 1}"));
  program_expect(0, "what is ignored", "sample --logits %s --params %s --out %s", in, params, out);
  ie_tensor_file *file = tensors_open(out);
  const float *p = ie_tensor_file_get(file, "probs")->data;
  const ie_tensor_info *ids = ie_tensor_file_get(file, "ids");
  assert_true(ids->shape[0] == 2 && ids->shape[1] == 100);
  assert_true(p[0] == 0 && p[2] == 0 && fabsf(p[4] - 0.7310586f) < 1e-6f && fabsf(p[5] - 0.7310586f) < 1e-6f);
  for (int i = 0; i < 100; i++) assert_true(((const int32_t *)ids->data)[i] >= 3);
  ie_tensor_file_free(file);
  static const char *const bad[] = {
      "[]", "{", "{\"top_p\": 2}", "{\"temperature\": \"x\"}", "{\"draws\": -1}", "{\"top_k\": 1.5}"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    program_expect(2, NULL, "sample --logits %s --params %s --out %s", in,
                   tempdir_write_text(dir, "q", bad[i]), out);
  logits[1][3] = NAN;
  assert_int_equal(ie_tensor_file_write(in, t, 2, NULL), IE_OK);
  program_expect(1, "NaN at id 3 (row 1", "sample --logits %s --params %s --out %s", in, params, out);
  tempdir_remove(dir);
}

/* Ctrl-C in a probe that would read for hours. */
static void bench_ends_at_an_interrupt(void **state) {
  (void)state;
  program_child child = program_start(
      "bench --model-dir %s --phase decode --runs 1 --tokens 2 --probe-buffer 64MiB --probe-read "
      "100000GiB",
      model);
  char c;
  while (read(child.err, &c, 1) == 1 && c != '\n') /* "measuring decode" */
    continue;
  nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
  kill(child.pid, SIGINT);
  alarm(60);
  program_result r = program_end(&child);
  alarm(0);
  assert_int_equal(r.code, 130);
  assert_int_equal(r.out_size, 0);
  program_free(&r);
}

/* A neighbour takes time and changes no bit; how a depth is reached is said, and acts. */
static void bench_fills_and_neighbours(void) {
  static const char small[] =
      "--phase decode --runs 2 --tokens 3 --probe-buffer 8MiB --probe-read 8MiB --json";
  program_result r = program_run("bench --model-dir %s --depth 9 %s --neighbour 0", model, small);
  char *second = strchr(r.out, '\n');
  if (r.code != 0 || !second) fail_msg("%s", r.err);
  json_t *quiet = json_loads(r.out, JSON_DISABLE_EOF_CHECK, NULL), *with = json_loads(second, 0, NULL);
  assert_non_null(quiet), assert_non_null(with);
  assert_null(json_object_get(quiet, "neighbour"));
  assert_int_equal(result_integer(with, "neighbour"), 0);
  assert_true(json_number_value(json_object_get(with, "neighbour_cpu_s")) >= 0);
  const char *hash = json_string_value(json_object_get(quiet, "logits_hash"));
  assert_string_equal(json_string_value(json_object_get(with, "logits_hash")), hash);
  program_free(&r);
  r = program_run("bench --model-dir %s --depth 9 %s --fill prefill --pretranspose woh", model, small);
  assert_non_null(strstr(r.err, "--pretranspose woh is ignored"));
  json_t *computed = json_loads(r.out, 0, NULL);
  assert_string_equal(json_string_value(json_object_get(computed, "filled")), "prefill");
  assert_string_not_equal(json_string_value(json_object_get(computed, "logits_hash")), hash);
  program_free(&r);
  json_decref(quiet), json_decref(with), json_decref(computed);
  program_expect(2, "no such processor", "bench --model-dir %s %s --neighbour 8191", model, small);
  program_expect(2, "--neighbour", "bench --model-dir %s %s --neighbour x", model, small);
}

static void bench_reports_one_object_a_case(void **state) {
  (void)state;
  static const char *const numbers[] = {
      "tok_s_median",  "tok_s_min", "tok_s_max",   "token_ms_p50", "token_ms_p95",  "bytes_per_step", "gb_s",
      "flop_per_step", "tflop_s",   "floor_tok_s", "ratio",        "foreign_cpu_s", "steal_s"};
  program_result r =
      program_run("bench --model-dir %s --phase decode,prefill --prompt 20 --depth 0,9 --batch 1,2 --runs 2 "
                  "--tokens 4 --probe-buffer 32MiB --probe-read 32MiB --json --quiet",
                  model);
  if (r.code != 0) fail_msg("%s", r.err);
  assert_string_equal(r.err, "");
  int cases = 0;
  for (char *line = strtok(r.out, "\n"); line; line = strtok(NULL, "\n"), cases++) {
    json_t *v = json_loads(line, 0, NULL);
    assert_non_null(v);
    result_no_nulls(v);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
      if (!json_is_number(json_object_get(v, numbers[i]))) fail_msg("%s is missing", numbers[i]);
    assert_true(json_number_value(json_object_get(v, "tok_s_min")) <=
                json_number_value(json_object_get(v, "tok_s_max")));
    assert_true(json_is_boolean(json_object_get(v, "valid")));
    assert_int_equal(strlen(json_string_value(json_object_get(v, "logits_hash"))), 16);
    assert_true(result_integer(v, "peak_rss_bytes") > 0 && result_integer(v, "runs") == 2);
    assert_true(json_number_value(json_object_get(json_object_get(v, "ceiling"), "read_gb_s")) > 0);
    assert_true(json_number_value(json_object_get(json_object_get(v, "ceiling"), "matrix_tflop_s")) > 0);
    assert_true(json_number_value(json_object_get(json_object_get(v, "ceiling"), "mapped_read_gb_s")) > 0);
    bool deep = result_integer(v, "depth") > 0;
    assert_string_equal(json_string_value(json_object_get(v, "filled")), deep ? "random" : "nothing");
    assert_null(json_object_get(v, "neighbour"));
    json_decref(v);
  }
  assert_int_equal(cases, 4 + 2);
  program_free(&r);
  bench_fills_and_neighbours();
  program_expect(0, NULL, "bench sampler --vocab 1000 --runs 1 --json");
  r = program_run("bench sampler --vocab 1000 --runs 3 --json");
  assert_non_null(strstr(r.out, "\"runs\":3,"));
  program_free(&r);
  program_expect(2, "--prompt", "bench --model-dir %s --prompt 1,x", model);
  /* a case that does not fit is refused before another one is measured */
  static const struct {
    const char *flags, *message;
    int code;
  } beyond[] = {
      {"--phase decode --depth 0,2040 --tokens 9", "--depth 2040 and --tokens 9 do not fit", 2},
      {"--phase prefill --prompt 4,3000", "--depth 0 and --prompt 3000 do not fit", 2},
      {"--phase decode --batch 1,1073741824", "--batch 1073741824", 1},
      {"--phase decode --memory 1000", "does not fit --memory 1000", 2},
      {"--phase decode --memory 33555432", "--memory 1000 bytes", 1}, /* 1000 beside the probe */
  };
  for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) {
    r = program_run("bench --model-dir %s %s --runs 1 --probe-buffer 32MiB --probe-read 32MiB", model,
                    beyond[i].flags);
    if (r.code != beyond[i].code || r.out[0] || !strstr(r.err, beyond[i].message))
      fail_msg("%s: exit %d: %s%s", beyond[i].flags, r.code, r.out, r.err);
    program_free(&r);
  }
  program_expect(2, "--phase", "bench --model-dir %s --phase load", model);
  program_expect(2, "memory, matrix", "bench");
}

/* Experts that a bench of these cases had room for. */
static int64_t bench_slots(const char *dir, const char *cases, int64_t limit) {
  program_result r = program_run("bench --model-dir %s %s --tokens 4 --runs 1 --chunk 16 --memory %lld "
                                 "--probe-buffer 1MiB --probe-read 1MiB --json",
                                 dir, cases, (long long)limit + (1 << 20));
  if (r.code != 0) fail_msg("%s", r.err);
  json_t *v = json_loads(r.out, JSON_DISABLE_EOF_CHECK, NULL);
  assert_non_null(v);
  json_t *stream = json_object_get(v, "stream");
  assert_true(json_is_true(json_object_get(stream, "streamed")));
  int64_t slots = result_integer(stream, "slots");
  json_t *disk = json_object_get(v, "disk");
  double before = json_number_value(json_object_get(disk, "before_gb_s")),
         after = json_number_value(json_object_get(disk, "after_gb_s")),
         ceiling = json_number_value(json_object_get(disk, "ceiling_gb_s")),
         reached = json_number_value(json_object_get(disk, "gb_s"));
  assert_true(before > 0 && after > 0 && ceiling == fmax(before, after) && reached > 0);
  assert_true(fabs(json_number_value(json_object_get(disk, "ratio")) - reached / ceiling) <
              1e-3 * reached / ceiling);
  json_decref(v);
  program_free(&r);
  return slots;
}

/* The limit holds every case: the prefill's one context is longer here than those of two sequences together. */
static void bench_limits_the_largest_case(void **state) {
  (void)state;
  static const char decode[] = "--phase decode --depth 150 --batch 2",
                    prefill[] = "--phase prefill --depth 150 --prompt 350",
                    both[] = "--phase decode,prefill --depth 150 --batch 2 --prompt 350";
  char *dir = tempdir_make();
  random_model_write(&(random_model){.arch = RANDOM_GPT_OSS,
                                     .layers = 4,
                                     .width = 256,
                                     .ffn = 512,
                                     .heads = 8,
                                     .kv_heads = 8,
                                     .head_dim = 64,
                                     .vocab = 300,
                                     .experts = 64,
                                     .top_k = 2,
                                     .window = 16,
                                     .dtype = IE_BF16,
                                     .seed = 5},
                     dir);
  json_t *v = program_json("plan --model-dir %s --ctx 508 --chunk 16 --memory 1 --json", dir);
  int64_t limit = result_integer(v, "minimum_bytes");
  json_decref(v);
  int64_t one = bench_slots(dir, decode, limit), other = bench_slots(dir, prefill, limit);
  assert_true(other < one);
  assert_int_equal(bench_slots(dir, both, limit), other);
  program_expect(1, "at least", "bench --model-dir %s %s --memory %lld --probe-buffer 1MiB", dir, both,
                 (long long)limit / 2);
  tempdir_remove(dir);
}

/* What a limit or a context does not hold is refused before weights are quantised: it takes no more memory than planning. */
static void limits_refuse_before_loading(void **state) {
  (void)state;
  static const char *const commands[] = {"run --ids 1,2 --max-new 1", "logits --ids 1,2 --out none",
                                         "bench --phase decode --probe-buffer 1MiB"};
  char *dir = tempdir_make();
  random_model_write(&(random_model){.arch = RANDOM_LLAMA,
                                     .layers = 2,
                                     .width = 1024,
                                     .ffn = 4096,
                                     .heads = 8,
                                     .kv_heads = 8,
                                     .head_dim = 128,
                                     .vocab = 300,
                                     .dtype = IE_BF16,
                                     .seed = 5},
                     dir);
  program_result plan = program_run("plan --model-dir %s --weights int8 --memory 20MiB", dir);
  assert_int_equal(plan.code, 0);
  for (size_t i = 0; i < 3; i++) {
    program_result r = program_run("%s --model-dir %s --weights int8 --memory 20MiB", commands[i], dir);
    if (r.code != 1 || !strstr(r.err, "at least")) fail_msg("%s: exit %d: %s", commands[i], r.code, r.err);
    if (r.peak_bytes > plan.peak_bytes + (8 << 20)) fail_msg("%s: %zu bytes", commands[i], r.peak_bytes);
    program_free(&r);
  }
  program_result r = program_run("run --ids 1,2,3,4 --ctx 4 --max-new 1 --model-dir %s --weights int8", dir);
  if (r.code == 0 || !strstr(r.err, "the context of 4")) fail_msg("exit %d: %s", r.code, r.err);
  if (r.peak_bytes > plan.peak_bytes + (8 << 20)) fail_msg("a full context: %zu bytes", r.peak_bytes);
  program_free(&r);
  r = program_run("run --ids 1,2 --max-new 1 --model-dir %s --weights int8 --memory 200MiB", dir);
  if (r.code != 0) fail_msg("%s", r.err);
#ifndef __SANITIZE_ADDRESS__                                /* its own memory is more than the model's */
  assert_true(r.peak_bytes > plan.peak_bytes + (16 << 20)); /* what is refused would have shown */
#endif
  program_free(&r);
  program_free(&plan);
  tempdir_remove(dir);
}

/* Several rows in one forward: deterministic the bytes of one after the other, in every class. */
static void logits_of_rows_together(void **state) {
  (void)state;
  char *dir = tempdir_make(), paths[2][512];
  static const char *const classes[] = {"fp32", "bf16", "fp16", "int8"};
  for (int i = 0; i < 2; i++) snprintf(paths[i], sizeof paths[i], "%s/%d", dir, i);
  for (size_t c = 0; c < 4; c++)
    for (int last = 0; last < 2; last++) {
      for (int i = 0; i < 2; i++)
        program_expect(
            0, NULL,
            "logits --model-dir %s --ids '1,2,3,4,5;258;9,8,7,6,5,4,3,2,1,0,11,12,13,14,15,16,17,18;7,7' "
            "--precision %s --deterministic --hidden %s --batch %d --chunk %d --out %s",
            SMALL_MODEL, classes[c], last ? "--last" : "", i ? 3 : 1, i ? 9 : 512, paths[i]);
      ie_tensor_file *a = tensors_open(paths[0]), *b = tensors_open(paths[1]);
      assert_int_equal(ie_tensor_file_count(a), 4 * 5);
      for (size_t t = 0; t < ie_tensor_file_count(a); t++) {
        const ie_tensor_info *x = ie_tensor_file_at(a, t), *y = ie_tensor_file_get(b, x->name);
        assert_non_null(y);
        assert_int_equal(x->bytes, y->bytes);
        assert_memory_equal(x->data, y->data, x->bytes);
      }
      ie_tensor_file_free(a);
      ie_tensor_file_free(b);
    }
  tempdir_remove(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(logits_of_rows_together),
      cmocka_unit_test(logits_have_their_names_and_shapes),
      cmocka_unit_test(logits_failures_leave_no_file),
      cmocka_unit_test(files_may_begin_tensors_at_any_byte),
      cmocka_unit_test(inspect_warns_of_ids_without_rows),
      cmocka_unit_test(inspect_tells_what_is_there),
      cmocka_unit_test(plan_adds_up),
      cmocka_unit_test(plan_counts_quantised_weights),
      cmocka_unit_test(plan_counts_a_tokenizer),
      cmocka_unit_test(sample_writes_what_it_promises),
      cmocka_unit_test(bench_reports_one_object_a_case),
      cmocka_unit_test(bench_limits_the_largest_case),
      cmocka_unit_test(limits_refuse_before_loading),
      cmocka_unit_test(bench_ends_at_an_interrupt),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
