/* The list of commands: one line each, in the order of the help. */
#include "cli.h"

/* clang-format off */
#define BUILT(X) \
  X(run) \
  X(chat) \
  X(logits) \
  X(gradients) \
  X(tokenize) \
  X(detokenize) \
  X(chat_format) \
  X(chat_parse) \
  X(sample) \
  X(inspect) \
  X(plan) \
  X(bench) \
  X(synth) \
  X(merge) \
  X(train) \
  X(eval) \
  X(version) \

/* Of later milestones: they answer "not built yet". Whoever builds one moves its line. */
#define PLANNED(X) \
  X(serve,        "serve",        "Serve an OpenAI-compatible HTTP interface") \
  X(download,     "download",     "Fetch a model repository") \
  X(pack,         "pack",         "Write a model in one packed container") \
  X(quantize,     "quantize",     "Compress weights, with a quality gate") \
  X(dedup,        "dedup",        "Store equal tensors once") \
  X(convert,      "convert",      "Convert between containers") \
  X(report,       "report",       "Write a benchmark report") \
  X(verify,       "verify",       "Check tokens against a reference trace") \
  X(ocr,          "ocr",          "Documents to text") \
  X(c2c,          "c2c",          "Two models that share their caches") \

#define DECLARE(id) extern const cli_command cmd_##id;
#define DEFINE(id, title, what) static const cli_command planned_##id = {.name = title, .summary = what};
#define BUILT_ENTRY(id) &cmd_##id,
#define PLANNED_ENTRY(id, title, what) &planned_##id,

BUILT(DECLARE)
PLANNED(DEFINE)

const cli_command *const cli_commands[] = {BUILT(BUILT_ENTRY) PLANNED(PLANNED_ENTRY) NULL};
