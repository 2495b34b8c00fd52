/* Flags and variables, checked and put together. A flag counts before its variable. */
#include "inference_engine.h"
#include "out.h"
#include "sampling_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* --- Numbers and words of the environment --------------------------------------------------------------------- */

/* The integer of a variable in [min, max]; `otherwise` when it is not set, or after a warning. */
static int64_t env_int(const cli_context *context, const char *name, int64_t min, int64_t max,
                       int64_t otherwise) {
  const char *text = infer_env(context, name);
  int64_t value;
  if (!text) return otherwise;
  if (cli_parse_int(text, min, max, &value)) return value;
  infer_warn(context, "%s is ignored: expected an integer from %lld to %lld, found '%s'", name,
             (long long)min, (long long)max, text);
  return otherwise;
}

static double env_float(const cli_context *context, const char *name, double min, double max,
                        double otherwise) {
  const char *text = infer_env(context, name);
  double value;
  if (!text) return otherwise;
  if (cli_parse_float(text, min, max, &value)) return value;
  infer_warn(context, "%s is ignored: expected a number from %g to %g, found '%s'", name, min, max, text);
  return otherwise;
}

static uint64_t env_size(const cli_context *context, const char *name, uint64_t otherwise) {
  const char *text = infer_env(context, name);
  uint64_t value;
  if (!text) return otherwise;
  if (cli_parse_size(text, &value) && value <= INT64_MAX) return value;
  infer_warn(context, "%s is ignored: expected bytes, at most %lld, found '%s'", name, (long long)INT64_MAX,
             text);
  return otherwise;
}

/* The flag's value, else that of the first of two variables that is set (second: may be NULL). */
static const char *word_choose(const cli_context *context, const char *flag, const char *first,
                               const char *second) {
  const char *value = flag ? flag : infer_env(context, first);
  return value || !second ? value : infer_env(context, second);
}

static int64_t int_choose(const cli_context *context, const char *flag, int64_t value, const char *name,
                          int64_t max) {
  return cli_given(context, flag) ? value : env_int(context, name, 0, max, value);
}

static bool list_has(const char *const *list, const char *word) {
  for (; *list; list++)
    if (!strcmp(*list, word)) return true;
  return false;
}

/* --- Precision, device, and what does nothing ------------------------------------------------------------------ */

static int precision_set(cli_context *context, infer_setup *s) {
  static const struct {
    const char *label;
    int precision;
  } labels[] = {{"fp32", CLI_FP32},  {"bf16", CLI_BF16}, {"fp16", CLI_FP16},
                {"int8w", CLI_FP32}, {"int4", CLI_FP32}, {"int4w", CLI_FP32}};
  const char *word = word_choose(context, s->flags->precision, "IE_PRECISION", "PRECISION");
  s->label = "fp32";
  context->common.precision = CLI_FP32;
  if (!word) return -1;
  for (size_t i = 0; i < sizeof labels / sizeof *labels; i++)
    if (!strcasecmp(word, labels[i].label)) {
      s->label = labels[i].label;
      context->common.precision = labels[i].precision;
      return -1;
    }
  return cli_usage(context, "unknown precision '%s'", word);
}

/* What this program was not built for is said to do nothing. */
static int device_check(cli_context *context, const infer_setup *s) {
  static const char *const devices[] = {"auto", "cpu", "cuda", "ze", NULL};
  const char *flag = s->flags->device;
  context->common.device = "auto";
  if (flag && !list_has(devices, flag) && !cli_device_is_cuda(flag))
    return cli_usage(context, "unknown device '%s' (expected auto|cpu|cuda|ze)", flag);
  const char *word = flag && strcmp(flag, "auto") != 0 ? flag : NULL;
  const char *asked = word_choose(context, word, "DEVICE", "IE_DEVICE");
  bool cuda = asked && cli_device_is_cuda(asked);
  if (asked && (!strcmp(asked, "cpu") || (cuda && ie_device_cuda_built())))
    context->common.device = asked;
  else if (asked && strcmp(asked, "auto") != 0 && ie_device_cuda_built())
    infer_warn(context, "device %s is ignored: this program was built for the CPU and CUDA", asked);
  else if (asked && strcmp(asked, "auto") != 0)
    infer_warn(context, "device %s is ignored: this program was built for the CPU alone", asked);
  return -1;
}

static int idle_check(cli_context *context, const infer_setup *s) {
  static const char *const scopes[] = {"none", "woh", "wxh", "all", NULL};
  static const char *const sparsities[] = {"none", "dense", "block", "blocksparse", "auto", NULL};
  const infer_flags *f = s->flags;
  if (f->pretranspose && !list_has(scopes, f->pretranspose))
    return cli_usage(context, "unknown pretranspose '%s'", f->pretranspose);
  if (f->pretranspose && strcmp(f->pretranspose, "none") != 0)
    infer_warn(context, "--pretranspose %s is ignored: weights are computed where they lie", f->pretranspose);
  if (f->prefetch && strcmp(f->prefetch, "auto") != 0)
    infer_warn(context, "--prefetch %s is ignored: each kernel has the prefetch that measured best",
               f->prefetch);
  const char *sparsity = word_choose(context, f->sparsity, "IE_SPARSITY", "SPARSITY");
  if (sparsity && !list_has(sparsities, sparsity))
    return cli_usage(context, "unknown sparsity '%s' (expected none|block|auto)", sparsity);
  if (sparsity && strcmp(sparsity, "none") != 0 && strcmp(sparsity, "dense") != 0)
    infer_warn(context, "sparsity %s is ignored: all weights are dense", sparsity);
  return -1;
}

/* Threads and where they run. */
static void threads_set(cli_context *context, const infer_setup *s) {
  static const char *const names[] = {"IE_KERNEL_THREADS", "IE_THREADS", "IE_BF16_THREADS"};
  int64_t threads = s->flags->threads;
  for (size_t i = 0; i < 3 && threads <= 0; i++) threads = env_int(context, names[i], 0, 1024, 0);
  context->common.threads = threads > 0 ? threads : 0;
  const char *word = word_choose(context, s->flags->affinity, "AFFINITY", NULL);
  if (!word) word = infer_env_on(context, "IE_TP_USE_AFFINITY") ? "compact" : "auto";
  for (int i = 0; cli_affinities[i]; i++)
    if (!strcmp(word, cli_affinities[i])) {
      context->common.affinity = i;
      return;
    }
  infer_warn(context, "affinity '%s' is ignored: expected auto, none, compact or scatter", word);
}

/* --- Sampling --------------------------------------------------------------------------------------------------- */

/* Defaults of the documents: temperature 0.8, top-p 0.95, seed 1 (0 counts as 1). IE_SAMPLE_KIND=topk leaves top-p
 * out, topp leaves top-k out, unless the flag is there. */
static int sample_set(cli_context *context, infer_setup *s) {
  static const char *const kinds[] = {"greedy", "topk", "topp", NULL};
  const infer_flags *f = s->flags;
  const char *kind = infer_env(context, "IE_SAMPLE_KIND");
  if (kind && !list_has(kinds, kind)) {
    infer_warn(context, "IE_SAMPLE_KIND is ignored: expected greedy, topk or topp, found '%s'", kind);
    kind = NULL;
  }
  double temperature = cli_given(context, "--temperature")
                           ? f->temperature
                           : env_float(context, "IE_TEMPERATURE", 0, 1e6, f->temperature);
  double top_p = cli_given(context, "--top-p") ? f->top_p : env_float(context, "IE_TOP_P", 0, 1, f->top_p);
  int64_t top_k = int_choose(context, "--top-k", f->top_k, "IE_TOP_K", 1 << 30);
  int64_t seed = int_choose(context, "--seed", f->seed, "IE_SEED", INT64_MAX);
  if (kind && !strcmp(kind, "topk") && !cli_given(context, "--top-p")) top_p = 1;
  if (kind && !strcmp(kind, "topp") && !cli_given(context, "--top-k")) top_k = 0;
  bool greedy = f->greedy || infer_env_on(context, "IE_GREEDY") || (kind && !strcmp(kind, "greedy"));
  s->sample = sampling_params(&(sampling_settings){.greedy = greedy,
                                                   .temperature = temperature,
                                                   .top_p = top_p,
                                                   .top_k = top_k,
                                                   .seed = seed ? seed : 1,
                                                   .repetition_penalty = 1});
  return -1;
}

/* --- Where the model lies --------------------------------------------------------------------------------------- */

static bool folder_holds(const char *dir, const char *const *names) {
  bool holds = false;
  for (; *names && !holds; names++) {
    char *path = cli_path_join(dir, *names);
    holds = path && access(path, F_OK) == 0;
    free(path);
  }
  return holds;
}

static const char *dir_choose(const cli_context *context, const infer_flags *f) {
  static const char usual[] = "models/gpt-oss-20b";
  static const char *const files[] = {"model.ie.json",
                                      "model.ie.bin",
                                      "model.ie.compat.json",
                                      "model.q4.bin",
                                      "config.json",
                                      "hf",
                                      "original",
                                      NULL};
  const char *dir = word_choose(context, f->model_dir, "MODEL_DIR", "IE_MODEL_DIR");
  if (dir) return dir;
  return folder_holds(usual, files) ? usual : ".";
}

/* A path that is not absolute belongs to the model's folder; where that has no such file, to the current one. */
static int file_choose(const cli_context *context, const char *dir, const char *path, char **out) {
  if (!path) return -1;
  *out = path[0] == '/' ? strdup(path) : cli_path_join(dir, path);
  if (*out && path[0] != '/' && access(*out, F_OK) != 0 && access(path, F_OK) == 0) {
    free(*out);
    *out = strdup(path);
  }
  return *out ? -1 : cli_failf(context, "out of memory");
}

static int model_set(const cli_context *context, infer_setup *s) {
  const infer_flags *f = s->flags;
  s->model_dir = dir_choose(context, f);
  s->tokenizer = word_choose(context, f->tokenizer, "IE_TOKENIZER", "TOKENIZER");
  int code = file_choose(context, s->model_dir, f->model_json, &s->model_json);
  const char *bin = word_choose(context, f->model_bin, "IE_WEIGHTS_BIN", NULL);
  return code >= 0 ? code : file_choose(context, s->model_dir, bin, &s->model_bin);
}

ie_status infer_label_check(const infer_setup *s, ie_error *error) {
  bool int8 = !strcmp(s->label, "int8w");
  if (strncmp(s->label, "int4", 4) != 0 && !int8) return IE_OK;
  static const char *const packed4[] = {"model.ie.compat.json", NULL},
                           *const packed8[] = {"model.q8.bin", NULL},
                           *const weights4[] = {"model.q4.bin", NULL};
  const char *missing = int8 ? packed8[0] : packed4[0];
  bool there = folder_holds(s->model_dir, int8 ? packed8 : packed4);
  if (there && !int8 && !folder_holds(s->model_dir, weights4)) {
    there = false;
    missing = weights4[0];
  }
  if (there)
    return ie_error_set(
        error, IE_UNSUPPORTED,
        "--precision %s: %s/%s is there, but packed weights cannot be computed by this version; "
        "fp32, bf16 and fp16 can",
        s->label, s->model_dir, missing);
  return ie_error_set(error, IE_IO,
                      "--precision %s: %s/%s is missing; make it with: clocher quantize --model-dir %s "
                      "--precision %s (which this version does not have yet)",
                      s->label, s->model_dir, missing, s->model_dir, s->label);
}

/* --- All of it --------------------------------------------------------------------------------------------------- */

static void logs_set(const cli_context *context, infer_setup *s) {
  const infer_flags *f = s->flags;
  s->print_text = f->print_text || infer_env_on(context, "IE_PRINT_TEXT");
  s->log_every = int_choose(context, "--log-every", f->log_every, "IE_API_LOG_EVERY", 1 << 30);
  s->log_tokens = f->log_tokens || s->log_every > 0 || infer_env_on(context, "IE_API_LOG_TOKENS");
  s->decode_every = int_choose(context, "--debug-decode-every", f->debug_decode_every,
                               "IE_API_DEBUG_DECODE_EVERY", 1 << 30);
  s->debug_decode = f->debug_decode || s->decode_every > 0 || infer_env_on(context, "IE_API_DEBUG_DECODE");
  s->topk = int_choose(context, "--debug-topk", f->debug_topk, "IE_DEBUG_TOPK", IE_SAMPLE_TOP_MAX);
  s->topk_every =
      int_choose(context, "--debug-topk-every", f->debug_topk_every, "IE_DEBUG_TOPK_EVERY", 1 << 30);
  s->trace_ids = word_choose(context, f->trace_ids, "IE_TRACE_IDS_JSONL", NULL);
}

int infer_setup_make(cli_context *context, const infer_flags *flags, infer_setup *s) {
  *s = (infer_setup){.flags = flags};
  infer_env_warn(context);
  s->prompt = flags->prompt ? flags->prompt : context->arg_count ? context->args[0] : NULL;
  if (flags->prompt && context->arg_count)
    return cli_usage(context, "unexpected argument '%s': --prompt is given", context->args[0]);
  s->strict = infer_env_on(context, "IE_REQUIRE_MODEL");
  s->max_seq = env_int(context, "IE_MAX_SEQ", 0, 1 << 30, 0);
  s->touch_bytes = env_size(context, "IE_BYTES_PER_TOKEN", 0);
  s->touch_stride = env_size(context, "IE_STRIDE_BYTES", 256);
  if (s->touch_stride == 0) s->touch_stride = 1;
  s->touch_verify = infer_env_on(context, "IE_VERIFY_TOUCH");
  context->common.deterministic = flags->deterministic;
  logs_set(context, s);
  threads_set(context, s);
  int code = precision_set(context, s);
  if (code < 0) code = device_check(context, s);
  if (code < 0) code = idle_check(context, s);
  if (code < 0) code = sample_set(context, s);
  return code < 0 ? model_set(context, s) : code;
}

void infer_setup_free(infer_setup *s) {
  free(s->model_json);
  free(s->model_bin);
  *s = (infer_setup){0};
}
