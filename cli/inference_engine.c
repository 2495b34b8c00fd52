#include "inference_engine.h"

#include "out.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ANY_INT .min = -0x1p53, .max = 0x1p53

static const cli_option options[] = {
    {"--device", CLI_AS_STRING(infer_flags, device), .argument = "auto|cpu|cuda|ze",
     .meaning =
         "A hint: how the program was built decides. One that it does not have is said to be ignored."},
    {"--model-dir", CLI_AS_STRING(infer_flags, model_dir), .argument = "PATH",
     .meaning =
         "Folder of the model: model.ie.json and model.ie.bin, or a Hugging Face checkpoint, there or in "
         "hf, hf/original or original. Default: MODEL_DIR, IE_MODEL_DIR, models/gpt-oss-20b when it "
         "holds one, else the current folder."},
    {"--model-json", CLI_AS_STRING(infer_flags, model_json), .argument = "PATH",
     .meaning = "The model.ie.json to use; in the model's folder, or a path from here."},
    {"--model-bin", CLI_AS_STRING(infer_flags, model_bin), .argument = "PATH",
     .meaning = "The model.ie.bin to use, likewise; else IE_WEIGHTS_BIN, else what the JSON names."},
    {"--pretranspose", CLI_AS_STRING(infer_flags, pretranspose), .argument = "none|woh|wxh|all",
     .meaning = "Ignored: weights are computed where they lie."},
    {"--prefetch", CLI_AS_STRING(infer_flags, prefetch), .argument = "on|off|auto|N",
     .meaning = "Ignored: each kernel has the prefetch that measured best."},
    {"--warmup", CLI_AS_INT(infer_flags, warmup), .argument = "N", .fallback = "1", ANY_INT,
     .meaning = "Tokens generated before the measured window, at most 128."},
    {"--warmup-tokens", CLI_AS_INT(infer_flags, warmup), .argument = "N", ANY_INT,
     .meaning = "The same as --warmup."},
    {"--rounds", CLI_AS_INT(infer_flags, rounds), .argument = "N", .fallback = "1", .min = -0x1p53,
     .max = INFER_ROUNDS_MAX,
     .meaning = "How often all prompts are run, at most 65536 runs of a prompt in all; below 1 counts as 1."},
    {"--prompts-file", CLI_AS_STRING(infer_flags, prompts_file), .argument = "PATH",
     .meaning =
         "One prompt a line (a .jsonl file: {\"text\": ..} a line); blank lines are none. Without a prompt "
         "on the command line it means --aggregate."},
    {"--aggregate", CLI_AS_FLAG(infer_flags, aggregate),
     .meaning = "All prompts of the file, times --rounds, in the one line."},
    {"--threads", CLI_AS_INT(infer_flags, threads), .argument = "N", .fallback = "0", .min = -0x1p53,
     .max = 1024, .meaning = "Threads; 0: IE_KERNEL_THREADS, IE_THREADS, else one a core."},
    {"--precision", CLI_AS_STRING(infer_flags, precision), .argument = "fp32|bf16|fp16|int4|int4w|int8w",
     .meaning = "How activations enter a product (fp32, bf16, fp16), or which packed weights are computed. "
                "Default: IE_PRECISION, PRECISION, else fp32."},
    {"--batch", CLI_AS_INT(infer_flags, batch), .argument = "N", .fallback = "1", ANY_INT,
     .meaning = "Prompts of a round that are computed together, at most; below 1 counts as 1."},
    {"--deterministic", CLI_AS_FLAG(infer_flags, deterministic),
     .meaning = "Results equal to the bit for any --batch and --threads. A little slower."},
    {"--max-new", CLI_AS_INT(infer_flags, max_new), .argument = "N", .fallback = "8", .min = 0,
     .max = 1 << 24,
     .meaning = "New tokens per prompt at most; a stop id of the model ends a prompt earlier."},
    {"--prompt", CLI_AS_STRING(infer_flags, prompt), .argument = "TEXT",
     .meaning = "The prompt, raw text without a chat template; also as the argument without a flag."},
    {"--affinity", CLI_AS_STRING(infer_flags, affinity), .argument = "auto|compact|scatter",
     .meaning = "Which processors threads are pinned to."},
    {"--sparsity", CLI_AS_STRING(infer_flags, sparsity), .argument = "none|block|auto",
     .meaning = "Ignored: all weights are dense."},
    {"--greedy", CLI_AS_FLAG(infer_flags, greedy),
     .meaning = "The most probable token instead of a draw; also IE_GREEDY=1, IE_SAMPLE_KIND=greedy."},
    {"--temperature", CLI_AS_FLOAT(infer_flags, temperature), .argument = "F", .fallback = "0.8", .min = 0,
     .max = 1e6, .meaning = "Divides the logits; 0 is --greedy. Also IE_TEMPERATURE."},
    {"--top-p", CLI_AS_FLOAT(infer_flags, top_p), .argument = "F", .fallback = "0.95", .min = 0, .max = 1,
     .meaning = "Draw from the most probable tokens that together reach F. Also IE_TOP_P."},
    {"--top-k", CLI_AS_INT(infer_flags, top_k), .argument = "N", .fallback = "0", .min = 0, .max = 1 << 30,
     .meaning = "Draw from the N largest; 0: all. Also IE_TOP_K."},
    {"--seed", CLI_AS_INT(infer_flags, seed), .argument = "N", .fallback = "1",
     .meaning = "Another seed, other draws; 0 counts as 1. Also IE_SEED."},
    {"--ignore-eos", CLI_AS_FLAG(infer_flags, ignore_eos),
     .meaning = "The model's stop ids are ordinary tokens: exactly --max-new tokens."},
    {"--expected-tokens", CLI_AS_STRING(infer_flags, expected_tokens), .argument = "PATH",
     .meaning = "Compare with ids that are known: a line `PROMPT_ID ID,ID,..` for each prompt."},
    {"--no-report-tokens", CLI_AS_FLAG(infer_flags, no_report_tokens),
     .meaning = "Leave the ids out of the line."},
    {"--report-tokens-max", CLI_AS_INT(infer_flags, report_tokens_max), .argument = "N", .fallback = "0",
     .min = 0, .max = 1 << 30, .meaning = "Ids in the line at most; 0: all."},
    {"--print-text", CLI_AS_FLAG(infer_flags, print_text), .meaning = "Also the text of the new tokens."},
    {"--tokenizer", CLI_AS_STRING(infer_flags, tokenizer), .argument = "PATH",
     .meaning = "A tokenizer.json, .tiktoken file or pack; else IE_TOKENIZER, TOKENIZER, else the model's."},
    {"--encoding", CLI_AS_STRING(infer_flags, encoding), .argument = "NAME",
     .meaning =
         "Pattern and special tokens of a .tiktoken file that is not gpt-oss's: o200k_harmony, qwen2.5, "
         "qwen3, nanochat or llama3."},
    {"--trace-ids", CLI_AS_STRING(infer_flags, trace_ids), .argument = "PATH",
     .meaning =
         "Append prompt ids and new ids, a JSON object a line, for the verifiers; else IE_TRACE_IDS_JSONL."},
    {"--log-tokens", CLI_AS_FLAG(infer_flags, log_tokens), .meaning = "Each new id on stderr."},
    {"--log-every", CLI_AS_INT(infer_flags, log_every), .argument = "N", .fallback = "0", .min = 0,
     .max = 1 << 30, .meaning = "The same for each N-th token."},
    {"--debug-decode", CLI_AS_FLAG(infer_flags, debug_decode), .meaning = "Each new token's text on stderr."},
    {"--debug-decode-every", CLI_AS_INT(infer_flags, debug_decode_every), .argument = "N", .fallback = "0",
     .min = 0, .max = 1 << 30, .meaning = "The same for each N-th token."},
    {"--debug-topk", CLI_AS_INT(infer_flags, debug_topk), .argument = "K", .fallback = "0", .min = 0,
     .max = IE_SAMPLE_TOP_MAX,
     .meaning = "The K most probable ids of each token on stderr; the output stays."},
    {"--debug-topk-every", CLI_AS_INT(infer_flags, debug_topk_every), .argument = "N", .fallback = "0",
     .min = 0, .max = 1 << 30, .meaning = "The same for each N-th token."},
    {0},
};

static void flag_refuse(const cli_context *context, cli_refusal what, const cli_option *option,
                        const char *text) {
  int64_t value;
  switch (what) {
  case CLI_UNKNOWN_FLAG: cli_failf(context, "unknown flag '%s'", text); return;
  case CLI_NO_VALUE: cli_failf(context, "%s needs a value: %s", text, option->argument); return;
  case CLI_NO_FLAG: cli_failf(context, "unexpected argument '%s'", text); return;
  case CLI_BAD_FLOAT: cli_failf(context, "invalid float: '%s'", text); return;
  case CLI_BAD_INT: break;
  }
  if (!text[0])
    cli_failf(context, "empty integer");
  else if (!strcmp(option->name, "--max-new") && cli_parse_int(text, INT64_MIN, -1, &value))
    cli_failf(context, "--max-new >= 0");
  else if (!strcmp(option->name, "--rounds") && cli_parse_int(text, INFER_ROUNDS_MAX, INT64_MAX, &value))
    cli_failf(context, "--rounds <= %d", INFER_ROUNDS_MAX);
  else
    cli_failf(context, "invalid integer: '%s'", text);
}

/* --- What happens in what order ---------------------------------------------------------------------------------- */

/* A folder that was asked for and cannot be entered is an error in every mode. */
static int dir_check(infer_job *job) {
  ie_error error = {0};
  const char *dir = job->setup.model_dir;
  if (access(dir, R_OK | X_OK) == 0) return -1;
  ie_error_set(&error, IE_IO, "--model-dir '%s' is not accessible: %s", dir, strerror(errno));
  return infer_fail(job, INFER_NO_MODEL, &error);
}

/* The exit code of a model that could not be opened: missing files are another one than damaged ones. */
static int model_fail(infer_job *job, const ie_error *error) {
  return infer_fail(job, error->status == IE_IO ? INFER_NO_MODEL : INFER_NO_ENGINE, error);
}

/* Opens device and model. Where there are no weights of any kind, and none were asked for by name, it is an error in
 * strict mode and a stub else; a model that is there and not whole is always an error. Returns -1 when there is a
 * model. */
static int model_open(infer_job *job) {
  const infer_setup *s = &job->setup;
  ie_error error = {0};
  ie_status status = infer_label_check(s, &error);
  if (status != IE_OK) return model_fail(job, &error);
  status = cli_engine_open_planned(job->context, s->model_dir,
                                   (ie_model_options){.iebin_json = s->model_json, .iebin_bin = s->model_bin},
                                   &job->engine, &error);
  if (status == IE_OK) return -1;
  if (status == IE_INVALID_ARGUMENT) return cli_fail(job->context, status, &error);
  bool there = true;
  ie_error unread = {0};
  if (status != IE_IO || s->strict || s->model_json || s->model_bin) return model_fail(job, &error);
  if (ie_model_present(s->model_dir, &there, &unread) != IE_OK) return model_fail(job, &unread);
  if (there) return model_fail(job, &error);
  infer_warn(job->context, "no model: %s", error.message);
  infer_warn(job->context,
             "stub mode: ids are made up and nothing is measured (IE_REQUIRE_MODEL=1 makes this an error)");
  return infer_run_stub(job);
}

static int prompts_get(infer_job *job) {
  const infer_flags *f = job->setup.flags;
  ie_error error = {0};
  ie_status status = infer_prompts_get(job->context, &job->setup, &job->prompts, &error);
  if (status == IE_OK && f->expected_tokens)
    status = infer_expected_get(f->expected_tokens, &job->prompts, &error);
  if (status == IE_OUT_OF_MEMORY) return infer_fail(job, INFER_NO_RECORDS, &error);
  if (status != IE_OK) return infer_fail(job, CLI_FAILED, &error);
  if (job->prompts.count == 0) infer_warn(job->context, "no prompt: nothing is generated");
  return -1;
}

static void job_close(infer_job *job) {
  infer_touch_close(&job->touch);
  if (job->trace) fclose(job->trace);
  infer_prompts_free(&job->prompts);
  ie_state_free(job->state);
  cli_tokenizer_ahead_drop(&job->tokenizer_ahead);
  ie_tokenizer_free(job->tokenizer);
  cli_engine_close(&job->engine);
  infer_setup_free(&job->setup);
  free(job->tokenizer_file);
  free(job->token_s);
  free(job->ttft_s);
}

static int inference_engine_run(cli_context *context, void *opaque) {
  infer_job job = {.context = context};
  int code = infer_setup_make(context, opaque, &job.setup);
  if (code >= 0) {
    infer_setup_free(&job.setup);
    return code;
  }
  job.prompts.rounds = job.setup.flags->rounds < 1 ? 1 : job.setup.flags->rounds;
  code = dir_check(&job);
  if (code < 0) code = prompts_get(&job);
  if (code < 0) infer_tokenizer_start(&job);
  if (code < 0) code = model_open(&job);
  if (code < 0) code = infer_run(&job);
  /* Exit 2 is for the command line alone and has no line; everything else has. */
  if (code != CLI_USAGE && cli_out_json(context, infer_report(&job)) != CLI_OK) code = INFER_NO_RECORDS;
  job_close(&job);
  return code;
}

static const cli_dialect dialect = {
    .program = "inference-engine",
    .exit_codes =
        "0 ok, 1 a generation failed, 2 usage, 3 no model (IE_REQUIRE_MODEL=1) or folder, 5 the engine "
        "could not be\nmade, 6 or 7 out of memory, 130 interrupted. All but 2 write the JSON line",
    .refuse = flag_refuse,
};

const cli_command cmd_inference_engine = {
    .name = "inference-engine",
    .summary = "Measure and check a model: one line of JSON on standard output",
    .usage = "[flags] [PROMPT]",
    .help = "Everything else goes to standard error (info:, warn:, error:). IE_REQUIRE_MODEL=1 makes a "
            "missing model an\n"
            "error; without it, and without a model, the line has \"stub\": true and made-up ids. "
            "IE_BYTES_PER_TOKEN\n"
            "and IE_STRIDE_BYTES read that much of the file of weights for each new token, IE_VERIFY_TOUCH=1 "
            "checks\n"
            "it. docs/inference-engine.md has all variables and keys.",
    .options = options,
    .settings_bytes = sizeof(infer_flags),
    .args_max = 1,
    .dialect = &dialect,
    .run = inference_engine_run,
};
