/* clocher inspect: what a model directory holds, and what is wrong with it. */
#include "clocher/chat.h"
#include "clocher/model.h"
#include "clocher/text.h"
#include "out.h"

#include <string.h>

typedef struct settings {
  bool json, tensors;
} settings;

static const cli_option options[] = {
    {"--json", CLI_AS_FLAG(settings, json), .meaning = "One JSON object, with all tensors."},
    {"--tensors", CLI_AS_FLAG(settings, tensors), .meaning = "List the tensors too."},
    {0},
};

typedef struct report {
  const char *dir;
  ie_inspection *inspection;
  ie_tokenizer *tokenizer;  /* or NULL */
  const char *chat_format;  /* or NULL */
  ie_error tokenizer_error; /* IE_OK: none */
  char tokenizer_warning[160];
} report;

/* The part of a path behind the directory that was asked for. */
static const char *path_within(const char *dir, const char *path) {
  size_t n = strlen(dir);
  if (!path) return NULL;
  while (n > 0 && dir[n - 1] == '/') n--;
  return !strncmp(path, dir, n) && path[n] == '/' ? path + n + 1 : path;
}

static json_t *tensors_json(const report *r) {
  json_t *list = json_array();
  for (size_t i = 0; list && i < ie_inspect_tensor_count(r->inspection); i++) {
    const ie_tensor_info *t = ie_inspect_tensor(r->inspection, i);
    json_t *shape = json_array();
    for (int d = 0; shape && d < t->rank; d++) json_array_append_new(shape, json_integer(t->shape[d]));
    json_t *one = json_pack("{s:o, s:s, s:o, s:I, s:s, s:I}", "name", cli_json_text(t->name, strlen(t->name)),
                            "dtype", ie_dtype_name(t->dtype), "shape", shape, "bytes", (json_int_t)t->bytes,
                            "file", path_within(r->dir, t->file), "offset", (json_int_t)t->offset);
    if (json_array_append_new(list, one) != 0) {
      json_decref(list);
      return NULL;
    }
  }
  return list;
}

static json_t *problem_json(ie_problem_level level, const char *where, const char *what) {
  return json_pack("{s:s, s:o, s:o}", "level", level == IE_PROBLEM_ERROR ? "error" : "warning", "where",
                   cli_json_text(where, strlen(where)), "what", cli_json_text(what, strlen(what)));
}

static json_t *problems_json(const report *r) {
  json_t *list = json_array();
  bool ok = list != NULL;
  for (size_t i = 0; ok && i < ie_inspect_problem_count(r->inspection); i++) {
    const ie_problem *p = ie_inspect_problem(r->inspection, i);
    ok = json_array_append_new(list, problem_json(p->level, p->where, p->what)) == 0;
  }
  if (ok && r->tokenizer_error.status != IE_OK)
    ok = json_array_append_new(list,
                               problem_json(IE_PROBLEM_ERROR, "tokenizer", r->tokenizer_error.message)) == 0;
  if (ok && r->tokenizer_warning[0])
    ok =
        json_array_append_new(list, problem_json(IE_PROBLEM_WARNING, "tokenizer", r->tokenizer_warning)) == 0;
  if (ok) return list;
  json_decref(list);
  return NULL;
}

static json_t *report_json(const report *r) {
  const ie_model_info *info = ie_inspect_info(r->inspection);
  json_t *tokenizer = r->tokenizer ? json_pack("{s:s, s:I}", "kind", ie_tokenizer_kind(r->tokenizer), "vocab",
                                               (json_int_t)ie_tokenizer_vocab(r->tokenizer))
                                   : json_null();
  return json_pack("{s:s?, s:s?, s:I, s:I, s:I, s:o, s:o, s:s?, s:o}", "architecture", info->architecture,
                   "layout", info->layout, "parameters", (json_int_t)info->parameters, "active_parameters",
                   (json_int_t)info->active_parameters, "weights_bytes", (json_int_t)info->weights_bytes,
                   "tensors", tensors_json(r), "tokenizer", tokenizer, "chat_format", r->chat_format,
                   "problems", problems_json(r));
}

static void tensors_print(cli_context *context, const report *r) {
  for (size_t i = 0; i < ie_inspect_tensor_count(r->inspection); i++) {
    const ie_tensor_info *t = ie_inspect_tensor(r->inspection, i);
    cli_out_printf(context, "  %-5s (", ie_dtype_name(t->dtype));
    for (int d = 0; d < t->rank; d++)
      cli_out_printf(context, "%s%lld", d ? ", " : "", (long long)t->shape[d]);
    cli_out_printf(context, ")  %s  [%s at %llu]\n", t->name, path_within(r->dir, t->file),
                   (unsigned long long)t->offset);
  }
}

/* Figures that a damaged directory hides are 0, and left out. */
static void figures_print(cli_context *context, const report *r) {
  const ie_model_info *info = ie_inspect_info(r->inspection);
  size_t tensors = ie_inspect_tensor_count(r->inspection);
  if (info->weights && info->weights_bytes)
    cli_out_printf(context, "weights       %s, %zu bytes in %zu tensors\n", info->weights,
                   info->weights_bytes, tensors);
  else if (tensors)
    cli_out_printf(context, "weights       %zu tensors\n", tensors);
  if (info->parameters)
    cli_out_printf(context, "parameters    %lld, %lld active\n", (long long)info->parameters,
                   (long long)info->active_parameters);
  if (info->layers)
    cli_out_printf(context, "shape         %lld layers, width %lld, vocabulary %lld, context %lld\n",
                   (long long)info->layers, (long long)info->width, (long long)info->vocab,
                   (long long)info->context_tok);
}

/* What is wrong often begins with the path where it is. */
static void problem_print(cli_context *context, const ie_problem *p) {
  const char *level = p->level == IE_PROBLEM_ERROR ? "error" : "warning";
  size_t n = strlen(p->where);
  bool named = !strncmp(p->what, p->where, n) && (p->what[n] == '/' || p->what[n] == ':');
  cli_out_printf(context, "%s: %s%s%s\n", level, named ? "" : p->where, named ? "" : ": ", p->what);
}

static void report_print(cli_context *context, const report *r, bool tensors) {
  const ie_model_info *info = ie_inspect_info(r->inspection);
  if (info->architecture) cli_out_printf(context, "architecture  %s\n", info->architecture);
  if (info->layout) cli_out_printf(context, "layout        %s\n", info->layout);
  figures_print(context, r);
  if (r->tokenizer)
    cli_out_printf(context, "tokenizer     %s, %d ids\n", ie_tokenizer_kind(r->tokenizer),
                   (int)ie_tokenizer_vocab(r->tokenizer));
  else if (r->tokenizer_error.status == IE_OK)
    cli_out_printf(context, "tokenizer     none\n");
  if (r->chat_format) cli_out_printf(context, "chat format   %s\n", r->chat_format);
  if (tensors) tensors_print(context, r);
  for (size_t i = 0; i < ie_inspect_problem_count(r->inspection); i++)
    problem_print(context, ie_inspect_problem(r->inspection, i));
  if (r->tokenizer_error.status != IE_OK)
    cli_out_printf(context, "error: tokenizer: %s\n", r->tokenizer_error.message);
  if (r->tokenizer_warning[0]) cli_out_printf(context, "warning: tokenizer: %s\n", r->tokenizer_warning);
}

static bool has_error(const report *r) {
  for (size_t i = 0; i < ie_inspect_problem_count(r->inspection); i++)
    if (ie_inspect_problem(r->inspection, i)->level == IE_PROBLEM_ERROR) return true;
  return r->tokenizer_error.status != IE_OK;
}

/* The tokenizer's own format; without a tokenizer, that of the architecture. */
static void chat_format_find(report *r, const ie_tokenizer_options *how) {
  const ie_chat_format *format = NULL;
  if (ie_tokenizer_open_dir(r->dir, how, &r->tokenizer, &r->tokenizer_error) != IE_OK) return;
  if (!r->tokenizer) {
    r->chat_format = ie_inspect_info(r->inspection)->chat_format;
    return;
  }
  if (ie_chat_format_detect(r->dir, r->tokenizer, &format, &r->tokenizer_error) == IE_OK && format)
    r->chat_format = ie_chat_format_name(format);
}

/* Ids that the model has no rows for cannot be run. */
static void vocabulary_compare(report *r) {
  int64_t rows = ie_inspect_info(r->inspection)->vocab;
  int32_t ids = r->tokenizer ? ie_tokenizer_vocab(r->tokenizer) : 0;
  if (rows > 0 && ids > rows)
    snprintf(r->tokenizer_warning, sizeof r->tokenizer_warning,
             "it has ids up to %d, but the model has %lld rows: prompts with ids above %lld are refused",
             (int)ids - 1, (long long)rows, (long long)rows - 1);
}

static int inspect_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  report r = {.dir = context->args[0]};
  ie_error error = {0};
  ie_status status = ie_inspect_open(r.dir, &r.inspection, &error);
  if (status != IE_OK) return cli_fail(context, status, &error);
  ie_tokenizer_options how = {.cache_dir = cli_cache_dir(context)};
  chat_format_find(&r, &how);
  vocabulary_compare(&r);
  int code = CLI_OK;
  if (s->json)
    code = cli_out_json(context, report_json(&r));
  else
    report_print(context, &r, s->tensors);
  if (code == CLI_OK && has_error(&r)) code = CLI_FAILED;
  ie_tokenizer_free(r.tokenizer);
  ie_inspect_free(r.inspection);
  return code;
}

const cli_command cmd_inspect = {
    .name = "inspect",
    .summary = "Say what a model directory holds and what is wrong with it",
    .usage = "D [--tensors] [--json]",
    .help =
        "Exit 1 when one of the problems is an error: `clocher run` would refuse the directory, or get\n"
        "NaN from it (an MXFP4 scale of 255), or, where the error is the tokenizer's, refuse text: it still "
        "runs --ids.\n"
        "A warning does not keep it from running.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = CLI_USES_CACHE,
    .args_min = 1,
    .args_max = 1,
    .run = inspect_run,
};
