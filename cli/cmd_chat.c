/* clocher chat: the flags, and the loop over what the user types. */
#include "chat_repl.h"
#include "out.h"
#include "signals.h"

#include <stdlib.h>
#include <string.h>

enum { INPUT_MAX_BYTES = 64 << 20 };

const cli_option chat_flag_table[] = {
    {"--model-dir", CLI_AS_PATH(chat_flags, model_dir), .argument = "D", .required = true,
     .meaning = "Folder with config.json and weights (in D, D/hf, D/hf/original or D/original)."},
    {"--chat-format", CLI_AS_STRING(chat_flags, chat_format), .argument = "NAME",
     .meaning = "How messages are written for the model; default: the model's own."},
    {"--system", CLI_AS_STRING(chat_flags, system), .argument = "T",
     .meaning = "System message: what the model is told before anything else."},
    {"--prompt", CLI_AS_STRING(chat_flags, prompt), .argument = "T", .meaning = "The first turn."},
    {"--once", CLI_AS_FLAG(chat_flags, once),
     .meaning = "All of standard input is one turn: no commands, no further turns."},
    {"--max-new", CLI_AS_INT(chat_flags, max_new), .argument = "N", .fallback = "0", .min = 0, .max = 1 << 30,
     .meaning = "New tokens of one answer at most, reasoning included; 0: what the context holds."},
    SAMPLING_OPTIONS(chat_flags, sampling),
    {"--reasoning-effort", CLI_AS_CHOICE(chat_flags, effort), .argument = "E", .fallback = "default",
     .choices = chat_efforts,
     .meaning = "How much the model is asked to reason: low, medium, high of harmony, none of qwen3; others "
                "are ignored."},
    {"--thinking", CLI_AS_CHOICE(chat_flags, thinking), .argument = "T", .fallback = "auto",
     .choices = chat_thinking, .meaning = "Reasoning: shown or hidden; auto: shown when somebody types."},
    {"--ctx", CLI_AS_INT(chat_flags, ctx), .argument = "N", .min = 1, .max = 1 << 30,
     .meaning = "Context to reserve; default: the model's own, at most 8192."},
    {"--chunk", CLI_AS_INT(chat_flags, chunk), .argument = "N", .fallback = "512", .min = 1, .max = 1 << 20,
     .meaning = "Prompt tokens per forward."},
    {"--kv", CLI_AS_CHOICE(chat_flags, kv), .argument = "T", .fallback = "auto", .choices = cli_kv_names,
     .meaning = "Type of cached keys and values. auto: f32 for --precision fp32, else f16."},
    {"--history", CLI_AS_PATH(chat_flags, history), .argument = "FILE",
     .meaning = "Where typed lines are kept; default: chat_history in $XDG_STATE_HOME/clocher or "
                "~/.local/state/clocher."},
    {"--no-history", CLI_AS_FLAG(chat_flags, no_history), .meaning = "Neither read nor write that file."},
    {0},
};

/* --- What was typed ------------------------------------------------------------------------------------------- */

#define QUOTES "\"\"\""

static bool ends_with(const ie_bytes *line, size_t from, const char *end) {
  size_t n = strlen(end);
  return line->size >= from + n && !memcmp(line->data + line->size - n, end, n);
}

/* One turn of one or more lines. *block: it stood between triple quotes, so it is no command. */
static line_result turn_read(chat_repl *repl, ie_bytes *out, bool *block, ie_error *error) {
  ie_bytes line = {0};
  bool open = false, more = false, first = true, ok = true;
  line_result result;
  out->size = 0;
  *block = false;
  while ((result = line_input_read(repl->input, first ? "> " : "... ", &line, &more, error)) == LINE_OK) {
    size_t from = 0;
    if (first && line.size >= 3 && !memcmp(line.data, QUOTES, 3)) {
      *block = open = true;
      from = 3;
    }
    first = false;
    bool closes = open && ends_with(&line, from, QUOTES);
    bool slash = !open && ends_with(&line, from, "\\") && !ends_with(&line, from, "\\\\");
    size_t size = line.size - from - (closes ? 3 : slash ? 1 : 0);
    ok = cli_bytes_append(out, line.data + from, size);
    if (!ok || closes || !(open || slash || more)) break;
    ok = (open && from && !size) || cli_bytes_append(out, "\n", 1); /* nothing behind the opening quotes */
    if (!ok) break;
  }
  ie_bytes_free(&line);
  while (ok && out->size > 0 && out->data[out->size - 1] == '\n') out->data[--out->size] = '\0';
  if (!ok) {
    ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a turn of %zu bytes", out->size);
    return LINE_FAILED;
  }
  return result == LINE_END && out->size > 0 ? LINE_OK : result;
}

static int text_turn(chat_repl *repl, const char *text, size_t size) {
  return chat_repl_turn(repl, &(ie_chat_message){.role = "user", .text = text, .text_size = size});
}

static int turn_take(chat_repl *repl, ie_bytes *turn, bool block) {
  if (turn->size == 0 || strspn(turn->data, " \t\n") == turn->size) return CLI_OK;
  if (block || turn->data[0] != '/') return text_turn(repl, turn->data, turn->size);
  if (turn->data[1] == '/') return text_turn(repl, turn->data + 1, turn->size - 1);
  if (memchr(turn->data, '\n', turn->size) && !chat_command_takes_lines(turn->data))
    return text_turn(repl, turn->data, turn->size);
  if (strlen(turn->data) < turn->size)
    return cli_failf(repl->context, "a command holds a NUL byte (at byte %zu of %zu)", strlen(turn->data),
                     turn->size);
  return chat_command_run(repl, turn->data);
}

/* A terminal goes on after what failed; a script ends there. */
static int turns_run(chat_repl *repl) {
  ie_bytes turn = {0};
  ie_error error = {0};
  bool block;
  int code = CLI_OK;
  while (!repl->leave && cli_out_ok(repl->context)) {
    line_result result = turn_read(repl, &turn, &block, &error);
    if (result == LINE_INTERRUPTED && repl->prompts) {
      fputs(line_input_edits(repl->input) ? "^C\n" : "\n", repl->prompts);
      chat_repl_say(repl, "(Ctrl-D or /exit leaves)");
      continue;
    }
    if (result == LINE_END && repl->prompts) fputc('\n', repl->prompts);
    if (result == LINE_INTERRUPTED) code = CLI_INTERRUPTED;
    if (result == LINE_FAILED) code = cli_fail(repl->context, error.status, &error);
    if (result != LINE_OK) break;
    code = turn_take(repl, &turn, block);
    if (repl->prompts) code = CLI_OK;
    if (code == CLI_OK && !repl->prompts && cli_interrupted()) code = CLI_INTERRUPTED;
    if (code != CLI_OK) break;
  }
  ie_bytes_free(&turn);
  return code;
}

static int once_run(chat_repl *repl) {
  ie_bytes raw = {0}, text = {0};
  ie_error error = {0};
  ie_status status = cli_read("-", INPUT_MAX_BYTES, &raw, &error);
  if (status == IE_OK && !cli_utf8_append(&text, raw.data, raw.size))
    status = ie_error_set(&error, IE_OUT_OF_MEMORY, "out of memory for a turn of %zu bytes", raw.size);
  while (text.size > 0 && text.data[text.size - 1] == '\n') text.size--;
  int code = status != IE_OK  ? cli_fail(repl->context, status, &error)
             : text.size == 0 ? cli_failf(repl->context, "standard input is empty: nothing to say")
                              : text_turn(repl, text.data, text.size);
  ie_bytes_free(&raw);
  ie_bytes_free(&text);
  return code;
}

/* --- The command ---------------------------------------------------------------------------------------------- */

static int flags_check(const cli_context *context, const chat_flags *flags) {
  if (flags->once && flags->prompt)
    return cli_usage(context, "--once takes the turn from standard input: --prompt cannot be given too");
  if (flags->prompt && !flags->prompt[0])
    return cli_usage(context, "--prompt: expected a text that is not empty");
  if (flags->history && flags->no_history)
    return cli_usage(context, "--history and --no-history contradict each other");
  sampling_unused_log(context, &flags->sampling);
  return flags->history ? cli_out_file_check(context, "--history", flags->history, /*replaced=*/false) : -1;
}

/* The terminal to ask on: stdout, else stderr; NULL when nobody types or nobody would see it. */
static FILE *prompts_choose(const cli_context *context, const chat_flags *flags) {
  if (flags->once || !context->env.in_terminal) return NULL;
  return context->env.out_terminal ? stdout : context->env.terminal ? stderr : NULL;
}

static ie_status input_open(chat_repl *repl, char **history, ie_error *error) {
  const cli_context *context = repl->context;
  const chat_flags *flags = &repl->flags;
  line_options o = {.context = context, .prompts = repl->prompts, .wake = -1};
  *history = NULL;
  if (repl->prompts) {
    o.wake = cli_signals_collect();
    cli_signals_terminal(fileno(repl->prompts));
    o.words = chat_command_names();
    o.history = flags->history;
    if (!flags->history && !flags->no_history && context->env.state_dir &&
        asprintf(history, "%s/chat_history", context->env.state_dir) >= 0)
      o.history = *history;
  } else {
    cli_signals_poll();
  }
  ie_status status = line_input_open(&o, &repl->input, error);
  if (status != IE_OK || !repl->prompts) return status;
  if (!line_input_edits(repl->input))
    cli_log(context, "Lines cannot be edited: this program was built without libedit.");
  cli_log(context, "/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves.");
  return IE_OK;
}

static int chat_run(cli_context *context, void *opaque) {
  const chat_flags *flags = opaque;
  int code = flags_check(context, flags);
  if (code >= 0) return code;
  chat_repl repl = {.context = context, .flags = *flags, .prompts = prompts_choose(context, flags)};
  char *history = NULL;
  ie_error error = {0};
  ie_status status = chat_session_open(context, flags, &repl.session, &error);
  if (status == IE_OK) status = input_open(&repl, &history, &error);
  if (status != IE_OK) {
    code = cli_fail(context, status, &error);
  } else if (flags->once) {
    code = once_run(&repl);
  } else {
    code = flags->prompt ? text_turn(&repl, flags->prompt, strlen(flags->prompt)) : CLI_OK;
    if (code == CLI_OK || repl.prompts) code = turns_run(&repl);
  }
  line_input_close(repl.input);
  chat_session_close(&repl.session);
  free(history);
  return code;
}

const cli_command cmd_chat = {
    .name = "chat",
    .summary = "Talk with a model in the terminal",
    .usage = "--model-dir D [--system T] [--prompt T] [flags]",
    .help =
        "Each line is a turn; /help lists the commands. A line that ends in \\ goes on in the next one, and\n"
        "\"\"\" begins and ends a text of several lines. Ctrl-C stops an answer, Ctrl-D leaves. Without a\n"
        "terminal on standard input each line is a turn of a script: answers go to standard output, nothing\n"
        "else does.",
    .options = chat_flag_table,
    .settings_bytes = sizeof(chat_flags),
    .common = CLI_USES_MODEL | CLI_USES_CACHE,
    .run = chat_run,
};
