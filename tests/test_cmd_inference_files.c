/* The files that the program reads and writes under the name inference-engine: models, prompts, expected tokens, traces;
 * and the work-touch over the file of weights. */
#include "support/inference.h"
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

/* --- Files of models ------------------------------------------------------------------------------------------------ */

/* Greedy ids of the same text are those of `clocher run`, from IEBIN as from safetensors. */
static void tokens_are_the_engines(void **state) {
  (void)state;
  char *hf = text_model_make(), *engine = strdup(getenv("CLOCHER_BIN")), program[4096];
  json_t *a = LINE(0, "--model-dir %s --prompt 'hello there' --max-new 12 --greedy", model);
  json_t *b = LINE(0, "--model-dir %s --prompt 'hello there' --max-new 12 --greedy", hf);
  tokens_equal(a, b, true);
  snprintf(program, sizeof program, "%.*sclocher", (int)(strrchr(engine, '/') + 1 - engine), engine);
  setenv("CLOCHER_BIN", program, 1);
  json_t *c = program_json(
      "run --model-dir %s --prompt 'hello there' --max-new 12 --greedy --precision fp32 --json", model);
  setenv("CLOCHER_BIN", engine, 1);
  char *x = tokens_of(a), *y = result_new_ids(c, 0);
  assert_string_equal(x, y);
  free(x);
  free(y);
  free(engine);
  json_decref(a);
  json_decref(b);
  json_decref(c);
  tempdir_remove(hf);
}

static void copy(const char *from, const char *dir, const char *name) {
  char path[1024], *data = malloc(1 << 20);
  snprintf(path, sizeof path, "%s/%s", from, name);
  FILE *f = fopen(path, "rb");
  assert_non_null(f);
  size_t n = fread(data, 1, 1 << 20, f);
  fclose(f);
  tempdir_write(dir, name, data, n);
  free(data);
}

/* --model-json and --model-bin, relative to the model's folder, to the current one, or absolute; config.json may lie
 * in hf/original, where the documents put it. */
static void model_files_can_be_named(void **state) {
  (void)state;
  char *dir = tempdir_make(), path[1024];
  copy(model, dir, "model.ie.json");
  copy(model, dir, "model.ie.bin");
  snprintf(path, sizeof path, "%s/model.ie.bin", dir);
  char *other = strdup(tempdir_path(dir, "other.bin"));
  assert_int_equal(rename(path, other), 0);
  char config[1024];
  snprintf(config, sizeof config, "%s/config.json", model);
  char target[1024];
  assert_non_null(realpath(config, target));
  tempdir_write_text(dir, "hf/original/note", "");
  snprintf(path, sizeof path, "%s/hf/original/config.json", dir);
  assert_int_equal(symlink(target, path), 0);
  snprintf(config, sizeof config, "%s/tokenizer.json", model);
  snprintf(path, sizeof path, "%s/hf/original/tokenizer.json", dir);
  assert_int_equal(symlink(config, path), 0);
  json_t *want = LINE(0, "--model-dir %s --greedy hello", model), *v;
  env("IE_REQUIRE_MODEL", "1");
  v = LINE(3, "--model-dir %s --greedy hello", dir); /* the JSON names model.ie.bin */
  assert_non_null(strstr(string(v, "error"), "model.ie.bin"));
  json_decref(v);
  static const char *const ways[] = {"--model-bin other.bin",
                                     "--model-json model.ie.json --model-bin other.bin", NULL};
  for (size_t i = 0; i < 4; i++) {
    if (i < 2) v = LINE(0, "--model-dir %s --greedy %s hello", dir, ways[i]);
    if (i == 2) v = LINE(0, "--model-dir %s --greedy --model-bin %s hello", dir, other);
    if (i == 3) {
      env("IE_WEIGHTS_BIN", "other.bin");
      v = LINE(0, "--model-dir %s --greedy hello", dir);
    }
    tokens_equal(v, want, true);
    assert_non_null(strstr(string(v, "tokenizer_path"), "hf/original/tokenizer.json"));
    json_decref(v);
  }
  json_decref(want);
  free(other);
  tempdir_remove(dir);
}

/* Section 9 of the documents: from the folder above, with --model-bin as a path from there. */
static void the_documents_commands_run(void **state) {
  (void)state;
  char here[1024], bin[2048], *program = strdup(getenv("CLOCHER_BIN")), *dir = tempdir_make(), path[1024];
  assert_non_null(getcwd(here, sizeof here));
  snprintf(bin, sizeof bin, "%s%s%s", program[0] == '/' ? "" : here, program[0] == '/' ? "" : "/", program);
  snprintf(path, sizeof path, "%s/models", dir);
  assert_int_equal(mkdir(path, 0755), 0);
  snprintf(path, sizeof path, "%s/models/gpt-oss-20b", dir);
  assert_int_equal(symlink(model, path), 0);
  tempdir_write_text(dir, "benchmarks/prompts_10.txt", "one\ntwo\n");
  assert_int_equal(chdir(dir), 0);
  setenv("CLOCHER_BIN", bin, 1);
  json_t *v =
      LINE(0, "--model-dir models/gpt-oss-20b --model-bin models/gpt-oss-20b/model.ie.bin --precision bf16 "
              "--threads 12 --rounds 1 --warmup 0 --prompts-file benchmarks/prompts_10.txt --max-new 1");
  assert_int_equal(result_integer(v, "tokens_generated"), 2);
  assert_int_equal(result_integer(v, "threads"), 12);
  assert_string_equal(string(v, "arithmetic_class"), "bf16");
  json_decref(v);
  v = LINE(3, "--model-dir models/gpt-oss-20b --precision int4 --threads 12 --rounds 1 --warmup 0 "
              "--prompts-file benchmarks/prompts_10.txt --max-new 1");
  assert_non_null(
      strstr(string(v, "error"), "model.ie.compat.json is missing; make it with: clocher quantize"));
  json_decref(v);
  v = LINE(0, "--prompt hello --max-new 1"); /* models/gpt-oss-20b is the default folder */
  assert_false(json_is_true(json_object_get(v, "stub")));
  json_decref(v);
  assert_int_equal(chdir("models/gpt-oss-20b"), 0); /* "a pair of files in the current working directory" */
  v = LINE(0, "--prompt hello --max-new 1");
  assert_false(json_is_true(json_object_get(v, "stub")));
  json_decref(v);
  assert_int_equal(chdir(here), 0);
  setenv("CLOCHER_BIN", program, 1);
  free(program);
  tempdir_remove(dir);
}

static void packed_labels_never_fall_back(void **state) {
  (void)state;
  static const char *const labels[] = {"int4", "INT4W", "int8w"};
  for (size_t i = 0; i < 3; i++) {
    json_t *v = LINE(3, "--model-dir %s --precision %s hello", model, labels[i]);
    assert_non_null(strstr(string(v, "error"), "clocher quantize --model-dir"));
    assert_int_equal(result_integer(v, "tokens_generated"), 0);
    json_decref(v);
  }
  json_t *v = LINE(0, "--model-dir %s --precision FP16 hello", model);
  assert_string_equal(string(v, "arithmetic_class"), "fp16");
  json_decref(v);
  char *dir = text_model_make();
  tempdir_write_text(dir, "model.ie.compat.json", "{}");
  tempdir_write_text(dir, "model.q4.bin", "x");
  v = LINE(5, "--model-dir %s --precision int4 hello", dir);
  assert_non_null(strstr(string(v, "error"), "cannot be computed"));
  json_decref(v);
  tempdir_remove(dir);
  /* without a model to open it is no stub either */
  dir = tempdir_make();
  for (int strict = 0; strict < 2; strict++) {
    if (strict) env("IE_REQUIRE_MODEL", "1");
    for (size_t i = 0; i < 3; i++) {
      v = LINE(3, "--model-dir %s --precision %s hello", dir, labels[i]);
      assert_non_null(strstr(string(v, "error"), "clocher quantize --model-dir"));
      assert_int_equal(result_integer(v, "tokens_generated"), 0);
      json_decref(v);
    }
  }
  env_clear();
  tempdir_write_text(dir, "config.json", "{}");
  tempdir_write_text(dir, "model.ie.compat.json", "{}");
  tempdir_write_text(dir, "model.q4.bin", "x");
  v = LINE(5, "--model-dir %s --precision int4w hello", dir);
  assert_non_null(strstr(string(v, "error"), "cannot be computed"));
  json_decref(v);
  tempdir_remove(dir);
}

/* --- Work-touch ---------------------------------------------------------------------------------------------------------- */

static int64_t file_bytes(const char *dir, const char *name) {
  struct stat info;
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  assert_int_equal(stat(path, &info), 0);
  return info.st_size;
}

static void touch_reads_what_it_says(void **state) {
  (void)state;
  const int64_t size = file_bytes(model, "model.ie.bin");
  static const struct {
    const char *span, *stride;
    int64_t span_bytes, stride_bytes;
  } cases[] = {{"1000", "256", 1000, 256}, {"1024", "256", 1024, 256},   {"100", "1", 100, 1},
               {"100", "0", 100, 1},       {"64000000", "256", -1, 256}, {"64000000", "7", -1, 7},
               {"10", "4096", 10, 4096}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    env("IE_BYTES_PER_TOKEN", cases[i].span);
    env("IE_STRIDE_BYTES", cases[i].stride);
    env("IE_VERIFY_TOUCH", i % 2 ? "0" : "1");
    json_t *v = LINE(0, "--model-dir %s --max-new 5 --rounds 2 --ignore-eos hello", model);
    int64_t span = cases[i].span_bytes < 0 ? size : cases[i].span_bytes, stride = cases[i].stride_bytes;
    int64_t each = (span + stride - 1) / stride;
    assert_int_equal(result_integer(v, "touch_tokens"), 10);
    assert_int_equal(result_integer(v, "touch_span_bytes"), span);
    assert_int_equal(result_integer(v, "touch_nominal_bytes"), 10 * strtoll(cases[i].span, NULL, 10));
    assert_int_equal(result_integer(v, "touch_read_bytes"), 10 * each);
    int64_t lines = result_integer(v, "touch_line_bytes");
    if (stride >= 64)
      assert_int_equal(lines, 64 * 10 * each);
    else /* one line more where a span begins within one, or where the file ends and begins */
      assert_true(lines >= 10 * span / 64 * 64 && lines <= 10 * (span + 3 * 64));
    assert_true(number(v, "touch_time_s") > 0);
    assert_true(number(v, "touch_time_s") + number(v, "decode_time_s") + number(v, "prefill_time_s") <=
                number(v, "wall_time_s"));
    const json_t *verified = json_object_get(v, "touch_verified");
    assert_true(i % 2 ? json_is_null(verified) : json_is_true(verified));
    json_decref(v);
    env_clear();
  }
  json_t *v = LINE(0, "--model-dir %s hello", model);
  assert_int_equal(result_integer(v, "touch_read_bytes"), 0);
  assert_int_equal(result_integer(v, "touch_nominal_bytes"), 0);
  json_decref(v);
}

/* Numbers of the line are what was asked for, or are said to be too large; never negative. */
static void touch_of_too_many_bytes(void **state) {
  (void)state;
  static const char *const variables[] = {"IE_BYTES_PER_TOKEN", "IE_STRIDE_BYTES"};
  for (size_t i = 0; i < 2; i++) {
    env(variables[i], "18446744073709551615");
    program_result r = program_run("--model-dir %s --max-new 2 --ignore-eos hello", model);
    json_t *v = line_of(&r, 0);
    assert_non_null(strstr(r.err, "is ignored: expected bytes, at most 9223372036854775807, found"));
    assert_int_equal(result_integer(v, "ie_bytes_per_token"), 0);
    assert_int_equal(result_integer(v, "ie_stride_bytes"), 256);
    assert_int_equal(result_integer(v, "touch_nominal_bytes"), 0);
    json_decref(v);
    program_free(&r);
    env_clear();
  }
  env("IE_BYTES_PER_TOKEN", "9223372036854775807");
  for (int tokens = 1; tokens <= 3; tokens++) {
    json_t *v = LINE(0, "--model-dir %s --max-new %d --ignore-eos hello", model, tokens), *nominal;
    assert_int_equal(result_integer(v, "ie_bytes_per_token"), INT64_MAX);
    nominal = json_object_get(v, "touch_nominal_bytes");
    assert_true(tokens == 1 ? json_integer_value(nominal) == INT64_MAX : json_is_null(nominal));
    assert_int_equal(result_integer(v, "touch_span_bytes"), file_bytes(model, "model.ie.bin"));
    json_decref(v);
  }
}

/* A text that ends at a stop id within a character: what was held back of it is shown, and is no token of its own. */
static void a_stop_id_behind_half_a_character(void **state) {
  (void)state;
  env("IE_BYTES_PER_TOKEN", "100");
  int halves = 0;
  for (int seed = 1; seed <= 40 && halves < 2; seed++) {
    program_result r = program_run("--model-dir %s --max-new 2000 --temperature 50 --top-p 1 --print-text "
                                   "--log-tokens --seed %d hello",
                                   model, seed);
    assert_int_equal(r.code, 0);
    json_t *v = json_loads(r.out, JSON_ALLOW_NUL, NULL); /* the text may hold any byte */
    assert_non_null(v);
    const json_t *text = json_object_get(v, "text");
    size_t n = json_string_length(text);
    if (!strcmp(string(v, "stop_reason"), "eos") && n >= 3 &&
        !memcmp(json_string_value(text) + n - 3, "\xEF\xBF\xBD", 3))
      halves++;
    int64_t tokens = result_integer(v, "tokens_generated"), steps = 0;
    for (const char *at = r.err; (at = strstr(at, "info: step ")); at++) steps++;
    assert_int_equal(steps, tokens);
    assert_int_equal(result_integer(v, "touch_tokens"), tokens);
    json_decref(v);
    program_free(&r);
  }
  assert_int_equal(halves, 2);
}

/* One touch a token also where the text ends within a character, which is shown afterwards. */
static void touch_counts_tokens_not_pieces(void **state) {
  (void)state;
  char *dir = tempdir_make(), text[200] = "";
  for (int i = 0; i < 60; i++) {
    text[3 * i] = (char)('0' + i / 10);
    text[3 * i + 1] = (char)('0' + i % 10);
    text[3 * i + 2] = '\n';
  }
  const char *file = tempdir_write_text(dir, "p.txt", text);
  env("IE_BYTES_PER_TOKEN", "100");
  json_t *v = LINE(0, "--model-dir %s --prompts-file %s --max-new 2 --temperature 50 --top-p 1 --print-text",
                   model, file);
  int halves = 0;
  for (size_t i = 0; i < 60; i++) halves += strstr(string(round_of(v, i, 0), "text"), "\xEF\xBF\xBD") != NULL;
  assert_true(halves > 10);
  assert_int_equal(result_integer(v, "touch_tokens"), result_integer(v, "tokens_generated"));
  json_decref(v);
  tempdir_remove(dir);
}

/* A stop id is a token as any other. */
static void touch_counts_the_stop_id(void **state) {
  (void)state;
  env("IE_BYTES_PER_TOKEN", "1000");
  json_t *v = LINE(0, "--model-dir %s --max-new 2000 --temperature 50 --top-p 1 hello", model);
  assert_string_equal(string(v, "stop_reason"), "eos");
  assert_true(result_integer(v, "tokens_generated") < 2000);
  assert_int_equal(result_integer(v, "touch_tokens"), result_integer(v, "tokens_generated"));
  assert_int_equal(result_integer(round_of(v, 0, 0), "positions"), 5 + result_integer(v, "tokens_generated"));
  json_decref(v);
}

/* --- Prompts, expected tokens, trace ---------------------------------------------------------------------------------------- */

static void prompt_ids_are_the_documents(void **state) {
  (void)state;
  char *dir = tempdir_make();
  const char *file = tempdir_write_text(dir, "p.txt", "Hello world\r\nWhat is AI?");
  json_t *v = LINE(0, "--model-dir %s --prompts-file %s --max-new 1", model, file);
  assert_string_equal(string(prompt_of(v, 0), "prompt_id"), "0x86dfeae555fbfa19");
  assert_string_equal(string(prompt_of(v, 1), "prompt_id"), "0x91eda2b66f43ede8");
  json_decref(v);
  tempdir_remove(dir);
}

static void prompts_files(void **state) {
  (void)state;
  char *dir = tempdir_make(), *text = malloc(20000);
  int n = snprintf(text, 20000,
                   "\xEF\xBB\xBF"
                   "first\r\n\n   \nse\\ncond\n");
  memset(text + n, 'x', 9000);
  strcpy(text + n + 9000, "\nlast");
  const char *file = tempdir_write_text(dir, "p.txt", text);
  /* without a model: the line of 9000 bytes is longer than its context */
  json_t *v = LINE(0, "--model-dir %s --prompts-file %s --max-new 1", dir, file);
  assert_int_equal(result_integer(v, "prompts_count"), 4);
  assert_string_equal(string(prompt_of(v, 0), "prompt"), "first");
  assert_string_equal(string(prompt_of(v, 1), "prompt"), "se\\ncond"); /* used as it stands */
  assert_int_equal(strlen(string(prompt_of(v, 2), "prompt")), 9000);
  assert_string_equal(string(prompt_of(v, 3), "prompt"), "last");
  json_decref(v);
  free(text);
  file = tempdir_write_text(dir, "p.jsonl", "{\"text\":\"a\\nb\"}\n\n{\"prompt\":\"c\"}\n");
  v = LINE(0, "--model-dir %s --prompts-file %s --max-new 1", model, file);
  assert_string_equal(string(prompt_of(v, 0), "prompt"), "a\nb");
  assert_string_equal(string(prompt_of(v, 1), "prompt"), "c");
  json_decref(v);
  /* a prompt of the command line stands alone, unless the file is asked for */
  v = LINE(0, "--model-dir %s --prompts-file %s --prompt mine --max-new 1", model, file);
  assert_int_equal(result_integer(v, "prompts_count"), 1);
  json_decref(v);
  v = LINE(0, "--model-dir %s --prompts-file %s --prompt mine --aggregate --max-new 1", model, file);
  assert_int_equal(result_integer(v, "prompts_count"), 2);
  json_decref(v);
  file = tempdir_write_text(dir, "bad.jsonl", "{\"text\":\"a\"}\n{\"tex\":1}\n");
  v = LINE(1, "--model-dir %s --prompts-file %s", model, file);
  assert_non_null(strstr(string(v, "error"), "bad.jsonl: line 2"));
  json_decref(v);
  program_result r = program_run("--model-dir %s --prompts-file %s/none.txt", model, dir);
  v = line_of(&r, 0);
  assert_non_null(strstr(r.err, "warn: cannot open prompts file"));
  assert_string_equal(string(prompt_of(v, 0), "prompt"), "bench");
  json_decref(v);
  program_free(&r);
  tempdir_remove(dir);
}

static void expected_tokens_are_compared(void **state) {
  (void)state;
  char *dir = tempdir_make(), text[512], *tokens;
  json_t *v = LINE(0, "--model-dir %s --max-new 4 --greedy --ignore-eos --prompt 'Hello world'", model);
  tokens = tokens_of(v);
  int64_t third = json_integer_value(json_array_get(json_object_get(v, "tokens"), 2));
  json_decref(v);
  size_t n = strlen(tokens);
  tokens[n - 1] = '\0';
  snprintf(text, sizeof text, "# golden\n0x86dfeae555fbfa19 %s\n", tokens + 1);
  const char *file = tempdir_write_text(dir, "e.txt", text);
#define COMPARE(max_new)                                                                                     \
  LINE(0,                                                                                                    \
       "--model-dir %s --max-new %d --greedy --ignore-eos --rounds 2 --expected-tokens %s --prompt 'Hello "  \
       "world'",                                                                                             \
       model, max_new, file)
  v = COMPARE(4);
  assert_true(json_is_true(json_object_get(prompt_of(v, 0), "expected_present")));
  assert_true(json_is_true(json_object_get(prompt_of(v, 0), "expected_all_ok")));
  assert_null(json_object_get(round_of(v, 0, 1), "mismatch_index"));
  json_decref(v);
  v = COMPARE(2); /* too few */
  assert_true(json_is_false(json_object_get(prompt_of(v, 0), "expected_all_ok")));
  assert_int_equal(result_integer(round_of(v, 0, 0), "mismatch_index"), 2);
  assert_int_equal(result_integer(round_of(v, 0, 0), "expected_at"), third);
  assert_true(json_is_null(json_object_get(round_of(v, 0, 0), "actual_at")));
  json_decref(v);
  snprintf(text, sizeof text, "9718744791599807001 %s\n", "1,2");
  file = tempdir_write_text(dir, "e.txt", text);
  v = COMPARE(4);
  assert_true(json_is_true(json_object_get(prompt_of(v, 0), "expected_present"))); /* the id in decimal */
  assert_true(json_is_false(json_object_get(round_of(v, 0, 0), "expected_ok")));
  json_decref(v);
  file = tempdir_write_text(dir, "e.txt", "\n0x12 1,2\n0x13 1,x\n");
  v = LINE(1, "--model-dir %s --expected-tokens %s a", model, file);
  assert_non_null(strstr(string(v, "error"), "line 3"));
  json_decref(v);
  v = LINE(1, "--model-dir %s --expected-tokens %s/none a", model, dir);
  assert_non_null(strstr(string(v, "error"), "cannot open"));
  json_decref(v);
  free(tokens);
  tempdir_remove(dir);
}

static void trace_has_prompts_and_steps(void **state) {
  (void)state;
  char *dir = tempdir_make(), *path = strdup(tempdir_path(dir, "trace.jsonl")), line[4096];
  const char *file = tempdir_write_text(dir, "p.txt", "ab\ncd\n");
  json_t *v = NULL;
  for (int i = 0; i < 2; i++) { /* appended */
    json_decref(v);
    if (i) env("IE_TRACE_IDS_JSONL", path);
    v = LINE(0, "--model-dir %s --prompts-file %s --max-new 3 --ignore-eos --warmup 5 --rounds 2 %s%s", model,
             file, i ? "" : "--trace-ids ", i ? "" : path);
  }
  FILE *f = fopen(path, "r");
  assert_non_null(f);
  size_t lines = 0;
  for (; fgets(line, sizeof line, f); lines++) {
    size_t at = lines % 8, step = at % 4;
    json_t *one = json_loads(line, 0, NULL);
    assert_non_null(one);
    assert_int_equal(result_integer(one, "prompt_index"), at / 4);
    if (step == 0) {
      assert_string_equal(string(one, "kind"), "prompt");
      assert_string_equal(string(one, "prompt"), at ? "cd" : "ab");
      json_t *ids = json_object_get(one, "prompt_token_ids");
      assert_int_equal(json_array_size(ids), 2);
      assert_int_equal(json_integer_value(json_array_get(ids, 0)), at ? 'c' : 'a');
    } else {
      assert_string_equal(string(one, "kind"), "gen_step");
      assert_int_equal(result_integer(one, "step"), step - 1);
      assert_int_equal(
          result_integer(one, "next_id"),
          json_integer_value(json_array_get(json_object_get(round_of(v, at / 4, 0), "tokens"), step - 1)));
    }
    json_decref(one);
  }
  fclose(f);
  assert_int_equal(lines, 2 * 2 * 8);
  json_decref(v);
  v = LINE(1, "--model-dir %s --trace-ids %s/none/trace a", model, dir);
  assert_non_null(strstr(string(v, "error"), "trace"));
  json_decref(v);
  free(path);
  tempdir_remove(dir);
}

static void reported_ids_can_be_cut(void **state) {
  (void)state;
  json_t *v = LINE(0, "--model-dir %s --max-new 6 --ignore-eos --report-tokens-max 2 hello", model);
  assert_int_equal(result_integer(v, "tokens_generated"), 6);
  assert_int_equal(json_array_size(json_object_get(v, "tokens")), 2);
  assert_int_equal(json_array_size(json_object_get(round_of(v, 0, 0), "tokens")), 2);
  assert_true(json_is_null(json_object_get(round_of(v, 0, 0), "text")));
  json_decref(v);
  v = LINE(0, "--model-dir %s --max-new 6 --ignore-eos --no-report-tokens hello", model);
  assert_int_equal(json_array_size(json_object_get(round_of(v, 0, 0), "tokens")), 0);
  json_decref(v);
}

static void logs_go_to_stderr(void **state) {
  (void)state;
  program_result r =
      program_run("--model-dir %s --max-new 4 --ignore-eos --log-tokens --log-every 2 --debug-decode "
                  "--debug-topk 2 --debug-topk-every 3 hello",
                  model);
  json_decref(line_of(&r, 0));
  assert_non_null(strstr(r.err, "step 0: id "));
  assert_null(strstr(r.err, "step 1: id "));
  assert_non_null(strstr(r.err, "step 2: id "));
  assert_non_null(strstr(r.err, "step 1: text "));
  assert_non_null(strstr(r.err, "step 3: top 2: id "));
  assert_null(strstr(r.err, "step 1: top"));
  program_free(&r);
}

#define CASE(f) cmocka_unit_test_teardown(f, inference_after)

int main(void) {
  const struct CMUnitTest tests[] = {
      CASE(tokens_are_the_engines),
      CASE(model_files_can_be_named),
      CASE(the_documents_commands_run),
      CASE(packed_labels_never_fall_back),
      CASE(touch_reads_what_it_says),
      CASE(touch_counts_the_stop_id),
      CASE(touch_of_too_many_bytes),
      CASE(a_stop_id_behind_half_a_character),
      CASE(touch_counts_tokens_not_pieces),
      CASE(prompt_ids_are_the_documents),
      CASE(prompts_files),
      CASE(expected_tokens_are_compared),
      CASE(trace_has_prompts_and_steps),
      CASE(reported_ids_can_be_cut),
      CASE(logs_go_to_stderr),
  };
  return cmocka_run_group_tests(tests, inference_setup, inference_teardown);
}
