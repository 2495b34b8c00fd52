#include "inference_engine.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define DEDUP       "files of dedup are not read yet"
#define STREAM      "each kernel has the prefetch and loads that measured best"
#define CONFIG      "config.json decides"
#define FLOAT       "weights are computed as they are stored, with activations of --precision"
#define PACKED      "packed 4-bit weights are not built yet"
#define GPU         "this program was built without a GPU"
#define NUMA        "weights are mapped once"
#define ACTIVATIONS "--precision says how activations are computed"
#define CHECKED     "a NaN is always an error, with the layer named"
#define NO_TRACE    "there is no such log"
#define PHYSICAL    "--threads says how many there are"
#define MONITOR     "the JSON line holds what is measured"

/* clang-format off */
const infer_variable infer_variables[INFER_VARIABLES] = {
  /* these act */
  {"IE_REQUIRE_MODEL", NULL}, {"IE_BYTES_PER_TOKEN", NULL}, {"IE_STRIDE_BYTES", NULL},
  {"IE_VERIFY_TOUCH", NULL}, {"IE_PRECISION", NULL}, {"PRECISION", NULL}, {"IE_SPARSITY", NULL},
  {"SPARSITY", NULL}, {"DEVICE", NULL}, {"IE_DEVICE", NULL}, {"MODEL_DIR", NULL}, {"IE_MODEL_DIR", NULL},
  {"IE_TOKENIZER", NULL}, {"TOKENIZER", NULL}, {"IE_PRINT_TEXT", NULL}, {"IE_WEIGHTS_BIN", NULL},
  {"IE_KERNEL_THREADS", NULL}, {"IE_THREADS", NULL}, {"IE_BF16_THREADS", NULL}, {"IE_TP_USE_AFFINITY", NULL},
  {"AFFINITY", NULL}, {"IE_SEED", NULL}, {"IE_GREEDY", NULL}, {"IE_SAMPLE_KIND", NULL},
  {"IE_TEMPERATURE", NULL}, {"IE_TOP_P", NULL}, {"IE_TOP_K", NULL}, {"IE_MAX_SEQ", NULL},
  {"IE_TRACE_IDS_JSONL", NULL}, {"IE_LOG_LEVEL", NULL}, {"IE_API_LOG_TOKENS", NULL},
  {"IE_API_LOG_EVERY", NULL}, {"IE_API_DEBUG_DECODE", NULL}, {"IE_API_DEBUG_DECODE_EVERY", NULL},
  {"IE_DEBUG_TOPK", NULL}, {"IE_DEBUG_TOPK_EVERY", NULL},
  /* these do not */
  {"IE_DEDUP", DEDUP}, {"IE_DEDUP_STRICT", DEDUP}, {"IE_DEDUP_DEBUG", DEDUP}, {"IE_DEDUP_MANIFEST", DEDUP},
  {"IE_DEDUP_POLICY", DEDUP}, {"IE_DEDUP_CACHE_MB", DEDUP}, {"IE_DEDUP_HOT_BYTES", DEDUP},
  {"IE_DEDUP_HOT_LIST", DEDUP},
  {"IE_PREFETCH_DISTANCE", STREAM}, {"IE_NT_LOADS", STREAM}, {"IE_L3_BYTES", STREAM},
  {"IE_NT_THRESHOLD_RATIO", STREAM}, {"IE_NT_RATIO", STREAM}, {"IE_STREAM_BLOCK_BYTES", STREAM},
  {"IE_REUSE_GUARD_WINDOWS", STREAM}, {"IE_STREAM_PREFETCH", STREAM}, {"IE_STREAM_NT_THRESHOLD", STREAM},
  {"IE_STREAM_FORCE_NT", STREAM},
  {"IE_ROPE_THETA", CONFIG}, {"IE_ROPE_SCALE", CONFIG}, {"IE_RMS_EPS", CONFIG},
  {"IE_ROPE_LINEAR_SCALE", CONFIG}, {"IE_ROPE_POS_SCALE", CONFIG},
  {"IE_F32_ATTN", FLOAT}, {"IE_F32_ROUTER", FLOAT}, {"IE_F32_LM_HEAD", FLOAT}, {"IE_F32_RMSNORM", FLOAT},
  {"IE_Q4_U8_SCALE_FMT", PACKED}, {"IE_Q4_FORCE_GENERIC", PACKED}, {"IE_Q4_GRAINSIZE", PACKED},
  {"IE_Q4_PARALLEL_DENOM", PACKED}, {"IE_Q4_ALIGNED_LOADS", PACKED}, {"IE_Q4_DEBUG_NAN", PACKED},
  {"IE_CUDA_FULL", GPU}, {"IE_CUDA_FULL_FORCE", GPU}, {"IE_CUDA_ATTN", GPU}, {"IE_CUDA_MIRROR_WEIGHTS", GPU},
  {"IE_CUDA_CACHE_MB", GPU}, {"IE_CUDA_GREEDY_DEVICE", GPU}, {"IE_CUDA_STREAM", GPU}, {"IE_CUDA_SYNC", GPU},
  {"IE_CUDA_LOG_KERNEL", GPU}, {"IE_CUDA_DEBUG_NAN", GPU}, {"IE_CUDA_DEBUG_STATS", GPU},
  {"IE_CUDA_DEBUG_MEM", GPU}, {"IE_ZE_SPV", GPU}, {"GPU_ID", GPU},
  {"IE_NUMA_ENABLE", NUMA}, {"IE_NUMA_REPLICATE_HOT", NUMA}, {"IE_NUMA_MAX_REPLICAS", NUMA},
  {"IE_HOT_REPLICATE", NUMA}, {"IE_HOT_REPL_LIMIT_MB", NUMA}, {"NUMA_POLICY", NUMA},
  {"IE_ACTIVATIONS", ACTIVATIONS}, {"IE_FP8_FORMAT", ACTIVATIONS}, {"IE_ACT_SCALE_DTYPE", ACTIVATIONS},
  {"IE_ACT_CLIP", ACTIVATIONS}, {"IE_ACT_PREC", ACTIVATIONS},
  {"IE_DEBUG_NAN", CHECKED},
  {"IE_TRACE_PROMPT_INDEX", NO_TRACE}, {"IE_TRACE_BF16", NO_TRACE}, {"IE_TRACE_SAMPLING", NO_TRACE},
  {"IE_TRACE_SAMPLING_N", NO_TRACE}, {"IE_TRACE_LOOKUPS", NO_TRACE}, {"IE_LOG_KERNELS", NO_TRACE},
  {"IE_DEBUG_KERNELS", NO_TRACE}, {"IE_DEBUG_RSS", NO_TRACE}, {"IE_DEBUG_TOPK_LIMIT", NO_TRACE},
  {"IE_TOKENIZER_VERBOSE", NO_TRACE},
  {"IE_THREADS_PHYS", PHYSICAL},
  {"IE_METRICS_MEM", MONITOR}, {"IE_METRICS_MEM_TOML", MONITOR}, {"TARGET_SECONDS", MONITOR},
  {"PUSHGATEWAY_URL", MONITOR},
};
/* clang-format on */

static const char *env_value(const cli_context *context, size_t i) {
  const char *value = context->env.engine ? context->env.engine[i] : NULL;
  return value && value[0] ? value : NULL;
}

const char *infer_env(const cli_context *context, const char *name) {
  for (size_t i = 0; i < INFER_VARIABLES; i++)
    if (!strcmp(infer_variables[i].name, name)) return env_value(context, i);
  return NULL;
}

bool infer_env_on(const cli_context *context, const char *name) {
  const char *value = infer_env(context, name);
  return value && strcmp(value, "0") != 0;
}

void infer_env_warn(const cli_context *context) {
  for (size_t i = 0; i < INFER_VARIABLES; i++) {
    const char *value = env_value(context, i);
    if (infer_variables[i].ignored && value && strcmp(value, "0") != 0)
      infer_warn(context, "%s is ignored: %s", infer_variables[i].name, infer_variables[i].ignored);
  }
}

/* 0, 1 or 2: errors, warnings too, all. What is no number counts as the default. */
static int64_t log_level(const cli_context *context) {
  const char *text = infer_env(context, "IE_LOG_LEVEL");
  int64_t level;
  return text && cli_parse_int(text, 0, 9, &level) ? level : 2;
}

static void line_print(const char *kind, const char *format, va_list args) {
  flockfile(stderr);
  fprintf(stderr, "%s: ", kind);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  funlockfile(stderr);
}

void infer_info(const cli_context *context, const char *format, ...) {
  if (log_level(context) < 2) return;
  va_list args;
  va_start(args, format);
  line_print("info", format, args);
  va_end(args);
}

void infer_warn(const cli_context *context, const char *format, ...) {
  if (log_level(context) < 1) return;
  va_list args;
  va_start(args, format);
  line_print("warn", format, args);
  va_end(args);
}
