#include "cli.h"
#include "progress.h"
#include "signals.h"

#include "clocher/synth.h"

typedef struct settings {
  int arch;
  int layout;
  const char *out;
  int64_t seed;
  int64_t layers;
} settings;

static const char *const archs[] = {
    "gpt-oss-20b", "gpt-oss-120b", "gpt-neox-20b", "pythia-1.4b", "qwen3-0.6b", "llama-3.2-1b", NULL};
static const char *const layouts[] = {"hf", "original", NULL};

static const cli_option options[] = {
    {"--arch", CLI_AS_CHOICE(settings, arch), .argument = "NAME", .choices = archs, .required = true,
     .meaning = "The model whose shapes, types and files are written."},
    {"--layout", CLI_AS_CHOICE(settings, layout), .argument = "NAME", .choices = layouts, .fallback = "hf",
     .meaning =
         "hf: as on the Hugging Face hub. original: OpenAI's own names and config.json (gpt-oss only)."},
    {"--out", CLI_AS_PATH(settings, out), .argument = "DIR", .required = true,
     .meaning = "The folder to write to; made when missing. Files of the same names are replaced."},
    {"--seed", CLI_AS_INT(settings, seed), .argument = "N", .fallback = "0",
     .meaning = "Another seed, other weights; threads and machine do not matter."},
    {"--layers", CLI_AS_INT(settings, layers), .argument = "N", .fallback = "0", .min = 0, .max = 1000,
     .meaning = "Write N layers instead of the published number (0)."},
    {0},
};

typedef struct reporter {
  const cli_context *context;
  cli_progress progress;
  bool started;
} reporter;

static bool report(void *user, uint64_t done, uint64_t total) {
  reporter *r = user;
  if (!r->started) cli_progress_start(&r->progress, r->context, "writing", total, "B");
  r->started = true;
  cli_progress_set(&r->progress, done);
  return !cli_interrupted();
}

static int synth_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  reporter r = {.context = context};
  const ie_synth_options synth = {
      .arch = archs[s->arch],
      .layout = layouts[s->layout],
      .dir = s->out,
      .seed = (uint64_t)s->seed,
      .layers = (int)s->layers,
      .threads = (int)context->common.threads,
      .progress = report,
      .user = &r,
  };
  ie_error error;
  cli_signals_poll();
  ie_status status = ie_synth_write(&synth, &error);
  if (r.started) cli_progress_end(&r.progress);
  if (status == IE_CANCELLED) return CLI_INTERRUPTED;
  if (status != IE_OK) return cli_fail(context, status, &error);
  cli_log(context, "%s (%s) is in %s", synth.arch, synth.layout, s->out);
  return CLI_OK;
}

const cli_command cmd_synth = {
    .name = "synth",
    .summary = "Write a full-size checkpoint of random weights",
    .usage = "--arch NAME [--layout hf|original] --out DIR [--seed N] [--layers N]",
    .help =
        "The checkpoint has the names, types, shapes, shards and configs of the published model, without a\n"
        "tokenizer, so that it runs on ids. Its weights are random: it computes at full size and speed, and\n"
        "writes no sense. gpt-oss of one seed is the same model in both layouts.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = 1 << CLI_COMMON_THREADS,
    .run = synth_run,
};
