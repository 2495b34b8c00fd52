/* The n-th allocation fails, for n = 1, 2, ... until all succeed: no crash, no leak (under AddressSanitizer), and an
 * error that says so. A new case is a function that builds something from nothing and releases it, and a line in
 * `cases`. */
#include "support/failing_malloc.h"

#include "base/buf.h"
#include "clocher/generate.h"
#include "clocher/model.h"
#include "clocher/tensor.h"
#include "clocher/text.h"
#include "clocher/tokenizer_train.h"
#include "eval/synth.h"
#include "formats/checkpoint.h"
#include "models/adapter.h"
#include "support/tempdir.h"
#include "support/torch_file.h"
#include "train/clip.h"
#include "train/data.h"
#include "train/export.h"
#include "train/optimiser.h"
#include "train/snapshot.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* What the cases read, made once with all memory there. */
typedef struct fixture {
  char *dir;
  char single[512], sharded[512], numbered[512], iebin[512], torch[512], nothing[512], out[512],
      tokenizer[512], text[512], rows[512];
} fixture;

/* ---- formats ---- */

static ie_status open_and_look(const char *dir, size_t tensors, ie_error *error) {
  ie_checkpoint *c;
  ie_status status = ie_checkpoint_open(dir, &c, error);
  if (status != IE_OK) return c ? IE_INTERNAL : status;
  bool whole = ie_checkpoint_count(c) == tensors && ie_checkpoint_find(c, "a");
  ie_checkpoint_free(c);
  return whole ? IE_OK : ie_error_set(error, IE_INTERNAL, "opened, but tensors are missing");
}

static ie_status run_single(void *arg, ie_error *error) {
  return open_and_look(((fixture *)arg)->single, 2, error);
}
static ie_status run_sharded(void *arg, ie_error *error) {
  return open_and_look(((fixture *)arg)->sharded, 3, error);
}
static ie_status run_numbered(void *arg, ie_error *error) {
  return open_and_look(((fixture *)arg)->numbered, 2, error);
}
static ie_status run_iebin(void *arg, ie_error *error) {
  return open_and_look(((fixture *)arg)->iebin, 1, error);
}

static ie_status run_iebin_named(void *arg, ie_error *error) {
  const fixture *f = arg;
  ie_checkpoint *c;
  char json[600], bin[600];
  snprintf(json, sizeof json, "%s/model.ie.json", f->iebin);
  snprintf(bin, sizeof bin, "%s/model.ie.bin", f->iebin);
  ie_status status = ie_checkpoint_open_iebin(f->dir, json, bin, &c, error);
  if (status != IE_OK) return status;
  size_t count = ie_checkpoint_count(c);
  ie_checkpoint_free(c);
  return count == 1 ? IE_OK : ie_error_set(error, IE_INTERNAL, "expected one tensor, found %zu", count);
}

/* Views that lie there, one that is copied, two shards. */
static ie_status run_torch(void *arg, ie_error *error) {
  return open_and_look(((fixture *)arg)->torch, 4, error);
}

static ie_status run_path(void *arg, ie_error *error) {
  ie_checkpoint *c;
  ie_status status = ie_checkpoint_open(((fixture *)arg)->iebin, &c, error);
  if (status != IE_OK) return status;
  char *path;
  status = ie_checkpoint_path(c, "config.json", &path, error);
  bool found = path != NULL;
  free(path);
  ie_checkpoint_free(c);
  return status != IE_OK || found ? status : ie_error_set(error, IE_INTERNAL, "config.json was not found");
}

/* A folder without weights is refused, not mistaken for a machine without memory, and the other way round. */
static ie_status run_nothing(void *arg, ie_error *error) {
  ie_checkpoint *c;
  ie_status status = ie_checkpoint_open(((fixture *)arg)->nothing, &c, error);
  return status == IE_IO && strstr(error->message, "no weights") ? IE_OK : status;
}

static ie_status run_present(void *arg, ie_error *error) {
  const fixture *f = arg;
  const char *const dirs[] = {"tests", f->nothing, f->numbered, f->iebin};
  for (int i = 0; i < 4; i++) {
    bool present;
    ie_status status = ie_checkpoint_present(dirs[i], &present, error);
    if (status != IE_OK) return status;
    if (present != (i > 0)) return ie_error_set(error, IE_INTERNAL, "%s: %d", dirs[i], present);
  }
  return IE_OK;
}

static ie_status run_tensor_file(void *arg, ie_error *error) {
  static const float data[4] = {1, 2, 3, 4};
  const ie_tensor_out out[] = {{"w", IE_F32, 2, {2, 2}, data}, {"b", IE_U8, 1, {3}, data}};
  const char *path = ((fixture *)arg)->out;
  ie_tensor_file *file;
  ie_status status = ie_tensor_file_write(path, out, 2, error);
  if (status == IE_OK) status = ie_tensor_file_open(path, &file, error);
  if (status != IE_OK) return status;
  bool same = ie_tensor_file_count(file) == 2 && memcmp(ie_tensor_file_get(file, "w")->data, data, 16) == 0;
  ie_tensor_file_free(file);
  return same ? IE_OK : ie_error_set(error, IE_INTERNAL, "read back, but not what was written");
}

/* A thread that cannot be started is done without. */
static ie_status run_synth(void *arg, ie_error *error) {
  static const synth_model model = {"tiny", "llama", 1, 32, 32, 64, 4, 2, 8, 0, 5000, 0};
  char dir[600];
  snprintf(dir, sizeof dir, "%s.synth", ((fixture *)arg)->out);
  const ie_synth_options options = {.dir = dir, .threads = 3};
  synth_plan plan;
  ie_status status = ie_synth_plan_build(&model, false, &plan, error);
  if (status == IE_OK) status = ie_synth_plan_write(&plan, &options, error);
  ie_synth_plan_free(&plan);
  return status;
}

/* ---- writers ---- */

/* A model of two parameters, one in MXFP4, cut into shards, over the one before. */
static ie_status run_export(void *arg, ie_error *error) {
  static float values[64] = {1, -2};
  char dir[600], first[] = "first", experts[] = "experts";
  snprintf(dir, sizeof dir, "%s.export", ((fixture *)arg)->out);
  ie_param a = {.name = first,
                .rank = 2,
                .shape = {4, 16},
                .count = 64,
                .value = values,
                .store = {.tensor = first, .dtype = IE_BF16, .swapped = true}};
  ie_param b = {.name = experts,
                .rank = 3,
                .shape = {1, 2, 32},
                .count = 64,
                .value = values,
                .store = {.tensor = experts, .dtype = IE_U8, .blocks = "_blocks", .scales = "_scales"}};
  ie_param *items[] = {&a, &b};
  const ie_param_list params = {.item = items, .count = 2, .capacity = 2};
  const ie_export_options options = {
      .dir = dir, .source = ((fixture *)arg)->single, .config = "{}", .shard_bytes = 60};
  return ie_export_model(&params, &options, error);
}

static ie_status run_snapshot(void *arg, ie_error *error) {
  static uint8_t m[8];
  char dir[600];
  snprintf(dir, sizeof dir, "%s.snapshots", ((fixture *)arg)->out);
  const ie_state_tensor tensor = {.name = "m", .dtype = IE_U8, .rank = 1, .shape = {8}, .data = m};
  json_t *state = json_pack("{s:i}", "step", 1);
  char *path = NULL;
  ie_status status = state ? IE_OK : ie_error_set(error, IE_OUT_OF_MEMORY, "the test's own");
  for (int64_t step = 1; status == IE_OK && step <= 3; step++) {
    const ie_snapshot snapshot = {
        .dir = dir, .step = step, .keep = 1, .tensors = &tensor, .count = 1, .state = state};
    status = ie_snapshot_save(&snapshot, error);
    if (status == IE_OK) status = ie_snapshot_rotate(&snapshot, error);
  }
  json_decref(state);
  state = NULL;
  if (status == IE_OK) status = ie_snapshot_newest(dir, &path, error);
  if (status == IE_OK && !path) status = ie_error_set(error, IE_INTERNAL, "there is no snapshot");
  if (status == IE_OK) status = ie_snapshot_state(path, &state, error);
  json_decref(state);
  state = NULL;
  if (status == IE_OK) status = ie_snapshot_load(path, &tensor, 1, &state, error);
  json_decref(state);
  free(path);
  return status;
}

/* An adapter made, written, read and merged. */
static ie_status run_adapter(void *arg, ie_error *error) {
  static const ie_adapter_weight weights[] = {
      {"gpt_neox.layers.0.attention.dense.weight", 0, 0, false}, /* sizes: see below */
      {"gpt_neox.layers.1.attention.dense.weight", 0, 0, false},
  };
  static const char model[] = "tests/data/models/gpt-neox-sequential";
  static const char *const targets[] = {"dense"};
  char dir[600], out[600];
  snprintf(dir, sizeof dir, "%s.adapter", ((fixture *)arg)->out);
  snprintf(out, sizeof out, "%s.merged", ((fixture *)arg)->out);
  ie_tensor_file *file;
  ie_status status =
      ie_tensor_file_open("tests/data/models/gpt-neox-sequential/model.safetensors", &file, error);
  if (status != IE_OK) return status;
  ie_adapter_weight sized[2];
  for (int i = 0; i < 2; i++) {
    const ie_tensor_info *t = ie_tensor_file_get(file, weights[i].name);
    sized[i] = (ie_adapter_weight){.name = weights[i].name, .rows = t->shape[0], .cols = t->shape[1]};
  }
  ie_tensor_file_free(file);
  const ie_adapter_options options = {.r = 2, .alpha = 2.5, .targets = targets, .target_count = 1};
  ie_adapter *adapter;
  status = ie_adapter_create(&options, sized, 2, &adapter, error);
  if (status == IE_OK) status = ie_adapter_write(adapter, dir, error);
  ie_adapter_free(adapter);
  if (status == IE_OK)
    status = ie_adapter_merge(&(ie_adapter_merge_options){.model_dir = model, .adapter_dir = dir, .out = out},
                              error);
  return status;
}

/* Expressions of PCRE2 in a config. */
static ie_status run_adapter_config(void *arg, ie_error *error) {
  static const char text[] = "{\"target_modules\":\".*q_(proj|x)\",\"rank_pattern\":{\"k\":2,\"q_.*\":3}}";
  (void)arg;
  ie_adapter_config config;
  ie_adapter_rank rank = {0};
  bool matches = false;
  ie_status status = ie_adapter_config_parse(text, strlen(text), "config", &config, error);
  if (status == IE_OK) status = ie_adapter_config_matches(&config, "a.q_proj", &matches, error);
  if (status == IE_OK) status = ie_adapter_config_rank(&config, "a.q_proj", &rank, error);
  ie_adapter_config_free(&config);
  if (status == IE_OK && (!matches || rank.r != 3))
    status = ie_error_set(error, IE_INTERNAL, "r is %d", (int)rank.r);
  return status;
}

/* ---- text ---- */

/* Bytes to ids and back, with an added token, by a pattern that PCRE2 runs. */
static ie_status run_tokenizer(void *arg, ie_error *error) {
  static const char text[] = "abab abba<|end|>caf\xC3\xA9 12345";
  ie_tokenizer *tokenizer;
  ie_ids ids = {0};
  ie_bytes bytes = {0};
  ie_status status = ie_tokenizer_open(((fixture *)arg)->tokenizer, NULL, &tokenizer, error);
  if (status != IE_OK) return status;
  status = ie_tokenizer_encode(tokenizer, text, strlen(text), NULL, &ids, error);
  if (status == IE_OK) status = ie_tokenizer_decode(tokenizer, ids.ids, ids.count, false, &bytes, error);
  if (status == IE_OK && (bytes.size != strlen(text) || memcmp(bytes.data, text, bytes.size) != 0))
    status = ie_error_set(error, IE_INTERNAL, "decoded to something else");
  ie_bytes_free(&bytes);
  ie_ids_free(&ids);
  ie_tokenizer_free(tokenizer);
  return status;
}

/* ---- the engine ---- */

/* A model opened and run: prompt in two chunks, tokens, a rollback, a state that is saved and restored. */
static ie_status model_run(const fixture *f, const char *dir, ie_error *error) {
  static const int32_t prompt[] = {1, 5, 9, 2, 4, 7};
  const ie_device_options cpu = {.kind = "cpu", .isa = "scalar", .threads = 2};
  const ie_state_options small = {.context_tok = 64, .chunk_tok = 4, .rollback_tok = 16};
  const ie_generate_options generate = {.prompt = prompt,
                                        .prompt_count = 6,
                                        .max_new = 2,
                                        .sample = {.greedy = true},
                                        .ignore_eos = true,
                                        .logprobs = 2};
  ie_device *device = NULL;
  ie_model *model = NULL;
  ie_state *state = NULL;
  ie_generate_result result = {0};
  ie_status status = ie_device_open(&cpu, &device, error);
  if (status == IE_OK) status = ie_model_open(device, dir, NULL, &model, error);
  if (status == IE_OK) status = ie_state_new(model, &small, &state, error);
  if (status == IE_OK) status = ie_generate(state, 0, &generate, &result, error);
  if (status == IE_OK && result.ids.count != 2)
    status = ie_error_set(error, IE_INTERNAL, "not the ids asked for");
  if (status == IE_OK) status = ie_state_save(state, 0, f->out, error);
  if (status == IE_OK) status = ie_state_rollback(state, 0, 3, error);
  if (status == IE_OK) status = ie_state_load(state, 0, f->out, error);
  ie_generate_result_free(&result);
  ie_state_free(state);
  ie_model_free(model);
  ie_device_free(device);
  return status;
}

static ie_status run_hf(void *arg, ie_error *error) {
  return model_run(arg, "tests/data/models/gpt-oss-hf", error);
}
static ie_status run_bf16(void *arg, ie_error *error) {
  return model_run(arg, "tests/data/models/gpt-oss-bf16", error); /* experts are transposed at load */
}

static ie_status run_native(void *arg, ie_error *error) {
  return model_run(arg, "tests/data/models/nanochat-native", error);
}

static ie_status run_inspect(void *arg, ie_error *error) {
  ie_inspection *inspection;
  (void)arg;
  ie_status status = ie_inspect_open("tests/data/models/gpt-oss-original", &inspection, error);
  if (status == IE_OK) ie_inspect_free(inspection);
  return status;
}

/* One committed tokenizer, encoded with offsets. */
static ie_status tokenizer_spans(const char *path, const ie_tokenizer_options *options, ie_error *error) {
  static const char text[] = "word <n> the\xC3\xA9 e\xCC\x81 12345  <mask> <s>\xFF <|im_start|>";
  const ie_encode_options how = {.add_special = true};
  ie_tokenizer *tokenizer;
  ie_ids ids = {0};
  ie_span *spans = NULL;
  ie_status status = ie_tokenizer_open(path, options, &tokenizer, error);
  if (status != IE_OK) return tokenizer ? IE_INTERNAL : status;
  status = ie_tokenizer_encode_spans(tokenizer, text, strlen(text), &how, &ids, &spans, error);
  if (status == IE_OK && (ids.count < 5 || !spans))
    status = ie_error_set(error, IE_INTERNAL, "encoded to almost nothing");
  free(spans);
  ie_ids_free(&ids);
  ie_tokenizer_free(tokenizer);
  return status;
}

static ie_status run_tokenizer_normalized(void *arg, ie_error *error) {
  (void)arg;
  return tokenizer_spans("tests/data/text/flags.tokenizer.json", NULL, error);
}
static ie_status run_tokenizer_template(void *arg, ie_error *error) {
  (void)arg;
  return tokenizer_spans("tests/data/text/template.tokenizer.json", NULL, error);
}
static ie_status run_tokenizer_ranks(void *arg, ie_error *error) {
  (void)arg;
  return tokenizer_spans("tests/data/text/nanochat_500.tiktoken",
                         &(ie_tokenizer_options){.encoding = "nanochat"}, error);
}
static ie_status run_tokenizer_pickle(void *arg, ie_error *error) {
  (void)arg;
  return tokenizer_spans("tests/data/text/nanochat_500.pkl", NULL, error);
}
static ie_status run_tokenizer_ietok(void *arg, ie_error *error) {
  (void)arg;
  return tokenizer_spans("tests/data/text/o200k_600.ie.bin",
                         &(ie_tokenizer_options){.encoding = "o200k_harmony"}, error);
}

/* ---- training ---- */

/* Parameters of all kinds of optimiser, one step, the norm of their gradients. */
static ie_status run_optimiser(void *arg, ie_error *error) {
  (void)arg;
  static real value[8192], grad[8192];
  ie_param matrix = {.name = "q_proj.weight", .rank = 2, .shape = {64, 128}, .count = 8192},
           vector = {.name = "norm.weight", .rank = 1, .shape = {77}, .count = 77}, large = matrix;
  ie_param *list[] = {&matrix, &vector, &large};
  for (int i = 0; i < 3; i++) list[i]->value = value, list[i]->grad = grad;
  ie_optimiser_group groups[] = {ie_optimiser_group_default(IE_OPTIMISER_MUON),
                                 ie_optimiser_group_default(IE_OPTIMISER_ADAMW8BIT)};
  groups[0].param = list, groups[0].count = 2;
  groups[1].param = list + 2, groups[1].count = 1;
  const ie_device_options cpu = {.kind = "cpu", .isa = "scalar", .threads = 2};
  ie_device *device = NULL;
  ie_optimiser *optimiser = NULL;
  double norm = 0;
  ie_status status = ie_device_open(&cpu, &device, error);
  if (status == IE_OK) status = ie_optimiser_new(device, groups, 2, &optimiser, error);
  if (status == IE_OK) ie_optimiser_step(optimiser, &(ie_step){.rate = 0.01, .number = 1});
  if (status == IE_OK) status = ie_grad_norm(device, list, 3, &norm, error);
  ie_optimiser_free(optimiser);
  ie_device_free(device);
  return status;
}

static ie_status run_tokenizer_train(void *arg, ie_error *error) {
  static const char *const specials[] = {"<|end|>", "ab"};
  const fixture *f = arg;
  char dir[600];
  snprintf(dir, sizeof dir, "%s.trained", f->out);
  const ie_tokenizer_train_options options = {
      .text = f->text, .dir = dir, .vocab = 270, .specials = specials, .special_count = 2, .threads = 2};
  ie_tokenizer_train_result result;
  ie_status status = ie_tokenizer_train(&options, &result, error);
  if (status != IE_OK || result.merges > 4) return status;
  return ie_error_set(error, IE_INTERNAL, "trained to almost nothing");
}

/* The source is tokenised anew each time: the file of the time before is removed. */
static ie_status data_run(const fixture *f, const char *path, ie_error *error) {
  ie_data *data;
  ie_tokenizer *tokenizer;
  ie_data_batch batch;
  ie_status status = ie_tokenizer_open(f->tokenizer, NULL, &tokenizer, error);
  if (status != IE_OK) return status;
  const ie_data_options options = {.path = path,
                                   .tokenizer = tokenizer,
                                   .end_token = "<|end|>",
                                   .threads = 2,
                                   .layout = IE_DATA_PACKED,
                                   .rows = 2,
                                   .length = 3,
                                   .piece_tok = 4};
  status = ie_data_open(&options, &data, error);
  if (status == IE_OK) {
    status = ie_data_next(data, &batch, error);
    if (batch.rows != 2) status = ie_error_set(error, IE_INTERNAL, "expected two rows");
    unlink(ie_data_get_info(data).id_file);
    ie_data_free(data);
  }
  ie_tokenizer_free(tokenizer);
  return status;
}

static ie_status run_data_text(void *arg, ie_error *error) {
  return data_run(arg, ((fixture *)arg)->text, error);
}
static ie_status run_data_rows(void *arg, ie_error *error) {
  return data_run(arg, ((fixture *)arg)->rows, error);
}

static const failing_case cases[] = {
    {.name = "checkpoint: one file", .run = run_single},
    {.name = "checkpoint: shards with an index", .run = run_sharded},
    {.name = "checkpoint: numbered shards", .run = run_numbered},
    {.name = "checkpoint: IEBIN", .run = run_iebin},
    {.name = "checkpoint: IEBIN, files named", .run = run_iebin_named},
    {.name = "checkpoint: PyTorch's files", .run = run_torch},
    {.name = "checkpoint: where config.json lies", .run = run_path},
    {.name = "checkpoint: present", .run = run_present},
    {.name = "checkpoint: no weights", .run = run_nothing, .tolerant = true}, /* the list may be shorter */
    {.name = "tensor file: write and read",
     .run = run_tensor_file,
     .tolerant = true},                                      /* the folder's flush */
    {.name = "export", .run = run_export, .tolerant = true}, /* flushes of folders */
    {.name = "snapshots", .run = run_snapshot, .tolerant = true},
    {.name = "adapter: made, written, read, merged", .run = run_adapter, .tolerant = true},
    {.name = "adapter: expressions", .run = run_adapter_config},
    {.name = "tokenizer: open, encode, decode",
     .run = run_tokenizer,
     .tolerant = true}, /* PCRE2's fast path */
    {.name = "tokenizer: normal forms, added tokens, offsets", .run = run_tokenizer_normalized},
    {.name = "tokenizer: template", .run = run_tokenizer_template},
    {.name = "tokenizer: rank file", .run = run_tokenizer_ranks},
    {.name = "tokenizer: pickle", .run = run_tokenizer_pickle},
    {.name = "tokenizer: IETOK1", .run = run_tokenizer_ietok},
    {.name = "model: load, prompt, tokens, save, restore (hf)",
     .run = run_hf,
     .tolerant = true}, /* threads */
    {.name = "model: load, prompt, tokens, save, restore (bf16)", .run = run_bf16, .tolerant = true},
    {.name = "model: load, prompt, tokens, save, restore (native)", .run = run_native, .tolerant = true},
    {.name = "optimiser: states, a step, the norm", .run = run_optimiser, .tolerant = true}, /* threads */
    {.name = "inspect", .run = run_inspect, .tolerant = true},
    {.name = "synth", .run = run_synth, .tolerant = true},
    {.name = "train: tokenizer", .run = run_tokenizer_train, .tolerant = true}, /* the folder's flush */
    {.name = "train: data of a text", .run = run_data_text, .tolerant = true},
    {.name = "train: data of rows", .run = run_data_rows, .tolerant = true},
};

enum { CASES = sizeof cases / sizeof cases[0] };

static void exhaust(void **state) {
  const struct {
    const failing_case *c;
    fixture *f;
  } *one = *state;
  failing_malloc_exhaust(one->c, one->f);
}

/* ---- what the cases read ---- */

static void tensors_write(const char *dir, const char *file, const char *first, const char *second) {
  static const uint8_t one = 1;
  const ie_tensor_out out[] = {{first, IE_U8, 1, {1}, &one}, {second, IE_U8, 1, {1}, &one}};
  const char *path = tempdir_write(dir, file, "", 0);
  ie_error error;
  assert_int_equal(ie_tensor_file_write(path, out, second ? 2 : 1, &error), IE_OK);
}

/* A byte-level tokenizer.json: all bytes, three merges, one special token. */
static void tokenizer_write(const char *dir) {
  ie_buf text = {0};
  ie_buf_append_str(
      &text, "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":259,\"content\":\"<|end|>\",\"special\":true,"
             "\"lstrip\":false,\"rstrip\":false,\"single_word\":false,\"normalized\":false}],"
             "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
             "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{L}+|\\\\p{N}{1,3}|(?!x)[^y]\"},"
             "\"behavior\":\"Isolated\",\"invert\":false},"
             "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
             "\"use_regex\":false}]},\"post_processor\":null,"
             "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{");
  int other = 0; /* bytes that are no printable Latin-1 stand at U+0100 and up, in order */
  for (int i = 0; i < 256; i++) {
    bool printable = (i >= '!' && i <= '~') || (i >= 0xA1 && i <= 0xAC) || i >= 0xAE;
    ie_buf_printf(&text, "\"\\u%04x\":%d,", printable ? i : 256 + other, i);
    other += !printable;
  }
  ie_buf_append_str(&text, "\"ab\":256,\"ba\":257,\"abab\":258},\"merges\":[\"a b\",\"b a\",\"ab ab\"]}}");
  assert_false(text.failed);
  tempdir_write(dir, "tokenizer.json", text.data, text.size);
  ie_buf_free(&text);
}

static void torch_write(const char *dir, const char *file, const char *first, const char *second) {
  static const uint8_t four[4] = {1, 2, 3, 4};
  const torch_view views[] = {{first, "ByteStorage", "0", 4, 0, 2, {2, 2}, {2, 1}, true},
                              {second, "ByteStorage", "0", 4, 0, 2, {2, 2}, {1, 2}, false}};
  zip_writer zip = {0};
  ie_buf pickle = {0};
  pickle_views(&pickle, views, 2);
  torch_archive(&zip, &pickle, &(torch_storage){"0", four, 4}, 1);
  tempdir_write(dir, file, zip.bytes.data, zip.bytes.size);
  ie_buf_free(&pickle);
  zip_free(&zip);
}

static void fixture_make(fixture *f) {
  f->dir = tempdir_make();
  snprintf(f->single, sizeof f->single, "%s/single", f->dir);
  snprintf(f->sharded, sizeof f->sharded, "%s/sharded", f->dir);
  snprintf(f->numbered, sizeof f->numbered, "%s/numbered", f->dir);
  snprintf(f->iebin, sizeof f->iebin, "%s/iebin", f->dir);
  snprintf(f->torch, sizeof f->torch, "%s/torch", f->dir);
  snprintf(f->nothing, sizeof f->nothing, "%s/nothing", f->dir);
  snprintf(f->out, sizeof f->out, "%s/out", f->dir);
  snprintf(f->tokenizer, sizeof f->tokenizer, "%s/tokenizer.json", f->dir);
  snprintf(f->text, sizeof f->text, "%s/text.txt", f->dir);
  snprintf(f->rows, sizeof f->rows, "%s/rows.jsonl", f->dir);
  tempdir_write_text(f->dir, "text.txt", "abab abba\n<|endoftext|>\nab ab cab\n");
  tempdir_write_text(f->dir, "rows.jsonl",
                     "{\"text\":\"abab\"}\n{\"prompt\":\"ab\",\"completion\":\" ba\"}\n");
  tokenizer_write(f->dir);
  tensors_write(f->dir, "single/hf/original/model.safetensors", "a",
                "b"); /* the third folder that is looked at */
  tensors_write(f->dir, "sharded/x-1.safetensors", "a", "b");
  tensors_write(f->dir, "sharded/x-2.safetensors", "c", NULL);
  tempdir_write_text(f->dir, "sharded/model.safetensors.index.json",
                     "{\"weight_map\":{\"a\":\"x-1.safetensors\",\"c\":\"x-2.safetensors\"}}");
  tensors_write(f->dir, "numbered/model-00001-of-00002.safetensors", "a", NULL);
  tensors_write(f->dir, "numbered/model-00002-of-00002.safetensors", "b", NULL);
  tempdir_write(f->dir, "iebin/model.ie.bin", "x", 1);
  tempdir_write_text(f->dir, "iebin/model.ie.json",
                     "{\"tensors\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[1],\"offset\":0}]}");
  tempdir_write_text(f->dir, "iebin/config.json", "{}");
  torch_write(f->dir, "torch/pytorch_model-00001-of-00002.bin", "a", "b");
  torch_write(f->dir, "torch/pytorch_model-00002-of-00002.bin", "c", "d");
  tempdir_write_text(f->dir, "nothing/model.gguf", "");
}

int main(void) {
  failing_malloc_install();
  fixture f;
  fixture_make(&f);
  struct {
    const failing_case *c;
    fixture *f;
  } states[CASES];
  struct CMUnitTest tests[CASES];
  for (size_t i = 0; i < CASES; i++) {
    states[i].c = &cases[i];
    states[i].f = &f;
    tests[i] = (struct CMUnitTest){.name = cases[i].name, .test_func = exhaust, .initial_state = &states[i]};
  }
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  tempdir_remove(f.dir);
  failing_malloc_uninstall();
  return failed;
}
