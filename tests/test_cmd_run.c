/* `clocher run` from outside, on the small golden models. */
#include "clocher/tensor.h"
#include "support/chat_model.h"
#include "support/program.h"
#include "support/random_model.h"
#include "support/small_model.h"
#include "support/tempdir.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmocka.h>

static const char model[] = SMALL_MODEL;
enum { VOCAB = SMALL_MODEL_VOCAB };

/* --- run ------------------------------------------------------------------------------------------------------ */

static void greedy_ids_equal_the_reference(void **state) {
  (void)state;
  char path[256], text[4096] = "";
  snprintf(path, sizeof path, "%s/reference.safetensors", model);
  ie_tensor_file *file = tensors_open(path);
  const ie_tensor_info *ids = ie_tensor_file_get(file, "case1.ids"),
                       *greedy = ie_tensor_file_get(file, "case1.greedy");
  const ie_tensor_info *gap = ie_tensor_file_get(file, "case1.gap");
  for (int64_t i = 0; i < ids->shape[0]; i++)
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d", i ? "," : "",
             (int)((const int32_t *)ids->data)[i]);
  program_result r =
      program_run("run --model-dir %s --ids %s --max-new %d --greedy --print-ids --precision fp32", model,
                  text, (int)greedy->shape[0]);
  assert_int_equal(r.code, 0);
  char *at = r.out;
  for (int64_t i = 0; i < greedy->shape[0]; i++) {
    if (((const float *)gap->data)[i] < 2e-4f) break;
    assert_int_equal(strtol(at, &at, 10), ((const int32_t *)greedy->data)[i]);
    at += *at == ',';
  }
  program_free(&r);
  ie_tensor_file_free(file);
}

static void json_holds_every_key(void **state) {
  (void)state;
  static const char *const timing[] = {"load_s",        "ttft_s",       "prefill_s",    "decode_s",
                                       "prefill_tok_s", "decode_tok_s", "token_ms_p50", "token_ms_p95"};
  json_t *v = program_json(
      "run --model-dir %s --ids '1,2,3;4,5' --max-new 6 --ignore-eos --logprobs 3 --json", model);
  result_no_nulls(v);
  for (size_t i = 0; i < sizeof timing / sizeof *timing; i++)
    assert_true(json_is_number(json_object_get(json_object_get(v, "timing"), timing[i])));
  const json_t *memory = json_object_get(v, "memory"), *arithmetic = json_object_get(v, "arithmetic");
  assert_true(result_integer(memory, "peak_rss_bytes") > 0);
  assert_true(result_integer(memory, "weights_bytes") > 0);
  assert_true(result_integer(memory, "kv_bytes") > 0);
  assert_string_equal(json_string_value(json_object_get(arithmetic, "weights")), "mxfp4+bf16");
  assert_string_equal(json_string_value(json_object_get(arithmetic, "activations")), "bf16");
  assert_string_equal(json_string_value(json_object_get(arithmetic, "accumulate")), "f32");
  assert_true(json_is_string(json_object_get(arithmetic, "kv")));
  assert_true(json_is_string(json_object_get(v, "isa")));
  assert_true(result_integer(v, "threads") >= 1);
  assert_string_equal(json_string_value(json_object_get(v, "device")), "cpu");
  for (size_t row = 0; row < 2; row++) {
    json_t *r = result_row(v, row);
    assert_int_equal(json_array_size(json_object_get(r, "prompt_ids")), row ? 2 : 3);
    assert_int_equal(result_integer(r, "computed_prompt_tokens") + result_integer(r, "reused_prompt_tokens"),
                     row ? 2 : 3);
    assert_int_equal(json_array_size(json_object_get(r, "new_ids")), 6);
    assert_string_equal(json_string_value(json_object_get(r, "stop_reason")), "length");
    assert_string_equal(json_string_value(json_object_get(r, "text")), "");
    json_t *logprobs = json_object_get(r, "logprobs"), *one;
    size_t i;
    assert_int_equal(json_array_size(logprobs), 6);
    json_array_foreach(logprobs, i, one) {
      assert_int_equal(result_integer(one, "id"),
                       json_integer_value(json_array_get(json_object_get(r, "new_ids"), i)));
      json_t *top = json_object_get(one, "top");
      assert_int_equal(json_array_size(top), 3);
      double best = json_number_value(json_array_get(json_array_get(top, 0), 1));
      assert_true(best <= 0 && best >= json_number_value(json_array_get(json_array_get(top, 2), 1)));
      assert_true(json_number_value(json_object_get(one, "logprob")) <= best);
    }
  }
  json_decref(v);
}

static void rows_are_independent(void **state) {
  (void)state;
  json_t *both = program_json("run --model-dir %s --ids '9,8,7;30,31' --max-new 8 --greedy --json", model);
  json_t *first = program_json("run --model-dir %s --ids 9,8,7 --max-new 8 --greedy --json", model);
  json_t *second = program_json("run --model-dir %s --ids 30,31 --max-new 8 --greedy --json", model);
  result_ids_equal(both, 0, first, 0);
  result_ids_equal(both, 1, second, 0);
  json_decref(both);
  json_decref(first);
  json_decref(second);
  program_result r =
      program_run("run --model-dir %s --ids '9,8,7;30,31' --max-new 8 --greedy --print-ids", model);
  int lines = 0;
  for (const char *c = r.out; *c; c++) lines += *c == '\n';
  assert_int_equal(lines, 2);
  program_free(&r);
}

/* However many are computed together: the same bytes on stdout, and deterministic the same JSON. */
static void rows_together_print_what_they_print_alone(void **state) {
  (void)state;
  char *dir = text_model_make();
  static const char *const outputs[] = {"", "--print-ids"};
  static const char rows[] = "65,66,67;1;200,201,202,203,204,205,206,207;66;9,8,7,6,5";
  for (size_t i = 0; i < 2; i++) {
    char *first = NULL;
    for (int batch = 1; batch <= 6; batch++) {
      program_result r =
          program_run("run --model-dir %s --ids '%s' --max-new 30 --temperature 1.2 --top-k 90 "
                      "--seed 4 --deterministic --no-cache --chunk %d --batch %d %s",
                      dir, rows, batch % 2 ? 512 : 3, batch, outputs[i]);
      assert_int_equal(r.code, 0);
      if (!first) {
        first = strdup(r.out);
        assert_non_null(first);
      }
      assert_string_equal(r.out, first);
      program_free(&r);
    }
    free(first);
  }
  json_t *all = program_json("run --model-dir %s --ids '%s' --max-new 30 --seed 4 --deterministic --no-cache "
                             "--logprobs 3 --json",
                             dir, rows);
  json_t *one = program_json("run --model-dir %s --ids '%s' --max-new 30 --seed 4 --deterministic --no-cache "
                             "--logprobs 3 --json --batch 1",
                             dir, rows);
  assert_int_equal(json_array_size(json_object_get(all, "rows")), 5);
  for (size_t i = 0; i < 5; i++) {
    assert_true(json_equal(json_object_get(result_row(all, i), "prompt_ids"),
                           json_object_get(result_row(one, i), "prompt_ids")));
    result_ids_equal(all, i, one, i);
    assert_true(json_equal(json_object_get(result_row(all, i), "logprobs"),
                           json_object_get(result_row(one, i), "logprobs")));
  }
  /* eight rows hold eight caches; a limit that holds one is kept by computing fewer together */
  assert_int_equal(result_integer(json_object_get(all, "memory"), "kv_bytes"),
                   5 * result_integer(json_object_get(one, "memory"), "kv_bytes"));
  json_decref(all);
  json_decref(one);
  program_expect(2, "--batch", "run --model-dir %s --ids 1 --batch 0", dir);
  tempdir_remove(dir);
}

static void memory_decides_how_many_rows_are_together(void **state) {
  (void)state;
  json_t *one = program_json("plan --model-dir %s --ctx 2000 --batch 1 --json", model);
  json_t *eight = program_json("plan --model-dir %s --ctx 2000 --batch 8 --json", model);
  int64_t least = result_integer(one, "peak_bytes"), most = result_integer(eight, "peak_bytes");
  assert_true(least < most);
  for (int tight = 0; tight < 2; tight++) {
    json_t *v =
        program_json("run --model-dir %s --ids '1;2;3;4;5;6;7;8' --max-new 2 --ctx 2000 --json --quiet "
                     "--memory %lld",
                     model, (long long)(tight ? least : most));
    assert_int_equal(json_array_size(json_object_get(v, "rows")), 8);
    assert_int_equal(result_integer(json_object_get(v, "memory"), "kv_bytes"),
                     result_integer(tight ? one : eight, "kv_bytes"));
    json_decref(v);
  }
  /* asked for, it is kept or refused */
  program_expect(1, "does not hold this run",
                 "run --model-dir %s --ids '1;2;3;4;5;6;7;8' --max-new 2 --ctx 2000 --memory %lld --batch 8",
                 model, (long long)least);
  json_decref(one);
  json_decref(eight);
}

/* Experts of 55 MB, and a limit that holds some of them: each row would take their places. */
static void streamed_rows_run_one_at_a_time(void **state) {
  (void)state;
  char *dir = tempdir_make();
  random_model_write(&(random_model){.arch = RANDOM_GPT_OSS,
                                     .layers = 4,
                                     .width = 512,
                                     .ffn = 512,
                                     .heads = 4,
                                     .kv_heads = 2,
                                     .head_dim = 64,
                                     .vocab = 300,
                                     .experts = 32,
                                     .top_k = 2,
                                     .window = 16,
                                     .dtype = IE_BF16,
                                     .seed = 5},
                     dir);
  json_t *one = program_json("plan --model-dir %s --ctx 500 --batch 1 --json", dir);
  json_t *four = program_json("plan --model-dir %s --ctx 500 --batch 4 --json", dir);
  long long limit = (long long)result_integer(four, "minimum_bytes") + (4 << 20);
  assert_true(limit < (long long)result_integer(one, "peak_bytes"));
  for (int asked = 0; asked < 2; asked++) {
    json_t *v = program_json(
        "run --model-dir %s --ids '1;2;3;4' --max-new 2 --ctx 500 --json --quiet --memory %lld%s", dir, limit,
        asked ? " --batch 4" : "");
    json_t *memory = json_object_get(v, "memory");
    assert_true(json_is_true(json_object_get(json_object_get(memory, "stream"), "streamed")));
    assert_int_equal(result_integer(memory, "kv_bytes"), result_integer(asked ? four : one, "kv_bytes"));
    assert_int_equal(json_array_size(json_object_get(v, "rows")), 4);
    json_decref(v);
  }
  json_decref(one);
  json_decref(four);
  tempdir_remove(dir);
}

static void prompts_files_are_rows(void **state) {
  (void)state;
  char *dir = text_model_make();
  static const char lines[] = "AB\nC D\r\n<|start|>x\nlast";
  const char *path = tempdir_write_text(dir, "lines", lines);
  json_t *rows = program_json(
      "run --model-dir %s --prompts-file %s --max-new 4 --ignore-eos --greedy --no-cache --json", dir, path);
  json_t *ids = program_json(
      "run --model-dir %s --ids '65,66;67,32,68;256,120;108,97,115,116' --max-new 4 --ignore-eos "
      "--greedy --no-cache --json",
      dir);
  for (size_t i = 0; i < 4; i++) {
    assert_true(json_equal(json_object_get(result_row(rows, i), "prompt_ids"),
                           json_object_get(result_row(ids, i), "prompt_ids")));
    result_ids_equal(rows, i, ids, i);
  }
  assert_int_equal(json_array_size(json_object_get(rows, "rows")), 4);
  json_decref(rows);
  json_decref(ids);
  program_result r = program_run_input(
      lines, sizeof lines - 1, "run --model-dir %s --prompts-file - --max-new 2 --print-ids --no-cache", dir);
  assert_int_equal(r.code, 0);
  program_free(&r);
  /* a byte order mark and blank lines are none; .jsonl has a prompt in each line */
  static const char *const files[][2] = {
      {"blank", "\xEF\xBB\xBF"
                "AB\r\n\r\n \t\nC"},
      {"lines.jsonl", "{\"text\":\"AB\"}\r\n\n{\"prompt\":\"C\",\"x\":1}\n"}};
  for (size_t i = 0; i < 2; i++) {
    path = tempdir_write_text(dir, files[i][0], files[i][1]);
    rows = program_json("run --model-dir %s --prompts-file %s --max-new 0 --no-cache --json", dir, path);
    json_t *want = json_loads("[[65,66],[67]]", 0, NULL);
    assert_int_equal(json_array_size(json_object_get(rows, "rows")), 2);
    for (size_t k = 0; k < 2; k++)
      assert_true(json_equal(json_object_get(result_row(rows, k), "prompt_ids"), json_array_get(want, k)));
    json_decref(want);
    json_decref(rows);
  }
  path = tempdir_write_text(dir, "bad.jsonl", "{\"text\":\"a\"}\n\n{\"tex\":1}\n");
  program_expect(1, "bad.jsonl: line 3", "run --model-dir %s --prompts-file %s --no-cache", dir, path);
  path = tempdir_write_text(dir, "none.jsonl", "{\"text\":\"\"}\n");
  program_expect(2, "line 1: the prompt is empty", "run --model-dir %s --prompts-file %s --no-cache", dir,
                 path);
  path = tempdir_write_text(dir, "empty-lines", "\n\r\n  \n");
  program_expect(2, "holds no prompt", "run --model-dir %s --prompts-file %s --no-cache", dir, path);
  path = tempdir_write_text(dir, "empty", "");
  program_expect(2, "holds no prompt", "run --model-dir %s --prompts-file %s --no-cache", dir, path);
  program_expect(2, "more than one", "run --model-dir %s --prompts-file x --ids 1", dir);
  program_expect(2, "no tokenizer", "run --model-dir %s --prompts-file %s", model, path);
  program_expect(1, "nowhere", "run --model-dir %s --prompts-file %s/nowhere --no-cache", dir, dir);
  tempdir_remove(dir);
}

/* A saved state is the beginning of every row. */
static void all_rows_begin_with_a_saved_state(void **state) {
  (void)state;
  char *dir = tempdir_make();
  const char *path = tempdir_path(dir, "s");
  program_expect(0, NULL, "run --model-dir %s --ids 1,2,3,4,5,6 --max-new 0 --save-state %s", model, path);
  json_t *v = program_json("run --model-dir %s --ids '1,2,3,4,5,6,7;1,2,3,4,5,6,8;9,9' --max-new 3 --greedy "
                           "--load-state %s --json",
                           model, path);
  assert_int_equal(result_integer(result_row(v, 0), "reused_prompt_tokens"), 6);
  assert_int_equal(result_integer(result_row(v, 1), "reused_prompt_tokens"), 6);
  assert_int_equal(result_integer(result_row(v, 2), "reused_prompt_tokens"), 0);
  json_decref(v);
  tempdir_remove(dir);
}

static void seeds_decide_the_draws(void **state) {
  (void)state;
  const char *line =
      "run --model-dir %s --ids 1,2,3 --max-new 20 --ignore-eos --temperature 1.5 --top-k 40 --seed %d "
      "--threads %d --json";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  json_t *a = program_json(line, model, 5, 1), *b = program_json(line, model, 5, 3),
         *c = program_json(line, model, 6, 1);
#pragma GCC diagnostic pop
  result_ids_equal(a, 0, b, 0);
  char *x = result_new_ids(a, 0), *y = result_new_ids(c, 0);
  assert_string_not_equal(x, y);
  free(x);
  free(y);
  json_decref(a);
  json_decref(b);
  json_decref(c);
  /* the two rows of a batch draw differently from equal logits */
  json_t *rows =
      program_json("run --model-dir %s --ids '1,2,3;1,2,3' --max-new 20 --ignore-eos --seed 5 --json", model);
  x = result_new_ids(rows, 0);
  y = result_new_ids(rows, 1);
  assert_string_not_equal(x, y);
  free(x);
  free(y);
  json_decref(rows);
  /* one after the other, the second takes what the first has read */
  rows = program_json("run --model-dir %s --ids '1,2,3;1,2,3' --max-new 2 --batch 1 --json", model);
  assert_int_equal(result_integer(result_row(rows, 1), "reused_prompt_tokens"), 2);
  json_decref(rows);
}

static void eos_ends_a_row(void **state) {
  (void)state;
  /* drawn nearly uniformly, one of the two stop ids of 259 comes soon */
  json_t *v = program_json("run --model-dir %s --ids 1 --max-new 2000 --temperature 50 --json", model);
  json_t *ids = json_object_get(result_row(v, 0), "new_ids");
  size_t n = json_array_size(ids);
  assert_string_equal(json_string_value(json_object_get(result_row(v, 0), "stop_reason")), "eos");
  assert_true(n < 2000);
  for (size_t i = 0; i < n; i++) {
    int64_t id = json_integer_value(json_array_get(ids, i));
    assert_int_equal(id == 2 || id == 257, i + 1 == n);
  }
  json_decref(v);
  v = program_json("run --model-dir %s --ids 1 --max-new %zu --temperature 50 --ignore-eos --json", model,
                   n + 50);
  assert_int_equal(json_array_size(json_object_get(result_row(v, 0), "new_ids")), n + 50);
  json_decref(v);
}

static void ids_are_checked(void **state) {
  (void)state;
  static const char *const bad[] = {"",    "a",  "1,,2",      "259", "-1",  "1,2,99999999999999999999",
                                    "1;",  ";1", ",",         "1,",  "1 2", "0x1",
                                    "1.0", "+1", "4294967297"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    program_expect(2, "0 to 258", "run --model-dir %s --ids '%s' --max-new 2", model, bad[i]);
    program_expect(2, "0 to 258", "logits --model-dir %s --ids '%s' --out tests/never-written", model,
                   bad[i]);
  }
  program_expect(2, "'259'", "run --model-dir %s --ids 3,259 --max-new 2", model);
  program_expect(2, "row 2", "run --model-dir %s --ids '3;-7' --max-new 2", model);
  program_expect(0, NULL, "run --model-dir %s --ids 258 --max-new 2", model);
  program_expect(2, "no prompt", "run --model-dir %s", model);
  program_expect(2, "more than one", "run --model-dir %s --ids 1 --prompt x", model);
  program_expect(2, "--model-dir D is missing", "run --ids 1");
  program_expect(2, "no tokenizer", "run --model-dir %s --prompt x", model);
  program_expect(2, "no tokenizer", "run --model-dir %s --ids 1 --stop x", model);
  program_expect(1, "/nonexistent", "run --model-dir /nonexistent --ids 1");
  program_expect(1, "adapter_config.json", "run --model-dir %s --ids 1 --adapter x", model);
}

static void ids_files_are_read(void **state) {
  (void)state;
  char *dir = tempdir_make();
  const int32_t ids[6] = {1, 2, 3, 4, 5, 6}, bad[2] = {5, 259};
  ie_tensor_out rows = {.name = "ids", .dtype = IE_I32, .rank = 2, .shape = {2, 3}, .data = ids};
  ie_tensor_out row = {.name = "ids", .dtype = IE_I32, .rank = 1, .shape = {6}, .data = ids};
  ie_tensor_out high = {.name = "ids", .dtype = IE_I32, .rank = 1, .shape = {2}, .data = bad};
  ie_tensor_out other = {.name = "tokens", .dtype = IE_I32, .rank = 1, .shape = {6}, .data = ids};
  ie_tensor_out wide = {.name = "ids", .dtype = IE_F32, .rank = 1, .shape = {6}, .data = ids};
  ie_tensor_out empty = {.name = "ids", .dtype = IE_I32, .rank = 1, .shape = {0}, .data = ids};
  const char *path = tempdir_path(dir, "ids");
  assert_int_equal(ie_tensor_file_write(path, &rows, 1, NULL), IE_OK);
  json_t *a = program_json("run --model-dir %s --ids-file %s --max-new 5 --greedy --json", model, path);
  json_t *b = program_json("run --model-dir %s --ids '1,2,3;4,5,6' --max-new 5 --greedy --json", model);
  result_ids_equal(a, 0, b, 0);
  result_ids_equal(a, 1, b, 1);
  json_decref(a);
  json_decref(b);
  assert_int_equal(ie_tensor_file_write(path, &row, 1, NULL), IE_OK);
  program_expect(0, NULL, "run --model-dir %s --ids-file %s --max-new 1", model, path);
  assert_int_equal(ie_tensor_file_write(path, &high, 1, NULL), IE_OK);
  program_expect(2, "259", "run --model-dir %s --ids-file %s --max-new 1", model, path);
  assert_int_equal(ie_tensor_file_write(path, &other, 1, NULL), IE_OK);
  program_expect(2, "no tensor ids", "run --model-dir %s --ids-file %s --max-new 1", model, path);
  assert_int_equal(ie_tensor_file_write(path, &wide, 1, NULL), IE_OK);
  program_expect(2, "F32", "run --model-dir %s --ids-file %s --max-new 1", model, path);
  assert_int_equal(ie_tensor_file_write(path, &empty, 1, NULL), IE_OK);
  program_expect(2, "empty", "run --model-dir %s --ids-file %s --max-new 1", model, path);
  tempdir_remove(dir);
}

static void the_context_is_kept(void **state) {
  (void)state;
  program_expect(2, "3 tokens and 6 new ones do not fit the context of 8",
                 "run --model-dir %s --ids 1,2,3 --max-new 6 "
                 "--ctx 8",
                 model);
  program_expect(0, NULL, "run --model-dir %s --ids 1,2,3 --max-new 5 --ctx 8 --ignore-eos", model);
  program_expect(2, "do not fit the context", "run --model-dir %s --ids '1;1,2,3' --max-new 1000000", model);
  program_expect(2, "context", "run --model-dir %s --ids 1 --max-new 1 --ctx 1000000000", model);
  program_expect(1, "--memory 1000 bytes", "run --model-dir %s --ids 1 --max-new 1 --memory 1000", model);
  json_t *a = program_json(
      "run --model-dir %s --ids 1,2,3,4,5,6,7,8,9 --max-new 9 --greedy --chunk 1 --precision fp32 "
      "--json",
      model);
  json_t *b = program_json(
      "run --model-dir %s --ids 1,2,3,4,5,6,7,8,9 --max-new 9 --greedy --precision fp32 --json", model);
  result_ids_equal(a, 0, b, 0);
  json_decref(a);
  json_decref(b);
}

/* Eight tokens in one run, and four, a saved state, and four more; greedy and drawn. */
static void a_saved_run_goes_on(void **state) {
  (void)state;
  static const char *const ways[] = {"--greedy", "--seed 7 --temperature 2"};
  char *dir = tempdir_make();
  const char *path = tempdir_path(dir, "state");
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
    const char *flags = ways[i];
    json_t *whole =
        program_json("run --model-dir %s --ids 1,2,3,4,5 --max-new 8 %s --ignore-eos --json", model, flags);
    json_t *half =
        program_json("run --model-dir %s --ids 1,2,3,4,5 --max-new 4 %s --ignore-eos --save-state %s --json",
                     model, flags, path);
    json_t *rest = program_json("run --model-dir %s --max-new 4 %s --ignore-eos --load-state %s --json",
                                model, flags, path);
    assert_int_equal(json_array_size(json_object_get(result_row(rest, 0), "prompt_ids")), 9);
    assert_int_equal(result_integer(result_row(rest, 0), "computed_prompt_tokens"), 1);
    char *all = result_new_ids(whole, 0), *begun = result_new_ids(half, 0), *ended = result_new_ids(rest, 0),
         joined[512];
    snprintf(joined, sizeof joined, "%.*s,%s", (int)strlen(begun) - 1, begun, ended + 1);
    assert_string_equal(joined, all);
    free(all);
    free(begun);
    free(ended);
    json_decref(whole);
    json_decref(half);
    json_decref(rest);
  }
  tempdir_remove(dir);
}

/* A saved state that is longer than what a run needs by itself, and than the usual 4096, is taken all the same. */
static void a_long_state_is_restored(void **state) {
  (void)state;
  enum { LENGTH = 4200 };
  char *dir = text_model_make(), path[1024], saved[1024], rows[1024];
  static int32_t ids[LENGTH];
  for (int i = 0; i < LENGTH; i++) ids[i] = i * 7 % VOCAB;
  snprintf(path, sizeof path, "%s/config.json", dir);
  snprintf(saved, sizeof saved, "%s/saved", dir);
  snprintf(rows, sizeof rows, "%s/rows", dir);
  json_t *config = json_load_file(path, 0, NULL);
  assert_non_null(config);
  json_object_set_new(config, "max_position_embeddings", json_integer(8192));
  assert_int_equal(unlink(path), 0);
  assert_int_equal(json_dump_file(config, path, 0), 0);
  json_decref(config);
  ie_tensor_out tensor = {.name = "ids", .dtype = IE_I32, .rank = 1, .shape = {LENGTH}, .data = ids};
  assert_int_equal(ie_tensor_file_write(rows, &tensor, 1, NULL), IE_OK);
  program_expect(0, NULL,
                 "run --model-dir %s --ids-file %s --max-new 2 --greedy --ignore-eos --save-state %s", dir,
                 rows, saved);
  json_t *rest =
      program_json("run --model-dir %s --max-new 3 --greedy --ignore-eos --load-state %s --json", dir, saved);
  assert_int_equal(result_integer(result_row(rest, 0), "reused_prompt_tokens"), LENGTH + 1);
  json_decref(rest);
  /* and it may be longer than the prompt that shares its beginning */
  program_expect(0, NULL, "run --model-dir %s --ids 0,7,14 --max-new 3 --load-state %s", dir, saved);
  tempdir_remove(dir);
}

static void states_are_saved_and_restored(void **state) {
  (void)state;
  char *dir = tempdir_make();
  const char *path = tempdir_path(dir, "state");
  json_t *whole =
      program_json("run --model-dir %s --ids 1,2,3,4,5 --max-new 8 --greedy --ignore-eos --json", model);
  json_t *half =
      program_json("run --model-dir %s --ids 1,2,3,4,5 --max-new 4 --greedy --ignore-eos --save-state %s "
                   "--json",
                   model, path);
  char *all = result_new_ids(whole, 0), *begun = result_new_ids(half, 0);
  begun[strlen(begun) - 1] = '\0';
  json_t *rest =
      program_json("run --model-dir %s --ids 1,2,3,4,5,%s --max-new 4 --greedy --ignore-eos --load-state %s "
                   "--json",
                   model, begun + 1, path);
  char *ended = result_new_ids(rest, 0), joined[512];
  snprintf(joined, sizeof joined, "%s,%s", begun, ended + 1);
  assert_string_equal(joined, all);
  assert_true(result_integer(result_row(rest, 0), "reused_prompt_tokens") >= 7);
  free(all);
  free(begun);
  free(ended);
  json_decref(whole);
  json_decref(half);
  json_decref(rest);
  program_expect(0, NULL, "run --model-dir %s --max-new 4 --load-state %s", model, path);
  /* the default of --max-new gives way to the context; what is asked for does not */
  json_t *full = program_json("run --model-dir %s --ctx 12 --ignore-eos --load-state %s --json", model, path);
  assert_int_equal(json_array_size(json_object_get(result_row(full, 0), "new_ids")), 3);
  json_decref(full);
  program_expect(2, "9 tokens and 4 new ones do not fit the context of 12",
                 "run --model-dir %s --ctx 12 --max-new 4 --load-state %s", model, path);
  program_expect(1, "context is 8", "run --model-dir %s --ctx 8 --ids 1 --max-new 1 --load-state %s", model,
                 path);
  program_expect(2, "one row", "run --model-dir %s --ids '1;2' --max-new 4 --save-state %s", model, path);
  program_expect(2, "empty path", "run --model-dir %s/none --ids 1 --save-state ''", dir);
  program_expect(2, "found the folder", "run --model-dir %s/none --ids 1 --save-state %s/", dir, dir);
  program_expect(1, "the folder", "run --model-dir %s/none --ids 1 --save-state %s/none/s", dir, dir);
  program_expect(1, "nothing-here", "run --model-dir %s --max-new 4 --load-state nothing-here", model);
  tempdir_remove(dir);
}

/* --- text ----------------------------------------------------------------------------------------------------- */

static void text_prompts_are_the_same_from_everywhere(void **state) {
  (void)state;
  char *dir = text_model_make();
  const char *file = tempdir_write_text(dir, "prompt", "Hello, world");
  program_result a =
      program_run("run --model-dir %s --prompt 'Hello, world' --max-new 12 --greedy --no-cache", dir);
  program_result b =
      program_run("run --model-dir %s --prompt-file %s --max-new 12 --greedy --no-cache", dir, file);
  program_result c =
      program_run_input("Hello, world", 12, "run --model-dir %s - --max-new 12 --greedy --no-cache", dir);
  program_result d =
      program_run("run --model-dir %s --ids 72,101,108,108,111,44,32,119,111,114,108,100 --max-new 12 "
                  "--greedy --no-cache",
                  dir);
  if (a.code != 0) fail_msg("%s", a.err);
  assert_true(a.out_size > 5);
  assert_string_equal(a.out, b.out);
  assert_string_equal(a.out, c.out);
  assert_string_equal(a.out, d.out);
  /* special tokens that stand in the text are recognised */
  json_t *v = program_json("run --model-dir %s --prompt '<|start|>A' --max-new 1 --json --no-cache", dir);
  char *ids = json_dumps(json_object_get(result_row(v, 0), "prompt_ids"), JSON_COMPACT);
  assert_string_equal(ids, "[256,65]");
  free(ids);
  json_decref(v);
  program_free(&a);
  program_free(&b);
  program_free(&c);
  program_free(&d);
  program_expect(2, "empty", "run --model-dir %s --prompt '' --max-new 1 --no-cache", dir);
  tempdir_remove(dir);
}

/* Stop strings that straddle tokens (each token is one byte here) end the text and are not printed. */
static void stop_strings_end_the_text(void **state) {
  (void)state;
  char *dir = text_model_make();
  const char *base =
      "run --model-dir %s --ids 65,66 --max-new 60 --top-k 100 --seed 3 --ignore-eos --no-cache --json";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  json_t *v = program_json(base, dir);
#pragma GCC diagnostic pop
  const json_t *ids = json_object_get(result_row(v, 0), "new_ids");
  assert_int_equal(json_array_size(ids), 60);
  /* the first two neighbours that are letters or digits, not at the start */
  size_t at = 3;
  char stop[3] = "";
  for (; at + 1 < 60; at++) {
    int64_t x = json_integer_value(json_array_get(ids, at)),
            y = json_integer_value(json_array_get(ids, at + 1));
    if (x > 64 && x < 123 && x != 92 && y > 64 && y < 123 && y != 92) {
      stop[0] = (char)x;
      stop[1] = (char)y;
      break;
    }
  }
  assert_true(stop[0] != 0);
  json_t *w =
      program_json("run --model-dir %s --ids 65,66 --max-new 60 --top-k 100 --seed 3 --ignore-eos --no-cache "
                   "--json --stop '%s' --stop never-comes",
                   dir, stop);
  const char *text = json_string_value(json_object_get(result_row(w, 0), "text"));
  assert_string_equal(json_string_value(json_object_get(result_row(w, 0), "stop_reason")), "stop");
  assert_null(json_object_get(result_row(w, 0), "cancelled")); /* Ctrl-C alone */
  assert_null(strstr(text, stop));
  assert_true(json_array_size(json_object_get(result_row(w, 0), "new_ids")) <= at + 2);
  program_result r =
      program_run("run --model-dir %s --ids 65,66 --max-new 60 --top-k 100 --seed 3 --ignore-eos "
                  "--no-cache --stop '%s'",
                  dir, stop);
  assert_int_equal(r.code, 0);
  assert_null(strstr(r.out, stop));
  program_free(&r);
  json_decref(v);
  json_decref(w);
  tempdir_remove(dir);
}

/* --- Signals --------------------------------------------------------------------------------------------------- */

static void interrupts_stop_at_the_next_token(void **state) {
  (void)state;
  char *dir = text_model_make();
  program_child child =
      program_start("run --model-dir %s --ids 1 --max-new 2000 --ignore-eos --temperature 5 --no-cache", dir);
  program_wait_output(&child, 8);
  assert_int_equal(kill(child.pid, SIGINT), 0);
  program_result r = program_end(&child);
  assert_int_equal(r.code, 0);
  assert_non_null(strstr(r.err, "stopped: cancelled"));
  program_free(&r);
  /* Blocked because nobody reads its small pipe, it sees no flag: the first does nothing, the second ends it. */
  child = program_start(
      "run --model-dir %s --ids '1;1;1;1' --max-new 2000 --ignore-eos --temperature 5 --no-cache", dir);
  assert_true(fcntl(child.out, F_SETPIPE_SZ, 4096) >= 4096);
  for (int before = -1, now = 0, tries = 0; tries < 600 && (now == 0 || now != before); tries++) {
    before = now;
    usleep(200000);
    assert_int_equal(ioctl(child.out, FIONREAD, &now), 0);
  }
  assert_int_equal(kill(child.pid, SIGINT), 0);
  usleep(100000);
  assert_int_equal(kill(child.pid, 0), 0);
  assert_int_equal(kill(child.pid, SIGINT), 0);
  r = program_end(&child);
  assert_int_equal(r.code, 130);
  program_free(&r);
  tempdir_remove(dir);
}

/* In JSON an interrupted row is one that was stopped. An interrupt before the first row ends the program at once:
 * then it is tried again, later. */
static void an_interrupted_row_is_stopped(void **state) {
  (void)state;
  program_result r = {.code = 130};
  for (useconds_t wait = 100000; r.code == 130 && wait < 20000000; wait *= 2) {
    program_free(&r);
    program_child child = program_start("run --model-dir %s --ids '1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1' "
                                        "--max-new 2000 --ignore-eos --json --quiet",
                                        model);
    usleep(wait);
    assert_int_equal(kill(child.pid, SIGINT), 0);
    r = program_end(&child);
  }
  assert_int_equal(r.code, 0);
  json_t *v = json_loads(r.out, 0, NULL), *rows = json_object_get(v, "rows");
  size_t count = json_array_size(rows);
  assert_true(count >= 1 && count < 20); /* those that had begun: eight at a time */
  assert_string_equal(json_string_value(json_object_get(result_row(v, count - 1), "stop_reason")), "stop");
  assert_true(json_is_true(json_object_get(result_row(v, count - 1), "cancelled")));
  json_decref(v);
  program_free(&r);
}

/* A file that someone else cuts while it is mapped ends with a message that names it. */
/* A folder whose files give no stop ids, such as nanochat's own: its chat format has some. */
static void stop_ids_come_from_the_chat_format(void **state) {
  (void)state;
  enum { RETURN = 261, LETTERS = 300 };
  char prompt[LETTERS + 1];
  char *dir = chat_model_make();
  const char *path = tempdir_path(dir, "config.json");
  json_t *config = json_load_file(path, 0, NULL);
  assert_int_equal(json_object_del(config, "eos_token_id"), 0);
  assert_int_equal(json_dump_file(config, path, 0), 0);
  json_decref(config);
  memset(prompt, 'x', LETTERS);
  prompt[LETTERS - 1] = 't'; /* the model goes on as behind a header of the assistant */
  prompt[LETTERS] = '\0';
  json_t *v = program_json("run --model-dir %s --prompt %s --max-new 40 --greedy --json", dir, prompt);
  json_t *ids = json_object_get(result_row(v, 0), "new_ids");
  assert_string_equal(json_string_value(json_object_get(result_row(v, 0), "stop_reason")), "eos");
  assert_in_range(json_array_size(ids), 8, 39);
  assert_int_equal(json_integer_value(json_array_get(ids, json_array_size(ids) - 1)), RETURN);
  json_decref(v);
  v = program_json("run --model-dir %s --prompt %s --max-new 40 --greedy --ignore-eos --json", dir, prompt);
  assert_int_equal(json_array_size(json_object_get(result_row(v, 0), "new_ids")), 40);
  json_decref(v);
  /* and where nobody needs a tokenizer otherwise */
  char list[4 * LETTERS + 1] = "";
  for (size_t i = 0; i < LETTERS; i++) snprintf(list + 4 * i, sizeof list - 4 * i, "%d,", prompt[i]);
  list[4 * LETTERS - 1] = '\0';
  program_result r = program_run("run --model-dir %s --ids %s --max-new 40 --greedy --print-ids", dir, list);
  assert_int_equal(r.code, 0);
  size_t end = strlen(r.out);
  assert_true(end > 4 && strcmp(r.out + end - 4, "261\n") == 0);
  program_free(&r);
  tempdir_remove(dir);
}

static void a_truncated_file_is_named(void **state) {
  (void)state;
  char *dir = text_model_make(), path[1024];
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  assert_int_equal(unlink(path), 0);
  snprintf(path, sizeof path, "cp %s/model.safetensors %s/model.safetensors", model, dir);
  assert_int_equal(system(path), 0);
  /* what it writes does not fit its pipe, so that it cannot be done before */
  program_child child = program_start(
      "run --model-dir %s --ids '1;1;1;1' --max-new 2000 --ignore-eos --temperature 5 --no-cache", dir);
  assert_true(fcntl(child.out, F_SETPIPE_SZ, 4096) >= 4096);
  program_wait_output(&child, 8);
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  assert_int_equal(truncate(path, 100), 0);
  program_result r = program_end(&child);
  assert_int_equal(r.code, 1);
  assert_non_null(strstr(r.err, "model.safetensors: the file was truncated while in use"));
  program_free(&r);
  tempdir_remove(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(greedy_ids_equal_the_reference),
      cmocka_unit_test(json_holds_every_key),
      cmocka_unit_test(rows_are_independent),
      cmocka_unit_test(rows_together_print_what_they_print_alone),
      cmocka_unit_test(memory_decides_how_many_rows_are_together),
      cmocka_unit_test(streamed_rows_run_one_at_a_time),
      cmocka_unit_test(prompts_files_are_rows),
      cmocka_unit_test(all_rows_begin_with_a_saved_state),
      cmocka_unit_test(seeds_decide_the_draws),
      cmocka_unit_test(eos_ends_a_row),
      cmocka_unit_test(ids_are_checked),
      cmocka_unit_test(ids_files_are_read),
      cmocka_unit_test(the_context_is_kept),
      cmocka_unit_test(a_saved_run_goes_on),
      cmocka_unit_test(a_long_state_is_restored),
      cmocka_unit_test(states_are_saved_and_restored),
      cmocka_unit_test(text_prompts_are_the_same_from_everywhere),
      cmocka_unit_test(stop_strings_end_the_text),
      cmocka_unit_test(interrupts_stop_at_the_next_token),
      cmocka_unit_test(an_interrupted_row_is_stopped),
      cmocka_unit_test(stop_ids_come_from_the_chat_format),
      cmocka_unit_test(a_truncated_file_is_named),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
