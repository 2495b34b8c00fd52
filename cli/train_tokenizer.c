#include "train_tokenizer.h"

#include "out.h"
#include "progress.h"
#include "signals.h"

#include "clocher/tokenizer_train.h"

#include <stdlib.h>
#include <string.h>

typedef struct settings {
  const char *text, *out;
  int64_t vocab, min_frequency;
  int pattern, set;
  cli_strings special;
} settings;

static const char *const patterns[] = {"cl100k", "o200k", "qwen", "nanochat", "gpt2", NULL};
static const char *const sets[] = {"plain", "harmony", "nanochat", "none", NULL};

static const cli_option options[] = {
    {"--text", CLI_AS_PATH(settings, text), .argument = "FILE", .required = true,
     .meaning = "The text to learn from; lines <|endoftext|> separate its documents."},
    {"--vocab", CLI_AS_INT(settings, vocab), .argument = "N", .required = true, .min = 256, .max = 16777216,
     .meaning = "Tokens in all: 256 bytes, merges and special tokens."},
    {"--out", CLI_AS_PATH(settings, out), .argument = "DIR", .required = true,
     .meaning = "The folder to write to; made when missing. Files of the same names are replaced."},
    {"--special", CLI_AS_STRINGS(settings, special), .argument = "TOKEN",
     .meaning = "A special token, in place of the set that --specials names."},
    {"--specials", CLI_AS_CHOICE(settings, set), .argument = "SET", .fallback = "plain", .choices = sets,
     .meaning = "Special tokens: <|endoftext|> alone (plain), those of gpt-oss's chat format (harmony) or of "
                "nanochat, or none. They get the last ids."},
    {"--pattern", CLI_AS_CHOICE(settings, pattern), .argument = "NAME", .fallback = "cl100k",
     .choices = patterns,
     .meaning = "How text is cut into words before it is merged: as GPT-4 does (cl100k), or another."},
    {"--min-frequency", CLI_AS_INT(settings, min_frequency), .argument = "N", .fallback = "2", .min = 1,
     .max = 0x1p53, .meaning = "A pair that occurs less often is not merged."},
    {0},
};

typedef struct reporter {
  const cli_context *context;
  cli_progress progress;
  const char *what; /* the phase that is shown, or NULL */
} reporter;

static bool report(void *user, const char *what, uint64_t done, uint64_t total) {
  reporter *r = user;
  if (!r->what || strcmp(r->what, what) != 0) {
    if (r->what) cli_progress_end(&r->progress);
    cli_progress_start(&r->progress, r->context, what, total, strcmp(what, "merging") ? "B" : "tok");
    r->what = what;
  }
  cli_progress_set(&r->progress, done);
  return !cli_interrupted();
}

static void summary_log(const cli_context *context, const settings *s, const ie_tokenizer_train_result *r) {
  double seconds = r->count_s + r->merge_s;
  if (r->vocab < s->vocab)
    cli_log(context, "clocher: %lld tokens, not %lld: no pair is left that occurs %lld times",
            (long long)r->vocab, (long long)s->vocab, (long long)s->min_frequency);
  cli_log(context,
          "%lld tokens (%lld merges) from %.2f MB: %lld documents, %lld different words of %lld; %.2f s to "
          "count, %.2f s to merge, %.1f MB/s",
          (long long)r->vocab, (long long)r->merges, 1e-6 * (double)r->bytes, (long long)r->documents,
          (long long)r->words, (long long)r->pieces, r->count_s, r->merge_s,
          seconds > 0 ? 1e-6 * (double)r->bytes / seconds : 0);
  cli_log(context, "the tokenizer is in %s", s->out);
}

static int tokenizer_run(cli_context *context, void *opaque) {
  const settings *s = opaque;
  if (s->special.count && cli_given(context, "--specials"))
    return cli_usage(context, "--special and --specials: expected one of them");
  int code = cli_out_folder_check(context, "--out", s->out);
  if (code >= 0) return code;
  reporter r = {.context = context};
  ie_tokenizer_train_options train = {
      .text = s->text,
      .dir = s->out,
      .pattern = patterns[s->pattern],
      .vocab = s->vocab,
      .min_frequency = s->min_frequency,
      .specials = s->special.count ? s->special.items : ie_tokenizer_specials(sets[s->set]),
      .special_count = s->special.count,
      .threads = (int)context->common.threads,
      .progress = report,
      .user = &r,
  };
  while (!s->special.count && train.specials && train.specials[train.special_count]) train.special_count++;
  ie_tokenizer_train_result result;
  ie_error error = {0};
  cli_signals_poll();
  ie_status status = ie_tokenizer_train(&train, &result, &error);
  if (r.what) cli_progress_end(&r.progress);
  if (status == IE_CANCELLED) return CLI_INTERRUPTED;
  if (status != IE_OK) return cli_fail(context, status, &error);
  summary_log(context, s, &result);
  return CLI_OK;
}

const cli_command cmd_train_tokenizer = {
    .name = "train tokenizer",
    .summary = "Learn a byte-level BPE tokenizer from a text",
    .usage = "--text FILE --vocab N --out DIR [--special TOKEN]... [--specials SET] [--pattern NAME]",
    .help =
        "Writes tokenizer.json (Hugging Face), tokenizer_config.json and tokenizer.tiktoken. The merges are\n"
        "those of the Hugging Face tokenizers library's BpeTrainer over the same documents; threads change\n"
        "nothing.",
    .options = options,
    .settings_bytes = sizeof(settings),
    .common = 1 << CLI_COMMON_THREADS,
    .run = tokenizer_run,
};
