/* The program under the name inference-engine, from outside: its flags, variables, exit codes, and the JSON line. */
#include "support/inference.h"
#include "support/random_model.h"
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
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* --- The line ---------------------------------------------------------------------------------------------------- */

enum { WANT_INT = 1, WANT_REAL, WANT_BOOL, WANT_STRING, WANT_ARRAY, WANT_OBJECT };

typedef struct key_type {
  const char *key;
  int type;
} key_type;

/* The first `ordered` keys stand in this order, ahead of all others. */
static void keys_check(const json_t *o, const key_type *keys, size_t count, size_t ordered) {
  size_t at = 0;
  for (size_t i = 0; i < count; i++) {
    const json_t *v = json_object_get(o, keys[i].key);
    bool ok = keys[i].type == WANT_INT      ? json_is_integer(v)
              : keys[i].type == WANT_REAL   ? json_is_real(v)
              : keys[i].type == WANT_BOOL   ? json_is_boolean(v)
              : keys[i].type == WANT_STRING ? json_is_string(v)
              : keys[i].type == WANT_ARRAY  ? json_is_array(v)
                                            : json_is_object(v);
    if (!ok) fail_msg("%s is missing or of another type", keys[i].key);
  }
  const char *key;
  json_t *v;
  json_object_foreach((json_t *)(uintptr_t)o, key, v) {
    if (at == ordered) break;
    if (strcmp(key, keys[at].key) != 0) fail_msg("key %zu is %s, expected %s", at, key, keys[at].key);
    at++;
  }
}
#define KEYS(o, table, ordered) keys_check(o, table, sizeof(table) / sizeof *(table), ordered)

/* clang-format off */
static const key_type head[] = {
    {"tokens_generated", WANT_INT}, {"tokens", WANT_ARRAY}, {"tokenizer_path", WANT_STRING},
    {"expected_tokens_file", WANT_STRING}, {"text", WANT_STRING}, {"wall_time_s", WANT_REAL},
    {"prefill_time_s", WANT_REAL}, {"decode_time_s", WANT_REAL}, {"tps_true", WANT_REAL},
    {"tps_window", WANT_REAL}, {"latency_p50_ms", WANT_REAL}, {"latency_p95_ms", WANT_REAL},
    {"rss_peak_mb", WANT_INT}, {"kv_hits", WANT_INT}, {"kv_misses", WANT_INT}, {"prompts_count", WANT_INT},
    {"rounds", WANT_INT}, {"prompts", WANT_ARRAY}, {"ttft_s", WANT_REAL}, {"prompt_tokens", WANT_INT},
    {"stop_reason", WANT_STRING}, {"precision", WANT_STRING}, {"batch", WANT_INT}, {"device", WANT_STRING},
    {"load_time_s", WANT_REAL}, {"isa", WANT_STRING}, {"threads", WANT_INT}, {"arithmetic_class", WANT_STRING},
    {"arithmetic", WANT_OBJECT}, {"touch_nominal_bytes", WANT_INT}, {"touch_read_bytes", WANT_INT},
    {"touch_line_bytes", WANT_INT}, {"touch_time_s", WANT_REAL}, {"stub", WANT_BOOL}};
/* clang-format on */
enum { HEAD_ORDERED = 18 };

/* clang-format off */
static const key_type prompt_keys[] = {
    {"prompt_index", WANT_INT}, {"prompt", WANT_STRING}, {"prompt_id", WANT_STRING},
    {"tokens_generated", WANT_INT}, {"window_time_s", WANT_REAL}, {"prefill_time_s", WANT_REAL},
    {"decode_time_s", WANT_REAL}, {"tps_true", WANT_REAL}, {"tps_window", WANT_REAL},
    {"expected_present", WANT_BOOL}, {"expected_all_ok", WANT_BOOL}, {"rounds", WANT_ARRAY},
    {"prompt_tokens", WANT_INT}};
/* clang-format on */

/* clang-format off */
static const key_type round_keys[] = {
    {"round", WANT_INT}, {"tokens_generated", WANT_INT}, {"window_time_s", WANT_REAL},
    {"prefill_time_s", WANT_REAL}, {"decode_time_s", WANT_REAL}, {"expected_present", WANT_BOOL},
    {"expected_ok", WANT_BOOL}, {"tokens", WANT_ARRAY}, {"text", WANT_STRING}, {"ttft_s", WANT_REAL},
    {"positions", WANT_INT}, {"stop_reason", WANT_STRING}};
/* clang-format on */

static void line_has_every_key_in_order(void **state) {
  (void)state;
  char *dir = tempdir_make();
  const char *expected = tempdir_write_text(dir, "expected.txt", "# none of ours\n1 2,3\n");
  json_t *v =
      LINE(0, "--model-dir %s --prompt 'Once upon a time' --max-new 6 --print-text --expected-tokens %s",
           demo, expected);
  KEYS(v, head, HEAD_ORDERED);
  KEYS(prompt_of(v, 0), prompt_keys, 12);
  KEYS(round_of(v, 0, 0), round_keys, 9);
  assert_string_equal(string(v, "precision"), "fp32");
  assert_string_equal(string(v, "arithmetic_class"), "fp32");
  assert_string_equal(string(v, "device"), "cpu");
  assert_string_equal(string(json_object_get(v, "arithmetic"), "activations"), "f32");
  assert_string_equal(string(v, "stop_reason"), "length");
  assert_string_equal(string(v, "text"), string(round_of(v, 0, 0), "text"));
  assert_true(strlen(string(v, "text")) > 0);
  assert_null(json_object_get(v, "error"));
  assert_true(number(v, "rss_peak_mb") >= 1);
  assert_int_equal(result_integer(v, "tokens_generated"), 6);
  assert_int_equal(json_array_size(json_object_get(v, "tokens")), 6);
  json_decref(v);
  tempdir_remove(dir);
}

/* Times are of what was done, and add up. */
static void times_are_accounted_for(void **state) {
  (void)state;
  json_t *v = LINE(
      0, "--model-dir %s --prompts-file benchmarks/prompts_10.txt --max-new 7 --rounds 2 --ignore-eos", demo);
  double windows = 0, decode = 0, prefill = 0;
  int64_t tokens = 0, misses = 0, hits = 0, layers = 0;
  size_t n = (size_t)result_integer(v, "prompts_count");
  assert_int_equal(n, 10);
  for (size_t i = 0; i < n; i++) {
    json_t *p = prompt_of(v, i);
    assert_int_equal(json_array_size(json_object_get(p, "rounds")), 2);
    windows += number(p, "window_time_s");
    decode += number(p, "decode_time_s");
    prefill += number(p, "prefill_time_s");
    tokens += result_integer(p, "tokens_generated");
    assert_int_equal(result_integer(p, "tokens_generated"), 14);
    for (size_t r = 0; r < 2; r++) {
      json_t *round = round_of(v, i, r);
      int64_t positions = result_integer(round, "positions");
      assert_int_equal(positions, result_integer(p, "prompt_tokens") + 7);
      assert_true(number(round, "prefill_time_s") > 0);
      assert_true(number(round, "ttft_s") >= number(round, "prefill_time_s"));
      assert_true(number(round, "prefill_time_s") + number(round, "decode_time_s") <=
                  number(round, "window_time_s"));
      misses += positions;
      hits += positions * (positions - 1) / 2;
    }
    tokens_equal(round_of(v, i, 0), round_of(v, i, 1), true);
  }
  assert_int_equal(json_array_size(json_object_get(v, "tokens")), 0);
  assert_int_equal(tokens, result_integer(v, "tokens_generated"));
  assert_true(windows <= number(v, "wall_time_s"));
  assert_true(fabs(decode - number(v, "decode_time_s")) < 1e-6);
  assert_true(fabs(prefill - number(v, "prefill_time_s")) < 1e-6);
  assert_true(fabs(number(v, "tps_true") * number(v, "decode_time_s") - (double)tokens) < 1e-3);
  assert_true(fabs(number(v, "tps_window") * number(v, "wall_time_s") - (double)tokens) < 1e-3);
  assert_true(number(v, "latency_p50_ms") > 0);
  assert_true(number(v, "latency_p95_ms") >= number(v, "latency_p50_ms"));
  /* half of the tokens took the median or more, a twentieth the 95th percentile: measured, not made from the mean */
  double p50 = number(v, "latency_p50_ms"), p95 = number(v, "latency_p95_ms");
  assert_true((0.44 * p50 + 0.05 * p95) * (double)tokens <= 1e3 * number(v, "decode_time_s"));
  assert_true(fabs(p95 - 2 * p50) > 1e-9);
  assert_true(fabs(p50 * (double)tokens - 1e3 * number(v, "decode_time_s")) > 1e-9);
  layers = result_integer(v, "kv_misses") / misses;
  assert_true(layers > 1);
  assert_int_equal(result_integer(v, "kv_misses"), layers * misses);
  assert_int_equal(result_integer(v, "kv_hits"), layers * hits);
  json_decref(v);
}

/* The documents' own example: 16 positions are 120 hits and 16 misses in each layer. */
static void kv_counts_follow_the_formula(void **state) {
  (void)state;
  json_t *v = LINE(0, "--model-dir %s --prompt 12345678901 --max-new 5 --ignore-eos", model);
  assert_int_equal(result_integer(v, "prompt_tokens"), 11);
  assert_int_equal(result_integer(v, "kv_misses"), MODEL_LAYERS * 16);
  assert_int_equal(result_integer(v, "kv_hits"), MODEL_LAYERS * 16 * 15 / 2);
  json_decref(v);
}

/* --- Several prompts together ------------------------------------------------------------------------------------ */

/* What does not depend on how many are computed together, of all prompts and rounds. */
static void same_work(const json_t *a, const json_t *b) {
  static const char *const counts[] = {"tokens_generated", "kv_hits",      "kv_misses",     "prompt_tokens",
                                       "touch_read_bytes", "touch_tokens", "prompts_count", "rounds"};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
    assert_int_equal(result_integer(a, counts[i]), result_integer(b, counts[i]));
  for (size_t i = 0; i < (size_t)result_integer(a, "prompts_count"); i++)
    for (size_t r = 0; r < 2; r++) {
      const json_t *x = round_of(a, i, r), *y = round_of(b, i, r);
      tokens_equal(x, y, true);
      assert_int_equal(result_integer(x, "positions"), result_integer(y, "positions"));
      assert_string_equal(string(x, "stop_reason"), string(y, "stop_reason"));
      assert_string_equal(string(x, "text"), string(y, "text"));
    }
}

/* Every forward counts once at the top, and for each prompt that was in it: so the prompts' times overlap. */
static void times_overlap(const json_t *v) {
  double windows = 0, decode = 0;
  int64_t tokens = 0;
  for (size_t i = 0; i < (size_t)result_integer(v, "prompts_count"); i++) {
    windows += number(prompt_of(v, i), "window_time_s");
    decode += number(prompt_of(v, i), "decode_time_s");
    tokens += result_integer(prompt_of(v, i), "tokens_generated");
    for (size_t r = 0; r < 2; r++) {
      const json_t *round = round_of(v, i, r);
      assert_true(number(round, "prefill_time_s") > 0);
      assert_true(number(round, "ttft_s") >= number(round, "prefill_time_s"));
      assert_true(number(round, "prefill_time_s") + number(round, "decode_time_s") +
                      number(round, "touch_time_s") <=
                  number(round, "window_time_s"));
      assert_true(number(round, "window_time_s") < number(v, "wall_time_s"));
    }
  }
  assert_true(windows > number(v, "wall_time_s"));
  assert_true(decode > number(v, "decode_time_s"));
  assert_true(number(v, "prefill_time_s") > 0);
  assert_true(number(v, "prefill_time_s") + number(v, "decode_time_s") + number(v, "touch_time_s") <=
              number(v, "wall_time_s"));
  assert_true(fabs(number(v, "tps_true") * number(v, "decode_time_s") - (double)tokens) < 1e-3);
  double p50 = number(v, "latency_p50_ms"), p95 = number(v, "latency_p95_ms");
  assert_true(p50 > 0 && p95 >= p50);
  assert_true((0.44 * p50 + 0.05 * p95) * (double)tokens <= 1e3 * decode);
}

static void prompts_together_equal_one_at_a_time(void **state) {
  (void)state;
  char *dir = tempdir_make(), one_trace[512], trace[512];
  snprintf(one_trace, sizeof one_trace, "%s/one.jsonl", dir);
  env("IE_BYTES_PER_TOKEN", "4000");
  env("IE_STRIDE_BYTES", "64");
  env("IE_VERIFY_TOUCH", "1");
  /* drawn, not greedy; some texts end before others */
#define TOGETHER(batch, trace)                                                                               \
  LINE(0,                                                                                                    \
       "--model-dir %s --prompts-file benchmarks/prompts_10.txt --max-new 40 --rounds 2 --deterministic "    \
       "--print-text --trace-ids %s --batch %d",                                                             \
       demo, trace, batch)
  json_t *one = TOGETHER(0, one_trace);
  assert_int_equal(result_integer(one, "batch"), 1);
  for (int batch = 2; batch <= 16; batch *= 2) {
    snprintf(trace, sizeof trace, "%s/trace-%d.jsonl", dir, batch);
    json_t *v = TOGETHER(batch, trace);
    assert_int_equal(result_integer(v, "batch"), batch < 10 ? batch : 10);
    assert_true(json_is_true(json_object_get(v, "touch_verified")));
    same_work(one, v);
    times_overlap(v);
    json_decref(v);
    char command[1200];
    snprintf(command, sizeof command, "cmp '%s' '%s'", one_trace, trace);
    assert_int_equal(system(command), 0); /* prompts in their order, whichever ended first */
  }
#undef TOGETHER
  json_decref(one);
  tempdir_remove(dir);
}

/* The one that cannot be computed is named; what ended before stays in the line. */
static void a_prompt_that_does_not_fit_is_named(void **state) {
  (void)state;
  char *dir = tempdir_make();
  const char *file = tempdir_write_text(dir, "prompts.txt", "ab\ncd\nabcdefghijkl\nef\n");
  env("IE_MAX_SEQ", "8");
  json_t *v = LINE(1, "--model-dir %s --prompts-file %s --max-new 3 --ignore-eos --batch 2", model, file);
  assert_non_null(strstr(string(v, "error"), "prompt 2: "));
  assert_non_null(strstr(string(v, "error"), "context is 8"));
  assert_int_equal(result_integer(v, "tokens_generated"), 6);
  json_decref(v);
  tempdir_remove(dir);
}

/* --- Modes and exit codes --------------------------------------------------------------------------------------------- */

static void strict_and_stub(void **state) {
  (void)state;
  char *dir = tempdir_make();
  program_result a = program_run("--model-dir %s --max-new 5 --rounds 2 hello", dir),
                 b = program_run("--model-dir %s --max-new 5 --rounds 2 hello", dir);
  json_t *v = line_of(&a, 0);
  assert_string_equal(a.out, b.out);
  assert_non_null(strstr(a.err, "warn: stub mode"));
  assert_true(json_is_true(json_object_get(v, "stub")));
  assert_int_equal(result_integer(v, "tokens_generated"), 10);
  assert_true(number(v, "wall_time_s") == 0 && number(v, "tps_true") == 0 &&
              number(v, "latency_p50_ms") == 0);
  json_decref(v);
  program_free(&a);
  program_free(&b);
  env("IE_REQUIRE_MODEL", "0");
  v = LINE(0, "--model-dir %s hello", dir);
  assert_true(json_is_true(json_object_get(v, "stub")));
  json_decref(v);
  env("IE_REQUIRE_MODEL", "1");
  v = LINE(3, "--model-dir %s hello", dir);
  assert_true(json_is_false(json_object_get(v, "stub")));
  assert_non_null(strstr(string(v, "error"), "no weights"));
  assert_int_equal(result_integer(v, "tokens_generated"), 0);
  json_decref(v);
  env_clear();
  /* a model that is there and damaged is no stub */
  tempdir_write_text(dir, "model.ie.json", "{\"version\":1,\"tensors\":[{");
  tempdir_write_text(dir, "model.ie.bin", "x");
  v = LINE(5, "--model-dir %s hello", dir);
  assert_true(strlen(string(v, "error")) > 0);
  json_decref(v);
  v = LINE(3, "--model-dir %s/nothing hello", dir);
  assert_non_null(strstr(string(v, "error"), "is not accessible: No such file or directory"));
  json_decref(v);
  tempdir_remove(dir);
}

/* Of a damaged model: an error that names `what`, without ids, in both modes. The folder is removed. */
static void no_stub(int code, const char *what, char *dir, const char *flags) {
  for (int strict = 0; strict < 2; strict++) {
    if (strict) env("IE_REQUIRE_MODEL", "1");
    json_t *v = LINE(code, "--model-dir %s %s hello", dir, flags);
    assert_true(json_is_false(json_object_get(v, "stub")));
    assert_int_equal(result_integer(v, "tokens_generated"), 0);
    if (!strstr(string(v, "error"), what)) fail_msg("'%s' is not in '%s'", what, string(v, "error"));
    json_decref(v);
  }
  env_clear();
  tempdir_remove(dir);
}

static char *folder_of(const char *name, const char *text) {
  char *dir = tempdir_make();
  tempdir_write_text(dir, name, text);
  return dir;
}

/* Made-up ids are for a folder without weights of any kind, and never for files that were asked for by name. */
static void damaged_models_are_no_stubs(void **state) {
  (void)state;
  char *dir = text_model_make(), path[1024];
  snprintf(path, sizeof path, "%s/config.json", dir);
  assert_int_equal(remove(path), 0);
  no_stub(3, "config.json is missing", dir, "");
  /* pieces of a model: an index whose shard is gone, below too; a lone description, a lone file of weights; a link that
   * leads nowhere */
  no_stub(3, "pytorch_model-00002-of-00002.bin",
          folder_of("pytorch_model.bin.index.json",
                    "{\"weight_map\":{\"a\":\"pytorch_model-00002-of-00002.bin\"}}"),
          "");
  no_stub(3, "model-00001-of-00001.safetensors",
          folder_of("hf/original/model.safetensors.index.json",
                    "{\"weight_map\":{\"a\":\"model-00001-of-00001.safetensors\"}}"),
          "");
  no_stub(5, "shard 1 of 2 is missing", folder_of("pytorch_model-00002-of-00002.bin", ""), "");
  no_stub(3, "model.ie.bin", folder_of("model.ie.bin", "x"), "");
  dir = tempdir_make();
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  assert_int_equal(symlink("nowhere", path), 0);
  no_stub(3, "model.safetensors", dir, "");
  dir = text_model_make();
  iebin_pack(dir);
  snprintf(path, sizeof path, "%s/model.ie.bin", dir);
  assert_int_equal(remove(path), 0);
  no_stub(3, "model.ie.bin", dir, "");
  /* named, although the folder is empty */
  no_stub(3, "nothere.json", tempdir_make(), "--model-json nothere.json");
  no_stub(3, "model.ie.json", tempdir_make(), "--model-bin nothere.bin");
  dir = tempdir_make();
  env("IE_WEIGHTS_BIN", "nothere.bin");
  json_decref(LINE(3, "--model-dir %s hello", dir));
  tempdir_remove(dir);
  /* and although it holds a model */
  env_clear();
  json_decref(LINE(3, "--model-dir %s --model-json nothere.json hello", model));
}

static void a_failed_generation_is_an_error(void **state) {
  (void)state;
  env("IE_MAX_SEQ", "8");
  program_result r = program_run("--model-dir %s --warmup 0 --max-new 4 abcdefgh", model);
  json_t *v = line_of(&r, 1);
  assert_non_null(strstr(string(v, "error"), "context is 8"));
  assert_non_null(strstr(r.err, "error: "));
  json_decref(v);
  program_free(&r);
  v = LINE(0, "--model-dir %s --warmup 0 --max-new 4 abcd", model);
  json_decref(v);
  env_clear();
  v = LINE(1, "--model-dir %s --prompt ''", model);
  assert_non_null(strstr(string(v, "error"), "empty"));
  json_decref(v);
  char *dir = text_model_make(), path[1024];
  snprintf(path, sizeof path, "%s/tokenizer.json", dir);
  assert_int_equal(remove(path), 0);
  v = LINE(5, "--model-dir %s hello", dir);
  assert_non_null(strstr(string(v, "error"), "no tokenizer"));
  json_decref(v);
  snprintf(path, sizeof path, "%s/tokenizer.json", model);
  env("IE_TOKENIZER", path);
  v = LINE(0, "--model-dir %s hello", dir);
  assert_string_equal(string(v, "tokenizer_path"), path);
  json_decref(v);
  tempdir_remove(dir);
}

/* A prompt beyond the context is refused before the experts, which this checkpoint stores input-first, are transposed. */
static void a_long_prompt_is_refused_before_loading(void **state) {
  (void)state;
  char *dir = tempdir_make(), path[1024];
  random_model_write(&(random_model){.arch = RANDOM_GPT_OSS,
                                     .layers = 2,
                                     .width = 512,
                                     .ffn = 512,
                                     .heads = 4,
                                     .kv_heads = 4,
                                     .head_dim = 32,
                                     .vocab = 300,
                                     .experts = 8,
                                     .top_k = 2,
                                     .window = 8,
                                     .float_experts = true,
                                     .dtype = IE_BF16,
                                     .seed = 4},
                     dir);
  snprintf(path, sizeof path, "%s/tokenizer.json", model);
  env("IE_TOKENIZER", path);
  env("IE_MAX_SEQ", "8");
  program_result refused = program_run("--model-dir %s --max-new 4 abcdefgh", dir);
  program_result computed = program_run("--model-dir %s --max-new 4 --ignore-eos abcd", dir);
  assert_int_equal(refused.code, 1);
  assert_non_null(strstr(refused.err, "context is 8"));
  assert_null(strstr(refused.err, "loaded in"));
  assert_int_equal(computed.code, 0);
  assert_non_null(strstr(computed.err, "loaded in"));
#ifndef __SANITIZE_ADDRESS__ /* its own memory is more than the model's */
  assert_true(computed.peak_bytes > refused.peak_bytes + (16 << 20));
#endif
  program_free(&refused);
  program_free(&computed);
  tempdir_remove(dir);
}

/* stdout stays empty. */
static void usage(const char *message, const char *args) {
  program_result r = program_run("%s", args);
  if (r.code != 2 || !strstr(r.err, message)) fail_msg("%s: exit %d, %s", args, r.code, r.err);
  assert_int_equal(r.out_size, 0);
  assert_non_null(strstr(r.err, "Usage: inference-engine"));
  program_free(&r);
}

static void messages_of_the_command_line(void **state) {
  (void)state;
  usage("error: unknown flag '--modeldir'\n", "--modeldir x");
  usage("error: unknown flag '-x'\n", "-x");
  usage("error: unknown precision 'int8'\n", "--precision int8");
  usage("error: unknown pretranspose 'ALL'\n", "--pretranspose ALL");
  usage("error: unknown sparsity 'x' (expected none|block|auto)\n", "--sparsity x");
  usage("error: unknown device 'tpu'", "--device tpu");
  usage("error: --max-new >= 0\n", "--max-new -1");
  usage("error: invalid integer: '3x'\n", "--rounds 3x");
  usage("error: invalid integer: '99999999999999999999'\n", "--threads=99999999999999999999");
  usage("error: --rounds <= 65536\n", "--rounds 65537");
  usage("error: --rounds <= 65536\n", "--rounds 1048576 --max-new 0");
  usage("error: empty integer\n", "--threads ''");
  usage("error: invalid float: 'hot'\n", "--temperature hot");
  usage("error: --prompt needs a value", "--prompt");
  usage("error: unexpected argument 'b'\n", "a b");
  usage("error: unexpected argument 'b'", "--prompt a b");
  env("IE_PRECISION", "fp33");
  usage("error: unknown precision 'fp33'\n", "a");
}

static void help_is_a_result(void **state) {
  (void)state;
  program_result a = program_run("--help"), b = program_run("--model-dir x -h");
  assert_int_equal(a.code, 0);
  assert_int_equal(b.code, 0);
  assert_string_equal(a.out, b.out);
  assert_int_equal(strlen(a.err), 0);
  static const char *const flags[] = {"--device",       "--model-dir", "--model-json", "--model-bin",
                                      "--pretranspose", "--prefetch",  "--warmup",     "--rounds",
                                      "--prompts-file", "--aggregate", "--threads",    "--precision",
                                      "--batch",        "--max-new",   "--prompt"};
  for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) assert_non_null(strstr(a.out, flags[i]));
  program_free(&a);
  program_free(&b);
}

static void nothing_to_do_is_no_failure(void **state) {
  (void)state;
  json_t *v = LINE(0, "--model-dir %s --max-new 0 --prompt hello", model);
  assert_int_equal(result_integer(v, "tokens_generated"), 0);
  assert_true(number(v, "prefill_time_s") > 0);
  assert_true(number(v, "tps_true") == 0 && number(v, "decode_time_s") == 0);
  json_decref(v);
  program_result r = program_run("--model-dir %s", model);
  v = line_of(&r, 0);
  assert_non_null(strstr(r.err, "warn: no prompt"));
  assert_int_equal(result_integer(v, "prompts_count"), 0);
  json_decref(v);
  program_free(&r);
}

/* All runs are in the line, so there are only so many. */
static void runs_are_bounded(void **state) {
  (void)state;
  char *dir = tempdir_make();
  const char *file = tempdir_write_text(dir, "p.txt", "a\nb\nc\n");
  json_t *v = LINE(1, "--model-dir %s --prompts-file %s --rounds 21846 --max-new 0", model, file);
  assert_non_null(
      strstr(string(v, "error"), "--rounds 21846 of more than 2 prompts: expected at most 65536"));
  json_decref(v);
  v = LINE(0, "--model-dir %s --prompts-file %s --rounds 21845 --max-new 0", dir, file); /* made up */
  assert_int_equal(json_array_size(json_object_get(prompt_of(v, 2), "rounds")), 21845);
  json_decref(v);
  tempdir_remove(dir);
}

/* --- Environment -------------------------------------------------------------------------------------------------------- */

static void a_flag_counts_before_its_variable(void **state) {
  (void)state;
  char *dir = tempdir_make();
  env("MODEL_DIR", model);
  env("IE_MODEL_DIR", dir);
  env("IE_REQUIRE_MODEL", "1");
  env("IE_PRECISION", "bf16");
  env("PRECISION", "fp16");
  env("IE_THREADS", "1");
  json_t *v = LINE(0, "hello");
  assert_string_equal(string(v, "precision"), "bf16");
  assert_int_equal(result_integer(v, "threads"), 1);
  json_decref(v);
  env("IE_KERNEL_THREADS", "3");
  v = LINE(0, "--precision fp32 hello");
  assert_string_equal(string(v, "precision"), "fp32");
  assert_int_equal(result_integer(v, "threads"), 3);
  json_decref(v);
  v = LINE(0, "--threads 2 --precision=fp16 hello");
  assert_int_equal(result_integer(v, "threads"), 2);
  json_decref(v);
  v = LINE(3, "--model-dir %s hello", dir);
  json_decref(v);
  unsetenv("MODEL_DIR");
  v = LINE(3, "hello");
  json_decref(v);
  tempdir_remove(dir);
}

static void sampling_knobs_act(void **state) {
  (void)state;
  const char *const line = "--model-dir %s --max-new 24 --ignore-eos %s hello";
#define DRAW(flags) LINE(0, "--model-dir %s --max-new 24 --ignore-eos %s hello", model, flags)
  (void)line;
  json_t *one = DRAW("--seed 1"), *other = DRAW("--seed 2"), *zero = DRAW("--seed 0"), *none = DRAW("");
  json_t *hot = DRAW("--temperature 5 --top-p 1"), *greedy = DRAW("--greedy"),
         *top1 = DRAW("--top-k 1 --temperature 3");
  tokens_equal(one, none, true); /* the default is seed 1, and 0 counts as 1 */
  tokens_equal(one, zero, true);
  tokens_equal(one, other, false);
  tokens_equal(one, hot, false);
  tokens_equal(greedy, top1, true);
  env("IE_SEED", "2");
  json_t *v = DRAW("");
  tokens_equal(v, other, true);
  json_decref(v);
  v = DRAW("--seed 1");
  tokens_equal(v, one, true);
  json_decref(v);
  env("IE_GREEDY", "1");
  v = DRAW("");
  tokens_equal(v, greedy, true);
  json_decref(v);
  env_clear();
  env("IE_SAMPLE_KIND", "greedy");
  v = DRAW("");
  tokens_equal(v, greedy, true);
  json_decref(v);
  env_clear();
  env("IE_TEMPERATURE", "5");
  env("IE_TOP_P", "1");
  v = DRAW("");
  tokens_equal(v, hot, true);
  json_decref(v);
  v = LINE(0, "--model-dir %s --max-new 24 --ignore-eos --greedy --debug-topk 5 --threads 1 --warmup 9 hello",
           model);
  tokens_equal(v, greedy, true); /* looking, threads and warm-up change nothing */
  json_decref(v);
  json_t *all[] = {one, other, zero, none, hot, greedy, top1};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) json_decref(all[i]);
}

static void idle_knobs_say_so(void **state) {
  (void)state;
  static const char *const variables[] = {"IE_DEDUP",
                                          "IE_DEDUP_STRICT",
                                          "IE_DEDUP_POLICY",
                                          "IE_DEDUP_CACHE_MB",
                                          "IE_DEDUP_HOT_BYTES",
                                          "IE_DEDUP_HOT_LIST",
                                          "IE_PREFETCH_DISTANCE",
                                          "IE_NT_LOADS",
                                          "IE_L3_BYTES",
                                          "IE_NT_THRESHOLD_RATIO",
                                          "IE_STREAM_BLOCK_BYTES",
                                          "IE_REUSE_GUARD_WINDOWS",
                                          "IE_ROPE_THETA",
                                          "IE_CUDA_FULL",
                                          "IE_F32_ATTN"};
  enum { COUNT = sizeof variables / sizeof *variables };
  char text[128];
  for (size_t i = 0; i < COUNT; i++) env(variables[i], "7");
  program_result r = program_run("--model-dir %s --prefetch on --pretranspose all --device cuda --sparsity "
                                 "block --affinity odd hello",
                                 model);
  json_decref(line_of(&r, 0));
  for (size_t i = 0; i < COUNT; i++) {
    snprintf(text, sizeof text, "warn: %s is ignored: ", variables[i]);
    if (!strstr(r.err, text)) fail_msg("no %s", text);
  }
  static const char *const flags[] = {"--prefetch on is ignored", "--pretranspose all is ignored",
                                      "device cuda is ignored", "sparsity block is ignored",
                                      "affinity 'odd' is ignored"};
  for (size_t i = 0; i < 5; i++) assert_non_null(strstr(r.err, flags[i]));
  program_free(&r);
  env_clear();
  env("IE_DEDUP", "0"); /* what is off is not ignored */
  r = program_run(
      "--model-dir %s --prefetch auto --pretranspose none --batch 3 --device cpu --affinity scatter hello",
      model);
  json_decref(line_of(&r, 0));
  assert_null(strstr(r.err, "warn:"));
  assert_null(strstr(r.err, "ignored"));
  program_free(&r);
  env("IE_DEDUP", "1");
  env("IE_LOG_LEVEL", "0");
  r = program_run("--model-dir %s hello", model);
  json_decref(line_of(&r, 0));
  assert_string_equal(r.err, "");
  program_free(&r);
}

/* Under the name clocher none of this is read. */
static void clocher_does_not_read_them(void **state) {
  (void)state;
  char *engine = strdup(getenv("CLOCHER_BIN")), program[4096];
  snprintf(program, sizeof program, "%.*sclocher", (int)(strrchr(engine, '/') + 1 - engine), engine);
  setenv("CLOCHER_BIN", program, 1);
  env("IE_GREEDY", "1");
  env("IE_MAX_SEQ", "2");
  env("IE_DEDUP", "1");
  program_result r = program_run("run --model-dir %s --ids 1,2,3 --max-new 3 --print-ids", SMALL_MODEL);
  assert_int_equal(r.code, 0);
  assert_null(strstr(r.err, "IE_"));
  program_free(&r);
  program_expect(2, "unknown command", "inference-engine --model-dir x");
  setenv("CLOCHER_BIN", engine, 1);
  free(engine);
}

/* --- The end of a run -------------------------------------------------------------------------------------------------------- */

/* Ctrl-C at a token: what was done is in the line, and nobody takes it for a whole run. */
static void interrupt_ends_with_a_line(void **state) {
  (void)state;
  program_child child =
      program_start("--model-dir %s --max-new 200 --ignore-eos --log-tokens --rounds 2000 hello", demo);
  char c;
  int lines = 0;
  while (lines < 20 && read(child.err, &c, 1) == 1) lines += c == '\n';
  kill(child.pid, SIGINT);
  program_result r = program_end(&child);
  json_t *v = line_of(&r, 130);
  assert_string_equal(string(v, "error"), "interrupted");
  int64_t tokens = result_integer(v, "tokens_generated");
  assert_true(tokens >= 10 && tokens < 2000 * 200);
  json_decref(v);
  program_free(&r);
}

static void a_full_disk_is_an_error(void **state) {
  (void)state;
  char command[4096];
  snprintf(command, sizeof command, "%s --model-dir %s hello >/dev/full 2>/dev/null", getenv("CLOCHER_BIN"),
           model);
  int status = system(command);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 1);
  snprintf(command, sizeof command, "%s --model-dir %s hello >&- 2>/dev/null", getenv("CLOCHER_BIN"), model);
  status = system(command);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 1); /* the line had no place to go */
}

#define CASE(f) cmocka_unit_test_teardown(f, inference_after)

int main(void) {
  const struct CMUnitTest tests[] = {
      CASE(line_has_every_key_in_order),
      CASE(times_are_accounted_for),
      CASE(kv_counts_follow_the_formula),
      CASE(prompts_together_equal_one_at_a_time),
      CASE(a_prompt_that_does_not_fit_is_named),
      CASE(strict_and_stub),
      CASE(damaged_models_are_no_stubs),
      CASE(a_failed_generation_is_an_error),
      CASE(a_long_prompt_is_refused_before_loading),
      CASE(messages_of_the_command_line),
      CASE(help_is_a_result),
      CASE(nothing_to_do_is_no_failure),
      CASE(runs_are_bounded),
      CASE(a_flag_counts_before_its_variable),
      CASE(sampling_knobs_act),
      CASE(idle_knobs_say_so),
      CASE(clocher_does_not_read_them),
      CASE(interrupt_ends_with_a_line),
      CASE(a_full_disk_is_an_error),
  };
  return cmocka_run_group_tests(tests, inference_setup, inference_teardown);
}
