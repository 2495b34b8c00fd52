/* run, logits, inspect, plan, sample and bench from outside, on the small golden models. */
#include "clocher/tensor.h"
#include "support/program.h"
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
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmocka.h>

static const char model[] = "tests/data/models/gpt-oss-hf";
enum { VOCAB = 259, WIDTH = 96 };

/* --- Helpers -------------------------------------------------------------------------------------------------- */

/* A folder with the model and a tokenizer of single bytes: ids 0 to 255, then <|start|>, <|end|>, <|pad|>. */
static char *text_model_make(void) {
  char *dir = tempdir_make(), path[1024], link[1024], where[1024];
  static const char *const files[] = {"config.json", "generation_config.json", "model.safetensors"};
  assert_non_null(getcwd(where, sizeof where / 2));
  for (size_t i = 0; i < 3; i++) {
    snprintf(path, sizeof path, "%.400s/%s/%s", where, model, files[i]);
    snprintf(link, sizeof link, "%s/%s", dir, files[i]);
    assert_int_equal(symlink(path, link), 0);
  }
  json_t *vocab = json_object();
  int next = 256;
  for (int b = 0; b < 256; b++) {
    /* the byte alphabet of GPT-2: printable bytes stand for themselves, the others for U+0100 onwards */
    bool plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    int c = plain ? b : next++;
    char key[3] = {(char)(c < 128 ? c : 0xC0 | c >> 6), (char)(0x80 | (c & 63)), 0};
    if (c < 128) key[1] = 0;
    json_object_set_new(vocab, key, json_integer(b));
  }
  json_t *root = json_pack(
      "{s:s, s:[{s:i,s:s,s:b,s:b,s:b,s:b,s:b},{s:i,s:s,s:b,s:b,s:b,s:b,s:b}], s:n, s:{s:s,s:b,s:b,s:b}, "
      "s:{s:s,s:b,s:b,s:b}, s:{s:s,s:o,s:[]}}",
      "version", "1.0", "added_tokens", "id", 256, "content", "<|start|>", "single_word", 0, "lstrip", 0,
      "rstrip", 0, "normalized", 0, "special", 1, "id", 257, "content", "<|end|>", "single_word", 0, "lstrip",
      0, "rstrip", 0, "normalized", 0, "special", 1, "normalizer", "pre_tokenizer", "type", "ByteLevel",
      "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1, "decoder", "type", "ByteLevel",
      "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1, "model", "type", "BPE", "vocab", vocab,
      "merges");
  assert_non_null(root);
  snprintf(path, sizeof path, "%s/tokenizer.json", dir);
  assert_int_equal(json_dump_file(root, path, 0), 0);
  json_decref(root);
  return dir;
}

static json_t *row_of(json_t *result, size_t i) {
  json_t *row = json_array_get(json_object_get(result, "rows"), i);
  assert_non_null(row);
  return row;
}

/* The new ids of one row, as JSON text; the caller frees it. */
static char *new_ids(json_t *result, size_t row) {
  char *text = json_dumps(json_object_get(row_of(result, row), "new_ids"), JSON_COMPACT);
  assert_non_null(text);
  return text;
}

static void ids_equal(json_t *a, size_t row_a, json_t *b, size_t row_b) {
  char *x = new_ids(a, row_a), *y = new_ids(b, row_b);
  assert_string_equal(x, y);
  free(x);
  free(y);
}

/* Every number of a JSON value is finite, which jansson's parser makes sure of, and none is null. */
static void no_nulls(const json_t *value) {
  const char *key;
  json_t *item;
  size_t i;
  assert_false(json_is_null(value));
  json_array_foreach(value, i, item) no_nulls(item);
  json_object_foreach((json_t *)(uintptr_t)value, key, item) no_nulls(item);
}

static int64_t integer(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  if (!json_is_integer(value)) fail_msg("%s is no integer", key);
  return json_integer_value(value);
}

static ie_tensor_file *tensors_open(const char *path) {
  ie_tensor_file *file;
  ie_error error = {0};
  if (ie_tensor_file_open(path, &file, &error) != IE_OK) fail_msg("%s", error.message);
  return file;
}

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
  no_nulls(v);
  for (size_t i = 0; i < sizeof timing / sizeof *timing; i++)
    assert_true(json_is_number(json_object_get(json_object_get(v, "timing"), timing[i])));
  const json_t *memory = json_object_get(v, "memory"), *arithmetic = json_object_get(v, "arithmetic");
  assert_true(integer(memory, "peak_rss_bytes") > 0);
  assert_true(integer(memory, "weights_bytes") > 0);
  assert_true(integer(memory, "kv_bytes") > 0);
  assert_string_equal(json_string_value(json_object_get(arithmetic, "weights")), "mxfp4+bf16");
  assert_string_equal(json_string_value(json_object_get(arithmetic, "activations")), "bf16");
  assert_string_equal(json_string_value(json_object_get(arithmetic, "accumulate")), "f32");
  assert_true(json_is_string(json_object_get(arithmetic, "kv")));
  assert_true(json_is_string(json_object_get(v, "isa")));
  assert_true(integer(v, "threads") >= 1);
  assert_string_equal(json_string_value(json_object_get(v, "device")), "cpu");
  for (size_t row = 0; row < 2; row++) {
    json_t *r = row_of(v, row);
    assert_int_equal(json_array_size(json_object_get(r, "prompt_ids")), row ? 2 : 3);
    assert_int_equal(integer(r, "computed_prompt_tokens") + integer(r, "reused_prompt_tokens"), row ? 2 : 3);
    assert_int_equal(json_array_size(json_object_get(r, "new_ids")), 6);
    assert_string_equal(json_string_value(json_object_get(r, "stop_reason")), "length");
    assert_string_equal(json_string_value(json_object_get(r, "text")), "");
    json_t *logprobs = json_object_get(r, "logprobs"), *one;
    size_t i;
    assert_int_equal(json_array_size(logprobs), 6);
    json_array_foreach(logprobs, i, one) {
      assert_int_equal(integer(one, "id"),
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
  ids_equal(both, 0, first, 0);
  ids_equal(both, 1, second, 0);
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
  ids_equal(a, 0, b, 0);
  char *x = new_ids(a, 0), *y = new_ids(c, 0);
  assert_string_not_equal(x, y);
  free(x);
  free(y);
  json_decref(a);
  json_decref(b);
  json_decref(c);
  /* the two rows of a batch draw differently from equal logits */
  json_t *rows =
      program_json("run --model-dir %s --ids '1,2,3;1,2,3' --max-new 20 --ignore-eos --seed 5 --json", model);
  x = new_ids(rows, 0);
  y = new_ids(rows, 1);
  assert_string_not_equal(x, y);
  assert_int_equal(integer(row_of(rows, 1), "reused_prompt_tokens"), 2);
  free(x);
  free(y);
  json_decref(rows);
}

static void eos_ends_a_row(void **state) {
  (void)state;
  /* drawn nearly uniformly, one of the two stop ids of 259 comes soon */
  json_t *v = program_json("run --model-dir %s --ids 1 --max-new 2000 --temperature 50 --json", model);
  json_t *ids = json_object_get(row_of(v, 0), "new_ids");
  size_t n = json_array_size(ids);
  assert_string_equal(json_string_value(json_object_get(row_of(v, 0), "stop_reason")), "eos");
  assert_true(n < 2000);
  for (size_t i = 0; i < n; i++) {
    int64_t id = json_integer_value(json_array_get(ids, i));
    assert_int_equal(id == 2 || id == 257, i + 1 == n);
  }
  json_decref(v);
  v = program_json("run --model-dir %s --ids 1 --max-new 2000 --temperature 50 --ignore-eos --json", model);
  assert_int_equal(json_array_size(json_object_get(row_of(v, 0), "new_ids")), 2000);
  json_decref(v);
}

static void ids_are_checked(void **state) {
  (void)state;
  static const char *const bad[] = {"",    "a",  "1,,2",      "259", "-1",  "1,2,99999999999999999999",
                                    "1;",  ";1", ",",         "1,",  "1 2", "0x1",
                                    "1.0", "+1", "4294967297"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    program_expect(2, "0 to 258", "run --model-dir %s --ids '%s' --max-new 2", model, bad[i]);
    program_expect(2, "0 to 258", "logits --model-dir %s --ids '%s' --out /nonexistent/o", model, bad[i]);
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
  program_expect(1, "not built yet", "run --model-dir %s --ids 1 --adapter x", model);
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
  ids_equal(a, 0, b, 0);
  ids_equal(a, 1, b, 1);
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
  ids_equal(a, 0, b, 0);
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
    assert_int_equal(json_array_size(json_object_get(row_of(rest, 0), "prompt_ids")), 9);
    assert_int_equal(integer(row_of(rest, 0), "computed_prompt_tokens"), 1);
    char *all = new_ids(whole, 0), *begun = new_ids(half, 0), *ended = new_ids(rest, 0), joined[512];
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
  assert_int_equal(integer(row_of(rest, 0), "reused_prompt_tokens"), LENGTH + 1);
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
  char *all = new_ids(whole, 0), *begun = new_ids(half, 0);
  begun[strlen(begun) - 1] = '\0';
  json_t *rest =
      program_json("run --model-dir %s --ids 1,2,3,4,5,%s --max-new 4 --greedy --ignore-eos --load-state %s "
                   "--json",
                   model, begun + 1, path);
  char *ended = new_ids(rest, 0), joined[512];
  snprintf(joined, sizeof joined, "%s,%s", begun, ended + 1);
  assert_string_equal(joined, all);
  assert_true(integer(row_of(rest, 0), "reused_prompt_tokens") >= 7);
  free(all);
  free(begun);
  free(ended);
  json_decref(whole);
  json_decref(half);
  json_decref(rest);
  program_expect(0, NULL, "run --model-dir %s --max-new 4 --load-state %s", model, path);
  /* the default of --max-new gives way to the context; what is asked for does not */
  json_t *full = program_json("run --model-dir %s --ctx 12 --ignore-eos --load-state %s --json", model, path);
  assert_int_equal(json_array_size(json_object_get(row_of(full, 0), "new_ids")), 3);
  json_decref(full);
  program_expect(2, "do not fit", "run --model-dir %s --ctx 12 --max-new 4 --load-state %s", model, path);
  program_expect(1, "context is 8", "run --model-dir %s --ctx 8 --ids 1 --max-new 1 --load-state %s", model,
                 path);
  program_expect(2, "one row", "run --model-dir %s --ids '1;2' --max-new 4 --save-state %s", model, path);
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
  char *ids = json_dumps(json_object_get(row_of(v, 0), "prompt_ids"), JSON_COMPACT);
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
  const json_t *ids = json_object_get(row_of(v, 0), "new_ids");
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
  const char *text = json_string_value(json_object_get(row_of(w, 0), "text"));
  assert_string_equal(json_string_value(json_object_get(row_of(w, 0), "stop_reason")), "stop");
  assert_null(strstr(text, stop));
  assert_true(json_array_size(json_object_get(row_of(w, 0), "new_ids")) <= at + 2);
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
  program_expect(2, "--out F is missing", "logits --model-dir %s --ids 5,6", model);
  program_expect(2, "one of --ids and --ids-file", "logits --model-dir %s --out %s/o", model, dir);
  program_expect(2, "0 to 258", "logits --model-dir %s --ids 5,300 --out %s/o", model, dir);
  assert_int_not_equal(access(tempdir_path(dir, "o"), F_OK), 0);
  tempdir_remove(dir);
}

/* --- inspect, plan, sample, bench ------------------------------------------------------------------------------- */

static void inspect_tells_what_is_there(void **state) {
  (void)state;
  char *dir = text_model_make();
  json_t *v = program_json("inspect %s --json --no-cache", dir);
  assert_string_equal(json_string_value(json_object_get(v, "architecture")), "gpt-oss");
  assert_string_equal(json_string_value(json_object_get(v, "layout")), "hf");
  assert_true(integer(v, "parameters") > integer(v, "active_parameters") &&
              integer(v, "active_parameters") > 0);
  int64_t bytes = 0;
  json_t *t;
  size_t i;
  json_array_foreach(json_object_get(v, "tensors"), i, t) {
    bytes += integer(t, "bytes");
    assert_true(json_is_string(json_object_get(t, "name")) && json_is_string(json_object_get(t, "dtype")));
    assert_string_equal(json_string_value(json_object_get(t, "file")), "model.safetensors");
    assert_true(integer(t, "offset") > 0 && json_is_array(json_object_get(t, "shape")));
  }
  assert_int_equal(bytes, integer(v, "weights_bytes"));
  assert_int_equal(integer(json_object_get(v, "tokenizer"), "vocab"), 258);
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
  tempdir_remove(dir);
}

static void plan_adds_up(void **state) {
  (void)state;
  json_t *v = program_json("plan --model-dir %s --ctx 256 --batch 3 --kv f32 --json", model);
  no_nulls(v);
  int64_t sum = integer(v, "resident_weights_bytes") + integer(v, "kv_bytes") + integer(v, "scratch_bytes") +
                integer(v, "other_bytes");
  assert_int_equal(integer(v, "peak_bytes"), sum);
  assert_true(integer(v, "minimum_bytes") <= sum && integer(v, "kv_bytes") > 0);
  assert_true(json_is_true(json_object_get(v, "fits")));
  assert_true(json_array_size(json_object_get(v, "placement")) >= 2);
  int64_t kv = integer(v, "kv_bytes");
  json_decref(v);
  v = program_json("plan --model-dir %s --ctx 256 --batch 3 --kv f16 --memory 1000 --json", model);
  assert_int_equal(2 * integer(v, "kv_bytes"), kv);
  assert_true(json_is_false(json_object_get(v, "fits")));
  json_decref(v);
  program_expect(0, NULL, "plan --model-dir %s", model);
  program_expect(2, "context", "plan --model-dir %s --ctx 1000000000 --json", model);
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
    no_nulls(v);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
      if (!json_is_number(json_object_get(v, numbers[i]))) fail_msg("%s is missing", numbers[i]);
    assert_true(json_number_value(json_object_get(v, "tok_s_min")) <=
                json_number_value(json_object_get(v, "tok_s_max")));
    assert_true(json_is_boolean(json_object_get(v, "valid")));
    assert_int_equal(strlen(json_string_value(json_object_get(v, "logits_hash"))), 16);
    assert_true(integer(v, "peak_rss_bytes") > 0 && integer(v, "runs") == 2);
    assert_true(json_number_value(json_object_get(json_object_get(v, "ceiling"), "read_gb_s")) > 0);
    assert_true(json_number_value(json_object_get(json_object_get(v, "ceiling"), "matrix_tflop_s")) > 0);
    json_decref(v);
  }
  assert_int_equal(cases, 4 + 2);
  program_free(&r);
  program_expect(0, NULL, "bench sampler --vocab 1000 --runs 1 --json");
  program_expect(2, "--prompt", "bench --model-dir %s --prompt 1,x", model);
  program_expect(2, "--phase", "bench --model-dir %s --phase load", model);
  program_expect(2, "memory, matrix", "bench");
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
  assert_true(count >= 1);
  assert_string_equal(json_string_value(json_object_get(row_of(v, count - 1), "stop_reason")), "stop");
  json_decref(v);
  program_free(&r);
}

/* A file that someone else cuts while it is mapped ends with a message that names it. */
static void a_truncated_file_is_named(void **state) {
  (void)state;
  char *dir = text_model_make(), path[1024];
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  assert_int_equal(unlink(path), 0);
  snprintf(path, sizeof path, "cp %s/model.safetensors %s/model.safetensors", model, dir);
  assert_int_equal(system(path), 0);
  program_child child =
      program_start("run --model-dir %s --ids 1 --max-new 2000 --ignore-eos --temperature 5 --no-cache", dir);
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
      cmocka_unit_test(logits_have_their_names_and_shapes),
      cmocka_unit_test(logits_failures_leave_no_file),
      cmocka_unit_test(inspect_tells_what_is_there),
      cmocka_unit_test(plan_adds_up),
      cmocka_unit_test(sample_writes_what_it_promises),
      cmocka_unit_test(bench_reports_one_object_a_case),
      cmocka_unit_test(interrupts_stop_at_the_next_token),
      cmocka_unit_test(an_interrupted_row_is_stopped),
      cmocka_unit_test(a_truncated_file_is_named),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
