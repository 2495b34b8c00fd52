/* clocher eval ppl: windows against the loop they come from, and the program against sums over `clocher logits`. */
#include "clocher/text.h"
#include "eval/perplexity.h"
#include "models/adapter.h"
#include "support/program.h"
#include "support/small_model.h"
#include "support/tempdir.h"

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

#define MODEL "demo/model"
static const char story[] =
    "Once upon a time there was a girl named Anna. She had a red ball.\n"
    "\"Look!\" she said. \"My ball can fly over the old wall.\"\n"
    "<|endoftext|>\n"
    "The caf\xC3\xA9 was shut, so Tom went home with \xE2\x82\xAC"
    "5 and a very big smile. He was happy.\n"
    "<|endoftext|>\n"
    "A cat sat down. The cat was not a dog, and the dog was not a cat. They played all day in the sun.\n";

/* dir/text with the story, a path to be freed. */
static char *story_write(const char *dir) {
  char *path = strdup(tempdir_write_text(dir, "text", story));
  assert_non_null(path);
  return path;
}

/* --- Windows ----------------------------------------------------------------------------------------------- */

/* The loop of transformers' guide, token by token: (begin, end) of the window that predicts each token, or 0, 0. */
static int64_t guide_windows(int64_t count, int64_t window, int64_t stride, ie_window *of_token) {
  int64_t windows = 0, seen = 0;
  for (int64_t begin = 0; begin < count; begin += stride) {
    int64_t end = begin + window < count ? begin + window : count;
    bool any = false;
    for (int64_t t = seen; t < end; t++)
      if (t > begin) {
        of_token[t] = (ie_window){.begin = begin, .end = end};
        any = true;
      }
    windows += any;
    seen = end;
    if (end == count) break;
  }
  return windows;
}

static void windows_are_those_of_the_guide(void **state) {
  (void)state;
  enum { MOST = 24 };
  for (int64_t count = 2; count <= MOST; count++)
    for (int64_t window = 2; window <= MOST + 2; window++)
      for (int64_t stride = 1; stride <= window; stride++) {
        ie_window expected[MOST] = {0}, found[MOST] = {0};
        const ie_perplexity_options o = {.count = count, .window_tok = window, .stride_tok = stride};
        int64_t windows = ie_perplexity_windows(count, window, stride), targets = 0;
        assert_int_equal(windows, guide_windows(count, window, stride, expected));
        for (int64_t i = 0; i < windows; i++) {
          ie_window w = ie_window_at(&o, /*begin=*/0, count, i);
          for (int64_t t = w.target; t < w.end; t++, targets++) {
            assert_int_equal(found[t].end, 0); /* counted once */
            found[t] = (ie_window){.begin = w.begin, .end = w.end};
          }
        }
        assert_memory_equal(found, expected, sizeof found);
        assert_int_equal(targets, stride < window || count <= window ? count - 1
                                                                     : count - (count + window - 1) / window);
      }
  assert_int_equal(ie_perplexity_windows(1, 4, 2), 0);
  assert_int_equal(ie_perplexity_windows(9, 1, 1), 0);
  assert_int_equal(ie_perplexity_windows(9, 4, 5), 0);
  assert_int_equal(ie_perplexity_windows(9, 4, 0), 0);
  assert_int_equal(ie_perplexity_windows(INT64_MAX, INT64_MAX, INT64_MAX), 1);
}

/* --- The naive computation ----------------------------------------------------------------------------------- */

typedef struct naive {
  ie_ids ids;
  double nll, *kl;
  int64_t tokens, bytes, agreed;
} naive;

static double *log_softmax(const float *x, int64_t n) {
  double *y = malloc((size_t)n * sizeof *y), max = -INFINITY, sum = 0;
  assert_non_null(y);
  for (int64_t i = 0; i < n; i++) max = fmax(max, (double)x[i]);
  for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - max);
  for (int64_t i = 0; i < n; i++) y[i] = (double)x[i] - max - log(sum);
  return y;
}

static int64_t best_of(const double *x, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; i++)
    if (x[i] > x[best]) best = i;
  return best;
}

/* What one target adds. */
static void target_add(naive *out, const ie_tensor_info *one, const ie_tensor_info *two, int64_t row,
                       int32_t id) {
  int64_t vocab = one->shape[1];
  double *p = log_softmax((const float *)one->data + row * vocab, vocab), kl = 0;
  out->nll -= p[id];
  if (two) {
    double *q = log_softmax((const float *)two->data + row * vocab, vocab);
    for (int64_t i = 0; i < vocab; i++) kl += exp(p[i]) * (p[i] - q[i]);
    out->agreed += best_of(p, vocab) == best_of(q, vocab);
    free(q);
  }
  out->kl[out->tokens++] = kl;
  free(p);
}

static ie_tensor_file *window_logits(const naive *n, const ie_window *w, const char *path,
                                     const char *flags) {
  char *ids = calloc((size_t)(w->end - w->begin) + 1, 12), *at = ids;
  assert_non_null(ids);
  for (int64_t t = w->begin; t < w->end; t++)
    at += snprintf(at, 12, "%s%d", t > w->begin ? "," : "", n->ids.ids[t]);
  program_expect(0, NULL, "logits --model-dir " MODEL " --ids %s --out %s %s", ids, path, flags);
  free(ids);
  return tensors_open(path);
}

/* The text by the guide's loop, a run of `clocher logits` for each window. against: flags of a second model, or NULL. */
static naive naive_compute(const char *text, int64_t window, int64_t stride, const char *flags,
                           const char *against) {
  naive n = {0};
  char *dir = tempdir_make();
  ie_tokenizer *tokenizer;
  assert_int_equal(ie_tokenizer_open_dir(MODEL, NULL, &tokenizer, NULL), IE_OK);
  assert_int_equal(ie_tokenizer_encode(tokenizer, text, strlen(text), NULL, &n.ids, NULL), IE_OK);
  int64_t count = (int64_t)n.ids.count;
  ie_window *of_token = calloc(n.ids.count, sizeof *of_token);
  n.kl = calloc(n.ids.count, sizeof *n.kl);
  assert_true(of_token && n.kl);
  guide_windows(count, window, stride, of_token);
  ie_tensor_file *one = NULL, *two = NULL;
  for (int64_t t = 0; t < count; t++) {
    const ie_window *w = &of_token[t];
    if (w->end == 0) continue;
    if (!one || of_token[t - 1].begin != w->begin || of_token[t - 1].end == 0) {
      ie_tensor_file_free(one);
      ie_tensor_file_free(two);
      one = window_logits(&n, w, tempdir_path(dir, "one"), flags);
      two = against ? window_logits(&n, w, tempdir_path(dir, "two"), against) : NULL;
    }
    size_t size;
    ie_tokenizer_token(tokenizer, n.ids.ids[t], &size, NULL);
    n.bytes += (int64_t)size;
    target_add(&n, ie_tensor_file_get(one, "logits"), two ? ie_tensor_file_get(two, "logits") : NULL,
               t - w->begin - 1, n.ids.ids[t]);
  }
  ie_tensor_file_free(one);
  ie_tensor_file_free(two);
  free(of_token);
  ie_tokenizer_free(tokenizer);
  tempdir_remove(dir);
  return n;
}

static void naive_free(naive *n) {
  ie_ids_free(&n->ids);
  free(n->kl);
}

static double number(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  assert_true(json_is_number(value));
  return json_number_value(value);
}

static void near(double found, double expected, double relative) {
  if (!(fabs(found - expected) <= relative * fabs(expected)))
    fail_msg("found %.12g, expected %.12g", found, expected);
}

static void result_compare(const json_t *r, const naive *n) {
  double nll = n->nll / (double)n->tokens;
  assert_int_equal(result_integer(r, "tokens"), n->tokens);
  assert_int_equal(result_integer(r, "bytes"), n->bytes);
  near(number(r, "nll_nats"), nll, 1e-6);
  near(number(r, "ppl"), exp(nll), 1e-5);
  near(number(r, "bits_per_byte"), n->nll / log(2) / (double)n->bytes, 1e-6);
}

static int double_compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

#define EXACT "--precision fp32 --deterministic --threads 2"

static void the_program_gives_the_naive_sums(void **state) {
  (void)state;
  char *dir = tempdir_make();
  char *text = story_write(dir);
  naive all = naive_compute(story, 2048, 2048, EXACT, NULL);
  int64_t count = (int64_t)all.ids.count;
  assert_true(count > 60 && count < 200);
  assert_int_equal(all.tokens, count - 1);
  /* overlapping; side by side; one token left over; moved by all but one; longer than the text; just as long */
  const int64_t cases[][2] = {{48, 20},   {48, 48},      {count - 1, count - 1}, {count / 2, count / 2 - 1},
                              {512, 256}, {count, count}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    naive n = naive_compute(story, cases[i][0], cases[i][1], EXACT, NULL);
    json_t *r = program_json("eval ppl --model-dir " MODEL " --text %s --ctx %d --stride %d --json " EXACT,
                             text, (int)cases[i][0], (int)cases[i][1]);
    result_compare(r, &n);
    assert_int_equal(result_integer(r, "windows"), ie_perplexity_windows(count, cases[i][0], cases[i][1]));
    assert_null(json_object_get(r, "kl_mean"));
    json_decref(r);
    naive_free(&n);
  }
  /* by default one window of up to 2048 tokens: here the context */
  json_t *r = program_json("eval ppl --model-dir " MODEL " --text %s --json " EXACT, text);
  result_compare(r, &all);
  assert_int_equal(result_integer(r, "ctx"), 512);
  assert_int_equal(result_integer(r, "stride"), 256);
  json_decref(r);
  naive_free(&all);
  free(text);
  tempdir_remove(dir);
}

static void a_second_model_is_compared(void **state) {
  (void)state;
  char *dir = tempdir_make();
  char *text = story_write(dir);
  naive n = naive_compute(story, 48, 20, "--deterministic", "--deterministic --weights int4 --kv f32");
  json_t *r = program_json("eval ppl --model-dir " MODEL " --against " MODEL
                           " --against-weights int4 --against-kv f32 "
                           "--text %s --ctx 48 --stride 20 --json --deterministic",
                           text);
  result_compare(r, &n);
  double sum = 0;
  for (int64_t i = 0; i < n.tokens; i++) sum += n.kl[i];
  qsort(n.kl, (size_t)n.tokens, sizeof *n.kl, double_compare);
  near(number(r, "kl_mean"), sum / (double)n.tokens, 1e-5);
  near(number(r, "kl_p99"), n.kl[(int64_t)ceil(0.99 * (double)n.tokens) - 1], 1e-5);
  near(number(r, "top1_agreement"), (double)n.agreed / (double)n.tokens, 1e-9);
  assert_true(number(r, "kl_mean") > 1e-4 && number(r, "top1_agreement") < 1);
  json_decref(r);
  naive_free(&n);
  /* itself, and with another precision it is not itself */
  r = program_json("eval ppl --model-dir " MODEL " --against " MODEL " --text %s --ctx 32 --stride 16 --json",
                   text);
  assert_true(number(r, "kl_mean") == 0 && number(r, "kl_p99") == 0 && number(r, "top1_agreement") == 1);
  json_decref(r);
  r = program_json("eval ppl --model-dir " MODEL " --against " MODEL
                   " --against-precision fp32 --text %s --ctx 32 --stride 16 --json",
                   text);
  assert_true(number(r, "kl_mean") > 0 && number(r, "kl_mean") < 1e-2 && number(r, "top1_agreement") > 0.9);
  json_decref(r);
  free(text);
  tempdir_remove(dir);
}

/* --- What does not change the result ------------------------------------------------------------------------- */

static void same_output(const char *expected, const char *text, const char *flags) {
  program_result r =
      program_run("eval ppl --model-dir " MODEL " --against " MODEL
                  " --against-weights int8 --text %s --ctx 40 --stride 17 --json --deterministic %s",
                  text, flags);
  if (r.code != 0) fail_msg("%s: exit %d: %s", flags, r.code, r.err);
  if (strcmp(r.out, expected) != 0) fail_msg("%s: %s, expected %s", flags, r.out, expected);
  program_free(&r);
}

static void chunks_batch_threads_and_memory_change_nothing(void **state) {
  (void)state;
  char *dir = tempdir_make();
  char *text = story_write(dir);
  program_result r =
      program_run("eval ppl --model-dir " MODEL " --against " MODEL " --against-weights int8 --text %s "
                  "--ctx 40 --stride 17 --json --deterministic",
                  text);
  assert_int_equal(r.code, 0);
  same_output(r.out, text, "--batch 1 --chunk 7");
  same_output(r.out, text, "--batch 3 --chunk 64 --threads 1");
  same_output(r.out, text, "--batch 100 --chunk 1000 --threads 3");
  same_output(r.out, text, "--memory 256MiB --quiet");
  program_free(&r);
  free(text);
  tempdir_remove(dir);
}

/* --- Text ---------------------------------------------------------------------------------------------------- */

static void special_tokens_are_parsed_or_text(void **state) {
  (void)state;
  char *dir = tempdir_make();
  const char *text = tempdir_write_text(dir, "text", "A cat.\n<|endoftext|>\nA dog.\n");
  json_t *parsed = program_json("eval ppl --model-dir " MODEL " --text %s --json", text);
  json_t *plain = program_json("eval ppl --model-dir " MODEL " --text %s --json --special text", text);
  assert_true(result_integer(plain, "tokens") > result_integer(parsed, "tokens"));
  /* All bytes but those of the first token, "A". */
  assert_int_equal(result_integer(parsed, "bytes"), 27);
  assert_int_equal(result_integer(plain, "bytes"), 27);
  json_decref(parsed);
  json_decref(plain);
  tempdir_remove(dir);
}

/* A folder with the demo model and its tokenizer with `key` set to `value`. */
static char *other_tokenizer_make(const char *key, json_t *value) {
  char *dir = tempdir_make(), path[600], link[700], where[512];
  static const char *const files[] = {"config.json", "generation_config.json", "model.safetensors"};
  assert_non_null(getcwd(where, sizeof where));
  for (size_t i = 0; i < 3; i++) {
    snprintf(path, sizeof path, "%.500s/" MODEL "/%s", where, files[i]);
    snprintf(link, sizeof link, "%.500s/%s", dir, files[i]);
    assert_int_equal(symlink(path, link), 0);
  }
  json_t *root = json_load_file(MODEL "/tokenizer.json", 0, NULL);
  assert_non_null(root);
  assert_int_equal(json_object_set_new(root, key, value), 0);
  snprintf(path, sizeof path, "%.500s/tokenizer.json", dir);
  assert_int_equal(json_dump_file(root, path, 0), 0);
  json_decref(root);
  return dir;
}

static void bytes_are_those_of_the_text_before_it_is_normalised(void **state) {
  (void)state;
  char *dir = other_tokenizer_make("normalizer", json_pack("{s:s}", "type", "NFC"));
  /* e and a combining accent: three bytes, of which the tokenizer sees two */
  const char *text = tempdir_write_text(dir, "text", "A cafe\xCC\x81 was shut.");
  json_t *r = program_json("eval ppl --model-dir %s --text %s --json", dir, text);
  json_t *composed = program_json("eval ppl --model-dir " MODEL " --text %s --json",
                                  tempdir_write_text(dir, "composed", "A caf\xC3\xA9 was shut."));
  assert_int_equal(result_integer(r, "bytes"), 17); /* all but those of "A" */
  assert_int_equal(result_integer(composed, "bytes"), 16);
  assert_true(number(r, "nll_nats") == number(composed, "nll_nats"));
  json_decref(r);
  json_decref(composed);
  /* A tokenizer that cuts the text otherwise is not the model's. */
  program_expect(2, "into other tokens", "eval ppl --model-dir " MODEL " --against %s --text %s", dir, text);
  tempdir_remove(dir);
}

/* Documents each for itself: the sums of files that hold one each. The empty one and the one of a single token count
 * nothing. */
static void documents_stand_alone(void **state) {
  (void)state;
  static const char *const parts[] = {
      "Once there was a fox who lived in a wood, and he was old and grey and wise.",
      "The cat sat on the mat.\n\nThen it slept."};
  char *dir = tempdir_make(), together[1024];
  double nll = 0;
  json_int_t tokens = 0, bytes = 0, windows = 0;
  for (int i = 0; i < 2; i++) {
    json_t *r = program_json("eval ppl --model-dir " MODEL " --text %s --ctx 8 --stride 3 --json " EXACT,
                             tempdir_write_text(dir, "one", parts[i]));
    json_int_t n = json_integer_value(json_object_get(r, "tokens"));
    nll += json_number_value(json_object_get(r, "nll_nats")) * (double)n;
    tokens += n;
    bytes += json_integer_value(json_object_get(r, "bytes"));
    windows += json_integer_value(json_object_get(r, "windows"));
    json_decref(r);
  }
  snprintf(together, sizeof together, "%s\n<|endoftext|>\n<|endoftext|>\nA\n<|endoftext|>\r\n%s\n", parts[0],
           parts[1]);
  const char *text = tempdir_write_text(dir, "together", together);
  json_t *r = program_json(
      "eval ppl --model-dir " MODEL " --text %s --ctx 8 --stride 3 --documents --json " EXACT, text);
  assert_int_equal(json_integer_value(json_object_get(r, "tokens")), tokens);
  assert_int_equal(json_integer_value(json_object_get(r, "bytes")), bytes);
  assert_int_equal(json_integer_value(json_object_get(r, "windows")), windows);
  assert_true(fabs(json_number_value(json_object_get(r, "nll_nats")) * (double)tokens - nll) < 1e-4);
  json_decref(r);
  r = program_json("eval ppl --model-dir " MODEL " --against " MODEL " --text %s --documents --json " EXACT,
                   text);
  assert_true(json_number_value(json_object_get(r, "kl_mean")) == 0);
  json_decref(r);
  program_expect(1, "expected 2 or more", "eval ppl --model-dir " MODEL " --text %s --documents",
                 tempdir_write_text(dir, "none", "<|endoftext|>\n"));
  tempdir_remove(dir);
}

static void an_adapter_counts(void **state) {
  (void)state;
  static const char *const targets[] = {"q_proj"};
  static const char weight[] = "model.layers.1.self_attn.q_proj.weight";
  char *dir = tempdir_make(), flags[700];
  const ie_adapter_options options = {.r = 2, .alpha = 8, .targets = targets, .target_count = 1, .seed = 1};
  const ie_adapter_weight sized = {.name = weight, .rows = 256, .cols = 256};
  ie_adapter *adapter;
  assert_int_equal(ie_adapter_create(&options, &sized, 1, &adapter, NULL), IE_OK);
  const ie_lora *lora = ie_adapter_find(adapter, weight);
  assert_non_null(lora);
  for (int64_t i = 0; i < lora->rows * lora->r; i++) lora->b[i] = (float)(i % 7 - 3) * 0.25f;
  char *at = strdup(tempdir_path(dir, "adapter"));
  assert_int_equal(ie_adapter_write(adapter, at, NULL), IE_OK);
  ie_adapter_free(adapter);
  char *text = story_write(dir);
  snprintf(flags, sizeof flags, EXACT " --adapter %.600s", at);
  naive n = naive_compute(story, 64, 64, flags, EXACT);
  json_t *r = program_json("eval ppl --model-dir " MODEL " --against " MODEL
                           " --text %s --ctx 64 --stride 64 --json %s",
                           text, flags);
  result_compare(r, &n);
  double sum = 0;
  for (int64_t i = 0; i < n.tokens; i++) sum += n.kl[i];
  near(number(r, "kl_mean"), sum / (double)n.tokens, 1e-4);
  assert_true(sum > 0);
  json_decref(r);
  naive_free(&n);
  free(at);
  free(text);
  tempdir_remove(dir);
}

/* --- Refusals and the rest ------------------------------------------------------------------------------------- */

static void what_cannot_be_measured_is_refused(void **state) {
  (void)state;
  char *dir = tempdir_make(), *bytes = text_model_make();
  char *text = story_write(dir);
  const char *empty = tempdir_write_text(dir, "empty", "");
  const char *one = tempdir_write_text(dir, "one", "A");
  program_expect(1, "0 tokens; expected 2 or more", "eval ppl --model-dir " MODEL " --text %s --json", empty);
  program_expect(1, "1 tokens; expected 2 or more", "eval ppl --model-dir " MODEL " --text %s --json", one);
  program_expect(1, "no-such", "eval ppl --model-dir " MODEL " --text %s/no-such", dir);
  program_expect(2, "--text F is missing", "eval ppl --model-dir " MODEL);
  program_expect(2, "--model-dir D is missing", "eval ppl --text %s", text);
  program_expect(2, "more than --ctx 32", "eval ppl --model-dir " MODEL " --text %s --ctx 32 --stride 33",
                 text);
  program_expect(2, "more than --ctx 512", "eval ppl --model-dir " MODEL " --text %s --stride 513", text);
  program_expect(2, "context of " MODEL " is 512", "eval ppl --model-dir " MODEL " --text %s --ctx 513",
                 text);
  program_expect(2, "--ctx", "eval ppl --model-dir " MODEL " --text %s --ctx 1", text);
  program_expect(2, "need --against", "eval ppl --model-dir " MODEL " --text %s --against-kv f32", text);
  program_expect(1, "no tokenizer", "eval ppl --model-dir " SMALL_MODEL " --text %s", text);
  program_expect(2, "258 tokens, the model's has 4096",
                 "eval ppl --model-dir " MODEL " --against %s --text %s", bytes, text);
  program_expect(2, "vocabulary is 259, the model's is 4096",
                 "eval ppl --model-dir " MODEL " --against " SMALL_MODEL " --text %s", text);
  program_expect(1, "are needed", "eval ppl --model-dir " MODEL " --text %s --memory 1KiB", text);
  program_expect(1, "both models",
                 "eval ppl --model-dir " MODEL " --against " MODEL " --text %s --memory 1KiB", text);
  program_expect(2, "expected one of", "eval");
  program_expect(0, NULL, "eval ppl --help");
  free(text);
  tempdir_remove(dir);
  tempdir_remove(bytes);
}

static void it_prints_for_people_too(void **state) {
  (void)state;
  char *dir = tempdir_make();
  char *text = story_write(dir);
  program_result r = program_run("eval ppl --model-dir " MODEL " --text %s --against " MODEL, text);
  assert_int_equal(r.code, 0);
  assert_non_null(strstr(r.out, "perplexity "));
  assert_non_null(strstr(r.out, "same top token  100.0000%"));
  assert_non_null(strstr(r.err, "tok/s"));
  program_free(&r);
  r = program_run("eval ppl --model-dir " MODEL " --text %s --json --quiet", text);
  assert_int_equal(r.code, 0);
  assert_string_equal(r.err, "");
  program_free(&r);
  free(text);
  tempdir_remove(dir);
}

static void an_interrupt_ends_it(void **state) {
  (void)state;
  enum { TIMES = 4000 };
  char *dir = tempdir_make(), *text = calloc(TIMES, sizeof story);
  assert_non_null(text);
  for (size_t i = 0; i < TIMES; i++) memcpy(text + i * (sizeof story - 1), story, sizeof story - 1);
  program_child child = program_start("eval ppl --model-dir " MODEL " --text %s --json",
                                      tempdir_write(dir, "text", text, TIMES * (sizeof story - 1)));
  char c;
  assert_int_equal(read(child.err, &c, 1), 1); /* the first line of progress */
  kill(child.pid, SIGINT);
  alarm(60);
  program_result r = program_end(&child);
  alarm(0);
  assert_int_equal(r.code, 130);
  assert_int_equal(r.out_size, 0);
  program_free(&r);
  free(text);
  tempdir_remove(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(windows_are_those_of_the_guide),
      cmocka_unit_test(the_program_gives_the_naive_sums),
      cmocka_unit_test(documents_stand_alone),
      cmocka_unit_test(a_second_model_is_compared),
      cmocka_unit_test(chunks_batch_threads_and_memory_change_nothing),
      cmocka_unit_test(special_tokens_are_parsed_or_text),
      cmocka_unit_test(bytes_are_those_of_the_text_before_it_is_normalised),
      cmocka_unit_test(an_adapter_counts),
      cmocka_unit_test(what_cannot_be_measured_is_refused),
      cmocka_unit_test(it_prints_for_people_too),
      cmocka_unit_test(an_interrupt_ends_it),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
