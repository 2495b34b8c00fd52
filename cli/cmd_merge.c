/* clocher merge: a model with an adapter added to its weights. */
#include "cli.h"
#include "out.h"
#include "progress.h"
#include "signals.h"

#include "clocher/adapter.h"

typedef struct settings {
  const char *model_dir, *adapter, *out;
} settings;

static const cli_option options[] = {
    {"--model-dir", CLI_AS_PATH(settings, model_dir), .argument = "D", .required = true,
     .meaning = "The model that the adapter was trained on."},
    {"--adapter", CLI_AS_PATH(settings, adapter), .argument = "A", .required = true,
     .meaning =
         "The adapter's folder: adapter_config.json and adapter_model.safetensors, as PEFT writes them."},
    {"--out", CLI_AS_PATH(settings, out), .argument = "O", .required = true,
     .meaning =
         "The folder to write to; made when missing. A model in it is replaced once the new one is whole."},
    {0},
};

typedef struct reporter {
  const cli_context *context;
  cli_progress progress;
  bool started;
} reporter;

static bool report(void *user, uint64_t done, uint64_t total) {
  reporter *r = user;
  if (!r->started) cli_progress_start(&r->progress, r->context, "merging", total, "B");
  r->started = true;
  cli_progress_set(&r->progress, done);
  return !cli_interrupted();
}

static int merge_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  reporter r = {.context = context};
  int code = cli_out_folder_check(context, "--out", s->out);
  if (code >= 0) return code;
  const ie_adapter_merge_options merge = {
      .model_dir = s->model_dir,
      .adapter_dir = s->adapter,
      .out = s->out,
      .progress = report,
      .user = &r,
  };
  ie_error error = {0};
  cli_signals_poll();
  ie_status status = ie_adapter_merge(&merge, &error);
  if (r.started) cli_progress_end(&r.progress);
  if (status == IE_CANCELLED) return CLI_INTERRUPTED;
  if (status != IE_OK) return cli_fail(context, status, &error);
  cli_log(context, "%s with %s is in %s", s->model_dir, s->adapter, s->out);
  return CLI_OK;
}

const cli_command cmd_merge = {
    .name = "merge",
    .summary = "Merge an adapter into its model",
    .usage = "--model-dir D --adapter A --out O",
    .help =
        "Writes a model in the published layout whose adapted weights are W + scale B A, summed in f32 and\n"
        "rounded to the type that W has. All else is copied. Quantised weights are refused.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .run = merge_run,
};
